//! A request to its answer: authenticate, decide, forward.

use std::future::Future;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use iam_client::Client;
use iam_client::gateway::{Gateway, GatewayError, Question};
use iam_client::sessions::Identity;
use iam_schema::codec::Payload;
use iam_schema::subject::MAX_PAYLOAD;
use iam_schema::{ErrorKind, IamRequest, IamResponse, OperationName, Secret, UserId, WireError, WorkspaceId};
use ipnet::IpNet;
use tokio::sync::{OwnedSemaphorePermit, Semaphore, watch};

use crate::config::{Config, Cors, Limits};
use crate::failure::Failure;
use crate::line::Asking;
use crate::metrics::Metrics;
use crate::operations::{self, Own, REGISTRY};
use crate::published::Published;
use crate::shown::Answer;

/// Records that a page can have. Source: protocol section 3, "Lists".
const PAGE: u32 = 1_000;

/// What all requests share.
#[derive(Debug)]
pub struct App {
    pub gateway: Gateway,
    /// On the API plane, for those who may do nothing but with their own credential.
    api: Client,
    pub limits: Limits,
    pub trusted_proxies: Vec<IpNet>,
    pub cors: Option<Cors>,
    pub metrics: Metrics,
    /// Places for HTTP requests.
    pub room: Arc<Semaphore>,
    pub key_set: Published,
    pub signing_key: Published,
    draining: watch::Sender<bool>,
    begun: AtomicBool,
}

/// Whoever is behind a credential.
#[derive(Debug)]
pub enum Caller {
    Known(Arc<Identity>),
    /// Somebody who must change the password, and may do nothing else.
    MustChange(UserId),
}

impl App {
    /// A gateway over these connections.
    pub fn new(gateway: Gateway, api: Client, config: &Config) -> Self {
        Self {
            gateway,
            api,
            limits: config.limits,
            trusted_proxies: config.trusted_proxies.clone(),
            cors: config.cors.clone(),
            metrics: Metrics::new(),
            room: Arc::new(Semaphore::new(config.limits.requests)),
            key_set: Published::default(),
            signing_key: Published::default(),
            draining: watch::Sender::new(false),
            begun: AtomicBool::new(false),
        }
    }

    /// From now on nothing new is taken on.
    pub fn drain(&self) {
        self.draining.send_replace(true);
    }

    /// Waits until draining begins.
    pub fn draining(&self) -> impl Future<Output = ()> + Send + use<> {
        let mut draining = self.draining.subscribe();
        async move {
            let _ = draining.wait_for(|draining| *draining).await.map(drop);
        }
    }

    /// Why requests would not be answered, or `None` if they would.
    pub fn problem(&self) -> Option<String> {
        if *self.draining.borrow() {
            return Some("draining".to_owned());
        }
        if self.gateway.is_ready() {
            self.begun.store(true, Ordering::Relaxed);
            return None;
        }
        match self.begun.load(Ordering::Relaxed) {
            true => Some("iam-svc is not heard".to_owned()),
            false => Some("starting: iam-svc was not heard yet".to_owned()),
        }
    }

    /// A place among the requests that are answered at a time.
    ///
    /// # Errors
    /// `Overloaded`.
    pub fn place(&self) -> Result<OwnedSemaphorePermit, Failure> {
        self.room.clone().try_acquire_owned().map_err(|_| {
            self.metrics.turned_away.inc();
            Failure::Overloaded
        })
    }

    /// Answers the request in a body: the record of the bus, in JSON.
    ///
    /// # Errors
    /// In this order: a body that is none, an operation that there is not, a credential that is not good, a field
    /// that is wrong, a capability that is lacking, and whatever the service has against it.
    pub async fn perform(&self, asking: &Asking<'_>, body: &[u8]) -> Result<Answer, Failure> {
        if body.len() > MAX_PAYLOAD {
            return Err(Failure::TooLarge);
        }
        let (name, outline) = operations::outline(body)?;
        let rule = REGISTRY.rule(&name).ok_or(Failure::UnknownOperation)?;
        let operation: OperationName = name.parse().map_err(|_| Failure::UnknownOperation)?;
        let caller = match operation.needs() {
            iam_schema::Needs::Public => None,
            _ => Some(self.caller(operation, asking.credential).await?),
        };
        // As strict as on the bus: what two readers could read in two ways is refused.
        let payload = Payload::read(body)?;
        let request = payload.decode()?;
        self.carry_out(asking, caller, operation, request, |caller| Ok(rule.question(&outline, caller)?))
            .await
    }

