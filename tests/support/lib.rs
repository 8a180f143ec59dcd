//! What the tests are made of: builders of values and the suite that every backend must pass; a world in
//! process, a deployment on real NATS, and scenes played in either.

pub mod sample;
pub mod store_suite;

pub mod campaign;
pub mod canary;
pub mod cassandra;
pub mod cassandra_nodes;
pub mod cql_proxy;
pub mod crash_disk;
pub mod damage;
pub mod disk_faults;
pub mod fuzz;

pub mod deployment;
pub mod facts;
pub mod faulty;
pub mod gateway;
pub mod gateway_model;
pub mod http;
pub mod http_gateway;
pub mod model;
pub mod nats_server;
pub mod proxy;
pub mod scene;
pub mod schedule;
pub mod terminal;
pub mod websocket;
pub mod world;

pub use deployment::Deployment;
pub use http_gateway::HttpGateway;
pub use scene::{Reply, Scene, Wire};
pub use world::World;
