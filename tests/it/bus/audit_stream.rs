//! The audit stream gone for a while: what must be kept waits, and arrives once.

use std::collections::BTreeMap;
use std::time::Duration;

use async_nats::jetstream;
use iam_schema::audit::{AuditEvent, AuditOutcome, AuditType, STREAM};
use iam_tests::Deployment;
use iam_tests::facts::Facts;
use iam_tests::nats_server::{JETSTREAM, NatsServer};

use super::{HEALS, HEALTH, logged, until_ready};

const AUTO: [&str; 4] = [HEALTH[0], HEALTH[1], "--audit-stream", "auto"];

/// The changes that the stream holds, by operation.
async fn kept(server: &NatsServer) -> BTreeMap<String, usize> {
    let nats = async_nats::connect(server.url()).await.expect("NATS");
    let mut kept = BTreeMap::new();
    let Ok(stream) = jetstream::new(nats).get_stream(STREAM).await else { return kept };
    for number in 1..=stream.cached_info().state.last_sequence {
        let message = stream.get_raw_message(number).await.expect("a message");
        let event: AuditEvent = serde_json::from_slice(&message.payload).expect("an event");
        if event.event_type == AuditType::Management && event.payload.outcome == Some(AuditOutcome::Success) {
            *kept.entry(event.payload.operation).or_default() += 1;
        }
    }
    kept
}

/// Waits until the stream holds all that was acknowledged, and asserts that it holds no more.
async fn all_arrive(server: &NatsServer, deployment: &Deployment, expected: &[(&str, usize)]) {
    let expected: BTreeMap<String, usize> = expected.iter().map(|(op, n)| ((*op).to_owned(), *n)).collect();
    let deadline = tokio::time::Instant::now() + HEALS;
    loop {
        let found = kept(server).await;
        if found == expected {
            return;
        }
        let late = tokio::time::Instant::now() >= deadline;
        assert!(!late, "{found:?} and not {expected:?}\n{}", deployment.log());
        tokio::time::sleep(Duration::from_millis(250)).await;
    }
}

async fn waiting(deployment: &Deployment) -> u64 {
    let (_, metrics) = deployment.get("/metrics").await;
    let line = metrics.lines().find(|line| line.contains("audit_spool") && !line.starts_with('#'));
    line.and_then(|line| line.split(' ').next_back()?.parse().ok()).expect("the gauge")
}

/// A deployment that has made the stream, with its first changes in it.
async fn begun(server: &NatsServer) -> (Deployment, Facts) {
    let deployment = Deployment::start(&server.url(), &AUTO).await;
    let facts = Facts::begin(deployment.client()).await;
    all_arrive(
        server,
        &deployment,
        &[
            ("bootstrap", 1),
            ("create-workspace", 1),
            ("create-user", 3),
            ("create-api-key", 3),
            ("disable-user", 1),
        ],
    )
    .await;
    (deployment, facts)
}

#[tokio::test(flavor = "multi_thread")]
async fn audit_events_wait_while_jetstream_is_gone_and_all_arrive_once() {
    let Some(mut server) = NatsServer::with_jetstream().await else { return };
    let (deployment, mut facts) = begun(&server).await;

    server.kill();
    server.configure("");
    server.start_again().await;
    until_ready(&deployment, true, HEALS).await;
    facts.set_client(&deployment.connect(&server.url()).await);
    for _ in 0..5 {
        facts.change().await.expect("changes go on without the stream");
    }
    facts.check().await;
    assert!(waiting(&deployment).await >= 10);
    assert!(logged(&deployment, "the audit stream does not acknowledge: events wait", ""));

    server.kill();
    server.configure(JETSTREAM);
    server.start_again().await;
    until_ready(&deployment, true, HEALS).await;
    all_arrive(
        &server,
        &deployment,
        &[
            ("bootstrap", 1),
            ("create-workspace", 1),
            ("create-user", 8),
            ("create-api-key", 8),
            ("disable-user", 6),
        ],
    )
    .await;
    assert_eq!(waiting(&deployment).await, 0);
    assert!(logged(&deployment, "the audit stream acknowledges again", ""), "{}", deployment.log());
}

#[tokio::test(flavor = "multi_thread")]
async fn audit_stream_that_is_deleted_is_made_again_and_nothing_after_that_is_lost() {
    let Some(server) = NatsServer::with_jetstream().await else { return };
    let (deployment, mut facts) = begun(&server).await;
    let nats = async_nats::connect(server.url()).await.expect("NATS");
    jetstream::new(nats).delete_stream(STREAM).await.expect("deleted");
    for _ in 0..3 {
        facts.change().await.expect("a change");
    }
    all_arrive(&server, &deployment, &[("create-user", 3), ("create-api-key", 3), ("disable-user", 3)]).await;
}
