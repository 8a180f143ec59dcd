//! What the load plays on: a NATS server, two echoes, and the service with a user in it; each a process.

use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::Duration;

use anyhow::{Context, Result, bail};
use iam_client::{Client, Connection};
use iam_schema::codec::{Format, encode};
use iam_schema::subject::Plane;
use iam_schema::{IamRequest, IamResponse, OperationName};
use iam_tests::deployment::{Deployment, program};
use serde_json::json;

use crate::load::Load;

pub const PASSWORD: &str = "violet-anvil-93-sings";

/// Everything that runs.
pub struct Stage {
    url: String,
    server: Child,
    echoes: Vec<Child>,
    service: Deployment,
    user: String,
    allow: Vec<u8>,
    _dir: tempfile::TempDir,
}

impl Drop for Stage {
    fn drop(&mut self) {
        for child in self.echoes.iter_mut().chain([&mut self.server]) {
            let _ = child.kill();
            let _ = child.wait();
        }
    }
}

impl Stage {
    /// Starts all of it.
    pub async fn set() -> Result<Self> {
        let port = std::net::TcpListener::bind("127.0.0.1:0")?.local_addr()?.port();
        let binary = std::env::var("IAM_TEST_NATS_SERVER").unwrap_or_else(|_| "nats-server".into());
        let dir = tempfile::TempDir::new()?;
        let server = Command::new(&binary)
            .args(["-a", "127.0.0.1", "-p", &port.to_string()])
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .with_context(|| format!("{binary} does not start; set IAM_TEST_NATS_SERVER"))?;
        let url = format!("nats://127.0.0.1:{port}");
        for _ in 0..100 {
            if async_nats::connect(&url).await.is_ok() {
                break;
            }
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
        let allow = encode(
            &IamResponse { decision_allow: Some(true), decision_ttl_seconds: 60, ..Default::default() },
            Format::MessagePack,
        )?;
        let echo = |number: usize| {
            let own: PathBuf = std::env::current_exe()?;
            let size = allow.len().to_string();
            let subject = format!("echo.{number}");
            anyhow::Ok(Command::new(own).args(["--echo", &subject, "--url", &url, "--size", &size]).spawn()?)
        };
        let echoes = vec![echo(0)?, echo(1)?];
        if !program("iam-svc").exists() {
            bail!("build the service first");
        }
        let service = Deployment::start(&url, &[]).await;
        let mut stage = Self { url, server, echoes, service, user: String::new(), allow, _dir: dir };
        stage.people().await?;
        Ok(stage)
    }

    async fn people(&mut self) -> Result<()> {
        let client = self.client();
        let ask = async |operation: OperationName, request: serde_json::Value| {
            let bytes = request.to_string().into_bytes();
            let payload = iam_schema::codec::Payload::read(&bytes)?;
            let request: IamRequest<'_> = payload.decode()?;
            anyhow::Ok(client.call(operation, request.into_owned()).await?)
        };
        ask(OperationName::Bootstrap, json!({})).await?;
        let user = json!({ "username": "ada", "roles": ["reader"], "password": PASSWORD });
        let made = ask(OperationName::CreateUser, json!({ "workspace": "default", "user": user })).await?;
        self.user = made.user.context("a user")?.id;
        Ok(())
    }

    /// Somebody who may do everything.
    pub fn client(&self) -> Client {
        self.service.client().clone().on(Plane::Service)
    }

    /// How a program of its own connects.
    pub fn connection(&self) -> Connection {
        Connection { subject_prefix: self.service.prefix().to_owned(), ..Connection::to([&self.url]) }
    }

    /// A new connection for a load.
    pub async fn connect(&self) -> Result<async_nats::Client> {
        Ok(async_nats::ConnectOptions::new().subscription_capacity(1 << 20).connect(&self.url).await?)
    }

    /// The question that every load asks.
    pub fn authorise_request(&self) -> Vec<u8> {
        let request = IamRequest {
            user_id: self.user.as_str().into(),
            capability: "graph:read".into(),
            resource_json: r#"{"workspace":"default","flow":"f1"}"#.into(),
            parameters_json: "{}".into(),
            ..Default::default()
        };
        encode(&request, Format::MessagePack).unwrap_or_default()
    }

    /// The median time of that question, one after the other.
    pub async fn one_by_one(&self, count: usize) -> Result<Duration> {
        let nats = self.connect().await?;
        let (subject, request) = (self.subject("authorise"), self.authorise_request());
        let mut times = Vec::new();
        for _ in 0..count {
            let begun = std::time::Instant::now();
            nats.request(subject.clone(), request.clone().into()).await?;
            times.push(begun.elapsed());
        }
        times.sort();
        times.get(count / 2).copied().context("a time")
    }

    /// The one right answer.
    pub fn allow(&self) -> &[u8] {
        &self.allow
    }

    pub fn reply_size(&self) -> usize {
        self.allow.len()
    }

    pub fn echo_subject(&self, number: usize) -> String {
        format!("echo.{number}")
    }

    pub fn subject(&self, operation: &str) -> String {
        format!("{}.v1.svc.{operation}", self.service.prefix())
    }

    /// Processor time of whoever answers a load, in microseconds.
    pub fn cpu_us(&self, load: &Load) -> f64 {
        match load.name {
            "echo" => cpu_us(self.echoes.first().map_or(0, Child::id)),
            "echo again" => cpu_us(self.echoes.last().map_or(0, Child::id)),
            _ => cpu_us(self.service.id()),
        }
    }

    /// Processor time of nats-server, in microseconds.
    pub fn server_cpu_us(&self) -> f64 {
        cpu_us(self.server.id())
    }

    /// Logs in all the time, so many at once.
    pub fn login_flood(&self, flight: usize) -> Flood {
        let flood = Flood { stop: Arc::default(), done: Arc::default(), tasks: Vec::new() };
        let tasks = (0..flight).map(|_| {
            let client = self.service.client().clone();
            let (stop, done) = (flood.stop.clone(), flood.done.clone());
            tokio::spawn(async move {
                while !stop.load(Ordering::Relaxed) {
                    let request = IamRequest {
                        username: "ada".into(),
                        password: iam_schema::Secret::new(PASSWORD),
                        ..Default::default()
                    };
                    if client.call(OperationName::Login, request).await.is_ok() {
                        done.fetch_add(1, Ordering::Relaxed);
                    }
                }
            })
        });
        Flood { tasks: tasks.collect(), ..flood }
    }
}

/// Logins going on.
pub struct Flood {
    stop: Arc<AtomicBool>,
    done: Arc<AtomicUsize>,
    tasks: Vec<tokio::task::JoinHandle<()>>,
}

impl Flood {
    /// Ends it; how many logins were answered.
    pub async fn stop(self) -> usize {
        self.stop.store(true, Ordering::Relaxed);
        for task in self.tasks {
            let _ = task.await;
        }
        self.done.load(Ordering::Relaxed)
    }
}

/// The time that all threads of a process have spent on a processor. Source: proc(5), schedstat.
fn cpu_us(pid: u32) -> f64 {
    let tasks = std::fs::read_dir(format!("/proc/{pid}/task")).into_iter().flatten().flatten();
    let ns = tasks.filter_map(|task| {
        let text = std::fs::read_to_string(task.path().join("schedstat")).ok()?;
        text.split_whitespace().next()?.parse::<f64>().ok()
    });
    ns.sum::<f64>() / 1e3
}
