//! Data directories as other hands leave them.

use std::path::Path;

use redb::TableDefinition;
use sha2::{Digest, Sha256};

const SINGLETONS: TableDefinition<&str, &[u8]> = TableDefinition::new("singletons");

/// The row that says which schema the store has, as a later version may write it:
/// `{"version": 2, "note": 1}`, with the seal of the row.
pub fn newer_schema() -> Vec<u8> {
    let body = [b"\x82\xa7version\x02\xa4note".as_slice(), &[1]].concat();
    let seal = Sha256::digest([b"singletons\0schema\0".as_slice(), &body].concat());
    [&seal[..8], &body].concat()
}

/// Makes the store in this file one of a newer schema.
///
/// # Panics
/// When the file is no store, or somebody has it open.
pub fn write_newer_schema(file: &Path) {
    let database = redb::Database::open(file).expect("a store");
    let transaction = database.begin_write().expect("a transaction");
    let row = newer_schema();
    transaction.open_table(SINGLETONS).expect("a table").insert("schema", row.as_slice()).expect("written");
    transaction.commit().expect("written");
}
