//! API keys: made, listed, revoked, resolved.

use std::collections::BTreeSet;

use futures_util::future::join_all;
use iam_schema::ErrorKind::*;
use iam_schema::Secret;
use iam_svc::clock::Clock;
use iam_tests::Scene;
use iam_tests::scene::As::{Holder, Nobody, Service};
use iam_tests::scene::Shown;
use serde::Deserialize;
use serde_json::{Value, json};

use super::common::{
    NOBODY, PASSWORD, acme, alive, by, malformed, offices, once, only_admins_may, pages, text, texts, user,
    with, world,
};
use crate::golden;

const FAR: &str = "2999-01-31T13:00:00.5+01:00";

pub async fn created_key_resolves_to_its_owner_and_is_shown_once(s: &Scene<'_>) {
    acme(s).await;
    let ada = s.user("acme", "Ada", &["writer", "reader"]).await;
    let made = s.ok(Service, "create-api-key", key(&ada, json!({ "name": "ci", "expires": FAR }))).await;
    let plaintext = made.text("api_key_plaintext");
    let shown = json!({
        "id": made.text("api_key.id"), "user_id": ada, "name": "ci", "prefix": plaintext.get(..7),
        "expires": "2999-01-31T12:00:00.500Z", "created": made.text("api_key.created"),
    });
    assert_eq!(made.0, json!({ "api_key_plaintext": plaintext, "api_key": shown }));
    assert!(made.text("api_key.created").ends_with('Z'), "{shown}");
    let body = plaintext.strip_prefix("tg_").unwrap_or_default();
    let base64url = |b: u8| b.is_ascii_alphanumeric() || b == b'-' || b == b'_';
    assert!(body.len() == 32 && body.bytes().all(base64url), "24 bytes in base64url");
    let listed = s.ok(Service, "list-api-keys", json!({ "user_id": ada })).await;
    assert_eq!(listed.0, json!({ "api_keys": [shown] }));

    let identity = json!({
        "resolved_user_id": ada, "resolved_workspace": "acme", "resolved_roles": ["reader", "writer"],
        "resolved_key_id": text(&shown, "id"), "resolved_expires": text(&shown, "expires"),
        "resolved_source": "api-key",
    });
    let resolved = s.ok(Service, "resolve-api-key", json!({ "api_key": plaintext })).await;
    assert_eq!(resolved.0, identity);
    assert_eq!(s.ok(Service, "authenticate", json!({ "credential": plaintext })).await.0, identity);
    let me = s.ok(Holder(&Secret::new(plaintext)), "whoami", json!({})).await;
    assert_eq!(me.text("user.username"), "Ada");

    // Without an end, and without roles.
    let bob = s.user("acme", "Bob", &[]).await;
    let (id, plain) = s.key(&bob, "ci").await;
    let resolved = s.ok(Service, "resolve-api-key", json!({ "api_key": plain.expose() })).await;
    let identity = json!({
        "resolved_user_id": bob, "resolved_workspace": "acme", "resolved_key_id": id, "resolved_source": "api-key",
    });
    assert_eq!(resolved.0, identity);
}

