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
//! Around it: [`config`] reads the settings, [`telemetry`] and [`http`] tell how it goes, [`admin`] runs without
//! the bus, [`ctx`] is what an operation is given, [`clock`] and [`entropy`] are the seams to the machine.
//!
//! Deliberately absent: a trait for the bus (the seam is the function from bytes to bytes), and any state that
//! replicas would have to agree on among themselves.

pub mod config;
pub mod exit;
pub mod http;
pub mod telemetry;

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
use std::path::Path;
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use iam_schema::changes::Change;
use tokio::time::Instant;

use crate::bus::{Bus, Parts};
use crate::clock::SystemClock;
use crate::config::{AuditStream, Config, IfMissing, KekFault, KekSource, Nats};
use crate::crypto::passwords::HashPool;
use crate::ctx::Ctx;
use crate::dispatch::Dispatch;
use crate::dispatch::audit::Audit;
use crate::domain::throttle::Throttle;
use crate::entropy::Entropy;
use crate::error::OpError;
use crate::exit::{Cause, Exit};
use crate::http::Health;
use crate::ops::signing_keys::RingFault;
use crate::store::embedded::{self, EmbeddedStore, OpenError, Options};
use crate::store::{Store, StoreError};
use crate::telemetry::Metrics;

/// How long dependencies may take to be reachable at start.
const START: Duration = Duration::from_secs(60);
/// How long draining may take: what service managers and people wait without growing restless.
const DRAIN: Duration = Duration::from_secs(10);
/// What of that is left for the end of the process itself.
const DRAIN_RESERVE: Duration = Duration::from_millis(500);
/// How many audit events may wait for the bus. Beyond it they are given up, and counted.
const AUDIT_QUEUE: usize = 16_384;

/// What [`serve`] needs beside the seams.
#[derive(Debug)]
pub struct Serving {
    pub nats: Nats,
    pub subjects: iam_schema::subject::Subjects,
    pub audit_stream: AuditStream,
    pub http: Option<std::net::SocketAddr>,
    pub front_threads: usize,
}

/// Runs the service until `shutdown`, and then drains it.
///
/// Must be called on a runtime of several threads: all that waits or takes long runs there.
///
/// # Errors
/// Whatever keeps it from starting, and a fault that left it deaf; each with its exit code.
pub async fn run(config: Config, shutdown: impl Future<Output = ()>) -> Result<(), Exit> {
    let opened = open(config, IfMissing::Make).await?;
    serve(Arc::new(opened.ctx), opened.serving, shutdown).await
}

/// The seams, opened, and what is left of the configuration.
#[derive(Debug)]
pub struct Opened {
    pub ctx: Ctx,
    pub serving: Serving,
}

/// Opens the store and the keys, and builds what operations are given.
///
/// `missing_kek` is for a store that holds no sealed keys yet: a first start that ended between making the store and
/// the key leaves one behind.
///
/// # Errors
/// `DamagedStore`; `UnusableStore`, also when it is gone, or there is no room for a key-encryption key; `Configuration` when that
/// key is missing, wrong or open to others; `Unreachable` when the store does not answer.
pub async fn open(config: Config, missing_kek: IfMissing) -> Result<Opened, Exit> {
    let Config {
        nats,
        subjects,
        data_dir,
        kek,
        policy,
        settings,
        audit_stream,
        http,
        front_threads,
        hash_threads,
        log: _,
    } = config;
    check_store_is_there(&kek, &data_dir)?;
    let root_roles = Arc::new(policy.root_roles());
    let store = EmbeddedStore::open(&data_dir, Options::new(root_roles)).map_err(|error| {
        let cause = match error {
            OpenError::Damaged { .. } => Cause::DamagedStore,
            OpenError::Held { .. } | OpenError::NotWritable { .. } | OpenError::NewerSchema { .. } => {
                Cause::UnusableStore
            }
        };
        Exit::new(cause, error.to_string())
    })?;
    let entropy = Entropy::system();
    let sealed = store.key_ring().await.map_err(store_exit)?.is_some();
    let missing_kek = if sealed { IfMissing::Refuse } else { missing_kek };
    let kek = kek.load(&data_dir, missing_kek, &entropy).map_err(kek_exit)?;
    let ctx = Ctx {
        store: Arc::new(store),
        clock: Arc::new(SystemClock::default()),
        throttle: Throttle::new(entropy.bytes()),
        entropy,
        hasher: HashPool::new(hash_threads).map_err(|e| Exit::new(Cause::Internal, e.to_string()))?,
        policy,
        kek,
        settings,
    };
    check_keys(&ctx).await?;
    check_anonymous_user(&ctx).await?;
    Ok(Opened { ctx, serving: Serving { nats, subjects, audit_stream, http, front_threads } })
}

