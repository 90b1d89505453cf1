//! The state in force, and what outlives it.

use std::collections::HashMap;
use std::net::SocketAddr;
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Arc, Mutex};

use alize_model::ServiceName;
use alize_model::control::{ProxyService, ProxyState, ServiceCounters};
use alize_model::http::{Action, Http, RouteTable};

use super::limit::{Limits, Tries};
use super::outlier::Record;
use crate::counters::Counters;

/// All services. A request sees one mesh from its head to its end.
#[derive(Debug, Default)]
pub(crate) struct Mesh {
    pub(crate) generation: u64,
    by_number: HashMap<u32, Arc<Service>>,
    by_name: HashMap<ServiceName, u32>,
}

/// One service.
#[derive(Debug)]
pub(crate) struct Service {
    spec: ProxyService,
    /// Shared by all services with the same rules: most have none.
    pub(super) table: Arc<RouteTable>,
    pub(super) limits: Limits,
    /// By the route's number, for routes that try again.
    pub(super) tries: HashMap<u16, Arc<Tries>>,
    pub(super) endpoints: Vec<Endpoint>,
    pub(super) live: Arc<Live>,
}

/// What a service keeps over all states.
#[derive(Debug, Default)]
pub(super) struct Live {
    pub(super) counters: Counters,
    /// Whose turn it is.
    pub(super) turn: AtomicU32,
}

/// One endpoint.
#[derive(Debug)]
pub(super) struct Endpoint {
    pub(super) address: SocketAddr,
    pub(super) usable: bool,
    pub(super) live: Arc<EndpointLive>,
}

/// What an endpoint keeps over all states.
#[derive(Debug, Default)]
pub(crate) struct EndpointLive {
    pub(super) outstanding: AtomicU32,
    pub(super) record: Mutex<Record>,
}

/// Counts a request as outstanding for as long as it lives.
#[derive(Debug)]
pub(super) struct Outstanding(Arc<EndpointLive>);

impl Outstanding {
    pub(super) fn new(endpoint: &Endpoint) -> Self {
        endpoint.live.outstanding.fetch_add(1, Ordering::Relaxed);
        Self(Arc::clone(&endpoint.live))
    }
}

impl Drop for Outstanding {
    fn drop(&mut self) {
        self.0.outstanding.fetch_sub(1, Ordering::Relaxed);
    }
}

impl Mesh {
    /// Makes `state` ready to be served. What is unchanged is shared with `earlier`, what is counted goes on.
    pub(crate) fn new(state: ProxyState, earlier: &Self) -> Result<Self, String> {
        let mut mesh = Self { generation: state.generation, ..Self::default() };
        let mut tables = Tables::of(earlier);
        for spec in state.services {
            let name = spec.service.name.clone();
            let before = earlier.by_name.get(&name).and_then(|number| earlier.by_number.get(number));
            let number = spec.number;
            let service = match before {
                Some(before) if before.spec == spec => Arc::clone(before),
                before => Arc::new(Service::new(spec, before.map(Arc::as_ref), &mut tables)?),
            };
            if mesh.by_number.insert(number, service).is_some() || mesh.by_name.insert(name.clone(), number).is_some() {
                return Err(format!("service {name:?}: its name or number {number} is there twice; nothing has changed"));
            }
        }
        mesh.check_targets()?;
        Ok(mesh)
    }

    fn check_targets(&self) -> Result<(), String> {
        for service in self.by_number.values() {
            for route in &service.http().routes {
                let Action::Forward(forward) = &route.action else { continue };
                let backends = forward.backends.iter().map(|backend| &backend.target);
                let targets = backends.chain(forward.mirrors.iter().map(|mirror| &mirror.target));
                for name in targets.filter_map(|target| target.service.as_ref()) {
                    if !self.by_name.contains_key(name) {
                        return Err(format!(
                            "route {:?} of service {} leads to service {name}, which is not in the state; \
                             nothing has changed",
                            route.name, service.spec.service.name
                        ));
                    }
                }
            }
        }
        Ok(())
    }

