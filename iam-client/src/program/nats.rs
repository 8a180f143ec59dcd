//! The settings of the connection to NATS.

use async_nats::ServerAddr;
use iam_schema::subject::Subjects;

use super::reader::{Origin, Reader, Readers};
use super::settings::{Group, Setting};
use crate::connection::{Connection, NatsLogin, Tls};

/// How to reach NATS, and as whom.
pub const NATS: Group = Group {
    heading: "NATS",
    settings: &[
        Setting::new("nats-url", "URL,…", "nats://127.0.0.1:4222", "Servers of NATS, joined by commas"),
        Setting::new("nats-creds", "FILE", "", "Credentials file: a user JWT and its seed"),
        Setting::new("nats-nkey", "FILE", "", "File with the seed of an nkey; nobody else may read it"),
        Setting::new("nats-user", "NAME", "", "User name, together with a password"),
        Setting::secret("nats-password-file", "File with the password of --nats-user"),
        Setting::secret("nats-token-file", "File with a token"),
        Setting::new(
            "nats-tls-ca",
            "FILE",
            "",
            "Certificates of the authority that NATS is checked against, in PEM",
        ),
        Setting::new("nats-tls-cert", "FILE", "", "Our certificate, in PEM"),
        Setting::new("nats-tls-key", "FILE", "", "The key of --nats-tls-cert, in PEM"),
        Setting::new(
            "nats-inbox-prefix",
            "SUBJECT",
            "",
            "Where replies to our own requests come in [default: _INBOX_ and the name of the program]",
        ),
        Setting::new("subject-prefix", "SUBJECT", "iam", "What all subjects begin with"),
    ],
};

impl Reader<'_> {
    /// How to reach NATS; `None` only where a fault was noted.
    pub fn nats(&mut self, program: &str) -> Option<Connection> {
        let urls = self.parsed("nats-url", urls);
        let login = self.nats_login();
        let tls = self.nats_tls();
        let inbox_prefix = match self.given("nats-inbox-prefix") {
            None => Some(format!("_INBOX_{program}")),
            Some(_) => self.parsed("nats-inbox-prefix", inbox_prefix),
        };
        let subject_prefix = self.parsed("subject-prefix", |text| {
            Subjects::new(text).map(|_| text.to_owned()).map_err(str::to_owned)
        });
        Some(Connection {
            urls: urls?,
            login,
            tls: tls?,
            inbox_prefix: inbox_prefix?,
            subject_prefix: subject_prefix?,
            name: program.to_owned(),
            ..Connection::default()
        })
    }

    fn nats_login(&mut self) -> NatsLogin {
        let creds = self.file_text("nats-creds", Readers::Any);
        let nkey = self.file_text("nats-nkey", Readers::OwnerAlone);
        let user = self.given("nats-user");
        let password = self.secret("nats-password-file", Readers::Any);
        let token = self.secret("nats-token-file", Readers::Any);
        let ways = [creds.is_some(), nkey.is_some(), user.is_some(), token.is_some()];
        if ways.iter().filter(|given| **given).count() > 1 {
            let rule = "give only one of --nats-creds, --nats-nkey, --nats-user and --nats-token-file";
            self.note("nats-user", Origin::Flag, rule);
        }
        match (creds, nkey, token, user, password) {
            (Some((creds, _)), ..) => NatsLogin::Credentials(creds),
            (_, Some((seed, _)), ..) => NatsLogin::NkeySeed(seed),
            (_, _, Some((token, _)), ..) => NatsLogin::Token(token),
            (.., Some(user), Some((password, _))) => NatsLogin::UserPassword { user: user.text, password },
            (.., Some(user), None) => {
                self.note("nats-user", user.origin, "needs --nats-password-file");
                NatsLogin::None
            }
            (.., None, Some((_, origin))) => {
                self.note("nats-password-file", origin, "needs --nats-user");
                NatsLogin::None
            }
            (.., None, None) => NatsLogin::None,
        }
    }

    fn nats_tls(&mut self) -> Option<Tls> {
        let ca = self.readable("nats-tls-ca");
        let (cert, key) = self.certificate("nats-tls-cert", "nats-tls-key")?.unzip();
        Some(Tls { ca, cert, key, first: false })
    }
}

fn urls(text: &str) -> Result<Vec<String>, String> {
    let urls: Vec<String> = text.split(',').map(|url| url.trim().to_owned()).collect();
    for url in &urls {
        let server: ServerAddr = url.parse().map_err(|e: std::io::Error| e.to_string())?;
        // Whoever lists the processes of the machine would read them.
        if server.username().is_some() || server.password().is_some() {
            return Err(
                "takes no user and password: they go to --nats-user and --nats-password-file, a token to \
                        --nats-token-file"
                    .to_owned(),
            );
        }
    }
    Ok(urls)
}

fn inbox_prefix(text: &str) -> Result<String, String> {
    let token =
        |t: &str| !t.is_empty() && t.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'_' || b == b'-');
    match text.len() <= 128 && text.split('.').all(token) {
        true => Ok(text.to_owned()),
        false => Err("must be tokens of A-Z a-z 0-9 _ - joined by dots".to_owned()),
    }
}
