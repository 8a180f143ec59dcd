//! What an operation can fail with: a closed set of what a caller can act on, each with its private cause.

use std::borrow::Cow;

pub use crate::domain::caller::Denial;
use crate::store::StoreError;

/// What was not found, taken or disabled.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Noun {
    User,
    Workspace,
    ApiKey,
    SigningKey,
    Username,
    KeyName,
    WorkspaceId,
}

/// Why an authentication failed: for log and audit, never for the caller.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum AuthFailure {
    NoCredential,
    MalformedCredential,
    UnknownUser,
    WrongPassword,
    NoPassword,
    TemporaryPasswordExpired,
    UserDisabled,
    WorkspaceDisabled,
    WorkspaceNotPermitted,
    UnknownKey,
    KeyExpired,
    KeyRevoked,
    BadToken,
    TokenExpired,
    TokenRevoked,
    MustChangePassword,
    NotChangePasswordToken,
    NoAnonymousUser,
    BootstrapRefused,
    NotSeeded,
}

impl AuthFailure {
    /// Whether the credential is or was somebody's, and only what is known of its holder has ended it: who knows
    /// newer things may decide otherwise.
    pub const fn is_of_a_holder(self) -> bool {
        matches!(
            self,
            AuthFailure::UnknownUser
                | AuthFailure::UserDisabled
                | AuthFailure::KeyRevoked
                | AuthFailure::TokenRevoked
        )
    }

    /// The reason in words, for log and audit.
    pub const fn as_str(self) -> &'static str {
        match self {
            AuthFailure::NoCredential => "no credential",
            AuthFailure::MalformedCredential => "malformed credential",
            AuthFailure::UnknownUser => "unknown user",
            AuthFailure::WrongPassword => "wrong password",
            AuthFailure::NoPassword => "user has no password",
            AuthFailure::TemporaryPasswordExpired => "temporary password expired",
            AuthFailure::UserDisabled => "user disabled",
            AuthFailure::WorkspaceDisabled => "workspace disabled",
            AuthFailure::WorkspaceNotPermitted => "workspace not permitted",
            AuthFailure::UnknownKey => "unknown key",
            AuthFailure::KeyExpired => "key expired",
            AuthFailure::KeyRevoked => "key revoked",
            AuthFailure::BadToken => "bad token",
            AuthFailure::TokenExpired => "token expired",
            AuthFailure::TokenRevoked => "token revoked",
            AuthFailure::MustChangePassword => "token good for changing the password alone",
            AuthFailure::NotChangePasswordToken => "not a token for changing the password",
            AuthFailure::NoAnonymousUser => "no anonymous user configured",
            AuthFailure::BootstrapRefused => "bootstrap refused",
            AuthFailure::NotSeeded => "deployment not seeded",
        }
    }
}

/// What an operation fails with.
#[derive(Debug)]
pub enum OpError {
    /// A field breaks a rule.
    Invalid {
        field: Cow<'static, str>,
        rule: Cow<'static, str>,
    },
    /// A password breaks the policy.
    WeakPassword(Cow<'static, str>),
    NotFound(Noun),
    Taken(Noun),
    Disabled(Noun),
    /// A concurrent change won.
    Conflict,
    AuthFailed(AuthFailure),
    NotPermitted(Denial),
    Throttled,
    NotSupported(&'static str),
    /// Nothing was decided: the store, the hash pool or a bound of ours says no for now.
    Unavailable(Cow<'static, str>),
    /// A bug, or a damaged store.
    Internal(String),
}

impl OpError {
    /// A field that breaks a rule.
    pub fn invalid(field: impl Into<Cow<'static, str>>, rule: impl Into<Cow<'static, str>>) -> Self {
        OpError::Invalid { field: field.into(), rule: rule.into() }
    }
}

impl From<StoreError> for OpError {
    fn from(error: StoreError) -> Self {
        match error {
            StoreError::Unavailable(_) | StoreError::OutcomeUnknown(_) => {
                OpError::Unavailable(error.to_string().into())
            }
            StoreError::Corrupt { .. } => OpError::Internal(error.to_string()),
        }
    }
}

impl From<AuthFailure> for OpError {
    fn from(failure: AuthFailure) -> Self {
        OpError::AuthFailed(failure)
    }
}

impl From<Denial> for OpError {
    fn from(denial: Denial) -> Self {
        OpError::NotPermitted(denial)
    }
}
