//! What somebody who follows the events must know.

use std::collections::{BTreeMap, BTreeSet, VecDeque};

use iam_schema::changes::SILENCE_MS;

use super::End;

/// An event or a heartbeat on its way.
#[derive(Debug, Clone)]
pub struct Letter {
    pub instance: usize,
    pub payload: Vec<u8>,
    pub seq: u64,
    /// The events that it tells of.
    pub tells: Vec<u64>,
    pub heartbeat: bool,
}

/// What somebody who follows the events must know.
#[derive(Debug, Default)]
pub struct Consumer {
    pub inbox: VecDeque<Letter>,
    pub cut: bool,
    /// When each instance was heard last.
    pub heard: BTreeMap<usize, i64>,
    /// Events that were told, and up to which number those of an instance are known to be over, since when.
    pub told: BTreeSet<(usize, u64)>,
    pub over: BTreeMap<usize, (u64, i64)>,
    /// Instances of which no heartbeat has come since the connection stands again.
    pub awaited: BTreeSet<usize>,
}

/// What is known of a change.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Known {
    /// With its version.
    Told,
    /// That something was missed, since then.
    Missed(i64),
}

impl Consumer {
    pub fn take(&mut self, letter: &Letter, now_ms: i64) {
        // Of one that it had given up, and everything with it, nothing from before is in memory any more.
        let heard = self.heard.insert(letter.instance, now_ms);
        if heard.is_some_and(|ms| now_ms - ms >= SILENCE_MS) {
            self.awaited.remove(&letter.instance);
        }
        for seq in &letter.tells {
            self.told.insert((letter.instance, *seq));
        }
        if letter.heartbeat {
            self.awaited.remove(&letter.instance);
            let over = self.over.entry(letter.instance).or_insert((0, now_ms));
            if letter.seq > over.0 {
                *over = (letter.seq, now_ms);
            }
        }
    }

    /// The connection was cut and stands again.
    pub fn mend(&mut self) {
        self.cut = false;
        self.awaited = self.heard.keys().copied().collect();
    }

    /// Whether nothing may be answered out of memory.
    pub fn distrusts(&mut self, now_ms: i64) -> bool {
        let heard = &self.heard;
        let alive = |instance: &usize| heard.get(instance).is_some_and(|ms| now_ms - ms < SILENCE_MS);
        self.awaited.retain(alive);
        !self.awaited.is_empty()
    }

    pub fn knows(&self, end: &End, now_ms: i64) -> Option<Known> {
        // One that it had given up before heard nothing of the change.
        let gone_ms = self.heard.get(&end.instance).map(|heard| heard + SILENCE_MS);
        // In the same millisecond nobody knows which was first.
        let silent = gone_ms.filter(|gone_ms| end.at_ms < *gone_ms && *gone_ms <= now_ms);
        let Some(seq) = end.seq else { return silent.map(Known::Missed) };
        if self.told.contains(&(end.instance, seq)) {
            return Some(Known::Told);
        }
        let over = self.over.get(&end.instance).filter(|(last, _)| *last >= seq).map(|(_, since)| *since);
        over.or(silent).map(Known::Missed)
    }
}
