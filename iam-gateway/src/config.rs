//! The settings of the program.

use std::ffi::OsString;
use std::net::{IpAddr, SocketAddr};
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use axum::http::HeaderValue;
use iam_client::Connection;
use iam_client::program::nats::NATS;
use iam_client::program::reader::{Environment, Fault, Origin, Reader, read_text};
use iam_client::program::settings::{self, CONFIG, Flags, Group, LOG, PRECEDENCE, Setting, Table};
use iam_client::program::{health, logs};
use ipnet::IpNet;
use rustls::ServerConfig;
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};

/// Every setting, in the order of `--help`.
const SETTINGS: Table = &[
    NATS,
    Group {
        heading: "HTTP",
        settings: &[
            Setting::new("listen", "ADDR", "127.0.0.1:8088", "Where HTTP and WebSocket clients are served"),
            Setting::new(
                "tls-cert",
                "FILE",
                "",
                "Our certificate chain for them, in PEM; without it plain HTTP",
            ),
            Setting::new("tls-key", "FILE", "", "The key of --tls-cert, in PEM"),
            Setting::new(
                "trusted-proxies",
                "NET,…",
                "",
                "Addresses or networks of proxies whose X-Forwarded-For is believed, joined by commas",
            ),
            Setting::new(
                "cors-origins",
                "ORIGIN,…",
                "",
                "Origins that browsers may call from, joined by commas, or *; without it none",
            ),
        ],
    },
    Group {
        heading: "Tokens",
        settings: &[
            Setting::new("issuer", "TEXT", "trustgraph-iam", "Issuer of tokens, as iam-svc has it"),
            Setting::new("audience", "TEXT", "trustgraph", "Audience of tokens, as iam-svc has it"),
        ],
    },
    Group {
        heading: "Limits",
        settings: &[
            Setting::new("deadline-s", "SECONDS", "8", "How long iam-svc may take for an answer"),
            Setting::new("max-connections", "N", "16384", "Connections at a time, WebSockets among them"),
            Setting::new(
                "max-requests",
                "N",
                "512",
                "HTTP requests at a time; more are turned away with 503",
            ),
            Setting::new("max-frame-bytes", "BYTES", "1048576", "The largest WebSocket frame"),
            Setting::new(
                "max-list",
                "N",
                "100000",
                "Records that are gathered for clients that do not ask for pages",
            ),
        ],
    },
    Group {
        heading: "Process",
        settings: &[
            Setting::new(
                "http-addr",
                "ADDR|off",
                "127.0.0.1:9465",
                "Where /livez, /readyz and /metrics are served",
            ),
            LOG,
            CONFIG,
        ],
    },
];

/// All that the program needs to know to run.
#[derive(Debug)]
pub struct Config {
    pub nats: Connection,
    pub listen: SocketAddr,
    /// `None` for plain HTTP.
    pub tls: Option<Arc<ServerConfig>>,
    pub trusted_proxies: Vec<IpNet>,
    pub cors: Option<Cors>,
    pub issuer: String,
    pub audience: String,
    pub limits: Limits,
    /// Where `/livez`, `/readyz` and `/metrics` are served; `None` for `off`.
    pub http: Option<SocketAddr>,
    /// A filter in the form of `tracing_subscriber::EnvFilter`.
    pub log: String,
}

/// From where browsers may call.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Cors {
    Anywhere,
    From(Vec<HeaderValue>),
}

/// What one gateway takes on.
#[derive(Debug, Clone, Copy)]
pub struct Limits {
    /// How long the service may take.
    pub deadline: Duration,
    pub connections: u32,
    pub requests: usize,
    pub frame_bytes: usize,
    /// Records of a list that is gathered from its pages.
    pub list: usize,
}

/// The arguments, split but not yet checked against each other.
#[derive(Debug)]
pub struct Arguments(Flags);

impl Arguments {
    /// Splits the arguments; the first is the program's own name.
    ///
    /// # Errors
    /// Unknown arguments, and the texts of `--help` and `--version`, which clap treats alike.
    pub fn parse(args: impl IntoIterator<Item = OsString>) -> Result<Self, clap::Error> {
        let matches = grammar().try_get_matches_from(args)?;
        Ok(Self(settings::given(SETTINGS, &matches, &matches)))
    }
}

