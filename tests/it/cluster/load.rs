//! Callers who change things, and remember what was acknowledged.

use std::collections::BTreeMap;
use std::fmt::Write;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use iam_client::api_keys::NewApiKey;
use iam_client::decisions::About;
use iam_client::users::UserRef;
use iam_client::{Client, ClientError};
use iam_schema::decisions::Check;
use iam_schema::subject::Plane;
use iam_schema::users::UserInput;
use iam_schema::workspaces::WorkspaceInput;
use iam_schema::{ErrorKind, KeyId, Secret, UserId, WorkspaceId};
use iam_tests::deployment::connect;
use tokio::task::JoinSet;

/// How long a caller waits for an answer.
const DEADLINE: Duration = Duration::from_secs(5);
const WORKERS: usize = 6;
/// The pause of a caller who got no answer.
const PAUSE: Duration = Duration::from_millis(100);
/// Each so many-th user of a worker gets a password and logs in.
const LOGS_IN: usize = 10;
const PASSWORD: &str = "correct horse battery staple 42";

/// What a caller heard.
enum Heard<T> {
    Done(T),
    Refused(Option<ErrorKind>),
    /// Nothing that says what happened.
    Nothing,
}

#[derive(Debug, Clone)]
struct Holder {
    user: UserId,
    key: Secret,
    key_id: KeyId,
}

#[derive(Debug, Default, Clone, Copy)]
struct Count {
    asked: usize,
    answered: usize,
}

#[derive(Debug, Default)]
struct Known {
    phase: &'static str,
    counts: BTreeMap<&'static str, Count>,
    /// The phases in their order.
    phases: Vec<&'static str>,
    alive: Vec<Holder>,
    /// Whose key may no more, and whether the user may.
    ended: Vec<(Holder, bool)>,
    /// Names whose creation nobody answered for.
    open_names: Vec<String>,
    faults: Vec<String>,
    acknowledged: usize,
    races: usize,
}

#[derive(Debug)]
struct Shared {
    known: Mutex<Known>,
    home: WorkspaceId,
    stop: AtomicBool,
    unasked: AtomicUsize,
}

impl Shared {
    fn known(&self) -> MutexGuard<'_, Known> {
        self.known.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn fault(&self, fault: String) {
        let mut known = self.known();
        let phase = known.phase;
        known.faults.push(format!("{phase}: {fault}"));
    }

    /// Counts an answer, and sorts it.
    fn heard<T>(&self, answer: Result<T, ClientError>) -> Heard<T> {
        let heard = match answer {
            Ok(answer) => Heard::Done(answer),
            Err(error) => match error.kind() {
                Some(ErrorKind::Unavailable) => Heard::Nothing,
                Some(kind) => Heard::Refused(Some(kind)),
                None => Heard::Nothing,
            },
        };
        let mut known = self.known();
        let phase = known.phase;
        let count = known.counts.entry(phase).or_default();
        count.asked += 1;
        count.answered += usize::from(!matches!(heard, Heard::Nothing));
        heard
    }

    /// An acknowledged change, or nothing; a refusal is a fault, since nobody else changes the same thing.
    fn acknowledged<T>(&self, what: &str, answer: Result<T, ClientError>) -> Option<T> {
        match self.heard(answer) {
            Heard::Done(done) => {
                self.known().acknowledged += 1;
                Some(done)
            }
            Heard::Refused(Some(ErrorKind::Conflict | ErrorKind::Throttled)) | Heard::Nothing => None,
            Heard::Refused(kind) => {
                self.fault(format!("{what} was refused: {kind:?}"));
                None
            }
        }
    }

    fn question(&self) -> Check {
        let resource = [("workspace".to_owned(), self.home.as_str().into())].into_iter().collect();
        Check { capability: "graph:read".into(), resource, ..Check::default() }
    }

    /// Asks about a credential, which must be good or must not.
    async fn ask(&self, client: &Client, about: About<'_>, good: bool, who: UserId) {
        let answer = client.authorise(about, &self.question()).await;
        match (self.heard(answer), good) {
            (Heard::Done(decided), _) if decided.decision.allow != good => {
                self.fault(format!("{who} by {}: allow is not {good}", kind(about)));
            }
            (Heard::Refused(error), true) => {
                self.fault(format!("{who} by {} is lost: {error:?}", kind(about)))
            }
            _ => {}
        }
    }
}

