//! What clients see: real sockets that dial service addresses.

mod world;

use std::collections::HashMap;
use std::io::{ErrorKind, Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream, UdpSocket};

use alize_datapath::{
    Availability, DataPath, Failure, KernelEventKind, LiveState, Refusal, Traffic, Unavailable,
};
use alize_model::ServiceName;
use world::{TcpServer, UdpServer, World, apply, ask, dial, eventually, service, try_apply_with};

/// How many of `dials` connects each server answered.
fn distribution(address: &str, dials: usize) -> HashMap<SocketAddr, usize> {
    let mut reached = HashMap::new();
    for _ in 0..dials {
        *reached.entry(dial(address).unwrap().1).or_default() += 1;
    }
    reached
}

fn service_traffic(data_path: &DataPath, name: &str) -> Traffic {
    let id = data_path.service_id(name).unwrap();
    data_path.counters().unwrap().services.get(&id).map(|counters| counters.0).unwrap_or_default()
}

fn servers(count: usize) -> Vec<TcpServer> {
    (0..count).map(|_| TcpServer::start("127.0.0.1:0")).collect()
}

fn addresses(servers: &[TcpServer]) -> Vec<SocketAddr> {
    servers.iter().map(|server| server.address).collect()
}

#[test]
fn tcp_over_ipv4_reaches_an_endpoint_and_shows_the_service() {
    let world = World::new("tcp4");
    let mut data_path = world.open();
    let server = TcpServer::start("127.0.0.1:0");
    assert!(dial("127.77.0.1:80").is_err(), "nobody listens at the service address itself");

    apply(&mut data_path, &service("web", "127.77.0.1:80", "", &[server.address]));
    let (stream, reached) = dial("127.77.0.1:80").unwrap();
    assert_eq!(reached, server.address);
    assert_eq!(stream.peer_addr().unwrap(), "127.77.0.1:80".parse().unwrap());

    let traffic = service_traffic(&data_path, "web");
    assert_eq!((traffic.connections, traffic.established, traffic.open), (1, 1, 1));
    drop(stream);
    eventually("the connection is counted as closed", || service_traffic(&data_path, "web").open == 0);
    let endpoint = data_path.endpoints(data_path.service_id("web").unwrap())[0];
    assert_eq!(data_path.endpoint_address(endpoint.id), Some(server.address));
    let traffic = data_path.counters().unwrap().endpoints[&endpoint.id];
    assert_eq!((traffic.connections, traffic.established, traffic.open), (1, 1, 0));
    assert_eq!(traffic.bytes_received, server.address.to_string().len() as u64 + 1);
}

#[test]
fn what_is_no_service_passes_untouched() {
    let world = World::new("pass");
    let mut data_path = world.open();
    let (server, other) = (TcpServer::start("127.0.0.1:0"), TcpServer::start("127.77.0.9:0"));
    apply(
        &mut data_path,
        &service("web", &format!("127.77.0.9:{}", other.address.port() ^ 1), "", &[server.address]),
    );
    assert_eq!(
        dial(&other.address.to_string()).unwrap().1,
        other.address,
        "another port of a service's address"
    );
    let udp = UdpServer::start("127.0.0.1:0");
    apply(
        &mut data_path,
        &service("web", &udp.address.to_string().replace("127.0.0.1", "127.77.0.8"), "", &[]),
    );
    let socket = UdpSocket::bind("127.0.0.1:0").unwrap();
    assert_eq!(ask(&socket, &udp.address.to_string()).unwrap().0, udp.address, "TCP service, UDP datagram");
}

#[test]
fn tcp_over_ipv6() {
    let world = World::new("tcp6");
    let mut data_path = world.open();
    let server = TcpServer::start("[::1]:0");
    apply(&mut data_path, &service("web", "[fd00:77::1]:80", "", &[server.address]));
    let (stream, reached) = dial("[fd00:77::1]:80").unwrap();
    assert_eq!(reached, server.address);
    assert_eq!(stream.peer_addr().unwrap(), "[fd00:77::1]:80".parse().unwrap());
}

