//! Metrics.

use std::sync::OnceLock;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::time::Duration;

use iam_schema::subject::Plane;
use iam_schema::{ErrorKind, OperationName};
use prometheus_client::encoding::EncodeLabelSet;
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::{Family, MetricConstructor};
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::metrics::histogram::Histogram;
use prometheus_client::registry::Registry;

use crate::store::Swept;

/// Upper bounds of the duration histogram, in seconds: from what memory answers to what a hash under load takes.
const BUCKETS_S: [f64; 13] =
    [0.000_01, 0.000_03, 0.000_1, 0.000_3, 0.001, 0.003, 0.01, 0.03, 0.1, 0.3, 1.0, 3.0, 10.0];

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct RequestLabels {
    operation: &'static str,
    plane: &'static str,
    outcome: &'static str,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct DurationLabels {
    operation: &'static str,
    plane: &'static str,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct ReasonLabels {
    reason: &'static str,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct ConnectionLabels {
    connection: &'static str,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct KindLabels {
    kind: &'static str,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct PlaneLabels {
    plane: &'static str,
}

/// Why a request got no answer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Dropped {
    /// It had no reply subject.
    NoReply,
    /// Its reply subject has a wildcard, or is none at all.
    BadReply,
    /// Its reply subject begins with `$`, where servers and services listen.
    SystemReply,
    /// Its reply subject is one of ours.
    OwnReply,
    /// Its deadline passed before work on it began.
    Deadline,
}

impl Dropped {
    /// Every reason.
    pub const ALL: [Dropped; 5] =
        [Dropped::NoReply, Dropped::BadReply, Dropped::SystemReply, Dropped::OwnReply, Dropped::Deadline];

    /// The reason as it stands in the metric's label.
    pub const fn as_str(self) -> &'static str {
        match self {
            Dropped::NoReply => "no-reply",
            Dropped::BadReply => "bad-reply",
            Dropped::SystemReply => "system-reply",
            Dropped::OwnReply => "own-reply",
            Dropped::Deadline => "deadline",
        }
    }
}

/// Which connection of a front.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum LinkKind {
    Service,
    Api,
    /// Audit and discovery.
    House,
}

impl LinkKind {
    /// The name in labels and logs.
    pub const fn as_str(self) -> &'static str {
        match self {
            LinkKind::Service => "service",
            LinkKind::Api => "api",
            LinkKind::House => "house",
        }
    }
}

/// The operations, and one place more for names that are none.
const OPERATIONS: usize = OperationName::ALL.len() + 1;
/// The kinds of error, and one place more for success.
const OUTCOMES: usize = ErrorKind::ALL.len() + 1;

/// Everything that is counted. Handles are kept, so that counting costs an atomic addition.
#[derive(Debug)]
pub struct Metrics {
    registry: Registry,
    requests: Family<RequestLabels, Counter>,
    durations: Family<DurationLabels, Histogram, Buckets>,
    /// By plane, operation and outcome, each made when first counted: most combinations never happen.
    request_handles: Vec<OnceLock<Counter>>,
    duration_handles: Vec<OnceLock<Histogram>>,
    dropped: [Counter; Dropped::ALL.len()],
    backlogs: [Gauge; 2],
    reconnects: Family<ConnectionLabels, Counter>,
    slow_consumers: Family<ConnectionLabels, Counter>,
    swept: Family<KindLabels, Counter>,
    endpoints: Vec<Endpoint>,
    /// Requests answered `unavailable` because too much was under way.
    pub overload_answers: Counter,
    /// Audit events given up: no room in a queue, or never acknowledged.
    pub audit_given_up: Counter,
    /// Audit events that wait for the stream's acknowledgement.
    pub audit_spool: Gauge,
    pub events_published: Counter,
    /// Passwords waiting to be hashed.
    pub hash_queue: Gauge,
    /// Passwords hashed, verified or measured.
    pub hashes: Counter,
}

#[derive(Debug, Clone)]
struct Buckets;

impl MetricConstructor<Histogram> for Buckets {
    fn new_metric(&self) -> Histogram {
        Histogram::new(BUCKETS_S)
    }
}

/// What an operation's endpoint tells about itself: both planes together.
#[derive(Debug, Default)]
struct Endpoint {
    requests: AtomicU64,
    errors: AtomicU64,
    processing_ns: AtomicU64,
    /// The place of the last error in [`ErrorKind::ALL`], plus one; 0 for none.
    last_error: AtomicUsize,
}

