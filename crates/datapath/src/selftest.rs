//! Tries a bundle before it is put in force: the same objects, in a cgroup and with maps of their own, and real connects
//! and a request through them.
use std::fs;
use std::io::{self, Read, Write};
use std::net::{SocketAddrV4, TcpStream};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use alize_model::{Budgets, HostFacts, Source};
use rustix::io::Errno;
use rustix::net::sockopt;

use crate::bundle::Part;
use crate::conformance::nursery::Nursery;
use crate::load::{Ground, Role};
use crate::observe::Limits;
use crate::pin::{Pins, entries};
use crate::{
    Availability, Desired, Error, apply, counters, environment, grace, load, observe, plan, read_back,
    switch, unload,
};

const BUDGETS: Budgets = Budgets { services: 4, endpoints: 4, slots: 16, affinity: 4 };
const LIMITS: Limits = Limits { series: 8, paths: 8, ring_bytes: 65_536, links: 64 };
const REQUEST: &[u8; 36] = b"GET /self-test HTTP/1.1\r\nHost: a\r\n\r\n";
const RESPONSE: &[u8; 38] = b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n";
/// TEST-NET-2 (RFC 5737): nobody's. One service with an endpoint, one without.
const SERVED: SocketAddrV4 = SocketAddrV4::new(std::net::Ipv4Addr::new(198, 51, 100, 1), 80);
const EMPTY: SocketAddrV4 = SocketAddrV4::new(std::net::Ipv4Addr::new(198, 51, 100, 2), 80);
/// Of the cgroup and of the folder of pins, with the process's number behind it.
const NAME: &str = "alize-self-test-";
const PATIENCE: Duration = Duration::from_secs(5);

/// Removes what the test has made, whatever came of it.
struct Place {
    cgroup: PathBuf,
    pins: Pins,
}

impl Drop for Place {
    fn drop(&mut self) {
        if let Err(error) = unload::remove_pins(&self.pins) {
            tracing::warn!("cannot remove what a self-test left behind: {error}");
        }
        let begun = Instant::now();
        // A cgroup can be removed a moment after its last process has ended.
        while fs::remove_dir(&self.cgroup).is_err() && begun.elapsed() < Duration::from_secs(2) {
            std::thread::sleep(Duration::from_millis(5));
        }
    }
}

