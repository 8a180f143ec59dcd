//! NATS: connections, front threads, and what of the protocol happens on the bus and not in a request.
//!
//! - [`front`]: requests in, replies out
//! - [`message`]: what the reply subject and the headers of somebody's message may say to us
//! - [`connect`]: how a connection is made
//! - [`link`]: a connection, as its events tell of it
//! - [`changes`]: change events, published and followed
//! - [`discovery`]: what `nats micro` asks
//! - [`audit`]: audit events
//!
//! Threads: each front has its own, with a runtime, a connection a plane, and subscriptions of its own. Whatever
//! waits or takes long runs on the runtime that [`Bus::start`] was called on, and so does what is in no hurry:
//! heartbeats, audit, discovery, on one more connection.

mod connect;
mod front;
mod link;
mod message;

pub mod changes;

mod audit;
mod discovery;

use std::collections::BTreeSet;
use std::future::Future;
use std::panic::AssertUnwindSafe;
use std::sync::atomic::{AtomicBool, AtomicI64, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use async_nats::Client;
use async_nats::connection::State;
use iam_client::Connection;
use iam_schema::audit::AuditEvent;
use iam_schema::changes::{Change, HEARTBEAT_MS, SILENCE_MS};
use iam_schema::subject::{Plane, Subjects};
use tokio::runtime::Handle;
use tokio::sync::{OwnedSemaphorePermit, Semaphore, mpsc, oneshot, watch};
use tokio::task::JoinHandle;
use tokio::time::Instant;

pub use self::connect::{probe, publish_once};
pub use self::message::{headers, reply_subject};

use self::audit::{Auditor, Stream};
use self::changes::{Outgoing, Publisher};
use self::connect::{CONNECT, options};
use self::discovery::Discovery;
use self::front::Front;
use self::link::Link;
use crate::clock::Clock;
use crate::config::AuditStream;
use crate::ctx::Ctx;
use crate::dispatch::Dispatch;
use crate::exit::{Cause, Exit};
use crate::telemetry::{LinkKind, Metrics};

/// The most requests a plane that are worked on behind the fronts. It bounds memory: each holds a payload of up
/// to 256 KiB, and what they wait for, the store and the hash pool, has far shorter queues of its own. One bound
/// a plane, so that a flood on the API plane leaves the service plane its share.
const MAX_LATER: usize = 512;
/// The pause between attempts to connect at start.
const CONNECT_PAUSE: Duration = Duration::from_millis(250);
/// The shortest time between two heartbeats, whoever asks for more.
const MIN_HEARTBEAT: Duration = Duration::from_millis(100);
/// How often a subscription that the server does not allow is tried for again.
const RESUBSCRIBE: Duration = Duration::from_secs(5);
/// How often summaries of allows are published. Source: protocol section 9.
const SUMMARIES: Duration = Duration::from_secs(10);
/// What is kept of the time to drain for the last bytes, after all requests are answered.
const LAST_BYTES: Duration = Duration::from_secs(2);

/// What the bus is made of.
#[derive(Debug)]
pub struct Parts {
    pub nats: Connection,
    pub subjects: Subjects,
    pub front_threads: usize,
    pub audit_stream: AuditStream,
    pub ctx: Arc<Ctx>,
    pub dispatch: Arc<Dispatch>,
    pub metrics: Arc<Metrics>,
    pub audit_events: mpsc::Receiver<AuditEvent>,
}

/// Where the fronts are in their lives.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Phase {
    Serving,
    /// Take no more requests, answer those that were taken.
    Draining,
    /// Send what is left, and end.
    Closing,
}

