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
    /// The proxy; absent while no service needs it, or with `--proxy off`.
    #[serde(default)]
    pub proxy: Option<ProxyStatus>,
    /// Whether the kernel does what serving HTTP in it relies on; absent until that is known, a second after the start.
    #[serde(default)]
    pub conformance: Option<Conformance>,
    /// A version of the kernel programs that some have on trial; `GET /v1/trial` has its counters.
    #[serde(default)]
    pub trial: Option<Box<Trial>>,
}

/// The proxy beside the agent.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct ProxyStatus {
    /// Its process; absent while it does not run.
    pub pid: Option<u32>,
    /// Its version.
    pub version: String,
    /// The state that it serves; grows with each change.
    pub generation: u64,
    /// What is wrong with it.
    pub problem: Option<String>,
}

/// What the start-up probe found: it is made once a boot, and again for another kernel or version.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct Conformance {
    /// The kernel's release.
    pub kernel: String,
    /// When it was made.
    pub time: f64,
    /// How long it took, in seconds.
    pub took: f64,
    /// Why HTTP is not served in the kernel; absent when nothing stands against it.
    pub obstacle: Option<String>,
    /// Why requests to endpoints on other hosts are not; absent when nothing stands against it.
    pub remote_obstacle: Option<String>,
    /// What was tried.
    pub checks: Vec<ConformanceCheck>,
}

/// One thing that was tried.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct ConformanceCheck {
    /// Its name, as in the metrics.
    pub name: String,
    /// What should happen.
    pub what: String,
    /// Whether HTTP is not served in the kernel without it; others are known limits.
    pub essential: bool,
    /// Whether requests to endpoints on other hosts are the proxy's without it.
    pub remote: bool,
    /// `passed`, `failed` or `not-run`.
    pub result: String,
    /// Why it did not pass.
    pub why: Option<String>,
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
    /// How often it was skipped, because it ran on that CPU already.
    #[serde(default)]
    pub skipped: u64,
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
    /// Its routes, in the order of the file; empty for a service that speaks no HTTP.
    #[serde(default)]
    pub routes: Vec<RouteStatus>,
    /// In mode `shadow`: what really became of these connections.
    #[serde(default)]
    pub shadow_seen: ShadowSeen,
    /// The mode was set by hand (`POST /v1/mode`) and holds in place of the file's.
    #[serde(default)]
    pub mode_override: Option<ModeOverride>,
    /// Its endpoints.
    pub endpoints: Vec<EndpointStatus>,
}

/// One route of a service.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct RouteStatus {
    /// Its name.
    pub name: String,
    /// Which requests it is for, one of them has to fit: `GET /api/* x-beta=1 ?q~[0-9]+`; `/old` is that path alone, `/api/*`
    /// it and what is below, `~` precedes a regular expression.
    pub matches: Vec<String>,
    /// Where it sends them; empty when it answers them itself.
    pub backends: Vec<BackendStatus>,
    /// What else it does, a few words each.
    pub does: Vec<String>,
    /// `kernel`, `proxy`, `both`, or `none`: other routes take all that it is for.
    pub path: String,
    /// Why requests go through the proxy.
    pub proxied: Vec<ProxiedStatus>,
    /// Requests by status class, `none` for those that ended without a response; those that were counted on either path.
    pub requests: BTreeMap<String, u64>,
}

/// Endpoints of a route, and their share.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct BackendStatus {
    /// `all` endpoints, those with labels such as `version=v2`, or those of another service.
    pub target: String,
    /// Its weight in the file.
    pub weight: u16,
    /// Its share of the route's requests, 0 to 1, if every backend has a usable endpoint.
    pub share: f64,
}

/// Why some requests go through the proxy.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct ProxiedStatus {
    /// The reason's name.
    pub reason: String,
    /// The same for people.
    pub because: String,
    /// Which of its requests, as far as their paths tell; empty: all of them.
    pub paths: Vec<String>,
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
    /// In mode `shadow`: connections that it would have got.
    #[serde(default)]
    pub would: u64,
    /// Its counters.
    pub traffic: Traffic,
}

