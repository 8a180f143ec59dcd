//! Loads: closed loop with so many in flight, open loop at a fixed rate; and the echo to compare with.

use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use async_nats::Client;
use futures_util::StreamExt;

use crate::stage::Stage;

/// What is asked, and where.
pub struct Load {
    pub name: &'static str,
    pub subject: String,
    pub payload: Vec<u8>,
}

/// What one round came to.
#[derive(Debug, Clone, Copy)]
pub struct Outcome {
    pub rate: f64,
    /// Processor time of the responder, a request.
    pub cpu_us: f64,
    /// Processor time of nats-server, a request.
    pub server_cpu_us: f64,
    pub p99_us: f64,
}

/// The bare echo: one connection, one thread, answered inline.
pub async fn echo(url: &str, subject: String, size: usize) -> Result<()> {
    let client = async_nats::connect(url).await?;
    let mut requests = client.queue_subscribe(subject, "echo".into()).await?;
    let reply = bytes::Bytes::from(vec![0x5a; size]);
    while let Some(request) = requests.next().await {
        if let Some(to) = request.reply {
            client.publish(to, reply.clone()).await?;
        }
    }
    Ok(())
}

/// Keeps `flight` requests in flight for a span; each has a reply subject of its own.
pub async fn closed_loop(stage: &Stage, load: &Load, flight: usize, span: Duration) -> Result<Outcome> {
    let client = stage.connect().await?;
    let inbox = client.new_inbox();
    let mut replies = client.subscribe(format!("{inbox}.*")).await?;
    client.flush().await?;
    let mut sent = vec![Instant::now(); flight];
    let mut number = 0_u64;
    for slot in 0..flight {
        send(&client, load, &inbox, slot, number).await?;
        number += 1;
    }
    let warm_up = Instant::now() + Duration::from_millis(300);
    let mut began: Option<(Instant, f64, f64)> = None;
    let mut latencies = Vec::with_capacity(1 << 20);
    loop {
        let reply = tokio::time::timeout(Duration::from_secs(5), replies.next()).await.context("no reply")?;
        let reply = reply.context("the subscription ended")?;
        let slot = slot_of(&reply.subject)?;
        let now = Instant::now();
        match began {
            None if now >= warm_up => {
                check(stage, load, &reply.payload)?;
                began = Some((now, stage.cpu_us(load), stage.server_cpu_us()));
            }
            None => {}
            Some((start, cpu, server_cpu)) => {
                latencies.push(sent.get(slot).map_or(0.0, |sent| (now - *sent).as_secs_f64() * 1e6));
                if now - start >= span {
                    let count = latencies.len() as f64;
                    return Ok(Outcome {
                        rate: count / (now - start).as_secs_f64(),
                        cpu_us: (stage.cpu_us(load) - cpu) / count,
                        server_cpu_us: (stage.server_cpu_us() - server_cpu) / count,
                        p99_us: percentile(&mut latencies, 0.99),
                    });
                }
            }
        }
        if let Some(sent) = sent.get_mut(slot) {
            *sent = now;
        }
        send(&client, load, &inbox, slot, number).await?;
        number += 1;
    }
}

/// Asks at a fixed rate, whatever comes back; the p99 in microseconds, counted from when each was due.
pub async fn open_loop(stage: &Stage, load: &Load, rate: f64, span: Duration) -> Result<f64> {
    let client = stage.connect().await?;
    let inbox = client.new_inbox();
    let mut replies = client.subscribe(format!("{inbox}.*")).await?;
    client.flush().await?;
    let total = (rate * span.as_secs_f64()) as usize;
    let start = Instant::now();
    let due = |number: usize| start + Duration::from_secs_f64(number as f64 / rate);
    let asking = async {
        let mut number = 0;
        while number < total {
            while number < total && due(number) <= Instant::now() {
                send(&client, load, &inbox, number, 0).await?;
                number += 1;
            }
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
        anyhow::Ok(())
    };
    let hearing = async {
        let mut latencies = Vec::with_capacity(total);
        while latencies.len() < total {
            let reply =
                tokio::time::timeout(Duration::from_secs(5), replies.next()).await.context("no reply")?;
            let reply = reply.context("the subscription ended")?;
            latencies.push((Instant::now() - due(slot_of(&reply.subject)?)).as_secs_f64() * 1e6);
        }
        anyhow::Ok(percentile(&mut latencies, 0.99))
    };
    let (asked, heard) = tokio::join!(asking, hearing);
    asked?;
    heard
}

async fn send(client: &Client, load: &Load, inbox: &str, slot: usize, number: u64) -> Result<()> {
    let reply = format!("{inbox}.{slot}_{number}");
    client.publish_with_reply(load.subject.clone(), reply, load.payload.clone().into()).await?;
    Ok(())
}

fn slot_of(subject: &str) -> Result<usize> {
    let token = subject.rsplit('.').next().unwrap_or_default();
    Ok(token.split('_').next().unwrap_or_default().parse()?)
}

/// A fast refusal would be no decision at all.
fn check(stage: &Stage, load: &Load, payload: &[u8]) -> Result<()> {
    if load.name == "authorise" && payload != stage.allow() {
        bail!("not the allow that was expected: {payload:?}");
    }
    Ok(())
}

fn percentile(values: &mut [f64], part: f64) -> f64 {
    values.sort_by(f64::total_cmp);
    let index = (values.len() as f64 * part) as usize;
    values.get(index.min(values.len().saturating_sub(1))).copied().unwrap_or(f64::NAN)
}
