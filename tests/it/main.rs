//! The one test binary.

mod cli;
mod coverage;
mod golden;
mod scenarios;
mod store;
mod tidy;
