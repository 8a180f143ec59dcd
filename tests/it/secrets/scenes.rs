//! The scenes: every way in which a secret is used as it should be, and many in which it is not.

use std::time::Duration;

use async_nats::{Client, HeaderMap, Request};
use iam_schema::OperationName;
use iam_schema::subject::Plane::{self, Api, Service};
use iam_tests::canary::{Canaries, Places};
use serde_json::{Value, json};

use super::outputs::message;
use super::secret;

/// What of a reply is the secret that was asked for. Everything else of it is searched.
const ISSUED: [&str; 3] = ["jwt", "api_key_plaintext", "temporary_password"];

pub struct Play {
    nats: Client,
    prefix: String,
    pub canaries: Canaries,
    pub places: Places,
    pub requests: usize,
    /// Everything is asked on both planes.
    thorough: bool,
}

impl Play {
    pub fn new(nats: Client, prefix: &str, canaries: Canaries) -> Self {
        let thorough = crate::hostile::full();
        Self { nats, prefix: prefix.to_owned(), canaries, places: Places::default(), requests: 0, thorough }
    }

    /// Sends bytes with headers; the reply goes to the places, but for what it was asked for.
    async fn send(
        &mut self,
        plane: Plane,
        operation: &str,
        headers: &[(&str, &str)],
        payload: &[u8],
    ) -> Value {
        let mut map = HeaderMap::new();
        headers.iter().for_each(|(name, value)| map.append(*name, *value));
        let subject = format!("{}.v1.{}.{operation}", self.prefix, plane.as_str());
        let request = Request::new().headers(map).payload(payload.to_vec().into());
        let request = request.timeout(Some(Duration::from_secs(60)));
        let mut reply = self.nats.send_request(subject, request).await.expect("an answer");
        self.requests += 1;
        let Ok(mut value) = serde_json::from_slice::<Value>(&reply.payload) else {
            self.places.add(format!("reply: {operation}"), message(&reply));
            return Value::Null;
        };
        let whole = value.clone();
        for field in ISSUED {
            if let Some(issued) = value.as_object_mut().and_then(|fields| fields.remove(field)) {
                let text = issued.as_str().expect("a text").to_owned();
                match field {
                    "jwt" => self.canaries.plant_token(&format!("token {}", self.requests), &text),
                    _ => self.canaries.plant(&format!("{field} {}", self.requests), &text),
                }
            }
        }
        reply.payload = value.to_string().into();
        self.places.add(format!("reply: {operation}"), message(&reply));
        whole
    }

    async fn ask(&mut self, plane: Plane, operation: &str, credential: &str, request: Value) -> Value {
        let bearer = format!("Bearer {credential}");
        let headers = [("Authorization", bearer.as_str())];
        let headers = if credential.is_empty() { &[][..] } else { &headers[..] };
        self.send(plane, operation, headers, request.to_string().as_bytes()).await
    }

    async fn ok(&mut self, plane: Plane, operation: &str, credential: &str, request: Value) -> Value {
        let reply = self.ask(plane, operation, credential, request).await;
        assert!(reply.get("error").is_none(), "{operation}: {reply}");
        reply
    }

    async fn refused(&mut self, plane: Plane, operation: &str, credential: &str, request: Value) {
        let reply = self.ask(plane, operation, credential, request).await;
        assert!(reply["error"]["type"].is_string(), "{operation}: {reply}");
    }

    fn password(&mut self, name: &str) -> String {
        let password = secret();
        self.canaries.plant(name, &password);
        password
    }

    /// All scenes; `admin` is the admin's key.
    pub async fn all(&mut self, admin: &str) {
        let (user, key, tokens) = self.as_it_should_be(admin).await;
        self.at_the_login(&user, admin).await;
        for (name, text) in [("key", &key), ("token", &tokens)] {
            self.in_wrong_fields(name, text, admin).await;
            self.in_wrong_places(text, admin).await;
        }
        self.ended(&user, &key, &tokens, admin).await;
    }

    /// The scenes without the many wrong fields.
    pub async fn few(&mut self, admin: &str) {
        let (user, key, _) = self.as_it_should_be(admin).await;
        self.at_the_login(&user, admin).await;
        self.in_wrong_places(&key, admin).await;
    }

