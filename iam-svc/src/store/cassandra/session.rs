//! The connection to the cluster: how it is made, and how statements are run on it.

use std::collections::BTreeMap;
use std::str::FromStr;
use std::sync::Arc;
use std::time::Duration;

use futures_util::{StreamExt, TryStreamExt};
use iam_schema::Secret;
use rustls::pki_types::CertificateDer;
use rustls::pki_types::pem::PemObject;
use scylla::client::execution_profile::{ExecutionProfile, ExecutionProfileHandle};
use scylla::client::session::Session;
use scylla::client::session_builder::SessionBuilder;
use scylla::deserialize::row::DeserializeRow;
use scylla::errors::{ExecutionError, NewSessionError};
use scylla::policies::load_balancing::DefaultPolicy;
use scylla::policies::retry::{DefaultRetryPolicy, FallthroughRetryPolicy};
use scylla::policies::speculative_execution::SimpleSpeculativeExecutionPolicy;
use scylla::response::query_result::QueryResult;
use scylla::serialize::row::SerializeRow;
use scylla::statement::prepared::PreparedStatement;
use scylla::statement::{Consistency, SerialConsistency};

use super::OpenError;
use super::statements::Statements;
use crate::store::StoreError;

/// How long a read may take, and a plain write.
const PLAIN: Duration = Duration::from_secs(3);
/// How long a conditional statement may take; beside others for the same row it takes several rounds.
const CONDITIONAL: Duration = Duration::from_secs(5);
/// How long a change of the schema may take: every node has a part in it.
const SCHEMA: Duration = Duration::from_secs(30);
/// How long one node may take to answer a connection.
const CONNECT: Duration = Duration::from_secs(3);
/// After so long without a word a node is asked whether it is there; one that stands still closes no connection.
const ALIVE: Duration = Duration::from_secs(2);
/// How long it may take to say so, before its connections are given up.
const ALIVE_ANSWER: Duration = Duration::from_secs(3);
/// After so long another node is asked the same, where that does no harm; twice at most.
const SPECULATE: Duration = Duration::from_millis(250);
/// The first pause after all connections were lost; it doubles.
const RECONNECT: Duration = Duration::from_millis(50);
/// The longest such pause.
const RECONNECT_LONGEST: Duration = Duration::from_millis(400);
/// How many rows of a whole table are read at once.
const SCAN_PAGE: i32 = 200;
/// How many reads of one call run side by side.
pub(super) const SIDE_BY_SIDE: usize = 32;

/// Whether one data centre decides, or all of them together.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Reach {
    /// `LOCAL_QUORUM` and `LOCAL_SERIAL`: one home data centre.
    Local,
    /// `QUORUM` and `SERIAL`.
    Global,
}

impl Reach {
    pub(super) fn is_local(self) -> bool {
        self == Reach::Local
    }

    fn quorum(self) -> Consistency {
        match self {
            Reach::Local => Consistency::LocalQuorum,
            Reach::Global => Consistency::Quorum,
        }
    }

    fn serial(self) -> SerialConsistency {
        match self {
            Reach::Local => SerialConsistency::LocalSerial,
            Reach::Global => SerialConsistency::Serial,
        }
    }

    fn serial_read(self) -> Consistency {
        match self {
            Reach::Local => Consistency::LocalSerial,
            Reach::Global => Consistency::Serial,
        }
    }
}

/// On how many nodes each row lies.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Replication {
    /// So many, in the home data centre.
    Simple(u8),
    /// So many in each data centre.
    Datacenters(BTreeMap<String, u8>),
}

impl FromStr for Replication {
    type Err = &'static str;

    /// From `3`, or `dc1:3,dc2:3`.
    fn from_str(text: &str) -> Result<Self, Self::Err> {
        const RULE: &str = "must be a number of 1 to 9, or such numbers by data centre as in dc1:3,dc2:3";
        let factor = |text: &str| text.parse().ok().filter(|factor| (1..=9).contains(factor)).ok_or(RULE);
        if !text.contains(':') {
            return factor(text).map(Replication::Simple);
        }
        let datacenter = |part: &str| {
            let (name, number) = part.trim().split_once(':').ok_or(RULE)?;
            // It stands in a statement, where nothing can be bound.
            let fits = |b: u8| b.is_ascii_alphanumeric() || matches!(b, b'_' | b'-' | b'.');
            if name.is_empty() || !name.bytes().all(fits) {
                return Err(RULE);
            }
            Ok((name.to_owned(), factor(number)?))
        };
        text.split(',').map(datacenter).collect::<Result<_, _>>().map(Replication::Datacenters)
    }
}

impl Replication {
    /// As `CREATE KEYSPACE` takes it; a plain number is for the data centre that is home.
    pub(super) fn cql(&self, home: &str) -> String {
        match self {
            Replication::Simple(factor) => {
                let home = home.replace('\'', "''");
                format!("{{'class': 'NetworkTopologyStrategy', '{home}': {factor}}}")
            }
            Replication::Datacenters(factors) => {
                let each = factors.iter().map(|(name, factor)| format!(", '{name}': {factor}"));
                format!("{{'class': 'NetworkTopologyStrategy'{}}}", each.collect::<String>())
            }
        }
    }
}

