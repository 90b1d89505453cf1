//! What real clients of each protocol see when they dial a service address.

use std::collections::{BTreeMap, BTreeSet};
use std::net::{Ipv4Addr, Ipv6Addr, SocketAddr};
use std::time::Duration;

use alize_tests::mesh::{endpoint, endpoints, file, service, web};
use alize_tests::servers::at;
use alize_tests::statistics::binomial_bounds;
use alize_tests::wait::until_true;
use alize_tests::{Agent, Kind, Tally, World};
use anyhow::Result;

const V4: Ipv4Addr = Ipv4Addr::new(10, 96, 0, 10);
const V6: Ipv6Addr = Ipv6Addr::new(0xfd96, 0, 0, 0, 0, 0, 0, 0x10);

/// All `count` answered, all by `names`, all of whom answered, and every peer was `shown`.
fn assert_answers(tally: &Tally, count: u64, names: &[&str], shown: SocketAddr) {
    assert_eq!(tally.failed(), 0, "{:?}", tally.errors);
    assert_eq!(tally.answered(), count);
    let answered: BTreeSet<&str> = tally.answers.keys().map(String::as_str).collect();
    assert_eq!(answered, names.iter().copied().collect());
    assert_eq!(tally.peers, BTreeMap::from([(shown, count)]));
}

#[test]
fn curl_reaches_nginx_over_v4_v6_and_mapped() -> Result<()> {
    let world = World::new("curl")?;
    let servers = world.fleet(Kind::Nginx, &["a", "b"], 8080)?;
    let listed = endpoints(servers.iter().map(|server| server.v4));
    let mut mesh = service("web", at(V4, 80), &["balance: round-robin"], &listed);
    let listed = endpoints(servers.iter().map(|server| server.v6));
    mesh += &service("web6", at(V6, 80), &["balance: round-robin"], &listed);
    let agent = Agent::start(&world, &file(&[mesh]))?;
    let client = world.meshed("client")?;

    for host in [format!("{V4}"), format!("[{V6}]"), format!("[{}]", V4.to_ipv6_mapped())] {
        let mut seen = BTreeSet::new();
        for _ in 0..4 {
            let body = client.run("curl", &["-sS", "--max-time", "5", &format!("http://{host}/")])?;
            seen.insert(body);
        }
        assert_eq!(seen, BTreeSet::from(["a\n".to_owned(), "b\n".to_owned()]), "{host}");
    }
    assert_eq!(agent.service("web")?.traffic.established, 8);
    assert_eq!(agent.service("web6")?.traffic.established, 4);
    Ok(())
}

#[test]
fn tcp_clients_are_shown_the_address_they_dialled() -> Result<()> {
    let world = World::new("peers")?;
    let servers = world.fleet(Kind::Name, &["a", "b"], 7000)?;
    let mut mesh = service("four", at(V4, 80), &[], &endpoints(servers.iter().map(|s| s.v4)));
    mesh += &service("six", at(V6, 80), &[], &endpoints(servers.iter().map(|s| s.v6)));
    let _agent = Agent::start(&world, &file(&[mesh]))?;
    let client = world.meshed("client")?;
    for target in [at(V4, 80), at(V6, 80), at(V4.to_ipv6_mapped(), 80)] {
        assert_answers(&client.connect(target, 60)?, 60, &["a", "b"], target);
    }

    // A client of another language, with blocking sockets and its own look at the peer.
    let script = "import socket, sys\n\
                  s = socket.create_connection((sys.argv[1], 80))\n\
                  print(s.getpeername()[:2], s.makefile().readline().strip())";
    for host in [V4.to_string(), V6.to_string()] {
        let text = client.run("python3", &["-c", script, &host])?;
        assert!(text.starts_with(&format!("('{host}', 80) ")), "{text}");
        assert!(["a\n", "b\n"].contains(&text.split(' ').next_back().unwrap_or_default()), "{text}");
    }
    Ok(())
}

#[test]
fn only_meshed_cgroups_are_balanced() -> Result<()> {
    let world = World::new("scope")?;
    let servers = world.fleet(Kind::Name, &["a"], 7000)?;
    let agent = Agent::start(&world, &web(at(V4, 80), &[], &endpoints(servers.iter().map(|s| s.v4))))?;
    let stranger = world.plain("stranger")?.connect(at(V4, 80), 3)?;
    assert_eq!((stranger.answered(), stranger.failed()), (0, 3), "{stranger:?}");
    assert_eq!(agent.service("web")?.traffic.connections, 0);
    // Other addresses and ports of the meshed stay as they are.
    let client = world.meshed("client")?;
    assert_answers(&client.connect(servers[0].v4, 3)?, 3, &["a"], servers[0].v4);
    assert_eq!(client.connect(at(V4, 81), 3)?.failed(), 3);
    assert_eq!(agent.service("web")?.traffic.connections, 0);
    Ok(())
}

