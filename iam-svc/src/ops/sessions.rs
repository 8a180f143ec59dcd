//! Logging in, and what the logged-in do about themselves.

use iam_schema::decisions::capability;
use iam_schema::subject::Plane;
use iam_schema::tokens::{CLIENT_ID, Claims, change_password_audience};
use iam_schema::{Secret, UserId, WorkspaceId};

use super::{Call, Done, Saved, TRIES, Target, Who, load, save_user, target_to_change};
use crate::crypto::passwords::Verdict;
use crate::crypto::tokens::Signer;
use crate::ctx::Ctx;
use crate::domain::passwords::{self, PasswordHash, WeakPassword};
use crate::domain::throttle::Permit;
use crate::domain::users::{User, Username};
use crate::domain::workspaces::Workspace;
use crate::error::{AuthFailure, Denial, Noun, OpError};
use crate::store::Read;

/// How long a token lives that is good for changing the password alone. Source: protocol section 5.
const CHANGE_PASSWORD_LIFETIME_S: i64 = 600;

#[derive(Debug)]
pub struct Login {
    /// As submitted: it need not be a username at all.
    pub username: String,
    pub password: Secret,
    pub workspace: Option<WorkspaceId>,
}

#[derive(Debug)]
pub struct ChangePassword {
    pub user: UserId,
    pub password: Secret,
    pub new_password: Secret,
}

/// Username and password to a token.
///
/// Every refusal costs one password hash and the same reads, and gives the same answer, whatever was wrong. Who must
/// change the password gets a token that is good for that alone.
///
/// # Errors
/// `AuthFailed`, `Throttled`, `Unavailable` when the hash pool is full.
///
/// Source: protocol section 3, login.
pub async fn login(ctx: &Ctx, call: &mut Call, req: Login) -> Result<Done, OpError> {
    let attempt = reserve(ctx, call, &req.username)?;
    let outcome = attempt_login(ctx, call, req).await;
    settle(ctx, attempt, &outcome);
    outcome
}

/// Gives an attempt back, unless it was a wrong guess.
fn settle<T>(ctx: &Ctx, attempt: Permit<'_>, outcome: &Result<T, OpError>) {
    // Read anew: the password may have waited, and what flowed back meanwhile is not to come back twice.
    let now_ms = ctx.clock.monotonic_ms();
    match outcome {
        Ok(_) => attempt.succeeded(now_ms),
        // Dropped, it stays used.
        Err(OpError::AuthFailed(_)) => {}
        // What was not evaluated was no guess.
        Err(_) => attempt.undecided(now_ms),
    }
}

async fn attempt_login(ctx: &Ctx, call: &mut Call, req: Login) -> Result<Done, OpError> {
    let Sought { target, asked } = seek(ctx, &req).await?;
    call.subject = target.as_ref().map(|target| target.user.id);
    let stored = target.as_ref().and_then(|target| target.user.password.clone());
    let verdict = verdict(ctx, &req.password, stored).await?;
    let target = target.ok_or(AuthFailure::UnknownUser)?;
    let needs_rehash = match verdict {
        Verdict::Match { needs_rehash } => needs_rehash,
        Verdict::Mismatch | Verdict::Malformed => {
            let no_password = target.user.password.is_none();
            return Err(if no_password { AuthFailure::NoPassword } else { AuthFailure::WrongPassword }.into());
        }
    };
    call.place = Some(target.user.workspace.clone());
    if !target.home.enabled {
        return Err(AuthFailure::WorkspaceDisabled.into());
    }
    check_alive(call, &target)?;
    let workspace = match req.workspace {
        Some(id) => may_act_in(ctx, &target, id, asked)?,
        None => target.user.workspace.clone(),
    };

    let done = issue(ctx, call, &target.user, workspace).await?;
    if needs_rehash {
        rehash(ctx, call, &target.user, req.password).await;
    }
    Ok(done)
}

/// What a login rests on.
struct Sought {
    target: Option<Target>,
    /// The workspace asked for, if any.
    asked: Option<Workspace>,
}

/// Reads all that a login rests on, before the password is looked at: as many reads whether the user exists or not,
/// and whatever the password will turn out to be.
async fn seek(ctx: &Ctx, req: &Login) -> Result<Sought, OpError> {
    let user = match req.username.parse::<Username>() {
        Ok(name) => ctx.store.user_by_name(&name.key()).await?,
        Err(_) => None,
    };
    let target = match user {
        Some(user) => {
            let home = super::home_of(ctx, &user).await?;
            Some(Target { user, home })
        }
        None => {
            // In place of a home.
            ctx.store.workspace(&super::bootstrap::first_workspace()?, Read::Ordinary).await?;
            None
        }
    };
    let asked = match &req.workspace {
        Some(asked) => ctx.store.workspace(asked, Read::Ordinary).await?,
        None => None,
    };
    Ok(Sought { target, asked })
}

