//! What the audit is told of decisions: refusals one by one, allows in sums, and what is kept when nobody listens.

use std::collections::BTreeSet;

use iam_schema::Secret;
use iam_schema::audit::{AuditEvent, AuditOutcome, AuditType};
use iam_tests::scene::As::{Holder, Nobody, Service};
use iam_tests::world::Setup;
use iam_tests::{Scene, World};
use serde_json::{Value, json};

/// A deployment with a reader `ada` of `acme`, and nothing told of so far.
struct Stage {
    world: World,
    root: String,
    root_key: Secret,
    ada: String,
    ada_key: Secret,
}

impl Stage {
    async fn new(setup: Setup) -> Self {
        let world = World::new(setup);
        let s = Scene::new("audit", &world);
        let (root, root_key) = s.bootstrap().await;
        s.workspace("acme").await;
        let ada = s.user("acme", "ada", &["reader"]).await;
        let (_, ada_key) = s.key(&ada, "k").await;
        world.told().await;
        Self { world, root, root_key, ada, ada_key }
    }

    fn scene(&self) -> Scene<'_> {
        Scene::new("audit", &self.world)
    }

    /// A question whether ada may, in a workspace.
    fn may(&self, capability: &str, workspace: &str) -> Value {
        let resource = json!({ "workspace": workspace }).to_string();
        json!({ "user_id": self.ada, "capability": capability, "resource_json": resource, "request_id": "r1" })
    }

    /// A list of questions, ada being allowed as many as said of them.
    fn may_many(&self, allowed: usize, denied: usize) -> Value {
        let mut checks = vec![json!({ "capability": "agent" }); allowed];
        checks.extend(vec![json!({ "capability": "users:admin" }); denied]);
        json!({ "user_id": self.ada, "authorise_checks": Value::from(checks).to_string(), "request_id": "r1" })
    }
}

fn with(mut request: Value, fields: Value) -> Value {
    request.as_object_mut().expect("an object").extend(fields.as_object().expect("an object").clone());
    request
}

/// Whose allows, for what and where, on which plane, and how many.
fn sum(event: &AuditEvent) -> (String, String, String, String, u64) {
    let said = event.payload.clone();
    assert_eq!((event.event_type, said.outcome), (AuditType::Authorise, Some(AuditOutcome::Success)));
    assert_eq!((said.operation.as_str(), said.duration_us), ("authorise", None));
    (said.plane, said.actor, said.capability, said.workspace, said.count.expect("a count"))
}

#[tokio::test]
async fn allows_are_summed_up_by_plane_actor_capability_and_workspace() {
    let stage = Stage::new(Setup::default()).await;
    let (s, ada, root) = (stage.scene(), &stage.ada, &stage.root);
    let nowhere = json!({ "user_id": ada, "capability": "agent" });
    let shown = json!({ "user_id": "", "credential": stage.ada_key.expose() });
    for (who, request, times) in [
        (Service, stage.may("agent", "acme"), 3),
        (Service, with(stage.may("agent", "acme"), shown), 1),
        (Service, stage.may("llm", "acme"), 1),
        (Service, with(stage.may("agent", "acme"), json!({ "actor": root })), 2),
        (Service, nowhere.clone(), 1),
        (Service, with(nowhere, json!({ "workspace": "elsewhere" })), 1),
        (Holder(&stage.ada_key), stage.may("agent", "acme"), 2),
        // An actor is believed on the service plane alone.
        (Holder(&stage.ada_key), with(stage.may("agent", "acme"), json!({ "actor": root })), 1),
    ] {
        for _ in 0..times {
            s.ok(who, "authorise", request.clone()).await;
        }
    }
    s.ok(Service, "authorise-many", stage.may_many(2, 0)).await;
    assert_eq!(stage.world.told().await.len(), 0, "before anybody asks for the sums");
    stage.world.dispatch.flush_summaries();
    let told = stage.world.told().await;
    let expected = [
        ("svc", ada.as_str(), "agent", "acme", 4),
        ("svc", ada, "llm", "acme", 1),
        ("svc", root, "agent", "acme", 2),
        ("svc", ada, "agent", "", 1),
        ("svc", ada, "agent", "elsewhere", 1),
        ("api", ada, "agent", "acme", 3),
    ];
    let expected = expected.map(|(plane, actor, capability, workspace, count)| {
        (plane.to_owned(), actor.to_owned(), capability.to_owned(), workspace.to_owned(), count)
    });
    assert_eq!(told.len(), expected.len());
    assert_eq!(told.iter().map(sum).collect::<BTreeSet<_>>(), BTreeSet::from(expected));
    stage.world.dispatch.flush_summaries();
    assert_eq!(stage.world.told().await.len(), 0, "told once");
}

#[tokio::test]
async fn sums_of_too_many_kinds_are_told_early() {
    let stage = Stage::new(Setup::default()).await;
    for n in 0..4096 {
        assert_eq!(stage.world.told().await.len(), 0, "after {n} kinds");
        let question = with(stage.may("agent", &format!("w{n}")), json!({ "user_id": stage.root }));
        stage.scene().ok(Service, "authorise", question).await;
    }
    assert_eq!(stage.world.told().await.len(), 4096);
}

