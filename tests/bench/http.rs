//! Requests through `iam-gateway`, beside routes that protect nothing, and what very many idle sockets take.

use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use axum::Router;
use axum::routing::get;
use iam_client::Connection;
use iam_client::gateway::layer::Protect;
use iam_client::gateway::{Gateway, Question, Setting};
use iam_tests::nats_server::NatsServer;
use iam_tests::{Deployment, HttpGateway};
use rand::seq::SliceRandom;
use serde_json::json;
use tokio::io::{AsyncBufReadExt, AsyncReadExt, AsyncWriteExt, BufReader};
use tokio::net::TcpStream;

/// Connections of the load, each with one request at a time.
const CONNECTIONS: usize = 64;
const ROUNDS: usize = 7;
const SPAN: Duration = Duration::from_secs(2);
const SOCKETS: usize = 10_000;

/// The same route of axum twice, with protection and without, in a process of its own; tells where on stdout.
pub async fn serve_routes(url: &str, prefix: &str) -> Result<()> {
    let connection = Connection { subject_prefix: prefix.to_owned(), ..Connection::to([url]) };
    let gateway = Gateway::connect(&connection, Setting::default()).await?;
    gateway.ready(Duration::from_secs(60)).await?;
    let question = Question::within("graph:read", &"default".parse().map_err(anyhow::Error::msg)?);
    let protected =
        Router::new().route("/protected", get(|| async {})).layer(Protect::new(gateway, question));
    let routes = Router::new().route("/open", get(|| async {})).merge(protected);
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await?;
    println!("{}", listener.local_addr()?);
    Ok(axum::serve(listener, routes).await?)
}

struct Stopping(Child);

