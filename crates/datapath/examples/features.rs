//! What of the mesh works on the kernel that runs, by real sockets: for `make test-kernels`, which boots others.
//!
//! Prints a JSON object a line: `{"feature", "kind", "state", "why"}`, then `{"program", "verified"}`. With the folder of
//! objects that another compiler has made (examples/compile.rs), it has those verified, and prints the latter only. Needs
//! root, a cgroup v2 that can be written to and bpffs; attaches to a cgroup of its own only.
#![allow(clippy::print_stdout, reason = "its output is what it is for")]

#[path = "features/routed.rs"]
mod routed;
#[path = "features/shown.rs"]
mod shown;
#[path = "features/traced.rs"]
mod traced;
#[path = "features/within_tls.rs"]
mod within_tls;
#[path = "../tests/world/mod.rs"]
mod world;

use std::io::{ErrorKind, Read, Write};
use std::net::{TcpListener, TcpStream, UdpSocket};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::{Path, PathBuf};

use alize_datapath::doctor::{Accepted, Area, Finding, State, examine, verify_object};
use alize_datapath::observe::{Limits, Observer};
use alize_datapath::{DataPath, InForce, capability};
use serde_json::json;
use world::{TcpServer, UdpServer, World, apply, ask, dial, eventually, service};

/// What came of trying a feature.
enum Tried {
    On,
    Degraded(String),
}

/// A feature of the mesh.
struct Feature {
    name: &'static str,
    /// What the doctor calls the programs that it needs; the first says what it lacks on this kernel.
    needs: &'static [&'static str],
    run: fn(&World, &mut DataPath) -> Tried,
}

const FEATURES: [Feature; 16] = [
    Feature { name: "TCP over IPv4", needs: &["balancing at connect()"], run: tcp4 },
    Feature {
        name: "TCP over IPv6, and to v4-mapped addresses",
        needs: &["balancing at connect()"],
        run: tcp6,
    },
    Feature {
        name: "UDP, connected",
        needs: &["balancing at connect()", "UDP: replies"],
        run: udp_connected,
    },
    Feature { name: "UDP, sendto()", needs: &["UDP: sendto()", "UDP: replies"], run: udp_unconnected },
    Feature { name: "getpeername() shows the service", needs: &["getpeername()"], run: peer },
    Feature { name: "no endpoint: refused at once", needs: &["balancing at connect()"], run: refused },
    Feature { name: "connections followed and counted", needs: &["following TCP connections"], run: counted },
    Feature { name: "open connections counted", needs: &["counting open connections"], run: swept },
    Feature { name: "removal: terminate", needs: &["removal: terminate"], run: terminated },
    Feature { name: "HTTP observed", needs: &["HTTP observed"], run: observed },
    Feature { name: "TCP connections traced", needs: &["TCP traced", "HTTP observed"], run: traced_tcp },
    Feature { name: "DNS queries traced", needs: &["DNS traced", "HTTP observed"], run: traced_dns },
    Feature {
        name: "HTTP within TLS observed",
        needs: &["HTTP within TLS", "HTTP observed"],
        run: observed_in_tls,
    },
    Feature {
        name: "HTTP routed in the kernel",
        needs: &[
            "HTTP in the kernel: entries",
            "HTTP in the kernel: responses",
            "HTTP in the kernel: requests",
            "HTTP in the kernel: sockets",
            "HTTP in the kernel",
        ],
        run: routed,
    },
    Feature { name: "`alize programs --stats`", needs: &["balancing at connect()"], run: costs },
    Feature { name: "`alize programs --dump`", needs: &["balancing at connect()"], run: instructions },
];

fn main() {
    if let Some(folder) = std::env::args_os().nth(1) {
        return verify(Path::new(&folder));
    }
    let world = World::new("features");
    let findings = examine(&world.options);
    // For whoever looks at the console of a virtual machine.
    for refused in findings.iter().filter_map(|finding| finding.refused.as_ref()) {
        eprintln!("{}\n{}", refused.rule, refused.log[refused.log.len().saturating_sub(60)..].join("\n"));
    }
    std::panic::set_hook(Box::new(|_| {}));
    let mut opened = DataPath::open(&world.options);
    for feature in &FEATURES {
        let (state, why) = match (lacking(feature, &findings), &mut opened) {
            (Some(why), _) => ("off", Some(why)),
            (None, Err(error)) => ("failed", Some(format!("the data path cannot be opened: {error}"))),
            (None, Ok((data_path, _))) => attempt(feature, &world, data_path, &findings),
        };
        tell(feature.name, "mesh", state, why);
    }
    drop(opened);
    let (state, why) = adopted(&world);
    tell("taken over by the next agent", "mesh", state, why);
    let http = find(&findings, "HTTP in the kernel");
    let told = || http.refused.as_ref().map_or_else(|| http.detail.clone(), |refused| refused.rule.clone());
    let why = (http.state != State::On).then(told);
    tell("HTTP in the kernel: what it relies on", "mesh", if why.is_none() { "on" } else { "off" }, why);
    for (name, tried) in [
        ("programs on kernel functions (fentry)", capability::fentry()),
        ("programs as security modules (LSM)", capability::lsm()),
    ] {
        tell(name, "capability", if tried.is_ok() { "on" } else { "off" }, tried.err());
    }
    findings.iter().flat_map(|finding| &finding.programs).for_each(cost);
}

