//! `GET /api/v1/socket`: many requests and answers over one WebSocket, whose first frame shows a credential.
//!
//! A socket holds a credential and no identity: each request is answered for whoever the credential stands for at that
//! moment, so that a revoked one ends with its revocation.

use std::borrow::Cow;
use std::sync::Arc;
use std::time::Duration;

use axum::Extension;
use axum::extract::State;
use axum::extract::ws::rejection::WebSocketUpgradeRejection;
use axum::extract::ws::{CloseFrame, Message, WebSocket, WebSocketUpgrade, close_code};
use axum::response::Response;
use futures_util::stream::{SplitSink, SplitStream};
use futures_util::{SinkExt, StreamExt};
use iam_schema::Secret;
use serde::{Deserialize, Serialize};
use serde_json::json;
use serde_json::value::RawValue;
use tokio::task::JoinSet;
use tokio::time::{Instant, MissedTickBehavior};

use crate::app::App;
use crate::connection::Held;
use crate::failure::Failure;
use crate::line::{Asking, Line};

/// How long a socket may be open without a good credential.
const AUTHENTICATE: Duration = Duration::from_secs(30);
/// How often a socket is looked after: asked whether its other end is there, and closed if that said nothing twice.
const LOOK: Duration = Duration::from_secs(30);
const SILENT: Duration = Duration::from_secs(75);
/// Requests of one socket that are answered at a time. The next are read when there is room again.
const OUTSTANDING: usize = 15;
/// What may come in before there is a good credential, in bytes: some tokens, each 8 KiB at most.
const UNKNOWN: u64 = 32 * 1024;
/// How long the other end may take to close in return.
const CLOSING: Duration = Duration::from_secs(1);
/// What a socket keeps for reading, in bytes. There may be very many.
const READ_BUFFER: usize = 2 * 1024;

/// What comes in.
#[derive(Deserialize)]
struct Frame<'a> {
    #[serde(rename = "type", borrow, default)]
    kind: Option<Cow<'a, str>>,
    #[serde(default)]
    token: Option<Secret>,
    #[serde(borrow, default)]
    id: Option<Cow<'a, str>>,
    #[serde(borrow, default)]
    workspace: Option<Cow<'a, str>>,
    #[serde(borrow, default)]
    service: Option<Cow<'a, str>>,
    #[serde(borrow, default)]
    request: Option<&'a RawValue>,
}

/// What goes out.
#[derive(Serialize)]
struct Reply<'a, R: Serialize, E: Serialize> {
    #[serde(skip_serializing_if = "Option::is_none")]
    id: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    response: Option<R>,
    #[serde(skip_serializing_if = "Option::is_none")]
    error: Option<E>,
    complete: bool,
}

/// The answer to a request, and whether the credential turned out to be good no more.
struct Answered {
    text: String,
    ended: Option<Arc<Secret>>,
}

