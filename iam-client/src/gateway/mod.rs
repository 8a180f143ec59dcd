//! [`Gateway`]: what an enforcement point asks, and mostly has answered out of memory.
//!
//! It takes a credential and gives an identity; it takes an identity and a question and gives a decision. Tokens are
//! verified here; whether they still may, whose an API key is, and every decision come from the service, and are
//! remembered until a change event, their time to live, or a silence of the bus ends them. What cannot be decided is
//! an error, never an allow.
//!
//! Code map, in reading order:
//!
//! - [`Question`]: a capability, and on what
//! - `rests`: what answers rest on, and whether it has changed
//! - `decided`: the table of decisions
//! - `memory`: answers, and what ends them
//! - `learning`: asking the service what memory does not hold
//! - `following`: following the changes, and whether memory is to be trusted
//! - `keys`: the keys of tokens
//! - `bus`: one connection for questions, answers and events, in their order
//! - `rulings`: what the audit is told of answers out of memory
//! - [`registry`]: which operation of a service needs what
//! - [`layer`]: routes behind it, for `tower` and what is built on it (feature `tower`)
//!
//! Source: protocol sections 5, 6 and 8.

mod bus;
mod decided;
mod following;
mod keys;
mod learning;
mod memory;
mod question;
mod rests;
mod rulings;

#[cfg(feature = "tower")]
pub mod layer;
pub mod registry;

use std::hash::RandomState;
use std::sync::atomic::{AtomicBool, AtomicI64, AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use iam_schema::audit::{AuditPayload, AuditType};
use iam_schema::changes::Follower;
use iam_schema::decisions::Decision;
use iam_schema::tokens::change_password_audience;
use iam_schema::{IamRequest, IamResponse, OperationName, Secret, Timestamp, UserId};
use sha2::{Digest, Sha256};
use tokio::sync::{Notify, Semaphore};

pub use bus::{Bus, Hears};
pub use question::Question;

use self::bus::NatsBus;
use self::keys::Keys;
use self::memory::{CredentialHash, Memory};
use self::rulings::{Rulings, SUM_UP};
use crate::connection::Connection;
use crate::error::{ClientError, ConnectError};
use crate::sessions::Identity;

/// Questions on their way at a time; the others wait.
const ROOM: usize = 256;

/// What time it is.
pub trait Clock: Send + Sync + 'static {
    fn now(&self) -> Timestamp;

    /// Milliseconds that never run backwards.
    fn monotonic_ms(&self) -> i64;
}

/// The clock of this machine.
#[derive(Debug)]
struct SystemClock;

impl Clock for SystemClock {
    #[expect(clippy::disallowed_methods, reason = "the one real read of the wall clock")]
    fn now(&self) -> Timestamp {
        let since = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap_or_default();
        Timestamp::from_millis(i64::try_from(since.as_millis()).unwrap_or(i64::MAX))
    }

    /// As of the last tick of the kernel, some milliseconds ago: an exact reading costs as much as all the rest of an
    /// answer out of memory.
    #[cfg(target_os = "linux")]
    fn monotonic_ms(&self) -> i64 {
        let now = rustix::time::clock_gettime(rustix::time::ClockId::MonotonicCoarse);
        now.tv_sec.saturating_mul(1_000).saturating_add(now.tv_nsec / 1_000_000)
    }

    #[cfg(not(target_os = "linux"))]
    fn monotonic_ms(&self) -> i64 {
        static BEGUN: std::sync::LazyLock<std::time::Instant> =
            std::sync::LazyLock::new(std::time::Instant::now);
        i64::try_from(BEGUN.elapsed().as_millis()).unwrap_or(i64::MAX)
    }
}

