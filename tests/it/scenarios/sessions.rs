//! Logging in, and what the logged-in do about themselves.

use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use iam_schema::ErrorKind::*;
use iam_schema::Secret;
use iam_tests::Scene;
use iam_tests::scene::As::{Holder, Nobody, Service};
use serde_json::{Value, json};

use super::common::{NOBODY, PASSWORD};

const ANOTHER: &str = "marble-teapot-71-hums";
const DAY_MS: i64 = 24 * 3_600_000;

/// The claims of a token.
fn claims(token: &Secret) -> Value {
    let part = token.expose().split('.').nth(1).expect("three parts");
    serde_json::from_slice(&URL_SAFE_NO_PAD.decode(part).expect("base64url")).expect("claims")
}

/// Whether a credential authenticates, the right answer to one that does not being always the same.
async fn lives(s: &Scene<'_>, credential: &Secret) -> bool {
    let reply = s.ask(Service, "authenticate", json!({ "credential": credential.expose() })).await;
    if reply.0.get("error").is_some() {
        assert_eq!(reply["error"], json!({ "type": "auth-failed", "message": "auth failure" }));
    }
    reply.0.get("error").is_none()
}

async fn version(s: &Scene<'_>, user: &str) -> u64 {
    let reply = s.ok(Service, "get-user", json!({ "user_id": user })).await;
    reply["user"]["version"].as_u64().expect("a version")
}

/// A user of workspace `acme` who knows the password [`PASSWORD`].
async fn ada(s: &Scene<'_>, roles: &[&str]) -> String {
    s.bootstrap().await;
    s.workspace("acme").await;
    let ada = s.user("acme", "Ada", roles).await;
    s.password(&ada, PASSWORD).await;
    ada
}

pub async fn login_gives_a_token_that_authenticates(s: &Scene<'_>) {
    let ada = ada(s, &["reader"]).await;

    for caller in [Nobody, Service] {
        let login = s.ok(caller, "login", json!({ "username": "aDA", "password": PASSWORD })).await;
        let token = login.secret("jwt");
        assert!(login.0.get("must_change_password").is_none());

        let who = s.ok(Service, "authenticate", json!({ "credential": token.expose() })).await;
        assert_eq!(who.text("resolved_user_id"), ada);
        assert_eq!(who.text("resolved_workspace"), "acme");
        assert_eq!(who.text("resolved_source"), "jwt");
        assert_eq!(who["resolved_roles"], json!(["reader"]));
        assert_eq!(who.text("resolved_expires"), login.text("jwt_expires"));
        assert!(who.0.get("resolved_key_id").is_none());

        let me = s.ok(Holder(&token), "whoami", json!({})).await;
        assert_eq!(me.text("user.username"), "Ada");
    }
}

pub async fn login_token_has_the_claims_of_the_protocol(s: &Scene<'_>) {
    let ada = ada(s, &["reader"]).await;
    let token = s.login("ada", PASSWORD).await;
    let header = token.expose().split('.').next().expect("a header");
    let header: Value =
        serde_json::from_slice(&URL_SAFE_NO_PAD.decode(header).expect("base64url")).expect("JSON");
    assert_eq!((&header["alg"], &header["typ"]), (&json!("EdDSA"), &json!("at+jwt")));
    assert!(header["kid"].is_string());

    let claims = claims(&token);
    assert_eq!(claims["sub"], json!(ada));
    assert_eq!(claims["client_id"], "iam-login");
    assert_eq!(claims["workspace"], "acme");
    let time = |name: &str| claims[name].as_i64().expect("whole seconds");
    assert_eq!(time("exp") - time("iat"), 3600);
    assert_eq!(time("nbf"), time("iat"));
    let names: Vec<&String> = claims.as_object().expect("an object").keys().collect();
    let expected = ["aud", "client_id", "epoch", "exp", "iat", "iss", "jti", "nbf", "sub", "workspace"];
    assert_eq!(names, expected, "neither roles nor policy");

    let again = self::claims(&s.login("ada", PASSWORD).await);
    assert_ne!(again["jti"], claims["jti"]);
}

