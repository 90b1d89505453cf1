//! The proof: what the kernel has counted at full speed equals what the servers have logged, request for request.
//!
//! Needs root, nginx, curl, wrk, h2load, python3, Node and redis. `ALIZE_PROOF_REQUESTS` says how many there are at least
//! (200,000; `make proof` asks for 1,000,000).

mod http;
mod world;

use std::fs;
use std::io::Write;
use std::net::{SocketAddr, TcpStream};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use http::{Counts, Server, counted, counts_agree, free_address, nginx, open, read_responses, run};
use world::{World, eventually};

/// A server of a hundred connections at a time that logs as nginx does, after each response.
const PYTHON: &str = r#"
import http.server, socketserver, sys
class Handler(http.server.BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    def answer(self):
        body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
        status = 404 if self.path.startswith("/no") else 200
        self.send_response(status)
        if len(self.path) % 2:
            self.send_header("Transfer-Encoding", "chunked")
            self.end_headers()
            if self.command != "HEAD":
                self.wfile.write(b"5\r\nGET /\r\n11\r\n HTTP/1.1\r\n\r\n0123\r\n0\r\n\r\n")
        else:
            self.send_header("Content-Length", "18")
            self.end_headers()
            if self.command != "HEAD":
                self.wfile.write(b"GET / HTTP/1.1\r\n\r\n")
        self.wfile.flush()
        log.write("%s %s %d\n" % (self.command, self.path, status))
        log.flush()
    do_GET = do_POST = do_PUT = do_HEAD = answer
    def log_message(self, *arguments): pass
class Server(socketserver.ThreadingMixIn, http.server.HTTPServer):
    daemon_threads = True
    request_queue_size = 128
log = open(sys.argv[2], "a")
Server(("127.0.0.1", int(sys.argv[1])), Handler).serve_forever()
"#;

/// Node's own server: chunked where the length of the path is odd; what is asked for in the body is no request.
const NODE: &str = r#"
const http = require("http"), fs = require("fs");
const log = fs.openSync(process.argv[3], "a");
http.createServer((request, response) => {
  request.on("data", () => {});
  request.on("end", () => {
    const status = request.url.startsWith("/no") ? 404 : 200;
    const body = "GET /fool HTTP/1.1\r\nHost: a\r\n\r\n";
    response.statusCode = status;
    if (request.url.length % 2) { response.write(body); response.end(body); }
    else { response.setHeader("Content-Length", body.length); response.end(body); }
    fs.writeSync(log, `${request.method} ${request.url} ${status}\n`);
  });
}).listen(Number(process.argv[2]), "127.0.0.1");
"#;

/// wrk goes through these in turn.
const REQUESTS: &str = r#"
local n = 0
local kinds = {
  {"GET", "/answer/a"}, {"POST", "/answer/b", string.rep("GET /fool HTTP/1.1\r\n\r\n", 40)}, {"OPTIONS", "/answer/e"},
  {"GET", "/missing"}, {"PUT", "/answer/c", "x"}, {"GET", "/broken"}, {"GET", "/"}, {"DELETE", "/answer/d"},
}
request = function()
  n = n % #kinds + 1
  return wrk.format(kinds[n][1], kinds[n][2], nil, kinds[n][3])
end
"#;

fn python() -> Server {
    script("python3", "server.py", PYTHON)
}

fn node() -> Server {
    script("node", "server.js", NODE)
}

/// A server in a language that needs no compiler, told its port and its log.
fn script(interpreter: &str, file: &str, text: &str) -> Server {
    let address = free_address();
    let folder = std::env::temp_dir().join(format!("observe-proof-{interpreter}-{}", std::process::id()));
    fs::create_dir_all(&folder).unwrap();
    fs::write(folder.join(file), text).unwrap();
    let process = Command::new(interpreter)
        .arg(folder.join(file))
        .arg(address.port().to_string())
        .arg(folder.join("access.log"))
        .stderr(Stdio::null())
        .spawn()
        .unwrap_or_else(|error| panic!("{interpreter}: {error}"));
    let server = Server { process, address, folder };
    eventually("the server listens", || TcpStream::connect(address).is_ok());
    server
}

/// A noisy neighbour whose protocol is not HTTP.
fn redis() -> Server {
    let address = free_address();
    let folder = std::env::temp_dir().join(format!("observe-proof-redis-{}", std::process::id()));
    fs::create_dir_all(&folder).unwrap();
    let process = Command::new("redis-server")
        .args(["--bind", "127.0.0.1", "--save", "", "--port", &address.port().to_string()])
        .stdout(Stdio::null())
        .spawn()
        .expect("redis-server is installed");
    let server = Server { process, address, folder };
    eventually("redis listens", || TcpStream::connect(address).is_ok());
    server
}

/// Heads cut at every byte and pipelined, on a connection of its own; each time 3 requests.
fn cut_and_pipelined(address: SocketAddr, times: usize) {
    let mut stream = TcpStream::connect(address).unwrap();
    stream.set_nodelay(true).unwrap();
    let requests = "POST /answer/cut HTTP/1.1\r\nHost: a\r\nContent-Length: 18\r\n\r\nGET / HTTP/1.1\r\n\r\n\
                    GET /answer/cut HTTP/1.1\r\nHost: a\r\n\r\nGET /missing HTTP/1.1\r\nHost: a\r\n\r\n";
    for size in (1..=7).cycle().take(times) {
        requests.as_bytes().chunks(size).for_each(|piece| stream.write_all(piece).unwrap());
        read_responses(&mut stream, 3);
    }
}

/// What the client itself takes for the latency, on average.
fn timed(address: SocketAddr, times: u32) -> Duration {
    let mut stream = TcpStream::connect(address).unwrap();
    stream.set_nodelay(true).unwrap();
    let began = Instant::now();
    for _ in 0..times {
        stream.write_all(b"GET /answer/timed HTTP/1.1\r\nHost: a\r\n\r\n").unwrap();
        read_responses(&mut stream, 1);
    }
    began.elapsed() / times
}

#[test]
fn the_kernel_counts_what_the_servers_log() {
    let wanted: u64 = std::env::var("ALIZE_PROOF_REQUESTS").map_or(200_000, |text| text.parse().unwrap());
    let world = World::new("observe-proof");
    let observer = open(&world);
    let (web, other, third, noise) = (nginx("proof"), python(), node(), redis());
    let script = web.folder.join("requests.lua");
    fs::write(&script, REQUESTS).unwrap();
    let script = script.display().to_string();
    let url = |server: &Server, path: &str| format!("http://{}{path}", server.address);
    let total = |server: &Server| server.logged().values().sum::<u64>();
    let benchmark = ["-h", "127.0.0.1", "-q", "-n", "2000000000", "-t", "get,set", "-c", "4", "-p"];
    let mut benchmark = Command::new("redis-benchmark")
        .args(benchmark)
        .arg(noise.address.port().to_string())
        .stdout(Stdio::null())
        .spawn()
        .unwrap();
    let mut rounds = 0;
    let client_mean = timed(web.address, 2000);
    while total(&web) < wanted {
        rounds += 1;
        run("wrk", &["-t2", "-c32", "-d5", "-s", &script, &url(&web, "/")]);
        run("h2load", &["--h1", "-n", "20000", "-c", "20", &url(&web, "/answer/h2load")]);
        run("h2load", &["--h1", "-n", "1000", "-c", "10", &url(&other, "/python/")]);
        run("h2load", &["--h1", "-n", "20000", "-c", "20", &url(&third, "/node/")]);
        run("h2load", &["--h1", "-n", "5000", "-c", "10", &url(&third, "/node/chunked")]);
        for path in ["/even", "/odd", "/none"] {
            let body = "-dGET / HTTP/1.1";
            run("curl", &["-s", "-o/dev/null", body, &url(&other, path), "-o/dev/null", &url(&web, path)]);
            run("curl", &["-s", "-I", &url(&other, path)]);
            run("curl", &["-s", "-o/dev/null", body, &url(&third, path)]);
            run("curl", &["-s", "-I", &url(&third, path)]);
        }
        cut_and_pipelined(web.address, 50);
        eprintln!("round {rounds}: {} requests", total(&web));
        assert!(rounds < 200, "the machine is too slow for the test");
    }
    benchmark.kill().unwrap();
    benchmark.wait().unwrap();
    counts_agree(&observer, &web, rounds * 32);
    counts_agree(&observer, &other, 0);
    counts_agree(&observer, &third, 0);
    let tallies = observer.tallies().unwrap();
    let not_http = tallies.get("not-http").unwrap();
    let unfollowed: u64 = tallies.unfollowed.iter().map(|(_, count)| count).sum();
    assert!(not_http >= 1 && unfollowed == not_http, "only redis is not followed: {tallies:?}");

    let mut kernel_mean = Duration::ZERO;
    let mut each = |series: alize_datapath::observe::Series| {
        if series.key.path.as_deref() == Some("/answer/timed") {
            kernel_mean = series.latency / series.count as u32;
        }
    };
    observer.series(&mut each).unwrap();
    let counts: Counts = counted(&observer, web.address);
    let all = counts.values().sum::<u64>() + total(&other) + total(&third);
    let unanswered: u64 =
        counts.iter().filter(|(line, _)| line.ends_with("unanswered")).map(|(_, n)| n).sum();
    eprintln!(
        "{all} requests in {} kinds equal the logs; clients gave up {unanswered}; latency as the client sees it \
         {client_mean:?}, as the kernel does {kernel_mean:?}",
        counts.len()
    );
    assert!(kernel_mean > Duration::ZERO && kernel_mean <= client_mean, "{kernel_mean:?} {client_mean:?}");
}
