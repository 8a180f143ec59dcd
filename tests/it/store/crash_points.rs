//! The embedded store, cut off at every write and sync of every method: what is found then is the state before
//! the method or after it, and after it once the method has said so.

use std::collections::BTreeSet;
use std::fs;
use std::sync::Arc;

use futures_util::future::{BoxFuture, join_all};
use iam_schema::Timestamp;
use iam_svc::domain::api_keys::ApiKey;
use iam_svc::domain::key_ring::KeyRing;
use iam_svc::domain::users::User;
use iam_svc::domain::workspaces::Workspace;
use iam_svc::store::embedded::{EmbeddedStore, FILE, OpenError, Options};
use iam_svc::store::{
    DeleteApiKey, DeleteUser, InsertApiKey, InsertUser, InsertWorkspace, ReplaceKeyRing, Seed, SeedState,
    Seeded, Store, UpdateUser, UpdateWorkspace,
};
use iam_tests::campaign::rounds;
use iam_tests::crash_disk::{CrashDisk, Recording};
use iam_tests::sample;
use rand::SeedableRng;
use rand::rngs::SmallRng;
use tempfile::TempDir;

/// How many random losses of unsynced writes are tried at each point.
const POWER_FAILURES: &str = "IAM_TEST_POWER_FAILURES";

/// Everything that the store tells.
#[derive(Debug, PartialEq)]
struct Told {
    users: Vec<(User, bool)>,
    workspaces: Vec<Workspace>,
    keys: Vec<(ApiKey, Option<Timestamp>)>,
    ring: Option<KeyRing>,
    seeded: SeedState,
}

async fn told(store: &EmbeddedStore) -> Told {
    store.verify().unwrap();
    let (mut users, mut keys) = (Vec::new(), Vec::new());
    for user in store.list_users(None, None, 1000).await.unwrap().items {
        let named = store.user_by_name(&user.username.key()).await.unwrap().as_ref() == Some(&user);
        keys.extend(store.list_api_keys(user.id, None, 1000).await.unwrap().items);
        users.push((user, named));
    }
    for (key, _) in &keys {
        assert_eq!(store.api_key_by_hash(&key.hash).await.unwrap().as_ref(), Some(key));
        assert_eq!(store.api_key(key.id).await.unwrap().as_ref(), Some(key));
    }
    Told {
        users,
        workspaces: store.list_workspaces(None, 1000).await.unwrap().items,
        keys,
        ring: store.key_ring().await.unwrap(),
        seeded: store.seed_state().await.unwrap(),
    }
}

/// A store on such a disk. The real directory holds the lock, and a file that nobody reads.
fn open(disk: &CrashDisk, dir: &TempDir) -> Result<EmbeddedStore, OpenError> {
    EmbeddedStore::open(dir.path(), Options { wrap: Some(disk.wrap()), ..Options::new(sample::root_roles()) })
}

/// What a start finds in a file.
async fn found(image: Vec<u8>, context: &str) -> (Told, Recording) {
    let dir = TempDir::new().unwrap();
    fs::write(dir.path().join(FILE), "in memory").unwrap();
    let disk = CrashDisk::of(image);
    let store = open(&disk, &dir).unwrap_or_else(|error| panic!("{context}: {error}"));
    let told = told(&store).await;
    drop(store);
    (told, disk.recording())
}

/// What the methods work on, before each.
struct Before {
    seed: Seed,
    home: Workspace,
    users: Vec<User>,
    keys: Vec<ApiKey>,
}

async fn prepare(store: &EmbeddedStore) -> Before {
    let seed = sample::seed();
    let home = sample::workspace("acme");
    assert!(matches!(store.seed(&seed, sample::NOW).await.unwrap(), Seeded::Seeded(_)));
    assert_eq!(store.insert_workspace(&home).await.unwrap(), InsertWorkspace::Inserted);
    let (mut users, mut keys) = (Vec::new(), Vec::new());
    for i in 0..8 {
        let user = sample::full_user(&format!("user{i}"), &home);
        assert_eq!(store.insert_user(&user).await.unwrap(), InsertUser::Inserted);
        for name in ["laptop", "robot"] {
            let key = sample::key(&user, name);
            assert_eq!(store.insert_api_key(&key).await.unwrap(), InsertApiKey::Inserted);
            keys.push(key);
        }
        users.push(user);
    }
    Before { seed, home, users, keys }
}