#[test]
fn observe_and_shadow_change_nothing() -> Result<()> {
    let world = World::new("modes")?;
    let servers = world.fleet(Kind::Name, &["a"], 7000)?;
    let listed = endpoints(servers.iter().map(|s| s.v4));
    let agent = Agent::start(&world, &web(at(V4, 80), &["mode: observe"], &listed))?;
    let client = world.meshed("client")?;

    // Nobody owns the address and no route leads to it: what enforce would balance fails.
    let seen = client.connect(at(V4, 80), 5)?;
    assert_eq!((seen.answered(), seen.failed()), (0, 5), "{seen:?}");
    let status = agent.service("web")?;
    assert_eq!(status.traffic.connections, 5);
    assert_eq!(status.endpoints[0].traffic.connections, 0);

    agent.change(&web(at(V4, 80), &["mode: shadow"], &listed))?;
    let seen = client.connect(at(V4, 80), 5)?;
    assert_eq!((seen.answered(), seen.failed()), (0, 5), "{seen:?}");
    let status = agent.service("web")?;
    assert_eq!(status.shadow.get("balanced"), Some(&5), "{:?}", status.shadow);

    agent.change(&web(at(V4, 80), &["mode: enforce"], &listed))?;
    assert_answers(&client.connect(at(V4, 80), 5)?, 5, &["a"], at(V4, 80));
    agent.change(&web(at(V4, 80), &["mode: observe"], &listed))?;
    assert_eq!(client.connect(at(V4, 80), 5)?.failed(), 5);
    Ok(())
}

#[test]
fn redis_answers_through_a_service() -> Result<()> {
    let world = World::new("redis")?;
    let (one, two) = (world.plain("one")?, world.plain("two")?);
    let addresses = [at(one.namespace.v4(), 6379), at(two.namespace.v4(), 6379)];
    let _servers = [one.redis("one", addresses[0])?, two.redis("two", addresses[1])?];
    let mesh = web(at(V4, 6379), &["balance: round-robin"], &endpoints(addresses));
    let agent = Agent::start(&world, &mesh)?;
    let client = world.meshed("client")?;
    let get = || client.run("redis-cli", &["-h", &V4.to_string(), "get", "name"]);
    let seen: BTreeSet<String> = (0..4).map(|_| get()).collect::<Result<_>>()?;
    assert_eq!(seen, BTreeSet::from(["one\n".to_owned(), "two\n".to_owned()]));

    // One connection is one endpoint, whatever it carries.
    let value = "x".repeat(100_000);
    let commands = client.run("redis-cli", &["-h", &V4.to_string(), "set", "big", &value])?;
    assert_eq!(commands, "OK\n");
    let sent = agent.service("web")?.traffic.bytes_sent;
    assert!(sent >= 100_000, "{sent} bytes were counted");
    Ok(())
}

#[test]
fn udp_replies_come_from_the_service() -> Result<()> {
    let world = World::new("udp")?;
    let servers = world.fleet(Kind::Name, &["a", "b"], 7000)?;
    let mut mesh = service("four", at(V4, 53), &["protocol: udp"], &endpoints(servers.iter().map(|s| s.v4)));
    mesh += &service("six", at(V6, 53), &["protocol: udp"], &endpoints(servers.iter().map(|s| s.v6)));
    let agent = Agent::start(&world, &file(&[mesh]))?;
    let client = world.meshed("client")?;

    for target in [at(V4, 53), at(V6, 53), at(V4.to_ipv6_mapped(), 53)] {
        for flags in [&["--count=60"][..], &["--count=60", "--connected"]] {
            assert_answers(&client.datagram(target, flags)?, 60, &["a", "b"], target);
        }
        // A flow stays.
        for flags in [&["--count=60", "--one-socket"][..], &["--count=60", "--one-socket", "--connected"]] {
            let seen = client.datagram(target, flags)?;
            assert_eq!(seen.answers.len(), 1, "{seen:?}");
            assert_eq!((seen.answered(), seen.failed()), (60, 0), "{seen:?}");
            assert_eq!(seen.peers, BTreeMap::from([(target, 60)]));
        }
    }
    // Each round: 60 flows, 60 flows, one flow, one flow; twice for the IPv4 service.
    assert_eq!(agent.service("four")?.traffic.connections, 2 * 122);
    assert_eq!(agent.service("six")?.traffic.connections, 122);
    Ok(())
}

#[test]
fn a_udp_service_shares_by_weight() -> Result<()> {
    let world = World::new("udp-weights")?;
    let servers = world.fleet(Kind::Name, &["heavy", "light"], 7000)?;
    let listed = [endpoint(servers[0].v4, &["weight: 3"]), endpoint(servers[1].v4, &["weight: 1"])];
    let _agent = Agent::start(&world, &web(at(V4, 53), &["protocol: udp"], &listed))?;
    let seen = world.meshed("client")?.datagram(at(V4, 53), &["--count=4000"])?;
    assert_eq!(seen.failed(), 0, "{:?}", seen.errors);
    let heavy = seen.of("heavy");
    assert!(binomial_bounds(4000, 0.75).contains(&heavy), "{heavy} of 4000");
    Ok(())
}

