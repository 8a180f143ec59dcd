//! Failed logins: how many guesses get through.
//!
//! An attempt takes its place in the budget before anything is hashed, so that guesses made at the same time
//! count; an attempt that succeeds gives it back. There is one budget for each submitted username, existing or
//! not, and one for each address. Part of each is kept for those who logged in lately with the same name from the
//! same address: whoever guesses at a name uses up the rest, and its owner still gets in.
//!
//! Why fewer than 100 failures get through in any hour, for a name as for an address: a bucket lets through its
//! capacity at most, and what flows back into it within the hour, together [`PER_HOUR`]. Over several replicas the
//! same holds for the sum, see `Share`, and from the moment at which they start, see `UNTIL_TOLD`. What is counted
//! here ends with the process: who sees a replica restart has its share once more. Replicas that cannot hear each
//! other count alone, each of them the whole of the budget.
//!
//! Why the memory is constant: the buckets stand in a table, and a name finds its own by a keyed hash. Two names
//! that share one share its budget, which can only make it stricter, and without the key nobody can look for
//! names that do. To make such sharing felt by everybody an attacker would have to keep 65,536 buckets empty,
//! that is to have some 1,000 passwords verified in each second for the 60 an hour that flow back into each
//! bucket; a core verifies twelve. A million names cost what one costs.

use std::fmt;
use std::net::{IpAddr, Ipv6Addr};
use std::sync::atomic::{AtomicI64, AtomicUsize, Ordering};
use std::sync::{Mutex, PoisonError};

use sha2::{Digest, Sha256};

/// What gets through within any hour for a name or an address, over all replicas together.
///
/// Source: the design's bound, fewer than 100.
pub const PER_HOUR: i64 = 90;
/// Failures in a row that a full budget allows, over all replicas together.
const BURST: i64 = 20;
/// Failures in a row that are kept for those who logged in lately, over all replicas together.
const RESERVE: i64 = 10;
/// For how long somebody counts as having logged in lately, in milliseconds.
const LATELY_MS: i64 = 24 * HOUR_MS;
const HOUR_MS: i64 = 3_600_000;
/// As one of how many a replica counts before it was told. Each of several that start together knows of itself
/// alone at first, and all of them together must not let through what each of them may alone. For so many the bound
/// holds from the start on; and whoever mistypes in the first seconds of a replica that stands alone waits a minute
/// where they would not have waited at all.
const UNTIL_TOLD: usize = 10;

/// Buckets for names, and as many for addresses, 8 bytes each: one for each value of 16 bits.
const BUCKETS: usize = 1 << 16;
/// Those who logged in lately are remembered in so many groups of four, 16 bytes each: the oldest of a group
/// makes room. Being forgotten costs them no more than the part of the budget that was kept for them.
const GROUPS: usize = 1 << 14;
const GROUP: usize = 4;

/// The budgets of failed logins.
pub struct Throttle {
    key: [u8; 32],
    instances: AtomicUsize,
    names: Buckets,
    addresses: Buckets,
    lately: Mutex<Box<[[Seen; GROUP]]>>,
}

/// The budget is used up.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Throttled;

/// The right to one attempt. Dropped, it stays used: the attempt has failed.
#[derive(Debug)]
#[must_use = "an attempt that succeeded must say so"]
pub struct Permit<'a> {
    throttle: &'a Throttle,
    name: Taken,
    address: Option<Taken>,
    pair: Option<Keyed>,
}

/// Who logged in, and when; a fingerprint of 0 is nobody.
#[derive(Debug, Clone, Copy, Default)]
struct Seen {
    fingerprint: u64,
    at_ms: i64,
}

/// The keyed hash of a name, an address or a pair.
#[derive(Debug, Clone, Copy)]
struct Keyed {
    place: usize,
    fingerprint: u64,
}

impl Throttle {
    /// All budgets begin full, and small until [`Throttle::set_instances`]. `key` is random and known to nobody, so
    /// that nobody can aim at a bucket.
    pub fn new(key: [u8; 32]) -> Self {
        Self {
            key,
            instances: AtomicUsize::new(UNTIL_TOLD),
            names: Buckets::new(),
            addresses: Buckets::new(),
            lately: Mutex::new(vec![[Seen::default(); GROUP]; GROUPS].into_boxed_slice()),
        }
    }

    /// Says how many replicas share the budgets, this one included; at least 1.
    pub fn set_instances(&self, instances: usize) {
        self.instances.store(instances.max(1), Ordering::Relaxed);
    }

