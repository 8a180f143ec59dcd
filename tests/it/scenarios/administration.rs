//! The rules for whoever administers: capability and target, acting for somebody, dominance, the last root admin.

use std::collections::BTreeSet;

use iam_schema::ErrorKind::*;
use iam_schema::Secret;
use iam_tests::Scene;
use iam_tests::scene::As::{self, Holder, Nobody, Service};
use iam_tests::scene::Shown;
use serde_json::{Value, json};

use super::common::{
    NOBODY, about, acme, ada, alive, by, new_user, offices, on, once, only_admins_may, pages, text, texts,
    user, with, world,
};

pub async fn what_changes_nothing_does_nothing(s: &Scene<'_>) {
    let (admin, admin_key) = acme(s).await;
    let (ada, token, key) = ada(s).await;
    let before = user(s, &ada).await;
    let update = |user: Value| ("update-user", json!({ "user_id": ada, "user": user }));
    let rows = [
        ("enable-user", json!({ "user_id": ada })),
        update(json!({})),
        update(json!({ "enabled": true })),
        update(json!({ "name": "", "email": "", "roles": ["reader"], "must_change_password": false })),
        update(json!({ "username": "Ada" })),
    ];
    let ways = |request: &Value| {
        [(Service, request.clone()), (Holder(&admin_key), request.clone()), (Service, by(&admin, request))]
    };
    for (operation, request) in &rows {
        for (who, request) in ways(request) {
            s.ok(who, operation, request).await;
            assert_eq!(user(s, &ada).await, before, "{operation}");
        }
    }
    assert!(alive(s, &token).await && alive(s, &key).await);

    s.ok(Service, "disable-user", json!({ "user_id": ada })).await;
    let before = user(s, &ada).await;
    for (operation, request) in
        [("disable-user", json!({ "user_id": ada })), update(json!({ "enabled": false })), update(json!({}))]
    {
        for (who, request) in ways(&request) {
            s.ok(who, operation, request).await;
            assert_eq!(user(s, &ada).await, before, "{operation}");
        }
    }
}

pub async fn absent_user_is_not_found_by_those_who_see_all(s: &Scene<'_>) {
    let (admin, key) = acme(s).await;
    for (operation, request) in about(NOBODY) {
        s.err(Service, operation, request.clone(), NotFound).await;
        s.err(Holder(&key), operation, request.clone(), NotFound).await;
        s.err(Service, operation, by(&admin, &request), NotFound).await;
    }
    s.err(Service, "list-users", json!({ "workspace": "nowhere" }), NotFound).await;
    s.err(Holder(&key), "list-users", json!({ "workspace": "nowhere" }), NotFound).await;
}

pub async fn workspace_given_must_be_the_users(s: &Scene<'_>) {
    let (admin, key) = acme(s).await;
    let (id, token, user_key) = ada(s).await;
    let keys = s.ok(Service, "list-api-keys", json!({ "user_id": id })).await;
    let key_id = texts(&keys["api_keys"], "id").pop().unwrap_or_default();
    let before = user(s, &id).await;
    let mut rows = about(&id);
    rows.insert(0, ("revoke-api-key", json!({ "key_id": key_id })));
    for (operation, request) in &rows {
        for workspace in ["default", "nowhere", "ACME"] {
            let request = with(request.clone(), json!({ "workspace": workspace }));
            s.err(Service, operation, request.clone(), OperationNotPermitted).await;
            s.err(Service, operation, by(&admin, &request), OperationNotPermitted).await;
            let message = s.err(Holder(&key), operation, request, OperationNotPermitted).await;
            assert_eq!(message, "access denied", "{operation}");
        }
    }
    assert_eq!(user(s, &id).await, before);
    assert!(alive(s, &token).await && alive(s, &user_key).await);
    for (operation, request) in rows {
        s.ok(Holder(&key), operation, with(request, json!({ "workspace": "acme" }))).await;
    }
}

