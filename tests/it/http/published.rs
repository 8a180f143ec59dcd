//! The published clients, as their registry has them, through their whole lives against the gateway.
//!
//! `tests/run` installs them and says where in `IAM_TEST_CLIENTS`: a folder with one environment of Python for each
//! version. What no command of theirs does (rotation, the public key) is posted by hand.

use std::path::{Path, PathBuf};
use std::process::Stdio;

use serde_json::json;
use tokio::process::Command;

use super::{Front, PASSWORD};

/// The versions that are played: the first with this protocol, and the newest.
const VERSIONS: &[&str] = &["2.4.33", "2.11.1"];

/// Asks over the WebSocket with the very file of the package. The package around it imports much that is not needed
/// for it, so that it is left out.
const SOCKET: &str = r#"
import os, sys, sysconfig, types
site = sysconfig.get_paths()["purelib"]
for name in ("trustgraph", "trustgraph.api"):
    module = types.ModuleType(name)
    module.__path__ = [os.path.join(site, *name.split("."))]
    sys.modules[name] = module
from trustgraph.api.socket_client import SocketClient
client = SocketClient(os.environ["TRUSTGRAPH_URL"], 20, os.environ.get("TRUSTGRAPH_TOKEN"))
try:
    for _ in range(3):
        print(client._send_request_sync("iam", None, {"operation": "whoami"})["user"]["username"])
finally:
    client.close()
"#;

/// The clients of a version at work.
struct Clients<'f> {
    front: &'f Front,
    bin: PathBuf,
    version: &'static str,
}

/// How a command ended.
struct Ended {
    code: Option<i32>,
    stdout: String,
    stderr: String,
}

impl Clients<'_> {
    async fn run(&self, program: &str, arguments: &[&str], token: &str) -> Ended {
        let mut command = Command::new(self.bin.join(program));
        command.args(arguments).stdin(Stdio::null()).env_remove("TRUSTGRAPH_TOKEN");
        command.env("TRUSTGRAPH_URL", format!("http://{}/", self.front.gateway.address()));
        if !token.is_empty() {
            command.env("TRUSTGRAPH_TOKEN", token);
        }
        let output = command.output().await.expect("a command of Python");
        let text = |bytes: Vec<u8>| String::from_utf8(bytes).expect("UTF-8").trim().to_owned();
        Ended { code: output.status.code(), stdout: text(output.stdout), stderr: text(output.stderr) }
    }

    /// A command that succeeds; what it prints.
    async fn ok(&self, program: &str, arguments: &[&str], token: &str) -> String {
        let ended = self.run(program, arguments, token).await;
        let first = ended.stdout.lines().next().unwrap_or_default().to_owned();
        println!("{} {program:<22} {:?} {:.40}", self.version, ended.code, first);
        assert_eq!(ended.code, Some(0), "{program} {arguments:?}: {} {}", ended.stdout, ended.stderr);
        ended.stdout
    }

    /// A command that fails and says why.
    async fn fails(&self, program: &str, arguments: &[&str], token: &str, why: &str) {
        let ended = self.run(program, arguments, token).await;
        println!("{} {program:<22} {:?} {}", self.version, ended.code, ended.stderr);
        assert_eq!(
            (ended.code, ended.stderr.as_str()),
            (Some(1), why),
            "{program} {arguments:?}: {}",
            ended.stdout
        );
    }

    async fn has(&self, program: &str) -> bool {
        tokio::fs::metadata(self.bin.join(program)).await.is_ok()
    }
}

/// The user's id in what `tg-list-users` prints, whose table breaks lines nowhere.
fn row<'t>(table: &'t str, of: &str) -> Option<&'t str> {
    table.lines().find(|line| line.contains(of))
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn published_commands_run_their_whole_life_against_the_gateway() {
    let Ok(clients) = std::env::var("IAM_TEST_CLIENTS") else {
        assert!(
            std::env::var("CI").is_err(),
            "CI must test the published clients: IAM_TEST_CLIENTS is not set"
        );
        println!("skipped: IAM_TEST_CLIENTS is not set; tests/run installs the published clients");
        return;
    };
    for version in VERSIONS {
        life(Path::new(&clients).join(version).join("bin"), version).await;
    }
}

