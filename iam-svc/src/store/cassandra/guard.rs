//! The guard: of the root admins one is always left.
//!
//! No single row knows who is one, so whatever could end one goes through a row of its own, one change at a time:
//!
//! 1. Finish what somebody else has announced there and not finished.
//! 2. Find a root admin whom the change leaves, or refuse.
//! 3. Announce the change, if the guard is still as it was in step 1.
//! 4. Carry it out: a conditional write on the version that it was decided on.
//! 5. Take the announcement back.
//!
//! Between 2 and 5 nobody else gets past step 1 without doing 4 first, so that the admin found in step 2 is still
//! one when 4 happens. Steps 4 and 5 can be done by anybody and more than once: the write carries the number of the
//! announcement. Changes that can only add a root admin need no guard; they write the index first, from which step
//! 2 reads its candidates.

use std::collections::BTreeSet;
use std::time::{Duration, Instant};

use iam_schema::{UserId, WorkspaceId};
use uuid::Uuid;

use super::conditional::{Decided, fresh_op};
use super::session::{Cluster, side_by_side, unavailable};
use super::{singletons, users, workspaces};
use crate::domain::users::User;
use crate::domain::workspaces::Workspace;
use crate::store::codec::{self, Announced, GuardRow, Intent};
use crate::store::{Read, RootRoles, StoreError};

/// For how long a caller waits for its turn before it is told to come back.
const PATIENCE: Duration = Duration::from_secs(8);
/// The pause before the guard is looked at again; up to half of it more, at random.
const PAUSE: Duration = Duration::from_millis(40);

/// What could end a root admin.
#[derive(Debug)]
pub(super) enum Change<'c> {
    UpdateUser { from: &'c User, to: &'c User },
    DeleteUser { user: &'c User },
    UpdateWorkspace { from: &'c Workspace, to: &'c Workspace },
}

/// What a guarded change came to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Outcome {
    Done,
    LostRace,
    LastRootAdmin,
}

impl Change<'_> {
    fn announced(&self) -> Result<Announced, StoreError> {
        Ok(match self {
            Change::UpdateUser { from, to } => {
                Announced::UpdateUser { id: to.id.as_uuid(), from: from.version, to: codec::write_user(to)? }
            }
            Change::DeleteUser { user } => {
                Announced::DeleteUser { id: user.id.as_uuid(), from: user.version }
            }
            Change::UpdateWorkspace { from, to } => Announced::UpdateWorkspace {
                id: to.id.as_str().to_owned(),
                from: from.version,
                to: codec::write_workspace(to)?,
            },
        })
    }

    /// Whether the record is still the one that the change was decided on.
    async fn stands(&self, cluster: &Cluster) -> Result<bool, StoreError> {
        Ok(match self {
            Change::UpdateUser { from: user, .. } | Change::DeleteUser { user } => {
                users::by_id(cluster, user.id, Read::Serial)
                    .await?
                    .is_some_and(|now| now.version == user.version)
            }
            Change::UpdateWorkspace { from, .. } => workspaces::by_id(cluster, &from.id, Read::Serial)
                .await?
                .is_some_and(|now| now.version == from.version),
        })
    }

    /// Whether the change would leave no root admin where there is one now.
    async fn ends_the_last(&self, cluster: &Cluster, roots: &RootRoles) -> Result<bool, StoreError> {
        Ok(match self {
            Change::UpdateUser { from: user, .. } | Change::DeleteUser { user } => {
                is_root_admin(cluster, roots, user).await?
                    && !any_root_admin(cluster, roots, |other| other.id != user.id).await?
            }
            Change::UpdateWorkspace { to, .. } => {
                let at_home = |home: &WorkspaceId| *home == to.id;
                !any_root_admin(cluster, roots, |user| !at_home(&user.workspace)).await?
                    && any_root_admin(cluster, roots, |user| at_home(&user.workspace)).await?
            }
        })
    }
}

