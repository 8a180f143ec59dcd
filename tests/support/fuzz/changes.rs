//! Change events and floors, as replicas and gateways follow them.

use std::collections::BTreeSet;

use iam_schema::changes::{ChangeEvent, DELETED, Floors, Follower, MAX_FLOORS};
use iam_schema::codec::{Format, decode, encode};

use super::assert_silent;

/// A line between two events of one input; no byte of it occurs in MessagePack that means anything.
const NEXT: &[u8] = b"\xc1\xc1";

/// Any bytes as a run of change events: each is read or refused, and a follower takes all of them in.
pub fn changes(data: &[u8]) {
    let mut follower = Follower::default();
    let mut heard = BTreeSet::new();
    for (part, now_ms) in split(data).into_iter().zip((0..).step_by(700)) {
        floors(part);
        let event = match decode::<ChangeEvent>(part) {
            Ok(event) => event,
            Err(error) => {
                assert_silent(&error.to_string());
                continue;
            }
        };
        for format in [Format::MessagePack, Format::Json] {
            let written = encode(&event, format).expect("an event can be written");
            assert_eq!(decode::<ChangeEvent>(&written).as_ref(), Ok(&event), "{format:?}");
        }
        let followed = follower.event(&event, now_ms);
        heard.insert(event.instance.clone());
        // Whatever else it makes of an event, what the event names is dropped.
        assert!(event.changes.iter().all(|change| followed.drop.contains(change)));
        assert!(follower.instances() <= heard.len());
        if event.bye {
            heard.remove(&event.instance);
        }
        follower.tick(now_ms);
    }
    // Nobody is believed to be there who has been silent.
    follower.tick(i64::MAX / 2);
    assert_eq!(follower.instances(), 0);
}

fn split(data: &[u8]) -> Vec<&[u8]> {
    let mut parts = Vec::new();
    let mut rest = data;
    while let Some(at) = rest.windows(NEXT.len()).position(|window| window == NEXT) {
        parts.push(&rest[..at]);
        rest = &rest[at + NEXT.len()..];
    }
    parts.push(rest);
    parts
}

/// Joins events to an input.
pub(super) fn joined(events: &[Vec<u8>]) -> Vec<u8> {
    events.join(NEXT)
}

/// Any bytes as an `Iam-Min` header.
pub(super) fn floors(data: &[u8]) {
    let Ok(text) = std::str::from_utf8(data) else { return };
    match text.parse::<Floors>() {
        Ok(floors) => {
            assert!(!floors.is_empty() && floors.iter().count() <= MAX_FLOORS);
            assert!(
                floors.iter().all(|floor| floor.version <= DELETED && (1..=128).contains(&floor.id.len()))
            );
            assert_eq!(floors.to_string().parse().as_ref(), Ok(&floors), "{text}");
        }
        Err(error) => assert_silent(&error.to_string()),
    }
}
