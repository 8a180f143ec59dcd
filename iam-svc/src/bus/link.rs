//! A connection to NATS, as its events tell of it.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use async_nats::connection::State;
use async_nats::{Client, Event, ServerError};
use tokio::time::Instant;

use crate::telemetry::{LinkKind, Metrics};

/// The shortest time between two log lines about the same thing.
const LOG_GATE: Duration = Duration::from_secs(5);
/// How long a server may take to refuse a subscription: more than a round trip.
const REFUSING: Duration = Duration::from_secs(2);

/// A connection, as its events tell of it.
#[derive(Debug)]
pub(super) struct Link {
    pub(super) connection: LinkKind,
    pub(super) front: usize,
    metrics: Arc<Metrics>,
    pub(super) client: std::sync::OnceLock<Client>,
    lost: AtomicBool,
    /// The loss was logged, and so its end will be.
    told: AtomicBool,
    refusal: Mutex<Refusal>,
    gate: Mutex<LogGate>,
}

impl Link {
    pub(super) fn new(connection: LinkKind, front: usize, metrics: Arc<Metrics>) -> Self {
        Self {
            connection,
            front,
            metrics,
            client: std::sync::OnceLock::new(),
            lost: AtomicBool::new(false),
            told: AtomicBool::new(false),
            refusal: Mutex::default(),
            gate: Mutex::default(),
        }
    }

    pub(super) fn connected(&self) -> bool {
        self.client.get().is_some_and(|client| client.connection_state() == State::Connected)
    }

    /// The API plane's connection can be cut by whoever may publish there, and discovery is a comfort: neither
    /// makes the replica less ready, unless the server refuses what they need.
    pub(super) fn problem(&self) -> Option<String> {
        if self.connection == LinkKind::House {
            return None;
        }
        if let Some(refused) = self.refusal().in_force(Instant::now()) {
            return Some(format!("NATS refuses: {refused}"));
        }
        let cut = self.connection == LinkKind::Service && !self.connected();
        cut.then(|| "not connected to NATS".to_owned())
    }

    fn refusal(&self) -> MutexGuard<'_, Refusal> {
        self.refusal.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Connects anew where the server does not allow a subscription that is needed: it has forgotten that one,
    /// and should it change its mind, only a new connection brings it back.
    pub(super) async fn subscribe_again(&self) {
        let refused = self.problem().is_some() && self.refusal().in_force(Instant::now()).is_some();
        if let (true, Some(client)) = (refused, self.client.get()) {
            // It only fails when the connection was closed for good.
            let _ = client.force_reconnect().await;
        }
    }

    /// Notes what happened to the connection. Each change of state is logged once, and no more often than the
    /// gate lets through: the connection of the API plane can be cut as often as somebody likes.
    pub(super) fn event(&self, event: Event) {
        let name = self.connection.as_str();
        let opens = || self.gate.lock().unwrap_or_else(PoisonError::into_inner).opens();
        match event {
            Event::Connected => {
                if self.lost.swap(false, Ordering::Relaxed) {
                    self.refusal().connected = Some(Instant::now());
                    self.metrics.reconnected(self.connection);
                    if self.told.swap(false, Ordering::Relaxed) {
                        tracing::info!(connection = name, front = self.front, "connected to NATS again");
                    }
                }
            }
            Event::Disconnected => {
                self.lost.store(true, Ordering::Relaxed);
                if opens() {
                    self.told.store(true, Ordering::Relaxed);
                    tracing::warn!(
                        connection = name,
                        front = self.front,
                        "connection to NATS lost: reconnecting"
                    );
                }
            }
            Event::SlowConsumer(_) => {
                self.metrics.slow_consumer(self.connection);
                if opens() {
                    tracing::error!(
                        connection = name,
                        front = self.front,
                        "messages were lost: too many at once"
                    );
                }
            }
            Event::ServerError(ServerError::Other(text)) => {
                if opens() {
                    tracing::error!(connection = name, front = self.front, error = text, "NATS server error");
                }
                if text.to_ascii_lowercase().contains("permissions violation for subscription") {
                    self.refusal().refused = Some((text, Instant::now()));
                }
            }
            Event::ServerError(error) => {
                if opens() {
                    tracing::error!(connection = name, front = self.front, %error, "NATS server error");
                }
            }
            Event::LameDuckMode => tracing::info!(connection = name, "NATS server is about to end"),
            Event::ClientError(error) => {
                tracing::debug!(connection = name, front = self.front, %error, "cannot reconnect yet");
            }
            Event::Draining | Event::Closed => {}
        }
    }
}

/// The server's last word on a subscription that it does not allow.
#[derive(Debug, Default)]
struct Refusal {
    refused: Option<(String, Instant)>,
    /// When the connection was last made anew.
    connected: Option<Instant>,
}

impl Refusal {
    /// What is refused, unless a new connection has stood for a while without hearing that.
    fn in_force(&self, now: Instant) -> Option<&str> {
        let (text, at) = self.refused.as_ref()?;
        let allowed = self.connected.is_some_and(|connected| *at < connected && now - connected > REFUSING);
        (!allowed).then_some(text)
    }
}

/// Lets a log line through now and then.
#[derive(Debug, Default)]
pub(super) struct LogGate {
    last: Option<Instant>,
}

impl LogGate {
    pub(super) fn opens(&mut self) -> bool {
        let now = Instant::now();
        let opens = self.last.is_none_or(|last| now - last >= LOG_GATE);
        if opens {
            self.last = Some(now);
        }
        opens
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn refusal_is_over_when_a_new_connection_has_stood_without_it() {
        let start = Instant::now();
        let at = |ms| start + Duration::from_millis(ms);
        let mut refusal = Refusal::default();
        assert_eq!(refusal.in_force(at(0)), None);
        refusal.refused = Some(("no".into(), at(10)));
        assert_eq!(refusal.in_force(at(60_000)), Some("no"), "it does not go away by itself");
        refusal.connected = Some(at(60_000));
        assert_eq!(refusal.in_force(at(61_000)), Some("no"), "it may yet be said again");
        assert_eq!(refusal.in_force(at(62_001)), None);
        refusal.refused = Some(("no".into(), at(60_003)));
        assert_eq!(refusal.in_force(at(62_001)), Some("no"));
    }
}
