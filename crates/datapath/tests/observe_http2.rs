//! HTTP/2 and gRPC as the kernel sees them and user space decodes them, against what real servers have written in their
//! logs.
//!
//! Needs root, nginx, curl, h2load, nghttpx and the gRPC of Debian's python3.

mod http;
mod world;

use std::fs;
use std::net::TcpStream;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use alize_datapath::observe::{Event, Filter, Method, Observer, Protocol};
use http::{Counts, Server, free_address, nginx_with, open, open_with_room, run, traced};
use world::{World, eventually};

/// Runs a client to its end while what it causes is taken over.
fn run_and_poll(observer: &mut Observer, program: &str, arguments: &[&str]) {
    let child = Command::new(program).args(arguments).stdout(Stdio::null()).stderr(Stdio::null()).spawn();
    let mut child: Child = child.unwrap_or_else(|error| panic!("{program}: {error}"));
    let status = loop {
        traced(observer);
        match child.try_wait().unwrap() {
            Some(status) => break status,
            None => std::thread::sleep(Duration::from_millis(5)),
        }
    };
    // nginx resets the stream of a request whose body it does not want, which curl takes for an error.
    let reset = program == "curl" && status.code() == Some(92);
    assert!(status.success() || reset, "{program} {arguments:?}: {status}");
}

fn no_loss(observer: &Observer) {
    let tallies = observer.tallies().unwrap();
    for name in
        ["http2-lost", "http2-gap", "http2-frame", "http2-undecoded", "http2-unpaired", "http2-joined"]
    {
        assert_eq!(tallies.get(name), Some(0), "{name}: {tallies:?}");
    }
    assert_eq!(tallies.unfollowed.iter().map(|(_, count)| count).sum::<u64>(), 0, "{tallies:?}");
}

#[test]
fn counts_what_nginx_logs_of_http2() {
    let world = World::new("observe-http2");
    let mut observer = open_with_room(&world);
    let server = nginx_with("http2", "http2");
    let url = |path: &str| format!("http://{}{path}", server.address);
    for _ in 0..3 {
        run_and_poll(&mut observer, "h2load", &["-n20000", "-c10", "-m20", "-t1", &url("/answer/many")]);
        run_and_poll(&mut observer, "h2load", &["-n500", "-c5", "-m4", &url("/large"), &url("/missing")]);
    }
    for path in ["/", "/answer/7?x=1", "/broken", "/missing"] {
        let curl = ["-s", "--http2-prior-knowledge", "-o/dev/null", "-d", "GET /fool HTTP/1.1"];
        run_and_poll(&mut observer, "curl", &[&curl[..], &[&url(path)]].concat());
        run_and_poll(&mut observer, "curl", &["-s", "--http2-prior-knowledge", "-I", &url(path)]);
    }
    // /answer/7 is folded.
    let mut logged = server.logged();
    let renamed: Vec<_> = logged.keys().filter(|line| line.contains("/answer/7")).cloned().collect();
    assert_eq!(renamed.len(), 2, "{logged:?}");
    for line in renamed {
        let count = logged.remove(&line).unwrap();
        logged.insert(line.replace("/answer/7?x=1", "/answer/{n}"), count);
    }
    let mut counted = Counts::new();
    let deadline = Instant::now() + Duration::from_secs(10);
    while counted != logged && Instant::now() < deadline {
        traced(&mut observer);
        counted = http::counted(&observer, server.address);
    }
    assert_eq!(counted, logged, "{:?}", observer.tallies());
    assert!(logged.values().sum::<u64>() >= 61_500, "{logged:?}");
    no_loss(&observer);
    assert_eq!(observer.tallies().unwrap().get("http2-followed"), Some(3 * 15 + 8));
}

