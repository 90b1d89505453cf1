//! A cgroup of its own for a test, with this process inside, and real servers on loopback.
//!
//! Needs root: without, tests fail and say so. The cgroup, the pins and the lock are removed when the world is dropped.
#![allow(dead_code, unreachable_pub, reason = "each test file uses a part")]

use std::fs;
use std::io::{Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream, UdpSocket};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread;
use std::time::{Duration, Instant};

use alize_datapath::{Applied, Availability, DataPath, Desired, Error, Opened, Options};
use alize_model::{Budgets, HostFacts, Snapshot, Source};

/// A process is in one cgroup, so in one process tests take turns. (nextest gives each its own process.)
static TURN: Mutex<()> = Mutex::new(());

pub struct World {
    pub options: Options,
    cgroup: PathBuf,
    _turn: MutexGuard<'static, ()>,
}

impl World {
    pub const BUDGETS: Budgets = Budgets { services: 256, endpoints: 1024, slots: 65_536, affinity: 1024 };

    pub fn new(test: &str) -> Self {
        Self::with_budgets(test, Self::BUDGETS)
    }

    pub fn with_budgets(test: &str, budgets: Budgets) -> Self {
        let turn = TURN.lock().unwrap_or_else(PoisonError::into_inner);
        let name = format!("datapath-{test}-{}", std::process::id());
        let cgroup = alize_datapath::cgroup2_root().expect("cgroup v2 is mounted").join(&name);
        fs::create_dir(&cgroup)
            .expect("tests of the kernel need root and a cgroup v2 that can be written to");
        join(&cgroup);
        let options = Options {
            instance: name.clone(),
            bpffs: "/sys/fs/bpf".into(),
            run_dir: std::env::temp_dir().join(&name),
            cgroups: vec![cgroup.clone()],
            budgets,
        };
        Self { options, cgroup, _turn: turn }
    }

    pub fn open(&self) -> DataPath {
        self.open_as(Opened::Fresh)
    }

    pub fn open_as(&self, expected: Opened) -> DataPath {
        let (data_path, opened) = DataPath::open(&self.options).unwrap_or_else(|error| panic!("{error}"));
        assert_eq!(opened, expected);
        // bpf_sock_destroy() came with Linux 6.5; without it one feature is off, and says so.
        let kallsyms = std::fs::read_to_string("/proc/kallsyms").unwrap_or_default();
        let terminates = kallsyms.lines().any(|line| line.ends_with(" bpf_sock_destroy"));
        for program in data_path.programs() {
            match program.off {
                Some(why) if program.name == "terminate" && !terminates => {
                    assert!(why.contains("6.5"), "{why}")
                }
                off => assert_eq!(off, None, "{} is off on this machine", program.name),
            }
        }
        data_path
    }

    pub fn cgroup(&self) -> &Path {
        &self.cgroup
    }

    /// What is left in bpffs.
    pub fn pins(&self) -> Vec<PathBuf> {
        let mut found = Vec::new();
        let mut waiting = vec![self.options.bpffs.join("alize").join(&self.options.instance)];
        while let Some(path) = waiting.pop() {
            if let Ok(entries) = fs::read_dir(&path) {
                waiting.extend(entries.map(|entry| entry.unwrap().path()));
            }
            if path.exists() {
                found.push(path);
            }
        }
        found
    }
}

impl Drop for World {
    fn drop(&mut self) {
        join(self.cgroup.parent().expect("the cgroup was made below another"));
        let unloaded = alize_datapath::unload(&self.options);
        let removed = remove_cgroup(&self.cgroup);
        let _ = fs::remove_dir_all(&self.options.run_dir);
        if !thread::panicking() {
            unloaded.unwrap_or_else(|error| panic!("{error}"));
            removed.expect("nobody but this process was in the cgroup");
        }
    }
}

/// Moves this process to `cgroup`.
pub fn join(cgroup: &Path) {
    fs::write(cgroup.join("cgroup.procs"), std::process::id().to_string()).expect("a cgroup can be joined");
}

/// A cgroup can be removed a moment after its last process has left.
fn remove_cgroup(cgroup: &Path) -> std::io::Result<()> {
    for entry in fs::read_dir(cgroup)?.flatten() {
        if entry.path().is_dir() {
            fs::remove_dir(entry.path())?;
        }
    }
    fs::remove_dir(cgroup)
}

/// The services of a file's text.
pub fn snapshot(services: &str) -> Snapshot {
    let budgets = Budgets { services: u32::MAX, endpoints: u32::MAX, slots: u32::MAX, affinity: u32::MAX };
    let text = format!("services:\n{services}");
    let source = Source { name: "test.yaml", text: &text };
    let (snapshot, _) =
        alize_model::parse(source, &budgets, &HostFacts::default()).expect("the test's file is valid");
    snapshot
}

pub fn try_apply(data_path: &mut DataPath, services: &str) -> Result<Applied, Error> {
    try_apply_with(data_path, services, &Availability::new())
}

pub fn try_apply_with(
    data_path: &mut DataPath,
    services: &str,
    unavailable: &Availability,
) -> Result<Applied, Error> {
    data_path.apply(Desired { snapshot: &snapshot(services), unavailable })
}

