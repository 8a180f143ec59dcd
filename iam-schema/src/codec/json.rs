//! Strict JSON: payloads that people type, and the JSON that some fields carry in a string.

use std::borrow::Cow;

use serde::de::{self, DeserializeSeed, Deserializer, MapAccess, SeqAccess, Visitor};
use zeroize::Zeroizing;

use super::{DecodeError, KeySet, MAX_DEPTH};
use crate::decisions::MAX_CHECKS;

/// Where the values of a JSON text go while it is checked.
trait Sink {
    fn open_map(&mut self) -> usize;
    fn open_list(&mut self) -> usize;
    /// Fills in the length of the container opened at `mark`.
    fn close(&mut self, mark: usize, len: usize);
    fn str(&mut self, text: &str);
    fn unsigned(&mut self, n: u64);
    fn signed(&mut self, n: i64);
    fn float(&mut self, n: f64);
    fn bool(&mut self, value: bool);
    fn null(&mut self);
}

/// Checks and forgets.
struct Nowhere;

impl Sink for Nowhere {
    fn open_map(&mut self) -> usize {
        0
    }
    fn open_list(&mut self) -> usize {
        0
    }
    fn close(&mut self, _mark: usize, _len: usize) {}
    fn str(&mut self, _text: &str) {}
    fn unsigned(&mut self, _n: u64) {}
    fn signed(&mut self, _n: i64) {}
    fn float(&mut self, _n: f64) {}
    fn bool(&mut self, _value: bool) {}
    fn null(&mut self) {}
}

/// Writes MessagePack. Containers get 32-bit headers, since their length is known only at their end.
struct MessagePack(Zeroizing<Vec<u8>>);

impl MessagePack {
    fn open(&mut self, marker: rmp::Marker) -> usize {
        self.0.push(marker.to_u8());
        self.0.extend_from_slice(&[0; 4]);
        self.0.len()
    }
}

// Writing into a vector cannot fail.
impl Sink for MessagePack {
    fn open_map(&mut self) -> usize {
        self.open(rmp::Marker::Map32)
    }
    fn open_list(&mut self) -> usize {
        self.open(rmp::Marker::Array32)
    }
    fn close(&mut self, mark: usize, len: usize) {
        // A payload of 256 KiB holds fewer than 2^32 of anything.
        let header = u32::try_from(len).unwrap_or(u32::MAX).to_be_bytes();
        if let Some(place) = self.0.get_mut(mark.saturating_sub(4)..mark) {
            place.copy_from_slice(&header);
        }
    }
    fn str(&mut self, text: &str) {
        let _ = rmp::encode::write_str(&mut *self.0, text);
    }
    fn unsigned(&mut self, n: u64) {
        let _ = rmp::encode::write_uint(&mut *self.0, n);
    }
    fn signed(&mut self, n: i64) {
        let _ = rmp::encode::write_sint(&mut *self.0, n);
    }
    fn float(&mut self, n: f64) {
        let _ = rmp::encode::write_f64(&mut *self.0, n);
    }
    fn bool(&mut self, value: bool) {
        let _ = rmp::encode::write_bool(&mut *self.0, value);
    }
    fn null(&mut self) {
        let _ = rmp::encode::write_nil(&mut *self.0);
    }
}

/// Rewrites a JSON object as MessagePack, to be read by the one reader.
pub fn to_msgpack(json: &[u8]) -> Result<Zeroizing<Vec<u8>>, DecodeError> {
    // No JSON text grows to more than three times its length, so the buffer never moves and leaves no copy.
    let mut sink = MessagePack(Zeroizing::new(Vec::with_capacity(json.len() * 3 + 16)));
    let mut reader = serde_json::Deserializer::from_slice(json);
    Walk { sink: &mut sink, depth: 1 }.deserialize(&mut reader).map_err(|e| described(&e))?;
    reader.end().map_err(|e| described(&e))?;
    Ok(sink.0)
}

/// What `serde_json` says of an error, without the part that may repeat a value.
fn described(error: &serde_json::Error) -> DecodeError {
    let rule = match error.classify() {
        serde_json::error::Category::Eof => "the JSON text is cut short".to_owned(),
        serde_json::error::Category::Data => error.to_string(),
        _ => format!("broken JSON at line {} column {}", error.line(), error.column()),
    };
    DecodeError::new(rule)
}

/// Walks any one value into a sink, holding it to the rules.
struct Walk<'s, S> {
    sink: &'s mut S,
    /// The depth that this value has if it is a container.
    depth: u8,
}

impl<S> Walk<'_, S> {
    fn check_depth<E: de::Error>(&self) -> Result<(), E> {
        if self.depth > MAX_DEPTH {
            Err(E::custom(format!("nested deeper than {MAX_DEPTH}")))
        } else {
            Ok(())
        }
    }
}

impl<'de, S: Sink> DeserializeSeed<'de> for Walk<'_, S> {
    type Value = ();

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<(), D::Error> {
        deserializer.deserialize_any(self)
    }
}

