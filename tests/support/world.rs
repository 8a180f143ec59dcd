//! The whole service in process: embedded store, manual clock, seeded randomness, and no bus.

use std::sync::Arc;
use std::time::Instant;

use async_trait::async_trait;
use iam_schema::audit::{AuditEvent, AuditPayload};
use iam_schema::codec::{Format, decode, encode};
use iam_schema::subject::Plane;
use iam_schema::{IamRequest, IamResponse, OperationName, Secret, Timestamp};
use iam_svc::clock::{Clock, ManualClock};
use iam_svc::crypto::passwords::HashPool;
use iam_svc::crypto::seal::Kek;
use iam_svc::ctx::{BootstrapMode, Ctx, Settings};
use iam_svc::dispatch::audit::Audit;
use iam_svc::dispatch::{Answer, Answered, Dispatch, Headers, Incoming};
use iam_svc::domain::policy::{Policy, PolicySource};
use iam_svc::domain::throttle::Throttle;
use iam_svc::entropy::Entropy;
use iam_svc::store::Store;
use iam_svc::store::embedded::{EmbeddedStore, Options};
use tempfile::TempDir;
use tokio::sync::mpsc;

use crate::scene::Wire;

/// What the tokens of every world say.
pub const ISSUER: &str = "https://iam.test";
pub const AUDIENCE: &str = "iam";

/// Rounds of a password hash in tests: enough to be the same code, few enough to run thousands.
const ROUNDS: u32 = 1_000;

/// The service in process.
#[derive(Debug)]
pub struct World {
    pub clock: Arc<ManualClock>,
    pub dispatch: Arc<Dispatch>,
    pub audit: tokio::sync::Mutex<mpsc::Receiver<AuditEvent>>,
    /// Held for as long as the store is.
    _dir: Option<TempDir>,
}

/// How a world is set up.
#[derive(Debug)]
pub struct Setup {
    pub bootstrap: BootstrapMode,
    pub policy: PolicySource,
    pub anonymous_user: Option<String>,
    pub audit_allow_all: bool,
    /// How many audit events may wait to be looked at.
    pub audit_queue: usize,
    pub seed: u64,
    /// Which of several services on one store: they share the key-encryption key and draw other ids.
    pub replica: u64,
    /// Rounds of a password hash.
    pub rounds: u32,
}

impl Default for Setup {
    fn default() -> Self {
        Self {
            bootstrap: BootstrapMode::Bootstrap,
            policy: PolicySource::default(),
            anonymous_user: None,
            audit_allow_all: false,
            audit_queue: 100_000,
            seed: 1,
            replica: 0,
            rounds: ROUNDS,
        }
    }
}

impl World {
    /// A world on an empty embedded store.
    pub fn new(setup: Setup) -> Self {
        let dir = TempDir::new().expect("a directory");
        let policy = Arc::new(Policy::build(&setup.policy).expect("a policy that stands"));
        let options = Options::new(Arc::new(policy.root_roles()));
        let store = EmbeddedStore::open(dir.path(), options).expect("a store");
        let mut world = Self::over(Arc::new(store), policy, setup);
        world._dir = Some(dir);
        world
    }

    /// A world on a given store.
    pub fn over(store: Arc<dyn Store>, policy: Arc<Policy>, setup: Setup) -> Self {
        Self::at(store, policy, setup, Self::new_clock())
    }

    /// A clock that stands where every world begins.
    pub fn new_clock() -> Arc<ManualClock> {
        let now: Timestamp = "2026-12-01T00:00:00Z".parse().expect("a time");
        Arc::new(ManualClock::at(now))
    }

    /// A world on a given store and clock, which it may share with other replicas, or with one that has ended.
    pub fn at(store: Arc<dyn Store>, policy: Arc<Policy>, setup: Setup, clock: Arc<ManualClock>) -> Self {
        let (audit, events) = Audit::channel(setup.audit_queue);
        let ctx = ctx(store, clock.clone(), policy, setup);
        let dispatch = Arc::new(Dispatch::new(Arc::new(ctx), audit));
        Self { clock, dispatch, audit: events.into(), _dir: None }
    }

    /// The audit events since this was asked last.
    pub async fn told(&self) -> Vec<AuditEvent> {
        let mut events = self.audit.lock().await;
        std::iter::from_fn(|| events.try_recv().ok()).collect()
    }

    /// What the last audit event says; those before it are gone.
    ///
    /// # Panics
    /// When there was none since.
    pub async fn last_told(&self) -> AuditPayload {
        self.told().await.pop().expect("an event").payload
    }

    /// One request, as bytes, through both phases.
    pub async fn bytes(
        &self,
        plane: Plane,
        operation: &str,
        headers: Headers<'_>,
        payload: &[u8],
    ) -> (Vec<u8>, Option<iam_schema::ErrorKind>) {
        let answered = self.answered(plane, operation, headers, payload).await;
        let reply = answered.reply.expect("no deadline was given");
        (reply.payload, reply.error)
    }

    /// As [`World::bytes`], with what is to be published before the reply.
    pub async fn answered(
        &self,
        plane: Plane,
        operation: &str,
        headers: Headers<'_>,
        payload: &[u8],
    ) -> Answered {
        let incoming = Incoming { plane, operation, headers, payload, received: Instant::now() };
        match self.dispatch.answer_now(incoming) {
            Answer::Now(reply) => Answered { reply: Some(reply), changes: Vec::new(), unknown: Vec::new() },
            Answer::Later(later) => self.dispatch.answer_later(later).await,
        }
    }
}

/// What operations are given: these seams, seeded randomness, few rounds of a hash, and usual settings.
pub fn ctx(store: Arc<dyn Store>, clock: Arc<dyn Clock>, policy: Arc<Policy>, setup: Setup) -> Ctx {
    let entropy = Entropy::seeded(setup.seed);
    let kek = Kek::generate(&entropy);
    let entropy = match setup.replica {
        0 => entropy,
        replica => Entropy::seeded(setup.seed.wrapping_add(replica << 32)),
    };
    let throttle = Throttle::new(entropy.bytes());
    throttle.set_instances(1);
    Ctx {
        store,
        clock,
        hasher: HashPool::with_rounds(1, setup.rounds).expect("a thread"),
        policy,
        kek,
        throttle,
        entropy,
        settings: Settings {
            bootstrap: setup.bootstrap,
            issuer: ISSUER.into(),
            audience: AUDIENCE.into(),
            token_lifetime_s: 3600,
            grace_period_s: 86_400,
            allow_ttl_s: 60,
            deny_ttl_s: 5,
            anonymous_user: setup.anonymous_user.map(|name| name.parse().expect("a username")),
            audit_allow_all: setup.audit_allow_all,
        },
    }
}

#[async_trait]
impl Wire for World {
    async fn send(
        &self,
        plane: Plane,
        operation: OperationName,
        credential: Option<&Secret>,
        request: IamRequest<'static>,
    ) -> IamResponse {
        let header = credential.map(|credential| format!("Bearer {}", credential.expose()));
        let headers = Headers { authorization: header.as_deref(), ..Headers::default() };
        let payload = encode(&request, Format::MessagePack).expect("a request");
        let (payload, error) = self.bytes(plane, operation.as_str(), headers, &payload).await;
        let response: IamResponse = decode(&payload).expect("a reply that can be read");
        let kind = response.error.as_ref().and_then(|error| error.known_kind());
        assert_eq!(kind, error, "the headers must say what the reply says");
        response
    }

    fn clock(&self) -> Option<&ManualClock> {
        Some(&self.clock)
    }
}
