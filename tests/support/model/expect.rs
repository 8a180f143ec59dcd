//! An expected answer beside the one that came.
//!
//! What only the reply can tell, such as a new id, stands in the expected record as a slot, `$user`; it is checked for
//! its form and then filled in.

use std::collections::{BTreeMap, BTreeSet};

use base64::Engine;
use base64::engine::general_purpose::{STANDARD, URL_SAFE_NO_PAD};
use iam_schema::subject::Plane;
use iam_schema::{ErrorKind, Timestamp};
use serde_json::{Map, Value, json};

use super::ask::Ask;
use super::state::{Listing, Rec, State};

/// How a request must be answered.
#[derive(Debug, Clone)]
pub enum Expect {
    /// With an error of one of these kinds.
    Refused(Vec<ErrorKind>),
    /// With this record.
    Reply(Value),
    /// With some of these records.
    Page(PageOf),
}

/// A page of a list.
#[derive(Debug, Clone)]
pub struct PageOf {
    pub field: &'static str,
    pub of: (&'static str, String),
    /// The list that it goes on with.
    pub begun: Option<usize>,
    pub size: usize,
    /// All that there is, by id.
    pub records: BTreeMap<String, Value>,
}

/// What a reply that fits has told.
#[derive(Debug, Default)]
pub struct Told {
    slots: Vec<(&'static str, String)>,
    page: Option<(BTreeSet<String>, String)>,
}

/// Why a reply does not fit.
pub type Misfit = String;

const SLOTS: &[&str] = &["$user", "$key", "$key-text", "$prefix", "$jwt", "$temporary", "$public", "$jwks"];

impl Expect {
    /// Whether a reply is the one that was expected.
    pub fn fits(&self, state: &State, ask: &Ask, reply: &Value) -> Result<Told, Misfit> {
        let mut told = Told::default();
        match self {
            Expect::Refused(kinds) => refused(kinds, ask, reply)?,
            Expect::Reply(expected) => {
                let mut reply = reply.clone();
                if let Some(list) = reply.get_mut("decisions_json") {
                    *list =
                        list.as_str().and_then(|text| serde_json::from_str(text).ok()).unwrap_or_default();
                }
                same(state, expected, &reply, &mut told)?;
                let text = told.of("$key-text");
                if told.of("$prefix").is_some_and(|prefix| text.is_none_or(|text| text[..7] != *prefix)) {
                    return Err("the prefix is not that of the key".to_owned());
                }
            }
            Expect::Page(page) => told.page = Some(page.fits(state, reply)?),
        }
        Ok(told)
    }

