//! Users, the claims on their names, and the guard of the last root admin.

use std::ops::Bound;

use iam_schema::{UserId, WorkspaceId};
use redb::{ReadableTable, ReadableTableMetadata};

use super::tables::{FIRST, Fault, LAST, NAMES, Source, Tx, USERS, USERS_BY_ROLE, USERS_BY_WORKSPACE};
use super::{api_keys, workspaces};
use crate::domain::users::{NameKey, User};
use crate::store::codec::{self, At};
use crate::store::{DeleteUser, InsertUser, Page, RootRoles, UpdateUser};

pub(super) fn by_id(source: &impl Source, id: UserId) -> Result<Option<User>, Fault> {
    let key = id.as_uuid();
    let table = source.open(USERS)?;
    let row = table.get(key.as_bytes())?;
    Ok(row.map(|row| codec::read_user(key.as_bytes(), row.value())).transpose()?)
}

pub(super) fn by_name(source: &impl Source, name: &NameKey) -> Result<Option<User>, Fault> {
    let names = source.open(NAMES)?;
    let Some(id) = names.get(name.as_str())? else { return Ok(None) };
    let user = named(source, id.value(), "names", name.as_str().as_bytes())?;
    if user.username.key() == *name {
        Ok(Some(user))
    } else {
        Err(At { table: "names", key: name.as_str().as_bytes() }.corrupt("the user has another name").into())
    }
}

/// The user that an index names.
///
/// INVARIANT (index): claims and indexes change in the transaction that changes the record, so what they name
/// is there.
fn named(source: &impl Source, id: &[u8; 16], index: &'static str, key: &[u8]) -> Result<User, Fault> {
    let user = by_id(source, UserId::from_uuid(uuid::Uuid::from_bytes(*id)))?;
    user.ok_or_else(|| At { table: index, key }.corrupt("names a user who is not there").into())
}

pub(super) fn list(
    source: &impl Source,
    workspace: Option<&WorkspaceId>,
    after: Option<UserId>,
    limit: usize,
) -> Result<Page<User, UserId>, Fault> {
    let after = after.map(|id| id.as_uuid().into_bytes());
    let mut items = Vec::new();
    let more = match workspace {
        None => {
            let users = source.open(USERS)?;
            let from = after.as_ref().map_or(Bound::Unbounded, Bound::Excluded);
            let mut rows = users.range::<&[u8; 16]>((from, Bound::Unbounded))?;
            for entry in rows.by_ref().take(limit) {
                let (key, row) = entry?;
                items.push(codec::read_user(key.value(), row.value())?);
            }
            rows.next().transpose()?.is_some()
        }
        Some(workspace) => {
            let index = source.open(USERS_BY_WORKSPACE)?;
            let name = workspace.as_str();
            let from = match &after {
                None => Bound::Included((name, &FIRST)),
                Some(after) => Bound::Excluded((name, after)),
            };
            let mut rows = index.range::<(&str, &[u8; 16])>((from, Bound::Included((name, &LAST))))?;
            for entry in rows.by_ref().take(limit) {
                let (key, _) = entry?;
                items.push(named(source, key.value().1, "users_by_workspace", name.as_bytes())?);
            }
            rows.next().transpose()?.is_some()
        }
    };
    let next = items.last().filter(|_| more).map(|last: &User| last.id);
    Ok(Page { items, next })
}

pub(super) fn insert(tx: &Tx<'_>, user: &User) -> Result<InsertUser, Fault> {
    if tx.open(NAMES)?.get(user.username.key().as_str())?.is_some() {
        return Ok(InsertUser::NameTaken);
    }
    if by_id(tx, user.id)?.is_some() {
        let key = user.id.as_uuid();
        return Err(At { table: "users", key: key.as_bytes() }
            .corrupt("not written: the id exists already")
            .into());
    }
    index(tx, user)?;
    put(tx, user)?;
    Ok(InsertUser::Inserted)
}

/// Writes a user as it is, over whatever is there of that id.
pub(super) fn restore(tx: &Tx<'_>, user: &User) -> Result<(), Fault> {
    let key = user.id.as_uuid();
    let name = user.username.key();
    let holder = tx.open(NAMES)?.get(name.as_str())?.map(|holder| *holder.value());
    if holder.is_some_and(|holder| holder != *key.as_bytes()) {
        return Err(At { table: "names", key: name.as_str().as_bytes() }
            .corrupt("not written: another user has the name")
            .into());
    }
    if let Some(stored) = by_id(tx, user.id)? {
        unindex(tx, &stored)?;
    }
    index(tx, user)?;
    put(tx, user)
}

pub(super) fn update(
    tx: &Tx<'_>,
    root_roles: &RootRoles,
    from: &User,
    to: &User,
) -> Result<UpdateUser, Fault> {
    let Some(stored) = by_id(tx, from.id)?.filter(|stored| stored.version == from.version) else {
        return Ok(UpdateUser::LostRace);
    };
    let fits = to.id == stored.id
        && to.workspace == stored.workspace
        && to.username == stored.username
        && to.created == stored.created
        && to.version == stored.version + 1
        && to.key_epoch >= stored.key_epoch
        && to.token_epoch >= stored.token_epoch;
    if !fits {
        let key = from.id.as_uuid();
        let at = At { table: "users", key: key.as_bytes() };
        return Err(at
            .corrupt("not written: identity, version or epochs do not follow the stored ones")
            .into());
    }
    let demotes = is_root_admin(tx, root_roles, &stored)? && !is_root_admin(tx, root_roles, to)?;
    if demotes && !any_root_admin(tx, root_roles, |other| other.id != to.id)? {
        return Ok(UpdateUser::LastRootAdmin);
    }
    if to.roles != stored.roles {
        unindex_roles(tx, &stored)?;
        index_roles(tx, to)?;
    }
    if to.key_epoch > stored.key_epoch {
        api_keys::delete_all(tx, to.id)?;
    }
    put(tx, to)?;
    Ok(UpdateUser::Updated)
}

