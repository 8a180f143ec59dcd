//! Who a credential belongs to, and what they may do.

use std::collections::BTreeSet;

use iam_schema::ErrorKind::*;
use iam_schema::Secret;
use iam_tests::Scene;
use iam_tests::scene::As::{Holder, Nobody, Service};
use iam_tests::scene::{Reply, Shown};
use iam_tests::world::{Setup, World};
use serde_json::{Value, json};

use super::common::{NOBODY, PASSWORD};

/// The deployment that most of these scenes play in: one of each role, each with a key, and three workspaces.
struct Cast {
    root: String,
    root_key: Secret,
    ada: String,
    ada_key: Secret,
    bob: String,
    bob_key: Secret,
}

impl Cast {
    /// Ada is a reader of `acme`, bob a writer of `globex`; `closed` is disabled.
    async fn new(s: &Scene<'_>) -> Self {
        let (root, root_key) = s.bootstrap().await;
        for id in ["acme", "globex", "closed"] {
            s.workspace(id).await;
        }
        s.ok(Service, "disable-workspace", json!({ "workspace_record": { "id": "closed" } })).await;
        let ada = s.user("acme", "Ada", &["reader"]).await;
        let bob = s.user("globex", "bob", &["writer"]).await;
        let (_, ada_key) = s.key(&ada, "k").await;
        let (_, bob_key) = s.key(&bob, "k").await;
        Self { root, root_key, ada, ada_key, bob, bob_key }
    }
}

/// A resource or parameters object with a target.
fn at(workspace: &str) -> String {
    json!({ "workspace": workspace }).to_string()
}

fn resolved(reply: &Reply) -> Value {
    let mut fields = reply.0.clone();
    fields.as_object_mut().expect("an object").retain(|name, _| name.starts_with("resolved_"));
    fields
}

pub async fn authenticate_tells_whose_a_credential_is(s: &Scene<'_>) {
    let cast = Cast::new(s).await;
    s.password(&cast.ada, PASSWORD).await;
    let token = s.login("ada", PASSWORD).await;
    let key =
        json!({ "key": { "user_id": cast.ada, "name": "short", "expires": "2126-12-01T00:00:00+01:00" } });
    let key = s.ok(Service, "create-api-key", key).await;
    let text = key.secret("api_key_plaintext");

    let by_key = json!({
        "resolved_user_id": cast.ada,
        "resolved_workspace": "acme",
        "resolved_roles": ["reader"],
        "resolved_key_id": key.text("api_key.id"),
        "resolved_expires": "2126-11-30T23:00:00.000Z",
        "resolved_source": "api-key",
    });
    assert_eq!(s.ok(Service, "authenticate", json!({ "credential": text.expose() })).await.0, by_key);
    assert_eq!(s.ok(Service, "resolve-api-key", json!({ "api_key": text.expose() })).await.0, by_key);
    for (operation, field) in [("authorise", "capability"), ("authorise-many", "authorise_checks")] {
        let mut request = json!({ "credential": text.expose() });
        request[field] = json!(if field == "capability" { "agent" } else { "[]" });
        assert_eq!(resolved(&s.ok(Service, operation, request).await), by_key, "{operation}");
    }

    let by_token = s.ok(Service, "authenticate", json!({ "credential": token.expose() })).await;
    assert_eq!(by_token["resolved_source"], "jwt");
    assert!(by_token.0.get("resolved_key_id").is_none());
    s.err(Service, "resolve-api-key", json!({ "api_key": token.expose() }), AuthFailed).await;
    // An actor is asked nothing here, whoever that is.
    for actor in [NOBODY, &cast.ada] {
        s.ok(Service, "authenticate", json!({ "credential": token.expose(), "actor": actor })).await;
    }
}