#[test]
fn an_ipv6_service_may_have_ipv4_endpoints() {
    let world = World::new("tcp64");
    let mut data_path = world.open();
    let server = TcpServer::start("127.0.0.1:0");
    apply(&mut data_path, &service("web", "[fd00:77::1]:80", "", &[server.address]));
    let (stream, reached) = dial("[fd00:77::1]:80").unwrap();
    assert_eq!(reached, server.address);
    assert_eq!(stream.peer_addr().unwrap(), "[fd00:77::1]:80".parse().unwrap());
}

#[test]
fn v4_mapped_dials_are_ipv4() {
    let world = World::new("mapped");
    let mut data_path = world.open();
    let server = TcpServer::start("127.0.0.1:0");
    apply(&mut data_path, &service("web", "127.77.0.1:80", "", &[server.address]));
    let (stream, reached) = dial("[::ffff:127.77.0.1]:80").unwrap();
    assert_eq!(reached, server.address);
    assert_eq!(stream.peer_addr().unwrap(), "[::ffff:127.77.0.1]:80".parse().unwrap());
    assert_eq!(service_traffic(&data_path, "web").established, 1);
}

#[test]
fn connected_udp_hears_the_service() {
    let world = World::new("udp-connected");
    let mut data_path = world.open();
    let server = UdpServer::start("127.0.0.1:0");
    apply(&mut data_path, &service("dns", "127.77.0.1:53", "protocol: udp,", &[server.address]));
    let socket = UdpSocket::bind("127.0.0.1:0").unwrap();
    socket.connect("127.77.0.1:53").unwrap();
    assert_eq!(socket.peer_addr().unwrap(), "127.77.0.1:53".parse().unwrap());
    socket.send(b"who").unwrap();
    let mut bytes = [0; 64];
    let (read, from) = socket.recv_from(&mut bytes).unwrap();
    assert_eq!(&bytes[..read], server.address.to_string().as_bytes());
    assert_eq!(from, "127.77.0.1:53".parse().unwrap());
    assert_eq!(service_traffic(&data_path, "dns").open, 1);
    drop(socket);
    eventually("the socket is counted as closed", || service_traffic(&data_path, "dns").open == 0);
}

#[test]
fn unconnected_udp_hears_the_service_and_stays_with_its_endpoint() {
    let world = World::new("udp-unconnected");
    let mut data_path = world.open();
    let servers: Vec<_> = (0..4).map(|_| UdpServer::start("127.0.0.1:0")).collect();
    let endpoints: Vec<_> = servers.iter().map(|server| server.address).collect();
    apply(
        &mut data_path,
        &service("dns", "127.77.0.1:53", "protocol: udp, balance: round-robin,", &endpoints),
    );
    let mut first_answers = Vec::new();
    for _ in 0..4 {
        let socket = UdpSocket::bind("127.0.0.1:0").unwrap();
        let (server, from) = ask(&socket, "127.77.0.1:53").unwrap();
        assert_eq!(from, "127.77.0.1:53".parse().unwrap());
        for _ in 0..5 {
            assert_eq!(ask(&socket, "127.77.0.1:53").unwrap().0, server, "a flow stays");
        }
        first_answers.push(server);
    }
    first_answers.sort();
    let mut expected = endpoints.clone();
    expected.sort();
    assert_eq!(first_answers, expected, "new flows take turns");
    assert_eq!(service_traffic(&data_path, "dns").connections, 4, "flows are counted, not datagrams");

    let socket = UdpSocket::bind("[::]:0").unwrap();
    let (_, from) = ask(&socket, "[::ffff:127.77.0.1]:53").unwrap();
    assert_eq!(from, "[::ffff:127.77.0.1]:53".parse().unwrap());
}

#[test]
fn udp_over_ipv6() {
    let world = World::new("udp6");
    let mut data_path = world.open();
    let server = UdpServer::start("[::1]:0");
    apply(&mut data_path, &service("dns", "[fd00:77::1]:53", "protocol: udp,", &[server.address]));
    let socket = UdpSocket::bind("[::1]:0").unwrap();
    let (reached, from) = ask(&socket, "[fd00:77::1]:53").unwrap();
    assert_eq!((reached, from), (server.address, "[fd00:77::1]:53".parse().unwrap()));
}