pub(super) fn delete(tx: &Tx<'_>, root_roles: &RootRoles, user: &User) -> Result<DeleteUser, Fault> {
    let Some(stored) = by_id(tx, user.id)?.filter(|stored| stored.version == user.version) else {
        return Ok(DeleteUser::LostRace);
    };
    let demotes = is_root_admin(tx, root_roles, &stored)?;
    if demotes && !any_root_admin(tx, root_roles, |other| other.id != stored.id)? {
        return Ok(DeleteUser::LastRootAdmin);
    }
    api_keys::delete_all(tx, stored.id)?;
    unindex(tx, &stored)?;
    tx.open_mut(USERS)?.remove(stored.id.as_uuid().as_bytes())?;
    Ok(DeleteUser::Deleted)
}

fn put(tx: &Tx<'_>, user: &User) -> Result<(), Fault> {
    let row = codec::write_user(user)?;
    tx.open_mut(USERS)?.insert(user.id.as_uuid().as_bytes(), row.as_slice())?;
    Ok(())
}

/// The claim on the name, and the rows by which lists and the guard find a user.
fn index(tx: &Tx<'_>, user: &User) -> Result<(), Fault> {
    let id = user.id.as_uuid();
    tx.open_mut(NAMES)?.insert(user.username.key().as_str(), id.as_bytes())?;
    tx.open_mut(USERS_BY_WORKSPACE)?.insert((user.workspace.as_str(), id.as_bytes()), ())?;
    index_roles(tx, user)
}

fn unindex(tx: &Tx<'_>, user: &User) -> Result<(), Fault> {
    let id = user.id.as_uuid();
    unindex_roles(tx, user)?;
    tx.open_mut(NAMES)?.remove(user.username.key().as_str())?;
    tx.open_mut(USERS_BY_WORKSPACE)?.remove((user.workspace.as_str(), id.as_bytes()))?;
    Ok(())
}

fn index_roles(tx: &Tx<'_>, user: &User) -> Result<(), Fault> {
    let id = user.id.as_uuid();
    let mut index = tx.open_mut(USERS_BY_ROLE)?;
    for role in &user.roles {
        index.insert((role.as_str(), id.as_bytes()), ())?;
    }
    Ok(())
}

fn unindex_roles(tx: &Tx<'_>, user: &User) -> Result<(), Fault> {
    let id = user.id.as_uuid();
    let mut index = tx.open_mut(USERS_BY_ROLE)?;
    for role in &user.roles {
        index.remove((role.as_str(), id.as_bytes()))?;
    }
    Ok(())
}

/// Whether a user, as the record is given, is a root admin in the workspace as it is stored.
fn is_root_admin(source: &impl Source, root_roles: &RootRoles, user: &User) -> Result<bool, Fault> {
    if !user.enabled || user.roles.is_disjoint(root_roles) {
        return Ok(false);
    }
    let home = workspaces::by_id(source, &user.workspace)?;
    Ok(home.is_some_and(|home| user.effectively_enabled(&home)))
}

/// Whether some root admin fits `wanted`. Reads the holders of the root roles until one does.
pub(super) fn any_root_admin(
    source: &impl Source,
    root_roles: &RootRoles,
    wanted: impl Fn(&User) -> bool,
) -> Result<bool, Fault> {
    let index = source.open(USERS_BY_ROLE)?;
    for role in root_roles.iter() {
        let role = role.as_str();
        for entry in index.range::<(&str, &[u8; 16])>((role, &FIRST)..=(role, &LAST))? {
            let (key, _) = entry?;
            let user = named(source, key.value().1, "users_by_role", role.as_bytes())?;
            if wanted(&user) && is_root_admin(source, root_roles, &user)? {
                return Ok(true);
            }
        }
    }
    Ok(false)
}

/// Reads every user and checks claims and indexes in both directions.
pub(super) fn verify(source: &impl Source) -> Result<(), Fault> {
    let (users, names) = (source.open(USERS)?, source.open(NAMES)?);
    let (by_workspace, by_role) = (source.open(USERS_BY_WORKSPACE)?, source.open(USERS_BY_ROLE)?);
    let (mut count, mut roles) = (0, 0);
    for entry in users.iter()? {
        let (key, row) = entry?;
        let (id, user) = (key.value(), codec::read_user(key.value(), row.value())?);
        let claimed = names.get(user.username.key().as_str())?.is_some_and(|holder| holder.value() == id);
        let listed = by_workspace.get((user.workspace.as_str(), id))?.is_some();
        let mut indexed = true;
        for role in &user.roles {
            indexed &= by_role.get((role.as_str(), id))?.is_some();
        }
        if !(claimed && listed && indexed) {
            return Err(At { table: "users", key: id }.corrupt("an index does not know the user").into());
        }
        count += 1;
        roles += user.roles.len() as u64;
    }
    for (index, found, expected) in [
        ("names", names.len()?, count),
        ("users_by_workspace", by_workspace.len()?, count),
        ("users_by_role", by_role.len()?, roles),
    ] {
        if found != expected {
            return Err(At { table: index, key: b"" }
                .corrupt(format_args!("{found} rows, not {expected}"))
                .into());
        }
    }
    Ok(())
}
