//! What was decided, in a table of places: the hot path of a gateway.
//!
//! A place holds one decision, with a lock of its own, and is as long as the two cache lines that a processor fetches
//! together. So whoever looks goes to memory once as a rule, and seldom waits for anybody who asks something else. A
//! decision has eight places to be in, and where they are taken eight others, and eight more; where all are taken, what
//! is worth least gives way.

use std::hash::BuildHasher;
use std::sync::{Mutex, MutexGuard, PoisonError};

use foldhash::quality::RandomState;
use iam_schema::{UserId, WorkspaceId};

use super::question::{Question, QuestionHash};
use super::rests::Kept;
use crate::sessions::Identity;

/// Places that belong together.
const WAYS: usize = 8;
/// Sets that a decision may be in: the second when the first is full, and so on. A table that is half full has room
/// for nearly everything in the first.
const HOMES: u8 = 3;
/// Sets that are read in one go when uses are summed up: some ten microseconds.
const PART: usize = 256;

/// Somebody, and what is asked about them.
pub(super) type DecisionKey = (UserId, QuestionHash);

/// Whose decision it is, for what and where: as the audit is told of it.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Matter {
    pub actor: UserId,
    pub capability: Box<str>,
    pub workspace: Option<WorkspaceId>,
}

impl Matter {
    pub fn of(identity: &Identity, question: &Question) -> Self {
        Self {
            actor: identity.user_id,
            capability: question.capability().into(),
            workspace: question.targets().first().cloned(),
        }
    }
}

/// What was decided.
#[derive(Debug)]
pub(super) enum Ruling {
    Allow(Uses),
    Deny,
}

/// How often an allow was given out of memory since that was told last.
#[derive(Debug)]
pub(super) struct Uses {
    count: u32,
    /// At how many more summings up it counts as asked for.
    wanted: u8,
    // Out of the way: not read until the uses are told.
    matter: Box<Matter>,
}

impl Uses {
    pub fn none_yet(matter: Matter) -> Self {
        Self { count: 0, wanted: 0, matter: Box::new(matter) }
    }

    /// What there is to tell, once.
    fn take(&mut self) -> Option<(&Matter, u32)> {
        self.wanted = self.wanted.saturating_sub(1);
        match std::mem::take(&mut self.count) {
            0 => None,
            count => Some((&self.matter, count)),
        }
    }
}

/// What memory answers.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Known {
    pub allow: bool,
    /// Good until then, in milliseconds of the monotonic clock.
    pub until_ms: i64,
}

type Entry = (DecisionKey, Kept<Ruling>);

#[derive(Debug, Default)]
#[repr(align(128))]
struct Place(Mutex<Option<Entry>>);

impl Place {
    fn lock(&self) -> MutexGuard<'_, Option<Entry>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

type Set = [Place; WAYS];

/// What a place is worth that holds nothing good.
const NOTHING: (bool, bool, i64) = (false, false, 0);

/// Decisions, bounded in number.
#[derive(Debug)]
pub(super) struct Decisions {
    /// In one piece, and all of it from the start: so that where a decision is need not be looked up.
    sets: Box<[Set]>,
    hasher: RandomState,
}

impl Decisions {
    pub fn new(most: usize) -> Self {
        let sets = most.div_ceil(WAYS).max(1);
        Self { sets: (0..sets).map(|_| Set::default()).collect(), hasher: RandomState::default() }
    }

    /// The places of a set that a decision may be in, in the order in which it takes them.
    fn home(&self, key: &DecisionKey, number: u8) -> impl Iterator<Item = &Place> {
        let hash = self.hasher.hash_one((number, key));
        // Its lower half as a share of the sets, and the highest bits to begin in the middle of one.
        let set = ((hash & 0xffff_ffff) * self.sets.len() as u64) >> 32;
        let set = self.sets.get(set as usize);
        let (last, first) = set.map_or(Default::default(), |set| set.split_at((hash >> 61) as usize));
        first.iter().chain(last)
    }

    /// What is known of a question, if it is good; counts the use.
    pub fn look(&self, key: &DecisionKey, good: impl FnOnce(&Kept<Ruling>) -> bool) -> Option<Known> {
        for number in 0..HOMES {
            for place in self.home(key, number) {
                let mut place = place.lock();
                // Places are taken in this order, and not given back.
                let (held, kept) = place.as_mut()?;
                if held == key {
                    return good(kept).then(|| kept.use_it());
                }
            }
        }
        None
    }

