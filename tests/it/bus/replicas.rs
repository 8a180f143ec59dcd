//! Replicas in process over one store, each behind a line of its own: what was missed while a line was cut is
//! never answered from memory.

use std::sync::Arc;
use std::sync::atomic::{AtomicU32, AtomicU64, Ordering};
use std::time::Duration;

use iam_client::decisions::About;
use iam_client::{Client, Connection};
use iam_schema::changes::{Change, ChangeEvent, ChangeKind};
use iam_schema::codec::{Format, encode};
use iam_schema::decisions::Check;
use iam_schema::subject::{Plane, Subjects};
use iam_svc::Serving;
use iam_svc::clock::SystemClock;
use iam_svc::config::AuditStream;
use iam_svc::domain::policy::Policy;
use iam_svc::domain::users::User;
use iam_svc::store::{InsertUser, InsertWorkspace, Store, UpdateUser};
use iam_tests::facts::Facts;
use iam_tests::faulty::Faulty;
use iam_tests::nats_server::NatsServer;
use iam_tests::proxy::{Line, Proxy};
use iam_tests::sample;
use iam_tests::world::{self, Setup};
use rand::rngs::SmallRng;
use rand::{RngExt, SeedableRng};
use tokio::sync::oneshot;
use tokio::task::JoinHandle;

/// A replica, and the line by which it reaches NATS.
struct Replica {
    line: Proxy,
    stop: oneshot::Sender<()>,
    serving: JoinHandle<Result<(), iam_svc::exit::Exit>>,
}

impl Replica {
    async fn start(server: &NatsServer, store: Arc<dyn Store>, prefix: &str) -> Self {
        static SEED: AtomicU64 = AtomicU64::new(100);
        let line = Proxy::to(server.address()).await;
        let setup = Setup { seed: SEED.fetch_add(1, Ordering::Relaxed), ..Setup::default() };
        let serving = Serving {
            deadline: tokio::time::Instant::now() + std::time::Duration::from_secs(60),
            nats: Connection::to([line.url()]),
            subjects: Subjects::new(prefix).expect("a prefix"),
            audit_stream: AuditStream::Off,
            http: None,
            front_threads: 1,
        };
        let policy = Arc::new(Policy::build(&setup.policy).expect("a policy that stands"));
        let ctx = Arc::new(world::ctx(store, Arc::new(SystemClock::default()), policy, setup));
        let (stop, stopped) = oneshot::channel::<()>();
        let serving = tokio::spawn(async move {
            iam_svc::serve(ctx, serving, async {
                let _ = stopped.await;
            })
            .await
        });
        Self { line, stop, serving }
    }

    async fn stop(self) {
        self.line.set(Line::default());
        let _ = self.stop.send(());
        self.serving.await.expect("no panic").expect("an orderly end");
    }
}

fn prefix() -> String {
    static COUNT: AtomicU32 = AtomicU32::new(0);
    format!("r{}-{}", std::process::id(), COUNT.fetch_add(1, Ordering::Relaxed))
}

async fn client(server: &NatsServer, prefix: &str) -> Client {
    let connection = Connection {
        subject_prefix: prefix.to_owned(),
        timeout: Duration::from_millis(500),
        ..Connection::to([server.url()])
    };
    let client = Client::connect(&connection).await.expect("NATS").on(Plane::Service);
    for _ in 0..400 {
        if client.bootstrap_status().await.is_ok() {
            return client;
        }
        tokio::time::sleep(Duration::from_millis(25)).await;
    }
    panic!("no replica answers");
}

/// Another replica, played by hand: it changes the store, and says so when it is told to.
struct Other {
    nats: async_nats::Client,
    subject: String,
    seq: AtomicU64,
}

impl Other {
    async fn say(&self, changes: Vec<Change>) {
        let event = ChangeEvent {
            instance: "another".into(),
            seq: self.seq.load(Ordering::SeqCst),
            changes,
            ..ChangeEvent::default()
        };
        let payload = encode(&event, Format::MessagePack).expect("an event");
        self.nats.publish(self.subject.clone(), payload.into()).await.expect("sent");
        self.nats.flush().await.expect("sent");
    }

