//! The proxy beside the agent: started, fed, adopted, replaced, ended. With real agents and the real kernel; needs root.

use std::io::{Read, Write};
use std::net::{TcpListener, TcpStream};
use std::process::Command;
use std::thread;
use std::time::{Duration, Instant};

use crate::program::Answer;
use crate::real::{Host, SERVICE, json};

/// A server of HTTP that says its name; lives as long as the test's process.
pub(crate) fn server(name: &'static str) -> u16 {
    let listener = TcpListener::bind("127.0.0.1:0").expect("a port");
    let port = listener.local_addr().expect("an address").port();
    thread::spawn(move || {
        for stream in listener.incoming().flatten() {
            thread::spawn(move || answer(stream, name));
        }
    });
    port
}

/// Every head is a request without a body.
fn answer(mut stream: TcpStream, name: &str) {
    let mut bytes = Vec::new();
    let mut some = [0; 1024];
    while let Ok(read @ 1..) = stream.read(&mut some) {
        bytes.extend_from_slice(&some[..read]);
        while let Some(end) = bytes.windows(4).position(|window| window == b"\r\n\r\n") {
            bytes.drain(..end + 4);
            let head = format!("HTTP/1.1 200 OK\r\ncontent-length: {}\r\n\r\n{name}", name.len());
            if stream.write_all(head.as_bytes()).is_err() {
                return;
            }
        }
    }
}

fn mesh(one: u16, two: u16) -> String {
    format!(
        "services:
  - name: web
    protocol: http
    address: {SERVICE}:80
    routes:
      - {{name: beta, match: {{path: /api, headers: {{x-beta: '1'}}}}, to: {{version: v2}}}}
      - {{name: api, match: /api, to: {{version: v1}}}}
      - {{name: rest, match: /static, to: {{version: v1}}}}
    endpoints:
      - {{address: '127.0.0.1:{one}', labels: {{version: v1}}}}
      - {{address: '127.0.0.1:{two}', labels: {{version: v2}}}}
"
    )
}

fn free_port() -> u16 {
    TcpListener::bind("127.0.0.1:0").and_then(|listener| listener.local_addr()).expect("a port").port()
}

/// Asks until `found` finds what it looks for.
pub(crate) fn within<T>(seconds: u64, what: &str, mut found: impl FnMut() -> Option<T>) -> T {
    let begun = Instant::now();
    loop {
        if let Some(found) = found() {
            return found;
        }
        assert!(begun.elapsed() < Duration::from_secs(seconds), "{what}: not within {seconds} s");
        thread::sleep(Duration::from_millis(20));
    }
}

fn status(host: &Host) -> serde_json::Value {
    json(&host.alize(&["status", "-o", "json"]))
}

/// The proxy's pid once it serves what is in force.
pub(crate) fn proxy(host: &Host) -> i64 {
    within(20, "a proxy that serves", || {
        let proxy = status(host)["proxy"].clone();
        (proxy["problem"].is_null() && proxy["generation"].as_u64() > Some(0))
            .then(|| proxy["pid"].as_i64())?
    })
}

fn runs(pid: i64) -> bool {
    // A process that has ended and was not waited for is no more.
    let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
    stat.rsplit_once(')').is_some_and(|(_, rest)| !rest.trim_start().starts_with('Z'))
}

fn ask(port: u16, path: &str, headers: &str) -> String {
    let mut stream = TcpStream::connect(("127.0.0.1", port)).expect("the proxy listens");
    stream.set_read_timeout(Some(Duration::from_secs(10))).expect("a socket");
    let request = format!("GET {path} HTTP/1.1\r\nhost: web\r\nconnection: close\r\n{headers}\r\n");
    stream.write_all(request.as_bytes()).expect("it is read");
    let mut response = String::new();
    stream.read_to_string(&mut response).expect("it answers");
    response
}

fn metrics(host: &Host) -> String {
    let socket = format!("{}/{}.sock", host.folder.path("run"), host.instance);
    let curl = Command::new("curl").args(["-s", "--unix-socket", &socket, "http://agent/metrics"]).output();
    String::from_utf8(curl.expect("curl").stdout).expect("UTF-8")
}

fn unload(host: &Host) -> Answer {
    host.alize(&["unload", "--bpffs", &host.bpffs(), "--run-dir", &host.folder.path("run")])
}

