//! Users.

use std::collections::BTreeSet;
use std::fmt;
use std::str::FromStr;

use iam_schema::{Timestamp, UserId, WorkspaceId};

use super::passwords::PasswordHash;
use super::policy::RoleName;
use super::workspaces::Workspace;

/// The longest name and email, in bytes.
pub const MAX_TEXT: usize = 1024;

/// A user as stored.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct User {
    pub id: UserId,
    /// INVARIANT (version): one higher with each change, from 1.
    pub version: u64,
    /// The home workspace; it never changes.
    pub workspace: WorkspaceId,
    /// The epoch of the home workspace when the user was last enabled in it.
    pub workspace_epoch: u64,
    pub username: Username,
    pub name: String,
    pub email: String,
    pub roles: BTreeSet<RoleName>,
    /// Enabled so far as this record goes; see [`User::effectively_enabled`].
    pub enabled: bool,
    pub must_change_password: bool,
    /// Absent for a user who cannot log in, such as a service account.
    pub password: Option<PasswordHash>,
    /// When a temporary password stops working.
    pub temporary_until: Option<Timestamp>,
    /// INVARIANT (epoch): tokens and keys of another epoch are dead; an epoch only rises.
    pub key_epoch: u64,
    pub token_epoch: u64,
    pub created: Timestamp,
}

impl User {
    /// Whether this user may do anything at all: enabled, in an enabled workspace, and not left disabled by the
    /// last disabling of that workspace.
    ///
    /// Source: protocol section 3, "effectively enabled".
    pub fn effectively_enabled(&self, home: &Workspace) -> bool {
        self.enabled && home.enabled && self.workspace_epoch == home.epoch
    }

    /// The record after a change.
    #[must_use]
    pub fn changed(&self, change: impl FnOnce(&mut User)) -> User {
        let mut to = self.clone();
        change(&mut to);
        to.version = self.version + 1;
        to
    }

    /// Ends all tokens issued so far.
    pub fn end_tokens(&mut self) {
        self.token_epoch += 1;
    }

    /// Ends all API keys made so far.
    pub fn end_keys(&mut self) {
        self.key_epoch += 1;
    }
}

/// A username: `[A-Za-z0-9][A-Za-z0-9._@+-]{0,127}`, and not of the form of a user id.
///
/// Source: protocol sections 1 and 3.
#[derive(Clone, PartialEq, Eq)]
pub struct Username(String);

/// A username without regard to ASCII case: what must be unique in the deployment.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct NameKey(String);

impl Username {
    /// As the user entered it.
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// What is claimed for it.
    pub fn key(&self) -> NameKey {
        NameKey(self.0.to_ascii_lowercase())
    }
}

impl NameKey {
    /// The lower-case text.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl FromStr for Username {
    type Err = &'static str;

    fn from_str(text: &str) -> Result<Self, &'static str> {
        let mut bytes = text.bytes();
        let first = bytes.next().is_some_and(|b| b.is_ascii_alphanumeric());
        let rest = bytes.all(|b| b.is_ascii_alphanumeric() || b"._@+-".contains(&b));
        if !first || !rest || text.len() > 128 {
            return Err(
                "must be 1 to 128 characters of A-Z a-z 0-9 . _ @ + - and begin with a letter or digit",
            );
        }
        if text.to_ascii_lowercase().parse::<UserId>().is_ok() {
            return Err("must not have the form of a user id");
        }
        Ok(Self(text.to_owned()))
    }
}

impl fmt::Display for Username {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl fmt::Debug for Username {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

#[cfg(test)]
impl User {
    /// `Ada`, with the id 1: enabled, without a password, of epoch 0 in everything.
    pub(crate) fn example(home: &str, roles: &[&str]) -> User {
        User {
            id: UserId::from_uuid(uuid::Uuid::from_u128(1)),
            version: 1,
            workspace: home.parse().unwrap(),
            workspace_epoch: 0,
            username: "Ada".parse().unwrap(),
            name: String::new(),
            email: String::new(),
            roles: roles.iter().map(|role| role.parse().unwrap()).collect(),
            enabled: true,
            must_change_password: false,
            password: None,
            temporary_until: None,
            key_epoch: 0,
            token_epoch: 0,
            created: Timestamp::from_millis(0),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn user() -> User {
        let example = User::example("acme", &[]);
        User { version: 3, workspace_epoch: 5, key_epoch: 2, token_epoch: 4, ..example }
    }

    #[test]
    fn user_lives_while_enabled_in_an_enabled_workspace_of_the_same_epoch() {
        let home = |enabled, epoch| Workspace {
            epoch,
            ..Workspace::new("acme".parse().unwrap(), String::new(), enabled, Timestamp::from_millis(0))
        };
        for (enabled, home_enabled, epoch, lives) in [
            (true, true, 5, true),
            (false, true, 5, false),
            (true, false, 5, false),
            (false, false, 5, false),
            (true, true, 6, false),
            (true, true, 4, false),
            (true, false, 6, false),
        ] {
            let user = User { enabled, ..user() };
            assert_eq!(user.effectively_enabled(&home(home_enabled, epoch)), lives);
        }
    }

    #[test]
    fn change_raises_the_version_and_an_end_its_own_epoch_by_one() {
        let ended = user().changed(User::end_tokens);
        assert_eq!((ended.version, ended.token_epoch, ended.key_epoch), (4, 5, 2));
        let ended = user().changed(User::end_keys);
        assert_eq!((ended.version, ended.token_epoch, ended.key_epoch), (4, 4, 3));
    }

    #[test]
    fn username_is_what_the_protocol_says_and_is_compared_in_lower_case() {
        let longest = format!("a{}", "b".repeat(127));
        for good in ["a", "7", "Ada.L_o-v+e@x", &longest] {
            let name: Username = good.parse().unwrap();
            assert_eq!((name.as_str(), name.key().as_str()), (good, good.to_ascii_lowercase().as_str()));
        }
        let too_long = format!("{longest}b");
        let id = "01A0CE87-ea1a-7bb6-ae10-295948688e1d";
        for bad in ["", ".a", "-a", "@a", "a b", "a/b", "ä", "aä", &too_long, id] {
            assert!(bad.parse::<Username>().is_err(), "{bad}");
        }
    }
}
