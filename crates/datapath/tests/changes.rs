//! Changes while clients dial: each is whole, none costs a connection.

mod world;

use std::collections::HashSet;
use std::io::{ErrorKind, Read, Write};
use std::net::{SocketAddr, TcpStream, UdpSocket};
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use alize_datapath::{Availability, Desired, Error, LiveState, Refusal};
use alize_model::Budgets;
use world::{TcpServer, UdpServer, World, apply, ask, dial, eventually, service, snapshot, try_apply};

/// A port that no service uses may be taken as an endpoint without anybody listening.
fn nowhere(host: u8) -> SocketAddr {
    SocketAddr::from(([127, 77, 1, host], 9))
}

#[test]
fn no_connect_fails_while_endpoints_come_and_go() {
    let world = World::new("come-and-go");
    let mut data_path = world.open();
    let servers: Vec<_> = (0..6).map(|_| TcpServer::start("127.0.0.1:0")).collect();
    let some = |first: usize, count: usize| -> Vec<SocketAddr> {
        (0..count).map(|at| servers[(first + at) % servers.len()].address).collect()
    };
    let choices = ["weighted-random", "round-robin", "least-connections", "{maglev: {table-size: 251}}"];
    let texts: Vec<String> = (0..48)
        .map(|at| {
            let balance = format!("balance: {},", choices[at % choices.len()]);
            service("web", "127.77.0.1:80", &balance, &some(at * 5, 1 + at % 4))
        })
        .collect();
    apply(&mut data_path, &texts[0]);

    let (stop, dialled) = (AtomicBool::new(false), AtomicU64::new(0));
    let failures = Mutex::new(Vec::new());
    let mut changes = 0;
    std::thread::scope(|scope| {
        for _ in 0..3 {
            scope.spawn(|| {
                while !stop.load(Ordering::Relaxed) {
                    match TcpStream::connect("127.77.0.1:80") {
                        Ok(_) => _ = dialled.fetch_add(1, Ordering::Relaxed),
                        Err(error) => failures.lock().unwrap().push(error.to_string()),
                    }
                }
            });
        }
        let start = Instant::now();
        for text in texts.iter().cycle() {
            apply(&mut data_path, text);
            changes += 1;
            if changes % 50 == 0 {
                data_path.settle().unwrap();
            }
            if start.elapsed() > Duration::from_secs(2) {
                break;
            }
        }
        stop.store(true, Ordering::Relaxed);
    });
    let failures = failures.into_inner().unwrap();
    assert!(failures.is_empty(), "{} of {dialled:?} failed: {}", failures.len(), failures[0]);
    assert!(changes > 100 && dialled.into_inner() > 100, "{changes} changes");
    let web = data_path.service_id("web").unwrap();
    let refused = data_path.counters().unwrap().services[&web].1.refused;
    assert_eq!((refused[Refusal::NoEndpoint as usize], refused[Refusal::Stale as usize]), (0, 0));
}

#[test]
fn a_client_sees_the_old_service_or_the_new_one() {
    let world = World::new("whole");
    let mut data_path = world.open();
    let old: Vec<_> = (0..3).map(|_| TcpServer::start("127.0.0.1:0")).collect();
    let new: Vec<_> = (0..2).map(|_| TcpServer::start("127.0.0.1:0")).collect();
    let text = |servers: &[TcpServer]| {
        let addresses: Vec<_> = servers.iter().map(|server| server.address).collect();
        service("web", "127.77.0.1:80", "balance: round-robin,", &addresses)
    };
    apply(&mut data_path, &text(&old));
    let stop = AtomicBool::new(false);
    let switched = Mutex::new(None);
    let reached: Vec<(Instant, SocketAddr)> = std::thread::scope(|scope| {
        let clients: Vec<_> = (0..3)
            .map(|_| {
                scope.spawn(|| {
                    let mut reached = Vec::new();
                    while !stop.load(Ordering::Relaxed) {
                        let started = Instant::now();
                        reached.push((started, dial("127.77.0.1:80").unwrap().1));
                    }
                    reached
                })
            })
            .collect();
        std::thread::sleep(Duration::from_millis(200));
        apply(&mut data_path, &text(&new));
        *switched.lock().unwrap() = Some(Instant::now());
        std::thread::sleep(Duration::from_millis(200));
        stop.store(true, Ordering::Relaxed);
        clients.into_iter().flat_map(|client| client.join().unwrap()).collect()
    });
    let switched = switched.into_inner().unwrap().unwrap();
    let new: HashSet<SocketAddr> = new.iter().map(|server| server.address).collect();
    let late = reached.iter().filter(|(started, _)| *started > switched);
    assert!(late.clone().count() > 10);
    assert!(
        late.clone().all(|(_, server)| new.contains(server)),
        "after apply() has returned, all see the new one"
    );
}

