//! Changes of the desired state while connections run: none fails, none is cut that should stay.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::time::{Duration, Instant};

use alize_model::Severity;
use alize_tests::mesh::{endpoint, endpoints, file, service, web};
use alize_tests::servers::at;
use alize_tests::wait::until_true;
use alize_tests::{Agent, Kind, World};
use anyhow::{Context, Result, ensure};

const SOON: Duration = Duration::from_secs(10);

fn address() -> SocketAddr {
    at([10, 96, 0, 10], 80)
}

#[test]
fn draining_keeps_old_connections_and_gets_no_new_ones() -> Result<()> {
    let world = World::new("drain")?;
    let servers = world.fleet(Kind::Name, &["a", "b"], 7000)?;
    let agent = Agent::start(&world, &web(address(), &[], &endpoints(servers.iter().map(|s| s.v4))))?;
    let client = world.meshed("client")?;
    let (mut held, opened) = client.hold(address(), 60)?;
    let on_b = opened.of("b");
    assert!(on_b > 0 && opened.failed() == 0, "{opened:?}");

    let listed = [endpoint(servers[0].v4, &[]), endpoint(servers[1].v4, &["draining: true"])];
    agent.change(&web(address(), &[], &listed))?;
    let new = client.connect(address(), 200)?;
    assert_eq!(new.answers, BTreeMap::from([("a".to_owned(), 200)]));
    assert_eq!(held.ask()?.answers, opened.answers);
    let drained = agent.endpoint("web", servers[1].v4)?;
    assert_eq!((drained.state.as_str(), drained.traffic.open, drained.share), ("draining", on_b, 0.0));

    agent.change(&web(address(), &[], &endpoints(servers.iter().map(|s| s.v4))))?;
    assert!(client.connect(address(), 200)?.of("b") > 0);
    Ok(())
}

#[test]
fn a_removed_endpoint_keeps_its_connections() -> Result<()> {
    let world = World::new("remove-keep")?;
    let servers = world.fleet(Kind::Name, &["a", "b"], 7000)?;
    let agent = Agent::start(&world, &web(address(), &[], &endpoints(servers.iter().map(|s| s.v4))))?;
    let client = world.meshed("client")?;
    let (mut held, opened) = client.hold(address(), 60)?;
    let on_b = opened.of("b");

    agent.change(&web(address(), &[], &endpoints([servers[0].v4])))?;
    assert_eq!(held.ask()?.answers, opened.answers);
    assert_eq!(client.connect(address(), 100)?.answers, BTreeMap::from([("a".to_owned(), 100)]));
    let removed = agent.endpoint("web", servers[1].v4)?;
    assert_eq!((removed.state.as_str(), removed.traffic.open), ("removed", on_b));
    drop(held);
    until_true(
        "the removed endpoint to be forgotten",
        SOON,
        || Ok(agent.service("web")?.endpoints.len() == 1),
    )
}

#[test]
fn removal_terminate_closes_sockets_in_every_namespace() -> Result<()> {
    let world = World::new("remove-cut")?;
    let servers = world.fleet(Kind::Name, &["a", "b"], 7000)?;
    let all = endpoints(servers.iter().map(|s| s.v4));
    let settings = ["removal: terminate"];
    let agent = Agent::start(&world, &web(address(), &settings, &all))?;
    let mut held = Vec::new();
    for label in ["one", "two"] {
        let (conversation, opened) = world.meshed(label)?.hold(address(), 40)?;
        assert!(opened.of("a") > 0 && opened.of("b") > 0, "{opened:?}");
        held.push((conversation, opened));
    }
    // Each client has a namespace of its own, and the connections are open.
    let received = agent.service("web")?.traffic.bytes_received;
    ensure!(received >= 80, "{received} bytes of 80 answers");
    // Who is not a client of the service is not touched.
    let (mut direct, _) = world.meshed("three")?.hold(servers[1].v4, 5)?;

    agent.change(&web(address(), &settings, &all[..1]))?;
    for (conversation, opened) in &mut held {
        let now = conversation.ask()?;
        assert_eq!(now.of("a"), opened.of("a"), "{now:?}");
        assert_eq!((now.of("b"), now.failed()), (0, opened.of("b")), "{now:?}");
        assert!(now.slowest < 2.0, "clients heard of it after {} s", now.slowest);
    }
    assert_eq!(direct.ask()?.answered(), 5);
    Ok(())
}