#[test]
fn the_life_of_a_proxy() {
    let mut host = Host::new("proxy");
    let file = host.folder.file("mesh.yaml", mesh(server("one"), server("two")));
    let door = free_port();
    // The kernel gives the first service number 0.
    let listen = format!("127.0.0.1:{door}=0");
    host.environment.push(("ALIZE_PROXY_LISTEN", listen));
    host.start_with(&file, &[]);
    let pid = proxy(&host);
    assert_eq!(json(&host.alize(&["services", "web", "-o", "json"]))["id"], 0);

    assert!(ask(door, "/api/x", "").ends_with("\r\n\r\none"));
    assert!(ask(door, "/api/x", "x-beta: 1\r\n").ends_with("\r\n\r\ntwo"));
    assert!(ask(door, "/elsewhere", "").starts_with("HTTP/1.1 404 "));

    let shown = host.alize(&["services", "web"]).out;
    for part in ["beta", "/api/* x-beta=1", "version=v2", "kernel"] {
        assert!(shown.contains(part), "{part}: {shown}");
    }
    let web = json(&host.alize(&["services", "web", "-o", "json"]));
    let routes = web["routes"].as_array().expect("a list");
    let path = |route: usize| routes[route]["path"].as_str().expect("a word");
    assert_eq!([path(0), path(1), path(2)], ["kernel", "kernel", "kernel"], "{web}");
    assert_eq!(routes[1]["requests"]["2xx"], 1, "{web}");
    let told = metrics(&host);
    let line = "alize_http_requests_total{service=\"web\",route=\"beta\",endpoint=\"127.0.0.1:";
    assert!(told.contains(line) && told.contains("status_class=\"2xx\",path=\"proxy\"} 1"), "{told}");
    assert!(told.contains(
        "alize_http_request_duration_seconds_count{service=\"web\",route=\"beta\",path=\"proxy\"} 1"
    ));

    assert_eq!(host.end("-KILL"), None);
    assert!(runs(pid), "it is not the agent's");
    assert!(ask(door, "/api", "").ends_with("one"), "and goes on serving");
    host.start_with(&file, &[]);
    assert_eq!(proxy(&host), pid, "the next agent goes on with it");
    let other = host.folder.file("other.yaml", mesh(server("three"), server("four")));
    assert_eq!(host.alize(&["apply", &other]).code, 0);
    within(10, "the change", || ask(door, "/api", "").ends_with("three").then_some(()));

    Command::new("kill").args(["-KILL", &pid.to_string()]).status().expect("kill");
    let second = within(20, "another proxy", || Some(proxy(&host)).filter(|second| *second != pid));
    assert!(ask(door, "/api", "").ends_with("three"), "it got the state that is in force");

    let tcp = host.folder.file("tcp.yaml", crate::real::mesh(&[80]));
    assert_eq!(host.alize(&["apply", &tcp]).code, 0);
    within(10, "the end of a proxy that nobody needs", || (!runs(second)).then_some(()));
    assert!(status(&host)["proxy"].is_null());
    assert_eq!(host.alize(&["apply", &other]).code, 0);
    let third = proxy(&host);
    assert_eq!(host.end("-TERM"), Some(0));
    assert!(runs(third), "an agent that ends leaves it");

    let unloaded = unload(&host);
    assert!(
        unloaded.out.contains(&format!("the proxy (pid {third}) has ended; ")),
        "{} {}",
        unloaded.out,
        unloaded.err
    );
    assert!(!runs(third), "who unloads waits for it");
    let socket = host.folder.path(&format!("run/{}.proxy.sock", host.instance));
    assert!(!std::path::Path::new(&socket).exists());
}

#[test]
fn unload_waits_for_connections_as_long_as_it_is_told() {
    for (more, cut) in [(&["--timeout", "1s"][..], 1), (&["--force"], 1), (&["--timeout", "30s"], 0)] {
        let mut host = Host::new("unload-drain");
        let slow = TcpListener::bind("127.0.0.1:0").expect("a port");
        let file = host.folder.file("mesh.yaml", mesh(slow.local_addr().expect("its port").port(), 1));
        let door = free_port();
        host.environment.push(("ALIZE_PROXY_LISTEN", format!("127.0.0.1:{door}=0")));
        host.start_with(&file, &[]);
        proxy(&host);
        // A request whose response comes when the endpoint likes.
        let asking = thread::spawn(move || {
            let mut stream = TcpStream::connect(("127.0.0.1", door)).expect("the proxy listens");
            let _ = stream.write_all(b"GET /api HTTP/1.1\r\nhost: web\r\n\r\n");
            let mut response = String::new();
            let _ = stream.read_to_string(&mut response);
            response
        });
        let (mut endpoint, _) = slow.accept().expect("the request arrives");
        assert_eq!(host.end("-TERM"), Some(0));
        let answering = thread::spawn(move || {
            thread::sleep(Duration::from_millis(1500));
            if cut == 0 {
                endpoint.write_all(b"HTTP/1.1 200 OK\r\ncontent-length: 4\r\n\r\nlate").expect("it is read");
            }
            thread::sleep(Duration::from_secs(1));
        });
        let (bpffs, run_dir) = (host.bpffs(), host.folder.path("run"));
        let line = [&["unload", "--bpffs", &bpffs, "--run-dir", &run_dir, "-o", "json"], more].concat();
        let unloaded = json(&host.alize(&line));
        assert_eq!((&unloaded["proxy"]["connections"], &unloaded["proxy"]["cut"]), (&1.into(), &cut.into()));
        assert!(unloaded["links"].as_u64() > Some(0), "{unloaded}");
        let response = asking.join().expect("the client");
        assert_eq!(response.ends_with("late"), cut == 0, "{more:?}: {response}");
        answering.join().expect("the endpoint");
    }
}

#[test]
fn off_is_off_and_a_proxy_that_cannot_start_is_told() {
    let mut host = Host::new("no-proxy");
    let file = host.folder.file("mesh.yaml", mesh(server("one"), server("two")));
    host.start_with(&file, &["--proxy", "off"]);
    thread::sleep(Duration::from_millis(300));
    assert!(status(&host)["proxy"].is_null());
    assert_eq!(host.end("-TERM"), Some(0));
    let door = TcpListener::bind("127.0.0.1:0").expect("a port");
    drop(door);
    host.environment.push(("ALIZE_PROXY_LISTEN", "192.0.2.1:1=0".into()));
    host.start_with(&file, &[]);
    let problem = within(20, "the problem", || status(&host)["proxy"]["problem"].as_str().map(str::to_owned));
    assert!(problem.contains("ended at once"), "{problem}");
    assert!(host.alize(&["status"]).out.contains("off: it ended at once"));
    assert_eq!(host.end("-TERM"), Some(0));
}
