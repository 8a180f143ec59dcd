//! A NATS server of a test's own: to be killed, paused, restarted and told other permissions.

use std::net::TcpListener;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use futures_util::StreamExt;
use rustix::process::{Pid, Signal, kill_process};
use tempfile::TempDir;
use tokio::io::AsyncReadExt;
use tokio::net::TcpStream;

/// The program, where the test run has one.
///
/// # Panics
/// In CI, when there is none: a skip there would be a hole.
pub fn nats_server() -> Option<PathBuf> {
    let program = std::env::var_os("IAM_TEST_NATS_SERVER").filter(|path| !path.is_empty());
    if program.is_none() {
        assert!(std::env::var("CI").is_err(), "CI must test over NATS: IAM_TEST_NATS_SERVER is not set");
        println!("skipped: IAM_TEST_NATS_SERVER is not set; tests/run finds or installs a server");
    }
    program.map(Into::into)
}

/// Waits until the server has taken in what this connection has sent, such as its subscriptions: `flush` waits for the
/// kernel alone, and what others send may still be there first.
///
/// # Panics
/// When the connection is given up.
pub async fn taken_in(nats: &async_nats::Client) {
    let inbox = nats.new_inbox();
    let mut back = nats.subscribe(inbox.clone()).await.expect("a subscription");
    nats.publish(inbox, "".into()).await.expect("sent");
    back.next().await.expect("what it sent itself");
}

/// A server on a port that stays the same over restarts.
#[derive(Debug)]
pub struct NatsServer {
    program: PathBuf,
    dir: TempDir,
    port: u16,
    child: Option<Child>,
    environment: Vec<(String, String)>,
}

impl NatsServer {
    /// Starts a server with this configuration beside its port, or none where the test run has no program.
    pub async fn start(config: &str) -> Option<Self> {
        Self::start_in(config, &[]).await
    }

    /// As [`NatsServer::start`], with variables that the configuration names.
    pub async fn start_in(config: &str, variables: &[(&str, String)]) -> Option<Self> {
        let program = nats_server()?;
        let dir = TempDir::new().expect("a directory");
        let environment = variables.iter().map(|(name, value)| ((*name).to_owned(), value.clone())).collect();
        let mut server = Self { program, dir, port: free_port(), child: None, environment };
        server.configure(config);
        server.start_again().await;
        Some(server)
    }

    /// With JetStream, which keeps its streams over restarts.
    pub async fn with_jetstream() -> Option<Self> {
        Self::start(JETSTREAM).await
    }

    /// Where it listens.
    pub fn url(&self) -> String {
        format!("nats://127.0.0.1:{}", self.port)
    }

    /// Its address, for a proxy.
    pub fn address(&self) -> std::net::SocketAddr {
        ([127, 0, 0, 1], self.port).into()
    }

    /// Changes the configuration: in force with the next start, or [`NatsServer::reload`].
    pub fn configure(&mut self, config: &str) {
        let store = self.dir.path().join("jetstream");
        let config = config.replace("STORE", &store.to_string_lossy());
        let text = format!("listen: \"127.0.0.1:{}\"\n{config}\n", self.port);
        std::fs::write(self.config(), text).expect("a configuration");
    }

    fn config(&self) -> PathBuf {
        self.dir.path().join("server.conf")
    }

    /// Lets the server read its configuration again: clients stay connected, and lose what they may no more.
    pub fn reload(&self) {
        self.signal(Signal::HUP);
    }

    /// SIGKILL: every connection breaks, and nothing is said.
    pub fn kill(&mut self) {
        if let Some(mut child) = self.child.take() {
            let _ = child.kill();
            let _ = child.wait();
        }
    }

    /// Starts it again after [`NatsServer::kill`], on the same port and with the same streams.
    pub async fn start_again(&mut self) {
        let log = std::fs::OpenOptions::new().create(true).append(true).open(self.log()).expect("a log");
        let child = Command::new(&self.program)
            .arg("-c")
            .arg(self.config())
            .envs(self.environment.iter().map(|(name, value)| (name, value)))
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(log)
            .spawn()
            .expect("nats-server starts");
        self.child = Some(child);
        for _ in 0..400 {
            if greets(self.port).await {
                return;
            }
            tokio::time::sleep(Duration::from_millis(25)).await;
        }
        panic!("nats-server does not answer:\n{}", std::fs::read_to_string(self.log()).unwrap_or_default());
    }

    fn log(&self) -> PathBuf {
        self.dir.path().join("log")
    }

    /// Stops it in its tracks: connections stand, and nothing moves on them.
    pub fn pause(&self) {
        self.signal(Signal::STOP);
    }

    /// Lets it go on.
    pub fn go_on(&self) {
        self.signal(Signal::CONT);
    }

    fn signal(&self, signal: Signal) {
        let pid = self.child.as_ref().and_then(|child| i32::try_from(child.id()).ok());
        kill_process(pid.and_then(Pid::from_raw).expect("it runs"), signal).expect("it is there");
    }

    /// The directory of its configuration, for files that this names.
    pub fn dir(&self) -> &Path {
        self.dir.path()
    }
}

impl Drop for NatsServer {
    fn drop(&mut self) {
        self.kill();
    }
}

/// The configuration of [`NatsServer::with_jetstream`].
pub const JETSTREAM: &str = "jetstream { store_dir: \"STORE\" }";

/// A port that nobody listens on just now.
pub fn free_port() -> u16 {
    TcpListener::bind("127.0.0.1:0").and_then(|listener| listener.local_addr()).expect("a port").port()
}

async fn greets(port: u16) -> bool {
    let Ok(mut stream) = TcpStream::connect(("127.0.0.1", port)).await else { return false };
    let mut greeting = [0; 4];
    let read = tokio::time::timeout(Duration::from_secs(1), stream.read_exact(&mut greeting)).await;
    matches!(read, Ok(Ok(_))) && &greeting == b"INFO"
}
