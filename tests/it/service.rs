//! The program on the bus: what a shell, an operator and a follower of events see of it.

use std::process::{Command, Output};
use std::time::Duration;

use futures_util::{FutureExt, StreamExt};
use iam_schema::changes::{ChangeEvent, ChangeKind};
use iam_schema::codec::decode;
use iam_schema::subject::Plane;
use iam_schema::{IamRequest, OperationName, Secret, UserId};
use iam_tests::Deployment;
use iam_tests::deployment::{nats_url, program};
use iam_tests::nats_server::taken_in;
use rustix::process::Signal;
use serde_json::Value;
use tempfile::TempDir;

const WAIT: Duration = Duration::from_secs(60);

async fn next(subscription: &mut async_nats::Subscriber) -> async_nats::Message {
    tokio::time::timeout(WAIT, subscription.next()).await.expect("a message in time").expect("a message")
}

fn service(arguments: &[&str], environment: &[(&str, &str)]) -> Output {
    let mut command = Command::new(program("iam-svc"));
    command.args(arguments).env_clear().envs(environment.iter().copied()).output().expect("iam-svc runs")
}

#[tokio::test(flavor = "multi_thread")]
async fn change_event_comes_before_the_reply_and_heartbeats_repeat_it() {
    let Some(url) = nats_url() else { return };
    let mut deployment = Deployment::start(&url, &[]).await;
    let nats = async_nats::connect(&url).await.expect("NATS");
    let prefix = deployment.prefix().to_owned();
    // Both on one connection, so that what came first is there first.
    let mut events = nats.subscribe(format!("{prefix}.v1.event.changed")).await.expect("a subscription");
    let inbox = nats.new_inbox();
    let mut replies = nats.subscribe(inbox.clone()).await.expect("a subscription");
    nats.publish_with_reply(format!("{prefix}.v1.api.bootstrap"), inbox, "".into()).await.expect("sent");
    nats.flush().await.expect("sent");

    next(&mut replies).await;
    // The reply is here, so the event must be here too, without waiting for anything.
    let mut changed = None;
    while let Some(Some(message)) = events.next().now_or_never() {
        let event: ChangeEvent = decode(&message.payload).expect("an event");
        if !event.changes.is_empty() {
            changed = Some(event);
        }
    }
    let changed = changed.expect("the event came before the reply");
    let kinds: Vec<ChangeKind> = changed.changes.iter().map(|change| change.kind).collect();
    for kind in [ChangeKind::Workspace, ChangeKind::User, ChangeKind::ApiKey, ChangeKind::SigningKey] {
        assert!(kinds.contains(&kind), "{kind:?} in {kinds:?}");
    }
    let heartbeat: ChangeEvent = decode(&next(&mut events).await.payload).expect("a heartbeat");
    assert!(heartbeat.changes.is_empty() && heartbeat.seq == changed.seq, "{heartbeat:?}");
    assert_eq!(heartbeat.recent.len(), changed.changes.len());
    assert_eq!(heartbeat.instance, changed.instance);

    deployment.signal(Signal::TERM);
    loop {
        let event: ChangeEvent = decode(&next(&mut events).await.payload).expect("an event");
        if event.bye {
            break;
        }
    }
    assert_eq!(deployment.child().wait().expect("it ends").code(), Some(0));
}

#[tokio::test(flavor = "multi_thread")]
async fn drain_answers_every_request_that_was_taken() {
    let Some(url) = nats_url() else { return };
    let mut deployment = Deployment::start(&url, &[]).await;
    let client = deployment.client().clone().on(Plane::Service).with_deadline(WAIT);
    let asking = tokio::spawn(async move {
        let (mut answered, mut lost) = (0, 0);
        loop {
            match client.call(OperationName::BootstrapStatus, IamRequest::default()).await {
                Ok(_) => answered += 1,
                Err(iam_client::ClientError::NoResponder { .. }) => return (answered, lost),
                Err(_) => lost += 1,
            }
        }
    });
    tokio::time::sleep(Duration::from_millis(300)).await;
    deployment.signal(Signal::TERM);
    let (answered, lost) = tokio::time::timeout(WAIT, asking).await.expect("it ends").expect("no panic");
    assert!(answered > 10 && lost == 0, "{answered} answered, {lost} lost");
    assert_eq!(deployment.child().wait().expect("it ends").code(), Some(0));
}

#[tokio::test(flavor = "multi_thread")]
async fn service_is_discovered_with_an_endpoint_for_each_operation() {
    let Some(url) = nats_url() else { return };
    let deployment = Deployment::start(&url, &[]).await;
    let nats = async_nats::connect(&url).await.expect("NATS");
    let inbox = nats.new_inbox();
    let mut replies = nats.subscribe(inbox.clone()).await.expect("a subscription");
    // Other tests' services answer too, and ours answers requests a moment before it can be discovered.
    let subject = format!("{}.v1.*.create-user", deployment.prefix());
    for _ in 0..60 {
        let ask = nats.publish_with_reply("$SRV.INFO.iam-svc", inbox.clone(), "".into());
        ask.await.expect("sent");
        tokio::time::sleep(Duration::from_millis(500)).await;
        while let Some(Some(message)) = replies.next().now_or_never() {
            // Nobody listens there yet.
            if message.status.is_some() {
                continue;
            }
            let info: Value = serde_json::from_slice(&message.payload).expect("JSON");
            assert_eq!(info["type"], "io.nats.micro.v1.info_response");
            let endpoints = info["endpoints"].as_array().expect("endpoints");
            if endpoints.iter().any(|endpoint| endpoint["subject"] == subject.as_str()) {
                assert_eq!(endpoints.len(), OperationName::ALL.len());
                return;
            }
        }
    }
    panic!("not discovered");
}

