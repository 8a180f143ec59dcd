//! Managing users, keys and workspaces over HTTP.

use std::time::{Duration, Instant};

use iam_tests::http;
use serde_json::{Value, json};

use super::{Front, PASSWORD, text};

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn users_keys_and_workspaces_live_their_lives_over_http() {
    let Some(front) = Front::start(&[]).await else { return };
    let (gateway, root) = (&front.gateway, front.root.as_str());
    front.workspace("acme").await;
    let acme = gateway.ok(root, "get-workspace", json!({ "workspace_record": { "id": "acme" } })).await;
    assert_eq!((&acme["workspace"]["enabled"], &acme["workspace"]["name"]), (&json!(true), &json!("")));

    // A record has all of its fields, and the home under both names.
    let ada = front.user("acme", "ada", &["writer"]).await;
    let shown = gateway.ok(root, "get-user", json!({ "user_id": ada })).await;
    let fields =
        ["id", "username", "name", "email", "roles", "enabled", "must_change_password", "created", "version"];
    for field in fields.iter().chain(&["workspace", "default_workspace"]) {
        assert!(shown["user"].get(field).is_some(), "{field} in {shown}");
    }
    assert_eq!(
        (&shown["user"]["workspace"], &shown["user"]["default_workspace"]),
        (&json!("acme"), &json!("acme"))
    );
    // Without a workspace it is made in the caller's own.
    let homeless = gateway.ok(root, "create-user", json!({ "user": { "username": "homeless" } })).await;
    assert_eq!(homeless["user"]["workspace"], "default");

    // What an update leaves out stays as it is.
    let forced = json!({ "user_id": ada, "user": { "must_change_password": true } });
    gateway.ok(root, "update-user", forced).await;
    let renamed = gateway.ok(root, "update-user", json!({ "user_id": ada, "user": { "name": "Ada" } })).await;
    assert_eq!(
        (&renamed["user"]["must_change_password"], &renamed["user"]["name"]),
        (&json!(true), &json!("Ada"))
    );
    gateway
        .ok(root, "update-user", json!({ "user_id": ada, "user": { "must_change_password": false } }))
        .await;
    gateway.ok(root, "disable-user", json!({ "user_id": ada })).await;
    let renamed = gateway.ok(root, "update-user", json!({ "user_id": ada, "user": { "name": "A." } })).await;
    assert_eq!(renamed["user"]["enabled"], false);
    gateway.ok(root, "enable-user", json!({ "user_id": ada })).await;

    // Their own keys, with keys:self; an absent user_id is the caller.
    let token = front.login("ada", PASSWORD).await;
    let made = gateway.ok(&token, "create-api-key", json!({ "key": { "name": "laptop" } })).await;
    assert_eq!(made["api_key"]["user_id"], ada);
    let (key, key_id) = (text(&made["api_key_plaintext"]), text(&made["api_key"]["id"]));
    let keys = gateway.ok(&token, "list-api-keys", json!({})).await;
    assert_eq!(keys["api_keys"].as_array().map(Vec::len), Some(1));
    assert_eq!(keys["api_keys"][0]["expires"], "");
    for (operation, fields) in [
        ("create-api-key", json!({ "key": { "user_id": homeless["user"]["id"], "name": "x" } })),
        ("list-api-keys", json!({ "user_id": homeless["user"]["id"] })),
        ("create-user", json!({ "user": { "username": "eve" } })),
        ("rotate-signing-key", json!({})),
    ] {
        let (status, body) = gateway.iam(&token, operation, fields).await;
        assert_eq!((status, &body["error"]), (403, &json!("access denied")), "{operation}");
    }
    // The actor is the caller, whatever stands in the body.
    let forged = json!({ "actor": "00000000-0000-0000-0000-000000000000", "credential": root, "client_ip": "1.1.1.1" });
    assert_eq!(gateway.ok(&key, "whoami", forged).await["user"]["username"], "ada");
    gateway.ok(&token, "revoke-api-key", json!({ "key_id": key_id })).await;
    let (status, body) = gateway.iam(&key, "whoami", json!({})).await;
    assert_eq!((status, body), (401, json!({ "error": "auth failure" })));

    // What the service has against it keeps its kind.
    for (fields, status, kind) in [
        (json!({ "user": { "username": "ADA" } }), 409, "duplicate"),
        (json!({ "user": { "username": "a b" } }), 400, "invalid-argument"),
        (json!({ "user": { "username": "weak", "password": "password" } }), 400, "weak-password"),
        (json!({ "workspace": "nowhere", "user": { "username": "x" } }), 404, "not-found"),
        (json!({ "user": { "username": 7 } }), 400, "invalid-argument"),
    ] {
        let (seen, body) = gateway.iam(root, "create-user", fields.clone()).await;
        assert_eq!((seen, &body["error"]["type"]), (status, &json!(kind)), "{fields} {body}");
    }
    let (status, body) = gateway.iam(root, "disable-user", json!({ "user_id": whoami(&front).await })).await;
    assert_eq!((status, &body["error"]["type"]), (403, &json!("operation-not-permitted")));

    gateway.ok(root, "delete-user", json!({ "user_id": ada })).await;
    gateway.ok(root, "disable-workspace", json!({ "workspace_record": { "id": "acme" } })).await;
    gateway
        .ok(root, "update-workspace", json!({ "workspace_record": { "id": "acme", "name": "Acme" } }))
        .await;
    let mine = gateway.ok(root, "list-my-workspaces", json!({})).await;
    let acme =
        mine["workspaces"].as_array().expect("a list").iter().find(|w| w["id"] == "acme").expect("acme");
    assert_eq!((&acme["enabled"], &acme["name"]), (&json!(false), &json!("Acme")));
}

