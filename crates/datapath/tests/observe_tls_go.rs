//! Requests within TLS of Go's crypto/tls as the probes see them, against the logs of real servers.
//!
//! Needs root, golang-go, openssl, nginx, curl, h2load and wrk. The programs are tests/go/main.go, which check every byte that they are
//! answered.

mod go;
mod http;
mod tls;
mod world;

use std::fs;
use std::net::{Ipv6Addr, SocketAddr};
use std::path::PathBuf;

use alize_datapath::observe::tls::{Family, Library};
use alize_datapath::observe::{Observer, Side};
use go::Process;
use http::{Counts, counted, counts_agree, free_address, open, open_with_room, run, traced};
use tls::{Certificate, all_http2_was_read, count_is, curl, outside};
use world::{World, eventually};

/// A program of Go's, a certificate, and where its log is.
struct Go {
    certificate: Certificate,
    program: PathBuf,
    log: String,
}

impl Go {
    fn new(name: &str, flags: &[&str]) -> Self {
        let certificate = Certificate::new(name);
        let program = certificate.folder.join("program");
        go::build(&program, flags);
        let log = certificate.path("log");
        Self { certificate, program, log }
    }

    fn serve(&self, address: SocketAddr, how: &[&str]) -> Process {
        let (certificate, key) = (self.certificate.path("crt"), self.certificate.path("key"));
        Process::serve(&self.program, address, &[&[certificate.as_str(), &key, &self.log], how].concat())
    }

    fn ask(&self, address: SocketAddr, connections: u32, requests: u32, kinds: &[&str]) -> Process {
        Process::ask(&self.program, "ask", address, connections, requests, kinds)
    }

    /// Waits until all four of its functions are probed.
    fn watch(&self, observer: &mut Observer, server: SocketAddr) {
        self.watch_all(observer, &[server]);
    }

    fn watch_all(&self, observer: &mut Observer, servers: &[SocketAddr]) {
        eventually("the program is probed", || {
            observer.watch_tls(servers).unwrap();
            observer.tls_files().any(|probed| {
                let skipped =
                    probed.library.functions.iter().filter(|function| function.skipped.is_some()).count();
                probed.library.family == Family::Go
                    && probed.name == self.program.to_string_lossy()
                    && (probed.refused.as_ref(), skipped, probed.library.functions.len()) == (None, 0, 4)
            })
        });
    }

    fn logged(&self) -> Counts {
        let mut counts = Counts::new();
        for line in fs::read_to_string(&self.log).unwrap_or_default().lines() {
            *counts.entry(line.to_owned()).or_default() += 1;
        }
        counts
    }

    /// What the kernel has counted is what the server has logged.
    fn logged_is_counted(&self, observer: &Observer, address: SocketAddr) {
        for _ in 0..200 {
            if counted(observer, address) == self.logged() {
                return;
            }
            std::thread::sleep(std::time::Duration::from_millis(20));
        }
        panic!("{:?}, {:?}, {:?}", counted(observer, address), self.logged(), observer.tallies().unwrap());
    }
}

const KINDS: [&str; 8] = [
    "GET /answer",
    "POST /echo",
    "GET /missing",
    "404",
    "GET /large",
    "POST /echo",
    "GET /one",
    "POST /echo",
];

fn of_side(observer: &Observer, address: SocketAddr, side: Side) -> u64 {
    let mut count = 0;
    observer
        .series(&mut |series| {
            if series.key.destination.address == address && series.key.side == side {
                count += series.count;
            }
        })
        .unwrap();
    count
}

#[test]
fn a_server_of_go_is_seen_whoever_asks_it() {
    let world = World::new("observe-tls-go-server");
    let mut observer = open(&world);
    let go = Go::new("go-server", &[]);
    let address = free_address();
    let _server = go.serve(address, &[]);
    go.watch(&mut observer, address);
    // Clients with OpenSSL tell of themselves.
    curl(address, "/curl", 30);
    count_is(&observer, address, "GET /curl 200", 30);
    assert_eq!(observer.tallies().unwrap().get("tls-peer"), Some(1));
    // Of others the server's end does.
    outside(&world, || {
        (0..10).for_each(|_| curl(address, "/curl", 3));
        run(
            "curl",
            &["-sSk", "--http1.1", "-d", &"x".repeat(100_000), &format!("https://{address}/missing")],
        );
        run("curl", &["-sSk", "--http1.1", "-I", &format!("https://{address}/large")]);
    });
    go.logged_is_counted(&observer, address);
    assert_eq!(
        (of_side(&observer, address, Side::Client), of_side(&observer, address, Side::Server)),
        (30, 32)
    );
    // At full speed, of many connections.
    outside(&world, || run("wrk", &["-t2", "-c16", "-d3", &format!("https://{address}/wrk")]));
    eventually("all but what wrk did not wait for is counted", || {
        let (counted, logged) = (counted(&observer, address), go.logged());
        let answered = counted["GET /wrk 200"];
        let rest = counted.get("GET /wrk unanswered").copied().unwrap_or(0);
        rest <= 16 && answered > 2000 && answered + rest == logged["GET /wrk 200"]
    });
    let tallies = observer.tallies().unwrap();
    assert_eq!(tallies.get("tls-unplaced"), Some(0), "{tallies:?}");
}

