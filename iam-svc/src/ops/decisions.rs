//! Explaining a decision. The decisions themselves are taken on the hot path, by the same rule.

use iam_schema::codec::Member;
use iam_schema::decisions::capability;
use iam_schema::{UserId, WorkspaceId};

use super::{Call, Done, Who, load, one_user};
use crate::ctx::Ctx;
use crate::domain::decision::{self, Principal, Question, WorkspaceState};
use crate::domain::users::NameKey;
use crate::error::OpError;
use crate::store::Read;

#[derive(Debug)]
pub struct Explain {
    /// On the API plane the actor if both are absent.
    pub user: Option<UserId>,
    pub username: Option<NameKey>,
    pub capability: String,
    pub resource: Member<'static>,
    pub parameters: Member<'static>,
}

/// The decision with its reason in words.
///
/// # Errors
/// `NotPermitted` for somebody else without `iam:admin`; `Invalid`.
///
/// Source: protocol section 3, explain.
pub async fn explain(ctx: &Ctx, call: &mut Call, req: Explain) -> Result<Done, OpError> {
    let who = match (req.user, req.username) {
        (Some(id), Some(name)) => Who::Both(id, name),
        (None, Some(name)) => Who::Name(name),
        (id, None) => Who::Id(call.subject_or_oneself(id, "user_id")?),
    };
    let oneself = match &who {
        Who::Id(id) => call.caller.is(*id),
        Who::Name(name) | Who::Both(_, name) => {
            let own = call.caller.actor().map(|actor| actor.username.to_ascii_lowercase());
            own.as_deref() == Some(name.as_str())
        }
    };
    if !oneself {
        call.caller.require_everywhere(&ctx.policy, capability::IAM_ADMIN)?;
    }
    let target = load(ctx, &who).await?;
    if let Some(target) = &target {
        one_user(&who, &target.user)?;
        call.subject = Some(target.user.id);
    }

    let question = Question { capability: &req.capability, targets: [&req.resource, &req.parameters] };
    let mut states: Vec<(String, WorkspaceState)> = Vec::new();
    for text in question.target_texts() {
        // What is no workspace id names no workspace.
        let workspace = match text.parse::<WorkspaceId>() {
            Ok(id) => ctx.store.workspace(&id, Read::Ordinary).await?,
            Err(_) => None,
        };
        states.push((text.to_owned(), WorkspaceState::of(workspace.as_ref())));
    }
    let principal = target.as_ref().map(|t| (Principal::new(&t.user, &ctx.policy), t.effectively_enabled()));
    let reason = decision::decide(
        &ctx.policy,
        principal.as_ref().map(|(principal, enabled)| (principal, *enabled)),
        &question,
        |text| {
            let known = states.iter().find(|(name, _)| name == text).map(|(_, state)| *state);
            known.ok_or_else(|| OpError::Internal("a target workspace was not looked up".into()))
        },
    )?;
    let roles = principal.map(|(principal, _)| principal.roles).unwrap_or_default();
    let words = decision::in_words(&ctx.policy, &roles, &question, reason);
    let allow = reason.allows();
    let ttl_s = if allow { ctx.settings.allow_ttl_s } else { ctx.settings.deny_ttl_s };
    Ok(Done::Explained { allow, ttl_s, reason: words })
}
