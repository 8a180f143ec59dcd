//! Workspaces: made, found, changed, disabled; and what becomes of those whose home they are.

use std::collections::BTreeSet;

use futures_util::future::join_all;
use iam_schema::ErrorKind::*;
use iam_schema::Secret;
use iam_tests::Scene;
use iam_tests::scene::As::{Holder, Nobody, Service};
use iam_tests::scene::Shown;
use serde_json::{Value, json};

use super::common::{
    NOBODY, PASSWORD, acme, alive, by, malformed, new_user, offices, on, once, only_admins_may, pages, text,
    texts, user, with, world,
};

pub async fn workspace_is_created_found_and_changed(s: &Scene<'_>) {
    let (admin, key) = s.bootstrap().await;
    let input = json!({ "id": "R_and-D0", "name": "Research \"&\" Development" });
    let reply = s.ok(Holder(&key), "create-workspace", record(input)).await;
    let mut shown = json!({
        "id": "R_and-D0", "name": "Research \"&\" Development", "enabled": true,
        "created": reply.text("workspace.created"), "version": 1,
    });
    assert_eq!(reply.0, json!({ "workspace": shown }));
    assert!(reply.text("workspace.created").ends_with('Z'));
    assert_eq!(workspace(s, "R_and-D0").await, shown);

    let off = s.ok(Service, "create-workspace", record(json!({ "id": "off", "enabled": false }))).await;
    let created = off.text("workspace.created");
    assert_eq!(off["workspace"], json!({ "id": "off", "created": created, "version": 1 }));
    s.err(Service, "create-user", new_user("off", json!({ "username": "ada" })), Disabled).await;

    let rows = [
        (json!({ "name": "R&D" }), json!({ "name": "R&D", "version": 2 })),
        (json!({ "name": "" }), json!({ "name": null, "version": 3 })),
        (json!({ "enabled": false }), json!({ "enabled": null, "version": 4 })),
        (json!({ "name": "Lab" }), json!({ "name": "Lab", "version": 5 })),
        (
            json!({ "enabled": true, "name": "Labs" }),
            json!({ "enabled": true, "name": "Labs", "version": 6 }),
        ),
    ];
    for (change, expected) in rows {
        for (field, value) in expected.as_object().into_iter().flatten() {
            match value {
                Value::Null => shown.as_object_mut().and_then(|shown| shown.remove(field)),
                value => shown.as_object_mut().and_then(|shown| shown.insert(field.clone(), value.clone())),
            };
        }
        let request = record(with(json!({ "id": "R_and-D0" }), change.clone()));
        let reply = s.ok(Service, "update-workspace", by(&admin, &request)).await;
        assert_eq!(reply.0, json!({ "workspace": shown }), "{change}");
        assert_eq!(workspace(s, "R_and-D0").await, shown, "{change}");
    }
    for change in [json!({}), json!({ "name": "Labs" }), json!({ "name": "Labs", "enabled": true })] {
        let request = record(with(json!({ "id": "R_and-D0" }), change.clone()));
        let reply = s.ok(Holder(&key), "update-workspace", request).await;
        assert_eq!(reply.0, json!({ "workspace": shown }), "{change} changes nothing");
    }
}

pub async fn malformed_request_about_workspaces_is_refused_before_anything_is_asked(s: &Scene<'_>) {
    s.bootstrap().await;
    let too_long = "x".repeat(64);
    for operation in ["create-workspace", "get-workspace", "update-workspace", "disable-workspace"] {
        malformed(s, operation, json!({}), "workspace_record").await;
        malformed(s, operation, record(json!({})), "workspace_record.id").await;
        malformed(s, operation, json!({ "workspace": "acme" }), "workspace_record").await;
        for id in ["", "_acme", "-acme", "a.b", "a b", "é", "acme\n", &too_long] {
            malformed(s, operation, record(json!({ "id": id })), "workspace_record.id").await;
        }
    }
    for operation in ["create-workspace", "update-workspace"] {
        for name in ["a\u{0}b", "a\u{9f}", &"x".repeat(1025)] {
            let request = record(json!({ "id": "default", "name": name }));
            malformed(s, operation, request, "workspace_record.name").await;
        }
    }
    for operation in ["list-workspaces", "list-my-workspaces"] {
        malformed(s, operation, json!({ "page_size": 1001 }), "page_size").await;
    }
    for id in ["a", "0", "A_-", &"x".repeat(63)] {
        s.ok(Service, "create-workspace", record(json!({ "id": id, "name": "é".repeat(512) }))).await;
    }
}

