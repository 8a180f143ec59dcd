//! Tokens: what one says, what of it must be true, and how it is read; what both sides must agree on.
//!
//! A token is a compact JWS with Ed25519. One algorithm, one key type and one header, so there is nothing to
//! negotiate and no key is ever taken from a token. Reading needs the public keys alone, so a gateway verifies with
//! the code by which the service does. Signing is the service's.
//!
//! Source: RFC 7515 section 3.1, RFC 8037 section 3.1, RFC 8725, RFC 9068 section 2.1; protocol section 5.

use std::collections::BTreeMap;

use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use ed25519_dalek::{Signature, VerifyingKey};
use serde::de::{DeserializeOwned, IgnoredAny};
use serde::{Deserialize, Deserializer};

use crate::codec::{Format, Payload};
use crate::{KeyKid, Timestamp, UserId, WorkspaceId};

/// How far clocks may differ, in seconds. Source: protocol section 5.
pub const LEEWAY_S: i64 = 60;

/// The `client_id` of every token of ours. Source: protocol section 5.
pub const CLIENT_ID: &str = "iam-login";

/// The longest token that is read, in bytes. Ours have some 700; what is longer is not worth decoding.
pub const MAX_TOKEN: usize = 16 * 1024;

/// The largest time and epoch: what every reader of JSON can hold exactly. Source: RFC 8259 section 6.
const MAX_SAFE_INTEGER: u64 = (1 << 53) - 1;

/// The claims of a token.
///
/// Source: protocol section 5, RFC 7519 section 4.1, RFC 9068 section 2.2.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Claims {
    pub iss: String,
    pub sub: UserId,
    /// One in every token of ours; of others' lists all are kept.
    pub aud: Vec<String>,
    pub client_id: String,
    pub workspace: WorkspaceId,
    /// Seconds since the Unix epoch, as are `nbf` and `exp`; 0 to 2^53-1 where they were read.
    pub iat: i64,
    pub nbf: i64,
    pub exp: i64,
    pub jti: String,
    /// The user's token epoch when the token was issued; a token of another epoch is dead.
    pub epoch: u64,
}

/// What a token must fit.
#[derive(Debug, Clone, Copy)]
pub struct Expect<'a> {
    pub issuer: &'a str,
    pub audience: &'a str,
    pub now: Timestamp,
}

/// Why a token is refused: for log and audit, never for the caller.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum TokenError {
    /// Not a token in compact form, or a header or claims of another form than ours.
    #[error("malformed token")]
    Malformed,
    /// An `alg` other than `EdDSA`, `none` included.
    #[error("token of another algorithm")]
    WrongAlgorithm,
    /// A `typ` other than that of an access token, or none.
    #[error("token of another type")]
    WrongType,
    /// A header member that would change how the token is to be verified.
    #[error("token header asks for what is never done")]
    ForbiddenHeader,
    /// No key of that name, or none any more; whoever holds a copy of the keys may fetch them again.
    #[error("token signed by an unknown key")]
    UnknownKid,
    #[error("token signature is wrong")]
    BadSignature,
    #[error("token of another issuer")]
    WrongIssuer,
    #[error("token for another audience")]
    WrongAudience,
    #[error("token expired")]
    Expired,
    /// Issued or beginning in the future.
    #[error("token not valid yet")]
    NotYet,
}

impl Claims {
    /// Checks issuer, audience and times. It says nothing about whether the user still may: that is the epoch.
    ///
    /// # Errors
    /// `WrongIssuer`, `WrongAudience`, `Expired` from [`LEEWAY_S`] after `exp` on, `NotYet` while `nbf` or `iat`
    /// is further ahead than that.
    pub fn check(&self, expect: &Expect<'_>) -> Result<(), TokenError> {
        if self.iss != expect.issuer {
            return Err(TokenError::WrongIssuer);
        }
        if !self.aud.iter().any(|aud| aud == expect.audience) {
            return Err(TokenError::WrongAudience);
        }
        self.check_times(expect.now)
    }

    /// Checks the times alone, for a token that passed [`Claims::check`] before.
    ///
    /// # Errors
    /// `Expired`, `NotYet`.
    pub fn check_times(&self, now: Timestamp) -> Result<(), TokenError> {
        let now_ms = now.as_millis();
        if now_ms >= millis(self.exp.saturating_add(LEEWAY_S)) {
            return Err(TokenError::Expired);
        }
        let latest_start_ms = now_ms.saturating_add(millis(LEEWAY_S));
        if millis(self.nbf) > latest_start_ms || millis(self.iat) > latest_start_ms {
            return Err(TokenError::NotYet);
        }
        Ok(())
    }