pub async fn login_that_fails_says_the_same_whatever_was_wrong(s: &Scene<'_>) {
    let ada = ada(s, &["reader"]).await;
    let bob = s.user("acme", "bob", &[]).await;
    s.password(&bob, PASSWORD).await;
    s.ok(Service, "disable-user", json!({ "user_id": bob })).await;
    s.user("acme", "robot", &[]).await;
    s.workspace("closed").await;
    let eve = s.user("closed", "eve", &[]).await;
    s.password(&eve, PASSWORD).await;
    s.ok(Service, "disable-workspace", json!({ "workspace_record": { "id": "closed" } })).await;

    for (username, password, workspace) in [
        ("ada", "wrong", ""),
        ("ada", "violet-anvil-93-sings ", ""),
        ("nobody", PASSWORD, ""),
        ("not a username!", PASSWORD, ""),
        (ada.as_str(), PASSWORD, ""),
        ("ada", PASSWORD, "default"),
        ("ada", PASSWORD, "nowhere"),
        ("ada", PASSWORD, "ACME"),
        ("bob", PASSWORD, ""),
        ("robot", PASSWORD, ""),
        ("eve", PASSWORD, ""),
    ] {
        let request = json!({ "username": username, "password": password, "workspace": workspace });
        for caller in [Nobody, Service] {
            let message = s.err(caller, "login", request.clone(), AuthFailed).await;
            assert_eq!(message, "auth failure", "{request}");
        }
    }
    s.ok(Nobody, "login", json!({ "username": "ada", "password": PASSWORD, "workspace": "acme" })).await;
}

pub async fn login_that_is_malformed_is_an_invalid_argument(s: &Scene<'_>) {
    for caller in [Nobody, Service] {
        for (request, field) in [
            (json!({ "password": PASSWORD }), "username"),
            (json!({ "username": "ada" }), "password"),
            (json!({ "username": "a\u{7}", "password": PASSWORD }), "username"),
            (json!({ "username": "x".repeat(1025), "password": PASSWORD }), "username"),
            (json!({ "username": "ada", "password": PASSWORD, "workspace": "a b" }), "workspace"),
            (json!({ "username": "ada", "password": PASSWORD, "operation": "whoami" }), "operation"),
        ] {
            let message = s.err(caller, "login", request, InvalidArgument).await;
            assert!(message.contains(&format!("`{field}`")), "{message} names {field}");
        }
    }
}

pub async fn login_names_the_workspace_that_the_token_is_for(s: &Scene<'_>) {
    s.bootstrap().await;
    for id in ["acme", "other", "closed"] {
        s.workspace(id).await;
    }
    s.ok(Service, "disable-workspace", json!({ "workspace_record": { "id": "closed" } })).await;
    for (name, role) in [("root", "admin"), ("reader", "reader")] {
        let user = s.user("acme", name, &[role]).await;
        s.password(&user, PASSWORD).await;
    }
    for (name, workspace, claimed) in [
        ("root", "", Some("acme")),
        ("root", "acme", Some("acme")),
        ("root", "other", Some("other")),
        ("root", "closed", None),
        ("root", "nowhere", None),
        ("reader", "acme", Some("acme")),
        ("reader", "other", None),
        ("reader", "closed", None),
    ] {
        let request = json!({ "username": name, "password": PASSWORD, "workspace": workspace });
        let reply = s.ask(Nobody, "login", request).await;
        match claimed {
            None => assert_eq!(reply.text("error.type"), "auth-failed", "{name} in {workspace}"),
            Some(claimed) => {
                let token = reply.secret("jwt");
                assert_eq!(claims(&token)["workspace"], claimed);
                let who = s.ok(Service, "authenticate", json!({ "credential": token.expose() })).await;
                assert_eq!(who.text("resolved_workspace"), claimed, "{name} in {workspace}");
                let me = s.ok(Holder(&token), "whoami", json!({})).await;
                assert_eq!(me.text("user.workspace"), "acme", "home stays home");
            }
        }
    }
}

