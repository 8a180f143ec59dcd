//! Names of users, workspaces and keys; records that several change.

use std::collections::BTreeSet;

use async_trait::async_trait;
use iam_tests::Reply;
use iam_tests::scene::As::Service;
use serde_json::json;

use super::rounds::{Arena, Ask, By, Facts, Race, holds, won};

pub(super) fn races() -> Vec<Box<dyn Race>> {
    vec![
        Box::new(Username),
        Box::new(WorkspaceId),
        Box::new(KeyName),
        Box::new(NameHandedOn),
        Box::new(Update),
    ]
}

/// One name in several cases, on both planes.
struct Username;

#[async_trait]
impl Race for Username {
    fn name(&self) -> &'static str {
        "username in any case"
    }

    async fn prepare(&self, _: &Arena, n: usize, _: usize) -> Facts {
        [("name".to_owned(), format!("racer{n}"))].into()
    }

    fn ask(&self, arena: &Arena, facts: &Facts, i: usize, _: usize) -> Ask {
        let name = &facts["name"];
        let name = if i.is_multiple_of(3) { name.to_ascii_uppercase() } else { name.clone() };
        let user = json!({ "username": name, "name": format!("of {i}"), "roles": ["reader"] });
        Ask::new(arena.either(i), "create-user", json!({ "workspace": "default", "user": user }))
    }

    async fn judge(&self, arena: &Arena, facts: &Facts, asked: &[(Ask, Reply)]) -> Result<usize, String> {
        let won = won(asked);
        holds(won.len() == 1, || format!("{} have the name", won.len()))?;
        let found = arena.ok("get-user", json!({ "username": facts["name"] })).await;
        holds(found["user"] == won[0].2["user"], || format!("the name leads to {}", found.0))?;
        let holders = arena.users().await;
        let holders = holders.iter().filter(|user| {
            user["username"].as_str().is_some_and(|name| name.eq_ignore_ascii_case(&facts["name"]))
        });
        let holders = holders.count();
        holds(holders == 1, || format!("{holders} users of that name are listed"))?;
        Ok(won.len())
    }
}

struct WorkspaceId;

#[async_trait]
impl Race for WorkspaceId {
    fn name(&self) -> &'static str {
        "workspace id"
    }

    async fn prepare(&self, _: &Arena, n: usize, _: usize) -> Facts {
        [("id".to_owned(), format!("place{n}"))].into()
    }

    fn ask(&self, arena: &Arena, facts: &Facts, i: usize, _: usize) -> Ask {
        let record = json!({ "id": facts["id"], "name": format!("of {i}") });
        Ask::new(arena.either(i), "create-workspace", json!({ "workspace_record": record }))
    }

    async fn judge(&self, arena: &Arena, facts: &Facts, asked: &[(Ask, Reply)]) -> Result<usize, String> {
        let won = won(asked);
        holds(won.len() == 1, || format!("{} have the id", won.len()))?;
        let found = arena.ok("get-workspace", json!({ "workspace_record": { "id": facts["id"] } })).await;
        holds(found["workspace"] == won[0].2["workspace"], || format!("the id leads to {}", found.0))?;
        Ok(won.len())
    }
}

/// A trusted service, an admin, and the owner, each for the same name of a key.
struct KeyName;

#[async_trait]
impl Race for KeyName {
    fn name(&self) -> &'static str {
        "name of a key"
    }

    async fn prepare(&self, arena: &Arena, n: usize, _: usize) -> Facts {
        let user = arena.scene().user("default", &format!("owner{n}"), &["reader"]).await;
        let (_, key) = arena.scene().key(&user, "own").await;
        [("user".to_owned(), user), ("key".to_owned(), key.expose().to_owned())].into()
    }

    fn ask(&self, arena: &Arena, facts: &Facts, i: usize, _: usize) -> Ask {
        let by = if i % 3 == 2 { By::Holder(facts["key"].clone().into()) } else { arena.either(i) };
        Ask::new(by, "create-api-key", json!({ "key": { "user_id": facts["user"], "name": "ci" } }))
    }

    async fn judge(&self, arena: &Arena, facts: &Facts, asked: &[(Ask, Reply)]) -> Result<usize, String> {
        let won = won(asked);
        holds(won.len() == 1, || format!("{} have the name", won.len()))?;
        holds(arena.alive(&won[0].2.text("api_key_plaintext")).await, || "the winner's key is dead".into())?;
        let keys = arena.ok("list-api-keys", json!({ "user_id": facts["user"] })).await;
        holds(keys.len("api_keys") == 2, || format!("there are {}", keys.0))?;
        Ok(won.len())
    }
}

