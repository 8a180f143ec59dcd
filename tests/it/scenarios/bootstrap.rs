//! How a deployment begins.

use std::collections::BTreeSet;

use futures_util::future::join_all;
use iam_schema::ErrorKind::*;
use iam_schema::Secret;
use iam_schema::audit::AuditOutcome;
use iam_svc::ctx::BootstrapMode;
use iam_tests::faulty::Faulty;
use iam_tests::scene::As::{Holder, Nobody, Service};
use iam_tests::scene::Shown;
use iam_tests::world::Setup;
use iam_tests::{Deployment, Scene};
use serde_json::{Value, json};

const TOKEN: &str = "uDf3k74avM4F2WfYEDwmM5M_vvVuCE3b93i-X8tC";
const ANOTHER_TOKEN: &str = "Cu-PXZnkbK5zbzDwuG7H42d8";

async fn available(s: &Scene<'_>) -> Value {
    let [nobody, service] = [
        s.ok(Nobody, "bootstrap-status", json!({})).await,
        s.ok(Service, "bootstrap-status", json!({})).await,
    ];
    assert_eq!(nobody.0, service.0);
    nobody["bootstrap_available"].clone()
}

/// What every seeding makes, seen with the admin's key.
async fn seeded(s: &Scene<'_>, key: &Secret) {
    let me = s.ok(Holder(key), "whoami", json!({})).await;
    assert_eq!(
        (&me["user"]["username"], &me["user"]["workspace"], &me["user"]["roles"], &me["user"]["enabled"]),
        (&json!("admin"), &json!("default"), &json!(["admin"]), &json!(true))
    );
    assert_eq!(me["user"]["must_change_password"], true);
    let users = s.ok(Holder(key), "list-users", json!({})).await;
    assert_eq!(users["users"], json!([me["user"]]));
    let workspaces = s.ok(Holder(key), "list-workspaces", json!({})).await;
    assert_eq!((workspaces.len("workspaces"), &workspaces["workspaces"][0]["id"]), (1, &json!("default")));
    let keys = s.ok(Holder(key), "list-api-keys", json!({})).await;
    assert_eq!((keys.len("api_keys"), &keys["api_keys"][0]["name"]), (1, &json!("bootstrap")));
    assert_eq!(keys["api_keys"][0]["prefix"], key.expose()[..7]);
    let jwks = s.ok(Nobody, "get-jwks", json!({})).await.text("jwks_json");
    let jwks: Value = serde_json::from_str(&jwks).expect("JSON");
    assert_eq!(jwks["keys"].as_array().map(Vec::len), Some(2));
}

/// Every way to ask for a seeding is refused, and all in the same words.
async fn refused(s: &Scene<'_>) {
    for caller in [Nobody, Service, Holder(&Secret::new("tg_unknown"))] {
        let reply = s.ask(caller, "bootstrap", json!({})).await;
        assert_eq!(reply.0, json!({ "error": { "type": "auth-failed", "message": "auth failure" } }));
    }
}

pub async fn bootstrap_seeds_an_empty_deployment_once(s: &Scene<'_>) {
    for _ in 0..2 {
        assert_eq!(available(s).await, true, "asking changes nothing");
    }
    s.err(Nobody, "login", json!({ "username": "admin", "password": "admin" }), AuthFailed).await;
    s.err(Service, "authenticate", json!({ "credential": TOKEN }), AuthFailed).await;
    s.err(Holder(&Secret::new(TOKEN)), "whoami", json!({}), AuthFailed).await;

    // Whoever comes too early must not make a deployment that nobody can begin any more.
    let early = json!({ "workspace_record": { "id": "early" } });
    s.err(Service, "create-workspace", early.clone(), OperationNotPermitted).await;
    assert_eq!(available(s).await, true);

    let reply = s.ok(Nobody, "bootstrap", json!({})).await;
    assert_eq!(reply.0.as_object().map(serde_json::Map::len), Some(2));
    let key = reply.secret("bootstrap_admin_api_key");
    assert!(key.expose().starts_with("tg_") && key.len() == 35);
    seeded(s, &key).await;
    let me = s.ok(Holder(&key), "whoami", json!({})).await;
    assert_eq!(me.text("user.id"), reply.text("bootstrap_admin_user_id"));

    assert_eq!(available(s).await, false);
    refused(s).await;
    seeded(s, &key).await;

    let reset = json!({ "user_id": me.text("user.id") });
    let temporary = s.ok(Holder(&key), "reset-password", reset).await.text("temporary_password");
    let login = s.ok(Nobody, "login", json!({ "username": "admin", "password": temporary })).await;
    assert_eq!(login["must_change_password"], true);
    s.ok(Service, "create-workspace", early).await;
}

