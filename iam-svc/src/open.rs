//! Opens the store and the keys that the configuration names.

use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use tokio::time::Instant;

use crate::Serving;
use crate::clock::SystemClock;
use crate::config::{Config, IfMissing, KekFault, KekSource, StoreKind};
use crate::crypto::passwords::HashPool;
use crate::ctx::Ctx;
use crate::domain::throttle::Throttle;
use crate::entropy::Entropy;
use crate::exit::{Cause, Exit};
use crate::ops;
use crate::ops::signing_keys::RingFault;
use crate::store::cassandra::{self, CassandraStore};
use crate::store::embedded::{self, EmbeddedStore, Options};
use crate::store::transfer::Transfer;
use crate::store::{RootRoles, Store, StoreError};

/// The pause before a cluster that cannot be reached is tried again.
const RETRY: Duration = Duration::from_secs(1);

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
/// key is missing, wrong or open to others; `Unreachable` when the store does not answer until the deadline.
pub async fn open(config: Config, missing_kek: IfMissing, deadline: Instant) -> Result<Opened, Exit> {
    let Config {
        nats,
        subjects,
        store,
        data_dir,
        cassandra,
        kek,
        policy,
        settings,
        audit_stream,
        http,
        front_threads,
        hash_threads,
        log: _,
    } = config;
    let root_roles = Arc::new(policy.root_roles());
    let store: Arc<dyn Store> = match store {
        StoreKind::Embedded => {
            check_store_is_there(&kek, &data_dir)?;
            let store = open_embedded(&data_dir, root_roles)?;
            check_complete(&*store).await?;
            store
        }
        StoreKind::Cassandra => {
            let store = open_cassandra(&cassandra, root_roles, deadline).await?;
            check_complete(&*store).await?;
            store
        }
    };
    let entropy = Entropy::system();
    let sealed = store.key_ring().await.map_err(store_exit)?.is_some();
    let missing_kek = if sealed { IfMissing::Refuse } else { missing_kek };
    let kek = kek.load(&data_dir, missing_kek, &entropy).map_err(kek_exit)?;
    let ctx = Ctx {
        store,
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
    Ok(Opened { ctx, serving: Serving { nats, subjects, audit_stream, http, front_threads, deadline } })
}

/// Opens the store in a data directory.
pub(crate) fn open_embedded(data_dir: &Path, root_roles: RootRoles) -> Result<Arc<EmbeddedStore>, Exit> {
    use embedded::OpenError;
    EmbeddedStore::open(data_dir, Options::new(root_roles)).map(Arc::new).map_err(|error| {
        let cause = match error {
            OpenError::Damaged { .. } => Cause::DamagedStore,
            OpenError::Held { .. } | OpenError::NotWritable { .. } | OpenError::NewerSchema { .. } => {
                Cause::UnusableStore
            }
        };
        Exit::new(cause, error.to_string())
    })
}

/// Opens the store in a cluster, and tries on while that cannot be reached.
pub(crate) async fn open_cassandra(
    setting: &cassandra::Setting,
    root_roles: RootRoles,
    deadline: Instant,
) -> Result<Arc<CassandraStore>, Exit> {
    let mut told = String::new();
    loop {
        match CassandraStore::open(setting, root_roles.clone()).await {
            Ok(store) => return Ok(Arc::new(store)),
            Err(cassandra::OpenError::Unreachable(reason)) if Instant::now() + RETRY < deadline => {
                if told != reason {
                    tracing::warn!(%reason, "cannot reach Cassandra yet");
                    told = reason;
                }
                tokio::time::sleep(RETRY).await;
            }
            Err(error) => return Err(cassandra_exit(&error)),
        }
    }
}

pub(crate) fn cassandra_exit(error: &cassandra::OpenError) -> Exit {
    use cassandra::OpenError;
    let cause = match error {
        OpenError::Unreachable(_) => Cause::Unreachable,
        OpenError::NoKeyspace(_) | OpenError::NewerSchema { .. } => Cause::UnusableStore,
        OpenError::Datacenter(_) | OpenError::Elsewhere { .. } => Cause::Configuration,
        OpenError::Damaged(_) => Cause::DamagedStore,
    };
    Exit::new(cause, error.to_string())
}

/// A store that is being filled from another one is not served: whoever is not there yet would seem to be gone.
async fn check_complete(store: &dyn Transfer) -> Result<(), Exit> {
    match store.mark().await.map_err(store_exit)? {
        Some(mark) if !mark.done => {
            let reason = "the store is half filled: `iam-svc migrate-store` was begun into it and is not done; run \
                          that again as it was, and it goes on, or serve on the store that it moves from";
            Err(Exit::new(Cause::UnusableStore, reason))
        }
        Some(_) | None => Ok(()),
    }
}

/// A first start makes the store before the key. So a key without a store is what is left of a deployment, and in
/// mode `bootstrap` a new store in its place would make an admin of whoever asks first.
pub(crate) fn check_store_is_there(kek: &KekSource, data_dir: &Path) -> Result<(), Exit> {
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
async fn check_keys(ctx: &Ctx) -> Result<(), Exit> {
    ops::signing_keys::check_ring(ctx).await.map_err(ring_exit)
}

pub(crate) fn ring_exit(fault: RingFault) -> Exit {
    match fault {
        RingFault::WrongKek(reason) => Exit::new(Cause::Configuration, format!("--kek-file: {reason}")),
        RingFault::Store(error) => store_exit(error),
    }
}

/// Whoever comes without a credential must not be able to do everything.
///
/// Source: running manual, `--anonymous-user`.
async fn check_anonymous_user(ctx: &Ctx) -> Result<(), Exit> {
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
