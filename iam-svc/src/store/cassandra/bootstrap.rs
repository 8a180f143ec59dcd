//! The seeding of an empty deployment.
//!
//! Its row says which attempt is under way: whose admin, and which key. A new attempt takes over one that is older
//! than half a minute; it keeps the admin's id, and fences the keys of all attempts before it, so that whoever
//! comes back late finds that nothing of its own counts. The commit point is the row's `done`; until then the
//! store shows nothing of what is being made.

use iam_schema::{Timestamp, UserId};

use super::conditional::Decided;
use super::session::Cluster;
use super::users::nothing_done;
use super::{api_keys, corrupt, singletons, users, workspaces};
use crate::domain::api_keys::ApiKey;
use crate::domain::users::User;
use crate::store::codec::{self, AttemptRow, SeedingRow};
use crate::store::{Read, RootRoles, Seed, SeedState, Seeded, StoreError};

/// When an attempt counts as dead. A courtesy: two attempts at once do no harm.
const ATTEMPT_MS: i64 = 30_000;

/// The seeding as its row has it, and the version of the row.
pub(super) async fn read(cluster: &Cluster, read: Read) -> Result<Option<(u64, SeedingRow)>, StoreError> {
    let Some(row) = singletons::get(cluster, codec::SEEDING, read).await? else { return Ok(None) };
    Ok(Some((row.version, codec::read_seeding(&row.body)?)))
}

/// How far the seeding is. A store that holds users or workspaces counts as seeded, however they came in: a
/// bootstrap must never make an admin of a deployment that is in use.
pub(super) async fn state(cluster: &Cluster) -> Result<SeedState, StoreError> {
    match read(cluster, Read::Serial).await? {
        Some((_, row)) if row.done => Ok(SeedState::Done),
        Some(_) => Ok(SeedState::Seeding),
        None => {
            let used = !users::list(cluster, None, None, 1).await?.items.is_empty()
                || !workspaces::list(cluster, None, 1).await?.items.is_empty();
            Ok(if used { SeedState::Done } else { SeedState::Empty })
        }
    }
}

pub(super) async fn seed(
    cluster: &Cluster,
    roots: &RootRoles,
    seed: &Seed,
    now: Timestamp,
) -> Result<Seeded, StoreError> {
    if !(seed.admin.workspace == seed.workspace.id && seed.key.of_live_epoch(&seed.admin)) {
        let cause = "not written: workspace, admin and key of the seed do not belong together";
        return Err(corrupt("singletons", codec::SEEDING, &cause));
    }
    let standing = read(cluster, Read::Serial).await?;
    let version = match &standing {
        Some((_, row)) if row.done => return Ok(Seeded::AlreadyDone),
        Some((_, row)) if (now.as_millis() - row.started_ms).abs() < ATTEMPT_MS => {
            return Ok(Seeded::InProgress);
        }
        Some((version, _)) => Some(*version),
        None if state(cluster).await? == SeedState::Done => return Ok(Seeded::AlreadyDone),
        None => None,
    };
    let before = standing.map(|(_, row)| row);
    let (admin, key, row) = attempt(seed, before.as_ref(), now);
    let begun = singletons::put(cluster, codec::SEEDING, version, &codec::write_seeding(&row)?).await;
    if begun.map_err(nothing_done)? == Decided::Refused {
        return Ok(match read(cluster, Read::Serial).await? {
            Some((_, row)) if row.done => Seeded::AlreadyDone,
            _ => Seeded::InProgress,
        });
    }
    let version = version.map_or(1, |version| version + 1);
    if !make(cluster, roots, seed, &admin, &key, before.as_ref()).await.map_err(nothing_done)? {
        return Ok(Seeded::InProgress);
    }
    let done = codec::write_seeding(&SeedingRow { done: true, ..row })?;
    match singletons::put(cluster, codec::SEEDING, Some(version), &done).await? {
        Decided::Applied => Ok(Seeded::Seeded(admin.id)),
        Decided::Refused => Ok(Seeded::InProgress),
    }
}

/// This attempt's admin and key, and the row that announces it. The admin is that of the first attempt. The key is
/// younger than those before it, whatever the clocks say: in mode `token` they are the same text.
fn attempt(seed: &Seed, before: Option<&SeedingRow>, now: Timestamp) -> (User, ApiKey, SeedingRow) {
    let mut row = before.cloned().unwrap_or_else(|| SeedingRow {
        admin: seed.admin.id.as_uuid(),
        started_ms: 0,
        attempts: Vec::new(),
        done: false,
    });
    let admin = User { id: UserId::from_uuid(row.admin), ..seed.admin.clone() };
    let youngest = row.attempts.iter().map(|attempt| attempt.created_ms).max().unwrap_or(i64::MIN);
    let created_ms = seed.key.created.as_millis().max(youngest.saturating_add(1));
    let key = ApiKey { user: admin.id, created: Timestamp::from_millis(created_ms), ..seed.key.clone() };
    row.started_ms = now.as_millis();
    row.attempts.push(AttemptRow { key: key.id.as_uuid(), hash: key.hash.0.to_vec(), created_ms });
    (admin, key, row)
}

/// Makes everything; `false` when a newer attempt has taken over.
async fn make(
    cluster: &Cluster,
    roots: &RootRoles,
    seed: &Seed,
    admin: &User,
    key: &ApiKey,
    before: Option<&SeedingRow>,
) -> Result<bool, StoreError> {
    let older = before.map(|row| row.attempts.as_slice()).unwrap_or_default();
    for old in older {
        api_keys::erase(cluster, old.key, &old.hash, Timestamp::from_millis(old.created_ms)).await?;
    }
    workspaces::insert(cluster, &seed.workspace).await?;
    if !users::claim(cluster, &admin.username.key(), admin.id, admin.created).await? {
        return Ok(false);
    }
    users::index(cluster, roots, admin).await?;
    users::put_new(cluster, admin).await?;
    singletons::put(cluster, codec::RING, None, &codec::write_ring(&seed.ring)?).await?;
    api_keys::put(cluster, key).await?;
    name_key(cluster, key, older).await
}

/// Claims the key's name, or takes it over from an older attempt.
async fn name_key(cluster: &Cluster, key: &ApiKey, older: &[AttemptRow]) -> Result<bool, StoreError> {
    for _ in 0..=older.len() {
        let holder = api_keys::claim_of(cluster, key.user, &key.name).await?;
        if holder.as_ref().is_some_and(|holder| older.iter().all(|old| old.key != holder.key_id)) {
            return Ok(false);
        }
        if let Some(claimed) = api_keys::claim(cluster, key, holder.map(|holder| holder.op)).await? {
            return Ok(api_keys::confirm(cluster, key, claimed).await? == Decided::Applied);
        }
    }
    Ok(false)
}
