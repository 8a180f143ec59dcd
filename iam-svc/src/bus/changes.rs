//! Change events: publishing ours, and following everybody's.
//!
//! Public, so that tests carry these very events between replicas in process, and lose, double and reorder them.
//!
//! Source: protocol section 8.

use std::collections::VecDeque;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use async_nats::Subject;
use iam_schema::Timestamp;
use iam_schema::changes::{
    Change, ChangeEvent, Followed, Follower, HEARTBEAT_MS, MAX_RECENT, RECENT_MS, RecentChange,
};
use iam_schema::codec::{self, Format};
use serde::{Deserialize, Serialize};
use tokio::sync::{Notify, mpsc};

use crate::clock::Clock;
use crate::dispatch::{Dispatch, Reply};
use crate::telemetry::Metrics;

/// The most changes in one event. A larger set becomes several events: so one fits into any payload, and into
/// `recent` as a whole.
const MAX_CHANGES: usize = MAX_RECENT / 2;

/// How long after our own heartbeat was first heard every other instance was heard as well: each sends one within an
/// interval, and half of one is for the way.
const ALL_HEARD_MS: i64 = HEARTBEAT_MS * 3 / 2;

/// What a front is to send.
#[derive(Debug)]
pub enum Outgoing {
    Reply {
        to: Subject,
        reply: Reply,
    },
    /// A change event or heartbeat, encoded.
    Event(Vec<u8>),
}

/// An event as we write it: [`ChangeEvent`], and `echo` for ourselves.
///
/// `echo` turns a heartbeat into a round trip: a front that has asked for echo 7 knows, on hearing one of 7 or
/// more, that all it was sent before asking has reached it. Others ignore the field.
#[derive(Debug, Serialize)]
struct Outbound<'e> {
    instance: &'e str,
    started: Timestamp,
    seq: u64,
    #[serde(skip_serializing_if = "<[_]>::is_empty")]
    changes: &'e [Change],
    #[serde(skip_serializing_if = "Vec::is_empty")]
    recent: Vec<&'e RecentChange>,
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    bye: bool,
    #[serde(skip_serializing_if = "is_zero")]
    echo: u64,
}

fn is_zero(n: &u64) -> bool {
    *n == 0
}

#[derive(Debug, Default, Deserialize)]
#[serde(default)]
struct Echo {
    echo: u64,
}

/// Publishes our change events and heartbeats, by the one connection that all of them share.
#[derive(Debug)]
pub struct Publisher {
    /// A new random id at each start.
    pub instance: String,
    pub started: Timestamp,
    /// INVARIANT (order): an event gets its number and its place in the outbox under this one lock, so that
    /// events leave in the order of their numbers, and a reply after the events of its changes.
    state: Mutex<State>,
    outbox: mpsc::UnboundedSender<Outgoing>,
    /// The highest echo asked for.
    echo: AtomicU64,
    /// A heartbeat is wanted before its time.
    pub nudge: Notify,
    clock: Arc<dyn Clock>,
    metrics: Arc<Metrics>,
}

#[derive(Debug, Default)]
struct State {
    seq: u64,
    /// The changes of the last seconds, oldest first, each with when it was published.
    recent: VecDeque<(i64, RecentChange)>,
}

impl State {
    /// Forgets what is too old to be repeated, and of the rest all but the newest. An event is repeated with
    /// all its changes or not at all: a follower that finds its number there takes it for healed.
    fn prune(&mut self, now_ms: i64) {
        while self.recent.front().is_some_and(|(at, _)| now_ms - at > RECENT_MS) {
            self.recent.pop_front();
        }
        while self.recent.len() > MAX_RECENT {
            let Some((_, cut)) = self.recent.pop_front() else { return };
            while self.recent.front().is_some_and(|(_, told)| told.seq == cut.seq) {
                self.recent.pop_front();
            }
        }
    }
}

impl Publisher {
    /// A publisher into an outbox that one connection empties; `instance` is a new random id at each start.
    pub fn new(
        instance: String,
        outbox: mpsc::UnboundedSender<Outgoing>,
        clock: Arc<dyn Clock>,
        metrics: Arc<Metrics>,
    ) -> Self {
        Self {
            instance,
            started: clock.now(),
            state: Mutex::default(),
            outbox,
            echo: AtomicU64::new(0),
            nudge: Notify::new(),
            clock,
            metrics,
        }
    }

