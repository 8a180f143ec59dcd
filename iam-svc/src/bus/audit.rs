//! Audit events on the bus, and in the stream that keeps them.
//!
//! What must not be lost without notice, changes and failed authentications, is sent until the stream has
//! acknowledged it; the reply to the caller does not wait for that.
//!
//! Source: protocol section 9.

use std::collections::VecDeque;
use std::sync::Arc;
use std::time::Duration;

use async_nats::connection::State;
use async_nats::jetstream::context::{CreateStreamError, GetStreamErrorKind};
use async_nats::jetstream::stream;
use async_nats::{Client, HeaderMap, Request};
use futures_util::StreamExt;
use futures_util::stream::FuturesUnordered;
use iam_schema::audit::{AuditEvent, AuditOutcome, AuditType, STREAM};
use iam_schema::subject::Subjects;
use serde::Deserialize;
use tokio::sync::{mpsc, oneshot};
use tokio::time::Instant;

use super::link::LogGate;
use crate::telemetry::Metrics;

/// The most events of a kind that wait for their acknowledgement: some minutes of a busy deployment without its
/// stream. Refusals have a spool of their own, so that a flood of them pushes out no change.
const MAX_SPOOLED: usize = 8_192;
/// The most bytes of such events: events are small, but what they quote of a request need not be.
const MAX_SPOOLED_BYTES: usize = 16 * 1024 * 1024;
/// The most events sent and not yet acknowledged: what a stream takes in one round trip without effort.
const MAX_IN_FLIGHT: usize = 64;
/// How long an acknowledgement may take.
const ACKNOWLEDGE: Duration = Duration::from_secs(5);
/// The pause after a failure: the stream is not there, and asking faster does not bring it back.
const PAUSE: Duration = Duration::from_secs(1);
/// How often a stream that could not be had is tried for again.
const RETRY: Duration = Duration::from_secs(60);
/// The window in which the stream knows an event that is sent twice.
const DUPLICATES: Duration = Duration::from_secs(120);

/// Makes sure that the stream is there and keeps our subjects.
///
/// # Errors
/// In words: it cannot be had, or one of that name keeps something else.
pub(super) async fn ensure_stream(client: &Client, subjects: &Subjects) -> Result<(), String> {
    let jetstream = async_nats::jetstream::new(client.clone());
    let all = subjects.audit_all();
    let there = match jetstream.get_stream(STREAM).await {
        Ok(there) => there,
        Err(error) => match error.kind() {
            GetStreamErrorKind::JetStream(cause) if cause.code() == 404 => {
                let config = stream::Config {
                    name: STREAM.to_owned(),
                    subjects: vec![all],
                    description: Some("Audit events of iam-svc".to_owned()),
                    duplicate_window: DUPLICATES,
                    ..Default::default()
                };
                let created = jetstream.create_stream(config).await;
                return created
                    .map(drop)
                    .map_err(|e: CreateStreamError| format!("cannot create {STREAM}: {e}"));
            }
            _ => return Err(format!("cannot ask for {STREAM}: {error}")),
        },
    };
    let kept = &there.cached_info().config.subjects;
    let covers = kept.iter().any(|subject| *subject == all || subject == ">");
    if covers { Ok(()) } else { Err(format!("{STREAM} is there but does not keep `{all}`")) }
}

/// An event that waits for its acknowledgement.
#[derive(Debug)]
struct Spooled {
    id: String,
    subject: String,
    payload: Vec<u8>,
}

/// Events in the order in which they came, no more than the bounds; the oldest are given up.
#[derive(Debug, Default)]
struct Spool {
    events: VecDeque<Spooled>,
    bytes: usize,
}

impl Spool {
    /// Adds an event; how many had to be given up for it.
    fn push(&mut self, event: Spooled) -> u64 {
        self.bytes += event.payload.len();
        self.events.push_back(event);
        self.trim()
    }

    /// Puts an event back that was taken and not acknowledged, in its old place.
    fn put_back(&mut self, event: Spooled) -> u64 {
        self.bytes += event.payload.len();
        self.events.push_front(event);
        self.trim()
    }

