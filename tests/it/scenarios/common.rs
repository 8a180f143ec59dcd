//! What scenes about users, workspaces and keys are told with.

use std::collections::BTreeSet;

use iam_schema::ErrorKind::*;
use iam_schema::Secret;
use iam_svc::domain::policy::{PolicySource, RoleSource};
use iam_tests::scene::As::{self, Holder, Nobody, Service};
use iam_tests::world::Setup;
use iam_tests::{Scene, World};
use serde_json::{Value, json};

/// A password that is good enough.
pub(super) const PASSWORD: &str = "violet-anvil-93-sings";
/// A user id that nobody has.
pub(super) const NOBODY: &str = "01a0ce87-ea1a-7bb6-ae10-295948688e1d";

/// A deployment with a workspace `acme`; the admin's id and key.
pub(super) async fn acme(s: &Scene<'_>) -> (String, Secret) {
    let seeded = s.bootstrap().await;
    s.workspace("acme").await;
    seeded
}

/// A reader `Ada` in acme with a token and a key: id, token, key.
pub(super) async fn ada(s: &Scene<'_>) -> (String, Secret, Secret) {
    let user = json!({ "username": "Ada", "roles": ["reader"], "password": PASSWORD });
    let id = s.ok(Service, "create-user", new_user("acme", user)).await.text("user.id");
    let (_, key) = s.key(&id, "ci").await;
    (id, s.login("ada", PASSWORD).await, key)
}

/// What `create-user` takes.
pub(super) fn new_user(workspace: &str, user: Value) -> Value {
    json!({ "workspace": workspace, "user": user })
}

/// An allowed request of every operation that is about one user; deleting comes last.
pub(super) fn about(id: &str) -> Vec<(&'static str, Value)> {
    vec![
        ("get-user", json!({ "user_id": id })),
        ("update-user", json!({ "user_id": id, "user": { "name": "New" } })),
        ("update-user", json!({ "user_id": id, "user": { "roles": ["reader"] } })),
        ("create-api-key", json!({ "key": { "user_id": id, "name": "new" } })),
        ("list-api-keys", json!({ "user_id": id })),
        ("revoke-user-tokens", json!({ "user_id": id })),
        ("reset-password", json!({ "user_id": id })),
        ("disable-user", json!({ "user_id": id })),
        ("enable-user", json!({ "user_id": id })),
        ("delete-user", json!({ "user_id": id })),
    ]
}

/// Requests that are sound, from those who may not: everybody is told what they are to be told.
pub(super) async fn only_admins_may(s: &Scene<'_>, rows: &[(&str, Value)]) {
    let writer = s.user("default", "a-writer", &["writer"]).await;
    let (_, writer_key) = s.key(&writer, "k").await;
    let ended = s.user("default", "an-ended-admin", &["admin"]).await;
    let (_, ended_key) = s.key(&ended, "k").await;
    s.ok(Service, "disable-user", json!({ "user_id": ended })).await;
    for (operation, request) in rows {
        for credential in [Nobody, Holder(&Secret::new("tg_nothing-of-the-kind")), Holder(&ended_key)] {
            let message = s.err(credential, operation, request.clone(), AuthFailed).await;
            assert_eq!(message, "auth failure", "{operation}");
        }
        let message = s.err(Holder(&writer_key), operation, request.clone(), OperationNotPermitted).await;
        assert_eq!(message, "access denied", "{operation}");
        for actor in [writer.as_str(), ended.as_str(), NOBODY] {
            s.err(Service, operation, by(actor, request), OperationNotPermitted).await;
        }
        s.err(Service, operation, by("somebody", request), InvalidArgument).await;
    }
}

/// A malformed request: everybody is told so, with or without a credential, and told which field.
pub(super) async fn malformed(s: &Scene<'_>, operation: &str, request: Value, field: &str) {
    for who in [Service, Nobody, Holder(&Secret::new("tg_nothing-of-the-kind"))] {
        let message = s.err(who, operation, request.clone(), InvalidArgument).await;
        assert!(message.contains(&format!("`{field}`")), "{operation} {request}: {message}");
    }
}

