//! Tokens: nothing is accepted but what the right key signed, and of that only what the protocol lets pass.

use std::collections::BTreeSet;
use std::sync::OnceLock;

use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use ed25519_dalek::{Signer, SigningKey};
use iam_schema::Timestamp;
use iam_schema::tokens::{Expect, VerifyKeys};
use serde_json::{Value, json};

const NOW: Timestamp = Timestamp::from_millis(1_790_000_000_000);
const EXPECT: Expect<'_> = Expect { issuer: "https://iam.test", audience: "iam", now: NOW };
const HEADER: &str = r#"{"alg":"EdDSA","kid":"one","typ":"at+jwt"}"#;

/// Keys of the deployment, and what was signed with them.
struct Deployment {
    keys: VerifyKeys,
    one: SigningKey,
    signed: BTreeSet<String>,
}

fn deployment() -> &'static Deployment {
    static DEPLOYMENT: OnceLock<Deployment> = OnceLock::new();
    DEPLOYMENT.get_or_init(|| {
        let (one, two) = (SigningKey::from_bytes(&[7; 32]), SigningKey::from_bytes(&[8; 32]));
        let jwk = |kid: &str, key: &SigningKey| {
            let x = URL_SAFE_NO_PAD.encode(key.verifying_key().as_bytes());
            json!({ "kty": "OKP", "crv": "Ed25519", "x": x, "kid": kid, "use": "sig", "alg": "EdDSA" })
        };
        let set = json!({ "keys": [jwk("one", &one), jwk("two", &two)] }).to_string();
        let keys = VerifyKeys::from_jwks(&set).expect("a set of keys");
        let lifetimes = [60, 600, 3600, 86_400];
        let signed = lifetimes.map(|s| sign(&one, HEADER, &good_claims(s).to_string()));
        let with_two = sign(&two, &HEADER.replace("one", "two"), &good_claims(3600).to_string());
        let signed = signed.into_iter().chain([with_two]).collect();
        Deployment { keys, one, signed }
    })
}

/// Claims that pass, for so many seconds.
pub(super) fn good_claims(lifetime_s: i64) -> Value {
    let now = NOW.as_secs();
    json!({
        "iss": EXPECT.issuer, "sub": "01a0ce87-ea1a-7bb6-ae10-295948688e1d", "aud": "iam", "client_id": "iam-login",
        "workspace": "default", "iat": now, "nbf": now, "exp": now + lifetime_s, "jti": "1", "epoch": 3,
    })
}

fn sign(key: &SigningKey, header: &str, payload: &str) -> String {
    let text = format!("{}.{}", URL_SAFE_NO_PAD.encode(header), URL_SAFE_NO_PAD.encode(payload));
    let signature = key.sign(text.as_bytes()).to_bytes();
    format!("{text}.{}", URL_SAFE_NO_PAD.encode(signature))
}

/// The tokens that were signed, and ones that nearly were: another key's, and parts of two put together.
pub(super) fn seeds() -> Vec<String> {
    let mut seeds: Vec<String> = deployment().signed.iter().cloned().collect();
    let stranger = SigningKey::from_bytes(&[9; 32]);
    seeds.push(sign(&stranger, HEADER, &good_claims(3600).to_string()));
    let parts: Vec<Vec<&str>> = seeds.iter().map(|token| token.split('.').collect()).collect();
    let crossed = format!("{}.{}.{}", parts[0][0], parts[1][1], parts[0][2]);
    let unsigned = format!(
        "{}.{}.",
        URL_SAFE_NO_PAD.encode(r#"{"alg":"none","kid":"one","typ":"at+jwt"}"#),
        parts[0][1]
    );
    seeds.extend([crossed, unsigned]);
    seeds
}

/// Any text as a token: it verifies exactly if it is, byte for byte, one that was signed.
pub fn token(data: &[u8]) {
    let Ok(text) = std::str::from_utf8(data) else { return };
    let deployment = deployment();
    let verified = deployment.keys.verify(text, &EXPECT);
    assert_eq!(verified.is_ok(), deployment.signed.contains(text), "{verified:?} for {text}");
}

/// A header and claims, divided by a zero byte, signed by the right key: what passes is what may.
pub fn claims(data: &[u8]) {
    let Ok(text) = std::str::from_utf8(data) else { return };
    let (header, payload) = text.split_once('\0').unwrap_or((HEADER, text));
    let deployment = deployment();
    let token = sign(&deployment.one, header, payload);
    let Ok(claims) = deployment.keys.verify(&token, &EXPECT) else {
        let good = good_claims(3600).to_string();
        assert!(header != HEADER || payload != good, "a good token is refused");
        return;
    };
    let header: Value = serde_json::from_str(header).expect("JSON");
    let payload: Value = serde_json::from_str(payload).expect("JSON");
    let text = |of: &Value, name: &str| of[name].as_str().expect(name).to_owned();
    assert_eq!((text(&header, "alg").as_str(), text(&header, "kid").as_str()), ("EdDSA", "one"));
    let typ = text(&header, "typ").to_ascii_lowercase();
    assert!(["at+jwt", "application/at+jwt"].contains(&typ.as_str()), "{typ}");
    for member in ["crit", "b64", "jwk", "jku", "x5u", "x5c"] {
        assert!(header.get(member).is_none(), "{member}");
    }
    let number = |name: &str| payload[name].as_u64().filter(|n| *n < 1 << 53).expect(name) as i64;
    let now = NOW.as_secs();
    assert!(number("exp") + 60 > now && number("nbf") <= now + 60 && number("iat") <= now + 60);
    assert_eq!((claims.epoch as i64, claims.exp), (number("epoch"), number("exp")));
    assert_eq!(text(&payload, "iss"), EXPECT.issuer);
    let aud = match &payload["aud"] {
        Value::String(one) => vec![one.as_str()],
        several => several.as_array().expect("aud").iter().map(|aud| aud.as_str().expect("aud")).collect(),
    };
    assert!(aud.contains(&"iam"), "{aud:?}");
    for name in ["sub", "client_id", "workspace", "jti"] {
        text(&payload, name);
    }
    assert_eq!(claims.sub.to_string(), text(&payload, "sub"));
    assert_eq!(claims.workspace.as_str(), text(&payload, "workspace"));
}

/// Inputs for [`claims`].
pub(super) fn claims_seeds() -> Vec<String> {
    let good = good_claims(3600);
    let mut seeds = vec![good.to_string()];
    for (name, value) in [
        ("aud", json!(["x", "iam"])),
        ("aud", json!(["x"])),
        ("exp", json!(NOW.as_secs() - 59)),
        ("exp", json!(NOW.as_secs() - 60)),
        ("nbf", json!(NOW.as_secs() + 61)),
        ("epoch", json!(1_u64 << 53)),
        ("epoch", json!(1.5)),
        ("workspace", json!(null)),
        ("extra", json!({ "nested": [1, { "deep": null }] })),
    ] {
        let mut claims = good.clone();
        claims[name] = value;
        seeds.push(claims.to_string());
    }
    for member in ["crit", "jwk", "kid", "alg", "typ", "x5c", "b64"] {
        let header = HEADER.replace('}', &format!(r#","{member}":["x"]}}"#));
        seeds.push(format!("{header}\0{good}"));
    }
    for typ in ["AT+JWT", "application/at+jwt", "JWT", "at+jwt "] {
        seeds.push(format!("{}\0{good}", HEADER.replace("at+jwt", typ)));
    }
    seeds
}
