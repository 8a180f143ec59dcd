//! The ring of signing keys.

use iam_svc::store::{ReplaceKeyRing, Seeded};

use super::{Deployment, later};
use crate::sample::{self, NOW};

pub async fn ring_is_absent_before_the_seeding_and_cannot_be_replaced(d: &mut dyn Deployment) {
    let store = d.store();
    assert_eq!(store.key_ring().await.unwrap(), None);
    let rotated = sample::ring().rotated(sample::fresh_key(), later(1), NOW).unwrap();
    assert_eq!(store.replace_key_ring(&rotated).await.unwrap(), ReplaceKeyRing::LostRace);
    assert_eq!(store.replace_key_ring(&sample::ring()).await.unwrap(), ReplaceKeyRing::LostRace);
    assert_eq!(store.key_ring().await.unwrap(), None);
}

pub async fn replace_ring_takes_exactly_the_next_version(d: &mut dyn Deployment) {
    let store = d.store();
    let seed = sample::seed();
    assert_eq!(store.seed(&seed, NOW).await.unwrap(), Seeded::Seeded(seed.admin.id));
    assert_eq!(store.key_ring().await.unwrap(), Some(seed.ring.clone()));

    let second = seed.ring.rotated(sample::fresh_key(), later(5), NOW).unwrap();
    let rival = seed.ring.rotated(sample::fresh_key(), later(6), NOW).unwrap();
    assert_eq!(store.replace_key_ring(&second).await.unwrap(), ReplaceKeyRing::Replaced);
    assert_eq!(store.replace_key_ring(&rival).await.unwrap(), ReplaceKeyRing::LostRace);
    assert_eq!(store.replace_key_ring(&second).await.unwrap(), ReplaceKeyRing::LostRace);
    let third = second.rotated(sample::fresh_key(), later(7), NOW).unwrap();
    let fourth = third.rotated(sample::fresh_key(), later(8), NOW).unwrap();
    assert_eq!(store.replace_key_ring(&fourth).await.unwrap(), ReplaceKeyRing::LostRace, "one was skipped");
    assert_eq!(store.replace_key_ring(&third).await.unwrap(), ReplaceKeyRing::Replaced);
    assert_eq!(store.key_ring().await.unwrap(), Some(third));
}
