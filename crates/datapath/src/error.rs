//! What can go wrong, told so that the reader knows what to check.

use std::io;
use std::path::PathBuf;

use alize_model::Budgets;

/// Why the data path could not be opened, changed, read or removed.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// The process may not load kernel programs.
    #[error(
        "loading kernel programs needs root (CAP_BPF, CAP_NET_ADMIN and CAP_SYS_ADMIN); \
         run as root, for example with sudo"
    )]
    NotRoot,
    /// A kernel function that everything needs is missing.
    #[error("Linux {found} is too old: {needed} or newer is needed, for {reason}")]
    KernelTooOld {
        /// The running kernel.
        found: String,
        /// The first that would do.
        needed: &'static str,
        /// What it brought.
        reason: &'static str,
    },
    /// There is no bpffs and none could be mounted.
    #[error(
        "no bpffs at {path}: {reason}; mount one with `mount -t bpf bpf /sys/fs/bpf`, or say where one is with --bpffs"
    )]
    NoBpffs {
        /// Where it was looked for.
        path: PathBuf,
        /// What happened.
        reason: String,
    },
    /// cgroup v2 is not mounted.
    #[error("cgroup v2 is not mounted; mount it with: mount -t cgroup2 none /sys/fs/cgroup")]
    NoCgroup2,
    /// A folder that should be meshed is none of cgroup v2.
    #[error(
        "{path} is not a folder of cgroup v2: {reason}; `--cgroup` takes a folder below the mount of cgroup2"
    )]
    NotACgroup2Folder {
        /// The folder.
        path: PathBuf,
        /// What is wrong with it.
        reason: String,
    },
    /// The name cannot be a folder of bpffs.
    #[error("{name:?} cannot name an instance: 1 to 64 of a-z, A-Z, 0-9, '_' and '-' (bpffs refuses '.')")]
    BadInstance {
        /// The name.
        name: String,
    },
    /// The routes of all HTTP services together do not fit.
    #[error(
        "the routes of HTTP services do not fit the kernel's tables of {rules} rules, {groups} backends and {targets} \
         balancing slots; the services that do not fit are as they were"
    )]
    HttpTablesFull {
        /// Size of `http_rules`.
        rules: u32,
        /// Size of `http_groups`.
        groups: u32,
        /// Size of `http_targets`.
        targets: u32,
    },
    /// Another agent holds the instance.
    #[error(
        "an agent (process {pid}) already runs instance {instance:?}; stop it first, or choose another name and \
         another cgroup with --instance and --cgroup"
    )]
    AgentRunning {
        /// Its process.
        pid: u32,
        /// The instance.
        instance: String,
    },
    /// Another agent holds the instance's pins, though not the lock in this agent's run folder.
    #[error(
        "another agent, with another --run-dir, holds {pins}; stop it first, or choose another name and another cgroup \
         with --instance and --cgroup"
    )]
    PinsInUse {
        /// The folder of the pins.
        pins: PathBuf,
    },
    /// Another instance meshes the same processes.
    #[error(
        "{cgroup} is meshed by instance {instance:?} already, at {other}; a connection can be balanced once only: \
         choose cgroups that do not contain each other, or remove that instance with: alize unload --instance {instance}"
    )]
    CgroupTaken {
        /// The cgroup asked for.
        cgroup: PathBuf,
        /// The cgroup of the other instance.
        other: PathBuf,
        /// The other instance.
        instance: String,
    },
    /// A foreign program forbids others beside it.
    #[error(
        "the kernel refuses {program} at {cgroup}: {holder} holds the hook and shares it with nobody; it must attach \
         with BPF_F_ALLOW_MULTI or as a link, or be removed (bpftool cgroup tree {cgroup})"
    )]
    HookTaken {
        /// Ours.
        program: String,
        /// Where.
        cgroup: PathBuf,
        /// Theirs.
        holder: String,
    },
    /// The kernel refused a program that nothing works without.
    #[error("{0}")]
    Verifier(Box<crate::Rejection>),
    /// Something does not fit.
    #[error(
        "{what} do not fit: {service} needs {needed} more, {free} of {budget} are free (what a change removes is free \
         only after it); make the change in two steps, or raise {flag} (after `alize unload`: maps keep the size they \
         were made with)"
    )]
    Budget {
        /// Services, service addresses, endpoints or balancing slots.
        what: &'static str,
        /// The first service that did not fit.
        service: String,
        /// How many it needs.
        needed: u32,
        /// How many are left.
        free: u32,
        /// How many there are.
        budget: u32,
        /// The flag that raises the budget.
        flag: &'static str,
    },
    /// The pinned maps have other sizes than asked for.
    #[error(
        "the maps pinned in {pins} were made with other sizes: {}; ask for those, or run `alize unload` first (running \
         connections go on, new ones are not balanced until the next start)",
        differences(pinned, asked)
    )]
    BudgetsDiffer {
        /// The folder of the pins.
        pins: PathBuf,
        /// What they were made with.
        pinned: Box<Budgets>,
        /// What was asked for.
        asked: Box<Budgets>,
    },
    /// Sizes that the kernel maps cannot have.
    #[error("{flag} is {value}; 1 to {max} is possible")]
    BudgetRange {
        /// The flag.
        flag: &'static str,
        /// What was asked for.
        value: u32,
        /// The most there can be.
        max: u32,
    },
    /// The pins are of another version of the border.
    #[error(
        "{found} was made by a version of alize with another map layout; run `alize unload` first (running connections \
         go on, new ones are not balanced until the next start)"
    )]
    OtherVersion {
        /// Its folder.
        found: PathBuf,
    },
    /// Nothing is in the kernel to be asked.
    #[error(
        "instance {instance:?} is not loaded; start it with `alize run`, or name another with --instance \
         (`ls /sys/fs/bpf/alize` lists all)"
    )]
    NotLoaded {
        /// The instance.
        instance: String,
    },
    /// No service has this name.
    #[error(
        "instance {instance:?} has no service {name:?} with an address over {transport}; `alize services` lists all, \
         or give an address"
    )]
    NoSuchService {
        /// The name.
        name: String,
        /// The instance.
        instance: String,
        /// TCP or UDP.
        transport: &'static str,
    },
    /// A file is no bundle, or none that is taken.
    #[error("bundle {name} is refused: {refused}")]
    Bundle {
        /// Its file or version.
        name: String,
        /// Why.
        refused: crate::bundle::Refused,
    },
    /// There is nothing to go back to.
    #[error(
        "there is no bundle to go back to: {wanted} is not in {}; kept are: {}", folder.display(),
        if kept.is_empty() { "none".to_owned() } else { kept.join(", ") }
    )]
    NoEarlierBundle {
        /// What was asked for.
        wanted: String,
        /// Where bundles are kept.
        folder: PathBuf,
        /// What is there.
        kept: Vec<String>,
    },
    /// A map that lives as long as the sockets has another layout.
    #[error(
        "map {map} has another layout in the bundle, and belongs to sockets that are open: it cannot be carried over; \
         `alize unload` first, then start with the bundle (running connections go on, new ones are not balanced between)"
    )]
    MapFixed {
        /// The map.
        map: String,
    },
    /// This binary's types do not fit a map of the bundle.
    #[error(
        "map {map} of the bundle has a layout that this alize does not know; install the version that comes with it"
    )]
    MapUnknown {
        /// The map.
        map: String,
    },
    /// A step of putting programs in force failed.
    #[error("at step {step}: {source}")]
    Step {
        /// Its name.
        step: &'static str,
        /// Why.
        source: Box<Error>,
    },
    /// Programs were not replaced.
    #[error("{bundle} was not put in force, {source}; what ran before goes on: {running}")]
    Upgrade {
        /// What should have been.
        bundle: String,
        /// What runs.
        running: String,
        /// Which step, and why.
        source: Box<Error>,
    },
    /// One trial at a time.
    #[error(
        "{bundle} is on trial already; end that with `alize upgrade --promote` or `alize upgrade --abort` first"
    )]
    TrialRuns {
        /// What is tried.
        bundle: String,
    },
    /// There is nothing to be promoted or given up.
    #[error("no version is on trial; `alize upgrade --canary CGROUP` begins that")]
    NoTrial,
    /// Versions that run side by side share their maps.
    #[error(
        "map {map} has another layout in it, which two versions at once cannot share: upgrade without a trial"
    )]
    TrialLayout {
        /// The map.
        map: String,
    },
    /// A file or folder could not be used.
    #[error("{action} {path}: {source}")]
    Path {
        /// What was tried.
        action: &'static str,
        /// On what.
        path: PathBuf,
        /// What the system said.
        source: io::Error,
    },
    /// An operation on a kernel object failed.
    #[error("{action} {object}: {source}")]
    Kernel {
        /// What was tried.
        action: &'static str,
        /// On which map, link or program.
        object: String,
        /// What the kernel said.
        source: io::Error,
    },
}

