//! Cassandra and ScyllaDB: the store of a deployment of several machines.
//!
//! - [`session`]: the connection; [`schema`]: the tables; [`statements`]: every statement, prepared once
//! - [`conditional`]: conditional statements and what became of them
//! - [`guard`]: of the root admins one is always left; [`housekeeping`]: what is left over
//! - [`users`], [`workspaces`], [`api_keys`], [`singletons`], [`bootstrap`]: the changes, step by step
//! - [`transfer`]: a deployment moved in and out
//!
//! There is no transaction across rows. Each change has one row whose write is its commit point, and an order of
//! steps in which whatever a crash leaves before that point is overtaken by the next caller, and whatever it leaves
//! after it has no effect.

mod conditional;
mod schema;
mod session;
mod statements;

mod guard;
mod housekeeping;

mod api_keys;
mod bootstrap;
mod singletons;
mod users;
mod workspaces;

mod transfer;

use std::fmt::Display;
use std::sync::atomic::{AtomicBool, Ordering};

use async_trait::async_trait;
use iam_schema::{KeyId, Timestamp, UserId, WorkspaceId};
use tokio::sync::Mutex;
use tracing::instrument;

pub use session::{Reach, Replication, Setting, Tls};

use self::schema::SchemaFault;
use self::session::{Cluster, Profiles};
use self::statements::Statements;
use crate::domain::api_keys::{ApiKey, KeyHash};
use crate::domain::key_ring::KeyRing;
use crate::domain::users::{NameKey, User};
use crate::domain::workspaces::Workspace;
use crate::store::{
    DeleteApiKey, DeleteUser, InsertApiKey, InsertUser, InsertWorkspace, Page, Read, ReplaceKeyRing,
    RootRoles, Seed, SeedState, Seeded, Store, StoreError, Swept, UpdateUser, UpdateWorkspace,
};

/// Why a cluster cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum OpenError {
    /// No node answers as it should, now.
    #[error("cannot reach Cassandra: {0}")]
    Unreachable(String),
    /// There is no such keyspace, and none is to be made.
    #[error(
        "there is no keyspace `{0}`: make it (deploy/cassandra.md has the statement), or start once with --cassandra-create-keyspace"
    )]
    NoKeyspace(String),
    /// A newer version of the service wrote it.
    #[error("the schema is {found}, and this version knows {known}: a newer version has written it")]
    NewerSchema { found: i64, known: i64 },
    /// Which data centre is home is not said, or said wrongly.
    #[error("--cassandra-local-dc {0}")]
    Datacenter(String),
    /// Conditional writes of one data centre would not see those of another.
    #[error(
        "the home of this deployment is the data centre `{home}`; from elsewhere it takes --cassandra-consistency global, in every replica"
    )]
    Elsewhere { home: String },
    /// What is stored cannot be true.
    #[error("{0}")]
    Damaged(String),
}

impl From<StoreError> for OpenError {
    fn from(error: StoreError) -> Self {
        match error {
            StoreError::Unavailable(cause) | StoreError::OutcomeUnknown(cause) => {
                OpenError::Unreachable(cause)
            }
            corrupt @ StoreError::Corrupt { .. } => OpenError::Damaged(corrupt.to_string()),
        }
    }
}

impl From<SchemaFault> for OpenError {
    fn from(fault: SchemaFault) -> Self {
        match fault {
            SchemaFault::Newer { found } => OpenError::NewerSchema { found, known: schema::newest() },
            SchemaFault::Elsewhere { home } => OpenError::Elsewhere { home },
            SchemaFault::Store(error) => error.into(),
        }
    }
}

/// How far the tables of a keyspace are.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Standing {
    /// There are none, or those of an earlier version: the next start makes or changes them.
    Behind,
    Current,
}

/// A deployment in a keyspace of a cluster. Any number of replicas may have it open.
#[derive(Debug)]
pub struct CassandraStore {
    cluster: Cluster,
    root_roles: RootRoles,
    /// The seeding is known to be done, which it stays.
    seeded: AtomicBool,
    /// A guarded change of ours may have been announced and not carried out.
    announced: AtomicBool,
}

impl CassandraStore {
    /// Connects, and brings the tables up to date.
    ///
    /// # Errors
    /// As [`OpenError`] says.
    pub async fn open(setting: &Setting, root_roles: RootRoles) -> Result<Self, OpenError> {
        let session = session::connect(setting).await?;
        let home = session::home(&session, setting)?;
        if !schema::keyspace_exists(&session, setting).await? {
            if !setting.create_keyspace {
                return Err(OpenError::NoKeyspace(setting.keyspace.clone()));
            }
            schema::create_keyspace(&session, setting, &home).await?;
        }
        session.use_keyspace(&setting.keyspace, false).await.map_err(session::unavailable)?;
        schema::migrate(&session, setting, &home).await?;
        let profiles = Profiles::new(setting.consistency, Some(&home));
        let statements = Statements::prepare(&session, &profiles).await?;
        let cluster = Cluster { session, statements, guard_turn: Mutex::new(()) };
        guard::cover(&cluster, &root_roles).await?;
        Ok(Self { cluster, root_roles, seeded: AtomicBool::new(false), announced: AtomicBool::new(false) })
    }

