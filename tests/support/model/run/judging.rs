//! An answer held against the model: as things are, or as the replica may still believe them to be.

use std::collections::{BTreeMap, BTreeSet};

use iam_schema::changes::Change;
use serde_json::Value;

use super::Play;
use crate::model::ask::{Ask, Call, Floors};
use crate::model::bus::Known;
use crate::model::expect::{Expect, Told};
use crate::model::state::{Rec, State, View};

/// In what an answer may not be old.
pub(super) enum Strict {
    All,
    These(BTreeSet<Rec>),
}

impl Play<'_> {
    /// The records that an answer may not be old in.
    pub(super) fn strict(&self, slot: usize, ask: &Ask) -> Strict {
        if self.bus.distrusts(slot) {
            return Strict::All;
        }
        match ask.floors {
            // Without a credential nobody's floors are heard on the API plane, and nothing is remembered either.
            Floors::Acknowledged => Strict::These(self.behind(slot).into_iter().take(64).collect()),
            _ => Strict::These(BTreeSet::new()),
        }
    }

    /// The records of which a replica may know less than was acknowledged.
    pub(super) fn behind(&self, slot: usize) -> Vec<Rec> {
        let from = |rec: &Rec| self.knowledge[slot].from.get(rec).copied().unwrap_or_default();
        let behind = |rec: &Rec| from(rec) < self.state.last(*rec);
        self.state.records().into_iter().filter(behind).collect()
    }

    /// Holds a reply against the model, and the changes that are to be published.
    pub(super) fn judge(
        &mut self,
        slot: usize,
        ask: &Ask,
        strict: Strict,
        reply: &Value,
        changes: &[Change],
    ) -> Result<(), String> {
        let options = self.options(slot, &strict);
        let late = !options.is_empty();
        self.played.late += usize::from(late);
        let before = late.then(|| self.state.clone());
        let view = View::default();
        let expect = self.state.predict(&view, ask);
        match expect.fits(&self.state, ask, reply) {
            Ok(told) => expect.learn(&mut self.state, told),
            Err(misfit) => {
                let found = before.and_then(|before| {
                    let touched = view.touched.into_inner();
                    search(&before, ask, reply, &options, &BTreeMap::new(), &touched)
                });
                let Some((state, expect, told)) = found else { return Err(misfit) };
                self.played.old += 1;
                self.state = state;
                expect.learn(&mut self.state, told);
            }
        }
        // A seeding does not tell the id of the key that it made; its event does.
        if let (Call::Bootstrap, Some(id)) = (&ask.call, self.state.key_ids.first_mut())
            && let Some(key) = changes.iter().find(|change| change.kind.as_str() == "api-key")
        {
            id.clone_from(&key.id);
        }
        self.announced(changes)?;
        // What it changed itself a replica knows of.
        let changed: Vec<_> =
            self.state.changed.iter().map(|&rec| Known::From(rec, self.state.last(rec))).collect();
        self.knows(slot, changed);
        Ok(())
    }

    /// Of each record that the replica may know late, the versions that it may believe.
    fn options(&self, slot: usize, strict: &Strict) -> BTreeMap<Rec, Vec<usize>> {
        let Strict::These(strict) = strict else { return BTreeMap::new() };
        let behind = self.behind(slot).into_iter().filter(|rec| !strict.contains(rec));
        let from = |rec: Rec| self.knowledge[slot].from.get(&rec).copied().unwrap_or_default();
        let options = behind.map(|rec| (rec, self.state.visible(rec, from(rec))));
        options.filter(|(_, versions)| versions.len() > 1).collect()
    }

    /// Every change is announced, and nothing else is.
    fn announced(&self, changes: &[Change]) -> Result<(), String> {
        let told: BTreeSet<(&str, &str, u64)> =
            changes.iter().map(|change| (change.kind.as_str(), change.id.as_str(), change.version)).collect();
        // New signing keys are not known by name yet.
        let kid = |kind: &str| kind == "signing-key";
        let due: Vec<_> = self.state.changed.iter().map(|&rec| self.state.change(rec)).collect();
        let due: BTreeSet<(&str, &str, u64)> =
            due.iter().map(|(kind, id, version)| (*kind, id.as_str(), *version)).collect();
        let missing = due.iter().find(|change| !change.1.is_empty() && !told.contains(change));
        let more = told.iter().find(|change| !kid(change.0) && !due.contains(change));
        let kids = |set: &BTreeSet<(&str, &str, u64)>| set.iter().filter(|change| kid(change.0)).count();
        let new = self
            .state
            .changed
            .iter()
            .filter(|rec| matches!(rec, Rec::Kid(k) if self.state.kid_texts[*k].is_none()));
        let named = due.iter().filter(|change| kid(change.0) && !change.1.is_empty()).count();
        match (missing, more) {
            (Some(change), _) => Err(format!("no event for {change:?}")),
            (None, Some(change)) => Err(format!("an event for {change:?}, which did not change so")),
            (None, None) if kids(&told) != named + new.count() => {
                Err(format!("events for the signing keys: {told:?}"))
            }
            (None, None) => Ok(()),
        }
    }
}

/// Looks for what a replica may believe so that its answer is right.
fn search(
    before: &State,
    ask: &Ask,
    reply: &Value,
    options: &BTreeMap<Rec, Vec<usize>>,
    past: &BTreeMap<Rec, usize>,
    touched: &BTreeSet<Rec>,
) -> Option<(State, Expect, Told)> {
    let next = touched.iter().find(|rec| options.contains_key(rec) && !past.contains_key(rec))?;
    for &version in &options[next] {
        let mut past = past.clone();
        past.insert(*next, version);
        let mut state = before.clone();
        let view = View { past: past.clone(), ..View::default() };
        let expect = state.predict(&view, ask);
        if let Ok(told) = expect.fits(&state, ask, reply) {
            return Some((state, expect, told));
        }
        let mut seen = touched.clone();
        seen.extend(view.touched.into_inner());
        if let Some(found) = search(before, ask, reply, options, &past, &seen) {
            return Some(found);
        }
    }
    None
}
