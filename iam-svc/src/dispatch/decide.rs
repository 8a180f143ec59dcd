//! The operations that are answered from memory: authenticate, resolve-api-key, authenticate-anonymous,
//! authorise and authorise-many.

use std::sync::Arc;

use iam_schema::codec::{Member, check_list, target_member};
use iam_schema::decisions::Decision;
use iam_schema::subject::Plane;
use iam_schema::{IamRequest, OperationName, Timestamp, UserId};

use super::identity::{Identity, Stop, View};
use crate::domain::decision::{self, Principal, Question, Reason};
use crate::error::{AuthFailure, Denial, OpError};

/// The most checks of one authorise-many that are taken on the front thread.
const MAX_CHECKS_NOW: usize = 128;

/// An answer out of memory.
#[derive(Debug)]
pub enum Decided {
    Identity(Identity),
    Decision { allow: bool, ttl_s: u32, identity: Option<Identity>, why: &'static str, about: Option<UserId> },
    Decisions { list: Vec<Decision>, identity: Option<Identity>, about: Option<UserId> },
}

/// Whether an operation is one of these.
pub fn answers(operation: OperationName) -> bool {
    matches!(
        operation,
        OperationName::Authorise
            | OperationName::AuthoriseMany
            | OperationName::Authenticate
            | OperationName::ResolveApiKey
            | OperationName::AuthenticateAnonymous
    )
}

/// Whether a request is small enough to be answered on the front thread.
pub fn is_small(request: &IamRequest<'_>) -> bool {
    // The shortest check is `{},`; a text that could hold more is counted where it does no harm.
    request.authorise_checks.len() < MAX_CHECKS_NOW * 3
        || request.authorise_checks.matches("capability").count() <= MAX_CHECKS_NOW
}

/// Answers, or says what is missing.
///
/// `caller` is whom the API plane recognised; on the service plane there is none.
pub fn answer(
    view: &View<'_>,
    plane: Plane,
    caller: Option<&Identity>,
    operation: OperationName,
    request: &IamRequest<'_>,
) -> Result<Decided, Stop> {
    match operation {
        OperationName::Authenticate => {
            if request.credential.is_empty() {
                return Err(missing("credential"));
            }
            let identity = view.identify(&request.credential)?;
            ordinary(identity).map(Decided::Identity)
        }
        OperationName::ResolveApiKey => {
            if request.api_key.is_empty() {
                return Err(missing("api_key"));
            }
            view.identify_key(&request.api_key).map(Decided::Identity)
        }
        OperationName::AuthenticateAnonymous => view.anonymous().map(Decided::Identity),
        OperationName::Authorise => authorise(view, plane, caller, request),
        _ => authorise_many(view, plane, caller, request),
    }
}

fn missing(field: &'static str) -> Stop {
    Stop::Failed(OpError::invalid(field, "is missing"))
}

fn ordinary(identity: Identity) -> Result<Identity, Stop> {
    if identity.change_password_only { Err(AuthFailure::MustChangePassword.into()) } else { Ok(identity) }
}

/// Whom a decision is about.
struct About {
    id: UserId,
    principal: Option<(Arc<Principal>, bool)>,
    identity: Option<Identity>,
}

impl About {
    fn principal(&self) -> Option<(&Principal, bool)> {
        self.principal.as_ref().map(|(principal, enabled)| (principal.as_ref(), *enabled))
    }

