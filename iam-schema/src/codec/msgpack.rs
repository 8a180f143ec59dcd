//! The strict MessagePack reader.
//!
//! `rmp-serde` reads leniently: arrays for records, integers for keys, binary for strings, bytes after the
//! value, duplicate unknown keys. All of these must be refused here, so this is a `serde` deserializer of our
//! own; it walks the bytes once and allocates nothing by itself.

use std::borrow::Cow;

use rmp::Marker;
use serde::Deserialize;
use serde::de::{self, DeserializeSeed, IntoDeserializer, MapAccess, SeqAccess, Unexpected, Visitor};

use super::{DecodeError, KeySet, MAX_DEPTH};

pub fn decode<'de, T: Deserialize<'de>>(bytes: &'de [u8]) -> Result<T, DecodeError> {
    let mut reader = Reader { rest: bytes, depth: 0 };
    let marker = reader.peek()?;
    if !is_map(marker) {
        return Err(DecodeError::new("the payload must be a map"));
    }
    let value = T::deserialize(&mut reader)?;
    if reader.rest.is_empty() { Ok(value) } else { Err(DecodeError::new("bytes after the value")) }
}

struct Reader<'de> {
    rest: &'de [u8],
    depth: u8,
}

fn is_map(marker: Marker) -> bool {
    matches!(marker, Marker::FixMap(_) | Marker::Map16 | Marker::Map32)
}

fn is_str(marker: Marker) -> bool {
    matches!(marker, Marker::FixStr(_) | Marker::Str8 | Marker::Str16 | Marker::Str32)
}

fn is_array(marker: Marker) -> bool {
    matches!(marker, Marker::FixArray(_) | Marker::Array16 | Marker::Array32)
}

fn found(marker: Marker) -> Unexpected<'static> {
    match marker {
        Marker::Null | Marker::Reserved => Unexpected::Unit,
        Marker::True | Marker::False => Unexpected::Bool(true),
        Marker::F32 | Marker::F64 => Unexpected::Float(0.0),
        m if is_str(m) => Unexpected::Str(""),
        m if is_map(m) => Unexpected::Map,
        m if is_array(m) => Unexpected::Seq,
        Marker::FixPos(_) | Marker::FixNeg(_) => Unexpected::Unsigned(0),
        Marker::U8 | Marker::U16 | Marker::U32 | Marker::U64 => Unexpected::Unsigned(0),
        Marker::I8 | Marker::I16 | Marker::I32 | Marker::I64 => Unexpected::Unsigned(0),
        _ => Unexpected::Bytes(&[]),
    }
}

impl<'de> Reader<'de> {
    fn peek(&self) -> Result<Marker, DecodeError> {
        match self.rest.first() {
            Some(byte) => Ok(Marker::from_u8(*byte)),
            None => Err(cut_short()),
        }
    }

    fn marker(&mut self) -> Result<Marker, DecodeError> {
        let marker = self.peek()?;
        self.take(1)?;
        Ok(marker)
    }

