//! Dominance: nobody gains by an operation what they lack.

use iam_schema::WorkspaceId;

use super::decision::Principal;
use super::policy::Grants;

/// Whether `actor` holds everything in `grants`, in the same scope or a wider one, where those grants belong to
/// somebody whose home is `home`.
///
/// Source: protocol section 3, "dominance".
pub fn dominates(actor: &Principal, grants: &Grants, home: &WorkspaceId) -> bool {
    let there = if actor.workspace == *home {
        actor.grants.everywhere.union(actor.grants.assigned)
    } else {
        actor.grants.everywhere
    };
    grants.everywhere.is_subset(&actor.grants.everywhere) && grants.assigned.is_subset(&there)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::domain::policy::{Policy, PolicySource, RoleSource};

    fn policy() -> Policy {
        let mut source = PolicySource::default();
        source.roles.push(RoleSource {
            name: "steward".into(),
            scope: "assigned".into(),
            includes: vec!["reader".into()],
            capabilities: vec!["users:admin".into()],
        });
        Policy::build(&source).unwrap()
    }

    #[test]
    fn dominance_follows_capabilities_and_scope() {
        let policy = policy();
        type Row<'r> = (&'r [&'r str], &'r str, &'r [&'r str], &'r str, bool);
        let rows: &[Row<'_>] = &[
            (&["admin"], "default", &["admin"], "acme", true),
            (&["admin"], "default", &["steward"], "acme", true),
            (&["steward"], "acme", &["reader"], "acme", true),
            (&["steward"], "acme", &["steward"], "acme", true),
            (&["steward"], "acme", &["reader"], "other", false),
            (&["steward"], "acme", &["writer"], "acme", false),
            (&["steward"], "acme", &["admin"], "acme", false),
            (&["steward"], "acme", &[], "other", true),
            (&["writer"], "acme", &["admin"], "acme", false),
        ];
        for (actor, at, target, home, expected) in rows {
            let actor = Principal::example(&policy, at, actor);
            let target = Principal::example(&policy, home, target);
            assert_eq!(
                dominates(&actor, &target.grants, &target.workspace),
                *expected,
                "{actor:?} {target:?}"
            );
        }
    }
}
