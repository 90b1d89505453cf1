//! HTTP routed in the kernel, request by request: the tables that programs route by, and the sockets they route between.
//!
//! The agent keeps the tables ([`tables`]); the proxy owns the sockets and lends them to the kernel ([`Router`]). What the
//! programs do not take reaches the proxy by TCP, with a reason.

pub(crate) mod abi;
#[cfg(test)]
mod alike;
mod counters;
mod limits;
mod loads;
mod lower;
mod netns;
pub(crate) mod programs;
pub(crate) mod router;
mod shared;
pub(crate) mod tables;
mod totals;

use std::path::PathBuf;

use crate::pin::Pins;
use crate::{Error, Options};

pub use counters::{Passed, Routed, RouterCounters};
pub use limits::{Draw, Limits, Rate};
pub use loads::{Load, Loads};
pub use netns::netns_cookie;
pub use router::{
    Armed, Event, Front, Lent, Predecessor, Rest, Router, RouterOptions, Slot, SlotState, reason_name,
};
pub use totals::socket_totals;

/// Where the instance has its pins.
fn pins(options: &RouterOptions) -> Result<Pins, Error> {
    Pins::new(&Options {
        instance: options.instance.clone(),
        bpffs: options.bpffs.clone(),
        run_dir: PathBuf::new(),
        cgroups: Vec::new(),
        budgets: alize_model::Budgets::default(),
    })
}
