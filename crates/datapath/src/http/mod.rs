//! HTTP routed in the kernel, request by request: the tables that programs route by, and the sockets they route between.
//!
//! The agent keeps the tables ([`tables`]); the proxy owns the sockets and lends them to the kernel ([`Router`]). What the
//! programs do not take reaches the proxy by TCP, with a reason.

pub(crate) mod abi;
#[cfg(test)]
mod alike;
mod counters;
mod lower;
mod netns;
pub(crate) mod programs;
mod router;
mod shared;
pub(crate) mod tables;
mod totals;

pub use counters::{Passed, Routed, RouterCounters};
pub use netns::netns_cookie;
pub use router::{
    Armed, Event, Front, Lent, Predecessor, Rest, Router, RouterOptions, Slot, SlotState, reason_name,
};
pub use totals::socket_totals;
