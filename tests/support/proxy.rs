//! A bad line: a TCP proxy that delays, throttles, stalls and cuts what passes through it.
//!
//! A deployment started over [`Proxy::url`] reaches NATS by that line; [`Proxy::set`] and [`Proxy::cut`] spoil it.

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{mpsc, watch};
use tokio::task::JoinHandle;
use tokio::time::Instant;

/// Bytes read at a time.
const CHUNK: usize = 16 * 1024;
/// Chunks on their way. A sender that is faster has to wait, as on a real line.
const ON_THE_WAY: usize = 64;

/// How the line is, for all that passes from now on.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Line {
    /// How long each byte is on its way, in each direction.
    pub delay: Duration,
    /// The most bytes a second, in each direction of each connection.
    pub bytes_per_second: Option<u32>,
    /// Nothing passes. Connections stand, and what is sent waits.
    pub stalled: bool,
    /// New connections are closed at once.
    pub refusing: bool,
}

/// The proxy. Dropping it closes all that passes through it.
#[derive(Debug)]
pub struct Proxy {
    address: SocketAddr,
    line: watch::Sender<Line>,
    /// Counts the cuts; connections end when it moves.
    cuts: watch::Sender<u64>,
    connections: Arc<AtomicU64>,
    accepting: JoinHandle<()>,
}

impl Proxy {
    /// A good line to a server.
    ///
    /// # Panics
    /// When there is no port to listen on.
    pub async fn to(server: SocketAddr) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
        let address = listener.local_addr().expect("a port");
        let (line, lines) = watch::channel(Line::default());
        let (cuts, cut) = watch::channel(0);
        let connections = Arc::new(AtomicU64::new(0));
        let counted = connections.clone();
        let accepting = tokio::spawn(async move {
            while let Ok((client, _)) = listener.accept().await {
                if !lines.borrow().refusing {
                    counted.fetch_add(1, Ordering::SeqCst);
                    tokio::spawn(carry(client, server, lines.clone(), cut.clone()));
                }
            }
        });
        Self { address, line, cuts, connections, accepting }
    }

    /// Where to connect instead.
    pub fn url(&self) -> String {
        format!("nats://{}", self.address)
    }

    /// Makes the line so.
    pub fn set(&self, line: Line) {
        self.line.send_replace(line);
    }

    /// Breaks every connection; what is on its way is lost.
    pub fn cut(&self) {
        self.cuts.send_modify(|cuts| *cuts += 1);
    }

    /// Breaks every connection, and lets nobody connect until the line is set anew.
    pub fn cut_off(&self) {
        self.set(Line { refusing: true, ..Line::default() });
        self.cut();
    }

    /// How many connections were made so far.
    pub fn connections(&self) -> u64 {
        self.connections.load(Ordering::SeqCst)
    }
}

impl Drop for Proxy {
    fn drop(&mut self) {
        self.accepting.abort();
        self.cut();
    }
}

async fn carry(
    client: TcpStream,
    server: SocketAddr,
    line: watch::Receiver<Line>,
    mut cut: watch::Receiver<u64>,
) {
    cut.mark_unchanged();
    // Nobody to talk to: the client sees its connection closed.
    let Ok(server) = TcpStream::connect(server).await else { return };
    let _ = (client.set_nodelay(true), server.set_nodelay(true));
    let (from_client, to_client) = client.into_split();
    let (from_server, to_server) = server.into_split();
    tokio::select! {
        () = one_way(from_client, to_server, line.clone()) => {}
        () = one_way(from_server, to_client, line) => {}
        _ = cut.changed() => {}
    }
}

async fn one_way(
    mut from: impl AsyncReadExt + Unpin,
    mut to: impl AsyncWriteExt + Unpin,
    mut line: watch::Receiver<Line>,
) {
    let (sender, mut on_the_way) = mpsc::channel::<(Instant, Vec<u8>)>(ON_THE_WAY);
    let read = async move {
        loop {
            let mut chunk = vec![0; CHUNK];
            match from.read(&mut chunk).await {
                Ok(0) | Err(_) => return,
                Ok(len) => chunk.truncate(len),
            }
            if sender.send((Instant::now(), chunk)).await.is_err() {
                return;
            }
        }
    };
    let write = async move {
        while let Some((sent, chunk)) = on_the_way.recv().await {
            let delay = line.borrow().delay;
            tokio::time::sleep_until(sent + delay).await;
            if line.wait_for(|line| !line.stalled).await.is_err() || to.write_all(&chunk).await.is_err() {
                return;
            }
            let rate = line.borrow().bytes_per_second;
            if let Some(rate) = rate {
                let takes = chunk.len() as f64 / f64::from(rate.max(1));
                tokio::time::sleep(Duration::from_secs_f64(takes)).await;
            }
        }
    };
    // What was read before the end still arrives.
    tokio::join!(read, write);
}
