//! A sequence played against the service in process: replicas over one store, a bus between them, and the model
//! beside.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Instant;

use iam_schema::codec::{Format, decode, encode};
use iam_schema::subject::Plane;
use iam_schema::{ErrorKind, IamResponse, OperationName, Secret};
use iam_svc::clock::{Clock, ManualClock};
use iam_svc::ctx::BootstrapMode;
use iam_svc::dispatch::{Answer, Answered, Headers, Incoming};
use iam_svc::domain::policy::Policy;
use serde_json::Value;

use super::ask::{
    Ask, Call, Credential, Expiry, Floors, Held, Name, Page, Password, Place, Profile, Target, Whom,
};
use super::bus::{Known, SimulatedBus};
use super::expect::{Expect, Told};
use super::ground::{Backend, Ground};
use super::policy;
use super::state::{Rec, State, View};
use super::steps::{Sequence, Start, Step};
use crate::world::{Setup, World};

const REPLICAS: usize = 2;
/// Rounds of a password hash: the same code, whatever it costs.
const ROUNDS: u32 = 2;
/// The key of the first admin where it is given at the start.
const BOOTSTRAP_TOKEN: &str = "tg_0123456789abcdefghijklmnopqrstuv";
/// Wrong passwords for a name until a sequence stops trying: short of what is throttled.
const MOST_FAILURES: usize = 12;
/// The user whom callers without a credential count as.
const ANONYMOUS: &str = "eve";

/// A reply that the model did not expect.
#[derive(Debug, Clone)]
pub struct Failure {
    pub step: usize,
    pub what: String,
}

/// What a sequence came to.
#[derive(Debug, Default)]
pub struct Played {
    pub requests: usize,
    /// How often each operation had each outcome on each plane.
    pub outcomes: BTreeMap<(Plane1, OperationName, &'static str), usize>,
    /// Answers that could rest on something old, and those that did.
    pub late: usize,
    pub old: usize,
    pub failure: Option<Failure>,
    /// What was done and what came of it, line by line, where that was asked for.
    pub story: Vec<String>,
}

/// A plane, in the order of the alphabet.
pub type Plane1 = &'static str;

/// What a replica must know.
#[derive(Debug, Default)]
struct Knowledge {
    from: BTreeMap<Rec, usize>,
}

struct Play<'s> {
    sequence: &'s Sequence,
    policy: Arc<Policy>,
    clock: Arc<ManualClock>,
    worlds: Vec<World>,
    /// Given back after the replicas that use it.
    ground: Ground,
    /// Each start has a seed of its own.
    starts: u64,
    bus: SimulatedBus,
    state: State,
    knowledge: Vec<Knowledge>,
    /// When keys were used at each replica since their last uses were written.
    uses: Vec<BTreeMap<usize, i64>>,
    failures: BTreeMap<String, usize>,
    played: Played,
    tell: bool,
}

/// Plays a sequence; with `tell`, takes down what happened.
pub async fn play(sequence: &Sequence, backend: &Backend, tell: bool) -> Played {
    let mut play = Play::new(sequence, backend, tell).await;
    let mut at = 0;
    let result = async {
        play.start().await?;
        for step in &sequence.steps {
            at += 1;
            play.step(step).await?;
        }
        at += 1;
        play.finish().await
    }
    .await;
    let mut played = play.played;
    played.failure = result.err().map(|what| Failure { step: at, what });
    played
}

impl<'s> Play<'s> {
    async fn new(sequence: &'s Sequence, backend: &Backend, tell: bool) -> Self {
        let clock = World::new_clock();
        let policy = Arc::new(Policy::build(&policy::source()).expect("a policy that stands"));
        let anonymous = sequence.anonymous.then_some(ANONYMOUS);
        let mut play = Self {
            sequence,
            ground: Ground::new(backend, Arc::new(policy.root_roles())).await,
            policy,
            clock: clock.clone(),
            worlds: Vec::new(),
            starts: 0,
            bus: SimulatedBus::new(clock.clone(), REPLICAS),
            state: State::new(clock.now().as_millis(), !sequence.token_mode, anonymous),
            knowledge: Vec::new(),
            uses: vec![BTreeMap::new(); REPLICAS],
            failures: BTreeMap::new(),
            played: Played::default(),
            tell,
        };
        for _ in 0..REPLICAS {
            let world = play.world().await;
            play.worlds.push(world);
            play.knowledge.push(Knowledge::default());
        }
        play
    }

