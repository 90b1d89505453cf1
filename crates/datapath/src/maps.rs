//! The pinned maps, typed; many entries a system call.
#![allow(unsafe_code)]

use std::io;
use std::marker::PhantomData;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd};

use libbpf_rs::libbpf_sys;
use libbpf_rs::{MapCore, MapHandle};

use crate::Error;
use crate::abi::{
    Plain, decisions, endpoint, endpoint_load, frontend_key, outcomes, service, service_name, traffic,
};

/// Most entries handled by one system call, so that its cost is spread.
const BATCH: usize = 4096;

/// Bytes of entries read by one system call, so that reading a large map does not make the agent grow.
const READ_BYTES: usize = 64 * 1024;

/// A hash bucket can hold more entries than a batch; the batch is doubled this often.
const DOUBLINGS: u32 = 6;

/// Tries when the kernel says that a map was busy.
const TRIES: u32 = 16;

/// A map with keys `K` and values `V`; values of per-CPU maps are handed over one after the other.
#[derive(Debug)]
pub(crate) struct Map<K, V> {
    handle: MapHandle,
    cpus: usize,
    /// Of one value, in the kernel; those of this binary are the first of its bytes.
    stride: usize,
    types: PhantomData<fn(K) -> V>,
}

/// All the maps that user space reads or writes.
#[derive(Debug)]
pub(crate) struct Maps {
    pub(crate) frontends: Map<frontend_key, u32>,
    pub(crate) services: Map<u32, service>,
    pub(crate) service_names: Map<u32, service_name>,
    pub(crate) endpoints: Map<u32, endpoint>,
    pub(crate) endpoint_load: Map<u32, endpoint_load>,
    pub(crate) slots: Map<u32, u64>,
    pub(crate) service_traffic: Map<u32, traffic>,
    pub(crate) service_decisions: Map<u32, decisions>,
    pub(crate) endpoint_traffic: Map<u32, traffic>,
    pub(crate) shadow_outcomes: Map<u32, outcomes>,
    pub(crate) shadow_would: Map<u32, u64>,
    pub(crate) anomalies: Map<u32, u64>,
}

impl<K: Plain, V: Plain> Map<K, V> {
    /// Takes `handle` if its keys have the size of `K` and its values begin with a `V`: programs of a later version may have
    /// put more behind it, which is written as zeros here.
    pub(crate) fn new(handle: MapHandle) -> Result<Self, Error> {
        let sizes = (handle.key_size() as usize, handle.value_size() as usize);
        if sizes.0 != size_of::<K>() || sizes.1 < size_of::<V>() {
            let found = format!("keys and values of {} and {} bytes", sizes.0, sizes.1);
            return Err(Error::kernel("cannot use map", name_of(&handle), io::Error::other(found)));
        }
        let count_cpus = || {
            libbpf_rs::num_possible_cpus().map_err(|e| {
                Error::kernel("cannot count the CPUs for", name_of(&handle), crate::error::io_error(e))
            })
        };
        // The kernel hands per-CPU values over in steps of eight bytes, on machines with one CPU too.
        let (cpus, stride) = match handle.map_type().is_percpu() {
            true => (count_cpus()?, sizes.1.next_multiple_of(8)),
            false => (1, sizes.1),
        };
        Ok(Self { handle, cpus, stride, types: PhantomData })
    }

    pub(crate) fn name(&self) -> String {
        name_of(&self.handle)
    }

    pub(crate) fn max_entries(&self) -> u32 {
        self.handle.max_entries()
    }

