//! The data directory: locks, permissions, damage, full disks and kills.

use std::fs;
use std::io::{BufRead, BufReader, Write};
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use iam_svc::domain::users::User;
use iam_svc::store::embedded::{EmbeddedStore, FILE, OpenError, Options};
use iam_svc::store::{InsertUser, Read, Store, StoreError, UpdateUser};
use iam_tests::damage::{newer_schema, write_newer_schema};
use iam_tests::disk_faults::{DiskFaults, Failing};
use iam_tests::sample;
use redb::{ReadableDatabase, TableDefinition};
use tempfile::TempDir;

fn open(dir: &Path) -> Result<EmbeddedStore, OpenError> {
    EmbeddedStore::open(dir, Options::new(sample::root_roles()))
}

fn open_on(faults: &DiskFaults, dir: &Path) -> EmbeddedStore {
    let options = Options { wrap: Some(faults.wrap()), ..Options::new(sample::root_roles()) };
    EmbeddedStore::open(dir, options).unwrap()
}

/// Some users, enough that the file has several pages of each table.
async fn fill(store: &EmbeddedStore, count: usize) -> Vec<User> {
    let home = sample::workspace("acme");
    store.insert_workspace(&home).await.unwrap();
    let mut users = Vec::new();
    for i in 0..count {
        let user = sample::full_user(&format!("user{i}"), &home);
        assert_eq!(store.insert_user(&user).await.unwrap(), InsertUser::Inserted);
        users.push(user);
    }
    users
}

fn mode(path: &Path) -> u32 {
    fs::metadata(path).unwrap().permissions().mode() & 0o777
}

#[tokio::test]
async fn new_directory_is_for_its_owner_alone() {
    let dir = TempDir::new().unwrap();
    let data = dir.path().join("a/b");
    let store = open(&data).unwrap();
    assert_eq!(mode(&data), 0o700);
    for entry in fs::read_dir(&data).unwrap() {
        let path = entry.unwrap().path();
        assert_eq!(mode(&path), 0o600, "{}", path.display());
    }
    drop(store);
    assert!(open(&data).is_ok());
}

#[tokio::test]
async fn second_opening_is_refused_until_the_first_is_closed() {
    let dir = TempDir::new().unwrap();
    let first = open(dir.path()).unwrap();
    let refused = open(dir.path()).unwrap_err();
    assert!(matches!(refused, OpenError::Held { .. }), "{refused}");
    assert_eq!(refused.exit_code(), 73);
    assert!(refused.to_string().contains(&dir.path().display().to_string()));
    first.ping().await.unwrap();
    drop(first);
    open(dir.path()).unwrap().ping().await.unwrap();
}

#[tokio::test]
async fn file_that_another_program_holds_is_refused() {
    let dir = TempDir::new().unwrap();
    drop(open(dir.path()).unwrap());
    let other = redb::Database::open(dir.path().join(FILE)).unwrap();
    assert!(matches!(open(dir.path()).unwrap_err(), OpenError::Held { .. }));
    drop(other);
    let store = open(dir.path()).unwrap();
    assert!(redb::Database::open(dir.path().join(FILE)).is_err());
    store.ping().await.unwrap();
}

#[test]
fn directory_that_cannot_be_written_is_refused() {
    let dir = TempDir::new().unwrap();
    let file = dir.path().join("file");
    fs::write(&file, b"").unwrap();
    for path in [file.join("below"), Path::new("/proc/iam").to_owned()] {
        let refused = open(&path).unwrap_err();
        assert!(matches!(refused, OpenError::NotWritable { .. }), "{refused}");
        assert_eq!(refused.exit_code(), 73);
        assert!(refused.to_string().contains(&path.display().to_string()), "{refused}");
    }
}

#[test]
fn read_only_directory_is_refused() {
    let dir = TempDir::new().unwrap();
    drop(open(dir.path()).unwrap());
    fs::set_permissions(dir.path().join(FILE), fs::Permissions::from_mode(0o400)).unwrap();
    let opened = open(dir.path());
    let privileged = fs::OpenOptions::new().write(true).open(dir.path().join(FILE)).is_ok();
    if privileged {
        println!("nothing is read-only for the superuser: not tried");
    } else {
        assert!(matches!(opened.unwrap_err(), OpenError::NotWritable { .. }));
    }
}

