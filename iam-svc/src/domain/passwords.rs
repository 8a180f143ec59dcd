//! What a password must be, and the form in which one is stored.

use std::fmt;

/// The stored form: `pbkdf2-sha256$<iterations>$<base64 salt>$<base64 hash>`. Redacted in `Debug`.
#[derive(Clone, PartialEq, Eq)]
pub struct PasswordHash(String);

impl PasswordHash {
    /// Wraps a stored text. Whether it is well formed shows when a password is verified against it.
    pub fn from_stored(text: String) -> Self {
        Self(text)
    }

    /// The text, for storing and verifying.
    pub fn expose(&self) -> &str {
        &self.0
    }
}

impl fmt::Debug for PasswordHash {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("PasswordHash(redacted)")
    }
}