    /// Takes the right to one attempt out of the budgets of the username, in any case, and of the address.
    ///
    /// `client_ip` is absent where it would be the caller's own claim. An IPv6 address stands for its network of
    /// 64 bits, since a single customer has all of that. `now_ms` never runs backwards.
    ///
    /// # Errors
    /// `Throttled`, when either budget is used up; nothing is taken then.
    pub fn reserve(
        &self,
        username: &str,
        client_ip: Option<&str>,
        now_ms: i64,
    ) -> Result<Permit<'_>, Throttled> {
        let share = Share::of(self.instances.load(Ordering::Relaxed));
        let username = username.to_ascii_lowercase();
        let network = client_ip.map(network);
        let pair = network.as_deref().map(|network| self.keyed(&["pair", &username, network]));
        let known = pair.is_some_and(|pair| self.logged_in_lately(pair, now_ms));
        let capacity = if known { share.burst + share.reserve } else { share.burst };

        let name = self.keyed(&["name", &username]).place;
        let name = self.names.take(name, capacity, share.refill_ms, now_ms).ok_or(Throttled)?;
        let address = match network {
            None => None,
            Some(network) => {
                let place = self.keyed(&["address", &network]).place;
                match self.addresses.take(place, capacity, share.refill_ms, now_ms) {
                    Some(taken) => Some(taken),
                    None => {
                        self.names.give_back(name, now_ms);
                        return Err(Throttled);
                    }
                }
            }
        };
        Ok(Permit { throttle: self, name, address, pair })
    }

    /// The hash of texts under our key; each goes in with its length, so that no two lists give one input.
    fn keyed(&self, texts: &[&str]) -> Keyed {
        let mut hash = Sha256::new_with_prefix(self.key);
        for text in texts {
            hash.update(text.len().to_be_bytes());
            hash.update(text);
        }
        let [p0, p1, f0, f1, f2, f3, f4, f5, f6, f7, ..]: [u8; 32] = hash.finalize().into();
        let fingerprint = u64::from_be_bytes([f0, f1, f2, f3, f4, f5, f6, f7]).max(1);
        Keyed { place: u16::from_be_bytes([p0, p1]).into(), fingerprint }
    }

    fn logged_in_lately(&self, pair: Keyed, now_ms: i64) -> bool {
        let lately = self.lately.lock().unwrap_or_else(PoisonError::into_inner);
        let group = lately.get(pair.place % GROUPS);
        group.into_iter().flatten().any(|seen| seen.is(pair) && now_ms - seen.at_ms < LATELY_MS)
    }

    fn note_login(&self, pair: Keyed, now_ms: i64) {
        let mut lately = self.lately.lock().unwrap_or_else(PoisonError::into_inner);
        let Some(group) = lately.get_mut(pair.place % GROUPS) else { return };
        // Its own old note, else a place that is free or was filled longest ago.
        let oldest = |seen: &&mut Seen| (!seen.is(pair), seen.fingerprint != 0, seen.at_ms);
        if let Some(seen) = group.iter_mut().min_by_key(oldest) {
            *seen = Seen { fingerprint: pair.fingerprint, at_ms: now_ms };
        }
    }
}

impl fmt::Debug for Throttle {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Throttle").field("instances", &self.instances).finish_non_exhaustive()
    }
}

impl Seen {
    fn is(&self, pair: Keyed) -> bool {
        self.fingerprint == pair.fingerprint
    }
}

impl Permit<'_> {
    /// The attempt succeeded: it costs nothing, and whoever made it counts as known for a day.
    pub fn succeeded(self, now_ms: i64) {
        if let Some(pair) = self.pair {
            self.throttle.note_login(pair, now_ms);
        }
        self.undecided(now_ms);
    }

    /// The attempt came to nothing, since the service could not tell: nobody learned anything, so it costs nothing.
    pub fn undecided(self, now_ms: i64) {
        self.throttle.names.give_back(self.name, now_ms);
        if let Some(address) = self.address {
            self.throttle.addresses.give_back(address, now_ms);
        }
    }
}

/// What one replica may let through, so that all together let through at most [`PER_HOUR`].
///
/// Each replica has room for one attempt at least, so the burst of many is their number, and what flows back is
/// the rest of the hour's budget. Beyond 40 replicas nothing is kept for anybody, and beyond 98 more than 99 get
/// through.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Share {
    burst: i64,
    reserve: i64,
    /// Milliseconds in which the place of one attempt flows back.
    refill_ms: i64,
}

