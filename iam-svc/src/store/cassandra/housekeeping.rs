//! What crashes and races leave behind, and what ends with a user: cleared away once a day.
//!
//! Nothing rests on it. Whatever it removes has no effect any more, and before it removes what somebody might still
//! be at work on it fences that off, as a take-over does; so replicas may do it at the same time. It reads whole
//! tables, a page at a time, with a pause after each.

use std::collections::HashMap;
use std::collections::hash_map::Entry;
use std::ops::ControlFlow;
use std::time::Duration;

use iam_schema::{Timestamp, UserId};
use scylla::deserialize::row::DeserializeRow;
use scylla::response::PagingState;
use scylla::statement::prepared::PreparedStatement;
use uuid::Uuid;

use super::api_keys::{self, NameRow};
use super::conditional::Decided;
use super::session::{Cluster, unavailable};
use super::{guard, singletons, users};
use crate::domain::api_keys::{ApiKey, KeyHash};
use crate::domain::users::User;
use crate::store::codec::{self, HousekeepingRow};
use crate::store::{Read, StoreError, Swept};

/// How often it is done, by whichever replica comes first.
const EVERY_MS: i64 = 24 * 3_600_000;
/// How old something must be: whoever made it has finished by then, or has died.
const OLD_MS: i64 = 3_600_000;
/// The pause after each page, so that requests go first.
const PAUSE: Duration = Duration::from_millis(50);

/// Clears away, unless that was begun less than a day ago.
pub(super) async fn sweep(cluster: &Cluster, now: Timestamp) -> Result<Option<Swept>, StoreError> {
    if !begin(cluster, now).await? {
        return Ok(None);
    }
    guard::settle(cluster).await?;
    let round = Round { cluster, before_ms: now.as_millis().saturating_sub(OLD_MS) };
    Ok(Some(Swept {
        claims: round.claims().await?,
        index_rows: round.index_rows().await?,
        keys: round.keys().await? + round.keys_by_id().await?,
        key_names: round.key_names().await?,
    }))
}

/// Takes today's round; `false` when another replica has it.
async fn begin(cluster: &Cluster, now: Timestamp) -> Result<bool, StoreError> {
    let last = singletons::get(cluster, codec::HOUSEKEEPING, Read::Ordinary).await?;
    let version = last.as_ref().map(|row| row.version);
    if let Some(row) = last {
        let began = codec::read_housekeeping(&row.body)?.began_ms;
        if (now.as_millis() - began).abs() < EVERY_MS {
            return Ok(false);
        }
    }
    let row = codec::write_housekeeping(&HousekeepingRow { began_ms: now.as_millis() })?;
    Ok(singletons::put(cluster, codec::HOUSEKEEPING, version, &row).await? == Decided::Applied)
}

/// One round, over what is older than a given time.
struct Round<'c> {
    cluster: &'c Cluster,
    before_ms: i64,
}

