//! Requests routed by the kernel, over real sockets: clients, endpoints, and a proxy that is as small as can be.
#![allow(clippy::print_stdout, reason = "a test tells what it measured")]

#[path = "versions/mod.rs"]
mod versions;
#[path = "http/mod.rs"]
mod web;
mod world;

use std::io::{BufRead, BufReader, Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::os::fd::AsFd;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::thread;
use std::time::Duration;

use alize_datapath::bundle::Bundle;
use alize_datapath::http::{
    Armed, Event, Lent, Predecessor, Rest, Router, RouterOptions, Slot, netns_cookie,
};
use alize_datapath::observe::{self, Filter, Limits, Observer, PathLabel, Request};
use alize_datapath::{DataPath, Instead, Scope};
use alize_model::Snapshot;
use world::{Below, World, snapshot};

/// An HTTP server that answers every request with its own name, the request's target and the length of its body.
struct Server {
    address: SocketAddr,
    served: Arc<AtomicU64>,
}

impl Server {
    fn start(name: &'static str) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap();
        let served = Arc::new(AtomicU64::new(0));
        let counter = served.clone();
        thread::spawn(move || {
            for stream in listener.incoming().flatten() {
                let counter = counter.clone();
                thread::spawn(move || serve(name, stream, &counter));
            }
        });
        Self { address, served }
    }

    fn served(&self) -> u64 {
        self.served.load(Ordering::SeqCst)
    }
}

/// Sockets that were redirected to can wake up with nothing to read (docs/adr/0007).
fn again<T>(mut what: impl FnMut() -> std::io::Result<T>) -> std::io::Result<T> {
    loop {
        match what() {
            Err(e) if e.kind() == std::io::ErrorKind::WouldBlock => thread::sleep(Duration::from_millis(1)),
            other => return other,
        }
    }
}

fn serve(name: &str, stream: TcpStream, served: &AtomicU64) {
    let mut writer = stream.try_clone().unwrap();
    let mut reader = BufReader::new(stream);
    loop {
        let Some((head, body)) = read_message(&mut reader) else { return };
        served.fetch_add(1, Ordering::SeqCst);
        let target = head.split(' ').nth(1).unwrap_or_default().to_owned();
        let size = target.strip_prefix("/size/").and_then(|n| n.parse::<usize>().ok());
        let text = match size {
            Some(size) => "x".repeat(size),
            None => format!("{name} {target} {}", body.len()),
        };
        if target == "/slow" {
            thread::sleep(Duration::from_secs(1));
        }
        let response = format!("HTTP/1.1 200 OK\r\nContent-Length: {}\r\n\r\n{text}", text.len());
        if writer.write_all(response.as_bytes()).is_err() || target == "/last" {
            return;
        }
    }
}

/// A head, and a body by Content-Length.
fn read_message(reader: &mut BufReader<TcpStream>) -> Option<(String, Vec<u8>)> {
    let mut head = String::new();
    loop {
        let mut line = String::new();
        if again(|| reader.read_line(&mut line)).ok()? == 0 {
            return None;
        }
        if line == "\r\n" {
            break;
        }
        head.push_str(&line);
    }
    let length = head.lines().find_map(|line| {
        line.to_ascii_lowercase().strip_prefix("content-length:")?.trim().parse::<usize>().ok()
    });
    let mut body = vec![0; length.unwrap_or(0)];
    let mut read = 0;
    while read < body.len() {
        match again(|| reader.read(&mut body[read..])).ok()? {
            0 => return None,
            count => read += count,
        }
    }
    Some((head, body))
}

/// Accepts fronts, keeps back connections, answers by itself what reaches it: `proxy TARGET`.
struct Proxy {
    router: Arc<Mutex<Router>>,
    netns: u64,
    stop: Arc<AtomicBool>,
    passed: Arc<Mutex<Vec<(&'static str, bool)>>>,
    back: Vec<(Slot, TcpStream)>,
}

impl Proxy {
    fn start(world: &World) -> Self {
        let options =
            RouterOptions { instance: world.options.instance.clone(), bpffs: world.options.bpffs.clone() };
        let mut router = Router::open(&options).unwrap_or_else(|error| panic!("{error}"));
        router.take_over(Predecessor::Gone, &Default::default()).unwrap_or_else(|error| panic!("{error}"));
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let netns = netns_cookie(listener.as_fd()).unwrap();
        router.listen(netns, Some(listener.local_addr().unwrap().port()), None).unwrap();
        let router = Arc::new(Mutex::new(router));
        let stop = Arc::new(AtomicBool::new(false));
        let passed = Arc::new(Mutex::new(Vec::new()));
        let (shared, list) = (router.clone(), passed.clone());
        thread::spawn(move || {
            for stream in listener.incoming().flatten() {
                let (router, list) = (shared.clone(), list.clone());
                thread::spawn(move || front(stream, netns, &router, &list));
            }
        });
        Self { router, netns, stop, passed, back: Vec::new() }
    }

    /// Opens `count` connections to an endpoint for the kernel to lend.
    fn warm(&mut self, endpoint: u32, address: SocketAddr, count: usize) {
        for _ in 0..count {
            let mut router = self.router.lock().unwrap();
            let slot = router.reserve(self.netns, endpoint).unwrap().expect("slots are left");
            let socket =
                rustix::net::socket(rustix::net::AddressFamily::INET, rustix::net::SocketType::STREAM, None)
                    .unwrap();
            rustix::net::bind(&socket, &"127.0.0.1:0".parse::<SocketAddr>().unwrap()).unwrap();
            let stream = TcpStream::from(socket);
            let local = stream.local_addr().unwrap();
            router.dial(slot, local, address).unwrap();
            rustix::net::connect(&stream, &address).unwrap();
            assert_eq!(router.arm(slot, local, address, &stream).unwrap(), Armed::Here);
            self.back.push((slot, stream));
        }
    }

    /// Another takes its place; what this one had.
    fn succeed(&mut self, world: &World) -> (Arc<Mutex<Router>>, Vec<(Slot, TcpStream)>) {
        let options =
            RouterOptions { instance: world.options.instance.clone(), bpffs: world.options.bpffs.clone() };
        let mut successor = Router::open(&options).unwrap_or_else(|error| panic!("{error}"));
        self.router.lock().unwrap().let_go().unwrap();
        successor.take_over(Predecessor::Finishing, &Default::default()).unwrap();
        let old = std::mem::replace(&mut self.router, Arc::new(Mutex::new(successor)));
        (old, std::mem::take(&mut self.back))
    }

    fn passed(&self) -> Vec<&'static str> {
        self.passed.lock().unwrap().iter().map(|(reason, _)| *reason).collect()
    }
}

impl Drop for Proxy {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::SeqCst);
    }
}

