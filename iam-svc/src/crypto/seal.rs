//! Signing keys at rest: made, sealed and opened.
//!
//! Source: protocol section 5; NIST SP 800-38D for the mode, RFC 7638 for the name of a key.

use std::fmt;

use aes_gcm::aead::{Aead, Payload};
use aes_gcm::{Aes256Gcm, KeyInit};
use base64::Engine;
use base64::engine::general_purpose::{STANDARD, URL_SAFE_NO_PAD};
use ed25519_dalek::SigningKey;
use ed25519_dalek::pkcs8::{EncodePrivateKey, KeypairBytes};
use iam_schema::{KeyKid, Secret};
use sha2::{Digest, Sha256};
use zeroize::Zeroizing;

use crate::domain::key_ring::FreshKey;
use crate::entropy::Entropy;

/// Bytes of the nonce. It is random: at one sealing a rotation, 2^32 of them are out of reach.
const NONCE: usize = 12;

/// The key-encryption key: 32 bytes, redacted in `Debug`, wiped on drop.
pub struct Kek(Zeroizing<[u8; 32]>);

/// Why a signing key could not be sealed or opened.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum SealError {
    #[error("the key-encryption key must be 32 bytes in standard base64")]
    BadKek,
    /// Another key-encryption key, another kid, or damaged bytes; they cannot be told apart.
    #[error("the signing key does not open with this key-encryption key")]
    NotOpened,
    /// It opened, and is not the private key of the public key beside it.
    #[error("what was sealed is not the signing key it is stored as")]
    NotTheKey,
    /// Only a text of many gigabytes, or a library that has changed its mind.
    #[error("the signing key could not be sealed")]
    NotSealed,
}

impl Kek {
    /// Makes a new one.
    pub fn generate(entropy: &Entropy) -> Self {
        Self(Zeroizing::new(entropy.bytes()))
    }

    /// Reads the text of a file or variable: standard base64 with padding, white space around it allowed, since
    /// editors end a file with a line end.
    ///
    /// # Errors
    /// `BadKek`.
    pub fn from_base64(text: &Secret) -> Result<Self, SealError> {
        let bytes = STANDARD.decode(text.expose().trim_ascii()).map(Zeroizing::new);
        let bytes = bytes.map_err(|_| SealError::BadKek)?;
        let key: [u8; 32] = bytes.as_slice().try_into().map_err(|_| SealError::BadKek)?;
        Ok(Self(Zeroizing::new(key)))
    }

    /// The text for a file.
    pub fn to_base64(&self) -> Secret {
        Secret::from(STANDARD.encode(self.0.as_slice()))
    }

    fn cipher(&self) -> Aes256Gcm {
        let key: &[u8; 32] = &self.0;
        Aes256Gcm::new(key.into())
    }
}

impl fmt::Debug for Kek {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Kek(redacted)")
    }
}

/// Seals a signing key: nonce, then ciphertext and tag of AES-256-GCM, with `kid` as associated data, so that one
/// sealed key cannot be put in the place of another.
///
/// # Errors
/// `NotSealed`.
pub fn seal(kek: &Kek, entropy: &Entropy, kid: &KeyKid, pkcs8: &[u8]) -> Result<Vec<u8>, SealError> {
    let nonce: [u8; NONCE] = entropy.bytes();
    let payload = Payload { msg: pkcs8, aad: kid.as_str().as_bytes() };
    let ciphertext = kek.cipher().encrypt((&nonce).into(), payload).map_err(|_| SealError::NotSealed)?;
    Ok([nonce.as_slice(), &ciphertext].concat())
}

/// Opens what [`seal`] sealed under the same `kid`.
///
/// # Errors
/// `NotOpened`.
pub fn open(kek: &Kek, kid: &KeyKid, sealed: &[u8]) -> Result<Zeroizing<Vec<u8>>, SealError> {
    let (nonce, ciphertext) = sealed.split_first_chunk::<NONCE>().ok_or(SealError::NotOpened)?;
    let payload = Payload { msg: ciphertext, aad: kid.as_str().as_bytes() };
    kek.cipher().decrypt(nonce.into(), payload).map(Zeroizing::new).map_err(|_| SealError::NotOpened)
}