    /// Takes over what the reply told.
    pub fn learn(&self, state: &mut State, told: Told) {
        for (slot, text) in told.slots {
            match slot {
                "$user" => *state.user_ids.last_mut().expect("a new user") = text,
                "$key" => *state.key_ids.last_mut().expect("a new key") = text,
                "$key-text" => *state.key_texts.last_mut().expect("a new key") = text,
                "$jwt" => state.tokens.last_mut().expect("a new token").text = text,
                "$temporary" => {
                    if let Some(Rec::User(index)) = state.changed.first() {
                        let fill = |user: &mut Option<_>| set_password(user, text);
                        state.users[*index].bind(fill);
                    }
                }
                "$public" => {
                    let active = state.active_kid().expect("an active key");
                    state.kid_points[active] = Some(text);
                }
                "$jwks" => learn_kids(state, &text),
                _ => {}
            }
        }
        if let (Expect::Page(page), Some((shown, token))) = (self, told.page) {
            match page.begun {
                Some(begun) => {
                    state.listings[begun].shown.extend(shown);
                    state.listings[begun].token = token;
                }
                None => {
                    let throughout = page.records.keys().cloned().collect();
                    state.listings.push(Listing { of: page.of.clone(), token, shown, throughout });
                }
            }
        }
    }
}

fn set_password(user: &mut Option<super::state::User>, text: String) {
    if let Some(user) = user {
        user.password = Some(text);
    }
}

impl Told {
    fn of(&self, slot: &str) -> Option<&String> {
        self.slots.iter().find(|(name, _)| *name == slot).map(|(_, text)| text)
    }
}

fn refused(kinds: &[ErrorKind], ask: &Ask, reply: &Value) -> Result<(), Misfit> {
    let kind = reply.pointer("/error/type").and_then(Value::as_str).unwrap_or("success");
    if !kinds.iter().any(|expected| expected.as_str() == kind) {
        let expected: Vec<_> = kinds.iter().map(|kind| kind.as_str()).collect();
        return Err(format!("expected {}, got {kind}", expected.join(" or ")));
    }
    if reply.as_object().is_none_or(|fields| fields.len() != 1) {
        return Err("an error must come alone".to_owned());
    }
    let message = reply.pointer("/error/message").and_then(Value::as_str).unwrap_or_default();
    let masked = match kind {
        "auth-failed" => message == "auth failure",
        "operation-not-permitted" if ask.plane == Plane::Api => message == "access denied",
        _ => !message.is_empty(),
    };
    if masked { Ok(()) } else { Err(format!("`{message}` is no message for {kind}")) }
}

fn same(state: &State, expected: &Value, reply: &Value, told: &mut Told) -> Result<(), Misfit> {
    match (expected, reply) {
        (Value::String(slot), Value::String(text)) if slot.starts_with('$') => {
            if let Some(words) = slot.strip_prefix("$reason") {
                let lacks = words.split_whitespace().find(|word| !text.contains(word));
                return match lacks {
                    _ if text.is_empty() => Err("no reason".to_owned()),
                    Some(word) => Err(format!("the reason `{text}` does not name `{word}`")),
                    None => Ok(()),
                };
            }
            let slot = SLOTS.iter().find(|known| *known == slot).expect("a slot");
            let text = well_formed(state, slot, text).map_err(|why| format!("{slot}: {why}: `{text}`"))?;
            told.slots.push((slot, text));
            Ok(())
        }
        (Value::Object(expected), Value::Object(reply)) => {
            for field in expected.keys().chain(reply.keys()) {
                match (expected.get(field), reply.get(field)) {
                    (Some(expected), Some(reply)) => {
                        same(state, expected, reply, told).map_err(|why| format!("{field}: {why}"))?;
                    }
                    (Some(expected), None) => {
                        return Err(format!("{field}: expected {expected}, got nothing"));
                    }
                    (None, Some(reply)) => return Err(format!("{field}: expected nothing, got {reply}")),
                    (None, None) => {}
                }
            }
            Ok(())
        }
        (expected, reply) if expected == reply => Ok(()),
        (expected, reply) => Err(format!("expected {expected}, got {reply}")),
    }
}

/// What a slot is filled with: the text, or what is to be known of it.
fn well_formed(state: &State, slot: &str, text: &str) -> Result<String, &'static str> {
    let id = |known: &[String]| {
        let form = uuid::Uuid::parse_str(text).is_ok_and(|id| id.hyphenated().to_string() == text);
        if form && !known.iter().any(|id| id == text) { Ok(text.to_owned()) } else { Err("not a new id") }
    };
    match slot {
        "$user" => id(&state.user_ids),
        "$key" => id(&state.key_ids),
        "$key-text" => match text.strip_prefix("tg_").map(|rest| URL_SAFE_NO_PAD.decode(rest)) {
            Some(Ok(bytes)) if bytes.len() == 24 => Ok(text.to_owned()),
            _ => Err("not a key"),
        },
        "$temporary" if text.chars().count() >= 16 => Ok(text.to_owned()),
        "$temporary" => Err("too short"),
        "$prefix" if text.len() == 7 => Ok(text.to_owned()),
        "$jwt" => token(state, text).map(|()| text.to_owned()),
        "$public" => {
            let body: String = text.lines().filter(|line| !line.starts_with("-----")).collect();
            let bytes = STANDARD.decode(body).map_err(|_| "not PEM")?;
            let point = bytes
                .len()
                .checked_sub(32)
                .map(|at| URL_SAFE_NO_PAD.encode(&bytes[at..]))
                .ok_or("too short")?;
            let known = state.active_kid().and_then(|kid| state.kid_points[kid].clone());
            if known.is_none_or(|known| known == point) { Ok(point) } else { Err("not the active key") }
        }
        "$jwks" => published(state, text).map(|()| text.to_owned()),
        _ => Err("not of its form"),
    }
}

fn json_part(text: Option<&str>) -> Option<Value> {
    serde_json::from_slice(&URL_SAFE_NO_PAD.decode(text?).ok()?).ok()
}

/// The newest token has the claims of section 5.
fn token(state: &State, text: &str) -> Result<(), &'static str> {
    let mut parts = text.split('.');
    let (header, claims) = (json_part(parts.next()), json_part(parts.next()));
    let (Some(header), Some(mut claims)) = (header, claims) else { return Err("not a token") };
    let expected = state.tokens.last().expect("a token was expected");
    let kid = state.kid_texts[expected.kid].as_deref();
    if header != json!({ "alg": "EdDSA", "kid": kid, "typ": "at+jwt" }) {
        return Err("another header");
    }
    let issued = state.now_ms / 1000;
    let fields = claims.as_object_mut().ok_or("not an object")?;
    let epoch = fields.remove("epoch").is_some_and(|epoch| epoch.is_u64());
    let jti = fields.remove("jti").and_then(|jti| jti.as_str().map(str::to_owned));
    let audience = match fields.remove("aud") {
        Some(Value::Array(list)) if list.len() == 1 => list.into_iter().next(),
        other => other,
    };
    let expected = json!({
        "iss": "https://iam.test",
        "sub": state.user_ids[expected.user],
        "client_id": "iam-login",
        "workspace": expected.place,
        "iat": issued,
        "nbf": issued,
        "exp": expected.expires / 1000,
    });
    let limited = state.tokens.last().is_some_and(|token| token.limited);
    let good = audience == Some(json!(if limited { "iam:change-password" } else { "iam" }));
    let unique = jti.is_some_and(|jti| !jti.is_empty());
    if claims == expected && epoch && good && unique { Ok(()) } else { Err("other claims") }
}

