//! What the protocol says to each request: first what holds for all of them, section 3's rules in their order.

mod decisions;
mod keys;
mod sessions;
mod users;
mod workspaces;

use iam_schema::ErrorKind;
use iam_schema::subject::Plane;
use serde_json::{Value, json};

use super::ask::{
    Ask, Call, Credential, Expiry, Floors, Held, Kid, Name, Named, Page, Password, Place, Whom,
};
use super::expect::Expect;
use super::state::{
    self, KidState, State, User, View, acts_everywhere, enabled_in, holds, holds_everywhere, holds_in,
};

/// Clocks may differ by so much, in milliseconds.
const LEEWAY_MS: i64 = 60_000;

/// The kinds of error that a refusal may have: one, but where the protocol leaves it open.
#[derive(Debug)]
pub struct Refusal(pub Vec<ErrorKind>);

impl From<ErrorKind> for Refusal {
    fn from(kind: ErrorKind) -> Self {
        Self(vec![kind])
    }
}

type Answer<T = Expect> = Result<T, Refusal>;

/// On whose behalf a request is answered.
#[derive(Debug, Clone)]
enum Caller {
    /// A trusted service on its own authority, or nobody where nobody is asked for.
    Service,
    Actor(usize, Box<User>),
}

/// Whose a credential is.
#[derive(Debug, Clone)]
struct Identity {
    index: usize,
    user: User,
    place: &'static str,
    held: Held,
    expires: Option<i64>,
    limited: bool,
}

/// What an operation asks of its caller beyond a capability.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Needs {
    Public,
    ServicePlane,
    /// The service plane, or on the API plane anybody about oneself.
    OrOneself,
    Somebody,
}

fn needs(call: &Call) -> Needs {
    match call {
        Call::Login(..)
        | Call::GetSigningKeyPublic
        | Call::GetJwks
        | Call::Bootstrap
        | Call::BootstrapStatus => Needs::Public,
        Call::Authenticate(_) | Call::ResolveApiKey(_) | Call::AuthenticateAnonymous => Needs::ServicePlane,
        Call::Authorise(..) | Call::AuthoriseMany(..) => Needs::OrOneself,
        _ => Needs::Somebody,
    }
}

fn done(record: Value) -> Answer {
    Ok(Expect::Reply(state::written(record)))
}

impl State {
    /// How a request must be answered, by a replica that believes `view`; what it changes is changed.
    pub fn predict(&mut self, view: &View, ask: &Ask) -> Expect {
        self.changed.clear();
        self.answer(view, ask).unwrap_or_else(|Refusal(kinds)| Expect::Refused(kinds))
    }

