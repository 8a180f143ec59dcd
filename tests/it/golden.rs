//! Golden vectors: data made by other people's libraries, walked row by row.

mod api_keys;
mod authorise;
mod jwt;
mod messagepack;
mod pbkdf2;
mod requests;
mod timestamps;
mod usernames;

use std::collections::BTreeSet;

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use serde::de::DeserializeOwned;

/// Reads `tests/golden/<name>.json`.
pub fn load<T: DeserializeOwned>(name: &str) -> T {
    let path = format!("{}/golden/{name}.json", env!("CARGO_MANIFEST_DIR"));
    let text = std::fs::read_to_string(&path).unwrap_or_else(|e| panic!("{path}: {e}"));
    serde_json::from_str(&text).unwrap_or_else(|e| panic!("{path}: {e}"))
}

pub fn unhex(text: &str) -> Vec<u8> {
    (0..text.len()).step_by(2).map(|i| u8::from_str_radix(&text[i..i + 2], 16).unwrap()).collect()
}

pub fn unbase64(text: &str) -> Vec<u8> {
    STANDARD.decode(text).unwrap()
}

/// Fails with the list of rows that failed, so that one run shows all of them.
pub fn report(file: &str, rows: usize, failures: Vec<String>) {
    assert!(failures.is_empty(), "{file}: {} of {rows} rows:\n{}", failures.len(), failures.join("\n"));
    println!("{file}: {rows} rows");
}

/// Compares a text with a file of `tests/golden`, or writes it there when asked to.
pub fn compare(name: &str, text: &str) {
    let path = format!("{}/golden/{name}", env!("CARGO_MANIFEST_DIR"));
    if std::env::var_os("UPDATE_GOLDEN").is_some() {
        std::fs::write(&path, text).unwrap_or_else(|e| panic!("{path}: {e}"));
        return;
    }
    let known = std::fs::read_to_string(&path).unwrap_or_default();
    let lines = |text: &str, other: &str| -> String {
        let other: BTreeSet<&str> = other.lines().collect();
        text.lines().filter(|line| !other.contains(line)).collect::<Vec<_>>().join("\n")
    };
    let (gone, new) = (lines(&known, text), lines(text, &known));
    assert!(known == text, "{name} is another, see UPDATE_GOLDEN=1\nno longer so:\n{gone}\nnew:\n{new}");
}