pub async fn malformed_request_about_keys_is_refused_before_anything_is_asked(s: &Scene<'_>) {
    let (admin, _) = s.bootstrap().await;
    let long = "x".repeat(1025);
    let rows = [
        ("create-api-key", json!({}), "key"),
        ("create-api-key", key(&admin, json!({})), "key.name"),
        ("create-api-key", key(&admin, json!({ "name": "" })), "key.name"),
        ("create-api-key", key(&admin, json!({ "name": "a\u{0}" })), "key.name"),
        ("create-api-key", key(&admin, json!({ "name": long })), "key.name"),
        ("create-api-key", key("ada", json!({ "name": "ci" })), "key.user_id"),
        ("create-api-key", key(&admin, json!({ "name": "ci", "expires": "tomorrow" })), "key.expires"),
        (
            "create-api-key",
            key(&admin, json!({ "name": "ci", "expires": "2999-01-31T12:00:00" })),
            "key.expires",
        ),
        (
            "create-api-key",
            with(key(&admin, json!({ "name": "ci" })), json!({ "workspace": "_x" })),
            "workspace",
        ),
        ("list-api-keys", json!({ "user_id": "ada" }), "user_id"),
        ("list-api-keys", json!({ "user_id": admin, "workspace": "_x" }), "workspace"),
        ("revoke-api-key", json!({}), "key_id"),
        ("revoke-api-key", json!({ "key_id": "ci" }), "key_id"),
        ("revoke-api-key", json!({ "key_id": NOBODY.to_uppercase() }), "key_id"),
        ("revoke-api-key", json!({ "key_id": NOBODY, "workspace": "_x" }), "workspace"),
        ("resolve-api-key", json!({}), "api_key"),
    ];
    for (operation, request, field) in rows {
        malformed(s, operation, request, field).await;
    }
    // Only on the API plane is there a oneself to mean.
    for (operation, request) in
        [("create-api-key", json!({ "key": { "name": "ci" } })), ("list-api-keys", json!({}))]
    {
        s.err(Service, operation, request.clone(), InvalidArgument).await;
        s.err(Service, operation, by(&admin, &request), InvalidArgument).await;
    }
    s.ok(Service, "create-api-key", key(&admin, json!({ "name": "é".repeat(512) }))).await;
}

pub async fn key_ends_when_it_expires(s: &Scene<'_>) {
    let (admin, _) = acme(s).await;
    for past in ["2001-01-31T12:00:00Z", "1970-01-01T00:00:00Z"] {
        let request = key(&admin, json!({ "name": "past", "expires": past }));
        let message = s.err(Service, "create-api-key", request, InvalidArgument).await;
        assert!(message.contains("`key.expires`"), "{message}");
    }
    let Some(clock) = s.clock() else { return };
    let (now, end) = (clock.now().to_string(), clock.now().plus_secs(90).to_string());
    s.err(Service, "create-api-key", key(&admin, json!({ "name": "now", "expires": now })), InvalidArgument)
        .await;
    let made = s.ok(Service, "create-api-key", key(&admin, json!({ "name": "brief", "expires": end }))).await;
    let brief = made.secret("api_key_plaintext");
    let authorise = json!({ "credential": brief.expose(), "capability": "graph:read" });
    let ttl = async || s.ok(Service, "authorise", authorise.clone()).await["decision_ttl_seconds"].as_u64();
    assert_eq!(ttl().await, Some(60));
    clock.advance_ms(60_000);
    assert_eq!(ttl().await, Some(30), "never beyond the end of the key");
    clock.advance_ms(29_999);
    let resolved = s.ok(Service, "resolve-api-key", json!({ "api_key": brief.expose() })).await;
    assert_eq!(resolved.text("resolved_expires"), end);
    clock.advance_ms(1);
    assert!(!alive(s, &brief).await);
    s.err(Service, "resolve-api-key", json!({ "api_key": brief.expose() }), AuthFailed).await;
    s.err(Service, "authorise", authorise.clone(), AuthFailed).await;
    s.err(Holder(&brief), "whoami", json!({}), AuthFailed).await;
}