    fn answer(&mut self, view: &View, ask: &Ask) -> Answer {
        if ask.floors == Floors::Malformed || self.malformed(ask) {
            return Err(ErrorKind::InvalidArgument.into());
        }
        let caller = self.caller(view, ask)?;
        match &ask.call {
            Call::Login(name, password, place) => self.login(ask, *name, *password, *place),
            Call::Authenticate(credential) => {
                let identity = self.identify(view, *credential, true);
                match identity.filter(|identity| !identity.limited) {
                    Some(identity) => done(self.resolved(&identity)),
                    None => Err(ErrorKind::AuthFailed.into()),
                }
            }
            Call::ResolveApiKey(credential) => match self.identify(view, *credential, false) {
                Some(identity) => done(self.resolved(&identity)),
                None => Err(ErrorKind::AuthFailed.into()),
            },
            Call::AuthenticateAnonymous => self.authenticate_anonymous(view),
            Call::Authorise(..) => self.authorise(view, ask, &caller),
            Call::AuthoriseMany(..) => self.authorise_many(view, ask, &caller),
            Call::Explain(..) => self.explain(ask, &caller),
            Call::Whoami => self.whoami(&caller),
            Call::ChangePassword(whom, old, new) => self.change_password(ask, &caller, *whom, *old, *new),
            Call::CreateUser(place, name, password, profile) => {
                self.create_user(ask, &caller, *place, *name, *password, profile)
            }
            Call::ListUsers(place, page) => self.list_users(ask, &caller, *place, page),
            Call::GetUser(whom, name, place) => self.get_user(ask, &caller, *whom, *name, *place),
            Call::UpdateUser(whom, name, _, profile, place) => {
                self.update_user(ask, &caller, *whom, *name, profile, *place)
            }
            Call::DisableUser(whom, place) => self.disable_user(ask, &caller, *whom, *place),
            Call::EnableUser(whom, place) => self.enable_user(ask, &caller, *whom, *place),
            Call::RevokeUserTokens(whom, place) => self.revoke_user_tokens(ask, &caller, *whom, *place),
            Call::DeleteUser(whom, place) => self.delete_user(ask, &caller, *whom, *place),
            Call::ResetPassword(whom, place) => self.reset_password(ask, &caller, *whom, *place),
            Call::CreateApiKey(whom, name, expiry, place) => {
                self.create_api_key(ask, &caller, *whom, name.unwrap_or_default(), *expiry, *place)
            }
            Call::ListApiKeys(whom, place, page) => self.list_api_keys(ask, &caller, *whom, *place, page),
            Call::RevokeApiKey(key, place) => {
                self.revoke_api_key(ask, &caller, key.unwrap_or_default(), *place)
            }
            Call::CreateWorkspace(place, name, enabled) => {
                self.create_workspace(ask, &caller, *place, *name, *enabled)
            }
            Call::ListMyWorkspaces(page) => self.list_my_workspaces(&caller, page),
            Call::ListWorkspaces(page) => self.list_workspaces(&caller, page),
            Call::GetWorkspace(place) => self.get_workspace(ask, &caller, *place),
            Call::UpdateWorkspace(place, name, enabled) => {
                self.update_workspace(ask, &caller, *place, *name, *enabled).map(Expect::Reply)
            }
            Call::DisableWorkspace(place) => {
                self.update_workspace(ask, &caller, *place, None, Some(false))?;
                done(json!({}))
            }
            Call::GetSigningKeyPublic => match self.active_kid() {
                Some(_) => done(json!({ "signing_key_public": "$public" })),
                None => Err(ErrorKind::NotFound.into()),
            },
            Call::GetJwks => match self.active_kid() {
                Some(_) => done(json!({ "jwks_json": "$jwks" })),
                None => Err(ErrorKind::NotFound.into()),
            },
            Call::RotateSigningKey => self.rotate_signing_key(&caller),
            Call::RetireSigningKey(kid) => self.retire_signing_key(&caller, *kid),
            Call::Bootstrap => self.bootstrap(),
            Call::BootstrapStatus => {
                Ok(Expect::Reply(json!({ "bootstrap_available": self.by_operation && self.is_empty() })))
            }
        }
    }

    /// Whether a field is missing, malformed, too large or contradicts another: seen without looking anything up.
    fn malformed(&self, ask: &Ask) -> bool {
        let service = ask.plane == Plane::Service;
        let id = |whom: Whom| matches!(self.whom(ask, whom), Named::Missing | Named::Malformed);
        let id_or_oneself = |whom: Whom| match self.whom(ask, whom) {
            Named::Missing => service,
            named => named == Named::Malformed,
        };
        let place = |place: Place| place == Place::Malformed;
        let needed = |p: Place| matches!(p, Place::Missing | Place::Malformed);
        let name = |name: Name| matches!(name, Name::Malformed | Name::Missing | Name::Id);
        let page = |page: &Page| page.size > 1000;
        let whom_or_credential = |whom: Whom, credential: Option<Credential>| {
            let given = credential.is_some_and(|c| !self.credential_text(c).is_empty());
            match self.whom(ask, whom) {
                Named::Missing => service && !given,
                Named::Malformed => true,
                Named::Nobody | Named::User(_) => given,
            }
        };
        match &ask.call {
            Call::Login(name, password, p) => {
                *name == Name::Missing || *password == Password::Missing || place(*p)
            }
            Call::Authenticate(credential) | Call::ResolveApiKey(credential) => {
                self.credential_text(*credential).is_empty()
            }
            Call::Authorise(whom, credential, capability, resource, parameters) => {
                self.malformed_question(ask, *capability, *resource, *parameters)
                    || whom_or_credential(*whom, *credential)
            }
            Call::AuthoriseMany(whom, credential, _) => whom_or_credential(*whom, *credential),
            Call::Explain(whom, by, capability, resource, parameters) => {
                let neither =
                    self.whom(ask, *whom) == Named::Missing && by.is_none_or(|by| by == Name::Missing);
                self.malformed_question(ask, *capability, *resource, *parameters)
                    || self.whom(ask, *whom) == Named::Malformed
                    || by.is_some_and(|by| by != Name::Missing && name(by))
                    || (neither && service)
            }
            Call::ChangePassword(whom, old, new) => {
                id(*whom) || *old == Password::Missing || *new == Password::Missing
            }
            Call::CreateUser(p, by, _, _) => needed(*p) || name(*by),
            Call::ListUsers(p, size) => place(*p) || page(size),
            Call::GetUser(whom, by, p) => {
                let neither =
                    self.whom(ask, *whom) == Named::Missing && by.is_none_or(|by| by == Name::Missing);
                neither
                    || self.whom(ask, *whom) == Named::Malformed
                    || by.is_some_and(|by| by != Name::Missing && name(by))
                    || place(*p)
            }
            Call::UpdateUser(whom, by, password, _, p) => {
                let password = password.is_some_and(|password| password != Password::Missing);
                id(*whom) || by.is_some_and(name) || password || place(*p)
            }
            Call::DisableUser(whom, p)
            | Call::EnableUser(whom, p)
            | Call::DeleteUser(whom, p)
            | Call::ResetPassword(whom, p) => id(*whom) || place(*p),
            Call::RevokeUserTokens(whom, p) => id_or_oneself(*whom) || place(*p),
            Call::CreateApiKey(whom, key_name, expiry, p) => {
                id_or_oneself(*whom) || key_name.is_none() || *expiry == Expiry::Malformed || place(*p)
            }
            Call::ListApiKeys(whom, p, size) => id_or_oneself(*whom) || place(*p) || page(size),
            Call::RevokeApiKey(key, p) => key.is_none() || place(*p),
            Call::CreateWorkspace(p, ..)
            | Call::GetWorkspace(p)
            | Call::UpdateWorkspace(p, ..)
            | Call::DisableWorkspace(p) => needed(*p),
            Call::ListMyWorkspaces(size) | Call::ListWorkspaces(size) => page(size),
            Call::RetireSigningKey(kid) => *kid == Kid::Missing,
            _ => false,
        }
    }

