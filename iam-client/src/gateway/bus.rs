//! The connection of a gateway: questions, change events, and their order.
//!
//! One task reads both the events and the answers, and takes in every event that came in before an answer before it
//! hands that answer over. It is the only one that reads either, so that their order is that of the connection.

use std::collections::HashMap;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use async_nats::{HeaderMap, Message, Statistics, StatusCode, Subscriber};
use futures_util::future::BoxFuture;
use futures_util::{FutureExt, StreamExt};
use iam_schema::changes::Floors;
use iam_schema::codec::{self, Format};
use iam_schema::subject::{self, Plane};
use iam_schema::{IamRequest, IamResponse, OperationName};
use tokio::sync::{RwLock, mpsc, oneshot};
use tokio::task::coop::unconstrained;
use tokio::time::MissedTickBehavior;

use crate::client::{complaint_about, new_request_id, read_reply};
use crate::connection::{Connection, Opened};
use crate::error::{ClientError, ConnectError, TransportError};

/// How often the reader looks whether the connection was cut, when nothing comes in.
const LOOK: Duration = Duration::from_millis(250);

/// What a gateway needs of the bus.
pub trait Bus: Send + Sync + 'static {
    /// Asks on the service plane. Every event that came in before the answer was given to [`Hears::event`] before
    /// this is over.
    fn ask<'a>(
        &'a self,
        operation: OperationName,
        request: IamRequest<'a>,
        floors: &'a Floors,
        within: Duration,
    ) -> BoxFuture<'a, Result<IamResponse, ClientError>>;

    /// How often the connection was made. More than before: it was cut in between.
    fn connections(&self) -> u64;

    /// Waits until every event that had come in was given to [`Hears::event`].
    fn caught_up(&self) -> BoxFuture<'_, ()>;

    /// Publishes an audit event, where it can be: nothing waits for it.
    fn audit(&self, event_type: &str, payload: Vec<u8>);

    /// Waits until what was published has left.
    fn flush(&self) -> BoxFuture<'_, ()> {
        std::future::ready(()).boxed()
    }
}

/// Whoever is told of events.
pub trait Hears: Send + Sync + 'static {
    /// A change event, in the order of the connection.
    fn event(&self, payload: &[u8]);

    /// All events were given that came in while the connection had been made so often.
    fn looked(&self, connections: u64);
}

/// Questions whose answer is awaited, by the last token of their reply subject.
type Waiting = Arc<Mutex<HashMap<u64, oneshot::Sender<Message>>>>;

/// NATS.
#[derive(Debug)]
pub(super) struct NatsBus {
    opened: Opened,
    /// Held on to: who asks the client for it joins everybody who publishes in counting references.
    statistics: Arc<Statistics>,
    inbox: String,
    next: AtomicU64,
    waiting: Waiting,
    fences: mpsc::UnboundedSender<oneshot::Sender<()>>,
    /// Read by each event for the audit that the driver had no room for: whoever may write knows that none is left.
    on_its_way: Arc<RwLock<()>>,
}

/// What the one task reads.
#[derive(Debug)]
pub(super) struct Incoming {
    nats: async_nats::Client,
    events: Subscriber,
    replies: Subscriber,
    waiting: Waiting,
    fences: mpsc::UnboundedReceiver<oneshot::Sender<()>>,
}

impl NatsBus {
    /// Connects and subscribes.
    ///
    /// # Errors
    /// As [`Connection::open`]; a subscription that does not come to stand.
    pub async fn open(connection: &Connection) -> Result<(Self, Incoming), ConnectError> {
        let opened = connection.open().await?;
        let nats = opened.nats.clone();
        let inbox = nats.new_inbox();
        let failed = |cause: String| ConnectError::Unreachable { urls: connection.shown_urls(), cause };
        let subscribe =
            async |subject: String| nats.subscribe(subject).await.map_err(|error| failed(error.to_string()));
        let events = subscribe(opened.subjects.changed()).await?;
        let replies = subscribe(format!("{inbox}.*")).await?;
        nats.flush().await.map_err(|error| failed(error.to_string()))?;
        let (waiting, statistics) = (Waiting::default(), nats.statistics());
        let (fences, incoming_fences) = mpsc::unbounded_channel();
        let incoming = Incoming { nats, events, replies, waiting: waiting.clone(), fences: incoming_fences };
        let (next, on_its_way) = (AtomicU64::new(0), Arc::default());
        Ok((Self { opened, statistics, inbox, next, waiting, fences, on_its_way }, incoming))
    }