/// How a gateway works.
#[derive(Debug, Clone)]
pub struct Setting {
    /// What tokens must say, as `iam-svc` is set: `--issuer`, `--audience`.
    pub issuer: String,
    pub audience: String,
    /// How long a caller waits for an answer that is not in memory, all tries together.
    pub deadline: Duration,
    /// The most identities that are remembered, some 400 bytes each.
    pub identities: usize,
    /// The most decisions that are remembered, in eights: 128 bytes each from the start, and some 100 more for each
    /// allow. Room for twice as many as are asked for within a minute leaves next to none to be asked twice.
    pub decisions: usize,
    /// Who tells the audit: the name of the program, or of the instance of it.
    pub producer: String,
}

impl Default for Setting {
    fn default() -> Self {
        Self {
            issuer: "trustgraph-iam".to_owned(),
            audience: "trustgraph".to_owned(),
            deadline: Duration::from_secs(5),
            identities: 100_000,
            decisions: 65_536,
            producer: "iam-client".to_owned(),
        }
    }
}

/// Why there is no identity, or no decision.
#[derive(Debug, thiserror::Error)]
pub enum GatewayError {
    /// The credential is not good. Why is for the audit alone.
    #[error("auth failure")]
    Refused,
    /// The question is none: an empty capability.
    #[error("{0}")]
    Invalid(String),
    /// Nothing was decided, for now: the service does not answer, or this gateway is not ready.
    #[error("nothing was decided: {0}")]
    Unavailable(String),
}

/// An enforcement point. Cloning is cheap and shares everything.
#[derive(Clone)]
pub struct Gateway(Arc<Shared>);

struct Shared {
    setting: Setting,
    bus: Box<dyn Bus>,
    clock: Box<dyn Clock>,
    memory: Memory,
    keys: Keys,
    rulings: Rulings,
    follower: Mutex<Follower>,
    /// From when on some instance counts as gone, so that everything is dropped.
    silent_ms: AtomicI64,
    /// How often the connection was made when all of its events were last taken in.
    connections: AtomicU64,
    /// Nothing was missed since the connection was made last.
    settled: AtomicBool,
    /// Until then an answer may rest on what a replica missed.
    doubt_ms: AtomicI64,
    /// A heartbeat was heard, and the keys were fetched.
    begun: AtomicBool,
    changed: Notify,
    hasher: RandomState,
    lanes: [tokio::sync::Mutex<()>; 64],
    room: Semaphore,
}

impl std::fmt::Debug for Gateway {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Gateway").field("setting", &self.0.setting).finish_non_exhaustive()
    }
}

impl Gateway {
    /// Connects, with a connection of its own, and begins to follow the changes. It answers once it is
    /// [ready](Gateway::ready), which takes up to two seconds.
    ///
    /// # Errors
    /// As [`Client::connect`](crate::Client::connect).
    pub async fn connect(connection: &Connection, setting: Setting) -> Result<Self, ConnectError> {
        let (bus, incoming) = NatsBus::open(connection).await?;
        let gateway = Self::over(Box::new(bus), Box::new(SystemClock), setting);
        tokio::spawn(incoming.read(Arc::downgrade(&gateway.0)));
        let shared = Arc::downgrade(&gateway.0);
        tokio::spawn(async move {
            loop {
                tokio::time::sleep(SUM_UP).await;
                let Some(shared) = shared.upgrade() else { return };
                shared.tell_sums().await;
            }
        });
        Ok(gateway)
    }

    /// A gateway over any bus and clock: the seam of tests. Whoever reads the bus tells it what [`Hears`] asks for.
    pub fn over(bus: Box<dyn Bus>, clock: Box<dyn Clock>, setting: Setting) -> Self {
        let memory = Memory::new(setting.identities, setting.decisions);
        let connections = AtomicU64::new(bus.connections());
        Self(Arc::new(Shared {
            setting,
            bus,
            clock,
            memory,
            keys: Keys::default(),
            rulings: Rulings::default(),
            follower: Mutex::default(),
            silent_ms: AtomicI64::new(i64::MAX),
            connections,
            settled: AtomicBool::new(true),
            doubt_ms: AtomicI64::new(0),
            begun: AtomicBool::new(false),
            changed: Notify::new(),
            hasher: RandomState::new(),
            lanes: std::array::from_fn(|_| tokio::sync::Mutex::new(())),
            room: Semaphore::new(ROOM),
        }))
    }