#[test]
fn without_a_usable_endpoint_connects_are_refused_at_once() -> Result<()> {
    let world = World::new("refused")?;
    let servers = world.fleet(Kind::Name, &["a"], 7000)?;
    let cases: [(&str, Vec<String>); 3] = [
        ("none", vec![]),
        ("draining", vec![endpoint(servers[0].v4, &["draining: true"])]),
        ("weightless", vec![endpoint(servers[0].v4, &["weight: 0"])]),
    ];
    let targets: Vec<_> = (1..=3).map(|number| at([10, 96, 0, number], 80)).collect();
    let mut services: Vec<_> = cases
        .iter()
        .zip(&targets)
        .map(|((name, listed), target)| service(name, target, &[], listed))
        .collect();
    services.push(service("datagrams", at([10, 96, 0, 4], 53), &["protocol: udp"], &[]));
    // An IPv4 caller cannot reach an IPv6 endpoint.
    services.push(service("six-only", at([10, 96, 0, 5], 80), &[], &endpoints([servers[0].v6])));
    let agent = Agent::start(&world, &file(&services))?;
    let client = world.meshed("client")?;

    let refused = BTreeMap::from([("ConnectionRefused".to_owned(), 20)]);
    for target in targets.iter().chain([&at([10, 96, 0, 5], 80)]) {
        let seen = client.connect(*target, 20)?;
        assert_eq!(seen.errors, refused, "{target}");
        assert!(seen.slowest < 0.1, "{target}: {} s", seen.slowest);
    }
    for name in cases.map(|(name, _)| name).iter().chain(&["six-only"]) {
        assert_eq!(agent.service(name)?.refused, BTreeMap::from([("no-endpoint".to_owned(), 20)]), "{name}");
    }
    for flags in [&["--count=20"][..], &["--count=20", "--connected"]] {
        let seen = client.datagram(at([10, 96, 0, 4], 53), flags)?;
        assert_eq!(seen.errors, refused, "{flags:?}");
        assert!(seen.slowest < 0.1, "{} s", seen.slowest);
    }
    let events = agent.events()?;
    let event =
        events.iter().find(|event| event.kind == "refused" && event.service.as_deref() == Some("none"));
    assert!(event.is_some_and(|event| event.pid.is_some()), "{events:?}");
    Ok(())
}

#[test]
fn reloads_under_load_fail_no_connect() -> Result<()> {
    let world = World::new("reload")?;
    let servers = world.fleet(Kind::Name, &["a", "b", "c"], 7000)?;
    let text = |round: usize| {
        let weights = [1 + round % 3, 1 + (round + 1) % 3, 1 + (round + 2) % 3];
        let all = servers.iter().zip(weights);
        // One of the three is absent in turn, and the way to balance changes.
        let listed: Vec<_> = all
            .enumerate()
            .filter(|(index, _)| *index != round % 4)
            .map(|(_, (server, weight))| endpoint(server.v4, &[&format!("weight: {weight}")]))
            .collect();
        let balance = ["weighted-random", "round-robin", "least-connections", "maglev"][round / 4 % 4];
        web(address(), &[&format!("balance: {balance}")], &listed)
    };
    let agent = Agent::start(&world, &text(3))?;
    let client = world.meshed("client")?;
    let mut stream = client.stream(address(), &["--callers=4", "--pause=2"])?;
    let (mut held, opened) = client.hold(address(), 50)?;
    for round in 0..40 {
        agent.change(&text(round))?;
    }
    let seen = stream.ask()?;
    assert_eq!(seen.failed(), 0, "{:?}", seen.errors);
    assert!(seen.answered() > 500, "only {} connects ran beside 40 changes", seen.answered());
    assert_eq!(held.ask()?.answers, opened.answers);

    // A change rules at once: what comes after it never sees the state before.
    agent.change(&web(address(), &[], &endpoints([servers[0].v4])))?;
    assert_eq!(client.connect(address(), 50)?.of("a"), 50);
    agent.change(&web(address(), &[], &endpoints([servers[1].v4])))?;
    assert_eq!(client.connect(address(), 50)?.of("b"), 50);
    Ok(())
}

