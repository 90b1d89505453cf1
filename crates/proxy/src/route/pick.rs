//! Which endpoint a request goes to.

use std::net::SocketAddr;
use std::num::NonZeroU32;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Instant;

use alize_model::http::{Backend, HashOn, HttpBalance, Target, hash, rendezvous, value_place};
use http::HeaderMap;
use http::header::COOKIE;

use super::mesh::{EndpointLive, Mesh, Outstanding, Service};
use super::spec::EndpointSpec;
use crate::back::lock;
use crate::front::Origin;
use crate::kernel::Kernel;
use crate::reason::Reason;

/// An endpoint of a service, which need not be the one that was dialled.
#[derive(Clone, Debug)]
pub(super) struct Picked {
    pub(super) service: Arc<Service>,
    index: usize,
}

impl Picked {
    pub(super) fn address(&self) -> SocketAddr {
        self.service.endpoint(self.index).0.address
    }

    fn max_requests(&self) -> Option<NonZeroU32> {
        self.service.http().circuit.and_then(|circuit| circuit.max_requests)
    }

    pub(super) fn live(&self) -> &Arc<EndpointLive> {
        self.service.endpoint(self.index).1
    }
}

/// What the choice depends on.
pub(super) struct Asking<'a> {
    pub(super) kernel: &'a dyn Kernel,
    pub(super) mesh: &'a Mesh,
    pub(super) own: &'a Arc<Service>,
    pub(super) origin: &'a Origin,
    pub(super) headers: &'a HeaderMap,
    /// Endpoints that have failed this request: only when there is no other.
    pub(super) avoid: &'a [SocketAddr],
}

/// Endpoints of one backend that take a request now.
struct Candidates<'a> {
    service: &'a Arc<Service>,
    indices: Vec<usize>,
    /// Whether a circuit has left one out.
    open_circuit: bool,
}

/// The kernel may count one more request between the look at an endpoint's and the count here, but not so often.
const TRIES: u32 = 8;

/// Picks one of `backends` by weight, and an endpoint in it, at which the request counts from now on.
pub(super) fn pick(asking: &Asking<'_>, backends: &[Backend]) -> Result<(Picked, Outstanding), Reason> {
    for _ in 0..TRIES {
        let picked = choose(asking, backends)?;
        if let Some(outstanding) = Outstanding::new(picked.live(), picked.max_requests()) {
            return Ok((picked, outstanding));
        }
    }
    Err(Reason::CircuitOpen)
}

fn choose(asking: &Asking<'_>, backends: &[Backend]) -> Result<Picked, Reason> {
    let all = backends.iter().filter(|backend| backend.weight > 0);
    let found: Vec<(u64, Candidates<'_>)> = all
        .filter_map(|backend| Some((u64::from(backend.weight), candidates(asking, &backend.target)?)))
        .collect();
    let open_circuit = found.iter().any(|(_, candidates)| candidates.open_circuit);
    let fit: Vec<&(u64, Candidates<'_>)> = found.iter().filter(|(_, c)| !c.indices.is_empty()).collect();
    let chosen = by_weight(fit.iter().map(|(weight, _)| *weight));
    let Some((_, candidates)) = chosen.and_then(|place| fit.get(place)) else {
        return Err(if open_circuit { Reason::CircuitOpen } else { Reason::NoEndpoint });
    };
    let index = within(asking, candidates).ok_or(Reason::NoEndpoint)?;
    Ok(Picked { service: Arc::clone(candidates.service), index })
}

/// Picks an endpoint of `target` for a copy.
pub(super) fn pick_of(asking: &Asking<'_>, target: &Target) -> Option<Picked> {
    let candidates = candidates(asking, target)?;
    let index = within(asking, &candidates)?;
    Some(Picked { service: Arc::clone(candidates.service), index })
}

fn candidates<'a>(asking: &Asking<'a>, target: &Target) -> Option<Candidates<'a>> {
    let service = match &target.service {
        None => asking.own,
        Some(name) => asking.mesh.named(name)?,
    };
    let http = service.http();
    let max_requests = http.circuit.and_then(|circuit| circuit.max_requests).map(|max| max.get());
    let now = http.outlier.map(|_| Instant::now());
    let mut open_circuit = false;
    let takes = |(index, (endpoint, live)): (usize, (&EndpointSpec, &Arc<EndpointLive>))| {
        if !endpoint.usable || endpoint.weight == 0 || !endpoint.is_selected_by(target) {
            return None;
        }
        if now.is_some_and(|now| lock(&live.record).is_ejected(now)) {
            return None;
        }
        if max_requests.is_some_and(|max| live.outstanding() >= max) {
            open_circuit = true;
            return None;
        }
        Some(index)
    };
    let mut indices: Vec<usize> = service.endpoints().enumerate().filter_map(takes).collect();
    let untried = |index: &usize| !asking.avoid.contains(&service.endpoint(*index).0.address);
    if !asking.avoid.is_empty() && indices.iter().any(untried) {
        indices.retain(untried);
    }
    Some(Candidates { service, indices, open_circuit })
}