    fn take(&mut self, len: usize) -> Result<&'de [u8], DecodeError> {
        let (head, rest) = self.rest.split_at_checked(len).ok_or_else(cut_short)?;
        self.rest = rest;
        Ok(head)
    }

    fn array<const N: usize>(&mut self) -> Result<[u8; N], DecodeError> {
        let (head, rest) = self.rest.split_first_chunk().ok_or_else(cut_short)?;
        self.rest = rest;
        Ok(*head)
    }

    /// A big-endian length of N bytes.
    fn len<const N: usize>(&mut self) -> Result<usize, DecodeError> {
        let bytes: [u8; N] = self.array()?;
        Ok(bytes.iter().fold(0, |n, b| (n << 8) | usize::from(*b)))
    }

    fn str_of(&mut self, marker: Marker) -> Result<&'de str, DecodeError> {
        let len = match marker {
            Marker::FixStr(len) => usize::from(len),
            Marker::Str8 => self.len::<1>()?,
            Marker::Str16 => self.len::<2>()?,
            Marker::Str32 => self.len::<4>()?,
            other => return Err(de::Error::invalid_type(found(other), &"a string")),
        };
        std::str::from_utf8(self.take(len)?).map_err(|_| DecodeError::new("invalid UTF-8"))
    }

    fn map_len(&mut self, marker: Marker) -> Result<usize, DecodeError> {
        match marker {
            Marker::FixMap(len) => Ok(usize::from(len)),
            Marker::Map16 => self.len::<2>(),
            Marker::Map32 => self.len::<4>(),
            other => Err(de::Error::invalid_type(found(other), &"a map")),
        }
    }

    fn array_len(&mut self, marker: Marker) -> Result<usize, DecodeError> {
        match marker {
            Marker::FixArray(len) => Ok(usize::from(len)),
            Marker::Array16 => self.len::<2>(),
            Marker::Array32 => self.len::<4>(),
            other => Err(de::Error::invalid_type(found(other), &"a list")),
        }
    }

    fn key(&mut self) -> Result<&'de str, DecodeError> {
        let marker = self.marker()?;
        if is_str(marker) { self.str_of(marker) } else { Err(DecodeError::new("a key is not a string")) }
    }

    fn deeper(&mut self) -> Result<(), DecodeError> {
        self.depth += 1;
        if self.depth > MAX_DEPTH {
            return Err(DecodeError::new(format!("nested deeper than {MAX_DEPTH}")));
        }
        Ok(())
    }

    /// Steps over a value that nobody wants, and still holds it to every rule.
    fn skip(&mut self) -> Result<(), DecodeError> {
        let marker = self.marker()?;
        match marker {
            m if is_str(m) => self.str_of(m).map(drop),
            m if is_map(m) => {
                let len = self.map_len(m)?;
                self.deeper()?;
                let mut keys = KeySet::default();
                for _ in 0..len {
                    let key = self.key()?;
                    if !keys.insert(Cow::Borrowed(key)) {
                        return Err(DecodeError::new("duplicate key").within(key));
                    }
                    self.skip()?;
                }
                self.depth -= 1;
                Ok(())
            }
            m if is_array(m) => {
                let len = self.array_len(m)?;
                self.deeper()?;
                for _ in 0..len {
                    self.skip()?;
                }
                self.depth -= 1;
                Ok(())
            }
            Marker::Null | Marker::True | Marker::False | Marker::FixPos(_) | Marker::FixNeg(_) => Ok(()),
            Marker::U8 | Marker::I8 => self.take(1).map(drop),
            Marker::U16 | Marker::I16 | Marker::FixExt1 => self.take(2).map(drop),
            Marker::U32 | Marker::I32 | Marker::F32 => self.take(4).map(drop),
            Marker::U64 | Marker::I64 | Marker::F64 => self.take(8).map(drop),
            Marker::FixExt2 => self.take(3).map(drop),
            Marker::FixExt4 => self.take(5).map(drop),
            Marker::FixExt8 => self.take(9).map(drop),
            Marker::FixExt16 => self.take(17).map(drop),
            Marker::Bin8 => self.len::<1>().and_then(|len| self.take(len)).map(drop),
            Marker::Bin16 => self.len::<2>().and_then(|len| self.take(len)).map(drop),
            Marker::Bin32 => self.len::<4>().and_then(|len| self.take(len)).map(drop),
            Marker::Ext8 => self.len::<1>().and_then(|len| self.take(len + 1)).map(drop),
            Marker::Ext16 => self.len::<2>().and_then(|len| self.take(len + 1)).map(drop),
            Marker::Ext32 => self.len::<4>().and_then(|len| self.take(len + 1)).map(drop),
            _ => Err(DecodeError::new("a byte that MessagePack does not use")),
        }
    }
}

fn cut_short() -> DecodeError {
    DecodeError::new("the payload is cut short")
}

