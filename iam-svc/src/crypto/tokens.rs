//! Tokens as text: compact JWS with Ed25519, signed and verified.
//!
//! One algorithm, one key type and one header, so there is nothing to negotiate and no key is ever taken from a
//! token. Reading needs the public keys alone and nothing of the service but the claims.
//!
//! Source: RFC 7515 section 3.1, RFC 8037 section 3.1, RFC 8725, RFC 9068 section 2.1; protocol section 5.

use std::collections::BTreeMap;
use std::fmt;

use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use ed25519_dalek::pkcs8::spki::EncodePublicKey;
use ed25519_dalek::pkcs8::spki::der::pem::LineEnding;
use ed25519_dalek::pkcs8::{DecodePrivateKey, PublicKeyBytes};
use ed25519_dalek::{Signature, Signer as _, SigningKey, VerifyingKey};
use iam_schema::codec::{Format, Payload};
use iam_schema::{KeyKid, Secret, Timestamp, UserId, WorkspaceId};
use serde::de::{DeserializeOwned, IgnoredAny};
use serde::{Deserialize, Deserializer};
use serde_json::{Value, json};

use super::seal::{self, Kek, SealError};
use crate::domain::key_ring::{KeyRing, KeyState, RingKey};
pub use crate::domain::tokens::{Claims, Expect, TokenError};

/// The longest token that is read, in bytes. Ours have some 700; what is longer is not worth decoding.
pub const MAX_TOKEN: usize = 16 * 1024;

/// The largest time and epoch: what every reader of JSON can hold exactly. Source: RFC 8259 section 6.
const MAX_SAFE_INTEGER: u64 = (1 << 53) - 1;

/// Signs tokens with one key.
pub struct Signer {
    key: SigningKey,
    /// The first part of every token, with its dot.
    header: String,
}

impl Signer {
    /// Opens a key of the ring.
    ///
    /// # Errors
    /// `NotOpened` with another key-encryption key, `NotTheKey` where the private key does not fit the public one.
    pub fn open(kek: &Kek, key: &RingKey) -> Result<Self, SealError> {
        let pkcs8 = seal::open(kek, &key.kid, &key.sealed)?;
        let signing = SigningKey::from_pkcs8_der(&pkcs8).map_err(|_| SealError::NotTheKey)?;
        if signing.verifying_key().to_bytes() != key.public {
            return Err(SealError::NotTheKey);
        }
        let header = format!(r#"{{"alg":"EdDSA","kid":{},"typ":"at+jwt"}}"#, quoted(key.kid.as_str()));
        Ok(Self { key: signing, header: URL_SAFE_NO_PAD.encode(header) + "." })
    }

    /// Writes and signs a token.
    pub fn sign(&self, claims: &Claims) -> Secret {
        let mut token = self.header.clone();
        URL_SAFE_NO_PAD.encode_string(written(claims), &mut token);
        let signature = self.key.sign(token.as_bytes());
        token.push('.');
        URL_SAFE_NO_PAD.encode_string(signature.to_bytes(), &mut token);
        token.into()
    }
}

impl fmt::Debug for Signer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Signer(redacted)")
    }
}

/// The claims as JSON, in the order of the protocol; written by hand, since that cannot fail.
fn written(claims: &Claims) -> String {
    let Claims { sub, workspace, iat, nbf, exp, epoch, .. } = claims;
    let (iss, client_id, jti) = (quoted(&claims.iss), quoted(&claims.client_id), quoted(&claims.jti));
    let aud = match claims.aud.as_slice() {
        [one] => quoted(one),
        several => json!(several).to_string(),
    };
    format!(
        r#"{{"iss":{iss},"sub":"{sub}","aud":{aud},"client_id":{client_id},"workspace":"{workspace}","iat":{iat},"nbf":{nbf},"exp":{exp},"jti":{jti},"epoch":{epoch}}}"#
    )
}

fn quoted(text: &str) -> String {
    Value::from(text).to_string()
}

/// The keys by which tokens are verified.
#[derive(Debug, Clone, Default)]
pub struct VerifyKeys(BTreeMap<KeyKid, VerifyKey>);

#[derive(Debug, Clone)]
struct VerifyKey {
    key: VerifyingKey,
    /// Verifies until then; for ever where absent.
    until: Option<Timestamp>,
}

