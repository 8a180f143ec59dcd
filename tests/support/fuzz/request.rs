//! Requests: what is read comes out again the same, both codecs decide alike, and they decide as the protocol
//! says.

use iam_schema::IamRequest;
use iam_schema::codec::{Format, Member, Payload, check_list, encode, target_member};
use serde_json::Value;

use super::assert_silent;
use super::tree::{Choices, Tree};

/// Any bytes as a request: what decodes is written and read again the same, in either form.
pub fn request(data: &[u8]) {
    let payload = match Payload::read(data) {
        Ok(payload) => payload,
        Err(error) => return assert_silent(&error.to_string()),
    };
    let request = match payload.decode::<IamRequest<'_>>() {
        Ok(request) => request,
        Err(error) => return assert_silent(&error.to_string()),
    };
    let binary = encode(&request, Format::MessagePack).expect("a request can be written");
    for format in [Format::MessagePack, Format::Json] {
        let written = encode(&request, format).expect("a request can be written");
        let payload = Payload::read(&written).expect("what we write can be read");
        assert_eq!(
            payload.format(),
            if binary == [0x80] && written.is_empty() { Format::Json } else { format }
        );
        let again = payload.decode::<IamRequest<'_>>().expect("what we write can be read");
        assert_eq!(encode(&again, Format::MessagePack).expect("written"), binary, "{format:?}");
    }
    for json in [&request.resource_json, &request.parameters_json] {
        member(json);
    }
    elements(&request.authorise_checks);
}

/// The fields that hold a text.
const TEXTS: [&str; 17] = [
    "operation",
    "workspace",
    "actor",
    "user_id",
    "username",
    "key_id",
    "api_key",
    "password",
    "new_password",
    "capability",
    "resource_json",
    "parameters_json",
    "authorise_checks",
    "credential",
    "request_id",
    "client_ip",
    "page_token",
];
/// The fields that hold something else, and what is in those.
const OTHERS: [&str; 12] = [
    "page_size",
    "user",
    "workspace_record",
    "key",
    "name",
    "email",
    "roles",
    "enabled",
    "must_change_password",
    "id",
    "expires",
    "extra",
];

/// Whether a request of these fields must be taken.
fn acceptable(tree: &Tree) -> bool {
    let text = |of: &Tree, key: &str| matches!(of.get(key), None | Some(Tree::Text(_)));
    let flag = |of: &Tree, key: &str| matches!(of.get(key), None | Some(Tree::Bool(_)));
    let record = |key: &str, texts: &[&str], flags: &[&str]| match tree.get(key) {
        None => true,
        Some(inner @ Tree::Map(_)) => {
            texts.iter().all(|key| text(inner, key)) && flags.iter().all(|key| flag(inner, key))
        }
        Some(_) => false,
    };
    let roles = match tree.get("user").and_then(|user| user.get("roles")) {
        None => true,
        Some(Tree::List(roles)) => roles.iter().all(|role| matches!(role, Tree::Text(_))),
        Some(_) => false,
    };
    let page_size = match tree.get("page_size") {
        None => true,
        Some(Tree::Unsigned(n)) => *n <= u64::from(u32::MAX),
        Some(_) => false,
    };
    tree.well_formed(1)
        && TEXTS.iter().all(|key| text(tree, key))
        && record("user", &["username", "name", "email", "password"], &["enabled", "must_change_password"])
        && record("workspace_record", &["id", "name"], &["enabled"])
        && record("key", &["user_id", "name", "expires"], &[])
        && roles
        && page_size
}

/// A value grown out of the bytes, in both forms: the same answer to both, and the one that the protocol gives.
pub fn request_value(data: &[u8]) {
    let mut choices = Choices::new(data);
    let tree = Tree::grow(&mut choices, &[&TEXTS[..], &OTHERS[..]].concat());
    let (mut json, mut binary) = (String::new(), Vec::new());
    tree.json(&mut json);
    tree.msgpack(&mut binary, &mut choices);
    let mut read = Vec::new();
    for bytes in [json.as_bytes(), binary.as_slice()] {
        let payload = match Payload::read(bytes) {
            Ok(payload) => payload,
            Err(error) => {
                assert_silent(&error.to_string());
                assert!(!acceptable(&tree), "refused: {error}: {json}");
                continue;
            }
        };
        match payload.decode::<IamRequest<'_>>() {
            Ok(request) => {
                assert!(acceptable(&tree), "taken: {json}");
                holds(&tree, &request);
                read.push(encode(&request, Format::MessagePack).expect("written"));
            }
            Err(error) => {
                assert_silent(&error.to_string());
                assert!(!acceptable(&tree), "refused: {error}: {json}");
            }
        }
    }
    assert!(read.len() != 1 && read.windows(2).all(|two| two[0] == two[1]), "one form only, or two: {json}");
}

