//! The observing programs, from the bytes in this binary into the kernel.

use std::collections::HashMap;
use std::io;

use libbpf_rs::{MapCore, MapHandle, Object, ObjectBuilder, OpenObject};
use tracing::warn;

use super::abi::{dns_event, dns_key};
use super::{Limits, Maps, abi};
use crate::error::io_error;
use crate::load::{object, status};
use crate::log::Log;
use crate::maps::Map;
use crate::pin::Pins;
use crate::rejection::{LINES_KEPT, Rejection};
use crate::{Error, ProgramStatus, variant};

/// What the programs are called.
pub(super) const PROGRAMS: [&str; 6] = [
    "alize_observe_egress",
    "alize_observe_ingress",
    "alize_observe_release",
    "alize_observe_tcp",
    DNS_PROGRAMS[0],
    DNS_PROGRAMS[1],
];

/// Attached only while a trace asks for DNS.
pub(super) const DNS_PROGRAMS: [&str; 2] = ["alize_observe_dns_egress", "alize_observe_dns_ingress"];

/// The observer itself.
pub(crate) const OBSERVE: &[u8] = object!("observe");
/// Requests of sockets that are closed before the response; without it they are in no count.
pub(crate) const RELEASE: &[u8] = object!("observe_release");
/// Connections, for traces of TCP.
pub(crate) const TCP: &[u8] = object!("observe_tcp");
/// Requests that the HTTP router serves in the kernel.
pub(crate) const TOLD: &[u8] = object!("http_told");
/// DNS.
pub(crate) const DNS: &[u8] = object!("observe_dns");

/// Plaintext of TLS.
pub(crate) const TLS: &[u8] = object!("observe_tls");

/// Working buffers of a CPU; see `bpf/observe/buffers.h`.
const BUFFERS_PER_CPU: u32 = 4;

pub(super) struct Loaded {
    pub(super) objects: Vec<Object>,
    pub(super) maps: Maps,
    pub(super) traces: MapHandle,
    pub(super) http2_heads: MapHandle,
    pub(super) every_map: Vec<MapHandle>,
    pub(super) programs: Vec<ProgramStatus>,
    /// What tells of requests that the kernel routes; `None`: no data path routes here.
    pub(super) told: Option<Object>,
}

/// What is off without an object.
pub(crate) const fn lost(object: &str) -> &'static str {
    match object.as_bytes() {
        b"observe_release" => "requests of sockets that are closed before the response are not counted",
        b"observe_tcp" => "TCP connections cannot be traced",
        b"observe_dns" => "DNS cannot be traced",
        b"observe_tls" => "requests within TLS are not seen",
        b"http_told" => "requests that the kernel routes are not in trace, top and map",
        _ => "HTTP is not seen: no trace, top or map",
    }
}

pub(super) fn load(pins: &Pins, limits: &Limits) -> Result<Loaded, Error> {
    let mut loaded = keep(load_object("observe", OBSERVE, pins, limits)?)?;
    for (name, bytes) in [("observe_release", RELEASE), ("observe_tcp", TCP)] {
        match load_object(name, bytes, pins, limits) {
            Ok(object) => {
                for program in object.progs() {
                    loaded.programs.push(status(&program)?);
                }
                loaded.objects.push(object);
            }
            Err(error) => warn!("{error}"),
        }
    }
    if pins.map(NEXT).exists() {
        match load_object("http_told", TOLD, pins, limits) {
            Ok(object) => {
                for program in object.progs() {
                    loaded.programs.push(status(&program)?);
                }
                loaded.told = Some(object);
            }
            Err(error) => warn!("{error}"),
        }
    }
    Ok(loaded)
}

/// Where the router looks for what it goes on with; see `bpf/http/note.h`.
pub(super) const NEXT: &str = "http_next";
/// The same for responses from other hosts.
pub(super) const BACK_NEXT: &str = "http_back_next";
/// Whether it is to write notes.
pub(super) const WATCHED: &str = "http_watched";

/// The data path's maps that observing programs read: where it has pinned none, theirs are empty and their own.
const OF_THE_DATA_PATH: [&str; 11] = [
    "connections",
    "http_far",
    "http_backs",
    "http_slots",
    "http_pool_heads",
    "http_notes",
    NEXT,
    BACK_NEXT,
    WATCHED,
    "anomalies",
    "http_load",
];

/// DNS, and the map of what was asked and not yet answered.
pub(super) fn load_dns(pins: &Pins, limits: &Limits) -> Result<(Object, Map<dns_key, dns_event>), Error> {
    let object = load_object("observe_dns", DNS, pins, limits)?;
    let error = |e| Error::kernel("cannot keep map", "dns_queries", e);
    let map = object.maps().find(|map| map.name() == "dns_queries");
    let map = map.ok_or_else(|| error(io::Error::other("no program uses it")))?;
    let queries = Map::new(MapHandle::try_from(&map).map_err(|e| error(io_error(e)))?)?;
    Ok((object, queries))
}

/// Plaintext of TLS. Its own maps are not pinned: they are worth nothing without the probes, which are not either.
pub(super) fn load_tls(pins: &Pins, limits: &Limits) -> Result<Object, Error> {
    load_shared("observe_tls", TLS, pins, limits, |name| !name.starts_with("tls_"))
}

