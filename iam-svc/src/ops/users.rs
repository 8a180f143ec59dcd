//! Users: made, found, changed, ended.

use std::collections::{BTreeSet, HashMap};

use iam_schema::changes::ChangeKind;
use iam_schema::decisions::capability;
use iam_schema::{OperationName, Secret, UserId, WorkspaceId};

use super::sessions::{check_password, new_hash};
use super::{
    Call, Done, GONE, Listed, PageRequest, Saved, TRIES, Target, UserView, Who, paging, save_user, target,
    target_to_change,
};
use crate::ctx::Ctx;
use crate::domain::policy::RoleName;
use crate::domain::shown::clipped;
use crate::domain::users::{User, Username};
use crate::domain::workspaces::Workspace;
use crate::error::{Denial, Noun, OpError};
use crate::store::{DeleteUser, InsertUser, Read};

#[derive(Debug)]
pub struct CreateUser {
    pub workspace: WorkspaceId,
    pub username: Username,
    pub name: String,
    pub email: String,
    /// Without one the user cannot log in until reset-password: a service account.
    pub password: Option<Secret>,
    pub roles: BTreeSet<RoleName>,
    pub enabled: bool,
    pub must_change_password: bool,
}

#[derive(Debug)]
pub struct UpdateUser {
    pub user: UserId,
    pub workspace: Option<WorkspaceId>,
    /// Must be exactly the present one; a username never changes.
    pub username: Option<Username>,
    pub name: Option<String>,
    pub email: Option<String>,
    pub roles: Option<BTreeSet<RoleName>>,
    pub enabled: Option<bool>,
    pub must_change_password: Option<bool>,
}

/// Creates a user in a workspace.
///
/// # Errors
/// `NotPermitted`, `NotFound` or `Disabled` for the workspace, `Invalid` for an unknown role, `WeakPassword`,
/// `Taken` for the name.
///
/// Source: protocol section 3, create-user.
pub async fn create_user(ctx: &Ctx, call: &mut Call, req: CreateUser) -> Result<Done, OpError> {
    call.place = Some(req.workspace.clone());
    call.caller.require(&ctx.policy, capability::USERS_ADMIN)?;
    call.caller.require_in(&ctx.policy, capability::USERS_ADMIN, &req.workspace)?;
    known_roles(ctx, &req.roles)?;
    call.caller.dominates(&ctx.policy.grants(&req.roles), &req.workspace)?;
    let home = ctx.store.workspace(&req.workspace, Read::Serial).await?;
    let home = home.ok_or(OpError::NotFound(Noun::Workspace))?;
    if !home.enabled {
        return Err(OpError::Disabled(Noun::Workspace));
    }
    let password = match req.password {
        Some(password) => {
            check_password(ctx, &password, req.username.as_str(), &req.email).await?;
            Some(new_hash(ctx, password).await?)
        }
        None => None,
    };

    let user = User {
        id: ctx.entropy.user_id(call.now),
        version: 1,
        workspace: req.workspace,
        workspace_epoch: home.epoch,
        username: req.username,
        name: req.name,
        email: req.email,
        roles: req.roles,
        enabled: req.enabled,
        must_change_password: req.must_change_password,
        password,
        temporary_until: None,
        key_epoch: 0,
        token_epoch: 0,
        created: call.now,
    };
    call.subject = Some(user.id);
    let answer = ctx.store.insert_user(&user).await;
    match call.written(ChangeKind::User, &user.id, user.version, answer)? {
        InsertUser::Inserted => {
            call.changed_user(&user);
            Ok(shown(Target { user, home }))
        }
        InsertUser::NameTaken => Err(OpError::Taken(Noun::Username)),
    }
}

fn known_roles(ctx: &Ctx, roles: &BTreeSet<RoleName>) -> Result<(), OpError> {
    match roles.iter().find(|role| !ctx.policy.knows_role(role)) {
        Some(role) => {
            Err(OpError::invalid("user.roles", format!("no role `{}` in the policy", clipped(role.as_str()))))
        }
        None => Ok(()),
    }
}