    fn trim(&mut self) -> u64 {
        let mut given_up = 0;
        while self.events.len() > MAX_SPOOLED || self.bytes > MAX_SPOOLED_BYTES {
            given_up += u64::from(self.pop().is_some());
        }
        given_up
    }

    fn pop(&mut self) -> Option<Spooled> {
        let event = self.events.pop_front()?;
        self.bytes -= event.payload.len();
        Some(event)
    }
}

/// What is known of the stream.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Stream {
    /// There, and it keeps our subjects.
    There,
    /// To be asked for, and done without meanwhile.
    Wanted,
    /// Not asked for.
    Off,
}

/// Publishes audit events.
#[derive(Debug)]
pub(super) struct Auditor {
    pub(super) client: Client,
    pub(super) subjects: Subjects,
    /// Which instance of which program.
    pub(super) producer: String,
    pub(super) stream: Stream,
    pub(super) metrics: Arc<Metrics>,
}

/// What waits, by what it is.
#[derive(Debug, Default)]
struct Waiting {
    changes: Spool,
    refusals: Spool,
    in_flight: usize,
}

impl Waiting {
    fn spool(&mut self, class: Class) -> &mut Spool {
        match class {
            Class::Change => &mut self.changes,
            Class::Refusal => &mut self.refusals,
        }
    }

    fn len(&self) -> usize {
        self.changes.events.len() + self.refusals.events.len() + self.in_flight
    }

    /// The next to be sent: changes first.
    fn next(&mut self) -> Option<(Class, Spooled)> {
        let change = self.changes.pop().map(|event| (Class::Change, event));
        change.or_else(|| self.refusals.pop().map(|event| (Class::Refusal, event)))
    }
}

/// Which of the events that must reach the stream: anybody can bring about refusals, but not changes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Class {
    Change,
    Refusal,
}

/// Whether an event must reach the stream, and as what.
fn must_be_kept(event: &AuditEvent) -> Option<Class> {
    let failed = matches!(event.payload.outcome, Some(AuditOutcome::Failure | AuditOutcome::Denied));
    match event.event_type {
        AuditType::Management if failed => Some(Class::Refusal),
        AuditType::Management => Some(Class::Change),
        AuditType::Authenticate => failed.then_some(Class::Refusal),
        AuditType::Authorise | AuditType::Gateway => None,
    }
}

