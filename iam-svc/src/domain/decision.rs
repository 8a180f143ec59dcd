//! The decision: may this user do this, there?

use std::collections::BTreeSet;

use iam_schema::codec::Member;
use iam_schema::{UserId, WorkspaceId};

use super::policy::{Capability, Grants, Policy, RoleName, Scope};
use super::shown::clipped;
use super::users::User;
use super::workspaces::Workspace;

/// A user as decisions see one: roles folded to grants.
#[derive(Debug, Clone)]
pub struct Principal {
    pub id: UserId,
    pub version: u64,
    pub username: String,
    pub workspace: WorkspaceId,
    pub workspace_epoch: u64,
    /// Enabled so far as the user's own record goes.
    pub enabled: bool,
    pub roles: BTreeSet<RoleName>,
    pub grants: Grants,
    /// Whether some role has scope `*`.
    pub everywhere: bool,
    pub key_epoch: u64,
    pub token_epoch: u64,
}

impl Principal {
    /// Folds a user's roles under a policy.
    pub fn new(user: &User, policy: &Policy) -> Self {
        Self {
            id: user.id,
            version: user.version,
            username: user.username.to_string(),
            workspace: user.workspace.clone(),
            workspace_epoch: user.workspace_epoch,
            enabled: user.enabled,
            grants: policy.grants(&user.roles),
            everywhere: policy.any_everywhere(&user.roles),
            roles: user.roles.clone(),
            key_epoch: user.key_epoch,
            token_epoch: user.token_epoch,
        }
    }

    /// As [`User::effectively_enabled`], from the state of the home workspace; an absent one is not enabled.
    pub fn effectively_enabled(&self, home: WorkspaceState) -> bool {
        self.enabled && home.exists && home.enabled && self.workspace_epoch == home.epoch
    }

    /// Whether a capability is held at all, in whatever scope.
    pub fn holds(&self, capability: Capability) -> bool {
        self.grants.everywhere.contains(capability) || self.grants.assigned.contains(capability)
    }

    /// Whether a capability is held for the deployment as a whole.
    pub fn holds_everywhere(&self, capability: Capability) -> bool {
        self.grants.everywhere.contains(capability)
    }

    /// Whether a capability is held in a workspace, whatever the state of that workspace.
    pub fn holds_in(&self, capability: Capability, workspace: &str) -> bool {
        self.grants.everywhere.contains(capability)
            || (self.grants.assigned.contains(capability) && self.workspace.as_str() == workspace)
    }
}

/// What a decision needs to know of a workspace.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct WorkspaceState {
    pub exists: bool,
    pub enabled: bool,
    pub epoch: u64,
    pub version: u64,
}

impl WorkspaceState {
    /// The state of a workspace that may not exist. One that does not exist is not disabled.
    pub fn of(workspace: Option<&Workspace>) -> Self {
        match workspace {
            Some(w) => Self { exists: true, enabled: w.enabled, epoch: w.epoch, version: w.version },
            None => Self { exists: false, enabled: false, epoch: 0, version: 0 },
        }
    }

    /// Whether nobody may act there. Source: vectors, point 21.
    pub fn disabled(self) -> bool {
        self.exists && !self.enabled
    }
}

/// A question: a capability, and the targets that resource and parameters name.
#[derive(Debug, Clone, Copy)]
pub struct Question<'a> {
    pub capability: &'a str,
    pub targets: [&'a Member<'a>; 2],
}

impl<'a> Question<'a> {
    /// The target texts, in order; a malformed target has been found before.
    pub fn target_texts(&self) -> impl Iterator<Item = &'a str> {
        self.targets.into_iter().filter_map(|target| match target {
            Member::Text(text) => Some(text.as_ref()),
            Member::Absent | Member::Other => None,
        })
    }
}

