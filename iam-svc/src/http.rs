//! `/livez`, `/readyz` and `/metrics`, on a local address.

use std::future::Future;
use std::net::SocketAddr;
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use axum::Router;
use axum::extract::State;
use axum::http::{StatusCode, header};
use axum::response::IntoResponse;
use axum::routing::get;
use tokio::net::TcpListener;

use crate::bus::Status;
use crate::exit::{Cause, Exit};
use crate::store::Store;
use crate::telemetry::Metrics;

/// How long the store may take to say that it is there.
const STORE: Duration = Duration::from_secs(2);

/// What the endpoints report on. The bus is put in once it stands: until then nothing is ready.
#[derive(Debug)]
pub struct Health {
    pub store: Arc<dyn Store>,
    pub metrics: Arc<Metrics>,
    pub bus: OnceLock<Status>,
}

impl Health {
    /// Why requests would not be answered as they should, or `None` if they would.
    async fn problem(&self) -> Option<String> {
        let Some(bus) = self.bus.get() else { return Some("starting".to_owned()) };
        if let Some(problem) = bus.problem() {
            return Some(problem);
        }
        let store = async {
            self.store.ping().await?;
            self.store.seed_state().await
        };
        match tokio::time::timeout(STORE, store).await {
            Ok(Ok(_)) => None,
            Ok(Err(error)) => Some(error.to_string()),
            Err(_) => Some("the store does not answer".to_owned()),
        }
    }
}

/// Listens, and then serves until dropped or aborted. Gives the address, which tells the port where 0 was asked
/// for, and what serves.
///
/// # Errors
/// `Configuration` when the address cannot be listened on.
pub async fn serve(
    address: SocketAddr,
    health: Arc<Health>,
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

async fn readyz(State(health): State<Arc<Health>>) -> impl IntoResponse {
    match health.problem().await {
        None => (StatusCode::OK, "ready\n".to_owned()),
        Some(problem) => (StatusCode::SERVICE_UNAVAILABLE, format!("{problem}\n")),
    }
}

async fn metrics(State(health): State<Arc<Health>>) -> impl IntoResponse {
    const OPENMETRICS: &str = "application/openmetrics-text; version=1.0.0; charset=utf-8";
    match health.metrics.text() {
        Ok(text) => (StatusCode::OK, [(header::CONTENT_TYPE, OPENMETRICS)], text),
        Err(_) => (StatusCode::INTERNAL_SERVER_ERROR, [(header::CONTENT_TYPE, "text/plain")], String::new()),
    }
}
