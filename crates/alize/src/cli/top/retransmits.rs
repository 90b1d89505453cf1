//! Segments that clients of services had to send again.

use std::collections::HashMap;

use alize_model::api::{ServiceStatus, Traffic};

/// How many in an interval, by the name of the row; who is not in it is not known.
pub(super) type Retransmits = HashMap<String, u64>;

/// What the agent counted between two looks. Of a service that nobody was ever balanced by, nothing was counted: requests
/// that are seen there went past it.
pub(super) fn between(earlier: &[ServiceStatus], now: &[ServiceStatus]) -> Retransmits {
    let before: HashMap<String, u64> =
        rows(earlier).map(|(name, traffic)| (name, traffic.retransmits)).collect();
    let counted = rows(now).filter(|(_, traffic)| traffic.connections > 0);
    let counted = counted.filter_map(|(name, traffic)| {
        // Counters begin again when the maps are made again.
        let growth = traffic.retransmits.saturating_sub(*before.get(&name)?);
        Some((name, growth))
    });
    counted.collect()
}

/// Services and their endpoints.
fn rows(services: &[ServiceStatus]) -> impl Iterator<Item = (String, &Traffic)> {
    services.iter().flat_map(|service| {
        let name = |endpoint| format!("{}/{endpoint}", service.name);
        let endpoints = service.endpoints.iter();
        let endpoints = endpoints.map(move |endpoint| (name(endpoint.address), &endpoint.traffic));
        endpoints.chain([(service.name.clone(), &service.traffic)])
    })
}
