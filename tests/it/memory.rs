//! What is answered from memory is never older than what this replica heard, and costs the store no more than it must.

use std::sync::Arc;
use std::time::Instant;

use futures_util::future::join_all;
use iam_schema::changes::{Change, ChangeKind, DELETED, Followed};
use iam_schema::codec::decode;
use iam_schema::subject::Plane;
use iam_schema::{ErrorKind, IamResponse, Secret};
use iam_svc::dispatch::{Answer, Headers, Incoming};
use iam_svc::domain::users::User;
use iam_svc::store::{Read, Store};
use iam_tests::faulty::{Fault, Faulty, Gate};
use iam_tests::scene::As::{Nobody, Service};
use iam_tests::world::Setup;
use iam_tests::{Scene, World};
use serde_json::{Value, json};

const NOBODY: &str = "01a0ce87-ea1a-7bb6-ae10-295948688e1d";

/// Whether a question is answered from memory.
fn at_once(world: &World, floors: Option<&str>, operation: &str, request: &Value) -> bool {
    let payload = request.to_string();
    let headers = Headers { iam_min: floors, ..Headers::default() };
    let payload = payload.as_bytes();
    let incoming = Incoming { plane: Plane::Service, operation, headers, payload, received: Instant::now() };
    matches!(world.dispatch.answer_now(incoming), Answer::Now(_))
}

/// A reader `ada` of `acme`: id, key id and key.
async fn ada(s: &Scene<'_>) -> (String, String, Secret) {
    s.bootstrap().await;
    s.workspace("acme").await;
    let ada = s.user("acme", "ada", &["reader"]).await;
    let (key_id, key) = s.key(&ada, "k").await;
    (ada, key_id, key)
}

#[tokio::test]
async fn memory_that_is_not_to_be_trusted_is_not_used_and_the_store_answers() {
    let world = World::new(Setup::default());
    let s = Scene::new("memory", &world);
    let (ada, _, key) = ada(&s).await;
    let may = json!({ "user_id": ada, "capability": "agent" });
    let whose = json!({ "credential": key.expose() });
    let checks = json!([
        { "capability": "agent", "resource": { "workspace": "acme" }, "parameters": { "workspace": "default" } },
        { "capability": "agent", "resource": { "workspace": "nowhere" } },
    ]);
    let many = json!({ "user_id": ada, "authorise_checks": checks.to_string() });
    for (operation, request) in [("authorise", &may), ("authorise-many", &many), ("authenticate", &whose)] {
        s.ok(Service, operation, request.clone()).await;
        for trusted in [true, false, true] {
            world.dispatch.trust_cache(trusted);
            assert_eq!(at_once(&world, None, operation, request), trusted, "{operation}");
            s.ok(Service, operation, request.clone()).await;
        }
    }
}

#[tokio::test]
async fn floor_that_memory_meets_is_met_at_once() {
    let world = World::new(Setup::default());
    let s = Scene::new("memory", &world);
    let (ada, key_id, _) = ada(&s).await;
    assert!(s.may(&ada, "agent", "acme").await);
    let may = json!({ "user_id": ada, "capability": "agent" });
    for (floors, met) in [
        (format!("user:{ada}=1"), true),
        ("workspace:acme=1".to_owned(), true),
        (format!("user:{ada}=1,workspace:acme=1"), true),
        (format!("user:{ada}=2"), false),
        ("workspace:acme=2".to_owned(), false),
        ("workspace:nowhere=1".to_owned(), false),
        (format!("user:{NOBODY}=1"), false),
        (format!("api-key:{key_id}=1"), true),
        (format!("api-key:{key_id}={DELETED}"), false),
    ] {
        assert_eq!(at_once(&world, Some(&floors), "authorise", &may), met, "{floors}");
    }
}

/// As by the word of another replica, while the store that this one reads is still behind.
#[tokio::test]
async fn key_that_was_revoked_elsewhere_is_refused_whatever_the_store_says() {
    let store = Faulty::embedded();
    let elsewhere = store.world(Setup::default());
    let e = Scene::new("elsewhere", &elsewhere);
    let (ada, key_id, key) = ada(&e).await;
    let (other_id, other) = e.key(&ada, "other").await;
    let world = store.world(Setup { replica: 1, ..Setup::default() });
    let s = Scene::new("memory", &world);
    let resolve = |key: &Secret| json!({ "api_key": key.expose() });
    let heard = |id: &str, version| {
        let change = Change { kind: ChangeKind::ApiKey, id: id.to_owned(), version };
        world.dispatch.follow(&Followed { drop: vec![change], drop_all: false });
    };
    s.ok(Service, "resolve-api-key", resolve(&key)).await;
    s.ok(Service, "resolve-api-key", resolve(&other)).await;
    heard(&key_id, DELETED);
    for _ in 0..2 {
        s.err(Service, "resolve-api-key", resolve(&key), ErrorKind::AuthFailed).await;
        s.ok(Service, "resolve-api-key", resolve(&other)).await;
        // One that may have been revoked is read anew, and no revocation is forgotten for it.
        heard(&other_id, 1);
        heard(&key_id, 1);
    }
}

