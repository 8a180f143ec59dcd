//! Start, change, end, and again: nothing is lost, nothing is left over, nothing grows without end.

use std::collections::BTreeSet;
use std::fs;
use std::path::Path;
use std::process::Stdio;
use std::time::Duration;

use iam_tests::Deployment;
use iam_tests::campaign::rounds;
use iam_tests::deployment::nats_url;
use iam_tests::facts::Facts;
use tempfile::TempDir;

use super::refusals::{iam_svc, run};

const RESTARTS: &str = "IAM_TEST_RESTARTS";

fn assert_nothing_left_over(dir: &Path) {
    let entries = fs::read_dir(dir).expect("a directory");
    let names = entries.map(|entry| entry.expect("an entry").file_name().to_string_lossy().into_owned());
    assert_eq!(names.collect::<BTreeSet<_>>(), ["iam.lock", "iam.redb", "kek"].map(str::to_owned).into());
}

#[tokio::test(flavor = "multi_thread")]
async fn restarts_lose_nothing_and_leave_nothing_over() {
    let Some(url) = nats_url() else { return };
    let restarts = rounds(RESTARTS, 8);
    let mut deployment = Deployment::start(&url, &[]).await;
    let mut facts = Facts::begin(deployment.client()).await;
    let mut sizes = Vec::new();
    for restart in 0..restarts {
        if restart % 2 == 0 {
            assert_eq!(deployment.terminate().await, Some(0), "{}", deployment.log());
        } else {
            deployment.kill();
        }
        deployment.start_again(&[]).await;
        // All of them now and then, since it takes longer each time.
        if restart % 50 == 0 || restart + 1 == restarts {
            facts.check().await;
        }
        facts.change().await.expect("a change");
        assert_nothing_left_over(&deployment.data_dir());
        sizes.push(fs::metadata(deployment.data_dir().join("iam.redb")).expect("a file").len());
    }
    facts.check().await;
    let (first, last) = (sizes[0], sizes[sizes.len() - 1]);
    println!("{restarts} restarts, {} users ended, the file of {first} bytes has {last}", facts.ended());
    // A user with a key takes less than 2 KiB; the file grows by doubling.
    assert!(last <= (first + 2048 * restarts as u64) * 2, "{first} grew to {last}");
    assert!(!deployment.log().contains("iam.panic"), "{}", deployment.log());
}

/// The first start makes a directory, a store and a key; killed anywhere in that, the next one goes on from there.
#[tokio::test(flavor = "multi_thread")]
async fn first_start_that_is_killed_anywhere_is_finished_by_the_next() {
    let Some(url) = nats_url() else { return };
    let dir = TempDir::new().expect("a directory");
    let start = |data: &Path| {
        let mut command = iam_svc(&[], &url, data);
        command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::piped());
        command.spawn().expect("it starts")
    };
    for round in 0..6 {
        let data = dir.path().join(format!("data{round}"));
        for kill in 0..4 {
            let mut child = start(&data);
            tokio::time::sleep(Duration::from_millis(3 + round * 7 + kill * 2)).await;
            child.kill().expect("it can be killed");
            child.wait().expect("a child");
        }
        let mut child = start(&data);
        let deadline = tokio::time::Instant::now() + Duration::from_secs(20);
        while !data.join("kek").exists() {
            let late =
                tokio::time::Instant::now() >= deadline || child.try_wait().expect("a child").is_some();
            assert!(!late, "round {round}: it does not start");
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
        child.kill().expect("it can be killed");
        child.wait().expect("a child");
        assert_nothing_left_over(&data);
        let checked = run(iam_svc(&["check"], &url, &data));
        let faults = String::from_utf8_lossy(&checked.stderr);
        assert_eq!(checked.status.code(), Some(0), "round {round}: {faults}");
    }
}