pub async fn key_that_resolves_to_nobody_is_refused_without_a_reason(s: &Scene<'_>) {
    let (_, admin_key) = acme(s).await;
    let ada = s.user("acme", "ada", &["reader"]).await;
    let (id, revoked) = s.key(&ada, "revoked").await;
    let (_, good) = s.key(&ada, "good").await;
    s.ok(Service, "revoke-api-key", json!({ "key_id": id })).await;
    let good = good.expose();
    let mut texts: Vec<String> = [
        revoked.expose(),
        "x",
        " ",
        "tg_",
        "tg_AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA",
        "a.b.c",
        "..",
        &format!(" {good}"),
        &format!("{good} "),
        &format!("{good}="),
        &good.to_uppercase(),
        &good.to_lowercase(),
        good.get(3..).unwrap_or_default(),
        good.get(..34).unwrap_or_default(),
    ]
    .map(str::to_owned)
    .into();
    texts.push("x".repeat(100_000));
    for text in texts {
        let request = json!({ "api_key": text });
        assert_eq!(
            s.err(Service, "resolve-api-key", request.clone(), AuthFailed).await,
            "auth failure",
            "{text}"
        );
        let request = json!({ "credential": text });
        assert_eq!(s.err(Service, "authenticate", request, AuthFailed).await, "auth failure", "{text}");
    }
    let ok = json!({ "api_key": good });
    s.ok(Service, "resolve-api-key", ok.clone()).await;
    // It is for the service plane, which is told after the credential.
    assert_eq!(s.err(Nobody, "resolve-api-key", ok.clone(), AuthFailed).await, "auth failure");
    s.err(Holder(&revoked), "resolve-api-key", ok.clone(), AuthFailed).await;
    let message = s.err(Holder(&admin_key), "resolve-api-key", ok.clone(), OperationNotPermitted).await;
    assert_eq!(message, "access denied");
    let unknown = json!({ "api_key": "tg_AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA" });
    s.err(Holder(&admin_key), "resolve-api-key", unknown, OperationNotPermitted).await;

    s.ok(Service, "disable-user", json!({ "user_id": ada })).await;
    assert_eq!(s.err(Service, "resolve-api-key", ok, AuthFailed).await, "auth failure");
}

pub async fn key_needs_an_enabled_owner(s: &Scene<'_>) {
    let (admin, admin_key) = acme(s).await;
    let ada = s.user("acme", "ada", &["reader"]).await;
    let request = key(&ada, json!({ "name": "ci" }));
    let refused = async |kind| {
        s.err(Service, "create-api-key", request.clone(), kind).await;
        s.err(Service, "create-api-key", by(&admin, &request), kind).await;
        s.err(Holder(&admin_key), "create-api-key", request.clone(), kind).await;
    };
    s.ok(Service, "disable-user", json!({ "user_id": ada })).await;
    refused(Disabled).await;
    s.ok(Service, "enable-user", json!({ "user_id": ada })).await;
    s.ok(Service, "disable-workspace", json!({ "workspace_record": { "id": "acme" } })).await;
    refused(Disabled).await;
    s.ok(Service, "update-workspace", json!({ "workspace_record": { "id": "acme", "enabled": true } })).await;
    refused(Disabled).await;
    s.ok(Service, "enable-user", json!({ "user_id": ada })).await;
    s.ok(Holder(&admin_key), "create-api-key", request.clone()).await;
    s.ok(Service, "delete-user", json!({ "user_id": ada })).await;
    refused(NotFound).await;
}

pub async fn key_name_is_one_keys_of_a_user_and_free_once_that_is_gone(s: &Scene<'_>) {
    let (admin, admin_key) = acme(s).await;
    let ada = s.user("acme", "ada", &["reader"]).await;
    let bob = s.user("acme", "bob", &["reader"]).await;
    let (id, first) = s.key(&ada, "ci").await;
    s.key(&bob, "ci").await;
    let again = key(&ada, json!({ "name": "ci" }));
    s.err(Service, "create-api-key", again.clone(), Duplicate).await;
    s.err(Holder(&admin_key), "create-api-key", again.clone(), Duplicate).await;
    s.err(Service, "create-api-key", by(&admin, &again), Duplicate).await;

    s.ok(Service, "revoke-api-key", json!({ "key_id": id })).await;
    let (_, second) = s.key(&ada, "ci").await;
    assert!(!alive(s, &first).await && alive(s, &second).await);
    s.ok(Service, "disable-user", json!({ "user_id": ada })).await;
    s.ok(Service, "enable-user", json!({ "user_id": ada })).await;
    let (_, third) = s.key(&ada, "ci").await;
    assert!(!alive(s, &second).await && alive(s, &third).await);

    let racers = (0..6).map(|_| s.ask(Service, "create-api-key", key(&bob, json!({ "name": "race" }))));
    let outcomes: Vec<String> = join_all(racers).await.iter().map(|r| r.text("error.type")).collect();
    assert_eq!(outcomes.iter().filter(|kind| kind.is_empty()).count(), 1, "{outcomes:?}");
    assert_eq!(outcomes.iter().filter(|kind| *kind == "duplicate").count(), 5, "{outcomes:?}");
}