impl Auditor {
    /// Publishes events as they come. Told to stop, it sends what is there, and waits for acknowledgements until
    /// the time it was given; what is left then is given up.
    pub(super) async fn run(
        mut self,
        mut events: mpsc::Receiver<AuditEvent>,
        mut stop: oneshot::Receiver<Instant>,
    ) {
        let mut waiting = Waiting::default();
        let mut sending = FuturesUnordered::new();
        let mut given_up = LogGate::default();
        let mut failing = false;
        let mut said_missing = false;
        let mut paused_until: Option<Instant> = None;
        if self.stream == Stream::Wanted {
            // Before the first event is taken: one that is published ahead of its stream is not kept.
            self.try_for_stream(&mut said_missing).await;
        }
        let mut retry = tokio::time::interval_at(Instant::now() + RETRY, RETRY);
        retry.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        // Set when told to stop.
        let mut deadline: Option<Instant> = None;
        let mut ended = false;
        loop {
            if self.stream == Stream::There && paused_until.is_none() {
                while sending.len() < MAX_IN_FLIGHT
                    && let Some((class, event)) = waiting.next()
                {
                    waiting.in_flight += 1;
                    let client = self.client.clone();
                    sending.push(async move { (class, acknowledged(&client, &event).await, event) });
                }
            }
            self.metrics.audit_spool.set(i64::try_from(waiting.len()).unwrap_or(i64::MAX));
            if ended && waiting.len() == 0 {
                break;
            }
            let far = Instant::now() + RETRY;
            tokio::select! {
                event = events.recv(), if !ended => match event {
                    Some(event) => {
                        let lost = self.take(event, &mut waiting).await;
                        self.give_up(lost, &mut given_up);
                    }
                    None => {
                        ended = true;
                        deadline.get_or_insert(far);
                    }
                },
                Some((class, result, event)) = sending.next(), if !sending.is_empty() => {
                    waiting.in_flight -= 1;
                    match result {
                        Ok(()) => {
                            if std::mem::take(&mut failing) {
                                tracing::info!("the audit stream acknowledges again");
                            }
                        }
                        Err(reason) => {
                            if !std::mem::replace(&mut failing, true) {
                                tracing::warn!(reason, "the audit stream does not acknowledge: events wait");
                                // It may have been deleted.
                                retry.reset_immediately();
                            }
                            let lost = waiting.spool(class).put_back(event);
                            self.give_up(lost, &mut given_up);
                            paused_until = Some(Instant::now() + PAUSE);
                        }
                    }
                }
                _ = tokio::time::sleep_until(paused_until.unwrap_or(far)), if paused_until.is_some() => {
                    paused_until = None;
                }
                _ = tokio::time::sleep_until(deadline.unwrap_or(far)), if deadline.is_some() => break,
                // Also one that was there.
                _ = retry.tick(), if (self.stream == Stream::Wanted || failing) && deadline.is_none() => {
                    self.try_for_stream(&mut said_missing).await;
                }
                until = &mut stop, if deadline.is_none() => {
                    deadline = Some(until.unwrap_or_else(|_| Instant::now()));
                    events.close();
                }
            }
        }
        drop(sending);
        self.give_up(u64::try_from(waiting.len()).unwrap_or(u64::MAX), &mut given_up);
        self.metrics.audit_spool.set(0);
    }

    /// Makes sure of the stream, or says once that it is not there.
    async fn try_for_stream(&mut self, said_missing: &mut bool) {
        match ensure_stream(&self.client, &self.subjects).await {
            Ok(()) => {
                tracing::info!("audit events are kept in the stream {STREAM}");
                self.stream = Stream::There;
            }
            Err(reason) if !std::mem::replace(said_missing, true) => {
                tracing::warn!(reason, "audit events are published and not kept");
            }
            Err(_) => {}
        }
    }

    /// Publishes an event, or puts it where it waits for its acknowledgement; how many were lost over it.
    async fn take(&self, mut event: AuditEvent, waiting: &mut Waiting) -> u64 {
        if event.producer.is_empty() {
            event.producer.clone_from(&self.producer);
        }
        let payload = match serde_json::to_vec(&event) {
            Ok(payload) => payload,
            Err(error) => {
                tracing::error!(%error, "audit event cannot be written");
                return 1;
            }
        };
        let subject = self.subjects.audit(event.event_type.as_str());
        if self.stream == Stream::There
            && let Some(class) = must_be_kept(&event)
        {
            let spooled = Spooled { id: event.event_id, subject, payload };
            return waiting.spool(class).push(spooled);
        }
        // Published on a connection that is cut it would wait without bound.
        let connected = self.client.connection_state() == State::Connected;
        u64::from(!connected || self.client.publish(subject, payload.into()).await.is_err())
    }

    fn give_up(&self, events: u64, gate: &mut LogGate) {
        if events > 0 {
            let total = self.metrics.audit_given_up.inc_by(events) + events;
            if gate.opens() {
                tracing::error!(total, "audit events were given up");
            }
        }
    }
}

/// What the stream answers to a publication. Source: NATS JetStream API, pub_ack_response.
#[derive(Debug, Deserialize)]
struct Acknowledgement {
    #[serde(default)]
    seq: u64,
    error: Option<serde_json::Value>,
}