fn front(stream: TcpStream, netns: u64, router: &Mutex<Router>, passed: &Mutex<Vec<(&'static str, bool)>>) {
    let peer = stream.peer_addr().unwrap();
    let client = router.lock().unwrap().front(netns, peer).unwrap().expect("the kernel knows who it is");
    let mut writer = stream.try_clone().unwrap();
    let mut reader = BufReader::new(stream);
    let (mut read, mut written) = (0u32, 0u32);
    while let Some((head, body)) = read_message(&mut reader) {
        for event in router.lock().unwrap().events() {
            if let Event::Passed { reason, slot, .. } = event {
                passed.lock().unwrap().push((reason, slot.is_some()));
            }
        }
        read = read.wrapping_add(head.len() as u32 + 2 + body.len() as u32);
        let text = format!("proxy {}", head.split(' ').nth(1).unwrap_or_default());
        let response = format!("HTTP/1.1 200 OK\r\nContent-Length: {}\r\n\r\n{text}", text.len());
        writer.write_all(response.as_bytes()).unwrap();
        written = written.wrapping_add(response.len() as u32);
        if reader.buffer().is_empty() {
            router.lock().unwrap().rest(client.cookie, Rest { read, written }).unwrap();
        }
    }
    router.lock().unwrap().forget(client.cookie).unwrap();
}

struct Client(BufReader<TcpStream>);

impl Client {
    fn connect(address: &str) -> Self {
        Self(BufReader::new(TcpStream::connect(address).unwrap()))
    }

    fn ask(&mut self, request: &str) -> String {
        self.send(request);
        self.hear()
    }

    fn send(&mut self, request: &str) {
        self.0.get_mut().write_all(request.as_bytes()).unwrap();
    }

    fn hear(&mut self) -> String {
        let (_, body) = read_message(&mut self.0).expect("a response");
        String::from_utf8(body).unwrap()
    }
}

fn get(path: &str) -> String {
    format!("GET {path} HTTP/1.1\r\nHost: web\r\nUser-Agent: test\r\nAccept: */*\r\n\r\n")
}

fn apply(data_path: &mut DataPath, snapshot: &Snapshot) {
    let unavailable = Default::default();
    data_path.apply(alize_datapath::Desired { snapshot, unavailable: &unavailable }).unwrap();
}

const WEB: &str = "127.77.7.1:80";

fn web_service(more: &str, endpoints: &[SocketAddr]) -> Snapshot {
    snapshot(&world::service("web", WEB, &format!("protocol: http, {more}"), endpoints))
}

/// The service with one server, and a proxy with so many connections to it; the server's number as an endpoint.
fn routed(world: &World, connections: usize) -> (Server, DataPath, Proxy, u32) {
    let server = Server::start("one");
    let mut data_path = world.open();
    data_path.allow_http(true).unwrap();
    apply(&mut data_path, &web_service("", &[server.address]));
    let endpoint = data_path.endpoints(data_path.service_id("web").unwrap())[0].id;
    let mut proxy = Proxy::start(world);
    proxy.warm(endpoint, server.address, connections);
    (server, data_path, proxy, endpoint)
}

#[test]
fn a_request_goes_straight_to_an_endpoint_and_back() {
    let world = World::new("http-straight");
    let (server, _data_path, proxy, _) = routed(&world, 2);

    let mut client = Client::connect(WEB);
    assert_eq!(client.0.get_ref().peer_addr().unwrap(), WEB.parse().unwrap(), "the client sees the service");
    for turn in 0..100 {
        assert_eq!(client.ask(&get(&format!("/turn/{turn}"))), format!("one /turn/{turn} 0"));
    }
    let body = "b".repeat(1000);
    let post = "POST /in HTTP/1.1\r\nHost: web\r\nContent-Length: 1000\r\n\r\n";
    assert_eq!(client.ask(&format!("{post}{body}")), "one /in 1000", "head and body in one");
    client.send(post);
    client.send(&body[..600]);
    client.send(&body[600..]);
    assert_eq!(client.hear(), "one /in 1000", "and in three");
    assert_eq!(client.ask(&get("/size/60000")).len(), 60_000);
    assert_eq!(server.served(), 103);
    assert_eq!(proxy.passed(), Vec::<&str>::new(), "nothing reached the proxy");
}

/// Everything that is sent while `what` runs and the trace asks for, and what nginx has logged of it.
fn traced(observer: &mut Observer, filter: &Filter, what: impl FnOnce()) -> Vec<Request> {
    let trace = observer.start_trace(filter).unwrap();
    what();
    let mut requests = Vec::new();
    let mut each = |event: Result<observe::Event, _>| match event.unwrap() {
        observe::Event::Request(request) => requests.push(request),
        other => panic!("{other:?}"),
    };
    observer.poll(&mut each).unwrap();
    observer.stop_trace(trace).unwrap();
    requests
}

/// As nginx logs it.
fn logged_as(requests: &[Request]) -> web::Counts {
    let mut counts = web::Counts::new();
    for request in requests {
        let status = request.status.map_or("unanswered".into(), |status| status.to_string());
        *counts.entry(format!("{} {} {status}", request.method, request.target)).or_default() += 1;
    }
    counts
}

#[test]
fn what_the_kernel_routes_is_traced_counted_and_recorded_once() {
    let world = World::new("http-traced");
    let server = web::nginx("http-traced");
    let mut data_path = world.open();
    data_path.allow_http(true).unwrap();
    apply(&mut data_path, &web_service("", &[server.address]));
    let service = data_path.service_id("web").unwrap();
    let endpoint = data_path.endpoints(service)[0].id;
    let mut proxy = Proxy::start(&world);
    proxy.warm(endpoint, server.address, 2);
    let mut client = Client::connect(WEB);
    client.ask(&get("/answer?before"));
    let mut observer = Observer::open(&world.options, &Limits::default(), &data_path.in_force()).unwrap();
    let ask = |client: &mut Client| {
        for turn in 0..200 {
            client.ask(&get(&format!("/answer?{turn}")));
        }
        for _ in 0..5 {
            client.ask(&get("/broken"));
        }
    };

    let requests = traced(&mut observer, &Filter::default(), || ask(&mut client));
    assert_eq!(proxy.passed(), Vec::<&str>::new(), "nothing reached the proxy");
    assert_eq!(requests.len(), 205);
    let mut expected = logged_as(&requests);
    expected.insert("GET /answer?before 200".into(), 1);
    // nginx writes its log a little later.
    world::eventually("nginx has logged each of them once", || server.logged() == expected);
    let own = std::process::id();
    for request in &requests {
        assert_eq!((request.path_label, request.side), (PathLabel::KernelL7, observe::Side::Client));
        assert_eq!((request.service, request.server_address), (Some(service), server.address));
        assert_eq!(request.client_address, client.0.get_ref().local_addr().unwrap());
        assert_eq!(request.client.as_ref().and_then(|client| client.pid), Some(own));
        let worker = request.server.as_ref().expect("nginx is on this host");
        assert_ne!(worker.pid, Some(own));
        assert_eq!(worker.comm, "nginx");
        assert_eq!((request.host.as_str(), request.reused), ("web", true));
        let head = get(&request.target).len() as u64;
        assert_eq!(request.request_bytes, head);
        assert!(request.response_bytes > 50 && request.latency > Duration::ZERO, "{request:?}");
        assert!(request.first_byte.is_some_and(|first| first <= request.latency));
    }
    // By path without query, and the first request was before the observer.
    let counted = web::counted(&observer, server.address);
    assert_eq!((counted.get("GET /answer 200"), counted.get("GET /broken 503")), (Some(&200), Some(&5)));
    assert_eq!(counted.len(), 2, "{counted:?}");

    let only = Filter { status: Some((500, 599)), service: Some(service), ..Filter::default() };
    assert_eq!(traced(&mut observer, &only, || ask(&mut client)).len(), 5, "filters are the kernel's work");
    let elsewhere = Filter { service: Some(service + 1), ..Filter::default() };
    assert_eq!(traced(&mut observer, &elsewhere, || ask(&mut client)), []);
    let failed = observer.failed().unwrap();
    assert_eq!(failed.iter().filter(|request| request.path_label == PathLabel::KernelL7).count(), 15);
    assert!(observer.slowest().unwrap().iter().any(|request| request.target.starts_with("/answer")));
    drop(observer);
    assert_eq!(data_path.http_outstanding().unwrap(), (0, 0), "every slot was given back");

    Observer::detach(&world.options, &data_path.in_force()).unwrap();
    client.ask(&get("/answer"));
    assert_eq!(proxy.passed(), Vec::<&str>::new());
}

/// What tells of requests that the kernel routes changes with the router: none is missing, none is there twice. With another
/// layout of what both know of a request, those that end between the switches are not told of.
#[test]
fn what_the_kernel_routes_is_told_of_over_upgrades() {
    let world = World::new("http-told-upgraded");
    let folder = versions::Folder::new("http-told-upgraded");
    let server = web::nginx("http-told-upgraded");
    let own = Bundle::embedded().unwrap();
    let same = versions::built(&folder, "2.0.0", &[], &[]);
    let address = "	__be32 client_address[4];\n	__be16 client_port;\n	__u8 zero[6];\n};";
    let grown = address.replace("};", "	__u64 not_yet_used;\n};");
    let file = ["http/abi.h", "http/note.h"].into_iter().find(|file| {
        let path = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("bpf").join(file);
        std::fs::read_to_string(path).unwrap().contains(address)
    });
    let edits = [(file.expect("a note is somewhere"), address, grown.as_str())];
    let other = versions::built(&folder, "2.1.0", &edits, &versions::all());
    let mut data_path = world.open();
    data_path.allow_http(true).unwrap();
    apply(&mut data_path, &web_service("", &[server.address]));
    let endpoint = data_path.endpoints(data_path.service_id("web").unwrap())[0].id;
    let mut proxy = Proxy::start(&world);
    proxy.warm(endpoint, server.address, 2);
    let mut observer = Observer::open(&world.options, &Limits::default(), &data_path.in_force()).unwrap();
    let (stop, asked) = (AtomicBool::new(false), AtomicU64::new(0));
    let during = |work: &mut dyn FnMut()| {
        stop.store(false, Ordering::SeqCst);
        thread::scope(|scope| {
            scope.spawn(|| {
                let mut client = Client::connect(WEB);
                while !stop.load(Ordering::SeqCst) {
                    client.ask(&get("/answer"));
                    asked.fetch_add(1, Ordering::SeqCst);
                    thread::sleep(Duration::from_micros(200));
                }
            });
            work();
            stop.store(true, Ordering::SeqCst);
        });
        asked.load(Ordering::SeqCst)
    };
    let told = |observer: &mut Observer| {
        observer.poll(&mut |_| {}).unwrap();
        web::counted(observer, server.address).values().sum::<u64>()
    };
    let total = during(&mut || {
        for bundle in [&same, &own, &same] {
            data_path.upgrade(bundle, None).unwrap_or_else(|error| panic!("{error}"));
        }
    });
    assert_eq!(proxy.passed(), Vec::<&str>::new(), "nothing reached the proxy");
    assert_eq!(told(&mut observer), total, "each is told of once");
    let again = during(&mut || {
        let upgraded = data_path.upgrade(&other, None).unwrap_or_else(|error| panic!("{error}"));
        assert!(upgraded.steps[0].done.contains("http_notes"), "{upgraded:?}");
    });
    let missing = again - told(&mut observer);
    println!(
        "{total} requests over 3 upgrades, all told of; {missing} of {} with another layout",
        again - total
    );
    assert!(missing < (again - total) / 4, "{missing} of {}", again - total);
    // And on it goes, with nothing missing.
    let more = during(&mut || thread::sleep(Duration::from_millis(100)));
    assert_eq!(more - told(&mut observer), missing);
    assert_eq!(data_path.http_outstanding().unwrap(), (0, 0), "every slot was given back");
}

/// Each version counts for itself what it leaves to the proxy and whom it refuses, by reason.
#[test]
fn a_version_on_trial_tells_what_it_leaves_to_the_proxy() {
    let world = World::new("http-trial");
    let folder = versions::Folder::new("http-trial");
    let server = Server::start("one");
    // It knows no GET, and takes no request with one.
    let blind = ("http/head.h", "return HTTP_GET | 4 << 16;", "return 0;");
    let two = versions::built(&folder, "2.0.0", &[blind], &["http_client"]);
    let mut data_path = world.open();
    data_path.allow_http(true).unwrap();
    let web = world::service("web", WEB, "protocol: http,", &[server.address]);
    apply(&mut data_path, &snapshot(&web));
    let endpoint = data_path.endpoints(data_path.service_id("web").unwrap())[0].id;
    let mut proxy = Proxy::start(&world);
    proxy.warm(endpoint, server.address, 4);
    let below = Below::new(&world);
    let scope = Scope { cgroup: Some(below.0.clone()), share: 0 };
    // What was counted before a trial is none of it.
    Client::connect(WEB).ask("BREW /pot HTTP/1.1\r\nHost: web\r\nContent-Length: 0\r\n\r\n");
    data_path.try_out(&two, &scope, None).unwrap_or_else(|error| panic!("{error}"));
    assert_eq!(data_path.trial().unwrap().unwrap().reasons, []);
    let (mut old, mut new) = (Client::connect(WEB), below.inside(&world, || Client::connect(WEB)));
    for _ in 0..20 {
        old.ask(&get("/answer"));
    }
    old.ask("BREW /pot HTTP/1.1\r\nHost: web\r\nContent-Length: 0\r\n\r\n");
    new.ask(&get("/answer"));
    let empty = world::service("empty", "127.77.0.8:80", "", &[]);
    apply(&mut data_path, &snapshot(&(web + &empty)));
    let counts = |data_path: &DataPath, reason: &str| {
        let trial = data_path.trial().unwrap().expect("a version is on trial");
        let found = trial.reasons.iter().find(|counts| counts.reason == reason);
        found.map(|counts| (counts.instead, counts.old, counts.new))
    };
    assert_eq!(counts(&data_path, "method"), Some((Instead::FellBack, Some(1), Some(1))));
    let _ = below.inside(&world, || TcpStream::connect("127.77.0.8:80").unwrap_err());
    assert_eq!(counts(&data_path, "no-endpoint"), Some((Instead::Refused, Some(0), Some(1))));
    // In force, it goes on counting for itself; the next trial begins at nothing again.
    data_path.promote().unwrap();
    let one = Bundle::embedded().unwrap();
    data_path.try_out(&one, &scope, None).unwrap();
    assert_eq!(data_path.trial().unwrap().unwrap().reasons, []);
    Client::connect(WEB).ask(&get("/answer"));
    assert_eq!(counts(&data_path, "method"), Some((Instead::FellBack, Some(1), Some(0))));
    data_path.abort().unwrap();
    let left: Vec<_> =
        world.pins().into_iter().filter(|pin| pin.to_string_lossy().contains("canary_")).collect();
    assert!(left.is_empty(), "{left:?}");
}

#[test]
fn a_header_that_is_just_so_is_routed_by_the_kernel() {
    let world = World::new("http-headers");
    let (one, two) = (Server::start("one"), Server::start("two"));
    let mut data_path = world.open();
    data_path.allow_http(true).unwrap();
    let routes = "routes: [{match: {path: /api, headers: {x-beta: '1'}}, to: beta}, {match: /}],";
    let services = world::service("web", WEB, &format!("protocol: http, {routes}"), &[one.address])
        + &world::service("beta", "127.77.7.2:80", "protocol: http,", &[two.address]);
    apply(&mut data_path, &snapshot(&services));
    let mut proxy = Proxy::start(&world);
    for (name, server) in [("web", &one), ("beta", &two)] {
        let endpoint = data_path.endpoints(data_path.service_id(name).unwrap())[0].id;
        proxy.warm(endpoint, server.address, 2);
    }
    let mut client = Client::connect(WEB);
    let ask = |client: &mut Client, path: &str, fields: &str| {
        let answer = client.ask(&format!("GET {path} HTTP/1.1\r\nHost: web\r\n{fields}\r\n"));
        answer.split(' ').next().unwrap_or_default().to_owned()
    };
    let answers = [
        ("/api/x", "", "one"),
        ("/api/x", "x-beta: 1\r\n", "two"),
        ("/api/x", "Accept: */*\r\nX-BETA:\t1 \r\nUser-Agent: test\r\n", "two"),
        ("/api/x", "X-Beta: 2\r\n", "one"),
        ("/api/x", "X-Beta: 11\r\n", "one"),
        ("/api/x", "X-Betas: 1\r\n", "one"),
        ("/api/x", "X-Beta:\r\n", "one"),
        ("/x", "X-Beta: 1\r\n", "one"),
        // No route looks at it here.
        ("/x", "X-Beta: 1\r\nX-Beta: 1\r\n", "one"),
    ];
    for (path, fields, expected) in answers {
        assert_eq!(ask(&mut client, path, fields), expected, "{path} {fields:?}");
    }
    assert_eq!(proxy.passed(), Vec::<&str>::new(), "nothing reached the proxy");
    // Values of two are joined, and of so many blanks the kernel does not read all.
    for fields in ["x-beta: 1\r\nx-beta: 1\r\n", "x-beta:      1\r\n"] {
        assert_eq!(ask(&mut Client::connect(WEB), "/api/x", fields), "proxy", "{fields:?}");
    }
    assert_eq!(proxy.passed(), ["route"; 2]);
}

#[test]
fn who_has_ended_a_connection_is_not_asked_over_it_again() {
    let world = World::new("http-ended");
    let (_server, _data_path, proxy, endpoint) = routed(&world, 4);
    let mut client = Client::connect(WEB);
    let dead = |proxy: &Proxy| {
        let router = proxy.router.lock().unwrap();
        proxy.back.iter().filter(|(slot, _)| router.state(*slot).dead).count()
    };
    for turn in 1..=3 {
        assert_eq!(client.ask(&get("/last")), "one /last 0");
        // The proxy does nothing here: it is the end itself that takes the connection out of use.
        world::eventually("a slot dies with its connection", || dead(&proxy) == turn);
        assert_eq!(client.ask(&get("/on")), "one /on 0", "another connection is taken");
    }
    assert_eq!(proxy.passed(), Vec::<&str>::new(), "nothing reached the proxy");
    let mut router = proxy.router.lock().unwrap();
    // Each number comes back once, whoever saw the end first.
    assert!(proxy.back.iter().all(|(slot, _)| router.retire(*slot).is_none()));
    let mut numbers: Vec<Slot> =
        std::iter::from_fn(|| router.reserve(proxy.netns, endpoint).unwrap()).take(100_000).collect();
    let all = numbers.len();
    numbers.sort_unstable_by_key(|slot| slot.number());
    numbers.dedup_by_key(|slot| slot.number());
    assert_eq!(numbers.len(), all);
}

#[test]
fn a_successor_takes_over_and_what_is_lent_is_finished_and_not_lent_again() {
    let world = World::new("http-successor");
    let (server, _data_path, mut proxy, endpoint) = routed(&world, 3);
    let mut early = Client::connect(WEB);
    let body = "b".repeat(1000);
    early.send("POST /early HTTP/1.1\r\nHost: web\r\nContent-Length: 1000\r\n\r\n");
    early.send(&body[..600]);

    let (old, mut backs) = proxy.succeed(&world);
    let mut old = old.lock().unwrap();
    assert_eq!(old.reserve(proxy.netns, endpoint).unwrap(), None, "the successor gives numbers out");
    let (lent, idle): (Vec<_>, Vec<_>) =
        backs.drain(..).partition(|(slot, _)| old.state(*slot).lent.is_some());
    assert_eq!((lent.len(), idle.len()), (1, 2));
    assert!(idle.iter().all(|(slot, _)| old.state(*slot).dead), "nobody is lent what goes away");
    proxy.warm(endpoint, server.address, 4);

    let mut late = Client::connect(WEB);
    assert_eq!(late.ask(&get("/late")), "one /late 0");
    early.send(&body[600..]);
    assert_eq!(early.hear(), "one /early 1000");
    let state = old.state(lent[0].0).lent.expect("it is not put back");
    assert!(!state.busy && !state.open);
    // Whatever the old one does to what it had, also to numbers that are the successor's by now.
    for (slot, _) in lent.iter().chain(&idle) {
        old.retire(*slot);
        assert!(!old.finish(*slot) && old.state(*slot).lent.is_none());
    }
    drop((lent, idle));
    for turn in 0..20 {
        let client = if turn % 2 == 0 { &mut early } else { &mut late };
        assert_eq!(client.ask(&get("/on")), "one /on 0");
    }
    let router = proxy.router.lock().unwrap();
    let served: u64 = proxy.back.iter().map(|(slot, _)| router.state(*slot).used).sum();
    assert_eq!((served, server.served()), (21, 22));
    assert_eq!(proxy.passed(), Vec::<&str>::new(), "nothing reached the proxy");
}

#[test]
fn whose_proxy_ends_while_it_finishes_is_to_be_told_once() {
    let world = World::new("http-abandon");
    let (_server, data_path, mut proxy, endpoint) = routed(&world, 2);
    let mut early = Client::connect(WEB);
    early.send("POST /early HTTP/1.1\r\nHost: web\r\nContent-Length: 1000\r\n\r\nbbb");
    let (old, backs) = proxy.succeed(&world);
    let mut router = proxy.router.lock().unwrap();
    let told: Vec<(Lent, bool)> = backs.iter().filter_map(|(slot, _)| router.abandon_slot(*slot)).collect();
    assert!(matches!(told[..], [(Lent { busy: true, open: true, .. }, false)]), "{told:?}");
    assert!(backs.iter().all(|(slot, _)| router.abandon_slot(*slot).is_none()), "once");
    assert_eq!(data_path.http_outstanding().unwrap(), (0, 0));
    router.tidy();
    let numbers = std::iter::from_fn(|| router.reserve(proxy.netns, endpoint).unwrap()).map(Slot::number);
    let mut numbers: Vec<u32> = numbers.collect();
    let all = numbers.len();
    numbers.sort_unstable();
    numbers.dedup();
    assert_eq!(numbers.len(), all, "each number is given out once");
    drop(old);
}

#[test]
fn connections_that_were_kept_outlive_the_proxy_that_made_them() {
    let world = World::new("http-kept");
    let (server, data_path, mut proxy, endpoint) = routed(&world, 3);
    let mut early = Client::connect(WEB);
    early.send("POST /early HTTP/1.1\r\nHost: web\r\nContent-Length: 10\r\n\r\n12345");
    let (lost, kept) = proxy.back.split_at(1);
    let is_lent = |slot: Slot| proxy.router.lock().unwrap().state(slot).lent.is_some();
    assert!(
        !is_lent(lost[0].0) && kept.iter().any(|(slot, _)| is_lent(*slot)),
        "the last made is lent first"
    );
    let (lost, kept): (Slot, Vec<Slot>) = (lost[0].0, kept.iter().map(|(slot, _)| *slot).collect());

    // As one that is killed: it says nothing more, and others have its connections.
    let options =
        RouterOptions { instance: world.options.instance.clone(), bpffs: world.options.bpffs.clone() };
    let mut next = Router::open(&options).unwrap_or_else(|error| panic!("{error}"));
    next.take_over(Predecessor::Gone, &kept.iter().copied().collect()).unwrap();
    assert!(next.state(lost).dead && kept.iter().all(|slot| !next.state(*slot).dead));
    assert_eq!(next.abandon(), [], "the one that is lent was kept");
    proxy.router = Arc::new(Mutex::new(next));
    early.send("67890");
    assert_eq!(early.hear(), "one /early 10");
    for turn in 0..4 {
        assert_eq!(early.ask(&get(&format!("/{turn}"))), format!("one /{turn} 0"));
    }
    assert_eq!((server.served(), data_path.http_outstanding().unwrap()), (5, (0, 0)));

    // And once more, with nothing kept: the lent one is nobody's.
    early.send("POST /late HTTP/1.1\r\nHost: web\r\nContent-Length: 10\r\n\r\n12345");
    let mut next = Router::open(&options).unwrap_or_else(|error| panic!("{error}"));
    next.take_over(Predecessor::Gone, &Default::default()).unwrap();
    assert!(next.reserve(proxy.netns, endpoint).unwrap().is_some());
    let abandoned = next.abandon();
    assert!(matches!(abandoned[..], [(Lent { busy: true, open: true, .. }, false)]), "{abandoned:?}");
    assert_eq!((next.abandon(), data_path.http_outstanding().unwrap()), (vec![], (0, 0)));
    let mut numbers: Vec<u32> =
        std::iter::from_fn(|| next.reserve(proxy.netns, endpoint).unwrap()).map(Slot::number).collect();
    let all = numbers.len();
    numbers.sort_unstable();
    numbers.dedup();
    assert_eq!(numbers.len(), all, "each number is given out once");
}

#[test]
fn numbers_of_pools_that_nobody_uses_come_back() {
    const OTHERS: u64 = 1 << 40;
    let world = World::new("http-pools");
    let (_server, _data_path, proxy, endpoint) = routed(&world, 1);
    let nowhere = "127.77.7.9:9".parse().unwrap();
    let mut router = proxy.router.lock().unwrap();
    // More than twice as many namespaces as there are pools, ten at a time.
    for number in 0..20_000 {
        let netns = OTHERS + number;
        router.reclaim(|of, _| of == proxy.netns || of + 10 > netns).unwrap();
        let slot = router.reserve(netns, endpoint).unwrap_or_else(|error| panic!("pool {number}: {error}"));
        router.release(slot.expect("slots are left"), nowhere, nowhere);
    }
    drop(router);
    let mut client = Client::connect(WEB);
    assert_eq!(client.ask(&get("/still")), "one /still 0", "the pool that is used stays");
}

/// Other programs, and tables of another layout, go on with the buckets and the bounds that there are, there and back.
#[test]
fn limits_hold_while_versions_change() {
    let world = World::new("http-limits");
    let folder = versions::Folder::new("http-limits");
    let grown = (
        "http/abi.h",
        "; 0: any number */\n\t__u32 zero;",
        "; 0: any number */\n\t__u32 zero;\n\t__u64 not_yet_used;",
    );
    let two = versions::built(&folder, "2.0.0", &[grown], &["http_client"]);
    let one = alize_datapath::bundle::Bundle::embedded().unwrap();
    let (server, mut data_path, mut proxy, endpoint) = routed(&world, 1);
    let bounds = "http: {rate-limit: {requests: 1, burst: 9}, circuit: {max-requests: 3}},";
    apply(&mut data_path, &web_service(bounds, &[server.address]));
    proxy.warm(endpoint, server.address, 3);
    let begun = std::time::Instant::now();
    let mut client = Client::connect(WEB);
    let ask = |client: &mut Client| client.ask(&get("/a")).starts_with("one");
    let mut taken = 0;
    for bundle in [&two, &one, &two] {
        taken += (0..2).filter(|_| ask(&mut client)).count();
        let upgraded = data_path.upgrade(bundle, None).unwrap_or_else(|error| panic!("{error}"));
        assert!(upgraded.steps[0].done.contains("http_groups"), "{upgraded:?}");
    }
    assert_eq!(taken, 6, "within the burst");
    taken += (0..20)
        .filter(|_| {
            // The proxy says that the connection is at rest when it has answered, which may be after the answer is here.
            thread::sleep(Duration::from_millis(5));
            ask(&mut client)
        })
        .count();
    let most = 9 + begun.elapsed().as_secs() as usize;
    assert!((9..=most).contains(&taken), "{taken} of {most}");
    assert_eq!(server.served(), taken as u64);
    // Who asks again at once may be faster than the proxy, which says that the connection is at rest.
    let over = |reason: &&&str| **reason == "rate-limited";
    let passed = proxy.passed();
    assert!(passed.iter().filter(over).count() > 4, "{passed:?}");
    assert!(passed.iter().all(|reason| ["rate-limited", "unread"].contains(reason)), "{passed:?}");
    // The circuit: as many slow ones as may be at once, and one more.
    thread::sleep(Duration::from_secs(5));
    let mut slow: Vec<Client> = (0..3).map(|_| Client::connect(WEB)).collect();
    slow.iter_mut().for_each(|client| client.send(&get("/slow")));
    thread::sleep(Duration::from_millis(300));
    assert!(!ask(&mut Client::connect(WEB)), "the proxy's");
    assert_eq!(proxy.passed().last(), Some(&"circuit-open"), "{:?}", proxy.passed());
    assert!(slow.iter_mut().all(|client| client.hear().starts_with("one /slow")));
    assert_eq!(data_path.http_outstanding().unwrap(), (0, 0), "every slot was given back");
}
