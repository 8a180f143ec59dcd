//! API keys: by hash, by id, and by the name that a user gave them.
//!
//! A name is claimed, the key is written, and then the claim is confirmed: that is the commit point. Until it is
//! confirmed somebody else may take the name over, and the confirmation is refused; nobody has the key's text by
//! then. Rows of keys are written and deleted under timestamps of their own, so that a key that was fenced off
//! stays away however late its maker writes it.

use std::collections::HashMap;
use std::fmt::Display;

use iam_schema::{KeyId, Timestamp, UserId, WorkspaceId};
use uuid::Uuid;

use super::conditional::{Decided, Expected, Trace, fresh_op};
use super::session::{Cluster, side_by_side};
use super::users::nothing_done;
use super::{corrupt, micros, number, users};
use crate::domain::api_keys::{ApiKey, KeyHash, MAX_KEYS_PER_USER};
use crate::domain::users::User;
use crate::store::{DeleteApiKey, InsertApiKey, Page, Read, StoreError};

/// For how long a claim that is not confirmed is left alone: its maker may still be at work. A courtesy.
const GRACE_MS: i64 = 10_000;

#[derive(Debug, scylla::DeserializeRow)]
pub(super) struct KeyRow {
    hash: Vec<u8>,
    key_id: Option<Uuid>,
    user_id: Option<Uuid>,
    workspace: Option<String>,
    key_epoch: Option<i64>,
    name: Option<String>,
    prefix: Option<String>,
    expires_ms: Option<i64>,
    created_ms: Option<i64>,
}

impl KeyRow {
    pub(super) fn key(self) -> Result<ApiKey, StoreError> {
        let at = self.key_id.map(|id| id.to_string()).unwrap_or_default();
        let bad = |cause: &dyn Display| corrupt("api_keys", &at, cause);
        let missing = |column: &'static str| corrupt("api_keys", &at, &format_args!("{column} is missing"));
        Ok(ApiKey {
            id: KeyId::from_uuid(self.key_id.ok_or_else(|| missing("key_id"))?),
            hash: hash(&self.hash).ok_or_else(|| bad(&"hash is not 32 bytes"))?,
            user: UserId::from_uuid(self.user_id.ok_or_else(|| missing("user_id"))?),
            workspace: self
                .workspace
                .ok_or_else(|| missing("workspace"))?
                .parse()
                .map_err(|e: <WorkspaceId as std::str::FromStr>::Err| bad(&e))?,
            key_epoch: self
                .key_epoch
                .and_then(|epoch| u64::try_from(epoch).ok())
                .ok_or_else(|| missing("key_epoch"))?,
            name: self.name.ok_or_else(|| missing("name"))?,
            prefix: self.prefix.ok_or_else(|| missing("prefix"))?,
            expires: self.expires_ms.map(Timestamp::from_millis),
            created: Timestamp::from_millis(self.created_ms.ok_or_else(|| missing("created_ms"))?),
        })
    }
}

fn hash(bytes: &[u8]) -> Option<KeyHash> {
    bytes.try_into().ok().map(KeyHash)
}

/// The claim on a name of a user's key.
#[derive(Debug, Clone, scylla::DeserializeRow)]
pub(super) struct NameRow {
    name: String,
    pub key_id: Uuid,
    pub hash: Vec<u8>,
    pub op: Uuid,
    live: Option<bool>,
    pub created_ms: i64,
}

/// The same with its owner.
#[derive(Debug, scylla::DeserializeRow)]
pub(super) struct OwnedName {
    user_id: Uuid,
    name: String,
    key_id: Uuid,
    hash: Vec<u8>,
    op: Uuid,
    live: Option<bool>,
    created_ms: i64,
}

impl From<OwnedName> for (UserId, NameRow) {
    fn from(row: OwnedName) -> Self {
        let OwnedName { user_id, name, key_id, hash, op, live, created_ms } = row;
        (UserId::from_uuid(user_id), NameRow { name, key_id, hash, op, live, created_ms })
    }
}

impl NameRow {
    pub(super) fn confirmed(&self) -> bool {
        self.live == Some(true)
    }
}

