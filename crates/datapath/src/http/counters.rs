//! What the kernel routed, and why it left the rest to the proxy.

use super::abi::{BUSY, DEAD, OPEN, http_reasons, http_slot, http_traffic, http_traffic_key};
use super::router::REASONS;
use crate::Error;
use crate::maps::Map;
use crate::observe::Latencies;

/// Requests that the kernel routed, alike in service, route and endpoint.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Routed {
    /// Number of the service.
    pub service: u32,
    /// Place of the route among those of the service.
    pub route: u32,
    /// Number of the endpoint.
    pub endpoint: u32,
    /// They went out by TCP to an endpoint that has no socket here.
    pub remote: bool,
    /// Requests by the first digit of the status; `[0]` are those with another.
    pub statuses: [u64; 6],
    /// Heads and bodies of requests.
    pub request_bytes: u64,
    /// Heads and bodies of responses.
    pub response_bytes: u64,
    /// From the first byte of the request to the last of the response, in nanoseconds, added up.
    pub latency_ns: u64,
    /// The same, by bucket.
    pub latencies: Latencies,
}

/// How often the proxy was needed for a reason.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Passed {
    /// Number of the service.
    pub service: u32,
    /// Name of the reason.
    pub reason: &'static str,
    /// How often.
    pub count: u64,
}

/// All counters of the router at one moment.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct RouterCounters {
    /// Requests that never left the kernel.
    pub requests: Vec<Routed>,
    /// Why others did, and why responses did; those that did not happen are left out.
    pub reasons: Vec<Passed>,
}

/// The maps with counters, and those that show what is under way.
#[derive(Debug)]
pub(crate) struct CounterMaps {
    pub(crate) traffic: Map<http_traffic_key, http_traffic>,
    pub(crate) reasons: Map<u32, http_reasons>,
    pub(crate) slots: Map<u32, http_slot>,
    pub(crate) load: Map<u32, u32>,
}

impl CounterMaps {
    pub(crate) fn read(&self) -> Result<RouterCounters, Error> {
        let mut counters = RouterCounters::default();
        self.traffic.for_each(|key, cpus| counters.requests.push(sum(key, cpus)))?;
        self.reasons.for_each(|service, cpus| {
            for (number, &reason) in REASONS.iter().enumerate() {
                let count = cpus.iter().map(|cpu| cpu.count[number]).sum();
                if count > 0 {
                    counters.reasons.push(Passed { service, reason, count });
                }
            }
        })?;
        Ok(counters)
    }

    /// Slots on which a response or the rest of a request is outstanding, and requests that count as outstanding at endpoints.
    pub(crate) fn outstanding(&self) -> Result<(u64, u64), Error> {
        let (mut lent, mut load) = (0, 0);
        self.slots.for_each(|_, slot| {
            let is_lent = |slot: &&http_slot| slot.state & (BUSY | OPEN) != 0 && slot.state & DEAD == 0;
            lent += slot.iter().filter(is_lent).count() as u64;
        })?;
        self.load.for_each(|_, count| load += count.iter().map(|&count| u64::from(count)).sum::<u64>())?;
        Ok((lent, load))
    }

    /// Forgets what was counted of services and endpoints that `is_known` does not know any more: their numbers may be
    /// given again.
    pub(crate) fn prune(&self, is_known: impl Fn(u32, u32) -> bool) -> Result<(), Error> {
        let mut gone = Vec::new();
        self.traffic.for_each(|key, _| {
            if !is_known(key.service, key.endpoint) {
                gone.push(key);
            }
        })?;
        self.traffic.delete_all(gone.into_iter())
    }
}

fn sum(key: http_traffic_key, cpus: &[http_traffic]) -> Routed {
    let mut row = Routed {
        service: key.service,
        route: key.route,
        endpoint: key.endpoint,
        remote: key.remote != 0,
        statuses: [0; 6],
        request_bytes: 0,
        response_bytes: 0,
        latency_ns: 0,
        latencies: Latencies::default(),
    };
    for cpu in cpus {
        row.statuses.iter_mut().zip(cpu.by_class).for_each(|(to, from)| *to += from);
        row.request_bytes += cpu.request_bytes;
        row.response_bytes += cpu.response_bytes;
        row.latency_ns += cpu.latency_ns;
        row.latencies.counts.iter_mut().zip(cpu.latency).for_each(|(to, from)| *to += from);
    }
    row
}
