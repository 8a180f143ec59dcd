//! A deployment moved from one store to another: all of it, or a target that says that it is not done.

mod program;

use std::collections::BTreeMap;
use std::sync::Arc;

use iam_schema::Timestamp;
use iam_svc::domain::api_keys::ApiKey;
use iam_svc::domain::key_ring::{FreshKey, KeyRing};
use iam_svc::domain::users::User;
use iam_svc::domain::workspaces::Workspace;
use iam_svc::store::transfer::{Account, MoveFault, Origin, Stage, Sums, Transfer, relocate};
use iam_svc::store::{
    InsertWorkspace, Page, Read, ReplaceKeyRing, Seed, SeedState, Seeded, Store, Swept, UpdateUser,
    UpdateWorkspace,
};
use iam_tests::cassandra::{self, Keyspace};
use iam_tests::sample::{self, NOW};
use tempfile::TempDir;
use tokio::sync::Notify;

/// How many users are written at once where a deployment is made.
const AT_ONCE: usize = 500;
/// Users of several pages, so that there is a middle to be cut at.
const SEVERAL_PAGES: usize = 350;

fn later(seconds: i64) -> Timestamp {
    Timestamp::from_millis(NOW.as_millis() + seconds * 1_000)
}

/// Makes a deployment with a ring that was rotated, a workspace that was disabled, and so many users: odd and even
/// ones differ in every field, each with two keys. Gives the keys of dead epochs, which are there too.
async fn populate(store: &dyn Transfer, fresh: &(dyn Fn() -> FreshKey + Sync), users: usize) -> Vec<ApiKey> {
    let seed = Seed { ring: KeyRing::new(fresh(), fresh(), NOW), ..sample::seed() };
    assert_eq!(store.seed(&seed, NOW).await.unwrap(), Seeded::Seeded(seed.admin.id));
    let rotated = seed.ring.rotated(fresh(), later(86_400), later(1)).unwrap();
    assert_eq!(store.replace_key_ring(&rotated).await.unwrap(), ReplaceKeyRing::Replaced);
    let open = sample::workspace("acme");
    assert_eq!(store.insert_workspace(&open).await.unwrap(), InsertWorkspace::Inserted);
    let closed = Workspace { name: "Größe".to_owned(), ..sample::workspace("closed") };
    assert_eq!(store.insert_workspace(&closed).await.unwrap(), InsertWorkspace::Inserted);
    let disabled = Workspace { version: 2, enabled: false, epoch: 1, ..closed.clone() };
    assert_eq!(store.update_workspace(&closed, &disabled).await.unwrap(), UpdateWorkspace::Updated);

    let (mut accounts, mut dead) = (Vec::new(), Vec::new());
    for n in 0..users {
        let user = match n % 2 {
            0 => User { version: 7, ..sample::full_user(&format!("User-{n}"), &open) },
            _ => User { enabled: n % 3 != 0, ..sample::user(&format!("user-{n}"), &closed) },
        };
        let plain = sample::key(&user, "plain");
        let used = ApiKey { expires: Some(later(90_000)), ..sample::key(&user, "used once") };
        let mut keys = vec![(plain, None), (used, Some(later(600)))];
        if n % 100 == 0 {
            let ended = ApiKey { key_epoch: 1, ..sample::key(&user, "ended") };
            dead.push(ended.clone());
            keys.push((ended, Some(later(60))));
        }
        accounts.push(Account { user, keys });
        if accounts.len() == AT_ONCE || n + 1 == users {
            store.put_accounts(&accounts).await.unwrap();
            accounts.clear();
        }
    }
    dead
}

/// All that can be asked of a store, asked as the service does: by id, by name, by workspace, by hash.
#[derive(Debug, PartialEq)]
struct Everything {
    state: SeedState,
    origin: Option<Origin>,
    ring: Option<KeyRing>,
    workspaces: BTreeMap<String, Workspace>,
    /// By username.
    accounts: BTreeMap<String, Account>,
}

async fn everything(store: &dyn Transfer) -> Everything {
    let mut workspaces = BTreeMap::new();
    let mut accounts = BTreeMap::new();
    let page: Page<Workspace, _> = store.list_workspaces(None, 1000).await.unwrap();
    assert_eq!(page.next, None);
    for workspace in page.items {
        assert_eq!(store.workspace(&workspace.id, Read::Serial).await.unwrap().as_ref(), Some(&workspace));
        let mut after = None;
        loop {
            let page = store.list_users(Some(&workspace.id), after, 500).await.unwrap();
            for user in page.items {
                let name = user.username.key();
                assert_eq!(store.user_by_name(&name).await.unwrap().as_ref(), Some(&user), "{name:?}");
                let mut keys = store.list_api_keys(user.id, None, 1000).await.unwrap().items;
                keys.retain(|(key, _)| key.of_live_epoch(&user));
                for (key, _) in &keys {
                    assert_eq!(store.api_key_by_hash(&key.hash).await.unwrap().as_ref(), Some(key));
                    assert_eq!(store.api_key(key.id).await.unwrap().as_ref(), Some(key));
                }
                accounts.insert(user.username.as_str().to_owned(), Account { user, keys });
            }
            after = page.next;
            if after.is_none() {
                break;
            }
        }
        workspaces.insert(workspace.id.as_str().to_owned(), workspace);
    }
    Everything {
        state: store.seed_state().await.unwrap(),
        origin: store.origin().await.unwrap(),
        ring: store.key_ring().await.unwrap(),
        workspaces,
        accounts,
    }
}

