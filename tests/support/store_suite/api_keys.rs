//! API keys.

use iam_svc::domain::api_keys::{ApiKey, MAX_KEYS_PER_USER};
use iam_svc::domain::users::User;
use iam_svc::store::{DeleteApiKey, InsertApiKey, Store, UpdateUser};

use super::{Deployment, add_key, add_user, add_workspace, later};
use crate::sample;

async fn alice(store: &dyn Store) -> User {
    let home = sample::workspace("acme");
    add_workspace(store, &home).await;
    let user = sample::full_user("alice", &home);
    add_user(store, &user).await;
    user
}

pub async fn inserted_key_is_found_by_hash_and_by_id(d: &mut dyn Deployment) {
    let store = d.store();
    let user = alice(&*store).await;
    let eternal = sample::key(&user, "laptop \u{1f4bb}");
    let expiring = ApiKey { expires: Some(later(60_000)), ..sample::key(&user, &"n".repeat(1024)) };
    for key in [eternal, expiring] {
        add_key(&*store, &key).await;
        assert_eq!(store.api_key_by_hash(&key.hash).await.unwrap(), Some(key.clone()));
        assert_eq!(store.api_key(key.id).await.unwrap(), Some(key));
    }
    assert_eq!(store.api_key_by_hash(&sample::key_hash()).await.unwrap(), None);
    assert_eq!(store.api_key(sample::key_id()).await.unwrap(), None);
}

pub async fn insert_key_with_a_taken_name_is_refused(d: &mut dyn Deployment) {
    let store = d.store();
    let user = alice(&*store).await;
    let other = sample::user("bob", &sample::workspace("acme"));
    add_user(&*store, &other).await;
    add_key(&*store, &sample::key(&user, "laptop")).await;

    let second = sample::key(&user, "laptop");
    assert_eq!(store.insert_api_key(&second).await.unwrap(), InsertApiKey::NameTaken);
    assert_eq!(store.api_key_by_hash(&second.hash).await.unwrap(), None);
    assert_eq!(store.api_key(second.id).await.unwrap(), None);
    add_key(&*store, &sample::key(&user, "Laptop")).await;
    add_key(&*store, &sample::key(&other, "laptop")).await;
}

pub async fn name_of_a_dead_key_is_free(d: &mut dyn Deployment) {
    let store = d.store();
    let user = alice(&*store).await;
    let old = sample::key(&user, "laptop");
    add_key(&*store, &old).await;
    let ended = user.changed(|user| user.end_keys());
    assert_eq!(store.update_user(&user, &ended).await.unwrap(), UpdateUser::Updated);
    let new = sample::key(&ended, "laptop");
    add_key(&*store, &new).await;
    assert_eq!(store.api_key(new.id).await.unwrap(), Some(new.clone()));
    let live: Vec<_> = store.list_api_keys(user.id, None, 10).await.unwrap().items;
    let live: Vec<_> = live.into_iter().map(|(key, _)| key).filter(|key| key.of_live_epoch(&ended)).collect();
    assert_eq!(live, [new]);

    assert_eq!(store.delete_api_key(&live[0]).await.unwrap(), DeleteApiKey::Deleted);
    add_key(&*store, &sample::key(&ended, "laptop")).await;
}

pub async fn insert_key_beyond_the_limit_is_refused(d: &mut dyn Deployment) {
    let store = d.store();
    let user = alice(&*store).await;
    let keys: Vec<_> = (0..MAX_KEYS_PER_USER).map(|i| sample::key(&user, &format!("key {i}"))).collect();
    for key in &keys {
        add_key(&*store, key).await;
    }
    let more = sample::key(&user, "one more");
    assert_eq!(store.insert_api_key(&more).await.unwrap(), InsertApiKey::TooMany);
    assert_eq!(store.api_key_by_hash(&more.hash).await.unwrap(), None);
    assert_eq!(store.insert_api_key(&sample::key(&user, "key 7")).await.unwrap(), InsertApiKey::NameTaken);

    assert_eq!(store.delete_api_key(&keys[0]).await.unwrap(), DeleteApiKey::Deleted);
    add_key(&*store, &more).await;
    // Dead keys do not count.
    let ended = user.changed(|user| user.end_keys());
    assert_eq!(store.update_user(&user, &ended).await.unwrap(), UpdateUser::Updated);
    add_key(&*store, &sample::key(&ended, "key 0")).await;
}