pub async fn workspace_that_is_taken_or_absent_is_told_so(s: &Scene<'_>) {
    let (admin, key) = acme(s).await;
    let before = workspace(s, "acme").await;
    let rows = [
        ("create-workspace", record(json!({ "id": "acme", "name": "Other" })), Duplicate),
        ("create-workspace", record(json!({ "id": "default" })), Duplicate),
        ("get-workspace", record(json!({ "id": "nowhere" })), NotFound),
        ("update-workspace", record(json!({ "id": "nowhere", "name": "N" })), NotFound),
        ("disable-workspace", record(json!({ "id": "nowhere" })), NotFound),
    ];
    for (operation, request, kind) in rows {
        s.err(Service, operation, request.clone(), kind).await;
        s.err(Holder(&key), operation, request.clone(), kind).await;
        s.err(Service, operation, by(&admin, &request), kind).await;
    }
    assert_eq!(workspace(s, "acme").await, before);
    let racers = (0..6).map(|n| {
        s.ask(Service, "create-workspace", record(json!({ "id": "race", "name": format!("racer {n}") })))
    });
    let outcomes: Vec<String> = join_all(racers).await.iter().map(|r| r.text("error.type")).collect();
    assert_eq!(outcomes.iter().filter(|kind| kind.is_empty()).count(), 1, "{outcomes:?}");
    assert_eq!(outcomes.iter().filter(|kind| *kind == "duplicate").count(), 5, "{outcomes:?}");
}

pub async fn only_those_with_the_capability_administer_workspaces(s: &Scene<'_>) {
    acme(s).await;
    let (_, key) = reader(s, "ada", "acme").await;
    let before = workspace(s, "acme").await;
    let rows = [
        ("create-workspace", record(json!({ "id": "new" }))),
        ("create-workspace", record(json!({ "id": "acme" }))),
        ("get-workspace", record(json!({ "id": "acme" }))),
        ("get-workspace", record(json!({ "id": "nowhere" }))),
        ("list-workspaces", json!({})),
        ("update-workspace", record(json!({ "id": "acme", "name": "A" }))),
        ("update-workspace", record(json!({ "id": "nowhere", "name": "A" }))),
        ("disable-workspace", record(json!({ "id": "acme" }))),
        ("disable-workspace", record(json!({ "id": "nowhere" }))),
    ];
    only_admins_may(s, &rows).await;
    for (operation, request) in rows {
        s.err(Holder(&key), operation, request, OperationNotPermitted).await;
    }
    assert_eq!(workspace(s, "acme").await, before);
    s.err(Service, "get-workspace", record(json!({ "id": "new" })), NotFound).await;
}