/// One user, by id or by name.
///
/// # Errors
/// `NotPermitted`, `NotFound`, `Invalid` when id and name are of two users.
pub async fn get_user(
    ctx: &Ctx,
    call: &mut Call,
    who: Who,
    workspace: Option<WorkspaceId>,
) -> Result<Done, OpError> {
    let target = target(ctx, call, capability::USERS_READ, &who, workspace.as_ref()).await?;
    Ok(shown(target))
}

/// A page of the users of a workspace, or of the deployment.
///
/// # Errors
/// `NotPermitted`, `NotFound` for the workspace, `Invalid` for size or token.
pub async fn list_users(
    ctx: &Ctx,
    call: &mut Call,
    workspace: Option<WorkspaceId>,
    page: PageRequest,
) -> Result<Done, OpError> {
    const LIST: OperationName = OperationName::ListUsers;
    let filter = workspace.as_ref().map_or("", WorkspaceId::as_str);
    let (limit, after) = (page.limit()?, page.after::<UserId>(LIST, filter)?);
    call.caller.require(&ctx.policy, capability::USERS_READ)?;
    match &workspace {
        Some(workspace) => {
            call.place = Some(workspace.clone());
            call.caller.require_in(&ctx.policy, capability::USERS_READ, workspace)?;
            let known = ctx.store.workspace(workspace, Read::Ordinary).await?;
            known.ok_or(OpError::NotFound(Noun::Workspace))?;
        }
        None => call.caller.require_everywhere(&ctx.policy, capability::USERS_READ)?,
    }

    let mut found = ctx.store.list_users(workspace.as_ref(), after, limit).await?;
    let fitting = paging::fitting(found.items.iter().map(|user| {
        let texts = [user.username.as_str(), user.name.as_str(), user.email.as_str()];
        texts.into_iter().chain(user.roles.iter().map(RoleName::as_str))
    }));
    if fitting < found.items.len() {
        found.items.truncate(fitting);
        found.next = found.items.last().map(|user| user.id);
    }
    let mut homes: HashMap<WorkspaceId, Workspace> = HashMap::new();
    let mut items = Vec::with_capacity(found.items.len());
    for user in found.items {
        let home = match homes.get(&user.workspace) {
            Some(home) => home,
            None => {
                let home = super::home_of(ctx, &user).await?;
                homes.entry(user.workspace.clone()).or_insert(home)
            }
        };
        items.push(UserView { effectively_enabled: user.effectively_enabled(home), user });
    }
    let next = found.next.map(|after| paging::token(LIST, filter, &after));
    Ok(Done::Users(Listed { items, next }))
}

/// Changes what is given of a user, and leaves what is absent.
///
/// # Errors
/// `NotPermitted`, `NotFound`, `Invalid` for another username or an unknown role, `Disabled` when enabling in
/// a disabled workspace, `Conflict`.
///
/// Source: protocol section 3, update-user.
pub async fn update_user(ctx: &Ctx, call: &mut Call, req: UpdateUser) -> Result<Done, OpError> {
    call.caller.require(&ctx.policy, capability::USERS_WRITE)?;
    if req.roles.is_some() || req.must_change_password == Some(false) {
        call.caller.require(&ctx.policy, capability::USERS_ADMIN)?;
    }
    for _ in 0..TRIES {
        let target =
            target_to_change(ctx, call, capability::USERS_WRITE, req.user, req.workspace.as_ref()).await?;
        let to = updated(ctx, call, &req, &target)?;
        if to == target.user.changed(|_| ()) {
            return Ok(shown(target));
        }
        if save_user(ctx, call, &target.user, &to).await? == Saved::Yes {
            return Ok(shown(Target { user: to, home: target.home }));
        }
    }
    Err(OpError::Conflict)
}