impl Drop for Stopping {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// Prints the figures.
pub async fn measure() -> Result<()> {
    let server = NatsServer::start("").await.context("IAM_TEST_NATS_SERVER must name a nats-server")?;
    let deployment = Deployment::start(&server.url(), &[]).await;
    let gateway = HttpGateway::start(&server.url(), deployment.prefix(), &[]).await;
    let seeded = gateway.post("/api/v1/auth/bootstrap", None, &json!({})).await.json();
    let key = seeded["bootstrap_admin_api_key"].as_str().context("a key")?.to_owned();
    let mut routes = Command::new(std::env::current_exe()?)
        .args(["--routes", &server.url(), "--prefix", deployment.prefix()])
        .stdout(Stdio::piped())
        .spawn()?;
    let mut address = String::new();
    let stdout = routes.stdout.take().context("its stdout")?;
    std::io::BufRead::read_line(&mut std::io::BufReader::new(stdout), &mut address)?;
    let _routes = Stopping(routes);
    let routes = address.trim();

    let get = |path: &str| {
        format!("GET {path} HTTP/1.1\r\nHost: iam\r\nAuthorization: Bearer {key}\r\n\r\n").into_bytes()
    };
    let verify = get("/api/v1/auth/verify?capability=graph:read&workspace=default");
    let loads = [
        ("axum, open", routes, get("/open"), 200),
        ("axum, open again", routes, get("/open"), 200),
        ("axum, protected", routes, get("/protected"), 200),
        ("iam-gateway, nothing there", gateway.address(), get("/nothing"), 404),
        ("iam-gateway, verify", gateway.address(), verify, 204),
    ];
    let mut rates = vec![Vec::new(); loads.len()];
    for round in 0..=ROUNDS {
        let mut order: Vec<usize> = (0..loads.len()).collect();
        order.shuffle(&mut rand::rng());
        for index in order {
            let (_, address, request, status) = &loads[index];
            let rate = rate(address, request, *status).await?;
            // The first round warms everything up.
            if round > 0 {
                rates[index].push(rate);
            }
        }
    }
    println!("{CONNECTIONS} connections, {ROUNDS} rounds of {SPAN:?}");
    for ((name, ..), rates) in loads.iter().zip(&rates) {
        println!("  {name:<28} {:>8.0} requests/s", median(rates.clone()));
    }
    let ratio = |a: usize, b: usize| median(rates[a].iter().zip(&rates[b]).map(|(a, b)| a / b).collect());
    println!("median of paired ratios");
    println!("  control, open / open            {:.3}", ratio(1, 0));
    println!("  protected / open                {:.3}", ratio(2, 0));
    println!("  verify / nothing there          {:.3}", ratio(4, 3));
    println!("  verify / open                   {:.3}", ratio(4, 0));
    idle_sockets(&gateway, &key).await
}

/// Requests a second, answered with this status.
async fn rate(address: &str, request: &[u8], status: u16) -> Result<f64> {
    let (stop, count) = (Arc::new(AtomicBool::new(false)), Arc::new(AtomicU64::new(0)));
    let mut tasks = Vec::new();
    for _ in 0..CONNECTIONS {
        let stream = TcpStream::connect(address).await?;
        stream.set_nodelay(true)?;
        let (stop, count, request) = (stop.clone(), count.clone(), request.to_vec());
        tasks.push(tokio::spawn(async move {
            let mut stream = BufReader::new(stream);
            while !stop.load(Ordering::Relaxed) {
                stream.write_all(&request).await?;
                let answered = answer(&mut stream).await?;
                if answered != status {
                    bail!("{answered} instead of {status}");
                }
                count.fetch_add(1, Ordering::Relaxed);
            }
            anyhow::Ok(())
        }));
    }
    let begun = Instant::now();
    tokio::time::sleep(SPAN).await;
    let (done, took) = (count.load(Ordering::Relaxed), begun.elapsed());
    stop.store(true, Ordering::Relaxed);
    for task in tasks {
        task.await??;
    }
    Ok(done as f64 / took.as_secs_f64())
}

/// Reads an answer; its status.
async fn answer(stream: &mut BufReader<TcpStream>) -> Result<u16> {
    let (mut status, mut length) = (None, 0);
    let mut line = String::new();
    loop {
        line.clear();
        stream.read_line(&mut line).await?;
        let text = line.trim_end();
        if text.is_empty() {
            break;
        }
        match text.split_once(": ") {
            Some((name, value)) if name.eq_ignore_ascii_case("content-length") => length = value.parse()?,
            Some(_) => {}
            None => status = text.split(' ').nth(1).and_then(|status| status.parse().ok()),
        }
    }
    let mut body = vec![0; length];
    stream.read_exact(&mut body).await?;
    status.context("a status")
}

/// Opens very many sockets that show a credential and then do nothing.
async fn idle_sockets(gateway: &HttpGateway, key: &str) -> Result<()> {
    let before = resident_kib(gateway.id())?;
    let begun = Instant::now();
    let mut sockets = Vec::with_capacity(SOCKETS);
    for _ in 0..SOCKETS {
        let mut stream = TcpStream::connect(gateway.address()).await?;
        let upgrade = "GET /api/v1/socket HTTP/1.1\r\nHost: iam\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\
                       Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n";
        let shown = json!({ "type": "auth", "token": key }).to_string();
        let mut frame = vec![0x81, 0x80 | u8::try_from(shown.len())?, 0, 0, 0, 0];
        frame.extend(shown.as_bytes());
        stream.write_all(upgrade.as_bytes()).await?;
        stream.write_all(&frame).await?;
        let mut reply = Vec::new();
        while !reply.windows(7).any(|part| part == b"auth-ok") {
            if stream.read_buf(&mut reply).await? == 0 {
                bail!("closed: {}", String::from_utf8_lossy(&reply));
            }
        }
        sockets.push(stream);
    }
    let after = resident_kib(gateway.id())?;
    println!(
        "{SOCKETS} sockets that show a credential and wait: {before} KiB before, {after} KiB with them,"
    );
    println!("  {:.1} KiB each, opened in {:?}", (after - before) as f64 / SOCKETS as f64, begun.elapsed());
    let begun = Instant::now();
    let (status, _) = gateway.iam(key, "whoami", json!({})).await;
    println!("  a request beside them: {status} after {:?}", begun.elapsed());
    Ok(())
}

fn resident_kib(id: u32) -> Result<u64> {
    let status = std::fs::read_to_string(format!("/proc/{id}/status"))?;
    let line = status.lines().find(|line| line.starts_with("VmRSS:")).context("its size")?;
    Ok(line.split_whitespace().nth(1).context("a number")?.parse()?)
}

fn median(mut values: Vec<f64>) -> f64 {
    values.sort_by(f64::total_cmp);
    values.get(values.len() / 2).copied().unwrap_or(f64::NAN)
}