    /// Publishes what changed, and then the reply.
    pub fn publish(&self, changes: &[Change], reply: Option<Outgoing>) {
        let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        let now_ms = self.clock.monotonic_ms();
        for changes in changes.chunks(MAX_CHANGES) {
            state.seq += 1;
            let seq = state.seq;
            state.recent.extend(changes.iter().map(|change| {
                let Change { kind, id, version } = change.clone();
                (now_ms, RecentChange { seq, kind, id, version })
            }));
            self.send(&Outbound { seq, changes, ..self.blank() });
            self.metrics.events_published.inc();
        }
        state.prune(now_ms);
        if let Some(reply) = reply {
            self.post(reply);
        }
    }

    /// Publishes a heartbeat.
    pub fn heartbeat(&self) {
        let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        state.prune(self.clock.monotonic_ms());
        let recent = state.recent.iter().map(|(_, change)| change).collect();
        let echo = self.echo.load(Ordering::SeqCst);
        self.send(&Outbound { seq: state.seq, recent, echo, ..self.blank() });
    }

    /// Publishes our orderly end.
    pub fn bye(&self) {
        let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        state.prune(self.clock.monotonic_ms());
        let recent = state.recent.iter().map(|(_, change)| change).collect();
        self.send(&Outbound { seq: state.seq, recent, bye: true, ..self.blank() });
    }

    /// Asks for a heartbeat soon, and tells by which `echo` to know it, or a later one.
    pub fn ask_echo(&self) -> u64 {
        let echo = self.echo.fetch_add(1, Ordering::SeqCst) + 1;
        self.nudge.notify_one();
        echo
    }

    fn blank(&self) -> Outbound<'_> {
        Outbound {
            instance: &self.instance,
            started: self.started,
            seq: 0,
            changes: &[],
            recent: Vec::new(),
            bye: false,
            echo: 0,
        }
    }

    fn send(&self, event: &Outbound<'_>) {
        match codec::encode(event, Format::MessagePack) {
            Ok(payload) => self.post(Outgoing::Event(payload)),
            // Followers notice the missing number and drop everything: slow, and safe.
            Err(error) => tracing::error!(%error, "change event cannot be written"),
        }
    }

    fn post(&self, outgoing: Outgoing) {
        // It only fails when the front is gone, and then the process is on its way out.
        if self.outbox.send(outgoing).is_err() {
            tracing::error!("nothing can be published any more");
        }
    }
}

/// What an event on the service plane's connection told.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Heard {
    pub followed: Followed,
    /// The echo of a heartbeat of ours.
    pub echo: Option<u64>,
    /// It was our own `bye`: all that we published has reached the server.
    pub own_bye: bool,
}

impl Heard {
    /// Drops from memory what the event says is no longer so.
    pub fn apply(&self, dispatch: &Dispatch) {
        if self.followed.drop_all {
            tracing::info!("change events were missed: everything cached is dropped");
            dispatch.forget_everything();
        }
        if !self.followed.drop.is_empty() {
            dispatch.follow(&self.followed);
        }
    }
}

/// Follows the events on one connection.
#[derive(Debug, Default)]
pub struct Following {
    follower: Follower,
    /// When our own heartbeat first came back: since then every other one is heard as well.
    since_ms: Option<i64>,
    unsettled: bool,
    /// An instance fell silent, and has not been heard of since: what it changed meanwhile is not known.
    silence: bool,
}

impl Following {
    /// Takes an event in. One that cannot be read is logged: whatever it told, its number is missing now, and
    /// the next heartbeat shows that.
    pub fn event(&mut self, payload: &[u8], own: &str, now_ms: i64) -> Heard {
        let event: ChangeEvent = match codec::decode(payload) {
            Ok(event) => event,
            Err(error) => {
                tracing::warn!(%error, "unreadable change event");
                return Heard::default();
            }
        };
        let followed = self.follower.event(&event, now_ms);
        let ours = event.instance == own;
        let heartbeat = ours && event.changes.is_empty() && !event.bye;
        let echo = heartbeat.then(|| codec::decode::<Echo>(payload).map_or(0, |echo| echo.echo));
        if heartbeat {
            self.since_ms.get_or_insert(now_ms);
        }
        Heard { followed, echo, own_bye: ours && event.bye }
    }