pub async fn disabled_workspace_stops_all_at_home_in_it_and_nobody_else(s: &Scene<'_>) {
    for (n, operation) in ["disable-workspace", "update-workspace"].into_iter().enumerate() {
        let (admin, admin_key) = if n == 0 { acme(s).await } else { root(s).await };
        let home = format!("home{n}");
        s.workspace(&home).await;
        let (ada, key) = reader(s, &format!("ada{n}"), &home).await;
        s.password(&ada, PASSWORD).await;
        let token = s.login(&format!("ada{n}"), PASSWORD).await;
        let off = s.user(&home, &format!("off{n}"), &["reader"]).await;
        s.ok(Service, "disable-user", json!({ "user_id": off })).await;
        let (bob, bob_key) = reader(s, &format!("bob{n}"), "acme").await;
        let key_id =
            texts(&s.ok(Service, "list-api-keys", json!({ "user_id": ada })).await["api_keys"], "id");
        assert!(s.may(&admin, "graph:read", &home).await);

        let request = record(json!({ "id": home, "enabled": false }));
        s.ok(Holder(&admin_key), operation, request.clone()).await;
        assert!(!on(&workspace(s, &home).await));
        assert!(!alive(s, &token).await && !alive(s, &key).await, "{operation}");
        assert!(!s.may(&ada, "graph:read", &home).await);
        let anywhere = json!({ "user_id": ada, "capability": "graph:read" });
        assert_eq!(s.ok(Service, "authorise", anywhere).await["decision_allow"], false);
        s.err(Service, "resolve-api-key", json!({ "api_key": key.expose() }), AuthFailed).await;
        let login = json!({ "username": format!("ada{n}"), "password": PASSWORD });
        s.err(Nobody, "login", login.clone(), AuthFailed).await;
        s.err(Holder(&token), "whoami", json!({}), AuthFailed).await;
        s.err(Service, "whoami", json!({ "actor": ada }), OperationNotPermitted).await;
        let new_key = json!({ "key": { "user_id": ada, "name": "new" } });
        s.err(Service, "create-api-key", new_key, Disabled).await;
        s.err(Service, "create-user", new_user(&home, json!({ "username": "new" })), Disabled).await;
        for id in [&ada, &off] {
            assert!(!on(&user(s, id).await), "{operation}");
            let enable = json!({ "user_id": id, "user": { "enabled": true } });
            for (operation, request) in [("enable-user", json!({ "user_id": id })), ("update-user", enable)] {
                s.err(Service, operation, by(&admin, &request), Disabled).await;
                s.err(Service, operation, request.clone(), Disabled).await;
                s.err(Holder(&admin_key), operation, request, Disabled).await;
            }
        }
        let listed = s.ok(Service, "list-users", json!({ "workspace": home })).await;
        assert_eq!(listed.len("users"), 2);
        assert!(!listed.0.to_string().contains("\"enabled\":true"), "{}", listed.0);
        assert!(!s.may(&admin, "graph:read", &home).await, "nobody acts there");
        assert_eq!(s.ok(Service, "list-api-keys", json!({ "user_id": ada })).await.len("api_keys"), 0);
        s.err(Service, "revoke-api-key", json!({ "key_id": key_id.first() }), NotFound).await;
        assert!(alive(s, &bob_key).await && alive(s, &admin_key).await, "others go on");
        assert!(s.may(&bob, "graph:read", "acme").await);

        // Once more changes nothing.
        let closed = workspace(s, &home).await;
        s.ok(Service, operation, request).await;
        s.ok(Service, "disable-workspace", record(json!({ "id": home }))).await;
        assert_eq!(workspace(s, &home).await, closed);

        // Open again, it takes new users; those of before stay out until each is enabled, and keep nothing.
        s.ok(Service, "update-workspace", record(json!({ "id": home, "enabled": true }))).await;
        assert!(s.may(&admin, "graph:read", &home).await);
        assert!(!on(&user(s, &ada).await));
        assert!(!alive(s, &token).await && !alive(s, &key).await && !s.may(&ada, "graph:read", &home).await);
        s.err(Nobody, "login", login, AuthFailed).await;
        s.err(Service, "whoami", json!({ "actor": ada }), OperationNotPermitted).await;
        let (_, new_key) = reader(s, &format!("new{n}"), &home).await;
        assert!(alive(s, &new_key).await);
        s.ok(Service, "enable-user", json!({ "user_id": ada })).await;
        assert!(on(&user(s, &ada).await));
        assert!(!on(&user(s, &off).await));
        assert!(!alive(s, &token).await && !alive(s, &key).await && s.may(&ada, "graph:read", &home).await);
        assert_eq!(s.ok(Service, "list-api-keys", json!({ "user_id": ada })).await.len("api_keys"), 0);
        assert!(alive(s, &s.login(&format!("ada{n}"), PASSWORD).await).await);
        let (_, key) = s.key(&ada, "k").await;
        assert!(alive(s, &key).await);
        let opened = workspace(s, &home).await;
        s.ok(Service, "update-workspace", record(json!({ "id": home, "enabled": true }))).await;
        assert_eq!(workspace(s, &home).await, opened, "enabling an enabled one does nothing");
        assert!(alive(s, &key).await);
    }
}