    pub(crate) fn fd(&self) -> BorrowedFd<'_> {
        self.handle.as_fd()
    }

    fn raw_fd(&self) -> i32 {
        self.handle.as_fd().as_raw_fd()
    }

    /// The value of `key`; not for per-CPU maps.
    pub(crate) fn get(&self, key: &K) -> Result<Option<V>, Error> {
        debug_assert_eq!(self.cpus, 1);
        let mut value = vec![0u8; self.stride];
        // SAFETY: the kernel reads one key and writes one value; Map::new has compared the sizes.
        let done = unsafe {
            libbpf_sys::bpf_map_lookup_elem(
                self.raw_fd(),
                key.bytes().as_ptr().cast(),
                value.as_mut_ptr().cast(),
            )
        };
        match done {
            0 => Ok(V::read(&value)),
            _ if last_error(libc::ENOENT) => Ok(None),
            _ => Err(self.error("cannot read map")),
        }
    }

    /// Writes one entry. Maps of sockets take no batches.
    pub(crate) fn put(&self, key: &K, value: &V) -> Result<(), Error> {
        let mut bytes = value.bytes().to_vec();
        bytes.resize(self.stride, 0);
        // SAFETY: the kernel reads one key and one value; Map::new has compared the sizes.
        let done = unsafe {
            libbpf_sys::bpf_map_update_elem(
                self.raw_fd(),
                key.bytes().as_ptr().cast(),
                bytes.as_ptr().cast(),
                0,
            )
        };
        if done == 0 { Ok(()) } else { Err(self.error("cannot write map")) }
    }

    /// Writes the entries in order, into a map that is not per CPU.
    pub(crate) fn put_all(&self, entries: impl Iterator<Item = (K, V)>) -> Result<(), Error> {
        debug_assert_eq!(self.cpus, 1);
        let mut keys = Vec::new();
        let mut values = Vec::new();
        let mut count = 0;
        for (key, value) in entries {
            keys.extend_from_slice(key.bytes());
            values.extend_from_slice(value.bytes());
            values.resize((count + 1) * self.stride, 0);
            count += 1;
            if count == BATCH {
                self.put_batch(&keys, &values, count)?;
                keys.clear();
                values.clear();
                count = 0;
            }
        }
        self.put_batch(&keys, &values, count)
    }

    fn put_batch(&self, keys: &[u8], values: &[u8], count: usize) -> Result<(), Error> {
        debug_assert_eq!((keys.len(), values.len()), (count * size_of::<K>(), count * self.stride));
        if count == 0 {
            return Ok(());
        }
        let mut done = count as u32;
        // SAFETY: the kernel reads `count` keys and values, which the buffers hold; the options may be null.
        let result = unsafe {
            libbpf_sys::bpf_map_update_batch(
                self.raw_fd(),
                keys.as_ptr().cast(),
                values.as_ptr().cast(),
                &mut done,
                std::ptr::null(),
            )
        };
        if result == 0 { Ok(()) } else { Err(self.error("cannot write map")) }
    }

    /// Makes the values of `keys` zeros, on all CPUs.
    pub(crate) fn zero_all(&self, keys: impl Iterator<Item = K>) -> Result<(), Error> {
        let zeros = vec![0u8; self.stride * self.cpus];
        for key in keys {
            // SAFETY: the kernel reads one key, and one value for each CPU, which the buffer holds.
            let done = unsafe {
                libbpf_sys::bpf_map_update_elem(
                    self.raw_fd(),
                    key.bytes().as_ptr().cast(),
                    zeros.as_ptr().cast(),
                    0,
                )
            };
            if done != 0 {
                return Err(self.error("cannot write map"));
            }
        }
        Ok(())
    }

    /// Removes `keys`; one that is not there is no error.
    pub(crate) fn delete_all(&self, keys: impl Iterator<Item = K>) -> Result<(), Error> {
        for key in keys {
            // SAFETY: the kernel reads one key, whose size Map::new has compared.
            let done = unsafe { libbpf_sys::bpf_map_delete_elem(self.raw_fd(), key.bytes().as_ptr().cast()) };
            if done != 0 && !last_error(libc::ENOENT) {
                return Err(self.error("cannot remove from map"));
            }
        }
        Ok(())
    }

    /// Hands over all entries; those that come or go meanwhile may or may not be among them.
    pub(crate) fn for_each(&self, each: impl FnMut(K, &[V])) -> Result<(), Error> {
        let entry = size_of::<K>() + self.stride * self.cpus;
        let batch = (READ_BYTES / entry).clamp(64, BATCH).min(self.max_entries() as usize);
        self.read_from(None, batch, usize::MAX, each)
    }

    fn read_from(
        &self,
        start: Option<u32>,
        mut batch: usize,
        mut limit: usize,
        mut each: impl FnMut(K, &[V]),
    ) -> Result<(), Error> {
        let value_size = self.stride * self.cpus;
        let mut keys = vec![0u8; batch * size_of::<K>()];
        let mut values = vec![0u8; batch * value_size];
        let mut decoded = Vec::with_capacity(self.cpus);
        // Of a hash the position is a bucket's number, of all other maps the last key (kernel/bpf/syscall.c,
        // generic_map_lookup_batch): a whole one, and those of a trie are long.
        let width = size_of::<K>().max(size_of::<u32>());
        let mut position = start.map(|key| {
            let mut bytes = key.to_ne_bytes().to_vec();
            bytes.resize(width, 0);
            bytes
        });
        let mut next = vec![0u8; width];
        let (mut doublings, mut tries) = (0, 0);
        while limit > 0 {
            let mut count = batch.min(limit) as u32;
            // SAFETY: the kernel writes at most `count` keys and values, for which the buffers have room, and reads and
            // writes a position, which is as long as a key or has four bytes.
            let result = unsafe {
                libbpf_sys::bpf_map_lookup_batch(
                    self.raw_fd(),
                    position.as_mut().map_or(std::ptr::null_mut(), |position| position.as_mut_ptr().cast()),
                    next.as_mut_ptr().cast(),
                    keys.as_mut_ptr().cast(),
                    values.as_mut_ptr().cast(),
                    &mut count,
                    std::ptr::null(),
                )
            };
            let errno = if result == 0 { None } else { io::Error::last_os_error().raw_os_error() };
            match errno {
                Some(libc::ENOSPC) if doublings < DOUBLINGS => {
                    doublings += 1;
                    batch *= 2;
                    keys.resize(batch * size_of::<K>(), 0);
                    values.resize(batch * value_size, 0);
                    continue;
                }
                Some(libc::EAGAIN | libc::EINTR | libc::EBUSY) if tries < TRIES => {
                    tries += 1;
                    continue;
                }
                None | Some(libc::ENOENT) => {}
                Some(ENOTSUPP) => return self.read_singly(position, limit, each),
                Some(_) => return Err(self.error("cannot read map")),
            }
            let count = (count as usize).min(batch);
            for at in 0..count {
                decoded.clear();
                let value = &values[at * value_size..][..value_size];
                decoded.extend(value.chunks_exact(self.stride).filter_map(V::read));
                if let Some(key) = K::read(&keys[at * size_of::<K>()..]) {
                    each(key, &decoded);
                }
            }
            limit -= count.min(limit);
            if errno.is_some() || count == 0 {
                break;
            }
            position = Some(next.clone());
        }
        Ok(())
    }
}

