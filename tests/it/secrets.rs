//! Secrets are planted, scenes are played with everything that can go wrong, and then every place where a secret
//! might have got to is searched for each of them in every form.
//!
//! What a caller writes into a field for plain text is told in audit events; that is what they are for. So a password
//! that somebody types as a request id is not looked for there: it has no form by which it could be told from one.
//! Keys and tokens have, and a password in the place of the username, the commonest slip, names nobody.

mod command;
mod environment;
mod outputs;
mod panics;
mod scenes;

use std::time::Duration;

use async_nats::jetstream;
use futures_util::StreamExt;
use iam_tests::canary::{Canaries, Searched};
use iam_tests::deployment::Deployment;
use iam_tests::nats_server::{JETSTREAM, NatsServer, free_port, taken_in};
use rand::RngExt;
use tempfile::TempDir;

pub use self::outputs::get;
use self::scenes::Play;

/// A text that nobody guesses and that is nowhere else.
fn secret() -> String {
    const LETTERS: &[u8] = b"abcdefghijkmnpqrstuvwxyzABCDEFGHJKLMNPQRSTUVWXYZ23456789";
    let mut rng = rand::rng();
    (0..28).map(|_| char::from(LETTERS[rng.random_range(0..LETTERS.len())])).collect()
}

fn write_private(path: &std::path::Path, text: &str) -> String {
    std::fs::write(path, text).expect("written");
    let only_ours = std::os::unix::fs::PermissionsExt::from_mode(0o600);
    std::fs::set_permissions(path, only_ours).expect("private");
    path.to_str().expect("a path").to_owned()
}

/// Fails with what was found; else tells what was searched.
fn assert_clean(searched: &Searched) {
    let Searched { places, bytes, secrets, forms, found } = searched;
    assert!(
        found.is_empty(),
        "{} found, such as:\n{}",
        found.len(),
        found[..found.len().min(8)].join("\n\n")
    );
    println!("{places} places of {bytes} bytes searched for {secrets} secrets in {forms} forms: 0 found");
}

