//! Rate limits, circuits and hashes of services whose requests the kernel routes: it and the proxy hold them together.
//! Needs root; traffic stays on loopback.
#![allow(clippy::print_stdout, reason = "a test tells what it measured")]

mod mesh;

use std::collections::BTreeMap;
use std::net::Ipv4Addr;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use mesh::{Client, Mesh, Message, Place, get};

/// A request that the kernel leaves to the proxy.
const CHUNKED: &str = "POST /chunked HTTP/1.1\r\nHost: web\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n";

/// Statuses of requests, half of them such as the kernel does not take.
fn hammer(mesh: &Mesh, clients: usize, time: Duration, mixed: bool) -> BTreeMap<u16, u64> {
    let (address, over) = (mesh.address(), AtomicBool::new(false));
    thread::scope(|scope| {
        let run = |number: usize| {
            let over = &over;
            move || {
                let mut statuses = BTreeMap::<u16, u64>::new();
                let mut client = Client::to(address);
                for turn in number.. {
                    if over.load(Ordering::Relaxed) {
                        break;
                    }
                    let request = if mixed && turn % 2 == 0 { CHUNKED.into() } else { get("/a") };
                    let answer = client.ask(&request);
                    check(&answer);
                    *statuses.entry(answer.status).or_default() += 1;
                }
                statuses
            }
        };
        let threads: Vec<_> = (0..clients).map(|number| scope.spawn(run(number))).collect();
        thread::sleep(time);
        over.store(true, Ordering::Relaxed);
        let mut all = BTreeMap::new();
        for statuses in threads.into_iter().map(|thread| thread.join().unwrap()) {
            statuses.into_iter().for_each(|(status, count)| *all.entry(status).or_default() += count);
        }
        all
    })
}

fn check(answer: &Message) {
    match answer.status {
        200 => {}
        429 => {
            assert_eq!(answer.header("x-alize-reason"), Some("rate-limited"));
            assert!(answer.header("retry-after").is_some());
        }
        503 => assert_eq!(answer.header("x-alize-reason"), Some("circuit-open")),
        other => panic!("status {other}"),
    }
}

/// The counts of requests that were answered by the server, in the kernel and by the proxy.
fn served(mesh: &Mesh, refused: u64) -> (u64, u64) {
    let counts = mesh.counts();
    println!("{counts:?}");
    (counts.kernel, counts.proxy - refused)
}

/// What a bucket gives in `time` at most, and at least if somebody is always there to take.
fn bounds(burst: u64, rate: u64, time: Duration) -> std::ops::RangeInclusive<u64> {
    let most = burst + (rate as f64 * time.as_secs_f64()) as u64;
    burst + (most - burst) * 8 / 10..=most
}

fn limited(test: &str, place: Place, limit: &str, mixed: bool) {
    let mesh = Mesh::of(place, test, limit, &["one"]);
    // Connections for the kernel to lend, and the burst is whole again.
    let mut client = Client::connect(&mesh);
    (0..10).for_each(|_| check(&client.ask(&get("/warm"))));
    thread::sleep(Duration::from_millis(500));
    let before = mesh.served();
    let (kernel_before, proxy_before) = served(&mesh, 0);
    let began = Instant::now();
    let statuses = hammer(&mesh, 4, Duration::from_secs(3), mixed);
    let took = began.elapsed();
    println!("{statuses:?} in {took:?}");
    let (kernel, proxy) = served(&mesh, statuses[&429]);
    let (kernel, proxy) = (kernel - kernel_before, proxy - proxy_before);
    assert_eq!(statuses[&200], mesh.served() - before);
    assert_eq!(statuses[&200], kernel + proxy);
    let bounds = bounds(20, 100, took);
    assert!(bounds.contains(&statuses[&200]), "{} of {bounds:?}: {kernel} + {proxy}", statuses[&200]);
    assert!(kernel > 30, "the kernel takes a part: {kernel} + {proxy}");
    // An answer before the request was read whole keeps no client from the kernel.
    let unread = mesh.counts().reason("unread");
    assert!(unread * 20 <= statuses[&429], "{unread} of {statuses:?}");
    assert!(!mixed || proxy > 30, "and so does the proxy: {kernel} + {proxy}");
}

#[test]
fn kernel_and_proxy_draw_from_one_bucket() {
    limited("bucket", Place::Here, "http: {rate-limit: {requests: 100, burst: 20}},", true);
}

