//! The gateway over real NATS: what it answers out of memory, what ends that, and what it does when nobody answers.

mod revocation;

use std::sync::Arc;
use std::time::{Duration, Instant};

use axum::body::{Body, to_bytes};
use axum::http::Request;
use axum::http::header::AUTHORIZATION;
use axum::routing::get;
use axum::{Extension, Router};
use iam_client::Connection;
use iam_client::gateway::layer::Protect;
use iam_client::gateway::{Gateway, GatewayError, Question, Setting};
use iam_client::sessions::Identity;
use iam_schema::Secret;
use iam_tests::deployment::nats_url;
use iam_tests::scene::As::Service;
use iam_tests::{Deployment, Scene};
use serde_json::json;
use tower_service::Service as _;

const PASSWORD: &str = "violet-anvil-93-sings";

/// A gateway of a deployment, ready.
async fn gateway(url: &str, prefix: &str) -> Gateway {
    let connection = Connection { subject_prefix: prefix.to_owned(), ..Connection::to([url]) };
    let gateway = Gateway::connect(&connection, Setting::default()).await.expect("a connection");
    gateway.ready(Duration::from_secs(10)).await.expect("ready");
    gateway
}

/// How many questions of a kind the service has answered.
async fn answered(deployment: &Deployment, operation: &str) -> u64 {
    let (_, metrics) = deployment.get("/metrics").await;
    let line =
        |line: &&str| line.starts_with("iam_requests_total") && line.contains(&format!("\"{operation}\""));
    let count = |line: &str| line.rsplit(' ').next().and_then(|n| n.parse::<u64>().ok());
    metrics.lines().filter(line).filter_map(count).sum()
}

async fn allowed(gateway: &Gateway, credential: &Secret, question: &Question) -> Result<bool, GatewayError> {
    let identity = gateway.authenticate(credential).await?;
    Ok(gateway.authorise(&identity, question).await?.allow)
}

/// Asks until a credential is refused; for how long it was still good.
async fn until_refused(gateway: &Gateway, credential: &Secret, question: &Question) -> Duration {
    let begun = Instant::now();
    while !matches!(allowed(gateway, credential, question).await, Err(GatewayError::Refused) | Ok(false)) {
        assert!(begun.elapsed() < Duration::from_secs(10), "it is still good");
        tokio::time::sleep(Duration::from_millis(1)).await;
    }
    begun.elapsed()
}