/// What fronts and workers share.
#[derive(Debug)]
struct Shared {
    nats: Connection,
    subjects: Subjects,
    ctx: Arc<Ctx>,
    clock: Arc<dyn Clock>,
    dispatch: Arc<Dispatch>,
    metrics: Arc<Metrics>,
    publisher: Publisher,
    /// One for each front. The first front's connection is the replica's publisher.
    outboxes: Vec<mpsc::UnboundedSender<Outgoing>>,
    backend: Handle,
    later: [Arc<Semaphore>; 2],
    /// Fronts that have reconnected and do not know yet whether they missed an event.
    unsettled: Mutex<BTreeSet<usize>>,
    /// How many instances the throttle was told of; 0 before that.
    instances: AtomicUsize,
    links: Mutex<Vec<Arc<Link>>>,
    standing: AtomicBool,
    /// When each front last heard a heartbeat of ours come back, in milliseconds of the monotonic clock.
    heard_ms: Vec<AtomicI64>,
    draining: AtomicBool,
    /// Changes of which nobody knows yet whether they happened.
    settling: AtomicUsize,
    /// When attempts to connect at start end.
    deadline: Instant,
}

impl Shared {
    /// A permit to work on a request behind the fronts, if there is one.
    fn permit(&self, plane: Plane) -> Option<OwnedSemaphorePermit> {
        self.later.get(plane as usize).and_then(|later| later.clone().try_acquire_owned().ok())
    }

    /// A front says whether it knows of every event. The cache is used only while all of them do.
    fn trust(&self, front: usize, settled: bool) {
        let mut unsettled = self.unsettled.lock().unwrap_or_else(PoisonError::into_inner);
        if settled {
            unsettled.remove(&front);
        } else {
            unsettled.insert(front);
        }
        // Under the lock, so that the last word is the right one.
        self.dispatch.trust_cache(unsettled.is_empty());
    }

    /// Divides the budget of failed logins by the instances that are heard.
    fn share_throttle(&self, instances: usize) {
        if self.instances.swap(instances, Ordering::Relaxed) != instances {
            self.ctx.throttle.set_instances(instances);
        }
    }

    /// Connects, and tries again until the start-up time-out. A connection that was made is kept up for ever.
    async fn connect(&self, connection: LinkKind, front: usize) -> Result<Client, String> {
        let link = Arc::new(Link::new(connection, front, self.metrics.clone()));
        let options = options(&self.nats, link.clone()).map_err(|e| e.to_string())?;
        let servers = self.nats.servers().map_err(|e| e.to_string())?;
        let mut said = String::new();
        loop {
            match options.clone().connect(servers.as_slice()).await {
                Ok(client) => {
                    link.client.get_or_init(|| client.clone());
                    self.links.lock().unwrap_or_else(PoisonError::into_inner).push(link);
                    return Ok(client);
                }
                Err(error) => {
                    let reason = error.to_string();
                    if Instant::now() + CONNECT_PAUSE >= self.deadline {
                        return Err(format!("cannot connect to NATS: {reason}"));
                    }
                    if reason != said {
                        tracing::warn!(reason, "cannot connect to NATS yet");
                        said = reason;
                    }
                    tokio::time::sleep(CONNECT_PAUSE).await;
                }
            }
        }
    }

    /// Why we are not ready.
    fn problem(&self) -> Option<String> {
        if self.draining.load(Ordering::Relaxed) {
            return Some("draining".to_owned());
        }
        if !self.standing.load(Ordering::Relaxed) {
            return Some("subscriptions do not stand yet".to_owned());
        }
        let links = self.links.lock().unwrap_or_else(PoisonError::into_inner);
        links.iter().find_map(|link| link.problem()).or_else(|| self.silence())
    }

    /// Connections can stand while nothing passes, or not what should: then our own heartbeats do not come back.
    fn silence(&self) -> Option<String> {
        let now_ms = self.clock.monotonic_ms();
        let heard = self.heard_ms.iter().all(|heard| now_ms - heard.load(Ordering::Relaxed) < SILENCE_MS);
        (!heard).then(|| self.unheard())
    }

    fn unheard(&self) -> String {
        let hint = "our own heartbeat was not heard: may this client publish and subscribe";
        format!("{hint} `{}`?", self.subjects.changed())
    }

    /// Whether what we publish leaves at once.
    fn publisher_connected(&self) -> bool {
        let links = self.links.lock().unwrap_or_else(PoisonError::into_inner);
        links.iter().any(|link| link.front == 0 && link.connection == LinkKind::Service && link.connected())
    }
}

/// What readiness asks of the bus.
#[derive(Debug, Clone)]
pub struct Status(Arc<Shared>);