/// Why a set of keys is refused, in words.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub struct KeySetError(&'static str);

impl VerifyKeys {
    /// The keys of the ring that verify at `now`. One in grace stops verifying when its time is over, also when
    /// nobody reads the ring again; next is among them, since another replica may sign with it already.
    ///
    /// # Errors
    /// A stored key that is no public key.
    pub fn from_ring(ring: &KeyRing, now: Timestamp) -> Result<Self, KeySetError> {
        let mut keys = Self::default();
        for key in ring.published(now) {
            let until = match key.state {
                KeyState::Grace { until } => Some(until),
                KeyState::Next | KeyState::Active => None,
            };
            keys.insert(key.kid.clone(), &key.public, until)?;
        }
        Ok(keys)
    }

    /// The keys of a published set. Keys of other types are passed over (RFC 7517 section 5); an Ed25519 key that
    /// is not exactly as ours are refuses the whole set.
    ///
    /// # Errors
    /// Not a set, or a key of it: malformed, of small order, for another use, without or with the same `kid`, or
    /// with its private half. A set without any key of ours.
    pub fn from_jwks(jwks: &str) -> Result<Self, KeySetError> {
        let set: JwkSet = strict(jwks.as_bytes()).ok_or(KeySetError("not a JWK set"))?;
        let mut keys = Self::default();
        for jwk in set.keys.iter().filter(|jwk| jwk.kty == "OKP" && jwk.crv.as_deref() == Some("Ed25519")) {
            if jwk.d.0 {
                return Err(KeySetError("a private key in a JWK set"));
            }
            if jwk.usage.as_deref().is_some_and(|usage| usage != "sig")
                || jwk.alg.as_deref().is_some_and(|alg| alg != "EdDSA")
            {
                return Err(KeySetError("a key for another use"));
            }
            let kid = jwk.kid.as_deref().and_then(|kid| kid.parse().ok());
            let kid = kid.ok_or(KeySetError("a key without a proper kid"))?;
            let public = jwk.x.as_deref().and_then(|x| URL_SAFE_NO_PAD.decode(x).ok()?.try_into().ok());
            keys.insert(kid, &public.ok_or(KeySetError("a key that is not 32 bytes in base64url"))?, None)?;
        }
        if keys.0.is_empty() { Err(KeySetError("no Ed25519 key in the set")) } else { Ok(keys) }
    }

    /// Whether there is a key of that name.
    pub fn contains(&self, kid: &str) -> bool {
        self.0.contains_key(kid)
    }

    /// Adds a key, unless it could verify what nobody signed: under a key of small order, and under two encodings
    /// of one key, one signature fits many texts.
    ///
    /// Source: RFC 8032 sections 5.1.3 and 5.1.7.
    fn insert(&mut self, kid: KeyKid, bytes: &[u8; 32], until: Option<Timestamp>) -> Result<(), KeySetError> {
        let key = VerifyingKey::from_bytes(bytes).map_err(|_| KeySetError("a key that is no point"))?;
        if key.is_weak() {
            return Err(KeySetError("a key of small order"));
        }
        if key.to_edwards().compress().as_bytes() != bytes {
            return Err(KeySetError("a key that is not canonical"));
        }
        match self.0.insert(kid, VerifyKey { key, until }) {
            Some(_) => Err(KeySetError("two keys with the same kid")),
            None => Ok(()),
        }
    }

    /// Verifies a token: signature, issuer, audience and times.
    ///
    /// # Errors
    /// Every [`TokenError`].
    pub fn verify(&self, token: &str, expect: &Expect<'_>) -> Result<Claims, TokenError> {
        let (claims, _) = self.signed_claims(token, expect.now)?;
        claims.check(expect)?;
        Ok(claims)
    }

