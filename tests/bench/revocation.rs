//! How long a credential that was ended is still let through: by gateways in processes of their own, beside the time
//! of one hop of the bus in the same run; then with events lost, a replica killed, the bus restarted.

use std::io::BufRead;
use std::process::{Command, Stdio};
use std::time::Duration;

use anyhow::{Context, Result, bail};
use futures_util::StreamExt;
use iam_client::api_keys::NewApiKey;
use iam_client::gateway::{Gateway, GatewayError, Setting};
use iam_client::{Client, Connection};
use iam_schema::subject::Plane;
use iam_schema::{KeyId, Secret, UserId};
use iam_tests::Deployment;
use iam_tests::nats_server::{NatsServer, taken_in};
use iam_tests::proxy::{Line, Proxy};
use rustix::time::{ClockId, clock_gettime};
use tokio::sync::mpsc;
use tokio::time::sleep;

use crate::dropping::Dropping;

/// Gateways, each in a process of its own.
const FOLLOWERS: usize = 8;
/// Rounds of what takes seconds each.
const LOSSY_ROUNDS: usize = 60;
const OUTAGES: usize = 5;
/// How often a follower asks anew where no event would tell it.
const POLL: Duration = Duration::from_millis(1);

/// Nanoseconds of a clock that all processes of a machine share.
fn now_ns() -> i64 {
    let now = clock_gettime(ClockId::Monotonic);
    now.tv_sec * 1_000_000_000 + now.tv_nsec
}

/// A gateway in a process of its own: takes keys by stdin, and tells on stdout when it began to refuse each.
pub async fn follow(url: &str, prefix: &str) -> Result<()> {
    let connection = Connection { subject_prefix: prefix.to_owned(), ..Connection::to([url]) };
    let gateway = Gateway::connect(&connection, Setting::default()).await?;
    gateway.ready(Duration::from_secs(60)).await?;
    let nats = async_nats::connect(url).await?;
    let mut hops = nats.subscribe(format!("{prefix}.hop")).await?;
    taken_in(&nats).await;
    tokio::spawn(async move {
        while hops.next().await.is_some() {
            println!("hop {}", now_ns());
        }
    });
    let (sender, mut keys) = mpsc::unbounded_channel();
    std::thread::spawn(move || {
        for line in std::io::stdin().lock().lines().map_while(Result::ok) {
            let _ = sender.send(line);
        }
    });
    println!("ready");
    while let Some(line) = keys.recv().await {
        let (how, key) = line.split_once(' ').context("how and which key")?;
        let key = Secret::new(key);
        while gateway.authenticate(&key).await.is_err() {
            sleep(Duration::from_millis(20)).await;
        }
        println!("have {}", now_ns());
        let mut let_through = now_ns();
        loop {
            let changed = gateway.changed();
            match gateway.authenticate(&key).await {
                Ok(_) => let_through = now_ns(),
                Err(GatewayError::Refused) => break,
                Err(_) => sleep(POLL).await,
            }
            match how {
                "poll" => sleep(POLL).await,
                _ => changed.await,
            }
        }
        println!("refused {} {let_through}", now_ns());
    }
    Ok(())
}

/// The followers, and what they say.
struct Followers {
    children: Vec<std::process::Child>,
    said: mpsc::UnboundedReceiver<String>,
}

impl Drop for Followers {
    fn drop(&mut self) {
        for child in &mut self.children {
            let _ = child.kill();
            let _ = child.wait();
        }
    }
}

impl Followers {
    async fn start(url: &str, prefix: &str) -> Result<Self> {
        let (sender, said) = mpsc::unbounded_channel();
        let mut children = Vec::new();
        for _ in 0..FOLLOWERS {
            let mut child = Command::new(std::env::current_exe()?)
                .args(["--follower", url, "--prefix", prefix])
                .stdin(Stdio::piped())
                .stdout(Stdio::piped())
                .spawn()?;
            let stdout = child.stdout.take().context("its stdout")?;
            let sender = sender.clone();
            std::thread::spawn(move || {
                for line in std::io::BufReader::new(stdout).lines().map_while(Result::ok) {
                    let _ = sender.send(line);
                }
            });
            children.push(child);
        }
        let mut followers = Self { children, said };
        followers.all("ready").await?;
        Ok(followers)
    }