pub async fn only_those_with_the_capability_administer_users(s: &Scene<'_>) {
    acme(s).await;
    let (id, token, key) = ada(s).await;
    let before = user(s, &id).await;
    let mut rows = about(&id);
    rows.retain(|(operation, _)| operation.ends_with("-user"));
    rows.push(("create-user", new_user("acme", json!({ "username": "eve" }))));
    rows.push(("create-user", new_user("nowhere", json!({ "username": "eve", "roles": ["captain"] }))));
    rows.push(("list-users", json!({})));
    rows.push(("list-users", json!({ "workspace": "acme" })));
    rows.push(("list-users", json!({ "workspace": "nowhere" })));
    rows.push(("get-user", json!({ "username": "ada" })));
    rows.push(("get-user", json!({ "username": "nobody" })));
    rows.push(("get-user", json!({ "user_id": id, "username": "admin" })));
    rows.extend(about(NOBODY).into_iter().filter(|(operation, _)| operation.ends_with("-user")));
    only_admins_may(s, &rows).await;
    assert_eq!(user(s, &id).await, before);
    assert!(alive(s, &token).await && alive(s, &key).await);
    s.err(Service, "get-user", json!({ "username": "eve" }), NotFound).await;
}

pub async fn acting_for_somebody_is_decided_for_them(s: &Scene<'_>) {
    let (admin, key) = acme(s).await;
    let ada = s.user("acme", "ada", &["writer"]).await;
    let (_, ada_key) = s.key(&ada, "k").await;
    // The actor's own capability decides, not the caller's place on the service plane.
    s.ok(Service, "create-user", by(&admin, &new_user("acme", json!({ "username": "bob" })))).await;
    s.err(
        Service,
        "create-user",
        by(&ada, &new_user("acme", json!({ "username": "eve" }))),
        OperationNotPermitted,
    )
    .await;
    // On the API plane the actor is whoever the credential shows, whatever the body says.
    for actor in [admin.as_str(), NOBODY, "not an id"] {
        let request = json!({ "actor": actor, "user_id": ada });
        s.err(Holder(&ada_key), "get-user", request, OperationNotPermitted).await;
        let me = s.ok(Holder(&ada_key), "whoami", json!({ "actor": actor })).await;
        assert_eq!(me.text("user.id"), ada);
    }
    s.ok(Holder(&key), "get-user", json!({ "actor": ada, "user_id": ada })).await;
    // An actor counts for as long as they live.
    let second = s.user("acme", "second", &["admin"]).await;
    let request = json!({ "user_id": ada });
    s.ok(Service, "get-user", by(&second, &request)).await;
    s.ok(Service, "update-user", json!({ "user_id": second, "user": { "roles": ["writer"] } })).await;
    s.err(Service, "get-user", by(&second, &request), OperationNotPermitted).await;
    s.ok(Service, "update-user", json!({ "user_id": second, "user": { "roles": ["admin"] } })).await;
    s.ok(Service, "get-user", by(&second, &request)).await;
    s.ok(Service, "disable-user", json!({ "user_id": second })).await;
    s.err(Service, "get-user", by(&second, &request), OperationNotPermitted).await;
    s.ok(Service, "enable-user", json!({ "user_id": second })).await;
    s.ok(Service, "disable-workspace", json!({ "workspace_record": { "id": "acme" } })).await;
    s.err(Service, "get-user", by(&second, &request), OperationNotPermitted).await;
    s.ok(Service, "get-user", by(&admin, &request)).await;
    // What is asked about oneself needs somebody.
    s.err(Service, "whoami", json!({}), InvalidArgument).await;
    // Public and service-plane operations ask nothing of an actor.
    for actor in [NOBODY, ada.as_str()] {
        s.ok(Service, "bootstrap-status", json!({ "actor": actor })).await;
        s.ok(Service, "resolve-api-key", json!({ "actor": actor, "api_key": key.expose() })).await;
    }
}

