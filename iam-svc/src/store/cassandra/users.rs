//! Users, and the claims on their names.

use std::collections::BTreeSet;
use std::fmt::Display;

use iam_schema::{Timestamp, UserId, WorkspaceId};
use uuid::Uuid;

use super::conditional::{Decided, Expected, Trace, fresh_op};
use super::guard::{self, Change};
use super::session::{Cluster, side_by_side};
use super::{api_keys, corrupt, micros, number};
use crate::domain::passwords::PasswordHash;
use crate::domain::users::{NameKey, User};
use crate::store::{DeleteUser, InsertUser, Page, Read, RootRoles, StoreError, UpdateUser};

/// For how long a claim without a user is left alone: its maker may still be at work. A courtesy; what keeps two
/// makers apart is the fence.
const GRACE_MS: i64 = 10_000;
/// How often a claim is looked at that keeps changing hands.
const TRIES: usize = 4;

#[derive(Debug, scylla::DeserializeRow)]
pub(super) struct UserRow {
    user_id: Uuid,
    version: Option<i64>,
    workspace: Option<String>,
    workspace_epoch: Option<i64>,
    username: Option<String>,
    name: Option<String>,
    email: Option<String>,
    roles: Option<BTreeSet<String>>,
    enabled: Option<bool>,
    must_change_password: Option<bool>,
    password_hash: Option<String>,
    temporary_until_ms: Option<i64>,
    key_epoch: Option<i64>,
    token_epoch: Option<i64>,
    created_ms: Option<i64>,
    dead: Option<bool>,
}

impl UserRow {
    /// The user, or `None` for a fence.
    fn user(self) -> Result<Option<User>, StoreError> {
        if self.dead == Some(true) && self.version.is_none() {
            return Ok(None);
        }
        let id = self.user_id;
        let bad = |cause: &dyn Display| corrupt("users", id, cause);
        let missing = |column: &'static str| move || bad(&format_args!("{column} is missing"));
        let epoch = |column: &'static str, value: Option<i64>| {
            value.and_then(|value| u64::try_from(value).ok()).ok_or_else(missing(column))
        };
        let time = |ms: i64| Timestamp::from_millis(ms);
        Ok(Some(User {
            id: UserId::from_uuid(id),
            version: epoch("version", self.version)?,
            workspace: self
                .workspace
                .ok_or_else(missing("workspace"))?
                .parse()
                .map_err(|e: <WorkspaceId as std::str::FromStr>::Err| bad(&e))?,
            workspace_epoch: epoch("workspace_epoch", self.workspace_epoch)?,
            username: self
                .username
                .ok_or_else(missing("username"))?
                .parse()
                .map_err(|e: &'static str| bad(&e))?,
            name: self.name.unwrap_or_default(),
            email: self.email.unwrap_or_default(),
            roles: self
                .roles
                .unwrap_or_default()
                .iter()
                .map(|role| role.parse().map_err(|_| bad(&format_args!("roles: {role}"))))
                .collect::<Result<_, _>>()?,
            enabled: self.enabled.ok_or_else(missing("enabled"))?,
            must_change_password: self.must_change_password.unwrap_or_default(),
            password: self.password_hash.map(PasswordHash::from_stored),
            temporary_until: self.temporary_until_ms.map(time),
            key_epoch: epoch("key_epoch", self.key_epoch)?,
            token_epoch: epoch("token_epoch", self.token_epoch)?,
            created: time(self.created_ms.ok_or_else(missing("created_ms"))?),
        }))
    }
}

/// A claim on a name.
#[derive(Debug, scylla::DeserializeRow)]
struct Claim {
    user_id: Uuid,
    op: Uuid,
    claimed_ms: i64,
}

pub(super) async fn by_id(cluster: &Cluster, id: UserId, read: Read) -> Result<Option<User>, StoreError> {
    let statement = match read {
        Read::Ordinary => &cluster.statements.user,
        Read::Serial => &cluster.statements.user_serial,
    };
    let row = cluster.row::<UserRow>(statement, (id.as_uuid(),)).await?;
    Ok(row.map(UserRow::user).transpose()?.flatten())
}

pub(super) async fn by_name(cluster: &Cluster, name: &NameKey) -> Result<Option<User>, StoreError> {
    let claim = cluster.row::<Claim>(&cluster.statements.username, (name.as_str(),)).await?;
    let Some(claim) = claim else { return Ok(None) };
    let user = by_id(cluster, UserId::from_uuid(claim.user_id), Read::Ordinary).await?;
    Ok(user.filter(|user| user.username.key() == *name))
}

