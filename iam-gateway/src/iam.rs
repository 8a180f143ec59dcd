//! `POST /api/v1/iam`: every operation that is offered, by its name in the body.

use std::sync::Arc;

use axum::Extension;
use axum::extract::{Request, State};
use axum::http::HeaderMap;
use iam_client::gateway::layer::bearer;

use crate::app::App;
use crate::body::body;
use crate::failure::Failure;
use crate::line::{Asking, Line};
use crate::shown::Answer;

/// Answers one request record.
pub async fn iam(
    State(app): State<Arc<App>>,
    Extension(line): Extension<Line>,
    headers: HeaderMap,
    request: Request,
) -> Result<Answer, Failure> {
    let (body, _place) = body(&app, request).await?;
    let credential = bearer(&headers);
    let asking = Asking { credential: credential.as_ref(), ..line.asking() };
    app.perform(&asking, &body).await
}
