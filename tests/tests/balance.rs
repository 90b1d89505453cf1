//! Which endpoint gets a connection.

use std::collections::{BTreeMap, BTreeSet};
use std::net::{IpAddr, SocketAddr};
use std::thread::sleep;
use std::time::Duration;

use alize_tests::mesh::{endpoint, endpoints, web};
use alize_tests::servers::at;
use alize_tests::statistics::binomial_bounds;
use alize_tests::{Agent, Kind, Place, Process, Server, Tally, World};
use anyhow::Result;

const SERVICE: &str = "10.96.0.10:80";

fn service() -> SocketAddr {
    SocketAddr::from(([10, 96, 0, 10], 80))
}

fn assert_share(tally: &Tally, prefix: &str, share: f64) {
    let bounds = binomial_bounds(tally.answered(), share);
    let seen = tally.of(prefix);
    assert!(bounds.contains(&seen), "{prefix}: {seen} of {} is not in {bounds:?}", tally.answered());
}

fn v4(servers: &[Server]) -> Vec<String> {
    endpoints(servers.iter().map(|server| server.v4))
}

#[test]
fn weights_are_shares() -> Result<()> {
    let world = World::new("weights")?;
    let servers = world.fleet(Kind::Name, &["heavy", "light", "never"], 7000)?;
    let weights = ["weight: 90", "weight: 10", "weight: 0"];
    let listed: Vec<_> =
        servers.iter().zip(weights).map(|(server, weight)| endpoint(server.v4, &[weight])).collect();
    let agent = Agent::start(&world, &web(SERVICE, &[], &listed))?;

    let seen = world.meshed("client")?.connect(service(), 6000)?;
    assert_eq!(seen.failed(), 0, "{:?}", seen.errors);
    assert_share(&seen, "heavy", 0.9);
    assert_share(&seen, "light", 0.1);
    assert_eq!(seen.of("never"), 0);

    let counted = agent.service("web")?;
    assert_eq!(counted.traffic.connections, 6000);
    for (server, status) in
        servers.iter().map(|s| (s, counted.endpoints.iter().find(|e| e.address == s.v4).unwrap()))
    {
        assert_eq!(status.traffic.connections, seen.of(&server.name), "{}", server.name);
    }
    let share = |server: &Server| counted.endpoints.iter().find(|e| e.address == server.v4).unwrap().share;
    assert!((share(&servers[0]) - 0.9).abs() < 1e-6 && (share(&servers[1]) - 0.1).abs() < 1e-6);
    Ok(())
}

#[test]
fn a_split_shares_by_label_whatever_the_number_of_endpoints() -> Result<()> {
    let world = World::new("split")?;
    let servers = world.fleet(Kind::Name, &["v1-a", "v1-b", "v1-c", "v2-a"], 7000)?;
    let labels = ["labels: {version: v1}", "labels: {version: v2}"];
    let listed: Vec<_> = servers
        .iter()
        .map(|server| endpoint(server.v4, &[labels[usize::from(server.name.starts_with("v2"))]]))
        .collect();
    let agent = Agent::start(&world, &web(SERVICE, &["split: {version: {v1: 70, v2: 30}}"], &listed))?;
    let client = world.meshed("client")?;

    let seen = client.connect(service(), 5000)?;
    assert_eq!(seen.failed(), 0, "{:?}", seen.errors);
    assert_share(&seen, "v2", 0.3);
    for name in ["v1-a", "v1-b", "v1-c"] {
        assert_share(&seen, name, 0.7 / 3.0);
    }

    agent.change(&web(SERVICE, &["split: {version: {v1: 0, v2: 1}}"], &listed))?;
    let seen = client.connect(service(), 200)?;
    assert_eq!(seen.answers, BTreeMap::from([("v2-a".to_owned(), 200)]));
    Ok(())
}

