//! Workspaces.

use std::fmt::Display;

use iam_schema::{Timestamp, WorkspaceId};
use uuid::Uuid;

use super::conditional::{Decided, Expected, Trace, fresh_op};
use super::guard::{self, Change};
use super::session::Cluster;
use super::{corrupt, number};
use crate::domain::workspaces::Workspace;
use crate::store::{InsertWorkspace, Page, Read, RootRoles, StoreError, UpdateWorkspace};

#[derive(Debug, scylla::DeserializeRow)]
struct WorkspaceRow {
    id: String,
    version: Option<i64>,
    name: Option<String>,
    enabled: Option<bool>,
    epoch: Option<i64>,
    created_ms: Option<i64>,
}

impl WorkspaceRow {
    fn workspace(self) -> Result<Workspace, StoreError> {
        let bad = |cause: &dyn Display| corrupt("workspaces", &self.id, cause);
        let missing = |column: &'static str| move || corrupt("workspaces", column, &"is missing");
        let count = |column: &'static str, value: Option<i64>| {
            value.and_then(|value| u64::try_from(value).ok()).ok_or_else(missing(column))
        };
        Ok(Workspace {
            id: self.id.parse().map_err(|e: <WorkspaceId as std::str::FromStr>::Err| bad(&e))?,
            version: count("version", self.version)?,
            name: self.name.clone().unwrap_or_default(),
            enabled: self.enabled.ok_or_else(missing("enabled"))?,
            epoch: count("epoch", self.epoch)?,
            created: Timestamp::from_millis(self.created_ms.ok_or_else(missing("created_ms"))?),
        })
    }
}

pub(super) async fn by_id(
    cluster: &Cluster,
    id: &WorkspaceId,
    read: Read,
) -> Result<Option<Workspace>, StoreError> {
    let statement = match read {
        Read::Ordinary => &cluster.statements.workspace,
        Read::Serial => &cluster.statements.workspace_serial,
    };
    let row = cluster.row::<WorkspaceRow>(statement, (id.as_str(),)).await?;
    row.map(WorkspaceRow::workspace).transpose()
}

/// Lists in the order of the tokens.
pub(super) async fn list(
    cluster: &Cluster,
    after: Option<&WorkspaceId>,
    limit: usize,
) -> Result<Page<Workspace, WorkspaceId>, StoreError> {
    let wanted = i32::try_from(limit.saturating_add(1)).unwrap_or(i32::MAX);
    let rows = match after {
        None => cluster.rows::<WorkspaceRow>(&cluster.statements.workspaces_first, (wanted,)).await?,
        Some(after) => {
            let values = (after.as_str(), wanted);
            cluster.rows::<WorkspaceRow>(&cluster.statements.workspaces_after, values).await?
        }
    };
    let mut items = rows.into_iter().map(WorkspaceRow::workspace).collect::<Result<Vec<_>, _>>()?;
    let more = items.len() > limit;
    items.truncate(limit);
    let next = items.last().filter(|_| more).map(|last| last.id.clone());
    Ok(Page { items, next })
}

pub(super) async fn insert(cluster: &Cluster, workspace: &Workspace) -> Result<InsertWorkspace, StoreError> {
    let (id, op) = (workspace.id.as_str(), fresh_op());
    let values = (
        id,
        number(workspace.version),
        op,
        &workspace.name,
        workspace.enabled,
        number(workspace.epoch),
        workspace.created.as_millis(),
    );
    let trace =
        Trace { read: &cluster.statements.workspace_trace, key: (id,), op, expected: Expected::Absent };
    match cluster.conditional(&cluster.statements.insert_workspace, values, trace).await? {
        Decided::Applied => Ok(InsertWorkspace::Inserted),
        Decided::Refused => Ok(InsertWorkspace::IdTaken),
    }
}

pub(super) async fn update(
    cluster: &Cluster,
    roots: &RootRoles,
    from: &Workspace,
    to: &Workspace,
) -> Result<UpdateWorkspace, StoreError> {
    let fits = to.id == from.id
        && to.created == from.created
        && to.version == from.version + 1
        && to.epoch >= from.epoch;
    if !fits {
        let cause = "not written: id, creation time, version or epoch do not follow the stored ones";
        return Err(corrupt("workspaces", &from.id, &cause));
    }
    // The users' own records stay: those of an older epoch count as disabled from here on.
    let takes_all = from.enabled && (!to.enabled || to.epoch > from.epoch);
    let outcome = if takes_all {
        guard::carry_out(cluster, roots, &Change::UpdateWorkspace { from, to }).await?
    } else {
        match replace(cluster, from.version, to, fresh_op()).await? {
            Decided::Applied => guard::Outcome::Done,
            Decided::Refused => guard::Outcome::LostRace,
        }
    };
    Ok(match outcome {
        guard::Outcome::Done => UpdateWorkspace::Updated,
        guard::Outcome::LostRace => UpdateWorkspace::LostRace,
        guard::Outcome::LastRootAdmin => UpdateWorkspace::LastRootAdmin,
    })
}

/// Replaces exactly that version.
pub(super) async fn replace(
    cluster: &Cluster,
    from_version: u64,
    to: &Workspace,
    op: Uuid,
) -> Result<Decided, StoreError> {
    let id = to.id.as_str();
    let values = (number(to.version), op, &to.name, to.enabled, number(to.epoch), id, number(from_version));
    let expected = Expected::Version(from_version);
    let trace = Trace { read: &cluster.statements.workspace_trace, key: (id,), op, expected };
    cluster.conditional(&cluster.statements.update_workspace, values, trace).await
}
