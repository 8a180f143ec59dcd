//! The wire contract of `iam-svc`, version 1, and nothing else.
//!
//! Whoever talks to the service over NATS, in whatever role, needs this crate alone: gateways, clients, the
//! command line and the service itself. There is no async code, no I/O and no policy in here.
//!
//! Code map, in reading order:
//!
//! - [`operation`]: the closed list of operations, and what each needs of its caller
//! - [`envelope`]: [`IamRequest`] and [`IamResponse`], the two records on the bus
//! - [`users`], [`workspaces`], [`api_keys`], [`decisions`]: inputs and records per noun
//! - [`error`]: the closed set of error kinds
//! - [`codec`]: bytes to records and back, MessagePack and JSON, with one strictness for both
//! - `tokens`, a feature: what a token says and how it is verified
//! - [`subject`]: subjects, queue group and header names
//! - [`changes`]: change events, version floors, and how a consumer follows them
//! - [`audit`]: audit events
//! - [`ids`], [`secret`], [`time`]: the small types that everything is made of
//!
//! Compatibility rules: a field is never renamed and never changes its type; new fields are optional and
//! unknown fields are ignored; an operation, once published, keeps its meaning.

pub mod operation;

pub mod envelope;

pub mod api_keys;
pub mod decisions;
pub mod users;
pub mod workspaces;

pub mod audit;
pub mod changes;
pub mod error;
pub mod subject;

pub mod codec;
#[cfg(feature = "tokens")]
pub mod tokens;

pub mod ids;
pub mod secret;
pub mod time;

pub use envelope::{IamRequest, IamResponse};
pub use error::{ErrorKind, WireError};
pub use ids::{KeyId, KeyKid, UserId, WorkspaceId};
pub use operation::{Needs, OperationName};
pub use secret::Secret;
pub use time::Timestamp;
