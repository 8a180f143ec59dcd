//! Rows to bytes and back: MessagePack maps with named fields, sealed by a checksum.
//!
//! A row is 8 bytes of SHA-256 over table, key and body, then the body. A store verifies its own checksums when
//! it likes, and not on each read, so that a bit that flips later, or a row that ends up under another key, shows
//! here. Every row repeats its key.
//!
//! Domain types derive nothing of serde: what is stored is spelled out here and in `singletons`, and changes by
//! a migration alone.

mod singletons;

use std::fmt;
use std::str::FromStr;

use iam_schema::{KeyId, Timestamp, UserId};
use serde::de::{self, Visitor};
use serde::{Deserialize, Deserializer, Serialize, Serializer};
use sha2::{Digest, Sha256};
use uuid::Uuid;

pub(in crate::store) use singletons::{
    Announced, AttemptRow, BOOTSTRAP, BootstrapRow, GUARD, GuardRow, HOUSEKEEPING, HousekeepingRow, Intent,
    MIGRATION, RING, SCHEMA, SEEDING, SeedingRow, read_bootstrap, read_guard, read_housekeeping, read_mark,
    read_ring, read_schema, read_seeding, write_bootstrap, write_guard, write_housekeeping, write_mark,
    write_ring, write_schema, write_seeding,
};

use crate::domain::api_keys::{ApiKey, KeyHash};
use crate::domain::passwords::PasswordHash;
use crate::domain::users::User;
use crate::domain::workspaces::Workspace;
use crate::store::StoreError;

/// Bytes of the checksum before each body.
const SEAL: usize = 8;

/// Which row: the table, and the key in it as bytes.
#[derive(Debug, Clone, Copy)]
pub(in crate::store) struct At<'a> {
    pub table: &'static str,
    pub key: &'a [u8],
}

impl At<'_> {
    /// The error of a row that cannot be true.
    pub(in crate::store) fn corrupt(self, cause: impl fmt::Display) -> StoreError {
        StoreError::Corrupt { table: self.table, key: self.shown(), cause: cause.to_string() }
    }

    /// The key for a log: an id or a text as it is, of a hash the beginning.
    fn shown(self) -> String {
        if let Ok(id) = Uuid::from_slice(self.key) {
            return id.to_string();
        }
        if self.key.len() == 32 {
            let head = self.key.iter().take(4).map(|b| format!("{b:02x}"));
            return head.collect::<String>() + "…";
        }
        String::from_utf8_lossy(self.key).into_owned()
    }

    fn seal(self, body: &[u8]) -> [u8; SEAL] {
        let mut digest = Sha256::new();
        digest.update(self.table.as_bytes());
        digest.update([0]);
        digest.update(self.key);
        digest.update([0]);
        digest.update(body);
        let mut seal = [0; SEAL];
        seal.iter_mut().zip(digest.finalize()).for_each(|(to, from)| *to = from);
        seal
    }

    fn write(self, row: &impl Serialize) -> Result<Vec<u8>, StoreError> {
        let body = rmp_serde::to_vec_named(row).map_err(|e| self.corrupt(e))?;
        Ok([self.seal(&body).as_slice(), body.as_slice()].concat())
    }

    fn read<'b, R: Deserialize<'b>>(self, bytes: &'b [u8]) -> Result<R, StoreError> {
        let (seal, body) = bytes.split_at_checked(SEAL).ok_or_else(|| self.corrupt("too short"))?;
        if seal != self.seal(body) {
            return Err(self.corrupt("checksum does not match"));
        }
        rmp_serde::from_slice(body).map_err(|e| self.corrupt(e))
    }

    fn parse<T: FromStr<Err: fmt::Display>>(self, field: &str, text: &str) -> Result<T, StoreError> {
        text.parse().map_err(|e| self.corrupt(format_args!("{field}: {e}")))
    }

    fn time(self, field: &str, ms: i64) -> Result<Timestamp, StoreError> {
        let time = Timestamp::from_millis(ms);
        if time.as_millis() == ms {
            Ok(time)
        } else {
            Err(self.corrupt(format_args!("{field}: out of range")))
        }
    }

    fn require(self, holds: bool, invariant: &str) -> Result<(), StoreError> {
        if holds { Ok(()) } else { Err(self.corrupt(invariant)) }
    }
}

/// Bytes as MessagePack `bin`.
#[derive(Clone, Copy)]
struct Bytes<'a>(&'a [u8]);

impl Serialize for Bytes<'_> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_bytes(self.0)
    }
}

