//! What there is: users, workspaces, keys, tokens and the ring of signing keys, each with its past.

use std::cell::RefCell;
use std::collections::{BTreeMap, BTreeSet};

use iam_schema::Timestamp;
use serde_json::{Value, json};

use super::policy;

/// The ids that workspaces are given; the first is made by the seeding.
pub const PLACES: &[&str] = &["default", "acme", "beta", "gamma"];

/// How long a cached answer lives at most, in milliseconds; an absence lives shorter.
const TTL_MS: i64 = 60_000;
const ABSENT_TTL_MS: i64 = 5_000;

/// A record of which replicas may know late.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Rec {
    User(usize),
    Workspace(&'static str),
    Key(usize),
    Kid(usize),
}

/// A record with its past: each version with when it came to be, in milliseconds.
#[derive(Debug, Clone)]
pub struct Track<T> {
    versions: Vec<(i64, T)>,
}

impl<T> Track<T> {
    pub fn new(now_ms: i64, first: T) -> Self {
        Self { versions: vec![(now_ms, first)] }
    }

    pub fn now(&self) -> &T {
        &self.versions[self.last()].1
    }

    pub fn at(&self, index: usize) -> &T {
        &self.versions[index].1
    }

    /// The index of the present version.
    pub fn last(&self) -> usize {
        self.versions.len() - 1
    }

    /// Fills in what only the reply told.
    pub fn bind(&mut self, fill: impl FnOnce(&mut T)) {
        let last = self.last();
        fill(&mut self.versions[last].1);
    }

    fn push(&mut self, now_ms: i64, next: T) {
        self.versions.push((now_ms, next));
    }

