use iam_svc::crypto::api_keys::{
    CredentialKind, credential_kind, hash, is_bootstrap_token, is_generated, plaintext, prefix,
};
use serde::Deserialize;

use super::{load, report, unhex};

#[derive(Deserialize)]
struct File {
    well_formed: Vec<WellFormed>,
    good: Key,
    malformed: Vec<Malformed>,
    other_keys_than_good: Vec<Other>,
    bootstrap_tokens: Vec<Key>,
    bootstrap_tokens_refused: Vec<RefusedToken>,
    kinds: Vec<Kind>,
}

#[derive(Deserialize)]
struct WellFormed {
    name: String,
    bytes_hex: String,
    #[serde(flatten)]
    key: Key,
}

#[derive(Deserialize)]
struct Key {
    plaintext: String,
    sha256: String,
    prefix: Option<String>,
}

#[derive(Deserialize)]
struct Malformed {
    name: String,
    text: String,
    reason: String,
}

#[derive(Deserialize)]
struct Other {
    text: String,
    sha256: String,
}

#[derive(Deserialize)]
struct RefusedToken {
    token: String,
    reason: String,
}

#[derive(Deserialize)]
struct Kind {
    credential: String,
    read_as: String,
}

#[test]
fn keys_are_made_and_hashed_as_the_vectors_say() {
    let file: File = load("api_keys");
    let mut failures = Vec::new();
    for row in &file.well_formed {
        let text = plaintext(&unhex(&row.bytes_hex).try_into().unwrap());
        if text.expose() != row.key.plaintext || !is_generated(&row.key.plaintext) {
            failures.push(format!("{}: {}, not {}", row.name, text.expose(), row.key.plaintext));
        }
    }
    let keys = file.well_formed.iter().map(|row| &row.key).chain([&file.good]).chain(&file.bootstrap_tokens);
    for key in keys {
        let shown = key.prefix.as_deref().unwrap_or(prefix(&key.plaintext));
        if hash(&key.plaintext).to_string() != key.sha256 || prefix(&key.plaintext) != shown {
            failures.push(format!("{}: {}, {}", key.plaintext, hash(&key.plaintext), prefix(&key.plaintext)));
        }
    }
    let good = hash(&file.good.plaintext);
    for row in &file.malformed {
        if is_generated(&row.text) || hash(&row.text) == good {
            failures.push(format!("malformed {} ({}) passes", row.name, row.reason));
        }
    }
    for row in &file.other_keys_than_good {
        if !is_generated(&row.text) && row.text.starts_with("tg_") {
            failures.push(format!("{:?} is well formed", row.text));
        }
        if hash(&row.text) == good || hash(&row.text).to_string() != row.sha256 {
            failures.push(format!("{:?}: {}", row.text, hash(&row.text)));
        }
    }
    let rows = file.well_formed.len() + file.malformed.len() + file.other_keys_than_good.len();
    report("api_keys", rows, failures);
}

#[test]
fn bootstrap_tokens_are_taken_and_refused_as_the_vectors_say() {
    let file: File = load("api_keys");
    let mut failures = Vec::new();
    for row in file.bootstrap_tokens.iter().filter(|row| is_bootstrap_token(&row.plaintext).is_err()) {
        failures.push(format!("{:?} is refused", row.plaintext));
    }
    for row in file.bootstrap_tokens_refused.iter().filter(|row| is_bootstrap_token(&row.token).is_ok()) {
        failures.push(format!("{:?} ({}) passes", row.token, row.reason));
    }
    report("bootstrap tokens", file.bootstrap_tokens.len() + file.bootstrap_tokens_refused.len(), failures);
}

#[test]
fn credentials_are_read_as_the_vectors_say() {
    let file: File = load("api_keys");
    let mut failures = Vec::new();
    for row in &file.kinds {
        let read_as = match credential_kind(&row.credential) {
            CredentialKind::Jwt => "jwt",
            CredentialKind::ApiKey => "api-key",
        };
        if read_as != row.read_as {
            failures.push(format!("{:?} is read as {read_as}, not {}", row.credential, row.read_as));
        }
    }
    report("kinds of credentials", file.kinds.len(), failures);
}
