//! Real servers: whatever the kernel takes they answer once, and what they say they have read is what it has read.
//!
//! Behind each request goes another, so that a server which sees the end of the first elsewhere answers otherwise.

use std::io::{Read, Write};
use std::net::{TcpListener, TcpStream};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use alize_datapath_host::corpus::{SEEDS, changed};
use alize_datapath_host::http::request;

const NODE: &str = r#"
require('http').createServer((request, response) => {
  let size = 0;
  request.on('data', (data) => { size += data.length; });
  request.on('end', () => response.end(`${request.method} ${request.url} ${size}\n`));
}).listen(+process.argv[1], '127.0.0.1');
"#;

const PYTHON: &str = r#"
import sys
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
class Echo(BaseHTTPRequestHandler):
    protocol_version = 'HTTP/1.1'
    def answer(self):
        size = len(self.rfile.read(int(self.headers.get('Content-Length', 0))))
        text = f'{self.command} {self.requestline.split(" ")[1]} {size}\n'.encode()
        self.send_response(200)
        self.send_header('Content-Length', str(len(text)))
        self.end_headers()
        if self.command != 'HEAD':
            self.wfile.write(text)
    do_GET = do_HEAD = do_POST = do_PUT = do_DELETE = do_OPTIONS = do_PATCH = answer
    def log_message(self, *arguments):
        pass
ThreadingHTTPServer(('127.0.0.1', int(sys.argv[1])), Echo).serve_forever()
"#;

/// A server that says method, target and the length of the body; killed when dropped.
struct Server {
    name: &'static str,
    port: u16,
    process: Child,
}

impl Drop for Server {
    fn drop(&mut self) {
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

impl Server {
    fn start(name: &'static str, command: impl FnOnce(u16, &Path) -> Command) -> Self {
        let port = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
        let folder = Path::new(env!("CARGO_TARGET_TMPDIR")).join(format!("{name}-{port}"));
        std::fs::create_dir_all(&folder).unwrap();
        let mut command = command(port, &folder);
        command.stdin(Stdio::null()).stdout(Stdio::null());
        let process = command.spawn().unwrap_or_else(|error| panic!("{name} must be installed: {error}"));
        let server = Self { name, port, process };
        let end = Instant::now() + Duration::from_secs(60);
        while TcpStream::connect(("127.0.0.1", port)).is_err() {
            assert!(Instant::now() < end, "{name} does not listen");
            std::thread::sleep(Duration::from_millis(50));
        }
        server
    }

    fn all() -> [Self; 4] {
        [
            Self::start("nginx", nginx),
            Self::start("haproxy", haproxy),
            Self::start("node", |port, _| program("node", &["-e", NODE, &port.to_string()])),
            Self::start("python", |port, _| program("python3", &["-c", PYTHON, &port.to_string()])),
        ]
    }

    /// All that the server answers to these bytes.
    fn answers(&self, wire: &[u8]) -> String {
        let mut socket = TcpStream::connect(("127.0.0.1", self.port)).unwrap();
        socket.set_read_timeout(Some(Duration::from_secs(20))).unwrap();
        socket.write_all(wire).unwrap();
        let mut answers = Vec::new();
        // A server that closes with something unread resets the connection; what it said comes first.
        let _ = socket.read_to_end(&mut answers);
        String::from_utf8_lossy(&answers).into_owned()
    }
}

fn program(name: &str, arguments: &[&str]) -> Command {
    let mut command = Command::new(name);
    command.args(arguments);
    command
}

fn written(folder: &Path, text: String) -> PathBuf {
    let file = folder.join("configuration");
    std::fs::write(&file, text).unwrap();
    file
}

fn nginx(port: u16, folder: &Path) -> Command {
    let folder_text = folder.display();
    let file = written(
        folder,
        format!(
            "daemon off; master_process off; pid {folder_text}/pid; error_log {folder_text}/errors;
             events {{ }}
             http {{ access_log off; client_body_temp_path {folder_text}/body; proxy_temp_path {folder_text}/p;
                     fastcgi_temp_path {folder_text}/f; uwsgi_temp_path {folder_text}/u; scgi_temp_path {folder_text}/s;
                     merge_slashes off;
                     server {{ listen 127.0.0.1:{port};
                               location / {{ return 200 \"$request_method $request_uri $content_length\\n\"; }} }} }}"
        ),
    );
    let mut command = program("nginx", &["-p"]);
    command.arg(folder).arg("-c").arg(file).arg("-e").arg(folder.join("errors"));
    command
}

fn haproxy(port: u16, folder: &Path) -> Command {
    let file = written(
        folder,
        format!(
            "defaults\n mode http\n timeout client 10s\n timeout server 10s\n timeout connect 10s\n timeout http-request 10s\n\
             frontend echo\n bind 127.0.0.1:{port}\n option http-buffer-request\n \
             http-request return status 200 content-type text/plain lf-string \"%[method] %[url] %[req.body_size]\\n\"\n"
        ),
    );
    let mut command = program("haproxy", &["-db", "-f"]);
    command.arg(file);
    command
}

/// What must come: the answer to the message, and the one to the request behind it.
fn check(server: &Server, message: &[u8]) -> Result<(), String> {
    let Ok(read) = request(message) else { return Ok(()) };
    let body = vec![b'x'; read.body];
    let sentinel = b"GET /sentinel HTTP/1.1\r\nHost: s\r\nConnection: close\r\n\r\n";
    let wire = [&message[..read.length], &body, sentinel].concat();
    let answers = server.answers(&wire);
    let text = message.escape_ascii();
    let wrong = |what: &str| Err(format!("{}: {what}: {text}\nanswers: {answers}", server.name));
    // An odd path may be refused, but as one request.
    if read.odd && answers.starts_with("HTTP/1.1 400") {
        return Ok(());
    }
    let statuses = answers.matches("HTTP/1.1 ").count();
    if statuses != 2 || answers.matches("HTTP/1.1 200").count() != 2 {
        return wrong("not two responses of 200");
    }
    let target = String::from_utf8_lossy(read.target(message)).into_owned();
    let said = format!("{} {target} ", read.method);
    if read.method != "HEAD" && !answers.contains(&said) {
        return wrong("another method or target");
    }
    if read.method != "HEAD" && server.name != "nginx" {
        let whole = format!("{said}{}\n", read.body);
        if !answers.contains(&whole) {
            return wrong("another length of the body");
        }
    }
    if !answers.contains("GET /sentinel ") {
        return wrong("the request behind it was not seen");
    }
    Ok(())
}

#[test]
fn servers_read_what_the_kernel_reads() {
    let servers = Server::all();
    let mut messages: Vec<Vec<u8>> = SEEDS.iter().map(|seed| seed.to_vec()).collect();
    messages.extend((0..1_500).map(changed).filter(|message| request(message).is_ok()));
    assert!(messages.len() > 200, "only {}", messages.len());
    let (end, mut asked) = (Instant::now() + Duration::from_secs(25), 0);
    let mut wrong = Vec::new();
    for message in &messages {
        if Instant::now() > end {
            break;
        }
        wrong.extend(servers.iter().filter_map(|server| check(server, message).err()));
        asked += 1;
    }
    assert!(wrong.is_empty(), "{} of {asked}:\n{}", wrong.len(), wrong.join("\n\n"));
    assert!(asked >= SEEDS.len() * 4, "only {asked} in the time there is");
}
