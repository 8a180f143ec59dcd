//! The real `iam-gateway` in front of a deployment.

use std::process::{Child, Command, Stdio};
use std::time::Duration;

use rustix::process::Signal;
use serde_json::{Value, json};
use tempfile::TempDir;

use crate::deployment::{self, ENDING, log_in, program};
use crate::http::{self, Reply};

/// A gateway, listening on a port of its own.
#[derive(Debug)]
pub struct HttpGateway {
    child: Child,
    dir: TempDir,
    address: String,
}

impl HttpGateway {
    /// Starts a gateway and waits until it is ready.
    pub async fn start(url: &str, prefix: &str, arguments: &[&str]) -> Self {
        let gateway = Self::start_alone(url, prefix, arguments).await;
        gateway.logged("iam.ready").await;
        gateway
    }

    /// Starts a gateway and waits until it listens, whether anybody answers behind it or not.
    pub async fn start_alone(url: &str, prefix: &str, arguments: &[&str]) -> Self {
        let dir = TempDir::new().expect("a directory");
        let usual = [
            ("--nats-url", url),
            ("--subject-prefix", prefix),
            ("--listen", "127.0.0.1:0"),
            ("--http-addr", "off"),
        ];
        let usual = usual.iter().filter(|(flag, _)| !arguments.contains(flag));
        let child = Command::new(program("iam-gateway"))
            .args(usual.flat_map(|(flag, value)| [flag, value]))
            .args(arguments)
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(log_in(dir.path()))
            .spawn()
            .expect("iam-gateway starts");
        let mut gateway = Self { child, dir, address: String::new() };
        let listening = gateway.logged("iam.listening").await;
        gateway.address = listening["address"].as_str().expect("an address").to_owned();
        gateway
    }

    /// Waits until an event is in the log; its last line.
    pub async fn logged(&self, event: &str) -> Value {
        for _ in 0..600 {
            let log = self.log();
            if let Some(line) = log.lines().rfind(|line| line.contains(&format!("\"{event}\""))) {
                return serde_json::from_str(line).expect("JSON");
            }
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
        panic!("iam-gateway does not tell {event} within 30 s:\n{}", self.log());
    }

    /// Where it listens.
    pub fn address(&self) -> &str {
        &self.address
    }

    /// Where its health endpoints are. Needs `--http-addr 127.0.0.1:0`.
    pub async fn health(&self) -> String {
        self.logged("iam.ready").await["http"].as_str().expect("an address").to_owned()
    }

    /// Posts JSON.
    pub async fn post(&self, path: &str, credential: Option<&str>, body: &Value) -> Reply {
        let credential =
            credential.map(|text| format!("Authorization: Bearer {text}\r\n")).unwrap_or_default();
        let headers = format!("Content-Type: application/json\r\n{credential}");
        http::request(&self.address, &format!("POST {path}"), &headers, &body.to_string()).await
    }

    /// One operation with its fields; status and body.
    pub async fn iam(&self, credential: &str, operation: &str, fields: Value) -> (u16, Value) {
        let mut body = json!({ "operation": operation });
        for (name, value) in fields.as_object().into_iter().flatten() {
            body[name] = value.clone();
        }
        let reply = self.post("/api/v1/iam", Some(credential), &body).await;
        (reply.status, reply.json())
    }

    /// An operation that must succeed; what it answers.
    pub async fn ok(&self, credential: &str, operation: &str, fields: Value) -> Value {
        let (status, body) = self.iam(credential, operation, fields).await;
        assert_eq!(status, 200, "{operation}: {body}");
        body
    }

    /// What it wrote to stderr so far.
    pub fn log(&self) -> String {
        std::fs::read_to_string(self.dir.path().join("log")).unwrap_or_default()
    }

    /// The id of the process.
    pub fn id(&self) -> u32 {
        self.child.id()
    }

    /// SIGTERM.
    pub fn ask_to_end(&self) {
        deployment::send_signal(&self.child, Signal::TERM);
    }

    /// Waits until it has ended; its exit code.
    pub async fn ended(&mut self) -> Option<i32> {
        let log = || std::fs::read_to_string(self.dir.path().join("log")).unwrap_or_default();
        deployment::ended(&mut self.child, ENDING, log).await
    }
}

impl Drop for HttpGateway {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}
