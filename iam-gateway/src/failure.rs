//! Why a request is refused, as HTTP and WebSocket clients are told.
//!
//! What the gateway itself has against a request is a text, `{"error": "…"}`; what the service has against it keeps
//! its kind, `{"error": {"type", "message"}}`. Every status and body is in this one place.

use std::borrow::Cow;
use std::time::Duration;

use axum::http::header::{CONTENT_TYPE, RETRY_AFTER, WWW_AUTHENTICATE};
use axum::http::{HeaderValue, StatusCode};
use axum::response::{IntoResponse, Response};
use iam_client::ClientError;
use iam_client::gateway::GatewayError;
use iam_schema::codec::DecodeError;
use iam_schema::{ErrorKind, WireError};
use serde::Serialize;
use serde_json::json;

/// After how many seconds somebody who was turned away for want of room may come again.
const COME_AGAIN_S: u16 = 1;

/// Why a request is refused.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Failure {
    /// No credential, or one that is not good; also a refused login or bootstrap.
    AuthFailure,
    AccessDenied,
    InvalidJson,
    NotAnObject,
    UnknownOperation,
    /// On a socket alone.
    UnknownService,
    UnknownWorkspace,
    UnknownPath,
    MethodNotAllowed,
    NoUpgrade(StatusCode),
    TooLarge,
    /// The body did not come in time.
    TooSlow,
    /// As many requests as there may be are being answered.
    Overloaded,
    /// The service did not answer in time. Whether it was done is not known.
    NoAnswer(Duration),
    /// Any other fault with a request, in words.
    Bad(String),
    /// What the service says.
    Service(WireError),
}

impl Failure {
    /// Nothing was decided.
    pub fn unavailable(why: impl Into<String>) -> Self {
        Failure::Service(WireError::new(ErrorKind::Unavailable, why))
    }

    /// The status. Source: section 4 of the protocol, and RFC 9110 section 15.
    pub fn status(&self) -> StatusCode {
        match self {
            Failure::AuthFailure => StatusCode::UNAUTHORIZED,
            Failure::AccessDenied => StatusCode::FORBIDDEN,
            Failure::InvalidJson
            | Failure::NotAnObject
            | Failure::UnknownOperation
            | Failure::UnknownService
            | Failure::Bad(_) => StatusCode::BAD_REQUEST,
            Failure::UnknownWorkspace | Failure::UnknownPath => StatusCode::NOT_FOUND,
            Failure::MethodNotAllowed => StatusCode::METHOD_NOT_ALLOWED,
            Failure::NoUpgrade(status) => *status,
            Failure::TooLarge => StatusCode::PAYLOAD_TOO_LARGE,
            Failure::TooSlow => StatusCode::REQUEST_TIMEOUT,
            Failure::Overloaded => StatusCode::SERVICE_UNAVAILABLE,
            Failure::NoAnswer(_) => StatusCode::GATEWAY_TIMEOUT,
            // A kind of tomorrow is a refusal that we cannot place.
            Failure::Service(error) => {
                let code = error.known_kind().map_or(502, ErrorKind::code);
                StatusCode::from_u16(code).unwrap_or(StatusCode::BAD_GATEWAY)
            }
        }
    }

    /// What stands as `error` in a body.
    fn told(&self) -> Told<'_> {
        let text: Cow<'_, str> = match self {
            Failure::AuthFailure => "auth failure".into(),
            Failure::AccessDenied => "access denied".into(),
            Failure::InvalidJson => "invalid json".into(),
            Failure::NotAnObject => "body must be an object".into(),
            Failure::UnknownOperation => "unknown operation".into(),
            Failure::UnknownService => "unknown service".into(),
            Failure::UnknownWorkspace => "workspace not found".into(),
            Failure::UnknownPath => "not found".into(),
            Failure::MethodNotAllowed => "method not allowed".into(),
            Failure::NoUpgrade(_) => "a WebSocket is served here".into(),
            Failure::TooLarge => "request too large".into(),
            Failure::TooSlow => "request not received in time".into(),
            Failure::Overloaded => "too many requests at this moment".into(),
            Failure::Bad(why) => why.as_str().into(),
            Failure::NoAnswer(within) => {
                let message = format!("no answer within {within:?}; whether it was done is not known");
                return Told::Kind { kind: ErrorKind::Unavailable.as_str().into(), message: message.into() };
            }
            Failure::Service(error) => {
                return Told::Kind {
                    kind: error.kind.as_str().into(),
                    message: error.message.as_str().into(),
                };
            }
        };
        Told::Text(text)
    }

    /// Kind and message, as a socket has them.
    pub fn on_socket(&self) -> impl Serialize + '_ {
        let kind = match self {
            Failure::AuthFailure => "auth-required",
            Failure::AccessDenied => "access-denied",
            // An operation that there is not is no service either.
            Failure::UnknownOperation | Failure::UnknownService => {
                return Told::Kind { kind: "unknown-service".into(), message: "unknown service".into() };
            }
            Failure::UnknownWorkspace => "workspace-not-found",
            _ => "error",
        };
        match self.told() {
            Told::Text(message) => Told::Kind { kind: kind.into(), message },
            told @ Told::Kind { .. } => told,
        }
    }
}

