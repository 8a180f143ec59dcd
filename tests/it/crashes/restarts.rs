//! Start, change, end, and again: nothing is lost, nothing is left over, nothing grows without end.

use std::collections::BTreeSet;
use std::fs;

use iam_tests::Deployment;
use iam_tests::campaign::rounds;
use iam_tests::deployment::nats_url;
use iam_tests::facts::Facts;

const RESTARTS: &str = "IAM_TEST_RESTARTS";

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
        let files: BTreeSet<String> = fs::read_dir(deployment.data_dir())
            .expect("a directory")
            .map(|entry| entry.expect("an entry").file_name().to_string_lossy().into_owned())
            .collect();
        assert_eq!(files, ["iam.lock", "iam.redb", "kek"].map(str::to_owned).into());
        sizes.push(fs::metadata(deployment.data_dir().join("iam.redb")).expect("a file").len());
    }
    facts.check().await;
    let (first, last) = (sizes[0], sizes[sizes.len() - 1]);
    println!("{restarts} restarts, {} users ended, the file of {first} bytes has {last}", facts.ended());
    // A user with a key takes less than 2 KiB; the file grows by doubling.
    assert!(last <= (first + 2048 * restarts as u64) * 2, "{first} grew to {last}");
    assert!(!deployment.log().contains("iam.panic"), "{}", deployment.log());
}