    /// Verifies the signature alone, for whoever takes more than one audience: the claims that come back, with the
    /// key that signed them, must still pass [`Claims::check`].
    ///
    /// # Errors
    /// Every [`TokenError`] but those of [`Claims::check`].
    pub fn signed_claims(&self, token: &str, now: Timestamp) -> Result<(Claims, KeyKid), TokenError> {
        if token.len() > MAX_TOKEN {
            return Err(TokenError::Malformed);
        }
        let (signed, signature) = token.rsplit_once('.').ok_or(TokenError::Malformed)?;
        let (header, payload) = signed.split_once('.').ok_or(TokenError::Malformed)?;

        let header: Header = part(header)?;
        header.check()?;
        let (kid, key) = self.0.get_key_value(header.kid.as_str()).ok_or(TokenError::UnknownKid)?;
        if key.until.is_some_and(|until| until <= now) {
            return Err(TokenError::UnknownKid);
        }

        // A dot too many is in the payload here, and no base64url: it is malformed once the signature holds, and
        // a bad signature before.
        let signature = Signature::from_slice(&decoded(signature)?).map_err(|_| TokenError::Malformed)?;
        key.key.verify_strict(signed.as_bytes(), &signature).map_err(|_| TokenError::BadSignature)?;
        Ok((Claims::try_from(part::<ClaimsText>(payload)?)?, kid.clone()))
    }
}

fn decoded(part: &str) -> Result<Vec<u8>, TokenError> {
    // Refuses padding, other alphabets and stray bits in the last character.
    URL_SAFE_NO_PAD.decode(part).map_err(|_| TokenError::Malformed)
}

fn part<T: DeserializeOwned>(part: &str) -> Result<T, TokenError> {
    strict(&decoded(part)?).ok_or(TokenError::Malformed)
}

/// Reads a JSON object under the strictness of the wire: no duplicate member at any level, no BOM, no byte after
/// it, bounded nesting.
///
/// The wire takes a member that is null for one that is absent; a token does not, so the fields are read from the
/// text itself.
fn strict<T: DeserializeOwned>(json: &[u8]) -> Option<T> {
    let is_object = Payload::format_of(json) == Format::Json && Payload::read(json).is_ok();
    if is_object { serde_json::from_slice(json).ok() } else { None }
}

/// Whether a member was there, whatever its value, null included.
#[derive(Debug, Default)]
struct Present(bool);

impl<'de> Deserialize<'de> for Present {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        IgnoredAny::deserialize(deserializer).map(|_| Self(true))
    }
}

#[derive(Deserialize)]
struct Header {
    alg: String,
    kid: String,
    #[serde(default)]
    typ: String,
    #[serde(default)]
    crit: Present,
    #[serde(default)]
    b64: Present,
    #[serde(default)]
    jwk: Present,
    #[serde(default)]
    jku: Present,
    #[serde(default)]
    x5u: Present,
    #[serde(default)]
    x5c: Present,
}

impl Header {
    fn check(&self) -> Result<(), TokenError> {
        if self.alg != "EdDSA" {
            return Err(TokenError::WrongAlgorithm);
        }
        // RFC 9068 section 4, RFC 7515 section 4.1.9: the prefix may be left out, and case does not count.
        let access_token =
            ["at+jwt", "application/at+jwt"].iter().any(|typ| self.typ.eq_ignore_ascii_case(typ));
        if !access_token {
            return Err(TokenError::WrongType);
        }
        let forbidden = [&self.crit, &self.b64, &self.jwk, &self.jku, &self.x5u, &self.x5c];
        if forbidden.iter().any(|member| member.0) {
            return Err(TokenError::ForbiddenHeader);
        }
        Ok(())
    }
}

/// The claims as they stand in the text.
#[derive(Deserialize)]
struct ClaimsText {
    iss: String,
    sub: UserId,
    aud: Audience,
    client_id: String,
    workspace: WorkspaceId,
    iat: u64,
    nbf: u64,
    exp: u64,
    jti: String,
    epoch: u64,
}

/// Source: RFC 7519 section 4.1.3.
#[derive(Deserialize)]
#[serde(untagged)]
enum Audience {
    One(String),
    Several(Vec<String>),
}

impl TryFrom<ClaimsText> for Claims {
    type Error = TokenError;

    fn try_from(read: ClaimsText) -> Result<Self, TokenError> {
        let aud = match read.aud {
            Audience::One(one) => vec![one],
            Audience::Several(several) => several,
        };
        if read.iss.is_empty() || aud.iter().any(String::is_empty) || read.epoch > MAX_SAFE_INTEGER {
            return Err(TokenError::Malformed);
        }
        let seconds = |n: u64| match i64::try_from(n) {
            Ok(s) if n <= MAX_SAFE_INTEGER => Ok(s),
            _ => Err(TokenError::Malformed),
        };
        Ok(Claims {
            iss: read.iss,
            sub: read.sub,
            aud,
            client_id: read.client_id,
            workspace: read.workspace,
            iat: seconds(read.iat)?,
            nbf: seconds(read.nbf)?,
            exp: seconds(read.exp)?,
            jti: read.jti,
            epoch: read.epoch,
        })
    }
}

