//! A value of either codec, grown out of bytes, with writers of our own: the forms that both codecs share.

/// Bytes as a source of choices; zeros when they are used up.
#[derive(Debug)]
pub struct Choices<'d> {
    data: &'d [u8],
}

impl<'d> Choices<'d> {
    pub fn new(data: &'d [u8]) -> Self {
        Self { data }
    }

    pub fn byte(&mut self) -> u8 {
        match self.data.split_first() {
            Some((first, rest)) => {
                self.data = rest;
                *first
            }
            None => 0,
        }
    }

    pub fn is_empty(&self) -> bool {
        self.data.is_empty()
    }

    fn word(&mut self) -> u64 {
        (0..8).fold(0, |word, _| word << 8 | u64::from(self.byte()))
    }

    fn text(&mut self) -> String {
        match self.byte() % 8 {
            0 => String::new(),
            1 => super::CANARY.to_owned(),
            2 => "\u{0}\u{1f}\"\\/\u{7f}\u{2028}".to_owned(),
            3 => "\u{1F680}ä\u{FFFD}".to_owned(),
            4 => "x".repeat(usize::from(self.byte()) * 3),
            _ => (0..self.byte() % 12).map(|_| char::from(b'a' + self.byte() % 26)).collect(),
        }
    }
}

/// A value.
#[derive(Debug, Clone, PartialEq)]
pub enum Tree {
    Nil,
    Bool(bool),
    Unsigned(u64),
    /// Below zero.
    Signed(i64),
    Float(f64),
    Text(String),
    List(Vec<Tree>),
    Map(Vec<(String, Tree)>),
}

impl Tree {
    /// Grows a map with these keys among others.
    pub fn grow(choices: &mut Choices<'_>, keys: &[&str]) -> Self {
        let mut room = 120;
        Self::map(choices, keys, 1, &mut room)
    }

    fn map(choices: &mut Choices<'_>, keys: &[&str], depth: u32, room: &mut u32) -> Self {
        let len = if depth == 1 { 1 + choices.byte() % 8 } else { choices.byte() % 5 };
        let entry = |_| {
            let key = match usize::from(choices.byte()) {
                n if n < 230 => keys[n % keys.len()].to_owned(),
                n if n < 240 => super::CANARY.to_owned(),
                _ => choices.text(),
            };
            (key, Self::value(choices, keys, depth + 1, room))
        };
        Self::Map((0..len).map(entry).collect())
    }

    fn value(choices: &mut Choices<'_>, keys: &[&str], depth: u32, room: &mut u32) -> Self {
        if *room == 0 || choices.is_empty() {
            return Self::Nil;
        }
        *room -= 1;
        match choices.byte() % 16 {
            0 => Self::Nil,
            1 => Self::Bool(choices.byte().is_multiple_of(2)),
            2 => Self::Unsigned(u64::from(choices.byte())),
            3 => Self::Unsigned(choices.word()),
            4 => Self::Signed(-1 - i64::from(choices.byte())),
            5 => Self::Signed((choices.word() | 1 << 63) as i64),
            6 => Self::Float(f64::from(choices.byte()) / 2.0),
            7 if depth < 40 => Self::List(
                (0..choices.byte() % 5).map(|_| Self::value(choices, keys, depth + 1, room)).collect(),
            ),
            8 | 9 if depth < 40 => Self::map(choices, keys, depth, room),
            // A hole of some depth, on both sides of the bound.
            10 => (0..choices.byte() % 40).fold(Self::Nil, |inner, n| match n % 2 {
                0 => Self::List(vec![inner]),
                _ => Self::Map(vec![(keys[0].to_owned(), inner)]),
            }),
            _ => Self::Text(choices.text()),
        }
    }

    /// Whether it may be read at all: no key twice in a map, and no nesting beyond 32 containers.
    pub fn well_formed(&self, depth: u32) -> bool {
        match self {
            Self::List(items) => depth <= 32 && items.iter().all(|item| item.well_formed(depth + 1)),
            Self::Map(entries) => {
                let twice = entries
                    .iter()
                    .enumerate()
                    .any(|(n, (key, _))| entries[..n].iter().any(|(other, _)| other == key));
                depth <= 32 && !twice && entries.iter().all(|(_, value)| value.well_formed(depth + 1))
            }
            _ => true,
        }
    }