/// Makes a signing key, sealed at once.
///
/// # Errors
/// `NotSealed`.
pub fn fresh_key(entropy: &Entropy, kek: &Kek) -> Result<FreshKey, SealError> {
    let signing = SigningKey::from_bytes(&Zeroizing::new(entropy.bytes()));
    let public = signing.verifying_key().to_bytes();
    let kid = thumbprint(&public).ok_or(SealError::NotSealed)?;
    // Without the public half, the form that every reader of PKCS#8 knows (RFC 8410 section 7).
    let pair = KeypairBytes { secret_key: signing.to_bytes(), public_key: None };
    let pkcs8 = pair.to_pkcs8_der().map_err(|_| SealError::NotSealed)?;
    let sealed = seal(kek, entropy, &kid, pkcs8.as_bytes())?;
    Ok(FreshKey { kid, public, sealed })
}

/// The JWK thumbprint of an Ed25519 public key; always there, a SHA-256 in base64url being a good kid.
///
/// Source: RFC 7638 section 3, RFC 8037 appendix A.3.
pub fn thumbprint(public: &[u8; 32]) -> Option<KeyKid> {
    let x = URL_SAFE_NO_PAD.encode(public);
    let jwk = format!(r#"{{"crv":"Ed25519","kty":"OKP","x":"{x}"}}"#);
    URL_SAFE_NO_PAD.encode(Sha256::digest(jwk)).parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn kid(text: &str) -> KeyKid {
        text.parse().unwrap()
    }

    #[test]
    fn kek_reads_its_own_text_and_no_other_length() {
        let kek = Kek::generate(&Entropy::seeded(1));
        let text = kek.to_base64();
        assert_eq!(text.len(), 44);
        assert_eq!(Kek::from_base64(&text).unwrap().0, kek.0);
        let in_file = Secret::new(format!("{}\n", text.expose()));
        assert_eq!(Kek::from_base64(&in_file).unwrap().0, kek.0);
        let bad =
            ["", "AAAA", text.expose().trim_end_matches('='), &STANDARD.encode([7; 33]), &"*".repeat(44)];
        for bad in bad {
            assert_eq!(Kek::from_base64(&Secret::new(bad)).unwrap_err(), SealError::BadKek, "{bad:?}");
        }
        assert_eq!(format!("{kek:?}"), "Kek(redacted)");
    }

    #[test]
    fn sealed_key_opens_with_its_kek_and_kid_alone() {
        let entropy = Entropy::seeded(2);
        let kek = Kek::generate(&entropy);
        let sealed = seal(&kek, &entropy, &kid("a"), b"private").unwrap();
        assert_eq!(sealed.len(), NONCE + 7 + 16);
        assert_eq!(open(&kek, &kid("a"), &sealed).unwrap().as_slice(), b"private");

        let refused = |kek: &Kek, name: &str, sealed: &[u8]| {
            assert_eq!(open(kek, &kid(name), sealed).unwrap_err(), SealError::NotOpened);
        };
        refused(&kek, "b", &sealed);
        refused(&Kek::generate(&entropy), "a", &sealed);
        for at in 0..sealed.len() {
            let mut damaged = sealed.clone();
            damaged[at] ^= 1;
            refused(&kek, "a", &damaged);
            refused(&kek, "a", &sealed[..at]);
        }
    }

    #[test]
    fn sealing_twice_gives_different_bytes() {
        let entropy = Entropy::seeded(3);
        let kek = Kek::generate(&entropy);
        let seal = || seal(&kek, &entropy, &kid("a"), b"private").unwrap();
        assert_ne!(seal(), seal());
    }

    #[test]
    fn thumbprint_is_that_of_the_rfc() {
        let x = "11qYAYKxCrfVS_7TyWQHOg7hcvPapiMlrwIaaPcHURo";
        let public: [u8; 32] = URL_SAFE_NO_PAD.decode(x).unwrap().try_into().unwrap();
        assert_eq!(thumbprint(&public), Some(kid("kPrK_qmxVWaYVA9wwBF6Iuo3vVzz7TxHCTwXBygrS4k")));
    }
}
