//! Hashing, sealing, signing. Randomness comes in as an argument.

pub mod api_keys;
pub mod passwords;
pub mod seal;
pub mod tokens;