#[test]
fn a_request_of_http2_is_traced_with_both_ends() {
    let world = World::new("observe-http2-trace");
    let mut observer = open(&world);
    let server = nginx_with("http2-trace", "http2");
    let all = observer.start_trace(&Filter::default()).unwrap();
    let failed = Filter { status: Some((500, 599)), methods: vec![Method::Get], ..Filter::default() };
    let failed = observer.start_trace(&failed).unwrap();
    let url = |path: &str| format!("http://{}{path}", server.address);
    run("nghttp", &["-n", &url("/answer?x"), &url("/broken")]);
    let mut requests = Vec::new();
    eventually("both are traced", || {
        observer
            .poll(&mut |event| {
                let event = event.unwrap();
                let wanted = (all.wants(&event), failed.wants(&event));
                let Event::Request(request) = event else { panic!("{event:?}") };
                requests.push((request, wanted));
            })
            .unwrap();
        requests.len() == 2
    });
    requests.sort_by_key(|(request, _)| request.started);
    let (answer, wanted) = &requests[0];
    assert_eq!((answer.target.as_str(), answer.status, *wanted), ("/answer?x", Some(200), (true, false)));
    assert_eq!((answer.protocol, answer.host.clone()), (Protocol::Http2, server.address.to_string()));
    assert_eq!(answer.client.as_ref().unwrap().comm, "nghttp");
    assert_eq!(answer.server.as_ref().unwrap().comm, "nginx");
    assert_eq!(answer.server_address, server.address);
    assert!(answer.first_byte.unwrap() <= answer.latency && answer.latency < Duration::from_secs(5));
    assert!(answer.response_bytes > 10 && !answer.partial);
    let (broken, wanted) = &requests[1];
    assert_eq!((broken.status, *wanted), (Some(503), (true, true)));
    assert!(answer.reused != broken.reused && answer.client_address == broken.client_address);
    assert_eq!(observer.failed().unwrap()[0].target, "/broken");
}

/// The client comes through a proxy that was there before anybody observed: of its connection to the server the table of
/// fields is not known, and what refers to it is said to be partial.
#[test]
fn a_connection_joined_late_shows_what_it_can() {
    let world = World::new("observe-http2-late");
    let server = nginx_with("http2-late", "http2");
    let proxy = free_address();
    let mut nghttpx = Command::new("nghttpx")
        .arg(format!("-f{},{};no-tls", proxy.ip(), proxy.port()))
        .arg(format!("-b{},{};/;proto=h2", server.address.ip(), server.address.port()))
        .args(["--conf=/dev/null", "--workers=1"])
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .spawn()
        .expect("nghttpx is installed");
    eventually("nghttpx listens", || TcpStream::connect(proxy).is_ok());
    let url = |path: &str| format!("http://{proxy}{path}");
    let fetch = |path: &str| run("curl", &["-s", "-o/dev/null", &url(path)]);
    fetch("/answer/before");
    fetch("/answer/before");
    let mut observer = open(&world);
    let all = observer.start_trace(&Filter::default()).unwrap();
    for path in ["/answer/before", "/answer/new", "/answer/new", "/answer/other"] {
        fetch(path);
    }
    let mut requests = Vec::new();
    eventually("all four are traced at the server", || {
        observer
            .poll(&mut |event| {
                let event = event.unwrap();
                assert!(all.wants(&event));
                let Event::Request(request) = event else { panic!("{event:?}") };
                if request.server_address == server.address {
                    requests.push(request);
                }
            })
            .unwrap();
        requests.len() == 4
    });
    nghttpx.kill().unwrap();
    nghttpx.wait().unwrap();
    assert!(
        requests.iter().all(|request| request.protocol == Protocol::Http2 && request.status == Some(200))
    );
    assert!(requests[0].partial, "{requests:?}");
    let new: Vec<&str> = requests[1..].iter().map(|request| request.target.as_str()).collect();
    assert_eq!(new, ["/answer/new", "/answer/new", "/answer/other"]);
    let tallies = observer.tallies().unwrap();
    assert_eq!((tallies.get("http2-joined"), tallies.get("http2-frame")), (Some(1), Some(0)), "{tallies:?}");
}

/// A server of two methods without generated code, that logs each call when it ends.
const GRPC_SERVER: &str = r#"
import sys, grpc
from concurrent import futures
log = open(sys.argv[2], "a")
def told(method, code):
    log.write("POST /shop.Orders/%s %s\n" % (method, code)); log.flush()
