//! Counters: read from per-CPU maps and added up.
//!
//! The maps change while they are read, so sums are of nearly, not exactly, one moment.

use alize_model::Transport;
use libbpf_rs::Link;

use crate::abi::{anomaly, decisions, outcomes, refusal, traffic};
use crate::iterate::in_every_namespace;
use crate::maps::{Map, Maps};
use crate::picture::Picture;
use crate::{Counters, Decisions, Error, Outcomes, Traffic};

/// The names of `enum anomaly`, in its order.
const ANOMALIES: [&str; anomaly::ANOMALIES.0 as usize] = [
    "connection-untracked",
    "flow-untracked",
    "flow-evicted",
    "service-uncounted",
    "endpoint-uncounted",
    "affinity-unsaved",
    "event-lost",
];

/// Reads all counters; `sweep` first adds what open connections have done so far.
pub(crate) fn read(maps: &Maps, picture: &Picture, sweep: Option<&Link>) -> Result<Counters, Error> {
    if let Some(link) = sweep {
        in_every_namespace(std::slice::from_ref(link))
            .map_err(|e| Error::kernel("cannot run", "sweep", e))?;
    }
    let mut counters = Counters::default();
    maps.service_traffic.for_each(|number, values| {
        // What was counted under a number after it was freed belongs to nobody.
        if let Some(service) = picture.service(number) {
            let mut sum = add_up(values);
            let transport = service.frontends.first().map(|(_, transport)| *transport);
            // Flows of UDP sockets that are not connected have no end, so only their endpoints know what is open.
            if transport != Some(Transport::Udp) {
                let closed: u64 = values.iter().map(|value| value.closed).sum();
                sum.open = sum.connections.saturating_sub(closed);
            }
            counters.services.entry(number).or_default().0 = sum;
        }
    })?;
    maps.service_decisions.for_each(|number, values| {
        if picture.names.contains_key(&number) {
            counters.services.entry(number).or_default().1 = decided(values);
        }
    })?;
    maps.shadow_outcomes.for_each(|number, values| {
        if picture.names.contains_key(&number) {
            counters.shadow.insert(number, became(values));
        }
    })?;
    maps.shadow_would.for_each(|number, values| {
        if picture.endpoint_numbers.is_taken(number) {
            counters.would.insert(number, values.iter().sum());
        }
    })?;
    let mut owners = Vec::new();
    maps.endpoint_traffic.for_each(|number, values| {
        if picture.endpoint_numbers.is_taken(number) {
            owners.push(number);
            counters.endpoints.insert(number, add_up(values));
        }
    })?;
    for number in owners {
        let load = maps.endpoint_load.get(&number)?;
        if let Some(sum) = counters.endpoints.get_mut(&number) {
            sum.open = load.map_or(0, |load| load.open.into());
        }
    }
    open_of_udp(picture, &mut counters);
    counters.anomalies = anomalies(&maps.anomalies)?;
    Ok(counters)
}

/// Name of each anomaly and how often it happened.
pub(crate) fn anomalies(map: &Map<u32, u64>) -> Result<Vec<(&'static str, u64)>, Error> {
    let mut found = Vec::new();
    map.for_each(|number, values| {
        if let Some(name) = ANOMALIES.get(number as usize) {
            found.push((*name, values.iter().sum()));
        }
    })?;
    Ok(found)
}

fn open_of_udp(picture: &Picture, counters: &mut Counters) {
    for (number, (traffic, _)) in &mut counters.services {
        let Some(service) = picture.service(*number) else { continue };
        if service.frontends.first().is_some_and(|(_, transport)| *transport == Transport::Udp) {
            let open = |number: &u32| counters.endpoints.get(number).map_or(0, |traffic| traffic.open);
            traffic.open = service.endpoints.iter().map(|endpoint| open(&endpoint.number)).sum();
        }
    }
}

fn add_up(values: &[traffic]) -> Traffic {
    let mut sum = Traffic::default();
    for value in values {
        sum.connections += value.connections;
        sum.established += value.established;
        for (total, count) in sum.failures.iter_mut().zip(value.failures) {
            *total += count;
        }
        sum.bytes_sent += value.bytes_sent;
        sum.bytes_received += value.bytes_received;
        sum.retransmits += value.retransmits;
        sum.rtt_us += value.rtt_us;
        sum.rtt_samples += value.rtt_samples;
    }
    sum
}

fn decided(values: &[decisions]) -> Decisions {
    let mut sum = Decisions::default();
    for value in values {
        for which in 0..refusal::REFUSALS.0 as usize {
            sum.refused[which] += value.refused[which];
            sum.would_refuse[which] += value.would_refuse[which];
        }
        sum.would_balance += value.would_balance;
        sum.affinity_kept += value.affinity_kept;
    }
    sum
}

fn became(values: &[outcomes]) -> Outcomes {
    let mut sum = Outcomes::default();
    for value in values {
        sum.connections += value.connections;
        sum.established += value.established;
        for (total, count) in sum.failures.iter_mut().zip(value.failures) {
            *total += count;
        }
    }
    sum
}
