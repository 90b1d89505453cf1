//! Which endpoint a request goes to.

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Instant;

use alize_model::http::{Backend, HashOn, HttpBalance, Target};
use http::HeaderMap;
use http::header::COOKIE;

use super::mesh::{EndpointLive, Mesh, Service};
use super::spec::EndpointSpec;
use crate::back::lock;
use crate::front::Origin;
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

    pub(super) fn live(&self) -> &Arc<EndpointLive> {
        self.service.endpoint(self.index).1
    }
}

/// What the choice depends on.
pub(super) struct Asking<'a> {
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

/// Picks one of `backends` by weight, and an endpoint in it.
pub(super) fn pick(asking: &Asking<'_>, backends: &[Backend]) -> Result<Picked, Reason> {
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
        if max_requests.is_some_and(|max| live.outstanding.load(Ordering::Relaxed) >= max) {
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
            Some(hash) => return rendezvous(service, indices, hash),
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
        (u64::from(live.outstanding.load(Ordering::Relaxed)) + 1, u64::from(endpoint.weight))
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
        HashOn::Header(name) => asking.headers.get(name.as_str()).map(|value| hash(value.as_bytes(), 0)),
        HashOn::Source => Some(match asking.origin.peer.ip() {
            std::net::IpAddr::V4(ip) => hash(&ip.octets(), 0),
            std::net::IpAddr::V6(ip) => hash(&ip.octets(), 0),
        }),
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

/// Highest random weight: an endpoint that comes or goes moves only the requests that it gets or had. The same on
/// every host, so it is no hash that a library may change.
fn rendezvous(service: &Service, indices: &[usize], hash_of_request: u64) -> Option<usize> {
    let score = |index: &usize| {
        let (endpoint, _) = service.endpoint(*index);
        let drawn = hash(endpoint.address.to_string().as_bytes(), hash_of_request);
        let even = (drawn >> 11) as f64 / (1_u64 << 53) as f64;
        -f64::from(endpoint.weight) / even.max(f64::MIN_POSITIVE).ln()
    };
    indices.iter().copied().max_by(|a, b| score(a).total_cmp(&score(b)))
}

/// FNV-1a with the finish of SplitMix64.
fn hash(bytes: &[u8], seed: u64) -> u64 {
    let start = 0xcbf2_9ce4_8422_2325 ^ seed;
    let mut hash =
        bytes.iter().fold(start, |hash, byte| (hash ^ u64::from(*byte)).wrapping_mul(0x0100_0000_01b3));
    hash = (hash ^ (hash >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    hash = (hash ^ (hash >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    hash ^ (hash >> 31)
}
