//! The service under hostile requests for long: in process, and the real binary over NATS on both planes. Every answer
//! is a well-formed one that may be given, the service goes on giving right ones, and it does not grow.

use std::time::{Duration, Instant};

use async_nats::{Client, HeaderMap};
use bytes::Bytes;
use futures_util::StreamExt;
use iam_schema::OperationName;
use iam_schema::subject::{Plane, SERVICE_ERROR};
use iam_tests::campaign::resident_kib;
use iam_tests::deployment::nats_url;
use iam_tests::fuzz::{Asked, Mutator, hostile_payloads, request_payloads, wrong_answer};
use iam_tests::nats_server::free_port;
use iam_tests::{Deployment, Scene, fuzz};
use serde_json::json;

use super::full;
use crate::secrets::get;

/// How much more memory the process may hold after a soak than after its beginning, in KiB: the caches, the audit
/// queue and what an allocator keeps.
const GROWTH_KIB: u64 = 96 * 1024;
/// Requests that wait for their answer at a time.
const IN_FLIGHT: usize = 64;

/// A hostile request: an operation, or what is none, and bytes.
fn request(mutator: &mut Mutator, seeds: &[Vec<u8>]) -> (Plane, String, Vec<u8>) {
    let plane = if mutator.below(2) == 0 { Plane::Service } else { Plane::Api };
    let operation = match mutator.below(OperationName::ALL.len() + 2) {
        n if n < OperationName::ALL.len() => OperationName::ALL[n].to_string(),
        n => format!("no-such-operation-{n}"),
    };
    // Logins cost a hash each: a flood of them is another test.
    let hashes = ["login", "change-password", "reset-password", "create-user"];
    let operation = if hashes.contains(&operation.as_str()) && mutator.below(200) > 0 {
        "authorise".to_owned()
    } else {
        operation
    };
    (plane, operation, mutator.input(seeds))
}

#[test]
fn decoder_takes_a_million_payloads_and_none_is_read_wrong() {
    let count = if full() { 1_000_000 } else { 20_000 };
    let (seeds, mut mutator, begun) = (request_payloads(), Mutator::new(7), Instant::now());
    let before = resident_kib(std::process::id());
    for _ in 0..count {
        fuzz::request(&mutator.input(&seeds));
    }
    let (after, took) = (resident_kib(std::process::id()), begun.elapsed().as_secs_f32());
    println!("decoder: {count} payloads in {took:.1} s, {before} KiB before, {after} KiB after");
}

#[tokio::test]
async fn bombs_cost_no_more_than_their_bytes() {
    let world = fuzz::shared_world().await;
    for (name, payload) in hostile_payloads() {
        for plane in [Plane::Service, Plane::Api] {
            for operation in
                ["authorise", "authorise-many", "create-user", "authenticate", "no-such-operation"]
            {
                let begun = Instant::now();
                let (reply, error) = world.bytes(plane, operation, Default::default(), &payload).await;
                let asked = Asked { plane, operation, payload: &payload };
                let wrong = wrong_answer(&asked, &reply, error.map(|kind| kind.as_str()));
                assert_eq!(wrong, None, "{name} to {operation}");
                // A debug build on a busy machine needs some of it; what is quadratic needs minutes.
                assert!(
                    begun.elapsed() < Duration::from_secs(20),
                    "{name} to {operation}: {:?}",
                    begun.elapsed()
                );
            }
        }
    }
}

/// Sends these requests, so many at a time, and holds every answer against what may be answered; how many there were.
async fn soak(
    nats: &Client,
    prefix: &str,
    requests: impl Iterator<Item = (Plane, String, Vec<u8>)>,
) -> usize {
    let asked = futures_util::stream::iter(requests).map(|(plane, operation, payload)| async move {
        let subject = format!("{prefix}.v1.{}.{operation}", plane.as_str());
        let request = async_nats::Request::new().payload(Bytes::from(payload.clone()));
        let request = request.timeout(Some(Duration::from_secs(120)));
        let reply = nats.send_request(subject, request).await.unwrap_or_else(|e| panic!("{operation}: {e}"));
        let header = reply.headers.as_ref().and_then(|map| map.get(SERVICE_ERROR)).map(|kind| kind.as_str());
        let asked = Asked { plane, operation: &operation, payload: &payload };
        let wrong = wrong_answer(&asked, &reply.payload, header);
        assert_eq!(wrong, None, "{asked:?}");
    });
    asked.buffer_unordered(IN_FLIGHT).count().await
}

/// What a metric of dropped requests says.
async fn dropped(http: &str, reason: &str) -> u64 {
    let text = String::from_utf8(get(http, "/metrics").await).expect("text");
    let name = format!("iam_requests_dropped_total{{reason=\"{reason}\"}} ");
    text.lines().find_map(|line| line.strip_prefix(&name)?.parse().ok()).unwrap_or_default()
}

