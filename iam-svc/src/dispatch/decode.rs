//! Wire records to parsed values: every string is parsed here, once.

use std::collections::BTreeSet;
use std::str::FromStr;

use iam_schema::codec::Member;
use iam_schema::subject::Plane;
use iam_schema::{IamRequest, KeyId, KeyKid, OperationName, Secret, Timestamp, UserId, WorkspaceId};

use super::decide::member;
use crate::domain::policy::RoleName;
use crate::domain::users::{MAX_TEXT, NameKey, Username};
use crate::error::OpError;
use crate::ops::api_keys::CreateApiKey;
use crate::ops::decisions::Explain;
use crate::ops::sessions::{ChangePassword, Login};
use crate::ops::users::{CreateUser, UpdateUser};
use crate::ops::workspaces::{CreateWorkspace, UpdateWorkspace};
use crate::ops::{PageRequest, Who};

/// The longest request id and client address, in bytes.
const MAX_TAG: usize = 256;

/// A parsed request for an operation that may wait.
#[derive(Debug)]
pub enum Operation {
    Login(Login),
    ChangePassword(ChangePassword),
    Whoami,
    CreateUser(Box<CreateUser>),
    GetUser(Who, Option<WorkspaceId>),
    ListUsers(Option<WorkspaceId>, PageRequest),
    UpdateUser(Box<UpdateUser>),
    DisableUser(UserId, Option<WorkspaceId>),
    EnableUser(UserId, Option<WorkspaceId>),
    DeleteUser(UserId, Option<WorkspaceId>),
    RevokeUserTokens(Option<UserId>, Option<WorkspaceId>),
    ResetPassword(UserId, Option<WorkspaceId>),
    CreateApiKey(CreateApiKey),
    ListApiKeys(Option<UserId>, Option<WorkspaceId>, PageRequest),
    RevokeApiKey(KeyId, Option<WorkspaceId>),
    CreateWorkspace(CreateWorkspace),
    GetWorkspace(WorkspaceId),
    ListWorkspaces(PageRequest),
    ListMyWorkspaces(PageRequest),
    UpdateWorkspace(UpdateWorkspace),
    DisableWorkspace(WorkspaceId),
    GetSigningKeyPublic,
    GetJwks,
    RotateSigningKey,
    RetireSigningKey(KeyKid),
    Explain(Explain),
    Bootstrap,
    BootstrapStatus,
    /// Answered from memory, see [`super::decide`].
    Decide,
}

/// Parses what an operation takes.
///
/// # Errors
/// `Invalid`, naming the field.
pub fn operation(name: OperationName, plane: Plane, request: &IamRequest<'_>) -> Result<Operation, OpError> {
    tags(request)?;
    let workspace = || optional::<WorkspaceId>("workspace", &request.workspace);
    let user_id = || required::<UserId>("user_id", &request.user_id);
    let own_user_id = || match (plane, request.user_id.as_ref()) {
        (Plane::Api, "") => Ok(None),
        _ => user_id().map(Some),
    };
    let page = || {
        let page = PageRequest { size: request.page_size, token: request.page_token.to_string() };
        page.limit().map(|_| page)
    };

    Ok(match name {
        OperationName::Login => Operation::Login(login(request, workspace()?)?),
        OperationName::ChangePassword => Operation::ChangePassword(ChangePassword {
            user: user_id()?,
            password: secret("password", &request.password)?,
            new_password: secret("new_password", &request.new_password)?,
        }),
        OperationName::Whoami => Operation::Whoami,
        OperationName::CreateUser => Operation::CreateUser(Box::new(create_user(request)?)),
        OperationName::GetUser => Operation::GetUser(who(request)?, workspace()?),
        OperationName::ListUsers => Operation::ListUsers(workspace()?, page()?),
        OperationName::UpdateUser => {
            Operation::UpdateUser(Box::new(update_user(request, user_id()?, workspace()?)?))
        }
        OperationName::DisableUser => Operation::DisableUser(user_id()?, workspace()?),
        OperationName::EnableUser => Operation::EnableUser(user_id()?, workspace()?),
        OperationName::DeleteUser => Operation::DeleteUser(user_id()?, workspace()?),
        OperationName::RevokeUserTokens => Operation::RevokeUserTokens(own_user_id()?, workspace()?),
        OperationName::ResetPassword => Operation::ResetPassword(user_id()?, workspace()?),
        OperationName::CreateApiKey => Operation::CreateApiKey(create_api_key(request, plane, workspace()?)?),
        OperationName::ListApiKeys => Operation::ListApiKeys(own_user_id()?, workspace()?, page()?),
        OperationName::RevokeApiKey => {
            Operation::RevokeApiKey(required("key_id", &request.key_id)?, workspace()?)
        }
        OperationName::CreateWorkspace => Operation::CreateWorkspace(create_workspace(request)?),
        OperationName::GetWorkspace => Operation::GetWorkspace(workspace_id(request)?),
        OperationName::ListWorkspaces => Operation::ListWorkspaces(page()?),
        OperationName::ListMyWorkspaces => Operation::ListMyWorkspaces(page()?),
        OperationName::UpdateWorkspace => Operation::UpdateWorkspace(update_workspace(request)?),
        OperationName::DisableWorkspace => Operation::DisableWorkspace(workspace_id(request)?),
        OperationName::GetSigningKeyPublic => Operation::GetSigningKeyPublic,
        OperationName::GetJwks => Operation::GetJwks,
        OperationName::RotateSigningKey => Operation::RotateSigningKey,
        OperationName::RetireSigningKey => Operation::RetireSigningKey(required("key_id", &request.key_id)?),
        OperationName::Explain => Operation::Explain(explain(request, plane)?),
        OperationName::Bootstrap => Operation::Bootstrap,
        OperationName::BootstrapStatus => Operation::BootstrapStatus,
        OperationName::Authorise
        | OperationName::AuthoriseMany
        | OperationName::Authenticate
        | OperationName::ResolveApiKey
        | OperationName::AuthenticateAnonymous => Operation::Decide,
    })
}