pub async fn user_has_200_keys_at_most_and_a_list_shows_each_once(s: &Scene<'_>) {
    let (admin, admin_key) = acme(s).await;
    let ada = s.user("acme", "ada", &["reader"]).await;
    let bob = s.user("acme", "bob", &["reader"]).await;
    s.key(&bob, "not of this list").await;
    let mut all = BTreeSet::new();
    let mut last = (String::new(), Secret::default());
    for n in 0..200 {
        // A quotation mark takes two bytes in JSON, so that not all fit into one reply.
        last = s.key(&ada, &format!("{n:03}{}", "\"".repeat(1021))).await;
        all.insert(last.0.clone());
    }
    let beyond = key(&ada, json!({ "name": "beyond" }));
    for (who, request) in
        [(Service, beyond.clone()), (Service, by(&admin, &beyond)), (Holder(&last.1), beyond.clone())]
    {
        s.err(who, "create-api-key", request, InvalidArgument).await;
    }
    for size in [0, 1, 99, 200, 201, 1000] {
        let request = json!({ "user_id": ada, "page_size": size });
        for (who, request) in [(Service, request.clone()), (Holder(&admin_key), request)] {
            let pages = pages(s, who, "list-api-keys", request, "api_keys").await;
            assert!(size == 0 || pages.iter().all(|page| page.len() <= size), "{size}");
            assert_eq!(once(&pages, "id"), all, "page size {size}");
            assert!(pages.iter().flatten().all(|key| text(key, "user_id") == ada));
        }
    }
    // Keys that go and come between pages disturb no others.
    let first = s.ok(Service, "list-api-keys", json!({ "user_id": ada, "page_size": 20 })).await;
    let seen = texts(&first["api_keys"], "id");
    let to_come: Vec<String> = all.iter().filter(|id| !seen.contains(id)).cloned().collect();
    let (shown_last, gone) = (seen.last().cloned(), to_come.first().cloned());
    for id in [&shown_last, &gone] {
        s.ok(Service, "revoke-api-key", json!({ "key_id": id })).await;
    }
    s.ok(Service, "create-api-key", beyond.clone()).await;
    let request = json!({ "user_id": ada, "page_size": 30, "page_token": first.text("next_page_token") });
    let mut rest = once(&pages(s, Service, "list-api-keys", request, "api_keys").await, "id");
    rest.retain(|id| all.contains(id));
    assert_eq!(rest, to_come.into_iter().filter(|id| Some(id) != gone.as_ref()).collect());

    // There is room for one more, and after ending all for many.
    s.key(&ada, "last").await;
    s.err(Service, "create-api-key", key(&ada, json!({ "name": "too many" })), InvalidArgument).await;
    s.ok(Service, "disable-user", json!({ "user_id": ada })).await;
    s.ok(Service, "enable-user", json!({ "user_id": ada })).await;
    assert!(!alive(s, &last.1).await);
    let (id, _) = s.key(&ada, "beyond").await;
    let listed = s.ok(Service, "list-api-keys", json!({ "user_id": ada })).await;
    assert_eq!(texts(&listed["api_keys"], "id"), [id]);
}

