//! Rows of the embedded store: a row that is read is a sound one, and nothing but its own bytes under its own key
//! is read at all.

use iam_svc::store::StoreError;
use iam_svc::store::reread;
use sha2::{Digest, Sha256};

/// The tables, with the length of their keys where it is fixed.
const TABLES: [(&str, usize); 4] = [("users", 16), ("workspaces", 0), ("api_keys", 32), ("singletons", 0)];
const SINGLETONS: [&str; 3] = ["key-ring", "bootstrap", "schema"];

/// A row as it would be sealed if its body were what the input says.
pub(super) fn sealed(table: &str, key: &[u8], body: &[u8]) -> Vec<u8> {
    let digest = Sha256::new()
        .chain_update(table)
        .chain_update([0])
        .chain_update(key)
        .chain_update([0])
        .chain_update(body)
        .finalize();
    [&digest[..8], body].concat()
}

/// The first byte chooses the table and whether the seal is ours to make; then come the key and the row.
pub fn rows(data: &[u8]) {
    let Some((first, rest)) = data.split_first() else { return };
    let (table, len) = TABLES[usize::from(*first) % 4];
    let (key, row) = match (table, len) {
        ("singletons", _) => {
            let Some((which, row)) = rest.split_first() else { return };
            (SINGLETONS[usize::from(*which) % 3].as_bytes(), row)
        }
        (_, 0) => {
            let Some((len, rest)) = rest.split_first() else { return };
            let Some(parts) = rest.split_at_checked(usize::from(*len)) else { return };
            parts
        }
        (_, len) => {
            let Some(parts) = rest.split_at_checked(len) else { return };
            parts
        }
    };
    let row = if first & 0x80 == 0 { sealed(table, key, row) } else { row.to_vec() };
    let written = match reread(table, key, &row) {
        Ok(written) => written,
        Err(StoreError::Corrupt { table: named, .. }) => return assert_eq!(named, table),
        Err(other) => panic!("{other:?}"),
    };
    assert_eq!(row[..8], sealed(table, key, &row[8..])[..8], "a row under a wrong seal");
    // What was read is sound, so that it is written and read again the same.
    assert_eq!(reread(table, key, &written).ok(), Some(written));
    // A bit that flips is seen, and so is a row that ends up elsewhere.
    let at = usize::from(row[0]) % row.len();
    let mut flipped = row.clone();
    flipped[at] ^= 1 << (row[1] % 8);
    assert!(reread(table, key, &flipped).is_err(), "bit of byte {at}");
    for (other, _) in TABLES.iter().filter(|(other, _)| *other != table) {
        assert!(reread(other, key, &row).is_err(), "a row of {table} in {other}");
    }
}
