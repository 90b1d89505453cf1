//! A new version of the programs beside the old: for the sockets of one cgroup, or for a share of the addresses that are dialled.
//!
//! Each link holds a gate (`bpf/canary.bpf.c`) that leads a socket's calls to the programs of its lane, and a meter behind it
//! counts. Both lanes use the same maps. The gates' maps are pinned, so that all of this goes on without the agent; the next
//! start puts one version in force for all.

use std::collections::HashSet;
use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::path::{Path, PathBuf};

use libbpf_rs::query::{ProgInfoIter, ProgInfoQueryOptions};
use libbpf_rs::{Link, Object, ProgramMut};

use crate::abi::{plain, refusal, version_count};
use crate::attach::{foreign, unpin};
use crate::bundle::{Bundle, Digest, Prepared};
use crate::environment::{self, Cgroup};
use crate::error::io_error;
use crate::http::abi::PROGRAM_CLIENT;
use crate::http::router::REASONS;
use crate::load::{Loading, is_private, load_gates};
use crate::log::Log;
use crate::maps::Map;
use crate::pin::{self, Pins, entries, open_map};
use crate::rejection::Rejection;
use crate::switch::{SLOTS, Slot, Switch, number_in, program_in, put};
use crate::{Error, Options, layout, origins};

#[allow(
    clippy::all,
    clippy::undocumented_unsafe_blocks,
    dead_code,
    missing_docs,
    unreachable_pub,
    unsafe_code,
    unused_imports,
    reason = "written by libbpf-cargo; of the skeleton only the types are used"
)]
mod generated {
    include!(concat!(env!("OUT_DIR"), "/canary_abi.rs"));
}

use generated::types::{canary_count, canary_hook, canary_lane, canary_scope};

mod border {
    #![allow(unsafe_code)]
    super::plain!(super::canary_scope, super::canary_count);
}

/// A hook with a gate: the program that its link is named after, and what gate, meter and lanes are named after.
struct Hook {
    program: &'static str,
    short: &'static str,
}

/// In the order of `enum canary_hook`, which is also that of attaching.
const HOOKS: [Hook; canary_hook::GATES.0 as usize] = [
    Hook { program: "alize_sockops", short: "sockops" },
    Hook { program: "alize_release", short: "release" },
    Hook { program: "alize_getpeername4", short: "getpeer4" },
    Hook { program: "alize_getpeername6", short: "getpeer6" },
    Hook { program: "alize_recvmsg4", short: "recvmsg4" },
    Hook { program: "alize_recvmsg6", short: "recvmsg6" },
    Hook { program: "alize_sendmsg4", short: "sendmsg4" },
    Hook { program: "alize_sendmsg6", short: "sendmsg6" },
    Hook { program: "alize_http_sockops", short: "http_sock" },
    Hook { program: "alize_connect4", short: "connect4" },
    Hook { program: "alize_connect6", short: "connect6" },
    Hook { program: "alize_http_client", short: "http_clie" },
];

const OLD: u32 = canary_lane::LANE_OLD.0;
const NEW: u32 = canary_lane::LANE_NEW.0;
/// Where the programs of a version count what they refuse and leave to others.
pub(crate) const VERSION_COUNTS: &str = "version_counts";
const SCOPE: &str = "canary_scope";
const COUNTS: &str = "canary_counts";
const METER: &str = "alize_meter_";
const GATE: &str = "alize_gate_";

impl Hook {
    fn lanes(&self) -> String {
        format!("lanes_{}", self.short)
    }

    /// The slot of a prog array in which the gate goes, for the program that no link holds.
    fn slot(&self) -> Option<&'static Slot> {
        SLOTS.iter().find(|slot| slot.program == self.program && slot.index == PROGRAM_CLIENT)
    }
}

/// Who gets the new programs: at least one of both.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Scope {
    /// Processes in this cgroup and below it.
    pub cgroup: Option<PathBuf>,
    /// Per cent of the addresses that are dialled.
    pub share: u32,
}

