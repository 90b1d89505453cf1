//! Carries the entries of a map over into one of another layout, field by field, by name.
#![allow(unsafe_code)]

use std::io;
use std::os::fd::{AsFd, AsRawFd};

use libbpf_rs::{MapCore, MapHandle, MapType, libbpf_sys};

use crate::Error;
use crate::btf::Field;
use crate::error::io_error;
use crate::layout::MapLayout;

/// Whether what is in a map is worth nothing but while a program runs: working buffers, and that they are taken.
pub(crate) fn is_scratch(map: &str) -> bool {
    matches!(map, "windows" | "http_windows" | "drafts" | "dns_scratches")
}

/// What is copied from where to where, in bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Copy {
    from: usize,
    to: usize,
    length: usize,
}

/// Fills `new` with the entries of `old`. Fields that only one of them has are zero, or dropped. Returns how many entries
/// there were; a ring and a map without known fields begin empty.
pub(crate) fn carry_over(
    name: &str,
    old: (&MapHandle, &MapLayout),
    new: (&MapHandle, &MapLayout),
) -> Result<u64, Error> {
    let kind = old.0.map_type();
    if kind != new.0.map_type() || matches!(kind, MapType::RingBuf) {
        return Ok(0);
    }
    let fields = |layout: &MapLayout| Some((layout.key.clone()?, layout.value.clone()?));
    let (Some((old_key, old_value)), Some((new_key, new_value))) = (fields(old.1), fields(new.1)) else {
        return Ok(0);
    };
    let keys = copies(&old_key, &new_key);
    let values = copies(&old_value, &new_value);
    let cpus = match kind.is_percpu() {
        true => libbpf_rs::num_possible_cpus()
            .map_err(|e| Error::kernel("cannot count the CPUs for", name, io_error(e)))?,
        false => 1,
    };
    let stride = |map: &MapHandle| match kind.is_percpu() {
        // The kernel hands per-CPU values over in steps of eight bytes.
        true => (map.value_size() as usize).next_multiple_of(8),
        false => map.value_size() as usize,
    };
    let (old_stride, new_stride) = (stride(old.0), stride(new.0));
    let mut key = vec![0u8; old.0.key_size() as usize];
    let mut next = key.clone();
    let mut value = vec![0u8; old_stride * cpus];
    let (mut count, mut begun) = (0, false);
    // A hash whose entries go while one looks may begin anew; there is an end to that.
    let limit = u64::from(old.0.max_entries()) * 2;
    while count < limit {
        let before = if begun { key.as_ptr() } else { std::ptr::null() };
        // SAFETY: the kernel reads one key, or none, and writes one; both buffers have the size of a key.
        let done =
            unsafe { libbpf_sys::bpf_map_get_next_key(fd(old.0), before.cast(), next.as_mut_ptr().cast()) };
        if done != 0 {
            break;
        }
        std::mem::swap(&mut key, &mut next);
        begun = true;
        // SAFETY: the kernel reads one key and writes one value for each CPU, for which there is room.
        let found = unsafe {
            libbpf_sys::bpf_map_lookup_elem(fd(old.0), key.as_ptr().cast(), value.as_mut_ptr().cast())
        };
        count += 1;
        if found != 0 || (is_array(kind) && value.iter().all(|byte| *byte == 0)) {
            continue;
        }
        let mut new_entry = vec![0u8; new.0.key_size() as usize];
        copy(&keys, &key, &mut new_entry);
        let mut new_values = vec![0u8; new_stride * cpus];
        for cpu in 0..cpus {
            copy(&values, &value[cpu * old_stride..], &mut new_values[cpu * new_stride..]);
        }
        // SAFETY: the kernel reads one key and one value for each CPU, which the buffers hold.
        let written = unsafe {
            libbpf_sys::bpf_map_update_elem(
                fd(new.0),
                new_entry.as_ptr().cast(),
                new_values.as_ptr().cast(),
                0,
            )
        };
        if written != 0 {
            return Err(Error::kernel("cannot carry over into map", name, io::Error::last_os_error()));
        }
    }
    Ok(count)
}

fn is_array(kind: MapType) -> bool {
    matches!(kind, MapType::Array | MapType::PercpuArray)
}

fn fd(map: &MapHandle) -> i32 {
    map.as_fd().as_raw_fd()
}

/// For each field that both have: as much as fits. Numbers are little endian on all machines that are built for, so that
/// one that grew has its value in the lower bytes.
fn copies(old: &[Field], new: &[Field]) -> Vec<Copy> {
    let mut copies = Vec::new();
    for to in new {
        let Some(from) = old.iter().find(|from| from.path == to.path) else { continue };
        let count = from.count.min(to.count) as usize;
        let length = from.size.min(to.size) as usize;
        for index in 0..count {
            copies.push(Copy {
                from: from.offset as usize + index * from.size as usize,
                to: to.offset as usize + index * to.size as usize,
                length,
            });
        }
    }
    copies
}

fn copy(copies: &[Copy], from: &[u8], to: &mut [u8]) {
    for copy in copies {
        // The layouts were read from foreign bytes; what lies outside is no field.
        if let (Some(from), Some(to)) =
            (from.get(copy.from..copy.from + copy.length), to.get_mut(copy.to..copy.to + copy.length))
        {
            to.copy_from_slice(from);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn fields_find_their_place_by_name() {
        let field = |path: &str, offset, size, count| Field { path: path.into(), offset, size, count };
        let old = [field("a", 0, 4, 1), field("gone", 4, 4, 1), field("row", 8, 8, 2)];
        let new = [field("new", 0, 8, 1), field("row", 8, 8, 3), field("a", 32, 8, 1)];
        let mut to = [0xff; 40];
        to.fill(0);
        let mut from = [0u8; 24];
        from[..4].copy_from_slice(&7u32.to_le_bytes());
        from[8..16].copy_from_slice(&8u64.to_le_bytes());
        from[16..].copy_from_slice(&9u64.to_le_bytes());
        copy(&copies(&old, &new), &from, &mut to);
        let number = |at: usize| u64::from_le_bytes(to[at..at + 8].try_into().unwrap());
        assert_eq!([0, 8, 16, 24, 32].map(number), [0, 8, 9, 0, 7]);
        // Layouts that lie read nothing and write nothing.
        copy(&[Copy { from: 20, to: 0, length: 8 }, Copy { from: 0, to: 36, length: 8 }], &from, &mut to);
    }
}
