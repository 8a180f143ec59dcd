//! The file that holds the database: how it is made, opened, verified and brought to the newest schema.

use std::fs::{self, File, OpenOptions, TryLockError};
use std::io;
use std::os::unix::fs::{MetadataExt, OpenOptionsExt};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use redb::{Builder, Database, DatabaseError, ReadableDatabase, StorageBackend, StorageError};

use super::backend::{self, Detached, Disk, Watch, Watched, WrapBackend};
use super::tables::{Fault, Tx};
use super::{FILE, OpenError, Options, bootstrap};

/// The database while it is made, before it gets its name: a crash leaves no half-made one behind.
const NEW_FILE: &str = "iam.redb.new";

/// The file, and how redb gets at it.
pub(super) struct DataFile {
    pub(super) path: PathBuf,
    pub(super) disk: Arc<File>,
    pub(super) wrap: Option<WrapBackend>,
    pub(super) page_cache: usize,
}

/// How much redb verifies when it opens the file.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Check {
    /// All of it.
    EveryPage,
    /// All of it if the file was not closed in order.
    AfterCrash,
}

/// Why the file could not be opened.
#[derive(Debug, thiserror::Error)]
pub(super) enum OpenFault {
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

    pub(super) fn open(&self, check: Check) -> Result<(Database, Arc<Watch>), OpenFault> {
        let inner = self.backend();
        if inner.len()? == 0 {
            // redb would begin a new, empty store in it.
            return Err(OpenFault::Damaged("the file is empty".to_owned()));
        }
        let watch = Arc::new(Watch::default());
        let database = self.open_with(Watched { inner, watch: Arc::clone(&watch) }, check)?;
        Ok((database, watch))
    }

    pub(super) fn open_detached(&self) -> Result<Database, OpenFault> {
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
    pub(super) fn in_place(&self) -> Result<(), String> {
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

    pub(super) fn write_again(&self) -> Result<(), OpenFault> {
        Ok(backend::write_again(&*self.backend())?)
    }
}

/// Makes the database under another name, and gives it its own once it is whole and durable.
pub(super) fn create(dir: &Path, options: &Options) -> Result<(), OpenFault> {
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
pub(super) fn check_schema(database: &Database, path: &Path) -> Result<(), OpenError> {
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

pub(super) fn of_opening(fault: OpenFault, path: &Path) -> OpenError {
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
pub(super) fn no_room(error: &io::Error) -> bool {
    use io::ErrorKind as Kind;
    matches!(error.kind(), Kind::StorageFull | Kind::QuotaExceeded | Kind::FileTooLarge)
}

pub(super) fn open_file(path: &Path, create: bool) -> io::Result<File> {
    OpenOptions::new().read(true).write(true).create(create).truncate(false).mode(0o600).open(path)
}

pub(super) fn hold(file: &File, path: &Path) -> Result<(), OpenError> {
    let path = path.to_owned();
    file.try_lock().map_err(|error| match error {
        TryLockError::WouldBlock => OpenError::Held { path },
        TryLockError::Error(cause) => OpenError::NotWritable { path, cause },
    })
}
