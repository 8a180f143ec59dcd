//! What a gateway remembers, and what makes it forget.
//!
//! Each record that answers rest on has a counter, which a change event of it raises. An answer holds on to the sum of
//! the counters of what it rests on, read before the question was asked: while the sum is the same, none of them has
//! changed, and else the answer is worth nothing, in memory or on its way. So there is no race between an answer that
//! is filled in and an event that overtakes it.
//!
//! What an answer turns out to rest on, such as the owner of a key, has no sum from before the question: there the
//! floors tell whether it was changed lately, and it is asked again with them.
//!
//! Source: protocol section 8.

use std::hash::{BuildHasher, BuildHasherDefault, DefaultHasher};
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Arc, PoisonError, RwLock};

use iam_schema::UserId;
use iam_schema::changes::{Change, ChangeKind, DELETED, Floors, Highest, MAX_FLOORS};
use quick_cache::sync::Cache as Bounded;
use smallvec::{SmallVec, smallvec};

use super::decided::{DecisionKey, Decisions, Known, Matter, Ruling};
use crate::sessions::Identity;

/// The SHA-256 of a credential's text: memory holds no credential.
pub(super) type CredentialHash = [u8; 32];

/// How many counters there are. Records share them by hash: a change ends answers of others too, one of some 65,000,
/// and never too few.
const COUNTERS: u32 = 1 << 18;

/// The counter of what has no name: raised when everything is dropped.
const EVERYTHING: u32 = 0;

/// What an answer may rest on.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub(super) enum Rest {
    Record(ChangeKind, String),
    /// Every workspace: for a user whose home is not known.
    AnyWorkspace,
    /// That a credential is unknown.
    Absence,
}

impl Rest {
    pub fn user(id: UserId) -> Self {
        Rest::Record(ChangeKind::User, id.to_string())
    }

    pub fn workspace(id: impl ToString) -> Self {
        Rest::Record(ChangeKind::Workspace, id.to_string())
    }

    /// Which counter is its: the same in every run, so that a run can be repeated.
    fn counter(&self) -> u32 {
        let hash = BuildHasherDefault::<DefaultHasher>::default().hash_one(self);
        u32::try_from(hash % u64::from(COUNTERS)).unwrap_or(EVERYTHING)
    }
}

/// How often each record was changed.
#[derive(Debug)]
struct Counters(Box<[AtomicU32]>);

impl Default for Counters {
    fn default() -> Self {
        Self((0..COUNTERS).map(|_| AtomicU32::new(0)).collect())
    }
}

impl Counters {
    fn at(&self, number: u32) -> Option<&AtomicU32> {
        self.0.get(usize::try_from(number).ok()?)
    }

    fn raise(&self, number: u32) {
        if let Some(counter) = self.at(number) {
            counter.fetch_add(1, Ordering::AcqRel);
        }
    }

    fn sum(&self, numbers: &[u32]) -> u32 {
        let counts = numbers.iter().filter_map(|number| self.at(*number));
        counts.fold(0, |sum, counter| sum.wrapping_add(counter.load(Ordering::Acquire)))
    }
}

/// What an answer rests on, as it was before the question was asked.
#[derive(Debug)]
pub(super) struct Asked {
    counters: SmallVec<[u32; 5]>,
    sum: u32,
}

/// An answer with what it rests on.
#[derive(Debug)]
pub(super) struct Kept<T> {
    pub value: T,
    /// Good until then, in milliseconds of the monotonic clock.
    pub until_ms: i64,
    rests_on: Asked,
}

/// Answers, bounded in number and in age.
#[derive(Debug)]
pub(super) struct Memory {
    identities: Bounded<CredentialHash, Arc<Kept<Arc<Identity>>>>,
    /// Credentials that are not good, apart from those that are: random ones push nothing out.
    refused: Bounded<CredentialHash, Arc<Kept<()>>>,
    decisions: Decisions,
    changes: Counters,
    highest: RwLock<Highest>,
}

impl Memory {
    pub fn new(identities: usize, decisions: usize) -> Self {
        Self {
            identities: Bounded::new(identities),
            refused: Bounded::new((identities / 10).max(1)),
            decisions: Decisions::new(decisions),
            changes: Counters::default(),
            highest: RwLock::default(),
        }
    }