/// Sends an event and waits for the stream's word that it is kept.
async fn acknowledged(client: &Client, event: &Spooled) -> Result<(), String> {
    let mut headers = HeaderMap::new();
    headers.insert("Nats-Msg-Id", event.id.as_str());
    let payload = event.payload.clone().into();
    let request = Request::new().headers(headers).payload(payload).timeout(Some(ACKNOWLEDGE));
    let sent = client.send_request(event.subject.clone(), request);
    // The request's own time-out does not count the wait for a connection that is cut.
    let answer = tokio::time::timeout(ACKNOWLEDGE * 2, sent).await.map_err(|_| "no answer".to_owned())?;
    let answer = answer.map_err(|e| e.to_string())?;
    let acknowledgement: Acknowledgement =
        serde_json::from_slice(&answer.payload).map_err(|_| "unreadable answer".to_owned())?;
    match acknowledgement.error {
        Some(error) => Err(error.to_string()),
        None if acknowledgement.seq == 0 => Err("an answer without a number".to_owned()),
        None => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use iam_schema::Timestamp;
    use iam_schema::audit::{AuditPayload, SCHEMA_VERSION};

    use super::*;

    fn spooled(id: usize, bytes: usize) -> Spooled {
        Spooled { id: id.to_string(), subject: "s".into(), payload: vec![0; bytes] }
    }

    #[test]
    fn spool_gives_up_the_oldest_beyond_its_bounds() {
        let mut spool = Spool::default();
        let given_up: u64 = (0..MAX_SPOOLED + 3).map(|i| spool.push(spooled(i, 1))).sum();
        assert_eq!((given_up, spool.events.len(), spool.bytes), (3, MAX_SPOOLED, MAX_SPOOLED));
        assert_eq!(spool.pop().unwrap().id, "3");

        let mut spool = Spool::default();
        for i in 0..4 {
            assert_eq!(spool.push(spooled(i, MAX_SPOOLED_BYTES / 4)), 0);
        }
        assert_eq!(spool.push(spooled(4, 1)), 1);
        assert_eq!(spool.push(spooled(5, MAX_SPOOLED_BYTES)), 4, "one that fills it pushes out all others");
        assert_eq!(
            spool.push(spooled(6, MAX_SPOOLED_BYTES + 1)),
            2,
            "one that does not fit is given up itself"
        );
        assert_eq!((spool.events.len(), spool.bytes), (0, 0));
    }

    #[test]
    fn event_that_was_not_acknowledged_keeps_its_place() {
        let mut spool = Spool::default();
        (0..3).for_each(|i| assert_eq!(spool.push(spooled(i, 1)), 0));
        let first = spool.pop().unwrap();
        assert_eq!(spool.put_back(first), 0);
        let order: Vec<String> = std::iter::from_fn(|| spool.pop()).map(|event| event.id).collect();
        assert_eq!(order, ["0", "1", "2"]);
    }

    #[test]
    fn flood_of_failed_logins_pushes_out_no_change() {
        let mut waiting = Waiting::default();
        waiting.spool(Class::Change).push(spooled(1_000_000, 1));
        for i in 0..MAX_SPOOLED * 2 {
            waiting.spool(Class::Refusal).push(spooled(i, 1));
        }
        assert_eq!(waiting.next().unwrap().1.id, "1000000");
        assert_eq!(waiting.len(), MAX_SPOOLED);
    }

    #[test]
    fn changes_and_failed_authentications_must_be_kept() {
        let event = |event_type, outcome| AuditEvent {
            schema_version: SCHEMA_VERSION,
            event_id: "e".into(),
            event_type,
            timestamp: Timestamp::from_millis(0),
            producer: String::new(),
            payload: AuditPayload { outcome: Some(outcome), ..Default::default() },
        };
        let rows = [
            (AuditType::Management, AuditOutcome::Success, Some(Class::Change)),
            (AuditType::Management, AuditOutcome::Denied, Some(Class::Refusal)),
            (AuditType::Authenticate, AuditOutcome::Failure, Some(Class::Refusal)),
            (AuditType::Authenticate, AuditOutcome::Denied, Some(Class::Refusal)),
            (AuditType::Authenticate, AuditOutcome::Success, None),
            (AuditType::Authorise, AuditOutcome::Denied, None),
        ];
        for (event_type, outcome, kept) in rows {
            assert_eq!(must_be_kept(&event(event_type, outcome)), kept, "{event_type:?} {outcome:?}");
        }
    }
}