    /// Who asks: by the credential on the API plane, by the service's word on the other.
    fn caller(&mut self, view: &View, ask: &Ask) -> Answer<Caller> {
        let ahead = match ask.floors {
            Floors::Ahead(k) => match self.whom(ask, Whom::Kth(k)) {
                Named::User(index) => self.user(index).is_some(),
                _ => false,
            },
            _ => false,
        };
        let needs = needs(&ask.call);
        if ask.plane == Plane::Api {
            if needs == Needs::Public {
                return Ok(Caller::Service);
            }
            let Some(identity) = self.identify(view, ask.credential, true) else {
                // Whoever once was somebody may be heard first, since a floor may be of what lets them in again.
                let heard = ahead && self.held(ask.credential) != Held::Nothing;
                let unmet = heard.then_some(ErrorKind::Unavailable);
                return Err(Refusal(unmet.into_iter().chain([ErrorKind::AuthFailed]).collect()));
            };
            let mut refused = Vec::new();
            if identity.limited && !matches!(ask.call, Call::Whoami | Call::ChangePassword(..)) {
                refused.push(ErrorKind::AuthFailed);
            } else if needs == Needs::ServicePlane {
                refused.push(ErrorKind::OperationNotPermitted);
            }
            if ahead {
                refused.push(ErrorKind::Unavailable);
            }
            return match refused.is_empty() {
                true => Ok(Caller::Actor(identity.index, Box::new(identity.user))),
                false => Err(Refusal(refused)),
            };
        }
        if ahead {
            return Err(ErrorKind::Unavailable.into());
        }
        if needs != Needs::Somebody {
            return Ok(Caller::Service);
        }
        match self.whom(ask, ask.actor) {
            Named::Missing => Ok(Caller::Service),
            Named::Malformed => Err(ErrorKind::InvalidArgument.into()),
            Named::Nobody => Err(ErrorKind::OperationNotPermitted.into()),
            Named::User(index) => match self.seen_user(view, index) {
                Some(user) if enabled_in(user, self.seen_workspace(view, user.home)) => {
                    Ok(Caller::Actor(index, Box::new(user.clone())))
                }
                _ => Err(ErrorKind::OperationNotPermitted.into()),
            },
        }
    }

