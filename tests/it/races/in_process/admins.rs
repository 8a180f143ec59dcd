//! The last root admin, by every path.

use serde_json::{Value, json};

use super::stage::{Ask, holder, service};
use super::{Race, run};

fn of(user: &str) -> Value {
    json!({ "user_id": user })
}

fn changed(user: &str, change: Value) -> Value {
    json!({ "user_id": user, "user": change })
}

fn place(id: &str) -> Value {
    json!({ "workspace_record": { "id": id } })
}

/// Each way of ending the root admin `admin`, whose home is `default`.
fn ends_admin() -> [(&'static str, Ask); 6] {
    let closed = json!({ "workspace_record": { "id": "default", "enabled": false } });
    [
        ("disable", service("disable-user", of("$admin"))),
        ("delete", service("delete-user", of("$admin"))),
        ("demote", service("update-user", changed("$admin", json!({ "roles": ["reader"] })))),
        ("switch off", service("update-user", changed("$admin", json!({ "enabled": false })))),
        ("disable-workspace", service("disable-workspace", place("default"))),
        ("switch workspace off", service("update-workspace", closed)),
    ]
}

/// Each way of ending the root admin `second`, whose home is `acme`, by `admin` on the API plane.
fn ends_second() -> [Ask; 4] {
    [
        holder("second-key", "disable-user", of("$second")),
        service("delete-user", of("$second")),
        service("update-user", changed("$second", json!({ "roles": [] }))),
        service("disable-workspace", place("acme")),
    ]
}

#[test]
fn last_root_admin_stays_whichever_two_go() {
    for (name, first) in ends_admin() {
        let races = ends_second().into_iter().enumerate().map(|(n, second)| {
            // The names must live as long as the table.
            let name: &'static str = format!("root admins, {name} against {n}").leak();
            Race::new(name, [first.clone(), second]).winners(1)
        });
        run(races.collect());
    }
}

#[test]
fn last_root_admin_stays_when_admins_turn_on_each_other() {
    run(vec![
        Race::new(
            "each disables the other",
            [
                holder("admin-key", "disable-user", of("$second")),
                holder("second-key", "disable-user", of("$admin")),
            ],
        )
        .winners(1)
        .among_callers(),
        Race::new(
            "each demotes the other on one replica",
            [
                holder("admin-key", "update-user", changed("$second", json!({ "roles": [] }))),
                holder("second-key", "update-user", changed("$admin", json!({ "roles": [] }))),
            ],
        )
        .winners(1)
        .on_one_replica()
        .among_callers(),
        Race::new(
            "three go in a ring",
            [
                holder("admin-key", "delete-user", of("$second")),
                holder("second-key", "update-user", changed("$bob", json!({ "roles": ["reader"] }))),
                holder("bob-key", "disable-workspace", place("default")),
            ],
        )
        .after([service("update-user", changed("$bob", json!({ "roles": ["admin"] })))])
        .among_callers(),
        Race::new(
            "both leave by themselves",
            [
                holder("admin-key", "disable-user", of("$admin")),
                holder("second-key", "delete-user", of("$second")),
            ],
        )
        .winners(1),
    ]);
}

#[test]
fn last_root_admin_goes_once_another_is_there() {
    run(vec![
        Race::new(
            "promoted while another is disabled",
            [
                service("update-user", changed("$bob", json!({ "roles": ["admin"] }))),
                service("disable-user", of("$second")),
                service("disable-user", of("$admin")),
            ],
        ),
        Race::new(
            "enabled while another is demoted",
            [
                service("enable-user", of("$eve")),
                service("update-user", changed("$admin", json!({ "roles": [] }))),
                service("delete-user", of("$second")),
            ],
        )
        .after([service("update-user", changed("$eve", json!({ "roles": ["admin"] })))]),
        Race::new(
            "made in a workspace that is disabled",
            [
                service(
                    "create-user",
                    json!({ "workspace": "acme", "user": { "username": "third", "roles": ["admin"] } }),
                ),
                service("disable-workspace", place("acme")),
                service("disable-user", of("$admin")),
            ],
        ),
    ]);
}