/// Each form of each secret is found where it is planted, so that finding nothing means something.
fn assert_search_works(canaries: &Canaries, log: &str) {
    for (form, bytes) in canaries.forms() {
        let planted = [log.as_bytes(), b"{\"message\":\"x ", &bytes, b" y\"}\n"].concat();
        let found = canaries.search([("a log with a planted leak", planted.as_slice())]).found;
        assert!(!found.is_empty(), "{form} is not found");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn planted_secrets_are_found_nowhere() {
    let nats_password = secret();
    let users = format!("authorization {{ user: tester, password: \"{nats_password}\" }}");
    let Some(server) = NatsServer::start(&format!("{JETSTREAM}\n{users}")).await else { return };
    let mut canaries = Canaries::default();
    canaries.plant("NATS password", &nats_password);
    let token = secret();
    canaries.plant("bootstrap token", &token);
    let kek: [u8; 32] = rand::rng().random();
    let kek_text = base64::Engine::encode(&base64::engine::general_purpose::STANDARD, kek);
    canaries.plant("key-encryption key", kek);
    canaries.plant("key-encryption key as text", &kek_text);

    let (files, temporary) = (TempDir::new().expect("a directory"), TempDir::new().expect("a directory"));
    let file = |name: &str, text: &str| write_private(&files.path().join(name), text);
    let (token_file, kek_file) = (file("token", &token), file("kek", &kek_text));
    let password_file = file("password", &nats_password);
    let http = format!("127.0.0.1:{}", free_port());
    let url = server.url();
    let arguments = [
        "--bootstrap-mode",
        "token",
        "--bootstrap-token-file",
        &token_file,
        "--kek-file",
        &kek_file,
        "--nats-url",
        &url,
        "--nats-user",
        "tester",
        "--nats-password-file",
        &password_file,
        "--audit-stream",
        "require",
        "--audit-allow",
        "all",
        "--http-addr",
        &http,
        // All of ours and of the libraries, the one that is held back as a rule among them.
        "--log",
        "trace,async_nats=trace",
    ];
    let environment = [("TMPDIR", temporary.path().to_str().expect("a path"))];
    let ours = format!("nats://tester:{nats_password}@{}", server.address());
    let mut deployment = Deployment::start_in(&ours, &arguments, &environment).await;

    let nats = async_nats::ConnectOptions::new()
        .user_and_password("tester".into(), nats_password.clone())
        .connect(url.as_str())
        .await
        .expect("NATS");
    let prefix = deployment.prefix().to_owned();
    let mut events = nats.subscribe(format!("{prefix}.v1.event.>")).await.expect("a subscription");
    let mut audit = nats.subscribe(format!("{prefix}.v1.audit.>")).await.expect("a subscription");
    taken_in(&nats).await;

    let mut play = Play::new(nats.clone(), &prefix, canaries);
    let begun = std::time::Instant::now();
    play.all(&token).await;
    println!("{} requests in {:.1} s", play.requests, begun.elapsed().as_secs_f32());
    let Play { mut canaries, mut places, requests, .. } = play;
    assert!(requests > 500, "{requests} requests");

    // While it runs: what others can read of the process.
    outputs::process(&mut places, deployment.id());
    for path in ["/metrics", "/readyz", "/livez"] {
        places.add(format!("http: {path}"), outputs::get(&http, path).await);
    }
    // The summaries and the last events leave at the end.
    let pid = deployment.id().to_string();
    assert!(std::process::Command::new("kill").args(["-TERM", &pid]).status().expect("kill").success());
    let ended = deployment.child().wait().expect("it ends");
    assert_eq!(ended.code(), Some(0));
    tokio::time::timeout(Duration::from_secs(10), nats.flush()).await.expect("in time").expect("NATS");
    // All of it was there before the round trip; only the task that hands it over may be late.
    let quiet = Duration::from_secs(1);
    while let Ok(Some(message)) = tokio::time::timeout(quiet, events.next()).await {
        places.add("change event", outputs::message(&message));
    }
    while let Ok(Some(message)) = tokio::time::timeout(quiet, audit.next()).await {
        places.add("audit event", outputs::message(&message));
    }
    let stream = jetstream::new(nats).get_stream("IAM_AUDIT").await.expect("the stream");
    let last = stream
        .cached_info()
        .state
        .last_sequence
        .max(stream.get_info().await.expect("its state").state.last_sequence);
    for sequence in 1..=last {
        let kept = stream.get_raw_message(sequence).await.expect("an event");
        places.add("audit stream", kept.payload.to_vec());
    }
    assert!(places.add_files("NATS store", &server.dir().join("jetstream")) > 0);
    assert!(places.add_files("data directory", &deployment.data_dir()) > 0);
    assert_eq!(places.add_files("TMPDIR", temporary.path()), 0, "a file is left in TMPDIR");
    let log = deployment.log();
    places.add("log", log.as_bytes());

    for (kind, least) in [("change event", 10), ("audit event", 100), ("audit stream", 20), ("reply", 500)] {
        assert!(places.count(kind) >= least, "{} of {kind}", places.count(kind));
    }
    for level in ["DEBUG", "INFO"] {
        assert!(log.contains(&format!("\"level\":\"{level}\"")), "nothing was logged at {level}");
    }
    assert_search_works(&canaries, &log[..log.len().min(10_000)]);
    canaries.plant("what is nowhere", secret());
    assert_clean(&canaries.search(places.iter()));
}

/// What people read at a terminal is another form of the log.
#[tokio::test(flavor = "multi_thread")]
async fn planted_secrets_are_not_in_the_log_on_a_terminal() {
    let Some(server) = NatsServer::start("").await else { return };
    let mut canaries = Canaries::default();
    let token = secret();
    canaries.plant("bootstrap token", &token);
    let url = server.url();
    let arguments = ["--bootstrap-mode", "token", "--log", "trace,async_nats=trace"];
    let environment = [("IAM_BOOTSTRAP_TOKEN", token.as_str())];
    let mut deployment = Deployment::start_on_terminal(&url, &arguments, &environment).await;
    let nats = async_nats::connect(&url).await.expect("NATS");
    let mut play = Play::new(nats, deployment.prefix(), canaries);
    play.few(&token).await;
    assert_eq!(deployment.terminate().await, Some(0));
    let log = deployment.whole_log();
    assert!(log.contains("\u{1b}[") && !log.contains("\"level\""), "these are no lines for a terminal");
    for told in ["DEBUG", "ready", "stopped"] {
        assert!(log.contains(told), "{told} is not in the log");
    }
    let Play { canaries, mut places, .. } = play;
    places.add("log on a terminal", log.as_bytes());
    assert_search_works(&canaries, &log[..log.floor_char_boundary(10_000)]);
    assert_clean(&canaries.search(places.iter()));
}
