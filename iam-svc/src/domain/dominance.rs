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
    use std::collections::BTreeSet;

    use iam_schema::{Timestamp, UserId};

    use super::*;
    use crate::domain::policy::{Policy, PolicySource, RoleSource};
    use crate::domain::users::User;

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

    fn principal(policy: &Policy, roles: &[&str], home: &str) -> Principal {
        let user = User {
            id: UserId::from_uuid(uuid::Uuid::nil()),
            version: 1,
            workspace: home.parse().unwrap(),
            workspace_epoch: 0,
            username: "u".parse().unwrap(),
            name: String::new(),
            email: String::new(),
            roles: roles.iter().map(|r| r.parse().unwrap()).collect::<BTreeSet<_>>(),
            enabled: true,
            must_change_password: false,
            password: None,
            temporary_until: None,
            key_epoch: 0,
            token_epoch: 0,
            created: Timestamp::from_millis(0),
        };
        Principal::new(&user, policy)
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
            let actor = principal(&policy, actor, at);
            let target = principal(&policy, target, home);
            assert_eq!(
                dominates(&actor, &target.grants, &target.workspace),
                *expected,
                "{actor:?} {target:?}"
            );
        }
    }
}
