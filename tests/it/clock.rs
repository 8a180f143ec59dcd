//! The wall clock set by hand, forwards and back, under a running service: what is counted in time that passes
//! does not care, and what is a date does, at once.

use iam_schema::ErrorKind::{AuthFailed, Throttled};
use iam_schema::{Secret, Timestamp};
use iam_tests::faulty::Faulty;
use iam_tests::scene::As::{Holder, Nobody, Service};
use iam_tests::world::Setup;
use iam_tests::{Scene, World};
use serde_json::json;

const PASSWORD: &str = "violet-anvil-93-sings";
const HOUR: i64 = 3_600_000;
const YEAR: i64 = 365 * 24 * HOUR;

/// When every world begins.
fn start() -> Timestamp {
    "2026-12-01T00:00:00Z".parse().expect("a time")
}

fn set(world: &World, from_start_ms: i64) {
    world.clock.set(Timestamp::from_millis(start().as_millis() + from_start_ms));
}

/// A reader `ada` with a password; the id.
async fn ada(s: &Scene<'_>) -> String {
    s.bootstrap().await;
    s.workspace("acme").await;
    let user = json!({ "username": "ada", "roles": ["reader"], "password": PASSWORD });
    s.ok(Service, "create-user", json!({ "workspace": "acme", "user": user })).await.text("user.id")
}

#[tokio::test]
async fn throttle_is_not_ended_by_the_wall_clock() {
    let world = World::new(Setup::default());
    let s = Scene::new("clock", &world);
    ada(&s).await;
    let guess = json!({ "username": "ada", "password": "wrong" });
    while s.ask(Nobody, "login", guess.clone()).await.text("error.type") != "throttled" {}
    let right = json!({ "username": "ada", "password": PASSWORD });
    for moved in [YEAR, 10 * YEAR, -YEAR, HOUR, 0] {
        set(&world, moved);
        s.err(Nobody, "login", right.clone(), Throttled).await;
    }
    world.clock.advance_ms(HOUR);
    s.ok(Nobody, "login", right).await;
}

#[tokio::test]
async fn clock_set_back_gives_no_more_guesses_and_shuts_nobody_out() {
    let world = World::new(Setup::default());
    let s = Scene::new("clock", &world);
    ada(&s).await;
    let guess = json!({ "username": "ada", "password": "wrong" });
    let mut guesses = 0;
    for round in 0..200 {
        set(&world, if round % 2 == 0 { -YEAR } else { YEAR });
        guesses += i32::from(s.ask(Nobody, "login", guess.clone()).await.text("error.type") == "auth-failed");
    }
    assert!(guesses < 100, "{guesses} guesses without any time passing");
    set(&world, -YEAR);
    world.clock.advance_ms(2 * HOUR);
    s.ok(Nobody, "login", json!({ "username": "ada", "password": PASSWORD })).await;
}

#[tokio::test]
async fn key_that_is_remembered_ends_at_its_date_by_the_wall_clock() {
    let world = World::new(Setup::default());
    let s = Scene::new("clock", &world);
    let ada = ada(&s).await;
    let key = json!({ "user_id": ada, "name": "short", "expires": "2026-12-01T00:10:00Z" });
    let key = s.ok(Service, "create-api-key", json!({ "key": key })).await.text("api_key_plaintext");
    let resolve = json!({ "api_key": key });
    s.ok(Service, "resolve-api-key", resolve.clone()).await;
    let question = json!({ "credential": key, "capability": "agent" });
    let answer = s.ok(Service, "authorise", question.clone()).await;
    assert_eq!(answer["decision_allow"], true);
    set(&world, HOUR);
    s.err(Service, "resolve-api-key", resolve.clone(), AuthFailed).await;
    s.err(Service, "authorise", question.clone(), AuthFailed).await;
    s.err(Holder(&Secret::new(key)), "whoami", json!({}), AuthFailed).await;
    // Five minutes before the end, the answer may be kept for no longer than that.
    set(&world, 10 * 60_000 - 7_000);
    let answer = s.ok(Service, "authorise", question).await;
    assert!(answer["decision_ttl_seconds"].as_u64().expect("a number") <= 7, "{}", answer.0);
    s.ok(Service, "resolve-api-key", resolve).await;
}