#[tokio::test(flavor = "multi_thread")]
async fn service_answers_hostile_requests_rightly_and_does_not_grow() {
    let Some(url) = nats_url() else { return };
    let http = format!("127.0.0.1:{}", free_port());
    let deployment = Deployment::start(&url, &["--http-addr", &http]).await;
    let (admin, key) = Scene::new("hostile", &deployment).bootstrap().await;
    let scene = Scene::new("hostile", &deployment);
    let nats = async_nats::connect(&url).await.expect("NATS");
    let prefix = deployment.prefix().to_owned();
    let (seeds, mut mutator) = (request_payloads(), Mutator::new(11));

    let count = if full() { 100_000 } else { 3_000 };
    // Buffers, caches and queues have their size after the first of it.
    let mut answered = soak(&nats, &prefix, (0..count / 5).map(|_| request(&mut mutator, &seeds))).await;
    let before = resident_kib(deployment.id());
    let begun = Instant::now();
    answered += soak(&nats, &prefix, (0..count * 4 / 5).map(|_| request(&mut mutator, &seeds))).await;
    let took = begun.elapsed().as_secs_f32();
    let bombs = hostile_payloads();
    let bombs = bombs.iter().flat_map(|(_, payload)| {
        let of = |plane, operation: &str| (plane, operation.to_owned(), payload.clone());
        [of(Plane::Service, "authorise-many"), of(Plane::Api, "authorise"), of(Plane::Service, "get-user")]
    });
    let bombs = soak(&nats, &prefix, bombs).await;
    unanswerable(&nats, &prefix, &http).await;
    headers_by_the_hundred(&nats, &prefix).await;

    assert!(scene.may(&admin, "users:admin", "default").await);
    let me = scene.ok(iam_tests::scene::As::Holder(&key), "whoami", json!({})).await;
    assert_eq!(me.text("user.id"), admin);
    let after = resident_kib(deployment.id());
    println!(
        "service: {answered} payloads in {took:.1} s, {bombs} bombs, 0 wrong answers; {before} KiB before, {after} KiB after"
    );
    assert!(after < before + GROWTH_KIB, "it grew from {before} to {after} KiB");
    assert!(!deployment.log().contains("iam.panic"), "it panicked");
}

/// Requests whose answer may go nowhere: dropped and counted, and nobody hears anything.
async fn unanswerable(nats: &Client, prefix: &str, http: &str) {
    let heard = [format!("{prefix}.v1.event.changed.x"), "$SRV.PINGX".to_owned(), format!("{prefix}.x.>")];
    let mut heard_of = Vec::new();
    for subject in heard {
        heard_of.push(nats.subscribe(subject).await.expect("a subscription"));
    }
    let own =
        [format!("{prefix}.v1.event.changed.x"), format!("{prefix}.x.y"), format!("{prefix}.v1.svc.login")];
    let mut rows: Vec<(&str, String)> = own.map(|subject| ("own-reply", subject)).to_vec();
    rows.extend(
        ["$SRV.PINGX", "$JS.API.STREAM.DELETE.X", "$SYS.x"]
            .map(|subject| ("system-reply", subject.to_owned())),
    );
    let mut expected = std::collections::BTreeMap::new();
    for (reason, reply) in &rows {
        let before = dropped(http, reason).await;
        expected.entry(*reason).or_insert(before);
        for plane in ["svc", "api"] {
            let subject = format!("{prefix}.v1.{plane}.bootstrap-status");
            nats.publish_with_reply(subject, reply.clone(), "{}".into()).await.expect("sent");
            *expected.get_mut(reason).expect("counted") += 1;
        }
    }
    let none = dropped(http, "no-reply").await;
    nats.publish(format!("{prefix}.v1.svc.bootstrap-status"), "{}".into()).await.expect("sent");
    expected.insert("no-reply", none + 1);
    // Deeper and shorter subjects are nobody's.
    for subject in
        [format!("{prefix}.v1.svc.login.x"), format!("{prefix}.v1.svc"), format!("{prefix}.v1.x.login")]
    {
        let error = nats.request(subject.clone(), "{}".into()).await.expect_err("nobody is there");
        assert_eq!(error.kind(), async_nats::RequestErrorKind::NoResponders, "{subject}");
    }
    for (reason, count) in expected {
        let until = Instant::now() + Duration::from_secs(60);
        while dropped(http, reason).await < count {
            assert!(Instant::now() < until, "{reason}: {} of {count}", dropped(http, reason).await);
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
        assert_eq!(dropped(http, reason).await, count, "{reason}");
    }
    for mut heard in heard_of {
        let message = tokio::time::timeout(Duration::from_millis(300), heard.next()).await;
        assert!(message.is_err(), "somebody was answered where nobody may be: {message:?}");
    }
}

/// Headers in such numbers, sizes and combinations as nobody needs.
async fn headers_by_the_hundred(nats: &Client, prefix: &str) {
    let mut many = HeaderMap::new();
    (0..400).for_each(|n| many.append(format!("X-{n}").as_str(), "x"));
    let mut twice = HeaderMap::new();
    (0..200).for_each(|_| twice.append("Authorization", "Bearer x"));
    let mut huge = HeaderMap::new();
    huge.append("Authorization", format!("Bearer {}", "x".repeat(200_000)).as_str());
    huge.append("Iam-Min", "user:a=1,".repeat(10_000).as_str());
    let mut expects = HeaderMap::new();
    for name in [
        "Nats-Expected-Stream",
        "Nats-Expected-Last-Sequence",
        "Nats-Msg-Id",
        "Nats-Rollup",
        "Nats-Service-Error",
    ] {
        expects.append(name, "1");
    }
    for (map, whoami) in
        [(many, "auth-failed"), (twice, "auth-failed"), (huge, "invalid-argument"), (expects, "auth-failed")]
    {
        for (operation, expected) in [("bootstrap-status", None), ("whoami", Some(whoami))] {
            let request = async_nats::Request::new().headers(map.clone()).payload("{}".into());
            let subject = format!("{prefix}.v1.api.{operation}");
            let reply = nats
                .send_request(subject, request.timeout(Some(Duration::from_secs(60))))
                .await
                .expect("an answer");
            let kind =
                reply.headers.as_ref().and_then(|map| map.get(SERVICE_ERROR)).map(|kind| kind.as_str());
            // Floors that cannot be read are refused whatever is asked.
            let refused = kind == Some("invalid-argument") && whoami == "invalid-argument";
            assert!(kind == expected || refused, "{operation}: {kind:?}");
        }
    }
}
