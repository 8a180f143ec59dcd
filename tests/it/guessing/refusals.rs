//! Refused authentications look the same, do the same work, and take the same time.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Instant;

use iam_schema::subject::Plane;
use iam_schema::{OperationName, Secret};
use iam_svc::dispatch::Headers;
use iam_svc::domain::policy::{PolicySource, RoleSource};
use iam_tests::campaign::rounds;
use iam_tests::deployment::nats_url;
use iam_tests::faulty::Faulty;
use iam_tests::scene::As::{self, Holder, Nobody, Service};
use iam_tests::world::Setup;
use iam_tests::{Deployment, Scene, World};
use rand::SeedableRng;
use rand::rngs::StdRng;
use rand::seq::SliceRandom;
use serde_json::{Value, json};

const PASSWORD: &str = "violet-anvil-93-sings";
const DAY_MS: i64 = 24 * 3_600_000;
/// An id that nobody has.
const NOBODY: &str = "01a0ce87-ea1a-7bb6-ae10-295948688e1d";
/// Fewer failures than a name may have in a row.
const A_NAME: usize = 15;

/// A refused login: what is wrong with it, and the names it can be tried with.
struct Refused {
    kind: &'static str,
    names: Vec<String>,
    password: String,
    workspace: &'static str,
}

/// People who cannot log in, so many of each kind, and one who can.
async fn people(s: &Scene<'_>, of_each: usize) -> Vec<Refused> {
    s.bootstrap().await;
    for id in ["acme", "other", "closed", "closed-too"] {
        s.workspace(id).await;
    }
    let mut names: BTreeMap<&str, Vec<String>> = BTreeMap::new();
    for (kind, home) in [("known", "acme"), ("disabled", "acme"), ("homeless", "closed")] {
        for n in 0..of_each {
            let name = format!("{kind}{n}");
            let user = json!({ "username": name, "password": PASSWORD });
            let user = s.ok(Service, "create-user", json!({ "workspace": home, "user": user })).await;
            if kind == "disabled" {
                s.ok(Service, "disable-user", json!({ "user_id": user.text("user.id") })).await;
            }
            names.entry(kind).or_default().push(name);
        }
    }
    for n in 0..of_each {
        s.user("acme", &format!("robot{n}"), &[]).await;
    }
    for closed in ["closed", "closed-too"] {
        s.ok(Service, "disable-workspace", json!({ "workspace_record": { "id": closed } })).await;
    }
    let numbered = |kind: &str| (0..of_each).map(|n| format!("{kind}{n}")).collect::<Vec<_>>();
    let row = |kind, names: &[String], password: &str, workspace| Refused {
        kind,
        names: names.to_vec(),
        password: password.to_owned(),
        workspace,
    };
    vec![
        row("unknown user", &numbered("nobody"), PASSWORD, ""),
        row("wrong password", &names["known"], "wrong", ""),
        row("disabled user", &names["disabled"], PASSWORD, ""),
        row("disabled user, wrong password", &names["disabled"], "wrong", ""),
        row("disabled workspace", &names["homeless"], PASSWORD, ""),
        row("disabled workspace, wrong password", &names["homeless"], "wrong", ""),
        row("no password", &numbered("robot"), PASSWORD, ""),
        row("unknown user, workspace", &numbered("nobody-there"), PASSWORD, "other"),
        row("wrong password, workspace", &names["known"], "wrong", "other"),
        row("workspace of others", &names["known"], PASSWORD, "other"),
        row("disabled workspace of others", &names["known"], PASSWORD, "closed-too"),
        row("no such workspace", &names["known"], PASSWORD, "nowhere"),
        row("disabled user, workspace", &names["disabled"], PASSWORD, "other"),
    ]
}

fn login(row: &Refused, n: usize) -> Value {
    let name = &row.names[n % row.names.len()];
    json!({ "username": name, "password": row.password, "workspace": row.workspace })
}

/// One request in process: the bytes of the reply, the calls of the store, and the passwords hashed.
async fn worked(
    world: &World,
    store: &Faulty,
    who: As<'_>,
    operation: &str,
    request: &Value,
) -> (Vec<u8>, Vec<&'static str>, u64) {
    let (plane, credential) = match who {
        As::Service => (Plane::Service, None),
        As::Holder(credential) => (Plane::Api, Some(format!("Bearer {}", credential.expose()))),
        As::Nobody => (Plane::Api, None),
    };
    let headers = Headers { authorization: credential.as_deref(), ..Headers::default() };
    let hashes = world.dispatch.ctx().hasher.begun();
    store.calls();
    let (reply, _) = world.bytes(plane, operation, headers, request.to_string().as_bytes()).await;
    (reply, store.calls(), world.dispatch.ctx().hasher.begun() - hashes)
}

