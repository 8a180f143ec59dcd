//! The real binary over real NATS.
//!
//! `tests/run` says where the server is. Without one a test that needs it says that it was skipped; with
//! `CI=true` that is a failure.

use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::atomic::{AtomicU32, Ordering};
use std::thread::JoinHandle;
use std::time::Duration;

use async_trait::async_trait;
use iam_client::{Client, Connection};
use iam_schema::subject::Plane;
use iam_schema::{IamRequest, IamResponse, OperationName, Secret, WireError};
use iam_svc::clock::ManualClock;
use iam_svc::store::cassandra::Setting;
use rustix::process::{Pid, Signal, kill_process};
use tempfile::TempDir;

use crate::campaign::rounds;
use crate::cassandra::{self, Keyspace};
use crate::http;
use crate::scene::Wire;
use crate::terminal;

/// Where the NATS server of this test run listens, if there is one.
///
/// # Panics
/// In CI, when there is none: a skip there would be a hole.
pub fn nats_url() -> Option<String> {
    let url = std::env::var("IAM_TEST_NATS_URL").ok().filter(|url| !url.is_empty());
    if url.is_none() {
        assert!(std::env::var("CI").is_err(), "CI must test over NATS: IAM_TEST_NATS_URL is not set");
        println!("skipped: IAM_TEST_NATS_URL is not set; tests/run brings up a server");
    }
    url
}

/// A program of the workspace, built beside this test.
pub fn program(name: &str) -> PathBuf {
    let test = std::env::current_exe().expect("the path of this test");
    // A test lies in target/<profile>/deps, a program one level higher.
    let beside = test.ancestors().skip(1).take(2).map(|dir| dir.join(name)).find(|path| path.exists());
    let path = beside.unwrap_or_else(|| test.with_file_name(name));
    assert!(path.exists(), "{} is not built: cargo build --workspace", path.display());
    path
}

/// One replica of the service on a store of its own, as a rule.
///
/// With `IAM_TEST_STORE=cassandra` it is `IAM_TEST_REPLICAS` replicas (1 if not said) on a keyspace of their own; what
/// is killed and started again then is the first of them.
#[derive(Debug)]
pub struct Deployment {
    child: Child,
    /// The replicas beside that one.
    others: Vec<Child>,
    /// Where the records are, unless the store is embedded.
    keyspace: Option<Keyspace>,
    dir: TempDir,
    url: String,
    prefix: String,
    client: Client,
    environment: Vec<(String, String)>,
    /// Brings what is written to a terminal into the log, where stderr is one.
    copier: Option<JoinHandle<()>>,
}

impl Deployment {
    /// Starts a replica on an empty data directory, under a subject prefix of its own.
    ///
    /// An argument given here stands for the one that tests have as a rule.
    pub async fn start(url: &str, arguments: &[&str]) -> Self {
        Self::start_with(url, url, arguments, &[], false).await
    }

    /// Starts a replica that reaches NATS over a line of its own, such as a proxy; its client here goes by `url`.
    pub async fn start_over(line: &str, url: &str, arguments: &[&str]) -> Self {
        Self::start_with(line, url, arguments, &[], false).await
    }

    /// Starts a replica with variables in its environment, beside those of the test.
    pub async fn start_in(url: &str, arguments: &[&str], environment: &[(&str, &str)]) -> Self {
        Self::start_with(url, url, arguments, environment, false).await
    }

    /// As [`Deployment::start_in`], for somebody who sits at a terminal.
    pub async fn start_on_terminal(url: &str, arguments: &[&str], environment: &[(&str, &str)]) -> Self {
        Self::start_with(url, url, arguments, environment, true).await
    }

