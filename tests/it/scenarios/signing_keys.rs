//! Signing keys: shown, rotated, retired.

use std::collections::BTreeSet;

use base64::Engine;
use base64::engine::general_purpose::{STANDARD, URL_SAFE_NO_PAD};
use iam_schema::ErrorKind::*;
use iam_schema::Secret;
use iam_svc::domain::policy::{PolicySource, RoleSource};
use iam_tests::Scene;
use iam_tests::scene::As::{Holder, Nobody, Service};
use iam_tests::scene::Shown;
use iam_tests::world::{Setup, World};
use serde_json::{Value, json};

use super::common::PASSWORD;

const HOUR_MS: i64 = 3_600_000;

/// The kids of the published set, in its order.
async fn kids(s: &Scene<'_>) -> Vec<String> {
    let set: Value =
        serde_json::from_str(&s.ok(Nobody, "get-jwks", json!({})).await.text("jwks_json")).expect("JSON");
    let keys = set["keys"].as_array().expect("a list");
    keys.iter().map(|key| key["kid"].as_str().expect("a kid").to_owned()).collect()
}

fn kid(token: &Secret) -> String {
    let header = token.expose().split('.').next().expect("a header");
    let header: Value =
        serde_json::from_slice(&URL_SAFE_NO_PAD.decode(header).expect("base64url")).expect("JSON");
    header["kid"].as_str().expect("a kid").to_owned()
}

async fn lives(s: &Scene<'_>, token: &Secret) -> bool {
    let reply = s.ask(Service, "authenticate", json!({ "credential": token.expose() })).await;
    reply.0.get("error").is_none()
}

/// Seeds, and makes a user `ada` with a password; the admin's id and key.
async fn begin(s: &Scene<'_>) -> (String, Secret) {
    let root = s.bootstrap().await;
    let ada = s.user("default", "ada", &["writer"]).await;
    s.password(&ada, PASSWORD).await;
    root
}

pub async fn published_keys_are_those_that_sign_and_are_about_to(s: &Scene<'_>) {
    for operation in ["get-jwks", "get-signing-key-public"] {
        for caller in [Nobody, Service] {
            s.err(caller, operation, json!({}), NotFound).await;
        }
    }
    begin(s).await;
    let token = s.login("ada", PASSWORD).await;
    for caller in [Nobody, Service, Holder(&token)] {
        let set = s.ok(caller, "get-jwks", json!({})).await.text("jwks_json");
        let set: Value = serde_json::from_str(&set).expect("JSON");
        let keys = set["keys"].as_array().expect("a list");
        assert_eq!(keys.len(), 2, "the active one and the next");
        for key in keys {
            assert_eq!(
                (&key["kty"], &key["crv"], &key["use"], &key["alg"]),
                (&json!("OKP"), &json!("Ed25519"), &json!("sig"), &json!("EdDSA"))
            );
            let mut members: Vec<&String> = key.as_object().expect("an object").keys().collect();
            members.sort();
            assert_eq!(members, ["alg", "crv", "kid", "kty", "use", "x"], "nothing private");
        }
        let signs =
            keys.iter().find(|key| key["kid"] == kid(&token)).expect("the key that signs is published");

        let pem = s.ok(caller, "get-signing-key-public", json!({})).await.text("signing_key_public");
        let body: String = pem.lines().filter(|line| !line.starts_with("-----")).collect();
        assert!(pem.starts_with("-----BEGIN PUBLIC KEY-----\n"));
        let der = STANDARD.decode(body).expect("base64");
        let x = URL_SAFE_NO_PAD.decode(signs["x"].as_str().expect("x")).expect("base64url");
        assert_eq!(der[der.len() - 32..], x[..], "the same key in both forms");
    }
    for operation in ["get-jwks", "get-signing-key-public"] {
        for caller in [Nobody, Service] {
            s.err(caller, operation, json!({ "operation": "login" }), InvalidArgument).await;
        }
        // A credential is not asked for, so a bad one does not matter either.
        s.ok(Holder(&Secret::new("tg_unknown")), operation, json!({})).await;
    }
}

