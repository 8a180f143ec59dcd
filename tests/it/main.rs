//! The one test binary.

mod bus;
mod cli;
mod clock;
mod coverage;
mod crashes;
mod golden;
mod scenarios;
mod service;
mod store;
mod tidy;