    /// The value of a key, nil being none.
    pub fn get(&self, key: &str) -> Option<&Tree> {
        let Self::Map(entries) = self else { return None };
        entries
            .iter()
            .find(|(name, _)| name == key)
            .map(|(_, value)| value)
            .filter(|value| **value != Self::Nil)
    }

    pub fn json(&self, out: &mut String) {
        let quoted = |text: &str| serde_json::to_string(text).expect("a text");
        match self {
            Self::Nil => out.push_str("null"),
            Self::Bool(value) => out.push_str(if *value { "true" } else { "false" }),
            Self::Unsigned(n) => out.push_str(&n.to_string()),
            Self::Signed(n) => out.push_str(&n.to_string()),
            Self::Float(n) => out.push_str(&format!("{n:?}")),
            Self::Text(text) => out.push_str(&quoted(text)),
            Self::List(items) => {
                out.push('[');
                for (n, item) in items.iter().enumerate() {
                    out.push_str(if n == 0 { "" } else { " ," });
                    item.json(out);
                }
                out.push(']');
            }
            Self::Map(entries) => {
                out.push('{');
                for (n, (key, value)) in entries.iter().enumerate() {
                    out.push_str(if n == 0 { "" } else { ",\n" });
                    out.push_str(&quoted(key));
                    out.push(':');
                    value.json(out);
                }
                out.push('}');
            }
        }
    }

    /// Writes MessagePack; `wide` asks for larger headers than need be, which are as good.
    pub fn msgpack(&self, out: &mut Vec<u8>, wide: &mut Choices<'_>) {
        match self {
            Self::Nil => out.push(0xc0),
            Self::Bool(value) => out.push(if *value { 0xc3 } else { 0xc2 }),
            Self::Unsigned(n) => match (u8::try_from(*n), wide.byte() % 3) {
                (Ok(n), 0) if n < 128 => out.push(n),
                (Ok(n), 1) => out.extend([0xcc, n]),
                _ => {
                    out.push(0xcf);
                    out.extend(n.to_be_bytes());
                }
            },
            Self::Signed(n) => match (i8::try_from(*n), wide.byte() % 3) {
                (Ok(n), 0) if n >= -32 => out.push(n as u8),
                (Ok(n), 1) => out.extend([0xd0, n as u8]),
                _ => {
                    out.push(0xd3);
                    out.extend(n.to_be_bytes());
                }
            },
            Self::Float(n) => {
                out.push(0xcb);
                out.extend(n.to_be_bytes());
            }
            Self::Text(text) => {
                header(out, text.len(), [0xa0, 31, 0xd9, 0xda, 0xdb], wide.byte());
                out.extend(text.as_bytes());
            }
            Self::List(items) => {
                header(out, items.len(), [0x90, 15, 0, 0xdc, 0xdd], wide.byte());
                items.iter().for_each(|item| item.msgpack(out, wide));
            }
            Self::Map(entries) => {
                header(out, entries.len(), [0x80, 15, 0, 0xde, 0xdf], wide.byte());
                for (key, value) in entries {
                    Self::Text(key.clone()).msgpack(out, wide);
                    value.msgpack(out, wide);
                }
            }
        }
    }
}

/// A length in one of its forms: in the marker itself, or in 8 (where there is such a form), 16 or 32 bits.
fn header(out: &mut Vec<u8>, len: usize, [fix, most, in_8, in_16, in_32]: [u8; 5], wide: u8) {
    match wide % 4 {
        0 if len <= usize::from(most) => out.push(fix | len as u8),
        1 if in_8 != 0 && len < 256 => out.extend([in_8, len as u8]),
        2 if len < 65_536 => {
            out.push(in_16);
            out.extend((len as u16).to_be_bytes());
        }
        _ => {
            out.push(in_32);
            out.extend((len as u32).to_be_bytes());
        }
    }
}