/// The kernel's own number, which is not among those of the C library: the map has no such operation.
const ENOTSUPP: i32 = 524;

impl<K: Plain, V: Plain> Map<K, V> {
    /// One entry a system call: arrays of per-CPU values can be read in no other way before Linux 5.13. `after` begins with
    /// a key.
    fn read_singly(
        &self,
        after: Option<Vec<u8>>,
        limit: usize,
        mut each: impl FnMut(K, &[V]),
    ) -> Result<(), Error> {
        let mut key = after;
        let mut next = vec![0u8; size_of::<K>()];
        let mut value = vec![0u8; self.stride * self.cpus];
        for _ in 0..limit.min(self.max_entries() as usize) {
            let before = key.as_ref().map_or(std::ptr::null(), |key| key.as_ptr());
            // SAFETY: the kernel reads one key, or none, and writes one key and one value (of a per-CPU map one for each
            // CPU), for which the buffers have room.
            let done = unsafe {
                libbpf_sys::bpf_map_get_next_key(self.raw_fd(), before.cast(), next.as_mut_ptr().cast()) == 0
                    && libbpf_sys::bpf_map_lookup_elem(
                        self.raw_fd(),
                        next.as_ptr().cast(),
                        value.as_mut_ptr().cast(),
                    ) == 0
            };
            match done {
                true => {}
                false if last_error(libc::ENOENT) => break,
                false => return Err(self.error("cannot read map")),
            }
            let values: Vec<V> = value.chunks_exact(self.stride).filter_map(V::read).collect();
            if let Some(key) = K::read(&next) {
                each(key, &values);
            }
            key = Some(next.clone());
        }
        Ok(())
    }
}