#[tokio::test]
async fn refused_logins_do_the_same_work_and_give_the_same_bytes() {
    let store = Faulty::embedded();
    let world = store.world(Setup::default());
    let scene = Scene::new("guessing", &world);
    let mut rows = people(&scene, 1).await;
    // A temporary password that is right, but too old.
    let late = scene.user("acme", "late", &[]).await;
    let temporary = scene.ok(Service, "reset-password", json!({ "user_id": late })).await;
    world.clock.advance_ms(DAY_MS);
    rows.push(Refused {
        kind: "temporary password expired",
        names: vec!["late".into()],
        password: temporary.text("temporary_password"),
        workspace: "",
    });
    for caller in [Nobody, Service] {
        let mut first: BTreeMap<bool, (Vec<u8>, Vec<&str>)> = BTreeMap::new();
        for row in &rows {
            let (reply, reads, hashes) = worked(&world, &store, caller, "login", &login(row, 0)).await;
            assert_eq!(hashes, 1, "{}", row.kind);
            let same = first.entry(row.workspace.is_empty()).or_insert((reply.clone(), reads.clone()));
            assert_eq!(same, &(reply, reads), "{}", row.kind);
        }
        let replies: Vec<_> = first.values().map(|(reply, _)| reply).collect();
        assert_eq!(replies[0], replies[1], "asking for a workspace changes nothing");
    }
    // Who may log in does the same work before anything is told, and then signs.
    let right = json!({ "username": "known0", "password": PASSWORD });
    let (_, reads, hashes) = worked(&world, &store, Nobody, "login", &right).await;
    assert_eq!((reads, hashes), (vec!["user_by_name", "workspace", "key_ring"], 1));
}

#[tokio::test]
async fn store_that_fails_tells_nobody_whether_the_password_was_right() {
    let store = Faulty::embedded();
    let world = store.world(Setup::default());
    let scene = Scene::new("guessing", &world);
    let rows = people(&scene, 1).await;
    for method in ["user_by_name", "workspace"] {
        store.fail(method, iam_tests::faulty::Fault::Unavailable);
        for row in &rows {
            let reply = scene.ask(Nobody, "login", login(row, 0)).await;
            assert_eq!(reply.text("error.type"), "unavailable", "{}: {method}", row.kind);
        }
        store.heal();
    }
    assert_eq!(world.dispatch.ctx().hasher.waiting(), 0);
}

#[tokio::test]
async fn refused_credentials_give_the_same_bytes_and_no_more_work_than_a_few_reads() {
    let store = Faulty::embedded();
    let world = store.world(Setup::default());
    let s = &Scene::new("guessing", &world);
    people(s, 1).await;
    let key_of = async |name: &str, end: Option<(&str, &str)>| {
        let user = s.user("acme", name, &["reader"]).await;
        let (key_id, key) = s.key(&user, "k").await;
        if let Some((operation, field)) = end {
            let id = if field == "key_id" { &key_id } else { &user };
            s.ok(Service, operation, json!({ field: id })).await;
        }
        key.expose().to_owned()
    };
    let revoked = key_of("revoked", Some(("revoke-api-key", "key_id"))).await;
    let deleted = key_of("deleted", Some(("delete-user", "user_id"))).await;
    let disabled = key_of("asleep", Some(("disable-user", "user_id"))).await;
    let token = s.login("known0", PASSWORD).await.expose().to_owned();
    let (signed, _) = token.rsplit_once('.').expect("a token");
    let forged = format!("{signed}.{}", "A".repeat(86));
    let stranger = format!("{}.{}.{}", "e30", "e30", "A".repeat(86));
    let known = s.ok(Service, "get-user", json!({ "username": "known0" })).await.text("user.id");
    s.ok(Service, "revoke-user-tokens", json!({ "user_id": known })).await;

    let hashes = world.dispatch.ctx().hasher.begun();
    let mut replies = Vec::new();
    for credential in [
        "tg_AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA",
        "anything",
        &revoked,
        &deleted,
        &disabled,
        &token,
        &forged,
        &stranger,
        "..",
    ] {
        let holder = Secret::new(credential);
        for (who, operation, request) in [
            (Service, "authenticate", json!({ "credential": credential })),
            (Service, "resolve-api-key", json!({ "api_key": credential })),
            (Service, "authorise", json!({ "credential": credential, "capability": "graph:read" })),
            (Holder(&holder), "whoami", json!({})),
            (Holder(&holder), "get-user", json!({ "username": "known0" })),
            (Holder(&holder), "create-workspace", json!({ "workspace_record": { "id": "new" } })),
        ] {
            let (reply, reads, _) = worked(&world, &store, who, operation, &request).await;
            // The key or the ring; the owner; the owner's home.
            assert!(reads.len() <= 3, "{operation} with {credential}: {reads:?}");
            replies.push((credential.to_owned(), operation, reply));
            let (_, reads, _) = worked(&world, &store, who, operation, &request).await;
            assert!(reads.is_empty(), "{operation} with {credential} again: {reads:?}");
        }
    }
    assert_eq!(world.dispatch.ctx().hasher.begun(), hashes, "no password was hashed");
    for (credential, operation, reply) in &replies {
        assert_eq!(reply, &replies[0].2, "{operation} with {credential}");
    }
}

