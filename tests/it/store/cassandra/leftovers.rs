//! Housekeeping: what crashes leave is cleared away, and nothing else.

use iam_schema::{Timestamp, UserId};
use iam_svc::store::{InsertUser, Read, Seeded, Store, Swept};
use iam_tests::cassandra::{Keyspace, hosts};
use iam_tests::sample;
use iam_tests::store_suite::{add_key, add_user, add_workspace};
use uuid::Uuid;

const HOUR_MS: i64 = 3_600_000;

fn hours_later(hours: i64) -> Timestamp {
    Timestamp::from_millis(sample::NOW.as_millis() + hours * HOUR_MS)
}

/// Leaves what callers leave who die on their way, made at some time.
async fn leave(keyspace: &Keyspace, ada: Uuid, dead: Uuid, at: Timestamp, name: &str) {
    let (ms, us) = (at.as_millis(), at.as_millis() * 1_000);
    let zeros = "00".repeat(31);
    let key = |n: u8, user: Uuid, epoch: u8| {
        format!(
            "INSERT INTO api_keys (hash, key_id, user_id, workspace, key_epoch, name, prefix, created_ms)
             VALUES (0x{n:02x}{zeros}, uuid(), {user}, 'acme', {epoch}, 'k{n}', 'tg_aB3d', {ms})
             USING TIMESTAMP {us}"
        )
    };
    let statements = [
        format!(
            "INSERT INTO usernames (name_key, user_id, op, claimed_ms) VALUES ('{name}', {dead}, uuid(), {ms})"
        ),
        format!(
            "INSERT INTO users_by_workspace (workspace, bucket, user_id, created_ms)
             VALUES ('acme', 3, {dead}, {ms}) USING TIMESTAMP {us}"
        ),
        // Of nobody, and of an epoch that its owner has ended.
        key(1, dead, 0),
        key(2, ada, 1),
        format!(
            "INSERT INTO api_keys_by_id (key_id, hash, created_ms) VALUES (uuid(), 0x03{zeros}, {ms})
             USING TIMESTAMP {us}"
        ),
        format!(
            "INSERT INTO api_key_names (user_id, name, key_id, hash, op, live, created_ms)
             VALUES ({ada}, 'never confirmed', uuid(), 0x04{zeros}, uuid(), false, {ms})"
        ),
        format!(
            "INSERT INTO api_key_names (user_id, name, key_id, hash, op, live, created_ms)
             VALUES ({ada}, 'of a key that is gone', uuid(), 0x05{zeros}, uuid(), true, {ms})"
        ),
    ];
    for statement in statements {
        keyspace.session.query_unpaged(statement, ()).await.unwrap();
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_crashes_left_is_swept_up_once_a_day_by_one_replica_and_nothing_else() {
    let Some(hosts) = hosts() else { return };
    let keyspace = Keyspace::claim(&hosts).await;
    let store = keyspace.open(sample::root_roles()).await;
    let other = keyspace.open(sample::root_roles()).await;
    assert!(matches!(store.seed(&sample::seed(), sample::NOW).await.unwrap(), Seeded::Seeded(_)));
    let home = sample::workspace("acme");
    let ada = sample::full_user("ada", &home);
    let laptop = sample::key(&ada, "laptop");
    add_workspace(&*store, &home).await;
    add_user(&*store, &ada).await;
    add_key(&*store, &laptop).await;

    let dead = UserId::from_uuid(Uuid::from_u128(7));
    leave(&keyspace, ada.id.as_uuid(), dead.as_uuid(), sample::NOW, "gone").await;
    // Whoever made these may still be at work.
    let young = Uuid::from_u128(8);
    let claim = format!(
        "INSERT INTO usernames (name_key, user_id, op, claimed_ms) VALUES ('young', {young}, uuid(), {})",
        hours_later(2).as_millis()
    );
    keyspace.session.query_unpaged(claim, ()).await.unwrap();

    let swept = store.sweep(hours_later(2)).await.unwrap();
    assert_eq!(swept, Some(Swept { claims: 1, index_rows: 1, keys: 3, key_names: 2 }));
    assert_eq!(other.sweep(hours_later(25)).await.unwrap(), None, "that was today");

    assert_eq!(store.user(ada.id, Read::Serial).await.unwrap().as_ref(), Some(&ada));
    assert_eq!(store.user_by_name(&ada.username.key()).await.unwrap().as_ref(), Some(&ada));
    assert_eq!(store.api_key_by_hash(&laptop.hash).await.unwrap().as_ref(), Some(&laptop));
    assert_eq!(store.list_api_keys(ada.id, None, 10).await.unwrap().items, [(laptop, None)]);
    assert_eq!(store.list_users(Some(&home.id), None, 10).await.unwrap().items, [ada]);

    // Whoever was only held up finds the way barred.
    let late = iam_svc::domain::users::User { id: dead, ..sample::user("late", &home) };
    assert_eq!(store.insert_user(&late).await.unwrap(), InsertUser::NameTaken);
    let swept = other.sweep(hours_later(27)).await.unwrap().unwrap();
    assert_eq!((swept.keys, swept.key_names), (0, 0), "{swept:?}");
    // The young claim has grown old; and the one for the name that was barred.
    assert!(swept.claims >= 1, "{swept:?}");
    let again = sample::user("young", &home);
    assert_eq!(store.insert_user(&again).await.unwrap(), InsertUser::Inserted);
}