/// A reading of an endpoint.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct EndpointReading {
    pub requests: u64,
    pub errors: u64,
    pub processing_ns: u64,
    pub last_error: Option<ErrorKind>,
}

impl Default for Metrics {
    fn default() -> Self {
        Self::new()
    }
}

impl Metrics {
    /// All at zero.
    pub fn new() -> Self {
        let mut registry = Registry::with_prefix("iam");
        let requests = Family::<RequestLabels, Counter>::default();
        registry.register("requests", "Requests answered", requests.clone());
        let durations = Family::<DurationLabels, Histogram, Buckets>::new_with_constructor(Buckets);
        registry.register(
            "request_duration_seconds",
            "From taking a request off its subscription to its answer",
            durations.clone(),
        );
        let dropped = Family::<ReasonLabels, Counter>::default();
        registry.register("requests_dropped", "Requests that got no answer", dropped.clone());
        let backlog = Family::<PlaneLabels, Gauge>::default();
        registry.register("backlog", "Messages received and not yet handled", backlog.clone());
        let reconnects = Family::<ConnectionLabels, Counter>::default();
        registry.register(
            "nats_reconnects",
            "Connections to NATS that were lost and made again",
            reconnects.clone(),
        );
        let slow_consumers = Family::<ConnectionLabels, Counter>::default();
        registry.register(
            "nats_slow_consumers",
            "Notices of messages lost for want of room",
            slow_consumers.clone(),
        );

        let swept = Family::<KindLabels, Counter>::default();
        registry.register("swept", "Left-overs that housekeeping has cleared away", swept.clone());

        let counter = |registry: &mut Registry, name: &str, help: &str| {
            let counter = Counter::default();
            registry.register(name, help, counter.clone());
            counter
        };
        let overload_answers = counter(
            &mut registry,
            "overload_answers",
            "Requests answered unavailable for too much work under way",
        );
        let audit_given_up = counter(&mut registry, "audit_given_up", "Audit events that were given up");
        let events_published = counter(&mut registry, "events_published", "Change events published");
        let hashes = counter(&mut registry, "password_jobs", "Passwords hashed, verified or measured");
        let gauge = |registry: &mut Registry, name: &str, help: &str| {
            let gauge = Gauge::default();
            registry.register(name, help, gauge.clone());
            gauge
        };
        let audit_spool =
            gauge(&mut registry, "audit_spool", "Audit events waiting for their acknowledgement");
        let hash_queue = gauge(&mut registry, "hash_queue", "Passwords waiting to be hashed");

        Self {
            requests,
            durations,
            request_handles: (0..2 * OPERATIONS * OUTCOMES).map(|_| OnceLock::new()).collect(),
            duration_handles: (0..2 * OPERATIONS).map(|_| OnceLock::new()).collect(),
            dropped: Dropped::ALL.map(|r| dropped.get_or_create_owned(&ReasonLabels { reason: r.as_str() })),
            backlogs: [Plane::Service, Plane::Api]
                .map(|p| backlog.get_or_create_owned(&PlaneLabels { plane: p.as_str() })),
            reconnects,
            slow_consumers,
            swept,
            endpoints: OperationName::ALL.iter().map(|_| Endpoint::default()).collect(),
            overload_answers,
            audit_given_up,
            audit_spool,
            events_published,
            hash_queue,
            hashes,
            registry,
        }
    }

    /// Counts an answered request. `operation` is `None` for a name that is no operation.
    pub fn request(
        &self,
        plane: Plane,
        operation: Option<OperationName>,
        error: Option<ErrorKind>,
        took: Duration,
    ) {
        let name = operation.map_or("unknown", OperationName::as_str);
        let place = plane as usize * OPERATIONS + operation.map_or(OPERATIONS - 1, |o| o as usize);
        let outcome = error.map_or(0, |kind| kind as usize + 1);
        if let Some(handle) = self.request_handles.get(place * OUTCOMES + outcome) {
            let labels = || RequestLabels {
                operation: name,
                plane: plane.as_str(),
                outcome: error.map_or("success", ErrorKind::as_str),
            };
            handle.get_or_init(|| self.requests.get_or_create_owned(&labels())).inc();
        }
        if let Some(handle) = self.duration_handles.get(place) {
            let labels = || DurationLabels { operation: name, plane: plane.as_str() };
            let histogram = handle.get_or_init(|| self.durations.get_or_create_owned(&labels()));
            histogram.observe(took.as_secs_f64());
        }
        if let Some(endpoint) = operation.and_then(|o| self.endpoints.get(o as usize)) {
            let ns = u64::try_from(took.as_nanos()).unwrap_or(u64::MAX);
            endpoint.requests.fetch_add(1, Ordering::Relaxed);
            endpoint.processing_ns.fetch_add(ns, Ordering::Relaxed);
            if error.is_some() {
                endpoint.errors.fetch_add(1, Ordering::Relaxed);
                endpoint.last_error.store(outcome, Ordering::Relaxed);
            }
        }
    }

