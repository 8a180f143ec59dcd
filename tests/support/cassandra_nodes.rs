//! A cluster of one's own, whose nodes can be killed, paused and started again.

use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use rustix::process::{Pid, Signal, kill_process};
use tempfile::TempDir;
use tokio::net::TcpStream;

/// Nodes on 127.0.0.1, 127.0.0.2 and so on.
#[derive(Debug)]
pub struct CassandraNodes {
    dir: TempDir,
    hosts: Vec<String>,
    nodes: Vec<Option<Child>>,
}

fn script() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../deploy/cassandra")
}

impl CassandraNodes {
    /// Starts so many nodes, one after the other.
    ///
    /// # Panics
    /// When one of them does not start.
    pub async fn start(count: usize) -> Self {
        let dir = TempDir::new().expect("a directory");
        let configured = Command::new(script())
            .arg("configure")
            .arg(dir.path())
            .arg(count.to_string())
            .output()
            .expect("the script");
        assert!(configured.status.success(), "{}", String::from_utf8_lossy(&configured.stderr));
        let printed = String::from_utf8(configured.stdout).expect("text");
        let hosts = printed.trim().split(',').map(str::to_owned).collect();
        let mut cluster = Self { dir, hosts, nodes: (0..count).map(|_| None).collect() };
        for node in 0..count {
            cluster.start_again(node).await;
        }
        cluster
    }

    /// Every node, as `host:port`.
    pub fn hosts(&self) -> &[String] {
        &self.hosts
    }

    /// Starts a node that was killed, on its own data, and waits until it takes clients.
    ///
    /// # Panics
    /// When it does not start within three minutes.
    pub async fn start_again(&mut self, node: usize) {
        let log = self.dir.path().join(format!("node{}/out.log", node + 1));
        let log = std::fs::OpenOptions::new().create(true).append(true).open(log).expect("a log");
        let child = Command::new(script())
            .arg("node")
            .arg(self.dir.path())
            .arg((node + 1).to_string())
            .stdin(Stdio::null())
            .stdout(log.try_clone().expect("a log"))
            .stderr(log)
            .spawn()
            .expect("the script");
        self.nodes[node] = Some(child);
        for _ in 0..1800 {
            if TcpStream::connect(&self.hosts[node]).await.is_ok() {
                return;
            }
            tokio::time::sleep(Duration::from_millis(100)).await;
        }
        panic!("node {} does not start", node + 1);
    }

    /// SIGKILL.
    pub fn kill(&mut self, node: usize) {
        if let Some(mut child) = self.nodes[node].take() {
            let _ = child.kill();
            let _ = child.wait();
        }
    }

    /// Stops a node in its tracks, or lets it go on.
    ///
    /// # Panics
    /// When the node does not run.
    pub fn signal(&self, node: usize, signal: Signal) {
        let pid = self.nodes[node].as_ref().and_then(|child| i32::try_from(child.id()).ok());
        kill_process(pid.and_then(Pid::from_raw).expect("it runs"), signal).expect("it is there");
    }
}

impl Drop for CassandraNodes {
    fn drop(&mut self) {
        for node in 0..self.nodes.len() {
            self.kill(node);
        }
    }
}
