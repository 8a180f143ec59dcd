//! Three replicas on a cluster, under load, while whatever they rest on is killed, paused and started again.
//!
//! Workers know every change that was acknowledged to them, and ask after it again and again: what was granted must
//! be in force, and what was ended must never be allowed again, by any replica. An answer may be missing meanwhile.

mod load;
mod many;
mod replicas;

use std::time::{Duration, Instant};

use iam_svc::store::cassandra::{Reach, Replication, Setting};
use iam_tests::campaign::rounds;
use iam_tests::cassandra::{Keyspace, hosts};
use iam_tests::cassandra_nodes::CassandraNodes;
use iam_tests::nats_server::NatsServer;
use rustix::process::Signal;
use tokio::time::sleep;

use load::Load;
use replicas::Replicas;

/// How often nodes are killed, on a cluster of three that is started for the purpose; all else goes by it.
const NODES: &str = "IAM_TEST_CLUSTER";
const REPLICAS: usize = 3;

fn seconds(n: u64) -> Duration {
    Duration::from_secs(n)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn acknowledged_changes_hold_while_replicas_and_the_bus_are_killed() {
    let Some(hosts) = hosts() else { return };
    let Some(mut bus) = NatsServer::with_jetstream().await else { return };
    let keyspace = Keyspace::claim(&hosts).await;
    let mut replicas = Replicas::start(&bus.url(), &keyspace.setting, REPLICAS).await;
    let load = Load::begin(&bus.url(), replicas.prefix()).await;

    load.phase("quiet", seconds(3)).await;
    for i in 0..2 {
        load.set_phase("a replica is killed and started again");
        replicas.kill(i);
        sleep(seconds(1)).await;
        replicas.start_again(i);
        sleep(seconds(3)).await;
    }
    load.set_phase("the bus is killed and started again");
    bus.kill();
    sleep(seconds(1)).await;
    bus.start_again().await;
    sleep(seconds(4)).await;
    println!("{}", load.end().await);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn acknowledged_changes_hold_while_nodes_are_killed_and_paused() {
    let kills = rounds(NODES, 0);
    if kills == 0 {
        println!("skipped: {NODES} is not set; with 5 it takes a quarter of an hour and three gigabytes");
        return;
    }
    let (quiet, pauses) = (seconds(12 * kills as u64), kills.div_ceil(2));
    let Some(mut bus) = NatsServer::with_jetstream().await else { return };
    let mut nodes = CassandraNodes::start(3).await;
    let setting = Setting {
        hosts: nodes.hosts().to_vec(),
        keyspace: "iam".to_owned(),
        create_keyspace: true,
        replication: Replication::Simple(3),
        consistency: Reach::Local,
        datacenter: None,
        login: None,
        tls: None,
    };
    let mut replicas = Replicas::start(&bus.url(), &setting, REPLICAS).await;
    let load = Load::begin(&bus.url(), replicas.prefix()).await;

    load.phase("quiet", quiet).await;
    for i in 0..kills {
        load.set_phase("a node is dead");
        nodes.kill(i % 3);
        sleep(seconds(15)).await;
        load.set_phase("a node comes back");
        nodes.start_again(i % 3).await;
        sleep(seconds(15)).await;
    }
    for i in 0..2 * kills {
        load.set_phase("a replica is killed and started again");
        replicas.kill(i % REPLICAS);
        sleep(seconds(2)).await;
        replicas.start_again(i % REPLICAS);
        sleep(seconds(8)).await;
    }
    for i in 0..pauses {
        load.set_phase("a node is paused for 15 s");
        nodes.signal(i % 3, Signal::STOP);
        sleep(seconds(15)).await;
        load.set_phase("a paused node goes on");
        nodes.signal(i % 3, Signal::CONT);
        sleep(seconds(10)).await;
    }
    for _ in 0..pauses {
        load.set_phase("the bus is killed and started again");
        bus.kill();
        sleep(seconds(2)).await;
        bus.start_again().await;
        sleep(seconds(10)).await;
    }
    load.phase("quiet again", quiet).await;

    // Credentials that no replica has in memory.
    load.set_phase("two nodes of three are dead");
    let cold = load.unasked(20).await;
    nodes.kill(1);
    nodes.kill(2);
    sleep(seconds(3)).await;
    println!("{}", load.ask_without_a_store(&cold).await);
    sleep(seconds(15)).await;
    load.set_phase("two nodes come back");
    let began = Instant::now();
    nodes.start_again(1).await;
    let majority = began.elapsed();
    let recovered = load.until_a_change_is_taken().await;
    println!("a majority again after {majority:.1?}, and changes taken {recovered:.1?} later");
    nodes.start_again(2).await;
    sleep(seconds(20)).await;
    println!("{}", load.end().await);
}
