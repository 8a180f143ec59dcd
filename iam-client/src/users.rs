//! Users, their state, and what they log in with.
//!
//! `within` is an integrity check: where it is given and is not the user's home workspace, the service answers
//! `operation-not-permitted`.

use std::borrow::Cow;

use iam_schema::users::{UserInput, UserRecord};
use iam_schema::{ErrorKind, IamRequest, OperationName, Secret, UserId, WorkspaceId};

use crate::client::Client;
use crate::error::ClientError;
use crate::pages::{Page, PageRequest, every_page};
use crate::reply;

/// A user, by either of the two ways to name one.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum UserRef<'a> {
    Id(UserId),
    /// The username, in any case.
    Name(&'a str),
}

impl<'a> From<&'a str> for UserRef<'a> {
    /// A lower-case UUID is an id: no username has that form.
    fn from(text: &'a str) -> Self {
        text.parse().map_or(UserRef::Name(text), UserRef::Id)
    }
}

impl From<UserId> for UserRef<'_> {
    fn from(id: UserId) -> Self {
        UserRef::Id(id)
    }
}

impl<'a> UserRef<'a> {
    /// Names the user in a request.
    ///
    /// # Errors
    /// `invalid-argument` for an empty name: on the wire it would be no name, and so the caller.
    pub(crate) fn put(self, request: &mut IamRequest<'a>) -> Result<(), ClientError> {
        match self {
            UserRef::Id(id) => request.user_id = id.to_string().into(),
            UserRef::Name("") => {
                return Err(ClientError::refused(ErrorKind::InvalidArgument, "`username` is empty"));
            }
            UserRef::Name(name) => request.username = name.into(),
        }
        Ok(())
    }
}

/// Users.
///
/// # Errors
/// Each method as [`Client::call`].
impl Client {
    /// Creates a user whose home is `workspace`. Without a password nobody can log in as that user until
    /// [`Client::reset_password`]; API keys work all the same.
    pub async fn create_user(
        &self,
        workspace: &WorkspaceId,
        user: UserInput,
    ) -> Result<UserRecord, ClientError> {
        let request =
            IamRequest { workspace: workspace.as_str().into(), user: Some(user), ..IamRequest::default() };
        let response = self.call(OperationName::CreateUser, request).await?;
        reply::required("user", response.user)
    }

    /// A page of the users of one workspace, or of the whole deployment.
    pub async fn list_users(
        &self,
        workspace: Option<&WorkspaceId>,
        page: &PageRequest,
    ) -> Result<Page<UserRecord>, ClientError> {
        let request = IamRequest {
            workspace: optional(workspace),
            page_size: page.size,
            page_token: page.token.as_str().into(),
            ..IamRequest::default()
        };
        let response = self.call(OperationName::ListUsers, request).await?;
        Ok(Page::new(response.users, response.next_page_token))
    }

    /// Every user of one workspace, or of the whole deployment.
    pub async fn all_users(&self, workspace: Option<&WorkspaceId>) -> Result<Vec<UserRecord>, ClientError> {
        every_page!(page => self.list_users(workspace, &page))
    }

    /// One user.
    pub async fn get_user(
        &self,
        user: UserRef<'_>,
        within: Option<&WorkspaceId>,
    ) -> Result<UserRecord, ClientError> {
        let mut request = IamRequest { workspace: optional(within), ..IamRequest::default() };
        user.put(&mut request)?;
        let response = self.call(OperationName::GetUser, request).await?;
        reply::required("user", response.user)
    }

    /// Changes what `change` has; what it lacks stays. Neither username nor password can be changed so.
    pub async fn update_user(
        &self,
        user: UserId,
        change: UserInput,
        within: Option<&WorkspaceId>,
    ) -> Result<UserRecord, ClientError> {
        let request = IamRequest { user: Some(change), ..about(user, within) };
        let response = self.call(OperationName::UpdateUser, request).await?;
        reply::required("user", response.user)
    }

    /// Disables a user, and ends all of the user's tokens and API keys.
    pub async fn disable_user(&self, user: UserId, within: Option<&WorkspaceId>) -> Result<(), ClientError> {
        self.call(OperationName::DisableUser, about(user, within)).await.map(drop)
    }

    /// Enables a user. Tokens and API keys that were ended stay so.
    pub async fn enable_user(&self, user: UserId, within: Option<&WorkspaceId>) -> Result<(), ClientError> {
        self.call(OperationName::EnableUser, about(user, within)).await.map(drop)
    }

    /// Ends every token issued to the user so far; API keys stay. `None` is oneself, on the API plane.
    pub async fn revoke_user_tokens(
        &self,
        user: Option<UserId>,
        within: Option<&WorkspaceId>,
    ) -> Result<(), ClientError> {
        self.call(OperationName::RevokeUserTokens, about_or_oneself(user, within)).await.map(drop)
    }

    /// Deletes a user and all of the user's keys. The username is free again, the id is not.
    pub async fn delete_user(&self, user: UserId, within: Option<&WorkspaceId>) -> Result<(), ClientError> {
        self.call(OperationName::DeleteUser, about(user, within)).await.map(drop)
    }

    /// Gives the user a temporary password, good for 24 h and to be changed at the next login. It is shown this
    /// once.
    pub async fn reset_password(
        &self,
        user: UserId,
        within: Option<&WorkspaceId>,
    ) -> Result<Secret, ClientError> {
        let response = self.call(OperationName::ResetPassword, about(user, within)).await?;
        reply::secret("temporary_password", response.temporary_password)
    }
}

/// A request about a user.
pub(crate) fn about(user: UserId, within: Option<&WorkspaceId>) -> IamRequest<'_> {
    about_or_oneself(Some(user), within)
}

/// A request about a user, or about the caller: an absent `user_id` is that on the API plane.
pub(crate) fn about_or_oneself(user: Option<UserId>, within: Option<&WorkspaceId>) -> IamRequest<'_> {
    IamRequest {
        user_id: user.map(|id| id.to_string()).unwrap_or_default().into(),
        workspace: optional(within),
        ..IamRequest::default()
    }
}

/// The workspace's id, or nothing.
pub(crate) fn optional(workspace: Option<&WorkspaceId>) -> Cow<'_, str> {
    workspace.map_or(Cow::Borrowed(""), |id| id.as_str().into())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_a_lower_case_uuid_is_an_id() {
        let id = "01a0ce87-ea1a-7bb6-ae10-295948688e1d";
        assert_eq!(UserRef::from(id), UserRef::Id(id.parse().unwrap()));
        let upper = id.to_ascii_uppercase();
        assert_eq!(UserRef::from(upper.as_str()), UserRef::Name(&upper));
        assert_eq!(UserRef::from("ada"), UserRef::Name("ada"));
    }

    #[test]
    fn empty_username_never_stands_for_oneself() {
        let error = UserRef::from("").put(&mut IamRequest::default()).unwrap_err();
        assert_eq!(error.kind(), Some(ErrorKind::InvalidArgument));
    }
}
