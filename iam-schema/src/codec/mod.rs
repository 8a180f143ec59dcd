//! Bytes to records and back: MessagePack, and JSON for people with a shell.
//!
//! There is one strictness. JSON is turned into MessagePack first, and one reader decodes both, so a payload
//! cannot be refused in one form and pass in the other. What the reader insists on, beyond being well formed:
//! a map at the top, string keys, no duplicate key at any level (unknown fields included), valid UTF-8, no
//! array or binary where a record or string belongs, no nesting deeper than [`MAX_DEPTH`], no bytes after the
//! value. `nil` of a field is the same as its absence.
//!
//! Source: protocol section 1.

mod json;
mod msgpack;

use std::borrow::Cow;

use serde::{Deserialize, Serialize};
use smallvec::SmallVec;
use zeroize::Zeroizing;

pub use json::{CheckElement, Member, check_list, target_member};

use crate::subject::MAX_PAYLOAD;

/// The deepest nesting, in containers; the payload's own map is the first.
pub const MAX_DEPTH: u8 = 32;

/// How a payload is written.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Format {
    MessagePack,
    Json,
}

/// Why a payload cannot be read: which field, and which rule. It never repeats the payload.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct DecodeError {
    /// The path to the field, such as `user.roles`; empty where no field is to blame.
    pub field: String,
    /// The rule that was broken.
    pub rule: String,
}

impl DecodeError {
    fn new(rule: impl Into<String>) -> Self {
        Self { field: String::new(), rule: rule.into() }
    }

    fn within(mut self, key: &str) -> Self {
        // Any other key is the caller's invention: it names no field of ours, and may be a secret out of place.
        if key.len() <= 32 && key.bytes().all(|b| b.is_ascii_lowercase() || b == b'_') {
            self.field = if self.field.is_empty() { key.to_owned() } else { format!("{key}.{}", self.field) };
        }
        self
    }
}

impl std::fmt::Display for DecodeError {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        if self.field.is_empty() {
            f.write_str(&self.rule)
        } else {
            write!(f, "`{}`: {}", self.field, self.rule)
        }
    }
}

impl std::error::Error for DecodeError {}

impl serde::de::Error for DecodeError {
    fn custom<T: std::fmt::Display>(message: T) -> Self {
        Self::new(message.to_string())
    }

    fn invalid_type(found: serde::de::Unexpected<'_>, expected: &dyn serde::de::Expected) -> Self {
        Self::new(format!("expected {expected}, found {}", describe(found)))
    }

    fn invalid_value(found: serde::de::Unexpected<'_>, expected: &dyn serde::de::Expected) -> Self {
        Self::new(format!("expected {expected}, found {} out of range", describe(found)))
    }

    fn unknown_variant(_variant: &str, _expected: &'static [&'static str]) -> Self {
        Self::new("unknown value")
    }
}

/// What was found, without its value: it may be a secret in the wrong place.
fn describe(found: serde::de::Unexpected<'_>) -> &'static str {
    use serde::de::Unexpected::*;
    match found {
        Bool(_) => "a boolean",
        Unsigned(_) | Signed(_) => "an integer",
        Float(_) => "a float",
        Char(_) | Str(_) => "a string",
        Bytes(_) => "binary data",
        Unit | Option => "nil",
        Seq => "a list",
        Map => "a map",
        _ => "something else",
    }
}

/// A payload whose form is known, ready to be decoded.
#[derive(Debug)]
pub struct Payload<'a> {
    format: Format,
    bytes: PayloadBytes<'a>,
}

enum PayloadBytes<'a> {
    Borrowed(&'a [u8]),
    Transcoded(Zeroizing<Vec<u8>>),
}

impl std::fmt::Debug for PayloadBytes<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("(payload)")
    }
}

impl<'a> Payload<'a> {
    /// In which form a payload is written: JSON if its first byte that is not white space is `{`.
    pub fn format_of(payload: &[u8]) -> Format {
        match payload.iter().find(|b| !b.is_ascii_whitespace()) {
            Some(b'{') => Format::Json,
            _ => Format::MessagePack,
        }
    }

    /// Reads the outer form; an empty payload is an empty record.
    ///
    /// # Errors
    /// Over 256 KiB, or broken JSON. Broken MessagePack shows itself in [`Payload::decode`].
    pub fn read(payload: &'a [u8]) -> Result<Self, DecodeError> {
        if payload.len() > MAX_PAYLOAD {
            return Err(DecodeError::new(format!("the payload is over {MAX_PAYLOAD} bytes")));
        }
        let format = Self::format_of(payload);
        let bytes = match format {
            Format::Json => PayloadBytes::Transcoded(json::to_msgpack(payload)?),
            Format::MessagePack if payload.is_empty() => PayloadBytes::Borrowed(&[0x80]),
            Format::MessagePack => PayloadBytes::Borrowed(payload),
        };
        Ok(Self { format, bytes })
    }

    /// The form in which the reply must be written.
    pub fn format(&self) -> Format {
        self.format
    }

    /// Decodes a record, borrowing from the payload what can be borrowed.
    ///
    /// # Errors
    /// Whatever breaks the strictness of this module; the field is named.
    pub fn decode<'p, T: Deserialize<'p>>(&'p self) -> Result<T, DecodeError> {
        let bytes = match &self.bytes {
            PayloadBytes::Borrowed(bytes) => bytes,
            PayloadBytes::Transcoded(bytes) => bytes.as_slice(),
        };
        msgpack::decode(bytes)
    }
}

/// Decodes a record that owns its strings, of either form.
///
/// # Errors
/// As [`Payload::read`] and [`Payload::decode`].
pub fn decode<T: serde::de::DeserializeOwned>(payload: &[u8]) -> Result<T, DecodeError> {
    Payload::read(payload)?.decode()
}

/// Encodes a record: fields in declaration order, defaults left out, smallest integers and headers.
///
/// # Errors
/// Only if a record of ours could not be written at all, which its types exclude.
pub fn encode<T: Serialize>(record: &T, format: Format) -> Result<Vec<u8>, DecodeError> {
    let mut out = Vec::with_capacity(128);
    match format {
        Format::MessagePack => {
            let mut serializer = rmp_serde::Serializer::new(&mut out).with_struct_map();
            record.serialize(&mut serializer).map_err(|e| DecodeError::new(e.to_string()))?;
        }
        Format::Json => {
            serde_json::to_writer(&mut out, record).map_err(|e| DecodeError::new(e.to_string()))?;
        }
    }
    Ok(out)
}

/// The keys seen in one map: few as a rule, and then compared one by one; many, and then hashed, so that a
/// hostile map of 80,000 keys costs no more than its bytes.
#[derive(Default)]
struct KeySet<'de> {
    few: SmallVec<[Cow<'de, str>; 12]>,
    many: std::collections::HashSet<Cow<'de, str>>,
}

impl<'de> KeySet<'de> {
    const FEW: usize = 48;

    /// Adds a key; whether it is new.
    fn insert(&mut self, key: Cow<'de, str>) -> bool {
        if self.many.is_empty() {
            if self.few.contains(&key) {
                return false;
            }
            if self.few.len() < Self::FEW {
                self.few.push(key);
                return true;
            }
            self.many.extend(self.few.drain(..));
        }
        self.many.insert(key)
    }
}
