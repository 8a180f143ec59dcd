//! A value read before an invalidation must not be cached after it.
//!
//! A fill draws a ticket before it reads, and its value is kept only if nothing was invalidated since. The check
//! and the insertion happen under one lock, as do the raising of the generation and the removal: otherwise a
//! stale value could slip in between them.

use super::sync::{Mutex, MutexGuard, PoisonError};

/// Generations are kept per shard, so that a busy writer spoils few fills. Under test there are few, so that every
/// interleaving can be tried.
const SHARDS: usize = if cfg!(test) { 2 } else { 64 };

/// The generations of all keys, by hash.
#[derive(Debug)]
pub struct Generation {
    shards: [Mutex<u64>; SHARDS],
}

/// A claim to have read after the last invalidation.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Ticket {
    hash: u64,
    generation: u64,
}

impl Default for Generation {
    fn default() -> Self {
        Self { shards: std::array::from_fn(|_| Mutex::new(0)) }
    }
}

impl Generation {
    #[expect(clippy::indexing_slicing, reason = "the remainder is below the number of shards")]
    fn lock(&self, hash: u64) -> MutexGuard<'_, u64> {
        lock(&self.shards[(hash % SHARDS as u64) as usize])
    }

    /// Draws a ticket; to be called before the read.
    pub fn begin(&self, hash: u64) -> Ticket {
        Ticket { hash, generation: *self.lock(hash) }
    }

    /// Runs `insert` if nothing was invalidated since the ticket was drawn; whether it ran.
    pub fn fill(&self, ticket: Ticket, insert: impl FnOnce()) -> bool {
        let generation = self.lock(ticket.hash);
        let valid = *generation == ticket.generation;
        if valid {
            insert();
        }
        valid
    }

    /// Whether nothing was invalidated since the ticket was drawn.
    pub fn still(&self, ticket: Ticket) -> bool {
        *self.lock(ticket.hash) == ticket.generation
    }

    /// Invalidates what has this hash; `remove` takes it out of the cache.
    pub fn invalidate(&self, hash: u64, remove: impl FnOnce()) {
        let mut generation = self.lock(hash);
        *generation += 1;
        remove();
    }

    /// Invalidates everything. A fill that began before finds its shard raised; one that began after reads
    /// what is true by then, and at worst `clear` takes it away again.
    pub fn invalidate_all(&self, clear: impl FnOnce()) {
        for shard in &self.shards {
            *lock(shard) += 1;
        }
        clear();
    }
}

fn lock(shard: &Mutex<u64>) -> MutexGuard<'_, u64> {
    shard.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use shuttle::scheduler::DfsScheduler;
    use shuttle::sync::atomic::{AtomicU64, Ordering};
    use shuttle::{Config, Runner, thread};

    use super::*;

    /// One thing: what is true of it, what is cached of it ([`NOTHING`] being less than any version), and up to which
    /// version the invalidation is over.
    #[derive(Default)]
    struct Thing {
        generation: Generation,
        truth: AtomicU64,
        cached: AtomicU64,
        invalidated: AtomicU64,
    }

    const HASH: u64 = 1;
    const NOTHING: u64 = 0;
    const ALL: Ordering = Ordering::SeqCst;

    impl Thing {
        fn shared() -> Arc<Self> {
            Arc::new(Self { truth: 1.into(), ..Self::default() })
        }

        /// As the cache fills; and whoever asked may use what was read as long as the ticket stands.
        fn fill(&self) -> (u64, Ticket) {
            let ticket = self.generation.begin(HASH);
            let read = self.truth.load(ALL);
            self.generation.fill(ticket, || self.cached.store(read, ALL));
            (read, ticket)
        }

        /// As the cache drops what changed: from then on nothing older is found, however late a fill ends.
        fn change(&self, version: u64, invalidate: Invalidate) {
            self.truth.fetch_max(version, ALL);
            invalidate(&self.generation, &|| self.cached.store(NOTHING, ALL));
            self.invalidated.fetch_max(version, ALL);
        }

        fn ask(&self) {
            let (read, ticket) = self.fill();
            let least = self.invalidated.load(ALL);
            let usable = self.generation.still(ticket);
            assert!(!usable || read >= least, "{read} is used after {least} was invalidated");
        }

        fn check(&self) {
            let least = self.invalidated.load(ALL);
            let cached = self.cached.load(ALL);
            assert!(cached == NOTHING || cached >= least, "{cached} is kept after {least} was invalidated");
        }
    }

    type Invalidate = fn(&Generation, &dyn Fn());
    const ONE: Invalidate = |generation, remove| generation.invalidate(HASH, remove);
    const EVERYTHING: Invalidate = |generation, clear| generation.invalidate_all(clear);

    /// What one thread does; all do it at once.
    type Part = fn(&Thing);

    fn together(parts: &'static [Part]) -> impl Fn() + Send + Sync + 'static {
        move || {
            let thing = Thing::shared();
            let started = parts.iter().map(|part| {
                let thing = thing.clone();
                thread::spawn(move || part(&thing))
            });
            started.collect::<Vec<_>>().into_iter().for_each(|thread| thread.join().unwrap());
            thing.check();
        }
    }

    /// Tries every interleaving; there must be more than a few.
    fn exhaust(parts: &'static [Part]) {
        let tried = Runner::new(DfsScheduler::new(None, false), Config::default()).run(together(parts));
        assert!(tried > 100, "{tried}");
    }

    /// Tries many of what would be too many interleavings.
    fn sample(parts: &'static [Part]) {
        shuttle::check_random(together(parts), 3_000);
        shuttle::check_pct(together(parts), 3_000, 3);
    }

    #[test]
    fn value_read_before_an_invalidation_is_never_kept_after_it() {
        fn fill(thing: &Thing) {
            thing.fill();
        }
        exhaust(&[fill, |thing| thing.change(2, ONE)]);
        exhaust(&[fill, |thing| thing.change(2, EVERYTHING)]);
        sample(&[
            fill,
            fill,
            |thing| thing.change(2, ONE),
            |thing| thing.change(3, EVERYTHING),
            Thing::check,
        ]);
    }

    #[test]
    fn value_read_before_an_invalidation_is_never_used_after_it() {
        sample(&[Thing::ask, Thing::ask, |thing| thing.change(2, ONE), |thing| thing.change(3, EVERYTHING)]);
    }

    #[test]
    fn value_is_kept_where_nothing_or_another_was_invalidated() {
        let check = || {
            let generation = Generation::default();
            let ticket = generation.begin(HASH);
            generation.invalidate(HASH + 1, || ());
            assert!(generation.still(ticket));
            let mut kept = false;
            assert!(generation.fill(ticket, || kept = true) && kept);
            generation.invalidate(HASH, || ());
            assert!(!generation.fill(ticket, || kept = false) && kept);
        };
        shuttle::check_dfs(check, None);
    }
}
