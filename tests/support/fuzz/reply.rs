//! Replies, as a client reads them.

use iam_client::{ClientError, read_reply};
use iam_schema::codec::{Format, encode};

use super::assert_silent;

/// Any bytes as a reply: a client takes it or says why not, and what it took is written and read again the same.
pub fn reply(data: &[u8]) {
    match read_reply(data) {
        Ok(response) => {
            assert!(!data.is_empty(), "nothing is no reply");
            assert!(response.error.is_none());
            let binary = encode(&response, Format::MessagePack).expect("a reply can be written");
            for format in [Format::MessagePack, Format::Json] {
                let written = encode(&response, format).expect("a reply can be written");
                let again = read_reply(&written).expect("what we write can be read");
                assert_eq!(encode(&again, Format::MessagePack).expect("written"), binary, "{format:?}");
            }
        }
        Err(ClientError::Refused(error)) => {
            // Whatever kind a later version of the service invents, it is a refusal.
            let known = error.known_kind();
            assert!(known.is_none_or(|kind| kind.as_str() == error.kind));
        }
        Err(ClientError::Decode(error)) => assert_silent(&error.to_string()),
        Err(other) => panic!("no way to read a reply: {other}"),
    }
}
