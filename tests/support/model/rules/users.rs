//! Users: made, found, changed, ended.

use std::collections::BTreeSet;

use iam_schema::ErrorKind;
use serde_json::json;

use super::sessions::strong;
use super::{Answer, Caller, done};
use crate::model::ask::{Ask, Name, Named, Page, Password, Place, Profile, Whom};
use crate::model::policy;
use crate::model::request::{free_text, role_names};
use crate::model::state::{State, User};

impl State {
    /// The integrity check: a workspace that is given must be the user's.
    pub(super) fn integrity(&self, ask: &Ask, index: usize, place: Place) -> Answer<()> {
        let home = self.user(index).map(|user| user.home);
        match self.place(ask, place) {
            Some(given) if Some(given) != home => Err(ErrorKind::OperationNotPermitted.into()),
            _ => Ok(()),
        }
    }

    /// A user whom an operation is about: the capability, the target, the capability for the target.
    pub(super) fn target(
        &self,
        ask: &Ask,
        caller: &Caller,
        capability: &str,
        whom: Whom,
        place: Place,
    ) -> Answer<usize> {
        caller.require(capability)?;
        let index = match self.whom(ask, whom) {
            Named::User(index) if self.user(index).is_some() => index,
            _ => return Err(caller.absent(capability)),
        };
        caller.require_in(capability, self.user(index).expect("just found").home)?;
        self.integrity(ask, index, place)?;
        Ok(index)
    }

    /// The same for a change: who changes somebody else must hold all that they hold.
    pub(super) fn target_to_change(
        &self,
        ask: &Ask,
        caller: &Caller,
        capability: &str,
        whom: Whom,
        place: Place,
    ) -> Answer<usize> {
        let index = self.target(ask, caller, capability, whom, place)?;
        self.dominated(caller, index)?;
        Ok(index)
    }

    pub(super) fn dominated(&self, caller: &Caller, index: usize) -> Answer<()> {
        let user = self.user(index).expect("a target that was found");
        if caller.is(index) { Ok(()) } else { caller.dominates(&user.roles, user.home) }
    }

    fn known_roles(bits: Option<u16>) -> Answer<BTreeSet<String>> {
        let roles: BTreeSet<String> = bits.map(role_names).unwrap_or_default().into_iter().collect();
        match roles.iter().all(|name| policy::role(name).is_some()) {
            true => Ok(roles),
            false => Err(ErrorKind::InvalidArgument.into()),
        }
    }

    pub(super) fn create_user(
        &mut self,
        ask: &Ask,
        caller: &Caller,
        place: Place,
        name: Name,
        password: Password,
        profile: &Profile,
    ) -> Answer {
        let home = self.place(ask, place).expect("syntax was checked");
        caller.require("users:admin")?;
        caller.require_in("users:admin", home)?;
        let roles = Self::known_roles(profile.roles)?;
        caller.dominates(&roles, home)?;
        let workspace = self.workspace(home).ok_or(ErrorKind::NotFound)?;
        if !workspace.enabled {
            return Err(ErrorKind::Disabled.into());
        }
        let disablings = workspace.disablings;
        let password = Some(self.password_text(None, password)).filter(|text| !text.is_empty());
        if password.as_ref().is_some_and(|text| !strong(text)) {
            return Err(ErrorKind::WeakPassword.into());
        }
        let username = self.name_text(ask, name);
        if self.named(&username).is_some() {
            return Err(ErrorKind::Duplicate.into());
        }
        let text = |n: Option<u8>| n.map(|n| free_text(n).to_owned()).unwrap_or_default();
        let index = self.add_user(User {
            username,
            home,
            name: text(profile.name),
            email: text(profile.email),
            roles,
            enabled: profile.enabled.unwrap_or(true),
            must_change: profile.must_change.unwrap_or(false),
            password,
            temporary_until: None,
            token_epoch: 0,
            key_epoch: 0,
            disablings,
            created: self.now_ms,
            version: 1,
        });
        done(json!({ "user": self.user_record(index) }))
    }

    pub(super) fn list_users(&mut self, ask: &Ask, caller: &Caller, place: Place, page: &Page) -> Answer {
        let home = self.place(ask, place);
        let of = ("list-users", home.unwrap_or_default().to_owned());
        let allowed = caller.require("users:read").and_then(|()| match home {
            Some(home) => caller.require_in("users:read", home),
            None => caller.require_everywhere("users:read"),
        });
        let allowed = allowed.and_then(|()| match home {
            Some(home) if self.workspace(home).is_none() => Err(ErrorKind::NotFound.into()),
            _ => Ok(()),
        });
        self.checked_page(of.clone(), page, allowed)?;
        let shown =
            |index: &usize| self.user(*index).is_some_and(|user| home.is_none_or(|home| user.home == home));
        let users = (0..self.users.len()).filter(shown);
        let records = users.map(|index| (self.user_ids[index].clone(), self.user_record(index))).collect();
        self.page("users", of, page, records)
    }

