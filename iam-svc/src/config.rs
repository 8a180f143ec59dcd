//! The settings of the program: read from flags, environment and a file, checked, and given types.
//!
//! One table names every setting; flags, environment variables, names in the file and `--help` all follow from
//! it. A flag beats the environment, the environment beats the file. Faults are gathered and reported together,
//! each with the setting and where its value came from. Secrets come by file or environment, never by flag.

mod arguments;
mod cassandra;
mod kek;

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::str::FromStr;
use std::sync::Arc;

use iam_client::Connection;
pub use iam_client::program::reader::{Environment, Fault};
use iam_client::program::reader::{Origin, Reader, Readers, read_text, told};
use iam_client::program::{health, logs};
use iam_schema::subject::Subjects;
use serde::Deserialize;

use self::arguments::SETTINGS;
pub use self::arguments::{Arguments, Command};
pub use self::kek::{IfMissing, KekFault, KekSource, is_placed, place};
use crate::crypto::seal::Kek;
use crate::ctx::{BootstrapMode, Settings};
use crate::domain::policy::{Policy, PolicySource, RoleSource};

/// The shortest grace period of a replaced signing key, in seconds.
///
/// Source: protocol section 3, rotate-signing-key.
const MIN_GRACE_S: i64 = 3_600;
/// The longest life of a token and of a grace period, in seconds: a year. Longer is a slip of the pen.
const MAX_LIFETIME_S: i64 = 366 * 86_400;
/// The longest time for which a decision may be cached, in seconds.
const MAX_DECISION_TTL_S: u32 = 3_600;
/// The most front threads: each holds two connections.
const MAX_FRONT_THREADS: usize = 64;
/// The most threads that hash passwords.
const MAX_HASH_THREADS: usize = 256;

/// All that the program needs to know to run.
#[derive(Debug)]
pub struct Config {
    pub nats: Connection,
    pub subjects: Subjects,
    pub store: StoreKind,
    /// Where the embedded store keeps its files.
    pub data_dir: PathBuf,
    /// Where the cluster is that keeps the records otherwise.
    pub cassandra: cassandra::Setting,
    pub kek: KekSource,
    pub policy: Arc<Policy>,
    pub settings: Settings,
    pub audit_stream: AuditStream,
    /// Where `/livez`, `/readyz` and `/metrics` are served; `None` for `off`.
    pub http: Option<SocketAddr>,
    pub front_threads: usize,
    pub hash_threads: usize,
    /// A filter in the form of `tracing_subscriber::EnvFilter`.
    pub log: String,
}

/// Where records are kept.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum StoreKind {
    Embedded,
    Cassandra,
}

impl FromStr for StoreKind {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        match text {
            "embedded" => Ok(StoreKind::Embedded),
            "cassandra" => Ok(StoreKind::Cassandra),
            _ => Err("must be `embedded` or `cassandra`".to_owned()),
        }
    }
}

/// What to do about the stream that keeps audit events.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum AuditStream {
    /// Create it where we may; do without it elsewhere, and say so.
    Auto,
    /// Refuse to start without it.
    Require,
    Off,
}

impl Config {
    /// Reads and checks all settings. Files that settings name are read as well, so that nothing can be found
    /// missing later.
    ///
    /// # Errors
    /// All faults at once, in the order of the settings.
    pub fn read(arguments: &Arguments, environment: Environment<'_>) -> Result<Self, Vec<Fault>> {
        Reader::read(SETTINGS, &arguments.flags, environment, |reader| config(reader, &arguments.command))
    }
}

