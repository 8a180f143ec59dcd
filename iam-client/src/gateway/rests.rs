//! What answers rest on, and whether any of it has changed.
//!
//! Each record that answers rest on has a counter, which a change event of it raises. An answer holds on to the sum of
//! the counters of what it rests on, read before the question was asked: while the sum is the same, none of them has
//! changed. So there is no race between an answer that is filled in and an event that overtakes it.

use std::hash::{BuildHasher, BuildHasherDefault, DefaultHasher};
use std::sync::atomic::{AtomicU32, Ordering};

use iam_schema::UserId;
use iam_schema::changes::ChangeKind;
use smallvec::{SmallVec, smallvec};

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
    pub rests_on: Asked,
}

/// How often each record was changed.
#[derive(Debug)]
pub(super) struct Counters(Box<[AtomicU32]>);

impl Default for Counters {
    fn default() -> Self {
        Self((0..COUNTERS).map(|_| AtomicU32::new(0)).collect())
    }
}

impl Counters {
    /// Before a question is asked: takes hold of what its answer is known to rest on.
    pub fn asking<'r>(&self, rests: impl IntoIterator<Item = &'r Rest>) -> Asked {
        let nothing = Asked { sum: self.sum(&[EVERYTHING]), counters: smallvec![EVERYTHING] };
        self.asking_too(nothing, rests)
    }

    /// Takes hold of what the answer has shown besides.
    pub fn asking_too<'r>(&self, mut asked: Asked, rests: impl IntoIterator<Item = &'r Rest>) -> Asked {
        for counter in rests.into_iter().map(Rest::counter) {
            asked.sum = asked.sum.wrapping_add(self.sum(&[counter]));
            asked.counters.push(counter);
        }
        asked
    }

    /// Whether nothing has changed of what was taken hold of.
    pub fn stand(&self, asked: &Asked) -> bool {
        self.sum(&asked.counters) == asked.sum
    }

    /// It has changed.
    pub fn raise(&self, rest: &Rest) {
        self.raise_at(rest.counter());
    }

    /// Anything may have changed.
    pub fn raise_all(&self) {
        self.raise_at(EVERYTHING);
    }

    fn raise_at(&self, number: u32) {
        if let Some(counter) = self.at(number) {
            counter.fetch_add(1, Ordering::AcqRel);
        }
    }

    fn at(&self, number: u32) -> Option<&AtomicU32> {
        self.0.get(usize::try_from(number).ok()?)
    }

    fn sum(&self, numbers: &[u32]) -> u32 {
        let counts = numbers.iter().filter_map(|number| self.at(*number));
        counts.fold(0, |sum, counter| sum.wrapping_add(counter.load(Ordering::Acquire)))
    }
}
