//! From a credential to an identity, and from questions to decisions, out of memory.
//!
//! Everything here is synchronous: what is not known is named as a [`Need`], and whoever may wait loads it and
//! asks again. So there is one code for the warm path and for the cold one.

use std::cell::RefCell;
use std::collections::BTreeSet;
use std::sync::Arc;

use iam_schema::changes::{ChangeKind, DELETED, Floors};
use iam_schema::tokens::{Expect, TokenError, change_password_audience};
use iam_schema::{KeyId, Secret, Timestamp, UserId, WorkspaceId};
use sha2::{Digest, Sha256};

use crate::cache::{Cache, Lookup, Ticket, TokenHash, VerifiedToken};
use crate::crypto::api_keys::{self, CredentialKind};
use crate::crypto::tokens::verify_keys;
use crate::ctx::Ctx;
use crate::domain::api_keys::{ApiKey, KeyHash};
use crate::domain::decision::{Principal, WorkspaceState};
use crate::domain::key_ring::KeyRing;
use crate::domain::policy::RoleName;
use crate::error::{AuthFailure, OpError};

/// Something that must be loaded before an answer can be given.
#[derive(Debug, Clone)]
pub enum Need {
    Principal(UserId),
    Workspace(WorkspaceId),
    Key(KeyHash),
    Token(TokenHash, Secret),
    /// The user of callers without a credential.
    Anonymous,
}

/// Why an answer could not be given.
#[derive(Debug)]
pub enum Stop {
    /// Not from memory; [`View::needs`] says what is missing.
    Missing,
    Failed(OpError),
}

impl From<OpError> for Stop {
    fn from(error: OpError) -> Self {
        Stop::Failed(error)
    }
}

impl From<AuthFailure> for Stop {
    fn from(failure: AuthFailure) -> Self {
        Stop::Failed(failure.into())
    }
}

/// By what a caller was recognised.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Source {
    ApiKey,
    Jwt,
    Anonymous,
}

impl Source {
    /// As it stands in `resolved_source`.
    pub const fn as_str(self) -> &'static str {
        match self {
            Source::ApiKey => "api-key",
            Source::Jwt => "jwt",
            Source::Anonymous => "anonymous",
        }
    }
}

/// Who somebody is, alive at the time of asking.
#[derive(Debug, Clone)]
pub struct Identity {
    pub principal: Arc<Principal>,
    /// The token's claim, else the home workspace.
    pub workspace: WorkspaceId,
    pub source: Source,
    pub key: Option<KeyId>,
    pub expires: Option<Timestamp>,
    /// Good for whoami and change-password alone.
    pub change_password_only: bool,
}

impl Identity {
    /// The roles, sorted.
    pub fn roles(&self) -> &BTreeSet<RoleName> {
        &self.principal.roles
    }
}

/// The most distinct things one request may have to load.
const MAX_NEEDS: usize = 1100;

/// What one request sees: the cache, and what was loaded for it, so far as nothing was invalidated since.
#[derive(Debug)]
pub struct View<'v> {
    pub ctx: &'v Ctx,
    pub cache: &'v Cache,
    pub now: Timestamp,
    pub now_ms: i64,
    floors: Option<&'v Floors>,
    loaded: Loaded,
    needs: RefCell<Vec<Need>>,
}

#[derive(Debug, Default)]
struct Loaded {
    principals: Vec<(UserId, Ticket, Option<Arc<Principal>>)>,
    workspaces: Vec<(WorkspaceId, Ticket, WorkspaceState)>,
    keys: Vec<(KeyHash, Ticket, Option<Arc<ApiKey>>)>,
    tokens: Vec<(TokenHash, Ticket, Result<Arc<VerifiedToken>, AuthFailure>)>,
    anonymous: Option<UserId>,
}

impl<'v> View<'v> {
    /// A view with nothing loaded yet.
    pub fn new(ctx: &'v Ctx, cache: &'v Cache, now: Timestamp, now_ms: i64) -> Self {
        Self { ctx, cache, now, now_ms, floors: None, loaded: Loaded::default(), needs: RefCell::default() }
    }

    /// The view of a caller who has seen these versions: what is gone by them is refused, whatever is cached.
    ///
    /// Source: protocol section 8, "an answer that rests on it is refused".
    pub fn after(self, floors: &'v Floors) -> Self {
        Self { floors: Some(floors), ..self }
    }

    fn gone(&self, kind: ChangeKind, id: &impl ToString) -> bool {
        let Some(floors) = self.floors else { return false };
        let id = id.to_string();
        floors.iter().any(|floor| floor.kind == kind && floor.version == DELETED && floor.id == id)
    }

