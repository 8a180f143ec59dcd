//! API keys: what is asked for, and what is shown.

use serde::{Deserialize, Serialize};

use crate::time::{Timestamp, or_empty};

/// An API key to create.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
#[serde(default)]
pub struct ApiKeyInput {
    #[serde(skip_serializing_if = "String::is_empty")]
    pub user_id: String,
    /// Required, unique per user, at most 1,024 bytes.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub name: String,
    /// RFC 3339 and ahead; empty means never.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub expires: String,
}

/// An API key as shown to callers. Neither the key nor its hash is in it.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct ApiKeyRecord {
    #[serde(skip_serializing_if = "String::is_empty")]
    pub id: String,
    #[serde(skip_serializing_if = "String::is_empty")]
    pub user_id: String,
    #[serde(skip_serializing_if = "String::is_empty")]
    pub name: String,
    /// The first 7 characters of the key, so that its owner recognises it.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub prefix: String,
    #[serde(skip_serializing_if = "Option::is_none", with = "or_empty")]
    pub expires: Option<Timestamp>,
    #[serde(skip_serializing_if = "Option::is_none", with = "or_empty")]
    pub created: Option<Timestamp>,
    /// Updated at most once in five minutes.
    #[serde(skip_serializing_if = "Option::is_none", with = "or_empty")]
    pub last_used: Option<Timestamp>,
}