impl Error {
    pub(crate) fn path(action: &'static str, path: impl Into<PathBuf>, source: impl Into<io::Error>) -> Self {
        Self::Path { action, path: path.into(), source: source.into() }
    }

    pub(crate) fn kernel(
        action: &'static str,
        object: impl Into<String>,
        source: impl Into<io::Error>,
    ) -> Self {
        Self::Kernel { action, object: object.into(), source: source.into() }
    }
}

/// `--max-services 64 instead of 128` for each that differs.
fn differences(pinned: &Budgets, asked: &Budgets) -> String {
    let sizes = [
        ("--max-services", pinned.services, asked.services),
        ("--max-endpoints", pinned.endpoints, asked.endpoints),
        ("--max-slots", pinned.slots, asked.slots),
        ("--max-affinity", pinned.affinity, asked.affinity),
    ];
    let differing = sizes.into_iter().filter(|(_, pinned, asked)| pinned != asked);
    let told: Vec<_> =
        differing.map(|(flag, pinned, asked)| format!("{flag} {pinned} instead of {asked}")).collect();
    told.join(", ")
}

/// libbpf's error as one of the system: the kind stays, and what it says.
pub(crate) fn io_error(error: libbpf_rs::Error) -> io::Error {
    let kind = match error.kind() {
        libbpf_rs::ErrorKind::NotFound => io::ErrorKind::NotFound,
        libbpf_rs::ErrorKind::PermissionDenied => io::ErrorKind::PermissionDenied,
        libbpf_rs::ErrorKind::AlreadyExists => io::ErrorKind::AlreadyExists,
        _ => io::ErrorKind::Other,
    };
    io::Error::new(kind, error.to_string())
}
