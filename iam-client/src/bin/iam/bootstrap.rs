//! `iam bootstrap`, `iam bootstrap-status`.

use iam_client::schema::ErrorKind;
use serde_json::json;

use crate::app::App;
use crate::failure::{Exit, Failure};

pub async fn bootstrap(app: &App) -> Result<(), Failure> {
    let admin = match app.open().await?.bootstrap().await {
        Err(error) if error.kind() == Some(ErrorKind::AuthFailed) => {
            let why = "auth failure: the deployment is bootstrapped already, or its mode does not offer this";
            return Err(Failure::new(Exit::NotLoggedIn, why));
        }
        other => other?,
    };
    app.out.note(format!("user `admin`, id {}; its API key, shown this once:", admin.user_id));
    let record = json!({
        "bootstrap_admin_user_id": admin.user_id,
        "bootstrap_admin_api_key": admin.api_key,
    });
    app.out.shown_once(admin.api_key.expose(), &record)
}

pub async fn status(app: &App) -> Result<(), Failure> {
    let available = app.open().await?.bootstrap_status().await?;
    let word = if available { "available" } else { "unavailable" };
    app.out.value(word, &json!({ "bootstrap_available": available })).map(drop)
}
