//! What the proxy has to serve.

use std::net::SocketAddr;
use std::sync::Arc;

use alize_datapath::LiveState;
use alize_model::control::{ProxyEndpoint, ProxyService, ProxyState};
use alize_model::{Mode, Service};
use tokio::sync::watch;

use super::Mesh;
use crate::proxy::Wanted;

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
}
