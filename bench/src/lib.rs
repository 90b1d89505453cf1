//! Measures Alizé beside what it replaces, on the machine it runs on.
//!
//! Subjects take turns, slice by slice and round by round, so that what slows the machine slows all. Everything happens
//! in network namespaces and cgroups that the bench makes and removes; the host's own tables are not touched.
#![forbid(unsafe_code)]
#![allow(clippy::print_stdout, reason = "commands that print tables")]

pub mod connect;
mod documents;
pub mod http;
mod machine;
mod process;
mod sheet;
mod statistics;
mod units;
mod world;
