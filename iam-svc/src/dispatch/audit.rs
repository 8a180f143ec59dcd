//! Audit events: built from the request and its outcome, handed to whoever publishes them.
//!
//! Handing over never waits and never fails the request: by then it is done. What finds the queue full is
//! counted, and the count is logged.

use std::borrow::Cow;
use std::collections::HashMap;
use std::hash::{BuildHasher, RandomState};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Mutex, PoisonError};

use iam_schema::audit::{AuditEvent, AuditOutcome, AuditPayload, AuditType, SCHEMA_VERSION};
use iam_schema::subject::Plane;
use iam_schema::{IamRequest, KeyId, OperationName, Timestamp, UserId};
use tokio::sync::mpsc;

use super::decide::Decided;
use crate::ctx::Ctx;
use crate::domain::decision::Principal;
use crate::domain::shown::{clipped, plain};
use crate::domain::users::Username;
use crate::error::OpError;
use crate::ops::{Call, Done};

/// The most kinds of allows counted between two summaries; one more flushes them early.
const MOST_SUMMARIES: usize = 4096;
/// The part of the queue that is kept free for changes that were made: nobody without a credential can fill that.
const RESERVE: usize = 4;

/// Where audit events go.
#[derive(Debug)]
pub struct Audit {
    sender: mpsc::Sender<AuditEvent>,
    /// By their hash, so that one that was counted before is found by what the request lends.
    allows: Mutex<HashMap<u64, Vec<(Allowed<'static>, u64)>>>,
    hasher: RandomState,
    given_up: AtomicU64,
}

/// What allows are counted by.
#[derive(Debug, PartialEq, Eq, Hash)]
struct Allowed<'r> {
    plane: Plane,
    actor: Actor<'r>,
    capability: Cow<'r, str>,
    workspace: Cow<'r, str>,
}

#[derive(Debug, PartialEq, Eq, Hash)]
enum Actor<'r> {
    User(UserId),
    Named(Cow<'r, str>),
}

impl Allowed<'_> {
    fn into_owned(self) -> Allowed<'static> {
        let own = |text: Cow<'_, str>| Cow::Owned(text.into_owned());
        Allowed {
            plane: self.plane,
            actor: match self.actor {
                Actor::User(id) => Actor::User(id),
                Actor::Named(name) => Actor::Named(own(name)),
            },
            capability: own(self.capability),
            workspace: own(self.workspace),
        }
    }
}

impl Audit {
    /// A queue for so many events, and its other end.
    pub fn channel(capacity: usize) -> (Self, mpsc::Receiver<AuditEvent>) {
        let (sender, receiver) = mpsc::channel(capacity);
        let audit = Self {
            sender,
            allows: Mutex::default(),
            hasher: RandomState::new(),
            given_up: AtomicU64::new(0),
        };
        (audit, receiver)
    }

    /// How many events found the queue full.
    pub fn given_up(&self) -> u64 {
        self.given_up.load(Ordering::Relaxed)
    }

    /// Hands over the summaries of allows counted so far.
    pub fn flush_summaries(&self, ctx: &Ctx, now: Timestamp) {
        let counted = std::mem::take(&mut *self.allows.lock().unwrap_or_else(PoisonError::into_inner));
        for (allowed, count) in counted.into_values().flatten() {
            let payload = AuditPayload {
                plane: allowed.plane.as_str().to_owned(),
                actor: match allowed.actor {
                    Actor::User(id) => id.to_string(),
                    Actor::Named(name) => name.into_owned(),
                },
                operation: OperationName::Authorise.to_string(),
                capability: allowed.capability.into_owned(),
                workspace: allowed.workspace.into_owned(),
                outcome: Some(AuditOutcome::Success),
                count: Some(count),
                ..AuditPayload::default()
            };
            self.publish(ctx, now, AuditType::Authorise, payload);
        }
    }

    fn publish(&self, ctx: &Ctx, now: Timestamp, event_type: AuditType, payload: AuditPayload) {
        let event = AuditEvent {
            schema_version: SCHEMA_VERSION,
            event_id: ctx.entropy.uuid(now).to_string(),
            event_type,
            timestamp: now,
            // Whoever publishes it signs it.
            producer: String::new(),
            payload,
        };
        let change =
            event_type == AuditType::Management && event.payload.outcome == Some(AuditOutcome::Success);
        let room = change || self.sender.capacity() > self.sender.max_capacity() / RESERVE;
        if !room || self.sender.try_send(event).is_err() {
            let before = self.given_up.fetch_add(1, Ordering::Relaxed);
            // One line for each power of two: the count is in the metrics.
            if (before + 1).is_power_of_two() {
                tracing::error!(given_up = before + 1, "the audit queue is full: events are lost");
            }
        }
    }

