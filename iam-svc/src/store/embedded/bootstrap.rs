//! The seeding of an empty deployment, and the numbered schema.

use iam_schema::{Timestamp, UserId};
use redb::{ReadableTable, ReadableTableMetadata};

use super::tables::{
    API_KEY_IDS, API_KEY_NAMES, API_KEY_USE, API_KEYS, API_KEYS_BY_USER, Fault, NAMES, SINGLETONS, Source,
    Tx, USERS, USERS_BY_ROLE, USERS_BY_WORKSPACE, WORKSPACES,
};
use super::{api_keys, key_ring, users, workspaces};
use crate::store::codec::{self, At, BootstrapRow};
use crate::store::{InsertApiKey, InsertUser, Seed, SeedState, Seeded};

/// Whom the deployment was seeded with, and when.
pub(super) fn done(source: &impl Source) -> Result<Option<BootstrapRow>, Fault> {
    let table = source.open(SINGLETONS)?;
    let row = table.get(codec::BOOTSTRAP)?;
    Ok(row.map(|row| codec::read_bootstrap(row.value())).transpose()?)
}

/// How far the seeding is: here it is one transaction, so never under way.
///
/// A store that holds users or workspaces counts as seeded, however they came in: a bootstrap must never make
/// an admin of a deployment that is in use.
pub(super) fn state(source: &impl Source) -> Result<SeedState, Fault> {
    let done = done(source)?.is_some();
    let used = !source.open(USERS)?.is_empty()? || !source.open(WORKSPACES)?.is_empty()?;
    Ok(if done || used { SeedState::Done } else { SeedState::Empty })
}

pub(super) fn seed(tx: &Tx<'_>, seed: &Seed, now: Timestamp) -> Result<Seeded, Fault> {
    match state(tx)? {
        SeedState::Empty => {}
        SeedState::Seeding => return Ok(Seeded::InProgress),
        SeedState::Done => return Ok(Seeded::AlreadyDone),
    }
    let admin = &seed.admin;
    let fits = admin.workspace == seed.workspace.id && seed.key.of_live_epoch(admin);
    workspaces::put(tx, &seed.workspace)?;
    let admitted = users::insert(tx, admin)? == InsertUser::Inserted;
    let keyed = api_keys::insert(tx, &seed.key)? == InsertApiKey::Inserted;
    if !(fits && admitted && keyed) {
        let at = At { table: "singletons", key: codec::BOOTSTRAP.as_bytes() };
        return Err(at
            .corrupt("not written: workspace, admin and key of the seed do not belong together")
            .into());
    }
    key_ring::put(tx, &seed.ring)?;
    put(tx, admin.id, now)?;
    Ok(Seeded::Seeded(admin.id))
}

/// Writes down that the deployment was seeded.
pub(super) fn put(tx: &Tx<'_>, admin: UserId, seeded: Timestamp) -> Result<(), Fault> {
    let row = codec::write_bootstrap(BootstrapRow { admin: admin.as_uuid(), done_ms: seeded.as_millis() })?;
    tx.open_mut(SINGLETONS)?.insert(codec::BOOTSTRAP, row.as_slice())?;
    Ok(())
}

/// The migrations in order; the number of the last one is the schema that this version writes.
pub(super) const MIGRATIONS: &[(u32, Migration)] = &[(1, create_tables)];

type Migration = fn(&Tx<'_>) -> Result<(), Fault>;

fn create_tables(tx: &Tx<'_>) -> Result<(), Fault> {
    tx.open_mut(USERS)?;
    tx.open_mut(NAMES)?;
    tx.open_mut(USERS_BY_WORKSPACE)?;
    tx.open_mut(USERS_BY_ROLE)?;
    tx.open_mut(WORKSPACES)?;
    tx.open_mut(API_KEYS)?;
    tx.open_mut(API_KEY_IDS)?;
    tx.open_mut(API_KEY_NAMES)?;
    tx.open_mut(API_KEYS_BY_USER)?;
    tx.open_mut(API_KEY_USE)?;
    tx.open_mut(SINGLETONS)?;
    Ok(())
}

/// The newest schema that this version knows.
pub(super) fn newest_schema() -> u32 {
    MIGRATIONS.last().map_or(0, |(number, _)| *number)
}

/// The schema of the file.
pub(super) fn schema(source: &impl Source) -> Result<u32, Fault> {
    let table = source.open(SINGLETONS)?;
    let row = table.get(codec::SCHEMA)?;
    let at = At { table: "singletons", key: codec::SCHEMA.as_bytes() };
    Ok(row.map_or_else(|| Err(at.corrupt("absent")), |row| codec::read_schema(row.value()))?)
}

/// Applies the migrations above `from`; the caller commits all of them or none.
pub(super) fn migrate(tx: &Tx<'_>, from: u32) -> Result<(), Fault> {
    for (number, migration) in MIGRATIONS.iter().filter(|(number, _)| *number > from) {
        migration(tx)?;
        tx.open_mut(SINGLETONS)?.insert(codec::SCHEMA, codec::write_schema(*number)?.as_slice())?;
    }
    Ok(())
}