/// `None` only where a fault was noted.
fn config(reader: &mut Reader<'_>, command: &Command) -> Option<Config> {
    let nats = reader.nats("iam-svc");
    let subjects = nats.as_ref().and_then(|nats| Subjects::new(&nats.subject_prefix).ok());
    let store = reader.parsed("store", str::parse);
    let data_dir = reader.path("data-dir");
    let kek = match reader.secret("kek-file", Readers::OwnerAlone) {
        Some((given, origin)) => match Kek::from_base64(&given) {
            Ok(kek) => Some(KekSource::Given(kek)),
            Err(rule) => reader.fault("kek-file", origin, rule.to_string()),
        },
        // A data directory has its own.
        None => match (command, store) {
            (Command::MigrateStore { from: StoreKind::Cassandra, .. }, _) => {
                let rule = "must be given with --from cassandra: the one of all its replicas";
                reader.fault("kek-file", Origin::Default, rule)
            }
            (Command::MigrateStore { from: StoreKind::Embedded, .. }, _) => Some(KekSource::DataDir),
            (_, Some(StoreKind::Cassandra)) => {
                let rule = "must be given with --store cassandra: all replicas need the same one";
                reader.fault("kek-file", Origin::Default, rule)
            }
            (_, Some(StoreKind::Embedded) | None) => Some(KekSource::DataDir),
        },
    };
    let cassandra = cassandra::cassandra(reader);
    let policy = policy(reader);
    let settings = settings(reader, command);
    let audit_stream = reader.parsed("audit-stream", |text| match text {
        "auto" => Ok(AuditStream::Auto),
        "require" => Ok(AuditStream::Require),
        "off" => Ok(AuditStream::Off),
        _ => Err("must be `auto`, `require` or `off`".to_owned()),
    });
    let http = reader.parsed("http-addr", health::address);
    let cores = std::thread::available_parallelism().map_or(1, usize::from);
    let front_threads = reader.number_or("front-threads", 1, MAX_FRONT_THREADS, (cores / 8).clamp(1, 8));
    let hash_threads = reader.number_or("hash-threads", 1, MAX_HASH_THREADS, (cores / 2).max(1));
    let log = reader.parsed("log", logs::filter);
    Some(Config {
        nats: nats?,
        subjects: subjects?,
        store: store?,
        data_dir: data_dir?,
        cassandra: cassandra?,
        kek: kek?,
        policy: policy?,
        settings: settings?,
        audit_stream: audit_stream?,
        http: http?,
        front_threads: front_threads?,
        hash_threads: hash_threads?,
        log: log?,
    })
}

fn settings(reader: &mut Reader<'_>, command: &Command) -> Option<Settings> {
    let bootstrap = bootstrap(reader, command);
    let token_lifetime_s = reader.number("token-lifetime-s", 1, MAX_LIFETIME_S);
    let grace_period_s = reader.number("grace-period-s", MIN_GRACE_S, MAX_LIFETIME_S);
    if let (Some(lifetime), Some(grace)) = (token_lifetime_s, grace_period_s)
        && grace < lifetime
    {
        let origin = reader.given("grace-period-s").map_or(Origin::Default, |given| given.origin);
        let rule = format!("must be at least the token lifetime, {lifetime}");
        reader.note("grace-period-s", origin, rule);
    }
    let name = |text: &str| {
        let fits = (1..=1024).contains(&text.len()) && !text.chars().any(char::is_control);
        if fits { Ok(text.to_owned()) } else { Err("must be 1 to 1,024 printable characters".to_owned()) }
    };
    let issuer = reader.parsed("issuer", name);
    let audience = reader.parsed("audience", name);
    let allow_ttl_s = reader.number("allow-ttl-s", 0, MAX_DECISION_TTL_S);
    let deny_ttl_s = reader.number("deny-ttl-s", 0, MAX_DECISION_TTL_S);
    let anonymous_user = match reader.given("anonymous-user") {
        None => Some(None),
        Some(given) => match given.text.parse() {
            Ok(user) => Some(Some(user)),
            Err(rule) => reader.fault("anonymous-user", given.origin, rule),
        },
    };
    let audit_allow_all = reader.parsed("audit-allow", |text| match text {
        "summary" => Ok(false),
        "all" => Ok(true),
        _ => Err("must be `summary` or `all`".to_owned()),
    });
    Some(Settings {
        bootstrap: bootstrap?,
        issuer: issuer?,
        audience: audience?,
        token_lifetime_s: token_lifetime_s?,
        grace_period_s: grace_period_s?,
        allow_ttl_s: allow_ttl_s?,
        deny_ttl_s: deny_ttl_s?,
        anonymous_user: anonymous_user?,
        audit_allow_all: audit_allow_all?,
    })
}

