//! Tries a bundle before it is put in force: the same objects, in a cgroup and with maps of their own, and real connects
//! through them.
#![allow(unsafe_code)]

use std::ffi::CString;
use std::fs;
use std::io;
use std::net::{SocketAddrV4, TcpListener};
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use alize_model::{Budgets, HostFacts, Source};

use crate::bundle::Bundle;
use crate::pin::{Pins, entries};
use crate::{
    Availability, Desired, Error, apply, counters, environment, grace, load, plan, read_back, switch, unload,
};

const BUDGETS: Budgets = Budgets { services: 4, endpoints: 4, slots: 16, affinity: 4 };
/// TEST-NET-2 (RFC 5737): nobody's. One service with an endpoint, one without.
const SERVED: SocketAddrV4 = SocketAddrV4::new(std::net::Ipv4Addr::new(198, 51, 100, 1), 80);
const EMPTY: SocketAddrV4 = SocketAddrV4::new(std::net::Ipv4Addr::new(198, 51, 100, 2), 80);
/// Of the cgroup and of the folder of pins, with the process's number behind it.
const NAME: &str = "alize-self-test-";
const PATIENCE: Duration = Duration::from_secs(30);

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

/// Loads `bundle` apart and dials through it: a service is reached and counted, one without endpoint is refused.
pub(crate) fn run(bundle: &Bundle, bpffs: &Path) -> Result<(), Error> {
    let root = environment::cgroup2_root().ok_or(Error::NoCgroup2)?;
    let name = format!("{NAME}{}", std::process::id());
    let place = Place { cgroup: root.join(&name), pins: Pins::apart(bpffs.join(&name)) };
    fs::create_dir(&place.cgroup).map_err(|e| Error::path("cannot make the cgroup", &place.cgroup, e))?;
    let cgroups = [environment::open_cgroup(&place.cgroup)?];
    place.pins.make_folders()?;
    let loading = load::load(&place.pins, &BUDGETS, bundle, &Default::default())?;
    let mut switch = switch::Switch::on_trial();
    loading.in_order().try_for_each(|object| switch.object(object, &place.pins, &cgroups))?;
    let loaded = loading.keep()?;
    let mut picture = read_back(&loaded.maps, &BUDGETS)?;

    let listener = TcpListener::bind("127.0.0.1:0").map_err(|e| failed("cannot listen", e))?;
    let endpoint = listener.local_addr().map_err(|e| failed("cannot listen", e))?;
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

    let procs = place.cgroup.join("cgroup.procs");
    match dial(&procs, SERVED).map_err(|e| failed("cannot dial", e))? {
        0 => {}
        errno => {
            return Err(failed(
                "a connect to a service with an endpoint fails",
                io::Error::from_raw_os_error(errno),
            ));
        }
    }
    listener
        .set_nonblocking(true)
        .and_then(|()| listener.accept())
        .map_err(|e| failed("no connection arrived", e))?;
    match dial(&procs, EMPTY).map_err(|e| failed("cannot dial", e))? {
        libc::ECONNREFUSED => {}
        other => {
            let error = io::Error::other(format!("errno {other} in place of {}", libc::ECONNREFUSED));
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
    Ok(())
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

/// Dials from a process in the cgroup; 0, or the errno of connect().
fn dial(procs: &Path, to: SocketAddrV4) -> io::Result<i32> {
    let procs = CString::new(procs.as_os_str().as_bytes())?;
    let address = libc::sockaddr_in {
        sin_family: libc::AF_INET as u16,
        sin_port: to.port().to_be(),
        sin_addr: libc::in_addr { s_addr: u32::from_ne_bytes(to.ip().octets()) },
        sin_zero: [0; 8],
    };
    // SAFETY: between fork() and _exit() the child makes system calls alone, which are all async-signal-safe, touches no
    // lock and allocates nothing.
    let child = unsafe { libc::fork() };
    match child {
        -1 => Err(io::Error::last_os_error()),
        // SAFETY: this is the child.
        0 => unsafe { libc::_exit(child_dials(&procs, &address)) },
        child => wait(child),
    }
}

/// In the child: joins the cgroup, makes a socket there, connects.
///
/// # Safety
/// To be called after fork() alone.
unsafe fn child_dials(procs: &std::ffi::CStr, address: &libc::sockaddr_in) -> i32 {
    // SAFETY: system calls with buffers that live through the call.
    unsafe {
        let joined = libc::open(procs.as_ptr(), libc::O_WRONLY | libc::O_CLOEXEC);
        if joined < 0 || libc::write(joined, b"0".as_ptr().cast(), 1) != 1 {
            return 254;
        }
        let socket = libc::socket(libc::AF_INET, libc::SOCK_STREAM | libc::SOCK_CLOEXEC, 0);
        let limit = libc::timeval { tv_sec: 5, tv_usec: 0 };
        let size = size_of::<libc::timeval>() as libc::socklen_t;
        libc::setsockopt(
            socket,
            libc::SOL_SOCKET,
            libc::SO_SNDTIMEO,
            std::ptr::from_ref(&limit).cast(),
            size,
        );
        let size = size_of::<libc::sockaddr_in>() as libc::socklen_t;
        match libc::connect(socket, std::ptr::from_ref(address).cast(), size) {
            0 => 0,
            _ => *libc::__errno_location(),
        }
    }
}

fn wait(child: libc::pid_t) -> io::Result<i32> {
    let begun = Instant::now();
    loop {
        let mut status = 0;
        // SAFETY: a child of ours, and a place for its status.
        let ended = unsafe { libc::waitpid(child, &mut status, libc::WNOHANG) };
        match ended {
            0 if begun.elapsed() < PATIENCE => std::thread::sleep(Duration::from_millis(2)),
            0 => {
                // SAFETY: a child of ours that nobody has waited for.
                unsafe {
                    libc::kill(child, libc::SIGKILL);
                    libc::waitpid(child, &mut status, 0);
                }
                return Err(io::Error::from(io::ErrorKind::TimedOut));
            }
            -1 => return Err(io::Error::last_os_error()),
            _ if libc::WIFEXITED(status) && libc::WEXITSTATUS(status) == 254 => {
                return Err(io::Error::other("the process that dials cannot join the cgroup"));
            }
            _ if libc::WIFEXITED(status) => return Ok(libc::WEXITSTATUS(status)),
            _ => return Err(io::Error::other("the process that dials was killed")),
        }
    }
}
