//! Keyspace, tables and their numbered migrations.
//!
//! A table is written either only by conditional statements or only by plain ones whose rows never change:
//! mixed, the timestamps of one kind could hide what the other wrote. Rows of plain tables are inserted with the
//! time of creation as timestamp and deleted with the microsecond after it, so that no clock decides and a late
//! insert stays hidden. Within what Cassandra and ScyllaDB both understand: no batches, no static columns.

use std::time::Duration;

use scylla::client::session::Session;
use scylla::serialize::row::SerializeRow;
use uuid::Uuid;

use super::Standing;
use super::conditional::fresh_op;
use super::session::{Setting, unavailable};
use crate::store::StoreError;

/// How many partitions the users of a workspace are spread over.
pub(super) const BUCKETS: u8 = 16;

/// For how long the right to migrate is taken; it is taken anew before each statement.
const LOCK_S: i32 = 60;
/// The pause of those who wait for another replica to migrate.
const LOCKED: Duration = Duration::from_millis(500);
/// Replicas that find an empty keyspace at the same time wait up to so long, each as chance will have it.
const STAGGER: Duration = Duration::from_secs(2);

/// One step from a schema to the next. Each statement can be run again.
type Migration = &'static [&'static str];

/// The migrations in order, from schema 1; their number is the schema that this version writes.
const MIGRATIONS: &[Migration] = &[&[
    // Conditional. A row with `dead` alone is a fence: no user of that id can be made any more.
    "CREATE TABLE IF NOT EXISTS users (
        user_id uuid PRIMARY KEY, version bigint, op uuid, workspace text, workspace_epoch bigint,
        username text, name text, email text, roles frozen<set<text>>, enabled boolean,
        must_change_password boolean, password_hash text, temporary_until_ms bigint,
        key_epoch bigint, token_epoch bigint, created_ms bigint, dead boolean)",
    // Conditional.
    "CREATE TABLE IF NOT EXISTS usernames (
        name_key text PRIMARY KEY, user_id uuid, op uuid, claimed_ms bigint)",
    // Plain. The row comes before the user's own.
    "CREATE TABLE IF NOT EXISTS users_by_workspace (
        workspace text, bucket bigint, user_id uuid, created_ms bigint,
        PRIMARY KEY ((workspace, bucket), user_id))",
    // Plain: whoever holds a root role, or held it once. The row comes before the user's own.
    "CREATE TABLE IF NOT EXISTS users_by_root_role (
        role text, user_id uuid, PRIMARY KEY ((role), user_id))",
    // Conditional.
    "CREATE TABLE IF NOT EXISTS workspaces (
        id text PRIMARY KEY, version bigint, op uuid, name text, enabled boolean, epoch bigint,
        created_ms bigint)",
    // Plain.
    "CREATE TABLE IF NOT EXISTS api_keys (
        hash blob PRIMARY KEY, key_id uuid, user_id uuid, workspace text, key_epoch bigint, name text,
        prefix text, expires_ms bigint, created_ms bigint)",
    // Plain.
    "CREATE TABLE IF NOT EXISTS api_keys_by_id (
        key_id uuid PRIMARY KEY, hash blob, created_ms bigint)",
    // Conditional. At most a few hundred rows a user.
    "CREATE TABLE IF NOT EXISTS api_key_names (
        user_id uuid, name text, key_id uuid, hash blob, op uuid, live boolean, created_ms bigint,
        PRIMARY KEY ((user_id), name))",
    // Plain; a note is as old as the use that it tells of.
    "CREATE TABLE IF NOT EXISTS api_key_use (
        user_id uuid, key_id uuid, last_used_ms bigint, PRIMARY KEY ((user_id), key_id))
        WITH default_time_to_live = 34560000",
    // Conditional: the ring of signing keys, the guard of the last root admin, the state of the seeding.
    "CREATE TABLE IF NOT EXISTS singletons (
        id text PRIMARY KEY, version bigint, op uuid, body blob)",
]];

/// The schema that this version writes.
pub(super) fn newest() -> i64 {
    i64::try_from(MIGRATIONS.len()).unwrap_or(i64::MAX)
}

/// The table of the schema itself; made before anything is known.
const SCHEMA_TABLE: &str = "CREATE TABLE IF NOT EXISTS schema_state (
    id text PRIMARY KEY, version bigint, datacenter text, migrating uuid)";

/// Makes the keyspace if it is to be made.
pub(super) async fn create_keyspace(
    session: &Session,
    setting: &Setting,
    home: &str,
) -> Result<(), StoreError> {
    let statement = format!(
        "CREATE KEYSPACE IF NOT EXISTS {} WITH replication = {} AND durable_writes = true",
        setting.keyspace,
        setting.replication.cql(home)
    );
    change(session, &statement).await
}

/// What is stored about the schema.
#[derive(Debug, scylla::DeserializeRow)]
struct State {
    version: Option<i64>,
    datacenter: Option<String>,
}

/// Why a keyspace cannot be used.
#[derive(Debug)]
pub(super) enum SchemaFault {
    /// A newer version of the service wrote it.
    Newer {
        found: i64,
    },
    /// Another data centre is this deployment's home, and consistency is local.
    Elsewhere {
        home: String,
    },
    Store(StoreError),
}

impl From<StoreError> for SchemaFault {
    fn from(error: StoreError) -> Self {
        SchemaFault::Store(error)
    }
}