pub async fn failed_logins_of_a_name_are_throttled_in_any_case_and_on_both_planes(s: &Scene<'_>) {
    ada(s, &[]).await;
    for name in ["ada", "nobody"] {
        let mut guesses = 0;
        loop {
            let caller = if guesses % 2 == 0 { Nobody } else { Service };
            let username = if guesses % 3 == 0 { name.to_ascii_uppercase() } else { name.to_owned() };
            let reply = s.ask(caller, "login", json!({ "username": username, "password": "wrong" })).await;
            match reply.text("error.type").as_str() {
                "auth-failed" => guesses += 1,
                "throttled" => break,
                other => panic!("{other} for a wrong password"),
            }
            assert!(guesses < 100, "{name}: {guesses} guesses got through");
        }
        assert!(guesses >= 5, "{name}: somebody who mistypes a few times is not shut out");
        for caller in [Nobody, Service] {
            let right = json!({ "username": name.to_ascii_uppercase(), "password": PASSWORD });
            s.err(caller, "login", right, Throttled).await;
        }
    }
    s.err(Nobody, "login", json!({ "username": "other", "password": PASSWORD }), AuthFailed).await;

    if let Some(clock) = s.clock() {
        clock.advance_ms(3_600_000);
        s.ok(Nobody, "login", json!({ "username": "ada", "password": PASSWORD })).await;
    }
}

pub async fn failed_logins_from_an_address_are_throttled_on_the_service_plane_alone(s: &Scene<'_>) {
    ada(s, &[]).await;
    let from = |name: &str, password: &str, ip: &str| json!({ "username": name, "password": password, "client_ip": ip });
    s.ok(Service, "login", from("ada", PASSWORD, "192.0.2.1")).await;
    let mut guesses = 0;
    loop {
        let guess = from(&format!("user{guesses}"), "wrong", "198.51.100.7");
        match s.ask(Service, "login", guess).await.text("error.type").as_str() {
            "auth-failed" => guesses += 1,
            "throttled" => break,
            other => panic!("{other} for a wrong password"),
        }
        assert!(guesses < 100, "{guesses} guesses got through");
    }
    s.err(Service, "login", from("ada", PASSWORD, "198.51.100.7"), Throttled).await;
    s.ok(Service, "login", from("ada", PASSWORD, "198.51.100.8")).await;
    // On the API plane it would be the caller's own claim.
    s.ok(Nobody, "login", from("ada", PASSWORD, "198.51.100.7")).await;
}

pub async fn owner_logs_in_while_somebody_guesses_at_the_name(s: &Scene<'_>) {
    ada(s, &[]).await;
    let from = |password: &str, ip: &str| json!({ "username": "ada", "password": password, "client_ip": ip });
    s.ok(Service, "login", from(PASSWORD, "192.0.2.1")).await;
    for guesses in 0.. {
        assert!(guesses < 100, "{guesses} guesses got through");
        let reply = s.ask(Service, "login", from("wrong", "198.51.100.7")).await;
        if reply.text("error.type") == "throttled" {
            break;
        }
    }
    s.err(Service, "login", from(PASSWORD, "198.51.100.7"), Throttled).await;
    s.ok(Service, "login", from(PASSWORD, "192.0.2.1")).await;
}

pub async fn wrong_current_password_counts_as_a_failed_login(s: &Scene<'_>) {
    let ada = ada(s, &[]).await;
    let token = s.login("ada", PASSWORD).await;
    let change = |current: &str| json!({ "user_id": ada, "password": current, "new_password": ANOTHER });
    for guesses in 0.. {
        assert!(guesses < 100, "{guesses} guesses got through");
        let (caller, request) = match guesses % 2 {
            0 => (Holder(&token), change("wrong")),
            _ => {
                let mut request = change("wrong");
                request["actor"] = json!(ada);
                (Service, request)
            }
        };
        let reply = s.ask(caller, "change-password", request).await;
        match reply.text("error.type").as_str() {
            "auth-failed" => assert_eq!(reply.text("error.message"), "auth failure"),
            "throttled" => break,
            other => panic!("{other} for a wrong password"),
        }
    }
    s.err(Holder(&token), "change-password", change(PASSWORD), Throttled).await;
    let mut acting = change(PASSWORD);
    acting["actor"] = json!(ada);
    s.err(Service, "change-password", acting, Throttled).await;
    s.err(Nobody, "login", json!({ "username": "ada", "password": PASSWORD }), Throttled).await;
    assert!(lives(s, &token).await, "refused attempts end nothing");
}

