//! Users.

use std::collections::BTreeSet;

use iam_svc::store::{DeleteUser, InsertUser, Read, UpdateUser};

use super::{Deployment, add_key, add_user, add_workspace};
use crate::sample::{self, name_key};

pub async fn inserted_user_is_found_by_id_and_by_name_in_any_case(d: &mut dyn Deployment) {
    let store = d.store();
    let home = sample::workspace("acme");
    add_workspace(&*store, &home).await;
    for user in [sample::full_user("Zoe.Smith+1@example.test", &home), sample::user("plain", &home)] {
        add_user(&*store, &user).await;
        for read in [Read::Ordinary, Read::Serial] {
            assert_eq!(store.user(user.id, read).await.unwrap(), Some(user.clone()));
        }
        let shouted = user.username.as_str().to_ascii_uppercase();
        for name in [user.username.as_str(), shouted.as_str()] {
            assert_eq!(store.user_by_name(&name_key(name)).await.unwrap(), Some(user.clone()), "{name}");
        }
    }
}

pub async fn absent_user_is_none(d: &mut dyn Deployment) {
    let store = d.store();
    assert_eq!(store.user(sample::user_id(), Read::Ordinary).await.unwrap(), None);
    assert_eq!(store.user(sample::user_id(), Read::Serial).await.unwrap(), None);
    assert_eq!(store.user_by_name(&name_key("nobody")).await.unwrap(), None);
}

pub async fn insert_user_with_a_taken_name_in_any_case_is_refused(d: &mut dyn Deployment) {
    let store = d.store();
    let (home, other) = (sample::workspace("acme"), sample::workspace("other"));
    add_workspace(&*store, &home).await;
    add_workspace(&*store, &other).await;
    let first = sample::user("Alice", &home);
    add_user(&*store, &first).await;
    for (name, home) in [("Alice", &home), ("alice", &home), ("ALICE", &other)] {
        let second = sample::user(name, home);
        assert_eq!(store.insert_user(&second).await.unwrap(), InsertUser::NameTaken, "{name}");
        assert_eq!(store.user(second.id, Read::Ordinary).await.unwrap(), None);
    }
    assert_eq!(store.user_by_name(&name_key("aLICE")).await.unwrap(), Some(first));
    assert_eq!(store.list_users(Some(&other.id), None, 10).await.unwrap().items, []);
}

pub async fn update_user_replaces_exactly_that_version(d: &mut dyn Deployment) {
    let store = d.store();
    let home = sample::workspace("acme");
    add_workspace(&*store, &home).await;
    let first = sample::full_user("alice", &home);
    add_user(&*store, &first).await;

    let second = first.changed(|user| {
        user.name = String::new();
        user.email = "a@example.test".to_owned();
        user.roles = sample::roles(&["writer", "admin"]);
        user.password = None;
        user.temporary_until = None;
        user.must_change_password = false;
        user.end_tokens();
    });
    assert_eq!(store.update_user(&first, &second).await.unwrap(), UpdateUser::Updated);
    assert_eq!(store.user(first.id, Read::Ordinary).await.unwrap(), Some(second.clone()));
    assert_eq!(store.user_by_name(&name_key("alice")).await.unwrap(), Some(second.clone()));

    let stale = first.changed(|user| user.name = "stale".to_owned());
    assert_eq!(store.update_user(&first, &stale).await.unwrap(), UpdateUser::LostRace);
    assert_eq!(store.user(first.id, Read::Ordinary).await.unwrap(), Some(second));

    let absent = sample::user("absent", &home);
    let changed = absent.changed(|user| user.name = "there".to_owned());
    assert_eq!(store.update_user(&absent, &changed).await.unwrap(), UpdateUser::LostRace);
    assert_eq!(store.user(absent.id, Read::Ordinary).await.unwrap(), None);
}

pub async fn update_user_with_higher_key_epoch_ends_all_keys(d: &mut dyn Deployment) {
    let store = d.store();
    let home = sample::workspace("acme");
    add_workspace(&*store, &home).await;
    let (user, bystander) = (sample::user("alice", &home), sample::user("bob", &home));
    add_user(&*store, &user).await;
    add_user(&*store, &bystander).await;
    let (key, other) = (sample::key(&user, "laptop"), sample::key(&bystander, "laptop"));
    add_key(&*store, &key).await;
    add_key(&*store, &other).await;

    let ended = user.changed(|user| user.end_keys());
    assert_eq!(store.update_user(&user, &ended).await.unwrap(), UpdateUser::Updated);
    let found = store.api_key_by_hash(&key.hash).await.unwrap();
    assert!(found.is_none_or(|key| !key.of_live_epoch(&ended)), "gone, or dead by its epoch");
    assert_eq!(store.api_key_by_hash(&other.hash).await.unwrap(), Some(other));
}