#[test]
fn no_endpoint_is_refused_at_once_and_told() {
    let world = World::new("refused");
    let mut data_path = world.open();
    let text = service("web", "127.77.0.1:80", "", &[])
        + &service("dns", "127.77.0.1:53", "protocol: udp,", &[])
        + &service("six", "127.77.0.2:80", "", &["[::1]:9".parse().unwrap()]);
    apply(&mut data_path, &text);
    for address in ["127.77.0.1:80", "[::ffff:127.77.0.1]:80", "127.77.0.2:80"] {
        assert_eq!(dial(address).unwrap_err().kind(), ErrorKind::ConnectionRefused, "{address}");
    }
    let socket = UdpSocket::bind("127.0.0.1:0").unwrap();
    assert_eq!(ask(&socket, "127.77.0.1:53").unwrap_err().kind(), ErrorKind::ConnectionRefused);

    let web = data_path.service_id("web").unwrap();
    let counters = data_path.counters().unwrap();
    assert_eq!(counters.services[&web].1.refused[Refusal::NoEndpoint as usize], 2);
    assert_eq!(counters.services[&web].0.connections, 0);
    let mut events = Vec::new();
    data_path.drain_events(&mut |event| events.push(event)).unwrap();
    assert_eq!(events.len(), 4);
    assert_eq!(events[0].what, KernelEventKind::Refused(Refusal::NoEndpoint));
    assert_eq!((events[0].service, events[0].endpoint, events[0].pid), (web, None, std::process::id()));
    assert_ne!(events[0].cgroup, 0);
}

#[test]
fn a_failed_connect_is_counted_by_reason_and_told() {
    let world = World::new("failed");
    let mut data_path = world.open();
    // A port that was free a moment ago.
    let free = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
    apply(&mut data_path, &service("web", "127.77.0.1:80", "", &[free]));
    assert_eq!(dial("127.77.0.1:80").unwrap_err().kind(), ErrorKind::ConnectionRefused);
    let web = data_path.service_id("web").unwrap();
    let endpoint = data_path.endpoints(web)[0].id;
    let counters = data_path.counters().unwrap();
    for traffic in [counters.services[&web].0, counters.endpoints[&endpoint]] {
        assert_eq!((traffic.connections, traffic.established, traffic.open), (1, 0, 0));
        assert_eq!(traffic.failures[Failure::Refused as usize], 1);
    }
    let mut events = Vec::new();
    data_path.drain_events(&mut |event| events.push((event.what, event.endpoint))).unwrap();
    assert_eq!(events, [(KernelEventKind::ConnectFailed(Failure::Refused), Some(endpoint))]);
}

#[test]
fn weights_hold_for_every_way_of_balancing() {
    let world = World::new("weights");
    let mut data_path = world.open();
    let servers = servers(2);
    let weighted = |balance: &str, weight: u16| {
        format!(
            "- {{name: web, address: 127.77.0.1:80, balance: {balance}, endpoints: \
             [{{address: \"{}\", weight: {weight}}}, \"{}\"]}}\n",
            servers[0].address, servers[1].address
        )
    };
    apply(&mut data_path, &weighted("round-robin", 3));
    assert_eq!(distribution("127.77.0.1:80", 100)[&servers[1].address], 25);

    apply(&mut data_path, &weighted("weighted-random", 3));
    let second = distribution("127.77.0.1:80", 400)[&servers[1].address];
    // Binomial(400, 1/4): 100, standard deviation 8.7; 5 of them.
    assert!((57..=143).contains(&second), "{second} of 400");
    let shares: Vec<f64> = data_path
        .endpoints(data_path.service_id("web").unwrap())
        .iter()
        .map(|endpoint| endpoint.share)
        .collect();
    assert!(shares.iter().any(|share| (share - 0.25).abs() < 1e-6), "{shares:?}");

    apply(&mut data_path, &weighted("{maglev: {table-size: 251}}", 1));
    assert_eq!(distribution("127.77.0.1:80", 20).len(), 1, "the same client goes to the same endpoint");
}