pub async fn change_password_ends_all_tokens_and_no_key(s: &Scene<'_>) {
    let ada = ada(s, &["reader"]).await;
    let (_, key) = s.key(&ada, "laptop").await;
    let tokens = [s.login("ada", PASSWORD).await, s.login("ada", PASSWORD).await];
    let before = version(s, &ada).await;
    let change =
        |old: &str, new: &str| json!({ "user_id": ada, "password": old, "new_password": new, "actor": ada });

    s.ok(Holder(&tokens[0]), "change-password", change(PASSWORD, ANOTHER)).await;
    for token in &tokens {
        assert!(!lives(s, token).await);
        s.err(Holder(token), "whoami", json!({}), AuthFailed).await;
    }
    assert!(lives(s, &key).await);
    assert_eq!(version(s, &ada).await, before + 1);
    s.err(Nobody, "login", json!({ "username": "ada", "password": PASSWORD }), AuthFailed).await;
    let token = s.login("ada", ANOTHER).await;

    s.ok(Service, "change-password", change(ANOTHER, PASSWORD)).await;
    assert!(!lives(s, &token).await);
    s.ok(Holder(&key), "change-password", change(PASSWORD, ANOTHER)).await;
    s.login("ada", ANOTHER).await;
}

pub async fn change_password_that_is_refused_changes_nothing(s: &Scene<'_>) {
    let ada = ada(s, &["admin"]).await;
    let bob = s.user("acme", "bob", &[]).await;
    s.password(&bob, PASSWORD).await;
    let robot = s.user("acme", "robot", &[]).await;
    let (_, key) = s.key(&robot, "k").await;
    let token = s.login("ada", PASSWORD).await;
    let before = version(s, &ada).await;
    let change =
        |user: &str, old: &str, new: &str| json!({ "user_id": user, "password": old, "new_password": new });
    let acting = |actor: &str, mut request: Value| {
        request["actor"] = json!(actor);
        request
    };

    for new in ["short7!", &"x".repeat(1025), "password", "adaadaada", PASSWORD] {
        for (caller, request) in [
            (Holder(&token), change(&ada, PASSWORD, new)),
            (Service, acting(&ada, change(&ada, PASSWORD, new))),
        ] {
            let message = s.err(caller, "change-password", request, WeakPassword).await;
            assert!(message.starts_with("the password "), "{message} says which rule");
        }
    }
    for request in [
        json!({ "password": PASSWORD, "new_password": ANOTHER }),
        json!({ "user_id": ada, "new_password": ANOTHER }),
        json!({ "user_id": ada, "password": PASSWORD }),
        change("ada", PASSWORD, ANOTHER),
        change(&ada.to_ascii_uppercase(), PASSWORD, ANOTHER),
    ] {
        for caller in [Holder(&token), Nobody] {
            s.err(caller, "change-password", request.clone(), InvalidArgument).await;
        }
        s.err(Service, "change-password", acting(&ada, request), InvalidArgument).await;
    }
    // Without an actor it lacks an argument; with one, only one's own password can be changed.
    s.err(Service, "change-password", change(&ada, PASSWORD, ANOTHER), InvalidArgument).await;
    let denied =
        s.err(Holder(&token), "change-password", change(&bob, PASSWORD, ANOTHER), OperationNotPermitted);
    assert_eq!(denied.await, "access denied");
    for (actor, user) in [(&ada, &bob), (&bob, &ada), (&NOBODY.to_owned(), &ada)] {
        let request = acting(actor, change(user, PASSWORD, ANOTHER));
        s.err(Service, "change-password", request, OperationNotPermitted).await;
    }
    s.err(Nobody, "change-password", change(&ada, PASSWORD, ANOTHER), AuthFailed).await;
    // Who has no password cannot know it.
    s.err(Holder(&key), "change-password", change(&robot, PASSWORD, ANOTHER), AuthFailed).await;

    assert_eq!(version(s, &ada).await, before);
    assert!(lives(s, &token).await);
    s.login("bob", PASSWORD).await;
}