async fn whoami(front: &Front) -> String {
    text(&front.gateway.ok(&front.root, "whoami", json!({})).await["user"]["id"])
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn token_of_one_who_must_change_the_password_is_good_for_that_alone() {
    let Some(front) = Front::start(&[]).await else { return };
    let (gateway, root) = (&front.gateway, front.root.as_str());
    let ada = front.user("default", "ada", &["writer"]).await;
    let reset = gateway.ok(root, "reset-password", json!({ "user_id": ada })).await;
    let temporary = text(&reset["temporary_password"]);
    let body = json!({ "username": "ada", "password": temporary });
    let reply = gateway.post("/api/v1/auth/login", None, &body).await.json();
    assert_eq!(reply["must_change_password"], true);
    let token = text(&reply["jwt"]);
    assert_eq!(gateway.ok(&token, "whoami", json!({})).await["user"]["username"], "ada");
    for operation in ["list-my-workspaces", "list-api-keys", "list-users"] {
        let (status, body) = gateway.iam(&token, operation, json!({})).await;
        assert_eq!((status, body), (401, json!({ "error": "auth failure" })), "{operation}");
    }
    let change = |current: &str, new: &str| json!({ "current_password": current, "new_password": new });
    let path = "/api/v1/auth/change-password";
    let wrong = gateway.post(path, Some(&token), &change("wrong", PASSWORD)).await;
    assert_eq!((wrong.status, wrong.json()), (401, json!({ "error": "auth failure" })));
    let weak = gateway.post(path, Some(&token), &change(&temporary, "password")).await;
    assert_eq!(weak.status, 400, "{weak:?}");
    assert!(weak.json()["error"].is_string(), "{weak:?}");
    let done = gateway.post(path, Some(&token), &change(&temporary, PASSWORD)).await;
    assert_eq!((done.status, done.json()), (200, json!({})));
    let again = gateway.iam(&token, "whoami", json!({})).await;
    assert_eq!(again.0, 401, "its token ended with it");
    front.login("ada", PASSWORD).await;
    let none = gateway.post(path, None, &change(PASSWORD, "x")).await;
    assert_eq!((none.status, none.json()), (401, json!({ "error": "auth failure" })));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn list_comes_whole_unless_pages_are_asked_for() {
    let Some(front) = Front::start(&["--max-list", "60"]).await else { return };
    let (gateway, root) = (&front.gateway, front.root.as_str());
    for n in 0..58 {
        // Some 4 KiB each: a page of the bus, 256 KiB at most, holds fewer than there are.
        let name = "x".repeat(1_000);
        let user = json!({ "username": format!("u{n}"), "name": name, "email": "y".repeat(1_000) });
        gateway.ok(root, "create-user", json!({ "user": user })).await;
    }
    let whole = gateway.ok(root, "list-users", json!({})).await;
    assert_eq!(whole["users"].as_array().map(Vec::len), Some(59));
    assert!(whole.get("next_page_token").is_none());
    let mut seen = Vec::new();
    let mut token = json!("");
    loop {
        let page = gateway.ok(root, "list-users", json!({ "page_size": 25, "page_token": token })).await;
        seen.extend(page["users"].as_array().expect("a list").iter().map(|user| text(&user["id"])));
        let Some(next) = page.get("next_page_token") else { break };
        token = next.clone();
    }
    seen.sort();
    seen.dedup();
    assert_eq!(seen.len(), 59);
    for n in 0..2 {
        gateway.ok(root, "create-user", json!({ "user": { "username": format!("v{n}") } })).await;
    }
    let (status, body) = gateway.iam(root, "list-users", json!({})).await;
    assert_eq!((status, &body["error"]["type"]), (400, &json!("invalid-argument")), "{body}");
    assert!(text(&body["error"]["message"]).contains("page_size"));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn revoked_credential_is_refused_at_once_and_a_rotation_is_followed() {
    let Some(front) = Front::start(&[]).await else { return };
    let (gateway, root) = (&front.gateway, front.root.as_str());
    let ada = front.user("default", "ada", &["reader"]).await;
    let old = front.login("ada", PASSWORD).await;
    gateway.ok(root, "rotate-signing-key", json!({})).await;
    let new = front.login("ada", PASSWORD).await;
    for token in [&old, &new] {
        assert_eq!(gateway.ok(token, "whoami", json!({})).await["user"]["id"], ada);
    }
    // By way of this gateway: over with the answer.
    let made = gateway.ok(root, "create-api-key", json!({ "key": { "user_id": ada, "name": "k" } })).await;
    let key = text(&made["api_key_plaintext"]);
    assert_eq!(gateway.ok(&key, "whoami", json!({})).await["user"]["id"], ada);
    gateway.ok(root, "revoke-api-key", json!({ "key_id": made["api_key"]["id"] })).await;
    assert_eq!(gateway.iam(&key, "whoami", json!({})).await.0, 401);
    // Remembered as good by now; ended by way of another door.
    let service = front.deployment.client().clone().on(iam_schema::subject::Plane::Service);
    service.disable_user(ada.parse().expect("an id"), None).await.expect("done");
    let begun = Instant::now();
    while gateway.iam(&old, "whoami", json!({})).await.0 != 401 {
        assert!(begun.elapsed() < Duration::from_secs(2), "a disabled user still gets through");
    }
    let (status, _) = gateway.iam(&new, "whoami", json!({})).await;
    assert_eq!(status, 401);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn login_says_one_thing_whatever_is_wrong_and_counts_by_address() {
    let Some(front) = Front::start(&["--trusted-proxies", "127.0.0.0/8"]).await else { return };
    let gateway = &front.gateway;
    front.user("default", "ada", &["reader"]).await;
    let disabled = front.user("default", "off", &["reader"]).await;
    gateway.ok(&front.root, "disable-user", json!({ "user_id": disabled })).await;
    let login = async |from: &str, body: Value| {
        let headers = format!("X-Forwarded-For: 203.0.113.77, {from}\r\n");
        http::request(gateway.address(), "POST /api/v1/auth/login", &headers, &body.to_string()).await
    };
    for (from, body) in [
        ("192.0.2.1", json!({ "username": "nobody", "password": PASSWORD })),
        ("192.0.2.2", json!({ "username": "ada", "password": "wrong" })),
        ("192.0.2.3", json!({ "username": "off", "password": PASSWORD })),
        ("192.0.2.4", json!({ "username": "ada", "password": PASSWORD, "workspace": "elsewhere" })),
    ] {
        let reply = login(from, body.clone()).await;
        assert_eq!((reply.status, reply.json()), (401, json!({ "error": "auth failure" })), "{body}");
        assert_eq!(reply.header("www-authenticate"), Some("Bearer"));
    }
    // The address before the last is anybody's invention: the last one is who is throttled.
    let mut throttled = false;
    for n in 0..200 {
        let reply = login("198.51.100.2", json!({ "username": format!("u{n}"), "password": "x" })).await;
        throttled |= reply.status == 429 && reply.json()["error"]["type"] == "throttled";
        if throttled {
            break;
        }
    }
    assert!(throttled, "two hundred names from one address");
    front.user("default", "bob", &["reader"]).await;
    let other = login("198.51.100.3", json!({ "username": "bob", "password": PASSWORD })).await;
    assert_eq!(other.status, 200, "{other:?}");
}