fn kind(about: About<'_>) -> &'static str {
    match about {
        About::Oneself => "itself",
        About::User(_) => "id",
        About::Credential(_) => "key",
    }
}

/// The callers.
#[derive(Debug)]
pub struct Load {
    shared: Arc<Shared>,
    client: Client,
    tasks: Mutex<JoinSet<()>>,
}

impl Load {
    /// Starts the callers on a deployment.
    pub async fn begin(url: &str, prefix: &str) -> Self {
        let home: WorkspaceId = "acme".parse().expect("an id");
        let known = Mutex::new(Known::default());
        let shared = Shared { known, home, stop: AtomicBool::new(false), unasked: AtomicUsize::new(0) };
        let shared = Arc::new(shared);
        let client = connect(url, prefix).await.on(Plane::Service).with_deadline(DEADLINE);
        client.bootstrap().await.expect("the first admin");
        let made = client.create_workspace(&shared.home, WorkspaceInput::default()).await;
        made.expect("a workspace");
        let mut tasks = JoinSet::new();
        for worker in 0..WORKERS {
            let client = connect(url, prefix).await.on(Plane::Service).with_deadline(DEADLINE);
            tasks.spawn(work(shared.clone(), client, worker));
        }
        let pair = [connect(url, prefix).await, connect(url, prefix).await]
            .map(|client| client.on(Plane::Service).with_deadline(DEADLINE));
        tasks.spawn(race(shared.clone(), pair));
        Self { shared, client, tasks: Mutex::new(tasks) }
    }

    /// What happens from now on is of this phase.
    pub fn set_phase(&self, phase: &'static str) {
        let mut known = self.shared.known();
        known.phase = phase;
        if !known.phases.contains(&phase) {
            known.phases.push(phase);
        }
    }

    /// A phase of some length.
    pub async fn phase(&self, phase: &'static str, length: Duration) {
        self.set_phase(phase);
        tokio::time::sleep(length).await;
    }

    /// Users with keys about whom nobody has asked.
    pub async fn unasked(&self, count: usize) -> Vec<Secret> {
        let mut keys = Vec::new();
        while keys.len() < count {
            let name = format!("cold-{}", self.shared.unasked.fetch_add(1, Ordering::Relaxed));
            if let Some(holder) = create(&self.shared, &self.client, &name, false).await {
                keys.push(holder.key);
            }
        }
        keys
    }

    /// Asks about credentials that no memory holds, while the store cannot answer.
    ///
    /// # Panics
    /// When one of them is allowed, or refused as if that had been decided.
    pub async fn ask_without_a_store(&self, keys: &[Secret]) -> String {
        let mut longest = Duration::ZERO;
        for key in keys {
            let began = Instant::now();
            let answer = self.client.authorise(About::Credential(key), &self.shared.question()).await;
            longest = longest.max(began.elapsed());
            let unavailable = answer
                .as_ref()
                .is_err_and(|error| matches!(error.kind(), Some(ErrorKind::Unavailable) | None));
            assert!(unavailable, "decided without a store: {answer:?}");
        }
        assert!(longest < DEADLINE + Duration::from_secs(1), "{longest:?}");
        format!("{} decisions without a store: all unavailable, the slowest after {longest:.1?}", keys.len())
    }

    /// How long it takes until a change is acknowledged again.
    pub async fn until_a_change_is_taken(&self) -> Duration {
        let began = Instant::now();
        loop {
            let name = format!("again-{}", self.shared.unasked.fetch_add(1, Ordering::Relaxed));
            if create(&self.shared, &self.client, &name, false).await.is_some() {
                return began.elapsed();
            }
        }
    }

    /// Stops the callers, asks after everything once more, and gives the table.
    ///
    /// # Panics
    /// When anything acknowledged is not in force, or anything ended is allowed, or was at any time.
    pub async fn end(self) -> String {
        self.shared.stop.store(true, Ordering::Relaxed);
        let mut tasks = std::mem::take(&mut *self.tasks.lock().unwrap_or_else(PoisonError::into_inner));
        while let Some(ended) = tasks.join_next().await {
            ended.expect("a caller");
        }
        // A claim that nobody finished is left alone for so long.
        tokio::time::sleep(Duration::from_secs(11)).await;
        self.set_phase("in the end");
        let (alive, ended, open_names) = {
            let known = self.shared.known();
            (known.alive.clone(), known.ended.clone(), known.open_names.clone())
        };
        for _ in 0..2 {
            for holder in &alive {
                self.shared.ask(&self.client, About::Credential(&holder.key), true, holder.user).await;
            }
            for (holder, may) in &ended {
                self.shared.ask(&self.client, About::Credential(&holder.key), false, holder.user).await;
                self.shared.ask(&self.client, About::User(holder.user), *may, holder.user).await;
            }
        }
        for name in &open_names {
            let made = self.client.create_user(&self.shared.home, named(name, false)).await;
            let free = made.is_ok()
                || self.client.get_user(UserRef::Name(name), Some(&self.shared.home)).await.is_ok();
            if !free {
                self.shared.fault(format!("the name {name} is held by nobody"));
            }
        }
        let known = self.shared.known();
        let mut table = String::from("| phase | requests | answered | share |\n| --- | --- | --- | --- |\n");
        for phase in &known.phases {
            let Count { asked, answered } = known.counts.get(phase).copied().unwrap_or_default();
            let share = 100.0 * answered as f64 / asked.max(1) as f64;
            let _ = writeln!(table, "| {phase} | {asked} | {answered} | {share:.2} % |");
        }
        let _ = writeln!(
            table,
            "{} changes acknowledged, {} races for a name, {} alive and {} ended in the end, {} names open, {} faults",
            known.acknowledged,
            known.races,
            alive.len(),
            ended.len(),
            open_names.len(),
            known.faults.len()
        );
        assert!(known.faults.is_empty(), "{table}{}", known.faults.join("\n"));
        assert!(!alive.is_empty() && !ended.is_empty(), "{table}: nothing was shown");
        table
    }
}

fn named(name: &str, password: bool) -> UserInput {
    UserInput {
        username: Some(name.to_owned()),
        roles: Some(vec!["reader".into()]),
        password: password.then(|| Secret::new(PASSWORD)),
        ..UserInput::default()
    }
}

/// A user with a key, if all of it was acknowledged.
async fn create(shared: &Shared, client: &Client, name: &str, password: bool) -> Option<Holder> {
    let answer = client.create_user(&shared.home, named(name, password)).await;
    let nobody_there = matches!(answer, Err(ClientError::NoResponder { .. }));
    let Some(user) = shared.acknowledged("a new name", answer) else {
        if !nobody_there {
            shared.known().open_names.push(name.to_owned());
        }
        tokio::time::sleep(PAUSE).await;
        return None;
    };
    let user: UserId = user.id.parse().expect("an id");
    let key = NewApiKey { user: Some(user), name: "laptop", expires: None };
    let key = shared.acknowledged("a key", client.create_api_key(key, None).await)?;
    let key_id = key.record.id.parse().expect("an id");
    Some(Holder { user, key: key.plaintext, key_id })
}

async fn work(shared: Arc<Shared>, client: Client, worker: usize) {
    for k in 0.. {
        if shared.stop.load(Ordering::Relaxed) {
            return;
        }
        let (name, logs_in) = (format!("user-{worker}-{k}"), k % LOGS_IN == 0);
        let Some(holder) = create(&shared, &client, &name, logs_in).await else { continue };
        let (user, by_key) = (holder.user, About::Credential(&holder.key));
        for about in [by_key, About::User(user), by_key] {
            shared.ask(&client, about, true, user).await;
        }
        if logs_in {
            let login = client.login(&name, &Secret::new(PASSWORD), None).await;
            if let Some(session) = shared.acknowledged("a login", login) {
                shared.ask(&client, About::Credential(&session.jwt), true, user).await;
            }
        }
        // Whether the user may, once the key may not.
        let ended = match k % 4 {
            0 => {
                shared.known().alive.push(holder);
                continue;
            }
            1 => {
                let revoked = client.revoke_api_key(holder.key_id, None).await;
                shared.acknowledged("a revocation", revoked).map(|()| true)
            }
            2 => {
                let roles = UserInput { roles: Some(Vec::new()), ..UserInput::default() };
                let demoted = client.update_user(user, roles, None).await;
                shared.acknowledged("a demotion", demoted).map(|_| false)
            }
            _ => {
                let disabled = client.disable_user(user, None).await;
                let mut may = shared.acknowledged("a disabling", disabled).map(|()| false);
                if may.is_some() && k % 8 == 3 {
                    shared.ask(&client, by_key, false, user).await;
                    let enabled = client.enable_user(user, None).await;
                    may = shared.acknowledged("an enabling", enabled).map(|()| true);
                }
                may
            }
        };
        let Some(may) = ended else { continue };
        for about in [by_key, by_key] {
            shared.ask(&client, about, false, user).await;
        }
        shared.ask(&client, About::User(user), may, user).await;
        let earlier = {
            let mut known = shared.known();
            known.ended.push((holder, may));
            let any = rand::random_range(0..known.ended.len());
            known.ended[any].clone()
        };
        shared.ask(&client, About::Credential(&earlier.0.key), false, earlier.0.user).await;
    }
}

/// Two callers want each name.
async fn race(shared: Arc<Shared>, [one, other]: [Client; 2]) {
    for k in 0.. {
        if shared.stop.load(Ordering::Relaxed) {
            return;
        }
        let name = format!("race-{k}");
        let (first, second) = tokio::join!(
            one.create_user(&shared.home, named(&name, false)),
            other.create_user(&shared.home, named(&name, false))
        );
        let won = [first, second].map(|answer| matches!(shared.heard(answer), Heard::Done(_)));
        shared.known().races += 1;
        if won == [false, false] {
            tokio::time::sleep(PAUSE).await;
        }
        if won == [true, true] {
            shared.fault(format!("{name} has two winners"));
        }
    }
}
