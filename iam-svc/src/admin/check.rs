//! `iam-svc check`: what would keep the service from starting, found without starting it.

use std::path::Path;
use std::time::Duration;

use tokio::time::Instant;

use crate::bus;
use crate::config::{Config, IfMissing, StoreKind};
use crate::exit::{Cause, Exit};
use crate::open::{cassandra_exit, open};
use crate::store::cassandra::{CassandraStore, Standing};

/// How long a connection may take.
const CONNECT: Duration = Duration::from_secs(10);

/// Checks keys and connections; the configuration and the policy were checked when they were read.
///
/// Nothing is made: a data directory that is not there yet is what a first start finds.
///
/// # Errors
/// One line a fault, with the exit code of the first one. The store of a service that runs cannot be opened
/// beside it, and is reported as held.
pub async fn run(config: Config) -> Result<(), Exit> {
    let mut faults: Vec<Exit> = Vec::new();
    match tokio::time::timeout(CONNECT, bus::probe(&config.nats)).await {
        Ok(Ok(())) => {}
        Ok(Err(reason)) => faults.push(Exit::new(Cause::Unreachable, format!("--nats-url: {reason}"))),
        Err(_) => faults.push(Exit::new(Cause::Unreachable, "--nats-url: no answer in time")),
    }
    faults.extend(store(config).await.err());
    let Some(cause) = faults.first().map(|fault| fault.cause) else { return Ok(()) };
    let lines: Vec<String> = faults.into_iter().map(|fault| fault.reason).collect();
    Err(Exit::new(cause, lines.join("\n")))
}

/// Checks the store, as far as that can be done without making anything in it.
async fn store(config: Config) -> Result<(), Exit> {
    let deadline = Instant::now() + CONNECT;
    match config.store {
        StoreKind::Embedded if is_new(&config.data_dir) => may_make(&config.data_dir)
            .map_err(|reason| Exit::new(Cause::UnusableStore, format!("--data-dir: {reason}")))?,
        StoreKind::Cassandra
            if CassandraStore::look(&config.cassandra).await.map_err(|error| cassandra_exit(&error))?
                == Standing::Behind => {}
        StoreKind::Embedded | StoreKind::Cassandra => {
            open(config, IfMissing::DoWithout, deadline).await?;
        }
    }
    Ok(())
}

/// Whether nothing was ever stored there.
fn is_new(data_dir: &Path) -> bool {
    std::fs::read_dir(data_dir).map_or(true, |mut entries| entries.next().is_none())
}

/// Whether the data directory could be made, or written to where it is there and empty.
fn may_make(data_dir: &Path) -> Result<(), String> {
    let there = data_dir.ancestors().find(|path| path.as_os_str().is_empty() || path.exists());
    let there = there.filter(|path| !path.as_os_str().is_empty()).unwrap_or(Path::new("."));
    let writable = rustix::fs::access(there, rustix::fs::Access::WRITE_OK | rustix::fs::Access::EXEC_OK);
    if !there.is_dir() {
        Err(format!("{} is no directory", there.display()))
    } else {
        writable.map_err(|e| format!("cannot write in {}: {e}", there.display()))
    }
}
