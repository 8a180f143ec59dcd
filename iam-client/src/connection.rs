//! [`Connection`]: how to reach NATS.

use std::fmt;
use std::path::PathBuf;
use std::time::Duration;

use async_nats::{ConnectErrorKind, ConnectOptions, Event, ServerAddr, ServerError};
use iam_schema::Secret;
use iam_schema::subject::{DEFAULT_PREFIX, Subjects};
use percent_encoding::percent_decode_str;
use tokio::sync::broadcast;

use crate::error::ConnectError;

/// The complaints of a server that a slow listener may fall behind. One that misses more sees a timeout instead.
pub(crate) const MAX_COMPLAINTS: usize = 16;

/// Where NATS is, and how to show oneself there. None of it is an IAM credential.
#[derive(Clone)]
pub struct Connection {
    /// Servers of one cluster, `nats://` or `tls://`; any of them will do. A login may be in them, as NATS has it:
    /// `nats://user:password@host`, percent-encoded where it must be, or `nats://token@host`. It counts for all of
    /// them, and where [`NatsLogin`] names none.
    pub urls: Vec<String>,
    /// How NATS knows this client.
    pub login: NatsLogin,
    pub tls: Tls,
    /// The prefix of reply subjects, where NATS permissions give each client its own; empty means `_INBOX`.
    pub inbox_prefix: String,
    /// The prefix of the service's subjects.
    pub subject_prefix: String,
    /// How long connecting may take in all; also the deadline that a new client has for each request.
    pub timeout: Duration,
    /// The name under which the NATS server lists this connection.
    pub name: String,
}

/// How NATS knows a client.
#[derive(Debug, Clone, Default)]
pub enum NatsLogin {
    /// By what the URLs say; else not at all.
    #[default]
    None,
    /// A `.creds` file: JWT and seed.
    CredentialsFile(PathBuf),
    /// What stands in such a file.
    Credentials(Secret),
    /// The seed of an NKey, `SU…`.
    NkeySeed(Secret),
    UserPassword {
        user: String,
        password: Secret,
    },
    Token(Secret),
}

/// TLS to NATS. Naming any file, or `first`, requires TLS: nothing falls back to plain text.
#[derive(Debug, Clone, Default)]
pub struct Tls {
    /// PEM; without it the system's own certificates count.
    pub ca: Option<PathBuf>,
    /// PEM of the client's certificate; its key is needed then.
    pub cert: Option<PathBuf>,
    pub key: Option<PathBuf>,
    /// TLS before the server's greeting, for servers with `handshake_first`.
    pub first: bool,
}

impl fmt::Debug for Connection {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        // The URLs may hold a password.
        f.debug_struct("Connection")
            .field("urls", &self.shown_urls())
            .field("login", &self.login)
            .field("tls", &self.tls)
            .finish_non_exhaustive()
    }
}

impl Default for Connection {
    fn default() -> Self {
        Self {
            urls: vec!["nats://127.0.0.1:4222".to_owned()],
            login: NatsLogin::None,
            tls: Tls::default(),
            inbox_prefix: String::new(),
            subject_prefix: DEFAULT_PREFIX.to_owned(),
            timeout: Duration::from_secs(10),
            name: "iam-client".to_owned(),
        }
    }
}

impl Connection {
    /// A plain connection to any of these servers.
    pub fn to<U: Into<String>>(urls: impl IntoIterator<Item = U>) -> Self {
        Self { urls: urls.into_iter().map(Into::into).collect(), ..Self::default() }
    }

    /// The servers as they may be shown: without user and password.
    pub fn shown_urls(&self) -> String {
        let shown = |url: &String| match url.parse::<ServerAddr>() {
            Ok(server) => format!("{}://{}:{}", server.scheme(), server.host(), server.port()),
            Err(_) => "(not a URL)".to_owned(),
        };
        self.urls.iter().map(shown).collect::<Vec<_>>().join(",")
    }