pub async fn credential_that_is_dead_or_unknown_is_refused_in_one_way(s: &Scene<'_>) {
    let cast = Cast::new(s).await;
    let holder = |name: &'static str| async move {
        let user = s.user("acme", name, &["reader"]).await;
        s.password(&user, PASSWORD).await;
        let ((id, key), token) = (s.key(&user, "k").await, s.login(name, PASSWORD).await);
        (user, id, key, token)
    };
    let (_, id, revoked, _) = holder("one").await;
    s.ok(Service, "revoke-api-key", json!({ "key_id": id })).await;
    let (user, _, key_of_disabled, token_of_disabled) = holder("two").await;
    s.ok(Service, "disable-user", json!({ "user_id": user })).await;
    let (user, _, key_of_enabled, token_of_enabled) = holder("three").await;
    for operation in ["disable-user", "enable-user"] {
        s.ok(Service, operation, json!({ "user_id": user })).await;
    }
    let (user, _, key_of_deleted, token_of_deleted) = holder("four").await;
    s.ok(Service, "delete-user", json!({ "user_id": user })).await;
    s.workspace("brief").await;
    let user = s.user("brief", "five", &["reader"]).await;
    let (_, key_of_closed) = s.key(&user, "k").await;
    s.ok(Service, "disable-workspace", json!({ "workspace_record": { "id": "brief" } })).await;

    let good = cast.ada_key.expose();
    let altered = |at: usize| {
        let mut text = good.to_owned();
        let other = if &text[at..=at] == "A" { "B" } else { "A" };
        text.replace_range(at..=at, other);
        text
    };
    let mut dead: Vec<String> =
        [revoked, key_of_disabled, token_of_disabled, key_of_enabled, token_of_enabled, key_of_deleted]
            .iter()
            .chain([&token_of_deleted, &key_of_closed])
            .map(|secret| secret.expose().to_owned())
            .collect();
    dead.extend([altered(3), altered(good.len() - 1), format!(" {good}"), format!("{good} ")]);
    dead.extend(
        [&good[..good.len() - 1], &good.to_ascii_lowercase(), "a.b.c", "..", "Bearer x"].map(str::to_owned),
    );
    for text in &dead {
        for (operation, request) in [
            ("authenticate", json!({ "credential": text })),
            ("resolve-api-key", json!({ "api_key": text })),
            ("authorise", json!({ "credential": text, "capability": "agent" })),
            ("authorise-many", json!({ "credential": text, "authorise_checks": "[]" })),
        ] {
            let message = s.err(Service, operation, request, AuthFailed).await;
            assert_eq!(message, "auth failure", "{operation} of {text}");
        }
        // A header holds no blanks.
        if !text.contains(' ') {
            let message = s.err(Holder(&Secret::new(text.as_str())), "whoami", json!({}), AuthFailed).await;
            assert_eq!(message, "auth failure", "whoami of {text}");
        }
    }
    s.ok(Service, "authenticate", json!({ "credential": good })).await;

    if let Some(clock) = s.clock() {
        let request =
            json!({ "key": { "user_id": cast.ada, "name": "e", "expires": "2026-12-01T00:00:10Z" } });
        let key = s.ok(Service, "create-api-key", request).await.secret("api_key_plaintext");
        clock.advance_ms(9_999);
        s.ok(Service, "resolve-api-key", json!({ "api_key": key.expose() })).await;
        clock.advance_ms(1);
        s.err(Service, "resolve-api-key", json!({ "api_key": key.expose() }), AuthFailed).await;
        s.err(Holder(&key), "whoami", json!({}), AuthFailed).await;
    }
}

pub async fn service_plane_operation_is_not_offered_on_the_api_plane(s: &Scene<'_>) {
    let cast = Cast::new(s).await;
    for (operation, request, malformed) in [
        ("authenticate", json!({ "credential": cast.ada_key.expose() }), Some("credential")),
        ("resolve-api-key", json!({ "api_key": cast.ada_key.expose() }), Some("api_key")),
        ("authenticate-anonymous", json!({}), None),
    ] {
        for key in [&cast.root_key, &cast.ada_key] {
            let message = s.err(Holder(key), operation, request.clone(), OperationNotPermitted).await;
            assert_eq!(message, "access denied", "{operation}");
        }
        s.err(Nobody, operation, request.clone(), AuthFailed).await;
        s.err(Holder(&Secret::new("tg_unknown")), operation, request, AuthFailed).await;
        for caller in [Nobody, Service, Holder(&cast.ada_key)] {
            if let Some(field) = malformed {
                let message = s.err(caller, operation, json!({}), InvalidArgument).await;
                assert!(message.contains(field), "{message}");
            }
            s.err(caller, operation, json!({ "operation": "login" }), InvalidArgument).await;
        }
    }
    s.err(Service, "authenticate-anonymous", json!({}), AuthFailed).await;
}