pub(super) async fn by_hash(cluster: &Cluster, hash: &KeyHash) -> Result<Option<ApiKey>, StoreError> {
    let row = cluster.row::<KeyRow>(&cluster.statements.key, (hash.0.as_slice(),)).await?;
    row.map(KeyRow::key).transpose()
}

pub(super) async fn by_id(cluster: &Cluster, id: KeyId) -> Result<Option<ApiKey>, StoreError> {
    let row = cluster.row::<(Vec<u8>, i64)>(&cluster.statements.key_by_id, (id.as_uuid(),)).await?;
    let Some((bytes, _)) = row else { return Ok(None) };
    let hash = hash(&bytes).ok_or_else(|| corrupt("api_keys_by_id", id, &"hash is not 32 bytes"))?;
    Ok(by_hash(cluster, &hash).await?.filter(|key| key.id == id))
}

async fn names(cluster: &Cluster, user: UserId) -> Result<Vec<NameRow>, StoreError> {
    cluster.rows::<NameRow>(&cluster.statements.key_names, (user.as_uuid(),)).await
}

/// The key that a claim leads to, if it is there.
async fn named(cluster: &Cluster, row: &NameRow) -> Result<Option<ApiKey>, StoreError> {
    let hash =
        hash(&row.hash).ok_or_else(|| corrupt("api_key_names", row.key_id, &"hash is not 32 bytes"))?;
    Ok(by_hash(cluster, &hash).await?.filter(|key| key.id.as_uuid() == row.key_id))
}

/// Lists the keys of a user in the order of their ids. The names of a user are few, and read at once.
pub(super) async fn list(
    cluster: &Cluster,
    user: UserId,
    after: Option<KeyId>,
    limit: usize,
) -> Result<Page<(ApiKey, Option<Timestamp>), KeyId>, StoreError> {
    let mut rows = names(cluster, user).await?;
    let after = after.map(|id| id.as_uuid());
    rows.retain(|row| row.confirmed() && after.is_none_or(|after| row.key_id > after));
    rows.sort_unstable_by_key(|row| row.key_id);
    let uses = cluster.rows::<(Uuid, Option<i64>)>(&cluster.statements.key_uses, (user.as_uuid(),)).await?;
    let uses: HashMap<Uuid, i64> = uses.into_iter().filter_map(|(key, at)| Some((key, at?))).collect();
    let found = side_by_side(rows.iter().map(|row| named(cluster, row)).collect()).await?;
    let mut items: Vec<_> = found
        .into_iter()
        .flatten()
        .map(|key| {
            let used = uses.get(&key.id.as_uuid()).copied().map(Timestamp::from_millis);
            (key, used)
        })
        .collect();
    let more = items.len() > limit;
    items.truncate(limit);
    let next = items.last().filter(|_| more).map(|(last, _): &(ApiKey, _)| last.id);
    Ok(Page { items, next })
}

/// Adds a key. Two callers at once may bring a user above the limit by the number of callers, since the limit is
/// counted and not written.
pub(super) async fn insert(cluster: &Cluster, key: &ApiKey) -> Result<InsertApiKey, StoreError> {
    let (same, owner, names) = tokio::try_join!(
        by_hash(cluster, &key.hash),
        users::by_id(cluster, key.user, Read::Ordinary),
        names(cluster, key.user)
    )?;
    if same.is_some() {
        return Ok(InsertApiKey::HashTaken);
    }
    let alive = |other: &ApiKey| owner.as_ref().is_some_and(|owner: &User| other.of_live_epoch(owner));
    let holder = names.iter().find(|row| row.name == key.name);
    if let Some(holder) = holder
        && held(cluster, holder, key.created, &alive).await?
    {
        return Ok(InsertApiKey::NameTaken);
    }
    if names.len() >= MAX_KEYS_PER_USER {
        let found = side_by_side(names.iter().map(|row| named(cluster, row)).collect()).await?;
        if found.iter().flatten().filter(|other| alive(other)).count() >= MAX_KEYS_PER_USER {
            return Ok(InsertApiKey::TooMany);
        }
    }
    // Its owner is gone, or has ended all keys since the caller looked: dead from the start.
    if !alive(key) {
        return Ok(InsertApiKey::Inserted);
    }
    let Some(claimed) = claim(cluster, key, holder.map(|holder| holder.op)).await? else {
        return Ok(InsertApiKey::NameTaken);
    };
    if let Some(old) = holder {
        let created = Timestamp::from_millis(old.created_ms);
        erase(cluster, old.key_id, &old.hash, created).await.map_err(nothing_done)?;
    }
    put(cluster, key).await.map_err(nothing_done)?;
    if confirm(cluster, key, claimed).await? == Decided::Applied {
        return Ok(InsertApiKey::Inserted);
    }
    if let Err(error) = erase(cluster, key.id.as_uuid(), &key.hash.0, key.created).await {
        tracing::debug!(%error, "a key that nobody was given is still there");
    }
    Ok(InsertApiKey::NameTaken)
}

