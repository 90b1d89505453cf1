//! The data path: kernel programs, their pins, and the exact contents of their maps.
//!
//! Others hand over a desired state ([`Desired`]) and read back counters and events; the layout of the maps, the order
//! of the writes and everything else that is BPF is this crate's secret.
//!
//! - A connect sees a service as it was before a change or as it is after it, never a mixture: what a service is, is
//!   one 64-bit word per address family, and what the word names is complete before it is written and stays until no
//!   program can still be reading it.
//! - Everything is pinned: the kernel goes on without this process, and the next one takes over where it stopped.
//! - What does not fit is refused before the first write.

mod abi;
mod adopt;
mod allocate;
mod apply;
mod attach;
mod btf;
pub mod bundle;
mod canary;
pub mod capability;
mod code;
pub mod conformance;
mod counters;
pub mod doctor;
mod effort;
mod environment;
mod error;
mod events;
pub mod explain;
mod fault;
mod grace;
#[cfg(test)]
mod host;
pub mod http;
mod in_force;
pub mod inspect;
mod iterate;
mod layout;
mod load;
mod log;
mod maps;
mod memory;
mod migrate;
pub mod observe;
mod origins;
mod picture;
mod pin;
mod plan;
mod refused;
mod rejection;
mod selftest;
mod switch;
mod tables;
mod terminate;
mod unload;
mod upgrade;
mod variant;
mod words;

use std::collections::HashMap;
use std::net::SocketAddr;
use std::os::fd::{AsFd, BorrowedFd};
use std::path::PathBuf;
use std::time::Duration;

use alize_model::{Budgets, ServiceName, Snapshot};
use libbpf_rs::{Link, MapHandle};

pub use canary::{HookCounts, Instead, LaneCounts, ReasonCounts, Scope, Trial, trial};
pub use effort::Effort;
pub use environment::cgroup2_root;
pub use error::Error;
pub use in_force::InForce;
pub use memory::{Freed, trim as trim_memory};
pub use origins::{Running, observing_bundles, running_bundles};
pub use refused::Refused;
pub use rejection::Rejection;
pub use unload::{Unloaded, unload, unload_after};
pub use upgrade::{Keeping, Step, Upgraded, upgrade_pinned};

use abi::ServiceWord;
use bundle::Bundle;
use environment::Cgroup;
use events::Events;
use maps::Maps;
use picture::{Picture, run_of};
use pin::{Lock, Pins};
use plan::Plan;

/// Where and how large.
#[derive(Clone, Debug)]
pub struct Options {
    /// Name of the instance; pins live in `<bpffs>/alize/<instance>/v<ABI>/`.
    pub instance: String,
    /// Mount point of bpffs, usually `/sys/fs/bpf`; mounted when it is an empty folder.
    pub bpffs: PathBuf,
    /// Folder for the lock, usually `/run/alize`.
    pub run_dir: PathBuf,
    /// Subtrees that are meshed; folders of cgroup v2.
    pub cgroups: Vec<PathBuf>,
    /// Sizes of the maps when they are made.
    pub budgets: Budgets,
}

/// Why an endpoint gets no new connection although the file says it should.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Unavailable {
    /// Its active checks fail.
    Unhealthy,
    /// It failed the connections of real clients.
    Ejected,
}

/// Endpoints that are unavailable now; whatever is not named is available.
pub type Availability = HashMap<(ServiceName, SocketAddr), Unavailable>;

/// What the kernel should do from now on.
#[derive(Clone, Copy, Debug)]
pub struct Desired<'a> {
    /// The services.
    pub snapshot: &'a Snapshot,
    /// Endpoints to leave out for now. Those of services that are not in the snapshot are ignored.
    pub unavailable: &'a Availability,
}

/// What [`DataPath::apply`] did.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Applied {
    /// Services that are new.
    pub added: u32,
    /// Services whose definition or whose endpoints' availability is another; after a restart of the agent, those for
    /// which something had to be written.
    pub changed: u32,
    /// Services that are gone.
    pub removed: u32,
    /// Services for which nothing was done.
    pub unchanged: u32,
    /// Time spent writing the kernel's maps.
    pub elapsed: Duration,
    /// Sockets closed because their endpoint was removed with `removal: terminate`.
    pub terminated: u32,
}