/// How to reach a cluster.
#[derive(Debug, Clone)]
pub struct Setting {
    /// Nodes to begin with, as `host:port`.
    pub hosts: Vec<String>,
    /// `[a-z][a-z0-9_]{0,47}`.
    pub keyspace: String,
    /// Whether the keyspace is made if there is none.
    pub create_keyspace: bool,
    pub replication: Replication,
    pub consistency: Reach,
    /// Needed where the cluster has several.
    pub datacenter: Option<String>,
    pub login: Option<(String, Secret)>,
    /// With it the connection is encrypted.
    pub tls: Option<Tls>,
}

/// The authorities whose certificates the nodes must show.
#[derive(Debug, Clone)]
pub struct Tls(Arc<rustls::ClientConfig>);

impl Tls {
    /// From certificates in PEM.
    ///
    /// # Errors
    /// What is wrong with them.
    pub fn from_pem(pem: &[u8]) -> Result<Self, String> {
        let mut roots = rustls::RootCertStore::empty();
        for certificate in CertificateDer::pem_slice_iter(pem) {
            roots.add(certificate.map_err(|e| e.to_string())?).map_err(|e| e.to_string())?;
        }
        if roots.is_empty() {
            return Err("holds no certificate".to_owned());
        }
        let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
        let builder =
            rustls::ClientConfig::builder_with_provider(provider).with_safe_default_protocol_versions();
        let builder = builder.map_err(|e| e.to_string())?;
        Ok(Self(Arc::new(builder.with_root_certificates(roots).with_no_client_auth())))
    }
}

/// A session and the statements prepared on it.
#[derive(Debug)]
pub(super) struct Cluster {
    pub session: Session,
    pub statements: Statements,
    /// Whoever holds it may go to the guard of the root admins.
    pub guard_turn: tokio::sync::Mutex<()>,
}

/// How a statement is run.
#[derive(Debug, Clone, Copy)]
pub(super) enum Kind {
    /// A read at quorum.
    Read,
    /// The same of a whole table, page by page.
    Scan,
    /// A read that takes part in the order of the conditional statements.
    Serial,
    /// A conditional write: never repeated by the driver.
    Conditional,
    /// A write that can be repeated, since it carries its own timestamp.
    Plain,
    /// A write that may be lost.
    Note,
}

/// The execution profiles.
#[derive(Debug)]
pub(super) struct Profiles {
    reach: Reach,
    plain: ExecutionProfileHandle,
    conditional: ExecutionProfileHandle,
}

impl Profiles {
    pub(super) fn new(reach: Reach, datacenter: Option<&str>) -> Self {
        let mut nodes = DefaultPolicy::builder().token_aware(true);
        if let (Some(datacenter), Reach::Local) = (datacenter, reach) {
            nodes = nodes.prefer_datacenter(datacenter.to_owned());
        }
        let nodes = nodes.build();
        let base = || {
            ExecutionProfile::builder()
                .consistency(reach.quorum())
                .serial_consistency(Some(reach.serial()))
                .load_balancing_policy(nodes.clone())
        };
        let speculate = SimpleSpeculativeExecutionPolicy { max_retry_count: 2, retry_interval: SPECULATE };
        let plain = base()
            .request_timeout(Some(PLAIN))
            .retry_policy(Arc::new(DefaultRetryPolicy::new()))
            .speculative_execution_policy(Some(Arc::new(speculate)))
            .build();
        let conditional = base()
            .request_timeout(Some(CONDITIONAL))
            .retry_policy(Arc::new(FallthroughRetryPolicy::new()))
            .build();
        Self { reach, plain: plain.into_handle(), conditional: conditional.into_handle() }
    }

    pub(super) async fn prepare(
        &self,
        session: &Session,
        kind: Kind,
        cql: &str,
    ) -> Result<PreparedStatement, StoreError> {
        let mut statement = session.prepare(cql).await.map_err(unavailable)?;
        let (profile, idempotent) = match kind {
            Kind::Read | Kind::Scan | Kind::Plain | Kind::Note => (&self.plain, true),
            Kind::Serial | Kind::Conditional => (&self.conditional, false),
        };
        statement.set_execution_profile_handle(Some(profile.clone()));
        statement.set_is_idempotent(idempotent);
        // The shape of a conditional statement's answer varies with its outcome.
        statement.set_use_cached_result_metadata(!matches!(kind, Kind::Conditional));
        match kind {
            Kind::Serial => statement.set_consistency(self.reach.serial_read()),
            Kind::Note => statement.set_consistency(Consistency::LocalOne),
            Kind::Scan => statement.set_page_size(SCAN_PAGE),
            Kind::Read | Kind::Plain | Kind::Conditional => {}
        }
        Ok(statement)
    }
}

