//! [`Client`]: connect, ask, read the answer.

use std::sync::Arc;
use std::time::Duration;

use async_nats::{HeaderMap, Request, RequestErrorKind};
use iam_schema::changes::Floors;
use iam_schema::codec::{self, Format};
use iam_schema::subject::{self, Plane, Subjects};
use iam_schema::{ErrorKind, IamRequest, IamResponse, Needs, OperationName, Secret, UserId};
use tokio::sync::broadcast::{self, error::RecvError};
use uuid::Uuid;

use crate::connection::{Connection, MAX_COMPLAINTS, Opened};
use crate::error::{ClientError, ConnectError, TransportError};

/// A client of one deployment: who asks, on which plane, and how long it waits.
///
/// Cloning is cheap and shares the connection. The methods that begin with `with_`, and [`Client::on`], set a
/// client up; [`Client::acting_as`] and its neighbours give a client for one request or one caller.
#[derive(Debug, Clone)]
pub struct Client {
    bus: Arc<Opened>,
    plane: Plane,
    credential: Option<Arc<Secret>>,
    deadline: Duration,
    actor: Option<UserId>,
    client_ip: String,
    request_id: String,
    floors: String,
}

impl Client {
    /// Connects; the client then asks on the API plane, without a credential.
    ///
    /// # Errors
    /// A setting that cannot be used, no NATS server, or one that refuses this login.
    pub async fn connect(connection: &Connection) -> Result<Self, ConnectError> {
        Ok(Self::over(connection.open().await?, connection.timeout))
    }

    /// A client over a connection that the program has already; it waits 10 s for an answer.
    ///
    /// What NATS forbids then shows as a timeout, since only whoever makes the connection hears of it.
    pub fn new(nats: async_nats::Client, subjects: Subjects) -> Self {
        let complaints = broadcast::Sender::new(MAX_COMPLAINTS);
        let bus = Opened { nats, subjects, complaints, inbox_prefix: String::new() };
        Self::over(bus, Connection::default().timeout)
    }

    fn over(bus: Opened, deadline: Duration) -> Self {
        Self {
            bus: Arc::new(bus),
            plane: Plane::Api,
            credential: None,
            deadline,
            actor: None,
            client_ip: String::new(),
            request_id: String::new(),
            floors: String::new(),
        }
    }

    /// On which plane to ask. The service plane is for enforcement points and operators whom NATS lets in there;
    /// no credential is sent on it.
    #[must_use]
    pub fn on(self, plane: Plane) -> Self {
        Self { plane, ..self }
    }

    /// The API key or JWT that every request on the API plane carries, but for the public operations.
    #[must_use]
    pub fn with_credential(self, credential: Secret) -> Self {
        Self { credential: Some(Arc::new(credential)), ..self }
    }

    /// How long to wait for each answer. The service is told, and drops what it has not begun by then.
    #[must_use]
    pub fn with_deadline(self, deadline: Duration) -> Self {
        Self { deadline, ..self }
    }

    /// For requests made for this user, on the service plane: the service then decides whether the user may.
    /// On the API plane the actor is whoever the credential shows, and this counts for nothing.
    #[must_use]
    pub fn acting_as(&self, actor: UserId) -> Self {
        Self { actor: Some(actor), ..self.clone() }
    }

    /// For requests made for a caller at this address: for the audit trail and the login throttle.
    #[must_use]
    pub fn for_address(&self, client_ip: impl Into<String>) -> Self {
        Self { client_ip: client_ip.into(), ..self.clone() }
    }

    /// For requests that continue one which has an id already; else each gets an id of its own.
    #[must_use]
    pub fn for_request(&self, request_id: impl Into<String>) -> Self {
        Self { request_id: request_id.into(), ..self.clone() }
    }

    /// For requests whose answer must not rest on records older than these.
    #[must_use]
    pub fn not_older_than(&self, floors: &Floors) -> Self {
        Self { floors: floors.to_string(), ..self.clone() }
    }

    /// The plane on which this client asks.
    pub fn plane(&self) -> Plane {
        self.plane
    }

    /// The subjects of this deployment.
    pub fn subjects(&self) -> &Subjects {
        &self.bus.subjects
    }