impl Status {
    /// Why requests are not answered, or `None` if they are.
    pub fn problem(&self) -> Option<String> {
        self.0.problem()
    }
}

/// The running bus.
#[derive(Debug)]
pub struct Bus {
    shared: Arc<Shared>,
    phase: watch::Sender<Phase>,
    drained: Vec<oneshot::Receiver<()>>,
    ended: mpsc::UnboundedReceiver<Result<(), String>>,
    house: Client,
    heart: JoinHandle<()>,
    resubscribing: JoinHandle<()>,
    discovery: JoinHandle<()>,
    auditor: JoinHandle<()>,
    stop_auditor: oneshot::Sender<Instant>,
}

impl Bus {
    /// Connects, subscribes, and begins to answer. Returns when the server has all subscriptions in place.
    ///
    /// # Errors
    /// `Unreachable` when that is not so by `deadline`, with what stood in the way; or when a required audit
    /// stream is not there.
    pub async fn start(parts: Parts, deadline: Instant) -> Result<Self, Exit> {
        let Parts { nats, subjects, front_threads, audit_stream, ctx, dispatch, metrics, audit_events } =
            parts;
        let unreachable = |reason: String| Exit::new(Cause::Unreachable, reason);
        let fronts = front_threads.max(1);
        let (outboxes, inboxes): (Vec<_>, Vec<_>) = (0..fronts).map(|_| mpsc::unbounded_channel()).unzip();
        let Some(first) = outboxes.first().cloned() else {
            return Err(Exit::new(Cause::Internal, "no front"));
        };
        let instance = uuid::Builder::from_random_bytes(ctx.entropy.bytes()).into_uuid().to_string();
        let shared = Arc::new(Shared {
            clock: ctx.clock.clone(),
            publisher: Publisher::new(instance.clone(), first, ctx.clock.clone(), metrics.clone()),
            nats,
            subjects,
            ctx,
            dispatch,
            metrics,
            outboxes,
            backend: Handle::current(),
            later: [(); 2].map(|()| Arc::new(Semaphore::new(MAX_LATER))),
            unsettled: Mutex::default(),
            instances: AtomicUsize::new(0),
            links: Mutex::default(),
            standing: AtomicBool::new(false),
            heard_ms: (0..fronts).map(|_| AtomicI64::new(0)).collect(),
            draining: AtomicBool::new(false),
            settling: AtomicUsize::new(0),
            deadline,
        });

        let house = shared.connect(LinkKind::House, 0).await.map_err(unreachable)?;
        let stream = match audit_stream {
            AuditStream::Off => Stream::Off,
            AuditStream::Auto => Stream::Wanted,
            AuditStream::Require => {
                require_stream(&house, &shared).await.map_err(unreachable)?;
                Stream::There
            }
        };

        let (phase, _) = watch::channel(Phase::Serving);
        let (end, mut ended) = mpsc::unbounded_channel();
        let mut standing = Vec::new();
        let mut drained = Vec::new();
        for (index, outbox) in inboxes.into_iter().enumerate() {
            let (stands, stand) = oneshot::channel();
            let (drains, drain) = oneshot::channel();
            standing.push(stand);
            drained.push(drain);
            let front = FrontThread {
                shared: shared.clone(),
                index,
                outbox,
                phase: phase.subscribe(),
                standing: stands,
                drained: drains,
            };
            front
                .spawn(end.clone())
                .map_err(|e| Exit::new(Cause::Internal, format!("cannot start a thread: {e}")))?;
        }
        let heart = tokio::spawn(heart(shared.clone()));
        let all_stand = async {
            for stand in standing {
                // A front that ends without having stood is reported by `ended`.
                if stand.await.is_err() {
                    std::future::pending::<()>().await;
                }
            }
        };
        tokio::select! {
            () = nudged(&shared, all_stand) => {}
            front = ended.recv() => {
                let reason = match front {
                    Some(Err(reason)) => reason,
                    Some(Ok(())) | None => "a front ended at once".to_owned(),
                };
                return Err(unreachable(reason));
            }
            () = tokio::time::sleep_until(deadline) => {
                let reason = shared.problem().unwrap_or_default();
                return Err(unreachable(format!("{reason}; {}", shared.unheard())));
            }
        }
        for heard in &shared.heard_ms {
            heard.store(shared.clock.monotonic_ms(), Ordering::Relaxed);
        }
        shared.standing.store(true, Ordering::Relaxed);
        if let Some(problem) = shared.problem() {
            return Err(unreachable(problem));
        }

        let discovery = Discovery {
            instance: instance.clone(),
            started: shared.publisher.started,
            subjects: shared.subjects.clone(),
            metrics: shared.metrics.clone(),
        };
        let questions = discovery.subscribe(&house).await.map_err(|e| unreachable(e.to_string()))?;
        let _ = tokio::time::timeout(CONNECT, house.flush()).await;
        let discovery = tokio::spawn(discovery.answer_all(house.clone(), questions));
        let auditor = Auditor {
            client: house.clone(),
            subjects: shared.subjects.clone(),
            producer: format!("iam-svc/{instance}"),
            stream,
            metrics: shared.metrics.clone(),
        };
        let (stop_auditor, stop) = oneshot::channel();
        let auditor = tokio::spawn(auditor.run(audit_events, stop));
        let resubscribing = tokio::spawn(resubscribe(shared.clone()));
        Ok(Self {
            shared,
            phase,
            drained,
            ended,
            house,
            heart,
            resubscribing,
            discovery,
            auditor,
            stop_auditor,
        })
    }