type Act = for<'a> fn(&'a EmbeddedStore, &'a Before) -> BoxFuture<'a, ()>;

/// Every method that writes, by its name; those beside the first of a name are other paths through it.
const METHODS: &[(&str, Act)] = &[
    ("insert_user", |store, before| {
        Box::pin(async {
            let user = sample::full_user("new", &before.home);
            assert_eq!(store.insert_user(&user).await.unwrap(), InsertUser::Inserted);
        })
    }),
    ("update_user", |store, before| {
        Box::pin(async {
            let to = before.users[1].changed(|user| user.name = "changed".to_owned());
            assert_eq!(store.update_user(&before.users[1], &to).await.unwrap(), UpdateUser::Updated);
        })
    }),
    ("update_user: ends all keys", |store, before| {
        Box::pin(async {
            let to = before.users[1].changed(|user| {
                user.enabled = false;
                user.key_epoch += 1;
                user.roles = sample::roles(&["reader"]);
            });
            assert_eq!(store.update_user(&before.users[1], &to).await.unwrap(), UpdateUser::Updated);
        })
    }),
    ("delete_user", |store, before| {
        Box::pin(async {
            assert_eq!(store.delete_user(&before.users[2]).await.unwrap(), DeleteUser::Deleted);
        })
    }),
    ("insert_workspace", |store, _| {
        Box::pin(async {
            let workspace = sample::workspace("new");
            assert_eq!(store.insert_workspace(&workspace).await.unwrap(), InsertWorkspace::Inserted);
        })
    }),
    ("update_workspace", |store, before| {
        Box::pin(async {
            let to = before.home.changed(Workspace::disable);
            let updated = store.update_workspace(&before.home, &to).await.unwrap();
            assert_eq!(updated, UpdateWorkspace::Updated);
        })
    }),
    ("insert_api_key", |store, before| {
        Box::pin(async {
            let key = sample::key(&before.users[3], "new");
            assert_eq!(store.insert_api_key(&key).await.unwrap(), InsertApiKey::Inserted);
        })
    }),
    ("delete_api_key", |store, before| {
        Box::pin(async {
            assert_eq!(store.delete_api_key(&before.keys[4]).await.unwrap(), DeleteApiKey::Deleted);
        })
    }),
    ("touch_api_keys", |store, before| {
        Box::pin(async {
            let used = before.keys.iter().map(|key| (key.user, key.id, sample::NOW));
            store.touch_api_keys(&used.collect::<Vec<_>>()).await.unwrap();
        })
    }),
    ("replace_key_ring", |store, before| {
        Box::pin(async {
            let mut to = before.seed.ring.clone();
            to.version += 1;
            assert_eq!(store.replace_key_ring(&to).await.unwrap(), ReplaceKeyRing::Replaced);
        })
    }),
];

