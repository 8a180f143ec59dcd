//! Every operation has one typed method, of its own name, which asks for that operation.

use iam_schema::OperationName;

use crate::client::Client;

/// The sources of the typed methods.
const NOUNS: &[&str] = &[
    include_str!("api_keys.rs"),
    include_str!("bootstrap.rs"),
    include_str!("decisions.rs"),
    include_str!("sessions.rs"),
    include_str!("signing_keys.rs"),
    include_str!("users.rs"),
    include_str!("workspaces.rs"),
];

/// Names the method of each operation. A new operation does not compile here until it has a line, and a line does
/// not compile without its method.
macro_rules! typed_methods {
    ($($operation:ident => $method:ident,)*) => {
        fn method_of(operation: OperationName) -> &'static str {
            match operation {
                $(OperationName::$operation => {
                    let _ = Client::$method;
                    stringify!($method)
                })*
            }
        }
    };
}

typed_methods! {
    Login => login,
    Authenticate => authenticate,
    ResolveApiKey => resolve_api_key,
    AuthenticateAnonymous => authenticate_anonymous,
    Authorise => authorise,
    AuthoriseMany => authorise_many,
    Explain => explain,
    Whoami => whoami,
    ChangePassword => change_password,
    CreateUser => create_user,
    ListUsers => list_users,
    GetUser => get_user,
    UpdateUser => update_user,
    DisableUser => disable_user,
    EnableUser => enable_user,
    RevokeUserTokens => revoke_user_tokens,
    DeleteUser => delete_user,
    ResetPassword => reset_password,
    CreateApiKey => create_api_key,
    ListApiKeys => list_api_keys,
    RevokeApiKey => revoke_api_key,
    CreateWorkspace => create_workspace,
    ListMyWorkspaces => list_my_workspaces,
    ListWorkspaces => list_workspaces,
    GetWorkspace => get_workspace,
    UpdateWorkspace => update_workspace,
    DisableWorkspace => disable_workspace,
    GetSigningKeyPublic => get_signing_key_public,
    GetJwks => get_jwks,
    RotateSigningKey => rotate_signing_key,
    RetireSigningKey => retire_signing_key,
    Bootstrap => bootstrap,
    BootstrapStatus => bootstrap_status,
}

#[test]
fn every_operation_has_a_method_of_its_name() {
    for operation in OperationName::ALL {
        assert_eq!(method_of(*operation), operation.as_str().replace('-', "_"));
    }
}

#[test]
fn every_method_asks_for_its_own_operation() {
    for operation in OperationName::ALL {
        let asks = format!("OperationName::{operation:?},");
        let calls: Vec<&str> = NOUNS
            .iter()
            .flat_map(|source| source.split("pub async fn ").skip(1))
            .filter(|method| method.contains(&asks))
            .filter_map(|method| method.split('(').next())
            .collect();
        assert_eq!(calls, [method_of(*operation)], "who asks for {operation}");
    }
}
