//! One function per operation: load, decide, write, answer.
//!
//! An operation receives parsed values and never a raw string. It notes in its [`Call`] the changes that it
//! made, or may have made, and knows nothing of caches: whoever called it drops what the changes name.

mod paging;

pub mod sessions;

pub mod users;
pub mod workspaces;

pub mod api_keys;
pub mod signing_keys;

pub mod bootstrap;
pub mod decisions;

pub mod recovery;

use iam_schema::changes::{Change, ChangeKind, DELETED};
use iam_schema::subject::Plane;
use iam_schema::{Secret, Timestamp, UserId, WorkspaceId};

pub use paging::{PageRequest, PageToken};

use crate::ctx::Ctx;
use crate::domain::api_keys::ApiKey;
use crate::domain::caller::Caller;
use crate::domain::users::User;
use crate::domain::workspaces::Workspace;
use crate::error::{Denial, Noun, OpError};
use crate::store::{Read, StoreError, UpdateUser};

/// How often a change is decided anew after a concurrent change won.
///
/// Three tries let two bystanders pass; who loses thrice is told `conflict` and may try again.
const TRIES: usize = 3;

/// The circumstances of a request, and what it left behind.
#[derive(Debug)]
pub struct Call {
    pub plane: Plane,
    pub caller: Caller,
    pub now: Timestamp,
    pub monotonic_ms: i64,
    /// Believed on the service plane; on the API plane always empty.
    pub client_ip: String,
    /// What changed, or may have.
    pub changes: Vec<Change>,
    /// Those of which the store did not say, with the last known version.
    pub unknown: Vec<Change>,
    /// Whom the operation turned out to be about, for the audit event.
    pub subject: Option<UserId>,
    /// The workspace it turned out to be about, for the audit event.
    pub place: Option<WorkspaceId>,
}

impl Call {
    /// A call with nothing done yet.
    pub fn new(plane: Plane, caller: Caller, now: Timestamp, monotonic_ms: i64) -> Self {
        Self {
            plane,
            caller,
            now,
            monotonic_ms,
            client_ip: String::new(),
            changes: Vec::new(),
            unknown: Vec::new(),
            subject: None,
            place: None,
        }
    }

    fn changed(&mut self, kind: ChangeKind, id: &impl ToString, version: u64) {
        self.changes.push(Change { kind, id: id.to_string(), version });
    }

    fn changed_user(&mut self, user: &User) {
        self.changed(ChangeKind::User, &user.id, user.version);
    }

    fn changed_workspace(&mut self, workspace: &Workspace) {
        self.changed(ChangeKind::Workspace, &workspace.id, workspace.version);
    }

    fn changed_key(&mut self, key: &ApiKey) {
        self.changed(ChangeKind::ApiKey, &key.id, 1);
    }

    fn unsure(&mut self, kind: ChangeKind, id: &impl ToString, known_version: u64) {
        self.changed(kind, id, known_version);
        self.unknown.extend(self.changes.last().cloned());
    }

    /// Passes a store's answer on, and notes the change that may have happened if the store did not say.
    fn written<T>(
        &mut self,
        kind: ChangeKind,
        id: &impl ToString,
        known_version: u64,
        answer: Result<T, StoreError>,
    ) -> Result<T, OpError> {
        if answer.as_ref().is_err_and(StoreError::outcome_unknown) {
            self.unsure(kind, id, known_version);
        }
        Ok(answer?)
    }

    /// The user an operation is about: the one given, else on the API plane the actor.
    fn subject_or_oneself(&self, user: Option<UserId>, field: &'static str) -> Result<UserId, OpError> {
        match (user, self.plane, self.caller.actor()) {
            (Some(user), _, _) => Ok(user),
            (None, Plane::Api, Some(actor)) => Ok(actor.id),
            (None, _, _) => Err(OpError::invalid(field, "is missing")),
        }
    }
}

/// A user together with what the record alone does not say.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct UserView {
    pub user: User,
    pub effectively_enabled: bool,
}

/// A page of a list, and where the next begins.
#[derive(Debug)]
pub struct Listed<T> {
    pub items: Vec<T>,
    pub next: Option<PageToken>,
}

/// What an operation gives back.
#[derive(Debug)]
pub enum Done {
    Nothing,
    LoggedIn { jwt: Secret, expires: Timestamp, must_change_password: bool },
    User(Box<UserView>),
    Users(Listed<UserView>),
    Workspace(Workspace),
    Workspaces(Listed<Workspace>),
    KeyCreated { plaintext: Secret, key: ApiKey },
    Keys(Listed<(ApiKey, Option<Timestamp>)>),
    TemporaryPassword(Secret),
    PublicKey(String),
    Jwks(String),
    Explained { allow: bool, ttl_s: u32, reason: String },
    Seeded { admin: UserId, key: Secret },
    BootstrapStatus(bool),
}

