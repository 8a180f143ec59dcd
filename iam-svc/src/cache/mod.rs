//! What is answered from memory: users as decisions see them, keys, verified tokens, workspace states.
//!
//! Every entry is bounded in number and in age. A change event drops what it names; a value read before an
//! invalidation is never cached after it, nor used (see [`generation`]). The highest version seen of each id
//! is remembered, so that a store that answers with something older is asked again.

mod generation;

use std::hash::{BuildHasher, Hash, RandomState};
use std::sync::Arc;

use iam_schema::changes::{Change, ChangeKind, DELETED, Followed, Highest};
use iam_schema::tokens::Claims;
use iam_schema::{KeyId, KeyKid, UserId, WorkspaceId};
use quick_cache::sync::Cache as Bounded;

pub use generation::{Generation, Ticket};

use self::sync::atomic::{AtomicBool, Ordering};
use self::sync::{PoisonError, RwLock};
use crate::ctx::Ctx;
use crate::domain::api_keys::{ApiKey, KeyHash};
use crate::domain::decision::{Principal, WorkspaceState};
use crate::error::{AuthFailure, OpError};
use crate::store::Read;

/// In unit tests a scheduler decides what happens between any two steps of these: a cache can be used there only
/// inside of it, see `model.rs`.
mod sync {
    #[cfg(test)]
    pub use shuttle::sync::{Mutex, MutexGuard, PoisonError, RwLock, atomic};
    #[cfg(not(test))]
    pub use std::sync::{Mutex, MutexGuard, PoisonError, RwLock, atomic};
}

/// How long an entry lives, in milliseconds: the bound on staleness if every event were lost.
pub const TTL_MS: i64 = 60_000;
/// How long an absence lives, in milliseconds.
pub const ABSENT_TTL_MS: i64 = 5_000;
/// The most users, keys and tokens held; at about 500 bytes each, some 100 MB when all are full.
const MOST: usize = 100_000;
/// The most workspaces held.
const MOST_WORKSPACES: usize = 20_000;
/// The most absences held of each kind, apart from what exists, so that random keys push nothing out.
const MOST_ABSENT: usize = 10_000;
/// How often a fill is tried anew when an invalidation came in between.
const FILL_TRIES: usize = 5;

/// The SHA-256 of a token's text.
pub type TokenHash = [u8; 32];

/// A token whose signature was verified.
#[derive(Debug)]
pub struct VerifiedToken {
    pub claims: Claims,
    /// The key that signed it.
    pub kid: KeyKid,
    /// Whether it is good for changing the password alone.
    pub change_password_only: bool,
}

#[derive(Debug, Clone)]
struct Timed<T> {
    value: T,
    filled_ms: i64,
}

/// The caches of one replica, shared by all its threads.
#[derive(Debug)]
pub struct Cache {
    principals: Bounded<UserId, Timed<Arc<Principal>>>,
    absent_users: Bounded<UserId, Timed<()>>,
    workspaces: Bounded<WorkspaceId, Timed<WorkspaceState>>,
    keys: Bounded<KeyHash, Timed<Arc<ApiKey>>>,
    /// Under which hash a cached key lies: events name keys by id. It holds more than there are keys, so that
    /// what it lets go of was let go of there too.
    hashes: Bounded<KeyId, KeyHash>,
    absent_keys: Bounded<KeyHash, Timed<()>>,
    tokens: Bounded<TokenHash, Timed<Arc<VerifiedToken>>>,
    bad_tokens: Bounded<TokenHash, Timed<AuthFailure>>,
    generation: Generation,
    hasher: RandomState,
    highest: RwLock<Highest>,
    /// Whether any key was revoked lately; while not, nothing needs to be looked up.
    revoked_any: AtomicBool,
    /// Some connection is not sure that it missed nothing: nothing cached is used.
    unsettled: AtomicBool,
    fills: [tokio::sync::Mutex<()>; 64],
}

/// What was found of something: not known here, known to be absent, or there.
pub type Lookup<T> = Option<Option<T>>;

