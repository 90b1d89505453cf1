//! The state in force, and what outlives it.

use std::collections::HashMap;
use std::num::NonZeroU32;
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Arc, Mutex};

use alize_datapath::http::Load;
use alize_model::ServiceName;
use alize_model::control::{ProxyService, ProxyState, ServiceCounters};
use alize_model::http::{Action, Http, RouteTable};

use super::limit::{Limits, Tries};
use super::outlier::Record;
use super::spec::{EndpointSpec, Plan, Spec};
use crate::counters::{self, Counters};
use crate::kernel::{InForce, Kernel};

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
    spec: Spec,
    /// Shared by all services with the same rules: most have none.
    pub(super) table: Arc<RouteTable>,
    pub(super) limits: Limits,
    /// By the route's number, for routes that try again.
    pub(super) tries: HashMap<u16, Arc<Tries>>,
    endpoints: Box<[Arc<EndpointLive>]>,
    pub(super) live: Arc<Live>,
}

/// What a service keeps over all states.
#[derive(Debug, Default)]
pub(super) struct Live {
    pub(super) counters: Counters,
    /// Whose turn it is.
    pub(super) turn: AtomicU32,
}

/// What an endpoint keeps over all states.
#[derive(Debug, Default)]
pub(crate) struct EndpointLive {
    /// Where the kernel counts too.
    shared: Option<Load>,
    own: AtomicU32,
    pub(super) record: Mutex<Record>,
}

impl EndpointLive {
    fn new(number: u32, kernel: &dyn Kernel) -> Self {
        Self { shared: kernel.load(number), ..Self::default() }
    }

    /// Requests that it has not answered whole.
    pub(super) fn outstanding(&self) -> u32 {
        self.shared.as_ref().map_or_else(|| self.own.load(Ordering::Relaxed), Load::get)
    }

    fn reserve(&self, most: u32) -> bool {
        match &self.shared {
            Some(load) => load.reserve(most),
            None => {
                let more = |count: u32| (count < most).then_some(count + 1);
                self.own.fetch_update(Ordering::Relaxed, Ordering::Relaxed, more).is_ok()
            }
        }
    }

    fn release(&self) {
        match &self.shared {
            Some(load) => load.release(),
            None => drop(self.own.fetch_sub(1, Ordering::Relaxed)),
        }
    }
}

/// Counts a request as outstanding for as long as it lives.
#[derive(Debug)]
pub(super) struct Outstanding(Arc<EndpointLive>);

impl Outstanding {
    /// Nothing: `most` are outstanding already.
    pub(super) fn new(endpoint: &Arc<EndpointLive>, most: Option<NonZeroU32>) -> Option<Self> {
        let reserved = endpoint.reserve(most.map_or(u32::MAX, NonZeroU32::get));
        reserved.then(|| Self(Arc::clone(endpoint)))
    }
}

impl Drop for Outstanding {
    fn drop(&mut self) {
        self.0.release();
    }
}

impl Mesh {
    /// Makes a state ready to be served. What is unchanged is shared with `earlier`, what is counted goes on.
    pub(crate) fn new(plan: Plan, earlier: &Self, kernel: &dyn Kernel) -> Result<Self, String> {
        let mut mesh = Self { generation: plan.generation, ..Self::default() };
        let mut tables = Tables::of(earlier);
        for spec in plan.services? {
            let name = spec.name.clone();
            let before = earlier.by_name.get(&name).and_then(|number| earlier.by_number.get(number));
            let number = spec.number;
            let service = match before {
                Some(before) if before.spec == spec => Arc::clone(before),
                before => Arc::new(Service::new(spec, before.map(Arc::as_ref), &mut tables, kernel)),
            };
            if mesh.by_number.insert(number, service).is_some()
                || mesh.by_name.insert(name.clone(), number).is_some()
            {
                return Err(format!(
                    "service {name:?}: its name or number {number} is there twice; nothing has changed"
                ));
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
                            route.name, service.spec.name
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

    /// Counts a request that the kernel has routed and whose response was carried here.
    pub(crate) fn count_carried(&self, service: u32, route: u32, mut request: counters::Request) {
        let Some(service) = self.by_number.get(&service) else { return };
        request.route = service.http().routes.get(route as usize).map(|route| Arc::clone(&route.name));
        service.live.counters.request(request);
    }

    pub(crate) fn counters(&self) -> Vec<ServiceCounters> {
        let services = self.by_number.values();
        services.filter_map(|service| service.live.counters.report(service.name())).collect()
    }

    /// The endpoints that take requests.
    pub(crate) fn in_force(&self) -> Vec<InForce> {
        let of = |service: &Arc<Service>| {
            let (pool, number) = (service.http().pool, service.spec.number);
            let usable = service.spec.endpoints.iter().filter(|endpoint| endpoint.usable);
            usable
                .map(|endpoint| InForce {
                    service: number,
                    number: endpoint.number,
                    address: endpoint.address,
                    pool,
                })
                .collect::<Vec<_>>()
        };
        self.by_number.values().flat_map(of).collect()
    }

    /// As it was sent.
    pub(crate) fn state(&self) -> ProxyState {
        let mut services: Vec<ProxyService> =
            self.by_number.values().map(|service| service.spec.to_sent()).collect();
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
    fn new(mut spec: Spec, before: Option<&Self>, tables: &mut Tables, kernel: &dyn Kernel) -> Self {
        let table = tables.compile(&spec.http);
        spec.http = Arc::clone(table.http());
        // One that the kernel knows under another number is another.
        let known = |endpoint: &EndpointSpec| {
            let before = before?;
            let place = before
                .spec
                .endpoints
                .iter()
                .position(|known| known.address == endpoint.address && known.number == endpoint.number)?;
            before.endpoints.get(place).map(Arc::clone)
        };
        Self {
            endpoints: spec
                .endpoints
                .iter()
                .map(|endpoint| {
                    known(endpoint).unwrap_or_else(|| Arc::new(EndpointLive::new(endpoint.number, kernel)))
                })
                .collect(),
            limits: Limits::new(&spec.name, &spec.http, before.map(|before| &before.limits)),
            tries: tries(&spec.http, before),
            live: before.map(|before| Arc::clone(&before.live)).unwrap_or_default(),
            table,
            spec,
        }
    }

    pub(super) fn http(&self) -> &Http {
        self.table.http()
    }

    pub(super) fn name(&self) -> &ServiceName {
        &self.spec.name
    }

    /// Its endpoints, and what is known of them, in the same order.
    pub(super) fn endpoints(&self) -> impl ExactSizeIterator<Item = (&EndpointSpec, &Arc<EndpointLive>)> {
        self.spec.endpoints.iter().zip(&self.endpoints)
    }

    /// The endpoint with this place.
    pub(super) fn endpoint(&self, place: usize) -> (&EndpointSpec, &Arc<EndpointLive>) {
        (&self.spec.endpoints[place], &self.endpoints[place])
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