/// Whether a request holds what stood in the value.
fn holds(tree: &Tree, request: &IamRequest<'_>) {
    let shown = serde_json::to_value(request).expect("a request");
    for key in TEXTS {
        let given = match tree.get(key) {
            Some(Tree::Text(text)) => text.as_str(),
            _ => "",
        };
        assert_eq!(shown.get(key).and_then(Value::as_str).unwrap_or_default(), given, "{key}");
    }
    let user = tree.get("user").map(|user| {
        let name = user.get("username");
        name.map(|name| if let Tree::Text(name) = name { name.clone() } else { String::new() })
    });
    assert_eq!(request.user.as_ref().map(|user| user.username.clone()), user);
}

/// Any text as `resource_json`, and as `authorise_checks`.
pub fn checks(data: &[u8]) {
    let Ok(text) = std::str::from_utf8(data) else { return };
    member(text);
    elements(text);
}

fn member(text: &str) {
    match target_member(text) {
        Ok(found) => {
            let value: Value = match text {
                "" => Value::Object(serde_json::Map::new()),
                text => serde_json::from_str(text).expect("JSON"),
            };
            let expected = match value.as_object().expect("an object").get("workspace") {
                None => Member::Absent,
                Some(Value::String(text)) => Member::Text(text.as_str().into()),
                Some(_) => Member::Other,
            };
            assert_eq!(found, expected);
            assert!(!twice(text), "a key twice: {text}");
        }
        Err(error) => assert_silent(&error.to_string()),
    }
}

fn elements(text: &str) {
    if text.is_empty() {
        return;
    }
    match check_list(text) {
        Ok(list) => {
            let value: Value = serde_json::from_str(text).expect("JSON");
            let value = value.as_array().expect("a list");
            assert_eq!(list.len(), value.len());
            assert!(list.len() <= 1000 && !twice(text));
            for (element, value) in list.iter().zip(value) {
                let capability =
                    value.get("capability").and_then(Value::as_str).filter(|text| !text.is_empty());
                let object = |key: &str| value.get(key).is_none_or(Value::is_object);
                let good = capability.is_some() && object("resource") && object("parameters");
                assert_eq!(element.is_some(), good, "{value}");
                if let Some((found, ..)) = element {
                    assert_eq!(Some(found.as_ref()), capability);
                }
            }
        }
        Err(error) => assert_silent(&error.to_string()),
    }
}

/// Whether some map of a JSON text has a key twice: the text holds more keys than what is left of it.
fn twice(text: &str) -> bool {
    #[derive(Debug)]
    struct Count(usize);
    struct Visit;
    impl<'de> serde::de::Visitor<'de> for Visit {
        type Value = Count;
        fn expecting(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
            f.write_str("JSON")
        }
        fn visit_unit<E>(self) -> Result<Count, E> {
            Ok(Count(0))
        }
        fn visit_bool<E>(self, _: bool) -> Result<Count, E> {
            Ok(Count(0))
        }
        fn visit_u64<E>(self, _: u64) -> Result<Count, E> {
            Ok(Count(0))
        }
        fn visit_i64<E>(self, _: i64) -> Result<Count, E> {
            Ok(Count(0))
        }
        fn visit_f64<E>(self, _: f64) -> Result<Count, E> {
            Ok(Count(0))
        }
        fn visit_str<E>(self, _: &str) -> Result<Count, E> {
            Ok(Count(0))
        }
        fn visit_seq<A: serde::de::SeqAccess<'de>>(self, mut list: A) -> Result<Count, A::Error> {
            let mut keys = 0;
            while let Some(Count(inner)) = list.next_element()? {
                keys += inner;
            }
            Ok(Count(keys))
        }
        fn visit_map<A: serde::de::MapAccess<'de>>(self, mut map: A) -> Result<Count, A::Error> {
            let mut keys = 0;
            while let Some((_, Count(inner))) = map.next_entry::<String, Count>()? {
                keys += 1 + inner;
            }
            Ok(Count(keys))
        }
    }
    impl<'de> serde::Deserialize<'de> for Count {
        fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
            deserializer.deserialize_any(Visit)
        }
    }
    fn left(value: &Value) -> usize {
        match value {
            Value::Array(items) => items.iter().map(left).sum(),
            Value::Object(map) => map.len() + map.values().map(left).sum::<usize>(),
            _ => 0,
        }
    }
    let (Ok(Count(all)), Ok(value)) = (serde_json::from_str(text), serde_json::from_str::<Value>(text))
    else {
        return false;
    };
    all != left(&value)
}
