//! The service under a scheduler that decides what happens between any two steps of its cache and its store: what
//! was ended is refused from the moment on at which somebody could know of it, however the questions asked meanwhile
//! fill the cache.
//!
//! `IAM_TEST_SCHEDULES` is the number of schedules that each case tries.

use std::sync::{Arc, Mutex, PoisonError};
use std::time::Instant;

use async_trait::async_trait;
use iam_schema::changes::{Change, Floors, Followed};
use iam_schema::codec::decode;
use iam_schema::subject::Plane;
use iam_schema::tokens::{CLIENT_ID, Claims};
use iam_schema::{IamResponse, KeyId, Timestamp, UserId, WorkspaceId};
use serde_json::{Value, json};
use shuttle::scheduler::{PctScheduler, RandomScheduler};
use shuttle::sync::atomic::{AtomicBool, Ordering};
use shuttle::{Config, Runner, future, thread};

use crate::clock::ManualClock;
use crate::crypto::api_keys;
use crate::crypto::passwords::HashPool;
use crate::crypto::seal::{Kek, fresh_key};
use crate::crypto::tokens::Signer;
use crate::ctx::{BootstrapMode, Ctx, Settings};
use crate::dispatch::audit::Audit;
use crate::dispatch::{Answer, Dispatch, Headers, Incoming, Later, Reply};
use crate::domain::api_keys::{ApiKey, KeyHash};
use crate::domain::key_ring::KeyRing;
use crate::domain::policy::Policy;
use crate::domain::throttle::Throttle;
use crate::domain::users::{NameKey, User};
use crate::domain::workspaces::Workspace;
use crate::entropy::Entropy;
use crate::store::*;

/// A store of one user, in one workspace, with one key, and a ring.
#[derive(Debug)]
struct Small(Mutex<Rows>);

#[derive(Debug, Clone)]
struct Rows {
    user: Option<User>,
    workspace: Workspace,
    key: Option<ApiKey>,
    ring: KeyRing,
}

impl Small {
    /// One step of the store, with whatever the scheduler puts before and after it.
    fn step<T>(&self, step: impl FnOnce(&mut Rows) -> T) -> T {
        let elsewhere = || drop(shuttle::sync::Mutex::new(()).lock());
        elsewhere();
        let result = step(&mut self.0.lock().unwrap_or_else(PoisonError::into_inner));
        elsewhere();
        result
    }
}

fn left_out<T>() -> Result<T, StoreError> {
    Err(StoreError::Unavailable("not in the model".into()))
}

#[async_trait]
impl Store for Small {
    async fn user(&self, id: UserId, _: Read) -> Result<Option<User>, StoreError> {
        Ok(self.step(|rows| rows.user.clone().filter(|user| user.id == id)))
    }

    async fn update_user(&self, from: &User, to: &User) -> Result<UpdateUser, StoreError> {
        Ok(self.step(|rows| match &mut rows.user {
            Some(user) if user.version == from.version => {
                *user = to.clone();
                UpdateUser::Updated
            }
            _ => UpdateUser::LostRace,
        }))
    }

    async fn delete_user(&self, _: &User) -> Result<DeleteUser, StoreError> {
        self.step(|rows| (rows.user, rows.key) = (None, None));
        Ok(DeleteUser::Deleted)
    }

    async fn workspace(&self, id: &WorkspaceId, _: Read) -> Result<Option<Workspace>, StoreError> {
        Ok(self.step(|rows| Some(rows.workspace.clone()).filter(|workspace| workspace.id == *id)))
    }

    async fn update_workspace(&self, _: &Workspace, to: &Workspace) -> Result<UpdateWorkspace, StoreError> {
        self.step(|rows| rows.workspace = to.clone());
        Ok(UpdateWorkspace::Updated)
    }

    async fn api_key_by_hash(&self, hash: &KeyHash) -> Result<Option<ApiKey>, StoreError> {
        Ok(self.step(|rows| rows.key.clone().filter(|key| key.hash == *hash)))
    }

    async fn api_key(&self, id: KeyId) -> Result<Option<ApiKey>, StoreError> {
        Ok(self.step(|rows| rows.key.clone().filter(|key| key.id == id)))
    }

