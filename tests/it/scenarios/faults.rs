//! What callers are told when the store fails, loses a race, or is behind. In process alone: the store is told to.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use iam_schema::ErrorKind::{self, *};
use iam_schema::audit::AuditOutcome;
use iam_schema::changes::{Change, ChangeKind, DELETED, Followed};
use iam_schema::codec::decode;
use iam_schema::subject::Plane;
use iam_schema::{IamResponse, Needs, OperationName, Secret, UserId, WorkspaceId};
use iam_svc::dispatch::{Answered, Headers};
use iam_svc::domain::users::User;
use iam_svc::domain::workspaces::Workspace;
use iam_svc::store::{Read, Store};
use iam_tests::faulty::{Fault, Faulty, Gate};
use iam_tests::scene::As::{self, Holder, Nobody, Service};
use iam_tests::scene::Shown;
use iam_tests::world::{Setup, World};
use iam_tests::{Reply, Scene};
use serde_json::{Value, json};

use super::common::{NOBODY, PASSWORD};

const ANOTHER: &str = "marble-teapot-71-hums";

/// A seeded deployment on a store that can fail.
struct Stage {
    store: Arc<Faulty>,
    world: World,
    root: String,
    root_key: Secret,
    count: AtomicUsize,
}

/// A request that will succeed, and who makes it.
struct Prepared {
    operation: OperationName,
    request: Value,
    actor: String,
    key: Secret,
}

impl Stage {
    async fn new() -> Self {
        let store = Faulty::embedded();
        let setup = Setup { anonymous_user: Some("guest".into()), ..Setup::default() };
        let world = store.world(setup);
        let s = Scene::new("preparing", &world);
        let (root, root_key) = s.bootstrap().await;
        s.workspace("acme").await;
        s.user("acme", "guest", &["reader"]).await;
        Self { store, world, root, root_key, count: AtomicUsize::new(0) }
    }

