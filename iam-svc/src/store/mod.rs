//! Storage: whole business changes with outcomes.
//!
//! A method is one change that a caller can name, with the outcomes that the caller can act on. There is no
//! generic transaction, because one of the backends could not keep its promise. Each write states its commit
//! point: before it nothing happened, after it everything did, and what is left over in between is swept up
//! by housekeeping that no correctness rests on.
//!
//! The shared suite runs every method, its races and its crash points against every backend.

mod codec;
mod error;

pub mod cassandra;
pub mod embedded;

pub mod transfer;

use std::collections::BTreeSet;
use std::sync::Arc;

use async_trait::async_trait;
use iam_schema::{KeyId, Timestamp, UserId, WorkspaceId};

pub use codec::reread;
pub use error::StoreError;

use crate::domain::api_keys::{ApiKey, KeyHash};
use crate::domain::key_ring::KeyRing;
use crate::domain::policy::RoleName;
use crate::domain::users::{NameKey, User};
use crate::domain::workspaces::Workspace;

/// How fresh a read must be.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Read {
    /// Sees every change acknowledged before it began, as long as nothing failed on the way.
    Ordinary,
    /// Takes part in the order of conditional writes: sees whatever was, or will turn out to have been,
    /// committed before it.
    Serial,
}

/// One page of a list, in the backend's own stable order.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Page<T, C> {
    pub items: Vec<T>,
    /// Where the next page begins: after this one. `None` at the end.
    pub next: Option<C>,
}

/// The outcome of [`Store::insert_user`].
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum InsertUser {
    Inserted,
    NameTaken,
}

/// The outcome of [`Store::update_user`].
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum UpdateUser {
    Updated,
    /// The record is no longer the one that the change was decided on, or is gone.
    LostRace,
    /// The change would leave the deployment without a root admin.
    LastRootAdmin,
}

/// The outcome of [`Store::delete_user`].
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum DeleteUser {
    Deleted,
    LostRace,
    LastRootAdmin,
}

/// The outcome of [`Store::insert_workspace`].
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum InsertWorkspace {
    Inserted,
    IdTaken,
}

/// The outcome of [`Store::update_workspace`].
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum UpdateWorkspace {
    Updated,
    LostRace,
    LastRootAdmin,
}

/// The outcome of [`Store::insert_api_key`].
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum InsertApiKey {
    Inserted,
    /// A live key of that user has that name.
    NameTaken,
    /// The user has [`MAX_KEYS_PER_USER`](crate::domain::api_keys::MAX_KEYS_PER_USER) live keys.
    TooMany,
    /// The very same key text exists already; only a bootstrap token can be given twice.
    HashTaken,
}

/// The outcome of [`Store::delete_api_key`].
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum DeleteApiKey {
    Deleted,
    Absent,
}

/// The outcome of [`Store::replace_key_ring`].
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ReplaceKeyRing {
    Replaced,
    LostRace,
}

/// Whether the deployment has been seeded.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum SeedState {
    Empty,
    /// An attempt is under way, or died under way.
    Seeding,
    Done,
}

/// Everything that a deployment begins with.
#[derive(Debug, Clone)]
pub struct Seed {
    pub workspace: Workspace,
    pub admin: User,
    pub key: ApiKey,
    pub ring: KeyRing,
}

/// The outcome of [`Store::seed`].
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Seeded {
    /// This call did it. The admin has this id: that of the seed, or of an earlier attempt that died.
    Seeded(UserId),
    AlreadyDone,
    /// Another attempt is under way.
    InProgress,
}

/// How much a round of housekeeping has cleared away.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Swept {
    /// Claims on usernames without a user.
    pub claims: u64,
    /// Rows by which lists find users, without a user.
    pub index_rows: u64,
    /// Keys without an owner, or ended by their owner.
    pub keys: u64,
    /// Claims on names of keys, without a key.
    pub key_names: u64,
}

/// The store of a deployment.
///
/// Every method fails with [`StoreError`]: `Unavailable` when nothing was done, `OutcomeUnknown` when a write
/// may or may not have been committed, `Corrupt` when what was read is damaged.
#[async_trait]
pub trait Store: Send + Sync + std::fmt::Debug {
    /// A user by id.
    async fn user(&self, id: UserId, read: Read) -> Result<Option<User>, StoreError>;

    /// The user who holds a name, whatever its case.
    async fn user_by_name(&self, name: &NameKey) -> Result<Option<User>, StoreError>;

