//! The built binary, run as people and scripts run it.

mod answers;
mod check;
mod explain;
mod observe;
mod program;
mod real;
mod usage;
