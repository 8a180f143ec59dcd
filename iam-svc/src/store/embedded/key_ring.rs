//! The ring of signing keys: one row, replaced as a whole.

use redb::ReadableTable;

use super::tables::{Fault, SINGLETONS, Source, Tx};
use crate::domain::key_ring::KeyRing;
use crate::store::{ReplaceKeyRing, codec};

pub(super) fn get(source: &impl Source) -> Result<Option<KeyRing>, Fault> {
    let table = source.open(SINGLETONS)?;
    let row = table.get(codec::RING)?;
    Ok(row.map(|row| codec::read_ring(row.value())).transpose()?)
}

pub(super) fn replace(tx: &Tx<'_>, to: &KeyRing) -> Result<ReplaceKeyRing, Fault> {
    let follows = get(tx)?.is_some_and(|stored| to.version == stored.version + 1);
    if !follows {
        return Ok(ReplaceKeyRing::LostRace);
    }
    put(tx, to)?;
    Ok(ReplaceKeyRing::Replaced)
}

/// Writes the ring, whatever was there.
pub(super) fn put(tx: &Tx<'_>, ring: &KeyRing) -> Result<(), Fault> {
    let row = codec::write_ring(ring)?;
    tx.open_mut(SINGLETONS)?.insert(codec::RING, row.as_slice())?;
    Ok(())
}
