//! Worlds to test in: cgroups, network namespaces, real servers and real clients, on this machine and away from it.
//!
//! A [`World`] owns everything that it makes, under names that carry the process id, and removes it when dropped. What
//! a killed test has left is removed by the next world. Processes of a world are started in a [`Place`]: a cgroup and a
//! network namespace.

pub mod agent;
pub mod cgroup;
pub mod clients;
pub mod engines;
pub mod fleet;
pub mod http;
pub mod inside;
pub mod kernels;
pub mod leftovers;
pub mod mesh;
pub mod mounts;
pub mod network;
pub mod place;
pub mod process;
pub mod servers;
pub mod shell;
pub mod statistics;
pub mod tally;
pub mod torture;
pub mod traffic;
pub mod wait;
pub mod world;

pub use agent::{Agent, AgentOptions};
pub use cgroup::Cgroup;
pub use engines::Engines;
pub use fleet::{Kind, Server};
pub use mounts::Mounts;
pub use network::Namespace;
pub use place::Place;
pub use process::Process;
pub use tally::Tally;
pub use world::World;
