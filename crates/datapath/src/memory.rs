//! Memory: the kernel's, and our own after loading.
#![allow(unsafe_code)]

use std::fs;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd};

use libbpf_rs::{MapHandle, Program};

use crate::ProgramStatus;

/// Bytes that the kernel accounts to maps and programs.
pub(crate) fn of_kernel(maps: &[MapHandle], programs: &[ProgramStatus]) -> u64 {
    let maps: u64 = maps.iter().map(|map| of_object(map.as_fd())).sum();
    let loaded = programs.iter().filter(|program| program.off.is_none());
    let programs: u64 =
        loaded.filter_map(|program| Program::fd_from_id(program.id).ok()).map(|fd| of_object(fd.as_fd())).sum();
    maps + programs
}

/// The line `memlock:` that the kernel shows for the file descriptors of maps and programs.
fn of_object(fd: BorrowedFd<'_>) -> u64 {
    let text = fs::read_to_string(format!("/proc/self/fdinfo/{}", fd.as_raw_fd())).unwrap_or_default();
    let bytes = text.lines().find_map(|line| line.strip_prefix("memlock:"));
    bytes.and_then(|bytes| bytes.trim().parse().ok()).unwrap_or(0)
}

/// Gives freed memory back to the system: what loading needed for a moment: the kernel's type information alone is several megabytes.
pub fn trim() {
    #[cfg(target_env = "gnu")]
    // SAFETY: takes no pointer and may be called at any time, from any thread.
    unsafe {
        libc::malloc_trim(0);
    }
}
