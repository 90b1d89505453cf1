//! What of an instance is in the kernel and what it costs, asked of the kernel by the pins: for people, not for the data
//! path. Changes nothing, and needs no agent.

use std::collections::{BTreeMap, HashMap, HashSet};
use std::fs;
use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, FromRawFd, OwnedFd};
use std::path::{Path, PathBuf};

use libbpf_rs::btf::types::Func;
use libbpf_rs::btf::{Btf, TypeId};
use libbpf_rs::query::{LinkInfoIter, LinkTypeInfo, ProgInfoIter, ProgInfoQueryOptions, ProgramInfo};
use libbpf_rs::{MapCore, MapHandle, MapType, Program, ProgramAttachType, libbpf_sys};

use crate::abi;
use crate::counters;
use crate::environment;
use crate::error::io_error;
use crate::maps::Map;
use crate::picture::run_of;
use crate::pin::{Pins, entries, open_map};
use crate::{Effort, Error, Options};

pub use crate::code::{MachineCode, machine_code};

/// Instructions that the verifier walks before it gives up (BPF_COMPLEXITY_LIMIT_INSNS, since Linux 5.2).
pub const VERIFIER_LIMIT: u32 = 1_000_000;

/// An instance as the kernel has it.
#[derive(Clone, Debug, serde::Serialize)]
pub struct Inspection {
    /// Its name.
    pub instance: String,
    /// By name.
    pub programs: Vec<ProgramFacts>,
    /// By name.
    pub maps: Vec<MapFacts>,
    /// What should never happen, and how often it did; only what did.
    pub anomalies: BTreeMap<&'static str, u64>,
    /// Kernel memory of programs and maps, in bytes.
    pub memory: u64,
}

/// A kernel program.
#[derive(Clone, Debug, serde::Serialize)]
pub struct ProgramFacts {
    /// The name of its C function.
    pub name: String,
    /// Where it is attached; nowhere, if an agent ended that held what is not pinned.
    pub attached: Vec<Attachment>,
    /// Its number in the kernel, as `bpftool prog` shows it.
    pub id: u32,
    /// Hash of its instructions.
    pub tag: String,
    /// Instructions after the verifier has rewritten them.
    pub instructions: u32,
    /// Instructions that the verifier walked, of [`VERIFIER_LIMIT`]; 0 when the kernel does not tell (before 5.16).
    pub verified: u32,
    /// Size of the machine code, in bytes; 0 when it is interpreted.
    pub jited: u32,
    /// Kernel memory, in bytes.
    pub memory: u64,
    /// Version of the border between it and user space, which is the folder of its pins: `v1`.
    pub version: String,
    /// What the verifier spends on it; only after [`Inspection::add_efforts`], and only if it is a program of this binary.
    pub effort: Option<Effort>,
    /// How often it ran while statistics were on.
    pub runs: u64,
    /// For how long in all, in nanoseconds.
    pub run_time: u64,
    /// How often it was skipped because it ran on that CPU already.
    pub recursion_misses: u64,
}

/// A place where a program is attached.
#[derive(Clone, Debug, PartialEq, Eq, serde::Serialize)]
pub struct Attachment {
    /// The hook, such as `connect4` or `iter/tcp`.
    pub hook: String,
    /// The cgroup, where the hook belongs to one.
    pub cgroup: Option<PathBuf>,
}

/// A kernel map.
#[derive(Clone, Debug, serde::Serialize)]
pub struct MapFacts {
    /// Its name, in the C source and as a pin.
    pub name: String,
    /// Its number in the kernel, as `bpftool map` shows it.
    pub id: u32,
    /// Kind, such as `hash`.
    pub kind: String,
    /// Size of a key, in bytes.
    pub key_size: u32,
    /// Size of a value, in bytes; of a per-CPU map, on one CPU.
    pub value_size: u32,
    /// Entries in use, where that can be told.
    pub used: Option<u64>,
    /// Length of the longest chain of a hash, estimated from its entries: what the slowest lookup walks.
    pub longest_bucket: Option<u32>,
    /// How often something had no place in it, where that is counted.
    pub failed: Option<u64>,
    /// Most entries it can hold (of a ring buffer: bytes); 0 where that has no meaning.
    pub limit: u32,
    /// Kernel memory, in bytes.
    pub memory: u64,
}

