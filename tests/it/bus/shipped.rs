//! The permissions that we ship: each kind of client can do its work with them.

use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::process::{Child, Stdio};
use std::time::Duration;

use iam_client::gateway::{Gateway, Question, Setting};
use iam_client::{Client, ClientError, Connection, NatsLogin};
use iam_schema::Secret;
use iam_schema::subject::Plane;
use iam_tests::HttpGateway;
use iam_tests::deployment::{log_in, spawn};
use iam_tests::nats_server::NatsServer;
use serde_json::json;

/// The users of `deploy/nats/iam.conf`, each with the variable of its password.
const USERS: &[(&str, &str)] = &[
    ("iam-svc", "IAM_SVC_PASSWORD"),
    ("gateway", "IAM_ENFORCEMENT_PASSWORD"),
    ("iam-gateway", "IAM_GATEWAY_PASSWORD"),
    ("app", "IAM_APP_PASSWORD"),
    ("operator", "IAM_OPERATOR_PASSWORD"),
];

fn password(user: &str) -> String {
    format!("secret-of-{user}")
}

/// Ends the service with the test.
struct Service(Child);

impl Drop for Service {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

fn connection(url: &str, user: &str) -> Connection {
    Connection {
        login: NatsLogin::UserPassword { user: user.to_owned(), password: Secret::new(password(user)) },
        inbox_prefix: format!("_INBOX_{user}"),
        ..Connection::to([url])
    }
}

/// What programs are given to log in as a user.
fn login(dir: &Path, user: &str) -> [String; 4] {
    let path = dir.join(user);
    std::fs::write(&path, password(user)).expect("written");
    std::fs::set_permissions(&path, PermissionsExt::from_mode(0o600)).expect("private");
    let path = path.to_string_lossy().into_owned();
    ["--nats-user".to_owned(), user.to_owned(), "--nats-password-file".to_owned(), path]
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn every_kind_of_client_does_its_work_under_the_permissions_that_we_ship() {
    let variables: Vec<(&str, String)> = USERS.iter().map(|(user, name)| (*name, password(user))).collect();
    let shipped = Path::new(env!("CARGO_MANIFEST_DIR")).join("../deploy/nats/iam.conf");
    // An include is read relative to the file that it stands in.
    let text = std::fs::read_to_string(shipped).expect("the file that we ship");
    let Some(server) = NatsServer::start_in(&text, &variables).await else { return };
    let url = server.url();
    let dir = tempfile::tempdir().expect("a directory");
    let arguments = login(dir.path(), "iam-svc");
    let arguments: Vec<&str> = arguments.iter().map(String::as_str).collect();
    let log = Stdio::from(log_in(dir.path()));
    let _service = Service(spawn(&url, "iam", dir.path(), None, &arguments, &[], log));

    let arguments = login(dir.path(), "iam-gateway");
    let arguments: Vec<&str> = arguments.iter().map(String::as_str).collect();
    let http = HttpGateway::start(&url, "iam", &arguments).await;
    let seeded = http.post("/api/v1/auth/bootstrap", None, &json!({})).await.json();
    let root = seeded["bootstrap_admin_api_key"].as_str().expect("a key").to_owned();
    let made =
        http.ok(&root, "create-user", json!({ "user": { "username": "ada", "roles": ["reader"] } })).await;
    let ada = made["user"]["id"].as_str().expect("an id");
    let reset = http.ok(&root, "reset-password", json!({ "user_id": ada })).await;
    let current = reset["temporary_password"].as_str().expect("a password");
    let body = json!({ "username": "ada", "password": current });
    let limited = http.post("/api/v1/auth/login", None, &body).await.json();
    let body = json!({ "current_password": current, "new_password": "violet-anvil-93-sings" });
    let changed = http.post("/api/v1/auth/change-password", limited["jwt"].as_str(), &body).await;
    assert_eq!(changed.status, 200, "{changed:?}");
    for operation in ["list-users", "list-workspaces", "list-my-workspaces", "rotate-signing-key"] {
        http.ok(&root, operation, json!({})).await;
    }
    let key = http.ok(&root, "create-api-key", json!({ "key": { "user_id": ada, "name": "k" } })).await;
    let key_text = Secret::new(key["api_key_plaintext"].as_str().expect("a key"));

    let gateway =
        Gateway::connect(&connection(&url, "gateway"), Setting::default()).await.expect("a connection");
    gateway.ready(Duration::from_secs(10)).await.expect("ready");
    let caller = gateway.authenticate(&key_text).await.expect("known");
    let question = Question::within("graph:read", &caller.workspace);
    assert!(gateway.authorise(&caller, &question).await.expect("a decision").allow);

    let app = Client::connect(&connection(&url, "app")).await.expect("a connection");
    let app = app.with_credential(key_text.clone()).with_deadline(Duration::from_secs(10));
    assert_eq!(app.whoami().await.expect("oneself").username, "ada");
    let refused = app.clone().on(Plane::Service).whoami().await;
    assert!(
        matches!(refused, Err(ClientError::Transport(_))),
        "an application on the service plane: {refused:?}"
    );
    let operator = Client::connect(&connection(&url, "operator")).await.expect("a connection");
    assert_eq!(operator.on(Plane::Service).all_users(None).await.expect("a list").len(), 2);

    http.ok(&root, "revoke-api-key", json!({ "key_id": key["api_key"]["id"] })).await;
    for _ in 0..100 {
        if gateway.authenticate(&key_text).await.is_err() {
            return;
        }
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    panic!("the gateway does not hear of a revocation");
}
