//! The kernel's logic, run as a process on the host under sanitizers, and asked from here.
//!
//! `tests/host/answer.c` compiles the very headers that the programs are made of. What is tested is what the kernel
//! would answer to maps with these contents.
#![allow(unsafe_code, reason = "questions and answers are plain bytes")]

use std::fs;
use std::hash::{DefaultHasher, Hash, Hasher};
use std::io::{Read, Write};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};

use alize_model::{Affinity, Balance, Mode, Transport};
use proptest::prelude::*;
use std::net::SocketAddr;
use std::time::Duration;

use crate::abi::*;
use crate::allocate::Run;
use crate::tables;

/// In the order of `host_maps`.
#[derive(Clone, Copy)]
enum Map {
    Frontends,
    Services,
    Endpoints,
    EndpointLoad,
    Slots,
    Turns,
    Affinity,
    ServiceTraffic,
    EndpointTraffic,
    ServiceDecisions,
    Anomalies,
}

#[derive(Clone, Copy)]
enum Operation {
    Put,
    Get,
    Full,
    Random,
    Decide,
    FlowPlace,
    FlowLive,
    FlowOf,
    Connection,
    Event,
}

#[derive(Clone, Copy, Debug, Default, PartialEq)]
#[repr(C)]
struct Asked {
    address: [u32; 4],
    port: u16,
    protocol: u8,
    zero: u8,
    v6_only: u32,
    client: u64,
    now: u64,
}

#[derive(Clone, Copy, Debug, Default)]
#[repr(C)]
struct Answered {
    service: u32,
    mode: u32,
    number: u32,
    refusal: u32,
    kept: u32,
    zero: u32,
    endpoint: endpoint,
}

/// A step in the life of a connection; the numbers are `OPENED` and so on.
#[derive(Clone, Copy, Debug, Default)]
#[repr(C)]
struct Life {
    step: u32,
    failure: u32,
    state: u32,
    fin_received: u32,
    bytes_sent: u64,
    bytes_received: u64,
    retransmits: u32,
    rtt_us: u32,
}

plain!(Asked, Answered, Life, connection, flow, flows);

const OPENED: u32 = 0;
const ESTABLISHED: u32 = 1;
const ACCOUNTED: u32 = 2;
const CLOSED: u32 = 3;

/// `BPF_TCP_*` of linux/bpf.h.
const TCP_ESTABLISHED: u32 = 1;
const TCP_FIN_WAIT2: u32 = 5;

struct Kernel {
    process: Child,
}

impl Kernel {
    fn start() -> Self {
        let mut command = Command::new(program());
        let process =
            command.stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().expect("the program starts");
        Self { process }
    }

    fn ask(&mut self, operation: Operation, map: u32, body: &[u8], answer: usize) -> Vec<u8> {
        let head = [operation as u32, map, body.len() as u32].map(u32::to_ne_bytes).concat();
        let input = self.process.stdin.as_mut().unwrap();
        input.write_all(&[&head, body].concat()).and_then(|()| input.flush()).expect("the program listens");
        let mut bytes = vec![0; answer];
        let output = self.process.stdout.as_mut().unwrap();
        output.read_exact(&mut bytes).expect("the program answers; a sanitizer's report is above");
        bytes
    }

    fn put<K: Plain, V: Plain>(&mut self, map: Map, key: K, value: V) {
        let error = self.ask(Operation::Put, map as u32, &[key.bytes(), value.bytes()].concat(), 4);
        assert_eq!(u32::read(&error), Some(0));
    }

    fn get<K: Plain, V: Plain>(&mut self, map: Map, key: K) -> Option<V> {
        let answer = self.ask(Operation::Get, map as u32, key.bytes(), 4 + size_of::<V>());
        (u32::read(&answer) == Some(1)).then(|| V::read(&answer[4..]).unwrap())
    }

    fn fill(&mut self, map: Map) {
        self.ask(Operation::Full, map as u32, 1u32.bytes(), 0);
    }

