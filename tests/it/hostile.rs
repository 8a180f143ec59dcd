//! Hostile input: bytes that nobody who means well would send.

mod soak;
mod targets;

/// Whether campaigns run in full, which takes minutes, and not the share of them that fits every run.
pub fn full() -> bool {
    std::env::var_os("IAM_TEST_FULL").is_some_and(|value| !value.is_empty())
}