impl<V: Plain> Map<u32, V> {
    /// `length` values of an array from place `base` on.
    pub(crate) fn get_run(&self, base: u32, length: u32) -> Result<Vec<V>, Error> {
        let mut run = Vec::with_capacity(length as usize);
        // The kernel begins after the position that it is given.
        let start = base.checked_sub(1);
        self.read_from(start, (length as usize).clamp(1, BATCH), length as usize, |_, value| {
            run.extend(value)
        })?;
        Ok(run)
    }
}

impl<K, V> Map<K, V> {
    fn error(&self, action: &'static str) -> Error {
        Error::kernel(action, name_of(&self.handle), io::Error::last_os_error())
    }
}

fn name_of(handle: &MapHandle) -> String {
    handle.name().to_string_lossy().into_owned()
}

fn last_error(errno: i32) -> bool {
    io::Error::last_os_error().raw_os_error() == Some(errno)
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use libbpf_rs::MapType;

    use super::*;

    fn map<K: Plain, V: Plain>(kind: MapType, size: u32) -> Map<K, V> {
        let flags = if kind == MapType::LpmTrie { libbpf_sys::BPF_F_NO_PREALLOC } else { 0 };
        let options = libbpf_sys::bpf_map_create_opts {
            sz: size_of::<libbpf_sys::bpf_map_create_opts>() as libbpf_sys::size_t,
            map_flags: flags,
            ..Default::default()
        };
        let sizes = (size_of::<K>() as u32, size_of::<V>() as u32);
        Map::new(MapHandle::create(kind, Some("test"), sizes.0, sizes.1, size, &options).unwrap()).unwrap()
    }

    /// In more than one batch: each begins where the one before ended, which of a trie is a key of many bytes.
    #[test]
    fn tries_with_long_keys_are_read_whole() {
        let trie = map::<frontend_key, u32>(MapType::LpmTrie, 20_000);
        let prefix = size_of::<frontend_key>() as u32 * 8 - 32;
        let key = |number: u32| {
            let mut bytes = vec![0; size_of::<frontend_key>()];
            bytes[..4].copy_from_slice(&prefix.to_ne_bytes());
            bytes[4..8].copy_from_slice(&number.to_be_bytes());
            frontend_key::read(&bytes).unwrap()
        };
        trie.put_all((0..10_000).map(|number| (key(number), number))).unwrap();
        let mut seen = BTreeMap::new();
        trie.for_each(|_, value| *seen.entry(value[0]).or_insert(0) += 1).unwrap();
        assert!(seen.len() == 10_000 && seen.values().all(|&times| times == 1), "{} entries", seen.len());
    }

    #[test]
    fn values_of_each_cpu_are_read_whole_singly_too() {
        let map = map::<u32, u32>(MapType::PercpuArray, 7);
        let mut seen = 0;
        map.read_singly(None, usize::MAX, |_, values| seen += values.len()).unwrap();
        assert_eq!(seen, 7 * libbpf_rs::num_possible_cpus().unwrap());
    }
}
