//! The gateway: HTTP and WebSocket in front of the bus.
//!
//! Code map, in the order in which a request passes:
//!
//! - [`server`], [`connection`]: connections; TLS, limits, draining
//! - [`routes`], [`line`]: paths, and what is known of each request
//! - [`auth`], [`iam`], [`keys`], [`socket`]: what is served; [`body`]: what has to come in for it
//! - [`app`]: a request to its answer: authenticate, decide, forward
//! - [`operations`]: which operations there are, and what each needs
//! - [`published`]: what everybody may have, kept for a moment
//! - [`shown`], [`failure`]: answers and refusals as clients see them
//!
//! Around it: [`config`] reads the settings, [`peer`] tells from where a request comes, [`metrics`] and [`health`] how it
//! goes. Imports point down this list.
//!
//! Deliberately absent: decisions. Whether somebody may is asked of [`iam_client::gateway::Gateway`], and the service
//! decides again, with the caller as actor; nothing is believed that stands in a body.

pub mod config;

pub mod connection;
pub mod server;

pub mod line;
pub mod routes;

pub mod auth;
pub mod body;
pub mod iam;
pub mod keys;
pub mod socket;

pub mod app;

pub mod operations;
pub mod published;

pub mod failure;
pub mod shown;

pub mod health;
pub mod metrics;
pub mod peer;

use std::future::Future;
use std::sync::Arc;
use std::time::Duration;

use iam_client::gateway::{Gateway, Setting};
use iam_client::program::exit::{Cause, Exit};
use iam_client::{Client, ConnectError, Connection};
use tokio::time::Instant;

use crate::app::App;
use crate::config::Config;
use crate::health::Report;
use crate::server::Server;

/// How long NATS may take to be reachable at start.
const START: Duration = Duration::from_secs(60);
/// The pause before it is tried again.
const RETRY: Duration = Duration::from_millis(250);
/// How long draining may take: what service managers and people wait without growing restless.
const DRAIN: Duration = Duration::from_secs(9);
/// How long what the audit is told at the end may take to leave.
const LAST_BYTES: Duration = Duration::from_millis(500);

/// Runs the gateway until `shutdown`, and then drains it.
///
/// It serves as soon as NATS is reached; until the service was heard, what it must decide is `unavailable`.
///
/// # Errors
/// Whatever keeps it from starting, each with its exit code.
pub async fn run(config: Config, shutdown: impl Future<Output = ()>) -> Result<(), Exit> {
    tokio::pin!(shutdown);
    let server = Server::bind(&config).await?;
    let connected = tokio::select! {
        connected = connect(&config, Instant::now() + START) => connected?,
        () = &mut shutdown => return Ok(()),
    };
    let (gateway, api) = connected;
    let app = Arc::new(App::new(gateway.clone(), api, &config));
    let http = match config.http {
        Some(address) => {
            Some(iam_client::program::health::serve(address, Arc::new(Report(app.clone()))).await?)
        }
        None => None,
    };
    let (http_address, http) = http.unzip();
    let http = http.map(tokio::spawn);
    let address = server.address();
    let serving = server.serve(app.clone());
    tracing::info!(event = "iam.listening", %address, tls = config.tls.is_some(), "listening");
    let ready = async {
        while gateway.ready(START).await.is_err() {
            tracing::warn!("iam-svc was not heard yet");
        }
    };
    let ready = tokio::select! {
        () = ready => true,
        () = &mut shutdown => false,
    };
    if ready {
        tracing::info!(
            event = "iam.ready",
            %address,
            version = env!("CARGO_PKG_VERSION"),
            http = http_address.map(tracing::field::display),
            "ready"
        );
        shutdown.await;
    }
    tracing::info!(event = "iam.draining", "draining");
    app.drain();
    serving.drain(Instant::now() + DRAIN).await;
    let _ = tokio::time::timeout(LAST_BYTES, gateway.tell_audit()).await;
    if let Some(http) = http {
        http.abort();
    }
    tracing::info!(event = "iam.stopped", "stopped");
    Ok(())
}

/// Connects, and tries again until the deadline.
async fn connect(config: &Config, deadline: Instant) -> Result<(Gateway, Client), Exit> {
    let setting = Setting {
        issuer: config.issuer.clone(),
        audience: config.audience.clone(),
        deadline: config.limits.deadline,
        producer: "iam-gateway".to_owned(),
        ..Setting::default()
    };
    let mut told = String::new();
    loop {
        let error = match open(&config.nats, setting.clone()).await {
            Ok((gateway, api)) => return Ok((gateway, api.with_deadline(config.limits.deadline))),
            Err(error) => error,
        };
        let reason = error.to_string();
        match error {
            ConnectError::Setting { .. } => return Err(Exit::new(Cause::Configuration, reason)),
            ConnectError::Refused { .. } | ConnectError::Unreachable { .. } => {}
        }
        if Instant::now() + RETRY >= deadline {
            return Err(Exit::new(Cause::Unreachable, reason));
        }
        if reason != told {
            tracing::warn!(reason, "cannot connect to NATS yet");
            told = reason;
        }
        tokio::time::sleep(RETRY).await;
    }
}

async fn open(nats: &Connection, setting: Setting) -> Result<(Gateway, Client), ConnectError> {
    let api = Client::connect(nats).await?;
    Ok((Gateway::connect(nats, setting).await?, api))
}
