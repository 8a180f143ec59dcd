//! Which requests are answered on the front thread, out of memory, which must leave it, and what becomes of a fault.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use iam_schema::codec::decode;
use iam_schema::subject::Plane;
use iam_schema::{ErrorKind, IamResponse, Secret, Timestamp};
use iam_svc::clock::Clock;
use iam_svc::dispatch::audit::Audit;
use iam_svc::dispatch::{Answer, Dispatch, Headers, Incoming};
use iam_svc::domain::policy::Policy;
use iam_tests::faulty::Faulty;
use iam_tests::scene::As::Service;
use iam_tests::world::{self, Setup};
use iam_tests::{Scene, World};
use serde_json::{Value, json};

const PASSWORD: &str = "violet-anvil-93-sings";
/// The largest payload that is looked into on the front thread, in bytes.
const MOST_BYTES: usize = 16 * 1024;
/// The most checks that are decided there.
const MOST_CHECKS: usize = 128;

/// Whether a request is answered at once; it is answered in any case.
async fn at_once(
    world: &World,
    plane: Plane,
    operation: &str,
    credential: Option<&Secret>,
    payload: &[u8],
) -> bool {
    let header = credential.map(|credential| format!("Bearer {}", credential.expose()));
    let headers = Headers { authorization: header.as_deref(), ..Headers::default() };
    let incoming = Incoming { plane, operation, headers, payload, received: Instant::now() };
    let (reply, at_once) = match world.dispatch.answer_now(incoming) {
        Answer::Now(reply) => (Some(reply), true),
        Answer::Later(later) => (world.dispatch.answer_later(later).await.reply, false),
    };
    let error = reply.expect("no deadline was given").error;
    assert!(matches!(error, None | Some(ErrorKind::AuthFailed)), "{operation}: {error:?}");
    at_once
}

fn checks(count: usize) -> String {
    Value::from(vec![json!({ "capability": "agent" }); count]).to_string()
}

