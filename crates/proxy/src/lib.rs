//! The user-space half of the mesh's HTTP path.
#![forbid(unsafe_code)]

mod socket;
mod wire;