const SINGLETONS: TableDefinition<&str, &[u8]> = TableDefinition::new("singletons");

#[test]
fn newer_schema_is_refused_and_left_alone() {
    let dir = TempDir::new().unwrap();
    drop(open(dir.path()).unwrap());
    write_newer_schema(&dir.path().join(FILE));
    let refused = open(dir.path()).unwrap_err();
    assert!(matches!(refused, OpenError::NewerSchema { found: 2, known: 1, .. }), "{refused}");
    assert_eq!(refused.exit_code(), 73);
    let database = redb::Database::open(dir.path().join(FILE)).unwrap();
    let table = database.begin_read().unwrap().open_table(SINGLETONS).unwrap();
    assert_eq!(redb::ReadableTable::get(&table, "schema").unwrap().unwrap().value(), newer_schema());
}

#[tokio::test]
async fn damaged_file_is_refused_and_never_a_panic_nor_a_new_store() {
    let dir = TempDir::new().unwrap();
    let store = open(dir.path()).unwrap();
    let users = fill(&store, 60).await;
    drop(store);
    let path = dir.path().join(FILE);
    let whole = fs::read(&path).unwrap();
    let refused = |bytes: &[u8], what: &str| {
        fs::write(&path, bytes).unwrap();
        let refused = open(dir.path()).err().unwrap_or_else(|| panic!("{what}: opened"));
        assert!(matches!(refused, OpenError::Damaged { .. }), "{what}: {refused}");
        assert_eq!(refused.exit_code(), 65);
        assert!(refused.to_string().contains(&path.display().to_string()), "{refused}");
    };
    for len in [0, 1, 100, 4096, whole.len() / 2, whole.len() - 4096, whole.len() - 1] {
        refused(&whole[..len], &format!("cut to {len}"));
    }
    refused(&vec![0; whole.len()], "zeros");
    refused(b"not a database, but a text", "text");
    refused(&[whole.as_slice(), b"more"].concat(), "longer");
    // Every page that holds a record: a byte of it flipped.
    let needle = b"zoe@example.test";
    let places: Vec<_> =
        (0..whole.len() - needle.len()).filter(|at| whole[*at..].starts_with(needle)).collect();
    assert!(places.len() >= users.len());
    let mut caught = 0;
    for place in places.iter().step_by(7) {
        let mut flipped = whole.clone();
        flipped[*place] ^= 1;
        fs::write(&path, &flipped).unwrap();
        // A page that is free may hold an old copy of a record: nobody reads it.
        if let Err(error) = open(dir.path()) {
            assert!(matches!(error, OpenError::Damaged { .. }), "{error}");
            caught += 1;
        }
    }
    assert!(caught > 0);
    // Anywhere else: refused, or harmless. Never a panic, and never other data.
    for at in (0..whole.len()).step_by(whole.len() / 150) {
        let mut flipped = whole.clone();
        flipped[at] ^= 0x10;
        fs::write(&path, &flipped).unwrap();
        match open(dir.path()) {
            Ok(store) => {
                store.verify().unwrap();
                for user in &users {
                    assert_eq!(
                        store.user(user.id, Read::Ordinary).await.unwrap().as_ref(),
                        Some(user),
                        "byte {at}"
                    );
                }
            }
            Err(error) => assert!(matches!(error, OpenError::Damaged { .. }), "byte {at}: {error}"),
        }
    }
    fs::write(&path, &whole).unwrap();
    open(dir.path()).unwrap().verify().unwrap();
}

