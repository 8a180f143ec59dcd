//! A front: one thread that takes requests off the bus and answers from memory what can be answered so.
//!
//! Its runtime has this thread alone, and its loop and the tasks of its connections alternate there. A whole
//! burst becomes one read and one write, and between two looks at a subscription nothing can come in: what is
//! said below about order rests on that.

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use async_nats::connection::State;
use async_nats::{Client, HeaderMap, HeaderName, Message, Statistics, Subject, SubscribeError, Subscriber};
use futures_util::{FutureExt, StreamExt};
use iam_schema::changes::{Change, Followed};
use iam_schema::subject::{Plane, QUEUE_GROUP, SERVICE_ERROR, SERVICE_ERROR_CODE, Subjects};
use iam_schema::{ErrorKind, OperationName};
use tokio::sync::{OwnedSemaphorePermit, mpsc, oneshot, watch};

use super::changes::{self, Following, Outgoing};
use super::message::{headers, reply_subject};
use super::{Phase, Shared};
use crate::dispatch::{Answer, Incoming, Later, Reply};
use crate::telemetry::{Dropped, LinkKind};

/// How many messages are handled before the connections get their turn: enough to make one write of many
/// replies, and no more than about 100 µs of work.
const BURST: usize = 64;
/// The longest queue of messages that is still worked off; what comes beyond is told `unavailable` at once. At
/// 2 µs a request it is 16 ms of work, and far from the subscription's capacity, where messages get lost.
const MAX_BACKLOG: u64 = 8_192;
/// For how long a front holds still after it has sent its unsubscriptions: longer than any round trip to a
/// server that one would put in front of an authorization service. See [`Front::drain`].
const UNSUBSCRIBE: Duration = Duration::from_millis(100);
/// How often, and how long apart, the store is asked what became of a change: for ten minutes, after which every
/// cache has let go of what it held.
const SETTLE_TRIES: usize = 600;
const SETTLE_PAUSE: Duration = Duration::from_secs(1);
/// The most changes asked after at a time.
const MAX_SETTLING: usize = 256;
/// How long the last messages and bytes may take at the end.
const CLOSE: Duration = Duration::from_secs(1);

/// What a front receives of a plane: requests, and the change events on the same connection.
#[derive(Debug)]
struct Lane {
    plane: Plane,
    requests: Subscriber,
    events: Subscriber,
    statistics: Arc<Statistics>,
    /// How often the connection had been made when we last looked.
    connects: u64,
    /// How many messages of the connection were taken in or are known to be lost.
    seen: u64,
    /// Its last request was taken off, after draining.
    ended: bool,
}

impl Lane {
    /// Subscribes: first to the events, then to the requests, so that none is answered without having heard
    /// what came before it. Also gives what will hear an event once the server has all of that in place.
    async fn open(
        client: &Client,
        plane: Plane,
        subjects: &Subjects,
    ) -> Result<(Self, Subscriber), SubscribeError> {
        let statistics = client.statistics();
        let connects = statistics.connects.load(Ordering::Relaxed);
        let events = client.subscribe(subjects.changed()).await?;
        let requests = client.queue_subscribe(subjects.plane(plane), QUEUE_GROUP.to_owned()).await?;
        let probe = client.subscribe(subjects.changed()).await?;
        let lane = Self { plane, requests, events, statistics, connects, seen: 0, ended: false };
        Ok((lane, probe))
    }

    /// Whether the connection was made anew since we last asked. It is, before any message of the new one comes.
    fn reconnected(&mut self) -> bool {
        let connects = self.statistics.connects.load(Ordering::Relaxed);
        std::mem::replace(&mut self.connects, connects) != connects
    }

    /// Messages that came in and were not taken off yet.
    fn backlog(&self) -> u64 {
        self.statistics.in_messages.load(Ordering::Relaxed).saturating_sub(self.seen)
    }

    /// Nothing is waiting: whatever the count says beyond that was lost, or went to somebody else.
    fn caught_up(&mut self) {
        self.seen = self.statistics.in_messages.load(Ordering::Relaxed);
    }

