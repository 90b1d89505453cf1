//! Two versions of the programs, both built from this tree: one with another map layout. Nothing that is open is lost on the
//! way there and back, whatever fails on it.

#![expect(clippy::print_stdout, reason = "figures are for people")]

mod world;

use std::collections::HashSet;
use std::fs;
use std::io::{Read, Write};
use std::net::TcpStream;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use alize_datapath::bundle::{Bundle, Refused, SecretKey, Store, Trust};
use alize_datapath::{DataPath, Error, Options, inspect, running_bundles};
use libbpf_cargo::SkeletonBuilder;
use world::{TcpServer, World, apply, dial, service};

const STEPS: [&str; 7] = ["plan", "load", "self-test", "carry-over", "note", "switch", "pins"];

/// A folder that goes with the test.
struct Folder(PathBuf);

impl Folder {
    fn new(name: &str) -> Self {
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
const ALL: [&str; 14] = [
    "sockops",
    "release",
    "getpeername",
    "recvmsg",
    "sendmsg",
    "http_entry",
    "http_far",
    "http_back_entry",
    "http_back",
    "http_client",
    "http_sockops",
    "connect",
    "sweep",
    "terminate",
];

/// The objects of this tree, some of them built anew from headers in which each first text is replaced by the second.
fn built(folder: &Folder, version: &str, edits: &[(&str, &str, &str)], anew: &[&str]) -> Bundle {
    let (source, objects) = (folder.0.join(format!("{version}-bpf")), folder.0.join(version));
    copy(Path::new(concat!(env!("CARGO_MANIFEST_DIR"), "/bpf")), &source);
    for (file, from, to) in edits {
        let path = source.join(file);
        let text = fs::read_to_string(&path).unwrap();
        assert!(text.contains(from), "{file} has no {from:?}");
        fs::write(&path, text.replacen(from, to, 1)).unwrap();
    }
    fs::create_dir_all(&objects).unwrap();
    for name in ALL.iter().chain(&["names"]) {
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

fn copy(from: &Path, to: &Path) {
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
const OTHER_LAYOUT: [(&str, &str, &str); 2] = [
    ("alize/abi.h", "	__u64 rtt_samples;\n};", "	__u64 rtt_samples;\n	__u64 not_yet_used;\n};"),
    ("alize/abi.h", "	__u64 seen_ns; /* of the last", "	__u64 not_yet_used;\n	__u64 seen_ns; /* of the last"),
];

fn version_two(folder: &Folder) -> Bundle {
    built(folder, "2.0.0", &OTHER_LAYOUT, &ALL)
}

/// What runs, by its version; more than one while a switch was broken off.
fn running(options: &Options) -> HashSet<String> {
    let running = running_bundles(options).unwrap();
    running.into_iter().map(|running| running.version.unwrap_or_else(|| "unknown".into())).collect()
}

/// Live connections and a stream of new ones. Everything that goes wrong is counted, and the longest silence.
struct Load {
    stop: AtomicBool,
    connects: AtomicU64,
    failed: AtomicU64,
    longest_us: AtomicU64,
}

impl Load {
    const HELD: usize = 200;

    /// Runs `work` under load; what it returns.
    fn during<T>(addresses: &[&str], work: impl FnOnce() -> T) -> T {
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

fn echo(stream: &mut TcpStream, text: &[u8]) -> std::io::Result<()> {
    stream.set_read_timeout(Some(Duration::from_secs(10)))?;
    stream.write_all(text)?;
    let mut back = vec![0; text.len()];
    stream.read_exact(&mut back)?;
    if back == text { Ok(()) } else { Err(std::io::Error::other("other bytes came back")) }
}

/// Three services, one of them with affinity.
fn services(servers: &[TcpServer]) -> String {
    let all: Vec<_> = servers.iter().map(|server| server.address).collect();
    service("web", "127.77.0.1:80", "balance: round-robin,", &all)
        + &service("stay", "127.77.0.2:80", "affinity: 600s,", &all)
        + &service("least", "127.77.0.3:80", "balance: least-connections,", &all)
}

const ADDRESSES: [&str; 3] = ["127.77.0.1:80", "127.77.0.2:80", "127.77.0.3:80"];

fn servers() -> Vec<TcpServer> {
    (0..3).map(|_| TcpServer::start("127.0.0.1:0")).collect()
}

fn connections(data_path: &DataPath, name: &str) -> u64 {
    let id = data_path.service_id(name).unwrap();
    data_path.counters().unwrap().services[&id].0.connections
}

#[test]
fn another_layout_is_carried_over_there_and_back() {
    let world = World::new("layout");
    let (folder, servers) = (Folder::new("layout"), servers());
    let two = version_two(&folder);
    let one = Bundle::embedded().unwrap();
    let mut data_path = world.open();
    apply(&mut data_path, &services(&servers));
    let stays_at = dial(ADDRESSES[1]).unwrap().1;
    Load::during(&ADDRESSES, || {
        for bundle in [&two, &one, &two] {
            let before = connections(&data_path, "web");
            let upgraded = data_path.upgrade(bundle).unwrap_or_else(|error| panic!("{error}"));
            let names: Vec<&str> = upgraded.steps.iter().map(|step| step.name).collect();
            assert_eq!(names, STEPS);
            let plan = &upgraded.steps[0].done;
            assert!(plan.contains("affinity") && plan.contains("endpoint_traffic"), "{plan}");
            assert_eq!(running(&world.options), HashSet::from([bundle.manifest().version.clone()]));
            assert!(connections(&data_path, "web") >= before, "counters go on");
            assert_eq!(dial(ADDRESSES[1]).unwrap().1, stays_at, "who was where is carried over");
            // Changes go on, and none of them moves the client that stays.
            let more = service("more", "127.77.0.9:80", "", &[servers[0].address]);
            apply(&mut data_path, &(services(&servers) + &more));
            apply(&mut data_path, &services(&servers));
        }
    });
    drop(data_path);
    assert_eq!(running(&world.options), HashSet::from(["2.0.0".into()]), "it goes on without the agent");

    // Who simply starts a binary with another bundle upgrades too.
    Load::during(&ADDRESSES, || {
        let (mut data_path, _, steps) = DataPath::open_bundle(&world.options, &one).unwrap();
        assert!(steps.iter().any(|step| step.name == "self-test" && step.done.contains("real connects")));
        assert_eq!(apply(&mut data_path, &services(&servers)).unchanged, 3, "the tables are what they were");
    });
    assert_eq!(running(&world.options), HashSet::from([one.manifest().version.clone()]));
}

#[test]
fn what_fails_leaves_what_ran() {
    let world = World::new("fails");
    let (folder, servers) = (Folder::new("fails"), servers());
    let one = Bundle::embedded().unwrap();
    let mut data_path = world.open();
    apply(&mut data_path, &services(&servers));
    let own = HashSet::from([one.manifest().version.clone()]);
    // A helper that no kernel has; a record on sockets that is another; programs that send nobody anywhere.
    let set_retval =
        ("alize/sock_addr.h", "	bpf_set_retval(-ERRNO_ECONNREFUSED);", "	((long (*)(int))9999)(0);");
    let refused = built(&folder, "2.1.0", &[set_retval], &["connect"]);
    let mode = "	__u16 mode; /* enum mode, of the decision";
    let longer = format!("	__u16 more[4];\n{mode}");
    let fixed = built(&folder, "2.2.0", &[("alize/abi.h", mode, &longer)], &ALL);
    let nowhere = ("alize/decide.h", "	decision->number = number;", "	decision->number = NONE;");
    let idle = built(&folder, "2.3.0", &[nowhere], &["connect"]);
    let two = version_two(&folder);
    Load::during(&ADDRESSES, || {
        for (bundle, step, why) in [
            (&refused, "at step load", "helper number 9999"),
            (&fixed, "at step plan", "map connections"),
            (&idle, "at step self-test", "a connect to a service with an endpoint fails"),
        ] {
            let error = data_path.upgrade(bundle).unwrap_err().to_string();
            assert!(error.contains(step) && (error.contains(why) || error.contains("9999")), "{error}");
            assert!(error.contains("what ran before goes on: 0."), "{error}");
            assert_eq!(running(&world.options), own);
        }
        for step in STEPS.into_iter().filter(|step| *step != "pins").chain(["switch:alize_sendmsg4"]) {
            fault(Some(&format!("{step}=error")));
            let error = data_path.upgrade(&two).unwrap_err().to_string();
            fault(None);
            assert!(error.contains(&format!("at step {}", step.split(':').next().unwrap())), "{error}");
            assert_eq!(running(&world.options), own, "{step}");
            apply(&mut data_path, &services(&servers[..2]));
            apply(&mut data_path, &services(&servers));
        }
    });
    assert!(
        world.pins().iter().all(|pin| !pin.display().to_string().contains("draft")),
        "{:?}",
        world.pins()
    );
    data_path.upgrade(&two).unwrap();
}

/// Sets `ALIZE_FAULT` for this process.
#[allow(unsafe_code)]
fn fault(text: Option<&str>) {
    // SAFETY: other threads of the test read no environment.
    unsafe {
        match text {
            Some(text) => std::env::set_var("ALIZE_FAULT", text),
            None => std::env::remove_var("ALIZE_FAULT"),
        }
    }
}

/// Not a test: what the next one kills. It upgrades an instance that its environment names.
#[test]
#[ignore = "run by the test below, in a process of its own"]
fn killed() {
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
    DataPath::open_bundle(&options, &bundle).unwrap_or_else(|error| panic!("{error}"));
}

#[test]
fn killed_at_every_step_old_or_new_is_in_force() {
    let world = World::new("killed");
    let (folder, servers) = (Folder::new("killed"), servers());
    let mut data_path = world.open();
    apply(&mut data_path, &services(&servers));
    drop(data_path);
    let two = folder.0.join("two.bundle");
    fs::write(&two, version_two(&folder).bytes()).unwrap();
    let one = Bundle::embedded().unwrap();
    let options = &world.options;
    let place = [
        options.instance.clone(),
        options.run_dir.display().to_string(),
        world.cgroup().display().to_string(),
        two.display().to_string(),
    ];
    Load::during(&ADDRESSES, || {
        for step in STEPS.into_iter().chain(["switch:alize_getpeername6", "switch:alize_connect4"]) {
            let status = Command::new(std::env::current_exe().unwrap())
                .args(["--exact", "killed", "--ignored"])
                .env("ALIZE_KILLED", place.join("\n"))
                .env("ALIZE_FAULT", format!("{step}=kill"))
                .status()
                .unwrap();
            use std::os::unix::process::ExitStatusExt;
            assert_eq!(status.signal(), Some(9), "{step}: {status}");
            let versions = running(options);
            let both = HashSet::from(["2.0.0".to_owned(), one.manifest().version.clone()]);
            assert!(!versions.is_empty() && versions.is_subset(&both), "{step}: {versions:?}");
            // Whoever starts next has one version again, and the tables as they were.
            let (mut data_path, ..) =
                DataPath::open_bundle(options, &one).unwrap_or_else(|error| panic!("{error}"));
            assert_eq!(running(options), HashSet::from([one.manifest().version.clone()]), "{step}");
            assert_eq!(apply(&mut data_path, &services(&servers)).unchanged, 3, "{step}");
        }
    });
}

/// So many times there and back; `ALIZE_CYCLES` for more.
const CYCLES: usize = 4;

#[test]
fn nothing_grows_over_upgrades() {
    let world = World::new("cycles");
    let (folder, servers) = (Folder::new("cycles"), servers());
    let (one, two) = (Bundle::embedded().unwrap(), version_two(&folder));
    let mut data_path = world.open();
    apply(&mut data_path, &services(&servers));
    let files = || fs::read_dir("/proc/self/fd").unwrap().count();
    let resident = || {
        let statm = fs::read_to_string("/proc/self/statm").unwrap();
        statm.split(' ').nth(1).unwrap().parse::<usize>().unwrap() * 4
    };
    let kernel = |options: &Options| {
        let seen = inspect::inspect(options).unwrap();
        let links: usize = seen.programs.iter().map(|program| program.attached.len()).sum();
        (seen.programs.len(), seen.maps.len(), links)
    };
    let cycles = std::env::var("ALIZE_CYCLES").ok().and_then(|text| text.parse().ok()).unwrap_or(CYCLES);
    // The first round makes what stays: the map of origins, the heap's own reserves.
    for bundle in [&two, &one, &two, &one] {
        data_path.upgrade(bundle).unwrap();
    }
    let mut before = (kernel(&world.options), 0);
    before.1 = files();
    let (resident_before, mut slowest) = (resident(), 0.0f64);
    Load::during(&ADDRESSES, || {
        for _ in 0..cycles {
            for bundle in [&two, &one] {
                let upgraded = data_path.upgrade(bundle).unwrap();
                let switch = upgraded.steps.iter().find(|step| step.name == "switch").unwrap();
                slowest = slowest.max(switch.seconds);
            }
        }
    });
    // Programs and maps that nothing holds are freed after a grace period.
    world::eventually("the kernel has freed what was replaced", || kernel(&world.options) == before.0);
    let grown = resident().saturating_sub(resident_before);
    println!(
        "{cycles} cycles: {:?} programs, maps, links; {grown} KiB more resident; slowest switch {:.1} ms",
        before.0,
        slowest * 1e3
    );
    assert_eq!(files(), before.1, "file descriptors");
    // Threads of the servers for each connection have stacks of their own.
    assert!(grown < 16 * 1024, "{grown} KiB");
}

#[test]
fn what_nobody_vouches_for_is_refused() {
    let folder = Folder::new("trust");
    let path = |name: &str| folder.0.join(name);
    let key = SecretKey::make(&path("key")).unwrap();
    assert!(SecretKey::make(&path("key")).is_err(), "a key is not overwritten");
    let trusted = Trust::of_folder(&folder.0, false).unwrap();
    assert_eq!(trusted.keys, [key]);
    let anybody = Trust { keys: Vec::new(), allow_unsigned: true };
    let nobody = Trust::default();

    let mut bundle = Bundle::embedded().unwrap();
    assert!(matches!(bundle.check(&trusted), Err(Refused::Unsigned)));
    assert!(bundle.check(&anybody).is_ok());
    bundle.sign(&SecretKey::open(&path("key")).unwrap());
    assert!(bundle.check(&trusted).is_ok());
    assert!(matches!(bundle.check(&nobody), Err(Refused::Untrusted(by)) if by == key));

    let bytes = bundle.bytes();
    let again = Bundle::read(&bytes).unwrap();
    assert_eq!((again.digest(), again.signed_by()), (bundle.digest(), Some(key)));
    assert!(again.check(&trusted).is_ok());
    // Any byte that is another is noticed, allowed or not: in head, manifest, signature or objects.
    for at in (0..bytes.len()).step_by(bytes.len() / 300).chain([0, 15, 16, 20, 24]) {
        let mut altered = bytes.clone();
        altered[at] ^= 1;
        let taken = Bundle::read(&altered).and_then(|bundle| bundle.check(&trusted));
        assert!(taken.is_err(), "byte {at} of {}", bytes.len());
    }
    for cut in [0, 10, 24, 1000, bytes.len() - 1] {
        assert!(matches!(Bundle::read(&bytes[..cut]), Err(Refused::Form(_))), "cut at {cut}");
    }
    assert!(matches!(Bundle::read(&[&bytes[..], b"x"].concat()), Err(Refused::Form(_))));
}

#[test]
fn bundles_are_kept_for_the_way_back() {
    let folder = Folder::new("store");
    let store = Store::new(&folder.0.join("kept"), 2);
    assert!(store.list().unwrap().is_empty());
    let error = store.earlier(None, None).unwrap_err();
    assert!(matches!(error, Error::NoEarlierBundle { .. }), "{error}");
    let one = Bundle::embedded().unwrap();
    store.keep(&one).unwrap();
    let objects = folder.0.join("objects");
    fs::create_dir_all(&objects).unwrap();
    let version = |version: &str| built(&folder, version, &[], &[]);
    let two = version("2.0.0");
    thread::sleep(Duration::from_millis(20));
    store.keep(&two).unwrap();
    let back = store.earlier(None, Some(two.digest())).unwrap();
    assert_eq!(back.digest(), one.digest());
    assert_eq!(store.earlier(Some("2.0.0"), None).unwrap().digest(), two.digest());
    assert_eq!(store.earlier(Some(&one.digest().short()), None).unwrap().digest(), one.digest());
    assert!(store.earlier(Some("3.0.0"), None).unwrap_err().to_string().contains("2.0.0"));
    let kept: Vec<String> = store.list().unwrap().into_iter().map(|stored| stored.version).collect();
    assert_eq!(kept, ["2.0.0".to_owned(), one.manifest().version.clone()]);
    thread::sleep(Duration::from_millis(20));
    store.keep(&version("3.0.0")).unwrap();
    let kept: Vec<String> = store.list().unwrap().into_iter().map(|stored| stored.version).collect();
    assert_eq!(kept, ["3.0.0", "2.0.0"], "the oldest goes");
}