#[test]
fn an_address_moves_to_another_service_without_a_gap() {
    let world = World::new("takeover");
    let mut data_path = world.open();
    let server = TcpServer::start("127.0.0.1:0");
    let named = |name: &str| service(name, "127.77.0.1:80", "", &[server.address]);
    apply(&mut data_path, &named("blue"));
    let stop = AtomicBool::new(false);
    let failed = std::thread::scope(|scope| {
        let client = scope.spawn(|| {
            let mut failed = 0;
            while !stop.load(Ordering::Relaxed) {
                failed += u32::from(TcpStream::connect("127.77.0.1:80").is_err());
            }
            failed
        });
        for at in 0..200 {
            apply(&mut data_path, &named(["green", "blue"][at % 2]));
        }
        stop.store(true, Ordering::Relaxed);
        client.join().unwrap()
    });
    assert_eq!(failed, 0);
    assert_eq!(data_path.service_id("green"), None);
    assert!(data_path.service_id("blue").is_some());
}

#[test]
fn connections_of_removed_endpoints_go_on_and_their_numbers_wait() {
    let world = World::new("keep");
    let mut data_path = world.open();
    let servers = [TcpServer::start("127.0.0.1:0"), TcpServer::start("127.0.0.1:0")];
    apply(&mut data_path, &service("web", "127.77.0.1:80", "", &[servers[0].address]));
    let (mut stream, _) = dial("127.77.0.1:80").unwrap();
    let web = data_path.service_id("web").unwrap();
    let removed = data_path.endpoints(web)[0].id;

    apply(&mut data_path, &service("web", "127.77.0.1:80", "", &[servers[1].address]));
    for _ in 0..2 {
        let shown = data_path.endpoints(web).into_iter().find(|endpoint| endpoint.id == removed);
        assert_eq!(shown.map(|endpoint| (endpoint.state, endpoint.share)), Some((LiveState::Removed, 0.0)));
        data_path.settle().unwrap();
    }
    assert_eq!(data_path.usage().endpoints, 2);
    stream.write_all(b"on").unwrap();
    stream.read_exact(&mut [0; 2]).unwrap();
    assert_eq!(stream.peer_addr().unwrap(), "127.77.0.1:80".parse().unwrap());

    drop(stream);
    eventually("the last connection of the removed endpoint has ended", || {
        data_path.settle().unwrap();
        data_path.usage().endpoints == 1
    });
    assert_eq!(data_path.endpoint_address(removed), None);
    assert!(!data_path.counters().unwrap().endpoints.contains_key(&removed));
}

#[test]
fn terminate_closes_the_connections_of_removed_endpoints() {
    let world = World::new("terminate");
    let mut data_path = world.open();
    let servers = [TcpServer::start("127.0.0.1:0"), TcpServer::start("127.0.0.1:0")];
    let udp = UdpServer::start("127.0.0.1:0");
    let text = |tcp: &[SocketAddr], udp: &[SocketAddr]| {
        service("web", "127.77.0.1:80", "removal: terminate, balance: round-robin,", tcp)
            + &service("dns", "127.77.0.1:53", "removal: terminate, protocol: udp,", udp)
    };
    apply(&mut data_path, &text(&[servers[0].address, servers[1].address], &[udp.address]));
    let mut streams: Vec<_> = (0..4).map(|_| dial("127.77.0.1:80").unwrap()).collect();
    let (mut direct, _) = dial(&servers[0].address.to_string()).unwrap();
    let socket = UdpSocket::bind("127.0.0.1:0").unwrap();
    socket.connect("127.77.0.1:53").unwrap();

    let applied = apply(&mut data_path, &text(&[servers[1].address], &[]));
    assert_eq!(applied.terminated, 3, "two TCP connections and one UDP socket");
    for (stream, server) in &mut streams {
        stream.set_read_timeout(Some(Duration::from_secs(5))).unwrap();
        let alive = stream.write_all(b"x").and_then(|()| stream.read_exact(&mut [0])).is_ok();
        assert_eq!(alive, *server == servers[1].address);
    }
    direct.write_all(b"x").unwrap();
    direct.read_exact(&mut [0]).expect("a connection that dialled the endpoint itself is not ours to close");
    assert!(socket.send(b"x").is_err(), "the UDP socket is closed");

    let removed = try_apply(&mut data_path, &text(&[servers[1].address], &[])).unwrap();
    assert_eq!((removed.terminated, removed.unchanged), (0, 2));
    let gone = apply(&mut data_path, &service("other", "127.77.0.2:80", "", &[]));
    assert_eq!((gone.removed, gone.terminated), (2, 2), "so it is when the whole service goes");
}

#[test]
fn udp_flows_leave_a_removed_endpoint() {
    let world = World::new("udp-leave");
    let mut data_path = world.open();
    let servers = [UdpServer::start("127.0.0.1:0"), UdpServer::start("127.0.0.1:0")];
    let text = |server: &UdpServer| service("dns", "127.77.0.1:53", "protocol: udp,", &[server.address]);
    apply(&mut data_path, &text(&servers[0]));
    let socket = UdpSocket::bind("127.0.0.1:0").unwrap();
    assert_eq!(ask(&socket, "127.77.0.1:53").unwrap().0, servers[0].address);
    apply(&mut data_path, &text(&servers[1]));
    data_path.settle().unwrap();
    assert_eq!(ask(&socket, "127.77.0.1:53").unwrap().0, servers[1].address);
}

