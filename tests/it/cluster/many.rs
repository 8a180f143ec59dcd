//! A workspace of very many users: lists while they come and go, decisions about them, and the end of all at once.
//!
//! The users are written into the tables directly, as the service would have written them one by one.

use std::collections::HashMap;
use std::time::{Duration, Instant};

use futures_util::{StreamExt, stream};
use iam_client::decisions::About;
use iam_client::pages::PageRequest;
use iam_client::{Client, ClientError};
use iam_schema::decisions::Check;
use iam_schema::subject::Plane;
use iam_schema::users::UserInput;
use iam_schema::workspaces::WorkspaceInput;
use iam_schema::{ErrorKind, Timestamp, UserId, WorkspaceId};
use iam_tests::campaign::{resident_kib, rounds};
use iam_tests::cassandra::{Keyspace, hosts};
use iam_tests::cql_proxy::CqlProxy;
use iam_tests::deployment::{connect, nats_url};
use iam_tests::sample;
use scylla::client::session::Session;
use scylla::client::session_builder::SessionBuilder;
use scylla::statement::prepared::PreparedStatement;
use uuid::Uuid;

use super::replicas::Replicas;

/// How many users there are.
const USERS: &str = "IAM_TEST_MANY_USERS";
/// Writes of users under way at a time.
const WRITERS: usize = 128;
/// Decisions that are timed.
const TIMED: usize = 500;
const CREATED: Timestamp = Timestamp::from_millis(1_780_000_000_000);

/// Writes users of a workspace into the tables.
async fn fill(session: &Session, home: &WorkspaceId, ids: &[Uuid]) {
    let prepare = async |text: &str| session.prepare(text).await.expect("a statement");
    let record = prepare(
        "INSERT INTO users (user_id, version, op, workspace, workspace_epoch, username, name, email, roles, enabled, \
         must_change_password, key_epoch, token_epoch, created_ms) \
         VALUES (?, 1, ?, ?, 0, ?, '', '', {'reader'}, true, false, 0, 0, ?)",
    )
    .await;
    let name = prepare("INSERT INTO usernames (name_key, user_id, op, claimed_ms) VALUES (?, ?, ?, ?)").await;
    let index = prepare(
        "INSERT INTO users_by_workspace (workspace, bucket, user_id, created_ms) VALUES (?, ?, ?, ?) \
         USING TIMESTAMP ?",
    )
    .await;
    let (at, home) = (CREATED.as_millis(), home.as_str());
    let write = async |n: usize, id: Uuid| {
        let (op, username) = (Uuid::from_u128(n as u128), format!("user{n}"));
        let bucket = i64::from(id.as_bytes()[15] % 16);
        let written = tokio::join!(
            session.execute_unpaged(&record, (id, op, home, &username, at)),
            session.execute_unpaged(&name, (&username, id, op, at)),
            session.execute_unpaged(&index, (home, bucket, id, at, at * 1000)),
        );
        for written in [written.0, written.1, written.2] {
            written.expect("written");
        }
    };
    stream::iter(ids.iter().enumerate()).for_each_concurrent(WRITERS, |(n, id)| write(n, *id)).await;
}

/// Reads the list to its end; how often each user was on it, and how many pages there were.
async fn pages(client: &Client, home: &WorkspaceId) -> (HashMap<UserId, usize>, usize) {
    let (mut seen, mut count) = (HashMap::new(), 0);
    let mut page = PageRequest::largest();
    loop {
        let read = client.list_users(Some(home), &page).await.expect("a page");
        count += 1;
        for user in read.items {
            *seen.entry(user.id.parse().expect("an id")).or_default() += 1;
        }
        match read.next {
            Some(token) => page = PageRequest { token, ..page },
            None => return (seen, count),
        }
    }
}

/// Deletes users one by one, each followed by a new one, until told to stop; those who were deleted.
async fn come_and_go(
    client: &Client,
    home: &WorkspaceId,
    leaving: &[Uuid],
    stop: &tokio::sync::Notify,
) -> usize {
    for (n, id) in leaving.iter().enumerate() {
        let change = async {
            client.delete_user(UserId::from_uuid(*id), None).await.expect("deleted");
            let user = UserInput { username: Some(format!("new{n}")), ..UserInput::default() };
            client.create_user(home, user).await.expect("created");
        };
        tokio::select! {
            () = change => {}
            () = stop.notified() => return n,
        }
    }
    stop.notified().await;
    leaving.len()
}

fn median(mut times: Vec<Duration>) -> Duration {
    times.sort();
    times[times.len() / 2]
}

