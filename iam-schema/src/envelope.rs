//! The two records on the bus.

use std::borrow::Cow;

use serde::{Deserialize, Serialize};

use crate::api_keys::{ApiKeyInput, ApiKeyRecord};
use crate::error::WireError;
use crate::secret::Secret;
use crate::time::{Timestamp, or_empty};
use crate::users::{UserInput, UserRecord};
use crate::workspaces::{WorkspaceInput, WorkspaceRecord};

/// A request, for whichever operation. Fields at their default are left out when written.
///
/// Strings borrow from the payload where they can: the busiest operations allocate nothing to be read.
///
/// Source: protocol section 2; the order of the fields is the order on the wire.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
#[serde(default)]
pub struct IamRequest<'a> {
    #[serde(borrow, skip_serializing_if = "is_empty")]
    pub operation: Cow<'a, str>,
    #[serde(borrow, skip_serializing_if = "is_empty")]
    pub workspace: Cow<'a, str>,
    #[serde(borrow, skip_serializing_if = "is_empty")]
    pub actor: Cow<'a, str>,
    #[serde(borrow, skip_serializing_if = "is_empty")]
    pub user_id: Cow<'a, str>,
    #[serde(borrow, skip_serializing_if = "is_empty")]
    pub username: Cow<'a, str>,
    #[serde(borrow, skip_serializing_if = "is_empty")]
    pub key_id: Cow<'a, str>,
    #[serde(skip_serializing_if = "Secret::is_empty")]
    pub api_key: Secret,
    #[serde(skip_serializing_if = "Secret::is_empty")]
    pub password: Secret,
    #[serde(skip_serializing_if = "Secret::is_empty")]
    pub new_password: Secret,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub user: Option<UserInput>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub workspace_record: Option<WorkspaceInput>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub key: Option<ApiKeyInput>,
    #[serde(borrow, skip_serializing_if = "is_empty")]
    pub capability: Cow<'a, str>,
    /// A JSON object in a string; empty means `{}`.
    #[serde(borrow, skip_serializing_if = "is_empty")]
    pub resource_json: Cow<'a, str>,
    /// A JSON object in a string; empty means `{}`.
    #[serde(borrow, skip_serializing_if = "is_empty")]
    pub parameters_json: Cow<'a, str>,
    /// A JSON list of `{capability, resource, parameters}` in a string.
    #[serde(borrow, skip_serializing_if = "is_empty")]
    pub authorise_checks: Cow<'a, str>,
    #[serde(skip_serializing_if = "Secret::is_empty")]
    pub credential: Secret,
    #[serde(borrow, skip_serializing_if = "is_empty")]
    pub request_id: Cow<'a, str>,
    #[serde(borrow, skip_serializing_if = "is_empty")]
    pub client_ip: Cow<'a, str>,
    /// 1 to 1,000; 0 means 100.
    #[serde(skip_serializing_if = "is_zero")]
    pub page_size: u32,
    #[serde(borrow, skip_serializing_if = "is_empty")]
    pub page_token: Cow<'a, str>,
}

/// A reply, of whichever operation.
///
/// Source: protocol section 2; the order of the fields is the order on the wire.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
#[serde(default)]
pub struct IamResponse {
    #[serde(skip_serializing_if = "Option::is_none")]
    pub user: Option<UserRecord>,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub users: Vec<UserRecord>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub workspace: Option<WorkspaceRecord>,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub workspaces: Vec<WorkspaceRecord>,
    #[serde(skip_serializing_if = "Secret::is_empty")]
    pub api_key_plaintext: Secret,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub api_key: Option<ApiKeyRecord>,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub api_keys: Vec<ApiKeyRecord>,
    #[serde(skip_serializing_if = "Secret::is_empty")]
    pub jwt: Secret,
    #[serde(skip_serializing_if = "Option::is_none", with = "or_empty")]
    pub jwt_expires: Option<Timestamp>,
    /// PEM, `BEGIN PUBLIC KEY`.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub signing_key_public: String,
    /// An RFC 7517 key set in a string.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub jwks_json: String,
    #[serde(skip_serializing_if = "String::is_empty")]
    pub resolved_user_id: String,
    /// The token's claim, else the home workspace.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub resolved_workspace: String,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub resolved_roles: Vec<String>,
    #[serde(skip_serializing_if = "String::is_empty")]
    pub resolved_key_id: String,
    #[serde(skip_serializing_if = "Option::is_none", with = "or_empty")]
    pub resolved_expires: Option<Timestamp>,
    /// `api-key`, `jwt` or `anonymous`.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub resolved_source: String,
    #[serde(skip_serializing_if = "Secret::is_empty")]
    pub temporary_password: Secret,
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    pub must_change_password: bool,
    #[serde(skip_serializing_if = "String::is_empty")]
    pub bootstrap_admin_user_id: String,
    #[serde(skip_serializing_if = "Secret::is_empty")]
    pub bootstrap_admin_api_key: Secret,
    /// Always written on bootstrap-status.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub bootstrap_available: Option<bool>,
    /// Always written on authorise and explain.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub decision_allow: Option<bool>,
    #[serde(skip_serializing_if = "is_zero")]
    pub decision_ttl_seconds: u32,
    /// A JSON list of `{allow, ttl}` in a string.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub decisions_json: String,
    #[serde(skip_serializing_if = "String::is_empty")]
    pub decision_reason: String,
    /// Opaque; empty at the end of the list.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub next_page_token: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub error: Option<WireError>,
}

#[expect(clippy::ptr_arg, reason = "serde hands over what the field is")]
fn is_empty(text: &Cow<'_, str>) -> bool {
    text.is_empty()
}

pub(crate) fn is_zero<T: PartialEq + From<u8>>(number: &T) -> bool {
    *number == T::from(0)
}

impl IamRequest<'_> {
    /// The same request with strings of its own.
    pub fn into_owned(self) -> IamRequest<'static> {
        fn own(text: Cow<'_, str>) -> Cow<'static, str> {
            Cow::Owned(text.into_owned())
        }
        IamRequest {
            operation: own(self.operation),
            workspace: own(self.workspace),
            actor: own(self.actor),
            user_id: own(self.user_id),
            username: own(self.username),
            key_id: own(self.key_id),
            api_key: self.api_key,
            password: self.password,
            new_password: self.new_password,
            user: self.user,
            workspace_record: self.workspace_record,
            key: self.key,
            capability: own(self.capability),
            resource_json: own(self.resource_json),
            parameters_json: own(self.parameters_json),
            authorise_checks: own(self.authorise_checks),
            credential: self.credential,
            request_id: own(self.request_id),
            client_ip: own(self.client_ip),
            page_size: self.page_size,
            page_token: own(self.page_token),
        }
    }
}
