//! A deployment moved from one backend to another, while nothing serves on either.
//!
//! Records go over exactly as they are: versions, epochs, ids, hashes, sealed keys. What can have no effect any more
//! stays behind: keys of dead epochs, and what crashes have left. The target is marked before anything is written
//! to it and until both sides were read again and found equal, and a marked store is not served; writing what is
//! there already does no harm, so that a move that died is taken up by a rerun.

use std::fmt;
use std::time::Duration;

use async_trait::async_trait;
use futures_util::{StreamExt, TryStreamExt};
use iam_schema::{Timestamp, UserId};
use sha2::{Digest, Sha256};

use super::codec::{self, BootstrapRow};
use super::{Store, StoreError};
use crate::domain::api_keys::ApiKey;
use crate::domain::key_ring::KeyRing;
use crate::domain::users::User;
use crate::domain::workspaces::Workspace;

/// How many users, with their keys, are read and written at once.
const PAGE: usize = 100;
/// How many users' keys are read side by side.
const SIDE_BY_SIDE: usize = 32;
/// How often a read or a write is tried that the store did not answer.
const TRIES: u32 = 20;
/// The pause before it is tried again.
const PAUSE: Duration = Duration::from_secs(1);

/// Which deployment: whom it was seeded with, and when. No two have the same.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Origin {
    pub admin: UserId,
    pub seeded: Timestamp,
}

/// What a store says that was, or is, the target of a move.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Mark {
    pub origin: Origin,
    /// All is there, and was found equal.
    pub done: bool,
}

/// A user with the keys that may be alive, each with the time of its last use.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Account {
    pub user: User,
    pub keys: Vec<(ApiKey, Option<Timestamp>)>,
}

/// What a backend adds to [`Store`] to be moved from and to. Nothing here may be called beside a service that runs.
///
/// Every write is safe to repeat; what it finds there of the same id it leaves, or writes over.
#[async_trait]
pub trait Transfer: Store {
    /// Which deployment this is; `None` unless its seeding is done. What was announced and not carried out is
    /// carried out first.
    async fn origin(&self) -> Result<Option<Origin>, StoreError>;

    /// Whether there is no record at all, a mark aside.
    async fn is_empty(&self) -> Result<bool, StoreError>;

    /// The mark of a target.
    async fn mark(&self) -> Result<Option<Mark>, StoreError>;

    /// Marks a store that has no mark as about to be filled.
    async fn begin(&self, origin: &Origin) -> Result<(), StoreError>;

    /// Writes workspaces as they are.
    async fn put_workspaces(&self, workspaces: &[Workspace]) -> Result<(), StoreError>;

    /// Writes users and their keys as they are, with claims and indexes.
    async fn put_accounts(&self, accounts: &[Account]) -> Result<(), StoreError>;

    /// Writes the ring of signing keys, and that the deployment was seeded.
    async fn put_foundation(&self, ring: &KeyRing, origin: &Origin) -> Result<(), StoreError>;

    /// Marks the store as complete: from here on it can be served.
    async fn end(&self) -> Result<(), StoreError>;
}

/// How many records of a kind there are, and a sum over them that no order changes: the SHA-256 of each record's
/// row, added up as four numbers of 64 bits.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Sum {
    pub count: u64,
    words: [u64; 4],
}

impl Sum {
    fn add(&mut self, row: &[u8]) {
        self.count += 1;
        let digest = Sha256::digest(row);
        for (word, bytes) in self.words.iter_mut().zip(digest.as_chunks::<8>().0) {
            *word = word.wrapping_add(u64::from_be_bytes(*bytes));
        }
    }
}

impl fmt::Display for Sum {
    /// The sum alone, in hexadecimal.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.words.iter().try_for_each(|word| write!(f, "{word:016x}"))
    }
}

/// A [`Sum`] of each kind of record.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Sums {
    pub workspaces: Sum,
    pub users: Sum,
    pub keys: Sum,
    /// Times at which keys were last used.
    pub uses: Sum,
    /// The ring of signing keys.
    pub ring: Sum,
    pub seeding: Sum,
}