impl Default for Cache {
    fn default() -> Self {
        Self {
            principals: Bounded::new(MOST),
            absent_users: Bounded::new(MOST_ABSENT),
            workspaces: Bounded::new(MOST_WORKSPACES),
            keys: Bounded::new(MOST),
            hashes: Bounded::new(2 * MOST),
            absent_keys: Bounded::new(MOST_ABSENT),
            tokens: Bounded::new(MOST),
            bad_tokens: Bounded::new(MOST_ABSENT),
            generation: Generation::default(),
            hasher: RandomState::new(),
            highest: RwLock::default(),
            revoked_any: AtomicBool::new(false),
            unsettled: AtomicBool::new(false),
            fills: std::array::from_fn(|_| tokio::sync::Mutex::new(())),
        }
    }
}

impl Cache {
    fn fresh<T>(&self, entry: Option<Timed<T>>, ttl_ms: i64, now_ms: i64) -> Option<T> {
        let entry = entry.filter(|entry| now_ms - entry.filled_ms < ttl_ms)?;
        (!self.unsettled.load(Ordering::Acquire)).then_some(entry.value)
    }

    fn hash_of(&self, key: &impl Hash) -> u64 {
        self.hasher.hash_one(key)
    }

    /// A user, if known here.
    pub fn principal(&self, id: UserId, now_ms: i64) -> Lookup<Arc<Principal>> {
        match self.fresh(self.principals.get(&id), TTL_MS, now_ms) {
            Some(principal) => Some(Some(principal)),
            None => self.fresh(self.absent_users.get(&id), ABSENT_TTL_MS, now_ms).map(|()| None),
        }
    }

    /// The state of a workspace, if known here. Absence is a state too.
    pub fn workspace(&self, id: &WorkspaceId, now_ms: i64) -> Option<WorkspaceState> {
        let entry = self.workspaces.get(id);
        let exists = entry.as_ref().is_some_and(|entry| entry.value.exists);
        self.fresh(entry, if exists { TTL_MS } else { ABSENT_TTL_MS }, now_ms)
    }

    /// A key, if known here.
    pub fn key(&self, hash: &KeyHash, now_ms: i64) -> Lookup<Arc<ApiKey>> {
        match self.fresh(self.keys.get(hash), TTL_MS, now_ms) {
            Some(key) => Some(Some(key)),
            None => self.fresh(self.absent_keys.get(hash), ABSENT_TTL_MS, now_ms).map(|()| None),
        }
    }

    /// A token that was verified before, or refused.
    pub fn token(&self, hash: &TokenHash, now_ms: i64) -> Option<Result<Arc<VerifiedToken>, AuthFailure>> {
        match self.fresh(self.tokens.get(hash), TTL_MS, now_ms) {
            Some(token) => Some(Ok(token)),
            None => self.fresh(self.bad_tokens.get(hash), ABSENT_TTL_MS, now_ms).map(Err),
        }
    }

    /// Whether a key was revoked lately. Its cached record may outlive it; this does not.
    pub fn revoked(&self, id: KeyId) -> bool {
        self.revoked_any.load(Ordering::Acquire)
            && self.highest(ChangeKind::ApiKey, &id.to_string()) == DELETED
    }

    /// The highest version seen lately of an id, 0 if none.
    pub fn highest(&self, kind: ChangeKind, id: &str) -> u64 {
        self.highest.read().unwrap_or_else(PoisonError::into_inner).get(kind, id)
    }

    /// Whether what a ticket was drawn for was not invalidated since.
    pub fn still(&self, ticket: Ticket) -> bool {
        self.generation.still(ticket)
    }

