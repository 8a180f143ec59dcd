//! Passwords: the stored form, and the threads that hash and verify.

use std::collections::VecDeque;
use std::fmt;
use std::hint::black_box;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::slice;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread::{Builder, JoinHandle};

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use iam_schema::Secret;
use sha2::block_api::compress256;
use sha2::{Digest, Sha256};
use subtle::ConstantTimeEq;
use tokio::sync::oneshot;
use zeroize::Zeroizing;

use crate::domain::passwords::PasswordHash;

/// Iterations of a new hash. Source: protocol section 5.
pub const ROUNDS: u32 = 600_000;
/// The most iterations that are believed of a stored hash: a thread is busy with them for a second and a half.
pub const MAX_ROUNDS: u32 = 10_000_000;
/// Bytes of a salt. Source: protocol section 5.
pub const SALT: usize = 16;
/// Jobs that may wait for each thread: at some 80 ms a hash the last one waits for two and a half seconds, about
/// as long as a caller does; a longer queue would only compute what nobody waits for.
pub const QUEUE_PER_THREAD: usize = 32;
/// The part of a password that its strength is measured by, in characters: measuring takes time that grows with
/// the square of the length, 50 ms for 100 random ones.
const MEASURED: usize = 72;

const SCHEME: &str = "pbkdf2-sha256";
/// Bytes of the hash. Source: protocol section 5.
const HASH: usize = 32;

/// What a verification says.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Verdict {
    /// The password is the one; `needs_rehash` where it was hashed with fewer rounds than a new one would be.
    Match { needs_rehash: bool },
    /// It is another, or there is none.
    Mismatch,
    /// What is stored is no hash of ours: a damaged store.
    Malformed,
}

/// A stored hash, read.
pub struct Stored {
    rounds: u32,
    salt: Vec<u8>,
    hash: [u8; HASH],
}

impl Stored {
    /// Reads `pbkdf2-sha256$<iterations>$<salt>$<hash>`: iterations of 1 to 10,000,000 in plain digits, canonical
    /// base64 with padding, a salt that is not empty, a hash of exactly 32 bytes. `None` for anything else.
    pub fn parse(stored: &PasswordHash) -> Option<Self> {
        let mut parts = stored.expose().split('$');
        let (scheme, rounds, salt, hash) = (parts.next()?, parts.next()?, parts.next()?, parts.next()?);
        // `u32` would take a sign.
        let plain = rounds.bytes().all(|b| b.is_ascii_digit()) && !rounds.starts_with('0');
        let rounds = rounds.parse().ok().filter(|rounds| plain && (1..=MAX_ROUNDS).contains(rounds))?;
        let salt = STANDARD.decode(salt).ok().filter(|salt| !salt.is_empty())?;
        let hash = STANDARD.decode(hash).ok()?.try_into().ok()?;
        (scheme == SCHEME && parts.next().is_none()).then_some(Self { rounds, salt, hash })
    }

    /// What an unknown user's password is verified against: it costs what a known one's does and fits nothing.
    fn nobody(rounds: u32) -> Self {
        Self { rounds, salt: vec![0; SALT], hash: [0; HASH] }
    }

    /// Whether a new hash would cost more rounds than this one.
    pub fn needs_rehash(&self, rounds: u32) -> bool {
        self.rounds < rounds
    }

    /// Whether this is the hash of that password, compared in constant time.
    pub fn matches(&self, password: &Secret) -> bool {
        derive(password, &self.salt, self.rounds).ct_eq(&self.hash).into()
    }
}

impl fmt::Debug for Stored {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Stored").field("rounds", &self.rounds).finish_non_exhaustive()
    }
}

/// Hashes a password; with [`ROUNDS`], some 80 ms of computing.
pub fn hash(password: &Secret, salt: &[u8; SALT], rounds: u32) -> PasswordHash {
    let hash = derive(password, salt, rounds);
    let (salt, hash) = (STANDARD.encode(salt), STANDARD.encode(hash.as_slice()));
    PasswordHash::from_stored(format!("{SCHEME}${rounds}${salt}${hash}"))
}

/// Verifies a password against what is stored, `None` for a user who is unknown or has no password.
///
/// It computes at least `rounds` rounds whatever is stored, so that the time taken says neither whether the user
/// exists nor how old the hash is.
pub fn verify(password: &Secret, stored: Option<&PasswordHash>, rounds: u32) -> Verdict {
    let read = stored.and_then(Stored::parse);
    let known = read.is_some();
    let against = read.unwrap_or_else(|| Stored::nobody(rounds));
    let same = against.matches(password);
    if let Some(missing @ 1..) = rounds.checked_sub(against.rounds) {
        black_box(derive(password, &against.salt, missing));
    }
    match stored {
        Some(_) if !known => Verdict::Malformed,
        Some(_) if same => Verdict::Match { needs_rehash: against.needs_rehash(rounds) },
        _ => Verdict::Mismatch,
    }
}

