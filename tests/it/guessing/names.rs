//! Names without number: what a flood of logins, each with a name of its own, leaves behind in the program.

use std::collections::BTreeMap;
use std::time::Duration;

use futures_util::{StreamExt, stream};
use iam_schema::subject::Plane;
use iam_schema::{IamRequest, OperationName, Secret};
use iam_tests::campaign::{resident_kib, rounds};
use iam_tests::deployment::nats_url;
use iam_tests::scene::Wire;
use iam_tests::{Deployment, Scene};

/// Logins that wait for their answer at a time: more than the hash pool has places for.
const IN_FLIGHT: usize = 64;
/// How much more memory the process may hold after the flood than after its beginning, in KiB: what an allocator
/// keeps. A million names of 40 bytes would be more than twice as much.
const GROWTH_KIB: u64 = 16 * 1024;

/// Logins with these names, all of them refused; how often with which error.
async fn flood(
    deployment: &Deployment,
    plane: Plane,
    names: std::ops::Range<usize>,
) -> BTreeMap<String, usize> {
    // What has its place in the queue of the hash pool waits for its turn, and a busy machine takes its time.
    let client = &deployment.client().clone().with_deadline(Duration::from_secs(600));
    let logins = stream::iter(names).map(|n| async move {
        let request = IamRequest {
            username: format!("nobody-with-a-name-of-some-length-{n}").into(),
            password: Secret::new("violet-anvil-93-sings"),
            client_ip: "198.51.100.7".into(),
            ..IamRequest::default()
        };
        let response = client.send(plane, OperationName::Login, None, request).await;
        response.error.expect("nobody has such a name").kind
    });
    let counted = |mut kinds: BTreeMap<String, usize>, kind| async move {
        *kinds.entry(kind).or_default() += 1;
        kinds
    };
    logins.buffer_unordered(IN_FLIGHT).fold(BTreeMap::new(), counted).await
}

/// From one address, which the throttle stops; and without one, where only the hash pool's queue stands in the way.
#[tokio::test(flavor = "multi_thread")]
async fn names_without_number_cost_no_memory_over_nats() {
    let Some(url) = nats_url() else { return };
    let deployment = Deployment::start(&url, &["--http-addr", "127.0.0.1:0"]).await;
    let scene = Scene::new("guessing", &deployment);
    let (admin, _) = scene.bootstrap().await;
    let count = rounds("IAM_TEST_GUESSES", 6_000) / 2;
    let warm = 1_000;
    for plane in [Plane::Service, Plane::Api] {
        flood(&deployment, plane, 0..warm).await;
    }
    let before = resident_kib(deployment.id());
    let begun = std::time::Instant::now();
    let mut told = Vec::new();
    for plane in [Plane::Service, Plane::Api] {
        let kinds = flood(&deployment, plane, warm..warm + count).await;
        assert!(
            kinds.keys().all(|kind| ["auth-failed", "throttled", "unavailable"].contains(&kind.as_str())),
            "{kinds:?}"
        );
        let evaluated = kinds.get("auth-failed").copied().unwrap_or_default();
        match plane {
            Plane::Service => assert!(evaluated <= 99, "{evaluated} guesses from one address"),
            Plane::Api => assert!(kinds["unavailable"] > 0, "no queue was full: {kinds:?}"),
        }
        told.push(format!("{kinds:?}"));
    }
    let took = begun.elapsed().as_secs_f32();
    assert!(scene.may(&admin, "users:admin", "default").await);
    let after = resident_kib(deployment.id());
    println!(
        "{count} names from one address: {}; as many without one: {}; {took:.0} s; {before} KiB before, {after} KiB after",
        told[0], told[1]
    );
    assert!(after < before + GROWTH_KIB, "it grew from {before} to {after} KiB");
}
