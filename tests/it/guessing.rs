//! Guessing: what a refusal gives away by its bytes, its work and its time, and how many guesses get through.
//!
//! `IAM_TEST_GUESSES` is the number of guesses of a campaign, `IAM_TEST_LOGINS` that of timed logins of each kind
//! over NATS.

mod refusals;
mod throttle;

/// A number from the environment, for longer runs on demand.
fn number(name: &str, otherwise: usize) -> usize {
    std::env::var(name).ok().and_then(|text| text.parse().ok()).unwrap_or(otherwise)
}