/// What is written to a file that the next start does not find is lost with the process.
#[tokio::test]
async fn file_that_is_gone_or_another_takes_no_writes_until_it_is_back() {
    let dir = TempDir::new().unwrap();
    let store = open(dir.path()).unwrap();
    let users = fill(&store, 5).await;
    let (path, away) = (dir.path().join(FILE), dir.path().join("away"));
    for replaced in [false, true] {
        fs::rename(&path, &away).unwrap();
        if replaced {
            fs::copy(&away, &path).unwrap();
        }
        let changed = users[0].changed(|user| user.name = "lost".to_owned());
        let refused = store.update_user(&users[0], &changed).await.unwrap_err();
        assert!(matches!(refused, StoreError::Unavailable(_)), "{refused}");
        assert!(refused.to_string().contains(&path.display().to_string()), "{refused}");
        assert!(matches!(store.ping().await, Err(StoreError::Unavailable(_))));
        assert_eq!(store.user(users[0].id, Read::Ordinary).await.unwrap().as_ref(), Some(&users[0]));
        fs::rename(&away, &path).unwrap();
        store.ping().await.unwrap();
    }
    let resumed = writes_resume(&store, &users[0]).await;
    drop(store);
    let store = open(dir.path()).unwrap();
    assert_eq!(store.user(resumed.id, Read::Ordinary).await.unwrap(), Some(resumed));
}

#[tokio::test]
async fn half_made_store_is_made_anew() {
    let dir = TempDir::new().unwrap();
    fs::write(dir.path().join("iam.redb.new"), b"a crash left this").unwrap();
    open(dir.path()).unwrap().verify().unwrap();
    assert!(!dir.path().join("iam.redb.new").exists());
}

#[tokio::test]
async fn damage_below_an_open_store_is_an_error_and_never_a_panic() {
    let dir = TempDir::new().unwrap();
    let store = open(dir.path()).unwrap();
    let users = fill(&store, 400).await;
    drop(store);
    let path = dir.path().join(FILE);
    // Without a cache every page is read from the file each time.
    let options = Options { page_cache: 0, ..Options::new(sample::root_roles()) };
    let store = EmbeddedStore::open(dir.path(), options).unwrap();
    let mut garbled = fs::read(&path).unwrap();
    for (at, byte) in garbled.iter_mut().enumerate().skip(4096) {
        *byte ^= u8::from(at % 97 == 0) * 0x55;
    }
    // In place, as a disk that rots: the store has the file open.
    fs::OpenOptions::new().write(true).open(&path).unwrap().write_all(&garbled).unwrap();
    let mut corrupt = 0;
    for user in &users {
        match store.user(user.id, Read::Ordinary).await {
            Ok(found) => assert!(found.is_none_or(|found| found == *user), "hidden at most"),
            Err(StoreError::Corrupt { .. }) => corrupt += 1,
            Err(error) => assert!(matches!(error, StoreError::Unavailable(_)), "{error}"),
        }
    }
    assert!(corrupt > 0);
    for user in users.iter().take(3) {
        let changed = user.changed(|user| user.name = "changed".to_owned());
        // Any answer will do, as long as there is one: what it needs may be hidden.
        let _ = store.update_user(user, &changed).await;
    }
    drop(store);
    assert!(matches!(open(dir.path()), Err(OpenError::Damaged { .. })));
}