#[test]
fn a_client_of_go_is_seen_whomever_it_asks() {
    let world = World::new("observe-tls-go-client");
    let mut observer = open(&world);
    let go = Go::new("go-client", &[]);
    let server = go.certificate.nginx("go-client");
    let mut client = go.ask(
        server.address,
        20,
        250,
        &["GET /answer/a", "POST /answer/b", "GET /missing", "404", "GET /large"],
    );
    go.watch(&mut observer, server.address);
    client.begin();
    client.done();
    counts_agree(&observer, &server, 0);
    assert_eq!(counted(&observer, server.address).values().sum::<u64>(), 5000);
    let tallies = observer.tallies().unwrap();
    let sessions = tallies.get("tls-session");
    assert!(sessions >= Some(20), "{tallies:?}");
    assert_eq!((sessions, tallies.get("tls-unplaced")), (tallies.get("tls-peer"), Some(0)), "{tallies:?}");
    assert_eq!(of_side(&observer, server.address, Side::Client), 5000);
}

#[test]
fn a_server_of_go_on_all_addresses_is_seen_over_ipv4_and_ipv6() {
    let world = World::new("observe-tls-go-everywhere");
    let mut observer = open(&world);
    let go = Go::new("go-everywhere", &[]);
    let address = free_address();
    let other = SocketAddr::new(Ipv6Addr::LOCALHOST.into(), address.port());
    let _server = go.serve(address, &["everywhere"]);
    go.watch_all(&mut observer, &[address, other]);
    outside(&world, || {
        curl(address, "/four", 4);
        curl(other, "/six", 6);
    });
    count_is(&observer, address, "GET /four 200", 4);
    count_is(&observer, other, "GET /six 200", 6);
    // A client of Go, and a server whose client tells of it.
    let mut client = go.ask(other, 3, 20, &["GET /six"]);
    client.begin();
    client.done();
    count_is(&observer, other, "GET /six 200", 66);
    assert_eq!(of_side(&observer, other, Side::Client), 60);
}

/// What the server has logged is counted, all of it at the clients' ends, and each once.
fn both_ends_of_go_agree(name: &str, flags: &[&str]) {
    let world = World::new(&format!("observe-tls-{name}"));
    let mut observer = open(&world);
    let go = Go::new(name, flags);
    let address = free_address();
    let _server = go.serve(address, &[]);
    let mut client = go.ask(address, 16, 200, &KINDS);
    go.watch(&mut observer, address);
    client.begin();
    client.done();
    go.logged_is_counted(&observer, address);
    assert_eq!(of_side(&observer, address, Side::Client), 3200);
    let tallies = observer.tallies().unwrap();
    assert_eq!(tallies.get("tls-session"), tallies.get("tls-peer"), "{tallies:?}");
    let none = ["tls-unplaced", "gap", "unsolicited", "pipeline-overflow", "budget", "joined", "not-http"];
    assert!(none.iter().all(|name| tallies.get(name) == Some(0)), "{tallies:?}");
}

#[test]
fn a_stripped_program_of_go_is_seen_at_both_ends() {
    both_ends_of_go_agree("go-stripped", &["-ldflags=-s -w"]);
}

#[test]
fn a_program_of_go_that_is_loaded_anywhere_is_seen_at_both_ends() {
    both_ends_of_go_agree("go-pie", &["-buildmode=pie", "-ldflags=-linkmode=external -s -w"]);
}

