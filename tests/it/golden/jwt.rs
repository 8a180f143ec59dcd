use iam_schema::Timestamp;
use iam_schema::tokens::{Claims, Expect, VerifyKeys};
use iam_svc::crypto::seal::{Kek, seal, thumbprint};
use iam_svc::crypto::tokens::{Signer, jwks_json, public_pem, verify_keys};
use iam_svc::domain::key_ring::{KeyRing, KeyState, RingKey};
use iam_svc::entropy::Entropy;
use serde::Deserialize;
use serde_json::{Value, json};

use super::{load, report, unbase64};

#[derive(Deserialize)]
struct File {
    now: i64,
    issuer: String,
    audience: String,
    keys: Vec<Key>,
    jwks: Value,
    accept: Vec<Accept>,
    refuse: Vec<Refuse>,
}

#[derive(Deserialize)]
struct Key {
    kid: String,
    state: String,
    public_pem: String,
    private_pem: String,
    jwk: Value,
    source: String,
}

#[derive(Deserialize)]
struct Accept {
    name: String,
    made_by: String,
    kid: String,
    claims: Value,
    token: String,
}

#[derive(Deserialize)]
struct Refuse {
    name: String,
    reason: String,
    token: String,
    jwks: Option<Value>,
}

impl File {
    fn now(&self) -> Timestamp {
        Timestamp::from_millis(self.now * 1000)
    }

    fn expect(&self) -> Expect<'_> {
        Expect { issuer: &self.issuer, audience: &self.audience, now: self.now() }
    }

    /// The published keys as a ring of ours would hold them.
    fn ring(&self, kek: &Kek, entropy: &Entropy) -> KeyRing {
        let ring_key = |key: &Key| {
            let kid = key.kid.parse().unwrap();
            let state = match key.state.as_str() {
                "active" => KeyState::Active,
                "grace" => KeyState::Grace { until: self.now().plus_secs(60) },
                other => panic!("{other}"),
            };
            let public = unpem(&key.public_pem).split_off(12).try_into().unwrap();
            let sealed = seal(kek, entropy, &kid, &unpem(&key.private_pem)).unwrap();
            RingKey { kid, public, sealed, state, created: self.now() }
        };
        KeyRing { version: 1, keys: self.keys.iter().map(ring_key).collect() }
    }
}

fn unpem(pem: &str) -> Vec<u8> {
    let lines = pem.lines().filter(|line| !line.starts_with("-----"));
    unbase64(&lines.collect::<String>())
}

/// The claims that we write, so far as a row of the file has them.
fn shown(claims: &Claims) -> Value {
    let aud = match claims.aud.as_slice() {
        [one] => json!(one),
        several => json!(several),
    };
    json!({
        "iss": claims.iss, "sub": claims.sub, "aud": aud, "client_id": claims.client_id,
        "workspace": claims.workspace, "iat": claims.iat, "nbf": claims.nbf, "exp": claims.exp,
        "jti": claims.jti, "epoch": claims.epoch,
    })
}

/// A row's claims without those that are not ours; a list of one audience is that one.
fn ours(claims: &Value) -> Value {
    let mut claims = claims.as_object().unwrap().clone();
    const OURS: [&str; 10] =
        ["iss", "sub", "aud", "client_id", "workspace", "iat", "nbf", "exp", "jti", "epoch"];
    claims.retain(|name, _| OURS.contains(&name.as_str()));
    if let Some([one]) = claims["aud"].as_array().map(Vec::as_slice) {
        claims["aud"] = one.clone();
    }
    claims.into()
}

#[test]
fn tokens_are_accepted_and_refused_as_the_vectors_say() {
    let file: File = load("jwt");
    let mut failures = Vec::new();
    let keys = VerifyKeys::from_jwks(&file.jwks.to_string()).unwrap();
    for row in &file.accept {
        match keys.verify(&row.token, &file.expect()) {
            Ok(claims) if shown(&claims) == ours(&row.claims) => {}
            other => failures.push(format!("accept {}: {other:?} is not {}", row.name, row.claims)),
        }
    }
    for row in &file.refuse {
        let own = row.jwks.as_ref().map(|jwks| VerifyKeys::from_jwks(&jwks.to_string()));
        // Refusing the set is as good as refusing the token.
        let keys = match &own {
            Some(Ok(own)) => own,
            Some(Err(_)) => continue,
            None => &keys,
        };
        if let Ok(claims) = keys.verify(&row.token, &file.expect()) {
            failures.push(format!("refuse {} ({}): gave {claims:?}", row.name, row.reason));
        }
    }
    report("jwt", file.accept.len() + file.refuse.len(), failures);
}

#[test]
fn tokens_signed_again_are_the_same_text() {
    let file: File = load("jwt");
    let mut failures = Vec::new();
    let entropy = Entropy::seeded(1);
    let kek = Kek::generate(&entropy);
    let ring = file.ring(&kek, &entropy);
    let keys = verify_keys(&ring, file.now()).unwrap();
    let rows: Vec<&Accept> = file.accept.iter().filter(|row| row.made_by == "PyJWT and jose").collect();
    for row in &rows {
        let key = ring.keys.iter().find(|key| key.kid.as_str() == row.kid).unwrap();
        let claims = keys.verify(&row.token, &file.expect()).unwrap();
        let token = Signer::open(&kek, key).unwrap().sign(&claims);
        if token.expose() != row.token {
            failures.push(format!("{}: {} is not {}", row.name, token.expose(), row.token));
        }
    }
    assert!(!rows.is_empty());
    report("jwt, signed again", rows.len(), failures);
}

#[test]
fn published_keys_are_written_as_the_vectors_say() {
    let file: File = load("jwt");
    let mut failures = Vec::new();
    let entropy = Entropy::seeded(1);
    let kek = Kek::generate(&entropy);
    let ring = file.ring(&kek, &entropy);
    for (row, key) in file.keys.iter().zip(&ring.keys) {
        if public_pem(key) != row.public_pem {
            failures.push(format!("{}: {}", row.source, public_pem(key)));
        }
        // The name of the first key is the thumbprint that the RFC gives for it.
        let named = thumbprint(&key.public).is_some_and(|kid| kid.as_str() == row.kid);
        if named != row.source.starts_with("RFC 8037") {
            failures.push(format!("{}: thumbprint {:?}", row.source, thumbprint(&key.public)));
        }
        let alone = KeyRing { version: 1, keys: vec![key.clone()] };
        let written: Value = serde_json::from_str(&jwks_json(&alone, file.now())).unwrap();
        if written != json!({ "keys": [row.jwk] }) {
            failures.push(format!("{}: {written}", row.source));
        }
    }
    let written: Value = serde_json::from_str(&jwks_json(&ring, file.now())).unwrap();
    assert_eq!(written, file.jwks);
    report("jwt, keys", file.keys.len(), failures);
}
