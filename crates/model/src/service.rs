//! Services, their endpoints and the rules of balancing: the types that everything else speaks.

use std::collections::BTreeMap;
use std::net::{IpAddr, SocketAddr};
use std::num::{NonZeroU8, NonZeroU16, NonZeroU32};
use std::sync::Arc;
use std::time::Duration;

use serde::{Deserialize, Deserializer, Serialize};

use crate::http::{Http, KernelTable, RouteTable};

/// The name of a service: `[a-z0-9]([a-z0-9._/-]*[a-z0-9])?`, at most 127 bytes.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize)]
pub struct ServiceName(Arc<str>);

impl ServiceName {
    /// The longest name, in bytes: the kernel keeps it in 128 bytes with its end mark.
    pub const MAX: usize = 127;

    /// Takes `name` if it is one; says what is wrong with it otherwise.
    pub fn new(name: &str) -> Result<Self, String> {
        let edge = |b: u8| b.is_ascii_lowercase() || b.is_ascii_digit();
        let inner = |b: u8| edge(b) || matches!(b, b'.' | b'_' | b'/' | b'-');
        let bytes = name.as_bytes();
        match (bytes.first(), bytes.last()) {
            (None, _) | (_, None) => return Err("a name cannot be empty".into()),
            (Some(&first), Some(&last)) if !edge(first) || !edge(last) => {
                return Err(format!("name {name:?} must begin and end with a lower-case letter or a digit"));
            }
            _ => {}
        }
        if let Some(&bad) = bytes.iter().find(|b| !inner(**b)) {
            return Err(format!(
                "name {name:?} holds {:?}; only a-z, 0-9, '.', '_', '/' and '-' are allowed",
                char::from(bad)
            ));
        }
        if bytes.len() > Self::MAX {
            return Err(format!("name of {} bytes is longer than {}", bytes.len(), Self::MAX));
        }
        Ok(Self(name.into()))
    }

    /// The name as text.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl<'de> Deserialize<'de> for ServiceName {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = <std::borrow::Cow<'de, str>>::deserialize(deserializer)?;
        Self::new(&text).map_err(serde::de::Error::custom)
    }
}

impl std::fmt::Display for ServiceName {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(&self.0)
    }
}

/// What the service speaks.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, Serialize, Deserialize, schemars::JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum Protocol {
    /// A byte stream, balanced per connection.
    #[default]
    Tcp,
    /// Datagrams, balanced per flow.
    Udp,
    /// HTTP over TCP, balanced per request.
    Http,
}

/// The transport under a [`Protocol`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Transport {
    /// TCP, RFC 9293.
    Tcp,
    /// UDP, RFC 768.
    Udp,
}

impl Protocol {
    /// The transport that carries the protocol.
    pub fn transport(self) -> Transport {
        match self {
            Protocol::Tcp | Protocol::Http => Transport::Tcp,
            Protocol::Udp => Transport::Udp,
        }
    }
}

/// How far the mesh may go with a service.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, Serialize, Deserialize, schemars::JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum Mode {
    /// Only looks: connections to the service address go where they went before, and are counted.
    Observe,
    /// Decides and counts what it would have done; changes nothing.
    Shadow,
    /// Does it.
    #[default]
    Enforce,
}

/// How an endpoint is chosen for a new connection.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Balance {
    /// By chance, in proportion to the weights.
    #[default]
    WeightedRandom,
    /// In turn, in proportion to the weights.
    RoundRobin,
    /// The better of two endpoints drawn by chance: fewer open connections for its weight.
    LeastConnections,
    /// The same client to the same endpoint, and few clients moved when endpoints change.
    Maglev {
        /// Entries of the lookup table; prime.
        table_size: NonZeroU32,
    },
}

/// A client keeps its endpoint as long as it comes back within `timeout`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct Affinity {
    /// Whole seconds, 1 s to 65,535 s (about 18 h), counted from the client's last connection.
    pub timeout: Duration,
}

/// A virtual address that clients dial; valid means: virtual, and of no other service.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct Frontend {
    /// IPv4, or IPv6 that is not v4-mapped.
    pub address: IpAddr,
    /// The port that clients dial.
    pub port: NonZeroU16,
}

impl Frontend {
    /// The address in the form of the standard library.
    pub fn socket_addr(&self) -> SocketAddr {
        SocketAddr::new(self.address, self.port.get())
    }
}