    /// The versions that may still be remembered by somebody who must know of `floor`, the present one first.
    fn visible(&self, floor: usize, now_ms: i64, ttl_ms: impl Fn(&T) -> i64) -> Vec<usize> {
        let remembered = |&index: &usize| {
            let superseded = self.versions.get(index + 1).map(|(at, _)| *at);
            superseded.is_none_or(|at| now_ms - at < ttl_ms(self.at(index)))
        };
        (floor.min(self.last())..=self.last()).rev().filter(remembered).collect()
    }
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct User {
    pub username: String,
    pub home: &'static str,
    pub name: String,
    pub email: String,
    pub roles: BTreeSet<String>,
    pub enabled: bool,
    pub must_change: bool,
    pub password: Option<String>,
    /// When a temporary password stops working.
    pub temporary_until: Option<i64>,
    pub token_epoch: u64,
    pub key_epoch: u64,
    /// How often the home workspace had been disabled when this user was last enabled in it.
    pub disablings: u64,
    pub created: i64,
    pub version: u64,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Workspace {
    pub name: String,
    pub enabled: bool,
    pub disablings: u64,
    pub created: i64,
    pub version: u64,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Key {
    pub owner: usize,
    pub name: String,
    pub epoch: u64,
    pub expires: Option<i64>,
    pub created: i64,
}

#[derive(Debug, Clone)]
pub struct Token {
    pub text: String,
    pub user: usize,
    pub place: &'static str,
    pub epoch: u64,
    pub expires: i64,
    pub kid: usize,
    /// Good for changing the password alone.
    pub limited: bool,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum KidState {
    Next,
    Active,
    Grace { until: i64 },
    Gone,
}

/// A list that somebody reads page by page.
#[derive(Debug, Clone)]
pub struct Listing {
    /// The operation and what it lists of.
    pub of: (&'static str, String),
    /// Where the next page begins; empty at the end.
    pub token: String,
    pub shown: BTreeSet<String>,
    /// What was there when it began.
    pub throughout: BTreeSet<String>,
}

/// Everything.
#[derive(Debug, Clone)]
pub struct State {
    pub now_ms: i64,
    pub users: Vec<Track<Option<User>>>,
    pub user_ids: Vec<String>,
    pub workspaces: BTreeMap<&'static str, Track<Option<Workspace>>>,
    pub keys: Vec<Track<Option<Key>>>,
    pub key_ids: Vec<String>,
    pub key_texts: Vec<String>,
    /// When each key was used.
    pub key_uses: Vec<BTreeSet<i64>>,
    /// What a listing must at least show as last use.
    pub key_used: Vec<Option<i64>>,
    pub tokens: Vec<Token>,
    pub kids: Vec<Track<KidState>>,
    /// What is known of each signing key from outside: its kid and its `x`.
    pub kid_texts: Vec<Option<String>>,
    pub kid_points: Vec<Option<String>>,
    pub listings: Vec<Listing>,
    /// Whether `bootstrap` may seed.
    pub by_operation: bool,
    pub anonymous: Option<&'static str>,
    /// What the last request changed, in order.
    pub changed: Vec<Rec>,
}

/// What a replica may believe: of some records a version of the past.
#[derive(Debug, Default)]
pub struct View {
    pub past: BTreeMap<Rec, usize>,
    /// What was looked at.
    pub touched: RefCell<BTreeSet<Rec>>,
}

impl View {
    fn of(&self, rec: Rec) -> Option<usize> {
        self.touched.borrow_mut().insert(rec);
        self.past.get(&rec).copied()
    }
}

impl State {
    /// Before the seeding.
    pub fn new(now_ms: i64, by_operation: bool, anonymous: Option<&'static str>) -> Self {
        Self {
            now_ms,
            users: Vec::new(),
            user_ids: Vec::new(),
            workspaces: PLACES.iter().map(|&place| (place, Track::new(now_ms, None))).collect(),
            keys: Vec::new(),
            key_ids: Vec::new(),
            key_texts: Vec::new(),
            key_uses: Vec::new(),
            key_used: Vec::new(),
            tokens: Vec::new(),
            kids: Vec::new(),
            kid_texts: Vec::new(),
            kid_points: Vec::new(),
            listings: Vec::new(),
            by_operation,
            anonymous,
            changed: Vec::new(),
        }
    }

    pub fn user(&self, index: usize) -> Option<&User> {
        self.users.get(index)?.now().as_ref()
    }

    pub fn workspace(&self, id: &str) -> Option<&Workspace> {
        self.workspaces.get(id)?.now().as_ref()
    }

    pub fn key(&self, index: usize) -> Option<&Key> {
        self.keys.get(index)?.now().as_ref()
    }

    /// A user as a replica may believe.
    pub fn seen_user(&self, view: &View, index: usize) -> Option<&User> {
        let track = self.users.get(index)?;
        view.of(Rec::User(index)).map_or_else(|| track.now(), |past| track.at(past)).as_ref()
    }

    pub fn seen_workspace(&self, view: &View, id: &'static str) -> Option<&Workspace> {
        let track = self.workspaces.get(id)?;
        view.of(Rec::Workspace(id)).map_or_else(|| track.now(), |past| track.at(past)).as_ref()
    }

    pub fn seen_key(&self, view: &View, index: usize) -> Option<&Key> {
        let track = self.keys.get(index)?;
        view.of(Rec::Key(index)).map_or_else(|| track.now(), |past| track.at(past)).as_ref()
    }

    pub fn seen_kid(&self, view: &View, index: usize) -> KidState {
        let track = &self.kids[index];
        *view.of(Rec::Kid(index)).map_or_else(|| track.now(), |past| track.at(past))
    }

    /// The user who has a name, in any case.
    pub fn named(&self, name: &str) -> Option<usize> {
        (0..self.users.len())
            .find(|&index| self.user(index).is_some_and(|user| user.username.eq_ignore_ascii_case(name)))
    }

    /// Effectively enabled, as it really is.
    pub fn live(&self, user: &User) -> bool {
        enabled_in(user, self.workspace(user.home))
    }

    /// The key that works or would, were it not for its end: its owner has not lost it with all the others.
    pub fn kept_key(&self, index: usize) -> Option<&Key> {
        let key = self.key(index)?;
        let owner = self.user(key.owner)?;
        let home = self.workspace(owner.home)?;
        (key.epoch == owner.key_epoch && owner.disablings == home.disablings).then_some(key)
    }

    pub fn set_user(&mut self, index: usize, change: impl FnOnce(&mut User)) {
        let mut user = self.users[index].now().clone().expect("a user who is there");
        change(&mut user);
        user.version += 1;
        self.users[index].push(self.now_ms, Some(user));
        self.changed.push(Rec::User(index));
    }

    pub fn remove_user(&mut self, index: usize) {
        self.users[index].push(self.now_ms, None);
        self.changed.push(Rec::User(index));
    }

    pub fn add_user(&mut self, user: User) -> usize {
        let index = self.users.len();
        self.users.push(Track::new(self.now_ms, Some(user)));
        self.user_ids.push(String::new());
        self.changed.push(Rec::User(index));
        index
    }

    pub fn set_workspace(&mut self, id: &'static str, next: Workspace) {
        let now_ms = self.now_ms;
        self.workspaces.entry(id).or_insert_with(|| Track::new(now_ms, None)).push(now_ms, Some(next));
        self.changed.push(Rec::Workspace(id));
    }

    pub fn add_key(&mut self, key: Key) -> usize {
        let index = self.keys.len();
        self.keys.push(Track::new(self.now_ms, Some(key)));
        self.key_ids.push(String::new());
        self.key_texts.push(String::new());
        self.key_uses.push(BTreeSet::new());
        self.key_used.push(None);
        self.changed.push(Rec::Key(index));
        index
    }

    pub fn remove_key(&mut self, index: usize) {
        self.keys[index].push(self.now_ms, None);
        self.changed.push(Rec::Key(index));
    }

    pub fn add_kid(&mut self, state: KidState) {
        self.kids.push(Track::new(self.now_ms, state));
        self.kid_texts.push(None);
        self.kid_points.push(None);
        self.changed.push(Rec::Kid(self.kids.len() - 1));
    }

    pub fn set_kid(&mut self, index: usize, state: KidState) {
        self.kids[index].push(self.now_ms, state);
        self.changed.push(Rec::Kid(index));
    }

    /// The keys of the ring that verify, or are about to.
    pub fn published(&self) -> Vec<usize> {
        let published = |&index: &usize| match *self.kids[index].now() {
            KidState::Next | KidState::Active => true,
            KidState::Grace { until } => self.now_ms < until,
            KidState::Gone => false,
        };
        (0..self.kids.len()).filter(published).collect()
    }

    pub fn active_kid(&self) -> Option<usize> {
        (0..self.kids.len()).find(|&index| *self.kids[index].now() == KidState::Active)
    }

    /// The index of a record's present version.
    pub fn last(&self, rec: Rec) -> usize {
        match rec {
            Rec::User(index) => self.users[index].last(),
            Rec::Workspace(id) => self.workspaces[id].last(),
            Rec::Key(index) => self.keys[index].last(),
            Rec::Kid(index) => self.kids[index].last(),
        }
    }

    /// The versions of a record that a replica may go by which must know of `floor`, the present one first.
    pub fn visible(&self, rec: Rec, floor: usize) -> Vec<usize> {
        fn ttl<T>(value: &Option<T>) -> i64 {
            if value.is_some() { TTL_MS } else { ABSENT_TTL_MS }
        }
        let now_ms = self.now_ms;
        match rec {
            Rec::User(index) => self.users[index].visible(floor, now_ms, ttl),
            Rec::Workspace(id) => self.workspaces[id].visible(floor, now_ms, ttl),
            Rec::Key(index) => self.keys[index].visible(floor, now_ms, ttl),
            Rec::Kid(index) => self.kids[index].visible(floor, now_ms, |_| TTL_MS),
        }
    }

    /// Every record.
    pub fn records(&self) -> Vec<Rec> {
        let users = (0..self.users.len()).map(Rec::User);
        let places = self.workspaces.keys().map(|&id| Rec::Workspace(id));
        let keys = (0..self.keys.len()).map(Rec::Key);
        users.chain(places).chain(keys).chain((0..self.kids.len()).map(Rec::Kid)).collect()
    }

    /// How a record is named in events and floors: kind, id, version. The greatest version is that of one that is
    /// gone.
    pub fn change(&self, rec: Rec) -> (&'static str, String, u64) {
        const GONE: u64 = 9_223_372_036_854_775_807;
        match rec {
            Rec::User(i) => {
                ("user", self.user_ids[i].clone(), self.user(i).map_or(GONE, |user| user.version))
            }
            Rec::Workspace(id) => ("workspace", id.to_owned(), self.workspace(id).map_or(0, |w| w.version)),
            Rec::Key(i) => ("api-key", self.key_ids[i].clone(), if self.key(i).is_some() { 1 } else { GONE }),
            Rec::Kid(i) => {
                let gone = *self.kids[i].now() == KidState::Gone;
                ("signing-key", self.kid_texts[i].clone().unwrap_or_default(), if gone { GONE } else { 1 })
            }
        }
    }

    pub fn user_record(&self, index: usize) -> Value {
        let user = self.user(index).expect("a user who is there");
        written(json!({
            "id": if self.user_ids[index].is_empty() { "$user" } else { &self.user_ids[index] },
            "workspace": user.home,
            "username": user.username,
            "name": user.name,
            "email": user.email,
            "roles": user.roles,
            "enabled": self.live(user),
            "must_change_password": user.must_change,
            "created": time(user.created),
            "version": user.version,
        }))
    }

    pub fn workspace_record(&self, id: &str) -> Value {
        let workspace = self.workspace(id).expect("a workspace that is there");
        written(json!({
            "id": id,
            "name": workspace.name,
            "enabled": workspace.enabled,
            "created": time(workspace.created),
            "version": workspace.version,
        }))
    }

    pub fn key_record(&self, index: usize) -> Value {
        let key = self.key(index).expect("a key that is there");
        let fresh = self.key_ids[index].is_empty();
        written(json!({
            "id": if fresh { "$key" } else { &self.key_ids[index] },
            "user_id": self.user_ids[key.owner],
            "name": key.name,
            "prefix": if fresh { "$prefix" } else { &self.key_texts[index][..7] },
            "expires": key.expires.map(time),
            "created": time(key.created),
        }))
    }
}

/// Enabled, in an enabled workspace, and not left disabled by its last disabling.
pub fn enabled_in(user: &User, home: Option<&Workspace>) -> bool {
    user.enabled && home.is_some_and(|home| home.enabled && home.disablings == user.disablings)
}

/// Whether a user has a capability at all, in whatever scope.
pub fn holds(user: &User, capability: &str) -> bool {
    grants(user, capability).next().is_some()
}

/// Whether a user has a capability for the deployment as a whole.
pub fn holds_everywhere(user: &User, capability: &str) -> bool {
    grants(user, capability).any(|everywhere| everywhere)
}

/// Whether a user has a capability in a workspace.
pub fn holds_in(user: &User, capability: &str, place: &str) -> bool {
    grants(user, capability).any(|everywhere| everywhere || user.home == place)
}

/// The scopes in which a user's roles have a capability: whether each is `*`.
fn grants(user: &User, capability: &str) -> impl Iterator<Item = bool> {
    let roles = user.roles.iter().filter_map(|name| policy::role(name));
    roles.filter(move |role| role.capabilities.contains(capability)).map(|role| role.everywhere)
}

/// Whether some role of a user has scope `*`.
pub fn acts_everywhere(user: &User) -> bool {
    user.roles.iter().filter_map(|name| policy::role(name)).any(|role| role.everywhere)
}

/// Whether a user holds all that these roles would give somebody at home there, in the same scope or a wider one.
pub fn dominates(user: &User, roles: &BTreeSet<String>, home: &str) -> bool {
    roles.iter().filter_map(|name| policy::role(name)).all(|role| {
        role.capabilities.iter().all(|capability| match role.everywhere {
            true => holds_everywhere(user, capability),
            false => holds_in(user, capability, home),
        })
    })
}

/// A record as it is written: without what is at its default.
pub fn written(record: Value) -> Value {
    let Value::Object(fields) = record else { return record };
    let at_default = |value: &Value| match value {
        Value::Null | Value::Bool(false) => true,
        Value::String(text) => text.is_empty(),
        Value::Array(list) => list.is_empty(),
        Value::Number(number) => number.as_u64() == Some(0),
        Value::Bool(true) | Value::Object(_) => false,
    };
    Value::Object(fields.into_iter().filter(|(_, value)| !at_default(value)).collect())
}

/// A time as it is written.
pub fn time(ms: i64) -> String {
    Timestamp::from_millis(ms).to_string()
}