fn jwks(text: &str) -> Option<Vec<Map<String, Value>>> {
    serde_json::from_str::<Value>(text)
        .ok()?
        .get("keys")?
        .as_array()?
        .iter()
        .map(|k| k.as_object().cloned())
        .collect()
}

fn member<'k>(key: &'k Map<String, Value>, name: &str) -> &'k str {
    key.get(name).and_then(Value::as_str).unwrap_or_default()
}

/// The set holds every published key and no other.
fn published(state: &State, text: &str) -> Result<(), &'static str> {
    let keys = jwks(text).ok_or("not a set of keys")?;
    let form = |key: &Map<String, Value>| {
        let fixed = [("kty", "OKP"), ("crv", "Ed25519"), ("use", "sig"), ("alg", "EdDSA")];
        fixed.iter().all(|(name, value)| member(key, name) == *value) && key.len() == fixed.len() + 2
    };
    if !keys.iter().all(form) {
        return Err("a key of another form");
    }
    let kids: BTreeSet<&str> = keys.iter().map(|key| member(key, "kid")).collect();
    let expected = state.published();
    let gone = |kid: &&str| {
        let known = state.kid_texts.iter().position(|text| text.as_deref() == Some(kid));
        known.is_some_and(|index| !expected.contains(&index))
    };
    let missing = expected
        .iter()
        .any(|&index| state.kid_texts[index].as_deref().is_some_and(|text| !kids.contains(text)));
    if kids.len() != keys.len() || kids.len() != expected.len() || missing || kids.iter().any(gone) {
        return Err("not the keys that are published");
    }
    Ok(())
}