/// Somebody goes while others take the name.
struct NameHandedOn;

#[async_trait]
impl Race for NameHandedOn {
    fn name(&self) -> &'static str {
        "name of a user who is deleted"
    }

    async fn prepare(&self, arena: &Arena, n: usize, _: usize) -> Facts {
        let name = format!("former{n}");
        let user = arena.scene().user("default", &name, &["reader"]).await;
        [("name".to_owned(), name), ("user".to_owned(), user)].into()
    }

    fn ask(&self, arena: &Arena, facts: &Facts, i: usize, _: usize) -> Ask {
        if i.is_multiple_of(4) {
            return Ask::new(arena.either(i / 4), "delete-user", json!({ "user_id": facts["user"] }));
        }
        let user = json!({ "username": facts["name"], "name": format!("of {i}") });
        Ask::new(arena.either(i), "create-user", json!({ "workspace": "default", "user": user }))
    }

    async fn judge(&self, arena: &Arena, facts: &Facts, asked: &[(Ask, Reply)]) -> Result<usize, String> {
        let won = won(asked);
        let (gone, made): (Vec<_>, Vec<_>) =
            won.iter().partition(|(_, ask, _)| ask.operation == "delete-user");
        holds(gone.len() == 1 && made.len() <= 1, || format!("{} went, {} came", gone.len(), made.len()))?;
        let found = arena.scene().ask(Service, "get-user", json!({ "username": facts["name"] })).await;
        match made.first() {
            Some((_, _, made)) => {
                holds(found["user"] == made["user"], || format!("the name leads to {}", found.0))?
            }
            None => {
                holds(found.text("error.type") == "not-found", || format!("the name leads to {}", found.0))?
            }
        }
        Ok(gone.len())
    }
}

/// One record, changed by all at once.
struct Update;

#[async_trait]
impl Race for Update {
    fn name(&self) -> &'static str {
        "changes of one user"
    }

    async fn prepare(&self, arena: &Arena, n: usize, _: usize) -> Facts {
        [("user".to_owned(), arena.scene().user("default", &format!("changed{n}"), &["reader"]).await)].into()
    }

    fn ask(&self, arena: &Arena, facts: &Facts, i: usize, _: usize) -> Ask {
        let user = json!({ "name": format!("of {i}"), "email": format!("{i}@example.test") });
        Ask::new(arena.either(i), "update-user", json!({ "user_id": facts["user"], "user": user }))
    }

    async fn judge(&self, arena: &Arena, facts: &Facts, asked: &[(Ask, Reply)]) -> Result<usize, String> {
        let won = won(asked);
        let versions: BTreeSet<u64> =
            won.iter().filter_map(|(_, _, reply)| reply["user"]["version"].as_u64()).collect();
        let expected: BTreeSet<u64> = (2..2 + won.len() as u64).collect();
        holds(versions == expected, || format!("{} changes gave the versions {versions:?}", won.len()))?;
        let user = arena.ok("get-user", json!({ "user_id": facts["user"] })).await["user"].clone();
        let last = won.iter().find(|(_, _, reply)| reply["user"]["version"] == user["version"]);
        holds(last.is_some_and(|(_, _, reply)| reply["user"] == user), || format!("now it is {user}"))?;
        Ok(won.len())
    }
}
