//! Each backend joins the suite in one line; beside it, what only that backend can get wrong.

#![expect(clippy::unwrap_used, reason = "helpers of tests, outside of the functions marked as such")]

use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use iam_svc::store::Store;
use iam_svc::store::embedded::{EmbeddedStore, OpenError, Options};
use iam_tests::sample;
use iam_tests::store_suite::{Deployment, StoreFactory};
use tempfile::TempDir;

mod cassandra;
mod crash_points;
mod embedded;
mod migration;

mod suite_on_embedded {
    iam_tests::store_suite!(super::Embedded);
}

struct Embedded;

#[async_trait]
impl StoreFactory for Embedded {
    async fn fresh(&self) -> Option<Box<dyn Deployment>> {
        let dir = TempDir::new().unwrap();
        let store = Some(open(&dir));
        Some(Box::new(EmbeddedDeployment { dir, store }))
    }
}

struct EmbeddedDeployment {
    dir: TempDir,
    store: Option<Arc<EmbeddedStore>>,
}

#[async_trait]
impl Deployment for EmbeddedDeployment {
    fn store(&self) -> Arc<dyn Store> {
        self.store.clone().unwrap()
    }

    async fn reopen(&mut self) {
        self.store = None;
        self.store = Some(open(&self.dir));
    }

    async fn check(&self) {
        self.store.as_ref().unwrap().verify().unwrap();
    }
}

fn open(dir: &TempDir) -> Arc<EmbeddedStore> {
    open_at(dir.path())
}

/// Opens the store. A process that another test starts has the lock for a moment too, between its fork and its exec.
fn open_at(dir: &Path) -> Arc<EmbeddedStore> {
    let open = || EmbeddedStore::open(dir, Options::new(sample::root_roles()));
    let mut opened = open();
    for _ in 0..100 {
        if !matches!(opened, Err(OpenError::Held { .. })) {
            break;
        }
        std::thread::sleep(Duration::from_millis(20));
        opened = open();
    }
    Arc::new(opened.unwrap())
}
