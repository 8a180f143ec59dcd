//! A request as it comes in, and what becomes of it on its way.

use std::fmt;
use std::time::{Duration, Instant};

use iam_schema::changes::{Change, Floors};
use iam_schema::subject::{MIN, Plane};
use iam_schema::{ErrorKind, Secret};
use zeroize::Zeroizing;

use crate::error::{AuthFailure, OpError};

/// A request as it came off the bus.
pub struct Incoming<'a> {
    pub plane: Plane,
    /// The last token of the subject.
    pub operation: &'a str,
    pub headers: Headers<'a>,
    pub payload: &'a [u8],
    /// When it was taken off the subscription.
    pub received: Instant,
}

impl fmt::Debug for Incoming<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Incoming").field("plane", &self.plane).finish_non_exhaustive()
    }
}

/// The headers that mean something to us.
#[derive(Default, Clone, Copy)]
pub struct Headers<'a> {
    /// `Authorization`; more than one is refused.
    pub authorization: Option<&'a str>,
    pub several_authorizations: bool,
    pub traceparent: Option<&'a str>,
    pub deadline_ms: Option<&'a str>,
    pub iam_min: Option<&'a str>,
}

impl fmt::Debug for Headers<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Headers")
            .field("authorization", &self.authorization.map(|_| "(redacted)"))
            .field("traceparent", &self.traceparent)
            .field("deadline_ms", &self.deadline_ms)
            .field("iam_min", &self.iam_min)
            .finish_non_exhaustive()
    }
}

impl Headers<'_> {
    /// The credential of an API-plane request.
    ///
    /// # Errors
    /// `NoCredential` without the header, `MalformedCredential` for any other form than `Bearer <credential>`, and
    /// for more than one header.
    pub fn credential(&self) -> Result<Secret, AuthFailure> {
        if self.several_authorizations {
            return Err(AuthFailure::MalformedCredential);
        }
        let header = self.authorization.ok_or(AuthFailure::NoCredential)?;
        match header.split_once(' ') {
            Some((scheme, credential)) if scheme.eq_ignore_ascii_case("Bearer") && !credential.is_empty() => {
                Ok(Secret::new(credential))
            }
            _ => Err(AuthFailure::MalformedCredential),
        }
    }

    /// What the answer must not be older than.
    ///
    /// # Errors
    /// `Invalid` for a text that cannot be read.
    pub fn floors(&self) -> Result<Floors, OpError> {
        match self.iam_min {
            Some(text) => text
                .parse()
                .map_err(|error: iam_schema::changes::FloorsError| OpError::invalid(MIN, error.to_string())),
            None => Ok(Floors::default()),
        }
    }

    /// For how long the caller waits; an unreadable text counts as absent.
    pub fn deadline(&self) -> Option<Duration> {
        self.deadline_ms.and_then(|text| text.trim().parse().ok()).map(Duration::from_millis)
    }

    /// The trace id of a W3C `traceparent`; an unreadable one counts as absent.
    ///
    /// Source: W3C Trace Context, section 3.2.
    pub fn trace_id(&self) -> Option<&str> {
        let text = self.traceparent?;
        let mut parts = text.split('-');
        let (version, trace, span, flags) = (parts.next()?, parts.next()?, parts.next()?, parts.next()?);
        let hex = |part: &str, len: usize| {
            part.len() == len && part.bytes().all(|b| b.is_ascii_digit() || (b'a'..=b'f').contains(&b))
        };
        let zero = |part: &str| part.bytes().all(|b| b == b'0');
        let readable = hex(version, 2) && version != "ff" && hex(trace, 32) && hex(span, 16) && hex(flags, 2);
        (readable && !zero(trace) && !zero(span)).then_some(trace)
    }
}

/// A reply, ready for the bus.
pub struct Reply {
    /// It may hold a token or a key that was just made.
    pub payload: Vec<u8>,
    /// The kind for the headers `Nats-Service-Error` and `Nats-Service-Error-Code`.
    pub error: Option<ErrorKind>,
}