    /// Whether an instance fell silent, so that everything must be dropped.
    pub fn tick(&mut self, now_ms: i64) -> bool {
        let silent = self.follower.tick(now_ms);
        self.silence |= silent;
        silent
    }

    /// The connection was cut and stands again. All events that came before are to be taken in first, or else
    /// an old heartbeat would pass for a new one.
    pub fn reconnected(&mut self) {
        self.follower.reconnected();
        self.unsettled = true;
    }

    /// Whether the cache may be used again after a reconnect: said once, and with whether all of it must be
    /// dropped first. It must where an instance fell silent: no heartbeat shows what came of that one, and what
    /// was read since then may be older than what it changed.
    pub fn settles(&mut self) -> Option<Followed> {
        // With nobody known there is nothing that a heartbeat has shown yet: our own comes within two seconds.
        let settles = self.unsettled && self.follower.instances() > 0 && self.follower.settled();
        settles.then(|| {
            self.unsettled = false;
            Followed { drop: Vec::new(), drop_all: std::mem::take(&mut self.silence) }
        })
    }

    /// How many instances are alive, this one included; unknown until all had the time to be heard.
    pub fn instances(&self, now_ms: i64) -> Option<usize> {
        let heard_all = self.since_ms.is_some_and(|since_ms| now_ms - since_ms >= ALL_HEARD_MS);
        heard_all.then(|| self.follower.instances().max(1))
    }
}

/// What an event names, no matter what came before it. Nothing for one that cannot be read: the connection that
/// is followed tells.
pub fn named(payload: &[u8]) -> Vec<Change> {
    codec::decode(payload).map_or_else(|_| Vec::new(), |event: ChangeEvent| event.changes)
}

#[cfg(test)]
mod tests {
    use iam_schema::changes::{ChangeKind, SILENCE_MS};

    use super::*;
    use crate::clock::ManualClock;

    struct World {
        clock: Arc<ManualClock>,
        publisher: Publisher,
        outbox: mpsc::UnboundedReceiver<Outgoing>,
        following: Following,
    }

    fn world() -> World {
        let (sender, outbox) = mpsc::unbounded_channel();
        let clock = Arc::new(ManualClock::at(Timestamp::from_millis(0)));
        let publisher = Publisher::new("me".into(), sender, clock.clone(), Arc::new(Metrics::new()));
        World { clock, publisher, outbox, following: Following::default() }
    }

    impl World {
        fn next(&mut self) -> Vec<u8> {
            match self.outbox.try_recv().unwrap() {
                Outgoing::Event(payload) => payload,
                Outgoing::Reply { .. } => panic!("an event was due"),
            }
        }

        fn heartbeat(&mut self) -> ChangeEvent {
            self.publisher.heartbeat();
            codec::decode(&self.next()).unwrap()
        }
    }

    fn change(id: impl ToString) -> Change {
        Change { kind: ChangeKind::User, id: id.to_string(), version: 2 }
    }

    #[test]
    fn reply_leaves_after_the_events_of_its_changes() {
        let mut world = world();
        let reply = Reply { payload: vec![1], error: None };
        world.publisher.publish(&[change("a")], Some(Outgoing::Reply { to: "in.box".into(), reply }));
        let event: ChangeEvent = codec::decode(&world.next()).unwrap();
        assert_eq!((event.seq, event.changes, event.instance.as_str()), (1, vec![change("a")], "me"));
        assert!(matches!(world.outbox.try_recv(), Ok(Outgoing::Reply { .. })));
    }

    #[test]
    fn lost_event_is_healed_by_the_next_heartbeat() {
        let mut world = world();
        world.publisher.publish(&[change("a"), change("b")], None);
        world.next();
        world.publisher.heartbeat();
        let heartbeat = world.next();
        let heard = world.following.event(&heartbeat, "me", 0);
        assert_eq!(heard.followed, Followed { drop: vec![change("a"), change("b")], drop_all: false });
    }

    #[test]
    fn recent_ends_with_its_time() {
        let mut world = world();
        world.publisher.publish(&[change("a")], None);
        world.next();
        world.clock.advance_ms(RECENT_MS);
        assert_eq!(world.heartbeat().recent.len(), 1);
        world.clock.advance_ms(1);
        let heartbeat = world.heartbeat();
        assert_eq!((heartbeat.recent.len(), heartbeat.seq), (0, 1));
    }