    /// Carries out an operation for a caller; `question` makes what is asked about them first.
    ///
    /// # Errors
    /// A capability that is lacking, and whatever the service has against it.
    pub async fn carry_out(
        &self,
        asking: &Asking<'_>,
        caller: Option<Caller>,
        operation: OperationName,
        mut request: IamRequest<'_>,
        question: impl FnOnce(&Identity) -> Result<Option<Question>, Failure>,
    ) -> Result<Answer, Failure> {
        let caller = match caller {
            Some(Caller::MustChange(user)) => return self.as_oneself(operation, request, user, asking).await,
            Some(Caller::Known(identity)) => Some(identity),
            None => None,
        };
        operations::complete(operation, &mut request, caller.as_deref());
        if let Some(caller) = &caller
            && let Some(question) = question(caller)?
        {
            self.admit(caller, question, operations::own(operation, &request, caller)).await?;
        }
        let response = match is_list(operation) && request.page_size == 0 && request.page_token.is_empty() {
            true => self.gather(operation, request, asking).await?,
            false => self.ask(operation, request, asking).await?,
        };
        Ok(Answer { operation, response })
    }

    /// Asks the service, for whoever asks.
    ///
    /// # Errors
    /// What the service says, or that it says nothing.
    pub async fn ask(
        &self,
        operation: OperationName,
        request: IamRequest<'_>,
        asking: &Asking<'_>,
    ) -> Result<IamResponse, Failure> {
        usable(operation, self.gateway.forward(operation, named(request, asking)).await?)
    }

    /// Whose credential this is.
    ///
    /// # Errors
    /// `AuthFailure` for none and for one that is not good; `unavailable` when that cannot be told.
    pub async fn authenticate(&self, credential: Option<&Secret>) -> Result<Arc<Identity>, Failure> {
        let credential = credential.ok_or(Failure::AuthFailure)?;
        Ok(self.gateway.authenticate(credential).await?)
    }

    /// Lets a caller through who may, or who may for themselves.
    ///
    /// # Errors
    /// `AccessDenied`; `unavailable` when that cannot be decided.
    pub async fn admit(&self, caller: &Identity, question: Question, own: Own) -> Result<(), Failure> {
        // The lesser first: what is permitted is not to be in the audit as a deny.
        let may = match own {
            Own::Anybody => true,
            Own::Capability(lesser) => {
                let lesser = Question::within(lesser, &caller.workspace);
                self.gateway.authorise(caller, &lesser).await?.allow
            }
            Own::Nothing => false,
        };
        match may || self.gateway.authorise(caller, &question).await?.allow {
            true => Ok(()),
            false => Err(Failure::AccessDenied),
        }
    }

    /// Whether a caller can know a workspace of this name: their own, or any that there is where they administer all.
    ///
    /// # Errors
    /// `UnknownWorkspace`; `unavailable` when that cannot be told.
    pub async fn workspace_is_there(
        &self,
        workspace: &str,
        caller: &Identity,
        asking: &Asking<'_>,
    ) -> Result<(), Failure> {
        if caller.workspace.as_str() == workspace {
            return Ok(());
        }
        let id: WorkspaceId = workspace.parse().map_err(|_| Failure::UnknownWorkspace)?;
        let record =
            iam_schema::workspaces::WorkspaceInput { id: Some(id.as_str().to_owned()), ..Default::default() };
        let actor = caller.user_id.to_string().into();
        let request = IamRequest { actor, workspace_record: Some(record), ..IamRequest::default() };
        match self.ask(OperationName::GetWorkspace, request, asking).await {
            Ok(_) => Ok(()),
            // What one may not know of is not there.
            Err(Failure::Service(error))
                if matches!(
                    error.known_kind(),
                    Some(ErrorKind::NotFound | ErrorKind::OperationNotPermitted)
                ) =>
            {
                Err(Failure::UnknownWorkspace)
            }
            Err(failure) => Err(failure),
        }
    }