    /// An answer out of memory.
    ///
    /// `caller` is whom the API plane recognised.
    pub fn decided(
        &self,
        ctx: &Ctx,
        facts: &Facts<'_>,
        caller: Option<&Principal>,
        outcome: Result<&Decided, &OpError>,
    ) {
        if let Ok(Decided::Decision { allow: true, about, target, .. }) = outcome
            && !ctx.settings.audit_allow_all
        {
            self.count_allow(ctx, facts, *about, target.as_deref());
            return;
        }
        let mut payload = facts.payload();
        if let Some(caller) = caller {
            payload.actor = caller.id.to_string();
            payload.roles = caller.roles.iter().map(ToString::to_string).collect();
        }
        match outcome {
            Ok(Decided::Identity(identity)) => {
                payload.user_id = identity.principal.id.to_string();
                payload.workspace = identity.workspace.to_string();
                payload.roles = identity.roles().iter().map(ToString::to_string).collect();
                payload.outcome = Some(AuditOutcome::Success);
            }
            Ok(Decided::Decision { allow, why, about, .. }) => {
                payload.user_id = about.map(|id| id.to_string()).unwrap_or(payload.user_id);
                payload.outcome = Some(if *allow { AuditOutcome::Success } else { AuditOutcome::Denied });
                payload.reason = (*why).to_owned();
            }
            Ok(Decided::Decisions { list, about, .. }) => {
                let denied = list.iter().filter(|decision| !decision.allow).count();
                // One event a request that holds a deny; one without is not told of, but where all are.
                if denied == 0 && !ctx.settings.audit_allow_all {
                    return;
                }
                payload.user_id = about.map(|id| id.to_string()).unwrap_or(payload.user_id);
                payload.outcome = Some(if denied > 0 { AuditOutcome::Denied } else { AuditOutcome::Success });
                if denied > 0 {
                    payload.reason = format!("{denied} of {} checks denied", list.len());
                }
            }
            Err(error) => failure(&mut payload, error),
        }
        self.publish(ctx, facts.now, audit_type(facts.operation), payload);
    }

    /// Counts an allow. This is on the path of every decision: nothing is allocated for what was counted before.
    fn count_allow(&self, ctx: &Ctx, facts: &Facts<'_>, about: Option<UserId>, target: Option<&str>) {
        let request = facts.request;
        let actor = match (facts.plane, request.actor.as_ref(), about) {
            (Plane::Service, given, _) if !given.is_empty() => Actor::Named(plain(given)),
            // Who acts is, in a decision, whom it is about, unless the caller names somebody.
            (_, _, Some(about)) => Actor::User(about),
            (_, _, None) => Actor::Named(Cow::Borrowed("")),
        };
        let allowed = Allowed {
            plane: facts.plane,
            actor,
            capability: plain(&request.capability),
            workspace: plain(target.unwrap_or(&request.workspace)),
        };
        let hash = self.hasher.hash_one(&allowed);
        let full = {
            let mut allows = self.allows.lock().unwrap_or_else(PoisonError::into_inner);
            let alike = allows.entry(hash).or_default();
            match alike.iter_mut().find(|(known, _)| *known == allowed) {
                Some((_, count)) => *count += 1,
                None => alike.push((allowed.into_owned(), 1)),
            }
            allows.len() >= MOST_SUMMARIES
        };
        if full {
            self.flush_summaries(ctx, facts.now);
        }
    }

    /// An operation that was done, or refused. Reads are not audited unless they were refused.
    pub fn finished(
        &self,
        ctx: &Ctx,
        facts: &Facts<'_>,
        call: Option<&Call>,
        outcome: Result<&Done, &OpError>,
    ) {
        if outcome.is_ok() && !is_change(facts.operation) {
            return;
        }
        let mut payload = facts.payload();
        if let Some(call) = call {
            match call.caller.actor() {
                Some(actor) => {
                    payload.actor = actor.id.to_string();
                    payload.roles = actor.roles.iter().map(ToString::to_string).collect();
                }
                None if facts.plane == Plane::Service && payload.actor.is_empty() => {
                    payload.reason = "on the calling service's own authority".to_owned();
                }
                // Nobody, or an actor of whom nothing was asked.
                None => {}
            }
            if let Some(subject) = call.subject {
                payload.user_id = subject.to_string();
            }
            if let Some(place) = &call.place {
                payload.workspace = clipped(place.as_str());
            }
            if facts.operation == OperationName::Login && !names_somebody(facts, call, outcome.err()) {
                payload.username.clear();
            }
        }
        if !matches!(audit_type(facts.operation), AuditType::Management) {
            payload.reason.clear();
        }
        match outcome {
            Ok(Done::Explained { allow: false, reason, .. }) => {
                payload.outcome = Some(AuditOutcome::Denied);
                payload.reason.clone_from(reason);
            }
            Ok(_) => payload.outcome = Some(AuditOutcome::Success),
            Err(error) => failure(&mut payload, error),
        }
        self.publish(ctx, facts.now, audit_type(facts.operation), payload);
    }
}