/// Seeds, answers until `shutdown`, and drains. Tests give it seams of their own.
///
/// # Errors
/// As [`run`].
pub async fn serve(ctx: Arc<Ctx>, serving: Serving, shutdown: impl Future<Output = ()>) -> Result<(), Exit> {
    let deadline = Instant::now() + START;
    let Serving { nats, subjects, audit_stream, http, front_threads } = serving;
    let metrics = Arc::new(Metrics::new());
    let health = Health { store: ctx.store.clone(), metrics: metrics.clone(), bus: OnceLock::new() };
    let health = Arc::new(health);
    let http = match http {
        Some(address) => Some(http::serve(address, health.clone()).await?),
        None => None,
    };
    let (http_address, http) = http.unzip();
    let http = http.map(tokio::spawn);

    let (audit, audit_events) = Audit::channel(AUDIT_QUEUE);
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
    bus.drain(Instant::now() + DRAIN - DRAIN_RESERVE).await;
    if let Some(http) = http {
        http.abort();
    }
    tracing::info!(event = "iam.stopped", "stopped");
    ended
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

/// A first start makes the store before the key. So a key without a store is what is left of a deployment, and in
/// mode `bootstrap` a new store in its place would make an admin of whoever asks first.
fn check_store_is_there(kek: &KekSource, data_dir: &Path) -> Result<(), Exit> {
    let store = data_dir.join(embedded::FILE);
    match kek.made_before(data_dir) {
        Some(key) if !store.exists() => {
            let (store, key) = (store.display(), key.display());
            let reason = format!(
                "`{store}` is missing, and its key-encryption key is there: restore a backup of it, or move `{key}` \
                 away to begin anew"
            );
            Err(Exit::new(Cause::UnusableStore, reason))
        }
        Some(_) | None => Ok(()),
    }
}

/// Whether the key-encryption key opens the keys that are there.
pub(crate) async fn check_keys(ctx: &Ctx) -> Result<(), Exit> {
    match ops::signing_keys::check_ring(ctx).await {
        Ok(()) => Ok(()),
        Err(RingFault::WrongKek(reason)) => {
            Err(Exit::new(Cause::Configuration, format!("--kek-file: {reason}")))
        }
        Err(RingFault::Store(error)) => Err(store_exit(error)),
    }
}

/// Whoever comes without a credential must not be able to do everything.
///
/// Source: running manual, `--anonymous-user`.
pub(crate) async fn check_anonymous_user(ctx: &Ctx) -> Result<(), Exit> {
    let Some(name) = &ctx.settings.anonymous_user else { return Ok(()) };
    let user = ctx.store.user_by_name(&name.key()).await.map_err(store_exit)?;
    let roots = ctx.policy.root_roles();
    match user {
        Some(user) if user.roles.iter().any(|role| roots.contains(role)) => {
            let reason = format!("--anonymous-user: `{name}` is a root admin");
            Err(Exit::new(Cause::Configuration, reason))
        }
        Some(_) => Ok(()),
        None => {
            tracing::warn!(user = name.as_str(), "the anonymous user does not exist yet");
            Ok(())
        }
    }
}

pub(crate) fn store_exit(error: StoreError) -> Exit {
    let cause = match error {
        StoreError::Unavailable(_) | StoreError::OutcomeUnknown(_) => Cause::Unreachable,
        StoreError::Corrupt { .. } => Cause::DamagedStore,
    };
    Exit::new(cause, error.to_string())
}

pub(crate) fn kek_exit(fault: KekFault) -> Exit {
    let cause = match fault {
        KekFault::Missing(_) | KekFault::Wrong(_) => Cause::Configuration,
        KekFault::NotMade { .. } => Cause::UnusableStore,
    };
    Exit::new(cause, fault.to_string())
}