    /// Who is behind a credential, for an operation that may be all that is open to them.
    ///
    /// # Errors
    /// As [`App::authenticate`].
    pub async fn caller(
        &self,
        operation: OperationName,
        credential: Option<&Secret>,
    ) -> Result<Caller, Failure> {
        let credential = credential.ok_or(Failure::AuthFailure)?;
        let refused = match self.gateway.authenticate(credential).await {
            Ok(identity) => return Ok(Caller::Known(identity)),
            Err(refused @ GatewayError::Refused) => refused,
            Err(error) => return Err(error.into()),
        };
        match operation {
            OperationName::Whoami | OperationName::ChangePassword => {
                let user = self.gateway.must_change_password(credential).await?;
                user.map(Caller::MustChange).ok_or(refused.into())
            }
            _ => Err(refused.into()),
        }
    }

    /// Forwards what the token of somebody who must change the password is good for, with that token.
    async fn as_oneself(
        &self,
        operation: OperationName,
        mut request: IamRequest<'_>,
        user: UserId,
        asking: &Asking<'_>,
    ) -> Result<Answer, Failure> {
        request.operation = operation.as_str().into();
        if operation == OperationName::ChangePassword && request.user_id.is_empty() {
            request.user_id = user.to_string().into();
        }
        let credential = asking.credential.cloned().unwrap_or_default();
        let client = self.api.for_request(asking.request_id).with_credential(credential);
        let response = usable(operation, client.call(operation, named(request, asking)).await?)?;
        Ok(Answer { operation, response })
    }

    /// Fetches every page of a list, for clients that know no pages.
    async fn gather(
        &self,
        operation: OperationName,
        request: IamRequest<'_>,
        asking: &Asking<'_>,
    ) -> Result<IamResponse, Failure> {
        let mut all = IamResponse::default();
        let mut token = String::new();
        loop {
            let asked = IamRequest { page_size: PAGE, page_token: token.clone().into(), ..request.clone() };
            let mut page = self.ask(operation, asked, asking).await?;
            all.users.append(&mut page.users);
            all.workspaces.append(&mut page.workspaces);
            all.api_keys.append(&mut page.api_keys);
            let most = self.limits.list;
            if all.users.len() + all.workspaces.len() + all.api_keys.len() > most {
                let rule = format!("more than {most} records: ask for pages with `page_size`");
                return Err(Failure::Service(WireError::new(ErrorKind::InvalidArgument, rule)));
            }
            match page.next_page_token {
                next if next.is_empty() => return Ok(all),
                next if next == token => return Err(Failure::unavailable("the list has no end")),
                next => token = next,
            }
        }
    }
}

/// A reply with all that the operation always returns.
fn usable(operation: OperationName, response: IamResponse) -> Result<IamResponse, Failure> {
    match operations::lacks(operation, &response) {
        None => Ok(response),
        Some(field) => {
            tracing::warn!(%operation, field, "a reply lacks what it must have");
            Err(Failure::unavailable("the service gave no usable answer"))
        }
    }
}

/// The id and the address are of the line, whatever stands in the body.
fn named<'r>(request: IamRequest<'r>, asking: &Asking<'_>) -> IamRequest<'r> {
    IamRequest {
        request_id: asking.request_id.to_owned().into(),
        client_ip: asking.client_ip.to_string().into(),
        ..request
    }
}

fn is_list(operation: OperationName) -> bool {
    matches!(
        operation,
        OperationName::ListUsers
            | OperationName::ListWorkspaces
            | OperationName::ListMyWorkspaces
            | OperationName::ListApiKeys
    )
}
