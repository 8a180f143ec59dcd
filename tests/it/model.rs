//! Random sequences of operations, held against a model of the protocol.

use iam_schema::OperationName;
use iam_tests::cassandra;
use iam_tests::model::campaign::{Campaign, Tally};
use iam_tests::model::ground::Backend;

/// Outcomes that are worth nothing unless they come up: each operation's success and its telling refusals.
const MUST_COME_UP: &[(OperationName, &[&str])] = &[
    (OperationName::Login, &["success", "auth-failed"]),
    (OperationName::Authenticate, &["success", "auth-failed", "operation-not-permitted"]),
    (OperationName::ResolveApiKey, &["success", "auth-failed", "operation-not-permitted"]),
    (OperationName::AuthenticateAnonymous, &["auth-failed"]),
    (OperationName::Authorise, &["success", "auth-failed", "operation-not-permitted", "invalid-argument"]),
    (OperationName::AuthoriseMany, &["success", "auth-failed", "operation-not-permitted"]),
    (OperationName::Explain, &["success", "operation-not-permitted", "invalid-argument"]),
    (OperationName::Whoami, &["success", "auth-failed", "invalid-argument"]),
    (OperationName::ChangePassword, &["success", "auth-failed", "operation-not-permitted"]),
    (OperationName::CreateUser, &["success", "duplicate", "disabled", "weak-password", "not-found"]),
    (OperationName::ListUsers, &["success", "operation-not-permitted", "invalid-argument"]),
    (OperationName::GetUser, &["success", "operation-not-permitted", "not-found"]),
    (OperationName::UpdateUser, &["success", "operation-not-permitted", "invalid-argument", "not-found"]),
    (OperationName::DisableUser, &["success", "operation-not-permitted", "auth-failed"]),
    (OperationName::EnableUser, &["success", "operation-not-permitted", "disabled"]),
    (OperationName::RevokeUserTokens, &["success", "operation-not-permitted"]),
    (OperationName::DeleteUser, &["success", "operation-not-permitted", "not-found"]),
    (OperationName::ResetPassword, &["success", "operation-not-permitted", "not-found"]),
    (OperationName::CreateApiKey, &["success", "duplicate", "disabled", "invalid-argument"]),
    (OperationName::ListApiKeys, &["success", "operation-not-permitted", "invalid-argument"]),
    (OperationName::RevokeApiKey, &["success", "operation-not-permitted", "not-found"]),
    (OperationName::CreateWorkspace, &["success", "duplicate", "operation-not-permitted"]),
    (OperationName::ListMyWorkspaces, &["success", "auth-failed"]),
    (OperationName::ListWorkspaces, &["success", "operation-not-permitted"]),
    (OperationName::GetWorkspace, &["success", "not-found"]),
    (OperationName::UpdateWorkspace, &["success", "not-found", "operation-not-permitted"]),
    (OperationName::DisableWorkspace, &["success", "not-found", "operation-not-permitted"]),
    (OperationName::GetSigningKeyPublic, &["success"]),
    (OperationName::GetJwks, &["success"]),
    (OperationName::RotateSigningKey, &["success", "operation-not-permitted"]),
    (OperationName::RetireSigningKey, &["success", "not-found", "operation-not-permitted"]),
    (OperationName::Bootstrap, &["success", "auth-failed"]),
    (OperationName::BootstrapStatus, &["success"]),
];

/// From so many sequences on, all of that must have come up.
const ENOUGH: usize = 400;

#[test]
fn service_answers_as_the_model_of_the_protocol() {
    let tally = play(Campaign::from_environment(Backend::Embedded, ENOUGH, 48));
    if tally.sequences >= ENOUGH {
        everything_came_up(&tally);
    }
}

#[test]
fn service_answers_as_the_model_of_the_protocol_on_cassandra() {
    let Some(hosts) = cassandra::hosts() else { return };
    play(Campaign::from_environment(Backend::Cassandra(hosts), 24, 48));
}

fn play(campaign: Campaign) -> Tally {
    println!("seed {}, {} sequences", campaign.seed, campaign.sequences);
    let (tally, found) = campaign.run();
    println!("{}", tally.table());
    if let Some(found) = found {
        panic!(
            "\nfound after {} sequences and {} requests, {:.1} s: {}",
            found.after,
            found.requests,
            tally.elapsed.as_secs_f64(),
            found.report
        );
    }
    tally
}

fn everything_came_up(tally: &Tally) {
    let named: Vec<_> = MUST_COME_UP.iter().map(|(operation, _)| operation).collect();
    assert!(OperationName::ALL.iter().all(|operation| named.contains(&operation)), "an operation has no row");
    let rows =
        MUST_COME_UP.iter().flat_map(|(operation, outcomes)| outcomes.iter().map(move |o| (operation, o)));
    let missing: Vec<_> =
        rows.filter(|(operation, outcome)| tally.count(**operation, outcome) == 0).collect();
    assert!(missing.is_empty(), "these never came up: {missing:?}");
    assert!(tally.old > 0, "no replica was ever behind");
}
