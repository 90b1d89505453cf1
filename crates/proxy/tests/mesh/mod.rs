//! A mesh of one HTTP service for a test: data path, proxy, a server, and clients, all in this process and its cgroup.
#![allow(dead_code, unreachable_pub, reason = "each test file uses a part")]

use std::fs;
use std::io::{BufRead, BufReader, Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::atomic::{AtomicU32, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, mpsc};
use std::thread;
use std::time::{Duration, Instant};

use alize_datapath::{Availability, DataPath, Desired, LiveState, Options, Unavailable};
use alize_model::control::{ProxyEndpoint, ProxyService, ProxyState};
use alize_model::{Budgets, HostFacts, Snapshot, Source};
use alize_proxy::{Handle, Meshed, Routed};

/// A process is in one cgroup, so in one process tests take turns.
static TURN: Mutex<()> = Mutex::new(());
static NUMBER: AtomicU32 = AtomicU32::new(1);

pub struct Mesh {
    /// Gone only while the mesh is taken down.
    data_path: Option<DataPath>,
    pub handle: Handle,
    pub snapshot: Snapshot,
    options: Options,
    cgroup: PathBuf,
    address: SocketAddr,
    servers: Vec<Server>,
    stop: Option<tokio::sync::oneshot::Sender<()>>,
    proxy: Option<thread::JoinHandle<()>>,
    _turn: MutexGuard<'static, ()>,
}

/// Who served how many requests.
#[derive(Debug)]
pub struct Counts {
    pub kernel: u64,
    /// Of those, the ones that went out by TCP.
    pub remote: u64,
    pub proxy: u64,
    pub reasons: Vec<(&'static str, u64)>,
}

impl Counts {
    pub fn total(&self) -> u64 {
        self.kernel + self.proxy
    }

    /// Requests that the kernel left to the proxy for a reason.
    pub fn reason(&self, reason: &str) -> u64 {
        self.reasons.iter().find(|(known, _)| *known == reason).map_or(0, |(_, count)| *count)
    }
}

/// Where the server is, as the kernel sees it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Place {
    /// In the meshed cgroup.
    Here,
    /// In none that is meshed, as on another host.
    Elsewhere,
}

impl Mesh {
    /// With further keys of the service, such as `routes: [...],`.
    pub fn new(test: &str, more: &str) -> Self {
        Self::placed(Place::Here, test, more)
    }

    pub fn placed(place: Place, test: &str, more: &str) -> Self {
        Self::of(place, test, more, &["one"])
    }

    /// With a server of each name.
    pub fn of(place: Place, test: &str, more: &str, names: &[&'static str]) -> Self {
        let turn = TURN.lock().unwrap_or_else(PoisonError::into_inner);
        let name = format!("proxy-{test}-{place:?}-{}", std::process::id()).to_lowercase();
        let cgroup = alize_datapath::cgroup2_root().expect("cgroup v2 is mounted").join(&name);
        fs::create_dir(&cgroup)
            .expect("tests of the kernel need root and a cgroup v2 that can be written to");
        // Sockets belong to the cgroup in which they, or the listener they came from, were made.
        let start = || names.iter().map(|name| Server::start(name)).collect::<Vec<_>>();
        let elsewhere = (place == Place::Elsewhere).then(start);
        join(&cgroup);
        let servers = elsewhere.unwrap_or_else(start);
        let options = Options {
            instance: name.clone(),
            bpffs: "/sys/fs/bpf".into(),
            run_dir: std::env::temp_dir().join(&name),
            cgroups: vec![cgroup.clone()],
            budgets: Budgets { services: 64, endpoints: 256, slots: 65_536, affinity: 64 },
        };
        let (mut data_path, _) = DataPath::open(&options).unwrap_or_else(|error| panic!("{error}"));
        data_path.allow_http(true).unwrap();
        data_path.allow_remote(true).unwrap();
        let address = SocketAddr::from((
            [127, 78, (std::process::id() >> 8) as u8, std::process::id() as u8],
            7000 + NUMBER.fetch_add(1, Ordering::SeqCst) as u16,
        ));
        let endpoints: Vec<String> = servers.iter().map(|server| format!("\"{}\"", server.address)).collect();
        let text = format!(
            "services:\n- {{name: web, address: \"{address}\", protocol: http, {more} endpoints: [{}]}}\n",
            endpoints.join(", ")
        );
        let source = Source { name: "test.yaml", text: &text };
        let (snapshot, _) = alize_model::parse(source, &options.budgets, &HostFacts::default())
            .unwrap_or_else(|error| panic!("{error:?}"));
        data_path.apply(Desired { snapshot: &snapshot, unavailable: &Availability::new() }).unwrap();
        let (handle, stop, proxy) = proxy(&options);
        handle.apply(state(&data_path, &snapshot, 1)).unwrap();
        listening(&options);
        Self {
            data_path: Some(data_path),
            handle,
            snapshot,
            options,
            cgroup,
            address,
            servers,
            stop: Some(stop),
            proxy: Some(proxy),
            _turn: turn,
        }
    }

    pub fn address(&self) -> SocketAddr {
        self.address
    }

    fn data_path(&self) -> &DataPath {
        self.data_path.as_ref().expect("it is there until the mesh is dropped")
    }

    /// Requests that the server has answered.
    pub fn served(&self) -> u64 {
        self.served_each().iter().sum()
    }

    /// The same for each server.
    pub fn served_each(&self) -> Vec<u64> {
        self.servers.iter().map(|server| server.served.load(Ordering::SeqCst)).collect()
    }

    /// The most requests for something slow that each server has worked on at once.
    pub fn most_at_once(&self) -> Vec<u64> {
        self.servers.iter().map(|server| server.busy.most.load(Ordering::SeqCst)).collect()
    }

    /// As when checks of health have found the servers with these places not well, and all others well.
    pub fn lose(&mut self, lost: &[usize]) {
        let web = self.snapshot.services()[0].name.clone();
        let addresses = lost.iter().map(|&place| self.servers[place].address);
        let unavailable: Availability =
            addresses.map(|address| ((web.clone(), address), Unavailable::Unhealthy)).collect();
        self.apply(&self.snapshot.clone(), &unavailable);
    }

    /// As when the service leaves the file.
    pub fn remove(&mut self) {
        self.apply(&Snapshot::default(), &Availability::new());
    }

    /// As when it is in the file again.
    pub fn put_back(&mut self) {
        self.apply(&self.snapshot.clone(), &Availability::new());
    }

    fn apply(&mut self, snapshot: &Snapshot, unavailable: &Availability) {
        let data_path = self.data_path.as_mut().expect("it is there until the mesh is dropped");
        data_path.apply(Desired { snapshot, unavailable }).unwrap();
        self.handle.apply(state(data_path, snapshot, 2)).unwrap();
    }

    pub fn counts(&self) -> Counts {
        let http = self.data_path().http_counters().unwrap();
        let requests = |remote: bool| {
            let rows = http.requests.iter().filter(|row| row.remote || !remote);
            rows.map(|row| row.statuses.iter().sum::<u64>()).sum()
        };
        let (kernel, remote) = (requests(false), requests(true));
        let counters = self.handle.counters();
        let proxy = counters
            .services
            .iter()
            .flat_map(|service| &service.requests)
            .map(|row| row.statuses.iter().sum::<u64>())
            .sum();
        let reasons = http.reasons.into_iter().map(|row| (row.reason, row.count)).collect();
        Counts { kernel, remote, proxy, reasons }
    }

    /// Waits until no slot is lent any more and no connection of a client is open: nothing has leaked.
    pub fn settles(&self) {
        let start = Instant::now();
        loop {
            let (lent, load) = self.data_path().http_outstanding().unwrap();
            let open = self.handle.counters().open;
            if lent == 0 && load == 0 && open <= 1 {
                return;
            }
            assert!(
                start.elapsed() < Duration::from_secs(10),
                "{lent} slots are lent, load {load}, {open} fronts"
            );
            thread::sleep(Duration::from_millis(20));
        }
    }
}

impl Drop for Mesh {
    fn drop(&mut self) {
        self.stop.take();
        if let Some(proxy) = self.proxy.take() {
            let _ = proxy.join();
        }
        join(self.cgroup.parent().expect("the cgroup was made below another"));
        // The lock goes with the data path, and nobody unloads what is locked.
        drop(self.data_path.take());
        let unloaded = alize_datapath::unload(&self.options);
        let removed = fs::remove_dir(&self.cgroup);
        let _ = fs::remove_dir_all(&self.options.run_dir);
        if !thread::panicking() {
            unloaded.unwrap_or_else(|error| panic!("{error}"));
            removed.expect("nobody but this process was in the cgroup");
        }
    }
}

fn proxy(options: &Options) -> (Handle, tokio::sync::oneshot::Sender<()>, thread::JoinHandle<()>) {
    let meshed = Meshed {
        instance: options.instance.clone(),
        bpffs: options.bpffs.clone(),
        cgroups: options.cgroups.clone(),
    };
    let run_dir = options.run_dir.clone();
    let instance = options.instance.clone();
    let (stop, stopped) = tokio::sync::oneshot::channel::<()>();
    let (sender, receiver) = mpsc::channel();
    let thread = thread::spawn(move || {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        runtime.block_on(async {
            let routed = Routed::open(meshed).unwrap_or_else(|error| panic!("{error}"));
            let options = alize_proxy::Options::new(instance, run_dir, routed.clone());
            let ready = |ready: alize_proxy::Ready| {
                let handle = ready.handle.clone();
                routed.start(ready).unwrap_or_else(|error| panic!("{error}"));
                sender.send(handle).unwrap();
            };
            tokio::select! {
                ran = alize_proxy::run(options, ready) => ran.unwrap_or_else(|error| panic!("{error}")),
                _ = stopped => {}
            }
        });
    });
    let handle = receiver.recv_timeout(Duration::from_secs(20)).expect("the proxy is ready");
    (handle, stop, thread)
}

/// Waits until the proxy listens, which it does once it knows what to serve; a connection made before is balanced as a whole.
fn listening(options: &Options) {
    let instance = options.bpffs.join("alize").join(&options.instance);
    let version = fs::read_dir(instance).unwrap().next().expect("the data path is pinned").unwrap();
    let pin = version.path().join("maps/http_listeners");
    let end = Instant::now() + Duration::from_secs(20);
    loop {
        let dump = Command::new("bpftool").args(["-j", "map", "dump", "pinned"]).arg(&pin).output().unwrap();
        assert!(dump.status.success(), "{}", String::from_utf8_lossy(&dump.stderr));
        if dump.stdout.trim_ascii() != b"[]" {
            return;
        }
        assert!(Instant::now() < end, "the proxy does not listen");
        thread::sleep(Duration::from_millis(20));
    }
}

/// What an agent would tell the proxy.
pub fn state(data_path: &DataPath, snapshot: &Snapshot, generation: u64) -> ProxyState {
    let services = snapshot.services().iter().map(|service| {
        let number = data_path.service_id(service.name.as_str()).unwrap();
        let live = data_path.endpoints(number);
        let endpoints = service.endpoints.iter().map(|endpoint| {
            let found = live.iter().find(|live| live.address == endpoint.address).unwrap();
            ProxyEndpoint {
                address: endpoint.address,
                number: found.id,
                usable: found.state == LiveState::Active,
            }
        });
        ProxyService { number, service: service.clone(), endpoints: endpoints.collect() }
    });
    ProxyState { generation, services: services.collect() }
}

/// Moves this process to `cgroup`.
fn join(cgroup: &Path) {
    fs::write(cgroup.join("cgroup.procs"), std::process::id().to_string()).expect("a cgroup can be joined");
}

/// Answers with its own name, the request's target and the length of its body; some targets ask for more.
struct Server {
    address: SocketAddr,
    served: Arc<AtomicU64>,
    busy: Arc<Busy>,
}

/// Requests that a server works on.
#[derive(Default)]
struct Busy {
    now: AtomicU64,
    most: AtomicU64,
}

impl Server {
    fn start(name: &'static str) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap();
        let served = Arc::new(AtomicU64::new(0));
        let busy = Arc::<Busy>::default();
        let (counter, working) = (served.clone(), busy.clone());
        thread::spawn(move || {
            for stream in listener.incoming().flatten() {
                let (counter, working) = (counter.clone(), working.clone());
                thread::Builder::new()
                    .stack_size(128 * 1024)
                    .spawn(move || drop(serve(name, stream, &counter, &working)))
                    .unwrap();
            }
        });
        Self { address, served, busy }
    }
}

/// A blocking socket that was redirected to can wake up with nothing to read (docs/adr/0007).
pub fn again<T>(mut what: impl FnMut() -> std::io::Result<T>) -> std::io::Result<T> {
    loop {
        match what() {
            Err(e) if e.kind() == std::io::ErrorKind::WouldBlock => thread::sleep(Duration::from_millis(1)),
            other => return other,
        }
    }
}

fn serve(name: &str, stream: TcpStream, served: &AtomicU64, busy: &Busy) -> std::io::Result<()> {
    let mut writer = stream.try_clone()?;
    let mut reader = BufReader::new(stream);
    while let Some(mut message) = read_message(&mut reader, true) {
        // Some answer before they have heard what they are asked.
        if message.first.contains(" /early/bad ") {
            writer.write_all(bad()[0].as_bytes())?;
        } else if message.first.contains(" /early") {
            writer.write_all(b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nearly")?;
        }
        if read_body(&mut reader, &mut message).is_none() {
            break;
        }
        served.fetch_add(1, Ordering::SeqCst);
        let target = message.first.split(' ').nth(1).unwrap_or_default().to_owned();
        let head = message.first.starts_with("HEAD ");
        let mut parts = target.trim_start_matches('/').split('/');
        let number = |text: Option<&str>| text.and_then(|text| text.parse::<usize>().ok()).unwrap_or(0);
        match parts.next() {
            Some("size") => {
                let size = number(parts.next());
                writer.write_all(format!("HTTP/1.1 200 OK\r\nContent-Length: {size}\r\n\r\n").as_bytes())?;
                if !head {
                    writer.write_all(&vec![b'x'; size])?;
                }
            }
            Some("chunked") => {
                writer.write_all(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n")?;
                for chunk in 0..number(parts.next()) {
                    writer.write_all(format!("6\r\nchunk{chunk}\r\n").as_bytes())?;
                }
                writer.write_all(b"0\r\n\r\n")?;
            }
            Some("close") => {
                writer.write_all(format!("HTTP/1.1 200 OK\r\n\r\n{name} {target}").as_bytes())?;
                return Ok(());
            }
            Some("early") => {}
            Some("bad") => writer.write_all(bad()[number(parts.next())].as_bytes())?,
            Some("torn") => {
                let text = "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nhello\r\nx\r\n";
                writer.write_all(text.as_bytes())?;
            }
            Some("interim") => {
                let status = number(parts.next());
                writer.write_all(format!("HTTP/1.1 {status} Soon\r\nLink: </a.css>\r\n\r\n").as_bytes())?;
                thread::sleep(Duration::from_millis(number(parts.next()) as u64));
                writer.write_all(b"HTTP/1.1 200 OK\r\nContent-Length: 4\r\n\r\nlast")?;
            }
            Some("die") => {
                let half = number(parts.next());
                if half > 0 {
                    let text = format!("HTTP/1.1 200 OK\r\nContent-Length: 1000\r\n\r\n{}", "x".repeat(half));
                    writer.write_all(text.as_bytes())?;
                }
                return Ok(());
            }
            first => {
                if first == Some("slow") {
                    let now = busy.now.fetch_add(1, Ordering::SeqCst) + 1;
                    busy.most.fetch_max(now, Ordering::SeqCst);
                    thread::sleep(Duration::from_millis(number(parts.next()) as u64));
                    busy.now.fetch_sub(1, Ordering::SeqCst);
                }
                let text = format!("{name} {target} {}", message.body.len());
                let response = format!("HTTP/1.1 200 OK\r\nContent-Length: {}\r\n\r\n{text}", text.len());
                writer.write_all(response.as_bytes())?;
            }
        }
    }
    Ok(())
}

/// What `/bad/N` answers: no responses, or such as two clients could read in two ways.
pub fn bad() -> Vec<String> {
    let fields = "X: y\r\n".repeat(129);
    let heads = [
        "garbage\r\n",
        "HTTP/1.1 2000 OK\r\nContent-Length: 1\r\n",
        "HTTP/1.1 101 Switching Protocols\r\nConnection: upgrade\r\nUpgrade: x\r\n",
        "HTTP/1.1 200 OK\r\nContent-Length: x\r\n",
        "HTTP/1.1 200 OK\r\nContent-Length: 1\r\nContent-Length: 2\r\n",
        "HTTP/1.1 200 OK\r\nContent-Length: 1\r\nTransfer-Encoding: chunked\r\n",
        &format!("HTTP/1.1 200 OK\r\nContent-Length: 1\r\n{fields}"),
    ];
    heads.map(|head| format!("{head}\r\nx")).into()
}

pub struct Message {
    pub first: String,
    pub status: u16,
    pub headers: Vec<(String, String)>,
    pub body: Vec<u8>,
}

impl Message {
    pub fn header(&self, name: &str) -> Option<&str> {
        self.headers.iter().find(|(known, _)| known == name).map(|(_, value)| value.as_str())
    }
}

/// A head, and a body by Content-Length or in chunks.
fn read_message(reader: &mut BufReader<TcpStream>, head_only: bool) -> Option<Message> {
    let first = read_line(reader)?;
    let mut headers = Vec::new();
    loop {
        let line = read_line(reader)?;
        if line.is_empty() {
            break;
        }
        let (name, value) = line.split_once(':')?;
        headers.push((name.to_ascii_lowercase(), value.trim().to_owned()));
    }
    let status = first.split(' ').nth(1).and_then(|text| text.parse().ok()).unwrap_or(0);
    let mut message = Message { first, status, headers, body: Vec::new() };
    if !head_only {
        read_body(reader, &mut message)?;
    }
    Some(message)
}

fn read_body(reader: &mut BufReader<TcpStream>, message: &mut Message) -> Option<()> {
    if message.header("transfer-encoding") == Some("chunked") {
        message.body = read_chunks(reader)?;
        return Some(());
    }
    let length = message.header("content-length").and_then(|text| text.parse().ok()).unwrap_or(0);
    message.body = read_exactly(reader, length)?;
    Some(())
}

fn read_chunks(reader: &mut BufReader<TcpStream>) -> Option<Vec<u8>> {
    let mut body = Vec::new();
    loop {
        let size = usize::from_str_radix(read_line(reader)?.trim(), 16).ok()?;
        body.extend(read_exactly(reader, size)?);
        read_line(reader)?;
        if size == 0 {
            return Some(body);
        }
    }
}

fn read_line(reader: &mut BufReader<TcpStream>) -> Option<String> {
    let mut line = String::new();
    match again(|| reader.read_line(&mut line)) {
        Ok(0) | Err(_) => None,
        Ok(_) => Some(line.trim_end_matches(['\r', '\n']).to_owned()),
    }
}

fn read_exactly(reader: &mut BufReader<TcpStream>, length: usize) -> Option<Vec<u8>> {
    let mut body = vec![0; length];
    let mut read = 0;
    while read < length {
        match again(|| reader.read(&mut body[read..])) {
            Ok(0) | Err(_) => return None,
            Ok(count) => read += count,
        }
    }
    Some(body)
}

pub struct Client(BufReader<TcpStream>);

impl Client {
    pub fn connect(mesh: &Mesh) -> Self {
        Self::to(mesh.address())
    }

    pub fn to(address: SocketAddr) -> Self {
        let stream = TcpStream::connect(address).unwrap();
        stream.set_nodelay(true).unwrap();
        Self(BufReader::new(stream))
    }

    pub fn ask(&mut self, request: &str) -> Message {
        self.send(request);
        self.hear()
    }

    pub fn send(&mut self, request: &str) {
        self.0.get_mut().write_all(request.as_bytes()).unwrap();
    }

    pub fn hear(&mut self) -> Message {
        read_message(&mut self.0, false).expect("a response")
    }

    /// A response that goes on until the connection ends, or in chunks if the proxy has made them of it.
    pub fn hear_to_the_end(&mut self) -> Vec<u8> {
        let head = self.hear_head();
        if head.header("transfer-encoding").is_some() {
            return read_chunks(&mut self.0).expect("chunks");
        }
        let mut body = Vec::new();
        again(|| self.0.read_to_end(&mut body)).expect("the end");
        body
    }

    pub fn hear_head(&mut self) -> Message {
        read_message(&mut self.0, true).expect("the head of a response")
    }

    /// As a caller with this address.
    pub fn from(address: std::net::Ipv4Addr, mesh: &Mesh) -> Self {
        let socket =
            rustix::net::socket(rustix::net::AddressFamily::INET, rustix::net::SocketType::STREAM, None)
                .unwrap();
        rustix::net::bind(&socket, &SocketAddr::from((address, 0))).unwrap();
        rustix::net::connect(&socket, &mesh.address()).unwrap();
        let stream = TcpStream::from(socket);
        stream.set_nodelay(true).unwrap();
        Self(BufReader::new(stream))
    }

    pub fn stream(&mut self) -> &mut TcpStream {
        self.0.get_mut()
    }
}

pub fn get(path: &str) -> String {
    format!("GET {path} HTTP/1.1\r\nHost: web\r\nUser-Agent: test\r\nAccept: */*\r\n\r\n")
}
