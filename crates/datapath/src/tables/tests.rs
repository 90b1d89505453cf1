use std::collections::{BTreeMap, HashMap};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::num::{NonZeroU16, NonZeroU32};

use alize_model::{Frontend, Labels, Protocol, Removal, ServiceName, Split};
use proptest::prelude::*;

use super::*;

fn maglev(size: u32) -> Balance {
    Balance::Maglev { table_size: NonZeroU32::new(size).unwrap() }
}

fn v4(host: u32) -> SocketAddr {
    (Ipv4Addr::from(0x0a00_0000 + host), 80).into()
}

fn endpoint(address: SocketAddr, weight: u16) -> Endpoint {
    Endpoint { address, weight, labels: Labels::new(), draining: false }
}

fn labelled(address: SocketAddr, weight: u16, version: &str) -> Endpoint {
    let labels = Labels::from([("version".into(), version.into())]);
    Endpoint { labels, ..endpoint(address, weight) }
}

fn service(balance: Balance, endpoints: Vec<Endpoint>) -> Service {
    Service {
        name: ServiceName::new("web").unwrap(),
        protocol: Protocol::Tcp,
        mode: Mode::Enforce,
        frontends: vec![Frontend {
            address: IpAddr::V4(Ipv4Addr::new(10, 96, 0, 1)),
            port: NonZeroU16::new(80).unwrap(),
        }],
        balance,
        affinity: None,
        health: None,
        ejection: None,
        removal: Removal::Keep,
        tls: Default::default(),
        split: None,
        http: None,
        endpoints,
    }
}

/// A service whose endpoints have these weights.
pub(crate) fn weighted(balance: Balance, weights: &[u16]) -> Service {
    let endpoints = weights.iter().zip(1..).map(|(&weight, host)| endpoint(v4(host), weight)).collect();
    service(balance, endpoints)
}

fn split(shares: &[(&str, u16)]) -> Option<Split> {
    let shares = shares.iter().map(|&(value, share)| (value.into(), share)).collect::<BTreeMap<_, _>>();
    Some(Split { label: "version".into(), shares })
}

/// Shares by position, of IPv4 callers.
fn shares(service: &Service) -> HashMap<u32, f64> {
    let table = build(service, &[]).v4;
    let positions: Vec<u32> = (0..service.endpoints.len() as u32).collect();
    shares_of(table.choice, &table.words(&positions))
}

fn share(shares: &HashMap<u32, f64>, position: u32) -> f64 {
    shares.get(&position).copied().unwrap_or(0.0)
}

/// Positions in the order of the slots.
fn order(service: &Service) -> Vec<u32> {
    build(service, &[]).v4.slots.iter().map(|slot| slot.endpoint).collect()
}

#[test]
fn a_service_that_only_observes_has_no_tables() {
    let service = Service { mode: Mode::Observe, ..weighted(Balance::WeightedRandom, &[1, 1]) };
    let tables = build(&service, &[]);
    assert_eq!((tables.v4.slots.len(), tables.v6), (0, None));
}

#[test]
fn what_takes_no_connection_is_in_no_table() {
    for balance in [Balance::WeightedRandom, Balance::RoundRobin, Balance::LeastConnections, maglev(251)] {
        let mut service = weighted(balance, &[1, 0, 1, 1]);
        service.endpoints[2].draining = true;
        let tables = build(&service, &[(v4(4), Unavailable::Unhealthy)]);
        assert!(!tables.v4.slots.is_empty());
        assert!(tables.v4.slots.iter().all(|slot| (slot.endpoint, slot.alias) == (0, 0)), "{balance:?}");
        let none = build(&service, &[(v4(1), Unavailable::Ejected), (v4(4), Unavailable::Unhealthy)]);
        assert!(none.v4.slots.is_empty(), "{balance:?}");
    }
}

#[test]
fn ipv6_callers_get_ipv6_endpoints_first() {
    let six: SocketAddr = (Ipv6Addr::LOCALHOST, 80).into();
    let mut service = service(Balance::RoundRobin, vec![endpoint(v4(1), 1), endpoint(six, 1)]);
    let tables = build(&service, &[]);
    assert_eq!(tables.v4.slots, [Slot::only(0)]);
    assert_eq!(tables.v6.unwrap().slots, [Slot::only(1)]);

    let without = build(&service, &[(six, Unavailable::Unhealthy)]);
    assert_eq!(
        (without.v4.slots, without.v6),
        (vec![Slot::only(0)], None),
        "v4-mapped where no IPv6 is usable"
    );

    service.endpoints.remove(0);
    let alone = build(&service, &[]);
    assert!(alone.v4.slots.is_empty(), "an IPv4 socket cannot reach an IPv6 endpoint");
    assert_eq!(alone.v6.unwrap().slots, [Slot::only(0)]);
}