impl<'de> de::Deserializer<'de> for &mut Reader<'de> {
    type Error = DecodeError;

    fn deserialize_any<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, DecodeError> {
        let marker = self.marker()?;
        match marker {
            m if is_str(m) => visitor.visit_borrowed_str(self.str_of(m)?),
            m if is_map(m) => {
                let left = self.map_len(m)?;
                self.deeper()?;
                let mut map = Map { reader: self, left, keys: KeySet::default(), key: "" };
                let value = visitor.visit_map(&mut map)?;
                map.finish()?;
                Ok(value)
            }
            m if is_array(m) => {
                let left = self.array_len(m)?;
                self.deeper()?;
                let mut list = List { reader: self, left };
                let value = visitor.visit_seq(&mut list)?;
                if list.left > 0 {
                    return Err(DecodeError::new("a list is longer than it may be"));
                }
                self.depth -= 1;
                Ok(value)
            }
            Marker::Null => visitor.visit_unit(),
            Marker::True => visitor.visit_bool(true),
            Marker::False => visitor.visit_bool(false),
            Marker::FixPos(n) => visitor.visit_u64(n.into()),
            Marker::FixNeg(n) => visitor.visit_i64(n.into()),
            Marker::U8 => visitor.visit_u64(u8::from_be_bytes(self.array()?).into()),
            Marker::U16 => visitor.visit_u64(u16::from_be_bytes(self.array()?).into()),
            Marker::U32 => visitor.visit_u64(u32::from_be_bytes(self.array()?).into()),
            Marker::U64 => visitor.visit_u64(u64::from_be_bytes(self.array()?)),
            Marker::I8 => visitor.visit_i64(i8::from_be_bytes(self.array()?).into()),
            Marker::I16 => visitor.visit_i64(i16::from_be_bytes(self.array()?).into()),
            Marker::I32 => visitor.visit_i64(i32::from_be_bytes(self.array()?).into()),
            Marker::I64 => visitor.visit_i64(i64::from_be_bytes(self.array()?)),
            Marker::F32 => visitor.visit_f64(f32::from_be_bytes(self.array()?).into()),
            Marker::F64 => visitor.visit_f64(f64::from_be_bytes(self.array()?)),
            other => Err(de::Error::invalid_type(found(other), &visitor)),
        }
    }

    fn deserialize_option<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, DecodeError> {
        visitor.visit_some(self)
    }

    fn deserialize_newtype_struct<V: Visitor<'de>>(
        self,
        _name: &'static str,
        visitor: V,
    ) -> Result<V::Value, DecodeError> {
        visitor.visit_newtype_struct(self)
    }

    fn deserialize_struct<V: Visitor<'de>>(
        self,
        _name: &'static str,
        _fields: &'static [&'static str],
        visitor: V,
    ) -> Result<V::Value, DecodeError> {
        self.deserialize_map(visitor)
    }

    fn deserialize_map<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, DecodeError> {
        match self.peek()? {
            marker if is_map(marker) => self.deserialize_any(visitor),
            other => Err(de::Error::invalid_type(found(other), &"a map")),
        }
    }

    fn deserialize_enum<V: Visitor<'de>>(
        self,
        _name: &'static str,
        _variants: &'static [&'static str],
        visitor: V,
    ) -> Result<V::Value, DecodeError> {
        let marker = self.marker()?;
        visitor.visit_enum(self.str_of(marker)?.into_deserializer())
    }

    fn deserialize_ignored_any<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, DecodeError> {
        self.skip()?;
        visitor.visit_unit()
    }

    serde::forward_to_deserialize_any! {
        bool i8 i16 i32 i64 i128 u8 u16 u32 u64 u128 f32 f64 char str string bytes byte_buf unit unit_struct
        seq tuple tuple_struct identifier
    }
}

struct Map<'r, 'de> {
    reader: &'r mut Reader<'de>,
    left: usize,
    keys: KeySet<'de>,
    key: &'de str,
}

impl<'de> Map<'_, 'de> {
    /// The next key whose value is not nil.
    fn advance(&mut self) -> Result<Option<&'de str>, DecodeError> {
        while self.left > 0 {
            self.left -= 1;
            let key = self.reader.key()?;
            if !self.keys.insert(Cow::Borrowed(key)) {
                return Err(DecodeError::new("duplicate key").within(key));
            }
            if self.reader.peek()? == Marker::Null {
                self.reader.take(1)?;
                continue;
            }
            self.key = key;
            return Ok(Some(key));
        }
        Ok(None)
    }

    fn finish(mut self) -> Result<(), DecodeError> {
        while self.advance()?.is_some() {
            self.reader.skip()?;
        }
        self.reader.depth -= 1;
        Ok(())
    }
}

impl<'de> MapAccess<'de> for &mut Map<'_, 'de> {
    type Error = DecodeError;

    fn next_key_seed<K: DeserializeSeed<'de>>(&mut self, seed: K) -> Result<Option<K::Value>, DecodeError> {
        match self.advance()? {
            Some(key) => seed.deserialize(de::value::BorrowedStrDeserializer::new(key)).map(Some),
            None => Ok(None),
        }
    }

    fn next_value_seed<V: DeserializeSeed<'de>>(&mut self, seed: V) -> Result<V::Value, DecodeError> {
        let key = self.key;
        seed.deserialize(&mut *self.reader).map_err(|e| e.within(key))
    }
}

struct List<'r, 'de> {
    reader: &'r mut Reader<'de>,
    left: usize,
}

impl<'de> SeqAccess<'de> for &mut List<'_, 'de> {
    type Error = DecodeError;

    fn next_element_seed<T: DeserializeSeed<'de>>(
        &mut self,
        seed: T,
    ) -> Result<Option<T::Value>, DecodeError> {
        if self.left == 0 {
            return Ok(None);
        }
        self.left -= 1;
        seed.deserialize(&mut *self.reader).map(Some)
    }
}
