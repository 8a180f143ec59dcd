//! Keys that are made while their owner is ended; users who are made, enabled and changed while their home is.

use serde_json::{Value, json};

use super::stage::{Ask, holder, service};
use super::{Race, run};

fn ann() -> Value {
    json!({ "user_id": "$ann" })
}

fn acme() -> Value {
    json!({ "workspace_record": { "id": "acme" } })
}

fn new_key() -> [Ask; 2] {
    [
        service("create-api-key", json!({ "key": { "user_id": "$ann", "name": "new" } })),
        holder("ann-key", "create-api-key", json!({ "key": { "name": "new" } })),
    ]
}

#[test]
fn key_never_outlives_what_ends_its_owner() {
    let ends = [
        ("disable", service("disable-user", ann())),
        ("delete", service("delete-user", ann())),
        ("revoke tokens", service("revoke-user-tokens", ann())),
        ("disable-workspace", service("disable-workspace", acme())),
    ];
    for (name, end) in ends {
        let races = new_key().into_iter().zip(["a service", "the owner"]).map(|(key, who)| {
            let name: &'static str = format!("{name} against a new key by {who}").leak();
            Race::new(name, [key, end.clone()]).among_callers()
        });
        run(races.collect());
    }
}

#[test]
fn key_of_before_stays_dead_when_its_owner_comes_back() {
    let [by_service, by_owner] = new_key();
    let open = json!({ "workspace_record": { "id": "acme", "enabled": true } });
    run(vec![
        Race::new(
            "key, disable and enable",
            [by_service.clone(), service("disable-user", ann()), service("enable-user", ann())],
        ),
        Race::new(
            "key, disable and enable on one replica",
            [by_owner, service("disable-user", ann()), service("enable-user", ann())],
        )
        .on_one_replica()
        .among_callers(),
        Race::new(
            "key, and the workspace goes and comes",
            [
                by_service,
                service("disable-workspace", acme()),
                service("update-workspace", open),
                service("enable-user", ann()),
            ],
        ),
    ]);
}

#[test]
fn user_is_never_enabled_in_a_workspace_that_was_disabled_meanwhile() {
    let eve = json!({ "user_id": "$eve" });
    let on = json!({ "user_id": "$eve", "user": { "enabled": true, "name": "Eve" } });
    let new = json!({ "workspace": "acme", "user": { "username": "new", "roles": ["reader"] } });
    let open = json!({ "workspace_record": { "id": "acme", "enabled": true } });
    run(vec![
        Race::new(
            "enable against disable-workspace",
            [service("enable-user", eve.clone()), service("disable-workspace", acme())],
        ),
        Race::new(
            "switch on against disable-workspace",
            [service("update-user", on.clone()), service("disable-workspace", acme())],
        ),
        Race::new(
            "create against disable-workspace",
            [service("create-user", new.clone()), service("disable-workspace", acme())],
        ),
        Race::new(
            "create against a workspace that goes and comes",
            [
                service("create-user", new),
                service("disable-workspace", acme()),
                service("update-workspace", open.clone()),
            ],
        ),
        Race::new(
            "enable against a workspace that goes and comes",
            [
                holder("admin-key", "enable-user", eve.clone()),
                service("disable-workspace", acme()),
                service("update-workspace", open),
            ],
        ),
        Race::new(
            "enable by two, disabled by one",
            [service("enable-user", eve.clone()), service("update-user", on), service("disable-user", eve)],
        ),
        Race::new(
            "workspace disabled by two",
            [
                service("disable-workspace", acme()),
                holder("admin-key", "disable-workspace", acme()),
                service("update-user", json!({ "user_id": "$ann", "user": { "name": "Ann" } })),
            ],
        ),
    ]);
}

#[test]
fn decision_never_mixes_before_and_after() {
    let may = |user: &str| json!({ "user_id": user, "capability": "graph:read", "resource_json": r#"{"workspace":"acme"}"# });
    let promoted = json!({ "user_id": "$ann", "user": { "roles": ["writer"] } });
    run(vec![
        Race::new(
            "authorise against disable",
            [service("authorise", may("$ann")), service("disable-user", ann())],
        )
        .on_one_replica()
        .cold(),
        Race::new(
            "authenticate against disable-workspace",
            [
                service("authenticate", json!({ "credential": "$ann-key" })),
                service("disable-workspace", acme()),
            ],
        )
        .on_one_replica()
        .cold(),
        Race::new(
            "authenticate against a change of roles and an end of keys",
            [
                service("authenticate", json!({ "credential": "$ann-key" })),
                service("update-user", promoted),
                service("revoke-api-key", json!({ "key_id": "$ann-key-id" })),
            ],
        )
        .on_one_replica()
        .cold(),
    ]);
}