/// Why a socket ends, as the other end is told.
type Ending = (u16, &'static str);

struct Session {
    app: Arc<App>,
    line: Line,
    held: Arc<Held>,
    credential: Option<Arc<Secret>>,
    /// Until when there must be one.
    unknown_until: Instant,
    /// How many requests came.
    count: u64,
}

/// Makes a WebSocket of a request.
///
/// # Errors
/// `NoUpgrade` for a request that asks for none.
pub async fn upgrade(
    State(app): State<Arc<App>>,
    Extension(line): Extension<Line>,
    Extension(held): Extension<Arc<Held>>,
    socket: Result<WebSocketUpgrade, WebSocketUpgradeRejection>,
) -> Result<Response, Failure> {
    let socket = socket.map_err(|rejection| Failure::NoUpgrade(rejection.status()))?;
    let most = app.limits.frame_bytes;
    let socket =
        socket.read_buffer_size(READ_BUFFER).write_buffer_size(0).max_message_size(most).max_frame_size(most);
    Ok(socket.on_upgrade(move |socket| async move {
        held.allowance.limit(UNKNOWN);
        app.metrics.sockets.inc();
        let unknown_until = Instant::now() + AUTHENTICATE;
        let session = Session { app: app.clone(), line, held, credential: None, unknown_until, count: 0 };
        session.serve(socket).await;
        app.metrics.sockets.dec();
    }))
}

impl Session {
    async fn serve(mut self, socket: WebSocket) {
        let (mut out, mut incoming) = socket.split();
        // Tasks of their own: while a client does not read, or shows a credential, its requests must not stand still with
        // something in hand that others wait for. They end with the socket.
        let mut outstanding: JoinSet<Answered> = JoinSet::new();
        let draining = self.app.draining();
        tokio::pin!(draining);
        let mut looks = tokio::time::interval_at(Instant::now() + LOOK, LOOK);
        looks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let mut heard = Instant::now();
        let ending: Option<Ending> = loop {
            tokio::select! {
                Some(answered) = outstanding.join_next(), if !outstanding.is_empty() => {
                    // A panic was told where it happened, and the client waits for an answer that will not come.
                    let Ok(answered) = answered else { break Some((close_code::ERROR, "internal error")) };
                    self.end(answered.ended);
                    if out.send(Message::text(answered.text)).await.is_err() {
                        break None;
                    }
                }
                message = incoming.next(), if outstanding.len() < OUTSTANDING => {
                    heard = Instant::now();
                    let text = match message {
                        Some(Ok(Message::Text(text))) => self.take(text.as_str().as_bytes(), &mut outstanding).await,
                        Some(Ok(Message::Binary(bytes))) => self.take(&bytes, &mut outstanding).await,
                        // The library answers those; whoever sends many and reads nothing is waited for.
                        Some(Ok(Message::Ping(_))) => match out.flush().await {
                            Ok(()) => None,
                            Err(_) => break None,
                        },
                        // It closes in return, and then there is nothing more to read.
                        Some(Ok(Message::Pong(_) | Message::Close(_))) => None,
                        None => break None,
                        Some(Err(error)) => {
                            tracing::debug!(%error, "a socket ended");
                            break None;
                        }
                    };
                    if let Some(text) = text
                        && out.send(Message::text(text)).await.is_err()
                    {
                        break None;
                    }
                }
                _ = looks.tick() => {
                    if self.credential.is_none() && Instant::now() >= self.unknown_until {
                        break Some((close_code::POLICY, "no credential in time"));
                    }
                    // While all places are taken nothing is read, so that nothing is heard.
                    if heard.elapsed() > SILENT && outstanding.len() < OUTSTANDING {
                        break None;
                    }
                    if out.send(Message::Ping(Default::default())).await.is_err() {
                        break None;
                    }
                }
                () = &mut draining => break Some((close_code::AWAY, "going away")),
            }
        };
        if let Some(ending) = ending {
            finish(&mut out, &mut incoming, outstanding, ending).await;
        }
    }

    /// Takes in a frame. Gives what is said at once, or adds a request to those that are being answered.
    async fn take(&mut self, frame: &[u8], outstanding: &mut JoinSet<Answered>) -> Option<String> {
        self.app.metrics.frames.inc();
        let Ok(frame) = serde_json::from_slice::<Frame<'_>>(frame) else {
            return Some(refusal(None, &Failure::InvalidJson));
        };
        if frame.kind.as_deref() == Some("auth") {
            return Some(self.show(frame.token.unwrap_or_default()).await);
        }
        let id = frame.id.as_deref().filter(|id| !id.is_empty());
        let (Some(id), Some(request)) = (id, frame.request) else {
            let rule = "a frame needs `id` and `request`, or `type`: `auth` and `token`";
            return Some(refusal(id, &Failure::Bad(rule.to_owned())));
        };
        let Some(credential) = self.credential.clone() else {
            return Some(refusal(Some(id), &Failure::AuthFailure));
        };
        if frame.service.as_deref() != Some("iam") {
            return Some(refusal(Some(id), &Failure::UnknownService));
        }
        self.count += 1;
        let request_id = format!("{}:{}", self.line.request_id, self.count);
        let line = Line { request_id: request_id.into(), ..self.line.clone() };
        let workspace = frame.workspace.map(Cow::into_owned).unwrap_or_default();
        let (app, id, body) = (self.app.clone(), id.to_owned(), request.get().to_owned());
        outstanding.spawn(async move { answer(&app, &line, credential, id, workspace, body).await });
        None
    }

    /// Takes a credential, if it is good; else the one before it stays.
    async fn show(&mut self, credential: Secret) -> String {
        match self.app.authenticate(Some(&credential)).await {
            Ok(identity) => {
                self.held.allowance.lift();
                self.credential = Some(Arc::new(credential));
                let home = identity.workspace.as_str();
                json!({ "type": "auth-ok", "workspace": home, "default_workspace": home }).to_string()
            }
            Err(Failure::AuthFailure) => {
                json!({ "type": "auth-failed", "error": "auth failure" }).to_string()
            }
            Err(_) => json!({ "type": "auth-failed", "error": "unavailable" }).to_string(),
        }
    }

    /// Forgets a credential that is good no more, unless there is a newer one.
    fn end(&mut self, ended: Option<Arc<Secret>>) {
        if let (Some(ended), Some(credential)) = (ended, &self.credential)
            && Arc::ptr_eq(&ended, credential)
        {
            self.credential = None;
            self.unknown_until = Instant::now() + AUTHENTICATE;
            self.held.allowance.limit(UNKNOWN);
        }
    }
}

async fn answer(
    app: &App,
    line: &Line,
    credential: Arc<Secret>,
    id: String,
    workspace: String,
    body: String,
) -> Answered {
    let asking = Asking { credential: Some(&credential), ..line.asking() };
    let answered = async {
        // Among all requests at a time; a socket waits where HTTP is turned away.
        let _place = app.room.acquire().await;
        if !workspace.is_empty() {
            let caller = app.authenticate(Some(&credential)).await?;
            app.workspace_is_there(&workspace, &caller, &asking).await?;
        }
        app.perform(&asking, body.as_bytes()).await
    };
    let failure = match answered.await {
        Ok(answer) => {
            let reply = Reply { id: Some(&id), response: Some(answer), error: None::<()>, complete: true };
            match serde_json::to_string(&reply) {
                Ok(text) => return Answered { text, ended: None },
                Err(_) => Failure::unavailable("the answer cannot be written"),
            }
        }
        Err(failure) => failure,
    };
    let ended = (failure == Failure::AuthFailure).then_some(credential);
    Answered { text: refusal(Some(&id), &failure), ended }
}

fn refusal(id: Option<&str>, failure: &Failure) -> String {
    let reply = Reply { id, response: None::<()>, error: Some(failure.on_socket()), complete: true };
    json!(reply).to_string()
}

/// Answers what was taken, and closes: says so, and waits a moment until the other end has heard it.
async fn finish(
    out: &mut SplitSink<WebSocket, Message>,
    incoming: &mut SplitStream<WebSocket>,
    mut outstanding: JoinSet<Answered>,
    (code, reason): Ending,
) {
    while let Some(Ok(answered)) = outstanding.join_next().await {
        if out.send(Message::text(answered.text)).await.is_err() {
            return;
        }
    }
    let _ = out.send(Message::Close(Some(CloseFrame { code, reason: reason.into() }))).await;
    let heard = async { while incoming.next().await.is_some_and(|message| message.is_ok()) {} };
    let _ = tokio::time::timeout(CLOSING, heard).await;
}
