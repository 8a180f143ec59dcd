//! Passwords, tokens and signing keys.

use serde_json::{Value, json};

use super::cast::{NEW, OLD, OTHER};
use super::stage::{Ask, holder, nobody, service};
use super::{Race, run};

fn ann() -> Value {
    json!({ "user_id": "$ann" })
}

fn login() -> Ask {
    nobody("login", json!({ "username": "ANN", "password": OLD }))
}

fn change(to: &str) -> Ask {
    let request = json!({ "user_id": "$ann", "password": OLD, "new_password": to });
    holder("ann-jwt", "change-password", request)
}

#[test]
fn token_never_outlives_what_ends_it() {
    let must = json!({ "user_id": "$ann", "user": { "must_change_password": true } });
    let acme = json!({ "workspace_record": { "id": "acme" } });
    let retire = json!({ "key_id": "$active" });
    let ends = [
        ("change of password", change(NEW)),
        ("reset", service("reset-password", ann())),
        ("disable", service("disable-user", ann())),
        ("delete", service("delete-user", ann())),
        ("revoke tokens", service("revoke-user-tokens", ann())),
        ("disable-workspace", service("disable-workspace", acme)),
        ("duty to change", service("update-user", must)),
        ("retirement", service("retire-signing-key", retire)),
        ("rotation", service("rotate-signing-key", json!({}))),
    ];
    let races = ends.into_iter().map(|(name, end)| {
        let name: &'static str = format!("login against {name}").leak();
        Race::new(name, [login(), end])
    });
    run(races.map(Race::of_tokens).collect());
}

#[test]
fn password_that_was_verified_is_the_one_that_is_replaced() {
    let must = json!({ "user_id": "$ann", "user": { "must_change_password": true, "name": "Ann" } });
    let races = vec![
        Race::new("password changed by two", [change(NEW), change(OTHER)]).winners(1),
        Race::new("change against reset", [change(NEW), service("reset-password", ann())]),
        Race::new("change against disable", [change(NEW), service("disable-user", ann())]),
        Race::new("change against another change of the record", [change(NEW), service("update-user", must)]),
        Race::new("change against delete", [change(NEW), service("delete-user", ann())]).among_callers(),
        Race::new(
            "reset by two",
            [service("reset-password", ann()), holder("admin-key", "reset-password", ann())],
        ),
        Race::new(
            "tokens revoked by three",
            [
                service("revoke-user-tokens", ann()),
                holder("ann-jwt", "revoke-user-tokens", json!({})),
                holder("ann-key", "revoke-user-tokens", json!({})),
            ],
        )
        .among_callers(),
    ];
    run(races.into_iter().map(Race::of_tokens).collect());
}

#[test]
fn ring_changes_one_at_a_time() {
    let rotate = || service("rotate-signing-key", json!({}));
    let retire = |kid: &str| service("retire-signing-key", json!({ "key_id": kid }));
    let races = vec![
        Race::new("rotation by two", [rotate(), holder("admin-key", "rotate-signing-key", json!({}))]),
        Race::new("retirement of one key by two", [retire("$active"), retire("$active")]).winners(1),
        Race::new("retirement of both keys", [retire("$active"), retire("$next")]),
        Race::new("retirement against rotation", [retire("$active"), rotate()]),
        Race::new("retirement of next against rotation", [retire("$next"), rotate()]),
        Race::new("retirement against two rotations", [retire("$active"), rotate(), rotate()]),
        Race::new(
            "token seen while its key is retired",
            [service("authenticate", json!({ "credential": "$ann-jwt" })), retire("$active")],
        )
        .on_one_replica()
        .cold(),
        Race::new("rotation that dies", [rotate(), retire("$active")]).mortal(0),
    ];
    run(races.into_iter().map(Race::of_tokens).collect());
}
