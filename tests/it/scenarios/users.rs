//! Users: made, found, changed, ended.

use std::collections::BTreeSet;

use futures_util::future::join_all;
use iam_schema::ErrorKind::{self, *};
use iam_tests::scene::As::{Holder, Nobody, Service};
use iam_tests::scene::Shown;
use iam_tests::{Reply, Scene};
use serde_json::{Value, json};

use super::common::{
    NOBODY, PASSWORD, about, acme, ada, alive, by, malformed, new_user, offices, on, once, pages, text,
    texts, user, version, with, world,
};

pub async fn created_user_is_shown_as_entered_and_never_with_a_hash(s: &Scene<'_>) {
    acme(s).await;
    let input = json!({
        "username": "Ada.L+1@ex_a-1", "name": "Ada \"Countess\" Lovelace", "email": "ada@example.org",
        "password": PASSWORD, "roles": ["writer", "reader", "writer"], "must_change_password": true,
    });
    let reply = s.ok(Service, "create-user", json!({ "workspace": "acme", "user": input })).await;
    let ada = reply.text("user.id");
    let shown = json!({
        "id": ada, "workspace": "acme", "username": "Ada.L+1@ex_a-1", "name": "Ada \"Countess\" Lovelace",
        "email": "ada@example.org", "roles": ["reader", "writer"], "enabled": true, "must_change_password": true,
        "created": reply.text("user.created"), "version": 1,
    });
    assert_eq!(reply.0, json!({ "user": shown }));
    assert!(reply.text("user.created").ends_with('Z') && is_uuid(&ada), "{shown}");

    for request in [
        json!({ "user_id": ada }),
        json!({ "user_id": ada, "workspace": "acme" }),
        json!({ "username": "Ada.L+1@ex_a-1" }),
        json!({ "username": "aDA.l+1@EX_A-1" }),
        json!({ "username": "ada.l+1@ex_a-1", "workspace": "acme" }),
        json!({ "username": "ada.l+1@ex_a-1", "user_id": ada }),
    ] {
        assert_eq!(s.ok(Service, "get-user", request).await.0, json!({ "user": shown }));
    }
    let login = s.ok(Nobody, "login", json!({ "username": "ada.l+1@ex_a-1", "password": PASSWORD })).await;
    assert_eq!(login["must_change_password"], true);

    // What is left out is at its default: enabled, no roles, no password to log in with.
    let plain = s.ok(Service, "create-user", new_user("acme", json!({ "username": "plain" }))).await;
    let (id, created) = (plain.text("user.id"), plain.text("user.created"));
    let shown = json!({
        "id": id, "workspace": "acme", "username": "plain", "enabled": true, "created": created, "version": 1,
    });
    assert_eq!(plain.0, json!({ "user": shown }));
    s.err(Nobody, "login", json!({ "username": "plain", "password": PASSWORD }), AuthFailed).await;
    let (_, key) = s.key(&id, "ci").await;
    assert!(alive(s, &key).await, "a service account has keys");
    s.password(&id, PASSWORD).await;
    s.login("plain", PASSWORD).await;

    let off = json!({ "username": "off", "password": PASSWORD, "enabled": false });
    let off = s.ok(Service, "create-user", new_user("acme", off)).await;
    assert!(!on(&off["user"]));
    let key = json!({ "key": { "user_id": off.text("user.id"), "name": "ci" } });
    s.err(Service, "create-api-key", key, Disabled).await;
    s.err(Nobody, "login", json!({ "username": "off", "password": PASSWORD }), AuthFailed).await;
    s.ok(Service, "enable-user", json!({ "user_id": off.text("user.id") })).await;
    s.login("off", PASSWORD).await;
}