#[test]
fn kernel_and_proxy_draw_from_one_bucket_for_servers_elsewhere() {
    limited("bucket", Place::Elsewhere, "http: {rate-limit: {requests: 100, burst: 20}},", true);
}

#[test]
fn a_route_has_a_bucket_of_its_own() {
    let routes = "routes: [{match: /, rate-limit: {requests: 100, burst: 20}}],";
    limited("route-bucket", Place::Here, routes, true);
}

#[test]
fn a_limit_alone_keeps_nothing_from_the_kernel() {
    limited("kernel-bucket", Place::Here, "http: {rate-limit: {requests: 100, burst: 20}},", false);
}

/// The last byte of the address that a client calls from.
fn from(host: u8) -> Ipv4Addr {
    Ipv4Addr::new(127, 0, 0, host)
}

#[test]
fn each_client_has_a_bucket() {
    let mesh = Mesh::new("per-client", "http: {rate-limit: {requests: 1, burst: 8, per: client}},");
    for host in 20..24 {
        let mut client = Client::from(from(host), &mesh);
        let statuses: Vec<u16> = (0..12)
            .map(|turn| {
                let answer =
                    client.ask(if turn % 3 == 0 { CHUNKED } else { "GET /a HTTP/1.1\r\nHost: web\r\n\r\n" });
                check(&answer);
                answer.status
            })
            .collect();
        let taken = statuses.iter().filter(|status| **status == 200).count();
        assert!((8..=9).contains(&taken), "client {host}: {statuses:?}");
    }
    let counts = mesh.counts();
    println!("{counts:?}");
    assert!(counts.kernel > 12, "{counts:?}");
    assert!(
        counts.reasons.iter().any(|(reason, count)| *reason == "rate-limited" && *count > 4),
        "{counts:?}"
    );
}

/// As many requests as the circuit allows at each endpoint are under way at once, whoever has routed them, and never more.
fn held(place: Place, circuit: u64) {
    let more = format!("http: {{circuit: {{max-requests: {circuit}}}}},");
    let mesh = Mesh::of(place, "circuit", &more, &["one", "two"]);
    // The pools are warm.
    hammer(&mesh, 3, Duration::from_millis(300), false);
    let warm = mesh.counts();
    let slow = |turn: usize| match turn % 2 {
        0 => CHUNKED.replace("/chunked", "/slow/50"),
        _ => get("/slow/50"),
    };
    let over = AtomicBool::new(false);
    let (taken, refused) = thread::scope(|scope| {
        let run = |number: usize| {
            let (over, address) = (&over, mesh.address());
            move || {
                let (mut taken, mut refused) = (0u64, 0u64);
                let mut client = Client::to(address);
                for turn in number.. {
                    if over.load(Ordering::Relaxed) {
                        return (taken, refused);
                    }
                    let answer = client.ask(&slow(turn));
                    check(&answer);
                    *(if answer.status == 200 { &mut taken } else { &mut refused }) += 1;
                }
                unreachable!()
            }
        };
        let threads: Vec<_> = (0..10).map(|number| scope.spawn(run(number))).collect();
        thread::sleep(Duration::from_secs(2));
        over.store(true, Ordering::Relaxed);
        threads.into_iter().map(|thread| thread.join().unwrap()).fold((0, 0), |a, b| (a.0 + b.0, a.1 + b.1))
    });
    let counts = mesh.counts();
    println!("{taken} taken, {refused} refused, most at once {:?}, {counts:?}", mesh.most_at_once());
    assert!(refused > 100, "ten clients are too many for {circuit} at each of two endpoints: {refused}");
    assert!(mesh.most_at_once().iter().all(|most| *most <= circuit), "{:?}", mesh.most_at_once());
    assert_eq!(mesh.most_at_once(), [circuit; 2], "all that is allowed is used");
    assert!(counts.kernel > warm.kernel + 10 && counts.proxy > warm.proxy + refused + 10, "both take part");
    assert!(
        counts.reasons.iter().any(|(reason, count)| *reason == "circuit-open" && *count > 10),
        "{counts:?}"
    );
    mesh.settles();
}

#[test]
fn a_circuit_holds_for_both_together() {
    held(Place::Here, 2);
    held(Place::Here, 3);
}

