//! Randomness, injected: keys, salts and ids all come from here.

use std::sync::{Mutex, PoisonError};

use iam_schema::{KeyId, Timestamp, UserId};
use rand::rngs::{StdRng, SysRng};
use rand::{Rng, SeedableRng, TryRng};
use uuid::Uuid;

/// A cryptographic generator.
#[derive(Debug)]
pub struct Entropy(Source);

#[derive(Debug)]
enum Source {
    System,
    Seeded(Box<Mutex<StdRng>>),
}

impl Entropy {
    /// The generator of the operating system.
    pub fn system() -> Self {
        Self(Source::System)
    }

    /// A generator that gives the same bytes for the same seed; for tests alone.
    pub fn seeded(seed: u64) -> Self {
        Self(Source::Seeded(Box::new(Mutex::new(StdRng::seed_from_u64(seed)))))
    }

    /// Fresh random bytes.
    ///
    /// # Panics
    /// When the operating system has no randomness to give: going on would mean guessable keys.
    #[expect(clippy::expect_used, reason = "without randomness nothing can be answered safely")]
    pub fn bytes<const N: usize>(&self) -> [u8; N] {
        let mut bytes = [0; N];
        match &self.0 {
            Source::System => {
                SysRng.try_fill_bytes(&mut bytes).expect("the operating system gives randomness")
            }
            Source::Seeded(rng) => rng.lock().unwrap_or_else(PoisonError::into_inner).fill_bytes(&mut bytes),
        }
        bytes
    }

    /// A new user id, a UUID of version 7.
    pub fn user_id(&self, now: Timestamp) -> UserId {
        UserId::from_uuid(self.uuid(now))
    }

    /// A new key id, a UUID of version 7.
    pub fn key_id(&self, now: Timestamp) -> KeyId {
        KeyId::from_uuid(self.uuid(now))
    }

    /// A UUID of version 7: sorted by time, so that neighbours in a store were made together.
    ///
    /// Source: RFC 9562 section 5.7.
    pub fn uuid(&self, now: Timestamp) -> Uuid {
        let ms = u64::try_from(now.as_millis()).unwrap_or_default();
        uuid::Builder::from_unix_timestamp_millis(ms, &self.bytes()).into_uuid()
    }
}
