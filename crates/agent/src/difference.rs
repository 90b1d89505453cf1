//! Which endpoints a new state adds, removes, drains, in words.

use std::net::SocketAddr;
use std::sync::Arc;

use alize_model::{Endpoint, Service, ServiceName, Snapshot};

use crate::ejection::find_endpoint;

/// A change of one endpoint of a service that was there before and still is.
pub(crate) type EndpointChange = (ServiceName, SocketAddr, &'static str);

/// The changes from `old` to `new`. Whole services that come or go are not told endpoint by endpoint.
pub(crate) fn endpoint_changes(old: &Snapshot, new: &Snapshot) -> Vec<EndpointChange> {
    let mut changes = Vec::new();
    for service in new.services() {
        let Some(before) = old.get(service.name.as_str()) else { continue };
        if !Arc::ptr_eq(before, service) && before.endpoints != service.endpoints {
            compare(before, service, &mut changes);
        }
    }
    changes
}

fn compare(old: &Service, new: &Service, changes: &mut Vec<EndpointChange>) {
    for endpoint in &new.endpoints {
        if let Some(what) = in_words(find_endpoint(old, endpoint.address), endpoint) {
            changes.push((new.name.clone(), endpoint.address, what));
        }
    }
    let removed = old.endpoints.iter().filter(|endpoint| find_endpoint(new, endpoint.address).is_none());
    changes.extend(removed.map(|endpoint| (new.name.clone(), endpoint.address, "removed")));
}

fn in_words(old: Option<&Endpoint>, new: &Endpoint) -> Option<&'static str> {
    let Some(old) = old else { return Some("added") };
    match (old.draining, new.draining) {
        (false, true) => Some("draining: no new connections, the old ones stay"),
        (true, false) => Some("no longer draining"),
        _ if old.weight != new.weight => Some("weight changed"),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use alize_model::{Budgets, HostFacts, Source};

    use super::*;

    fn snapshot(text: &str) -> Snapshot {
        let source = Source { name: "test.yaml", text };
        alize_model::parse(source, &Budgets::default(), &HostFacts::default()).expect("a valid file").0
    }

    #[test]
    fn changes_are_told_in_words() {
        let old = snapshot(
            "services:
  - name: web
    address: 10.96.0.1:80
    endpoints: [192.0.2.1:1, 192.0.2.2:1, 192.0.2.3:1]
  - {name: gone, address: 10.96.0.2:80, endpoints: [192.0.2.1:1]}",
        );
        let new = snapshot(
            "services:
  - name: web
    address: 10.96.0.1:80
    endpoints: [{address: 192.0.2.1:1, draining: true}, {address: 192.0.2.2:1, weight: 7}, 192.0.2.4:1]
  - {name: new, address: 10.96.0.3:80, endpoints: [192.0.2.1:1]}",
        );
        let told: Vec<_> = endpoint_changes(&old, &new)
            .iter()
            .map(|(service, address, what)| format!("{service} {address} {what}"))
            .collect();
        assert_eq!(
            told,
            [
                "web 192.0.2.1:1 draining: no new connections, the old ones stay",
                "web 192.0.2.2:1 weight changed",
                "web 192.0.2.4:1 added",
                "web 192.0.2.3:1 removed",
            ]
        );
        assert!(endpoint_changes(&new, &new).is_empty());
    }
}
