//! The user-space half of the mesh's HTTP path: it serves what the kernel does not take, by the same route table.
//!
//! ```text
//! client ─▶ front ─▶ route ─▶ back ─▶ endpoint
//!           sleeps    find, filters,   pools of idle HTTP/1 connections,
//!           between   tries, limits    shared HTTP/2 connections
//!           exchanges
//! ```
//!
//! A process of its own, with one thread. A front connection that sleeps is a descriptor and a small record; buffers and
//! parsers are made when bytes arrive. HTTP/1 is read and written here, because of that and because each byte on a front
//! connection has to be counted; HTTP/2 is hyper's.
//!
//! What is promised: a message that could be read in two ways is refused before a byte of it is forwarded; a request that
//! may have been processed is not sent again unless that does no harm; nothing is buffered without a bound; another
//! proxy of the same instance takes over without a connection reset.
#![forbid(unsafe_code)]

mod back;
mod body;
mod control;
mod counters;
mod error;
mod front;
#[doc(hidden)]
pub mod fuzz;
mod handover;
mod keep;
mod kernel;
mod listen;
mod proxy;
mod reason;
mod route;
mod routed;
mod run;
mod socket;
mod wire;

pub use error::Error;
pub use front::Outcome;
pub use keep::Store;
pub use kernel::{Accepted, Client, Fixed, InForce, Kernel, Netns, Resting, Standing};
pub use proxy::Limits;
pub use reason::Reason;
pub use routed::{Meshed, Routed, RoutedError};
pub use run::{ENVIRONMENT, Handle, Options, Ready, run};
