//! The global options, and what comes of them together with the environment and the nats context.

use std::path::{Path, PathBuf};
use std::time::Duration;

use clap::Args;
use clap::builder::FalseyValueParser;
use iam_client::schema::Secret;
use iam_client::schema::subject::{DEFAULT_PREFIX, Plane};
use iam_client::{Connection, NatsLogin, Tls};

use crate::context::{self, Context};
use crate::credential::{self, Found};
use crate::failure::Failure;
use crate::secrets;
use crate::time::parse_duration;

/// Options that every command takes, before or after its name.
#[derive(Debug, Args)]
#[command(next_help_heading = "Global options")]
pub struct Globals {
    /// File with an API key or a JWT; else IAM_CREDENTIAL, IAM_CREDENTIAL_FILE, or what `iam login` stored
    #[arg(long, global = true, value_name = "FILE")]
    pub credential_file: Option<PathBuf>,
    /// Ask on the service plane, where NATS permissions and not a credential decide
    #[arg(long, global = true, env = "IAM_SERVICE_PLANE", value_parser = FalseyValueParser::new())]
    pub service_plane: bool,
    /// Print records as JSON
    #[arg(long, global = true)]
    pub json: bool,
    /// How long to wait for NATS and for each answer: seconds, or like 500ms
    #[arg(long, global = true, env = "IAM_TIMEOUT", default_value = "10s", value_parser = parse_duration)]
    pub timeout: Duration,
    /// Say nothing on stderr but why a command failed
    #[arg(long, short, global = true)]
    pub quiet: bool,
    #[command(flatten)]
    pub nats: Nats,
}

/// How to reach NATS.
#[derive(Debug, Args)]
#[command(next_help_heading = "NATS options")]
pub struct Nats {
    /// Servers, comma-separated; a login in them, as in nats://USER:PASSWORD@HOST, is for IAM_NATS_URL: arguments are
    /// shown to everybody [default: the selected nats context, else nats://127.0.0.1:4222]
    #[arg(long, global = true, value_name = "URL", env = "IAM_NATS_URL", hide_env_values = true)]
    nats_url: Option<String>,
    /// A context of the `nats` command, instead of the selected one
    #[arg(long, global = true, value_name = "NAME", env = "IAM_NATS_CONTEXT", hide_short_help = true)]
    nats_context: Option<String>,
    /// Credentials file
    #[arg(long, global = true, value_name = "FILE", env = "IAM_NATS_CREDS", value_parser = file, hide_short_help = true)]
    nats_creds: Option<PathBuf>,
    /// File with the seed of an NKey
    #[arg(long, global = true, value_name = "FILE", env = "IAM_NATS_NKEY", value_parser = file, hide_short_help = true)]
    nats_nkey: Option<PathBuf>,
    /// User; the password is in --nats-password-file or IAM_NATS_PASSWORD
    #[arg(long, global = true, value_name = "NAME", env = "IAM_NATS_USER", hide_short_help = true)]
    nats_user: Option<String>,
    /// File with the password of --nats-user
    #[arg(long, global = true, value_name = "FILE", env = "IAM_NATS_PASSWORD_FILE", value_parser = file, hide_short_help = true)]
    nats_password_file: Option<PathBuf>,
    /// File with a token; or the token itself in IAM_NATS_TOKEN
    #[arg(long, global = true, value_name = "FILE", env = "IAM_NATS_TOKEN_FILE", value_parser = file, hide_short_help = true)]
    nats_token_file: Option<PathBuf>,
    /// PEM of the authorities to trust; requires TLS
    #[arg(long, global = true, value_name = "FILE", env = "IAM_NATS_TLS_CA", value_parser = file, hide_short_help = true)]
    nats_tls_ca: Option<PathBuf>,
    /// PEM of the client certificate; requires TLS
    #[arg(long, global = true, value_name = "FILE", env = "IAM_NATS_TLS_CERT", value_parser = file, hide_short_help = true)]
    nats_tls_cert: Option<PathBuf>,
    /// PEM of the client certificate's key
    #[arg(long, global = true, value_name = "FILE", env = "IAM_NATS_TLS_KEY", value_parser = file, hide_short_help = true)]
    nats_tls_key: Option<PathBuf>,
    /// Prefix of reply subjects, where each NATS account has its own [default: _INBOX]
    #[arg(long, global = true, value_name = "PREFIX", env = "IAM_NATS_INBOX_PREFIX", hide_short_help = true)]
    nats_inbox_prefix: Option<String>,
    /// Prefix of the service's subjects
    #[arg(long, global = true, value_name = "PREFIX", env = "IAM_SUBJECT_PREFIX", hide_short_help = true, default_value = DEFAULT_PREFIX)]
    subject_prefix: String,
}

/// What the options, the environment and the nats context come to.
#[derive(Debug)]
pub struct Settings {
    pub connection: Connection,
    /// Where the connection's settings are from, for people.
    pub connection_from: String,
    pub plane: Plane,
    credential_file: Option<PathBuf>,
    /// Where `iam login` stores its JWT; `None` on a machine that says neither where state goes nor what is home.
    pub credential_store: Option<PathBuf>,
}

impl Settings {
    /// Reads everything but the credential.
    pub fn read(globals: &Globals) -> Result<Self, Failure> {
        let home = directory("HOME");
        let config_home =
            directory("XDG_CONFIG_HOME").or_else(|| home.as_ref().map(|home| home.join(".config")));
        let state_home =
            directory("XDG_STATE_HOME").or_else(|| home.as_ref().map(|home| home.join(".local/state")));
        let (connection, connection_from) =
            globals.nats.connection(globals.timeout, config_home.as_deref(), home.as_deref())?;
        Ok(Self {
            connection,
            connection_from,
            plane: if globals.service_plane { Plane::Service } else { Plane::Api },
            credential_file: globals.credential_file.clone(),
            credential_store: state_home.map(|state| state.join("iam/credential")),
        })
    }