impl Sums {
    /// Each kind with its sum.
    pub fn kinds(&self) -> [(&'static str, Sum); 6] {
        [
            ("workspaces", self.workspaces),
            ("users", self.users),
            ("api-keys", self.keys),
            ("last-uses", self.uses),
            ("key-ring", self.ring),
            ("seeding", self.seeding),
        ]
    }

    fn add_account(&mut self, account: &Account) -> Result<(), StoreError> {
        self.users.add(&codec::write_user(&account.user)?);
        for (key, used) in &account.keys {
            self.keys.add(&codec::write_api_key(key)?);
            if let Some(at) = used {
                let (user, id) = (key.user.as_uuid(), key.id.as_uuid());
                let at = at.as_millis().to_be_bytes();
                self.uses.add(&[user.as_bytes().as_slice(), id.as_bytes(), &at].concat());
            }
        }
        Ok(())
    }
}

/// What a move is at.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Stage {
    Copying,
    ReadingTarget,
    ReadingSource,
}

/// Both sides, read again after the copying.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Moved {
    pub source: Sums,
    pub target: Sums,
}

/// Why a move was refused, or did not come to its end.
#[derive(Debug, thiserror::Error)]
pub enum MoveFault {
    #[error("the source holds no deployment: its seeding is not done")]
    NotSeeded,
    #[error("the source is itself the target of a move that is not done: finish that one first")]
    SourceUnfinished,
    #[error("the target is not empty: nothing was written to it; give a new one")]
    NotEmpty,
    #[error(
        "the target is half filled from another deployment: finish that move, or empty the target; nothing was \
         written to it"
    )]
    OtherSource,
    #[error(
        "the source was changed meanwhile: something serves on it still; stop that, empty the target, and begin \
         anew. The target is not served"
    )]
    SourceChanged(Box<Moved>),
    #[error(
        "the target is not what the source is: empty the target and begin anew, with nothing serving on either. \
         The target is not served"
    )]
    Differs(Box<Moved>),
    #[error("{0}")]
    Store(#[from] StoreError),
}

/// Whether a deployment can be moved out of a store; which one, and its ring.
///
/// # Errors
/// `NotSeeded`, `SourceUnfinished`, `Store`.
pub async fn check_source(source: &dyn Transfer) -> Result<(Origin, KeyRing), MoveFault> {
    if source.mark().await?.is_some_and(|mark| !mark.done) {
        return Err(MoveFault::SourceUnfinished);
    }
    let origin = source.origin().await?.ok_or(MoveFault::NotSeeded)?;
    let ring = source.key_ring().await?.ok_or(MoveFault::NotSeeded)?;
    Ok((origin, ring))
}

/// Whether a deployment can be moved into a store: `true` when an earlier attempt has begun to.
///
/// # Errors
/// `NotEmpty`, `OtherSource`, `Store`.
pub async fn check_target(target: &dyn Transfer, origin: &Origin) -> Result<bool, MoveFault> {
    match target.mark().await? {
        Some(Mark { done: false, origin: begun }) if begun == *origin => Ok(true),
        Some(Mark { done: false, .. }) => Err(MoveFault::OtherSource),
        Some(Mark { done: true, .. }) => Err(MoveFault::NotEmpty),
        None if target.is_empty().await? => Ok(false),
        None => Err(MoveFault::NotEmpty),
    }
}

/// Moves a deployment, or goes on with it, and tells about every page how far it is. The source stays as it is.
///
/// Ended half-way, even by a crash, it can be run again.
///
/// # Errors
/// As [`MoveFault`] has them. After `SourceChanged`, `Differs` and `Store` the target keeps its mark.
pub async fn relocate(
    source: &dyn Transfer,
    target: &dyn Transfer,
    told: &mut (dyn FnMut(Stage, &Sums) + Send),
) -> Result<Moved, MoveFault> {
    let (origin, _) = check_source(source).await?;
    if !check_target(target, &origin).await? {
        target.begin(&origin).await?;
    }
    let copied = read(source, Some(target), &mut |sums| told(Stage::Copying, sums)).await?;
    let there = read(target, None, &mut |sums| told(Stage::ReadingTarget, sums)).await?;
    let now = read(source, None, &mut |sums| told(Stage::ReadingSource, sums)).await?;
    let moved = Moved { source: now, target: there };
    if copied != now {
        return Err(MoveFault::SourceChanged(Box::new(moved)));
    }
    if there != now {
        return Err(MoveFault::Differs(Box::new(moved)));
    }
    again(|| target.end()).await?;
    Ok(moved)
}

