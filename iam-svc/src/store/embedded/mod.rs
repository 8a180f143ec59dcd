//! The embedded store: one process, one data directory, one file.
//!
//! Code map, from the top: this file opens the directory and joins the nouns to the trait; `users`,
//! `workspaces`, `api_keys`, `key_ring` and `bootstrap` hold the rules of each change as functions over a
//! transaction; `tables` and `codec` say what is stored; `writer` is the one thread that commits; `file` makes
//! and opens the file, `backend` is what redb sees of it; `transfer` moves a deployment in and out.
//!
//! Reads run on the calling task: a point read costs a few microseconds, a page of a list a few milliseconds.
//! Every change is one transaction, so there is nothing to sweep up: a crash leaves all of it or nothing.
//!
//! Damage is looked for when the file is opened: every page is verified then. Below a running store a row that
//! was altered is `Corrupt`, never read as another; an altered inner page can hide rows, which then count as
//! absent, until the next opening refuses the file.

mod tables;

mod api_keys;
mod bootstrap;
mod key_ring;
mod users;
mod workspaces;

mod backend;
mod file;
mod writer;

mod transfer;

use std::fs::{DirBuilder, File};
use std::io;
use std::os::unix::fs::DirBuilderExt;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError, RwLock};
use std::time::Duration;

use async_trait::async_trait;
use iam_schema::{KeyId, Timestamp, UserId, WorkspaceId};
use redb::{Database, ReadTransaction, ReadableDatabase};
use tokio::sync::watch;
use tracing::instrument;

pub use backend::WrapBackend;

use super::{
    DeleteApiKey, DeleteUser, InsertApiKey, InsertUser, InsertWorkspace, Page, Read, ReplaceKeyRing,
    RootRoles, Seed, SeedState, Seeded, Store, StoreError, UpdateUser, UpdateWorkspace,
};
use crate::domain::api_keys::{ApiKey, KeyHash};
use crate::domain::key_ring::KeyRing;
use crate::domain::users::{NameKey, User};
use crate::domain::workspaces::Workspace;
use backend::Watch;
use file::{Check, DataFile, OpenFault, check_schema, create, hold, no_room, of_opening, open_file};
use tables::{Fault, Tx};
use writer::Writer;

/// The database, in the data directory.
pub const FILE: &str = "iam.redb";
/// The lock of the data directory; it is never removed, since that would let two processes in.
const LOCK: &str = "iam.lock";

/// Memory for pages of the file, in bytes, unless told otherwise. Hot records are kept decoded elsewhere, so
/// this is for cold reads.
const PAGE_CACHE: usize = 32 * 1024 * 1024;
/// The longest page of a list, in records: reads run inline, so they must be short.
const MAX_PAGE: usize = 1000;
/// How long a read waits for the file to be opened anew after a failure.
const REOPEN_WAIT: Duration = Duration::from_secs(2);

/// How to open an [`EmbeddedStore`].
#[derive(Clone)]
pub struct Options {
    /// The roles of a root admin, for the guard of the last one.
    pub root_roles: RootRoles,
    /// Memory for pages of the file, in bytes.
    pub page_cache: usize,
    /// Put between redb and the file; for tests that let I/O fail.
    pub wrap: Option<WrapBackend>,
}

impl Options {
    /// The options of a deployment.
    pub fn new(root_roles: RootRoles) -> Self {
        Self { root_roles, page_cache: PAGE_CACHE, wrap: None }
    }
}

impl std::fmt::Debug for Options {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Options").field("root_roles", &self.root_roles).finish_non_exhaustive()
    }
}

/// Why a data directory could not be opened: what, where, and what to do about it.
#[derive(Debug, thiserror::Error)]
pub enum OpenError {
    #[error("`{}` is in use by another process; stop that one, or choose another data directory", .path.display())]
    Held { path: PathBuf },
    #[error("`{}` cannot be written: {cause}; give this user read and write access, and room", .path.display())]
    NotWritable { path: PathBuf, cause: io::Error },
    #[error(
        "`{}` has schema {found}, and this version knows no newer one than {known}; run the version that wrote \
         it, or a newer one", .path.display()
    )]
    NewerSchema { path: PathBuf, found: u32, known: u32 },
    #[error("`{}` is damaged: {cause}; put a backup of it in its place", .path.display())]
    Damaged { path: PathBuf, cause: String },
}