/// What became of connections while their service was in mode `shadow`.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct ShadowSeen {
    /// Connections (TCP) or flows (UDP).
    pub connections: u64,
    /// TCP connections that were established.
    pub established: u64,
    /// Failed connects, by reason, as in [`Traffic`].
    pub failures: BTreeMap<String, u64>,
}

/// A mode that holds in place of the file's.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct ModeOverride {
    /// The mode in force.
    pub mode: Mode,
    /// What the file says.
    pub declared: Mode,
    /// When it was set.
    pub since: f64,
    /// When the file's holds again; never when absent.
    pub until: Option<f64>,
}

/// Answer to `POST /v1/upgrade`, `POST /v1/rollback` and `POST /v1/trial/promote`.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct Upgraded {
    /// Version and the beginning of the digest of what ran before.
    pub from: Vec<String>,
    /// Version of what runs now.
    pub version: String,
    /// SHA-256 of its manifest.
    pub digest: String,
    /// How it came about.
    pub steps: Vec<UpgradeStep>,
}

/// A step of an upgrade.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct UpgradeStep {
    /// `keep`, `plan`, `load`, `self-test`, `carry-over`, `note`, `gates`, `switch` or `pins`.
    pub name: String,
    /// What was done.
    pub done: String,
    /// How long it took, in seconds.
    pub seconds: f64,
}

/// A version of the kernel programs beside the one in force, for some. Answer to `GET` and `POST /v1/trial`.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct Trial {
    /// The version that is tried.
    pub version: Option<String>,
    /// SHA-256 of its manifest.
    pub digest: Option<String>,
    /// The cgroup whose processes have it.
    pub cgroup: Option<String>,
    /// Per cent of the dialled addresses that have it.
    pub share: u32,
    /// When it began, in seconds since the Unix epoch.
    pub begun: f64,
    /// What ends it.
    pub rule: TrialRule,
    /// Connects and datagrams that the version on trial refused, and anomalies of both since it began.
    pub errors: u64,
    /// By hook, those that ran.
    pub hooks: Vec<TrialHook>,
    /// Why either version refused or fell back, where one did.
    #[serde(default)]
    pub reasons: Vec<TrialReason>,
}

impl Trial {
    /// How much of HTTP each version left to the proxy, in per cent: of the messages that came to its program at the clients'
    /// sockets, and of the connections that never got that far. `None` of a version that does not count that, or saw none.
    pub fn fell_back(&self) -> (Option<f64>, Option<f64>) {
        (self.share(|hook| hook.old, |reason| reason.old), self.share(|hook| hook.new, |reason| reason.new))
    }

    /// Of how many messages and connections [`Trial::fell_back`] tells for the version on trial.
    pub fn http_seen(&self) -> u64 {
        self.seen(|hook| hook.new, |reason| reason.new)
    }

    fn share(
        &self,
        lane: fn(&TrialHook) -> TrialLane,
        count: fn(&TrialReason) -> Option<u64>,
    ) -> Option<f64> {
        if self.reasons.iter().any(|reason| count(reason).is_none()) {
            return None;
        }
        let fell_back = self.reasons.iter().filter(|reason| reason.instead == TrialInstead::FellBack);
        let fell_back: u64 = fell_back.filter_map(count).sum();
        let seen = self.seen(lane, count);
        (seen > 0).then(|| fell_back as f64 / seen as f64 * 100.0)
    }

    fn seen(&self, lane: fn(&TrialHook) -> TrialLane, count: fn(&TrialReason) -> Option<u64>) -> u64 {
        let messages = self.hooks.iter().find(|hook| hook.program == "alize_http_client");
        let connections = self.reasons.iter().filter(|reason| {
            reason.instead == TrialInstead::FellBack
                && matches!(reason.reason.as_str(), "no-proxy" | "not-eligible")
        });
        messages.map_or(0, |hook| lane(hook).calls) + connections.filter_map(count).sum::<u64>()
    }
}

