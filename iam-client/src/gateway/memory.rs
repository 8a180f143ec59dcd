//! What a gateway remembers, and what makes it forget.
//!
//! An answer holds on to an [`Anchor`] for each record that it rests on. The anchors are taken before the question is
//! asked; a change event ends the anchor of what it names, and an answer with an ended anchor is worth nothing, in
//! memory or on its way. So there is no race between an answer that is filled in and an event that overtakes it.
//!
//! What an answer turns out to rest on, such as the owner of a key, has no anchor from before the question: there the
//! floors tell whether it was changed lately, and it is asked again with them.
//!
//! Source: protocol section 8.

use std::collections::HashMap;
use std::hash::Hash;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError, RwLock, Weak};

use iam_schema::UserId;
use iam_schema::changes::{Change, ChangeKind, DELETED, Floors, Highest, MAX_FLOORS};
use quick_cache::Equivalent;
use quick_cache::sync::Cache as Bounded;
use smallvec::SmallVec;

use super::question::Question;
use super::rulings::Tally;
use crate::sessions::Identity;

/// The SHA-256 of a credential's text: memory holds no credential.
pub(super) type CredentialHash = [u8; 32];

/// A record that answers rest on, from one change of it to the next.
#[derive(Debug, Default)]
struct Anchor {
    ended: AtomicBool,
}

type Anchors = SmallVec<[Arc<Anchor>; 4]>;

/// What an anchor stands for.
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
}

/// The anchors that answers hold on to. One that nobody holds is forgotten when its turn comes.
#[derive(Debug, Default)]
struct Register {
    held: HashMap<Rest, Weak<Anchor>>,
    /// How many there were after the last clearing up.
    kept: usize,
}

impl Register {
    fn take(&mut self, rest: Rest) -> Arc<Anchor> {
        if self.held.len() > 2 * self.kept + 1_000 {
            self.held.retain(|_, anchor| anchor.strong_count() > 0);
            self.kept = self.held.len();
        }
        let known = self.held.get(&rest).and_then(Weak::upgrade);
        known.unwrap_or_else(|| {
            let anchor = Arc::new(Anchor::default());
            self.held.insert(rest, Arc::downgrade(&anchor));
            anchor
        })
    }

    fn end(&mut self, rest: &Rest) {
        if let Some(anchor) = self.held.remove(rest).and_then(|anchor| anchor.upgrade()) {
            anchor.ended.store(true, Ordering::Release);
        }
    }
}

/// An answer with what it rests on.
#[derive(Debug)]
pub(super) struct Kept<T> {
    pub value: T,
    /// Good until then, in milliseconds of the monotonic clock.
    pub until_ms: i64,
    era: u64,
    anchors: Anchors,
}

/// What is known before a question is asked.
#[derive(Debug)]
pub(super) struct Asked {
    era: u64,
    anchors: Anchors,
}

/// What was decided.
#[derive(Debug)]
pub(super) enum Ruling {
    /// With where its uses are counted.
    Allow(Arc<Tally>),
    Deny,
}

/// A decision about a user, as long as nothing that it rests on changes.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub(super) struct DecisionKey {
    pub user: UserId,
    pub question: Question,
}

/// The same, borrowed.
#[derive(Debug, Hash)]
pub(super) struct About<'q> {
    pub user: UserId,
    pub question: &'q Question,
}

impl Equivalent<DecisionKey> for About<'_> {
    fn equivalent(&self, key: &DecisionKey) -> bool {
        self.user == key.user && *self.question == key.question
    }
}

/// Answers, bounded in number and in age.
#[derive(Debug)]
pub(super) struct Memory {
    pub identities: Bounded<CredentialHash, Arc<Kept<Arc<Identity>>>>,
    /// Credentials that are not good, apart from those that are: random ones push nothing out.
    pub refused: Bounded<CredentialHash, Arc<Kept<()>>>,
    pub decisions: Bounded<DecisionKey, Arc<Kept<Ruling>>>,
    register: Mutex<Register>,
    highest: RwLock<Highest>,
    /// Raised when everything is dropped.
    era: AtomicU64,
}

