//! What each operation asks of the cluster when nothing is in memory, by the server's own traces.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Write;
use std::sync::Arc;
use std::time::Duration;

use iam_schema::{OperationName, Secret};
use iam_svc::domain::policy::Policy;
use iam_svc::store::cassandra::{CassandraStore, Setting};
use iam_tests::cassandra::{Keyspace, hosts};
use iam_tests::cql_proxy::CqlProxy;
use iam_tests::scene::As::{self, Holder, Service};
use iam_tests::world::Setup;
use iam_tests::{Scene, World};
use scylla::client::session::Session;
use scylla::deserialize::row::DeserializeRow;
use scylla::statement::Consistency;
use scylla::statement::unprepared::Statement;
use serde_json::{Value, json};
use uuid::Uuid;

use crate::golden::compare;

const PASSWORD: &str = "violet-anvil-93-sings";
/// The operations that look through the whole deployment: a page of it, or whether there is any user yet.
const WALKS: &[OperationName] = &[
    OperationName::ListUsers,
    OperationName::ListWorkspaces,
    OperationName::Bootstrap,
    OperationName::BootstrapStatus,
];

/// What the server says of one statement.
#[derive(Debug)]
struct Trace {
    query: String,
    activities: BTreeSet<String>,
}

/// Reads a table of traces: there are to be two of each, whatever the size of the cluster.
async fn look<R>(session: &Session, columns: &str, table: &str, id: Uuid) -> Vec<R>
where
    R: for<'f, 'm> DeserializeRow<'f, 'm>,
{
    let text = format!("SELECT {columns} FROM system_traces.{table} WHERE session_id = ?");
    let mut statement = Statement::new(text);
    statement.set_consistency(Consistency::One);
    let answer = session.query_unpaged(statement, (id,)).await.expect("the trace");
    let rows = answer.into_rows_result().expect("rows");
    rows.rows::<R>().expect("its columns").map(|row| row.expect("a row")).collect()
}

