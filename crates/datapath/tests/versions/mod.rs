//! Two versions of the programs, both built from this tree, and load while one takes the other's place.
#![allow(
    dead_code,
    unreachable_pub,
    clippy::print_stdout,
    clippy::print_stderr,
    reason = "each test file uses a part"
)]

use std::collections::HashSet;
use std::fs;
use std::io::{Read, Write};
use std::net::TcpStream;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use alize_datapath::bundle::{Bundle, Store};
use alize_datapath::{Keeping, Options, running_bundles};
use libbpf_cargo::SkeletonBuilder;

use crate::world::{TcpServer, World, dial, service};

pub const STEPS: [&str; 7] = ["plan", "load", "self-test", "carry-over", "note", "switch", "pins"];

/// A folder that goes with the test.
pub struct Folder(pub PathBuf);

impl Folder {
    pub fn new(name: &str) -> Self {
        let path = std::env::temp_dir().join(format!("alize-upgrade-{name}-{}", std::process::id()));
        let _ = fs::remove_dir_all(&path);
        fs::create_dir_all(&path).unwrap();
        Self(path)
    }
}

impl Drop for Folder {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.0);
    }
}

/// All objects but the one without code.
pub const ALL: [&str; 15] = [
    "sockops",
    "release",
    "getpeername",
    "recvmsg",
    "sendmsg",
    "http_entry",
    "http_far",
    "http_back_entry",
    "http_back",
    "http_limit",
    "http_client",
    "http_sockops",
    "connect",
    "sweep",
    "terminate",
];

/// Those that observe.
pub const OBSERVING: [&str; 6] =
    ["observe", "observe_release", "observe_tcp", "http_told", "observe_dns", "observe_tls"];

/// Both.
pub fn all() -> Vec<&'static str> {
    ALL.into_iter().chain(OBSERVING).collect()
}

/// As bundles were before programs that observe were part of them.
pub fn without_observers(
    folder: &Folder,
    version: &str,
    edits: &[(&str, &str, &str)],
    anew: &[&str],
) -> Bundle {
    built_of(&ALL, folder, version, edits, anew)
}

/// The objects of this tree, some of them built anew from headers in which each first text is replaced by the second.
pub fn built(folder: &Folder, version: &str, edits: &[(&str, &str, &str)], anew: &[&str]) -> Bundle {
    built_of(&all(), folder, version, edits, anew)
}

fn built_of(
    objects_of: &[&str],
    folder: &Folder,
    version: &str,
    edits: &[(&str, &str, &str)],
    anew: &[&str],
) -> Bundle {
    let (source, objects) = (folder.0.join(format!("{version}-bpf")), folder.0.join(version));
    copy(Path::new(concat!(env!("CARGO_MANIFEST_DIR"), "/bpf")), &source);
    for (file, from, to) in edits {
        let path = source.join(file);
        let text = fs::read_to_string(&path).unwrap();
        assert!(text.contains(from), "{file} has no {from:?}");
        fs::write(&path, text.replacen(from, to, 1)).unwrap();
    }
    fs::create_dir_all(&objects).unwrap();
    for name in objects_of.iter().chain(&["names"]) {
        let object = format!("{name}.bpf.o");
        fs::copy(Path::new(env!("OUT_DIR")).join(&object), objects.join(&object)).unwrap();
    }
    let include = source.display().to_string();
    let (define, asm) = match std::env::consts::ARCH {
        "aarch64" => ("-D__TARGET_ARCH_arm64", "/usr/include/aarch64-linux-gnu"),
        _ => ("-D__TARGET_ARCH_x86", "/usr/include/x86_64-linux-gnu"),
    };
    for name in anew {
        let args = ["-I", &include, "-idirafter", asm, "-mcpu=v3", "-Wall", "-Werror", define];
        SkeletonBuilder::new()
            .source(source.join(format!("{name}.bpf.c")))
            .obj(objects.join(format!("{name}.bpf.o")))
            .clang_args(args)
            .build()
            .unwrap_or_else(|error| panic!("{name}: {error:?}"));
    }
    Bundle::from_folder(&objects, version, "the test's own").unwrap_or_else(|error| panic!("{error}"))
}

pub fn copy(from: &Path, to: &Path) {
    fs::create_dir_all(to).unwrap();
    for entry in fs::read_dir(from).unwrap().flatten() {
        let target = to.join(entry.file_name());
        if entry.file_type().unwrap().is_dir() {
            copy(&entry.path(), &target);
        } else {
            fs::copy(entry.path(), target).unwrap();
        }
    }
}

/// Counters that grew behind, and a map of the programs alone whose fields have moved.
pub const OTHER_LAYOUT: [(&str, &str, &str); 2] = [
    ("alize/abi.h", "	__u64 rtt_samples;\n};", "	__u64 rtt_samples;\n	__u64 not_yet_used;\n};"),
    ("alize/abi.h", "	__u64 seen_ns; /* of the last", "	__u64 not_yet_used;\n	__u64 seen_ns; /* of the last"),
];

pub fn version_two(folder: &Folder) -> Bundle {
    built(folder, "2.0.0", &OTHER_LAYOUT, &ALL)
}

/// What runs, by its version; more than one while a switch was broken off.
pub fn running(options: &Options) -> HashSet<String> {
    let running = running_bundles(options).unwrap();
    running.into_iter().map(|running| running.version.unwrap_or_else(|| "unknown".into())).collect()
}

