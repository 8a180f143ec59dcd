//! The closed set of error kinds.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

macro_rules! kinds {
    ($($(#[$doc:meta])* $variant:ident = $text:literal, $code:literal;)*) => {
        /// What went wrong, so far as a caller can act on it.
        ///
        /// Source: protocol section 4.
        #[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
        pub enum ErrorKind {
            $($(#[$doc])* $variant,)*
        }

        impl ErrorKind {
            /// Every kind, in the order of the protocol page.
            pub const ALL: &[ErrorKind] = &[$(ErrorKind::$variant,)*];

            /// The kind as it stands on the wire.
            pub const fn as_str(self) -> &'static str {
                match self { $(ErrorKind::$variant => $text,)* }
            }

            /// The number in the header `Nats-Service-Error-Code`; also the fitting HTTP status.
            pub const fn code(self) -> u16 {
                match self { $(ErrorKind::$variant => $code,)* }
            }
        }
    };
}

kinds! {
    /// Malformed, missing, wrong type, unknown operation, too large; the message names the field.
    InvalidArgument = "invalid-argument", 400;
    /// The named user, key or workspace does not exist.
    NotFound = "not-found", 404;
    /// Username, workspace id or key name is taken.
    Duplicate = "duplicate", 409;
    /// A concurrent change won; the caller may try again.
    Conflict = "conflict", 409;
    /// Any failed authentication; the message never says which.
    AuthFailed = "auth-failed", 401;
    /// Denied on the API plane, a failed integrity check, or a guard rail.
    OperationNotPermitted = "operation-not-permitted", 403;
    /// Against the password policy; the message says which rule.
    WeakPassword = "weak-password", 400;
    /// The user or workspace that the operation needs enabled is not.
    Disabled = "disabled", 403;
    /// Too many failed logins for this user or address.
    Throttled = "throttled", 429;
    /// A known operation that this deployment does not offer.
    NotSupported = "not-supported", 501;
    /// The store or a dependency does not answer; nothing was decided.
    Unavailable = "unavailable", 503;
    /// A bug; the message carries a request id and no detail.
    InternalError = "internal-error", 500;
}

impl fmt::Display for ErrorKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

impl FromStr for ErrorKind {
    type Err = ();

    fn from_str(text: &str) -> Result<Self, ()> {
        Self::ALL.iter().copied().find(|kind| kind.as_str() == text).ok_or(())
    }
}

/// An error as it stands in a reply.
///
/// The kind is text, so that a client of today can read the reply of a service of tomorrow.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct WireError {
    #[serde(rename = "type", skip_serializing_if = "String::is_empty")]
    pub kind: String,
    #[serde(skip_serializing_if = "String::is_empty")]
    pub message: String,
}

impl WireError {
    /// An error of a known kind.
    pub fn new(kind: ErrorKind, message: impl Into<String>) -> Self {
        Self { kind: kind.as_str().to_owned(), message: message.into() }
    }

    /// The kind, if this version of the contract knows it.
    pub fn known_kind(&self) -> Option<ErrorKind> {
        self.kind.parse().ok()
    }
}

impl fmt::Display for WireError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}", self.kind, self.message)
    }
}
