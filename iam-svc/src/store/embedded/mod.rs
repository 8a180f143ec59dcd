//! The embedded store: one process, one data directory, one file.
//!
//! Code map, from the top: this file opens the directory and joins the nouns to the trait; `users`,
//! `workspaces`, `api_keys`, `key_ring` and `bootstrap` hold the rules of each change as functions over a
//! transaction; `tables` and `codec` say what is stored; `writer` is the one thread that commits; `backend` is
//! the file below redb; `transfer` moves a deployment in and out.
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
mod writer;

mod transfer;

use std::fs::{self, DirBuilder, File, OpenOptions, TryLockError};
use std::io;
use std::os::unix::fs::{DirBuilderExt, MetadataExt, OpenOptionsExt};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError, RwLock};
use std::time::Duration;

use async_trait::async_trait;
use iam_schema::{KeyId, Timestamp, UserId, WorkspaceId};
use redb::{
    Builder, Database, DatabaseError, ReadTransaction, ReadableDatabase, StorageBackend, StorageError,
};
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
use backend::{Detached, Disk, Watch, Watched};
use tables::{Fault, Tx};
use writer::Writer;

/// The database, in the data directory.
pub const FILE: &str = "iam.redb";
/// The lock of the data directory; it is never removed, since that would let two processes in.
const LOCK: &str = "iam.lock";
/// The database while it is made, before it gets its name: a crash leaves no half-made one behind.
const NEW_FILE: &str = "iam.redb.new";

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

/// The file, and how redb gets at it.
struct DataFile {
    path: PathBuf,
    disk: Arc<File>,
    wrap: Option<WrapBackend>,
    page_cache: usize,
}

/// How much redb verifies when it opens the file.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Check {
    /// All of it.
    EveryPage,
    /// All of it if the file was not closed in order.
    AfterCrash,
}

/// Why the file could not be opened.
#[derive(Debug, thiserror::Error)]
enum OpenFault {
    #[error("{0}")]
    Io(io::Error),
    #[error("{0}")]
    Damaged(String),
}

impl From<io::Error> for OpenFault {
    fn from(error: io::Error) -> Self {
        OpenFault::Io(error)
    }
}

impl From<Fault> for OpenFault {
    fn from(fault: Fault) -> Self {
        match fault {
            Fault::Io(cause) => OpenFault::Io(cause),
            Fault::Corrupt { .. } => OpenFault::Damaged(fault.into_store_error().to_string()),
        }
    }
}

impl std::fmt::Debug for DataFile {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("DataFile").finish_non_exhaustive()
    }
}

impl DataFile {
    fn backend(&self) -> Box<dyn StorageBackend> {
        let disk = Box::new(Disk(Arc::clone(&self.disk)));
        match &self.wrap {
            Some(wrap) => wrap(disk),
            None => disk,
        }
    }

    fn open(&self, check: Check) -> Result<(Database, Arc<Watch>), OpenFault> {
        let inner = self.backend();
        if inner.len()? == 0 {
            // redb would begin a new, empty store in it.
            return Err(OpenFault::Damaged("the file is empty".to_owned()));
        }
        let watch = Arc::new(Watch::default());
        let database = self.open_with(Watched { inner, watch: Arc::clone(&watch) }, check)?;
        Ok((database, watch))
    }

    fn open_detached(&self) -> Result<Database, OpenFault> {
        self.open_with(Detached::new(self.backend())?, Check::AfterCrash)
    }

    fn open_with(&self, backend: impl StorageBackend, check: Check) -> Result<Database, OpenFault> {
        let open = || {
            let mut builder = Builder::new();
            builder.set_cache_size(self.page_cache).set_check_integrity_on_open(check == Check::EveryPage);
            builder.create_with_backend(backend)
        };
        // redb promises an error, and no panic, for a file that was altered; this is for where it fails to.
        let opened = catch_unwind(AssertUnwindSafe(open));
        let opened = opened.map_err(|_| OpenFault::Damaged("a page makes no sense".to_owned()))?;
        opened.map_err(|error| match error {
            DatabaseError::Storage(StorageError::Io(cause)) => match cause.kind() {
                io::ErrorKind::InvalidData | io::ErrorKind::UnexpectedEof | io::ErrorKind::InvalidInput => {
                    OpenFault::Damaged(cause.to_string())
                }
                _ => OpenFault::Io(cause),
            },
            other => OpenFault::Damaged(other.to_string()),
        })
    }

