//! The keys by which tokens are verified here, fetched from the service.

use std::collections::VecDeque;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use arc_swap::ArcSwapOption;
use iam_schema::changes::{ChangeKind, MAX_FLOORS};
use iam_schema::tokens::VerifyKeys;

use super::rests::Rest;

/// How old a set may be before it is fetched again, in milliseconds, though no event has said that it changed.
pub(super) const MAX_AGE_MS: i64 = 300_000;
/// The least time between two fetches for keys that the set does not have, in milliseconds. Source: protocol
/// section 5.
const PAUSE_MS: i64 = 1_000;

/// A set, and when it was asked for.
#[derive(Debug)]
pub(super) struct Fetched {
    pub keys: VerifyKeys,
    asked_ms: i64,
    change: u64,
}

/// The set that is known.
#[derive(Debug, Default)]
pub(super) struct Keys {
    known: ArcSwapOption<Fetched>,
    /// Raised when the set has changed.
    changes: AtomicU64,
    /// Which keys it was, the last ones.
    lately: Mutex<VecDeque<String>>,
    /// One fetch at a time.
    pub turn: tokio::sync::Mutex<()>,
}

/// The right to fetch: what is fetched is no newer than this.
#[derive(Debug, Clone, Copy)]
pub(super) struct Fetch {
    asked_ms: i64,
    change: u64,
}

impl Keys {
    /// The set, unless it has changed or is too old.
    pub fn current(&self, now_ms: i64) -> Option<Arc<Fetched>> {
        self.known.load_full().filter(|known| {
            known.change == self.changes.load(Ordering::Acquire) && now_ms - known.asked_ms < MAX_AGE_MS
        })
    }

    /// Whether a set may be fetched anew for the sake of a key that the last one did not have.
    pub fn may_fetch(&self, than: &Fetched, now_ms: i64) -> bool {
        now_ms - than.asked_ms >= PAUSE_MS
    }

    pub fn begin(&self, now_ms: i64) -> Fetch {
        Fetch { asked_ms: now_ms, change: self.changes.load(Ordering::Acquire) }
    }

    pub fn put(&self, fetch: Fetch, keys: VerifyKeys) -> Arc<Fetched> {
        let fetched = Arc::new(Fetched { keys, asked_ms: fetch.asked_ms, change: fetch.change });
        self.known.store(Some(fetched.clone()));
        fetched
    }

    /// A key was made or is gone.
    pub fn changed(&self, kid: &str) {
        let mut lately = self.lately.lock().unwrap_or_else(PoisonError::into_inner);
        lately.retain(|known| known != kid);
        lately.push_back(kid.to_owned());
        if lately.len() > MAX_FLOORS {
            lately.pop_front();
        }
        drop(lately);
        self.forget();
    }

    /// The keys that a new set must know of, or must not have.
    pub fn changed_lately(&self) -> Vec<Rest> {
        let lately = self.lately.lock().unwrap_or_else(PoisonError::into_inner);
        lately.iter().map(|kid| Rest::Record(ChangeKind::SigningKey, kid.clone())).collect()
    }

    /// The set may have changed.
    pub fn forget(&self) {
        self.changes.fetch_add(1, Ordering::AcqRel);
    }
}