#[test]
fn a_split_counts_values_and_not_endpoints() {
    let endpoints = vec![labelled(v4(1), 1, "v1"), labelled(v4(2), 3, "v1"), labelled(v4(3), 7, "v2")];
    let service =
        Service { split: split(&[("v1", 90), ("v2", 10)]), ..service(Balance::WeightedRandom, endpoints) };
    let shares = shares(&service);
    for (position, expected) in [(0, 0.225), (1, 0.675), (2, 0.1)] {
        assert!((share(&shares, position) - expected).abs() < 1e-7, "{position}: {shares:?}");
    }
}

#[test]
fn a_value_without_endpoint_leaves_its_share_and_no_label_means_none() {
    let endpoints = vec![labelled(v4(1), 1, "v1"), endpoint(v4(2), 1), labelled(v4(3), 1, "v3")];
    let split = split(&[("v1", 30), ("v2", 60), ("v3", 10)]);
    let service = Service { split, ..service(Balance::WeightedRandom, endpoints) };
    let shares = shares(&service);
    assert!((share(&shares, 0) - 0.75).abs() < 1e-7);
    assert_eq!(share(&shares, 1), 0.0);
    assert!((share(&shares, 2) - 0.25).abs() < 1e-7);
}

#[test]
fn turns_are_short_and_interleaved() {
    assert_eq!(order(&weighted(Balance::RoundRobin, &[1, 1, 1])), [0, 1, 2]);
    assert_eq!(order(&weighted(Balance::RoundRobin, &[500, 500])), [0, 1]);
    assert_eq!(order(&weighted(Balance::RoundRobin, &[2, 1])).len(), 3);
    assert_eq!(order(&weighted(Balance::RoundRobin, &[5, 1, 1])), [0, 0, 0, 1, 0, 0, 2]);
}

#[test]
fn a_long_sequence_is_shortened_within_its_bound() {
    let weights = [65_535, 65_533, 1, 17, 4_099];
    let service = weighted(Balance::RoundRobin, &weights);
    let length = order(&service).len() as f64;
    assert!(length <= 4096.0 + weights.len() as f64);
    let (shares, total) = (shares(&service), weights.iter().map(|&weight| f64::from(weight)).sum::<f64>());
    for (position, &weight) in weights.iter().enumerate() {
        let exact = f64::from(weight) / total;
        let bound = (1.0 + weights.len() as f64 * exact) / length;
        let got = share(&shares, position as u32);
        assert!(got > 0.0 && (got - exact).abs() <= bound, "{position}: {got} against {exact}");
    }
}

#[test]
fn least_connections_has_one_slot_an_endpoint() {
    let table = build(&weighted(Balance::LeastConnections, &[1, 65_535, 2]), &[]).v4;
    let thresholds: Vec<u32> = table.slots.iter().map(|slot| slot.threshold).collect();
    assert_eq!(thresholds, [256, THRESHOLD_ONE - 1, 512]);
}

#[test]
fn maglev_fills_its_table_evenly() {
    let service = weighted(maglev(65_537), &[1; 100]);
    let shares = shares(&service);
    assert_eq!(order(&service).len(), 65_537);
    assert!((0..100).all(|position| (share(&shares, position) - 0.01).abs() < 1.0 / 65_537.0 + 1e-12));
}

#[test]
fn maglev_follows_weights() {
    let weights = [10, 20, 30, 40];
    let shares = shares(&weighted(maglev(4_093), &weights));
    for (position, weight) in weights.into_iter().enumerate() {
        let exact = f64::from(weight) / 100.0;
        assert!((share(&shares, position as u32) - exact).abs() < 5.0 / 4_093.0, "{shares:?}");
    }
}

#[test]
fn maglev_with_more_endpoints_than_places_is_full() {
    assert_eq!(order(&weighted(maglev(2), &[1, 1, 1])).len(), 2);
    assert_eq!(order(&weighted(maglev(7), &[1; 50])).len(), 7);
}

/// The share of keys that change their endpoint when one of `n` endpoints goes. Its own keys, 1/n, must move; the
/// paper (section 5.3) finds a little more, which falls with the table's size.
fn disruption(n: u32, size: u32, gone: usize) -> f64 {
    let whole = weighted(maglev(size), &vec![1; n as usize]);
    let before: Vec<SocketAddr> =
        order(&whole).iter().map(|&at| whole.endpoints[at as usize].address).collect();
    let mut rest = whole.clone();
    rest.endpoints.remove(gone);
    let after: Vec<SocketAddr> = order(&rest).iter().map(|&at| rest.endpoints[at as usize].address).collect();
    let moved = before.iter().zip(&after).filter(|(before, after)| before != after).count();
    moved as f64 / f64::from(size)
}

#[test]
fn maglev_moves_little_more_than_it_must() {
    for n in [3, 10, 50] {
        for gone in [0, n as usize / 2, n as usize - 1] {
            let (moved, must) = (disruption(n, 65_537, gone), 1.0 / f64::from(n));
            assert!(
                moved >= must - 0.001,
                "{moved} of {must} for {n}: the keys of the removed one must move"
            );
            assert!(moved <= must + 0.025, "{moved} of {must} for {n} endpoints without number {gone}");
        }
    }
}

