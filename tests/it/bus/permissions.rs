//! A server that takes back what the service may do, and gives it again.

use std::os::unix::fs::PermissionsExt;
use std::time::Duration;

use iam_tests::Deployment;
use iam_tests::facts::Facts;
use iam_tests::nats_server::NatsServer;

use super::{HEALS, HEALTH, logged, until_ready};

/// What the service may not do; whoever shows no password may do everything.
fn config(denied: &str) -> String {
    format!(
        "no_auth_user: anybody
         authorization {{ users: [
           {{ user: svc, password: svc, permissions: {{ publish: {{ allow: \">\" }}, subscribe: {{ allow: \">\" }}, {denied} }} }}
           {{ user: anybody, password: anybody }}
         ] }}"
    )
}

/// The service under this denial for a while, and what it says meanwhile.
async fn denied_for_a_while(denied: &str, says: &str, log: &str) {
    let Some(mut server) = NatsServer::start(&config("")).await else { return };
    let password = server.dir().join("password");
    std::fs::write(&password, "svc\n").expect("written");
    std::fs::set_permissions(&password, PermissionsExt::from_mode(0o600)).expect("private");
    let login = ["--nats-user", "svc", "--nats-password-file", &password.to_string_lossy()];
    let deployment = Deployment::start(&server.url(), &[&HEALTH[..], &login].concat()).await;
    let mut facts = Facts::begin(deployment.client()).await;
    // The server tells the client, and has forgotten the subscription.
    server.configure(&config(denied));
    server.reload();
    let problem = until_ready(&deployment, false, Duration::from_secs(15)).await.unwrap_or_default();
    assert!(problem.contains(says), "{problem}");
    assert!(logged(&deployment, log, ""), "{}", deployment.log());
    tokio::time::sleep(Duration::from_secs(2)).await;
    assert!(deployment.problem().await.is_some());
    server.configure(&config(""));
    server.reload();
    until_ready(&deployment, true, HEALS).await;
    facts.set_client(&deployment.connect(&server.url()).await);
    facts.check().await;
    facts.change().await.expect("a change");
    facts.check().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn service_that_may_not_use_a_subject_is_not_ready_until_it_may() {
    let subscription = "ermissions Violation for Subscription";
    // Side by side, since all of it is waiting.
    tokio::join!(
        denied_for_a_while(
            "subscribe: { allow: \">\", deny: \"*.v1.event.changed\" }",
            "NATS refuses",
            subscription
        ),
        denied_for_a_while("subscribe: { allow: \">\", deny: \"*.v1.svc.>\" }", "NATS refuses", subscription),
        denied_for_a_while(
            "publish: { allow: \">\", deny: \"*.v1.event.changed\" }",
            "heartbeat",
            "ermissions Violation for Publish"
        ),
    );
}
