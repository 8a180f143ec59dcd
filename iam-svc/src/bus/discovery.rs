//! Registration as a NATS service: what `nats micro ls`, `info` and `stats` ask for.
//!
//! The client library's own service support costs a tenth of the throughput, since it takes every request in
//! hand; this answers the questions about us and leaves the requests alone.
//!
//! Source: NATS ADR-32.

use std::collections::BTreeMap;
use std::sync::Arc;

use async_nats::{Client, Message, SubscribeError};
use futures_util::stream::select_all;
use futures_util::{Stream, StreamExt};
use iam_schema::subject::{Plane, QUEUE_GROUP, Subjects};
use iam_schema::{OperationName, Timestamp};
use serde::Serialize;

use super::message::reply_subject;
use crate::telemetry::Metrics;

/// The name by which we are found.
const NAME: &str = "iam-svc";

/// Who we are, for whoever asks.
#[derive(Debug)]
pub(super) struct Discovery {
    pub(super) instance: String,
    pub(super) started: Timestamp,
    pub(super) subjects: Subjects,
    pub(super) metrics: Arc<Metrics>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Verb {
    Ping,
    Info,
    Stats,
}

impl Verb {
    const ALL: [Verb; 3] = [Verb::Ping, Verb::Info, Verb::Stats];

    const fn as_str(self) -> &'static str {
        match self {
            Verb::Ping => "PING",
            Verb::Info => "INFO",
            Verb::Stats => "STATS",
        }
    }
}

#[derive(Debug, Serialize)]
struct Answer<'a> {
    #[serde(rename = "type")]
    kind: &'static str,
    name: &'static str,
    id: &'a str,
    version: &'static str,
    metadata: BTreeMap<&'static str, &'static str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    description: Option<&'static str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    started: Option<Timestamp>,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    endpoints: Vec<Endpoint>,
}

#[derive(Debug, Serialize)]
struct Endpoint {
    name: &'static str,
    subject: String,
    queue_group: &'static str,
    #[serde(skip_serializing_if = "Option::is_none")]
    metadata: Option<BTreeMap<&'static str, &'static str>>,
    #[serde(flatten, skip_serializing_if = "Option::is_none")]
    stats: Option<Stats>,
}

#[derive(Debug, Serialize)]
struct Stats {
    num_requests: u64,
    num_errors: u64,
    last_error: String,
    /// Nanoseconds, as the average below.
    processing_time: u64,
    average_processing_time: u64,
}

impl Discovery {
    /// Subscribes to the questions, each of which may come to all services, to all of this name, or to us.
    ///
    /// # Errors
    /// When the connection is gone.
    pub(super) async fn subscribe(
        &self,
        client: &Client,
    ) -> Result<impl Stream<Item = (Verb, Message)> + Send + Unpin + use<>, SubscribeError> {
        let mut questions = Vec::new();
        for verb in Verb::ALL {
            let base = format!("$SRV.{}", verb.as_str());
            let subjects =
                [base.clone(), format!("{base}.{NAME}"), format!("{base}.{NAME}.{}", self.instance)];
            for subject in subjects {
                questions.push(client.subscribe(subject).await?.map(move |message| (verb, message)));
            }
        }
        Ok(select_all(questions))
    }

    /// Answers until the connection ends.
    pub(super) async fn answer_all(
        self,
        client: Client,
        mut questions: impl Stream<Item = (Verb, Message)> + Send + Unpin,
    ) {
        while let Some((verb, message)) = questions.next().await {
            let Ok(to) = reply_subject(message.reply, &self.subjects) else { continue };
            match self.answer(verb) {
                Ok(payload) => {
                    if let Err(error) = client.publish(to, payload.into()).await {
                        tracing::warn!(%error, "cannot answer a discovery question");
                    }
                }
                Err(error) => tracing::error!(%error, "discovery answer cannot be written"),
            }
        }
    }

