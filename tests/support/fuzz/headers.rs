//! Headers and reply subjects: callers' text that decides who somebody is, how long one waits, and where an answer
//! goes.

use std::str::FromStr;
use std::sync::OnceLock;

use async_nats::{HeaderMap, HeaderName, HeaderValue, Subject};
use iam_schema::subject::Subjects;
use iam_svc::bus;

use super::assert_silent;
use super::changes::floors;

/// Any lines as headers, `name: value` each, so far as the client library lets them in.
pub fn headers(data: &[u8]) {
    let Ok(text) = std::str::from_utf8(data) else { return };
    let mut map = HeaderMap::new();
    let mut given: Vec<(&str, &str)> = Vec::new();
    for line in text.split('\n') {
        let Some((name, value)) = line.split_once(':') else { continue };
        let value = value.trim();
        if let (Ok(header), Ok(text)) = (HeaderName::from_str(name), HeaderValue::from_str(value)) {
            map.append(header, text);
            given.push((name, value));
        }
    }
    let read = bus::headers(&map);
    let of = |wanted: &str| -> Vec<&str> {
        given.iter().filter(|(name, _)| *name == wanted).map(|(_, value)| *value).collect()
    };

    let bearers: Vec<&str> = given
        .iter()
        .filter(|(name, _)| name.eq_ignore_ascii_case("authorization"))
        .map(|(_, value)| *value)
        .collect();
    match (read.credential(), bearers.as_slice()) {
        (Ok(credential), [one]) => {
            let (scheme, rest) = one.split_once(' ').expect("a scheme");
            assert!(scheme.eq_ignore_ascii_case("bearer") && !rest.is_empty());
            assert_eq!(credential.expose(), rest);
        }
        (Ok(_), other) => panic!("a credential out of {} headers", other.len()),
        (Err(_), [one]) => {
            let bearer = one
                .split_once(' ')
                .is_some_and(|(scheme, rest)| scheme.eq_ignore_ascii_case("bearer") && !rest.is_empty());
            assert!(!bearer, "one credential, and refused");
        }
        (Err(_), _) => {}
    }
    match (read.floors(), of("Iam-Min").as_slice()) {
        (Ok(read), []) => assert!(read.is_empty()),
        (Ok(read), [one]) => assert_eq!(one.parse().as_ref(), Ok(&read)),
        (Ok(_), several) => panic!("floors out of {} headers", several.len()),
        (Err(_), []) => panic!("floors that nobody asked for are refused"),
        (Err(error), _) => assert_silent(&format!("{error:?}")),
    }
    if let Some(deadline) = read.deadline() {
        let given = of("Iam-Deadline-Ms");
        assert_eq!(given.len(), 1);
        assert_eq!(u128::from(given[0].trim().parse::<u64>().expect("a number")), deadline.as_millis());
    }
    if let Some(trace) = read.trace_id() {
        let given = of("traceparent");
        assert_eq!(given.len(), 1);
        let hex = |text: &str| text.bytes().all(|b| matches!(b, b'0'..=b'9' | b'a'..=b'f'));
        assert!(trace.len() == 32 && hex(trace) && trace.bytes().any(|b| b != b'0'));
        assert_eq!(&given[0][2..36], format!("-{trace}-"));
    }
    given.iter().for_each(|(_, value)| floors(value.as_bytes()));
}

/// Any text as a reply subject: an answer goes to inboxes alone.
pub fn reply_subject(data: &[u8]) {
    static SUBJECTS: OnceLock<Vec<Subjects>> = OnceLock::new();
    let Ok(text) = std::str::from_utf8(data) else { return };
    let subjects = SUBJECTS.get_or_init(|| {
        let other = Subjects::new("team-a.iam").expect("a prefix");
        vec![Subjects::default(), other]
    });
    for (subjects, prefix) in subjects.iter().zip(["iam.", "team-a.iam."]) {
        let token = |token: &str| !token.is_empty() && token != "*" && token != ">";
        let inbox = !text.starts_with('$')
            && !text.starts_with(prefix)
            && text.split('.').all(token)
            && !text.chars().any(|c| c.is_ascii_whitespace() || c.is_ascii_control());
        let may = bus::reply_subject(Some(Subject::from(text)), subjects);
        assert_eq!(may.is_ok(), inbox, "{text:?} under {prefix}");
        if let Ok(subject) = may {
            assert_eq!(subject.as_str(), text);
        }
    }
}