    async fn start_with(
        line: &str,
        url: &str,
        arguments: &[&str],
        environment: &[(&str, &str)],
        on_terminal: bool,
    ) -> Self {
        let environment: Vec<(String, String)> =
            environment.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect();
        let dir = TempDir::new().expect("a directory");
        static COUNT: AtomicU32 = AtomicU32::new(0);
        let prefix = format!("t{}-{}", std::process::id(), COUNT.fetch_add(1, Ordering::Relaxed));
        let keyspace = match std::env::var("IAM_TEST_STORE").as_deref() {
            Ok("cassandra") => {
                let hosts = cassandra::hosts().expect("IAM_TEST_STORE=cassandra needs IAM_TEST_CASSANDRA");
                Some(Keyspace::claim(&hosts).await)
            }
            _ => None,
        };
        let (stderr, copier) = match on_terminal {
            false => (Stdio::from(log_in(dir.path())), None),
            true => {
                let (terminal, copier) = terminal::copied_to(log_in(dir.path())).expect("a terminal");
                (terminal, Some(copier))
            }
        };
        let place = keyspace.as_ref().map(|keyspace| &keyspace.setting);
        let child = spawn(line, &prefix, dir.path(), place, arguments, &environment, stderr);
        let others = if place.is_some() { rounds("IAM_TEST_REPLICAS", 1) - 1 } else { 0 };
        let other = |_| {
            let log = log_in(dir.path()).into();
            spawn(line, &prefix, dir.path(), place, arguments, &environment, log)
        };
        let others = (0..others).map(other).collect();
        let client = connect(url, &prefix).await;
        let url = line.to_owned();
        let mut deployment = Self { child, others, keyspace, dir, url, prefix, client, environment, copier };
        deployment.ready().await;
        deployment
    }

    /// Kills the replica and starts it again on the same data directory.
    pub async fn restart(&mut self, arguments: &[&str]) {
        self.kill();
        self.start_again(arguments).await;
    }

    /// Starts the replica, which has ended, again on the same data directory.
    pub async fn start_again(&mut self, arguments: &[&str]) {
        let place = self.keyspace.as_ref().map(|keyspace| &keyspace.setting);
        let log = log_in(self.dir.path()).into();
        let (url, prefix, dir) = (&self.url, &self.prefix, self.dir.path());
        self.child = spawn(url, prefix, dir, place, arguments, &self.environment, log);
        self.ready().await;
    }

    /// SIGKILL.
    pub fn kill(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }

    /// Sends a signal.
    pub fn signal(&self, signal: Signal) {
        send_signal(&self.child, signal);
    }

    /// Asks the replica to end, and waits for that; its exit code.
    pub async fn terminate(&mut self) -> Option<i32> {
        self.signal(Signal::TERM);
        self.ended(ENDING).await
    }

    /// Waits until the replica has ended by itself; its exit code, none if a signal ended it.
    pub async fn ended(&mut self, within: Duration) -> Option<i32> {
        let log = || std::fs::read_to_string(self.dir.path().join("log")).unwrap_or_default();
        ended(&mut self.child, within, log).await
    }

    /// What `/readyz` says: `None` is ready, else why not. Needs `--http-addr 127.0.0.1:0`.
    pub async fn problem(&self) -> Option<String> {
        let (status, body) = self.get("/readyz").await;
        (status != 200).then_some(body)
    }

    /// Asks the health endpoints; status and body. Needs `--http-addr 127.0.0.1:0`.
    pub async fn get(&self, path: &str) -> (u16, String) {
        let log = self.log();
        let ready = log.lines().rfind(|line| line.contains("iam.ready")).expect("it was ready once");
        let ready: serde_json::Value = serde_json::from_str(ready).expect("JSON");
        let address = ready["http"].as_str().expect("an address");
        let reply = http::get(address, path).await;
        (reply.status, reply.body.trim().to_owned())
    }

    /// The process, for signals.
    pub fn child(&mut self) -> &mut Child {
        &mut self.child
    }

    /// The id of the process.
    pub fn id(&self) -> u32 {
        self.child.id()
    }

    /// The prefix of this deployment's subjects.
    pub fn prefix(&self) -> &str {
        &self.prefix
    }

    /// The data directory.
    pub fn data_dir(&self) -> PathBuf {
        self.dir.path().join("data")
    }

    /// What the replica wrote to stderr so far.
    pub fn log(&self) -> String {
        std::fs::read_to_string(self.dir.path().join("log")).unwrap_or_default()
    }

    /// All that it wrote to stderr, once it has ended.
    pub fn whole_log(&mut self) -> String {
        if let Some(copier) = self.copier.take() {
            copier.join().expect("it copies");
        }
        self.log()
    }

    /// A client of this deployment, on the API plane.
    pub fn client(&self) -> &Client {
        &self.client
    }

    /// A client of its own connection.
    pub async fn connect(&self, url: &str) -> Client {
        connect(url, &self.prefix).await
    }