/// Cuts a recording at every point, in every way, and again while the start after that mends the file.
///
/// `before` and `after` are what may be found; gives the number of files that were looked into.
async fn cut_everywhere(name: &str, recording: &Recording, before: &Told, after: &Told) -> usize {
    let mut random = SmallRng::seed_from_u64(7);
    let mut files = 0;
    let (mut olds, mut news) = (0, 0);
    let last = recording.points() - 1;
    for point in 0..=last {
        let mut images = vec![
            ("killed", recording.killed_at(point)),
            ("nothing unsynced survived", recording.unsynced_lost_at(point)),
        ];
        for _ in 0..rounds(POWER_FAILURES, 1) {
            images.push(("some unsynced survived", recording.power_failed_at(point, &mut random)));
        }
        for (i, (how, image)) in images.into_iter().enumerate() {
            let context = format!("{name} at point {point} of {last}, {how}");
            let (told, mending) = found(image, &context).await;
            files += 1;
            assert!(told == *before || told == *after, "{context}: neither old nor new: {told:#?}");
            if told == *before {
                olds += 1;
                assert!(point < last, "{context}: acknowledged and lost");
            } else {
                news += 1;
            }
            // The start that mends it may be cut in turn: once for each kind of cut.
            if i < 2 && point % 3 == 0 {
                let again = mending.points() / 2;
                let context = format!("{context}, and again at {again}");
                for image in [mending.killed_at(again), mending.unsynced_lost_at(again)] {
                    let (told_again, _) = found(image, &context).await;
                    files += 1;
                    assert!(told_again == told, "{context}: {told_again:#?}");
                }
            }
        }
    }
    assert!(before == after || (olds > 0 && news > 0), "{name}: {olds} old, {news} new: nothing was cut");
    files
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn method_cut_off_anywhere_leaves_the_old_state_or_the_new() {
    let mut files = 0;
    for (name, act) in METHODS {
        let (disk, dir) = (CrashDisk::default(), TempDir::new().unwrap());
        let store = open(&disk, &dir).unwrap();
        let state = prepare(&store).await;
        let before = told(&store).await;
        disk.recording();
        act(&store, &state).await;
        let recording = disk.recording();
        let after = told(&store).await;
        assert!(before != after, "{name} changes something");
        let cut = cut_everywhere(name, &recording, &before, &after).await;
        println!("{name}: {} points, {cut} files", recording.points());
        files += cut;
    }
    println!("{files} files, each the old state or the new");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn seeding_cut_off_anywhere_leaves_an_empty_store_or_a_seeded_one() {
    let (disk, dir) = (CrashDisk::default(), TempDir::new().unwrap());
    let store = open(&disk, &dir).unwrap();
    let before = told(&store).await;
    disk.recording();
    store.seed(&sample::seed(), sample::NOW).await.unwrap();
    let recording = disk.recording();
    let after = told(&store).await;
    cut_everywhere("seed", &recording, &before, &after).await;
}

/// Writes that waited together share a transaction: cut off, all of them are there or none.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn group_of_writes_that_makes_the_file_grow_is_kept_whole() {
    let (disk, dir) = (CrashDisk::default(), TempDir::new().unwrap());
    let store = Arc::new(open(&disk, &dir).unwrap());
    let state = prepare(&store).await;
    let before = told(&store).await.users.len();
    disk.recording();
    let users: Vec<User> = (0..150).map(|i| sample::full_user(&format!("more{i}"), &state.home)).collect();
    let outcomes = join_all(users.iter().map(|user| store.insert_user(user))).await;
    assert!(outcomes.iter().all(|outcome| matches!(outcome, Ok(InsertUser::Inserted))));
    let recording = disk.recording();
    let mut seen = BTreeSet::new();
    let points = recording.points();
    for point in (0..points).step_by(1 + points / 40).chain([points - 1]) {
        for image in [recording.killed_at(point), recording.unsynced_lost_at(point)] {
            let (told, _) = found(image, &format!("group at point {point} of {points}")).await;
            let there = |user: &User| told.users.iter().any(|(found, named)| found == user && *named);
            // Which of them come first is for the runtime to say.
            let count = users.iter().filter(|user| there(user)).count();
            assert_eq!(told.users.len(), before + count, "whole users, and nothing else");
            seen.insert(count);
        }
    }
    assert_eq!(seen.last(), Some(&users.len()), "acknowledged");
    // A commit syncs twice at least.
    assert!(seen.len() <= recording.syncs() / 2 + 1, "a group was taken apart: {seen:?}");
}

/// The making of the file: whoever starts after it was cut off gets an empty store, and no complaint.
#[tokio::test]
async fn first_start_cut_off_anywhere_is_made_good_by_the_next() {
    let (disk, dir) = (CrashDisk::default(), TempDir::new().unwrap());
    drop(open(&disk, &dir).unwrap());
    let recording = disk.recording();
    for point in 0..recording.points() {
        let dir = TempDir::new().unwrap();
        // Cut off before it got its name.
        fs::write(dir.path().join(format!("{FILE}.new")), recording.killed_at(point)).unwrap();
        let store = EmbeddedStore::open(dir.path(), Options::new(sample::root_roles())).unwrap();
        assert_eq!(told(&store).await.seeded, SeedState::Empty);
        assert!(!dir.path().join(format!("{FILE}.new")).exists());
    }
}

#[test]
fn every_method_that_writes_is_cut_off_here() {
    let source = include_str!("../../../iam-svc/src/store/embedded/mod.rs");
    let methods = source.split("async fn ").skip(1).filter(|body| {
        let end = body.find("\n    }").unwrap_or(body.len());
        body[..end].contains("self.write(")
    });
    let names: Vec<&str> = methods.filter_map(|body| body.split(['(', '<']).next()).collect();
    assert!(names.len() > 9, "{names:?}");
    for name in names {
        let here = METHODS.iter().any(|(method, _)| *method == name);
        assert!(here || name == "seed", "{name} is missing");
    }
}
