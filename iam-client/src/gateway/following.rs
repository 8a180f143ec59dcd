//! Following the changes: what ends, and whether memory is to be trusted.
//!
//! Source: protocol section 8.

use std::sync::atomic::Ordering;
use std::sync::{MutexGuard, PoisonError};

use iam_schema::changes::{ChangeEvent, ChangeKind, Follower, SILENCE_MS};
use iam_schema::codec;

use super::Shared;
use super::bus::Hears;

/// For how long answers are remembered only shortly after everything was dropped, in milliseconds: what this gateway
/// missed a replica may have missed as well, and may notice so much later. No version is known then that could be asked
/// for.
const DOUBT_MS: i64 = SILENCE_MS;
/// How long they are remembered then.
const DOUBTED_MS: i64 = 500;

impl Shared {
    pub(super) fn follower(&self) -> MutexGuard<'_, Follower> {
        self.follower.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Whether what is in memory may be used: nothing was missed so far as can be known.
    pub(super) fn trusts(&self, now_ms: i64) -> bool {
        if now_ms >= self.silent_ms.load(Ordering::Acquire) {
            self.tick(now_ms);
        }
        self.settled.load(Ordering::Acquire)
            && self.connections.load(Ordering::Acquire) == self.bus.connections()
    }

    /// Drops everything if an instance fell silent.
    fn tick(&self, now_ms: i64) {
        let mut follower = self.follower();
        if follower.tick(now_ms) {
            self.forget(now_ms);
        }
        self.silent_ms.store(follower.silent_from().unwrap_or(i64::MAX), Ordering::Release);
    }

    /// Something was missed, and nobody knows what.
    fn forget(&self, now_ms: i64) {
        self.doubt_ms.store(now_ms + DOUBT_MS, Ordering::Release);
        self.memory.forget();
        self.keys.forget();
    }

    /// Until when an answer is good at most that was asked for at this time, in milliseconds of the monotonic clock.
    pub(super) fn until_ms(&self, asked_ms: i64, lives_ms: i64) -> i64 {
        let doubted = asked_ms < self.doubt_ms.load(Ordering::Acquire);
        asked_ms.saturating_add(if doubted { lives_ms.min(DOUBTED_MS) } else { lives_ms })
    }

    /// Trusts the memory again once every known instance has shown that nothing was missed.
    fn settle(&self, follower: &Follower) {
        if follower.instances() > 0 && follower.settled() {
            self.settled.store(true, Ordering::Release);
        }
    }
}

impl Hears for Shared {
    fn event(&self, payload: &[u8]) {
        // One that cannot be read leaves a gap, and the next heartbeat shows it.
        let Ok(event) = codec::decode::<ChangeEvent>(payload) else { return };
        let now_ms = self.clock.monotonic_ms();
        let mut follower = self.follower();
        // Whoever was silent for too long before this event was gone meanwhile.
        if follower.tick(now_ms) {
            self.forget(now_ms);
        }
        let followed = follower.event(&event, now_ms);
        self.memory.changed(&followed.drop, now_ms);
        for change in followed.drop.iter().filter(|change| change.kind == ChangeKind::SigningKey) {
            self.keys.changed(&change.id);
        }
        if followed.drop_all || followed.drop.iter().any(|change| change.kind == ChangeKind::Unknown) {
            self.forget(now_ms);
        }
        self.silent_ms.store(follower.silent_from().unwrap_or(i64::MAX), Ordering::Release);
        self.settle(&follower);
        drop(follower);
        self.changed.notify_waiters();
    }

    fn looked(&self, connections: u64) {
        if self.connections.load(Ordering::Acquire) == connections {
            return;
        }
        let mut follower = self.follower();
        follower.reconnected();
        self.settled.store(false, Ordering::Release);
        self.connections.store(connections, Ordering::Release);
        if follower.instances() == 0 {
            // Nobody is left whose heartbeat could show that nothing was missed.
            self.forget(self.clock.monotonic_ms());
        }
    }
}
