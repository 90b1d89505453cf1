//! The built binary, run as people and scripts run it.

mod answers;
mod check;
mod explain;
mod gateway;
mod mode;
mod nginx;
mod observe;
mod program;
mod proxy;
mod real;
mod tls;
mod upgrade;
mod usage;