    /// Remembers a decision; the uses of the one that gives way to it are `told`.
    pub fn insert(
        &self,
        key: DecisionKey,
        kept: Kept<Ruling>,
        good: impl Fn(&Kept<Ruling>) -> bool,
        told: impl FnOnce(&Matter, u32),
    ) {
        let places = (0..HOMES).flat_map(|number| self.home(&key, number));
        let mut least: Option<(_, &Place)> = None;
        for place in places {
            // What is over gives way, the first of it: so that what is asked for moves to where it is looked for first.
            // What is there already, under this key, takes its own place; and behind an empty one there is nothing.
            let (worth, last) = match &*place.lock() {
                None => (NOTHING, true),
                Some((held, _)) if *held == key => {
                    least = None;
                    (NOTHING, true)
                }
                Some((_, other)) if good(other) => ((true, other.is_wanted(), other.until_ms), false),
                Some(_) => (NOTHING, false),
            };
            if least.as_ref().is_none_or(|(known, _)| worth < *known) {
                least = Some((worth, place));
            }
            if last {
                break;
            }
        }
        let Some((_, place)) = least else { return };
        let mut place = place.lock();
        // Told before anybody else gets to the place: who sums up for the last time comes after.
        if let Some((_, Kept { value: Ruling::Allow(mut uses), .. })) = place.replace((key, kept))
            && let Some((matter, count)) = uses.take()
        {
            told(matter, count);
        }
    }

    /// All of it, a part after the other: so that whoever reads all can let others work in between.
    pub fn parts(&self) -> impl Iterator<Item = Part<'_>> {
        self.sets.chunks(PART).map(Part)
    }
}

/// A part of the table.
pub(super) struct Part<'t>(&'t [Set]);

impl Part<'_> {
    /// Tells of the uses since this was asked last.
    pub fn take_uses(&self, mut told: impl FnMut(&Matter, u32)) {
        for place in self.0.iter().flatten() {
            if let Some((_, Kept { value: Ruling::Allow(uses), .. })) = place.lock().as_mut()
                && let Some((matter, count)) = uses.take()
            {
                told(matter, count);
            }
        }
    }
}

impl Kept<Ruling> {
    fn use_it(&mut self) -> Known {
        if let Ruling::Allow(uses) = &mut self.value {
            uses.count = uses.count.saturating_add(1);
            uses.wanted = 2;
        }
        Known { allow: matches!(self.value, Ruling::Allow(_)), until_ms: self.until_ms }
    }