pub async fn malformed_request_about_users_is_refused_before_anything_is_asked(s: &Scene<'_>) {
    let (admin, _) = acme(s).await;
    let long = "x".repeat(1025);
    let create = |user: Value| ("create-user", new_user("acme", user));
    let update = |user: Value| ("update-user", json!({ "user_id": admin, "user": user }));
    let ada = |more: Value| with(json!({ "username": "ada" }), more);
    let mut rows = vec![
        (("create-user", json!({})), "workspace"),
        (("create-user", json!({ "user": { "username": "ada" } })), "workspace"),
        (("create-user", json!({ "workspace": "acme" })), "user"),
        (("create-user", new_user("_acme", json!({ "username": "ada" }))), "workspace"),
        (create(json!({})), "user.username"),
        (create(ada(json!({ "name": "a\u{85}b" }))), "user.name"),
        (create(ada(json!({ "name": long }))), "user.name"),
        (create(ada(json!({ "email": "a\nb" }))), "user.email"),
        (create(ada(json!({ "email": long }))), "user.email"),
        (create(ada(json!({ "roles": [""] }))), "user.roles"),
        (("create-user", json!({ "operation": "get-user" })), "operation"),
        (("get-user", json!({})), "user_id"),
        (("get-user", json!({ "user_id": "ada" })), "user_id"),
        (("get-user", json!({ "user_id": admin.to_uppercase() })), "user_id"),
        (("get-user", json!({ "username": "a b" })), "username"),
        (("get-user", json!({ "username": admin })), "username"),
        (("get-user", json!({ "user_id": admin, "workspace": "a b" })), "workspace"),
        (("list-users", json!({ "workspace": "a b" })), "workspace"),
        (("update-user", json!({ "user": {} })), "user_id"),
        (("update-user", json!({ "user_id": admin })), "user"),
        (update(json!({ "password": PASSWORD })), "user.password"),
        (update(json!({ "username": "a\u{7}" })), "user.username"),
        (update(json!({ "name": long })), "user.name"),
        (update(json!({ "email": "\u{1b}" })), "user.email"),
        (update(json!({ "roles": ["a b"] })), "user.roles"),
    ];
    let too_long = "x".repeat(129);
    for name in ["", "_ada", ".ada", "a b", "é", "ada\n", "a/b", NOBODY, &NOBODY.to_uppercase(), &too_long] {
        rows.push((create(json!({ "username": name })), "user.username"));
    }
    for operation in ["disable-user", "enable-user", "delete-user"] {
        rows.push(((operation, json!({})), "user_id"));
        rows.push(((operation, json!({ "username": "admin" })), "user_id"));
        rows.push(((operation, json!({ "user_id": admin, "workspace": "_x" })), "workspace"));
    }
    for ((operation, request), field) in rows {
        malformed(s, operation, request, field).await;
    }

    // These are refused too, but only to somebody who may ask at all.
    let not_a_token = "!".to_owned();
    for request in [json!({ "page_size": 1001 }), json!({ "page_token": not_a_token })] {
        s.err(Service, "list-users", request, InvalidArgument).await;
    }
    let name = format!("{}\u{200b}\u{1f980}", "é".repeat(508));
    let bounds = json!({ "username": "a".repeat(128), "name": name, "email": "x".repeat(1024) });
    s.ok(Service, "create-user", new_user("acme", bounds)).await;
}

pub async fn user_is_created_in_an_enabled_workspace_with_known_roles_and_a_good_password(s: &Scene<'_>) {
    let (admin, key) = acme(s).await;
    s.workspace("closed").await;
    s.ok(Service, "disable-workspace", json!({ "workspace_record": { "id": "closed" } })).await;
    let rows: &[(&str, Value, ErrorKind)] = &[
        ("nowhere", json!({ "username": "ada" }), NotFound),
        ("closed", json!({ "username": "ada" }), Disabled),
        ("acme", json!({ "username": "ada", "roles": ["captain"] }), InvalidArgument),
        ("acme", json!({ "username": "ada", "roles": ["reader", "Reader"] }), InvalidArgument),
        ("acme", json!({ "username": "ada", "password": "vi0-Xq7" }), WeakPassword),
        ("acme", json!({ "username": "ada", "password": "password1" }), WeakPassword),
        ("acme", json!({ "username": "ada", "password": "x7-Kd".repeat(205) + "." }), WeakPassword),
        ("acme", json!({ "username": "ada.countess", "password": "ada.countess" }), WeakPassword),
        (
            "acme",
            json!({ "username": "ada", "email": "q7f.k2@x.org", "password": "q7f.k2@x.org" }),
            WeakPassword,
        ),
        ("acme", json!({ "username": "ADMIN" }), Duplicate),
    ];
    for (workspace, user, kind) in rows {
        let request = new_user(workspace, user.clone());
        s.err(Service, "create-user", request.clone(), *kind).await;
        s.err(Holder(&key), "create-user", request.clone(), *kind).await;
        s.err(Service, "create-user", with(request, json!({ "actor": admin })), *kind).await;
    }
    s.err(Service, "get-user", json!({ "username": "ada" }), NotFound).await;
}

