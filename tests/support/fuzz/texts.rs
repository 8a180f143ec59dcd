//! The small texts: usernames, ids, keys, times, key sets.

use base64::Engine;
use base64::engine::general_purpose::{STANDARD, URL_SAFE_NO_PAD};
use iam_schema::tokens::VerifyKeys;
use iam_schema::{KeyId, KeyKid, Secret, Timestamp, UserId, WorkspaceId};
use iam_svc::crypto::api_keys;
use iam_svc::crypto::passwords::Stored;
use iam_svc::crypto::seal::Kek;
use iam_svc::domain::passwords::PasswordHash;
use iam_svc::domain::policy::RoleName;
use iam_svc::domain::users::Username;

use super::assert_silent;

fn lower_case_uuid(text: &str) -> bool {
    text.len() == 36
        && text.bytes().enumerate().all(|(at, b)| match at {
            8 | 13 | 18 | 23 => b == b'-',
            _ => matches!(b, b'0'..=b'9' | b'a'..=b'f'),
        })
}

/// Any text as a username.
pub fn username(data: &[u8]) {
    let Ok(text) = std::str::from_utf8(data) else { return };
    let rest = |b: u8| b.is_ascii_alphanumeric() || b"._@+-".contains(&b);
    let pattern = (1..=128).contains(&text.len())
        && text.as_bytes()[0].is_ascii_alphanumeric()
        && text.bytes().all(rest)
        // In either case: as a claim it would be the same.
        && !lower_case_uuid(&text.to_ascii_lowercase());
    match text.parse::<Username>() {
        Ok(name) => {
            assert!(pattern, "{text:?}");
            assert_eq!(name.as_str(), text);
            let folded: Username = text.to_ascii_uppercase().parse().expect("the same name in capitals");
            assert_eq!(folded.key(), name.key());
        }
        Err(error) => {
            assert!(!pattern, "{text:?}");
            assert_silent(error);
        }
    }
}

/// Any text as each kind of id and name, as a credential, and as what is stored of a password.
pub fn ids(data: &[u8]) {
    let Ok(text) = std::str::from_utf8(data) else { return };
    let uuid = lower_case_uuid(text);
    assert_eq!(text.parse::<UserId>().map(|id| id.to_string()).ok().as_deref(), uuid.then_some(text));
    assert_eq!(text.parse::<KeyId>().map(|id| id.to_string()).ok().as_deref(), uuid.then_some(text));

    let token = |b: u8| b.is_ascii_alphanumeric() || b == b'_' || b == b'-';
    let workspace = (1..=63).contains(&text.len())
        && text.as_bytes()[0].is_ascii_alphanumeric()
        && text.bytes().all(token);
    assert_eq!(text.parse::<WorkspaceId>().ok().as_ref().map(WorkspaceId::as_str), workspace.then_some(text));
    let printable = (1..=128).contains(&text.len()) && text.bytes().all(|b| b.is_ascii_graphic());
    assert_eq!(text.parse::<KeyKid>().ok().as_ref().map(KeyKid::as_str), printable.then_some(text));
    assert_eq!(text.parse::<RoleName>().ok().as_ref().map(RoleName::as_str), printable.then_some(text));

    let generated = text.strip_prefix("tg_").is_some_and(|body| body.len() == 32 && body.bytes().all(token));
    assert_eq!(api_keys::is_generated(text), generated, "{text:?}");
    assert!(text.starts_with(api_keys::prefix(text)) && api_keys::prefix(text).chars().count() <= 7);
    if let Some(body) = text.strip_prefix("tg_").filter(|_| generated) {
        let bytes: [u8; 24] = URL_SAFE_NO_PAD.decode(body).expect("base64url").try_into().expect("24 bytes");
        assert_eq!(api_keys::plaintext(&bytes).expose(), text);
    }
    let jwt = text.bytes().filter(|b| *b == b'.').count() == 2;
    assert_eq!(api_keys::credential_kind(text) == api_keys::CredentialKind::Jwt, jwt);

    if let Ok(kek) = Kek::from_base64(&Secret::new(text)) {
        // It comes out of files that people write: blanks and line ends around it do not count.
        assert_eq!(kek.to_base64().expose(), text.trim());
    }
    stored(text);
}

/// Any text as a stored password: exactly what has the form is read. It is not verified, which may take seconds.
fn stored(text: &str) {
    let parts: Vec<&str> = text.split('$').collect();
    let form = match parts.as_slice() {
        ["pbkdf2-sha256", rounds, salt, hash] => {
            let plain = rounds.bytes().all(|b| b.is_ascii_digit()) && !rounds.starts_with('0');
            let rounds = rounds.parse::<u64>().is_ok_and(|n| (1..=10_000_000).contains(&n));
            let len = |text: &str| {
                let bytes = STANDARD.decode(text).ok()?;
                (STANDARD.encode(&bytes) == text).then_some(bytes.len())
            };
            plain && rounds && len(salt).is_some_and(|len| len > 0) && len(hash) == Some(32)
        }
        _ => false,
    };
    assert_eq!(Stored::parse(&PasswordHash::from_stored(text.to_owned())).is_some(), form, "{text:?}");
}

