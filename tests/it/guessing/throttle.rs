//! How many guesses get through, by whatever way, and what they cost us and the owner.

use futures_util::future::join_all;
use iam_schema::ErrorKind;
use iam_schema::subject::Plane;
use iam_svc::dispatch::Headers;
use iam_tests::campaign::{resident_kib, rounds};
use iam_tests::faulty::{Fault, Faulty};
use iam_tests::scene::As::Service;
use iam_tests::world::Setup;
use iam_tests::{Scene, World};
use serde_json::json;

const PASSWORD: &str = "violet-anvil-93-sings";
const HOME: &str = "192.0.2.1";
const HOUR_MS: i64 = 3_600_000;
const MINUTE_MS: i64 = 60_000;
/// For how long a campaign goes on, however many guesses it has.
const SPAN_MS: i64 = 3 * HOUR_MS;
/// Guesses that are made at the same time.
const AT_ONCE: usize = 16;
/// What gets through in any hour, at most. Source: the bound of fewer than 100.
const MOST: usize = 99;

/// How a campaign went.
#[derive(Debug, Default)]
struct Tally {
    /// When a guess was held against a password.
    evaluated: Vec<i64>,
    throttled: usize,
    /// Logins of the owner, who is at home.
    owner: usize,
}

impl Tally {
    /// The most guesses that got through in any hour.
    fn worst_hour(&self) -> usize {
        let within =
            |from: &i64| self.evaluated.iter().filter(|at| (*from..from + HOUR_MS).contains(*at)).count();
        self.evaluated.iter().map(within).max().unwrap_or_default()
    }
}

async fn login(world: &World, name: &str, password: &str, address: &str) -> Option<ErrorKind> {
    let request = json!({ "username": name, "password": password, "client_ip": address }).to_string();
    world.bytes(Plane::Service, "login", Headers::default(), request.as_bytes()).await.1
}

/// Replicas on one store, each knowing of the others; with a user `Ada` who has logged in from home.
async fn replicas(store: &std::sync::Arc<Faulty>, count: usize) -> Vec<World> {
    let worlds: Vec<World> = (0..count).map(|_| store.world(Setup::default())).collect();
    let scene = Scene::new("guessing", &worlds[0]);
    scene.bootstrap().await;
    let user = json!({ "username": "Ada", "password": PASSWORD });
    scene.ok(Service, "create-user", json!({ "workspace": "default", "user": user })).await;
    for world in &worlds {
        world.dispatch.ctx().throttle.set_instances(count);
        assert_eq!(login(world, "ada", PASSWORD, HOME).await, None);
    }
    worlds
}

fn hashes(worlds: &[World]) -> u64 {
    worlds.iter().map(|world| world.dispatch.ctx().hasher.begun()).sum()
}

/// Guesses for hours, each time with the name and from the address that `who` gives; meanwhile the owner logs in from
/// home every minute.
async fn guess(worlds: &[World], who: impl Fn(usize) -> (String, String)) -> Tally {
    let guesses = rounds("IAM_TEST_GUESSES", 6_000);
    let mut tally = Tally::default();
    let (mut now_ms, mut owner_ms) = (0, 0);
    let before = hashes(worlds);
    for first in (0..guesses).step_by(AT_ONCE) {
        let batch = (first..guesses.min(first + AT_ONCE)).map(|n| {
            let (name, address) = who(n);
            let world = &worlds[n % worlds.len()];
            async move { login(world, &name, "wrong", &address).await }
        });
        for outcome in join_all(batch).await {
            match outcome {
                Some(ErrorKind::AuthFailed) => tally.evaluated.push(now_ms),
                Some(ErrorKind::Throttled) => tally.throttled += 1,
                other => panic!("{other:?} for a guess"),
            }
        }
        if now_ms >= owner_ms {
            owner_ms = now_ms + MINUTE_MS;
            for world in worlds {
                assert_eq!(login(world, "ada", PASSWORD, HOME).await, None, "the owner, after {now_ms} ms");
                tally.owner += 1;
            }
        }
        let then_ms = SPAN_MS * (first + AT_ONCE) as i64 / guesses as i64;
        for world in worlds {
            world.clock.advance_ms(then_ms - now_ms);
            world.told().await;
        }
        now_ms = then_ms;
    }
    let computed = hashes(worlds) - before;
    assert_eq!(computed, (tally.evaluated.len() + tally.owner) as u64, "only what is evaluated is hashed");
    assert_eq!(tally.evaluated.len() + tally.throttled, guesses);
    println!(
        "{guesses} guesses in {} h at {} replicas: {} evaluated, at most {} in an hour, {computed} hashes, the owner in {} times of {}, {} KiB resident",
        SPAN_MS / HOUR_MS,
        worlds.len(),
        tally.evaluated.len(),
        tally.worst_hour(),
        tally.owner,
        tally.owner,
        // Beside other tests this says little.
        resident_kib(std::process::id()),
    );
    assert!(tally.worst_hour() <= MOST, "{} in an hour", tally.worst_hour());
    tally
}

fn somewhere(n: usize) -> String {
    format!("2001:db8:{:x}:{:x}::1", n >> 16, n & 0xffff)
}

#[tokio::test]
async fn guesses_at_one_account_from_many_addresses_are_few_and_the_owner_gets_in() {
    let worlds = replicas(&Faulty::embedded(), 1).await;
    guess(&worlds, |n| ("aDa".into(), somewhere(n))).await;

    // Away from home the owner gets in once the guessing is over: a place flows back in a minute.
    let mut waited_ms = 0;
    while login(&worlds[0], "ada", PASSWORD, "198.51.100.9").await.is_some() {
        worlds[0].clock.advance_ms(1_000);
        waited_ms += 1_000;
        assert!(waited_ms <= 70_000, "the owner waits for more than a minute");
    }
    println!("the owner away from home gets in {} s after the last guess", waited_ms / 1_000);
}

#[tokio::test]
async fn guesses_at_many_accounts_from_one_address_are_few_and_hinder_nobody_else() {
    let worlds = replicas(&Faulty::embedded(), 1).await;
    let tally = guess(&worlds, |n| (format!("user{n}"), "198.51.100.7".into())).await;
    assert!(tally.evaluated.len() >= 20, "people behind one address mistype too");
    assert_eq!(login(&worlds[0], "ada", PASSWORD, "198.51.100.8").await, None);
}

#[tokio::test]
async fn guesses_spread_over_replicas_are_as_few() {
    for count in [2, 3, 10] {
        let worlds = replicas(&Faulty::embedded(), count).await;
        guess(&worlds, |n| ("ada".into(), somewhere(n))).await;
    }
}

#[tokio::test]
async fn login_that_took_long_gives_no_place_back_that_flowed_back_meanwhile() {
    let store = Faulty::embedded();
    let worlds = replicas(&store, 1).await;
    let world = &worlds[0];
    let failures = async || {
        let mut count = 0;
        while login(world, "ada", "wrong", &somewhere(count)).await == Some(ErrorKind::AuthFailed) {
            count += 1;
        }
        count
    };
    let gate = std::sync::Arc::new(iam_tests::faulty::Gate::default());
    store.fail("key_ring", Fault::Held(gate.clone()));
    let (slow, all) = tokio::join!(login(world, "ada", PASSWORD, "198.51.100.7"), async {
        gate.reached().await;
        world.clock.advance_ms(HOUR_MS);
        let all = failures().await;
        gate.open();
        all
    });
    assert_eq!(slow, None);
    assert!(all > 0);
    assert_eq!(failures().await, 0, "the place came back twice");
}