pub async fn username_is_one_name_in_any_case_and_free_after_deletion(s: &Scene<'_>) {
    acme(s).await;
    let ada = s.user("acme", "Ada", &[]).await;
    for (workspace, name) in [("acme", "Ada"), ("acme", "ada"), ("default", "ADA")] {
        s.err(Service, "create-user", new_user(workspace, json!({ "username": name })), Duplicate).await;
    }
    s.user("acme", "Ada2", &[]).await;

    // Disabling frees nothing, deleting does.
    s.ok(Service, "disable-user", json!({ "user_id": ada })).await;
    s.err(Service, "create-user", new_user("acme", json!({ "username": "ada" })), Duplicate).await;
    s.ok(Service, "delete-user", json!({ "user_id": ada })).await;
    s.err(Service, "get-user", json!({ "username": "Ada" }), NotFound).await;
    let again = s.user("default", "aDA", &[]).await;
    assert_ne!(again, ada, "an id is never given out again");
    assert_eq!(s.ok(Service, "get-user", json!({ "username": "ada" })).await.text("user.id"), again);

    // Of those who race for one name, one gets it.
    let race = ["Grace", "grace", "GRACE", "gRACE", "grACE", "graCE", "gracE", "GracE"];
    let racers =
        race.map(|name| s.ask(Service, "create-user", new_user("acme", json!({ "username": name }))));
    let outcomes: Vec<String> = join_all(racers).await.iter().map(|r| r.text("error.type")).collect();
    let won = outcomes.iter().filter(|kind| kind.is_empty()).count();
    let lost = outcomes.iter().filter(|kind| *kind == "duplicate").count();
    assert_eq!((won, lost), (1, race.len() - 1), "{outcomes:?}");
}

pub async fn user_is_named_by_id_or_username_but_not_by_two_users(s: &Scene<'_>) {
    let (admin, key) = acme(s).await;
    let ada = s.user("acme", "Ada", &["reader"]).await;
    let rows: &[(Value, ErrorKind)] = &[
        (json!({ "user_id": ada, "username": "admin" }), InvalidArgument),
        (json!({ "user_id": NOBODY, "username": "ada" }), InvalidArgument),
        (json!({ "user_id": NOBODY }), NotFound),
        (json!({ "username": "nobody" }), NotFound),
        (json!({ "username": "ada", "workspace": "default" }), OperationNotPermitted),
    ];
    for (request, kind) in rows {
        s.err(Service, "get-user", request.clone(), *kind).await;
        s.err(Holder(&key), "get-user", request.clone(), *kind).await;
        s.err(Service, "get-user", with(request.clone(), json!({ "actor": admin })), *kind).await;
    }
}