/// Looks at the instance of `options`, of which only name and bpffs matter. One that is not there has no programs and no
/// maps. Pins of other versions are looked at too.
pub fn inspect(options: &Options) -> Result<Inspection, Error> {
    environment::check_root()?;
    let pins = Pins::new(options)?;
    let mut pinned = HashMap::new();
    let mut versions = HashMap::new();
    for version in entries(&pins.instance())? {
        for path in entries(&version.join("maps"))? {
            let map = open_map(&path)?;
            let id = map_id(&map)?;
            versions.insert(id, file_name(&version));
            pinned.insert(id, (file_name(&path), map));
        }
    }
    let infos = programs_using(&pinned.keys().copied().collect());
    let programs = programs(&infos, &versions)?;
    let anomalies = anomalies(&pins)?;
    let usage = Usage { used: usage(&pins)?, failed: failures(&pins, &anomalies)? };
    let mut maps = Vec::new();
    for id in map_ids(&infos, &pinned) {
        let facts = match pinned.get(&id) {
            Some((name, map)) => map_facts(name.clone(), map, &usage)?,
            None => match MapHandle::from_map_id(id) {
                Ok(map) => map_facts(map.name().to_string_lossy().into_owned(), &map, &usage)?,
                // It went with its program while one looked.
                Err(_) => continue,
            },
        };
        maps.push(facts);
    }
    maps.sort_by(|a, b| (&a.name, a.id).cmp(&(&b.name, b.id)));
    let memory = programs.iter().map(|program| program.memory).chain(maps.iter().map(|map| map.memory)).sum();
    Ok(Inspection { instance: options.instance.clone(), programs, maps, anomalies, memory })
}

impl Inspection {
    /// Has the verifier say what it spends on the programs: it tells only while it loads, so those of this binary are
    /// loaded on trial (about half a second) and recognized by name and tag.
    pub fn add_efforts(&mut self) {
        for (name, tag, effort) in crate::doctor::efforts() {
            let same = |program: &&mut ProgramFacts| program.name == name && program.tag == tag;
            if let Some(program) = self.programs.iter_mut().find(same) {
                program.effort = Some(effort);
            }
        }
    }
}

/// How often each of the programs `ids` ran while statistics were on, and for how many nanoseconds in all.
pub fn runs(ids: &[u32]) -> HashMap<u32, (u64, u64)> {
    let found = ProgInfoIter::default().filter(|info| ids.contains(&info.id));
    found.map(|info| (info.id, (info.run_cnt, info.run_time_ns))).collect()
}

/// How often each of the programs `ids` was skipped because it ran on that CPU already (counted since Linux 5.12).
pub fn recursion_misses(ids: &[u32]) -> HashMap<u32, u64> {
    let found = ProgInfoIter::default().filter(|info| ids.contains(&info.id));
    found.map(|info| (info.id, info.recursion_misses)).collect()
}