    /// An answer is not good beyond the end of the credential it was given for.
    fn ttl(&self, view: &View<'_>, allow: bool) -> u32 {
        let settings = &view.ctx.settings;
        let ttl_s = if allow { settings.allow_ttl_s } else { settings.deny_ttl_s };
        match self.identity.as_ref().and_then(|identity| identity.expires) {
            Some(expires) => ttl_s.min(seconds_until(view.now, expires)),
            None => ttl_s,
        }
    }
}

fn seconds_until(now: Timestamp, then: Timestamp) -> u32 {
    let ms = then.as_millis().saturating_sub(now.as_millis());
    u32::try_from(ms.max(0) / 1000).unwrap_or(u32::MAX)
}

fn about(
    view: &View<'_>,
    plane: Plane,
    caller: Option<&Identity>,
    request: &IamRequest<'_>,
) -> Result<About, Stop> {
    let by_credential = !request.credential.is_empty();
    if by_credential && !request.user_id.is_empty() {
        let rule = "and `credential` cannot be given together";
        return Err(Stop::Failed(OpError::invalid("user_id", rule)));
    }
    let given = match request.user_id.as_ref() {
        "" => None,
        text => Some(text.parse::<UserId>().map_err(|e| OpError::invalid("user_id", e.to_string()))?),
    };
    let oneself = match plane {
        Plane::Service => None,
        // Without a caller nobody gets here on the API plane; if one did, it would be refused.
        Plane::Api => Some(caller.ok_or(AuthFailure::NoCredential)?.principal.id),
    };
    if by_credential {
        let identity = ordinary(view.identify(&request.credential)?)?;
        let id = identity.principal.id;
        only_oneself(oneself, id)?;
        return Ok(About {
            id,
            principal: Some((identity.principal.clone(), true)),
            identity: Some(identity),
        });
    }
    let id = given.or(oneself).ok_or_else(|| missing("user_id"))?;
    only_oneself(oneself, id)?;
    Ok(About { id, principal: view.alive(id)?, identity: None })
}

fn only_oneself(oneself: Option<UserId>, id: UserId) -> Result<(), Stop> {
    match oneself {
        Some(oneself) if oneself != id => Err(Stop::Failed(Denial::NotOneself.into())),
        _ => Ok(()),
    }
}

fn authorise(
    view: &View<'_>,
    plane: Plane,
    caller: Option<&Identity>,
    request: &IamRequest<'_>,
) -> Result<Decided, Stop> {
    if request.capability.is_empty() {
        return Err(missing("capability"));
    }
    let resource = member("resource_json", &request.resource_json)?;
    let parameters = member("parameters_json", &request.parameters_json)?;
    let about = about(view, plane, caller, request)?;
    let question = Question { capability: &request.capability, targets: [&resource, &parameters] };
    let decide = |text: &str| view.workspace_named(text);
    let reason = decision::decide(&view.ctx.policy, about.principal(), &question, decide)?;
    let allow = reason.allows();
    let ttl_s = about.ttl(view, allow);
    Ok(Decided::Decision { allow, ttl_s, why: why(reason), about: Some(about.id), identity: about.identity })
}

/// Reads the target of a resource or parameters object.
pub fn member<'a>(field: &'static str, json: &'a str) -> Result<Member<'a>, OpError> {
    target_member(json).map_err(|error| OpError::invalid(field, error.to_string()))
}

fn authorise_many(
    view: &View<'_>,
    plane: Plane,
    caller: Option<&Identity>,
    request: &IamRequest<'_>,
) -> Result<Decided, Stop> {
    if request.authorise_checks.is_empty() {
        return Err(missing("authorise_checks"));
    }
    let checks = check_list(&request.authorise_checks)
        .map_err(|error| OpError::invalid("authorise_checks", error.to_string()))?;
    let about = about(view, plane, caller, request)?;
    let (allow_ttl, deny_ttl) = (about.ttl(view, true), about.ttl(view, false));
    let mut list = Vec::with_capacity(checks.len());
    let mut missing = false;
    for check in &checks {
        let allow = match check {
            None => false,
            Some((capability, resource, parameters)) => {
                let question = Question { capability, targets: [resource, parameters] };
                match decision::decide(&view.ctx.policy, about.principal(), &question, |text| {
                    view.workspace_named(text)
                }) {
                    Ok(reason) => reason.allows(),
                    // All that is missing is collected first, and loaded in one go.
                    Err(Stop::Missing) => {
                        missing = true;
                        false
                    }
                    Err(stop) => return Err(stop),
                }
            }
        };
        list.push(Decision { allow, ttl: if allow { allow_ttl } else { deny_ttl } });
    }
    if missing {
        return Err(Stop::Missing);
    }
    Ok(Decided::Decisions { list, about: Some(about.id), identity: about.identity })
}

/// The reason of a decision for the audit event.
fn why(reason: Reason<'_>) -> &'static str {
    match reason {
        Reason::Allowed => "",
        Reason::UnknownUser => "unknown user",
        Reason::DisabledUser => "user or home workspace disabled",
        Reason::MalformedTarget => "malformed target",
        Reason::UnknownCapability => "unknown capability",
        Reason::Lacking => "no role has the capability",
        Reason::OutOfScope { .. } => "target out of scope",
        Reason::DisabledWorkspace { .. } => "target workspace disabled",
    }
}