    fn give(&mut self, how: &str, key: &Secret) -> Result<()> {
        use std::io::Write;
        for child in &mut self.children {
            writeln!(child.stdin.as_mut().context("its stdin")?, "{how} {}", key.expose())?;
        }
        Ok(())
    }

    /// Waits until each has said something of this kind; the numbers with it.
    async fn all(&mut self, kind: &str) -> Result<Vec<Vec<i64>>> {
        let mut heard = Vec::new();
        while heard.len() < FOLLOWERS {
            let line = tokio::time::timeout(Duration::from_secs(60), self.said.recv()).await;
            let line = line.context("a follower says nothing")?.context("all followers ended")?;
            let mut words = line.split(' ');
            match words.next() {
                Some(word) if word == kind => heard.push(words.filter_map(|n| n.parse().ok()).collect()),
                _ => bail!("{line:?} instead of {kind}"),
            }
        }
        Ok(heard)
    }
}

/// A deployment in which somebody gets and loses keys.
struct Scene {
    service: Client,
    user: UserId,
}

impl Scene {
    async fn set(deployment: &Deployment, url: &str) -> Result<Self> {
        let service = deployment.connect(url).await.on(Plane::Service).with_deadline(Duration::from_secs(10));
        let user = service.bootstrap().await?.user_id;
        Ok(Self { service, user })
    }

    async fn key(&self, round: usize) -> Result<(KeyId, Secret)> {
        let name = format!("k{round}");
        let key = NewApiKey { user: Some(self.user), name: &name, expires: None };
        let made = self.service.create_api_key(key, None).await?;
        Ok((made.record.id.parse()?, made.plaintext))
    }
}

/// Prints the figures.
pub async fn measure(rounds: usize) -> Result<()> {
    prompt(rounds).await?;
    events_lost().await?;
    replica_killed().await?;
    bus_restarted().await
}

async fn server() -> Result<NatsServer> {
    NatsServer::start("").await.context("IAM_TEST_NATS_SERVER must name a nats-server")
}

async fn prompt(rounds: usize) -> Result<()> {
    let server = server().await?;
    let deployment = Deployment::start(&server.url(), &[]).await;
    let scene = Scene::set(&deployment, &server.url()).await?;
    let mut followers = Followers::start(&server.url(), deployment.prefix()).await?;
    let hop = format!("{}.hop", deployment.prefix());
    let (mut hops, mut acknowledged, mut sent) = (Vec::new(), Vec::new(), Vec::new());
    for round in 0..rounds {
        let begun = now_ns();
        scene.service.nats().publish(hop.clone(), "".into()).await?;
        hops.push(last(&followers.all("hop").await?, 0) - begun);
        let (id, key) = scene.key(round).await?;
        followers.give("listen", &key)?;
        followers.all("have").await?;
        let begun = now_ns();
        scene.service.revoke_api_key(id, None).await?;
        let done = now_ns();
        let refused = followers.all("refused").await?;
        sent.push(last(&refused, 0) - begun);
        acknowledged.push(last(&refused, 0) - done);
    }
    println!("{rounds} revocations, until the last of {FOLLOWERS} processes refuses, in microseconds");
    let hop = row("one hop, to the last of them", hops);
    let after = row("after the revocation was acknowledged", acknowledged);
    row("after it was asked for", sent);
    println!("  ratio of the medians, after its acknowledgement: {:.2}", after / hop);
    Ok(())
}