    /// Before a question is asked: takes hold of what the answer is known to rest on.
    pub fn asking<'r>(&self, rests: impl IntoIterator<Item = &'r Rest>) -> Asked {
        self.asking_too(
            Asked { sum: self.changes.sum(&[EVERYTHING]), counters: smallvec![EVERYTHING] },
            rests,
        )
    }

    /// Takes hold of what the answer has shown besides. An event that came before is seen by the floors alone.
    pub fn asking_too<'r>(&self, mut asked: Asked, rests: impl IntoIterator<Item = &'r Rest>) -> Asked {
        for counter in rests.into_iter().map(Rest::counter) {
            asked.sum = asked.sum.wrapping_add(self.changes.sum(&[counter]));
            asked.counters.push(counter);
        }
        asked
    }

    /// What an answer about these records must not be older than.
    pub fn floors<'r>(&self, rests: impl IntoIterator<Item = &'r Rest>) -> Floors {
        let highest = self.highest.read().unwrap_or_else(PoisonError::into_inner);
        let floor = |rest: &Rest| {
            let Rest::Record(kind, id) = rest else { return None };
            let version = highest.get(*kind, id);
            (version > 0).then(|| Change { kind: *kind, id: id.clone(), version })
        };
        rests.into_iter().filter_map(floor).take(MAX_FLOORS).collect()
    }

    /// Whether something was changed lately of which the question did not say so.
    pub fn behind<'r>(&self, sent: &Floors, rests: impl IntoIterator<Item = &'r Rest>) -> bool {
        let sent = |floor: &Change| sent.iter().find(|s| (s.kind, &s.id) == (floor.kind, &floor.id));
        let due = self.floors(rests);
        due.iter().any(|floor| sent(floor).is_none_or(|sent| sent.version < floor.version))
    }

    /// An answer, unless it was overtaken by a change.
    pub fn keep<T>(&self, asked: Asked, value: T, until_ms: i64) -> Option<Kept<T>> {
        self.stands(&asked).then_some(Kept { value, until_ms, rests_on: asked })
    }

    /// Whether nothing has changed of what was taken hold of.
    pub fn stands(&self, asked: &Asked) -> bool {
        self.changes.sum(&asked.counters) == asked.sum
    }

    fn is_good<T>(&self, kept: &Kept<T>, now_ms: i64) -> bool {
        now_ms < kept.until_ms && self.stands(&kept.rests_on)
    }

    /// Whose credential this is, if that is known at this time.
    pub fn identity(&self, hash: &CredentialHash, now_ms: i64) -> Option<Arc<Identity>> {
        let known = self.identities.get(hash).filter(|kept| self.is_good(kept, now_ms))?;
        Some(known.value.clone())
    }

    /// Whether a credential is known not to be good at this time.
    pub fn is_refused(&self, hash: &CredentialHash, now_ms: i64) -> bool {
        self.refused.get(hash).is_some_and(|kept| self.is_good(&kept, now_ms))
    }

    /// What is known to be decided at this time; counts the use.
    pub fn decided(&self, key: &DecisionKey, now_ms: i64) -> Option<Known> {
        self.decisions.look(key, |kept| self.is_good(kept, now_ms))
    }

    pub fn put_identity(&self, hash: CredentialHash, kept: Kept<Arc<Identity>>) {
        self.identities.insert(hash, Arc::new(kept));
    }

    pub fn put_refused(&self, hash: CredentialHash, kept: Kept<()>) {
        self.refused.insert(hash, Arc::new(kept));
    }

    /// Remembers what was decided; uses of what gives way to it are `told`.
    pub fn put_decision(
        &self,
        key: DecisionKey,
        kept: Kept<Ruling>,
        now_ms: i64,
        told: impl FnOnce(&Matter, u32),
    ) {
        self.decisions.insert(key, kept, |other| self.is_good(other, now_ms), told);
    }

    /// Where the uses of decisions are counted.
    pub fn decisions(&self) -> &Decisions {
        &self.decisions
    }

    /// Whether the key or the user that a credential stood for was deleted: neither comes back, so that nobody has to
    /// be asked.
    pub fn is_gone(&self, hash: &CredentialHash) -> bool {
        let Some(kept) = self.identities.get(hash) else { return false };
        let highest = self.highest.read().unwrap_or_else(PoisonError::into_inner);
        let identity = &kept.value;
        let key = identity.key_id.map(|id| highest.get(ChangeKind::ApiKey, &id.to_string()));
        let user = highest.get(ChangeKind::User, &identity.user_id.to_string());
        key == Some(DELETED) || user == DELETED
    }

    /// Takes changes in. Versions come first: whoever took hold of a record after its counter was raised sees them.
    pub fn changed(&self, changes: &[Change], now_ms: i64) {
        for change in changes {
            self.highest.write().unwrap_or_else(PoisonError::into_inner).note(
                change.kind,
                &change.id,
                change.version,
                now_ms,
            );
            self.changes.raise(Rest::Record(change.kind, change.id.clone()).counter());
            match change.kind {
                ChangeKind::Workspace => self.changes.raise(Rest::AnyWorkspace.counter()),
                // A bootstrap token is known before it is a key.
                ChangeKind::ApiKey | ChangeKind::SigningKey => self.changes.raise(Rest::Absence.counter()),
                ChangeKind::User => {}
                ChangeKind::Unknown => self.forget(),
            }
        }
    }

    /// Drops everything. Decisions give way to others as they come.
    pub fn forget(&self) {
        self.changes.raise(EVERYTHING);
        self.identities.clear();
        self.refused.clear();
    }
}