impl<'de: 'a, 'a> Deserialize<'de> for Bytes<'a> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Borrowed;
        impl<'de> Visitor<'de> for Borrowed {
            type Value = Bytes<'de>;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("bytes")
            }

            fn visit_borrowed_bytes<E: de::Error>(self, bytes: &'de [u8]) -> Result<Bytes<'de>, E> {
                Ok(Bytes(bytes))
            }
        }
        deserializer.deserialize_bytes(Borrowed)
    }
}

#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct UserRow<'a> {
    id: Uuid,
    version: u64,
    #[serde(borrow)]
    workspace: &'a str,
    workspace_epoch: u64,
    username: &'a str,
    name: &'a str,
    email: &'a str,
    roles: Vec<&'a str>,
    enabled: bool,
    must_change_password: bool,
    password: Option<&'a str>,
    temporary_until_ms: Option<i64>,
    key_epoch: u64,
    token_epoch: u64,
    created_ms: i64,
}

/// The row of a user.
pub(in crate::store) fn write_user(user: &User) -> Result<Vec<u8>, StoreError> {
    let id = user.id.as_uuid();
    let at = At { table: "users", key: id.as_bytes() };
    at.require(user.version >= 1, VERSION)?;
    at.write(&UserRow {
        id,
        version: user.version,
        workspace: user.workspace.as_str(),
        workspace_epoch: user.workspace_epoch,
        username: user.username.as_str(),
        name: &user.name,
        email: &user.email,
        roles: user.roles.iter().map(|role| role.as_str()).collect(),
        enabled: user.enabled,
        must_change_password: user.must_change_password,
        password: user.password.as_ref().map(PasswordHash::expose),
        temporary_until_ms: user.temporary_until.map(Timestamp::as_millis),
        key_epoch: user.key_epoch,
        token_epoch: user.token_epoch,
        created_ms: user.created.as_millis(),
    })
}

/// The user in a row.
pub(in crate::store) fn read_user(key: &[u8; 16], bytes: &[u8]) -> Result<User, StoreError> {
    let at = At { table: "users", key };
    let row: UserRow<'_> = at.read(bytes)?;
    at.require(row.id.as_bytes() == key, SAME_KEY)?;
    at.require(row.version >= 1, VERSION)?;
    Ok(User {
        id: UserId::from_uuid(row.id),
        version: row.version,
        workspace: at.parse("workspace", row.workspace)?,
        workspace_epoch: row.workspace_epoch,
        username: at.parse("username", row.username)?,
        name: row.name.to_owned(),
        email: row.email.to_owned(),
        roles: row.roles.iter().map(|role| at.parse("roles", role)).collect::<Result<_, _>>()?,
        enabled: row.enabled,
        must_change_password: row.must_change_password,
        password: row.password.map(|text| PasswordHash::from_stored(text.to_owned())),
        temporary_until: row.temporary_until_ms.map(|ms| at.time("temporary_until", ms)).transpose()?,
        key_epoch: row.key_epoch,
        token_epoch: row.token_epoch,
        created: at.time("created", row.created_ms)?,
    })
}

#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct WorkspaceRow<'a> {
    #[serde(borrow)]
    id: &'a str,
    version: u64,
    name: &'a str,
    enabled: bool,
    epoch: u64,
    created_ms: i64,
}

/// The row of a workspace.
pub(in crate::store) fn write_workspace(workspace: &Workspace) -> Result<Vec<u8>, StoreError> {
    let id = workspace.id.as_str();
    let at = At { table: "workspaces", key: id.as_bytes() };
    at.require(workspace.version >= 1, VERSION)?;
    at.write(&WorkspaceRow {
        id,
        version: workspace.version,
        name: &workspace.name,
        enabled: workspace.enabled,
        epoch: workspace.epoch,
        created_ms: workspace.created.as_millis(),
    })
}

/// The workspace in a row.
pub(in crate::store) fn read_workspace(key: &str, bytes: &[u8]) -> Result<Workspace, StoreError> {
    let at = At { table: "workspaces", key: key.as_bytes() };
    let row: WorkspaceRow<'_> = at.read(bytes)?;
    at.require(row.id == key, SAME_KEY)?;
    at.require(row.version >= 1, VERSION)?;
    Ok(Workspace {
        id: at.parse("id", row.id)?,
        version: row.version,
        name: row.name.to_owned(),
        enabled: row.enabled,
        epoch: row.epoch,
        created: at.time("created", row.created_ms)?,
    })
}

#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct ApiKeyRow<'a> {
    id: Uuid,
    #[serde(borrow)]
    hash: Bytes<'a>,
    user: Uuid,
    workspace: &'a str,
    key_epoch: u64,
    name: &'a str,
    prefix: &'a str,
    expires_ms: Option<i64>,
    created_ms: i64,
}

