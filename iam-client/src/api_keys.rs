//! API keys.
//!
//! `within` is the integrity check that [`crate::users`] describes.

use iam_schema::api_keys::{ApiKeyInput, ApiKeyRecord};
use iam_schema::{IamRequest, KeyId, OperationName, Secret, Timestamp, UserId, WorkspaceId};

use crate::client::Client;
use crate::error::ClientError;
use crate::pages::{Page, PageRequest, every_page};
use crate::reply;
use crate::users::{about_or_oneself, optional};

/// An API key to create.
#[derive(Debug, Clone)]
pub struct NewApiKey<'a> {
    /// Whose; `None` is oneself, on the API plane.
    pub user: Option<UserId>,
    /// Unique per user.
    pub name: &'a str,
    /// `None` is never.
    pub expires: Option<Timestamp>,
}

/// An API key that was just created.
#[derive(Debug, Clone)]
pub struct CreatedApiKey {
    /// The key itself, shown this once.
    pub plaintext: Secret,
    pub record: ApiKeyRecord,
}

/// API keys.
///
/// # Errors
/// Each method as [`Client::call`].
impl Client {
    /// Creates an API key.
    pub async fn create_api_key(
        &self,
        key: NewApiKey<'_>,
        within: Option<&WorkspaceId>,
    ) -> Result<CreatedApiKey, ClientError> {
        let key = ApiKeyInput {
            user_id: key.user.map(|id| id.to_string()).unwrap_or_default(),
            name: key.name.to_owned(),
            expires: key.expires.map(|time| time.to_string()).unwrap_or_default(),
        };
        let request = IamRequest { key: Some(key), workspace: optional(within), ..IamRequest::default() };
        let response = self.call(OperationName::CreateApiKey, request).await?;
        Ok(CreatedApiKey {
            plaintext: reply::secret("api_key_plaintext", response.api_key_plaintext)?,
            record: reply::required("api_key", response.api_key)?,
        })
    }

    /// A page of a user's API keys. `None` is oneself, on the API plane.
    pub async fn list_api_keys(
        &self,
        user: Option<UserId>,
        within: Option<&WorkspaceId>,
        page: &PageRequest,
    ) -> Result<Page<ApiKeyRecord>, ClientError> {
        let request = IamRequest {
            page_size: page.size,
            page_token: page.token.as_str().into(),
            ..about_or_oneself(user, within)
        };
        let response = self.call(OperationName::ListApiKeys, request).await?;
        Ok(Page::new(response.api_keys, response.next_page_token))
    }

    /// Every API key of a user. `None` is oneself, on the API plane.
    pub async fn all_api_keys(
        &self,
        user: Option<UserId>,
        within: Option<&WorkspaceId>,
    ) -> Result<Vec<ApiKeyRecord>, ClientError> {
        every_page!(page => self.list_api_keys(user, within, &page))
    }

    /// Ends an API key, at once.
    pub async fn revoke_api_key(&self, key: KeyId, within: Option<&WorkspaceId>) -> Result<(), ClientError> {
        let request = IamRequest {
            key_id: key.to_string().into(),
            workspace: optional(within),
            ..IamRequest::default()
        };
        self.call(OperationName::RevokeApiKey, request).await.map(drop)
    }
}
