//! The ring of signing keys: one signs, one is published and about to sign, some still verify.

use iam_schema::{KeyKid, Timestamp};

/// The most keys in the ring. Source: protocol section 3, rotate-signing-key.
pub const MAX_KEYS: usize = 64;

/// The ring as stored: replaced as a whole.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct KeyRing {
    /// One higher with each change, from 1.
    pub version: u64,
    pub keys: Vec<RingKey>,
}

/// One key of the ring.
#[derive(Clone, PartialEq, Eq)]
pub struct RingKey {
    pub kid: KeyKid,
    pub public: [u8; 32],
    /// PKCS#8, sealed with AES-256-GCM: nonce, then ciphertext and tag.
    pub sealed: Vec<u8>,
    pub state: KeyState,
    pub created: Timestamp,
}

impl std::fmt::Debug for RingKey {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("RingKey").field("kid", &self.kid).field("state", &self.state).finish_non_exhaustive()
    }
}

/// What a key is used for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum KeyState {
    /// Published, so that every verifier knows it before it signs.
    Next,
    /// Signs, and verifies.
    Active,
    /// Verifies until then.
    Grace { until: Timestamp },
}

/// A key that was just generated, before it has a place in the ring.
#[derive(Debug, Clone)]
pub struct FreshKey {
    pub kid: KeyKid,
    pub public: [u8; 32],
    pub sealed: Vec<u8>,
}

impl FreshKey {
    fn into_ring(self, state: KeyState, now: Timestamp) -> RingKey {
        RingKey { kid: self.kid, public: self.public, sealed: self.sealed, state, created: now }
    }
}

/// Why a ring could not be changed as asked.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum RingError {
    /// [`MAX_KEYS`] are in it.
    Full,
    /// No key with that kid.
    UnknownKid,
}

impl KeyRing {
    /// The first ring of a deployment.
    pub fn new(active: FreshKey, next: FreshKey, now: Timestamp) -> Self {
        Self {
            version: 1,
            keys: vec![active.into_ring(KeyState::Active, now), next.into_ring(KeyState::Next, now)],
        }
    }

    /// The key that signs.
    ///
    /// INVARIANT (ring): every ring holds exactly one active and one next key.
    pub fn active(&self) -> Option<&RingKey> {
        self.keys.iter().find(|key| key.state == KeyState::Active)
    }

    /// The keys that verify at `now`, or are about to: next, active and in grace.
    pub fn published(&self, now: Timestamp) -> impl Iterator<Item = &RingKey> {
        self.keys.iter().filter(move |key| match key.state {
            KeyState::Next | KeyState::Active => true,
            KeyState::Grace { until } => now < until,
        })
    }

    /// The ring after a rotation: next signs, the old key verifies until `grace_until`, `fresh` is next. Keys
    /// whose grace is over are left out.
    ///
    /// # Errors
    /// `Full`, when the ring would hold more than [`MAX_KEYS`].
    pub fn rotated(
        &self,
        fresh: FreshKey,
        grace_until: Timestamp,
        now: Timestamp,
    ) -> Result<KeyRing, RingError> {
        let mut keys: Vec<RingKey> = self.published(now).cloned().collect();
        for key in &mut keys {
            key.state = match key.state {
                KeyState::Active => KeyState::Grace { until: grace_until },
                KeyState::Next => KeyState::Active,
                grace @ KeyState::Grace { .. } => grace,
            };
        }
        if keys.len() >= MAX_KEYS {
            return Err(RingError::Full);
        }
        keys.push(fresh.into_ring(KeyState::Next, now));
        Ok(KeyRing { version: self.version + 1, keys })
    }

    /// The ring without the key `kid`. If that was signing, next takes over; `fresh` fills the place of next
    /// where it became free.
    ///
    /// # Errors
    /// `UnknownKid`.
    pub fn without(&self, kid: &KeyKid, fresh: FreshKey, now: Timestamp) -> Result<KeyRing, RingError> {
        let gone = self.published(now).find(|key| key.kid == *kid).ok_or(RingError::UnknownKid)?.state;
        let mut keys: Vec<RingKey> = self.published(now).filter(|key| key.kid != *kid).cloned().collect();
        if gone == KeyState::Active {
            for key in keys.iter_mut().filter(|key| key.state == KeyState::Next) {
                key.state = KeyState::Active;
            }
        }
        if matches!(gone, KeyState::Active | KeyState::Next) {
            keys.push(fresh.into_ring(KeyState::Next, now));
        }
        Ok(KeyRing { version: self.version + 1, keys })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn fresh(kid: &str) -> FreshKey {
        FreshKey { kid: kid.parse().unwrap(), public: [0; 32], sealed: vec![] }
    }

    fn shape(ring: &KeyRing, now: i64) -> Vec<(String, &'static str)> {
        let name = |state| match state {
            KeyState::Next => "next",
            KeyState::Active => "active",
            KeyState::Grace { .. } => "grace",
        };
        let at = Timestamp::from_millis(now);
        ring.published(at).map(|key| (key.kid.to_string(), name(key.state))).collect()
    }

    fn rows(rows: &[(&str, &'static str)]) -> Vec<(String, &'static str)> {
        rows.iter().map(|(kid, state)| ((*kid).to_owned(), *state)).collect()
    }

    const NOW: Timestamp = Timestamp::from_millis(1_000);
    const LATER: Timestamp = Timestamp::from_millis(2_000);

    #[test]
    fn rotation_promotes_the_published_key() {
        let ring = KeyRing::new(fresh("a"), fresh("b"), NOW).rotated(fresh("c"), LATER, NOW).unwrap();
        assert_eq!(ring.version, 2);
        assert_eq!(ring.active().map(|key| key.kid.to_string()), Some("b".to_owned()));
        assert_eq!(shape(&ring, 1_000), rows(&[("a", "grace"), ("b", "active"), ("c", "next")]));
        assert_eq!(shape(&ring, 2_000), rows(&[("b", "active"), ("c", "next")]));
    }

    #[test]
    fn retirement_leaves_one_active_and_one_next() {
        let ring = KeyRing::new(fresh("a"), fresh("b"), NOW).rotated(fresh("c"), LATER, NOW).unwrap();
        let without =
            |kid: &str| shape(&ring.without(&kid.parse().unwrap(), fresh("d"), NOW).unwrap(), 1_000);
        assert_eq!(ring.without(&"a".parse().unwrap(), fresh("d"), NOW).unwrap().version, 3);
        assert_eq!(without("a"), rows(&[("b", "active"), ("c", "next")]));
        assert_eq!(without("b"), rows(&[("a", "grace"), ("c", "active"), ("d", "next")]));
        assert_eq!(without("c"), rows(&[("a", "grace"), ("b", "active"), ("d", "next")]));
        assert_eq!(ring.without(&"x".parse().unwrap(), fresh("d"), NOW), Err(RingError::UnknownKid));
    }

    #[test]
    fn ring_that_is_full_refuses_to_rotate() {
        let mut ring = KeyRing::new(fresh("a"), fresh("b"), NOW);
        for i in 0..MAX_KEYS - 2 {
            ring = ring.rotated(fresh(&format!("k{i}")), LATER, NOW).unwrap();
        }
        assert_eq!(ring.rotated(fresh("z"), LATER, NOW), Err(RingError::Full));
        assert!(ring.rotated(fresh("z"), LATER, LATER).is_ok(), "keys whose grace is over make room");
    }
}