    /// What is drawn next.
    fn random(&mut self, numbers: &[u32]) {
        let bytes: Vec<u8> = numbers.iter().flat_map(|number| number.to_ne_bytes()).collect();
        self.ask(Operation::Random, 0, &bytes, 0);
    }

    fn decide(&mut self, asked: Asked) -> Answered {
        Answered::read(&self.ask(Operation::Decide, 0, asked.bytes(), size_of::<Answered>())).unwrap()
    }

    fn live(&mut self, connection: &mut connection, life: Life) {
        let body = [connection.bytes(), life.bytes()].concat();
        *connection =
            Plain::read(&self.ask(Operation::Connection, 0, &body, size_of_val(connection))).unwrap();
    }

    fn event(&mut self) -> event {
        event::read(&self.ask(Operation::Event, 0, &[], size_of::<event>())).unwrap()
    }

    /// Service 7 at 10.96.0.1:80 of IPv4 and [fd00::1]:80, with these words.
    fn serve(&mut self, word: ServiceWord) {
        for address in [VIP4, VIP6] {
            self.put(Map::Frontends, frontend_key(address.parse().unwrap(), Transport::Tcp), 7u32);
        }
        self.put(Map::Services, 7u32, service { word4: word.pack(), word6: word.pack() });
    }

    fn endpoint(&mut self, number: u32, address: &str, state: endpoint_state) {
        let address: SocketAddr = address.parse().unwrap();
        let entry = endpoint {
            address: address_words(address.ip()),
            port: address.port().to_be(),
            protocol: 6,
            state: state.0 as u8,
            service: 7,
        };
        self.put(Map::Endpoints, number, entry);
    }

    /// Endpoints 1, 2, ... in use, and their slots from place 100 on.
    fn endpoints(&mut self, count: u32) {
        for number in 1..=count {
            self.endpoint(number, &format!("10.0.0.{number}:8080"), endpoint_state::ENDPOINT_ACTIVE);
            self.put(Map::Slots, 99 + number, Slot::only(number).pack());
        }
    }

    fn decisions(&mut self) -> decisions {
        self.get(Map::ServiceDecisions, 7u32).unwrap_or_default()
    }
}

impl Drop for Kernel {
    fn drop(&mut self) {
        drop(self.process.stdin.take());
        let status = self.process.wait().expect("the program ends");
        assert!(std::thread::panicking() || status.success(), "{status}; a sanitizer's report is above");
    }
}

const VIP4: &str = "10.96.0.1:80";
const VIP6: &str = "[fd00::1]:80";

/// Compiled once for each content of the sources.
fn program() -> PathBuf {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR"));
    let mut hasher = DefaultHasher::new();
    for folder in ["bpf/alize", "tests/host"] {
        let mut paths: Vec<PathBuf> = fs::read_dir(Path::new(env!("CARGO_MANIFEST_DIR")).join(folder))
            .unwrap()
            .map(|e| e.unwrap().path())
            .collect();
        paths.sort();
        paths.iter().for_each(|path| fs::read(path).unwrap().hash(&mut hasher));
    }
    let program = Path::new(env!("OUT_DIR")).join(format!("answer-{:016x}", hasher.finish()));
    if program.exists() {
        return program;
    }
    let fresh = program.with_extension(std::process::id().to_string());
    let mut compiler = Command::new(std::env::var_os("CC").unwrap_or_else(|| "cc".into()));
    compiler.current_dir(folder).args([
        "-g",
        "-O1",
        "-fsanitize=address,undefined",
        "-fno-sanitize-recover=all",
    ]);
    compiler.args(["-DALIZE_HOST", "-Wall", "-Werror", "-Wno-unused-function", "-Ibpf", "-Itests"]);
    let status =
        compiler.arg("tests/host/answer.c").arg("-o").arg(&fresh).status().expect("there is a C compiler");
    assert!(status.success(), "the headers compile for the host");
    fs::rename(fresh, &program).unwrap();
    program
}

fn asked(address: &str) -> Asked {
    let key = frontend_key(address.parse().unwrap(), Transport::Tcp);
    Asked {
        address: key.address,
        port: key.port,
        protocol: key.protocol,
        client: 1,
        now: 1,
        ..Asked::default()
    }
}