    /// Adds a user and claims the name: of two racing calls for one name exactly one inserts.
    ///
    /// Commit point: the user record. A claim left by a crash before it is taken over by the next caller.
    async fn insert_user(&self, user: &User) -> Result<InsertUser, StoreError>;

    /// Replaces the record `from`, exactly that version of it, by `to`.
    ///
    /// Commit point: the user record. Keys of an epoch below `to.key_epoch` are dead with it; deleting them is
    /// housekeeping. Refused where no root admin would be left.
    async fn update_user(&self, from: &User, to: &User) -> Result<UpdateUser, StoreError>;

    /// Removes the user `user`, exactly that version, the claim on the name, and all keys.
    ///
    /// Commit point: the user record; keys without an owner are refused and swept up.
    async fn delete_user(&self, user: &User) -> Result<DeleteUser, StoreError>;

    /// Users of a workspace, or of the deployment, after a given one. At most `limit`; never skips a user who
    /// is there throughout the listing, and never shows one twice.
    async fn list_users(
        &self,
        workspace: Option<&WorkspaceId>,
        after: Option<UserId>,
        limit: usize,
    ) -> Result<Page<User, UserId>, StoreError>;

    /// A workspace by id.
    async fn workspace(&self, id: &WorkspaceId, read: Read) -> Result<Option<Workspace>, StoreError>;

    /// Adds a workspace: of two racing calls for one id exactly one inserts.
    async fn insert_workspace(&self, workspace: &Workspace) -> Result<InsertWorkspace, StoreError>;

    /// Replaces the record `from`, exactly that version of it, by `to`. A higher epoch in `to` disables all
    /// users of the workspace in the same stroke. Refused where no root admin would be left.
    async fn update_workspace(&self, from: &Workspace, to: &Workspace)
    -> Result<UpdateWorkspace, StoreError>;

    /// Workspaces after a given one, at most `limit`.
    async fn list_workspaces(
        &self,
        after: Option<&WorkspaceId>,
        limit: usize,
    ) -> Result<Page<Workspace, WorkspaceId>, StoreError>;

    /// Adds a key. A name held by a dead key of an older epoch is free.
    async fn insert_api_key(&self, key: &ApiKey) -> Result<InsertApiKey, StoreError>;

    /// A key by the hash of its text. It may be dead: epochs are for the caller to compare.
    async fn api_key_by_hash(&self, hash: &KeyHash) -> Result<Option<ApiKey>, StoreError>;

    /// A key by its id.
    async fn api_key(&self, id: KeyId) -> Result<Option<ApiKey>, StoreError>;

    /// Removes a key; safe to repeat. Commit point: the record by hash.
    async fn delete_api_key(&self, key: &ApiKey) -> Result<DeleteApiKey, StoreError>;

    /// The keys of a user with the time each was last used, after a given one. Dead ones may be among them.
    async fn list_api_keys(
        &self,
        user: UserId,
        after: Option<KeyId>,
        limit: usize,
    ) -> Result<Page<(ApiKey, Option<Timestamp>), KeyId>, StoreError>;

    /// Notes when keys were last used. Losing a note is harmless.
    async fn touch_api_keys(&self, used: &[(UserId, KeyId, Timestamp)]) -> Result<(), StoreError>;

    /// The ring of signing keys, absent before the seeding.
    async fn key_ring(&self) -> Result<Option<KeyRing>, StoreError>;

    /// Replaces the ring if it still has the version before that of `to`.
    async fn replace_key_ring(&self, to: &KeyRing) -> Result<ReplaceKeyRing, StoreError>;

    /// How far the seeding of this deployment is.
    async fn seed_state(&self) -> Result<SeedState, StoreError>;

    /// Seeds an empty deployment. Exactly one call ever does, whatever number race; until it is done no record
    /// of it is seen as alive.
    async fn seed(&self, seed: &Seed, now: Timestamp) -> Result<Seeded, StoreError>;

    /// Clears away what crashes and races have left and nothing rests on, once a day; `None` when that was done
    /// already, by whichever replica, or there is never anything. Every replica may call it, at any time.
    async fn sweep(&self, now: Timestamp) -> Result<Option<Swept>, StoreError> {
        let _ = now;
        Ok(None)
    }

    /// Whether the store answers at all, for readiness.
    async fn ping(&self) -> Result<(), StoreError>;
}

/// The roles by which a user is a root admin under the policy in force: the guard of the last one needs them.
pub type RootRoles = Arc<BTreeSet<RoleName>>;