    fn is_wanted(&self) -> bool {
        matches!(&self.value, Ruling::Allow(uses) if uses.wanted > 0)
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;
    use std::sync::Arc;
    use std::sync::atomic::{AtomicU64, Ordering};
    use std::thread;

    use iam_schema::changes::{Change, ChangeKind};

    use super::*;
    use crate::gateway::memory::Memory;
    use crate::gateway::rests::Rest;

    fn user(number: u128) -> UserId {
        uuid::Uuid::from_u128(0x01a0_ce87_ea1a_7bb6_ae10_0000_0000_0000 + number).to_string().parse().unwrap()
    }

    fn key(number: u32) -> DecisionKey {
        (user(u128::from(number % 1_000)), Question::new(&format!("c{}", number / 1_000)).hash())
    }

    fn allow(memory: &Memory, key: DecisionKey, until_ms: i64) -> Kept<Ruling> {
        let matter = Matter { actor: key.0, capability: "c".into(), workspace: None };
        let asked = memory.asking(&[Rest::user(key.0)]);
        memory.keep(asked, Ruling::Allow(Uses::none_yet(matter)), until_ms).expect("nothing has changed")
    }

    fn put(memory: &Memory, number: u32, until_ms: i64) {
        memory.put_decision(key(number), allow(memory, key(number), until_ms), 0, |_, _| {});
    }

    fn known(memory: &Memory, numbers: impl Iterator<Item = u32>) -> usize {
        numbers.filter(|number| memory.decided(&key(*number), 1).is_some()).count()
    }

    #[test]
    fn a_place_is_two_cache_lines() {
        assert_eq!(size_of::<Place>(), 128);
    }

    #[test]
    fn half_of_what_has_room_is_all_remembered_but_for_one_in_a_thousand_and_never_more_than_has_room() {
        let memory = Memory::new(10, 20_000);
        (0..10_000).for_each(|number| put(&memory, number, 60_000));
        let half = known(&memory, 0..10_000);
        assert!(half >= 9_990, "{half} of 10000");
        (10_000..60_000).for_each(|number| put(&memory, number, 60_000));
        let known = known(&memory, 0..60_000);
        assert!((19_000..=20_000).contains(&known), "{known} of 20000");
    }

    #[test]
    fn what_has_ended_gives_way_first_and_then_what_nobody_asks_for() {
        let memory = Memory::new(10, WAYS);
        (0..8).for_each(|number| put(&memory, number, 60_000));
        let asked = || known(&memory, [0, 4].into_iter());
        assert_eq!(asked(), 2);
        (100..1_000).for_each(|number| put(&memory, number, 60_000));
        assert_eq!(asked(), 2, "what is asked for stays");
        let ended = Change { kind: ChangeKind::User, id: user(4).to_string(), version: 2 };
        memory.changed(&[ended], 1);
        put(&memory, 2_000, 60_000);
        assert_eq!(known(&memory, std::iter::once(2_000)), 1);
        assert_eq!(asked(), 1, "the one that has ended is the one that went");
    }

    #[test]
    fn what_is_asked_for_stays_though_its_uses_were_told() {
        let memory = Memory::new(10, WAYS);
        put(&memory, 0, 30_000);
        let sum_up = || memory.decisions().parts().for_each(|part| part.take_uses(|_, _| {}));
        for round in 1..10_u32 {
            assert_eq!(known(&memory, std::iter::once(0)), 1, "round {round}");
            sum_up();
            (0..50).for_each(|number| put(&memory, 1_000 * round + number, 60_000));
        }
        sum_up();
        sum_up();
        (0..50).for_each(|number| put(&memory, 20_000 + number, 60_000));
        assert_eq!(known(&memory, std::iter::once(0)), 0, "nobody has asked for it any more");
    }

    #[test]
    fn a_table_that_was_full_of_what_is_over_is_as_good_as_new() {
        let memory = Memory::new(10, 8_000);
        (0..50_000).for_each(|number| put(&memory, number, 60_000));
        memory.forget();
        (100_000..104_000).for_each(|number| put(&memory, number, 60_000));
        let looks = |number: u32| {
            let key = key(number);
            let places = (0..HOMES).flat_map(|home| memory.decisions().home(&key, home));
            places.take_while(|place| !matches!(&*place.lock(), Some((held, _)) if *held == key)).count()
        };
        let steps: usize = (100_000..104_000).map(looks).sum();
        assert!(steps < 4_000, "{steps} places too many for 4000 decisions");
        assert!(known(&memory, 100_000..104_000) >= 3_990);
    }

    #[test]
    fn every_use_is_told_once_whatever_gives_way_meanwhile() {
        let (memory, told) = (Memory::new(10, 64), AtomicU64::new(0));
        let tell = |_: &Matter, count: u32| {
            told.fetch_add(count.into(), Ordering::Relaxed);
        };
        let uses = Arc::new(AtomicU64::new(0));
        thread::scope(|scope| {
            for start in 0..4 {
                let (memory, uses) = (&memory, uses.clone());
                scope.spawn(move || {
                    for step in 0..20_000_u32 {
                        let number = (step * 7 + start) % 200;
                        match memory.decided(&key(number), 1) {
                            Some(_) => {
                                uses.fetch_add(1, Ordering::Relaxed);
                            }
                            None => {
                                let kept = allow(memory, key(number), 60_000);
                                memory.put_decision(key(number), kept, 0, tell);
                            }
                        }
                        if step % 1_000 == 0 {
                            memory.decisions().parts().for_each(|part| part.take_uses(tell));
                        }
                    }
                });
            }
        });
        memory.decisions().parts().for_each(|part| part.take_uses(tell));
        let uses = uses.load(Ordering::Relaxed);
        assert!(uses > 0);
        assert_eq!(told.load(Ordering::Relaxed), uses);
    }

    #[test]
    fn uses_are_told_with_what_they_were_for() {
        let memory = Memory::new(10, 64);
        put(&memory, 7, 60_000);
        assert_eq!(known(&memory, [7, 7, 8].into_iter()), 2);
        let mut told = BTreeMap::new();
        let mut tell = |part: Part<'_>| {
            part.take_uses(|matter, count| {
                told.insert((matter.actor, matter.capability.clone()), count);
            });
        };
        memory.decisions().parts().for_each(&mut tell);
        assert_eq!(told, BTreeMap::from([((user(7), "c".into()), 2)]));
    }
}