#[test]
fn maglev_depends_on_addresses_and_not_on_positions() {
    let one = weighted(maglev(251), &[1, 1, 1]);
    // A neighbour that takes no connection shifts all positions.
    let mut other = one.clone();
    other.endpoints.insert(0, endpoint(v4(0), 0));
    let shifted: Vec<u32> = order(&other).iter().map(|position| position - 1).collect();
    assert_eq!(order(&one), shifted);
}

proptest! {
    #[test]
    fn alias_tables_give_back_the_weights(weights in prop::collection::vec(0u16.., 1..64)) {
        let service = weighted(Balance::WeightedRandom, &weights);
        let total: f64 = weights.iter().map(|&weight| f64::from(weight)).sum();
        let usable = weights.iter().filter(|&&weight| weight > 0).count() as f64;
        let shares = shares(&service);
        prop_assert_eq!(build(&service, &[]).v4.slots.len() as f64, usable);
        for (position, &weight) in weights.iter().enumerate() {
            let got = share(&shares, position as u32);
            let exact = if weight == 0 { 0.0 } else { f64::from(weight) / total };
            let bound = 1.0 / (usable.max(1.0) * f64::from(THRESHOLD_ONE)) + 1e-12;
            prop_assert!((got - exact).abs() <= bound, "{}: {} against {}", position, got, exact);
        }
    }

    #[test]
    fn split_tables_give_back_the_shares(
        versions in prop::collection::vec((0u8..4, 1u16..), 1..40),
        wanted in prop::array::uniform4(0u16..200),
    ) {
        let names = ["v0", "v1", "v2", "v3"];
        let endpoints: Vec<Endpoint> = versions
            .iter()
            .zip(1..)
            .map(|(&(version, weight), host)| labelled(v4(host), weight, names[usize::from(version)]))
            .collect();
        let shares_wanted: Vec<(&str, u16)> = names.into_iter().zip(wanted).collect();
        let service = Service { split: split(&shares_wanted), ..service(Balance::WeightedRandom, endpoints) };
        let sum = |version: u8| -> f64 {
            versions.iter().filter(|each| each.0 == version).map(|each| f64::from(each.1)).sum()
        };
        let present = (0..4u8).filter(|&version| sum(version) > 0.0);
        let total: f64 = present.map(|version| f64::from(wanted[usize::from(version)])).sum();
        let shares = shares(&service);
        for (position, &(version, weight)) in versions.iter().enumerate() {
            let value = f64::from(wanted[usize::from(version)]);
            let exact = if total > 0.0 { value / total * f64::from(weight) / sum(version) } else { 0.0 };
            prop_assert!((share(&shares, position as u32) - exact).abs() < 1e-6);
        }
    }

    #[test]
    fn turns_never_stray_by_a_whole_turn(weights in prop::collection::vec(1u16..100, 1..30)) {
        let order = order(&weighted(Balance::RoundRobin, &weights));
        let total: f64 = weights.iter().map(|&weight| f64::from(weight)).sum();
        let mut taken = vec![0.0; weights.len()];
        for (turn, &position) in order.iter().enumerate() {
            taken[position as usize] += 1.0;
            for (weight, taken) in weights.iter().zip(&taken) {
                let due = f64::from(*weight) / total * (turn + 1) as f64;
                prop_assert!((taken - due).abs() < 1.0 + 1e-9, "after {} turns {} instead of {}", turn + 1, taken, due);
            }
        }
        let shares = shares(&weighted(Balance::RoundRobin, &weights));
        for (position, &weight) in weights.iter().enumerate() {
            prop_assert!((share(&shares, position as u32) - f64::from(weight) / total).abs() < 1e-9);
        }
    }

    #[test]
    fn every_table_names_usable_endpoints_alone(
        weights in prop::collection::vec(0u16..5, 0..20),
        draining in prop::collection::vec(any::<bool>(), 20),
        choice in 0usize..4,
    ) {
        let balance = [Balance::WeightedRandom, Balance::RoundRobin, Balance::LeastConnections, maglev(251)][choice];
        let mut service = weighted(balance, &weights);
        service.endpoints.iter_mut().zip(&draining).for_each(|(endpoint, &draining)| endpoint.draining = draining);
        let table = build(&service, &[]).v4;
        let usable = |position: u32| {
            let endpoint = &service.endpoints[position as usize];
            endpoint.weight > 0 && !endpoint.draining
        };
        prop_assert!(table.slots.iter().all(|slot| usable(slot.endpoint) && usable(slot.alias)));
        prop_assert_eq!(table.slots.is_empty(), !(0..weights.len() as u32).any(usable));
        let sum: f64 = shares(&service).values().sum();
        prop_assert!(table.slots.is_empty() || (sum - 1.0).abs() < 1e-9);
    }
}