/// What is held while two versions run.
pub(crate) struct Canary {
    pub(crate) bundle: Bundle,
    pub(crate) loading: Loading,
    pub(crate) kept: Option<Prepared>,
}

impl Canary {
    pub(crate) fn new(bundle: Bundle, loading: Loading, kept: Option<Prepared>) -> Self {
        Self { bundle, loading, kept }
    }
}

/// What one lane has done at a hook.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, serde::Serialize)]
pub struct LaneCounts {
    /// Calls.
    pub calls: u64,
    /// Calls whose time is known; those of requests in the kernel are counted only.
    pub timed: u64,
    /// Their time, in nanoseconds.
    pub time_ns: u64,
    /// Calls after which the caller heard an error.
    pub refused: u64,
}

/// One hook.
#[derive(Clone, Debug, serde::Serialize)]
pub struct HookCounts {
    /// The program.
    pub program: &'static str,
    /// The version that all others have.
    pub old: LaneCounts,
    /// The one that is tried.
    pub new: LaneCounts,
}

/// What a version did not do itself.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, serde::Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Instead {
    /// The caller was told no.
    Refused,
    /// The kernel left it to the proxy, or balanced a connection as a whole for want of one.
    FellBack,
}

/// How often each version refused or fell back for a reason; `None` of a version that does not count that for itself.
#[derive(Clone, Debug, PartialEq, Eq, serde::Serialize)]
pub struct ReasonCounts {
    /// What it did.
    pub instead: Instead,
    /// Why.
    pub reason: &'static str,
    /// The version that all others have.
    pub old: Option<u64>,
    /// The one that is tried.
    pub new: Option<u64>,
}

/// A trial under way, as the kernel has it.
#[derive(Clone, Debug, serde::Serialize)]
pub struct Trial {
    /// The version that is tried; unknown for what no bundle says.
    pub version: Option<String>,
    /// Its digest.
    pub digest: Option<Digest>,
    /// The subtree that has it.
    pub cgroup: Option<PathBuf>,
    /// Per cent of addresses that have it.
    pub share: u32,
    /// By hook, those that ran.
    pub hooks: Vec<HookCounts>,
    /// Why either refused or fell back, where one did.
    pub reasons: Vec<ReasonCounts>,
}

/// Puts gates in place of the programs that work, with those of `loading` behind them for `scope`. On an error all hooks are as
/// before, and what was pinned is to be cleared.
pub(crate) fn begin(
    pins: &Pins,
    cgroups: &[Cgroup],
    loading: &Loading,
    scope: &Scope,
) -> Result<usize, Error> {
    let mut switch = Switch::default();
    let begun = gates(pins).and_then(|gates| {
        write_scope(pins, scope)?;
        forget_counts(pins)?;
        let mut count = 0;
        for hook in &HOOKS {
            count += usize::from(open(hook, &gates, pins, cgroups, loading, &mut switch)?);
        }
        Ok(count)
    });
    if begun.is_err() {
        switch.take_back();
    }
    begun
}

/// The gates; their maps are pinned, since a prog array that nobody in user space holds is emptied.
fn gates(pins: &Pins) -> Result<Object, Error> {
    let log = Log::begin(40);
    load_gates(&|name| (!is_private(name)).then(|| pins.map(name)), &log).map_err(|said| {
        Error::Verifier(Box::new(Rejection::new("canary", Some("no version can be tried"), said, pins)))
    })
}

fn write_scope(pins: &Pins, scope: &Scope) -> Result<(), Error> {
    let mut words = canary_scope { cgroup: 0, level: 0, share: scope.share };
    if let Some(path) = &scope.cgroup {
        let cgroup = environment::open_cgroup(path)?;
        words.cgroup = cgroup.id;
        words.level = environment::ancestors(&cgroup).len().saturating_sub(1) as u32;
    }
    let map: Map<u32, canary_scope> = Map::new(open_map(&pins.map(SCOPE))?)?;
    map.put_all([(0, words)].into_iter())
}

