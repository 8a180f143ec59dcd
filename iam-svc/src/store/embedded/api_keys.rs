//! API keys: by hash, and by id, name and owner.

use std::ops::Bound;

use iam_schema::{KeyId, Timestamp, UserId};
use redb::{ReadableTable, ReadableTableMetadata};

use super::tables::{
    API_KEY_IDS, API_KEY_NAMES, API_KEY_USE, API_KEYS, API_KEYS_BY_USER, FIRST, Fault, LAST, Source, Tx,
};
use super::users;
use crate::domain::api_keys::{ApiKey, KeyHash, MAX_KEYS_PER_USER};
use crate::domain::users::User;
use crate::store::codec::{self, At};
use crate::store::{DeleteApiKey, InsertApiKey, Page};

pub(super) fn by_hash(source: &impl Source, hash: &KeyHash) -> Result<Option<ApiKey>, Fault> {
    let table = source.open(API_KEYS)?;
    let row = table.get(&hash.0)?;
    Ok(row.map(|row| codec::read_api_key(&hash.0, row.value())).transpose()?)
}

pub(super) fn by_id(source: &impl Source, id: KeyId) -> Result<Option<ApiKey>, Fault> {
    let key = id.as_uuid();
    let ids = source.open(API_KEY_IDS)?;
    let Some(hash) = ids.get(key.as_bytes())? else { return Ok(None) };
    let found = named(source, hash.value(), "api_key_ids", key.as_bytes())?;
    if found.id == id {
        Ok(Some(found))
    } else {
        Err(At { table: "api_key_ids", key: key.as_bytes() }.corrupt("the key has another id").into())
    }
}

/// The key that an index names; see INVARIANT (index) in the users' file.
fn named(source: &impl Source, hash: &[u8; 32], index: &'static str, key: &[u8]) -> Result<ApiKey, Fault> {
    let found = by_hash(source, &KeyHash(*hash))?;
    found.ok_or_else(|| At { table: index, key }.corrupt("names a key that is not there").into())
}

pub(super) fn list(
    source: &impl Source,
    user: UserId,
    after: Option<KeyId>,
    limit: usize,
) -> Result<Page<(ApiKey, Option<Timestamp>), KeyId>, Fault> {
    let owner = user.as_uuid().into_bytes();
    let after = after.map(|id| id.as_uuid().into_bytes());
    let from = match &after {
        None => Bound::Included((&owner, &FIRST)),
        Some(after) => Bound::Excluded((&owner, after)),
    };
    let index = source.open(API_KEYS_BY_USER)?;
    let uses = source.open(API_KEY_USE)?;
    let mut rows = index.range::<(&[u8; 16], &[u8; 16])>((from, Bound::Included((&owner, &LAST))))?;
    let mut items = Vec::new();
    for entry in rows.by_ref().take(limit) {
        let (key, hash) = entry?;
        let used = uses.get(key.value())?.map(|ms| Timestamp::from_millis(ms.value()));
        items.push((named(source, hash.value(), "api_keys_by_user", &owner)?, used));
    }
    let more = rows.next().transpose()?.is_some();
    let next = items.last().filter(|_| more).map(|(last, _): &(ApiKey, _)| last.id);
    Ok(Page { items, next })
}

/// Adds a key.
///
/// A key whose owner is gone, or has ended all keys since the caller looked, would be dead from the start: it
/// is judged as any other and counts as inserted, but nothing is written.
pub(super) fn insert(tx: &Tx<'_>, key: &ApiKey) -> Result<InsertApiKey, Fault> {
    if by_hash(tx, &key.hash)?.is_some() {
        return Ok(InsertApiKey::HashTaken);
    }
    let owner = users::by_id(tx, key.user)?;
    let alive = |other: &ApiKey| owner.as_ref().is_some_and(|owner: &User| other.of_live_epoch(owner));
    let holder = holder_of(tx, key.user, &key.name)?;
    if holder.as_ref().is_some_and(alive) {
        return Ok(InsertApiKey::NameTaken);
    }
    let all = of_user(tx, key.user)?;
    if all.len() >= MAX_KEYS_PER_USER && all.iter().filter(|other| alive(other)).count() >= MAX_KEYS_PER_USER
    {
        return Ok(InsertApiKey::TooMany);
    }
    if !alive(key) {
        return Ok(InsertApiKey::Inserted);
    }
    if by_id(tx, key.id)?.is_some() {
        let id = key.id.as_uuid();
        return Err(At { table: "api_key_ids", key: id.as_bytes() }
            .corrupt("not written: the id exists already")
            .into());
    }
    if let Some(dead) = holder {
        remove(tx, &dead)?;
    }
    put(tx, key)?;
    Ok(InsertApiKey::Inserted)
}

fn put(tx: &Tx<'_>, key: &ApiKey) -> Result<(), Fault> {
    let (id, user) = (key.id.as_uuid(), key.user.as_uuid());
    let (id, user) = (id.as_bytes(), user.as_bytes());
    let row = codec::write_api_key(key)?;
    tx.open_mut(API_KEYS)?.insert(&key.hash.0, row.as_slice())?;
    tx.open_mut(API_KEY_IDS)?.insert(id, &key.hash.0)?;
    tx.open_mut(API_KEY_NAMES)?.insert((user, key.name.as_str()), &key.hash.0)?;
    tx.open_mut(API_KEYS_BY_USER)?.insert((user, id), &key.hash.0)?;
    Ok(())
}