#[test]
fn what_does_not_fit_is_refused_and_what_was_goes_on() {
    let budgets = Budgets { services: 4, endpoints: 8, slots: 16, affinity: 16 };
    let world = World::with_budgets("full", budgets);
    let mut data_path = world.open();
    let server = TcpServer::start("127.0.0.1:0");
    let web = service("web", "127.77.0.1:80", "", &[server.address]);
    apply(&mut data_path, &web);

    let endpoints: Vec<SocketAddr> = (1..=8).map(nowhere).collect();
    let error = try_apply(&mut data_path, &(web.clone() + &service("big", "127.77.0.2:80", "", &endpoints)));
    let error = error.unwrap_err();
    assert!(matches!(&error, Error::Budget { what: "endpoints", flag: "--max-endpoints", .. }), "{error}");
    assert_eq!(
        error.to_string().split(';').next(),
        Some(
            "endpoints do not fit: big needs 8 more, 7 of 8 are free (what a change removes is free only after it)"
        )
    );

    let many: String =
        (2..=5).map(|at| service(&format!("s{at}"), &format!("127.77.0.{at}:80"), "", &[])).collect();
    let error = try_apply(&mut data_path, &(web.clone() + &many)).unwrap_err();
    assert!(matches!(&error, Error::Budget { what: "services", .. }), "{error}");

    let maglev = service("m", "127.77.0.2:80", "balance: {maglev: {table-size: 17}},", &[nowhere(1)]);
    let error = try_apply(&mut data_path, &(web.clone() + &maglev)).unwrap_err();
    assert!(matches!(&error, Error::Budget { what: "balancing slots", flag: "--max-slots", .. }), "{error}");

    assert_eq!(
        data_path.usage(),
        alize_model::api::Usage { services: 1, frontends: 1, endpoints: 1, slots: 1 }
    );
    assert_eq!(dial("127.77.0.1:80").unwrap().1, server.address);
    assert_eq!(apply(&mut data_path, &web).unchanged, 1);
}

#[test]
fn tables_that_fill_the_map_can_be_replaced_whole() {
    // Four tables of one slot, and room for two beside them: half of them must wait for the other half.
    let budgets = Budgets { services: 4, endpoints: 8, slots: 6, affinity: 16 };
    let world = World::with_budgets("replaced", budgets);
    let mut data_path = world.open();
    let server = TcpServer::start("127.0.0.1:0");
    let text = |first: u8| {
        let services = (0..4).map(|at: u8| {
            let endpoint =
                if at == 0 && first.is_multiple_of(20) { server.address } else { nowhere(first + at) };
            service(&format!("s{at}"), &format!("127.77.0.{}:80", at + 1), "", &[endpoint])
        });
        services.collect::<String>()
    };
    for round in 0..5u8 {
        assert_eq!(apply(&mut data_path, &text(round * 10)).unchanged, 0);
        data_path.settle().unwrap();
        assert_eq!(dial("127.77.0.1:80").is_ok(), round % 2 == 0, "round {round}");
        assert_eq!(
            data_path.usage(),
            alize_model::api::Usage { services: 4, frontends: 4, endpoints: 4, slots: 4 }
        );
    }
}

#[test]
fn a_refusal_reads_the_same_for_every_client_of_an_emptied_service() {
    let world = World::new("emptied");
    let mut data_path = world.open();
    let server = TcpServer::start("127.0.0.1:0");
    apply(&mut data_path, &service("web", "127.77.0.1:80", "affinity: 1h,", &[server.address]));
    dial("127.77.0.1:80").unwrap();
    apply(&mut data_path, &service("web", "127.77.0.1:80", "affinity: 1h,", &[]));
    assert_eq!(
        dial("127.77.0.1:80").unwrap_err().kind(),
        ErrorKind::ConnectionRefused,
        "affinity is no way round"
    );
    apply(&mut data_path, &service("other", "127.77.0.2:80", "", &[]));
    assert_eq!(
        dial("127.77.0.1:80").unwrap_err().kind(),
        ErrorKind::ConnectionRefused,
        "nobody listens there"
    );
    data_path.settle().unwrap();
    assert_eq!(data_path.usage().services, 1);
}

#[test]
fn unchanged_services_cost_nothing() {
    let world = World::new("unchanged");
    let mut data_path = world.open();
    let text = service("web", "127.77.0.1:80", "", &[nowhere(1), nowhere(2)]);
    let unavailable = Availability::new();
    let (first, second) = (snapshot(&text), snapshot(&text));
    let desired = |snapshot| Desired { snapshot, unavailable: &unavailable };
    assert_eq!(data_path.apply(desired(&first)).unwrap().added, 1);
    let slots = data_path.usage().slots;
    for same in [&first, &second, &first] {
        let applied = data_path.apply(desired(same)).unwrap();
        assert_eq!((applied.added, applied.changed, applied.removed, applied.unchanged), (0, 0, 0, 1));
        assert_eq!(data_path.usage().slots, slots);
    }
}
