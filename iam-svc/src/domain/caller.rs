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
