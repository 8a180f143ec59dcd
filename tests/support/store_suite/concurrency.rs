//! Races: many callers at once, several rounds.

use std::sync::Arc;

use iam_svc::domain::workspaces::Workspace;
use iam_svc::store::{
    DeleteUser, InsertApiKey, InsertUser, InsertWorkspace, Read, ReplaceKeyRing, Seeded, UpdateUser,
    UpdateWorkspace,
};

use super::{Deployment, add_user, add_workspace, later, patient, race, root_admins};
use crate::sample::{self, NOW, name_key};

/// Callers at once.
const CALLERS: usize = 40;
const ROUNDS: usize = 5;

fn count<T: PartialEq>(outcomes: &[T], wanted: &T) -> usize {
    outcomes.iter().filter(|outcome| *outcome == wanted).count()
}

pub async fn of_racing_inserts_of_a_name_one_wins(d: &mut dyn Deployment) {
    let store = d.store();
    let home = sample::workspace("acme");
    add_workspace(&*store, &home).await;
    for round in 0..ROUNDS {
        let outcomes = race(CALLERS, |i| {
            let name = format!("name{round}");
            let name = if i % 2 == 0 { name } else { name.to_ascii_uppercase() };
            let (store, user) = (Arc::clone(&store), sample::user(&name, &home));
            async move { (store.insert_user(&user).await.unwrap(), user) }
        })
        .await;
        let won: Vec<_> = outcomes.iter().filter(|(outcome, _)| *outcome == InsertUser::Inserted).collect();
        assert_eq!(won.len(), 1);
        let found = store.user_by_name(&name_key(&format!("name{round}"))).await.unwrap();
        assert_eq!(found.as_ref(), Some(&won[0].1));
    }
    assert_eq!(store.list_users(Some(&home.id), None, 1000).await.unwrap().items.len(), ROUNDS);
}

pub async fn of_racing_inserts_of_a_workspace_one_wins(d: &mut dyn Deployment) {
    let store = d.store();
    for round in 0..ROUNDS {
        let outcomes = race(CALLERS, |i| {
            let workspace = Workspace { name: format!("of {i}"), ..sample::workspace(&format!("w{round}")) };
            let store = Arc::clone(&store);
            async move { (store.insert_workspace(&workspace).await.unwrap(), workspace) }
        })
        .await;
        let won: Vec<_> =
            outcomes.iter().filter(|(outcome, _)| *outcome == InsertWorkspace::Inserted).collect();
        assert_eq!(won.len(), 1);
        let found = store.workspace(&won[0].1.id, Read::Ordinary).await.unwrap();
        assert_eq!(found.as_ref(), Some(&won[0].1));
    }
}

pub async fn of_racing_inserts_of_a_key_name_one_wins(d: &mut dyn Deployment) {
    let store = d.store();
    let home = sample::workspace("acme");
    add_workspace(&*store, &home).await;
    let user = sample::user("alice", &home);
    add_user(&*store, &user).await;
    for round in 0..ROUNDS {
        let outcomes = race(CALLERS, |_| {
            let (store, key) = (Arc::clone(&store), sample::key(&user, &format!("key {round}")));
            async move { store.insert_api_key(&key).await.unwrap() }
        })
        .await;
        assert_eq!(count(&outcomes, &InsertApiKey::Inserted), 1);
        assert_eq!(count(&outcomes, &InsertApiKey::NameTaken), CALLERS - 1);
    }
    assert_eq!(store.list_api_keys(user.id, None, 1000).await.unwrap().items.len(), ROUNDS);
}

pub async fn of_racing_updates_of_a_user_one_wins(d: &mut dyn Deployment) {
    let store = d.store();
    let home = sample::workspace("acme");
    add_workspace(&*store, &home).await;
    let mut user = sample::user("alice", &home);
    add_user(&*store, &user).await;
    for _ in 0..ROUNDS {
        let outcomes = race(CALLERS, |i| {
            let to = user.changed(|user| user.name = format!("by {i}"));
            let (store, from) = (Arc::clone(&store), user.clone());
            async move { (store.update_user(&from, &to).await.unwrap(), to) }
        })
        .await;
        let won: Vec<_> =
            outcomes.into_iter().filter(|(outcome, _)| *outcome == UpdateUser::Updated).collect();
        assert_eq!(won.len(), 1);
        let stored = store.user(user.id, Read::Ordinary).await.unwrap().unwrap();
        assert_eq!(stored, won[0].1);
        user = stored;
    }
}

pub async fn of_racing_ring_replacements_one_wins(d: &mut dyn Deployment) {
    let store = d.store();
    let seed = sample::seed();
    assert_eq!(store.seed(&seed, NOW).await.unwrap(), Seeded::Seeded(seed.admin.id));
    let mut ring = seed.ring;
    for _ in 0..ROUNDS {
        let outcomes = race(CALLERS, |_| {
            let to = ring.rotated(sample::fresh_key(), later(1), later(2)).unwrap();
            let store = Arc::clone(&store);
            async move { (store.replace_key_ring(&to).await.unwrap(), to) }
        })
        .await;
        let won: Vec<_> =
            outcomes.into_iter().filter(|(outcome, _)| *outcome == ReplaceKeyRing::Replaced).collect();
        assert_eq!(won.len(), 1);
        ring = store.key_ring().await.unwrap().unwrap();
        assert_eq!(ring, won[0].1);
    }
}

