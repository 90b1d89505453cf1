//! What the bench tells its load generators and what they answer: one JSON object a line, over pipes.

use std::net::{Ipv4Addr, SocketAddrV4};

use serde::{Deserialize, Serialize};

use super::histogram::Quantiles;
use super::layout::{self, ENDPOINTS};

/// What a generator dials, drawn evenly for each connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub(crate) enum Targets {
    /// The addresses of so many services.
    Services(u32),
    /// The endpoints of so many services, without a mesh.
    Endpoints(u32),
}

impl Targets {
    pub(crate) fn count(self) -> u32 {
        match self {
            Targets::Services(count) => count,
            Targets::Endpoints(count) => count * ENDPOINTS,
        }
    }

    pub(crate) fn address(self, index: u32) -> SocketAddrV4 {
        match self {
            Targets::Services(_) => layout::service(index),
            Targets::Endpoints(_) => layout::endpoint(index / ENDPOINTS, index % ENDPOINTS),
        }
    }
}

/// One kind of load.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub(crate) enum Work {
    /// Connect, one request, one response, close.
    Short,
    /// Requests over connections that stay.
    KeepAlive,
    /// connect() of one UDP socket, again and again: no packet, the hook alone.
    UdpReconnect,
    /// A UDP socket made, connected and closed: with what the hook keeps on the socket.
    UdpConnect,
}

#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub(crate) enum Order {
    /// Sets the generator's own network namespace up; the interface is there already.
    Prepare,
    /// So many connections to each target, so that nothing later is the first of its kind.
    Visit { targets: Targets, udp: bool, times: u32 },
    /// A slice of load.
    Load {
        work: Work,
        targets: Targets,
        threads: u32,
        /// All threads stay on this CPU.
        cpu: Option<usize>,
        warm_up: f64,
        seconds: f64,
    },
    /// Connects a UDP socket to `service` without pause until the kernel gives it `source` as its own address.
    Watch { service: SocketAddrV4, source: Ipv4Addr, timeout: f64 },
}

#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub(crate) enum Answer {
    Done,
    Loaded(Loaded),
    /// The watch has begun.
    Watching,
    /// When the watch saw what it waited for, in nanoseconds of the monotonic clock.
    Seen(u64),
    Failed(String),
}

/// What a slice of load did.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(crate) struct Loaded {
    /// Connections or requests completed in the measured time.
    pub(crate) operations: u64,
    /// With those of the warm-up.
    pub(crate) all_operations: u64,
    /// Length of the measured time.
    pub(crate) seconds: f64,
    /// CPU time of the generator from beginning to end, in nanoseconds.
    pub(crate) cpu: u64,
    pub(crate) errors: u64,
    pub(crate) first_error: Option<String>,
    /// Time in connect(), in nanoseconds.
    pub(crate) connect: Option<Quantiles>,
    /// Time of a whole operation, in nanoseconds.
    pub(crate) whole: Option<Quantiles>,
}