pub async fn last_root_admin_stays_by_every_path(s: &Scene<'_>) {
    let (admin, key) = acme(s).await;
    s.workspace("closed").await;
    s.user("acme", "writer", &["writer"]).await;
    stays(s, &admin, Some(&key), "nobody else").await;

    let second = s.user("closed", "second", &["reader", "admin"]).await;
    s.ok(Service, "disable-user", json!({ "user_id": second })).await;
    stays(s, &admin, Some(&key), "another who is disabled").await;

    s.ok(Service, "enable-user", json!({ "user_id": second })).await;
    s.ok(Service, "disable-workspace", json!({ "workspace_record": { "id": "closed" } })).await;
    stays(s, &admin, Some(&key), "another in a disabled workspace").await;

    let reopened = json!({ "workspace_record": { "id": "closed", "enabled": true } });
    s.ok(Service, "update-workspace", reopened).await;
    stays(s, &admin, Some(&key), "another left disabled by the workspace").await;

    // Somebody under the same roof does not help against closing the house.
    let neighbour = s.user("default", "neighbour", &["admin"]).await;
    for (operation, request) in close("default") {
        s.err(Service, operation, request.clone(), OperationNotPermitted).await;
        s.err(Service, operation, by(&neighbour, &request), OperationNotPermitted).await;
    }
    s.ok(Service, "delete-user", json!({ "user_id": neighbour })).await;

    // With another root admin each path is open, and then it is the other who stays.
    s.ok(Service, "enable-user", json!({ "user_id": second })).await;
    s.ok(Service, "disable-workspace", json!({ "workspace_record": { "id": "default" } })).await;
    assert!(!alive(s, &key).await);
    stays(s, &second, None, "the first left disabled by the workspace").await;
    s.ok(Service, "update-workspace", json!({ "workspace_record": { "id": "default", "enabled": true } }))
        .await;
    for (operation, request) in end(&admin) {
        s.ok(Service, "update-user", json!({ "user_id": admin, "user": { "enabled": true } })).await;
        s.ok(Service, "update-user", json!({ "user_id": admin, "user": { "roles": ["admin"] } })).await;
        s.ok(Service, operation, by(&second, &request)).await;
        stays(s, &second, None, operation).await;
    }
}

pub async fn two_root_admins_who_end_each_other_at_once_leave_one(s: &Scene<'_>) {
    let (first, _) = acme(s).await;
    let second = s.user("acme", "second", &["admin"]).await;
    for round in 0..5 {
        let (one, other) = if round % 2 == 0 { (&first, &second) } else { (&second, &first) };
        let demote = json!({ "user_id": one, "user": { "roles": [] } });
        let (a, b) = tokio::join!(
            s.ask(Service, "update-user", demote),
            s.ask(Service, "disable-user", json!({ "user_id": other })),
        );
        let done = [&a, &b].iter().filter(|reply| reply.0.get("error").is_none()).count();
        assert_eq!(done, 1, "{a:?} {b:?}");
        for id in [&first, &second] {
            s.ok(Service, "enable-user", json!({ "user_id": id })).await;
            s.ok(Service, "update-user", json!({ "user_id": id, "user": { "roles": ["admin"] } })).await;
        }
    }
    let workspace = |id: &str, enabled: bool| json!({ "workspace_record": { "id": id, "enabled": enabled } });
    let (a, b, c) = tokio::join!(
        s.ask(Service, "disable-workspace", workspace("default", false)),
        s.ask(Service, "update-workspace", workspace("acme", false)),
        s.ask(Service, "delete-user", json!({ "user_id": second })),
    );
    let done: Vec<bool> = [&a, &b, &c].map(|reply| reply.0.get("error").is_none()).into();
    // Either the first goes, or all that touches the second.
    assert!(
        matches!(done[..], [true, false, false] | [false, true, _] | [false, _, true]),
        "{a:?} {b:?} {c:?}"
    );
    let left = pages(s, Service, "list-users", json!({}), "users").await;
    assert_eq!(left.iter().flatten().filter(|user| on(user)).count(), 1);
}