/// An error as it is written.
#[derive(Serialize)]
#[serde(untagged)]
enum Told<'a> {
    Text(Cow<'a, str>),
    Kind {
        #[serde(rename = "type")]
        kind: Cow<'a, str>,
        message: Cow<'a, str>,
    },
}

impl IntoResponse for Failure {
    fn into_response(self) -> Response {
        let body = json!({ "error": self.told() }).to_string();
        let mut response = (self.status(), [(CONTENT_TYPE, "application/json")], body).into_response();
        match self {
            Failure::AuthFailure => {
                response.headers_mut().insert(WWW_AUTHENTICATE, HeaderValue::from_static("Bearer"));
            }
            Failure::Overloaded => {
                response.headers_mut().insert(RETRY_AFTER, COME_AGAIN_S.into());
            }
            _ => {}
        }
        response
    }
}

impl From<GatewayError> for Failure {
    fn from(error: GatewayError) -> Self {
        match error {
            GatewayError::Refused => Failure::AuthFailure,
            GatewayError::Invalid(why) => Failure::Service(WireError::new(ErrorKind::InvalidArgument, why)),
            GatewayError::Unavailable(why) => {
                tracing::warn!(why, "nothing was decided");
                Failure::unavailable("not available now; nothing was decided")
            }
        }
    }
}

impl From<DecodeError> for Failure {
    fn from(error: DecodeError) -> Self {
        Failure::Service(WireError::new(ErrorKind::InvalidArgument, error.to_string()))
    }
}

impl From<ClientError> for Failure {
    fn from(error: ClientError) -> Self {
        match error {
            ClientError::Refused(error) => match error.known_kind() {
                // The reason is for operators, who find it in the audit: it may tell whether a target is there.
                Some(ErrorKind::OperationNotPermitted) => {
                    Failure::Service(WireError::new(ErrorKind::OperationNotPermitted, "access denied"))
                }
                _ => Failure::Service(error),
            },
            ClientError::Timeout(within) => Failure::NoAnswer(within),
            ClientError::NoResponder { .. } | ClientError::Transport(_) | ClientError::Decode(_) => {
                tracing::warn!(%error, "no answer of the service");
                Failure::unavailable("the service does not answer")
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_kind_of_the_service_has_its_status_and_keeps_its_name() {
        for kind in ErrorKind::ALL {
            let failure = Failure::Service(WireError::new(*kind, "m"));
            assert_eq!(failure.status().as_u16(), kind.code());
            let body = json!({ "error": failure.told() });
            assert_eq!(body, json!({ "error": { "type": kind.as_str(), "message": "m" } }));
        }
        let tomorrow = WireError { kind: "of-tomorrow".to_owned(), message: String::new() };
        assert_eq!(Failure::Service(tomorrow).status(), StatusCode::BAD_GATEWAY);
    }

    #[test]
    fn what_the_gateway_says_is_text_over_http_and_has_a_kind_on_a_socket() {
        for (failure, status, text, kind) in [
            (Failure::AuthFailure, 401, "auth failure", "auth-required"),
            (Failure::AccessDenied, 403, "access denied", "access-denied"),
            (Failure::InvalidJson, 400, "invalid json", "error"),
            (Failure::NotAnObject, 400, "body must be an object", "error"),
            (Failure::UnknownWorkspace, 404, "workspace not found", "workspace-not-found"),
        ] {
            assert_eq!(failure.status().as_u16(), status);
            assert_eq!(json!(failure.told()), json!(text));
            assert_eq!(json!(failure.on_socket()), json!({ "type": kind, "message": text }));
        }
        let unknown = json!({ "type": "unknown-service", "message": "unknown service" });
        assert_eq!(json!(Failure::UnknownOperation.on_socket()), unknown);
    }

    #[test]
    fn reasons_of_a_refusal_and_of_a_failure_stay_inside() {
        let reason = WireError::new(ErrorKind::OperationNotPermitted, "the target is somebody else's");
        let told = json!(Failure::from(ClientError::Refused(reason)).told());
        assert_eq!(told, json!({ "type": "operation-not-permitted", "message": "access denied" }));
        let failure = Failure::from(GatewayError::Unavailable("nats://secret".to_owned()));
        assert!(!json!(failure.told()).to_string().contains("nats://"));
    }
}
