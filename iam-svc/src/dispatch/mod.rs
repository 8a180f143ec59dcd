//! Bytes in, bytes out: the whole service without the bus.
//!
//! There are two phases. [`Dispatch::answer_now`] is synchronous and answers from memory, on the thread that
//! took the request off the bus; what must wait or takes long it hands back as a [`Later`], which
//! [`Dispatch::answer_later`] finishes elsewhere. Both give a reply for whatever bytes come in.

pub mod audit;
mod decide;
mod decode;
mod identity;
mod reply;
mod request;

use std::borrow::Cow;
use std::collections::HashMap;
use std::panic::AssertUnwindSafe;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Instant;

use futures_util::FutureExt;
use iam_schema::changes::{Change, Floors, Followed};
use iam_schema::codec::{Format, Payload};
use iam_schema::subject::Plane;
use iam_schema::{IamRequest, KeyId, Needs, OperationName, Timestamp, UserId};
use tracing::Instrument;

use self::audit::{Audit, Facts};
use self::decide::Decided;
use self::decode::Operation;
use self::identity::{Identity, Stop, View};
pub use self::request::{Answer, Answered, Headers, Incoming, Later, Reply};
use crate::cache::Cache;
use crate::ctx::Ctx;
use crate::domain::caller::Caller;
use crate::domain::shown::loggable;
use crate::error::{AuthFailure, Denial, OpError};
use crate::ops::{self, Call, Done};

/// The largest payload that is decoded on a front thread, in bytes.
const MAX_PAYLOAD_NOW: usize = 16 * 1024;
/// How often a question is asked again after what was missing was loaded. A user and a home workspace take
/// two rounds; more means that somebody changes them as fast as they are read.
const ROUNDS: usize = 8;
/// A key's last use is written at most so often, in milliseconds. Source: protocol, `ApiKeyRecord.last_used`.
const TOUCH_EVERY_MS: i64 = 300_000;
/// The most keys whose last write is remembered.
const MOST_TOUCHED: usize = 50_000;

/// The service, from bytes to bytes. Shared by all threads.
#[derive(Debug)]
pub struct Dispatch {
    ctx: Arc<Ctx>,
    cache: Cache,
    audit: Audit,
    touched: quick_cache::sync::Cache<KeyId, i64>,
    touches: Mutex<HashMap<KeyId, (UserId, Timestamp)>>,
}

/// What an operation came to.
enum Served {
    Done(Done),
    Decided(Decided),
}

impl Dispatch {
    /// The service over its seams.
    pub fn new(ctx: Arc<Ctx>, audit: Audit) -> Self {
        Self {
            ctx,
            cache: Cache::default(),
            audit,
            touched: quick_cache::sync::Cache::new(MOST_TOUCHED),
            touches: Mutex::default(),
        }
    }

    /// The seams, for whoever runs beside the requests.
    pub fn ctx(&self) -> &Arc<Ctx> {
        &self.ctx
    }

    /// The audit queue.
    pub fn audit(&self) -> &Audit {
        &self.audit
    }

    /// Answers from memory if that can be done; never waits.
    pub fn answer_now(&self, incoming: Incoming<'_>) -> Answer {
        let guarded = std::panic::catch_unwind(AssertUnwindSafe(|| self.try_now(&incoming)));
        match guarded {
            Ok(Some(reply)) => Answer::Now(reply),
            Ok(None) => Answer::Later(Later::of(&incoming)),
            Err(_) => {
                let format = Payload::format_of(incoming.payload);
                Answer::Now(self.refuse(&panicked(), incoming.plane, format, ""))
            }
        }
    }

    fn refuse(&self, error: &OpError, plane: Plane, format: Format, request_id: &str) -> Reply {
        let request_id = self.traceable(request_id, Some(error));
        log_failure(error, "", &request_id);
        reply::write(&reply::failed(reply::error(error, plane, &request_id)), format)
    }