/// Why a decision came out as it did.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Reason<'a> {
    Allowed,
    UnknownUser,
    DisabledUser,
    MalformedTarget,
    UnknownCapability,
    Lacking,
    /// The user has the capability, but for the home workspace alone, and this is another.
    OutOfScope {
        target: &'a str,
    },
    DisabledWorkspace {
        target: &'a str,
    },
}

impl Reason<'_> {
    /// Whether the answer is yes.
    pub fn allows(self) -> bool {
        self == Reason::Allowed
    }
}

/// Decides.
///
/// `principal` is the user and whether they are effectively enabled; `state` tells the state of a workspace.
/// A state that cannot be told is an error of the caller's, never an answer of this function's.
///
/// # Errors
/// Whatever `state` fails with.
///
/// Source: protocol section 6.
pub fn decide<'a, E>(
    policy: &Policy,
    principal: Option<(&Principal, bool)>,
    question: &Question<'a>,
    mut state: impl FnMut(&str) -> Result<WorkspaceState, E>,
) -> Result<Reason<'a>, E> {
    let Some((principal, enabled)) = principal else { return Ok(Reason::UnknownUser) };
    if !enabled {
        return Ok(Reason::DisabledUser);
    }
    let malformed = |target: &Member<'_>| match target {
        Member::Absent => false,
        Member::Text(text) => text.is_empty(),
        Member::Other => true,
    };
    if question.targets.into_iter().any(malformed) {
        return Ok(Reason::MalformedTarget);
    }
    let Some(capability) = policy.capability(question.capability) else {
        return Ok(Reason::UnknownCapability);
    };
    if !principal.holds(capability) {
        return Ok(Reason::Lacking);
    }
    for target in question.target_texts() {
        if !principal.holds_in(capability, target) {
            return Ok(Reason::OutOfScope { target });
        }
    }
    for target in question.target_texts() {
        if state(target)?.disabled() {
            return Ok(Reason::DisabledWorkspace { target });
        }
    }
    Ok(Reason::Allowed)
}

/// The reason in words: which role allowed it, or what each lacked.
pub fn in_words(
    policy: &Policy,
    roles: &BTreeSet<RoleName>,
    question: &Question<'_>,
    reason: Reason<'_>,
) -> String {
    let holders = |capability| roles_with(policy, roles, capability).join(", ");
    let (holders, capability) = (holders(question.capability), clipped(question.capability));
    match reason {
        Reason::UnknownUser => "no such user".to_owned(),
        Reason::DisabledUser => "the user or the home workspace is disabled".to_owned(),
        Reason::MalformedTarget => "a target workspace is not a non-empty string".to_owned(),
        Reason::UnknownCapability => format!("no capability `{capability}` in the vocabulary"),
        Reason::DisabledWorkspace { target } => format!("workspace `{}` is disabled", clipped(target)),
        Reason::OutOfScope { target } => {
            let target = clipped(target);
            format!("{holders} has `{capability}` in the home workspace alone, not in `{target}`")
        }
        Reason::Lacking if roles.is_empty() => format!("no roles, so no `{capability}`"),
        Reason::Lacking => {
            let lacks = roles.iter().map(|role| match policy.knows_role(role) {
                true => format!("role `{role}` lacks `{capability}`"),
                false => format!("role `{role}` is not in the policy"),
            });
            lacks.collect::<Vec<_>>().join("; ")
        }
        Reason::Allowed => format!("{holders} has `{capability}`"),
    }
}

fn roles_with(policy: &Policy, roles: &BTreeSet<RoleName>, capability: &str) -> Vec<String> {
    let Some(capability) = policy.capability(capability) else { return Vec::new() };
    let grants =
        roles.iter().filter_map(|role| policy.role_grants(role, capability).map(|scope| (role, scope)));
    let shown = grants.map(|(role, scope)| match scope {
        Scope::Everywhere => format!("role `{role}` (scope *)"),
        Scope::Assigned => format!("role `{role}`"),
    });
    shown.collect()
}