    /// The NATS connection itself, for what is not request and reply: change and audit events.
    pub fn nats(&self) -> &async_nats::Client {
        &self.bus.nats
    }

    /// What the NATS server complains of from now on, such as `Permissions Violation for Subscription to "…"`.
    /// A client made by [`Client::new`] hears none.
    pub fn complaints(&self) -> broadcast::Receiver<String> {
        self.bus.complaints.subscribe()
    }

    /// One request, as it is on the bus. The typed methods are easier, and there is one for every operation.
    ///
    /// `actor` (on the service plane), `client_ip` and `request_id` are filled in where the request leaves them
    /// empty.
    ///
    /// # Errors
    /// Every variant of [`ClientError`]; a reply that carries an error is `Refused`.
    pub async fn call(
        &self,
        operation: OperationName,
        mut request: IamRequest<'_>,
    ) -> Result<IamResponse, ClientError> {
        self.fill(&mut request);
        let payload = codec::encode(&request, Format::MessagePack).map_err(ClientError::Decode)?;
        drop(request);
        if payload.len() > subject::MAX_PAYLOAD {
            let message = format!("the request is over {} bytes", subject::MAX_PAYLOAD);
            return Err(ClientError::refused(ErrorKind::InvalidArgument, message));
        }
        let headers = self.headers(operation)?;
        let subject = self.bus.subjects.operation(self.plane, operation);
        read_reply(&self.ask(subject, headers, payload).await?)
    }

    fn fill(&self, request: &mut IamRequest<'_>) {
        if let Some(actor) = self.actor
            && self.plane == Plane::Service
            && request.actor.is_empty()
        {
            request.actor = actor.to_string().into();
        }
        if request.client_ip.is_empty() {
            request.client_ip = self.client_ip.clone().into();
        }
        if request.request_id.is_empty() {
            request.request_id = match self.request_id.as_str() {
                "" => new_request_id().into(),
                id => id.to_owned().into(),
            };
        }
    }

    fn headers(&self, operation: OperationName) -> Result<HeaderMap, ClientError> {
        let mut headers = HeaderMap::new();
        headers.insert(subject::DEADLINE_MS, self.deadline.as_millis().to_string());
        if !self.floors.is_empty() {
            headers.insert(subject::MIN, header_value(&self.floors, ErrorKind::InvalidArgument)?);
        }
        // A public operation must not fail by a credential that has expired: it is how one gets the next.
        if let Some(credential) = &self.credential
            && self.plane == Plane::Api
            && operation.needs() != Needs::Public
        {
            let bearer = format!("Bearer {}", header_value(credential.expose(), ErrorKind::AuthFailed)?);
            headers.insert(subject::AUTHORIZATION, bearer);
        }
        Ok(headers)
    }

    async fn ask(
        &self,
        subject: String,
        headers: HeaderMap,
        payload: Vec<u8>,
    ) -> Result<Vec<u8>, ClientError> {
        let mut complaints = self.complaints();
        let request = Request::new().headers(headers).payload(payload.into()).timeout(None);
        let reply = tokio::time::timeout(self.deadline, self.bus.nats.send_request(subject.clone(), request));
        let reply = tokio::select! {
            reply = reply => reply.map_err(|_| ClientError::Timeout(self.deadline))?,
            complaint = complaint_about(&mut complaints, &subject, &self.bus.inbox_prefix) => {
                return Err(TransportError::Forbidden(complaint).into());
            }
        };
        match reply {
            Ok(message) => Ok(message.payload.into()),
            Err(error) => Err(match error.kind() {
                RequestErrorKind::NoResponders => ClientError::NoResponder { subject },
                RequestErrorKind::TimedOut => ClientError::Timeout(self.deadline),
                RequestErrorKind::MaxPayloadExceeded => TransportError::TooLarge.into(),
                RequestErrorKind::InvalidSubject | RequestErrorKind::Other => {
                    TransportError::Broken(error).into()
                }
            }),
        }
    }
}