/// Whether a data path was there already.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Opened {
    /// There was none.
    Fresh,
    /// There was one; it goes on with what it holds.
    Adopted {
        /// Services in its maps.
        services: u32,
        /// Endpoints in its maps, without the removed ones that only wait for their last connection.
        endpoints: u32,
    },
}

/// Connect failures, as the kernel tells them (`enum failure` of abi.h).
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Failure {
    /// Nobody listens.
    Refused,
    /// No answer, until the kernel or the caller gave up.
    Timeout,
    /// No way to the host or network.
    Unreachable,
    /// Answered with a reset during the handshake.
    Reset,
    /// The caller closed its socket before the first SYN was due again.
    Aborted,
    /// No SYN went out (no route, no free port), or an error that is none of these.
    Other,
}

/// Reasons for refusing at once (`enum refusal` of abi.h).
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Refusal {
    /// No endpoint is usable from the caller's address family.
    NoEndpoint,
    /// The tables named an endpoint that does not exist: a bug; it fails closed.
    Stale,
    /// The service has rules that only requests can be held to, and no proxy listens in the caller's network namespace.
    NoProxy,
}

/// `struct traffic` of abi.h, summed over CPUs; `open` comes from `endpoint_load`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Traffic {
    /// TCP connects and UDP flows.
    pub connections: u64,
    /// TCP connections that were established.
    pub established: u64,
    /// Open now: TCP connections and connected UDP sockets.
    pub open: u64,
    /// Indexed by [`Failure`].
    pub failures: [u64; 6],
    /// From client to endpoint, acknowledged.
    pub bytes_sent: u64,
    /// From endpoint to client.
    pub bytes_received: u64,
    /// Segments sent again.
    pub retransmits: u64,
    /// Sum of the samples of smoothed RTT, in microseconds.
    pub rtt_us: u64,
    /// How many samples that is.
    pub rtt_samples: u64,
}

/// `struct decisions` of abi.h, summed over CPUs.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Decisions {
    /// Indexed by [`Refusal`].
    pub refused: [u64; 3],
    /// In mode shadow: connects that would have been balanced.
    pub would_balance: u64,
    /// In mode shadow: connects that would have been refused, indexed by [`Refusal`].
    pub would_refuse: [u64; 3],
    /// Connects that went where the client was before.
    pub affinity_kept: u64,
}

/// `struct outcomes` of abi.h, summed over CPUs: what became of connections in mode shadow.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Outcomes {
    /// TCP connects and UDP flows.
    pub connections: u64,
    /// TCP connections that were established.
    pub established: u64,
    /// Indexed by [`Failure`].
    pub failures: [u64; 6],
}

/// All counters at one moment.
#[derive(Clone, Debug, Default)]
pub struct Counters {
    /// By service number; a service that nobody called is absent.
    pub services: HashMap<u32, (Traffic, Decisions)>,
    /// By endpoint number; an endpoint that nobody was sent to is absent.
    pub endpoints: HashMap<u32, Traffic>,
    /// By service number: what became of connections in mode shadow.
    pub shadow: HashMap<u32, Outcomes>,
    /// By endpoint number: connections that it would have got in mode shadow.
    pub would: HashMap<u32, u64>,
    /// Name of the anomaly (such as `event-lost`) and how often it happened.
    pub anomalies: Vec<(&'static str, u64)>,
}

/// What the kernel has to say at once.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct KernelEvent {
    /// Of the monotonic clock.
    pub time: Duration,
    /// Number of the service.
    pub service: u32,
    /// Number of the endpoint, where one was chosen.
    pub endpoint: Option<u32>,
    /// What happened.
    pub what: KernelEventKind,
    /// Process of the caller.
    pub pid: u32,
    /// Cgroup of the caller: the inode of its folder.
    pub cgroup: u64,
}

/// What a [`KernelEvent`] tells.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum KernelEventKind {
    /// A connect that was let through failed, by the endpoint's fault.
    ConnectFailed(Failure),
    /// A connect or a datagram was refused at once.
    Refused(Refusal),
    /// In mode shadow: one would have been.
    WouldRefuse(Refusal),
}

