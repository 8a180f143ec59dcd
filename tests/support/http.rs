//! HTTP as bytes: what no client library would send can be sent, and every byte of an answer is seen.

use std::time::Duration;

use serde_json::Value;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

/// How long an answer may take on a busy machine.
const PATIENCE: Duration = Duration::from_secs(60);

/// An answer.
#[derive(Debug, Clone)]
pub struct Reply {
    pub status: u16,
    /// Status line and headers, names as they came.
    pub head: String,
    pub body: String,
}

impl Reply {
    /// Takes an answer apart.
    ///
    /// # Panics
    /// When it is none.
    pub fn read(text: &str) -> Self {
        let (head, body) = text.split_once("\r\n\r\n").unwrap_or((text, ""));
        let status = head.split(' ').nth(1).and_then(|status| status.parse().ok());
        let status = status.unwrap_or_else(|| panic!("no answer: {text:?}"));
        Self { status, head: head.to_owned(), body: body.to_owned() }
    }

    /// A header, its name in any case.
    pub fn header(&self, name: &str) -> Option<&str> {
        let mut lines = self.head.lines().skip(1).filter_map(|line| line.split_once(':'));
        lines.find(|(named, _)| named.eq_ignore_ascii_case(name)).map(|(_, value)| value.trim())
    }

    /// The body as JSON.
    ///
    /// # Panics
    /// When it is none.
    pub fn json(&self) -> Value {
        serde_json::from_str(&self.body).unwrap_or_else(|e| panic!("{e}: {self:?}"))
    }
}

/// Sends bytes, and reads until the other end closes; what came until then.
pub async fn exchange(address: &str, bytes: &[u8]) -> String {
    let mut stream = TcpStream::connect(address).await.expect("a listener");
    // It may refuse before it has read everything.
    let _ = stream.write_all(bytes).await;
    let mut reply = Vec::new();
    let _ =
        tokio::time::timeout(PATIENCE, stream.read_to_end(&mut reply)).await.expect("an end of the answer");
    String::from_utf8_lossy(&reply).into_owned()
}

/// One request on a connection of its own; `headers` are whole lines, each with its end.
pub async fn request(address: &str, line: &str, headers: &str, body: &str) -> Reply {
    let length = body.len();
    let head = format!(
        "{line} HTTP/1.1\r\nHost: iam\r\nConnection: close\r\n{headers}Content-Length: {length}\r\n\r\n"
    );
    Reply::read(&exchange(address, format!("{head}{body}").as_bytes()).await)
}

/// A plain GET.
pub async fn get(address: &str, path: &str) -> Reply {
    request(address, &format!("GET {path}"), "", "").await
}
