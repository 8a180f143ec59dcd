//! WebSockets: who is behind one, many requests at a time, and what ends one.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use futures_util::SinkExt;
use iam_tests::websocket::Socket;
use serde_json::{Value, json};
use tokio_tungstenite::tungstenite::Message;

use super::{Front, PASSWORD, text};

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn socket_is_of_whom_its_first_frame_shows_and_of_nobody_before() {
    let Some(front) = Front::start(&[]).await else { return };
    let ada = front.user("default", "ada", &["reader"]).await;
    let token = front.login("ada", PASSWORD).await;
    let mut socket = Socket::open(front.gateway.address()).await;
    let whoami = json!({ "operation": "whoami" });
    let refusal = |id: &str, kind: &str, message: &str| json!({ "id": id, "error": { "type": kind, "message": message }, "complete": true });
    assert_eq!(socket.iam("1", whoami.clone()).await, refusal("1", "auth-required", "auth failure"));
    let failed = json!({ "type": "auth-failed", "error": "auth failure" });
    for bad in ["", "tg_x", "a.b.c"] {
        assert_eq!(socket.show(bad).await, failed, "{bad:?}");
    }
    let shown = socket.show(&token).await;
    assert_eq!(shown, json!({ "type": "auth-ok", "workspace": "default", "default_workspace": "default" }));
    let answer = socket.iam("2", whoami.clone()).await;
    assert_eq!((&answer["response"]["user"]["id"], &answer["complete"]), (&json!(ada), &json!(true)));
    // A bad credential leaves the one before it, and a good one takes its place.
    assert_eq!(socket.show("tg_x").await, failed);
    assert_eq!(socket.iam("3", whoami.clone()).await["response"]["user"]["username"], "ada");
    assert_eq!(socket.show(&front.root).await["type"], "auth-ok");
    assert_eq!(socket.iam("4", whoami.clone()).await["response"]["user"]["username"], "admin");
    assert_eq!(socket.show(&token).await["type"], "auth-ok");

    for (frame, expected) in [
        (
            json!({ "id": "a", "service": "iam", "request": { "operation": "list-users" } }),
            refusal("a", "access-denied", "access denied"),
        ),
        (
            json!({ "id": "b", "service": "iam", "request": { "operation": "nothing" } }),
            refusal("b", "unknown-service", "unknown service"),
        ),
        (
            json!({ "id": "c", "service": "llm", "request": {} }),
            refusal("c", "unknown-service", "unknown service"),
        ),
        (json!({ "id": "d", "request": {} }), refusal("d", "unknown-service", "unknown service")),
        (
            json!({ "id": "e", "workspace": "nowhere", "service": "iam", "request": whoami }),
            refusal("e", "workspace-not-found", "workspace not found"),
        ),
        (
            json!({ "id": "f", "service": "iam", "request": [] }),
            refusal("f", "error", "body must be an object"),
        ),
    ] {
        socket.send(&frame).await;
        assert_eq!(socket.next().await.expect("an answer"), expected, "{frame}");
    }
    for (frame, id) in [
        (json!({ "service": "iam", "request": {} }), None),
        (json!({ "id": "", "service": "iam", "request": {} }), None),
        (json!({ "id": "g", "service": "iam" }), Some("g")),
        (json!([]), None),
        (json!({ "id": 7, "request": {} }), None),
    ] {
        socket.send(&frame).await;
        let answer = socket.next().await.expect("an answer");
        assert_eq!((answer["error"]["type"].as_str(), answer["id"].as_str()), (Some("error"), id), "{frame}");
    }
    socket.0.send(Message::text("{not json")).await.expect("sent");
    assert_eq!(socket.next().await.expect("an answer")["error"]["type"], "error");
    socket
        .0
        .send(Message::binary(json!({ "id": "h", "service": "iam", "request": whoami }).to_string()))
        .await
        .expect("sent");
    assert_eq!(socket.next().await.expect("an answer")["response"]["user"]["username"], "ada");
    let service = json!({ "operation": "change-password", "password": "wrong", "new_password": PASSWORD });
    assert_eq!(socket.iam("i", service).await["error"]["type"], "auth-failed");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn many_requests_of_one_socket_are_answered_each_by_its_id() {
    let Some(front) = Front::start(&[]).await else { return };
    let mut socket = Socket::open_as(front.gateway.address(), &front.root).await;
    for n in 0..100 {
        let operation = if n % 2 == 0 { "whoami" } else { "list-workspaces" };
        let frame = json!({ "id": n.to_string(), "service": "iam", "request": { "operation": operation } });
        socket.send(&frame).await;
    }
    let mut answers = BTreeMap::new();
    while answers.len() < 100 {
        let answer = socket.next().await.expect("an answer");
        answers.insert(text(&answer["id"]).parse::<u32>().expect("a number"), answer["response"].clone());
    }
    for (n, response) in answers {
        let member = if n % 2 == 0 { "user" } else { "workspaces" };
        assert!(response.get(member).is_some(), "{n}: {response}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn revoked_credential_ends_what_its_socket_may() {
    let Some(front) = Front::start(&[]).await else { return };
    let ada = front.user("default", "ada", &["reader"]).await;
    let made = front
        .gateway
        .ok(&front.root, "create-api-key", json!({ "key": { "user_id": ada, "name": "k" } }))
        .await;
    let mut socket = Socket::open_as(front.gateway.address(), &text(&made["api_key_plaintext"])).await;
    let whoami = json!({ "operation": "whoami" });
    assert_eq!(socket.iam("1", whoami.clone()).await["response"]["user"]["username"], "ada");
    front.gateway.ok(&front.root, "revoke-api-key", json!({ "key_id": made["api_key"]["id"] })).await;
    let begun = Instant::now();
    loop {
        let answer = socket.iam("2", whoami.clone()).await;
        if answer["error"]["type"] == "auth-required" {
            break;
        }
        assert!(begun.elapsed() < Duration::from_secs(2), "{answer}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn draining_answers_what_was_taken_and_closes() {
    let Some(mut front) = Front::start(&[]).await else { return };
    front.user("default", "ada", &["reader"]).await;
    let mut socket = Socket::open_as(front.gateway.address(), &front.root).await;
    let login = json!({ "operation": "login", "username": "ada", "password": PASSWORD });
    socket.send(&json!({ "id": "1", "service": "iam", "request": login })).await;
    tokio::time::sleep(Duration::from_millis(20)).await;
    front.gateway.ask_to_end();
    let answer: Value = socket.next().await.expect("the answer");
    assert!(answer["response"]["jwt"].is_string(), "{answer}");
    assert!(socket.next().await.is_none(), "it closes");
    assert_eq!(front.gateway.ended().await, Some(0));
    assert!(front.gateway.log().contains("iam.stopped"));
}