    /// Loads what was missing.
    ///
    /// # Errors
    /// `Unavailable` when the store does not answer; nothing is decided then.
    pub async fn load_needs(&mut self) -> Result<(), OpError> {
        for need in self.needs.take() {
            match need {
                Need::Principal(id) => {
                    let (found, ticket) = self.cache.load_principal(self.ctx, id, 0).await?;
                    self.loaded.principals.push((id, ticket, found));
                }
                Need::Workspace(id) => {
                    let (found, ticket) = self.cache.load_workspace(self.ctx, &id, 0).await?;
                    self.loaded.workspaces.push((id, ticket, found));
                }
                Need::Key(hash) => {
                    let (found, ticket) = self.cache.load_key(self.ctx, &hash).await?;
                    self.loaded.keys.push((hash, ticket, found));
                }
                Need::Token(hash, text) => {
                    let verify = |ring: &KeyRing| verify_token(self.ctx, ring, &text, self.now);
                    let (found, ticket) = self.cache.load_token(self.ctx, hash, verify).await?;
                    self.loaded.tokens.push((hash, ticket, found));
                }
                Need::Anonymous => {
                    if let Some(name) = &self.ctx.settings.anonymous_user {
                        let user = self.ctx.store.user_by_name(&name.key()).await?;
                        self.loaded.anonymous = Some(user.ok_or(AuthFailure::NoAnonymousUser)?.id);
                    }
                }
            }
        }
        Ok(())
    }

    fn miss<T>(&self, need: Need) -> Result<T, Stop> {
        let mut needs = self.needs.borrow_mut();
        if needs.len() < MAX_NEEDS {
            needs.push(need);
        }
        Err(Stop::Missing)
    }