    fn scene(&self, name: &'static str) -> Scene<'_> {
        Scene::new(name, &self.world)
    }

    /// Another replica on the same store, which hears nothing of this one.
    fn replica(&self) -> World {
        self.store.world(Setup::default())
    }

    fn fresh(&self, what: &str) -> String {
        format!("{what}{}", self.count.fetch_add(1, Ordering::Relaxed))
    }

    /// A new reader of `acme` with a key, and the password [`PASSWORD`].
    async fn user(&self) -> (String, String, Secret) {
        let s = self.scene("preparing");
        let name = self.fresh("user");
        let user = json!({ "username": name, "password": PASSWORD, "roles": ["reader"] });
        let user =
            s.ok(Service, "create-user", json!({ "workspace": "acme", "user": user })).await.text("user.id");
        let (_, key) = s.key(&user, "k").await;
        (user, name, key)
    }

    /// Makes whatever an operation needs to succeed.
    async fn prepared(&self, operation: OperationName) -> Prepared {
        use OperationName::*;
        let s = self.scene("preparing");
        let (user, name, key) = self.user().await;
        let of_user = json!({ "user_id": user });
        let mut prepared =
            Prepared { operation, request: json!({}), actor: self.root.clone(), key: self.root_key.clone() };
        prepared.request = match operation {
            Login => json!({ "username": name, "password": PASSWORD }),
            Authenticate => json!({ "credential": key.expose() }),
            ResolveApiKey => json!({ "api_key": key.expose() }),
            Authorise => {
                json!({ "user_id": self.root, "capability": "agent", "resource_json": r#"{"workspace":"acme"}"# })
            }
            AuthoriseMany => json!({
                "user_id": self.root,
                "authorise_checks": r#"[{"capability":"agent"},{"capability":"agent","resource":{"workspace":"acme"}}]"#,
            }),
            Explain => {
                json!({ "username": name, "capability": "agent", "resource_json": r#"{"workspace":"acme"}"# })
            }
            ChangePassword => {
                (prepared.actor, prepared.key) = (user.clone(), key);
                json!({ "user_id": user, "password": PASSWORD, "new_password": ANOTHER })
            }
            CreateUser => {
                let user =
                    json!({ "username": self.fresh("new"), "password": PASSWORD, "roles": ["reader"] });
                json!({ "workspace": "acme", "user": user })
            }
            ListUsers => json!({ "workspace": "acme" }),
            UpdateUser => json!({ "user_id": user, "user": { "roles": ["writer"], "name": "New" } }),
            GetUser | DisableUser | RevokeUserTokens | DeleteUser | ResetPassword | ListApiKeys => of_user,
            EnableUser => {
                s.ok(Service, "disable-user", of_user.clone()).await;
                of_user
            }
            CreateApiKey => json!({ "key": { "user_id": user, "name": "another" } }),
            RevokeApiKey => json!({ "key_id": s.key(&user, "doomed").await.0 }),
            CreateWorkspace => json!({ "workspace_record": { "id": self.fresh("new") } }),
            GetWorkspace => json!({ "workspace_record": { "id": "acme" } }),
            UpdateWorkspace | DisableWorkspace => {
                let id = self.fresh("changing");
                s.workspace(&id).await;
                json!({ "workspace_record": { "id": id, "name": "New" } })
            }
            RetireSigningKey => {
                let set: Value =
                    serde_json::from_str(&s.ok(Nobody, "get-jwks", json!({})).await.text("jwks_json"))
                        .expect("a set");
                json!({ "key_id": set["keys"][0]["kid"] })
            }
            AuthenticateAnonymous
            | Whoami
            | ListMyWorkspaces
            | ListWorkspaces
            | GetSigningKeyPublic
            | GetJwks
            | RotateSigningKey
            | Bootstrap
            | BootstrapStatus => json!({}),
        };
        prepared
    }

    /// Asks it as whoever may, out of a memory that is empty.
    async fn ask(&self, s: &Scene<'_>, plane: Plane, prepared: &Prepared) -> Reply {
        self.world.dispatch.forget_everything();
        let mut request = prepared.request.clone();
        request["request_id"] = json!("request-7");
        let caller = match (plane, prepared.operation.needs()) {
            (Plane::Service, _) => {
                request["actor"] = json!(prepared.actor);
                Service
            }
            (Plane::Api, Needs::Public) => Nobody,
            (Plane::Api, _) => Holder(&prepared.key),
        };
        s.ask(caller, prepared.operation.as_str(), request).await
    }

    /// Asks it as a trusted service, and gives what it left to be published too.
    async fn answered(&self, prepared: &Prepared) -> (IamResponse, Vec<Change>) {
        let mut request = prepared.request.clone();
        request["actor"] = json!(prepared.actor);
        let answered = answered(&self.world, prepared.operation.as_str(), Headers::default(), &request).await;
        let reply = answered.reply.expect("no deadline was given");
        (decode(&reply.payload).expect("a reply"), answered.changes)
    }
}

/// What a service-plane request comes to.
async fn answered(world: &World, operation: &str, headers: Headers<'_>, request: &Value) -> Answered {
    answered_on(world, Plane::Service, operation, headers, request).await
}

async fn answered_on(
    world: &World,
    plane: Plane,
    operation: &str,
    headers: Headers<'_>,
    request: &Value,
) -> Answered {
    world.answered(plane, operation, headers, request.to_string().as_bytes()).await
}

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

/// An answer read before a change is neither given nor kept after it, whatever was being read.
#[tokio::test]
async fn fill_that_an_invalidation_overtook_is_neither_used_nor_kept() {
    for held in ["api_key_by_hash", "key_ring", "user", "workspace"] {
        for change in
            ["revoke-api-key", "retire-signing-key", "disable-user", "disable-workspace", "delete-user"]
        {
            let stage = Stage::new().await;
            let s = stage.scene("in flight");
            let (user, name, _) = stage.user().await;
            let (id, key) = s.key(&user, "k2").await;
            let token = s.login(&name, PASSWORD).await;
            let set: Value =
                serde_json::from_str(&s.ok(Nobody, "get-jwks", json!({})).await.text("jwks_json"))
                    .expect("a set");
            // A revoked key is no matter to a token, nor a retired key to an API key.
            let (credential, request) = match change {
                "revoke-api-key" => (&key, json!({ "key_id": id })),
                "retire-signing-key" => (&token, json!({ "key_id": set["keys"][0]["kid"] })),
                "disable-workspace" => (&key, json!({ "workspace_record": { "id": "acme" } })),
                _ if held == "key_ring" => (&token, json!({ "user_id": user })),
                _ => (&key, json!({ "user_id": user })),
            };
            let ask = json!({ "credential": credential.expose() });
            stage.world.dispatch.forget_everything();
            stage.store.calls();
            s.ok(Service, "authenticate", ask.clone()).await;
            let Some(nth) = stage.store.calls().iter().position(|call| *call == held) else { continue };

            stage.world.dispatch.forget_everything();
            let gate = Arc::new(Gate::default());
            stage.store.fail_nth(nth, Fault::Held(gate.clone()));
            let context = format!("{change} while {held} is read");
            let (reply, ()) = tokio::join!(s.ask(Service, "authenticate", ask.clone()), async {
                gate.reached().await;
                s.ok(Service, change, request).await;
                gate.open();
            });
            assert_eq!(reply.text("error.type"), "auth-failed", "{context}: {}", reply.0);
            let again = s.ask(Service, "authenticate", ask).await;
            assert_eq!(again.text("error.type"), "auth-failed", "{context}, asked again: {}", again.0);
        }
    }
}

/// The same for what another replica changed, heard of while the old record was being read.
#[tokio::test]
async fn fill_that_an_event_overtook_is_neither_used_nor_kept() {
    let stage = Stage::new().await;
    let s = stage.scene("in flight");
    let other = stage.replica();
    let elsewhere = Scene::new("elsewhere", &other);
    let (user, ..) = stage.user().await;
    let ask = json!({ "user_id": user, "capability": "agent" });
    let gate = Arc::new(Gate::default());
    stage.world.dispatch.forget_everything();
    stage.store.fail_nth(0, Fault::Held(gate.clone()));
    let (reply, ()) = tokio::join!(s.ok(Service, "authorise", ask.clone()), async {
        gate.reached().await;
        elsewhere.ok(Service, "update-user", json!({ "user_id": user, "user": { "roles": [] } })).await;
        let change = Change { kind: ChangeKind::User, id: user.clone(), version: 2 };
        stage.world.dispatch.follow(&Followed { drop: vec![change], drop_all: false });
        gate.open();
    });
    assert_eq!(reply["decision_allow"], false);
    assert_eq!(s.ok(Service, "authorise", ask).await["decision_allow"], false);
}

/// A decision under floors: allowed, denied or the kind of its refusal.
async fn under(world: &World, floors: &str, user: &str) -> String {
    let request =
        json!({ "user_id": user, "capability": "agent", "resource_json": r#"{"workspace":"acme"}"# });
    let headers = Headers { iam_min: Some(floors), ..Headers::default() };
    let answered = answered(world, "authorise", headers, &request).await;
    let reply = answered.reply.expect("no deadline was given");
    let response: IamResponse = decode(&reply.payload).expect("a reply");
    match (response.decision_allow, response.error) {
        (Some(true), None) => "allow".to_owned(),
        (Some(false), None) => "deny".to_owned(),
        (None, Some(error)) => error.kind,
        other => panic!("{other:?}"),
    }
}

#[tokio::test]
async fn answer_is_no_older_than_the_floors_of_the_request() {
    let stage = Stage::new().await;
    let s = stage.scene("floors");
    let (user, ..) = stage.user().await;
    let (key, _) = s.key(&user, "live").await;
    let (revoked, _) = s.key(&user, "dead").await;
    s.ok(Service, "revoke-api-key", json!({ "key_id": revoked })).await;
    let set: Value =
        serde_json::from_str(&s.ok(Nobody, "get-jwks", json!({})).await.text("jwks_json")).expect("a set");
    let kid = set["keys"][0]["kid"].as_str().expect("a kid");
    let many = vec![format!("user:{user}=1"); 65].join(",");

    for (floors, outcome) in [
        (format!("user:{user}=1"), "allow"),
        (format!("user:{user}=0"), "allow"),
        (format!("user:{user}=1,workspace:acme=1"), "allow"),
        (format!("user:{user}=1, workspace:acme=1"), "allow"),
        (format!("user:{user}=2"), "unavailable"),
        (format!("user:{user}={DELETED}"), "unavailable"),
        ("workspace:acme=2".to_owned(), "unavailable"),
        (format!("user:{user}=1,workspace:acme=2"), "unavailable"),
        // What is absent counts as deleted, and nothing is newer.
        (format!("user:{NOBODY}=7"), "allow"),
        (format!("user:{NOBODY}={DELETED}"), "allow"),
        ("workspace:nowhere=7".to_owned(), "allow"),
        (format!("api-key:{key}=1"), "allow"),
        (format!("api-key:{key}={DELETED}"), "unavailable"),
        (format!("api-key:{revoked}={DELETED}"), "allow"),
        (format!("signing-key:{kid}=1"), "allow"),
        (format!("signing-key:{kid}={DELETED}"), "unavailable"),
        (format!("signing-key:gone={DELETED}"), "allow"),
        (String::new(), "invalid-argument"),
        ("user".to_owned(), "invalid-argument"),
        ("user:ada=1".to_owned(), "invalid-argument"),
        ("workspace:a b=1".to_owned(), "invalid-argument"),
        ("galaxy:x=1".to_owned(), "invalid-argument"),
        (format!("user:{user}"), "invalid-argument"),
        (format!("user:{user}=-1"), "invalid-argument"),
        (format!("user:{user}=1;workspace:acme=1"), "invalid-argument"),
        (format!("user:{user}=9223372036854775808"), "invalid-argument"),
        (many, "invalid-argument"),
    ] {
        for warm in [false, true] {
            if warm {
                assert_eq!(under(&stage.world, "workspace:nowhere=1", &user).await, "allow");
            } else {
                stage.world.dispatch.forget_everything();
            }
            assert_eq!(under(&stage.world, &floors, &user).await, outcome, "{floors}, warm: {warm}");
            // What somebody claims to have seen is not held against anybody else.
            assert!(s.may(&user, "agent", "acme").await, "after {floors}");
        }
    }
}

#[tokio::test]
async fn cached_record_older_than_a_floor_is_read_anew() {
    let stage = Stage::new().await;
    let s = stage.scene("floors");
    let other = stage.replica();
    let elsewhere = Scene::new("elsewhere", &other);
    let (user, ..) = stage.user().await;
    assert_eq!(under(&stage.world, "workspace:acme=1", &user).await, "allow");
    elsewhere.ok(Service, "update-user", json!({ "user_id": user, "user": { "roles": [] } })).await;
    assert_eq!(under(&stage.world, "workspace:acme=1", &user).await, "allow", "nobody told this replica");
    assert_eq!(under(&stage.world, &format!("user:{user}=2"), &user).await, "deny");
    assert_eq!(under(&stage.world, "workspace:acme=1", &user).await, "deny", "and now it knows");

    let (user, ..) = stage.user().await;
    assert_eq!(under(&stage.world, "workspace:acme=1", &user).await, "allow");
    elsewhere.ok(Service, "delete-user", json!({ "user_id": user })).await;
    assert_eq!(under(&stage.world, "workspace:acme=1", &user).await, "allow", "nobody told this replica");
    assert_eq!(under(&stage.world, &format!("user:{user}={DELETED}"), &user).await, "deny");
    assert_eq!(under(&stage.world, "workspace:acme=1", &user).await, "deny", "and now it knows");

    let (user, ..) = stage.user().await;
    assert_eq!(under(&stage.world, "workspace:acme=1", &user).await, "allow");
    elsewhere.ok(Service, "disable-workspace", json!({ "workspace_record": { "id": "acme" } })).await;
    assert_eq!(under(&stage.world, "workspace:acme=2", &user).await, "deny");
    assert!(!s.may(&user, "agent", "acme").await);
}

#[tokio::test]
async fn holder_whom_memory_refuses_is_let_in_by_floors_and_nobody_else_makes_us_read() {
    let stage = Stage::new().await;
    let s = stage.scene("floors");
    let other = stage.replica();
    let elsewhere = Scene::new("elsewhere", &other);
    let (user, ..) = stage.user().await;
    s.ok(Service, "disable-user", json!({ "user_id": user })).await;
    assert_eq!(under(&stage.world, "workspace:acme=1", &user).await, "deny");
    elsewhere.ok(Service, "enable-user", json!({ "user_id": user })).await;
    let (_, key) = elsewhere.key(&user, "new").await;

    let floors = format!("user:{user}=3");
    for (credential, floors, kind) in [
        (key.expose(), None, Some("auth-failed")),
        ("tg_nothing-of-the-kind", Some(floors.as_str()), Some("auth-failed")),
        (key.expose(), Some(floors.as_str()), None),
        (key.expose(), None, None),
    ] {
        let bearer = format!("Bearer {credential}");
        let headers = Headers { authorization: Some(&bearer), iam_min: floors, ..Headers::default() };
        stage.store.calls();
        let answered = answered_on(&stage.world, Plane::Api, "whoami", headers, &json!({})).await;
        let response: IamResponse = decode(&answered.reply.expect("a reply").payload).expect("a reply");
        assert_eq!(response.error.map(|error| error.kind).as_deref(), kind, "{floors:?}");
        let read = stage.store.calls().contains(&"user");
        assert_eq!(read, kind.is_none(), "whether users were read, {floors:?}");
    }
}

#[tokio::test]
async fn store_that_is_behind_is_read_in_earnest_and_else_is_unavailable() {
    let stage = Stage::new().await;
    let s = stage.scene("floors");
    let (user, ..) = stage.user().await;
    let id: UserId = user.parse().expect("an id");
    let acme: WorkspaceId = "acme".parse().expect("an id");
    let old: User = stage.store.user(id, Read::Serial).await.expect("a store").expect("a user");
    let old_acme: Workspace =
        stage.store.workspace(&acme, Read::Serial).await.expect("a store").expect("a workspace");
    s.ok(Service, "update-user", json!({ "user_id": user, "user": { "name": "New" } })).await;
    s.ok(Service, "update-workspace", json!({ "workspace_record": { "id": "acme", "name": "New" } })).await;

    let replica = stage.replica();
    for (serial, outcome) in [(false, "allow"), (true, "unavailable")] {
        for floors in [format!("user:{user}=2"), "workspace:acme=2".to_owned()] {
            replica.dispatch.forget_everything();
            stage.store.old_user(old.clone(), serial);
            stage.store.old_workspace(old_acme.clone(), serial);
            assert_eq!(under(&replica, &floors, &user).await, outcome, "{floors}, serial too: {serial}");
            stage.store.heal();
        }
    }
    // Who has heard of the change itself needs no floor to be told.
    let seen = |version| Change { kind: ChangeKind::User, id: user.clone(), version };
    replica.dispatch.follow(&Followed { drop: vec![seen(2)], drop_all: false });
    stage.store.old_user(old.clone(), false);
    assert_eq!(under(&replica, "workspace:acme=1", &user).await, "allow");
    replica.dispatch.follow(&Followed { drop: vec![seen(2)], drop_all: false });
    stage.store.old_user(old, true);
    assert_eq!(under(&replica, "workspace:acme=1", &user).await, "unavailable");
}

/// What is known is answered while the store is down, and what is not is no allow.
#[tokio::test]
async fn memory_answers_while_the_store_does_not_and_no_longer_than_a_minute() {
    let stage = Stage::new().await;
    let s = stage.scene("memory");
    let (user, _, key) = stage.user().await;
    let (stranger, ..) = stage.user().await;
    let ask = |user: &str| json!({ "user_id": user, "capability": "agent" });
    let who: [(As<'_>, &str, Value); 3] = [
        (Service, "authorise", ask(&user)),
        (Service, "authenticate", json!({ "credential": key.expose() })),
        (Holder(&key), "authorise", json!({ "capability": "agent" })),
    ];
    for (caller, operation, request) in who.clone() {
        s.ok(caller, operation, request).await;
    }
    stage.store.fail_all(Fault::Unavailable);
    stage.world.clock.advance_ms(59_999);
    for (caller, operation, request) in who.clone() {
        s.ok(caller, operation, request).await;
    }
    s.err(Service, "authorise", ask(&stranger), Unavailable).await;
    stage.world.clock.advance_ms(1);
    for (caller, operation, request) in who {
        s.err(caller, operation, request, Unavailable).await;
    }
}
