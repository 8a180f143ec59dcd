//! Builders of domain values: valid, plain, and never twice the same id.

#![expect(
    clippy::unwrap_used,
    reason = "what is built here is valid by construction, and serves tests alone"
)]

use std::collections::BTreeSet;
use std::str::FromStr;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use iam_schema::{KeyId, Timestamp, UserId, WorkspaceId};
use iam_svc::domain::api_keys::{ApiKey, KeyHash};
use iam_svc::domain::key_ring::{FreshKey, KeyRing};
use iam_svc::domain::passwords::PasswordHash;
use iam_svc::domain::policy::{Policy, PolicySource, RoleName};
use iam_svc::domain::users::{NameKey, User, Username};
use iam_svc::domain::workspaces::Workspace;
use iam_svc::store::{RootRoles, Seed};
use uuid::Uuid;

/// The time at which samples are made: 2027-01-15T08:00:00.123Z.
pub const NOW: Timestamp = Timestamp::from_millis(1_800_000_000_123);

/// A number that was not given out before in this process.
fn fresh() -> u64 {
    static LAST: AtomicU64 = AtomicU64::new(0);
    LAST.fetch_add(1, Ordering::Relaxed) + 1
}

/// A UUID of version 7, in the order in which they are asked for.
fn fresh_uuid() -> Uuid {
    let mut random = [0; 10];
    random.iter_mut().zip(fresh().to_be_bytes()).for_each(|(to, from)| *to = from);
    uuid::Builder::from_unix_timestamp_millis(u64::try_from(NOW.as_millis()).unwrap(), &random).into_uuid()
}

/// A user id that nobody has.
pub fn user_id() -> UserId {
    UserId::from_uuid(fresh_uuid())
}

/// A key id that no key has.
pub fn key_id() -> KeyId {
    KeyId::from_uuid(fresh_uuid())
}

/// The hash of a key that nobody has.
pub fn key_hash() -> KeyHash {
    let mut bytes = [0xa5; 32];
    bytes.iter_mut().zip(fresh().to_le_bytes()).for_each(|(to, from)| *to = from);
    KeyHash(bytes)
}

/// What is claimed for a username.
pub fn name_key(name: &str) -> NameKey {
    Username::from_str(name).unwrap().key()
}

/// A workspace id.
pub fn workspace_id(id: &str) -> WorkspaceId {
    id.parse().unwrap()
}

/// An enabled workspace.
pub fn workspace(id: &str) -> Workspace {
    Workspace::new(workspace_id(id), format!("Workspace {id}"), true, NOW)
}

/// An enabled user without password or roles.
pub fn user(username: &str, home: &Workspace) -> User {
    User {
        id: user_id(),
        version: 1,
        workspace: home.id.clone(),
        workspace_epoch: home.epoch,
        username: username.parse().unwrap(),
        name: String::new(),
        email: String::new(),
        roles: BTreeSet::new(),
        enabled: true,
        must_change_password: false,
        password: None,
        temporary_until: None,
        key_epoch: 0,
        token_epoch: 0,
        created: NOW,
    }
}

/// A user with roles.
pub fn user_with(username: &str, home: &Workspace, roles: &[&str]) -> User {
    User { roles: self::roles(roles), ..user(username, home) }
}

/// A user with every field set, to show that each is kept.
pub fn full_user(username: &str, home: &Workspace) -> User {
    User {
        name: "Zoë \u{1f511}".to_owned(),
        email: "zoe@example.test".to_owned(),
        must_change_password: true,
        password: Some(PasswordHash::from_stored("pbkdf2-sha256$600000$c2FsdA==$aGFzaA==".to_owned())),
        temporary_until: Some(Timestamp::from_millis(NOW.as_millis() + 86_400_000)),
        key_epoch: 3,
        token_epoch: u64::from(u32::MAX) + 7,
        ..user_with(username, home, &["reader", "writer"])
    }
}

/// A user who is a root admin under [`root_roles`].
pub fn admin(username: &str, home: &Workspace) -> User {
    user_with(username, home, &["admin"])
}

/// Role names.
pub fn roles(names: &[&str]) -> BTreeSet<RoleName> {
    names.iter().map(|name| name.parse().unwrap()).collect()
}

/// The root roles of the compiled-in policy.
pub fn root_roles() -> RootRoles {
    Arc::new(Policy::build(&PolicySource::default()).unwrap().root_roles())
}

/// A key of a user, without expiry.
pub fn key(owner: &User, name: &str) -> ApiKey {
    ApiKey {
        id: key_id(),
        hash: key_hash(),
        user: owner.id,
        workspace: owner.workspace.clone(),
        key_epoch: owner.key_epoch,
        name: name.to_owned(),
        prefix: "tg_aB3d".to_owned(),
        expires: None,
        created: NOW,
    }
}

/// A signing key that has no place in a ring yet.
pub fn fresh_key() -> FreshKey {
    let n = fresh();
    FreshKey { kid: format!("kid-{n}").parse().unwrap(), public: [7; 32], sealed: n.to_be_bytes().to_vec() }
}

/// The first ring of a deployment.
pub fn ring() -> KeyRing {
    KeyRing::new(fresh_key(), fresh_key(), NOW)
}

/// What a deployment begins with: workspace `default`, user `admin`, a key named `bootstrap`, a ring.
pub fn seed() -> Seed {
    let workspace = workspace("default");
    let admin = User { must_change_password: true, ..admin("admin", &workspace) };
    let key = key(&admin, "bootstrap");
    Seed { workspace, admin, key, ring: ring() }
}