    /// The request's own id. A fault of ours always has one, by which its log line is found.
    fn traceable<'r>(&self, given: &'r str, error: Option<&OpError>) -> Cow<'r, str> {
        match error {
            Some(OpError::Internal(_)) if given.is_empty() => {
                Cow::Owned(self.ctx.entropy.uuid(self.ctx.now()).to_string())
            }
            _ => Cow::Borrowed(given),
        }
    }

    /// The reply, or `None` where somebody who may wait must take over.
    fn try_now(&self, incoming: &Incoming<'_>) -> Option<Reply> {
        let format = Payload::format_of(incoming.payload);
        // Refused here, garbage costs no more than it must.
        let refused = |error: OpError| Some(self.refuse(&error, incoming.plane, format, ""));
        let Ok(operation) = incoming.operation.parse::<OperationName>() else {
            return refused(OpError::invalid("", "unknown operation"));
        };
        if !decide::answers(operation) || incoming.payload.len() > MAX_PAYLOAD_NOW {
            return None;
        }
        let payload = match Payload::read(incoming.payload) {
            Ok(payload) => payload,
            Err(error) => return refused(OpError::invalid(error.field, error.rule)),
        };
        let request: IamRequest<'_> = match payload.decode() {
            Ok(request) => request,
            Err(error) => return refused(OpError::invalid(error.field, error.rule)),
        };
        let (now, now_ms) = (self.ctx.now(), self.ctx.clock.monotonic_ms());
        let floors = match incoming.headers.floors() {
            Ok(floors) => floors,
            Err(error) => return refused(error),
        };
        if !decide::is_small(&request) || !floors.iter().all(|floor| self.cache.meets(floor, now_ms)) {
            return None;
        }
        let mut caller = None;
        let decided = std::panic::catch_unwind(AssertUnwindSafe(|| {
            self.decide_now(incoming, operation, &request, now, now_ms, &mut caller)
        }));
        let outcome = match decided.unwrap_or_else(|_| Err(panicked().into())) {
            Ok(decided) => Ok(decided),
            Err(Stop::Missing) => return None,
            Err(Stop::Failed(error)) => Err(error),
        };
        let request_id = self.traceable(&request.request_id, outcome.as_ref().err());
        let facts = Facts {
            plane: incoming.plane,
            operation,
            request: &request,
            request_id: &request_id,
            now,
            duration_us: micros(incoming.received),
        };
        self.audit.decided(
            &self.ctx,
            &facts,
            caller.as_ref().map(|c| c.principal.as_ref()),
            outcome.as_ref(),
        );
        Some(match outcome {
            Ok(decided) => {
                self.note_use(&decided, now, now_ms);
                reply::write(&reply::decided(&decided), format)
            }
            Err(error) => self.refuse(&error, incoming.plane, format, &request_id),
        })
    }

    fn decide_now(
        &self,
        incoming: &Incoming<'_>,
        operation: OperationName,
        request: &IamRequest<'_>,
        now: Timestamp,
        now_ms: i64,
        caller: &mut Option<Identity>,
    ) -> Result<Decided, Stop> {
        check_operation(operation, request)?;
        let asked = decide::read(operation, incoming.plane, request)?;
        let view = View::new(&self.ctx, &self.cache, now, now_ms);
        if incoming.plane == Plane::Api {
            let identity = caller.insert(view.identify(&incoming.headers.credential()?)?);
            may_ask(operation, identity)?;
            self.note_identity(identity, now, now_ms);
        }
        decide::answer(&view, incoming.plane, caller.as_ref(), &asked)
    }

    /// Finishes a request. Whatever it changed is dropped from memory before this returns.
    pub async fn answer_later(&self, later: Box<Later>) -> Answered {
        if later.headers().deadline().is_some_and(|deadline| later.received.elapsed() >= deadline) {
            return Answered { reply: None, changes: Vec::new(), unknown: Vec::new() };
        }
        let now_ms = self.ctx.clock.monotonic_ms();
        let mut call = Call::new(later.plane, Caller::Nobody, self.ctx.now(), now_ms);
        let served = AssertUnwindSafe(self.serve(&later, &mut call)).catch_unwind().await;
        self.cache.drop_changed(&call.changes, self.ctx.clock.monotonic_ms());
        let reply = served.unwrap_or_else(|_| {
            let format = Payload::format_of(&later.payload);
            self.refuse(&panicked(), later.plane, format, "")
        });
        Answered { reply: Some(reply), changes: call.changes, unknown: call.unknown }
    }

    /// In mode `token`, seeds an empty deployment. Gives what changed: to be published once there is a bus.
    ///
    /// # Errors
    /// `Unavailable`, also while another replica's attempt is under way; `Internal`.
    pub async fn seed_at_start(&self) -> Result<Vec<Change>, OpError> {
        let now_ms = self.ctx.clock.monotonic_ms();
        let mut call = Call::new(Plane::Service, Caller::Service, self.ctx.now(), now_ms);
        let received = Instant::now();
        let Some(done) = ops::bootstrap::seed_at_start(&self.ctx, &mut call).await? else {
            return Ok(Vec::new());
        };
        let facts = Facts {
            plane: call.plane,
            operation: OperationName::Bootstrap,
            request: &IamRequest::default(),
            request_id: &self.ctx.entropy.uuid(call.now).to_string(),
            now: call.now,
            duration_us: micros(received),
        };
        self.audit.finished(&self.ctx, &facts, Some(&call), Ok(&done));
        Ok(call.changes)
    }

    /// What became of a change whose outcome was unknown: the record's version now.
    ///
    /// # Errors
    /// `Unavailable` while the store does not answer.
    pub async fn settled(&self, change: &Change) -> Result<Change, OpError> {
        self.cache.settled(&self.ctx, change).await
    }

    async fn serve(&self, later: &Later, call: &mut Call) -> Reply {
        let format = Payload::format_of(&later.payload);
        let early = |error: OpError| self.refuse(&error, later.plane, format, "");
        let Ok(operation) = later.operation.parse::<OperationName>() else {
            return early(OpError::invalid("", "unknown operation"));
        };
        let payload = match Payload::read(&later.payload) {
            Ok(payload) => payload,
            Err(error) => return early(OpError::invalid(error.field, error.rule)),
        };
        let request: IamRequest<'_> = match payload.decode() {
            Ok(request) => request,
            Err(error) => return early(OpError::invalid(error.field, error.rule)),
        };
        let request_id = match request.request_id.as_ref() {
            "" => self.ctx.entropy.uuid(call.now).to_string(),
            given => given.to_owned(),
        };
        let span = tracing::info_span!(
            "request",
            operation = operation.as_str(),
            plane = later.plane.as_str(),
            request_id = loggable(&request_id),
            trace_id = later.headers().trace_id(),
        );
        let carried_out = self.carry_out(later, operation, &request, call).instrument(span);
        let outcome = AssertUnwindSafe(carried_out).catch_unwind().await.unwrap_or_else(|_| Err(panicked()));

        let facts = Facts {
            plane: later.plane,
            operation,
            request: &request,
            request_id: &request_id,
            now: call.now,
            duration_us: micros(later.received),
        };
        let response = match outcome {
            Ok(Served::Decided(decided)) => {
                self.audit.decided(&self.ctx, &facts, call.caller.actor().map(Arc::as_ref), Ok(&decided));
                self.note_use(&decided, call.now, call.monotonic_ms);
                reply::decided(&decided)
            }
            Ok(Served::Done(done)) => {
                self.audit.finished(&self.ctx, &facts, Some(call), Ok(&done));
                reply::done(done)
            }
            Err(error) => {
                log_failure(&error, operation.as_str(), &request_id);
                if decide::answers(operation) {
                    self.audit.decided(&self.ctx, &facts, call.caller.actor().map(Arc::as_ref), Err(&error));
                } else {
                    self.audit.finished(&self.ctx, &facts, Some(call), Err(&error));
                }
                reply::failed(reply::error(&error, later.plane, &request_id))
            }
        };
        reply::write(&response, format)
    }

    /// Syntax, credential, then the operation, which decides about capability and target.
    async fn carry_out(
        &self,
        later: &Later,
        name: OperationName,
        request: &IamRequest<'_>,
        call: &mut Call,
    ) -> Result<Served, OpError> {
        check_operation(name, request)?;
        let operation = decode::operation(name, later.plane, request)?;
        let question = match operation {
            Operation::Decide => Some(decide::read(name, later.plane, request)?),
            _ => None,
        };
        let headers = later.headers();
        let floors = headers.floors()?;
        let credential = match (later.plane, name.needs()) {
            (Plane::Service, _) | (Plane::Api, Needs::Public) => None,
            // Without one nobody makes us read the store, nor learns what is in it.
            (Plane::Api, _) => Some(headers.credential()?),
        };
        let mut view = View::new(&self.ctx, &self.cache, call.now, call.monotonic_ms).after(&floors);
        if later.plane == Plane::Service {
            call.client_ip = request.client_ip.to_string();
        }
        let identity = match (credential, name.needs()) {
            (None, Needs::Public) => None,
            (None, _) => {
                self.meet(&floors).await?;
                call.caller = self.service_caller(&mut view, name, request).await?;
                None
            }
            (Some(credential), _) => {
                let mut identity = asked(&mut view, |view| view.identify(&credential)).await;
                // Only somebody may make us read the store for floors; and with them met, who it is is asked anew.
                // A holder whom memory alone refuses is somebody: the floors may be of what lets them in again.
                let somebody = match &identity {
                    Ok(_) => true,
                    Err(OpError::AuthFailed(failure)) => failure.is_of_a_holder(),
                    Err(_) => false,
                };
                if somebody && !floors.is_empty() {
                    self.meet(&floors).await?;
                    view = View::new(&self.ctx, &self.cache, call.now, call.monotonic_ms).after(&floors);
                    identity = asked(&mut view, |view| view.identify(&credential)).await;
                }
                let identity = identity?;
                call.caller = Caller::Actor(identity.principal.clone());
                may_ask(name, &identity)?;
                self.note_identity(&identity, call.now, call.monotonic_ms);
                Some(identity)
            }
        };
        if later.plane == Plane::Service && name.needs() == Needs::Public {
            self.meet(&floors).await?;
        }
        if let Some(question) = question {
            let plane = later.plane;
            let answer = |view: &View<'_>| decide::answer(view, plane, identity.as_ref(), &question);
            return asked(&mut view, answer).await.map(Served::Decided);
        }
        run(&self.ctx, call, operation).await.map(Served::Done)
    }

    async fn meet(&self, floors: &Floors) -> Result<(), OpError> {
        for floor in floors.iter() {
            self.cache.meet(&self.ctx, floor).await?;
        }
        Ok(())
    }

    /// On whose behalf a trusted service asks: an actor's, who must be alive, or its own.
    async fn service_caller(
        &self,
        view: &mut View<'_>,
        name: OperationName,
        request: &IamRequest<'_>,
    ) -> Result<Caller, OpError> {
        if matches!(name.needs(), Needs::ServicePlane | Needs::ServicePlaneOrOneself) {
            return Ok(Caller::Service);
        }
        let Some(actor) = decode::actor(request)? else { return Ok(Caller::Service) };
        match asked(view, |view| view.alive(actor)).await? {
            Some((principal, true)) => Ok(Caller::Actor(principal)),
            Some((_, false)) | None => Err(Denial::ActorNotLive.into()),
        }
    }

    fn note_use(&self, decided: &Decided, now: Timestamp, now_ms: i64) {
        match decided {
            Decided::Identity(identity)
            | Decided::Decision { identity: Some(identity), .. }
            | Decided::Decisions { identity: Some(identity), .. } => {
                self.note_identity(identity, now, now_ms)
            }
            Decided::Decision { .. } | Decided::Decisions { .. } => {}
        }
    }

    /// Takes note that a key was used, if that was not written lately.
    fn note_identity(&self, identity: &Identity, now: Timestamp, now_ms: i64) {
        let Some(key) = identity.key else { return };
        if self.touched.get(&key).is_some_and(|last_ms| now_ms - last_ms < TOUCH_EVERY_MS) {
            return;
        }
        self.touched.insert(key, now_ms);
        let mut touches = self.touches.lock().unwrap_or_else(PoisonError::into_inner);
        touches.insert(key, (identity.principal.id, now));
    }

    /// Writes when keys were last used; to be called every few seconds, and at the end.
    pub async fn write_last_used(&self) {
        let touches = std::mem::take(&mut *self.touches.lock().unwrap_or_else(PoisonError::into_inner));
        if touches.is_empty() {
            return;
        }
        let used: Vec<_> = touches.into_iter().map(|(key, (user, at))| (user, key, at)).collect();
        if let Err(error) = self.ctx.store.touch_api_keys(&used).await {
            tracing::warn!(%error, keys = used.len(), "the last use of keys was not written");
        }
    }

    /// Applies what the change events said: drops what they name, and remembers the versions.
    pub fn follow(&self, followed: &Followed) {
        self.cache.follow(followed, self.ctx.clock.monotonic_ms());
    }

    /// Drops everything cached.
    pub fn forget_everything(&self) {
        self.cache.drop_everything();
    }

    /// Whether what is cached may be used: not while some connection may have missed events.
    pub fn trust_cache(&self, trusted: bool) {
        self.cache.trust(trusted);
    }

    /// Hands over the audit summaries counted so far.
    pub fn flush_summaries(&self) {
        self.audit.flush_summaries(&self.ctx, self.ctx.now());
    }

    /// The reply for a request that cannot be taken on for now: `unavailable`, in the request's own form.
    pub fn overloaded(&self, payload: &[u8]) -> Reply {
        let error = OpError::Unavailable("overloaded".into());
        let response = reply::failed(reply::error(&error, Plane::Api, ""));
        reply::write(&response, Payload::format_of(payload))
    }
}