    fn event_now(&mut self) -> Option<Message> {
        let event = self.events.next().now_or_never().flatten()?;
        self.seen += 1;
        Some(event)
    }
}

/// A front, ready to run.
#[derive(Debug)]
pub(super) struct Front {
    shared: Arc<Shared>,
    index: usize,
    client: Client,
    api_client: Client,
    service: Lane,
    api: Lane,
    following: Following,
    /// The API plane's connection was made anew, and this echo has not been heard on the other one yet: until
    /// then an event may be on its way there that an API request came after.
    awaited_echo: Option<u64>,
    /// An API request that was taken off before that was noticed.
    held: Option<Message>,
    outbox: mpsc::UnboundedReceiver<Outgoing>,
    own_bye: bool,
}

/// A request that was answered, for the metrics.
struct Counted {
    operation: Option<OperationName>,
    error: Option<ErrorKind>,
}

impl Front {
    /// Connects and subscribes; `standing` is told when the server has the subscriptions in place, which only
    /// shows once heartbeats are being published.
    pub(super) async fn open(
        shared: Arc<Shared>,
        index: usize,
        outbox: mpsc::UnboundedReceiver<Outgoing>,
        standing: oneshot::Sender<()>,
    ) -> Result<Self, String> {
        let client = shared.connect(LinkKind::Service, index).await?;
        let api_client = shared.connect(LinkKind::Api, index).await?;
        let failed = |e: SubscribeError| format!("cannot subscribe: {e}");
        let (service, heard) = Lane::open(&client, Plane::Service, &shared.subjects).await.map_err(failed)?;
        let (api, api_heard) = Lane::open(&api_client, Plane::Api, &shared.subjects).await.map_err(failed)?;
        tokio::spawn(async move {
            let (mut heard, mut api_heard) = (heard, api_heard);
            if heard.next().await.is_some() && api_heard.next().await.is_some() {
                // Nobody listens any more when the start was given up.
                let _ = standing.send(());
            }
        });
        Ok(Self {
            shared,
            index,
            client,
            api_client,
            service,
            api,
            following: Following::default(),
            awaited_echo: None,
            held: None,
            outbox,
            own_bye: false,
        })
    }

    /// Answers until told to drain and then to close.
    ///
    /// Must run without tokio's cooperative budget: with it, a subscription that holds a message can say that
    /// it is empty, and a request would overtake the event before it.
    ///
    /// # Errors
    /// When a subscription ends unasked: this front is deaf then.
    pub(super) async fn run(
        mut self,
        mut phase: watch::Receiver<Phase>,
        drained: oneshot::Sender<()>,
    ) -> Result<(), String> {
        let mut drained = Some(drained);
        let mut tick = tokio::time::interval(Duration::from_secs(1));
        tick.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        loop {
            if self.awaited_echo.is_none()
                && let Some(message) = self.held.take()
            {
                self.burst(Plane::Api, message).await;
            }
            tokio::select! {
                message = self.service.requests.next(), if !self.service.ended => match message {
                    Some(message) => self.burst(Plane::Service, message).await,
                    None => return Err("the subscription of the service plane ended".to_owned()),
                },
                message = self.api.requests.next(), if !self.api.ended && self.awaited_echo.is_none() => match message {
                    Some(message) => self.burst(Plane::Api, message).await,
                    None => return Err("the subscription of the API plane ended".to_owned()),
                },
                event = self.service.events.next() => match event {
                    Some(event) => {
                        self.service.seen += 1;
                        self.service_event(&event);
                        self.follow_service();
                    }
                    None => return Err("the subscription of the events ended".to_owned()),
                },
                event = self.api.events.next() => match event {
                    Some(event) => {
                        self.api.seen += 1;
                        self.api_event(&event);
                    }
                    None => return Err("the subscription of the events ended".to_owned()),
                },
                Some(outgoing) = self.outbox.recv() => self.send(outgoing).await,
                _ = tick.tick() => self.tick(),
                changed = phase.changed() => {
                    let phase = if changed.is_ok() { *phase.borrow() } else { Phase::Closing };
                    match phase {
                        Phase::Serving => {}
                        Phase::Draining => {
                            self.drain().await;
                            if let Some(drained) = drained.take() {
                                let _ = drained.send(());
                            }
                        }
                        Phase::Closing => break,
                    }
                }
            }
        }
        self.close().await;
        Ok(())
    }