#[tokio::test]
async fn token_is_good_between_its_dates_and_the_next_login_works_at_once() {
    let world = World::new(Setup::default());
    let s = Scene::new("clock", &world);
    ada(&s).await;
    let token = s.login("ada", PASSWORD).await;
    let whoami = async |token: &Secret| s.ask(Holder(token), "whoami", json!({})).await.text("error.type");
    assert_eq!(whoami(&token).await, "");
    for (moved, outcome) in [
        (HOUR + 61_000, "auth-failed"),
        (YEAR, "auth-failed"),
        (-120_000, "auth-failed"),
        (-YEAR, "auth-failed"),
        (-30_000, ""),
        (HOUR - 1_000, ""),
        (0, ""),
    ] {
        set(&world, moved);
        assert_eq!(whoami(&token).await, outcome, "the clock moved by {moved} ms");
    }
    for moved in [YEAR, -YEAR] {
        set(&world, moved);
        let fresh = s.login("ada", PASSWORD).await;
        assert_eq!(whoami(&fresh).await, "");
    }
}

#[tokio::test]
async fn memory_ages_with_the_time_that_passes_whatever_the_wall_clock_says() {
    let store = Faulty::embedded();
    let world = store.world(Setup::default());
    let s = Scene::new("clock", &world);
    let ada = ada(&s).await;
    assert!(s.may(&ada, "agent", "acme").await);
    store.calls();
    assert!(s.may(&ada, "agent", "acme").await);
    assert_eq!(store.calls(), [""; 0], "from memory");
    // The clock stands a year back from now on, and sixty seconds and some pass.
    set(&world, -YEAR);
    assert!(s.may(&ada, "agent", "acme").await);
    world.clock.advance_ms(61_000);
    assert!(s.may(&ada, "agent", "acme").await);
    assert!(store.calls().contains(&"user"), "what is in memory dies by its age");
}

#[tokio::test]
async fn change_is_in_force_at_once_under_a_clock_that_jumps() {
    let world = World::new(Setup::default());
    let s = Scene::new("clock", &world);
    s.bootstrap().await;
    s.workspace("acme").await;
    for (round, moved) in [0, YEAR, -YEAR, HOUR, -HOUR].into_iter().enumerate() {
        let user = s.user("acme", &format!("user{round}"), &["reader"]).await;
        let (id, key) = s.key(&user, "laptop").await;
        assert!(s.may(&user, "agent", "acme").await);
        s.ok(Holder(&key), "whoami", json!({})).await;
        set(&world, moved);
        s.ok(Holder(&key), "whoami", json!({})).await;
        s.ok(Service, "revoke-api-key", json!({ "key_id": id })).await;
        s.err(Holder(&key), "whoami", json!({}), AuthFailed).await;
        s.ok(Service, "disable-user", json!({ "user_id": user })).await;
        assert!(!s.may(&user, "agent", "acme").await);
    }
}

#[tokio::test]
async fn last_use_of_a_key_never_goes_back() {
    let world = World::new(Setup::default());
    let s = Scene::new("clock", &world);
    let ada = ada(&s).await;
    let (_, key) = s.key(&ada, "laptop").await;
    let last_used = async || {
        world.dispatch.write_last_used().await;
        let keys = s.ok(Service, "list-api-keys", json!({ "user_id": ada })).await;
        keys["api_keys"][0]["last_used"].as_str().unwrap_or_default().to_owned()
    };
    s.ok(Holder(&key), "whoami", json!({})).await;
    let first = last_used().await;
    assert_eq!(first, start().to_string());
    set(&world, -HOUR);
    // Longer than uses are noted apart.
    world.clock.advance_ms(10 * 60_000);
    s.ok(Holder(&key), "whoami", json!({})).await;
    assert_eq!(last_used().await, first);
    set(&world, HOUR);
    world.clock.advance_ms(10 * 60_000);
    s.ok(Holder(&key), "whoami", json!({})).await;
    assert!(last_used().await > first);
}

#[tokio::test]
async fn temporary_password_and_grace_end_by_the_wall_clock() {
    let world = World::new(Setup::default());
    let s = Scene::new("clock", &world);
    let ada = ada(&s).await;
    let token = s.login("ada", PASSWORD).await;
    s.ok(Service, "rotate-signing-key", json!({})).await;
    s.ok(Holder(&token), "whoami", json!({})).await;
    let keys = async || {
        let set = s.ok(Nobody, "get-jwks", json!({})).await.text("jwks_json");
        serde_json::from_str::<serde_json::Value>(&set).expect("a set")["keys"]
            .as_array()
            .expect("keys")
            .len()
    };
    assert_eq!(keys().await, 3);
    let reset = s.ok(Service, "reset-password", json!({ "user_id": ada })).await;
    let login = json!({ "username": "ada", "password": reset.text("temporary_password") });
    set(&world, 25 * HOUR);
    assert_eq!(keys().await, 2, "the old key's grace is over");
    s.err(Nobody, "login", login.clone(), AuthFailed).await;
    set(&world, -HOUR);
    assert_eq!(keys().await, 3, "and it is a date");
    s.ok(Nobody, "login", login).await;
}