/// Loads `parts` apart and dials through them: a service is reached and counted, one without endpoint is refused, and a request
/// is observed. Returns what was tried. An object that the kernel refuses is an error if that `loses` something.
pub(crate) fn run(
    parts: &[&Part],
    bpffs: &Path,
    loses: &dyn Fn(&Part) -> bool,
) -> Result<&'static str, Error> {
    let root = environment::cgroup2_root().ok_or(Error::NoCgroup2)?;
    let name = format!("{NAME}{}", std::process::id());
    let place = Place { cgroup: root.join(&name), pins: Pins::apart(bpffs.join(&name)) };
    fs::create_dir(&place.cgroup).map_err(|e| Error::path("cannot make the cgroup", &place.cgroup, e))?;
    let cgroups = [environment::open_cgroup(&place.cgroup)?];
    place.pins.make_folders()?;
    let ground = Ground {
        pins: &place.pins,
        budgets: &BUDGETS,
        limits: &LIMITS,
        changed: &Default::default(),
        on_trial: false,
    };
    let loading = load::load(&ground, parts, loses)?;
    let mut switch = switch::Switch::on_trial();
    let working = parts.iter().filter(|part| part.role != Role::Asked);
    let mut working = working.filter_map(|part| loading.object(part.name));
    working.try_for_each(|object| switch.object(object, &place.pins, &cgroups))?;
    let observes = loading.object("observe").is_some();
    let loaded = loading.keep()?;
    let mut picture = read_back(&loaded.maps, &BUDGETS)?;

    let nursery = Nursery::make(&cgroups[0]).map_err(|e| failed("cannot make sockets", e))?;
    let endpoint = nursery.listener().1;
    let text = format!(
        "services: [{{name: served, address: '{SERVED}', endpoints: ['{endpoint}']}}, \
         {{name: empty, address: '{EMPTY}', endpoints: []}}]"
    );
    let parsed =
        alize_model::parse(Source { name: "self-test", text: &text }, &BUDGETS, &HostFacts::default());
    let (snapshot, _) =
        parsed.map_err(|errors| failed("the test's own services", io::Error::other(errors.to_string())))?;
    let desired = Desired { snapshot: &snapshot, unavailable: &Availability::new() };
    let planned = plan::plan(&picture, desired, &mut |run| loaded.maps.slots.get_run(run.base, run.length))?;
    apply::apply(&loaded.maps, &mut picture, planned)?;
    grace::period();

    exchange(&nursery)?;
    match dial(&nursery, EMPTY).map(drop) {
        Err(Errno::CONNREFUSED) => {}
        other => {
            let error = io::Error::other(format!("{other:?} in place of {}", Errno::CONNREFUSED));
            return Err(failed("a connect to a service without endpoint is not refused", error));
        }
    }
    let counted = counters::read(&loaded.maps, &picture, None)?;
    let connections: u64 = counted.services.values().map(|(traffic, _)| traffic.connections).sum();
    if connections != 1 {
        return Err(failed(
            "connections are counted wrong",
            io::Error::other(format!("{connections} in place of 1")),
        ));
    }
    if !observes {
        return Ok("real connects through them");
    }
    match observe::answered(&place.pins)? {
        1 => Ok("real connects through them, and a request observed"),
        seen => {
            let error = io::Error::other(format!("{seen} in place of 1"));
            Err(failed("requests are observed wrong", error))
        }
    }
}

/// Dials the service and has a request answered.
fn exchange(nursery: &Nursery) -> Result<(), Error> {
    let mut client = dial(nursery, SERVED)
        .map_err(|e| failed("a connect to a service with an endpoint fails", io::Error::from(e)))?;
    let (listener, _) = nursery.listener();
    listener.set_nonblocking(true).map_err(|e| failed("cannot listen", e))?;
    let (mut server, _) = listener.accept().map_err(|e| failed("no connection arrived", e))?;
    let mut exchange = || {
        server.set_nonblocking(false)?;
        server.set_read_timeout(Some(PATIENCE))?;
        client.write_all(REQUEST)?;
        server.read_exact(&mut [0; REQUEST.len()])?;
        server.write_all(RESPONSE)?;
        client.read_exact(&mut [0; RESPONSE.len()])
    };
    exchange().map_err(|e| failed("a request or its response does not arrive", e))
}

fn dial(nursery: &Nursery, to: SocketAddrV4) -> Result<TcpStream, Errno> {
    let socket = nursery.socket().map_err(|_| Errno::NOBUFS)?;
    let wait = |timeout| sockopt::set_socket_timeout(&socket, timeout, Some(PATIENCE));
    wait(sockopt::Timeout::Send)?;
    wait(sockopt::Timeout::Recv)?;
    rustix::net::connect(&socket, &to)?;
    Ok(socket)
}

/// Removes what self-tests have left whose process was killed.
pub(crate) fn sweep(bpffs: &Path) -> Result<(), Error> {
    let root = environment::cgroup2_root().ok_or(Error::NoCgroup2)?;
    for path in entries(bpffs)? {
        let name = path.file_name().unwrap_or_default().to_string_lossy().into_owned();
        let Some(pid) = name.strip_prefix(NAME).and_then(|pid| pid.parse::<u32>().ok()) else { continue };
        if !Path::new("/proc").join(pid.to_string()).exists() {
            drop(Place { cgroup: root.join(&name), pins: Pins::apart(path) });
        }
    }
    Ok(())
}

fn failed(what: &str, error: io::Error) -> Error {
    Error::kernel("the self-test of the programs failed:", what, error)
}
