//! Names of users, workspaces and keys.

use serde_json::{Value, json};

use super::stage::{holder, service};
use super::{Race, run};

fn user(name: &str, full: &str) -> Value {
    json!({ "workspace": "acme", "user": { "username": name, "name": full, "roles": ["reader"] } })
}

fn key(of: &str, name: &str) -> Value {
    json!({ "key": { "user_id": of, "name": name } })
}

#[test]
fn username_has_one_holder() {
    run(vec![
        Race::new(
            "username in two cases",
            [service("create-user", user("Zoe", "one")), service("create-user", user("zOE", "two"))],
        )
        .winners(1),
        Race::new(
            "username on both planes",
            [
                service("create-user", user("zoe", "one")),
                holder("admin-key", "create-user", user("Zoe", "two")),
                holder("second-key", "create-user", user("ZOE", "three")),
            ],
        )
        .winners(1),
        Race::new(
            "username of somebody who goes",
            [
                service("delete-user", json!({ "user_id": "$bob" })),
                service("create-user", user("BOB", "one")),
                service("create-user", user("bob", "two")),
            ],
        ),
        Race::new(
            "username claimed by somebody who dies",
            [service("create-user", user("Zoe", "one")), service("create-user", user("zoe", "two"))],
        )
        .mortal(0),
        Race::new(
            "user who goes is changed",
            [
                service("delete-user", json!({ "user_id": "$ann" })),
                service("update-user", json!({ "user_id": "$ann", "user": { "name": "Ann" } })),
                service("create-user", user("ann", "another")),
            ],
        ),
        Race::new(
            "user goes twice",
            [
                service("delete-user", json!({ "user_id": "$ann" })),
                holder("admin-key", "delete-user", json!({ "user_id": "$ann" })),
            ],
        )
        .winners(1),
    ]);
}

#[test]
fn workspace_id_has_one_holder() {
    let workspace = |name: &str| json!({ "workspace_record": { "id": "new", "name": name } });
    run(vec![
        Race::new(
            "workspace id",
            [
                service("create-workspace", workspace("one")),
                holder("admin-key", "create-workspace", workspace("two")),
                holder("second-key", "create-workspace", workspace("three")),
            ],
        )
        .winners(1),
        Race::new(
            "workspace id claimed by somebody who dies",
            [service("create-workspace", workspace("one")), service("create-workspace", workspace("two"))],
        )
        .mortal(0),
        Race::new(
            "workspace changed by three",
            [
                service("update-workspace", json!({ "workspace_record": { "id": "acme", "name": "A" } })),
                service("update-workspace", json!({ "workspace_record": { "id": "acme", "name": "B" } })),
                service("disable-workspace", json!({ "workspace_record": { "id": "acme" } })),
            ],
        ),
    ]);
}

#[test]
fn key_name_has_one_holder() {
    run(vec![
        Race::new(
            "key name on both planes",
            [
                service("create-api-key", key("$ann", "ci")),
                holder("admin-key", "create-api-key", key("$ann", "ci")),
                holder("ann-key", "create-api-key", json!({ "key": { "name": "ci" } })),
            ],
        )
        .winners(1),
        Race::new(
            "key name of a key that goes",
            [
                service("revoke-api-key", json!({ "key_id": "$ann-key-id" })),
                service("create-api-key", key("$ann", "first")),
                service("create-api-key", key("$ann", "first")),
            ],
        ),
        Race::new(
            "key name claimed by somebody who dies",
            [service("create-api-key", key("$ann", "ci")), service("create-api-key", key("$ann", "ci"))],
        )
        .mortal(0),
        Race::new(
            "key goes twice",
            [
                service("revoke-api-key", json!({ "key_id": "$ann-key-id" })),
                holder("ann-jwt", "revoke-api-key", json!({ "key_id": "$ann-key-id" })),
            ],
        )
        .done_by_either(),
    ]);
}
