//! Workspaces: what is asked for, and what is shown.

use serde::{Deserialize, Serialize};

use crate::time::{Timestamp, or_empty};

/// A workspace to create, to name, or the change to one. Presence counts as in
/// [`UserInput`](crate::users::UserInput).
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
#[serde(default)]
pub struct WorkspaceInput {
    #[serde(skip_serializing_if = "Option::is_none")]
    pub id: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub name: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub enabled: Option<bool>,
}

/// A workspace as shown to callers.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct WorkspaceRecord {
    #[serde(skip_serializing_if = "String::is_empty")]
    pub id: String,
    #[serde(skip_serializing_if = "String::is_empty")]
    pub name: String,
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    pub enabled: bool,
    #[serde(skip_serializing_if = "Option::is_none", with = "or_empty")]
    pub created: Option<Timestamp>,
    /// One higher with each change.
    #[serde(skip_serializing_if = "crate::envelope::is_zero")]
    pub version: u64,
}
