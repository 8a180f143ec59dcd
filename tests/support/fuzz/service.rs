//! The whole service in process, under hostile requests.

use std::cell::RefCell;

use iam_schema::subject::Plane;
use iam_schema::{ErrorKind, OperationName};
use iam_svc::dispatch::Headers;

use super::{Asked, CANARY, wrong_answer};
use crate::{Scene, World};

/// So many requests, and the world begins anew: what they create must not fill the disk.
const LIFE: u32 = 20_000;

struct Stage {
    runtime: tokio::runtime::Runtime,
    world: World,
    requests: u32,
}

impl Stage {
    fn new() -> Self {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime");
        let world = runtime.block_on(shared_world());
        Self { runtime, world, requests: 0 }
    }
}

/// A world that is seeded, and forgets who the admin is.
pub async fn shared_world() -> World {
    let world = World::new(Default::default());
    Scene::new("hostile", &world).bootstrap().await;
    world
}

/// The first byte is the operation, the second says the plane and which headers; the rest is the payload.
pub fn service(data: &[u8]) {
    thread_local! {
        static STAGE: RefCell<Option<Stage>> = const { RefCell::new(None) };
    }
    let (operation, flags, payload) = match data {
        [operation, flags, payload @ ..] => (*operation, *flags, payload),
        _ => return,
    };
    let operation = match usize::from(operation) % (OperationName::ALL.len() + 1) {
        n if n < OperationName::ALL.len() => OperationName::ALL[n].as_str(),
        _ => "no-such-operation",
    };
    STAGE.with_borrow_mut(|stage| {
        if stage.as_ref().is_none_or(|stage| stage.requests >= LIFE) {
            *stage = Some(Stage::new());
        }
        let stage = stage.as_mut().expect("a stage");
        stage.requests += 1;
        stage.runtime.block_on(play(&stage.world, operation, flags, payload));
    });
}

/// One request, held against what may be answered; and its audit events, which hold no secret.
async fn play(world: &World, operation: &str, flags: u8, payload: &[u8]) {
    let plane = if flags & 1 == 0 { Plane::Service } else { Plane::Api };
    let bearer = format!("Bearer {CANARY}");
    let headers = Headers {
        authorization: (flags & 2 != 0).then_some(bearer.as_str()),
        several_authorizations: flags & 4 != 0,
        traceparent: (flags & 8 != 0).then_some("00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"),
        deadline_ms: None,
        iam_min: None,
    };
    let (reply, error) = world.bytes(plane, operation, headers, payload).await;
    let asked = Asked { plane, operation, payload };
    if let Some(wrong) = wrong_answer(&asked, &reply, error.map(ErrorKind::as_str)) {
        panic!("{wrong}: {asked:?}");
    }
    let mut events = world.audit.lock().await;
    while let Ok(event) = events.try_recv() {
        let text = serde_json::to_string(&event).expect("an event");
        assert!(!text.contains(CANARY), "an audit event holds a key: {text}");
    }
}
