//! How long the long tests run, a few rounds with all the others, many on demand; and what they measure.

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

/// Memory that a process holds, in KiB.
///
/// # Panics
/// When there is no such process.
pub fn resident_kib(process: u32) -> u64 {
    let status = std::fs::read_to_string(format!("/proc/{process}/status")).expect("its status");
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:")).expect("a size");
    line.split_whitespace().next().and_then(|n| n.parse().ok()).expect("a number")
}
