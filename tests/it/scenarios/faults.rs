//! What callers are told when the store fails, loses a race, or is behind. In process alone: the store is told to.

mod memory;
mod stage;

use std::collections::BTreeSet;
use std::sync::Arc;

use iam_schema::ErrorKind::{self, *};
use iam_schema::audit::AuditOutcome;
use iam_schema::changes::{ChangeKind, DELETED};
use iam_schema::subject::Plane;
use iam_schema::{Needs, OperationName};
use iam_svc::store::{Read, Store};
use iam_tests::faulty::{Fault, Faulty, Gate};
use iam_tests::scene::As::{Nobody, Service};
use iam_tests::scene::Shown;
use iam_tests::world::Setup;
use iam_tests::{Reply, Scene};
use serde_json::{Value, json};

use self::stage::{ANOTHER, Stage};
use super::common::PASSWORD;

fn offered(operation: OperationName) -> &'static [Plane] {
    match operation.needs() {
        Needs::ServicePlane => &[Plane::Service],
        _ => &[Plane::Service, Plane::Api],
    }
}

fn writes(method: &str) -> bool {
    ["insert", "update", "delete", "replace", "seed"].contains(&method.split('_').next().unwrap_or_default())
        && method != "seed_state"
}

fn refused(reply: &Reply, kind: ErrorKind, context: &str) {
    assert_eq!(reply.text("error.type"), kind.as_str(), "{context}: {}", reply.0);
    assert_eq!(
        reply.0.as_object().map(serde_json::Map::len),
        Some(1),
        "{context} answers nothing else: {}",
        reply.0
    );
    let message = reply.text("error.message");
    assert!(!message.contains("told"), "{context} tells no cause: {message}");
}

/// All operations but `bootstrap`, which needs an empty store.
fn operations() -> impl Iterator<Item = OperationName> {
    OperationName::ALL.iter().copied().filter(|operation| *operation != OperationName::Bootstrap)
}

pub async fn store_that_does_not_answer_is_unavailable_and_never_an_allow() -> BTreeSet<Shown> {
    let stage = Stage::new().await;
    let s = stage.scene("faults::store_that_does_not_answer_is_unavailable_and_never_an_allow");
    for operation in operations() {
        for plane in offered(operation) {
            let prepared = stage.prepared(operation).await;
            stage.store.fail_all(Fault::Unavailable);
            let reply = stage.ask(&s, *plane, &prepared).await;
            stage.store.heal();
            refused(&reply, Unavailable, operation.as_str());
        }
    }
    let mut shown = s.shown();
    for caller in [Nobody, Service] {
        let store = Faulty::embedded();
        let world = store.world(Setup::default());
        let empty =
            Scene::new("faults::store_that_does_not_answer_is_unavailable_and_never_an_allow", &world);
        store.fail_all(Fault::Unavailable);
        empty.err(caller, "bootstrap", json!({}), Unavailable).await;
        empty.err(caller, "bootstrap-status", json!({}), Unavailable).await;
        store.heal();
        empty.ok(caller, "bootstrap", json!({})).await;
        shown.extend(empty.shown());
    }
    shown
}

