//! Paths, and what holds for all of them: an id, a place, and headers that keep answers out of caches.

use std::sync::Arc;
use std::time::{Duration, Instant};

use axum::extract::{Request, State};
use axum::handler::Handler;
use axum::http::header::{AUTHORIZATION, CACHE_CONTROL, CONTENT_TYPE};
use axum::http::{HeaderName, HeaderValue, Method};
use axum::middleware::{Next, from_fn_with_state};
use axum::response::{IntoResponse, Response};
use axum::routing::{MethodRouter, any, get, post};
use axum::{Extension, Router};
use tower_http::cors::{AllowOrigin, Any, CorsLayer};
use uuid::Uuid;

use crate::app::App;
use crate::config::Cors;
use crate::failure::Failure;
use crate::line::Line;
use crate::peer::Peer;
use crate::{auth, iam, keys, socket};

/// The longest id that somebody may give a request.
const MAX_ID: usize = 128;
/// For how many seconds a browser may remember what an origin may.
const CORS_AGE: Duration = Duration::from_secs(600);

const REQUEST_ID: HeaderName = HeaderName::from_static("x-request-id");
const NO_SNIFF: HeaderName = HeaderName::from_static("x-content-type-options");

/// The document that describes what is served.
pub const OPENAPI: &str = include_str!("openapi.json");

/// A path, and what serves it there.
struct Route {
    path: &'static str,
    serves: MethodRouter<Arc<App>>,
    place: Place,
    /// Whether pages of other origins may call it, where any may.
    cors: bool,
}

/// When a request takes its place among those that are answered at a time.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Place {
    AtOnce,
    /// Once its body has come: whoever is slow keeps nobody out.
    AfterBody,
    /// It stays open, and is counted by its connection.
    None,
}

fn routes() -> Vec<Route> {
    fn only(serves: MethodRouter<Arc<App>>) -> MethodRouter<Arc<App>> {
        serves.fallback(|| async { Failure::MethodNotAllowed })
    }
    fn answers<H: Handler<T, Arc<App>>, T: 'static>(path: &'static str, handler: H) -> Route {
        Route { path, serves: only(post(handler)), place: Place::AfterBody, cors: true }
    }
    fn shows<H: Handler<T, Arc<App>>, T: 'static>(path: &'static str, handler: H) -> Route {
        Route { path, serves: only(get(handler)), place: Place::AtOnce, cors: true }
    }
    vec![
        answers("/api/v1/auth/login", auth::login),
        answers("/api/v1/auth/bootstrap", auth::bootstrap),
        answers("/api/v1/auth/bootstrap-status", auth::bootstrap_status),
        answers("/api/v1/auth/change-password", auth::change_password),
        // Whoever asks it may take any success for a yes, and that of a preflight is none.
        Route { path: "/api/v1/auth/verify", serves: any(auth::verify), place: Place::AtOnce, cors: false },
        answers("/api/v1/iam", iam::iam),
        Route { path: "/api/v1/socket", serves: only(get(socket::upgrade)), place: Place::None, cors: true },
        shows("/api/v1/openapi.json", openapi),
        shows("/.well-known/jwks.json", keys::jwks),
        shows("/.well-known/signing-key.pem", keys::public_key),
    ]
}

/// Everything that is served.
pub fn router(app: Arc<App>) -> Router {
    let mut router = Router::new();
    for Route { path, serves, place, cors } in routes() {
        let watched = move |app, peer, request, next| watch(app, peer, request, next, path, place);
        let mut serves = serves.layer(from_fn_with_state(app.clone(), watched));
        if let Some(origins) = app.cors.as_ref().filter(|_| cors) {
            serves = serves.layer(cors_layer(origins));
        }
        router = router.route(path, serves);
    }
    let unknown = |app, peer, request, next| watch(app, peer, request, next, "unknown", Place::AtOnce);
    let fallback = any(|| async { Failure::UnknownPath }).layer(from_fn_with_state(app.clone(), unknown));
    router.fallback_service(fallback.with_state::<()>(app.clone())).with_state(app)
}