/// What ends a trial without a word of anybody.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct TrialRule {
    /// Seconds after which all get the new version, if it has run at all.
    #[serde(default)]
    pub promote_after: Option<f64>,
    /// More errors than these give it up.
    #[serde(default)]
    pub max_errors: Option<u64>,
    /// A hook whose mean time is longer by more than so many per cent gives it up, once each version has run 1,000 times there.
    #[serde(default)]
    pub max_slower: Option<u32>,
    /// A share of HTTP left to the proxy that is larger than the other version's by more than so many per cent of all gives it up,
    /// once it has seen 100 messages.
    #[serde(default)]
    pub max_fallbacks: Option<u32>,
}

/// A hook while two versions run.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct TrialHook {
    /// The program.
    pub program: String,
    /// The version in force.
    pub old: TrialLane,
    /// The one on trial.
    pub new: TrialLane,
}

/// What a version did not do itself.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case")]
pub enum TrialInstead {
    /// The caller was told no.
    Refused,
    /// The kernel left it to the proxy, or balanced a connection as a whole for want of one.
    FellBack,
}

/// How often each version refused or fell back for a reason; absent of one that does not count that for itself.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct TrialReason {
    /// What it did.
    pub instead: TrialInstead,
    /// Why.
    pub reason: String,
    /// The version in force.
    pub old: Option<u64>,
    /// The one on trial.
    pub new: Option<u64>,
}

/// What one version did at a hook.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct TrialLane {
    /// Calls.
    pub calls: u64,
    /// Calls after which the caller heard an error.
    pub refused: u64,
    /// Calls whose time is known.
    pub timed: u64,
    /// Their time together, in nanoseconds.
    pub time_ns: u64,
}

impl TrialLane {
    /// Mean time of a call, in nanoseconds.
    pub fn mean_ns(&self) -> Option<f64> {
        (self.timed > 0).then(|| self.time_ns as f64 / self.timed as f64)
    }
}

/// Answer to `POST /v1/mode`.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct ModeChange {
    /// Its name.
    pub service: String,
    /// The mode in force now.
    pub mode: Mode,
    /// The mode before.
    pub before: Mode,
    /// What the file says.
    pub declared: Mode,
    /// When the file's holds again, if this one ends.
    pub until: Option<f64>,
}

/// Something that changed, `GET /v1/events` (one JSON object a line).
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct Event {
    /// Seconds since the Unix epoch.
    pub time: f64,
    /// `config`, `health`, `ejection`, `endpoint`, `connect-failed`, `refused`, `would-refuse` (mode `shadow`) or `agent`.
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

/// Who is at one end of a connection, told from the cgroup of its socket.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize, JsonSchema)]
pub struct Workload {
    /// Short name for people: `nginx.service`, `docker:0123456789ab`, or the path of the cgroup.
    pub name: String,
    /// `unit`, `container` or `cgroup`.
    pub kind: String,
    /// Path of the cgroup below the root of cgroup v2; a number when the cgroup is gone.
    pub cgroup: String,
    /// systemd unit that the cgroup lies in.
    pub unit: Option<String>,
    /// Whole id of the container.
    pub container: Option<String>,
    /// Name of the container, where its engine has told it.
    #[serde(default)]
    pub container_name: Option<String>,
    /// Who runs the container: `docker`, `containerd`, `podman`, `cri-o`; absent when its path does not tell.
    pub runtime: Option<String>,
    /// UID of the Kubernetes pod.
    pub pod: Option<String>,
}

/// One end of a request on this host.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct Peer {
    /// Its cgroup and what that tells.
    pub workload: Workload,
    /// The process that sent; absent when it was never seen sending.
    pub pid: Option<u32>,
    /// The user that made its socket.
    pub uid: Option<u32>,
    /// Name of its thread.
    pub comm: Option<String>,
    /// First word of the command line of its process, never an argument; its first 256 bytes. Absent when the process had
    /// ended before it could be asked.
    #[serde(default)]
    pub command: Option<String>,
}

