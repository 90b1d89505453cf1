//! A proxy, its state, and real servers behind it.
#![allow(dead_code, unreachable_pub, reason = "each test binary uses a part of it")]

use std::io::{BufRead, BufReader, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::{Duration, Instant};

use alize_model::control::{FromProxy, ProxyCounters, ProxyEndpoint, ProxyService, ProxyState, ToProxy};
use alize_model::http::{Action, Backend, Forward, Fraction, Http, Mirror, Route, Target};
use alize_model::{Balance, Endpoint, Labels, Mode, Protocol, Removal, Service, ServiceName};

/// How long anything may take on a busy machine.
pub const PATIENCE: Duration = Duration::from_secs(20);

/// A process that ends with its owner.
pub struct Process(pub Child);

impl Drop for Process {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// A server of `servers/echo.js`.
pub struct Server {
    pub address: SocketAddr,
    pub process: Process,
}

impl Server {
    pub fn node(name: &str, kind: &str) -> Self {
        Self::script("echo.js", &[name, kind])
    }

    pub fn script(script: &str, arguments: &[&str]) -> Self {
        let folder = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/servers");
        let mut child = Command::new("node")
            .arg(format!("{folder}/{script}"))
            .args(arguments)
            .stdout(Stdio::piped())
            .spawn()
            .expect("node runs: apt install nodejs");
        let mut line = String::new();
        BufReader::new(child.stdout.take().unwrap()).read_line(&mut line).unwrap();
        let port: u16 = line.trim().parse().unwrap_or_else(|_| panic!("{script} printed {line:?}"));
        Self { address: SocketAddr::from(([127, 0, 0, 1], port)), process: Process(child) }
    }
}

/// A port that nobody listens on, now.
pub fn free_port() -> u16 {
    std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port()
}

/// An endpoint with labels such as `version=v1`.
pub fn endpoint(address: SocketAddr, weight: u16, labels: &[(&str, &str)]) -> Endpoint {
    let labels: Labels = labels.iter().map(|(name, value)| ((*name).into(), (*value).into())).collect();
    Endpoint { address, weight, labels, draining: false }
}

/// A service of the state.
pub fn service(number: u32, name: &str, http: Http, endpoints: Vec<Endpoint>) -> ProxyService {
    let states = (0..).zip(&endpoints).map(|(number, endpoint)| ProxyEndpoint {
        address: endpoint.address,
        number,
        usable: true,
    });
    ProxyService {
        number,
        endpoints: states.collect(),
        service: Arc::new(Service {
            name: ServiceName::new(name).unwrap(),
            protocol: Protocol::Http,
            mode: Mode::Enforce,
            frontends: Vec::new(),
            balance: Balance::default(),
            affinity: None,
            health: None,
            ejection: None,
            removal: Removal::default(),
            tls: Default::default(),
            split: None,
            endpoints,
            http: Some(Arc::new(http)),
        }),
    }
}

/// A service of a file as the agent would send it, with every endpoint well.
pub fn of_service(number: u32, service: &Arc<Service>) -> ProxyService {
    let states = (0..).zip(&service.endpoints).map(|(number, endpoint)| ProxyEndpoint {
        address: endpoint.address,
        number,
        usable: true,
    });
    ProxyService { number, endpoints: states.collect(), service: Arc::clone(service) }
}

/// One route, which has every request copied to the service `to`.
pub fn copied(to: &str) -> Http {
    let target = Target { service: Some(ServiceName::new(to).unwrap()), labels: Labels::new() };
    let mirrors = vec![Mirror { target, fraction: Fraction::ALL }];
    let forward = Forward { mirrors, ..Forward::to(vec![Backend::all()]) };
    let route = Route { action: Action::Forward(forward), ..Route::to("copied", Vec::new()) };
    Http { routes: vec![route], ..Http::default() }
}

static WORLDS: AtomicU32 = AtomicU32::new(0);

/// A running proxy.
pub struct World {
    pub folder: PathBuf,
    /// Where clients of service `i + 1` connect.
    pub doors: Vec<SocketAddr>,
    pub proxy: Process,
    pub agent: Agent,
}

impl World {
    /// Starts a proxy for `services`, numbered from 1.
    pub fn new(services: Vec<ProxyService>) -> Self {
        let doors = services.len();
        Self::with_doors(services, doors)
    }

    /// As [`World::new`], where only the first services can be reached.
    pub fn with_doors(services: Vec<ProxyService>, doors: usize) -> Self {
        let number = WORLDS.fetch_add(1, Ordering::Relaxed);
        let folder = std::env::temp_dir().join(format!("alize-proxy-{}-{number}", std::process::id()));
        std::fs::create_dir_all(&folder).unwrap();
        let doors: Vec<SocketAddr> =
            (0..doors).map(|_| SocketAddr::from(([127, 0, 0, 1], free_port()))).collect();
        let proxy = start(&folder, &doors, 20);
        let mut agent = Agent::connect(&folder);
        agent.state(services).unwrap();
        Self { folder, doors, proxy, agent }
    }

    pub fn door(&self) -> SocketAddr {
        self.doors[0]
    }

    /// Connects to the first service.
    pub fn connect(&self) -> Client {
        Client::connect(self.door())
    }
}

impl Drop for World {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.folder);
    }
}