    async fn world(&mut self) -> World {
        self.starts += 1;
        let setup = Setup {
            bootstrap: match self.sequence.token_mode {
                true => BootstrapMode::Token(Secret::new(BOOTSTRAP_TOKEN)),
                false => BootstrapMode::Bootstrap,
            },
            anonymous_user: self.sequence.anonymous.then(|| ANONYMOUS.to_owned()),
            seed: 7,
            replica: self.starts,
            rounds: ROUNDS,
            ..Setup::default()
        };
        World::at(self.ground.open().await, self.policy.clone(), setup, self.clock.clone())
    }

    fn note(&mut self, line: impl FnOnce() -> String) {
        if self.tell {
            let line = line();
            self.played.story.push(line);
        }
    }

    async fn start(&mut self) -> Result<(), String> {
        if self.sequence.token_mode {
            let seeded = self.worlds[0].dispatch.seed_at_start().await;
            seeded.map_err(|error| format!("seeding at the start: {error:?}"))?;
            self.state.seed();
            self.state.key_texts[0] = BOOTSTRAP_TOKEN.to_owned();
            self.learn_seeded().await?;
            for slot in 0..REPLICAS {
                self.knows(slot, [Known::Everything]);
            }
        } else if self.sequence.start != Start::Empty {
            self.ask(0, &trusted(Call::Bootstrap)).await?;
        }
        if self.sequence.start != Start::Peopled {
            return Ok(());
        }
        let plain = Profile { roles: None, name: None, email: None, enabled: None, must_change: None };
        let role = |n: u16| Profile { roles: Some(1 << n), ..plain };
        let person = |place, n, password, profile| {
            trusted(Call::CreateUser(Place::At(place), Name::Pool(n, false), password, profile))
        };
        let key = |k| trusted(Call::CreateApiKey(Whom::Kth(k), Some(0), Expiry::Never, Place::Missing));
        let login = |k| trusted(Call::Login(Name::Of(Whom::Kth(k), false), Password::Right, Place::Missing));
        let asks = [
            trusted(Call::CreateWorkspace(Place::At(1), None, None)),
            person(1, 0, Password::Strong(0), role(2)),
            person(1, 1, Password::Strong(1), role(1)),
            person(0, 2, Password::Missing, role(5)),
            key(1),
            key(2),
            key(3),
            login(1),
            login(2),
            trusted(Call::ResetPassword(Whom::Kth(3), Place::Missing)),
            login(3),
        ];
        for ask in asks {
            self.ask(0, &ask).await?;
        }
        Ok(())
    }