/// What the hash pool makes of a password; it costs the same whatever comes of it.
async fn verdict(ctx: &Ctx, password: &Secret, stored: Option<PasswordHash>) -> Result<Verdict, OpError> {
    let verdict = ctx.hasher.verify(password.clone(), stored).await;
    verdict.map_err(|busy| OpError::Unavailable(busy.to_string().into()))
}

fn reserve<'c>(ctx: &'c Ctx, call: &Call, username: &str) -> Result<Permit<'c>, OpError> {
    let address = match call.plane {
        Plane::Service if !call.client_ip.is_empty() => Some(call.client_ip.as_str()),
        // Here it would be the caller's own claim.
        Plane::Service | Plane::Api => None,
    };
    ctx.throttle.reserve(username, address, call.monotonic_ms).map_err(|_| OpError::Throttled)
}

fn check_alive(call: &Call, target: &Target) -> Result<(), AuthFailure> {
    if !target.effectively_enabled() {
        return Err(AuthFailure::UserDisabled);
    }
    if target.user.temporary_until.is_some_and(|until| until <= call.now) {
        return Err(AuthFailure::TemporaryPasswordExpired);
    }
    Ok(())
}

/// The workspace asked for at login: it exists, is enabled, and is one the user may act in.
fn may_act_in(
    ctx: &Ctx,
    target: &Target,
    id: WorkspaceId,
    asked: Option<Workspace>,
) -> Result<WorkspaceId, AuthFailure> {
    if id == target.user.workspace {
        return Ok(id);
    }
    match asked {
        Some(workspace) if ctx.policy.any_everywhere(&target.user.roles) => {
            if workspace.enabled {
                Ok(id)
            } else {
                Err(AuthFailure::WorkspaceDisabled)
            }
        }
        Some(_) | None => Err(AuthFailure::WorkspaceNotPermitted),
    }
}

async fn issue(ctx: &Ctx, call: &Call, user: &User, workspace: WorkspaceId) -> Result<Done, OpError> {
    let ring = ctx.store.key_ring().await?.ok_or(AuthFailure::NotSeeded)?;
    let active = ring.active().ok_or_else(|| OpError::Internal("the key ring has no active key".into()))?;
    let signer = Signer::open(&ctx.kek, active)
        .map_err(|_| OpError::Internal("the active signing key does not open".into()))?;
    let must_change_password = user.must_change_password;
    let settings = &ctx.settings;
    let (audience, lifetime_s) = if must_change_password {
        (change_password_audience(&settings.audience), CHANGE_PASSWORD_LIFETIME_S)
    } else {
        (settings.audience.clone(), settings.token_lifetime_s)
    };
    let issued_s = call.now.as_secs();
    let claims = Claims {
        iss: settings.issuer.clone(),
        sub: user.id,
        aud: vec![audience],
        client_id: CLIENT_ID.to_owned(),
        workspace,
        iat: issued_s,
        nbf: issued_s,
        exp: issued_s + lifetime_s,
        jti: ctx.entropy.uuid(call.now).to_string(),
        epoch: user.token_epoch,
    };
    Ok(Done::LoggedIn { jwt: signer.sign(&claims), expires: claims.expires(), must_change_password })
}

/// Brings an old hash up to today's cost. A failure costs nothing: the next login tries again.
async fn rehash(ctx: &Ctx, call: &mut Call, user: &User, password: Secret) {
    if let Ok(hash) = ctx.hasher.hash(ctx.entropy.bytes(), password).await {
        let to = user.changed(|user| user.password = Some(hash));
        if let Err(error) = save_user(ctx, call, user, &to).await {
            tracing::warn!(user = %user.id, ?error, "a password hash could not be renewed");
        }
    }
}