    /// Connects, once: a server that does not answer now is an error. Later breaks heal by themselves.
    ///
    /// # Errors
    /// As [`ConnectError`] has them.
    pub(crate) async fn open(&self) -> Result<Opened, ConnectError> {
        let subjects = Subjects::new(&self.subject_prefix)
            .map_err(|rule| ConnectError::Setting { setting: "subject prefix", problem: rule.to_owned() })?;
        let servers = self.servers()?;
        let complaints = broadcast::Sender::new(MAX_COMPLAINTS);
        let complain = complaints.clone();
        let options = self.options(&servers)?.event_callback(move |event| {
            if let Event::ServerError(ServerError::Other(text)) = event {
                // Nobody has to listen.
                let _ = complain.send(text);
            }
            std::future::ready(())
        });
        match tokio::time::timeout(self.timeout, options.connect(servers)).await {
            Ok(Ok(nats)) => {
                Ok(Opened { nats, subjects, complaints, inbox_prefix: self.inbox_prefix().to_owned() })
            }
            Ok(Err(error)) => Err(self.failed(&error)),
            Err(_) => Err(ConnectError::Unreachable {
                urls: self.shown_urls(),
                cause: format!("no answer within {:?}", self.timeout),
            }),
        }
    }

    /// The servers, as the driver takes them.
    ///
    /// # Errors
    /// `Setting` for what is no URL of NATS, or none at all.
    pub fn servers(&self) -> Result<Vec<ServerAddr>, ConnectError> {
        let fault = |problem: String| ConnectError::Setting { setting: "NATS URL", problem };
        if self.urls.is_empty() {
            return Err(fault("there is none".to_owned()));
        }
        let parse = |url: &String| match url.trim().parse::<ServerAddr>() {
            // The text may hold a password: it is not repeated.
            Err(_) => Err(fault("must be like nats://host:4222 or tls://host:4222".to_owned())),
            Ok(server) if matches!(server.scheme(), "nats" | "tls") => Ok(server),
            Ok(server) => Err(fault(format!("`{}` is not supported, use nats or tls", server.scheme()))),
        };
        self.urls.iter().map(parse).collect()
    }

    fn options(&self, servers: &[ServerAddr]) -> Result<ConnectOptions, ConnectError> {
        // A server that swallows packets must leave time for the next one in the list.
        let each = self.timeout / u32::try_from(servers.len().max(1)).unwrap_or(u32::MAX);
        self.with_login(ConnectOptions::new().name(&self.name).connection_timeout(each))
    }

    /// Adds to other options what this says of the login, of TLS and of the inbox.
    ///
    /// # Errors
    /// `Setting` for what cannot be used.
    pub fn with_login(&self, options: ConnectOptions) -> Result<ConnectOptions, ConnectError> {
        let credentials = |options: ConnectOptions, text: &Secret| {
            options
                .credentials(text.expose())
                .map_err(|e| ConnectError::Setting { setting: "NATS credentials", problem: e.to_string() })
        };
        let mut options = options.custom_inbox_prefix(self.inbox_prefix());
        options = match &self.login {
            NatsLogin::None => match self.servers()?.iter().find_map(login_in) {
                Some((user, Some(password))) => options.user_and_password(user, password),
                Some((token, None)) => options.token(token),
                None => options,
            },
            NatsLogin::CredentialsFile(path) => {
                let fault = |e: std::io::Error| ConnectError::Setting {
                    setting: "NATS credentials file",
                    problem: format!("`{}`: {e}", path.display()),
                };
                credentials(options, &Secret::from(std::fs::read_to_string(path).map_err(fault)?))?
            }
            NatsLogin::Credentials(text) => credentials(options, text)?,
            NatsLogin::NkeySeed(seed) => options.nkey(seed.expose().trim().to_owned()),
            NatsLogin::UserPassword { user, password } => {
                options.user_and_password(user.clone(), password.expose().to_owned())
            }
            NatsLogin::Token(token) => options.token(token.expose().to_owned()),
        };
        self.with_tls(options)
    }