#[test]
fn resolvers_accept_the_answers_of_a_dns_service() -> Result<()> {
    let world = World::new("dns")?;
    let (one, two) = (world.plain("one")?, world.plain("two")?);
    let addresses = [at(one.namespace.v4(), 53), at(two.namespace.v4(), 53)];
    let _servers = [one.dnsmasq("one", addresses[0])?, two.dnsmasq("two", addresses[1])?];
    let listed = endpoints(addresses);
    let mut mesh = service("dns-udp", at(V4, 53), &["protocol: udp", "balance: round-robin"], &listed);
    mesh += &service("dns-tcp", at(V4, 53), &["balance: round-robin"], &listed);
    let agent = Agent::start(&world, &file(&[mesh]))?;
    let client = world.meshed("client")?;
    for transport in ["+notcp", "+tcp"] {
        let at_service = format!("@{V4}");
        let arguments = [&at_service, "name.test", "TXT", "+short", "+tries=1", "+time=3", transport];
        let mut seen = BTreeSet::new();
        for _ in 0..4 {
            // dig refuses an answer from another address than it asked.
            seen.insert(client.run("dig", &arguments)?);
        }
        assert_eq!(seen, BTreeSet::from(["\"one\"\n".to_owned(), "\"two\"\n".to_owned()]), "{transport}");
    }
    assert_eq!(agent.service("dns-udp")?.traffic.connections, 4);
    assert_eq!(agent.service("dns-tcp")?.traffic.connections, 4);
    Ok(())
}

#[test]
fn dual_stack_callers_get_endpoints_of_their_family() -> Result<()> {
    let world = World::new("dual-stack")?;
    let servers = world.fleet(Kind::Name, &["four", "six"], 7000)?;
    let text = |protocol: &str, listed: &[String]| {
        let mesh = service("web", "REPLACED", &[protocol], listed);
        file(&[mesh.replace("address: \"REPLACED\"", &format!("addresses: [\"{V4}:80\", \"[{V6}]:80\"]"))])
    };
    let both = endpoints([servers[0].v4, servers[1].v6]);
    let agent = Agent::start(&world, &text("protocol: tcp", &both))?;
    let client = world.meshed("client")?;
    assert_answers(&client.connect(at(V4, 80), 20)?, 20, &["four"], at(V4, 80));
    assert_answers(&client.connect(at(V6, 80), 20)?, 20, &["six"], at(V6, 80));
    // Without an IPv6 endpoint, an IPv6 socket is led to an IPv4 one, and still shown what it dialled.
    agent.change(&text("protocol: tcp", &both[..1]))?;
    assert_answers(&client.connect(at(V6, 80), 20)?, 20, &["four"], at(V6, 80));
    let mapped = at(V4.to_ipv6_mapped(), 80);
    assert_answers(&client.connect(mapped, 20)?, 20, &["four"], mapped);

    agent.change(&text("protocol: udp", &both))?;
    let connected = ["--count=20", "--connected"];
    for flags in [&["--count=20"][..], &connected] {
        assert_answers(&client.datagram(at(V4, 80), flags)?, 20, &["four"], at(V4, 80));
        assert_answers(&client.datagram(at(V6, 80), flags)?, 20, &["six"], at(V6, 80));
    }
    agent.change(&text("protocol: udp", &both[..1]))?;
    assert_answers(&client.datagram(at(V6, 80), &connected)?, 20, &["four"], at(V6, 80));
    // sendto() of an IPv6 socket cannot leave IPv6: refused, and never sent elsewhere.
    let refused = client.datagram(at(V6, 80), &["--count=20"])?;
    assert_eq!(refused.errors, BTreeMap::from([("ConnectionRefused".to_owned(), 20)]));
    Ok(())
}

#[test]
fn every_namespace_reaches_every_endpoint() -> Result<()> {
    let world = World::new("namespaces")?;
    let servers = world.fleet(Kind::Name, &["a", "b", "c"], 7000)?;
    let listed = endpoints(servers.iter().map(|s| s.v4));
    let agent = Agent::start(&world, &web(at(V4, 80), &["balance: round-robin"], &listed))?;
    for label in ["one", "two", "three"] {
        let seen = world.meshed(label)?.connect(at(V4, 80), 30)?;
        assert_answers(&seen, 30, &["a", "b", "c"], at(V4, 80));
    }
    // A connection is open until its peer's FIN came, which the client's end does not wait for.
    until_true("all to be closed", Duration::from_secs(20), || Ok(agent.service("web")?.traffic.open == 0))?;
    let traffic = agent.service("web")?.traffic;
    assert_eq!((traffic.connections, traffic.established), (90, 90));
    Ok(())
}