/// PBKDF2 with HMAC-SHA-256, for one block of output.
///
/// Written out on top of the compression function: a fifth faster than generic code, which hashes the padding of
/// a message whose length is always the same anew in each round, and fast in a debug build too, where generic code
/// is not optimised. The `pbkdf2` crate judges it in the tests.
///
/// Source: RFC 8018 section 5.2, RFC 2104 section 2, FIPS 180-4 sections 5.1.1 and 5.3.3.
fn derive(password: &Secret, salt: &[u8], rounds: u32) -> Zeroizing<[u8; HASH]> {
    const START: [u32; 8] =
        [0x6a09e667, 0xbb67ae85, 0x3c6ef372, 0xa54ff53a, 0x510e527f, 0x9b05688c, 0x1f83d9ab, 0x5be0cd19];
    let password = password.expose().as_bytes();
    let hashed: Zeroizing<[u8; HASH]> = Zeroizing::new(Sha256::digest(password).into());
    let key = if password.len() <= 64 { password } else { hashed.as_slice() };
    // The key, padded, as it opens the inner and the outer hash; and the states after it.
    let keyed = |pad: u8| {
        let mut block = Zeroizing::new([pad; 64]);
        block.iter_mut().zip(key).for_each(|(b, k)| *b ^= k);
        let mut state = Zeroizing::new(START);
        compress256(&mut state, slice::from_ref(&block));
        (block, state)
    };
    let (inner_key, inner) = keyed(0x36);
    let (outer_key, outer) = keyed(0x5c);

    let salted = Sha256::new_with_prefix(*inner_key).chain_update(salt).chain_update(1_u32.to_be_bytes());
    let first = Sha256::new_with_prefix(*outer_key).chain_update(salted.finalize()).finalize();

    // Every later message is one block: 32 bytes, the end mark, and its length of 96 bytes with the key's block.
    let mut block = Zeroizing::new([0; 64]);
    let (message, padding) = block.split_at_mut(HASH);
    message.copy_from_slice(&first);
    padding.copy_from_slice(&PADDING);
    let mut output = Zeroizing::new([0; HASH]);
    output.copy_from_slice(&first);
    let (mut state, mut sum) = (Zeroizing::new([0; 8]), Zeroizing::new([0; 8]));
    for _ in 1..rounds {
        *state = *inner;
        compress256(&mut state, slice::from_ref(&block));
        write_words(&mut block, &state);
        *state = *outer;
        compress256(&mut state, slice::from_ref(&block));
        write_words(&mut block, &state);
        sum.iter_mut().zip(state.iter()).for_each(|(sum, word)| *sum ^= word);
    }
    let sum = sum.iter().flat_map(|word| word.to_be_bytes());
    output.iter_mut().zip(sum).for_each(|(output, sum)| *output ^= sum);
    output
}

/// Writes a state over the first 32 bytes of a block.
fn write_words(block: &mut [u8; 64], state: &[u32; 8]) {
    let (words, _) = block.as_chunks_mut();
    for (place, word) in words.iter_mut().zip(state) {
        *place = word.to_be_bytes();
    }
}

/// What follows a message of 32 bytes after a block of key.
const PADDING: [u8; 32] = {
    let mut padding = [0; 32];
    padding[0] = 0x80;
    [padding[30], padding[31]] = (96_u16 * 8).to_be_bytes();
    padding
};

/// How hard a password is to guess, from 0 to 4, for somebody who knows username and email.
///
/// Source: protocol section 5; Wheeler, "zxcvbn: Low-Budget Password Strength Estimation".
pub fn strength(password: &Secret, username: &str, email: &str) -> u8 {
    let text = password.expose();
    let end = text.char_indices().nth(MEASURED).map_or(text.len(), |(at, _)| at);
    let local_part = email.split('@').next().unwrap_or_default();
    zxcvbn::zxcvbn(text.get(..end).unwrap_or(text), &[username, email, local_part]).score().into()
}

/// The threads that compute on passwords. They yield to everything else on the machine, so that a flood of logins
/// slows down logins alone, and what they cannot get to soon is refused at once.
pub struct HashPool {
    shared: Arc<Shared>,
    threads: Vec<JoinHandle<()>>,
    rounds: u32,
}