    /// Handles a message and those that wait behind it.
    async fn burst(&mut self, plane: Plane, first: Message) {
        let mut message = first;
        // One reading of the clock a request: the end of one is the beginning of the next.
        let mut received = Instant::now();
        for left in (0..BURST).rev() {
            self.follow_service();
            if plane == Plane::Api {
                self.follow_api();
                if self.awaited_echo.is_some() {
                    self.held = Some(message);
                    return;
                }
            }
            let counted = self.handle(plane, message, received, false).await;
            let now = Instant::now();
            if let Some(Counted { operation, error }) = counted {
                self.shared.metrics.request(plane, operation, error, now - received);
            }
            received = now;
            if left == 0 {
                break;
            }
            let Some(next) = self.lane(plane).requests.next().now_or_never().flatten() else {
                match plane {
                    Plane::Service => self.follow_service(),
                    Plane::Api => self.follow_api(),
                }
                self.lane(plane).caught_up();
                return;
            };
            message = next;
        }
        // The connections get their turn.
        tokio::task::yield_now().await;
    }

    fn lane(&mut self, plane: Plane) -> &mut Lane {
        match plane {
            Plane::Service => &mut self.service,
            Plane::Api => &mut self.api,
        }
    }

    /// Answers a request, now or later. Gives what to count, unless that happens elsewhere.
    async fn handle(
        &mut self,
        plane: Plane,
        message: Message,
        received: Instant,
        refuse: bool,
    ) -> Option<Counted> {
        let lane = self.lane(plane);
        lane.seen += 1;
        let overloaded = refuse || lane.backlog() > MAX_BACKLOG;
        let to = match reply_subject(message.reply, &self.shared.subjects) {
            Ok(to) => to,
            Err(reason) => {
                self.shared.metrics.dropped(reason);
                return None;
            }
        };
        let token = self.shared.subjects.operation_token(&message.subject);
        let operation = token.parse().ok();
        let reply = if overloaded {
            self.overloaded(&message.payload)
        } else {
            let headers = message.headers.as_ref().map(headers).unwrap_or_default();
            let payload = &message.payload;
            match self.shared.dispatch.answer_now(Incoming {
                plane,
                operation: token,
                headers,
                payload,
                received,
            }) {
                Answer::Now(reply) => reply,
                Answer::Later(later) => match self.shared.permit(plane) {
                    Some(permit) => {
                        let request = Deferred { plane, operation, to, received, permit };
                        self.shared.backend.spawn(finish(self.shared.clone(), self.index, request, later));
                        return None;
                    }
                    None => self.overloaded(&message.payload),
                },
            }
        };
        let error = reply.error;
        self.send(Outgoing::Reply { to, reply }).await;
        Some(Counted { operation, error })
    }

    fn overloaded(&self, payload: &[u8]) -> Reply {
        self.shared.metrics.overload_answers.inc();
        self.shared.dispatch.overloaded(payload)
    }

    /// Sends by the service plane's connection. It waits only while that connection is cut: then nothing can be
    /// answered anyway.
    async fn send(&mut self, outgoing: Outgoing) {
        let sent = match outgoing {
            Outgoing::Event(payload) => {
                self.client.publish(self.shared.subjects.changed(), payload.into()).await
            }
            Outgoing::Reply { to, reply: Reply { payload, error: None } } => {
                self.client.publish(to, payload.into()).await
            }
            Outgoing::Reply { to, reply: Reply { payload, error: Some(kind) } } => {
                let mut headers = HeaderMap::new();
                headers.insert(HeaderName::from_static(SERVICE_ERROR), kind.as_str());
                headers.insert(HeaderName::from_static(SERVICE_ERROR_CODE), kind.code().to_string());
                self.client.publish_with_headers(to, headers, payload.into()).await
            }
        };
        if let Err(error) = sent {
            tracing::error!(%error, "cannot publish");
        }
    }