#[test]
fn a_bad_file_changes_nothing_and_is_shown() -> Result<()> {
    let world = World::new("bad-file")?;
    let servers = world.fleet(Kind::Name, &["a"], 7000)?;
    let good = web(address(), &[], &endpoints([servers[0].v4]));
    let agent = Agent::start(&world, &good)?;
    let client = world.meshed("client")?;
    let before = agent.status()?.config;

    agent.write(&good.replace("endpoints:", "endpionts:"))?;
    until_true("the refusal to be shown", SOON, || Ok(!agent.status()?.config.refused.is_empty()))?;
    let config = agent.status()?.config;
    assert_eq!(config.generation, before.generation);
    let errors = config.refused.iter().filter(|remark| remark.severity == Severity::Error);
    let refused = errors.clone().next().context("an error")?;
    assert_eq!(errors.count(), 1, "{:?}", config.refused);
    assert!(refused.message.contains("endpionts"), "{refused}");
    assert_eq!(refused.position.line, 4, "{refused}");
    assert!(refused.help.as_deref().is_some_and(|help| help.contains("endpoints")), "{refused}");
    assert_eq!(client.connect(address(), 20)?.of("a"), 20);
    let shown = agent.run(&["status"])?;
    assert!(shown.contains("endpionts"), "{shown}");

    // Files that are cut short, as an editor or a full disk may leave them.
    for cut in ["", "services:\n", &good[..good.len() - 10]] {
        let before = agent.status()?.config.refused_at;
        agent.write(cut)?;
        until_true("the refusal to be shown", SOON, || Ok(agent.status()?.config.refused_at != before))?;
        assert_eq!(client.connect(address(), 20)?.of("a"), 20, "{cut:?}");
    }

    agent.change(&web(address(), &["balance: round-robin"], &endpoints([servers[0].v4])))?;
    assert!(agent.status()?.config.refused.is_empty());
    Ok(())
}

#[test]
fn apply_puts_a_file_in_force_without_the_watched_one() -> Result<()> {
    let world = World::new("apply")?;
    let servers = world.fleet(Kind::Name, &["a", "b"], 7000)?;
    let agent = Agent::start(&world, &web(address(), &[], &endpoints([servers[0].v4])))?;
    let client = world.meshed("client")?;
    let other = world.folder().join("other.yaml");
    std::fs::write(&other, web(address(), &[], &endpoints([servers[1].v4])))?;
    agent.run(&["apply", &other.to_string_lossy()])?;
    assert_eq!(client.connect(address(), 20)?.of("b"), 20);
    assert_eq!(agent.status()?.config.source, "applied");

    std::fs::write(&other, "services: nonsense")?;
    let refused = agent.command(&["apply", &other.to_string_lossy()])?;
    assert_eq!(refused.status.code(), Some(3), "{refused:?}");
    assert_eq!(client.connect(address(), 20)?.of("b"), 20);
    Ok(())
}

#[test]
fn a_service_that_is_removed_is_no_longer_balanced() -> Result<()> {
    let world = World::new("remove-service")?;
    let servers = world.fleet(Kind::Name, &["a"], 7000)?;
    let listed = endpoints([servers[0].v4]);
    let other = at([10, 96, 0, 11], 80);
    let both = file(&[service("web", address(), &[], &listed), service("other", other, &[], &listed)]);
    let agent = Agent::start(&world, &both)?;
    let client = world.meshed("client")?;
    let (mut held, _) = client.hold(address(), 10)?;
    agent.change(&file(&[service("other", other, &[], &listed)]))?;
    assert_eq!(client.connect(address(), 5)?.failed(), 5);
    assert_eq!(client.connect(other, 5)?.of("a"), 5);
    assert_eq!(held.ask()?.of("a"), 10);
    assert_eq!(agent.api("GET", "/v1/services/web", "")?.status, 404);

    // The address may go to another service.
    agent.change(&file(&[service("other", address(), &[], &listed)]))?;
    assert_eq!(client.connect(address(), 5)?.of("a"), 5);
    Ok(())
}

#[test]
fn a_change_is_visible_to_connects_as_soon_as_it_is_confirmed() -> Result<()> {
    let world = World::new("atomic")?;
    let servers = world.fleet(Kind::Name, &["old", "new"], 7000)?;
    let client = world.meshed("client")?;
    let agent = Agent::start(&world, &web(address(), &[], &endpoints([servers[0].v4])))?;
    let begin = Instant::now();
    for round in 0..10 {
        let server = &servers[(round + 1) % 2];
        let text = web(address(), &[], &endpoints([server.v4]));
        let answer = agent.api("POST", "/v1/apply", &text)?;
        assert_eq!(answer.status, 200, "{}", answer.body);
        assert_eq!(client.connect(address(), 20)?.of(&server.name), 20, "round {round}");
    }
    assert!(begin.elapsed() < Duration::from_secs(30));
    Ok(())
}
