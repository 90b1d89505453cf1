//! What a mesh is told to do, as values that are valid by type.
//!
//! Raw text becomes a [`Snapshot`] in one step, [`parse`]; whatever cannot be right is refused there, with its
//! place in the file. After that step no code has to ask again whether a weight is in range or an address is
//! virtual. The crate does no I/O, knows no clock and has no unsafe code.
#![forbid(unsafe_code)]

pub mod api;
pub mod control;
mod diagnostic;
pub mod http;
mod maglev;
mod parse;
mod schema;
mod service;

pub use diagnostic::{Diagnostic, Diagnostics, Position, Severity};
pub use parse::{Source, parse};
pub use schema::{json_schema, reference};
pub use service::*;
