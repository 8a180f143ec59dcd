//! Audit events.

use serde::{Deserialize, Serialize};

use crate::time::Timestamp;

/// The version of the event's form.
pub const SCHEMA_VERSION: u32 = 1;
/// The JetStream stream that keeps audit events.
pub const STREAM: &str = "IAM_AUDIT";

/// The type of an audit event: the last token of its subject.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum AuditType {
    Authenticate,
    Authorise,
    Management,
    Gateway,
}

impl AuditType {
    /// The token as it stands in the subject.
    pub const fn as_str(self) -> &'static str {
        match self {
            AuditType::Authenticate => "authenticate",
            AuditType::Authorise => "authorise",
            AuditType::Management => "management",
            AuditType::Gateway => "gateway",
        }
    }
}

/// How an audited request ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum AuditOutcome {
    Success,
    /// A deny, or operation-not-permitted.
    Denied,
    /// Every other error.
    Failure,
}

/// One audit event, JSON on the bus.
///
/// Source: protocol section 9.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct AuditEvent {
    pub schema_version: u32,
    /// A UUID; also the message id by which a stream recognises what is sent twice.
    pub event_id: String,
    pub event_type: AuditType,
    pub timestamp: Timestamp,
    /// Which instance of which program.
    pub producer: String,
    pub payload: AuditPayload,
}

/// What an audit event says; what does not apply is left out. Never a secret.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
#[serde(default)]
pub struct AuditPayload {
    #[serde(skip_serializing_if = "String::is_empty")]
    pub request_id: String,
    #[serde(skip_serializing_if = "String::is_empty")]
    pub client_ip: String,
    /// `svc` or `api`.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub plane: String,
    #[serde(skip_serializing_if = "String::is_empty")]
    pub actor: String,
    #[serde(skip_serializing_if = "String::is_empty")]
    pub user_id: String,
    #[serde(skip_serializing_if = "String::is_empty")]
    pub username: String,
    #[serde(skip_serializing_if = "String::is_empty")]
    pub operation: String,
    #[serde(skip_serializing_if = "String::is_empty")]
    pub capability: String,
    #[serde(skip_serializing_if = "String::is_empty")]
    pub workspace: String,
    #[serde(skip_serializing_if = "String::is_empty")]
    pub resource: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub outcome: Option<AuditOutcome>,
    /// The real reason, which the caller may not have been told.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub reason: String,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub roles: Vec<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub duration_us: Option<u64>,
    /// In a summary: how many requests it stands for.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub count: Option<u64>,
}