pub async fn listing_shows_every_user_once_whoever_comes_and_goes(s: &Scene<'_>) {
    let (admin, key) = acme(s).await;
    s.workspace("empty").await;
    let mut ids = Vec::new();
    for n in 0..23 {
        ids.push(s.user("acme", &format!("user{n:02}"), &["reader"]).await);
    }
    let everybody: BTreeSet<String> = ids.iter().cloned().collect();
    for size in [0, 1, 7, 22, 23, 24, 1000] {
        let request = json!({ "workspace": "acme", "page_size": size });
        let pages = pages(s, Service, "list-users", request, "users").await;
        assert!(size == 0 || pages.iter().all(|page| page.len() <= size), "{size}");
        assert_eq!(once(&pages, "id"), everybody, "page size {size}");
    }
    let all = pages(s, Holder(&key), "list-users", json!({ "page_size": 10 }), "users").await;
    let with_admin: BTreeSet<String> = everybody.iter().cloned().chain([admin.clone()]).collect();
    assert_eq!(once(&all, "id"), with_admin);
    let empty = s.ok(Service, "list-users", json!({ "workspace": "empty" })).await;
    assert_eq!(empty.0, json!({}), "no users, and no token");
    let one = s.ok(Service, "list-users", json!({ "workspace": "default" })).await;
    assert_eq!(one["users"], json!([user(s, &admin).await]), "a list shows what get-user shows");

    // Between pages one that was shown last goes, one that is to come goes, one comes and one changes.
    let mut seen = Vec::new();
    let first = s.ok(Service, "list-users", json!({ "workspace": "acme", "page_size": 5 })).await;
    seen.extend(texts(&first["users"], "id"));
    let (shown, to_come): (Vec<_>, Vec<_>) = ids.iter().cloned().partition(|id| seen.contains(id));
    let (Some(last), Some(gone), Some(changed)) = (seen.last(), to_come.first(), to_come.last()) else {
        unreachable!("5 of 23 were shown")
    };
    for id in [last, gone] {
        s.ok(Service, "delete-user", json!({ "user_id": id })).await;
    }
    s.ok(Service, "update-user", json!({ "user_id": changed, "user": { "name": "New" } })).await;
    s.user("acme", "latecomer", &[]).await;
    let request = json!({ "workspace": "acme", "page_size": 4, "page_token": first.text("next_page_token") });
    let rest = pages(s, Service, "list-users", request, "users").await;
    let mut rest: Vec<String> = rest.into_iter().flatten().map(|user| text(&user, "id")).collect();
    rest.retain(|id| ids.contains(id));
    let distinct: BTreeSet<&String> = rest.iter().collect();
    assert_eq!(distinct.len(), rest.len(), "nobody twice");
    assert_eq!(distinct, to_come.iter().filter(|id| *id != gone).collect());
    assert_eq!(shown.len(), 5);
}

pub async fn page_token_is_good_for_its_own_list_alone(s: &Scene<'_>) {
    let (admin, key) = acme(s).await;
    for n in 0..4 {
        let id = s.user("acme", &format!("user{n}"), &[]).await;
        s.user("default", &format!("other{n}"), &[]).await;
        s.key(&admin, &format!("key{n}")).await;
        if n == 0 {
            s.key(&id, "a").await;
            s.key(&id, "b").await;
        }
    }
    let user0 = s.ok(Service, "get-user", json!({ "username": "user0" })).await.text("user.id");
    let lists = [
        ("list-users", json!({})),
        ("list-users", json!({ "workspace": "acme" })),
        ("list-users", json!({ "workspace": "default" })),
        ("list-api-keys", json!({ "user_id": admin })),
        ("list-api-keys", json!({ "user_id": user0 })),
        ("list-workspaces", json!({})),
        ("list-my-workspaces", json!({ "actor": admin })),
    ];
    let mut tokens = Vec::new();
    for (list, request) in &lists {
        let reply = s.ok(Service, list, with(request.clone(), json!({ "page_size": 1 }))).await;
        assert!(!reply.text("next_page_token").is_empty(), "{list} {request}");
        tokens.push(reply.text("next_page_token"));
    }
    for (n, (list, request)) in lists.iter().enumerate() {
        for (m, token) in tokens.iter().enumerate() {
            let request = with(request.clone(), json!({ "page_token": token, "page_size": 2 }));
            if n == m {
                s.ok(Service, list, request).await;
            } else {
                let message = s.err(Service, list, request, InvalidArgument).await;
                assert!(message.contains("`page_token`"), "{message}");
            }
        }
        let token = tokens.get(n).cloned().unwrap_or_default();
        let garbled = [format!("{token}A"), format!("{token}="), token.chars().skip(1).collect(), "x".into()];
        for bad in garbled {
            s.err(Service, list, with(request.clone(), json!({ "page_token": bad })), InvalidArgument).await;
        }
        let too_many = with(request.clone(), json!({ "page_size": 1001 }));
        let message = s.err(Service, list, too_many.clone(), InvalidArgument).await;
        assert!(message.contains("`page_size`"), "{message}");
        s.err(Holder(&key), list, too_many, InvalidArgument).await;
        s.ok(Holder(&key), list, with(request.clone(), json!({ "page_size": 1000 }))).await;
    }
}

