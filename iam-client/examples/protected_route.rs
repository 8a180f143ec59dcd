//! An HTTP route that only readers of workspace `default` get through to.
//!
//! ```text
//! cargo run -p iam-client --features tower --example protected_route
//! curl -H "Authorization: Bearer $IAM_CREDENTIAL" http://127.0.0.1:8080/
//! ```

use std::sync::Arc;
use std::time::Duration;

use axum::routing::get;
use axum::{Extension, Router};
use iam_client::Connection;
use iam_client::gateway::layer::Protect;
use iam_client::gateway::{Gateway, Question, Setting};
use iam_client::sessions::Identity;

async fn hello(Extension(caller): Extension<Arc<Identity>>) -> String {
    format!("hello {}\n", caller.user_id)
}

#[tokio::main]
async fn main() -> Result<(), Box<dyn std::error::Error>> {
    let gateway = Gateway::connect(&Connection::default(), Setting::default()).await?;
    gateway.ready(Duration::from_secs(10)).await?;
    let readers = Question::within("graph:read", &"default".parse()?);
    let app = Router::new().route("/", get(hello)).layer(Protect::new(gateway, readers));
    let listener = tokio::net::TcpListener::bind("127.0.0.1:8080").await?;
    Ok(axum::serve(listener, app).await?)
}