/// Run-time statistics of all programs of the machine are on while this lives (about 20 ns a run; Linux 5.8).
#[derive(Debug)]
pub struct Statistics(#[expect(dead_code, reason = "closing it ends the statistics")] OwnedFd);

impl Statistics {
    /// Turns them on; the kernel counts the holders.
    #[allow(unsafe_code)]
    pub fn start() -> Result<Self, Error> {
        // SAFETY: no pointer is passed; the result is a new descriptor or an error.
        let fd = unsafe { libbpf_sys::bpf_enable_stats(libbpf_sys::BPF_STATS_RUN_TIME) };
        if fd < 0 {
            let error = io::Error::last_os_error();
            return Err(Error::kernel("cannot turn on", "the kernel's run-time statistics", error));
        }
        // SAFETY: the descriptor was just made and belongs to nobody else.
        Ok(Self(unsafe { OwnedFd::from_raw_fd(fd) }))
    }
}

/// What is loaded and uses one of `maps`: also what nothing is pinned of, such as the iterators of an agent.
fn programs_using(maps: &HashSet<u32>) -> Vec<ProgramInfo> {
    let options = ProgInfoQueryOptions::default()
        .include_map_ids(true)
        .include_func_info(true)
        .include_xlated_prog_insns(true)
        .include_jited_prog_insns(true);
    let all = ProgInfoIter::with_query_opts(options);
    all.filter(|info| info.map_ids.iter().any(|id| maps.contains(id))).collect()
}

fn map_ids(programs: &[ProgramInfo], pinned: &HashMap<u32, (String, MapHandle)>) -> HashSet<u32> {
    programs.iter().flat_map(|info| &info.map_ids).chain(pinned.keys()).copied().collect()
}

fn programs(infos: &[ProgramInfo], versions: &HashMap<u32, String>) -> Result<Vec<ProgramFacts>, Error> {
    let mut attached = attachments(&infos.iter().map(|info| info.id).collect())?;
    let facts = |info: &ProgramInfo| ProgramFacts {
        name: program_name(info),
        attached: attached.remove(&info.id).unwrap_or_default(),
        id: info.id,
        tag: info.tag.0.iter().map(|byte| format!("{byte:02x}")).collect(),
        // An instruction has eight bytes (RFC 9669, section 3).
        instructions: (info.xlated_prog_insns.len() / 8) as u32,
        verified: info.verified_insns,
        jited: info.jited_prog_insns.len() as u32,
        memory: Program::fd_from_id(info.id).ok().and_then(|fd| fdinfo(fd.as_fd(), "memlock")).unwrap_or(0),
        version: info.map_ids.iter().find_map(|id| versions.get(id).cloned()).unwrap_or_default(),
        effort: None,
        runs: info.run_cnt,
        run_time: info.run_time_ns,
        recursion_misses: info.recursion_misses,
    };
    let mut programs: Vec<ProgramFacts> = infos.iter().map(facts).collect();
    programs.sort_by(|a, b| (&a.name, a.id).cmp(&(&b.name, b.id)));
    Ok(programs)
}

/// The kernel keeps 15 characters of a name; the whole is in its type information.
pub(crate) fn program_name(info: &ProgramInfo) -> String {
    let whole = || {
        let btf = Btf::from_prog_id(info.id).ok()?;
        let function = btf.type_by_id::<Func<'_>>(TypeId::from(info.func_info.first()?.type_id))?;
        Some(function.name()?.to_string_lossy().into_owned())
    };
    whole().unwrap_or_else(|| info.name.to_string_lossy().into_owned())
}

fn attachments(programs: &HashSet<u32>) -> Result<HashMap<u32, Vec<Attachment>>, Error> {
    let links: Vec<_> = LinkInfoIter::default().filter(|link| programs.contains(&link.prog_id)).collect();
    let cgroup = |info: &LinkTypeInfo| match info {
        LinkTypeInfo::Cgroup(cgroup) if cgroup.cgroup_id != 0 => Some(cgroup.cgroup_id),
        _ => None,
    };
    let folders = cgroup_folders(&links.iter().filter_map(|link| cgroup(&link.info)).collect())?;
    let mut attached: HashMap<u32, Vec<Attachment>> = HashMap::new();
    for link in &links {
        let hook = match &link.info {
            // The cgroup is gone, and the link with it but for its pin.
            LinkTypeInfo::Cgroup(info) if info.cgroup_id == 0 => continue,
            LinkTypeInfo::Cgroup(info) => hook_name(&info.attach_type),
            LinkTypeInfo::Iter(info) => format!("iter/{}", info.target_name.to_string_lossy()),
            _ => "other".into(),
        };
        let cgroup = cgroup(&link.info).and_then(|id| folders.get(&id).cloned());
        attached.entry(link.prog_id).or_default().push(Attachment { hook, cgroup });
    }
    for places in attached.values_mut() {
        places.sort_by(|a, b| (&a.hook, &a.cgroup).cmp(&(&b.hook, &b.cgroup)));
    }
    Ok(attached)
}

/// The folders of the cgroups with these numbers.
fn cgroup_folders(ids: &HashSet<u64>) -> Result<HashMap<u64, PathBuf>, Error> {
    use std::os::unix::fs::MetadataExt;
    let mut folders = HashMap::new();
    let Some(root) = environment::cgroup2_root() else { return Ok(folders) };
    for &id in ids {
        let found = environment::find_below(&root, &|inode| inode == id);
        if let Some(path) = found.map_err(|e| Error::path("cannot search", &root, e))?
            && fs::metadata(&path).is_ok_and(|metadata| metadata.ino() == id)
        {
            folders.insert(id, path);
        }
    }
    Ok(folders)
}

/// A hook's name as the sections of `bpf/` have it.
pub(crate) fn hook_name(hook: &ProgramAttachType) -> String {
    use ProgramAttachType as Hook;
    let name = match hook {
        Hook::CgroupInet4Connect => "connect4",
        Hook::CgroupInet6Connect => "connect6",
        Hook::CgroupUdp4Sendmsg => "sendmsg4",
        Hook::CgroupUdp6Sendmsg => "sendmsg6",
        Hook::CgroupUdp4Recvmsg => "recvmsg4",
        Hook::CgroupUdp6Recvmsg => "recvmsg6",
        Hook::CgroupInet4Getpeername => "getpeername4",
        Hook::CgroupInet6Getpeername => "getpeername6",
        Hook::CgroupInetSockRelease => "sock_release",
        Hook::CgroupSockOps => "sockops",
        Hook::CgroupInetIngress => "skb/ingress",
        Hook::CgroupInetEgress => "skb/egress",
        other => return format!("{other:?}"),
    };
    name.into()
}

/// Entries in use of the arrays, by the name of the map: the kernel cannot tell, but what is in them can.
fn usage(pins: &Pins) -> Result<HashMap<&'static str, u64>, Error> {
    let mut usage = HashMap::new();
    if !pins.map("services").exists() {
        return Ok(usage);
    }
    let services: Map<u32, abi::service> = Map::new(open_map(&pins.map("services"))?)?;
    let names: Map<u32, abi::service_name> = Map::new(open_map(&pins.map("service_names"))?)?;
    let endpoints: Map<u32, abi::endpoint> = Map::new(open_map(&pins.map("endpoints"))?)?;
    let (mut named, mut taken, mut runs) = (0, 0, HashMap::new());
    names.for_each(|_, name| named += u64::from(name.iter().any(|name| name.name[0] != 0)))?;
    endpoints
        .for_each(|_, endpoint| taken += u64::from(endpoint.iter().any(|endpoint| endpoint.port != 0)))?;
    services.for_each(|_, service| {
        for run in service.iter().flat_map(|service| [service.word4, service.word6]).map(run_of) {
            // A service that only observes has an empty word, which names no slot.
            if run.length > 0 {
                runs.insert(run.base, u64::from(run.length));
            }
        }
    })?;
    usage.extend(["services", "service_names", "turns"].map(|name| (name, named)));
    usage.extend(["endpoints", "endpoint_load"].map(|name| (name, taken)));
    usage.insert("slots", runs.values().sum());
    Ok(usage)
}