#[tokio::test(flavor = "multi_thread")]
async fn refused_management_reaches_the_audit_subject_without_a_secret() {
    let Some(url) = nats_url() else { return };
    let deployment = Deployment::start(&url, &[]).await;
    let nats = async_nats::connect(&url).await.expect("NATS");
    let subject = format!("{}.v1.audit.>", deployment.prefix());
    let mut events = nats.subscribe(subject).await.expect("a subscription");
    taken_in(&nats).await;
    let mistaken = "tg_m3rq-BWbvXLG_YKerqucuPbujtpkMjha";
    let request = IamRequest { key_id: mistaken.into(), ..Default::default() };
    let client =
        deployment.client().clone().with_credential(Secret::new("tg_not-a-key-of-anybody-000000000000"));
    client.call(OperationName::RevokeApiKey, request).await.expect_err("refused");
    let event = next(&mut events).await;
    let text = String::from_utf8(event.payload.to_vec()).expect("text");
    assert!(event.subject.ends_with(".audit.management"), "{}", event.subject);
    let event: Value = serde_json::from_str(&text).expect("JSON");
    assert_eq!(
        (&event["payload"]["operation"], &event["payload"]["outcome"]),
        (&"revoke-api-key".into(), &"failure".into())
    );
    assert!(!text.contains("tg_"), "{text}");
}

#[tokio::test(flavor = "multi_thread")]
async fn token_mode_seeds_at_start_and_recovery_gets_back_in() {
    let Some(url) = nats_url() else { return };
    let files = TempDir::new().expect("a directory");
    let token = files.path().join("token");
    std::fs::write(&token, "a-bootstrap-token-of-30-letters\n").expect("written");
    let only_ours = std::os::unix::fs::PermissionsExt::from_mode(0o600);
    std::fs::set_permissions(&token, only_ours).expect("private");
    let token = token.to_string_lossy().into_owned();
    let arguments = ["--bootstrap-mode", "token", "--bootstrap-token-file", &token];
    let mut deployment = Deployment::start(&url, &arguments).await;
    deployment
        .client()
        .call(OperationName::Bootstrap, IamRequest::default())
        .await
        .expect_err("bootstrap is refused in this mode");
    let key = Secret::new("a-bootstrap-token-of-30-letters");
    let admin = deployment.client().clone().with_credential(key);
    let admin = admin.call(OperationName::Whoami, IamRequest::default()).await.expect("the token is a key");
    let admin: UserId = admin.user.expect("a user").id.parse().expect("an id");

    let data = deployment.data_dir().to_string_lossy().into_owned();
    let common = ["--nats-url", &url, "--subject-prefix", deployment.prefix(), "--data-dir", &data];
    let common: Vec<String> = common.into_iter().chain(arguments).map(str::to_owned).collect();
    let recover = || {
        let mut line = vec!["recover-admin"];
        line.extend(common.iter().map(String::as_str));
        service(&line, &[])
    };
    let held = recover();
    assert_eq!(held.status.code(), Some(73), "the service holds the store");
    deployment.kill();
    let recovered = recover();
    assert_eq!(recovered.status.code(), Some(0), "{}", String::from_utf8_lossy(&recovered.stderr));
    let password = String::from_utf8(recovered.stdout).expect("text");
    assert_eq!(password.lines().count(), 1, "the password alone");

    deployment.restart(&arguments).await;
    let request = IamRequest {
        username: "admin".into(),
        password: Secret::new(password.trim_end()),
        ..Default::default()
    };
    let login = deployment.client().call(OperationName::Login, request).await.expect("logged in");
    assert!(login.must_change_password);
    let me = deployment.client().clone().with_credential(login.jwt);
    let me = me.call(OperationName::Whoami, IamRequest::default()).await.expect("good for whoami");
    assert_eq!(me.user.expect("a user").id, admin.to_string());
    let old = deployment.client().clone().with_credential(Secret::new("a-bootstrap-token-of-30-letters"));
    old.call(OperationName::Whoami, IamRequest::default()).await.expect_err("recovery ends all keys");
}

#[test]
fn exit_codes_differ_by_cause() {
    let dir = TempDir::new().expect("a directory");
    let path = |name: &str| dir.path().join(name).to_string_lossy().into_owned();
    let file = path("file");
    std::fs::write(&file, "x").expect("written");
    let data = path("data");
    let mode = ["--bootstrap-mode", "bootstrap", "--http-addr", "off", "--data-dir"];
    let rows: &[(&[&str], i32, &str)] = &[
        (&["--frobnicate"], 64, "--frobnicate"),
        (&["--data-dir", &data], 78, "--bootstrap-mode"),
        (&[&mode[..], &[&data, "--grace-period-s", "60"]].concat(), 78, "--grace-period-s"),
        (&[&mode[..], &[&data, "--store", "cassandra"]].concat(), 78, "--store"),
        (&[&mode[..], &[&file]].concat(), 73, "file"),
    ];
    for (arguments, code, part) in rows {
        let output = service(arguments, &[]);
        let stderr = String::from_utf8_lossy(&output.stderr);
        assert_eq!(output.status.code(), Some(*code), "{arguments:?}: {stderr}");
        assert!(stderr.contains(part), "{arguments:?}: {stderr}");
        assert!(output.stdout.is_empty());
    }
    let nowhere = ["check", "--nats-url", "nats://127.0.0.1:1"];
    let checked = service(&[&nowhere[..], &mode[..], &[&data]].concat(), &[]);
    assert_eq!(checked.status.code(), Some(69), "{}", String::from_utf8_lossy(&checked.stderr));
}
