//! The closed list of operations, and what each needs of its caller.

use std::fmt;
use std::str::FromStr;

use crate::decisions::capability;

/// What an operation asks of its caller.
///
/// Source: protocol section 3, the column "needs".
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Needs {
    /// No credential.
    Public,
    /// Any valid credential.
    Authenticated,
    /// The service plane; never offered on the API plane.
    ServicePlane,
    /// The service plane; on the API plane any valid credential, for oneself alone.
    ServicePlaneOrOneself,
    /// A capability.
    Capability(&'static str),
    /// A capability, or for oneself any valid credential.
    CapabilityOrOneself(&'static str),
    /// A capability, or for oneself a lesser one: (for others, for oneself).
    CapabilityOrOwn(&'static str, &'static str),
}

macro_rules! operations {
    ($($(#[$doc:meta])* $variant:ident = $text:literal, $needs:expr;)*) => {
        /// An operation of the protocol.
        #[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
        pub enum OperationName {
            $($(#[$doc])* $variant,)*
        }

        impl OperationName {
            /// Every operation, in the order of the protocol page.
            pub const ALL: &[OperationName] = &[$(OperationName::$variant,)*];

            /// The name as it stands on the wire, one subject token.
            pub const fn as_str(self) -> &'static str {
                match self { $(OperationName::$variant => $text,)* }
            }

            /// What the operation asks of its caller.
            pub const fn needs(self) -> Needs {
                match self { $(OperationName::$variant => $needs,)* }
            }
        }

        impl FromStr for OperationName {
            type Err = UnknownOperation;

            fn from_str(text: &str) -> Result<Self, UnknownOperation> {
                match text {
                    $($text => Ok(OperationName::$variant),)*
                    _ => Err(UnknownOperation),
                }
            }
        }
    };
}

operations! {
    /// Username and password to a JWT.
    Login = "login", Needs::Public;
    /// Any credential to an identity, liveness included.
    Authenticate = "authenticate", Needs::ServicePlane;
    /// An API key to an identity.
    ResolveApiKey = "resolve-api-key", Needs::ServicePlane;
    /// The identity of callers without a credential, where one is configured.
    AuthenticateAnonymous = "authenticate-anonymous", Needs::ServicePlane;
    /// May this user do this?
    Authorise = "authorise", Needs::ServicePlaneOrOneself;
    /// Up to 1,000 such questions about one user.
    AuthoriseMany = "authorise-many", Needs::ServicePlaneOrOneself;
    /// The decision with its reason in words.
    Explain = "explain", Needs::CapabilityOrOneself(capability::IAM_ADMIN);
    /// The caller's own record.
    Whoami = "whoami", Needs::Authenticated;
    /// A new password for the old one.
    ChangePassword = "change-password", Needs::Authenticated;
    CreateUser = "create-user", Needs::Capability(capability::USERS_ADMIN);
    ListUsers = "list-users", Needs::Capability(capability::USERS_READ);
    GetUser = "get-user", Needs::Capability(capability::USERS_READ);
    UpdateUser = "update-user", Needs::Capability(capability::USERS_WRITE);
    DisableUser = "disable-user", Needs::Capability(capability::USERS_ADMIN);
    EnableUser = "enable-user", Needs::Capability(capability::USERS_ADMIN);
    /// Ends every token issued so far; API keys stay.
    RevokeUserTokens = "revoke-user-tokens", Needs::CapabilityOrOneself(capability::USERS_ADMIN);
    DeleteUser = "delete-user", Needs::Capability(capability::USERS_ADMIN);
    /// A temporary password, shown once.
    ResetPassword = "reset-password", Needs::Capability(capability::USERS_ADMIN);
    CreateApiKey = "create-api-key", Needs::CapabilityOrOwn(capability::KEYS_ADMIN, capability::KEYS_SELF);
    ListApiKeys = "list-api-keys", Needs::CapabilityOrOwn(capability::KEYS_ADMIN, capability::KEYS_SELF);
    RevokeApiKey = "revoke-api-key", Needs::CapabilityOrOwn(capability::KEYS_ADMIN, capability::KEYS_SELF);
    CreateWorkspace = "create-workspace", Needs::Capability(capability::WORKSPACES_ADMIN);
    /// The workspaces that the caller may act in.
    ListMyWorkspaces = "list-my-workspaces", Needs::Authenticated;
    ListWorkspaces = "list-workspaces", Needs::Capability(capability::WORKSPACES_ADMIN);
    GetWorkspace = "get-workspace", Needs::Capability(capability::WORKSPACES_ADMIN);
    UpdateWorkspace = "update-workspace", Needs::Capability(capability::WORKSPACES_ADMIN);
    DisableWorkspace = "disable-workspace", Needs::Capability(capability::WORKSPACES_ADMIN);
    /// PEM of the key that signs now.
    GetSigningKeyPublic = "get-signing-key-public", Needs::Public;
    /// Every key that verifies, or is about to.
    GetJwks = "get-jwks", Needs::Public;
    RotateSigningKey = "rotate-signing-key", Needs::Capability(capability::IAM_ADMIN);
    /// Ends a key that leaked, at once.
    RetireSigningKey = "retire-signing-key", Needs::Capability(capability::IAM_ADMIN);
    /// Seeds an empty deployment, once.
    Bootstrap = "bootstrap", Needs::Public;
    BootstrapStatus = "bootstrap-status", Needs::Public;
}

/// A name that is no operation of this contract.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("unknown operation")]
pub struct UnknownOperation;

impl fmt::Display for OperationName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_name_is_one_subject_token_and_reads_back() {
        for operation in OperationName::ALL {
            let name = operation.as_str();
            assert!(name.bytes().all(|b| b.is_ascii_lowercase() || b == b'-'), "{name}");
            assert_eq!(name.parse(), Ok(*operation));
        }
    }

    #[test]
    fn every_capability_asked_for_is_in_the_vocabulary() {
        for operation in OperationName::ALL {
            let named: &[&str] = match operation.needs() {
                Needs::Capability(c) | Needs::CapabilityOrOneself(c) => &[c],
                Needs::CapabilityOrOwn(c, own) => &[c, own],
                _ => &[],
            };
            for capability in named {
                assert!(capability::VOCABULARY.contains(capability), "{operation} needs {capability}");
            }
        }
    }
}
