//! Requests, as values that can be shrunk: who asks for what, about the k-th user, key or token so far.

use iam_schema::OperationName;
use iam_schema::subject::Plane;

/// Whom a request names.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Whom {
    /// The k-th of all users so far, who may be gone.
    Kth(u8),
    /// The actor, or the holder of the credential.
    Oneself,
    Missing,
    Nobody,
    Malformed,
}

/// A user that was named, once it is clear which.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Named {
    Missing,
    Malformed,
    /// No user, or none any more.
    Nobody,
    User(usize),
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Place {
    Missing,
    At(u8),
    /// The home of the user that the request is about.
    Home,
    Malformed,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Name {
    /// From the list, in capitals if so said.
    Pool(u8, bool),
    Of(Whom, bool),
    Missing,
    Malformed,
    /// Of the form of an id.
    Id,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Password {
    /// That of the user it is about, if there is one.
    Right,
    Strong(u8),
    Weak(u8),
    Missing,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Credential {
    Missing,
    /// The k-th key or token so far.
    Key(u8),
    Token(u8),
    /// The newest key, or token, of a user.
    KeyOf(u8),
    TokenOf(u8),
    /// Something that never was one.
    Junk(u8),
    /// A header that is no bearer's, or more than one.
    OtherScheme,
    Twice,
}

/// A credential, once it is clear which.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Held {
    Key(usize),
    Token(usize),
    Nothing,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Target {
    Absent,
    Empty,
    At(Place),
    Elsewhere,
    Null,
    Number,
    EmptyText,
    Unknown,
    Broken,
    List,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Page {
    /// 0 is absent.
    pub size: u16,
    /// Goes on with the k-th list that is being read.
    pub after: Option<u8>,
    pub bad_token: bool,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Profile {
    /// Bits of the list of roles; `None` is absent.
    pub roles: Option<u16>,
    pub name: Option<u8>,
    pub email: Option<u8>,
    pub enabled: Option<bool>,
    pub must_change: Option<bool>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kid {
    Active,
    Kth(u8),
    Nobody,
    Missing,
}

/// When a key ends: never, at a time that cannot be read, or so many seconds from now.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Expiry {
    Never,
    Malformed,
    In(i32),
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Call {
    Login(Name, Password, Place),
    Authenticate(Credential),
    ResolveApiKey(Credential),
    AuthenticateAnonymous,
    Authorise(Whom, Option<Credential>, u8, Target, Target),
    AuthoriseMany(Whom, Option<Credential>, Vec<(u8, Target, Target)>),
    Explain(Whom, Option<Name>, u8, Target, Target),
    Whoami,
    ChangePassword(Whom, Password, Password),
    CreateUser(Place, Name, Password, Profile),
    ListUsers(Place, Page),
    GetUser(Whom, Option<Name>, Place),
    UpdateUser(Whom, Option<Name>, Option<Password>, Profile, Place),
    DisableUser(Whom, Place),
    EnableUser(Whom, Place),
    RevokeUserTokens(Whom, Place),
    DeleteUser(Whom, Place),
    ResetPassword(Whom, Place),
    CreateApiKey(Whom, Option<u8>, Expiry, Place),
    ListApiKeys(Whom, Place, Page),
    RevokeApiKey(Option<u8>, Place),
    CreateWorkspace(Place, Option<u8>, Option<bool>),
    ListMyWorkspaces(Page),
    ListWorkspaces(Page),
    GetWorkspace(Place),
    UpdateWorkspace(Place, Option<u8>, Option<bool>),
    DisableWorkspace(Place),
    GetSigningKeyPublic,
    GetJwks,
    RotateSigningKey,
    RetireSigningKey(Kid),
    Bootstrap,
    BootstrapStatus,
}

/// What a request asks to be no older than.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Floors {
    None,
    /// Everything that was acknowledged and that the replica may not have heard of.
    Acknowledged,
    /// A version of a user that there has not been.
    Ahead(u8),
    Malformed,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Ask {
    pub plane: Plane,
    /// On the service plane who is acted for; on the API plane to be overwritten.
    pub actor: Whom,
    pub credential: Credential,
    pub floors: Floors,
    pub call: Call,
}

impl Call {
    /// Whom it is about, where it names a user by id.
    pub fn about(&self) -> Option<Whom> {
        match self {
            Call::Authorise(whom, ..)
            | Call::AuthoriseMany(whom, ..)
            | Call::Explain(whom, ..)
            | Call::ChangePassword(whom, ..)
            | Call::GetUser(whom, ..)
            | Call::UpdateUser(whom, ..)
            | Call::DisableUser(whom, _)
            | Call::EnableUser(whom, _)
            | Call::RevokeUserTokens(whom, _)
            | Call::DeleteUser(whom, _)
            | Call::ResetPassword(whom, _)
            | Call::CreateApiKey(whom, ..)
            | Call::ListApiKeys(whom, ..) => Some(*whom),
            _ => None,
        }
    }

    pub fn operation(&self) -> OperationName {
        match self {
            Call::Login(..) => OperationName::Login,
            Call::Authenticate(_) => OperationName::Authenticate,
            Call::ResolveApiKey(_) => OperationName::ResolveApiKey,
            Call::AuthenticateAnonymous => OperationName::AuthenticateAnonymous,
            Call::Authorise(..) => OperationName::Authorise,
            Call::AuthoriseMany(..) => OperationName::AuthoriseMany,
            Call::Explain(..) => OperationName::Explain,
            Call::Whoami => OperationName::Whoami,
            Call::ChangePassword(..) => OperationName::ChangePassword,
            Call::CreateUser(..) => OperationName::CreateUser,
            Call::ListUsers(..) => OperationName::ListUsers,
            Call::GetUser(..) => OperationName::GetUser,
            Call::UpdateUser(..) => OperationName::UpdateUser,
            Call::DisableUser(..) => OperationName::DisableUser,
            Call::EnableUser(..) => OperationName::EnableUser,
            Call::RevokeUserTokens(..) => OperationName::RevokeUserTokens,
            Call::DeleteUser(..) => OperationName::DeleteUser,
            Call::ResetPassword(..) => OperationName::ResetPassword,
            Call::CreateApiKey(..) => OperationName::CreateApiKey,
            Call::ListApiKeys(..) => OperationName::ListApiKeys,
            Call::RevokeApiKey(..) => OperationName::RevokeApiKey,
            Call::CreateWorkspace(..) => OperationName::CreateWorkspace,
            Call::ListMyWorkspaces(_) => OperationName::ListMyWorkspaces,
            Call::ListWorkspaces(_) => OperationName::ListWorkspaces,
            Call::GetWorkspace(_) => OperationName::GetWorkspace,
            Call::UpdateWorkspace(..) => OperationName::UpdateWorkspace,
            Call::DisableWorkspace(_) => OperationName::DisableWorkspace,
            Call::GetSigningKeyPublic => OperationName::GetSigningKeyPublic,
            Call::GetJwks => OperationName::GetJwks,
            Call::RotateSigningKey => OperationName::RotateSigningKey,
            Call::RetireSigningKey(_) => OperationName::RetireSigningKey,
            Call::Bootstrap => OperationName::Bootstrap,
            Call::BootstrapStatus => OperationName::BootstrapStatus,
        }
    }

    /// Whether it is answered from memory where that is warm.
    pub fn from_memory(&self) -> bool {
        matches!(
            self,
            Call::Authenticate(_)
                | Call::ResolveApiKey(_)
                | Call::AuthenticateAnonymous
                | Call::Authorise(..)
                | Call::AuthoriseMany(..)
        )
    }
}
