//! Many services, many connections, and budgets that are too small.

use std::net::{Ipv4Addr, SocketAddr};
use std::time::Duration;

use alize_tests::mesh::{endpoints, file, service, web};
use alize_tests::servers::at;
use alize_tests::wait::until_true;
use alize_tests::{Agent, AgentOptions, Kind, World};
use anyhow::Result;

const SOON: Duration = Duration::from_secs(20);

fn address() -> SocketAddr {
    numbered(10)
}

/// The address of service number `number`.
fn numbered(number: u32) -> SocketAddr {
    at(Ipv4Addr::from_bits(Ipv4Addr::new(10, 96, 0, 0).to_bits() + number), 80)
}

#[test]
fn ten_thousand_services_are_balanced_and_changed_one_at_a_time() -> Result<()> {
    const SERVICES: u32 = 10_000;
    let world = World::new("ten-thousand")?;
    let servers = world.fleet(Kind::Name, &["a", "b", "c"], 7000)?;
    let listed = endpoints(servers.iter().map(|s| s.v4));
    let mut services: Vec<_> = (0..SERVICES)
        .map(|n| service(&format!("s{n}"), numbered(n), &["balance: round-robin"], &listed))
        .collect();
    let agent = Agent::start(&world, &file(&services))?;
    let usage = agent.status()?.usage;
    assert_eq!((usage.services, usage.frontends, usage.endpoints), (SERVICES, SERVICES, 3 * SERVICES));

    let client = world.meshed("client")?;
    for number in (0..SERVICES).step_by(997).chain([SERVICES - 1]) {
        let seen = client.connect(numbered(number), 3)?;
        assert_eq!((seen.of("a"), seen.of("b"), seen.of("c")), (1, 1, 1), "service {number}: {seen:?}");
    }
    assert_eq!(client.connect(numbered(SERVICES), 3)?.failed(), 3);

    services[5000] = service("s5000", numbered(5000), &[], &listed[..1]);
    let answer = agent.api("POST", "/v1/apply", &file(&services))?;
    assert_eq!(answer.status, 200, "{}", answer.body);
    let applied: alize_model::api::Applied = serde_json::from_str(&answer.body)?;
    assert_eq!((applied.changed, applied.unchanged), (1, SERVICES - 1));
    assert_eq!(client.connect(numbered(5000), 10)?.of("a"), 10);

    let counted = agent.metrics()?;
    let series = counted.lines().filter(|line| line.starts_with("alize_service_connections_total{"));
    assert_eq!(series.count() as u32, SERVICES);
    agent.change(&web(address(), &[], &listed))?;
    assert_eq!(client.connect(numbered(5000), 3)?.failed(), 3);
    Ok(())
}

#[test]
fn a_thousand_connections_at_once() -> Result<()> {
    let world = World::new("thousand")?;
    let servers = world.fleet(Kind::Name, &["a", "b", "c"], 7000)?;
    let listed = endpoints(servers.iter().map(|s| s.v4));
    let agent = Agent::start(&world, &web(address(), &["balance: least-connections"], &listed))?;
    let (mut held, opened) = world.meshed("client")?.hold(address(), 1000)?;
    assert_eq!((opened.answered(), opened.failed()), (1000, 0), "{:?}", opened.errors);
    for name in ["a", "b", "c"] {
        assert!(opened.of(name).abs_diff(333) < 20, "{:?}", opened.answers);
    }
    let asked = held.ask()?;
    assert_eq!(asked.answers, opened.answers);
    let web = agent.service("web")?;
    assert_eq!((web.traffic.connections, web.traffic.established, web.traffic.open), (1000, 1000, 1000));
    // Open connections are counted too: 6 bytes there, the name and 6 bytes back.
    assert_eq!((web.traffic.bytes_sent, web.traffic.bytes_received), (6000, 8000));
    drop(held);
    until_true("all connections to be closed", SOON, || Ok(agent.service("web")?.traffic.open == 0))?;
    let web = agent.service("web")?.traffic;
    assert_eq!((web.bytes_sent, web.bytes_received), (6000, 8000));
    Ok(())
}

