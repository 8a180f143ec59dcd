//! The keys of tokens, for whoever verifies them without NATS: as a key set, and the one that signs now as PEM.

use std::sync::Arc;

use axum::Extension;
use axum::extract::State;
use axum::http::HeaderMap;
use axum::response::Response;
use iam_schema::{IamRequest, OperationName};

use crate::app::App;
use crate::failure::Failure;
use crate::line::Line;
use crate::published::{Published, Representation};

/// Every key that verifies or is about to, by RFC 7517.
pub async fn jwks(
    State(app): State<Arc<App>>,
    Extension(line): Extension<Line>,
    headers: HeaderMap,
) -> Result<Response, Failure> {
    let published = current(&app, &line, &app.key_set, OperationName::GetJwks).await?;
    Ok(published.response("application/jwk-set+json", &headers))
}

/// The key that signs now.
pub async fn public_key(
    State(app): State<Arc<App>>,
    Extension(line): Extension<Line>,
    headers: HeaderMap,
) -> Result<Response, Failure> {
    let published = current(&app, &line, &app.signing_key, OperationName::GetSigningKeyPublic).await?;
    Ok(published.response("application/x-pem-file", &headers))
}

async fn current(
    app: &App,
    line: &Line,
    published: &Published,
    operation: OperationName,
) -> Result<Representation, Failure> {
    published.current(app.limits.deadline, represent(app, line, operation)).await
}

async fn represent(app: &App, line: &Line, operation: OperationName) -> Result<Representation, Failure> {
    let response = app.ask(operation, IamRequest::default(), &line.asking()).await?;
    let text = match operation {
        OperationName::GetJwks => response.jwks_json,
        _ => response.signing_key_public,
    };
    Ok(Representation::of(text))
}