/// Labels of an endpoint, such as `version: v1`.
pub type Labels = BTreeMap<Arc<str>, Arc<str>>;

/// A real server of a service; its address is unique within the service.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct Endpoint {
    /// Where it listens; never unspecified, multicast, v4-mapped or port 0.
    pub address: SocketAddr,
    /// Its share against its neighbours; 0 gets no new connection.
    pub weight: u16,
    /// For [`Split`] and for people.
    pub labels: Labels,
    /// Gets no new connection and keeps the old.
    pub draining: bool,
}

/// Shares of new connections by the value of one label, whatever the number of endpoints that carry each value.
/// Within a value the endpoints' own weights count. A value without a usable endpoint leaves its share to the others.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct Split {
    /// The label looked at, such as `version`.
    pub label: Arc<str>,
    /// Label value to share; at least one share is above 0.
    pub shares: BTreeMap<Arc<str>, u16>,
}

/// What happens to the connections of an endpoint that is no longer in the file.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, Serialize, Deserialize, schemars::JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum Removal {
    /// They run to their natural end.
    #[default]
    Keep,
    /// Their sockets are closed.
    Terminate,
}

/// Whether requests within TLS are looked at.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, Serialize, Deserialize, schemars::JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum Tls {
    /// TLS passes as it is.
    #[default]
    Pass,
    /// Its plaintext is read where a library hands it over to a process of this host: method, path and status of HTTP/1.
    Observe,
}

/// How an endpoint is asked whether it is well.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Probe {
    /// It accepts a TCP connection.
    Tcp,
    /// It answers `GET path` with a status in a range.
    Http {
        /// Origin form, begins with `/`.
        path: Arc<str>,
        /// The Host header; the endpoint's address when absent.
        host: Option<Arc<str>>,
        /// Lowest and highest status that count as well.
        status: (u16, u16),
    },
}

/// Active health checks of every endpoint of a service.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct HealthCheck {
    /// What is asked.
    pub probe: Probe,
    /// Another port than the endpoint's own.
    pub port: Option<NonZeroU16>,
    /// From the start of one check to the start of the next, before jitter.
    pub interval: Duration,
    /// How long an answer may take; below `interval`.
    pub timeout: Duration,
    /// Percent of `interval` by which each wait is varied by chance, 0 to 100.
    pub jitter: u8,
    /// Successes in a row that make an endpoint healthy again.
    pub healthy: NonZeroU8,
    /// Failures in a row that make it unhealthy.
    pub unhealthy: NonZeroU8,
}

/// Ejection of endpoints that refuse or time out the connections of real clients.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct PassiveEjection {
    /// Connect failures in a row that eject.
    pub failures: NonZeroU8,
    /// The first ejection lasts this long; each further one twice as long.
    pub base: Duration,
    /// No ejection lasts longer.
    pub max: Duration,
    /// At most this percentage of the endpoints is ejected at once, 0 to 100; one may always be, if another is left.
    pub max_ejected: u8,
}

/// One service, valid in itself and among the others of its [`Snapshot`].
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct Service {
    /// Unique in the snapshot.
    pub name: ServiceName,
    /// What it speaks.
    pub protocol: Protocol,
    /// How far the mesh may go.
    pub mode: Mode,
    /// What clients dial; at least one, sorted.
    pub frontends: Vec<Frontend>,
    /// How endpoints are chosen.
    pub balance: Balance,
    /// Whether clients stay.
    pub affinity: Option<Affinity>,
    /// Active checks.
    pub health: Option<HealthCheck>,
    /// Passive checks.
    pub ejection: Option<PassiveEjection>,
    /// What happens to the connections of removed endpoints.
    pub removal: Removal,
    #[serde(default)]
    /// Whether requests within TLS are looked at; [`Tls::Observe`] only if `protocol` is [`Protocol::Tcp`].
    pub tls: Tls,
    /// Shares by label.
    pub split: Option<Split>,
    /// Sorted by address; may be empty (then connects are refused).
    pub endpoints: Vec<Endpoint>,
    /// Routes and all else about HTTP; there exactly when `protocol` is [`Protocol::Http`].
    pub http: Option<Arc<Http>>,
}

/// A whole desired state, sorted by name; no address belongs to two services.
///
/// Services are shared, so that a new snapshot of 10,000 services with one change costs one service.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Snapshot {
    services: Vec<Arc<Service>>,
}