fn cors_layer(cors: &Cors) -> CorsLayer {
    let layer = CorsLayer::new()
        .allow_methods([Method::GET, Method::POST])
        .allow_headers([AUTHORIZATION, CONTENT_TYPE, REQUEST_ID])
        .expose_headers([REQUEST_ID])
        .max_age(CORS_AGE);
    match cors {
        Cors::Anywhere => layer.allow_origin(Any),
        Cors::From(origins) => layer.allow_origin(AllowOrigin::list(origins.iter().cloned())),
    }
}

async fn openapi() -> Response {
    ([(CONTENT_TYPE, "application/json")], OPENAPI).into_response()
}

/// Gives a request its id and its place, and counts its answer.
async fn watch(
    State(app): State<Arc<App>>,
    Extension(peer): Extension<Peer>,
    mut request: Request,
    next: Next,
    route: &'static str,
    place: Place,
) -> Response {
    let begun = Instant::now();
    let request_id: Arc<str> = match request.headers().get(REQUEST_ID).map(HeaderValue::to_str) {
        Some(Ok(id)) if is_id(id) => id.into(),
        _ => new_request_id().into(),
    };
    let client_ip = peer.client(request.headers(), &app.trusted_proxies);
    request.extensions_mut().insert(Line { request_id: request_id.clone(), client_ip });
    let mut response = match place {
        Place::AtOnce => match app.place() {
            Ok(_place) => next.run(request).await,
            Err(failure) => failure.into_response(),
        },
        Place::AfterBody | Place::None => next.run(request).await,
    };
    let headers = response.headers_mut();
    if let Ok(id) = HeaderValue::from_str(&request_id) {
        headers.insert(REQUEST_ID, id);
    }
    headers.insert(NO_SNIFF, HeaderValue::from_static("nosniff"));
    headers.entry(CACHE_CONTROL).or_insert(HeaderValue::from_static("no-store"));
    let (status, took) = (response.status().as_u16(), begun.elapsed());
    app.metrics.answered(route, status, took);
    tracing::debug!(event = "iam.http", route, status, %client_ip, request_id = %request_id, ?took, "answered");
    response
}

/// An id that may go on into headers, events and logs.
fn is_id(text: &str) -> bool {
    (1..=MAX_ID).contains(&text.len())
        && text.bytes().all(|b| b.is_ascii_alphanumeric() || matches!(b, b'-' | b'_' | b'.' | b':'))
}

#[expect(clippy::disallowed_methods, reason = "a request id decides nothing")]
fn new_request_id() -> String {
    Uuid::now_v7().to_string()
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use serde_json::Value;

    use super::*;
    use crate::operations::REGISTRY;

    #[test]
    fn document_describes_every_path_and_every_operation_and_no_other() {
        let document: Value = serde_json::from_str(OPENAPI).unwrap();
        let described: BTreeSet<&str> =
            document["paths"].as_object().unwrap().keys().map(String::as_str).collect();
        let served: BTreeSet<&str> = routes().iter().map(|route| route.path).collect();
        assert_eq!(described, served);
        let names = &document["components"]["schemas"]["IamRequest"]["properties"]["operation"]["enum"];
        let described: BTreeSet<&str> = names.as_array().unwrap().iter().filter_map(Value::as_str).collect();
        assert_eq!(described, REGISTRY.iter().map(|(name, _)| name).collect());
        assert_eq!(document["info"]["version"], env!("CARGO_PKG_VERSION"));
    }

    #[test]
    fn ids_that_could_forge_a_log_line_are_replaced() {
        for good in ["a", "01a0ce87-ea1a-7bb6-ae10-295948688e1d", "req:1.2_3"] {
            assert!(is_id(good), "{good}");
        }
        for bad in ["", "a b", "a\tb", "a\"b", &"a".repeat(129)] {
            assert!(!is_id(bad), "{bad}");
        }
    }
}