    async fn ready(&mut self) {
        for _ in 0..600 {
            let asked = self.client.call(OperationName::BootstrapStatus, IamRequest::default()).await;
            if asked.is_ok() {
                return;
            }
            if let Ok(Some(status)) = self.child.try_wait() {
                panic!("iam-svc ended with {status}:\n{}", self.log());
            }
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
        panic!("iam-svc is not ready after 30 s:\n{}", self.log());
    }
}

impl Drop for Deployment {
    fn drop(&mut self) {
        self.kill();
        for other in &mut self.others {
            let _ = other.kill();
            let _ = other.wait();
        }
    }
}

/// How long a program may take to end when it is asked to.
pub const ENDING: Duration = Duration::from_secs(20);

/// Sends a signal to a program.
pub fn send_signal(child: &Child, signal: Signal) {
    let pid = i32::try_from(child.id()).ok().and_then(Pid::from_raw).expect("a process id");
    kill_process(pid, signal).expect("the process is there");
}

/// Waits until a program has ended by itself; its exit code, none if a signal ended it.
pub async fn ended(child: &mut Child, within: Duration, log: impl Fn() -> String) -> Option<i32> {
    let deadline = tokio::time::Instant::now() + within;
    loop {
        if let Some(status) = child.try_wait().expect("a child") {
            return status.code();
        }
        assert!(tokio::time::Instant::now() < deadline, "it runs on:\n{}", log());
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}

/// The key-encryption key of every deployment on Cassandra.
const KEK: &str = "MDEyMzQ1Njc4OWFiY2RlZjAxMjM0NTY3ODlhYmNkZWY=";

/// Where a replica in a directory logs.
pub fn log_in(dir: &Path) -> std::fs::File {
    std::fs::OpenOptions::new().create(true).append(true).open(dir.join("log")).expect("a log")
}

/// Starts a replica; on Cassandra where there is a setting for it.
pub fn spawn(
    url: &str,
    prefix: &str,
    dir: &Path,
    place: Option<&Setting>,
    arguments: &[&str],
    environment: &[(String, String)],
    stderr: Stdio,
) -> Child {
    let usual = [
        ("--nats-url", url),
        ("--subject-prefix", prefix),
        ("--bootstrap-mode", "bootstrap"),
        ("--audit-stream", "off"),
        ("--http-addr", "off"),
    ];
    let usual = usual.iter().filter(|(flag, _)| !arguments.contains(flag));
    let mut command = Command::new(program("iam-svc"));
    if let Some(setting) = place {
        command
            .args(["--store", "cassandra", "--cassandra-hosts", &setting.hosts.join(",")])
            .args(["--cassandra-keyspace", &setting.keyspace])
            .env("IAM_KEK", KEK);
    }
    command
        .arg("--data-dir")
        .arg(dir.join("data"))
        .args(usual.flat_map(|(flag, value)| [flag, value]))
        .args(arguments)
        .envs(environment.iter().map(|(name, value)| (name, value)))
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(stderr)
        .spawn()
        .expect("iam-svc starts")
}

/// A client on the API plane.
pub async fn connect(url: &str, prefix: &str) -> Client {
    let connection = Connection {
        subject_prefix: prefix.to_owned(),
        // The hash threads give way to everything else that a busy machine does.
        timeout: Duration::from_secs(60),
        ..Connection::to([url])
    };
    Client::connect(&connection).await.expect("a NATS server")
}

#[async_trait]
impl Wire for Deployment {
    async fn send(
        &self,
        plane: Plane,
        operation: OperationName,
        credential: Option<&Secret>,
        request: IamRequest<'static>,
    ) -> IamResponse {
        self.client.send(plane, operation, credential, request).await
    }

    fn clock(&self) -> Option<&ManualClock> {
        None
    }
}

/// A connection of one's own to a deployment.
#[async_trait]
impl Wire for Client {
    async fn send(
        &self,
        plane: Plane,
        operation: OperationName,
        credential: Option<&Secret>,
        request: IamRequest<'static>,
    ) -> IamResponse {
        let mut client = self.clone().on(plane);
        if let Some(credential) = credential {
            client = client.with_credential(credential.clone());
        }
        match client.call(operation, request).await {
            Ok(response) => response,
            Err(iam_client::ClientError::Refused(error)) => {
                IamResponse { error: Some(error), ..Default::default() }
            }
            Err(other) => IamResponse {
                error: Some(WireError { kind: format!("no answer: {other}"), message: String::new() }),
                ..Default::default()
            },
        }
    }

    fn clock(&self) -> Option<&ManualClock> {
        None
    }
}
