//! [`Timestamp`]: UTC milliseconds, RFC 3339 on the wire.

use std::fmt;
use std::str::FromStr;

use jiff::SignedDuration;
use jiff::civil::DateTime;
use serde::{Deserialize, Deserializer, Serialize, Serializer, de};

/// A point in time, in milliseconds since the Unix epoch, between the years 0 and 9999.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Timestamp(i64);

/// Why a text is not a time.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("must be an RFC 3339 date-time with an offset, such as 2027-01-31T12:00:00Z")]
pub struct TimestampError;

impl Timestamp {
    /// From milliseconds since the Unix epoch, held within the years 0 to 9999.
    pub const fn from_millis(ms: i64) -> Self {
        const FIRST: i64 = -62_167_219_200_000;
        const LAST: i64 = 253_402_300_799_999;
        Self(if ms < FIRST {
            FIRST
        } else if ms > LAST {
            LAST
        } else {
            ms
        })
    }

    /// Milliseconds since the Unix epoch.
    pub const fn as_millis(self) -> i64 {
        self.0
    }

    /// Whole seconds since the Unix epoch, as JWT claims have them.
    pub const fn as_secs(self) -> i64 {
        self.0.div_euclid(1000)
    }

    /// This time moved by so many milliseconds.
    #[must_use]
    pub const fn plus_millis(self, ms: i64) -> Self {
        Self::from_millis(self.0.saturating_add(ms))
    }

    /// This time moved by so many seconds.
    #[must_use]
    pub const fn plus_secs(self, s: i64) -> Self {
        self.plus_millis(s.saturating_mul(1000))
    }
}

impl FromStr for Timestamp {
    type Err = TimestampError;

    /// Reads `date-time` of RFC 3339 section 5.6: offset required, `t` and `z` in either case, one to nine
    /// digits of fraction, cut to milliseconds. No leap second, and none of RFC 9557's suffixes.
    fn from_str(text: &str) -> Result<Self, TimestampError> {
        let (offset_ms, len) = rfc3339_offset(text.as_bytes()).ok_or(TimestampError)?;
        let local = text.get(..len).unwrap_or_default().to_ascii_uppercase();
        let local: DateTime = local.parse().map_err(|_| TimestampError)?;
        let ms = local.duration_since(EPOCH).as_nanos().div_euclid(1_000_000) - i128::from(offset_ms);
        let stamp = Self::from_millis(i64::try_from(ms).map_err(|_| TimestampError)?);
        if i128::from(stamp.0) == ms { Ok(stamp) } else { Err(TimestampError) }
    }
}

/// The epoch as a civil time: `jiff::Timestamp` ends a day before the year 9999 does, civil times do not.
const EPOCH: DateTime = jiff::civil::datetime(1970, 1, 1, 0, 0, 0, 0);

/// Checks the grammar alone, since `jiff` accepts more than RFC 3339 does; it judges the numbers. Gives the
/// offset in milliseconds, and the length of the text before it.
fn rfc3339_offset(text: &[u8]) -> Option<(i64, usize)> {
    let (head, tail) = text.split_at_checked(19)?;
    let head_fits = head.iter().zip(b"dddd-dd-ddTdd:dd:dd").all(|(b, shape)| match shape {
        b'd' => b.is_ascii_digit(),
        b'T' => b.eq_ignore_ascii_case(&b'T'),
        other => b == other,
    });
    let leap_second = head.ends_with(b":60");
    let (offset, fraction) = match tail {
        [b'.', rest @ ..] => {
            let digits = rest.iter().take_while(|b| b.is_ascii_digit()).count();
            if !(1..=9).contains(&digits) {
                return None;
            }
            (rest.get(digits..)?, digits + 1)
        }
        other => (other, 0),
    };
    let two = |tens: &u8, ones: &u8| {
        let digits = tens.is_ascii_digit() && ones.is_ascii_digit();
        digits.then(|| i64::from(tens - b'0') * 10 + i64::from(ones - b'0'))
    };
    let offset_ms = match offset {
        [b'Z' | b'z'] => 0,
        [sign @ (b'+' | b'-'), h1, h2, b':', m1, m2] => {
            let (hours, minutes) = (two(h1, h2)?, two(m1, m2)?);
            if hours > 23 || minutes > 59 {
                return None;
            }
            (hours * 60 + minutes) * 60_000 * if *sign == b'-' { -1 } else { 1 }
        }
        _ => return None,
    };
    (head_fits && !leap_second).then_some((offset_ms, 19 + fraction))
}

impl fmt::Display for Timestamp {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let time = EPOCH.checked_add(SignedDuration::from_millis(self.0)).map_err(|_| fmt::Error)?;
        write!(f, "{time:.3}Z")
    }
}

impl fmt::Debug for Timestamp {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

impl Serialize for Timestamp {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for Timestamp {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = <std::borrow::Cow<'de, str>>::deserialize(deserializer)?;
        text.parse().map_err(de::Error::custom)
    }
}

/// `Option<Timestamp>` as the records have it: the empty text means none.
pub(crate) mod or_empty {
    use super::*;

    pub fn serialize<S: Serializer>(time: &Option<Timestamp>, serializer: S) -> Result<S::Ok, S::Error> {
        match time {
            Some(time) => time.serialize(serializer),
            None => serializer.serialize_str(""),
        }
    }

    pub fn deserialize<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Option<Timestamp>, D::Error> {
        let text = <std::borrow::Cow<'de, str>>::deserialize(deserializer)?;
        if text.is_empty() { Ok(None) } else { text.parse().map(Some).map_err(de::Error::custom) }
    }
}