pub async fn page_of_users_with_long_names_fits_a_reply(s: &Scene<'_>) {
    acme(s).await;
    // A quotation mark takes two bytes in JSON.
    let (name, email) = ("\"".repeat(1024), "é".repeat(512));
    for n in 0..130 {
        let user =
            json!({ "username": format!("{n:0>128}"), "name": name, "email": email, "roles": ["reader"] });
        s.ok(Service, "create-user", new_user("acme", user)).await;
    }
    for request in [json!({ "workspace": "acme", "page_size": 1000 }), json!({ "page_size": 1000 })] {
        let pages = pages(s, Service, "list-users", request, "users").await;
        assert!(pages.len() > 1);
        let names = pages.iter().flatten().filter(|user| text(user, "name") == name).count();
        assert_eq!(names, 130);
        once(&pages, "id");
    }
}

pub async fn update_changes_what_is_present_and_leaves_what_is_absent(s: &Scene<'_>) {
    let (_, admin_key) = acme(s).await;
    let input = json!({
        "username": "Ada", "name": "Ada", "email": "a@x.org", "roles": ["reader"], "password": PASSWORD,
    });
    let mut now = s.ok(Service, "create-user", new_user("acme", input)).await["user"].clone();
    let ada = text(&now, "id");
    let token = s.login("ada", PASSWORD).await;
    let (_, key) = s.key(&ada, "ci").await;
    let rows = [
        (json!({ "name": "Ada Lovelace" }), json!({ "name": "Ada Lovelace" })),
        (json!({ "email": "ada@x.org" }), json!({ "email": "ada@x.org" })),
        (json!({ "roles": ["writer", "reader"] }), json!({ "roles": ["reader", "writer"] })),
        (json!({ "name": "" }), json!({ "name": null })),
        (json!({ "email": "" }), json!({ "email": null })),
        (json!({ "roles": [] }), json!({ "roles": null })),
        (json!({ "must_change_password": true }), json!({ "must_change_password": true })),
        (json!({ "must_change_password": false }), json!({ "must_change_password": null })),
        (json!({ "username": "Ada", "name": "A" }), json!({ "name": "A" })),
        (
            json!({ "name": "B", "email": "b@x.org", "roles": ["writer"], "enabled": true }),
            json!({ "name": "B", "email": "b@x.org", "roles": ["writer"] }),
        ),
    ];
    for (change, expected) in rows {
        let version = version(&now) + 1;
        for (field, value) in with(expected, json!({ "version": version })).as_object().into_iter().flatten()
        {
            match value {
                Value::Null => now.as_object_mut().and_then(|now| now.remove(field)),
                value => now.as_object_mut().and_then(|now| now.insert(field.clone(), value.clone())),
            };
        }
        let request = json!({ "user_id": ada, "user": change, "workspace": "acme" });
        let reply = s.ok(Service, "update-user", request).await;
        assert_eq!(reply.0, json!({ "user": now }), "{change}");
        assert_eq!(user(s, &ada).await, now, "{change}");
    }
    // It took effect, and ended nothing.
    let who = s.ok(Service, "authenticate", json!({ "credential": token.expose() })).await;
    assert_eq!(who["resolved_roles"], json!(["writer"]));
    assert!(alive(s, &key).await);

    // The name at login stays what it was.
    for username in ["ada", "Bob", ""] {
        let request = json!({ "user_id": ada, "user": { "username": username, "name": "C" } });
        s.err(Service, "update-user", request.clone(), InvalidArgument).await;
        s.err(Holder(&admin_key), "update-user", request, InvalidArgument).await;
    }
    let request = json!({ "user_id": ada, "user": { "roles": ["captain"], "name": "C" } });
    s.err(Service, "update-user", request.clone(), InvalidArgument).await;
    s.err(Holder(&admin_key), "update-user", request, InvalidArgument).await;
    assert_eq!(user(s, &ada).await, now, "what is refused changes nothing");

    // All in one change is one version.
    for (change, enabled) in
        [(json!({ "enabled": false, "name": "Off" }), false), (json!({ "enabled": true, "roles": [] }), true)]
    {
        let before = version(&user(s, &ada).await);
        let changed = s.ok(Service, "update-user", json!({ "user_id": ada, "user": change })).await;
        assert_eq!((version(&changed["user"]), on(&changed["user"])), (before + 1, enabled), "{change}");
        assert!(!alive(s, &token).await && !alive(s, &key).await);
    }
}

