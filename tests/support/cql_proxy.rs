//! A line to Cassandra that breaks at a chosen write, or asks the server to trace what passes.
//!
//! It reads the frames of the native protocol (version 4: CQL BINARY PROTOCOL v4, sections 2 and 4) as far as it must
//! to know which prepared statement a frame runs, and counts those that write.

use std::collections::{HashMap, HashSet};
use std::net::SocketAddr;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::tcp::{OwnedReadHalf, OwnedWriteHalf};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::watch;
use tokio::task::JoinHandle;
use uuid::Uuid;

const HEADER: usize = 9;
const RESULT: u8 = 0x08;
const PREPARE: u8 = 0x09;
const EXECUTE: u8 = 0x0A;
/// Asks for a trace, and says that the answer's body begins with the id of one.
const TRACING: u8 = 0x02;
/// The kind of a result that answers a PREPARE.
const PREPARED: i32 = 4;

/// Where a write is cut off.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Point {
    /// It never gets to a node.
    Unsent,
    /// It gets to a node, and the connection is closed at once.
    Sent,
    /// It is carried out, and nobody hears of it.
    Unanswered,
}

impl Point {
    pub const ALL: [Point; 3] = [Point::Unsent, Point::Sent, Point::Unanswered];
}

/// What becomes of whoever's write is cut off.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Then {
    /// Its connection breaks, and it can make another.
    Reconnects,
    /// It never reaches the cluster again, as if it had died.
    Dies,
}

#[derive(Debug, Default)]
struct State {
    /// By the ids that the server gave them.
    statements: HashMap<Vec<u8>, String>,
    /// Writes since the cut was set, in order.
    writes: Vec<String>,
    cut: Option<(usize, Point, Then)>,
    dead: bool,
    /// Traces that the server made, where it is asked to.
    traces: Option<Vec<Uuid>>,
}

/// The line. Dropping it closes all that passes over it.
#[derive(Debug)]
pub struct CqlProxy {
    address: SocketAddr,
    state: Arc<Mutex<State>>,
    accepting: JoinHandle<()>,
}

fn lock(state: &Mutex<State>) -> MutexGuard<'_, State> {
    state.lock().unwrap_or_else(PoisonError::into_inner)
}

impl CqlProxy {
    /// A line to a node.
    ///
    /// # Panics
    /// When there is no port to listen on.
    pub async fn to(node: &str) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
        let address = listener.local_addr().expect("a port");
        let state = Arc::new(Mutex::new(State::default()));
        let (node, shared) = (node.to_owned(), state.clone());
        let accepting = tokio::spawn(async move {
            // The tasks of all connections end with this one.
            let mut connections = tokio::task::JoinSet::new();
            while let Ok((client, _)) = listener.accept().await {
                if lock(&shared).dead {
                    continue;
                }
                let Ok(server) = TcpStream::connect(&node).await else { continue };
                // Held back for their acknowledgement, small frames would take 40 ms each.
                if client.set_nodelay(true).and_then(|()| server.set_nodelay(true)).is_err() {
                    continue;
                }
                connections.spawn(pass(client, server, shared.clone()));
            }
        });
        Self { address, state, accepting }
    }

    /// Where the line begins, as `host:port`.
    pub fn address(&self) -> String {
        self.address.to_string()
    }

    /// Counts writes from here on, and cuts the one with that number, from 0.
    pub fn cut(&self, nth: usize, point: Point, then: Then) {
        let mut state = lock(&self.state);
        state.writes.clear();
        state.cut = Some((nth, point, then));
    }

    /// Cuts nothing any more; the writes since the cut was set.
    pub fn mend(&self) -> Vec<String> {
        let mut state = lock(&self.state);
        state.cut = None;
        std::mem::take(&mut state.writes)
    }

    /// Asks the server to trace every statement from here on.
    pub fn trace(&self) {
        lock(&self.state).traces = Some(Vec::new());
    }

    /// The traces of the statements that were answered since; none is asked for any more.
    pub fn traced(&self) -> Vec<Uuid> {
        lock(&self.state).traces.take().unwrap_or_default()
    }
}

impl Drop for CqlProxy {
    fn drop(&mut self) {
        self.accepting.abort();
    }
}

/// What both directions of a connection know.
#[derive(Debug, Default)]
struct Line {
    /// Texts under way to be prepared, by stream.
    preparing: HashMap<[u8; 2], String>,
    /// Streams whose answer is kept back.
    unanswered: HashSet<[u8; 2]>,
}

