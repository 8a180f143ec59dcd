//! Replicas of one deployment, each a process.

use std::process::Child;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use iam_schema::{IamRequest, OperationName};
use iam_svc::store::cassandra::{Replication, Setting};
use iam_tests::deployment::{connect, log_in, spawn};
use tempfile::TempDir;

/// The replicas.
#[derive(Debug)]
pub struct Replicas {
    url: String,
    prefix: String,
    setting: Setting,
    running: Vec<(Child, TempDir)>,
}

impl Replicas {
    /// Starts replicas on a keyspace, and waits until the first one answers.
    pub async fn start(url: &str, setting: &Setting, count: usize) -> Self {
        static COUNT: AtomicU32 = AtomicU32::new(0);
        let prefix = format!("c{}-{}", std::process::id(), COUNT.fetch_add(1, Ordering::Relaxed));
        let mut replicas =
            Self { url: url.to_owned(), prefix, setting: setting.clone(), running: Vec::new() };
        for _ in 0..count {
            let dir = TempDir::new().expect("a directory");
            let child = replicas.spawn(&dir);
            replicas.running.push((child, dir));
        }
        let client = connect(url, &replicas.prefix).await.with_deadline(Duration::from_secs(2));
        // Making the tables takes a busy cluster its time.
        for _ in 0..600 {
            if client.call(OperationName::BootstrapStatus, IamRequest::default()).await.is_ok() {
                return replicas;
            }
            tokio::time::sleep(Duration::from_millis(300)).await;
        }
        panic!("no replica answers:\n{}", replicas.logs());
    }

    fn spawn(&self, dir: &TempDir) -> Child {
        let mut arguments = Vec::new();
        if self.setting.create_keyspace {
            arguments.push("--cassandra-create-keyspace=true");
        }
        let factor = match &self.setting.replication {
            Replication::Simple(factor) => factor.to_string(),
            Replication::Datacenters(_) => unreachable!("the tests have one data centre"),
        };
        arguments.extend(["--cassandra-replication", &factor]);
        let log = log_in(dir.path()).into();
        spawn(&self.url, &self.prefix, dir.path(), Some(&self.setting), &arguments, &[], log)
    }

    /// The prefix of their subjects.
    pub fn prefix(&self) -> &str {
        &self.prefix
    }

    /// The process of one.
    pub fn id(&self, i: usize) -> u32 {
        self.running[i].0.id()
    }

    /// SIGKILL.
    pub fn kill(&mut self, i: usize) {
        let (child, _) = &mut self.running[i];
        let _ = child.kill();
        let _ = child.wait();
    }

    /// Starts one again that was killed.
    pub fn start_again(&mut self, i: usize) {
        let child = self.spawn(&self.running[i].1);
        self.running[i].0 = child;
    }

    fn logs(&self) -> String {
        let log = |(_, dir): &(Child, TempDir)| std::fs::read_to_string(dir.path().join("log")).ok();
        self.running.iter().filter_map(log).collect()
    }
}

impl Drop for Replicas {
    fn drop(&mut self) {
        for i in 0..self.running.len() {
            self.kill(i);
        }
    }
}