    /// Whether the file is still the one that the next start will open. What is written to one that was removed
    /// or replaced is lost with this process.
    fn in_place(&self) -> Result<(), String> {
        let named = fs::metadata(&self.path);
        let same = named.and_then(|named| {
            let open = self.disk.metadata()?;
            Ok((named.dev(), named.ino()) == (open.dev(), open.ino()))
        });
        match same {
            Ok(true) => Ok(()),
            Ok(false) => Err(format!("`{}` was replaced while it was open", self.path.display())),
            Err(cause) => Err(format!("`{}` was removed while it was open: {cause}", self.path.display())),
        }
    }

    fn write_again(&self) -> Result<(), OpenFault> {
        Ok(backend::write_again(&*self.backend())?)
    }
}

/// Makes the database under another name, and gives it its own once it is whole and durable.
fn create(dir: &Path, options: &Options) -> Result<(), OpenFault> {
    let (new, path) = (dir.join(NEW_FILE), dir.join(FILE));
    match fs::remove_file(&new) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error.into()),
        Ok(()) | Err(_) => {}
    }
    let disk = Arc::new(open_file(&new, true)?);
    let file =
        DataFile { path: new.clone(), disk, wrap: options.wrap.clone(), page_cache: options.page_cache };
    let database =
        file.open_with(Watched { inner: file.backend(), watch: Arc::default() }, Check::AfterCrash)?;
    migrate(&database, 0)?;
    drop(database);
    file.disk.sync_all()?;
    fs::rename(&new, &path)?;
    File::open(dir)?.sync_all()?;
    Ok(())
}

fn migrate(database: &Database, from: u32) -> Result<(), Fault> {
    let mut inner = database.begin_write().map_err(Fault::from)?;
    inner.set_two_phase_commit(true);
    bootstrap::migrate(&Tx::new(&inner), from)?;
    Ok(inner.commit()?)
}

/// Brings an older schema up to date, and refuses a newer one.
fn check_schema(database: &Database, path: &Path) -> Result<(), OpenError> {
    let known = bootstrap::newest_schema();
    let schema = || -> Result<u32, Fault> { bootstrap::schema(&database.begin_read()?) };
    let found = schema().map_err(|fault| of_opening(fault.into(), path))?;
    if found > known {
        return Err(OpenError::NewerSchema { path: path.to_owned(), found, known });
    }
    if found < known {
        migrate(database, found).map_err(|fault| of_opening(fault.into(), path))?;
    }
    Ok(())
}

fn of_opening(fault: OpenFault, path: &Path) -> OpenError {
    use io::ErrorKind as Kind;
    let path = path.to_owned();
    match fault {
        OpenFault::Io(cause) if no_room(&cause) => OpenError::NotWritable { path, cause },
        OpenFault::Io(cause) => match cause.kind() {
            Kind::PermissionDenied | Kind::ReadOnlyFilesystem => OpenError::NotWritable { path, cause },
            _ => OpenError::Damaged { path, cause: cause.to_string() },
        },
        OpenFault::Damaged(cause) => OpenError::Damaged { path, cause },
    }
}

/// Whether something was not written for want of room: on the disk, of the user's share, or up to the process's
/// limit.
fn no_room(error: &io::Error) -> bool {
    use io::ErrorKind as Kind;
    matches!(error.kind(), Kind::StorageFull | Kind::QuotaExceeded | Kind::FileTooLarge)
}

fn open_file(path: &Path, create: bool) -> io::Result<File> {
    OpenOptions::new().read(true).write(true).create(create).truncate(false).mode(0o600).open(path)
}

fn hold(file: &File, path: &Path) -> Result<(), OpenError> {
    let path = path.to_owned();
    file.try_lock().map_err(|error| match error {
        TryLockError::WouldBlock => OpenError::Held { path },
        TryLockError::Error(cause) => OpenError::NotWritable { path, cause },
    })
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
