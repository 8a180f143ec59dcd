//! A model of the protocol as plain maps, and random sequences of operations that hold the service to it.
//!
//! The model is written from the text of the protocol and shares nothing with the service but the wire records: an
//! oracle that shared code with what it judges would prove nothing. It says of every request how it must be
//! answered: with which record, or refused with which kind of error.
//!
//! - [`policy`]: roles and capabilities, as tables
//! - [`state`]: users, workspaces, keys, tokens and the ring, each with its past
//! - [`ask`]: requests, as values that can be shrunk
//! - [`request`]: how they become text, and go over the wire
//! - [`rules`]: what the protocol says to each request
//! - [`expect`]: an expected answer beside the one that came
//! - [`bus`]: change events between replicas, delayed, doubled, reordered and lost
//! - [`ground`]: the store under the replicas, of either backend
//! - [`steps`]: sequences, and how they are made up
//! - [`run`]: a sequence played against the service in process
//! - [`campaign`]: many sequences, their outcomes counted, a failing one shrunk
//!
//! What a replica may know late: a record's past is kept, and of each replica from which version on it must know
//! it. An answer out of memory may rest on any version from there, and on nothing older; with every event
//! delivered, or floors given, there is one such version.

pub mod policy;
pub mod state;

pub mod ask;
pub mod expect;
pub mod request;
pub mod rules;

pub mod bus;
pub mod steps;

pub mod campaign;
pub mod ground;
pub mod run;