    pub(super) fn service(&self, number: u32) -> Option<&Arc<Service>> {
        self.by_number.get(&number)
    }

    pub(super) fn named(&self, name: &ServiceName) -> Option<&Arc<Service>> {
        self.by_name.get(name).and_then(|number| self.by_number.get(number))
    }

    pub(crate) fn counters(&self) -> Vec<ServiceCounters> {
        let services = self.by_number.values();
        services.filter_map(|service| service.live.counters.report(&service.spec.service.name)).collect()
    }

    /// As it was sent.
    pub(crate) fn state(&self) -> ProxyState {
        let mut services: Vec<ProxyService> = self.by_number.values().map(|service| service.spec.clone()).collect();
        services.sort_by(|a, b| a.service.name.cmp(&b.service.name));
        ProxyState { generation: self.generation, services }
    }
}

/// Compiled routes by what they were compiled from.
struct Tables(HashMap<Arc<Http>, Arc<RouteTable>>);

impl Tables {
    fn of(mesh: &Mesh) -> Self {
        let tables = mesh.by_number.values().map(|service| &service.table);
        Self(tables.map(|table| (Arc::clone(table.http()), Arc::clone(table))).collect())
    }

    fn compile(&mut self, http: &Arc<Http>) -> Arc<RouteTable> {
        let compile = || Arc::new(RouteTable::compile(http));
        Arc::clone(self.0.entry(Arc::clone(http)).or_insert_with(compile))
    }
}

impl Service {
    fn new(mut spec: ProxyService, before: Option<&Self>, tables: &mut Tables) -> Result<Self, String> {
        let name = &spec.service.name;
        let http = spec.service.http.as_ref().ok_or_else(|| {
            format!("service {name} has no routes: only services with `protocol: http` belong here; nothing has changed")
        })?;
        let table = tables.compile(http);
        let http = Arc::clone(table.http());
        let alike = spec.endpoints.len() == spec.service.endpoints.len()
            && spec.endpoints.iter().zip(&spec.service.endpoints).all(|(now, wanted)| now.address == wanted.address);
        if !alike {
            return Err(format!("service {name}: its endpoints and their states differ; nothing has changed"));
        }
        let known: HashMap<SocketAddr, &Arc<EndpointLive>> =
            before.iter().flat_map(|before| &before.endpoints).map(|known| (known.address, &known.live)).collect();
        let endpoints = spec.endpoints.iter().zip(&spec.service.endpoints).map(|(now, wanted)| Endpoint {
            address: now.address,
            usable: now.usable && wanted.weight > 0 && !wanted.draining,
            live: known.get(&now.address).map(|live| Arc::clone(live)).unwrap_or_default(),
        });
        let endpoints = endpoints.collect();
        Arc::make_mut(&mut spec.service).http = Some(Arc::clone(&http));
        Ok(Self {
            endpoints,
            limits: Limits::new(&http, before.map(|before| &before.limits)),
            tries: tries(&http, before),
            live: before.map(|before| Arc::clone(&before.live)).unwrap_or_default(),
            table,
            spec,
        })
    }

    pub(super) fn http(&self) -> &Http {
        self.table.http()
    }

    /// What the file says about it.
    pub(super) fn wanted(&self) -> &alize_model::Service {
        &self.spec.service
    }

    fn tries_of(&self, route: &str) -> Option<&Arc<Tries>> {
        let (rule, _) = (0..).zip(&self.http().routes).find(|(_, known)| *known.name == *route)?;
        self.tries.get(&rule)
    }
}

fn tries(http: &Http, before: Option<&Service>) -> HashMap<u16, Arc<Tries>> {
    let retrying = (0..).zip(&http.routes).filter(|(_, route)| match &route.action {
        Action::Forward(forward) => forward.retry.is_some(),
        Action::Redirect(_) | Action::Respond(_) => false,
    });
    retrying
        .map(|(rule, route)| {
            let known = before.and_then(|before| before.tries_of(&route.name));
            (rule, known.map(Arc::clone).unwrap_or_default())
        })
        .collect()
}