/// An HTTP request and its response, as the kernel saw them.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct ObservedRequest {
    /// Names it for `alize explain --trace`: when it began, by the kernel's clock, and the port of its client.
    #[serde(default)]
    pub id: String,
    /// When its first byte went by, seconds since the Unix epoch.
    pub time: f64,
    /// Who asked; absent when that is not on this host or not observed.
    pub client: Option<Peer>,
    /// The client's address.
    pub client_address: SocketAddr,
    /// Who answered; absent when that is not on this host or not observed.
    pub server: Option<Peer>,
    /// The server's address, after balancing.
    pub endpoint: SocketAddr,
    /// The service that the client dialled, or else the one service that has this endpoint.
    pub service: Option<String>,
    /// Whether the kernel knows that the client dialled the service's own address. Otherwise the service follows from the
    /// endpoint, as it does for requests within TLS and for clients of other hosts.
    pub dialled: bool,
    /// The method; `_OTHER` when it is not a standard one.
    pub method: String,
    /// The Host field, its first 40 bytes.
    pub host: Option<String>,
    /// Target as it was sent, query included; its first 112 bytes.
    pub target: String,
    /// Whether there was more of the target.
    pub target_cut: bool,
    /// Absent when the connection ended before the response did.
    pub status: Option<u16>,
    /// Seconds from the first byte of the request to the last of the response.
    pub latency: f64,
    /// Seconds from then to the first byte of the response.
    pub first_byte: Option<f64>,
    /// Head and body of the request.
    pub request_bytes: u64,
    /// Head and body of the response.
    pub response_bytes: u64,
    /// Which way it took: `observed`, `kernel-l7`, `kernel-l4` or `proxy`.
    pub path_label: String,
    /// At whose socket it was seen: `client` or `server`.
    pub side: String,
    /// Not the first request of its connection.
    pub reused: bool,
    /// Sent before the response to the one before had ended.
    pub pipelined: bool,
    /// The connection ended within the response.
    #[serde(default)]
    pub broken: bool,
    /// `http/1` or `http/2`.
    #[serde(default)]
    pub protocol: String,
    /// Present for a call of gRPC.
    #[serde(default)]
    pub grpc: Option<ObservedCall>,
    /// Some of it was missed: the connection was there before it was observed, or heads were lost.
    #[serde(default)]
    pub partial: bool,
    /// The field of that name, as the application sent it.
    #[serde(default)]
    pub trace_parent: Option<String>,
}

/// What a call of gRPC has besides being a request.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct ObservedCall {
    /// The service, with its package.
    pub service: String,
    /// The method.
    pub method: String,
    /// `grpc-status` as a number; absent when the call ended without.
    pub status: Option<u8>,
    /// The name of the status, such as `NOT_FOUND`.
    pub status_name: Option<String>,
}

/// Something that happened to a TCP socket, as the kernel saw it.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct ObservedConnection {
    /// When, seconds since the Unix epoch.
    pub time: f64,
    /// `connected`, `accepted`, `failed`, `closed` or `retransmit`.
    pub event: String,
    /// Why it failed or ended: `refused`, `timeout`, `unreachable`, `reset-received`, `reset-sent`, `aborted` or `other`;
    /// absent when it ended in good order.
    pub reason: Option<String>,
    /// Which end this is: `client` or `server`.
    pub side: String,
    /// Whose socket it is.
    pub owner: Option<Peer>,
    /// The address of this end.
    pub local: SocketAddr,
    /// The address of the other end, after balancing.
    pub remote: SocketAddr,
    /// The one service that has the server's address as its endpoint.
    pub service: Option<String>,
    /// How long connecting took, or for `closed` how long the connection lived, in seconds; absent when not known.
    pub duration: Option<f64>,
    /// Bytes that the other end has acknowledged so far.
    pub bytes_sent: u64,
    /// Bytes received so far.
    pub bytes_received: u64,
    /// Segments sent again so far.
    pub retransmits: u32,
    /// Smoothed round-trip time in seconds.
    pub rtt: Option<f64>,
}

