//! Affinity and balance, worked out as `alize/affinity.h` and `alize/balance.h` do it.

use std::collections::HashMap;
use std::net::SocketAddr;
use std::time::Duration;

use super::caller::Client;
use super::tables::Tables;
use super::{Candidate, is_ipv4};
use crate::Error;
use crate::abi::{self, Choice, ServiceWord, Slot, affinity_key, endpoint, endpoint_load, endpoint_state};
use crate::tables::{mix, shares_of};

/// Above so many endpoints the odds of least-connections are told as shares: they take a comparison of each with each.
const COMPARED: usize = 1024;

/// What the tables offer this caller.
pub(super) struct Choices {
    /// Sorted by address.
    pub(super) candidates: Vec<Candidate>,
    /// What was found of affinity and of balance, in words.
    pub(super) affinity: String,
    pub(super) balance: String,
    /// The one that it gets, where only one is possible.
    pub(super) only: Option<SocketAddr>,
    /// There is none for it.
    pub(super) refused: bool,
}

/// The name of a way to balance, as the file has it.
pub(super) fn name(choice: Choice) -> &'static str {
    match choice {
        Choice::WeightedRandom => "weighted-random",
        Choice::RoundRobin => "round-robin",
        Choice::LeastConnections => "least-connections",
        Choice::Maglev => "maglev",
    }
}

pub(super) fn weigh(
    tables: &Tables,
    service: u32,
    word: ServiceWord,
    dialled: SocketAddr,
    client: &Client,
) -> Result<Choices, Error> {
    let endpoints = tables.endpoints_of(service)?;
    let loads = tables.loads(endpoints.iter().map(|(number, _)| *number))?;
    let slots = tables.slots(word)?;
    let shares = shares_of(word.choice, &slots);
    let (kept, affinity) = affinity(tables, service, word, dialled, client)?;
    let (odds, balance) = match kept {
        Some(number) => (HashMap::from([(number, 1.0)]), "not asked: affinity has decided".to_owned()),
        None => odds(tables, service, word, &slots, &shares, &loads, client)?,
    };
    let named = named(&slots);
    let mut candidates: Vec<Candidate> = endpoints
        .iter()
        .map(|(number, entry)| Candidate {
            address: abi::socket_addr(entry.address, entry.port),
            id: *number,
            state: state_name(entry.state),
            slots: named.get(number).copied().unwrap_or(0),
            share: shares.get(number).copied().unwrap_or(0.0),
            odds: odds.get(number).copied().unwrap_or(0.0),
            open: loads[number].open,
            failures: loads[number].failures,
            left_out: left_out(
                entry,
                dialled,
                named.contains_key(number),
                &endpoints,
                &named,
                loads[number].open,
            ),
        })
        .collect();
    candidates.sort_by_key(|candidate| (candidate.address, candidate.id));
    let certain = candidates.iter().find(|candidate| candidate.odds > 1.0 - 1e-9);
    let only = certain.map(|candidate| candidate.address);
    let refused = slots.is_empty() && kept.is_none();
    Ok(Choices { candidates, affinity, balance, only, refused })
}

/// How many slots name each endpoint, as the first or as the alias.
fn named(slots: &[u64]) -> HashMap<u32, u32> {
    let mut named = HashMap::new();
    for slot in slots.iter().map(|&word| Slot::unpack(word)) {
        *named.entry(slot.endpoint).or_insert(0) += 1;
        // Of an endpoint that is its own alias, or has all of its slot, the alias says nothing.
        if slot.alias != slot.endpoint {
            *named.entry(slot.alias).or_insert(0) += 1;
        }
    }
    named
}

fn state_name(state: u8) -> &'static str {
    match endpoint_state(state.into()) {
        endpoint_state::ENDPOINT_ACTIVE => "active",
        endpoint_state::ENDPOINT_DRAINING => "draining",
        endpoint_state::ENDPOINT_UNAVAILABLE => "unavailable",
        _ => "removed",
    }
}

/// Why an endpoint gets none of the caller's new connections.
fn left_out(
    entry: &endpoint,
    dialled: SocketAddr,
    is_named: bool,
    all: &[(u32, endpoint)],
    named: &HashMap<u32, u32>,
    open: u32,
) -> Option<String> {
    let why = match endpoint_state(entry.state.into()) {
        endpoint_state::ENDPOINT_DRAINING => "draining, as the file says: old connections go on".into(),
        endpoint_state::ENDPOINT_UNAVAILABLE => {
            "unhealthy (its checks fail) or ejected (it failed connects of clients)".into()
        }
        endpoint_state::ENDPOINT_ACTIVE if is_named => return None,
        endpoint_state::ENDPOINT_ACTIVE => {
            let six = |entry: &endpoint| abi::socket_addr(entry.address, entry.port).is_ipv6();
            let six_is_named = all.iter().any(|(number, entry)| named.contains_key(number) && six(entry));
            match (is_ipv4(dialled), six(entry)) {
                (true, true) => "IPv6, which a caller of an IPv4 address cannot reach".into(),
                (false, false) if six_is_named => {
                    "IPv4: callers over IPv6 get the IPv6 endpoints first".into()
                }
                _ => "no slot names it: its weight, or the share of its label, is 0".into(),
            }
        }
        _ => format!("removed from the file: kept until its last connection ends ({open} open)"),
    };
    Some(why)
}

