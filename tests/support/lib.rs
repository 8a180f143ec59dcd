//! What the tests are made of: a world in process, a deployment on real NATS, and scenes played in either.

pub mod deployment;
pub mod scene;
pub mod world;

pub use deployment::Deployment;
pub use scene::{Reply, Scene, Wire};
pub use world::World;
