//! Servers and clients that people use: nginx, Python and HAProxy behind the proxy and before it, and curl.

mod world;

use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use alize_model::http::Http;
use world::{Process, Server, World, endpoint, free_port, pattern, service, until};

struct Folder(PathBuf);

impl Folder {
    fn new(name: &str) -> Self {
        let path = std::env::temp_dir().join(format!("alize-peers-{name}-{}", std::process::id()));
        std::fs::create_dir_all(&path).unwrap();
        Self(path)
    }
}

impl Drop for Folder {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.0);
    }
}

fn spawn(command: &mut Command, port: u16) -> (Process, SocketAddr) {
    let child = command.stdout(Stdio::null()).stderr(Stdio::null()).spawn();
    let process =
        Process(child.unwrap_or_else(|error| panic!("{command:?}: {error}; run script/setup test")));
    let address = SocketAddr::from(([127, 0, 0, 1], port));
    until("the server listens", || std::net::TcpStream::connect(address).is_ok());
    (process, address)
}

fn nginx(folder: &Path, files: &Path) -> (Process, SocketAddr) {
    let port = free_port();
    let paths: String = ["client_body", "proxy", "fastcgi", "uwsgi", "scgi"]
        .iter()
        .map(|kind| format!("{kind}_temp_path {}/{kind};", folder.display()))
        .collect();
    // A connection takes three requests, so that the proxy meets many that end.
    let text = format!(
        "daemon off; worker_processes 1; pid {0}/pid; error_log {0}/log; events {{}}\n\
         http {{ access_log off; keepalive_requests 3; {paths} server {{ listen 127.0.0.1:{port}; root {1}; }} }}\n",
        folder.display(),
        files.display()
    );
    let config = folder.join("nginx.conf");
    std::fs::write(&config, text).unwrap();
    let program = if Path::new("/usr/sbin/nginx").exists() { "/usr/sbin/nginx" } else { "nginx" };
    spawn(Command::new(program).arg("-e").arg(folder.join("log")).arg("-c").arg(&config), port)
}

fn python(files: &Path) -> (Process, SocketAddr) {
    let port = free_port();
    let mut command = Command::new("python3");
    command
        .args(["-m", "http.server", "--bind", "127.0.0.1", "--directory"])
        .arg(files)
        .arg(port.to_string());
    spawn(&mut command, port)
}

/// HAProxy that passes everything on to `to`.
fn haproxy(folder: &Path, to: SocketAddr) -> (Process, SocketAddr) {
    let port = free_port();
    let config = folder.join("haproxy.cfg");
    let text = format!(
        "defaults\n mode http\n timeout client 30s\n timeout server 30s\n timeout connect 5s\n option splice-auto\n\
         frontend in\n bind 127.0.0.1:{port}\n default_backend out\nbackend out\n server one {to}\n"
    );
    std::fs::write(&config, text).unwrap();
    spawn(Command::new("haproxy").arg("-db").arg("-f").arg(&config), port)
}

/// Fetches `url` many times, some at once, and compares each answer with `expected`.
fn curl(url: &str, more: &[&str], expected: &[u8]) {
    // curl 7.88 cannot use a connection of HTTP/2 by prior knowledge twice: it fails so on any server.
    if more.contains(&"--http2-prior-knowledge") {
        (0..3).for_each(|_| fetch(url, more, 1, expected));
    } else {
        fetch(url, &[more, &["--parallel", "--parallel-max", "4"]].concat(), 12, expected);
    }
}

fn fetch(url: &str, more: &[&str], count: usize, expected: &[u8]) {
    let folder = Folder::new("answers");
    let mut command = Command::new("curl");
    command.args(["-sS", "--fail", "--max-time", "60"]).args(more);
    for number in 0..count {
        command.arg(format!("{url}?n={number}")).arg("-o").arg(folder.0.join(number.to_string()));
    }
    let output = command.output().unwrap();
    assert!(output.status.success(), "{command:?}: {}", String::from_utf8_lossy(&output.stderr));
    for number in 0..count {
        assert!(
            std::fs::read(folder.0.join(number.to_string())).unwrap() == expected,
            "answer {number} of {url}"
        );
    }
}

