//! A deployment moved out of a file and into one: each page is one transaction.

use async_trait::async_trait;
use iam_schema::{Timestamp, UserId};
use redb::{ReadableTable, ReadableTableMetadata};

use super::tables::{API_KEYS, Fault, SINGLETONS, Source, Tx, USERS, WORKSPACES};
use super::{EmbeddedStore, api_keys, bootstrap, key_ring, users, workspaces};
use crate::domain::key_ring::KeyRing;
use crate::domain::workspaces::Workspace;
use crate::store::StoreError;
use crate::store::codec::{self, At};
use crate::store::transfer::{Account, Mark, Origin, Transfer};

fn mark(source: &impl Source) -> Result<Option<Mark>, Fault> {
    let table = source.open(SINGLETONS)?;
    let row = table.get(codec::MIGRATION)?;
    Ok(row.map(|row| codec::read_mark(row.value())).transpose()?)
}

fn put_mark(tx: &Tx<'_>, mark: Mark) -> Result<(), Fault> {
    let row = codec::write_mark(mark)?;
    tx.open_mut(SINGLETONS)?.insert(codec::MIGRATION, row.as_slice())?;
    Ok(())
}

fn is_empty(source: &impl Source) -> Result<bool, Fault> {
    Ok(source.open(USERS)?.is_empty()?
        && source.open(WORKSPACES)?.is_empty()?
        && source.open(API_KEYS)?.is_empty()?
        && bootstrap::done(source)?.is_none()
        && key_ring::get(source)?.is_none())
}

#[async_trait]
impl Transfer for EmbeddedStore {
    async fn origin(&self) -> Result<Option<Origin>, StoreError> {
        let row = self.read(bootstrap::done).await?;
        Ok(row.map(|row| Origin {
            admin: UserId::from_uuid(row.admin),
            seeded: Timestamp::from_millis(row.done_ms),
        }))
    }

    async fn is_empty(&self) -> Result<bool, StoreError> {
        self.read(is_empty).await
    }

    async fn mark(&self) -> Result<Option<Mark>, StoreError> {
        self.read(mark).await
    }

    async fn begin(&self, origin: &Origin) -> Result<(), StoreError> {
        let origin = *origin;
        self.write(move |tx| put_mark(tx, Mark { origin, done: false })).await
    }

    async fn put_workspaces(&self, workspaces: &[Workspace]) -> Result<(), StoreError> {
        let all = workspaces.to_vec();
        self.write(move |tx| all.iter().try_for_each(|workspace| workspaces::put(tx, workspace))).await
    }

    async fn put_accounts(&self, accounts: &[Account]) -> Result<(), StoreError> {
        let all = accounts.to_vec();
        let put = move |tx: &Tx<'_>| {
            all.iter().try_for_each(|Account { user, keys }| {
                users::restore(tx, user)?;
                api_keys::restore(tx, user.id, keys)
            })
        };
        self.write(put).await
    }

    async fn put_foundation(&self, ring: &KeyRing, origin: &Origin) -> Result<(), StoreError> {
        let (ring, origin) = (ring.clone(), *origin);
        let put = move |tx: &Tx<'_>| {
            key_ring::put(tx, &ring)?;
            bootstrap::put(tx, origin.admin, origin.seeded)
        };
        self.write(put).await
    }

    async fn end(&self) -> Result<(), StoreError> {
        let end = |tx: &Tx<'_>| {
            let at = At { table: "singletons", key: codec::MIGRATION.as_bytes() };
            let mark = mark(tx)?.ok_or_else(|| at.corrupt("absent"))?;
            put_mark(tx, Mark { done: true, ..mark })
        };
        self.write(end).await
    }
}
