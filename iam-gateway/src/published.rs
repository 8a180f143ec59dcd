//! What is published for everybody, and how long it is kept.

use std::future::Future;
use std::time::Duration;

use axum::http::header::{CACHE_CONTROL, CONTENT_TYPE, ETAG, IF_NONE_MATCH};
use axum::http::{HeaderMap, StatusCode};
use axum::response::{IntoResponse, Response};
use sha2::{Digest, Sha256};
use tokio::sync::Mutex;
use tokio::time::Instant;

use crate::failure::Failure;

/// How long what the service said is served without asking it again: whoever floods these paths asks the bus once
/// in that time.
const FRESH: Duration = Duration::from_secs(2);
/// How long others may keep it. The next key is published before it signs, so that nothing is lost by that; a key
/// that leaked and was retired is believed for so much longer by whoever keeps it.
const CACHE: &str = "public, max-age=60, must-revalidate";

/// What was published last.
#[derive(Debug, Default)]
pub struct Published(Mutex<Option<Said>>);

/// What the service said, and when.
#[derive(Debug)]
struct Said {
    what: Result<Representation, Failure>,
    at: Instant,
}

/// A text, and the name of just this one.
#[derive(Debug, Clone)]
pub struct Representation {
    text: String,
    tag: String,
}

impl Published {
    /// What was said a moment ago, refusals too; else one caller asks, and the others wait for it.
    ///
    /// # Errors
    /// Of asking; `NoAnswer` when it takes too long.
    pub async fn current(
        &self,
        within: Duration,
        ask: impl Future<Output = Result<Representation, Failure>>,
    ) -> Result<Representation, Failure> {
        let said = async {
            let mut place = self.0.lock().await;
            if let Some(said) = place.as_ref().filter(|said| said.at.elapsed() < FRESH) {
                return said.what.clone();
            }
            let what = ask.await;
            place.insert(Said { what, at: Instant::now() }).what.clone()
        };
        tokio::time::timeout(within, said).await.unwrap_or(Err(Failure::NoAnswer(within)))
    }
}

impl Representation {
    /// A text under the name that its hash gives it.
    pub fn of(text: String) -> Self {
        let hash = Sha256::digest(text.as_bytes());
        let tag: String = hash.iter().take(12).map(|byte| format!("{byte:02x}")).collect();
        Self { text, tag: format!("\"{tag}\"") }
    }

    /// The text, or nothing for whoever knows it already.
    pub fn response(self, content_type: &'static str, headers: &HeaderMap) -> Response {
        let cached = [(CACHE_CONTROL, CACHE.to_owned()), (ETAG, self.tag.clone())];
        let known = headers.get_all(IF_NONE_MATCH).iter().filter_map(|value| value.to_str().ok());
        // Weak comparison: RFC 9110 section 13.1.2.
        let mut tags =
            known.flat_map(|value| value.split(',')).map(|tag| tag.trim().trim_start_matches("W/"));
        if tags.any(|tag| tag == self.tag || tag == "*") {
            return (StatusCode::NOT_MODIFIED, cached).into_response();
        }
        (cached, [(CONTENT_TYPE, content_type)], self.text).into_response()
    }
}