impl Share {
    fn of(instances: usize) -> Self {
        // Held to what no deployment has, so that nothing below overflows.
        let instances = i64::try_from(instances.clamp(1, 1_000)).unwrap_or(1_000);
        let burst = (BURST / instances).max(1);
        let reserve = if instances <= 40 { (RESERVE / instances).max(1) } else { 0 };
        let refill_per_hour = (PER_HOUR - (burst + reserve) * instances).max(1);
        // Rounded up: no more may flow back in an hour.
        Self { burst, reserve, refill_ms: HOUR_MS * instances / refill_per_hour + 1 }
    }
}

/// Buckets that fill up by themselves. All that is kept of each is the time at which it will be full again.
///
/// Source: the generic cell rate algorithm, ITU-T I.371 annex A.
struct Buckets(Box<[AtomicI64]>);

/// A place that was taken in a bucket.
#[derive(Debug, Clone, Copy)]
struct Taken {
    bucket: usize,
    at_ms: i64,
    refill_ms: i64,
}

impl Buckets {
    fn new() -> Self {
        Self((0..BUCKETS).map(|_| AtomicI64::new(i64::MIN / 2)).collect())
    }

    /// Takes one place, if no more than `capacity` are taken then.
    fn take(&self, bucket: usize, capacity: i64, refill_ms: i64, now_ms: i64) -> Option<Taken> {
        let one_more = |full_ms: i64| {
            let full_ms = full_ms.max(now_ms) + refill_ms;
            (full_ms - now_ms <= capacity * refill_ms).then_some(full_ms)
        };
        let taken = self.0.get(bucket)?.fetch_update(Ordering::Relaxed, Ordering::Relaxed, one_more);
        taken.is_ok().then_some(Taken { bucket, at_ms: now_ms, refill_ms })
    }

    /// Gives a place back, unless it has flowed back by itself since: it must not come back twice.
    fn give_back(&self, taken: Taken, now_ms: i64) {
        if let Some(bucket) = self.0.get(taken.bucket)
            && now_ms - taken.at_ms < taken.refill_ms
        {
            bucket.fetch_sub(taken.refill_ms, Ordering::Relaxed);
        }
    }
}