    async fn delete_api_key(&self, _: &ApiKey) -> Result<DeleteApiKey, StoreError> {
        self.step(|rows| rows.key = None);
        Ok(DeleteApiKey::Deleted)
    }

    async fn key_ring(&self) -> Result<Option<KeyRing>, StoreError> {
        Ok(Some(self.step(|rows| rows.ring.clone())))
    }

    async fn replace_key_ring(&self, to: &KeyRing) -> Result<ReplaceKeyRing, StoreError> {
        self.step(|rows| rows.ring = to.clone());
        Ok(ReplaceKeyRing::Replaced)
    }

    async fn user_by_name(&self, _: &NameKey) -> Result<Option<User>, StoreError> {
        left_out()
    }
    async fn insert_user(&self, _: &User) -> Result<InsertUser, StoreError> {
        left_out()
    }
    async fn list_users(
        &self,
        _: Option<&WorkspaceId>,
        _: Option<UserId>,
        _: usize,
    ) -> Result<Page<User, UserId>, StoreError> {
        left_out()
    }
    async fn insert_workspace(&self, _: &Workspace) -> Result<InsertWorkspace, StoreError> {
        left_out()
    }
    async fn list_workspaces(
        &self,
        _: Option<&WorkspaceId>,
        _: usize,
    ) -> Result<Page<Workspace, WorkspaceId>, StoreError> {
        left_out()
    }
    async fn insert_api_key(&self, _: &ApiKey) -> Result<InsertApiKey, StoreError> {
        left_out()
    }
    async fn list_api_keys(
        &self,
        _: UserId,
        _: Option<KeyId>,
        _: usize,
    ) -> Result<Page<(ApiKey, Option<Timestamp>), KeyId>, StoreError> {
        left_out()
    }
    async fn touch_api_keys(&self, _: &[(UserId, KeyId, Timestamp)]) -> Result<(), StoreError> {
        Ok(())
    }
    async fn seed_state(&self) -> Result<SeedState, StoreError> {
        left_out()
    }
    async fn seed(&self, _: &Seed, _: Timestamp) -> Result<Seeded, StoreError> {
        left_out()
    }
    async fn ping(&self) -> Result<(), StoreError> {
        Ok(())
    }
}

/// What all schedules of a case begin with.
struct Start {
    ctx: Arc<Ctx>,
    store: Arc<Small>,
    rows: Rows,
    user: String,
    key: String,
    key_id: String,
    token: String,
    kid: String,
}

fn start() -> Start {
    let now: Timestamp = "2026-12-01T00:00:00Z".parse().unwrap();
    let entropy = Entropy::seeded(1);
    let kek = Kek::generate(&entropy);
    let workspace = Workspace::new("acme".parse().unwrap(), String::new(), true, now);
    let user = User::example(workspace.id.as_str(), &["reader"]);
    let text = api_keys::generate(&entropy);
    let key = ApiKey {
        id: entropy.key_id(now),
        hash: api_keys::hash(text.expose()),
        user: user.id,
        workspace: workspace.id.clone(),
        key_epoch: 0,
        name: "laptop".into(),
        prefix: api_keys::prefix(text.expose()).into(),
        expires: None,
        created: now,
    };
    let [active, next] = [(); 2].map(|()| fresh_key(&entropy, &kek).unwrap());
    let ring = KeyRing::new(active, next, now);
    let signing = ring.active().unwrap();
    let claims = Claims {
        iss: "iam".into(),
        sub: user.id,
        aud: vec!["iam".into()],
        client_id: CLIENT_ID.into(),
        workspace: workspace.id.clone(),
        iat: now.as_secs(),
        nbf: now.as_secs(),
        exp: now.as_secs() + 3600,
        jti: "1".into(),
        epoch: 0,
    };
    let token = Signer::open(&kek, signing).unwrap().sign(&claims).expose().to_owned();
    let (user_id, key_id, kid) = (user.id.to_string(), key.id.to_string(), signing.kid.to_string());
    let rows = Rows { user: Some(user), workspace, key: Some(key), ring };
    let store = Arc::new(Small(Mutex::new(rows.clone())));
    let ctx = Ctx {
        store: store.clone(),
        clock: Arc::new(ManualClock::at(now)),
        hasher: HashPool::with_rounds(1, 1).unwrap(),
        policy: Arc::new(Policy::build(&Default::default()).unwrap()),
        throttle: Throttle::new(entropy.bytes()),
        kek,
        entropy,
        settings: Settings {
            bootstrap: BootstrapMode::Bootstrap,
            issuer: "iam".into(),
            audience: "iam".into(),
            token_lifetime_s: 3600,
            grace_period_s: 86_400,
            allow_ttl_s: 60,
            deny_ttl_s: 5,
            anonymous_user: None,
            audit_allow_all: false,
        },
    };
    let key = text.expose().to_owned();
    Start { ctx: Arc::new(ctx), store, rows, user: user_id, key, key_id, token, kid }
}

