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
    /// Copies of requests (`mirror`) that no endpoint has answered, by reason.
    #[serde(default)]
    pub lost_copies: BTreeMap<String, u64>,
    /// Of the requests that the kernel routed, those that went out by TCP to an endpoint without a socket here.
    #[serde(default)]
    pub remote: u64,
}

impl ServiceCounters {
    /// Of a service that had no request yet.
    pub fn new(service: ServiceName) -> Self {
        Self {
            service,
            requests: Vec::new(),
            reasons: BTreeMap::new(),
            refused: BTreeMap::new(),
            retries: 0,
            lost_copies: BTreeMap::new(),
            remote: 0,
        }
    }
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
    #[serde(with = "pairs")]
    pub buckets: BTreeMap<u32, u64>,
}

impl RequestCounters {
    /// Adds what was counted of the same route and endpoint.
    pub fn add(&mut self, more: &Self) {
        self.statuses.iter_mut().zip(more.statuses).for_each(|(to, from)| *to += from);
        self.request_bytes += more.request_bytes;
        self.response_bytes += more.response_bytes;
        self.latency_sum += more.latency_sum;
        for (&bucket, count) in &more.buckets {
            *self.buckets.entry(bucket).or_default() += count;
        }
    }
}

/// A map as a list of pairs: keys of JSON are texts, and below an enum's tag serde does not read numbers from them.
mod pairs {
    use std::collections::BTreeMap;

    use serde::{Deserialize, Deserializer, Serializer};

    pub(super) fn serialize<S: Serializer>(map: &BTreeMap<u32, u64>, out: S) -> Result<S::Ok, S::Error> {
        out.collect_seq(map)
    }

    pub(super) fn deserialize<'de, D: Deserializer<'de>>(input: D) -> Result<BTreeMap<u32, u64>, D::Error> {
        Ok(Vec::<(u32, u64)>::deserialize(input)?.into_iter().collect())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn goes_through<T: Serialize + for<'de> Deserialize<'de> + PartialEq + std::fmt::Debug>(word: T) {
        let line = serde_json::to_string(&word).unwrap();
        assert!(!line.contains('\n'));
        assert_eq!(serde_json::from_str::<T>(&line).unwrap_or_else(|error| panic!("{error}: {line}")), word);
    }

    #[test]
    fn every_word_goes_through_a_line_of_json() {
        let text = "services: [{name: web, protocol: http, address: '10.96.0.1:80', endpoints: [{address: '10.0.0.1:80', labels: {a: b}}]}]";
        let source = crate::Source { name: "-", text };
        let (snapshot, _) = crate::parse(source, &Default::default(), &Default::default()).unwrap();
        let service = Arc::clone(&snapshot.services()[0]);
        let address = service.endpoints[0].address;
        let endpoints = vec![ProxyEndpoint { address, number: 3, usable: true }];
        let services = vec![ProxyService { number: 7, service, endpoints }];
        goes_through(ToProxy::State(ProxyState { generation: 1, services }));
        goes_through(ToProxy::Counters);
        goes_through(ToProxy::Drain { deadline: Duration::from_millis(1500) });
        goes_through(FromProxy::Hello(Hello { version: "1".into(), pid: 2, generation: 3 }));
        let requests = vec![RequestCounters {
            route: Some("a".into()),
            endpoint: Some(address),
            statuses: [0, 1, 2, 3, 4, 5],
            buckets: BTreeMap::from([(71, 1), (72, u64::MAX)]),
            ..RequestCounters::default()
        }];
        let service = ServiceName::new("web").unwrap();
        let (reasons, refused) = (BTreeMap::from([("route".into(), 1)]), BTreeMap::new());
        let services =
            vec![ServiceCounters { requests, reasons, refused, retries: 1, ..ServiceCounters::new(service) }];
        goes_through(FromProxy::Counters(ProxyCounters { services, ..ProxyCounters::default() }));
    }
}
