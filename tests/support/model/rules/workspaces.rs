//! Workspaces, the seeding, and lists of whatever kind.

use iam_schema::ErrorKind;
use serde_json::{Value, json};

use super::{Answer, Caller, done};
use crate::model::ask::{Ask, Page, Place};
use crate::model::expect::{Expect, PageOf};
use crate::model::request::free_text;
use crate::model::state::{Key, KidState, PLACES, State, User, Workspace};

impl State {
    /// What section 7 says that the seeding makes.
    pub fn seed(&mut self) {
        let created = self.now_ms;
        let name = "Default".to_owned();
        self.set_workspace(PLACES[0], Workspace { name, enabled: true, disablings: 0, created, version: 1 });
        let admin = self.add_user(User {
            username: "admin".to_owned(),
            home: PLACES[0],
            name: "Administrator".to_owned(),
            email: String::new(),
            roles: ["admin".to_owned()].into(),
            enabled: true,
            must_change: true,
            password: None,
            temporary_until: None,
            token_epoch: 0,
            key_epoch: 0,
            disablings: 0,
            created,
            version: 1,
        });
        self.add_key(Key { owner: admin, name: "bootstrap".to_owned(), epoch: 0, expires: None, created });
        self.add_kid(KidState::Active);
        self.add_kid(KidState::Next);
    }

    pub(super) fn create_workspace(
        &mut self,
        ask: &Ask,
        caller: &Caller,
        place: Place,
        name: Option<u8>,
        enabled: Option<bool>,
    ) -> Answer {
        caller.require_everywhere("workspaces:admin")?;
        if self.is_empty() {
            return Err(ErrorKind::OperationNotPermitted.into());
        }
        let id = self.place(ask, place).expect("syntax was checked");
        if self.workspace(id).is_some() {
            return Err(ErrorKind::Duplicate.into());
        }
        let name = name.map(|n| free_text(n).to_owned()).unwrap_or_default();
        let (enabled, created) = (enabled.unwrap_or(true), self.now_ms);
        self.set_workspace(id, Workspace { name, enabled, disablings: 0, created, version: 1 });
        done(json!({ "workspace": self.workspace_record(id) }))
    }

    pub(super) fn get_workspace(&self, ask: &Ask, caller: &Caller, place: Place) -> Answer {
        caller.require_everywhere("workspaces:admin")?;
        let id = self.place(ask, place).expect("syntax was checked");
        match self.workspace(id) {
            Some(_) => done(json!({ "workspace": self.workspace_record(id) })),
            None => Err(ErrorKind::NotFound.into()),
        }
    }

    pub(super) fn update_workspace(
        &mut self,
        ask: &Ask,
        caller: &Caller,
        place: Place,
        name: Option<u8>,
        enabled: Option<bool>,
    ) -> Answer<Value> {
        caller.require_everywhere("workspaces:admin")?;
        let id = self.place(ask, place).expect("syntax was checked");
        let Some(workspace) = self.workspace(id) else { return Err(ErrorKind::NotFound.into()) };
        let mut next = workspace.clone();
        if let Some(n) = name {
            next.name = free_text(n).to_owned();
        }
        match enabled {
            Some(false) if next.enabled => {
                next.enabled = false;
                next.disablings += 1;
            }
            Some(true) => next.enabled = true,
            Some(false) | None => {}
        }
        if next != *workspace {
            next.version += 1;
            self.guarded(|after| after.set_workspace(id, next))?;
        }
        Ok(json!({ "workspace": self.workspace_record(id) }))
    }

    pub(super) fn list_workspaces(&mut self, caller: &Caller, page: &Page) -> Answer {
        let allowed = caller.require_everywhere("workspaces:admin");
        self.checked_page(("list-workspaces", String::new()), page, allowed)?;
        self.page("workspaces", ("list-workspaces", String::new()), page, self.all_workspaces())
    }

    fn all_workspaces(&self) -> Vec<(String, Value)> {
        let there = self.workspaces.keys().filter(|id| self.workspace(id).is_some());
        there.map(|id| ((*id).to_owned(), self.workspace_record(id))).collect()
    }

    pub(super) fn list_my_workspaces(&mut self, caller: &Caller, page: &Page) -> Answer {
        let Caller::Actor(_, user) = caller else { return Err(ErrorKind::InvalidArgument.into()) };
        let of = ("list-my-workspaces", String::new());
        self.checked_page(of.clone(), page, Ok(()))?;
        let mut mine = self.all_workspaces();
        mine.retain(|(id, _)| caller.everywhere() || id == user.home);
        self.page("workspaces", of, page, mine)
    }

    /// The token of a page, and what the caller may: where both are wrong, either may be told.
    pub(super) fn checked_page(
        &self,
        of: (&'static str, String),
        page: &Page,
        allowed: Answer<()>,
    ) -> Answer<()> {
        let token = self.page_token(page);
        let known = self.listings.iter().any(|listing| listing.of == of && listing.token == token);
        let good = token.is_empty() || known;
        match (good, allowed) {
            (true, allowed) => allowed,
            (false, Ok(())) => Err(ErrorKind::InvalidArgument.into()),
            (false, Err(mut refusal)) => {
                refusal.0.push(ErrorKind::InvalidArgument);
                Err(refusal)
            }
        }
    }

    /// A page of records that are all there.
    pub(super) fn page(
        &self,
        field: &'static str,
        of: (&'static str, String),
        page: &Page,
        records: Vec<(String, Value)>,
    ) -> Answer {
        let token = self.page_token(page);
        let begun = self.listings.iter().rposition(|l| !token.is_empty() && l.of == of && l.token == token);
        let size = if page.size == 0 { 100 } else { page.size.into() };
        Ok(Expect::Page(PageOf { field, of, begun, size, records: records.into_iter().collect() }))
    }
}
