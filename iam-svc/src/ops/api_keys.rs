//! API keys: made, listed, revoked.

use iam_schema::changes::ChangeKind;
use iam_schema::decisions::capability;
use iam_schema::{KeyId, OperationName, Timestamp, UserId, WorkspaceId};

use super::{Call, Done, GONE, Listed, PageRequest, Target, Who, load, may_change, paging};
use crate::crypto::api_keys;
use crate::ctx::Ctx;
use crate::domain::api_keys::{ApiKey, MAX_KEYS_PER_USER};
use crate::error::{Denial, Noun, OpError};
use crate::store::InsertApiKey;

#[derive(Debug)]
pub struct CreateApiKey {
    /// On the API plane the actor's if absent.
    pub user: Option<UserId>,
    pub name: String,
    pub expires: Option<Timestamp>,
    pub workspace: Option<WorkspaceId>,
}

/// Makes a key; its text is shown once.
///
/// # Errors
/// `NotPermitted`, `NotFound`, `Disabled` for the owner, `Invalid` for a time that does not lie ahead or a key
/// too many, `Taken` for the name.
///
/// Source: protocol section 3, create-api-key.
pub async fn create_api_key(ctx: &Ctx, call: &mut Call, req: CreateApiKey) -> Result<Done, OpError> {
    if req.expires.is_some_and(|expires| expires <= call.now) {
        return Err(OpError::invalid("key.expires", "must lie ahead"));
    }
    let owner = call.subject_or_oneself(req.user, "key.user_id")?;
    let owner = key_owner(ctx, call, owner, req.workspace.as_ref()).await?;
    may_change(ctx, call, &owner.user)?;
    if !owner.effectively_enabled() {
        return Err(OpError::Disabled(Noun::User));
    }

    let plaintext = api_keys::generate(&ctx.entropy);
    let key = ApiKey {
        id: ctx.entropy.key_id(call.now),
        hash: api_keys::hash(plaintext.expose()),
        user: owner.user.id,
        workspace: owner.user.workspace,
        key_epoch: owner.user.key_epoch,
        name: req.name,
        prefix: api_keys::prefix(plaintext.expose()).to_owned(),
        expires: req.expires,
        created: call.now,
    };
    let answer = ctx.store.insert_api_key(&key).await;
    match call.written(ChangeKind::ApiKey, &key.id, 1, answer)? {
        InsertApiKey::Inserted => {
            call.changed_key(&key);
            Ok(Done::KeyCreated { plaintext, key })
        }
        InsertApiKey::NameTaken => Err(OpError::Taken(Noun::KeyName)),
        InsertApiKey::TooMany => {
            Err(OpError::invalid("key", format!("the user has {MAX_KEYS_PER_USER} keys, the most allowed")))
        }
        InsertApiKey::HashTaken => Err(OpError::Internal("a generated key exists already".into())),
    }
}

/// The owner of keys that the caller may manage: oneself with `keys:self`, anybody in reach with `keys:admin`.
async fn key_owner(
    ctx: &Ctx,
    call: &mut Call,
    owner: UserId,
    workspace: Option<&WorkspaceId>,
) -> Result<Target, OpError> {
    if !call.caller.is(owner) {
        return super::target(ctx, call, capability::KEYS_ADMIN, &Who::Id(owner), workspace).await;
    }
    call.subject = Some(owner);
    require_own(ctx, call)?;
    let target = load(ctx, &Who::Id(owner)).await?.ok_or(Denial::ActorNotLive)?;
    super::in_workspace(&target.user, workspace)?;
    Ok(target)
}

/// Either capability is enough for one's own keys.
fn require_own(ctx: &Ctx, call: &Call) -> Result<(), Denial> {
    let own = call.caller.require(&ctx.policy, capability::KEYS_SELF);
    own.or_else(|_| call.caller.require(&ctx.policy, capability::KEYS_ADMIN))
}

/// A page of a user's keys. Keys that were ended with all the others are not shown.
///
/// # Errors
/// `NotPermitted`, `NotFound`, `Invalid` for size or token.
pub async fn list_api_keys(
    ctx: &Ctx,
    call: &mut Call,
    user: Option<UserId>,
    workspace: Option<WorkspaceId>,
    page: PageRequest,
) -> Result<Done, OpError> {
    const LIST: OperationName = OperationName::ListApiKeys;
    let user = call.subject_or_oneself(user, "user_id")?;
    let filter = user.to_string();
    let (limit, after) = (page.limit()?, page.after::<KeyId>(LIST, &filter)?);
    let owner = key_owner(ctx, call, user, workspace.as_ref()).await?;
    // Enabling the user again does not bring keys back, so a disabled user has none.
    if owner.user.workspace_epoch != owner.home.epoch {
        return Ok(Done::Keys(Listed { items: Vec::new(), next: None }));
    }

    let mut found = ctx.store.list_api_keys(user, after, limit).await?;
    let fitting = paging::fitting(found.items.iter().map(|(key, _)| [key.name.as_str()]));
    if fitting < found.items.len() {
        found.items.truncate(fitting);
        found.next = found.items.last().map(|(key, _)| key.id);
    }
    found.items.retain(|(key, _)| key.of_live_epoch(&owner.user));
    let next = found.next.map(|after| paging::token(LIST, &filter, &after));
    Ok(Done::Keys(Listed { items: found.items, next }))
}

/// Ends a key, at once.
///
/// # Errors
/// `NotPermitted`, `NotFound`.
pub async fn revoke_api_key(
    ctx: &Ctx,
    call: &mut Call,
    id: KeyId,
    workspace: Option<WorkspaceId>,
) -> Result<Done, OpError> {
    require_own(ctx, call)?;
    let key = ctx.store.api_key(id).await?;
    let owner = match &key {
        Some(key) => load(ctx, &Who::Id(key.user)).await?,
        None => None,
    };
    let (Some(key), Some(owner)) = (key, owner) else {
        return Err(super::absent(ctx, call, capability::KEYS_ADMIN, Noun::ApiKey));
    };
    call.subject = Some(owner.user.id);
    call.place = Some(owner.user.workspace.clone());
    if !call.caller.is(owner.user.id) {
        call.caller.require(&ctx.policy, capability::KEYS_ADMIN)?;
        call.caller.require_in(&ctx.policy, capability::KEYS_ADMIN, &owner.user.workspace)?;
        may_change(ctx, call, &owner.user)?;
    }
    super::in_workspace(&owner.user, workspace.as_ref())?;
    // One that ended with all of the user's keys, or with the workspace, is as absent as one that was revoked.
    if !key.of_live_epoch(&owner.user) || owner.user.workspace_epoch != owner.home.epoch {
        return Err(super::absent(ctx, call, capability::KEYS_ADMIN, Noun::ApiKey));
    }
    let answer = ctx.store.delete_api_key(&key).await;
    // A key that somebody else revoked meanwhile is just as gone.
    call.written(ChangeKind::ApiKey, &id, 1, answer)?;
    call.changed(ChangeKind::ApiKey, &id, GONE);
    Ok(Done::Nothing)
}