/// Each call that an operation makes of the store fails alone, in each way that it can.
pub async fn fault_of_any_one_call_is_told_as_it_is() -> BTreeSet<Shown> {
    let stage = Stage::new().await;
    let s = stage.scene("faults::fault_of_any_one_call_is_told_as_it_is");
    for operation in operations() {
        for plane in offered(operation) {
            let prepared = stage.prepared(operation).await;
            stage.store.calls();
            let reply = stage.ask(&stage.scene("preparing"), *plane, &prepared).await;
            assert!(reply.0.get("error").is_none(), "{operation}: {}", reply.0);
            for (n, method) in stage.store.calls().into_iter().enumerate() {
                let mut faults = vec![(Fault::Unavailable, Unavailable), (Fault::Corrupt, InternalError)];
                if writes(method) {
                    faults.push((Fault::UnknownAndNot, Unavailable));
                }
                // Once for each operation: a panic makes a noise.
                if n == 0 && *plane == Plane::Service {
                    faults.push((Fault::Panic("told to".to_owned()), InternalError));
                }
                for (fault, kind) in faults {
                    let context = format!("{operation} on {plane:?}, call {n} of {method}: {fault:?}");
                    let prepared = stage.prepared(operation).await;
                    stage.store.fail_nth(n, fault);
                    let reply = stage.ask(&s, *plane, &prepared).await;
                    stage.store.heal();
                    refused(&reply, kind, &context);
                    let told = stage.world.last_told().await;
                    assert_eq!(told.request_id, "request-7", "{context}");
                    assert_eq!(told.outcome, Some(AuditOutcome::Failure), "{context}");
                    if kind == InternalError {
                        assert!(reply.text("error.message").contains("request-7"), "{context}: {}", reply.0);
                    }
                }
            }
        }
    }
    let mut shown = s.shown();
    for (method, fault, kind) in [
        ("seed", Fault::Corrupt, InternalError),
        ("seed", Fault::Panic("told to".to_owned()), InternalError),
        ("seed", Fault::UnknownAndNot, Unavailable),
        ("seed", Fault::LostRace, AuthFailed),
        ("seed_state", Fault::Corrupt, InternalError),
    ] {
        for caller in [Nobody, Service] {
            let store = Faulty::embedded();
            let world = store.world(Setup::default());
            let empty = Scene::new("faults::fault_of_any_one_call_is_told_as_it_is", &world);
            store.fail(method, fault.clone());
            refused(&empty.ask(caller, "bootstrap", json!({})).await, kind, method);
            store.heal();
            empty.ok(caller, "bootstrap", json!({})).await;
            shown.extend(empty.shown());
        }
    }
    shown
}

pub async fn change_that_loses_every_race_is_a_conflict() -> BTreeSet<Shown> {
    use OperationName::*;
    let stage = Stage::new().await;
    let s = stage.scene("faults::change_that_loses_every_race_is_a_conflict");
    for (method, operations, tries_again) in [
        (
            "update_user",
            &[ChangePassword, UpdateUser, DisableUser, EnableUser, RevokeUserTokens, ResetPassword][..],
            true,
        ),
        ("delete_user", &[DeleteUser], true),
        ("update_workspace", &[UpdateWorkspace, DisableWorkspace], true),
        // Somebody else's rotation may be all that was wanted, so the caller decides.
        ("replace_key_ring", &[RotateSigningKey, RetireSigningKey], false),
    ] {
        for operation in operations {
            for plane in offered(*operation) {
                let prepared = stage.prepared(*operation).await;
                stage.store.fail(method, Fault::LostRace);
                let reply = stage.ask(&s, *plane, &prepared).await;
                stage.store.heal();
                refused(&reply, Conflict, operation.as_str());

                // One that loses once is decided anew, and done.
                let unseen = stage.scene("preparing");
                let prepared = stage.prepared(*operation).await;
                stage.store.calls();
                stage.ask(&unseen, *plane, &prepared).await;
                let calls = stage.store.calls();
                let nth = calls.iter().position(|call| *call == method).expect("a write");
                let prepared = stage.prepared(*operation).await;
                stage.store.fail_nth(nth, Fault::LostRace);
                let reply = stage.ask(&unseen, *plane, &prepared).await;
                stage.store.heal();
                assert_eq!(reply.0.get("error").is_none(), tries_again, "{operation}: {}", reply.0);
            }
        }
    }
    s.shown()
}

/// A change that another one overtook is made on top of it, and neither is lost.
#[tokio::test]
async fn changes_of_one_user_at_the_same_time_are_all_made() {
    let stage = Stage::new().await;
    let s = stage.scene("at the same time");
    let (user, ..) = stage.user().await;
    let update = |user_fields: Value| json!({ "user_id": user, "user": user_fields });
    let gate = Arc::new(Gate::default());
    // Its first read is held back until somebody else's change was made.
    stage.store.fail_nth(0, Fault::Held(gate.clone()));
    tokio::join!(s.ok(Service, "update-user", update(json!({ "name": "Ada" }))), async {
        gate.reached().await;
        s.ok(Service, "update-user", update(json!({ "email": "ada@example.org" }))).await;
        gate.open();
    });
    let record = s.ok(Service, "get-user", json!({ "user_id": user })).await;
    assert_eq!(
        (&record["user"]["name"], &record["user"]["email"], &record["user"]["version"]),
        (&json!("Ada"), &json!("ada@example.org"), &json!(3))
    );
}

