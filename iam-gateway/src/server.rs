//! Connections: accepted, protected by TLS where it is set up, held within limits, and drained.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use axum::Router;
use axum::body::Body;
use axum::extract::Request;
use hyper::body::Incoming;
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::{TokioIo, TokioTimer};
use iam_client::program::exit::{Cause, Exit};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::Semaphore;
use tokio::task::JoinHandle;
use tokio::time::Instant;
use tokio_io_timeout::TimeoutStream;
use tokio_rustls::TlsAcceptor;
use tower_service::Service;

use crate::app::App;
use crate::config::Config;
use crate::connection::{Held, Metered};
use crate::peer::Peer;
use crate::routes::router;

/// How long the head of a request may take to come in, and a connection may be kept without one.
const HEAD: Duration = Duration::from_secs(30);
/// How long a TLS handshake may take.
const HANDSHAKE: Duration = Duration::from_secs(10);
/// How long a client may read nothing of what is sent to it.
const STALLED: Duration = Duration::from_secs(20);
/// The most headers of a request, and the most bytes of its head.
const MAX_HEADERS: usize = 64;
const MAX_HEAD: usize = 32 * 1024;
/// The pause after a connection that could not be accepted, such as for want of file descriptors.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);

/// A place that is listened on.
#[derive(Debug)]
pub struct Server {
    listener: TcpListener,
    address: SocketAddr,
    tls: Option<Arc<rustls::ServerConfig>>,
    places: u32,
}

/// Connections that are served.
#[derive(Debug)]
pub struct Serving {
    accepting: JoinHandle<()>,
    connections: Arc<Semaphore>,
    places: u32,
}

impl Server {
    /// Listens.
    ///
    /// # Errors
    /// `Configuration` when the address cannot be listened on.
    pub async fn bind(config: &Config) -> Result<Self, Exit> {
        let refused = |e: std::io::Error| {
            Exit::new(Cause::Configuration, format!("--listen: cannot listen on {}: {e}", config.listen))
        };
        let listener = TcpListener::bind(config.listen).await.map_err(refused)?;
        let address = listener.local_addr().map_err(refused)?;
        Ok(Self { listener, address, tls: config.tls.clone(), places: config.limits.connections })
    }

    /// Where it listens: the port too, where 0 was asked for.
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// Serves connections until the gateway drains.
    pub fn serve(self, app: Arc<App>) -> Serving {
        let connections = Arc::new(Semaphore::new(usize::try_from(self.places).unwrap_or(usize::MAX)));
        let (places, room) = (self.places, connections.clone());
        Serving { accepting: tokio::spawn(self.accept(app, room)), connections, places }
    }

    async fn accept(self, app: Arc<App>, room: Arc<Semaphore>) {
        let draining = app.draining();
        tokio::pin!(draining);
        let acceptor = self.tls.map(TlsAcceptor::from);
        let router = router(app.clone());
        loop {
            // Without a place the next one waits in the backlog of the system.
            let place = tokio::select! {
                place = room.clone().acquire_owned() => place,
                () = &mut draining => return,
            };
            let Ok(place) = place else { return };
            let accepted = tokio::select! {
                accepted = self.listener.accept() => accepted,
                () = &mut draining => return,
            };
            let (stream, peer) = match accepted {
                Ok(accepted) => accepted,
                Err(error) => {
                    tracing::warn!(%error, "a connection cannot be accepted");
                    tokio::time::sleep(ACCEPT_PAUSE).await;
                    continue;
                }
            };
            let held = Held::new(app.metrics.connections.clone(), place);
            let line = Accepted {
                peer: Peer::new(peer),
                held: Arc::new(held),
                router: router.clone(),
                app: app.clone(),
            };
            tokio::spawn(line.serve(stream, acceptor.clone()));
        }
    }
}

impl Serving {
    /// Waits until every connection has ended, or until the deadline.
    pub async fn drain(self, deadline: Instant) {
        let ended = async {
            let _ = self.accepting.await;
            let _ = self.connections.acquire_many(self.places).await;
        };
        if tokio::time::timeout_at(deadline, ended).await.is_err() {
            tracing::warn!("connections were cut off: they did not end in time");
        }
    }
}

/// A connection that came in.
struct Accepted {
    peer: Peer,
    held: Arc<Held>,
    router: Router,
    app: Arc<App>,
}

impl Accepted {
    async fn serve(self, stream: TcpStream, acceptor: Option<TlsAcceptor>) {
        // Small answers must not wait for each other.
        let _ = stream.set_nodelay(true);
        let mut stream = TimeoutStream::new(stream);
        stream.set_write_timeout(Some(STALLED));
        let stream = Metered { inner: Box::pin(stream), allowance: self.held.allowance.clone() };
        match acceptor {
            None => self.talk(stream).await,
            Some(acceptor) => match tokio::time::timeout(HANDSHAKE, acceptor.accept(stream)).await {
                Ok(Ok(stream)) => self.talk(stream).await,
                Ok(Err(error)) => tracing::debug!(%error, "a TLS handshake failed"),
                Err(_) => tracing::debug!("a TLS handshake took too long"),
            },
        }
    }

    async fn talk(self, stream: impl AsyncRead + AsyncWrite + Unpin + Send + 'static) {
        let (peer, held, router) = (self.peer, self.held, self.router);
        let draining = self.app.draining();
        let service = service_fn(move |request: Request<Incoming>| {
            let mut request = request.map(Body::new);
            request.extensions_mut().insert(peer);
            request.extensions_mut().insert(held.clone());
            router.clone().call(request)
        });
        let mut http = http1::Builder::new();
        http.timer(TokioTimer::new())
            .header_read_timeout(HEAD)
            .max_headers(MAX_HEADERS)
            .max_buf_size(MAX_HEAD);
        let connection = http.serve_connection(TokioIo::new(stream), service).with_upgrades();
        tokio::pin!(connection);
        let ended = tokio::select! {
            ended = connection.as_mut() => ended,
            () = draining => {
                connection.as_mut().graceful_shutdown();
                connection.await
            }
        };
        if let Err(error) = ended {
            tracing::debug!(%error, "a connection ended");
        }
    }
}
