//! Logging in, and what the logged-in do about themselves.

use iam_schema::ErrorKind::*;
use iam_tests::Scene;
use iam_tests::scene::As::{Holder, Nobody, Service};
use serde_json::json;

const PASSWORD: &str = "violet-anvil-93-sings";

pub async fn login_gives_a_token_that_authenticates(s: &Scene<'_>) {
    s.bootstrap().await;
    s.workspace("acme").await;
    let ada = s.user("acme", "Ada", &["reader"]).await;
    s.password(&ada, PASSWORD).await;

    let login = s.ok(Nobody, "login", json!({ "username": "aDA", "password": PASSWORD })).await;
    let token = login.secret("jwt");
    assert!(login.0.get("must_change_password").is_none());

    let who = s.ok(Service, "authenticate", json!({ "credential": token.expose() })).await;
    assert_eq!(who.text("resolved_user_id"), ada);
    assert_eq!(who.text("resolved_workspace"), "acme");
    assert_eq!(who.text("resolved_source"), "jwt");
    assert_eq!(who["resolved_roles"], json!(["reader"]));
    assert_eq!(who.text("resolved_expires"), login.text("jwt_expires"));

    let me = s.ok(Holder(&token), "whoami", json!({})).await;
    assert_eq!(me.text("user.username"), "Ada");

    for request in [
        json!({ "username": "ada", "password": "wrong" }),
        json!({ "username": "nobody", "password": PASSWORD }),
        json!({ "username": "not a username!", "password": PASSWORD }),
        json!({ "username": "ada", "password": PASSWORD, "workspace": "default" }),
        json!({ "username": "ada", "password": PASSWORD, "workspace": "nowhere" }),
    ] {
        let message = s.err(Nobody, "login", request, AuthFailed).await;
        assert_eq!(message, "auth failure");
    }
    s.err(Nobody, "login", json!({ "password": PASSWORD }), InvalidArgument).await;
    s.err(Nobody, "login", json!({ "username": "ada" }), InvalidArgument).await;
    s.err(Nobody, "login", json!({ "username": "a\u{7}", "password": PASSWORD }), InvalidArgument).await;
}
