//! The table of settings, and the arguments that it makes.

use std::collections::BTreeMap;
use std::ffi::OsString;

use clap::{Arg, ArgAction, ArgMatches};

use super::StoreKind;
use crate::domain::users::Username;

/// What the program was asked to do.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Command {
    Serve,
    Check,
    RecoverAdmin {
        username: Username,
    },
    /// Between two different kinds.
    MigrateStore {
        from: StoreKind,
        to: StoreKind,
    },
}

/// The arguments, split but not yet checked against each other.
#[derive(Debug)]
pub struct Arguments {
    pub command: Command,
    pub(super) flags: BTreeMap<&'static str, String>,
}

/// A row of the table of settings.
pub(super) struct Setting {
    pub(super) name: &'static str,
    /// What stands for the value in `--help`; empty for a switch.
    value: &'static str,
    group: &'static str,
    help: &'static str,
    pub(super) default: &'static str,
    /// The value is a file that holds a secret; the environment may hold the secret itself.
    secret: bool,
}

const fn setting(
    group: &'static str,
    name: &'static str,
    value: &'static str,
    default: &'static str,
    help: &'static str,
) -> Setting {
    Setting { name, value, group, help, default, secret: false }
}

const fn secret(group: &'static str, name: &'static str, help: &'static str) -> Setting {
    Setting { name, value: "FILE", group, help, default: "", secret: true }
}

const NATS: &str = "NATS";
const STORE: &str = "Store";
const CASSANDRA: &str = "Cassandra";
const BOOTSTRAP: &str = "First admin";
const KEYS: &str = "Keys, tokens and policy";
const AUDIT: &str = "Audit";
const PROCESS: &str = "Process";

/// Every setting, in the order of `--help`.
pub(super) const SETTINGS: &[Setting] = &[
    setting(NATS, "nats-url", "URL,…", "nats://127.0.0.1:4222", "Servers of NATS, joined by commas"),
    setting(NATS, "nats-creds", "FILE", "", "Credentials file: a user JWT and its seed"),
    setting(NATS, "nats-nkey", "FILE", "", "File with the seed of an nkey; nobody else may read it"),
    setting(NATS, "nats-user", "NAME", "", "User name, together with a password"),
    secret(NATS, "nats-password-file", "File with the password of --nats-user"),
    secret(NATS, "nats-token-file", "File with a token"),
    setting(
        NATS,
        "nats-tls-ca",
        "FILE",
        "",
        "Certificates of the authority that NATS is checked against, in PEM",
    ),
    setting(NATS, "nats-tls-cert", "FILE", "", "Our certificate, in PEM"),
    setting(NATS, "nats-tls-key", "FILE", "", "The key of --nats-tls-cert, in PEM"),
    setting(
        NATS,
        "nats-inbox-prefix",
        "SUBJECT",
        "_INBOX_iam-svc",
        "Where replies to our own requests come in",
    ),
    setting(NATS, "subject-prefix", "SUBJECT", "iam", "What all subjects begin with"),
    setting(STORE, "store", "KIND", "embedded", "Where records are kept: embedded or cassandra"),
    setting(STORE, "data-dir", "DIR", "iam-data", "Directory of the embedded store"),
    setting(
        CASSANDRA,
        "cassandra-hosts",
        "HOST:PORT,…",
        "127.0.0.1:9042",
        "Contact points, joined by commas",
    ),
    setting(CASSANDRA, "cassandra-keyspace", "NAME", "iam", "Keyspace"),
    setting(CASSANDRA, "cassandra-create-keyspace", "", "", "Create the keyspace if it is not there"),
    setting(CASSANDRA, "cassandra-replication", "N|DC:N,…", "1", "Replicas of a keyspace that is created"),
    setting(
        CASSANDRA,
        "cassandra-consistency",
        "WHERE",
        "local",
        "Quorums: local (in this data centre) or global",
    ),
    setting(CASSANDRA, "cassandra-local-dc", "NAME", "", "The data centre that is local"),
    setting(CASSANDRA, "cassandra-user", "NAME", "", "User name"),
    secret(CASSANDRA, "cassandra-password-file", "File with the password of --cassandra-user"),
    setting(
        CASSANDRA,
        "cassandra-tls-ca",
        "FILE",
        "",
        "Certificates that the servers are checked against, in PEM",
    ),
    setting(
        BOOTSTRAP,
        "bootstrap-mode",
        "MODE",
        "",
        "How the first admin comes to be; must be chosen. token: made at start, with a given API key. bootstrap: made \
         by whoever first asks",
    ),
    secret(
        BOOTSTRAP,
        "bootstrap-token-file",
        "File with the first admin's API key, 24 to 256 characters of A-Z a-z 0-9 _ -",
    ),
    secret(
        KEYS,
        "kek-file",
        "File with the key-encryption key, 32 bytes in base64; nobody else may read it [default: <data-dir>/kek, made \
         on first start]",
    ),
    setting(
        KEYS,
        "policy-file",
        "FILE",
        "",
        "Roles and added capabilities, in TOML, instead of the built-in roles",
    ),
    setting(KEYS, "token-lifetime-s", "SECONDS", "3600", "How long a token is good"),
    setting(
        KEYS,
        "grace-period-s",
        "SECONDS",
        "86400",
        "How long a replaced signing key verifies; at least 3600 and the token lifetime",
    ),
    setting(KEYS, "issuer", "TEXT", "trustgraph-iam", "Issuer of tokens"),
    setting(KEYS, "audience", "TEXT", "trustgraph", "Audience of tokens"),
    setting(KEYS, "allow-ttl-s", "SECONDS", "60", "How long callers may cache an allow"),
    setting(KEYS, "deny-ttl-s", "SECONDS", "5", "How long callers may cache a deny"),
    setting(KEYS, "anonymous-user", "NAME", "", "Who callers without a credential are; never a root admin"),
    setting(AUDIT, "audit-stream", "WHEN", "auto", "Keep audit events in a stream: auto, require or off"),
    setting(
        AUDIT,
        "audit-allow",
        "HOW",
        "summary",
        "Audit allows as a summary every 10 s, or all of them: summary or all",
    ),
    setting(
        PROCESS,
        "http-addr",
        "ADDR|off",
        "127.0.0.1:9464",
        "Where /livez, /readyz and /metrics are served",
    ),
    setting(
        PROCESS,
        "front-threads",
        "N",
        "",
        "Threads that answer from memory [default: cores / 8, 1 to 8]",
    ),
    setting(PROCESS, "hash-threads", "N", "", "Threads that hash passwords [default: cores / 2, at least 1]"),
    setting(PROCESS, "log", "FILTER", "info", "What is logged, as in: info,iam_svc=debug"),
    setting(
        PROCESS,
        "config",
        "FILE",
        "",
        "Settings in TOML, under these names without the dashes before them",
    ),
];

