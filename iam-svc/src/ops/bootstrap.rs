//! How a deployment begins.

use iam_schema::changes::ChangeKind;
use iam_schema::decisions::role;
use iam_schema::{Secret, Timestamp, WorkspaceId};

use super::{Call, Done};
use crate::crypto::{api_keys, seal};
use crate::ctx::{BootstrapMode, Ctx};
use crate::domain::api_keys::ApiKey;
use crate::domain::key_ring::KeyRing;
use crate::domain::passwords;
use crate::domain::policy::RoleName;
use crate::domain::users::User;
use crate::domain::workspaces::Workspace;
use crate::error::{AuthFailure, OpError};
use crate::store::{Seed, SeedState, Seeded};

/// What the seeding makes. Source: protocol section 7.
pub const WORKSPACE: &str = "default";
pub const ADMIN: &str = "admin";
pub const KEY_NAME: &str = "bootstrap";

/// Seeds an empty deployment and returns the admin's key, once.
///
/// # Errors
/// `AuthFailed`, the same whatever the cause: token mode, already done, another attempt under way.
pub async fn bootstrap(ctx: &Ctx, call: &mut Call) -> Result<Done, OpError> {
    if !available(ctx).await? {
        return Err(AuthFailure::BootstrapRefused.into());
    }
    let key = api_keys::generate(&ctx.entropy);
    match seed(ctx, call, &key).await? {
        Seeded::Seeded(admin) => Ok(Done::Seeded { admin, key }),
        Seeded::AlreadyDone | Seeded::InProgress => Err(AuthFailure::BootstrapRefused.into()),
    }
}

/// Whether `bootstrap` would seed. No side effect.
pub async fn bootstrap_status(ctx: &Ctx) -> Result<Done, OpError> {
    available(ctx).await.map(Done::BootstrapStatus)
}

async fn available(ctx: &Ctx) -> Result<bool, OpError> {
    match ctx.settings.bootstrap {
        BootstrapMode::Token(_) => Ok(false),
        BootstrapMode::Bootstrap => Ok(ctx.store.seed_state().await? != SeedState::Done),
    }
}

/// In token mode, seeds an empty store with the given key; otherwise does nothing. Whether this call did it.
///
/// # Errors
/// `Unavailable`, also while another replica's attempt is under way; `Internal`.
pub async fn seed_at_start(ctx: &Ctx, call: &mut Call) -> Result<Option<Done>, OpError> {
    let BootstrapMode::Token(token) = &ctx.settings.bootstrap else { return Ok(None) };
    if ctx.store.seed_state().await? == SeedState::Done {
        return Ok(None);
    }
    match seed(ctx, call, token).await? {
        Seeded::Seeded(admin) => Ok(Some(Done::Seeded { admin, key: token.clone() })),
        Seeded::AlreadyDone => Ok(None),
        Seeded::InProgress => Err(OpError::Unavailable("another replica is seeding".into())),
    }
}

async fn seed(ctx: &Ctx, call: &mut Call, key: &Secret) -> Result<Seeded, OpError> {
    let seed = new_seed(ctx, call.now, key).await?;
    let answer = ctx.store.seed(&seed, call.now).await;
    let outcome = call.written(ChangeKind::User, &seed.admin.id, 1, answer)?;
    if let Seeded::Seeded(admin) = outcome {
        call.subject = Some(admin);
        call.changed_workspace(&seed.workspace);
        call.changed(ChangeKind::User, &admin, 1);
        call.changed_key(&seed.key);
        for key in &seed.ring.keys {
            call.changed(ChangeKind::SigningKey, &key.kid, 1);
        }
    }
    Ok(outcome)
}

/// The role that makes a root admin: `admin`, unless the policy file has only others.
pub(super) fn admin_role(ctx: &Ctx) -> Result<RoleName, OpError> {
    let roots = ctx.policy.root_roles();
    let named = roots.iter().find(|name| name.as_str() == role::ADMIN);
    let any = named.or_else(|| roots.first()).cloned();
    any.ok_or_else(|| OpError::Internal("the policy has no root role".into()))
}

/// A name of ours that does not parse would be a bug.
pub(super) fn internal<E>(what: &'static str) -> impl Fn(E) -> OpError {
    move |_| OpError::Internal(format!("{what} is not well formed"))
}

/// The workspace that every deployment begins with, and that is never deleted.
pub(super) fn first_workspace() -> Result<WorkspaceId, OpError> {
    WORKSPACE.parse().map_err(internal("the first workspace's id"))
}

async fn new_seed(ctx: &Ctx, now: Timestamp, key: &Secret) -> Result<Seed, OpError> {
    let workspace = Workspace::new(first_workspace()?, "Default".to_owned(), true, now);
    let admin_role = admin_role(ctx)?;
    // Nobody knows this password; it exists so that the admin is an ordinary user from the start.
    let unknown = passwords::temporary_password(&ctx.entropy.bytes());
    let admin = User {
        id: ctx.entropy.user_id(now),
        version: 1,
        workspace: workspace.id.clone(),
        workspace_epoch: workspace.epoch,
        username: ADMIN.parse().map_err(internal("the admin's username"))?,
        name: "Administrator".to_owned(),
        email: String::new(),
        roles: [admin_role].into(),
        enabled: true,
        must_change_password: true,
        password: Some(super::sessions::new_hash(ctx, unknown).await?),
        temporary_until: None,
        key_epoch: 0,
        token_epoch: 0,
        created: now,
    };
    let key = ApiKey {
        id: ctx.entropy.key_id(now),
        hash: api_keys::hash(key.expose()),
        user: admin.id,
        workspace: workspace.id.clone(),
        key_epoch: admin.key_epoch,
        name: KEY_NAME.to_owned(),
        prefix: api_keys::prefix(key.expose()).to_owned(),
        expires: None,
        created: now,
    };
    let fresh =
        || seal::fresh_key(&ctx.entropy, &ctx.kek).map_err(|error| OpError::Internal(error.to_string()));
    let ring = KeyRing::new(fresh()?, fresh()?, now);
    Ok(Seed { workspace, admin, key, ring })
}