#[test]
fn least_connections_prefers_the_emptier() {
    let world = World::new("least");
    let mut data_path = world.open();
    let servers = servers(2);
    apply(
        &mut data_path,
        &service("web", "127.77.0.1:80", "balance: least-connections,", &addresses(&servers)),
    );
    // With two endpoints both are always drawn, so held connections stay even.
    let held: Vec<_> = (0..40).map(|_| dial("127.77.0.1:80").unwrap()).collect();
    let first = held.iter().filter(|(_, server)| *server == servers[0].address).count();
    assert!((19..=21).contains(&first), "{first} of 40");
}

#[test]
fn affinity_keeps_a_client_until_it_expires() {
    let world = World::new("affinity");
    let mut data_path = world.open();
    let servers = servers(4);
    let endpoints = addresses(&servers);
    let text = service("web", "127.77.0.1:80", "balance: round-robin, affinity: 1s,", &endpoints);
    apply(&mut data_path, &text);
    let first = dial("127.77.0.1:80").unwrap().1;
    assert_eq!(distribution("127.77.0.1:80", 10), HashMap::from([(first, 10)]));
    let web = data_path.service_id("web").unwrap();
    assert_eq!(data_path.counters().unwrap().services[&web].1.affinity_kept, 10);

    std::thread::sleep(std::time::Duration::from_millis(1100));
    let second = dial("127.77.0.1:80").unwrap().1;
    assert_ne!(second, first, "round robin gives the next after the timeout");

    let rest: Vec<_> = endpoints.iter().copied().filter(|endpoint| *endpoint != second).collect();
    apply(&mut data_path, &service("web", "127.77.0.1:80", "balance: round-robin, affinity: 1s,", &rest));
    assert_ne!(dial("127.77.0.1:80").unwrap().1, second, "a removed endpoint keeps nobody");
}

#[test]
fn draining_keeps_the_old_and_takes_no_new() {
    let world = World::new("draining");
    let mut data_path = world.open();
    let servers = servers(2);
    let text = |draining: bool| {
        format!(
            "- {{name: web, address: 127.77.0.1:80, balance: round-robin, endpoints: \
             [{{address: \"{}\", draining: {draining}}}, \"{}\"]}}\n",
            servers[0].address, servers[1].address
        )
    };
    apply(&mut data_path, &text(false));
    let mut held: Vec<_> = (0..2).map(|_| dial("127.77.0.1:80").unwrap()).collect();
    apply(&mut data_path, &text(true));
    assert_eq!(distribution("127.77.0.1:80", 10), HashMap::from([(servers[1].address, 10)]));
    let web = data_path.service_id("web").unwrap();
    let draining =
        data_path.endpoints(web).into_iter().find(|endpoint| endpoint.address == servers[0].address);
    assert_eq!(draining.map(|endpoint| (endpoint.state, endpoint.share)), Some((LiveState::Draining, 0.0)));
    for (stream, _) in &mut held {
        stream.write_all(b"still here").unwrap();
        let mut answer = [0; 10];
        stream.read_exact(&mut answer).unwrap();
        assert_eq!(&answer, b"still here");
    }
}

#[test]
fn an_unavailable_endpoint_takes_no_new_connection() {
    let world = World::new("unavailable");
    let mut data_path = world.open();
    let servers = servers(2);
    let text = service("web", "127.77.0.1:80", "balance: round-robin,", &addresses(&servers));
    apply(&mut data_path, &text);
    let sick = (ServiceName::new("web").unwrap(), servers[0].address);
    let unavailable = Availability::from([(sick, Unavailable::Ejected)]);
    assert_eq!(try_apply_with(&mut data_path, &text, &unavailable).unwrap().changed, 1);
    assert_eq!(distribution("127.77.0.1:80", 6), HashMap::from([(servers[1].address, 6)]));
    let web = data_path.service_id("web").unwrap();
    let states: Vec<_> = data_path.endpoints(web).iter().map(|endpoint| endpoint.state).collect();
    assert!(states.contains(&LiveState::Unavailable(Unavailable::Ejected)), "{states:?}");
    apply(&mut data_path, &text);
    assert_eq!(distribution("127.77.0.1:80", 6).len(), 2);
}