    #[test]
    fn recent_is_cut_between_events_and_never_within_one() {
        let mut world = world();
        let changes: Vec<Change> = (0..400).map(change).collect();
        for _ in 0..3 {
            world.publisher.publish(&changes, None);
            world.next();
        }
        let told = world.heartbeat().recent;
        let of = |seq| told.iter().filter(|r| r.seq == seq).count();
        assert_eq!((of(1), of(2), of(3)), (0, 400, 400));
    }

    #[test]
    fn large_set_of_changes_becomes_several_events() {
        let mut world = world();
        let changes: Vec<Change> = (0..MAX_CHANGES + 1).map(change).collect();
        world.publisher.publish(&changes, None);
        let sizes =
            [world.next(), world.next()].map(|p| codec::decode::<ChangeEvent>(&p).unwrap().changes.len());
        assert_eq!(sizes, [MAX_CHANGES, 1]);
    }

    #[test]
    fn echo_is_that_of_a_heartbeat_after_it_was_asked_for() {
        let mut world = world();
        world.publisher.heartbeat();
        let before = world.next();
        let asked = world.publisher.ask_echo();
        world.publisher.heartbeat();
        let after = world.next();
        assert!(world.following.event(&before, "me", 0).echo < Some(asked));
        assert_eq!(world.following.event(&after, "me", 0).echo, Some(asked));
        assert_eq!(world.following.event(&after, "other", 0).echo, None);
    }

    #[test]
    fn reconnect_settles_once_with_a_heartbeat() {
        let mut world = world();
        world.publisher.heartbeat();
        let heartbeat = world.next();
        world.following.event(&heartbeat, "me", 0);
        assert_eq!(world.following.settles(), None, "it was never unsettled");
        world.following.reconnected();
        assert_eq!(world.following.settles(), None);
        world.following.event(&heartbeat, "me", 1);
        assert_eq!(world.following.settles(), Some(Followed::default()));
        assert_eq!(world.following.settles(), None);
    }

    #[test]
    fn reconnect_after_a_silence_settles_with_nothing_kept() {
        let mut world = world();
        world.publisher.heartbeat();
        let heartbeat = world.next();
        world.following.event(&heartbeat, "another", 0);
        assert!(world.following.tick(SILENCE_MS));
        // Whoever was silent is known no more, so nothing waits for a word of it.
        world.following.reconnected();
        world.following.event(&heartbeat, "me", SILENCE_MS + 1);
        let all = Followed { drop: Vec::new(), drop_all: true };
        assert_eq!(world.following.settles(), Some(all));
        world.following.reconnected();
        world.following.event(&heartbeat, "me", SILENCE_MS + 2);
        assert_eq!(world.following.settles(), Some(Followed::default()), "dropped once, done once");
    }

    #[test]
    fn number_of_instances_is_known_once_each_had_the_time_to_be_heard() {
        let mut world = world();
        world.publisher.heartbeat();
        let heartbeat = world.next();
        world.following.event(&heartbeat, "another", 0);
        assert_eq!(world.following.instances(ALL_HEARD_MS), None, "we do not hear ourselves");
        world.following.event(&heartbeat, "me", 5_000);
        world.following.event(&heartbeat, "me", 7_000);
        assert_eq!(world.following.instances(5_000 + ALL_HEARD_MS - 1), None);
        assert_eq!(world.following.instances(5_000 + ALL_HEARD_MS), Some(1));
        let other = ChangeEvent { instance: "another".into(), ..codec::decode(&heartbeat).unwrap() };
        let other = codec::encode(&other, Format::MessagePack).unwrap();
        world.following.event(&other, "me", 9_000);
        assert_eq!(world.following.instances(9_000), Some(2));
        world.following.tick(9_000 + SILENCE_MS);
        assert_eq!(world.following.instances(9_000 + SILENCE_MS), Some(1));
    }

    #[test]
    fn unreadable_event_drops_nothing_and_own_bye_is_known() {
        let mut world = world();
        assert_eq!(world.following.event(b"\xff", "me", 0), Heard::default());
        world.publisher.bye();
        let bye = world.next();
        assert!(world.following.event(&bye, "me", 0).own_bye);
        assert!(!world.following.event(&bye, "other", 0).own_bye);
    }
}