pub async fn users_of_a_disabled_workspace_can_be_administered(s: &Scene<'_>) {
    let (admin, key) = acme(s).await;
    let ids = [s.user("acme", "ada", &["reader"]).await, s.user("acme", "bob", &["reader"]).await];
    s.ok(Service, "disable-workspace", record(json!({ "id": "acme" }))).await;
    for (n, id) in ids.iter().enumerate() {
        let rows = [
            ("get-user", json!({ "user_id": id })),
            ("get-user", json!({ "user_id": id, "workspace": "acme" })),
            ("list-users", json!({ "workspace": "acme" })),
            ("update-user", json!({ "user_id": id, "user": { "name": "New", "roles": ["writer"] } })),
            ("update-user", json!({ "user_id": id, "user": { "enabled": false } })),
            ("list-api-keys", json!({ "user_id": id })),
            ("disable-user", json!({ "user_id": id })),
            ("reset-password", json!({ "user_id": id })),
            ("revoke-user-tokens", json!({ "user_id": id })),
            ("delete-user", json!({ "user_id": id })),
        ];
        for (operation, request) in rows {
            match n {
                0 => s.ok(Holder(&key), operation, request).await,
                _ => s.ok(Service, operation, by(&admin, &request)).await,
            };
        }
    }
    s.user("default", "ada", &[]).await;
}

pub async fn user_disabled_in_a_disabled_workspace_stays_disabled(s: &Scene<'_>) {
    acme(s).await;
    let ids = [s.user("acme", "ada", &["reader"]).await, s.user("acme", "bob", &["reader"]).await];
    s.ok(Service, "disable-workspace", record(json!({ "id": "acme" }))).await;
    for id in &ids {
        s.ok(Service, "disable-user", json!({ "user_id": id })).await;
    }
    s.ok(Service, "update-workspace", record(json!({ "id": "acme", "enabled": true }))).await;
    for id in &ids {
        assert!(!on(&user(s, id).await));
        s.ok(Service, "update-user", json!({ "user_id": id, "user": { "enabled": true } })).await;
        assert!(on(&user(s, id).await));
        assert!(s.may(id, "graph:read", "acme").await);
    }
}

pub async fn listing_shows_every_workspace_once(s: &Scene<'_>) {
    let (admin, key) = s.bootstrap().await;
    let mut all = BTreeSet::from(["default".to_owned()]);
    // A quotation mark takes two bytes in JSON.
    let name = "\"".repeat(1024);
    for n in 0..131 {
        let id = format!("{n:0>60}");
        s.ok(Service, "create-workspace", record(json!({ "id": id, "name": name }))).await;
        all.insert(id);
    }
    s.ok(Service, "disable-workspace", record(json!({ "id": format!("{:0>60}", 7) }))).await;
    for size in [0, 1, 50, 131, 132, 1000] {
        let request = json!({ "page_size": size });
        for (list, who, request) in [
            ("list-workspaces", Service, request.clone()),
            ("list-workspaces", Holder(&key), request.clone()),
            ("list-my-workspaces", Holder(&key), request.clone()),
            ("list-my-workspaces", Service, by(&admin, &request)),
        ] {
            if size == 1 && list == "list-workspaces" {
                continue;
            }
            let pages = pages(s, who, list, request, "workspaces").await;
            assert!(size == 0 || pages.iter().all(|page| page.len() <= size), "{list} {size}");
            assert_eq!(once(&pages, "id"), all, "{list} {size}");
        }
    }
    let first = s.ok(Service, "list-workspaces", json!({ "page_size": 1 })).await;
    let id = texts(&first["workspaces"], "id").pop().unwrap_or_default();
    assert_eq!(
        first["workspaces"],
        json!([workspace(s, &id).await]),
        "a list shows what get-workspace shows"
    );
    for list in ["list-workspaces", "list-my-workspaces"] {
        for bad in [json!({ "page_size": 1001 }), json!({ "page_token": "bad" })] {
            s.err(Holder(&key), list, bad, InvalidArgument).await;
        }
    }
}

