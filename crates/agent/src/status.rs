//! From a scrape to the types of the API.

use std::collections::BTreeMap;

use alize_datapath::{LiveEndpoint, Outcomes, Traffic};
use alize_model::http::HttpBalance;
use alize_model::{Balance, Service, api};

use crate::routes::{Counted, routes};
use crate::scrape::{FAILURES, REFUSALS, Scrape, ScrapedService, state_name};

/// A service in the form of the API; none while its definition is unknown.
pub(crate) fn service(
    scrape: &Scrape,
    scraped: &ScrapedService,
    counted: &[Counted],
) -> Option<api::ServiceStatus> {
    let definition = scraped.service.as_deref()?;
    let (counters, decisions) = scrape.traffic_of(scraped);
    let mut shadow = named(&REFUSALS, &decisions.would_refuse);
    if decisions.would_balance > 0 {
        shadow.insert("balanced".into(), decisions.would_balance);
    }
    Some(api::ServiceStatus {
        name: scraped.name.to_string(),
        id: scraped.id,
        protocol: definition.protocol,
        mode: definition.mode,
        addresses: definition.frontends.iter().map(|frontend| frontend.socket_addr()).collect(),
        balance: balance(definition).into(),
        affinity: definition.affinity.map(|affinity| affinity.timeout.as_secs_f64()),
        usable: scraped.usable(),
        traffic: traffic(&counters),
        refused: named(&REFUSALS, &decisions.refused),
        shadow,
        routes: routes(scrape, definition, counted),
        shadow_seen: shadow_seen(&scrape.shadow_of(scraped)),
        mode_override: scraped.mode_override.clone(),
        endpoints: scraped.endpoints.iter().map(|live| endpoint(scrape, scraped, live)).collect(),
    })
}

fn endpoint(scrape: &Scrape, scraped: &ScrapedService, live: &LiveEndpoint) -> api::EndpointStatus {
    let declared = scraped.declared(live.address);
    let labels = declared.map(|endpoint| &endpoint.labels).into_iter().flatten();
    api::EndpointStatus {
        address: live.address,
        id: live.id,
        weight: declared.map_or(0, |endpoint| endpoint.weight),
        share: live.share,
        labels: labels.map(|(name, value)| (name.to_string(), value.to_string())).collect(),
        state: state_name(live.state).into(),
        reason: scraped.reason(live.address).map(str::to_owned),
        would: scrape.counters.would.get(&live.id).copied().unwrap_or(0),
        traffic: scrape.traffic_of_endpoint(live).map(traffic).unwrap_or_default(),
    }
}

fn shadow_seen(outcomes: &Outcomes) -> api::ShadowSeen {
    api::ShadowSeen {
        connections: outcomes.connections,
        established: outcomes.established,
        failures: named(&FAILURES, &outcomes.failures),
    }
}

fn traffic(counters: &Traffic) -> api::Traffic {
    api::Traffic {
        connections: counters.connections,
        established: counters.established,
        open: counters.open,
        failures: named(&FAILURES, &counters.failures),
        bytes_sent: counters.bytes_sent,
        bytes_received: counters.bytes_received,
        retransmits: counters.retransmits,
        smoothed_rtt: (counters.rtt_samples > 0)
            .then(|| counters.rtt_us as f64 / counters.rtt_samples as f64 / 1e6),
    }
}

/// Counts above zero, by name.
fn named(names: &[&str], counts: &[u64]) -> BTreeMap<String, u64> {
    let pairs = names.iter().zip(counts).filter(|(_, count)| **count > 0);
    pairs.map(|(name, count)| ((*name).to_owned(), *count)).collect()
}

/// The name of the way in which requests of the service are balanced, or its connections, as the file has it.
pub(crate) fn balance(service: &Service) -> &'static str {
    match service.http.as_ref().map(|http| &http.balance) {
        Some(HttpBalance::LeastRequests) => return "least-requests",
        Some(HttpBalance::RoundRobin) => return "round-robin",
        Some(HttpBalance::WeightedRandom) => return "weighted-random",
        Some(HttpBalance::ConsistentHash(_)) => return "consistent-hash",
        None => {}
    }
    match service.balance {
        Balance::WeightedRandom => "weighted-random",
        Balance::RoundRobin => "round-robin",
        Balance::LeastConnections => "least-connections",
        Balance::Maglev { .. } => "maglev",
    }
}
