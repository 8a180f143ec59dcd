//! Keys, tokens, passwords and signing keys, made while somebody ends them.

use async_trait::async_trait;
use iam_tests::Reply;
use serde_json::{Value, json};

use super::rounds::{Arena, Ask, By, Facts, Race, holds, won};

const OLD: &str = "violet-anvil-93-sings";
const NEW: &str = "copper-lantern-48-drifts";

pub(super) fn races() -> Vec<Box<dyn Race>> {
    let mut races: Vec<Box<dyn Race>> = Vec::new();
    for (name, end) in [
        ("new key against disable-user", "disable-user"),
        ("new key against delete-user", "delete-user"),
        ("new key against disable and enable", "enable-user"),
        ("new key against disable-workspace", "disable-workspace"),
    ] {
        races.push(Box::new(KeyAgainst { name, end }));
    }
    for (name, made) in [
        ("create-user against disable-workspace", "create-user"),
        ("enable-user against disable-workspace", "enable-user"),
    ] {
        races.push(Box::new(HomeGoes { name, made }));
    }
    races.push(Box::new(Rotation { name: "rotation", retires: false }));
    races.push(Box::new(Rotation { name: "retirement against rotation", retires: true }));
    races.push(Box::new(Retirement));
    for (name, end) in [
        ("login against disable-user", "disable-user"),
        ("login against revoke-user-tokens", "revoke-user-tokens"),
        ("login against change-password", "change-password"),
    ] {
        races.push(Box::new(LoginAgainst { name, end }));
    }
    races.push(Box::new(Password { name: "change-password", resets: false }));
    races.push(Box::new(Password { name: "change-password against reset-password", resets: true }));
    races
}

fn record(id: &str) -> Value {
    json!({ "workspace_record": { "id": id } })
}

/// A user with a key, in a workspace of their own.
async fn somebody(arena: &Arena, n: usize) -> Facts {
    let (s, place) = (arena.scene(), format!("home{n}"));
    s.workspace(&place).await;
    let user = s.user(&place, &format!("somebody{n}"), &["reader"]).await;
    let (_, key) = s.key(&user, "own").await;
    let facts = [("user", user), ("key", key.expose().to_owned()), ("place", place)];
    let mut facts: Facts = facts.into_iter().map(|(name, fact)| (name.to_owned(), fact)).collect();
    facts.insert("n".to_owned(), n.to_string());
    facts
}

/// One caller ends all keys of a user for whom all others make keys.
struct KeyAgainst {
    name: &'static str,
    end: &'static str,
}

#[async_trait]
impl Race for KeyAgainst {
    fn name(&self) -> &'static str {
        self.name
    }

    async fn prepare(&self, arena: &Arena, n: usize, _: usize) -> Facts {
        somebody(arena, n).await
    }

    fn ask(&self, arena: &Arena, facts: &Facts, i: usize, callers: usize) -> Ask {
        let user = json!({ "user_id": facts["user"] });
        if i == callers / 2 {
            let request = if self.end == "disable-workspace" { record(&facts["place"]) } else { user };
            let operation = if self.end == "enable-user" { "disable-user" } else { self.end };
            return Ask::new(By::Service, operation, request);
        }
        if self.end == "enable-user" && i % 8 == 1 {
            return Ask::new(By::Service, "enable-user", user);
        }
        let by = if i % 3 == 2 { By::Holder(facts["key"].clone().into()) } else { arena.either(i) };
        let key = json!({ "user_id": facts["user"], "name": format!("key {i}") });
        Ask::new(by, "create-api-key", json!({ "key": key }))
    }

    async fn judge(&self, arena: &Arena, facts: &Facts, asked: &[(Ask, Reply)]) -> Result<usize, String> {
        let won = won(asked);
        let ended = won.iter().filter(|(_, ask, _)| ask.operation != "create-api-key").count();
        holds(ended >= 1, || "whoever ends it all was refused".to_owned())?;
        holds(!arena.alive(&facts["key"]).await, || "the key of before is alive".to_owned())?;
        let made = won.iter().map(|(_, _, reply)| reply.text("api_key_plaintext"));
        let mut living = 0;
        for key in made.filter(|key| !key.is_empty()) {
            living += usize::from(arena.alive(&key).await);
        }
        // Those made after the user was enabled again may live, and are those that are listed.
        if self.end == "enable-user" {
            let listed = arena.ok("list-api-keys", json!({ "user_id": facts["user"] })).await.len("api_keys");
            holds(living == listed, || format!("{living} keys live, {listed} are listed"))?;
        } else {
            holds(living == 0, || format!("{living} keys outlived the end"))?;
        }
        Ok(won.len())
    }
}

