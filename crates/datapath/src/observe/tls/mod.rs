//! Plaintext of TLS: uprobes in the libraries that meshed processes use, for the services that ask for it.
//!
//! Nothing of it is pinned. A probe is a breakpoint in other people's programs; it must not outlive who looks after it, so the
//! kernel takes it out when this process ends, however it ends.

#[cfg(target_arch = "x86_64")]
mod cost;
mod go;
mod library;
mod processes;
mod site;

use std::collections::{BTreeMap, HashSet};
use std::io::{self, ErrorKind};
use std::net::SocketAddr;
use std::os::fd::AsRawFd;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use libbpf_rs::{Link, MapCore, MapFlags, MapHandle, Object, ProgramMut, UprobeMultiOpts};

use crate::abi::address_words;
use crate::bundle::Bundle;
use crate::error::io_error;
use crate::maps::Map;
use crate::{Error, Options, environment, upgrade, variant};

use super::abi::{tls_key, tls_limits, tls_server};
use super::{Limits, with_site, write_set};
pub use library::{Family, Function, Library};
use processes::{Cache, FileId};
pub use site::Costly;

/// New processes are looked for this often, by whoever calls [`Tls::look`].
const LOOK: Duration = Duration::from_secs(1);
/// And this often at what the others have mapped since.
const LOOK_AT_ALL: Duration = Duration::from_secs(10);
/// Files with probes at a time. What is beyond is told.
const FILES: usize = 64;

/// Why the plaintext of TLS cannot be seen on this machine, whatever the library; `None`: nothing stands against it.
pub fn obstacle() -> Option<&'static str> {
    if !cfg!(target_arch = "x86_64") {
        return Some("probes are placed by reading instructions of x86-64, and this machine has others");
    }
    // Without it no session is known to be a service's.
    (!variant::may_ask_pid())
        .then_some("it needs Linux 6.10 or newer: before, a packet does not tell whose thread sends it")
}

/// What probes cost here, and in which libraries of this machine they could be.
pub(crate) fn on_this_machine(object: &Object) -> Result<String, Error> {
    let mut words = vec![told(cost(object)?)];
    let mut seen = HashSet::new();
    for (path, name) in processes::installed() {
        let new = FileId::of(&path).is_ok_and(|id| seen.insert(id));
        if let Some(library) = Library::open(&path).ok().flatten().filter(|_| new) {
            words.push(library.told(&name));
        }
    }
    Ok(words.join("; "))
}

/// What probes cost, measured where they would be paid.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Cost {
    /// A call of a function of a library: its return is seen, too.
    pub call: Duration,
    /// A probe that is passed, as those in programs of Go are.
    pub passed: Duration,
}

/// What probes cost, in words.
pub fn told(cost: Cost) -> String {
    let [call, passed] = [cost.call, cost.passed].map(|cost| cost.as_secs_f64() * 1e6);
    format!(
        "a call into a probed function takes {call:.2} us longer here, and a probe in Go's {passed:.2} us"
    )
}

/// A file in which the probes are, or ought to be.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Probed {
    /// What it is called where it was found.
    pub name: String,
    /// Its functions.
    pub library: Library,
    /// Why it has no probe at all; `None`: it has those that the functions say.
    pub refused: Option<String>,
}

/// What has changed since the last look.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Change {
    /// Probes were placed in a file, or it was found that none can be.
    Found(Probed),
    /// Nobody uses the file any more, so its probes are gone.
    Left(String),
}

struct Attached {
    probed: Probed,
    /// Dropped, they take the probes out.
    _links: Vec<Link>,
    seen: bool,
}

/// The probes.
pub(super) struct Tls {
    object: Object,
    /// At the cgroups.
    _links: Vec<Link>,
    servers: Map<tls_server, u32>,
    served: Vec<SocketAddr>,
    sessions: MapHandle,
    cgroups: Vec<PathBuf>,
    files: BTreeMap<FileId, Attached>,
    known: Cache<Option<Library>>,
    processes: HashSet<u32>,
    looked: Option<Instant>,
    looked_at_all: Option<Instant>,
    cost: Cost,
}

