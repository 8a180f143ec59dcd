//! What a gateway remembers, and what makes it forget.
//!
//! An answer is worth nothing, in memory or on its way, once anything has changed that it [rests on](super::rests). What
//! it turns out to rest on, such as the owner of a key, was not known before the question: there the floors tell whether
//! it was changed lately, and it is asked again with them.
//!
//! Source: protocol section 8.

use std::sync::{Arc, PoisonError, RwLock};

use iam_schema::changes::{Change, ChangeKind, DELETED, Floors, Highest, MAX_FLOORS};
use quick_cache::sync::Cache as Bounded;

use super::decided::{DecisionKey, Decisions, Known, Matter, Ruling};
use super::rests::{Asked, Counters, Kept, Rest};
use crate::sessions::Identity;

/// The SHA-256 of a credential's text: memory holds no credential.
pub(super) type CredentialHash = [u8; 32];

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
        self.changes.asking(rests)
    }

    /// Takes hold of what the answer has shown besides. An event that came before is seen by the floors alone.
    pub fn asking_too<'r>(&self, asked: Asked, rests: impl IntoIterator<Item = &'r Rest>) -> Asked {
        self.changes.asking_too(asked, rests)
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
        self.changes.stand(asked)
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
            self.changes.raise(&Rest::Record(change.kind, change.id.clone()));
            match change.kind {
                ChangeKind::Workspace => self.changes.raise(&Rest::AnyWorkspace),
                // A bootstrap token is known before it is a key.
                ChangeKind::ApiKey | ChangeKind::SigningKey => self.changes.raise(&Rest::Absence),
                ChangeKind::User => {}
                ChangeKind::Unknown => self.forget(),
            }
        }
    }

    /// Drops everything. Decisions give way to others as they come.
    pub fn forget(&self) {
        self.changes.raise_all();
        self.identities.clear();
        self.refused.clear();
    }
}