/// One caller disables a workspace in which all others make or enable users.
struct HomeGoes {
    name: &'static str,
    made: &'static str,
}

#[async_trait]
impl Race for HomeGoes {
    fn name(&self) -> &'static str {
        self.name
    }

    async fn prepare(&self, arena: &Arena, n: usize, callers: usize) -> Facts {
        let mut facts = somebody(arena, n).await;
        for i in (0..callers).filter(|_| self.made == "enable-user") {
            let name = format!("sleeper{n}-{i}");
            let user = json!({ "username": name, "roles": ["reader"], "enabled": false });
            let request = json!({ "workspace": facts["place"], "user": user });
            facts.insert(format!("user{i}"), arena.ok("create-user", request).await.text("user.id"));
        }
        facts
    }

    fn ask(&self, arena: &Arena, facts: &Facts, i: usize, callers: usize) -> Ask {
        if i == callers / 2 {
            return Ask::new(arena.either(i), "disable-workspace", record(&facts["place"]));
        }
        let request = match self.made {
            "create-user" => {
                let name = format!("comer{}-{i}", facts["n"]);
                json!({ "workspace": facts["place"], "user": { "username": name, "roles": ["reader"] } })
            }
            _ => json!({ "user_id": facts[&format!("user{i}")] }),
        };
        Ask::new(arena.either(i), self.made, request)
    }

    async fn judge(&self, arena: &Arena, facts: &Facts, asked: &[(Ask, Reply)]) -> Result<usize, String> {
        let won = won(asked);
        holds(won.iter().any(|(_, ask, _)| ask.operation == "disable-workspace"), || {
            "the workspace was not disabled".to_owned()
        })?;
        // Enabling it again must bring back nobody.
        for _ in 0..2 {
            let users =
                arena.ok("list-users", json!({ "workspace": facts["place"], "page_size": 1000 })).await;
            let users = users["users"].as_array().cloned().unwrap_or_default();
            let on = users.iter().filter(|user| user["enabled"] == true).count();
            holds(on == 0, || format!("{on} users are enabled there"))?;
            let open = json!({ "workspace_record": { "id": facts["place"], "enabled": true } });
            arena.ok("update-workspace", open).await;
        }
        Ok(won.len())
    }
}

/// The kids of the published set.
async fn kids(arena: &Arena) -> Vec<String> {
    let set = arena.ok("get-jwks", json!({})).await.text("jwks_json");
    let set: Value = serde_json::from_str(&set).expect("a set");
    let keys = set["keys"].as_array().cloned().unwrap_or_default();
    keys.iter().filter_map(|key| key["kid"].as_str()).map(str::to_owned).collect()
}

async fn published(arena: &Arena) -> Facts {
    let mut all = kids(arena).await;
    // What earlier rounds left in grace goes, so that there is room: the last two are active and next.
    while all.len() > 2 {
        arena.ok("retire-signing-key", json!({ "key_id": all.remove(0) })).await;
    }
    let mut facts: Facts = all.iter().map(|kid| (kid.clone(), String::new())).collect();
    facts.insert("active".to_owned(), all.remove(0));
    facts
}

/// All rotate, and some retire the key that signs.
struct Rotation {
    name: &'static str,
    retires: bool,
}

