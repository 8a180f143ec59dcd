//! Writers, replicas and gateways in process, with a bus between them that delays and loses, by schedules that a seed
//! makes: whatever happens, no gateway allows what it must know to have ended.
//!
//! What a gateway must know: what an event or a heartbeat told it, and of an instance that fell silent, everything. An
//! event and a heartbeat that repeats it name the version, so that the answer must be as new whichever replica gives
//! it. After a gap or a silence no version is known: the answer must be as new as what the replicas must know by then.
//!
//! Source: protocol section 8.

mod consumer;

use std::cell::Cell;
use std::sync::Arc;
use std::time::Duration;

use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use iam_client::gateway::{Gateway, Question, Setting};
use iam_schema::changes::{Change, ChangeEvent, HEARTBEAT_MS, SILENCE_MS};
use iam_schema::codec::decode;
use iam_schema::decisions::Check;
use iam_schema::subject::Plane;
use iam_schema::{IamResponse, Secret};
use iam_svc::bus::changes::{Following, Outgoing, Publisher};
use iam_svc::clock::{Clock, ManualClock};
use iam_svc::dispatch::Headers;
use iam_svc::domain::policy::Policy;
use iam_svc::telemetry::Metrics;
use rand::rngs::StdRng;
use rand::seq::IndexedRandom;
use rand::{RngExt, SeedableRng};
use serde_json::{Value, json};
use tokio::sync::mpsc;

use self::consumer::{Consumer, Known, Letter};
use crate::gateway::{GatewayClock, InProcess, setting};
use crate::model::ground::{Backend, Ground};
use crate::world::{Setup, World};

const REPLICAS: usize = 2;
const GATEWAYS: usize = 2;
const USERS: usize = 3;
const PASSWORD: &str = "violet-anvil-93-sings";
/// For how long after it dropped everything a gateway reckons with replicas that have yet to notice, and how long it
/// remembers their answers meanwhile.
const DOUBT_MS: i64 = SILENCE_MS;
const DOUBTED_MS: i64 = 500;

struct Replica {
    instance: usize,
    world: World,
    publisher: Publisher,
    outbox: mpsc::UnboundedReceiver<Outgoing>,
    following: Following,
    consumer: Consumer,
    beat_ms: i64,
    seq: u64,
}

struct Gate {
    gateway: Gateway,
    bus: InProcess,
    consumer: Consumer,
}

/// A credential and whose it is.
#[derive(Debug, Clone)]
struct Held {
    secret: Secret,
    user: usize,
    key_id: Option<String>,
    /// Of a token: the key that signed it.
    kid: Option<String>,
}

/// From some change on these credentials may not what they could before.
#[derive(Debug)]
struct End {
    what: String,
    instance: usize,
    /// The instance that had started last by then.
    latest: usize,
    /// Its event; none where the replica died before it.
    seq: Option<u64>,
    credentials: Vec<usize>,
    /// It ended credentials, and left their user as they were.
    of_credential: bool,
    /// Of a demotion, once it was taken back.
    lifted: bool,
    at_ms: i64,
}

/// What came of a schedule.
#[derive(Debug, Default)]
pub struct Outcome {
    pub changes: usize,
    pub asked: usize,
    pub allowed: usize,
    /// Of those, by a token.
    pub by_token: usize,
    /// Allows that were older than a change which the gateway could not know of yet.
    pub late: usize,
    /// The longest that one was behind, in milliseconds.
    pub latest_ms: i64,
    pub violation: Option<String>,
}

struct Play {
    rng: StdRng,
    clock: Arc<ManualClock>,
    policy: Arc<Policy>,
    metrics: Arc<Metrics>,
    replicas: Vec<Replica>,
    gates: Vec<Gate>,
    instances: usize,
    users: Vec<String>,
    demoted: Vec<bool>,
    credentials: Vec<Held>,
    ends: Vec<End>,
    question: Question,
    /// The same, too long to be remembered.
    long: Question,
    /// How many letters of a hundred are lost, and after how many steps of a hundred all that are on their way arrive:
    /// the same throughout a schedule, so that some schedules are of losses alone and others of delays.
    lost: u32,
    prompt: u32,
    outcome: Outcome,
    /// Last of all: what the replicas have open.
    ground: Ground,
}

/// The key that signed a token.
fn kid(token: &Secret) -> Option<String> {
    let header = token.expose().split('.').next()?;
    let header: Value = serde_json::from_slice(&URL_SAFE_NO_PAD.decode(header).ok()?).ok()?;
    Some(header["kid"].as_str()?.to_owned())
}