impl Start {
    /// A replica that has just come up, on the store as it was in the beginning.
    fn replica(&self) -> Dispatch {
        *self.store.0.lock().unwrap_or_else(PoisonError::into_inner) = self.rows.clone();
        Dispatch::new(self.ctx.clone(), Audit::channel(1).0)
    }
}

/// One request of a trusted service; the reply, and what changed.
fn ask(
    replica: &Dispatch,
    operation: &str,
    floors: Option<&str>,
    request: &Value,
) -> (IamResponse, Vec<Change>) {
    let payload = request.to_string();
    let headers = Headers { iam_min: floors, ..Headers::default() };
    let payload = payload.as_bytes();
    let incoming = Incoming { plane: Plane::Service, operation, headers, payload, received: Instant::now() };
    let (reply, changes) = match replica.answer_now(incoming) {
        Answer::Now(reply) => (reply, Vec::new()),
        Answer::Later(later) => finish(replica, later),
    };
    (decode(&reply.payload).unwrap(), changes)
}

fn finish(replica: &Dispatch, later: Box<Later>) -> (Reply, Vec<Change>) {
    let answered = future::block_on(replica.answer_later(later));
    (answered.reply.unwrap(), answered.changes)
}

/// A question that the service says yes to until something has ended.
#[derive(Clone)]
struct Question(&'static str, Value);

impl Question {
    fn is_yes(&self, replica: &Dispatch, floors: Option<&str>) -> bool {
        let (reply, _) = ask(replica, self.0, floors, &self.1);
        match &reply.error {
            None => reply.decision_allow.unwrap_or(true),
            Some(error) => {
                assert_ne!(error.kind, "internal-error");
                false
            }
        }
    }
}

/// Makes the changes that end something; what they changed.
fn end(replica: &Dispatch, operations: &[(&'static str, Value)]) -> Vec<Change> {
    let changes = operations.iter().flat_map(|(operation, request)| {
        let (reply, changes) = ask(replica, operation, None, request);
        assert!(reply.error.is_none(), "{operation}: {:?}", reply.error);
        changes
    });
    changes.collect()
}

/// How a replica comes to know of what ended.
#[derive(Debug, Clone, Copy)]
enum Hears {
    /// It made the change itself.
    First,
    /// By the event of another replica.
    Event,
    /// Events were missed, so it forgets everything.
    ForgetsAll,
    /// It cannot know what it missed while the change is made, and forgets everything before it trusts itself again.
    Reconnects,
    /// By the caller alone, who names what changed.
    Floors,
}

fn schedules() -> usize {
    std::env::var("IAM_TEST_SCHEDULES").ok().and_then(|text| text.parse().ok()).unwrap_or(50)
}

/// Tries schedules of two callers who ask while something ends.
fn check(hears: Hears, question: fn(&Start) -> Question, ends: fn(&Start) -> Vec<(&'static str, Value)>) {
    let start = Arc::new(start());
    let (question, ends) = (question(&start), ends(&start));
    let case = move || {
        let [replica, other] = [(); 2].map(|()| Arc::new(start.replica()));
        let over = Arc::new(AtomicBool::new(false));
        let askers: Vec<_> = (0..2)
            .map(|_| {
                let (replica, over, question) = (replica.clone(), over.clone(), question.clone());
                thread::spawn(move || {
                    for _ in 0..2 {
                        let ended = over.load(Ordering::SeqCst);
                        assert!(!question.is_yes(&replica, None) || !ended, "{hears:?}: yes after the end");
                    }
                })
            })
            .collect();
        match hears {
            Hears::First => drop(end(&replica, &ends)),
            Hears::Event => {
                let drop = end(&other, &ends);
                replica.follow(&Followed { drop, drop_all: false });
            }
            Hears::ForgetsAll => {
                end(&other, &ends);
                replica.follow(&Followed { drop: Vec::new(), drop_all: true });
            }
            Hears::Reconnects => {
                replica.trust_cache(false);
                end(&other, &ends);
                assert!(!question.is_yes(&replica, None), "yes out of a cache that is not to be trusted");
                replica.forget_everything();
                replica.trust_cache(true);
            }
            Hears::Floors => {
                let floors: Floors = end(&other, &ends).into_iter().collect();
                let floors = floors.to_string();
                assert!(!question.is_yes(&replica, Some(&floors)), "yes to who knows better: {floors}");
            }
        }
        // With nothing but a caller's word, others are answered from memory still.
        over.store(!matches!(hears, Hears::Floors), Ordering::SeqCst);
        let ended = !matches!(hears, Hears::Floors);
        assert!(!question.is_yes(&replica, None) || !ended, "{hears:?}: yes after the end");
        askers.into_iter().for_each(|asker| asker.join().unwrap());
    };
    let case = Arc::new(case);
    let mut config = Config::default();
    // The futures of a debug build are large.
    config.stack_size = 1 << 20;
    for pct in [false, true] {
        let case = case.clone();
        let tried = match pct {
            false => Runner::new(RandomScheduler::new(schedules()), config.clone()).run(move || case()),
            true => Runner::new(PctScheduler::new(3, schedules()), config.clone()).run(move || case()),
        };
        assert_eq!(tried, schedules());
    }
}

fn check_all(question: fn(&Start) -> Question, ends: fn(&Start) -> Vec<(&'static str, Value)>) {
    for hears in [Hears::First, Hears::Event, Hears::ForgetsAll, Hears::Reconnects, Hears::Floors] {
        check(hears, question, ends);
    }
}

fn may_read(s: &Start) -> Question {
    Question("authorise", json!({ "user_id": s.user, "capability": "graph:read" }))
}

fn key_resolves(s: &Start) -> Question {
    Question("resolve-api-key", json!({ "api_key": s.key }))
}

fn token_authenticates(s: &Start) -> Question {
    Question("authenticate", json!({ "credential": s.token }))
}

#[test]
fn disabled_user_is_refused_in_every_schedule() {
    check_all(may_read, |s| vec![("disable-user", json!({ "user_id": s.user }))]);
}

#[test]
fn deleted_user_is_refused_in_every_schedule() {
    check_all(may_read, |s| vec![("delete-user", json!({ "user_id": s.user }))]);
}

#[test]
fn user_of_a_disabled_workspace_is_refused_in_every_schedule() {
    check_all(may_read, |_| vec![("disable-workspace", json!({ "workspace_record": { "id": "acme" } }))]);
}

#[test]
fn revoked_key_is_refused_in_every_schedule() {
    check_all(key_resolves, |s| vec![("revoke-api-key", json!({ "key_id": s.key_id }))]);
}

#[test]
fn key_of_an_ended_epoch_is_refused_in_every_schedule() {
    let again = |s: &Start| {
        let user = json!({ "user_id": s.user });
        vec![("disable-user", user.clone()), ("enable-user", user)]
    };
    check_all(key_resolves, again);
}

#[test]
fn revoked_token_is_refused_in_every_schedule() {
    check_all(token_authenticates, |s| vec![("revoke-user-tokens", json!({ "user_id": s.user }))]);
}

#[test]
fn token_of_a_retired_key_is_refused_in_every_schedule() {
    check_all(token_authenticates, |s| vec![("retire-signing-key", json!({ "key_id": s.kid }))]);
}
