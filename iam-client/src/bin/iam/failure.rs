//! Why a command failed: one line for people, and the exit code for scripts.

use std::process::ExitCode;

use iam_client::error::TransportError;
use iam_client::schema::ErrorKind;
use iam_client::{ClientError, ConnectError};

/// How a command ends.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Exit {
    /// Done; for `can`: allowed.
    Done = 0,
    /// Refused by the service.
    Refused = 1,
    /// Denied: for `can`.
    Denied = 2,
    /// Wrong arguments or settings.
    Usage = 64,
    /// No service answered.
    NoAnswer = 69,
    /// Anything unexpected.
    Unexpected = 70,
    /// Not logged in, or auth failure.
    NotLoggedIn = 77,
}

impl From<Exit> for ExitCode {
    fn from(exit: Exit) -> Self {
        ExitCode::from(exit as u8)
    }
}

/// A command that failed. The message has no secrets, and a remedy where there is one.
#[derive(Debug)]
pub struct Failure {
    pub exit: Exit,
    pub message: String,
}

impl Failure {
    pub fn new(exit: Exit, message: impl Into<String>) -> Self {
        Self { exit, message: message.into() }
    }

    pub fn usage(message: impl Into<String>) -> Self {
        Self::new(Exit::Usage, message)
    }

    pub fn unexpected(message: impl Into<String>) -> Self {
        Self::new(Exit::Unexpected, message)
    }

    pub fn not_logged_in() -> Self {
        Self::new(
            Exit::NotLoggedIn,
            "not logged in; run `iam login USER`, or put an API key into IAM_CREDENTIAL",
        )
    }

    /// The same failure with something more to say.
    pub fn with(self, more: &str) -> Self {
        Self { message: format!("{}; {more}", self.message), ..self }
    }
}

impl From<ConnectError> for Failure {
    fn from(error: ConnectError) -> Self {
        let message = error.to_string();
        match error {
            ConnectError::Setting { .. } => Self::usage(message),
            ConnectError::Refused { .. } => Self::new(Exit::NoAnswer, message).with(
                "give those of your account by --nats-creds, --nats-nkey, --nats-user or --nats-token-file",
            ),
            ConnectError::Unreachable { .. } => {
                Self::new(Exit::NoAnswer, message).with("is it running? --nats-url names another")
            }
        }
    }
}

impl From<ClientError> for Failure {
    fn from(error: ClientError) -> Self {
        let message = error.to_string();
        match &error {
            ClientError::Timeout(_) => Self::new(Exit::NoAnswer, message)
                .with("--timeout waits longer, `iam doctor` looks for the cause"),
            ClientError::NoResponder { .. } => Self::new(Exit::NoAnswer, message)
                .with("is iam-svc running, and on this NATS? `iam doctor` looks for the cause"),
            ClientError::Transport(TransportError::Forbidden(_)) => Self::new(Exit::NoAnswer, message)
                .with("use a NATS account that may, or another plane or --nats-inbox-prefix"),
            ClientError::Transport(TransportError::TooLarge) => Self::new(Exit::Refused, message),
            ClientError::Transport(TransportError::Broken(_)) => Self::new(Exit::NoAnswer, message),
            ClientError::Decode(_) => {
                Self::unexpected(message).with("do `iam` and the service have the same version?")
            }
            ClientError::Refused(refusal) => refused(error.kind(), &refusal.message, message),
        }
    }
}

/// `words` is the service's message alone, `both` has the kind in front of it.
fn refused(kind: Option<ErrorKind>, words: &str, both: String) -> Failure {
    match kind {
        Some(ErrorKind::AuthFailed) => Failure::new(
            Exit::NotLoggedIn,
            "auth failure: the credential is unknown, expired or revoked; `iam login USER` gets a new one",
        ),
        Some(ErrorKind::Throttled) => Failure::new(Exit::Refused, both).with("wait, then try again"),
        Some(ErrorKind::Conflict | ErrorKind::Unavailable) => {
            Failure::new(Exit::Refused, both).with("try again")
        }
        Some(ErrorKind::InternalError) => Failure::unexpected(both),
        Some(ErrorKind::OperationNotPermitted) if words == "access denied" => {
            Failure::new(Exit::Refused, "access denied; `iam whoami` shows your roles")
        }
        _ => Failure::new(Exit::Refused, both),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use iam_client::schema::WireError;
    use std::time::Duration;

    #[test]
    fn every_error_has_its_exit_code() {
        for kind in ErrorKind::ALL {
            let failure = Failure::from(ClientError::Refused(WireError::new(*kind, "m")));
            let exit = match kind {
                ErrorKind::AuthFailed => Exit::NotLoggedIn,
                ErrorKind::InternalError => Exit::Unexpected,
                _ => Exit::Refused,
            };
            assert_eq!(failure.exit, exit, "{kind}");
        }
        let unreachable = ConnectError::Unreachable { urls: "nats://h:1".to_owned(), cause: "c".to_owned() };
        let failure = Failure::from(unreachable);
        assert_eq!(failure.exit, Exit::NoAnswer);
        assert!(failure.message.contains("nats://h:1") && failure.message.contains("--nats-url"));
        assert_eq!(Failure::from(ClientError::Timeout(Duration::ZERO)).exit, Exit::NoAnswer);
        let nobody = ClientError::NoResponder { subject: "s".to_owned() };
        assert_eq!(Failure::from(nobody).exit, Exit::NoAnswer);
    }
}
