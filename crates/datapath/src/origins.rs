//! Which bundle a program came from. A pinned map says so by the program's number, which the kernel gives once; so what runs
//! is known by asking the links and slots, and a file cannot lie about it.
#![allow(unsafe_code)]

use std::collections::BTreeMap;
use std::time::Duration;

use libbpf_rs::query::ProgInfoIter;
use libbpf_rs::{Link, MapHandle, MapType, libbpf_sys};
use rustix::time::{ClockId, clock_gettime};

use crate::abi::Plain;
use crate::bundle::{Bundle, Digest};
use crate::error::io_error;
use crate::maps::Map;
use crate::pin::{Pins, entries, program_of};
use crate::{Error, Options, ProgramStatus, canary, layout, observe, switch};

/// The map's name, of which the kernel keeps just so much.
pub(crate) const MAP: &str = "program_origins";
/// Programs of some versions at once.
const MOST: u32 = 1024;

#[derive(Clone, Copy)]
#[repr(C)]
struct Origin {
    digest: [u8; 32],
    version: [u8; 32],
}

impl Origin {
    fn version(&self) -> String {
        let end = self.version.iter().position(|byte| *byte == 0).unwrap_or(32);
        String::from_utf8_lossy(&self.version[..end]).into_owned()
    }
}

// SAFETY: bytes alone, without padding.
unsafe impl Plain for Origin {}

/// Programs that work now and came from one bundle.
#[derive(Clone, Debug, serde::Serialize)]
pub struct Running {
    /// The bundle; unknown for what a version before bundles has loaded.
    pub digest: Option<Digest>,
    /// Its version.
    pub version: Option<String>,
    /// The programs, with their numbers in the kernel.
    pub programs: BTreeMap<String, u32>,
    /// When the last of them was loaded, in seconds since the Unix epoch.
    pub loaded: f64,
    /// The user who did.
    pub uid: u32,
}

fn open(pins: &Pins) -> Result<Option<Map<u32, Origin>>, Error> {
    layout::pinned(&pins.map(MAP))?.map(Map::new).transpose()
}

fn make(pins: &Pins) -> Result<Map<u32, Origin>, Error> {
    if let Some(map) = open(pins)? {
        return Ok(map);
    }
    let options = libbpf_sys::bpf_map_create_opts {
        sz: size_of::<libbpf_sys::bpf_map_create_opts>() as libbpf_sys::size_t,
        map_flags: libbpf_sys::BPF_F_NO_PREALLOC,
        ..Default::default()
    };
    let error = |e| Error::kernel("cannot make map", MAP, io_error(e));
    let made = MapHandle::create(MapType::Hash, Some(MAP), 4, size_of::<Origin>() as u32, MOST, &options);
    let mut map = made.map_err(error)?;
    map.pin(pins.map(MAP)).map_err(error)?;
    Map::new(map)
}

/// Says of the programs that are on that they came from `bundle`, and forgets those that are gone.
pub(crate) fn note<'p>(
    pins: &Pins,
    bundle: &Bundle,
    programs: impl Iterator<Item = &'p ProgramStatus>,
) -> Result<(), Error> {
    let map = make(pins)?;
    let mut gone = Vec::new();
    map.for_each(|id, _| {
        if libbpf_rs::Program::fd_from_id(id).is_err() {
            gone.push(id);
        }
    })?;
    map.delete_all(gone.into_iter())?;
    let mut version = [0; 32];
    let text = bundle.manifest().version.as_bytes();
    version[..text.len().min(32)].copy_from_slice(&text[..text.len().min(32)]);
    let origin = Origin { digest: *bundle.digest().bytes(), version };
    map.put_all(programs.filter(|program| program.off.is_none()).map(|program| (program.id, origin)))
}

/// Digest and version of the bundle that a program came from.
pub(crate) fn origin_of(pins: &Pins, program: u32) -> Result<Option<(Digest, String)>, Error> {
    let Some(map) = open(pins)? else { return Ok(None) };
    let origin = map.get(&program)?;
    Ok(origin.map(|origin| (Digest::from_bytes(origin.digest), origin.version())))
}

/// What the links of an instance run now: one entry in the rule, several while a switch was broken off.
pub(crate) fn running(pins: &Pins) -> Result<Vec<Running>, Error> {
    let links = linked(pins, |program| !observe::is_observing(program))?;
    of_bundles(
        pins,
        links.into_iter().map(|(id, program)| (canary::behind_gate(pins, &program, id), program)),
    )
}

/// The same of the programs that observe; those are another bundle's where the one in force has none.
pub(crate) fn observing(pins: &Pins) -> Result<Vec<Running>, Error> {
    let mut programs = linked(pins, observe::is_observing)?;
    for slot in &observe::told::SLOTS {
        let array = layout::pinned(&pins.map(slot.array))?;
        programs.extend(
            array.and_then(|array| switch::number_in(&array, slot.index)).map(|id| (id, slot.program.into())),
        );
    }
    of_bundles(pins, programs.into_iter())
}

fn linked(pins: &Pins, wanted: impl Fn(&str) -> bool) -> Result<Vec<(u32, String)>, Error> {
    let mut programs = Vec::new();
    for path in entries(&pins.links())? {
        let program = program_of(&path);
        if !canary::is_meter(&program)
            && wanted(&program)
            && let Ok(info) = Link::open(&path).and_then(|link| link.info())
        {
            programs.push((info.prog_id, program));
        }
    }
    Ok(programs)
}

fn of_bundles(pins: &Pins, programs: impl Iterator<Item = (u32, String)>) -> Result<Vec<Running>, Error> {
    let origins = open(pins)?;
    let names: BTreeMap<u32, String> = programs.collect();
    let boot = unix_time() - since_boot();
    let mut running: Vec<Running> = Vec::new();
    for info in ProgInfoIter::default().filter(|info| names.contains_key(&info.id)) {
        let origin = match &origins {
            Some(map) => map.get(&info.id)?,
            None => None,
        };
        let digest = origin.map(|origin| Digest::from_bytes(origin.digest));
        let loaded = boot + info.load_time.as_secs_f64();
        let place = running.iter().position(|each| each.digest == digest);
        let entry = match place {
            Some(at) => &mut running[at],
            None => {
                let version = origin.map(|origin| origin.version());
                running.push(Running {
                    digest,
                    version,
                    programs: BTreeMap::new(),
                    loaded,
                    uid: info.created_by_uid,
                });
                match running.last_mut() {
                    Some(entry) => entry,
                    None => continue,
                }
            }
        };
        entry.loaded = entry.loaded.max(loaded);
        entry.programs.insert(names[&info.id].clone(), info.id);
    }
    running.sort_by_key(|each| std::cmp::Reverse(each.programs.len()));
    Ok(running)
}

/// The same of an instance by name.
pub fn running_bundles(options: &Options) -> Result<Vec<Running>, Error> {
    crate::environment::check_root()?;
    running(&Pins::new(options)?)
}

/// What observes in an instance by name; nothing while nobody does.
pub fn observing_bundles(options: &Options) -> Result<Vec<Running>, Error> {
    crate::environment::check_root()?;
    observing(&Pins::new(options)?)
}

fn unix_time() -> f64 {
    std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap_or_default().as_secs_f64()
}

fn since_boot() -> f64 {
    // The kernel notes the time of loading with ktime_get_boottime_ns() (kernel/bpf/syscall.c).
    let now = clock_gettime(ClockId::Boottime);
    Duration::new(now.tv_sec as u64, now.tv_nsec as u32).as_secs_f64()
}