/// Whether a claim keeps its name: the key is alive, or may yet come to be.
async fn held(
    cluster: &Cluster,
    claim: &NameRow,
    now: Timestamp,
    alive: &impl Fn(&ApiKey) -> bool,
) -> Result<bool, StoreError> {
    if claim.confirmed() {
        Ok(named(cluster, claim).await?.is_some_and(|key| alive(&key)))
    } else {
        Ok((now.as_millis() - claim.created_ms).abs() < GRACE_MS)
    }
}

/// The claim on a name, asked for in earnest.
pub(super) async fn claim_of(
    cluster: &Cluster,
    user: UserId,
    name: &str,
) -> Result<Option<NameRow>, StoreError> {
    cluster.row::<NameRow>(&cluster.statements.key_name_serial, (user.as_uuid(), name)).await
}

/// Claims a name that is free, or takes over the claim `over`. Gives the number of the claim, to be confirmed.
pub(super) async fn claim(
    cluster: &Cluster,
    key: &ApiKey,
    over: Option<Uuid>,
) -> Result<Option<Uuid>, StoreError> {
    let (user, id, created) = (key.user.as_uuid(), key.id.as_uuid(), key.created.as_millis());
    let (op, name, hash) = (fresh_op(), key.name.as_str(), key.hash.0.as_slice());
    let expected = over.map_or(Expected::Absent, Expected::Op);
    let trace = Trace { read: &cluster.statements.key_name_trace, key: (user, name), op, expected };
    let decided = match over {
        None => {
            let values = (user, name, id, hash, op, created);
            cluster.conditional(&cluster.statements.claim_key_name, values, trace).await
        }
        Some(over) => {
            let values = (id, hash, op, created, user, name, over);
            cluster.conditional(&cluster.statements.take_key_name, values, trace).await
        }
    };
    Ok((decided.map_err(nothing_done)? == Decided::Applied).then_some(op))
}

/// The rows of a key; by its id first, so that whoever has it can revoke it.
pub(super) async fn put(cluster: &Cluster, key: &ApiKey) -> Result<(), StoreError> {
    let (id, hash, at) = (key.id.as_uuid(), key.hash.0.as_slice(), micros(key.created));
    let values = (id, hash, key.created.as_millis(), at);
    cluster.write(&cluster.statements.insert_key_by_id, values).await?;
    let values = (
        hash,
        id,
        key.user.as_uuid(),
        key.workspace.as_str(),
        number(key.key_epoch),
        &key.name,
        &key.prefix,
        key.expires.map(Timestamp::as_millis),
        key.created.as_millis(),
        at,
    );
    cluster.write(&cluster.statements.insert_key, values).await
}

/// Claims and confirms a name in one stroke, where nobody else can be after it. One that is taken stays as it is.
pub(super) async fn name(cluster: &Cluster, key: &ApiKey) -> Result<Decided, StoreError> {
    let (user, name, op) = (key.user.as_uuid(), key.name.as_str(), fresh_op());
    let trace =
        Trace { read: &cluster.statements.key_name_trace, key: (user, name), op, expected: Expected::Absent };
    let values = (user, name, key.id.as_uuid(), key.hash.0.as_slice(), op, key.created.as_millis());
    cluster.conditional(&cluster.statements.name_key, values, trace).await
}

/// Writes when a key was last used, so that it is not lost.
pub(super) async fn keep_use(cluster: &Cluster, key: &ApiKey, at: Timestamp) -> Result<(), StoreError> {
    let values = (key.user.as_uuid(), key.id.as_uuid(), at.as_millis(), micros(at));
    cluster.write(&cluster.statements.keep_key_use, values).await
}