impl fmt::Debug for Reply {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Reply").field("error", &self.error).finish_non_exhaustive()
    }
}

/// What [`Dispatch::answer_now`] gives.
#[derive(Debug)]
pub enum Answer {
    Now(Reply),
    /// Waits or takes long: to be finished by [`Dispatch::answer_later`], off the front thread.
    Later(Box<Later>),
}

/// A request that is to be answered later, owning all it needs; wiped when dropped.
pub struct Later {
    pub(super) plane: Plane,
    pub(super) operation: String,
    pub(super) payload: Zeroizing<Vec<u8>>,
    pub(super) received: Instant,
    authorization: Option<Zeroizing<String>>,
    several_authorizations: bool,
    traceparent: Option<String>,
    deadline_ms: Option<String>,
    iam_min: Option<String>,
}

impl fmt::Debug for Later {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Later")
            .field("plane", &self.plane)
            .field("headers", &self.headers())
            .finish_non_exhaustive()
    }
}

impl Later {
    pub(super) fn of(incoming: &Incoming<'_>) -> Box<Self> {
        let headers = &incoming.headers;
        Box::new(Self {
            plane: incoming.plane,
            operation: incoming.operation.to_owned(),
            payload: Zeroizing::new(incoming.payload.to_vec()),
            received: incoming.received,
            authorization: headers.authorization.map(|text| Zeroizing::new(text.to_owned())),
            several_authorizations: headers.several_authorizations,
            traceparent: headers.traceparent.map(str::to_owned),
            deadline_ms: headers.deadline_ms.map(str::to_owned),
            iam_min: headers.iam_min.map(str::to_owned),
        })
    }

    pub(super) fn headers(&self) -> Headers<'_> {
        Headers {
            authorization: self.authorization.as_deref().map(String::as_str),
            several_authorizations: self.several_authorizations,
            traceparent: self.traceparent.as_deref(),
            deadline_ms: self.deadline_ms.as_deref(),
            iam_min: self.iam_min.as_deref(),
        }
    }
}

/// A finished request.
#[derive(Debug)]
pub struct Answered {
    /// `None`: its deadline passed before work on it began, so nobody waits for it.
    pub reply: Option<Reply>,
    /// What changed, or may have changed: to be published before the reply.
    pub changes: Vec<Change>,
    /// Those of the changes of which the store did not say whether they happened, with the last known version:
    /// [`Dispatch::settled`] tells later, and then another event goes out.
    pub unknown: Vec<Change>,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn trace_is_read_as_w3c_writes_it_and_else_is_absent() {
        const TRACE: &str = "0af7651916cd43dd8448eb211c80319c";
        for (text, read) in [
            ("00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01", true),
            ("00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-00", true),
            // Of a later version, which may say more.
            ("cc-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01-more", true),
            ("ff-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01", false),
            ("0-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01", false),
            ("0x-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01", false),
            ("00-0af7651916cd43dd8448eb211c80319-b7ad6b7169203331-01", false),
            ("00-0af7651916cd43dd8448eb211c80319c0-b7ad6b7169203331-01", false),
            ("00-0AF7651916CD43DD8448EB211C80319C-b7ad6b7169203331-01", false),
            ("00-00000000000000000000000000000000-b7ad6b7169203331-01", false),
            ("00-0af7651916cd43dd8448eb211c80319c-0000000000000000-01", false),
            ("00-0af7651916cd43dd8448eb211c80319c-b7ad6b716920333-01", false),
            ("00-0af7651916cd43dd8448eb211c80319c-b7ad6b716920333g-01", false),
            ("00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-1", false),
            ("00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331", false),
            ("", false),
        ] {
            let headers = Headers { traceparent: Some(text), ..Headers::default() };
            assert_eq!(headers.trace_id(), read.then_some(TRACE), "{text}");
        }
        assert_eq!(Headers::default().trace_id(), None);
    }
}