/// Makes a change unless it would end the last root admin.
pub(super) async fn carry_out(
    cluster: &Cluster,
    roots: &RootRoles,
    change: &Change<'_>,
) -> Result<Outcome, StoreError> {
    let began = Instant::now();
    // Callers of one replica queue here, so that at the row itself replicas alone meet.
    let turn = tokio::time::timeout(PATIENCE, cluster.guard_turn.lock()).await;
    let _turn = turn.map_err(|_| too_many())?;
    let mut met = None;
    while began.elapsed() < PATIENCE {
        let (version, mut guard) = read(cluster).await?;
        if let Some(intent) = guard.intent.take() {
            // Whoever has announced it is at work, most likely; who has gone is helped at the second meeting.
            if met.replace(intent.op) == Some(intent.op) {
                finish(cluster, version, guard, &intent).await.map_err(users::nothing_done)?;
            } else {
                pause().await;
            }
            continue;
        }
        if !change.stands(cluster).await? {
            return Ok(Outcome::LostRace);
        }
        if change.ends_the_last(cluster, roots).await? {
            return Ok(Outcome::LastRootAdmin);
        }
        let intent = Intent { op: fresh_op(), change: change.announced()? };
        let announced = codec::write_guard(&GuardRow { intent: Some(intent.clone()), ..guard.clone() })?;
        if singletons::put(cluster, codec::GUARD, version, &announced).await? == Decided::Refused {
            pause().await;
            continue;
        }
        let version = version.map_or(1, |version| version + 1);
        let decided = perform(cluster, &intent).await.map_err(announced_already)?;
        take_back(cluster, version, &guard).await;
        return Ok(match decided {
            Decided::Applied => Outcome::Done,
            Decided::Refused => Outcome::LostRace,
        });
    }
    Err(too_many())
}

fn too_many() -> StoreError {
    unavailable("too many changes of root admins at the same time")
}

/// Callers who met at the guard come back one after the other.
async fn pause() {
    tokio::time::sleep(PAUSE.mul_f64(rand::random_range(1.0..1.5))).await;
}

/// What was announced will be carried out by whoever meets it, though we could not.
fn announced_already(error: StoreError) -> StoreError {
    match error {
        StoreError::Unavailable(cause) => StoreError::OutcomeUnknown(cause),
        other => other,
    }
}

/// Finishes what was announced and left, if there is something.
pub(super) async fn settle(cluster: &Cluster) -> Result<(), StoreError> {
    let (version, mut guard) = read(cluster).await?;
    match guard.intent.take() {
        Some(intent) => finish(cluster, version, guard, &intent).await,
        None => Ok(()),
    }
}

async fn read(cluster: &Cluster) -> Result<(Option<u64>, GuardRow), StoreError> {
    match singletons::get(cluster, codec::GUARD, Read::Serial).await? {
        Some(row) => Ok((Some(row.version), codec::read_guard(&row.body)?)),
        None => Ok((None, GuardRow::default())),
    }
}

async fn finish(
    cluster: &Cluster,
    version: Option<u64>,
    rest: GuardRow,
    intent: &Intent,
) -> Result<(), StoreError> {
    perform(cluster, intent).await?;
    if let Some(version) = version {
        take_back(cluster, version, &rest).await;
    }
    Ok(())
}

/// Carries an announced change out, or finds that it was carried out, or that it can no longer be.
async fn perform(cluster: &Cluster, intent: &Intent) -> Result<Decided, StoreError> {
    match &intent.change {
        Announced::UpdateUser { id, from, to } => {
            let to = codec::read_user(id.as_bytes(), to)?;
            let decided = users::replace(cluster, *from, &to, intent.op).await?;
            whose(cluster, decided, &cluster.statements.user_trace, (*id,), intent, *from).await
        }
        Announced::DeleteUser { id, from } => {
            let id = UserId::from_uuid(*id);
            match users::remove(cluster, id, *from).await? {
                Decided::Applied => Ok(Decided::Applied),
                // It was there when it was announced, and nobody else deletes an admin meanwhile.
                Decided::Refused if users::by_id(cluster, id, Read::Serial).await?.is_none() => {
                    Ok(Decided::Applied)
                }
                Decided::Refused => Ok(Decided::Refused),
            }
        }
        Announced::UpdateWorkspace { id, from, to } => {
            let to = codec::read_workspace(id, to)?;
            let decided = workspaces::replace(cluster, *from, &to, intent.op).await?;
            whose(cluster, decided, &cluster.statements.workspace_trace, (id.as_str(),), intent, *from).await
        }
    }
}

