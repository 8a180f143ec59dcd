//! Bootstrap: a deployment of its own for each round.

use std::time::{Duration, Instant};

use iam_tests::scene::As::{Holder, Nobody, Service};
use iam_tests::{Deployment, Reply, Scene};
use serde_json::json;

use super::Size;
use super::rounds::{Ask, By, at_once, connections, holds, is_root};
use super::table::{Row, Table};

/// How long callers wait for a service that is killed.
const PATIENCE: Duration = Duration::from_secs(4);

/// On both planes at once; and after others whose service was killed under way.
pub(super) async fn race(url: &str, table: &mut Table) {
    for (name, killed) in [("bootstrap", false), ("bootstrap after one that was killed", true)] {
        let size = Size::of(true);
        let (mut row, mut faults) = (Row::default(), Vec::new());
        for round in 0..size.rounds {
            let mut deployment = Deployment::start(url, &["--log", "warn"]).await;
            let connections = connections(url, &deployment).await;
            let by = |i: usize| if i.is_multiple_of(2) { By::Nobody } else { By::Service };
            let asks: Vec<Ask> = (0..size.callers).map(|i| Ask::new(by(i), "bootstrap", json!({}))).collect();
            let begun = Instant::now();
            let mut replies = Vec::new();
            if killed {
                let hasty = connections.iter().map(|client| client.clone().with_deadline(PATIENCE));
                let (hasty, asks) = (hasty.collect::<Vec<_>>(), asks.clone());
                let earlier = tokio::spawn(async move { at_once(&hasty, &asks).await });
                // Wherever it hits, in each round later, what is judged is the same.
                tokio::time::sleep(Duration::from_millis(60 * round as u64)).await;
                deployment.restart(&["--log", "warn"]).await;
                replies = earlier.await.expect("callers");
                replies.retain(|reply| reply.0.get("error").is_none());
            }
            replies.extend(at_once(&connections, &asks).await);
            let seconds = begun.elapsed().as_secs_f64();
            match judge(&deployment, &replies, killed).await {
                Ok((winners, roots)) => row.add(&replies, winners, roots, seconds),
                Err(fault) => faults.push(format!("{name}, round {round}: {fault}")),
            }
        }
        table.add(name, row, faults);
    }
}

/// The winners, and the root admins.
async fn judge(deployment: &Deployment, replies: &[Reply], killed: bool) -> Result<(usize, usize), String> {
    let scene = Scene::new("bootstrap", deployment);
    let won: Vec<_> = replies.iter().filter(|reply| reply.0.get("error").is_none()).collect();
    // Where it was killed between the seeding and its reply, nobody was told.
    let expected = if killed { 0..=1 } else { 1..=1 };
    holds(expected.contains(&won.len()), || format!("{} were told that they did it", won.len()))?;
    for reply in &won {
        let key = reply.secret("bootstrap_admin_api_key");
        scene.ok(Holder(&key), "whoami", json!({})).await;
    }
    let open = scene.ok(Nobody, "bootstrap-status", json!({})).await["bootstrap_available"] == true;
    holds(!open, || "nobody did it".to_owned())?;
    let users = scene.ok(Service, "list-users", json!({})).await;
    let roots =
        users["users"].as_array().map_or(0, |users| users.iter().filter(|user| is_root(user)).count());
    holds(users.len("users") == 1 && roots == 1, || format!("there are {}", users.0))?;
    let keys = scene.ok(Service, "list-api-keys", json!({ "user_id": users["users"][0]["id"] })).await;
    holds(keys.len("api_keys") == 1, || format!("there are {}", keys.0))?;
    Ok((won.len(), roots))
}
