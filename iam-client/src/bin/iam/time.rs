//! The clock of this machine, and times on the command line.

use std::time::{SystemTime, UNIX_EPOCH};

use iam_client::schema::Timestamp;

/// Now.
#[expect(clippy::disallowed_methods, reason = "the one clock of this program; nothing is decided by it")]
pub fn now() -> Timestamp {
    from_system(SystemTime::now())
}

/// A time of the file system.
pub fn from_system(time: SystemTime) -> Timestamp {
    let ms = match time.duration_since(UNIX_EPOCH) {
        Ok(after) => i64::try_from(after.as_millis()).unwrap_or(i64::MAX),
        Err(before) => i64::try_from(before.duration().as_millis()).map_or(i64::MIN, |ms| -ms),
    };
    Timestamp::from_millis(ms)
}

/// Reads a time: RFC 3339, or from now on a number of minutes, hours or days, such as `90d`.
pub fn parse_expiry(text: &str) -> Result<Timestamp, String> {
    let from_now = || {
        let (number, unit_s) = [("m", 60), ("h", 3600), ("d", 86_400)]
            .into_iter()
            .find_map(|(unit, seconds)| Some((text.strip_suffix(unit)?, seconds)))?;
        let number: u32 = number.parse().ok()?;
        Some(now().plus_secs(i64::from(number).saturating_mul(unit_s)))
    };
    from_now().map_or_else(|| text.parse().map_err(|e| format!("{e}, or like 12h or 90d")), Ok)
}

/// Reads a duration: seconds, or with a unit, such as `500ms`, `5s`, `1m`.
pub fn parse_duration(text: &str) -> Result<std::time::Duration, String> {
    let (number, unit_ms) = [("ms", 1), ("s", 1000), ("m", 60_000), ("", 1000)]
        .into_iter()
        .find_map(|(unit, ms)| Some((text.strip_suffix(unit)?, ms)))
        .unwrap_or((text, 1000));
    match number.parse::<u32>() {
        Ok(number) if number > 0 => Ok(std::time::Duration::from_millis(u64::from(number) * unit_ms)),
        _ => Err("must be a number of seconds, or like 500ms, 5s or 1m".to_owned()),
    }
}

/// A time that may be none, for a table.
pub fn show(time: Option<Timestamp>) -> String {
    time.map(|time| time.to_string()).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::time::Duration;

    #[test]
    fn durations_have_seconds_as_their_unit() {
        for (text, ms) in [("5", 5000), ("5s", 5000), ("500ms", 500), ("2m", 120_000)] {
            assert_eq!(parse_duration(text), Ok(Duration::from_millis(ms)), "{text}");
        }
        for bad in ["", "0", "s", "-1", "1.5", "1h", "1 s"] {
            assert!(parse_duration(bad).is_err(), "{bad:?}");
        }
    }

    #[test]
    fn expiry_is_a_time_or_a_span() {
        assert_eq!(parse_expiry("1970-01-01T00:00:01Z"), Ok(Timestamp::from_millis(1000)));
        let ahead = parse_expiry("2d").unwrap().as_secs() - now().as_secs();
        assert!((172_790..=172_810).contains(&ahead), "{ahead}");
        for bad in ["", "d", "-1d", "tomorrow", "2027-01-31"] {
            assert!(parse_expiry(bad).is_err(), "{bad:?}");
        }
    }
}