    fn answer(&self, verb: Verb) -> Result<Vec<u8>, serde_json::Error> {
        let (kind, description, started, endpoints) = match verb {
            Verb::Ping => ("io.nats.micro.v1.ping_response", None, None, Vec::new()),
            Verb::Info => {
                let about = "Identity and access: authentication, authorization, users, API keys, workspaces";
                ("io.nats.micro.v1.info_response", Some(about), None, self.endpoints(false))
            }
            Verb::Stats => {
                ("io.nats.micro.v1.stats_response", None, Some(self.started), self.endpoints(true))
            }
        };
        serde_json::to_vec(&Answer {
            kind,
            name: NAME,
            id: &self.instance,
            version: env!("CARGO_PKG_VERSION"),
            metadata: BTreeMap::new(),
            description,
            started,
            endpoints,
        })
    }

    /// One for each operation, whatever the plane.
    fn endpoints(&self, stats: bool) -> Vec<Endpoint> {
        let endpoint = |operation: &OperationName| Endpoint {
            name: operation.as_str(),
            subject: either_plane(&self.subjects, *operation),
            queue_group: QUEUE_GROUP,
            metadata: (!stats).then(BTreeMap::new),
            stats: stats.then(|| {
                let reading = self.metrics.endpoint(*operation);
                Stats {
                    num_requests: reading.requests,
                    num_errors: reading.errors,
                    last_error: reading
                        .last_error
                        .map(|kind| format!("{}:{kind}", kind.code()))
                        .unwrap_or_default(),
                    processing_time: reading.processing_ns,
                    average_processing_time: reading.processing_ns.checked_div(reading.requests).unwrap_or(0),
                }
            }),
        };
        OperationName::ALL.iter().map(endpoint).collect()
    }
}

/// The subject of an operation on whichever plane: `iam.v1.*.login`.
fn either_plane(subjects: &Subjects, operation: OperationName) -> String {
    let service = subjects.operation(Plane::Service, operation);
    let root = service.strip_suffix(&format!(".{}.{operation}", Plane::Service.as_str())).unwrap_or_default();
    format!("{root}.*.{operation}")
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use iam_schema::ErrorKind;
    use serde_json::Value;

    use super::*;

    fn answer(verb: Verb) -> Value {
        let metrics = Arc::new(Metrics::new());
        let took = Duration::from_nanos(10);
        metrics.request(Plane::Service, Some(OperationName::Login), None, took);
        metrics.request(Plane::Api, Some(OperationName::Login), Some(ErrorKind::Throttled), took);
        let started = Timestamp::from_millis(0);
        let discovery = Discovery { instance: "x".into(), started, subjects: Subjects::default(), metrics };
        serde_json::from_slice(&discovery.answer(verb).unwrap()).unwrap()
    }

    #[test]
    fn answers_have_the_fields_of_the_standard() {
        let ping = answer(Verb::Ping);
        assert_eq!(
            (&ping["type"], &ping["name"]),
            (&"io.nats.micro.v1.ping_response".into(), &"iam-svc".into())
        );
        assert!(ping["metadata"].is_object() && ping["id"] == "x");
        let info = answer(Verb::Info);
        assert_eq!(info["endpoints"].as_array().unwrap().len(), OperationName::ALL.len());
        let login = serde_json::json!({
            "name": "login", "subject": "iam.v1.*.login", "queue_group": "iam-svc", "metadata": {}
        });
        assert_eq!(info["endpoints"][0], login);
    }

    #[test]
    fn stats_count_both_planes() {
        let stats = answer(Verb::Stats);
        assert_eq!(stats["started"], "1970-01-01T00:00:00.000Z");
        let login = serde_json::json!({
            "name": "login", "subject": "iam.v1.*.login", "queue_group": "iam-svc", "num_requests": 2,
            "num_errors": 1, "last_error": "429:throttled", "processing_time": 20, "average_processing_time": 10
        });
        assert_eq!(stats["endpoints"][0], login);
    }
}