    /// The credential, if there is one anywhere.
    pub fn credential(&self) -> Result<Option<Found>, Failure> {
        credential::find(self.credential_file.as_deref(), variable, self.credential_store.as_deref())
    }
}

impl Nats {
    /// The connection, and in words where it comes from.
    fn connection(
        &self,
        timeout: Duration,
        config_home: Option<&Path>,
        home: Option<&Path>,
    ) -> Result<(Connection, String), Failure> {
        let url = self.nats_url.as_deref().filter(|url| !url.is_empty());
        let named = self.nats_context.as_deref().filter(|name| !name.is_empty());
        // The selected context is for the servers that it names: whoever names others does not mean to show them
        // its password.
        let context = match (named, url, config_home) {
            (None, Some(_), _) | (_, _, None) => None,
            (named, _, Some(config_home)) => Context::load(named, config_home)?,
        };
        let from = match (url, &context) {
            (Some(_), _) => "--nats-url or IAM_NATS_URL".to_owned(),
            (None, Some(context)) => format!("nats context `{}`", context.name),
            (None, None) => "the default".to_owned(),
        };
        let context = context.unwrap_or_default();
        let path =
            |option: &Option<PathBuf>, text: &str| option.clone().or_else(|| context::path(text, home));
        let mut connection = Connection {
            login: match self.login()? {
                NatsLogin::None => context_login(&context, home)?,
                login => login,
            },
            tls: Tls {
                ca: path(&self.nats_tls_ca, &context.ca),
                cert: path(&self.nats_tls_cert, &context.cert),
                key: path(&self.nats_tls_key, &context.key),
                first: context.tls_first,
            },
            inbox_prefix: self.nats_inbox_prefix.clone().unwrap_or(context.inbox_prefix),
            subject_prefix: self.subject_prefix.clone(),
            timeout,
            name: "iam".to_owned(),
            ..Connection::default()
        };
        let urls = url.unwrap_or(&context.url);
        if !urls.is_empty() {
            connection.urls = urls.split(',').map(|url| url.trim().to_owned()).collect();
        }
        Ok((connection, from))
    }

    /// The NATS login that the options and the environment name.
    fn login(&self) -> Result<NatsLogin, Failure> {
        let secret = |setting: &str, file: &Option<PathBuf>, name: &str| match given(file) {
            Some(path) => secrets::from_file(setting, path).map(Some),
            None => Ok(variable(name).map(Secret::from)),
        };
        let mut logins = Vec::new();
        if let Some(path) = given(&self.nats_creds) {
            logins.push(NatsLogin::CredentialsFile(path.to_owned()));
        }
        if let Some(path) = given(&self.nats_nkey) {
            logins.push(NatsLogin::NkeySeed(secrets::from_file("--nats-nkey", path)?));
        }
        if let Some(user) = self.nats_user.as_ref().filter(|user| !user.is_empty()) {
            let password = secret("--nats-password-file", &self.nats_password_file, "IAM_NATS_PASSWORD")?;
            let password = password.ok_or_else(|| {
                Failure::usage("--nats-user needs --nats-password-file, or IAM_NATS_PASSWORD")
            })?;
            logins.push(NatsLogin::UserPassword { user: user.clone(), password });
        }
        if let Some(token) = secret("--nats-token-file", &self.nats_token_file, "IAM_NATS_TOKEN")? {
            logins.push(NatsLogin::Token(token));
        }
        match logins.pop() {
            None => Ok(NatsLogin::None),
            Some(login) if logins.is_empty() => Ok(login),
            Some(_) => {
                let ways = "--nats-creds, --nats-nkey, --nats-user and a NATS token";
                Err(Failure::usage(format!("only one of {ways} can be used")))
            }
        }
    }
}

/// The login of a context; where it has several, the one that the `nats` command would use.
fn context_login(context: &Context, home: Option<&Path>) -> Result<NatsLogin, Failure> {
    Ok(if let Some(path) = context::path(&context.creds, home) {
        NatsLogin::CredentialsFile(path)
    } else if let Some(path) = context::path(&context.nkey, home) {
        NatsLogin::NkeySeed(secrets::from_file("the NKey of the nats context", &path)?)
    } else if !context.user.is_empty() {
        NatsLogin::UserPassword {
            user: context.user.clone(),
            password: Secret::new(context.password.clone()),
        }
    } else if !context.token.is_empty() {
        NatsLogin::Token(Secret::new(context.token.clone()))
    } else {
        NatsLogin::None
    })
}

/// Reads a path. An empty one is let through: a variable that is set to nothing counts as not set.
fn file(text: &str) -> Result<PathBuf, std::convert::Infallible> {
    Ok(PathBuf::from(text))
}

fn given(path: &Option<PathBuf>) -> Option<&Path> {
    path.as_deref().filter(|path| !path.as_os_str().is_empty())
}

/// An environment variable; an empty one is none.
fn variable(name: &str) -> Option<String> {
    std::env::var(name).ok().filter(|text| !text.is_empty())
}

/// A directory named by the environment. Source: XDG base directories, relative paths do not count.
fn directory(name: &str) -> Option<PathBuf> {
    variable(name).map(PathBuf::from).filter(|path| path.is_absolute())
}