/// An endpoint as the kernel has it now.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct LiveEndpoint {
    /// Its number.
    pub id: u32,
    /// Where it listens.
    pub address: SocketAddr,
    /// What it takes.
    pub state: LiveState,
    /// Share of new connections, 0 to 1, worked out from the table that was written: of IPv4 callers if the service
    /// has an IPv4 table that is not empty, else of IPv6 callers.
    pub share: f64,
}

/// What an endpoint takes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum LiveState {
    /// New connections.
    Active,
    /// No new connection, because the file says so.
    Draining,
    /// No new connection, because it is not well.
    Unavailable(Unavailable),
    /// No longer in the snapshot; connections are still open.
    Removed,
}

/// A kernel program.
#[derive(Clone, Debug)]
pub struct ProgramStatus {
    /// Its name in the kernel, or that of the object file where no program of it could be loaded.
    pub name: String,
    /// Its number in the kernel, as `bpftool prog` shows it; 0 when it is off.
    pub id: u32,
    /// `None`: on; else why it is off.
    pub off: Option<String>,
}

/// The loaded data path of one instance. Dropping it changes nothing in the kernel: everything is pinned.
pub struct DataPath {
    pins: Pins,
    /// For a later upgrade: where programs go.
    cgroups: Vec<PathBuf>,
    bpffs: PathBuf,
    budgets: Budgets,
    maps: Maps,
    picture: Picture,
    events: Events,
    programs: Vec<ProgramStatus>,
    every_map: Vec<MapHandle>,
    sweep: Option<Link>,
    terminate: Option<load::Terminate>,
    http: Option<http::tables::Tables>,
    /// A version that is tried beside the one in force.
    canary: Option<canary::Canary>,
    in_force: InForce,
    _lock: Lock,
}

impl DataPath {
    /// Loads, verifies, attaches and pins, or adopts what is pinned already: maps are kept, programs are replaced by
    /// this binary's through an atomic link update. Holds the instance's lock until dropped.
    pub fn open(options: &Options) -> Result<(Self, Opened), Error> {
        let (data_path, opened, _) = Self::open_bundle(options, &Bundle::embedded()?)?;
        Ok((data_path, opened))
    }

    /// The same with the programs of `bundle`, whoever vouches for it. If those of another bundle run, these are tried
    /// first; if that or a later step fails, what ran goes on.
    pub fn open_bundle(options: &Options, bundle: &Bundle) -> Result<(Self, Opened, Vec<Step>), Error> {
        Self::open_kept(options, bundle, None)
    }

    fn open_kept(
        options: &Options,
        bundle: &Bundle,
        keeping: Option<&Keeping>,
    ) -> Result<(Self, Opened, Vec<Step>), Error> {
        environment::check_root()?;
        environment::check_kernel()?;
        check_budgets(&options.budgets)?;
        let pins = Pins::new(options)?;
        let cgroups = outermost(&options.cgroups)?;
        environment::ensure_bpffs(&options.bpffs)?;
        let mut lock = Lock::take(options)?;
        pins.check_version()?;
        pins.check_cgroups(&cgroups)?;
        lock.hold(&pins, true)?;

        let fresh = check_pinned(&pins, &options.budgets)?;
        let opened = Self::load(&pins, options, &cgroups, fresh, lock, bundle, keeping);
        memory::trim();
        if opened.is_err()
            && fresh
            && let Err(error) = unload::remove_pins(&pins)
        {
            tracing::warn!("cannot remove what a start that failed left behind: {error}");
        }
        opened
    }

