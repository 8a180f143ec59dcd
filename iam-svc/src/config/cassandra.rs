//! How to reach Cassandra or ScyllaDB.

pub use crate::store::cassandra::Setting;

use super::reader::{Reader, Readers};
use crate::store::cassandra::{Reach, Tls};

/// The port of a node where none is given.
const PORT: u16 = 9_042;

impl Reader<'_> {
    /// The settings of the cluster, used or not: a fault in what is not used is one all the same.
    pub(super) fn cassandra(&mut self) -> Option<Setting> {
        let hosts = self.parsed("cassandra-hosts", |text| {
            let hosts: Option<Vec<String>> = text.split(',').map(host).collect();
            hosts.ok_or_else(|| "must be hosts, each with a port or without, joined by commas".to_owned())
        });
        let keyspace = self.parsed("cassandra-keyspace", |text| {
            let rest = |b: u8| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'_';
            let fits = text.len() <= 48
                && text.starts_with(|first: char| first.is_ascii_lowercase())
                && text.bytes().all(rest);
            if fits { Ok(text.to_owned()) } else { Err("must be [a-z][a-z0-9_]{0,47}".to_owned()) }
        });
        let create_keyspace = match self.given("cassandra-create-keyspace") {
            None => Some(false),
            Some(_) => self.parsed("cassandra-create-keyspace", |text| {
                text.parse().map_err(|_| "must be true or false".to_owned())
            }),
        };
        let replication = self.parsed("cassandra-replication", |text| text.parse().map_err(str::to_owned));
        let consistency = self.parsed("cassandra-consistency", |text| match text {
            "local" => Ok(Reach::Local),
            "global" => Ok(Reach::Global),
            _ => Err("must be `local` or `global`".to_owned()),
        });
        let datacenter = self.given("cassandra-local-dc").map(|given| given.text);
        let user = self.given("cassandra-user");
        let login = match (user, self.secret("cassandra-password-file", Readers::Any)) {
            (Some(user), Some((password, _))) => Some((user.text, password)),
            (Some(user), None) => {
                self.fault("cassandra-user", user.origin, "needs --cassandra-password-file")
            }
            (None, Some((_, origin))) => {
                self.fault("cassandra-password-file", origin, "needs --cassandra-user")
            }
            (None, None) => None,
        };
        let tls = self.file_text("cassandra-tls-ca", Readers::Any).and_then(|(pem, origin)| {
            match Tls::from_pem(pem.expose().as_bytes()) {
                Ok(tls) => Some(tls),
                Err(rule) => self.fault("cassandra-tls-ca", origin, rule),
            }
        });
        Some(Setting {
            hosts: hosts?,
            keyspace: keyspace?,
            create_keyspace: create_keyspace?,
            replication: replication?,
            consistency: consistency?,
            datacenter,
            login,
            tls,
        })
    }
}

/// A host with its port, in the form that the driver takes.
fn host(text: &str) -> Option<String> {
    let text = text.trim();
    let bare = text.is_empty() || text.starts_with(':') || text.contains(char::is_whitespace);
    match text.rsplit_once(':') {
        _ if bare => None,
        // An address of IPv6 has colons of its own; with a port it stands in brackets.
        Some((head, port)) if !head.contains(':') || head.ends_with(']') => {
            port.parse::<u16>().ok().map(|_| text.to_owned())
        }
        Some(_) => Some(format!("[{text}]:{PORT}")),
        None => Some(format!("{text}:{PORT}")),
    }
}