impl OpenError {
    /// The exit code of a process that cannot go on for this.
    pub fn exit_code(&self) -> u8 {
        match self {
            OpenError::Damaged { .. } => 65,
            OpenError::Held { .. } | OpenError::NotWritable { .. } | OpenError::NewerSchema { .. } => 73,
        }
    }
}

/// The store in a data directory.
///
/// Dropping it waits for the writes that were taken on, and closes the file.
#[derive(Debug)]
pub struct EmbeddedStore {
    // Before what it shares, so that it has stopped when the file is closed.
    writer: Writer,
    shared: Arc<Shared>,
    root_roles: RootRoles,
}

/// What readers and the writer share.
#[derive(Debug)]
struct Shared {
    database: RwLock<Database>,
    /// The observation of the opening in use.
    watch: Mutex<Arc<Watch>>,
    /// How often the database was opened anew, or that was tried.
    openings: watch::Sender<u64>,
    file: DataFile,
    /// Released when the store is dropped, after the database was closed.
    _lock: File,
}

impl EmbeddedStore {
    /// Opens a data directory, and makes it if need be.
    ///
    /// The directory is made for its owner alone (0700), and so is the file (0600). Every page of the file is
    /// verified, about half a second for a million records.
    ///
    /// # Errors
    /// `Held` when another process uses it, `NotWritable`, `NewerSchema`, and `Damaged` when the file is not as
    /// it was written: cut, altered, or not a store.
    pub fn open(dir: &Path, options: Options) -> Result<Self, OpenError> {
        let path = dir.join(FILE);
        let not_writable = |path: &Path| {
            let path = path.to_owned();
            move |cause| OpenError::NotWritable { path, cause }
        };
        DirBuilder::new().recursive(true).mode(0o700).create(dir).map_err(not_writable(dir))?;
        let lock = open_file(&dir.join(LOCK), true).map_err(not_writable(&dir.join(LOCK)))?;
        hold(&lock, dir)?;
        if !path.try_exists().map_err(not_writable(&path))? {
            create(dir, &options).map_err(|fault| of_opening(fault, &path))?;
        }
        let disk = open_file(&path, false).map_err(not_writable(&path))?;
        // Against other programs that know redb; ours have met at the lock.
        hold(&disk, &path)?;

        let file = DataFile {
            path: path.clone(),
            disk: Arc::new(disk),
            wrap: options.wrap,
            page_cache: options.page_cache,
        };
        let (database, watch, healthy) = match file.open(Check::EveryPage) {
            Ok((database, watch)) => (database, watch, true),
            Err(OpenFault::Io(cause)) if no_room(&cause) => {
                // What is there can be read, and decided by.
                let database = file.open_detached().map_err(|fault| of_opening(fault, &path))?;
                (database, Arc::new(Watch::default()), false)
            }
            Err(fault) => return Err(of_opening(fault, &path)),
        };
        check_schema(&database, &path)?;

        let (openings, _) = watch::channel(0);
        let shared =
            Shared { database: RwLock::new(database), watch: Mutex::new(watch), openings, file, _lock: lock };
        let shared = Arc::new(shared);
        let writer = Writer::start(Arc::clone(&shared), healthy).map_err(not_writable(&path))?;
        Ok(Self { writer, shared, root_roles: options.root_roles })
    }

    /// Reads every row and checks that records and indexes agree. For a store at rest: it takes about a
    /// microsecond a row, on the calling thread.
    ///
    /// # Errors
    /// `Corrupt` with the first row that cannot be true.
    pub fn verify(&self) -> Result<(), StoreError> {
        self.shared
            .read(|snapshot| {
                users::verify(snapshot)?;
                workspaces::verify(snapshot)?;
                api_keys::verify(snapshot)?;
                key_ring::get(snapshot)?;
                bootstrap::state(snapshot)?;
                Ok(())
            })
            .map_err(Fault::into_store_error)
    }

    /// Runs a read on the calling task. One that fails for the file's sake is tried once more after the
    /// database was opened anew.
    async fn read<T>(
        &self,
        work: impl Fn(&ReadTransaction) -> Result<T, Fault> + Send + Sync,
    ) -> Result<T, StoreError> {
        let mut openings = self.shared.openings.subscribe();
        let seen = *openings.borrow_and_update();
        match self.shared.read(&work) {
            Err(Fault::Io(_)) => {}
            result => return result.map_err(Fault::into_store_error),
        }
        self.writer.reopen(seen);
        // Over or not: the next read tells.
        let _ = tokio::time::timeout(REOPEN_WAIT, openings.wait_for(|now| *now != seen)).await;
        self.shared.read(&work).map_err(Fault::into_store_error)
    }