pub async fn disabling_and_enabling_a_user_end_tokens_and_keys_and_restore_none(s: &Scene<'_>) {
    acme(s).await;
    let set = |on: bool, how: &str, id: &str| match (how, on) {
        ("update", _) => ("update-user", json!({ "user_id": id, "user": { "enabled": on } })),
        (_, true) => ("enable-user", json!({ "user_id": id })),
        (_, false) => ("disable-user", json!({ "user_id": id, "workspace": "acme" })),
    };
    for how in ["operation", "update"] {
        let (id, token, key) = ada(s).await;
        let (operation, request) = set(false, how, &id);
        s.ok(Service, operation, request).await;
        assert!(!alive(s, &token).await && !alive(s, &key).await, "{how}");
        assert!(!s.may(&id, "graph:read", "acme").await, "{how}");
        s.err(Nobody, "login", json!({ "username": "ada", "password": PASSWORD }), AuthFailed).await;
        s.err(Holder(&token), "whoami", json!({}), AuthFailed).await;
        s.err(Holder(&key), "whoami", json!({}), AuthFailed).await;
        s.err(Service, "whoami", json!({ "actor": id }), OperationNotPermitted).await;
        s.err(Service, "resolve-api-key", json!({ "api_key": key.expose() }), AuthFailed).await;
        let before = user(s, &id).await;
        assert!(!on(&before), "{how}");
        assert_eq!(
            s.ok(Service, "list-api-keys", json!({ "user_id": id })).await.len("api_keys"),
            0,
            "{how}"
        );

        let (operation, request) = set(true, how, &id);
        s.ok(Service, operation, request).await;
        let after = user(s, &id).await;
        assert!(on(&after), "{how}");
        assert!(version(&after) > version(&before), "{how}");
        assert!(s.may(&id, "graph:read", "acme").await, "{how}");
        assert!(!alive(s, &token).await && !alive(s, &key).await, "nothing comes back: {how}");
        assert_eq!(
            s.ok(Service, "list-api-keys", json!({ "user_id": id })).await.len("api_keys"),
            0,
            "{how}"
        );
        let token = s.login("ada", PASSWORD).await;
        let (_, key) = s.key(&id, "ci").await;
        assert!(alive(s, &token).await && alive(s, &key).await, "{how}");
        s.ok(Service, "delete-user", json!({ "user_id": id })).await;
    }
}

pub async fn deleting_a_user_leaves_nothing_of_them(s: &Scene<'_>) {
    let (_, admin_key) = acme(s).await;
    let (id, token, key) = ada(s).await;
    let (other, other_token, other_key) = {
        let user = json!({ "username": "Bob", "roles": ["reader"], "password": PASSWORD });
        let bob = s.ok(Service, "create-user", new_user("acme", user)).await.text("user.id");
        let (_, key) = s.key(&bob, "ci").await;
        (bob, s.login("bob", PASSWORD).await, key)
    };
    let keys = s.ok(Service, "list-api-keys", json!({ "user_id": id })).await;
    let key_id = texts(&keys["api_keys"], "id").pop().unwrap_or_default();
    assert_eq!(s.ok(Holder(&admin_key), "delete-user", json!({ "user_id": id })).await.0, json!({}));
    assert!(!alive(s, &token).await && !alive(s, &key).await);
    assert!(!s.may(&id, "graph:read", "acme").await);
    s.err(Nobody, "login", json!({ "username": "ada", "password": PASSWORD }), AuthFailed).await;
    s.err(Service, "whoami", json!({ "actor": id }), OperationNotPermitted).await;
    s.err(Service, "revoke-api-key", json!({ "key_id": key_id }), NotFound).await;
    for (operation, request) in about(&id) {
        s.err(Service, operation, request, NotFound).await;
    }
    let left = pages(s, Service, "list-users", json!({ "workspace": "acme" }), "users").await;
    assert_eq!(once(&left, "id"), BTreeSet::from([other]));
    assert!(alive(s, &other_token).await && alive(s, &other_key).await, "others are not touched");

    // Whoever has the name next has nothing from before.
    let again = s.user("acme", "ada", &["reader"]).await;
    assert!(!alive(s, &token).await && !alive(s, &key).await);
    s.err(Nobody, "login", json!({ "username": "ada", "password": PASSWORD }), AuthFailed).await;
    assert_eq!(s.ok(Service, "list-api-keys", json!({ "user_id": again })).await.len("api_keys"), 0);

    // One may delete oneself.
    let leaver = s.user("default", "leaver", &["admin"]).await;
    let (_, leaver_key) = s.key(&leaver, "k").await;
    s.ok(Holder(&leaver_key), "delete-user", json!({ "user_id": leaver })).await;
    s.err(Holder(&leaver_key), "whoami", json!({}), AuthFailed).await;
}

