//! From a service and the health of its endpoints to the balancing table: pure, exact, the same on every machine.
//!
//! Tables speak of *positions* in the service's list of endpoints; numbers of the kernel are put in when the table is
//! written ([`Table::words`]).

mod alias;
mod maglev;
mod turns;
mod weights;

use std::collections::HashMap;
use std::net::SocketAddr;

use alize_model::{Balance, Endpoint, Mode, Service};

use crate::Unavailable;
use crate::abi::{Choice, Slot, THRESHOLD_ONE};
pub(crate) use weights::Share;

/// An alias table, which gives each share by chance.
pub(crate) fn alias(shares: &[Share]) -> Vec<Slot> {
    alias::slots(shares)
}

/// The turn order of the shares.
pub(crate) fn turns(shares: &[Share]) -> Vec<Slot> {
    turns::slots(shares)
}
pub(crate) use maglev::mix;

/// The endpoints of one service that are unavailable, sorted by address; its part of [`crate::Availability`].
pub(crate) type Sick = [(SocketAddr, Unavailable)];

/// A balancing table whose slots name positions in a list of endpoints.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Table {
    pub(crate) choice: Choice,
    pub(crate) slots: Vec<Slot>,
}

/// The tables of a service: for callers that can reach IPv4 only, and for callers with an IPv6 socket.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Tables {
    pub(crate) v4: Table,
    /// `None`: the same as `v4`, which then is written once.
    pub(crate) v6: Option<Table>,
}

impl Table {
    /// The slot words, with the number of each position from `numbers`.
    pub(crate) fn words(&self, numbers: &[u32]) -> Vec<u64> {
        let number = |position: u32| numbers[position as usize];
        let slot = |slot: &Slot| Slot { endpoint: number(slot.endpoint), alias: number(slot.alias), ..*slot };
        self.slots.iter().map(|each| slot(each).pack()).collect()
    }
}

/// The tables for `service` while the endpoints in `sick` are unavailable.
///
/// An IPv6 caller gets the IPv6 endpoints, and the IPv4 ones (v4-mapped) where there is no usable IPv6 one.
pub(crate) fn build(service: &Service, sick: &Sick) -> Tables {
    let choice = choice_of(service.balance);
    if service.mode == Mode::Observe {
        // Nobody is sent anywhere, so there is nothing to choose from.
        return Tables { v4: Table { choice, slots: Vec::new() }, v6: None };
    }
    let usable: Vec<usize> =
        (0..service.endpoints.len()).filter(|&at| is_usable(&service.endpoints[at], sick)).collect();
    let (v4, v6): (Vec<usize>, Vec<usize>) =
        usable.into_iter().partition(|&at| service.endpoints[at].address.is_ipv4());
    Tables { v4: table(service, choice, &v4), v6: (!v6.is_empty()).then(|| table(service, choice, &v6)) }
}

fn is_usable(endpoint: &Endpoint, sick: &Sick) -> bool {
    endpoint.weight > 0
        && !endpoint.draining
        && sick.binary_search_by_key(&endpoint.address, |(address, _)| *address).is_err()
}

fn choice_of(balance: Balance) -> Choice {
    match balance {
        Balance::WeightedRandom => Choice::WeightedRandom,
        Balance::RoundRobin => Choice::RoundRobin,
        Balance::LeastConnections => Choice::LeastConnections,
        Balance::Maglev { .. } => Choice::Maglev,
    }
}

fn table(service: &Service, choice: Choice, positions: &[usize]) -> Table {
    let shares = weights::shares(service, positions);
    if shares.is_empty() {
        return Table { choice, slots: Vec::new() };
    }
    let slots = match service.balance {
        Balance::WeightedRandom => alias::slots(&shares),
        Balance::RoundRobin => turns::slots(&shares),
        Balance::LeastConnections => thresholds(&shares),
        Balance::Maglev { table_size } => {
            let hash = |position: u32| maglev::hash(service.endpoints[position as usize].address);
            maglev::slots(&shares, table_size.get(), hash)
        }
    };
    Table { choice, slots }
}

/// One slot an endpoint; the largest weight takes all 24 bits, and none becomes 0.
pub(crate) fn thresholds(shares: &[Share]) -> Vec<Slot> {
    let largest = shares.iter().map(|share| share.weight).max().unwrap_or(1);
    let scaled = |weight: u64| {
        let exact = u128::from(weight) * u128::from(THRESHOLD_ONE - 1) / u128::from(largest);
        (exact as u32).max(1)
    };
    let slot = |share: &Share| Slot { threshold: scaled(share.weight), ..Slot::only(share.position) };
    shares.iter().map(slot).collect()
}

/// The share of new connections of each endpoint that a table names, 0 to 1. Of least-connections it is what the
/// endpoints get while all of them are equally loaded for their weight.
pub(crate) fn shares_of(choice: Choice, slots: &[u64]) -> HashMap<u32, f64> {
    let mut shares = HashMap::new();
    let mut add = |endpoint: u32, share: f64| *shares.entry(endpoint).or_insert(0.0) += share;
    let slots = slots.iter().map(|&word| Slot::unpack(word));
    let each = 1.0 / slots.len() as f64;
    match choice {
        Choice::WeightedRandom => {
            for slot in slots {
                let odds = f64::from(slot.threshold) / f64::from(THRESHOLD_ONE);
                add(slot.endpoint, each * odds);
                add(slot.alias, each * (1.0 - odds));
            }
        }
        Choice::LeastConnections => {
            let total: f64 = slots.clone().map(|slot| f64::from(slot.threshold)).sum();
            slots.for_each(|slot| add(slot.endpoint, f64::from(slot.threshold) / total));
        }
        Choice::RoundRobin | Choice::Maglev => slots.for_each(|slot| add(slot.endpoint, each)),
    }
    shares
}

#[cfg(test)]
pub(crate) mod tests;