    fn load(
        pins: &Pins,
        options: &Options,
        cgroups: &[Cgroup],
        fresh: bool,
        lock: Lock,
        bundle: &Bundle,
        keeping: Option<&Keeping>,
    ) -> Result<(Self, Opened, Vec<Step>), Error> {
        pins.make_folders()?;
        let running = origins::running(pins)?;
        let other = running.iter().any(|running| running.digest != Some(bundle.digest()));
        let in_force = InForce::default();
        let mut turn = in_force.turn();
        let site = upgrade::Site {
            pins,
            budgets: &options.budgets,
            limits: &observe::Limits::DEFAULT,
            cgroups,
            bpffs: &options.bpffs,
        };
        // Attached before anything is in the maps: without addresses every connect passes as if nothing were there.
        let (loaded, steps) =
            upgrade::install(&site, bundle, other, None, keeping).map_err(|error| match (error, other) {
                // Nothing ran, or the same: then the step says nothing.
                (Error::Step { source, .. }, false) => *source,
                (source, false) => source,
                (source, true) => Error::Upgrade {
                    bundle: bundle.title(),
                    running: upgrade::titles(pins).unwrap_or_default().join(" and "),
                    source: Box::new(source),
                },
            })?;
        turn.put(bundle)?;
        drop(turn);
        if !grace::is_possible() {
            tracing::warn!(
                "the kernel refuses membarrier(2): balancing slots that were in use are not used again"
            );
        }
        let picture = read_back(&loaded.maps, &options.budgets)?;
        let opened = match fresh {
            true => Opened::Fresh,
            false => {
                Opened::Adopted { services: live_services(&picture), endpoints: live_endpoints(&picture) }
            }
        };
        let data_path = Self {
            pins: pins.clone(),
            cgroups: options.cgroups.clone(),
            bpffs: options.bpffs.clone(),
            budgets: options.budgets,
            maps: loaded.maps,
            picture,
            events: Events::new(loaded.events)?,
            programs: loaded.programs,
            every_map: loaded.every_map,
            sweep: loaded.sweep,
            terminate: loaded.terminate,
            http: loaded.http.map(http::tables::Tables::open).transpose()?,
            canary: None,
            in_force,
            _lock: lock,
        };
        Ok((data_path, opened, steps))
    }

    /// Goes on with what has been loaded in place of what was.
    fn take_over(&mut self, loaded: load::Loaded) -> Result<(), Error> {
        self.maps = loaded.maps;
        self.events = Events::new(loaded.events)?;
        self.programs = loaded.programs;
        self.every_map = loaded.every_map;
        self.sweep = loaded.sweep;
        self.terminate = loaded.terminate;
        let allowed = self.http.as_ref().is_some_and(http::tables::Tables::is_allowed);
        self.http = loaded.http.map(http::tables::Tables::open).transpose()?;
        self.allow_http(allowed)
    }

    /// Makes the kernel equal to `desired`; each service changes atomically, unchanged ones cost nothing. On an error
    /// (a budget is exceeded, a write failed) no service is half written and the rest stay as they were.
    pub fn apply(&mut self, desired: Desired<'_>) -> Result<Applied, Error> {
        let plan = match self.plan(desired) {
            // What earlier changes left behind may be what is missing.
            Err(Error::Budget { .. }) if self.has_garbage() => {
                self.settle()?;
                self.plan(desired)?
            }
            other => other?,
        };
        let large = plan.added + plan.changed + plan.removed >= LARGE;
        let mut applied = Applied {
            added: plan.added,
            changed: plan.changed,
            removed: plan.removed,
            unchanged: plan.unchanged,
            ..Applied::default()
        };
        if let Some(http) = &self.http {
            http.announce(&plan)?;
        }
        let done = match apply::apply(&self.maps, &mut self.picture, plan) {
            Ok(done) => done,
            Err(error) => {
                // Some of it is written: the kernel knows how much.
                self.picture = read_back(&self.maps, &self.budgets)?;
                return Err(error);
            }
        };
        applied.elapsed = done.elapsed;
        if let Some(http) = &mut self.http {
            http.apply(&self.picture)?;
        }
        if large {
            memory::trim();
        }
        if !done.terminated.is_empty() {
            applied.terminated = self.close_connections(&done.terminated)?;
        }
        Ok(applied)
    }

    fn close_connections(&mut self, endpoints: &[u32]) -> Result<u32, Error> {
        // A connect that has chosen but not yet sent must be there to be closed.
        self.settle()?;
        let Some(terminate) = &self.terminate else {
            let count = endpoints.len();
            tracing::warn!(
                endpoints = count,
                "connections of removed endpoints stay open: `terminate` is off"
            );
            return Ok(0);
        };
        terminate::close(&self.maps, terminate, endpoints)
    }

    /// Finishes what earlier changes left behind: frees the slots they took out of use, moves UDP flows away from
    /// removed endpoints, frees the numbers of endpoints whose last connection has ended. To be called about once a
    /// second. Takes up to 25 ms when there is something to do (it waits for an RCU grace period), else microseconds.
    pub fn settle(&mut self) -> Result<(), Error> {
        if let Some(http) = &mut self.http {
            http.settle()?;
        }
        apply::settle(&self.maps, &mut self.picture)
    }