pub async fn bootstrap_seeds_once_however_many_race(s: &Scene<'_>) {
    let replies = join_all([Nobody; 6].map(|caller| s.ask(caller, "bootstrap", json!({})))).await;
    let (seeded, refused): (Vec<_>, Vec<_>) =
        replies.into_iter().partition(|reply| reply.0.get("error").is_none());
    assert_eq!(seeded.len(), 1);
    for reply in refused {
        assert_eq!(reply.0, json!({ "error": { "type": "auth-failed", "message": "auth failure" } }));
    }
    self::seeded(s, &seeded[0].secret("bootstrap_admin_api_key")).await;
}

pub async fn bootstrap_works_on_the_service_plane_too(s: &Scene<'_>) {
    for operation in ["bootstrap", "bootstrap-status"] {
        for caller in [Nobody, Service] {
            s.err(caller, operation, json!({ "operation": "login" }), InvalidArgument).await;
            s.err(caller, operation, json!({ "request_id": "\u{7f}" }), InvalidArgument).await;
        }
    }
    assert_eq!(available(s).await, true, "what was malformed seeded nothing");
    let reply = s.ok(Service, "bootstrap", json!({ "actor": "not asked" })).await;
    seeded(s, &reply.secret("bootstrap_admin_api_key")).await;
    refused(s).await;
}

/// In process alone, since the mode is a setting: so it is in [`token_mode_holds_over_nats`].
pub async fn token_mode_seeds_at_start_and_never_by_the_operation() -> BTreeSet<Shown> {
    let with =
        |token: &str| Setup { bootstrap: BootstrapMode::Token(Secret::new(token)), ..Setup::default() };
    let store = Faulty::embedded();
    let first = store.world(with(TOKEN));
    let s = Scene::new("bootstrap::token_mode_seeds_at_start_and_never_by_the_operation", &first);
    assert_eq!(available(&s).await, false);
    refused(&s).await;
    s.err(Service, "authenticate", json!({ "credential": ANOTHER_TOKEN }), AuthFailed).await;

    let changes = first.dispatch.seed_at_start().await.expect("an empty store");
    let kinds: BTreeSet<&str> = changes.iter().map(|change| change.kind.as_str()).collect();
    assert_eq!(kinds, BTreeSet::from(["api-key", "signing-key", "user", "workspace"]));
    let told = first.last_told().await;
    assert_eq!((told.operation.as_str(), told.outcome), ("bootstrap", Some(AuditOutcome::Success)));
    seeded(&s, &Secret::new(TOKEN)).await;
    assert_eq!(available(&s).await, false);
    refused(&s).await;

    // Whoever starts on a store that was seeded does nothing, whatever the token.
    for token in [TOKEN, ANOTHER_TOKEN] {
        let again = store.world(with(token));
        assert!(again.dispatch.seed_at_start().await.expect("nothing to do").is_empty());
        let again = Scene::new("again", &again);
        seeded(&again, &Secret::new(TOKEN)).await;
        again.err(Service, "authenticate", json!({ "credential": ANOTHER_TOKEN }), AuthFailed).await;
    }
    s.shown()
}

#[tokio::test]
async fn token_mode_holds_over_nats() {
    let Some(url) = iam_tests::deployment::nats_url() else { return };
    let dir = tempfile::TempDir::new().expect("a directory");
    let file = dir.path().join("token");
    let with = |token: &str| {
        std::fs::write(&file, format!("{token}\n")).expect("a file");
        std::fs::set_permissions(&file, std::os::unix::fs::PermissionsExt::from_mode(0o600)).expect("a mode");
        ["--bootstrap-mode", "token", "--bootstrap-token-file", file.to_str().expect("a path")]
    };
    let mut deployment = Deployment::start(&url, &with(TOKEN)).await;
    for token in [TOKEN, ANOTHER_TOKEN] {
        let s = Scene::new("over NATS", &deployment);
        seeded(&s, &Secret::new(TOKEN)).await;
        s.err(Service, "authenticate", json!({ "credential": ANOTHER_TOKEN }), AuthFailed).await;
        assert_eq!(available(&s).await, false);
        refused(&s).await;
        if token == TOKEN {
            deployment.restart(&with(ANOTHER_TOKEN)).await;
        }
    }
}