/// All pages of a list from a request on, each no larger than a reply may be.
pub(super) async fn pages(
    s: &Scene<'_>,
    who: As<'_>,
    operation: &str,
    request: Value,
    list: &str,
) -> Vec<Vec<Value>> {
    let mut pages = Vec::new();
    let mut request = request;
    loop {
        let reply = s.ok(who, operation, request.clone()).await;
        assert!(reply.0.to_string().len() <= 256 * 1024, "{operation}: a reply over 256 KiB");
        pages.push(reply[list].as_array().cloned().unwrap_or_default());
        assert!(pages.len() < 1000, "{operation} {request}: no end");
        match reply.text("next_page_token") {
            end if end.is_empty() => return pages,
            token => request = with(request, json!({ "page_token": token })),
        }
    }
}

/// The texts at a field over all pages; none may be there twice.
pub(super) fn once(pages: &[Vec<Value>], field: &str) -> BTreeSet<String> {
    let all: BTreeSet<String> = pages.iter().flatten().map(|item| text(item, field)).collect();
    assert_eq!(all.len(), pages.iter().map(Vec::len).sum::<usize>(), "something is there twice");
    all
}

/// A user's record as it is now.
pub(super) async fn user(s: &Scene<'_>, id: &str) -> Value {
    s.ok(Service, "get-user", json!({ "user_id": id })).await["user"].clone()
}

/// Whether a credential authenticates.
pub(super) async fn alive(s: &Scene<'_>, credential: &Secret) -> bool {
    let reply = s.ask(Service, "authenticate", json!({ "credential": credential.expose() })).await;
    let kind = reply.text("error.type");
    assert!(kind.is_empty() || kind == "auth-failed", "{}", reply.0);
    kind.is_empty()
}

/// A request with more in it.
pub(super) fn with(mut request: Value, more: Value) -> Value {
    if let (Value::Object(request), Value::Object(more)) = (&mut request, more) {
        request.extend(more);
    }
    request
}

/// A request made for somebody, on the service plane.
pub(super) fn by(actor: &str, request: &Value) -> Value {
    with(request.clone(), json!({ "actor": actor }))
}

/// Whether a record says that it is enabled.
pub(super) fn on(record: &Value) -> bool {
    record.get("enabled").is_some_and(|enabled| *enabled == true)
}

pub(super) fn version(record: &Value) -> u64 {
    record.get("version").and_then(Value::as_u64).unwrap_or_default()
}

/// The text at a field of a record.
pub(super) fn text(record: &Value, field: &str) -> String {
    record.get(field).and_then(Value::as_str).unwrap_or_default().to_owned()
}

/// The texts at a field of every record of a list.
pub(super) fn texts(list: &Value, field: &str) -> Vec<String> {
    list.as_array().into_iter().flatten().map(|record| text(record, field)).collect()
}

/// Administrators of a workspace, of the deployment, and of parts.
pub(super) fn offices() -> PolicySource {
    let owned = |names: &[&str]| names.iter().map(|&name| name.to_owned()).collect();
    let role = |name: &str, scope: &str, includes: &[&str], capabilities: &[&str]| RoleSource {
        name: name.into(),
        scope: scope.into(),
        includes: owned(includes),
        capabilities: owned(capabilities),
    };
    let users = ["users:read", "users:write", "users:admin", "keys:admin"];
    let mut policy = PolicySource::default();
    policy.roles.extend([
        role("bare", "assigned", &[], &["agent"]),
        role("helpdesk", "assigned", &[], &["users:read", "users:write"]),
        role("clerk", "assigned", &[], &users),
        role("steward", "assigned", &["reader"], &users),
        role("scribe", "*", &[], &["documents:read"]),
        role("looker", "*", &[], &["users:read"]),
        role("warden", "*", &[], &users),
        role("keeper", "assigned", &[], &["keys:admin"]),
        role("keymaster", "*", &[], &["keys:admin"]),
        role("landlord", "assigned", &[], &["workspaces:admin"]),
        role("host", "*", &[], &["workspaces:admin"]),
    ]);
    policy
}

pub(super) fn world(policy: PolicySource) -> World {
    World::new(Setup { policy, ..Setup::default() })
}
