//! Restarts, callers who give up, and commands that cannot be carried out.

use std::sync::Arc;
use std::time::Duration;

use iam_svc::store::{InsertUser, Read, StoreError, UpdateUser};

use super::{Deployment, add_key, add_user, add_workspace, later, race};
use crate::sample::{self, name_key};

pub async fn everything_acknowledged_is_there_after_a_restart(d: &mut dyn Deployment) {
    let home = sample::workspace("acme");
    let mut users = Vec::new();
    let mut keys = Vec::new();
    add_workspace(&*d.store(), &home).await;
    for round in 0..3 {
        for i in 0..10 {
            let user = sample::full_user(&format!("user-{round}-{i}"), &home);
            let key = sample::key(&user, "laptop");
            add_user(&*d.store(), &user).await;
            add_key(&*d.store(), &key).await;
            d.store().touch_api_keys(&[(user.id, key.id, later(i))]).await.unwrap();
            let changed = user.changed(|user| user.name = "changed".to_owned());
            assert_eq!(d.store().update_user(&user, &changed).await.unwrap(), UpdateUser::Updated);
            users.push(changed);
            keys.push((key, Some(later(i))));
        }
        d.reopen().await;
        let store = d.store();
        assert_eq!(store.workspace(&home.id, Read::Ordinary).await.unwrap(), Some(home.clone()));
        for (user, key) in users.iter().zip(&keys) {
            assert_eq!(store.user(user.id, Read::Ordinary).await.unwrap().as_ref(), Some(user));
            assert_eq!(store.user_by_name(&user.username.key()).await.unwrap().as_ref(), Some(user));
            assert_eq!(
                store.list_api_keys(user.id, None, 10).await.unwrap().items,
                std::slice::from_ref(key)
            );
        }
    }
}

pub async fn calls_given_up_half_way_leave_all_or_nothing(d: &mut dyn Deployment) {
    let home = sample::workspace("acme");
    add_workspace(&*d.store(), &home).await;
    let users: Vec<_> = (0..60).map(|i| sample::full_user(&format!("user{i}"), &home)).collect();
    {
        let store = d.store();
        race(users.len(), |i| {
            let (store, user) = (Arc::clone(&store), users[i].clone());
            let patience = Duration::from_micros(20 * i as u64);
            async move {
                // Whether it was in time does not matter.
                let _ = tokio::time::timeout(patience, store.insert_user(&user)).await;
            }
        })
        .await;
    }
    d.reopen().await;
    let store = d.store();
    for user in &users {
        let by_id = store.user(user.id, Read::Serial).await.unwrap();
        let by_name = store.user_by_name(&user.username.key()).await.unwrap();
        assert_eq!(by_id, by_name);
        // A claim without a user may be left alone for a while, in case its maker is still at work.
        let mut again = sample::user(user.username.as_str(), &home);
        again.created = later(60_000);
        let again = store.insert_user(&again).await.unwrap();
        let expected = if by_id.is_some() { InsertUser::NameTaken } else { InsertUser::Inserted };
        assert_eq!(again, expected, "a claim that was given up is free");
    }
}

/// A command that breaks an invariant is refused as such, and so alone, though it may share its transaction
/// with others.
pub async fn failed_commands_leave_those_beside_them_alone(d: &mut dyn Deployment) {
    let store = d.store();
    let home = sample::workspace("acme");
    add_workspace(&*store, &home).await;
    let victim = sample::user("victim", &home);
    add_user(&*store, &victim).await;
    let outcomes = race(40, |i| {
        let (store, victim) = (Arc::clone(&store), victim.clone());
        let user = sample::user(&format!("user{i}"), &home);
        async move {
            if i % 4 == 0 {
                let mut skips = victim.changed(|user| user.name = "never".to_owned());
                skips.version += 1;
                store.update_user(&victim, &skips).await.map(|_| ())
            } else {
                store.insert_user(&user).await.map(|outcome| assert_eq!(outcome, InsertUser::Inserted))
            }
        }
    })
    .await;
    for (i, outcome) in outcomes.iter().enumerate() {
        match outcome {
            Ok(()) => assert!(i % 4 != 0),
            Err(StoreError::Corrupt { .. }) => assert!(i % 4 == 0),
            Err(other) => panic!("{other}"),
        }
        let found = store.user_by_name(&name_key(&format!("user{i}"))).await.unwrap();
        assert_eq!(found.is_some(), i % 4 != 0, "user{i}");
    }
    assert_eq!(store.user(victim.id, Read::Ordinary).await.unwrap(), Some(victim));
}