fn grammar() -> clap::Command {
    clap::Command::new("iam-gateway")
        .version(env!("CARGO_PKG_VERSION"))
        .about("HTTP and WebSocket in front of iam-svc")
        .after_help(format!(
            "{PRECEDENCE}\nExit codes: 0 stopped as asked, 1 internal fault, 64 usage, 69 NATS was not reachable, 78 \
             configuration."
        ))
        .args(settings::flags(SETTINGS))
}

impl Config {
    /// Reads and checks all settings, and the files that they name.
    ///
    /// # Errors
    /// All faults at once, in the order of the settings.
    pub fn read(arguments: &Arguments, environment: Environment<'_>) -> Result<Self, Vec<Fault>> {
        Reader::read(SETTINGS, &arguments.0, environment, config)
    }
}

fn config(reader: &mut Reader<'_>) -> Option<Config> {
    let nats = reader.nats("iam-gateway");
    let listen = reader
        .parsed("listen", |text| text.parse().map_err(|_| "must be an IP address and a port".to_owned()));
    let tls = tls(reader);
    let trusted_proxies = match reader.given("trusted-proxies") {
        None => Some(Vec::new()),
        Some(_) => reader.parsed("trusted-proxies", |text| text.split(',').map(network).collect()),
    };
    let cors = match reader.given("cors-origins") {
        None => Some(None),
        Some(_) => reader.parsed("cors-origins", cors).map(Some),
    };
    let name = |text: &str| match (1..=1024).contains(&text.len()) && !text.chars().any(char::is_control) {
        true => Ok(text.to_owned()),
        false => Err("must be 1 to 1,024 printable characters".to_owned()),
    };
    let issuer = reader.parsed("issuer", name);
    let audience = reader.parsed("audience", name);
    let limits = limits(reader);
    let http = reader.parsed("http-addr", health::address);
    let log = reader.parsed("log", logs::filter);
    Some(Config {
        nats: nats?,
        listen: listen?,
        tls: tls?,
        trusted_proxies: trusted_proxies?,
        cors: cors?,
        issuer: issuer?,
        audience: audience?,
        limits: limits?,
        http: http?,
        log: log?,
    })
}

fn limits(reader: &mut Reader<'_>) -> Option<Limits> {
    let deadline = reader.number("deadline-s", 1, 60);
    let connections = reader.number("max-connections", 1, 1_000_000);
    let requests = reader.number("max-requests", 1, 100_000);
    let frame_bytes = reader.number("max-frame-bytes", 1_024, 64 * 1024 * 1024);
    let list = reader.number("max-list", 1, 10_000_000);
    Some(Limits {
        deadline: Duration::from_secs(deadline?),
        connections: connections?,
        requests: requests?,
        frame_bytes: frame_bytes?,
        list: list?,
    })
}

/// `None` only where a fault was noted.
fn tls(reader: &mut Reader<'_>) -> Option<Option<Arc<ServerConfig>>> {
    let Some((cert, key)) = reader.certificate("tls-cert", "tls-key")? else { return Some(None) };
    match server_config(&cert, &key) {
        Ok(config) => Some(Some(Arc::new(config))),
        Err(rule) => reader.fault("tls-cert", Origin::Flag, rule),
    }
}

fn server_config(cert: &Path, key: &Path) -> Result<ServerConfig, String> {
    let (cert_text, key_text) = (read_text(cert)?, read_text(key)?);
    let told = |path: &Path, why: String| format!("{}: {why}", path.display());
    let chain: Result<Vec<_>, _> = CertificateDer::pem_slice_iter(cert_text.expose().as_bytes()).collect();
    let chain = chain.map_err(|e| told(cert, e.to_string()))?;
    let key =
        PrivateKeyDer::from_pem_slice(key_text.expose().as_bytes()).map_err(|e| told(key, e.to_string()))?;
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let builder = ServerConfig::builder_with_provider(provider).with_safe_default_protocol_versions();
    let builder = builder.map_err(|e| e.to_string())?.with_no_client_auth();
    let mut config = builder.with_single_cert(chain, key).map_err(|e| told(cert, e.to_string()))?;
    config.alpn_protocols = vec![b"http/1.1".to_vec()];
    Ok(config)
}