/// A new password for the old one.
///
/// # Errors
/// `NotPermitted` for somebody else, `AuthFailed` for a wrong current password, `Throttled`, `WeakPassword`,
/// `Conflict` when the password was changed meanwhile.
///
/// Source: protocol section 3, change-password.
pub async fn change_password(ctx: &Ctx, call: &mut Call, req: ChangePassword) -> Result<Done, OpError> {
    if !call.caller.is(req.user) {
        return Err(Denial::NotOneself.into());
    }
    call.subject = Some(req.user);
    let target = load(ctx, &Who::Id(req.user)).await?.ok_or(Denial::ActorNotLive)?;
    call.place = Some(target.user.workspace.clone());
    let attempt = reserve(ctx, call, target.user.username.as_str())?;
    let verified = match verdict(ctx, &req.password, target.user.password.clone()).await {
        Ok(Verdict::Match { .. }) => check_alive(call, &target).map_err(OpError::from),
        Ok(Verdict::Mismatch | Verdict::Malformed) => Err(AuthFailure::WrongPassword.into()),
        Err(error) => Err(error),
    };
    settle(ctx, attempt, &verified);
    verified?;
    passwords::check_change(&req.password, &req.new_password).map_err(weak)?;
    let user = &target.user;
    check_password(ctx, &req.new_password, user.username.as_str(), &user.email).await?;
    let hash = new_hash(ctx, req.new_password).await?;

    let verified = target.user.password.clone();
    let mut from = target.user;
    for _ in 0..TRIES {
        let to = from.changed(|user| {
            user.password = Some(hash.clone());
            user.must_change_password = false;
            user.temporary_until = None;
            user.end_tokens();
        });
        if save_user(ctx, call, &from, &to).await? == Saved::Yes {
            return Ok(Done::Nothing);
        }
        match ctx.store.user(req.user, Read::Serial).await? {
            // Something else of the record changed; the password that was verified is still the one.
            Some(user) if user.password == verified => from = user,
            _ => return Err(OpError::Conflict),
        }
    }
    Err(OpError::Conflict)
}

/// The caller's own record.
///
/// # Errors
/// `Invalid` without an actor.
pub async fn whoami(ctx: &Ctx, call: &mut Call) -> Result<Done, OpError> {
    let actor = call.caller.actor().ok_or_else(|| OpError::invalid("actor", "is missing"))?.id;
    call.subject = Some(actor);
    let target = load(ctx, &Who::Id(actor)).await?.ok_or(Denial::ActorNotLive)?;
    Ok(super::users::shown(target))
}

/// A temporary password, shown once and good for a day; ends all tokens.
///
/// # Errors
/// `NotPermitted`, `NotFound`, `Conflict`, `Unavailable`.
///
/// Source: protocol section 3, reset-password.
pub async fn reset_password(
    ctx: &Ctx,
    call: &mut Call,
    user: UserId,
    workspace: Option<WorkspaceId>,
) -> Result<Done, OpError> {
    // Decided before the hash is computed, and again with each try: who may not, must not cost us one.
    let mut target = target_to_change(ctx, call, capability::USERS_ADMIN, user, workspace.as_ref()).await?;
    let password = passwords::temporary_password(&ctx.entropy.bytes());
    let hash = new_hash(ctx, password.clone()).await?;
    for _ in 0..TRIES {
        let to = target.user.changed(|user| {
            user.password = Some(hash.clone());
            user.must_change_password = true;
            user.temporary_until = Some(call.now.plus_secs(passwords::TEMPORARY_LIFETIME_S));
            user.end_tokens();
        });
        if save_user(ctx, call, &target.user, &to).await? == Saved::Yes {
            return Ok(Done::TemporaryPassword(password));
        }
        target = target_to_change(ctx, call, capability::USERS_ADMIN, user, workspace.as_ref()).await?;
    }
    Err(OpError::Conflict)
}

/// Ends every token issued so far; API keys stay.
///
/// # Errors
/// `NotPermitted`, `NotFound`, `Conflict`.
pub async fn revoke_user_tokens(
    ctx: &Ctx,
    call: &mut Call,
    user: Option<UserId>,
    workspace: Option<WorkspaceId>,
) -> Result<Done, OpError> {
    let user = call.subject_or_oneself(user, "user_id")?;
    for _ in 0..TRIES {
        let target = if call.caller.is(user) {
            let target = load(ctx, &Who::Id(user)).await?.ok_or(OpError::NotFound(Noun::User))?;
            super::in_workspace(&target.user, workspace.as_ref())?;
            target
        } else {
            target_to_change(ctx, call, capability::USERS_ADMIN, user, workspace.as_ref()).await?
        };
        call.subject = Some(user);
        let to = target.user.changed(User::end_tokens);
        if save_user(ctx, call, &target.user, &to).await? == Saved::Yes {
            return Ok(Done::Nothing);
        }
    }
    Err(OpError::Conflict)
}

/// Holds a password against the policy; how guessable it is, the hash pool tells.
pub(super) async fn check_password(
    ctx: &Ctx,
    password: &Secret,
    username: &str,
    email: &str,
) -> Result<(), OpError> {
    passwords::check_length(password).map_err(weak)?;
    let score = ctx.hasher.strength(password.clone(), username, email).await;
    let score = score.map_err(|busy| OpError::Unavailable(busy.to_string().into()))?;
    passwords::check_score(score).map_err(weak)
}

pub(super) async fn new_hash(ctx: &Ctx, password: Secret) -> Result<PasswordHash, OpError> {
    let hash = ctx.hasher.hash(ctx.entropy.bytes(), password).await;
    hash.map_err(|busy| OpError::Unavailable(busy.to_string().into()))
}

fn weak(rule: WeakPassword) -> OpError {
    OpError::WeakPassword(rule.as_str().into())
}