impl Tls {
    pub(super) fn attach(options: &Options, limits: &Limits, bundle: &Bundle) -> Result<Self, Error> {
        let refused =
            |why: &str| Error::kernel("cannot see", "the plaintext of TLS", io::Error::other(why.to_owned()));
        if let Some(obstacle) = obstacle() {
            return Err(refused(obstacle));
        }
        let most = tls_limits::TLS_CGROUPS.0 as usize;
        if options.cgroups.len() > most {
            let many = options.cgroups.len();
            return Err(refused(&format!(
                "there are {many} meshed cgroups, and at most {most} can be told apart; mesh one above them"
            )));
        }
        let object = with_site(options, limits, |site| upgrade::load_asked(site, bundle, "observe_tls"))?;
        let mut links = Vec::new();
        let cgroups = map(&object, "tls_cgroups")?;
        for (place, path) in (0u32..).zip(&options.cgroups) {
            let cgroup = environment::open_cgroup(path)?;
            let error = |action, e| Error::kernel(action, path.display().to_string(), io_error(e));
            let descriptor = cgroup.fd.as_raw_fd().to_ne_bytes();
            cgroups
                .update(&place.to_ne_bytes(), &descriptor, MapFlags::ANY)
                .map_err(|e| error("cannot look for TLS in", e))?;
            for name in ["alize_tls_egress", "alize_tls_release"] {
                let link = program(&object, name)?.attach_cgroup(cgroup.fd.as_raw_fd());
                links.push(link.map_err(|e| error("cannot attach to", e))?);
            }
        }
        let tls = Self {
            servers: Map::new(map(&object, "tls_servers")?)?,
            served: Vec::new(),
            sessions: map(&object, "tls_sessions")?,
            cost: cost(&object)?,
            object,
            _links: links,
            cgroups: options.cgroups.clone(),
            files: BTreeMap::new(),
            known: Cache::new(),
            processes: HashSet::new(),
            looked: None,
            looked_at_all: None,
        };
        Ok(tls)
    }

    /// Those whose sessions are looked at.
    pub(super) fn servers(&self) -> &[SocketAddr] {
        &self.served
    }

    /// Has these servers' sessions looked at, and no others.
    pub(super) fn serve(&mut self, servers: &[SocketAddr]) -> Result<(), Error> {
        self.served = servers.to_vec();
        let entry = |server: &SocketAddr| tls_server {
            address: address_words(server.ip()),
            port: server.port().to_be(),
            zero: 0,
        };
        write_set(&self.servers, |_| true, servers.iter().map(entry))
    }

    /// What probes cost in a process that is not looked at.
    pub(super) fn cost(&self) -> Cost {
        self.cost
    }

    pub(super) fn files(&self) -> impl Iterator<Item = &Probed> {
        self.files.values().map(|attached| &attached.probed)
    }

    /// Places probes in what processes have begun to use since, and takes out those that nobody uses.
    pub(super) fn look(&mut self) -> Result<Vec<Change>, Error> {
        let mut changes = Vec::new();
        if self.looked.is_some_and(|looked| looked.elapsed() < LOOK) {
            return Ok(changes);
        }
        self.looked = Some(Instant::now());
        let all = self.looked_at_all.is_none_or(|looked| looked.elapsed() >= LOOK_AT_ALL);
        let processes = processes::processes(&self.cgroups);
        let before = std::mem::replace(&mut self.processes, processes);
        let new: Vec<u32> =
            self.processes.iter().copied().filter(|process| all || !before.contains(process)).collect();
        if all {
            self.looked_at_all = Some(Instant::now());
            self.files.values_mut().for_each(|attached| attached.seen = false);
            for (path, name) in processes::installed() {
                self.meet(&path, name, &mut changes)?;
            }
        }
        for process in new {
            for (path, name) in processes::mapped(process) {
                self.meet(&path, name, &mut changes)?;
            }
        }
        if all {
            self.forget(&mut changes);
            self.sweep()?;
        }
        Ok(changes)
    }