pub async fn rotation_lets_the_published_key_sign_and_the_old_one_verify(s: &Scene<'_>) {
    let (root, root_key) = begin(s).await;
    let old = s.login("ada", PASSWORD).await;
    let before = kids(s).await;
    let pem = s.ok(Nobody, "get-signing-key-public", json!({})).await.text("signing_key_public");

    s.ok(Holder(&root_key), "rotate-signing-key", json!({})).await;
    let new = s.login("ada", PASSWORD).await;
    assert_ne!(kid(&new), kid(&old));
    assert!(before.contains(&kid(&new)), "it was published before it signed");
    assert_ne!(s.ok(Nobody, "get-signing-key-public", json!({})).await.text("signing_key_public"), pem);
    let after = kids(s).await;
    assert_eq!(after.len(), 3);
    assert!(before.iter().all(|kid| after.contains(kid)));
    assert!(lives(s, &old).await && lives(s, &new).await);
    s.ok(Holder(&old), "whoami", json!({})).await;

    s.ok(Service, "rotate-signing-key", json!({ "actor": root })).await;
    s.ok(Service, "rotate-signing-key", json!({})).await;
    assert_eq!(kids(s).await.len(), 5);
    assert!(lives(s, &old).await && lives(s, &new).await);

    let Some(clock) = s.clock() else { return };
    clock.advance_ms(24 * HOUR_MS - 1);
    assert_eq!(kids(s).await.len(), 5, "the grace period is a day");
    clock.advance_ms(1);
    let left = kids(s).await;
    assert_eq!(left.len(), 2);
    assert!(!left.contains(&kid(&old)));
    assert!(lives(s, &s.login("ada", PASSWORD).await).await);
}

pub async fn ring_that_is_full_refuses_to_rotate_until_a_grace_period_ends(s: &Scene<'_>) {
    let (_, root_key) = begin(s).await;
    for _ in 0..62 {
        s.ok(Service, "rotate-signing-key", json!({})).await;
    }
    assert_eq!(kids(s).await.len(), 64);
    for caller in [Service, Holder(&root_key)] {
        s.err(caller, "rotate-signing-key", json!({}), Conflict).await;
    }
    assert_eq!(kids(s).await.len(), 64);
    // One that leaks can still be retired, and makes room.
    let token = s.login("ada", PASSWORD).await;
    s.ok(Service, "retire-signing-key", json!({ "key_id": kid(&token) })).await;
    assert!(!lives(s, &token).await);
    assert!(lives(s, &s.login("ada", PASSWORD).await).await);

    if let Some(clock) = s.clock() {
        clock.advance_ms(24 * HOUR_MS);
        s.ok(Service, "rotate-signing-key", json!({})).await;
        assert_eq!(kids(s).await.len(), 3);
    }
}

pub async fn retired_key_stops_verifying_at_once(s: &Scene<'_>) {
    let (root, root_key) = begin(s).await;
    let leaked = s.login("ada", PASSWORD).await;
    let next = kids(s).await.into_iter().find(|known| *known != kid(&leaked)).expect("a next key");
    assert!(lives(s, &leaked).await);
    s.ok(Holder(&root_key), "retire-signing-key", json!({ "key_id": kid(&leaked) })).await;
    assert!(!lives(s, &leaked).await);
    s.err(Holder(&leaked), "whoami", json!({}), AuthFailed).await;
    let token = s.login("ada", PASSWORD).await;
    assert_eq!(kid(&token), next, "next takes over");
    let now = kids(s).await;
    assert!(now.len() == 2 && !now.contains(&kid(&leaked)));

    // The next one: another takes its place, and what signs is not disturbed.
    let next = now.into_iter().find(|known| *known != kid(&token)).expect("a next key");
    s.ok(Service, "retire-signing-key", json!({ "key_id": next, "actor": root })).await;
    assert!(lives(s, &token).await);
    let now = kids(s).await;
    assert!(now.len() == 2 && !now.contains(&next) && now.contains(&kid(&token)));

    // One in its grace period.
    s.ok(Service, "rotate-signing-key", json!({})).await;
    assert!(lives(s, &token).await);
    s.ok(Service, "retire-signing-key", json!({ "key_id": kid(&token) })).await;
    assert!(!lives(s, &token).await);
    for (caller, request) in [
        (Holder(&root_key), json!({ "key_id": kid(&token) })),
        (Service, json!({ "key_id": "no-such-kid" })),
        (Service, json!({ "key_id": "no-such-kid", "actor": root })),
    ] {
        s.err(caller, "retire-signing-key", request, NotFound).await;
    }
}

