//! Change events, version floors, and the rules by which a consumer follows the events.
//!
//! Source: protocol section 8.

use std::collections::{BTreeSet, HashMap};
use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

use crate::time::Timestamp;

/// The version of a record that was deleted.
pub const DELETED: u64 = i64::MAX as u64;
/// Milliseconds between two heartbeats.
pub const HEARTBEAT_MS: i64 = 2_000;
/// How long a change is repeated in `recent`, in milliseconds.
pub const RECENT_MS: i64 = 6_000;
/// The most changes repeated in `recent`.
pub const MAX_RECENT: usize = 1_000;
/// Silence after which an instance counts as gone, in milliseconds: three heartbeats.
pub const SILENCE_MS: i64 = 3 * HEARTBEAT_MS;
/// How long the highest version seen of an id is remembered, in milliseconds.
pub const FLOOR_MS: i64 = 120_000;
/// The most floors in one `Iam-Min` header.
pub const MAX_FLOORS: usize = 64;

/// What kind of record changed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum ChangeKind {
    User,
    ApiKey,
    Workspace,
    SigningKey,
    /// A kind that this version of the contract does not know.
    #[serde(other)]
    Unknown,
}

impl ChangeKind {
    /// The kind as it stands on the wire.
    pub const fn as_str(self) -> &'static str {
        match self {
            ChangeKind::User => "user",
            ChangeKind::ApiKey => "api-key",
            ChangeKind::Workspace => "workspace",
            ChangeKind::SigningKey => "signing-key",
            ChangeKind::Unknown => "unknown",
        }
    }
}

/// One record that changed.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Change {
    pub kind: ChangeKind,
    pub id: String,
    /// The version that the record has now; [`DELETED`] if it is gone.
    pub version: u64,
}

/// A change of the last seconds, told again.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct RecentChange {
    pub seq: u64,
    pub kind: ChangeKind,
    pub id: String,
    pub version: u64,
}

/// A change event, or with empty `changes` a heartbeat.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct ChangeEvent {
    /// Which replica; a new one at each start.
    pub instance: String,
    /// When that replica started.
    #[serde(with = "crate::time::or_empty")]
    pub started: Option<Timestamp>,
    /// Counts the events that carry changes, from 1; a heartbeat has that of the last one.
    pub seq: u64,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub changes: Vec<Change>,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub recent: Vec<RecentChange>,
    /// The orderly end of this instance.
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    pub bye: bool,
}

/// What an answer must not be older than: the header `Iam-Min`.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Floors(Vec<Change>);

/// An `Iam-Min` header that cannot be read.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("must be at most {MAX_FLOORS} of kind:id=version, joined by commas")]
pub struct FloorsError;

impl Floors {
    /// The floors, in the order given.
    pub fn iter(&self) -> impl Iterator<Item = &Change> {
        self.0.iter()
    }

    /// Whether nothing is asked for.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }
}

impl FromIterator<Change> for Floors {
    fn from_iter<I: IntoIterator<Item = Change>>(floors: I) -> Self {
        Self(floors.into_iter().collect())
    }
}

impl FromStr for Floors {
    type Err = FloorsError;

    fn from_str(text: &str) -> Result<Self, FloorsError> {
        let mut floors = Vec::new();
        for part in text.split(',') {
            let (kind, rest) = part.trim().split_once(':').ok_or(FloorsError)?;
            let (id, version) = rest.rsplit_once('=').ok_or(FloorsError)?;
            let kind = match kind {
                "user" => ChangeKind::User,
                "api-key" => ChangeKind::ApiKey,
                "workspace" => ChangeKind::Workspace,
                "signing-key" => ChangeKind::SigningKey,
                _ => return Err(FloorsError),
            };
            let digits = !version.is_empty() && version.bytes().all(|b| b.is_ascii_digit());
            let version: u64 = version.parse().map_err(|_| FloorsError)?;
            if !digits || version > DELETED || id.is_empty() || id.len() > 128 || floors.len() == MAX_FLOORS {
                return Err(FloorsError);
            }
            floors.push(Change { kind, id: id.to_owned(), version });
        }
        Ok(Self(floors))
    }
}

impl fmt::Display for Floors {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (i, floor) in self.0.iter().enumerate() {
            let comma = if i == 0 { "" } else { "," };
            write!(f, "{comma}{}:{}={}", floor.kind.as_str(), floor.id, floor.version)?;
        }
        Ok(())
    }
}

/// The highest version seen of each id, remembered for at least [`FLOOR_MS`].
///
/// Two generations are kept and swapped, so that forgetting costs nothing per entry; an entry lives between
/// one and two spans.
#[derive(Debug, Default)]
pub struct Highest {
    now: HashMap<(ChangeKind, String), u64>,
    before: HashMap<(ChangeKind, String), u64>,
    swapped_ms: i64,
}

