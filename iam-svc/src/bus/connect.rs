//! How a connection to NATS is made, for the bus and for what runs without it.

use std::sync::Arc;
use std::time::Duration;

use async_nats::ConnectOptions;

use super::link::Link;
use crate::config::{Nats, NatsAuth};
use crate::telemetry::{Connection, Metrics};

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
pub(super) fn options(nats: &Nats, link: Arc<Link>) -> std::io::Result<ConnectOptions> {
    // Whoever may publish on the API plane can cut that connection: it comes back fast, but not in a tight loop.
    let first_pause = match link.connection {
        Connection::Api => Duration::from_millis(20),
        Connection::Service | Connection::House => Duration::ZERO,
    };
    let name = format!("iam-svc {} {}", link.connection.as_str(), link.front);
    let mut options = ConnectOptions::new()
        .name(name)
        .custom_inbox_prefix(&nats.inbox_prefix)
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
    options = match &nats.auth {
        NatsAuth::None => options,
        NatsAuth::Credentials(text) => options.credentials(text.expose())?,
        NatsAuth::Nkey(seed) => options.nkey(seed.expose().trim().to_owned()),
        NatsAuth::Password { user, password } => {
            options.user_and_password(user.clone(), password.expose().to_owned())
        }
        NatsAuth::Token(token) => options.token(token.expose().to_owned()),
    };
    if let Some(ca) = &nats.tls_ca {
        options = options.add_root_certificates(ca.clone()).require_tls(true);
    }
    if let Some((cert, key)) = &nats.tls_client {
        options = options.add_client_certificate(cert.clone(), key.clone()).require_tls(true);
    }
    Ok(options)
}

/// Connects once and says hello, for `iam-svc check`.
///
/// # Errors
/// In words, when that does not work.
pub async fn probe(nats: &Nats) -> Result<(), String> {
    let link = Arc::new(Link::new(Connection::House, 0, Arc::new(Metrics::new())));
    let options = options(nats, link).map_err(|e| e.to_string())?;
    let client = options.connect(nats.servers.as_slice()).await.map_err(|e| e.to_string())?;
    client.flush().await.map_err(|e| e.to_string())
}

/// Connects, publishes, and makes sure that the server has it; for what runs without the bus.
///
/// # Errors
/// In words, when that does not work.
pub async fn publish_once(
    nats: &Nats,
    messages: impl IntoIterator<Item = (String, Vec<u8>)>,
) -> Result<(), String> {
    let link = Arc::new(Link::new(Connection::House, 0, Arc::new(Metrics::new())));
    let options = options(nats, link).map_err(|e| e.to_string())?;
    let client = options.connect(nats.servers.as_slice()).await.map_err(|e| e.to_string())?;
    for (subject, payload) in messages {
        client.publish(subject, payload.into()).await.map_err(|e| e.to_string())?;
    }
    client.flush().await.map_err(|e| e.to_string())
}
