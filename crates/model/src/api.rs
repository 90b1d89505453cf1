//! What the agent says over its API, and the CLI and the tests read: one set of types for all three.
//!
//! JSON over HTTP on a unix socket. Durations are seconds as floats, times are seconds since the Unix epoch, sizes
//! are bytes; absent means unknown or not applicable.

use std::collections::BTreeMap;
use std::net::SocketAddr;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::{Budgets, Diagnostic, Mode, Protocol};

/// `GET /v1/status`.
#[derive(Clone, Debug, Serialize, Deserialize, JsonSchema)]
pub struct Status {
    /// Version of the agent.
    pub version: String,
    /// Process id of the agent.
    pub pid: u32,
    /// Name of the instance, `default` unless given.
    pub instance: String,
    /// When the agent started.
    pub started: f64,
    /// Cgroups that are meshed.
    pub cgroups: Vec<String>,
    /// Folder in bpffs that holds programs, links and maps.
    pub pins: String,
    /// Whether the agent found and adopted a data path when it started.
    pub adopted: bool,
    /// Where the running state came from.
    pub config: ConfigStatus,
    /// Sizes the maps were made with.
    pub budgets: Budgets,
    /// How much of them is in use.
    pub usage: Usage,
    /// Kernel programs, by hook.
    pub programs: Vec<Program>,
    /// Kernel memory of all maps and programs together, in bytes.
    pub kernel_memory: u64,
    /// Events of the data path that should be zero, by reason.
    pub anomalies: BTreeMap<String, u64>,
}

/// The state of the configuration.
#[derive(Clone, Debug, Default, Serialize, Deserialize, JsonSchema)]
pub struct ConfigStatus {
    /// File that is watched.
    pub file: Option<String>,
    /// What is in force: `file`, `applied` (by `alize apply FILE`) or `adopted` (pinned state, nothing read yet).
    pub source: String,
    /// When it came into force.
    pub applied: Option<f64>,
    /// How many times a state came into force since the agent started.
    pub generation: u64,
    /// Why the last attempt was refused; absent when the last attempt is in force.
    pub refused: Vec<Diagnostic>,
    /// When it was refused.
    pub refused_at: Option<f64>,
    /// Remarks about what is in force.
    pub warnings: Vec<Diagnostic>,
}

/// What is loaded against the [`Budgets`].
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct Usage {
    /// Services.
    pub services: u32,
    /// Service addresses.
    pub frontends: u32,
    /// Endpoints, those that are removed but still hold connections included.
    pub endpoints: u32,
    /// Entries of balancing tables.
    pub slots: u32,
}

/// One kernel program.
#[derive(Clone, Debug, Serialize, Deserialize, JsonSchema)]
pub struct Program {
    /// Its name, which is also its pin's.
    pub name: String,
    /// Kernel id, as `bpftool prog` shows it.
    pub id: u32,
    /// `on`, or `off: ` and why.
    pub state: String,
}

/// Counters of a service or of an endpoint, since its maps were made.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct Traffic {
    /// Connections (TCP) or flows (UDP) that were given to it.
    pub connections: u64,
    /// TCP connections that were established.
    pub established: u64,
    /// Connections and flows open now; UDP flows of connected sockets only.
    pub open: u64,
    /// Failed connects, by reason: `refused`, `timeout`, `unreachable`, `reset`, `aborted`, `other`.
    pub failures: BTreeMap<String, u64>,
    /// Bytes from clients to endpoints.
    pub bytes_sent: u64,
    /// Bytes from endpoints to clients.
    pub bytes_received: u64,
    /// Retransmitted TCP segments.
    pub retransmits: u64,
    /// Mean of the smoothed round-trip times that were sampled.
    pub smoothed_rtt: Option<f64>,
}

/// One service, `GET /v1/services` and `GET /v1/services/{name}`.
#[derive(Clone, Debug, Serialize, Deserialize, JsonSchema)]
pub struct ServiceStatus {
    /// Its name.
    pub name: String,
    /// Number under which the kernel knows it.
    pub id: u32,
    /// What it speaks.
    pub protocol: Protocol,
    /// How far the mesh goes.
    pub mode: Mode,
    /// Addresses that clients dial.
    pub addresses: Vec<SocketAddr>,
    /// `weighted-random`, `round-robin`, `least-connections` or `maglev`.
    pub balance: String,
    /// Affinity timeout.
    pub affinity: Option<f64>,
    /// Endpoints that take new connections.
    pub usable: u32,
    /// All its counters.
    pub traffic: Traffic,
    /// Connects refused at once, by reason.
    pub refused: BTreeMap<String, u64>,
    /// In mode `shadow`: what would have been done, by verdict (`balanced`, or a reason for refusal).
    pub shadow: BTreeMap<String, u64>,
    /// Its endpoints.
    pub endpoints: Vec<EndpointStatus>,
}

/// One endpoint of a service.
#[derive(Clone, Debug, Serialize, Deserialize, JsonSchema)]
pub struct EndpointStatus {
    /// Where it listens.
    pub address: SocketAddr,
    /// Number under which the kernel knows it.
    pub id: u32,
    /// Its weight in the file.
    pub weight: u16,
    /// Its share of new connections now, 0 to 1, as the balancing table has it.
    pub share: f64,
    /// Its labels.
    pub labels: BTreeMap<String, String>,
    /// `active`, `draining`, `unhealthy`, `ejected` or `removed` (connections are still open).
    pub state: String,
    /// Why it is in that state, where there is a reason beyond the file.
    pub reason: Option<String>,
    /// Its counters.
    pub traffic: Traffic,
}

/// Something that changed, `GET /v1/events` (one JSON object a line).
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct Event {
    /// Seconds since the Unix epoch.
    pub time: f64,
    /// `config`, `health`, `ejection`, `endpoint`, `connect-failed`, `refused` or `agent`.
    pub kind: String,
    /// The service concerned.
    pub service: Option<String>,
    /// The endpoint concerned.
    pub endpoint: Option<SocketAddr>,
    /// What happened and why, for people.
    pub message: String,
    /// Process that made the connect, where there is one.
    pub pid: Option<u32>,
    /// Its name.
    pub comm: Option<String>,
}

/// Answer to `POST /v1/apply`.
#[derive(Clone, Debug, Serialize, Deserialize, JsonSchema)]
pub struct Applied {
    /// The generation that is now in force.
    pub generation: u64,
    /// Services added, changed, removed and left alone.
    pub added: u32,
    /// Services changed.
    pub changed: u32,
    /// Services removed.
    pub removed: u32,
    /// Services left alone.
    pub unchanged: u32,
    /// How long writing the kernel maps took, in seconds.
    pub seconds: f64,
    /// Remarks about the file.
    pub warnings: Vec<Diagnostic>,
}

/// Any refusal; HTTP status 4xx or 5xx.
#[derive(Clone, Debug, Serialize, Deserialize, JsonSchema)]
pub struct Refusal {
    /// What happened, to which object, and what to check.
    pub error: String,
    /// Places in the file, when a file was refused.
    pub diagnostics: Vec<Diagnostic>,
}
