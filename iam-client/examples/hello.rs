//! Is the service there, and who am I? Set `IAM_CREDENTIAL` to an API key or a JWT.

use iam_client::schema::Secret;
use iam_client::{Client, Connection};

#[tokio::main]
async fn main() -> Result<(), Box<dyn std::error::Error>> {
    let url = std::env::var("IAM_NATS_URL").unwrap_or_else(|_| "nats://127.0.0.1:4222".to_owned());
    let client = Client::connect(&Connection::to([url])).await?;
    println!("still to be bootstrapped: {}", client.bootstrap_status().await?);
    if let Ok(credential) = std::env::var("IAM_CREDENTIAL") {
        let me = client.with_credential(Secret::new(credential)).whoami().await?;
        println!("{} of workspace {}, roles {}", me.username, me.workspace, me.roles.join(", "));
    }
    Ok(())
}