    /// Waits until the events are followed, a heartbeat was heard and the keys are there.
    ///
    /// # Errors
    /// `Unavailable`, when that is not so within this time.
    pub async fn ready(&self, within: Duration) -> Result<(), GatewayError> {
        let begins = async {
            while !self.0.begin().await {
                let _ = tokio::time::timeout(Duration::from_millis(200), self.0.changed.notified()).await;
            }
        };
        match tokio::time::timeout(within, begins).await {
            Ok(()) => Ok(()),
            Err(_) => Err(self.0.not_ready()),
        }
    }

    /// Whether questions are answered at this moment: once begun, as long as an instance of the service is heard and
    /// nothing may have been missed.
    pub fn is_ready(&self) -> bool {
        self.0.begun.load(Ordering::Acquire)
            && self.0.trusts(self.0.clock.monotonic_ms())
            && self.0.follower().instances() > 0
    }

    /// Waits for the next event, heartbeats among them: one comes every two seconds. Whoever holds something open for a
    /// caller looks again then; an event that comes after this was called, and before it is waited for, counts.
    pub fn changed(&self) -> impl Future<Output = ()> + Send + '_ {
        self.0.changed.notified()
    }

    /// Whoever reads the bus tells this of events.
    pub fn hears(&self) -> Arc<dyn Hears> {
        self.0.clone()
    }

    /// Waits until everything was taken in that had reached this program on the gateway's connection: for whoever
    /// answers requests that came over that very connection.
    pub async fn caught_up(&self) {
        self.0.bus.caught_up().await;
    }

    /// Whose credential this is, if it works at this moment.
    ///
    /// # Errors
    /// `Refused` when it does not; `Unavailable` when that cannot be told.
    pub async fn authenticate(&self, credential: &Secret) -> Result<Arc<Identity>, GatewayError> {
        if credential.is_empty() {
            return Err(GatewayError::Refused);
        }
        let hash: CredentialHash = Sha256::digest(credential.expose()).into();
        match self.0.remembered(&hash) {
            Some(known) => known,
            None => self.0.learn(hash, || self.0.identify(hash, credential)).await,
        }
    }

    /// Whose token this is, if it is one of somebody who must change the password, which
    /// [`authenticate`](Gateway::authenticate) refuses: it is good for whoami and change-password on the API plane, and
    /// the service has the last word there. `None` for every other credential.
    ///
    /// # Errors
    /// `Unavailable` when that cannot be told.
    ///
    /// Source: protocol section 5, "Must change the password".
    pub async fn must_change_password(&self, credential: &Secret) -> Result<Option<UserId>, GatewayError> {
        let audience = change_password_audience(&self.0.setting.audience);
        let checked = async {
            if !self.0.begin().await {
                return Err(self.0.not_ready());
            }
            self.0.verify(credential, &audience).await
        };
        Ok(self.0.in_time(checked).await?.ok().map(|(claims, _)| claims.sub))
    }

    /// Forwards an operation on the service plane, for the `actor` in it, on the connection of the events: what it
    /// changes is known here before its answer is. It carries the versions of what it names that are known here, so
    /// that no replica answers out of an older record.
    ///
    /// # Errors
    /// As [`Client::call`](crate::Client::call).
    pub async fn forward(
        &self,
        operation: OperationName,
        request: IamRequest<'_>,
    ) -> Result<IamResponse, ClientError> {
        let floors = self.0.floors_of(&request);
        self.0.bus.ask(operation, request, &floors, self.0.setting.deadline).await
    }

    /// Tells the audit what was counted since it was told last, and waits until that has left: before an end.
    pub async fn tell_audit(&self) {
        self.0.tell_sums().await;
        self.0.bus.flush().await;
    }

    /// Whether somebody may. The time to live says for how many seconds the answer may be used again; whoever asks
    /// anew gets a newer one.
    ///
    /// The identity is believed: whoever keeps one for longer than a request must
    /// [authenticate](Gateway::authenticate) its credential again.
    ///
    /// # Errors
    /// `Unavailable` when that cannot be decided, `Invalid` for an empty capability.
    pub async fn authorise(
        &self,
        identity: &Identity,
        question: &Question,
    ) -> Result<Decision, GatewayError> {
        let known = || self.0.remembered_decision(identity, question);
        if let Some(known) = known() {
            return Ok(known);
        }
        let learn = || async {
            // Somebody else may have learned it meanwhile.
            match known() {
                Some(known) => Ok(vec![known]),
                None => self.0.decide(identity, &[question]).await,
            }
        };
        let decided = self.0.learn((identity.user_id, question.hash()), learn).await?;
        decided.into_iter().next().ok_or_else(learning::no_decision)
    }

    /// Whether somebody may do each of these: one decision for each, in the same order. What memory does not answer is
    /// asked in as few requests as will hold it. An empty capability is denied.
    ///
    /// # Errors
    /// `Unavailable` when one of them cannot be decided: nobody is left with half of the answers.
    pub async fn authorise_many(
        &self,
        identity: &Identity,
        questions: &[Question],
    ) -> Result<Vec<Decision>, GatewayError> {
        self.0.decide_many(identity, questions).await
    }
}

