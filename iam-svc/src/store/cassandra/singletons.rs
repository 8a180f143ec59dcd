//! Rows of which there is one each: the ring of signing keys, the guard of the last root admin, the seeding.

use super::conditional::{Decided, Expected, Trace, fresh_op};
use super::session::Cluster;
use super::{corrupt, number};
use crate::domain::key_ring::KeyRing;
use crate::store::{Read, ReplaceKeyRing, StoreError, codec};

#[derive(Debug, scylla::DeserializeRow)]
struct SingletonRow {
    version: Option<i64>,
    body: Option<Vec<u8>>,
}

/// A singleton as it is stored.
#[derive(Debug)]
pub(super) struct Singleton {
    pub version: u64,
    pub body: Vec<u8>,
}

pub(super) async fn get(
    cluster: &Cluster,
    id: &'static str,
    read: Read,
) -> Result<Option<Singleton>, StoreError> {
    let statement = match read {
        Read::Ordinary => &cluster.statements.singleton,
        Read::Serial => &cluster.statements.singleton_serial,
    };
    let Some(row) = cluster.row::<SingletonRow>(statement, (id,)).await? else { return Ok(None) };
    let version = row.version.and_then(|version| u64::try_from(version).ok());
    match (version, row.body) {
        (Some(version), Some(body)) => Ok(Some(Singleton { version, body })),
        _ => Err(corrupt("singletons", id, &"version or body is missing")),
    }
}

/// Writes the version after `from`, or the first one.
pub(super) async fn put(
    cluster: &Cluster,
    id: &'static str,
    from: Option<u64>,
    body: &[u8],
) -> Result<Decided, StoreError> {
    let Some(from) = from else { return insert(cluster, id, 1, body).await };
    let op = fresh_op();
    let trace = Trace {
        read: &cluster.statements.singleton_trace,
        key: (id,),
        op,
        expected: Expected::Version(from),
    };
    let values = (number(from + 1), op, body, id, number(from));
    cluster.conditional(&cluster.statements.replace_singleton, values, trace).await
}

/// Writes a row where there is none.
pub(super) async fn insert(
    cluster: &Cluster,
    id: &'static str,
    version: u64,
    body: &[u8],
) -> Result<Decided, StoreError> {
    let op = fresh_op();
    let trace =
        Trace { read: &cluster.statements.singleton_trace, key: (id,), op, expected: Expected::Absent };
    let values = (id, number(version), op, body);
    cluster.conditional(&cluster.statements.insert_singleton, values, trace).await
}

pub(super) async fn ring(cluster: &Cluster) -> Result<Option<KeyRing>, StoreError> {
    let row = get(cluster, codec::RING, Read::Ordinary).await?;
    row.map(|row| codec::read_ring(&row.body)).transpose()
}

pub(super) async fn replace_ring(cluster: &Cluster, to: &KeyRing) -> Result<ReplaceKeyRing, StoreError> {
    let body = codec::write_ring(to)?;
    match put(cluster, codec::RING, Some(to.version.saturating_sub(1)), &body).await? {
        Decided::Applied => Ok(ReplaceKeyRing::Replaced),
        Decided::Refused => Ok(ReplaceKeyRing::LostRace),
    }
}
