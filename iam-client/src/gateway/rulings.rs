//! What the audit is told of answers out of memory: the service tells of those that it gave.
//!
//! A deny and a refused credential are told one by one, allows in sums. What the bus does not take is not waited for.
//!
//! Source: protocol section 9.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use iam_schema::Timestamp;
use iam_schema::audit::{AuditEvent, AuditOutcome, AuditPayload, AuditType, SCHEMA_VERSION};
use iam_schema::subject::Plane;

use super::decided::Matter;
use super::question::Question;
use crate::client::new_request_id;
use crate::sessions::Identity;

/// How often sums of allows are told. Source: protocol section 9.
pub(super) const SUM_UP: Duration = Duration::from_secs(10);
/// The most events that are told one by one within that time; the rest is counted, and the count told.
const MOST: u64 = 1_000;

/// What is to be told.
#[derive(Debug, Default)]
pub(super) struct Rulings {
    /// Uses of allows, as far as they were counted up.
    uses: Mutex<BTreeMap<Matter, u64>>,
    /// Events told one by one since the sums were told, and those beyond the bound.
    told: AtomicU64,
}

impl Rulings {
    /// Allows were given out of memory.
    pub fn used(&self, matter: &Matter, count: u32) {
        let mut uses = self.uses.lock().unwrap_or_else(PoisonError::into_inner);
        match uses.get_mut(matter) {
            Some(sum) => *sum = sum.saturating_add(count.into()),
            None => drop(uses.insert(matter.clone(), count.into())),
        }
    }

    /// An event about a deny out of memory, unless there were too many of them.
    pub fn denied(&self, identity: &Identity, question: &Question) -> Option<AuditPayload> {
        self.one().then(|| AuditPayload {
            outcome: Some(AuditOutcome::Denied),
            reason: "remembered by the gateway".to_owned(),
            resource: question.resource_json().to_owned(),
            ..about(Matter::of(identity, question))
        })
    }

    /// An event about a credential that was refused here.
    pub fn refused(&self, reason: &str) -> Option<AuditPayload> {
        self.one().then(|| AuditPayload {
            plane: Plane::Service.as_str().to_owned(),
            operation: "authenticate".to_owned(),
            outcome: Some(AuditOutcome::Failure),
            reason: reason.to_owned(),
            ..AuditPayload::default()
        })
    }

    fn one(&self) -> bool {
        self.told.fetch_add(1, Ordering::Relaxed) < MOST
    }

    /// The sums since this was asked last, and how many events were not told.
    pub fn sums(&self) -> (impl Iterator<Item = AuditPayload> + use<>, u64) {
        let given_up = self.told.swap(0, Ordering::Relaxed).saturating_sub(MOST);
        let uses = std::mem::take(&mut *self.uses.lock().unwrap_or_else(PoisonError::into_inner));
        let told =
            uses.into_iter().map(|(matter, count)| AuditPayload { count: Some(count), ..about(matter) });
        (told, given_up)
    }
}

fn about(matter: Matter) -> AuditPayload {
    AuditPayload {
        plane: Plane::Service.as_str().to_owned(),
        operation: "authorise".to_owned(),
        actor: matter.actor.to_string(),
        user_id: matter.actor.to_string(),
        capability: matter.capability.into(),
        workspace: matter.workspace.map(|workspace| workspace.to_string()).unwrap_or_default(),
        outcome: Some(AuditOutcome::Success),
        ..AuditPayload::default()
    }
}

/// An event as it goes over the bus; `None` for what cannot be written, which there is not.
pub(super) fn event(producer: &str, now: Timestamp, payload: AuditPayload) -> Option<Vec<u8>> {
    let event = AuditEvent {
        schema_version: SCHEMA_VERSION,
        event_id: new_request_id(),
        event_type: AuditType::Gateway,
        timestamp: now,
        producer: producer.to_owned(),
        payload,
    };
    serde_json::to_vec(&event).ok()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::sessions::IdentitySource;

    #[test]
    fn allows_are_summed_up_by_actor_capability_and_workspace_and_told_once() {
        let caller = Identity {
            user_id: "01a0ce87-ea1a-7bb6-ae10-295948688e1d".parse().unwrap(),
            workspace: "home".parse().unwrap(),
            roles: Vec::new(),
            source: IdentitySource::ApiKey,
            key_id: None,
            expires: None,
        };
        let (here, there) = ("here".parse().unwrap(), "there".parse().unwrap());
        let rulings = Rulings::default();
        // The second of the same is what a decision becomes that was asked for anew.
        for (workspace, uses) in [(&here, 2), (&here, 3), (&there, 1)] {
            rulings.used(&Matter::of(&caller, &Question::within("graph:read", workspace)), uses);
        }
        let (sums, given_up) = rulings.sums();
        let told: Vec<_> = sums.map(|sum| (sum.workspace, sum.count)).collect();
        assert_eq!((told, given_up), (vec![("here".to_owned(), Some(5)), ("there".to_owned(), Some(1))], 0));
        assert_eq!(rulings.sums().0.count(), 0, "told once");
    }

    #[test]
    fn what_is_too_much_to_be_told_one_by_one_is_counted() {
        let rulings = Rulings::default();
        let told = (0..MOST + 7).filter(|_| rulings.refused("x").is_some()).count();
        assert_eq!((told as u64, rulings.sums().1), (MOST, 7));
        assert!(rulings.refused("x").is_some(), "a new span");
    }
}