    async fn changed(&self, store: &dyn Store, from: &User, enabled: bool) -> User {
        let to = from.changed(|user| user.enabled = enabled);
        assert_eq!(store.update_user(from, &to).await.expect("a store"), UpdateUser::Updated);
        self.seq.fetch_add(1, Ordering::SeqCst);
        let change = Change { kind: ChangeKind::User, id: to.id.to_string(), version: to.version };
        self.say(vec![change]).await;
        to
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn reconnected_replica_answers_nothing_that_it_missed_the_end_of() {
    let Some(server) = NatsServer::start("").await else { return };
    let store: Arc<dyn Store> = Faulty::embedded();
    let home = sample::workspace("acme");
    assert_eq!(store.insert_workspace(&home).await.expect("a store"), InsertWorkspace::Inserted);
    let mut user = sample::user_with("ada", &home, &["reader"]);
    assert_eq!(store.insert_user(&user).await.expect("a store"), InsertUser::Inserted);
    let prefix = prefix();
    let replica = Replica::start(&server, store.clone(), &prefix).await;
    let client = client(&server, &prefix).await;
    let nats = async_nats::connect(server.url()).await.expect("NATS");
    let subject = Subjects::new(&prefix).expect("a prefix").changed();
    let other = Arc::new(Other { nats, subject, seq: AtomicU64::new(0) });
    let beating = other.clone();
    let heart = tokio::spawn(async move {
        loop {
            beating.say(Vec::new()).await;
            tokio::time::sleep(Duration::from_millis(1500)).await;
        }
    });
    let resource = [("workspace".to_owned(), "acme".into())].into_iter().collect();
    let check = Check { capability: "graph:read".into(), resource, ..Check::default() };
    let asked = async |id| client.authorise(About::User(id), &check).await.map(|a| a.decision.allow);

    let mut random = SmallRng::seed_from_u64(5);
    for round in 0..6 {
        // The replica has the user in memory, and hears of a change at once.
        while !asked(user.id).await.unwrap_or(false) {}
        replica.line.cut_off();
        if round > 0 {
            tokio::time::sleep(Duration::from_millis(random.random_range(0..400))).await;
        }
        user = other.changed(&*store, &user, false).await;
        replica.line.set(Line::default());
        let mut unanswered = 0;
        let first = loop {
            match asked(user.id).await {
                Ok(allow) => break allow,
                Err(_) => unanswered += 1,
            }
            assert!(unanswered < 10_000, "it does not come back");
        };
        assert!(!first, "round {round}: a stale allow after a reconnect");
        user = other.changed(&*store, &user, true).await;
        assert!(
            asked(user.id).await.expect("it is connected"),
            "round {round}: a stale deny after its event"
        );
    }
    heart.abort();
    replica.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn two_replicas_on_bad_lines_never_allow_who_was_ended() {
    let Some(server) = NatsServer::start("").await else { return };
    let store: Arc<dyn Store> = Faulty::embedded();
    let prefix = prefix();
    let replicas = [
        Replica::start(&server, store.clone(), &prefix).await,
        Replica::start(&server, store.clone(), &prefix).await,
    ];
    let client = client(&server, &prefix).await;
    let mut facts = Facts::begin(&client).await;
    let mut random = SmallRng::seed_from_u64(9);
    let (mut changed, mut unanswered) = (0, 0);
    for _ in 0..25 {
        facts.remember().await;
        let victim = &replicas[random.random_range(0..2)].line;
        let trouble = async {
            tokio::time::sleep(Duration::from_millis(random.random_range(0..60))).await;
            match random.random_range(0..3) {
                0 => victim.cut(),
                1 => {
                    victim.cut_off();
                    tokio::time::sleep(Duration::from_millis(300)).await;
                    victim.set(Line::default());
                }
                _ => {
                    victim.set(Line { stalled: true, ..Line::default() });
                    tokio::time::sleep(Duration::from_millis(300)).await;
                    victim.set(Line::default());
                }
            }
        };
        let change = async {
            for _ in 0..2 {
                match facts.change().await {
                    Ok(()) => changed += 1,
                    Err(_) => unanswered += 1,
                }
                facts.nobody_who_was_ended_gets_in().await;
            }
        };
        tokio::join!(trouble, change);
        // Now the victim is back, or about to be.
        for _ in 0..15 {
            facts.nobody_who_was_ended_gets_in().await;
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    }
    println!("{changed} changes, {unanswered} of unknown outcome, {} ended", facts.ended());
    assert!(facts.ended() > 10);
    tokio::time::sleep(Duration::from_secs(3)).await;
    facts.set_client(&client.clone().with_deadline(Duration::from_secs(10)));
    facts.check().await;
    for replica in replicas {
        replica.stop().await;
    }
}
