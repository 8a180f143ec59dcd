//! The rows of which there is one each: the ring of signing keys, the seeding, the guard of the last root admin,
//! housekeeping, a target's mark and the schema number.

use std::collections::BTreeSet;

use iam_schema::UserId;
use serde::{Deserialize, Serialize};
use uuid::Uuid;

use super::{At, Bytes, VERSION};
use crate::domain::key_ring::{KeyRing, KeyState, MAX_KEYS, RingKey};
use crate::store::StoreError;
use crate::store::transfer::{Mark, Origin};

#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct RingRow<'a> {
    version: u64,
    #[serde(borrow)]
    keys: Vec<RingKeyRow<'a>>,
}

#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct RingKeyRow<'a> {
    #[serde(borrow)]
    kid: &'a str,
    #[serde(borrow)]
    public: Bytes<'a>,
    #[serde(borrow)]
    sealed: Bytes<'a>,
    state: RingState,
    created_ms: i64,
}

#[derive(Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
enum RingState {
    Next,
    Active,
    Grace { until_ms: i64 },
}

/// Where the ring is among the singletons.
pub(in crate::store) const RING: &str = "key-ring";

/// The row of the ring of signing keys.
pub(in crate::store) fn write_ring(ring: &KeyRing) -> Result<Vec<u8>, StoreError> {
    let at = At { table: "singletons", key: RING.as_bytes() };
    check_ring(at, ring)?;
    let keys = ring.keys.iter().map(|key| RingKeyRow {
        kid: key.kid.as_str(),
        public: Bytes(&key.public),
        sealed: Bytes(&key.sealed),
        state: match key.state {
            KeyState::Next => RingState::Next,
            KeyState::Active => RingState::Active,
            KeyState::Grace { until } => RingState::Grace { until_ms: until.as_millis() },
        },
        created_ms: key.created.as_millis(),
    });
    at.write(&RingRow { version: ring.version, keys: keys.collect() })
}

/// The ring in its row.
pub(in crate::store) fn read_ring(bytes: &[u8]) -> Result<KeyRing, StoreError> {
    let at = At { table: "singletons", key: RING.as_bytes() };
    let row: RingRow<'_> = at.read(bytes)?;
    let keys = row.keys.iter().map(|key| {
        Ok(RingKey {
            kid: at.parse("kid", key.kid)?,
            public: key.public.0.try_into().map_err(|e| at.corrupt(format_args!("public: {e}")))?,
            sealed: key.sealed.0.to_vec(),
            state: match key.state {
                RingState::Next => KeyState::Next,
                RingState::Active => KeyState::Active,
                RingState::Grace { until_ms } => KeyState::Grace { until: at.time("until", until_ms)? },
            },
            created: at.time("created", key.created_ms)?,
        })
    });
    let ring = KeyRing { version: row.version, keys: keys.collect::<Result<_, StoreError>>()? };
    check_ring(at, &ring)?;
    Ok(ring)
}

/// Keeps INVARIANT (ring) of [`KeyRing::active`].
fn check_ring(at: At<'_>, ring: &KeyRing) -> Result<(), StoreError> {
    let count = |state: KeyState| ring.keys.iter().filter(|key| key.state == state).count();
    at.require(ring.version >= 1, VERSION)?;
    at.require(ring.keys.len() <= MAX_KEYS, "more keys than a ring holds")?;
    at.require(count(KeyState::Active) == 1, "not exactly one active key")?;
    at.require(count(KeyState::Next) == 1, "not exactly one next key")
}

/// Where the state of the seeding is among the singletons.
pub(in crate::store) const BOOTSTRAP: &str = "bootstrap";

/// That the deployment was seeded: when, and who the first admin is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(in crate::store) struct BootstrapRow {
    pub admin: Uuid,
    pub done_ms: i64,
}

/// The row of the seeding.
pub(in crate::store) fn write_bootstrap(row: BootstrapRow) -> Result<Vec<u8>, StoreError> {
    At { table: "singletons", key: BOOTSTRAP.as_bytes() }.write(&row)
}

/// The seeding in its row.
pub(in crate::store) fn read_bootstrap(bytes: &[u8]) -> Result<BootstrapRow, StoreError> {
    At { table: "singletons", key: BOOTSTRAP.as_bytes() }.read(bytes)
}

/// Where the seeding is among the singletons, in a store that cannot seed in one stroke.
pub(in crate::store) const SEEDING: &str = "seeding";

/// How far the seeding is.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(in crate::store) struct SeedingRow {
    pub admin: Uuid,
    /// When the last attempt began.
    pub started_ms: i64,
    pub attempts: Vec<AttemptRow>,
    pub done: bool,
}