/// Whether what was given as username at a login is one. A text that names nobody is left out of the event: the
/// commonest slip at a login is to type the password there. Whom the throttle stops is not looked up; by then that
/// text was tried again and again.
fn names_somebody(facts: &Facts<'_>, call: &Call, error: Option<&OpError>) -> bool {
    let tried_before = matches!(error, Some(OpError::Throttled));
    call.subject.is_some() || (tried_before && facts.request.username.parse::<Username>().is_ok())
}

/// What is known of a request without carrying it out.
#[derive(Debug)]
pub struct Facts<'r> {
    pub plane: Plane,
    pub operation: OperationName,
    pub request: &'r IamRequest<'r>,
    pub request_id: &'r str,
    pub now: Timestamp,
    pub duration_us: u64,
}

impl Facts<'_> {
    fn payload(&self) -> AuditPayload {
        let request = self.request;
        let named = request.user.as_ref().and_then(|user| user.username.as_deref());
        let trusted = |text: &str| match self.plane {
            Plane::Service => clipped(text),
            Plane::Api => String::new(),
        };
        AuditPayload {
            request_id: clipped(self.request_id),
            client_ip: trusted(&request.client_ip),
            plane: self.plane.as_str().to_owned(),
            actor: trusted(&request.actor),
            user_id: request.user_id.parse::<UserId>().map(|id| id.to_string()).unwrap_or_default(),
            username: clipped(named.unwrap_or(&request.username)),
            operation: self.operation.to_string(),
            capability: clipped(&request.capability),
            workspace: target_workspace(request),
            resource: resource(self.operation, request),
            duration_us: Some(self.duration_us),
            ..AuditPayload::default()
        }
    }
}

fn target_workspace(request: &IamRequest<'_>) -> String {
    use iam_schema::codec::{Member, target_member};
    for json in [&request.resource_json, &request.parameters_json] {
        if let Ok(Member::Text(text)) = target_member(json) {
            return clipped(&text);
        }
    }
    let record = request.workspace_record.as_ref().and_then(|record| record.id.as_deref());
    clipped(record.unwrap_or(&request.workspace))
}

/// What a request names beside users and workspaces: the resource, the key. A text in the place of a key's id
/// may be the key itself, so only an id is taken for one.
fn resource(operation: OperationName, request: &IamRequest<'_>) -> String {
    if !request.resource_json.is_empty() {
        return clipped(&request.resource_json);
    }
    if operation == OperationName::RetireSigningKey || request.key_id.parse::<KeyId>().is_ok() {
        return clipped(&request.key_id);
    }
    request.key.as_ref().map(|key| clipped(&key.name)).unwrap_or_default()
}

fn failure(payload: &mut AuditPayload, error: &OpError) {
    let (outcome, reason) = match error {
        OpError::NotPermitted(denial) => (AuditOutcome::Denied, denial.as_str().to_owned()),
        OpError::AuthFailed(failure) => (AuditOutcome::Failure, failure.as_str().to_owned()),
        OpError::Invalid { field, rule } => (AuditOutcome::Failure, format!("`{field}` {rule}")),
        OpError::WeakPassword(rule) => (AuditOutcome::Failure, format!("weak password: {rule}")),
        OpError::NotFound(noun) => (AuditOutcome::Failure, format!("not found: {noun:?}")),
        OpError::Taken(noun) => (AuditOutcome::Failure, format!("taken: {noun:?}")),
        OpError::Disabled(noun) => (AuditOutcome::Failure, format!("disabled: {noun:?}")),
        OpError::Conflict => (AuditOutcome::Failure, "conflict".to_owned()),
        OpError::Throttled => (AuditOutcome::Failure, "throttled".to_owned()),
        OpError::NotSupported(what) => (AuditOutcome::Failure, (*what).to_owned()),
        OpError::Unavailable(cause) => (AuditOutcome::Failure, format!("unavailable: {cause}")),
        OpError::Internal(cause) => (AuditOutcome::Failure, format!("internal: {cause}")),
    };
    payload.outcome = Some(outcome);
    payload.reason = reason;
}

/// Under which type an operation is audited. Source: protocol section 9.
pub fn audit_type(operation: OperationName) -> AuditType {
    match operation {
        OperationName::Login
        | OperationName::Authenticate
        | OperationName::ResolveApiKey
        | OperationName::AuthenticateAnonymous
        | OperationName::ChangePassword => AuditType::Authenticate,
        OperationName::Authorise | OperationName::AuthoriseMany | OperationName::Explain => {
            AuditType::Authorise
        }
        _ => AuditType::Management,
    }
}

/// Whether an operation changes something or decides about somebody, so that its success is told of too.
fn is_change(operation: OperationName) -> bool {
    !matches!(
        operation,
        OperationName::Whoami
            | OperationName::ListUsers
            | OperationName::GetUser
            | OperationName::ListApiKeys
            | OperationName::ListMyWorkspaces
            | OperationName::ListWorkspaces
            | OperationName::GetWorkspace
            | OperationName::GetSigningKeyPublic
            | OperationName::GetJwks
            | OperationName::BootstrapStatus
    )
}
