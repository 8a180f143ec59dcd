//! What the programs around the bus have in common: settings, exit codes, logs, health endpoints.
//!
//! `iam-svc` and `iam-gateway` are set up, watched and ended in one and the same way, since this is the only one.
//!
//! - [`settings`]: a program's table of settings, which makes its flags and its `--help`
//! - [`reader`]: looks settings up in flags, environment and file, and gathers what is wrong with them
//! - [`nats`]: the settings of the connection to NATS
//! - [`logs`]: where they go, and what may not be shown in them
//! - [`health`]: `/livez`, `/readyz` and `/metrics`
//! - [`process`]: no core dumps, and when to end
//! - [`exit`]: why a program ends

pub mod exit;
pub mod health;
pub mod logs;
pub mod nats;
pub mod process;
pub mod reader;
pub mod settings;