/// Source: protocol section 7.
fn bootstrap(reader: &mut Reader<'_>, command: &Command) -> Option<BootstrapMode> {
    let token = reader.secret("bootstrap-token-file", Readers::Any);
    let Some(mode) = reader.given("bootstrap-mode") else {
        // These bring nobody in by bootstrap, so that they need not be told how.
        if matches!(command, Command::RecoverAdmin { .. } | Command::MigrateStore { .. }) {
            return Some(BootstrapMode::Bootstrap);
        }
        return reader.fault("bootstrap-mode", Origin::Default, "must be chosen: `token` or `bootstrap`");
    };
    match (mode.text.as_str(), token) {
        ("token", Some((token, origin))) => {
            let bytes = token.expose().as_bytes();
            let well_formed = bytes.iter().all(|b| b.is_ascii_alphanumeric() || *b == b'_' || *b == b'-');
            if well_formed && (24..=256).contains(&bytes.len()) {
                Some(BootstrapMode::Token(token))
            } else {
                let rule = "the token must be 24 to 256 characters of A-Z a-z 0-9 _ -";
                reader.fault("bootstrap-token-file", origin, rule)
            }
        }
        ("token", None) => {
            reader.fault("bootstrap-token-file", Origin::Default, "--bootstrap-mode token needs a token")
        }
        ("bootstrap", None) => Some(BootstrapMode::Bootstrap),
        ("bootstrap", Some((_, origin))) => {
            reader.fault("bootstrap-token-file", origin, "--bootstrap-mode bootstrap takes no token")
        }
        _ => reader.fault("bootstrap-mode", mode.origin, "must be `token` or `bootstrap`"),
    }
}

fn policy(reader: &mut Reader<'_>) -> Option<Arc<Policy>> {
    let given = reader.given("policy-file");
    let (source, origin) = match given {
        None => (PolicySource::default(), Origin::Default),
        Some(given) => {
            let text = match read_text(Path::new(&given.text)) {
                Ok(text) => text,
                Err(rule) => return reader.fault("policy-file", given.origin, rule),
            };
            match toml::from_str::<PolicyFile>(text.expose()) {
                Ok(file) => (file.into_source(), given.origin),
                Err(e) => return reader.fault("policy-file", given.origin, told(&e, text.expose())),
            }
        }
    };
    match Policy::build(&source) {
        Ok(policy) => Some(Arc::new(policy)),
        Err(rules) => {
            for rule in rules {
                reader.note("policy-file", origin.clone(), rule);
            }
            None
        }
    }
}

/// The policy file. Source: protocol section 6.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct PolicyFile {
    #[serde(default)]
    capabilities: Vec<String>,
    #[serde(default)]
    roles: BTreeMap<String, RoleEntry>,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct RoleEntry {
    scope: String,
    #[serde(default)]
    includes: Vec<String>,
    #[serde(default)]
    capabilities: Vec<String>,
}

impl PolicyFile {
    fn into_source(self) -> PolicySource {
        let roles = self.roles.into_iter().map(|(name, role)| RoleSource {
            name,
            scope: role.scope,
            includes: role.includes,
            capabilities: role.capabilities,
        });
        PolicySource { capabilities: self.capabilities, roles: roles.collect() }
    }
}

#[cfg(test)]
mod tests {
    use std::ffi::OsString;
    use std::fs;
    use std::os::unix::fs::PermissionsExt;