    /// Takes in all events of the service plane's connection that are there, and notices when it was cut.
    fn follow_service(&mut self) {
        // Looked at first: the events that wait may be from before the cut, and prove nothing about after.
        let reconnected = self.service.reconnected();
        while let Some(event) = self.service.event_now() {
            self.service_event(&event);
        }
        if reconnected {
            self.following.reconnected();
            self.shared.trust(self.index, false);
        }
        if let Some(settled) = self.following.settles() {
            if settled.drop_all {
                self.shared.dispatch.forget_everything();
            }
            self.shared.trust(self.index, true);
        }
    }

    /// The same for the API plane's. Losses on it need no heartbeat: the other connection hears every event,
    /// and one round trip there shows that it has heard all that this one missed. So whoever cuts this
    /// connection, by a header that cannot be read, empties no cache.
    fn follow_api(&mut self) {
        if self.api.reconnected() {
            self.awaited_echo = Some(self.shared.publisher.ask_echo());
        }
        while let Some(event) = self.api.event_now() {
            self.api_event(&event);
        }
    }

    fn service_event(&mut self, event: &Message) {
        let now_ms = self.shared.clock.monotonic_ms();
        let heard = self.following.event(&event.payload, &self.shared.publisher.instance, now_ms);
        heard.apply(&self.shared.dispatch);
        if let (Some(_), Some(at)) = (heard.echo, self.shared.heard_ms.get(self.index)) {
            at.store(now_ms, Ordering::Relaxed);
        }
        if self.awaited_echo.is_some() && heard.echo >= self.awaited_echo {
            self.awaited_echo = None;
        }
        self.own_bye |= heard.own_bye;
        self.instances();
    }

    fn api_event(&mut self, event: &Message) {
        let drop = changes::named(&event.payload);
        if !drop.is_empty() {
            self.shared.dispatch.follow(&Followed { drop, drop_all: false });
        }
    }

    /// One front speaks for all: each hears the same instances.
    fn instances(&self) {
        let known = self.following.instances(self.shared.clock.monotonic_ms());
        if let (0, Some(instances)) = (self.index, known) {
            self.shared.share_throttle(instances);
        }
    }

    fn tick(&mut self) {
        self.follow_service();
        self.follow_api();
        if self.following.tick(self.shared.clock.monotonic_ms()) {
            tracing::warn!("an instance fell silent: everything cached is dropped");
            self.shared.dispatch.forget_everything();
            self.follow_service();
            self.instances();
        }
        if self.awaited_echo.is_some() {
            // The heartbeat that was asked for may have been lost with the connection.
            self.shared.publisher.nudge.notify_one();
        }
        for lane in [&self.service, &self.api] {
            self.shared.metrics.backlog(lane.plane, lane.backlog());
        }
    }

    /// Takes no more requests, and answers all that were sent to us.
    ///
    /// The client library forgets a draining subscription the next time its connection's task runs, even if the
    /// server has not got the unsubscription yet: requests on their way then would be lost. So this thread, on
    /// which that task runs, holds still until the server has surely acted on it. What the server had sent lies
    /// in the socket's buffer then, and is read before the subscription is forgotten.
    async fn drain(&mut self) {
        // One after the other: while one is waited for, the task of the other would run.
        for plane in [Plane::Api, Plane::Service] {
            let client = match plane {
                Plane::Service => self.client.clone(),
                Plane::Api => self.api_client.clone(),
            };
            if client.connection_state() != State::Connected {
                // It brings no requests; what it has brought is handled below.
                let _ = tokio::time::timeout(CLOSE, self.lane(plane).requests.unsubscribe()).await;
                continue;
            }
            let unsubscribe = async {
                // Nothing of us may be left in a buffer ahead of the unsubscription.
                let _ = client.flush().await;
                let _ = self.lane(plane).requests.drain().await;
                let _ = client.flush().await;
            };
            if tokio::time::timeout(CLOSE, unsubscribe).await.is_err() {
                tracing::warn!(plane = plane.as_str(), "unsubscribing took too long");
            }
            std::thread::sleep(UNSUBSCRIBE);
        }
        for plane in [Plane::Service, Plane::Api] {
            let deadline = tokio::time::Instant::now() + CLOSE;
            loop {
                let held = if plane == Plane::Api { self.held.take() } else { None };
                let next = match held {
                    Some(message) => Ok(Some(message)),
                    None => tokio::time::timeout_at(deadline, self.lane(plane).requests.next()).await,
                };
                let Ok(Some(message)) = next else { break };
                self.follow_service();
                let refuse = plane == Plane::Api && {
                    self.follow_api();
                    self.awaited_echo.is_some()
                };
                let received = Instant::now();
                if let Some(Counted { operation, error }) =
                    self.handle(plane, message, received, refuse).await
                {
                    self.shared.metrics.request(plane, operation, error, received.elapsed());
                }
            }
            self.lane(plane).ended = true;
        }
    }

