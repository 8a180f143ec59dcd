//! What the audit is told of answers out of memory: the service tells of those that it gave.
//!
//! A deny and a refused credential are told one by one, allows in sums. What the bus does not take is not waited for.
//!
//! Source: protocol section 9.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use iam_schema::Timestamp;
use iam_schema::audit::{AuditEvent, AuditOutcome, AuditPayload, AuditType, SCHEMA_VERSION};
use iam_schema::subject::Plane;

use super::question::Question;
use crate::client::new_request_id;
use crate::sessions::Identity;

/// How often sums of allows are told. Source: protocol section 9.
pub(super) const SUM_UP: Duration = Duration::from_secs(10);
/// The most events that are told one by one within that time; the rest is counted, and the count told.
const MOST: u64 = 1_000;

/// Whose allows, for what and where; counted by every decision that says so.
#[derive(Debug)]
pub(super) struct Tally {
    said: AuditPayload,
    count: AtomicU64,
}

impl Tally {
    pub fn count(&self) {
        self.count.fetch_add(1, Ordering::Relaxed);
    }
}

/// What is to be told.
#[derive(Debug, Default)]
pub(super) struct Rulings {
    tallies: Mutex<Vec<Arc<Tally>>>,
    /// Events told one by one since the sums were told, and those beyond the bound.
    told: AtomicU64,
}

impl Rulings {
    /// Where the uses of a decision are counted.
    pub fn tally(&self, identity: &Identity, question: &Question) -> Arc<Tally> {
        let tally = Arc::new(Tally { said: about(identity, question), count: AtomicU64::new(0) });
        self.tallies.lock().unwrap_or_else(PoisonError::into_inner).push(tally.clone());
        tally
    }

    /// An event about a deny out of memory, unless there were too many of them.
    pub fn denied(&self, identity: &Identity, question: &Question) -> Option<AuditPayload> {
        self.one().then(|| AuditPayload {
            outcome: Some(AuditOutcome::Denied),
            reason: "remembered by the gateway".to_owned(),
            resource: question.resource_json().to_owned(),
            ..about(identity, question)
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
    pub fn sums(&self) -> (Vec<AuditPayload>, u64) {
        let given_up = self.told.swap(0, Ordering::Relaxed).saturating_sub(MOST);
        let mut tallies = self.tallies.lock().unwrap_or_else(PoisonError::into_inner);
        let mut sums = BTreeMap::<_, AuditPayload>::new();
        tallies.retain(|tally| {
            // Asked first: whoever holds the other end may count once more and let go.
            let alone = Arc::strong_count(tally) == 1;
            let count = tally.count.swap(0, Ordering::AcqRel);
            if count > 0 {
                let AuditPayload { actor, capability, workspace, .. } = &tally.said;
                let kind = (actor.clone(), capability.clone(), workspace.clone());
                let sum = sums.entry(kind).or_insert_with(|| tally.said.clone());
                sum.count = Some(sum.count.unwrap_or_default().saturating_add(count));
            }
            !alone
        });
        (sums.into_values().collect(), given_up)
    }
}

fn about(identity: &Identity, question: &Question) -> AuditPayload {
    AuditPayload {
        plane: Plane::Service.as_str().to_owned(),
        operation: "authorise".to_owned(),
        actor: identity.user_id.to_string(),
        user_id: identity.user_id.to_string(),
        capability: question.capability().to_owned(),
        workspace: question.targets().first().map(ToString::to_string).unwrap_or_default(),
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
        for (workspace, uses) in [(&here, 2), (&here, 3), (&there, 1), (&there, 0)] {
            let tally = rulings.tally(&caller, &Question::within("graph:read", workspace));
            (0..uses).for_each(|_| tally.count());
        }
        let (sums, given_up) = rulings.sums();
        let told: Vec<_> = sums.iter().map(|sum| (sum.workspace.as_str(), sum.count)).collect();
        assert_eq!((told, given_up), (vec![("here", Some(5)), ("there", Some(1))], 0));
        assert!(rulings.sums().0.is_empty(), "told once");
    }

    #[test]
    fn what_is_too_much_to_be_told_one_by_one_is_counted() {
        let rulings = Rulings::default();
        let told = (0..MOST + 7).filter(|_| rulings.refused("x").is_some()).count();
        assert_eq!((told as u64, rulings.sums().1), (MOST, 7));
        assert!(rulings.refused("x").is_some(), "a new span");
    }
}
