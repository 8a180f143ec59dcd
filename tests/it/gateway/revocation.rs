//! Revocations among replicas and gateways, by random schedules.

use std::time::Instant;

use iam_tests::campaign::rounds;
use iam_tests::gateway_model::{Outcome, play};

/// How many schedules, and from which seed on.
const SCHEDULES: &str = "IAM_TEST_GATEWAY_SCHEDULES";
const SEED: &str = "IAM_TEST_GATEWAY_SEED";
const STEPS: usize = 150;

#[test]
fn no_gateway_allows_what_it_must_know_to_have_ended() {
    let (schedules, first) = (rounds(SCHEDULES, 250), rounds(SEED, 1));
    let begun = Instant::now();
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime");
    let mut sum = Outcome::default();
    for seed in first..first + schedules {
        let outcome = runtime.block_on(play(seed as u64, STEPS));
        if let Some(violation) = outcome.violation {
            panic!(
                "\nfound after {} sequences and {} requests, {:.1} s: seed {seed}: {violation}",
                seed - first,
                sum.asked + outcome.asked,
                begun.elapsed().as_secs_f64()
            );
        }
        sum.changes += outcome.changes;
        sum.asked += outcome.asked;
        sum.allowed += outcome.allowed;
        sum.by_token += outcome.by_token;
        sum.late += outcome.late;
        sum.latest_ms = sum.latest_ms.max(outcome.latest_ms);
    }
    println!(
        "{schedules} schedules in {:.1?}: {} changes, {} questions, {} allows, {} by tokens; {} late, by up to {} ms",
        begun.elapsed(),
        sum.changes,
        sum.asked,
        sum.allowed,
        sum.by_token,
        sum.late,
        sum.latest_ms
    );
    assert!(sum.late > 0 && sum.allowed > sum.late && sum.by_token > 0, "nothing was tried");
}
