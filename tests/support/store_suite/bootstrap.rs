//! The seeding of an empty deployment.

use iam_svc::store::{Read, SeedState, Seeded};

use super::{Deployment, later, root_admins};
use crate::sample::{self, NOW};

pub async fn seed_makes_everything_once(d: &mut dyn Deployment) {
    let store = d.store();
    assert_eq!(store.seed_state().await.unwrap(), SeedState::Empty);
    let seed = sample::seed();
    assert_eq!(store.seed(&seed, NOW).await.unwrap(), Seeded::Seeded(seed.admin.id));
    assert_eq!(store.seed_state().await.unwrap(), SeedState::Done);
    assert_eq!(
        store.workspace(&seed.workspace.id, Read::Ordinary).await.unwrap(),
        Some(seed.workspace.clone())
    );
    assert_eq!(store.user(seed.admin.id, Read::Ordinary).await.unwrap(), Some(seed.admin.clone()));
    assert_eq!(store.user_by_name(&sample::name_key("Admin")).await.unwrap(), Some(seed.admin.clone()));
    assert_eq!(store.api_key_by_hash(&seed.key.hash).await.unwrap(), Some(seed.key.clone()));
    assert_eq!(store.key_ring().await.unwrap(), Some(seed.ring.clone()));

    for second in [&seed, &sample::seed()] {
        assert_eq!(store.seed(second, later(3_600_000)).await.unwrap(), Seeded::AlreadyDone);
    }
    assert_eq!(store.list_users(None, None, 10).await.unwrap().items, [seed.admin]);
    assert_eq!(store.key_ring().await.unwrap(), Some(seed.ring));
    assert_eq!(root_admins(&*store).await, 1);
}

pub async fn seeded_store_stays_seeded(d: &mut dyn Deployment) {
    let seed = sample::seed();
    assert_eq!(d.store().seed(&seed, NOW).await.unwrap(), Seeded::Seeded(seed.admin.id));
    d.reopen().await;
    let store = d.store();
    assert_eq!(store.seed_state().await.unwrap(), SeedState::Done);
    assert_eq!(store.seed(&sample::seed(), later(3_600_000)).await.unwrap(), Seeded::AlreadyDone);
    assert_eq!(store.api_key_by_hash(&seed.key.hash).await.unwrap(), Some(seed.key));
}

pub async fn ping_answers(d: &mut dyn Deployment) {
    d.store().ping().await.unwrap();
}
