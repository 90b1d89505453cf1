//! The data path: kernel programs, their pins, and the exact contents of their maps.
//!
//! Others hand over a desired state ([`Desired`]) and read back counters and events; the layout of the maps, the order
//! of the writes and everything else that is BPF is this crate's secret.
#![allow(unused_variables, missing_docs)]

use std::collections::HashMap;
use std::net::SocketAddr;
use std::os::fd::{AsFd, BorrowedFd};
use std::path::PathBuf;
use std::time::Duration;

use alize_model::{Budgets, ServiceName, Snapshot};

/// Where and how large.
#[derive(Clone, Debug)]
pub struct Options {
    /// Name of the instance; pins live in `<bpffs>/alize/<instance>/v<ABI>/`.
    pub instance: String,
    /// Mount point of bpffs, usually `/sys/fs/bpf`; mounted when it is a folder without bpffs.
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
    pub snapshot: &'a Snapshot,
    pub unavailable: &'a Availability,
}

/// What [`DataPath::apply`] did.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Applied {
    pub added: u32,
    pub changed: u32,
    pub removed: u32,
    pub unchanged: u32,
    /// Time spent writing the kernel's maps.
    pub elapsed: Duration,
    /// Sockets closed because their endpoint was removed with `removal: terminate`.
    pub terminated: u32,
}

#[derive(Debug, thiserror::Error)]
pub enum Error {
    #[error("{0}")]
    Placeholder(String),
}

/// Whether a data path was there already.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Opened {
    Fresh,
    Adopted { services: u32, endpoints: u32 },
}

/// Connect failures, as the kernel tells them (`enum failure` of abi.h).
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Failure {
    Refused,
    Timeout,
    Unreachable,
    Reset,
    Aborted,
    Other,
}

/// Reasons for refusing at once (`enum refusal` of abi.h).
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Refusal {
    NoEndpoint,
    Stale,
}

/// `struct traffic` of abi.h, summed over CPUs; `open` comes from `endpoint_load`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Traffic {
    pub connections: u64,
    pub established: u64,
    pub open: u64,
    /// Indexed by [`Failure`].
    pub failures: [u64; 6],
    pub bytes_sent: u64,
    pub bytes_received: u64,
    pub retransmits: u64,
    /// Sum of the samples of smoothed RTT, in microseconds.
    pub rtt_us: u64,
    pub rtt_samples: u64,
}

/// `struct decisions` of abi.h, summed over CPUs.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Decisions {
    /// Indexed by [`Refusal`].
    pub refused: [u64; 2],
    pub would_balance: u64,
    pub would_refuse: [u64; 2],
    pub affinity_kept: u64,
}

/// All counters at one moment.
#[derive(Clone, Debug, Default)]
pub struct Counters {
    /// By service number; a service that nobody called is absent.
    pub services: HashMap<u32, (Traffic, Decisions)>,
    /// By endpoint number; an endpoint that nobody was sent to is absent.
    pub endpoints: HashMap<u32, Traffic>,
    /// Name of the anomaly (such as `event-lost`) and how often it happened.
    pub anomalies: Vec<(&'static str, u64)>,
}

/// What the kernel has to say at once.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct KernelEvent {
    /// Of the monotonic clock.
    pub time: Duration,
    pub service: u32,
    pub endpoint: Option<u32>,
    pub what: KernelEventKind,
    pub pid: u32,
    pub cgroup: u64,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum KernelEventKind {
    ConnectFailed(Failure),
    Refused(Refusal),
}

/// An endpoint as the kernel has it now.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct LiveEndpoint {
    pub id: u32,
    pub address: SocketAddr,
    pub state: LiveState,
    /// Share of new connections, 0 to 1, worked out from the table that was written: of IPv4 callers if the service
    /// has an IPv4 table that is not empty, else of IPv6 callers.
    pub share: f64,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum LiveState {
    Active,
    Draining,
    Unavailable(Unavailable),
    /// No longer in the snapshot; connections are still open.
    Removed,
}

/// A kernel program.
#[derive(Clone, Debug)]
pub struct ProgramStatus {
    pub name: String,
    pub id: u32,
    /// `None`: on; else why it is off.
    pub off: Option<String>,
}

/// What [`unload`] removed.
#[derive(Clone, Copy, Debug, Default)]
pub struct Unloaded {
    pub links: u32,
    pub maps: u32,
}

/// The loaded data path of one instance. Dropping it changes nothing in the kernel: everything is pinned.
pub struct DataPath {}

impl DataPath {
    /// Loads, verifies, attaches and pins, or adopts what is pinned already: maps are kept, programs are replaced by
    /// this binary's through an atomic link update. Holds the instance's lock until dropped.
    pub fn open(options: &Options) -> Result<(Self, Opened), Error> {
        Err(Error::Placeholder("not written yet".into()))
    }

    /// Makes the kernel equal to `desired`; each service changes atomically, unchanged ones cost nothing. On an error
    /// (a budget is exceeded, a write failed) no service is half written and the rest stay as they were.
    pub fn apply(&mut self, desired: Desired<'_>) -> Result<Applied, Error> {
        Err(Error::Placeholder("not written yet".into()))
    }

    /// Number of the service called `name`.
    pub fn service_id(&self, name: &str) -> Option<u32> {
        None
    }

    /// Name of the service with number `id`.
    pub fn service_name(&self, id: u32) -> Option<&ServiceName> {
        None
    }

    /// The endpoints of a service, the removed ones that still hold connections included, sorted by address.
    pub fn endpoints(&self, service: u32) -> Vec<LiveEndpoint> {
        Vec::new()
    }

    /// Address of endpoint number `id`.
    pub fn endpoint_address(&self, id: u32) -> Option<SocketAddr> {
        None
    }

    /// Reads all counters, those of connections that are still open included.
    pub fn counters(&self) -> Result<Counters, Error> {
        Ok(Counters::default())
    }

    /// How much of the budgets is in use.
    pub fn usage(&self) -> alize_model::api::Usage {
        Default::default()
    }

    /// Budgets the pinned maps were made with.
    pub fn budgets(&self) -> Budgets {
        Budgets::default()
    }

    /// Hands over what has come in the event ring since the last call. Does not block.
    pub fn drain_events(&mut self, each: &mut dyn FnMut(KernelEvent)) -> Result<(), Error> {
        Ok(())
    }

    /// The programs and whether they are on.
    pub fn programs(&self) -> Vec<ProgramStatus> {
        Vec::new()
    }

    /// Kernel memory of maps and programs, in bytes.
    pub fn kernel_memory(&self) -> u64 {
        0
    }

    /// Folder of the pins.
    pub fn pins(&self) -> PathBuf {
        PathBuf::new()
    }
}

impl AsFd for DataPath {
    /// Readable when the event ring holds something: for epoll.
    fn as_fd(&self) -> BorrowedFd<'_> {
        panic!("not written yet")
    }
}

/// Removes every program, link, map and pin of the instance; running connections go on. Refuses while an agent holds
/// the instance's lock. Finding nothing is no error.
pub fn unload(options: &Options) -> Result<Unloaded, Error> {
    Err(Error::Placeholder("not written yet".into()))
}

/// Mount point of cgroup v2, found in `/proc/self/mounts`.
pub fn cgroup2_root() -> Option<PathBuf> {
    None
}