pub fn apply(data_path: &mut DataPath, services: &str) -> Applied {
    try_apply(data_path, services).unwrap_or_else(|error| panic!("{error}"))
}

/// One service in the format of the file.
pub fn service(name: &str, address: &str, more: &str, endpoints: &[SocketAddr]) -> String {
    let endpoints: Vec<String> = endpoints.iter().map(|endpoint| format!("\"{endpoint}\"")).collect();
    format!("- {{name: {name}, address: \"{address}\", {more} endpoints: [{}]}}\n", endpoints.join(", "))
}

/// A TCP server that says its own address to everyone who connects, echoes, and ends when dropped.
pub struct TcpServer {
    pub address: SocketAddr,
    stop: Arc<AtomicBool>,
}

impl TcpServer {
    pub fn start(address: &str) -> Self {
        let listener = TcpListener::bind(address).expect("a port of loopback is free");
        let address = listener.local_addr().unwrap();
        let stop = Arc::new(AtomicBool::new(false));
        let stopped = stop.clone();
        thread::spawn(move || {
            for stream in listener.incoming() {
                if stopped.load(Ordering::Relaxed) {
                    break;
                }
                let Ok(stream) = stream else { break };
                thread::Builder::new().stack_size(64 * 1024).spawn(move || serve(stream, address)).unwrap();
            }
        });
        Self { address, stop }
    }
}

fn serve(mut stream: TcpStream, address: SocketAddr) {
    let _ = stream.write_all(format!("{address}\n").as_bytes());
    let mut bytes = [0; 4096];
    while let Ok(read) = stream.read(&mut bytes) {
        if read == 0 || stream.write_all(&bytes[..read]).is_err() {
            break;
        }
    }
}

impl Drop for TcpServer {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
        let _ = TcpStream::connect(self.address);
    }
}

/// A UDP server that answers each datagram with its own address.
pub struct UdpServer {
    pub address: SocketAddr,
    stop: Arc<AtomicBool>,
}

impl UdpServer {
    pub fn start(address: &str) -> Self {
        let socket = UdpSocket::bind(address).expect("a port of loopback is free");
        let address = socket.local_addr().unwrap();
        let stop = Arc::new(AtomicBool::new(false));
        let stopped = stop.clone();
        thread::spawn(move || {
            let mut bytes = [0; 2048];
            while let Ok((_, from)) = socket.recv_from(&mut bytes) {
                if stopped.load(Ordering::Relaxed) {
                    break;
                }
                let _ = socket.send_to(address.to_string().as_bytes(), from);
            }
        });
        Self { address, stop }
    }
}

impl Drop for UdpServer {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
        if let Ok(socket) = UdpSocket::bind(if self.address.is_ipv4() { "127.0.0.1:0" } else { "[::1]:0" }) {
            let _ = socket.send_to(b"end", self.address);
        }
    }
}

/// Connects, and reads which server answered.
pub fn dial(address: &str) -> std::io::Result<(TcpStream, SocketAddr)> {
    dial_address(address.parse().unwrap())
}

pub fn dial_address(address: SocketAddr) -> std::io::Result<(TcpStream, SocketAddr)> {
    let mut stream = TcpStream::connect_timeout(&address, Duration::from_secs(5))?;
    let server = greeting(&mut stream)?;
    Ok((stream, server))
}

pub fn greeting(stream: &mut TcpStream) -> std::io::Result<SocketAddr> {
    let mut text = Vec::new();
    let mut byte = [0];
    loop {
        stream.read_exact(&mut byte)?;
        if byte[0] == b'\n' {
            break;
        }
        text.push(byte[0]);
    }
    let text = String::from_utf8_lossy(&text);
    text.parse().map_err(|_| std::io::Error::other(format!("a server said {text:?}")))
}

/// Sends a datagram and reads who answers.
pub fn ask(socket: &UdpSocket, address: &str) -> std::io::Result<(SocketAddr, SocketAddr)> {
    socket.set_read_timeout(Some(Duration::from_secs(5)))?;
    socket.send_to(b"who", address.parse::<SocketAddr>().unwrap())?;
    let mut bytes = [0; 128];
    let (read, from) = socket.recv_from(&mut bytes)?;
    let server = String::from_utf8_lossy(&bytes[..read]).parse().map_err(std::io::Error::other)?;
    Ok((server, from))
}

/// Waits until `condition` holds.
pub fn eventually(what: &str, mut condition: impl FnMut() -> bool) {
    let start = Instant::now();
    while !condition() {
        assert!(start.elapsed() < Duration::from_secs(10), "not in 10 s: {what}");
        thread::sleep(Duration::from_millis(5));
    }
}

/// A cgroup below the world's.
pub struct Below(pub PathBuf);

impl Below {
    pub fn new(world: &World) -> Self {
        let path = world.cgroup().join("canary");
        fs::create_dir(&path).unwrap();
        Self(path)
    }

    /// Does something as a process of this cgroup.
    pub fn inside<T>(&self, world: &World, what: impl FnOnce() -> T) -> T {
        join(&self.0);
        let done = what();
        join(world.cgroup());
        done
    }
}

impl Drop for Below {
    fn drop(&mut self) {
        eventually("the cgroup is empty", || fs::remove_dir(&self.0).is_ok());
    }
}