/// Asks, loads what is missing, and asks again.
async fn asked<T>(
    view: &mut View<'_>,
    question: impl Fn(&View<'_>) -> Result<T, Stop>,
) -> Result<T, OpError> {
    for _ in 0..ROUNDS {
        match question(view) {
            Ok(answer) => return Ok(answer),
            Err(Stop::Failed(error)) => return Err(error),
            Err(Stop::Missing) => view.load_needs().await?,
        }
    }
    Err(OpError::Unavailable("records change faster than they can be read".into()))
}

/// The body may repeat the operation; it must be the same.
fn check_operation(name: OperationName, request: &IamRequest<'_>) -> Result<(), OpError> {
    if request.operation.is_empty() || request.operation == name.as_str() {
        Ok(())
    } else {
        Err(OpError::invalid("operation", "differs from the subject"))
    }
}

/// What an identity on the API plane may ask for at all.
fn may_ask(name: OperationName, identity: &Identity) -> Result<(), OpError> {
    let own_affairs = matches!(name, OperationName::Whoami | OperationName::ChangePassword);
    if identity.change_password_only && !own_affairs {
        return Err(AuthFailure::MustChangePassword.into());
    }
    match name.needs() {
        Needs::ServicePlane => Err(Denial::ServicePlaneOnly.into()),
        _ => Ok(()),
    }
}

async fn run(ctx: &Ctx, call: &mut Call, operation: Operation) -> Result<Done, OpError> {
    match operation {
        Operation::Login(req) => ops::sessions::login(ctx, call, req).await,
        Operation::ChangePassword(req) => {
            if call.caller.actor().is_none() {
                return Err(OpError::invalid("actor", "is missing"));
            }
            ops::sessions::change_password(ctx, call, req).await
        }
        Operation::Whoami => ops::sessions::whoami(ctx, call).await,
        Operation::CreateUser(req) => ops::users::create_user(ctx, call, *req).await,
        Operation::GetUser(who, workspace) => ops::users::get_user(ctx, call, who, workspace).await,
        Operation::ListUsers(workspace, page) => ops::users::list_users(ctx, call, workspace, page).await,
        Operation::UpdateUser(req) => ops::users::update_user(ctx, call, *req).await,
        Operation::DisableUser(user, workspace) => ops::users::disable_user(ctx, call, user, workspace).await,
        Operation::EnableUser(user, workspace) => ops::users::enable_user(ctx, call, user, workspace).await,
        Operation::DeleteUser(user, workspace) => ops::users::delete_user(ctx, call, user, workspace).await,
        Operation::RevokeUserTokens(user, workspace) => {
            ops::sessions::revoke_user_tokens(ctx, call, user, workspace).await
        }
        Operation::ResetPassword(user, workspace) => {
            ops::sessions::reset_password(ctx, call, user, workspace).await
        }
        Operation::CreateApiKey(req) => ops::api_keys::create_api_key(ctx, call, req).await,
        Operation::ListApiKeys(user, workspace, page) => {
            ops::api_keys::list_api_keys(ctx, call, user, workspace, page).await
        }
        Operation::RevokeApiKey(key, workspace) => {
            ops::api_keys::revoke_api_key(ctx, call, key, workspace).await
        }
        Operation::CreateWorkspace(req) => ops::workspaces::create_workspace(ctx, call, req).await,
        Operation::GetWorkspace(id) => ops::workspaces::get_workspace(ctx, call, id).await,
        Operation::ListWorkspaces(page) => ops::workspaces::list_workspaces(ctx, call, page).await,
        Operation::ListMyWorkspaces(page) => ops::workspaces::list_my_workspaces(ctx, call, page).await,
        Operation::UpdateWorkspace(req) => ops::workspaces::update_workspace(ctx, call, req).await,
        Operation::DisableWorkspace(id) => ops::workspaces::disable_workspace(ctx, call, id).await,
        Operation::GetSigningKeyPublic => ops::signing_keys::get_signing_key_public(ctx).await,
        Operation::GetJwks => ops::signing_keys::get_jwks(ctx, call).await,
        Operation::RotateSigningKey => ops::signing_keys::rotate_signing_key(ctx, call).await,
        Operation::RetireSigningKey(kid) => ops::signing_keys::retire_signing_key(ctx, call, kid).await,
        Operation::Explain(req) => ops::decisions::explain(ctx, call, req).await,
        Operation::Bootstrap => ops::bootstrap::bootstrap(ctx, call).await,
        Operation::BootstrapStatus => ops::bootstrap::bootstrap_status(ctx).await,
        Operation::Decide => Err(OpError::Internal("a decision came to the wrong place".into())),
    }
}

/// What a panic comes to: the request fails, and the service goes on.
fn panicked() -> OpError {
    OpError::Internal("panic".into())
}

fn micros(since: Instant) -> u64 {
    u64::try_from(since.elapsed().as_micros()).unwrap_or(u64::MAX)
}

/// A fault is an error, trouble a warning; a refusal is the caller's business and the audit's, and not to be a
/// way to fill our log.
fn log_failure(error: &OpError, operation: &str, request_id: &str) {
    let request_id = loggable(request_id);
    match error {
        OpError::Internal(cause) => tracing::error!(operation, request_id, cause, "internal error"),
        OpError::Unavailable(cause) => tracing::warn!(operation, request_id, %cause, "unavailable"),
        OpError::AuthFailed(failure) => {
            tracing::debug!(operation, request_id, reason = failure.as_str(), "authentication refused");
        }
        OpError::NotPermitted(denial) => {
            tracing::debug!(operation, request_id, reason = denial.as_str(), "not permitted");
        }
        OpError::Invalid { .. }
        | OpError::WeakPassword(_)
        | OpError::NotFound(_)
        | OpError::Taken(_)
        | OpError::Disabled(_)
        | OpError::Conflict
        | OpError::Throttled
        | OpError::NotSupported(_) => tracing::debug!(operation, request_id, ?error, "refused"),
    }
}