    /// A file is in use.
    fn meet(&mut self, path: &Path, name: String, changes: &mut Vec<Change>) -> Result<(), Error> {
        // Its process may have ended meanwhile.
        let Ok(id) = FileId::of(path) else { return Ok(()) };
        if let Some(attached) = self.files.get_mut(&id) {
            attached.seen = true;
            return Ok(());
        }
        let found = match self.known.get(&id) {
            Some(known) => known.clone(),
            None => {
                let Ok(found) = Library::open(path) else { return Ok(()) };
                self.known.insert(id, found.clone());
                found
            }
        };
        let Some(library) = found else { return Ok(()) };
        let (links, refused) = if let Some(refused) = library.refused() {
            (Vec::new(), Some(refused))
        } else if self.files.len() >= FILES {
            (Vec::new(), Some(format!("probes are in {FILES} files already, which is all there can be")))
        } else {
            match self.place(path, &library) {
                Ok(links) => (links, None),
                Err(error) if error.kind() == ErrorKind::NotFound => return Ok(()),
                Err(error) => (Vec::new(), Some(error.to_string())),
            }
        };
        let probed = Probed { name, library, refused };
        changes.push(Change::Found(probed.clone()));
        self.files.insert(id, Attached { probed, _links: links, seen: true });
        Ok(())
    }

    /// Links of one file: those that see a call, those that see its return, and the end of sessions.
    fn place(&self, path: &Path, library: &Library) -> io::Result<Vec<Link>> {
        let probes = library.probes();
        let of =
            |program| probes.iter().copied().filter(|probe| probe.program() == program).collect::<Vec<_>>();
        let (calls, ends, of_go) = (of("alize_tls_enter"), of("alize_tls_free"), of("alize_tls_go"));
        let programs = [
            ("alize_tls_leave", true, &calls),
            ("alize_tls_enter", false, &calls),
            ("alize_tls_free", false, &ends),
            ("alize_tls_go", false, &of_go),
        ];
        let mut links = Vec::new();
        for (name, retprobe, probes) in programs.into_iter().filter(|(_, _, probes)| !probes.is_empty()) {
            let options = UprobeMultiOpts {
                offsets: probes.iter().map(|probe| probe.offset).collect(),
                cookies: probes.iter().map(|probe| probe.cookie).collect(),
                retprobe,
                ..UprobeMultiOpts::default()
            };
            let program = program(&self.object, name).map_err(io::Error::other)?;
            // Of all processes: those that start later are seen from their first call on.
            links.push(program.attach_uprobe_multi_with_opts(-1, path, "", options).map_err(io_error)?);
        }
        Ok(links)
    }

    fn forget(&mut self, changes: &mut Vec<Change>) {
        self.files.retain(|_, attached| {
            if !attached.seen {
                changes.push(Change::Left(attached.probed.name.clone()));
            }
            attached.seen
        });
        if self.known.len() > 16 * FILES {
            self.known.clear();
        }
    }

    /// Takes out sessions of processes that ended without closing them.
    fn sweep(&self) -> Result<(), Error> {
        let gone = self.sessions.keys().filter(|key| {
            let process = tls_key_process(key);
            process.is_some_and(|process| !Path::new(&format!("/proc/{process}")).exists())
        });
        for key in gone.collect::<Vec<_>>() {
            // It may be gone by itself.
            let _ = self.sessions.delete(&key);
        }
        Ok(())
    }
}

fn tls_key_process(key: &[u8]) -> Option<u32> {
    use crate::abi::Plain;
    tls_key::read(key).map(|key| key.process)
}

fn map(object: &Object, name: &str) -> Result<MapHandle, Error> {
    let error = |e| Error::kernel("cannot keep map", name, e);
    let map = object.maps().find(|map| map.name() == name);
    let map = map.ok_or_else(|| error(io::Error::other("no program uses it")))?;
    MapHandle::try_from(&map).map_err(|e| error(io_error(e)))
}

fn program<'a>(object: &'a Object, name: &str) -> Result<ProgramMut<'a>, Error> {
    let found = object.progs_mut().find(|program| program.name() == name);
    found.ok_or_else(|| {
        Error::kernel("cannot find program", name, io::Error::other("it is not in its object"))
    })
}

#[cfg(target_arch = "x86_64")]
fn cost(object: &Object) -> Result<Cost, Error> {
    cost::measure(object)
}

#[cfg(not(target_arch = "x86_64"))]
fn cost(_: &Object) -> Result<Cost, Error> {
    Ok(Cost { call: Duration::ZERO, passed: Duration::ZERO })
}
