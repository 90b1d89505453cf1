//! The built binary, run as people and scripts run it.

mod answers;
mod check;
mod gateway;
mod observe;
mod program;
mod proxy;
mod real;
mod usage;