fn acme(capability: &str) -> Question {
    Question::within(capability, &"acme".parse().expect("an id"))
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn gateway_answers_out_of_memory_until_something_changes() {
    let Some(url) = nats_url() else { return };
    let deployment = Deployment::start(&url, &["--http-addr", "127.0.0.1:0"]).await;
    let s = Scene::new("gateway", &deployment);
    s.bootstrap().await;
    s.workspace("acme").await;
    let user = json!({ "username": "ada", "roles": ["writer"], "password": PASSWORD });
    let ada =
        s.ok(Service, "create-user", json!({ "workspace": "acme", "user": user })).await.text("user.id");
    let (key_id, key) = s.key(&ada, "laptop").await;
    let token = s.login("ada", PASSWORD).await;
    let gateway = gateway(&url, deployment.prefix()).await;

    let (may, may_not) = (acme("graph:write"), acme("users:admin"));
    let elsewhere = Question::within("graph:write", &"default".parse().expect("an id"));
    let asked =
        async || (answered(&deployment, "authenticate").await, answered(&deployment, "authorise").await);
    let mut first = None;
    for _ in 0..3 {
        for credential in [&key, &token] {
            assert!(allowed(&gateway, credential, &may).await.expect("a decision"));
            assert!(!allowed(&gateway, credential, &may_not).await.expect("a decision"));
            assert!(!allowed(&gateway, credential, &elsewhere).await.expect("a decision"));
            let identity = gateway.authenticate(credential).await.expect("known");
            assert_eq!((identity.user_id.to_string(), identity.workspace.as_str()), (ada.clone(), "acme"));
        }
        let (credentials, questions) = *first.get_or_insert(asked().await);
        // The owner of a key, who was made a moment ago, is known by the first answer alone: it is asked again.
        assert!(credentials <= 3 && questions == 3, "{credentials} and {questions} questions");
        assert_eq!(asked().await, (credentials, questions), "asked again");
    }
    for wrong in ["tg_nothing-of-the-kind", "a.b.c", "", "..", "tg_"] {
        for _ in 0..3 {
            let refused = gateway.authenticate(&Secret::new(wrong)).await;
            assert!(matches!(refused, Err(GatewayError::Refused)), "{wrong}: {refused:?}");
        }
    }
    // What cannot be a token is not asked about, and what was refused is remembered.
    let unknown = asked().await.0 - first.expect("asked").0;
    assert!(unknown <= 3, "{unknown} questions");

    // A demotion, and the end of the key, of the token, of the workspace.
    let demote = json!({ "user_id": ada, "user": { "roles": ["reader"] } });
    s.ok(Service, "update-user", demote).await;
    until_refused(&gateway, &key, &may).await;
    assert!(allowed(&gateway, &key, &acme("graph:read")).await.expect("a decision"));
    s.ok(Service, "revoke-api-key", json!({ "key_id": key_id })).await;
    until_refused(&gateway, &key, &acme("graph:read")).await;
    assert!(allowed(&gateway, &token, &acme("graph:read")).await.expect("a decision"));
    s.ok(Service, "revoke-user-tokens", json!({ "user_id": ada })).await;
    until_refused(&gateway, &token, &acme("graph:read")).await;
    let (_, other) = s.key(&ada, "other").await;
    assert!(allowed(&gateway, &other, &acme("graph:read")).await.expect("a decision"));
    s.ok(Service, "disable-workspace", json!({ "workspace_record": { "id": "acme" } })).await;
    until_refused(&gateway, &other, &acme("graph:read")).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn many_questions_are_asked_in_few_requests_and_answered_in_their_order() {
    let Some(url) = nats_url() else { return };
    let deployment = Deployment::start(&url, &["--http-addr", "127.0.0.1:0"]).await;
    let s = Scene::new("many", &deployment);
    s.bootstrap().await;
    s.workspace("acme").await;
    let ada = s.user("acme", "ada", &["reader"]).await;
    let (key_id, key) = s.key(&ada, "laptop").await;
    let gateway = gateway(&url, deployment.prefix()).await;
    let caller = gateway.authenticate(&key).await.expect("known");

    assert!(gateway.authorise_many(&caller, &[]).await.expect("nothing to decide").is_empty());
    let empty = gateway.authorise_many(&caller, &[Question::new("")]).await.expect("a decision");
    assert!(empty.iter().all(|decision| !decision.allow) && empty.len() == 1);
    assert!(gateway.authorise(&caller, &Question::new("")).await.is_err());
    let elsewhere = |n: usize| Question::within("graph:read", &format!("w{n}").parse().expect("an id"));
    let mut questions: Vec<Question> = (0..150).map(elsewhere).collect();
    questions.insert(77, acme("graph:read"));
    questions.push(Question::new(""));
    questions.push(acme("graph:write"));
    // One of them is known before.
    assert!(!gateway.authorise(&caller, &questions[3]).await.expect("a decision").allow);
    for _ in 0..2 {
        let decisions = gateway.authorise_many(&caller, &questions).await.expect("decisions");
        let allowed = (0..decisions.len()).filter(|n| decisions[*n].allow);
        assert_eq!((decisions.len(), allowed.collect::<Vec<_>>()), (questions.len(), vec![77]));
        // As many workspaces as there may be versions with a request, and the second time none.
        assert_eq!(answered(&deployment, "authorise-many").await, 3);
    }
    assert!(gateway.authorise(&caller, &questions[77]).await.expect("a decision").allow);
    assert_eq!(answered(&deployment, "authorise").await, 2, "what one request taught another need not ask");

    let demote = json!({ "user_id": ada, "user": { "roles": [] } });
    s.ok(Service, "update-user", demote).await;
    s.ok(Service, "revoke-api-key", json!({ "key_id": key_id })).await;
    until_refused(&gateway, &key, &questions[77]).await;
    let decisions = gateway.authorise_many(&caller, &questions).await.expect("decisions");
    assert!(decisions.iter().all(|decision| !decision.allow));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn route_behind_the_layer_is_for_those_who_may() {
    let Some(url) = nats_url() else { return };
    let mut deployment = Deployment::start(&url, &[]).await;
    let s = Scene::new("gateway", &deployment);
    let (root, admin) = s.bootstrap().await;
    let ada = s.user("default", "ada", &["reader"]).await;
    let (_, reader) = s.key(&ada, "laptop").await;
    let gateway = gateway(&url, deployment.prefix()).await;
    let show = async |Extension(caller): Extension<Arc<Identity>>| caller.user_id.to_string();
    let protect = Protect::new(gateway, Question::new("users:admin"));
    let app = Router::new().route("/", get(show)).layer(protect);
    let ask = async |credential: &str| {
        let mut request = Request::new(Body::empty());
        if !credential.is_empty() {
            let value = format!("Bearer {credential}").parse().expect("a value");
            request.headers_mut().insert(AUTHORIZATION, value);
        }
        let response = app.clone().call(request).await.expect("an answer");
        let status = response.status().as_u16();
        let body = to_bytes(response.into_body(), 1 << 16).await.expect("a body");
        (status, String::from_utf8(body.to_vec()).expect("text"))
    };
    let (refused, denied) = (r#"{"error":"auth failure"}"#, r#"{"error":"access denied"}"#);
    for (credential, status, body) in [
        ("", 401, refused),
        ("tg_nothing-of-the-kind", 401, refused),
        (reader.expose(), 403, denied),
        (admin.expose(), 200, root.as_str()),
    ] {
        assert_eq!(ask(credential).await, (status, body.to_owned()));
    }
    let (_, unknown) = s.key(&ada, "phone").await;
    drop(s);
    deployment.kill();
    assert_eq!(ask(unknown.expose()).await, (503, r#"{"error":"unavailable"}"#.to_owned()));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn token_of_a_new_key_is_good_and_one_of_a_retired_key_is_not() {
    let Some(url) = nats_url() else { return };
    let deployment = Deployment::start(&url, &[]).await;
    let s = Scene::new("gateway", &deployment);
    s.bootstrap().await;
    let user = json!({ "username": "ada", "roles": ["reader"], "password": PASSWORD });
    s.ok(Service, "create-user", json!({ "workspace": "default", "user": user })).await;
    let gateway = gateway(&url, deployment.prefix()).await;
    let question = Question::new("graph:read");
    let old = s.login("ada", PASSWORD).await;
    assert!(allowed(&gateway, &old, &question).await.expect("a decision"));
    s.ok(Service, "rotate-signing-key", json!({})).await;
    s.ok(Service, "rotate-signing-key", json!({})).await;
    let new = s.login("ada", PASSWORD).await;
    for token in [&old, &new] {
        assert!(allowed(&gateway, token, &question).await.expect("a decision"));
    }
    let kid = |token: &Secret| {
        use base64::Engine;
        use base64::engine::general_purpose::URL_SAFE_NO_PAD;
        let header =
            URL_SAFE_NO_PAD.decode(token.expose().split('.').next().expect("a header")).expect("base64");
        let header: serde_json::Value = serde_json::from_slice(&header).expect("an object");
        header["kid"].as_str().expect("a kid").to_owned()
    };
    s.ok(Service, "retire-signing-key", json!({ "key_id": kid(&old) })).await;
    until_refused(&gateway, &old, &question).await;
    assert!(allowed(&gateway, &new, &question).await.expect("a decision"));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn gateway_without_a_service_decides_nothing() {
    let Some(url) = nats_url() else { return };
    let mut deployment = Deployment::start(&url, &[]).await;
    let s = Scene::new("gateway", &deployment);
    let (_, key) = s.bootstrap().await;
    drop(s);
    let gateway = gateway(&url, deployment.prefix()).await;
    let (known, unknown) = (Question::new("users:admin"), Question::new("iam:admin"));
    assert!(allowed(&gateway, &key, &known).await.expect("a decision"));
    deployment.kill();
    let begun = Instant::now();
    let undecided = allowed(&gateway, &key, &unknown).await;
    assert!(matches!(undecided, Err(GatewayError::Unavailable(_))), "{undecided:?}");
    println!("a dead service: unavailable after {:.0?}", begun.elapsed());
    // What is in memory is good until the silence is noticed.
    while allowed(&gateway, &key, &known).await.is_ok() {
        assert!(begun.elapsed() < Duration::from_secs(7), "the silence was not noticed");
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    println!("memory given up after {:.1?}", begun.elapsed());
    deployment.start_again(&[]).await;
    gateway.ready(Duration::from_secs(10)).await.expect("ready");
    while !matches!(allowed(&gateway, &key, &known).await, Ok(true)) {
        assert!(begun.elapsed() < Duration::from_secs(60), "no recovery");
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
}
