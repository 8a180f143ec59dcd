//! What runs without the bus.

pub mod check;
pub mod migrate_store;
pub mod recover_admin;
