//! A WebSocket client.

use std::time::Duration;

use futures_util::{SinkExt, StreamExt};
use serde_json::{Value, json};
use tokio::net::TcpStream;
use tokio_tungstenite::tungstenite::Message;
use tokio_tungstenite::tungstenite::protocol::CloseFrame;
use tokio_tungstenite::tungstenite::protocol::frame::coding::CloseCode;
use tokio_tungstenite::{MaybeTlsStream, WebSocketStream, connect_async};

/// How long a frame may take on a busy machine.
const PATIENCE: Duration = Duration::from_secs(60);

/// A WebSocket that stands.
#[derive(Debug)]
pub struct Socket(pub WebSocketStream<MaybeTlsStream<TcpStream>>);

impl Socket {
    /// Opens one at a gateway.
    pub async fn open(address: &str) -> Self {
        Self(connect_async(format!("ws://{address}/api/v1/socket")).await.expect("an upgrade").0)
    }

    /// Opens one and shows a credential.
    pub async fn open_as(address: &str, credential: &str) -> Self {
        let mut socket = Self::open(address).await;
        let shown = socket.show(credential).await;
        assert_eq!(shown["type"], "auth-ok", "{shown}");
        socket
    }

    /// Shows a credential; what is said to it.
    pub async fn show(&mut self, credential: &str) -> Value {
        self.send(&json!({ "type": "auth", "token": credential })).await;
        self.next().await.expect("an answer")
    }

    /// Sends a frame.
    pub async fn send(&mut self, frame: &Value) {
        self.0.send(Message::text(frame.to_string())).await.expect("sent");
    }

    /// The next frame, or `None` when the other end has closed.
    pub async fn next(&mut self) -> Option<Value> {
        loop {
            match tokio::time::timeout(PATIENCE, self.0.next()).await.expect("a frame in time") {
                Some(Ok(Message::Text(text))) => return Some(serde_json::from_str(&text).expect("JSON")),
                Some(Ok(Message::Ping(_) | Message::Pong(_))) => {}
                Some(Ok(_)) | Some(Err(_)) | None => return None,
            }
        }
    }

    /// Waits until the other end closes; with which code.
    pub async fn closed(&mut self) -> Option<u16> {
        loop {
            match tokio::time::timeout(PATIENCE, self.0.next()).await.expect("an end in time") {
                Some(Ok(Message::Close(frame))) => return frame.map(|frame| frame.code.into()),
                Some(Ok(_)) => {}
                Some(Err(_)) | None => return None,
            }
        }
    }

    /// Closes; with which code the other end closes in return.
    pub async fn left(mut self) -> Option<u16> {
        let normal = CloseFrame { code: CloseCode::Normal, reason: "".into() };
        self.0.close(Some(normal)).await.expect("sent");
        self.closed().await
    }

    /// One request of `iam`, and its answer.
    pub async fn iam(&mut self, id: &str, request: Value) -> Value {
        self.send(&json!({ "id": id, "service": "iam", "request": request })).await;
        self.next().await.expect("an answer")
    }
}