#[test]
fn a_version_without_endpoints_leaves_its_share_to_the_others() -> Result<()> {
    let world = World::new("split-absent")?;
    let servers = world.fleet(Kind::Name, &["v1", "v2"], 7000)?;
    let listed = [
        endpoint(servers[0].v4, &["labels: {version: v1}"]),
        endpoint(servers[1].v4, &["labels: {version: v2}", "draining: true"]),
    ];
    let _agent = Agent::start(&world, &web(SERVICE, &["split: {version: {v1: 10, v2: 90}}"], &listed))?;
    let seen = world.meshed("client")?.connect(service(), 200)?;
    assert_eq!(seen.answers, BTreeMap::from([("v1".to_owned(), 200)]), "{seen:?}");
    Ok(())
}

#[test]
fn round_robin_takes_turns_exactly() -> Result<()> {
    let world = World::new("round-robin")?;
    let servers = world.fleet(Kind::Name, &["a", "b", "c"], 7000)?;
    let settings = ["balance: round-robin"];
    let agent = Agent::start(&world, &web(SERVICE, &settings, &v4(&servers)))?;
    let client = world.meshed("client")?;

    let seen = client.connect(service(), 300)?;
    for name in ["a", "b", "c"] {
        assert_eq!(seen.of(name), 100, "{:?}", seen.answers);
    }
    assert!(
        seen.order.windows(4).all(|four| four[0] == four[3] && four[0] != four[1]),
        "{:?}",
        &seen.order[..9]
    );

    let weights = ["weight: 1", "weight: 2", "weight: 3"];
    let listed: Vec<_> =
        servers.iter().zip(weights).map(|(server, weight)| endpoint(server.v4, &[weight])).collect();
    agent.change(&web(SERVICE, &settings, &listed))?;
    let seen = client.connect(service(), 600)?;
    let counts = ["a", "b", "c"].map(|name| seen.of(name));
    assert_eq!(counts, [100, 200, 300]);
    Ok(())
}

#[test]
fn least_connections_prefers_the_idle() -> Result<()> {
    let world = World::new("least-connections")?;
    let servers = world.fleet(Kind::Name, &["busy", "idle"], 7000)?;
    let settings = ["balance: least-connections"];
    let agent = Agent::start(&world, &web(SERVICE, &settings, &v4(&servers[..1])))?;
    let client = world.meshed("client")?;
    let (_held, opened) = client.hold(service(), 40)?;
    assert_eq!(opened.of("busy"), 40);

    agent.change(&web(SERVICE, &settings, &v4(&servers)))?;
    let (mut more, opened) = client.hold(service(), 40)?;
    assert_eq!(
        opened.answers,
        BTreeMap::from([("idle".to_owned(), 40)]),
        "40 connections were open on the other"
    );
    // As many on each now: from here on they share.
    let (_even, opened) = client.hold(service(), 40)?;
    assert!(opened.of("busy").abs_diff(opened.of("idle")) <= 2, "{:?}", opened.answers);

    // What ends is free again.
    assert_eq!(more.ask()?.of("idle"), 40);
    drop(more);
    let (_again, opened) = client.hold(service(), 30)?;
    assert_eq!(opened.answers, BTreeMap::from([("idle".to_owned(), 30)]));
    Ok(())
}

/// Servers on the loopback of the clients, which bind to many addresses of it: many clients in one process.
struct Local {
    place: Place,
    addresses: Vec<SocketAddr>,
    _servers: Vec<Process>,
}

impl Local {
    fn start(world: &World, count: u16) -> Result<Self> {
        let place = world.meshed("client")?;
        let addresses: Vec<_> = (0..count).map(|index| at([127, 0, 0, 1], 7000 + index)).collect();
        let start = |address: &SocketAddr| place.serve(&format!("s{}", address.port()), &[*address]);
        let servers = addresses.iter().map(start).collect::<Result<_>>()?;
        Ok(Self { addresses, _servers: servers, place })
    }

    fn ask(&self, sources: u32, each: u32) -> Result<BTreeMap<IpAddr, Vec<String>>> {
        let flags = [format!("--sources={sources}"), format!("--count={}", sources * each)];
        let seen = self.place.connect_with(service(), &[&flags[0], &flags[1]])?;
        assert_eq!(seen.failed(), 0, "{:?}", seen.errors);
        Ok(seen.by_source)
    }
}