pub async fn whoever_changes_a_user_holds_all_that_the_user_holds_in_that_scope() -> BTreeSet<Shown> {
    let world = world(offices());
    let scene = Scene::new(
        "administration::whoever_changes_a_user_holds_all_that_the_user_holds_in_that_scope",
        &world,
    );
    let s = &scene;
    acme(s).await;
    s.workspace("other").await;
    // The actor's home is acme.
    let rows: &[(&[&str], &[&str], &str, bool)] = &[
        (&["admin"], &["admin"], "other", true),
        (&["admin"], &["warden", "steward"], "other", true),
        (&["steward"], &[], "acme", true),
        (&["steward"], &["bare"], "acme", true),
        (&["steward"], &["reader"], "acme", true),
        (&["steward"], &["steward"], "acme", true),
        (&["steward"], &["reader", "clerk"], "acme", true),
        (&["steward"], &["writer"], "acme", false),
        (&["steward"], &["reader", "landlord"], "acme", false),
        (&["steward"], &["admin"], "acme", false),
        (&["steward"], &[], "other", false),
        (&["steward"], &["reader"], "other", false),
        (&["steward", "writer"], &["writer"], "acme", true),
        (&["clerk"], &["reader"], "acme", false),
        (&["clerk", "reader"], &["steward"], "acme", true),
        (&["steward"], &["scribe"], "acme", false),
        (&["steward", "scribe"], &["scribe"], "acme", true),
        (&["steward"], &["warden"], "acme", false),
        (&["warden"], &[], "other", true),
        (&["warden"], &["clerk", "helpdesk"], "other", true),
        (&["warden"], &["warden"], "other", true),
        (&["warden"], &["bare"], "other", false),
        (&["warden"], &["scribe"], "other", false),
        (&["warden", "scribe"], &["scribe", "keymaster"], "other", true),
        (&["warden", "reader"], &["reader"], "acme", true),
        (&["warden", "reader"], &["reader"], "other", false),
        (&["warden", "steward"], &["admin"], "acme", false),
    ];
    for (n, (actor_roles, roles, home, allowed)) in rows.iter().enumerate() {
        let actor = s.user("acme", &format!("actor{n}"), actor_roles).await;
        let (_, key) = s.key(&actor, "k").await;
        for (way, who) in [("service", Service), ("api", Holder(&key))] {
            let case = format!("{actor_roles:?} over {roles:?} in {home}");
            let attempts = Attempts { s, who, actor: &actor, allowed: *allowed, case: &case };
            let target = s.user(home, &format!("target{n}-{way}"), roles).await;
            let (target_key, _) = s.key(&target, "old").await;
            let before = user(s, &target).await;
            attempts.make("update-user", json!({ "user_id": target, "user": { "name": "New" } })).await;
            attempts.make("create-api-key", json!({ "key": { "user_id": target, "name": "new" } })).await;
            attempts.make("revoke-api-key", json!({ "key_id": target_key })).await;
            attempts.make("reset-password", json!({ "user_id": target })).await;
            attempts.make("revoke-user-tokens", json!({ "user_id": target })).await;
            attempts.make("update-user", json!({ "user_id": target, "user": { "roles": [] } })).await;
            s.ok(Service, "update-user", json!({ "user_id": target, "user": { "roles": roles } })).await;
            attempts.make("disable-user", json!({ "user_id": target })).await;
            attempts.make("enable-user", json!({ "user_id": target })).await;
            if !allowed {
                assert_eq!(user(s, &target).await, before, "{actor_roles:?} {roles:?}");
                assert_eq!(
                    s.ok(Service, "list-api-keys", json!({ "user_id": target })).await.len("api_keys"),
                    1
                );
            }
            attempts.make("delete-user", json!({ "user_id": target })).await;
            // Nor does anybody give what they lack.
            let newcomer = json!({ "username": format!("new{n}-{way}"), "roles": roles });
            attempts.make("create-user", new_user(home, newcomer)).await;
            let plain = s.user(home, &format!("plain{n}-{way}"), &[]).await;
            attempts.make("update-user", json!({ "user_id": plain, "user": { "roles": roles } })).await;
        }
        s.ok(Service, "delete-user", json!({ "user_id": actor })).await;
    }
    scene.shown()
}

