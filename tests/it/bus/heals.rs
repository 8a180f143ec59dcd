//! The server killed, paused, slow, and at the end of its patience.

use std::time::Duration;

use iam_tests::Deployment;
use iam_tests::facts::Facts;
use iam_tests::nats_server::NatsServer;
use iam_tests::proxy::{Line, Proxy};
use rand::rngs::SmallRng;
use rand::{RngExt, SeedableRng};
use rustix::process::Signal;

use super::{HEALS, HEALTH, logged, until_answered, until_ready};

#[tokio::test(flavor = "multi_thread")]
async fn server_that_is_killed_and_comes_back_finds_the_service_again() {
    let Some(mut server) = NatsServer::start("").await else { return };
    let deployment = Deployment::start(&server.url(), &HEALTH).await;
    let mut facts = Facts::begin(deployment.client()).await;
    for down in [Duration::ZERO, Duration::from_secs(4)] {
        server.kill();
        let problem = until_ready(&deployment, false, Duration::from_secs(5)).await;
        assert!(problem.is_some_and(|problem| problem.contains("not connected to NATS")));
        assert_eq!(deployment.get("/livez").await.0, 200);
        tokio::time::sleep(down).await;
        server.start_again().await;
        until_ready(&deployment, true, HEALS).await;
        // A new connection: the old one of this test may still be on its way back.
        let client = deployment.connect(&server.url()).await;
        until_answered(&client).await;
        facts.set_client(&client);
        facts.check().await;
        facts.change().await.expect("a change");
        facts.check().await;
    }
    assert!(logged(&deployment, "connection to NATS lost", "\"service\""), "{}", deployment.log());
    assert!(logged(&deployment, "connected to NATS again", "\"service\""), "{}", deployment.log());
    let (_, metrics) = deployment.get("/metrics").await;
    let reconnects = metrics.lines().find(|line| line.contains("reconnects") && line.contains("\"service\""));
    assert!(reconnects.is_some_and(|line| line.ends_with(" 2")), "{metrics}");
}

#[tokio::test(flavor = "multi_thread")]
async fn server_and_line_that_stand_still_for_longer_than_heartbeats_and_pings_heal() {
    // Side by side, since most of it is waiting.
    tokio::join!(paused_server(), stalled_line());
}