/// The key that an attempt makes.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(in crate::store) struct AttemptRow {
    pub key: Uuid,
    pub hash: Vec<u8>,
    pub created_ms: i64,
}

/// The row of the seeding.
pub(in crate::store) fn write_seeding(row: &SeedingRow) -> Result<Vec<u8>, StoreError> {
    At { table: "singletons", key: SEEDING.as_bytes() }.write(row)
}

/// The seeding in its row.
pub(in crate::store) fn read_seeding(bytes: &[u8]) -> Result<SeedingRow, StoreError> {
    At { table: "singletons", key: SEEDING.as_bytes() }.read(bytes)
}

/// Where the guard of the last root admin is among the singletons.
pub(in crate::store) const GUARD: &str = "root-admins";

/// The guard of the last root admin, where one is needed.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(in crate::store) struct GuardRow {
    /// The roles whose holders are all in the index.
    pub roles: BTreeSet<String>,
    pub intent: Option<Intent>,
}

/// A change that was announced, and the number under which it is written.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(in crate::store) struct Intent {
    pub op: Uuid,
    pub change: Announced,
}

/// What may end a root admin, with the version that it was decided on and the row that is to be.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub(in crate::store) enum Announced {
    UpdateUser { id: Uuid, from: u64, to: Vec<u8> },
    DeleteUser { id: Uuid, from: u64 },
    UpdateWorkspace { id: String, from: u64, to: Vec<u8> },
}

/// The row of the guard.
pub(in crate::store) fn write_guard(row: &GuardRow) -> Result<Vec<u8>, StoreError> {
    At { table: "singletons", key: GUARD.as_bytes() }.write(row)
}

/// The guard in its row.
pub(in crate::store) fn read_guard(bytes: &[u8]) -> Result<GuardRow, StoreError> {
    At { table: "singletons", key: GUARD.as_bytes() }.read(bytes)
}

/// Where the last round of housekeeping is among the singletons.
pub(in crate::store) const HOUSEKEEPING: &str = "housekeeping";

/// When housekeeping was last begun.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(in crate::store) struct HousekeepingRow {
    pub began_ms: i64,
}

/// The row of housekeeping.
pub(in crate::store) fn write_housekeeping(row: &HousekeepingRow) -> Result<Vec<u8>, StoreError> {
    At { table: "singletons", key: HOUSEKEEPING.as_bytes() }.write(row)
}

/// Housekeeping in its row.
pub(in crate::store) fn read_housekeeping(bytes: &[u8]) -> Result<HousekeepingRow, StoreError> {
    At { table: "singletons", key: HOUSEKEEPING.as_bytes() }.read(bytes)
}

/// Where the target of a move says so, among the singletons.
pub(in crate::store) const MIGRATION: &str = "migration";

/// Which deployment is moved here, and whether all of it is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct MigrationRow {
    admin: Uuid,
    seeded_ms: i64,
    done: bool,
}

/// The row of a target's mark.
pub(in crate::store) fn write_mark(mark: Mark) -> Result<Vec<u8>, StoreError> {
    let Mark { origin: Origin { admin, seeded }, done } = mark;
    let row = MigrationRow { admin: admin.as_uuid(), seeded_ms: seeded.as_millis(), done };
    At { table: "singletons", key: MIGRATION.as_bytes() }.write(&row)
}

/// The mark of a target in its row.
pub(in crate::store) fn read_mark(bytes: &[u8]) -> Result<Mark, StoreError> {
    let at = At { table: "singletons", key: MIGRATION.as_bytes() };
    let row: MigrationRow = at.read(bytes)?;
    let origin = Origin { admin: UserId::from_uuid(row.admin), seeded: at.time("seeded", row.seeded_ms)? };
    Ok(Mark { origin, done: row.done })
}

/// Where the schema number is among the singletons.
pub(in crate::store) const SCHEMA: &str = "schema";

/// Which migrations were applied: all up to this one. Unknown fields are ignored here alone, so that a newer
/// schema can be told from damage.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
struct SchemaRow {
    version: u32,
}

/// The row of the schema number.
pub(in crate::store) fn write_schema(version: u32) -> Result<Vec<u8>, StoreError> {
    At { table: "singletons", key: SCHEMA.as_bytes() }.write(&SchemaRow { version })
}

/// The schema number in its row.
pub(in crate::store) fn read_schema(bytes: &[u8]) -> Result<u32, StoreError> {
    At { table: "singletons", key: SCHEMA.as_bytes() }.read::<SchemaRow>(bytes).map(|row| row.version)
}