pub async fn nobody_gives_themselves_what_they_lack() -> BTreeSet<Shown> {
    let world = world(offices());
    let scene = Scene::new("administration::nobody_gives_themselves_what_they_lack", &world);
    let s = &scene;
    acme(s).await;
    let id = s.user("acme", "steward", &["steward"]).await;
    let (_, key) = s.key(&id, "k").await;
    let to = |roles: &[&str]| json!({ "user_id": id, "user": { "roles": roles } });
    for roles in [&["admin"][..], &["steward", "writer"], &["steward", "scribe"], &["warden"], &["landlord"]]
    {
        s.err(Holder(&key), "update-user", to(roles), OperationNotPermitted).await;
        s.err(Service, "update-user", by(&id, &to(roles)), OperationNotPermitted).await;
    }
    s.ok(Holder(&key), "update-user", json!({ "user_id": id, "user": { "name": "Me" } })).await;
    s.ok(Holder(&key), "update-user", to(&["steward", "clerk", "reader", "bare"])).await;
    s.ok(Holder(&key), "update-user", to(&["bare"])).await;
    s.err(Holder(&key), "update-user", to(&["steward"]), OperationNotPermitted).await;
    scene.shown()
}

pub async fn administrator_of_a_workspace_cannot_tell_absent_from_forbidden() -> BTreeSet<Shown> {
    let world = world(offices());
    let scene =
        Scene::new("administration::administrator_of_a_workspace_cannot_tell_absent_from_forbidden", &world);
    let s = &scene;
    acme(s).await;
    s.workspace("other").await;
    let steward = s.user("acme", "steward", &["steward"]).await;
    let (_, key) = s.key(&steward, "k").await;
    let stranger = s.user("other", "stranger", &[]).await;
    let (stranger_key, _) = s.key(&stranger, "k").await;
    let own = s.user("acme", "own", &[]).await;

    let mut pairs: Vec<(&str, Value, Value)> = about(&stranger)
        .into_iter()
        .zip(about(NOBODY))
        .map(|((operation, there), (_, absent))| (operation, there, absent))
        .collect();
    pairs.extend([
        ("get-user", json!({ "username": "stranger" }), json!({ "username": "nobody" })),
        (
            "get-user",
            json!({ "username": "stranger", "user_id": stranger }),
            json!({ "username": "nobody", "user_id": NOBODY }),
        ),
        (
            "get-user",
            json!({ "username": "stranger", "user_id": own }),
            json!({ "username": "nobody", "user_id": own }),
        ),
        (
            "get-user",
            json!({ "username": "stranger", "user_id": NOBODY }),
            json!({ "username": "nobody", "user_id": NOBODY }),
        ),
        ("revoke-api-key", json!({ "key_id": stranger_key }), json!({ "key_id": NOBODY })),
        ("list-users", json!({ "workspace": "other" }), json!({ "workspace": "nowhere" })),
        (
            "create-user",
            new_user("other", json!({ "username": "x" })),
            new_user("nowhere", json!({ "username": "x" })),
        ),
    ]);
    for (operation, there, absent) in pairs {
        for request in [there, absent] {
            for workspace in [None, Some("acme"), Some("other")] {
                let request = match (workspace, request.get("workspace")) {
                    (Some(workspace), None) => with(request.clone(), json!({ "workspace": workspace })),
                    (Some(_), Some(_)) => continue,
                    (None, _) => request.clone(),
                };
                let message = s.err(Holder(&key), operation, request.clone(), OperationNotPermitted).await;
                assert_eq!(message, "access denied");
                s.err(Service, operation, by(&steward, &request), OperationNotPermitted).await;
            }
        }
    }
    s.err(Holder(&key), "list-users", json!({}), OperationNotPermitted).await;

    // At home all is as it is for anybody.
    let listed = pages(s, Holder(&key), "list-users", json!({ "workspace": "acme" }), "users").await;
    assert_eq!(once(&listed, "id"), BTreeSet::from([steward.clone(), own.clone()]));
    s.ok(Holder(&key), "get-user", json!({ "username": "OWN", "user_id": own })).await;
    let mixed = json!({ "username": "own", "user_id": steward });
    s.err(Holder(&key), "get-user", mixed, InvalidArgument).await;
    s.ok(Holder(&key), "create-user", new_user("acme", json!({ "username": "x", "roles": ["reader"] })))
        .await;
    let taken = new_user("acme", json!({ "username": "STRANGER" }));
    s.err(Holder(&key), "create-user", taken, Duplicate).await;

    // Whoever sees all sees what is absent, in what that capability is for.
    let looker = s.user("acme", "looker", &["looker", "steward"]).await;
    let (_, key) = s.key(&looker, "k").await;
    s.ok(Holder(&key), "get-user", json!({ "user_id": stranger })).await;
    s.err(Holder(&key), "get-user", json!({ "user_id": NOBODY }), NotFound).await;
    s.ok(Holder(&key), "list-users", json!({})).await;
    s.err(Holder(&key), "list-users", json!({ "workspace": "nowhere" }), NotFound).await;
    for id in [stranger.as_str(), NOBODY] {
        s.err(Holder(&key), "disable-user", json!({ "user_id": id }), OperationNotPermitted).await;
    }
    scene.shown()
}

