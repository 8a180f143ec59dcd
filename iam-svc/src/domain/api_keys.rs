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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn key_ends_at_its_expiry_and_not_before() {
        let at = Timestamp::from_millis;
        for (expires, now, over) in
            [(None, 9, false), (Some(10), 9, false), (Some(10), 10, true), (Some(10), 11, true)]
        {
            let key = ApiKey { expires: expires.map(at), ..key() };
            assert_eq!(key.expired(at(now)), over, "{expires:?} {now}");
        }
    }

    fn key() -> ApiKey {
        ApiKey {
            id: KeyId::from_uuid(uuid::Uuid::from_u128(1)),
            hash: KeyHash([0xab; 32]),
            user: UserId::from_uuid(uuid::Uuid::from_u128(2)),
            workspace: "acme".parse().unwrap(),
            key_epoch: 3,
            name: "ci".to_owned(),
            prefix: "tg_abcd".to_owned(),
            expires: None,
            created: Timestamp::from_millis(0),
        }
    }

    #[test]
    fn hash_is_written_in_lower_case_hex() {
        assert_eq!(key().hash.to_string(), "ab".repeat(32));
    }
}
