//! Requests as they go over the wire: which user, key or token is meant so far, and the text for it.

use iam_schema::api_keys::ApiKeyInput;
use iam_schema::subject::Plane;
use iam_schema::users::UserInput;
use iam_schema::workspaces::WorkspaceInput;
use iam_schema::{IamRequest, Secret};
use serde_json::{Value, json};

use super::ask::{
    Ask, Call, Credential, Expiry, Held, Kid, Name, Named, Page, Password, Place, Profile, Target, Whom,
};
use super::policy;
use super::state::{PLACES, State, time};

/// A well-formed id that nobody has.
pub const NOBODY: &str = "01a0ce87-ea1a-7bb6-ae10-295948688e1d";
/// Usernames, entered in various cases.
pub const USERNAMES: &[&str] = &["ann", "Bob", "carol", "Dave", "eve", "mallory", "admin"];
/// Passwords that pass the policy, and then some that do not.
pub const STRONG: &[&str] = &["plum-orbit-7431-kettle", "quartz!lantern 88 fjord", "hob.goblin.tin.4406"];
pub const WEAK: &[&str] = &["short", "password1", "aaaaaaaaaaaa"];
const KEY_NAMES: &[&str] = &["ci", "laptop", "bootstrap", "CI"];
const TEXTS: &[&str] = &["", "Ann Example", "Zoë", "ann@example.org"];
/// What is asked whether somebody may.
pub const CAPABILITIES: &[&str] =
    &["graph:read", "graph:write", "users:admin", "iam:admin", "keys:self", "metrics:read", "no:such"];

impl State {
    fn kth(&self, k: u8) -> Named {
        match usize::from(k).checked_rem(self.users.len()) {
            Some(index) if !self.user_ids[index].is_empty() => Named::User(index),
            Some(_) | None => Named::Nobody,
        }
    }

    /// Whom a request names. A user who is gone is still named by the id.
    pub fn whom(&self, ask: &Ask, whom: Whom) -> Named {
        match whom {
            Whom::Kth(k) => self.kth(k),
            Whom::Missing => Named::Missing,
            Whom::Nobody => Named::Nobody,
            Whom::Malformed => Named::Malformed,
            Whom::Oneself => match (ask.plane, self.held(ask.credential)) {
                (Plane::Service, _) if ask.actor != Whom::Oneself => self.whom(ask, ask.actor),
                (Plane::Api, Held::Key(key)) => self.owner_of_key(key),
                (Plane::Api, Held::Token(token)) => Named::User(self.tokens[token].user),
                _ => Named::Nobody,
            },
        }
    }

    fn owner_of_key(&self, key: usize) -> Named {
        // Who owned it is in the first version, whatever became of it.
        self.keys[key].at(0).as_ref().map_or(Named::Nobody, |key| Named::User(key.owner))
    }

    pub fn held(&self, credential: Credential) -> Held {
        match credential {
            Credential::Key(k) => {
                usize::from(k).checked_rem(self.keys.len()).map_or(Held::Nothing, Held::Key)
            }
            Credential::Token(k) => {
                usize::from(k).checked_rem(self.tokens.len()).map_or(Held::Nothing, Held::Token)
            }
            Credential::KeyOf(k) => {
                let owner = self.kth(k);
                let newest = (0..self.keys.len()).rev().find(|&key| self.owner_of_key(key) == owner);
                newest.map_or(Held::Nothing, Held::Key)
            }
            Credential::TokenOf(k) => {
                let owner = self.kth(k);
                let newest =
                    (0..self.tokens.len()).rev().find(|&t| Named::User(self.tokens[t].user) == owner);
                newest.map_or(Held::Nothing, Held::Token)
            }
            _ => Held::Nothing,
        }
    }