/// What a decision costs about somebody whom no memory holds, beside one read of the same row.
async fn decisions(client: &Client, session: &Session, home: &WorkspaceId, ids: &[Uuid]) -> String {
    let read: PreparedStatement = session
        .prepare("SELECT user_id, version, workspace, roles, enabled, key_epoch FROM users WHERE user_id = ?")
        .await
        .expect("a statement");
    let resource = [("workspace".to_owned(), home.as_str().into())].into_iter().collect();
    let check = Check { capability: "graph:read".into(), resource, ..Check::default() };
    let (mut cold, mut warm, mut reads) = (Vec::new(), Vec::new(), Vec::new());
    for pair in ids.chunks_exact(2) {
        let begun = Instant::now();
        session.execute_unpaged(&read, (pair[0],)).await.expect("a row");
        reads.push(begun.elapsed());
        for times in [&mut cold, &mut warm] {
            let begun = Instant::now();
            let about = About::User(UserId::from_uuid(pair[1]));
            assert!(client.authorise(about, &check).await.expect("a decision").decision.allow);
            times.push(begun.elapsed());
        }
    }
    let (cold, warm, read) = (median(cold), median(warm), median(reads));
    let ratio = |time: Duration| time.as_secs_f64() / read.as_secs_f64();
    format!(
        "authorise over the bus, p50: {cold:.1?} cold, {warm:.1?} warm; one prepared point read {read:.1?}: the ratio \
         is {:.2}, without the bus {:.2}",
        ratio(cold),
        ratio(cold.saturating_sub(warm))
    )
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn very_many_users_of_a_workspace_are_listed_once_and_end_at_once() {
    let (Some(hosts), Some(url)) = (hosts(), nats_url()) else { return };
    let keyspace = Keyspace::claim(&hosts).await;
    let proxy = CqlProxy::to(&hosts[0]).await;
    let mut setting = keyspace.setting.clone();
    setting.hosts = vec![proxy.address()];
    let replicas = Replicas::start(&url, &setting, 1).await;
    let client =
        connect(&url, replicas.prefix()).await.on(Plane::Service).with_deadline(Duration::from_secs(60));
    client.bootstrap().await.expect("seeded");
    let home = sample::workspace_id("acme");
    client.create_workspace(&home, WorkspaceInput::default()).await.expect("a workspace");
    let over_proxy = SessionBuilder::new()
        .known_nodes(&setting.hosts)
        .use_keyspace(&setting.keyspace, false)
        .build()
        .await
        .expect("a session");

    let count = rounds(USERS, 3_000);
    let ids: Vec<Uuid> = (0..count).map(|_| sample::user_id().as_uuid()).collect();
    let begun = Instant::now();
    fill(&keyspace.session, &home, &ids).await;
    println!("{count} users written in {:.0?}", begun.elapsed());

    println!("{}", decisions(&client, &over_proxy, &home, &ids[..(2 * TIMED).min(count)]).await);

    let (leaving, staying) = ids.split_at(count / 20);
    let (stop, begun) = (tokio::sync::Notify::new(), Instant::now());
    let listing = async {
        let listed = pages(&client, &home).await;
        stop.notify_one();
        listed
    };
    let ((seen, pages), changed) = tokio::join!(listing, come_and_go(&client, &home, leaving, &stop));
    println!(
        "{} users on {pages} pages in {:.0?}, while {changed} left and as many came; the replica holds {} KiB",
        seen.len(),
        begun.elapsed(),
        resident_kib(replicas.id(0))
    );
    assert!(seen.values().all(|times| *times == 1), "a user was listed twice");
    let missing = staying.iter().filter(|id| !seen.contains_key(&UserId::from_uuid(**id))).count();
    assert_eq!(missing, 0, "of {} who were there throughout", staying.len());

    proxy.trace();
    let begun = Instant::now();
    client.disable_workspace(&home).await.expect("disabled");
    println!("the workspace was disabled in {:.1?}, by {} statements", begun.elapsed(), proxy.traced().len());
    let check = Check { capability: "graph:read".into(), ..Check::default() };
    for id in staying.iter().step_by(staying.len() / 200) {
        let decided =
            client.authorise(About::User(UserId::from_uuid(*id)), &check).await.expect("a decision");
        assert!(!decided.decision.allow, "{id} still may");
    }
    let user = UserInput { username: Some("late".to_owned()), ..UserInput::default() };
    let late = client.create_user(&home, user).await.as_ref().err().and_then(ClientError::kind);
    assert_eq!(late, Some(ErrorKind::Disabled));
}