fn word(choice: Choice, length: u32) -> ServiceWord {
    ServiceWord { base: 100, length, choice, mode: Mode::Enforce, affinity: 0 }
}

fn reached(answered: &Answered) -> String {
    socket_addr(answered.endpoint.address, answered.endpoint.port).to_string()
}

const NO_ENDPOINT: u32 = refusal::REFUSAL_NO_ENDPOINT.0;
const STALE: u32 = refusal::REFUSAL_STALE.0;

#[test]
fn only_the_exact_address_port_and_protocol_are_a_service() {
    let mut kernel = Kernel::start();
    kernel.serve(word(Choice::RoundRobin, 1));
    kernel.endpoints(1);
    assert_eq!(kernel.decide(asked(VIP4)).service, 7);
    for other in ["10.96.0.2:80", "10.96.0.1:81", "[fd00::2]:80"] {
        let answered = kernel.decide(asked(other));
        assert_eq!((answered.service, answered.number), (NONE, NONE), "{other}");
    }
    assert_eq!(kernel.decide(Asked { protocol: 17, ..asked(VIP4) }).service, NONE);
}

#[test]
fn observe_decides_nothing_and_shadow_refuses_nothing() {
    let mut kernel = Kernel::start();
    kernel.endpoints(1);
    kernel.serve(ServiceWord { mode: Mode::Observe, ..word(Choice::RoundRobin, 1) });
    let answered = kernel.decide(asked(VIP4));
    assert_eq!((answered.service, answered.number, answered.refusal), (7, NONE, NONE));

    kernel.serve(ServiceWord { mode: Mode::Shadow, ..word(Choice::RoundRobin, 1) });
    assert_eq!(kernel.decide(asked(VIP4)).number, 1);
    kernel.serve(ServiceWord { mode: Mode::Shadow, ..word(Choice::RoundRobin, 0) });
    assert_eq!(kernel.decide(asked(VIP4)).refusal, NONE);
    let decisions = kernel.decisions();
    assert_eq!((decisions.would_balance, decisions.would_refuse[0], decisions.refused[0]), (1, 1, 0));
}

#[test]
fn enforce_refuses_where_there_is_no_endpoint() {
    let mut kernel = Kernel::start();
    kernel.serve(word(Choice::RoundRobin, 0));
    let answered = kernel.decide(asked(VIP4));
    assert_eq!((answered.number, answered.refusal), (NONE, NO_ENDPOINT));
    assert_eq!(kernel.decisions().refused, [1, 0, 0]);
}

#[test]
fn a_table_that_names_a_stranger_fails_closed() {
    let mut kernel = Kernel::start();
    kernel.serve(word(Choice::RoundRobin, 1));
    kernel.put(Map::Slots, 100u32, Slot::only(5).pack());
    assert_eq!(kernel.decide(asked(VIP4)).refusal, STALE, "an empty entry");
    kernel.endpoint(5, "10.0.0.5:80", endpoint_state::ENDPOINT_ACTIVE);
    let own: endpoint = kernel.get(Map::Endpoints, 5u32).unwrap();
    let stranger = endpoint { service: 8, ..own };
    kernel.put(Map::Endpoints, 5u32, stranger);
    assert_eq!(kernel.decide(asked(VIP4)).refusal, STALE, "another service's");
    kernel.endpoint(5, "10.0.0.5:80", endpoint_state::ENDPOINT_GONE);
    assert_eq!(kernel.decide(asked(VIP4)).refusal, NO_ENDPOINT, "one that is gone");
    kernel.endpoint(5, "10.0.0.5:80", endpoint_state::ENDPOINT_DRAINING);
    assert_eq!(kernel.decide(asked(VIP4)).number, 5, "one that was taken out of the table a moment ago");
    kernel.put(Map::Services, 7u32, service { word4: word(Choice::RoundRobin, 1).pack(), word6: 0 });
    kernel.put(Map::Slots, 100u32, Slot::only(0xf_ffff).pack());
    assert_eq!(kernel.decide(asked(VIP4)).refusal, STALE, "a number beyond the map");
}

