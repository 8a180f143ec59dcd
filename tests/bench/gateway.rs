//! How fast a gateway answers out of memory, beside the same question over the bus.

use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::{Context, Result};
use iam_client::gateway::{Gateway, Question};
use iam_client::sessions::{Identity, IdentitySource};
use iam_schema::Secret;
use iam_tests::gateway::{GatewayClock, InProcess, heartbeat, setting};
use iam_tests::scene::As::Service;
use iam_tests::world::Setup;
use iam_tests::{Scene, World};
use rand::seq::SliceRandom;
use serde_json::json;

use crate::stage::Stage;

const USERS: usize = 1_000;
const QUESTIONS: usize = 100;
/// Calls that are timed together: a clock is too coarse for one.
const BATCH: usize = 1_000;

/// Prints the figures.
pub async fn measure() -> Result<()> {
    let stage = Stage::set().await?;
    let over_the_bus = stage.one_by_one(2_000).await?;

    let world = World::new(Setup::default());
    let s = Scene::new("bench", &world);
    s.bootstrap().await;
    let mut users = Vec::new();
    for n in 0..USERS {
        let id = s.user("default", &format!("user{n}"), &["reader"]).await;
        let key = s.key(&id, "k").await.1;
        users.push((id, key));
    }
    let user = json!({ "username": "ada", "roles": ["reader"], "password": "violet-anvil-93-sings" });
    s.ok(Service, "create-user", json!({ "workspace": "default", "user": user })).await;
    let token = s.login("ada", "violet-anvil-93-sings").await;

    let bus = InProcess::to(world.dispatch.clone());
    let clock = GatewayClock(world.clock.clone());
    let gateway = Gateway::over(Box::new(bus), Box::new(clock), setting());
    gateway.hears().event(&heartbeat("bench", 0));
    gateway.ready(Duration::from_secs(1)).await?;

    let identities: Vec<Identity> = users
        .iter()
        .map(|(id, _)| {
            anyhow::Ok(Identity {
                user_id: id.parse()?,
                workspace: "default".parse().map_err(anyhow::Error::msg)?,
                roles: vec!["reader".to_owned()],
                source: IdentitySource::ApiKey,
                key_id: None,
                expires: None,
            })
        })
        .collect::<Result<_>>()?;
    let questions: Vec<Question> = (0..QUESTIONS)
        .map(|n| Question::within("graph:read", &format!("workspace{n}").parse().expect("an id")))
        .collect();
    for identity in &identities {
        for question in &questions {
            gateway.authorise(identity, question).await.context("a decision")?;
        }
    }
    let mut pairs: Vec<(usize, usize)> =
        (0..USERS).flat_map(|user| (0..QUESTIONS).map(move |question| (user, question))).collect();
    pairs.shuffle(&mut rand::rng());
    let decided = timed(&pairs, async |(user, question)| {
        gateway.authorise(&identities[user], &questions[question]).await.map(drop)
    })
    .await?;

    for (_, key) in &users {
        gateway.authenticate(key).await.context("a key")?;
    }
    let by_key = timed(&pairs, async |(user, question)| {
        header_to_decision(&gateway, &users[user].1, &questions[question]).await
    })
    .await?;
    for question in &questions {
        header_to_decision(&gateway, &token, question).await.context("a token")?;
    }
    let by_token =
        timed(&pairs, async |(_, question)| header_to_decision(&gateway, &token, &questions[question]).await)
            .await?;
    println!("{} decisions in memory, median of batches of {BATCH}", USERS * QUESTIONS);
    println!("  cached decision               {decided:>9.0} ns");
    println!("  Bearer header to decision     {by_key:>9.0} ns by API key, {by_token:.0} ns by token");
    println!("  the same question by the bus  {:>9.0} ns", over_the_bus.as_nanos());
    println!("  ratio bus / cached decision   {:>9.0}", over_the_bus.as_nanos() as f64 / decided);
    Ok(())
}

async fn header_to_decision(
    gateway: &Gateway,
    credential: &Secret,
    question: &Question,
) -> Result<(), iam_client::gateway::GatewayError> {
    let identity: Arc<Identity> = gateway.authenticate(credential).await?;
    gateway.authorise(&identity, question).await.map(drop)
}

/// Nanoseconds a call.
async fn timed<E>(
    pairs: &[(usize, usize)],
    call: impl AsyncFn((usize, usize)) -> Result<(), E>,
) -> Result<f64>
where
    E: std::error::Error + Send + Sync + 'static,
{
    let mut times = Vec::new();
    for batch in pairs.chunks_exact(BATCH) {
        let begun = Instant::now();
        for pair in batch {
            call(*pair).await?;
        }
        times.push(begun.elapsed().as_nanos() as f64 / BATCH as f64);
    }
    times.sort_by(f64::total_cmp);
    times.get(times.len() / 2).copied().context("a time")
}