/// Checks what every request may carry, whatever the operation.
///
/// # Errors
/// `Invalid`, naming the field.
pub fn tags(request: &IamRequest<'_>) -> Result<(), OpError> {
    text("request_id", &request.request_id, MAX_TAG)?;
    text("client_ip", &request.client_ip, MAX_TAG)
}

/// The actor that a service-plane request names.
///
/// # Errors
/// `Invalid`, when it is no user id.
pub fn actor(request: &IamRequest<'_>) -> Result<Option<UserId>, OpError> {
    optional("actor", &request.actor)
}

fn login(request: &IamRequest<'_>, workspace: Option<WorkspaceId>) -> Result<Login, OpError> {
    if request.username.is_empty() {
        return Err(missing("username"));
    }
    // Whether it is a possible username at all is not told: the answer is that for an unknown one.
    text("username", &request.username, MAX_TEXT)?;
    Ok(Login {
        username: request.username.to_string(),
        password: secret("password", &request.password)?,
        workspace,
    })
}

fn create_user(request: &IamRequest<'_>) -> Result<CreateUser, OpError> {
    let workspace = required("workspace", &request.workspace)?;
    let user = request.user.as_ref().ok_or_else(|| missing("user"))?;
    Ok(CreateUser {
        workspace,
        username: username("user.username", user.username.as_deref().unwrap_or_default())?,
        name: owned_text("user.name", user.name.as_deref())?.unwrap_or_default(),
        email: owned_text("user.email", user.email.as_deref())?.unwrap_or_default(),
        password: user.password.clone().filter(|password| !password.is_empty()),
        roles: roles(user.roles.as_deref())?.unwrap_or_default(),
        enabled: user.enabled.unwrap_or(true),
        must_change_password: user.must_change_password.unwrap_or(false),
    })
}

fn update_user(
    request: &IamRequest<'_>,
    id: UserId,
    workspace: Option<WorkspaceId>,
) -> Result<UpdateUser, OpError> {
    let user = request.user.as_ref().ok_or_else(|| missing("user"))?;
    if user.password.as_ref().is_some_and(|password| !password.is_empty()) {
        return Err(OpError::invalid("user.password", "cannot be set here: use reset-password"));
    }
    Ok(UpdateUser {
        user: id,
        workspace,
        username: user.username.as_deref().map(|name| username("user.username", name)).transpose()?,
        name: owned_text("user.name", user.name.as_deref())?,
        email: owned_text("user.email", user.email.as_deref())?,
        roles: roles(user.roles.as_deref())?,
        enabled: user.enabled,
        must_change_password: user.must_change_password,
    })
}

fn who(request: &IamRequest<'_>) -> Result<Who, OpError> {
    let id = optional("user_id", &request.user_id)?;
    let name = name_key(request)?;
    match (id, name) {
        (Some(id), Some(name)) => Ok(Who::Both(id, name)),
        (Some(id), None) => Ok(Who::Id(id)),
        (None, Some(name)) => Ok(Who::Name(name)),
        (None, None) => Err(missing("user_id")),
    }
}