/// Both ends have to know that they are ends of one connection, each time.
#[test]
fn connections_of_go_for_a_single_request_are_counted_once() {
    let world = World::new("observe-tls-go-single");
    let mut observer = open(&world);
    let go = Go::new("go-single", &[]);
    let (address, nginx) = (free_address(), go.certificate.nginx("go-single"));
    let _server = go.serve(address, &[]);
    let mut client = go.ask(address, 16, 100, &["GET /close", "POST /close"]);
    let mut other = go.ask(nginx.address, 16, 50, &["GET /close", "404"]);
    go.watch_all(&mut observer, &[address, nginx.address]);
    client.begin();
    other.begin();
    client.done();
    other.done();
    go.logged_is_counted(&observer, address);
    counts_agree(&observer, &nginx, 0);
    let all = [address, nginx.address].map(|address| of_side(&observer, address, Side::Client));
    assert_eq!(all, [1600, 800]);
    let tallies = observer.tallies().unwrap();
    assert_eq!(
        (tallies.get("tls-session"), tallies.get("tls-peer")),
        (Some(2400), Some(2400)),
        "{tallies:?}"
    );
}

/// Stacks that grow and shrink, goroutines that change threads, and breakpoints that come and go meanwhile: each byte is right.
#[test]
fn programs_of_go_are_unharmed_by_probes_that_come_and_go() {
    let world = World::new("observe-tls-go-unharmed");
    let mut observer = open(&world);
    let go = Go::new("go-unharmed", &[]);
    let address = free_address();
    let mut server = go.serve(address, &[]);
    let mut client = go.ask(address, 100, 100, &KINDS);
    for _ in 0..3 {
        client.begin();
        let until = std::time::Instant::now() + std::time::Duration::from_secs(3);
        while std::time::Instant::now() < until {
            go.watch(&mut observer, address);
            std::thread::sleep(std::time::Duration::from_millis(50));
            observer.watch_tls(&[]).unwrap();
            std::thread::sleep(std::time::Duration::from_millis(20));
        }
        client.done();
    }
    assert!(server.runs() && client.runs());
    assert_eq!(go.logged().values().sum::<u64>(), 30_000);
    assert!(counted(&observer, address).values().sum::<u64>() > 1000, "{:?}", counted(&observer, address));
}

#[test]
fn a_connection_of_go_that_was_there_is_joined() {
    let world = World::new("observe-tls-go-joined");
    let mut observer = open(&world);
    let go = Go::new("go-joined", &[]);
    let address = free_address();
    let _server = go.serve(address, &[]);
    let mut client = go.ask(address, 2, 50, &["GET /joined"]);
    client.begin();
    client.done();
    go.watch(&mut observer, address);
    assert!(counted(&observer, address).is_empty());
    client.begin();
    client.done();
    // The first of each shows the socket, and the second proves that the thread was found.
    count_is(&observer, address, "GET /joined 200", 96);
    let tallies = observer.tallies().unwrap();
    let of = ["tls-session", "resynchronised", "tls-unplaced"].map(|name| tallies.get(name));
    assert_eq!(of, [Some(0), Some(2), Some(0)], "{tallies:?}");
}

/// Both goroutines of a connection, the one that reads and the one that writes, may be first to find what is spoken.
#[test]
fn http2_of_go_is_counted_as_its_server_logs_it() {
    let world = World::new("observe-tls-go-http2");
    let mut observer = open_with_room(&world);
    let go = Go::new("go-http2", &[]);
    let address = free_address();
    let _server = go.serve(address, &["http2"]);
    let mut client = Process::ask(&go.program, "ask-http2", address, 32, 200, &KINDS);
    go.watch(&mut observer, address);
    client.begin();
    client.done();
    outside(&world, || {
        run("h2load", &["-n10000", "-c20", "-m10", "-t1", &format!("https://{address}/answer")]);
        run("curl", &["-sSk", "--http2", "-o/dev/null", &format!("https://{address}/large")]);
        curl(address, "/one", 1);
    });
    // Neither a text that looks like a request nor the stream it is on matters: all are told apart.
    eventually("all of it is decoded", || {
        traced(&mut observer);
        counted(&observer, address) == go.logged()
    });
    let sides = [Side::Client, Side::Server].map(|side| of_side(&observer, address, side));
    assert_eq!(sides, [6400, 10_002]);
    let tallies = observer.tallies().unwrap();
    assert_eq!(tallies.get("http2-followed"), Some(32 + 20 + 1), "{tallies:?}");
    all_http2_was_read(&observer);
}

#[test]
fn go_with_connections_of_its_own_is_told_or_seen() {
    let world = World::new("observe-tls-go-other");
    let mut observer = open(&world);
    let go = Go::new("go-other", &[]);
    let tally = |observer: &Observer, name: &str| observer.tallies().unwrap().get(name);
    // Inside, the client would tell.
    let ask = |address| outside(&world, || curl(address, "/other", 1));
    let address = free_address();
    let server = go.serve(address, &["wrapped"]);
    go.watch(&mut observer, address);
    ask(address);
    count_is(&observer, address, "GET /other 200", 1);
    assert_eq!(tally(&observer, "tls-unplaced"), Some(0));
    drop(server);
    let address = free_address();
    let _server = go.serve(address, &["hidden"]);
    go.watch(&mut observer, address);
    // Whoever looked whether it listens has begun a connection, too.
    eventually("it is told", || tally(&observer, "tls-unplaced") == Some(1));
    ask(address);
    assert!(counted(&observer, address).is_empty());
    assert_eq!(tally(&observer, "tls-unplaced"), Some(2));
}