/// Two who know the password change it at the same time: one of them does, and the other is told.
#[tokio::test]
async fn password_changed_meanwhile_is_not_overwritten() {
    let stage = Stage::new().await;
    let s = stage.scene("at the same time");
    let (user, name, _) = stage.user().await;
    let change =
        |new: &str| json!({ "user_id": user, "actor": user, "password": PASSWORD, "new_password": new });
    let gate = Arc::new(Gate::default());
    stage.world.dispatch.forget_everything();
    s.ok(Service, "whoami", json!({ "actor": user })).await;
    // The record is read, then held back; the actor is known already.
    stage.store.fail_nth(0, Fault::Held(gate.clone()));
    tokio::join!(s.err(Service, "change-password", change("first-thimble-42-wins"), Conflict), async {
        gate.reached().await;
        s.ok(Service, "change-password", change(ANOTHER)).await;
        gate.open();
    });
    s.login(&name, ANOTHER).await;
}

/// The version of a record before a change: 1 of a key, which never has another, and of what is about to be.
async fn known_version(stage: &Stage, kind: ChangeKind, id: &str) -> u64 {
    match kind {
        ChangeKind::User => {
            let user = stage.store.user(id.parse().expect("an id"), Read::Serial).await.expect("a store");
            user.map_or(1, |user| user.version)
        }
        ChangeKind::Workspace => {
            let workspace =
                stage.store.workspace(&id.parse().expect("an id"), Read::Serial).await.expect("a store");
            workspace.map_or(1, |workspace| workspace.version)
        }
        _ => 1,
    }
}

/// What may have happened is told with the last known version, and forgotten here.
#[tokio::test]
async fn change_of_unknown_outcome_is_published_with_the_last_known_version() {
    use OperationName::*;
    let stage = Stage::new().await;
    for (method, kind, operations) in [
        (
            "update_user",
            ChangeKind::User,
            &[ChangePassword, UpdateUser, DisableUser, EnableUser, RevokeUserTokens, ResetPassword][..],
        ),
        ("insert_user", ChangeKind::User, &[CreateUser]),
        ("delete_user", ChangeKind::User, &[DeleteUser]),
        ("insert_api_key", ChangeKind::ApiKey, &[CreateApiKey]),
        ("delete_api_key", ChangeKind::ApiKey, &[RevokeApiKey]),
        ("insert_workspace", ChangeKind::Workspace, &[CreateWorkspace]),
        ("update_workspace", ChangeKind::Workspace, &[UpdateWorkspace, DisableWorkspace]),
        ("replace_key_ring", ChangeKind::SigningKey, &[RotateSigningKey, RetireSigningKey]),
    ] {
        for operation in operations {
            for done in [false, true] {
                let prepared = stage.prepared(*operation).await;
                let target = ["/user_id", "/workspace_record/id", "/key_id"];
                let target =
                    target.iter().find_map(|at| prepared.request.pointer(at)).and_then(Value::as_str);
                let before = match target {
                    Some(id) => known_version(&stage, kind, id).await,
                    None => 1,
                };
                stage.store.fail(method, if done { Fault::UnknownButDone } else { Fault::UnknownAndNot });
                let (reply, changes) = stage.answered(&prepared).await;
                stage.store.heal();
                let error = reply.error.expect("a refusal");
                assert_eq!(error.kind, "unavailable", "{operation}");
                assert!(!changes.is_empty(), "{operation} publishes");
                for change in &changes {
                    assert_eq!((change.kind, change.version), (kind, before), "{operation}, done: {done}");
                }
                if let Some(id) = target {
                    assert!(changes.iter().any(|change| change.id == id), "{operation}: {changes:?}");
                }
            }
        }
    }
}