/// Reads all of a store, page by page, and copies it where that is asked for.
async fn read(
    store: &dyn Transfer,
    copy_to: Option<&dyn Transfer>,
    told: &mut (dyn FnMut(&Sums) + Send),
) -> Result<Sums, StoreError> {
    let mut sums = Sums::default();
    let mut after = None;
    loop {
        let page = again(|| store.list_workspaces(after.as_ref(), PAGE)).await?;
        for workspace in &page.items {
            sums.workspaces.add(&codec::write_workspace(workspace)?);
        }
        if let Some(target) = copy_to {
            again(|| target.put_workspaces(&page.items)).await?;
        }
        after = page.next;
        if after.is_none() {
            break;
        }
    }
    let mut after = None;
    loop {
        let page = again(|| store.list_users(None, after, PAGE)).await?;
        let calls: Vec<_> = page.items.into_iter().map(|user| account(store, user)).collect();
        let accounts: Vec<Account> =
            futures_util::stream::iter(calls).buffered(SIDE_BY_SIDE).try_collect().await?;
        if let Some(target) = copy_to {
            again(|| target.put_accounts(&accounts)).await?;
        }
        for account in &accounts {
            sums.add_account(account)?;
        }
        told(&sums);
        after = page.next;
        if after.is_none() {
            break;
        }
    }
    let (origin, ring) = (again(|| store.origin()).await?, again(|| store.key_ring()).await?);
    if let (Some(target), Some(origin), Some(ring)) = (copy_to, &origin, &ring) {
        again(|| target.put_foundation(ring, origin)).await?;
    }
    if let Some(ring) = ring {
        sums.ring.add(&codec::write_ring(&ring)?);
    }
    if let Some(Origin { admin, seeded }) = origin {
        let row = BootstrapRow { admin: admin.as_uuid(), done_ms: seeded.as_millis() };
        sums.seeding.add(&codec::write_bootstrap(row)?);
    }
    Ok(sums)
}

/// A user with the keys that may be alive.
async fn account(store: &dyn Transfer, user: User) -> Result<Account, StoreError> {
    let (mut keys, mut after) = (Vec::new(), None);
    loop {
        let page = again(|| store.list_api_keys(user.id, after, PAGE)).await?;
        keys.extend(page.items.into_iter().filter(|(key, _)| key.of_live_epoch(&user)));
        after = page.next;
        if after.is_none() {
            return Ok(Account { user, keys });
        }
    }
}

/// Does what can be repeated, until the store answers or has not for long.
async fn again<T, F>(call: impl Fn() -> F) -> Result<T, StoreError>
where
    F: Future<Output = Result<T, StoreError>>,
{
    let mut tried = 1;
    loop {
        match call().await {
            Err(StoreError::Unavailable(_) | StoreError::OutcomeUnknown(_)) if tried < TRIES => {
                tried += 1;
                tokio::time::sleep(PAUSE).await;
            }
            outcome => return outcome,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sum_knows_every_row_and_how_often_but_no_order() {
        let sum = |rows: &[&[u8]]| {
            let mut sum = Sum::default();
            rows.iter().for_each(|row| sum.add(row));
            sum
        };
        assert_eq!(sum(&[b"a", b"b", b"c"]), sum(&[b"c", b"a", b"b"]));
        for other in [&[b"a".as_slice(), b"b"][..], &[b"a", b"b", b"b"], &[b"a", b"bc", b""]] {
            assert_ne!(sum(&[b"a", b"b", b"c"]).words, sum(other).words, "{other:?}");
        }
        assert_eq!(
            sum(&[b"abc"]).to_string(),
            "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad"
        );
    }
}