    /// Sends what is left, and waits until the server has it.
    async fn close(&mut self) {
        if self.client.connection_state() != State::Connected {
            tracing::warn!(front = self.index, "not connected to NATS: the last replies cannot leave");
            return;
        }
        while let Ok(outgoing) = self.outbox.try_recv() {
            self.send(outgoing).await;
        }
        let last = async {
            let _ = self.client.flush().await;
            // Our own `bye` comes back after all that we sent before it. The other fronts end a moment later:
            // a connection that is closed with bytes unread takes those unsent with it.
            while self.index == 0 && !self.own_bye {
                let Some(event) = self.service.events.next().await else { return };
                self.service_event(&event);
            }
            let _ = self.service.events.unsubscribe().await;
            let _ = self.api.events.unsubscribe().await;
            tokio::time::sleep(UNSUBSCRIBE / 2).await;
        };
        if tokio::time::timeout(CLOSE, last).await.is_err() {
            tracing::warn!("the last replies may not have left");
        }
    }
}

/// A request that is being worked on behind the fronts.
struct Deferred {
    plane: Plane,
    operation: Option<OperationName>,
    to: Subject,
    received: Instant,
    permit: OwnedSemaphorePermit,
}

/// Finishes a request behind the front that took it. What changed something is answered by the connection that
/// its event left by, everything else by the front's own: there the server lets us answer without more rights.
async fn finish(shared: Arc<Shared>, index: usize, request: Deferred, later: Box<Later>) {
    let Deferred { plane, operation, to, received, permit } = request;
    let answered = shared.dispatch.answer_later(later).await;
    match &answered.reply {
        Some(reply) => shared.metrics.request(plane, operation, reply.error, received.elapsed()),
        None => shared.metrics.dropped(Dropped::Deadline),
    }
    let reply = answered.reply.map(|reply| Outgoing::Reply { to, reply });
    if answered.changes.is_empty() {
        if let (Some(reply), Some(outbox)) = (reply, shared.outboxes.get(index)) {
            // It only fails when the front is gone, and then the process is on its way out.
            let _ = outbox.send(reply);
        }
    } else {
        shared.publisher.publish(&answered.changes, reply);
    }
    for change in answered.unknown {
        // Beyond the bound nobody is told but by the age of what is cached; the store has been gone for long then.
        if shared.settling.fetch_add(1, Ordering::Relaxed) < MAX_SETTLING {
            shared.backend.spawn(settle(shared.clone(), change));
        } else {
            shared.settling.fetch_sub(1, Ordering::Relaxed);
        }
    }
    // Only now: draining waits for the permits.
    drop(permit);
}

/// Finds out what became of a change whose outcome the store did not tell, and publishes that.
///
/// Source: protocol section 8.
async fn settle(shared: Arc<Shared>, change: Change) {
    for _ in 0..SETTLE_TRIES {
        match shared.dispatch.settled(&change).await {
            Ok(settled) => {
                shared.publisher.publish(&[settled], None);
                break;
            }
            Err(_) => tokio::time::sleep(SETTLE_PAUSE).await,
        }
    }
    shared.settling.fetch_sub(1, Ordering::Relaxed);
}