pub async fn of_racing_seeds_one_wins(d: &mut dyn Deployment) {
    let store = d.store();
    let outcomes = race(CALLERS, |_| {
        let (store, seed) = (Arc::clone(&store), sample::seed());
        async move { (store.seed(&seed, NOW).await.unwrap(), seed) }
    })
    .await;
    let won: Vec<_> = outcomes.iter().filter(|(outcome, _)| matches!(outcome, Seeded::Seeded(_))).collect();
    assert_eq!(won.len(), 1);
    let (_, seed) = won[0];
    assert_eq!(store.key_ring().await.unwrap().as_ref(), Some(&seed.ring));
    assert_eq!(store.api_key_by_hash(&seed.key.hash).await.unwrap().as_ref(), Some(&seed.key));
    assert_eq!(store.list_users(None, None, 10).await.unwrap().items.len(), 1);
    assert_eq!(root_admins(&*store).await, 1);
}

/// Several root admins; as many callers disable, delete and demote one each, at once.
pub async fn root_admins_who_end_each_other_leave_one(d: &mut dyn Deployment) {
    let store = d.store();
    let home = sample::workspace("acme");
    add_workspace(&*store, &home).await;
    for round in 0..ROUNDS {
        for admins in [2, CALLERS] {
            let mut users = Vec::new();
            for i in 0..admins {
                let user = sample::admin(&format!("admin-{round}-{admins}-{i}"), &home);
                add_user(&*store, &user).await;
                users.push(user);
            }
            // From the rounds before one is left, who is to go with these.
            let earlier = store.list_users(None, None, 1000).await.unwrap().items;
            let live = |user: &&_| {
                let user: &iam_svc::domain::users::User = user;
                user.effectively_enabled(&home) && !user.roles.is_disjoint(&sample::root_roles())
            };
            let targets: Vec<_> = earlier.iter().filter(live).cloned().collect();
            let refused = race(targets.len(), |i| {
                let (store, user) = (Arc::clone(&store), targets[i].clone());
                async move {
                    let demoted = user.changed(|user| user.roles.clear());
                    let disabled = user.changed(|user| user.enabled = false);
                    match i % 3 {
                        0 => patient(|| store.delete_user(&user)).await == DeleteUser::LastRootAdmin,
                        1 => {
                            patient(|| store.update_user(&user, &demoted)).await == UpdateUser::LastRootAdmin
                        }
                        _ => {
                            patient(|| store.update_user(&user, &disabled)).await == UpdateUser::LastRootAdmin
                        }
                    }
                }
            })
            .await;
            assert_eq!(count(&refused, &true), 1, "all but the last may go");
            assert_eq!(root_admins(&*store).await, 1);
        }
    }
}

pub async fn workspaces_disabled_together_leave_a_root_admin(d: &mut dyn Deployment) {
    let store = d.store();
    for round in 0..ROUNDS {
        let homes: Vec<_> = (0..2).map(|i| sample::workspace(&format!("w{round}-{i}"))).collect();
        for home in &homes {
            add_workspace(&*store, home).await;
            add_user(&*store, &sample::admin(&format!("admin-{}", home.id), home)).await;
        }
        // The workspace that was spared before goes with these.
        let mut targets = store.list_workspaces(None, 1000).await.unwrap().items;
        targets.retain(|workspace| workspace.enabled);
        let outcomes = race(targets.len(), |i| {
            let (store, from) = (Arc::clone(&store), targets[i].clone());
            async move { store.update_workspace(&from, &from.changed(Workspace::disable)).await.unwrap() }
        })
        .await;
        assert_eq!(count(&outcomes, &UpdateWorkspace::LastRootAdmin), 1);
        assert_eq!(root_admins(&*store).await, 1);
    }
}

/// Keys are made while the user's keys are ended: what is left alive carries the new epoch.
pub async fn keys_of_a_disabled_user_never_outlive_the_race(d: &mut dyn Deployment) {
    let store = d.store();
    let home = sample::workspace("acme");
    add_workspace(&*store, &home).await;
    for round in 0..ROUNDS {
        let user = sample::user(&format!("user{round}"), &home);
        add_user(&*store, &user).await;
        let ended = user.changed(|user| user.end_keys());
        let keys: Vec<_> = (0..CALLERS).map(|i| sample::key(&user, &format!("key {i}"))).collect();
        race(CALLERS, |i| {
            let (store, key) = (Arc::clone(&store), keys[i].clone());
            let (from, to) = (user.clone(), ended.clone());
            async move {
                if i == CALLERS / 2 {
                    assert_eq!(store.update_user(&from, &to).await.unwrap(), UpdateUser::Updated);
                } else {
                    store.insert_api_key(&key).await.unwrap();
                }
            }
        })
        .await;
        for key in &keys {
            let found = store.api_key_by_hash(&key.hash).await.unwrap();
            assert!(found.is_none_or(|key| !key.of_live_epoch(&ended)));
        }
    }
}