/// The network that an address is counted under; a text that is no address is counted as it stands.
fn network(address: &str) -> String {
    match address.parse::<IpAddr>().map(|ip| ip.to_canonical()) {
        Ok(IpAddr::V4(ip)) => ip.to_string(),
        Ok(IpAddr::V6(ip)) => Ipv6Addr::from_bits(ip.to_bits() & !u128::from(u64::MAX)).to_string(),
        Err(_) => address.to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const A: Option<&str> = Some("192.0.2.1");
    const B: Option<&str> = Some("198.51.100.7");

    fn throttle(instances: usize) -> Throttle {
        let throttle = Throttle::new([7; 32]);
        throttle.set_instances(instances);
        throttle
    }

    /// Fails to log in until refused; how often it got through.
    fn failures(throttle: &Throttle, name: &str, ip: Option<&str>, now_ms: i64) -> i64 {
        let attempts = std::iter::from_fn(|| throttle.reserve(name, ip, now_ms).ok().map(drop));
        i64::try_from(attempts.take(1_000).count()).unwrap()
    }

    fn log_in(throttle: &Throttle, name: &str, ip: Option<&str>, now_ms: i64) {
        throttle.reserve(name, ip, now_ms).unwrap().succeeded(now_ms);
    }

    #[test]
    fn guesses_beyond_the_budget_are_throttled_in_any_case_and_from_anywhere() {
        let throttle = throttle(1);
        assert_eq!(failures(&throttle, "Admin", A, 0), BURST);
        assert_eq!(failures(&throttle, "aDMIN", B, 0) + failures(&throttle, "admin", None, 0), 0);
        assert_eq!(failures(&throttle, "another", B, 0), BURST);
        assert_eq!(failures(&throttle, "admin", B, 59_000), 0);
        assert_eq!(failures(&throttle, "admin", None, 61_000), 1, "one place a minute flows back");
        assert_eq!(failures(&throttle, "admin", None, 10 * HOUR_MS), BURST, "and no more than were taken");
    }

    #[test]
    fn address_is_throttled_over_all_names_and_a_refusal_costs_the_name_nothing() {
        let throttle = throttle(1);
        for n in 0..BURST {
            assert_eq!(throttle.reserve(&format!("user{n}"), A, 0).map(drop), Ok(()));
        }
        for _ in 0..100 {
            assert_eq!(throttle.reserve("victim", A, 0).map(drop), Err(Throttled));
        }
        assert_eq!(failures(&throttle, "victim", B, 0), BURST);
    }

    #[test]
    fn address_counts_as_its_network() {
        for (a, b, same) in [
            ("2001:db8:1:2::1", "2001:db8:1:2:ffff:ffff:ffff:ffff", true),
            ("2001:db8:1:2::1", "2001:db8:1:3::1", false),
            ("::ffff:192.0.2.1", "192.0.2.1", true),
            ("192.0.2.1", "192.0.2.2", false),
            ("no address", "no address", true),
            ("no address", "another", false),
        ] {
            assert_eq!(network(a) == network(b), same, "{a} {b}");
        }
    }

    #[test]
    fn guesses_made_at_the_same_time_count() {
        let throttle = throttle(1);
        let held: Vec<Permit<'_>> = (0..BURST).map(|_| throttle.reserve("admin", None, 0).unwrap()).collect();
        assert_eq!(throttle.reserve("admin", None, 0).map(drop), Err(Throttled));
        drop(held);
        assert_eq!(throttle.reserve("admin", None, 0).map(drop), Err(Throttled), "dropped is failed");

        let passed: i64 = std::thread::scope(|scope| {
            let guess = || scope.spawn(|| failures(&throttle, "root", None, 0));
            let threads: Vec<_> = (0..8).map(|_| guess()).collect();
            threads.into_iter().map(|thread| thread.join().unwrap()).sum()
        });
        assert_eq!(passed, BURST);
    }

    #[test]
    fn attempt_that_succeeds_or_is_not_decided_costs_nothing() {
        let throttle = throttle(1);
        for now_ms in [0, 10 * HOUR_MS] {
            for _ in 0..1_000 {
                log_in(&throttle, "alice", A, now_ms);
                throttle.reserve("bob", B, now_ms).unwrap().undecided(now_ms);
            }
            assert_eq!(failures(&throttle, "bob", B, now_ms), BURST, "undecided makes nobody known");
            assert_eq!(failures(&throttle, "alice", A, now_ms), BURST + RESERVE);
        }
    }

    #[test]
    fn place_that_flowed_back_is_not_given_back_again() {
        for back_ms in [Share::of(1).refill_ms, HOUR_MS] {
            let throttle = throttle(1);
            let slow = throttle.reserve("alice", None, 0).unwrap();
            assert_eq!(failures(&throttle, "alice", None, back_ms), BURST);
            slow.succeeded(back_ms);
            assert_eq!(failures(&throttle, "alice", None, back_ms), 0, "after {back_ms} ms");
        }
    }

    #[test]
    fn owner_gets_in_however_long_others_guess() {
        let throttle = throttle(1);
        log_in(&throttle, "alice", A, 0);
        let mut guessed = 0;
        for second in 0..3_600 {
            // At her name from elsewhere and without an address, and at all sorts of names from her own.
            guessed += failures(&throttle, "alice", B, second * 1_000);
            guessed += failures(&throttle, "alice", None, second * 1_000);
            let _ = failures(&throttle, &format!("user{second}"), A, second * 1_000);
            if second % 60 == 0 {
                log_in(&throttle, "Alice", A, second * 1_000);
            }
        }
        let typos = failures(&throttle, "alice", A, HOUR_MS);
        assert!(typos >= RESERVE, "{typos}");
        assert!(guessed + typos < 100, "{guessed} and {typos}");
    }

    #[test]
    fn login_is_forgotten_after_a_day() {
        assert_eq!(LATELY_MS, 86_400_000);
        // However long the service has been up by then.
        for login_ms in [0, 50 * LATELY_MS] {
            for (after_ms, from_there) in [(LATELY_MS - 1, BURST + RESERVE), (LATELY_MS, BURST)] {
                let throttle = throttle(1);
                log_in(&throttle, "alice", A, login_ms);
                assert_eq!(failures(&throttle, "alice", A, login_ms + after_ms), from_there);
                assert_eq!(failures(&throttle, "alice", B, login_ms + after_ms), 0);
            }
        }
    }

    #[test]
    fn logging_in_again_takes_no_more_room_and_makes_nobody_else_forgotten() {
        let throttle = throttle(1);
        let pairs = (0..).map(|n: u32| throttle.keyed(&["pair", &n.to_string()]));
        let group: Vec<Keyed> = pairs.filter(|pair| pair.place % GROUPS == 0).take(GROUP + 1).collect();
        let (newcomer, group) = group.split_last().unwrap();
        let knows = |pair: &Keyed| throttle.logged_in_lately(*pair, 9);
        for (pair, at_ms) in group.iter().zip(0..) {
            throttle.note_login(*pair, at_ms);
        }
        // The oldest of them, which a newcomer would push out, is then the newest.
        throttle.note_login(group[0], 8);
        assert!(group.iter().all(knows));
        throttle.note_login(*newcomer, 9);
        assert_eq!(
            [&group[0], &group[1], &group[2], &group[3], newcomer].map(knows),
            [true, false, true, true, true]
        );
    }

    #[test]
    fn memory_of_logins_is_bounded_and_keeps_the_newest() {
        let throttle = throttle(1);
        let logins = 2 * GROUPS * GROUP;
        for n in 0..logins {
            throttle.note_login(throttle.keyed(&["pair", &n.to_string()]), i64::try_from(n).unwrap());
        }
        let knows = |n: &usize| throttle.logged_in_lately(throttle.keyed(&["pair", &n.to_string()]), 0);
        assert!((0..logins).filter(knows).count() <= GROUPS * GROUP);
        assert!((logins - 1_000..logins).all(|n| knows(&n)));
        assert_eq!(throttle.names.0.len() + throttle.addresses.0.len(), 2 * BUCKETS);
    }

    #[test]
    fn fewer_than_100_get_through_in_any_hour_over_all_replicas() {
        for instances in 1..=98 {
            let throttle = throttle(instances);
            log_in(&throttle, "alice", A, 0);
            // The worst of an hour begins with full buckets.
            let start_ms = 10 * HOUR_MS;
            let moments = (start_ms..=start_ms + HOUR_MS).step_by(10_000);
            let passed: i64 = moments
                .map(|now| failures(&throttle, "alice", B, now) + failures(&throttle, "alice", A, now))
                .sum();
            let total = passed * i64::try_from(instances).unwrap();
            assert!(total < 100, "{instances} replicas: {total}");
            assert!(passed >= 1, "{instances} replicas: nobody gets in");
        }
    }

    #[test]
    fn fewer_than_100_get_through_of_replicas_that_start_together() {
        for instances in 1..=UNTIL_TOLD {
            let throttle = Throttle::new([7; 32]);
            log_in(&throttle, "alice", A, 0);
            let fail = |now| failures(&throttle, "alice", B, now) + failures(&throttle, "alice", A, now);
            let mut passed = fail(0);
            assert!(passed >= 2, "nobody mistypes");
            throttle.set_instances(instances);
            passed += (3_000..=HOUR_MS).step_by(10_000).map(fail).sum::<i64>();
            let total = passed * i64::try_from(instances).unwrap();
            assert!(total < 100, "{instances} replicas: {total}");
        }
        let alone = Throttle::new([7; 32]);
        failures(&alone, "alice", None, 0);
        alone.set_instances(1);
        assert_eq!(failures(&alone, "alice", None, 61_000), 1, "who mistyped at the start waits a minute");
    }

    #[test]
    fn fewer_than_100_get_through_whatever_the_schedule() {
        let mut state = 1_u64;
        let mut random = |below: u64| {
            state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
            i64::try_from((state >> 33) % below).unwrap()
        };
        for _ in 0..50 {
            let throttle = throttle(1);
            let (mut now, mut passed) = (0, Vec::new());
            let pause = 1 + random(2_000).unsigned_abs() * 100;
            for _ in 0..2_000 {
                now += random(pause);
                let ip = if random(2) == 0 { A } else { B };
                match throttle.reserve("alice", ip, now) {
                    Ok(permit) if random(10) == 0 => permit.succeeded(now + random(3_000)),
                    Ok(_failed) => passed.push(now),
                    Err(Throttled) => {}
                }
            }
            let within_an_hour =
                |from: &i64| passed.iter().filter(|t| (*from..=from + HOUR_MS).contains(*t)).count();
            assert!(passed.iter().all(|from| within_an_hour(from) < 100));
        }
    }

    /// The budget of the hour is shared out, and not much of it wasted.
    #[test]
    fn share_of_each_replica_is_its_part_of_the_budget() {
        for (instances, burst, reserve, refill_ms) in [
            (1, 20, 10, 60_001),
            (2, 10, 5, 120_001),
            (3, 6, 3, 171_429),
            (10, 2, 1, 600_001),
            (20, 1, 1, 1_440_001),
            (40, 1, 1, 14_400_001),
            (41, 1, 0, 3_012_245),
            (89, 1, 0, 320_400_001),
        ] {
            assert_eq!(Share::of(instances), Share { burst, reserve, refill_ms }, "{instances}");
        }
    }

    #[test]
    fn change_in_the_number_of_replicas_opens_no_new_budget() {
        let throttle = throttle(1);
        assert_eq!(failures(&throttle, "alice", None, 0), BURST);
        for instances in [2, 5, 20, 90, 3, 1, 0] {
            throttle.set_instances(instances);
            let passed = failures(&throttle, "alice", None, 0);
            assert!(passed <= 4, "{instances}: {passed}");
        }
    }
}
