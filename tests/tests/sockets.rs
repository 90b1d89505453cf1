//! Sockets that are used in less usual ways, by a client of another language.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::process::Command;
use std::time::Duration;

use alize_tests::mesh::{endpoints, file, service, web};
use alize_tests::servers::at;
use alize_tests::wait::until_true;
use alize_tests::{Agent, Kind, Place, World};
use anyhow::{Context, Result, ensure};

const SOON: Duration = Duration::from_secs(10);

fn address() -> SocketAddr {
    at([10, 96, 0, 10], 80)
}

fn other() -> SocketAddr {
    at([10, 96, 0, 11], 80)
}

/// Runs Python with `target` and `other`, pairs of address and port, in its reach; what it prints.
fn python(place: &Place, script: &str) -> Result<String> {
    let pair = |address: SocketAddr| format!("('{}', {})", address.ip(), address.port());
    let head =
        format!("import socket, select, errno\ntarget = {}\nother = {}\n", pair(address()), pair(other()));
    Ok(place.run("python3", &["-c", &(head + script)])?.trim().to_owned())
}

#[test]
fn every_way_to_connect_is_balanced() -> Result<()> {
    let world = World::new("ways")?;
    let servers = world.fleet(Kind::Name, &["a"], 7000)?;
    let client = world.meshed("client")?;
    let closed = at(client.namespace.v4(), 1);
    let mesh = service("web", address(), &[], &endpoints([servers[0].v4]))
        + &service("other", other(), &[], &endpoints([closed]));
    let agent = Agent::start(&world, &file(&[mesh]))?;
    let cases = [
        (
            "without blocking",
            "s = socket.socket(); s.setblocking(False)\n\
             assert s.connect_ex(target) == errno.EINPROGRESS\n\
             select.select([], [s], [], 5); s.setblocking(True)\n",
        ),
        (
            "TCP fast open",
            "s = socket.socket(); s.setsockopt(socket.IPPROTO_TCP, 30, 1); s.connect(target); s.send(b'x')\n",
        ),
        ("sendto with MSG_FASTOPEN", "s = socket.socket(); s.sendto(b'x', socket.MSG_FASTOPEN, target)\n"),
        ("a bound source", "s = socket.socket(); s.bind(('0.0.0.0', 45678)); s.connect(target)\n"),
        (
            "after a connect that failed",
            "s = socket.socket(); s.connect_ex(('127.0.0.1', 1)); s.connect(target)\n",
        ),
        (
            "Multipath TCP",
            "s = socket.socket(socket.AF_INET, socket.SOCK_STREAM, 262)\n\
             s.connect(target)\n",
        ),
        (
            "Multipath TCP after a connect that was balanced and failed",
            "s = socket.socket(socket.AF_INET, socket.SOCK_STREAM, 262)\n\
             assert s.connect_ex(other) == errno.ECONNREFUSED\n\
             s.connect(target)\n",
        ),
    ];
    for (name, connect) in &cases {
        let script = format!("{connect}print(s.makefile().readline().strip(), *s.getpeername())");
        let seen = python(&client, &script).with_context(|| (*name).to_owned())?;
        assert_eq!(seen, "a 10.96.0.10 80", "{name}");
    }
    // What it dials afterwards is not balanced, and has its own name.
    let direct = format!(
        "s = socket.socket(socket.AF_INET, socket.SOCK_STREAM, 262)\n\
         assert s.connect_ex(other) == errno.ECONNREFUSED\n\
         s.connect(('{}', {})); print(*s.getpeername())",
        servers[0].v4.ip(),
        servers[0].v4.port()
    );
    assert_eq!(python(&client, &direct)?, format!("{} {}", servers[0].v4.ip(), servers[0].v4.port()));
    assert_eq!(agent.service("web")?.traffic.connections, cases.len() as u64);
    Ok(())
}

#[test]
fn a_closed_half_does_not_close_the_other() -> Result<()> {
    let world = World::new("half-close")?;
    let servers = world.fleet(Kind::Name, &["a"], 7000)?;
    let _agent = Agent::start(&world, &web(address(), &[], &endpoints([servers[0].v4])))?;
    let script = "s = socket.create_connection(target)\n\
                  s.sendall(b'z' * 300000); s.shutdown(socket.SHUT_WR)\n\
                  n = 0\n\
                  while chunk := s.recv(65536): n += len(chunk)\n\
                  print(n)";
    // The name, the end of its line, and the echo.
    assert_eq!(python(&world.meshed("client")?, script)?, "300002");
    Ok(())
}

