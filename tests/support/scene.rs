//! Scenes: what callers do and what they are told, in rows that read like the protocol.
//!
//! A scene is played over a [`Wire`], in process or on real NATS, and takes down which operation gave which
//! outcome on which plane: the coverage test reads that.

use std::collections::BTreeSet;
use std::ops::Index;
use std::sync::Mutex;

use async_trait::async_trait;
use iam_schema::subject::Plane;
use iam_schema::{ErrorKind, IamRequest, IamResponse, OperationName, Secret};
use iam_svc::clock::ManualClock;
use serde_json::{Value, json};

/// A way to a deployment.
#[async_trait]
pub trait Wire: Send + Sync {
    /// Sends a request and waits for its reply.
    async fn send(
        &self,
        plane: Plane,
        operation: OperationName,
        credential: Option<&Secret>,
        request: IamRequest<'static>,
    ) -> IamResponse;

    /// The clock of the deployment, where it can be turned by hand.
    fn clock(&self) -> Option<&ManualClock>;
}

/// One outcome that a scene has shown.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct Shown {
    pub operation: OperationName,
    pub plane: &'static str,
    /// `success`, or the error kind.
    pub outcome: String,
    pub scene: &'static str,
}

/// A deployment with a story going on in it.
pub struct Scene<'w> {
    name: &'static str,
    wire: &'w dyn Wire,
    shown: Mutex<BTreeSet<Shown>>,
}

/// A reply as JSON, for looking into.
#[derive(Debug, Clone)]
pub struct Reply(pub Value);

impl Reply {
    /// The text at a field, empty if absent.
    pub fn text(&self, field: &str) -> String {
        self.0
            .pointer(&format!("/{}", field.replace('.', "/")))
            .and_then(Value::as_str)
            .unwrap_or_default()
            .into()
    }

    /// The text at a field as a secret.
    pub fn secret(&self, field: &str) -> Secret {
        Secret::new(self.text(field))
    }

    /// The number of elements of a list, 0 if absent.
    pub fn len(&self, field: &str) -> usize {
        self.0.get(field).and_then(Value::as_array).map_or(0, Vec::len)
    }
}

impl Index<&str> for Reply {
    type Output = Value;

    fn index(&self, field: &str) -> &Value {
        &self.0[field]
    }
}

/// Who asks.
#[derive(Debug, Clone, Copy)]
pub enum As<'c> {
    /// A trusted service.
    Service,
    /// Anybody on the bus, with a credential.
    Holder(&'c Secret),
    /// Anybody on the bus, with none.
    Nobody,
}

impl<'w> Scene<'w> {
    /// A scene over a wire.
    pub fn new(name: &'static str, wire: &'w dyn Wire) -> Self {
        Self { name, wire, shown: Mutex::default() }
    }

    /// What was shown.
    pub fn shown(self) -> BTreeSet<Shown> {
        self.shown.into_inner().expect("no panic in between")
    }

    /// The clock, where it can be turned.
    pub fn clock(&self) -> Option<&ManualClock> {
        self.wire.clock()
    }

    /// Asks, whatever comes of it.
    pub async fn ask(&self, who: As<'_>, operation: &str, request: Value) -> Reply {
        let name: OperationName = operation.parse().expect("an operation");
        let bytes = request.to_string().into_bytes();
        let request: IamRequest<'static> = {
            let payload = iam_schema::codec::Payload::read(&bytes).expect("a request");
            payload.decode::<IamRequest<'_>>().expect("a request").into_owned()
        };
        let (plane, credential) = match who {
            As::Service => (Plane::Service, None),
            As::Holder(credential) => (Plane::Api, Some(credential)),
            As::Nobody => (Plane::Api, None),
        };
        let response = self.wire.send(plane, name, credential, request).await;
        let outcome = response.error.as_ref().map_or("success".to_owned(), |error| error.kind.clone());
        let row = Shown { operation: name, plane: plane.as_str(), outcome, scene: self.name };
        self.shown.lock().expect("no panic in between").insert(row);
        Reply(serde_json::to_value(&response).expect("a reply"))
    }

    /// Asks and must succeed.
    pub async fn ok(&self, who: As<'_>, operation: &str, request: Value) -> Reply {
        let reply = self.ask(who, operation, request.clone()).await;
        assert!(reply.0.get("error").is_none(), "{operation} {request} as {who:?}: {}", reply.0);
        reply
    }

    /// Asks and must be refused so.
    pub async fn err(&self, who: As<'_>, operation: &str, request: Value, kind: ErrorKind) -> String {
        let reply = self.ask(who, operation, request.clone()).await;
        assert_eq!(reply.text("error.type"), kind.as_str(), "{operation} {request} as {who:?}: {}", reply.0);
        reply.text("error.message")
    }

    /// Whether a user may, as the service plane answers it.
    pub async fn may(&self, user: &str, capability: &str, workspace: &str) -> bool {
        let resource = json!({ "workspace": workspace }).to_string();
        let request = json!({ "user_id": user, "capability": capability, "resource_json": resource });
        self.ok(As::Service, "authorise", request).await["decision_allow"] == true
    }

    /// Seeds the deployment; the admin's id and key.
    pub async fn bootstrap(&self) -> (String, Secret) {
        let reply = self.ok(As::Nobody, "bootstrap", json!({})).await;
        (reply.text("bootstrap_admin_user_id"), reply.secret("bootstrap_admin_api_key"))
    }

    /// Makes a workspace, as a trusted service.
    pub async fn workspace(&self, id: &str) {
        self.ok(As::Service, "create-workspace", json!({ "workspace_record": { "id": id } })).await;
    }

    /// Makes a user, as a trusted service; the id.
    pub async fn user(&self, workspace: &str, username: &str, roles: &[&str]) -> String {
        let user = json!({ "username": username, "roles": roles });
        let request = json!({ "workspace": workspace, "user": user });
        self.ok(As::Service, "create-user", request).await.text("user.id")
    }

    /// Makes a key for a user, as a trusted service; its id and text.
    pub async fn key(&self, user: &str, name: &str) -> (String, Secret) {
        let request = json!({ "key": { "user_id": user, "name": name } });
        let reply = self.ok(As::Service, "create-api-key", request).await;
        (reply.text("api_key.id"), reply.secret("api_key_plaintext"))
    }

    /// Sets a user's password by way of a temporary one.
    pub async fn password(&self, user: &str, password: &str) {
        let temporary = self.ok(As::Service, "reset-password", json!({ "user_id": user })).await;
        let request = json!({
            "actor": user, "user_id": user, "password": temporary.text("temporary_password"), "new_password": password,
        });
        self.ok(As::Service, "change-password", request).await;
    }

    /// Logs in; the token.
    pub async fn login(&self, username: &str, password: &str) -> Secret {
        let request = json!({ "username": username, "password": password });
        self.ok(As::Service, "login", request).await.secret("jwt")
    }
}
