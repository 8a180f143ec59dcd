//! A deployment whose store can fail, and requests that succeed while it does not.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use iam_schema::changes::Change;
use iam_schema::codec::decode;
use iam_schema::subject::Plane;
use iam_schema::{IamResponse, Needs, OperationName, Secret};
use iam_svc::dispatch::{Answered, Headers};
use iam_tests::faulty::Faulty;
use iam_tests::scene::As::{Holder, Nobody, Service};
use iam_tests::world::{Setup, World};
use iam_tests::{Reply, Scene};
use serde_json::{Value, json};

use crate::scenarios::common::PASSWORD;

pub(super) const ANOTHER: &str = "marble-teapot-71-hums";

/// A seeded deployment on a store that can fail.
pub(super) struct Stage {
    pub(super) store: Arc<Faulty>,
    pub(super) world: World,
    pub(super) root: String,
    pub(super) root_key: Secret,
    pub(super) count: AtomicUsize,
}

/// A request that will succeed, and who makes it.
pub(super) struct Prepared {
    pub(super) operation: OperationName,
    pub(super) request: Value,
    pub(super) actor: String,
    pub(super) key: Secret,
}

impl Stage {
    pub(super) async fn new() -> Self {
        let store = Faulty::embedded();
        let setup = Setup { anonymous_user: Some("guest".into()), ..Setup::default() };
        let world = store.world(setup);
        let s = Scene::new("preparing", &world);
        let (root, root_key) = s.bootstrap().await;
        s.workspace("acme").await;
        s.user("acme", "guest", &["reader"]).await;
        Self { store, world, root, root_key, count: AtomicUsize::new(0) }
    }

    pub(super) fn scene(&self, name: &'static str) -> Scene<'_> {
        Scene::new(name, &self.world)
    }

    /// Another replica on the same store, which hears nothing of this one.
    pub(super) fn replica(&self) -> World {
        self.store.world(Setup::default())
    }

    pub(super) fn fresh(&self, what: &str) -> String {
        format!("{what}{}", self.count.fetch_add(1, Ordering::Relaxed))
    }

    /// A new reader of `acme` with a key, and the password [`PASSWORD`].
    pub(super) async fn user(&self) -> (String, String, Secret) {
        let s = self.scene("preparing");
        let name = self.fresh("user");
        let user = json!({ "username": name, "password": PASSWORD, "roles": ["reader"] });
        let user =
            s.ok(Service, "create-user", json!({ "workspace": "acme", "user": user })).await.text("user.id");
        let (_, key) = s.key(&user, "k").await;
        (user, name, key)
    }

    /// Makes whatever an operation needs to succeed.
    pub(super) async fn prepared(&self, operation: OperationName) -> Prepared {
        use OperationName::*;
        let s = self.scene("preparing");
        let (user, name, key) = self.user().await;
        let of_user = json!({ "user_id": user });
        let mut prepared =
            Prepared { operation, request: json!({}), actor: self.root.clone(), key: self.root_key.clone() };
        prepared.request = match operation {
            Login => json!({ "username": name, "password": PASSWORD }),
            Authenticate => json!({ "credential": key.expose() }),
            ResolveApiKey => json!({ "api_key": key.expose() }),
            Authorise => {
                json!({ "user_id": self.root, "capability": "agent", "resource_json": r#"{"workspace":"acme"}"# })
            }
            AuthoriseMany => json!({
                "user_id": self.root,
                "authorise_checks": r#"[{"capability":"agent"},{"capability":"agent","resource":{"workspace":"acme"}}]"#,
            }),
            Explain => {
                json!({ "username": name, "capability": "agent", "resource_json": r#"{"workspace":"acme"}"# })
            }
            ChangePassword => {
                (prepared.actor, prepared.key) = (user.clone(), key);
                json!({ "user_id": user, "password": PASSWORD, "new_password": ANOTHER })
            }
            CreateUser => {
                let user =
                    json!({ "username": self.fresh("new"), "password": PASSWORD, "roles": ["reader"] });
                json!({ "workspace": "acme", "user": user })
            }
            ListUsers => json!({ "workspace": "acme" }),
            UpdateUser => json!({ "user_id": user, "user": { "roles": ["writer"], "name": "New" } }),
            GetUser | DisableUser | RevokeUserTokens | DeleteUser | ResetPassword | ListApiKeys => of_user,
            EnableUser => {
                s.ok(Service, "disable-user", of_user.clone()).await;
                of_user
            }
            CreateApiKey => json!({ "key": { "user_id": user, "name": "another" } }),
            RevokeApiKey => json!({ "key_id": s.key(&user, "doomed").await.0 }),
            CreateWorkspace => json!({ "workspace_record": { "id": self.fresh("new") } }),
            GetWorkspace => json!({ "workspace_record": { "id": "acme" } }),
            UpdateWorkspace | DisableWorkspace => {
                let id = self.fresh("changing");
                s.workspace(&id).await;
                json!({ "workspace_record": { "id": id, "name": "New" } })
            }
            RetireSigningKey => {
                let set: Value =
                    serde_json::from_str(&s.ok(Nobody, "get-jwks", json!({})).await.text("jwks_json"))
                        .expect("a set");
                json!({ "key_id": set["keys"][0]["kid"] })
            }
            AuthenticateAnonymous
            | Whoami
            | ListMyWorkspaces
            | ListWorkspaces
            | GetSigningKeyPublic
            | GetJwks
            | RotateSigningKey
            | Bootstrap
            | BootstrapStatus => json!({}),
        };
        prepared
    }

    /// Asks it as whoever may, out of a memory that is empty.
    pub(super) async fn ask(&self, s: &Scene<'_>, plane: Plane, prepared: &Prepared) -> Reply {
        self.world.dispatch.forget_everything();
        let mut request = prepared.request.clone();
        request["request_id"] = json!("request-7");
        let caller = match (plane, prepared.operation.needs()) {
            (Plane::Service, _) => {
                request["actor"] = json!(prepared.actor);
                Service
            }
            (Plane::Api, Needs::Public) => Nobody,
            (Plane::Api, _) => Holder(&prepared.key),
        };
        s.ask(caller, prepared.operation.as_str(), request).await
    }

    /// Asks it as a trusted service, and gives what it left to be published too.
    pub(super) async fn answered(&self, prepared: &Prepared) -> (IamResponse, Vec<Change>) {
        let mut request = prepared.request.clone();
        request["actor"] = json!(prepared.actor);
        let answered = answered(&self.world, prepared.operation.as_str(), Headers::default(), &request).await;
        let reply = answered.reply.expect("no deadline was given");
        (decode(&reply.payload).expect("a reply"), answered.changes)
    }
}

/// What a service-plane request comes to.
pub(super) async fn answered(
    world: &World,
    operation: &str,
    headers: Headers<'_>,
    request: &Value,
) -> Answered {
    answered_on(world, Plane::Service, operation, headers, request).await
}

pub(super) async fn answered_on(
    world: &World,
    plane: Plane,
    operation: &str,
    headers: Headers<'_>,
    request: &Value,
) -> Answered {
    world.answered(plane, operation, headers, request.to_string().as_bytes()).await
}
