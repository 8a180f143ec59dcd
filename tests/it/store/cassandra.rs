//! The suite on a real cluster, and what only this backend can get wrong.

mod cuts;
mod leftovers;
mod traced;

use std::sync::Arc;

use async_trait::async_trait;
use iam_svc::store::Store;
use iam_svc::store::cassandra::CassandraStore;
use iam_tests::cassandra::{self, Keyspace};
use iam_tests::sample;
use iam_tests::store_suite::{Deployment, StoreFactory};

mod suite {
    iam_tests::store_suite!(super::Cassandra);
}

struct Cassandra;

struct CassandraDeployment {
    keyspace: Keyspace,
    store: Option<Arc<CassandraStore>>,
}

#[async_trait]
impl StoreFactory for Cassandra {
    async fn fresh(&self) -> Option<Box<dyn Deployment>> {
        let keyspace = Keyspace::claim(&cassandra::hosts()?).await;
        let store = Some(keyspace.open(sample::root_roles()).await);
        Some(Box::new(CassandraDeployment { keyspace, store }))
    }
}

#[async_trait]
impl Deployment for CassandraDeployment {
    fn store(&self) -> Arc<dyn Store> {
        self.store.clone().expect("it is open")
    }

    async fn reopen(&mut self) {
        self.store = None;
        self.store = Some(self.keyspace.open(sample::root_roles()).await);
    }
}
