//! Decisions, through the whole service.

use std::collections::HashMap;

use iam_schema::codec::Format;
use iam_schema::codec::{decode, encode};
use iam_schema::subject::Plane;
use iam_schema::{ErrorKind, IamRequest, IamResponse, UserId};
use iam_svc::dispatch::Headers;
use iam_svc::domain::policy::RoleName;
use iam_svc::domain::users::User;
use iam_svc::store::{InsertUser, Read};
use iam_tests::scene::As::Service;
use iam_tests::{Scene, World};
use serde::Deserialize;
use serde_json::{Map, Value, json};

use super::{load, report};

#[derive(Deserialize)]
struct File {
    workspaces: Vec<Workspace>,
    rows: Vec<Row>,
    raw_user: Vec<Asked>,
    raw: Vec<Raw>,
    raw_errors: Vec<Raw>,
    many: Vec<Many>,
}

#[derive(Deserialize)]
struct Workspace {
    id: String,
    enabled: bool,
}

/// The user that a row asks about.
#[derive(Deserialize, Clone, PartialEq, Eq, Hash)]
struct Subject {
    roles: Vec<String>,
    home: String,
    /// `disabled` or `unknown`.
    user: Option<String>,
}

#[derive(Deserialize)]
struct Asked {
    #[serde(flatten)]
    subject: Subject,
    capability: String,
}

#[derive(Deserialize)]
struct Row {
    #[serde(flatten)]
    asked: Asked,
    resource: Option<Value>,
    parameters: Option<Value>,
    allow: bool,
}

#[derive(Deserialize)]
struct Raw {
    capability: Option<String>,
    #[serde(default)]
    resource_json: String,
    #[serde(default)]
    parameters_json: String,
    #[serde(default)]
    allow: bool,
    expect: Option<String>,
    reason: String,
}

#[derive(Deserialize)]
struct Many {
    authorise_checks: String,
    allow: Option<Vec<bool>>,
    expect: Option<String>,
    reason: String,
}

/// A world with the workspaces of the file, and its users as they are asked about.
struct State {
    world: World,
    users: HashMap<Subject, UserId>,
}

impl State {
    async fn new(workspaces: &[Workspace]) -> Self {
        let world = World::new(Default::default());
        let s = Scene::new("golden", &world);
        s.bootstrap().await;
        for workspace in workspaces {
            if workspace.id != "default" {
                s.workspace(&workspace.id).await;
            }
            if !workspace.enabled {
                let request = json!({ "workspace_record": { "id": workspace.id } });
                s.ok(Service, "disable-workspace", request).await;
            }
        }
        Self { world, users: HashMap::new() }
    }

    /// The id of a user, who is made when first asked about: in the store, since no operation would give anybody
    /// the roles that some of the rows have. Names that cannot be those of a role are left out.
    async fn user(&mut self, subject: &Subject) -> UserId {
        if let Some(id) = self.users.get(subject) {
            return *id;
        }
        let ctx = self.world.dispatch.ctx();
        let now = ctx.now();
        let id = ctx.entropy.user_id(now);
        let home = subject.home.parse().expect("a workspace id");
        let home = ctx.store.workspace(&home, Read::Ordinary).await.expect("a store").expect("a workspace");
        let user = User {
            id,
            version: 1,
            workspace: home.id,
            workspace_epoch: home.epoch,
            username: format!("user{}", self.users.len()).parse().expect("a username"),
            name: String::new(),
            email: String::new(),
            roles: subject.roles.iter().filter_map(|role| role.parse::<RoleName>().ok()).collect(),
            enabled: subject.user.as_deref() != Some("disabled"),
            must_change_password: false,
            password: None,
            temporary_until: None,
            key_epoch: 0,
            token_epoch: 0,
            created: now,
        };
        if subject.user.as_deref() != Some("unknown") {
            assert_eq!(ctx.store.insert_user(&user).await.expect("a store"), InsertUser::Inserted);
        }
        self.users.insert(subject.clone(), id);
        id
    }

    /// `allow`, `deny`, or the kind of the refusal.
    async fn ask(&self, operation: &str, request: IamRequest<'_>) -> (String, IamResponse) {
        let payload = encode(&request, Format::MessagePack).expect("a request");
        let (reply, error) = self.world.bytes(Plane::Service, operation, Headers::default(), &payload).await;
        let response: IamResponse = decode(&reply).expect("a reply");
        let outcome = match (error, response.decision_allow) {
            (Some(kind), None) => kind.as_str(),
            (None, Some(true)) => "allow",
            (None, Some(false)) => "deny",
            _ => "neither",
        };
        (outcome.to_owned(), response)
    }
}