    /// For the health endpoints.
    pub fn status(&self) -> Status {
        Status(self.shared.clone())
    }

    /// Publishes what was changed before there was a bus.
    pub fn announce(&self, changes: &[Change]) {
        if !changes.is_empty() {
            self.shared.publisher.publish(changes, None);
        }
    }

    /// The id of this start, as in events and discovery.
    pub fn instance(&self) -> &str {
        &self.shared.publisher.instance
    }

    /// Waits until a front ends by itself, which it should not: the process would be deaf.
    pub async fn failed(&mut self) -> String {
        match self.ended.recv().await {
            Some(Err(reason)) => reason,
            Some(Ok(())) | None => "a front ended unasked".to_owned(),
        }
    }

    /// Takes no more requests, answers those that were taken, publishes what is to be published, and says
    /// goodbye; all of it by `deadline`, or what then is left is logged.
    pub async fn drain(mut self, deadline: Instant) {
        self.shared.draining.store(true, Ordering::Relaxed);
        self.discovery.abort();
        self.resubscribing.abort();
        self.phase.send_replace(Phase::Draining);
        let answered = async {
            for drained in self.drained {
                let _ = drained.await;
            }
            // All permits are back when all work behind the fronts is done, and its replies are in the outboxes.
            for later in &self.shared.later {
                let _ = later.acquire_many(u32::try_from(MAX_LATER).unwrap_or(u32::MAX)).await;
            }
        };
        let until = deadline.checked_sub(LAST_BYTES).unwrap_or(deadline);
        let all_answered = tokio::time::timeout_at(until, answered).await.is_ok();
        if !all_answered {
            let left: usize =
                self.shared.later.iter().map(|later| MAX_LATER - later.available_permits()).sum();
            tracing::error!(left, "requests were not answered in time");
        }
        self.heart.abort();
        // Without a goodbye the others drop everything in six seconds: right, where a change may yet surface.
        if all_answered && self.shared.settling.load(Ordering::Relaxed) == 0 {
            self.shared.publisher.bye();
        }
        self.phase.send_replace(Phase::Closing);
        self.shared.dispatch.flush_summaries();
        let _ = tokio::time::timeout_at(until, self.shared.dispatch.write_last_used()).await;
        let _ = self.stop_auditor.send(deadline);
        let closed = async {
            let fronts = self.shared.outboxes.len();
            for _ in 0..fronts {
                if let Some(Err(reason)) = self.ended.recv().await {
                    tracing::error!(reason, "a front ended badly");
                }
            }
            let _ = self.auditor.await;
            if self.house.connection_state() == State::Connected {
                let _ = self.house.flush().await;
            }
        };
        if tokio::time::timeout_at(deadline, closed).await.is_err() {
            tracing::error!("not everything was sent in time");
        }
    }
}