    pub(super) fn get_user(
        &self,
        ask: &Ask,
        caller: &Caller,
        whom: Whom,
        name: Option<Name>,
        place: Place,
    ) -> Answer {
        let Some(name) = name.filter(|name| *name != Name::Missing) else {
            let index = self.target(ask, caller, "users:read", whom, place)?;
            return done(json!({ "user": self.user_record(index) }));
        };
        caller.require("users:read")?;
        let Some(index) = self.named(&self.name_text(ask, name)) else {
            return Err(caller.absent("users:read"));
        };
        caller.require_in("users:read", self.user(index).expect("just found").home)?;
        match self.whom(ask, whom) {
            Named::Missing => {}
            Named::User(by_id) if by_id == index => {}
            _ => return Err(ErrorKind::InvalidArgument.into()),
        }
        self.integrity(ask, index, place)?;
        done(json!({ "user": self.user_record(index) }))
    }

    pub(super) fn update_user(
        &mut self,
        ask: &Ask,
        caller: &Caller,
        whom: Whom,
        name: Option<Name>,
        profile: &Profile,
        place: Place,
    ) -> Answer {
        caller.require("users:write")?;
        let graver = profile.roles.is_some() || profile.must_change == Some(false);
        if graver {
            caller.require("users:admin")?;
        }
        let index = self.target_to_change(ask, caller, "users:write", whom, place)?;
        let user = self.user(index).expect("a target that was found").clone();
        let turned = profile.enabled.filter(|enabled| *enabled != self.live(&user));
        if graver || turned.is_some() {
            caller.require("users:admin")?;
            caller.require_in("users:admin", user.home)?;
        }
        if name.is_some_and(|name| self.name_text(ask, name) != user.username) {
            return Err(ErrorKind::InvalidArgument.into());
        }
        let roles = Self::known_roles(profile.roles)?;
        if profile.roles.is_some() {
            caller.dominates(&roles, user.home)?;
        }
        let workspace = self.workspace(user.home).expect("homes are never deleted").clone();
        if turned == Some(true) && !workspace.enabled {
            return Err(ErrorKind::Disabled.into());
        }
        let mut next = user.clone();
        if let Some(n) = profile.name {
            next.name = free_text(n).to_owned();
        }
        if let Some(n) = profile.email {
            next.email = free_text(n).to_owned();
        }
        if profile.roles.is_some() {
            next.roles = roles;
        }
        next.must_change = profile.must_change.unwrap_or(next.must_change);
        if let Some(enabled) = turned {
            turn(&mut next, enabled, workspace.disablings);
        }
        if next != user {
            self.guarded(|after| after.set_user(index, |user| *user = next))?;
        }
        done(json!({ "user": self.user_record(index) }))
    }

    pub(super) fn disable_user(&mut self, ask: &Ask, caller: &Caller, whom: Whom, place: Place) -> Answer {
        let index = self.target_to_change(ask, caller, "users:admin", whom, place)?;
        if self.user(index).is_some_and(|user| self.live(user)) {
            self.guarded(|after| after.set_user(index, |user| turn(user, false, 0)))?;
        }
        done(json!({}))
    }

    pub(super) fn enable_user(&mut self, ask: &Ask, caller: &Caller, whom: Whom, place: Place) -> Answer {
        let index = self.target_to_change(ask, caller, "users:admin", whom, place)?;
        let user = self.user(index).expect("a target that was found");
        if !self.live(user) {
            let home = self.workspace(user.home).expect("homes are never deleted");
            if !home.enabled {
                return Err(ErrorKind::Disabled.into());
            }
            let disablings = home.disablings;
            self.set_user(index, |user| turn(user, true, disablings));
        }
        done(json!({}))
    }

    pub(super) fn delete_user(&mut self, ask: &Ask, caller: &Caller, whom: Whom, place: Place) -> Answer {
        let index = self.target_to_change(ask, caller, "users:admin", whom, place)?;
        self.guarded(|after| after.remove_user(index))?;
        done(json!({}))
    }
}

/// Enables or disables: both end all tokens and keys.
fn turn(user: &mut User, enabled: bool, disablings: u64) {
    user.enabled = enabled;
    user.token_epoch += 1;
    user.key_epoch += 1;
    if enabled {
        user.disablings = disablings;
    }
}
