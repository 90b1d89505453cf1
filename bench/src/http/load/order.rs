//! What the bench tells its load generator and what it answers: one JSON object a line, over pipes.

use std::net::SocketAddrV4;

use serde::{Deserialize, Serialize};

use crate::http::latency::Recorded;

/// One slice of load.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub(crate) struct Order {
    pub(crate) target: SocketAddrV4,
    /// Everything of a request, to the empty line.
    pub(crate) request: String,
    /// Length of the body that every response must have.
    pub(crate) body: u64,
    pub(crate) connections: usize,
    pub(crate) pace: Pace,
    /// A connection for each request, instead of connections that stay.
    pub(crate) short: bool,
    /// Seconds before the measured time.
    pub(crate) warm_up: f64,
    /// Length of the measured time.
    pub(crate) seconds: f64,
}

#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub(crate) enum Pace {
    /// The next request as soon as a response is complete.
    Saturate,
    /// So many requests a second, whatever becomes of them.
    Rate(f64),
}

#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub(crate) enum Answer {
    /// The measured time begins.
    Begun,
    /// The measured time is over.
    Ended,
    Loaded(Loaded),
    Failed(String),
}

/// What a slice of load did.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub(crate) struct Loaded {
    /// Responses completed in the measured time.
    pub(crate) completed: u64,
    /// Responses completed in the whole slice: what a server's log must show.
    pub(crate) all_completed: u64,
    /// Requests that were sent and got no response, or waited for a connection to the end.
    pub(crate) unfinished: u64,
    /// Length of the measured time.
    pub(crate) seconds: f64,
    pub(crate) errors: u64,
    pub(crate) first_error: Option<String>,
    /// Nanoseconds from when a request was due (at a rate) or sent (at saturation) to the end of its response.
    pub(crate) latency: Recorded,
}