fn long_check() -> Check {
    let resource = json!({ "workspace": "acme", "path": "x".repeat(600) });
    Check {
        capability: "graph:read".to_owned(),
        resource: resource.as_object().cloned().unwrap_or_default(),
        ..Check::default()
    }
}

/// Plays one schedule of so many steps.
pub async fn play(seed: u64, steps: usize) -> Outcome {
    let mut play = Play::new(seed).await;
    play.people().await;
    play.lost = *[0, 5, 30].choose(&mut play.rng).expect("some");
    play.prompt = *[0, 20, 90].choose(&mut play.rng).expect("some");
    for _ in 0..steps {
        play.step().await;
        if play.outcome.violation.is_some() {
            break;
        }
    }
    play.outcome
}

impl Play {
    async fn new(seed: u64) -> Self {
        let policy = Arc::new(Policy::build(&Default::default()).expect("a policy"));
        let ground = Ground::new(&Backend::Embedded, Arc::new(policy.root_roles())).await;
        let mut play = Self {
            rng: StdRng::seed_from_u64(seed),
            clock: World::new_clock(),
            policy,
            metrics: Arc::new(Metrics::new()),
            replicas: Vec::new(),
            gates: Vec::new(),
            instances: 0,
            users: Vec::new(),
            demoted: vec![false; USERS],
            credentials: Vec::new(),
            ends: Vec::new(),
            question: Question::within("graph:read", &"acme".parse().expect("an id")),
            long: Question::of(&long_check()).expect("a question"),
            lost: 0,
            prompt: 0,
            outcome: Outcome::default(),
            ground,
        };
        for _ in 0..REPLICAS {
            let replica = play.replica().await;
            play.replicas.push(replica);
        }
        for _ in 0..GATEWAYS {
            let bus = InProcess::to(play.replicas[0].world.dispatch.clone());
            let clock = GatewayClock(play.clock.clone());
            let setting = Setting { deadline: Duration::from_secs(60), ..setting() };
            let gateway = Gateway::over(Box::new(bus.clone()), Box::new(clock), setting);
            play.gates.push(Gate { gateway, bus, consumer: Consumer::default() });
        }
        play
    }

    async fn replica(&mut self) -> Replica {
        self.instances += 1;
        let setup = Setup { seed: 7, replica: self.instances as u64, rounds: 2, ..Setup::default() };
        let world = World::at(self.ground.open().await, self.policy.clone(), setup, self.clock.clone());
        let (sender, outbox) = mpsc::unbounded_channel();
        let name = format!("instance-{}", self.instances);
        let publisher = Publisher::new(name, sender, self.clock.clone(), self.metrics.clone());
        Replica {
            instance: self.instances,
            world,
            publisher,
            outbox,
            following: Following::default(),
            consumer: Consumer::default(),
            beat_ms: self.clock.monotonic_ms(),
            seq: 0,
        }
    }

    fn now_ms(&self) -> i64 {
        self.clock.monotonic_ms()
    }

    /// A deployment with users, each with a token and two keys; everybody has heard of everybody.
    async fn people(&mut self) {
        self.ask(0, "bootstrap", json!({})).await;
        self.ask(0, "create-workspace", json!({ "workspace_record": { "id": "acme" } })).await;
        for n in 0..USERS {
            let user = json!({ "username": format!("user{n}"), "roles": ["reader"], "password": PASSWORD });
            let made = self.ask(0, "create-user", json!({ "workspace": "acme", "user": user })).await;
            self.users.push(made.user.expect("a user").id);
            self.login(n).await;
            self.key(n).await;
            self.key(n).await;
        }
        for replica in 0..REPLICAS {
            self.beat(replica);
        }
        self.deliver_all();
        for gate in &self.gates {
            gate.gateway.ready(Duration::from_secs(1)).await.expect("ready");
        }
    }

    async fn login(&mut self, user: usize) {
        let request = json!({ "username": format!("user{user}"), "password": PASSWORD });
        let made = self.ask(0, "login", request).await;
        if made.error.is_none() {
            let kid = kid(&made.jwt);
            self.credentials.push(Held { secret: made.jwt, user, key_id: None, kid });
        }
    }

    async fn key(&mut self, user: usize) {
        let name = format!("k{}", self.credentials.len());
        let request = json!({ "key": { "user_id": self.users[user], "name": name } });
        let made = self.ask(0, "create-api-key", request).await;
        if made.error.is_none() {
            let key_id = made.api_key.map(|key| key.id);
            self.credentials.push(Held { secret: made.api_key_plaintext, user, key_id, kid: None });
        }
    }