    /// A user's life: password, token, key, rotation; and each secret used where it belongs.
    async fn as_it_should_be(&mut self, admin: &str) -> (String, String, String) {
        self.ok(Api, "whoami", admin, json!({})).await;
        self.ok(Api, "create-workspace", admin, json!({ "workspace_record": { "id": "acme" } })).await;
        let (first, second) = (self.password("first password"), self.password("second password"));
        let user =
            json!({ "username": "ada", "password": first, "roles": ["reader"], "email": "ada@example.test" });
        let ada = self.ok(Api, "create-user", admin, json!({ "workspace": "acme", "user": user })).await;
        let ada = ada["user"]["id"].as_str().expect("an id").to_owned();
        let token = self.ok(Api, "login", "", json!({ "username": "ada", "password": first })).await;
        let token = token["jwt"].as_str().expect("a token").to_owned();
        self.ok(Api, "whoami", &token, json!({})).await;
        let change = json!({ "user_id": ada, "password": first, "new_password": second });
        self.ok(Api, "change-password", &token, change).await;
        let temporary = self.ok(Api, "reset-password", admin, json!({ "user_id": ada })).await;
        let temporary = temporary["temporary_password"].as_str().expect("a password").to_owned();
        let login = json!({ "username": "ada", "password": temporary, "client_ip": "192.0.2.7" });
        let limited = self.ok(Service, "login", "", login).await;
        assert_eq!(limited["must_change_password"], true);
        let limited = limited["jwt"].as_str().expect("a token").to_owned();
        self.refused(Api, "list-my-workspaces", &limited, json!({})).await;
        let third = self.password("third password");
        let change = json!({ "user_id": ada, "password": temporary, "new_password": third });
        self.ok(Api, "change-password", &limited, change).await;
        let token = self.ok(Api, "login", "", json!({ "username": "ada", "password": third })).await;
        let token = token["jwt"].as_str().expect("a token").to_owned();

        let key = self.ok(Api, "create-api-key", &token, json!({ "key": { "name": "laptop" } })).await;
        let key = key["api_key_plaintext"].as_str().expect("a key").to_owned();
        self.ok(Service, "resolve-api-key", "", json!({ "api_key": key })).await;
        for credential in [&key, &token] {
            self.ok(Service, "authenticate", "", json!({ "credential": credential })).await;
            let question = json!({ "credential": credential, "capability": "graph:read" });
            self.ok(Service, "authorise", "", question).await;
            let checks = json!([{ "capability": "graph:read" }, { "capability": "graph:write" }]).to_string();
            let many = json!({ "credential": credential, "authorise_checks": checks });
            self.ok(Service, "authorise-many", "", many).await;
            self.ok(Api, "explain", credential, json!({ "capability": "graph:write" })).await;
        }
        self.ok(Api, "list-api-keys", &key, json!({})).await;
        self.ok(Api, "list-users", admin, json!({})).await;
        for operation in ["rotate-signing-key", "get-jwks", "get-signing-key-public", "bootstrap-status"] {
            self.ok(Api, operation, admin, json!({})).await;
        }
        self.refused(Api, "bootstrap", "", json!({})).await;
        (ada, key, token)
    }

