//! What the proxy keeps of a state: much less than the agent sends.
//!
//! A state is read service by service, and what a service has in common with others is shared: a thousand services are a
//! megabyte, not ten.

use std::collections::HashSet;
use std::fmt;
use std::hash::Hash;
use std::net::SocketAddr;
use std::sync::Arc;

use alize_model::control::{ProxyEndpoint, ProxyService, ProxyState};
use alize_model::http::{Http, Target};
use alize_model::{Balance, Endpoint, Mode, Protocol, Removal, Service, ServiceName};
use serde::Deserialize;
use serde::de::{Deserializer, SeqAccess, Visitor};

/// A state, or what is wrong with one of its services.
#[derive(Debug, Deserialize)]
pub(crate) struct Plan {
    pub(super) generation: u64,
    #[serde(deserialize_with = "one_by_one")]
    pub(super) services: Result<Vec<Spec>, String>,
}

/// Names and values. A map of one entry takes half a kilobyte.
type Labels = Arc<[(Arc<str>, Arc<str>)]>;

/// A service.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Spec {
    pub(super) number: u32,
    pub(super) name: ServiceName,
    pub(super) http: Arc<Http>,
    pub(super) endpoints: Box<[EndpointSpec]>,
}

/// An endpoint.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct EndpointSpec {
    pub(super) address: SocketAddr,
    /// Under which the kernel knows it.
    pub(super) number: u32,
    pub(super) weight: u16,
    /// Whether it takes requests, if its weight allows.
    pub(super) usable: bool,
    labels: Labels,
}

impl EndpointSpec {
    /// As [`Target::selects`].
    pub(super) fn is_selected_by(&self, target: &Target) -> bool {
        let has =
            |wanted: (&Arc<str>, &Arc<str>)| self.labels.iter().any(|(name, value)| wanted == (name, value));
        target.labels.iter().all(has)
    }
}

impl From<ProxyState> for Plan {
    fn from(state: ProxyState) -> Self {
        let mut shared = Shared::default();
        let services = state.services.into_iter().map(|service| shared.spec(service)).collect();
        Self { generation: state.generation, services }
    }
}

/// What was seen before is not kept twice.
#[derive(Default)]
struct Shared {
    rules: HashSet<Arc<Http>>,
    labels: HashSet<Labels>,
}

impl Shared {
    fn spec(&mut self, sent: ProxyService) -> Result<Spec, String> {
        let ProxyService { number, service, endpoints } = sent;
        let name = &service.name;
        let http = service.http.clone().ok_or_else(|| {
            format!("service {name} has no routes: only services with `protocol: http` belong here; nothing has changed")
        })?;
        let alike = endpoints.len() == service.endpoints.len()
            && endpoints.iter().zip(&service.endpoints).all(|(now, wanted)| now.address == wanted.address);
        if !alike {
            return Err(format!(
                "service {name}: its endpoints and their states differ; nothing has changed"
            ));
        }
        let endpoints = endpoints.iter().zip(&service.endpoints).map(|(now, wanted)| EndpointSpec {
            address: now.address,
            number: now.number,
            weight: wanted.weight,
            usable: now.usable && !wanted.draining,
            labels: keep(
                &mut self.labels,
                wanted.labels.iter().map(|(n, v)| (Arc::clone(n), Arc::clone(v))).collect(),
            ),
        });
        Ok(Spec {
            number,
            name: name.clone(),
            endpoints: endpoints.collect(),
            http: keep(&mut self.rules, http),
        })
    }
}

fn keep<T: Hash + Eq + Clone>(known: &mut HashSet<T>, value: T) -> T {
    match known.get(&value) {
        Some(known) => known.clone(),
        None => {
            known.insert(value.clone());
            value
        }
    }
}

fn one_by_one<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Result<Vec<Spec>, String>, D::Error> {
    struct Specs;
    impl<'de> Visitor<'de> for Specs {
        type Value = Result<Vec<Spec>, String>;

        fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
            f.write_str("services")
        }

        fn visit_seq<A: SeqAccess<'de>>(self, mut services: A) -> Result<Self::Value, A::Error> {
            let (mut shared, mut specs) = (Shared::default(), Ok(Vec::new()));
            while let Some(service) = services.next_element::<ProxyService>()? {
                match (&mut specs, shared.spec(service)) {
                    (Ok(specs), Ok(spec)) => specs.push(spec),
                    (Ok(_), Err(error)) => specs = Err(error),
                    (Err(_), _) => {}
                }
            }
            Ok(specs)
        }
    }
    deserializer.deserialize_seq(Specs)
}

impl Spec {
    /// As the agent would send it, as far as the proxy looks at it.
    pub(super) fn to_sent(&self) -> ProxyService {
        let endpoints = self.endpoints.iter().map(|endpoint| Endpoint {
            address: endpoint.address,
            weight: endpoint.weight,
            labels: endpoint.labels.iter().cloned().collect(),
            draining: false,
        });
        let states = self.endpoints.iter().map(|endpoint| ProxyEndpoint {
            address: endpoint.address,
            number: endpoint.number,
            usable: endpoint.usable,
        });
        let service = Service {
            name: self.name.clone(),
            protocol: Protocol::Http,
            mode: Mode::default(),
            frontends: Vec::new(),
            balance: Balance::default(),
            affinity: None,
            health: None,
            ejection: None,
            removal: Removal::default(),
            tls: Default::default(),
            split: None,
            endpoints: endpoints.collect(),
            http: Some(Arc::clone(&self.http)),
        };
        ProxyService { number: self.number, service: Arc::new(service), endpoints: states.collect() }
    }
}