impl Highest {
    /// Takes note of a version; `now_ms` is any clock that does not run backwards.
    pub fn note(&mut self, kind: ChangeKind, id: &str, version: u64, now_ms: i64) {
        if now_ms - self.swapped_ms >= FLOOR_MS {
            self.before = std::mem::take(&mut self.now);
            self.swapped_ms = now_ms;
        }
        let known = self.now.entry((kind, id.to_owned())).or_default();
        *known = version.max(*known);
    }

    /// The highest version seen lately, 0 if none.
    pub fn get(&self, kind: ChangeKind, id: &str) -> u64 {
        if self.now.is_empty() && self.before.is_empty() {
            return 0;
        }
        let key = (kind, id.to_owned());
        let of = |map: &HashMap<_, u64>| map.get(&key).copied().unwrap_or_default();
        of(&self.now).max(of(&self.before))
    }
}

/// What a consumer must do about an event.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Followed {
    /// Records to drop, and floors to remember.
    pub drop: Vec<Change>,
    /// Something was missed, and nobody knows what: drop everything.
    pub drop_all: bool,
}

/// Follows the events of all instances on one connection, and notices what was missed.
///
/// It holds no cache and reads no clock: time comes in as milliseconds of a clock that does not run backwards.
#[derive(Debug, Default)]
pub struct Follower {
    instances: HashMap<String, Instance>,
    heard_any: bool,
}

#[derive(Debug)]
struct Instance {
    seq: u64,
    /// Events known to be lost and not yet told again.
    missing: BTreeSet<u64>,
    heard_ms: i64,
    /// Whether a heartbeat after the last reconnect showed that nothing was missed.
    settled: bool,
}

impl Follower {
    /// Takes an event in, in the order of the connection.
    pub fn event(&mut self, event: &ChangeEvent, now_ms: i64) -> Followed {
        let mut followed = Followed { drop: event.changes.clone(), drop_all: false };
        let heartbeat = event.changes.is_empty();
        self.heard_any |= heartbeat;
        let instance = self.instances.entry(event.instance.clone()).or_insert_with(|| Instance {
            seq: 0,
            missing: BTreeSet::new(),
            heard_ms: now_ms,
            settled: true,
        });
        instance.heard_ms = now_ms;
        if event.seq > instance.seq {
            let next = instance.seq + 1;
            let last_missing = if heartbeat { event.seq } else { event.seq - 1 };
            if last_missing.saturating_sub(next) > MAX_RECENT as u64 {
                instance.missing.clear();
                followed.drop_all = true;
            } else {
                instance.missing.extend(next..=last_missing);
            }
            instance.seq = event.seq;
        } else if !heartbeat {
            instance.missing.remove(&event.seq);
        }
        if heartbeat {
            for told in &event.recent {
                if instance.missing.remove(&told.seq) {
                    // An event may hold several changes; all of them carry its number.
                    followed.drop.extend(event.recent.iter().filter(|r| r.seq == told.seq).map(|r| Change {
                        kind: r.kind,
                        id: r.id.clone(),
                        version: r.version,
                    }));
                }
            }
            followed.drop_all |= !instance.missing.is_empty();
            instance.missing.clear();
            instance.settled = true;
        }
        if event.bye {
            // Nothing more will tell what was missed, so what is missing now stays so.
            followed.drop_all |= !instance.missing.is_empty();
            self.instances.remove(&event.instance);
        }
        followed
    }

    /// Looks for instances that fell silent without a `bye`; whether everything must be dropped.
    pub fn tick(&mut self, now_ms: i64) -> bool {
        let before = self.instances.len();
        self.instances.retain(|_, instance| now_ms - instance.heard_ms < SILENCE_MS);
        self.instances.len() < before
    }

    /// From when on the first of the known instances counts as gone, if nothing more is heard of it.
    pub fn silent_from(&self) -> Option<i64> {
        self.instances.values().map(|instance| instance.heard_ms + SILENCE_MS).min()
    }

    /// The connection was cut and stands again: nothing cached may be used until [`Follower::settled`].
    pub fn reconnected(&mut self) {
        for instance in self.instances.values_mut() {
            instance.settled = false;
        }
    }

    /// Whether every known instance's heartbeat has shown that nothing was missed.
    pub fn settled(&self) -> bool {
        self.instances.values().all(|instance| instance.settled)
    }

    /// Whether any heartbeat was ever heard.
    pub fn heard_any(&self) -> bool {
        self.heard_any
    }