#[derive(Deserialize)]
struct JwkSet {
    keys: Vec<Jwk>,
}

#[derive(Deserialize)]
struct Jwk {
    kty: String,
    crv: Option<String>,
    x: Option<String>,
    kid: Option<String>,
    #[serde(rename = "use")]
    usage: Option<String>,
    alg: Option<String>,
    #[serde(default)]
    d: Present,
}

/// The published set: every key that verifies at `now` or is about to.
///
/// Source: RFC 7517 section 5, RFC 8037 section 2; protocol section 3, get-jwks.
pub fn jwks_json(ring: &KeyRing, now: Timestamp) -> String {
    let jwk = |key: &RingKey| {
        let (x, kid) = (URL_SAFE_NO_PAD.encode(key.public), key.kid.as_str());
        json!({ "kty": "OKP", "crv": "Ed25519", "x": x, "kid": kid, "use": "sig", "alg": "EdDSA" })
    };
    json!({ "keys": ring.published(now).map(jwk).collect::<Vec<_>>() }).to_string()
}

/// The public half of a key as `SubjectPublicKeyInfo` in PEM, ending with a line end. It cannot fail: whatever the
/// 32 bytes are, they are only wrapped.
///
/// Source: RFC 8410 section 10.1.
pub fn public_pem(key: &RingKey) -> String {
    PublicKeyBytes(key.public).to_public_key_pem(LineEnding::LF).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::crypto::seal::fresh_key;
    use crate::entropy::Entropy;

    const NOW: Timestamp = Timestamp::from_millis(1_790_000_000_000);
    const LATER: Timestamp = Timestamp::from_millis(1_790_000_100_000);
    const EXPECT: Expect<'_> = Expect { issuer: "https://iam.test", audience: "iam", now: NOW };

    struct Setup {
        entropy: Entropy,
        kek: Kek,
        ring: KeyRing,
    }

    impl Setup {
        fn new() -> Self {
            let entropy = Entropy::seeded(1);
            let kek = Kek::generate(&entropy);
            let fresh = || fresh_key(&entropy, &kek).unwrap();
            let ring = KeyRing::new(fresh(), fresh(), NOW);
            Self { entropy, kek, ring }
        }

        fn signer(&self) -> Signer {
            Signer::open(&self.kek, self.ring.active().unwrap()).unwrap()
        }
    }

    fn claims() -> Claims {
        Claims {
            iss: EXPECT.issuer.to_owned(),
            sub: "01a0ce87-ea1a-7bb6-ae10-295948688e1d".parse().unwrap(),
            aud: vec!["iam".to_owned()],
            client_id: "iam-login".to_owned(),
            workspace: "default".parse().unwrap(),
            iat: NOW.as_secs(),
            nbf: NOW.as_secs(),
            exp: NOW.as_secs() + 3600,
            jti: "quote \" and \u{1F680}".to_owned(),
            epoch: 3,
        }
    }

    /// A token of any header and payload, signed well.
    fn signed(signer: &Signer, header: &str, payload: &str) -> String {
        let text = format!("{}.{}", URL_SAFE_NO_PAD.encode(header), URL_SAFE_NO_PAD.encode(payload));
        let signature = signer.key.sign(text.as_bytes());
        format!("{text}.{}", URL_SAFE_NO_PAD.encode(signature.to_bytes()))
    }

    #[test]
    fn signed_token_gives_its_claims_back() {
        let setup = Setup::new();
        let keys = VerifyKeys::from_ring(&setup.ring, NOW).unwrap();
        let published = VerifyKeys::from_jwks(&jwks_json(&setup.ring, NOW)).unwrap();
        for claims in [claims(), Claims { aud: vec!["x".to_owned(), "iam".to_owned()], ..claims() }] {
            let token = setup.signer().sign(&claims);
            assert_eq!(keys.verify(token.expose(), &EXPECT), Ok(claims.clone()));
            assert_eq!(published.verify(token.expose(), &EXPECT), Ok(claims));
        }
    }

    #[test]
    fn retired_key_verifies_until_its_grace_is_over() {
        let setup = Setup::new();
        let token = setup.signer().sign(&claims());
        let fresh = fresh_key(&setup.entropy, &setup.kek).unwrap();
        let ring = setup.ring.rotated(fresh, LATER, NOW).unwrap();
        let keys = VerifyKeys::from_ring(&ring, NOW).unwrap();
        assert!(keys.verify(token.expose(), &EXPECT).is_ok());
        let late = Expect { now: LATER, ..EXPECT };
        assert_eq!(
            keys.verify(token.expose(), &late),
            Err(TokenError::UnknownKid),
            "the ring is not read again"
        );
        let keys = VerifyKeys::from_ring(&ring, LATER).unwrap();
        assert_eq!(keys.verify(token.expose(), &late), Err(TokenError::UnknownKid));
    }

    #[test]
    fn refusal_names_its_reason() {
        let setup = Setup::new();
        let (signer, kid) = (setup.signer(), setup.ring.active().unwrap().kid.clone());
        let keys = VerifyKeys::from_ring(&setup.ring, NOW).unwrap();
        let good = written(&claims());
        let header = |members: &str| format!(r#"{{"kid":"{kid}",{members}}}"#);
        let plain = header(r#""alg":"EdDSA","typ":"at+jwt""#);
        let check = |header: &str, payload: &str, expected: TokenError| {
            let token = signed(&signer, header, payload);
            assert_eq!(keys.verify(&token, &EXPECT), Err(expected), "{header} {payload}");
        };
        check(&header(r#""alg":"none","typ":"at+jwt""#), &good, TokenError::WrongAlgorithm);
        check(&header(r#""alg":"EdDSA","typ":"JWT""#), &good, TokenError::WrongType);
        check(&header(r#""alg":"EdDSA""#), &good, TokenError::WrongType);
        for member in ["crit", "b64", "jwk", "jku", "x5u", "x5c"] {
            let header = header(&format!(r#""alg":"EdDSA","typ":"at+jwt","{member}":null"#));
            check(&header, &good, TokenError::ForbiddenHeader);
        }
        check(r#"{"alg":"EdDSA","kid":"x","typ":"at+jwt"}"#, &good, TokenError::UnknownKid);
        check(&plain, &written(&Claims { exp: NOW.as_secs() - 60, ..claims() }), TokenError::Expired);
        check(&plain, &written(&Claims { nbf: NOW.as_secs() + 61, ..claims() }), TokenError::NotYet);
        check(&plain, &written(&Claims { iss: "x".to_owned(), ..claims() }), TokenError::WrongIssuer);
        check(&plain, &written(&Claims { aud: vec!["x".to_owned()], ..claims() }), TokenError::WrongAudience);
        check(&plain, &good.replace(r#""epoch":3"#, r#""epoch":null"#), TokenError::Malformed);
        check(&plain, &good.replace(r#""epoch":3"#, r#""epoch":9007199254740992"#), TokenError::Malformed);
        check(&plain, &good.replace("01a0ce87", "01A0CE87"), TokenError::Malformed);
        // MessagePack is for the bus: in a token it is no JSON object, however well signed.
        let payload = iam_schema::codec::encode(&json!({ "iss": "x" }), Format::MessagePack).unwrap();
        let text = format!("{}.{}", URL_SAFE_NO_PAD.encode(&plain), URL_SAFE_NO_PAD.encode(payload));
        let token = format!("{text}.{}", URL_SAFE_NO_PAD.encode(signer.key.sign(text.as_bytes()).to_bytes()));
        assert_eq!(keys.verify(&token, &EXPECT), Err(TokenError::Malformed));
        let long = "x".repeat(MAX_TOKEN + 1);
        assert_eq!(keys.verify(&long, &EXPECT), Err(TokenError::Malformed));
    }

    #[test]
    fn signer_refuses_a_key_that_is_not_the_one_it_is_stored_as() {
        let setup = Setup::new();
        let key = setup.ring.active().unwrap();
        let other = fresh_key(&setup.entropy, &setup.kek).unwrap();
        let swapped = RingKey { public: other.public, ..key.clone() };
        assert_eq!(Signer::open(&setup.kek, &swapped).unwrap_err(), SealError::NotTheKey);
        let moved = RingKey { sealed: other.sealed, ..key.clone() };
        assert_eq!(Signer::open(&setup.kek, &moved).unwrap_err(), SealError::NotOpened);
        let kek = Kek::generate(&setup.entropy);
        assert_eq!(Signer::open(&kek, key).unwrap_err(), SealError::NotOpened);
        let sealed = seal::seal(&setup.kek, &setup.entropy, &key.kid, b"no key").unwrap();
        let wrong = RingKey { sealed, ..key.clone() };
        assert_eq!(Signer::open(&setup.kek, &wrong).unwrap_err(), SealError::NotTheKey);
    }

    #[test]
    fn set_with_a_bad_key_is_refused() {
        let x = "11qYAYKxCrfVS_7TyWQHOg7hcvPapiMlrwIaaPcHURo";
        let ours = format!(r#""kty":"OKP","crv":"Ed25519","x":"{x}""#);
        let of = |keys: &str| VerifyKeys::from_jwks(&format!(r#"{{"keys":[{keys}]}}"#));
        assert!(of(&format!(r#"{{{ours},"kid":"a"}}"#)).unwrap().contains("a"));
        let beside = of(&format!(r#"{{"kty":"RSA","n":"AQAB","kid":"r"}},{{{ours},"kid":"a"}}"#)).unwrap();
        assert!(beside.contains("a") && !beside.contains("r"), "keys of other types are passed over");
        for (keys, error) in [
            (String::new(), "no Ed25519 key in the set"),
            (r#"{"kty":"RSA","kid":"r"}"#.to_owned(), "no Ed25519 key in the set"),
            (format!("{{{ours}}}"), "a key without a proper kid"),
            (format!(r#"{{{ours},"kid":""}}"#), "a key without a proper kid"),
            (format!(r#"{{{ours},"kid":"a","d":null}}"#), "a private key in a JWK set"),
            (format!(r#"{{{ours},"kid":"a","use":"enc"}}"#), "a key for another use"),
            (format!(r#"{{{ours},"kid":"a","alg":"ES256"}}"#), "a key for another use"),
            (format!(r#"{{{ours},"kid":"a"}},{{{ours},"kid":"a"}}"#), "two keys with the same kid"),
            (format!(r#"{{{ours},"kid":"a","kid":"b"}}"#), "not a JWK set"),
            (
                format!(r#"{{{},"kid":"a"}}"#, ours.replace(x, "AAAA")),
                "a key that is not 32 bytes in base64url",
            ),
            // y = 2 lies on no point, y = 0 has order 4, y = p + 3 is a second way to write 3.
            (format!(r#"{{{},"kid":"a"}}"#, ours.replace(x, &y(2, 0))), "a key that is no point"),
            (format!(r#"{{{},"kid":"a"}}"#, ours.replace(x, &y(0, 0))), "a key of small order"),
            (format!(r#"{{{},"kid":"a"}}"#, ours.replace(x, &y(0xf0, 0x7f))), "a key that is not canonical"),
        ] {
            assert_eq!(of(&keys).unwrap_err(), KeySetError(error), "{keys}");
        }
        for text in ["", "{}", "[]", r#"{"keys":{}}"#, r#"{"keys":[1]}"#, "\u{FEFF}{\"keys\":[]}"] {
            assert_eq!(VerifyKeys::from_jwks(text).unwrap_err(), KeySetError("not a JWK set"), "{text:?}");
        }
    }

    /// A y coordinate in base64url: the lowest byte, then ones or zeros.
    fn y(lowest: u8, highest: u8) -> String {
        let mut bytes = [if highest == 0 { 0 } else { 0xff }; 32];
        bytes[0] = lowest;
        bytes[31] = highest;
        URL_SAFE_NO_PAD.encode(bytes)
    }

    #[test]
    fn any_changed_byte_of_a_token_refuses_it() {
        let setup = Setup::new();
        let keys = VerifyKeys::from_ring(&setup.ring, NOW).unwrap();
        let token = setup.signer().sign(&claims());
        for at in 0..token.len() {
            for with in [b'A', b'.', b' ', b'='] {
                let mut bytes = token.expose().as_bytes().to_vec();
                if bytes[at] != with {
                    bytes[at] = with;
                    let changed = String::from_utf8(bytes).unwrap();
                    assert!(keys.verify(&changed, &EXPECT).is_err(), "{at}: {changed}");
                }
            }
        }
    }
}
