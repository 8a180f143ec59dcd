//! A service on the bus whose requests carry a credential: it answers those who may, and nobody else.
//!
//! ```text
//! cargo run -p iam-client --example protected_echo
//! nats req echo hello -H "Authorization: Bearer $IAM_CREDENTIAL"
//! ```

use std::time::Duration;

use async_nats::{HeaderMap, Message};
use futures_util::StreamExt;
use iam_client::Connection;
use iam_client::gateway::{Gateway, GatewayError, Question, Setting};
use iam_client::schema::Secret;

/// What the caller is told where the answer is not the echo: by the headers of a service error, ADR-32.
fn refusal(code: u16, why: &str) -> HeaderMap {
    let mut headers = HeaderMap::new();
    headers.insert("Nats-Service-Error", why);
    headers.insert("Nats-Service-Error-Code", code.to_string());
    headers
}

async fn admit(gateway: &Gateway, question: &Question, request: &Message) -> Result<(), HeaderMap> {
    let header = request.headers.as_ref().and_then(|headers| headers.get("Authorization"));
    let credential = header.and_then(|header| header.as_str().strip_prefix("Bearer ")).map(Secret::new);
    let credential = credential.ok_or_else(|| refusal(401, "auth failure"))?;
    let undecided = |error: GatewayError| match error {
        GatewayError::Refused => refusal(401, "auth failure"),
        GatewayError::Invalid(_) | GatewayError::Unavailable(_) => refusal(503, "unavailable"),
    };
    let caller = gateway.authenticate(&credential).await.map_err(undecided)?;
    match gateway.authorise(&caller, question).await.map_err(undecided)?.allow {
        true => Ok(()),
        false => Err(refusal(403, "access denied")),
    }
}

#[tokio::main]
async fn main() -> Result<(), Box<dyn std::error::Error>> {
    let connection = Connection::default();
    let gateway = Gateway::connect(&connection, Setting::default()).await?;
    gateway.ready(Duration::from_secs(10)).await?;
    let question = Question::within("graph:read", &"default".parse()?);
    let nats = async_nats::connect(connection.urls).await?;
    let mut requests = nats.queue_subscribe("echo", "echo".to_owned()).await?;
    println!("listening on `echo`");
    while let Some(request) = requests.next().await {
        let Some(reply) = request.reply.clone() else { continue };
        match admit(&gateway, &question, &request).await {
            Ok(()) => nats.publish(reply, request.payload).await?,
            Err(headers) => nats.publish_with_headers(reply, headers, "".into()).await?,
        }
    }
    Ok(())
}
