//! Service words, written through a mapping of `services`.
//!
//! A word must change in one store: a system call copies bytes, and nothing promises that a program on another CPU
//! sees eight of them at once. The map is mapped a window at a time and unmapped after use, because the kernel makes
//! every mapped page resident at once.
#![allow(unsafe_code)]

use std::ptr::NonNull;
use std::sync::atomic::{AtomicU64, Ordering};

use rustix::mm::{MapFlags, ProtFlags, mmap, munmap};

use crate::Error;
use crate::abi::service;
use crate::maps::Map;

/// Bytes of a window; any page size of Linux divides it.
const WINDOW: usize = 64 * 1024;
const SERVICES_A_WINDOW: u32 = (WINDOW / size_of::<service>()) as u32;

/// Which word of a service.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Family {
    /// `word4`.
    V4,
    /// `word6`.
    V6,
}

/// Writes service words; unmaps when dropped.
pub(crate) struct Words<'map> {
    map: &'map Map<u32, service>,
    window: Option<Window>,
}

struct Window {
    index: u32,
    start: NonNull<AtomicU64>,
    bytes: usize,
}

impl<'map> Words<'map> {
    pub(crate) fn new(map: &'map Map<u32, service>) -> Self {
        Self { map, window: None }
    }

    /// Writes one word; services in ascending order map each window once.
    pub(crate) fn store(&mut self, number: u32, family: Family, word: u64) -> Result<(), Error> {
        let index = number / SERVICES_A_WINDOW;
        if self.window.as_ref().is_none_or(|window| window.index != index) {
            self.window = None;
            self.window = Some(self.map_window(index)?);
        }
        if let Some(window) = &self.window {
            window
                .word((number % SERVICES_A_WINDOW) as usize * 2 + family as usize)
                .store(word, Ordering::Release);
        }
        Ok(())
    }

    fn map_window(&self, index: u32) -> Result<Window, Error> {
        let page = rustix::param::page_size();
        let whole = (self.map.max_entries() as usize * size_of::<service>()).next_multiple_of(page);
        let offset = index as usize * WINDOW;
        let bytes = WINDOW.min(whole.saturating_sub(offset));
        let error = |source: std::io::Error| Error::kernel("cannot map words of", self.map.name(), source);
        if bytes == 0 {
            return Err(error(std::io::Error::other("the service's number is beyond the map")));
        }
        // SAFETY: a new mapping at a place of the kernel's choice disturbs no memory of ours.
        let start = unsafe {
            mmap(
                std::ptr::null_mut(),
                bytes,
                ProtFlags::READ | ProtFlags::WRITE,
                MapFlags::SHARED,
                self.map.fd(),
                offset as u64,
            )
        };
        let start = start.map_err(|errno| error(errno.into()))?;
        let start =
            NonNull::new(start.cast()).ok_or_else(|| error(std::io::Error::other("mapped at address 0")))?;
        Ok(Window { index, start, bytes })
    }
}

impl Window {
    fn word(&self, at: usize) -> &AtomicU64 {
        assert!(at < self.bytes / size_of::<u64>(), "word {at} is beyond a window of {} bytes", self.bytes);
        // SAFETY: inside the mapping, which lives as long as the window and starts on a page; user space touches it
        // only as atomics, and so do the programs.
        unsafe { self.start.add(at).as_ref() }
    }
}

impl Drop for Window {
    fn drop(&mut self) {
        // SAFETY: the mapping is this window's, and no reference into it outlives the window.
        let unmapped = unsafe { munmap(self.start.as_ptr().cast(), self.bytes) };
        debug_assert!(unmapped.is_ok());
    }
}
