//! Section 6: may somebody do something, somewhere?

use iam_schema::ErrorKind;
use serde_json::{Value, json};

use super::{Answer, Caller, Identity, done, roots};
use crate::model::ask::{Ask, Call, Held, Name, Named, Target};
use crate::model::expect::Expect;
use crate::model::policy;
use crate::model::request::{capability_text, target_value};
use crate::model::state::{State, User, View, enabled_in, holds, holds_in, written};

/// For how long an allow and a deny may be remembered, in seconds.
const ALLOW_S: i64 = 60;
const DENY_S: i64 = 5;

/// Whom a decision is about.
struct About {
    user: Option<User>,
    enabled: bool,
    identity: Option<Identity>,
}

impl State {
    pub(super) fn malformed_question(
        &self,
        ask: &Ask,
        capability: u8,
        resource: Target,
        parameters: Target,
    ) -> bool {
        let broken = |target| {
            let text = self.target_text(ask, target);
            !text.is_empty() && !target_value(&text).is_some_and(|value| value.is_object())
        };
        capability_text(capability).is_empty() || broken(resource) || broken(parameters)
    }

    /// The rule itself. `disabled` tells of a workspace whether it is.
    fn decide(
        &self,
        user: Option<&User>,
        enabled: bool,
        capability: &str,
        fields: [&str; 2],
        disabled: impl Fn(&str) -> bool,
    ) -> bool {
        let Some(user) = user.filter(|_| enabled) else { return false };
        let mut targets = Vec::new();
        for field in fields.into_iter().filter(|field| !field.is_empty()) {
            match target_value(field) {
                Some(Value::Object(members)) => targets.extend(members.get("workspace").cloned()),
                _ => return false,
            }
        }
        let named: Option<Vec<&str>> =
            targets.iter().map(|target| target.as_str().filter(|text| !text.is_empty())).collect();
        let Some(named) = named else { return false };
        let held = match named.is_empty() {
            true => holds(user, capability),
            false => named.iter().all(|target| holds_in(user, capability, target)),
        };
        policy::known(capability) && held && !named.iter().any(|target| disabled(target))
    }

    fn about(&mut self, view: &View, ask: &Ask, caller: &Caller) -> Answer<About> {
        let (Call::Authorise(whom, credential, ..) | Call::AuthoriseMany(whom, credential, _)) = &ask.call
        else {
            unreachable!("only these are about somebody")
        };
        let oneself_alone = |index: Option<usize>| match caller {
            Caller::Actor(actor, _) if index != Some(*actor) => Err(ErrorKind::OperationNotPermitted.into()),
            _ => Answer::Ok(()),
        };
        if let Some(credential) = credential.filter(|c| !self.credential_text(*c).is_empty()) {
            let identity = self.identify(view, credential, true).filter(|identity| !identity.limited);
            let Some(identity) = identity else { return Err(ErrorKind::AuthFailed.into()) };
            oneself_alone(Some(identity.index))?;
            return Ok(About { user: Some(identity.user.clone()), enabled: true, identity: Some(identity) });
        }
        let index = match (self.whom(ask, *whom), caller) {
            (Named::User(index), _) => Some(index),
            (Named::Missing, Caller::Actor(actor, _)) => Some(*actor),
            _ => None,
        };
        oneself_alone(index)?;
        let user = index.and_then(|index| self.seen_user(view, index)).cloned();
        let enabled =
            user.as_ref().is_some_and(|user| enabled_in(user, self.seen_workspace(view, user.home)));
        Ok(About { user, enabled, identity: None })
    }

    fn disabled_as_seen(&self, view: &View, text: &str) -> bool {
        let known = self.workspaces.keys().copied().find(|id| *id == text);
        known.and_then(|id| self.seen_workspace(view, id)).is_some_and(|workspace| !workspace.enabled)
    }

    fn ttl(&self, about: &About, allow: bool) -> i64 {
        let expires = about.identity.as_ref().and_then(|identity| identity.expires);
        let left = expires.map_or(i64::MAX, |at| ((at - self.now_ms) / 1000).max(0));
        left.min(if allow { ALLOW_S } else { DENY_S })
    }

    fn identity_of(&self, about: &About) -> serde_json::Map<String, Value> {
        let resolved = about.identity.as_ref().map_or(json!({}), |identity| written(self.resolved(identity)));
        match resolved {
            Value::Object(fields) => fields,
            _ => unreachable!("a record"),
        }
    }

    pub(super) fn authorise(&mut self, view: &View, ask: &Ask, caller: &Caller) -> Answer {
        let Call::Authorise(_, _, capability, resource, parameters) = &ask.call else {
            unreachable!("another operation")
        };
        let about = self.about(view, ask, caller)?;
        let texts = [self.target_text(ask, *resource), self.target_text(ask, *parameters)];
        let disabled = |text: &str| self.disabled_as_seen(view, text);
        let fields = [texts[0].as_str(), texts[1].as_str()];
        let allow =
            self.decide(about.user.as_ref(), about.enabled, capability_text(*capability), fields, disabled);
        let mut reply = self.identity_of(&about);
        // Always written, whatever it is.
        reply.insert("decision_allow".to_owned(), allow.into());
        let ttl = self.ttl(&about, allow);
        if ttl > 0 {
            reply.insert("decision_ttl_seconds".to_owned(), ttl.into());
        }
        Ok(Expect::Reply(reply.into()))
    }