pub async fn racing_updates_are_done_or_refused_as_a_whole(s: &Scene<'_>) {
    acme(s).await;
    let id = s.user("acme", "ada", &[]).await;
    let updates = (0..12).map(|n| {
        let request =
            json!({ "user_id": id, "user": { "name": format!("name {n}"), "email": format!("{n}@x") } });
        s.ask(Service, "update-user", request)
    });
    let replies = join_all(updates).await;
    let (done, refused): (Vec<&Reply>, Vec<&Reply>) =
        replies.iter().partition(|reply| reply.0.get("error").is_none());
    assert!(refused.iter().all(|reply| reply.text("error.type") == "conflict"), "{refused:?}");
    let now = user(s, &id).await;
    assert_eq!(version(&now), 1 + done.len() as u64, "each change is one version");
    let versions: BTreeSet<_> = done.iter().map(|reply| version(&reply["user"])).collect();
    assert_eq!(versions.len(), done.len());
    let last = done.iter().find(|reply| version(&reply["user"]) == version(&now));
    assert_eq!(last.map(|reply| &reply["user"]), Some(&now));
}

pub async fn update_needs_users_admin_for_roles_and_for_what_other_operations_do() -> BTreeSet<Shown> {
    let world = world(offices());
    let scene =
        Scene::new("users::update_needs_users_admin_for_roles_and_for_what_other_operations_do", &world);
    let s = &scene;
    acme(s).await;
    let helper = s.user("acme", "helper", &["helpdesk"]).await;
    let id = s.user("acme", "ada", &[]).await;
    let off = s.user("acme", "off", &[]).await;
    s.ok(Service, "disable-user", json!({ "user_id": off })).await;
    let (_, key) = s.key(&helper, "k").await;
    let rows: &[(&str, Value, bool)] = &[
        (&id, json!({ "name": "Ada" }), true),
        (&id, json!({ "email": "a@x.org" }), true),
        (&id, json!({ "username": "ada" }), true),
        (&id, json!({ "must_change_password": true }), true),
        (&id, json!({ "must_change_password": false }), false),
        (&id, json!({ "roles": [] }), false),
        (&id, json!({ "roles": ["helpdesk"] }), false),
        (&id, json!({ "enabled": true }), true),
        (&id, json!({ "enabled": false }), false),
        (&off, json!({ "enabled": false }), true),
        (&off, json!({ "enabled": true }), false),
        (&helper, json!({ "roles": ["helpdesk"] }), false),
    ];
    for (target, change, allowed) in rows {
        let request = json!({ "user_id": target, "user": change });
        if *allowed {
            s.ok(Holder(&key), "update-user", request.clone()).await;
            s.ok(Service, "update-user", by(&helper, &request)).await;
        } else {
            s.err(Holder(&key), "update-user", request.clone(), OperationNotPermitted).await;
            s.err(Service, "update-user", by(&helper, &request), OperationNotPermitted).await;
        }
    }
    for operation in ["disable-user", "enable-user", "delete-user", "reset-password"] {
        s.err(Holder(&key), operation, json!({ "user_id": id }), OperationNotPermitted).await;
    }
    let newcomer = new_user("acme", json!({ "username": "new" }));
    s.err(Holder(&key), "create-user", newcomer, OperationNotPermitted).await;
    scene.shown()
}

fn is_uuid(text: &str) -> bool {
    text.len() == 36 && text.bytes().all(|b| b == b'-' || b.is_ascii_digit() || (b'a'..=b'f').contains(&b))
}