/// The record as it is to be; equal but for the version when nothing changes.
fn updated(ctx: &Ctx, call: &Call, req: &UpdateUser, target: &Target) -> Result<User, OpError> {
    let user = &target.user;
    let turns = req.enabled.filter(|enabled| *enabled != target.effectively_enabled());
    if turns.is_some() || req.roles.is_some() || req.must_change_password == Some(false) {
        call.caller.require(&ctx.policy, capability::USERS_ADMIN)?;
        call.caller.require_in(&ctx.policy, capability::USERS_ADMIN, &user.workspace)?;
    }
    if req.username.as_ref().is_some_and(|name| *name != user.username) {
        return Err(OpError::invalid("user.username", "cannot be changed"));
    }
    if let Some(roles) = &req.roles {
        known_roles(ctx, roles)?;
        call.caller.dominates(&ctx.policy.grants(roles), &user.workspace)?;
    }
    if turns == Some(true) && !target.home.enabled {
        return Err(OpError::Disabled(Noun::Workspace));
    }
    Ok(user.changed(|to| {
        if let Some(name) = &req.name {
            to.name.clone_from(name);
        }
        if let Some(email) = &req.email {
            to.email.clone_from(email);
        }
        if let Some(roles) = &req.roles {
            to.roles.clone_from(roles);
        }
        if let Some(must_change) = req.must_change_password {
            to.must_change_password = must_change;
        }
        match turns {
            Some(true) => enable(to, &target.home),
            Some(false) => disable(to),
            None => {}
        }
    }))
}

fn enable(user: &mut User, home: &Workspace) {
    user.enabled = true;
    user.workspace_epoch = home.epoch;
    user.end_tokens();
    user.end_keys();
}

fn disable(user: &mut User) {
    user.enabled = false;
    user.end_tokens();
    user.end_keys();
}

/// Disables a user, and ends all tokens and keys. Of a disabled one: does nothing.
///
/// # Errors
/// `NotPermitted`, also for the last root admin; `NotFound`, `Conflict`.
pub async fn disable_user(
    ctx: &Ctx,
    call: &mut Call,
    user: UserId,
    workspace: Option<WorkspaceId>,
) -> Result<Done, OpError> {
    for _ in 0..TRIES {
        let target = target_to_change(ctx, call, capability::USERS_ADMIN, user, workspace.as_ref()).await?;
        if !target.effectively_enabled() {
            return Ok(Done::Nothing);
        }
        let to = target.user.changed(disable);
        if save_user(ctx, call, &target.user, &to).await? == Saved::Yes {
            return Ok(Done::Nothing);
        }
    }
    Err(OpError::Conflict)
}

/// Enables a user; tokens and keys of before stay dead. Of an enabled one: does nothing.
///
/// # Errors
/// `NotPermitted`, `NotFound`, `Disabled` when the home workspace is, `Conflict`.
pub async fn enable_user(
    ctx: &Ctx,
    call: &mut Call,
    user: UserId,
    workspace: Option<WorkspaceId>,
) -> Result<Done, OpError> {
    for _ in 0..TRIES {
        let mut target =
            target_to_change(ctx, call, capability::USERS_ADMIN, user, workspace.as_ref()).await?;
        if target.effectively_enabled() {
            return Ok(Done::Nothing);
        }
        // The epoch is written into the user, so it must be the one that disabling will go on from.
        if let Some(home) = ctx.store.workspace(&target.user.workspace, Read::Serial).await? {
            target.home = home;
        }
        if !target.home.enabled {
            return Err(OpError::Disabled(Noun::Workspace));
        }
        let to = target.user.changed(|user| enable(user, &target.home));
        if save_user(ctx, call, &target.user, &to).await? == Saved::Yes {
            return Ok(Done::Nothing);
        }
    }
    Err(OpError::Conflict)
}

/// Removes a user, the claim on the name, and all keys.
///
/// # Errors
/// `NotPermitted`, also for the last root admin; `NotFound`, `Conflict`.
pub async fn delete_user(
    ctx: &Ctx,
    call: &mut Call,
    user: UserId,
    workspace: Option<WorkspaceId>,
) -> Result<Done, OpError> {
    for _ in 0..TRIES {
        let target = target_to_change(ctx, call, capability::USERS_ADMIN, user, workspace.as_ref()).await?;
        let answer = ctx.store.delete_user(&target.user).await;
        match call.written(ChangeKind::User, &user, target.user.version, answer)? {
            DeleteUser::Deleted => {
                call.changed(ChangeKind::User, &user, GONE);
                return Ok(Done::Nothing);
            }
            DeleteUser::LostRace => {}
            DeleteUser::LastRootAdmin => return Err(Denial::LastRootAdmin.into()),
        }
    }
    Err(OpError::Conflict)
}

/// The answer that shows a user.
pub(super) fn shown(target: Target) -> Done {
    let effectively_enabled = target.effectively_enabled();
    Done::User(Box::new(UserView { user: target.user, effectively_enabled }))
}