    fn plan(&self, desired: Desired<'_>) -> Result<Plan, Error> {
        plan::plan(&self.picture, desired, &mut |run| self.maps.slots.get_run(run.base, run.length))
    }

    fn has_garbage(&self) -> bool {
        let garbage = &self.picture.garbage;
        !(garbage.runs.is_empty() && garbage.leaving.is_empty() && garbage.gone.is_empty())
    }

    /// Number of the service called `name`.
    pub fn service_id(&self, name: &str) -> Option<u32> {
        let name = ServiceName::new(name).ok()?;
        self.picture.services.get(&name).filter(|service| !service.removed).map(|service| service.number)
    }

    /// Name of the service with number `id`.
    pub fn service_name(&self, id: u32) -> Option<&ServiceName> {
        self.picture.names.get(&id)
    }

    /// The endpoints of a service, the removed ones that still hold connections included, sorted by address.
    pub fn endpoints(&self, service: u32) -> Vec<LiveEndpoint> {
        let Some(live) = self.picture.service(service) else { return Vec::new() };
        let shares = self.shares(live.words);
        let is_open = |number| {
            let load = self.maps.endpoint_load.get(&number).ok().flatten();
            load.is_some_and(|load| load.open > 0)
        };
        let shown =
            live.endpoints.iter().filter(|endpoint| !endpoint.stage.is_removed() || is_open(endpoint.number));
        shown
            .map(|endpoint| LiveEndpoint {
                id: endpoint.number,
                address: endpoint.address,
                state: endpoint.stage.live_state(),
                share: shares.get(&endpoint.number).copied().unwrap_or(0.0),
            })
            .collect()
    }

    /// By endpoint number, from the table that is in force.
    fn shares(&self, words: [u64; 2]) -> HashMap<u32, f64> {
        let Some(word) = words.into_iter().find(|&word| run_of(word).length > 0) else {
            return HashMap::new();
        };
        let run = run_of(word);
        match self.maps.slots.get_run(run.base, run.length) {
            Ok(slots) => tables::shares_of(ServiceWord::unpack(word).choice, &slots),
            Err(error) => {
                tracing::warn!("shares are not known: {error}");
                HashMap::new()
            }
        }
    }

    /// Address of endpoint number `id`.
    pub fn endpoint_address(&self, id: u32) -> Option<SocketAddr> {
        if !self.picture.endpoint_numbers.is_taken(id) {
            return None;
        }
        let entry = self.maps.endpoints.get(&id).ok().flatten()?;
        (entry.port != 0).then(|| abi::socket_addr(entry.address, entry.port))
    }

    /// TCP connects to endpoint number `id` that failed since the last one that did not; 0 when that is not known.
    pub fn consecutive_failures(&self, id: u32) -> u32 {
        self.maps.endpoint_load.get(&id).ok().flatten().map_or(0, |load| load.failures)
    }

    /// Reads all counters, those of connections that are still open included.
    pub fn counters(&self) -> Result<Counters, Error> {
        counters::read(&self.maps, &self.picture, self.sweep.as_ref())
    }

    /// Whether the kernel may route requests of HTTP services: it was tried ([`conformance`]), and nothing stands against it.
    /// Until then the proxy serves all of them.
    pub fn allow_http(&mut self, allowed: bool) -> Result<(), Error> {
        self.http.as_mut().map_or(Ok(()), |http| http.allow(allowed))
    }

    /// Whether requests may go out to endpoints that have no socket here, for which more is relied on. Until then the proxy
    /// serves them.
    pub fn allow_remote(&mut self, allowed: bool) -> Result<(), Error> {
        self.http.as_ref().map_or(Ok(()), |http| http.allow_remote(allowed))
    }

    /// What the kernel routed request by request; nothing where it cannot.
    pub fn http_counters(&self) -> Result<http::RouterCounters, Error> {
        self.http.as_ref().map_or_else(|| Ok(http::RouterCounters::default()), http::tables::Tables::counters)
    }

    /// Connections on which the kernel awaits a response, and requests that count as outstanding at endpoints.
    pub fn http_outstanding(&self) -> Result<(u64, u64), Error> {
        self.http.as_ref().map_or(Ok((0, 0)), http::tables::Tables::outstanding)
    }

