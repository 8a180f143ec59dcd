//! Getting back into a deployment that lost its admin. Not an operation of the bus: it runs offline, with the
//! store and the key-encryption key at hand.

use iam_schema::Secret;
use iam_schema::changes::ChangeKind;

use super::bootstrap::{WORKSPACE, admin_role};
use super::{Call, Saved, TRIES, save_user};
use crate::ctx::Ctx;
use crate::domain::passwords;
use crate::domain::users::{User, Username};
use crate::domain::workspaces::Workspace;
use crate::error::OpError;
use crate::store::{InsertUser, InsertWorkspace, Read, SeedState, UpdateWorkspace};

/// Makes or enables an admin, and the home workspace, with a temporary password good for a day.
///
/// All tokens and keys of that user end: whoever holds them may be why recovery is needed.
///
/// # Errors
/// `Invalid` before the deployment was seeded; `Conflict` when somebody changes the same records meanwhile;
/// `Unavailable`, `Internal`.
///
/// Source: protocol section 7.
pub async fn recover_admin(ctx: &Ctx, call: &mut Call, username: &Username) -> Result<Secret, OpError> {
    if ctx.store.seed_state().await? != SeedState::Done {
        return Err(OpError::invalid("store", "holds no deployment yet: bootstrap it"));
    }
    let password = passwords::temporary_password(&ctx.entropy.bytes());
    let hash = super::sessions::new_hash(ctx, password.clone()).await?;
    let role = admin_role(ctx)?;
    let until = call.now.plus_secs(passwords::TEMPORARY_LIFETIME_S);
    for _ in 0..TRIES {
        let known = ctx.store.user_by_name(&username.key()).await?;
        let home = match &known {
            Some(user) => user.workspace.clone(),
            None => WORKSPACE.parse().map_err(super::bootstrap::internal("the first workspace's id"))?,
        };
        let Some(home) =
            enabled_workspace(ctx, call, Workspace::new(home, String::new(), true, call.now)).await?
        else {
            continue;
        };
        let restore = |user: &mut User| {
            user.roles.insert(role.clone());
            user.enabled = true;
            user.workspace_epoch = home.epoch;
            user.must_change_password = true;
            user.password = Some(hash.clone());
            user.temporary_until = Some(until);
        };
        let Some(user) = known else {
            let mut user = User {
                id: ctx.entropy.user_id(call.now),
                version: 1,
                workspace: home.id.clone(),
                workspace_epoch: home.epoch,
                username: username.clone(),
                name: String::new(),
                email: String::new(),
                roles: [].into(),
                enabled: true,
                must_change_password: true,
                password: None,
                temporary_until: None,
                key_epoch: 0,
                token_epoch: 0,
                created: call.now,
            };
            restore(&mut user);
            let answer = ctx.store.insert_user(&user).await;
            if call.written(ChangeKind::User, &user.id, 1, answer)? == InsertUser::Inserted {
                call.subject = Some(user.id);
                call.changed_user(&user);
                return Ok(password);
            }
            continue;
        };
        call.subject = Some(user.id);
        let to = user.changed(|user| {
            restore(user);
            user.end_tokens();
            user.end_keys();
        });
        if save_user(ctx, call, &user, &to).await? == Saved::Yes {
            return Ok(password);
        }
    }
    Err(OpError::Conflict)
}

/// The workspace, made or enabled where it is not; `None` when a race was lost.
async fn enabled_workspace(
    ctx: &Ctx,
    call: &mut Call,
    absent: Workspace,
) -> Result<Option<Workspace>, OpError> {
    let Some(known) = ctx.store.workspace(&absent.id, Read::Serial).await? else {
        let answer = ctx.store.insert_workspace(&absent).await;
        let inserted = call.written(ChangeKind::Workspace, &absent.id, 1, answer)?;
        call.changed_workspace(&absent);
        return Ok((inserted == InsertWorkspace::Inserted).then_some(absent));
    };
    if known.enabled {
        return Ok(Some(known));
    }
    let to = known.changed(|workspace| workspace.enabled = true);
    let answer = ctx.store.update_workspace(&known, &to).await;
    let updated = call.written(ChangeKind::Workspace, &known.id, known.version, answer)?;
    call.changed_workspace(&to);
    Ok((updated == UpdateWorkspace::Updated).then_some(to))
}