fn anomalies(pins: &Pins) -> Result<BTreeMap<&'static str, u64>, Error> {
    let path = pins.map("anomalies");
    if !path.exists() {
        return Ok(BTreeMap::new());
    }
    let counted = counters::anomalies(&Map::new(open_map(&path)?)?)?;
    Ok(counted.into_iter().filter(|(_, count)| *count > 0).collect())
}

/// What only the contents of other maps tell of a map, by its name.
struct Usage {
    used: HashMap<&'static str, u64>,
    failed: HashMap<String, u64>,
}

/// How often something had no place, by the name of the map.
fn failures(pins: &Pins, anomalies: &BTreeMap<&'static str, u64>) -> Result<HashMap<String, u64>, Error> {
    // Both service maps have as many entries as there can be services, and share a counter.
    const PLACES: [(&str, &str); 7] = [
        ("affinity", "affinity-unsaved"),
        ("connections", "connection-untracked"),
        ("endpoint_traffic", "endpoint-uncounted"),
        ("events", "event-lost"),
        ("flows", "flow-untracked"),
        ("service_decisions", "service-uncounted"),
        ("service_traffic", "service-uncounted"),
    ];
    let mut failed: HashMap<String, u64> = PLACES
        .iter()
        .map(|(map, anomaly)| ((*map).to_owned(), anomalies.get(anomaly).copied().unwrap_or(0)))
        .collect();
    failed.extend(crate::observe::failed_updates(pins)?);
    Ok(failed)
}

fn map_facts(name: String, map: &MapHandle, usage: &Usage) -> Result<MapFacts, Error> {
    let kind = map.map_type();
    let used = match kind {
        MapType::Hash | MapType::LruHash | MapType::PercpuHash => Some(count_keys(map)),
        _ => usage.used.get(name.as_str()).copied(),
    };
    Ok(MapFacts {
        id: map_id(map)?,
        kind: kind_name(kind),
        key_size: map.key_size(),
        value_size: map.value_size(),
        used,
        longest_bucket: used
            .filter(|_| matches!(kind, MapType::Hash | MapType::LruHash | MapType::PercpuHash))
            .map(|used| longest_bucket(used, map.max_entries())),
        failed: usage.failed.get(name.as_str()).copied(),
        limit: map.max_entries(),
        memory: fdinfo(map.as_fd(), "memlock").unwrap_or(0),
        name,
    })
}