/// The same where what changed is known: then the event has the new version.
#[tokio::test]
async fn change_that_was_made_is_published_with_its_version() {
    use OperationName::*;
    let stage = Stage::new().await;
    for (operation, kind, version) in [
        (UpdateUser, ChangeKind::User, 2),
        (DisableUser, ChangeKind::User, 2),
        (EnableUser, ChangeKind::User, 3),
        (RevokeUserTokens, ChangeKind::User, 2),
        (ResetPassword, ChangeKind::User, 2),
        (ChangePassword, ChangeKind::User, 2),
        (DeleteUser, ChangeKind::User, DELETED),
        (CreateUser, ChangeKind::User, 1),
        (CreateApiKey, ChangeKind::ApiKey, 1),
        (RevokeApiKey, ChangeKind::ApiKey, DELETED),
        (CreateWorkspace, ChangeKind::Workspace, 1),
        (UpdateWorkspace, ChangeKind::Workspace, 2),
        (DisableWorkspace, ChangeKind::Workspace, 2),
    ] {
        let (reply, changes) = stage.answered(&stage.prepared(operation).await).await;
        assert!(reply.error.is_none(), "{operation}: {:?}", reply.error);
        let told: Vec<(ChangeKind, u64)> =
            changes.iter().map(|change| (change.kind, change.version)).collect();
        assert_eq!(told, [(kind, version)], "{operation}");
    }
    for operation in [RotateSigningKey, RetireSigningKey] {
        let (reply, changes) = stage.answered(&stage.prepared(operation).await).await;
        assert!(reply.error.is_none());
        assert!(changes.iter().all(|change| change.kind == ChangeKind::SigningKey) && !changes.is_empty());
    }
    // What changes nothing, and what only asks, publishes nothing.
    for operation in operations().filter(|operation| !changes_something(*operation)) {
        let (reply, changes) = stage.answered(&stage.prepared(operation).await).await;
        assert!(reply.error.is_none(), "{operation}: {:?}", reply.error);
        assert_eq!(changes, [], "{operation}");
    }
}

fn changes_something(operation: OperationName) -> bool {
    use OperationName::*;
    !matches!(
        operation,
        Login
            | Authenticate
            | ResolveApiKey
            | AuthenticateAnonymous
            | Authorise
            | AuthoriseMany
            | Explain
            | Whoami
            | ListUsers
            | GetUser
            | ListApiKeys
            | ListMyWorkspaces
            | ListWorkspaces
            | GetWorkspace
            | GetSigningKeyPublic
            | GetJwks
            | BootstrapStatus
    )
}

#[tokio::test]
async fn change_of_unknown_outcome_that_was_made_shows_at_once() {
    let stage = Stage::new().await;
    let s = stage.scene("unknown outcomes");
    let (user, _, key) = stage.user().await;
    assert!(s.may(&user, "agent", "acme").await);
    stage.store.fail("update_user", Fault::UnknownButDone);
    let update = json!({ "user_id": user, "user": { "roles": [] } });
    s.err(Service, "update-user", update, Unavailable).await;
    assert!(!s.may(&user, "agent", "acme").await);
    s.ok(Service, "authenticate", json!({ "credential": key.expose() })).await;
    s.err(Service, "disable-user", json!({ "user_id": user }), Unavailable).await;
    s.err(Service, "authenticate", json!({ "credential": key.expose() }), AuthFailed).await;

    let (user, _, _) = stage.user().await;
    let (id, key) = s.key(&user, "doomed").await;
    s.ok(Service, "authenticate", json!({ "credential": key.expose() })).await;
    stage.store.fail("delete_api_key", Fault::UnknownButDone);
    s.err(Service, "revoke-api-key", json!({ "key_id": id }), Unavailable).await;
    s.err(Service, "authenticate", json!({ "credential": key.expose() }), AuthFailed).await;
}

/// A key whose revocation turned out not to have happened is as good as before.
#[tokio::test]
async fn change_of_unknown_outcome_that_was_not_made_leaves_all_as_it_was() {
    let stage = Stage::new().await;
    let s = stage.scene("unknown outcomes");
    let (user, _, _) = stage.user().await;
    let (id, key) = s.key(&user, "spared").await;
    s.ok(Service, "authenticate", json!({ "credential": key.expose() })).await;
    stage.store.fail("delete_api_key", Fault::UnknownAndNot);
    stage.store.fail("update_user", Fault::UnknownAndNot);
    s.err(Service, "revoke-api-key", json!({ "key_id": id }), Unavailable).await;
    s.err(Service, "disable-user", json!({ "user_id": user }), Unavailable).await;
    s.ok(Service, "authenticate", json!({ "credential": key.expose() })).await;
    assert!(s.may(&user, "agent", "acme").await);
}