    /// Looks at a cluster without changing anything in it.
    ///
    /// # Errors
    /// Whatever [`CassandraStore::open`] would find there.
    pub async fn look(setting: &Setting) -> Result<Standing, OpenError> {
        let session = session::connect(setting).await?;
        let home = session::home(&session, setting)?;
        match schema::keyspace_exists(&session, setting).await? {
            true => {
                session.use_keyspace(&setting.keyspace, false).await.map_err(session::unavailable)?;
                Ok(schema::standing(&session, setting, &home).await?)
            }
            false if setting.create_keyspace => Ok(Standing::Behind),
            false => Err(OpenError::NoKeyspace(setting.keyspace.clone())),
        }
    }

    /// Whose records are hidden, because the seeding that makes them is not done.
    async fn hidden(&self) -> Result<Option<UserId>, StoreError> {
        if self.seeded.load(Ordering::Relaxed) {
            return Ok(None);
        }
        match bootstrap::read(&self.cluster, Read::Ordinary).await? {
            Some((_, row)) if row.done => {
                self.seeded.store(true, Ordering::Relaxed);
                Ok(None)
            }
            Some((_, row)) => Ok(Some(UserId::from_uuid(row.admin))),
            None => Ok(None),
        }
    }

    async fn shown_key(&self, key: Option<ApiKey>) -> Result<Option<ApiKey>, StoreError> {
        let Some(key) = key else { return Ok(None) };
        Ok(if self.hidden().await? == Some(key.user) { None } else { Some(key) })
    }

    async fn shown_user(&self, user: Option<User>) -> Result<Option<User>, StoreError> {
        let Some(user) = user else { return Ok(None) };
        Ok(if self.hidden().await? == Some(user.id) { None } else { Some(user) })
    }

    /// Before a read in earnest: whatever we announced and do not know the end of has an end now.
    async fn settled(&self, read: Read) -> Result<(), StoreError> {
        if read == Read::Serial && self.announced.load(Ordering::Acquire) {
            guard::settle(&self.cluster).await?;
            self.announced.store(false, Ordering::Release);
        }
        Ok(())
    }

    /// Notes that a change may have been announced and left.
    fn noted<T>(&self, outcome: Result<T, StoreError>) -> Result<T, StoreError> {
        if outcome.as_ref().is_err_and(StoreError::outcome_unknown) {
            self.announced.store(true, Ordering::Release);
        }
        outcome
    }
}

#[async_trait]
impl Store for CassandraStore {
    #[instrument(name = "store.users.get", level = "debug", skip_all)]
    async fn user(&self, id: UserId, read: Read) -> Result<Option<User>, StoreError> {
        self.settled(read).await?;
        let user = users::by_id(&self.cluster, id, read).await?;
        self.shown_user(user).await
    }

    #[instrument(name = "store.users.by_name", level = "debug", skip_all)]
    async fn user_by_name(&self, name: &NameKey) -> Result<Option<User>, StoreError> {
        let user = users::by_name(&self.cluster, name).await?;
        self.shown_user(user).await
    }

    #[instrument(name = "store.users.insert", level = "debug", skip_all)]
    async fn insert_user(&self, user: &User) -> Result<InsertUser, StoreError> {
        users::insert(&self.cluster, &self.root_roles, user).await
    }

    #[instrument(name = "store.users.update", level = "debug", skip_all)]
    async fn update_user(&self, from: &User, to: &User) -> Result<UpdateUser, StoreError> {
        self.noted(users::update(&self.cluster, &self.root_roles, from, to).await)
    }

    #[instrument(name = "store.users.delete", level = "debug", skip_all)]
    async fn delete_user(&self, user: &User) -> Result<DeleteUser, StoreError> {
        self.noted(users::delete(&self.cluster, &self.root_roles, user).await)
    }

    #[instrument(name = "store.users.list", level = "debug", skip_all)]
    async fn list_users(
        &self,
        workspace: Option<&WorkspaceId>,
        after: Option<UserId>,
        limit: usize,
    ) -> Result<Page<User, UserId>, StoreError> {
        let mut page = users::list(&self.cluster, workspace, after, limit).await?;
        if !page.items.is_empty()
            && let Some(hidden) = self.hidden().await?
        {
            page.items.retain(|user| user.id != hidden);
        }
        Ok(page)
    }

    #[instrument(name = "store.workspaces.get", level = "debug", skip_all)]
    async fn workspace(&self, id: &WorkspaceId, read: Read) -> Result<Option<Workspace>, StoreError> {
        self.settled(read).await?;
        workspaces::by_id(&self.cluster, id, read).await
    }

