//! Users: what is asked for, and what is shown.

use serde::{Deserialize, Serialize};

use crate::secret::Secret;
use crate::time::{Timestamp, or_empty};

/// A user to create, or the change to one.
///
/// Presence counts: in an update an absent field leaves things as they are, `""` clears name and email, and an
/// empty list clears the roles. On create, absent and empty are the same.
///
/// Source: protocol section 2.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
#[serde(default)]
pub struct UserInput {
    #[serde(skip_serializing_if = "Option::is_none")]
    pub username: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub name: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub email: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub password: Option<Secret>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub roles: Option<Vec<String>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub enabled: Option<bool>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub must_change_password: Option<bool>,
}

/// A user as shown to callers. It never holds a hash.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct UserRecord {
    #[serde(skip_serializing_if = "String::is_empty")]
    pub id: String,
    /// The home workspace.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub workspace: String,
    #[serde(skip_serializing_if = "String::is_empty")]
    pub username: String,
    #[serde(skip_serializing_if = "String::is_empty")]
    pub name: String,
    #[serde(skip_serializing_if = "String::is_empty")]
    pub email: String,
    /// Sorted.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub roles: Vec<String>,
    /// Whether the user is *effectively* enabled: the home workspace counts too.
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    pub enabled: bool,
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    pub must_change_password: bool,
    #[serde(skip_serializing_if = "Option::is_none", with = "or_empty")]
    pub created: Option<Timestamp>,
    /// One higher with each change.
    #[serde(skip_serializing_if = "crate::envelope::is_zero")]
    pub version: u64,
}