/// The endpoint that the client had, if it keeps it; and what was found.
fn affinity(
    tables: &Tables,
    service: u32,
    word: ServiceWord,
    dialled: SocketAddr,
    client: &Client,
) -> Result<(Option<u32>, String), Error> {
    if word.affinity == 0 {
        return Ok((None, "off".into()));
    }
    let Some(hash) = client.hash() else {
        return Ok((
            None,
            "on, but which client this is cannot be known: its network namespace is not".into(),
        ));
    };
    let v4 = is_ipv4(dialled);
    let key = affinity_key { client: hash, service, v4: v4.into() };
    let Some(kept) = tables.remembered(key)? else {
        let found = format!("on ({} s), and this client has not been here", word.affinity);
        return Ok((None, found));
    };
    let age = Duration::from_nanos(super::monotonic_ns().saturating_sub(kept.seen_ns));
    let seconds = age.as_secs();
    if age >= Duration::from_secs(word.affinity.into()) {
        return Ok((
            None,
            format!("its last connection was {seconds} s ago: longer than {} s", word.affinity),
        ));
    }
    let mut endpoints = tables.endpoints_of(service)?.into_iter();
    let Some((_, entry)) = endpoints.find(|(number, _)| *number == kept.endpoint) else {
        return Ok((None, "the endpoint that it had is gone".into()));
    };
    let address = abi::socket_addr(entry.address, entry.port);
    if endpoint_state(entry.state.into()) != endpoint_state::ENDPOINT_ACTIVE || (v4 && address.is_ipv6()) {
        return Ok((
            None,
            format!("it had {address}, which takes no new connection ({})", state_name(entry.state)),
        ));
    }
    let found = format!("it keeps {address}, which it had {seconds} s ago (timeout {} s)", word.affinity);
    Ok((Some(kept.endpoint), found))
}

/// The odds of each endpoint by number, and how they come about.
fn odds(
    tables: &Tables,
    service: u32,
    word: ServiceWord,
    slots: &[u64],
    shares: &HashMap<u32, f64>,
    loads: &HashMap<u32, endpoint_load>,
    client: &Client,
) -> Result<(HashMap<u32, f64>, String), Error> {
    let Some(length) = std::num::NonZeroU64::new(slots.len() as u64) else {
        return Ok((HashMap::new(), "there is no slot: no endpoint is usable".into()));
    };
    let at = |index: u64| Slot::unpack(slots[index as usize]).endpoint;
    let run = format!("slots {} to {}", word.base, u64::from(word.base) + length.get() - 1);
    let only = |number| HashMap::from([(number, 1.0)]);
    Ok(match word.choice {
        Choice::WeightedRandom => (shares.clone(), format!("weighted-random: one of {run} by chance")),
        Choice::RoundRobin => {
            let turn = tables.turns(service)?;
            let next = turn % length;
            let found =
                format!("round-robin: the next turn is number {turn}, place {next} of {length} ({run})");
            (only(at(next)), found)
        }
        Choice::Maglev => match client.hash() {
            Some(hash) => {
                let place = mix(hash ^ u64::from(service)) % length;
                let found =
                    format!("maglev: this client hashes to place {place} of {length} ({run}), always");
                (only(at(place)), found)
            }
            None => {
                let found = format!(
                    "maglev over {length} places ({run}): the place depends on the client's network namespace"
                );
                (shares.clone(), found)
            }
        },
        Choice::LeastConnections => {
            let found = format!("least-connections: the less loaded of two of {run}, drawn by chance");
            let all: Vec<Slot> = slots.iter().map(|&word| Slot::unpack(word)).collect();
            let odds = if all.len() <= COMPARED { of_pairs(&all, loads) } else { shares.clone() };
            (odds, found)
        }
    })
}

/// The odds of each endpoint to be the better one of a pair, as loads are now.
fn of_pairs(slots: &[Slot], loads: &HashMap<u32, endpoint_load>) -> HashMap<u32, f64> {
    let mut odds = HashMap::new();
    let load = |slot: &Slot| loads.get(&slot.endpoint).map_or(1, |load| u64::from(load.open) + 1);
    if let [slot] = slots {
        return HashMap::from([(slot.endpoint, 1.0)]);
    }
    let pairs = (slots.len() * (slots.len() - 1)) as f64;
    for (one, first) in slots.iter().enumerate() {
        for (other, second) in slots.iter().enumerate().filter(|(other, _)| *other != one) {
            let keeps =
                load(first) * u64::from(second.threshold) <= load(second) * u64::from(first.threshold);
            let taken = if keeps { first } else { &slots[other] };
            *odds.entry(taken.endpoint).or_insert(0.0) += 1.0 / pairs;
        }
    }
    odds
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_less_loaded_of_a_pair_wins() {
        let slot = |endpoint, threshold| Slot { threshold, ..Slot::only(endpoint) };
        let load = |open| endpoint_load { open, failures: 0 };
        let loads = HashMap::from([(1, load(0)), (2, load(5)), (3, load(9))]);
        let odds = of_pairs(&[slot(1, 1), slot(2, 1), slot(3, 1)], &loads);
        assert!((odds[&1] - 2.0 / 3.0).abs() < 1e-9 && (odds[&2] - 1.0 / 3.0).abs() < 1e-9, "{odds:?}");
        assert_eq!(odds.get(&3), None, "the most loaded loses to each of the others");
        let alone = of_pairs(&[slot(7, 1)], &loads);
        assert_eq!(alone, HashMap::from([(7, 1.0)]));
        // Twice the weight may hold twice the connections.
        let odds = of_pairs(&[slot(1, 1), slot(2, 100)], &loads);
        assert_eq!(odds, HashMap::from([(2, 1.0)]));
    }
}
