//! What an operation is given: the seams of the service, and its settings. Nothing hides in globals.

use std::sync::Arc;

use iam_schema::{Secret, Timestamp};

use crate::clock::Clock;
use crate::crypto::passwords::HashPool;
use crate::crypto::seal::Kek;
use crate::domain::policy::Policy;
use crate::domain::throttle::Throttle;
use crate::domain::users::Username;
use crate::entropy::Entropy;
use crate::store::Store;

/// The seams.
#[derive(Debug)]
pub struct Ctx {
    pub store: Arc<dyn Store>,
    pub clock: Arc<dyn Clock>,
    pub entropy: Entropy,
    pub hasher: HashPool,
    pub policy: Arc<Policy>,
    pub kek: Kek,
    pub throttle: Throttle,
    pub settings: Settings,
}

impl Ctx {
    /// The time of day.
    pub fn now(&self) -> Timestamp {
        self.clock.now()
    }
}

/// How this deployment is set up.
#[derive(Debug, Clone)]
pub struct Settings {
    pub bootstrap: BootstrapMode,
    pub issuer: String,
    pub audience: String,
    pub token_lifetime_s: i64,
    pub grace_period_s: i64,
    /// For how long an allow, and a deny, may be cached by whoever asked.
    pub allow_ttl_s: u32,
    pub deny_ttl_s: u32,
    pub anonymous_user: Option<Username>,
    /// Whether each allow is audited by itself, and not in summaries.
    pub audit_allow_all: bool,
}

/// How the first admin comes to be. Source: protocol section 7.
#[derive(Debug, Clone)]
pub enum BootstrapMode {
    /// Seeded at start; the first key's text is this.
    Token(Secret),
    /// Seeded by whoever first calls `bootstrap`.
    Bootstrap,
}