/// No event came, and memory holds what the caller knows to be gone.
#[tokio::test]
async fn caller_who_knows_what_is_gone_is_not_answered_from_what_memory_holds() {
    let store = Faulty::embedded();
    let world = store.world(Setup::default());
    let s = Scene::new("memory", &world);
    let (ada, key_id, key) = ada(&s).await;
    let (other_id, other) = s.key(&ada, "other").await;
    let user = json!({ "username": "eve", "roles": ["reader"], "password": "violet-anvil-93-sings" });
    s.ok(Service, "create-user", json!({ "workspace": "acme", "user": user })).await;
    let token = s.login("eve", "violet-anvil-93-sings").await;
    let set = s.ok(Nobody, "get-jwks", json!({})).await.text("jwks_json");
    let set: Value = serde_json::from_str(&set).expect("a set");
    let kids: Vec<&str> =
        set["keys"].as_array().expect("keys").iter().filter_map(|k| k["kid"].as_str()).collect();

    let remembered = [&key, &other, &token];
    for credential in remembered {
        s.ok(Service, "authenticate", json!({ "credential": credential.expose() })).await;
    }
    let elsewhere = store.world(Setup { replica: 1, ..Setup::default() });
    let e = Scene::new("elsewhere", &elsewhere);
    e.ok(Service, "revoke-api-key", json!({ "key_id": key_id })).await;
    // The one that signed the token is among them.
    for kid in &kids {
        e.ok(Service, "retire-signing-key", json!({ "key_id": kid })).await;
    }
    let retired = kids.iter().map(|kid| format!("signing-key:{kid}={DELETED}")).collect::<Vec<_>>().join(",");
    for (credential, floors, good) in [
        (&key, format!("api-key:{key_id}={DELETED}"), false),
        (&key, format!("user:{ada}=1,api-key:{key_id}={DELETED}"), false),
        (&other, format!("api-key:{key_id}={DELETED}"), true),
        (&other, format!("api-key:{other_id}=1"), true),
        // Of another kind, whatever its name.
        (&other, format!("signing-key:{other_id}={DELETED}"), true),
        (&other, retired.clone(), true),
        (&token, format!("api-key:{key_id}={DELETED}"), true),
        (&token, retired.clone(), false),
    ] {
        let headers = Headers { iam_min: Some(&floors), ..Headers::default() };
        let request = json!({ "credential": credential.expose() }).to_string();
        let (_, error) = world.bytes(Plane::Service, "authenticate", headers, request.as_bytes()).await;
        assert_eq!(error, (!good).then_some(ErrorKind::AuthFailed), "{floors}");
        // Nothing is dropped for the others on a caller's word.
        let whose = json!({ "credential": credential.expose() });
        assert!(at_once(&world, None, "authenticate", &whose), "{floors}");
    }
}

/// An absence that is remembered is no answer to who knows that somebody was there.
#[tokio::test]
async fn user_who_was_asked_for_too_early_is_found_by_who_knows_of_them() {
    let store = Faulty::embedded();
    let world = store.world(Setup::default());
    let s = Scene::new("memory", &world);
    let (ada, ..) = ada(&s).await;
    assert!(!s.may(NOBODY, "agent", "acme").await);
    let ada = store.user(ada.parse().expect("an id"), Read::Ordinary).await.expect("an answer").expect("ada");
    let late = User {
        id: NOBODY.parse().expect("an id"),
        username: "late".parse().expect("a name"),
        version: 1,
        ..ada
    };
    store.insert_user(&late).await.expect("a user");
    assert!(!s.may(NOBODY, "agent", "acme").await, "remembered for five seconds");
    let floors = format!("user:{NOBODY}=1");
    let headers = Headers { iam_min: Some(&floors), ..Headers::default() };
    let question = json!({ "user_id": NOBODY, "capability": "agent" }).to_string();
    let (reply, _) = world.bytes(Plane::Service, "authorise", headers, question.as_bytes()).await;
    assert_eq!(decode::<IamResponse>(&reply).expect("a reply").decision_allow, Some(true));
}

