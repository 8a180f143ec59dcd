//! A deployment moved out of a keyspace and into one.
//!
//! Rows are written in the order of the changes that make them otherwise, so that what a crash leaves half-done is
//! nothing that a running service does not know. Conditional statements leave a row that is there as it is.

use async_trait::async_trait;
use iam_schema::{Timestamp, UserId};

use super::conditional::Decided;
use super::session::{Cluster, side_by_side, unavailable};
use super::{CassandraStore, api_keys, bootstrap, corrupt, guard, singletons, users, workspaces};
use crate::domain::key_ring::KeyRing;
use crate::domain::workspaces::Workspace;
use crate::store::codec::{self, SeedingRow};
use crate::store::transfer::{Account, Mark, Origin, Transfer};
use crate::store::{Read, RootRoles, StoreError};

/// The mark, and the version of its row.
async fn mark(cluster: &Cluster) -> Result<Option<(u64, Mark)>, StoreError> {
    let Some(row) = singletons::get(cluster, codec::MIGRATION, Read::Serial).await? else { return Ok(None) };
    Ok(Some((row.version, codec::read_mark(&row.body)?)))
}

/// The name, the rows of the indexes, the user, then key by key: its rows, its name, its last use.
async fn put(cluster: &Cluster, roots: &RootRoles, account: &Account) -> Result<(), StoreError> {
    let Account { user, keys } = account;
    let name = user.username.key();
    if !users::claim(cluster, &name, user.id, user.created).await? {
        return Err(corrupt("usernames", name.as_str(), &"not written: another user has the name"));
    }
    users::index(cluster, roots, user).await?;
    users::put_new(cluster, user).await?;
    for (key, used) in keys {
        api_keys::put(cluster, key).await?;
        api_keys::name(cluster, key).await?;
        if let Some(at) = used {
            api_keys::keep_use(cluster, key, *at).await?;
        }
    }
    Ok(())
}

#[async_trait]
impl Transfer for CassandraStore {
    async fn origin(&self) -> Result<Option<Origin>, StoreError> {
        guard::settle(&self.cluster).await?;
        let seeding = bootstrap::read(&self.cluster, Read::Serial).await?;
        Ok(seeding.filter(|(_, row)| row.done).map(|(_, row)| Origin {
            admin: UserId::from_uuid(row.admin),
            seeded: Timestamp::from_millis(row.started_ms),
        }))
    }

    async fn is_empty(&self) -> Result<bool, StoreError> {
        let cluster = &self.cluster;
        Ok(bootstrap::read(cluster, Read::Serial).await?.is_none()
            && singletons::get(cluster, codec::RING, Read::Serial).await?.is_none()
            && users::list(cluster, None, None, 1).await?.items.is_empty()
            && workspaces::list(cluster, None, 1).await?.items.is_empty())
    }

    async fn mark(&self) -> Result<Option<Mark>, StoreError> {
        Ok(mark(&self.cluster).await?.map(|(_, mark)| mark))
    }

    async fn begin(&self, origin: &Origin) -> Result<(), StoreError> {
        let row = codec::write_mark(Mark { origin: *origin, done: false })?;
        match singletons::insert(&self.cluster, codec::MIGRATION, 1, &row).await? {
            Decided::Applied => Ok(()),
            Decided::Refused => Err(unavailable("another move began here at the same time")),
        }
    }

    async fn put_workspaces(&self, workspaces: &[Workspace]) -> Result<(), StoreError> {
        let calls = workspaces.iter().map(|workspace| workspaces::insert(&self.cluster, workspace));
        side_by_side(calls.collect()).await.map(|_| ())
    }

    async fn put_accounts(&self, accounts: &[Account]) -> Result<(), StoreError> {
        let calls = accounts.iter().map(|account| put(&self.cluster, &self.root_roles, account));
        side_by_side(calls.collect()).await.map(|_| ())
    }

    async fn put_foundation(&self, ring: &KeyRing, origin: &Origin) -> Result<(), StoreError> {
        let row = codec::write_ring(ring)?;
        // The version of the row is that of the ring: by it the ring is replaced.
        singletons::insert(&self.cluster, codec::RING, ring.version, &row).await?;
        let seeding = SeedingRow {
            admin: origin.admin.as_uuid(),
            started_ms: origin.seeded.as_millis(),
            attempts: Vec::new(),
            done: true,
        };
        let row = codec::write_seeding(&seeding)?;
        singletons::insert(&self.cluster, codec::SEEDING, 1, &row).await.map(|_| ())
    }

    async fn end(&self) -> Result<(), StoreError> {
        match mark(&self.cluster).await? {
            None => Err(corrupt("singletons", codec::MIGRATION, &"absent")),
            Some((_, Mark { done: true, .. })) => Ok(()),
            Some((version, mark)) => {
                let row = codec::write_mark(Mark { done: true, ..mark })?;
                match singletons::put(&self.cluster, codec::MIGRATION, Some(version), &row).await? {
                    Decided::Applied => Ok(()),
                    Decided::Refused => Err(unavailable("another move ended here at the same time")),
                }
            }
        }
    }
}
