//! `iam key …`.

use clap::{Args, Subcommand};
use iam_client::api_keys::NewApiKey;
use iam_client::schema::{KeyId, Timestamp};
use serde_json::json;

use crate::app::App;
use crate::failure::Failure;
use crate::{time, who};

#[derive(Debug, Subcommand)]
pub enum Command {
    /// Create an API key, and print it, this once
    Create(Create),
    /// List a user's API keys
    List {
        /// User, by id or username [default: yourself]
        user: Option<String>,
    },
    /// End an API key, at once
    Revoke {
        /// The key's id, as `iam key list` shows it
        key: KeyId,
    },
}

#[derive(Debug, Args)]
pub struct Create {
    /// User, by id or username
    user: String,
    /// What the key is for; unique per user
    #[arg(long)]
    name: String,
    /// When the key ends: RFC 3339, or from now like 12h or 90d [default: never]
    #[arg(long, value_name = "TIME", value_parser = time::parse_expiry)]
    expires: Option<Timestamp>,
}

pub async fn run(app: &App, command: Command) -> Result<(), Failure> {
    match command {
        Command::Create(args) => create(app, args).await,
        Command::List { user } => list(app, user.as_deref()).await,
        Command::Revoke { key } => {
            app.signed_in().await?.revoke_api_key(key, None).await?;
            app.out.note(format!("key {key} is revoked"));
            Ok(())
        }
    }
}

async fn create(app: &App, args: Create) -> Result<(), Failure> {
    let client = app.signed_in().await?;
    let user = who::user_id(&client, &args.user).await?;
    let key = NewApiKey { user: Some(user), name: &args.name, expires: args.expires };
    let created = client.create_api_key(key, None).await?;
    app.out.note(format!("API key of {}, id {}, shown this once:", args.user, created.record.id));
    let record = json!({ "api_key_plaintext": created.plaintext, "api_key": created.record });
    app.out.shown_once(created.plaintext.expose(), &record)
}

async fn list(app: &App, user: Option<&str>) -> Result<(), Failure> {
    let (client, user) = match user {
        Some(user) => {
            let client = app.signed_in().await?;
            let user = who::user_id(&client, user).await?;
            (client, Some(user))
        }
        None => (app.oneself().await?, None),
    };
    let keys = client.all_api_keys(user, None).await?;
    app.out.list(&keys, ["id", "name", "prefix", "expires", "created", "last used"], |key| {
        [
            key.id.clone(),
            key.name.clone(),
            key.prefix.clone(),
            time::show(key.expires),
            time::show(key.created),
            time::show(key.last_used),
        ]
    })
}