    use iam_client::NatsLogin;

    use super::*;

    fn read(args: &[&str], environment: &[(&str, &str)]) -> Result<Config, Vec<String>> {
        let args = ["iam-svc"].iter().chain(args).map(OsString::from);
        let arguments = Arguments::parse(args).unwrap();
        let find =
            |name: &str| environment.iter().find(|(n, _)| *n == name).map(|(_, value)| OsString::from(value));
        Config::read(&arguments, &find).map_err(|faults| faults.iter().map(Fault::to_string).collect())
    }

    /// A file that is there for the rest of the test.
    fn file(dir: &tempfile::TempDir, name: &str, text: &str, mode: u32) -> String {
        let path = dir.path().join(name);
        fs::write(&path, text).unwrap();
        fs::set_permissions(&path, fs::Permissions::from_mode(mode)).unwrap();
        path.to_str().unwrap().to_owned()
    }

    const MODE: [&str; 2] = ["--bootstrap-mode", "bootstrap"];
    const KEK: &str = "MDEyMzQ1Njc4OWFiY2RlZjAxMjM0NTY3ODlhYmNkZWY=";

    #[test]
    fn defaults_are_those_of_the_manual() {
        let config = read(&MODE, &[]).unwrap();
        assert_eq!(config.subjects, Subjects::default());
        assert_eq!(config.data_dir, Path::new("iam-data"));
        assert_eq!(config.http, Some("127.0.0.1:9464".parse().unwrap()));
        assert_eq!((config.audit_stream, config.log.as_str()), (AuditStream::Auto, "info"));
        let settings = config.settings;
        assert_eq!((settings.token_lifetime_s, settings.grace_period_s), (3_600, 86_400));
        assert_eq!((settings.issuer.as_str(), settings.audience.as_str()), ("trustgraph-iam", "trustgraph"));
        assert_eq!((settings.allow_ttl_s, settings.deny_ttl_s, settings.audit_allow_all), (60, 5, false));
        assert!(matches!(config.kek, KekSource::DataDir) && matches!(config.nats.login, NatsLogin::None));
        assert_eq!(config.nats.inbox_prefix, "_INBOX_iam-svc");
    }

    #[test]
    fn flag_beats_environment_beats_file() {
        let dir = tempfile::tempdir().unwrap();
        let toml = "issuer = 'file'\naudience = 'file'\ndeny-ttl-s = 7\nnats-url = ['a:1', 'b:2']\n";
        let path = file(&dir, "c.toml", toml, 0o644);
        let environment = [("IAM_CONFIG", path.as_str()), ("IAM_ISSUER", "env"), ("IAM_AUDIENCE", "env")];
        let config = read(&[MODE[0], MODE[1], "--issuer", "flag"], &environment).unwrap();
        assert_eq!((config.settings.issuer.as_str(), config.settings.audience.as_str()), ("flag", "env"));
        assert_eq!((config.settings.deny_ttl_s, config.nats.urls.len()), (7, 2));
        let config = read(&MODE, &[("IAM_CONFIG", path.as_str()), ("IAM_ISSUER", "")]).unwrap();
        assert_eq!(config.settings.issuer, "file", "an empty variable counts as absent");
    }

    #[test]
    fn faults_are_all_reported_with_their_origin() {
        let dir = tempfile::tempdir().unwrap();
        let path = file(&dir, "c.toml", "nats_url = 'x'\nallow-ttl-s = 'soon'\nlog = 1.5\n", 0o644);
        let environment = [("IAM_CONFIG", path.as_str()), ("IAM_GRACE_PERIOD_S", "60")];
        let faults = read(&["--http-addr", "nowhere", "--front-threads", "0"], &environment).unwrap_err();
        let expected = [
            "`nats_url` in ",
            "--bootstrap-mode: must be chosen",
            "IAM_GRACE_PERIOD_S (--grace-period-s): must be a whole number of 3600 to",
            "`allow-ttl-s` in ",
            "--http-addr: must be an IP address",
            "--front-threads: must be a whole number of 1 to 64",
            "`log` in ",
        ];
        assert_eq!(faults.len(), expected.len(), "{faults:#?}");
        for (fault, begin) in faults.iter().zip(expected) {
            assert!(fault.starts_with(begin), "{fault} begins with {begin}");
        }
    }

