//! What the agent and the proxy say to each other over `/run/alize/<instance>.proxy.sock`: one JSON object a line.
//!
//! The agent connects; the proxy says [`FromProxy::Hello`] first. Every [`ToProxy`] but `Drain` has one answer, in
//! order. A proxy keeps its last state when the agent is gone, and takes the next agent's connection as it took the
//! first; the newest connection is the one that counts.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use serde::{Deserialize, Serialize};

use crate::{Service, ServiceName};

/// From the agent.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "kind", rename_all = "kebab-case")]
pub enum ToProxy {
    /// What is to be served from now on; answered by [`FromProxy::State`] or [`FromProxy::Error`].
    State(ProxyState),
    /// Answered by [`FromProxy::Counters`].
    Counters,
    /// A new proxy takes over the listeners and pools; answered by [`FromProxy::State`].
    Handover,
    /// Take no more connections, finish what runs, and end after `deadline` at the latest.
    Drain {
        /// Counted from when it is read.
        deadline: Duration,
    },
}

/// Everything that the proxy has to know: all services with `protocol: http`, in every mode, since routes may lead from
/// one to another. Whole each time; the proxy finds what changed.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct ProxyState {
    /// Grows with every state that an agent sends.
    pub generation: u64,
    /// Sorted by name.
    pub services: Vec<ProxyService>,
}

/// One service.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ProxyService {
    /// Number under which the kernel knows it.
    pub number: u32,
    /// Its rules; `http` is there. Its endpoints' weights and labels are here, their state is in `endpoints`.
    pub service: Arc<Service>,
    /// Those of `service.endpoints`, in the same order.
    pub endpoints: Vec<ProxyEndpoint>,
}

/// One endpoint as it is now.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ProxyEndpoint {
    /// Where it listens.
    pub address: SocketAddr,
    /// Number under which the kernel knows it.
    pub number: u32,
    /// Whether it takes new requests: neither draining, unhealthy nor ejected. Its weight may still be 0.
    pub usable: bool,
}

/// From the proxy.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(tag = "kind", rename_all = "kebab-case")]
pub enum FromProxy {
    /// Who answers; first on every connection.
    Hello(Hello),
    /// The state of this generation is in force.
    State {
        /// As it was sent.
        generation: u64,
    },
    /// What was counted since the proxy began.
    Counters(ProxyCounters),
    /// What was asked for could not be done; nothing has changed.
    Error {
        /// What happened, to which object, and what to check.
        error: String,
    },
}

/// Who answers on the control socket.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Hello {
    /// Version of the proxy.
    pub version: String,
    /// Its process.
    pub pid: u32,
    /// Generation of the state in force; 0 is none.
    pub generation: u64,
}

/// What the proxy has counted since it began.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct ProxyCounters {
    /// Connections of clients that are open.
    pub open: u64,
    /// Connections of clients that were accepted.
    pub accepted: u64,
    /// Idle connections to endpoints.
    pub idle: u64,
    /// What should not happen, by reason.
    pub anomalies: BTreeMap<String, u64>,
    /// By service; those without a request are left out.
    pub services: Vec<ServiceCounters>,
}

/// What was counted of one service.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct ServiceCounters {
    /// Its name.
    pub service: ServiceName,
    /// Requests alike in route and endpoint.
    pub requests: Vec<RequestCounters>,
    /// Why requests came to the proxy, by [`crate::http::Reason`] or the kernel's own reasons.
    pub reasons: BTreeMap<String, u64>,
    /// Answers that the proxy made itself, by reason.
    pub refused: BTreeMap<String, u64>,
    /// Further tries.
    pub retries: u64,
}

/// Requests of one service that are alike.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct RequestCounters {
    /// The route's name; absent when there was none (404).
    pub route: Option<Arc<str>>,
    /// Who answered; absent when the proxy did.
    pub endpoint: Option<SocketAddr>,
    /// Requests by the first digit of the status; `[0]` are those that ended without a response.
    pub statuses: [u64; 6],
    /// Bodies of requests.
    pub request_bytes: u64,
    /// Bodies of responses.
    pub response_bytes: u64,
    /// Seconds from the head of a request to the end of its response, added up.
    pub latency_sum: f64,
    /// Latencies in exponential buckets, four an octave: numbers and counts of those that are not empty. Bucket `i`
    /// ends at 2^((i - 71) / 4) seconds, as in [`crate::api::TrafficSeries`].
    pub buckets: BTreeMap<u32, u64>,
}