impl Round<'_> {
    /// Reads a table page by page; gives each page to `each`, and the sum of what that counts.
    async fn pages<R, F>(
        &self,
        table: &PreparedStatement,
        mut each: impl FnMut(Vec<R>) -> F,
    ) -> Result<u64, StoreError>
    where
        R: for<'f> DeserializeRow<'f, 'f>,
        F: Future<Output = Result<u64, StoreError>>,
    {
        let (mut at, mut swept) = (PagingState::start(), 0);
        loop {
            let page = self.cluster.session.execute_single_page(table, (), at).await;
            let (rows, next) = page.map_err(unavailable)?;
            swept += each(self.cluster.typed(table, rows)?).await?;
            match next.into_paging_control_flow() {
                ControlFlow::Break(()) => return Ok(swept),
                ControlFlow::Continue(next) => at = next,
            }
            tokio::time::sleep(PAUSE).await;
        }
    }

    /// Claims on names that lead to no user.
    async fn claims(&self) -> Result<u64, StoreError> {
        self.pages(
            &self.cluster.statements.all_usernames,
            |rows: Vec<(String, Uuid, Uuid, i64)>| async move {
                let mut swept = 0;
                for (name, user, op, claimed_ms) in rows {
                    let id = UserId::from_uuid(user);
                    if claimed_ms < self.before_ms && self.nobody(id).await? {
                        users::free_claim(self.cluster, &name, op).await?;
                        swept += 1;
                    }
                }
                Ok(swept)
            },
        )
        .await
    }

    /// Rows of the index by workspace that lead to no user.
    async fn index_rows(&self) -> Result<u64, StoreError> {
        let table = &self.cluster.statements.all_index_rows;
        self.pages(table, |rows: Vec<(String, i64, Uuid, i64)>| async move {
            let mut swept = 0;
            for (workspace, bucket, user, created_ms) in rows {
                if created_ms < self.before_ms && self.nobody(UserId::from_uuid(user)).await? {
                    users::unindex(self.cluster, &workspace, bucket, user, created_ms).await?;
                    swept += 1;
                }
            }
            Ok(swept)
        })
        .await
    }

    /// Whether there is no user of an id, nor ever will be.
    async fn nobody(&self, id: UserId) -> Result<bool, StoreError> {
        Ok(users::by_id(self.cluster, id, Read::Ordinary).await?.is_none()
            && users::fence(self.cluster, id).await?)
    }

    /// Keys without an owner, and those that their owner has ended.
    async fn keys(&self) -> Result<u64, StoreError> {
        self.pages(&self.cluster.statements.all_keys, |rows: Vec<api_keys::KeyRow>| async move {
            let mut owners: HashMap<UserId, Option<User>> = HashMap::new();
            let mut swept = 0;
            for row in rows {
                let key: ApiKey = row.key()?;
                if key.created.as_millis() >= self.before_ms {
                    continue;
                }
                let owner = match owners.entry(key.user) {
                    Entry::Occupied(known) => known.into_mut(),
                    Entry::Vacant(unknown) => {
                        unknown.insert(users::by_id(self.cluster, key.user, Read::Ordinary).await?)
                    }
                };
                if owner.as_ref().is_some_and(|owner| key.of_live_epoch(owner)) {
                    continue;
                }
                api_keys::delete(self.cluster, &key).await?;
                swept += 1;
            }
            Ok(swept)
        })
        .await
    }

    /// Ids that lead to no key.
    async fn keys_by_id(&self) -> Result<u64, StoreError> {
        let table = &self.cluster.statements.all_keys_by_id;
        self.pages(table, |rows: Vec<(Uuid, Vec<u8>, i64)>| async move {
            let mut swept = 0;
            for (id, hash, created_ms) in rows {
                if created_ms < self.before_ms && !self.is_there(id, &hash).await? {
                    // The key's own row as well: whoever comes late to write it finds it deleted already.
                    api_keys::erase(self.cluster, id, &hash, Timestamp::from_millis(created_ms)).await?;
                    swept += 1;
                }
            }
            Ok(swept)
        })
        .await
    }

    /// Claims on names of keys that were never confirmed, or whose key is gone.
    async fn key_names(&self) -> Result<u64, StoreError> {
        self.pages(&self.cluster.statements.all_key_names, |rows: Vec<api_keys::OwnedName>| async move {
            let mut swept = 0;
            for row in rows {
                let (user, claim): (UserId, NameRow) = row.into();
                if claim.created_ms >= self.before_ms
                    || claim.confirmed() && self.is_there(claim.key_id, &claim.hash).await?
                {
                    continue;
                }
                let created = Timestamp::from_millis(claim.created_ms);
                if api_keys::free(self.cluster, user, &claim).await? == Decided::Applied {
                    api_keys::erase(self.cluster, claim.key_id, &claim.hash, created).await?;
                    swept += 1;
                }
            }
            Ok(swept)
        })
        .await
    }

    /// Whether there is a key of that hash and id.
    async fn is_there(&self, id: Uuid, hash: &[u8]) -> Result<bool, StoreError> {
        let Ok(hash) = hash.try_into().map(KeyHash) else { return Ok(false) };
        Ok(api_keys::by_hash(self.cluster, &hash).await?.is_some_and(|key| key.id.as_uuid() == id))
    }
}