#[test]
fn observe_and_shadow_change_nothing_and_count() {
    let world = World::new("modes");
    let mut data_path = world.open();
    let (real, server) = (TcpServer::start("127.77.0.1:0"), TcpServer::start("127.0.0.1:0"));
    let address = real.address.to_string();
    let mut dial_in = |mode: &str| {
        apply(&mut data_path, &service("web", &address, &format!("mode: {mode},"), &[server.address]));
        let reached = dial(&address).unwrap().1;
        let web = data_path.service_id("web").unwrap();
        (reached, data_path.counters().unwrap().services[&web])
    };
    let (reached, (traffic, decisions)) = dial_in("observe");
    assert_eq!((reached, traffic.connections, decisions.would_balance), (real.address, 1, 0));
    let (reached, (traffic, decisions)) = dial_in("shadow");
    assert_eq!((reached, traffic.connections, decisions.would_balance), (real.address, 2, 1));
    let (reached, (traffic, decisions)) = dial_in("enforce");
    assert_eq!((reached, traffic.connections, decisions.would_balance), (server.address, 3, 1));
}

#[test]
fn a_reply_of_a_shared_endpoint_is_that_of_the_service_asked_last() {
    let world = World::new("udp-shared");
    let mut data_path = world.open();
    let server = UdpServer::start("127.0.0.1:0");
    let text = ["127.77.0.1:53", "127.77.0.2:53"].map(|address| {
        service(&format!("dns-{}", &address[9..10]), address, "protocol: udp,", &[server.address])
    });
    apply(&mut data_path, &text.concat());
    let socket = UdpSocket::bind("127.0.0.1:0").unwrap();
    for address in ["127.77.0.1:53", "127.77.0.2:53", "127.77.0.1:53", "127.77.0.2:53"] {
        assert_eq!(ask(&socket, address).unwrap(), (server.address, address.parse().unwrap()));
    }
}

/// As for connections, flows are counted and not datagrams; and a flow that never pauses follows the mode all the same.
#[test]
fn a_udp_flow_follows_the_mode_at_once() {
    let world = World::new("udp-modes");
    let mut data_path = world.open();
    let (real, server) = (UdpServer::start("127.77.0.1:0"), UdpServer::start("127.0.0.1:0"));
    let address = real.address.to_string();
    let (busy, mut flows) = (UdpSocket::bind("0.0.0.0:0").unwrap(), 0);
    for (mode, reached, would_balance) in [
        ("enforce", server.address, 0),
        ("observe", real.address, 0),
        ("enforce", server.address, 0),
        ("shadow", real.address, 2),
        ("enforce", server.address, 2),
    ] {
        let more = format!("protocol: udp, mode: {mode},");
        apply(&mut data_path, &service("dns", &address, &more, &[server.address]));
        let fresh = UdpSocket::bind("0.0.0.0:0").unwrap();
        for _ in 0..5 {
            for socket in [&busy, &fresh] {
                assert_eq!(ask(socket, &address).unwrap(), (reached, real.address), "{mode}");
            }
        }
        flows += 2;
        let dns = data_path.service_id("dns").unwrap();
        let (traffic, decisions) = data_path.counters().unwrap().services[&dns];
        assert_eq!((traffic.connections, decisions.would_balance), (flows, would_balance), "{mode}");
    }
}

#[test]
fn flows_that_are_only_observed_make_room_for_balanced_ones() {
    let world = World::new("udp-room");
    let mut data_path = world.open();
    let servers: Vec<_> = (0..24).map(|_| UdpServer::start("127.77.0.1:0")).collect();
    let balanced: Vec<_> = (0..24).map(|_| UdpServer::start("127.0.0.1:0")).collect();
    let text: String = (0..24)
        .map(|index| {
            let mode = if index < 8 { "enforce" } else { "observe" };
            let more = format!("protocol: udp, mode: {mode},");
            let address = servers[index].address.to_string();
            service(&format!("s{index}"), &address, &more, &[balanced[index].address])
        })
        .collect();
    apply(&mut data_path, &text);
    let socket = UdpSocket::bind("0.0.0.0:0").unwrap();
    for server in servers.iter().chain(&servers[..8]) {
        assert_eq!(ask(&socket, &server.address.to_string()).unwrap().1, server.address);
    }
    // What was sent first is answered last, after 16 observed services were spoken to.
    for server in servers.iter().rev() {
        socket.send_to(b"who", server.address).unwrap();
    }
    let mut heard: Vec<_> = servers.iter().map(|_| socket.recv_from(&mut [0; 64]).unwrap().1).collect();
    heard.sort();
    let mut expected: Vec<_> = servers.iter().map(|server| server.address).collect();
    expected.sort();
    assert_eq!(heard, expected, "replies come from the services");
    let evicted = |(name, count): &(&str, u64)| *name == "flow-evicted" && *count > 0;
    assert!(!data_path.anomalies().unwrap().iter().any(evicted), "none that is balanced was evicted");
}