#[test]
fn nginx_and_python_serve_curl_in_either_version() {
    let files = Folder::new("files");
    let bytes = pattern(1_500_000);
    std::fs::write(files.0.join("large"), &bytes).unwrap();
    std::fs::write(files.0.join("small"), &bytes[..100]).unwrap();
    let folder = Folder::new("nginx");
    let (_nginx, nginx) = nginx(&folder.0, &files.0);
    let (_python, python) = python(&files.0);
    let world = World::new(vec![
        service(1, "nginx", Http::default(), vec![endpoint(nginx, 1, &[])]),
        service(2, "python", Http::default(), vec![endpoint(python, 1, &[])]),
    ]);
    for door in &world.doors {
        for more in [&["--http1.1"][..], &["--http2-prior-knowledge"], &["--http1.0"], &["--http2"]] {
            curl(&format!("http://{door}/large"), more, &bytes);
            curl(&format!("http://{door}/small"), more, &bytes[..100]);
        }
    }
    // Ranges, conditions and errors are the server's own.
    let mut client = world.connect();
    let part = client.ask("GET /large HTTP/1.1\nHost: a\nRange: bytes=1000-1999\n\n");
    assert!(part.status == 206 && part.body == bytes[1000..2000]);
    let tag = part.header("etag").unwrap();
    assert_eq!(client.ask(&format!("GET /large HTTP/1.1\nHost: a\nIf-None-Match: {tag}\n\n")).status, 304);
    let missing = client.get("/missing");
    assert_eq!((missing.status, missing.reason()), (404, String::new()), "nginx's own");
}

#[test]
fn haproxy_may_stand_before_and_behind() {
    let server = Server::node("a", "http1");
    let folder = Folder::new("behind");
    let (_behind, behind) = haproxy(&folder.0, server.address);
    let world = World::new(vec![service(1, "web", Http::default(), vec![endpoint(behind, 1, &[])])]);
    let folder = Folder::new("before");
    let (_before, before) = haproxy(&folder.0, world.door());
    for door in [world.door(), before] {
        curl(&format!("http://{door}/bytes/2000000"), &[], &pattern(2_000_000));
        curl(&format!("http://{door}/chunked/300000"), &[], &pattern(300_000));
        let mut client = world::Client::connect(door);
        let body = pattern(400_000);
        client
            .send(format!("POST /mirror HTTP/1.1\r\nHost: a\r\nContent-Length: {}\r\n\r\n", body.len()))
            .send(&body);
        assert!(client.answer("POST").body == body);
    }
}

#[test]
fn python_is_served_on_one_connection() {
    let server = Server::node("a", "http1");
    let world = World::new(vec![service(1, "web", Http::default(), vec![endpoint(server.address, 1, &[])])]);
    let script = format!(
        "import http.client, json\n\
         c = http.client.HTTPConnection('127.0.0.1', {}, timeout=20)\n\
         for n in range(50):\n\
         \x20   c.request('POST', '/echo?n=%d' % n, body=(b'x' * 1000 for _ in range(n)), encode_chunked=True, headers={{'Transfer-Encoding': 'chunked'}})\n\
         \x20   r = json.loads(c.getresponse().read())\n\
         \x20   assert r['url'] == '/echo?n=%d' % n and r['length'] == n * 1000, r\n\
         print('fine')\n",
        world.door().port()
    );
    let output = Command::new("python3").args(["-c", &script]).output().unwrap();
    assert_eq!(
        String::from_utf8_lossy(&output.stdout),
        "fine\n",
        "{}",
        String::from_utf8_lossy(&output.stderr)
    );
}
