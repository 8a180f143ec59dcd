//! Keyspaces on a real cluster, each for one test at a time.
//!
//! `tests/run` says where the cluster is. Without one a test that needs it says that it was skipped; with `CI=true`
//! that is a failure. Making tables takes a cluster seconds, so that a keyspace that a test has done with is emptied
//! and given to the next.

use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use iam_svc::store::RootRoles;
use iam_svc::store::cassandra::{CassandraStore, Reach, Replication, Setting};
use scylla::client::session::Session;
use scylla::client::session_builder::SessionBuilder;

/// The nodes of the cluster of this test run, if there is one.
///
/// # Panics
/// In CI, when there is none: a skip there would be a hole.
pub fn hosts() -> Option<Vec<String>> {
    let hosts = std::env::var("IAM_TEST_CASSANDRA").ok().filter(|hosts| !hosts.is_empty());
    if hosts.is_none() {
        assert!(std::env::var("CI").is_err(), "CI must test on Cassandra: IAM_TEST_CASSANDRA is not set");
        println!("skipped: IAM_TEST_CASSANDRA is not set; tests/run brings up a node");
    }
    hosts.map(|hosts| hosts.split(',').map(str::to_owned).collect())
}

/// Keyspaces with all tables in them, emptied, that no test holds.
static FREE: Mutex<Vec<String>> = Mutex::new(Vec::new());

/// An empty keyspace that no other test sees.
#[derive(Debug)]
pub struct Keyspace {
    pub setting: Setting,
    /// To look at what is stored, and to meddle with it.
    pub session: Session,
}

impl Keyspace {
    /// Empties a keyspace that was used before, or makes one.
    ///
    /// # Panics
    /// When the cluster does not do as it is told.
    pub async fn claim(hosts: &[String]) -> Self {
        let session = SessionBuilder::new().known_nodes(hosts).build().await.expect("a cluster");
        let used = FREE.lock().unwrap_or_else(PoisonError::into_inner).pop();
        let name = match used {
            Some(name) => {
                empty(&session, &name).await;
                name
            }
            None => make(&session, hosts.len()).await,
        };
        session.use_keyspace(&name, false).await.expect("the keyspace");
        let setting = Setting {
            hosts: hosts.to_vec(),
            keyspace: name,
            create_keyspace: false,
            replication: Replication::Simple(1),
            consistency: Reach::Local,
            datacenter: None,
            login: None,
            tls: None,
        };
        Self { setting, session }
    }

    /// Opens the store, as one more replica does.
    ///
    /// # Panics
    /// When it cannot be opened.
    pub async fn open(&self, root_roles: RootRoles) -> Arc<CassandraStore> {
        Arc::new(CassandraStore::open(&self.setting, root_roles).await.expect("a store"))
    }
}

impl Drop for Keyspace {
    fn drop(&mut self) {
        FREE.lock().unwrap_or_else(PoisonError::into_inner).push(self.setting.keyspace.clone());
    }
}

/// Makes a keyspace whose writes skip the commit log: tests do not restart the cluster, and emptying a table is
/// quick then.
async fn make(session: &Session, nodes: usize) -> String {
    static COUNT: AtomicU32 = AtomicU32::new(0);
    let name = format!("t{}_{}", std::process::id(), COUNT.fetch_add(1, Ordering::Relaxed));
    let replicas = nodes.min(3);
    let statement = format!(
        "CREATE KEYSPACE {name} WITH replication = {{'class': 'SimpleStrategy', 'replication_factor': {replicas}}} \
         AND durable_writes = false"
    );
    session.query_unpaged(statement, ()).await.expect("a keyspace");
    session.await_schema_agreement().await.expect("agreement");
    name
}

async fn empty(session: &Session, keyspace: &str) {
    let select = "SELECT table_name FROM system_schema.tables WHERE keyspace_name = ?";
    let answer = session.query_unpaged(select, (keyspace,)).await.expect("the tables");
    let tables = answer.into_rows_result().expect("rows");
    for table in tables.rows::<(String,)>().expect("names") {
        let (table,) = table.expect("a name");
        if table == "schema_state" {
            continue;
        }
        // Also what seems empty: it may hold deletions, which would hide what the next test makes at the same time.
        session.query_unpaged(format!("TRUNCATE {keyspace}.{table}"), ()).await.expect("emptied");
    }
}
