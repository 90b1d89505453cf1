//! Everything that can be asked about services and endpoints, read from the kernel at one moment.
//!
//! A scrape is made when somebody asks and shared by all who asked before it was made. Nothing of it stays when the
//! last answer is written: 30,000 endpoints cost nothing between scrapes.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Instant;

use alize_datapath::{Counters, Decisions, LiveEndpoint, LiveState, Outcomes, Traffic};
use alize_model::api::{ModeOverride, Status};
use alize_model::{Endpoint, Service, ServiceName};

use crate::ejection::find_endpoint;

/// One moment.
pub(crate) struct Scrape {
    pub(crate) taken: Instant,
    pub(crate) status: Status,
    /// Whether the last attempt to change the state succeeded, and when one last did.
    pub(crate) last_reload_successful: bool,
    /// Health checks answered: well, not well.
    pub(crate) checks: [u64; 2],
    pub(crate) counters: Counters,
    /// Sorted by name.
    pub(crate) services: Vec<ScrapedService>,
}

/// A service that the kernel has.
pub(crate) struct ScrapedService {
    pub(crate) name: ServiceName,
    pub(crate) id: u32,
    /// Its definition; unknown when the data path was adopted and nothing tells what it was made from.
    pub(crate) service: Option<Arc<Service>>,
    /// Sorted by address; each address once.
    pub(crate) endpoints: Vec<LiveEndpoint>,
    /// Why endpoints are unavailable.
    pub(crate) reasons: BTreeMap<SocketAddr, String>,
    /// The mode was set by hand.
    pub(crate) mode_override: Option<ModeOverride>,
}

impl Scrape {
    pub(crate) fn service(&self, name: &str) -> Option<&ScrapedService> {
        let index = self.services.binary_search_by(|service| service.name.as_str().cmp(name)).ok()?;
        self.services.get(index)
    }

    /// Large enough for its memory to be worth giving back.
    pub(crate) fn is_large(&self) -> bool {
        self.services.iter().map(|service| 1 + service.endpoints.len()).sum::<usize>() > 1000
    }

    pub(crate) fn traffic_of(&self, service: &ScrapedService) -> (Traffic, Decisions) {
        self.counters.services.get(&service.id).copied().unwrap_or_default()
    }

    pub(crate) fn shadow_of(&self, service: &ScrapedService) -> Outcomes {
        self.counters.shadow.get(&service.id).copied().unwrap_or_default()
    }

    /// None when nobody was ever sent to the endpoint.
    pub(crate) fn traffic_of_endpoint(&self, endpoint: &LiveEndpoint) -> Option<&Traffic> {
        self.counters.endpoints.get(&endpoint.id)
    }
}

impl ScrapedService {
    pub(crate) fn new(
        name: ServiceName,
        id: u32,
        service: Option<Arc<Service>>,
        endpoints: Vec<LiveEndpoint>,
    ) -> Self {
        Self {
            name,
            id,
            service,
            endpoints: each_address_once(endpoints),
            reasons: BTreeMap::new(),
            mode_override: None,
        }
    }

    /// What the file says of an endpoint; none when it is no longer in it.
    pub(crate) fn declared(&self, address: SocketAddr) -> Option<&Endpoint> {
        find_endpoint(self.service.as_ref()?, address)
    }

    pub(crate) fn reason(&self, address: SocketAddr) -> Option<&str> {
        self.reasons.get(&address).map(String::as_str)
    }

    /// Endpoints that take new connections.
    pub(crate) fn usable(&self) -> u32 {
        let takes_connections = |endpoint: &&LiveEndpoint| {
            endpoint.state == LiveState::Active
                && self.declared(endpoint.address).is_none_or(|declared| declared.weight > 0)
        };
        self.endpoints.iter().filter(takes_connections).count() as u32
    }
}

/// An endpoint that was removed and came back may be there twice while old connections last; it is shown as what it
/// is now.
fn each_address_once(mut endpoints: Vec<LiveEndpoint>) -> Vec<LiveEndpoint> {
    endpoints.sort_by_key(|endpoint| (endpoint.address, endpoint.state == LiveState::Removed));
    endpoints.dedup_by_key(|endpoint| endpoint.address);
    endpoints
}

/// The name of a state, as the API and the metrics have it.
pub(crate) fn state_name(state: LiveState) -> &'static str {
    use alize_datapath::Unavailable::{Ejected, Unhealthy};
    match state {
        LiveState::Active => "active",
        LiveState::Draining => "draining",
        LiveState::Unavailable(Unhealthy) => "unhealthy",
        LiveState::Unavailable(Ejected) => "ejected",
        LiveState::Removed => "removed",
    }
}

/// Names of `alize_datapath::Failure`, in the order of its numbers.
pub(crate) const FAILURES: [&str; 6] = ["refused", "timeout", "unreachable", "reset", "aborted", "other"];

/// Names of `alize_datapath::Refusal`, in the order of its numbers.
pub(crate) const REFUSALS: [&str; 3] = ["no-endpoint", "stale", "no-proxy"];