    /// When the token runs out, leeway left aside.
    pub fn expires(&self) -> Timestamp {
        Timestamp::from_millis(millis(self.exp))
    }
}

/// The audience of a token that is good for changing the password alone.
///
/// Source: protocol section 5.
pub fn change_password_audience(audience: &str) -> String {
    format!("{audience}:change-password")
}

fn millis(seconds: i64) -> i64 {
    seconds.saturating_mul(1000)
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
            keys.add(kid, &public.ok_or(KeySetError("a key that is not 32 bytes in base64url"))?, None)?;
        }
        if keys.0.is_empty() { Err(KeySetError("no Ed25519 key in the set")) } else { Ok(keys) }
    }

    /// Whether there is a key of that name.
    pub fn contains(&self, kid: &str) -> bool {
        self.0.contains_key(kid)
    }

    /// Adds a key that verifies until the given time, for ever without one; unless it could verify what nobody
    /// signed: under a key of small order, and under two encodings of one key, one signature fits many texts.
    ///
    /// # Errors
    /// A key that is no point, of small order or not canonical; or one with the `kid` of another, whose place it has
    /// taken then: the set is not to be used.
    ///
    /// Source: RFC 8032 sections 5.1.3 and 5.1.7.
    pub fn add(
        &mut self,
        kid: KeyKid,
        bytes: &[u8; 32],
        until: Option<Timestamp>,
    ) -> Result<(), KeySetError> {
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

#[cfg(test)]
mod tests {
    use ed25519_dalek::{Signer, SigningKey};
    use serde_json::json;

    use super::*;

    const NOW_S: i64 = 1_790_000_000;
    const NOW: Timestamp = Timestamp::from_millis(NOW_S * 1000);
    const LATER: Timestamp = Timestamp::from_millis((NOW_S + 100) * 1000);
    const EXPECT: Expect<'_> = Expect { issuer: "https://iam.test", audience: "iam", now: NOW };
    const HEADER: &str = r#"{"alg":"EdDSA","kid":"one","typ":"at+jwt"}"#;

    fn key() -> SigningKey {
        SigningKey::from_bytes(&[7; 32])
    }

    /// The one key, until then.
    fn keys(until: Option<Timestamp>) -> VerifyKeys {
        let mut keys = VerifyKeys::default();
        keys.add("one".parse().unwrap(), key().verifying_key().as_bytes(), until).unwrap();
        keys
    }

    fn claims() -> Claims {
        Claims {
            iss: EXPECT.issuer.to_owned(),
            sub: "01a0ce87-ea1a-7bb6-ae10-295948688e1d".parse().unwrap(),
            aud: vec!["iam".to_owned()],
            client_id: CLIENT_ID.to_owned(),
            workspace: "default".parse().unwrap(),
            iat: NOW_S,
            nbf: NOW_S,
            exp: NOW_S + 3600,
            jti: "quote \" and \u{1F680}".to_owned(),
            epoch: 3,
        }
    }

    fn written(claims: &Claims) -> String {
        let Claims { iss, sub, aud, client_id, workspace, iat, nbf, exp, jti, epoch } = claims;
        json!({
            "iss": iss, "sub": sub, "aud": aud, "client_id": client_id, "workspace": workspace,
            "iat": iat, "nbf": nbf, "exp": exp, "jti": jti, "epoch": epoch,
        })
        .to_string()
    }

    /// A token of any header and payload, signed well.
    fn signed(header: &str, payload: impl AsRef<[u8]>) -> String {
        let text = format!("{}.{}", URL_SAFE_NO_PAD.encode(header), URL_SAFE_NO_PAD.encode(payload));
        let signature = key().sign(text.as_bytes());
        format!("{text}.{}", URL_SAFE_NO_PAD.encode(signature.to_bytes()))
    }

    fn check(change: impl FnOnce(&mut Claims), now_ms: i64) -> Result<(), TokenError> {
        let mut claims = claims();
        change(&mut claims);
        let now = Timestamp::from_millis(now_ms);
        claims.check(&Expect { now, ..EXPECT })
    }

    #[test]
    fn token_expires_exactly_a_minute_after_exp() {
        assert_eq!(check(|_| (), (NOW_S + 3660) * 1000 - 1), Ok(()));
        assert_eq!(check(|_| (), (NOW_S + 3660) * 1000), Err(TokenError::Expired));
        assert_eq!(check(|c| c.exp = (1 << 53) - 1, NOW_S * 1000), Ok(()));
        assert_eq!(check(|c| c.exp = i64::MAX, NOW_S * 1000), Ok(()));
    }

    #[test]
    fn token_from_more_than_a_minute_ahead_is_not_valid_yet() {
        for set in [|c: &mut Claims, t| c.nbf = t, |c: &mut Claims, t| c.iat = t] {
            assert_eq!(check(|c| set(c, NOW_S + 60), NOW_S * 1000), Ok(()));
            assert_eq!(check(|c| set(c, NOW_S + 60), NOW_S * 1000 - 1), Err(TokenError::NotYet));
            assert_eq!(check(|c| set(c, i64::MAX), NOW_S * 1000), Err(TokenError::NotYet));
        }
    }

    #[test]
    fn token_for_changing_the_password_is_good_for_nothing_else() {
        let limited = change_password_audience("iam");
        let now = NOW_S * 1000;
        assert_eq!(check(|c| c.aud = vec![limited.clone()], now), Err(TokenError::WrongAudience));
        assert_eq!(check(|c| c.aud = vec![], now), Err(TokenError::WrongAudience));
        assert_eq!(check(|c| c.iss.push('/'), now), Err(TokenError::WrongIssuer));
        assert_eq!(check(|c| c.aud.insert(0, "other".to_owned()), now), Ok(()));
    }

    #[test]
    fn signed_token_gives_its_claims_back() {
        let several = Claims { aud: vec!["x".to_owned(), "iam".to_owned()], ..claims() };
        let one_text = written(&claims()).replace(r#"["iam"]"#, r#""iam""#);
        for (payload, claims) in
            [(one_text, claims()), (written(&claims()), claims()), (written(&several), several)]
        {
            assert_eq!(keys(None).verify(&signed(HEADER, payload), &EXPECT), Ok(claims));
        }
    }

    #[test]
    fn key_with_an_end_verifies_until_then() {
        let token = signed(HEADER, written(&claims()));
        let late = Expect { now: LATER, ..EXPECT };
        assert!(keys(Some(LATER)).verify(&token, &EXPECT).is_ok());
        assert_eq!(keys(Some(LATER)).verify(&token, &late), Err(TokenError::UnknownKid));
        assert!(keys(None).verify(&token, &late).is_ok());
    }

    #[test]
    fn refusal_names_its_reason() {
        let keys = keys(None);
        let good = written(&claims());
        let header = |members: &str| format!(r#"{{"kid":"one",{members}}}"#);
        let check = |header: &str, payload: &str, expected: TokenError| {
            let token = signed(header, payload);
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
        check(HEADER, &written(&Claims { exp: NOW_S - 60, ..claims() }), TokenError::Expired);
        check(HEADER, &written(&Claims { nbf: NOW_S + 61, ..claims() }), TokenError::NotYet);
        check(HEADER, &written(&Claims { iss: "x".to_owned(), ..claims() }), TokenError::WrongIssuer);
        check(HEADER, &written(&Claims { aud: vec!["x".to_owned()], ..claims() }), TokenError::WrongAudience);
        check(HEADER, &good.replace(r#""epoch":3"#, r#""epoch":null"#), TokenError::Malformed);
        check(HEADER, &good.replace(r#""epoch":3"#, r#""epoch":9007199254740992"#), TokenError::Malformed);
        check(HEADER, &good.replace("01a0ce87", "01A0CE87"), TokenError::Malformed);
        // MessagePack is for the bus: in a token it is no JSON object, however well signed.
        let payload = crate::codec::encode(&json!({ "iss": "x" }), Format::MessagePack).unwrap();
        assert_eq!(keys.verify(&signed(HEADER, payload), &EXPECT), Err(TokenError::Malformed));
        let long = "x".repeat(MAX_TOKEN + 1);
        assert_eq!(keys.verify(&long, &EXPECT), Err(TokenError::Malformed));
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
        let keys = keys(None);
        let token = signed(HEADER, written(&claims()));
        for at in 0..token.len() {
            for with in [b'A', b'.', b' ', b'='] {
                let mut bytes = token.as_bytes().to_vec();
                if bytes[at] != with {
                    bytes[at] = with;
                    let changed = String::from_utf8(bytes).unwrap();
                    assert!(keys.verify(&changed, &EXPECT).is_err(), "{at}: {changed}");
                }
            }
        }
    }
}
