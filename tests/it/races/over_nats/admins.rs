//! The last root admin, by every path.
//!
//! The admin of the arena is demoted while these run, so that the last one can be among those who race, and is one
//! again before they are judged.

use async_trait::async_trait;
use iam_tests::Reply;
use serde_json::{Value, json};

use super::rounds::{Arena, Ask, By, Facts, Race, holds, is_root, won};

/// Root admins whom callers try to end.
const ADMINS: usize = 4;

pub(super) fn races() -> Vec<Box<dyn Race>> {
    let mut races: Vec<Box<dyn Race>> = Vec::new();
    for (name, paths) in [
        ("last root admin: disable", &["disable"][..]),
        ("last root admin: delete", &["delete"]),
        ("last root admin: demote", &["demote"]),
        ("last root admin: disable-workspace", &["disable-workspace"]),
        (
            "last root admin: every path",
            &["disable", "delete", "demote", "switch-off", "disable-workspace", "close"],
        ),
    ] {
        races.push(Box::new(LastRoot { name, paths }));
    }
    races.push(Box::new(EachOther));
    races
}

/// As many root admins in workspaces of their own, each ended by several callers.
struct LastRoot {
    name: &'static str,
    paths: &'static [&'static str],
}

/// Makes so many root admins, and leaves no other.
async fn admins(arena: &Arena, n: usize, count: usize) -> Facts {
    let s = arena.scene();
    let mut facts = Facts::new();
    for i in 0..count {
        let place = format!("court{n}-{i}");
        s.workspace(&place).await;
        let user = s.user(&place, &format!("chief{n}-{i}"), &["admin"]).await;
        facts.insert(format!("key{i}"), s.key(&user, "k").await.1.expose().to_owned());
        facts.insert(format!("user{i}"), user);
        facts.insert(format!("place{i}"), place);
    }
    let request = json!({ "user_id": arena.root, "user": { "roles": ["reader"] } });
    arena.ok("update-user", request).await;
    facts
}

/// Counts who is left of them, once the arena has its own admin again, and clears them away.
async fn left(arena: &Arena, facts: &Facts) -> usize {
    let users = arena.users().await;
    let left: Vec<&Value> = users.iter().filter(|user| is_root(user)).collect();
    let request = json!({ "user_id": arena.root, "user": { "roles": ["admin"] } });
    arena.ok("update-user", request).await;
    for user in users.iter().filter(|user| facts.values().any(|id| user["id"] == **id)) {
        arena.ok("delete-user", json!({ "user_id": user["id"] })).await;
    }
    left.len()
}

#[async_trait]
impl Race for LastRoot {
    fn name(&self) -> &'static str {
        self.name
    }

    async fn prepare(&self, arena: &Arena, n: usize, _: usize) -> Facts {
        admins(arena, n, ADMINS).await
    }

    fn ask(&self, _: &Arena, facts: &Facts, i: usize, _: usize) -> Ask {
        let (user, place) = (&facts[&format!("user{}", i % ADMINS)], &facts[&format!("place{}", i % ADMINS)]);
        let change = |change: Value| json!({ "user_id": user, "user": change });
        // Callers of one target come ADMINS apart, and each takes another path.
        let (operation, request) = match self.paths[(i / ADMINS + i) % self.paths.len()] {
            "disable" => ("disable-user", json!({ "user_id": user })),
            "delete" => ("delete-user", json!({ "user_id": user })),
            "demote" => ("update-user", change(json!({ "roles": ["reader"] }))),
            "switch-off" => ("update-user", change(json!({ "enabled": false }))),
            "close" => ("update-workspace", json!({ "workspace_record": { "id": place, "enabled": false } })),
            _ => ("disable-workspace", json!({ "workspace_record": { "id": place } })),
        };
        Ask::new(By::Service, operation, request)
    }

    async fn judge(&self, arena: &Arena, facts: &Facts, asked: &[(Ask, Reply)]) -> Result<usize, String> {
        let left = left(arena, facts).await;
        holds(left == 1, || format!("{left} root admins were left"))?;
        Ok(won(asked).len())
    }
}

/// Each root admin disables or demotes the next, by their own key on the API plane.
struct EachOther;

#[async_trait]
impl Race for EachOther {
    fn name(&self) -> &'static str {
        "root admins who end each other"
    }

    async fn prepare(&self, arena: &Arena, n: usize, callers: usize) -> Facts {
        admins(arena, n, callers).await
    }

    fn ask(&self, _: &Arena, facts: &Facts, i: usize, callers: usize) -> Ask {
        let target = &facts[&format!("user{}", (i + 1) % callers)];
        let by = By::Holder(facts[&format!("key{i}")].clone().into());
        match i % 3 {
            0 => Ask::new(by, "disable-user", json!({ "user_id": target })),
            1 => Ask::new(by, "update-user", json!({ "user_id": target, "user": { "roles": [] } })),
            _ => Ask::new(by, "delete-user", json!({ "user_id": target })),
        }
    }

    async fn judge(&self, arena: &Arena, facts: &Facts, asked: &[(Ask, Reply)]) -> Result<usize, String> {
        let left = left(arena, facts).await;
        let won = won(asked).len();
        holds(left >= 1, || "no root admin was left".to_owned())?;
        holds(left == asked.len() - won, || format!("{won} of {} were ended, {left} are left", asked.len()))?;
        Ok(won)
    }
}
