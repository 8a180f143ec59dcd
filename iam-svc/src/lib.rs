//! The worker: an identity and access service on a message bus.

pub mod dispatch;

pub mod cache;
pub mod ops;

pub mod domain;

pub mod crypto;
pub mod store;

pub mod clock;
pub mod ctx;
pub mod entropy;
pub mod error;