    /// A request whose changes are published before anything else happens; only what ends something is of interest.
    async fn ask(&mut self, replica: usize, operation: &str, request: Value) -> IamResponse {
        let (response, changes) = self.carried_out(replica, operation, request).await;
        self.publish(replica, &changes);
        response
    }

    async fn carried_out(
        &self,
        replica: usize,
        operation: &str,
        request: Value,
    ) -> (IamResponse, Vec<Change>) {
        let payload = request.to_string().into_bytes();
        let world = &self.replicas[replica].world;
        let answered = world.answered(Plane::Service, operation, Headers::default(), &payload).await;
        let reply = answered.reply.expect("no deadline was given");
        (decode(&reply.payload).expect("a reply"), answered.changes)
    }

    /// Publishes changes; the number of their event.
    fn publish(&mut self, replica: usize, changes: &[Change]) -> Option<u64> {
        if changes.is_empty() {
            return None;
        }
        let now_ms = self.now_ms();
        let from = &mut self.replicas[replica];
        from.publisher.publish(changes, None);
        from.seq += 1;
        let seq = from.seq;
        // It knows what it did itself.
        from.consumer.told.insert((from.instance, seq));
        from.consumer.heard.insert(from.instance, now_ms);
        self.carry(replica, false);
        Some(seq)
    }

    fn beat(&mut self, replica: usize) {
        let now_ms = self.now_ms();
        let from = &mut self.replicas[replica];
        from.beat_ms = now_ms;
        from.publisher.heartbeat();
        self.carry(replica, true);
    }

    fn carry(&mut self, replica: usize, heartbeat: bool) {
        let from = &mut self.replicas[replica];
        let (instance, seq) = (from.instance, from.seq);
        let outgoing = std::iter::from_fn(|| from.outbox.try_recv().ok());
        let payloads = outgoing.filter_map(|outgoing| match outgoing {
            Outgoing::Event(payload) => Some(payload),
            Outgoing::Reply { .. } => None,
        });
        for payload in payloads.collect::<Vec<_>>() {
            let event: ChangeEvent = decode(&payload).expect("an event");
            let tells = match heartbeat {
                true => event.recent.iter().map(|told| told.seq).collect(),
                false => vec![seq],
            };
            let letter = Letter { instance, payload, seq, tells, heartbeat };
            let replicas = self.replicas.iter_mut().map(|replica| &mut replica.consumer);
            let gates = self.gates.iter_mut().map(|gate| &mut gate.consumer);
            for consumer in replicas.chain(gates).filter(|consumer| !consumer.cut) {
                if !self.rng.random_ratio(self.lost, 100) {
                    consumer.inbox.push_back(letter.clone());
                }
            }
        }
    }

    fn deliver_to_replica(&mut self, index: usize) {
        let now_ms = self.now_ms();
        let to = &mut self.replicas[index];
        let Some(letter) = to.consumer.inbox.pop_front() else { return };
        let own = format!("instance-{}", to.instance);
        if to.following.tick(now_ms) {
            to.world.dispatch.forget_everything();
        }
        to.following.event(&letter.payload, &own, now_ms).apply(&to.world.dispatch);
        to.consumer.take(&letter, now_ms);
    }

    fn deliver_to_gate(&mut self, index: usize) {
        let now_ms = self.now_ms();
        let gate = &mut self.gates[index];
        let Some(letter) = gate.consumer.inbox.pop_front() else { return };
        gate.gateway.hears().event(&letter.payload);
        gate.consumer.take(&letter, now_ms);
    }

    fn deliver_all(&mut self) {
        for index in 0..self.replicas.len() {
            while !self.replicas[index].consumer.inbox.is_empty() {
                self.deliver_to_replica(index);
            }
        }
        for index in 0..self.gates.len() {
            while !self.gates[index].consumer.inbox.is_empty() {
                self.deliver_to_gate(index);
            }
        }
    }