pub async fn revoked_key_is_gone_at_once(s: &Scene<'_>) {
    let (admin, admin_key) = acme(s).await;
    let ada = s.user("acme", "ada", &["reader"]).await;
    let before = user(s, &ada).await;
    let (_, stays) = s.key(&ada, "stays").await;
    for (n, who) in [Service, Holder(&admin_key), Holder(&stays)].into_iter().enumerate() {
        let (id, plain) = s.key(&ada, "goes").await;
        let authorise = json!({ "credential": plain.expose(), "capability": "graph:read" });
        assert!(alive(s, &plain).await);
        s.ok(Service, "authorise", authorise.clone()).await;
        let request = json!({ "key_id": id, "workspace": "acme" });
        assert_eq!(s.ok(who, "revoke-api-key", request).await.0, json!({}));
        assert!(!alive(s, &plain).await, "{n}");
        s.err(Service, "authorise", authorise, AuthFailed).await;
        s.err(Service, "resolve-api-key", json!({ "api_key": plain.expose() }), AuthFailed).await;
        s.err(Holder(&plain), "whoami", json!({}), AuthFailed).await;
        let listed = s.ok(Service, "list-api-keys", json!({ "user_id": ada })).await;
        assert_eq!(texts(&listed["api_keys"], "name"), ["stays"]);

        let again = json!({ "key_id": id });
        s.err(Service, "revoke-api-key", again.clone(), NotFound).await;
        s.err(Service, "revoke-api-key", by(&admin, &again), NotFound).await;
        s.err(Holder(&admin_key), "revoke-api-key", again.clone(), NotFound).await;
        s.err(Holder(&stays), "revoke-api-key", again, OperationNotPermitted).await;
    }
    assert!(alive(s, &stays).await);
    assert_eq!(user(s, &ada).await, before, "keys are no part of the user's record");
    // A key may end itself.
    let own = s.ok(Service, "resolve-api-key", json!({ "api_key": stays.expose() })).await;
    s.ok(Holder(&stays), "revoke-api-key", json!({ "key_id": own.text("resolved_key_id") })).await;
    s.err(Holder(&stays), "whoami", json!({}), AuthFailed).await;
}

pub async fn anybody_manages_their_own_keys_and_nobody_elses(s: &Scene<'_>) {
    let (admin, _) = acme(s).await;
    let ada = s.user("acme", "ada", &["reader"]).await;
    let bob = s.user("acme", "bob", &["reader"]).await;
    let (own_id, own) = s.key(&ada, "own").await;
    let (bob_id, bob_key) = s.key(&bob, "bobs").await;
    // Whether the own id is given or left out.
    for (n, request) in [json!({}), json!({ "user_id": ada })].into_iter().enumerate() {
        let mine = with(request.clone(), json!({ "name": format!("new{n}") }));
        let made = s.ok(Holder(&own), "create-api-key", json!({ "key": mine, "workspace": "acme" })).await;
        assert_eq!(made.text("api_key.user_id"), ada);
        assert!(alive(s, &made.secret("api_key_plaintext")).await);
        assert_eq!(s.ok(Holder(&own), "list-api-keys", request).await.len("api_keys"), 2);
        s.ok(Holder(&own), "revoke-api-key", json!({ "key_id": made.text("api_key.id") })).await;
    }
    let made = s.ok(Service, "create-api-key", by(&ada, &key(&ada, json!({ "name": "by" })))).await;
    s.ok(Service, "list-api-keys", by(&ada, &json!({ "user_id": ada }))).await;
    s.ok(Service, "revoke-api-key", by(&ada, &json!({ "key_id": made.text("api_key.id") }))).await;

    // With a token as with a key.
    s.password(&ada, PASSWORD).await;
    let token = s.login("ada", PASSWORD).await;
    let made = s.ok(Holder(&token), "create-api-key", json!({ "key": { "name": "by token" } })).await;
    s.ok(Holder(&token), "revoke-api-key", json!({ "key_id": made.text("api_key.id") })).await;

    // The same answer for somebody else's as for none at all.
    let rows = [
        ("create-api-key", key(&bob, json!({ "name": "new" }))),
        ("create-api-key", key(&bob, json!({ "name": "bobs" }))),
        ("create-api-key", key(&admin, json!({ "name": "new" }))),
        ("create-api-key", key(NOBODY, json!({ "name": "new" }))),
        ("list-api-keys", json!({ "user_id": bob })),
        ("list-api-keys", json!({ "user_id": NOBODY })),
        ("revoke-api-key", json!({ "key_id": bob_id })),
        ("revoke-api-key", json!({ "key_id": NOBODY })),
        ("create-api-key", json!({ "key": { "name": "new" }, "workspace": "default" })),
        ("list-api-keys", json!({ "workspace": "default" })),
        ("revoke-api-key", json!({ "key_id": own_id, "workspace": "default" })),
    ];
    for (operation, request) in rows {
        let message = s.err(Holder(&own), operation, request, OperationNotPermitted).await;
        assert_eq!(message, "access denied", "{operation}");
    }
    assert!(alive(s, &own).await && alive(s, &bob_key).await);
    s.err(Holder(&own), "create-api-key", json!({ "key": { "name": "own" } }), Duplicate).await;
    let past = json!({ "key": { "name": "past", "expires": "2001-01-31T12:00:00Z" } });
    s.err(Holder(&own), "create-api-key", past, InvalidArgument).await;
}