/// How a user is named in a request.
#[derive(Debug, Clone)]
pub enum Who {
    Id(UserId),
    Name(crate::domain::users::NameKey),
    /// Both, which must be the same user.
    Both(UserId, crate::domain::users::NameKey),
}

/// A user that an operation is about, with the home workspace.
#[derive(Debug)]
struct Target {
    user: User,
    home: Workspace,
}

impl Target {
    fn effectively_enabled(&self) -> bool {
        self.user.effectively_enabled(&self.home)
    }
}

/// Loads a user and decides whether the caller may do this to them.
///
/// # Errors
/// `NotPermitted`; `NotFound` only where the caller may learn of it.
async fn target(
    ctx: &Ctx,
    call: &mut Call,
    capability: &str,
    who: &Who,
    workspace: Option<&WorkspaceId>,
) -> Result<Target, OpError> {
    call.caller.require(&ctx.policy, capability)?;
    let user = match find(ctx, who).await? {
        Some(user) => user,
        None => return Err(absent(ctx, call, capability, Noun::User)),
    };
    call.subject = Some(user.id);
    call.place = Some(user.workspace.clone());
    // Refused before anything more is read: else the time taken would tell a hidden user from none.
    call.caller.require_in(&ctx.policy, capability, &user.workspace)?;
    one_user(who, &user)?;
    in_workspace(&user, workspace)?;
    let home = home_of(ctx, &user).await?;
    Ok(Target { user, home })
}

/// Loads a user that the caller administers: as [`target`], and the caller must hold all that the user holds.
async fn target_to_change(
    ctx: &Ctx,
    call: &mut Call,
    capability: &str,
    user: UserId,
    workspace: Option<&WorkspaceId>,
) -> Result<Target, OpError> {
    let target = target(ctx, call, capability, &Who::Id(user), workspace).await?;
    may_change(ctx, call, &target.user)?;
    Ok(target)
}

/// Dominance over somebody else.
fn may_change(ctx: &Ctx, call: &Call, user: &User) -> Result<(), Denial> {
    if call.caller.is(user.id) {
        return Ok(());
    }
    call.caller.dominates(&ctx.policy.grants(&user.roles), &user.workspace)
}

/// What a caller is told of something that is not there.
fn absent(ctx: &Ctx, call: &Call, capability: &str, noun: Noun) -> OpError {
    if call.caller.sees_all(&ctx.policy, capability) {
        OpError::NotFound(noun)
    } else {
        OpError::NotPermitted(Denial::TargetHidden)
    }
}

/// The integrity check: a workspace that is given must be the user's.
fn in_workspace(user: &User, workspace: Option<&WorkspaceId>) -> Result<(), Denial> {
    match workspace {
        Some(given) if *given != user.workspace => Err(Denial::WorkspaceMismatch),
        _ => Ok(()),
    }
}

/// Id and name, where both are given, must be of one user. To be asked once the caller may know of `user`, whom
/// the name found: else the answer would tell that the name is taken.
fn one_user(who: &Who, user: &User) -> Result<(), OpError> {
    match who {
        Who::Both(id, _) if *id != user.id => {
            Err(OpError::invalid("username", "is not that of the user in `user_id`"))
        }
        _ => Ok(()),
    }
}

async fn load(ctx: &Ctx, who: &Who) -> Result<Option<Target>, OpError> {
    let Some(user) = find(ctx, who).await? else { return Ok(None) };
    let home = home_of(ctx, &user).await?;
    Ok(Some(Target { user, home }))
}

async fn find(ctx: &Ctx, who: &Who) -> Result<Option<User>, OpError> {
    let user = match who {
        Who::Id(id) => ctx.store.user(*id, Read::Ordinary).await?,
        Who::Name(name) | Who::Both(_, name) => ctx.store.user_by_name(name).await?,
    };
    Ok(user)
}

/// The home workspace of a user; it is never deleted, so its absence is damage.
async fn home_of(ctx: &Ctx, user: &User) -> Result<Workspace, OpError> {
    match ctx.store.workspace(&user.workspace, Read::Ordinary).await? {
        Some(home) => Ok(home),
        None => {
            Err(OpError::Internal(format!("workspace {} of user {} is not there", user.workspace, user.id)))
        }
    }
}

/// Whether a change was written.
#[derive(Debug, PartialEq, Eq)]
enum Saved {
    Yes,
    LostRace,
}

/// Writes a user's new record and notes the change.
async fn save_user(ctx: &Ctx, call: &mut Call, from: &User, to: &User) -> Result<Saved, OpError> {
    let answer = ctx.store.update_user(from, to).await;
    match call.written(ChangeKind::User, &from.id, from.version, answer)? {
        UpdateUser::Updated => {
            call.changed_user(to);
            Ok(Saved::Yes)
        }
        UpdateUser::LostRace => Ok(Saved::LostRace),
        UpdateUser::LastRootAdmin => Err(Denial::LastRootAdmin.into()),
    }
}

/// The version by which a deleted record is known.
const GONE: u64 = DELETED;
