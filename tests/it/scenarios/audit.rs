//! What the audit trail says of those who administer, and of who somebody is.

use std::collections::BTreeSet;

use iam_schema::Secret;
use iam_svc::domain::policy::PolicySource;
use iam_tests::Scene;
use iam_tests::scene::As::{self, Holder, Nobody, Service};
use iam_tests::scene::Shown;
use serde_json::{Value, json};

use super::common::{NOBODY, PASSWORD, by, new_user, with, world};

pub async fn audit_says_who_did_what_to_whom_on_whose_authority() -> BTreeSet<Shown> {
    let world = world(PolicySource::default());
    let scene = Scene::new("audit::audit_says_who_did_what_to_whom_on_whose_authority", &world);
    let s = &scene;
    let mut everything = String::new();
    let mut events = async || {
        let told = serde_json::to_value(world.told().await).expect("events");
        everything += &told.to_string();
        told.as_array().expect("a list").clone()
    };
    let (admin, key) = s.bootstrap().await;
    let seeded = events().await;
    assert_eq!(seeded.len(), 1);
    for event in &seeded {
        says(
            event,
            &json!({ "operation": "bootstrap", "plane": "api", "user_id": admin, "outcome": "success" }),
        );
        says(event, &json!({ "actor": null, "reason": null }));
    }
    s.workspace("acme").await;
    let ada = s.user("acme", "ada", &["reader"]).await;
    let (_, ada_key) = s.key(&ada, "k").await;
    events().await;

    let no_key = Secret::new("tg_nothing-of-the-kind");
    let create = |name: &str| new_user("acme", json!({ "username": name, "password": PASSWORD }));
    let known = json!({ "client_ip": "192.0.2.1", "request_id": "r1" });
    let about_ada = json!({ "user_id": ada });
    let own_authority = "on the calling service's own authority";
    let (done, denied, failed) =
        (json!({ "outcome": "success" }), json!({ "outcome": "denied" }), json!({ "outcome": "failure" }));
    let with_known = |request: Value| with(request, known.clone());
    type Row<'r> = (As<'r>, &'r str, Value, Value);
    let rows: Vec<Row<'_>> = vec![
        (
            Service,
            "create-user",
            with_known(create("u1")),
            json!({ "plane": "svc", "username": "u1", "workspace": "acme", "reason": own_authority, "actor": null,
                "client_ip": "192.0.2.1", "request_id": "r1", "outcome": "success" }),
        ),
        (
            Service,
            "create-user",
            by(&admin, &create("u2")),
            json!({ "actor": admin, "roles": ["admin"], "username": "u2", "reason": null, "outcome": "success" }),
        ),
        (
            Holder(&key),
            "create-user",
            by(&ada, &with_known(create("u3"))),
            json!({ "plane": "api", "actor": admin, "client_ip": null, "request_id": "r1", "reason": null }),
        ),
        (
            Holder(&ada_key),
            "create-user",
            create("u4"),
            with(
                json!({ "actor": ada, "roles": ["reader"], "reason": "the actor lacks the capability" }),
                denied.clone(),
            ),
        ),
        (
            Nobody,
            "create-user",
            create("u4"),
            with(json!({ "actor": null, "reason": "no credential" }), failed.clone()),
        ),
        (
            Holder(&no_key),
            "create-user",
            create("u4"),
            with(json!({ "reason": "unknown key" }), failed.clone()),
        ),
        (
            Service,
            "create-user",
            by(NOBODY, &create("u4")),
            with(json!({ "actor": NOBODY, "reason": "the actor is unknown or disabled" }), denied.clone()),
        ),
        (Service, "create-user", create("ADA"), with(json!({ "username": "ADA" }), failed.clone())),
        (Holder(&ada_key), "get-user", about_ada.clone(), with(json!({ "user_id": ada }), denied.clone())),
        (
            Holder(&key),
            "delete-user",
            json!({ "user_id": admin }),
            with(
                json!({ "user_id": admin, "reason": "it would leave the deployment without a root admin" }),
                denied.clone(),
            ),
        ),
        (
            Holder(&key),
            "create-api-key",
            json!({ "key": { "user_id": ada, "name": "ci" } }),
            with(json!({ "user_id": ada, "workspace": "acme", "resource": "ci" }), done.clone()),
        ),
        (
            Holder(&key),
            "revoke-api-key",
            json!({ "key_id": NOBODY }),
            with(json!({ "resource": NOBODY }), failed.clone()),
        ),
        (
            Holder(&key),
            "disable-workspace",
            json!({ "workspace_record": { "id": "nowhere" } }),
            with(json!({ "workspace": "nowhere" }), failed.clone()),
        ),
        (Holder(&key), "disable-user", about_ada, with(json!({ "user_id": ada, "workspace": "acme" }), done)),
    ];
    for (who, operation, request, expected) in rows {
        s.ask(who, operation, request.clone()).await;
        let events = events().await;
        assert_eq!(events.len(), 1, "{operation} {request}");
        for event in &events {
            assert_eq!((&event["schema_version"], &event["event_type"]), (&json!(1), &json!("management")));
            says(event, &json!({ "operation": operation }));
            says(event, &expected);
        }
    }
    // Who somebody is, is of another type; a read that is allowed is not told of.
    s.ask(Service, "resolve-api-key", json!({ "api_key": ada_key.expose() })).await;
    s.ok(Service, "resolve-api-key", json!({ "api_key": key.expose() })).await;
    s.ok(Holder(&key), "get-user", json!({ "user_id": ada })).await;
    s.ok(Holder(&key), "list-users", json!({})).await;
    let events = events().await;
    assert_eq!(events.len(), 2);
    let expected = [
        with(json!({ "operation": "resolve-api-key", "user_id": null }), failed),
        json!({ "operation": "resolve-api-key", "user_id": admin, "roles": ["admin"], "outcome": "success" }),
    ];
    for (event, expected) in events.iter().zip(&expected) {
        assert_eq!(event["event_type"], "authenticate");
        says(event, expected);
    }
    for secret in [PASSWORD, key.expose(), ada_key.expose(), no_key.expose(), "pbkdf2"] {
        assert!(!everything.contains(secret), "a secret in the audit trail");
    }
    scene.shown()
}

/// An audit event says this; what is null is left out.
fn says(event: &Value, expected: &Value) {
    for (field, value) in expected.as_object().into_iter().flatten() {
        let said = event.get("payload").and_then(|payload| payload.get(field)).unwrap_or(&Value::Null);
        assert_eq!(said, value, "{field} of {event}");
    }
}
