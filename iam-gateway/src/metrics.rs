//! How it goes, in numbers.

use std::time::Duration;

use prometheus_client::encoding::EncodeLabelSet;
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::{Family, MetricConstructor};
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::metrics::histogram::Histogram;
use prometheus_client::registry::Registry;

/// Upper bounds of the duration histogram, in seconds: from what memory answers to what a hash under load takes.
const BUCKETS_S: [f64; 11] = [0.000_1, 0.000_3, 0.001, 0.003, 0.01, 0.03, 0.1, 0.3, 1.0, 3.0, 10.0];

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct RequestLabels {
    route: &'static str,
    status: u16,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct RouteLabels {
    route: &'static str,
}

#[derive(Debug, Clone)]
struct Durations;

impl MetricConstructor<Histogram> for Durations {
    fn new_metric(&self) -> Histogram {
        Histogram::new(BUCKETS_S)
    }
}

/// What is counted.
#[derive(Debug)]
pub struct Metrics {
    requests: Family<RequestLabels, Counter>,
    durations: Family<RouteLabels, Histogram, Durations>,
    pub connections: Gauge,
    pub sockets: Gauge,
    pub frames: Counter,
    pub turned_away: Counter,
    registry: Registry,
}

impl Metrics {
    /// Nothing counted yet.
    pub fn new() -> Self {
        let mut registry = Registry::with_prefix("iam_gateway");
        let requests = Family::default();
        registry.register("requests", "HTTP requests by route and status", requests.clone());
        let durations = Family::new_with_constructor(Durations);
        registry.register("request_duration_seconds", "Time to answer", durations.clone());
        let (connections, sockets) = (Gauge::default(), Gauge::default());
        registry.register("connections", "Connections, WebSockets among them", connections.clone());
        registry.register("sockets", "WebSockets", sockets.clone());
        let (frames, turned_away) = (Counter::default(), Counter::default());
        registry.register("frames", "Frames of WebSocket clients", frames.clone());
        registry.register("turned_away", "Requests turned away for want of room", turned_away.clone());
        Self { requests, durations, connections, sockets, frames, turned_away, registry }
    }

    /// All of it in the text format of OpenMetrics.
    ///
    /// # Errors
    /// Only if formatting fails, which writing to a string does not.
    pub fn text(&self) -> Result<String, std::fmt::Error> {
        let mut text = String::with_capacity(8 * 1024);
        prometheus_client::encoding::text::encode(&mut text, &self.registry)?;
        Ok(text)
    }

    /// Counts an answer.
    pub fn answered(&self, route: &'static str, status: u16, took: Duration) {
        self.requests.get_or_create(&RequestLabels { route, status }).inc();
        self.durations.get_or_create(&RouteLabels { route }).observe(took.as_secs_f64());
    }
}

impl Default for Metrics {
    fn default() -> Self {
        Self::new()
    }
}
