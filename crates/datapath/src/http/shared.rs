//! Arrays of the kernel, mapped: what programs and user space change with atomic operations.
//!
//! The kernel makes every mapped page resident at once, so only what is asked for is mapped.
#![allow(unsafe_code)]

use std::marker::PhantomData;
use std::ptr::NonNull;
use std::sync::OnceLock;
use std::sync::atomic::{AtomicU8, AtomicU16, AtomicU32, AtomicU64};

use rustix::mm::{MapFlags, ProtFlags, mmap, munmap};

use crate::Error;
use crate::maps::Map;

/// A type that both sides change at any time, field by field, each with atomic operations.
///
/// # Safety
/// Made of atomics alone, of the size and alignment that the values of the mapped map have.
pub(crate) unsafe trait Atomic {
    /// The value as the border has it.
    type Value;
}

/// `struct http_slot` of bpf/http/abi.h, as atomics.
#[repr(C)]
pub(crate) struct SlotCell {
    pub(crate) state: AtomicU64,
    pub(crate) next: AtomicU64,
    pub(crate) started_ns: AtomicU64,
    pub(crate) left: AtomicU64,
    pub(crate) request_bytes: AtomicU64,
    pub(crate) response_bytes: AtomicU64,
    pub(crate) pool: AtomicU32,
    pub(crate) endpoint: AtomicU32,
    pub(crate) service: AtomicU32,
    pub(crate) route: AtomicU32,
    pub(crate) status: AtomicU16,
    pub(crate) method: AtomicU8,
    pub(crate) phase: AtomicU8,
    pub(crate) far: AtomicU32,
    pub(crate) reason: AtomicU32,
    noted: AtomicU32,
    pub(crate) ended: AtomicU32,
    zero: AtomicU32,
    pub(crate) used: AtomicU64,
}

/// `struct http_pool` of bpf/http/abi.h, as atomics.
#[repr(C)]
pub(crate) struct PoolCell {
    pub(crate) head: AtomicU64,
    pub(crate) empty: AtomicU64,
}

/// `struct http_proxied` of bpf/http/abi.h, as atomics.
#[repr(C)]
pub(crate) struct ProxiedCell {
    pub(crate) lane: [AtomicU16; super::abi::LANES],
}

// SAFETY: atomics only; the offsets are compared below.
unsafe impl Atomic for SlotCell {
    type Value = super::abi::http_slot;
}
// SAFETY: as above.
unsafe impl Atomic for PoolCell {
    type Value = super::abi::http_pool;
}
// SAFETY: as above.
unsafe impl Atomic for ProxiedCell {
    type Value = super::abi::http_proxied;
}
// SAFETY: an array of 64-bit words.
unsafe impl Atomic for AtomicU64 {
    type Value = u64;
}
// SAFETY: an array of 32-bit words, which the kernel keeps eight bytes apart.
unsafe impl Atomic for AtomicU32 {
    type Value = u32;
}

macro_rules! same_place {
    ($cell:ty, $value:ty: $($field:ident),+) => {
        const _: () = {
            assert!(size_of::<$cell>() == size_of::<$value>());
            $(assert!(std::mem::offset_of!($cell, $field) == std::mem::offset_of!($value, $field));)+
        };
    };
}
same_place!(SlotCell, super::abi::http_slot: state, next, started_ns, left, request_bytes, response_bytes, pool, endpoint,
    service, route, status, method, phase, far, reason, noted, ended, zero, used);
same_place!(PoolCell, super::abi::http_pool: head, empty);
same_place!(ProxiedCell, super::abi::http_proxied: lane);

/// Some values of an array map, one after the other.
pub(crate) struct Shared<T> {
    start: NonNull<u8>,
    bytes: usize,
    /// Number of the first value.
    first: u32,
    count: u32,
    stride: usize,
    values: PhantomData<T>,
}

// SAFETY: the memory is shared with the kernel at all times anyway; it is touched through atomics only.
unsafe impl<T: Atomic + Sync> Send for Shared<T> {}
// SAFETY: as above.
unsafe impl<T: Atomic + Sync> Sync for Shared<T> {}

impl<T: Atomic> Shared<T> {
    /// The kernel rounds the values of an array up to eight bytes.
    const STRIDE: usize = size_of::<T::Value>().next_multiple_of(8);