fn words(allow: bool) -> &'static str {
    if allow { "allow" } else { "deny" }
}

fn text(value: Option<&Value>) -> String {
    value.map(Value::to_string).unwrap_or_default()
}

#[tokio::test]
async fn decisions_are_those_of_the_vectors() {
    let file: File = load("authorise");
    let mut state = State::new(&file.workspaces).await;
    let mut failures = Vec::new();
    // The same questions again, as one list for each user.
    let mut lists: HashMap<UserId, Vec<(Value, bool)>> = HashMap::new();
    for row in &file.rows {
        let user = state.user(&row.asked.subject).await;
        let id = user.to_string();
        for operation in ["authorise", "authorise", "explain"] {
            let request = IamRequest {
                user_id: id.as_str().into(),
                capability: row.asked.capability.as_str().into(),
                resource_json: text(row.resource.as_ref()).into(),
                parameters_json: text(row.parameters.as_ref()).into(),
                ..Default::default()
            };
            let (outcome, _) = state.ask(operation, request).await;
            if outcome != words(row.allow) {
                failures.push(format!(
                    "{operation}: {} for {:?} at home in {} ({:?}), {:?} {:?}: {outcome}",
                    row.asked.capability,
                    row.asked.subject.roles,
                    row.asked.subject.home,
                    row.asked.subject.user,
                    row.resource,
                    row.parameters,
                ));
            }
        }
        let mut check = Map::from_iter([("capability".to_owned(), json!(row.asked.capability))]);
        check.extend(row.resource.clone().map(|resource| ("resource".to_owned(), resource)));
        check.extend(row.parameters.clone().map(|parameters| ("parameters".to_owned(), parameters)));
        lists.entry(user).or_default().push((check.into(), row.allow));
    }
    for (user, list) in &lists {
        let (checks, expected): (Vec<Value>, Vec<bool>) = list.iter().cloned().unzip();
        let allowed = many(&state, *user, &Value::from(checks).to_string()).await.expect("decisions");
        if allowed != expected {
            failures.push(format!("authorise-many: {list:?}: {allowed:?}"));
        }
    }
    report("authorise", file.rows.len(), failures);
}

#[tokio::test]
async fn json_fields_are_read_as_the_vectors_say() {
    let file: File = load("authorise");
    let mut state = State::new(&file.workspaces).await;
    let asked = &file.raw_user[0];
    let user = state.user(&asked.subject).await.to_string();
    let mut failures = Vec::new();
    for row in file.raw.iter().chain(&file.raw_errors) {
        let expected = row.expect.as_deref().unwrap_or(words(row.allow));
        for operation in ["authorise", "explain"] {
            let request = IamRequest {
                user_id: user.as_str().into(),
                capability: row.capability.as_deref().unwrap_or(&asked.capability).into(),
                resource_json: row.resource_json.as_str().into(),
                parameters_json: row.parameters_json.as_str().into(),
                ..Default::default()
            };
            let (outcome, _) = state.ask(operation, request).await;
            if outcome != expected {
                failures.push(format!("{operation}, {}: {outcome}, not {expected}", row.reason));
            }
        }
    }
    report("authorise, raw", file.raw.len() + file.raw_errors.len(), failures);
}

#[tokio::test]
async fn lists_of_checks_are_answered_as_the_vectors_say() {
    let file: File = load("authorise");
    let mut state = State::new(&file.workspaces).await;
    let user = state.user(&file.raw_user[0].subject).await;
    let mut failures = Vec::new();
    for row in &file.many {
        let outcome = many(&state, user, &row.authorise_checks).await;
        let as_expected = match (&outcome, &row.allow, &row.expect) {
            (Ok(allowed), Some(expected), None) => allowed == expected,
            (Err(kind), None, Some(expected)) => kind.as_str() == expected,
            _ => false,
        };
        if !as_expected {
            failures.push(format!("{}: {outcome:?}", row.reason));
        }
    }
    report("authorise, many", file.many.len(), failures);
}

/// The answers to a list of checks, in order.
async fn many(state: &State, user: UserId, checks: &str) -> Result<Vec<bool>, ErrorKind> {
    let request = IamRequest {
        user_id: user.to_string().into(),
        authorise_checks: checks.into(),
        ..Default::default()
    };
    let (_, response) = state.ask("authorise-many", request).await;
    if let Some(error) = response.error {
        return Err(error.known_kind().expect("a known kind"));
    }
    let decisions: Vec<Value> = serde_json::from_str(&response.decisions_json).expect("a list");
    Ok(decisions.iter().map(|decision| decision["allow"] == true).collect())
}