    #[test]
    fn settings_that_cannot_stand_are_refused() {
        let dir = tempfile::tempdir().unwrap();
        let open = file(&dir, "open", KEK, 0o644);
        let policy =
            file(&dir, "p.toml", "[roles.r]\nscope = 'assigned'\ncapabilities = ['no:such']\n", 0o644);
        let typo = file(&dir, "t.toml", "[roles.r]\nscop = 'assigned'\n", 0o644);
        let token = "a".repeat(24);
        type Row<'r> = (&'r [&'r str], &'r [(&'r str, &'r str)], &'r str);
        let rows: &[Row<'_>] = &[
            (&["--bootstrap-mode", "token"], &[], "--bootstrap-mode token needs a token"),
            (&MODE, &[("IAM_BOOTSTRAP_TOKEN", &token)], "takes no token"),
            (&["--bootstrap-mode", "no"], &[], "must be `token` or `bootstrap`"),
            (&["--bootstrap-mode", "token"], &[("IAM_BOOTSTRAP_TOKEN", "short")], "24 to 256 characters"),
            (
                &["--bootstrap-mode", "token"],
                &[("IAM_BOOTSTRAP_TOKEN", &"a ".repeat(12))],
                "24 to 256 characters",
            ),
            (&["--token-lifetime-s", "90000"], &[], "at least the token lifetime, 90000"),
            (&["--token-lifetime-s", "0"], &[], "must be a whole number"),
            (&["--store", "cassandra"], &[], "--kek-file: must be given with --store cassandra"),
            (&["--cassandra-hosts", "a:1,"], &[], "must be hosts"),
            (&["--cassandra-hosts", "a:x"], &[], "must be hosts"),
            (&["--cassandra-keyspace", "Iam"], &[], "--cassandra-keyspace: must be"),
            (&["--cassandra-keyspace", "a; DROP"], &[], "--cassandra-keyspace: must be"),
            (&["--cassandra-create-keyspace=maybe"], &[], "must be true or false"),
            (&["--cassandra-replication", "0"], &[], "must be a number of 1 to 9"),
            (&["--cassandra-replication", "dc1:3,a'b:1"], &[], "must be a number of 1 to 9"),
            (&["--cassandra-consistency", "one"], &[], "must be `local` or `global`"),
            (&["--cassandra-user", "u"], &[], "needs --cassandra-password-file"),
            (&[], &[("IAM_CASSANDRA_PASSWORD", "x")], "needs --cassandra-user"),
            (&["--cassandra-tls-ca", &open], &[], "--cassandra-tls-ca: holds no certificate"),
            (&["--store", "csv"], &[], "must be `embedded`"),
            (&["--nats-url", "nats://a,nats://u:p@b"], &[], "they go to --nats-user"),
            (&[], &[("IAM_NATS_URL", "nats://token@a")], "they go to --nats-user"),
            (&["--kek-file", &open], &[], "is open to others (mode 644)"),
            (&["--kek-file", "/nowhere/kek"], &[], "cannot read /nowhere/kek"),
            (&[], &[("IAM_KEK", "AAAA")], "must be 32 bytes"),
            (&["--kek-file", &open], &[("IAM_KEK", KEK)], "not both"),
            (&["--policy-file", &policy], &[], "unknown capability `no:such`"),
            (&["--policy-file", &typo], &[], "scop"),
            (&["--subject-prefix", "a.*"], &[], "must be tokens of"),
            (&["--nats-inbox-prefix", ">"], &[], "must be tokens of"),
            (&["--nats-user", "u"], &[], "needs --nats-password-file"),
            (&[], &[("IAM_NATS_PASSWORD", "x")], "needs --nats-user"),
            (&["--nats-user", "u", "--nats-creds", &open], &[("IAM_NATS_PASSWORD", "x")], "give only one of"),
            (&["--nats-tls-cert", &open], &[], "go together"),
            (&["--nats-tls-ca", "/nowhere"], &[], "cannot read /nowhere"),
            (&["--audit-stream", "maybe"], &[], "must be `auto`"),
            (&["--audit-allow", "maybe"], &[], "must be `summary`"),
            (&["--anonymous-user", "a b"], &[], "must be 1 to 128"),
            (&["--log", "iam=loud"], &[], "--log"),
            (&["--config", "/nowhere"], &[], "cannot read /nowhere"),
        ];
        for (args, environment, part) in rows {
            let chosen = args.contains(&"--bootstrap-mode")
                || environment.iter().any(|(n, _)| *n == "IAM_BOOTSTRAP_TOKEN");
            let args: Vec<&str> = if chosen { args.to_vec() } else { [&MODE, *args].concat() };
            let faults = read(&args, environment).unwrap_err().join("\n");
            assert!(faults.contains(part), "{args:?}: {part} in {faults}");
            assert!(!faults.contains(&token) && !faults.contains("short"), "no secret in {faults}");
        }
    }

    #[test]
    fn secrets_come_from_files_without_their_line_end() {
        let dir = tempfile::tempdir().unwrap();
        let token = format!("tg_{}", "x".repeat(32));
        let token_file = file(&dir, "token", &format!("{token}\r\n"), 0o644);
        let kek = file(&dir, "kek", &format!("{KEK}\n"), 0o600);
        let args = ["--bootstrap-mode", "token", "--bootstrap-token-file", &token_file, "--kek-file", &kek];
        let config = read(&args, &[]).unwrap();
        assert!(matches!(config.kek, KekSource::Given(_)));
        match &config.settings.bootstrap {
            BootstrapMode::Token(given) => assert_eq!(given.expose(), token),
            BootstrapMode::Bootstrap => panic!("the mode was token"),
        }
        assert!(!format!("{config:?}").contains(&token));
    }

    #[test]
    fn only_what_serves_needs_a_bootstrap_mode_and_check_takes_flags_on_either_side() {
        assert!(read(&["recover-admin"], &[]).is_ok());
        for args in [["--issuer", "x", "check"], ["check", "--issuer", "x"]] {
            assert_eq!(read(&[&MODE[..], &args].concat(), &[]).unwrap().settings.issuer, "x");
        }
        let migrate = ["migrate-store", "--from", "embedded", "--to", "cassandra"];
        assert!(read(&migrate, &[]).is_ok());
        let back = ["migrate-store", "--from", "cassandra", "--to", "embedded"];
        assert!(read(&back, &[("IAM_KEK", KEK)]).is_ok());
        assert!(read(&back, &[]).unwrap_err().join("\n").contains("--kek-file: must be given with --from"));
        let parse = |args: &[&str]| Arguments::parse(args.iter().map(OsString::from));
        let arguments = parse(&["iam-svc", "recover-admin", "--username", "root"]).unwrap();
        assert_eq!(arguments.command, Command::RecoverAdmin { username: "root".parse().unwrap() });
        for bad in [
            &["iam-svc", "--nats-password", "x"][..],
            &["iam-svc", "serve"],
            &["iam-svc", "--issuer"],
            &["iam-svc", "migrate-store", "--from", "embedded"],
            &["iam-svc", "migrate-store", "--from", "embedded", "--to", "embedded"],
            &["iam-svc", "migrate-store", "--from", "embedded", "--to", "csv"],
        ] {
            assert!(parse(bad).unwrap_err().use_stderr(), "{bad:?}");
        }
    }
}