/// Puts the gate of a hook up; false where one of both versions has nothing at this hook.
fn open(
    hook: &Hook,
    gates: &Object,
    pins: &Pins,
    cgroups: &[Cgroup],
    loading: &Loading,
    switch: &mut Switch,
) -> Result<bool, Error> {
    let Some(old) = works_now(hook, pins, cgroups)? else { return Ok(false) };
    let new = loading.in_order().find_map(|object| program(object, hook.program));
    let Some(new) = new else { return Ok(false) };
    let missing =
        |name: String| Error::kernel("cannot find program", name, io::Error::from(io::ErrorKind::NotFound));
    let gate_name = format!("{GATE}{}", hook.short);
    let gate = program(gates, &gate_name).ok_or_else(|| missing(gate_name))?;
    let lanes = open_map(&pins.map(&hook.lanes()))?;
    for (lane, fd) in [(OLD, old.as_fd()), (NEW, new.as_fd())] {
        put(&lanes, lane, fd).map_err(|e| {
            Error::kernel("cannot put a program into", format!("lane {lane} of {}", hook.short), e)
        })?;
    }
    crate::fault::point(&format!("gates:{}", hook.program))?;
    if let Some(slot) = hook.slot() {
        switch.slot(&gate, slot, &pins.map(slot.array))?;
        return Ok(true);
    }
    let meter_name = format!("{METER}{}", hook.short);
    let meter = program(gates, &meter_name).ok_or_else(|| missing(meter_name.clone()))?;
    for cgroup in cgroups {
        switch.link(&gate, hook.program, pins, cgroup)?;
        switch.link(&meter, &meter_name, pins, cgroup)?;
    }
    Ok(true)
}

fn program<'a>(object: &'a Object, name: &str) -> Option<ProgramMut<'a>> {
    object.progs_mut().find(|program| program.name() == name)
}

/// The program that works at a hook.
fn works_now(hook: &Hook, pins: &Pins, cgroups: &[Cgroup]) -> Result<Option<OwnedFd>, Error> {
    if let Some(slot) = hook.slot() {
        let path = pins.map(slot.array);
        return Ok(if path.exists() { program_in(&open_map(&path)?, slot.index) } else { None });
    }
    let links = cgroups.iter().map(|cgroup| pins.link(hook.program, cgroup));
    let Some(path) = links.into_iter().find(|path| path.exists()) else { return Ok(None) };
    let error = |e| Error::path("cannot ask about the link", &path, io_error(e));
    let id = Link::open(&path).and_then(|link| link.info()).map_err(error)?.prog_id;
    libbpf_rs::Program::fd_from_id(id).map(Some).map_err(error)
}

/// Puts the old programs back in force for all.
pub(crate) fn abort(pins: &Pins, cgroups: &[Cgroup]) -> Result<(), Error> {
    for hook in &HOOKS {
        let path = pins.map(&hook.lanes());
        if !path.exists() {
            continue;
        }
        let Some(old) = program_in(&open_map(&path)?, OLD) else { continue };
        match hook.slot() {
            Some(slot) => put(&open_map(&pins.map(slot.array))?, slot.index, old.as_fd())
                .map_err(|e| Error::kernel("cannot put a program back into", slot.array, e))?,
            None => {
                for cgroup in cgroups {
                    crate::switch::update_link(&pins.link(hook.program, cgroup), old.as_fd())?;
                }
            }
        }
    }
    clear(pins)
}

/// Removes gates' maps and meters. Whoever calls this has put programs in place of the gates, or never put one up.
pub(crate) fn clear(pins: &Pins) -> Result<(), Error> {
    let meters = entries(&pins.links())?;
    let meters = meters.into_iter().filter(|path| name_of(path).starts_with(METER));
    meters.into_iter().try_for_each(|path| unpin(&path))?;
    let maps = entries(&pins.maps())?;
    let maps = maps.into_iter().filter(|path| is_of_gates(&name_of(path)));
    maps.into_iter().try_for_each(|path| unpin(&path))
}