/// Where the program has its table of functions.
fn table(bytes: &[u8]) -> usize {
    let begins = |bytes: &[u8]| matches!(bytes, [0xf0 | 0xf1, 0xff, 0xff, 0xff, 0, 0, 1, 8]);
    bytes.windows(8).position(begins).expect("a program of Go has a table of functions")
}

#[test]
fn a_program_of_an_older_go_is_refused_with_what_mends_it() {
    let go = Go::new("go-old", &[]);
    let mut bytes = fs::read(&go.program).unwrap();
    let whole = Library::read(bytes.as_slice()).unwrap();
    assert_eq!((whole.family, whole.functions.len(), whole.refused()), (Family::Go, 4, None));
    // What Go 1.16 and 1.17 wrote.
    let place = table(&bytes);
    bytes[place] = 0xfa;
    let old = Library::read(bytes.as_slice()).unwrap().refused().unwrap();
    assert!(old.contains("build it with Go 1.18 or newer"), "{old}");
}

#[test]
fn no_damage_to_a_program_of_go_makes_it_fail() {
    let go = Go::new("go-damage", &["-buildmode=pie", "-ldflags=-s -w"]);
    let whole = fs::read(&go.program).unwrap();
    let (mut bytes, table) = (whole.clone(), table(&whole));
    let mut chance = 1u64;
    let mut next = |below: usize| {
        chance = chance.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (chance >> 33) as usize % below
    };
    let mut found = 0;
    for turn in 0..120 {
        for _ in 0..8 {
            // In the headers of the file, in the table and at its head, and anywhere.
            let place = match turn % 4 {
                0 => next(4096),
                1 => table + next(72),
                2 => (table + next(2_000_000)) % whole.len(),
                _ => next(whole.len()),
            };
            bytes[place] = next(256) as u8;
        }
        let cut = if turn % 3 == 0 { next(whole.len()) } else { 0 };
        found += usize::from(Library::read(&bytes[..whole.len() - cut]).is_some());
        bytes.copy_from_slice(&whole);
    }
    assert!((1..120).contains(&found), "{found}");
}

/// A program that others have built, that wraps its connections, and is both ends of one: it scrapes itself.
#[test]
fn prometheus_is_seen_as_a_server_and_as_a_client() {
    let world = World::new("observe-tls-go-prometheus");
    let mut observer = open(&world);
    let certificate = Certificate::new("prometheus");
    let address = free_address();
    let file = |name: &str, text: String| {
        let path = certificate.path(name);
        fs::write(&path, text).unwrap();
        path
    };
    let (crt, key) = (certificate.path("crt"), certificate.path("key"));
    let web = file(
        "web.yml",
        format!(
            "tls_server_config: {{cert_file: {crt}, key_file: {key}}}\nhttp_server_config: {{http2: false}}\n"
        ),
    );
    let scrape = format!(
        "{{job_name: own, scheme: https, enable_http2: false, tls_config: {{insecure_skip_verify: true}}, \
         scrape_interval: 200ms, scrape_timeout: 200ms, static_configs: [{{targets: ['{address}']}}]}}"
    );
    let configuration = file("prometheus.yml", format!("scrape_configs: [{scrape}]\n"));
    let _prometheus = Process::run(
        "prometheus",
        address,
        &[
            &format!("--web.listen-address={address}"),
            &format!("--web.config.file={web}"),
            &format!("--config.file={configuration}"),
            &format!("--storage.tsdb.path={}", certificate.path("tsdb")),
        ],
    );
    eventually("prometheus is probed", || {
        observer.watch_tls(&[address]).unwrap();
        observer.tls_files().any(|probed| probed.name.ends_with("/prometheus") && probed.refused.is_none())
    });
    outside(&world, || curl(address, "/-/healthy", 7));
    eventually("both are seen", || {
        let counted = counted(&observer, address);
        counted.get("GET /-/healthy 200") == Some(&7) && counted.get("GET /metrics 200") > Some(&10)
    });
    assert_eq!(of_side(&observer, address, Side::Server), 7);
    let tallies = observer.tallies().unwrap();
    assert_eq!(tallies.get("tls-unplaced"), Some(0), "{tallies:?}");
}