/// Which kid is which: the active key is known by its point, and at most one other is new.
fn learn_kids(state: &mut State, text: &str) {
    let keys = jwks(text).unwrap_or_default();
    let (kids, points): (Vec<&str>, Vec<&str>) =
        keys.iter().map(|key| (member(key, "kid"), member(key, "x"))).unzip();
    for (kid, point) in kids.iter().zip(&points) {
        if state.kid_texts.iter().any(|known| known.as_deref() == Some(kid)) {
            continue;
        }
        let by_point = state.kid_points.iter().position(|known| known.as_deref() == Some(point));
        let fresh =
            || (0..state.kids.len()).find(|&i| state.kid_texts[i].is_none() && state.kid_points[i].is_none());
        if let Some(index) = by_point.or_else(fresh) {
            state.kid_texts[index] = Some((*kid).to_owned());
            state.kid_points[index] = Some((*point).to_owned());
        }
    }
}

impl PageOf {
    fn fits(&self, state: &State, reply: &Value) -> Result<(BTreeSet<String>, String), Misfit> {
        let fields = reply.as_object().ok_or("not a record")?;
        if let Some(field) = fields.keys().find(|field| *field != self.field && *field != "next_page_token") {
            return Err(format!("{field}: expected nothing, got {}", fields[field]));
        }
        let token = fields.get("next_page_token").and_then(Value::as_str).unwrap_or_default();
        let items = fields.get(self.field).and_then(Value::as_array).cloned().unwrap_or_default();
        if items.len() > self.size {
            return Err(format!("{} records on a page of {}", items.len(), self.size));
        }
        let listing = self.begun.map(|begun| &state.listings[begun]);
        let mut shown = BTreeSet::new();
        for mut item in items {
            let id = item.get("id").and_then(Value::as_str).unwrap_or_default().to_owned();
            let expected = self.records.get(&id).ok_or_else(|| format!("{item} is not to be listed"))?;
            if self.field == "api_keys" {
                let used = item.as_object_mut().and_then(|fields| fields.remove("last_used"));
                last_used(state, &id, used)?;
            }
            if item != *expected {
                return Err(format!("expected {expected}, got {item}"));
            }
            if listing.is_some_and(|listing| listing.shown.contains(&id)) || !shown.insert(id) {
                return Err(format!("{item} is listed twice"));
            }
        }
        let before = listing.map(|listing| &listing.shown);
        let due = |id: &&String| match listing {
            Some(listing) => listing.throughout.contains(*id),
            None => true,
        };
        let missed = self
            .records
            .keys()
            .filter(due)
            .find(|id| !shown.contains(*id) && before.is_none_or(|before| !before.contains(*id)));
        match missed {
            Some(id) if token.is_empty() => Err(format!("the list ends without {}", self.records[id])),
            _ if !token.is_empty() && shown.is_empty() && self.field != "api_keys" => {
                Err("an empty page that is not the last".to_owned())
            }
            _ => Ok((shown, token.to_owned())),
        }
    }
}

fn last_used(state: &State, id: &str, used: Option<Value>) -> Result<(), Misfit> {
    let index = state.key_ids.iter().position(|known| known == id).ok_or("an unknown key")?;
    let at = match &used {
        None => None,
        Some(text) => {
            let time = text
                .as_str()
                .and_then(|text| text.parse::<Timestamp>().ok())
                .ok_or("last_used is no time")?;
            Some(time.as_millis())
        }
    };
    if at.is_some_and(|at| !state.key_uses[index].contains(&at)) {
        return Err(format!("last_used {used:?}, when it was not used"));
    }
    match state.key_used[index] {
        Some(least) if at.is_none_or(|at| at < least) => {
            Err(format!("last_used {used:?}, and it was used at {} at least", super::state::time(least)))
        }
        _ => Ok(()),
    }
}
