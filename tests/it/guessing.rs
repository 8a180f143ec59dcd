//! Guessing: what a refusal gives away by its bytes, its work and its time, and how many guesses get through.
//!
//! `IAM_TEST_GUESSES` is the number of guesses of a campaign, `IAM_TEST_LOGINS` that of timed logins of each kind
//! over NATS.

mod names;
mod refusals;
mod throttle;