#[test]
fn callers_get_endpoints_of_their_family() {
    let mut kernel = Kernel::start();
    kernel.serve(word(Choice::RoundRobin, 1));
    kernel.put(Map::Slots, 100u32, Slot::only(1).pack());
    kernel.endpoint(1, "10.0.0.1:80", endpoint_state::ENDPOINT_ACTIVE);
    assert_eq!(reached(&kernel.decide(asked(VIP6))), "10.0.0.1:80");
    let v6_only = kernel.decide(Asked { v6_only: 1, ..asked(VIP6) });
    assert_eq!((v6_only.number, v6_only.refusal), (NONE, NO_ENDPOINT), "sendmsg6 cannot send IPv4");
    kernel.endpoint(1, "[fd00::9]:80", endpoint_state::ENDPOINT_ACTIVE);
    assert_eq!(reached(&kernel.decide(Asked { v6_only: 1, ..asked(VIP6) })), "[fd00::9]:80");
    assert_eq!(kernel.decide(asked(VIP4)).refusal, NO_ENDPOINT, "an IPv4 socket cannot reach IPv6");
}

#[test]
fn each_family_has_its_word() {
    let mut kernel = Kernel::start();
    kernel.serve(word(Choice::RoundRobin, 1));
    kernel.endpoints(2);
    let word6 = ServiceWord { base: 101, ..word(Choice::RoundRobin, 1) };
    kernel.put(
        Map::Services,
        7u32,
        service { word4: word(Choice::RoundRobin, 1).pack(), word6: word6.pack() },
    );
    assert_eq!((kernel.decide(asked(VIP4)).number, kernel.decide(asked(VIP6)).number), (1, 2));
}

#[test]
fn the_threshold_decides_between_endpoint_and_alias() {
    let mut kernel = Kernel::start();
    kernel.serve(word(Choice::WeightedRandom, 2));
    kernel.endpoints(3);
    let slot = Slot { endpoint: 1, alias: 2, threshold: 0x80_0000 };
    kernel.put(Map::Slots, 100u32, slot.pack());
    let mut drawn = |place: u32, odds: u32| {
        kernel.random(&[place, odds << 8]);
        kernel.decide(asked(VIP4)).number
    };
    assert_eq!(drawn(0, 0), 1);
    assert_eq!(drawn(0, 0x7f_ffff), 1);
    assert_eq!(drawn(0, 0x80_0000), 2);
    assert_eq!(drawn(0x7fff_ffff, 0xff_ffff), 2, "the last draw of the first place");
    assert_eq!(drawn(0x8000_0000, 0xff_ffff), 2, "Slot::only names itself as alias");
    assert_eq!(drawn(u32::MAX, 0), 2, "the last place");
}

#[test]
fn turns_go_round_and_belong_to_the_service() {
    let mut kernel = Kernel::start();
    kernel.serve(word(Choice::RoundRobin, 3));
    kernel.endpoints(3);
    let order: Vec<u32> = (0..7).map(|_| kernel.decide(asked(VIP4)).number).collect();
    assert_eq!(order, [1, 2, 3, 1, 2, 3, 1]);
    assert_eq!(kernel.get::<u32, u64>(Map::Turns, 7), Some(7));
    kernel.put(Map::Turns, 7u32, u64::MAX);
    // 2^64 - 1 is a multiple of 3.
    let order: Vec<u32> = (0..3).map(|_| kernel.decide(asked(VIP4)).number).collect();
    assert_eq!(order, [1, 1, 2], "the count begins anew after 2^64 turns");
}