    async fn write<T: Send + 'static>(
        &self,
        work: impl FnMut(&Tx<'_>) -> Result<T, Fault> + Send + 'static,
    ) -> Result<T, StoreError> {
        self.writer.run(work).await
    }
}

impl Shared {
    fn with_database<T>(&self, work: impl FnOnce(&Database) -> T) -> T {
        work(&self.database.read().unwrap_or_else(PoisonError::into_inner))
    }

    fn read<T>(&self, work: impl Fn(&ReadTransaction) -> Result<T, Fault>) -> Result<T, Fault> {
        let read = || self.with_database(|database| work(&database.begin_read()?));
        // redb panics on some damage that it meets after the file was opened and verified.
        let result = catch_unwind(AssertUnwindSafe(read));
        result.unwrap_or_else(|_| Err(Fault::of_file("a read met a damaged page")))
    }

    fn watch(&self) -> Arc<Watch> {
        Arc::clone(&self.watch.lock().unwrap_or_else(PoisonError::into_inner))
    }

    fn openings(&self) -> u64 {
        *self.openings.borrow()
    }

    /// Tells readers that wait for it that the database was opened anew, or could not be.
    fn announce(&self) {
        self.openings.send_modify(|openings| *openings += 1);
    }

    /// Opens the file anew for reading and writing, while the old database goes on answering what it can.
    fn open_anew(&self) -> Result<(), OpenFault> {
        let old = self.watch();
        old.abandon();
        if old.sync_failed() {
            self.file.write_again()?;
        }
        let (database, watch) = self.file.open(Check::AfterCrash)?;
        *self.watch.lock().unwrap_or_else(PoisonError::into_inner) = watch;
        self.replace(database);
        Ok(())
    }

    /// Opens the file for reading alone.
    fn open_detached(&self) -> Result<(), OpenFault> {
        let database = self.file.open_detached()?;
        self.replace(database);
        Ok(())
    }

    /// Waits for the reads under way, since the new database does not know of the pages they rest on.
    fn replace(&self, database: Database) {
        let mut current = self.database.write().unwrap_or_else(PoisonError::into_inner);
        let old = std::mem::replace(&mut *current, database);
        drop(current);
        // Its errors are known: they are why it is replaced.
        let _ = catch_unwind(AssertUnwindSafe(|| drop(old)));
    }
}

#[async_trait]
impl Store for EmbeddedStore {
    #[instrument(name = "store.users.get", level = "debug", skip_all)]
    async fn user(&self, id: UserId, _read: Read) -> Result<Option<User>, StoreError> {
        self.read(|snapshot| users::by_id(snapshot, id)).await
    }

    #[instrument(name = "store.users.by_name", level = "debug", skip_all)]
    async fn user_by_name(&self, name: &NameKey) -> Result<Option<User>, StoreError> {
        self.read(|snapshot| users::by_name(snapshot, name)).await
    }

    #[instrument(name = "store.users.insert", level = "debug", skip_all)]
    async fn insert_user(&self, user: &User) -> Result<InsertUser, StoreError> {
        let user = user.clone();
        self.write(move |tx| users::insert(tx, &user)).await
    }

    #[instrument(name = "store.users.update", level = "debug", skip_all)]
    async fn update_user(&self, from: &User, to: &User) -> Result<UpdateUser, StoreError> {
        let (roles, from, to) = (Arc::clone(&self.root_roles), from.clone(), to.clone());
        self.write(move |tx| users::update(tx, &roles, &from, &to)).await
    }

    #[instrument(name = "store.users.delete", level = "debug", skip_all)]
    async fn delete_user(&self, user: &User) -> Result<DeleteUser, StoreError> {
        let (roles, user) = (Arc::clone(&self.root_roles), user.clone());
        self.write(move |tx| users::delete(tx, &roles, &user)).await
    }

    #[instrument(name = "store.users.list", level = "debug", skip_all)]
    async fn list_users(
        &self,
        workspace: Option<&WorkspaceId>,
        after: Option<UserId>,
        limit: usize,
    ) -> Result<Page<User, UserId>, StoreError> {
        self.read(|snapshot| users::list(snapshot, workspace, after, limit.min(MAX_PAGE))).await
    }

    #[instrument(name = "store.workspaces.get", level = "debug", skip_all)]
    async fn workspace(&self, id: &WorkspaceId, _read: Read) -> Result<Option<Workspace>, StoreError> {
        self.read(|snapshot| workspaces::by_id(snapshot, id)).await
    }

