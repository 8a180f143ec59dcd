//! A store that fails when told to.

use std::collections::HashMap;
use std::future::Future;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use async_trait::async_trait;
use iam_schema::{KeyId, Timestamp, UserId, WorkspaceId};
use iam_svc::domain::api_keys::{ApiKey, KeyHash};
use iam_svc::domain::key_ring::KeyRing;
use iam_svc::domain::policy::Policy;
use iam_svc::domain::users::{NameKey, User};
use iam_svc::domain::workspaces::Workspace;
use iam_svc::store::embedded::{EmbeddedStore, Options};
use iam_svc::store::{
    DeleteApiKey, DeleteUser, InsertApiKey, InsertUser, InsertWorkspace, Page, Read, ReplaceKeyRing, Seed,
    SeedState, Seeded, Store, StoreError, Swept, UpdateUser, UpdateWorkspace,
};
use tempfile::TempDir;
use tokio::sync::Notify;

use crate::schedule::Turns;
use crate::world::{Setup, World};

/// How a call fails.
#[derive(Debug, Clone)]
pub enum Fault {
    /// The store does not answer; nothing was done.
    Unavailable,
    /// The write was done, but the store did not say so.
    UnknownButDone,
    /// The write was not done, but the store did not say so.
    UnknownAndNot,
    /// What was read cannot be true.
    Corrupt,
    /// A concurrent change won. A call that cannot lose goes through.
    LostRace,
    /// The store has a bug, and panics with this text.
    Panic(String),
    /// The call is done, and its answer is held back.
    Held(Arc<Gate>),
}

/// Where an answer waits.
#[derive(Debug, Default)]
pub struct Gate {
    reached: Notify,
    open: Notify,
}

impl Gate {
    /// Waits until an answer is held back here.
    pub async fn reached(&self) {
        self.reached.notified().await;
    }

    /// Lets the answer go.
    pub fn open(&self) {
        self.open.notify_one();
    }
}

/// An embedded store behind a fault or two.
#[derive(Debug)]
pub struct Faulty {
    inner: EmbeddedStore,
    state: Mutex<State>,
    turns: Turns,
    /// Held for as long as the store is.
    _dir: TempDir,
}

#[derive(Debug, Default)]
struct State {
    calls: Vec<&'static str>,
    /// The calls to come of this number, counted from 0, fail so.
    nth: Option<(usize, Fault)>,
    /// Every call of this method fails so.
    always: HashMap<&'static str, Fault>,
    /// Every call at all fails so.
    all: Option<Fault>,
    /// What reads give in place of the truth: ordinary ones, and where so marked serial ones too.
    old_users: HashMap<UserId, (User, bool)>,
    old_workspaces: HashMap<WorkspaceId, (Workspace, bool)>,
}

impl Faulty {
    /// An empty store of the default policy, without a fault.
    pub fn embedded() -> Arc<Self> {
        Self::on(TempDir::new().expect("a directory"))
    }

    /// The store of the default policy in a data directory, without a fault.
    pub fn on(dir: TempDir) -> Arc<Self> {
        let policy = Policy::build(&Default::default()).expect("the default policy");
        let inner =
            EmbeddedStore::open(dir.path(), Options::new(Arc::new(policy.root_roles()))).expect("a store");
        Arc::new(Self { inner, state: Mutex::default(), turns: Turns::default(), _dir: dir })
    }

    /// Where its callers wait for their turn; nobody does unless told to.
    pub fn turns(&self) -> &Turns {
        &self.turns
    }

    /// Holds records, claims and indexes against each other.
    ///
    /// # Errors
    /// As [`EmbeddedStore::verify`].
    pub fn verify(&self) -> Result<(), StoreError> {
        self.inner.verify()
    }