/// A DNS query and its response, as the kernel saw them.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct ObservedLookup {
    /// When the query was sent, seconds since the Unix epoch.
    pub time: f64,
    /// Who asked.
    pub client: Option<Peer>,
    /// From where.
    pub client_address: SocketAddr,
    /// The server that was asked.
    pub server: SocketAddr,
    /// The name, its first 128 bytes, without the last dot.
    pub name: String,
    /// Whether there was more of the name.
    pub name_cut: bool,
    /// `A`, `AAAA`, ...; `TYPE<number>` for the rest.
    pub query_type: String,
    /// `NOERROR`, `NXDOMAIN`, ...; absent when no response came.
    pub code: Option<String>,
    /// Records in the answer.
    pub answers: u16,
    /// Seconds to the response; for a query without one, how long was waited.
    pub latency: f64,
    /// `udp` or `tcp`.
    pub transport: String,
    /// Whether the server had more to say than fits a datagram.
    pub truncated: bool,
    /// Whether it was asked more than once.
    pub repeated: bool,
}

/// Requests that a trace asked for and did not get.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct Lost {
    /// The kernel's ring was full; those of all traces together.
    pub ring: u64,
    /// The reader of this trace was too slow.
    pub reader: u64,
    /// Held back by rate limits, of all traces that have one together.
    pub limited: u64,
}

/// One line of `GET /v1/trace`.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(tag = "kind", rename_all = "lowercase")]
pub enum TraceLine {
    /// A request.
    Request(Box<ObservedRequest>),
    /// Something that happened to a TCP socket.
    Tcp(Box<ObservedConnection>),
    /// A DNS query.
    Dns(Box<ObservedLookup>),
    /// Requests that are missing here.
    Lost(Lost),
}

/// `GET /v1/traffic`: what was counted of HTTP since the observing maps were made.
#[derive(Clone, Debug, Serialize, Deserialize, JsonSchema)]
pub struct TrafficReport {
    /// When it was read.
    pub time: f64,
    /// Whether the observing programs were attached just for this: then nothing was counted before.
    pub fresh: bool,
    /// Requests alike in who, whom, method, status class and, if asked for, path.
    pub series: Vec<TrafficSeries>,
    /// Requests for which there was no room for a series of their own.
    pub overflow: u64,
    /// Connections that are not followed, by reason.
    pub unfollowed: BTreeMap<String, u64>,
    /// What else happened, by name.
    pub events: BTreeMap<String, u64>,
}

/// Requests that are alike, added up.
#[derive(Clone, Debug, Serialize, Deserialize, JsonSchema)]
pub struct TrafficSeries {
    /// Who asked; absent when that is not on this host or not observed.
    pub source: Option<Workload>,
    /// The service that was dialled, or else the one service that has this endpoint.
    pub service: Option<String>,
    /// The server's address, after balancing.
    pub endpoint: SocketAddr,
    /// Who answered; absent when that is not on this host or not observed.
    pub destination: Option<Workload>,
    /// The method.
    pub method: String,
    /// Path without query, where `{n}`, `{uuid}` and `{hex}` stand for such segments; only if asked for.
    pub path: Option<String>,
    /// `1xx` to `5xx`, or `none`: the connection ended before the response did.
    pub status_class: String,
    /// Requests.
    pub count: u64,
    /// Those with a status of 500 or more, or without a response; calls of gRPC also by their own status.
    pub errors: u64,
    /// Heads and bodies of requests.
    pub request_bytes: u64,
    /// Heads and bodies of responses.
    pub response_bytes: u64,
    /// Sum of latencies in seconds, from the first byte of a request to the last of its response.
    pub latency_sum: f64,
    /// Median latency in seconds.
    pub p50: Option<f64>,
    /// 90 % were at most this slow.
    pub p90: Option<f64>,
    /// 99 % were at most this slow.
    pub p99: Option<f64>,
    /// Latencies in exponential buckets, four an octave: numbers and counts of those that are not empty. Bucket `i`
    /// ends at 2^((i - 71) / 4) seconds.
    pub buckets: BTreeMap<u32, u64>,
}

/// Any refusal; HTTP status 4xx or 5xx.
#[derive(Clone, Debug, Serialize, Deserialize, JsonSchema)]
pub struct Refusal {
    /// What happened, to which object, and what to check.
    pub error: String,
    /// Places in the file, when a file was refused.
    pub diagnostics: Vec<Diagnostic>,
}