    /// What a seeding without a reply has made, told by lists.
    async fn learn_seeded(&mut self) -> Result<(), String> {
        let users = self.send(0, Plane::Service, "list-users", &Headers::default(), b"{}").await.0;
        let id =
            |reply: &Value, pointer: &str| reply.pointer(pointer).and_then(Value::as_str).map(str::to_owned);
        let user = id(&users, "/users/0/id").ok_or("no admin was seeded")?;
        let request = format!(r#"{{"user_id":"{user}"}}"#);
        let keys =
            self.send(0, Plane::Service, "list-api-keys", &Headers::default(), request.as_bytes()).await.0;
        self.state.user_ids[0] = user;
        self.state.key_ids[0] = id(&keys, "/api_keys/0/id").ok_or("no key was seeded")?;
        self.learn_ring().await
    }

    /// Asks for the signing keys, so that the model knows which is which.
    async fn learn_ring(&mut self) -> Result<(), String> {
        for call in [Call::GetSigningKeyPublic, Call::GetJwks] {
            self.one(0, &Ask { plane: Plane::Api, ..trusted(call) }).await?;
        }
        Ok(())
    }

    fn slot(n: u8) -> usize {
        usize::from(n) % REPLICAS
    }

    async fn step(&mut self, step: &Step) -> Result<(), String> {
        match step {
            Step::Ask(slot, ask) => self.ask(Self::slot(*slot), ask).await?,
            Step::DieAfter(slot, ask) => {
                let slot = Self::slot(*slot);
                self.note(|| format!("replica {slot} dies before it has told anybody of this:"));
                self.one(slot, ask).await?;
                self.learn_changed_ring(ask).await?;
                self.die(slot).await;
            }
            Step::Pass(ms) => self.pass(*ms),
            Step::Gap(slot, k) => self.gap(Self::slot(*slot), *k).await?,
            Step::Deliver(slot, n) => {
                let slot = Self::slot(*slot);
                self.note(|| format!("up to {n} messages reach replica {slot}"));
                for _ in 0..(*n).into() {
                    self.deliver(slot, 0, false);
                }
            }
            Step::Overtake(slot, n, again) => {
                let slot = Self::slot(*slot);
                if let Some(index) = usize::from(*n).checked_rem(self.bus.waiting(slot)) {
                    self.note(|| {
                        format!("message {index} reaches replica {slot} out of turn, again {again}")
                    });
                    self.deliver(slot, index, *again);
                }
            }
            Step::Lose(slot, n) => {
                let slot = Self::slot(*slot);
                if let Some(index) = usize::from(*n).checked_rem(self.bus.waiting(slot)) {
                    self.note(|| format!("message {index} to replica {slot} is lost"));
                    self.bus.lose(slot, index);
                }
            }
            Step::Heartbeat(slot) => {
                self.note(|| format!("replica {slot} sends a heartbeat"));
                self.bus.heartbeat(Self::slot(*slot));
                self.deliver_promptly();
            }
            Step::Cut(slot) => {
                self.note(|| format!("replica {slot} is cut off"));
                self.bus.cut(Self::slot(*slot));
            }
            Step::Mend(slot) => {
                self.note(|| format!("replica {slot} is connected again"));
                let slot = Self::slot(*slot);
                self.bus.mend(slot, &self.worlds[slot].dispatch);
            }
            Step::WriteLastUsed(slot) => self.write_last_used(Self::slot(*slot)).await,
            Step::Restart(slot) => {
                let slot = Self::slot(*slot);
                self.note(|| format!("replica {slot} ends and starts anew"));
                self.write_last_used(slot).await;
                self.bus.bye(slot);
                self.die(slot).await;
                self.deliver_promptly();
            }
            Step::Die(slot) => {
                self.note(|| format!("replica {slot} dies and starts anew"));
                self.die(Self::slot(*slot)).await;
            }
            Step::RestartAll => {
                self.note(|| "everything ends and starts anew".to_owned());
                for slot in 0..REPLICAS {
                    self.write_last_used(slot).await;
                }
                self.reopen(false).await?;
            }
            Step::CrashAll => {
                self.note(|| "everything dies and starts anew".to_owned());
                self.reopen(true).await?;
            }
        }
        Ok(())
    }

    fn pass(&mut self, ms: i64) {
        self.note(|| format!("{ms} ms pass"));
        self.clock.advance_ms(ms);
        self.state.now_ms += ms;
        for slot in 0..REPLICAS {
            if self.sequence.prompt {
                self.bus.heartbeat(slot);
            }
        }
        self.deliver_promptly();
        for slot in 0..REPLICAS {
            let known = self.bus.tick(slot, &self.worlds[slot].dispatch);
            self.knows(slot, known);
        }
    }

    /// See [`Step::Gap`].
    async fn gap(&mut self, slot: usize, k: u8) -> Result<(), String> {
        const HALF_MS: i64 = 3_500;
        let other = (slot + 1) % REPLICAS;
        if self.sequence.prompt || self.bus.is_cut(slot) || self.bus.is_cut(other) {
            return Ok(());
        }
        let known = trusted(Call::Authenticate(Credential::TokenOf(k)));
        self.one(slot, &known).await?;
        self.tell_bus(other, &trusted(Call::RevokeUserTokens(Whom::Kth(k), Place::Missing))).await?;
        self.note(|| format!("replica {slot} misses that"));
        while self.bus.waiting(slot) > 0 {
            self.bus.lose(slot, 0);
        }
        self.pass(HALF_MS);
        let nothing = Profile { roles: None, name: None, email: None, enabled: None, must_change: None };
        let profile = Profile { name: Some(k), email: Some(k / 4), ..nothing };
        let ask = trusted(Call::UpdateUser(Whom::Kth(0), None, None, profile, Place::Missing));
        self.tell_bus(other, &ask).await?;
        self.deliver_to(slot);
        self.pass(HALF_MS);
        self.note(|| format!("replica {slot} hears a heartbeat again"));
        self.bus.heartbeat(other);
        self.deliver_to(slot);
        self.one(slot, &known).await.map(drop)
    }

    /// A replica starts anew, with nothing in memory.
    async fn die(&mut self, slot: usize) {
        self.worlds[slot] = self.world().await;
        self.bus.restart(slot);
        self.uses[slot].clear();
        self.failures.clear();
        self.knows(slot, [Known::Everything]);
    }

    /// Everything starts anew, in order or after a crash.
    async fn reopen(&mut self, crash: bool) -> Result<(), String> {
        let copy = if crash { self.ground.copy()? } else { None };
        self.worlds.clear();
        self.ground.restart(copy);
        for slot in 0..REPLICAS {
            let world = self.world().await;
            self.worlds.push(world);
            self.bus.restart(slot);
            self.uses[slot].clear();
            self.knows(slot, [Known::Everything]);
        }
        self.failures.clear();
        Ok(())
    }

    fn knows(&mut self, slot: usize, known: impl IntoIterator<Item = Known>) {
        for known in known {
            let all;
            let list = match known {
                Known::From(rec, version) => &[(rec, version)][..],
                Known::Everything => {
                    all = self
                        .state
                        .records()
                        .into_iter()
                        .map(|rec| (rec, self.state.last(rec)))
                        .collect::<Vec<_>>();
                    &all
                }
            };
            for &(rec, version) in list {
                let from = self.knowledge[slot].from.entry(rec).or_default();
                *from = version.max(*from);
            }
        }
    }

    fn deliver(&mut self, slot: usize, index: usize, again: bool) {
        let known = self.bus.deliver(slot, index, again, &self.worlds[slot].dispatch);
        self.knows(slot, known);
    }

    fn deliver_promptly(&mut self) {
        if self.sequence.prompt {
            self.deliver_all();
        }
    }

    fn deliver_all(&mut self) {
        for slot in 0..REPLICAS {
            self.deliver_to(slot);
        }
    }

    fn deliver_to(&mut self, slot: usize) {
        while self.bus.waiting(slot) > 0 {
            self.deliver(slot, 0, false);
        }
    }

    /// The uses of keys that a replica noted are in the store from here on.
    async fn write_last_used(&mut self, slot: usize) {
        /// A use is written at most so often.
        const EVERY_MS: i64 = 300_000;
        self.worlds[slot].dispatch.write_last_used().await;
        for (key, at) in std::mem::take(&mut self.uses[slot]) {
            let least = self.state.key_used[key].unwrap_or(i64::MIN).max(at - EVERY_MS + 1);
            self.state.key_used[key] = Some(least);
        }
    }

    /// Asks, by whichever replica is connected, and lets events go their way.
    async fn ask(&mut self, slot: usize, ask: &Ask) -> Result<(), String> {
        // Requests come by the connection that events come by.
        let slot = if self.bus.is_cut(slot) { (slot + 1) % REPLICAS } else { slot };
        if self.bus.is_cut(slot) {
            return Ok(());
        }
        let tokens = self.state.tokens.len();
        self.tell_bus(slot, ask).await?;
        if ask.call.from_memory() {
            // Warm by now, and nothing else may come of it.
            self.one(slot, ask).await?;
        }
        let changed = self.state.changed.clone();
        self.learn_changed_ring(ask).await?;
        if self.state.tokens.len() > tokens {
            let token = Credential::Token(u8::try_from(tokens).unwrap_or(u8::MAX));
            self.show(token, Floors::Acknowledged, true).await?;
        }
        self.probe(changed.first().copied()).await
    }

    /// After a change, asks everywhere whose credential it is that the change may have ended: half of the times with
    /// floors, after which nobody may know it late.
    async fn probe(&mut self, changed: Option<Rec>) -> Result<(), String> {
        let number = |n: usize| u8::try_from(n).unwrap_or(u8::MAX);
        let user = match changed {
            None => return Ok(()),
            Some(Rec::User(user)) => Some(user),
            Some(Rec::Workspace(id)) => {
                let keyed = (0..self.state.keys.len()).rev().filter_map(|key| self.state.key(key));
                let at_home = |owner: &usize| self.state.user(*owner).is_some_and(|user| user.home == id);
                keyed.map(|key| key.owner).find(at_home)
            }
            Some(Rec::Key(_) | Rec::Kid(_)) => None,
        };
        let credential = match (changed, user) {
            (Some(Rec::Key(key)), _) => Credential::Key(number(key)),
            (Some(Rec::Kid(_)), _) => Credential::Token(number(self.state.tokens.len().saturating_sub(1))),
            (_, Some(user)) if self.played.requests.is_multiple_of(3) => Credential::TokenOf(number(user)),
            (_, Some(user)) => Credential::KeyOf(number(user)),
            _ => return Ok(()),
        };
        let floors = if self.played.requests.is_multiple_of(2) { Floors::Acknowledged } else { Floors::None };
        self.show(credential, floors, self.played.requests.is_multiple_of(4)).await
    }

    /// Shows a credential to every replica: by its holder's own request, which is recognised first, or by somebody who
    /// asks about it.
    async fn show(&mut self, credential: Credential, floors: Floors, own: bool) -> Result<(), String> {
        let (plane, call, held) = match own {
            true => (Plane::Api, Call::Whoami, credential),
            false => (Plane::Service, Call::Authenticate(credential), Credential::Missing),
        };
        for slot in (0..REPLICAS).filter(|&slot| !self.bus.is_cut(slot)).collect::<Vec<_>>() {
            let ask = Ask { plane, actor: Whom::Missing, credential: held, floors, call: call.clone() };
            self.one(slot, &ask).await?;
        }
        Ok(())
    }

    /// One request, with its changes put on the bus.
    async fn tell_bus(&mut self, slot: usize, ask: &Ask) -> Result<(), String> {
        if let Some(changes) = self.one(slot, ask).await? {
            let recs = self.state.changed.iter().map(|&rec| (rec, self.state.last(rec))).collect();
            self.bus.publish(slot, &changes, recs);
            self.deliver_promptly();
        }
        Ok(())
    }

    async fn learn_changed_ring(&mut self, ask: &Ask) -> Result<(), String> {
        let ring = matches!(ask.call, Call::Bootstrap | Call::RotateSigningKey | Call::RetireSigningKey(_));
        if ring && !self.state.changed.is_empty() { self.learn_ring().await } else { Ok(()) }
    }

    /// One request to one replica, held against the model; the changes that are to be published.
    async fn one(
        &mut self,
        slot: usize,
        ask: &Ask,
    ) -> Result<Option<Vec<iam_schema::changes::Change>>, String> {
        self.state.changed.clear();
        let Some(name) = self.worth_asking(ask) else { return Ok(None) };
        let request = self.state.request(ask);
        let payload = encode(&request, Format::MessagePack).map_err(|error| error.to_string())?;
        let credential = self.state.credential_text(ask.credential);
        let authorization = match ask.credential {
            Credential::Missing => None,
            Credential::OtherScheme => Some(format!("Basic {credential}")),
            _ => Some(format!("bearer {credential}")),
        };
        let strict = self.strict(slot, ask);
        let floors = self.floors(slot, ask);
        let keys = self.keys_shown(ask);
        let headers = Headers {
            authorization: authorization.as_deref().filter(|_| ask.plane == Plane::Api),
            several_authorizations: ask.credential == Credential::Twice,
            iam_min: floors.as_deref(),
            ..Headers::default()
        };
        let operation = ask.call.operation();
        let (reply, changes) = self.send(slot, ask.plane, operation.as_str(), &headers, &payload).await;
        self.played.requests += 1;
        let outcome = reply.pointer("/error/type").and_then(Value::as_str);
        let kind = outcome.map_or("success", |kind| {
            ErrorKind::ALL.iter().find(|k| k.as_str() == kind).map_or("?", |k| k.as_str())
        });
        *self.played.outcomes.entry((ask.plane.as_str(), operation, kind)).or_default() += 1;
        self.note(|| {
            let shown = serde_json::to_string(&request).unwrap_or_default();
            let floors = floors.as_deref().map(|floors| format!(" Iam-Min: {floors}")).unwrap_or_default();
            let by = match ask.plane {
                Plane::Api => format!("{:?} as ", ask.credential),
                Plane::Service => String::new(),
            };
            format!("{by}{} {operation} {shown}{floors} at replica {slot}: {reply}", ask.plane.as_str())
        });
        if let Some(name) = name.filter(|_| kind == "auth-failed") {
            *self.failures.entry(name).or_default() += 1;
        }
        self.judge(slot, ask, strict, &reply, &changes)?;
        if kind == "success" {
            let now_ms = self.state.now_ms;
            self.uses[slot].extend(keys.into_iter().map(|key| (key, now_ms)));
        }
        Ok(Some(changes))
    }

    /// Whether to ask at all: not where so many passwords were wrong that throttling is near. The name that would be
    /// throttled, if any.
    fn worth_asking(&self, ask: &Ask) -> Option<Option<String>> {
        let name = match &ask.call {
            Call::Login(name, ..) => self.state.name_text(ask, *name).to_ascii_lowercase(),
            Call::ChangePassword(whom, ..) => self.state.id_text(ask, *whom),
            _ => return Some(None),
        };
        (self.failures.get(&name).is_none_or(|&failures| failures < MOST_FAILURES)).then_some(Some(name))
    }

    /// The records that an answer may not be old in.
    fn strict(&self, slot: usize, ask: &Ask) -> Strict {
        if self.bus.distrusts(slot) {
            return Strict::All;
        }
        match ask.floors {
            // Without a credential nobody's floors are heard on the API plane, and nothing is remembered either.
            Floors::Acknowledged => Strict::These(self.behind(slot).into_iter().take(64).collect()),
            _ => Strict::These(BTreeSet::new()),
        }
    }

    /// The records of which a replica may know less than was acknowledged.
    fn behind(&self, slot: usize) -> Vec<Rec> {
        let from = |rec: &Rec| self.knowledge[slot].from.get(rec).copied().unwrap_or_default();
        let behind = |rec: &Rec| from(rec) < self.state.last(*rec);
        self.state.records().into_iter().filter(behind).collect()
    }

    fn floors(&self, slot: usize, ask: &Ask) -> Option<String> {
        let floor = |(kind, id, version): (&str, String, u64)| format!("{kind}:{id}={version}");
        match ask.floors {
            Floors::None => None,
            Floors::Malformed => Some("user:x".to_owned()),
            Floors::Ahead(k) => {
                let index = usize::from(k).checked_rem(self.state.users.len())?;
                let (kind, id, version) = self.state.change(Rec::User(index));
                let ahead = if self.state.user(index).is_some() { version + 5 } else { version };
                Some(floor((kind, id, ahead)))
            }
            Floors::Acknowledged => {
                let behind = self.behind(slot);
                let floors = behind.into_iter().take(64).map(|rec| floor(self.state.change(rec)));
                let text = floors.collect::<Vec<_>>().join(",");
                (!text.is_empty()).then_some(text)
            }
        }
    }

    async fn send(
        &self,
        slot: usize,
        plane: Plane,
        operation: &str,
        headers: &Headers<'_>,
        payload: &[u8],
    ) -> (Value, Vec<iam_schema::changes::Change>) {
        let dispatch = &self.worlds[slot].dispatch;
        let incoming = Incoming { plane, operation, headers: *headers, payload, received: Instant::now() };
        let (reply, changes) = match dispatch.answer_now(incoming) {
            Answer::Now(reply) => (reply, Vec::new()),
            Answer::Later(later) => {
                let Answered { reply, changes, .. } = dispatch.answer_later(later).await;
                (reply.expect("no deadline was given"), changes)
            }
        };
        let response: IamResponse = decode(&reply.payload).expect("a reply that can be read");
        let kind = response.error.as_ref().and_then(|error| error.known_kind());
        assert_eq!(kind, reply.error, "the headers must say what the reply says");
        (serde_json::to_value(&response).expect("a reply"), changes)
    }

    /// Holds a reply against the model, and the changes that are to be published.
    fn judge(
        &mut self,
        slot: usize,
        ask: &Ask,
        strict: Strict,
        reply: &Value,
        changes: &[iam_schema::changes::Change],
    ) -> Result<(), String> {
        let options = self.options(slot, &strict);
        let late = !options.is_empty();
        self.played.late += usize::from(late);
        let before = late.then(|| self.state.clone());
        let view = View::default();
        let expect = self.state.predict(&view, ask);
        match expect.fits(&self.state, ask, reply) {
            Ok(told) => expect.learn(&mut self.state, told),
            Err(misfit) => {
                let found = before.and_then(|before| {
                    let touched = view.touched.into_inner();
                    search(&before, ask, reply, &options, &BTreeMap::new(), &touched)
                });
                let Some((state, expect, told)) = found else { return Err(misfit) };
                self.played.old += 1;
                self.state = state;
                expect.learn(&mut self.state, told);
            }
        }
        // A seeding does not tell the id of the key that it made; its event does.
        if let (Call::Bootstrap, Some(id)) = (&ask.call, self.state.key_ids.first_mut())
            && let Some(key) = changes.iter().find(|change| change.kind.as_str() == "api-key")
        {
            id.clone_from(&key.id);
        }
        self.announced(changes)?;
        // What it changed itself a replica knows of.
        let changed: Vec<_> =
            self.state.changed.iter().map(|&rec| Known::From(rec, self.state.last(rec))).collect();
        self.knows(slot, changed);
        Ok(())
    }

    /// Of each record that the replica may know late, the versions that it may believe.
    fn options(&self, slot: usize, strict: &Strict) -> BTreeMap<Rec, Vec<usize>> {
        let Strict::These(strict) = strict else { return BTreeMap::new() };
        let behind = self.behind(slot).into_iter().filter(|rec| !strict.contains(rec));
        let from = |rec: Rec| self.knowledge[slot].from.get(&rec).copied().unwrap_or_default();
        let options = behind.map(|rec| (rec, self.state.visible(rec, from(rec))));
        options.filter(|(_, versions)| versions.len() > 1).collect()
    }

    /// Every change is announced, and nothing else is.
    fn announced(&self, changes: &[iam_schema::changes::Change]) -> Result<(), String> {
        let told: BTreeSet<(&str, &str, u64)> =
            changes.iter().map(|change| (change.kind.as_str(), change.id.as_str(), change.version)).collect();
        // New signing keys are not known by name yet.
        let kid = |kind: &str| kind == "signing-key";
        let due: Vec<_> = self.state.changed.iter().map(|&rec| self.state.change(rec)).collect();
        let due: BTreeSet<(&str, &str, u64)> =
            due.iter().map(|(kind, id, version)| (*kind, id.as_str(), *version)).collect();
        let missing = due.iter().find(|change| !change.1.is_empty() && !told.contains(change));
        let more = told.iter().find(|change| !kid(change.0) && !due.contains(change));
        let kids = |set: &BTreeSet<(&str, &str, u64)>| set.iter().filter(|change| kid(change.0)).count();
        let new = self
            .state
            .changed
            .iter()
            .filter(|rec| matches!(rec, Rec::Kid(k) if self.state.kid_texts[*k].is_none()));
        let named = due.iter().filter(|change| kid(change.0) && !change.1.is_empty()).count();
        match (missing, more) {
            (Some(change), _) => Err(format!("no event for {change:?}")),
            (None, Some(change)) => Err(format!("an event for {change:?}, which did not change so")),
            (None, None) if kids(&told) != named + new.count() => {
                Err(format!("events for the signing keys: {told:?}"))
            }
            (None, None) => Ok(()),
        }
    }

    /// The keys by which a request is recognised, if it is.
    fn keys_shown(&self, ask: &Ask) -> Vec<usize> {
        let given = match &ask.call {
            Call::Authenticate(credential) | Call::ResolveApiKey(credential) => Some(*credential),
            Call::Authorise(_, credential, ..) | Call::AuthoriseMany(_, credential, _) => *credential,
            _ => None,
        };
        let public = matches!(
            ask.call,
            Call::Login(..)
                | Call::GetSigningKeyPublic
                | Call::GetJwks
                | Call::Bootstrap
                | Call::BootstrapStatus
        );
        let own = (ask.plane == Plane::Api && !public).then_some(ask.credential);
        let held = [given, own].into_iter().flatten().map(|credential| self.state.held(credential));
        held.filter_map(|held| if let Held::Key(key) = held { Some(key) } else { None }).collect()
    }

    /// Reads a list to its end, two at a time.
    async fn read_pages(&mut self, list: fn(Page) -> Call) -> Result<(), String> {
        let mut after = None;
        loop {
            let known = self.state.listings.len();
            let ask = trusted(list(Page { size: 2, after, bad_token: false }));
            self.one(0, &ask).await?;
            if after.is_none() && self.state.listings.len() == known {
                return Ok(());
            }
            after = u8::try_from(self.state.listings.len() - 1).ok();
            if after.is_none() || self.state.listings.last().is_none_or(|listing| listing.token.is_empty()) {
                return Ok(());
            }
        }
    }

    /// Everything delivered: each replica must tell everything as it is.
    async fn finish(&mut self) -> Result<(), String> {
        self.note(|| "every message is delivered, and everything is looked at".to_owned());
        for slot in 0..REPLICAS {
            self.bus.mend(slot, &self.worlds[slot].dispatch);
        }
        for slot in 0..REPLICAS {
            self.write_last_used(slot).await;
            self.bus.heartbeat(slot);
        }
        self.deliver_all();
        // The one who died unheard is given up.
        self.clock.advance_ms(6_000);
        self.state.now_ms += 6_000;
        for slot in 0..REPLICAS {
            let known = self.bus.tick(slot, &self.worlds[slot].dispatch);
            self.knows(slot, known);
        }
        let whole = Page { size: 0, after: None, bad_token: false };
        let count = |n: usize| u8::try_from(n).unwrap_or(u8::MAX);
        for slot in 0..REPLICAS {
            let mut asks = vec![
                trusted(Call::ListUsers(Place::Missing, whole)),
                trusted(Call::ListWorkspaces(whole)),
                trusted(Call::GetJwks),
                trusted(Call::BootstrapStatus),
            ];
            for user in 0..count(self.state.users.len()) {
                let check = |capability, place| (capability, Target::At(Place::At(place)), Target::Absent);
                let everywhere = (0..4).flat_map(|place| [check(0, place), check(2, place)]);
                asks.push(trusted(Call::AuthoriseMany(Whom::Kth(user), None, everywhere.collect())));
                if slot == 0 {
                    asks.push(trusted(Call::ListApiKeys(Whom::Kth(user), Place::Missing, whole)));
                }
            }
            let keys = (0..count(self.state.keys.len())).map(Credential::Key);
            let tokens = (0..count(self.state.tokens.len())).map(Credential::Token);
            asks.extend(keys.chain(tokens).map(|credential| trusted(Call::Authenticate(credential))));
            // A token that is good for the password alone is good for nothing else.
            for token in 0..count(self.state.tokens.len()) {
                let call = Call::ListMyWorkspaces(whole);
                let (plane, credential) = (Plane::Api, Credential::Token(token));
                asks.push(Ask { plane, credential, ..trusted(call) });
            }
            for ask in asks {
                self.one(slot, &ask).await?;
            }
        }
        for list in [
            |page| Call::ListUsers(Place::Missing, page),
            |page| Call::ListUsers(Place::At(0), page),
            |page| Call::ListApiKeys(Whom::Kth(0), Place::Missing, page),
            Call::ListWorkspaces,
        ] {
            self.read_pages(list).await?;
        }
        self.ground.verify()
    }
}

/// What a trusted service asks on its own authority.
fn trusted(call: Call) -> Ask {
    let (plane, actor, floors) = (Plane::Service, Whom::Missing, Floors::None);
    Ask { plane, actor, credential: Credential::Missing, floors, call }
}

/// In what an answer may not be old.
enum Strict {
    All,
    These(BTreeSet<Rec>),
}

/// Looks for what a replica may believe so that its answer is right.
fn search(
    before: &State,
    ask: &Ask,
    reply: &Value,
    options: &BTreeMap<Rec, Vec<usize>>,
    past: &BTreeMap<Rec, usize>,
    touched: &BTreeSet<Rec>,
) -> Option<(State, Expect, Told)> {
    let next = touched.iter().find(|rec| options.contains_key(rec) && !past.contains_key(rec))?;
    for &version in &options[next] {
        let mut past = past.clone();
        past.insert(*next, version);
        let mut state = before.clone();
        let view = View { past: past.clone(), ..View::default() };
        let expect = state.predict(&view, ask);
        if let Ok(told) = expect.fits(&state, ask, reply) {
            return Some((state, expect, told));
        }
        let mut seen = touched.clone();
        seen.extend(view.touched.into_inner());
        if let Some(found) = search(before, ask, reply, options, &past, &seen) {
            return Some(found);
        }
    }
    None
}