    async fn step(&mut self) {
        let gate = self.rng.random_range(0..GATEWAYS);
        let replica = self.rng.random_range(0..REPLICAS);
        match self.rng.random_range(0..100) {
            0..30 => self.allow(gate, replica, false).await,
            30..40 => self.allow(gate, replica, true).await,
            40..54 => self.end(replica, false).await,
            54..56 => self.end(replica, true).await,
            56..60 => {
                let user = self.rng.random_range(0..USERS);
                if self.rng.random_bool(0.5) { self.key(user).await } else { self.login(user).await }
            }
            60..78 => {
                let ms = *[1, 50, 200, 251, 700, 1_999, 3_000, 6_000].choose(&mut self.rng).expect("some");
                self.pass(ms);
            }
            78..86 => self.deliver_to_gate(gate),
            86..93 => self.deliver_to_replica(replica),
            93..95 => self.deliver_all(),
            95 | 96 => {
                self.gates[gate].consumer.cut = true;
                self.gates[gate].consumer.inbox.clear();
                self.gates[gate].bus.cut(true);
            }
            _ => self.mend(gate),
        }
        if self.rng.random_ratio(self.prompt, 100) {
            self.deliver_all();
        }
    }

    /// The connection of a gateway stands again.
    fn mend(&mut self, gate: usize) {
        let gate = &mut self.gates[gate];
        if gate.consumer.cut {
            gate.consumer.mend();
            gate.bus.cut(false);
            let connections = gate.bus.reconnect();
            gate.gateway.hears().looked(connections);
        }
    }

    fn pass(&mut self, ms: i64) {
        self.clock.advance_ms(ms);
        let now_ms = self.now_ms();
        for index in 0..self.replicas.len() {
            if now_ms - self.replicas[index].beat_ms >= HEARTBEAT_MS {
                self.beat(index);
            }
        }
        for replica in &mut self.replicas {
            if replica.following.tick(now_ms) {
                replica.world.dispatch.forget_everything();
            }
        }
    }

    /// Something ends; where the replica dies, before anybody hears of it.
    async fn end(&mut self, replica: usize, dies: bool) {
        let user = self.rng.random_range(0..USERS);
        let id = self.users[user].clone();
        let of_user = |held: &Held| held.user == user;
        let (operation, request, ended): (&str, Value, Vec<usize>) = match self.rng.random_range(0..13) {
            0..4 => {
                let keys = self.indices(|held| held.key_id.is_some());
                let Some(&key) = keys.choose(&mut self.rng) else { return };
                let key_id = self.credentials[key].key_id.clone();
                ("revoke-api-key", json!({ "key_id": key_id }), vec![key])
            }
            4 | 5 => {
                let tokens = self.indices(|held| of_user(held) && held.key_id.is_none());
                ("revoke-user-tokens", json!({ "user_id": id }), tokens)
            }
            6 | 7 => ("disable-user", json!({ "user_id": id }), self.indices(of_user)),
            8 => ("enable-user", json!({ "user_id": id }), self.indices(of_user)),
            9 | 10 => {
                let roles: &[&str] = if self.demoted[user] { &["reader"] } else { &[] };
                let request = json!({ "user_id": id, "user": { "roles": roles } });
                let ended = if self.demoted[user] { Vec::new() } else { self.indices(of_user) };
                ("update-user", request, ended)
            }
            11 => ("rotate-signing-key", json!({}), Vec::new()),
            _ => {
                let tokens = self.indices(|held| held.kid.is_some());
                let Some(&token) = tokens.choose(&mut self.rng) else { return };
                let kid = self.credentials[token].kid.clone();
                ("retire-signing-key", json!({ "key_id": kid }), self.indices(|held| held.kid == kid))
            }
        };
        let (response, changes) = self.carried_out(replica, operation, request).await;
        if response.error.is_some() || changes.is_empty() {
            return;
        }
        self.outcome.changes += 1;
        let instance = self.replicas[replica].instance;
        let seq = if dies { None } else { self.publish(replica, &changes) };
        if operation == "update-user" {
            self.demoted[user] = !self.demoted[user];
            if !self.demoted[user] {
                let what = format!("update-user {user}");
                self.ends.iter_mut().filter(|end| end.what == what).for_each(|end| end.lifted = true);
            }
        }
        let of_credential = operation.starts_with("revoke-") || operation == "retire-signing-key";
        let what = format!("{operation} {user}");
        let (latest, at_ms) = (self.instances, self.now_ms());
        let credentials = ended;
        let end = End { what, instance, latest, seq, credentials, of_credential, lifted: false, at_ms };
        self.ends.push(end);
        if dies {
            self.replicas[replica] = self.replica().await;
            self.beat(replica);
        }
    }

    fn indices(&self, of: impl Fn(&Held) -> bool) -> Vec<usize> {
        let held = self.credentials.iter().enumerate();
        held.filter(|(_, held)| of(held)).map(|(index, _)| index).collect()
    }

