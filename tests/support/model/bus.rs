//! Change events between replicas, without NATS: the service's own publisher writes them and its own follower reads
//! them; what lies between delays, doubles, reorders and loses them.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::sync::Arc;

use iam_schema::changes::Change;
use iam_svc::bus::changes::{Following, Outgoing, Publisher};
use iam_svc::clock::{Clock, ManualClock};
use iam_svc::dispatch::Dispatch;
use iam_svc::telemetry::Metrics;
use tokio::sync::mpsc;

use super::state::Rec;

/// Three missed heartbeats, in milliseconds.
const SILENCE_MS: i64 = 6_000;

/// A message on its way.
#[derive(Debug, Clone)]
struct Message {
    instance: usize,
    payload: Vec<u8>,
    /// The number of the event, or of the last one before a heartbeat.
    seq: usize,
    what: What,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum What {
    Event,
    Heartbeat,
    Bye,
}

/// What the protocol says that a replica must know by now.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Known {
    /// A record from this version on.
    From(Rec, usize),
    /// Every record as it is.
    Everything,
}

/// One replica's end of the bus.
#[derive(Debug)]
pub struct End {
    instance: usize,
    publisher: Publisher,
    outbox: mpsc::UnboundedReceiver<Outgoing>,
    following: Following,
    inbox: VecDeque<Message>,
    /// Messages to it are lost.
    cut: bool,
    /// When it last heard of each instance that it knows.
    heard: BTreeMap<usize, i64>,
    /// Those of whom no heartbeat has come since the connection stands again.
    awaited: BTreeSet<usize>,
}

impl End {
    /// Lets the cache be used again once that is safe after a reconnect.
    fn settle(&mut self, dispatch: &Dispatch) {
        if let Some(settled) = self.following.settles() {
            if settled.drop_all {
                dispatch.forget_everything();
            }
            dispatch.trust_cache(true);
        }
    }
}

/// The bus.
#[derive(Debug)]
pub struct SimulatedBus {
    clock: Arc<ManualClock>,
    metrics: Arc<Metrics>,
    ends: Vec<End>,
    /// What each instance ever published: its events in order, each with the records that it names.
    published: Vec<Vec<Vec<(Rec, usize)>>>,
}

impl SimulatedBus {
    pub fn new(clock: Arc<ManualClock>, replicas: usize) -> Self {
        let metrics = Arc::new(Metrics::new());
        let mut bus = Self { clock, metrics, ends: Vec::new(), published: Vec::new() };
        for _ in 0..replicas {
            let end = bus.new_end();
            bus.ends.push(end);
        }
        bus
    }

    fn new_end(&mut self) -> End {
        let instance = self.published.len();
        self.published.push(Vec::new());
        let (sender, outbox) = mpsc::unbounded_channel();
        let publisher = Publisher::new(name(instance), sender, self.clock.clone(), self.metrics.clone());
        let (following, inbox) = (Following::default(), VecDeque::new());
        End {
            instance,
            publisher,
            outbox,
            following,
            inbox,
            cut: false,
            heard: BTreeMap::new(),
            awaited: BTreeSet::new(),
        }
    }

    /// The replica ended, and one of its place started anew.
    pub fn restart(&mut self, slot: usize) {
        let end = self.new_end();
        self.ends[slot] = end;
    }

    /// Publishes what changed; `recs` are the same changes as the model has them.
    pub fn publish(&mut self, slot: usize, changes: &[Change], recs: Vec<(Rec, usize)>) {
        if changes.is_empty() {
            return;
        }
        let end = &mut self.ends[slot];
        end.publisher.publish(changes, None);
        self.published[end.instance].push(recs);
        self.carry(slot, What::Event);
    }

    pub fn heartbeat(&mut self, slot: usize) {
        self.ends[slot].publisher.heartbeat();
        self.carry(slot, What::Heartbeat);
    }

    pub fn bye(&mut self, slot: usize) {
        self.ends[slot].publisher.bye();
        self.carry(slot, What::Bye);
    }

    /// Takes what a replica published and puts it on its way to everybody, itself included.
    fn carry(&mut self, slot: usize, what: What) {
        let instance = self.ends[slot].instance;
        let seq = self.published[instance].len();
        while let Ok(outgoing) = self.ends[slot].outbox.try_recv() {
            let Outgoing::Event(payload) = outgoing else { continue };
            let message = Message { instance, payload, seq, what };
            self.put(&message);
        }
    }

    fn put(&mut self, message: &Message) {
        for end in self.ends.iter_mut().filter(|end| !end.cut) {
            end.inbox.push_back(message.clone());
        }
    }

    /// How many messages are on their way to a replica.
    pub fn waiting(&self, slot: usize) -> usize {
        self.ends[slot].inbox.len()
    }

    /// Loses a message.
    pub fn lose(&mut self, slot: usize, index: usize) {
        self.ends[slot].inbox.remove(index);
    }

    /// Delivers a message, out of turn if so asked; `again` leaves it to be delivered once more.
    pub fn deliver(&mut self, slot: usize, index: usize, again: bool, dispatch: &Dispatch) -> Vec<Known> {
        let now_ms = self.clock.monotonic_ms();
        let end = &mut self.ends[slot];
        let message = match again {
            true => end.inbox.get(index).cloned(),
            false => end.inbox.remove(index),
        };
        let Some(message) = message else { return Vec::new() };
        end.following.event(&message.payload, &name(end.instance), now_ms).apply(dispatch);
        end.settle(dispatch);

        end.heard.insert(message.instance, now_ms);
        let events = &self.published[message.instance];
        let told = match message.what {
            What::Event => &events[message.seq - 1..message.seq],
            What::Heartbeat | What::Bye => &events[..message.seq],
        };
        match message.what {
            What::Event => {}
            What::Heartbeat => {
                end.awaited.remove(&message.instance);
            }
            What::Bye => {
                end.awaited.remove(&message.instance);
                end.heard.remove(&message.instance);
            }
        }
        told.iter().flatten().map(|&(rec, version)| Known::From(rec, version)).collect()
    }

    /// A replica looks for instances that fell silent.
    pub fn tick(&mut self, slot: usize, dispatch: &Dispatch) -> Option<Known> {
        let now_ms = self.clock.monotonic_ms();
        let end = &mut self.ends[slot];
        if end.following.tick(now_ms) {
            dispatch.forget_everything();
        }
        end.settle(dispatch);
        let before = end.heard.len();
        end.heard.retain(|_, heard_ms| now_ms - *heard_ms < SILENCE_MS);
        let heard: BTreeSet<usize> = end.heard.keys().copied().collect();
        end.awaited.retain(|instance| heard.contains(instance));
        (end.heard.len() < before).then_some(Known::Everything)
    }

    /// The connection is cut: what is on its way is lost, and so is what comes.
    pub fn cut(&mut self, slot: usize) {
        self.ends[slot].cut = true;
        self.ends[slot].inbox.clear();
    }

    pub fn is_cut(&self, slot: usize) -> bool {
        self.ends[slot].cut
    }

    /// The connection stands again.
    pub fn mend(&mut self, slot: usize, dispatch: &Dispatch) {
        let end = &mut self.ends[slot];
        if !std::mem::take(&mut end.cut) {
            return;
        }
        end.following.reconnected();
        dispatch.trust_cache(false);
        end.awaited = end.heard.keys().copied().collect();
    }

    /// Whether a replica may use nothing that it remembers, until more heartbeats have come.
    pub fn distrusts(&self, slot: usize) -> bool {
        !self.ends[slot].awaited.is_empty()
    }
}

fn name(instance: usize) -> String {
    format!("instance-{instance}")
}
