//! Why the program ends, and with which exit code.

use std::fmt;

/// The class of an end, by its exit code.
///
/// Source: the exit codes of sysexits.h, which scripts and service managers know.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Cause {
    /// A fault of our own.
    Internal,
    /// Arguments that make no sense.
    Usage,
    /// The store holds what cannot be true.
    DamagedStore,
    /// A dependency was not reachable in time.
    Unreachable,
    /// The store is held by somebody else, not writable, or of a newer schema.
    UnusableStore,
    /// A setting, a policy or a key is wrong.
    Configuration,
}

impl Cause {
    /// The exit code.
    pub const fn code(self) -> u8 {
        match self {
            Cause::Internal => 1,
            Cause::Usage => 64,
            Cause::DamagedStore => 65,
            Cause::Unreachable => 69,
            Cause::UnusableStore => 73,
            Cause::Configuration => 78,
        }
    }
}

/// An end that was not asked for.
#[derive(Debug)]
pub struct Exit {
    pub cause: Cause,
    /// In words, for whoever started the program; one line a fault. Never a secret.
    pub reason: String,
}

impl Exit {
    /// An end of this class for this reason.
    pub fn new(cause: Cause, reason: impl Into<String>) -> Self {
        Self { cause, reason: reason.into() }
    }
}

impl fmt::Display for Exit {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.reason)
    }
}

impl std::error::Error for Exit {}
