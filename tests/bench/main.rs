//! How fast the service decides, beside the fastest answer that can be given at all: a bare async-nats echo.
//!
//! Both sides run in one run, in paired rounds of shuffled order, with an echo against an echo as control; the
//! machine's own noise shows in that row. Processor time is read from the scheduler, per process, and is the
//! figure that decides where a rate cannot.
//!
//! `cargo run --release -p iam-tests --bin bench` (after `cargo build --release`); `--rounds N`, `--seconds S`;
//! `--gateway` for what a gateway answers out of memory, `--revocation` for how fast gateways in processes of their own
//! hear of an end, `--http` for requests and sockets of `iam-gateway`.

mod dropping;
mod gateway;
mod http;
mod load;
mod revocation;
mod stage;

use std::time::Duration;

use anyhow::{Context, Result};
use load::{Load, Outcome};
use rand::seq::SliceRandom;
use stage::Stage;

fn main() -> Result<()> {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let option = |name: &str| arguments.iter().skip_while(|a| *a != name).nth(1).cloned();
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    if let Some(subject) = option("--echo") {
        let url = option("--url").context("--url")?;
        let size = option("--size").context("--size")?.parse()?;
        return runtime.block_on(load::echo(&url, subject, size));
    }
    let asked = |name: &str| arguments.iter().any(|argument| argument == name);
    if let Some(url) = option("--follower") {
        return runtime.block_on(revocation::follow(&url, &option("--prefix").context("--prefix")?));
    }
    if let Some(url) = option("--routes") {
        return runtime.block_on(http::serve_routes(&url, &option("--prefix").context("--prefix")?));
    }
    if asked("--gateway") {
        return runtime.block_on(gateway::measure());
    }
    if asked("--revocation") {
        let rounds = option("--rounds").map_or(Ok(1_000), |n| n.parse())?;
        return runtime.block_on(revocation::measure(rounds));
    }
    if asked("--http") {
        return runtime.block_on(http::measure());
    }
    let rounds = option("--rounds").map_or(Ok(6), |n| n.parse())?;
    let seconds: f64 = option("--seconds").map_or(Ok(2.0), |s| s.parse())?;
    runtime.block_on(compare(rounds, Duration::from_secs_f64(seconds)))
}

async fn compare(rounds: usize, span: Duration) -> Result<()> {
    let mut stage = Stage::set().await?;
    let request = stage.authorise_request();
    println!(
        "request {} bytes, reply {} bytes, 64 in flight, {rounds} rounds of {span:?}",
        request.len(),
        stage.reply_size()
    );
    let loads = [
        Load { name: "echo", subject: stage.echo_subject(0), payload: request.clone() },
        Load { name: "echo again", subject: stage.echo_subject(1), payload: request.clone() },
        Load { name: "authorise", subject: stage.subject("authorise"), payload: request.clone() },
    ];
    let mut outcomes: Vec<Vec<Outcome>> = vec![Vec::new(); loads.len()];
    let mut rng = rand::rng();
    for round in 0..=rounds {
        let mut order: Vec<usize> = (0..loads.len()).collect();
        order.shuffle(&mut rng);
        for index in order {
            let (Some(load), Some(into)) = (loads.get(index), outcomes.get_mut(index)) else { continue };
            let outcome = load::closed_loop(&stage, load, 64, span).await?;
            // The first round warms everything up.
            if round > 0 {
                into.push(outcome);
            }
        }
    }
    println!(
        "\n{:<12} {:>10} {:>7} {:>12} {:>12} {:>8}",
        "", "req/s", "spread", "CPU us/req", "server us", "p99 us"
    );
    for (load, outcomes) in loads.iter().zip(&outcomes) {
        let of = |f: fn(&Outcome) -> f64| median(outcomes.iter().map(f).collect());
        let rates: Vec<f64> = outcomes.iter().map(|o| o.rate).collect();
        let spread =
            rates.iter().copied().fold(f64::MIN, f64::max) - rates.iter().copied().fold(f64::MAX, f64::min);
        println!(
            "{:<12} {:>10.0} {:>6.0}% {:>12.2} {:>12.2} {:>8.0}",
            load.name,
            of(|o| o.rate),
            100.0 * spread / of(|o| o.rate),
            of(|o| o.cpu_us),
            of(|o| o.server_cpu_us),
            of(|o| o.p99_us),
        );
    }
    let [echo, again, ours] = outcomes.as_slice() else { return Ok(()) };
    let ratio = |a: &[Outcome], b: &[Outcome], f: fn(&Outcome) -> f64| {
        median(a.iter().zip(b).map(|(a, b)| f(a) / f(b)).collect())
    };
    let both = |o: &Outcome| o.cpu_us + o.server_cpu_us;
    println!("\nmedian of paired ratios (control in brackets)");
    println!(
        "  requests/s      {:.3} ({:.3})",
        ratio(ours, echo, |o| o.rate),
        ratio(again, echo, |o| o.rate)
    );
    println!("  CPU of both     {:.3} ({:.3})", ratio(ours, echo, both), ratio(again, echo, both));

    logins(&mut stage, &loads, outcomes.last().map_or(0.0, |o| median(o.iter().map(|o| o.rate).collect())))
        .await
}

/// The p99 of authorise at half its rate, open loop, with and without eight logins always in flight.
async fn logins(stage: &mut Stage, loads: &[Load], rate: f64) -> Result<()> {
    let Some(authorise) = loads.last() else { return Ok(()) };
    let pace = rate / 2.0;
    println!("\nauthorise at {pace:.0}/s, open loop, 6 rounds of 3 s each way");
    let (mut quiet, mut flooded) = (Vec::new(), Vec::new());
    for _ in 0..6 {
        quiet.push(load::open_loop(stage, authorise, pace, Duration::from_secs(3)).await?);
        let flood = stage.login_flood(8);
        tokio::time::sleep(Duration::from_millis(300)).await;
        flooded.push(load::open_loop(stage, authorise, pace, Duration::from_secs(3)).await?);
        let done = flood.stop().await;
        println!(
            "  p99 {:>7.0} us quiet, {:>7.0} us with {done} logins answered",
            last(&quiet),
            last(&flooded)
        );
    }
    let (quiet, flooded) = (median(quiet), median(flooded));
    println!("median p99 {quiet:.0} us quiet, {flooded:.0} us flooded: {:.2} x", flooded / quiet);
    Ok(())
}

fn last(values: &[f64]) -> f64 {
    values.last().copied().unwrap_or(f64::NAN)
}

fn median(mut values: Vec<f64>) -> f64 {
    values.sort_by(f64::total_cmp);
    values.get(values.len() / 2).copied().unwrap_or(f64::NAN)
}
