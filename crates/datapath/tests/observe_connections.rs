//! TCP connections and DNS queries as the kernel sees them: real sockets, a real DNS server.
//!
//! Needs root, dnsmasq and dig.

mod world;

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream, UdpSocket};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use alize_datapath::InForce;
use alize_datapath::observe::{
    DnsQuery, Event, Filter, Kinds, Limits, Observer, Side, TcpEvent, TcpKind, TcpReason, TraceId,
};
use world::World;

const TCP: Kinds = Kinds { requests: false, tcp: true, dns: false };
const DNS: Kinds = Kinds { requests: false, tcp: false, dns: true };

fn open(world: &World) -> Observer {
    Observer::open(&world.options, &Limits::default(), &InForce::default())
        .unwrap_or_else(|error| panic!("{error}"))
}

fn start(observer: &mut Observer, filter: Filter) -> TraceId {
    observer.start_trace(&filter).unwrap_or_else(|error| panic!("{error}"))
}

fn polled(observer: &mut Observer) -> Vec<Event> {
    let mut events = Vec::new();
    observer.poll(&mut |event| events.push(event.expect("the kernel writes what can be read"))).unwrap();
    events
}

fn connections(observer: &mut Observer) -> Vec<TcpEvent> {
    let connection = |event| match event {
        Event::Tcp(event) => event,
        other => panic!("only connections were asked for: {other:?}"),
    };
    polled(observer).into_iter().map(connection).collect()
}

fn queries(observer: &mut Observer) -> Vec<DnsQuery> {
    let query = |event| match event {
        Event::Dns(query) => query,
        other => panic!("only DNS was asked for: {other:?}"),
    };
    polled(observer).into_iter().map(query).collect()
}

/// A connection on which `sent` bytes went out and `received` came back.
fn exchange(listener: &TcpListener, sent: usize, received: usize) -> (TcpStream, TcpStream) {
    let mut client = TcpStream::connect(listener.local_addr().unwrap()).unwrap();
    let (mut server, _) = listener.accept().unwrap();
    client.write_all(&vec![1; sent]).unwrap();
    server.read_exact(&mut vec![0; sent]).unwrap();
    server.write_all(&vec![2; received]).unwrap();
    client.read_exact(&mut vec![0; received]).unwrap();
    (client, server)
}

#[test]
fn the_life_of_a_connection_is_told_at_both_ends() {
    for address in ["127.0.0.1:0", "[::1]:0"] {
        let world = World::new("tcp-life");
        let mut observer = open(&world);
        start(&mut observer, Filter { kinds: TCP, ..Filter::default() });
        let listener = TcpListener::bind(address).unwrap();
        let server = listener.local_addr().unwrap();
        let (client_socket, server_socket) = exchange(&listener, 1000, 50_000);
        let client = client_socket.local_addr().unwrap();
        std::thread::sleep(Duration::from_millis(60));
        drop(client_socket);
        drop(server_socket);
        std::thread::sleep(Duration::from_millis(50));
        let events = connections(&mut observer);
        let find = |kind, side| -> &TcpEvent {
            let found = events.iter().find(|event| event.kind == kind && event.side == side);
            found.unwrap_or_else(|| panic!("{kind:?} {side:?} in {events:#?}"))
        };
        assert_eq!(events.len(), 4, "{events:#?}");
        let connected = find(TcpKind::Connected, Side::Client);
        assert_eq!((connected.local, connected.remote), (client, server));
        assert!(connected.duration.is_some_and(|latency| latency < Duration::from_secs(1)));
        let owner = connected.owner.as_ref().unwrap();
        assert_eq!(owner.pid, Some(std::process::id()));
        assert!("tcp_life".starts_with(&owner.comm) || owner.comm.starts_with("the_life"), "{owner:?}");
        let accepted = find(TcpKind::Accepted, Side::Server);
        assert_eq!((accepted.local, accepted.remote, accepted.server()), (server, client, server));
        let closed = find(TcpKind::Closed, Side::Client);
        assert_eq!((closed.bytes_sent, closed.bytes_received, closed.reason), (1000, 50_000, None));
        assert!(
            closed.duration.is_some_and(|life| life >= Duration::from_millis(60)) && closed.rtt.is_some()
        );
        let served = find(TcpKind::Closed, Side::Server);
        assert_eq!((served.bytes_sent, served.bytes_received, served.reason), (50_000, 1000, None));
        assert_eq!(served.owner.as_ref().unwrap().pid, Some(std::process::id()), "known when it closed");
    }
}

