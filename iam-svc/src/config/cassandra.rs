//! How to reach Cassandra or ScyllaDB.

use iam_client::program::reader::{Reader, Readers};

pub use crate::store::cassandra::Setting;
use crate::store::cassandra::{Reach, Tls};

/// The port of a node where none is given.
const PORT: u16 = 9_042;

/// The settings of the cluster, used or not: a fault in what is not used is one all the same.
pub(super) fn cassandra(reader: &mut Reader<'_>) -> Option<Setting> {
    let hosts = reader.parsed("cassandra-hosts", |text| {
        let hosts: Option<Vec<String>> = text.split(',').map(host).collect();
        hosts.ok_or_else(|| "must be hosts, each with a port or without, joined by commas".to_owned())
    });
    let keyspace = reader.parsed("cassandra-keyspace", |text| {
        let rest = |b: u8| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'_';
        let fits = text.len() <= 48
            && text.starts_with(|first: char| first.is_ascii_lowercase())
            && text.bytes().all(rest);
        if fits { Ok(text.to_owned()) } else { Err("must be [a-z][a-z0-9_]{0,47}".to_owned()) }
    });
    let create_keyspace = match reader.given("cassandra-create-keyspace") {
        None => Some(false),
        Some(_) => reader.parsed("cassandra-create-keyspace", |text| {
            text.parse().map_err(|_| "must be true or false".to_owned())
        }),
    };
    let replication = reader.parsed("cassandra-replication", |text| text.parse().map_err(str::to_owned));
    let consistency = reader.parsed("cassandra-consistency", |text| match text {
        "local" => Ok(Reach::Local),
        "global" => Ok(Reach::Global),
        _ => Err("must be `local` or `global`".to_owned()),
    });
    let datacenter = reader.given("cassandra-local-dc").map(|given| given.text);
    let user = reader.given("cassandra-user");
    let login = match (user, reader.secret("cassandra-password-file", Readers::Any)) {
        (Some(user), Some((password, _))) => Some((user.text, password)),
        (Some(user), None) => reader.fault("cassandra-user", user.origin, "needs --cassandra-password-file"),
        (None, Some((_, origin))) => {
            reader.fault("cassandra-password-file", origin, "needs --cassandra-user")
        }
        (None, None) => None,
    };
    let tls =
        reader.file_text("cassandra-tls-ca", Readers::Any).and_then(|(pem, origin)| {
            match Tls::from_pem(pem.expose().as_bytes()) {
                Ok(tls) => Some(tls),
                Err(rule) => reader.fault("cassandra-tls-ca", origin, rule),
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
