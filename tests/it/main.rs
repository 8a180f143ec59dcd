//! The one test binary.

mod coverage;
mod golden;
mod scenarios;
mod store;
mod tidy;