#[test]
fn failures_and_resets_have_their_reason() {
    let world = World::new("tcp-reasons");
    let mut observer = open(&world);
    start(&mut observer, Filter { kinds: TCP, ..Filter::default() });
    let free = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
    assert!(TcpStream::connect(free).is_err());
    let events = connections(&mut observer);
    let refused: Vec<_> = events.iter().filter(|event| event.remote == free).collect();
    assert_eq!(refused.len(), 1, "{events:#?}");
    assert_eq!((refused[0].kind, refused[0].reason), (TcpKind::Failed, Some(TcpReason::Refused)));
    assert!(refused[0].duration.is_some());

    // What is unread when a socket is closed turns its end into a reset.
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let (client, mut server) = exchange(&listener, 1, 1);
    server.write_all(b"never read").unwrap();
    std::thread::sleep(Duration::from_millis(50));
    drop(client);
    std::thread::sleep(Duration::from_millis(50));
    drop(server);
    let events = connections(&mut observer);
    let ends: Vec<_> = events.iter().filter(|event| event.kind == TcpKind::Closed).collect();
    let reason = |side| ends.iter().find(|event| event.side == side).unwrap().reason;
    assert_eq!(reason(Side::Client), Some(TcpReason::ResetSent));
    assert_eq!(reason(Side::Server), Some(TcpReason::ResetReceived));
}

#[test]
fn a_lost_syn_is_told_as_retransmit_and_as_timeout() {
    let world = World::new("tcp-lost");
    let mut observer = open(&world);
    start(&mut observer, Filter { kinds: TCP, ..Filter::default() });
    // A full backlog drops SYNs (tcp_conn_request).
    let socket =
        rustix::net::socket(rustix::net::AddressFamily::INET, rustix::net::SocketType::STREAM, None).unwrap();
    let any: SocketAddr = "127.0.0.1:0".parse().unwrap();
    rustix::net::bind(&socket, &any).unwrap();
    rustix::net::listen(&socket, 0).unwrap();
    let listener = TcpListener::from(socket);
    let full = listener.local_addr().unwrap();
    let _waiting: Vec<_> =
        (0..2).filter_map(|_| TcpStream::connect_timeout(&full, Duration::from_millis(300)).ok()).collect();
    assert!(TcpStream::connect_timeout(&full, Duration::from_millis(1500)).is_err(), "the backlog is full");
    let events = connections(&mut observer);
    let again =
        events.iter().filter(|event| event.kind == TcpKind::Retransmit && event.remote == full).count();
    assert!(again >= 1, "{events:#?}");
    let failed = events.iter().rfind(|event| event.kind == TcpKind::Failed && event.remote == full).unwrap();
    assert_eq!(failed.reason, Some(TcpReason::Timeout));
    assert!(failed.retransmits >= 1 && failed.duration >= Some(Duration::from_millis(1000)), "{failed:#?}");
}

#[test]
fn filters_of_connections_hold_in_the_kernel() {
    let world = World::new("tcp-filters");
    let mut observer = open(&world);
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let server = listener.local_addr().unwrap();
    let other: SocketAddr = "127.0.0.1:9".parse().unwrap();
    let own = std::process::id();
    let filter = |filter: Filter| Filter { kinds: TCP, ..filter };
    let cases = [
        (filter(Filter::default()), true),
        (filter(Filter { endpoints: Some(vec![server, other]), ..Filter::default() }), true),
        (filter(Filter { endpoints: Some(vec![other]), ..Filter::default() }), false),
        (filter(Filter { endpoints: Some(vec![]), ..Filter::default() }), false),
        (filter(Filter { pid: Some(own), ..Filter::default() }), true),
        (filter(Filter { pid: Some(own + 1), ..Filter::default() }), false),
        (filter(Filter { cgroups: Some(vec![1, 2]), ..Filter::default() }), false),
        (filter(Filter { min_latency: Duration::from_secs(9), ..Filter::default() }), false),
        (Filter::default(), false),
    ];
    for (filter, expected) in cases {
        let trace = start(&mut observer, filter.clone());
        drop(exchange(&listener, 1, 1));
        assert_eq!(!connections(&mut observer).is_empty(), expected, "{filter:?}");
        observer.stop_trace(trace).unwrap();
    }
}

