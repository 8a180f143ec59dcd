//! Every write of every change cut off: before it is sent, while it is under way, and before its answer. What is
//! found then is the state before the change or after it, and what the caller was told agrees with it.

use std::sync::Arc;

use futures_util::future::BoxFuture;
use iam_schema::{Timestamp, UserId};
use iam_svc::domain::api_keys::ApiKey;
use iam_svc::domain::users::User;
use iam_svc::domain::workspaces::Workspace;
use iam_svc::store::cassandra::{CassandraStore, Setting};
use iam_svc::store::{
    DeleteApiKey, DeleteUser, InsertApiKey, InsertUser, InsertWorkspace, Read, ReplaceKeyRing, SeedState,
    Seeded, Store, StoreError, UpdateUser, UpdateWorkspace,
};
use iam_tests::campaign::rounds;
use iam_tests::cassandra::{Keyspace, hosts};
use iam_tests::cql_proxy::{CqlProxy, Point, Then};
use iam_tests::sample;

/// With 4 each write is cut in every way; with less in so many of them, by turns.
const CUTS: &str = "IAM_TEST_CUTS";

/// The ways to cut a write.
const WAYS: [(Point, Then); 4] = [
    (Point::Unanswered, Then::Reconnects),
    (Point::Sent, Then::Reconnects),
    (Point::Unanswered, Then::Dies),
    (Point::Unsent, Then::Reconnects),
];

/// A store whose every statement passes over a line.
async fn open_over(proxy: &CqlProxy, setting: &Setting) -> CassandraStore {
    let setting = Setting { hosts: vec![proxy.address()], ..setting.clone() };
    CassandraStore::open(&setting, sample::root_roles()).await.unwrap()
}

/// What a change works on, of its own.
struct Stage {
    n: usize,
    home: Workspace,
    ada: User,
    laptop: ApiKey,
    root: User,
    new: User,
    new_key: ApiKey,
    other: Workspace,
}

impl Stage {
    async fn set(store: &dyn Store, n: usize) -> Self {
        let home = sample::workspace(&format!("home{n}"));
        assert_eq!(store.insert_workspace(&home).await.unwrap(), InsertWorkspace::Inserted);
        let ada = sample::full_user(&format!("ada{n}"), &home);
        let root = sample::admin(&format!("root{n}"), &home);
        for user in [&ada, &root] {
            assert_eq!(store.insert_user(user).await.unwrap(), InsertUser::Inserted);
        }
        let laptop = sample::key(&ada, "laptop");
        assert_eq!(store.insert_api_key(&laptop).await.unwrap(), InsertApiKey::Inserted);
        let new = sample::full_user(&format!("new{n}"), &home);
        let new_key = sample::key(&ada, "new");
        Self { n, new, new_key, home, ada, laptop, root, other: sample::workspace(&format!("other{n}")) }
    }
}

/// Everything that can be told of a stage.
#[derive(Debug, Clone, PartialEq)]
struct Seen {
    home: Option<Workspace>,
    other: Option<Workspace>,
    ada: Option<User>,
    root: Option<User>,
    new: Option<User>,
    listed: Vec<UserId>,
    keys: Vec<ApiKey>,
    ring: u64,
}

impl Seen {
    async fn of(store: &dyn Store, stage: &Stage) -> Self {
        let mut found = Vec::new();
        for user in [&stage.ada, &stage.root, &stage.new] {
            let by_id = store.user(user.id, Read::Serial).await.unwrap();
            let by_name = store.user_by_name(&user.username.key()).await.unwrap();
            assert_eq!(by_id, by_name, "by id and by name");
            found.push(by_id);
        }
        let [ada, root, new] = found.try_into().unwrap();
        let listed = store.list_users(Some(&stage.home.id), None, 100).await.unwrap().items;
        let keys = store.list_api_keys(stage.ada.id, None, 100).await.unwrap().items;
        let alive = |key: &ApiKey| ada.as_ref().is_some_and(|owner| key.of_live_epoch(owner));
        let keys = keys.into_iter().map(|(key, _)| key).filter(alive).collect();
        let mut seen = Self {
            home: store.workspace(&stage.home.id, Read::Serial).await.unwrap(),
            other: store.workspace(&stage.other.id, Read::Serial).await.unwrap(),
            listed: listed.iter().map(|user| user.id).collect(),
            ring: store.key_ring().await.unwrap().unwrap().version,
            ada,
            root,
            new,
            keys,
        };
        seen.sort();
        seen
    }