pub async fn update_user_never_takes_the_last_root_admin(d: &mut dyn Deployment) {
    let store = d.store();
    let home = sample::workspace("acme");
    add_workspace(&*store, &home).await;
    let (first, second) = (sample::admin("first", &home), sample::admin("second", &home));
    add_user(&*store, &first).await;

    let disabled = first.changed(|user| user.enabled = false);
    let demoted = first.changed(|user| user.roles = sample::roles(&["writer"]));
    let left_behind = first.changed(|user| user.workspace_epoch += 1);
    for to in [&disabled, &demoted, &left_behind] {
        assert_eq!(store.update_user(&first, to).await.unwrap(), UpdateUser::LastRootAdmin, "{to:?}");
        assert_eq!(store.user(first.id, Read::Ordinary).await.unwrap(), Some(first.clone()));
    }
    let renamed = first.changed(|user| user.name = "Still root".to_owned());
    assert_eq!(store.update_user(&first, &renamed).await.unwrap(), UpdateUser::Updated);

    add_user(&*store, &second).await;
    let disabled = renamed.changed(|user| user.enabled = false);
    assert_eq!(store.update_user(&renamed, &disabled).await.unwrap(), UpdateUser::Updated);
    let alone = second.changed(|user| user.enabled = false);
    assert_eq!(store.update_user(&second, &alone).await.unwrap(), UpdateUser::LastRootAdmin);
    // Who is no root admin any more can be changed at will, and made one again.
    let restored = disabled.changed(|user| user.enabled = true);
    assert_eq!(store.update_user(&disabled, &restored).await.unwrap(), UpdateUser::Updated);
    assert_eq!(store.update_user(&second, &alone).await.unwrap(), UpdateUser::Updated);
}

pub async fn users_who_cannot_act_do_not_count_as_root_admins(d: &mut dyn Deployment) {
    let store = d.store();
    let home = sample::workspace("acme");
    let closed = iam_svc::domain::workspaces::Workspace { enabled: false, ..sample::workspace("closed") };
    add_workspace(&*store, &home).await;
    add_workspace(&*store, &closed).await;
    let last = sample::admin("last", &home);
    let mut disabled = sample::admin("disabled", &home);
    disabled.enabled = false;
    let mut left_behind = sample::admin("left-behind", &home);
    left_behind.workspace_epoch = home.epoch + 1;
    let shut_out = sample::admin("shut-out", &closed);
    let writer = sample::user_with("writer", &home, &["writer", "administrator"]);
    for user in [&last, &disabled, &left_behind, &shut_out, &writer] {
        add_user(&*store, user).await;
    }
    let demoted = last.changed(|user| user.roles.clear());
    assert_eq!(store.update_user(&last, &demoted).await.unwrap(), UpdateUser::LastRootAdmin);
    assert_eq!(store.delete_user(&last).await.unwrap(), DeleteUser::LastRootAdmin);
    // None of them is one, so none is the last.
    for user in [&disabled, &left_behind, &shut_out, &writer] {
        assert_eq!(store.delete_user(user).await.unwrap(), DeleteUser::Deleted, "{user:?}");
    }
}

pub async fn delete_user_frees_the_name_and_removes_the_keys(d: &mut dyn Deployment) {
    let store = d.store();
    let home = sample::workspace("acme");
    add_workspace(&*store, &home).await;
    let user = sample::full_user("Alice", &home);
    add_user(&*store, &user).await;
    let key = sample::key(&user, "laptop");
    add_key(&*store, &key).await;
    let changed = user.changed(|user| user.name = "Alice B".to_owned());
    assert_eq!(store.update_user(&user, &changed).await.unwrap(), UpdateUser::Updated);

    assert_eq!(store.delete_user(&user).await.unwrap(), DeleteUser::LostRace, "an older version");
    assert_eq!(store.delete_user(&changed).await.unwrap(), DeleteUser::Deleted);
    assert_eq!(store.delete_user(&changed).await.unwrap(), DeleteUser::LostRace, "gone");
    assert_eq!(store.user(user.id, Read::Ordinary).await.unwrap(), None);
    assert_eq!(store.user_by_name(&name_key("alice")).await.unwrap(), None);
    assert_eq!(store.list_users(Some(&home.id), None, 10).await.unwrap().items, []);
    assert_eq!(store.list_api_keys(user.id, None, 10).await.unwrap().items, []);
    assert_eq!(store.api_key_by_hash(&key.hash).await.unwrap(), None);
    assert_eq!(store.api_key(key.id).await.unwrap(), None);

    let next = sample::user("aLICE", &home);
    add_user(&*store, &next).await;
    assert_eq!(store.user_by_name(&name_key("alice")).await.unwrap(), Some(next));
}

