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
    let programs: u64 = loaded
        .filter_map(|program| Program::fd_from_id(program.id).ok())
        .map(|fd| of_object(fd.as_fd()))
        .sum();
    maps + programs
}

/// The line `memlock:` that the kernel shows for the file descriptors of maps and programs.
fn of_object(fd: BorrowedFd<'_>) -> u64 {
    let text = fs::read_to_string(format!("/proc/self/fdinfo/{}", fd.as_raw_fd())).unwrap_or_default();
    let bytes = text.lines().find_map(|line| line.strip_prefix("memlock:"));
    bytes.and_then(|bytes| bytes.trim().parse().ok()).unwrap_or(0)
}

/// Gives back to the system what loading needed for a moment: freed memory (the kernel's type information alone is
/// several megabytes) and the pages of this binary and its libraries, of which an idle agent runs but a few.
pub fn trim() {
    give_back();
    let smaps = fs::read_to_string("/proc/self/smaps").unwrap_or_default();
    for (start, length) in clean_mappings(&smaps) {
        // SAFETY: the range is a mapping of a file that this process cannot write and has no pages of its own of, so
        // the next access reads the same bytes from the page cache again.
        unsafe {
            libc::madvise(std::ptr::with_exposed_provenance_mut(start), length, libc::MADV_DONTNEED);
        }
    }
}

/// So many bytes are worth a try: what lies between them may be many times as much, and costs page faults when it is used again.
const MUCH: usize = 64 << 10;

/// Freed memory that the allocator keeps: it gives back what lies behind all that is in use, which after a rush is nothing.
#[derive(Debug, Default)]
pub struct Freed {
    /// The least that was free since some was given back, which is not told from what has been.
    known: usize,
}

impl Freed {
    /// Gives it back to the system if some was freed since the last time. For every second or so: the look costs some 10 µs,
    /// and like the giving up to 0.5 ms after a rush.
    pub fn give_back(&mut self) {
        let free = free();
        self.known = self.known.min(free);
        if free - self.known >= MUCH {
            give_back();
            self.known = free;
        }
    }
}

fn give_back() {
    #[cfg(target_env = "gnu")]
    // SAFETY: takes no pointer and may be called at any time, from any thread.
    unsafe {
        libc::malloc_trim(0);
    }
}

/// Bytes that were freed and lie in the allocator, given back or not; what is beyond 4 GiB is not told.
fn free() -> usize {
    #[cfg(target_env = "gnu")]
    // SAFETY: takes nothing, gives numbers, and may be called at any time, from any thread.
    let free = unsafe { libc::mallinfo() }.fordblks;
    #[cfg(not(target_env = "gnu"))]
    let free = 0_i32;
    free.cast_unsigned() as usize
}

/// Address and length of the mappings of files that are neither writable nor hold private pages. Relocated constants are
/// read-only by now but private: dropping them would undo the relocation.
fn clean_mappings(smaps: &str) -> Vec<(usize, usize)> {
    let mut clean = Vec::new();
    let mut candidate = None;
    for line in smaps.lines() {
        if let Some(mapping) = file_mapping(line) {
            candidate = mapping;
        } else if let Some(anonymous) = line.strip_prefix("Anonymous:")
            && anonymous.trim() == "0 kB"
        {
            clean.extend(candidate.take());
        }
    }
    clean
}

/// The first line of an entry of smaps: `Some(None)` when the mapping is writable or of no file.
#[expect(clippy::option_option, reason = "not such a line; such a line of no interest; such a line")]
fn file_mapping(line: &str) -> Option<Option<(usize, usize)>> {
    let mut words = line.split_ascii_whitespace();
    let (start, end) = words.next()?.split_once('-')?;
    let (start, end) = (usize::from_str_radix(start, 16).ok()?, usize::from_str_radix(end, 16).ok()?);
    let access = words.next()?;
    let is_file = words.nth(3).is_some_and(|path| path.starts_with('/'));
    let is_clean = is_file && !access.contains('w') && access.ends_with('p');
    Some((is_clean && end > start).then(|| (start, end - start)))
}

#[cfg(test)]
mod tests {
    use super::*;

    const SMAPS: &str = "\
55d0c0a00000-55d0c0a80000 r--p 00000000 fe:00 1 /usr/bin/alize
Rss: 12 kB
Anonymous:             0 kB
55d0c0a80000-55d0c0f00000 r-xp 00080000 fe:00 1 /usr/bin/alize
Anonymous:             0 kB
55d0c0f00000-55d0c0f40000 r--p 00500000 fe:00 1 /usr/bin/alize
Anonymous:           256 kB
55d0c0f40000-55d0c0f50000 rw-p 00540000 fe:00 1 /usr/bin/alize
Anonymous:             0 kB
7ffd00000000-7ffd00021000 r-xp 00000000 00:00 0 [vdso]
Anonymous:             0 kB
garbage
";

    #[test]
    fn only_clean_mappings_of_files_are_dropped() {
        let clean = clean_mappings(SMAPS);
        assert_eq!(clean, [(0x55d0_c0a0_0000, 0x8_0000), (0x55d0_c0a8_0000, 0x48_0000)]);
        assert_eq!(clean_mappings("0-0 r-xp 0 0 0 /x\nAnonymous: 0 kB\n"), []);
    }

    #[test]
    fn the_process_lives_on() {
        trim();
        assert_eq!(std::hint::black_box("still here"), "still here");
    }
}