#[tokio::test]
async fn hidden_user_costs_an_administrator_what_an_absent_one_costs() {
    let store = Faulty::embedded();
    let mut policy = PolicySource::default();
    policy.roles.push(RoleSource {
        name: "steward".into(),
        scope: "assigned".into(),
        includes: Vec::new(),
        capabilities: ["users:read", "users:write", "users:admin", "keys:admin"].map(Into::into).into(),
    });
    let world = store.world(Setup { policy, ..Setup::default() });
    let s = &Scene::new("guessing", &world);
    s.bootstrap().await;
    s.workspace("acme").await;
    s.workspace("other").await;
    let steward = s.user("acme", "steward", &["steward"]).await;
    let (_, key) = s.key(&steward, "k").await;
    let stranger = s.user("other", "stranger", &[]).await;
    let about = |id: &str, name: &str| {
        let user = json!({ "user_id": id });
        let mut requests = vec![
            ("get-user", json!({ "username": name })),
            ("get-user", json!({ "username": name, "user_id": id })),
            ("update-user", json!({ "user_id": id, "user": { "name": "New" } })),
            ("create-api-key", json!({ "key": { "user_id": id, "name": "new" } })),
            ("explain", json!({ "user_id": id, "capability": "graph:read" })),
            ("explain", json!({ "username": name, "capability": "graph:read" })),
            ("authorise", json!({ "user_id": id, "capability": "graph:read" })),
            ("change-password", json!({ "user_id": id, "password": "x", "new_password": PASSWORD })),
        ];
        for operation in [
            "get-user",
            "list-api-keys",
            "revoke-user-tokens",
            "reset-password",
            "disable-user",
            "enable-user",
            "delete-user",
        ] {
            requests.push((operation, user.clone()));
        }
        requests
    };
    s.ok(Holder(&key), "whoami", json!({})).await;
    for ((operation, there), (_, absent)) in
        about(&stranger, "stranger").into_iter().zip(about(NOBODY, "nobody"))
    {
        let hidden = worked(&world, &store, Holder(&key), operation, &there).await;
        let nobody = worked(&world, &store, Holder(&key), operation, &absent).await;
        assert_eq!(hidden, nobody, "{operation} {there}");
        assert!(String::from_utf8_lossy(&hidden.0).contains("access denied"), "{operation} {there}");
        assert_eq!(hidden.2, 0, "{operation}: no password is hashed for who may not");
    }
}

/// Medians over NATS, of the real program: printed, and with enough logins held to 3 % of each other.
#[tokio::test(flavor = "multi_thread")]
async fn refused_logins_take_the_same_time_over_nats() {
    let Some(url) = nats_url() else { return };
    let logins = rounds("IAM_TEST_LOGINS", 1);
    let deployment = Arc::new(Deployment::start(&url, &["--hash-threads", "1"]).await);
    let scene = Scene::new("guessing", &*deployment);
    let rows = people(&scene, logins.div_ceil(A_NAME).max(1)).await;
    // With the right password they cost their name's budget too: each kind has names enough for itself alone.
    let timed = ["unknown user", "wrong password", "disabled user", "disabled workspace", "no password"];
    let rows: Vec<&Refused> = rows.iter().filter(|row| timed.contains(&row.kind)).collect();

    let mut order: Vec<(usize, usize)> =
        (0..logins).flat_map(|n| (0..rows.len()).map(move |row| (row, n))).collect();
    order.shuffle(&mut StdRng::seed_from_u64(1));
    let mut took: Vec<Vec<f64>> = vec![Vec::new(); rows.len()];
    let mut replies = Vec::new();
    for (round, (row, n)) in order.into_iter().enumerate() {
        let plane = if round % 2 == 0 { Plane::Api } else { Plane::Service };
        let client = deployment.client().clone().on(plane);
        let request = login(rows[row], n);
        let request = iam_schema::IamRequest {
            username: request["username"].as_str().unwrap_or_default().to_owned().into(),
            password: Secret::new(rows[row].password.as_str()),
            ..Default::default()
        };
        let start = Instant::now();
        let refused = client.call(OperationName::Login, request).await.expect_err("refused");
        took[row].push(start.elapsed().as_secs_f64() * 1e3);
        replies.push(refused.to_string());
    }
    assert!(replies.iter().all(|reply| *reply == replies[0]), "{replies:?}");
    let medians: Vec<f64> = took
        .iter_mut()
        .map(|took| {
            took.sort_by(f64::total_cmp);
            took[took.len() / 2]
        })
        .collect();
    for (row, median) in rows.iter().zip(&medians) {
        println!("{:20} {median:8.2} ms, {:6.3} of the first", row.kind, median / medians[0]);
    }
    if logins >= 200 {
        assert!(medians.iter().all(|m| (0.97..1.03).contains(&(m / medians[0]))), "{medians:?}");
    }
}