    /// The anomalies of [`Counters`] alone, which cost no walk over open connections.
    pub fn anomalies(&self) -> Result<Vec<(&'static str, u64)>, Error> {
        counters::anomalies(&self.maps.anomalies)
    }

    /// How much of the budgets is in use.
    pub fn usage(&self) -> alize_model::api::Usage {
        alize_model::api::Usage {
            services: self.picture.service_numbers.used(),
            frontends: self.picture.frontends,
            endpoints: self.picture.endpoint_numbers.used(),
            slots: self.picture.runs.used(),
        }
    }

    /// Budgets the pinned maps were made with.
    pub fn budgets(&self) -> Budgets {
        self.budgets
    }

    /// Hands over what has come in the event ring since the last call. Does not block.
    pub fn drain_events(&mut self, each: &mut dyn FnMut(KernelEvent)) -> Result<(), Error> {
        self.events.drain(each)
    }

    /// The programs and whether they are on.
    pub fn programs(&self) -> Vec<ProgramStatus> {
        self.programs.clone()
    }

    /// Kernel memory of maps and programs, in bytes.
    pub fn kernel_memory(&self) -> u64 {
        memory::of_kernel(&self.every_map, &self.programs)
    }

    /// The bundle in force, for those that observe beside this data path.
    pub fn in_force(&self) -> InForce {
        self.in_force.clone()
    }

    /// Folder of the pins.
    pub fn pins(&self) -> PathBuf {
        self.pins.folder()
    }
}

impl AsFd for DataPath {
    /// Readable when the event ring holds something: for epoll.
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.events.as_fd()
    }
}

/// A change of this many services leaves memory behind that is worth giving back.
const LARGE: u32 = 256;

fn check_budgets(budgets: &Budgets) -> Result<(), Error> {
    let ranges = [
        ("--max-services", budgets.services, 1 << 20),
        ("--max-endpoints", budgets.endpoints, 1 << 20),
        ("--max-slots", budgets.slots, abi::MAX_PLACES),
        ("--max-affinity", budgets.affinity, 1 << 24),
    ];
    match ranges.into_iter().find(|(_, value, max)| !(1..=*max).contains(value)) {
        Some((flag, value, max)) => Err(Error::BudgetRange { flag, value, max }),
        None => Ok(()),
    }
}

/// Whether nothing is pinned yet; refuses when what is pinned was made for other budgets.
fn check_pinned(pins: &Pins, asked: &Budgets) -> Result<bool, Error> {
    match load::pinned_budgets(pins, asked)? {
        None => Ok(true),
        Some(pinned) if pinned == *asked => Ok(false),
        Some(pinned) => Err(Error::BudgetsDiffer {
            pins: pins.folder(),
            pinned: Box::new(pinned),
            asked: Box::new(*asked),
        }),
    }
}

/// The cgroups, without those that lie inside another: there a connect would be balanced twice.
fn outermost(paths: &[PathBuf]) -> Result<Vec<Cgroup>, Error> {
    let mut cgroups =
        paths.iter().map(|path| environment::open_cgroup(path)).collect::<Result<Vec<_>, _>>()?;
    cgroups.sort_by(|a, b| a.path.cmp(&b.path));
    let mut outermost: Vec<Cgroup> = Vec::new();
    for cgroup in cgroups {
        if !outermost.iter().any(|outer| cgroup.path.starts_with(&outer.path)) {
            outermost.push(cgroup);
        }
    }
    Ok(outermost)
}

/// The picture of the maps. What an earlier agent, or a change that failed, took out of use is free in it, so a grace
/// period passes first.
fn read_back(maps: &Maps, budgets: &Budgets) -> Result<Picture, Error> {
    let picture = adopt::read(maps, budgets)?;
    grace::period();
    Ok(picture)
}

fn live_services(picture: &Picture) -> u32 {
    picture.services.values().filter(|service| !service.removed).count() as u32
}

fn live_endpoints(picture: &Picture) -> u32 {
    let live = |endpoint: &&picture::LiveEndpoint| !endpoint.stage.is_removed();
    picture.services.values().flat_map(|service| &service.endpoints).filter(live).count() as u32
}
