//! Plaintext of TLS as the probes see it, against what real servers have written in their logs.
//!
//! Needs root, openssl, nginx, curl, h2load, nghttpx, wget, wrk, haproxy, gnutls-serv, node and python3. docs/guide/tls.md says which of them is seen how.

mod http;
mod tls;
mod world;

use std::fs;
use std::net::SocketAddr;
use std::process::{Child, Command, Stdio};

use alize_datapath::observe::tls::{Change, Family};
use alize_datapath::observe::{Filter, Observer, PathLabel, Protocol, Request, Side, Tallies};
use http::{counted, counts_agree, free_address, open, open_with_room, run, traced};
use tls::{Certificate, all_http2_was_read, count_is, curl, outside};
use world::{World, eventually};

/// Probes are where they are needed, and nothing was refused.
fn watch(observer: &mut Observer, server: SocketAddr) {
    let changes = observer.watch_tls(&[server]).unwrap_or_else(|error| panic!("{error}"));
    let found: Vec<_> = changes
        .iter()
        .filter_map(|change| match change {
            Change::Found(probed) if probed.library.family == Family::OpenSsl => Some(probed),
            _ => None,
        })
        .collect();
    assert!(!found.is_empty(), "{changes:?}");
    assert!(found.iter().all(|probed| probed.refused.is_none()), "{found:?}");
}

#[test]
fn counts_what_nginx_logs_of_curl_python_and_wrk() {
    let world = World::new("observe-tls");
    let mut observer = open(&world);
    let certificate = Certificate::new("counts");
    let server = certificate.nginx("tls-counts");
    watch(&mut observer, server.address);
    let base = format!("https://{}", server.address);
    let curl = |paths: &[&str]| {
        let urls: Vec<String> = paths.iter().map(|path| format!("{base}{path}")).collect();
        let mut arguments = vec!["--http1.1", "-sS", "-k", "-o", "/dev/null"];
        for url in &urls {
            arguments.extend(["-o", "/dev/null", url.as_str()]);
        }
        run("curl", &arguments);
    };
    for _ in 0..20 {
        curl(&["/", "/answer/one", "/missing"]);
    }
    let client = format!(
        "import ssl, http.client\n\
         context = ssl._create_unverified_context()\n\
         c = http.client.HTTPSConnection('{}', context=context)\n\
         for i in range(500):\n\
         \x20   c.request('POST' if i % 2 else 'GET', '/answer/many', body=b'GET / HTTP/1.1\\r\\n\\r\\n' * (i % 2))\n\
         \x20   assert c.getresponse().read()\n\
         for i in range(100):\n\
         \x20   c = http.client.HTTPSConnection('{}', context=context)\n\
         \x20   c.request('GET', '/large'); assert len(c.getresponse().read()) == 360000; c.close()\n",
        server.address, server.address
    );
    run("/usr/bin/python3", &["-c", &client]);
    counts_agree(&observer, &server, 0);
    run("wrk", &["-t2", "-c16", "-d2", &format!("{base}/answer/wrk")]);
    counts_agree(&observer, &server, 16);
    let counted = counted(&observer, server.address);
    assert_eq!((counted["GET / 200"], counted["GET /missing 404"]), (20, 20), "{counted:?}");
    assert_eq!((counted["GET /answer/many 200"], counted["POST /answer/many 200"]), (250, 250));
    assert_eq!(counted["GET /large 200"], 100);
    let tallies = observer.tallies().unwrap();
    assert!(tallies.get("tls-session") > Some(100), "{tallies:?}");
    assert_eq!(
        tallies.get("tls-session"),
        tallies.get("tls-peer"),
        "the clients' ends tell of all: {tallies:?}"
    );
}

/// A server that a script is, with `ADDRESS`, `CERTIFICATE` and `KEY` in its environment.
fn script(certificate: &Certificate, address: SocketAddr, program: &str, arguments: &[&str]) -> Script {
    let process = Command::new(program)
        .args(arguments)
        .env("ADDRESS", address.to_string())
        .env("PORT", address.port().to_string())
        .env("CERTIFICATE", certificate.path("crt"))
        .env("KEY", certificate.path("key"))
        .env("LD_LIBRARY_PATH", &certificate.folder)
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .spawn();
    let script = Script(process.unwrap_or_else(|error| panic!("{program}: {error}")));
    eventually("the server listens", || std::net::TcpStream::connect(address).is_ok());
    script
}