#[test]
fn least_connections_weighs_what_is_open() {
    let mut kernel = Kernel::start();
    kernel.serve(word(Choice::LeastConnections, 2));
    kernel.endpoints(2);
    let mut chosen = |open: [u32; 2], weights: [u32; 2]| {
        for at in 0..2 {
            let slot = Slot { threshold: weights[at], ..Slot::only(at as u32 + 1) };
            kernel.put(Map::Slots, 100 + at as u32, slot.pack());
            kernel.put(Map::EndpointLoad, at as u32 + 1, endpoint_load { open: open[at], failures: 0 });
        }
        // Either may be drawn first; the better one must win both ways, unless they are equal.
        [0, u32::MAX].map(|draw| {
            kernel.random(&[draw, 0]);
            kernel.decide(asked(VIP4)).number
        })
    };
    assert_eq!(chosen([3, 2], [1, 1]), [2, 2]);
    assert_eq!(chosen([2, 2], [1, 1]), [1, 2], "equal: the first drawn");
    assert_eq!(chosen([7, 2], [3, 1]), [1, 1], "8/3 is less than 3/1");
    assert_eq!(chosen([9, 2], [3, 1]), [2, 2], "10/3 is more than 3/1");
    assert_eq!(chosen([u32::MAX, 0], [0xff_ffff, 1]), [2, 2], "no product overflows");
}

#[test]
fn affinity_lasts_until_its_timeout_and_is_renewed() {
    const SECOND: u64 = 1_000_000_000;
    let mut kernel = Kernel::start();
    kernel.serve(ServiceWord { affinity: 10, ..word(Choice::RoundRobin, 2) });
    kernel.endpoints(2);
    let mut at = |client: u64, now: u64| {
        let answered = kernel.decide(Asked { client, now, ..asked(VIP4) });
        (answered.number, answered.kept)
    };
    assert_eq!(at(1, SECOND), (1, 0));
    assert_eq!(at(1, 11 * SECOND - 1), (1, 1), "just in time");
    assert_eq!(at(1, 21 * SECOND - 2), (1, 1), "counted from the last connection");
    assert_eq!(at(2, 21 * SECOND), (2, 0), "another client");
    assert_eq!(at(1, 31 * SECOND - 2), (1, 0), "too late: the next in turn, by chance the same");
    assert_eq!(at(2, 22 * SECOND), (2, 1));
    assert_eq!(kernel.decisions().affinity_kept, 3);
}

#[test]
fn affinity_ends_with_its_endpoint() {
    let mut kernel = Kernel::start();
    kernel.serve(ServiceWord { affinity: 10, ..word(Choice::RoundRobin, 2) });
    kernel.endpoints(2);
    for state in [
        endpoint_state::ENDPOINT_DRAINING,
        endpoint_state::ENDPOINT_UNAVAILABLE,
        endpoint_state::ENDPOINT_GONE,
    ] {
        kernel.put(Map::Turns, 7u32, 0u64);
        kernel.endpoint(1, "10.0.0.1:8080", endpoint_state::ENDPOINT_ACTIVE);
        let client = u64::from(state.0) + 10;
        assert_eq!(kernel.decide(Asked { client, ..asked(VIP4) }).number, 1);
        kernel.endpoint(1, "10.0.0.1:8080", state);
        let answered = kernel.decide(Asked { client, ..asked(VIP4) });
        assert_eq!((answered.number, answered.kept), (2, 0), "{state:?}");
    }
    // Remembered as an IPv6 caller, the same client has no endpoint yet as an IPv4 caller.
    kernel.endpoints(2);
    kernel.put(Map::Turns, 7u32, 0u64);
    assert_eq!(kernel.decide(Asked { client: 99, ..asked(VIP6) }).number, 1);
    assert_eq!(kernel.decide(Asked { client: 99, ..asked(VIP4) }).kept, 0);
}

#[test]
fn maps_that_take_no_more_cost_counters_and_not_connections() {
    let mut kernel = Kernel::start();
    kernel.serve(ServiceWord { affinity: 10, ..word(Choice::RoundRobin, 1) });
    kernel.endpoints(1);
    kernel.fill(Map::Affinity);
    kernel.fill(Map::ServiceDecisions);
    assert_eq!(kernel.decide(asked(VIP4)).number, 1);
    assert_eq!(kernel.get::<u32, u64>(Map::Anomalies, anomaly::ANOMALY_AFFINITY_UNSAVED.0), Some(1));
    kernel.serve(word(Choice::RoundRobin, 0));
    assert_eq!(kernel.decide(asked(VIP4)).refusal, NO_ENDPOINT);
    assert_eq!(kernel.get::<u32, u64>(Map::Anomalies, anomaly::ANOMALY_SERVICE_UNCOUNTED.0), Some(1));
}

