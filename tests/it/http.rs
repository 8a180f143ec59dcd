//! `iam-gateway`, the real binary, over real NATS.

mod hostile;
mod management;
mod outages;
mod published;
mod served;
mod sockets;

use iam_tests::deployment::nats_url;
use iam_tests::{Deployment, HttpGateway};
use serde_json::{Value, json};

const PASSWORD: &str = "violet-anvil-93-sings";

/// A deployment with an admin, and a gateway in front of it.
struct Front {
    deployment: Deployment,
    gateway: HttpGateway,
    /// The admin's key.
    root: String,
}

impl Front {
    /// `None` where there is no NATS server to test with.
    async fn start(arguments: &[&str]) -> Option<Self> {
        let mut front = Self::start_empty(arguments).await?;
        let seeded = front.gateway.post("/api/v1/auth/bootstrap", None, &json!({})).await;
        assert_eq!(seeded.status, 200, "{seeded:?}");
        front.root = text(&seeded.json()["bootstrap_admin_api_key"]);
        Some(front)
    }

    /// Without an admin yet.
    async fn start_empty(arguments: &[&str]) -> Option<Self> {
        let url = nats_url()?;
        let deployment = Deployment::start(&url, &["--http-addr", "127.0.0.1:0"]).await;
        let gateway = HttpGateway::start(&url, deployment.prefix(), arguments).await;
        Some(Self { deployment, gateway, root: String::new() })
    }

    /// Makes a user with a password; the id.
    async fn user(&self, workspace: &str, username: &str, roles: &[&str]) -> String {
        let user = json!({ "username": username, "roles": roles, "password": PASSWORD });
        let made =
            self.gateway.ok(&self.root, "create-user", json!({ "workspace": workspace, "user": user })).await;
        text(&made["user"]["id"])
    }

    async fn workspace(&self, id: &str) {
        let record = json!({ "workspace_record": { "id": id } });
        self.gateway.ok(&self.root, "create-workspace", record).await;
    }

    /// Logs in; the token.
    async fn login(&self, username: &str, password: &str) -> String {
        let body = json!({ "username": username, "password": password });
        let reply = self.gateway.post("/api/v1/auth/login", None, &body).await;
        assert_eq!(reply.status, 200, "{reply:?}");
        text(&reply.json()["jwt"])
    }
}

/// What a process holds, in KiB.
fn resident(id: u32) -> u64 {
    let status = std::fs::read_to_string(format!("/proc/{id}/status")).expect("the process");
    let line = status.lines().find(|line| line.starts_with("VmRSS:")).expect("its size");
    line.split_whitespace().nth(1).and_then(|kib| kib.parse().ok()).expect("a number")
}

fn text(value: &Value) -> String {
    value.as_str().unwrap_or_else(|| panic!("{value} is a text")).to_owned()
}
