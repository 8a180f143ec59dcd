//! What `/livez`, `/readyz` and `/metrics` report on.

use std::sync::Arc;

use futures_util::FutureExt;
use futures_util::future::BoxFuture;
use iam_client::program::health::Health;

use crate::app::App;

/// A gateway, as its operators ask about it.
#[derive(Debug)]
pub struct Report(pub Arc<App>);

impl Health for Report {
    fn problem(&self) -> BoxFuture<'_, Option<String>> {
        std::future::ready(self.0.problem()).boxed()
    }

    fn metrics(&self) -> Result<String, std::fmt::Error> {
        self.0.metrics.text()
    }
}
