//! How fast a gateway answers out of memory, beside the same question over the bus.

use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use futures_util::{StreamExt, TryStreamExt, stream};
use iam_client::api_keys::NewApiKey;
use iam_client::gateway::{Gateway, Question, Setting};
use iam_client::sessions::Identity;
use iam_schema::decisions::Check;
use iam_schema::users::UserInput;
use iam_schema::{Secret, UserId};
use rand::seq::SliceRandom;
use serde_json::Map;

use crate::median;
use crate::stage::{PASSWORD, Stage};

const USERS: usize = 1_000;
const QUESTIONS: usize = 100;
/// Questions over the bus at a time, while memory is filled.
const AT_ONCE: usize = 64;
/// How long a gateway that begins doubts what it is told. Source: protocol section 8.
const DOUBT: Duration = Duration::from_secs(7);
/// Calls that are timed together: a clock is too coarse for one.
const BATCH: usize = 1_000;

/// Prints the figures.
pub async fn measure() -> Result<()> {
    let stage = Stage::set().await?;
    let over_the_bus = stage.one_by_one(2_000).await?;

    let keys: Vec<Secret> = stream::iter(0..USERS)
        .map(|number| key_of_a_new_user(&stage, number))
        .buffered(AT_ONCE)
        .try_collect()
        .await?;
    let token = stage.client().login("ada", &Secret::new(PASSWORD), None).await?.jwt;
    let setting = Setting { decisions: 2 * USERS * QUESTIONS, ..Setting::default() };
    let gateway = Gateway::connect(&stage.connection(), setting).await?;
    gateway.ready(Duration::from_secs(30)).await?;
    // What it learns at first is remembered for half a second only.
    tokio::time::sleep(DOUBT).await;
    let identities: Vec<_> =
        stream::iter(&keys).map(|key| gateway.authenticate(key)).buffered(AT_ONCE).try_collect().await?;
    let questions: Vec<Question> = (0..QUESTIONS)
        .map(|n| Check {
            capability: "graph:read".to_owned(),
            resource: Map::from_iter([
                ("workspace".to_owned(), "default".into()),
                ("flow".to_owned(), format!("f{n}").into()),
            ]),
            ..Check::default()
        })
        .map(|check| Question::of(&check))
        .collect::<Result<_, _>>()?;

    let mut pairs: Vec<(usize, usize)> =
        (0..USERS).flat_map(|user| (0..QUESTIONS).map(move |question| (user, question))).collect();
    stream::iter(&pairs)
        .map(|(user, question)| decided(&gateway, &identities[*user], &questions[*question]))
        .buffer_unordered(AT_ONCE)
        .try_for_each(async |()| Ok(()))
        .await?;
    let again: Vec<(usize, usize)> = pairs.iter().map(|(_, question)| (0, *question)).collect();
    pairs.shuffle(&mut rand::rng());
    let decide = async |(user, question): (usize, usize)| {
        decided(&gateway, &identities[user], &questions[question]).await
    };
    let at_random = timed(&pairs, decide).await?;
    let again = timed(&again, decide).await?;
    let by_key = timed(&pairs, async |(user, question)| {
        header_to_decision(&gateway, &keys[user], &questions[question]).await
    })
    .await?;
    for question in &questions {
        header_to_decision(&gateway, &token, question).await.context("a token")?;
    }
    let by_token =
        timed(&pairs, async |(_, question)| header_to_decision(&gateway, &token, &questions[question]).await)
            .await?;
    let visit = visits(&pairs);
    println!("{} decisions in memory, median of batches of {BATCH}", USERS * QUESTIONS);
    println!("  cached decision               {at_random:>9.0} ns at random, {again:.0} ns of one user");
    println!("  one visit to as much memory   {visit:>9.0} ns at random");
    println!("  Bearer header to decision     {by_key:>9.0} ns by API key, {by_token:.0} ns by token");
    println!("  the same question by the bus  {:>9.0} ns", over_the_bus.as_nanos());
    println!("  ratio bus / cached decision   {:>9.0}", over_the_bus.as_nanos() as f64 / at_random);
    Ok(())
}

async fn key_of_a_new_user(stage: &Stage, number: usize) -> Result<Secret> {
    let client = stage.client();
    let input = UserInput {
        username: Some(format!("user{number}")),
        roles: Some(vec!["reader".to_owned()]),
        ..UserInput::default()
    };
    let user: UserId = client.create_user(&"default".parse()?, input).await?.id.parse()?;
    let key = NewApiKey { user: Some(user), name: "k", expires: None };
    Ok(client.create_api_key(key, None).await?.plaintext)
}

async fn decided(gateway: &Gateway, identity: &Identity, question: &Question) -> Result<()> {
    match gateway.authorise(identity, question).await?.allow {
        true => Ok(()),
        false => bail!("{:?} was denied", question.capability()),
    }
}

async fn header_to_decision(gateway: &Gateway, credential: &Secret, question: &Question) -> Result<()> {
    let identity = gateway.authenticate(credential).await?;
    decided(gateway, &identity, question).await
}

/// Nanoseconds of one read out of a table of as many places as the gateway has, each as long: what no answer that has
/// to be fetched from there can be faster than.
fn visits(pairs: &[(usize, usize)]) -> f64 {
    let table = vec![[1_usize; 16]; 2 * pairs.len()];
    let mut times = Vec::new();
    // Each read waits for the one before.
    let mut read = 1;
    for batch in pairs.chunks_exact(BATCH) {
        let begun = Instant::now();
        for (user, question) in batch {
            read = table[2 * (user * QUESTIONS + question) + read][0];
        }
        times.push(begun.elapsed().as_nanos() as f64 / BATCH as f64);
    }
    std::hint::black_box(read);
    median(times)
}

/// Nanoseconds a call.
async fn timed(pairs: &[(usize, usize)], call: impl AsyncFn((usize, usize)) -> Result<()>) -> Result<f64> {
    let mut times = Vec::new();
    for batch in pairs.chunks_exact(BATCH) {
        let begun = Instant::now();
        for pair in batch {
            call(*pair).await?;
        }
        times.push(begun.elapsed().as_nanos() as f64 / BATCH as f64);
    }
    Ok(median(times))
}
