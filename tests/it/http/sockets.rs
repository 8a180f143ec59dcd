//! WebSockets: who is behind one, many requests at a time, and what ends one.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use futures_util::SinkExt;
use iam_tests::websocket::Socket;
use serde_json::json;
use tokio_tungstenite::tungstenite::Message;

use super::{Front, PASSWORD, resident, text};

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
    let answer = socket.iam("2", whoami.clone()).await;
    assert_eq!(
        answer["error"]["type"], "auth-required",
        "what was revoked by way of this gateway is over: {answer}"
    );
    let other = Socket::open_as(front.gateway.address(), &front.root).await;
    assert_eq!(other.left().await, Some(1000), "it closes in return");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn socket_that_shows_no_credential_in_time_is_closed() {
    let Some(front) = Front::start(&[]).await else { return };
    let mut silent = Socket::open(front.gateway.address()).await;
    let begun = Instant::now();
    assert_eq!(silent.closed().await, Some(1008));
    assert!(begun.elapsed() > Duration::from_secs(25), "{:?}", begun.elapsed());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn other_workspaces_are_not_to_be_told_from_those_that_are_not_there() {
    let Some(front) = Front::start(&[]).await else { return };
    front.workspace("acme").await;
    front.user("default", "ada", &["reader"]).await;
    let token = front.login("ada", PASSWORD).await;
    for (credential, workspace, there) in [
        (&token, "default", true),
        (&token, "acme", false),
        (&token, "nowhere", false),
        (&front.root, "acme", true),
        (&front.root, "nowhere", false),
    ] {
        let mut socket = Socket::open_as(front.gateway.address(), credential).await;
        let request = json!({ "operation": "whoami" });
        socket
            .send(&json!({ "id": "1", "workspace": workspace, "service": "iam", "request": request }))
            .await;
        let answer = socket.next().await.expect("an answer");
        let kind = answer["error"]["type"].as_str();
        assert_eq!(kind, if there { None } else { Some("workspace-not-found") }, "{workspace}: {answer}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn client_that_pings_and_reads_nothing_cannot_make_us_hold_its_answers() {
    let Some(front) = Front::start(&[]).await else { return };
    let mut socket = Socket::open_as(front.gateway.address(), &front.root).await;
    let before = resident(front.gateway.id());
    let begun = Instant::now();
    while begun.elapsed() < Duration::from_secs(5) {
        let ping = socket.0.send(Message::Ping(vec![7; 125].into()));
        // It takes no more once its answers are not read.
        if !matches!(tokio::time::timeout(Duration::from_millis(500), ping).await, Ok(Ok(()))) {
            break;
        }
    }
    let after = resident(front.gateway.id());
    assert!(after < before + 8 * 1024, "{before} KiB became {after} KiB");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn draining_answers_what_was_taken_and_closes() {
    let Some(mut front) = Front::start(&[]).await else { return };
    front.user("default", "ada", &["reader"]).await;
    let mut socket = Socket::open_as(front.gateway.address(), &front.root).await;
    let login = json!({ "operation": "login", "username": "ada", "password": PASSWORD });
    socket.send(&json!({ "id": "1", "service": "iam", "request": login })).await;
    // Frames are taken in order: with an answer to the second the first was taken.
    let mut answers = vec![socket.iam("2", json!({ "operation": "nothing" })).await];
    front.gateway.ask_to_end();
    answers.push(socket.next().await.expect("the other answer"));
    let answer = answers.iter().find(|answer| answer["id"] == "1").expect("the login is answered");
    assert!(answer["response"]["jwt"].is_string(), "{answer}");
    assert_eq!(socket.closed().await, Some(1001));
    assert_eq!(front.gateway.ended().await, Some(0));
    assert!(front.gateway.log().contains("iam.stopped"));
}
