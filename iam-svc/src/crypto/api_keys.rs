//! API keys: how one is made, what is stored of it, and how a credential is read.

use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use iam_schema::Secret;
use sha2::{Digest, Sha256};
use zeroize::Zeroizing;

use crate::domain::api_keys::KeyHash;
use crate::entropy::Entropy;

/// Random bytes in a key: 192 bits, so that a plain hash is enough to store it by.
pub const KEY_BYTES: usize = 24;

/// What every generated key begins with.
const PREFIX: &str = "tg_";
/// How much of a key is kept to recognise it by, in characters.
const SHOWN: usize = 7;

/// How a credential is read.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum CredentialKind {
    Jwt,
    ApiKey,
}

/// Makes the text of a new key.
///
/// Source: protocol section 5.
pub fn generate(entropy: &Entropy) -> Secret {
    plaintext(&Zeroizing::new(entropy.bytes()))
}

/// The text of the key that is made of these bytes.
pub fn plaintext(bytes: &[u8; KEY_BYTES]) -> Secret {
    let mut text = String::with_capacity(PREFIX.len() + KEY_BYTES / 3 * 4);
    text.push_str(PREFIX);
    URL_SAFE_NO_PAD.encode_string(bytes, &mut text);
    text.into()
}

/// Whether a text has the form of a generated key. A key given as bootstrap token need not.
pub fn is_generated(text: &str) -> bool {
    let body = text.strip_prefix(PREFIX);
    // 24 bytes fill their characters to the last bit, so the alphabet and the length say it all.
    body.is_some_and(|body| body.len() == KEY_BYTES / 3 * 4 && is_base64url(body))
}

/// What is stored of a key: the SHA-256 of exactly this text, nothing trimmed or folded.
pub fn hash(text: &str) -> KeyHash {
    KeyHash(Sha256::digest(text).into())
}

/// What is kept of a key's text to recognise it by: its first 7 characters.
pub fn prefix(text: &str) -> &str {
    let end = text.char_indices().nth(SHOWN).map_or(text.len(), |(at, _)| at);
    text.get(..end).unwrap_or(text)
}

/// Whether a text may be the key of a deployment seeded by token: `[A-Za-z0-9_-]{24,256}`.
///
/// # Errors
/// The rule that the text breaks.
///
/// Source: protocol section 7.
pub fn is_bootstrap_token(text: &str) -> Result<(), &'static str> {
    if is_base64url(text) && (24..=256).contains(&text.len()) {
        Ok(())
    } else {
        Err("must be 24 to 256 characters of A-Z a-z 0-9 _ -")
    }
}

/// How `authenticate` reads a credential: with exactly two dots it is a JWT, else an API key.
///
/// Source: protocol section 3, authenticate.
pub fn credential_kind(text: &str) -> CredentialKind {
    if text.bytes().filter(|b| *b == b'.').count() == 2 {
        CredentialKind::Jwt
    } else {
        CredentialKind::ApiKey
    }
}

fn is_base64url(text: &str) -> bool {
    text.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'_' || b == b'-')
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn generated_key_has_the_generated_form() {
        let entropy = Entropy::seeded(1);
        let key = generate(&entropy);
        assert!(is_generated(key.expose()) && is_bootstrap_token(key.expose()).is_ok());
        assert_eq!(credential_kind(key.expose()), CredentialKind::ApiKey);
        assert!(!key.same_as(&generate(&entropy)));
    }

    #[test]
    fn prefix_is_cut_between_characters() {
        for (text, shown) in
            [("tg_abcdef", "tg_abcd"), ("short", "short"), ("ééééééééé", "ééééééé"), ("", "")]
        {
            assert_eq!(prefix(text), shown);
        }
    }
}