fn within(asking: &Asking<'_>, candidates: &Candidates<'_>) -> Option<usize> {
    let service = candidates.service;
    let indices = candidates.indices.as_slice();
    if let [] | [_] = indices {
        return indices.first().copied();
    }
    let weight = |index: usize| u64::from(service.endpoint(index).0.weight);
    let weights = || indices.iter().map(|index| weight(*index));
    let place = match &service.http().balance {
        HttpBalance::WeightedRandom => by_weight(weights())?,
        HttpBalance::RoundRobin => {
            let turn = u64::from(service.live.turn.fetch_add(1, Ordering::Relaxed));
            at(weights(), turn % weights().sum::<u64>().max(1))?
        }
        HttpBalance::ConsistentHash(on) => match hash_of(asking, on) {
            Some(hash) => {
                let weighted = indices.iter().map(|index| {
                    let (endpoint, _) = service.endpoint(*index);
                    (endpoint.address.to_string(), endpoint.weight)
                });
                rendezvous(hash, weighted)?
            }
            None => least(service, indices)?,
        },
        HttpBalance::LeastRequests => least(service, indices)?,
    };
    indices.get(place).copied()
}

/// The better of two drawn by chance, by outstanding requests for the weight.
fn least(service: &Service, indices: &[usize]) -> Option<usize> {
    let one = fastrand::usize(..indices.len());
    let other = (one + fastrand::usize(1..indices.len())) % indices.len();
    let load = |place: usize| {
        let index = indices[place];
        let (endpoint, live) = service.endpoint(index);
        (u64::from(live.outstanding()) + 1, u64::from(endpoint.weight))
    };
    let ((one_load, one_weight), (other_load, other_weight)) = (load(one), load(other));
    // Idle endpoints get their share by weight, too: the comparison alone would always take the heavier.
    if one_load == 1 && other_load == 1 {
        let first = fastrand::u64(..one_weight + other_weight) < one_weight;
        return Some(if first { one } else { other });
    }
    Some(if one_load * other_weight <= other_load * one_weight { one } else { other })
}

fn by_weight(weights: impl Iterator<Item = u64> + Clone) -> Option<usize> {
    let total: u64 = weights.clone().sum();
    if total == 0 { None } else { at(weights, fastrand::u64(..total)) }
}

/// The place in which `point` of the sum of all weights lies.
fn at(weights: impl Iterator<Item = u64>, mut point: u64) -> Option<usize> {
    for (place, weight) in weights.enumerate() {
        if point < weight {
            return Some(place);
        }
        point -= weight;
    }
    None
}

fn hash_of(asking: &Asking<'_>, on: &HashOn) -> Option<u64> {
    match on {
        // By places, of which the kernel has a table.
        HashOn::Header(name) => {
            asking.headers.get(name.as_str()).map(|value| value_place(value.as_bytes()).into())
        }
        HashOn::Source => {
            Some(asking.kernel.caller(asking.origin.netns, asking.origin.peer.ip()).place().into())
        }
        HashOn::Cookie(name) => {
            let cookies = asking
                .headers
                .get_all(COOKIE)
                .iter()
                .flat_map(|value| value.as_bytes().split(|b| *b == b';'));
            let value = |cookie: &[u8]| {
                let (found, value) = cookie.trim_ascii().split_at_checked(name.len())?;
                (found == name.as_bytes()).then(|| value.strip_prefix(b"=").map(|value| hash(value, 0)))?
            };
            cookies.into_iter().find_map(value)
        }
    }
}
