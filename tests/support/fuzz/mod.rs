//! Targets for hostile bytes. Each takes any bytes and panics when the code under it does, or when what it says of
//! them breaks a rule; the rules are spelled out here once more, apart from the code that keeps them.
//!
//! The same functions run in two ways: in the test binary with a mutator of our own, a bounded number of times;
//! and under a coverage-guided fuzzer for as long as one likes (`tests/fuzz`).

mod answers;
mod changes;
mod files;
mod headers;
mod mutator;
mod reply;
mod request;
mod rows;
mod seeds;
mod service;
mod texts;
mod tokens;
mod tree;

pub use answers::{Asked, wrong_answer};
pub use changes::changes;
pub use files::{configuration, policy};
pub use headers::{headers, reply_subject};
pub use mutator::Mutator;
pub use reply::reply;
pub use request::{checks, request, request_value};
pub use rows::rows;
pub use seeds::{hostile_payloads, request_payloads};
pub use service::{service, shared_world};
pub use texts::{ids, key_sets, timestamp, username};
pub use tokens::{claims, token};

/// A target and what it begins with.
#[derive(Debug, Clone, Copy)]
pub struct Target {
    pub name: &'static str,
    pub run: fn(&[u8]),
    /// Inputs that get somewhere.
    pub seeds: fn() -> Vec<Vec<u8>>,
}

/// Every target.
pub const TARGETS: &[Target] = &[
    Target { name: "request", run: request, seeds: seeds::request_payloads },
    Target { name: "request_value", run: request_value, seeds: seeds::noise },
    Target { name: "checks", run: checks, seeds: seeds::checks },
    Target { name: "reply", run: reply, seeds: seeds::replies },
    Target { name: "changes", run: changes, seeds: seeds::changes },
    Target { name: "token", run: token, seeds: seeds::tokens },
    Target { name: "claims", run: claims, seeds: seeds::claims },
    Target { name: "key_sets", run: key_sets, seeds: seeds::key_sets },
    Target { name: "headers", run: headers, seeds: seeds::headers },
    Target { name: "reply_subject", run: reply_subject, seeds: seeds::reply_subjects },
    Target { name: "policy", run: policy, seeds: seeds::policies },
    Target { name: "configuration", run: configuration, seeds: seeds::configurations },
    Target { name: "rows", run: rows, seeds: seeds::rows },
    Target { name: "username", run: username, seeds: seeds::usernames },
    Target { name: "ids", run: ids, seeds: seeds::ids },
    Target { name: "timestamp", run: timestamp, seeds: seeds::timestamps },
    Target { name: "service", run: service, seeds: seeds::service },
];

/// A text that stands for a secret in the wrong place. No error may repeat it.
pub const CANARY: &str = "tg_CANARYcanaryCANARYcanaryCANARY01";

/// Panics when an error's text holds what stood in the input.
fn assert_silent(error: &str) {
    assert!(!error.contains("CANARY"), "an error repeats what was sent: {error}");
}