/// Connects, without a keyspace yet. What is not prepared on this session changes the schema, or asks about it.
pub(super) async fn connect(setting: &Setting) -> Result<Session, StoreError> {
    let profile = ExecutionProfile::builder()
        .consistency(setting.consistency.quorum())
        .serial_consistency(Some(setting.consistency.serial()))
        .request_timeout(Some(SCHEMA));
    let mut builder = SessionBuilder::new()
        .known_nodes(&setting.hosts)
        .connection_timeout(CONNECT)
        .keepalive_interval(ALIVE)
        .keepalive_timeout(ALIVE_ANSWER)
        .default_execution_profile_handle(profile.build().into_handle());
    if let Some((user, password)) = &setting.login {
        builder = builder.user(user, password.expose());
    }
    if let Some(Tls(tls)) = &setting.tls {
        builder = builder.tls_context(Some(tls.clone()));
    }
    builder.build().await.map_err(|error: NewSessionError| StoreError::Unavailable(error.to_string()))
}

/// The data centre that is home: the one given, or the only one.
///
/// # Errors
/// `Datacenter` with the remedy.
pub(super) fn home(session: &Session, setting: &Setting) -> Result<String, OpenError> {
    let state = session.get_cluster_state();
    let mut known: Vec<&str> =
        state.get_nodes_info().iter().filter_map(|node| node.datacenter.as_deref()).collect();
    known.sort_unstable();
    known.dedup();
    match (&setting.datacenter, known.as_slice()) {
        (Some(named), known) if known.contains(&named.as_str()) => Ok(named.clone()),
        (None, [only]) => Ok((*only).to_owned()),
        (Some(named), known) => Err(OpenError::Datacenter(format!(
            "there is no data centre `{named}`; there is {}",
            known.join(", ")
        ))),
        (None, known) => {
            Err(OpenError::Datacenter(format!("must say which data centre is home: {}", known.join(", "))))
        }
    }
}

impl Cluster {
    /// Runs a read; its rows.
    pub(super) async fn rows<R>(
        &self,
        statement: &PreparedStatement,
        values: impl SerializeRow,
    ) -> Result<Vec<R>, StoreError>
    where
        R: for<'f> DeserializeRow<'f, 'f>,
    {
        self.typed(statement, self.steadily(statement, values).await.map_err(unavailable)?)
    }

    /// Runs what can be repeated, and waits for a moment where every connection has just been lost. What else can be
    /// tried again the driver tries on another node.
    async fn steadily(
        &self,
        statement: &PreparedStatement,
        values: impl SerializeRow,
    ) -> Result<QueryResult, ExecutionError> {
        let mut pause = RECONNECT;
        loop {
            match self.session.execute_unpaged(statement, &values).await {
                Err(error) if pause <= RECONNECT_LONGEST && super::conditional::no_connection(&error) => {
                    tokio::time::sleep(pause).await;
                    pause *= 2;
                }
                outcome => return outcome,
            }
        }
    }

    /// The rows of an answer.
    pub(super) fn typed<R>(
        &self,
        statement: &PreparedStatement,
        answer: QueryResult,
    ) -> Result<Vec<R>, StoreError>
    where
        R: for<'f> DeserializeRow<'f, 'f>,
    {
        let odd = |error: String| StoreError::Corrupt {
            table: "(answer)",
            key: statement.get_table_name().unwrap_or_default().to_owned(),
            cause: error,
        };
        let rows = answer.into_rows_result().map_err(|e| odd(e.to_string()))?;
        let typed = rows.rows::<R>().map_err(|e| odd(e.to_string()))?;
        typed.collect::<Result<_, _>>().map_err(|e| odd(e.to_string()))
    }

    /// Runs a read of one row.
    pub(super) async fn row<R>(
        &self,
        statement: &PreparedStatement,
        values: impl SerializeRow,
    ) -> Result<Option<R>, StoreError>
    where
        R: for<'f> DeserializeRow<'f, 'f>,
    {
        Ok(self.rows(statement, values).await?.into_iter().next())
    }

    /// Runs a plain write. It can be repeated, so that the driver does; when all fails it may or may not have
    /// happened, though the last attempt found no connection any more: an earlier one may have got through.
    pub(super) async fn write(
        &self,
        statement: &PreparedStatement,
        values: impl SerializeRow,
    ) -> Result<(), StoreError> {
        let written = self.steadily(statement, values).await;
        written.map(drop).map_err(|error| StoreError::OutcomeUnknown(error.to_string()))
    }
}

/// Runs some reads side by side, and gives their results in order.
pub(super) async fn side_by_side<T, F>(calls: Vec<F>) -> Result<Vec<T>, StoreError>
where
    F: Future<Output = Result<T, StoreError>>,
{
    futures_util::stream::iter(calls).buffered(SIDE_BY_SIDE).try_collect().await
}

/// The store does not answer.
pub(super) fn unavailable(error: impl std::fmt::Display) -> StoreError {
    StoreError::Unavailable(error.to_string())
}
