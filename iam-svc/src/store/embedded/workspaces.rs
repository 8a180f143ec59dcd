//! Workspaces.

use std::ops::Bound;

use iam_schema::WorkspaceId;
use redb::ReadableTable;

use super::tables::{Fault, Source, Tx, WORKSPACES};
use super::users;
use crate::domain::workspaces::Workspace;
use crate::store::codec::{self, At};
use crate::store::{InsertWorkspace, Page, RootRoles, UpdateWorkspace};

pub(super) fn by_id(source: &impl Source, id: &WorkspaceId) -> Result<Option<Workspace>, Fault> {
    let table = source.open(WORKSPACES)?;
    let row = table.get(id.as_str())?;
    Ok(row.map(|row| codec::read_workspace(id.as_str(), row.value())).transpose()?)
}

pub(super) fn list(
    source: &impl Source,
    after: Option<&WorkspaceId>,
    limit: usize,
) -> Result<Page<Workspace, WorkspaceId>, Fault> {
    let table = source.open(WORKSPACES)?;
    let from = after.map_or(Bound::Unbounded, |id| Bound::Excluded(id.as_str()));
    let mut rows = table.range::<&str>((from, Bound::Unbounded))?;
    let mut items = Vec::new();
    for entry in rows.by_ref().take(limit) {
        let (key, row) = entry?;
        items.push(codec::read_workspace(key.value(), row.value())?);
    }
    let more = rows.next().transpose()?.is_some();
    let next = items.last().filter(|_| more).map(|last: &Workspace| last.id.clone());
    Ok(Page { items, next })
}

pub(super) fn insert(tx: &Tx<'_>, workspace: &Workspace) -> Result<InsertWorkspace, Fault> {
    if by_id(tx, &workspace.id)?.is_some() {
        return Ok(InsertWorkspace::IdTaken);
    }
    put(tx, workspace)?;
    Ok(InsertWorkspace::Inserted)
}

pub(super) fn update(
    tx: &Tx<'_>,
    root_roles: &RootRoles,
    from: &Workspace,
    to: &Workspace,
) -> Result<UpdateWorkspace, Fault> {
    let Some(stored) = by_id(tx, &from.id)?.filter(|stored| stored.version == from.version) else {
        return Ok(UpdateWorkspace::LostRace);
    };
    let fits = to.id == stored.id
        && to.created == stored.created
        && to.version == stored.version + 1
        && to.epoch >= stored.epoch;
    if !fits {
        let at = At { table: "workspaces", key: from.id.as_str().as_bytes() };
        return Err(at
            .corrupt("not written: id, creation time, version or epoch do not follow the stored ones")
            .into());
    }
    // The users' own records stay: those of an older epoch count as disabled from here on.
    let takes_all = stored.enabled && (!to.enabled || to.epoch > stored.epoch);
    if takes_all {
        let at_home = |home: &WorkspaceId| *home == to.id;
        let lost = users::any_root_admin(tx, root_roles, |user| at_home(&user.workspace))?;
        let left = !lost || users::any_root_admin(tx, root_roles, |user| !at_home(&user.workspace))?;
        if !left {
            return Ok(UpdateWorkspace::LastRootAdmin);
        }
    }
    put(tx, to)?;
    Ok(UpdateWorkspace::Updated)
}

/// Writes the record, whatever was there.
pub(super) fn put(tx: &Tx<'_>, workspace: &Workspace) -> Result<(), Fault> {
    let row = codec::write_workspace(workspace)?;
    tx.open_mut(WORKSPACES)?.insert(workspace.id.as_str(), row.as_slice())?;
    Ok(())
}

/// Reads every workspace.
pub(super) fn verify(source: &impl Source) -> Result<(), Fault> {
    for entry in source.open(WORKSPACES)?.iter()? {
        let (key, row) = entry?;
        codec::read_workspace(key.value(), row.value())?;
    }
    Ok(())
}