async fn pass(client: TcpStream, server: TcpStream, state: Arc<Mutex<State>>) {
    let line = Mutex::new(Line::default());
    let (from_client, to_client) = client.into_split();
    let (from_server, to_server) = server.into_split();
    let (broken, mut breaks) = watch::channel(false);
    tokio::select! {
        () = requests(from_client, to_server, &state, &line, &broken) => {}
        () = answers(from_server, to_client, &state, &line) => {}
        _ = breaks.wait_for(|broken| *broken) => {}
    }
}

/// Reads a frame: its header and its body.
async fn frame(from: &mut OwnedReadHalf) -> Option<Vec<u8>> {
    let mut frame = vec![0; HEADER];
    from.read_exact(&mut frame).await.ok()?;
    let length = u32::from_be_bytes(frame.get(5..HEADER)?.try_into().ok()?);
    frame.resize(HEADER + usize::try_from(length).ok()?, 0);
    from.read_exact(frame.get_mut(HEADER..)?).await.ok()?;
    Some(frame)
}

fn stream_of(frame: &[u8]) -> [u8; 2] {
    [frame[2], frame[3]]
}

/// Bytes after a length of two bytes.
fn short_bytes(body: &[u8]) -> Option<&[u8]> {
    let length = usize::from(u16::from_be_bytes(body.get(..2)?.try_into().ok()?));
    body.get(2..2 + length)
}

async fn requests(
    mut from: OwnedReadHalf,
    mut to: OwnedWriteHalf,
    state: &Mutex<State>,
    line: &Mutex<Line>,
    broken: &watch::Sender<bool>,
) {
    while let Some(mut frame) = frame(&mut from).await {
        if frame[4] == EXECUTE && lock(state).traces.is_some() {
            frame[1] |= TRACING;
        }
        let (opcode, body) = (frame[4], &frame[HEADER..]);
        let mut verdict = None;
        if opcode == PREPARE {
            let text = String::from_utf8_lossy(body.get(4..).unwrap_or_default()).into_owned();
            line.lock().unwrap_or_else(PoisonError::into_inner).preparing.insert(stream_of(&frame), text);
        } else if opcode == EXECUTE {
            verdict = executed(state, short_bytes(body).unwrap_or_default());
        }
        match verdict {
            Some(Point::Unsent) => break,
            Some(Point::Unanswered) => {
                let mut line = line.lock().unwrap_or_else(PoisonError::into_inner);
                line.unanswered.insert(stream_of(&frame));
            }
            Some(Point::Sent) | None => {}
        }
        if to.write_all(&frame).await.is_err() || verdict == Some(Point::Sent) {
            break;
        }
    }
    broken.send_replace(true);
}

/// Counts a write, and says where it is to be cut off.
fn executed(state: &Mutex<State>, id: &[u8]) -> Option<Point> {
    let mut state = lock(state);
    let text = state.statements.get(id)?.split_whitespace().collect::<Vec<_>>().join(" ");
    if text.starts_with("SELECT") {
        return None;
    }
    let number = state.writes.len();
    state.writes.push(text);
    let (nth, point, then) = state.cut?;
    if number != nth {
        return None;
    }
    if then == Then::Dies {
        state.dead = true;
    }
    Some(point)
}

async fn answers(mut from: OwnedReadHalf, mut to: OwnedWriteHalf, state: &Mutex<State>, line: &Mutex<Line>) {
    while let Some(frame) = frame(&mut from).await {
        let (opcode, stream, body) = (frame[4], stream_of(&frame), &frame[HEADER..]);
        let (prepared, kept_back) = {
            let mut line = line.lock().unwrap_or_else(PoisonError::into_inner);
            (line.preparing.remove(&stream), line.unanswered.contains(&stream))
        };
        if kept_back {
            return;
        }
        if let (true, Some(id)) = (frame[1] & TRACING != 0, body.get(..16)) {
            let id = Uuid::from_slice(id).expect("16 bytes");
            lock(state).traces.get_or_insert_default().push(id);
        }
        let kind = body.get(..4).and_then(|kind| kind.try_into().ok()).map(i32::from_be_bytes);
        if let (RESULT, Some(PREPARED), Some(text)) = (opcode, kind, prepared) {
            let id = short_bytes(&body[4..]).unwrap_or_default().to_vec();
            lock(state).statements.insert(id, text);
        }
        if to.write_all(&frame).await.is_err() {
            return;
        }
    }
}