pub async fn delete_user_never_takes_the_last_root_admin(d: &mut dyn Deployment) {
    let store = d.store();
    let home = sample::workspace("acme");
    add_workspace(&*store, &home).await;
    let (first, second) = (sample::admin("first", &home), sample::admin("second", &home));
    add_user(&*store, &first).await;
    assert_eq!(store.delete_user(&first).await.unwrap(), DeleteUser::LastRootAdmin);
    assert_eq!(store.user(first.id, Read::Ordinary).await.unwrap(), Some(first.clone()));
    add_user(&*store, &second).await;
    assert_eq!(store.delete_user(&first).await.unwrap(), DeleteUser::Deleted);
    assert_eq!(store.delete_user(&second).await.unwrap(), DeleteUser::LastRootAdmin);
}

pub async fn list_users_shows_every_user_once(d: &mut dyn Deployment) {
    let store = d.store();
    // Ids of which one begins like another, since an index may join id and user in one key.
    let homes = ["a", "a-", "ab", "empty"].map(sample::workspace);
    for home in &homes {
        add_workspace(&*store, home).await;
    }
    let mut users = Vec::new();
    for i in 0..23 {
        let user = sample::full_user(&format!("user{i}"), &homes[i % 3]);
        add_user(&*store, &user).await;
        users.push(user);
    }
    for home in [None, Some(&homes[0]), Some(&homes[1]), Some(&homes[2]), Some(&homes[3])] {
        let of_home = |workspace: &_| home.is_none_or(|home| home.id == *workspace);
        let mut expected: Vec<_> = users.iter().filter(|user| of_home(&user.workspace)).cloned().collect();
        expected.sort_by_key(|user| user.id);
        for limit in [1, 4, 23, 24, 1000] {
            let mut found = Vec::new();
            let mut after = None;
            loop {
                let page = store.list_users(home.map(|home| &home.id), after, limit).await.unwrap();
                assert!(page.items.len() <= limit);
                assert!(page.next.is_none() || !page.items.is_empty(), "an empty page is the last");
                found.extend(page.items);
                let Some(next) = page.next else { break };
                after = Some(next);
            }
            found.sort_by_key(|user| user.id);
            assert_eq!(found, expected, "{home:?}, pages of {limit}");
        }
    }
}

pub async fn list_users_goes_on_after_a_user_who_is_gone(d: &mut dyn Deployment) {
    let store = d.store();
    let home = sample::workspace("acme");
    add_workspace(&*store, &home).await;
    let users: Vec<_> = (0..9).map(|i| sample::user(&format!("user{i}"), &home)).collect();
    for user in &users {
        add_user(&*store, user).await;
    }
    for workspace in [None, Some(&home.id)] {
        let page = store.list_users(workspace, None, 4).await.unwrap();
        let cursor = page.next.expect("more than four");
        let gone = store.user(cursor, Read::Ordinary).await.unwrap();
        if let Some(gone) = gone {
            assert_eq!(store.delete_user(&gone).await.unwrap(), DeleteUser::Deleted);
        }
        let rest = store.list_users(workspace, Some(cursor), 100).await.unwrap();
        let seen: BTreeSet<_> = page.items.iter().map(|user| user.id).collect();
        let more: BTreeSet<_> = rest.items.iter().map(|user| user.id).collect();
        assert!(seen.is_disjoint(&more), "nobody twice");
        let present = store.list_users(workspace, None, 100).await.unwrap().items;
        assert!(
            present.iter().all(|user| seen.contains(&user.id) || more.contains(&user.id)),
            "nobody skipped"
        );
    }
}