    /// A gateway is asked, and where its memory does not answer, this replica. Something may end, and be told, while
    /// the answer is on its way.
    async fn allow(&mut self, gate: usize, replica: usize, amid: bool) {
        let credential = self.rng.random_range(0..self.credentials.len());
        let secret = self.credentials[credential].secret.clone();
        let (bus, gateway) = (self.gates[gate].bus.clone(), self.gates[gate].gateway.clone());
        let question = if self.rng.random_ratio(1, 5) { &self.long } else { &self.question }.clone();
        bus.turn_to(self.replicas[replica].world.dispatch.clone());
        // Of the identity, or of the decision.
        let which = if amid { self.rng.random_range(1..=2) } else { 0 };
        // Alone, or with another question.
        let many = self.rng.random_bool(0.3);
        let other = Question::new("graph:write");
        bus.hold(which);
        let now_ms = self.now_ms();
        let distrusts = self.gates[gate].consumer.distrusts(now_ms);
        let before = self.ends.len();
        self.outcome.asked += 1;
        // Whether the credential was looked at, and which ends nobody had told of by then.
        let (known, mut told_before) = (Cell::new(false), None);
        let asked = async {
            let identity = gateway.authenticate(&secret).await.ok()?;
            known.set(true);
            match many {
                false => Some(gateway.authorise(&identity, &question).await.ok()?.allow),
                true => {
                    let decisions = gateway.authorise_many(&identity, &[other, question]).await.ok()?;
                    Some(decisions.last()?.allow)
                }
            }
        };
        let mut asked = std::pin::pin!(asked);
        let allowed = tokio::select! {
            allowed = &mut asked => allowed,
            () = bus.held() => {
                if known.get() {
                    let consumer = &self.gates[gate].consumer;
                    let told = |end: &End| consumer.knows(end, now_ms).is_some();
                    told_before = Some(self.ends.iter().map(told).collect::<Vec<_>>());
                }
                self.end(replica, false).await;
                while !self.gates[gate].consumer.inbox.is_empty() {
                    self.deliver_to_gate(gate);
                }
                bus.release();
                asked.await
            }
        };
        bus.hold(0);
        if allowed != Some(true) {
            return;
        }
        self.outcome.allowed += 1;
        self.outcome.by_token += usize::from(self.credentials[credential].kid.is_some());
        let now_ms = self.now_ms();
        // A credential of whose end is told once it was looked at, while the decision about its user is on its way, was
        // good for that request. What ends for the user ends the decision.
        let looked_at = |index: usize, end: &End| {
            let told = |told: &Vec<bool>| told.get(index) == Some(&true);
            end.of_credential && told_before.as_ref().is_some_and(|before| !told(before))
        };
        let ends = self.ends.iter().enumerate().filter(|(index, end)| !looked_at(*index, end));
        for (index, end) in ends.filter(|(_, end)| !end.lifted && end.credentials.contains(&credential)) {
            let by = |replica: &Replica, until_ms: i64| match replica.consumer.knows(end, now_ms) {
                Some(Known::Told) => true,
                Some(Known::Missed(since)) => since <= until_ms,
                // It started after that, with nothing in memory.
                None => replica.instance > end.latest,
            };
            let must_know = match self.gates[gate].consumer.knows(end, now_ms) {
                Some(Known::Told) => true,
                Some(Known::Missed(since)) => {
                    let until_ms = (now_ms - DOUBTED_MS).min(since + DOUBT_MS);
                    since <= now_ms - DOUBTED_MS && self.replicas.iter().all(|replica| by(replica, until_ms))
                }
                None => false,
            };
            // What is not out of memory is as new as the replica was when it was asked.
            let must_know = must_know || distrusts && index < before && by(&self.replicas[replica], now_ms);
            if must_know {
                let held = &self.credentials[credential];
                let knows = self.gates[gate].consumer.knows(end, now_ms);
                let replicas: Vec<_> = self
                    .replicas
                    .iter()
                    .map(|replica| (replica.instance, replica.consumer.knows(end, now_ms)))
                    .collect();
                self.outcome.violation = Some(format!(
                    "gateway {gate} allowed credential {credential} of user {}, {} ms after {} by instance {}, event \
                     {:?}: {knows:?} at {now_ms}, replicas {replicas:?}, \
                     answered by {replica}",
                    held.user,
                    now_ms - end.at_ms,
                    end.what,
                    end.instance,
                    end.seq
                ));
                return;
            }
            self.outcome.late += 1;
            self.outcome.latest_ms = self.outcome.latest_ms.max(now_ms - end.at_ms);
        }
    }
}
