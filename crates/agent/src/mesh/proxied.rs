//! What the proxy has to serve, and what the kernel did not leave to it.

use std::collections::BTreeMap;
use std::collections::btree_map::Entry;
use std::net::SocketAddr;
use std::sync::Arc;

use alize_datapath::LiveState;
use alize_datapath::http::Routed;
use alize_model::control::{ProxyEndpoint, ProxyService, ProxyState, RequestCounters, ServiceCounters};
use alize_model::{Mode, Service};
use tokio::sync::watch;

use super::Mesh;
use crate::proxy::Wanted;
use crate::routes::Counted;

/// An endpoint that the kernel has no number for; it never gets a request from there.
const NO_NUMBER: u32 = u32::MAX;

impl Mesh {
    /// What is published for the proxy, from now on.
    pub(crate) fn proxied(&self) -> watch::Receiver<Wanted> {
        self.proxy.subscribe()
    }

    /// Publishes what the proxy has to serve, if that changed.
    pub(super) fn tell_proxy(&mut self) {
        if self.options.proxy.is_none() {
            return;
        }
        let speaks_http = |service: &&Arc<Service>| service.http.is_some();
        let services: Vec<_> = self.snapshot.services().iter().filter(speaks_http).collect();
        if services.iter().all(|service| service.mode != Mode::Enforce) {
            self.proxy.send_if_modified(|wanted| {
                !matches!(std::mem::replace(wanted, Wanted::Nothing), Wanted::Nothing)
            });
            return;
        }
        let services = services.into_iter().filter_map(|service| self.proxied_service(service)).collect();
        self.proxy.send_if_modified(|wanted| {
            let generation = match wanted {
                Wanted::State(state) if state.services == services => return false,
                Wanted::State(state) => state.generation + 1,
                Wanted::Unknown | Wanted::Nothing => 1,
            };
            *wanted = Wanted::State(Arc::new(ProxyState { generation, services }));
            true
        });
    }

    fn proxied_service(&self, service: &Arc<Service>) -> Option<ProxyService> {
        let number = self.datapath.service_id(service.name.as_str())?;
        let live = self.datapath.endpoints(number);
        let number_of = |address: SocketAddr| {
            let here = live.iter().find(|live| live.address == address && live.state != LiveState::Removed);
            here.map_or(NO_NUMBER, |live| live.id)
        };
        let endpoint = |endpoint: &alize_model::Endpoint| ProxyEndpoint {
            address: endpoint.address,
            number: number_of(endpoint.address),
            usable: !endpoint.draining
                && !self.unavailable.contains_key(&(service.name.clone(), endpoint.address)),
        };
        Some(ProxyService {
            number,
            service: Arc::clone(service),
            endpoints: service.endpoints.iter().map(endpoint).collect(),
        })
    }

    /// What the kernel routed itself; nothing where no service is routed.
    pub(crate) fn routed(&self) -> Option<Counted> {
        let counters = self.datapath.http_counters().ok()?;
        let mut services: BTreeMap<u32, ServiceCounters> = BTreeMap::new();
        for row in counters.requests {
            let Some(counters) = self.counters_of(&mut services, row.service) else { continue };
            let http = self.snapshot.get(counters.service.as_str()).and_then(|service| service.http.clone());
            let route = http.and_then(|http| Some(Arc::clone(&http.routes.get(row.route as usize)?.name)));
            if row.remote {
                counters.remote += row.statuses.iter().sum::<u64>();
            }
            let row = self.routed_row(row, route);
            let alike =
                |known: &&mut RequestCounters| (&known.route, known.endpoint) == (&row.route, row.endpoint);
            match counters.requests.iter_mut().find(alike) {
                // The same endpoint by both ways, or under another number than before.
                Some(known) => known.add(&row),
                None => counters.requests.push(row),
            }
        }
        for row in counters.reasons {
            if let Some(counters) = self.counters_of(&mut services, row.service) {
                counters.reasons.insert(row.reason.to_owned(), row.count);
            }
        }
        Some(Counted { path: "kernel-l7", services: services.into_values().collect() })
    }

    fn counters_of<'a>(
        &self,
        services: &'a mut BTreeMap<u32, ServiceCounters>,
        number: u32,
    ) -> Option<&'a mut ServiceCounters> {
        match services.entry(number) {
            Entry::Occupied(known) => Some(known.into_mut()),
            Entry::Vacant(place) => {
                let name = self.datapath.service_name(number)?.clone();
                Some(place.insert(ServiceCounters::new(name)))
            }
        }
    }

    fn routed_row(&self, row: Routed, route: Option<Arc<str>>) -> RequestCounters {
        let counts = row.latencies.counts.iter().enumerate().filter(|(_, count)| **count > 0);
        RequestCounters {
            route,
            endpoint: self.datapath.endpoint_address(row.endpoint),
            statuses: row.statuses,
            request_bytes: row.request_bytes,
            response_bytes: row.response_bytes,
            latency_sum: row.latency_ns as f64 / 1e9,
            buckets: counts.map(|(bucket, count)| (bucket as u32, *count)).collect(),
        }
    }
}
