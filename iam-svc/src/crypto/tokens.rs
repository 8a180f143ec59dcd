//! Tokens as text, signed; and the keys that verify them, as they are published. How a token is read is in
//! `iam_schema::tokens`, the same for every side.
//!
//! Source: RFC 7515 section 3.1, RFC 8037 section 3.1, RFC 9068 section 2.1; protocol section 5.

use std::fmt;

use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use ed25519_dalek::pkcs8::spki::EncodePublicKey;
use ed25519_dalek::pkcs8::spki::der::pem::LineEnding;
use ed25519_dalek::pkcs8::{DecodePrivateKey, PublicKeyBytes};
use ed25519_dalek::{Signer as _, SigningKey};
use iam_schema::tokens::{Claims, KeySetError, VerifyKeys};
use iam_schema::{Secret, Timestamp};
use serde_json::{Value, json};

use super::seal::{self, Kek, SealError};
use crate::domain::key_ring::{KeyRing, KeyState, RingKey};

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

/// The keys of the ring that verify at `now`. One in grace stops verifying when its time is over, also when
/// nobody reads the ring again; next is among them, since another replica may sign with it already.
///
/// # Errors
/// A stored key that is no public key.
pub fn verify_keys(ring: &KeyRing, now: Timestamp) -> Result<VerifyKeys, KeySetError> {
    let mut keys = VerifyKeys::default();
    for key in ring.published(now) {
        let until = match key.state {
            KeyState::Grace { until } => Some(until),
            KeyState::Next | KeyState::Active => None,
        };
        keys.add(key.kid.clone(), &key.public, until)?;
    }
    Ok(keys)
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
    use iam_schema::tokens::{Expect, TokenError};

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

    #[test]
    fn signed_token_gives_its_claims_back() {
        let setup = Setup::new();
        let keys = verify_keys(&setup.ring, NOW).unwrap();
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
        let keys = verify_keys(&ring, NOW).unwrap();
        assert!(keys.verify(token.expose(), &EXPECT).is_ok());
        let late = Expect { now: LATER, ..EXPECT };
        assert_eq!(
            keys.verify(token.expose(), &late),
            Err(TokenError::UnknownKid),
            "the ring is not read again"
        );
        let keys = verify_keys(&ring, LATER).unwrap();
        assert_eq!(keys.verify(token.expose(), &late), Err(TokenError::UnknownKid));
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
}
