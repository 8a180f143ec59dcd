//! The one test binary.

mod audit;
mod bus;
mod cli;
mod clock;
mod cluster;
mod coverage;
mod crashes;
mod dispatch;
mod gateway;
mod golden;
mod guessing;
mod hostile;
mod http;
mod memory;
mod model;
mod races;
mod scenarios;
mod secrets;
mod service;
mod store;
mod tidy;
