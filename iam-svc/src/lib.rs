//! The worker: an identity and access service on a message bus.

pub mod clock;
pub mod entropy;
pub mod error;

pub mod domain;

pub mod crypto;
pub mod store;