#[test]
fn a_connection_is_counted_from_end_to_end() {
    let mut kernel = Kernel::start();
    let mut connection =
        connection { service: 7, endpoint: 1, phase: 1, protocol: 6, ..connection::default() };
    let load = |kernel: &mut Kernel| {
        let load: endpoint_load = kernel.get(Map::EndpointLoad, 1u32).unwrap();
        (load.open, load.failures)
    };
    kernel.put(Map::EndpointLoad, 1u32, endpoint_load { open: 4, failures: 2 });
    kernel.live(&mut connection, Life { step: OPENED, ..Life::default() });
    assert_eq!(load(&mut kernel), (5, 2));
    kernel.live(&mut connection, Life { step: ESTABLISHED, ..Life::default() });
    assert_eq!(load(&mut kernel), (5, 0), "a success ends the row of failures");

    // The kernel's counters include the SYN.
    let life = Life { state: TCP_ESTABLISHED, bytes_sent: 101, bytes_received: 50, ..Life::default() };
    kernel.live(&mut connection, Life { step: ACCOUNTED, rtt_us: 30, ..life });
    kernel.live(&mut connection, Life { step: ACCOUNTED, rtt_us: 50, retransmits: 3, ..life });
    let closed = Life { step: CLOSED, state: TCP_FIN_WAIT2, fin_received: 1, ..life };
    kernel.live(&mut connection, Life { bytes_sent: 152, bytes_received: 61, retransmits: 3, ..closed });
    for map in [Map::ServiceTraffic, Map::EndpointTraffic] {
        let number = if matches!(map, Map::ServiceTraffic) { 7u32 } else { 1 };
        let traffic: traffic = kernel.get(map, number).unwrap();
        assert_eq!((traffic.established, traffic.closed, traffic.failures), (1, 1, [0; 6]));
        assert_eq!((traffic.bytes_sent, traffic.bytes_received, traffic.retransmits), (150, 60, 3));
        assert_eq!((traffic.rtt_us, traffic.rtt_samples), (80, 2));
    }
    assert_eq!((load(&mut kernel).0, connection.phase), (4, 0));
    kernel.live(&mut connection, closed);
    assert_eq!(load(&mut kernel).0, 4, "a connection ends once");
    assert_eq!(kernel.event().kind, 0);
}

#[test]
fn a_look_that_was_overtaken_takes_nothing_back() {
    let mut kernel = Kernel::start();
    let mut connection = connection { service: 7, endpoint: 1, phase: 3, ..connection::default() };
    let life = Life { step: ACCOUNTED, state: TCP_ESTABLISHED, ..Life::default() };
    for (sent, received, retransmits) in [(101, 50, 3), (91, 49, 1), (102, 51, 4)] {
        kernel
            .live(&mut connection, Life { bytes_sent: sent, bytes_received: received, retransmits, ..life });
    }
    let traffic: traffic = kernel.get(Map::ServiceTraffic, 7u32).unwrap();
    // What the overtaken look set back is counted again: too much by that, never below zero.
    assert_eq!((traffic.bytes_sent, traffic.bytes_received, traffic.retransmits), (111, 52, 6));
}

