//! Logging in, and turning credentials into identities.

use iam_schema::users::UserRecord;
use iam_schema::{IamRequest, IamResponse, KeyId, OperationName, Secret, Timestamp, UserId, WorkspaceId};

use crate::client::Client;
use crate::error::ClientError;
use crate::reply;
use crate::users::optional;

/// What a login gives.
#[derive(Debug, Clone)]
pub struct Session {
    pub jwt: Secret,
    pub expires: Timestamp,
    /// The token is then good for [`Client::whoami`] and [`Client::change_password`] alone.
    pub must_change_password: bool,
}

/// Who a credential stands for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Identity {
    pub user_id: UserId,
    /// The token's claim, else the home workspace.
    pub workspace: WorkspaceId,
    pub roles: Vec<String>,
    pub source: IdentitySource,
    /// Of an API key.
    pub key_id: Option<KeyId>,
    /// When the credential ends; `None` is never.
    pub expires: Option<Timestamp>,
}

/// By what kind of credential an identity was shown.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum IdentitySource {
    ApiKey,
    Jwt,
    Anonymous,
}

/// Sessions.
///
/// # Errors
/// Each method as [`Client::call`]; a credential that is not good is `auth-failed`.
impl Client {
    /// Username and password to a JWT, for `workspace` or else the home workspace. A client made with
    /// [`Client::with_credential`] sends its credential not here.
    pub async fn login(
        &self,
        username: &str,
        password: &Secret,
        workspace: Option<&WorkspaceId>,
    ) -> Result<Session, ClientError> {
        let request = IamRequest {
            username: username.into(),
            password: password.clone(),
            workspace: optional(workspace),
            ..IamRequest::default()
        };
        let response = self.call(OperationName::Login, request).await?;
        Ok(Session {
            jwt: reply::secret("jwt", response.jwt)?,
            expires: reply::required("jwt_expires", response.jwt_expires)?,
            must_change_password: response.must_change_password,
        })
    }

    /// Any credential to an identity, if it works at this moment. Service plane only.
    pub async fn authenticate(&self, credential: &Secret) -> Result<Identity, ClientError> {
        let request = IamRequest { credential: credential.clone(), ..IamRequest::default() };
        Identity::read(&mut self.call(OperationName::Authenticate, request).await?)
    }

    /// An API key to an identity. Service plane only.
    pub async fn resolve_api_key(&self, api_key: &Secret) -> Result<Identity, ClientError> {
        let request = IamRequest { api_key: api_key.clone(), ..IamRequest::default() };
        Identity::read(&mut self.call(OperationName::ResolveApiKey, request).await?)
    }

    /// The identity of callers without a credential; `auth-failed` unless one is configured. Service plane only.
    pub async fn authenticate_anonymous(&self) -> Result<Identity, ClientError> {
        let request = IamRequest::default();
        Identity::read(&mut self.call(OperationName::AuthenticateAnonymous, request).await?)
    }

    /// The caller's own record.
    pub async fn whoami(&self) -> Result<UserRecord, ClientError> {
        let response = self.call(OperationName::Whoami, IamRequest::default()).await?;
        reply::required("user", response.user)
    }

    /// A new password for the caller, who is `user`. It ends all of the user's tokens, also the one in use.
    pub async fn change_password(
        &self,
        user: UserId,
        current: &Secret,
        new: &Secret,
    ) -> Result<(), ClientError> {
        let request = IamRequest {
            user_id: user.to_string().into(),
            password: current.clone(),
            new_password: new.clone(),
            ..IamRequest::default()
        };
        self.call(OperationName::ChangePassword, request).await.map(drop)
    }
}

impl Identity {
    /// Takes the `resolved_…` fields out of a reply.
    ///
    /// # Errors
    /// `Decode`, when one that every identity has is missing or has not its form.
    pub(crate) fn read(response: &mut IamResponse) -> Result<Self, ClientError> {
        let key_id = match response.resolved_key_id.as_str() {
            "" => None,
            id => Some(reply::id("resolved_key_id", id)?),
        };
        let source = match response.resolved_source.as_str() {
            "api-key" => IdentitySource::ApiKey,
            "jwt" => IdentitySource::Jwt,
            "anonymous" => IdentitySource::Anonymous,
            _ => return Err(ClientError::reply("resolved_source", "is not api-key, jwt or anonymous")),
        };
        Ok(Self {
            user_id: reply::id("resolved_user_id", &response.resolved_user_id)?,
            workspace: reply::id("resolved_workspace", &response.resolved_workspace)?,
            roles: std::mem::take(&mut response.resolved_roles),
            source,
            key_id,
            expires: response.resolved_expires,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn resolved() -> IamResponse {
        IamResponse {
            resolved_user_id: "01a0ce87-ea1a-7bb6-ae10-295948688e1d".to_owned(),
            resolved_workspace: "acme".to_owned(),
            resolved_source: "jwt".to_owned(),
            ..IamResponse::default()
        }
    }

    #[test]
    fn identity_that_lacks_a_field_is_a_decode_error_naming_it() {
        assert!(Identity::read(&mut resolved()).is_ok());
        let lacking = [
            ("resolved_user_id", IamResponse { resolved_user_id: String::new(), ..resolved() }),
            ("resolved_workspace", IamResponse { resolved_workspace: String::new(), ..resolved() }),
            ("resolved_source", IamResponse { resolved_source: "of-tomorrow".to_owned(), ..resolved() }),
            ("resolved_key_id", IamResponse { resolved_key_id: "x".to_owned(), ..resolved() }),
        ];
        for (field, mut response) in lacking {
            match Identity::read(&mut response) {
                Err(ClientError::Decode(error)) => assert_eq!(error.field, field),
                other => panic!("{field}: {other:?}"),
            }
        }
    }
}