    fn with_tls(&self, mut options: ConnectOptions) -> Result<ConnectOptions, ConnectError> {
        let tls = &self.tls;
        for path in [&tls.ca, &tls.cert, &tls.key].into_iter().flatten() {
            // Read again by the driver; looked at here, so that the fault names the file.
            std::fs::File::open(path).map_err(|e| ConnectError::Setting {
                setting: "TLS to NATS",
                problem: format!("`{}`: {e}", path.display()),
            })?;
        }
        if let Some(ca) = &tls.ca {
            options = options.add_root_certificates(ca.clone()).require_tls(true);
        }
        match (&tls.cert, &tls.key) {
            (Some(cert), Some(key)) => {
                options = options.add_client_certificate(cert.clone(), key.clone()).require_tls(true);
            }
            (None, None) => {}
            _ => {
                let problem = "a client certificate and its key go together".to_owned();
                return Err(ConnectError::Setting { setting: "TLS to NATS", problem });
            }
        }
        Ok(if tls.first { options.tls_first().require_tls(true) } else { options })
    }

    fn inbox_prefix(&self) -> &str {
        if self.inbox_prefix.is_empty() { "_INBOX" } else { &self.inbox_prefix }
    }

    fn failed(&self, error: &async_nats::ConnectError) -> ConnectError {
        let urls = self.shown_urls();
        match error.kind() {
            ConnectErrorKind::AuthorizationViolation => ConnectError::Refused { urls },
            ConnectErrorKind::Authentication => {
                ConnectError::Setting { setting: "NATS login", problem: error.to_string() }
            }
            ConnectErrorKind::ServerParse
            | ConnectErrorKind::Dns
            | ConnectErrorKind::TimedOut
            | ConnectErrorKind::Tls
            | ConnectErrorKind::Io
            | ConnectErrorKind::MaxReconnects => ConnectError::Unreachable { urls, cause: error.to_string() },
        }
    }
}

/// User and password in a URL, or a token alone: the driver leaves them there.
fn login_in(server: &ServerAddr) -> Option<(String, Option<String>)> {
    let decoded = |text: &str| percent_decode_str(text).decode_utf8_lossy().into_owned();
    server.username().map(|user| (decoded(user), server.password().map(decoded)))
}

/// A connection that stands.
#[derive(Debug)]
pub(crate) struct Opened {
    pub(crate) nats: async_nats::Client,
    pub(crate) subjects: Subjects,
    /// What the server complains of, such as a permission that this account lacks.
    pub(crate) complaints: broadcast::Sender<String>,
    pub(crate) inbox_prefix: String,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn urls_are_shown_without_their_password() {
        let connection = Connection::to(["nats://ada:hunter2@one:4222", "tls://two", "::"]);
        assert_eq!(connection.shown_urls(), "nats://one:4222,tls://two:4222,(not a URL)");
        assert!(!format!("{connection:?}").contains("hunter2"));
    }

    #[test]
    fn login_is_read_out_of_a_url() {
        for (url, login) in [
            ("nats://one:4222", None),
            ("nats://ada:hunter2@one", Some(("ada", Some("hunter2")))),
            ("tls://ada%40acme:a%2Fb%25@one:4222", Some(("ada@acme", Some("a/b%")))),
            ("nats://s3cr3t@one", Some(("s3cr3t", None))),
        ] {
            let found = login_in(&url.parse().unwrap());
            assert_eq!(found.as_ref().map(|(u, p)| (u.as_str(), p.as_deref())), login, "{url}");
        }
    }

    #[tokio::test]
    async fn settings_that_cannot_work_are_named_before_connecting() {
        let wrong_prefix = Connection { subject_prefix: "iam.*".to_owned(), ..Connection::default() };
        let no_url = Connection { urls: Vec::new(), ..Connection::default() };
        let web = Connection::to(["ws://one"]);
        let tls = Tls { cert: Some("Cargo.toml".into()), ..Tls::default() };
        let half = Connection { tls, ..Connection::default() };
        let login = NatsLogin::CredentialsFile("no/such.creds".into());
        let no_file = Connection { login, ..Connection::default() };
        for (connection, named) in [
            (wrong_prefix, "subject prefix"),
            (no_url, "NATS URL"),
            (web, "`ws`"),
            (half, "its key"),
            (no_file, "no/such.creds"),
        ] {
            match connection.open().await {
                Err(error @ ConnectError::Setting { .. }) => {
                    assert!(error.to_string().contains(named), "{error}");
                }
                other => panic!("{other:?} does not name {named}"),
            }
        }
    }
}
