//! How long the long tests run: a few rounds with all the others, many on demand.

/// The number of rounds: what the environment variable says, else `few`.
///
/// # Panics
/// When the variable holds no number.
pub fn rounds(variable: &str, few: usize) -> usize {
    match std::env::var(variable) {
        Ok(rounds) => rounds.parse().unwrap_or_else(|_| panic!("{variable}: `{rounds}` is no number")),
        Err(_) => few,
    }
}