/// The one event of a request: its type, and what it says.
async fn told_once(world: &World, context: &str) -> (AuditType, Value) {
    let told = world.told().await;
    assert_eq!(told.len(), 1, "{context}");
    let event = told.into_iter().next().expect("one");
    (event.event_type, serde_json::to_value(event.payload).expect("a payload"))
}

#[tokio::test]
async fn refused_question_is_told_of_by_itself_with_its_reason() {
    let stage = Stage::new(Setup::default()).await;
    let (s, ada) = (stage.scene(), &stage.ada);
    s.workspace("shut").await;
    let shut = json!({ "workspace_record": { "id": "shut" } });
    s.ok(Service, "disable-workspace", shut).await;
    let gone = s.user("acme", "gone", &["reader"]).await;
    s.ok(Service, "disable-user", json!({ "user_id": gone })).await;
    stage.world.told().await;

    let nobody = "01a0ce87-ea1a-7bb6-ae10-295948688e1d";
    let of_root = |workspace| with(stage.may("agent", workspace), json!({ "user_id": stage.root }));
    let malformed = with(stage.may("agent", "acme"), json!({ "resource_json": r#"{"workspace":7}"# }));
    let denied = |reason: &str| json!({ "outcome": "denied", "reason": reason });
    let failed = |reason: &str| json!({ "outcome": "failure", "reason": reason });
    let allowed = json!({ "outcome": "success" });
    let by_ada = json!({ "plane": "api", "actor": ada, "roles": ["reader"] });
    let unknown = json!({ "user_id": "", "credential": "tg_nothing-of-the-kind" });
    use AuditType::{Authenticate, Authorise};
    for (who, operation, request, event_type, says) in [
        (
            Service,
            "authorise",
            with(stage.may("users:admin", "acme"), json!({ "client_ip": "192.0.2.1", "actor": stage.root })),
            Authorise,
            with(
                denied("no role has the capability"),
                json!({ "plane": "svc", "user_id": ada, "capability": "users:admin", "workspace": "acme",
                    "resource": r#"{"workspace":"acme"}"#, "client_ip": "192.0.2.1", "actor": stage.root }),
            ),
        ),
        (
            Holder(&stage.ada_key),
            "authorise",
            with(stage.may("agent", "globex"), json!({ "client_ip": "192.0.2.1" })),
            Authorise,
            with(
                by_ada.clone(),
                with(denied("target out of scope"), json!({ "user_id": ada, "client_ip": null })),
            ),
        ),
        (Service, "authorise", of_root("shut"), Authorise, denied("target workspace disabled")),
        (Service, "authorise", malformed, Authorise, denied("malformed target")),
        (Service, "authorise", stage.may("no:such", "acme"), Authorise, denied("unknown capability")),
        (
            Service,
            "authorise",
            with(stage.may("agent", "acme"), json!({ "user_id": nobody })),
            Authorise,
            with(denied("unknown user"), json!({ "user_id": nobody })),
        ),
        (
            Service,
            "authorise",
            with(stage.may("agent", "acme"), json!({ "user_id": gone })),
            Authorise,
            denied("user or home workspace disabled"),
        ),
        (
            Service,
            "authorise",
            with(stage.may("agent", "acme"), unknown),
            Authorise,
            with(failed("unknown key"), json!({ "user_id": null })),
        ),
        (
            Service,
            "authorise-many",
            stage.may_many(2, 3),
            Authorise,
            with(denied("3 of 5 checks denied"), json!({ "user_id": ada })),
        ),
        (
            Holder(&stage.ada_key),
            "authorise-many",
            with(stage.may_many(0, 1), json!({ "user_id": "" })),
            Authorise,
            with(denied("1 of 1 checks denied"), with(by_ada.clone(), json!({ "user_id": ada }))),
        ),
        (
            Holder(&stage.ada_key),
            "authorise",
            with(stage.may("agent", "acme"), json!({ "user_id": stage.root })),
            Authorise,
            with(by_ada.clone(), json!({ "outcome": "denied", "reason": "the operation is for oneself" })),
        ),
        (Nobody, "authorise", stage.may("agent", "acme"), Authorise, failed("no credential")),
        (
            Holder(&stage.root_key),
            "explain",
            stage.may("agent", "globex"),
            Authorise,
            json!({ "outcome": "denied", "actor": stage.root, "user_id": ada }),
        ),
        (
            Service,
            "explain",
            stage.may("agent", "acme"),
            Authorise,
            with(allowed.clone(), json!({ "user_id": ada, "reason": null, "actor": null })),
        ),
        (
            Service,
            "authenticate",
            json!({ "credential": stage.ada_key.expose(), "request_id": "r1" }),
            Authenticate,
            with(allowed, json!({ "user_id": ada, "workspace": "acme", "roles": ["reader"] })),
        ),
        (
            Service,
            "authenticate-anonymous",
            json!({ "request_id": "r1" }),
            Authenticate,
            failed("no anonymous user configured"),
        ),
    ] {
        // Out of the store, and out of memory.
        stage.world.dispatch.forget_everything();
        for warm in [false, true] {
            s.ask(who, operation, request.clone()).await;
            let context = format!("{operation} {request}, warm: {warm}");
            let (told_type, said) = told_once(&stage.world, &context).await;
            assert_eq!(told_type, event_type, "{context}");
            let says = with(says.clone(), json!({ "operation": operation, "request_id": "r1" }));
            for (field, value) in says.as_object().expect("an object") {
                assert_eq!(said.get(field).unwrap_or(&Value::Null), value, "{field} of {said}: {context}");
            }
        }
    }
}

/// The commonest slip at a login is to type the password where the name belongs.
#[tokio::test]
async fn name_at_a_refused_login_is_told_where_it_names_somebody_or_was_tried_too_often() {
    let stage = Stage::new(Setup::default()).await;
    let s = stage.scene();
    let user = json!({ "username": "eve", "password": "violet-anvil-93-sings" });
    s.ok(Service, "create-user", json!({ "workspace": "acme", "user": user })).await;
    stage.world.told().await;
    let login = |name: &str| json!({ "username": name, "password": "wrong" });
    let slip = "correct horse battery";
    for (name, reason, told) in [
        ("eve", "wrong password", true),
        ("EVE", "wrong password", true),
        ("nobody", "unknown user", false),
        (slip, "unknown user", false),
    ] {
        s.ask(Service, "login", login(name)).await;
        let (_, said) = told_once(&stage.world, name).await;
        assert_eq!((&said["reason"], said.get("username")), (&json!(reason), told.then_some(&json!(name))));
    }
    for (name, told) in [("eve", true), ("nobody", true), (slip, false)] {
        while s.ask(Service, "login", login(name)).await.text("error.type") != "throttled" {}
        let said = serde_json::to_value(stage.world.last_told().await).expect("a payload");
        assert_eq!(
            (&said["reason"], said.get("username")),
            (&json!("throttled"), told.then_some(&json!(name)))
        );
    }
    // Where nobody types a password for a name, a name is told whomever it names.
    let create = json!({ "workspace": "acme", "actor": stage.ada, "user": { "username": "mallory" } });
    s.ask(Service, "create-user", create).await;
    let (_, said) = told_once(&stage.world, "create-user").await;
    assert_eq!((&said["outcome"], &said["username"]), (&json!("denied"), &json!("mallory")));
}

#[tokio::test]
async fn every_allow_is_told_of_where_all_are_asked_for() {
    let stage = Stage::new(Setup { audit_allow_all: true, ..Setup::default() }).await;
    let s = stage.scene();
    for (operation, request, denied) in [
        ("authorise", stage.may("agent", "acme"), false),
        ("authorise", stage.may("users:admin", "acme"), true),
        ("authorise-many", stage.may_many(2, 0), false),
        ("authorise-many", stage.may_many(0, 0), false),
        ("authorise-many", stage.may_many(2, 1), true),
    ] {
        for _ in 0..2 {
            s.ok(Service, operation, request.clone()).await;
            let (_, said) = told_once(&stage.world, operation).await;
            assert_eq!(said["outcome"], if denied { "denied" } else { "success" }, "{operation} {request}");
            assert_eq!((&said["user_id"], said.get("count")), (&json!(stage.ada), None));
            assert_eq!(said.get("reason").is_some(), denied, "{said}");
        }
    }
    stage.world.dispatch.flush_summaries();
    assert_eq!(stage.world.told().await.len(), 0);
}

/// A quarter of the queue is kept for changes that were made: refusals are anybody's to cause.
#[tokio::test]
async fn full_queue_takes_changes_for_longest_and_counts_what_it_gave_up() {
    let stage = Stage::new(Setup { audit_queue: 8, ..Setup::default() }).await;
    let s = stage.scene();
    let given_up = || stage.world.dispatch.audit().given_up();
    for n in 1..=20_u64 {
        s.ok(Service, "authorise", stage.may("users:admin", "acme")).await;
        assert_eq!(given_up(), n.saturating_sub(6));
    }
    let nobody = json!({ "user_id": "01a0ce87-ea1a-7bb6-ae10-295948688e1d" });
    s.ask(Service, "disable-user", nobody).await;
    assert_eq!(given_up(), 15, "a change that was refused is none");
    for (n, lost) in [(0, 0), (1, 0), (2, 1), (3, 2)] {
        s.workspace(&format!("w{n}")).await;
        assert_eq!(given_up(), 15 + lost, "workspace {n}");
    }
    let told = stage.world.told().await;
    let operations: Vec<&str> = told.iter().map(|event| event.payload.operation.as_str()).collect();
    assert_eq!(operations, [["authorise"; 6].as_slice(), &["create-workspace"; 2]].concat());
}
