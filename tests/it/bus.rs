//! Trouble on the bus: what the service says of it, and that it heals by itself with nothing stale.

use std::time::Duration;

use iam_client::Client;
use iam_schema::subject::Plane;
use iam_tests::Deployment;

mod heals;
mod permissions;

mod audit_stream;
mod headers;
mod replicas;
mod shipped;

/// How long healing may take: reconnecting pauses for 2 s at most, and the machine is busy.
const HEALS: Duration = Duration::from_secs(30);

/// For `Deployment::start`, so that `/readyz` can be asked.
const HEALTH: [&str; 2] = ["--http-addr", "127.0.0.1:0"];

/// Waits until the replica is ready, or until it is not; what `/readyz` said then.
async fn until_ready(deployment: &Deployment, ready: bool, within: Duration) -> Option<String> {
    let deadline = tokio::time::Instant::now() + within;
    loop {
        let problem = deployment.problem().await;
        if problem.is_none() == ready {
            return problem;
        }
        let waited = tokio::time::Instant::now() < deadline;
        assert!(waited, "ready: {ready} was expected, /readyz: {problem:?}\n{}", deployment.log());
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
}

/// Waits until somebody answers: a replica may be cut off and not know it yet, or be ready while the server has yet to
/// take in its subscriptions.
async fn until_answered(client: &Client) {
    let deadline = tokio::time::Instant::now() + HEALS;
    let client = client.clone().on(Plane::Service).with_deadline(Duration::from_secs(2));
    while let Err(error) = client.bootstrap_status().await {
        assert!(tokio::time::Instant::now() < deadline, "nobody answers: {error}");
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
}

/// Whether the log has a line with both.
fn logged(deployment: &Deployment, text: &str, detail: &str) -> bool {
    deployment.log().lines().any(|line| line.contains(text) && line.contains(detail))
}