async fn moved(source: &dyn Transfer, target: &dyn Transfer) -> Sums {
    let moved = relocate(source, target, &mut |_, _| {}).await.unwrap();
    assert_eq!(moved.source, moved.target);
    assert!(target.mark().await.unwrap().unwrap().done);
    moved.source
}

/// Begins a move and lets go of it after the first page of users.
async fn cut(source: &dyn Transfer, target: &dyn Transfer) {
    let first_page = Notify::new();
    let mut told = |stage: Stage, _: &Sums| {
        assert_eq!(stage, Stage::Copying, "it got to the end");
        first_page.notify_one();
    };
    tokio::select! {
        biased;
        () = first_page.notified() => {}
        ended = relocate(source, target, &mut told) => panic!("it got to the end: {ended:?}"),
    }
    let mark = target.mark().await.unwrap().unwrap();
    assert!(!mark.done);
    assert!(target.list_users(None, None, 1000).await.unwrap().items.len() < SEVERAL_PAGES);
}

/// The last root admin stays, and a ring that was moved is replaced as before.
async fn works_on(store: &dyn Transfer) {
    let admin = store.user_by_name(&sample::name_key("admin")).await.unwrap().unwrap();
    let demoted = User { version: admin.version + 1, roles: sample::roles(&["reader"]), ..admin.clone() };
    assert_eq!(store.update_user(&admin, &demoted).await.unwrap(), UpdateUser::LastRootAdmin);
    let ring = store.key_ring().await.unwrap().unwrap();
    let next = ring.rotated(sample::fresh_key(), later(86_400), later(2)).unwrap();
    assert_eq!(store.replace_key_ring(&next).await.unwrap(), ReplaceKeyRing::Replaced);
    let user = store.user_by_name(&sample::name_key("user-2")).await.unwrap().unwrap();
    let key = store.list_api_keys(user.id, None, 1).await.unwrap().items.remove(0).0;
    store.delete_api_key(&key).await.unwrap();
    assert_eq!(store.api_key_by_hash(&key.hash).await.unwrap(), None);
    let ended = User { version: user.version + 1, key_epoch: user.key_epoch + 1, ..user.clone() };
    assert_eq!(store.update_user(&user, &ended).await.unwrap(), UpdateUser::Updated);
}

#[tokio::test(flavor = "multi_thread")]
async fn everything_goes_over_as_it_is_and_back() {
    let Some(hosts) = cassandra::hosts() else { return };
    let keyspace = Keyspace::claim(&hosts).await;
    let (first, last) = (TempDir::new().unwrap(), TempDir::new().unwrap());
    let (source, back) = (super::open(&first), super::open(&last));
    let cluster = keyspace.open(sample::root_roles()).await;

    let dead = populate(&*source, &sample::fresh_key, SEVERAL_PAGES).await;
    let before = everything(&*source).await;
    assert_eq!(before.accounts.len(), SEVERAL_PAGES + 1);
    assert!(!dead.is_empty());

    let there = moved(&*source, &*cluster).await;
    assert_eq!(everything(&*cluster).await, before);
    let users = u64::try_from(SEVERAL_PAGES).unwrap();
    let counts = there.kinds().map(|(kind, sum)| (kind, sum.count));
    let expected = [
        ("workspaces", 3),
        ("users", users + 1),
        ("api-keys", 2 * users + 1),
        ("last-uses", users),
        ("key-ring", 1),
        ("seeding", 1),
    ];
    assert_eq!(counts, expected);

    assert_eq!(moved(&*cluster, &*back).await, there);
    assert_eq!(everything(&*back).await, before);
    back.verify().unwrap();
    for key in &dead {
        assert!(source.api_key_by_hash(&key.hash).await.unwrap().is_some());
        assert_eq!(cluster.api_key_by_hash(&key.hash).await.unwrap(), None);
        assert_eq!(back.api_key_by_hash(&key.hash).await.unwrap(), None);
    }
    assert_eq!(everything(&*source).await, before, "the source stays as it is");

    let swept = cluster.sweep(later(86_400)).await.unwrap();
    assert_eq!(swept, Some(Swept::default()), "nothing is left over");
    assert_eq!(everything(&*cluster).await, before);
    works_on(&*cluster).await;
    works_on(&*back).await;
    back.verify().unwrap();
}

