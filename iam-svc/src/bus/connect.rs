//! How a connection to NATS is made, for the bus and for what runs without it.

use std::sync::Arc;
use std::time::Duration;

use async_nats::{Client, ConnectOptions};
use iam_client::{ConnectError, Connection};

use super::link::Link;
use crate::telemetry::{LinkKind, Metrics};

/// How many messages a subscription holds. The client library drops what comes beyond, without a word. In one go
/// it reads up to 8 MiB (128 reads of 64 KiB), some 80,000 of the smallest requests, before a front has its turn.
const SUBSCRIPTION_CAPACITY: usize = 128 * 1024;
/// How often a server is asked whether it is still there. After two questions without an answer the connection
/// counts as lost.
const PING: Duration = Duration::from_secs(5);
/// How long one attempt to connect may take.
pub(super) const CONNECT: Duration = Duration::from_secs(5);
/// The longest pause between attempts to reconnect.
const MAX_RECONNECT_PAUSE: Duration = Duration::from_secs(2);

/// How to connect.
pub(super) fn options(nats: &Connection, link: Arc<Link>) -> Result<ConnectOptions, ConnectError> {
    // Whoever may publish on the API plane can cut that connection: it comes back fast, but not in a tight loop.
    let first_pause = match link.connection {
        LinkKind::Api => Duration::from_millis(20),
        LinkKind::Service | LinkKind::House => Duration::ZERO,
    };
    let name = format!("iam-svc {} {}", link.connection.as_str(), link.front);
    let options = ConnectOptions::new()
        .name(name)
        .subscription_capacity(SUBSCRIPTION_CAPACITY)
        .connection_timeout(CONNECT)
        .ping_interval(PING)
        .max_reconnects(None)
        .reconnect_delay_callback(move |attempts| {
            let doubled = 1u64.checked_shl(u32::try_from(attempts).unwrap_or(u32::MAX)).unwrap_or(u64::MAX);
            let pause =
                if attempts <= 1 { first_pause } else { Duration::from_millis(doubled.saturating_mul(5)) };
            pause.min(MAX_RECONNECT_PAUSE)
        })
        .event_callback(move |event| {
            link.event(event);
            std::future::ready(())
        });
    nats.with_login(options)
}

/// Connects once, for what runs without the bus.
async fn once(nats: &Connection) -> Result<Client, String> {
    let link = Arc::new(Link::new(LinkKind::House, 0, Arc::new(Metrics::new())));
    let options = options(nats, link).map_err(|e| e.to_string())?;
    let servers = nats.servers().map_err(|e| e.to_string())?;
    options.connect(servers).await.map_err(|e| e.to_string())
}

/// Connects once and says hello, for `iam-svc check`.
///
/// # Errors
/// In words, when that does not work.
pub async fn probe(nats: &Connection) -> Result<(), String> {
    let client = once(nats).await?;
    client.flush().await.map_err(|e| e.to_string())
}

/// Connects, publishes, and makes sure that the server has it; for what runs without the bus.
///
/// # Errors
/// In words, when that does not work.
pub async fn publish_once(
    nats: &Connection,
    messages: impl IntoIterator<Item = (String, Vec<u8>)>,
) -> Result<(), String> {
    let client = once(nats).await?;
    for (subject, payload) in messages {
        client.publish(subject, payload.into()).await.map_err(|e| e.to_string())?;
    }
    client.flush().await.map_err(|e| e.to_string())
}
