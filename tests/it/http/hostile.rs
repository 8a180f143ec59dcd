//! Clients that mean harm: slow, half open, too large, ambiguous, and many.

use std::time::{Duration, Instant};

use futures_util::SinkExt;
use iam_tests::{http, websocket::Socket};
use serde_json::json;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio_tungstenite::tungstenite::Message;

use super::{Front, PASSWORD, resident};

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn request_that_two_readers_could_end_in_two_places_is_refused_or_ends_its_connection() {
    let Some(front) = Front::start(&[]).await else { return };
    let head = "POST /api/v1/auth/bootstrap-status HTTP/1.1\r\nHost: iam\r\n";
    let smuggled = "GET /smuggled HTTP/1.1\r\nHost: iam\r\nConnection: close\r\n\r\n";
    for (name, request) in [
        ("length twice", format!("{head}Content-Length: 0\r\nContent-Length: 2\r\n\r\n{{}}{smuggled}")),
        (
            "length and chunks",
            format!("{head}Content-Length: 5\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n{smuggled}"),
        ),
        (
            "chunks that are not last",
            format!("{head}Transfer-Encoding: chunked, identity\r\n\r\n0\r\n\r\n{smuggled}"),
        ),
        ("chunks in other words", format!("{head}Transfer-Encoding: xchunked\r\n\r\n0\r\n\r\n{smuggled}")),
        ("space before the colon", format!("{head}Content-Length : 2\r\n\r\n{{}}{smuggled}")),
        ("folded header", format!("{head}X: a\r\n b\r\nContent-Length: 0\r\n\r\n{smuggled}")),
        ("signed length", format!("{head}Content-Length: +2\r\n\r\n{{}}{smuggled}")),
        ("length too large", format!("{head}Content-Length: 99999999999999999999\r\n\r\n{smuggled}")),
        ("no version", "POST /api/v1/iam\r\n\r\n".to_owned()),
    ] {
        let answers = http::exchange(front.gateway.address(), request.as_bytes()).await;
        let seen: Vec<&str> = answers.lines().filter(|line| line.starts_with("HTTP/1.1")).collect();
        println!("{name}: {seen:?}");
        let refused = seen.first().is_none_or(|line| line.starts_with("HTTP/1.1 400"));
        assert!(refused || seen.len() == 1, "{name}: {answers}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn head_and_body_that_are_too_large_are_refused() {
    let Some(front) = Front::start(&[]).await else { return };
    let address = front.gateway.address();
    let many = "X-Many: 1\r\n".repeat(200);
    let long = format!("X-Long: {}\r\n", "a".repeat(100_000));
    for headers in [many, long] {
        let reply = http::request(address, "POST /api/v1/auth/bootstrap-status", &headers, "").await;
        assert_eq!(reply.status, 431);
    }
    let uri = http::request(address, &format!("GET /{}", "a".repeat(70_000)), "", "").await;
    assert!([414, 431].contains(&uri.status), "{}", uri.status);
    let body = format!(r#"{{"operation":"whoami","x":"{}"}}"#, "a".repeat(300_000));
    let root = format!("Authorization: Bearer {}\r\n", front.root);
    let unknown = r#"{"operation":"whoami"}"#.to_owned() + &" ".repeat(20_000);
    for (headers, body) in [("", &body), (root.as_str(), &body), ("", &unknown)] {
        let reply = http::request(address, "POST /api/v1/iam", headers, body).await;
        assert_eq!((reply.status, reply.json()), (413, json!({ "error": "request too large" })));
    }
    let endless = "POST /api/v1/iam HTTP/1.1\r\nHost: iam\r\nTransfer-Encoding: chunked\r\n\r\n".to_owned()
        + &format!("10000\r\n{}\r\n", "a".repeat(65_536)).repeat(8);
    let reply = http::Reply::read(&http::exchange(address, endless.as_bytes()).await);
    assert_eq!(reply.status, 413);
    // The answer to all of it: the next one is served.
    assert_eq!(front.gateway.iam(&front.root, "whoami", json!({})).await.0, 200);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn client_that_stops_half_way_is_given_up() {
    let Some(front) = Front::start(&[]).await else { return };
    let opened = async |bytes: &'static str| {
        let mut stream = TcpStream::connect(front.gateway.address()).await.expect("a listener");
        stream.write_all(bytes.as_bytes()).await.expect("sent");
        let begun = Instant::now();
        let mut reply = String::new();
        let read = stream.read_to_string(&mut reply);
        let ended = tokio::time::timeout(Duration::from_secs(50), read).await;
        (ended.is_ok(), reply, begun.elapsed())
    };
    let (half_head, half_body, silent) = tokio::join!(
        opened("POST /api/v1/iam HTTP/1.1\r\nHost: i"),
        opened("POST /api/v1/iam HTTP/1.1\r\nHost: iam\r\nContent-Length: 100\r\n\r\n{"),
        opened(""),
    );
    for (name, (ended, reply, after)) in
        [("half a head", &half_head), ("half a body", &half_body), ("nothing", &silent)]
    {
        println!("{name}: ended {ended} after {after:?}: {:?}", reply.lines().next());
        assert!(ended, "{name} is waited for: {reply}");
    }
    assert!(half_body.1.starts_with("HTTP/1.1 408"), "{}", half_body.1);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn socket_of_nobody_can_make_us_hold_little() {
    let Some(front) = Front::start(&[]).await else { return };
    let before = resident(front.gateway.id());
    let mut sockets = Vec::new();
    for _ in 0..50 {
        let mut socket = Socket::open(front.gateway.address()).await;
        // A first frame of 1 MiB: it is cut off on its way.
        let _ = socket.0.send(Message::text("a".repeat(1024 * 1024 - 16))).await;
        sockets.push(socket);
    }
    let most = resident(front.gateway.id());
    for socket in &mut sockets {
        assert!(socket.next().await.is_none(), "it is closed");
    }
    println!("50 first frames of 1 MiB: {before} KiB before, {most} KiB with them");
    assert!(most.saturating_sub(before) < 20 * 1024, "{before} KiB became {most} KiB");
    // Whoever is known may send such a frame.
    let mut socket = Socket::open_as(front.gateway.address(), &front.root).await;
    let request = json!({ "operation": "whoami", "name": "a".repeat(200 * 1024) });
    assert_eq!(socket.iam("1", request).await["response"]["user"]["username"], "admin");
    let _ = socket.0.send(Message::text("a".repeat(2 * 1024 * 1024))).await;
    assert!(socket.next().await.is_none(), "a frame over the limit ends the socket");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn slow_bodies_keep_nobody_out_and_requests_beyond_the_room_are_told_when_to_come_again() {
    let Some(front) = Front::start(&["--max-requests", "1"]).await else { return };
    let address = front.gateway.address();
    front.user("default", "ada", &["reader"]).await;
    let mut slow = Vec::new();
    for _ in 0..20 {
        let mut stream = TcpStream::connect(address).await.expect("a listener");
        let half = "POST /api/v1/iam HTTP/1.1\r\nHost: iam\r\nContent-Length: 100\r\n\r\n{";
        stream.write_all(half.as_bytes()).await.expect("sent");
        slow.push(stream);
    }
    assert_eq!(http::get(address, "/.well-known/jwks.json").await.status, 200);
    // A login takes its while, and the only place.
    let login = json!({ "username": "ada", "password": PASSWORD });
    let logins = async {
        for _ in 0..3 {
            front.gateway.post("/api/v1/auth/login", None, &login).await;
        }
    };
    let turned_away = async {
        loop {
            let reply = http::get(address, "/.well-known/jwks.json").await;
            if reply.status == 503 {
                break reply;
            }
        }
    };
    let reply = tokio::select! {
        ((), reply) = async { tokio::join!(logins, turned_away) } => reply,
        () = tokio::time::sleep(Duration::from_secs(60)) => panic!("nobody is turned away"),
    };
    assert_eq!(reply.header("retry-after"), Some("1"));
    assert_eq!(reply.json(), json!({ "error": "too many requests at this moment" }));
    assert_eq!(http::get(address, "/.well-known/jwks.json").await.status, 200);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn body_that_is_large_when_it_is_read_is_not_held() {
    let Some(front) = Front::start(&[]).await else { return };
    let before = resident(front.gateway.id());
    // Some 36,000 small maps.
    let swollen = format!(r#"{{"operation":"whoami","x":[{}0]}}"#, r#"{"":0},"#.repeat(36_000));
    let root = format!("Authorization: Bearer {}\r\n", front.root);
    let asked = (0..20).map(|_| http::request(front.gateway.address(), "POST /api/v1/iam", &root, &swollen));
    let replies = futures_util::future::join_all(asked).await;
    let after = resident(front.gateway.id());
    println!("20 bodies of {} KiB at once: {before} KiB before, {after} KiB after", swollen.len() / 1024);
    assert!(replies.iter().all(|reply| [200, 400].contains(&reply.status)), "{:?}", replies[0]);
    assert!(after < before + 120 * 1024, "{before} KiB became {after} KiB");
}
