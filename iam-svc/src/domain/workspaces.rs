//! Workspaces.

use iam_schema::{Timestamp, WorkspaceId};

/// A workspace as stored.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Workspace {
    pub id: WorkspaceId,
    /// One higher with each change, from 1.
    pub version: u64,
    pub name: String,
    pub enabled: bool,
    /// Raised by each disabling, so that one write disables everybody whose home this is.
    pub epoch: u64,
    pub created: Timestamp,
}

impl Workspace {
    /// A new, enabled workspace.
    pub fn new(id: WorkspaceId, name: String, enabled: bool, created: Timestamp) -> Self {
        Self { id, version: 1, name, enabled, epoch: 0, created }
    }

    /// The record after a change.
    #[must_use]
    pub fn changed(&self, change: impl FnOnce(&mut Workspace)) -> Workspace {
        let mut to = self.clone();
        change(&mut to);
        to.version = self.version + 1;
        to
    }

    /// Disables the workspace, and with it everybody whose home it is. Enabling it again does not bring them
    /// back.
    pub fn disable(&mut self) {
        self.enabled = false;
        self.epoch += 1;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn disabling_raises_version_and_epoch_by_one() {
        let new = Workspace::new("acme".parse().unwrap(), "Acme".to_owned(), true, Timestamp::from_millis(0));
        assert_eq!((new.version, new.epoch, new.enabled), (1, 0, true));
        let ended = Workspace { epoch: 7, version: 3, ..new }.changed(Workspace::disable);
        assert_eq!((ended.version, ended.epoch, ended.enabled), (4, 8, false));
    }
}