impl Trace {
    /// The trace, once the server has written all of it.
    async fn read(session: &Session, id: Uuid) -> Self {
        type Head = (Option<i32>, Option<BTreeMap<String, String>>);
        for _ in 0..200 {
            let heads: Vec<Head> = look(session, "duration, parameters", "sessions", id).await;
            let activities: Vec<(String,)> = look(session, "activity", "events", id).await;
            // Both are written in the background, the duration at the end.
            if let (Some((Some(_), Some(parameters))), false) =
                (heads.into_iter().next(), activities.is_empty())
            {
                let query = parameters.get("query").cloned().unwrap_or_default();
                let query = query.split_whitespace().collect::<Vec<_>>().join(" ");
                return Self {
                    query,
                    activities: activities.into_iter().map(|(activity,)| activity).collect(),
                };
            }
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
        panic!("the server never finished the trace {id}");
    }

    fn says(&self, what: &str) -> bool {
        self.activities.iter().any(|activity| activity.contains(what))
    }

    /// What it did, and on which table.
    fn kind(&self) -> String {
        let words: Vec<&str> = self.query.split([' ', '(']).collect();
        let before = ["FROM", "INTO", "UPDATE"];
        let at = words.iter().position(|word| before.contains(word)).expect("a table");
        let table = words[at + 1];
        let paxos = self.says("ballot");
        let what = match (words[0], paxos) {
            ("SELECT", false) if self.says("range requests") => "range read",
            ("SELECT", false) => "read",
            ("SELECT", true) => "serial read",
            (_, true) => "conditional write",
            (_, false) => "write",
        };
        assert_eq!(
            paxos,
            self.query.contains(" IF ") || what == "serial read",
            "{}: {:?}",
            self.query,
            self.activities
        );
        format!("{what} of {table}")
    }
}

/// A deployment whose every statement can be traced.
struct Stage {
    keyspace: Keyspace,
    proxy: CqlProxy,
    world: World,
    told: String,
}

impl Stage {
    /// Asks with nothing in memory, and takes down what that asked of the server.
    async fn traced(&mut self, who: As<'_>, operation: &str, request: Value) -> Value {
        let s = Scene::new("traced", &self.world);
        self.world.dispatch.forget_everything();
        self.proxy.trace();
        let reply = s.ok(who, operation, request).await.0;
        let ids = self.proxy.traced();
        let mut kinds: BTreeMap<String, usize> = BTreeMap::new();
        for id in ids {
            let trace = Trace::read(&self.keyspace.session, id).await;
            assert!(!trace.query.contains("ALLOW FILTERING"), "{operation}: {}", trace.query);
            assert!(!trace.query.contains(" IN ("), "{operation}: {}", trace.query);
            let kind = trace.kind();
            let walks = WALKS.iter().any(|name| name.as_str() == operation);
            assert!(walks || !kind.starts_with("range"), "{operation}: {}", trace.query);
            *kinds.entry(kind).or_default() += 1;
        }
        let total: usize = kinds.values().sum();
        let kinds: Vec<String> = kinds
            .into_iter()
            .map(|(kind, count)| if count == 1 { kind } else { format!("{count} × {kind}") })
            .collect();
        writeln!(self.told, "| {operation} | {total} | {} |", kinds.join(", ")).expect("a text");
        reply
    }
}

#[tokio::test]
async fn operations_ask_the_cluster_for_no_more_than_is_written_down() {
    let Some(hosts) = hosts() else { return };
    let keyspace = Keyspace::claim(&hosts).await;
    let proxy = CqlProxy::to(&hosts[0]).await;
    let setup = Setup::default();
    let policy = Arc::new(Policy::build(&setup.policy).expect("a policy"));
    let setting = Setting { hosts: vec![proxy.address()], ..keyspace.setting.clone() };
    let store = CassandraStore::open(&setting, Arc::new(policy.root_roles())).await.expect("a store");
    let world = World::over(Arc::new(store), policy, setup);
    let told = "# What operations ask of Cassandra\n\n\
                Each with nothing in memory, as the traces of a server of one node show it: statements, and what they \
                are. A page of a workspace's users is read from 16 partitions of its index, and user by user.\n\n\
                | operation | statements | which |\n| --- | --- | --- |\n";
    let mut stage = Stage { keyspace, proxy, world, told: told.to_owned() };
    let admin = everything(&mut stage).await;
    drop(admin);
    let named: BTreeSet<&str> =
        stage.told.lines().filter_map(|line| line.strip_prefix("| ")?.split(' ').next()).collect();
    // Without an anonymous user that one is refused before anything is asked.
    let missing: Vec<_> = OperationName::ALL
        .iter()
        .map(|operation| operation.as_str())
        .filter(|name| !named.contains(name) && *name != "authenticate-anonymous")
        .collect();
    assert!(missing.is_empty(), "no row for {missing:?}");
    // A larger cluster may be asked twice, where a node takes its time.
    if hosts.len() == 1 {
        compare("cassandra-queries.md", &stage.told);
    }
}

/// The life of a small deployment, operation by operation.
async fn everything(stage: &mut Stage) -> Secret {
    let text =
        |reply: &Value, at: &str| reply.pointer(at).and_then(Value::as_str).expect("a text").to_owned();
    stage.traced(As::Nobody, "bootstrap-status", json!({})).await;
    let seeded = stage.traced(As::Nobody, "bootstrap", json!({})).await;
    let root = text(&seeded, "/bootstrap_admin_user_id");
    let admin = Secret::new(text(&seeded, "/bootstrap_admin_api_key"));
    let acme = json!({ "workspace_record": { "id": "acme", "name": "Acme" } });
    stage.traced(Service, "create-workspace", acme.clone()).await;
    let user = json!({ "username": "ada", "roles": ["reader"], "password": PASSWORD });
    let made = stage.traced(Service, "create-user", json!({ "workspace": "acme", "user": user })).await;
    let ada = text(&made, "/user/id");
    let about = |fields: Value| {
        let mut request = json!({ "user_id": ada });
        request.as_object_mut().expect("an object").extend(fields.as_object().expect("an object").clone());
        request
    };
    let login = json!({ "username": "ada", "password": PASSWORD });
    let token = Secret::new(text(&stage.traced(Service, "login", login).await, "/jwt"));
    let made =
        stage.traced(Service, "create-api-key", json!({ "key": { "user_id": ada, "name": "laptop" } })).await;
    let (key_id, key) = (text(&made, "/api_key/id"), Secret::new(text(&made, "/api_key_plaintext")));
    for credential in [&token, &key] {
        stage.traced(Service, "authenticate", json!({ "credential": credential.expose() })).await;
    }
    stage.traced(Service, "resolve-api-key", json!({ "api_key": key.expose() })).await;
    let may = about(json!({ "capability": "agent", "resource_json": r#"{"workspace":"acme"}"# }));
    stage.traced(Service, "authorise", may.clone()).await;
    stage.traced(Holder(&key), "authorise", may.clone()).await;
    stage.traced(Service, "explain", may).await;
    let checks = Value::from(vec![json!({ "capability": "agent" }); 10]).to_string();
    stage.traced(Service, "authorise-many", about(json!({ "authorise_checks": checks }))).await;
    stage.traced(Holder(&token), "whoami", json!({})).await;
    stage.traced(Holder(&token), "list-my-workspaces", json!({})).await;
    for operation in ["get-signing-key-public", "get-jwks"] {
        stage.traced(As::Nobody, operation, json!({})).await;
    }
    stage.traced(Service, "get-user", about(json!({}))).await;
    stage.traced(Service, "get-user", json!({ "username": "ada" })).await;
    stage.traced(Service, "list-users", json!({})).await;
    stage.traced(Service, "list-users", json!({ "workspace": "acme" })).await;
    stage.traced(Service, "list-api-keys", about(json!({}))).await;
    stage.traced(Service, "update-user", about(json!({ "user": { "name": "Ada" } }))).await;
    let change = json!({ "password": PASSWORD, "new_password": "plum-orbit-7431-kettle" });
    stage.traced(Holder(&token), "change-password", about(change)).await;
    stage.traced(Service, "reset-password", about(json!({}))).await;
    stage.traced(Service, "revoke-user-tokens", about(json!({}))).await;
    stage.traced(Service, "revoke-api-key", json!({ "key_id": key_id })).await;
    stage.traced(Service, "disable-user", about(json!({}))).await;
    stage.traced(Service, "enable-user", about(json!({}))).await;
    stage.traced(Service, "delete-user", about(json!({}))).await;
    stage.traced(Service, "get-workspace", acme.clone()).await;
    stage.traced(Service, "list-workspaces", json!({})).await;
    let update = json!({ "workspace_record": { "id": "acme", "name": "Acme Ltd" } });
    stage.traced(Service, "update-workspace", update).await;
    // With two root admins each change of one asks the guard.
    let second = json!({ "username": "grace", "roles": ["admin"] });
    let made = stage.traced(Service, "create-user", json!({ "workspace": "default", "user": second })).await;
    stage.traced(Service, "disable-user", json!({ "user_id": text(&made, "/user/id") })).await;
    stage.traced(Service, "disable-workspace", acme).await;
    let rotated = stage.traced(Service, "rotate-signing-key", json!({})).await;
    let set = stage.traced(As::Nobody, "get-jwks", json!({})).await;
    let set: Value = serde_json::from_str(&text(&set, "/jwks_json")).expect("a set");
    let kid = text(&set, "/keys/0/kid");
    stage.traced(Service, "retire-signing-key", json!({ "key_id": kid })).await;
    let _ = (root, rotated);
    admin
}
