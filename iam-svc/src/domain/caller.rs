//! On whose behalf an operation runs, and what that permits.

use std::sync::Arc;

use iam_schema::{UserId, WorkspaceId};

use super::decision::Principal;
use super::dominance::dominates;
use super::policy::{Grants, Policy};

/// Why somebody was not permitted: for log and audit.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Denial {
    /// The actor is unknown or not effectively enabled.
    ActorNotLive,
    LacksCapability,
    OutOfScope,
    /// The target, or what it is to become, holds what the actor lacks.
    NotDominated,
    LastRootAdmin,
    /// The given workspace is not the target's.
    WorkspaceMismatch,
    ServicePlaneOnly,
    NotOneself,
    /// Absent, and the caller may not know.
    TargetHidden,
    /// The deployment has not begun: what is made now would stand in the way of its first admin.
    NotSeeded,
}

impl Denial {
    /// The reason in words: for log and audit, and on the service plane for the caller.
    pub const fn as_str(self) -> &'static str {
        match self {
            Denial::ActorNotLive => "the actor is unknown or disabled",
            Denial::LacksCapability => "the actor lacks the capability",
            Denial::OutOfScope => "the actor's capability does not reach the target",
            Denial::NotDominated => "the actor does not hold all that the target holds or is to hold",
            Denial::LastRootAdmin => "it would leave the deployment without a root admin",
            Denial::WorkspaceMismatch => "the workspace given is not the target's",
            Denial::ServicePlaneOnly => "the operation is for the service plane",
            Denial::NotOneself => "the operation is for oneself",
            Denial::TargetHidden => "no such target in reach of the actor",
            Denial::NotSeeded => "the deployment has no admin yet: bootstrap it first",
        }
    }
}

/// On whose behalf an operation runs.
#[derive(Debug, Clone)]
pub enum Caller {
    /// Nobody: a PUBLIC operation.
    Nobody,
    /// A trusted service, on its own authority.
    Service,
    /// A user, effectively enabled when the request was taken up.
    Actor(Arc<Principal>),
}

impl Caller {
    /// The user, if it is one.
    pub fn actor(&self) -> Option<&Arc<Principal>> {
        match self {
            Caller::Actor(actor) => Some(actor),
            Caller::Nobody | Caller::Service => None,
        }
    }

    /// Whether this is that very user.
    pub fn is(&self, user: UserId) -> bool {
        self.actor().is_some_and(|actor| actor.id == user)
    }

    /// The decision before the target is known: the capability, in whatever scope.
    ///
    /// # Errors
    /// `LacksCapability`.
    pub fn require(&self, policy: &Policy, capability: &str) -> Result<(), Denial> {
        self.decide(policy, capability, Denial::LacksCapability, Principal::holds)
    }

    /// The capability for the deployment as a whole.
    ///
    /// # Errors
    /// `LacksCapability`, or `OutOfScope` where it is held for the home workspace alone.
    pub fn require_everywhere(&self, policy: &Policy, capability: &str) -> Result<(), Denial> {
        self.require(policy, capability)?;
        self.decide(policy, capability, Denial::OutOfScope, Principal::holds_everywhere)
    }

    /// The decision once the target is known: the capability in the target's home workspace. Whether that
    /// workspace is disabled does not count, else nobody could administer its users.
    ///
    /// # Errors
    /// `OutOfScope`.
    pub fn require_in(&self, policy: &Policy, capability: &str, home: &WorkspaceId) -> Result<(), Denial> {
        self.decide(policy, capability, Denial::OutOfScope, |actor, c| actor.holds_in(c, home.as_str()))
    }

    /// Whether the caller may learn that a target does not exist.
    pub fn sees_all(&self, policy: &Policy, capability: &str) -> bool {
        self.require_everywhere(policy, capability).is_ok()
    }

