//! What the audit is told of answers out of memory: the service tells of those that it gave.
//!
//! A deny and a refused credential are told one by one, allows in sums. What the bus does not take is not waited for.
//!
//! Source: protocol section 9.

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
        let mut sums = Vec::new();
        tallies.retain(|tally| {
            // Asked first: whoever holds the other end may count once more and let go.
            let alone = Arc::strong_count(tally) == 1;
            let count = tally.count.swap(0, Ordering::AcqRel);
            if count > 0 {
                sums.push(AuditPayload { count: Some(count), ..tally.said.clone() });
            }
            !alone
        });
        (sums, given_up)
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