#[test]
fn only_an_endpoint_s_own_failures_are_told_and_held_against_it() {
    for (reason, blamed) in [
        (failure::FAILURE_REFUSED, true),
        (failure::FAILURE_TIMEOUT, true),
        (failure::FAILURE_UNREACHABLE, true),
        (failure::FAILURE_RESET, true),
        (failure::FAILURE_ABORTED, false),
        (failure::FAILURE_OTHER, false),
    ] {
        let mut kernel = Kernel::start();
        let mut connection =
            connection { service: 7, endpoint: 1, pid: 42, cgroup: 9, ..connection::default() };
        kernel.live(&mut connection, Life { step: OPENED, ..Life::default() });
        kernel.live(&mut connection, Life { step: CLOSED, failure: reason.0, ..Life::default() });
        let load: endpoint_load = kernel.get(Map::EndpointLoad, 1u32).unwrap();
        assert_eq!((load.open, load.failures), (0, u32::from(blamed)), "{reason:?}");
        let traffic: traffic = kernel.get(Map::EndpointTraffic, 1u32).unwrap();
        assert_eq!(traffic.failures[reason.0 as usize], 1);
        let event = kernel.event();
        let told = (event.kind, event.detail, event.service, event.endpoint, event.pid, event.cgroup);
        let expected = (event_kind::EVENT_CONNECT_FAILED.0, reason.0, 7, 1, 42, 9);
        assert_eq!(told, if blamed { expected } else { (0, 0, 0, 0, 0, 0) }, "{reason:?}");
    }
}

fn flow_to(port: u16, used_ns: u64) -> flow {
    let service: SocketAddr = (std::net::Ipv4Addr::new(10, 96, 0, 1), port).into();
    let endpoint: SocketAddr = (std::net::Ipv4Addr::new(10, 0, 0, 1), port).into();
    flow {
        service_address: address_words(service.ip()),
        endpoint_address: address_words(endpoint.ip()),
        service_port: port.to_be(),
        endpoint_port: port.to_be(),
        endpoint: 1,
        used_ns,
    }
}

#[test]
fn flows_are_found_by_service_and_by_endpoint() {
    let mut kernel = Kernel::start();
    let mut own = flows::default();
    own.flow[3] = flow_to(53, 5);
    own.flow[4] = flow_to(54, 0);
    let mut find = |address: &str| {
        let key = frontend_key(address.parse().unwrap(), Transport::Udp);
        let answer = kernel.ask(Operation::FlowOf, 0, &[own.bytes(), key.bytes()].concat(), 8);
        (u32::read(&answer).unwrap(), u32::read(&answer[4..]).unwrap())
    };
    assert_eq!(find("10.96.0.1:53"), (3, NONE));
    assert_eq!(find("10.0.0.1:53"), (NONE, 3));
    assert_eq!(find("10.96.0.1:54"), (NONE, NONE), "an empty place");
    assert_eq!(find("10.96.0.1:55"), (NONE, NONE));
}

#[test]
fn the_flow_unused_for_longest_makes_room() {
    let mut kernel = Kernel::start();
    let mut place = |own: &flows| u32::read(&kernel.ask(Operation::FlowPlace, 0, own.bytes(), 4)).unwrap();
    let mut own = flows::default();
    for (at, flow) in own.flow.iter_mut().enumerate() {
        *flow = flow_to(53, 100 - at as u64);
    }
    assert_eq!(place(&own), 7);
    own.flow[2].used_ns = 0;
    assert_eq!(place(&own), 2, "an empty place first");
    own.flow[2] = flow { endpoint: NONE, ..flow_to(53, 200) };
    assert_eq!(place(&own), 2, "what is only observed before what is balanced");
    own.flow[5] = flow { endpoint: NONE, ..flow_to(53, 199) };
    assert_eq!(place(&own), 5);
}