/// The environment variable of a setting.
pub(super) fn environment_name(setting: &str) -> String {
    format!("IAM_{}", setting.to_uppercase().replace('-', "_"))
}

impl Arguments {
    /// Splits the arguments; the first is the program's own name.
    ///
    /// # Errors
    /// Unknown arguments, and the texts of `--help` and `--version`, which clap treats alike.
    pub fn parse(args: impl IntoIterator<Item = OsString>) -> Result<Self, clap::Error> {
        let matches = Self::grammar().try_get_matches_from(args)?;
        // Flags are taken before and after the subcommand.
        let (command, inner) = match matches.subcommand() {
            Some(("check", inner)) => (Command::Check, inner),
            Some(("recover-admin", inner)) => {
                let text = inner.get_one::<String>("username").map_or("admin", String::as_str);
                let username = text.parse().map_err(|rule| {
                    clap::Error::raw(clap::error::ErrorKind::ValueValidation, format!("--username: {rule}\n"))
                })?;
                (Command::RecoverAdmin { username }, inner)
            }
            Some(("migrate-store", inner)) => {
                let kind = |name| inner.get_one::<StoreKind>(name).copied().unwrap_or(StoreKind::Embedded);
                let (from, to) = (kind("from"), kind("to"));
                if from == to {
                    let rule = "--to: must be another kind than --from\n";
                    return Err(clap::Error::raw(clap::error::ErrorKind::ValueValidation, rule));
                }
                (Command::MigrateStore { from, to }, inner)
            }
            _ => (Command::Serve, &matches),
        };
        let given = |from: &ArgMatches, name: &str| from.get_one::<String>(name).cloned();
        let flags = SETTINGS
            .iter()
            .filter_map(|s| Some((s.name, given(inner, s.name).or_else(|| given(&matches, s.name))?)))
            .collect();
        Ok(Self { command, flags })
    }

    fn grammar() -> clap::Command {
        let flags = SETTINGS.iter().map(|s| {
            let mut help = s.help.to_owned();
            if !s.default.is_empty() {
                help.push_str(&format!(" [default: {}]", s.default));
            }
            let name = environment_name(s.name);
            match name.strip_suffix("_FILE").filter(|_| s.secret) {
                Some(text) => help.push_str(&format!(" [env: {name}, or the text itself in {text}]")),
                None => help.push_str(&format!(" [env: {name}]")),
            }
            let flag = Arg::new(s.name).long(s.name).help_heading(s.group).help(help).global(true);
            if s.value.is_empty() {
                flag.action(ArgAction::Set).num_args(0..=1).require_equals(true).default_missing_value("true")
            } else {
                flag.value_name(s.value).allow_hyphen_values(true)
            }
        });
        let username =
            Arg::new("username").long("username").value_name("NAME").help("The admin [default: admin]");
        let side = |name: &'static str, help: &'static str| {
            let kind = |text: &str| text.parse::<StoreKind>();
            Arg::new(name).long(name).value_name("KIND").required(true).value_parser(kind).help(help)
        };
        clap::Command::new("iam-svc")
            .version(env!("CARGO_PKG_VERSION"))
            .about("Identity and access service on NATS")
            .after_help(
                "A flag beats the environment, the environment beats the file of --config. Secrets are taken from \
                 files or the environment alone.\n\
                 Exit codes: 0 stopped as asked, 1 internal fault, 64 usage, 65 damaged store, 69 a dependency was \
                 not reachable, 73 unusable store, 78 configuration.",
            )
            .args(flags)
            .subcommand(
                clap::Command::new("check")
                    .about("Check configuration, policy, keys and connections; print one line a fault, and exit"),
            )
            .subcommand(
                clap::Command::new("recover-admin")
                    .about("Make or enable an admin offline, and print a temporary password")
                    .arg(username),
            )
            .subcommand(
                clap::Command::new("migrate-store")
                    .about(
                        "Copy everything from one kind of store into the other, which is empty, and compare both; \
                         nothing may serve on either. Run again, it goes on where it was",
                    )
                    .arg(side("from", "Where the records are: embedded or cassandra"))
                    .arg(side("to", "Where they are to be: embedded or cassandra")),
            )
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn grammar_is_sound_and_help_names_every_setting() {
        Arguments::grammar().debug_assert();
        let help = Arguments::grammar().render_long_help().to_string();
        for setting in SETTINGS {
            assert!(help.contains(&format!("--{}", setting.name)), "{}", setting.name);
            assert!(help.contains(&environment_name(setting.name)), "{}", setting.name);
        }
    }
}
