//! Outcomes to wire records. The only place where an error of ours meets the wire, and where reasons are masked.

use iam_schema::api_keys::ApiKeyRecord;
use iam_schema::codec::{Format, encode};
use iam_schema::subject::Plane;
use iam_schema::users::UserRecord;
use iam_schema::workspaces::WorkspaceRecord;
use iam_schema::{ErrorKind, IamResponse, Timestamp, WireError};

use super::Reply;
use super::decide::Decided;
use super::identity::Identity;
use crate::domain::api_keys::ApiKey;
use crate::domain::workspaces::Workspace;
use crate::error::{Noun, OpError};
use crate::ops::{Done, Listed, UserView};

/// The one text for every failed authentication.
const AUTH_FAILURE: &str = "auth failure";
/// The one text for every refusal on the API plane.
const ACCESS_DENIED: &str = "access denied";

/// Writes a reply.
pub fn write(response: &IamResponse, format: Format) -> Reply {
    let error = response.error.as_ref().and_then(WireError::known_kind);
    match encode(response, format) {
        Ok(payload) => Reply { payload, error },
        // Our own records can be written; an empty map is a reply that claims nothing.
        Err(_) => Reply { payload: vec![0x80], error: Some(ErrorKind::InternalError) },
    }
}

/// What a caller is told of an error.
pub fn error(error: &OpError, plane: Plane, request_id: &str) -> WireError {
    match error {
        OpError::Invalid { field, rule } if field.is_empty() => {
            WireError::new(ErrorKind::InvalidArgument, rule.as_ref())
        }
        OpError::Invalid { field, rule } => {
            WireError::new(ErrorKind::InvalidArgument, format!("`{field}` {rule}"))
        }
        OpError::WeakPassword(rule) => WireError::new(ErrorKind::WeakPassword, rule.as_ref()),
        OpError::NotFound(noun) => WireError::new(ErrorKind::NotFound, format!("no such {}", name(*noun))),
        OpError::Taken(noun) => WireError::new(ErrorKind::Duplicate, format!("{} is taken", name(*noun))),
        OpError::Disabled(noun) => {
            WireError::new(ErrorKind::Disabled, format!("the {} is disabled", name(*noun)))
        }
        OpError::Conflict => {
            WireError::new(ErrorKind::Conflict, "a concurrent change won, or the change is not possible now")
        }
        OpError::AuthFailed(_) => WireError::new(ErrorKind::AuthFailed, AUTH_FAILURE),
        OpError::NotPermitted(denial) => {
            let message = match plane {
                Plane::Api => ACCESS_DENIED,
                Plane::Service => denial.as_str(),
            };
            WireError::new(ErrorKind::OperationNotPermitted, message)
        }
        OpError::Throttled => {
            WireError::new(ErrorKind::Throttled, "too many failed attempts; try again later")
        }
        OpError::NotSupported(what) => WireError::new(ErrorKind::NotSupported, *what),
        OpError::Unavailable(_) => {
            WireError::new(ErrorKind::Unavailable, "not available now; nothing was decided")
        }
        OpError::Internal(_) => {
            WireError::new(ErrorKind::InternalError, format!("internal error, request {request_id}"))
        }
    }
}

fn name(noun: Noun) -> &'static str {
    match noun {
        Noun::User => "user",
        Noun::Workspace => "workspace",
        Noun::ApiKey => "API key",
        Noun::SigningKey => "signing key",
        Noun::Username => "username",
        Noun::KeyName => "key name",
        Noun::WorkspaceId => "workspace id",
    }
}

/// The record of a failure.
pub fn failed(error: WireError) -> IamResponse {
    IamResponse { error: Some(error), ..IamResponse::default() }
}

/// The record of an answer out of memory.
pub fn decided(decided: &Decided) -> IamResponse {
    match decided {
        Decided::Identity(identity) => resolved(identity),
        Decided::Decision { allow, ttl_s, identity, .. } => IamResponse {
            decision_allow: Some(*allow),
            decision_ttl_seconds: *ttl_s,
            ..identity.as_ref().map(resolved).unwrap_or_default()
        },
        Decided::Decisions { list, identity, .. } => IamResponse {
            // A list of booleans and integers can be written.
            decisions_json: serde_json::to_string(list).unwrap_or_default(),
            ..identity.as_ref().map(resolved).unwrap_or_default()
        },
    }
}

fn resolved(identity: &Identity) -> IamResponse {
    IamResponse {
        resolved_user_id: identity.principal.id.to_string(),
        resolved_workspace: identity.workspace.to_string(),
        resolved_roles: identity.roles().iter().map(ToString::to_string).collect(),
        resolved_key_id: identity.key.map(|id| id.to_string()).unwrap_or_default(),
        resolved_expires: identity.expires,
        resolved_source: identity.source.as_str().to_owned(),
        ..IamResponse::default()
    }
}