    #[instrument(name = "store.workspaces.insert", level = "debug", skip_all)]
    async fn insert_workspace(&self, workspace: &Workspace) -> Result<InsertWorkspace, StoreError> {
        let workspace = workspace.clone();
        self.write(move |tx| workspaces::insert(tx, &workspace)).await
    }

    #[instrument(name = "store.workspaces.update", level = "debug", skip_all)]
    async fn update_workspace(
        &self,
        from: &Workspace,
        to: &Workspace,
    ) -> Result<UpdateWorkspace, StoreError> {
        let (roles, from, to) = (Arc::clone(&self.root_roles), from.clone(), to.clone());
        self.write(move |tx| workspaces::update(tx, &roles, &from, &to)).await
    }

    #[instrument(name = "store.workspaces.list", level = "debug", skip_all)]
    async fn list_workspaces(
        &self,
        after: Option<&WorkspaceId>,
        limit: usize,
    ) -> Result<Page<Workspace, WorkspaceId>, StoreError> {
        self.read(|snapshot| workspaces::list(snapshot, after, limit.min(MAX_PAGE))).await
    }

    #[instrument(name = "store.api_keys.insert", level = "debug", skip_all)]
    async fn insert_api_key(&self, key: &ApiKey) -> Result<InsertApiKey, StoreError> {
        let key = key.clone();
        self.write(move |tx| api_keys::insert(tx, &key)).await
    }

    #[instrument(name = "store.api_keys.by_hash", level = "debug", skip_all)]
    async fn api_key_by_hash(&self, hash: &KeyHash) -> Result<Option<ApiKey>, StoreError> {
        self.read(|snapshot| api_keys::by_hash(snapshot, hash)).await
    }

    #[instrument(name = "store.api_keys.get", level = "debug", skip_all)]
    async fn api_key(&self, id: KeyId) -> Result<Option<ApiKey>, StoreError> {
        self.read(|snapshot| api_keys::by_id(snapshot, id)).await
    }

    #[instrument(name = "store.api_keys.delete", level = "debug", skip_all)]
    async fn delete_api_key(&self, key: &ApiKey) -> Result<DeleteApiKey, StoreError> {
        let key = key.clone();
        self.write(move |tx| api_keys::delete(tx, &key)).await
    }

    #[instrument(name = "store.api_keys.list", level = "debug", skip_all)]
    async fn list_api_keys(
        &self,
        user: UserId,
        after: Option<KeyId>,
        limit: usize,
    ) -> Result<Page<(ApiKey, Option<Timestamp>), KeyId>, StoreError> {
        self.read(|snapshot| api_keys::list(snapshot, user, after, limit.min(MAX_PAGE))).await
    }

    #[instrument(name = "store.api_keys.touch", level = "debug", skip_all)]
    async fn touch_api_keys(&self, used: &[(UserId, KeyId, Timestamp)]) -> Result<(), StoreError> {
        let used = used.to_vec();
        self.write(move |tx| api_keys::touch(tx, &used)).await
    }

    #[instrument(name = "store.key_ring.get", level = "debug", skip_all)]
    async fn key_ring(&self) -> Result<Option<KeyRing>, StoreError> {
        self.read(key_ring::get).await
    }

    #[instrument(name = "store.key_ring.replace", level = "debug", skip_all)]
    async fn replace_key_ring(&self, to: &KeyRing) -> Result<ReplaceKeyRing, StoreError> {
        let to = to.clone();
        self.write(move |tx| key_ring::replace(tx, &to)).await
    }

    #[instrument(name = "store.bootstrap.state", level = "debug", skip_all)]
    async fn seed_state(&self) -> Result<SeedState, StoreError> {
        self.read(bootstrap::state).await
    }

    #[instrument(name = "store.bootstrap.seed", level = "debug", skip_all)]
    async fn seed(&self, seed: &Seed, now: Timestamp) -> Result<Seeded, StoreError> {
        let seed = seed.clone();
        self.write(move |tx| bootstrap::seed(tx, &seed, now)).await
    }

    #[instrument(name = "store.ping", level = "debug", skip_all)]
    async fn ping(&self) -> Result<(), StoreError> {
        self.shared.file.in_place().map_err(StoreError::Unavailable)?;
        self.read(|snapshot| bootstrap::schema(snapshot).map(|_| ())).await
    }
}