impl<'de, S: Sink> Visitor<'de> for Walk<'_, S> {
    type Value = ();

    fn expecting(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("a JSON value")
    }

    fn visit_bool<E>(self, value: bool) -> Result<(), E> {
        self.sink.bool(value);
        Ok(())
    }

    fn visit_u64<E>(self, n: u64) -> Result<(), E> {
        self.sink.unsigned(n);
        Ok(())
    }

    fn visit_i64<E>(self, n: i64) -> Result<(), E> {
        self.sink.signed(n);
        Ok(())
    }

    fn visit_f64<E>(self, n: f64) -> Result<(), E> {
        self.sink.float(n);
        Ok(())
    }

    fn visit_str<E>(self, text: &str) -> Result<(), E> {
        self.sink.str(text);
        Ok(())
    }

    fn visit_unit<E>(self) -> Result<(), E> {
        self.sink.null();
        Ok(())
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut list: A) -> Result<(), A::Error> {
        self.check_depth()?;
        let mark = self.sink.open_list();
        let mut len = 0;
        while list.next_element_seed(Walk { sink: &mut *self.sink, depth: self.depth + 1 })?.is_some() {
            len += 1;
        }
        self.sink.close(mark, len);
        Ok(())
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<(), A::Error> {
        self.check_depth()?;
        let mark = self.sink.open_map();
        let mut keys = KeySet::default();
        let mut len = 0;
        while let Some(Key(key)) = map.next_key()? {
            self.sink.str(&key);
            if !keys.insert(key) {
                return Err(de::Error::custom("duplicate key"));
            }
            map.next_value_seed(Walk { sink: &mut *self.sink, depth: self.depth + 1 })?;
            len += 1;
        }
        self.sink.close(mark, len);
        Ok(())
    }
}

/// A key, borrowed where it holds no escape.
#[derive(serde::Deserialize)]
#[serde(transparent)]
struct Key<'a>(#[serde(borrow)] Cow<'a, str>);

/// What stands in a resource or parameters object under the key that a decision looks at.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Member<'a> {
    /// No such key.
    Absent,
    /// A string.
    Text(Cow<'a, str>),
    /// Something else, `null` included: it is there, and it is no string.
    Other,
}

/// Reads the member `workspace` of a JSON object in a string, and checks all of it. The empty text is `{}`.
///
/// # Errors
/// Not a JSON object, or one that breaks the strictness of this module.
pub fn target_member(json: &str) -> Result<Member<'_>, DecodeError> {
    if json.is_empty() || json == "{}" {
        return Ok(Member::Absent);
    }
    let mut reader = serde_json::Deserializer::from_str(json);
    let member = Target { depth: 1 }.deserialize(&mut reader).map_err(|e| described(&e))?;
    reader.end().map_err(|e| described(&e))?;
    match member {
        Some(member) => Ok(member),
        None => Err(DecodeError::new("must be a JSON object")),
    }
}

/// Walks an object for its member `workspace`; `None` if the value is no object.
struct Target {
    depth: u8,
}

impl<'de> DeserializeSeed<'de> for Target {
    type Value = Option<Member<'de>>;

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<Self::Value, D::Error> {
        deserializer.deserialize_any(self)
    }
}

/// What is no container is not what was wanted. It is not left to serde to say so: its words repeat the value.
macro_rules! no_container {
    ($($method:ident($type:ty))*) => {
        $(fn $method<E>(self, _: $type) -> Result<Self::Value, E> {
            Ok(None)
        })*
        fn visit_unit<E>(self) -> Result<Self::Value, E> {
            Ok(None)
        }
    };
}

macro_rules! no_object {
    () => {
        no_container!(visit_bool(bool) visit_u64(u64) visit_i64(i64) visit_f64(f64) visit_str(&str));

        fn visit_seq<A: SeqAccess<'de>>(self, list: A) -> Result<Self::Value, A::Error> {
            Walk { sink: &mut Nowhere, depth: self.depth }.visit_seq(list)?;
            Ok(None)
        }
    };
}

impl<'de> Visitor<'de> for Target {
    type Value = Option<Member<'de>>;

    fn expecting(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("a JSON object")
    }

    no_object!();

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Self::Value, A::Error> {
        let mut member = Member::Absent;
        let mut keys = KeySet::default();
        while let Some(Key(key)) = map.next_key()? {
            if key == "workspace" {
                member = map.next_value_seed(MemberSeed { depth: self.depth + 1 })?;
            } else {
                map.next_value_seed(Walk { sink: &mut Nowhere, depth: self.depth + 1 })?;
            }
            if !keys.insert(key) {
                return Err(de::Error::custom("duplicate key"));
            }
        }
        Ok(Some(member))
    }
}

struct MemberSeed {
    depth: u8,
}

impl<'de> DeserializeSeed<'de> for MemberSeed {
    type Value = Member<'de>;

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<Self::Value, D::Error> {
        deserializer.deserialize_any(self)
    }
}