/// The row of an API key.
pub(in crate::store) fn write_api_key(key: &ApiKey) -> Result<Vec<u8>, StoreError> {
    let at = At { table: "api_keys", key: &key.hash.0 };
    at.write(&ApiKeyRow {
        id: key.id.as_uuid(),
        hash: Bytes(&key.hash.0),
        user: key.user.as_uuid(),
        workspace: key.workspace.as_str(),
        key_epoch: key.key_epoch,
        name: &key.name,
        prefix: &key.prefix,
        expires_ms: key.expires.map(Timestamp::as_millis),
        created_ms: key.created.as_millis(),
    })
}

/// The API key in a row.
pub(in crate::store) fn read_api_key(hash: &[u8; 32], bytes: &[u8]) -> Result<ApiKey, StoreError> {
    let at = At { table: "api_keys", key: hash };
    let row: ApiKeyRow<'_> = at.read(bytes)?;
    at.require(row.hash.0 == hash, SAME_KEY)?;
    Ok(ApiKey {
        id: KeyId::from_uuid(row.id),
        hash: KeyHash(*hash),
        user: UserId::from_uuid(row.user),
        workspace: at.parse("workspace", row.workspace)?,
        key_epoch: row.key_epoch,
        name: row.name.to_owned(),
        prefix: row.prefix.to_owned(),
        expires: row.expires_ms.map(|ms| at.time("expires", ms)).transpose()?,
        created: at.time("created", row.created_ms)?,
    })
}

/// Reads the row under a key of a table, and writes it again as it would be written today; whoever looks into a
/// store's file, or moves one, can tell sound rows from others by it. Tables without rows of their own, the
/// indexes, are unknown here.
///
/// # Errors
/// `Corrupt` for whatever cannot be read or must not be written.
pub fn reread(table: &str, key: &[u8], row: &[u8]) -> Result<Vec<u8>, StoreError> {
    let unknown = |name: &'static str| At { table: name, key }.corrupt("no such row");
    match table {
        "users" => {
            let id = key.try_into().map_err(|_| unknown("users"))?;
            write_user(&read_user(id, row)?)
        }
        "workspaces" => {
            let id = std::str::from_utf8(key).map_err(|_| unknown("workspaces"))?;
            write_workspace(&read_workspace(id, row)?)
        }
        "api_keys" => {
            let hash = key.try_into().map_err(|_| unknown("api_keys"))?;
            write_api_key(&read_api_key(hash, row)?)
        }
        "singletons" => match std::str::from_utf8(key) {
            Ok(RING) => write_ring(&read_ring(row)?),
            Ok(BOOTSTRAP) => write_bootstrap(read_bootstrap(row)?),
            Ok(SEEDING) => write_seeding(&read_seeding(row)?),
            Ok(GUARD) => write_guard(&read_guard(row)?),
            Ok(HOUSEKEEPING) => write_housekeeping(&read_housekeeping(row)?),
            Ok(MIGRATION) => write_mark(read_mark(row)?),
            Ok(SCHEMA) => write_schema(read_schema(row)?),
            _ => Err(unknown("singletons")),
        },
        _ => Err(unknown("(unknown)")),
    }
}

const SAME_KEY: &str = "the row belongs to another key";
const VERSION: &str = "the version is below 1";

#[cfg(test)]
mod tests {
    use super::*;
    use crate::domain::key_ring::KeyRing;

    fn workspace() -> Workspace {
        let created = Timestamp::from_millis(1_700_000_000_123);
        Workspace::new("acme".parse().unwrap(), "Acme".to_owned(), true, created)
    }

    #[test]
    fn row_with_any_bit_flipped_is_corrupt() {
        let row = write_workspace(&workspace()).unwrap();
        assert_eq!(read_workspace("acme", &row).unwrap(), workspace());
        for bit in 0..row.len() * 8 {
            let mut flipped = row.clone();
            flipped[bit / 8] ^= 1 << (bit % 8);
            assert!(read_workspace("acme", &flipped).is_err(), "bit {bit}");
        }
        for len in 0..row.len() {
            assert!(read_workspace("acme", &row[..len]).is_err(), "cut to {len}");
        }
    }

    #[test]
    fn row_under_another_key_is_corrupt() {
        let row = write_workspace(&workspace()).unwrap();
        let fault = read_workspace("other", &row).unwrap_err();
        assert!(
            matches!(&fault, StoreError::Corrupt { table: "workspaces", key, .. } if key == "other"),
            "{fault:?}"
        );
    }

    #[test]
    fn row_that_breaks_an_invariant_is_not_written() {
        let broken = Workspace { version: 0, ..workspace() };
        assert!(write_workspace(&broken).is_err());
        assert!(write_ring(&KeyRing { version: 1, keys: Vec::new() }).is_err());
    }
}