/// The queue is full, or the job was lost: nothing was computed and nothing is decided.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("too many passwords are waiting to be hashed")]
pub struct PoolBusy;

type Job = Box<dyn FnOnce() + Send>;

struct Shared {
    queue: Mutex<Queue>,
    wake: Condvar,
    begun: AtomicU64,
}

struct Queue {
    jobs: VecDeque<Job>,
    capacity: usize,
    closed: bool,
}

impl HashPool {
    /// Starts so many threads, at least one.
    ///
    /// # Errors
    /// The operating system starts no more threads.
    pub fn new(threads: usize) -> std::io::Result<Self> {
        Self::with_rounds(threads, ROUNDS)
    }

    /// As [`HashPool::new`], with another cost of new hashes, for tests: a hash of [`ROUNDS`] in every scenario
    /// would be most of their time.
    ///
    /// # Errors
    /// As [`HashPool::new`].
    pub fn with_rounds(threads: usize, rounds: u32) -> std::io::Result<Self> {
        let threads = threads.max(1);
        let queue = Queue { jobs: VecDeque::new(), capacity: threads * QUEUE_PER_THREAD, closed: false };
        let shared =
            Arc::new(Shared { queue: Mutex::new(queue), wake: Condvar::new(), begun: AtomicU64::new(0) });
        // Built before the threads are, so that those already there are ended if one cannot be started.
        let mut pool = Self { shared, threads: Vec::new(), rounds: rounds.clamp(1, MAX_ROUNDS) };
        for n in 0..threads {
            let shared = Arc::clone(&pool.shared);
            let thread = Builder::new().name(format!("iam-hash-{n}")).spawn(move || shared.work())?;
            pool.threads.push(thread);
        }
        Ok(pool)
    }

    /// Hashes a new password.
    ///
    /// # Errors
    /// `PoolBusy`.
    #[tracing::instrument(name = "password.hash", level = "debug", skip_all)]
    pub async fn hash(&self, salt: [u8; SALT], password: Secret) -> Result<PasswordHash, PoolBusy> {
        let rounds = self.rounds;
        self.run(move || hash(&password, &salt, rounds)).await
    }

    /// Verifies a password, see [`verify`].
    ///
    /// # Errors
    /// `PoolBusy`.
    #[tracing::instrument(name = "password.verify", level = "debug", skip_all)]
    pub async fn verify(&self, password: Secret, stored: Option<PasswordHash>) -> Result<Verdict, PoolBusy> {
        let rounds = self.rounds;
        self.run(move || verify(&password, stored.as_ref(), rounds)).await
    }

    /// Measures a new password, see [`strength`].
    ///
    /// # Errors
    /// `PoolBusy`.
    #[tracing::instrument(name = "password.strength", level = "debug", skip_all)]
    pub async fn strength(&self, password: Secret, username: &str, email: &str) -> Result<u8, PoolBusy> {
        let (username, email) = (username.to_owned(), email.to_owned());
        self.run(move || strength(&password, &username, &email)).await
    }

    /// Jobs that wait, for a gauge.
    pub fn waiting(&self) -> usize {
        self.shared.lock().jobs.len()
    }

    /// Jobs begun so far, for a counter.
    pub fn begun(&self) -> u64 {
        self.shared.begun.load(Ordering::Relaxed)
    }

    async fn run<T: Send + 'static>(&self, work: impl FnOnce() -> T + Send + 'static) -> Result<T, PoolBusy> {
        let (reply, answer) = oneshot::channel();
        let job = move || {
            // Whoever asked may have gone away while the job waited.
            if !reply.is_closed() {
                let _ = reply.send(work());
            }
        };
        self.shared.push(Box::new(job))?;
        // A job that panicked drops its end.
        answer.await.map_err(|_| PoolBusy)
    }
}

impl fmt::Debug for HashPool {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let threads = self.threads.len();
        f.debug_struct("HashPool")
            .field("threads", &threads)
            .field("rounds", &self.rounds)
            .finish_non_exhaustive()
    }
}

impl Drop for HashPool {
    /// Ends the threads, each after the job that it is at; what waits is dropped.
    fn drop(&mut self) {
        self.shared.lock().closed = true;
        self.shared.wake.notify_all();
        for thread in self.threads.drain(..) {
            let _ = thread.join();
        }
    }
}

