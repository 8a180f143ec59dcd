//! What `/livez`, `/readyz` and `/metrics` report on.

use std::sync::{Arc, OnceLock};
use std::time::Duration;

use futures_util::FutureExt;
use futures_util::future::BoxFuture;
use iam_client::program::health::Health;

use crate::bus::Status;
use crate::store::Store;
use crate::telemetry::Metrics;

/// How long the store may take to say that it is there.
const STORE: Duration = Duration::from_secs(2);

/// What the endpoints report on. The bus is put in once it stands: until then nothing is ready.
#[derive(Debug)]
pub struct Report {
    pub store: Arc<dyn Store>,
    pub metrics: Arc<Metrics>,
    pub bus: OnceLock<Status>,
}

impl Health for Report {
    fn problem(&self) -> BoxFuture<'_, Option<String>> {
        async {
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
        .boxed()
    }

    fn metrics(&self) -> Result<String, std::fmt::Error> {
        self.metrics.text()
    }
}