impl<'de> Visitor<'de> for MemberSeed {
    type Value = Member<'de>;

    fn expecting(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("a JSON value")
    }

    fn visit_borrowed_str<E>(self, text: &'de str) -> Result<Self::Value, E> {
        Ok(Member::Text(Cow::Borrowed(text)))
    }

    fn visit_str<E>(self, text: &str) -> Result<Self::Value, E> {
        Ok(Member::Text(Cow::Owned(text.to_owned())))
    }

    fn visit_bool<E>(self, _: bool) -> Result<Self::Value, E> {
        Ok(Member::Other)
    }

    fn visit_u64<E>(self, _: u64) -> Result<Self::Value, E> {
        Ok(Member::Other)
    }

    fn visit_i64<E>(self, _: i64) -> Result<Self::Value, E> {
        Ok(Member::Other)
    }

    fn visit_f64<E>(self, _: f64) -> Result<Self::Value, E> {
        Ok(Member::Other)
    }

    fn visit_unit<E>(self) -> Result<Self::Value, E> {
        Ok(Member::Other)
    }

    fn visit_seq<A: SeqAccess<'de>>(self, list: A) -> Result<Self::Value, A::Error> {
        Walk { sink: &mut Nowhere, depth: self.depth }.visit_seq(list)?;
        Ok(Member::Other)
    }

    fn visit_map<A: MapAccess<'de>>(self, map: A) -> Result<Self::Value, A::Error> {
        Walk { sink: &mut Nowhere, depth: self.depth }.visit_map(map)?;
        Ok(Member::Other)
    }
}

/// One element of `authorise_checks`; `None` where the element is no check.
pub type CheckElement<'a> = Option<(Cow<'a, str>, Member<'a>, Member<'a>)>;

/// Reads `authorise_checks`: per element the capability and the two targets, or `None` where the element is
/// malformed, which denies that element alone.
///
/// # Errors
/// Not a JSON list, more than [`MAX_CHECKS`] elements, or a text that breaks the strictness of this module.
pub fn check_list(json: &str) -> Result<Vec<CheckElement<'_>>, DecodeError> {
    let mut reader = serde_json::Deserializer::from_str(json);
    let checks = Checks.deserialize(&mut reader).map_err(|e| described(&e))?;
    reader.end().map_err(|e| described(&e))?;
    checks.ok_or_else(|| DecodeError::new("must be a JSON list"))
}

/// Walks a list of checks; `None` if the value is no list.
struct Checks;

impl<'de> DeserializeSeed<'de> for Checks {
    type Value = Option<Vec<CheckElement<'de>>>;

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<Self::Value, D::Error> {
        deserializer.deserialize_any(self)
    }
}

impl<'de> Visitor<'de> for Checks {
    type Value = Option<Vec<CheckElement<'de>>>;

    fn expecting(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("a JSON list of checks")
    }

    no_container!(visit_bool(bool) visit_u64(u64) visit_i64(i64) visit_f64(f64) visit_str(&str));

    fn visit_map<A: MapAccess<'de>>(self, map: A) -> Result<Self::Value, A::Error> {
        Walk { sink: &mut Nowhere, depth: 1 }.visit_map(map)?;
        Ok(None)
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut list: A) -> Result<Self::Value, A::Error> {
        let mut checks = Vec::new();
        while let Some(check) = list.next_element_seed(CheckSeed { depth: 2 })? {
            if checks.len() == MAX_CHECKS {
                return Err(de::Error::custom(format!("more than {MAX_CHECKS} checks")));
            }
            checks.push(check);
        }
        Ok(Some(checks))
    }
}

struct CheckSeed {
    depth: u8,
}

impl<'de> DeserializeSeed<'de> for CheckSeed {
    type Value = CheckElement<'de>;

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<Self::Value, D::Error> {
        deserializer.deserialize_any(self)
    }
}

impl<'de> Visitor<'de> for CheckSeed {
    type Value = CheckElement<'de>;

    fn expecting(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("a check")
    }

    no_object!();

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Self::Value, A::Error> {
        let depth = self.depth + 1;
        let mut capability = Member::Absent;
        let mut resource = Some(Member::Absent);
        let mut parameters = Some(Member::Absent);
        let mut keys = KeySet::default();
        while let Some(Key(key)) = map.next_key()? {
            match key.as_ref() {
                "capability" => capability = map.next_value_seed(MemberSeed { depth })?,
                "resource" => resource = map.next_value_seed(Target { depth })?,
                "parameters" => parameters = map.next_value_seed(Target { depth })?,
                _ => map.next_value_seed(Walk { sink: &mut Nowhere, depth })?,
            }
            if !keys.insert(key) {
                return Err(de::Error::custom("duplicate key"));
            }
        }
        Ok(match (capability, resource, parameters) {
            (Member::Text(capability), Some(resource), Some(parameters)) if !capability.is_empty() => {
                Some((capability, resource, parameters))
            }
            _ => None,
        })
    }
}