pub async fn insert_key_with_a_taken_hash_is_refused(d: &mut dyn Deployment) {
    let store = d.store();
    let user = alice(&*store).await;
    let key = sample::key(&user, "laptop");
    add_key(&*store, &key).await;
    let same_text = ApiKey { hash: key.hash, ..sample::key(&user, "another") };
    assert_eq!(store.insert_api_key(&same_text).await.unwrap(), InsertApiKey::HashTaken);
    assert_eq!(store.api_key_by_hash(&key.hash).await.unwrap(), Some(key));
    assert_eq!(store.api_key(same_text.id).await.unwrap(), None);
}

pub async fn key_born_dead_never_lives(d: &mut dyn Deployment) {
    let store = d.store();
    let user = alice(&*store).await;
    let ended = user.changed(|user| user.end_keys());
    assert_eq!(store.update_user(&user, &ended).await.unwrap(), UpdateUser::Updated);
    // Its caller saw the user before the keys were ended.
    let late = sample::key(&user, "late");
    assert_eq!(store.insert_api_key(&late).await.unwrap(), InsertApiKey::Inserted);
    let found = store.api_key_by_hash(&late.hash).await.unwrap();
    assert!(found.is_none_or(|key| !key.of_live_epoch(&ended)));
    add_key(&*store, &sample::key(&ended, "late")).await;

    let nobody = sample::user("nobody", &sample::workspace("acme"));
    let orphan = sample::key(&nobody, "orphan");
    assert_eq!(store.insert_api_key(&orphan).await.unwrap(), InsertApiKey::Inserted);
    assert_eq!(store.user(nobody.id, iam_svc::store::Read::Serial).await.unwrap(), None, "no owner, no life");
}

pub async fn deleted_key_is_gone_and_deleting_it_again_says_absent(d: &mut dyn Deployment) {
    let store = d.store();
    let user = alice(&*store).await;
    let (key, other) = (sample::key(&user, "laptop"), sample::key(&user, "server"));
    add_key(&*store, &key).await;
    add_key(&*store, &other).await;
    assert_eq!(store.delete_api_key(&key).await.unwrap(), DeleteApiKey::Deleted);
    assert_eq!(store.delete_api_key(&key).await.unwrap(), DeleteApiKey::Absent);
    assert_eq!(store.api_key_by_hash(&key.hash).await.unwrap(), None);
    assert_eq!(store.api_key(key.id).await.unwrap(), None);
    let listed = store.list_api_keys(user.id, None, 10).await.unwrap();
    assert_eq!(listed.items, [(other, None)]);
}

pub async fn list_keys_shows_every_key_once_with_its_use(d: &mut dyn Deployment) {
    let store = d.store();
    let user = alice(&*store).await;
    let other = sample::user("bob", &sample::workspace("acme"));
    add_user(&*store, &other).await;
    add_key(&*store, &sample::key(&other, "not listed")).await;
    let mut expected = Vec::new();
    let mut used = Vec::new();
    for i in 0..11 {
        let key = sample::key(&user, &format!("key {i}"));
        add_key(&*store, &key).await;
        let at = (i % 3 == 0).then(|| later(i));
        used.extend(at.map(|at| (user.id, key.id, at)));
        expected.push((key, at));
    }
    store.touch_api_keys(&used).await.unwrap();
    expected.sort_by_key(|(key, _)| key.id);
    for limit in [1, 4, 11, 12] {
        let mut found = Vec::new();
        let mut after = None;
        loop {
            let page = store.list_api_keys(user.id, after, limit).await.unwrap();
            assert!(page.items.len() <= limit);
            found.extend(page.items);
            let Some(next) = page.next else { break };
            after = Some(next);
        }
        found.sort_by_key(|(key, _)| key.id);
        assert_eq!(found, expected, "pages of {limit}");
    }
    let (key, _) = &expected[0];
    store.touch_api_keys(&[(user.id, key.id, later(99))]).await.unwrap();
    let page = store.list_api_keys(user.id, None, 100).await.unwrap();
    assert!(page.items.contains(&(key.clone(), Some(later(99)))));
}

pub async fn use_of_a_key_that_is_gone_is_harmless(d: &mut dyn Deployment) {
    let store = d.store();
    let user = alice(&*store).await;
    let key = sample::key(&user, "laptop");
    store.touch_api_keys(&[]).await.unwrap();
    store
        .touch_api_keys(&[(user.id, key.id, later(1)), (sample::user_id(), key.id, later(1))])
        .await
        .unwrap();
    assert_eq!(store.list_api_keys(user.id, None, 10).await.unwrap().items, []);
}
