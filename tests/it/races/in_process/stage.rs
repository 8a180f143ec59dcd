//! One schedule of one race: played, and taken down.

use std::collections::BTreeMap;
use std::sync::Arc;

use futures_util::FutureExt;
use iam_schema::changes::{Change, Followed};
use iam_schema::subject::Plane;
use iam_schema::{IamResponse, Secret};
use iam_svc::crypto::passwords;
use iam_svc::dispatch::Headers;
use iam_svc::domain::key_ring::{KeyRing, KeyState};
use iam_svc::domain::users::User;
use iam_svc::store::Store;
use iam_svc::store::embedded::FILE;
use iam_tests::faulty::Faulty;
use iam_tests::schedule::{self, Rules, Step};
use iam_tests::world::{Setup, World};
use serde_json::{Map, Value, json};

use super::cast::{NEW, OTHER, directory};
use super::{Race, laws};

/// The most of anything that a race has.
const ALL: usize = 1000;

/// A request, with `$name` for what is known by that name.
#[derive(Debug, Clone)]
pub(super) struct Ask {
    by: By,
    pub(super) operation: &'static str,
    request: Value,
}

#[derive(Debug, Clone)]
enum By {
    Service,
    Nobody,
    Holder(&'static str),
}

/// Asked by a trusted service.
pub(super) fn service(operation: &'static str, request: Value) -> Ask {
    Ask { by: By::Service, operation, request }
}

/// Asked on the API plane, without a credential.
pub(super) fn nobody(operation: &'static str, request: Value) -> Ask {
    Ask { by: By::Nobody, operation, request }
}

/// Asked on the API plane by whoever holds the credential that is known by this name.
pub(super) fn holder(credential: &'static str, operation: &'static str, request: Value) -> Ask {
    Ask { by: By::Holder(credential), operation, request }
}

/// What a schedule came to.
pub(super) struct Observed {
    /// What each caller was told, so far as it is the same each time; `None` where it died or did not ask.
    pub(super) outcomes: Vec<Option<Value>>,
    /// The first and last step of each caller.
    pub(super) spans: Vec<(usize, usize)>,
    /// What is there afterwards, ids and secrets left out.
    pub(super) picture: Value,
    pub(super) faults: Vec<String>,
    calls: Vec<(usize, &'static str)>,
}

/// Everything there is, as the store has it.
pub(super) struct Stored {
    pub(super) users: Vec<User>,
    pub(super) workspaces: BTreeMap<String, iam_svc::domain::workspaces::Workspace>,
    pub(super) ring: Option<KeyRing>,
}

impl Observed {
    pub(super) fn story(&self, race: &Race) -> String {
        let calls: Vec<String> = self.calls.iter().map(|(who, call)| format!("{who} {call}")).collect();
        let mut lines = vec![format!("calls: {}", calls.join(", "))];
        for (i, (ask, outcome)) in race.asks.iter().zip(&self.outcomes).enumerate() {
            let told = outcome.as_ref().map_or("nothing".to_owned(), Value::to_string);
            lines.push(format!("caller {i}: {} {}: {told}", ask.operation, ask.request));
        }
        lines.push(format!("afterwards: {}", self.picture));
        lines.join("\n")
    }
}

pub(super) fn succeeded(outcome: &Value) -> bool {
    outcome.get("error").is_none()
}

/// Whether a caller was told to try again: nothing was done.
pub(super) fn conflicted(outcome: &Value) -> bool {
    outcome["error"] == "conflict"
}

/// The replicas of a race, and what is known by name.
struct Stage {
    /// Whether the life of tokens is followed.
    tokens: bool,
    store: Arc<Faulty>,
    replicas: Vec<World>,
    facts: BTreeMap<String, String>,
}

/// Lets some of a race's callers ask at once; `choose` says who goes on.
pub(super) fn perform(
    race: &Race,
    who: &[usize],
    rules: Rules,
    choose: impl FnMut(&[Step]) -> usize,
) -> Observed {
    let runtime = tokio::runtime::Builder::new_current_thread().build().expect("a runtime");
    let dir = directory();
    if let Some(file) = &race.cast.file {
        std::fs::write(dir.path().join(FILE), file).expect("room for a store");
    }
    let store = Faulty::on(dir);
    let replicas = if race.shared { 1 } else { 2 };
    let replicas = (1..=replicas).map(|replica| store.world(Setup { replica, ..Setup::default() }));
    let mut stage =
        Stage { tokens: race.tokens, replicas: replicas.collect(), store, facts: race.cast.facts.clone() };
    runtime.block_on(async {
        for ask in &race.before {
            let (outcome, changes, _) = stage.ask(0, ask).await;
            assert!(succeeded(&outcome), "{}: before: {ask:?}: {outcome}", race.name);
            stage.tell(0, &changes);
        }
        // A replica that has seen everybody must drop what it remembers; one that has not must not keep what it
        // reads meanwhile.
        for (i, replica) in stage.replicas.iter().enumerate() {
            stage.living(i).await;
            if race.cold {
                replica.dispatch.forget_everything();
            }
        }
    });
    let before = runtime.block_on(stage.stored());

    let callers = who.iter().map(|i| {
        let stage = &stage;
        async move {
            let replica = i % stage.replicas.len();
            let (outcome, changes, secrets) = stage.ask(replica, &race.asks[*i]).await;
            // The event is out before the reply.
            stage.tell(replica, &changes);
            (outcome, changes, secrets)
        }
        .boxed_local()
    });
    let played = schedule::play(stage.store.turns(), rules, callers.collect(), || stage.settle(), choose);

    let mut seen = Observed {
        outcomes: race.asks.iter().map(|_| None).collect(),
        spans: race.asks.iter().map(|_| (0, 0)).collect(),
        picture: Value::Null,
        faults: Vec::new(),
        calls: played.calls.into_iter().map(|(place, call)| (who[place], call)).collect(),
    };
    let mut changes: Vec<Change> = Vec::new();
    let mut died = false;
    for (i, end) in who.iter().zip(played.ends) {
        seen.spans[*i] = (end.began, end.ended);
        let Some((outcome, changed, secrets)) = end.answer else {
            died = true;
            continue;
        };
        if outcome["error"] == "internal-error" {
            seen.faults.push(format!("caller {i} met a bug"));
        }
        seen.outcomes[*i] = Some(outcome);
        changes.extend(changed);
        stage.facts.extend(secrets.into_iter().map(|(kind, text)| (format!("{kind} of {i}"), text)));
    }
    runtime.block_on(stage.take_down(&mut seen, &before, &changes, died));
    seen
}

type Answer = (Value, Vec<Change>, Vec<(&'static str, String)>);

impl Stage {
    /// One request to one replica: what the caller is told, what changed, and the secrets in the reply.
    async fn ask(&self, replica: usize, ask: &Ask) -> Answer {
        let request = self.filled(&ask.request).to_string();
        let (plane, authorization) = match ask.by {
            By::Service => (Plane::Service, None),
            By::Nobody => (Plane::Api, None),
            By::Holder(name) => (Plane::Api, Some(format!("Bearer {}", self.fact(name)))),
        };
        let headers = Headers { authorization: authorization.as_deref(), ..Headers::default() };
        let world = &self.replicas[replica];
        let answered = world.answered(plane, ask.operation, headers, request.as_bytes()).await;
        let reply = answered.reply.expect("no deadline was given");
        let response: IamResponse = serde_json::from_slice(&reply.payload).expect("a reply");
        let secrets = [
            ("key", &response.api_key_plaintext),
            ("key", &response.bootstrap_admin_api_key),
            ("jwt", &response.jwt),
            ("temporary", &response.temporary_password),
        ];
        let secrets = secrets.into_iter().filter(|(_, secret)| !secret.is_empty());
        let secrets = secrets.map(|(kind, secret)| (kind, secret.expose().to_owned()));
        (lasting(&response), answered.changes, secrets.collect())
    }

    /// Tells the other replicas what one has changed.
    fn tell(&self, from: usize, changes: &[Change]) {
        let followed = Followed { drop: changes.to_vec(), drop_all: false };
        for (i, replica) in self.replicas.iter().enumerate() {
            if i != from {
                replica.dispatch.follow(&followed);
            }
        }
    }

    fn fact(&self, name: &str) -> &str {
        self.facts.get(name).unwrap_or_else(|| panic!("nothing is known as `{name}`"))
    }

    fn filled(&self, request: &Value) -> Value {
        match request {
            Value::String(text) => match text.strip_prefix('$') {
                Some(name) => json!(self.fact(name)),
                None => request.clone(),
            },
            Value::Object(fields) => {
                fields.iter().map(|(name, value)| (name.clone(), self.filled(value))).collect()
            }
            Value::Array(items) => items.iter().map(|item| self.filled(item)).collect(),
            other => other.clone(),
        }
    }

    /// Waits until whatever the replicas asked of their hash threads is done: each has one, and takes its jobs in
    /// turn.
    fn settle(&self) {
        let runtime = tokio::runtime::Builder::new_current_thread().build().expect("a runtime");
        for world in &self.replicas {
            let hasher = &world.dispatch.ctx().hasher;
            runtime.block_on(hasher.strength(Secret::new("a"), "", "")).expect("a place in the queue");
        }
    }

    /// The credentials whose life is followed: of those whom races are about, and those handed out meanwhile.
    fn credentials(&self) -> impl Iterator<Item = (&String, &String)> {
        const KNOWN: &[&str] = &["admin-key", "second-key", "ann-key", "eve-key"];
        self.facts.iter().filter(|(name, _)| {
            let token = *name == "ann-jwt" || name.starts_with("jwt of");
            KNOWN.contains(&name.as_str()) || name.starts_with("key of") || (token && self.tokens)
        })
    }

    /// Which of the known credentials a replica takes for alive.
    async fn living(&self, replica: usize) -> BTreeMap<String, bool> {
        let mut living = BTreeMap::new();
        for (name, credential) in self.credentials() {
            let ask = service("authenticate", json!({ "credential": credential }));
            let (outcome, ..) = self.ask(replica, &ask).await;
            assert!(succeeded(&outcome) || outcome["error"] == "auth-failed", "{name}: {outcome}");
            living.insert(name.clone(), succeeded(&outcome));
        }
        living
    }

    async fn stored(&self) -> Stored {
        let store = &self.store;
        let workspaces = store.list_workspaces(None, ALL).await.expect("a list").items;
        Stored {
            users: store.list_users(None, None, ALL).await.expect("a list").items,
            workspaces: workspaces.into_iter().map(|w| (w.id.to_string(), w)).collect(),
            ring: store.key_ring().await.expect("a ring"),
        }
    }

    /// Looks at what is there now, and holds it against the laws.
    async fn take_down(&self, seen: &mut Observed, before: &Stored, changes: &[Change], died: bool) {
        let stored = self.stored().await;
        if let Err(error) = self.store.verify() {
            seen.faults.push(format!("records, claims and indexes differ: {error}"));
        }
        let seeded = self.store.seed_state().await.expect("a state");
        seen.faults.extend(laws::hold(before, &stored, seeded, changes, died));

        let mut living = BTreeMap::new();
        for (name, credential) in self.credentials() {
            living.insert(name.clone(), laws::lives(&*self.store, &stored, credential).await);
        }
        for (i, replica) in self.replicas.iter().enumerate() {
            if died {
                // The heartbeats of whoever died stay away, and then everything is dropped.
                replica.dispatch.forget_everything();
            }
            for (name, alive) in self.living(i).await {
                if living.get(&name) != Some(&alive) {
                    seen.faults.push(format!("`{name}` lives at replica {i}: {alive}, which is false"));
                }
            }
        }
        let users: Map<String, Value> = self.users(before, &stored).await.into_iter().collect();
        seen.picture = json!({
            "users": users,
            "workspaces": self.workspaces(&stored),
            "ring": self.ring(&stored),
            "seeded": format!("{seeded:?}"),
            "living": living,
        });
    }

    async fn users(&self, before: &Stored, stored: &Stored) -> BTreeMap<String, Value> {
        let mut users = BTreeMap::new();
        for user in &stored.users {
            let keys = self.store.list_api_keys(user.id, None, ALL).await.expect("a list").items;
            let keys = keys.iter().filter(|(key, _)| key.of_live_epoch(user));
            let home = stored.workspaces.get(user.workspace.as_str());
            let picture = json!({
                "workspace": user.workspace.to_string(),
                "on": [user.enabled, home.is_some_and(|home| user.effectively_enabled(home))],
                "name": [user.username.as_str(), user.name, user.email],
                "roles": user.roles.iter().map(|role| role.as_str()).collect::<Vec<_>>(),
                "version": user.version,
                "epochs": [user.workspace_epoch, user.key_epoch, user.token_epoch],
                "password": self.password(before, user),
                "must_change": [user.must_change_password, user.temporary_until.is_some()],
                "keys": keys.map(|(key, _)| key.name.as_str()).collect::<std::collections::BTreeSet<_>>(),
            });
            users.insert(user.username.as_str().to_owned(), picture);
        }
        users
    }

    /// Which of the passwords that anybody knows a user has.
    fn password(&self, before: &Stored, user: &User) -> String {
        let Some(stored) = &user.password else { return "none".to_owned() };
        if before.users.iter().any(|known| known.id == user.id && known.password == user.password) {
            return "as before".to_owned();
        }
        let stored = passwords::Stored::parse(stored).expect("a hash");
        let temporary = self.facts.iter().filter(|(name, _)| name.starts_with("temporary of"));
        let known = temporary.map(|(name, text)| (name.as_str(), text.as_str()));
        let mut known = known.chain([("new", NEW), ("other", OTHER)]);
        let fitting = known.find(|(_, text)| stored.matches(&Secret::new(*text)));
        fitting.map_or("unknown".to_owned(), |(name, _)| name.to_owned())
    }

    fn workspaces(&self, stored: &Stored) -> Map<String, Value> {
        let picture = |w: &iam_svc::domain::workspaces::Workspace| json!({ "name": w.name, "enabled": w.enabled, "epoch": w.epoch, "version": w.version });
        stored.workspaces.iter().map(|(id, workspace)| (id.clone(), picture(workspace))).collect()
    }

    fn ring(&self, stored: &Stored) -> Value {
        let Some(ring) = &stored.ring else { return Value::Null };
        let name = |kid: &str| {
            let known =
                ["active", "next"].into_iter().find(|name| self.facts.get(*name).is_some_and(|k| k == kid));
            known.unwrap_or("new")
        };
        let keys = ring.keys.iter().map(|key| {
            let state = match key.state {
                KeyState::Next => "next",
                KeyState::Active => "active",
                KeyState::Grace { .. } => "grace",
            };
            json!([name(key.kid.as_str()), state])
        });
        json!({ "version": ring.version, "keys": keys.collect::<Vec<_>>() })
    }
}

/// A reply without what differs from one time to the next: ids, secrets, what an error says to people.
fn lasting(response: &IamResponse) -> Value {
    if let Some(error) = &response.error {
        return json!({ "error": error.kind });
    }
    let mut reply = serde_json::to_value(response).expect("a reply");
    strip(&mut reply);
    reply
}

fn strip(value: &mut Value) {
    const PASSING: &[&str] = &[
        "id",
        "prefix",
        "jwt",
        "jwks_json",
        "signing_key_public",
        "api_key_plaintext",
        "temporary_password",
        "bootstrap_admin_user_id",
        "bootstrap_admin_api_key",
        "resolved_key_id",
    ];
    match value {
        Value::Object(fields) => {
            fields.retain(|name, _| !PASSING.contains(&name.as_str()));
            fields.values_mut().for_each(strip);
        }
        Value::Array(items) => items.iter_mut().for_each(strip),
        _ => {}
    }
}
