//! The maps of the observing programs: whose they are, how large they become, and where user space finds them.

use libbpf_rs::{MapCore, MapHandle, OpenObject};

use super::{Limits, Maps};
use crate::Error;
use crate::error::io_error;
use crate::maps::Map;
use crate::pin::{self, Pins};

/// What the names of all programs begin with that are attached to cgroups.
pub(super) const PROGRAMS: &str = "alize_observe_";

/// Attached only while a trace asks for DNS.
pub(super) const DNS_PROGRAMS: &str = "alize_observe_dns_";

/// Working buffers of a CPU; see `bpf/observe/buffers.h`.
const BUFFERS_PER_CPU: u32 = 4;

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

/// Where the router looks for what it goes on with; see `bpf/http/note.h`.
pub(super) const NEXT: &str = "http_next";
/// The same for responses from other hosts.
pub(super) const BACK_NEXT: &str = "http_back_next";
/// Whether it is to write notes.
pub(super) const WATCHED: &str = "http_watched";

/// The data path's maps that observing programs read: where it has pinned none, theirs are empty and their own.
const OF_THE_DATA_PATH: [&str; 10] = [
    "connections",
    "http_far",
    "http_backs",
    "http_slots",
    "http_pool_heads",
    "http_notes",
    NEXT,
    BACK_NEXT,
    WATCHED,
    "http_load",
];

/// Whether the data path makes this map.
pub(crate) fn is_of_the_data_path(map: &str) -> bool {
    OF_THE_DATA_PATH.contains(&map)
}

/// Whether observing programs alone use this map, so that user space need not know its layout.
pub(crate) fn is_of_the_programs(map: &str) -> bool {
    const MAPS: [&str; 12] = [
        "windows",
        "lives",
        "conversations",
        "pipelines",
        "partials",
        "http2s",
        "links",
        "slowest_orders",
        "failures_recorded",
        "filter_states",
        "dns_scratches",
        "dns_streams",
    ];
    MAPS.contains(&map)
}

/// Entries of the map called `name`; `None` for those whose size the C source gives, and for those of others.
pub(crate) fn size_of_map(name: &str, limits: &Limits) -> Option<u32> {
    Some(match name {
        "series" => limits.series,
        "paths" => limits.paths,
        "traces" | "http2_heads" => limits.ring_bytes,
        "links" => limits.links,
        "windows" => libbpf_rs::num_possible_cpus().unwrap_or(1) as u32 * BUFFERS_PER_CPU,
        _ => return None,
    })
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
pub(super) fn share_maps(object: &mut OpenObject, pins: &Pins, limits: &Limits) -> Result<(), Error> {
    for mut map in object.maps_mut() {
        let name = map.name().to_string_lossy().into_owned();
        if !EMITTED_TO.contains(&name.as_str()) {
            continue;
        }
        let error = |e| Error::kernel("cannot prepare map", &name, io_error(e));
        let path = pins.map(&name);
        let pinned = path.exists().then(|| MapHandle::from_pinned_path(&path).ok()).flatten();
        if let Some(entries) = size_of_map(&name, limits) {
            map.set_max_entries(pinned.map_or(entries, |map| map.max_entries())).map_err(error)?;
        }
        map.set_pin_path(&path).map_err(error)?;
    }
    Ok(())
}

impl Maps {
    /// Those that are in force.
    pub(super) fn open(pins: &Pins) -> Result<Self, Error> {
        let take = |name: &str| pins.open(name);
        Ok(Self {
            made: pin::made(&pins.map("series"))?,
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
        })
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;
    use crate::layout;
    use crate::load::{FILES, Role};

    fn maps_of(data_path: bool) -> BTreeSet<String> {
        let files = FILES.iter().filter(|file| (file.role == Role::DataPath) == data_path);
        let maps = files.flat_map(|file| layout::of_object(file.name, file.bytes).unwrap().maps);
        maps.map(|map| map.name).collect()
    }

    #[test]
    fn it_is_known_whose_a_map_is() {
        let (theirs, ours) = (maps_of(true), maps_of(false));
        let both: BTreeSet<&str> = theirs.intersection(&ours).map(String::as_str).collect();
        assert_eq!(both, BTreeSet::from(OF_THE_DATA_PATH));
        assert!(ours.iter().any(|map| is_of_the_programs(map)));
        assert!(theirs.iter().all(|map| !is_of_the_programs(map)));
    }
}
