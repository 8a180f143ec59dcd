//! The keys of tokens, for whoever verifies them without NATS: as a key set, and the one that signs now as PEM.

use std::sync::Arc;
use std::time::Duration;

use axum::Extension;
use axum::extract::State;
use axum::http::header::{CACHE_CONTROL, CONTENT_TYPE, ETAG, IF_NONE_MATCH};
use axum::http::{HeaderMap, StatusCode};
use axum::response::{IntoResponse, Response};
use iam_schema::{IamRequest, OperationName};
use sha2::{Digest, Sha256};
use tokio::sync::Mutex;
use tokio::time::Instant;

use crate::app::App;
use crate::failure::Failure;
use crate::routes::Line;

/// How long what the service said is served without asking it again: whoever floods these paths asks the bus once
/// in that time.
const FRESH: Duration = Duration::from_secs(2);
/// How long others may keep it. The next key is published before it signs, so that nothing is lost by that; a key
/// that leaked and was retired is believed for so much longer by whoever keeps it.
const CACHE: &str = "public, max-age=60, must-revalidate";

/// What was published last.
#[derive(Debug, Default)]
pub struct Published {
    set: Mutex<Option<Said>>,
    pem: Mutex<Option<Said>>,
}

/// What the service said, and when.
#[derive(Debug)]
struct Said {
    what: Result<Representation, Failure>,
    at: Instant,
}

#[derive(Debug, Clone)]
struct Representation {
    text: String,
    tag: String,
}

/// Every key that verifies or is about to, by RFC 7517.
pub async fn jwks(
    State(app): State<Arc<App>>,
    Extension(line): Extension<Line>,
    headers: HeaderMap,
) -> Result<Response, Failure> {
    let published = current(&app, &line, &app.published.set, OperationName::GetJwks).await?;
    Ok(published.response("application/jwk-set+json", &headers))
}

/// The key that signs now.
pub async fn public_key(
    State(app): State<Arc<App>>,
    Extension(line): Extension<Line>,
    headers: HeaderMap,
) -> Result<Response, Failure> {
    let published = current(&app, &line, &app.published.pem, OperationName::GetSigningKeyPublic).await?;
    Ok(published.response("application/x-pem-file", &headers))
}

/// One caller asks the service; the others wait for what it says, refusals too.
async fn current(
    app: &App,
    line: &Line,
    place: &Mutex<Option<Said>>,
    operation: OperationName,
) -> Result<Representation, Failure> {
    let said = async {
        let mut place = place.lock().await;
        if let Some(said) = place.as_ref().filter(|said| said.at.elapsed() < FRESH) {
            return said.what.clone();
        }
        let what = represent(app, line, operation).await;
        place.insert(Said { what, at: Instant::now() }).what.clone()
    };
    let within = app.limits.deadline;
    tokio::time::timeout(within, said).await.unwrap_or(Err(Failure::NoAnswer(within)))
}

async fn represent(app: &App, line: &Line, operation: OperationName) -> Result<Representation, Failure> {
    let response = app.ask(operation, IamRequest::default(), &line.asking()).await?;
    let text = match operation {
        OperationName::GetJwks => response.jwks_json,
        _ => response.signing_key_public,
    };
    let hash = Sha256::digest(text.as_bytes());
    let tag: String = hash.iter().take(12).map(|byte| format!("{byte:02x}")).collect();
    Ok(Representation { text, tag: format!("\"{tag}\"") })
}

impl Representation {
    fn response(self, content_type: &'static str, headers: &HeaderMap) -> Response {
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
