//! Workspaces: made, found, changed, disabled.

use iam_schema::changes::ChangeKind;
use iam_schema::decisions::capability;
use iam_schema::{OperationName, WorkspaceId};

use super::{Call, Done, Listed, PageRequest, TRIES, paging};
use crate::ctx::Ctx;
use crate::domain::workspaces::Workspace;
use crate::error::{Denial, Noun, OpError};
use crate::store::{self, InsertWorkspace, Read, SeedState};

#[derive(Debug)]
pub struct CreateWorkspace {
    pub id: WorkspaceId,
    pub name: String,
    pub enabled: bool,
}

#[derive(Debug)]
pub struct UpdateWorkspace {
    pub id: WorkspaceId,
    pub name: Option<String>,
    pub enabled: Option<bool>,
}

/// Creates a workspace; never before the seeding, which needs an empty store.
///
/// # Errors
/// `NotPermitted`, `Taken` for the id.
pub async fn create_workspace(ctx: &Ctx, call: &mut Call, req: CreateWorkspace) -> Result<Done, OpError> {
    call.place = Some(req.id.clone());
    call.caller.require_everywhere(&ctx.policy, capability::WORKSPACES_ADMIN)?;
    // What is seeded stays so.
    if ctx.store.seed_state().await? != SeedState::Done {
        return Err(Denial::NotSeeded.into());
    }
    let workspace = Workspace::new(req.id, req.name, req.enabled, call.now);
    let answer = ctx.store.insert_workspace(&workspace).await;
    match call.written(ChangeKind::Workspace, &workspace.id, workspace.version, answer)? {
        InsertWorkspace::Inserted => {
            call.changed_workspace(&workspace);
            Ok(Done::Workspace(workspace))
        }
        InsertWorkspace::IdTaken => Err(OpError::Taken(Noun::WorkspaceId)),
    }
}

/// One workspace.
///
/// # Errors
/// `NotPermitted`, `NotFound`.
pub async fn get_workspace(ctx: &Ctx, call: &mut Call, id: WorkspaceId) -> Result<Done, OpError> {
    load(ctx, call, &id).await.map(Done::Workspace)
}

async fn load(ctx: &Ctx, call: &mut Call, id: &WorkspaceId) -> Result<Workspace, OpError> {
    call.place = Some(id.clone());
    call.caller.require_everywhere(&ctx.policy, capability::WORKSPACES_ADMIN)?;
    let workspace = ctx.store.workspace(id, Read::Ordinary).await?;
    workspace.ok_or(OpError::NotFound(Noun::Workspace))
}

/// A page of all workspaces.
///
/// # Errors
/// `NotPermitted`, `Invalid` for size or token.
pub async fn list_workspaces(ctx: &Ctx, call: &mut Call, page: PageRequest) -> Result<Done, OpError> {
    call.caller.require_everywhere(&ctx.policy, capability::WORKSPACES_ADMIN)?;
    list(ctx, OperationName::ListWorkspaces, page).await
}

/// The workspaces that the caller may act in: all with a role of scope `*`, else the home workspace.
///
/// # Errors
/// `Invalid` without an actor, or for size or token.
pub async fn list_my_workspaces(ctx: &Ctx, call: &mut Call, page: PageRequest) -> Result<Done, OpError> {
    let actor = call.caller.actor().ok_or_else(|| OpError::invalid("actor", "is missing"))?;
    call.subject = Some(actor.id);
    if actor.everywhere {
        return list(ctx, OperationName::ListMyWorkspaces, page).await;
    }
    let home = ctx.store.workspace(&actor.workspace, Read::Ordinary).await?;
    let after = page.after::<WorkspaceId>(OperationName::ListMyWorkspaces, "")?;
    page.limit()?;
    let items = home.into_iter().filter(|home| after.as_ref().is_none_or(|after| home.id > *after));
    Ok(Done::Workspaces(Listed { items: items.collect(), next: None }))
}

async fn list(ctx: &Ctx, operation: OperationName, page: PageRequest) -> Result<Done, OpError> {
    let (limit, after) = (page.limit()?, page.after::<WorkspaceId>(operation, "")?);
    let mut found = ctx.store.list_workspaces(after.as_ref(), limit).await?;
    let fitting = paging::fitting(found.items.iter().map(|w| [w.id.as_str(), w.name.as_str()]));
    if fitting < found.items.len() {
        found.items.truncate(fitting);
        found.next = found.items.last().map(|workspace| workspace.id.clone());
    }
    let next = found.next.map(|after| paging::token(operation, "", &after));
    Ok(Done::Workspaces(Listed { items: found.items, next }))
}

/// Changes what is given of a workspace, and leaves what is absent.
///
/// # Errors
/// `NotPermitted`, `NotFound`, `Conflict`.
pub async fn update_workspace(ctx: &Ctx, call: &mut Call, req: UpdateWorkspace) -> Result<Done, OpError> {
    change(ctx, call, &req.id, |workspace| {
        if let Some(name) = &req.name {
            workspace.name.clone_from(name);
        }
        match req.enabled {
            Some(false) if workspace.enabled => workspace.disable(),
            Some(enabled) => workspace.enabled = enabled,
            None => {}
        }
    })
    .await
    .map(Done::Workspace)
}

/// Disables a workspace: at once nobody whose home it is can do anything. Of a disabled one: does nothing.
///
/// # Errors
/// `NotPermitted`, also for the last root admin's home; `NotFound`, `Conflict`.
pub async fn disable_workspace(ctx: &Ctx, call: &mut Call, id: WorkspaceId) -> Result<Done, OpError> {
    let disabled = |workspace: &mut Workspace| {
        if workspace.enabled {
            workspace.disable();
        }
    };
    change(ctx, call, &id, disabled).await.map(|_| Done::Nothing)
}

async fn change(
    ctx: &Ctx,
    call: &mut Call,
    id: &WorkspaceId,
    change: impl Fn(&mut Workspace),
) -> Result<Workspace, OpError> {
    for _ in 0..TRIES {
        let from = load(ctx, call, id).await?;
        let to = from.changed(&change);
        if to == from.changed(|_| ()) {
            return Ok(from);
        }
        let answer = ctx.store.update_workspace(&from, &to).await;
        match call.written(ChangeKind::Workspace, id, from.version, answer)? {
            store::UpdateWorkspace::Updated => {
                call.changed_workspace(&to);
                return Ok(to);
            }
            store::UpdateWorkspace::LostRace => {}
            store::UpdateWorkspace::LastRootAdmin => return Err(Denial::LastRootAdmin.into()),
        }
    }
    Err(OpError::Conflict)
}
