//! What happens to the data directory below a running replica.

use std::fs;
use std::os::unix::fs::MetadataExt;
use std::time::Duration;

use iam_client::Client;
use iam_schema::ErrorKind;
use iam_schema::subject::Plane;
use iam_schema::users::UserInput;
use iam_tests::Deployment;
use iam_tests::deployment::nats_url;
use iam_tests::facts::Facts;
use rustix::process::{Pid, Resource, Rlimit, prlimit};

const HEALTH: [&str; 2] = ["--http-addr", "127.0.0.1:0"];

/// Limits the size of the files that the replica may write, or no more: as full a disk as can be had anywhere.
fn limit(deployment: &Deployment, bytes: Option<u64>) {
    let pid = i32::try_from(deployment.id()).ok().and_then(Pid::from_raw);
    let limit = Rlimit { current: bytes, maximum: None };
    prlimit(pid, Resource::Fsize, limit).expect("our own child may be limited");
}

/// Creates users until one is refused; how many were taken, and with which error it ended.
async fn fill(client: &Client) -> (usize, ErrorKind) {
    let home = "acme".parse().expect("an id");
    for i in 0..20_000 {
        let input = UserInput {
            username: Some(format!("filler-{}-{i}", rand::random::<u32>())),
            name: Some("x".repeat(1000)),
            ..UserInput::default()
        };
        if let Err(error) = client.create_user(&home, input).await {
            return (i, error.kind().unwrap_or_else(|| panic!("{error}")));
        }
    }
    panic!("the disk is never full");
}

/// Tries a change until it is taken: without a restart.
async fn changes_resume(facts: &mut Facts, deployment: &Deployment) {
    let deadline = tokio::time::Instant::now() + Duration::from_secs(30);
    while let Err(error) = facts.change().await {
        assert_eq!(error.kind(), Some(ErrorKind::Unavailable), "{error}");
        assert!(tokio::time::Instant::now() < deadline, "{}", deployment.log());
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn full_disk_refuses_changes_and_decides_on_until_there_is_room() {
    let Some(url) = nats_url() else { return };
    let mut deployment = Deployment::start(&url, &HEALTH).await;
    let client = deployment.client().clone().on(Plane::Service);
    let mut facts = Facts::begin(deployment.client()).await;
    let len = fs::metadata(deployment.data_dir().join("iam.redb")).expect("a file").len();
    // It cannot grow, then it cannot be written to at all.
    for (bytes, what) in [(len, "growth"), (8192, "writes")] {
        limit(&deployment, Some(bytes));
        let (taken, refusal) = fill(&client).await;
        println!("no room for {what}: {taken} taken, then {refusal:?}");
        assert_eq!(refusal, ErrorKind::Unavailable);
        for _ in 0..3 {
            facts.check().await;
            let refused = facts.end_oldest().await.expect_err("no room");
            assert_eq!(refused.kind(), Some(ErrorKind::Unavailable), "{refused}");
            facts.put_back();
            tokio::time::sleep(Duration::from_millis(150)).await;
        }
        assert_eq!(deployment.problem().await, None, "what is there is decided by");
        limit(&deployment, None);
        changes_resume(&mut facts, &deployment).await;
        facts.check().await;
    }
    assert!(deployment.log().contains("the store's file failed; opening it anew"), "{}", deployment.log());
    deployment.restart(&HEALTH).await;
    facts.check().await;
    facts.change().await.expect("a change");
    assert!(!deployment.log().contains("iam.panic"), "{}", deployment.log());
}

/// Moves the data directory away, perhaps with another in its place: what is written then would be lost with
/// the process, so nothing is.
async fn directory_goes(replaced: bool) {
    let Some(url) = nats_url() else { return };
    let deployment = Deployment::start(&url, &HEALTH).await;
    let mut facts = Facts::begin(deployment.client()).await;
    let (data, away) = (deployment.data_dir(), deployment.data_dir().with_extension("away"));
    fs::rename(&data, &away).expect("moved");
    if replaced {
        fs::create_dir(&data).expect("made");
        fs::copy(away.join("iam.redb"), data.join("iam.redb")).expect("copied");
        let inode = |dir: &std::path::Path| fs::metadata(dir.join("iam.redb")).expect("a file").ino();
        assert_ne!(inode(&data), inode(&away));
    }
    for _ in 0..3 {
        let refused = facts.end_oldest().await.expect_err("nowhere to keep it");
        assert_eq!(refused.kind(), Some(ErrorKind::Unavailable), "{refused}");
        facts.put_back();
        facts.check().await;
    }
    let problem = deployment.problem().await.expect("it is not ready");
    let says = if replaced { "was replaced while it was open" } else { "was removed while it was open" };
    assert!(problem.contains(says) && problem.contains("iam.redb"), "{problem}");
    if replaced {
        fs::remove_dir_all(&data).expect("removed");
    }
    fs::rename(&away, &data).expect("moved back");
    changes_resume(&mut facts, &deployment).await;
    facts.check().await;
    assert_eq!(deployment.problem().await, None);
}

#[tokio::test(flavor = "multi_thread")]
async fn vanished_directory_refuses_changes_until_it_is_back() {
    directory_goes(false).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn replaced_directory_refuses_changes_until_the_old_one_is_back() {
    directory_goes(true).await;
}
