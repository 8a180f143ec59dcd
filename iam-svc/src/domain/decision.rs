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

#[cfg(test)]
impl Principal {
    /// [`User::example`] under a policy.
    pub(crate) fn example(policy: &Policy, home: &str, roles: &[&str]) -> Principal {
        Principal::new(&User::example(home, roles), policy)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::domain::policy::{PolicySource, RoleSource};

    const ACME: WorkspaceState = WorkspaceState { exists: true, enabled: true, epoch: 5, version: 1 };

    fn policy() -> Policy {
        let role = |name: &str, scope: &str, capability: &str| RoleSource {
            name: name.to_owned(),
            scope: scope.to_owned(),
            includes: Vec::new(),
            capabilities: vec![capability.to_owned()],
        };
        let mut source = PolicySource::default();
        source.roles.extend([role("scribe", "*", "graph:write"), role("asker", "assigned", "llm")]);
        Policy::build(&source).unwrap()
    }

    /// A principal at home in acme.
    fn principal(policy: &Policy, roles: &[&str]) -> Principal {
        Principal { workspace_epoch: 5, ..Principal::example(policy, "acme", roles) }
    }

    fn text(text: &str) -> Member<'_> {
        Member::Text(text.into())
    }

    #[test]
    fn decision_follows_the_rule_of_the_protocol() {
        use Reason::*;
        let policy = policy();
        let absent = Member::Absent;
        let (home, other, closed, nowhere) = (text("acme"), text("other"), text("closed"), text("nowhere"));
        let (empty, odd) = (text(""), Member::Other);
        let state = |name: &str| {
            Ok::<_, ()>(match name {
                "closed" => WorkspaceState { enabled: false, ..ACME },
                "nowhere" => WorkspaceState { exists: false, enabled: false, ..ACME },
                _ => ACME,
            })
        };
        let decided = |roles: &[&str], enabled: bool, capability: &str, targets: [&Member<'_>; 2]| {
            let principal = principal(&policy, roles);
            let question = Question { capability, targets };
            let reason = decide(&policy, Some((&principal, enabled)), &question, state).unwrap();
            let allows = reason.allows();
            assert_eq!(allows, matches!(reason, Allowed));
            format!("{reason:?}")
        };
        let (read, write, both) = ("graph:read", "graph:write", &["reader", "scribe"][..]);
        for (roles, enabled, capability, targets, reason) in [
            (both, true, read, [&absent, &absent], Allowed),
            (both, true, read, [&home, &absent], Allowed),
            (both, true, read, [&absent, &home], Allowed),
            (both, true, read, [&home, &home], Allowed),
            (both, true, read, [&other, &absent], OutOfScope { target: "other" }),
            (both, true, read, [&home, &other], OutOfScope { target: "other" }),
            (both, true, write, [&other, &absent], Allowed),
            (both, true, write, [&home, &other], Allowed),
            (both, true, write, [&absent, &absent], Allowed),
            (both, true, write, [&closed, &absent], DisabledWorkspace { target: "closed" }),
            (both, true, write, [&home, &closed], DisabledWorkspace { target: "closed" }),
            (both, true, write, [&nowhere, &absent], Allowed),
            (both, true, read, [&closed, &absent], OutOfScope { target: "closed" }),
            (both, false, read, [&home, &absent], DisabledUser),
            (both, true, read, [&empty, &absent], MalformedTarget),
            (both, true, read, [&home, &odd], MalformedTarget),
            (both, true, "graph:paint", [&absent, &absent], UnknownCapability),
            (both, true, "users:admin", [&absent, &absent], Lacking),
            (&[], true, read, [&absent, &absent], Lacking),
            (&["unheard-of"], true, read, [&absent, &absent], Lacking),
        ] {
            let asked = format!("{roles:?} {capability} {targets:?}");
            assert_eq!(decided(roles, enabled, capability, targets), format!("{reason:?}"), "{asked}");
        }
        let question = Question { capability: read, targets: [&home, &absent] };
        assert_eq!(decide(&policy, None, &question, state), Ok(UnknownUser));
        let scribe = principal(&policy, &["scribe"]);
        let question = Question { capability: write, targets: [&home, &absent] };
        assert_eq!(decide(&policy, Some((&scribe, true)), &question, |_| Err(())), Err(()), "never an allow");
    }

    #[test]
    fn principal_lives_while_enabled_in_an_enabled_workspace_of_the_same_epoch() {
        let policy = policy();
        for (enabled, home, lives) in [
            (true, ACME, true),
            (false, ACME, false),
            (true, WorkspaceState { enabled: false, ..ACME }, false),
            (true, WorkspaceState { exists: false, ..ACME }, false),
            (true, WorkspaceState { epoch: 6, ..ACME }, false),
            (false, WorkspaceState { exists: false, enabled: false, ..ACME }, false),
        ] {
            let principal = Principal { enabled, ..principal(&policy, &[]) };
            assert_eq!(principal.effectively_enabled(home), lives, "{enabled} {home:?}");
        }
    }

    #[test]
    fn capability_is_held_by_either_scope_and_everywhere_by_one() {
        let policy = policy();
        let ada = principal(&policy, &["reader", "scribe"]);
        let held = |name: &str| {
            let capability = policy.capability(name).unwrap();
            (
                ada.holds(capability),
                ada.holds_everywhere(capability),
                ada.holds_in(capability, "acme"),
                ada.holds_in(capability, "other"),
            )
        };
        assert_eq!(held("graph:read"), (true, false, true, false));
        assert_eq!(held("graph:write"), (true, true, true, true));
        assert_eq!(held("users:admin"), (false, false, false, false));
        assert!(ada.everywhere && !principal(&policy, &["reader", "unheard-of"]).everywhere);
    }

    #[test]
    fn reason_in_words_names_who_allowed_it_or_what_each_lacked() {
        let policy = policy();
        let absent = Member::Absent;
        let words = |roles: &[&str], capability: &str, reason: Reason<'_>| {
            let question = Question { capability, targets: [&absent, &absent] };
            in_words(&policy, &principal(&policy, roles).roles, &question, reason)
        };
        for (roles, capability, reason, expected) in [
            (&["asker", "scribe"][..], "llm", Reason::Allowed, "role `asker` has `llm`"),
            (&["scribe"], "graph:write", Reason::Allowed, "role `scribe` (scope *) has `graph:write`"),
            (
                &["asker", "reader", "scribe"],
                "llm",
                Reason::OutOfScope { target: "other" },
                "role `asker`, role `reader` has `llm` in the home workspace alone, not in `other`",
            ),
            (&[], "llm", Reason::Lacking, "no roles, so no `llm`"),
            (
                &["scribe", "unheard-of"],
                "llm",
                Reason::Lacking,
                "role `scribe` lacks `llm`; role `unheard-of` is not in the policy",
            ),
            (&[], "llm", Reason::DisabledWorkspace { target: "x" }, "workspace `x` is disabled"),
            (&[], "paint", Reason::UnknownCapability, "no capability `paint` in the vocabulary"),
        ] {
            assert_eq!(words(roles, capability, reason), expected);
        }
    }
}