/// In which partition of its workspace a user is listed. The last bits of an id are random.
pub(super) fn bucket(id: Uuid) -> u8 {
    id.as_bytes().last().copied().unwrap_or_default() % super::schema::BUCKETS
}

/// Lists the users of a workspace bucket by bucket, and those of the deployment by token. Either order is that of
/// the ids alone, so that an id is cursor enough.
pub(super) async fn list(
    cluster: &Cluster,
    workspace: Option<&WorkspaceId>,
    after: Option<UserId>,
    limit: usize,
) -> Result<Page<User, UserId>, StoreError> {
    let wanted = limit.saturating_add(1);
    let mut items = match workspace {
        None => of_deployment(cluster, after, wanted).await?,
        Some(workspace) => of_workspace(cluster, workspace, after, wanted).await?,
    };
    let more = items.len() > limit;
    items.truncate(limit);
    let next = items.last().filter(|_| more).map(|last| last.id);
    Ok(Page { items, next })
}

async fn of_deployment(
    cluster: &Cluster,
    mut after: Option<UserId>,
    wanted: usize,
) -> Result<Vec<User>, StoreError> {
    let mut found = Vec::new();
    while found.len() < wanted {
        let limit = count(wanted - found.len());
        let rows = match after {
            None => cluster.rows::<UserRow>(&cluster.statements.users_first, (limit,)).await?,
            Some(after) => {
                cluster.rows::<UserRow>(&cluster.statements.users_after, (after.as_uuid(), limit)).await?
            }
        };
        let end = rows.len() < usize::try_from(limit).unwrap_or_default();
        after = rows.last().map(|row| UserId::from_uuid(row.user_id)).or(after);
        for row in rows {
            found.extend(row.user()?);
        }
        if end {
            break;
        }
    }
    Ok(found)
}

async fn of_workspace(
    cluster: &Cluster,
    workspace: &WorkspaceId,
    after: Option<UserId>,
    wanted: usize,
) -> Result<Vec<User>, StoreError> {
    let mut found = Vec::new();
    let mut after = after.map(|id| id.as_uuid());
    let mut at = after.map_or(0, bucket);
    while at < super::schema::BUCKETS && found.len() < wanted {
        let limit = count(wanted - found.len());
        let partition = (workspace.as_str(), number(at));
        let rows = match after {
            None => {
                let values = (partition.0, partition.1, limit);
                cluster.rows::<(Uuid,)>(&cluster.statements.users_of_workspace, values).await?
            }
            Some(after) => {
                let values = (partition.0, partition.1, after, limit);
                cluster.rows::<(Uuid,)>(&cluster.statements.users_of_workspace_after, values).await?
            }
        };
        let end = rows.len() < usize::try_from(limit).unwrap_or_default();
        after = rows.last().map(|(id,)| *id).or(after);
        let reads = rows.iter().map(|(id,)| by_id(cluster, UserId::from_uuid(*id), Read::Ordinary));
        // A row of the index without a user is one that is being made, or was deleted.
        found.extend(side_by_side(reads.collect()).await?.into_iter().flatten());
        if end {
            at += 1;
            after = None;
        }
    }
    Ok(found)
}

fn count(limit: usize) -> i32 {
    i32::try_from(limit).unwrap_or(i32::MAX)
}

/// Adds a user: the claim on the name, the rows of the indexes, then the record. Whoever dies in between leaves a
/// claim that the next caller takes over, and index rows that lists skip.
pub(super) async fn insert(
    cluster: &Cluster,
    roots: &RootRoles,
    user: &User,
) -> Result<InsertUser, StoreError> {
    if !claim(cluster, &user.username.key(), user.id, user.created).await? {
        return Ok(InsertUser::NameTaken);
    }
    index(cluster, roots, user).await?;
    put_new(cluster, user).await
}

/// Writes the rows by which lists and the guard find a user; before the record, so that none is missed.
pub(super) async fn index(cluster: &Cluster, roots: &RootRoles, user: &User) -> Result<(), StoreError> {
    let id = user.id.as_uuid();
    let created = user.created.as_millis();
    let values = (user.workspace.as_str(), number(bucket(id)), id, created, micros(user.created));
    cluster.write(&cluster.statements.index_user, values).await.map_err(nothing_done)?;
    index_roles(cluster, roots, user).await
}

pub(super) async fn index_roles(cluster: &Cluster, roots: &RootRoles, user: &User) -> Result<(), StoreError> {
    for role in user.roles.intersection(roots) {
        let values = (role.as_str(), user.id.as_uuid());
        cluster.write(&cluster.statements.index_holder, values).await.map_err(nothing_done)?;
    }
    Ok(())
}

