//! The worker: an identity and access service on a message bus.
//!
//! Code map, in the order in which a request passes:
//!
//! - [`bus`]: NATS; connections, front threads, change events, audit events, discovery
//! - [`dispatch`]: bytes in, bytes out
//! - [`cache`]: what is answered from memory
//! - [`ops`]: one function an operation: load, decide, write, answer
//! - [`domain`]: rules over values, synchronous and pure
//! - [`store`]: whole business changes with outcomes, and the backends
//! - [`crypto`]: hashing, sealing, signing
//!
//! Around it: [`config`] reads the settings, [`open`] opens what they name, [`telemetry`] and [`http`] tell how it goes, [`admin`] runs without
//! the bus, [`ctx`] is what an operation is given, [`clock`] and [`entropy`] are the seams to the machine.
//!
//! Deliberately absent: a trait for the bus (the seam is the function from bytes to bytes), and any state that
//! replicas would have to agree on among themselves.

pub mod config;
pub mod http;
pub mod open;
pub mod telemetry;

// What all programs around the bus end with.
pub use iam_client::program::exit;

pub mod bus;

pub mod dispatch;

pub mod cache;
pub mod ops;

pub mod domain;

pub mod crypto;
pub mod store;

pub mod admin;

pub mod clock;
pub mod ctx;
pub mod entropy;
pub mod error;

#[cfg(test)]
mod model;

use std::future::Future;
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use iam_client::Connection;
use iam_schema::changes::Change;
use tokio::time::Instant;

use crate::bus::{Bus, Parts};
use crate::config::{AuditStream, Config, IfMissing};
use crate::ctx::Ctx;
use crate::dispatch::Dispatch;
use crate::dispatch::audit::Audit;
use crate::error::OpError;
use crate::exit::{Cause, Exit};
use crate::http::Report;
use crate::open::open;
use crate::telemetry::Metrics;

/// How long dependencies may take to be reachable at start.
pub(crate) const START: Duration = Duration::from_secs(60);
/// How long draining may take: what service managers and people wait without growing restless.
const DRAIN: Duration = Duration::from_secs(10);
/// What of that is left for the end of the process itself.
const DRAIN_RESERVE: Duration = Duration::from_millis(500);
/// How often a replica looks whether housekeeping is due; at random between half of it and all.
const HOUSEKEEPING: Duration = Duration::from_secs(600);
/// How many audit events may wait for the bus. Beyond it they are given up, and counted.
const AUDIT_QUEUE: usize = 16_384;

/// What [`serve`] needs beside the seams.
#[derive(Debug)]
pub struct Serving {
    pub nats: Connection,
    pub subjects: iam_schema::subject::Subjects,
    pub audit_stream: AuditStream,
    pub http: Option<std::net::SocketAddr>,
    pub front_threads: usize,
    /// Until when dependencies may take to be reachable.
    pub deadline: Instant,
}

/// Runs the service until `shutdown`, and then drains it.
///
/// Must be called on a runtime of several threads: all that waits or takes long runs there.
///
/// # Errors
/// Whatever keeps it from starting, and a fault that left it deaf; each with its exit code.
pub async fn run(config: Config, shutdown: impl Future<Output = ()>) -> Result<(), Exit> {
    tokio::pin!(shutdown);
    let opened = tokio::select! {
        opened = open(config, IfMissing::Make, Instant::now() + START) => opened?,
        () = &mut shutdown => return Ok(()),
    };
    serve(Arc::new(opened.ctx), opened.serving, shutdown).await
}

/// Seeds, answers until `shutdown`, and drains. Tests give it seams of their own.
///
/// # Errors
/// As [`run`].
pub async fn serve(ctx: Arc<Ctx>, serving: Serving, shutdown: impl Future<Output = ()>) -> Result<(), Exit> {
    let Serving { nats, subjects, audit_stream, http, front_threads, deadline } = serving;
    let metrics = Arc::new(Metrics::new());
    let health = Report { store: ctx.store.clone(), metrics: metrics.clone(), bus: OnceLock::new() };
    let health = Arc::new(health);
    let http = match http {
        Some(address) => Some(iam_client::program::health::serve(address, health.clone()).await?),
        None => None,
    };
    let (http_address, http) = http.unzip();
    let http = http.map(tokio::spawn);

    let (audit, audit_events) = Audit::channel(AUDIT_QUEUE);
    let house = Aborting(tokio::spawn(keep_house(ctx.clone(), metrics.clone())));
    let dispatch = Arc::new(Dispatch::new(ctx.clone(), audit));
    let parts = Parts {
        nats,
        subjects,
        front_threads,
        audit_stream,
        ctx,
        dispatch: dispatch.clone(),
        metrics,
        audit_events,
    };
    tokio::pin!(shutdown);
    let start = async {
        let seeded = seed(&dispatch, deadline).await?;
        let bus = Bus::start(parts, deadline).await?;
        bus.announce(&seeded);
        Ok::<_, Exit>(bus)
    };
    let mut bus = tokio::select! {
        bus = start => bus?,
        // Nothing was taken on yet, so that there is nothing to drain.
        () = &mut shutdown => return Ok(()),
    };
    health.bus.get_or_init(|| bus.status());
    tracing::info!(
        event = "iam.ready",
        instance = bus.instance(),
        version = env!("CARGO_PKG_VERSION"),
        http = http_address.map(tracing::field::display),
        "ready"
    );

    let ended = tokio::select! {
        () = &mut shutdown => Ok(()),
        reason = bus.failed() => Err(Exit::new(Cause::Internal, reason)),
    };
    match &ended {
        Ok(()) => tracing::info!(event = "iam.draining", "draining"),
        Err(reason) => tracing::error!(event = "iam.failed", %reason, "ending"),
    }
    drop(house);
    bus.drain(Instant::now() + DRAIN - DRAIN_RESERVE).await;
    if let Some(http) = http {
        http.abort();
    }
    tracing::info!(event = "iam.stopped", "stopped");
    ended
}

/// A task that ends with whoever has started it.
struct Aborting(tokio::task::JoinHandle<()>);

impl Drop for Aborting {
    fn drop(&mut self) {
        self.0.abort();
    }
}

/// Has the store cleared of what is left over, whenever that is due.
async fn keep_house(ctx: Arc<Ctx>, metrics: Arc<Metrics>) {
    loop {
        tokio::time::sleep(HOUSEKEEPING.mul_f64(rand::random_range(0.5..1.0))).await;
        match ctx.store.sweep(ctx.now()).await {
            Ok(Some(swept)) => {
                metrics.swept(swept);
                tracing::info!(event = "iam.swept", ?swept, "housekeeping done");
            }
            Ok(None) => {}
            Err(error) => tracing::warn!(%error, "housekeeping failed, and is taken up again later"),
        }
    }
}

/// Seeds an empty deployment in mode `token`, and tries on while the store does not answer.
async fn seed(dispatch: &Dispatch, deadline: Instant) -> Result<Vec<Change>, Exit> {
    loop {
        match dispatch.seed_at_start().await {
            Ok(changes) => return Ok(changes),
            Err(OpError::Unavailable(reason)) if Instant::now() >= deadline => {
                return Err(Exit::new(Cause::Unreachable, reason));
            }
            Err(OpError::Unavailable(_)) => tokio::time::sleep(Duration::from_millis(250)).await,
            Err(error) => return Err(Exit::new(Cause::Internal, format!("cannot seed: {error:?}"))),
        }
    }
}