    /// What is mistyped where people log in.
    async fn at_the_login(&mut self, ada: &str, admin: &str) {
        let wrong = self.password("wrong password");
        self.refused(Api, "login", "", json!({ "username": "ada", "password": wrong })).await;
        let (as_name, other) =
            (self.password("password typed as username"), self.password("password beside it"));
        self.refused(Api, "login", "", json!({ "username": as_name, "password": other })).await;
        self.refused(Service, "login", "", json!({ "username": format!("{as_name} "), "password": other }))
            .await;
        self.refused(
            Service,
            "login",
            "",
            json!({ "username": as_name, "workspace": "-", "password": other }),
        )
        .await;
        let long = other.repeat(60);
        for new in [&other, &long, &format!("ada{}", "a".repeat(20))] {
            let user = json!({ "username": "eve", "password": new, "roles": ["no-such-role"] });
            let user = json!({ "workspace": "acme", "user": user });
            self.refused(Api, "create-user", admin, user).await;
        }
        let update = json!({ "user_id": ada, "user": { "password": other } });
        self.refused(Api, "update-user", admin, update).await;
        let change = json!({ "actor": ada, "user_id": ada, "password": wrong, "new_password": other });
        self.refused(Service, "change-password", "", change).await;
        for broken in [
            format!(r#"{{"username":"ada","password":"{wrong}""#),
            format!(r#"{{"username":"ada","password":{{"{wrong}":"{other}"}}}}"#),
            format!(r#"{{"username":"ada","password":["{wrong}"]}}"#),
            format!(r#"{{"{wrong}":1,"{wrong}":2}}"#),
            format!(r#"{{"page_size":"{wrong}"}}"#),
            format!(r#"{{"user":"{wrong}","key":["{other}"]}}"#),
            format!("{{\"password\":\"{wrong}\"}} {other}"),
            format!("\u{81}\u{a8}password {wrong}"),
            wrong.clone(),
        ] {
            for operation in ["login", "authorise", "create-user"] {
                for plane in [Api, Service] {
                    self.send(plane, operation, &[], broken.as_bytes()).await;
                }
            }
        }
    }

    /// A key or token in every field that takes a text, asked of every operation on both planes.
    async fn in_wrong_fields(&mut self, name: &str, text: &str, admin: &str) {
        let fields = [
            "operation",
            "workspace",
            "actor",
            "user_id",
            "username",
            "key_id",
            "capability",
            "resource_json",
            "parameters_json",
            "authorise_checks",
            "request_id",
            "client_ip",
            "page_token",
        ];
        let mut requests: Vec<Value> = fields.iter().map(|field| json!({ *field: text })).collect();
        let target = json!({ "workspace": text }).to_string();
        let nobody = "01a0ce87-ea1a-7bb6-ae10-295948688e1d";
        requests.extend([
            json!({ "user_id": nobody, "capability": "graph:read", "resource_json": target }),
            json!({ "user_id": nobody, "capability": "graph:read", "parameters_json": target, "request_id": text }),
            json!({ "user_id": nobody, "capability": text, "resource_json": json!([text]).to_string() }),
            json!({ "user_id": nobody, "capability": "agent", "resource_json": json!(text).to_string() }),
            json!({ "user_id": nobody, "capability": "agent", "resource_json": format!("{{\"{text}\":1,\"{text}\":2}}") }),
            json!({ "user_id": nobody, "authorise_checks": json!([{ "capability": text, "resource": { "workspace": text } }, text]).to_string() }),
            json!({ "user_id": nobody, "authorise_checks": json!(text).to_string() }),
            json!({ "user_id": nobody, "key": { "user_id": text, "name": text, "expires": text } }),
            json!({ "key": { "user_id": nobody, "name": text } }),
            json!({ "workspace_record": { "id": text, "name": text } }),
            json!({ "workspace": "no-such", "user": { "username": text, "name": text, "email": text, "roles": [text] } }),
            json!({ "user_id": nobody, "user": { "username": text, "roles": [text] } }),
            json!({ "credential": format!("{text}x"), "capability": text }),
            json!({ "api_key": format!("x{text}"), "username": text, "request_id": format!("Bearer {text}") }),
            json!({ "password": text, "new_password": text, "user_id": nobody }),
        ]);
        // A guess costs a hash, so that those at the login are made elsewhere. And what is made under a name that
        // somebody gave it is shown by right.
        let left_out = [OperationName::Login, OperationName::CreateWorkspace];
        let asked = OperationName::ALL.iter().filter(|operation| !left_out.contains(operation));
        for (n, operation) in asked.enumerate() {
            for (m, request) in requests.iter().enumerate() {
                // Half of them on each plane, unless all are wanted.
                for (plane, credential, turn) in [(Service, "", 0), (Api, admin, 1), (Api, "", 3)] {
                    if self.thorough || (n + m + usize::from(name == "key")) % 4 == turn {
                        self.ask(plane, operation.as_str(), credential, request.clone()).await;
                    }
                }
            }
        }
        let login = json!({ "username": text, "password": text, "workspace": text, "request_id": text });
        self.refused(Api, "login", "", login).await;
    }

    /// A key or token in headers and subjects.
    async fn in_wrong_places(&mut self, text: &str, admin: &str) {
        let bearer = format!("Bearer {admin}");
        let good = ("Authorization", bearer.as_str());
        let floors = format!("user:{text}=1,api-key:{text}=2,signing-key:{text}=1");
        for headers in [
            vec![("Authorization", text)],
            vec![("Authorization", &*format!("Basic {text}"))],
            vec![("Authorization", &*format!("Bearer  {text}"))],
            vec![("Authorization", &*format!("Bearer {text}x"))],
            vec![good, ("authorization", text)],
            vec![good, ("traceparent", text)],
            vec![good, ("Iam-Deadline-Ms", text)],
            vec![good, ("Iam-Min", text)],
            vec![good, ("Iam-Min", floors.as_str())],
            vec![good, (text, text)],
        ] {
            for plane in [Api, Service] {
                for operation in ["whoami", "authorise", "list-users"] {
                    self.send(plane, operation, &headers, br#"{"capability":"agent"}"#).await;
                }
            }
        }
        // As the operation, so far as it is one token of a subject.
        let token = text.replace('.', "_");
        self.send(Service, &token, &[], b"{}").await;
        let reply = format!("{}.v1.{token}", self.prefix);
        let subject = format!("{}.v1.svc.bootstrap-status", self.prefix);
        self.nats.publish_with_reply(subject, reply, "{}".into()).await.expect("sent");
    }

    /// What is left of a secret that has ended.
    async fn ended(&mut self, ada: &str, key: &str, token: &str, admin: &str) {
        self.ok(Api, "revoke-user-tokens", admin, json!({ "user_id": ada })).await;
        self.refused(Api, "whoami", token, json!({})).await;
        self.ok(Api, "disable-user", admin, json!({ "user_id": ada })).await;
        self.refused(Service, "resolve-api-key", "", json!({ "api_key": key })).await;
        self.refused(Service, "authorise", "", json!({ "credential": key, "capability": "agent" })).await;
        self.ok(Api, "delete-user", admin, json!({ "user_id": ada })).await;
        self.refused(Api, "whoami", key, json!({})).await;
    }
}
