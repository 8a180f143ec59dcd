//! SIGKILL amid writes: what was acknowledged is there, and what was not is there whole or not at all.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use iam_client::api_keys::NewApiKey;
use iam_client::{Client, ClientError};
use iam_schema::subject::Plane;
use iam_schema::users::{UserInput, UserRecord};
use iam_schema::workspaces::WorkspaceInput;
use iam_schema::{ErrorKind, KeyId, Secret, UserId, WorkspaceId};
use iam_tests::Deployment;
use iam_tests::campaign::rounds;
use iam_tests::deployment::nats_url;
use rand::rngs::SmallRng;
use rand::{RngExt, SeedableRng};
use tokio::sync::watch;

const KILLS: &str = "IAM_TEST_KILLS";
const CLIENTS: usize = 8;
/// A ring holds no more than 64.
const MAX_RING: usize = 60;

/// A user as the service shows one, with the names of the keys that work.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Shown {
    name: String,
    roles: Vec<String>,
    enabled: bool,
    keys: BTreeSet<String>,
}

/// A record, and what it may be by all that was acknowledged and all that was only asked for.
#[derive(Debug)]
struct Tracked<T> {
    acknowledged: Option<T>,
    asked_for: Option<Option<T>>,
}

impl<T: Clone + PartialEq + std::fmt::Debug> Tracked<T> {
    /// Compares with what is there after a restart; how many acknowledged states were lost.
    fn found(&mut self, found: Option<T>, what: &str) -> u64 {
        let asked_for = self.asked_for.take();
        let is_old = found == self.acknowledged;
        let is_new = asked_for.as_ref() == Some(&found);
        if !is_old && !is_new {
            println!("{what}: {found:?} is neither {:?} nor {asked_for:?}", self.acknowledged);
        }
        self.acknowledged = found;
        u64::from(!is_old && !is_new)
    }
}

#[derive(Debug)]
struct User {
    username: String,
    id: Option<UserId>,
    state: Tracked<Shown>,
    /// Every key that was ever told to us, by name.
    keys: BTreeMap<String, (KeyId, Secret)>,
    touched: bool,
}

/// One caller with users and workspaces of its own, so that nobody else changes them.
struct Caller {
    number: usize,
    client: Client,
    random: SmallRng,
    home: WorkspaceId,
    users: Vec<User>,
    workspaces: Vec<(WorkspaceId, Tracked<(String, bool)>)>,
    /// The number of signing keys; the first caller rotates.
    ring: Tracked<usize>,
    count: u64,
    killed: Arc<AtomicBool>,
}

/// What became of a request: `None` while the service was being killed.
fn outcome<T>(answer: Result<T, ClientError>, killed: &AtomicBool) -> Option<T> {
    match answer {
        Ok(answer) => Some(answer),
        Err(ClientError::Refused(error)) => panic!("refused: {error:?}"),
        Err(other) => {
            assert!(killed.load(Ordering::SeqCst), "{other}");
            None
        }
    }
}

impl Caller {
    fn fresh(&mut self, what: &str) -> String {
        self.count += 1;
        format!("{what}-{}-{}", self.number, self.count)
    }

    /// Writes until the service is killed; how many writes were acknowledged.
    async fn write(mut self, mut gone: watch::Receiver<bool>) -> (Self, u64) {
        let mut acknowledged = 0;
        loop {
            let done = tokio::select! {
                done = self.step() => done,
                _ = gone.wait_for(|gone| *gone) => None,
            };
            let Some(done) = done else { return (self, acknowledged) };
            acknowledged += done;
        }
    }

    /// One write, or `None` when its outcome is not known.
    async fn step(&mut self) -> Option<u64> {
        match self.random.random_range(0..100) {
            0..30 => self.create_user().await,
            30..38 => self.workspace().await,
            38..40 if self.number == 0 => self.rotate().await,
            _ => self.change_user().await,
        }
    }

    async fn create_user(&mut self) -> Option<u64> {
        let username = self.fresh("user");
        let name = format!("Name of {username}");
        let shown =
            Shown { name: name.clone(), roles: vec!["reader".into()], enabled: true, keys: BTreeSet::new() };
        let state = Tracked { acknowledged: None, asked_for: Some(Some(shown.clone())) };
        self.users.push(User {
            username: username.clone(),
            id: None,
            state,
            keys: BTreeMap::new(),
            touched: true,
        });
        let input = UserInput {
            username: Some(username),
            name: Some(name),
            roles: Some(vec!["reader".into()]),
            ..UserInput::default()
        };
        let record = outcome(self.client.create_user(&self.home, input).await, &self.killed)?;
        let user = self.users.last_mut()?;
        user.id = Some(record.id.parse().expect("an id"));
        user.state = Tracked { acknowledged: Some(shown), asked_for: None };
        Some(1)
    }