#[tokio::test]
async fn what_memory_holds_is_answered_at_once_and_nothing_else() {
    let world = World::new(Default::default());
    let s = Scene::new("dispatch", &world);
    let (root, _) = s.bootstrap().await;
    s.workspace("acme").await;
    let user = json!({ "username": "ada", "roles": ["reader"], "password": PASSWORD });
    let ada =
        s.ok(Service, "create-user", json!({ "workspace": "acme", "user": user })).await.text("user.id");
    let key = s.key(&ada, "k").await.1;
    let token = s.login("ada", PASSWORD).await;
    let unknown = Secret::new("tg_unknown");
    let about = |fields: Value| {
        let mut request = json!({ "user_id": ada, "capability": "agent" });
        request.as_object_mut().expect("an object").extend(fields.as_object().expect("an object").clone());
        request
    };
    use Plane::{Api, Service as Svc};
    // What is there is remembered for a minute, what is not for five seconds.
    let (there, absent) = (60_000, 5_000);
    let nobody = json!({ "user_id": "01a0ce87-ea1a-7bb6-ae10-295948688e1d" });
    let nowhere = json!({ "user_id": root, "resource_json": r#"{"workspace":"nowhere"}"# });
    let rows = [
        (there, Svc, "authorise", None, about(json!({}))),
        (there, Svc, "authorise", None, about(json!({ "user_id": "", "credential": key.expose() }))),
        (there, Svc, "authorise", None, about(json!({ "user_id": "", "credential": token.expose() }))),
        (there, Svc, "authorise-many", None, about(json!({ "authorise_checks": checks(2) }))),
        (there, Svc, "authenticate", None, json!({ "credential": key.expose() })),
        (there, Svc, "authenticate", None, json!({ "credential": token.expose() })),
        (there, Svc, "resolve-api-key", None, json!({ "api_key": key.expose() })),
        (there, Api, "authorise", Some(&key), about(json!({}))),
        (there, Api, "authorise", Some(&token), about(json!({ "user_id": "" }))),
        (there, Api, "authorise-many", Some(&key), about(json!({ "authorise_checks": checks(2) }))),
        (absent, Svc, "authorise", None, about(nobody)),
        (absent, Svc, "authorise", None, about(nowhere)),
        (absent, Svc, "authenticate", None, json!({ "credential": "tg_nothing-of-the-kind" })),
        (absent, Svc, "authenticate", None, json!({ "credential": "a.b.c" })),
        (absent, Api, "authorise", Some(&unknown), about(json!({}))),
    ];
    // However long the service has been up.
    world.clock.advance_ms(600_000);
    for (lives_ms, plane, operation, credential, request) in rows {
        let payload = request.to_string();
        world.dispatch.forget_everything();
        for (pass_ms, warm) in [(0, false), (0, true), (lives_ms - 1, true), (1, false), (0, true)] {
            world.clock.advance_ms(pass_ms);
            let at_once = at_once(&world, plane, operation, credential, payload.as_bytes()).await;
            assert_eq!(at_once, warm, "{operation} on {plane:?}, {pass_ms} ms later: {request}");
        }
    }
    for (plane, operation, request) in [
        (Svc, "get-user", json!({ "user_id": ada })),
        (Svc, "explain", about(json!({}))),
        (Api, "whoami", json!({})),
        (Api, "get-jwks", json!({})),
    ] {
        for _ in 0..2 {
            let payload = request.to_string();
            assert!(!at_once(&world, plane, operation, Some(&key), payload.as_bytes()).await, "{operation}");
        }
    }
}

#[tokio::test]
async fn what_takes_long_leaves_the_front_thread_however_warm_it_is() {
    let world = World::new(Default::default());
    let s = Scene::new("dispatch", &world);
    let (root, _) = s.bootstrap().await;
    let question = json!({ "user_id": root, "capability": "agent" }).to_string();
    let many = |count| json!({ "user_id": root, "authorise_checks": checks(count) }).to_string();
    s.may(&root, "agent", "default").await;
    for (bytes, now) in
        [(question.len(), true), (4_096, true), (MOST_BYTES, true), (MOST_BYTES + 1, false), (65_536, false)]
    {
        let padded = format!("{question}{}", " ".repeat(bytes - question.len()));
        let answered = at_once(&world, Plane::Service, "authorise", None, padded.as_bytes()).await;
        assert_eq!(answered, now, "{bytes} bytes");
    }
    for (count, now) in [(0, true), (40, true), (MOST_CHECKS, true), (MOST_CHECKS + 1, false), (1_000, false)]
    {
        let answered = at_once(&world, Plane::Service, "authorise-many", None, many(count).as_bytes()).await;
        assert_eq!(answered, now, "{count} checks");
    }
}

/// A clock that can be made to panic once.
#[derive(Debug, Default)]
struct Broken(AtomicBool);

impl Clock for Broken {
    fn now(&self) -> Timestamp {
        Timestamp::from_millis(0)
    }

    fn monotonic_ms(&self) -> i64 {
        assert!(!self.0.swap(false, Ordering::SeqCst), "as it was told to");
        0
    }
}

#[tokio::test]
async fn panic_is_an_internal_error_with_an_id_to_find_it_by_and_the_next_request_is_answered() {
    let clock = Arc::new(Broken::default());
    let policy = Arc::new(Policy::build(&Default::default()).expect("a policy"));
    let ctx = world::ctx(Faulty::embedded(), clock.clone(), policy, Setup::default());
    let dispatch = Dispatch::new(Arc::new(ctx), Audit::channel(1).0);
    let ask = async |operation: &str, payload: &[u8]| {
        let (plane, headers) = (Plane::Service, Headers::default());
        let incoming = Incoming { plane, operation, headers, payload, received: Instant::now() };
        match dispatch.answer_now(incoming) {
            Answer::Now(reply) => reply,
            Answer::Later(later) => dispatch.answer_later(later).await.reply.expect("no deadline was given"),
        }
    };
    let payload = br#"{"credential":"tg_nothing-of-the-kind"}"#;
    let mut ids = Vec::new();
    for _ in 0..2 {
        clock.0.store(true, Ordering::SeqCst);
        let reply = ask("authenticate", payload).await;
        assert_eq!(reply.error, Some(ErrorKind::InternalError));
        let response: IamResponse = decode(&reply.payload).expect("a reply");
        let message = response.error.expect("an error").message;
        ids.push(message.split(' ').next_back().unwrap_or_default().parse::<uuid::Uuid>().expect("an id"));
        assert_eq!(ask("authenticate", payload).await.error, Some(ErrorKind::AuthFailed));
    }
    assert_ne!(ids[0], ids[1]);
}

#[tokio::test]
async fn audit_tells_how_long_a_request_took_since_it_came_in() {
    let world = World::new(Default::default());
    let (root, _) = Scene::new("dispatch", &world).bootstrap().await;
    let question = json!({ "user_id": root, "capability": "no:such" }).to_string();
    // Out of the store, out of memory, and an operation that is neither.
    for (operation, payload) in
        [("authorise", question.as_str()), ("authorise", &question), ("delete-user", "{}")]
    {
        let incoming = Incoming {
            plane: Plane::Service,
            operation,
            headers: Headers::default(),
            payload: payload.as_bytes(),
            received: Instant::now().checked_sub(Duration::from_secs(1)).expect("a second ago"),
        };
        if let Answer::Later(later) = world.dispatch.answer_now(incoming) {
            world.dispatch.answer_later(later).await;
        }
        let took_us = world.last_told().await.duration_us.expect("a duration");
        assert!((1_000_000..60_000_000).contains(&took_us), "{operation}: {took_us}");
    }
}