    /// Counts what a round of housekeeping has cleared away.
    pub fn swept(&self, swept: Swept) {
        let Swept { claims, index_rows, keys, key_names } = swept;
        let kinds = [("claim", claims), ("index-row", index_rows), ("key", keys), ("key-name", key_names)];
        for (kind, count) in kinds {
            self.swept.get_or_create(&KindLabels { kind }).inc_by(count);
        }
    }

    /// Counts a request that got no answer.
    pub fn dropped(&self, reason: Dropped) {
        if let Some(counter) = self.dropped.get(reason as usize) {
            counter.inc();
        }
    }

    /// Notes how many messages wait on a plane.
    pub fn backlog(&self, plane: Plane, messages: u64) {
        if let Some(gauge) = self.backlogs.get(plane as usize) {
            gauge.set(i64::try_from(messages).unwrap_or(i64::MAX));
        }
    }

    /// Counts a connection that was lost and stands again.
    pub fn reconnected(&self, connection: LinkKind) {
        self.reconnects.get_or_create(&ConnectionLabels { connection: connection.as_str() }).inc();
    }

    /// Counts a notice that messages were lost because we were too slow.
    pub fn slow_consumer(&self, connection: LinkKind) {
        self.slow_consumers.get_or_create(&ConnectionLabels { connection: connection.as_str() }).inc();
    }

    /// What was counted for an operation so far.
    pub fn endpoint(&self, operation: OperationName) -> EndpointReading {
        let Some(endpoint) = self.endpoints.get(operation as usize) else {
            return EndpointReading::default();
        };
        EndpointReading {
            requests: endpoint.requests.load(Ordering::Relaxed),
            errors: endpoint.errors.load(Ordering::Relaxed),
            processing_ns: endpoint.processing_ns.load(Ordering::Relaxed),
            last_error: endpoint
                .last_error
                .load(Ordering::Relaxed)
                .checked_sub(1)
                .and_then(|place| ErrorKind::ALL.get(place).copied()),
        }
    }

    /// All metrics in the text format of OpenMetrics.
    ///
    /// # Errors
    /// Only if formatting fails, which writing to a string does not.
    pub fn text(&self) -> Result<String, std::fmt::Error> {
        let mut text = String::with_capacity(16 * 1024);
        prometheus_client::encoding::text::encode(&mut text, &self.registry)?;
        Ok(text)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn places_of_operations_and_kinds_are_those_of_their_lists() {
        for (place, operation) in OperationName::ALL.iter().enumerate() {
            assert_eq!(*operation as usize, place, "{operation}");
        }
        for (place, kind) in ErrorKind::ALL.iter().enumerate() {
            assert_eq!(*kind as usize, place, "{kind}");
        }
        for (place, reason) in Dropped::ALL.iter().enumerate() {
            assert_eq!(*reason as usize, place);
        }
    }

    #[test]
    fn request_is_counted_by_operation_plane_and_outcome() {
        let metrics = Metrics::new();
        let took = Duration::from_micros(20);
        metrics.request(Plane::Api, Some(OperationName::Login), Some(ErrorKind::AuthFailed), took);
        metrics.request(Plane::Service, Some(OperationName::Login), None, took);
        metrics.request(Plane::Service, None, Some(ErrorKind::InvalidArgument), took);
        metrics.dropped(Dropped::OwnReply);
        let text = metrics.text().unwrap();
        for line in [
            r#"iam_requests_total{operation="login",plane="api",outcome="auth-failed"} 1"#,
            r#"iam_requests_total{operation="login",plane="svc",outcome="success"} 1"#,
            r#"iam_requests_total{operation="unknown",plane="svc",outcome="invalid-argument"} 1"#,
            r#"iam_request_duration_seconds_count{operation="login",plane="svc"} 1"#,
            r#"iam_requests_dropped_total{reason="own-reply"} 1"#,
        ] {
            assert!(text.contains(line), "{line} in {text}");
        }
        let reading = metrics.endpoint(OperationName::Login);
        let expected = EndpointReading {
            requests: 2,
            errors: 1,
            processing_ns: 40_000,
            last_error: Some(ErrorKind::AuthFailed),
        };
        assert_eq!(reading, expected);
    }
}