def get(request, context):
    if request == b"none":
        told("Get", "NOT_FOUND")
        context.abort(grpc.StatusCode.NOT_FOUND, "no such order")
    told("Get", "OK")
    return request * 3
def watch(request, context):
    for n in range(5):
        yield request * 1000
    told("Watch", "OK")
def broken(request, context):
    told("Broken", "UNKNOWN")
    raise RuntimeError("on purpose")
handlers = {"Get": grpc.unary_unary_rpc_method_handler(get), "Watch": grpc.unary_stream_rpc_method_handler(watch),
            "Broken": grpc.unary_unary_rpc_method_handler(broken)}
server = grpc.server(futures.ThreadPoolExecutor(4))
server.add_generic_rpc_handlers((grpc.method_handlers_generic_handler("shop.Orders", handlers),))
server.add_insecure_port("127.0.0.1:" + sys.argv[1])
server.start()
server.wait_for_termination()
"#;

const GRPC_CLIENT: &str = r#"
import sys, grpc
for round in range(4):
    with grpc.insecure_channel("127.0.0.1:" + sys.argv[1]) as channel:
        get, watch = channel.unary_unary("/shop.Orders/Get"), channel.unary_stream("/shop.Orders/Watch")
        broken = channel.unary_unary("/shop.Orders/Broken")
        for n in range(100):
            assert get(b"x%d" % n, metadata=(("traceparent", "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"),))
            for call, request in ((get, b"none"), (broken, b"")):
                try:
                    call(request)
                    sys.exit("no error")
                except grpc.RpcError:
                    pass
        assert len(list(watch(b"y"))) == 5
        futures = [get.future(b"z") for _ in range(50)]
        [future.result() for future in futures]
"#;

#[test]
fn calls_of_grpc_are_what_its_server_logs() {
    let world = World::new("observe-grpc");
    let mut observer = open(&world);
    let address = free_address();
    let folder = std::env::temp_dir().join(format!("observe-grpc-{}", std::process::id()));
    fs::create_dir_all(&folder).unwrap();
    fs::write(folder.join("server.py"), GRPC_SERVER).unwrap();
    fs::write(folder.join("client.py"), GRPC_CLIENT).unwrap();
    let process = Command::new("/usr/bin/python3")
        .arg(folder.join("server.py"))
        .arg(address.port().to_string())
        .arg(folder.join("access.log"))
        .stderr(Stdio::null())
        .spawn()
        .expect("python3 is installed");
    let server = Server { process, address, folder };
    eventually("the server listens", || TcpStream::connect(address).is_ok());
    let all = observer.start_trace(&Filter::default()).unwrap();
    let client = Command::new("/usr/bin/python3")
        .arg(server.folder.join("client.py"))
        .arg(address.port().to_string())
        .status()
        .unwrap();
    assert!(client.success());
    let mut calls = Counts::new();
    let mut requests = Vec::new();
    eventually("all calls are traced", || {
        for request in traced(&mut observer) {
            assert!(all.wants(&Event::Request(request.clone())));
            let grpc = request.grpc.clone().expect("nothing but gRPC is spoken");
            assert_eq!(grpc.service, "shop.Orders");
            assert_eq!((request.status, request.partial), (Some(200), false));
            let status = grpc.status_name().expect("each call has a status");
            *calls.entry(format!("{} /shop.Orders/{} {status}", request.method, grpc.method)).or_default() +=
                1;
            requests.push(request);
        }
        calls == server.logged()
    });
    assert_eq!(calls.values().sum::<u64>(), 4 * (300 + 1 + 50));
    let watch = requests.iter().find(|request| request.target.ends_with("Watch")).unwrap();
    assert!(watch.response_bytes > 5000, "{watch:?}");
    let parents = requests.iter().filter_map(|request| request.trace_parent.as_deref());
    assert_eq!(parents.filter(|parent| parent.ends_with("-01")).count(), 400);
    let unknown: Vec<_> =
        requests.iter().filter(|request| request.client.is_none() || request.server.is_none()).collect();
    assert!(unknown.is_empty(), "{unknown:?} {:?}", observer.tallies());
    no_loss(&observer);
}