    /// Whether the caller holds all that these grants hold.
    ///
    /// # Errors
    /// `NotDominated`.
    pub fn dominates(&self, grants: &Grants, home: &WorkspaceId) -> Result<(), Denial> {
        match self {
            Caller::Service => Ok(()),
            Caller::Actor(actor) if dominates(actor, grants, home) => Ok(()),
            Caller::Actor(_) | Caller::Nobody => Err(Denial::NotDominated),
        }
    }

    fn decide(
        &self,
        policy: &Policy,
        capability: &str,
        otherwise: Denial,
        held: impl FnOnce(&Principal, super::policy::Capability) -> bool,
    ) -> Result<(), Denial> {
        let allowed = match self {
            Caller::Nobody => false,
            Caller::Service => true,
            Caller::Actor(actor) => policy.capability(capability).is_some_and(|c| held(actor, c)),
        };
        if allowed { Ok(()) } else { Err(otherwise) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::domain::policy::RoleName;

    fn actor(policy: &Policy, roles: &[&str]) -> Caller {
        Caller::Actor(Arc::new(Principal::example(policy, "acme", roles)))
    }

    fn user(n: u128) -> UserId {
        UserId::from_uuid(uuid::Uuid::from_u128(n))
    }

    #[test]
    fn caller_may_do_what_is_held_where_it_is_held_and_a_service_everything() {
        use Denial::*;
        let policy = Policy::build(&Default::default()).unwrap();
        let [acme, other] = ["acme", "other"].map(|id| id.parse::<WorkspaceId>().unwrap());
        let (nobody, service) = (Caller::Nobody, Caller::Service);
        let (reader, admin) = (actor(&policy, &["reader"]), actor(&policy, &["admin"]));
        for (caller, capability, anywhere, everywhere, home, away) in [
            (
                &nobody,
                "graph:read",
                Err(LacksCapability),
                Err(LacksCapability),
                Err(OutOfScope),
                Err(OutOfScope),
            ),
            (&service, "graph:read", Ok(()), Ok(()), Ok(()), Ok(())),
            (&service, "unheard-of", Ok(()), Ok(()), Ok(()), Ok(())),
            (&reader, "graph:read", Ok(()), Err(OutOfScope), Ok(()), Err(OutOfScope)),
            (
                &reader,
                "users:admin",
                Err(LacksCapability),
                Err(LacksCapability),
                Err(OutOfScope),
                Err(OutOfScope),
            ),
            (&admin, "users:admin", Ok(()), Ok(()), Ok(()), Ok(())),
            (
                &admin,
                "unheard-of",
                Err(LacksCapability),
                Err(LacksCapability),
                Err(OutOfScope),
                Err(OutOfScope),
            ),
        ] {
            let asked = format!("{caller:?} {capability}");
            assert_eq!(caller.require(&policy, capability), anywhere, "{asked}");
            assert_eq!(caller.require_everywhere(&policy, capability), everywhere, "{asked}");
            assert_eq!(caller.sees_all(&policy, capability), everywhere.is_ok(), "{asked}");
            assert_eq!(caller.require_in(&policy, capability, &acme), home, "{asked}");
            assert_eq!(caller.require_in(&policy, capability, &other), away, "{asked}");
        }
        let grants = |role: &str| policy.grants([&role.parse::<RoleName>().unwrap()]);
        for (caller, role, home, dominates) in [
            (&nobody, "reader", &acme, false),
            (&service, "admin", &other, true),
            (&reader, "reader", &acme, true),
            (&reader, "reader", &other, false),
            (&reader, "writer", &acme, false),
            (&admin, "admin", &other, true),
        ] {
            let answer = caller.dominates(&grants(role), home);
            assert_eq!(
                answer,
                if dominates { Ok(()) } else { Err(NotDominated) },
                "{caller:?} {role} {home}"
            );
        }
        assert!(reader.is(user(1)) && !reader.is(user(2)) && !service.is(user(1)) && !nobody.is(user(1)));
        assert!(reader.actor().is_some() && service.actor().is_none() && nobody.actor().is_none());
    }
}