pub async fn temporary_password_is_good_for_a_new_password_alone(s: &Scene<'_>) {
    let ada = ada(s, &["admin"]).await;
    let (_, key) = s.key(&ada, "laptop").await;
    let old = s.login("ada", PASSWORD).await;
    let temporary =
        s.ok(Service, "reset-password", json!({ "user_id": ada })).await.text("temporary_password");
    assert!(temporary.chars().count() >= 16);
    assert!(!lives(s, &old).await && lives(s, &key).await, "tokens end, keys stay");
    s.err(Nobody, "login", json!({ "username": "ada", "password": PASSWORD }), AuthFailed).await;
    let record = s.ok(Service, "get-user", json!({ "user_id": ada })).await;
    assert_eq!(record["user"]["must_change_password"], true);

    let login = s.ok(Nobody, "login", json!({ "username": "ada", "password": temporary })).await;
    assert_eq!(login["must_change_password"], true);
    let token = login.secret("jwt");
    let claims = claims(&token);
    let plain = self::claims(&old);
    assert_eq!(claims["aud"], json!(format!("{}:change-password", plain["aud"].as_str().expect("a string"))));
    assert_eq!(claims["exp"].as_i64().expect("exp") - claims["iat"].as_i64().expect("iat"), 600);

    assert_eq!(s.ok(Holder(&token), "whoami", json!({})).await.text("user.id"), ada);
    assert!(!lives(s, &token).await);
    for request in [
        json!({ "credential": token.expose(), "capability": "agent" }),
        json!({ "credential": token.expose(), "authorise_checks": "[]" }),
    ] {
        let operation = if request.get("capability").is_some() { "authorise" } else { "authorise-many" };
        s.err(Service, operation, request.clone(), AuthFailed).await;
        s.err(Holder(&key), operation, request, AuthFailed).await;
    }
    s.err(Service, "resolve-api-key", json!({ "api_key": token.expose() }), AuthFailed).await;
    for (operation, request) in [
        ("authenticate", json!({ "credential": key.expose() })),
        ("authorise", json!({ "capability": "agent" })),
        ("authorise-many", json!({ "authorise_checks": "[]" })),
        ("explain", json!({ "capability": "agent" })),
        ("revoke-user-tokens", json!({})),
        ("list-my-workspaces", json!({})),
        ("list-api-keys", json!({})),
        ("create-api-key", json!({ "key": { "name": "k" } })),
        ("reset-password", json!({ "user_id": ada })),
        ("list-users", json!({})),
        ("rotate-signing-key", json!({})),
    ] {
        s.err(Holder(&token), operation, request, AuthFailed).await;
    }

    let change = json!({ "user_id": ada, "password": temporary, "new_password": ANOTHER });
    s.ok(Holder(&token), "change-password", change).await;
    s.err(Holder(&token), "whoami", json!({}), AuthFailed).await;
    s.err(Nobody, "login", json!({ "username": "ada", "password": temporary }), AuthFailed).await;
    let login = s.ok(Nobody, "login", json!({ "username": "ada", "password": ANOTHER })).await;
    assert!(login.0.get("must_change_password").is_none());
    assert!(lives(s, &login.secret("jwt")).await && lives(s, &key).await);
}

pub async fn temporary_password_expires_after_a_day(s: &Scene<'_>) {
    let ada = ada(s, &[]).await;
    let Some(clock) = s.clock() else { return };
    let temporary =
        s.ok(Service, "reset-password", json!({ "user_id": ada })).await.text("temporary_password");
    clock.advance_ms(DAY_MS - 1);
    let token = s.login("ada", &temporary).await;
    clock.advance_ms(1);
    s.err(Nobody, "login", json!({ "username": "ada", "password": temporary }), AuthFailed).await;
    let change = json!({ "user_id": ada, "password": temporary, "new_password": ANOTHER });
    s.err(Holder(&token), "change-password", change, AuthFailed).await;
    // A new one begins a new day.
    s.password(&ada, ANOTHER).await;
    clock.advance_ms(2 * DAY_MS);
    s.login("ada", ANOTHER).await;
}