/// A refusal may mean that somebody else has carried the announced change out.
async fn whose<K: scylla::serialize::row::SerializeRow>(
    cluster: &Cluster,
    decided: Decided,
    trace: &scylla::statement::prepared::PreparedStatement,
    key: K,
    intent: &Intent,
    from: u64,
) -> Result<Decided, StoreError> {
    if decided == Decided::Applied {
        return Ok(decided);
    }
    match cluster.row::<(Option<Uuid>, Option<i64>)>(trace, key).await? {
        Some((op, _)) if op == Some(intent.op) => Ok(Decided::Applied),
        Some((_, Some(version))) if u64::try_from(version).is_ok_and(|version| version > from + 1) => {
            Err(StoreError::OutcomeUnknown("the record was changed again since".to_owned()))
        }
        _ => Ok(Decided::Refused),
    }
}

/// Where this fails, whoever comes next finds a change that is carried out, and takes it back.
async fn take_back(cluster: &Cluster, version: u64, rest: &GuardRow) {
    let taken = async {
        let body = codec::write_guard(rest)?;
        singletons::put(cluster, codec::GUARD, Some(version), &body).await
    };
    if let Err(error) = taken.await {
        tracing::debug!(%error, "the guard of the root admins still announces what was carried out");
    }
}

/// Whether a user, as the record is given, is a root admin in the workspace as it is stored.
async fn is_root_admin(cluster: &Cluster, roots: &RootRoles, user: &User) -> Result<bool, StoreError> {
    if !user.enabled || user.roles.is_disjoint(roots) {
        return Ok(false);
    }
    let home = workspaces::by_id(cluster, &user.workspace, Read::Serial).await?;
    Ok(home.is_some_and(|home| user.effectively_enabled(&home)))
}

/// Whether some root admin fits `wanted`. Nobody can cease to be one while the guard stands still, so that plain
/// reads find whom to ask about in earnest.
async fn any_root_admin(
    cluster: &Cluster,
    roots: &RootRoles,
    wanted: impl Fn(&User) -> bool,
) -> Result<bool, StoreError> {
    for role in roots.iter() {
        let holders = cluster.rows::<(Uuid,)>(&cluster.statements.holders, (role.as_str(),)).await?;
        for some in holders.chunks(super::session::SIDE_BY_SIDE) {
            let reads =
                some.iter().map(|(id,)| users::by_id(cluster, UserId::from_uuid(*id), Read::Ordinary));
            for user in side_by_side(reads.collect()).await?.into_iter().flatten() {
                if !wanted(&user) || user.roles.is_disjoint(roots) || !user.enabled {
                    continue;
                }
                let Some(user) = users::by_id(cluster, user.id, Read::Serial).await? else { continue };
                if wanted(&user) && is_root_admin(cluster, roots, &user).await? {
                    return Ok(true);
                }
            }
        }
    }
    Ok(false)
}

/// Makes the index cover the root roles of the policy in force: a role that became one has holders who are not in
/// it yet.
pub(super) async fn cover(cluster: &Cluster, roots: &RootRoles) -> Result<(), StoreError> {
    let named: BTreeSet<String> = roots.iter().map(|role| role.as_str().to_owned()).collect();
    loop {
        let (version, guard) = read(cluster).await?;
        if named.is_subset(&guard.roles) {
            return Ok(());
        }
        let mut after = None;
        loop {
            let page = users::list(cluster, None, after, 500).await?;
            for user in &page.items {
                users::index_roles(cluster, roots, user).await?;
            }
            after = page.next;
            if after.is_none() {
                break;
            }
        }
        let covered = GuardRow { roles: guard.roles.union(&named).cloned().collect(), ..guard };
        if singletons::put(cluster, codec::GUARD, version, &codec::write_guard(&covered)?).await?
            == Decided::Applied
        {
            return Ok(());
        }
    }
}