    /// The text of a credential; what names none so far is junk.
    pub fn credential_text(&self, credential: Credential) -> String {
        match (self.held(credential), credential) {
            (Held::Key(key), _) => self.key_texts[key].clone(),
            (Held::Token(token), _) => self.tokens[token].text.clone(),
            (Held::Nothing, Credential::Missing) => String::new(),
            (Held::Nothing, Credential::Junk(kind)) => {
                match (kind % 5, self.tokens.last(), self.key_texts.first()) {
                    (0, _, _) => "tg_AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA".to_owned(),
                    (1, _, _) => "a.b.c".to_owned(),
                    (2, Some(token), _) => {
                        let (rest, signature) = token.text.rsplit_once('.').expect("a token");
                        let other = if signature.starts_with('A') { 'B' } else { 'A' };
                        format!("{rest}.{other}{}", &signature[1..])
                    }
                    (3, _, Some(key)) => format!("{key}A"),
                    (4, Some(token), _) => format!("{}.", token.text),
                    _ => "junk".to_owned(),
                }
            }
            (Held::Nothing, _) => "none-so-far".to_owned(),
        }
    }

    pub fn place(&self, ask: &Ask, place: Place) -> Option<&'static str> {
        match place {
            Place::At(n) => Some(PLACES[usize::from(n) % PLACES.len()]),
            Place::Home => {
                let about = ask.call.about().map_or(Named::Nobody, |whom| self.whom(ask, whom));
                let Named::User(index) = about else { return Some(PLACES[0]) };
                // The home never changes.
                self.users[index].at(0).as_ref().map(|user| user.home)
            }
            Place::Missing | Place::Malformed => None,
        }
    }

    fn place_text(&self, ask: &Ask, place: Place) -> String {
        match place {
            Place::Malformed => "_no such place".to_owned(),
            place => self.place(ask, place).unwrap_or_default().to_owned(),
        }
    }

    pub fn id_text(&self, ask: &Ask, whom: Whom) -> String {
        match self.whom(ask, whom) {
            Named::Missing => String::new(),
            Named::Malformed => "Not-An-Id".to_owned(),
            Named::Nobody => NOBODY.to_owned(),
            Named::User(index) => self.user_ids[index].clone(),
        }
    }

    /// A username as it is entered.
    pub fn name_text(&self, ask: &Ask, name: Name) -> String {
        let cased = |text: &str, capitals| if capitals { text.to_ascii_uppercase() } else { text.to_owned() };
        match name {
            Name::Pool(n, capitals) => cased(USERNAMES[usize::from(n) % USERNAMES.len()], capitals),
            Name::Of(whom, capitals) => match self.whom(ask, whom) {
                Named::User(index) => {
                    cased(&self.users[index].at(0).as_ref().expect("a first version").username, capitals)
                }
                _ => "nobody-of-that-name".to_owned(),
            },
            Name::Missing => String::new(),
            Name::Malformed => "-no name".to_owned(),
            Name::Id => NOBODY.to_owned(),
        }
    }

    pub fn password_text(&self, about: Option<usize>, password: Password) -> String {
        match password {
            Password::Right => {
                let known = about.and_then(|index| self.user(index)?.password.clone());
                known.unwrap_or_else(|| "there is none, so this is wrong".to_owned())
            }
            Password::Strong(n) => STRONG[usize::from(n) % STRONG.len()].to_owned(),
            Password::Weak(n) => WEAK[usize::from(n) % WEAK.len()].to_owned(),
            Password::Missing => String::new(),
        }
    }

    pub fn kid_text(&self, kid: Kid) -> String {
        let text = |index: Option<usize>| {
            index.and_then(|index| self.kid_texts[index].clone()).unwrap_or_else(|| "no-such-kid".to_owned())
        };
        match kid {
            Kid::Active => text(self.active_kid()),
            Kid::Kth(k) => text(usize::from(k).checked_rem(self.kids.len())),
            Kid::Nobody => "no-such-kid".to_owned(),
            Kid::Missing => String::new(),
        }
    }

    pub fn page_token(&self, page: &Page) -> String {
        if page.bad_token {
            return "bm8gdG9rZW4".to_owned();
        }
        let listing =
            page.after.and_then(|k| self.listings.get(usize::from(k).checked_rem(self.listings.len())?));
        listing.map(|listing| listing.token.clone()).unwrap_or_default()
    }

    pub fn expiry_ms(&self, expiry: Expiry) -> Option<i64> {
        match expiry {
            Expiry::In(seconds) => Some(self.now_ms + i64::from(seconds) * 1000),
            Expiry::Never | Expiry::Malformed => None,
        }
    }

    /// The text of a `_json` field.
    pub fn target_text(&self, ask: &Ask, target: Target) -> String {
        match target {
            Target::Absent => String::new(),
            Target::Empty => "{}".to_owned(),
            Target::At(place) => json!({ "workspace": self.place_text(ask, place) }).to_string(),
            Target::Elsewhere => r#"{"workspace":"nowhere to be found"}"#.to_owned(),
            Target::Null => r#"{"workspace":null}"#.to_owned(),
            Target::Number => r#"{"workspace":7}"#.to_owned(),
            Target::EmptyText => r#"{"workspace":""}"#.to_owned(),
            Target::Unknown => r#"{"graph":"acme","x":[1,{}]}"#.to_owned(),
            Target::Broken => r#"{"workspace":"#.to_owned(),
            Target::List => "[]".to_owned(),
        }
    }

    fn checks_text(&self, ask: &Ask, checks: &[(u8, Target, Target)]) -> String {
        let check = |(capability, resource, parameters): &(u8, Target, Target)| {
            let mut fields = vec![format!(r#""capability":{}"#, json!(capability_text(*capability)))];
            for (field, target) in [("resource", resource), ("parameters", parameters)] {
                let text = self.target_text(ask, *target);
                if !matches!(target, Target::Absent | Target::Broken) {
                    fields.push(format!(r#""{field}":{text}"#));
                }
            }
            format!("{{{}}}", fields.join(","))
        };
        format!("[{}]", checks.iter().map(check).collect::<Vec<_>>().join(","))
    }

    /// The request as it goes over the wire.
    pub fn request(&self, ask: &Ask) -> IamRequest<'static> {
        let mut r = IamRequest { actor: self.id_text(ask, ask.actor).into(), ..IamRequest::default() };
        let ask_about = |r: &mut IamRequest<'static>, whom: Whom, place: Place| {
            r.user_id = self.id_text(ask, whom).into();
            r.workspace = self.place_text(ask, place).into();
        };
        let page = |r: &mut IamRequest<'static>, page: &Page| {
            r.page_size = page.size.into();
            r.page_token = self.page_token(page).into();
        };
        let secret = |text: String| Secret::new(text);
        let targets = |r: &mut IamRequest<'static>, capability: u8, resource: Target, parameters: Target| {
            r.capability = capability_text(capability).into();
            r.resource_json = self.target_text(ask, resource).into();
            r.parameters_json = self.target_text(ask, parameters).into();
        };
        match &ask.call {
            Call::Login(name, password, place) => {
                let name = self.name_text(ask, *name);
                r.password = secret(self.password_text(self.named(&name), *password));
                r.username = name.into();
                r.workspace = self.place_text(ask, *place).into();
            }
            Call::Authenticate(credential) => r.credential = secret(self.credential_text(*credential)),
            Call::ResolveApiKey(credential) => r.api_key = secret(self.credential_text(*credential)),
            Call::Authorise(whom, credential, capability, resource, parameters) => {
                r.user_id = self.id_text(ask, *whom).into();
                r.credential = secret(credential.map(|c| self.credential_text(c)).unwrap_or_default());
                targets(&mut r, *capability, *resource, *parameters);
            }
            Call::AuthoriseMany(whom, credential, checks) => {
                r.user_id = self.id_text(ask, *whom).into();
                r.credential = secret(credential.map(|c| self.credential_text(c)).unwrap_or_default());
                r.authorise_checks = self.checks_text(ask, checks).into();
            }
            Call::Explain(whom, name, capability, resource, parameters) => {
                r.user_id = self.id_text(ask, *whom).into();
                r.username = name.map(|name| self.name_text(ask, name)).unwrap_or_default().into();
                targets(&mut r, *capability, *resource, *parameters);
            }
            Call::ChangePassword(whom, old, new) => {
                let about = match self.whom(ask, *whom) {
                    Named::User(index) => Some(index),
                    _ => None,
                };
                r.user_id = self.id_text(ask, *whom).into();
                r.password = secret(self.password_text(about, *old));
                r.new_password = secret(self.password_text(about, *new));
            }
            Call::CreateUser(place, name, password, profile) => {
                r.workspace = self.place_text(ask, *place).into();
                let mut user = user_input(profile);
                user.username = Some(self.name_text(ask, *name));
                user.password = Some(secret(self.password_text(None, *password)));
                r.user = Some(user);
            }
            Call::ListUsers(place, p) => {
                r.workspace = self.place_text(ask, *place).into();
                page(&mut r, p);
            }
            Call::GetUser(whom, name, place) => {
                ask_about(&mut r, *whom, *place);
                r.username = name.map(|name| self.name_text(ask, name)).unwrap_or_default().into();
            }
            Call::UpdateUser(whom, name, password, profile, place) => {
                ask_about(&mut r, *whom, *place);
                let mut user = user_input(profile);
                user.username = name.map(|name| self.name_text(ask, name));
                user.password = password.map(|password| secret(self.password_text(None, password)));
                r.user = Some(user);
            }
            Call::DisableUser(whom, place)
            | Call::EnableUser(whom, place)
            | Call::RevokeUserTokens(whom, place)
            | Call::DeleteUser(whom, place)
            | Call::ResetPassword(whom, place) => ask_about(&mut r, *whom, *place),
            Call::CreateApiKey(whom, name, expiry, place) => {
                r.workspace = self.place_text(ask, *place).into();
                r.key = Some(ApiKeyInput {
                    user_id: self.id_text(ask, *whom),
                    name: name.map(|name| key_name(name).to_owned()).unwrap_or_default(),
                    expires: match expiry {
                        Expiry::Malformed => "tomorrow".to_owned(),
                        expiry => self.expiry_ms(*expiry).map(time).unwrap_or_default(),
                    },
                });
            }
            Call::ListApiKeys(whom, place, p) => {
                ask_about(&mut r, *whom, *place);
                page(&mut r, p);
            }
            Call::RevokeApiKey(key, place) => {
                r.key_id = match key.map(|k| usize::from(k).checked_rem(self.keys.len())) {
                    None => String::new(),
                    Some(None) => NOBODY.to_owned(),
                    Some(Some(index)) => self.key_ids[index].clone(),
                }
                .into();
                r.workspace = self.place_text(ask, *place).into();
            }
            Call::CreateWorkspace(place, name, enabled) | Call::UpdateWorkspace(place, name, enabled) => {
                r.workspace_record = Some(WorkspaceInput {
                    id: Some(self.place_text(ask, *place)),
                    name: name.map(|name| free_text(name).to_owned()),
                    enabled: *enabled,
                });
            }
            Call::GetWorkspace(place) | Call::DisableWorkspace(place) => {
                let id = Some(self.place_text(ask, *place));
                r.workspace_record = Some(WorkspaceInput { id, ..WorkspaceInput::default() });
            }
            Call::ListMyWorkspaces(p) | Call::ListWorkspaces(p) => page(&mut r, p),
            Call::RetireSigningKey(kid) => r.key_id = self.kid_text(*kid).into(),
            Call::AuthenticateAnonymous
            | Call::Whoami
            | Call::GetSigningKeyPublic
            | Call::GetJwks
            | Call::RotateSigningKey
            | Call::Bootstrap
            | Call::BootstrapStatus => {}
        }
        r
    }
}

fn user_input(profile: &Profile) -> UserInput {
    UserInput {
        name: profile.name.map(|n| free_text(n).to_owned()),
        email: profile.email.map(|n| free_text(n).to_owned()),
        roles: profile.roles.map(role_names),
        enabled: profile.enabled,
        must_change_password: profile.must_change,
        ..UserInput::default()
    }
}

/// The roles that the bits stand for, the last ones first.
pub fn role_names(bits: u16) -> Vec<String> {
    let named = policy::NAMES.iter().enumerate().rev().filter(|(n, _)| bits & (1 << n) != 0);
    named.map(|(_, name)| (*name).to_owned()).collect()
}

pub fn capability_text(n: u8) -> &'static str {
    // Past the list there is nothing.
    CAPABILITIES.get(usize::from(n)).copied().unwrap_or_default()
}

pub fn key_name(n: u8) -> &'static str {
    KEY_NAMES[usize::from(n) % KEY_NAMES.len()]
}

pub fn free_text(n: u8) -> &'static str {
    TEXTS[usize::from(n) % TEXTS.len()]
}

/// A `resource` of a check as JSON, for the model: `None` is absent or broken.
pub fn target_value(text: &str) -> Option<Value> {
    serde_json::from_str(text).ok()
}