fn kind_name(kind: MapType) -> String {
    let name = match kind {
        MapType::Array => "array",
        MapType::Hash => "hash",
        MapType::LruHash => "LRU hash",
        MapType::PercpuArray => "per-CPU array",
        MapType::PercpuHash => "per-CPU hash",
        MapType::SkStorage => "socket storage",
        MapType::RingBuf => "ring buffer",
        other => return format!("{other:?}"),
    };
    name.into()
}

/// Keys of a hash, one system call each (about 0.3 us) and no value copied. When a key is removed while one looks at it
/// the kernel begins anew, so the count is bounded by what the map can hold.
#[allow(unsafe_code)]
fn count_keys(map: &MapHandle) -> u64 {
    let mut key = vec![0u8; map.key_size() as usize];
    let mut next = key.clone();
    let limit = u64::from(map.max_entries());
    let mut count = 0;
    while count < limit {
        let before = if count == 0 { std::ptr::null() } else { key.as_ptr() };
        // SAFETY: the kernel reads one key, or none, and writes one; both buffers have the size of a key.
        let done = unsafe {
            libbpf_sys::bpf_map_get_next_key(map.as_fd().as_raw_fd(), before.cast(), next.as_mut_ptr().cast())
        };
        if done != 0 {
            break;
        }
        std::mem::swap(&mut key, &mut next);
        count += 1;
    }
    count
}

fn map_id(map: &MapHandle) -> Result<u32, Error> {
    let info = map
        .info()
        .map_err(|e| Error::kernel("cannot ask about map", map.name().to_string_lossy(), io_error(e)))?;
    Ok(info.info.id)
}

fn file_name(path: &Path) -> String {
    path.file_name().unwrap_or_default().to_string_lossy().into_owned()
}

/// A number that the kernel shows of a descriptor of ours.
pub(crate) fn fdinfo(fd: BorrowedFd<'_>, key: &str) -> Option<u64> {
    fdinfo_text(fd, key)?.parse().ok()
}

pub(crate) fn fdinfo_text(fd: BorrowedFd<'_>, key: &str) -> Option<String> {
    let text = fs::read_to_string(format!("/proc/self/fdinfo/{}", fd.as_raw_fd())).ok()?;
    let value = text.lines().find_map(|line| line.strip_prefix(key)?.strip_prefix(':'))?;
    Some(value.trim().to_owned())
}

/// The longest chain of a hash with `used` entries, if keys fall into its buckets by chance: the length that less than one
/// bucket is expected to pass. A hash has as many buckets as its limit, rounded up to a power of two
/// (kernel/bpf/hashtab.c, htab_map_alloc); a lookup walks the chain of one.
fn longest_bucket(used: u64, limit: u32) -> u32 {
    if used == 0 {
        return 0;
    }
    let buckets = f64::from(limit.max(1)).log2().ceil().exp2();
    let mean = used as f64 / buckets;
    // Of Poisson's distribution: the part of buckets with more than `length` entries.
    let (mut length, mut term) = (0u32, (-mean).exp());
    let mut beyond = 1.0 - term;
    while beyond * buckets >= 1.0 && u64::from(length) < used {
        length += 1;
        term *= mean / f64::from(length);
        beyond -= term;
    }
    length.max(1)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn chains_grow_with_the_fill() {
        // One key a bucket: of 2^16 buckets 0.7 are expected to hold more than 7 (Poisson, mean 1), 5 more than 6.
        assert_eq!(longest_bucket(65_536, 65_536), 7);
        assert_eq!(longest_bucket(65_536, 65_530), 7, "as many buckets as the next power of two");
        assert_eq!(longest_bucket(0, 1024), 0);
        assert_eq!(longest_bucket(1, 1024), 1);
        assert_eq!(longest_bucket(1, 1), 1);
        assert!(longest_bucket(1_000, 1) >= 1_000 - 100);
        assert!(longest_bucket(100, 65_536) <= 2);
    }
}