    async fn change_user(&mut self) -> Option<u64> {
        // One of the last few, so that most are changed several times and all are found again.
        let recent = self.users.len().saturating_sub(6);
        let known: Vec<usize> =
            (recent..self.users.len()).filter(|i| self.users[*i].state.acknowledged.is_some()).collect();
        if known.is_empty() {
            return self.create_user().await;
        }
        let index = known[self.random.random_range(0..known.len())];
        let what = self.random.random_range(0..100);
        let name = self.fresh("name");
        let (client, killed) = (self.client.clone(), self.killed.clone());
        let user = &mut self.users[index];
        user.touched = true;
        let id = user.id?;
        let before = user.state.acknowledged.clone()?;
        let mut after = before.clone();
        let done = match what {
            0..35 if before.enabled => {
                after.keys.insert(name.clone());
                user.state.asked_for = Some(Some(after.clone()));
                let key = NewApiKey { user: Some(id), name: &name, expires: None };
                let created = outcome(client.create_api_key(key, None).await, &killed)?;
                let key_id = created.record.id.parse().expect("an id");
                user.keys.insert(name, (key_id, created.plaintext));
                Some(after)
            }
            35..55 if !before.keys.is_empty() => {
                let Some((name, (key, _))) = user
                    .keys
                    .iter()
                    .find(|(name, _)| before.keys.contains(*name))
                    .map(|(n, k)| (n.clone(), k))
                else {
                    return Some(0);
                };
                after.keys.remove(&name);
                user.state.asked_for = Some(Some(after.clone()));
                outcome(client.revoke_api_key(*key, None).await, &killed)?;
                Some(after)
            }
            55..70 => {
                after.enabled = !before.enabled;
                // All or nothing: a user who is disabled and whose keys work would be neither old nor new.
                after.keys.clear();
                user.state.asked_for = Some(Some(after.clone()));
                let answer = if after.enabled {
                    client.enable_user(id, None).await
                } else {
                    client.disable_user(id, None).await
                };
                outcome(answer, &killed)?;
                Some(after)
            }
            70..75 => {
                user.state.asked_for = Some(None);
                outcome(client.delete_user(id, None).await, &killed)?;
                None
            }
            _ => {
                after.name.clone_from(&name);
                after.roles = vec![if what % 2 == 0 { "reader".into() } else { "writer".into() }];
                user.state.asked_for = Some(Some(after.clone()));
                let roles = Some(after.roles.clone());
                let change = UserInput { name: Some(name), roles, ..UserInput::default() };
                outcome(client.update_user(id, change, None).await, &killed)?;
                Some(after)
            }
        };
        user.state = Tracked { acknowledged: done, asked_for: None };
        Some(1)
    }

    async fn workspace(&mut self) -> Option<u64> {
        let last = self.workspaces.len().checked_sub(1);
        let change = last.filter(|i| self.workspaces[*i].1.acknowledged.is_some() && self.random.random());
        let Some(index) = change else {
            let id: WorkspaceId = self.fresh("w").parse().expect("an id");
            let new = (format!("Workspace {id}"), true);
            let asked_for = Some(Some(new.clone()));
            self.workspaces.push((id.clone(), Tracked { acknowledged: None, asked_for }));
            let input = WorkspaceInput { name: Some(new.0.clone()), ..WorkspaceInput::default() };
            outcome(self.client.create_workspace(&id, input).await, &self.killed)?;
            self.workspaces.last_mut()?.1 = Tracked { acknowledged: Some(new), asked_for: None };
            return Some(1);
        };
        let (id, state) = &mut self.workspaces[index];
        let (name, enabled) = state.acknowledged.clone()?;
        let new = (name, !enabled);
        state.asked_for = Some(Some(new.clone()));
        if enabled {
            outcome(self.client.disable_workspace(id).await, &self.killed)?;
        } else {
            let input = WorkspaceInput { enabled: Some(true), ..WorkspaceInput::default() };
            outcome(self.client.update_workspace(id, input).await, &self.killed)?;
        }
        *state = Tracked { acknowledged: Some(new), asked_for: None };
        Some(1)
    }

    async fn rotate(&mut self) -> Option<u64> {
        let before = self.ring.acknowledged?;
        if before >= MAX_RING {
            return Some(0);
        }
        self.ring.asked_for = Some(Some(before + 1));
        outcome(self.client.rotate_signing_key().await, &self.killed)?;
        self.ring = Tracked { acknowledged: Some(before + 1), asked_for: None };
        Some(1)
    }

