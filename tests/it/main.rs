//! The one test binary.

mod golden;
mod scenarios;
