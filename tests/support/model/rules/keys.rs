//! API keys.

use iam_schema::ErrorKind;
use serde_json::json;

use super::{Answer, Caller, done};
use crate::model::ask::{Ask, Expiry, Named, Page, Place, Whom};
use crate::model::request::key_name;
use crate::model::state::{Key, State};

/// The most keys of a user.
const MOST_KEYS: usize = 200;

impl State {
    /// Whose keys they are: oneself with `keys:self`, somebody else with `keys:admin`.
    fn key_owner(&self, ask: &Ask, caller: &Caller, whom: Whom, place: Place) -> Answer<usize> {
        let index = match (self.whom(ask, whom), caller) {
            (Named::Missing, Caller::Actor(actor, _)) => Some(*actor),
            (Named::User(index), _) => Some(index),
            _ => None,
        };
        let Some(oneself) = index.filter(|&index| caller.is(index)) else {
            return self.target(ask, caller, "keys:admin", whom, place);
        };
        own_or_all(caller)?;
        if self.user(oneself).is_none() {
            return Err(ErrorKind::OperationNotPermitted.into());
        }
        self.integrity(ask, oneself, place)?;
        Ok(oneself)
    }

    /// The keys that a user has.
    fn keys_of(&self, owner: usize) -> Vec<usize> {
        let kept = |&index: &usize| self.kept_key(index).is_some_and(|key| key.owner == owner);
        (0..self.keys.len()).filter(kept).collect()
    }

    pub(super) fn create_api_key(
        &mut self,
        ask: &Ask,
        caller: &Caller,
        whom: Whom,
        name: u8,
        expiry: Expiry,
        place: Place,
    ) -> Answer {
        let expires = self.expiry_ms(expiry);
        if expires.is_some_and(|at| at <= self.now_ms) {
            return Err(ErrorKind::InvalidArgument.into());
        }
        let owner = self.key_owner(ask, caller, whom, place)?;
        self.dominated(caller, owner)?;
        let user = self.user(owner).expect("an owner who was found");
        if !self.live(user) {
            return Err(ErrorKind::Disabled.into());
        }
        let (epoch, name) = (user.key_epoch, key_name(name).to_owned());
        let keys = self.keys_of(owner);
        if keys.iter().any(|&index| self.key(index).is_some_and(|key| key.name == name)) {
            return Err(ErrorKind::Duplicate.into());
        }
        if keys.len() >= MOST_KEYS {
            return Err(ErrorKind::InvalidArgument.into());
        }
        let index = self.add_key(Key { owner, name, epoch, expires, created: self.now_ms });
        done(json!({ "api_key_plaintext": "$key-text", "api_key": self.key_record(index) }))
    }

    pub(super) fn list_api_keys(
        &mut self,
        ask: &Ask,
        caller: &Caller,
        whom: Whom,
        place: Place,
        page: &Page,
    ) -> Answer {
        let named = match (self.whom(ask, whom), caller) {
            (Named::Missing, Caller::Actor(actor, _)) => self.user_ids[*actor].clone(),
            _ => self.id_text(ask, whom),
        };
        let of = ("list-api-keys", named);
        let owner = self.key_owner(ask, caller, whom, place);
        let (owner, allowed) = match owner {
            Ok(owner) => (owner, Ok(())),
            Err(refusal) => (0, Err(refusal)),
        };
        self.checked_page(of.clone(), page, allowed)?;
        let keys = self.keys_of(owner);
        let records =
            keys.into_iter().map(|index| (self.key_ids[index].clone(), self.key_record(index))).collect();
        self.page("api_keys", of, page, records)
    }

    pub(super) fn revoke_api_key(&mut self, ask: &Ask, caller: &Caller, k: u8, place: Place) -> Answer {
        own_or_all(caller)?;
        let index = usize::from(k).checked_rem(self.keys.len());
        let stored = index.and_then(|index| self.key(index).map(|key| (index, key.owner)));
        let Some((index, owner)) = stored.filter(|(_, owner)| self.user(*owner).is_some()) else {
            return Err(caller.absent("keys:admin"));
        };
        let kept = self.kept_key(index).is_some();
        let refused = self.may_revoke(ask, caller, owner, place).err();
        match (kept, refused) {
            (true, None) => {
                self.remove_key(index);
                done(json!({}))
            }
            (true, Some(refusal)) => Err(refusal),
            (false, None) => Err(caller.absent("keys:admin")),
            // A key that ended with all the others is as absent as one that was revoked, so either may be told.
            (false, Some(mut refusal)) => {
                refusal.0.extend(caller.absent("keys:admin").0);
                Err(refusal)
            }
        }
    }

    fn may_revoke(&self, ask: &Ask, caller: &Caller, owner: usize, place: Place) -> Answer<()> {
        if !caller.is(owner) {
            caller.require("keys:admin")?;
            caller.require_in("keys:admin", self.user(owner).expect("an owner who is there").home)?;
            self.dominated(caller, owner)?;
        }
        self.integrity(ask, owner, place)
    }
}

fn own_or_all(caller: &Caller) -> Answer<()> {
    caller.require("keys:self").or_else(|_| caller.require("keys:admin"))
}