    /// How many instances are alive, so far as is known.
    pub fn instances(&self) -> usize {
        self.instances.len()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn change(id: &str) -> Change {
        Change { kind: ChangeKind::User, id: id.into(), version: 2 }
    }

    fn event(seq: u64, id: &str) -> ChangeEvent {
        ChangeEvent { instance: "a".into(), seq, changes: vec![change(id)], ..Default::default() }
    }

    fn heartbeat(seq: u64, recent: &[(u64, &str)]) -> ChangeEvent {
        let recent = recent.iter().map(|(seq, id)| RecentChange {
            seq: *seq,
            kind: ChangeKind::User,
            id: (*id).into(),
            version: 2,
        });
        ChangeEvent { instance: "a".into(), seq, recent: recent.collect(), ..Default::default() }
    }

    #[test]
    fn lost_event_is_healed_by_recent() {
        let mut follower = Follower::default();
        assert_eq!(follower.event(&event(1, "u1"), 0).drop, [change("u1")]);
        assert!(!follower.event(&event(3, "u3"), 1).drop_all);
        let healed = follower.event(&heartbeat(3, &[(1, "u1"), (2, "u2"), (3, "u3")]), 2);
        assert_eq!(healed, Followed { drop: vec![change("u2")], drop_all: false });
    }

    #[test]
    fn silence_is_told_ahead_to_the_millisecond() {
        let mut follower = Follower::default();
        assert_eq!(follower.silent_from(), None);
        follower.event(&heartbeat(0, &[]), 5);
        follower.event(&ChangeEvent { instance: "b".into(), ..heartbeat(0, &[]) }, 7);
        let from = follower.silent_from().unwrap();
        assert!(!follower.tick(from - 1) && follower.tick(from));
        assert_eq!(follower.silent_from(), Some(from + 2));
    }

    #[test]
    fn every_change_of_a_lost_event_is_dropped() {
        let mut follower = Follower::default();
        let healed = follower.event(&heartbeat(1, &[(1, "u1"), (1, "u2")]), 0);
        assert_eq!(healed, Followed { drop: vec![change("u1"), change("u2")], drop_all: false });
    }

    #[test]
    fn gap_that_recent_does_not_heal_drops_everything() {
        let mut follower = Follower::default();
        follower.event(&heartbeat(0, &[]), 0);
        assert!(follower.event(&heartbeat(2, &[(2, "u2")]), 1).drop_all);
        assert!(!follower.event(&heartbeat(2, &[(2, "u2")]), 2).drop_all, "told once, done once");
        assert!(follower.event(&heartbeat(5_000, &[]), 3).drop_all);
    }

    #[test]
    fn silence_drops_everything_but_bye_does_not() {
        let mut follower = Follower::default();
        follower.event(&heartbeat(0, &[]), 0);
        assert!(!follower.tick(SILENCE_MS - 1));
        assert!(follower.tick(SILENCE_MS));
        assert!(!follower.tick(SILENCE_MS + 1));

        follower.event(&heartbeat(0, &[]), 0);
        follower.event(&ChangeEvent { instance: "a".into(), bye: true, ..Default::default() }, 1);
        assert!(!follower.tick(SILENCE_MS * 2));
    }

    #[test]
    fn goodbye_tells_of_what_was_lost_before_it() {
        let mut follower = Follower::default();
        follower.event(&event(1, "u1"), 0);
        let healed = follower.event(&ChangeEvent { bye: true, ..heartbeat(2, &[(2, "u2")]) }, 1);
        assert_eq!(healed, Followed { drop: vec![change("u2")], drop_all: false });

        follower.event(&event(1, "u1"), 2);
        assert!(follower.event(&ChangeEvent { bye: true, ..heartbeat(3, &[]) }, 3).drop_all);
        assert_eq!(follower.instances(), 0);
    }

    #[test]
    fn reconnect_settles_with_the_next_heartbeat() {
        let mut follower = Follower::default();
        follower.event(&heartbeat(1, &[(1, "u")]), 0);
        follower.reconnected();
        assert!(!follower.settled());
        follower.event(&event(2, "v"), 1);
        assert!(!follower.settled(), "an event alone does not show what came before it");
        follower.event(&heartbeat(2, &[(2, "v")]), 2);
        assert!(follower.settled());
    }

    #[test]
    fn floors_read_what_they_write() {
        let text = "user:01a0ce87-ea1a-7bb6-ae10-295948688e1d=7,workspace:acme=9223372036854775807";
        assert_eq!(text.parse::<Floors>().unwrap().to_string(), text);
        for bad in [
            "",
            "user",
            "user:=1",
            "user:a",
            "user:a=",
            "user:a=-1",
            "user:a=+1",
            "x:a=1",
            "user:a=9223372036854775808",
        ] {
            assert!(bad.parse::<Floors>().is_err(), "{bad:?}");
        }
    }

    #[test]
    fn highest_forgets_after_its_span_and_not_before() {
        let mut highest = Highest::default();
        highest.note(ChangeKind::User, "a", 7, 0);
        highest.note(ChangeKind::User, "a", 3, 10);
        assert_eq!(highest.get(ChangeKind::User, "a"), 7);
        highest.note(ChangeKind::User, "b", 1, FLOOR_MS);
        assert_eq!(highest.get(ChangeKind::User, "a"), 7);
        highest.note(ChangeKind::User, "b", 1, 2 * FLOOR_MS);
        assert_eq!(highest.get(ChangeKind::User, "a"), 0);
    }
}