pub async fn signing_keys_are_changed_by_who_has_iam_admin_everywhere(s: &Scene<'_>) {
    let (root, root_key) = begin(s).await;
    let ada = s.user("default", "ada2", &["writer"]).await;
    let (_, ada_key) = s.key(&ada, "k").await;
    let before = kids(s).await;
    let nobody = "01a0ce87-ea1a-7bb6-ae10-295948688e1d";
    for (operation, request) in
        [("rotate-signing-key", json!({})), ("retire-signing-key", json!({ "key_id": before[0] }))]
    {
        let acting = |actor: &str| {
            let mut request = request.clone();
            request["actor"] = json!(actor);
            request
        };
        s.err(Nobody, operation, request.clone(), AuthFailed).await;
        let denied = s.err(Holder(&ada_key), operation, request.clone(), OperationNotPermitted).await;
        assert_eq!(denied, "access denied");
        for actor in [&ada, nobody] {
            s.err(Service, operation, acting(actor), OperationNotPermitted).await;
        }
        for caller in [Nobody, Service, Holder(&root_key)] {
            s.err(caller, operation, json!({ "operation": "login" }), InvalidArgument).await;
        }
        s.err(Service, operation, acting("root"), InvalidArgument).await;
    }
    let denied = json!({ "key_id": "no-such-kid" });
    s.err(Holder(&ada_key), "retire-signing-key", denied, OperationNotPermitted).await;
    for request in [json!({}), json!({ "key_id": "a b" }), json!({ "key_id": "x".repeat(129) })] {
        for caller in [Nobody, Service, Holder(&root_key), Holder(&ada_key)] {
            let message = s.err(caller, "retire-signing-key", request.clone(), InvalidArgument).await;
            assert!(message.contains("`key_id`"), "{message}");
        }
    }
    assert_eq!(kids(s).await, before);
    s.ok(Service, "whoami", json!({ "actor": root })).await;
}

/// `iam:admin` in the home workspace alone is not enough for what concerns the whole deployment.
pub async fn iam_admin_of_one_workspace_is_none_of_the_deployment() -> BTreeSet<Shown> {
    let role = |name: &str, scope: &str| RoleSource {
        name: name.into(),
        scope: scope.into(),
        includes: Vec::new(),
        capabilities: vec!["iam:admin".into()],
    };
    let mut policy = PolicySource::default();
    policy.roles.extend([role("mechanic", "assigned"), role("engineer", "*")]);
    let world = World::new(Setup { policy, ..Setup::default() });
    let s = Scene::new("signing_keys::iam_admin_of_one_workspace_is_none_of_the_deployment", &world);
    let (root, _) = begin(&s).await;
    for (name, allowed) in [("mechanic", false), ("engineer", true)] {
        let actor = s.user("default", name, &[name]).await;
        let (_, key) = s.key(&actor, "k").await;
        for (operation, request) in [
            ("rotate-signing-key", json!({})),
            ("retire-signing-key", json!({ "key_id": kids(&s).await[0] })),
            ("retire-signing-key", json!({ "key_id": "no-such-kid" })),
            ("explain", json!({ "user_id": root, "capability": "agent" })),
            ("explain", json!({ "username": "nobody", "capability": "agent" })),
        ] {
            let mut acting = request.clone();
            acting["actor"] = json!(actor);
            for (caller, request) in [(Holder(&key), request), (Service, acting)] {
                let kind = s.ask(caller, operation, request.clone()).await.text("error.type");
                match allowed {
                    true => assert_ne!(kind, "operation-not-permitted", "{name}: {operation} {request}"),
                    false => assert_eq!(kind, "operation-not-permitted", "{name}: {operation} {request}"),
                }
            }
        }
        s.ok(Holder(&key), "explain", json!({ "capability": "agent" })).await;
    }
    s.shown()
}
