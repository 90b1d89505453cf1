//! Requests within TLS, with the real agent: switched on and off by the file, and gone with the agent. Needs root.

use std::fs;
use std::io::{Read, Seek, SeekFrom};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use crate::nginx::{Nginx, Setting};
use crate::program::code;
use crate::real::{Host, SERVICE, json};

const LIBRARY: &str = "/usr/lib/x86_64-linux-gnu/libssl.so.3";

fn eventually(what: &str, mut holds: impl FnMut() -> bool) {
    let begun = Instant::now();
    while !holds() {
        assert!(begun.elapsed() < Duration::from_secs(30), "not in 30 s: {what}");
        std::thread::sleep(Duration::from_millis(50));
    }
}

/// nginx with a copy of the library, which no other test probes.
struct Server {
    nginx: Nginx,
    library: String,
}

impl Server {
    fn start(host: &Host) -> Self {
        let (certificate, key) = (host.folder.path("crt"), host.folder.path("key"));
        let made = Command::new("openssl")
            .args(["req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes"])
            .args(["-days", "2", "-subj", "/CN=localhost", "-keyout", &key, "-out", &certificate])
            .stderr(Stdio::null())
            .status();
        assert_eq!(code(made.expect("openssl")), 0);
        let library = host.folder.path("libssl.so.3");
        fs::copy(LIBRARY, &library).expect("Debian's library");
        let nginx = Nginx::start(
            host,
            &Setting {
                http: "access_log off;",
                server: &format!(" ssl; ssl_certificate {certificate}; ssl_certificate_key {key};"),
                environment: &format!("LD_LIBRARY_PATH={}", host.folder.path("")),
                limit: Duration::from_secs(30),
            },
        );
        Self { nginx, library }
    }

    /// Breakpoints in its code: bytes of the library that are not those of the file.
    fn breakpoints(&self) -> usize {
        let process = self.nginx.process.id();
        let maps = fs::read_to_string(format!("/proc/{process}/maps")).expect("it runs");
        let line = maps.lines().find(|line| line.contains(" r-xp ") && line.ends_with(&self.library));
        let line = line.unwrap_or_else(|| panic!("it uses {}: {maps}", self.library));
        let number = |text: &str| u64::from_str_radix(text, 16).expect("hexadecimal");
        let mut words = line.split_whitespace();
        let (from, to) = words.next().and_then(|range| range.split_once('-')).expect("a range");
        let (from, to, offset) = (number(from), number(to), number(words.nth(1).expect("an offset")));
        let mut memory = fs::File::open(format!("/proc/{process}/mem")).expect("root may read it");
        memory.seek(SeekFrom::Start(from)).expect("a place");
        let mut mapped = vec![0; (to - from) as usize];
        memory.read_exact(&mut mapped).expect("code can be read");
        let file = fs::read(&self.library).expect("the library");
        let differ =
            file[offset as usize..].iter().zip(&mapped).filter(|(in_file, in_memory)| in_file != in_memory);
        differ.inspect(|(_, in_memory)| assert_eq!(**in_memory, 0xcc, "int3")).count()
    }
}

struct World {
    server: Option<Server>,
    host: Host,
}

impl World {
    fn new(test: &str) -> Self {
        let host = Host::new(test);
        fs::create_dir(format!("{}/shop.service", host.cgroup)).expect("a cgroup");
        let server = Server::start(&host);
        Self { server: Some(server), host }
    }

    fn server(&self) -> &Server {
        self.server.as_ref().expect("nginx runs")
    }

    /// Writes the file with this after `tls:`.
    fn write(&self, tls: &str) -> String {
        let port = self.server().nginx.port;
        self.host.folder.file(
            "mesh.yaml",
            format!("services: [{{name: web, address: '{SERVICE}:443', tls: {tls}, endpoints: ['127.0.0.1:{port}']}}]\n"),
        )
    }

    fn ask(&self, path: &str) {
        let script = format!(
            "echo $$ > {}/shop.service/cgroup.procs && exec curl -sk -o /dev/null https://{SERVICE}{path}",
            self.host.cgroup
        );
        let curl = Command::new("bash").args(["-c", &script]).status().expect("bash");
        assert_eq!(code(curl), 0, "{path}");
    }

    /// Requests that were counted so far.
    fn counted(&self) -> u64 {
        let socket = format!("{}/{}.sock", self.host.run_dir(), self.host.instance);
        let curl =
            Command::new("curl").args(["-s", "--unix-socket", &socket, "http://alize/v1/traffic"]).output();
        let map: serde_json::Value = serde_json::from_slice(&curl.expect("curl").stdout).expect("JSON");
        map["series"].as_array().into_iter().flatten().filter_map(|series| series["count"].as_u64()).sum()
    }
}

impl Drop for World {
    fn drop(&mut self) {
        self.server = None;
        for name in ["nginx.service", "shop.service"] {
            let _ = fs::remove_dir(format!("{}/{name}", self.host.cgroup));
        }
    }
}

#[test]
fn the_file_switches_it_on_and_off_and_nothing_outlives_the_agent() {
    let mut world = World::new("tls");
    let file = world.write("observe");
    world.host.start_with(&file, &["--observe", "always"]);
    eventually("probes are placed", || world.server().breakpoints() == 4);

    let trace = world.host.command(&["trace", "--count", "2", "-o", "json"]).stdout(Stdio::piped()).spawn();
    let trace = trace.expect("the program starts");
    std::thread::sleep(Duration::from_millis(700));
    world.ask("/users/1?x=1");
    world.ask("/fail");
    let output = trace.wait_with_output().expect("it ends");
    let lines = String::from_utf8_lossy(&output.stdout).into_owned();
    let requests: Vec<serde_json::Value> =
        lines.lines().map(|line| serde_json::from_str(line).expect("JSON")).collect();
    let shown: Vec<_> =
        requests.iter().map(|request| (request["target"].as_str(), request["status"].as_u64())).collect();
    assert_eq!(shown, [(Some("/users/1?x=1"), Some(200)), (Some("/fail"), Some(503))], "{lines}");
    for request in &requests {
        assert_eq!(
            (&request["path_label"], &request["service"]),
            (&"tls".into(), &"web".into()),
            "{request}"
        );
        assert_eq!((&request["client"]["comm"], &request["side"]), (&"curl".into(), &"client".into()));
        assert_eq!(request["client"]["workload"]["name"], "shop.service");
        assert_eq!(request["server"]["workload"]["name"], "nginx.service");
        assert_eq!(request["server"]["pid"], world.server().nginx.process.id());
    }
    let failed = json(&world.host.alize(&["trace", "--last", "9", "--failed", "-o", "json"]));
    assert_eq!(failed["target"], "/fail");
    let before = world.counted();
    assert_eq!(before, 2);

    world.write("pass");
    eventually("probes are taken out", || world.server().breakpoints() == 0);
    world.ask("/users/2");
    assert_eq!(world.counted(), before, "nothing is looked at any more");

    world.write("obsrve");
    let refused = world.host.alize(&["check", &file]);
    let said = format!("{}{}", refused.out, refused.err);
    assert!(refused.code != 0 && said.contains("did you mean observe?"), "{said}");
    world.write("observe");
    eventually("probes are placed again", || world.server().breakpoints() == 4);
    world.ask("/users/3");
    eventually("it is counted", || world.counted() == before + 1);

    world.host.end("-KILL");
    eventually("no probe outlives the agent", || world.server().breakpoints() == 0);
    world.ask("/users/4");
}
