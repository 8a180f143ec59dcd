//! Logging in, and passwords.

use iam_schema::ErrorKind;
use serde_json::json;

use super::{Answer, Caller, done};
use crate::model::ask::{Ask, Name, Named, Password, Place, Whom};
use crate::model::request::WEAK;
use crate::model::state::{KidState, State, Token, acts_everywhere, time};

/// How long a token lives, and one that is good for changing the password alone, in milliseconds.
const TOKEN_MS: i64 = 3_600_000;
const LIMITED_MS: i64 = 600_000;
/// How long a temporary password is good, in milliseconds.
const TEMPORARY_MS: i64 = 86_400_000;

/// Whether a password passes the policy. Of those that the model uses it is known.
pub(super) fn strong(text: &str) -> bool {
    !WEAK.contains(&text)
}

impl State {
    pub(super) fn login(&mut self, ask: &Ask, name: Name, password: Password, place: Place) -> Answer {
        let refused = || ErrorKind::AuthFailed.into();
        let index = self.named(&self.name_text(ask, name)).ok_or_else(refused)?;
        let user = self.user(index).ok_or_else(refused)?.clone();
        let given = self.password_text(Some(index), password);
        let expired = user.temporary_until.is_some_and(|until| self.now_ms >= until);
        if user.password.as_ref() != Some(&given) || expired || !self.live(&user) {
            return Err(refused());
        }
        let place = self.place(ask, place).unwrap_or(user.home);
        let there = self.workspace(place).is_some_and(|workspace| workspace.enabled);
        if !there || (place != user.home && !acts_everywhere(&user)) {
            return Err(refused());
        }
        // Without a ring nothing was seeded, and nobody gets in.
        let kid = self.active_kid().ok_or_else(refused)?;
        let issued = self.now_ms / 1000 * 1000;
        let expires = issued + if user.must_change { LIMITED_MS } else { TOKEN_MS };
        self.tokens.push(Token {
            text: String::new(),
            user: index,
            place,
            epoch: user.token_epoch,
            expires,
            kid,
            limited: user.must_change,
        });
        done(json!({ "jwt": "$jwt", "jwt_expires": time(expires), "must_change_password": user.must_change }))
    }

    pub(super) fn change_password(
        &mut self,
        ask: &Ask,
        caller: &Caller,
        whom: Whom,
        old: Password,
        new: Password,
    ) -> Answer {
        let Caller::Actor(actor, _) = caller else { return Err(ErrorKind::InvalidArgument.into()) };
        let index = *actor;
        if self.whom(ask, whom) != Named::User(index) {
            return Err(ErrorKind::OperationNotPermitted.into());
        }
        let Some(user) = self.user(index) else { return Err(ErrorKind::OperationNotPermitted.into()) };
        let (old, new) = (self.password_text(Some(index), old), self.password_text(Some(index), new));
        let expired = user.temporary_until.is_some_and(|until| self.now_ms >= until);
        if user.password.as_ref() != Some(&old) || expired || !self.live(user) {
            return Err(ErrorKind::AuthFailed.into());
        }
        if old == new || !strong(&new) {
            return Err(ErrorKind::WeakPassword.into());
        }
        self.set_user(index, |user| {
            user.password = Some(new);
            user.must_change = false;
            user.temporary_until = None;
            user.token_epoch += 1;
        });
        done(json!({}))
    }

    pub(super) fn reset_password(&mut self, ask: &Ask, caller: &Caller, whom: Whom, place: Place) -> Answer {
        let index = self.target_to_change(ask, caller, "users:admin", whom, place)?;
        let until = self.now_ms + TEMPORARY_MS;
        self.set_user(index, |user| {
            // Told by the reply.
            user.password = None;
            user.must_change = true;
            user.temporary_until = Some(until);
            user.token_epoch += 1;
        });
        done(json!({ "temporary_password": "$temporary" }))
    }

    pub(super) fn revoke_user_tokens(
        &mut self,
        ask: &Ask,
        caller: &Caller,
        whom: Whom,
        place: Place,
    ) -> Answer {
        let index = match (self.whom(ask, whom), caller) {
            (Named::Missing, Caller::Actor(actor, _)) => Some(*actor),
            (Named::User(index), _) => Some(index),
            _ => None,
        };
        match index.filter(|&index| caller.is(index)) {
            Some(oneself) => {
                let there = self.user(oneself).is_some();
                if !there {
                    return Err(ErrorKind::NotFound.into());
                }
                self.integrity(ask, oneself, place)?;
                self.set_user(oneself, |user| user.token_epoch += 1);
            }
            None => {
                let index = self.target_to_change(ask, caller, "users:admin", whom, place)?;
                self.set_user(index, |user| user.token_epoch += 1);
            }
        }
        done(json!({}))
    }

    pub(super) fn rotate_signing_key(&mut self, caller: &Caller) -> Answer {
        const GRACE_MS: i64 = 86_400_000;
        caller.require_everywhere("iam:admin")?;
        let Some(active) = self.active_kid() else { return Err(ErrorKind::NotFound.into()) };
        if self.published().len() >= 64 {
            return Err(ErrorKind::Conflict.into());
        }
        self.sweep_kids();
        let next = self.next_kid();
        self.set_kid(active, KidState::Grace { until: self.now_ms + GRACE_MS });
        self.set_kid(next, KidState::Active);
        self.add_kid(KidState::Next);
        done(json!({}))
    }

    /// Keys whose grace is over are deleted with the next change.
    fn sweep_kids(&mut self) {
        for index in 0..self.kids.len() {
            let over = |state: KidState| matches!(state, KidState::Grace { until } if self.now_ms >= until);
            if over(*self.kids[index].now()) {
                self.set_kid(index, KidState::Gone);
            }
        }
    }

    fn next_kid(&self) -> usize {
        let next = (0..self.kids.len()).find(|&index| *self.kids[index].now() == KidState::Next);
        next.expect("a ring always has a next key")
    }

    pub(super) fn retire_signing_key(&mut self, caller: &Caller, kid: crate::model::ask::Kid) -> Answer {
        caller.require_everywhere("iam:admin")?;
        let text = self.kid_text(kid);
        let meant = |&index: &usize| self.kid_texts[index].as_ref() == Some(&text);
        let Some(index) = self.published().into_iter().find(meant) else {
            return Err(ErrorKind::NotFound.into());
        };
        self.sweep_kids();
        let was = *self.kids[index].now();
        self.set_kid(index, KidState::Gone);
        if was == KidState::Active {
            let next = self.next_kid();
            self.set_kid(next, KidState::Active);
        }
        if matches!(was, KidState::Active | KidState::Next) {
            self.add_kid(KidState::Next);
        }
        done(json!({}))
    }

    pub(super) fn bootstrap(&mut self) -> Answer {
        if !self.by_operation || !self.is_empty() {
            return Err(ErrorKind::AuthFailed.into());
        }
        self.seed();
        done(json!({ "bootstrap_admin_user_id": "$user", "bootstrap_admin_api_key": "$key-text" }))
    }
}
