//! The first admin of an empty deployment.

use iam_schema::{IamRequest, OperationName, Secret, UserId};

use crate::client::Client;
use crate::error::ClientError;
use crate::reply;

/// What bootstrapping gives, this once.
#[derive(Debug, Clone)]
pub struct FirstAdmin {
    pub user_id: UserId,
    pub api_key: Secret,
}

/// Bootstrap.
///
/// # Errors
/// Each method as [`Client::call`].
impl Client {
    /// Seeds an empty deployment. `auth-failed` when it is not empty, or when its mode does not offer this.
    pub async fn bootstrap(&self) -> Result<FirstAdmin, ClientError> {
        let response = self.call(OperationName::Bootstrap, IamRequest::default()).await?;
        Ok(FirstAdmin {
            user_id: reply::id("bootstrap_admin_user_id", &response.bootstrap_admin_user_id)?,
            api_key: reply::secret("bootstrap_admin_api_key", response.bootstrap_admin_api_key)?,
        })
    }

    /// Whether [`Client::bootstrap`] would do something. It changes nothing, so it is also the way to find out
    /// whether the service is there.
    pub async fn bootstrap_status(&self) -> Result<bool, ClientError> {
        let response = self.call(OperationName::BootstrapStatus, IamRequest::default()).await?;
        reply::required("bootstrap_available", response.bootstrap_available)
    }
}