/// The record of an operation that was done.
pub fn done(done: Done) -> IamResponse {
    let mut response = IamResponse::default();
    match done {
        Done::Nothing => {}
        Done::LoggedIn { jwt, expires, must_change_password } => {
            response.jwt = jwt;
            response.jwt_expires = Some(expires);
            response.must_change_password = must_change_password;
        }
        Done::User(view) => response.user = Some(user(*view)),
        Done::Users(listed) => {
            response.next_page_token = token(&listed);
            response.users = listed.items.into_iter().map(user).collect();
        }
        Done::Workspace(record) => response.workspace = Some(workspace(record)),
        Done::Workspaces(listed) => {
            response.next_page_token = token(&listed);
            response.workspaces = listed.items.into_iter().map(workspace).collect();
        }
        Done::KeyCreated { plaintext, key } => {
            response.api_key_plaintext = plaintext;
            response.api_key = Some(api_key(key, None));
        }
        Done::Keys(listed) => {
            response.next_page_token = token(&listed);
            response.api_keys = listed.items.into_iter().map(|(key, used)| api_key(key, used)).collect();
        }
        Done::TemporaryPassword(password) => response.temporary_password = password,
        Done::PublicKey(pem) => response.signing_key_public = pem,
        Done::Jwks(jwks) => response.jwks_json = jwks,
        Done::Explained { allow, ttl_s, reason } => {
            response.decision_allow = Some(allow);
            response.decision_ttl_seconds = ttl_s;
            response.decision_reason = reason;
        }
        Done::Seeded { admin, key } => {
            response.bootstrap_admin_user_id = admin.to_string();
            response.bootstrap_admin_api_key = key;
        }
        Done::BootstrapStatus(available) => response.bootstrap_available = Some(available),
    }
    response
}

fn token<T>(listed: &Listed<T>) -> String {
    listed.next.as_ref().map(|token| token.0.clone()).unwrap_or_default()
}

fn user(view: UserView) -> UserRecord {
    let user = view.user;
    UserRecord {
        id: user.id.to_string(),
        workspace: user.workspace.to_string(),
        username: user.username.to_string(),
        name: user.name,
        email: user.email,
        roles: user.roles.iter().map(ToString::to_string).collect(),
        enabled: view.effectively_enabled,
        must_change_password: user.must_change_password,
        created: Some(user.created),
        version: user.version,
    }
}

fn workspace(workspace: Workspace) -> WorkspaceRecord {
    WorkspaceRecord {
        id: workspace.id.to_string(),
        name: workspace.name,
        enabled: workspace.enabled,
        created: Some(workspace.created),
        version: workspace.version,
    }
}

fn api_key(key: ApiKey, last_used: Option<Timestamp>) -> ApiKeyRecord {
    ApiKeyRecord {
        id: key.id.to_string(),
        user_id: key.user.to_string(),
        name: key.name,
        prefix: key.prefix,
        expires: key.expires,
        created: Some(key.created),
        last_used,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::error::{AuthFailure, Denial};

    #[test]
    fn every_error_has_its_kind_and_masked_ones_say_nothing() {
        let rows: Vec<(OpError, &str, &str)> = vec![
            (OpError::invalid("user_id", "is missing"), "invalid-argument", "`user_id` is missing"),
            (OpError::invalid("", "unknown operation"), "invalid-argument", "unknown operation"),
            (OpError::WeakPassword("too short".into()), "weak-password", "too short"),
            (OpError::NotFound(Noun::User), "not-found", "no such user"),
            (OpError::Taken(Noun::Username), "duplicate", "username is taken"),
            (OpError::Disabled(Noun::Workspace), "disabled", "the workspace is disabled"),
            (OpError::Conflict, "conflict", "a concurrent change won, or the change is not possible now"),
            (OpError::AuthFailed(AuthFailure::WrongPassword), "auth-failed", "auth failure"),
            (OpError::AuthFailed(AuthFailure::UnknownUser), "auth-failed", "auth failure"),
            (OpError::NotPermitted(Denial::LastRootAdmin), "operation-not-permitted", "access denied"),
            (OpError::Throttled, "throttled", "too many failed attempts; try again later"),
            (OpError::NotSupported("not here"), "not-supported", "not here"),
            (
                OpError::Unavailable("disk on fire".into()),
                "unavailable",
                "not available now; nothing was decided",
            ),
            (OpError::Internal("secret detail".into()), "internal-error", "internal error, request r1"),
        ];
        for (op_error, kind, message) in &rows {
            let wire = error(op_error, Plane::Api, "r1");
            assert_eq!((wire.kind.as_str(), wire.message.as_str()), (*kind, *message), "{op_error:?}");
        }
        let kinds: std::collections::BTreeSet<_> = rows.iter().map(|(_, kind, _)| *kind).collect();
        assert_eq!(kinds.len(), ErrorKind::ALL.len(), "a kind has no row here");
    }

    #[test]
    fn service_plane_is_told_why() {
        let denied = OpError::NotPermitted(Denial::LastRootAdmin);
        assert!(error(&denied, Plane::Service, "").message.contains("root admin"));
        let refused = OpError::AuthFailed(AuthFailure::WrongPassword);
        assert_eq!(error(&refused, Plane::Service, "").message, "auth failure");
    }
}
