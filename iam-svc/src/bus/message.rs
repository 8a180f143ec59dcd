//! What a message of somebody else's may say to us: where its reply goes, and what its headers mean.

use async_nats::{HeaderMap, Subject};
use iam_schema::subject::{AUTHORIZATION, DEADLINE_MS, MIN, Subjects, TRACEPARENT};

use crate::dispatch::Headers;
use crate::telemetry::Dropped;

/// Where a reply may go. It is the caller's text: nothing may be published by us where only we, servers and
/// services are meant to speak.
///
/// # Errors
/// Why the request is dropped.
///
/// Source: protocol section 1.
pub fn reply_subject(reply: Option<Subject>, subjects: &Subjects) -> Result<Subject, Dropped> {
    let reply = reply.ok_or(Dropped::NoReply)?;
    let text = reply.as_str();
    if text.starts_with('$') {
        Err(Dropped::SystemReply)
    } else if subjects.own(text) {
        Err(Dropped::OwnReply)
    } else if text.split('.').any(|token| token.is_empty() || token == "*" || token == ">")
        || text.bytes().any(|b| b.is_ascii_whitespace() || b.is_ascii_control())
    {
        Err(Dropped::BadReply)
    } else {
        Ok(reply)
    }
}

/// The headers that mean something to us. Names of headers are taken exactly, but for `Authorization`: HTTP
/// gateways write it in any case, and a second one must not hide behind another spelling.
pub fn headers(map: &HeaderMap) -> Headers<'_> {
    let mut headers = Headers::default();
    let mut authorizations = 0;
    for (name, values) in map.iter() {
        let name: &str = name.as_ref();
        let first = values.first().map(|value| value.as_str());
        let single = if values.len() == 1 { first } else { None };
        if name.eq_ignore_ascii_case(AUTHORIZATION) {
            authorizations += values.len();
            headers.authorization = first;
        } else if name == TRACEPARENT {
            headers.traceparent = single;
        } else if name == DEADLINE_MS {
            headers.deadline_ms = single;
        } else if name == MIN {
            // Floors given twice are unreadable, and not half of them.
            headers.iam_min = single.or(Some(""));
        }
    }
    headers.several_authorizations = authorizations > 1;
    headers
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reply_goes_to_inboxes_alone() {
        let subjects = Subjects::default();
        let check = |reply: Option<&str>| {
            reply_subject(reply.map(Subject::from), &subjects).map(|s| s.to_string()).map_err(Dropped::as_str)
        };
        for good in ["_INBOX.a.b", "_INBOX_app.x", "_R_.x", "a", "iamb.v1", "a*b"] {
            assert_eq!(check(Some(good)), Ok(good.to_owned()));
        }
        let rows = [
            (None, "no-reply"),
            (Some("$JS.API.STREAM.DELETE.X"), "system-reply"),
            (Some("$SRV.PING"), "system-reply"),
            (Some("iam.v1.event.changed"), "own-reply"),
            (Some("iam.v1.svc.login"), "own-reply"),
            (Some("iam.*"), "own-reply"),
            (Some("_INBOX.*"), "bad-reply"),
            (Some("_INBOX.>"), "bad-reply"),
            (Some("*"), "bad-reply"),
            (Some(""), "bad-reply"),
            (Some("a..b"), "bad-reply"),
            (Some("a b"), "bad-reply"),
        ];
        for (reply, reason) in rows {
            assert_eq!(check(reply), Err(reason), "{reply:?}");
        }
    }

    #[test]
    fn headers_are_taken_by_name_and_authorization_in_any_case() {
        let mut map = HeaderMap::new();
        map.insert("authorization", "Bearer x");
        map.insert("traceparent", "00-1");
        map.insert("Iam-Deadline-Ms", "250");
        map.insert("Iam-Min", "user:a=1");
        map.insert("iam-min", "another header");
        let read = headers(&map);
        assert_eq!((read.authorization, read.several_authorizations), (Some("Bearer x"), false));
        assert_eq!((read.traceparent, read.deadline_ms), (Some("00-1"), Some("250")));
        assert_eq!(read.iam_min, Some("user:a=1"));
    }

    #[test]
    fn header_given_twice_is_not_half_believed() {
        let mut map = HeaderMap::new();
        map.insert("Authorization", "Bearer x");
        map.insert("AUTHORIZATION", "Bearer y");
        for name in ["traceparent", "Iam-Deadline-Ms", "Iam-Min"] {
            map.append(name, "1");
            map.append(name, "2");
        }
        let read = headers(&map);
        assert!(read.several_authorizations);
        assert_eq!((read.traceparent, read.deadline_ms, read.iam_min), (None, None, Some("")));
        let mut map = HeaderMap::new();
        map.append("Authorization", "Bearer x");
        map.append("Authorization", "Bearer x");
        assert!(headers(&map).several_authorizations);
        assert!(!headers(&HeaderMap::new()).several_authorizations);
    }
}
