//! Which operations clients may ask for, what each needs, and what is filled in where a body leaves it out.

use std::sync::LazyLock;

use iam_client::gateway::registry::{Needs, Registry, Rule};
use iam_client::sessions::Identity;
use iam_schema::{IamRequest, IamResponse, OperationName};
use serde_json::{Value, json};

use OperationName::*;

use crate::failure::Failure;

/// What may be asked for. The rest, such as decisions about others, is between services.
const OFFERED: &[OperationName] = &[
    Login,
    Bootstrap,
    BootstrapStatus,
    GetSigningKeyPublic,
    GetJwks,
    Whoami,
    ChangePassword,
    ListMyWorkspaces,
    CreateUser,
    ListUsers,
    GetUser,
    UpdateUser,
    DisableUser,
    EnableUser,
    DeleteUser,
    ResetPassword,
    RevokeUserTokens,
    CreateApiKey,
    ListApiKeys,
    RevokeApiKey,
    CreateWorkspace,
    ListWorkspaces,
    GetWorkspace,
    UpdateWorkspace,
    DisableWorkspace,
    RotateSigningKey,
    RetireSigningKey,
];

/// The workspace that a request is about, by the first of these that is there.
const WORKSPACE: &[&str] = &["user.workspace", "workspace_record.id", "workspace", "@workspace"];

/// Each operation that is offered, with what the gateway asks of its caller first. The service decides again.
pub static REGISTRY: LazyLock<Registry> = LazyLock::new(|| {
    OFFERED.iter().map(|operation| (operation.as_str().to_owned(), rule(*operation))).collect()
});

fn rule(operation: OperationName) -> Rule {
    use iam_schema::Needs as Wire;
    match operation.needs() {
        Wire::Public => Rule::new(Needs::Nothing),
        Wire::Authenticated => Rule::new(Needs::Authenticated),
        // Asked for one by one once it is known who the caller is.
        Wire::Capability(capability)
        | Wire::CapabilityOrOneself(capability)
        | Wire::CapabilityOrOwn(capability, _) => {
            let rule = Rule::new(Needs::Capability(capability.to_owned()));
            match capability.starts_with("users:") || capability.starts_with("keys:") {
                true => rule.parameter("workspace", WORKSPACE),
                false => rule,
            }
        }
        // Nobody has an empty capability: such an operation is offered by mistake.
        Wire::ServicePlane | Wire::ServicePlaneOrOneself => Rule::new(Needs::Capability(String::new())),
    }
}

/// What the gateway looks at in a body: the operation, and where the registry finds a workspace. The rest is left to
/// the codec: what stands in a body of nobody in particular is not to be held longer than it takes to read it.
///
/// # Errors
/// `InvalidJson`, `NotAnObject`.
pub fn outline(body: &[u8]) -> Result<(String, Value), Failure> {
    let value: Value = serde_json::from_slice(body).map_err(|_| Failure::InvalidJson)?;
    if !value.is_object() {
        return Err(Failure::NotAnObject);
    }
    let text = |path: &str| {
        let found = path.split('.').try_fold(&value, |value, name| value.get(name))?;
        found.as_str().map(str::to_owned)
    };
    let outline = json!({
        "user": { "workspace": text("user.workspace") },
        "workspace_record": { "id": text("workspace_record.id") },
        "workspace": text("workspace"),
    });
    Ok((text("operation").unwrap_or_default(), outline))
}

/// What a reply lacks that the operation always returns: it is no answer then.
pub fn lacks(operation: OperationName, response: &IamResponse) -> Option<&'static str> {
    let (field, there) = match operation {
        Login => ("jwt", !response.jwt.is_empty() && response.jwt_expires.is_some()),
        Bootstrap => ("bootstrap_admin_api_key", !response.bootstrap_admin_api_key.is_empty()),
        BootstrapStatus => ("bootstrap_available", response.bootstrap_available.is_some()),
        GetSigningKeyPublic => ("signing_key_public", !response.signing_key_public.is_empty()),
        GetJwks => ("jwks_json", !response.jwks_json.is_empty()),
        Whoami | CreateUser | GetUser | UpdateUser => ("user", response.user.is_some()),
        ResetPassword => ("temporary_password", !response.temporary_password.is_empty()),
        CreateApiKey => ("api_key", response.api_key.is_some() && !response.api_key_plaintext.is_empty()),
        CreateWorkspace | GetWorkspace | UpdateWorkspace => ("workspace", response.workspace.is_some()),
        _ => return None,
    };
    (!there).then_some(field)
}

/// What a caller may do with a lesser capability, or none, where it concerns themselves.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Own {
    Nothing,
    Anybody,
    Capability(&'static str),
}

/// What of an operation somebody may do for themselves, if this request is about the caller or may be.
pub fn own(operation: OperationName, request: &IamRequest<'_>, caller: &Identity) -> Own {
    use iam_schema::Needs as Wire;
    let caller = caller.user_id.to_string();
    let about = match &request.key {
        Some(key) if operation == CreateApiKey => key.user_id.as_str(),
        _ => request.user_id.as_ref(),
    };
    // Whose a key is that is named by its id, the service knows.
    if operation != RevokeApiKey && about != caller {
        return Own::Nothing;
    }
    match operation.needs() {
        Wire::CapabilityOrOneself(_) => Own::Anybody,
        Wire::CapabilityOrOwn(_, capability) => Own::Capability(capability),
        _ => Own::Nothing,
    }
}

/// Fills in what stands for the caller where a body leaves it out, and overwrites what only the gateway may say.
pub fn complete(operation: OperationName, request: &mut IamRequest<'_>, caller: Option<&Identity>) {
    request.operation = operation.as_str().into();
    request.actor = Default::default();
    request.credential = Default::default();
    request.api_key = Default::default();
    let Some(caller) = caller else { return };
    let id = caller.user_id.to_string();
    match operation {
        ChangePassword | ListApiKeys | RevokeUserTokens if request.user_id.is_empty() => {
            request.user_id = id.clone().into();
        }
        CreateApiKey => match &mut request.key {
            Some(key) if key.user_id.is_empty() => key.user_id.clone_from(&id),
            _ => {}
        },
        CreateUser if request.workspace.is_empty() => {
            request.workspace = caller.workspace.as_str().to_owned().into();
        }
        _ => {}
    }
    request.actor = id.into();
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_operation_that_is_offered_can_be_done_by_somebody() {
        for (operation, rule) in REGISTRY.iter() {
            assert_ne!(rule.needs, Needs::Capability(String::new()), "{operation}");
        }
        let hidden = [ResolveApiKey, Authenticate, AuthenticateAnonymous, Authorise, AuthoriseMany, Explain];
        for operation in OperationName::ALL {
            let offered = REGISTRY.rule(operation.as_str()).is_some();
            assert_ne!(offered, hidden.contains(operation), "{operation}");
        }
        assert!(REGISTRY.rule("mint-token").is_none());
    }
}