/// In process alone: the anonymous user is a setting.
pub async fn anonymous_callers_are_the_user_configured_for_them() -> BTreeSet<Shown> {
    let world = World::new(Setup { anonymous_user: Some("Guest".into()), ..Setup::default() });
    let s = Scene::new("decisions::anonymous_callers_are_the_user_configured_for_them", &world);
    s.err(Service, "authenticate-anonymous", json!({}), AuthFailed).await;
    s.bootstrap().await;
    s.workspace("acme").await;
    s.err(Service, "authenticate-anonymous", json!({}), AuthFailed).await;

    let guest = s.user("acme", "guest", &["reader"]).await;
    let who = s.ok(Service, "authenticate-anonymous", json!({ "actor": NOBODY })).await;
    let expected = json!({
        "resolved_user_id": guest,
        "resolved_workspace": "acme",
        "resolved_roles": ["reader"],
        "resolved_source": "anonymous",
    });
    assert_eq!(who.0, expected);

    s.ok(Service, "disable-user", json!({ "user_id": guest })).await;
    s.err(Service, "authenticate-anonymous", json!({}), AuthFailed).await;
    s.ok(Service, "enable-user", json!({ "user_id": guest })).await;
    s.ok(Service, "authenticate-anonymous", json!({})).await;
    s.ok(Service, "disable-workspace", json!({ "workspace_record": { "id": "acme" } })).await;
    assert_eq!(s.err(Service, "authenticate-anonymous", json!({}), AuthFailed).await, "auth failure");
    s.shown()
}

