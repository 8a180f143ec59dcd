//! Rules over values: synchronous and pure. No store, bus, clock, wire or async in here.

pub mod policy;

pub mod caller;
pub mod decision;
pub mod dominance;

pub mod users;
pub mod workspaces;

pub mod api_keys;
pub mod key_ring;

pub mod shown;

pub mod passwords;
pub mod throttle;
