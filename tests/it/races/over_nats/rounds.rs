//! Rounds: prepared, run by many at once, and judged.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::{Duration, Instant};

use async_trait::async_trait;
use iam_client::{Client, Connection};
use iam_schema::Secret;
use iam_tests::scene::As::{self, Holder, Nobody, Service};
use iam_tests::{Deployment, Reply, Scene};
use serde_json::{Value, json};
use tokio::sync::Barrier;

use super::Size;
use super::table::{Row, Table};

/// Connections that callers share in turn.
const CONNECTIONS: usize = 8;

/// Who asks.
#[derive(Debug, Clone)]
pub(super) enum By {
    Service,
    Nobody,
    Holder(Secret),
}

/// One caller's request.
#[derive(Debug, Clone)]
pub(super) struct Ask {
    pub(super) by: By,
    pub(super) operation: &'static str,
    pub(super) request: Value,
}

impl Ask {
    pub(super) fn new(by: By, operation: &'static str, request: Value) -> Self {
        Self { by, operation, request }
    }
}

/// What a round starts from: facts by name, for the requests and for the judge.
pub(super) type Facts = BTreeMap<String, String>;

/// A race over NATS.
#[async_trait]
pub(super) trait Race: Send + Sync {
    fn name(&self) -> &'static str;

    /// Whether its callers make the service hash passwords.
    fn hashes(&self) -> bool {
        false
    }

    /// Makes what the round is about. `n` is a number that no round had before.
    async fn prepare(&self, arena: &Arena, n: usize, callers: usize) -> Facts;

    /// What caller `i` asks.
    fn ask(&self, arena: &Arena, facts: &Facts, i: usize, callers: usize) -> Ask;

    /// Says what is wrong, and clears away what later rounds must not find; gives the number of winners.
    async fn judge(&self, arena: &Arena, facts: &Facts, asked: &[(Ask, Reply)]) -> Result<usize, String>;
}

/// A deployment with its root admin, and many connections to it.
pub(super) struct Arena {
    deployment: Deployment,
    connections: Vec<Client>,
    /// The admin that bootstrap made. No race is about this one.
    pub(super) key: Secret,
    pub(super) root: String,
}

impl Arena {
    pub(super) async fn open(url: &str) -> Self {
        let deployment = Deployment::start(url, &["--log", "warn"]).await;
        let (root, key) = Scene::new("opening", &deployment).bootstrap().await;
        let connections = connections(url, &deployment).await;
        Self { deployment, connections, key, root }
    }

    pub(super) fn scene(&self) -> Scene<'_> {
        Scene::new("races", &self.deployment)
    }

    /// A trusted service for even callers, the root admin on the API plane for odd ones.
    pub(super) fn either(&self, i: usize) -> By {
        if i.is_multiple_of(2) { By::Service } else { By::Holder(self.key.clone()) }
    }

    pub(super) async fn ok(&self, operation: &str, request: Value) -> Reply {
        self.scene().ok(Service, operation, request).await
    }

    /// Whether a credential authenticates.
    pub(super) async fn alive(&self, credential: &str) -> bool {
        let reply = self.scene().ask(Service, "authenticate", json!({ "credential": credential })).await;
        let error = reply.text("error.type");
        assert!(error.is_empty() || error == "auth-failed", "{}", reply.0);
        error.is_empty()
    }

    /// Every user.
    pub(super) async fn users(&self) -> Vec<Value> {
        let (mut users, mut token) = (Vec::new(), String::new());
        loop {
            let request = json!({ "page_size": 1000, "page_token": token });
            let page = self.ok("list-users", request).await;
            users.extend(page["users"].as_array().cloned().unwrap_or_default());
            token = page.text("next_page_token");
            if token.is_empty() {
                return users;
            }
        }
    }

    /// Runs all rounds of a race.
    pub(super) async fn run(&self, race: &dyn Race, size: Size, table: &mut Table) {
        static ROUND: std::sync::atomic::AtomicUsize = std::sync::atomic::AtomicUsize::new(0);
        let (mut row, mut faults) = (Row::default(), Vec::new());
        for _ in 0..size.rounds {
            let n = ROUND.fetch_add(1, std::sync::atomic::Ordering::Relaxed);
            let facts = race.prepare(self, n, size.callers).await;
            let asks: Vec<Ask> = (0..size.callers).map(|i| race.ask(self, &facts, i, size.callers)).collect();
            let begun = Instant::now();
            let replies = at_once(&self.connections, &asks).await;
            let seconds = begun.elapsed().as_secs_f64();
            let asked: Vec<(Ask, Reply)> = asks.into_iter().zip(replies.iter().cloned()).collect();
            faults.extend(odd(race.name(), &asked));
            let winners = match race.judge(self, &facts, &asked).await {
                Ok(winners) => winners,
                Err(fault) => {
                    faults.push(format!("{}, round {n}: {fault}", race.name()));
                    0
                }
            };
            let roots = self.users().await.iter().filter(|user| is_root(user)).count();
            if roots == 0 {
                faults.push(format!("{}, round {n}: no root admin is left", race.name()));
            }
            row.add(&replies, winners, roots, seconds);
        }
        table.add(race.name(), row, faults);
    }
}