    /// Values in the fewest pages that hold a whole number of them.
    fn each() -> u32 {
        let page = rustix::param::page_size();
        let pages = (1..=Self::STRIDE).find(|pages| (pages * page).is_multiple_of(Self::STRIDE));
        (pages.unwrap_or(1) * page / Self::STRIDE) as u32
    }

    /// Maps the few pages that hold value `number`.
    pub(crate) fn around(map: &Map<u32, T::Value>, number: u32) -> Result<Self, Error>
    where
        T::Value: crate::abi::Plain,
    {
        let page = rustix::param::page_size();
        if number >= map.max_entries() {
            let source = std::io::Error::other(format!("{number} is beyond the map"));
            return Err(Error::kernel("cannot map values of", map.name(), source));
        }
        let each = Self::each();
        let (first, bytes) = (number / each * each, each as usize * Self::STRIDE);
        let offset = first as usize * Self::STRIDE;
        let whole = (map.max_entries() as usize * Self::STRIDE).next_multiple_of(page);
        Self::map(map, offset, bytes.min(whole - offset), first, each.min(map.max_entries() - first))
    }

    fn map(
        map: &Map<u32, T::Value>,
        offset: usize,
        bytes: usize,
        first: u32,
        count: u32,
    ) -> Result<Self, Error>
    where
        T::Value: crate::abi::Plain,
    {
        let error = |source: std::io::Error| Error::kernel("cannot map values of", map.name(), source);
        // SAFETY: a new mapping at a place of the kernel's choice disturbs no memory of ours.
        let start = unsafe {
            mmap(
                std::ptr::null_mut(),
                bytes,
                ProtFlags::READ | ProtFlags::WRITE,
                MapFlags::SHARED,
                map.fd(),
                offset as u64,
            )
        };
        let start = start.map_err(|errno| error(errno.into()))?;
        let start = NonNull::new(start.cast::<u8>())
            .ok_or_else(|| error(std::io::Error::other("mapped at address 0")))?;
        Ok(Self { start, bytes, first, count, stride: Self::STRIDE, values: PhantomData })
    }

    /// Value `number`; `None`: it is not in what is mapped.
    pub(crate) fn get(&self, number: u32) -> Option<&T> {
        let at = number.checked_sub(self.first).filter(|at| *at < self.count)? as usize;
        // SAFETY: inside the mapping, which lives as long as self; T is made of atomics, and values begin at multiples of
        // eight bytes from the start of a page.
        Some(unsafe { self.start.add(at * self.stride).cast::<T>().as_ref() })
    }
}

/// All values of an array map. Those are mapped that were asked for, and their neighbours.
pub(crate) struct Parts<T: Atomic> {
    map: Map<u32, T::Value>,
    parts: Box<[OnceLock<Shared<T>>]>,
    /// Values in one of them.
    each: u32,
}

impl<T: Atomic> Parts<T>
where
    T::Value: crate::abi::Plain,
{
    /// Maps nothing yet.
    pub(crate) fn new(map: Map<u32, T::Value>) -> Self {
        let each = Shared::<T>::each();
        let parts = (0..map.max_entries().div_ceil(each)).map(|_| OnceLock::new()).collect();
        Self { map, parts, each }
    }

    /// Value `number`; `None`: it is beyond the map, or the system has no memory for it.
    pub(crate) fn get(&self, number: u32) -> Option<&T> {
        let part = self.parts.get((number / self.each) as usize)?;
        if part.get().is_none() {
            match Shared::around(&self.map, number) {
                // Another thread's may have been first.
                Ok(mapped) => drop(part.set(mapped)),
                Err(error) => tracing::warn!("{error}"),
            }
        }
        part.get()?.get(number)
    }

    /// Those that nobody asks for again take no memory from now on.
    pub(crate) fn unmap(&mut self) {
        self.parts.iter_mut().for_each(|part| drop(part.take()));
    }

    pub(crate) fn count(&self) -> u32 {
        self.map.max_entries()
    }
}

impl<T> Drop for Shared<T> {
    fn drop(&mut self) {
        // SAFETY: the mapping is ours, and no reference into it outlives self.
        let unmapped = unsafe { munmap(self.start.as_ptr().cast(), self.bytes) };
        debug_assert!(unmapped.is_ok());
    }
}
