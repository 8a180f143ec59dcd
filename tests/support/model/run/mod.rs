//! A sequence played against the service in process: replicas over one store, a bus between them, and the model
//! beside.

mod asking;
mod finish;
mod judging;
mod step;

use std::collections::BTreeMap;
use std::sync::Arc;

use iam_schema::subject::Plane;
use iam_schema::{OperationName, Secret};
use iam_svc::clock::{Clock, ManualClock};
use iam_svc::ctx::BootstrapMode;
use iam_svc::dispatch::Headers;
use iam_svc::domain::policy::Policy;
use serde_json::Value;

use super::ask::{Ask, Call, Credential, Expiry, Floors, Name, Password, Place, Profile, Whom};
use super::bus::{Known, SimulatedBus};
use super::ground::{Backend, Ground};
use super::policy;
use super::state::{Rec, State};
use super::steps::{Sequence, Start};
use crate::world::{Setup, World};

const REPLICAS: usize = 2;
/// Rounds of a password hash: the same code, whatever it costs.
const ROUNDS: u32 = 2;
/// The key of the first admin where it is given at the start.
const BOOTSTRAP_TOKEN: &str = "tg_0123456789abcdefghijklmnopqrstuv";
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
}

/// What a trusted service asks on its own authority.
fn trusted(call: Call) -> Ask {
    let (plane, actor, floors) = (Plane::Service, Whom::Missing, Floors::None);
    Ask { plane, actor, credential: Credential::Missing, floors, call }
}
