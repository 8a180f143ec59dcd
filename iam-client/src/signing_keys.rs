//! The keys that sign JWTs.

use iam_schema::{IamRequest, KeyKid, OperationName};

use crate::client::Client;
use crate::error::ClientError;
use crate::reply;

/// Signing keys.
///
/// # Errors
/// Each method as [`Client::call`].
impl Client {
    /// The key that signs now, as PEM.
    pub async fn get_signing_key_public(&self) -> Result<String, ClientError> {
        let response = self.call(OperationName::GetSigningKeyPublic, IamRequest::default()).await?;
        reply::text("signing_key_public", response.signing_key_public)
    }

    /// Every key that verifies or is about to, as the JSON of an RFC 7517 set.
    pub async fn get_jwks(&self) -> Result<String, ClientError> {
        let response = self.call(OperationName::GetJwks, IamRequest::default()).await?;
        reply::text("jwks_json", response.jwks_json)
    }

    /// Lets the key that was published as next sign from now on; the old one verifies for the grace period.
    pub async fn rotate_signing_key(&self) -> Result<(), ClientError> {
        self.call(OperationName::RotateSigningKey, IamRequest::default()).await.map(drop)
    }

    /// For a key that leaked: it stops verifying at once, and every token that it signed is dead.
    pub async fn retire_signing_key(&self, kid: &KeyKid) -> Result<(), ClientError> {
        let request = IamRequest { key_id: kid.as_str().into(), ..IamRequest::default() };
        self.call(OperationName::RetireSigningKey, request).await.map(drop)
    }
}
