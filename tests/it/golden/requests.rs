//! Requests that must be refused, sent to the whole service: it answers, and goes on.

use std::time::{Duration, Instant};

use iam_schema::codec::{Payload, decode};
use iam_schema::subject::Plane;
use iam_schema::{ErrorKind, IamRequest, IamResponse, OperationName};
use iam_svc::dispatch::{Answer, Headers, Incoming};
use iam_tests::scene::As::Service;
use iam_tests::{Scene, World};
use serde::Deserialize;
use serde_json::{Value, json};

use super::messagepack::Row;
use super::{load, report};

#[derive(Deserialize)]
struct Requests {
    cases: Vec<Row>,
    refuse: Vec<Row>,
    json_refuse: Vec<Row>,
}

/// The kind of a reply, which must be the same in record and header; empty for a success.
async fn ask(world: &World, operation: &str, headers: Headers<'_>, payload: &[u8]) -> String {
    let (reply, kind) = world.bytes(Plane::Service, operation, headers, payload).await;
    let response: IamResponse = decode(&reply).expect("a reply");
    assert_eq!(response.error.as_ref().and_then(|error| error.known_kind()), kind);
    assert_eq!(
        Payload::format_of(&reply),
        Payload::format_of(payload),
        "the reply has the form of the request"
    );
    kind.map(ErrorKind::as_str).unwrap_or_default().to_owned()
}

/// The operation that a payload names, if it can be read at all.
fn named(payload: &[u8]) -> Option<String> {
    let payload = Payload::read(payload).ok()?;
    let operation = payload.decode::<IamRequest<'_>>().ok()?.operation.into_owned();
    (!operation.is_empty()).then_some(operation)
}

#[tokio::test]
async fn malformed_requests_are_refused_and_the_worker_goes_on() {
    let file: Requests = load("messagepack");
    let world = World::new(Default::default());
    Scene::new("golden", &world).bootstrap().await;
    let mut failures = Vec::new();
    let rows = || file.refuse.iter().chain(&file.json_refuse).filter(|row| row.direction != "response");
    for row in rows() {
        let payload = row.payload();
        let operation = named(&payload).unwrap_or_else(|| "list-users".to_owned());
        // To the operation that it names, to one that answers from memory, and to one that asks for nothing.
        for operation in [operation.as_str(), "authorise", "bootstrap-status"] {
            let level = row.level == "request" && operation == "bootstrap-status";
            let outcome = ask(&world, operation, Headers::default(), &payload).await;
            // What is wrong with a request of one operation need not be with that of another.
            if outcome != "invalid-argument" && !level {
                failures.push(format!("{} as {operation}: {outcome:?}", row.name));
            }
            assert_eq!(
                ask(&world, "bootstrap-status", Headers::default(), b"{}").await,
                "",
                "after {}",
                row.name
            );
        }
    }
    report("messagepack, requests", rows().count(), failures);
}

#[tokio::test]
async fn requests_of_the_vectors_are_understood() {
    let file: Requests = load("messagepack");
    let world = World::new(Default::default());
    Scene::new("golden", &world).bootstrap().await;
    let mut failures = Vec::new();
    let rows = || file.cases.iter().filter(|row| row.direction != "response");
    for row in rows() {
        let payload = row.payload();
        let operation = named(&payload).expect("a case that names its operation");
        let outcome = ask(&world, &operation, Headers::default(), &payload).await;
        // Their users and keys are not of this world, and some of their times are past here.
        if ["internal-error", "unavailable", "not-supported"].contains(&outcome.as_str()) {
            failures.push(format!("{}: {outcome}", row.name));
        }
    }
    report("messagepack, cases", rows().count(), failures);
}