#[test]
fn a_flow_lives_while_its_endpoint_is_there() {
    const TIMEOUT: u64 = 60_000_000_000;
    let mut kernel = Kernel::start();
    let enforced = flow_to(53, 1000);
    let mut lives_in = |flow: flow, now_in: mode, state: endpoint_state, address: &str, now: u64| {
        kernel.endpoint(1, address, state);
        let question = [flow.bytes(), now.bytes(), now_in.0.bytes()].concat();
        u32::read(&kernel.ask(Operation::FlowLive, 0, &question, 4)).unwrap() == 1
    };
    let observed = flow { endpoint: NONE, ..enforced };
    for (flow, now_in, expected) in [
        (enforced, mode::MODE_ENFORCE, true),
        (enforced, mode::MODE_SHADOW, false),
        (enforced, mode::MODE_OBSERVE, false),
        (observed, mode::MODE_ENFORCE, false),
        (observed, mode::MODE_SHADOW, true),
        (observed, mode::MODE_OBSERVE, true),
    ] {
        let lives = lives_in(flow, now_in, endpoint_state::ENDPOINT_ACTIVE, "10.0.0.1:53", 2000);
        assert_eq!(lives, expected, "{now_in:?}, endpoint {}", flow.endpoint);
    }
    assert!(!lives_in(
        observed,
        mode::MODE_OBSERVE,
        endpoint_state::ENDPOINT_ACTIVE,
        "10.0.0.1:53",
        1000 + TIMEOUT
    ));
    let mut lives = |state, address: &str, now| lives_in(enforced, mode::MODE_ENFORCE, state, address, now);
    assert!(lives(endpoint_state::ENDPOINT_ACTIVE, "10.0.0.1:53", 1000 + TIMEOUT - 1));
    assert!(!lives(endpoint_state::ENDPOINT_ACTIVE, "10.0.0.1:53", 1000 + TIMEOUT));
    assert!(lives(endpoint_state::ENDPOINT_DRAINING, "10.0.0.1:53", 2000));
    assert!(!lives(endpoint_state::ENDPOINT_UNAVAILABLE, "10.0.0.1:53", 2000));
    assert!(!lives(endpoint_state::ENDPOINT_GONE, "10.0.0.1:53", 2000));
    assert!(
        !lives(endpoint_state::ENDPOINT_ACTIVE, "10.0.0.2:53", 2000),
        "the number is another endpoint's by now"
    );
    assert!(!lives(endpoint_state::ENDPOINT_ACTIVE, "10.0.0.1:54", 2000));
}

/// Draws for a distribution; 5 standard deviations of a binomial one are allowed.
const DRAWS: u32 = 3000;

proptest! {
    #![proptest_config(ProptestConfig::with_cases(24))]

    /// The table that Rust writes, read by the code of the kernel, gives what the weights ask for.
    #[test]
    fn kernel_and_tables_agree(
        weights in prop::collection::vec(1u16..50, 1..12),
        choice in 0usize..3,
        affinity in any::<bool>(),
    ) {
        let table_size = std::num::NonZeroU32::new(251).unwrap();
        let balance = [Balance::WeightedRandom, Balance::RoundRobin, Balance::Maglev { table_size }][choice];
        let mut service = tables::tests::weighted(balance, &weights);
        service.affinity = affinity.then_some(Affinity { timeout: Duration::from_secs(1) });
        let table = tables::build(&service, &[]).v4;
        let numbers: Vec<u32> = (1..=weights.len() as u32).collect();
        let words = table.words(&numbers);
        let run = Run { base: 100, length: words.len() as u32 };
        prop_assume!(run.end() <= 512);

        let mut kernel = Kernel::start();
        kernel.endpoints(weights.len() as u32);
        words.iter().zip(run.base..).for_each(|(word, place)| kernel.put(Map::Slots, place, *word));
        kernel.serve(word(table.choice, run.length));
        let mut reached = vec![0u32; weights.len() + 1];
        for client in 0..DRAWS.into() {
            let answered = kernel.decide(Asked { client, ..asked(VIP4) });
            reached[answered.number as usize] += 1;
        }
        let shares = tables::shares_of(table.choice, &words);
        for number in numbers {
            let share = shares.get(&number).copied().unwrap_or(0.0);
            let (got, expected) = (f64::from(reached[number as usize]), share * f64::from(DRAWS));
            let allowed = match table.choice {
                Choice::RoundRobin => 1.0,
                _ => 5.0 * (f64::from(DRAWS) * share * (1.0 - share)).sqrt() + 1.0,
            };
            prop_assert!((got - expected).abs() <= allowed, "{}: {} instead of {}", number, got, expected);
        }
    }
}