/// Starts a proxy and waits until it is ready.
pub fn start(folder: &Path, doors: &[SocketAddr], drain: u32) -> Process {
    // Another build may be tried, such as one that is optimised.
    let built =
        std::env::var_os("ALIZE_PROXY_ALONE").unwrap_or(env!("CARGO_BIN_EXE_alize-proxy-alone").into());
    let mut command = Command::new(built);
    command.env(alize_proxy::ENVIRONMENT.0, alize_proxy::ENVIRONMENT.1);
    command.arg(folder).arg("test").arg(drain.to_string()).stdout(Stdio::piped());
    for (service, door) in (1..).zip(doors) {
        command.arg(format!("{door}={service}"));
    }
    let mut child = command.spawn().unwrap();
    let mut line = String::new();
    BufReader::new(child.stdout.take().unwrap()).read_line(&mut line).unwrap();
    assert!(line.starts_with("ready "), "the proxy printed {line:?}");
    Process(child)
}

/// The agent's end of the control socket.
pub struct Agent {
    reader: BufReader<UnixStream>,
    generation: u64,
}

impl Agent {
    pub fn connect(folder: &Path) -> Self {
        let stream = UnixStream::connect(folder.join("test.proxy.sock")).unwrap();
        stream.set_read_timeout(Some(PATIENCE)).unwrap();
        let mut agent = Self { reader: BufReader::new(stream), generation: 0 };
        match agent.hear() {
            FromProxy::Hello(hello) => agent.generation = hello.generation,
            other => panic!("{other:?} in place of a hello"),
        }
        agent
    }

    pub fn say(&mut self, line: &str) {
        let stream = self.reader.get_mut();
        stream.write_all(line.as_bytes()).unwrap();
        stream.write_all(b"\n").unwrap();
    }

    pub fn hear(&mut self) -> FromProxy {
        let mut line = String::new();
        self.reader.read_line(&mut line).unwrap();
        serde_json::from_str(&line).unwrap_or_else(|error| panic!("{line:?}: {error}"))
    }

    /// Whether the proxy has ended the conversation.
    pub fn is_over(&mut self) -> bool {
        matches!(self.reader.fill_buf(), Ok([]))
    }

    pub fn ask(&mut self, word: &ToProxy) -> FromProxy {
        self.say(&serde_json::to_string(word).unwrap());
        self.hear()
    }

    pub fn state(&mut self, services: Vec<ProxyService>) -> Result<(), String> {
        self.generation += 1;
        match self.ask(&ToProxy::State(ProxyState { generation: self.generation, services })) {
            FromProxy::State { generation } if generation == self.generation => Ok(()),
            FromProxy::Error { error } => Err(error),
            other => panic!("{other:?} in place of a state"),
        }
    }

    pub fn counters(&mut self) -> ProxyCounters {
        match self.ask(&ToProxy::Counters) {
            FromProxy::Counters(counters) => counters,
            other => panic!("{other:?} in place of counters"),
        }
    }
}

/// A client that writes and reads bytes, so that a test says exactly what is on the wire.
pub struct Client {
    pub stream: TcpStream,
    pub unread: Vec<u8>,
}

/// A response as it was read.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Answer {
    pub status: u16,
    pub head: String,
    pub body: Vec<u8>,
    pub trailers: String,
}

impl Answer {
    pub fn text(&self) -> String {
        String::from_utf8_lossy(&self.body).into_owned()
    }

    pub fn json(&self) -> serde_json::Value {
        serde_json::from_slice(&self.body).unwrap_or_else(|_| panic!("no JSON: {self:?}"))
    }

    /// The values of a field, joined.
    pub fn header(&self, name: &str) -> Option<String> {
        let lines = self.head.lines().skip(1).filter_map(|line| line.split_once(':'));
        let values: Vec<&str> = lines
            .filter(|(found, _)| found.eq_ignore_ascii_case(name))
            .map(|(_, value)| value.trim())
            .collect();
        (!values.is_empty()).then(|| values.join(", "))
    }

    pub fn reason(&self) -> String {
        self.header("x-alize-reason").unwrap_or_default()
    }
}

impl Client {
    pub fn connect(door: SocketAddr) -> Self {
        let stream = TcpStream::connect(door).unwrap();
        stream.set_read_timeout(Some(PATIENCE)).unwrap();
        stream.set_nodelay(true).unwrap();
        Self { stream, unread: Vec::new() }
    }

