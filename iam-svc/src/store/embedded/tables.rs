//! The tables, how they are opened for reading and for writing, and what can go wrong underneath.

use std::cell::Cell;
use std::io;

use redb::{Key, ReadTransaction, ReadableTable, Table, TableDefinition, Value, WriteTransaction};

use crate::store::StoreError;

/// A UUID as a key: big-endian, so that ids of version 7 lie in the order in which they were made.
pub(super) type Id = &'static [u8; 16];
/// The hash of an API key's text.
pub(super) type Hash = &'static [u8; 32];
/// A sealed row; see [`codec`](super::codec).
pub(super) type Row = &'static [u8];

/// The first and the last key of a range over ids.
pub(super) const FIRST: [u8; 16] = [0; 16];
pub(super) const LAST: [u8; 16] = [0xff; 16];

/// Users by id.
pub(super) const USERS: TableDefinition<Id, Row> = TableDefinition::new("users");
/// Who holds a name: the lower-case username to the user's id.
pub(super) const NAMES: TableDefinition<&str, Id> = TableDefinition::new("names");
/// Who is at home in a workspace.
pub(super) const USERS_BY_WORKSPACE: TableDefinition<(&str, Id), ()> =
    TableDefinition::new("users_by_workspace");
/// Who has a role, whatever the role is worth under the policy in force: a new policy needs no rebuild.
pub(super) const USERS_BY_ROLE: TableDefinition<(&str, Id), ()> = TableDefinition::new("users_by_role");
/// Workspaces by id.
pub(super) const WORKSPACES: TableDefinition<&str, Row> = TableDefinition::new("workspaces");
/// API keys by the hash of their text.
pub(super) const API_KEYS: TableDefinition<Hash, Row> = TableDefinition::new("api_keys");
/// The hash of the key with an id.
pub(super) const API_KEY_IDS: TableDefinition<Id, Hash> = TableDefinition::new("api_key_ids");
/// The hash of the key with a name, per user.
pub(super) const API_KEY_NAMES: TableDefinition<(Id, &str), Hash> = TableDefinition::new("api_key_names");
/// The keys of a user: user id, key id.
pub(super) const API_KEYS_BY_USER: TableDefinition<(Id, Id), Hash> = TableDefinition::new("api_keys_by_user");
/// When a key was last used, in milliseconds since the Unix epoch: user id, key id.
pub(super) const API_KEY_USE: TableDefinition<(Id, Id), i64> = TableDefinition::new("api_key_use");
/// One row each: the ring of signing keys, the state of the seeding, the schema number.
pub(super) const SINGLETONS: TableDefinition<&str, Row> = TableDefinition::new("singletons");

/// What goes wrong below the rules of a noun.
#[derive(Debug)]
pub(super) enum Fault {
    /// The file could not be read or written; the database has to be opened anew.
    Io(io::Error),
    /// What was read, or was about to be written, cannot be true.
    Corrupt { table: &'static str, key: String, cause: String },
}

impl Fault {
    /// As the caller of a read, or of a write that was not begun, sees it.
    pub(super) fn into_store_error(self) -> StoreError {
        match self {
            Fault::Io(cause) => StoreError::Unavailable(cause.to_string()),
            Fault::Corrupt { table, key, cause } => StoreError::Corrupt { table, key, cause },
        }
    }

    /// A fault of the file as a whole.
    pub(super) fn of_file(cause: impl Into<String>) -> Self {
        Fault::Corrupt { table: "(file)", key: String::new(), cause: cause.into() }
    }
}

impl From<StoreError> for Fault {
    fn from(error: StoreError) -> Self {
        match error {
            StoreError::Corrupt { table, key, cause } => Fault::Corrupt { table, key, cause },
            StoreError::Unavailable(cause) | StoreError::OutcomeUnknown(cause) => {
                Fault::Io(io::Error::other(cause))
            }
        }
    }
}

impl From<redb::Error> for Fault {
    fn from(error: redb::Error) -> Self {
        use redb::Error as E;
        match error {
            E::Io(cause) => Fault::Io(cause),
            E::Backend(_)
            | E::Unsupported
            | E::PreviousIo
            | E::DatabaseClosed
            | E::LockPoisoned(_)
            | E::TransactionPoisoned => Fault::Io(io::Error::other(error.to_string())),
            other => Fault::of_file(other.to_string()),
        }
    }
}

macro_rules! fault_from {
    ($($error:ident),*) => {$(
        impl From<redb::$error> for Fault {
            fn from(error: redb::$error) -> Self {
                redb::Error::from(error).into()
            }
        }
    )*};
}

fault_from!(StorageError, TableError, TransactionError, CommitError);

/// Where rows are read from: a snapshot, or the transaction that is about to be committed.
pub(super) trait Source {
    /// Opens a table for reading.
    fn open<K: Key + 'static, V: Value + 'static>(
        &self,
        table: TableDefinition<'static, K, V>,
    ) -> Result<impl ReadableTable<K, V>, Fault>;
}

impl Source for ReadTransaction {
    fn open<K: Key + 'static, V: Value + 'static>(
        &self,
        table: TableDefinition<'static, K, V>,
    ) -> Result<impl ReadableTable<K, V>, Fault> {
        Ok(self.open_table(table)?)
    }
}

/// The transaction that a command runs in. A table can be open once at a time.
pub(super) struct Tx<'t> {
    inner: &'t WriteTransaction,
    wrote: Cell<bool>,
}

impl<'t> Tx<'t> {
    pub(super) fn new(inner: &'t WriteTransaction) -> Self {
        Self { inner, wrote: Cell::new(false) }
    }

    /// Opens a table for writing; from then on the transaction has something to commit.
    pub(super) fn open_mut<K: Key + 'static, V: Value + 'static>(
        &self,
        table: TableDefinition<'static, K, V>,
    ) -> Result<Table<'t, K, V>, Fault> {
        self.wrote.set(true);
        Ok(self.inner.open_table(table)?)
    }

    /// Whether there is something to commit.
    pub(super) fn wrote(&self) -> bool {
        self.wrote.get()
    }
}

impl Source for Tx<'_> {
    fn open<K: Key + 'static, V: Value + 'static>(
        &self,
        table: TableDefinition<'static, K, V>,
    ) -> Result<impl ReadableTable<K, V>, Fault> {
        Ok(self.inner.open_table(table)?)
    }
}