    /// Remembers versions and drops what they name.
    pub fn drop_changed<'c>(&self, changes: impl IntoIterator<Item = &'c Change>, now_ms: i64) {
        for change in changes {
            {
                let mut highest = self.highest.write().unwrap_or_else(PoisonError::into_inner);
                highest.note(change.kind, &change.id, change.version, now_ms);
            }
            match change.kind {
                ChangeKind::User => {
                    if let Ok(id) = change.id.parse::<UserId>() {
                        self.generation.invalidate(self.hash_of(&id), || {
                            self.principals.remove(&id);
                            self.absent_users.remove(&id);
                        });
                    }
                }
                ChangeKind::Workspace => {
                    if let Ok(id) = change.id.parse::<WorkspaceId>() {
                        self.generation.invalidate(self.hash_of(&id), || {
                            self.workspaces.remove(&id);
                        });
                    }
                }
                // A new key was unknown to everybody, so nobody has cached its absence, but for a bootstrap
                // token; a revoked one is refused by its id; one that may have been revoked is read anew.
                ChangeKind::ApiKey => {
                    self.revoked_any.fetch_or(change.version == DELETED, Ordering::AcqRel);
                    self.generation.invalidate_all(|| {
                        self.absent_keys.clear();
                        if let Ok(id) = change.id.parse::<KeyId>()
                            && let Some((_, hash)) = self.hashes.remove(&id)
                        {
                            self.keys.remove(&hash);
                        }
                    });
                }
                // Rare, and every token rests on the ring.
                ChangeKind::SigningKey => self.generation.invalidate_all(|| {
                    self.tokens.clear();
                    self.bad_tokens.clear();
                }),
                ChangeKind::Unknown => self.drop_everything(),
            }
        }
    }

    /// Applies what following the events came to.
    pub fn follow(&self, followed: &Followed, now_ms: i64) {
        self.drop_changed(&followed.drop, now_ms);
        if followed.drop_all {
            self.drop_everything();
        }
    }

    /// Drops everything.
    pub fn drop_everything(&self) {
        self.generation.invalidate_all(|| {
            self.principals.clear();
            self.absent_users.clear();
            self.workspaces.clear();
            self.keys.clear();
            self.hashes.clear();
            self.absent_keys.clear();
            self.tokens.clear();
            self.bad_tokens.clear();
        });
    }

    /// Whether what is cached may be used at all.
    pub fn trust(&self, trusted: bool) {
        self.unsettled.store(!trusted, Ordering::Release);
    }

    /// One load at a time for what shares this hash: the others wait, and find the answer here.
    async fn turn(&self, hash: u64) -> Option<tokio::sync::MutexGuard<'_, ()>> {
        let lanes = u64::try_from(self.fills.len()).unwrap_or(1);
        let lane = usize::try_from(hash % lanes).ok().and_then(|lane| self.fills.get(lane))?;
        Some(lane.lock().await)
    }

    /// Loads a user, as new as anything seen of it, and as `at_least`.
    ///
    /// # Errors
    /// `Unavailable` when the store does not answer, or only with something older.
    pub async fn load_principal(
        &self,
        ctx: &Ctx,
        id: UserId,
        at_least: u64,
    ) -> Result<(Option<Arc<Principal>>, Ticket), OpError> {
        let hash = self.hash_of(&id);
        let _turn = self.turn(hash).await;
        for _ in 0..FILL_TRIES {
            let ticket = self.generation.begin(hash);
            let now_ms = ctx.clock.monotonic_ms();
            match self.principal(id, now_ms) {
                Some(Some(known)) if known.version >= at_least => return Ok((Some(known), ticket)),
                Some(None) if at_least == 0 => return Ok((None, ticket)),
                _ => {}
            }
            let floor = self.highest(ChangeKind::User, &id.to_string()).max(at_least);
            let mut user = ctx.store.user(id, Read::Ordinary).await?;
            if user.as_ref().map_or(DELETED, |user| user.version) < floor {
                user = ctx.store.user(id, Read::Serial).await?;
            }
            not_older(user.as_ref().map_or(DELETED, |user| user.version), floor)?;
            let principal = user.map(|user| Arc::new(Principal::new(&user, &ctx.policy)));
            let kept = self.generation.fill(ticket, || match &principal {
                Some(principal) => {
                    self.absent_users.remove(&id);
                    self.principals.insert(id, Timed { value: principal.clone(), filled_ms: now_ms });
                }
                None => {
                    // Known from before the deletion, and looked at first.
                    self.principals.remove(&id);
                    self.absent_users.insert(id, Timed { value: (), filled_ms: now_ms });
                }
            });
            if kept {
                return Ok((principal, ticket));
            }
        }
        Err(changing_too_fast())
    }

    /// Loads the state of a workspace, as new as anything seen of it, and as `at_least`.
    ///
    /// # Errors
    /// As [`Cache::load_principal`].
    pub async fn load_workspace(
        &self,
        ctx: &Ctx,
        id: &WorkspaceId,
        at_least: u64,
    ) -> Result<(WorkspaceState, Ticket), OpError> {
        let hash = self.hash_of(id);
        let _turn = self.turn(hash).await;
        for _ in 0..FILL_TRIES {
            let ticket = self.generation.begin(hash);
            let now_ms = ctx.clock.monotonic_ms();
            if let Some(known) = self.workspace(id, now_ms).filter(|known| known.version >= at_least) {
                return Ok((known, ticket));
            }
            let floor = self.highest(ChangeKind::Workspace, id.as_str()).max(at_least);
            let mut workspace = ctx.store.workspace(id, Read::Ordinary).await?;
            if workspace.as_ref().map_or(DELETED, |w| w.version) < floor {
                workspace = ctx.store.workspace(id, Read::Serial).await?;
            }
            not_older(workspace.as_ref().map_or(DELETED, |w| w.version), floor)?;
            let state = WorkspaceState::of(workspace.as_ref());
            let entry = Timed { value: state, filled_ms: now_ms };
            if self.generation.fill(ticket, || self.workspaces.insert(id.clone(), entry)) {
                return Ok((state, ticket));
            }
        }
        Err(changing_too_fast())
    }

    /// Loads a key.
    ///
    /// # Errors
    /// `Unavailable` when the store does not answer.
    pub async fn load_key(
        &self,
        ctx: &Ctx,
        hash: &KeyHash,
    ) -> Result<(Option<Arc<ApiKey>>, Ticket), OpError> {
        let lane = self.hash_of(hash);
        let _turn = self.turn(lane).await;
        for _ in 0..FILL_TRIES {
            let ticket = self.generation.begin(lane);
            let now_ms = ctx.clock.monotonic_ms();
            if let Some(known) = self.key(hash, now_ms) {
                return Ok((known, ticket));
            }
            let key = ctx.store.api_key_by_hash(hash).await?.map(Arc::new);
            let kept = self.generation.fill(ticket, || match &key {
                Some(key) => {
                    self.keys.insert(*hash, Timed { value: key.clone(), filled_ms: now_ms });
                    self.hashes.insert(key.id, *hash);
                }
                None => self.absent_keys.insert(*hash, Timed { value: (), filled_ms: now_ms }),
            });
            if kept {
                return Ok((key, ticket));
            }
        }
        Err(changing_too_fast())
    }

    /// Verifies a token against the ring, or finds that it was.
    ///
    /// # Errors
    /// `Unavailable` when the store does not answer.
    pub async fn load_token(
        &self,
        ctx: &Ctx,
        hash: TokenHash,
        verify: impl Fn(&crate::domain::key_ring::KeyRing) -> Result<VerifiedToken, AuthFailure>,
    ) -> Result<(Result<Arc<VerifiedToken>, AuthFailure>, Ticket), OpError> {
        let lane = self.hash_of(&hash);
        let _turn = self.turn(lane).await;
        for _ in 0..FILL_TRIES {
            let ticket = self.generation.begin(lane);
            let now_ms = ctx.clock.monotonic_ms();
            if let Some(known) = self.token(&hash, now_ms) {
                return Ok((known, ticket));
            }
            let verified = match ctx.store.key_ring().await? {
                Some(ring) => verify(&ring).map(Arc::new),
                None => Err(AuthFailure::NotSeeded),
            };
            let kept = self.generation.fill(ticket, || match &verified {
                Ok(token) => self.tokens.insert(hash, Timed { value: token.clone(), filled_ms: now_ms }),
                Err(failure) => self.bad_tokens.insert(hash, Timed { value: *failure, filled_ms: now_ms }),
            });
            if kept {
                return Ok((verified, ticket));
            }
        }
        Err(changing_too_fast())
    }

    /// Makes sure that what is known of an id is no older than a version that the caller has seen.
    ///
    /// The caller's word is not remembered: on the API plane anybody could shut a user out by claiming to have
    /// seen a high version.
    ///
    /// # Errors
    /// `Unavailable`, when the store has only something older; `Invalid` for an id that cannot be.
    ///
    /// Source: protocol section 8, `Iam-Min`.
    pub async fn meet(&self, ctx: &Ctx, floor: &Change) -> Result<(), OpError> {
        let bad = || OpError::invalid(iam_schema::subject::MIN, "names an id that cannot be");
        if self.meets(floor, ctx.clock.monotonic_ms()) {
            return Ok(());
        }
        match floor.kind {
            ChangeKind::User => {
                let id = floor.id.parse().map_err(|_| bad())?;
                self.load_principal(ctx, id, floor.version).await.map(drop)
            }
            ChangeKind::Workspace => {
                let id = floor.id.parse().map_err(|_| bad())?;
                self.load_workspace(ctx, &id, floor.version).await.map(drop)
            }
            // What rests on a key that is gone, this request refuses by itself: see `View::after`. Nothing is
            // dropped for the others, who would have to read anew as often as somebody says that a key is gone.
            ChangeKind::ApiKey => {
                let there = ctx.store.api_key(floor.id.parse().map_err(|_| bad())?).await?.is_some();
                not_older(if there { 1 } else { DELETED }, floor.version)
            }
            ChangeKind::SigningKey => {
                let ring = ctx.store.key_ring().await?;
                let there = ring.is_some_and(|ring| ring.keys.iter().any(|key| key.kid.as_str() == floor.id));
                not_older(if there { 1 } else { DELETED }, floor.version)
            }
            ChangeKind::Unknown => Err(bad()),
        }
    }

    /// What became of a change whose outcome was unknown: the record's version now. It is dropped from memory
    /// once more, since what was read in between may be from before the change surfaced.
    ///
    /// # Errors
    /// `Unavailable` while the store does not answer.
    pub async fn settled(&self, ctx: &Ctx, change: &Change) -> Result<Change, OpError> {
        let store = &ctx.store;
        let id = change.id.as_str();
        let version = match change.kind {
            ChangeKind::User => match id.parse() {
                Ok(id) => store.user(id, Read::Serial).await?.map_or(DELETED, |user| user.version),
                Err(_) => change.version,
            },
            ChangeKind::Workspace => match id.parse() {
                Ok(id) => store.workspace(&id, Read::Serial).await?.map_or(DELETED, |w| w.version),
                Err(_) => change.version,
            },
            ChangeKind::ApiKey => match id.parse() {
                Ok(id) => store.api_key(id).await?.map_or(DELETED, |_| 1),
                Err(_) => change.version,
            },
            ChangeKind::SigningKey => {
                let ring = store.key_ring().await?;
                let there = ring.is_some_and(|ring| ring.keys.iter().any(|key| key.kid.as_str() == id));
                if there { 1 } else { DELETED }
            }
            ChangeKind::Unknown => change.version,
        };
        let settled = Change { version, ..change.clone() };
        self.drop_changed([&settled], ctx.clock.monotonic_ms());
        Ok(settled)
    }

    /// Whether what is cached shows, by itself, that a floor is met.
    pub fn meets(&self, floor: &Change, now_ms: i64) -> bool {
        match floor.kind {
            ChangeKind::User => match floor.id.parse::<UserId>() {
                Ok(id) => match self.principal(id, now_ms) {
                    Some(Some(principal)) => principal.version >= floor.version,
                    Some(None) | None => false,
                },
                Err(_) => false,
            },
            ChangeKind::Workspace => match floor.id.parse::<WorkspaceId>() {
                Ok(id) => self
                    .workspace(&id, now_ms)
                    .is_some_and(|state| state.exists && state.version >= floor.version),
                Err(_) => false,
            },
            ChangeKind::ApiKey | ChangeKind::SigningKey => {
                self.highest(floor.kind, &floor.id) >= floor.version
            }
            ChangeKind::Unknown => false,
        }
    }
}

fn not_older(version: u64, floor: u64) -> Result<(), OpError> {
    if version < floor {
        Err(OpError::Unavailable("the store is behind a change already seen".into()))
    } else {
        Ok(())
    }
}

fn changing_too_fast() -> OpError {
    OpError::Unavailable("a record changes faster than it can be read".into())
}
