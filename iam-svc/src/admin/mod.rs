//! What runs without the bus.

pub mod check;
pub mod recover_admin;