    fn sort(&mut self) {
        self.listed.sort();
        self.keys.sort_by_key(|key| key.id);
    }
}

/// `Ok(true)` for done, `Ok(false)` for any other outcome.
type Act = for<'a> fn(&'a dyn Store, &'a Stage) -> BoxFuture<'a, Result<bool, StoreError>>;

struct Case {
    name: &'static str,
    /// What lies there from somebody who died, in statements about the stage's number.
    left: &'static [&'static str],
    act: Act,
    /// What is seen once it is done.
    done: fn(&Stage, &mut Seen),
}

fn renamed(user: &User) -> User {
    user.changed(|user| user.name = "changed".to_owned())
}

fn ended(user: &User) -> User {
    user.changed(|user| {
        user.enabled = false;
        user.key_epoch += 1;
    })
}

fn demoted(user: &User) -> User {
    user.changed(|user| user.roles.clear())
}

fn renamed_workspace(workspace: &Workspace) -> Workspace {
    workspace.changed(|workspace| workspace.name = "changed".to_owned())
}

fn add_new(stage: &Stage, seen: &mut Seen) {
    seen.new = Some(stage.new.clone());
    seen.listed.push(stage.new.id);
}

fn take_away(id: UserId, seen: &mut Seen) {
    seen.listed.retain(|listed| *listed != id);
}