async fn state(session: &Session) -> Result<Option<State>, StoreError> {
    let select = "SELECT version, datacenter FROM schema_state WHERE id = 'schema'";
    let rows = session.query_unpaged(select, ()).await.map_err(unavailable)?;
    let rows = rows.into_rows_result().map_err(unavailable)?;
    rows.maybe_first_row::<State>().map_err(unavailable)
}

async fn has_row(session: &Session, select: &str, values: impl SerializeRow) -> Result<bool, StoreError> {
    let rows = session.query_unpaged(select, values).await.map_err(unavailable)?;
    Ok(rows.into_rows_result().map_err(unavailable)?.rows_num() > 0)
}

/// Whether there is such a keyspace.
pub(super) async fn keyspace_exists(session: &Session, setting: &Setting) -> Result<bool, StoreError> {
    let select = "SELECT keyspace_name FROM system_schema.keyspaces WHERE keyspace_name = ?";
    has_row(session, select, (&setting.keyspace,)).await
}

async fn table_exists(session: &Session, setting: &Setting) -> Result<bool, StoreError> {
    let select = "SELECT table_name FROM system_schema.tables WHERE keyspace_name = ? AND table_name = ?";
    has_row(session, select, (&setting.keyspace, "schema_state")).await
}

/// How far the tables are, if this version can use them.
///
/// # Errors
/// As [`SchemaFault`] says.
pub(super) async fn standing(
    session: &Session,
    setting: &Setting,
    home: &str,
) -> Result<Standing, SchemaFault> {
    if !table_exists(session, setting).await? {
        return Ok(Standing::Behind);
    }
    Ok(match usable(state(session).await?, setting, home)? {
        version if version == newest() => Standing::Current,
        _ => Standing::Behind,
    })
}

/// The version of the schema, if this version can use it from here.
fn usable(state: Option<State>, setting: &Setting, home: &str) -> Result<i64, SchemaFault> {
    let Some(State { version, datacenter }) = state else { return Ok(0) };
    match (version.unwrap_or(0), datacenter) {
        (found, _) if found > newest() => Err(SchemaFault::Newer { found }),
        (_, Some(stored)) if setting.consistency.is_local() && stored != home => {
            Err(SchemaFault::Elsewhere { home: stored })
        }
        (found, _) => Ok(found),
    }
}

/// Brings the tables up to the newest schema. Safe to run in every replica at once: one of them migrates while the
/// others wait, and each statement can be repeated by the next if it dies.
///
/// # Errors
/// As [`SchemaFault`] says.
pub(super) async fn migrate(session: &Session, setting: &Setting, home: &str) -> Result<(), SchemaFault> {
    // Two nodes of Cassandra 4 or 5 that make one table at the same time can end up with two of them.
    if !table_exists(session, setting).await? {
        tokio::time::sleep(STAGGER.mul_f64(rand::random())).await;
        if !table_exists(session, setting).await? {
            change(session, SCHEMA_TABLE).await?;
        }
    }
    begin(session, home).await?;
    loop {
        let version = usable(state(session).await?, setting, home)?;
        if version == newest() {
            return Ok(());
        }
        let me = fresh_op();
        if !lock(session, None, me).await? || !steps_from(session, version, me).await? {
            tokio::time::sleep(LOCKED).await;
        }
    }
}

/// Runs the migrations after a version, as the one who holds the lock; `false` if it was lost on the way.
async fn steps_from(session: &Session, version: i64, me: Uuid) -> Result<bool, StoreError> {
    let from = usize::try_from(version).unwrap_or(0);
    for statement in MIGRATIONS.iter().skip(from).flat_map(|migration| migration.iter()) {
        if !lock(session, Some(me), me).await? {
            return Ok(false);
        }
        change(session, statement).await?;
    }
    let done = "UPDATE schema_state SET version = ?, migrating = null WHERE id = 'schema' IF migrating = ?";
    let answer = session.query_unpaged(done, (newest(), me)).await.map_err(unavailable)?;
    super::conditional::applied(answer)
}

/// Changes the schema, and waits until all nodes know.
async fn change(session: &Session, statement: &str) -> Result<(), StoreError> {
    session.query_unpaged(statement, ()).await.map_err(unavailable)?;
    session.await_schema_agreement().await.map_err(unavailable)?;
    Ok(())
}

/// Makes the row of the schema if there is none. It also shows at each start that conditional statements work here.
async fn begin(session: &Session, home: &str) -> Result<(), StoreError> {
    let first = "INSERT INTO schema_state (id, datacenter) VALUES ('schema', ?) IF NOT EXISTS";
    let answer = session.query_unpaged(first, (home,)).await.map_err(|error| {
        StoreError::Unavailable(format!(
            "a conditional statement failed, and this service cannot do without them; on ScyllaDB the keyspace may \
             need `tablets = {{'enabled': false}}`: {error}"
        ))
    })?;
    super::conditional::applied(answer).map(|_| ())
}

/// Takes the right to migrate, or keeps it.
async fn lock(session: &Session, held_by: Option<Uuid>, me: Uuid) -> Result<bool, StoreError> {
    let take = "UPDATE schema_state USING TTL ? SET migrating = ? WHERE id = 'schema' IF migrating = ?";
    let answer = session.query_unpaged(take, (LOCK_S, me, held_by)).await.map_err(unavailable)?;
    super::conditional::applied(answer)
}