    /// Whose a credential is, and that it still is.
    fn identify(&mut self, view: &View, credential: Credential, tokens_too: bool) -> Option<Identity> {
        match self.held(credential) {
            Held::Key(index) => {
                let key = self.seen_key(view, index)?.clone();
                let user = self.seen_user(view, key.owner)?.clone();
                let home = self.seen_workspace(view, user.home);
                let good = key.expires.is_none_or(|expires| self.now_ms < expires)
                    && key.epoch == user.key_epoch
                    && enabled_in(&user, home);
                let (owner, expires, place) = (key.owner, key.expires, user.home);
                if good {
                    self.key_uses[index].insert(self.now_ms);
                }
                let held = Held::Key(index);
                good.then_some(Identity { index: owner, user, place, held, expires, limited: false })
            }
            Held::Token(index) if tokens_too => {
                let token = self.tokens[index].clone();
                let verifies = match self.seen_kid(view, token.kid) {
                    KidState::Next | KidState::Active => true,
                    KidState::Grace { until } => self.now_ms < until,
                    KidState::Gone => false,
                };
                let user = self.seen_user(view, token.user)?.clone();
                let good = verifies
                    && self.now_ms < token.expires + LEEWAY_MS
                    && token.epoch == user.token_epoch
                    && enabled_in(&user, self.seen_workspace(view, user.home));
                good.then_some(Identity {
                    index: token.user,
                    user,
                    place: token.place,
                    held: Held::Token(index),
                    expires: Some(token.expires),
                    limited: token.limited,
                })
            }
            Held::Token(_) | Held::Nothing => None,
        }
    }

    fn resolved(&self, identity: &Identity) -> Value {
        let (source, key) = match identity.held {
            Held::Key(index) => ("api-key", self.key_ids[index].as_str()),
            Held::Token(_) => ("jwt", ""),
            Held::Nothing => ("anonymous", ""),
        };
        json!({
            "resolved_user_id": self.user_ids[identity.index],
            "resolved_workspace": identity.place,
            "resolved_roles": identity.user.roles,
            "resolved_key_id": key,
            "resolved_expires": identity.expires.map(state::time),
            "resolved_source": source,
        })
    }

    /// Before anything was made.
    pub fn is_empty(&self) -> bool {
        self.users.is_empty() && self.workspaces.values().all(|track| track.now().is_none())
    }

    /// Whether the deployment has a root admin, as it is now.
    pub fn has_root_admin(&self) -> bool {
        (0..self.users.len()).filter_map(|index| self.user(index)).any(|user| self.live(user) && roots(user))
    }

    /// Does a change unless it would leave the deployment without a root admin.
    fn guarded(&mut self, change: impl FnOnce(&mut State)) -> Answer<()> {
        let mut after = self.clone();
        change(&mut after);
        if self.has_root_admin() && !after.has_root_admin() {
            return Err(ErrorKind::OperationNotPermitted.into());
        }
        *self = after;
        Ok(())
    }
}

/// Whether some role of a user makes a root admin.
fn roots(user: &User) -> bool {
    let makes = |role: &&super::policy::Role| role.everywhere && role.capabilities.contains("users:admin");
    user.roles.iter().filter_map(|name| super::policy::role(name)).any(|role| makes(&role))
}

impl Caller {
    fn is(&self, index: usize) -> bool {
        matches!(self, Caller::Actor(actor, _) if *actor == index)
    }

    fn allowed(&self, held: impl FnOnce(&User) -> bool) -> Answer<()> {
        match self {
            Caller::Service => Ok(()),
            Caller::Actor(_, user) if held(user) => Ok(()),
            Caller::Actor(..) => Err(ErrorKind::OperationNotPermitted.into()),
        }
    }

    /// The decision before the target is known.
    fn require(&self, capability: &str) -> Answer<()> {
        self.allowed(|user| holds(user, capability))
    }

    /// The decision about the whole deployment.
    fn require_everywhere(&self, capability: &str) -> Answer<()> {
        self.allowed(|user| holds_everywhere(user, capability))
    }

    /// The decision once the target's home is known.
    fn require_in(&self, capability: &str, home: &str) -> Answer<()> {
        self.allowed(|user| holds_in(user, capability, home))
    }

    /// Dominance over what these roles give somebody at home there.
    fn dominates(&self, roles: &std::collections::BTreeSet<String>, home: &str) -> Answer<()> {
        self.allowed(|user| state::dominates(user, roles, home))
    }

    /// How somebody is told that a target is absent.
    fn absent(&self, capability: &str) -> Refusal {
        match self.require_everywhere(capability) {
            Ok(()) => ErrorKind::NotFound.into(),
            Err(refusal) => refusal,
        }
    }

    fn everywhere(&self) -> bool {
        match self {
            Caller::Service => true,
            Caller::Actor(_, user) => acts_everywhere(user),
        }
    }
}