    /// A service on this store; more than one are replicas that hear nothing of each other.
    pub fn world(self: &Arc<Self>, setup: Setup) -> World {
        let policy = Policy::build(&setup.policy).expect("a policy that stands");
        World::over(self.clone(), Arc::new(policy), setup)
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// From now on every call fails so.
    pub fn fail_all(&self, fault: Fault) {
        self.state().all = Some(fault);
    }

    /// From now on every call of this method fails so.
    pub fn fail(&self, method: &'static str, fault: Fault) {
        self.state().always.insert(method, fault);
    }

    /// The call after the next `n` fails so, whichever it is.
    pub fn fail_nth(&self, n: usize, fault: Fault) {
        self.state().nth = Some((n, fault));
    }

    /// Reads of this user give this record; serial ones too where `serial`.
    pub fn old_user(&self, user: User, serial: bool) {
        self.state().old_users.insert(user.id, (user, serial));
    }

    /// Reads of this workspace give this record; serial ones too where `serial`.
    pub fn old_workspace(&self, workspace: Workspace, serial: bool) {
        self.state().old_workspaces.insert(workspace.id.clone(), (workspace, serial));
    }

    /// No more faults.
    pub fn heal(&self) {
        *self.state() = State::default();
    }

    /// The calls since this was last asked for.
    pub fn calls(&self) -> Vec<&'static str> {
        std::mem::take(&mut self.state().calls)
    }

    fn fault(&self, method: &'static str) -> Option<Fault> {
        let mut state = self.state();
        state.calls.push(method);
        match &mut state.nth {
            Some((0, _)) => return state.nth.take().map(|(_, fault)| fault),
            Some((n, _)) => *n -= 1,
            None => {}
        }
        state.always.get(method).or(state.all.as_ref()).cloned()
    }

    async fn around<T>(
        &self,
        method: &'static str,
        lost: Option<T>,
        call: impl Future<Output = Result<T, StoreError>> + Send,
    ) -> Result<T, StoreError> {
        self.turns.before(method).await;
        let answer = self.faulted(method, lost, call).await;
        self.turns.after().await;
        answer
    }

    async fn faulted<T>(
        &self,
        method: &'static str,
        lost: Option<T>,
        call: impl Future<Output = Result<T, StoreError>> + Send,
    ) -> Result<T, StoreError> {
        let Some(fault) = self.fault(method) else { return call.await };
        match (fault, lost) {
            (Fault::Unavailable, _) => Err(StoreError::Unavailable("told to".to_owned())),
            (Fault::UnknownAndNot, _) => Err(StoreError::OutcomeUnknown("told to".to_owned())),
            (Fault::UnknownButDone, _) => {
                call.await?;
                Err(StoreError::OutcomeUnknown("told to".to_owned()))
            }
            (Fault::Corrupt, _) => Err(StoreError::Corrupt {
                table: "told-to",
                key: "told to".to_owned(),
                cause: "told to".to_owned(),
            }),
            (Fault::LostRace, Some(lost)) => Ok(lost),
            (Fault::LostRace, None) => call.await,
            (Fault::Panic(text), _) => panic!("{text}"),
            (Fault::Held(gate), _) => {
                let answer = call.await;
                gate.reached.notify_one();
                gate.open.notified().await;
                answer
            }
        }
    }
}

#[async_trait]
impl Store for Faulty {
    async fn user(&self, id: UserId, read: Read) -> Result<Option<User>, StoreError> {
        let old = self.state().old_users.get(&id).cloned();
        let old = old.filter(|(_, serial)| *serial || read == Read::Ordinary).map(|(user, _)| user);
        let call = async move {
            match old {
                Some(old) => Ok(Some(old)),
                None => self.inner.user(id, read).await,
            }
        };
        self.around("user", None, call).await
    }

    async fn user_by_name(&self, name: &NameKey) -> Result<Option<User>, StoreError> {
        self.around("user_by_name", None, self.inner.user_by_name(name)).await
    }

    async fn insert_user(&self, user: &User) -> Result<InsertUser, StoreError> {
        self.around("insert_user", None, self.inner.insert_user(user)).await
    }

    async fn update_user(&self, from: &User, to: &User) -> Result<UpdateUser, StoreError> {
        self.around("update_user", Some(UpdateUser::LostRace), self.inner.update_user(from, to)).await
    }

    async fn delete_user(&self, user: &User) -> Result<DeleteUser, StoreError> {
        self.around("delete_user", Some(DeleteUser::LostRace), self.inner.delete_user(user)).await
    }