fn name_key(request: &IamRequest<'_>) -> Result<Option<NameKey>, OpError> {
    match request.username.as_ref() {
        "" => Ok(None),
        name => username("username", name).map(|name| Some(name.key())),
    }
}

fn create_api_key(
    request: &IamRequest<'_>,
    plane: Plane,
    workspace: Option<WorkspaceId>,
) -> Result<CreateApiKey, OpError> {
    let key = request.key.as_ref().ok_or_else(|| missing("key"))?;
    let user = match (plane, key.user_id.as_str()) {
        (Plane::Api, "") => None,
        (_, id) => Some(required("key.user_id", id)?),
    };
    if key.name.is_empty() {
        return Err(missing("key.name"));
    }
    text("key.name", &key.name, MAX_TEXT)?;
    Ok(CreateApiKey {
        user,
        name: key.name.clone(),
        expires: optional::<Timestamp>("key.expires", &key.expires)?,
        workspace,
    })
}

fn create_workspace(request: &IamRequest<'_>) -> Result<CreateWorkspace, OpError> {
    let record = request.workspace_record.as_ref().ok_or_else(|| missing("workspace_record"))?;
    Ok(CreateWorkspace {
        id: workspace_id(request)?,
        name: owned_text("workspace_record.name", record.name.as_deref())?.unwrap_or_default(),
        enabled: record.enabled.unwrap_or(true),
    })
}

fn update_workspace(request: &IamRequest<'_>) -> Result<UpdateWorkspace, OpError> {
    let record = request.workspace_record.as_ref().ok_or_else(|| missing("workspace_record"))?;
    Ok(UpdateWorkspace {
        id: workspace_id(request)?,
        name: owned_text("workspace_record.name", record.name.as_deref())?,
        enabled: record.enabled,
    })
}

fn workspace_id(request: &IamRequest<'_>) -> Result<WorkspaceId, OpError> {
    let record = request.workspace_record.as_ref().ok_or_else(|| missing("workspace_record"))?;
    required("workspace_record.id", record.id.as_deref().unwrap_or_default())
}

fn explain(request: &IamRequest<'_>, plane: Plane) -> Result<Explain, OpError> {
    let user = optional("user_id", &request.user_id)?;
    let username = name_key(request)?;
    if user.is_none() && username.is_none() && plane == Plane::Service {
        return Err(missing("user_id"));
    }
    if request.capability.is_empty() {
        return Err(missing("capability"));
    }
    Ok(Explain {
        user,
        username,
        capability: request.capability.to_string(),
        resource: owned(member("resource_json", &request.resource_json)?),
        parameters: owned(member("parameters_json", &request.parameters_json)?),
    })
}

fn owned(member: Member<'_>) -> Member<'static> {
    match member {
        Member::Absent => Member::Absent,
        Member::Text(text) => Member::Text(text.into_owned().into()),
        Member::Other => Member::Other,
    }
}

fn missing(field: &'static str) -> OpError {
    OpError::invalid(field, "is missing")
}

fn required<T: FromStr<Err: ToString>>(field: &'static str, given: &str) -> Result<T, OpError> {
    optional(field, given)?.ok_or_else(|| missing(field))
}

fn optional<T: FromStr<Err: ToString>>(field: &'static str, given: &str) -> Result<Option<T>, OpError> {
    if given.is_empty() {
        return Ok(None);
    }
    given.parse().map(Some).map_err(|error: T::Err| OpError::invalid(field, error.to_string()))
}

fn username(field: &'static str, given: &str) -> Result<Username, OpError> {
    required(field, given)
}

fn secret(field: &'static str, given: &Secret) -> Result<Secret, OpError> {
    if given.is_empty() { Err(missing(field)) } else { Ok(given.clone()) }
}

fn text(field: &'static str, given: &str, most: usize) -> Result<(), OpError> {
    if given.len() > most {
        return Err(OpError::invalid(field, format!("is over {most} bytes")));
    }
    if given.chars().any(char::is_control) {
        return Err(OpError::invalid(field, "holds a control character"));
    }
    Ok(())
}

fn owned_text(field: &'static str, given: Option<&str>) -> Result<Option<String>, OpError> {
    match given {
        Some(given) => text(field, given, MAX_TEXT).map(|()| Some(given.to_owned())),
        None => Ok(None),
    }
}

fn roles(given: Option<&[String]>) -> Result<Option<BTreeSet<RoleName>>, OpError> {
    let Some(given) = given else { return Ok(None) };
    let role =
        |name: &String| name.parse().map_err(|rule: &'static str| OpError::invalid("user.roles", rule));
    given.iter().map(role).collect::<Result<_, _>>().map(Some)
}
