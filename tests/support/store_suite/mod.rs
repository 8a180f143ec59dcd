//! What every backend of the store must do: each method, each outcome, races and crashes.
//!
//! A claim is a function over a [`Deployment`]; a backend joins all of them in one line,
//! `store_suite!(MyFactory)`, which makes a test of each.

#![expect(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    reason = "a suite of tests, in a library so that backends can share it"
)]

pub mod users;
pub mod workspaces;

pub mod api_keys;
pub mod bootstrap;
pub mod key_ring;

pub mod concurrency;
pub mod faults;

use std::future::Future;
use std::sync::Arc;

use async_trait::async_trait;
use iam_schema::Timestamp;
use iam_svc::domain::api_keys::ApiKey;
use iam_svc::domain::users::User;
use iam_svc::domain::workspaces::Workspace;
use iam_svc::store::{InsertApiKey, InsertUser, InsertWorkspace, Store, StoreError};
use tokio::sync::Barrier;

use crate::sample;

/// Makes stores of one backend, with [`sample::root_roles`].
#[async_trait]
pub trait StoreFactory: Sync {
    /// An empty store that no other test sees; `None` where the backend is not at hand.
    async fn fresh(&self) -> Option<Box<dyn Deployment>>;
}

/// A store that can be let go of and opened anew.
#[async_trait]
pub trait Deployment: Send + Sync {
    /// The store as it is open now.
    fn store(&self) -> Arc<dyn Store>;

    /// Closes the store and opens it again, as a restart does. What `store` gave before must be dropped.
    async fn reopen(&mut self);

    /// Whatever the backend can check of itself when a claim is done.
    async fn check(&self) {}
}

/// Makes a test of every claim for the backend of a [`StoreFactory`].
#[macro_export]
macro_rules! store_suite {
    ($factory:expr) => {
        $crate::store_suite! { @claims $factory;
            users: inserted_user_is_found_by_id_and_by_name_in_any_case,
            users: absent_user_is_none,
            users: insert_user_with_a_taken_name_in_any_case_is_refused,
            users: update_user_replaces_exactly_that_version,
            users: update_user_with_higher_key_epoch_ends_all_keys,
            users: update_user_never_takes_the_last_root_admin,
            users: users_who_cannot_act_do_not_count_as_root_admins,
            users: delete_user_frees_the_name_and_removes_the_keys,
            users: delete_user_never_takes_the_last_root_admin,
            users: list_users_shows_every_user_once,
            users: list_users_goes_on_after_a_user_who_is_gone,
            workspaces: inserted_workspace_is_found,
            workspaces: insert_workspace_with_a_taken_id_is_refused,
            workspaces: update_workspace_replaces_exactly_that_version,
            workspaces: update_workspace_with_higher_epoch_disables_its_users,
            workspaces: update_workspace_never_takes_the_last_root_admin,
            workspaces: list_workspaces_shows_every_workspace_once,
            api_keys: inserted_key_is_found_by_hash_and_by_id,
            api_keys: insert_key_with_a_taken_name_is_refused,
            api_keys: name_of_a_dead_key_is_free,
            api_keys: insert_key_beyond_the_limit_is_refused,
            api_keys: insert_key_with_a_taken_hash_is_refused,
            api_keys: key_born_dead_never_lives,
            api_keys: deleted_key_is_gone_and_deleting_it_again_says_absent,
            api_keys: list_keys_shows_every_key_once_with_its_use,
            api_keys: use_of_a_key_that_is_gone_is_harmless,
            key_ring: ring_is_absent_before_the_seeding_and_cannot_be_replaced,
            key_ring: replace_ring_takes_exactly_the_next_version,
            bootstrap: seed_makes_everything_once,
            bootstrap: seeded_store_stays_seeded,
            bootstrap: ping_answers,
            concurrency: of_racing_inserts_of_a_name_one_wins,
            concurrency: of_racing_inserts_of_a_workspace_one_wins,
            concurrency: of_racing_inserts_of_a_key_name_one_wins,
            concurrency: of_racing_updates_of_a_user_one_wins,
            concurrency: of_racing_ring_replacements_one_wins,
            concurrency: of_racing_seeds_one_wins,
            concurrency: root_admins_who_end_each_other_leave_one,
            concurrency: workspaces_disabled_together_leave_a_root_admin,
            concurrency: keys_of_a_disabled_user_never_outlive_the_race,
            faults: everything_acknowledged_is_there_after_a_restart,
            faults: calls_given_up_half_way_leave_all_or_nothing,
            faults: failed_commands_leave_those_beside_them_alone,
        }
    };
    (@claims $factory:expr; $($noun:ident: $claim:ident,)*) => {$(
        #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
        async fn $claim() {
            let fresh = $crate::store_suite::StoreFactory::fresh(&$factory).await;
            let Some(mut deployment) = fresh else { return };
            $crate::store_suite::$noun::$claim(&mut *deployment).await;
            deployment.check().await;
        }
    )*};
}

/// A time some milliseconds after [`sample::NOW`].
fn later(ms: i64) -> Timestamp {
    Timestamp::from_millis(sample::NOW.as_millis() + ms)
}

pub async fn add_workspace(store: &dyn Store, workspace: &Workspace) {
    assert_eq!(store.insert_workspace(workspace).await.unwrap(), InsertWorkspace::Inserted);
}

pub async fn add_user(store: &dyn Store, user: &User) {
    assert_eq!(store.insert_user(user).await.unwrap(), InsertUser::Inserted);
}

pub async fn add_key(store: &dyn Store, key: &ApiKey) {
    assert_eq!(store.insert_api_key(key).await.unwrap(), InsertApiKey::Inserted);
}

/// Whether there is a root admin: the invariant that no race may break.
async fn root_admins(store: &dyn Store) -> usize {
    let roots = sample::root_roles();
    let mut count = 0;
    let mut after = None;
    loop {
        let page = store.list_users(None, after, 100).await.unwrap();
        for user in &page.items {
            let home = store.workspace(&user.workspace, iam_svc::store::Read::Serial).await.unwrap();
            let enabled = home.is_some_and(|home| user.effectively_enabled(&home));
            count += usize::from(enabled && !user.roles.is_disjoint(&roots));
        }
        match page.next {
            Some(next) => after = Some(next),
            None => return count,
        }
    }
}

/// Asks until the store has time: it may turn callers away where many want the same thing, having done nothing.
async fn patient<T, F>(call: impl Fn() -> F) -> T
where
    F: Future<Output = Result<T, StoreError>>,
{
    for _ in 0..10 {
        match call().await {
            Err(StoreError::Unavailable(_)) => {}
            outcome => return outcome.unwrap(),
        }
    }
    panic!("the store never has time");
}

/// Runs `n` calls that all start together; gives their results in order.
async fn race<T, F>(n: usize, call: impl Fn(usize) -> F) -> Vec<T>
where
    T: Send + 'static,
    F: Future<Output = T> + Send + 'static,
{
    let start = Arc::new(Barrier::new(n));
    let tasks: Vec<_> = (0..n)
        .map(|i| {
            let (start, call) = (Arc::clone(&start), call(i));
            tokio::spawn(async move {
                start.wait().await;
                call.await
            })
        })
        .collect();
    let mut results = Vec::new();
    for task in tasks {
        results.push(task.await.unwrap());
    }
    results
}