#[test]
fn maglev_keeps_clients_where_they_are() -> Result<()> {
    const CLIENTS: u32 = 1000;
    let world = World::new("maglev")?;
    let local = Local::start(&world, 5)?;
    let settings = ["balance: maglev"];
    let agent = Agent::start(&world, &web(SERVICE, &settings, &endpoints(&local.addresses)))?;

    let before = local.ask(CLIENTS, 2)?;
    assert!(
        before.values().all(|names| names.len() == 2 && names[0] == names[1]),
        "a client saw two endpoints"
    );
    let on = |name: &str| before.values().filter(|names| names[0] == name).count() as u64;
    for address in &local.addresses {
        let bounds = binomial_bounds(CLIENTS.into(), 0.2);
        let clients = on(&format!("s{}", address.port()));
        assert!(bounds.contains(&clients), "{address}: {clients} clients are not in {bounds:?}");
    }

    agent.change(&web(SERVICE, &settings, &endpoints(&local.addresses[..4])))?;
    let after = local.ask(CLIENTS, 1)?;
    let gone = "s7004";
    let stayed = before.iter().filter(|(client, names)| after[client][0] == names[0]).count() as u64;
    assert!(after.values().all(|names| names[0] != gone));
    // Without loss only the clients of the removed endpoint move; Maglev may move a few more.
    let moved_without_need = u64::from(CLIENTS) - on(gone) - stayed;
    assert!(
        moved_without_need <= u64::from(CLIENTS) / 20,
        "{moved_without_need} of {CLIENTS} moved without need"
    );

    agent.change(&web(SERVICE, &settings, &endpoints(&local.addresses)))?;
    let again = local.ask(CLIENTS, 1)?;
    assert!(
        before.iter().all(|(client, names)| again[client][0] == names[0]),
        "the same endpoints, another place"
    );
    Ok(())
}

#[test]
fn affinity_holds_while_the_client_comes_back_and_ends_when_it_does_not() -> Result<()> {
    const CLIENTS: u32 = 64;
    let world = World::new("affinity")?;
    let local = Local::start(&world, 4)?;
    let agent = Agent::start(&world, &web(SERVICE, &["affinity: 2s"], &endpoints(&local.addresses)))?;

    let first = local.ask(CLIENTS, 1)?;
    let different: BTreeSet<_> = first.values().map(|names| &names[0]).collect();
    assert!(different.len() > 1, "64 clients went to one endpoint of four");
    // Four visits, 0.8 s apart: longer than the timeout in all, shorter each.
    for _ in 0..4 {
        sleep(Duration::from_millis(800));
        let again = local.ask(CLIENTS, 2)?;
        assert!(first.iter().all(|(client, names)| again[client].iter().all(|name| *name == names[0])));
    }
    sleep(Duration::from_millis(2300));
    let later = local.ask(CLIENTS, 1)?;
    let moved = first.iter().filter(|(client, names)| later[client][0] != names[0]).count() as u64;
    assert!(binomial_bounds(CLIENTS.into(), 0.75).contains(&moved), "{moved} of {CLIENTS} moved");

    // A client whose endpoint takes no new connections goes to another.
    let drained = local.addresses.iter().enumerate();
    let drained = drained
        .map(|(index, a)| endpoint(a, if index == 0 { &["draining: true"] } else { &[] }))
        .collect::<Vec<_>>();
    agent.change(&web(SERVICE, &["affinity: 2s"], &drained))?;
    assert!(local.ask(CLIENTS, 1)?.values().all(|names| names[0] != "s7000"));
    Ok(())
}

#[test]
fn a_cgroup_is_a_client() -> Result<()> {
    let world = World::new("affinity-cgroup")?;
    let servers = world.fleet(Kind::Name, &["a", "b", "c", "d"], 7000)?;
    let _agent = Agent::start(&world, &web(SERVICE, &["affinity: 60s"], &v4(&servers)))?;
    let mut seen = BTreeSet::new();
    for number in 0..24 {
        let place = world.meshed_in("client", &format!("client-{number}"))?;
        let tally = place.connect(service(), 5)?;
        assert_eq!(tally.answers.len(), 1, "a client saw {:?}", tally.answers);
        seen.extend(tally.answers.into_keys());
    }
    assert!(seen.len() > 1, "24 clients went to one endpoint of four");
    Ok(())
}