    fn loaded<'l, K: PartialEq, V>(&self, list: &'l [(K, Ticket, V)], key: &K) -> Option<&'l V> {
        // What was loaded last counts: what was loaded before is there no more.
        let found = list.iter().rev().find(|(known, ..)| known == key);
        found.filter(|(_, ticket, _)| self.cache.still(*ticket)).map(|(_, _, value)| value)
    }

    /// A user as decisions see one; `None` for one who does not exist.
    pub fn principal(&self, id: UserId) -> Result<Option<Arc<Principal>>, Stop> {
        let found: Lookup<Arc<Principal>> = match self.loaded(&self.loaded.principals, &id) {
            Some(loaded) => Some(loaded.clone()),
            None => self.cache.principal(id, self.now_ms),
        };
        found.map_or_else(|| self.miss(Need::Principal(id)), Ok)
    }

    /// The state of a workspace by id.
    pub fn workspace(&self, id: &WorkspaceId) -> Result<WorkspaceState, Stop> {
        let found = match self.loaded(&self.loaded.workspaces, id) {
            Some(loaded) => Some(*loaded),
            None => self.cache.workspace(id, self.now_ms),
        };
        found.map_or_else(|| self.miss(Need::Workspace(id.clone())), Ok)
    }

    /// The state of whatever workspace a text names: none, if it is no workspace id.
    pub fn workspace_named(&self, text: &str) -> Result<WorkspaceState, Stop> {
        match text.parse::<WorkspaceId>() {
            Ok(id) => self.workspace(&id),
            Err(_) => Ok(WorkspaceState::of(None)),
        }
    }

    /// A user and whether they are effectively enabled.
    pub fn alive(&self, id: UserId) -> Result<Option<(Arc<Principal>, bool)>, Stop> {
        let Some(principal) = self.principal(id)? else { return Ok(None) };
        let home = self.workspace(&principal.workspace)?;
        let enabled = principal.effectively_enabled(home);
        Ok(Some((principal, enabled)))
    }

    /// Whose a credential is, liveness included. A token for changing the password passes, marked as such.
    ///
    /// # Errors
    /// `AuthFailed`, with the real reason.
    pub fn identify(&self, credential: &Secret) -> Result<Identity, Stop> {
        if credential.is_empty() {
            return Err(AuthFailure::NoCredential.into());
        }
        match api_keys::credential_kind(credential.expose()) {
            CredentialKind::ApiKey => self.identify_key(credential),
            CredentialKind::Jwt => self.identify_token(credential),
        }
    }

    /// Whose an API key is.
    ///
    /// # Errors
    /// `AuthFailed`, with the real reason.
    pub fn identify_key(&self, text: &Secret) -> Result<Identity, Stop> {
        let hash = api_keys::hash(text.expose());
        let found = match self.loaded(&self.loaded.keys, &hash) {
            Some(loaded) => Some(loaded.clone()),
            None => self.cache.key(&hash, self.now_ms),
        };
        let key = match found {
            Some(key) => key.ok_or(AuthFailure::UnknownKey)?,
            None => return self.miss(Need::Key(hash)),
        };
        if self.cache.revoked(key.id) || self.gone(ChangeKind::ApiKey, &key.id) {
            return Err(AuthFailure::KeyRevoked.into());
        }
        if key.expired(self.now) {
            return Err(AuthFailure::KeyExpired.into());
        }
        let principal = self.live(key.user, |owner| {
            if owner.key_epoch == key.key_epoch { Ok(()) } else { Err(AuthFailure::KeyRevoked) }
        })?;
        Ok(Identity {
            workspace: principal.workspace.clone(),
            principal,
            source: Source::ApiKey,
            key: Some(key.id),
            expires: key.expires,
            change_password_only: false,
        })
    }

    fn identify_token(&self, text: &Secret) -> Result<Identity, Stop> {
        let hash: TokenHash = Sha256::digest(text.expose().as_bytes()).into();
        let found = match self.loaded(&self.loaded.tokens, &hash) {
            Some(loaded) => Some(loaded.clone()),
            None => self.cache.token(&hash, self.now_ms),
        };
        let token = match found {
            Some(token) => token?,
            None => return self.miss(Need::Token(hash, text.clone())),
        };
        if self.gone(ChangeKind::SigningKey, &token.kid) {
            return Err(AuthFailure::BadToken.into());
        }
        let claims = &token.claims;
        claims.check_times(self.now).map_err(failure)?;
        let principal = self.live(claims.sub, |owner| {
            if owner.token_epoch == claims.epoch { Ok(()) } else { Err(AuthFailure::TokenRevoked) }
        })?;
        Ok(Identity {
            principal,
            workspace: claims.workspace.clone(),
            source: Source::Jwt,
            key: None,
            expires: Some(claims.expires()),
            change_password_only: token.change_password_only,
        })
    }

    fn live(
        &self,
        owner: UserId,
        epoch: impl FnOnce(&Principal) -> Result<(), AuthFailure>,
    ) -> Result<Arc<Principal>, Stop> {
        let (principal, enabled) = self.alive(owner)?.ok_or(AuthFailure::UnknownUser)?;
        epoch(&principal)?;
        if enabled { Ok(principal) } else { Err(AuthFailure::UserDisabled.into()) }
    }

    /// The identity of callers without a credential.
    ///
    /// # Errors
    /// `AuthFailed` unless an anonymous user is configured and alive.
    pub fn anonymous(&self) -> Result<Identity, Stop> {
        if self.ctx.settings.anonymous_user.is_none() {
            return Err(AuthFailure::NoAnonymousUser.into());
        }
        let Some(id) = self.loaded.anonymous else { return self.miss(Need::Anonymous) };
        let principal = self.live(id, |_| Ok(()))?;
        // Checked at each use: who was none at the start may have been made one since.
        if !principal.roles.is_disjoint(&self.ctx.policy.root_roles()) {
            tracing::error!(user = %id, "the anonymous user is a root admin: refused");
            return Err(AuthFailure::NoAnonymousUser.into());
        }
        Ok(Identity {
            workspace: principal.workspace.clone(),
            principal,
            source: Source::Anonymous,
            key: None,
            expires: None,
            change_password_only: false,
        })
    }
}

/// Verifies a token against the ring, for its ordinary purpose or for changing the password.
fn verify_token(
    ctx: &Ctx,
    ring: &KeyRing,
    text: &Secret,
    now: Timestamp,
) -> Result<VerifiedToken, AuthFailure> {
    let keys = verify_keys(ring, now).map_err(|error| {
        tracing::error!(%error, "the key ring cannot be used");
        AuthFailure::BadToken
    })?;
    let (claims, kid) = keys.signed_claims(text.expose(), now).map_err(failure)?;
    let audience = ctx.settings.audience.as_str();
    let check = |audience: &str| claims.check(&Expect { issuer: &ctx.settings.issuer, audience, now });
    let change_password_only = match check(audience) {
        Ok(()) => false,
        Err(TokenError::WrongAudience) => {
            check(&change_password_audience(audience)).map_err(failure)?;
            true
        }
        Err(error) => return Err(failure(error)),
    };
    Ok(VerifiedToken { claims, kid, change_password_only })
}

fn failure(error: TokenError) -> AuthFailure {
    match error {
        TokenError::Expired => AuthFailure::TokenExpired,
        TokenError::Malformed
        | TokenError::WrongAlgorithm
        | TokenError::WrongType
        | TokenError::ForbiddenHeader
        | TokenError::UnknownKid
        | TokenError::BadSignature
        | TokenError::WrongIssuer
        | TokenError::WrongAudience
        | TokenError::NotYet => AuthFailure::BadToken,
    }
}