/// dnsmasq on port 53 of an address of loopback that is this test's own.
struct Server {
    process: Child,
    address: String,
}

impl Server {
    fn start() -> Self {
        let id = std::process::id();
        let address = format!("127.{}.{}.53", 64 + id / 200 % 60, 1 + id % 200);
        let process = Command::new("dnsmasq")
            .args([
                "--keep-in-foreground",
                "--no-resolv",
                "--no-hosts",
                "--conf-file=/dev/null",
                "--pid-file",
            ])
            .args(["--bind-interfaces", "--except-interface=lo", &format!("--listen-address={address}")])
            .args(["--address=/known.example/10.1.2.3", "--address=/known.example/fd00::1"])
            .args(["--address=/example/", "--user=root"])
            .stderr(Stdio::null())
            .spawn()
            .expect("dnsmasq is installed");
        let server = Self { process, address };
        let deadline = Instant::now() + Duration::from_secs(10);
        while TcpStream::connect((server.address.as_str(), 53)).is_err() {
            assert!(Instant::now() < deadline, "dnsmasq listens");
            std::thread::sleep(Duration::from_millis(20));
        }
        server
    }

    fn dig(&self, arguments: &[&str]) -> u32 {
        let child = Command::new("dig")
            .arg(format!("@{}", self.address))
            .args(["+tries=1", "+time=1", "+noedns"])
            .args(arguments)
            .stdout(Stdio::null())
            .spawn();
        let mut child = child.expect("dig is installed");
        let pid = child.id();
        child.wait().unwrap();
        pid
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

#[test]
fn dns_queries_have_name_type_code_latency_and_process() {
    let world = World::new("dns");
    let mut observer = open(&world);
    let server = Server::start();
    server.dig(&["before.example", "A"]);
    let trace = start(&mut observer, Filter { kinds: DNS, ..Filter::default() });
    let pid = server.dig(&["known.example", "A"]);
    server.dig(&["known.example", "AAAA"]);
    server.dig(&["no.such.example", "A"]);
    server.dig(&["+tcp", "known.example", "A"]);
    let seen = queries(&mut observer);
    let short =
        |query: &DnsQuery| (query.name.clone(), query.query_type, query.code, query.answers, query.tcp);
    let expected = [
        ("known.example".to_owned(), 1, Some(0), 1, false),
        ("known.example".to_owned(), 28, Some(0), 1, false),
        ("no.such.example".to_owned(), 1, Some(3), 0, false),
        ("known.example".to_owned(), 1, Some(0), 1, true),
    ];
    assert_eq!(seen.iter().map(short).collect::<Vec<_>>(), expected);
    let first = &seen[0];
    assert_eq!(first.server_address.to_string(), format!("{}:53", server.address));
    assert_eq!(first.client.as_ref().and_then(|client| client.pid), Some(pid));
    assert!(first.latency > Duration::ZERO && first.latency < Duration::from_secs(1));
    assert_eq!(observer.tallies().unwrap().get("dns-malformed"), Some(0));

    // Of another name than "dig", and too fast: nothing.
    observer.stop_trace(trace).unwrap();
    let other = start(&mut observer, Filter { kinds: DNS, comm: "curl".into(), ..Filter::default() });
    let slow = Filter { kinds: DNS, min_latency: Duration::from_secs(3), ..Filter::default() };
    let slow = start(&mut observer, slow);
    server.dig(&["known.example", "A"]);
    assert_eq!(queries(&mut observer), []);
    observer.stop_trace(other).unwrap();
    observer.stop_trace(slow).unwrap();
    let before = observer.tallies().unwrap().get("dns-query");
    server.dig(&["known.example", "A"]);
    assert_eq!(observer.tallies().unwrap().get("dns-query"), before, "nobody asks, nothing is attached");
}

#[test]
fn dns_that_is_not_answered_or_malformed_is_told() {
    let world = World::new("dns-silent");
    let mut observer = open(&world);
    start(&mut observer, Filter { kinds: DNS, ..Filter::default() });
    let silent: SocketAddr = format!("127.{}.77.1:53", 128 + std::process::id() % 100).parse().unwrap();
    let _listens = UdpSocket::bind(silent).unwrap();
    let client = UdpSocket::bind("127.0.0.1:0").unwrap();
    let query = b"\x12\x34\x01\0\0\x01\0\0\0\0\0\0\x04mute\x07example\0\0\x01\0\x01";
    client.send_to(query, silent).unwrap();
    client.send_to(query, silent).unwrap();
    client.send_to(&query[..20], silent).unwrap();
    client.send_to(b"\x12\x35\x01\0\0\x01\0\0\0\0\0\0\xc0\x0c\0\x01\0\x01", silent).unwrap();
    assert_eq!(queries(&mut observer), []);
    let deadline = Instant::now() + Duration::from_secs(20);
    let seen = loop {
        let seen = queries(&mut observer);
        if !seen.is_empty() {
            break seen;
        }
        assert!(Instant::now() < deadline, "a query without response is told");
        std::thread::sleep(Duration::from_millis(100));
    };
    assert_eq!(seen.len(), 1, "{seen:?}");
    assert_eq!((seen[0].name.as_str(), seen[0].code, seen[0].repeated), ("mute.example", None, true));
    assert!(seen[0].latency >= Duration::from_secs(5));
    let tallies = observer.tallies().unwrap();
    assert_eq!((tallies.get("dns-malformed"), tallies.get("dns-query")), (Some(2), Some(1)));
}

/// A message with the one question whose name is `label.example`, with its length before it.
fn framed(id: u8, flags: u8, label: &str) -> Vec<u8> {
    let mut message = vec![0, id, flags, 0, 0, 1, 0, 0, 0, 0, 0, 0, label.len() as u8];
    message.extend(label.as_bytes());
    message.extend(b"\x07example\0\0\x01\0\x01");
    [&(message.len() as u16).to_be_bytes(), &message[..]].concat()
}

fn query(id: u8, label: &str) -> Vec<u8> {
    framed(id, 1, label)
}

fn answer(id: u8, label: &str) -> Vec<u8> {
    framed(id, 0x81, label)
}

/// A connection to port 53 of an address of loopback that is this test's own: the client's end and the server's.
fn dns_connection(number: u8) -> (TcpStream, TcpStream) {
    let id = std::process::id();
    let listener =
        TcpListener::bind((format!("127.{}.{}.{number}", 124 + id / 200 % 60, 1 + id % 200), 53)).unwrap();
    let client = TcpStream::connect(listener.local_addr().unwrap()).unwrap();
    let (server, _) = listener.accept().unwrap();
    client.set_nodelay(true).unwrap();
    server.set_nodelay(true).unwrap();
    (client, server)
}

/// Sends the pieces in segments of their own, and has them read.
fn sends(from: &mut TcpStream, to: &mut TcpStream, pieces: &[&[u8]]) {
    for piece in pieces {
        from.write_all(piece).unwrap();
        to.read_exact(&mut vec![0; piece.len()]).unwrap();
    }
}

fn answered(observer: &mut Observer) -> Vec<(String, bool)> {
    queries(observer).into_iter().map(|query| (query.name, query.code.is_some())).collect()
}

#[test]
fn dns_over_tcp_is_followed_across_segments() {
    let world = World::new("dns-segments");
    let mut observer = open(&world);
    start(&mut observer, Filter { kinds: DNS, ..Filter::default() });
    let (mut client, mut server) = dns_connection(1);
    let asked = query(1, "split");
    let told = answer(1, "split");
    // The length apart and the rest in halves; the answer byte by byte.
    sends(&mut client, &mut server, &[&asked[..2], &asked[2..20], &asked[20..]]);
    sends(&mut server, &mut client, &told.chunks(1).collect::<Vec<_>>());
    assert_eq!(answered(&mut observer), [("split.example".to_owned(), true)]);

    // Two queries and a half in one segment, answered in another order, the length of the last one apart.
    let asked = [query(2, "two"), query(3, "three"), query(4, "four")].concat();
    let (whole, half) = asked.split_at(asked.len() - 9);
    sends(&mut client, &mut server, &[whole, half]);
    let told = [answer(4, "four"), answer(2, "two"), answer(3, "three")].concat();
    let last = told.len() - answer(3, "three").len() + 2;
    sends(&mut server, &mut client, &[&told[..last], &told[last..]]);
    let names = ["four.example", "two.example", "three.example"].map(|name| (name.to_owned(), true));
    assert_eq!(answered(&mut observer), names);

    // As many as there may be in a segment, behind an answer that is long.
    let many: Vec<u8> = (10..74).flat_map(|id| query(id, "many")).collect();
    sends(&mut client, &mut server, &[&many]);
    let mut long = answer(10, "many");
    let padding = vec![9; 40_000];
    long.extend(&padding);
    let size = (long.len() as u16 - 2).to_be_bytes();
    long[..2].copy_from_slice(&size);
    sends(&mut server, &mut client, &[&long]);
    let many: Vec<u8> = (11..74).flat_map(|id| answer(id, "many")).collect();
    sends(&mut server, &mut client, &[&many]);
    assert_eq!(answered(&mut observer), vec![("many.example".to_owned(), true); 64]);
    let tallies = observer.tallies().unwrap();
    let told =
        ["dns-query", "dns-malformed", "dns-unmatched", "dns-unfollowed"].map(|name| tallies.get(name));
    assert_eq!(told, [Some(68), Some(0), Some(0), Some(0)]);
}

#[test]
fn dns_over_tcp_that_cannot_be_followed_is_counted_and_not_called_unanswered() {
    let world = World::new("dns-unfollowed");
    let mut observer = open(&world);
    let (mut client, mut server) = dns_connection(2);
    let asked = query(1, "before");
    sends(&mut client, &mut server, &[&asked[..9]]);
    sends(&mut server, &mut client, &[&answer(9, "before")[..9]]);
    start(&mut observer, Filter { kinds: DNS, ..Filter::default() });
    sends(&mut client, &mut server, &[&asked[9..]]);
    let unfollowed = |observer: &Observer| observer.tallies().unwrap().get("dns-unfollowed");
    assert_eq!(unfollowed(&observer), Some(1));
    // A segment that is a message leads back, of either direction; until then an answer may be in what is not followed.
    sends(&mut client, &mut server, &[&query(2, "joined")]);
    let told = answer(2, "joined");
    sends(&mut server, &mut client, &[&told[..2], &told[2..]]);
    assert_eq!(unfollowed(&observer), Some(3));
    sends(&mut client, &mut server, &[&query(3, "whole")]);
    sends(&mut server, &mut client, &[&answer(3, "whole")]);
    assert_eq!(answered(&mut observer), [("whole.example".to_owned(), true)]);
    // More messages in a segment than are looked at, of which the rest is not followed.
    let many: Vec<u8> = (10..76).flat_map(|id| query(id, "many")).collect();
    sends(&mut client, &mut server, &[&many]);
    assert_eq!(unfollowed(&observer), Some(4));
    let many: Vec<u8> = (10..76).flat_map(|id| answer(id, "many")).collect();
    sends(&mut server, &mut client, &[&many]);
    assert_eq!(unfollowed(&observer), Some(5));
    assert_eq!(answered(&mut observer), vec![("many.example".to_owned(), true); 64]);
    sends(&mut client, &mut server, &[&query(79, "back")]);
    sends(&mut server, &mut client, &[&answer(79, "back")]);
    assert_eq!(answered(&mut observer), [("back.example".to_owned(), true)]);
    // What is no answer that can be read is not none; and one query that nobody answers at all.
    sends(&mut client, &mut server, &[&query(80, "strange"), &query(81, "mute")]);
    let mut strange = answer(80, "strange");
    strange[14] = 0xc0;
    sends(&mut server, &mut client, &[&strange]);
    std::thread::sleep(Duration::from_secs(6));
    assert_eq!(answered(&mut observer), [("mute.example".to_owned(), false)]);
    assert_eq!(observer.tallies().unwrap().get("dns-malformed"), Some(1));
}

/// A network namespace that routes nothing: it answers what is sent through it with an error of ICMP.
struct Nowhere(String);

impl Nowhere {
    /// `10.213.1.1` is no host, `10.213.2.1` is forbidden; likewise `fd21:3::1:1` and `fd21:3::2:1`.
    fn new() -> Self {
        let name = format!("nowhere-{}", std::process::id());
        let device = format!("no{}", std::process::id());
        let this = Self(name.clone());
        let script = format!(
            "set -e; ip netns add {name}; ip link add {device} type veth peer name {device}p
             ip link set {device}p netns {name}; ip link set {device} up
             ip addr add 10.213.0.1/24 dev {device}; ip addr add fd21:3::1/112 dev {device} nodad
             ip route add 10.213.0.0/16 via 10.213.0.2; ip route add fd21:3::/64 via fd21:3::2
             ip -n {name} link set {device}p up; ip -n {name} addr add 10.213.0.2/24 dev {device}p
             ip -n {name} addr add fd21:3::2/112 dev {device}p nodad
             ip -n {name} route add unreachable 10.213.1.0/24; ip -n {name} route add prohibit 10.213.2.0/24
             ip -n {name} route add unreachable fd21:3::1:0/112; ip -n {name} route add prohibit fd21:3::2:0/112
             ip netns exec {name} sh -c 'cd /proc/sys/net; echo 1 > ipv4/ip_forward
                 echo 0 > ipv4/icmp_ratelimit; echo 1 > ipv6/conf/all/forwarding; echo 0 > ipv6/icmp/ratelimit'"
        );
        assert!(
            Command::new("sh").args(["-c", &script]).status().unwrap().success(),
            "namespaces can be made"
        );
        this
    }
}

impl Drop for Nowhere {
    fn drop(&mut self) {
        // The link goes with the namespace, and the routes with the link.
        let _ = Command::new("ip").args(["netns", "del", &self.0]).status();
    }
}

#[test]
fn a_connect_that_icmp_answers_is_unreachable_however_it_is_made() {
    let _nowhere = Nowhere::new();
    let world = World::new("tcp-icmp");
    let mut observer = open(&world);
    start(&mut observer, Filter { kinds: TCP, ..Filter::default() });
    for address in ["10.213.1.1:82", "10.213.2.1:82", "[fd21:3::1:1]:82", "[fd21:3::2:1]:82"] {
        let address: SocketAddr = address.parse().unwrap();
        // Asks for the error as soon as there is one, and closes.
        let error = TcpStream::connect_timeout(&address, Duration::from_secs(5)).unwrap_err();
        // Gives up without asking.
        let family = match address {
            SocketAddr::V4(_) => rustix::net::AddressFamily::INET,
            SocketAddr::V6(_) => rustix::net::AddressFamily::INET6,
        };
        let flags = rustix::net::SocketFlags::NONBLOCK;
        let socket = rustix::net::socket_with(family, rustix::net::SocketType::STREAM, flags, None).unwrap();
        assert!(rustix::net::connect(&socket, &address).is_err(), "it is in progress");
        std::thread::sleep(Duration::from_millis(50));
        drop(socket);
        let events = connections(&mut observer);
        let failed = events.iter().filter(|event| event.kind == TcpKind::Failed && event.remote == address);
        let told: Vec<_> = failed.map(|event| (event.reason, event.retransmits)).collect();
        // IPv6 tells who waits with the second SYN (tcp_v6_err).
        let again = u32::from(address.is_ipv6());
        let expected = [again, 0].map(|retransmits| (Some(TcpReason::Unreachable), retransmits));
        assert_eq!(told, expected, "{address}: {error}");
    }
}

#[test]
fn who_is_reset_is_named_if_it_spoke_http() {
    let world = World::new("tcp-reset");
    let mut observer = open(&world);
    start(&mut observer, Filter { kinds: TCP, ..Filter::default() });
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let mut client = TcpStream::connect(listener.local_addr().unwrap()).unwrap();
    let (mut server, _) = listener.accept().unwrap();
    sends(&mut client, &mut server, &[b"GET / HTTP/1.1\r\nHost: a\r\n\r\n"]);
    server.write_all(b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nhello").unwrap();
    std::thread::sleep(Duration::from_millis(50));
    // What is unread makes it a reset, which finds nobody inside a call on the server's socket.
    drop(client);
    std::thread::sleep(Duration::from_millis(50));
    let events = connections(&mut observer);
    let end =
        events.iter().find(|event| event.kind == TcpKind::Closed && event.side == Side::Server).unwrap();
    assert_eq!(end.reason, Some(TcpReason::ResetReceived));
    let owner = end.owner.as_ref().unwrap();
    assert_eq!(owner.pid, Some(std::process::id()));
    assert!(!owner.comm.is_empty(), "{owner:?}");
}
