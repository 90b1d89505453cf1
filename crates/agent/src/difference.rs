//! Which endpoints a new state adds, removes, drains, in words.

use std::net::SocketAddr;
use std::sync::Arc;

use alize_model::{Endpoint, Service, ServiceName, Snapshot};

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

/// Both lists are sorted by address.
fn compare(old: &Service, new: &Service, changes: &mut Vec<EndpointChange>) {
    let find = |endpoints: &[Endpoint], address: SocketAddr| {
        let index = endpoints.binary_search_by(|endpoint| endpoint.address.cmp(&address)).ok()?;
        endpoints.get(index).map(|endpoint| (endpoint.draining, endpoint.weight))
    };
    let mut note = |address, what| changes.push((new.name.clone(), address, what));
    for endpoint in &new.endpoints {
        let now = (endpoint.draining, endpoint.weight);
        match find(&old.endpoints, endpoint.address) {
            None => note(endpoint.address, "added"),
            Some((false, _)) if now.0 => {
                note(endpoint.address, "draining: no new connections, the old ones stay")
            }
            Some((true, _)) if !now.0 => note(endpoint.address, "no longer draining"),
            Some((_, weight)) if weight != now.1 => note(endpoint.address, "weight changed"),
            Some(_) => {}
        }
    }
    for endpoint in &old.endpoints {
        if find(&new.endpoints, endpoint.address).is_none() {
            note(endpoint.address, "removed");
        }
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