/// Writes the keys of a user as they are, in the place of all that are there.
pub(super) fn restore(tx: &Tx<'_>, user: UserId, keys: &[(ApiKey, Option<Timestamp>)]) -> Result<(), Fault> {
    delete_all(tx, user)?;
    for (key, used) in keys {
        put(tx, key)?;
        if let Some(at) = used {
            touch(tx, &[(user, key.id, *at)])?;
        }
    }
    Ok(())
}

/// The key of a user that has a name, dead or alive.
fn holder_of(source: &impl Source, user: UserId, name: &str) -> Result<Option<ApiKey>, Fault> {
    let user = user.as_uuid();
    let names = source.open(API_KEY_NAMES)?;
    let Some(hash) = names.get((user.as_bytes(), name))? else { return Ok(None) };
    named(source, hash.value(), "api_key_names", user.as_bytes()).map(Some)
}

/// All keys of a user, dead or alive. Few more than [`MAX_KEYS_PER_USER`], since dead ones go with the epoch.
fn of_user(source: &impl Source, user: UserId) -> Result<Vec<ApiKey>, Fault> {
    let owner = user.as_uuid().into_bytes();
    let index = source.open(API_KEYS_BY_USER)?;
    let rows = index.range::<(&[u8; 16], &[u8; 16])>((&owner, &FIRST)..=(&owner, &LAST))?;
    rows.map(|entry| named(source, entry?.1.value(), "api_keys_by_user", &owner)).collect()
}

pub(super) fn delete(tx: &Tx<'_>, key: &ApiKey) -> Result<DeleteApiKey, Fault> {
    match by_hash(tx, &key.hash)? {
        // Another key of the same text was made since: it is not the one that was meant.
        Some(stored) if stored.id == key.id => {
            remove(tx, &stored)?;
            Ok(DeleteApiKey::Deleted)
        }
        Some(_) | None => Ok(DeleteApiKey::Absent),
    }
}

/// Removes all keys of a user.
pub(super) fn delete_all(tx: &Tx<'_>, user: UserId) -> Result<(), Fault> {
    for key in of_user(tx, user)? {
        remove(tx, &key)?;
    }
    Ok(())
}

fn remove(tx: &Tx<'_>, key: &ApiKey) -> Result<(), Fault> {
    let (id, user) = (key.id.as_uuid(), key.user.as_uuid());
    let (id, user) = (id.as_bytes(), user.as_bytes());
    tx.open_mut(API_KEYS)?.remove(&key.hash.0)?;
    tx.open_mut(API_KEY_IDS)?.remove(id)?;
    tx.open_mut(API_KEY_NAMES)?.remove((user, key.name.as_str()))?;
    tx.open_mut(API_KEYS_BY_USER)?.remove((user, id))?;
    tx.open_mut(API_KEY_USE)?.remove((user, id))?;
    Ok(())
}

/// Notes uses. A key that is gone is left out, and a note never goes back in time.
pub(super) fn touch(tx: &Tx<'_>, used: &[(UserId, KeyId, Timestamp)]) -> Result<(), Fault> {
    for (user, id, at) in used {
        let (user, id) = (user.as_uuid(), id.as_uuid());
        let key = (user.as_bytes(), id.as_bytes());
        let exists = tx.open(API_KEYS_BY_USER)?.get(key)?.is_some();
        let noted = tx.open(API_KEY_USE)?.get(key)?.map(|ms| ms.value());
        if exists && noted.is_none_or(|noted| noted < at.as_millis()) {
            tx.open_mut(API_KEY_USE)?.insert(key, at.as_millis())?;
        }
    }
    Ok(())
}

/// Reads every key and checks the indexes in both directions.
pub(super) fn verify(source: &impl Source) -> Result<(), Fault> {
    let (keys, ids, names) = (source.open(API_KEYS)?, source.open(API_KEY_IDS)?, source.open(API_KEY_NAMES)?);
    let by_user = source.open(API_KEYS_BY_USER)?;
    let mut count = 0;
    for entry in keys.iter()? {
        let (hash, row) = entry?;
        let (hash, key) = (hash.value(), codec::read_api_key(hash.value(), row.value())?);
        let (id, user) = (key.id.as_uuid(), key.user.as_uuid());
        let (id, user) = (id.as_bytes(), user.as_bytes());
        let by_id = ids.get(id)?.is_some_and(|found| found.value() == hash);
        let named = names.get((user, key.name.as_str()))?.is_some_and(|found| found.value() == hash);
        let listed = by_user.get((user, id))?.is_some_and(|found| found.value() == hash);
        if !(by_id && named && listed && users::by_id(source, key.user)?.is_some()) {
            return Err(At { table: "api_keys", key: hash }
                .corrupt("an index, or the owner, does not know the key")
                .into());
        }
        count += 1;
    }
    for (index, found) in
        [("api_key_ids", ids.len()?), ("api_key_names", names.len()?), ("api_keys_by_user", by_user.len()?)]
    {
        if found != count {
            return Err(At { table: index, key: b"" }
                .corrupt(format_args!("{found} rows, not {count}"))
                .into());
        }
    }
    Ok(())
}
