//! The operations that are answered from memory: authenticate, resolve-api-key, authenticate-anonymous,
//! authorise and authorise-many.

use std::sync::Arc;

use iam_schema::codec::{CheckElement, Member, check_list, target_member};
use iam_schema::decisions::Decision;
use iam_schema::ids::IdError;
use iam_schema::subject::Plane;
use iam_schema::{IamRequest, OperationName, Secret, Timestamp, UserId};

use super::decode;
use super::identity::{Identity, Stop, View};
use crate::domain::decision::{self, Principal, Question, Reason};
use crate::error::{AuthFailure, Denial, OpError};

/// The most checks of one authorise-many that are taken on the front thread.
const MAX_CHECKS_NOW: usize = 128;

/// An answer out of memory.
#[derive(Debug)]
pub enum Decided {
    Identity(Identity),
    Decision {
        allow: bool,
        ttl_s: u32,
        identity: Option<Identity>,
        why: &'static str,
        about: Option<UserId>,
        /// The first target, for the audit.
        target: Option<Box<str>>,
    },
    Decisions {
        list: Vec<Decision>,
        identity: Option<Identity>,
        about: Option<UserId>,
    },
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
    // What names no capability is denied without a look.
    request.authorise_checks.matches("capability").count() <= MAX_CHECKS_NOW
}

/// A question whose syntax was checked: that comes before the credential, and once however often it is asked.
#[derive(Debug)]
pub enum Asked<'r> {
    Authenticate(&'r Secret),
    ResolveApiKey(&'r Secret),
    Anonymous,
    Authorise { whom: Whom<'r>, capability: &'r str, resource: Member<'r>, parameters: Member<'r> },
    AuthoriseMany { whom: Whom<'r>, checks: Vec<CheckElement<'r>> },
}

/// Whom a decision is to be about.
#[derive(Debug, Clone, Copy)]
pub enum Whom<'r> {
    Holder(&'r Secret),
    User(UserId),
    /// Nobody was named, which on the API plane means oneself.
    Oneself,
}

/// Reads what these operations take.
///
/// # Errors
/// `Invalid`, naming the field.
pub fn read<'r>(
    operation: OperationName,
    plane: Plane,
    request: &'r IamRequest<'_>,
) -> Result<Asked<'r>, OpError> {
    decode::tags(request)?;
    let given = |field, secret: &'r Secret| if secret.is_empty() { Err(missing(field)) } else { Ok(secret) };
    match operation {
        OperationName::Authenticate => given("credential", &request.credential).map(Asked::Authenticate),
        OperationName::ResolveApiKey => given("api_key", &request.api_key).map(Asked::ResolveApiKey),
        OperationName::AuthenticateAnonymous => Ok(Asked::Anonymous),
        OperationName::Authorise => {
            if request.capability.is_empty() {
                return Err(missing("capability"));
            }
            Ok(Asked::Authorise {
                capability: &request.capability,
                resource: member("resource_json", &request.resource_json)?,
                parameters: member("parameters_json", &request.parameters_json)?,
                whom: whom(plane, request)?,
            })
        }
        _ => {
            if request.authorise_checks.is_empty() {
                return Err(missing("authorise_checks"));
            }
            let checks = check_list(&request.authorise_checks)
                .map_err(|error| OpError::invalid("authorise_checks", error.to_string()))?;
            Ok(Asked::AuthoriseMany { checks, whom: whom(plane, request)? })
        }
    }
}

fn whom<'r>(plane: Plane, request: &'r IamRequest<'_>) -> Result<Whom<'r>, OpError> {
    match (request.user_id.as_ref(), request.credential.is_empty()) {
        ("", false) => Ok(Whom::Holder(&request.credential)),
        ("", true) if plane == Plane::Service => Err(missing("user_id")),
        ("", true) => Ok(Whom::Oneself),
        (_, false) => Err(OpError::invalid("user_id", "and `credential` cannot be given together")),
        (id, true) => {
            id.parse().map(Whom::User).map_err(|e: IdError| OpError::invalid("user_id", e.to_string()))
        }
    }
}

/// Answers, or says what is missing.
///
/// `caller` is whom the API plane recognised; on the service plane there is none.
pub fn answer(
    view: &View<'_>,
    plane: Plane,
    caller: Option<&Identity>,
    asked: &Asked<'_>,
) -> Result<Decided, Stop> {
    match asked {
        Asked::Authenticate(credential) => ordinary(view.identify(credential)?).map(Decided::Identity),
        Asked::ResolveApiKey(key) => view.identify_key(key).map(Decided::Identity),
        Asked::Anonymous => view.anonymous().map(Decided::Identity),
        Asked::Authorise { whom, capability, resource, parameters } => {
            let question = Question { capability, targets: [resource, parameters] };
            authorise(view, about(view, plane, caller, *whom)?, &question)
        }
        Asked::AuthoriseMany { whom, checks } => {
            authorise_many(view, about(view, plane, caller, *whom)?, checks)
        }
    }
}

fn missing(field: &'static str) -> OpError {
    OpError::invalid(field, "is missing")
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

fn about(view: &View<'_>, plane: Plane, caller: Option<&Identity>, whom: Whom<'_>) -> Result<About, Stop> {
    let oneself = match plane {
        Plane::Service => None,
        // Without a caller nobody gets here on the API plane; if one did, it would be refused.
        Plane::Api => Some(caller.ok_or(AuthFailure::NoCredential)?.principal.id),
    };
    let id = match (whom, oneself) {
        (Whom::Holder(credential), _) => {
            let identity = ordinary(view.identify(credential)?)?;
            let id = identity.principal.id;
            only_oneself(oneself, id)?;
            let principal = Some((identity.principal.clone(), true));
            return Ok(About { id, principal, identity: Some(identity) });
        }
        (Whom::User(id), _) => id,
        (Whom::Oneself, Some(oneself)) => oneself,
        (Whom::Oneself, None) => return Err(missing("user_id").into()),
    };
    only_oneself(oneself, id)?;
    Ok(About { id, principal: view.alive(id)?, identity: None })
}

fn only_oneself(oneself: Option<UserId>, id: UserId) -> Result<(), Stop> {
    match oneself {
        Some(oneself) if oneself != id => Err(Stop::Failed(Denial::NotOneself.into())),
        _ => Ok(()),
    }
}

fn authorise(view: &View<'_>, about: About, question: &Question<'_>) -> Result<Decided, Stop> {
    let state = |text: &str| view.workspace_named(text);
    let reason = decision::decide(&view.ctx.policy, about.principal(), question, state)?;
    let allow = reason.allows();
    let ttl_s = about.ttl(view, allow);
    let target = question.target_texts().next().map(Box::from);
    let (why, identity) = (why(reason), about.identity);
    Ok(Decided::Decision { allow, ttl_s, why, about: Some(about.id), identity, target })
}

/// Reads the target of a resource or parameters object.
pub fn member<'a>(field: &'static str, json: &'a str) -> Result<Member<'a>, OpError> {
    target_member(json).map_err(|error| OpError::invalid(field, error.to_string()))
}

fn authorise_many(view: &View<'_>, about: About, checks: &[CheckElement<'_>]) -> Result<Decided, Stop> {
    let (allow_ttl, deny_ttl) = (about.ttl(view, true), about.ttl(view, false));
    let mut list = Vec::with_capacity(checks.len());
    let mut missing = false;
    for check in checks {
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
