//! What can go wrong between a question and its answer.

use std::time::Duration;

use iam_schema::codec::DecodeError;
use iam_schema::{ErrorKind, WireError};

/// Why a request got no good answer.
#[derive(Debug, thiserror::Error)]
pub enum ClientError {
    /// Nobody answered in time. Whether the operation took effect is not known.
    #[error("no answer within {0:?}")]
    Timeout(Duration),
    /// NATS says that nobody listens on that subject. Nothing was done.
    #[error("nobody answers on `{subject}`")]
    NoResponder { subject: String },
    /// The request did not get through, or its answer did not come back.
    #[error(transparent)]
    Transport(#[from] TransportError),
    /// An answer came that is none: not readable, or without what this operation always returns.
    #[error("the reply cannot be used: {0}")]
    Decode(DecodeError),
    /// The service answered with an error.
    #[error("{0}")]
    Refused(WireError),
}

/// What NATS itself had against a request.
#[derive(Debug, thiserror::Error)]
pub enum TransportError {
    /// The NATS account may not publish there, or may not receive replies.
    #[error("NATS does not permit this: {0}")]
    Forbidden(String),
    /// The request is larger than this NATS server takes.
    #[error("the request is larger than this NATS server takes")]
    TooLarge,
    /// The connection is gone. Whether the operation took effect is not known.
    #[error("the connection to NATS broke: {0}")]
    Broken(#[source] async_nats::RequestError),
}

impl ClientError {
    /// The kind of the service's refusal, if it is one and this version of the contract knows it.
    pub fn kind(&self) -> Option<ErrorKind> {
        match self {
            ClientError::Refused(error) => error.known_kind(),
            ClientError::Timeout(_)
            | ClientError::NoResponder { .. }
            | ClientError::Transport(_)
            | ClientError::Decode(_) => None,
        }
    }

    /// Whether the same request may succeed if it is made again a little later.
    ///
    /// After [`ClientError::Timeout`] and a broken connection the first one may have taken effect all the same:
    /// a repeated `create_user` can then answer `duplicate`.
    pub fn retryable(&self) -> bool {
        match self {
            ClientError::Timeout(_) | ClientError::NoResponder { .. } => true,
            ClientError::Transport(TransportError::Broken(_)) => true,
            ClientError::Transport(TransportError::Forbidden(_) | TransportError::TooLarge) => false,
            ClientError::Decode(_) => false,
            ClientError::Refused(error) => error.known_kind().is_some_and(refusal_is_retryable),
        }
    }

    /// A reply that lacks `field`, or has it in a form that it cannot have.
    pub(crate) fn reply(field: &str, rule: impl Into<String>) -> Self {
        ClientError::Decode(DecodeError { field: field.to_owned(), rule: rule.into() })
    }

    /// A request that is refused here already, in the words of the service.
    pub(crate) fn refused(kind: ErrorKind, message: impl Into<String>) -> Self {
        ClientError::Refused(WireError::new(kind, message))
    }
}

fn refusal_is_retryable(kind: ErrorKind) -> bool {
    match kind {
        ErrorKind::Conflict | ErrorKind::Throttled | ErrorKind::Unavailable => true,
        ErrorKind::InvalidArgument
        | ErrorKind::NotFound
        | ErrorKind::Duplicate
        | ErrorKind::AuthFailed
        | ErrorKind::OperationNotPermitted
        | ErrorKind::WeakPassword
        | ErrorKind::Disabled
        | ErrorKind::NotSupported
        | ErrorKind::InternalError => false,
    }
}

/// Why there is no connection to NATS.
#[derive(Debug, thiserror::Error)]
pub enum ConnectError {
    /// A setting that cannot be used, whatever NATS would say.
    #[error("{setting}: {problem}")]
    Setting { setting: &'static str, problem: String },
    /// The server answered, and refuses these NATS credentials.
    #[error("the NATS server at {urls} refuses these NATS credentials")]
    Refused { urls: String },
    /// No server answered, or TLS with it failed.
    #[error("cannot connect to NATS at {urls}: {cause}")]
    Unreachable { urls: String, cause: String },
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_what_may_pass_by_itself_is_retryable() {
        for kind in ErrorKind::ALL {
            let error = ClientError::refused(*kind, "");
            let passes = matches!(kind, ErrorKind::Conflict | ErrorKind::Throttled | ErrorKind::Unavailable);
            assert_eq!(error.retryable(), passes, "{kind}");
            assert_eq!(error.kind(), Some(*kind));
        }
        let tomorrow = WireError { kind: "of-tomorrow".to_owned(), message: String::new() };
        let tomorrow = ClientError::Refused(tomorrow);
        assert!(!tomorrow.retryable() && tomorrow.kind().is_none());
        assert!(ClientError::Timeout(Duration::ZERO).retryable());
        assert!(!ClientError::Transport(TransportError::Forbidden(String::new())).retryable());
    }
}