/// Whole seconds of a time to live, none of what is over.
fn seconds(ms: i64) -> u32 {
    u32::try_from(ms / 1_000).unwrap_or(0)
}

impl Shared {
    /// What is remembered of a credential.
    fn remembered(&self, hash: &CredentialHash) -> Option<Result<Arc<Identity>, GatewayError>> {
        let now_ms = self.clock.monotonic_ms();
        if !self.trusts(now_ms) {
            return None;
        }
        match self.memory.identity(hash, now_ms) {
            Some(known) => Some(Ok(known)),
            None => {
                let reason = match self.memory.is_refused(hash, now_ms) {
                    true => "remembered by the gateway",
                    false if self.memory.is_gone(hash) => "its key or its user was deleted",
                    false => return None,
                };
                self.tell(self.rulings.refused(reason));
                Some(Err(GatewayError::Refused))
            }
        }
    }

    /// What is remembered of a question.
    fn remembered_decision(&self, identity: &Identity, question: &Question) -> Option<Decision> {
        let now_ms = self.clock.monotonic_ms();
        if !self.trusts(now_ms) {
            return None;
        }
        let about = (identity.user_id, question.hash());
        let known = self.memory.decided(&about, now_ms)?;
        if !known.allow {
            self.tell(self.rulings.denied(identity, question));
        }
        Some(Decision { allow: known.allow, ttl: seconds(known.until_ms - now_ms) })
    }

    /// Tells the audit, if there is anything to tell.
    fn tell(&self, payload: Option<AuditPayload>) {
        let event = payload.and_then(|said| rulings::event(&self.setting.producer, self.clock.now(), said));
        if let Some(event) = event {
            self.bus.audit(AuditType::Gateway.as_str(), event);
        }
    }

    /// Tells the audit how many allows memory gave, and how many events were too many to be told one by one.
    async fn tell_sums(&self) {
        for part in self.memory.decisions().parts() {
            part.take_uses(|matter, count| self.rulings.used(matter, count));
            tokio::task::yield_now().await;
        }
        let (sums, given_up) = self.rulings.sums();
        for (number, sum) in sums.enumerate() {
            self.tell(Some(sum));
            if number % 64 == 63 {
                tokio::task::yield_now().await;
            }
        }
        if given_up > 0 {
            let reason = "denies and refusals beyond what is told one by one".to_owned();
            self.tell(Some(AuditPayload { reason, count: Some(given_up), ..AuditPayload::default() }));
        }
    }
}
