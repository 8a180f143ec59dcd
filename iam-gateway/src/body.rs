//! Bodies of requests.

use std::time::Duration;

use axum::body::{Body, Bytes, HttpBody, to_bytes};
use axum::extract::Request;
use iam_client::gateway::layer::bearer;
use iam_schema::subject::MAX_PAYLOAD;
use tokio::sync::OwnedSemaphorePermit;

use crate::app::App;
use crate::failure::Failure;

/// The largest body of somebody unknown, in bytes: a login takes less than 4 KiB.
const MAX_UNKNOWN: usize = 16 * 1024;
/// How long a body may take to come in.
const BODY: Duration = Duration::from_secs(10);

/// The whole body of a request, and the place that it has from then on.
///
/// What somebody unknown sends is held by as many as there are connections, so that it must be small.
///
/// # Errors
/// `TooLarge`; `TooSlow`; a body that breaks off; `Overloaded`.
pub async fn body(app: &App, request: Request<Body>) -> Result<(Bytes, OwnedSemaphorePermit), Failure> {
    let small = request.body().size_hint().exact().is_some_and(|length| length <= MAX_UNKNOWN as u64);
    let most = match bearer(request.headers()).filter(|_| !small) {
        Some(credential) if app.gateway.authenticate(&credential).await.is_ok() => MAX_PAYLOAD,
        _ => MAX_UNKNOWN,
    };
    let bytes = match tokio::time::timeout(BODY, to_bytes(request.into_body(), most)).await {
        Ok(Ok(bytes)) => bytes,
        Ok(Err(error)) if is_too_large(&error) => return Err(Failure::TooLarge),
        Ok(Err(_)) => return Err(Failure::Bad("the body cannot be read".to_owned())),
        Err(_) => return Err(Failure::TooSlow),
    };
    Ok((bytes, app.place()?))
}

fn is_too_large(error: &axum::Error) -> bool {
    let source = std::error::Error::source(error);
    source.is_some_and(|source| source.is::<http_body_util::LengthLimitError>())
}