fn load_object(name: &'static str, bytes: &[u8], pins: &Pins, limits: &Limits) -> Result<Object, Error> {
    load_shared(name, bytes, pins, limits, |_| true)
}

fn load_shared(
    name: &'static str,
    bytes: &[u8],
    pins: &Pins,
    limits: &Limits,
    shared: impl Fn(&str) -> bool,
) -> Result<Object, Error> {
    let log = Log::begin(LINES_KEPT);
    let rejected = |error: libbpf_rs::Error| {
        Error::Verifier(Box::new(Rejection::new(name, Some(lost(name)), log.take_with(&error), pins)))
    };
    let mut object = ObjectBuilder::default()
        .name(name)
        .and_then(|builder| builder.open_memory(bytes))
        .map_err(rejected)?;
    variant::choose(&mut object);
    share(&mut object, pins, limits, shared)?;
    object.load().map_err(rejected)
}

/// The maps of `bpf/observe/emit.h`, which other programs write to as well.
const EMITTED_TO: [&str; 12] = [
    "tracing",
    "filters",
    "filter_states",
    "filter_endpoints",
    "filter_cgroups",
    "traces",
    "tallies",
    "slowest",
    "slowest_orders",
    "failed_exchanges",
    "failures_recorded",
    "drafts",
];

/// Gives an object that emits requests (`bpf/observe/emit.h`) the observer's maps, before it is loaded; its own maps are
/// left alone. Whoever is first, the observer or the object, makes and pins them.
pub(crate) fn share_maps(object: &mut OpenObject, pins: &Pins, limits: &Limits) -> Result<(), Error> {
    share(object, pins, limits, |name| EMITTED_TO.contains(&name))
}

/// libbpf makes and pins a map whose pin does not exist, and otherwise takes the pinned one if it is compatible: so
/// pinned maps keep the sizes that they were made with.
fn share(
    object: &mut OpenObject,
    pins: &Pins,
    limits: &Limits,
    ours: impl Fn(&str) -> bool,
) -> Result<(), Error> {
    let cpus =
        libbpf_rs::num_possible_cpus().map_err(|e| Error::kernel("cannot count", "CPUs", io_error(e)))?;
    for mut map in object.maps_mut() {
        let name = map.name().to_string_lossy().into_owned();
        let error = |e| Error::kernel("cannot prepare map", &name, io_error(e));
        // The compiler's own: constants of this version of the programs.
        if name.contains('.') || !ours(&name) {
            continue;
        }
        if OF_THE_DATA_PATH.contains(&name.as_str()) {
            let path = pins.map(&name);
            if let Ok(pinned) = MapHandle::from_pinned_path(&path) {
                map.set_max_entries(pinned.max_entries()).map_err(error)?;
                map.set_pin_path(&path).map_err(error)?;
            }
            continue;
        }
        let path = pins.map(&pin_name(&name));
        let entries = match name.as_str() {
            "series" => limits.series,
            "paths" => limits.paths,
            "traces" | "http2_heads" => limits.ring_bytes,
            "links" => limits.links,
            "windows" => cpus as u32 * BUFFERS_PER_CPU,
            _ => 0,
        };
        let pinned = MapHandle::from_pinned_path(&path).ok().map(|map| map.max_entries());
        if entries != 0 {
            map.set_max_entries(pinned.unwrap_or(entries)).map_err(error)?;
        }
        map.set_pin_path(&path).map_err(error)?;
    }
    Ok(())
}

/// The version is in the name: maps of another one are neither used nor in the way.
pub(super) fn pin_name(map: &str) -> String {
    format!("observe{}_{map}", abi::VERSION)
}

fn keep(object: Object) -> Result<Loaded, Error> {
    let mut handles = HashMap::new();
    let mut every_map = Vec::new();
    for map in object.maps() {
        let name = map.name().to_string_lossy().into_owned();
        let handle =
            || MapHandle::try_from(&map).map_err(|e| Error::kernel("cannot keep map", &name, io_error(e)));
        every_map.push(handle()?);
        handles.insert(name.clone(), handle()?);
    }
    let mut take = |name: &str| {
        let missing = || Error::kernel("cannot find map", name, io::Error::other("no program uses it"));
        handles.remove(name).ok_or_else(missing)
    };
    let maps = Maps {
        series: Map::new(take("series")?)?,
        series_overflow: Map::new(take("series_overflow")?)?,
        paths: Map::new(take("paths")?)?,
        tallies: Map::new(take("tallies")?)?,
        tracing: Map::new(take("tracing")?)?,
        filters: Map::new(take("filters")?)?,
        templates: Map::new(take("templates")?)?,
        templated_paths: Map::new(take("templated_paths")?)?,
        filter_endpoints: Map::new(take("filter_endpoints")?)?,
        filter_cgroups: Map::new(take("filter_cgroups")?)?,
        slowest: Map::new(take("slowest")?)?,
        failed: Map::new(take("failed_exchanges")?)?,
        http2_readers: Map::new(take("http2_readers")?)?,
    };
    let (traces, http2_heads) = (take("traces")?, take("http2_heads")?);
    let programs = object.progs().map(|program| status(&program)).collect::<Result<_, _>>()?;
    Ok(Loaded { objects: vec![object], maps, traces, http2_heads, every_map, programs, told: None })
}