pub async fn token_ends_with_its_lifetime(s: &Scene<'_>) {
    ada(s, &[]).await;
    let Some(clock) = s.clock() else { return };
    let token = s.login("ada", PASSWORD).await;
    assert!(lives(s, &token).await);
    clock.advance_ms(3_600_000 + 59_999);
    assert!(lives(s, &token).await, "within the leeway");
    clock.advance_ms(1);
    assert!(!lives(s, &token).await);
    s.err(Holder(&token), "whoami", json!({}), AuthFailed).await;
}

pub async fn user_made_to_change_the_password_gets_a_limited_token(s: &Scene<'_>) {
    s.bootstrap().await;
    s.workspace("acme").await;
    let user = json!({ "username": "ada", "password": PASSWORD, "must_change_password": true });
    s.ok(Service, "create-user", json!({ "workspace": "acme", "user": user })).await;
    let login = s.ok(Service, "login", json!({ "username": "ada", "password": PASSWORD })).await;
    assert_eq!(login["must_change_password"], true);
    let token = login.secret("jwt");
    assert!(!lives(s, &token).await);
    let me = s.ok(Holder(&token), "whoami", json!({})).await.text("user.id");
    let change = json!({ "user_id": me, "password": PASSWORD, "new_password": ANOTHER });
    s.ok(Holder(&token), "change-password", change).await;
    assert!(lives(s, &s.login("ada", ANOTHER).await).await);
}

pub async fn reset_password_is_for_who_administers_the_user(s: &Scene<'_>) {
    let (root, root_key) = s.bootstrap().await;
    s.workspace("acme").await;
    let ada = s.user("acme", "ada", &["writer"]).await;
    let (_, ada_key) = s.key(&ada, "k").await;
    let gone = s.user("acme", "gone", &["admin"]).await;
    s.ok(Service, "disable-user", json!({ "user_id": gone })).await;

    let reset = |user: &str| json!({ "user_id": user });
    let before = version(s, &ada).await;
    let first = s.ok(Holder(&root_key), "reset-password", reset(&ada)).await.text("temporary_password");
    let acting = json!({ "user_id": ada, "actor": root, "workspace": "acme" });
    let second = s.ok(Service, "reset-password", acting).await.text("temporary_password");
    assert_ne!(first, second);
    assert_eq!(version(s, &ada).await, before + 2);
    s.err(Nobody, "login", json!({ "username": "ada", "password": first }), AuthFailed).await;
    s.login("ada", &second).await;

    for request in [json!({}), reset("ada"), json!({ "user_id": ada, "workspace": "/" })] {
        for caller in [Holder(&root_key), Nobody, Service] {
            s.err(caller, "reset-password", request.clone(), InvalidArgument).await;
        }
    }
    s.err(Nobody, "reset-password", reset(&ada), AuthFailed).await;
    for (caller, request) in [
        (Holder(&ada_key), reset(&root)),
        (Holder(&ada_key), reset(&ada)),
        (Holder(&ada_key), reset(NOBODY)),
        (Holder(&root_key), json!({ "user_id": ada, "workspace": "default" })),
    ] {
        assert_eq!(s.err(caller, "reset-password", request, OperationNotPermitted).await, "access denied");
    }
    for request in [
        json!({ "user_id": root, "actor": ada }),
        json!({ "user_id": NOBODY, "actor": ada }),
        json!({ "user_id": ada, "actor": NOBODY }),
        json!({ "user_id": ada, "actor": gone }),
        json!({ "user_id": ada, "workspace": "default" }),
        json!({ "user_id": ada, "workspace": "default", "actor": root }),
    ] {
        s.err(Service, "reset-password", request, OperationNotPermitted).await;
    }
    for (caller, request) in [
        (Holder(&root_key), reset(NOBODY)),
        (Service, reset(NOBODY)),
        (Service, json!({ "user_id": NOBODY, "actor": root })),
    ] {
        s.err(caller, "reset-password", request, NotFound).await;
    }
    s.login("ada", &second).await;
}