#[test]
fn the_counters_of_an_open_connection_grow() {
    let world = World::new("sweep");
    let mut data_path = world.open();
    let server = TcpServer::start("127.0.0.1:0");
    apply(&mut data_path, &service("web", "127.77.0.1:80", "", &[server.address]));
    let (mut stream, _): (TcpStream, _) = dial("127.77.0.1:80").unwrap();
    let message = [7u8; 1000];
    stream.write_all(&message).unwrap();
    stream.read_exact(&mut [0; 1000]).unwrap();
    let traffic = service_traffic(&data_path, "web");
    assert_eq!((traffic.open, traffic.bytes_sent), (1, 1000));
    assert_eq!(traffic.bytes_received, 1000 + server.address.to_string().len() as u64 + 1);
    assert!(traffic.rtt_samples > 0 && traffic.rtt_us > 0);
    let again = service_traffic(&data_path, "web");
    assert_eq!((again.bytes_sent, again.bytes_received), (traffic.bytes_sent, traffic.bytes_received));
}

#[test]
fn shadow_is_held_against_what_really_happens() {
    let world = World::new("shadow-outcomes");
    let mut data_path = world.open();
    let servers = [TcpServer::start("127.0.0.1:0"), TcpServer::start("127.0.0.1:0")];
    let real = TcpServer::start("127.77.0.1:0");
    let at = real.address.to_string();
    let addresses = servers.each_ref().map(|server| server.address);
    let text = |mode: &str, endpoints: &[std::net::SocketAddr]| {
        service("web", &at, &format!("balance: round-robin, mode: {mode},"), endpoints)
    };
    apply(&mut data_path, &text("observe", &addresses));
    dial(&at).unwrap();
    apply(&mut data_path, &text("shadow", &addresses));
    let number = data_path.service_id("web").unwrap();
    for _ in 0..6 {
        assert_eq!(dial(&at).unwrap().1, real.address);
    }
    let counters = data_path.counters().unwrap();
    let seen = counters.shadow[&number];
    assert_eq!(
        (seen.connections, seen.established, seen.failures),
        (6, 6, [0; 6]),
        "those of observe are not in it"
    );
    for endpoint in data_path.endpoints(number) {
        assert_eq!(counters.would[&endpoint.id], 3, "round robin over two");
        assert!(!counters.endpoints.contains_key(&endpoint.id), "nothing was sent there");
    }

    // Nobody listens any more where clients dial; and no endpoint is left: both are counted.
    drop(real);
    apply(&mut data_path, &text("shadow", &[]));
    world::eventually("nobody listens", || {
        dial(&at).is_err_and(|error| error.kind() == std::io::ErrorKind::ConnectionRefused)
    });
    let counters = data_path.counters().unwrap();
    let (seen, decisions) = (counters.shadow[&number], counters.services[&number].1);
    assert!(seen.failures[alize_datapath::Failure::Refused as usize] >= 1, "{seen:?}");
    // The server dialled itself once, to end.
    assert_eq!(decisions.would_balance, 7);
    assert_eq!(decisions.would_refuse[0], seen.connections - 7);
    let mut told = 0;
    data_path
        .drain_events(&mut |event| {
            if let alize_datapath::KernelEventKind::WouldRefuse(alize_datapath::Refusal::NoEndpoint) =
                event.what
            {
                told += 1;
            }
        })
        .unwrap();
    assert_eq!(told, decisions.would_refuse[0], "each is told at once");

    apply(&mut data_path, &text("enforce", &addresses));
    dial(&at).unwrap();
    assert_eq!(data_path.counters().unwrap().shadow[&number], seen, "enforce is not in it");
}