#[async_trait]
impl Race for Rotation {
    fn name(&self) -> &'static str {
        self.name
    }

    async fn prepare(&self, arena: &Arena, _: usize, _: usize) -> Facts {
        published(arena).await
    }

    fn ask(&self, arena: &Arena, facts: &Facts, i: usize, _: usize) -> Ask {
        if self.retires && i % 2 == 1 {
            let request = json!({ "key_id": facts["active"] });
            return Ask::new(arena.either(i / 2), "retire-signing-key", request);
        }
        Ask::new(arena.either(i / 2), "rotate-signing-key", json!({}))
    }

    async fn judge(&self, arena: &Arena, facts: &Facts, asked: &[(Ask, Reply)]) -> Result<usize, String> {
        let won = won(asked);
        let rotated = won.iter().filter(|(_, ask, _)| ask.operation == "rotate-signing-key").count();
        let retired = won.len() - rotated;
        holds(retired <= 1 && rotated + retired >= 1, || format!("{rotated} rotated, {retired} retired"))?;
        let now = kids(arena).await;
        holds((retired == 0) == now.contains(&facts["active"]), || "a retired key is published".to_owned())?;
        // A rotation adds a key. A retirement takes one, and adds one where that was signing.
        let most = 2 + rotated;
        let fits = now.len() == most || (retired == 1 && now.len() + 1 == most);
        holds(fits, || format!("{rotated} rotations and {retired} retirements left {} keys", now.len()))?;
        Ok(won.len())
    }
}

/// All retire the key that signs.
struct Retirement;

#[async_trait]
impl Race for Retirement {
    fn name(&self) -> &'static str {
        "retirement of one key"
    }

    async fn prepare(&self, arena: &Arena, _: usize, _: usize) -> Facts {
        published(arena).await
    }

    fn ask(&self, arena: &Arena, facts: &Facts, i: usize, _: usize) -> Ask {
        Ask::new(arena.either(i), "retire-signing-key", json!({ "key_id": facts["active"] }))
    }

    async fn judge(&self, arena: &Arena, facts: &Facts, asked: &[(Ask, Reply)]) -> Result<usize, String> {
        let won = won(asked);
        holds(won.len() == 1, || format!("{} retired it", won.len()))?;
        let now = kids(arena).await;
        holds(now.len() == 2 && !now.contains(&facts["active"]), || format!("published are {now:?}"))?;
        Ok(won.len())
    }
}

/// A user with a password.
async fn with_password(arena: &Arena, n: usize) -> Facts {
    let name = format!("person{n}");
    let user = json!({ "username": name, "roles": ["reader"], "password": OLD });
    let user = arena.ok("create-user", json!({ "workspace": "default", "user": user })).await.text("user.id");
    let (_, key) = arena.scene().key(&user, "own").await;
    let facts = [("user", user), ("name", name), ("key", key.expose().to_owned())];
    facts.into_iter().map(|(name, fact)| (name.to_owned(), fact)).collect()
}

fn login(facts: &Facts, password: &str) -> Ask {
    Ask::new(By::Nobody, "login", json!({ "username": facts["name"], "password": password }))
}

/// One caller ends all tokens of a user as whom all others log in.
struct LoginAgainst {
    name: &'static str,
    end: &'static str,
}