async fn paused_server() {
    let Some(server) = NatsServer::start("").await else { return };
    let deployment = Deployment::start(&server.url(), &HEALTH).await;
    let mut facts = Facts::begin(deployment.client()).await;
    server.pause();
    let problem = until_ready(&deployment, false, Duration::from_secs(10)).await;
    assert!(problem.is_some_and(|problem| problem.contains("heartbeat")));
    // Longer than the connection lives.
    tokio::time::sleep(Duration::from_secs(12)).await;
    let problem = deployment.problem().await;
    assert!(problem.is_some_and(|problem| problem.contains("not connected to NATS")));
    assert!(logged(&deployment, "an instance fell silent", ""), "{}", deployment.log());
    server.go_on();
    until_ready(&deployment, true, HEALS).await;
    facts.set_client(&deployment.connect(&server.url()).await);
    facts.check().await;
    facts.change().await.expect("a change");
    facts.check().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn slow_line_makes_answers_late_and_not_wrong() {
    let Some(server) = NatsServer::start("").await else { return };
    let line = Proxy::to(server.address()).await;
    line.set(Line { delay: Duration::from_millis(150), ..Line::default() });
    let deployment = Deployment::start_over(&line.url(), &server.url(), &HEALTH).await;
    let mut facts = Facts::begin(deployment.client()).await;
    line.set(Line { delay: Duration::from_millis(50), bytes_per_second: Some(8_000), ..Line::default() });
    facts.change().await.expect("a change");
    facts.check().await;
    tokio::time::sleep(Duration::from_secs(3)).await;
    assert_eq!(deployment.problem().await, None);
    assert!(!logged(&deployment, "fell silent", ""), "slow is not silent: {}", deployment.log());
    line.set(Line::default());
    facts.change().await.expect("a change");
    facts.check().await;
}

async fn stalled_line() {
    let Some(server) = NatsServer::start("").await else { return };
    let line = Proxy::to(server.address()).await;
    let deployment = Deployment::start_over(&line.url(), &server.url(), &HEALTH).await;
    let mut facts = Facts::begin(deployment.client()).await;
    line.set(Line { stalled: true, ..Line::default() });
    let problem = until_ready(&deployment, false, Duration::from_secs(10)).await;
    assert!(problem.is_some_and(|problem| problem.contains("heartbeat")));
    tokio::time::sleep(Duration::from_secs(2)).await;
    assert!(logged(&deployment, "an instance fell silent", ""), "{}", deployment.log());
    line.set(Line::default());
    until_ready(&deployment, true, HEALS).await;
    until_answered(deployment.client()).await;
    facts.check().await;
    facts.change().await.expect("a change");
    facts.check().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn line_that_is_cut_again_and_again_loses_no_acknowledged_change() {
    let Some(server) = NatsServer::start("").await else { return };
    let line = Proxy::to(server.address()).await;
    let deployment = Deployment::start_over(&line.url(), &server.url(), &HEALTH).await;
    let mut facts = Facts::begin(deployment.client()).await;
    // A reply that was on the line when it was cut never comes.
    facts.set_client(&deployment.client().clone().with_deadline(Duration::from_secs(2)));
    let mut random = SmallRng::seed_from_u64(3);
    let (mut changed, mut unanswered) = (0, 0);
    for _ in 0..12 {
        let cut = async {
            tokio::time::sleep(Duration::from_millis(random.random_range(0..150))).await;
            line.cut();
        };
        let change = async {
            for _ in 0..3 {
                match facts.change().await {
                    Ok(()) => changed += 1,
                    Err(_) => unanswered += 1,
                }
            }
        };
        tokio::join!(cut, change);
    }
    println!("{changed} changes, {unanswered} of unknown outcome, {} connections", line.connections());
    until_ready(&deployment, true, HEALS).await;
    until_answered(deployment.client()).await;
    facts.set_client(deployment.client());
    facts.check().await;
    facts.change().await.expect("a change");
    facts.check().await;
    assert!(changed > 5 && line.connections() > 12);
}

/// The server gives up a client that does not read: all that waited for it is lost, events too.
#[tokio::test(flavor = "multi_thread")]
async fn service_that_is_cut_off_as_a_slow_consumer_comes_back() {
    let config = "write_deadline: \"500ms\"\nmax_pending: 2000000";
    let Some(server) = NatsServer::start(config).await else { return };
    let deployment = Deployment::start(&server.url(), &HEALTH).await;
    let mut facts = Facts::begin(deployment.client()).await;
    let flooder = async_nats::connect(server.url()).await.expect("NATS");
    deployment.signal(Signal::STOP);
    let subjects =
        [format!("{}.v1.svc.whoami", deployment.prefix()), format!("{}.v1.api.whoami", deployment.prefix())];
    // More than the buffers of the kernel and the server hold. Garbage, so that nothing else comes of it.
    for _ in 0..200 {
        for subject in &subjects {
            let sent =
                flooder.publish_with_reply(subject.clone(), "_INBOX.nobody", vec![0xc1; 200_000].into());
            sent.await.expect("sent");
        }
    }
    flooder.flush().await.expect("sent");
    tokio::time::sleep(Duration::from_secs(2)).await;
    deployment.signal(Signal::CONT);
    until_ready(&deployment, true, HEALS).await;
    let lost = || logged(&deployment, "connection to NATS lost", "\"service\"");
    let deadline = tokio::time::Instant::now() + HEALS;
    while !lost() {
        assert!(tokio::time::Instant::now() < deadline, "the server was patient:\n{}", deployment.log());
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
    until_ready(&deployment, true, HEALS).await;
    until_answered(deployment.client()).await;
    facts.check().await;
    facts.change().await.expect("a change");
    facts.check().await;
}
