//! Gateways in process: a bus without NATS, whose answers come from a [`World`] and whose events are given by hand.

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use futures_util::FutureExt;
use futures_util::future::BoxFuture;
use iam_client::gateway::{Bus, Clock, Setting};
use iam_client::{ClientError, read_reply};
use iam_schema::changes::{ChangeEvent, Floors};
use iam_schema::codec::{Format, encode};
use iam_schema::subject::Plane;
use iam_schema::{IamRequest, IamResponse, OperationName, Timestamp};
use iam_svc::clock::{Clock as _, ManualClock};
use iam_svc::dispatch::{Answer, Dispatch, Headers, Incoming};
use tokio::sync::Notify;

use crate::world::{AUDIENCE, ISSUER};

/// How a gateway of a world is set: it takes the tokens of that world.
pub fn setting() -> Setting {
    Setting { issuer: ISSUER.to_owned(), audience: AUDIENCE.to_owned(), ..Setting::default() }
}

/// The bus of a gateway: shared, so that a test can cut it.
#[derive(Debug, Clone)]
pub struct InProcess {
    dispatch: Arc<Mutex<Arc<Dispatch>>>,
    connections: Arc<AtomicU64>,
    cut: Arc<AtomicBool>,
    hold: Arc<Hold>,
}

/// An answer that is held back on its way.
#[derive(Debug, Default)]
struct Hold {
    /// Which of the next answers; 0 is none.
    wanted: AtomicU64,
    held: Notify,
    released: Notify,
}

impl InProcess {
    /// A bus over a replica.
    pub fn to(dispatch: Arc<Dispatch>) -> Self {
        Self {
            dispatch: Arc::new(Mutex::new(dispatch)),
            connections: Arc::new(AtomicU64::new(1)),
            cut: Arc::default(),
            hold: Arc::default(),
        }
    }

    /// From here on another replica answers.
    pub fn turn_to(&self, dispatch: Arc<Dispatch>) {
        *self.dispatch.lock().unwrap_or_else(PoisonError::into_inner) = dispatch;
    }

    /// Has one of the next answers held back, once the service has given it, until [`InProcess::release`]: 1 is the very
    /// next, 0 none.
    pub fn hold(&self, which: u64) {
        self.hold.wanted.store(which, Ordering::SeqCst);
    }

    /// Waits until one is held back.
    pub async fn held(&self) {
        self.hold.held.notified().await;
    }

    /// Lets it go.
    pub fn release(&self) {
        self.hold.released.notify_one();
    }

    /// While it is cut nobody answers.
    pub fn cut(&self, cut: bool) {
        self.cut.store(cut, Ordering::SeqCst);
    }

    /// The connection was cut and stands again; how often it was made.
    pub fn reconnect(&self) -> u64 {
        self.connections.fetch_add(1, Ordering::SeqCst) + 1
    }
}

impl Bus for InProcess {
    fn ask<'a>(
        &'a self,
        operation: OperationName,
        request: IamRequest<'a>,
        floors: &'a Floors,
        _within: Duration,
    ) -> BoxFuture<'a, Result<IamResponse, ClientError>> {
        let dispatch = self.dispatch.lock().unwrap_or_else(PoisonError::into_inner).clone();
        async move {
            if self.cut.load(Ordering::SeqCst) {
                return Err(ClientError::NoResponder { subject: operation.as_str().to_owned() });
            }
            let payload = encode(&request, Format::MessagePack).map_err(ClientError::Decode)?;
            let floors = (!floors.is_empty()).then(|| floors.to_string());
            let incoming = Incoming {
                plane: Plane::Service,
                operation: operation.as_str(),
                headers: Headers { iam_min: floors.as_deref(), ..Headers::default() },
                payload: &payload,
                received: Instant::now(),
            };
            let reply = match dispatch.answer_now(incoming) {
                Answer::Now(reply) => reply,
                Answer::Later(later) => {
                    dispatch.answer_later(later).await.reply.expect("no deadline was given")
                }
            };
            let count = |wanted: u64| wanted.checked_sub(1);
            if self.hold.wanted.fetch_update(Ordering::SeqCst, Ordering::SeqCst, count) == Ok(1) {
                self.hold.held.notify_one();
                self.hold.released.notified().await;
            }
            read_reply(&reply.payload)
        }
        .boxed()
    }

    fn connections(&self) -> u64 {
        self.connections.load(Ordering::SeqCst)
    }

    fn caught_up(&self) -> BoxFuture<'_, ()> {
        std::future::ready(()).boxed()
    }

    fn audit(&self, _event_type: &str, _payload: Vec<u8>) {}
}

/// The clock of a world, for a gateway.
#[derive(Debug, Clone)]
pub struct GatewayClock(pub Arc<ManualClock>);

impl Clock for GatewayClock {
    fn now(&self) -> Timestamp {
        self.0.now()
    }

    fn monotonic_ms(&self) -> i64 {
        self.0.monotonic_ms()
    }
}

/// A heartbeat of an instance that has published so many events.
pub fn heartbeat(instance: &str, seq: u64) -> Vec<u8> {
    let event = ChangeEvent { instance: instance.to_owned(), seq, ..ChangeEvent::default() };
    encode(&event, Format::MessagePack).expect("an event")
}