/// Writes until one is taken; the store must take writes again without a restart.
async fn writes_resume(store: &EmbeddedStore, user: &User) -> User {
    let deadline = Instant::now() + Duration::from_secs(20);
    let changed = user.changed(|user| user.name = "resumed".to_owned());
    loop {
        match store.update_user(user, &changed).await {
            Ok(outcome) => {
                assert_eq!(outcome, UpdateUser::Updated);
                return changed;
            }
            Err(error) => assert!(error.retryable() && Instant::now() < deadline, "{error}"),
        }
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn full_disk_refuses_writes_and_reads_go_on_until_there_is_room() {
    for failing in [Failing::Growth, Failing::Room, Failing::Writes] {
        let (dir, faults) = (TempDir::new().unwrap(), DiskFaults::default());
        let store = open_on(&faults, dir.path());
        let users = fill(&store, 50).await;
        let home = store.workspace(&users[0].workspace, Read::Ordinary).await.unwrap().unwrap();
        faults.set(failing);
        let mut kept = Vec::new();
        let mut refusals = 0;
        for i in 0..20_000 {
            let user = sample::full_user(&format!("more{i}"), &home);
            match store.insert_user(&user).await {
                Ok(outcome) => {
                    assert_eq!(outcome, InsertUser::Inserted);
                    kept.push(user);
                }
                Err(error) => {
                    assert!(matches!(error, StoreError::Unavailable(_)), "{failing:?}: {error}");
                    assert_eq!(store.user(user.id, Read::Serial).await.unwrap(), None, "nothing was done");
                    refusals += 1;
                }
            }
            for user in [&users[i % users.len()]].into_iter().chain(kept.last()) {
                assert_eq!(
                    store.user(user.id, Read::Ordinary).await.unwrap().as_ref(),
                    Some(user),
                    "{failing:?}"
                );
            }
            store.ping().await.unwrap();
            if refusals > 40 {
                break;
            }
            if refusals % 10 == 1 {
                tokio::time::sleep(Duration::from_millis(120)).await;
            }
        }
        assert!(refusals > 40, "{failing:?}");
        if failing != Failing::Growth {
            assert!(kept.is_empty());
        }
        assert!(matches!(open(dir.path()), Err(OpenError::Held { .. })), "the lock was never let go of");

        faults.set(Failing::Nothing);
        let resumed = writes_resume(&store, &users[0]).await;
        store.verify().unwrap();
        drop(store);
        let store = open(dir.path()).unwrap();
        store.verify().unwrap();
        assert_eq!(store.user(resumed.id, Read::Ordinary).await.unwrap(), Some(resumed));
        for user in users.iter().skip(1).chain(&kept) {
            assert_eq!(store.user(user.id, Read::Ordinary).await.unwrap().as_ref(), Some(user));
        }
        assert_eq!(
            store.list_users(None, None, 1000).await.unwrap().items.len(),
            (users.len() + kept.len()).min(1000)
        );
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn sync_that_fails_loses_nothing_acknowledged() {
    let (dir, faults) = (TempDir::new().unwrap(), DiskFaults::default());
    let store = open_on(&faults, dir.path());
    let users = fill(&store, 50).await;
    let home = store.workspace(&users[0].workspace, Read::Ordinary).await.unwrap().unwrap();
    for round in 0..3 {
        faults.set(Failing::Syncs);
        for i in 0..5 {
            let user = sample::user(&format!("more-{round}-{i}"), &home);
            let error = store.insert_user(&user).await.unwrap_err();
            assert!(error.retryable(), "{error}");
            assert_eq!(store.user(users[1].id, Read::Ordinary).await.unwrap().as_ref(), Some(&users[1]));
        }
        faults.set(Failing::Nothing);
        let current = store.user(users[0].id, Read::Ordinary).await.unwrap().unwrap();
        writes_resume(&store, &current).await;
    }
    store.verify().unwrap();
    drop(store);
    open(dir.path()).unwrap().verify().unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn commit_whose_last_sync_fails_is_of_unknown_outcome_and_whole() {
    let (dir, faults) = (TempDir::new().unwrap(), DiskFaults::default());
    let store = open_on(&faults, dir.path());
    let mut current = fill(&store, 50).await.swap_remove(0);
    let home = store.workspace(&current.workspace, Read::Ordinary).await.unwrap().unwrap();
    let mut unknown = Vec::new();
    for round in 0..5 {
        faults.set(Failing::SecondSync);
        let user = sample::full_user(&format!("more{round}"), &home);
        let error = store.insert_user(&user).await.unwrap_err();
        assert!(error.outcome_unknown(), "{error}");
        faults.set(Failing::Nothing);
        current = writes_resume(&store, &current).await;
        unknown.push((user.clone(), store.user(user.id, Read::Serial).await.unwrap()));
    }
    store.verify().unwrap();
    drop(store);
    let store = open(dir.path()).unwrap();
    store.verify().unwrap();
    for (user, seen) in unknown {
        assert!(seen.is_none() || seen.as_ref() == Some(&user), "all of it or nothing");
        assert_eq!(store.user(user.id, Read::Ordinary).await.unwrap(), seen, "and as it was first seen");
        assert_eq!(store.user_by_name(&user.username.key()).await.unwrap(), seen);
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn reads_that_fail_are_unavailable_and_come_back() {
    let (dir, faults) = (TempDir::new().unwrap(), DiskFaults::default());
    let store = open_on(&faults, dir.path());
    let users = fill(&store, 50).await;
    faults.set(Failing::Reads);
    // With nothing in its cache the database has to read.
    let _ = store.insert_user(&sample::user("x", &sample::workspace("acme"))).await;
    for user in &users {
        match store.user(user.id, Read::Ordinary).await {
            Ok(found) => assert_eq!(found.as_ref(), Some(user)),
            Err(error) => assert!(matches!(error, StoreError::Unavailable(_)), "{error}"),
        }
    }
    faults.set(Failing::Nothing);
    writes_resume(&store, &users[0]).await;
    store.verify().unwrap();
}

#[tokio::test]
async fn store_opened_on_a_full_disk_reads_and_writes_once_there_is_room() {
    let (dir, faults) = (TempDir::new().unwrap(), DiskFaults::default());
    let store = open_on(&faults, dir.path());
    let users = fill(&store, 20).await;
    drop(store);
    faults.set(Failing::Room);
    let store = open_on(&faults, dir.path());
    assert_eq!(store.user(users[3].id, Read::Ordinary).await.unwrap().as_ref(), Some(&users[3]));
    let changed = users[3].changed(|user| user.name = "changed".to_owned());
    let refused = store.update_user(&users[3], &changed).await.unwrap_err();
    assert!(matches!(refused, StoreError::Unavailable(_)), "{refused}");
    faults.set(Failing::Nothing);
    writes_resume(&store, &users[3]).await;
}

const CHILD_DIR: &str = "IAM_TEST_STORE_CHILD_DIR";

/// Not a test by itself: the process that is killed, when the variable names its directory.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn writes_until_killed() {
    let Some(dir) = std::env::var_os(CHILD_DIR) else { return };
    let store = std::sync::Arc::new(open(Path::new(&dir)).unwrap());
    let home = sample::workspace("acme");
    // A run before this one may have made it.
    store.insert_workspace(&home).await.unwrap();
    let begun = store.list_users(None, None, 1000).await.unwrap().items.len();
    let writers = (0..8).map(|writer| {
        let (store, home) = (std::sync::Arc::clone(&store), home.clone());
        tokio::spawn(async move {
            for i in 0.. {
                let mut user = sample::full_user(&format!("user-{begun}-{writer}-{i}"), &home);
                user.id = iam_schema::UserId::from_uuid(uuid::Uuid::from_u64_pair(
                    begun as u64 + 1,
                    user_number(writer, i),
                ));
                assert_eq!(store.insert_user(&user).await.unwrap(), InsertUser::Inserted);
                let mut out = std::io::stdout().lock();
                writeln!(out, "acknowledged {}", user.username).unwrap();
                out.flush().unwrap();
            }
        })
    });
    for writer in writers.collect::<Vec<_>>() {
        writer.await.unwrap();
    }
}

fn user_number(writer: u64, i: u64) -> u64 {
    writer << 32 | i
}

#[tokio::test]
async fn killed_process_loses_nothing_acknowledged() {
    let dir = TempDir::new().unwrap();
    let mut acknowledged = Vec::new();
    for round in 0..3 {
        let mut child = Command::new(std::env::current_exe().unwrap())
            .args(["--exact", "store::embedded::writes_until_killed", "--nocapture"])
            .env(CHILD_DIR, dir.path())
            .stdout(Stdio::piped())
            .stderr(Stdio::null())
            .spawn()
            .unwrap();
        let mut lines = BufReader::new(child.stdout.take().unwrap()).lines();
        let mut seen = 0;
        while seen < 100 + round * 37 {
            let line = lines.next().expect("the child writes").unwrap();
            if let Some(name) = line.split("acknowledged ").nth(1) {
                acknowledged.push(name.to_owned());
                seen += 1;
            }
        }
        child.kill().unwrap();
        // What it said before it died counts too.
        for line in lines.map_while(Result::ok) {
            acknowledged.extend(
                line.strip_prefix("acknowledged ").filter(|name| !name.is_empty()).map(str::to_owned),
            );
        }
        child.wait().unwrap();
        let store = open(dir.path()).unwrap();
        store.verify().unwrap();
        for name in &acknowledged {
            let found = store.user_by_name(&sample::name_key(name)).await.unwrap();
            assert!(found.is_some(), "{name} was acknowledged");
        }
    }
}