async fn events_lost() -> Result<()> {
    let server = server().await?;
    let deployment = Deployment::start(&server.url(), &[]).await;
    let scene = Scene::set(&deployment, &server.url()).await?;
    let line = Dropping::to(server.address()).await?;
    let mut followers = Followers::start(&line.url(), deployment.prefix()).await?;
    line.lose_one_of(3);
    let mut late = Vec::new();
    for round in 0..LOSSY_ROUNDS {
        let (id, key) = scene.key(round).await?;
        followers.give("poll", &key)?;
        followers.all("have").await?;
        scene.service.revoke_api_key(id, None).await?;
        let done = now_ns();
        late.push(last(&followers.all("refused").await?, 1) - done);
    }
    println!(
        "{LOSSY_ROUNDS} revocations, one of three events lost ({} in all): let through for",
        line.lost()
    );
    row("after the acknowledgement (bound 2 s)", late);
    Ok(())
}

async fn replica_killed() -> Result<()> {
    let server = server().await?;
    let line = Proxy::to(server.address()).await;
    let mut deployment = Deployment::start_over(&line.url(), &server.url(), &[]).await;
    let scene = Scene::set(&deployment, &server.url()).await?;
    let mut followers = Followers::start(&server.url(), deployment.prefix()).await?;
    let (mut late, mut round) = (Vec::new(), 0);
    while late.len() < OUTAGES {
        round += 1;
        let (id, key) = scene.key(round).await?;
        followers.give("poll", &key)?;
        followers.all("have").await?;
        // Long enough for the change to be stored, and for the event to be on its way.
        let delay = Duration::from_millis(300);
        line.set(Line { delay, ..Line::default() });
        let service = scene.service.clone();
        let revoking = tokio::spawn(async move { service.revoke_api_key(id, None).await });
        sleep(delay + delay / 2).await;
        line.cut_off();
        deployment.kill();
        let killed = now_ns();
        let _ = revoking.await;
        line.set(Line::default());
        deployment.start_again(&[]).await;
        let stored = scene.service.authenticate(&key).await.is_err();
        if !stored {
            scene.service.revoke_api_key(id, None).await?;
        }
        let refused = followers.all("refused").await?;
        if stored {
            late.push(last(&refused, 1) - killed);
        }
    }
    println!("{OUTAGES} revocations, the replica killed between storing it and telling it: let through for");
    row("after the kill (bound 6 s)", late);
    Ok(())
}

async fn bus_restarted() -> Result<()> {
    let mut server = server().await?;
    let deployment = Deployment::start(&server.url(), &[]).await;
    let scene = Scene::set(&deployment, &server.url()).await?;
    let line = Dropping::to(server.address()).await?;
    let mut followers = Followers::start(&line.url(), deployment.prefix()).await?;
    let mut late = Vec::new();
    for round in 0..OUTAGES {
        let (id, key) = scene.key(round).await?;
        followers.give("poll", &key)?;
        followers.all("have").await?;
        line.lose_one_of(1);
        scene.service.revoke_api_key(id, None).await?;
        let done = now_ns();
        server.kill();
        sleep(Duration::from_millis(500)).await;
        line.lose_one_of(0);
        server.start_again().await;
        late.push(last(&followers.all("refused").await?, 1) - done);
        while scene.service.acting_as(scene.user).whoami().await.is_err() {
            sleep(Duration::from_millis(50)).await;
        }
    }
    println!("{OUTAGES} revocations, the event lost and the bus restarted at once: let through for");
    row("after the acknowledgement (bound 6 s)", late);
    Ok(())
}

/// The latest of all followers.
fn last(said: &[Vec<i64>], place: usize) -> i64 {
    said.iter().filter_map(|numbers| numbers.get(place)).copied().max().unwrap_or(i64::MAX)
}

/// Prints a row in microseconds; the median.
fn row(name: &str, mut times_ns: Vec<i64>) -> f64 {
    times_ns.sort_unstable();
    let us = |ns: Option<&i64>| ns.map_or(f64::NAN, |ns| *ns as f64 / 1e3);
    let at = |share: usize| us(times_ns.get(times_ns.len() * share / 100));
    println!("  {name:<40} p50 {:>10.0} p99 {:>10.0} max {:>10.0}", at(50), at(99), us(times_ns.last()));
    at(50)
}