impl Snapshot {
    /// For [`crate::parse`] and other sources inside this crate that have checked what the type promises.
    pub(crate) fn from_checked(mut services: Vec<Arc<Service>>) -> Self {
        services.sort_by(|a, b| a.name.cmp(&b.name));
        Self { services }
    }

    /// The same state, with the services that equal those of `previous` shared with it: whoever compares pointers
    /// first finds what is unchanged at once, and the copies are freed.
    pub fn reuse(mut self, previous: &Snapshot) -> Snapshot {
        let mut known = previous.services.iter().peekable();
        for service in &mut self.services {
            while known.next_if(|known| known.name < service.name).is_some() {}
            if let Some(known) = known.next_if(|known| known.name == service.name)
                && known == service
            {
                *service = Arc::clone(known);
            }
        }
        self
    }

    /// All services, sorted by name.
    pub fn services(&self) -> &[Arc<Service>] {
        &self.services
    }

    /// The same state; services that `earlier` has just so are shared with it. Comparing the two then costs a pointer a
    /// service, and keeping both only what differs.
    pub fn sharing(mut self, earlier: &Snapshot) -> Self {
        for service in &mut self.services {
            if let Some(known) = earlier.get(service.name.as_str()).filter(|known| *known == service) {
                *service = Arc::clone(known);
            }
        }
        self
    }

    /// The same state, with the mode that `mode` gives for a service in place of its own.
    pub fn with_modes(&self, mode: impl Fn(&Service) -> Option<Mode>) -> Self {
        let services = self.services.iter().map(|service| match mode(service) {
            Some(mode) if mode != service.mode => Arc::new(Service { mode, ..Service::clone(service) }),
            _ => Arc::clone(service),
        });
        Self { services: services.collect() }
    }

    /// What the kernel may route alone of a service of this snapshot; `None` for one that speaks no HTTP.
    pub fn kernel_table(&self, service: &Service) -> Option<KernelTable> {
        let elsewhere = |name: &ServiceName| self.get(name.as_str())?.http.as_ref()?.reason_as_target();
        Some(RouteTable::compile(service.http.as_ref()?).kernel(elsewhere))
    }

    /// The service called `name`.
    pub fn get(&self, name: &str) -> Option<&Arc<Service>> {
        let index = self.services.binary_search_by(|s| s.name.as_str().cmp(name)).ok()?;
        self.services.get(index)
    }
}

/// How much may be loaded; fixed when the kernel maps are made.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, schemars::JsonSchema)]
pub struct Budgets {
    /// Services, at most 1,048,576.
    pub services: u32,
    /// Endpoints of all services together, at most 1,048,576 (a slot holds 20 bits of endpoint).
    pub endpoints: u32,
    /// Entries of all balancing tables together, at most 16,777,216 (a service holds 24 bits of place).
    pub slots: u32,
    /// Clients with affinity remembered at once.
    pub affinity: u32,
}

impl Default for Budgets {
    fn default() -> Self {
        Self { services: 65_536, endpoints: 262_144, slots: 1_048_576, affinity: 16_384 }
    }
}

/// What a check has to know of the machine: facts, not handles, so that checking stays pure.
#[derive(Clone, Debug, Default)]
pub struct HostFacts {
    /// Addresses assigned to interfaces, with the interface's name; such an address is not virtual.
    pub local_addresses: Vec<(IpAddr, String)>,
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{HostFacts, Source, parse};

    #[test]
    fn equal_services_are_shared() {
        let snapshot = |port: u16| {
            let text = format!(
                "services:\n  - {{name: a, address: '10.96.0.1:80', endpoints: [192.0.2.1:80]}}\n  \
                 - {{name: b, address: '10.96.0.2:80', endpoints: ['192.0.2.1:{port}']}}\n"
            );
            parse(Source { name: "-", text: &text }, &Budgets::default(), &HostFacts::default()).unwrap().0
        };
        let earlier = snapshot(80);
        let later = snapshot(81);
        let watched = later.with_modes(|service| (service.name.as_str() == "b").then_some(Mode::Observe));
        assert_eq!(watched.get("b").map(|service| service.mode), Some(Mode::Observe));
        assert!(Arc::ptr_eq(&watched.services()[0], &later.services()[0]));
        let shared = later.clone().sharing(&earlier);
        assert_eq!(shared, later, "the state is the same");
        assert!(Arc::ptr_eq(&shared.services()[0], &earlier.services()[0]));
        assert!(!Arc::ptr_eq(&shared.services()[1], &earlier.services()[1]));
    }
}