struct Script(Child);

impl Drop for Script {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

const PYTHON_SERVER: &str = "
import os, ssl, http.server, socketserver
class Answer(http.server.BaseHTTPRequestHandler):
    protocol_version = 'HTTP/1.1'
    def do_GET(self):
        self.send_response(200)
        self.send_header('Content-Length', '2')
        self.end_headers()
        self.wfile.write(b'ok')
class Server(socketserver.ThreadingMixIn, http.server.HTTPServer):
    daemon_threads = True
server = Server(('127.0.0.1', int(os.environ['PORT'])), Answer)
context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
context.load_cert_chain(os.environ['CERTIFICATE'], os.environ['KEY'])
server.socket = context.wrap_socket(server.socket, server_side=True)
server.serve_forever()
";

const ASYNCIO_SERVER: &str = "
import asyncio, os, ssl
async def answer(reader, writer):
    try:
        while await reader.readuntil(b'\\r\\n\\r\\n'):
            writer.write(b'HTTP/1.1 200 OK\\r\\nContent-Length: 2\\r\\n\\r\\nok')
            await writer.drain()
    except Exception:
        writer.close()
async def main():
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(os.environ['CERTIFICATE'], os.environ['KEY'])
    server = await asyncio.start_server(answer, '127.0.0.1', int(os.environ['PORT']), ssl=context)
    await server.serve_forever()
asyncio.run(main())
";

const NODE_SERVER: &str = "
const fs = require('fs');
const options = {key: fs.readFileSync(process.env.KEY), cert: fs.readFileSync(process.env.CERTIFICATE)};
require('https').createServer(options, (request, response) => response.end('ok')).listen(process.env.PORT, '127.0.0.1');
";

/// `clients` connections at a time with `requests` requests each.
const NODE_CLIENT: &str = "
const https = require('https');
const [port, clients, requests] = process.argv.slice(1).map(Number);
for (let client = 0; client < clients; client++) {
    const agent = new https.Agent({keepAlive: true, maxSockets: 1, rejectUnauthorized: false});
    let left = requests;
    const next = () => https.get({host: '127.0.0.1', port, path: '/node', agent}, response => {
        response.resume();
        response.on('end', () => --left ? next() : agent.destroy());
    });
    next();
}
";

#[test]
fn a_request_is_traced_with_both_its_processes_and_no_more_of_it_than_a_plain_one() {
    let world = World::new("observe-tls-trace");
    let mut observer = open(&world);
    let certificate = Certificate::new("trace");
    let server = certificate.nginx("tls-trace");
    watch(&mut observer, server.address);
    let filter = Filter { path_prefix: "/answer".into(), ..Filter::default() };
    let trace = observer.start_trace(&filter).unwrap();
    curl(server.address, "/answer/traced?of=secret", 2);
    curl(server.address, "/missing", 1);
    let mut requests: Vec<Request> = Vec::new();
    eventually("both are traced", || {
        requests.extend(traced(&mut observer));
        requests.len() == 2
    });
    observer.stop_trace(trace).unwrap();
    let request = &requests[1];
    assert_eq!((request.path_label, request.side, request.status), (PathLabel::Tls, Side::Client, Some(200)));
    assert_eq!(
        (request.target.as_str(), request.host.as_str()),
        ("/answer/traced?of=secret", server.address.to_string().as_str())
    );
    assert_eq!((requests[0].reused, request.reused), (false, true));
    assert!(request.response_bytes > 10 && request.request_bytes > 40, "{request:?}");
    assert_eq!(request.server_address, server.address);
    let comm = |identity: &Option<alize_datapath::observe::Identity>| {
        identity.as_ref().map(|found| found.comm.clone())
    };
    assert_eq!(
        (comm(&request.client).as_deref(), comm(&request.server).as_deref()),
        (Some("curl"), Some("nginx"))
    );
    let (first, whole) = (request.first_byte.unwrap(), request.latency);
    assert!(first > std::time::Duration::ZERO && first <= whole, "{first:?} {whole:?}");
}

#[test]
fn clients_with_gnutls_are_seen() {
    let world = World::new("observe-tls-gnutls");
    let mut observer = open(&world);
    let certificate = Certificate::new("gnutls");
    let server = certificate.nginx("tls-gnutls");
    let changes = observer.watch_tls(&[server.address]).unwrap();
    let gnutls = |change: &Change| matches!(change, Change::Found(probed) if probed.library.family == Family::GnuTls && probed.refused.is_none());
    assert!(changes.iter().any(gnutls), "{changes:?}");
    let (one, large) =
        (format!("https://{}/answer/wget", server.address), format!("https://{}/large", server.address));
    for _ in 0..20 {
        run("wget", &["-q", "--no-check-certificate", "-O", "/dev/null", &one, &large, &one]);
    }
    counts_agree(&observer, &server, 0);
    let of_clients = observer.tallies().unwrap();
    assert_eq!(of_clients.get("tls-peer"), Some(20), "wget tells of all, nginx of none: {of_clients:?}");
}

#[test]
fn servers_of_every_kind_are_seen_whoever_asks_them() {
    let world = World::new("observe-tls-servers");
    let mut observer = open(&world);
    let certificate = Certificate::new("servers");
    let haproxy = certificate.folder.join("haproxy.cfg");
    let together =
        [certificate.path("crt"), certificate.path("key")].map(|path| fs::read_to_string(path).unwrap());
    fs::write(certificate.path("pem"), together.concat()).unwrap();
    let address = free_address();
    let configuration = format!(
        "global\n nbthread 2\ndefaults\n mode http\n timeout client 9s\n timeout server 9s\n timeout connect 9s\n\
         frontend f\n bind {address} ssl crt {}\n http-request return status 200 content-type text/plain string ok\n",
        certificate.path("pem")
    );
    fs::write(&haproxy, configuration).unwrap();
    let haproxy = haproxy.to_string_lossy().into_owned();
    let gnutls = free_address();
    let (port, key, cert) = (gnutls.port().to_string(), certificate.path("key"), certificate.path("crt"));
    let kinds: [(&str, Vec<&str>); 5] = [
        (
            "gnutls-serv",
            vec!["--quiet", "--http", "--port", &port, "--x509keyfile", &key, "--x509certfile", &cert],
        ),
        ("/usr/bin/python3", vec!["-c", PYTHON_SERVER]),
        ("/usr/bin/python3", vec!["-c", ASYNCIO_SERVER]),
        ("node", vec!["-e", NODE_SERVER]),
        ("haproxy", vec!["-f", &haproxy]),
    ];
    for (number, (program, arguments)) in kinds.iter().enumerate() {
        let address = match *program {
            "haproxy" => address,
            "gnutls-serv" => gnutls,
            _ => free_address(),
        };
        let _server = script(&certificate, address, program, arguments);
        // Probes come to what has been started since within a second or ten.
        eventually("the server's library is probed", || {
            observer.watch_tls(&[address]).unwrap();
            let name = match *program {
                "node" => "node",
                "gnutls-serv" => "libgnutls",
                _ => "libssl",
            };
            observer.tls_files().any(|probed| probed.name.contains(name) && probed.refused.is_none())
        });
        // At the client's end, whose library tells of it; and at the server's, where nobody else does.
        curl(address, "/kind", 30);
        count_is(&observer, address, "GET /kind 200", 30);
        outside(&world, || (0..10).for_each(|_| curl(address, "/kind", 3)));
        count_is(&observer, address, "GET /kind 200", 60);
        let mut sides = Vec::new();
        observer
            .series(&mut |series| {
                if series.key.destination.address == address {
                    sides.push((series.key.side, series.count));
                }
            })
            .unwrap();
        sides.sort();
        assert_eq!(sides, [(Side::Client, 30), (Side::Server, 30)], "{number} {program}");
    }
}

#[test]
fn node_is_seen_as_a_client_of_many_connections() {
    let world = World::new("observe-tls-node");
    let mut observer = open(&world);
    let certificate = Certificate::new("node");
    let (address, other) = (free_address(), free_address());
    let _server = script(&certificate, address, "node", &["-e", NODE_SERVER]);
    let _python = script(&certificate, other, "/usr/bin/python3", &["-c", PYTHON_SERVER]);
    eventually("node is probed", || {
        observer.watch_tls(&[address, other]).unwrap();
        observer.tls_files().any(|probed| probed.name.contains("node") && probed.refused.is_none())
    });
    run("node", &["-e", NODE_CLIENT, &address.port().to_string(), "20", "50"]);
    count_is(&observer, address, "GET /node 200", 1000);
    run("node", &["-e", NODE_CLIENT, &other.port().to_string(), "20", "50"]);
    count_is(&observer, other, "GET /node 200", 1000);
}

const NODE_HTTP2_SERVER: &str = "
const fs = require('fs');
const options = {key: fs.readFileSync(process.env.KEY), cert: fs.readFileSync(process.env.CERTIFICATE)};
const server = require('http2').createSecureServer(options);
server.on('stream', (stream, headers) => { stream.respond({':status': 200}); stream.end('x'.repeat(100000)); });
server.listen(process.env.PORT, '127.0.0.1');
";

/// `clients` connections with `requests` requests each, ten at a time.
const NODE_HTTP2_CLIENT: &str = "
const http2 = require('http2');
const [port, clients, requests] = process.argv.slice(1).map(Number);
for (let client = 0; client < clients; client++) {
    const session = http2.connect('https://127.0.0.1:' + port, {rejectUnauthorized: false});
    let begun = 0, ended = 0;
    const next = () => {
        if (begun++ >= requests) return;
        const request = session.request({':path': '/node'});
        request.resume();
        request.on('end', () => { if (++ended == requests) session.close(); else next(); });
        request.end();
    };
    for (let i = 0; i < 10; i++) next();
}
";

#[test]
fn http2_of_node_is_counted() {
    let world = World::new("observe-tls-node-http2");
    let mut observer = open(&world);
    let certificate = Certificate::new("node-http2");
    let address = free_address();
    let _server = script(&certificate, address, "node", &["-e", NODE_HTTP2_SERVER]);
    eventually("node is probed", || {
        observer.watch_tls(&[address]).unwrap();
        observer.tls_files().any(|probed| probed.name.contains("node") && probed.refused.is_none())
    });
    run("node", &["-e", NODE_HTTP2_CLIENT, &address.port().to_string(), "10", "100"]);
    outside(&world, || {
        run("h2load", &["-n1000", "-c4", "-m10", "-t1", &format!("https://{address}/node")]);
    });
    eventually("all of it is decoded", || {
        traced(&mut observer);
        counted(&observer, address).get("GET /node 200") == Some(&2000)
    });
    all_http2_was_read(&observer);
}

#[test]
fn a_library_that_is_used_later_is_found_and_left_alone_when_it_is_not() {
    let world = World::new("observe-tls-later");
    let mut observer = open(&world);
    let certificate = Certificate::new("later");
    let address = free_address();
    assert_eq!(
        observer
            .watch_tls(&[address])
            .unwrap()
            .iter()
            .filter(|change| matches!(change, Change::Left(_)))
            .count(),
        0
    );
    // Another file, as in a container.
    fs::copy("/usr/lib/x86_64-linux-gnu/libssl.so.3", certificate.folder.join("libssl.so.3")).unwrap();
    let own = certificate.folder.join("libssl.so.3").to_string_lossy().into_owned();
    let server = script(&certificate, address, "/usr/bin/python3", &["-c", PYTHON_SERVER]);
    let mut changes = Vec::new();
    eventually("the library is found", || {
        changes.extend(observer.watch_tls(&[address]).unwrap());
        changes.iter().any(|change| matches!(change, Change::Found(probed) if probed.name == own))
    });
    outside(&world, || curl(address, "/later", 5));
    count_is(&observer, address, "GET /later 200", 5);
    drop(server);
    eventually("the probes are taken out", || {
        changes.extend(observer.watch_tls(&[address]).unwrap());
        changes.contains(&Change::Left(own.clone()))
    });
    assert!(observer.tls_files().all(|probed| probed.name != own));
}

/// One request a line of its input; answers with a line each.
const KEPT_CLIENT: &str = "
import http.client, ssl, sys
c = http.client.HTTPSConnection(sys.argv[1], context=ssl._create_unverified_context())
for line in sys.stdin:
    c.request('GET', line.strip()); c.getresponse().read(); print('done', flush=True)
";

#[test]
fn a_connection_that_was_there_is_joined_and_switching_off_is_at_once() {
    use std::io::{BufRead, BufReader, Write};
    let world = World::new("observe-tls-joined");
    let mut observer = open(&world);
    let certificate = Certificate::new("joined");
    let server = certificate.nginx("tls-joined");
    let mut client = Command::new("/usr/bin/python3")
        .args(["-c", KEPT_CLIENT, &server.address.to_string()])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let (mut input, mut output) =
        (client.stdin.take().unwrap(), BufReader::new(client.stdout.take().unwrap()));
    let mut ask = |path: &str, times: usize| {
        for _ in 0..times {
            writeln!(input, "{path}").unwrap();
            output.read_line(&mut String::new()).unwrap();
        }
    };
    ask("/answer/before", 3);
    assert!(counted(&observer, server.address).is_empty(), "nothing is looked at that nobody asked for");
    assert_eq!((observer.tls_cost(), observer.tls_files().count()), (None, 0));
    watch(&mut observer, server.address);
    let cost = observer.tls_cost().unwrap();
    let little = std::time::Duration::from_micros(15);
    assert!(cost.call < little && cost.passed < little, "a probe that is emulated costs little: {cost:?}");
    ask("/answer/joined", 11);
    // The first proves that the thread was found, as with plain connections.
    count_is(&observer, server.address, "GET /answer/joined 200", 10);
    let tallies = observer.tallies().unwrap();
    assert_eq!(
        (tallies.get("resynchronised"), tallies.get("tls-session")),
        (Some(1), Some(0)),
        "{tallies:?}"
    );
    observer.watch_tls(&[]).unwrap();
    assert_eq!((observer.tls_cost(), observer.tls_files().count()), (None, 0));
    ask("/answer/joined", 5);
    curl(server.address, "/answer/joined", 5);
    count_is(&observer, server.address, "GET /answer/joined 200", 10);
    watch(&mut observer, server.address);
    curl(server.address, "/answer/joined", 5);
    count_is(&observer, server.address, "GET /answer/joined 200", 15);
    drop(input);
    assert!(client.wait().unwrap().success());
}

#[test]
fn what_is_not_asked_for_is_not_looked_at() {
    let world = World::new("observe-tls-not");
    let mut observer = open(&world);
    let certificate = Certificate::new("not");
    let server = certificate.nginx("tls-not");
    let other = certificate.nginx("tls-other");
    watch(&mut observer, server.address);
    curl(other.address, "/answer", 5);
    assert!(counted(&observer, other.address).is_empty());
    let tallies = observer.tallies().unwrap();
    assert_eq!(
        (tallies.get("tls-session"), tallies.get("request"), tallies.get("not-http")),
        (Some(0), Some(0), Some(0)),
        "{tallies:?}"
    );
    // A process outside is left alone, although the probes are in its library too.
    outside(&world, || curl(other.address, "/answer", 5));
    let after = observer.tallies().unwrap();
    let of_tls =
        |tallies: &Tallies| ["tls-session", "tls-peer", "joined", "request"].map(|name| tallies.get(name));
    assert_eq!(of_tls(&after), of_tls(&tallies), "{after:?}");
    assert!(counted(&observer, other.address).is_empty());
}

/// The client's end tells of its own requests; of those whose client nobody observes, the server's does.
#[test]
fn http2_within_tls_is_counted_as_nginx_logs_it() {
    let world = World::new("observe-tls-http2");
    let mut observer = open_with_room(&world);
    let certificate = Certificate::new("http2");
    let server = certificate.nginx_http2("tls-http2");
    watch(&mut observer, server.address);
    let url = |path: &str| format!("https://{}{path}", server.address);
    run("h2load", &["-n20000", "-c10", "-m20", "-t1", &url("/answer")]);
    run("h2load", &["-n500", "-c5", "-m4", &url("/large"), &url("/missing")]);
    outside(&world, || run("h2load", &["-n10000", "-c10", "-m20", "-t1", &url("/answer")]));
    observer.start_trace(&Filter::default()).unwrap();
    for path in ["/answer?x", "/broken"] {
        let curl = [
            "-sSk",
            "--http2",
            "-o/dev/null",
            "-H",
            "traceparent: 00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01",
        ];
        run("curl", &[&curl[..], &[&url(path)]].concat());
    }
    let mut requests = Vec::new();
    eventually("all of it is decoded", || {
        requests.append(&mut traced(&mut observer));
        let mut logged = server.logged();
        if let Some(count) = logged.remove("GET /answer?x 200") {
            *logged.entry("GET /answer 200".into()).or_default() += count;
        }
        logged.values().sum::<u64>() == 30_502 && counted(&observer, server.address) == logged
    });
    let sides = requests.iter().filter(|request| request.trace_parent.is_some()).collect::<Vec<_>>();
    let [answer, broken] = sides[..] else { panic!("{requests:?}") };
    assert_eq!(
        (answer.target.as_str(), answer.status, answer.path_label),
        ("/answer?x", Some(200), PathLabel::Tls)
    );
    assert_eq!(
        (broken.target.as_str(), broken.status, broken.protocol),
        ("/broken", Some(503), Protocol::Http2)
    );
    assert_eq!(
        (&answer.host, answer.side, answer.partial),
        (&server.address.to_string(), Side::Client, false)
    );
    assert_eq!(answer.client.as_ref().unwrap().comm, "curl");
    assert_eq!(answer.server.as_ref().unwrap().comm, "nginx");
    all_http2_was_read(&observer);
}

/// A connection that was there before anybody looked: of it the table of fields is not known.
#[test]
fn http2_within_tls_that_was_there_shows_what_it_can() {
    let world = World::new("observe-tls-http2-late");
    let mut observer = open(&world);
    let certificate = Certificate::new("http2-late");
    let server = certificate.nginx_http2("tls-http2-late");
    let proxy = free_address();
    let _nghttpx = script(
        &certificate,
        proxy,
        "nghttpx",
        &[
            &format!("-f{},{};no-tls", proxy.ip(), proxy.port()),
            &format!("-b{},{};/;proto=h2;tls", server.address.ip(), server.address.port()),
            "-k",
            "--conf=/dev/null",
            "--workers=1",
        ],
    );
    let fetch = |path: &str| run("curl", &["-s", "-o/dev/null", &format!("http://{proxy}{path}")]);
    fetch("/answer/before");
    watch(&mut observer, server.address);
    // The first shows which socket it is, and the second is joined.
    for path in ["/answer/before", "/answer/before", "/answer/new", "/answer/new", "/answer/other"] {
        fetch(path);
    }
    eventually("what is not known is not guessed", || {
        traced(&mut observer);
        let counted = counted(&observer, server.address);
        counted.get("GET /answer/new 200") == Some(&2) && counted.get("GET /answer/other 200") == Some(&1)
    });
    let tallies = observer.tallies().unwrap();
    assert_eq!((tallies.get("http2-joined"), tallies.get("http2-frame")), (Some(1), Some(0)), "{tallies:?}");
}

const TESTS: [&str; 2] = [include_str!("observe_tls.rs"), include_str!("observe_tls_go.rs")];

/// The list of what is covered names the tests that say so.
#[test]
fn every_row_of_the_guide_s_list_is_tried_by_a_test_that_there_is() {
    let guide = fs::read_to_string(concat!(env!("CARGO_MANIFEST_DIR"), "/../../docs/guide/tls.md")).unwrap();
    let rows: Vec<&str> =
        guide.lines().filter(|line| line.starts_with("| ") && !line.contains("| tried by |")).collect();
    assert!(rows.len() >= 8, "{rows:?}");
    for row in rows {
        let last = row.trim_end_matches(['|', ' ']).rsplit(" | ").next().unwrap();
        for test in last.split(", ").map(|test| test.trim_matches('`')) {
            assert!(TESTS.iter().any(|tests| tests.contains(&format!("fn {test}("))), "{test:?} in {row}");
        }
    }
}