/// Waits until the NATS server complains of this request; for ever, if it never does.
///
/// Without it a permission that is lacking would only show as a timeout.
pub(crate) async fn complaint_about(
    complaints: &mut broadcast::Receiver<String>,
    subject: &str,
    inbox_prefix: &str,
) -> String {
    loop {
        match complaints.recv().await {
            Ok(complaint) if concerns(&complaint, subject, inbox_prefix) => return complaint,
            Ok(_) | Err(RecvError::Lagged(_)) => {}
            Err(RecvError::Closed) => return std::future::pending().await,
        }
    }
}

fn concerns(complaint: &str, subject: &str, inbox_prefix: &str) -> bool {
    complaint.contains(&format!("\"{subject}\"")) || complaint.contains(&format!("\"{inbox_prefix}."))
}

/// Reads what the service replied, in either form; for whoever asks over a connection of their own.
///
/// # Errors
/// `Decode` for what is no reply, an empty payload among it; `Refused` for a reply that carries an error.
pub fn read_reply(payload: &[u8]) -> Result<IamResponse, ClientError> {
    if payload.is_empty() {
        // A request may be empty, a reply of the service never is.
        return Err(ClientError::reply("", "it is empty"));
    }
    let mut response: IamResponse = codec::decode(payload).map_err(ClientError::Decode)?;
    match response.error.take() {
        Some(error) => Err(ClientError::Refused(error)),
        None => Ok(response),
    }
}

/// A text that may stand in a header: the driver panics at a line break. No good credential has one, so the
/// service's own refusal is given.
fn header_value(text: &str, refusal: ErrorKind) -> Result<&str, ClientError> {
    if text.bytes().all(|b| b.is_ascii_graphic()) {
        Ok(text)
    } else {
        Err(ClientError::refused(refusal, "blanks and other than ASCII characters cannot be sent"))
    }
}

#[expect(
    clippy::disallowed_methods,
    reason = "a request id decides nothing; a client has no clock to inject"
)]
pub(crate) fn new_request_id() -> String {
    Uuid::now_v7().to_string()
}

#[cfg(test)]
mod tests {
    use super::*;
    use iam_schema::WireError;

    #[test]
    fn reply_with_an_error_is_refused_and_an_empty_one_is_no_reply() {
        let refused = IamResponse {
            error: Some(WireError::new(ErrorKind::NotFound, "no such user")),
            ..IamResponse::default()
        };
        for format in [Format::MessagePack, Format::Json] {
            let payload = codec::encode(&refused, format).unwrap();
            assert_eq!(read_reply(&payload).unwrap_err().kind(), Some(ErrorKind::NotFound));
        }
        assert!(matches!(read_reply(b""), Err(ClientError::Decode(_))));
        assert!(matches!(read_reply(b"\xc1"), Err(ClientError::Decode(_))));
        assert!(read_reply(&[0x80]).is_ok());
    }

    #[test]
    fn credential_that_would_break_the_header_is_auth_failed() {
        for bad in ["a\nb", "a\r\nX: y", "a b", "ä"] {
            let error = header_value(bad, ErrorKind::AuthFailed).unwrap_err();
            assert_eq!(error.kind(), Some(ErrorKind::AuthFailed), "{bad:?}");
        }
        assert!(header_value("tg_AZaz09-_.", ErrorKind::AuthFailed).is_ok());
    }

    #[test]
    fn complaint_concerns_its_subject_and_the_inbox_alone() {
        let publish = "Permissions Violation for Publish to \"iam.v1.svc.whoami\"";
        assert!(concerns(publish, "iam.v1.svc.whoami", "_INBOX"));
        assert!(!concerns(publish, "iam.v1.svc.who", "_INBOX"));
        let inbox = "Permissions Violation for Subscription to \"_INBOX.Ab.*\"";
        assert!(concerns(inbox, "iam.v1.svc.whoami", "_INBOX"));
        assert!(!concerns(inbox, "iam.v1.svc.whoami", "_INBOX_ada"));
    }

    #[test]
    fn futures_may_move_between_threads() {
        fn is_send<T: Send>(_: &T) {}
        fn check(client: &Client) {
            is_send(&client.whoami());
            is_send(&client.all_users(None));
        }
        let _ = check;
    }
}
