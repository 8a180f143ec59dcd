//! A line to a NATS server on which change events get lost.

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use anyhow::{Context, Result};
use tokio::io::{AsyncBufReadExt, AsyncReadExt, AsyncWriteExt, BufReader, copy};
use tokio::net::{TcpListener, TcpStream};
use tokio::task::JoinHandle;

/// The line. Dropping it takes no new connections; those that stand go on.
#[derive(Debug)]
pub struct Dropping {
    address: SocketAddr,
    /// One of so many events is lost; 0 is none.
    one_of: Arc<AtomicU64>,
    lost: Arc<AtomicU64>,
    accepting: JoinHandle<()>,
}

impl Drop for Dropping {
    fn drop(&mut self) {
        self.accepting.abort();
    }
}

impl Dropping {
    /// A line on which nothing is lost yet.
    pub async fn to(server: SocketAddr) -> Result<Self> {
        let listener = TcpListener::bind("127.0.0.1:0").await?;
        let address = listener.local_addr()?;
        let (one_of, lost) = (Arc::new(AtomicU64::new(0)), Arc::new(AtomicU64::new(0)));
        let (rate, counted) = (one_of.clone(), lost.clone());
        let accepting = tokio::spawn(async move {
            while let Ok((client, _)) = listener.accept().await {
                let (rate, counted) = (rate.clone(), counted.clone());
                tokio::spawn(async move { carry(client, server, &rate, &counted).await });
            }
        });
        Ok(Self { address, one_of, lost, accepting })
    }

    /// Where to connect instead.
    pub fn url(&self) -> String {
        format!("nats://{}", self.address)
    }

    /// From now on one of so many change events is lost.
    pub fn lose_one_of(&self, events: u64) {
        self.one_of.store(events, Ordering::Relaxed);
    }

    /// How many were lost.
    pub fn lost(&self) -> u64 {
        self.lost.load(Ordering::Relaxed)
    }
}

async fn carry(client: TcpStream, server: SocketAddr, one_of: &AtomicU64, lost: &AtomicU64) -> Result<()> {
    let server = TcpStream::connect(server).await?;
    let _ = (client.set_nodelay(true), server.set_nodelay(true));
    let (mut from_client, to_client) = client.into_split();
    let (from_server, mut to_server) = server.into_split();
    tokio::select! {
        done = copy(&mut from_client, &mut to_server) => done.map(drop).context("from the client"),
        done = from_server_to_client(BufReader::new(from_server), to_client, one_of, lost) => done,
    }
}

/// Reads what the server says, line by line and payload by payload, and leaves events out.
async fn from_server_to_client(
    mut from: impl AsyncBufReadExt + Unpin,
    mut to: impl AsyncWriteExt + Unpin,
    one_of: &AtomicU64,
    lost: &AtomicU64,
) -> Result<()> {
    let mut seen = 0;
    loop {
        let mut message = Vec::new();
        if from.read_until(b'\n', &mut message).await? == 0 {
            return Ok(());
        }
        let line = String::from_utf8_lossy(&message).into_owned();
        let words: Vec<&str> = line.split_whitespace().collect();
        let mut keep = true;
        if let [kind @ ("MSG" | "HMSG" | "INFO"), subject, .., size] = words.as_slice()
            && *kind != "INFO"
        {
            let size: usize = size.parse()?;
            let begun = message.len();
            message.resize(begun + size + 2, 0);
            from.read_exact(message.get_mut(begun..).context("the payload")?).await?;
            let rate = one_of.load(Ordering::Relaxed);
            if subject.ends_with(".event.changed") && rate > 0 {
                seen += 1;
                keep = seen % rate != 0;
            }
        }
        if keep {
            to.write_all(&message).await?;
        } else {
            lost.fetch_add(1, Ordering::Relaxed);
        }
    }
}