/// A step before the commit point whose outcome is unknown has changed nothing that anybody sees.
pub(super) fn nothing_done(error: StoreError) -> StoreError {
    match error {
        StoreError::OutcomeUnknown(cause) => StoreError::Unavailable(cause),
        other => other,
    }
}

/// The record itself, if the id is free: the commit point.
pub(super) async fn put_new(cluster: &Cluster, user: &User) -> Result<InsertUser, StoreError> {
    let (id, op) = (user.id.as_uuid(), fresh_op());
    let roles: Vec<&str> = user.roles.iter().map(|role| role.as_str()).collect();
    let values = (
        id,
        number(user.version),
        op,
        user.workspace.as_str(),
        number(user.workspace_epoch),
        user.username.as_str(),
        &user.name,
        &user.email,
        roles,
        user.enabled,
        user.must_change_password,
        user.password.as_ref().map(PasswordHash::expose),
        user.temporary_until.map(Timestamp::as_millis),
        number(user.key_epoch),
        number(user.token_epoch),
        user.created.as_millis(),
    );
    let trace = Trace { read: &cluster.statements.user_trace, key: (id,), op, expected: Expected::Absent };
    match cluster.conditional(&cluster.statements.insert_user, values, trace).await? {
        Decided::Applied => Ok(InsertUser::Inserted),
        // Fenced off: while we were held up, somebody took the name over.
        Decided::Refused => Ok(InsertUser::NameTaken),
    }
}

/// Claims a name for a user who is about to be made, or takes over a claim that leads nowhere.
pub(super) async fn claim(
    cluster: &Cluster,
    name: &NameKey,
    id: UserId,
    now: Timestamp,
) -> Result<bool, StoreError> {
    let (key, ours) = (name.as_str(), id.as_uuid());
    let now_ms = now.as_millis();
    let trace = |op, expected| Trace { read: &cluster.statements.username_trace, key: (key,), op, expected };
    for _ in 0..TRIES {
        let op = fresh_op();
        let made = cluster
            .conditional(
                &cluster.statements.claim_username,
                (key, ours, op, now_ms),
                trace(op, Expected::Absent),
            )
            .await
            .map_err(nothing_done)?;
        if made == Decided::Applied {
            return Ok(true);
        }
        let claim = cluster.row::<Claim>(&cluster.statements.username_serial, (key,)).await?;
        let Some(claim) = claim else { continue };
        if claim.user_id == ours {
            return Ok(true);
        }
        let holder = UserId::from_uuid(claim.user_id);
        if by_id(cluster, holder, Read::Serial).await?.is_some()
            || (now_ms - claim.claimed_ms).abs() < GRACE_MS
            || !fence(cluster, holder).await?
        {
            return Ok(false);
        }
        let op = fresh_op();
        let taken = cluster
            .conditional(
                &cluster.statements.take_username,
                (ours, op, now_ms, key, claim.op),
                trace(op, Expected::Op(claim.op)),
            )
            .await
            .map_err(nothing_done)?;
        if taken == Decided::Applied {
            return Ok(true);
        }
    }
    Ok(false)
}

/// Makes sure that no user of this id comes to be; `false` if there is one already.
pub(super) async fn fence(cluster: &Cluster, id: UserId) -> Result<bool, StoreError> {
    let op = fresh_op();
    let key = (id.as_uuid(),);
    let trace = Trace { read: &cluster.statements.user_trace, key, op, expected: Expected::Absent };
    let fenced = cluster
        .conditional(&cluster.statements.fence_user, (id.as_uuid(), op), trace)
        .await
        .map_err(nothing_done)?;
    Ok(fenced == Decided::Applied || by_id(cluster, id, Read::Serial).await?.is_none())
}

pub(super) async fn update(
    cluster: &Cluster,
    roots: &RootRoles,
    from: &User,
    to: &User,
) -> Result<UpdateUser, StoreError> {
    let fits = to.id == from.id
        && to.workspace == from.workspace
        && to.username == from.username
        && to.created == from.created
        && to.version == from.version + 1
        && to.key_epoch >= from.key_epoch
        && to.token_epoch >= from.token_epoch;
    if !fits {
        let cause = "not written: identity, version or epochs do not follow the stored ones";
        return Err(corrupt("users", from.id, &cause));
    }
    index_roles(cluster, roots, to).await?;
    let outcome = if may_end_root(roots, from, to) {
        guard::carry_out(cluster, roots, &Change::UpdateUser { from, to }).await?
    } else {
        match replace(cluster, from.version, to, fresh_op()).await? {
            Decided::Applied => guard::Outcome::Done,
            Decided::Refused => guard::Outcome::LostRace,
        }
    };
    Ok(match outcome {
        guard::Outcome::Done => {
            if to.key_epoch > from.key_epoch {
                api_keys::bury(cluster, to.id, Some(to.key_epoch)).await;
            }
            UpdateUser::Updated
        }
        guard::Outcome::LostRace => UpdateUser::LostRace,
        guard::Outcome::LastRootAdmin => UpdateUser::LastRootAdmin,
    })
}

