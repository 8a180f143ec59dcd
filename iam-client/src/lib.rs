//! The client of `iam-svc`: one typed async method per operation of the protocol.
//!
//! ```no_run
//! # async fn first_request() -> Result<(), Box<dyn std::error::Error>> {
//! use iam_client::schema::Secret;
//! use iam_client::{Client, Connection};
//!
//! let client = Client::connect(&Connection::to(["nats://127.0.0.1:4222"])).await?;
//! if client.bootstrap_status().await? {
//!     println!("this deployment is still empty");
//! }
//! let me = client.with_credential(Secret::new(std::env::var("IAM_CREDENTIAL")?)).whoami().await?;
//! println!("{} of workspace {}", me.username, me.workspace);
//! # Ok(())
//! # }
//! ```
//!
//! Code map, in reading order:
//!
//! - [`Connection`]: how to reach NATS
//! - [`Client`]: who asks, on which plane, how long it waits; [`Client::call`] is one request
//! - [`users`], [`workspaces`], [`api_keys`], [`sessions`], [`signing_keys`], [`bootstrap`], [`decisions`]: the
//!   operations by noun
//! - [`pages`]: lists come a page at a time; the `all_…` methods fetch every page
//! - [`gateway`]: [`gateway::Gateway`], what an enforcement point asks
//! - [`error`]: what can go wrong, and whether it pays to try again
//! - [`program`]: what the programs around the bus have in common (feature `program`)
//!
//! It is built from `iam-schema` alone and knows nothing of the service's inside. A client caches nothing and retries
//! nothing: every method is one request, and the caller decides about the next. A gateway does both. The `iam` command
//! in `bin/iam` is the first user; libraries turn the feature `cli` off and compile none of that.

mod client;
mod connection;

pub mod api_keys;
pub mod bootstrap;
pub mod decisions;
pub mod sessions;
pub mod signing_keys;
pub mod users;
pub mod workspaces;

#[cfg(feature = "gateway")]
pub mod gateway;

pub mod error;
pub mod pages;

#[cfg(feature = "program")]
pub mod program;

mod reply;

#[cfg(test)]
mod coverage;

pub use client::{Client, read_reply};
pub use connection::{Connection, NatsLogin, Tls};
pub use error::{ClientError, ConnectError};
pub use iam_schema as schema;