    async fn request(
        &self,
        operation: OperationName,
        request: &IamRequest<'_>,
        floors: &Floors,
        within: Duration,
    ) -> Result<IamResponse, ClientError> {
        let payload = codec::encode(request, Format::MessagePack).map_err(ClientError::Decode)?;
        let mut headers = HeaderMap::new();
        headers.insert(subject::DEADLINE_MS, within.as_millis().to_string());
        if !floors.is_empty() {
            headers.insert(subject::MIN, floors.to_string());
        }
        let subject = self.opened.subjects.operation(Plane::Service, operation);
        let number = self.next.fetch_add(1, Ordering::Relaxed);
        let (sender, answer) = oneshot::channel();
        let _place = Place::take(&self.waiting, number, sender);
        let mut complaints = self.opened.complaints.subscribe();
        let reply_to = format!("{}.{number}", self.inbox);
        let sent = self.opened.nats.publish_with_reply_and_headers(
            subject.clone(),
            reply_to,
            headers,
            payload.into(),
        );
        let answered = async {
            if sent.await.is_err() {
                return None;
            }
            answer.await.ok()
        };
        let complaint = complaint_about(&mut complaints, &subject, &self.inbox);
        tokio::select! {
            answer = tokio::time::timeout(within, answered) => match answer {
                Err(_) => Err(ClientError::Timeout(within)),
                // The connection was given up: its task has ended.
                Ok(None) => Err(ClientError::NoResponder { subject }),
                Ok(Some(message)) if message.status == Some(StatusCode::NO_RESPONDERS) => {
                    Err(ClientError::NoResponder { subject })
                }
                Ok(Some(message)) => read_reply(&message.payload),
            },
            complaint = complaint => Err(TransportError::Forbidden(complaint).into()),
        }
    }
}

/// A place among those who wait, given up when nobody waits any more.
struct Place<'w> {
    waiting: &'w Waiting,
    number: u64,
}

impl<'w> Place<'w> {
    fn take(waiting: &'w Waiting, number: u64, sender: oneshot::Sender<Message>) -> Self {
        waiting.lock().unwrap_or_else(PoisonError::into_inner).insert(number, sender);
        Self { waiting, number }
    }
}

impl Drop for Place<'_> {
    fn drop(&mut self) {
        self.waiting.lock().unwrap_or_else(PoisonError::into_inner).remove(&self.number);
    }
}

impl Bus for NatsBus {
    fn ask<'a>(
        &'a self,
        operation: OperationName,
        mut request: IamRequest<'a>,
        floors: &'a Floors,
        within: Duration,
    ) -> BoxFuture<'a, Result<IamResponse, ClientError>> {
        async move {
            if request.request_id.is_empty() {
                request.request_id = new_request_id().into();
            }
            self.request(operation, &request, floors, within).await
        }
        .boxed()
    }

    fn connections(&self) -> u64 {
        self.statistics.connects.load(Ordering::Acquire)
    }

    fn caught_up(&self) -> BoxFuture<'_, ()> {
        let (sender, passed) = oneshot::channel();
        // Without a reader nothing is known any more, and the silence shows.
        let _ = self.fences.send(sender);
        async {
            let _ = passed.await;
        }
        .boxed()
    }

    fn audit(&self, event_type: &str, payload: Vec<u8>) {
        let (nats, subject) = (self.opened.nats.clone(), self.opened.subjects.audit(event_type));
        let mut publishing = async move {
            let _ = nats.publish(subject, payload.into()).await;
        }
        .boxed();
        // The driver has a buffer, and room in it as a rule. Whether this task has had its share of the processor does
        // not matter.
        if unconstrained(publishing.as_mut()).now_or_never().is_none() {
            let on_its_way = self.on_its_way.clone().try_read_owned();
            tokio::spawn(async move {
                publishing.await;
                drop(on_its_way);
            });
        }
    }

    fn flush(&self) -> BoxFuture<'_, ()> {
        async {
            drop(self.on_its_way.write().await);
            let _ = self.opened.nats.flush().await;
        }
        .boxed()
    }
}

impl Incoming {
    /// Reads until the connection is given up, or nobody is there to be told.
    pub async fn read(mut self, hears: std::sync::Weak<impl Hears>) {
        let mut looks = tokio::time::interval(LOOK);
        looks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        loop {
            let mut reply = None;
            let mut fence = None;
            let mut event = None;
            tokio::select! {
                biased;
                message = self.events.next() => match message {
                    Some(message) => event = Some(message),
                    None => return,
                },
                message = self.replies.next() => match message {
                    Some(message) => reply = Some(message),
                    None => return,
                },
                passed = self.fences.recv() => match passed {
                    Some(passed) => fence = Some(passed),
                    None => return,
                },
                _ = looks.tick() => {}
            }
            let Some(hears) = hears.upgrade() else { return };
            // Read first: what comes in from here on is of this connection, or a later one.
            let connections = self.nats.statistics().connects.load(Ordering::Acquire);
            if let Some(message) = event {
                hears.event(&message.payload);
            }
            while let Some(Some(message)) = unconstrained(self.events.next()).now_or_never() {
                hears.event(&message.payload);
            }
            hears.looked(connections);
            drop(hears);
            if let Some(message) = reply {
                self.hand_over(message);
            }
            if let Some(passed) = fence {
                let _ = passed.send(());
            }
        }
    }

    fn hand_over(&self, message: Message) {
        let number = message.subject.rsplit('.').next().and_then(|number| number.parse().ok());
        let mut waiting = self.waiting.lock().unwrap_or_else(PoisonError::into_inner);
        // Nobody waits any more for what comes late.
        if let Some(sender) = number.and_then(|number: u64| waiting.remove(&number)) {
            let _ = sender.send(message);
        }
    }
}