    #[instrument(name = "store.workspaces.insert", level = "debug", skip_all)]
    async fn insert_workspace(&self, workspace: &Workspace) -> Result<InsertWorkspace, StoreError> {
        workspaces::insert(&self.cluster, workspace).await
    }

    #[instrument(name = "store.workspaces.update", level = "debug", skip_all)]
    async fn update_workspace(
        &self,
        from: &Workspace,
        to: &Workspace,
    ) -> Result<UpdateWorkspace, StoreError> {
        self.noted(workspaces::update(&self.cluster, &self.root_roles, from, to).await)
    }

    #[instrument(name = "store.workspaces.list", level = "debug", skip_all)]
    async fn list_workspaces(
        &self,
        after: Option<&WorkspaceId>,
        limit: usize,
    ) -> Result<Page<Workspace, WorkspaceId>, StoreError> {
        workspaces::list(&self.cluster, after, limit).await
    }

    #[instrument(name = "store.api_keys.insert", level = "debug", skip_all)]
    async fn insert_api_key(&self, key: &ApiKey) -> Result<InsertApiKey, StoreError> {
        api_keys::insert(&self.cluster, key).await
    }

    #[instrument(name = "store.api_keys.by_hash", level = "debug", skip_all)]
    async fn api_key_by_hash(&self, hash: &KeyHash) -> Result<Option<ApiKey>, StoreError> {
        let key = api_keys::by_hash(&self.cluster, hash).await?;
        self.shown_key(key).await
    }

    #[instrument(name = "store.api_keys.get", level = "debug", skip_all)]
    async fn api_key(&self, id: KeyId) -> Result<Option<ApiKey>, StoreError> {
        let key = api_keys::by_id(&self.cluster, id).await?;
        self.shown_key(key).await
    }

    #[instrument(name = "store.api_keys.delete", level = "debug", skip_all)]
    async fn delete_api_key(&self, key: &ApiKey) -> Result<DeleteApiKey, StoreError> {
        api_keys::delete(&self.cluster, key).await
    }

    #[instrument(name = "store.api_keys.list", level = "debug", skip_all)]
    async fn list_api_keys(
        &self,
        user: UserId,
        after: Option<KeyId>,
        limit: usize,
    ) -> Result<Page<(ApiKey, Option<Timestamp>), KeyId>, StoreError> {
        api_keys::list(&self.cluster, user, after, limit).await
    }

    #[instrument(name = "store.api_keys.touch", level = "debug", skip_all)]
    async fn touch_api_keys(&self, used: &[(UserId, KeyId, Timestamp)]) -> Result<(), StoreError> {
        api_keys::touch(&self.cluster, used).await
    }

    #[instrument(name = "store.key_ring.get", level = "debug", skip_all)]
    async fn key_ring(&self) -> Result<Option<KeyRing>, StoreError> {
        let ring = singletons::ring(&self.cluster).await?;
        Ok(if ring.is_some() && self.hidden().await?.is_some() { None } else { ring })
    }

    #[instrument(name = "store.key_ring.replace", level = "debug", skip_all)]
    async fn replace_key_ring(&self, to: &KeyRing) -> Result<ReplaceKeyRing, StoreError> {
        singletons::replace_ring(&self.cluster, to).await
    }

    #[instrument(name = "store.bootstrap.state", level = "debug", skip_all)]
    async fn seed_state(&self) -> Result<SeedState, StoreError> {
        bootstrap::state(&self.cluster).await
    }

    #[instrument(name = "store.bootstrap.seed", level = "debug", skip_all)]
    async fn seed(&self, seed: &Seed, now: Timestamp) -> Result<Seeded, StoreError> {
        bootstrap::seed(&self.cluster, &self.root_roles, seed, now).await
    }

    async fn sweep(&self, now: Timestamp) -> Result<Option<Swept>, StoreError> {
        housekeeping::sweep(&self.cluster, now).await
    }

    #[instrument(name = "store.ping", level = "debug", skip_all)]
    async fn ping(&self) -> Result<(), StoreError> {
        self.cluster.rows::<(i64,)>(&self.cluster.statements.ping, ()).await.map(|_| ())
    }
}

/// A record that cannot be true.
fn corrupt(table: &'static str, key: impl Display, cause: &dyn Display) -> StoreError {
    StoreError::Corrupt { table, key: key.to_string(), cause: cause.to_string() }
}

/// A count as the database has it: 64 bits with a sign.
fn number(count: impl Into<u64>) -> i64 {
    i64::try_from(count.into()).unwrap_or(i64::MAX)
}

/// A time as a timestamp of a write, in microseconds.
fn micros(time: Timestamp) -> i64 {
    time.as_millis().saturating_mul(1_000)
}