    pub fn send(&mut self, bytes: impl AsRef<[u8]>) -> &mut Self {
        self.stream.write_all(bytes.as_ref()).unwrap();
        self
    }

    /// `GET path`, and what comes back.
    pub fn get(&mut self, path: &str) -> Answer {
        self.send(format!("GET {path} HTTP/1.1\r\nHost: web.test\r\n\r\n"));
        self.answer("GET")
    }

    /// Sends a request without a body and reads the response.
    pub fn ask(&mut self, request: &str) -> Answer {
        self.send(request.replace('\n', "\r\n"));
        let method = request.split(' ').next().unwrap().to_owned();
        self.answer(&method)
    }

    fn more(&mut self) -> bool {
        let mut space = [0; 65536];
        match self.stream.read(&mut space) {
            Ok(read) => {
                self.unread.extend_from_slice(&space[..read]);
                read > 0
            }
            Err(error) => panic!("{error} after {:?}", String::from_utf8_lossy(&self.unread)),
        }
    }

    fn until(&mut self, end: &[u8]) -> Vec<u8> {
        loop {
            if let Some(at) = self.unread.windows(end.len()).position(|window| window == end) {
                return self.unread.drain(..at + end.len()).collect();
            }
            assert!(self.more(), "the end of {:?}", String::from_utf8_lossy(&self.unread));
        }
    }

    pub fn take(&mut self, size: usize) -> Vec<u8> {
        while self.unread.len() < size {
            assert!(self.more(), "the end after {} of {size} bytes", self.unread.len());
        }
        self.unread.drain(..size).collect()
    }

    /// Reads a head; 1xx count.
    pub fn head(&mut self) -> Answer {
        let head = String::from_utf8(self.until(b"\r\n\r\n")).unwrap();
        let status = head.split(' ').nth(1).and_then(|status| status.parse().ok());
        Answer {
            status: status.unwrap_or_else(|| panic!("no status in {head:?}")),
            head,
            ..Answer::default()
        }
    }

    /// Reads a whole response to a request with `method`; its framing is what the head says, to the byte.
    pub fn answer(&mut self, method: &str) -> Answer {
        let mut answer = self.head();
        if method == "HEAD" || [204, 304].contains(&answer.status) {
            return answer;
        }
        match (answer.header("content-length"), answer.header("transfer-encoding").as_deref()) {
            (Some(length), None) => answer.body = self.take(length.parse().unwrap()),
            (None, Some("chunked")) => loop {
                let line = self.until(b"\r\n");
                let size = usize::from_str_radix(std::str::from_utf8(&line).unwrap().trim(), 16).unwrap();
                if size == 0 {
                    loop {
                        let line = self.until(b"\r\n");
                        if line == b"\r\n" {
                            return answer;
                        }
                        answer.trailers.push_str(&String::from_utf8(line).unwrap());
                    }
                }
                answer.body.extend(self.take(size));
                assert_eq!(self.take(2), b"\r\n");
            },
            (None, None) => answer.body = self.rest(),
            other => panic!("framing {other:?}"),
        }
        answer
    }

    /// Everything up to the end of the connection.
    pub fn rest(&mut self) -> Vec<u8> {
        while self.more() {}
        std::mem::take(&mut self.unread)
    }

    /// Whether the other side has ended the connection, in order or not.
    pub fn ended(&mut self) -> bool {
        match self.stream.read(&mut [0; 1]) {
            Ok(read) => read == 0,
            Err(error) => error.kind() == std::io::ErrorKind::ConnectionReset,
        }
    }
}

/// Memory of the proxy in kB that is its own: no file, shared with nobody.
pub fn memory(world: &World) -> u64 {
    rollup(world, "Pss_Anon:")
}

/// Memory of the proxy in kB, with its share of what others have mapped, too.
pub fn whole_memory(world: &World) -> u64 {
    rollup(world, "Pss:")
}

fn rollup(world: &World, name: &str) -> u64 {
    let rollup = std::fs::read_to_string(format!("/proc/{}/smaps_rollup", world.proxy.0.id())).unwrap();
    let line = rollup.lines().find(|line| line.starts_with(name)).unwrap();
    line.split_whitespace().nth(1).unwrap().parse().unwrap()
}

/// The bytes of `/bytes/N` and `/chunked/N`.
pub fn pattern(size: usize) -> Vec<u8> {
    (0..size).map(|i| ((i * 31 + (i >> 8)) & 255) as u8).collect()
}

/// Waits until `what` holds.
pub fn until(what: &str, mut holds: impl FnMut() -> bool) {
    let end = Instant::now() + PATIENCE;
    while !holds() {
        assert!(Instant::now() < end, "{what}");
        std::thread::sleep(Duration::from_millis(10));
    }
}