fn network(text: &str) -> Result<IpNet, String> {
    let text = text.trim();
    let alone = text.parse::<IpAddr>().map(IpNet::from);
    alone.or_else(|_| text.parse()).map_err(|_| format!("`{text}` is no address and no network"))
}

fn cors(text: &str) -> Result<Cors, String> {
    if text == "*" {
        return Ok(Cors::Anywhere);
    }
    text.split(',').map(origin).collect::<Result<_, _>>().map(Cors::From)
}

/// An origin as browsers write it.
///
/// Source: RFC 6454 section 6.2.
fn origin(text: &str) -> Result<HeaderValue, String> {
    let text = text.trim();
    let rule = || format!("`{text}` is no origin, as in https://app.example.org");
    let rest = text.strip_prefix("https://").or_else(|| text.strip_prefix("http://")).ok_or_else(rule)?;
    let fits = !rest.is_empty() && rest.bytes().all(|b| b.is_ascii_graphic() && !b"/?#@*".contains(&b));
    match (fits, HeaderValue::from_str(text)) {
        (true, Ok(value)) => Ok(value),
        _ => Err(rule()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(args: &[&str]) -> Result<Config, Vec<String>> {
        let args = ["iam-gateway"].iter().chain(args).map(OsString::from);
        let arguments = Arguments::parse(args).unwrap();
        Config::read(&arguments, &|_| None).map_err(|faults| faults.iter().map(Fault::to_string).collect())
    }

    #[test]
    fn grammar_is_sound_and_help_names_every_setting() {
        grammar().debug_assert();
        let help = grammar().render_long_help().to_string();
        for setting in settings::rows(SETTINGS) {
            assert!(help.contains(&format!("--{}", setting.name)), "{}", setting.name);
        }
    }

    #[test]
    fn defaults_trust_nobody_and_let_no_browser_in() {
        let config = read(&[]).unwrap();
        assert_eq!(config.listen, "127.0.0.1:8088".parse().unwrap());
        assert_eq!(config.http, Some("127.0.0.1:9465".parse().unwrap()));
        assert!(config.trusted_proxies.is_empty() && config.cors.is_none() && config.tls.is_none());
        assert_eq!(config.nats.inbox_prefix, "_INBOX_iam-gateway");
        assert_eq!((config.issuer.as_str(), config.audience.as_str()), ("trustgraph-iam", "trustgraph"));
    }

    #[test]
    fn settings_that_cannot_stand_are_all_named() {
        let faults = read(&[
            "--listen",
            "8088",
            "--trusted-proxies",
            "10.0.0.0/33",
            "--cors-origins",
            "https://app.example.org/path",
            "--max-requests",
            "0",
            "--tls-cert",
            "Cargo.toml",
        ]);
        let faults = faults.unwrap_err();
        let expected = [
            "--listen: must be",
            "--tls-cert: a certificate and its key",
            "--trusted-proxies: `10.0.0.0/33`",
        ];
        let more =
            ["--cors-origins: `https://app.example.org/path`", "--max-requests: must be a whole number"];
        assert_eq!(faults.len(), 5, "{faults:#?}");
        for (fault, begin) in faults.iter().zip(expected.iter().chain(&more)) {
            assert!(fault.starts_with(begin), "{fault} begins with {begin}");
        }
    }

    #[test]
    fn origins_are_those_that_browsers_write() {
        for good in ["https://app.example.org", "http://localhost:3000", "http://[::1]:8080"] {
            assert!(origin(good).is_ok(), "{good}");
        }
        for bad in
            ["app.example.org", "https://", "https://a/", "https://*.a", "ftp://a", "https://u@a", "null"]
        {
            assert!(origin(bad).is_err(), "{bad}");
        }
    }
}
