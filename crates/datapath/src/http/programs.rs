//! The programs on sockets. A socket keeps the program that its map had when it was put in, so that program is a frozen
//! entry which leads on to what stands in `http_programs` now: one store renews the program of every live socket.
#![allow(unsafe_code)]

use std::os::fd::{AsFd, AsRawFd};

use alize_model::Budgets;
use libbpf_rs::libbpf_sys;
use libbpf_rs::{MapHandle, Object};

use super::abi::WINDOWS_PER_CPU;
use crate::Error;
use crate::pin::{Pins, open_map};

/// What is lost without the programs.
pub(crate) const LOST: &str =
    "requests of `protocol: http` are not routed in the kernel: its connections are balanced";

/// What is lost without those of the proxy's own sockets.
pub(crate) const LOST_REMOTE: &str =
    "requests to endpoints on other hosts are not routed in the kernel: the proxy serves them";

/// Connections of clients at once whose requests the kernel may route; the rest go through the proxy.
const CLIENTS: u32 = 65_536;
/// Connections of the proxy to endpoints at once.
const SLOTS: u32 = 8192;
/// Pairs of a network namespace and an endpoint.
const POOLS: u32 = 8192;
/// Rules of all routes together; a service without routes has one.
const RULES: u32 = 16_384;
/// Backends of all rules together.
const GROUPS: u32 = 32_768;
/// Balancing slots of all rules and backends together.
const TARGETS: u32 = 262_144;
/// Patterns of paths of all routes together.
const CLASSES: u32 = 65_536;
/// Combinations of service, route and endpoint that are counted.
const TRAFFIC: u32 = 16_384;

/// Entries of the map called `name`; `None` for those whose size the C source gives.
pub(crate) fn size_of_map(name: &str, budgets: &Budgets) -> Option<u32> {
    Some(match name {
        "http_services" | "http_reasons" | "http_headers" => budgets.services,
        "http_load" | "http_proxied" => budgets.endpoints,
        "http_client_sockets" | "http_rests" => CLIENTS,
        "http_fronts" => CLIENTS / 8,
        "http_far_sockets" | "http_back_sockets" | "http_backs" | "http_slots" | "http_notes" => SLOTS,
        "http_pools" | "http_pool_heads" => POOLS,
        "http_rules" | "http_rates" | "http_buckets" => RULES.min(budgets.services.saturating_mul(4)),
        "http_groups" => GROUPS.min(budgets.services.saturating_mul(8)),
        "http_targets" => TARGETS.min(budgets.slots),
        "http_classes" => CLASSES,
        "http_traffic" => TRAFFIC,
        "http_windows" => libbpf_rs::num_possible_cpus().unwrap_or(1) as u32 * WINDOWS_PER_CPU,
        _ => return None,
    })
}

/// The entries, and the maps of sockets that they belong to.
const ENTRIES: [Entry; 3] = [
    Entry { program: "alize_http_far_entry", map: "http_far_sockets", place: libbpf_sys::BPF_SK_MSG_VERDICT },
    Entry {
        program: "alize_http_client_entry",
        map: "http_client_sockets",
        place: libbpf_sys::BPF_SK_MSG_VERDICT,
    },
    Entry {
        program: "alize_http_back_entry",
        map: "http_back_sockets",
        place: libbpf_sys::BPF_SK_SKB_STREAM_VERDICT,
    },
];

struct Entry {
    program: &'static str,
    map: &'static str,
    /// Where it goes: what the kernel calls an attach type.
    place: libbpf_sys::bpf_attach_type,
}

/// Puts the entries that `object` holds on the pinned maps of sockets, where none are yet: for good.
pub(crate) fn hold(object: &Object, pins: &Pins) -> Result<(), Error> {
    for entry in &ENTRIES {
        let Some(program) = object.progs().find(|program| program.name() == entry.program) else { continue };
        let path = pins.map(entry.map);
        // The programs that would put sockets there were refused.
        if !path.exists() {
            continue;
        }
        let map = open_map(&path)?;
        if !has_program(&map, entry.place) {
            attach(&map, &program, entry.place)?;
        }
    }
    Ok(())
}

/// Whether sockets put into the map get a program already.
pub(super) fn has_program(map: &MapHandle, place: libbpf_sys::bpf_attach_type) -> bool {
    let (mut flags, mut count, mut id) = (0u32, 1u32, 0u32);
    // SAFETY: the kernel writes one word of flags, the count, and at most one number.
    let done = unsafe {
        libbpf_sys::bpf_prog_query(map.as_fd().as_raw_fd(), place, 0, &mut flags, &mut id, &mut count)
    };
    done == 0 && count > 0
}

fn attach(
    map: &MapHandle,
    program: &libbpf_rs::Program<'_>,
    place: libbpf_sys::bpf_attach_type,
) -> Result<(), Error> {
    let (program_fd, map_fd) = (program.as_fd().as_raw_fd(), map.as_fd().as_raw_fd());
    // SAFETY: two numbers of open files and a constant.
    let done = unsafe { libbpf_sys::bpf_prog_attach(program_fd, map_fd, place, 0) };
    match done {
        0 => Ok(()),
        _ => {
            let error = std::io::Error::last_os_error();
            Err(Error::kernel("cannot attach", program.name().to_string_lossy(), error))
        }
    }
}