#[async_trait]
impl Race for LoginAgainst {
    fn name(&self) -> &'static str {
        self.name
    }

    fn hashes(&self) -> bool {
        true
    }

    async fn prepare(&self, arena: &Arena, n: usize, _: usize) -> Facts {
        with_password(arena, n).await
    }

    fn ask(&self, _: &Arena, facts: &Facts, i: usize, callers: usize) -> Ask {
        if i != callers / 2 {
            return login(facts, OLD);
        }
        let user = &facts["user"];
        match self.end {
            "change-password" => {
                let request = json!({ "user_id": user, "password": OLD, "new_password": NEW });
                Ask::new(By::Holder(facts["key"].clone().into()), self.end, request)
            }
            end => Ask::new(By::Service, end, json!({ "user_id": user })),
        }
    }

    async fn judge(&self, arena: &Arena, facts: &Facts, asked: &[(Ask, Reply)]) -> Result<usize, String> {
        let won = won(asked);
        let ended = won.iter().any(|(_, ask, _)| ask.operation == self.end);
        holds(ended || self.end == "change-password", || "whoever ends it all was refused".to_owned())?;
        let user = arena.ok("get-user", json!({ "user_id": facts["user"] })).await;
        let epoch_since = usize::from(ended);
        for (_, _, reply) in won.iter().filter(|(_, ask, _)| ask.operation == "login") {
            let (jwt, epoch) = (reply.text("jwt"), epoch_of(&reply.text("jwt")));
            let lives = epoch == epoch_since && user["user"]["enabled"] == true;
            holds(arena.alive(&jwt).await == lives, || {
                format!("a token of epoch {epoch} should live: {lives}")
            })?;
            let late = self.end == "change-password" && epoch >= 1;
            holds(!late, || "the old password logged in after the change".to_owned())?;
        }
        Ok(won.len())
    }
}

/// The epoch that a token was made in.
fn epoch_of(jwt: &str) -> usize {
    use base64::Engine;
    let claims = jwt.split('.').nth(1).unwrap_or_default();
    let claims = base64::engine::general_purpose::URL_SAFE_NO_PAD.decode(claims).expect("base64");
    let claims: Value = serde_json::from_slice(&claims).expect("claims");
    claims["epoch"].as_u64().and_then(|epoch| epoch.try_into().ok()).expect("an epoch")
}

/// All change one password, each to another, and some reset it.
struct Password {
    name: &'static str,
    resets: bool,
}

fn owner(facts: &Facts, password: &str) -> Value {
    json!({ "username": facts["name"], "password": password, "client_ip": "192.0.2.7" })
}

fn another(i: usize) -> String {
    format!("{NEW}-{i}")
}

#[async_trait]
impl Race for Password {
    fn name(&self) -> &'static str {
        self.name
    }

    fn hashes(&self) -> bool {
        true
    }

    async fn prepare(&self, arena: &Arena, n: usize, _: usize) -> Facts {
        let facts = with_password(arena, n).await;
        // The owner is known at this address, so that the failures of the losers do not lock them out.
        arena.ok("login", owner(&facts, OLD)).await;
        facts
    }

    fn ask(&self, arena: &Arena, facts: &Facts, i: usize, callers: usize) -> Ask {
        let user = &facts["user"];
        if self.resets && i == callers / 2 {
            return Ask::new(arena.either(i), "reset-password", json!({ "user_id": user }));
        }
        let request = json!({ "user_id": user, "password": OLD, "new_password": another(i) });
        Ask::new(By::Holder(facts["key"].clone().into()), "change-password", request)
    }

    async fn judge(&self, arena: &Arena, facts: &Facts, asked: &[(Ask, Reply)]) -> Result<usize, String> {
        let won = won(asked);
        let changed: Vec<_> = won.iter().filter(|(_, ask, _)| ask.operation == "change-password").collect();
        let reset = won.iter().find(|(_, ask, _)| ask.operation == "reset-password");
        holds(changed.len() <= 1 && !won.is_empty(), || format!("{} changed it", changed.len()))?;
        holds(self.resets || changed.len() == 1, || "nobody changed it".to_owned())?;
        // Whatever came last is the password; a reset comes after any change, since it leaves nothing to verify.
        let (now, temporary) = match reset {
            Some((_, _, reply)) => (reply.text("temporary_password"), true),
            None => (another(changed.first().map_or(0, |(i, ..)| *i)), false),
        };
        let reply = arena.ok("login", owner(facts, &now)).await;
        let must = reply["must_change_password"] == true;
        holds(must == temporary, || format!("must change the password: {must}"))?;
        Ok(won.len())
    }
}