#[tokio::test]
async fn misses_at_the_same_time_read_the_store_once() {
    let store = Faulty::embedded();
    let world = store.world(Setup::default());
    let s = Scene::new("memory", &world);
    let (ada, _, key) = ada(&s).await;
    for (operation, request, method, nth) in [
        ("authorise", json!({ "user_id": ada, "capability": "agent" }), "user", 0),
        ("authorise", json!({ "user_id": NOBODY, "capability": "agent" }), "user", 0),
        ("authorise", json!({ "user_id": ada, "capability": "agent" }), "workspace", 1),
        ("resolve-api-key", json!({ "api_key": key.expose() }), "api_key_by_hash", 0),
        ("resolve-api-key", json!({ "api_key": "tg_nothing-of-the-kind" }), "api_key_by_hash", 0),
        ("authenticate", json!({ "credential": "a.b.c" }), "key_ring", 0),
    ] {
        world.dispatch.forget_everything();
        store.calls();
        // The first read is held until all the others had their chance to read too.
        let gate = Arc::new(Gate::default());
        store.fail_nth(nth, Fault::Held(gate.clone()));
        let asks = join_all((0..20).map(|_| s.ask(Service, operation, request.clone())));
        let release = async {
            gate.reached().await;
            for _ in 0..100 {
                tokio::task::yield_now().await;
            }
            gate.open();
        };
        tokio::join!(asks, release);
        let reads = store.calls().into_iter().filter(|call| *call == method).count();
        assert_eq!(reads, 1, "of {method} by {operation} {request}");
        store.heal();
    }
}

#[tokio::test]
async fn change_of_unknown_outcome_settles_to_what_the_store_holds() {
    use ChangeKind::{ApiKey, SigningKey, Unknown, User, Workspace};
    let store = Faulty::embedded();
    let world = store.world(Setup::default());
    let s = Scene::new("memory", &world);
    let (ada, key_id, _) = ada(&s).await;
    s.ok(Service, "update-user", json!({ "user_id": ada, "user": { "name": "Ada" } })).await;
    let set = s.ok(Nobody, "get-jwks", json!({})).await.text("jwks_json");
    let set: Value = serde_json::from_str(&set).expect("a set");
    let kid = set["keys"][0]["kid"].as_str().expect("a kid");
    for (kind, id, version) in [
        (User, ada.as_str(), 2),
        (User, NOBODY, DELETED),
        (Workspace, "acme", 1),
        (Workspace, "nowhere", DELETED),
        (ApiKey, &key_id, 1),
        (ApiKey, NOBODY, DELETED),
        (SigningKey, kid, 1),
        (SigningKey, "gone", DELETED),
        // Nothing can be known of these: as they were.
        (User, "ada", 7),
        (Workspace, "a b", 7),
        (ApiKey, "k", 7),
        (Unknown, "x", 7),
    ] {
        let change = Change { kind, id: id.to_owned(), version: 7 };
        let settled = world.dispatch.settled(&change).await.expect("an answer");
        assert_eq!((settled.kind, settled.id.as_str(), settled.version), (kind, id, version));
    }
    // What was read in between may be from before the change: it is dropped.
    let may = json!({ "user_id": ada, "capability": "agent" });
    s.ok(Service, "authorise", may.clone()).await;
    assert!(at_once(&world, None, "authorise", &may));
    world.dispatch.settled(&Change { kind: User, id: ada.clone(), version: 1 }).await.expect("an answer");
    assert!(!at_once(&world, None, "authorise", &may));

    store.fail_all(Fault::Unavailable);
    for (kind, id) in [(User, NOBODY), (Workspace, "acme"), (ApiKey, NOBODY), (SigningKey, kid)] {
        let change = Change { kind, id: id.to_owned(), version: 1 };
        assert!(world.dispatch.settled(&change).await.is_err(), "{kind:?}");
    }
}

/// Syntax comes first: what is wrong with a question is told before anything is read for it.
#[tokio::test]
async fn malformed_question_is_refused_before_its_floors_are_met() {
    let store = Faulty::embedded();
    let world = store.world(Setup::default());
    Scene::new("memory", &world).bootstrap().await;
    store.calls();
    let headers = Headers { iam_min: Some("workspace:default=2"), ..Headers::default() };
    for (operation, request) in [
        ("authorise", json!({ "capability": "agent" })),
        ("authorise-many", json!({ "authorise_checks": "[]" })),
        ("authorise", json!({ "user_id": NOBODY })),
        ("authenticate", json!({})),
        ("get-jwks", json!({ "request_id": "\n" })),
    ] {
        let payload = request.to_string();
        let (_, error) = world.bytes(Plane::Service, operation, headers, payload.as_bytes()).await;
        assert_eq!(error, Some(ErrorKind::InvalidArgument), "{operation} {request}");
    }
    assert_eq!(store.calls().len(), 0);
}

/// Without a credential nobody makes a replica read the store; who trusts a service lets it.
#[tokio::test]
async fn floor_of_a_public_operation_counts_on_the_service_plane_alone() {
    let world = World::new(Setup::default());
    Scene::new("memory", &world).bootstrap().await;
    for (plane, floor, kind) in [
        (Plane::Service, "workspace:default=1", None),
        (Plane::Service, "workspace:default=2", Some(ErrorKind::Unavailable)),
        (Plane::Api, "workspace:default=2", None),
    ] {
        let headers = Headers { iam_min: Some(floor), ..Headers::default() };
        let (reply, error) = world.bytes(plane, "get-jwks", headers, b"{}").await;
        let response: IamResponse = decode(&reply).expect("a reply");
        assert_eq!((error, response.jwks_json.is_empty()), (kind, kind.is_some()), "{plane:?} {floor}");
    }
}