/// Live connections and a stream of new ones. Everything that goes wrong is counted, and the longest silence.
pub struct Load {
    stop: AtomicBool,
    connects: AtomicU64,
    failed: AtomicU64,
    longest_us: AtomicU64,
}

impl Load {
    const HELD: usize = 200;

    /// Runs `work` under load; what it returns.
    pub fn during<T>(addresses: &[&str], work: impl FnOnce() -> T) -> T {
        let load = Self {
            stop: AtomicBool::new(false),
            connects: AtomicU64::new(0),
            failed: AtomicU64::new(0),
            longest_us: AtomicU64::new(0),
        };
        let mut held: Vec<TcpStream> =
            (0..Self::HELD).map(|at| dial(addresses[at % addresses.len()]).unwrap().0).collect();
        let result = thread::scope(|scope| {
            for address in addresses {
                scope.spawn(|| load.dials(address));
            }
            scope.spawn(|| load.asks(&mut held));
            let result = std::panic::catch_unwind(std::panic::AssertUnwindSafe(work));
            load.stop.store(true, Ordering::Relaxed);
            result
        });
        for stream in &mut held {
            echo(stream, b"still here").expect("a connection that was open is open");
        }
        let count = |counter: &AtomicU64| counter.load(Ordering::Relaxed);
        println!(
            "{} connects, {} failed; {} connections held, longest gap of a caller {:.1} ms",
            count(&load.connects),
            count(&load.failed),
            Self::HELD,
            count(&load.longest_us) as f64 / 1e3
        );
        assert!(count(&load.connects) > 0);
        assert_eq!(count(&load.failed), 0, "a connect or a request failed");
        result.unwrap_or_else(|panic| std::panic::resume_unwind(panic))
    }

    fn dials(&self, address: &str) {
        let mut last = Instant::now();
        while !self.stop.load(Ordering::Relaxed) {
            // The machine is others' too.
            thread::sleep(Duration::from_millis(1));
            let answered = dial(address).and_then(|(mut stream, _)| echo(&mut stream, b"new"));
            if let Err(error) = answered {
                eprintln!("{address}: {error}");
                self.failed.fetch_add(1, Ordering::Relaxed);
            }
            self.connects.fetch_add(1, Ordering::Relaxed);
            self.longest_us.fetch_max(last.elapsed().as_micros() as u64, Ordering::Relaxed);
            last = Instant::now();
        }
    }

    /// Requests on connections that stay.
    fn asks(&self, held: &mut [TcpStream]) {
        for at in (0..held.len()).cycle() {
            if self.stop.load(Ordering::Relaxed) {
                return;
            }
            thread::sleep(Duration::from_millis(1));
            if let Err(error) = echo(&mut held[at], b"a request on a connection of before") {
                eprintln!("held connection {at}: {error}");
                self.failed.fetch_add(1, Ordering::Relaxed);
            }
        }
    }
}

pub fn echo(stream: &mut TcpStream, text: &[u8]) -> std::io::Result<()> {
    stream.set_read_timeout(Some(Duration::from_secs(10)))?;
    stream.write_all(text)?;
    let mut back = vec![0; text.len()];
    stream.read_exact(&mut back)?;
    if back == text { Ok(()) } else { Err(std::io::Error::other("other bytes came back")) }
}

/// Three services, one of them with affinity.
pub fn services(servers: &[TcpServer]) -> String {
    let all: Vec<_> = servers.iter().map(|server| server.address).collect();
    service("web", "127.77.0.1:80", "balance: round-robin,", &all)
        + &service("stay", "127.77.0.2:80", "affinity: 600s,", &all)
        + &service("least", "127.77.0.3:80", "balance: least-connections,", &all)
}

pub const ADDRESSES: [&str; 3] = ["127.77.0.1:80", "127.77.0.2:80", "127.77.0.3:80"];

pub fn servers() -> Vec<TcpServer> {
    (0..3).map(|_| TcpServer::start("127.0.0.1:0")).collect()
}

/// Sets `ALIZE_FAULT` for this process.
#[allow(unsafe_code)]
pub fn fault(text: Option<&str>) {
    // SAFETY: other threads of the test read no environment.
    unsafe {
        match text {
            Some(text) => std::env::set_var("ALIZE_FAULT", text),
            None => std::env::remove_var("ALIZE_FAULT"),
        }
    }
}

/// Bundles are kept in `folder`.
pub fn keeping(folder: &Path) -> Keeping {
    Keeping { store: Store::new(folder, Store::KEEP), chosen: true }
}

/// What a process of its own does, to be killed: it upgrades an instance that its environment names.
pub fn upgrade_as_told() {
    let Ok(place) = std::env::var("ALIZE_KILLED") else { return };
    let [instance, run_dir, cgroup, bundle]: [&str; 4] =
        place.split('\n').collect::<Vec<_>>().try_into().expect("four lines");
    let options = Options {
        instance: instance.into(),
        bpffs: "/sys/fs/bpf".into(),
        run_dir: run_dir.into(),
        cgroups: vec![cgroup.into()],
        budgets: World::BUDGETS,
    };
    let bundle = Bundle::open(Path::new(bundle)).unwrap();
    let keeping = keeping(&options.run_dir.join("bundles"));
    if let Err(error) = alize_datapath::upgrade_pinned(&options, &bundle, &keeping) {
        eprintln!("{error}");
        std::process::exit(7);
    }
}