pub async fn only_those_with_the_capability_administer_keys(s: &Scene<'_>) {
    acme(s).await;
    let ada = s.user("acme", "ada", &["reader"]).await;
    let (id, ada_key) = s.key(&ada, "k").await;
    let rows = [
        ("create-api-key", key(&ada, json!({ "name": "new" }))),
        ("create-api-key", key(NOBODY, json!({ "name": "new" }))),
        ("list-api-keys", json!({ "user_id": ada })),
        ("list-api-keys", json!({ "user_id": NOBODY })),
        ("revoke-api-key", json!({ "key_id": id })),
        ("revoke-api-key", json!({ "key_id": NOBODY })),
    ];
    only_admins_may(s, &rows).await;
    let listed = s.ok(Service, "list-api-keys", json!({ "user_id": ada })).await;
    assert_eq!(texts(&listed["api_keys"], "id"), [id]);
    assert!(alive(s, &ada_key).await);
}

pub async fn keys_of_others_need_reach_and_dominance_and_ones_own_either_capability() -> BTreeSet<Shown> {
    let world = world(offices());
    let name = "api_keys::keys_of_others_need_reach_and_dominance_and_ones_own_either_capability";
    let scene = Scene::new(name, &world);
    let s = &scene;
    acme(s).await;
    s.workspace("other").await;
    // The actor's roles in acme; the owner's roles and home, or nothing for oneself; list; create and revoke.
    type Row<'r> = (&'r [&'r str], Option<(&'r [&'r str], &'r str)>, bool, bool);
    let rows: &[Row<'_>] = &[
        (&["bare"], None, false, false),
        (&["reader"], None, true, true),
        (&["keeper"], None, true, true),
        (&["keymaster"], None, true, true),
        (&[], None, false, false),
        (&["reader"], Some((&[], "acme")), false, false),
        (&["bare"], Some((&[], "acme")), false, false),
        (&["keeper"], Some((&[], "acme")), true, true),
        (&["keeper"], Some((&["bare"], "acme")), true, false),
        (&["keeper", "bare"], Some((&["bare"], "acme")), true, true),
        (&["keeper"], Some((&["keeper"], "acme")), true, true),
        (&["keeper"], Some((&["keymaster"], "acme")), true, false),
        (&["keeper"], Some((&["admin"], "acme")), true, false),
        (&["keeper"], Some((&[], "other")), false, false),
        (&["keymaster"], Some((&[], "other")), true, true),
        (&["keymaster"], Some((&["keeper"], "other")), true, true),
        (&["keymaster"], Some((&["bare"], "other")), true, false),
        (&["keymaster", "bare"], Some((&["bare"], "acme")), true, true),
        (&["keymaster", "bare"], Some((&["bare"], "other")), true, false),
        (&["helpdesk"], Some((&[], "acme")), false, false),
    ];
    for (n, (roles, owner, may_list, may_change)) in rows.iter().enumerate() {
        let actor = s.user("acme", &format!("actor{n}"), roles).await;
        let (_, credential) = s.key(&actor, "k").await;
        let owner = match owner {
            Some((roles, home)) => s.user(home, &format!("owner{n}"), roles).await,
            None => actor.clone(),
        };
        let (first, _) = s.key(&owner, "first").await;
        let (second, _) = s.key(&owner, "second").await;
        let attempts = [
            ("list-api-keys", json!({ "user_id": owner }), json!({ "user_id": owner }), may_list),
            (
                "create-api-key",
                key(&owner, json!({ "name": "new1" })),
                key(&owner, json!({ "name": "new2" })),
                may_change,
            ),
            ("revoke-api-key", json!({ "key_id": first }), json!({ "key_id": second }), may_change),
        ];
        for (operation, by_holder, by_service, allowed) in attempts {
            for reply in [
                s.ask(Holder(&credential), operation, by_holder).await,
                s.ask(Service, operation, by(&actor, &by_service)).await,
            ] {
                let expected = if *allowed { "" } else { "operation-not-permitted" };
                assert_eq!(reply.text("error.type"), expected, "{:?}: {operation}: {}", rows.get(n), reply.0);
            }
        }
        // What is absent is told to those alone who see all.
        let sees_all = roles.contains(&"keymaster");
        for (operation, request) in [
            ("list-api-keys", json!({ "user_id": NOBODY })),
            ("create-api-key", key(NOBODY, json!({ "name": "new" }))),
            ("revoke-api-key", json!({ "key_id": NOBODY })),
        ] {
            let kind = if sees_all { NotFound } else { OperationNotPermitted };
            s.err(Holder(&credential), operation, request.clone(), kind).await;
            s.err(Service, operation, by(&actor, &request), kind).await;
        }
    }
    scene.shown()
}

