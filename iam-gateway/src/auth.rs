//! `/api/v1/auth/…`: in and out, the first admin, one's own password, and the question that other proxies ask.

use std::sync::Arc;

use axum::Extension;
use axum::extract::rejection::QueryRejection;
use axum::extract::{Query, Request, State};
use axum::http::{HeaderMap, HeaderName, HeaderValue, StatusCode};
use axum::response::{IntoResponse, Response};
use iam_client::gateway::Question;
use iam_client::gateway::layer::bearer;
use iam_schema::decisions::Check;
use iam_schema::{ErrorKind, IamRequest, OperationName, Secret};
use serde::Deserialize;

use crate::app::App;
use crate::body::body;
use crate::failure::Failure;
use crate::line::{Asking, Line};
use crate::operations::Own;
use crate::shown::Answer;

/// Username and password to a token.
pub async fn login(
    State(app): State<Arc<App>>,
    Extension(line): Extension<Line>,
    request: Request,
) -> Result<Answer, Failure> {
    #[derive(Default, Deserialize)]
    #[serde(default)]
    struct Login {
        username: String,
        password: Secret,
        workspace: String,
    }
    let (body, _place) = body(&app, request).await?;
    let Login { username, password, workspace } = fields(&body)?;
    let request = IamRequest {
        username: username.into(),
        password,
        workspace: workspace.into(),
        ..IamRequest::default()
    };
    public(&app, &line, OperationName::Login, request).await
}

/// The first admin, once.
pub async fn bootstrap(
    State(app): State<Arc<App>>,
    Extension(line): Extension<Line>,
    request: Request,
) -> Result<Answer, Failure> {
    without_fields(&app, &line, OperationName::Bootstrap, request).await
}

/// Whether there is no admin yet.
pub async fn bootstrap_status(
    State(app): State<Arc<App>>,
    Extension(line): Extension<Line>,
    request: Request,
) -> Result<Answer, Failure> {
    without_fields(&app, &line, OperationName::BootstrapStatus, request).await
}

/// A new password for the caller.
pub async fn change_password(
    State(app): State<Arc<App>>,
    Extension(line): Extension<Line>,
    headers: HeaderMap,
    request: Request,
) -> Result<Answer, Failure> {
    #[derive(Default, Deserialize)]
    #[serde(default)]
    struct Change {
        current_password: Secret,
        new_password: Secret,
    }
    let (body, _place) = body(&app, request).await?;
    let Change { current_password, new_password } = fields(&body).map_err(in_words)?;
    let credential = bearer(&headers);
    let asking = Asking { credential: credential.as_ref(), ..line.asking() };
    let request = IamRequest { password: current_password, new_password, ..IamRequest::default() };
    let operation = OperationName::ChangePassword;
    let caller = app.caller(operation, credential.as_ref()).await?;
    match app.carry_out(&asking, Some(caller), operation, request, |_| Ok(None)).await {
        Ok(answer) => Ok(answer),
        Err(Failure::Service(error)) if error.known_kind() == Some(ErrorKind::AuthFailed) => {
            Err(Failure::AuthFailure)
        }
        Err(failure) => Err(in_words(failure)),
    }
}

/// What is wrong with a new password is told by its message alone.
fn in_words(failure: Failure) -> Failure {
    match failure {
        Failure::Service(error)
            if matches!(error.known_kind(), Some(ErrorKind::InvalidArgument | ErrorKind::WeakPassword)) =>
        {
            Failure::Bad(error.message)
        }
        failure => failure,
    }
}

/// What another proxy asks about a request that it has in hand.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Verify {
    capability: Option<String>,
    workspace: Option<String>,
}

/// Whether the caller may: 204 with who it is, 401 or 403. For `auth_request` of nginx, `forward_auth` of Caddy and
/// Traefik, and the like.
pub async fn verify(
    State(app): State<Arc<App>>,
    query: Result<Query<Verify>, QueryRejection>,
    headers: HeaderMap,
) -> Result<Response, Failure> {
    let Query(Verify { capability, workspace }) =
        query.map_err(|rejection| Failure::Bad(rejection.body_text()))?;
    let credential = bearer(&headers);
    let caller = app.authenticate(credential.as_ref()).await?;
    match (capability, workspace) {
        (Some(capability), workspace) => {
            let mut check = Check { capability, ..Check::default() };
            check.resource.extend(workspace.map(|workspace| ("workspace".to_owned(), workspace.into())));
            app.admit(&caller, Question::of(&check)?, Own::Nothing).await?;
        }
        (None, None) => {}
        (None, Some(_)) => return Err(Failure::Bad("`workspace` needs `capability`".to_owned())),
    }
    let mut response = StatusCode::NO_CONTENT.into_response();
    let told = [
        ("iam-user-id", caller.user_id.to_string()),
        ("iam-workspace", caller.workspace.to_string()),
        ("iam-roles", caller.roles.join(",")),
    ];
    for (name, value) in told {
        let value = HeaderValue::try_from(value).map_err(|_| Failure::unavailable("a role is no header"))?;
        response.headers_mut().insert(HeaderName::from_static(name), value);
    }
    Ok(response)
}

/// A body without fields.
#[derive(Default, Deserialize)]
struct Nothing {}

/// The fields of a body; an empty one has none.
fn fields<T: Default + serde::de::DeserializeOwned>(body: &[u8]) -> Result<T, Failure> {
    if body.is_empty() {
        return Ok(T::default());
    }
    let value: &serde_json::value::RawValue =
        serde_json::from_slice(body).map_err(|_| Failure::InvalidJson)?;
    match value.get().starts_with('{') {
        true => Ok(iam_schema::codec::decode(body)?),
        false => Err(Failure::NotAnObject),
    }
}

/// A public operation that takes nothing.
async fn without_fields(
    app: &App,
    line: &Line,
    operation: OperationName,
    request: Request,
) -> Result<Answer, Failure> {
    let (body, _place) = body(app, request).await?;
    let Nothing {} = fields(&body)?;
    public(app, line, operation, IamRequest::default()).await
}

async fn public(
    app: &App,
    line: &Line,
    operation: OperationName,
    request: IamRequest<'_>,
) -> Result<Answer, Failure> {
    match app.ask(operation, request, &line.asking()).await {
        Ok(response) => Ok(Answer { operation, response }),
        Err(Failure::Service(error)) if error.known_kind() == Some(ErrorKind::AuthFailed) => {
            Err(Failure::AuthFailure)
        }
        Err(failure) => Err(failure),
    }
}
