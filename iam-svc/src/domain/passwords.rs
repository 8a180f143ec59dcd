//! What a password must be, and the form in which one is stored.

use std::fmt;

use iam_schema::Secret;

/// The shortest password, in bytes. Source: protocol section 5.
pub const MIN_BYTES: usize = 8;
/// The longest password, in bytes: far beyond what anybody types, and cheap to hash. Source: protocol section 5.
pub const MAX_BYTES: usize = 1024;
/// The lowest strength that passes, on the scale of zxcvbn from 0 to 4. Source: protocol section 5.
pub const MIN_SCORE: u8 = 2;
/// Characters of a temporary password, 5 bits each: 100 bits. Source: protocol section 3, reset-password, asks
/// for 16 at least.
pub const TEMPORARY_LEN: usize = 20;
/// For how long a temporary password is good. Source: protocol section 3, reset-password.
pub const TEMPORARY_LIFETIME_S: i64 = 24 * 3600;

/// Characters that nobody mistakes for another when copying: neither of the letters that look like 0 and 1, and
/// no u, so that few words arise. Being 32, they share a random byte out evenly.
///
/// Source: Crockford's base 32.
const UNAMBIGUOUS: &[u8; 32] = b"0123456789abcdefghjkmnpqrstvwxyz";

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

/// Which rule of the policy a new password breaks.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum WeakPassword {
    TooShort,
    TooLong,
    Guessable,
    SameAsBefore,
}

impl WeakPassword {
    /// The rule in words, for the caller.
    pub const fn as_str(self) -> &'static str {
        match self {
            WeakPassword::TooShort => "the password must be at least 8 bytes long",
            WeakPassword::TooLong => "the password must be at most 1,024 bytes long",
            WeakPassword::Guessable => "the password is too easy to guess",
            WeakPassword::SameAsBefore => "the password is the same as before",
        }
    }
}

/// Checks the length of a new password, before anything is computed of it.
///
/// # Errors
/// `TooShort`, `TooLong`.
pub fn check_length(password: &Secret) -> Result<(), WeakPassword> {
    match password.len() {
        0..MIN_BYTES => Err(WeakPassword::TooShort),
        MIN_BYTES..=MAX_BYTES => Ok(()),
        _ => Err(WeakPassword::TooLong),
    }
}

/// Checks the strength of a new password, given its score from 0 to 4.
///
/// # Errors
/// `Guessable`.
pub fn check_score(score: u8) -> Result<(), WeakPassword> {
    if score < MIN_SCORE { Err(WeakPassword::Guessable) } else { Ok(()) }
}

/// Checks that a new password differs from the one that it replaces.
///
/// # Errors
/// `SameAsBefore`.
pub fn check_change(old: &Secret, new: &Secret) -> Result<(), WeakPassword> {
    if old.same_as(new) { Err(WeakPassword::SameAsBefore) } else { Ok(()) }
}

/// The temporary password that is made of these random bytes.
pub fn temporary_password(random: &[u8; TEMPORARY_LEN]) -> Secret {
    let character = |byte: &u8| UNAMBIGUOUS.get(usize::from(byte % 32)).copied().map(char::from);
    random.iter().filter_map(character).collect::<String>().into()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn length_is_counted_in_bytes_and_both_bounds_pass() {
        for (text, expected) in [
            (String::new(), Err(WeakPassword::TooShort)),
            ("1234567".to_owned(), Err(WeakPassword::TooShort)),
            ("12345678".to_owned(), Ok(())),
            ("éééé".to_owned(), Ok(())),
            ("x".repeat(1024), Ok(())),
            ("x".repeat(1025), Err(WeakPassword::TooLong)),
            ("é".repeat(513), Err(WeakPassword::TooLong)),
        ] {
            assert_eq!(check_length(&Secret::new(text.as_str())), expected, "{text:?}");
        }
    }

    #[test]
    fn score_below_two_is_guessable() {
        let passes: Vec<bool> = (0..=4).map(|score| check_score(score).is_ok()).collect();
        assert_eq!(passes, [false, false, true, true, true]);
    }

    #[test]
    fn password_same_as_before_is_refused() {
        let change = |old: &str, new: &str| check_change(&Secret::new(old), &Secret::new(new));
        assert_eq!(change("one two", "one two"), Err(WeakPassword::SameAsBefore));
        assert_eq!(change("one two", "One two"), Ok(()));
    }

    #[test]
    fn temporary_password_is_good_for_a_day() {
        assert_eq!(TEMPORARY_LIFETIME_S, 86_400);
    }

    #[test]
    fn temporary_password_takes_every_character_equally_often() {
        let mut counts = std::collections::BTreeMap::new();
        for byte in 0..=u8::MAX {
            let text = temporary_password(&[byte; TEMPORARY_LEN]);
            assert_eq!(text.len(), TEMPORARY_LEN);
            *counts.entry(text.expose().chars().next().unwrap()).or_insert(0) += 1;
        }
        assert_eq!(counts.len(), 32);
        assert!(counts.values().all(|count| *count == 8), "{counts:?}");
    }
}