const CASES: &[Case] = &[
    Case {
        name: "create-user",
        left: &[],
        act: |s, at| Box::pin(async { Ok(s.insert_user(&at.new).await? == InsertUser::Inserted) }),
        done: add_new,
    },
    Case {
        name: "create-user over a claim that leads nowhere",
        left: &["INSERT INTO usernames (name_key, user_id, op, claimed_ms) VALUES ('new{n}', uuid(), uuid(), 1)"],
        act: |s, at| Box::pin(async { Ok(s.insert_user(&at.new).await? == InsertUser::Inserted) }),
        done: add_new,
    },
    Case {
        name: "update-user",
        left: &[],
        act: |s, at| {
            Box::pin(async { Ok(s.update_user(&at.ada, &renamed(&at.ada)).await? == UpdateUser::Updated) })
        },
        done: |at, seen| seen.ada = Some(renamed(&at.ada)),
    },
    Case {
        name: "disable-user",
        left: &[],
        act: |s, at| {
            Box::pin(async { Ok(s.update_user(&at.ada, &ended(&at.ada)).await? == UpdateUser::Updated) })
        },
        done: |at, seen| {
            seen.ada = Some(ended(&at.ada));
            seen.keys.clear();
        },
    },
    Case {
        name: "demotion of a root admin",
        left: &[],
        act: |s, at| {
            Box::pin(async { Ok(s.update_user(&at.root, &demoted(&at.root)).await? == UpdateUser::Updated) })
        },
        done: |at, seen| seen.root = Some(demoted(&at.root)),
    },
    Case {
        name: "delete-user",
        left: &[],
        act: |s, at| Box::pin(async { Ok(s.delete_user(&at.ada).await? == DeleteUser::Deleted) }),
        done: |at, seen| {
            seen.ada = None;
            seen.keys.clear();
            take_away(at.ada.id, seen);
        },
    },
    Case {
        name: "delete-user of a root admin",
        left: &[],
        act: |s, at| Box::pin(async { Ok(s.delete_user(&at.root).await? == DeleteUser::Deleted) }),
        done: |at, seen| {
            seen.root = None;
            take_away(at.root.id, seen);
        },
    },
    Case {
        name: "create-workspace",
        left: &[],
        act: |s, at| {
            Box::pin(async { Ok(s.insert_workspace(&at.other).await? == InsertWorkspace::Inserted) })
        },
        done: |at, seen| seen.other = Some(at.other.clone()),
    },
    Case {
        name: "update-workspace",
        left: &[],
        act: |s, at| {
            Box::pin(async {
                let to = renamed_workspace(&at.home);
                Ok(s.update_workspace(&at.home, &to).await? == UpdateWorkspace::Updated)
            })
        },
        done: |at, seen| seen.home = Some(renamed_workspace(&at.home)),
    },
    Case {
        name: "disable-workspace",
        left: &[],
        act: |s, at| {
            Box::pin(async {
                let to = at.home.changed(Workspace::disable);
                Ok(s.update_workspace(&at.home, &to).await? == UpdateWorkspace::Updated)
            })
        },
        done: |at, seen| seen.home = Some(at.home.changed(Workspace::disable)),
    },
    Case {
        name: "create-api-key",
        left: &[],
        act: |s, at| {
            Box::pin(async { Ok(s.insert_api_key(&at.new_key).await? == InsertApiKey::Inserted) })
        },
        done: |at, seen| seen.keys.push(at.new_key.clone()),
    },
    Case {
        name: "create-api-key over a name whose key is gone",
        left: &["INSERT INTO api_key_names (user_id, name, key_id, hash, op, live, created_ms)
                 VALUES ({ada}, 'new', uuid(), 0x0000000000000000000000000000000000000000000000000000000000000000, uuid(), true, 1)"],
        act: |s, at| {
            Box::pin(async { Ok(s.insert_api_key(&at.new_key).await? == InsertApiKey::Inserted) })
        },
        done: |at, seen| seen.keys.push(at.new_key.clone()),
    },
    Case {
        name: "revoke-api-key",
        left: &[],
        act: |s, at| Box::pin(async { Ok(s.delete_api_key(&at.laptop).await? == DeleteApiKey::Deleted) }),
        done: |at, seen| seen.keys.retain(|key| key.id != at.laptop.id),
    },
    Case {
        name: "rotate-signing-key",
        left: &[],
        act: |s, _| {
            Box::pin(async {
                let mut ring = s.key_ring().await?.unwrap();
                ring.version += 1;
                Ok(s.replace_key_ring(&ring).await? == ReplaceKeyRing::Replaced)
            })
        },
        done: |_, seen| seen.ring += 1,
    },
];

/// What is done afterwards by somebody else, who must find nothing held for ever.
async fn goes_on(store: &dyn Store, stage: &Stage, seen: &Seen) {
    let later = Timestamp::from_millis(sample::NOW.as_millis() + 60_000);
    let again = User { created: later, ..sample::user(stage.new.username.as_str(), &stage.home) };
    let expected = if seen.new.is_some() { InsertUser::NameTaken } else { InsertUser::Inserted };
    assert_eq!(store.insert_user(&again).await.unwrap(), expected, "the name");
    if let Some(ada) = &seen.ada {
        let again = ApiKey { created: later, ..sample::key(ada, "new") };
        let taken = seen.keys.iter().any(|key| key.name == "new");
        let expected = if taken { InsertApiKey::NameTaken } else { InsertApiKey::Inserted };
        assert_eq!(store.insert_api_key(&again).await.unwrap(), expected, "the name of a key");
    }
    let extra = sample::admin(&format!("extra{}", stage.n), &stage.other);
    assert_eq!(store.insert_user(&extra).await.unwrap(), InsertUser::Inserted);
    assert_eq!(store.update_user(&extra, &demoted(&extra)).await.unwrap(), UpdateUser::Updated, "the guard");
}

/// Makes stages, and plays cases over a line that is cut.
struct Cutter {
    node: String,
    keyspace: Keyspace,
    /// Another replica, by which everything is seen.
    store: Arc<CassandraStore>,
    /// The replica whose line is cut, until it dies.
    victim: Option<(CqlProxy, CassandraStore)>,
    stages: usize,
}

impl Cutter {
    async fn new(hosts: &[String]) -> Self {
        let keyspace = Keyspace::claim(hosts).await;
        let store = keyspace.open(sample::root_roles()).await;
        Self { node: hosts[0].clone(), keyspace, store, victim: None, stages: 0 }
    }

    async fn stage(&mut self, case: &Case) -> Stage {
        self.stages += 1;
        let stage = Stage::set(&*self.store, self.stages).await;
        for left in case.left {
            let left = left.replace("{n}", &stage.n.to_string());
            let left = left.replace("{ada}", &stage.ada.id.as_uuid().to_string());
            self.keyspace.session.query_unpaged(left, ()).await.unwrap();
        }
        stage
    }

    /// Plays a case with its `nth` write cut off; `false` when it has no such write.
    async fn cut(&mut self, case: &Case, nth: usize, point: Point, then: Then) -> bool {
        let stage = self.stage(case).await;
        let before = Seen::of(&*self.store, &stage).await;
        let mut after = before.clone();
        (case.done)(&stage, &mut after);
        after.sort();

        if self.victim.is_none() {
            let proxy = CqlProxy::to(&self.node).await;
            let store = open_over(&proxy, &self.keyspace.setting).await;
            self.victim = Some((proxy, store));
        }
        let (proxy, victim) = self.victim.as_ref().unwrap();
        proxy.cut(nth, point, then);
        let said = (case.act)(victim, &stage).await;
        let writes = proxy.mend();
        let Some(cut) = writes.get(nth) else {
            assert!(matches!(said, Ok(true)), "{}: {said:?}", case.name);
            assert_eq!(Seen::of(&*self.store, &stage).await, after, "{}", case.name);
            return false;
        };
        if then == Then::Dies {
            self.victim = None;
        }
        let context = format!("{} | {cut:.60} | {point:?} | {then:?}", case.name);
        let seen = Seen::of(&*self.store, &stage).await;
        let stored = match &seen {
            seen if *seen == before => "old",
            seen if *seen == after => "new",
            _ => panic!("{context}: neither {before:#?} nor {after:#?} but {seen:#?}"),
        };
        let told = match &said {
            Ok(true) => "done",
            Ok(false) => "refused",
            Err(StoreError::Unavailable(_)) => "nothing done",
            Err(StoreError::OutcomeUnknown(_)) => "unknown",
            Err(StoreError::Corrupt { .. }) => "corrupt",
        };
        println!("{context} | {told} | {stored}");
        assert!(
            matches!((told, stored), ("done", "new") | ("nothing done", "old") | ("unknown", _)),
            "{context}: told {told}, stored {stored}: {said:?}"
        );
        goes_on(&*self.store, &stage, &seen).await;
        true
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn change_cut_off_at_any_write_is_done_or_not_and_told_so() {
    let Some(hosts) = hosts() else { return };
    let mut cutter = Cutter::new(&hosts).await;
    let seeded = cutter.store.seed(&sample::seed(), sample::NOW).await.unwrap();
    assert!(matches!(seeded, Seeded::Seeded(_)));
    let ways = rounds(CUTS, 1).min(WAYS.len());
    let mut cuts = 0;
    for (i, case) in CASES.iter().enumerate() {
        // It is done by a plain write, which the driver repeats by itself: its last failure says nothing of the first.
        let ways = if case.name == "revoke-api-key" { WAYS.len() } else { ways };
        let mut nth = 0;
        'writes: loop {
            for (point, then) in WAYS.into_iter().cycle().skip(i + nth).take(ways) {
                if !cutter.cut(case, nth, point, then).await {
                    break 'writes;
                }
                cuts += 1;
            }
            nth += 1;
        }
        assert!(nth > 0, "{}: nothing was cut", case.name);
    }
    println!("{cuts} cuts");
}

/// A seeding that dies anywhere shows nothing and lets nobody in; the next one seeds, with the same admin, and what
/// the first one made is dead.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn seeding_cut_off_at_any_write_is_taken_over_by_the_next() {
    let Some(hosts) = hosts() else { return };
    let later = Timestamp::from_millis(sample::NOW.as_millis() + 31_000);
    let ways = rounds(CUTS, 1).min(WAYS.len());
    for nth in 0.. {
        // In a few ways each second write stands for those beside it.
        if ways == 1 && nth % 2 == 1 {
            continue;
        }
        for point in Point::ALL.into_iter().cycle().skip(nth).take(ways) {
            let keyspace = Keyspace::claim(&hosts).await;
            let proxy = CqlProxy::to(&hosts[0]).await;
            let victim = open_over(&proxy, &keyspace.setting).await;
            let first = sample::seed();
            proxy.cut(nth, point, Then::Dies);
            let said = victim.seed(&first, sample::NOW).await;
            let writes = proxy.mend();
            if writes.len() <= nth {
                assert!(matches!(said, Ok(Seeded::Seeded(_))), "{said:?}");
                assert!(nth > 5, "{nth} writes");
                return;
            }
            let store = keyspace.open(sample::root_roles()).await;
            let state = store.seed_state().await.unwrap();
            println!("{:.60} | {point:?} | {said:?} | {state:?}", writes[nth]);
            let second = sample::seed();
            let again = store.seed(&second, later).await.unwrap();
            if state == SeedState::Done {
                assert_eq!(again, Seeded::AlreadyDone);
                assert!(
                    matches!(said, Ok(Seeded::Seeded(_)) | Err(StoreError::OutcomeUnknown(_))),
                    "{said:?}"
                );
                assert!(store.api_key_by_hash(&first.key.hash).await.unwrap().is_some());
                continue;
            }
            assert!(!matches!(said, Ok(Seeded::Seeded(_))), "{said:?}");
            let expected = if state == SeedState::Empty { second.admin.id } else { first.admin.id };
            assert_eq!(again, Seeded::Seeded(expected));
            assert!(store.api_key_by_hash(&first.key.hash).await.unwrap().is_none(), "the first key is dead");
            let key = store.api_key_by_hash(&second.key.hash).await.unwrap().unwrap();
            assert_eq!(key.user, expected);
            assert_eq!(store.key_ring().await.unwrap().map(|ring| ring.version), Some(1));
            let admin = store.user(expected, Read::Serial).await.unwrap();
            assert!(admin.is_some_and(|admin| admin.enabled));
        }
    }
}

/// While it is under way nothing of a seeding is seen.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn half_a_seeding_is_hidden() {
    let Some(hosts) = hosts() else { return };
    let keyspace = Keyspace::claim(&hosts).await;
    let proxy = CqlProxy::to(&hosts[0]).await;
    let victim = open_over(&proxy, &keyspace.setting).await;
    let seed = sample::seed();
    // Everything but the last write: the one that says that it is done.
    proxy.cut(usize::MAX, Point::Unsent, Then::Dies);
    assert!(matches!(victim.seed(&seed, sample::NOW).await, Ok(Seeded::Seeded(_))));
    let last = proxy.mend().len() - 1;
    drop((keyspace, victim));

    let keyspace = Keyspace::claim(&hosts).await;
    let victim = open_over(&proxy, &keyspace.setting).await;
    let seed = sample::seed();
    proxy.cut(last, Point::Unsent, Then::Dies);
    assert!(victim.seed(&seed, sample::NOW).await.is_err());
    let store = keyspace.open(sample::root_roles()).await;
    assert_eq!(store.seed_state().await.unwrap(), SeedState::Seeding);
    assert_eq!(store.user(seed.admin.id, Read::Serial).await.unwrap(), None);
    assert_eq!(store.user_by_name(&seed.admin.username.key()).await.unwrap(), None);
    assert_eq!(store.list_users(None, None, 10).await.unwrap().items, []);
    assert_eq!(store.api_key_by_hash(&seed.key.hash).await.unwrap(), None);
    assert_eq!(store.api_key(seed.key.id).await.unwrap(), None);
    assert_eq!(store.key_ring().await.unwrap(), None);
}