#[test]
fn a_circuit_holds_for_both_together_for_servers_elsewhere() {
    held(Place::Elsewhere, 2);
}

/// Which server answers requests that differ by where they come from, or by a header, asked so that the kernel routes them,
/// and so that the proxy does.
fn whose(mesh: &Mesh, by_header: bool) -> Vec<(String, String)> {
    let name = |answer: Message| {
        check(&answer);
        let text = String::from_utf8(answer.body).unwrap();
        text.split(' ').next().unwrap().to_owned()
    };
    (1..=40)
        .map(|number| {
            let (host, field) = match by_header {
                true => (1, format!("Host: web\r\nX-User: user {number}")),
                false => (number, "Host: web".into()),
            };
            let mut client = Client::from(from(host), mesh);
            let plain = get("/a").replace("Host: web", &field);
            // The first may find no connection to that endpoint yet.
            name(client.ask(&plain));
            thread::sleep(Duration::from_millis(10));
            let kernel = name(client.ask(&plain));
            let chunked = CHUNKED.replace("/chunked", "/a").replace("Host: web", &field);
            (kernel, name(client.ask(&chunked)))
        })
        .collect()
}

const NAMES: [&str; 3] = ["one", "two", "three"];

fn stay_with_their_endpoint(mut mesh: Mesh, by_header: bool) -> Mesh {
    let first = whose(&mesh, by_header);
    let counts = mesh.counts();
    println!("{counts:?} {first:?}");
    assert!(counts.kernel >= 40 && counts.proxy >= 40, "{counts:?}");
    assert!(first.iter().all(|(kernel, proxy)| kernel == proxy), "{first:?}");
    for name in NAMES {
        let count = first.iter().filter(|(kernel, _)| kernel == name).count();
        assert!((4..26).contains(&count), "{count} of 40 to {name}");
    }
    mesh.lose(&[1]);
    let fewer = whose(&mesh, by_header);
    for (before, after) in first.iter().zip(&fewer) {
        assert_eq!(after.0, after.1);
        assert!(before.0 == after.0 || before.0 == "two", "{before:?}, then {after:?}");
        assert_ne!(after.0, "two");
    }
    mesh.lose(&[]);
    assert_eq!(first, whose(&mesh, by_header), "as before");
    mesh
}

#[test]
fn callers_stay_with_their_endpoint_on_both_ways() {
    let mesh = Mesh::of(Place::Here, "hash", "http: {balance: {consistent-hash: source}},", &NAMES);
    stay_with_their_endpoint(mesh, false);
}

#[test]
fn values_stay_with_their_endpoint_on_both_ways() {
    let balance = "http: {balance: {consistent-hash: {header: x-user}}},";
    let mesh = stay_with_their_endpoint(Mesh::of(Place::Here, "values", balance, &NAMES), true);
    let mut client = Client::connect(&mesh);
    let mut ask = |fields: &str| {
        let answer = client.ask(&get("/a").replace("Host: web", &format!("Host: web\r\n{fields}")));
        check(&answer);
        thread::sleep(Duration::from_millis(5));
        String::from_utf8(answer.body).unwrap()
    };
    let kernel = |mesh: &Mesh| mesh.counts().kernel;
    // As long as the kernel reads; longer, or twice, is the proxy's, which chooses alike every time.
    let (fits, long) = (format!("x-user: {}", "y".repeat(32)), format!("x-user: {}", "y".repeat(33)));
    ask(&fits);
    let before = kernel(&mesh);
    let answers: Vec<String> = (0..9).map(|_| ask(&fits)).collect();
    assert!(answers.iter().all(|answer| *answer == answers[0]));
    assert_eq!(kernel(&mesh), before + 9);
    for fields in [&*long, "x-user: a\r\nX-USER: b"] {
        let answers: Vec<String> = (0..9).map(|_| ask(fields)).collect();
        assert!(answers.iter().all(|answer| *answer == answers[0]), "{fields}: {answers:?}");
    }
    assert_eq!(kernel(&mesh), before + 9);
    // Without it, whoever has least to do.
    let answers: Vec<String> = (0..60).map(|_| ask("x-other: 1")).collect();
    assert!(NAMES.iter().all(|name| answers.iter().any(|answer| answer.starts_with(name))), "{answers:?}");
    assert!(kernel(&mesh) > before + 60);
}