    pub(super) fn authorise_many(&mut self, view: &View, ask: &Ask, caller: &Caller) -> Answer {
        let Call::AuthoriseMany(_, _, checks) = &ask.call else { unreachable!("another operation") };
        let about = self.about(view, ask, caller)?;
        let mut list = Vec::new();
        for (capability, resource, parameters) in checks {
            let text = |target: Target| match target {
                // What cannot be written within a list is left out of it.
                Target::Broken => String::new(),
                target => self.target_text(ask, target),
            };
            let texts = [text(*resource), text(*parameters)];
            let disabled = |text: &str| self.disabled_as_seen(view, text);
            let fields = [texts[0].as_str(), texts[1].as_str()];
            let allow = self.decide(
                about.user.as_ref(),
                about.enabled,
                capability_text(*capability),
                fields,
                disabled,
            );
            list.push(json!({ "allow": allow, "ttl": self.ttl(&about, allow) }));
        }
        let mut reply = self.identity_of(&about);
        reply.insert("decisions_json".to_owned(), Value::Array(list));
        Ok(Expect::Reply(reply.into()))
    }

    pub(super) fn explain(&mut self, ask: &Ask, caller: &Caller) -> Answer {
        let Call::Explain(whom, name, capability, resource, parameters) = &ask.call else {
            unreachable!("another operation")
        };
        let by_id = match self.whom(ask, *whom) {
            Named::User(index) => Some(index),
            _ => None,
        };
        let name = name.filter(|name| *name != Name::Missing).map(|name| self.name_text(ask, name));
        let index = match (&name, self.whom(ask, *whom), caller) {
            (Some(name), _, _) => self.named(name),
            (None, Named::Missing, Caller::Actor(actor, _)) => Some(*actor),
            (None, _, _) => by_id.filter(|&index| self.user(index).is_some()),
        };
        let oneself = match (caller, &name) {
            // Whose name it was when the caller was last looked up.
            (Caller::Actor(_, user), Some(name)) => user.username.eq_ignore_ascii_case(name),
            (Caller::Actor(actor, _), None) => index.or(by_id) == Some(*actor),
            (Caller::Service, _) => false,
        };
        if !oneself {
            caller.require_everywhere("iam:admin")?;
        }
        let both = self.whom(ask, *whom) != Named::Missing && name.is_some();
        if both && index.is_some() && by_id != index {
            return Err(ErrorKind::InvalidArgument.into());
        }
        let user = index.and_then(|index| self.user(index));
        let texts = [self.target_text(ask, *resource), self.target_text(ask, *parameters)];
        let disabled = |text: &str| self.workspace(text).is_some_and(|workspace| !workspace.enabled);
        let enabled = user.is_some_and(|user| self.live(user));
        let asked = capability_text(*capability);
        let allow = self.decide(user, enabled, asked, [texts[0].as_str(), texts[1].as_str()], disabled);
        // The words name a role that allowed it, or all of those that lacked it.
        let roles: Vec<&String> = user.iter().flat_map(|user| &user.roles).collect();
        let has = |name: &str| policy::role(name).is_some_and(|role| role.capabilities.contains(asked));
        let lacking = enabled && policy::known(asked) && !roles.iter().any(|name| has(name));
        let words: Vec<&str> =
            roles.iter().map(|name| name.as_str()).filter(|name| !allow || has(name)).collect();
        let words = if allow || (lacking && texts.iter().all(String::is_empty)) {
            words.join(" ")
        } else {
            String::new()
        };
        let ttl = if allow { ALLOW_S } else { DENY_S };
        Ok(Expect::Reply(json!({
            "decision_allow": allow,
            "decision_ttl_seconds": ttl,
            "decision_reason": format!("$reason {words}"),
        })))
    }

    pub(super) fn authenticate_anonymous(&mut self, view: &View) -> Answer {
        let index = self.anonymous.and_then(|name| self.named(name));
        let user = index.and_then(|index| self.seen_user(view, index)).cloned();
        match (index, user) {
            // Nobody may be a root admin without a credential.
            (Some(index), Some(user))
                if !roots(&user) && enabled_in(&user, self.seen_workspace(view, user.home)) =>
            {
                let place = user.home;
                let (held, expires) = (Held::Nothing, None);
                done(self.resolved(&Identity { index, user, place, held, expires, limited: false }))
            }
            _ => Err(ErrorKind::AuthFailed.into()),
        }
    }

    pub(super) fn whoami(&self, caller: &Caller) -> Answer {
        match caller {
            Caller::Service => Err(ErrorKind::InvalidArgument.into()),
            Caller::Actor(index, _) if self.user(*index).is_some() => {
                done(json!({ "user": self.user_record(*index) }))
            }
            Caller::Actor(..) => Err(ErrorKind::OperationNotPermitted.into()),
        }
    }
}
