//! A bus that is down, a service that is down, a service that hangs: what a client of the gateway sees, and that no
//! answer rests on nothing.

use std::time::{Duration, Instant};

use iam_tests::deployment::nats_url;
use iam_tests::nats_server::NatsServer;
use iam_tests::{Deployment, HttpGateway, http};
use rustix::process::Signal;
use serde_json::json;

use super::{Front, PASSWORD};

/// For how long after a silence answers are hardly remembered, and some more.
const DOUBT: Duration = Duration::from_secs(7);

/// What a path answers: how, in which words, and after how long.
async fn seen(
    gateway: &HttpGateway,
    path: &str,
    credential: Option<&str>,
    body: serde_json::Value,
) -> (u16, String, Duration) {
    let begun = Instant::now();
    let reply = gateway.post(path, credential, &body).await;
    let error = &reply.json()["error"];
    let kind = error["type"].as_str().or(error.as_str()).unwrap_or("none").to_owned();
    (reply.status, kind, begun.elapsed())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn nothing_is_answered_with_success_while_the_service_is_gone_or_hangs() {
    let arguments = ["--deadline-s", "2", "--http-addr", "127.0.0.1:0"];
    let Some(mut front) = Front::start(&arguments).await else { return };
    let root = front.root.clone();
    let whoami = json!({ "operation": "whoami" });
    let login = json!({ "username": "ada", "password": PASSWORD });
    assert_eq!(seen(&front.gateway, "/api/v1/iam", Some(&root), whoami.clone()).await.0, 200);

    // It hangs: what memory does not hold ends with its deadline.
    front.deployment.signal(Signal::STOP);
    for (path, credential, body) in [
        ("/api/v1/iam", Some(root.as_str()), &whoami),
        ("/api/v1/iam", Some("tg_unknown"), &whoami),
        ("/api/v1/auth/login", None, &login),
        ("/api/v1/auth/bootstrap-status", None, &json!({})),
    ] {
        let (status, kind, after) = seen(&front.gateway, path, credential, body.clone()).await;
        println!(
            "the service hangs: {path} {credential:?}: {status} {kind} after {after:?}",
            credential = credential.map(|_| "with a credential")
        );
        assert!([503, 504].contains(&status) && kind == "unavailable", "{path}: {status} {kind}");
        assert!(after < Duration::from_secs(8), "{path} after {after:?}");
    }
    front.deployment.signal(Signal::CONT);
    let verified = async || {
        let header = format!("Authorization: Bearer {root}\r\n");
        http::request(front.gateway.address(), "GET /api/v1/auth/verify", &header, "").await.status
    };
    let begun = Instant::now();
    loop {
        let status = verified().await;
        if status == 204 {
            break;
        }
        assert!(
            begun.elapsed() < Duration::from_secs(20),
            "it does not come back: {status}\n{}",
            front.gateway.log()
        );
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    println!("the service goes on: served again after {:?}", begun.elapsed());
    tokio::time::sleep(DOUBT).await;
    assert_eq!(verified().await, 204);

    // It is gone: nobody listens, which shows at once; and what memory holds is given up after the silence.
    front.deployment.kill();
    let begun = Instant::now();
    assert_eq!(verified().await, 204, "memory holds it for now");
    for (path, credential, body) in
        [("/api/v1/iam", Some(root.as_str()), &whoami), ("/api/v1/auth/login", None, &login)]
    {
        let (status, kind, after) = seen(&front.gateway, path, credential, body.clone()).await;
        println!("the service is dead: {path}: {status} {kind} after {after:?}");
        assert!([503, 504].contains(&status) && kind == "unavailable", "{path}: {status} {kind}");
    }
    let until = loop {
        match verified().await {
            204 => assert!(begun.elapsed() < Duration::from_secs(10), "memory is believed for ever"),
            status => break (status, begun.elapsed()),
        }
        tokio::time::sleep(Duration::from_millis(50)).await;
    };
    println!("the service is dead: what memory held was given up, with {} after {:?}", until.0, until.1);
    assert_eq!(until.0, 503);
    let health = front.gateway.health().await;
    while http::get(&health, "/readyz").await.status != 503 {
        assert!(begun.elapsed() < Duration::from_secs(10), "it counts as ready for ever");
    }
    assert_eq!(http::get(&health, "/livez").await.status, 200);

    front.deployment.start_again(&["--http-addr", "127.0.0.1:0"]).await;
    let begun = Instant::now();
    while seen(&front.gateway, "/api/v1/iam", Some(&root), whoami.clone()).await.0 != 200 {
        assert!(begun.elapsed() < Duration::from_secs(20), "it does not come back");
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    println!("the service is back: served again after {:?}", begun.elapsed());
    // With its first heartbeat.
    while http::get(&health, "/readyz").await.status != 200 {
        assert!(begun.elapsed() < Duration::from_secs(20), "it is not ready again");
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    let metrics = http::get(&health, "/metrics").await.body;
    assert!(
        metrics.contains("iam_gateway_requests_total{route=\"/api/v1/iam\",status=\"503\"}"),
        "{metrics}"
    );
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn nothing_is_answered_with_success_while_the_bus_is_gone() {
    let Some(mut server) = NatsServer::start("").await else { return };
    let url = server.url();
    let deployment = Deployment::start(&url, &[]).await;
    let gateway = HttpGateway::start(&url, deployment.prefix(), &["--deadline-s", "2"]).await;
    let seeded = gateway.post("/api/v1/auth/bootstrap", None, &json!({})).await.json();
    let root = seeded["bootstrap_admin_api_key"].as_str().expect("a key").to_owned();
    let whoami = json!({ "operation": "whoami" });
    assert_eq!(seen(&gateway, "/api/v1/iam", Some(&root), whoami.clone()).await.0, 200);
    server.kill();
    for (path, credential) in [("/api/v1/iam", Some(root.as_str())), ("/api/v1/auth/bootstrap-status", None)]
    {
        let (status, kind, after) = seen(&gateway, path, credential, whoami.clone()).await;
        println!("the bus is dead: {path}: {status} {kind} after {after:?}");
        assert!([503, 504].contains(&status) && kind == "unavailable", "{path}: {status} {kind}");
        assert!(after < Duration::from_secs(8), "{path} after {after:?}");
    }
    server.start_again().await;
    let begun = Instant::now();
    while seen(&gateway, "/api/v1/iam", Some(&root), whoami.clone()).await.0 != 200 {
        assert!(begun.elapsed() < Duration::from_secs(30), "it does not come back");
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    println!("the bus is back: served again after {:?}", begun.elapsed());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn gateway_that_nobody_answers_behind_listens_and_says_so() {
    let Some(url) = nats_url() else { return };
    let mut gateway = HttpGateway::start_alone(&url, "nobody-there", &[]).await;
    for (path, credential) in [("/api/v1/iam", Some("tg_x")), ("/api/v1/auth/bootstrap-status", None)] {
        let (status, kind, _) = seen(&gateway, path, credential, json!({ "operation": "whoami" })).await;
        assert_eq!((status, kind.as_str()), (503, "unavailable"), "{path}");
    }
    gateway.ask_to_end();
    assert_eq!(gateway.ended().await, Some(0));
}