#[tokio::test]
async fn operation_must_be_that_of_the_subject() {
    let world = World::new(Default::default());
    for (subject, body, outcome) in [
        ("bootstrap-status", json!({}), ""),
        ("bootstrap-status", json!({ "operation": "bootstrap-status" }), ""),
        ("bootstrap-status", json!({ "operation": "" }), ""),
        ("bootstrap-status", json!({ "operation": "bootstrap" }), "invalid-argument"),
        ("bootstrap-status", json!({ "operation": "Bootstrap-Status" }), "invalid-argument"),
        ("drop-table", json!({}), "invalid-argument"),
        ("drop-table", json!({ "operation": "drop-table" }), "invalid-argument"),
        ("Bootstrap-Status", json!({}), "invalid-argument"),
        ("", json!({}), "invalid-argument"),
    ] {
        let payload = body.to_string().into_bytes();
        assert_eq!(ask(&world, subject, Headers::default(), &payload).await, outcome, "{subject} {body}");
    }
    assert_eq!(ask(&world, "bootstrap-status", Headers::default(), b"").await, "", "an empty payload");
    assert_eq!(
        ask(&world, "bootstrap-status", Headers::default(), b" \n{}\t").await,
        "",
        "white space around"
    );
}

/// Headers are read for what they are good for, and else left alone.
#[tokio::test]
async fn header_that_cannot_be_read_counts_as_absent_but_for_credential_and_floors() {
    let world = World::new(Default::default());
    let key = Scene::new("golden", &world).bootstrap().await.1;
    let bearer = format!("Bearer {}", key.expose());
    let lower = format!("bearer {}", key.expose());
    let (double, basic) = (format!("Bearer  {}", key.expose()), format!("Basic {}", key.expose()));
    let with = |authorization| Headers { authorization, ..Headers::default() };
    let good = with(Some(bearer.as_str()));
    for (headers, outcome) in [
        (good, None),
        (with(Some(&lower)), None),
        (with(None), Some(ErrorKind::AuthFailed)),
        (with(Some("")), Some(ErrorKind::AuthFailed)),
        (with(Some("Bearer")), Some(ErrorKind::AuthFailed)),
        (with(Some("Bearer ")), Some(ErrorKind::AuthFailed)),
        (with(Some(key.expose())), Some(ErrorKind::AuthFailed)),
        (with(Some(&double)), Some(ErrorKind::AuthFailed)),
        (with(Some(&basic)), Some(ErrorKind::AuthFailed)),
        (Headers { several_authorizations: true, ..good }, Some(ErrorKind::AuthFailed)),
        (
            Headers { traceparent: Some("00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"), ..good },
            None,
        ),
        (Headers { traceparent: Some("nonsense"), ..good }, None),
        (Headers { deadline_ms: Some("soon"), ..good }, None),
        (Headers { deadline_ms: Some("-1"), ..good }, None),
        (Headers { deadline_ms: Some("60000"), ..good }, None),
        (Headers { iam_min: Some("soon"), ..good }, Some(ErrorKind::InvalidArgument)),
        (Headers { iam_min: Some("soon"), authorization: None, ..good }, Some(ErrorKind::InvalidArgument)),
        // What is there is not for those without a credential to find out.
        (Headers { iam_min: Some("workspace:default=9"), ..good }, Some(ErrorKind::Unavailable)),
        (
            Headers { iam_min: Some("workspace:default=9"), authorization: None, ..good },
            Some(ErrorKind::AuthFailed),
        ),
    ] {
        // From the store, and from memory.
        for operation in ["whoami", "authorise", "authorise"] {
            let (_, kind) = world.bytes(Plane::Api, operation, headers, br#"{"capability":"agent"}"#).await;
            assert_eq!(kind, outcome, "{operation} {headers:?}");
        }
    }
}

#[tokio::test]
async fn request_whose_deadline_has_passed_is_dropped_and_does_nothing() {
    let world = World::new(Default::default());
    let payload = br#"{}"#;
    for (deadline_ms, answered) in [("500", false), ("0", false), ("3600000", true), ("later", true)] {
        let incoming = Incoming {
            plane: Plane::Service,
            operation: "bootstrap-status",
            headers: Headers { deadline_ms: Some(deadline_ms), ..Headers::default() },
            payload,
            received: Instant::now().checked_sub(Duration::from_secs(1)).expect("a second ago"),
        };
        let Answer::Later(later) = world.dispatch.answer_now(incoming) else {
            panic!("a store was read at once")
        };
        assert_eq!(world.dispatch.answer_later(later).await.reply.is_some(), answered, "{deadline_ms}");
    }
    let late = Incoming {
        plane: Plane::Service,
        operation: "bootstrap",
        headers: Headers { deadline_ms: Some("1"), ..Headers::default() },
        payload,
        received: Instant::now().checked_sub(Duration::from_secs(1)).expect("a second ago"),
    };
    let Answer::Later(later) = world.dispatch.answer_now(late) else { panic!("a seeding takes longer") };
    let answered = world.dispatch.answer_later(later).await;
    assert!(answered.reply.is_none() && answered.changes.is_empty());
    Scene::new("golden", &world).bootstrap().await;
}

#[derive(Deserialize)]
struct Times {
    now: String,
    ahead: Vec<Ahead>,
    refuse: Vec<Text>,
}

#[derive(Deserialize)]
struct Ahead {
    text: String,
    ok: bool,
    reason: String,
}

#[derive(Deserialize)]
struct Text {
    #[serde(alias = "name")]
    text: String,
    reason: String,
}

#[tokio::test]
async fn expiry_of_a_key_lies_ahead_as_the_vectors_say() {
    let file: Times = load("timestamps");
    let world = World::new(Default::default());
    let s = Scene::new("golden", &world);
    let (admin, _) = s.bootstrap().await;
    world.clock.set(file.now.parse().expect("a time"));
    let mut failures = Vec::new();
    let refused = file.refuse.iter().filter(|row| !row.text.is_empty());
    let refused = refused.map(|row| (&row.text, false, &row.reason));
    let rows = file.ahead.iter().map(|row| (&row.text, row.ok, &row.reason)).chain(refused);
    for (n, (text, ok, reason)) in rows.enumerate() {
        let key = json!({ "user_id": admin, "name": format!("key {n}"), "expires": text });
        let reply = s.ask(Service, "create-api-key", json!({ "key": key })).await;
        let kind = reply.text("error.type");
        if kind != (if ok { "" } else { "invalid-argument" }) {
            failures.push(format!("{text:?} ({reason}): {kind:?}"));
        }
    }
    report("timestamps, ahead", file.ahead.len() + file.refuse.len(), failures);
}

#[derive(Deserialize)]
struct Names {
    refuse_names: Vec<Text>,
}

#[tokio::test]
async fn username_that_cannot_be_is_refused_wherever_one_is_given() {
    let file: Names = load("usernames");
    let world = World::new(Default::default());
    let s = Scene::new("golden", &world);
    s.bootstrap().await;
    let mut failures = Vec::new();
    for row in &file.refuse_names {
        for (operation, request) in [
            ("create-user", json!({ "workspace": "default", "user": { "username": row.text } })),
            ("get-user", json!({ "username": row.text })),
            ("explain", json!({ "username": row.text, "capability": "agent" })),
        ] {
            let kind = s.ask(Service, operation, request).await.text("error.type");
            if kind != "invalid-argument" {
                failures.push(format!("{operation}: {:?} ({}): {kind:?}", row.text, row.reason));
            }
        }
    }
    report("usernames, refused", file.refuse_names.len(), failures);
}

/// Every operation stands in the vectors as somebody would ask for it.
#[test]
fn every_operation_has_a_request_in_the_vectors() {
    let file: Requests = load("messagepack");
    let asked: Vec<String> = file.cases.iter().filter_map(|row| named(&row.payload())).collect();
    let missing: Vec<&OperationName> = OperationName::ALL
        .iter()
        .filter(|operation| !asked.iter().any(|name| name == operation.as_str()))
        .collect();
    assert!(missing.is_empty(), "no request in messagepack.json for {missing:?}");
    assert!(file.cases.iter().all(|row| row.json.as_ref().is_some_and(Value::is_object)));
}
