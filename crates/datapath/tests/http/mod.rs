//! Real HTTP servers with logs, and what the kernel has counted of them.
#![allow(dead_code, reason = "each test file uses a part of it")]

use std::collections::HashMap;
use std::fs;
use std::io::Read;
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use alize_datapath::InForce;
use alize_datapath::observe::{Event, Limits, Observer, Request};

use crate::world::{World, eventually};

/// How often each "METHOD path status" came.
pub(crate) type Counts = HashMap<String, u64>;

/// A server that ends with the test.
pub(crate) struct Server {
    pub(crate) process: Child,
    pub(crate) address: SocketAddr,
    pub(crate) folder: PathBuf,
}

impl Drop for Server {
    fn drop(&mut self) {
        // Killed outright, nginx would leave its workers behind.
        let pid = rustix::process::Pid::from_child(&self.process);
        let _ = rustix::process::kill_process(pid, rustix::process::Signal::TERM);
        let _ = self.process.wait();
        let _ = fs::remove_dir_all(&self.folder);
    }
}

pub(crate) fn free_address() -> SocketAddr {
    TcpListener::bind("127.0.0.1:0")
        .and_then(|listener| listener.local_addr())
        .expect("a port of loopback is free")
}

pub(crate) fn nginx(name: &str) -> Server {
    nginx_with(name, "")
}

/// nginx whose port is `listen ADDRESS MORE`.
pub(crate) fn nginx_with(name: &str, more: &str) -> Server {
    let folder = std::env::temp_dir().join(format!("observe-{name}-{}", std::process::id()));
    fs::create_dir_all(folder.join("html")).unwrap();
    fs::write(folder.join("html/index.html"), "x".repeat(612)).unwrap();
    fs::write(folder.join("html/large"), "GET / HTTP/1.1\r\n\r\n".repeat(20_000)).unwrap();
    let address = free_address();
    let path = folder.display();
    let configuration = format!(
        "daemon off; worker_processes 2; pid {path}/pid; error_log {path}/error.log; \
         events {{ worker_connections 1024; }} \
         http {{ log_format counted '$request_method $request_uri $status'; \
         access_log {path}/access.log counted; keepalive_requests 100000000; \
         client_body_temp_path {path}/body; client_max_body_size 10m; \
         server {{ listen {address} {more}; root {path}/html; location = /broken {{ return 503; }} \
         location = /slow {{ alias {path}/html/large; limit_rate 700k; }} \
         location /answer {{ return 200 \"an answer\\n\"; }} }} }}"
    );
    fs::write(folder.join("nginx.conf"), configuration).unwrap();
    // Workers drop to another user, who must reach the files.
    let _ = Command::new("chmod").arg("-R").arg("a+rX").arg(&folder).status();
    let process =
        Command::new("nginx").arg("-c").arg(folder.join("nginx.conf")).stderr(Stdio::null()).spawn();
    let server = Server { process: process.expect("nginx is installed"), address, folder };
    eventually("nginx listens", || TcpStream::connect(address).is_ok());
    server
}

impl Server {
    /// What nginx has logged; it writes a line when it is done with a request.
    pub(crate) fn logged(&self) -> Counts {
        let text = fs::read_to_string(self.folder.join("access.log")).unwrap_or_default();
        let mut counts = Counts::new();
        for line in text.lines() {
            *counts.entry(line.to_owned()).or_default() += 1;
        }
        counts
    }
}

/// What the kernel has counted, by path as it was sent; the tests send none that is folded.
pub(crate) fn counted(observer: &Observer, server: SocketAddr) -> Counts {
    let mut counts = Counts::new();
    let mut each = |series: alize_datapath::observe::Series| {
        if series.key.destination.address == server {
            let path = series.key.path.unwrap_or_else(|| "other".into());
            let status = series.key.status.map_or("unanswered".into(), |status| status.to_string());
            *counts.entry(format!("{} {path} {status}", series.key.method)).or_default() += series.count;
            assert_eq!(series.latencies.counts.iter().sum::<u64>(), series.count);
        }
    };
    observer.series(&mut each).expect("series can be read");
    counts
}

/// The kernel's counts become nginx's, which logs a little later. A client that ends does not get the responses that
/// are under way then, and the kernel says so; nginx, which has sent them, cannot know: up to `abandoned` may differ so.
pub(crate) fn counts_agree(observer: &Observer, server: &Server, abandoned: u64) {
    let deadline = Instant::now() + Duration::from_secs(10);
    loop {
        let (mut counted, logged) = (counted(observer, server.address), server.logged());
        let mut left = abandoned;
        for (line, &sent) in &logged {
            let unanswered = format!("{} unanswered", line.rsplit_once(' ').unwrap().0);
            let missing = sent.saturating_sub(counted.get(line).copied().unwrap_or(0)).min(left);
            let given_up = counted.remove(&unanswered).unwrap_or(0);
            if given_up == missing {
                *counted.entry(line.clone()).or_default() += missing;
                left -= missing;
            } else {
                counted.insert(unanswered, given_up);
            }
        }
        counted.retain(|_, count| *count > 0);
        if counted == logged {
            return;
        }
        let tallies = observer.tallies().unwrap();
        assert!(Instant::now() < deadline, "counted {counted:?}, logged {logged:?}, {tallies:?}");
        std::thread::sleep(Duration::from_millis(20));
    }
}

pub(crate) fn open(world: &World) -> Observer {
    Observer::open(&world.options, &Limits::default(), &InForce::default())
        .unwrap_or_else(|error| panic!("{error}"))
}

/// All that a test sends fits into its rings, so that a reader who does not get its turn on a busy machine loses nothing.
pub(crate) fn open_with_room(world: &World) -> Observer {
    let limits = Limits { ring_bytes: 64 << 20, ..Limits::default() };
    Observer::open(&world.options, &limits, &InForce::default()).unwrap_or_else(|error| panic!("{error}"))
}

pub(crate) fn run(program: &str, arguments: &[&str]) {
    let done = Command::new(program).args(arguments).stdout(Stdio::null()).stderr(Stdio::null()).status();
    assert!(done.unwrap_or_else(|error| panic!("{program}: {error}")).success(), "{program} {arguments:?}");
}

pub(crate) fn traced(observer: &mut Observer) -> Vec<Request> {
    let mut requests = Vec::new();
    observer
        .poll(&mut |event| match event.expect("the kernel writes what can be read") {
            Event::Request(request) => requests.push(request),
            other => panic!("only requests were asked for: {other:?}"),
        })
        .unwrap();
    requests
}

/// Reads `count` responses with Content-Length.
pub(crate) fn read_responses(stream: &mut TcpStream, count: usize) {
    let mut bytes = Vec::new();
    let mut piece = [0; 65_536];
    for _ in 0..count {
        loop {
            if let Some(end) = response_end(&bytes) {
                bytes.drain(..end);
                break;
            }
            let read = stream.read(&mut piece).expect("the server answers");
            assert_ne!(read, 0, "the server must not close");
            bytes.extend_from_slice(&piece[..read]);
        }
    }
    assert!(bytes.is_empty());
}

pub(crate) fn response_end(bytes: &[u8]) -> Option<usize> {
    let head = bytes.windows(4).position(|four| four == b"\r\n\r\n")? + 4;
    let text = String::from_utf8_lossy(&bytes[..head]).to_lowercase();
    let length: usize = text.split("content-length: ").nth(1)?.split("\r\n").next()?.parse().ok()?;
    (bytes.len() >= head + length).then_some(head + length)
}