/// What a front's thread is given.
struct FrontThread {
    shared: Arc<Shared>,
    index: usize,
    outbox: mpsc::UnboundedReceiver<Outgoing>,
    phase: watch::Receiver<Phase>,
    standing: oneshot::Sender<()>,
    drained: oneshot::Sender<()>,
}

impl FrontThread {
    /// Runs the front in its thread, and tells how it ended; also when it panicked.
    fn spawn(self, ended: mpsc::UnboundedSender<Result<(), String>>) -> std::io::Result<()> {
        let name = format!("iam-front-{}", self.index);
        std::thread::Builder::new().name(name).spawn(move || {
            let result = std::panic::catch_unwind(AssertUnwindSafe(|| self.run()));
            // Nobody listens any more when the start was given up.
            let _ = ended.send(result.unwrap_or_else(|_| Err("a front panicked".to_owned())));
        })?;
        Ok(())
    }

    fn run(self) -> Result<(), String> {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
        let runtime = runtime.map_err(|e| format!("cannot make a runtime: {e}"))?;
        let Self { shared, index, outbox, phase, standing, drained } = self;
        runtime.block_on(tokio::task::unconstrained(async {
            Front::open(shared, index, outbox, standing).await?.run(phase, drained).await
        }))
    }
}

/// Asks for heartbeats until `done`, so that a start need not wait for the next regular one.
async fn nudged(shared: &Shared, done: impl Future<Output = ()>) {
    let mut done = std::pin::pin!(done);
    while tokio::time::timeout(MIN_HEARTBEAT, &mut done).await.is_err() {
        shared.publisher.nudge.notify_one();
    }
}

/// Publishes heartbeats and summaries of allows, and writes when keys were last used, each in its time.
async fn heart(shared: Arc<Shared>) {
    let mut given_up = 0;
    let mut hashed = 0;
    let mut writing = tokio::spawn(async {});
    let regular = Duration::from_millis(u64::try_from(HEARTBEAT_MS).unwrap_or(2_000));
    let mut beat = tokio::time::interval(regular);
    let mut summaries = tokio::time::interval(SUMMARIES);
    beat.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    summaries.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    loop {
        tokio::select! {
            _ = summaries.tick() => {
                shared.dispatch.flush_summaries();
                // A store that is slow must not stop the heart: one writing at a time, and the beat goes on.
                if writing.is_finished() {
                    let shared = shared.clone();
                    writing = tokio::spawn(async move { shared.dispatch.write_last_used().await });
                }
                continue;
            }
            _ = beat.tick() => {}
            () = shared.publisher.nudge.notified() => {}
        }
        let waiting = shared.ctx.hasher.waiting();
        shared.metrics.hash_queue.set(i64::try_from(waiting).unwrap_or(i64::MAX));
        let begun = shared.ctx.hasher.begun();
        shared.metrics.hashes.inc_by(begun - hashed);
        hashed = begun;
        let lost = shared.dispatch.audit().given_up();
        shared.metrics.audit_given_up.inc_by(lost - given_up);
        given_up = lost;
        // While the connection is cut they would pile up, and tell old news when it stands again.
        if shared.publisher_connected() {
            shared.publisher.heartbeat();
        }
        tokio::time::sleep(MIN_HEARTBEAT).await;
    }
}

/// Tries now and then for the subscriptions that the server does not allow.
async fn resubscribe(shared: Arc<Shared>) {
    loop {
        tokio::time::sleep(RESUBSCRIBE).await;
        let links = shared.links.lock().unwrap_or_else(PoisonError::into_inner).clone();
        for link in links {
            link.subscribe_again().await;
        }
    }
}

/// Tries for the audit stream until the start-up time-out.
async fn require_stream(house: &Client, shared: &Shared) -> Result<(), String> {
    loop {
        match audit::ensure_stream(house, &shared.subjects).await {
            Ok(()) => return Ok(()),
            Err(reason) if Instant::now() + CONNECT_PAUSE >= shared.deadline => {
                return Err(format!("--audit-stream require: {reason}"));
            }
            Err(_) => tokio::time::sleep(CONNECT_PAUSE).await,
        }
    }
}