fn cost(program: &Accepted) {
    let verified = program.verified.or(program.effort.as_ref().map(|effort| effort.walked));
    println!("{}", json!({"program": program.name, "verified": verified}));
}

/// What the kernel says of every object of a folder; of those that have a build for old kernels, of the one that it takes.
fn verify(folder: &Path) {
    let mut objects: Vec<PathBuf> = folder.read_dir().unwrap().map(|entry| entry.unwrap().path()).collect();
    objects.sort();
    for path in objects {
        let name = path.file_name().unwrap().to_string_lossy().into_owned();
        // Types only; trials of what a machine may forbid; what a test loads.
        let others = [
            "abi.bpf.o",
            "conformance_abi.bpf.o",
            "observe_abi.bpf.o",
            "http_abi.bpf.o",
            "observe_emit.bpf.o",
        ];
        if others.contains(&name.as_str()) || name.starts_with("trial_") || name.starts_with("without_fetch_")
        {
            continue;
        }
        let verified = |path: &Path| verify_object(&name, &std::fs::read(path).unwrap());
        let old = folder.join(format!("without_fetch_{name}"));
        let taken = verified(&path).or_else(|refused| match old.exists() {
            true => verified(&old),
            false => Err(refused),
        });
        match taken {
            Ok(programs) => programs.iter().for_each(cost),
            Err(refused) => eprintln!("{name}: {}", refused.rule),
        }
    }
}

fn tell(feature: &str, kind: &str, state: &str, why: Option<String>) {
    println!("{}", json!({"feature": feature, "kind": kind, "state": state, "why": why}));
}

fn find<'a>(findings: &'a [Finding], name: &str) -> &'a Finding {
    let found = findings.iter().find(|finding| finding.area == Area::Feature && finding.name == name);
    found.unwrap_or_else(|| panic!("the doctor does not know {name:?}"))
}

/// Why the kernel does not take the programs.
fn lacking(feature: &Feature, findings: &[Finding]) -> Option<String> {
    let off =
        feature.needs.iter().map(|name| find(findings, name)).find(|finding| finding.state == State::Off)?;
    Some(off.refused.as_ref().map_or_else(|| off.detail.clone(), |refused| refused.rule.clone()))
}

fn attempt(
    feature: &Feature,
    world: &World,
    data_path: &mut DataPath,
    findings: &[Finding],
) -> (&'static str, Option<String>) {
    let tried = catch_unwind(AssertUnwindSafe(|| (feature.run)(world, data_path)));
    // What `alize programs` shows is not less for what its programs do less well.
    let loss = feature
        .needs
        .first()
        .map(|name| find(findings, name))
        .filter(|finding| finding.state == State::Degraded && !feature.name.starts_with('`'));
    match (tried, loss) {
        (Ok(Tried::On), None) => ("on", None),
        (Ok(Tried::On), Some(loss)) => ("degraded", Some(loss.detail.clone())),
        (Ok(Tried::Degraded(why)), _) => ("degraded", Some(why)),
        (Err(panic), _) => {
            let text = panic.downcast_ref::<String>().cloned();
            let text = text.or_else(|| panic.downcast_ref::<&str>().map(|text| (*text).to_owned()));
            ("failed", Some(text.unwrap_or_else(|| "it panicked".into())))
        }
    }
}

fn tcp4(_: &World, data_path: &mut DataPath) -> Tried {
    let servers = [TcpServer::start("127.0.0.1:0"), TcpServer::start("127.0.0.1:0")];
    let endpoints = servers.each_ref().map(|server| server.address);
    apply(data_path, &service("web", "127.77.0.1:80", "balance: round-robin,", &endpoints));
    let mut reached: Vec<_> = (0..10).map(|_| dial("127.77.0.1:80").unwrap().1).collect();
    reached.sort();
    let mut expected = [endpoints; 5].concat();
    expected.sort();
    assert_eq!(reached, expected, "ten connects take turns");
    Tried::On
}