/// Confirms a claim: the commit point.
pub(super) async fn confirm(cluster: &Cluster, key: &ApiKey, claimed: Uuid) -> Result<Decided, StoreError> {
    let (user, name, op) = (key.user.as_uuid(), key.name.as_str(), fresh_op());
    let expected = Expected::Op(claimed);
    let trace = Trace { read: &cluster.statements.key_name_trace, key: (user, name), op, expected };
    cluster.conditional(&cluster.statements.confirm_key_name, (op, user, name, claimed), trace).await
}

/// Deletes the rows of a key, and keeps them away.
pub(super) async fn erase(
    cluster: &Cluster,
    id: Uuid,
    hash: &[u8],
    created: Timestamp,
) -> Result<(), StoreError> {
    let at = micros(created) + 1;
    cluster.write(&cluster.statements.delete_key, (at, hash)).await?;
    cluster.write(&cluster.statements.delete_key_by_id, (at, id)).await
}

pub(super) async fn delete(cluster: &Cluster, key: &ApiKey) -> Result<DeleteApiKey, StoreError> {
    let stored = by_hash(cluster, &key.hash).await?;
    // Another key of the same text was made since: it is not the one that was meant.
    let Some(stored) = stored.filter(|stored| stored.id == key.id) else { return Ok(DeleteApiKey::Absent) };
    let at = micros(stored.created) + 1;
    cluster.write(&cluster.statements.delete_key, (at, stored.hash.0.as_slice())).await?;
    let cleared = async {
        let claim = claim_of(cluster, stored.user, &stored.name).await?;
        if let Some(claim) = claim.filter(|claim| claim.key_id == stored.id.as_uuid()) {
            free(cluster, stored.user, &claim).await?;
        }
        cluster.write(&cluster.statements.delete_key_by_id, (at, stored.id.as_uuid())).await
    };
    if let Err(error) = cleared.await {
        tracing::debug!(%error, "the name of a revoked key is taken over by whoever asks for it");
    }
    Ok(DeleteApiKey::Deleted)
}

/// Gives a name back, if the claim is still this one.
pub(super) async fn free(cluster: &Cluster, user: UserId, claim: &NameRow) -> Result<Decided, StoreError> {
    let (user, name) = (user.as_uuid(), claim.name.as_str());
    let (op, expected) = (fresh_op(), Expected::Op(claim.op));
    let trace = Trace { read: &cluster.statements.key_name_trace, key: (user, name), op, expected };
    cluster.conditional(&cluster.statements.free_key_name, (user, name, claim.op), trace).await
}

/// Deletes the keys of a user below an epoch, or all of them. They are dead already, so that failing here is no
/// failure; what is left is swept up.
pub(super) async fn bury(cluster: &Cluster, user: UserId, below_epoch: Option<u64>) {
    let buried = async {
        let names = names(cluster, user).await?;
        let found = side_by_side(names.iter().map(|row| named(cluster, row)).collect()).await?;
        let dead = names.iter().zip(found).filter(|(_, key)| match (key, below_epoch) {
            (Some(key), Some(epoch)) => key.key_epoch < epoch,
            (Some(_), None) => true,
            (None, _) => false,
        });
        let calls = dead.map(|(row, _)| async move {
            erase(cluster, row.key_id, &row.hash, Timestamp::from_millis(row.created_ms)).await?;
            free(cluster, user, row).await
        });
        side_by_side(calls.collect()).await
    };
    if let Err(error) = buried.await {
        tracing::debug!(%error, "dead keys are still there");
    }
}

/// Notes uses. A note is as old as the use, so that it never goes back in time.
pub(super) async fn touch(cluster: &Cluster, used: &[(UserId, KeyId, Timestamp)]) -> Result<(), StoreError> {
    let notes = used.iter().map(|(user, key, at)| {
        let values = (user.as_uuid(), key.as_uuid(), at.as_millis(), micros(*at));
        cluster.write(&cluster.statements.note_key_use, values)
    });
    side_by_side(notes.collect()).await.map(|_| ()).map_err(nothing_done)
}