fn is_of_gates(map: &str) -> bool {
    map.starts_with("lanes_") || map.starts_with("canary_")
}

/// Whether a link only measures: it is none of a version.
pub(crate) fn is_meter(link: &str) -> bool {
    link.starts_with(METER)
}

/// The program that a gate leads all others to; `id` itself where that is no gate.
pub(crate) fn behind_gate(pins: &Pins, link: &str, id: u32) -> u32 {
    let is_gate = foreign::program_name(id).is_some_and(|name| name.starts_with(GATE));
    let hook = HOOKS.iter().find(|hook| hook.program == link).filter(|_| is_gate);
    let lanes = hook.and_then(|hook| open_map(&pins.map(&hook.lanes())).ok());
    lanes.and_then(|lanes| number_in(&lanes, OLD)).unwrap_or(id)
}

/// The trial under way, if there is one: asked of the kernel, so also while no agent runs.
pub(crate) fn seen(pins: &Pins) -> Result<Option<Trial>, Error> {
    let path = pins.map(SCOPE);
    if !path.exists() || !is_gated(pins)? {
        return Ok(None);
    }
    let scope: Map<u32, canary_scope> = Map::new(open_map(&path)?)?;
    let scope = scope.get(&0)?.unwrap_or_default();
    let mut origin = None;
    for hook in &HOOKS {
        let path = pins.map(&hook.lanes());
        let id = if path.exists() { number_in(&open_map(&path)?, NEW) } else { None };
        if let Some(id) = id {
            origin = origin.or(origins::origin_of(pins, id)?);
        }
    }
    let root = environment::cgroup2_root().ok_or(Error::NoCgroup2)?;
    let cgroup = match scope.cgroup {
        0 => None,
        wanted => environment::find_below(&root, &|id| id == wanted)
            .map_err(|e| Error::path("cannot search", &root, e))?,
    };
    Ok(Some(Trial {
        digest: origin.as_ref().map(|(digest, _)| *digest),
        version: origin.map(|(_, version)| version),
        cgroup,
        share: scope.share,
        hooks: counts(pins)?,
        reasons: reasons(pins)?,
    }))
}

/// Where the version on trial counts what it refused and left to others: in a map of its own, which goes with the trial.
pub(crate) fn own_counts(pins: &Pins) -> PathBuf {
    pins.map("canary_version_counts")
}

/// The version on trial is in force: what it counts in is what the programs in force count in.
pub(crate) fn keep_counts(pins: &Pins) -> Result<(), Error> {
    let (from, to) = (own_counts(pins), pins.map(VERSION_COUNTS));
    match from.exists() {
        true => std::fs::rename(&from, &to).map_err(|e| Error::path("cannot move", from, e)),
        false => Ok(()),
    }
}

/// Both begin at nothing.
fn forget_counts(pins: &Pins) -> Result<(), Error> {
    match version_counts(&pins.map(VERSION_COUNTS))? {
        Some(counts) => counts.zero_all(0..version_count::VERSION_COUNTS.0),
        None => Ok(()),
    }
}

fn version_counts(path: &Path) -> Result<Option<Map<u32, u64>>, Error> {
    layout::pinned(path)?.map(Map::new).transpose()
}

/// The places of `version_counts`, in their order.
fn places() -> impl Iterator<Item = (u32, Instead, &'static str)> {
    const REFUSALS: [&str; refusal::REFUSALS.0 as usize] = ["no-endpoint", "stale", "no-proxy"];
    let refused = (version_count::VERSION_REFUSED.0..).zip(REFUSALS);
    let fell_back = (version_count::VERSION_HTTP.0..).zip(REASONS);
    let refused = refused.map(|(place, reason)| (place, Instead::Refused, reason));
    refused.chain(fell_back.map(|(place, reason)| (place, Instead::FellBack, reason)))
}

