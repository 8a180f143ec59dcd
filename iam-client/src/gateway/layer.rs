//! A `tower` layer that lets a request through to a route only with a credential, and a decision, that allow it.

use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};

use http::header::{AUTHORIZATION, CONTENT_TYPE, HeaderValue, WWW_AUTHENTICATE};
use http::request::Parts;
use http::{HeaderMap, Request, Response, StatusCode};
use iam_schema::Secret;
use tower_layer::Layer;
use tower_service::Service;

use super::{Gateway, GatewayError, Question};
use crate::sessions::Identity;

/// What a request is to be asked about.
type Ask = dyn Fn(&Parts, &Identity) -> Option<Question> + Send + Sync;

/// Protects routes. What gets through carries the caller's `Arc<Identity>` among its extensions.
///
/// A refused credential is 401, a deny 403, what cannot be decided 503; the body is JSON, `{"error": "…"}`.
#[derive(Clone)]
pub struct Protect {
    gateway: Gateway,
    ask: Arc<Ask>,
}

impl Protect {
    /// Lets through whoever may, as the question has it.
    pub fn new(gateway: Gateway, question: Question) -> Self {
        Self::by(gateway, move |_, _| Some(question.clone()))
    }

    /// Lets through any good credential.
    pub fn authenticated(gateway: Gateway) -> Self {
        Self::by(gateway, |_, _| None)
    }

    /// Lets through whoever may what this makes of the request; `None` asks for nothing but a good credential.
    pub fn by(
        gateway: Gateway,
        ask: impl Fn(&Parts, &Identity) -> Option<Question> + Send + Sync + 'static,
    ) -> Self {
        Self { gateway, ask: Arc::new(ask) }
    }

    async fn admit(&self, parts: &Parts) -> Result<Arc<Identity>, Refusal> {
        let credential = bearer(&parts.headers).ok_or(Refusal::Credential)?;
        let identity = self.gateway.authenticate(&credential).await.map_err(Refusal::from)?;
        if let Some(question) = (self.ask)(parts, &identity) {
            let decision = self.gateway.authorise(&identity, &question).await.map_err(Refusal::from)?;
            if !decision.allow {
                return Err(Refusal::Denied);
            }
        }
        Ok(identity)
    }
}

impl std::fmt::Debug for Protect {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Protect").finish_non_exhaustive()
    }
}

/// The credential of a request: `Authorization: Bearer …`, once, the scheme in any case.
///
/// Source: RFC 6750 section 2.1, RFC 9110 section 11.1.
pub fn bearer(headers: &HeaderMap) -> Option<Secret> {
    let mut given = headers.get_all(AUTHORIZATION).iter();
    let (Some(one), None) = (given.next(), given.next()) else { return None };
    let (scheme, credential) = one.to_str().ok()?.split_once(' ')?;
    let credential = credential.trim_start_matches(' ');
    (scheme.eq_ignore_ascii_case("bearer") && !credential.is_empty()).then(|| Secret::new(credential))
}

/// Why a request does not get through.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Refusal {
    Credential,
    Denied,
    Undecided,
}

impl From<GatewayError> for Refusal {
    fn from(error: GatewayError) -> Self {
        match error {
            GatewayError::Refused => Refusal::Credential,
            GatewayError::Invalid(_) | GatewayError::Unavailable(_) => Refusal::Undecided,
        }
    }
}

impl Refusal {
    fn response<B: From<&'static str>>(self) -> Response<B> {
        let (status, body) = match self {
            Refusal::Credential => (StatusCode::UNAUTHORIZED, r#"{"error":"auth failure"}"#),
            Refusal::Denied => (StatusCode::FORBIDDEN, r#"{"error":"access denied"}"#),
            Refusal::Undecided => (StatusCode::SERVICE_UNAVAILABLE, r#"{"error":"unavailable"}"#),
        };
        let mut response = Response::new(B::from(body));
        *response.status_mut() = status;
        response.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static("application/json"));
        if self == Refusal::Credential {
            response.headers_mut().insert(WWW_AUTHENTICATE, HeaderValue::from_static("Bearer"));
        }
        response
    }
}

impl<S> Layer<S> for Protect {
    type Service = Protected<S>;

    fn layer(&self, inner: S) -> Protected<S> {
        Protected { protect: self.clone(), inner }
    }
}

/// A service behind [`Protect`].
#[derive(Debug, Clone)]
pub struct Protected<S> {
    protect: Protect,
    inner: S,
}

impl<S, B, R> Service<Request<B>> for Protected<S>
where
    S: Service<Request<B>, Response = Response<R>> + Clone + Send + 'static,
    S::Future: Send,
    B: Send + 'static,
    R: From<&'static str>,
{
    type Response = Response<R>;
    type Error = S::Error;
    type Future = Pin<Box<dyn Future<Output = Result<Response<R>, S::Error>> + Send>>;

    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), S::Error>> {
        self.inner.poll_ready(cx)
    }

    fn call(&mut self, request: Request<B>) -> Self::Future {
        // The one that is ready is taken along, and a new one left in its place.
        let next = self.inner.clone();
        let mut inner = std::mem::replace(&mut self.inner, next);
        let protect = self.protect.clone();
        Box::pin(async move {
            let (mut parts, body) = request.into_parts();
            match protect.admit(&parts).await {
                Ok(identity) => {
                    parts.extensions.insert(identity);
                    inner.call(Request::from_parts(parts, body)).await
                }
                Err(refusal) => Ok(refusal.response()),
            }
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn credential_is_taken_from_one_bearer_header_alone() {
        for (given, expected) in [
            (&["Bearer tg_x"][..], Some("tg_x")),
            (&["bearer tg_x"], Some("tg_x")),
            (&["BEARER   tg_x"], Some("tg_x")),
            (&["Basic tg_x"], None),
            (&["Bearer"], None),
            (&["Bearer "], None),
            (&["tg_x"], None),
            (&["Bearer a", "Bearer a"], None),
            (&[], None),
        ] {
            let mut headers = HeaderMap::new();
            for value in given {
                headers.append(AUTHORIZATION, value.parse().unwrap());
            }
            assert_eq!(bearer(&headers).as_ref().map(Secret::expose), expected, "{given:?}");
        }
    }
}
