//! Bytes in, bytes out.

use std::sync::Arc;
use std::time::Instant;

use iam_schema::ErrorKind;
use iam_schema::changes::{Change, Followed};
use iam_schema::subject::Plane;

use crate::ctx::Ctx;

/// A request as it came off the bus.
#[derive(Debug)]
pub struct Incoming<'a> {
    pub plane: Plane,
    /// The last token of the subject.
    pub operation: &'a str,
    pub headers: Headers<'a>,
    pub payload: &'a [u8],
    /// When it was taken off the subscription.
    pub received: Instant,
}

/// The headers that mean something to us.
#[derive(Debug, Default, Clone, Copy)]
pub struct Headers<'a> {
    /// `Authorization`; more than one is refused.
    pub authorization: Option<&'a str>,
    pub several_authorizations: bool,
    pub traceparent: Option<&'a str>,
    pub deadline_ms: Option<&'a str>,
    pub iam_min: Option<&'a str>,
}

/// A reply, ready for the bus.
#[derive(Debug)]
pub struct Reply {
    pub payload: Vec<u8>,
    /// The kind for the headers `Nats-Service-Error` and `Nats-Service-Error-Code`.
    pub error: Option<ErrorKind>,
}

/// What [`Dispatch::answer_now`] gives.
#[derive(Debug)]
pub enum Answer {
    Now(Reply),
    /// Waits or takes long: to be finished by [`Dispatch::answer_later`], off the front thread.
    Later(Box<Later>),
}

/// A request that is to be answered later, owning all it needs.
#[derive(Debug)]
pub struct Later {
    pub received: Instant,
}

/// A finished request.
#[derive(Debug)]
pub struct Answered {
    /// `None`: its deadline passed before work on it began, so nobody waits for it.
    pub reply: Option<Reply>,
    /// What changed, or may have changed: to be published before the reply.
    pub changes: Vec<Change>,
}

/// The service, from bytes to bytes. Shared by all threads.
#[derive(Debug)]
pub struct Dispatch {
    ctx: Arc<Ctx>,
}

impl Dispatch {
    pub fn answer_now(&self, incoming: Incoming<'_>) -> Answer {
        let _ = &self.ctx;
        Answer::Later(Box::new(Later { received: incoming.received }))
    }

    pub async fn answer_later(&self, later: Box<Later>) -> Answered {
        let _ = later;
        Answered { reply: None, changes: Vec::new() }
    }

    /// Applies what the change events said: drops what they name, and remembers the versions.
    pub fn follow(&self, followed: &Followed) {
        let _ = followed;
    }

    /// Drops everything cached.
    pub fn forget_everything(&self) {}

    /// The reply for a request that cannot be taken on for now: `unavailable`, in the request's own form.
    pub fn overloaded(&self, payload: &[u8]) -> Reply {
        let _ = payload;
        Reply { payload: Vec::new(), error: Some(ErrorKind::Unavailable) }
    }
}