#[test]
fn what_exceeds_a_budget_is_refused_whole_and_named() -> Result<()> {
    let world = World::new("budgets")?;
    let servers = world.fleet(Kind::Name, &["a"], 7000)?;
    let listed = endpoints([servers[0].v4]);
    let flags = ["--max-services=3", "--max-endpoints=5", "--max-slots=4096"];
    let services = |count: u32| -> Vec<_> {
        (10..10 + count).map(|n| service(&format!("s{n}"), numbered(n), &[], &listed)).collect()
    };
    let agent = Agent::start_with(&world, &file(&services(2)), &AgentOptions::flags(&flags))?;
    let client = world.meshed("client")?;

    let crowded: Vec<_> = (1..=6).map(|n| at([10, 77, 9, n], 80)).collect();
    let cases = [
        ("services", file(&services(4))),
        ("endpoints", web(address(), &[], &endpoints(crowded))),
        ("slots", web(address(), &["balance: {maglev: {table-size: 65537}}"], &listed)),
    ];
    for (what, text) in cases {
        let answer = agent.api("POST", "/v1/apply", &text)?;
        assert!((400..500).contains(&answer.status), "{what}: {} {}", answer.status, answer.body);
        assert!(answer.body.contains(&format!("--max-{what}")), "{what}: {}", answer.body);
        assert_eq!(agent.status()?.usage.services, 2, "{what}");
        assert_eq!(client.connect(numbered(11), 10)?.of("a"), 10, "{what}");
    }
    // What fits still goes in, so nothing was reserved for what did not.
    agent.change(&file(&services(3)))?;
    assert_eq!(client.connect(numbered(12), 10)?.of("a"), 10);
    Ok(())
}

#[test]
fn clients_beyond_the_affinity_budget_are_balanced_all_the_same() -> Result<()> {
    let world = World::new("full-affinity")?;
    let place = world.meshed("client")?;
    let addresses: Vec<_> = (0..3).map(|index| at([127, 0, 0, 1], 7000 + index)).collect();
    let start = |address: &SocketAddr| place.serve(&format!("s{}", address.port()), &[*address]);
    let _servers = addresses.iter().map(start).collect::<Result<Vec<_>>>()?;
    let text = web(address(), &["affinity: 600s"], &endpoints(&addresses));
    let agent = Agent::start_with(&world, &text, &AgentOptions::flags(&["--max-affinity=1"]))?;
    let seen = place.connect_with(address(), &["--sources=3000", "--count=6000"])?;
    assert_eq!((seen.answered(), seen.failed()), (6000, 0), "{:?}", seen.errors);
    assert_eq!(seen.answers.len(), 3);
    let moved = seen.by_source.values().filter(|names| names[0] != names[1]).count();
    assert!(moved > 0, "the budget was not too small");
    assert_eq!(agent.service("web")?.traffic.connections, 6000);
    Ok(())
}

#[test]
fn uncounted_connections_are_connections_all_the_same() -> Result<()> {
    let world = World::new("full-counters")?;
    let servers = world.fleet(Kind::Name, &["a"], 7000)?;
    let listed = endpoints([servers[0].v4]);
    let services: Vec<_> = (0..20).map(|n| service(&format!("s{n}"), numbered(n), &[], &listed)).collect();
    let agent = Agent::start_with(
        &world,
        &file(&services),
        &AgentOptions::flags(&[
            "--max-services=20",
            "--max-endpoints=20",
            "--max-slots=20",
            "--max-affinity=1",
        ]),
    )?;
    let client = world.meshed("client")?;
    for number in 0..20 {
        let seen = client.connect(numbered(number), 5)?;
        assert_eq!((seen.of("a"), seen.failed()), (5, 0), "service {number}: {seen:?}");
    }
    // Budgets that are used to the last place: nothing is lost and nothing goes wrong.
    for number in 0..20 {
        assert_eq!(agent.service(&format!("s{number}"))?.traffic.connections, 5, "service {number}");
    }
    let anomalies = agent.status()?.anomalies;
    assert!(anomalies.values().all(|count| *count == 0), "{anomalies:?}");
    Ok(())
}
