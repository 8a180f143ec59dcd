//! What the scenes have shown, held against what the protocol says can happen.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Write;

use iam_schema::ErrorKind::{self, *};
use iam_schema::subject::Plane;
use iam_schema::{Needs, OperationName};
use iam_svc::domain::policy::{Policy, Scope};

use crate::golden::compare;
use crate::scenarios::played;

/// How many scenes a row of the table names.
const NAMED: usize = 2;

/// The planes that an operation is offered on. Source: protocol section 3, the column "needs".
fn planes(operation: OperationName) -> &'static [Plane] {
    match operation.needs() {
        Needs::ServicePlane => &[Plane::Service],
        _ => &[Plane::Service, Plane::Api],
    }
}

/// Every error that an operation can give on a plane; no other is ever seen there.
///
/// Source: protocol sections 3 and 4.
fn can_give(operation: OperationName, plane: Plane) -> BTreeSet<&'static str> {
    use OperationName::*;
    // Every request can be malformed, and every operation rests on the store, which can fail or be damaged.
    let mut kinds = vec![InvalidArgument, Unavailable, InternalError];
    kinds.extend_from_slice(match operation {
        Login => &[AuthFailed, Throttled],
        Authenticate | ResolveApiKey | AuthenticateAnonymous => &[AuthFailed],
        Authorise | AuthoriseMany => &[AuthFailed],
        Explain | Whoami => &[],
        ChangePassword => &[AuthFailed, Throttled, WeakPassword, Conflict],
        CreateUser => &[NotFound, Disabled, Duplicate, WeakPassword],
        ListUsers | GetUser => &[NotFound],
        UpdateUser | EnableUser => &[NotFound, Disabled, Conflict],
        DisableUser | DeleteUser | RevokeUserTokens | ResetPassword => &[NotFound, Conflict],
        CreateApiKey => &[NotFound, Disabled, Duplicate],
        ListApiKeys | RevokeApiKey => &[NotFound],
        CreateWorkspace => &[Duplicate],
        ListMyWorkspaces | ListWorkspaces => &[],
        GetWorkspace => &[NotFound],
        UpdateWorkspace | DisableWorkspace => &[NotFound, Conflict],
        GetSigningKeyPublic | GetJwks => &[NotFound],
        RotateSigningKey => &[Conflict],
        RetireSigningKey => &[NotFound, Conflict],
        Bootstrap => &[AuthFailed],
        BootstrapStatus => &[],
    });
    match (operation.needs(), plane) {
        (Needs::Public, _) | (Needs::ServicePlane | Needs::ServicePlaneOrOneself, Plane::Service) => {}
        // An actor who is unknown or not enabled, or who may not.
        (_, Plane::Service) => kinds.push(OperationNotPermitted),
        (_, Plane::Api) => {
            kinds.push(AuthFailed);
            // Of oneself anybody may know this, and nobody else can be asked about.
            if !matches!(operation, Whoami | ListMyWorkspaces) {
                kinds.push(OperationNotPermitted);
            }
        }
    }
    kinds.into_iter().map(ErrorKind::as_str).collect()
}

/// What is told to those who ask for it on the API plane, where it is not offered.
fn refused_there() -> BTreeSet<&'static str> {
    [InvalidArgument, AuthFailed, OperationNotPermitted].map(ErrorKind::as_str).into()
}

#[tokio::test]
async fn every_outcome_of_every_operation_is_shown_and_no_other() {
    let shown = &played().await.shown;
    let (mut gaps, mut surprises) = (Vec::new(), Vec::new());
    for operation in OperationName::ALL {
        for plane in [Plane::Service, Plane::Api] {
            let offered = planes(*operation).contains(&plane);
            let mut expected = if offered { can_give(*operation, plane) } else { refused_there() };
            if offered {
                expected.insert("success");
            }
            let here = shown.iter().filter(|row| row.operation == *operation && row.plane == plane.as_str());
            let here: BTreeSet<&str> = here.map(|row| row.outcome.as_str()).collect();
            let name = |outcome: &&str| format!("{operation} {} {outcome}", plane.as_str());
            gaps.extend(expected.difference(&here).map(name));
            surprises.extend(here.difference(&expected).map(name));
        }
    }
    assert!(gaps.is_empty(), "no scene shows:\n{}", gaps.join("\n"));
    assert!(surprises.is_empty(), "not in the protocol:\n{}", surprises.join("\n"));
}

#[tokio::test]
async fn table_of_what_is_shown_is_the_golden_one() {
    let played = played().await;
    if !played.failed.is_empty() {
        println!("skipped: some scenes failed, so the table is not whole");
        return;
    }
    let mut rows: BTreeMap<(&str, &str, &str), BTreeSet<&str>> = BTreeMap::new();
    for row in &played.shown {
        let key = (row.operation.as_str(), row.plane, row.outcome.as_str());
        rows.entry(key).or_default().insert(row.scene);
    }
    let mut table = String::from(
        "# Which scene shows which outcome\n\n\
         Written by the coverage test with `UPDATE_GOLDEN=1`; the first scenes by name stand for all.\n\n\
         | operation | plane | outcome | scenes |\n| --- | --- | --- | --- |\n",
    );
    for ((operation, plane, outcome), scenes) in rows {
        let named: Vec<&str> = scenes.into_iter().take(NAMED).collect();
        let _ = writeln!(table, "| {operation} | {plane} | {outcome} | {} |", named.join(", "));
    }
    compare("coverage.md", &table);
}

#[test]
fn capabilities_of_the_roles_are_the_golden_ones() {
    let policy = Policy::build(&Default::default()).expect("the default policy");
    let roles: Vec<(String, Scope, Vec<&str>)> =
        policy.roles().map(|(name, scope, held)| (name.to_string(), scope, held)).collect();
    let mut table = String::from(
        "# The default policy\n\nWhat each role holds, in its scope. Written by the coverage test with \
         `UPDATE_GOLDEN=1`.\n\n| capability |",
    );
    for (name, scope, _) in &roles {
        let scope = match scope {
            Scope::Assigned => "assigned",
            Scope::Everywhere => "*",
        };
        let _ = write!(table, " {name} ({scope}) |");
    }
    let _ = writeln!(table, "\n| --- |{}", " --- |".repeat(roles.len()));
    let capabilities: BTreeSet<&str> = roles.iter().flat_map(|(_, _, held)| held.iter().copied()).collect();
    for capability in capabilities {
        let _ = write!(table, "| {capability} |");
        for (_, _, held) in &roles {
            let _ = write!(table, " {} |", if held.contains(&capability) { "yes" } else { "" });
        }
        table.push('\n');
    }
    compare("roles.md", &table);
}
