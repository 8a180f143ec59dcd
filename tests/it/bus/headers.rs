//! Header blocks that the client library cannot read, from whoever may publish to the API plane.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use iam_schema::subject::Plane;
use iam_tests::Deployment;
use iam_tests::facts::Facts;
use iam_tests::nats_server::NatsServer;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

use super::{HEALS, HEALTH, logged};

/// What the server passes on and the client library gives its connection up for.
const BROKEN: [&[u8]; 5] = [
    b"NATS/1.0\r\nno colon\r\n\r\n",
    b"NATS/1.0\r\na name: value\r\n\r\n",
    b"NATS/1.0\r\nA: \xff\xfe\r\n\r\n",
    b"NATS/1.0 abc\r\n\r\n",
    b"HTTP/1.1 200\r\n\r\n",
];

/// A publisher that writes what it likes.
async fn raw(server: &NatsServer) -> TcpStream {
    let mut stream = TcpStream::connect(server.address()).await.expect("NATS");
    let mut info = [0; 4096];
    let _ = stream.read(&mut info).await.expect("a greeting");
    let hello = b"CONNECT {\"verbose\":false,\"headers\":true,\"no_responders\":false}\r\n";
    stream.write_all(hello).await.expect("sent");
    stream
}

async fn publish(stream: &mut TcpStream, subject: &str, block: &[u8]) {
    let payload = b"{}";
    let head = format!("HPUB {subject} _INBOX.nobody {} {}\r\n", block.len(), block.len() + payload.len());
    let frame = [head.as_bytes(), block, payload, b"\r\n"].concat();
    stream.write_all(&frame).await.expect("sent");
}

#[tokio::test(flavor = "multi_thread")]
async fn broken_headers_on_the_api_plane_take_nothing_from_the_service_plane() {
    let Some(server) = NatsServer::start("").await else { return };
    let deployment = Deployment::start(&server.url(), &HEALTH).await;
    let mut facts = Facts::begin(deployment.client()).await;
    let stop = Arc::new(AtomicBool::new(false));
    let (client, stopping) = (deployment.client().clone().on(Plane::Service), stop.clone());
    let asking = tokio::spawn(async move {
        let mut answered = 0;
        while !stopping.load(Ordering::SeqCst) {
            client.bootstrap_status().await.expect("every request on the service plane is answered");
            answered += 1;
        }
        answered
    });
    let mut attacker = raw(&server).await;
    let subject = format!("{}.v1.api.whoami", deployment.prefix());
    for round in 0..400 {
        publish(&mut attacker, &subject, BROKEN[round % BROKEN.len()]).await;
        tokio::time::sleep(Duration::from_millis(5)).await;
        if round % 50 == 0 {
            facts.change().await.expect("a change");
            assert_eq!(deployment.problem().await, None);
        }
    }
    stop.store(true, Ordering::SeqCst);
    let answered = asking.await.expect("no request was lost");
    assert!(answered > 100, "{answered}");
    // The API plane comes back as soon as it is left alone.
    let api = deployment.client().clone().with_deadline(Duration::from_secs(1));
    let deadline = tokio::time::Instant::now() + HEALS;
    while api.bootstrap_status().await.is_err() {
        assert!(tokio::time::Instant::now() < deadline, "{}", deployment.log());
    }
    facts.check().await;
    assert!(logged(&deployment, "connection to NATS lost", "\"api\""), "{}", deployment.log());
    assert!(!logged(&deployment, "connection to NATS lost", "\"service\""), "{}", deployment.log());
    let (_, metrics) = deployment.get("/metrics").await;
    let reconnects = metrics.lines().find(|line| line.contains("reconnects") && line.contains("\"api\""));
    println!("{answered} answered on the service plane; {reconnects:?}");
    assert!(reconnects.is_some(), "{metrics}");
    assert!(!metrics.lines().any(|line| line.contains("reconnects") && line.contains("\"service\"")));
}