fn tcp6(_: &World, data_path: &mut DataPath) -> Tried {
    let (six, four) = (TcpServer::start("[::1]:0"), TcpServer::start("127.0.0.1:0"));
    let text = service("six", "[fd00:77::1]:80", "", &[six.address])
        + &service("mixed", "[fd00:77::2]:80", "", &[four.address])
        + &service("four", "127.77.0.1:80", "", &[four.address]);
    apply(data_path, &text);
    assert_eq!(dial("[fd00:77::1]:80").unwrap().1, six.address);
    assert_eq!(dial("[fd00:77::2]:80").unwrap().1, four.address);
    assert_eq!(dial("[::ffff:127.77.0.1]:80").unwrap().1, four.address);
    Tried::On
}

fn udp_connected(_: &World, data_path: &mut DataPath) -> Tried {
    let server = UdpServer::start("127.0.0.1:0");
    apply(data_path, &service("dns", "127.77.0.1:53", "protocol: udp,", &[server.address]));
    let socket = UdpSocket::bind("127.0.0.1:0").unwrap();
    socket.connect("127.77.0.1:53").unwrap();
    socket.set_read_timeout(Some(std::time::Duration::from_secs(5))).unwrap();
    socket.send(b"who").unwrap();
    let mut bytes = [0; 64];
    let (read, from) = socket.recv_from(&mut bytes).unwrap();
    assert_eq!(&bytes[..read], server.address.to_string().as_bytes());
    assert_eq!(from, "127.77.0.1:53".parse().unwrap());
    Tried::On
}

fn udp_unconnected(_: &World, data_path: &mut DataPath) -> Tried {
    let (four, six) = (UdpServer::start("127.0.0.1:0"), UdpServer::start("[::1]:0"));
    let text = service("dns", "127.77.0.1:53", "protocol: udp,", &[four.address])
        + &service("dns6", "[fd00:77::1]:53", "protocol: udp,", &[six.address]);
    apply(data_path, &text);
    for (own, address, server) in
        [("127.0.0.1:0", "127.77.0.1:53", four.address), ("[::1]:0", "[fd00:77::1]:53", six.address)]
    {
        let socket = UdpSocket::bind(own).unwrap();
        for _ in 0..3 {
            assert_eq!(ask(&socket, address).unwrap(), (server, address.parse().unwrap()));
        }
    }
    Tried::On
}

fn peer(_: &World, data_path: &mut DataPath) -> Tried {
    let server = TcpServer::start("127.0.0.1:0");
    let text = service("web", "127.77.0.1:80", "", &[server.address])
        + &service("web6", "[fd00:77::1]:80", "", &[server.address]);
    apply(data_path, &text);
    for address in ["127.77.0.1:80", "[fd00:77::1]:80"] {
        let (stream, _) = dial(address).unwrap();
        assert_eq!(stream.peer_addr().unwrap(), address.parse().unwrap());
    }
    Tried::On
}

fn refused(_: &World, data_path: &mut DataPath) -> Tried {
    apply(data_path, &service("web", "127.77.0.1:80", "", &[]));
    match dial("127.77.0.1:80").unwrap_err().kind() {
        ErrorKind::ConnectionRefused => Tried::On,
        ErrorKind::PermissionDenied => Tried::Degraded("the caller hears EPERM, not ECONNREFUSED".into()),
        kind => panic!("the caller hears {kind:?}"),
    }
}

fn counted(_: &World, data_path: &mut DataPath) -> Tried {
    let server = TcpServer::start("127.0.0.1:0");
    let free = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
    let text = service("web", "127.77.0.1:80", "", &[server.address])
        + &service("none", "127.77.0.2:80", "", &[free]);
    apply(data_path, &text);
    let traffic = |data_path: &DataPath, name: &str| {
        let id = data_path.service_id(name).unwrap();
        data_path.counters().unwrap().services.get(&id).map(|counters| counters.0).unwrap_or_default()
    };
    let before = traffic(data_path, "web").established;
    let (stream, _) = dial("127.77.0.1:80").unwrap();
    let now = traffic(data_path, "web");
    assert_eq!((now.established, now.open), (before + 1, 1));
    drop(stream);
    eventually("its end is counted", || traffic(data_path, "web").open == 0);
    dial("127.77.0.2:80").unwrap_err();
    assert_eq!(traffic(data_path, "none").failures[alize_datapath::Failure::Refused as usize], 1);
    Tried::On
}