pub async fn last_use_of_a_key_is_shown_once_it_is_written() -> BTreeSet<Shown> {
    let world = world(Default::default());
    let scene = Scene::new("api_keys::last_use_of_a_key_is_shown_once_it_is_written", &world);
    let s = &scene;
    acme(s).await;
    let ada = s.user("acme", "ada", &["reader"]).await;
    let (_, used) = s.key(&ada, "used").await;
    s.key(&ada, "unused").await;
    let last_used = async || {
        world.dispatch.write_last_used().await;
        let listed = s.ok(Service, "list-api-keys", json!({ "user_id": ada })).await;
        let of = |name| {
            let found =
                listed["api_keys"].as_array().into_iter().flatten().find(|key| text(key, "name") == name);
            found.map(|key| text(key, "last_used"))
        };
        assert_eq!(of("unused").as_deref(), Some(""));
        of("used").unwrap_or_default()
    };
    assert_eq!(last_used().await, "");
    world.clock.advance_ms(3_600_000);
    let first = world.clock.now().to_string();
    assert!(alive(s, &used).await);
    assert_eq!(last_used().await, first);
    // Not with every use: that would be a write for each request.
    world.clock.advance_ms(299_999);
    s.ok(Holder(&used), "whoami", json!({})).await;
    assert_eq!(last_used().await, first);
    world.clock.advance_ms(1);
    s.ok(Service, "resolve-api-key", json!({ "api_key": used.expose() })).await;
    assert_eq!(last_used().await, world.clock.now().to_string());
    scene.shown()
}

#[derive(Deserialize)]
struct Times {
    now: String,
    ahead: Vec<Ahead>,
}

#[derive(Deserialize)]
struct Ahead {
    text: String,
    ok: bool,
    reason: String,
}

pub async fn expiry_lies_ahead_as_the_vectors_say() -> BTreeSet<Shown> {
    let world = world(Default::default());
    let scene = Scene::new("api_keys::expiry_lies_ahead_as_the_vectors_say", &world);
    let s = &scene;
    let times: Times = golden::load("timestamps");
    let (admin, _) = acme(s).await;
    assert_eq!(world.clock.now().to_string(), times.now);
    let mut failures = Vec::new();
    for (n, row) in times.ahead.iter().enumerate() {
        let request = key(&admin, json!({ "name": format!("key{n}"), "expires": row.text }));
        let reply = s.ask(Service, "create-api-key", request).await;
        let expected = if row.ok { "" } else { "invalid-argument" };
        if reply.text("error.type") != expected {
            failures.push(format!("{:?} ({}): {}", row.text, row.reason, reply.0));
        }
    }
    golden::report("timestamps, ahead", times.ahead.len(), failures);
    scene.shown()
}

/// What `create-api-key` takes.
fn key(user: &str, key: Value) -> Value {
    json!({ "key": with(json!({ "user_id": user }), key) })
}
