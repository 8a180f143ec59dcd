//! What memory answers while the store changes, is behind, or does not answer.

use std::sync::Arc;

use iam_schema::ErrorKind::*;
use iam_schema::changes::{Change, ChangeKind, DELETED, Followed};
use iam_schema::codec::decode;
use iam_schema::subject::Plane;
use iam_schema::{IamResponse, UserId, WorkspaceId};
use iam_svc::dispatch::Headers;
use iam_svc::domain::users::User;
use iam_svc::domain::workspaces::Workspace;
use iam_svc::store::{Read, Store};
use iam_tests::Scene;
use iam_tests::faulty::{Fault, Gate};
use iam_tests::scene::As::{self, Holder, Nobody, Service};
use iam_tests::world::World;
use serde_json::{Value, json};

use super::stage::{Stage, answered, answered_on};
use crate::scenarios::common::{NOBODY, PASSWORD};

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
