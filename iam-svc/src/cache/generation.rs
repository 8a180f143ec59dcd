//! A value read before an invalidation must not be cached after it.
//!
//! A fill draws a ticket before it reads, and its value is kept only if nothing was invalidated since. The check
//! and the insertion happen under one lock, as do the raising of the generation and the removal: otherwise a
//! stale value could slip in between them.

use std::sync::{Mutex, MutexGuard, PoisonError};

/// Generations are kept per shard, so that a busy writer spoils few fills.
const SHARDS: usize = 64;

/// The generations of all keys, by hash.
#[derive(Debug)]
pub struct Generation {
    shards: [Mutex<u64>; SHARDS],
}

/// A claim to have read after the last invalidation.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Ticket {
    shard: usize,
    generation: u64,
}

impl Default for Generation {
    fn default() -> Self {
        Self { shards: std::array::from_fn(|_| Mutex::new(0)) }
    }
}

impl Generation {
    #[expect(clippy::indexing_slicing, reason = "the remainder is below the number of shards")]
    fn lock(&self, shard: usize) -> MutexGuard<'_, u64> {
        self.shards[shard % SHARDS].lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn shard(hash: u64) -> usize {
        (hash % SHARDS as u64) as usize
    }

    /// Draws a ticket; to be called before the read.
    pub fn begin(&self, hash: u64) -> Ticket {
        let shard = Self::shard(hash);
        Ticket { shard, generation: *self.lock(shard) }
    }

    /// Runs `insert` if nothing was invalidated since the ticket was drawn; whether it ran.
    pub fn fill(&self, ticket: Ticket, insert: impl FnOnce()) -> bool {
        let generation = self.lock(ticket.shard);
        let valid = *generation == ticket.generation;
        if valid {
            insert();
        }
        valid
    }

    /// Whether nothing was invalidated since the ticket was drawn.
    pub fn still(&self, ticket: Ticket) -> bool {
        *self.lock(ticket.shard) == ticket.generation
    }

    /// Invalidates what has this hash; `remove` takes it out of the cache.
    pub fn invalidate(&self, hash: u64, remove: impl FnOnce()) {
        let mut generation = self.lock(Self::shard(hash));
        *generation += 1;
        remove();
    }

    /// Invalidates everything. A fill that began before finds its shard raised; one that began after reads
    /// what is true by then, and at worst `clear` takes it away again.
    pub fn invalidate_all(&self, clear: impl FnOnce()) {
        for shard in 0..SHARDS {
            *self.lock(shard) += 1;
        }
        clear();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn value_read_before_an_invalidation_is_not_kept() {
        let generation = Generation::default();
        let ticket = generation.begin(7);
        generation.invalidate(7, || ());
        assert!(!generation.fill(ticket, || panic!("kept")));

        let ticket = generation.begin(7);
        generation.invalidate(8, || ());
        assert!(generation.fill(ticket, || ()), "another shard is not disturbed");

        let ticket = generation.begin(7);
        generation.invalidate_all(|| ());
        assert!(!generation.still(ticket) && !generation.fill(ticket, || panic!("kept")));
    }
}