    async fn list_users(
        &self,
        workspace: Option<&WorkspaceId>,
        after: Option<UserId>,
        limit: usize,
    ) -> Result<Page<User, UserId>, StoreError> {
        self.around("list_users", None, self.inner.list_users(workspace, after, limit)).await
    }

    async fn workspace(&self, id: &WorkspaceId, read: Read) -> Result<Option<Workspace>, StoreError> {
        let old = self.state().old_workspaces.get(id).cloned();
        let old = old.filter(|(_, serial)| *serial || read == Read::Ordinary).map(|(workspace, _)| workspace);
        let call = async move {
            match old {
                Some(old) => Ok(Some(old)),
                None => self.inner.workspace(id, read).await,
            }
        };
        self.around("workspace", None, call).await
    }

    async fn insert_workspace(&self, workspace: &Workspace) -> Result<InsertWorkspace, StoreError> {
        self.around("insert_workspace", None, self.inner.insert_workspace(workspace)).await
    }

    async fn update_workspace(
        &self,
        from: &Workspace,
        to: &Workspace,
    ) -> Result<UpdateWorkspace, StoreError> {
        let lost = Some(UpdateWorkspace::LostRace);
        self.around("update_workspace", lost, self.inner.update_workspace(from, to)).await
    }

    async fn list_workspaces(
        &self,
        after: Option<&WorkspaceId>,
        limit: usize,
    ) -> Result<Page<Workspace, WorkspaceId>, StoreError> {
        self.around("list_workspaces", None, self.inner.list_workspaces(after, limit)).await
    }

    async fn insert_api_key(&self, key: &ApiKey) -> Result<InsertApiKey, StoreError> {
        self.around("insert_api_key", None, self.inner.insert_api_key(key)).await
    }

    async fn api_key_by_hash(&self, hash: &KeyHash) -> Result<Option<ApiKey>, StoreError> {
        self.around("api_key_by_hash", None, self.inner.api_key_by_hash(hash)).await
    }

    async fn api_key(&self, id: KeyId) -> Result<Option<ApiKey>, StoreError> {
        self.around("api_key", None, self.inner.api_key(id)).await
    }

    async fn delete_api_key(&self, key: &ApiKey) -> Result<DeleteApiKey, StoreError> {
        self.around("delete_api_key", Some(DeleteApiKey::Absent), self.inner.delete_api_key(key)).await
    }

    async fn list_api_keys(
        &self,
        user: UserId,
        after: Option<KeyId>,
        limit: usize,
    ) -> Result<Page<(ApiKey, Option<Timestamp>), KeyId>, StoreError> {
        self.around("list_api_keys", None, self.inner.list_api_keys(user, after, limit)).await
    }

    async fn touch_api_keys(&self, used: &[(UserId, KeyId, Timestamp)]) -> Result<(), StoreError> {
        self.around("touch_api_keys", None, self.inner.touch_api_keys(used)).await
    }

    async fn key_ring(&self) -> Result<Option<KeyRing>, StoreError> {
        self.around("key_ring", None, self.inner.key_ring()).await
    }

    async fn replace_key_ring(&self, to: &KeyRing) -> Result<ReplaceKeyRing, StoreError> {
        let lost = Some(ReplaceKeyRing::LostRace);
        self.around("replace_key_ring", lost, self.inner.replace_key_ring(to)).await
    }

    async fn seed_state(&self) -> Result<SeedState, StoreError> {
        self.around("seed_state", None, self.inner.seed_state()).await
    }

    async fn seed(&self, seed: &Seed, now: Timestamp) -> Result<Seeded, StoreError> {
        self.around("seed", Some(Seeded::InProgress), self.inner.seed(seed, now)).await
    }

    async fn sweep(&self, now: Timestamp) -> Result<Option<Swept>, StoreError> {
        self.around("sweep", None, self.inner.sweep(now)).await
    }

    async fn ping(&self) -> Result<(), StoreError> {
        self.around("ping", None, self.inner.ping()).await
    }
}