fn reasons(pins: &Pins) -> Result<Vec<ReasonCounts>, Error> {
    let lane = |lane, path: PathBuf| match lane_uses(pins, lane, &path)? {
        true => version_counts(&path)?.map(|counts| read(&counts)).transpose(),
        false => Ok(None),
    };
    let (old, new) = (lane(OLD, pins.map(VERSION_COUNTS))?, lane(NEW, own_counts(pins))?);
    let count = |lane: &Option<Vec<u64>>, place: u32| Some(*lane.as_ref()?.get(place as usize)?);
    let all = places().map(|(place, instead, reason)| ReasonCounts {
        instead,
        reason,
        old: count(&old, place),
        new: count(&new, place),
    });
    Ok(all.filter(|counts| counts.old.unwrap_or(0) + counts.new.unwrap_or(0) > 0).collect())
}

/// Whether the programs of a lane count in the map at `path`: those of a version of before this map do not.
fn lane_uses(pins: &Pins, lane: u32, path: &Path) -> Result<bool, Error> {
    let Some(map) = layout::pinned(path)? else { return Ok(false) };
    let id = pin::number(&map, path)?;
    let mut programs = HashSet::new();
    for hook in &HOOKS {
        let lanes = layout::pinned(&pins.map(&hook.lanes()))?;
        programs.extend(lanes.and_then(|lanes| number_in(&lanes, lane)));
    }
    let options = ProgInfoQueryOptions::default().include_map_ids(true);
    let mut all = ProgInfoIter::with_query_opts(options);
    Ok(all.any(|program| programs.contains(&program.id) && program.map_ids.contains(&id)))
}

fn read(counts: &Map<u32, u64>) -> Result<Vec<u64>, Error> {
    let mut sums = vec![0; version_count::VERSION_COUNTS.0 as usize];
    counts.for_each(|place, cpus| {
        if let Some(sum) = sums.get_mut(place as usize) {
            *sum = cpus.iter().sum();
        }
    })?;
    Ok(sums)
}

fn is_gated(pins: &Pins) -> Result<bool, Error> {
    let links = entries(&pins.links())?;
    Ok(links.iter().any(|path| {
        let id = Link::open(path).and_then(|link| link.info()).map(|info| info.prog_id);
        id.ok().and_then(foreign::program_name).is_some_and(|name| name.starts_with(GATE))
    }))
}

fn counts(pins: &Pins) -> Result<Vec<HookCounts>, Error> {
    let map: Map<u32, canary_count> = Map::new(open_map(&pins.map(COUNTS))?)?;
    let mut lanes = vec![LaneCounts::default(); 2 * HOOKS.len()];
    map.for_each(|key, counts| {
        let Some(lane) = lanes.get_mut(key as usize) else { return };
        for count in counts {
            lane.calls += count.calls;
            lane.timed += count.timed;
            lane.time_ns += count.time_ns;
            lane.refused += count.refused;
        }
    })?;
    let (old, new) = lanes.split_at(HOOKS.len());
    let both = HOOKS.iter().zip(old.iter().zip(new));
    let ran = both.filter(|(_, (old, new))| old.calls + new.calls > 0);
    Ok(ran.map(|(hook, (old, new))| HookCounts { program: hook.program, old: *old, new: *new }).collect())
}

/// The same of an instance by name.
pub fn trial(options: &Options) -> Result<Option<Trial>, Error> {
    environment::check_root()?;
    seen(&Pins::new(options)?)
}

fn name_of(path: &Path) -> String {
    path.file_name().unwrap_or_default().to_string_lossy().into_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The kernel cuts names of maps after 15 characters; pins have the same names.
    #[test]
    fn names_are_whole_in_the_kernel() {
        for hook in &HOOKS {
            assert!(hook.lanes().len() <= 15, "{}", hook.lanes());
        }
        assert!(HOOKS.iter().any(|hook| hook.slot().is_some()));
    }
}
