//! Identifiers: one type each, so that two kinds never mix.

use std::fmt;
use std::str::FromStr;
use std::sync::Arc;

use serde::{Deserialize, Deserializer, Serialize, Serializer, de};
use uuid::Uuid;

/// Why a text is not an identifier; the text itself is not repeated.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub struct IdError(&'static str);

macro_rules! uuid_id {
    ($(#[$doc:meta])* $name:ident) => {
        $(#[$doc])*
        #[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
        pub struct $name(Uuid);

        impl $name {
            /// Wraps a UUID that was just made or read from a store.
            pub const fn from_uuid(id: Uuid) -> Self {
                Self(id)
            }

            /// The UUID itself, for storage.
            pub const fn as_uuid(&self) -> Uuid {
                self.0
            }
        }

        impl FromStr for $name {
            type Err = IdError;

            /// Reads the one accepted form: 36 characters, lower case, hyphenated.
            fn from_str(text: &str) -> Result<Self, IdError> {
                let plain = text.len() == 36 && !text.bytes().any(|b| b.is_ascii_uppercase());
                match Uuid::try_parse(text) {
                    Ok(id) if plain => Ok(Self(id)),
                    _ => Err(IdError("must be a lower-case UUID")),
                }
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                self.0.as_hyphenated().fmt(f)
            }
        }

        impl fmt::Debug for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                fmt::Display::fmt(self, f)
            }
        }

        serde_by_text!($name);
    };
}

macro_rules! serde_by_text {
    ($name:ident) => {
        impl Serialize for $name {
            fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
                serializer.collect_str(self)
            }
        }

        impl<'de> Deserialize<'de> for $name {
            fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
                let text = <std::borrow::Cow<'de, str>>::deserialize(deserializer)?;
                text.parse().map_err(de::Error::custom)
            }
        }
    };
}

uuid_id!(
    /// A user, for ever: the id of a deleted user is never given out again.
    UserId
);
uuid_id!(
    /// An API key record. Not a secret: it names the key in lists and when revoking.
    KeyId
);

/// A workspace: `[A-Za-z0-9][A-Za-z0-9_-]{0,62}`. Cheap to clone.
///
/// Source: protocol section 3, create-workspace.
#[derive(Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct WorkspaceId(Arc<str>);

impl WorkspaceId {
    /// The longest id, in bytes.
    pub const MAX_LEN: usize = 63;

    /// The id as written.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl FromStr for WorkspaceId {
    type Err = IdError;

    fn from_str(text: &str) -> Result<Self, IdError> {
        let mut bytes = text.bytes();
        let first = bytes.next().is_some_and(|b| b.is_ascii_alphanumeric());
        let rest = bytes.all(|b| b.is_ascii_alphanumeric() || b == b'_' || b == b'-');
        if first && rest && text.len() <= Self::MAX_LEN {
            Ok(Self(text.into()))
        } else {
            Err(IdError("must be 1 to 63 characters of A-Z a-z 0-9 _ - and begin with a letter or digit"))
        }
    }
}

impl fmt::Display for WorkspaceId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl fmt::Debug for WorkspaceId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl std::borrow::Borrow<str> for WorkspaceId {
    fn borrow(&self) -> &str {
        &self.0
    }
}

serde_by_text!(WorkspaceId);

/// The `kid` of a signing key: 1 to 128 printable ASCII characters. Ours are RFC 7638 thumbprints.
#[derive(Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct KeyKid(Arc<str>);

impl KeyKid {
    /// The kid as written.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl FromStr for KeyKid {
    type Err = IdError;

    fn from_str(text: &str) -> Result<Self, IdError> {
        if (1..=128).contains(&text.len()) && text.bytes().all(|b| b.is_ascii_graphic()) {
            Ok(Self(text.into()))
        } else {
            Err(IdError("must be 1 to 128 printable ASCII characters"))
        }
    }
}

impl fmt::Display for KeyKid {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl fmt::Debug for KeyKid {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl std::borrow::Borrow<str> for KeyKid {
    fn borrow(&self) -> &str {
        &self.0
    }
}

serde_by_text!(KeyKid);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn user_id_of_another_form_is_refused() {
        for text in [
            "",
            "01A0CE87-EA1A-7BB6-AE10-295948688E1D",
            "01a0ce87ea1a7bb6ae10295948688e1d",
            "{01a0ce87-ea1a-7bb6-ae10-295948688e1d}",
            "urn:uuid:01a0ce87-ea1a-7bb6-ae10-295948688e1d",
            " 01a0ce87-ea1a-7bb6-ae10-295948688e1d",
        ] {
            assert!(text.parse::<UserId>().is_err(), "{text:?}");
        }
        let id = "01a0ce87-ea1a-7bb6-ae10-295948688e1d";
        assert_eq!(id.parse::<UserId>().unwrap().to_string(), id);
    }

    #[test]
    fn workspace_id_follows_its_pattern() {
        for good in ["a", "0", "R_and_D", "a-b", &"x".repeat(63)] {
            assert!(good.parse::<WorkspaceId>().is_ok(), "{good:?}");
        }
        for bad in ["", "_a", "-a", "a b", "a.b", "é", "a\n", &"x".repeat(64)] {
            assert!(bad.parse::<WorkspaceId>().is_err(), "{bad:?}");
        }
    }
}