/// Whether a change may make a root admin somebody else, as far as the record alone tells.
fn may_end_root(roots: &RootRoles, from: &User, to: &User) -> bool {
    let root = |user: &User| user.enabled && !user.roles.is_disjoint(roots);
    root(from) && !(root(to) && to.workspace_epoch == from.workspace_epoch)
}

/// Replaces exactly that version.
pub(super) async fn replace(
    cluster: &Cluster,
    from_version: u64,
    to: &User,
    op: Uuid,
) -> Result<Decided, StoreError> {
    let id = to.id.as_uuid();
    let roles: Vec<&str> = to.roles.iter().map(|role| role.as_str()).collect();
    let values = (
        number(to.version),
        op,
        number(to.workspace_epoch),
        &to.name,
        &to.email,
        roles,
        to.enabled,
        to.must_change_password,
        to.password.as_ref().map(PasswordHash::expose),
        to.temporary_until.map(Timestamp::as_millis),
        number(to.key_epoch),
        number(to.token_epoch),
        id,
        number(from_version),
    );
    let expected = Expected::Version(from_version);
    let trace = Trace { read: &cluster.statements.user_trace, key: (id,), op, expected };
    cluster.conditional(&cluster.statements.update_user, values, trace).await
}

/// Deletes exactly that version.
pub(super) async fn remove(cluster: &Cluster, id: UserId, version: u64) -> Result<Decided, StoreError> {
    let trace = Trace {
        read: &cluster.statements.user_trace,
        key: (id.as_uuid(),),
        op: fresh_op(),
        expected: Expected::Version(version),
    };
    cluster.conditional(&cluster.statements.delete_user, (id.as_uuid(), number(version)), trace).await
}

pub(super) async fn delete(
    cluster: &Cluster,
    roots: &RootRoles,
    user: &User,
) -> Result<DeleteUser, StoreError> {
    let outcome = if user.enabled && !user.roles.is_disjoint(roots) {
        guard::carry_out(cluster, roots, &Change::DeleteUser { user }).await?
    } else {
        match remove(cluster, user.id, user.version).await? {
            Decided::Applied => guard::Outcome::Done,
            Decided::Refused => guard::Outcome::LostRace,
        }
    };
    Ok(match outcome {
        guard::Outcome::Done => {
            clear_away(cluster, user).await;
            DeleteUser::Deleted
        }
        guard::Outcome::LostRace => DeleteUser::LostRace,
        guard::Outcome::LastRootAdmin => DeleteUser::LastRootAdmin,
    })
}

/// What a deleted user leaves: keys without an owner, a claim without a user, a row of the index. None of it has
/// any effect, so that failing here is no failure.
async fn clear_away(cluster: &Cluster, user: &User) {
    api_keys::bury(cluster, user.id, None).await;
    let cleared = async {
        let (id, name) = (user.id.as_uuid(), user.username.key());
        let key = (name.as_str(),);
        let claim = cluster.row::<Claim>(&cluster.statements.username, key).await?;
        if let Some(claim) = claim.filter(|claim| claim.user_id == id) {
            free_claim(cluster, name.as_str(), claim.op).await?;
        }
        unindex(cluster, user.workspace.as_str(), number(bucket(id)), id, user.created.as_millis()).await
    };
    if let Err(error) = cleared.await {
        tracing::debug!(%error, "what a deleted user left is still there");
    }
}

/// Gives a name back, if the claim is still this one.
pub(super) async fn free_claim(cluster: &Cluster, name: &str, claim: Uuid) -> Result<(), StoreError> {
    let (op, expected) = (fresh_op(), Expected::Op(claim));
    let trace = Trace { read: &cluster.statements.username_trace, key: (name,), op, expected };
    cluster.conditional(&cluster.statements.free_username, (name, claim), trace).await.map(|_| ())
}

/// Deletes the row by which lists find a user.
pub(super) async fn unindex(
    cluster: &Cluster,
    workspace: &str,
    bucket: i64,
    user: Uuid,
    created_ms: i64,
) -> Result<(), StoreError> {
    let at = micros(Timestamp::from_millis(created_ms)) + 1;
    cluster.write(&cluster.statements.unindex_user, (at, workspace, bucket, user)).await
}