/// Whether a record is that of a root admin.
pub(super) fn is_root(user: &Value) -> bool {
    user["enabled"] == true && user["roles"].as_array().is_some_and(|roles| roles.contains(&json!("admin")))
}

/// The answers that nobody should get.
fn odd(race: &str, asked: &[(Ask, Reply)]) -> Vec<String> {
    let odd = asked.iter().filter(|(_, reply)| {
        let error = reply.text("error.type");
        error == "internal-error" || error == "invalid-argument" || error.starts_with("no answer")
    });
    odd.map(|(ask, reply)| format!("{race}: {} {}: {}", ask.operation, ask.request, reply.0)).collect()
}

/// The index and reply of everybody who succeeded.
pub(super) fn won(asked: &[(Ask, Reply)]) -> Vec<(usize, &Ask, &Reply)> {
    let won = asked.iter().enumerate().filter(|(_, (_, reply))| reply.0.get("error").is_none());
    won.map(|(i, (ask, reply))| (i, ask, reply)).collect()
}

/// An error unless it holds.
pub(super) fn holds(what: bool, otherwise: impl FnOnce() -> String) -> Result<(), String> {
    if what { Ok(()) } else { Err(otherwise()) }
}

/// Connections of their own to a deployment.
pub(super) async fn connections(url: &str, deployment: &Deployment) -> Vec<Client> {
    let mut connections = Vec::new();
    for _ in 0..CONNECTIONS {
        let connection = Connection {
            subject_prefix: deployment.prefix().to_owned(),
            // Hash threads give way to everything else, and many callers wait for one.
            timeout: Duration::from_secs(120),
            ..Connection::to([url])
        };
        connections.push(Client::connect(&connection).await.expect("a NATS server"));
    }
    connections
}

/// Lets everybody ask at the same moment.
pub(super) async fn at_once(connections: &[Client], asks: &[Ask]) -> Vec<Reply> {
    let start = Arc::new(Barrier::new(asks.len()));
    let tasks: Vec<_> = asks
        .iter()
        .enumerate()
        .map(|(i, ask)| {
            let (start, ask) = (Arc::clone(&start), ask.clone());
            let client = connections[i % connections.len()].clone();
            tokio::spawn(async move {
                start.wait().await;
                let scene = Scene::new("races", &client);
                scene.ask(ask.by.caller(), ask.operation, ask.request).await
            })
        })
        .collect();
    let mut replies = Vec::new();
    for task in tasks {
        replies.push(task.await.expect("a caller"));
    }
    replies
}

impl By {
    fn caller(&self) -> As<'_> {
        match self {
            By::Service => Service,
            By::Nobody => Nobody,
            By::Holder(credential) => Holder(credential),
        }
    }
}