fn swept(_: &World, data_path: &mut DataPath) -> Tried {
    let server = TcpServer::start("127.0.0.1:0");
    apply(data_path, &service("sweep", "127.77.0.3:80", "", &[server.address]));
    let (mut stream, _) = dial("127.77.0.3:80").unwrap();
    stream.write_all(&[7; 1000]).unwrap();
    stream.read_exact(&mut [0; 1000]).unwrap();
    let id = data_path.service_id("sweep").unwrap();
    eventually("bytes of an open connection are counted", || {
        data_path.counters().unwrap().services[&id].0.bytes_sent == 1000
    });
    Tried::On
}

fn terminated(_: &World, data_path: &mut DataPath) -> Tried {
    let servers = [TcpServer::start("127.0.0.1:0"), TcpServer::start("127.0.0.1:0")];
    let text = |count: usize| {
        let endpoints: Vec<_> = servers[..count].iter().map(|server| server.address).collect();
        service("web", "127.77.0.4:80", "removal: terminate, balance: round-robin,", &endpoints)
    };
    apply(data_path, &text(2));
    let mut held: Vec<_> = (0..2).map(|_| dial("127.77.0.4:80").unwrap()).collect();
    held.retain(|(_, server)| *server == servers[1].address);
    assert_eq!(apply(data_path, &text(1)).terminated, 1);
    let read = held[0].0.read(&mut [0]);
    assert!(!matches!(read, Ok(1..)), "the connection goes on");
    Tried::On
}

/// Requests and responses of a server that writes them as HTTP has them.
fn observed(world: &World, _: &mut DataPath) -> Tried {
    let observer = Observer::open(&world.options, &Limits::default(), &InForce::default())
        .unwrap_or_else(|error| panic!("{error}"));
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap();
    let server = std::thread::spawn(move || {
        let (mut stream, _) = listener.accept().unwrap();
        let mut bytes = [0; 1024];
        while stream.read(&mut bytes).unwrap() > 0 {
            stream.write_all(b"HTTP/1.1 204 No Content\r\n\r\n").unwrap();
        }
    });
    let mut client = TcpStream::connect(address).unwrap();
    for _ in 0..5 {
        client.write_all(b"GET /seen HTTP/1.1\r\nHost: a\r\n\r\n").unwrap();
        assert!(client.read(&mut [0; 1024]).unwrap() > 0);
    }
    drop(client);
    server.join().unwrap();
    let seen = || {
        let mut seen = 0;
        observer
            .series(&mut |series| {
                let ours = series.key.path.as_deref() == Some("/seen") && series.key.status == Some(204);
                seen += if ours { series.count } else { 0 };
            })
            .unwrap();
        seen
    };
    eventually("five exchanges are counted", || seen() == 5);
    Tried::On
}

fn traced_tcp(world: &World, _: &mut DataPath) -> Tried {
    traced::tcp(world);
    Tried::On
}

fn traced_dns(world: &World, _: &mut DataPath) -> Tried {
    traced::dns(world);
    Tried::On
}

fn observed_in_tls(world: &World, _: &mut DataPath) -> Tried {
    within_tls::seen(world);
    Tried::On
}

fn routed(world: &World, data_path: &mut DataPath) -> Tried {
    routed::try_out(world, data_path);
    Tried::On
}

fn costs(world: &World, data_path: &mut DataPath) -> Tried {
    shown::costs(world, data_path);
    Tried::On
}

fn instructions(world: &World, _: &mut DataPath) -> Tried {
    shown::instructions(world);
    Tried::On
}

/// Without an agent connects go on; the next one finds everything.
fn adopted(world: &World) -> (&'static str, Option<String>) {
    let tried = catch_unwind(AssertUnwindSafe(|| {
        let server = TcpServer::start("127.0.0.1:0");
        let (mut data_path, _) = DataPath::open(&world.options).unwrap_or_else(|error| panic!("{error}"));
        apply(&mut data_path, &service("kept", "127.77.0.5:80", "", &[server.address]));
        drop(data_path);
        assert_eq!(dial("127.77.0.5:80").unwrap().1, server.address, "without an agent");
        let (data_path, opened) = DataPath::open(&world.options).unwrap_or_else(|error| panic!("{error}"));
        assert!(matches!(opened, alize_datapath::Opened::Adopted { services: 1, .. }), "{opened:?}");
        assert_eq!(dial("127.77.0.5:80").unwrap().1, server.address, "after the next has come");
        assert!(data_path.service_id("kept").is_some());
    }));
    match tried {
        Ok(()) => ("on", None),
        Err(panic) => ("failed", Some(panic.downcast_ref::<String>().cloned().unwrap_or_default())),
    }
}
