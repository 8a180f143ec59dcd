//! What sequences are played on: the store under the replicas.

use std::path::Path;
use std::sync::Arc;

use iam_svc::store::embedded::{EmbeddedStore, FILE, Options};
use iam_svc::store::{RootRoles, Store};
use tempfile::TempDir;

use crate::cassandra::Keyspace;

/// A backend.
#[derive(Debug, Clone)]
pub enum Backend {
    Embedded,
    /// The nodes of a cluster.
    Cassandra(Vec<String>),
}

/// The store of one sequence.
#[derive(Debug)]
pub struct Ground {
    root_roles: RootRoles,
    place: Place,
}

#[derive(Debug)]
enum Place {
    /// One process: replicas share what it has open.
    File {
        dir: TempDir,
        store: Option<Arc<EmbeddedStore>>,
    },
    Keyspace(Box<Keyspace>),
}

impl Ground {
    /// An empty one.
    pub async fn new(backend: &Backend, root_roles: RootRoles) -> Self {
        let place = match backend {
            Backend::Embedded => {
                let dir = directory();
                let store = Some(open(&dir, &root_roles));
                Place::File { dir, store }
            }
            Backend::Cassandra(hosts) => Place::Keyspace(Box::new(Keyspace::claim(hosts).await)),
        };
        Self { root_roles, place }
    }

    /// What a replica that starts has in its hands.
    pub async fn open(&self) -> Arc<dyn Store> {
        match &self.place {
            Place::File { store, .. } => store.clone().expect("an open store"),
            Place::Keyspace(keyspace) => keyspace.open(self.root_roles.clone()).await,
        }
    }

    /// Everything starts anew, once no replica has hold of the store; after a crash on a copy of the file as it was
    /// while it was in use. A cluster does not notice.
    pub fn restart(&mut self, crashed: Option<TempDir>) {
        if let Place::File { dir, store } = &mut self.place {
            *store = None;
            if let Some(copy) = crashed {
                *dir = copy;
            }
            *store = Some(open(dir, &self.root_roles));
        }
    }

    /// The file as it is at this moment, where there is one.
    ///
    /// # Errors
    /// When it cannot be copied.
    pub fn copy(&self) -> Result<Option<TempDir>, String> {
        let Place::File { dir, .. } = &self.place else { return Ok(None) };
        let copy = directory();
        let copied = std::fs::copy(dir.path().join(FILE), copy.path().join(FILE));
        copied.map_err(|error| format!("copying the store: {error}"))?;
        Ok(Some(copy))
    }

    /// Whether the store finds itself whole.
    ///
    /// # Errors
    /// What is wrong with it.
    pub fn verify(&self) -> Result<(), String> {
        match &self.place {
            Place::File { store, .. } => {
                let store = store.as_ref().expect("an open store");
                store.verify().map_err(|error| format!("the store: {error}"))
            }
            Place::Keyspace(_) => Ok(()),
        }
    }
}

fn open(dir: &TempDir, root_roles: &RootRoles) -> Arc<EmbeddedStore> {
    let options = Options { page_cache: 1 << 20, ..Options::new(root_roles.clone()) };
    Arc::new(EmbeddedStore::open(dir.path(), options).expect("a store that opens"))
}

/// A place for data directories: in memory where there is one, since it is not the disk that is tried here.
fn directory() -> TempDir {
    let memory = Path::new("/dev/shm");
    let made = if memory.is_dir() { TempDir::new_in(memory) } else { TempDir::new() };
    made.or_else(|_| TempDir::new()).expect("a directory")
}