impl Shared {
    /// The queue; no job runs under its lock, so no panic leaves it half changed.
    fn lock(&self) -> MutexGuard<'_, Queue> {
        self.queue.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn push(&self, job: Job) -> Result<(), PoolBusy> {
        let mut queue = self.lock();
        if queue.jobs.len() >= queue.capacity {
            return Err(PoolBusy);
        }
        queue.jobs.push_back(job);
        drop(queue);
        self.wake.notify_one();
        Ok(())
    }

    /// The next job, waiting for one; `None` at the end.
    fn pop(&self) -> Option<Job> {
        let mut queue = self.lock();
        loop {
            if queue.closed {
                return None;
            }
            if let Some(job) = queue.jobs.pop_front() {
                return Some(job);
            }
            queue = self.wake.wait(queue).unwrap_or_else(PoisonError::into_inner);
        }
    }

    fn work(&self) {
        lower_priority();
        while let Some(job) = self.pop() {
            self.begun.fetch_add(1, Ordering::Relaxed);
            // A job that panics fails its caller alone; the panic hook has told the log.
            let _ = catch_unwind(AssertUnwindSafe(job));
        }
    }
}

/// Makes the calling thread yield to all others. Only Linux has a priority for each thread; elsewhere the call
/// would slow the whole process down.
fn lower_priority() {
    #[cfg(target_os = "linux")]
    let _ = rustix::process::setpriority_process(None, 19);
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::AtomicUsize;
    use std::sync::mpsc;
    use std::time::Instant;

    use super::*;

    fn secret(text: &str) -> Secret {
        Secret::new(text)
    }

    #[test]
    fn hash_is_verified_by_its_password_alone() {
        let stored = hash(&secret("correct horse"), &[7; SALT], 10);
        assert!(stored.expose().starts_with("pbkdf2-sha256$10$BwcHBwcHBwcHBwcHBwcHBw==$"));
        let check = |password: &str, rounds| verify(&secret(password), Some(&stored), rounds);
        assert_eq!(check("correct horse", 10), Verdict::Match { needs_rehash: false });
        assert_eq!(check("correct horse", 11), Verdict::Match { needs_rehash: true });
        assert_eq!(check("correct horse", 9), Verdict::Match { needs_rehash: false });
        assert_eq!(check("correct horse ", 10), Verdict::Mismatch);
        assert_eq!(verify(&secret("correct horse"), None, 10), Verdict::Mismatch);
        let damaged = PasswordHash::from_stored("x".to_owned());
        assert_eq!(verify(&secret("x"), Some(&damaged), 10), Verdict::Malformed);
    }

    #[test]
    fn derivation_agrees_with_the_library() {
        let text: String = (0..200).map(|n| char::from(b' ' + n % 95)).collect();
        for len in [0, 1, 31, 32, 33, 54, 55, 56, 63, 64, 66, 99, 150, 180] {
            for rounds in [1, 2, 3, 100] {
                let (password, salt) = (&text[..len], &text.as_bytes()[..len + 1]);
                let expected = pbkdf2::pbkdf2_hmac_array::<Sha256, HASH>(password.as_bytes(), salt, rounds);
                assert_eq!(
                    *derive(&secret(password), salt, rounds),
                    expected,
                    "{len} bytes, {rounds} rounds"
                );
            }
        }
    }

    #[test]
    fn verification_takes_as_long_whatever_is_stored() {
        const COST: u32 = 5_000;
        let password = secret("correct horse");
        let usual = hash(&password, &[1; SALT], COST);
        let wrong = hash(&secret("other"), &[1; SALT], COST);
        let half = hash(&password, &[1; SALT], COST / 2);
        let old = hash(&password, &[1; SALT], 1);
        let damaged = PasswordHash::from_stored("damaged".to_owned());
        let stored = [Some(&usual), Some(&wrong), Some(&half), Some(&old), Some(&damaged), None];
        // The quickest of many, taken in turn: whatever else the machine does only adds to it.
        let mut quickest = [f64::INFINITY; 6];
        for _ in 0..25 {
            for (stored, quickest) in stored.iter().zip(&mut quickest) {
                let start = Instant::now();
                black_box(verify(&password, *stored, COST));
                *quickest = quickest.min(start.elapsed().as_secs_f64());
            }
        }
        let ratios = quickest.map(|took| took / quickest[0]);
        assert!(ratios.iter().all(|ratio| (0.7..1.4).contains(ratio)), "{ratios:?}");
    }

    #[test]
    fn strength_knows_the_user_and_reads_no_further_than_it_must() {
        let score = |password: &str| strength(&secret(password), "wolfgang.huber", "w.hub3r@example.org");
        assert!(score("password1") < 2);
        assert!(score("wolfgang.huber") < 2 && score("w.hub3r@example.org") < 2 && score("w.hub3r") < 2);
        assert!(strength(&secret("wolfgang.huber"), "x", "") >= 2);
        assert_eq!(score("correct horse battery staple"), 4);
        assert_eq!(score(""), 0);
        let repeated = "é".repeat(MEASURED);
        assert!(score(&format!("{repeated}Zk2#pq9!Wm4")) < 2, "what follows the measured part does not help");
    }

    #[tokio::test]
    async fn pool_hashes_and_verifies() {
        let pool = HashPool::with_rounds(2, 10).unwrap();
        let stored = pool.hash([1; SALT], secret("correct horse")).await.unwrap();
        let verify = |password: &str| pool.verify(secret(password), Some(stored.clone()));
        assert_eq!(verify("correct horse").await, Ok(Verdict::Match { needs_rehash: false }));
        assert_eq!(verify("another").await, Ok(Verdict::Mismatch));
        assert_eq!(pool.strength(secret("password1"), "", "").await, Ok(0));
        assert_eq!(format!("{pool:?}"), "HashPool { threads: 2, rounds: 10, .. }");
    }

    /// A pool of one thread that is busy until the sender is used or dropped.
    async fn busy_pool() -> (Arc<HashPool>, mpsc::Sender<()>) {
        let pool = Arc::new(HashPool::with_rounds(1, 1).unwrap());
        let (go, wait) = mpsc::channel::<()>();
        let (started, begun) = oneshot::channel();
        let blocked = Arc::clone(&pool);
        tokio::spawn(async move {
            let work = move || {
                let _ = started.send(());
                let _ = wait.recv();
            };
            blocked.run(work).await
        });
        begun.await.unwrap();
        (pool, go)
    }

    #[tokio::test]
    async fn full_queue_refuses_at_once() {
        let (pool, go) = busy_pool().await;
        let mut waiting = Vec::new();
        for n in 0..QUEUE_PER_THREAD {
            let queued = Arc::clone(&pool);
            waiting.push(tokio::spawn(async move { queued.run(move || n).await }));
            tokio::task::yield_now().await;
        }
        assert_eq!(pool.waiting(), QUEUE_PER_THREAD);
        assert_eq!(pool.run(|| ()).await, Err(PoolBusy));
        drop(go);
        for (n, task) in waiting.into_iter().enumerate() {
            assert_eq!(task.await.unwrap(), Ok(n));
        }
        assert_eq!(pool.run(|| 1).await, Ok(1), "there is room again");
    }

    #[tokio::test]
    async fn job_whose_caller_went_away_is_skipped() {
        let (pool, go) = busy_pool().await;
        let ran = Arc::new(AtomicUsize::new(0));
        let (counted, queued) = (Arc::clone(&ran), Arc::clone(&pool));
        let task =
            tokio::spawn(async move { queued.run(move || counted.fetch_add(1, Ordering::SeqCst)).await });
        tokio::task::yield_now().await;
        assert_eq!(pool.waiting(), 1);
        task.abort();
        let _ = task.await;
        drop(go);
        assert_eq!(pool.run(|| 1).await, Ok(1));
        assert_eq!(ran.load(Ordering::SeqCst), 0);
    }

    #[tokio::test]
    async fn panic_fails_its_caller_and_no_other() {
        let pool = HashPool::with_rounds(1, 1).unwrap();
        for _ in 0..3 {
            let failed: Result<(), PoolBusy> = pool.run(|| panic!("on purpose")).await;
            assert_eq!(failed, Err(PoolBusy));
        }
        assert_eq!(pool.run(|| 1).await, Ok(1));
    }

    #[tokio::test]
    async fn dropped_pool_ends_its_threads() {
        let pool = HashPool::with_rounds(3, 1).unwrap();
        let shared = Arc::downgrade(&pool.shared);
        drop(pool);
        assert!(shared.upgrade().is_none(), "no thread holds the queue any more");
    }

    #[cfg(target_os = "linux")]
    #[tokio::test]
    async fn pool_yields_and_the_rest_of_the_process_does_not() {
        let before = rustix::process::getpriority_process(None).unwrap();
        let pool = HashPool::with_rounds(1, 1).unwrap();
        let there = || {
            (
                rustix::process::getpriority_process(None).ok(),
                std::thread::current().name() == Some("iam-hash-0"),
            )
        };
        assert_eq!(pool.run(there).await, Ok((Some(19), true)));
        assert_eq!(rustix::process::getpriority_process(None).unwrap(), before);
    }
}