#[test]
fn a_udp_socket_may_move_between_services() -> Result<()> {
    let world = World::new("udp-move")?;
    let servers = world.fleet(Kind::Name, &["a", "b"], 7000)?;
    let mesh = service("web", address(), &["protocol: udp"], &endpoints([servers[0].v4]))
        + &service("other", other(), &["protocol: udp"], &endpoints([servers[1].v4]));
    let agent = Agent::start(&world, &file(&[mesh]))?;
    let client = world.meshed("client")?;
    let connected = "s = socket.socket(socket.AF_INET, socket.SOCK_DGRAM); s.settimeout(3)\n\
                     for where in (target, other, target):\n\
                     \x20   s.connect(where); s.send(b'x')\n\
                     \x20   print(s.recv(99).split()[0].decode(), s.getpeername()[0])";
    assert_eq!(python(&client, connected)?, "a 10.96.0.10\nb 10.96.0.11\na 10.96.0.10");
    let unconnected = "s = socket.socket(socket.AF_INET, socket.SOCK_DGRAM); s.settimeout(3)\n\
                       s.sendto(b'x', target); s.sendto(b'x', other)\n\
                       print(sorted((d.split()[0].decode(), f[0]) for d, f in (s.recvfrom(99), s.recvfrom(99))))";
    assert_eq!(python(&client, unconnected)?, "[('a', '10.96.0.10'), ('b', '10.96.0.11')]");
    assert_eq!(agent.service("web")?.traffic.connections, 3);
    assert_eq!(agent.service("web")?.traffic.open, 0);
    Ok(())
}

#[test]
fn failures_are_counted_by_their_kind() -> Result<()> {
    let world = World::new("failures")?;
    let client = world.meshed("client")?;
    let nowhere = at([10, 77, 9, 9], 80);
    let cases = [
        ("refused", at(client.namespace.v4(), 1), "ConnectionRefused"),
        // Nobody answers for the first address on the link; the second has a neighbour that is not there.
        ("unreachable", at([10, 77, 9, 8], 80), "HostUnreachable"),
        ("timeout", nowhere, "TimedOut"),
    ];
    let neighbour = ["neigh", "add", "10.77.9.9", "lladdr", "02:00:00:00:00:01", "dev", "eth0"];
    let added = Command::new("ip").args(["-n", client.namespace.name()]).args(neighbour).status()?;
    ensure!(added.success(), "ip neigh add");
    // Two tries, 3 s, instead of seven and two minutes.
    client.namespace.within(|| -> Result<()> {
        std::fs::write("/proc/sys/net/ipv4/tcp_syn_retries", "1")?;
        std::fs::write("/proc/sys/net/ipv4/neigh/eth0/mcast_solicit", "1")?;
        Ok(std::fs::write("/proc/sys/net/ipv4/neigh/eth0/retrans_time_ms", "100")?)
    })??;

    let target = |index: usize| at([10, 96, 1, index as u8], 80);
    let services: Vec<_> = cases
        .iter()
        .enumerate()
        .map(|(index, case)| service(case.0, target(index), &[], &endpoints([case.1])))
        .collect();
    let aborted = service("aborted", address(), &[], &endpoints([nowhere]));
    let agent = Agent::start(&world, &file(&[services.concat(), aborted]))?;
    for (index, (name, _, error)) in cases.iter().enumerate() {
        let seen = client.connect_with(target(index), &["--count=2", "--timeout=20"])?;
        assert_eq!(seen.errors, BTreeMap::from([((*error).to_owned(), 2)]), "{name}");
        let traffic = agent.service(name)?.traffic;
        assert_eq!(traffic.failures, BTreeMap::from([((*name).to_owned(), 2)]));
        assert_eq!((traffic.connections, traffic.established, traffic.open), (2, 0, 0), "{name}");
    }
    // The name of a process can be told while it lives.
    let mut stream = client.stream(target(0), &["--pause=10"])?;
    until_true("the event of a failed connect", SOON, || {
        let events = agent.events()?;
        Ok(events.iter().any(|event| {
            event.kind == "connect-failed"
                && event.service.as_deref() == Some("refused")
                && event.endpoint == Some(cases[0].1)
                && event.comm.as_deref() == Some("alize-world")
        }))
    })?;
    assert_eq!(stream.ask()?.answered(), 0);

    // A client that loses patience is not the endpoint's fault.
    python(&client, "s = socket.socket(); s.setblocking(False); s.connect_ex(target); s.close()")?;
    until_true("the abort to be counted", SOON, || {
        let traffic = agent.service("aborted")?.traffic;
        ensure!(traffic.failures == BTreeMap::from([("aborted".to_owned(), 1)]), "{:?}", traffic.failures);
        Ok(traffic.open == 0)
    })
}
