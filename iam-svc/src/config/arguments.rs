//! The table of settings, and the arguments that it makes.

use std::ffi::OsString;

use clap::Arg;
use iam_client::program::nats::NATS;
use iam_client::program::settings::{self, CONFIG, Flags, Group, LOG, PRECEDENCE, Setting, Table};

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
    pub(super) flags: Flags,
}

/// Every setting, in the order of `--help`.
pub(super) const SETTINGS: Table = &[
    NATS,
    Group {
        heading: "Store",
        settings: &[
            Setting::new("store", "KIND", "embedded", "Where records are kept: embedded or cassandra"),
            Setting::new("data-dir", "DIR", "iam-data", "Directory of the embedded store"),
        ],
    },
    Group {
        heading: "Cassandra",
        settings: &[
            Setting::new(
                "cassandra-hosts",
                "HOST:PORT,…",
                "127.0.0.1:9042",
                "Contact points, joined by commas",
            ),
            Setting::new("cassandra-keyspace", "NAME", "iam", "Keyspace"),
            Setting::new("cassandra-create-keyspace", "", "", "Create the keyspace if it is not there"),
            Setting::new("cassandra-replication", "N|DC:N,…", "1", "Replicas of a keyspace that is created"),
            Setting::new(
                "cassandra-consistency",
                "WHERE",
                "local",
                "Quorums: local (in this data centre) or global",
            ),
            Setting::new("cassandra-local-dc", "NAME", "", "The data centre that is local"),
            Setting::new("cassandra-user", "NAME", "", "User name"),
            Setting::secret("cassandra-password-file", "File with the password of --cassandra-user"),
            Setting::new(
                "cassandra-tls-ca",
                "FILE",
                "",
                "Certificates that the servers are checked against, in PEM",
            ),
        ],
    },
    Group {
        heading: "First admin",
        settings: &[
            Setting::new(
                "bootstrap-mode",
                "MODE",
                "",
                "How the first admin comes to be; must be chosen. token: made at start, with a given API key. \
                 bootstrap: made by whoever first asks",
            ),
            Setting::secret(
                "bootstrap-token-file",
                "File with the first admin's API key, 24 to 256 characters of A-Z a-z 0-9 _ -",
            ),
        ],
    },
    Group {
        heading: "Keys, tokens and policy",
        settings: &[
            Setting::secret(
                "kek-file",
                "File with the key-encryption key, 32 bytes in base64; nobody else may read it [default: \
                 <data-dir>/kek, made on first start]",
            ),
            Setting::new(
                "policy-file",
                "FILE",
                "",
                "Roles and added capabilities, in TOML, instead of the built-in roles",
            ),
            Setting::new("token-lifetime-s", "SECONDS", "3600", "How long a token is good"),
            Setting::new(
                "grace-period-s",
                "SECONDS",
                "86400",
                "How long a replaced signing key verifies; at least 3600 and the token lifetime",
            ),
            Setting::new("issuer", "TEXT", "trustgraph-iam", "Issuer of tokens"),
            Setting::new("audience", "TEXT", "trustgraph", "Audience of tokens"),
            Setting::new("allow-ttl-s", "SECONDS", "60", "How long callers may cache an allow"),
            Setting::new("deny-ttl-s", "SECONDS", "5", "How long callers may cache a deny"),
            Setting::new(
                "anonymous-user",
                "NAME",
                "",
                "Who callers without a credential are; never a root admin",
            ),
        ],
    },
    Group {
        heading: "Audit",
        settings: &[
            Setting::new(
                "audit-stream",
                "WHEN",
                "auto",
                "Keep audit events in a stream: auto, require or off",
            ),
            Setting::new(
                "audit-allow",
                "HOW",
                "summary",
                "Audit allows as a summary every 10 s, or all of them: summary or all",
            ),
        ],
    },
    Group {
        heading: "Process",
        settings: &[
            Setting::new(
                "http-addr",
                "ADDR|off",
                "127.0.0.1:9464",
                "Where /livez, /readyz and /metrics are served",
            ),
            Setting::new(
                "front-threads",
                "N",
                "",
                "Threads that answer from memory [default: cores / 8, 1 to 8]",
            ),
            Setting::new(
                "hash-threads",
                "N",
                "",
                "Threads that hash passwords [default: cores / 2, at least 1]",
            ),
            LOG,
            CONFIG,
        ],
    },
];

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
        Ok(Self { command, flags: settings::given(SETTINGS, inner, &matches) })
    }

    fn grammar() -> clap::Command {
        let username =
            Arg::new("username").long("username").value_name("NAME").help("The admin [default: admin]");
        let side = |name: &'static str, help: &'static str| {
            let kind = |text: &str| text.parse::<StoreKind>();
            Arg::new(name).long(name).value_name("KIND").required(true).value_parser(kind).help(help)
        };
        clap::Command::new("iam-svc")
            .version(env!("CARGO_PKG_VERSION"))
            .about("Identity and access service on NATS")
            .after_help(format!(
                "{PRECEDENCE}\nExit codes: 0 stopped as asked, 1 internal fault, 64 usage, 65 damaged store, 69 a \
                 dependency was not reachable, 73 unusable store, 78 configuration.",
            ))
            .args(settings::flags(SETTINGS))
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
        for setting in settings::rows(SETTINGS) {
            assert!(help.contains(&format!("--{}", setting.name)), "{}", setting.name);
            assert!(help.contains(&settings::environment_name(setting.name)), "{}", setting.name);
        }
    }
}