/// Any text as a time.
pub fn timestamp(data: &[u8]) {
    let Ok(text) = std::str::from_utf8(data) else { return };
    let expected = rfc3339(text);
    match text.parse::<Timestamp>() {
        Ok(time) => {
            assert_eq!(Some(time.as_millis()), expected, "{text:?}");
            let shown = time.to_string();
            assert!(shown.len() == 24 && shown.ends_with('Z'), "{shown}");
            assert_eq!(shown.parse::<Timestamp>(), Ok(time), "{shown}");
        }
        Err(error) => {
            assert_eq!(expected, None, "{text:?}");
            assert_silent(&error.to_string());
        }
    }
}

/// Milliseconds since 1970 of a date-time of RFC 3339, by the calendar's own arithmetic.
fn rfc3339(text: &str) -> Option<i64> {
    let bytes = text.as_bytes();
    let digits = |from: usize, to: usize| -> Option<i64> {
        let part = text.get(from..to)?;
        part.bytes().all(|b| b.is_ascii_digit()).then(|| part.parse().ok()).flatten()
    };
    let is = |at: usize, b: u8| bytes.get(at).is_some_and(|c| c.eq_ignore_ascii_case(&b));
    if !(is(4, b'-') && is(7, b'-') && is(10, b't') && is(13, b':') && is(16, b':')) {
        return None;
    }
    let (year, month, day) = (digits(0, 4)?, digits(5, 7)?, digits(8, 10)?);
    let (hour, minute, second) = (digits(11, 13)?, digits(14, 16)?, digits(17, 19)?);
    let leap = year % 4 == 0 && (year % 100 != 0 || year % 400 == 0);
    let last = match month {
        2 => 28 + i64::from(leap),
        4 | 6 | 9 | 11 => 30,
        1..=12 => 31,
        _ => return None,
    };
    if !(1..=last).contains(&day) || hour > 23 || minute > 59 || second > 59 {
        return None;
    }
    let mut at = 19;
    let mut fraction_ms = 0;
    if is(19, b'.') {
        let len = bytes[20..].iter().take_while(|b| b.is_ascii_digit()).count();
        if !(1..=9).contains(&len) {
            return None;
        }
        fraction_ms = format!("{:0<3}", &text[20..20 + len])[..3].parse().ok()?;
        at = 20 + len;
    }
    let offset_min = match &bytes[at..] {
        [b'z' | b'Z'] => 0,
        [sign @ (b'+' | b'-'), _, _, b':', _, _] => {
            let (hours, minutes) = (digits(at + 1, at + 3)?, digits(at + 4, at + 6)?);
            if hours > 23 || minutes > 59 {
                return None;
            }
            (hours * 60 + minutes) * if *sign == b'-' { -1 } else { 1 }
        }
        _ => return None,
    };
    // Days by counting leap years before this one.
    let before = |y: i64| y * 365 + y / 4 - y / 100 + y / 400;
    let days = if year == 0 { -366 } else { before(year - 1) };
    let months = [31, 28 + i64::from(leap), 31, 30, 31, 30, 31, 31, 30, 31, 30, 31];
    let in_year: i64 = months.iter().take(month as usize - 1).sum();
    let days = days + in_year + day - 1 - before(1969);
    let ms = ((days * 24 + hour) * 60 + minute - offset_min) * 60_000 + second * 1000 + fraction_ms;
    (-62_167_219_200_000..=253_402_300_799_999).contains(&ms).then_some(ms)
}

/// Any text as a set of public keys.
pub fn key_sets(data: &[u8]) {
    let Ok(text) = std::str::from_utf8(data) else { return };
    match VerifyKeys::from_jwks(text) {
        Ok(keys) => {
            let set: serde_json::Value = serde_json::from_str(text).expect("JSON");
            let ours = set["keys"].as_array().expect("keys").iter().filter(|key| key["crv"] == "Ed25519");
            let kids: Vec<&str> =
                ours.filter(|key| key["kty"] == "OKP").map(|key| key["kid"].as_str().expect("kid")).collect();
            assert!(!kids.is_empty() && kids.iter().all(|kid| keys.contains(kid)));
            assert!(!text.contains("\"d\"") || !kids.is_empty());
        }
        Err(error) => assert_silent(&error.to_string()),
    }
}
