//! Who is there when a race begins.

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::OnceLock;

use iam_svc::store::Store;
use iam_svc::store::embedded::FILE;
use iam_tests::Scene;
use iam_tests::faulty::Faulty;
use iam_tests::scene::As::Service;
use iam_tests::world::Setup;
use serde_json::json;
use tempfile::TempDir;

/// The password that `ann` has, and those that others may give her.
pub(super) const OLD: &str = "violet-anvil-93-sings";
pub(super) const NEW: &str = "copper-lantern-48-drifts";
pub(super) const OTHER: &str = "marble-teapot-71-hums";

/// A store as bytes, and what is known of it by name: ids, keys, tokens.
pub(super) struct Cast {
    pub(super) file: Option<Vec<u8>>,
    pub(super) facts: BTreeMap<String, String>,
}

/// A directory in memory where there is such a thing: what is done on a disk here nobody ever reads again.
pub(super) fn directory() -> TempDir {
    let memory = Path::new("/dev/shm");
    let made = if memory.is_dir() { TempDir::new_in(memory) } else { TempDir::new() };
    made.expect("a directory")
}

/// A store with nothing in it.
pub(super) fn empty() -> &'static Cast {
    static CAST: Cast = Cast { file: None, facts: BTreeMap::new() };
    &CAST
}

/// `admin` of `default` and `second` of `acme` are root admins; `ann` and `bob` are reader and writer of `acme`, she
/// with a password; `eve` is disabled, and so is the workspace `shut` with its `dan`. All but the last two have keys.
pub(super) fn seeded() -> &'static Cast {
    static CAST: OnceLock<Cast> = OnceLock::new();
    CAST.get_or_init(|| {
        let (dir, other) = (directory(), directory());
        let (path, kept) = (dir.path().join(FILE), other.path().join(FILE));
        let store = Faulty::on(dir);
        let runtime = tokio::runtime::Builder::new_current_thread().build().expect("a runtime");
        let facts = runtime.block_on(prepare(&store));
        // Read once it was closed in order, which takes its directory along.
        std::fs::hard_link(&path, &kept).expect("a second name");
        drop(store);
        Cast { file: Some(std::fs::read(&kept).expect("a store")), facts }
    })
}

async fn prepare(store: &std::sync::Arc<Faulty>) -> BTreeMap<String, String> {
    let world = store.world(Setup::default());
    let scene = Scene::new("preparing", &world);
    let s = &scene;
    let mut facts = BTreeMap::new();
    let mut know = |name: &str, what: &str| assert!(facts.insert(name.to_owned(), what.to_owned()).is_none());

    let (admin, key) = s.bootstrap().await;
    know("admin", &admin);
    know("admin-key", key.expose());
    for workspace in ["acme", "shut"] {
        s.workspace(workspace).await;
    }
    for (workspace, name, role) in [
        ("acme", "second", "admin"),
        ("acme", "ann", "reader"),
        ("acme", "bob", "writer"),
        ("acme", "eve", "reader"),
        ("shut", "dan", "reader"),
    ] {
        let id = s.user(workspace, name, &[role]).await;
        know(name, &id);
        let (key_id, key) = s.key(&id, "first").await;
        know(&format!("{name}-key"), key.expose());
        know(&format!("{name}-key-id"), &key_id);
        if name == "ann" {
            s.password(&id, OLD).await;
            know("ann-jwt", s.login(name, OLD).await.expose());
        }
        if name == "eve" {
            s.ok(Service, "disable-user", json!({ "user_id": id })).await;
        }
    }
    s.ok(Service, "disable-workspace", json!({ "workspace_record": { "id": "shut" } })).await;
    let ring = store.key_ring().await.expect("a store").expect("a ring");
    for (name, key) in ["active", "next"].iter().zip(&ring.keys) {
        know(name, key.kid.as_str());
    }
    facts
}
