//! What holds whatever raced.

use std::collections::{BTreeMap, BTreeSet};

use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use iam_schema::UserId;
use iam_schema::changes::{Change, ChangeKind, DELETED};
use iam_svc::crypto::api_keys;
use iam_svc::domain::key_ring::KeyState;
use iam_svc::domain::users::User;
use iam_svc::store::{SeedState, Store};
use iam_tests::sample::root_roles;
use serde_json::Value;

use super::stage::Stored;

/// The laws that are broken.
pub(super) fn hold(
    before: &Stored,
    after: &Stored,
    seeded: SeedState,
    changes: &[Change],
    died: bool,
) -> Vec<String> {
    let mut broken = Vec::new();
    match seeded {
        SeedState::Done => {
            let roots = after.users.iter().filter(|user| is_root_admin(user, after)).count();
            if roots == 0 {
                broken.push("there is no root admin left".to_owned());
            }
        }
        // What died half-way is not seen before the next attempt finished it.
        SeedState::Seeding if died => {}
        SeedState::Seeding => broken.push("a seeding stands half-made, and nobody died".to_owned()),
        SeedState::Empty => {
            if !(after.users.is_empty() && after.workspaces.is_empty() && after.ring.is_none()) {
                broken.push("something is there without a seeding".to_owned());
            }
        }
    }
    let names: BTreeSet<_> = after.users.iter().map(|user| user.username.key()).collect();
    if names.len() != after.users.len() {
        broken.push("two users have one name".to_owned());
    }
    if let Some(ring) = &after.ring {
        let of = |state: KeyState| ring.keys.iter().filter(|key| key.state == state).count();
        let kids: BTreeSet<_> = ring.keys.iter().map(|key| key.kid.as_str()).collect();
        if of(KeyState::Active) != 1 || of(KeyState::Next) != 1 || kids.len() != ring.keys.len() {
            broken.push(format!("the ring is not in order: {ring:?}"));
        }
    }
    broken.extend(versions(before, after, changes, died));
    broken
}

fn is_root_admin(user: &User, stored: &Stored) -> bool {
    alive(user, stored) && !user.roles.is_disjoint(&root_roles())
}

fn alive(user: &User, stored: &Stored) -> bool {
    stored.workspaces.get(user.workspace.as_str()).is_some_and(|home| user.effectively_enabled(home))
}

/// Every version between the one before and the one after was announced, each once. Whoever died announced nothing.
fn versions(before: &Stored, after: &Stored, changes: &[Change], died: bool) -> Vec<String> {
    let (before, after) = (of_all(before), of_all(after));
    let mut announced: BTreeMap<(ChangeKind, String), Vec<u64>> = BTreeMap::new();
    for change in changes.iter().filter(|c| matches!(c.kind, ChangeKind::User | ChangeKind::Workspace)) {
        announced.entry((change.kind, change.id.clone())).or_default().push(change.version);
    }
    let ids: BTreeSet<_> = before.keys().chain(after.keys()).chain(announced.keys()).cloned().collect();
    let mut broken = Vec::new();
    for id in ids {
        let first = before.get(&id).copied().unwrap_or_default() + 1;
        let mut heard = announced.remove(&id).unwrap_or_default();
        heard.sort_unstable();
        let deleted = heard.pop_if(|version| *version == DELETED).is_some();
        let last = after.get(&id).copied().unwrap_or_else(|| heard.last().copied().unwrap_or(first - 1));
        if deleted && after.contains_key(&id) {
            broken.push(format!("{id:?} was deleted, and is there"));
        }
        if !deleted && !after.contains_key(&id) && !died {
            broken.push(format!("{id:?} is gone, and nobody said so"));
        }
        let silent = (first..=last).filter(|version| !heard.contains(version)).count();
        let twice = heard.windows(2).any(|pair| pair[0] == pair[1]);
        let outside = heard.iter().any(|version| !(first..=last).contains(version));
        if silent > usize::from(died) || twice || outside {
            broken.push(format!("{id:?} went from {} to {last}, and {heard:?} were announced", first - 1));
        }
    }
    broken
}

fn of_all(stored: &Stored) -> BTreeMap<(ChangeKind, String), u64> {
    let users = stored.users.iter().map(|user| ((ChangeKind::User, user.id.to_string()), user.version));
    let workspaces = stored.workspaces.iter().map(|(id, w)| ((ChangeKind::Workspace, id.clone()), w.version));
    users.chain(workspaces).collect()
}

/// Whether a key or token is alive, by what is stored alone.
pub(super) async fn lives(store: &dyn Store, stored: &Stored, credential: &str) -> bool {
    let owner = |id: UserId| stored.users.iter().find(|user| user.id == id && alive(user, stored));
    if credential.matches('.').count() != 2 {
        let key = store.api_key_by_hash(&api_keys::hash(credential)).await.expect("a key or none");
        return key.is_some_and(|key| owner(key.user).is_some_and(|owner| key.key_epoch == owner.key_epoch));
    }
    let mut parts = credential.split('.').map(|part| {
        let json = URL_SAFE_NO_PAD.decode(part).unwrap_or_default();
        serde_json::from_slice::<Value>(&json).unwrap_or_default()
    });
    let (header, claims) = (parts.next().unwrap_or_default(), parts.next().unwrap_or_default());
    let signed = stored.ring.iter().flat_map(|ring| &ring.keys).any(|key| header["kid"] == *key.kid.as_str());
    // A token for changing the password alone does not authenticate.
    let purpose = claims["aud"] == "iam" || claims["aud"][0] == "iam";
    let subject = claims["sub"].as_str().and_then(|id| id.parse().ok()).and_then(owner);
    signed && purpose && subject.is_some_and(|user| claims["epoch"] == user.token_epoch)
}