pub async fn list_my_workspaces_shows_home_or_for_scope_star_all(s: &Scene<'_>) {
    let (admin, admin_key) = acme(s).await;
    let (ada, key) = reader(s, "ada", "acme").await;
    let home = workspace(s, "acme").await;
    for reply in [
        s.ok(Holder(&key), "list-my-workspaces", json!({})).await,
        s.ok(Holder(&key), "list-my-workspaces", json!({ "actor": admin, "page_size": 1 })).await,
        s.ok(Service, "list-my-workspaces", json!({ "actor": ada })).await,
    ] {
        assert_eq!(reply.0, json!({ "workspaces": [home] }));
    }
    let all = s.ok(Holder(&admin_key), "list-my-workspaces", json!({})).await;
    assert_eq!(texts(&all["workspaces"], "id").len(), 2);
    let nobody = s.user("acme", "nobody", &[]).await;
    let own = s.ok(Service, "list-my-workspaces", json!({ "actor": nobody })).await;
    assert_eq!(texts(&own["workspaces"], "id"), ["acme"], "roles are not needed");

    s.err(Service, "list-my-workspaces", json!({}), InvalidArgument).await;
    s.err(Service, "list-my-workspaces", json!({ "actor": "ada" }), InvalidArgument).await;
    s.err(Service, "list-my-workspaces", json!({ "actor": NOBODY }), OperationNotPermitted).await;
    s.err(Nobody, "list-my-workspaces", json!({}), AuthFailed).await;
    for bad in [json!({ "page_size": 1001 }), json!({ "page_token": "bad" })] {
        s.err(Holder(&key), "list-my-workspaces", bad, InvalidArgument).await;
    }
    s.ok(Service, "disable-user", json!({ "user_id": ada })).await;
    s.err(Service, "list-my-workspaces", json!({ "actor": ada }), OperationNotPermitted).await;
    s.err(Holder(&key), "list-my-workspaces", json!({}), AuthFailed).await;
}

pub async fn workspaces_are_administered_for_the_whole_deployment_or_not_at_all() -> BTreeSet<Shown> {
    let world = world(offices());
    let scene =
        Scene::new("workspaces::workspaces_are_administered_for_the_whole_deployment_or_not_at_all", &world);
    let s = &scene;
    acme(s).await;
    let landlord = s.user("acme", "landlord", &["landlord", "steward"]).await;
    let host = s.user("acme", "host", &["host"]).await;
    let (_, landlord_key) = s.key(&landlord, "k").await;
    let (_, host_key) = s.key(&host, "k").await;
    let rows = [
        ("create-workspace", record(json!({ "id": "new" }))),
        ("get-workspace", record(json!({ "id": "acme" }))),
        ("list-workspaces", json!({})),
        ("update-workspace", record(json!({ "id": "acme", "name": "A" }))),
        ("disable-workspace", record(json!({ "id": "new" }))),
        ("update-workspace", record(json!({ "id": "new", "enabled": true }))),
    ];
    for (operation, request) in &rows {
        s.err(Holder(&landlord_key), operation, request.clone(), OperationNotPermitted).await;
        s.err(Service, operation, by(&landlord, request), OperationNotPermitted).await;
    }
    for (operation, request) in rows {
        s.ok(Holder(&host_key), operation, request).await;
    }
    // Where one is at home in every workspace, all are one's own, by whichever role that is.
    let scribe = s.user("acme", "scribe", &["scribe"]).await;
    for (actor, expected) in [(&landlord, 1), (&host, 3), (&scribe, 3)] {
        let mine = s.ok(Service, "list-my-workspaces", json!({ "actor": actor })).await;
        assert_eq!(mine.len("workspaces"), expected);
    }
    scene.shown()
}

/// What operations on one workspace take.
fn record(record: Value) -> Value {
    json!({ "workspace_record": record })
}

/// A workspace's record as it is now.
async fn workspace(s: &Scene<'_>, id: &str) -> Value {
    let reply = s.ok(Service, "get-workspace", record(json!({ "id": id }))).await;
    assert_eq!(text(&reply["workspace"], "id"), id);
    reply["workspace"].clone()
}

/// A reader with a key: id and key.
async fn reader(s: &Scene<'_>, username: &str, workspace: &str) -> (String, Secret) {
    let id = s.user(workspace, username, &["reader"]).await;
    let (_, key) = s.key(&id, "k").await;
    (id, key)
}

/// The admin of a deployment that has one, with a new key.
async fn root(s: &Scene<'_>) -> (String, Secret) {
    let admin = s.ok(Service, "get-user", json!({ "username": "admin" })).await.text("user.id");
    let (_, key) = s.key(&admin, "another").await;
    (admin, key)
}