pub async fn revoke_user_tokens_ends_every_token_and_no_key(s: &Scene<'_>) {
    let ada = ada(s, &["reader"]).await;
    let root = s.user("default", "root", &["admin"]).await;
    let (_, root_key) = s.key(&root, "k").await;
    let (_, key) = s.key(&ada, "k").await;
    let of = |user: &str| json!({ "user_id": user });

    for (caller, request) in [
        (Holder(&key), json!({})),
        (Holder(&key), of(&ada)),
        (Holder(&key), json!({ "workspace": "acme" })),
        (Service, json!({ "user_id": ada, "actor": ada })),
        (Holder(&root_key), of(&ada)),
        (Service, json!({ "user_id": ada, "actor": root, "workspace": "acme" })),
        (Service, of(&ada)),
    ] {
        let tokens = [s.login("ada", PASSWORD).await, s.login("ada", PASSWORD).await];
        let before = version(s, &ada).await;
        s.ok(caller, "revoke-user-tokens", request).await;
        for token in &tokens {
            assert!(!lives(s, token).await);
        }
        assert!(lives(s, &key).await);
        assert_eq!(version(s, &ada).await, before + 1);
    }

    let token = s.login("ada", PASSWORD).await;
    for request in [of("ada"), json!({ "workspace": "a b" })] {
        for caller in [Holder(&token), Nobody, Service] {
            s.err(caller, "revoke-user-tokens", request.clone(), InvalidArgument).await;
        }
    }
    s.err(Service, "revoke-user-tokens", json!({ "actor": ada }), InvalidArgument).await;
    s.err(Nobody, "revoke-user-tokens", json!({}), AuthFailed).await;
    for (caller, request) in [
        (Holder(&token), of(&root)),
        (Holder(&token), of(NOBODY)),
        (Holder(&token), json!({ "workspace": "default" })),
        (Holder(&root_key), json!({ "user_id": ada, "workspace": "default" })),
    ] {
        assert_eq!(
            s.err(caller, "revoke-user-tokens", request, OperationNotPermitted).await,
            "access denied"
        );
    }
    for request in [
        json!({ "user_id": root, "actor": ada }),
        json!({ "user_id": NOBODY, "actor": ada }),
        json!({ "user_id": ada, "actor": NOBODY }),
        json!({ "user_id": ada, "workspace": "default" }),
    ] {
        s.err(Service, "revoke-user-tokens", request, OperationNotPermitted).await;
    }
    s.err(Holder(&root_key), "revoke-user-tokens", of(NOBODY), NotFound).await;
    s.err(Service, "revoke-user-tokens", of(NOBODY), NotFound).await;
    assert!(lives(s, &token).await, "what was refused ended nothing");
    s.ok(Holder(&token), "revoke-user-tokens", json!({})).await;
    assert!(!lives(s, &token).await, "a token may end itself");
}

pub async fn whoami_shows_the_caller(s: &Scene<'_>) {
    let ada = ada(s, &["writer", "reader"]).await;
    let (_, key) = s.key(&ada, "k").await;
    let token = s.login("ada", PASSWORD).await;
    let record = s.ok(Service, "get-user", json!({ "user_id": ada })).await;
    assert_eq!(record["user"]["roles"], json!(["reader", "writer"]), "sorted");
    for (caller, request) in [
        (Holder(&key), json!({})),
        (Holder(&token), json!({})),
        (Service, json!({ "actor": ada })),
        // On the API plane an actor is overwritten.
        (Holder(&key), json!({ "actor": NOBODY })),
    ] {
        assert_eq!(s.ok(caller, "whoami", request).await["user"], record["user"]);
    }

    s.err(Service, "whoami", json!({}), InvalidArgument).await;
    s.err(Service, "whoami", json!({ "actor": "ada" }), InvalidArgument).await;
    s.err(Service, "whoami", json!({ "actor": NOBODY }), OperationNotPermitted).await;
    for caller in [Nobody, Service, Holder(&key)] {
        s.err(caller, "whoami", json!({ "operation": "login" }), InvalidArgument).await;
        s.err(caller, "whoami", json!({ "request_id": "a\nb" }), InvalidArgument).await;
    }
    s.err(Nobody, "whoami", json!({}), AuthFailed).await;

    s.ok(Service, "disable-user", json!({ "user_id": ada })).await;
    s.err(Holder(&key), "whoami", json!({}), AuthFailed).await;
    s.err(Holder(&token), "whoami", json!({}), AuthFailed).await;
    s.err(Service, "whoami", json!({ "actor": ada }), OperationNotPermitted).await;
}
