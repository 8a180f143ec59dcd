//! API keys.

use std::fmt;

use iam_schema::{KeyId, Timestamp, UserId, WorkspaceId};

use super::users::User;

/// The most keys of one user. Source: protocol section 3, create-api-key.
pub const MAX_KEYS_PER_USER: usize = 200;

/// The SHA-256 of a key's whole text: what is stored of it, and where.
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct KeyHash(pub [u8; 32]);

impl fmt::Display for KeyHash {
    /// Lower-case hex, as stored.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.iter().try_for_each(|b| write!(f, "{b:02x}"))
    }
}

impl fmt::Debug for KeyHash {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("KeyHash(redacted)")
    }
}

/// An API key as stored. It never changes; it is made and deleted.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ApiKey {
    pub id: KeyId,
    pub hash: KeyHash,
    pub user: UserId,
    /// The owner's home workspace, so that resolving a key needs one round trip less.
    pub workspace: WorkspaceId,
    pub key_epoch: u64,
    pub name: String,
    pub prefix: String,
    pub expires: Option<Timestamp>,
    pub created: Timestamp,
}

impl ApiKey {
    /// Whether the key has run out.
    pub fn expired(&self, now: Timestamp) -> bool {
        self.expires.is_some_and(|expires| expires <= now)
    }

    /// Whether the owner's keys of this epoch are still good.
    pub fn of_live_epoch(&self, owner: &User) -> bool {
        self.user == owner.id && self.key_epoch == owner.key_epoch
    }
}