    /// Compares all that there is after a restart with all that was acknowledged; how much of that was lost.
    async fn check(&mut self, users: &BTreeMap<String, UserRecord>, everything: bool) -> u64 {
        let mut lost = 0;
        for user in &mut self.users {
            let found = match users.get(&user.username) {
                None => None,
                Some(record) => {
                    let id: UserId = record.id.parse().expect("an id");
                    user.id = Some(id);
                    let keys = if user.touched || everything {
                        keys_of(&self.client, id, &user.keys).await
                    } else {
                        user.state.acknowledged.as_ref().map(|shown| shown.keys.clone()).unwrap_or_default()
                    };
                    let UserRecord { name, roles, enabled, .. } = record.clone();
                    Some(Shown { name, roles, enabled, keys })
                }
            };
            lost += user.state.found(found, &user.username);
            user.touched = false;
        }
        for (id, state) in &mut self.workspaces {
            let found = match self.client.get_workspace(id).await {
                Ok(record) => Some((record.name, record.enabled)),
                Err(error) if error.kind() == Some(ErrorKind::NotFound) => None,
                Err(error) => panic!("{error}"),
            };
            lost += state.found(found, id.as_str());
        }
        if self.number == 0 {
            lost += self.ring.found(Some(published(&self.client).await), "signing keys");
        }
        lost
    }
}

/// The names of the keys that work, by the list and by the keys themselves.
async fn keys_of(
    client: &Client,
    user: UserId,
    known: &BTreeMap<String, (KeyId, Secret)>,
) -> BTreeSet<String> {
    let listed = client.all_api_keys(Some(user), None).await.expect("a list");
    let listed: BTreeSet<String> = listed.into_iter().map(|key| key.name).collect();
    for (name, (_, text)) in known {
        let resolved = match client.resolve_api_key(text).await {
            Ok(_) => true,
            Err(error) if error.kind() == Some(ErrorKind::AuthFailed) => false,
            Err(error) => panic!("{error}"),
        };
        assert_eq!(resolved, listed.contains(name), "{name} of {user}");
    }
    listed
}

/// How many signing keys are published: a rotation adds one.
async fn published(client: &Client) -> usize {
    let set = client.get_jwks().await.expect("a set");
    let set: serde_json::Value = serde_json::from_str(&set).expect("a set");
    set["keys"].as_array().expect("keys").len()
}

#[tokio::test(flavor = "multi_thread")]
async fn kill_amid_writes_loses_nothing_acknowledged() {
    let Some(url) = nats_url() else { return };
    let kills = rounds(KILLS, 5);
    let mut deployment = Deployment::start(&url, &[]).await;
    let client = deployment.client().clone().on(Plane::Service);
    client.bootstrap().await.expect("seeded");
    let ring = published(&client).await;
    let home: WorkspaceId = "acme".parse().expect("an id");
    client.create_workspace(&home, WorkspaceInput::default()).await.expect("a workspace");
    let killed = Arc::new(AtomicBool::new(false));
    let mut callers: Vec<Caller> = (0..CLIENTS)
        .map(|number| Caller {
            number,
            client: client.clone(),
            random: SmallRng::seed_from_u64(number as u64),
            home: home.clone(),
            users: Vec::new(),
            workspaces: Vec::new(),
            ring: Tracked { acknowledged: Some(ring), asked_for: None },
            count: 0,
            killed: killed.clone(),
        })
        .collect();
    let mut random = SmallRng::seed_from_u64(11);
    let (mut acknowledged, mut lost) = (0, 0);
    for kill in 1..=kills {
        killed.store(false, Ordering::SeqCst);
        let (gone, is_gone) = watch::channel(false);
        let writing: Vec<_> =
            callers.drain(..).map(|caller| tokio::spawn(caller.write(is_gone.clone()))).collect();
        tokio::time::sleep(Duration::from_millis(random.random_range(50..500))).await;
        killed.store(true, Ordering::SeqCst);
        deployment.kill();
        // Replies that were on their way still arrive.
        tokio::time::sleep(Duration::from_millis(200)).await;
        gone.send_replace(true);
        for task in writing {
            let (caller, written) = task.await.expect("no panic");
            acknowledged += written;
            callers.push(caller);
        }
        deployment.start_again(&[]).await;
        let users = client.all_users(Some(&home)).await.expect("a list");
        let users = users.into_iter().map(|user| (user.username.clone(), user)).collect();
        for caller in &mut callers {
            lost += caller.check(&users, kill == kills).await;
        }
        assert_eq!(lost, 0, "after {kill} kills, of {acknowledged} acknowledged writes");
    }
    println!("{kills} kills, {acknowledged} acknowledged writes, {lost} lost");
    assert!(acknowledged > kills as u64 * 10, "{acknowledged} in {kills} rounds: too few to tell");
}