pub async fn authorise_decides_by_role_scope_and_state(s: &Scene<'_>) {
    let cast = Cast::new(s).await;
    let disabled = s.user("acme", "disabled", &["admin"]).await;
    s.ok(Service, "disable-user", json!({ "user_id": disabled })).await;
    let both = s.user("acme", "both", &["reader", "admin"]).await;
    let none = s.user("acme", "none", &[]).await;
    let empty = String::new;
    for (user, capability, resource, parameters, allow) in [
        (&cast.ada, "agent", empty(), empty(), true),
        (&cast.ada, "agent", "{}".into(), "{}".into(), true),
        (&cast.ada, "agent", at("acme"), empty(), true),
        (&cast.ada, "agent", empty(), at("acme"), true),
        (&cast.ada, "agent", at("acme"), at("acme"), true),
        (&cast.ada, "agent", at("acme"), at("globex"), false),
        (&cast.ada, "agent", at("globex"), at("acme"), false),
        (&cast.ada, "agent", at("globex"), empty(), false),
        (&cast.ada, "agent", at("ACME"), empty(), false),
        (&cast.ada, "agent", at(""), empty(), false),
        (&cast.ada, "agent", r#"{"workspace":null}"#.into(), empty(), false),
        (&cast.ada, "agent", r#"{"workspace":["acme"]}"#.into(), empty(), false),
        (&cast.ada, "agent", r#"{"flow":"f","x":{"workspace":"globex"}}"#.into(), empty(), true),
        (&cast.ada, "graph:write", at("acme"), empty(), false),
        (&cast.ada, "no:such", empty(), empty(), false),
        (&cast.ada, "Agent", empty(), empty(), false),
        (&cast.bob, "graph:write", at("globex"), empty(), true),
        (&cast.bob, "users:read", at("globex"), empty(), false),
        (&cast.root, "users:admin", empty(), empty(), true),
        (&cast.root, "users:admin", at("acme"), at("globex"), true),
        (&cast.root, "users:admin", at("nowhere"), empty(), true),
        (&cast.root, "users:admin", at("not an id!"), empty(), true),
        (&cast.root, "users:admin", at("closed"), empty(), false),
        (&cast.root, "users:admin", at("acme"), at("closed"), false),
        (&cast.root, "no:such", empty(), empty(), false),
        (&both, "graph:write", at("globex"), empty(), true),
        (&none, "agent", empty(), empty(), false),
        (&disabled, "agent", empty(), empty(), false),
        (&NOBODY.to_owned(), "agent", empty(), empty(), false),
    ] {
        let request = json!({
            "user_id": user, "capability": capability, "resource_json": resource, "parameters_json": parameters,
        });
        let ttl = if allow { 60 } else { 5 };
        let expected = json!({ "decision_allow": allow, "decision_ttl_seconds": ttl });
        // The second time it is answered from memory.
        for _ in 0..2 {
            assert_eq!(s.ok(Service, "authorise", request.clone()).await.0, expected, "{request}");
        }
        let why = s.ok(Service, "explain", request.clone()).await;
        assert_eq!(why["decision_allow"], allow, "explain {request}");
        assert!(!why.text("decision_reason").is_empty());

        let check = json!([{
            "capability": capability,
            "resource": serde_json::from_str::<Value>(&resource).unwrap_or(json!({})),
            "parameters": serde_json::from_str::<Value>(&parameters).unwrap_or(json!({})),
        }]);
        let many = json!({ "user_id": user, "authorise_checks": check.to_string() });
        let many = s.ok(Service, "authorise-many", many).await.text("decisions_json");
        let many: Value = serde_json::from_str(&many).expect("a list");
        assert_eq!(many, json!([{ "allow": allow, "ttl": ttl }]), "authorise-many {request}");
    }
}

pub async fn decisions_follow_changes_at_once(s: &Scene<'_>) {
    let cast = Cast::new(s).await;
    let request = json!({ "user_id": cast.ada, "capability": "agent" });
    let may = |expected: bool| {
        let request = request.clone();
        async move { assert_eq!(s.ok(Service, "authorise", request).await["decision_allow"], expected) }
    };
    may(true).await;
    s.ok(Service, "update-user", json!({ "user_id": cast.ada, "user": { "roles": [] } })).await;
    may(false).await;
    s.ok(Service, "update-user", json!({ "user_id": cast.ada, "user": { "roles": ["writer"] } })).await;
    may(true).await;
    s.ok(Service, "disable-user", json!({ "user_id": cast.ada })).await;
    may(false).await;
    s.ok(Service, "enable-user", json!({ "user_id": cast.ada })).await;
    may(true).await;
    s.ok(Service, "disable-workspace", json!({ "workspace_record": { "id": "acme" } })).await;
    may(false).await;
    let enable = json!({ "workspace_record": { "id": "acme", "enabled": true } });
    s.ok(Service, "update-workspace", enable).await;
    may(false).await;
    s.ok(Service, "enable-user", json!({ "user_id": cast.ada })).await;
    may(true).await;
    s.ok(Service, "delete-user", json!({ "user_id": cast.ada })).await;
    may(false).await;
}

pub async fn authorise_of_a_credential_is_never_good_beyond_its_end(s: &Scene<'_>) {
    let cast = Cast::new(s).await;
    s.password(&cast.ada, PASSWORD).await;
    let ask = |credential: &Secret, capability: &str| {
        let checks = json!([{ "capability": capability }]).to_string();
        let one = json!({ "credential": credential.expose(), "capability": capability });
        let many = json!({ "credential": credential.expose(), "authorise_checks": checks });
        async move {
            let one = s.ok(Service, "authorise", one).await;
            let many = s.ok(Service, "authorise-many", many).await;
            assert_eq!(one["resolved_user_id"], many["resolved_user_id"]);
            let ttl = one["decision_ttl_seconds"].as_u64().unwrap_or_default();
            let many: Value = serde_json::from_str(&many.text("decisions_json")).expect("a list");
            assert_eq!(many, json!([{ "allow": one["decision_allow"], "ttl": ttl }]));
            ttl
        }
    };
    let token = s.login("ada", PASSWORD).await;
    assert_eq!((ask(&token, "agent").await, ask(&token, "no:such").await), (60, 5));
    assert_eq!(ask(&cast.ada_key, "agent").await, 60);

    let Some(clock) = s.clock() else { return };
    clock.advance_ms(3_600_000 - 20_500);
    assert_eq!((ask(&token, "agent").await, ask(&token, "no:such").await), (20, 5));
    clock.advance_ms(19_000);
    assert_eq!((ask(&token, "agent").await, ask(&token, "no:such").await), (1, 1));
    clock.advance_ms(10_000);
    assert_eq!(ask(&token, "agent").await, 0, "in the leeway: do not cache");
    assert_eq!(ask(&cast.ada_key, "agent").await, 60);
}

pub async fn authorise_on_the_api_plane_is_for_oneself(s: &Scene<'_>) {
    let cast = Cast::new(s).await;
    let checks = json!([{ "capability": "agent" }]).to_string();
    for operation in ["authorise", "authorise-many"] {
        let with = |fields: Value| {
            let mut request = match operation {
                "authorise" => json!({ "capability": "agent" }),
                _ => json!({ "authorise_checks": checks }),
            };
            request
                .as_object_mut()
                .expect("an object")
                .extend(fields.as_object().expect("an object").clone());
            request
        };
        let own = s.ok(Holder(&cast.ada_key), operation, with(json!({}))).await;
        assert!(resolved(&own) == json!({}));
        let named = s.ok(Holder(&cast.ada_key), operation, with(json!({ "user_id": cast.ada }))).await;
        assert_eq!(named.0, own.0);
        let shown = with(json!({ "credential": cast.ada_key.expose() }));
        let shown = s.ok(Holder(&cast.ada_key), operation, shown).await;
        assert_eq!(shown.text("resolved_user_id"), cast.ada);
        let actor = s.ok(Holder(&cast.ada_key), operation, with(json!({ "actor": cast.root }))).await;
        assert_eq!(actor.0, own.0, "an actor is overwritten");

        for (key, fields) in [
            (&cast.ada_key, json!({ "user_id": cast.bob })),
            (&cast.ada_key, json!({ "user_id": NOBODY })),
            (&cast.ada_key, json!({ "credential": cast.bob_key.expose() })),
            (&cast.root_key, json!({ "user_id": cast.ada })),
            (&cast.root_key, json!({ "user_id": NOBODY })),
        ] {
            let message = s.err(Holder(key), operation, with(fields), OperationNotPermitted).await;
            assert_eq!(message, "access denied");
        }
        let dead = with(json!({ "credential": "tg_unknown" }));
        s.err(Holder(&cast.ada_key), operation, dead, AuthFailed).await;
        s.err(Nobody, operation, with(json!({})), AuthFailed).await;
        s.err(Holder(&Secret::new("tg_unknown")), operation, with(json!({})), AuthFailed).await;
        // On the service plane nobody is oneself, not even with an actor, who is only audited.
        s.err(Service, operation, with(json!({})), InvalidArgument).await;
        s.err(Service, operation, with(json!({ "actor": cast.ada })), InvalidArgument).await;
        s.ok(Service, operation, with(json!({ "user_id": cast.ada, "actor": NOBODY }))).await;
    }
}

pub async fn question_that_is_malformed_is_an_invalid_argument_before_anything_else(s: &Scene<'_>) {
    let cast = Cast::new(s).await;
    let many_checks = |count: usize| Value::from(vec![json!({}); count]).to_string();
    let rows = [
        ("authorise", json!({ "user_id": cast.ada }), "capability"),
        ("authorise", json!({ "user_id": cast.ada, "capability": "" }), "capability"),
        ("authorise", json!({ "user_id": "ada", "capability": "agent" }), "user_id"),
        (
            "authorise",
            json!({ "user_id": cast.ada, "capability": "agent", "resource_json": "[]" }),
            "resource_json",
        ),
        (
            "authorise",
            json!({ "user_id": cast.ada, "capability": "agent", "resource_json": "{" }),
            "resource_json",
        ),
        (
            "authorise",
            json!({ "user_id": cast.ada, "capability": "agent", "parameters_json": r#"{"a":1,"a":1}"# }),
            "parameters_json",
        ),
        (
            "authorise",
            json!({ "user_id": cast.ada, "credential": cast.ada_key.expose(), "capability": "agent" }),
            "user_id",
        ),
        (
            "authorise",
            json!({ "user_id": cast.ada, "capability": "agent", "request_id": "a\u{1}" }),
            "request_id",
        ),
        ("authorise", json!({ "user_id": cast.ada, "capability": "agent", "client_ip": "a\n" }), "client_ip"),
        ("authorise-many", json!({ "user_id": cast.ada }), "authorise_checks"),
        ("authorise-many", json!({ "user_id": cast.ada, "authorise_checks": "{}" }), "authorise_checks"),
        ("authorise-many", json!({ "user_id": cast.ada, "authorise_checks": "[" }), "authorise_checks"),
        (
            "authorise-many",
            json!({ "user_id": cast.ada, "authorise_checks": many_checks(1001) }),
            "authorise_checks",
        ),
        (
            "authorise-many",
            json!({ "user_id": cast.ada, "credential": cast.ada_key.expose(), "authorise_checks": "[]" }),
            "user_id",
        ),
        ("authorise-many", json!({ "user_id": "ada", "authorise_checks": "[]" }), "user_id"),
        ("explain", json!({ "user_id": cast.ada }), "capability"),
        ("explain", json!({ "user_id": "ada", "capability": "agent" }), "user_id"),
        ("explain", json!({ "username": "a b", "capability": "agent" }), "username"),
        ("explain", json!({ "username": cast.ada, "capability": "agent" }), "username"),
        ("explain", json!({ "capability": "agent", "resource_json": "7" }), "resource_json"),
        ("explain", json!({ "capability": "agent", "parameters_json": "null" }), "parameters_json"),
    ];
    for (operation, mut request, field) in rows {
        if operation == "explain" && request.get("user_id").is_none() && request.get("username").is_none() {
            request["user_id"] = json!(cast.ada);
        }
        for caller in [Service, Holder(&cast.ada_key), Nobody, Holder(&Secret::new("tg_unknown"))] {
            for warm in [false, true] {
                let message = s.err(caller, operation, request.clone(), InvalidArgument).await;
                assert!(message.contains(&format!("`{field}`")), "{operation} warm {warm}: {message}");
            }
        }
    }
    s.err(Service, "explain", json!({ "capability": "agent" }), InvalidArgument).await;
    s.err(Service, "explain", json!({ "capability": "agent", "actor": cast.ada }), InvalidArgument).await;
}

pub async fn authorise_many_answers_in_order_and_denies_what_is_malformed(s: &Scene<'_>) {
    let cast = Cast::new(s).await;
    let allow = json!({ "capability": "agent", "resource": { "workspace": "acme" } });
    let deny = json!({ "capability": "agent", "resource": { "workspace": "globex" } });
    let checks = [
        (allow.clone(), true),
        (deny.clone(), false),
        (json!(null), false),
        (json!({}), false),
        (json!({ "capability": "" }), false),
        (json!({ "capability": "agent", "resource": [] }), false),
        (json!({ "capability": "agent", "parameters": "x" }), false),
        (json!([allow]), false),
        (json!({ "capability": "agent" }), true),
        (json!({ "capability": "agent", "unknown": 1 }), true),
    ];
    // Few are answered on the spot, many elsewhere.
    for times in [1, 20, 100] {
        let (asked, expected): (Vec<Value>, Vec<bool>) =
            checks.iter().cycle().take(checks.len() * times).cloned().unzip();
        let request = json!({ "user_id": cast.ada, "authorise_checks": Value::from(asked).to_string() });
        let reply = s.ok(Service, "authorise-many", request).await.text("decisions_json");
        let decisions: Vec<Value> = serde_json::from_str(&reply).expect("a list");
        let answered: Vec<bool> = decisions.iter().map(|d| d["allow"] == true).collect();
        assert_eq!(answered, expected, "{} checks", checks.len() * times);
        assert!(decisions.iter().all(|d| d["ttl"] == if d["allow"] == true { 60 } else { 5 }));
    }
    for user in [cast.ada.as_str(), NOBODY] {
        let request = json!({ "user_id": user, "authorise_checks": "[]" });
        assert_eq!(s.ok(Service, "authorise-many", request).await.text("decisions_json"), "[]");
    }
    let everywhere: Vec<Value> = (0..1000)
        .map(|n| json!({ "capability": "agent", "resource": { "workspace": format!("w{n}") } }))
        .collect();
    let request = json!({ "user_id": cast.root, "authorise_checks": Value::from(everywhere).to_string() });
    let reply = s.ok(Service, "authorise-many", request).await.text("decisions_json");
    assert_eq!(reply.matches("\"allow\":true").count(), 1000, "a thousand workspaces that do not exist");
}

pub async fn explain_says_which_role_or_what_each_lacked(s: &Scene<'_>) {
    let cast = Cast::new(s).await;
    let both = s.user("acme", "both", &["reader", "writer"]).await;
    let rows = [
        (json!({ "username": "both", "capability": "graph:write" }), true, vec!["writer"]),
        (json!({ "username": "BOTH", "capability": "agent" }), true, vec!["reader", "writer"]),
        (json!({ "user_id": both, "username": "Both", "capability": "agent" }), true, vec!["reader"]),
        (
            json!({ "user_id": both, "capability": "users:read" }),
            false,
            vec!["reader", "writer", "users:read"],
        ),
        (
            json!({ "user_id": both, "capability": "agent", "resource_json": at("globex") }),
            false,
            vec!["globex"],
        ),
        (
            json!({ "user_id": cast.root, "capability": "agent", "resource_json": at("closed") }),
            false,
            vec!["closed"],
        ),
        (json!({ "user_id": cast.root, "capability": "agent" }), true, vec!["admin"]),
        (json!({ "user_id": both, "capability": "no:such" }), false, vec!["no:such"]),
        (json!({ "user_id": NOBODY, "capability": "agent" }), false, vec!["no such user"]),
        (json!({ "username": "nobody", "capability": "agent" }), false, vec!["no such user"]),
    ];
    for (request, allow, words) in rows {
        let mut acting = request.clone();
        acting["actor"] = json!(cast.root);
        for (caller, request) in [(Service, &request), (Service, &acting), (Holder(&cast.root_key), &request)]
        {
            let reply = s.ok(caller, "explain", request.clone()).await;
            assert_eq!(reply["decision_allow"], allow, "{request}");
            let reason = reply.text("decision_reason");
            assert!(words.iter().all(|word| reason.contains(word)), "{reason} holds {words:?}");
        }
    }
    let clash = json!({ "user_id": cast.ada, "username": "bob", "capability": "agent" });
    for caller in [Service, Holder(&cast.root_key)] {
        s.err(caller, "explain", clash.clone(), InvalidArgument).await;
    }
}

pub async fn explain_of_somebody_else_needs_iam_admin(s: &Scene<'_>) {
    let cast = Cast::new(s).await;
    let why = |fields: Value| {
        let mut request = json!({ "capability": "agent" });
        request.as_object_mut().expect("an object").extend(fields.as_object().expect("an object").clone());
        request
    };
    for fields in [
        json!({}),
        json!({ "user_id": cast.ada }),
        json!({ "username": "aDA" }),
        json!({ "user_id": cast.ada, "username": "ada" }),
        json!({ "actor": cast.bob }),
    ] {
        let reply = s.ok(Holder(&cast.ada_key), "explain", why(fields)).await;
        assert_eq!(reply["decision_allow"], true);
    }
    s.ok(Service, "explain", why(json!({ "user_id": cast.ada, "actor": cast.ada }))).await;

    for fields in [
        json!({ "user_id": cast.bob }),
        json!({ "user_id": NOBODY }),
        json!({ "username": "bob" }),
        json!({ "username": "nobody" }),
        json!({ "user_id": cast.ada, "username": "bob" }),
    ] {
        let denied =
            s.err(Holder(&cast.ada_key), "explain", why(fields.clone()), OperationNotPermitted).await;
        assert_eq!(denied, "access denied");
        let mut acting = why(fields);
        acting["actor"] = json!(cast.ada);
        s.err(Service, "explain", acting, OperationNotPermitted).await;
    }
    s.err(Service, "explain", why(json!({ "user_id": cast.ada, "actor": NOBODY })), OperationNotPermitted)
        .await;
    s.err(Nobody, "explain", why(json!({})), AuthFailed).await;
}