impl Memory {
    pub fn new(identities: usize, decisions: usize) -> Self {
        Self {
            identities: Bounded::new(identities),
            refused: Bounded::new((identities / 10).max(1)),
            decisions: Bounded::new(decisions),
            register: Mutex::default(),
            highest: RwLock::default(),
            era: AtomicU64::new(0),
        }
    }

    /// Before a question is asked: takes hold of what the answer is known to rest on.
    pub fn asking(&self, rests: impl IntoIterator<Item = Rest>) -> Asked {
        let era = self.era.load(Ordering::Acquire);
        Asked { era, anchors: self.hold(rests) }
    }

    /// Takes hold of what the answer has shown besides. An event that came before is seen by the floors alone.
    pub fn asking_too(&self, mut asked: Asked, rests: impl IntoIterator<Item = Rest>) -> Asked {
        asked.anchors.extend(self.hold(rests));
        asked
    }

    fn hold(&self, rests: impl IntoIterator<Item = Rest>) -> Anchors {
        let mut register = self.register.lock().unwrap_or_else(PoisonError::into_inner);
        rests.into_iter().map(|rest| register.take(rest)).collect()
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
    pub fn keep<T>(&self, asked: Asked, value: T, until_ms: i64) -> Option<Arc<Kept<T>>> {
        let Asked { era, anchors } = asked;
        let kept = Kept { value, until_ms, era, anchors };
        self.holds(&kept).then(|| Arc::new(kept))
    }

    /// Whether an answer still rests on what it rested on.
    pub fn holds<T>(&self, kept: &Kept<T>) -> bool {
        kept.era == self.era.load(Ordering::Acquire)
            && kept.anchors.iter().all(|anchor| !anchor.ended.load(Ordering::Acquire))
    }

    /// What is remembered under a key, if it is good at this time.
    pub fn look<K, Q, T>(
        &self,
        answers: &Bounded<K, Arc<Kept<T>>>,
        key: &Q,
        now_ms: i64,
    ) -> Option<Arc<Kept<T>>>
    where
        K: Hash + Eq,
        Q: Hash + Equivalent<K> + ?Sized,
    {
        answers.get(key).filter(|kept| now_ms < kept.until_ms && self.holds(kept))
    }

    /// Whether the key or the user that a credential stood for was deleted: neither comes back, so that nobody has to be
    /// asked.
    pub fn is_gone(&self, hash: &CredentialHash) -> bool {
        let Some(kept) = self.identities.get(hash) else { return false };
        let highest = self.highest.read().unwrap_or_else(PoisonError::into_inner);
        let identity = &kept.value;
        let key = identity.key_id.map(|id| highest.get(ChangeKind::ApiKey, &id.to_string()));
        let user = highest.get(ChangeKind::User, &identity.user_id.to_string());
        key == Some(DELETED) || user == DELETED
    }

    /// Takes changes in. Versions come first: whoever took hold of a record after its anchor ended sees them.
    pub fn changed(&self, changes: &[Change], now_ms: i64) {
        for change in changes {
            self.highest.write().unwrap_or_else(PoisonError::into_inner).note(
                change.kind,
                &change.id,
                change.version,
                now_ms,
            );
            let mut register = self.register.lock().unwrap_or_else(PoisonError::into_inner);
            register.end(&Rest::Record(change.kind, change.id.clone()));
            match change.kind {
                ChangeKind::Workspace => register.end(&Rest::AnyWorkspace),
                // A bootstrap token is known before it is a key.
                ChangeKind::ApiKey | ChangeKind::SigningKey => register.end(&Rest::Absence),
                ChangeKind::User => {}
                ChangeKind::Unknown => self.forget(),
            }
        }
    }

    /// Drops everything.
    pub fn forget(&self) {
        self.era.fetch_add(1, Ordering::AcqRel);
        self.identities.clear();
        self.refused.clear();
        self.decisions.clear();
    }
}