/// Every refusal, and a move that was cut and taken up. The target is empty.
async fn refusals(target: &dyn Transfer) {
    let dirs = [(); 4].map(|()| TempDir::new().unwrap());
    let [empty, one, other, elsewhere] = dirs.each_ref().map(super::open);
    for source in [&one, &other] {
        populate(&**source, &sample::fresh_key, SEVERAL_PAGES).await;
    }
    let refused = async |source: &dyn Transfer, target: &dyn Transfer| {
        relocate(source, target, &mut |_, _| panic!("it began")).await.unwrap_err()
    };

    assert!(matches!(refused(&*empty, target).await, MoveFault::NotSeeded));
    assert_eq!(target.mark().await.unwrap(), None);
    assert!(target.is_empty().await.unwrap());

    cut(&*one, target).await;
    assert!(matches!(refused(&*other, target).await, MoveFault::OtherSource));
    assert!(matches!(refused(target, &*elsewhere).await, MoveFault::SourceUnfinished));
    assert!(elsewhere.is_empty().await.unwrap());
    assert_eq!(elsewhere.mark().await.unwrap(), None);

    cut(&*one, target).await;
    moved(&*one, target).await;
    let there = everything(target).await;
    assert_eq!(there, everything(&*one).await);
    for source in [&one, &other] {
        assert!(matches!(refused(&**source, target).await, MoveFault::NotEmpty));
    }
    assert!(matches!(refused(&*one, &*other).await, MoveFault::NotEmpty));
    assert_eq!(other.mark().await.unwrap(), None);
    assert_eq!(everything(target).await, there);
}

#[tokio::test(flavor = "multi_thread")]
async fn file_in_use_or_of_another_is_refused_and_a_cut_move_goes_on() {
    let dir = TempDir::new().unwrap();
    let target = super::open(&dir);
    refusals(&*target).await;
    target.verify().unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn keyspace_in_use_or_of_another_is_refused_and_a_cut_move_goes_on() {
    let Some(hosts) = cassandra::hosts() else { return };
    let keyspace = Keyspace::claim(&hosts).await;
    refusals(&*keyspace.open(sample::root_roles()).await).await;
}

/// Changes a user as whoever serves there would, while the move is at its first page.
fn meddling(store: Arc<dyn Transfer>) -> impl FnMut(Stage, &Sums) + Send {
    let mut met = false;
    move |_, _| {
        if std::mem::replace(&mut met, true) {
            return;
        }
        let change = async {
            let user = store.user_by_name(&sample::name_key("user-2")).await.unwrap().unwrap();
            let to = User { version: user.version + 1, name: "Changed".to_owned(), ..user.clone() };
            assert_eq!(store.update_user(&user, &to).await.unwrap(), UpdateUser::Updated);
        };
        tokio::task::block_in_place(|| tokio::runtime::Handle::current().block_on(change));
    }
}

async fn differences(source: Arc<dyn Transfer>, target: Arc<dyn Transfer>) {
    let fault = relocate(&*source, &*target, &mut meddling(source.clone())).await.unwrap_err();
    assert!(matches!(fault, MoveFault::SourceChanged(_)), "{fault}");
    assert!(!target.mark().await.unwrap().unwrap().done);

    let mut stray = false;
    let mut told = |stage: Stage, _: &Sums| {
        if stage == Stage::Copying && !std::mem::replace(&mut stray, true) {
            let user = sample::user("stray", &sample::workspace("acme"));
            let account = [Account { user, keys: Vec::new() }];
            let put = target.put_accounts(&account);
            let put = tokio::task::block_in_place(|| tokio::runtime::Handle::current().block_on(put));
            put.unwrap();
        }
    };
    let fault = relocate(&*source, &*target, &mut told).await.unwrap_err();
    let MoveFault::Differs(sides) = &fault else { panic!("{fault}") };
    assert_eq!(sides.target.users.count, sides.source.users.count + 1);
    assert!(!target.mark().await.unwrap().unwrap().done);
}

#[tokio::test(flavor = "multi_thread")]
async fn change_on_either_side_leaves_the_target_marked() {
    let (one, other) = (TempDir::new().unwrap(), TempDir::new().unwrap());
    let (source, target) = (super::open(&one), super::open(&other));
    populate(&*source, &sample::fresh_key, SEVERAL_PAGES).await;
    differences(source, target).await;
    let Some(hosts) = cassandra::hosts() else { return };
    let keyspace = Keyspace::claim(&hosts).await;
    let third = TempDir::new().unwrap();
    let source = super::open(&third);
    populate(&*source, &sample::fresh_key, SEVERAL_PAGES).await;
    differences(source, keyspace.open(sample::root_roles()).await).await;
}