pub async fn holder_of_any_root_role_counts_as_root_admin() -> BTreeSet<Shown> {
    let world = world(offices());
    let scene = Scene::new("administration::holder_of_any_root_role_counts_as_root_admin", &world);
    let s = &scene;
    let (admin, _) = acme(s).await;
    // Scope `*` alone, or users:admin alone, makes none.
    s.user("acme", "looker", &["looker", "steward"]).await;
    s.err(Service, "disable-user", json!({ "user_id": admin }), OperationNotPermitted).await;
    let warden = s.user("acme", "warden", &["warden"]).await;
    s.ok(Service, "disable-user", json!({ "user_id": admin })).await;
    stays(s, &warden, None, "a root admin by another role").await;
    s.ok(Service, "update-user", json!({ "user_id": warden, "user": { "roles": ["admin"] } })).await;
    stays(s, &warden, None, "the same by a third").await;
    scene.shown()
}

/// What somebody attempts who is allowed all of it, or nothing.
struct Attempts<'a> {
    s: &'a Scene<'a>,
    who: As<'a>,
    actor: &'a str,
    allowed: bool,
    case: &'a str,
}

impl Attempts<'_> {
    async fn make(&self, operation: &str, request: Value) {
        let request = match self.who {
            Service => by(self.actor, &request),
            Holder(_) | Nobody => request,
        };
        let reply = self.s.ask(self.who, operation, request).await;
        let expected = if self.allowed { "" } else { OperationNotPermitted.as_str() };
        assert_eq!(reply.text("error.type"), expected, "{}: {operation}: {}", self.case, reply.0);
    }
}

/// Every way to end a root admin; deleting comes last.
fn end(id: &str) -> [(&'static str, Value); 5] {
    [
        ("disable-user", json!({ "user_id": id })),
        ("update-user", json!({ "user_id": id, "user": { "enabled": false } })),
        ("update-user", json!({ "user_id": id, "user": { "roles": [] } })),
        ("update-user", json!({ "user_id": id, "user": { "roles": ["writer"], "name": "Ex" } })),
        ("delete-user", json!({ "user_id": id })),
    ]
}

/// Both ways to disable a workspace.
fn close(id: &str) -> [(&'static str, Value); 2] {
    [
        ("disable-workspace", json!({ "workspace_record": { "id": id } })),
        ("update-workspace", json!({ "workspace_record": { "id": id, "enabled": false, "name": "Shut" } })),
    ]
}

/// The last root admin stays, whoever tries what, and nothing changes by the trying.
async fn stays(s: &Scene<'_>, id: &str, key: Option<&Secret>, case: &str) {
    let before = user(s, id).await;
    let home = text(&before, "workspace");
    let workspace = json!({ "workspace_record": { "id": home } });
    let house = s.ok(Service, "get-workspace", workspace.clone()).await;
    for (operation, request) in end(id).into_iter().chain(close(&home)) {
        s.err(Service, operation, request.clone(), OperationNotPermitted).await;
        s.err(Service, operation, by(id, &request), OperationNotPermitted).await;
        if let Some(key) = key {
            let message = s.err(Holder(key), operation, request, OperationNotPermitted).await;
            assert_eq!(message, "access denied", "{case}");
        }
    }
    assert_eq!(user(s, id).await, before, "{case}");
    assert_eq!(s.ok(Service, "get-workspace", workspace).await.0, house.0, "{case}");
    if let Some(key) = key {
        assert!(alive(s, key).await, "{case}");
    }
}