async fn life(bin: PathBuf, version: &'static str) {
    let Some(front) = Front::start_empty(&[]).await else { return };
    let c = Clients { front: &front, bin, version };
    let root = c.ok("tg-bootstrap-iam", &[], "").await;
    assert!(root.starts_with("tg_"), "{root}");
    c.fails("tg-bootstrap-iam", &[], "", r#"Exception: HTTP 401: {"error":"auth failure"}"#).await;
    let me = c.ok("tg-whoami", &[], &root).await;
    assert!(row(&me, "username").is_some_and(|row| row.contains("admin")), "{me}");
    assert!(row(&me, "workspace").is_some_and(|row| row.contains("default")), "{me}");
    c.fails("tg-whoami", &[], "", "Exception: HTTP 401: auth failure").await;
    c.fails("tg-whoami", &[], "tg_wrong", "Exception: HTTP 401: auth failure").await;

    let made = c.ok("tg-create-workspace", &["--workspace-id", "acme", "--name", "Acme"], &root).await;
    assert_eq!(made, "Workspace created: acme");
    let twice = ["--workspace-id", "acme"];
    c.fails("tg-create-workspace", &twice, &root, "Exception: HTTP 409: duplicate: workspace id is taken")
        .await;
    assert!(row(&c.ok("tg-list-workspaces", &[], &root).await, "acme").is_some());

    let ada = ["--username", "ada", "--password", PASSWORD, "--name", "Ada", "--email", "ada@example.org"];
    let id = c.ok("tg-create-user", &[&ada[..], &["--roles", "writer", "-w", "acme"]].concat(), &root).await;
    c.fails("tg-create-user", &ada, &root, "Exception: HTTP 409: duplicate: username is taken").await;
    let home = c.ok("tg-create-user", &["--username", "homeless", "--password", PASSWORD], &root).await;
    let users = c.ok("tg-list-users", &[], &root).await;
    for user in ["admin", "ada", "homeless"] {
        assert!(row(&users, user).is_some(), "{user} in {users}");
    }
    let acme = c.ok("tg-list-users", &["-w", "acme"], &root).await;
    assert!(row(&acme, "ada").is_some() && row(&acme, "homeless").is_none(), "{acme}");
    let login = ["--username", "ada", "--password", PASSWORD];
    let token = c.ok("tg-login", &login, "").await;
    let wrong = ["--username", "ada", "--password", "wrong"];
    c.fails("tg-login", &wrong, "", "Exception: HTTP 401: auth failure").await;
    c.fails("tg-list-users", &[], &token, "Exception: HTTP 403: access denied").await;
    if c.has("tg-list-my-workspaces").await {
        let mine = c.ok("tg-list-my-workspaces", &[], &token).await;
        assert!(row(&mine, "acme").is_some() && row(&mine, "default").is_none(), "{mine}");
    }

    let updated = c.ok("tg-update-user", &["--user-id", &id, "--name", "Ada L."], &root).await;
    assert!(updated.contains("Ada L."), "{updated}");
    c.ok("tg-disable-user", &["--user-id", &id], &root).await;
    c.fails("tg-whoami", &[], &token, "Exception: HTTP 401: auth failure").await;
    c.fails("tg-login", &login, "", "Exception: HTTP 401: auth failure").await;
    // A name changes, and nothing else with it.
    c.ok("tg-update-user", &["--user-id", &id, "--name", "Ada"], &root).await;
    c.fails("tg-login", &login, "", "Exception: HTTP 401: auth failure").await;
    assert_eq!(c.ok("tg-enable-user", &["--user-id", &id], &root).await, format!("Enabled user {id}"));

    let temporary = c.ok("tg-reset-password", &["--user-id", &id], &root).await;
    c.fails("tg-login", &login, "", "Exception: HTTP 401: auth failure").await;
    let limited = c.ok("tg-login", &["--username", "ada", "--password", &temporary], "").await;
    c.fails("tg-list-api-keys", &["--user-id", &id], &limited, "Exception: HTTP 401: auth failure").await;
    let change = ["--current", &temporary, "--new", PASSWORD];
    assert_eq!(c.ok("tg-change-password", &change, &limited).await, "Password changed.");
    let token = c.ok("tg-login", &login, "").await;

    let key = ["--user-id", &id, "--name", "laptop", "--expires", "2099-01-31T12:00:00Z"];
    let key = c.ok("tg-create-api-key", &key, &token).await;
    assert!(c.ok("tg-whoami", &[], &key).await.contains("ada"));
    let keys = c.ok("tg-list-api-keys", &["--user-id", &id], &token).await;
    assert!(row(&keys, "laptop").is_some(), "{keys}");
    let listed = front.gateway.ok(&token, "list-api-keys", json!({ "user_id": id })).await;
    let key_id = listed["api_keys"][0]["id"].as_str().expect("an id").to_owned();
    assert_eq!(
        c.ok("tg-revoke-api-key", &["--key-id", &key_id], &token).await,
        format!("Revoked key {key_id}")
    );
    c.fails("tg-whoami", &[], &key, "Exception: HTTP 401: auth failure").await;
    assert!(!c.ok("tg-list-api-keys", &["--user-id", &id], &token).await.contains("laptop"));

    // No command does these.
    let pem = front.gateway.ok("", "get-signing-key-public", json!({})).await;
    front.gateway.ok(&root, "rotate-signing-key", json!({})).await;
    assert_ne!(front.gateway.ok("", "get-signing-key-public", json!({})).await, pem);
    for token in [&token, &c.ok("tg-login", &login, "").await] {
        assert!(c.ok("tg-whoami", &[], token).await.contains("ada"));
    }
    assert_eq!(c.ok("python", &["-c", SOCKET], &token).await, "ada\nada\nada");
    let refused = c.run("python", &["-c", SOCKET], "tg_wrong").await;
    assert!(refused.code == Some(1) && refused.stderr.contains("auth failure"), "{}", refused.stderr);

    assert_eq!(
        c.ok("tg-delete-user", &["--user-id", &home, "--yes"], &root).await,
        format!("Deleted user {home}")
    );
    c.fails("tg-disable-user", &["--user-id", &home], &root, "Exception: HTTP 404: not-found: no such user")
        .await;
}
