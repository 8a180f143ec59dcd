//! `/livez`, `/readyz` and `/metrics`, on a local address.

use std::future::Future;
use std::net::SocketAddr;
use std::sync::Arc;

use axum::Router;
use axum::extract::State;
use axum::http::{StatusCode, header};
use axum::response::IntoResponse;
use axum::routing::get;
use futures_util::future::BoxFuture;
use tokio::net::TcpListener;

use super::exit::{Cause, Exit};

/// What the endpoints report on.
pub trait Health: Send + Sync + 'static {
    /// Why requests would not be answered as they should, or `None` if they would.
    fn problem(&self) -> BoxFuture<'_, Option<String>>;

    /// All metrics in the text format of OpenMetrics.
    ///
    /// # Errors
    /// Only if formatting fails, which writing to a string does not.
    fn metrics(&self) -> Result<String, std::fmt::Error>;
}

/// Reads where the endpoints are served; `None` for `off`.
///
/// # Errors
/// In words, for what is no address.
pub fn address(text: &str) -> Result<Option<SocketAddr>, String> {
    match text {
        "off" => Ok(None),
        _ => text.parse().map(Some).map_err(|_| "must be an IP address and a port, or `off`".to_owned()),
    }
}

/// Listens, and then serves until dropped or aborted. Gives the address, which tells the port where 0 was asked
/// for, and what serves.
///
/// # Errors
/// `Configuration` when the address cannot be listened on.
pub async fn serve(
    address: SocketAddr,
    health: Arc<dyn Health>,
) -> Result<(SocketAddr, impl Future<Output = ()> + Send + use<>), Exit> {
    let refused = |e: std::io::Error| {
        Exit::new(Cause::Configuration, format!("--http-addr: cannot listen on {address}: {e}"))
    };
    let listener = TcpListener::bind(address).await.map_err(refused)?;
    let address = listener.local_addr().map_err(refused)?;
    let router = Router::new()
        .route("/livez", get(|| async { "ok\n" }))
        .route("/readyz", get(readyz))
        .route("/metrics", get(metrics))
        .with_state(health);
    let serving = async move {
        if let Err(error) = axum::serve(listener, router).await {
            tracing::error!(%error, "health endpoints ended");
        }
    };
    Ok((address, serving))
}

async fn readyz(State(health): State<Arc<dyn Health>>) -> impl IntoResponse {
    match health.problem().await {
        None => (StatusCode::OK, "ready\n".to_owned()),
        Some(problem) => (StatusCode::SERVICE_UNAVAILABLE, format!("{problem}\n")),
    }
}

async fn metrics(State(health): State<Arc<dyn Health>>) -> impl IntoResponse {
    const OPENMETRICS: &str = "application/openmetrics-text; version=1.0.0; charset=utf-8";
    match health.metrics() {
        Ok(text) => (StatusCode::OK, [(header::CONTENT_TYPE, OPENMETRICS)], text),
        Err(_) => (StatusCode::INTERNAL_SERVER_ERROR, [(header::CONTENT_TYPE, "text/plain")], String::new()),
    }
}
