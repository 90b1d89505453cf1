//! The agent as the kernel sees it, for the metrics that every Prometheus client library offers.

use std::fs::{self, File};
use std::io::Read;
use std::time::Duration;

use alize_datapath::observe::shown;

/// What `/proc/self` says.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Process {
    pub(crate) cpu_seconds: f64,
    pub(crate) virtual_memory: u64,
    pub(crate) resident_memory: u64,
    pub(crate) open_files: u64,
    pub(crate) max_files: u64,
}

impl Process {
    /// Reads it; what cannot be read is zero.
    pub(crate) fn read() -> Self {
        let limit = rustix::process::getrlimit(rustix::process::Resource::Nofile);
        let stat = fs::read_to_string("/proc/self/stat").unwrap_or_default();
        // Own descriptor of the folder being listed not counted.
        let open_files =
            fs::read_dir("/proc/self/fd").map_or(0, |files| files.count().saturating_sub(1)) as u64;
        Self { open_files, max_files: limit.current.unwrap_or(u64::MAX), ..Self::from_stat(&stat) }
    }

    fn from_stat(stat: &str) -> Self {
        let field = |number: usize| field(stat, number).unwrap_or(0);
        let ticks = rustix::param::clock_ticks_per_second().max(1) as f64;
        Self {
            cpu_seconds: (field(14) + field(15)) as f64 / ticks,
            virtual_memory: field(23),
            resident_memory: field(24) * rustix::param::page_size() as u64,
            ..Self::default()
        }
    }
}

/// A field of `/proc/pid/stat` as proc(5) numbers them; the second, the name, may hold anything but ends with the last `)`.
fn field(stat: &str, number: usize) -> Option<u64> {
    let (_, after_name) = stat.rsplit_once(')')?;
    after_name.split_ascii_whitespace().nth(number - 3)?.parse().ok()
}

/// When process `pid` was started, since the machine was, if it still runs; in hundredths of a second.
pub(crate) fn started(pid: u32) -> Option<Duration> {
    let stat = fs::read(format!("/proc/{pid}/stat")).ok()?;
    let ticks = field(&String::from_utf8_lossy(&stat), 22)?;
    Some(Duration::from_secs_f64(ticks as f64 / rustix::param::clock_ticks_per_second().max(1) as f64))
}

/// The first word of the command line of process `pid`, its first 256 bytes, if it still runs. What follows may hold
/// secrets, also where a program has written another line over its own, with spaces.
pub(crate) fn first_word(pid: u32) -> Option<String> {
    let mut start = Vec::new();
    File::open(format!("/proc/{pid}/cmdline")).ok()?.take(256).read_to_end(&mut start).ok()?;
    let word = start.split(|byte| *byte == 0 || byte.is_ascii_whitespace()).next()?;
    (!word.is_empty()).then(|| shown(word))
}

/// Name of process `pid`, if it still runs.
pub(crate) fn name_of(pid: u32) -> Option<String> {
    let name = fs::read(format!("/proc/{pid}/comm")).ok()?;
    Some(String::from_utf8_lossy(&name).trim_end().to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn this_process_is_seen() {
        let process = Process::read();
        assert!(process.resident_memory > 100_000 && process.virtual_memory > process.resident_memory);
        assert!((3..1000).contains(&process.open_files), "{process:?}");
        assert!(process.max_files > process.open_files);
        assert!(name_of(std::process::id()).is_some());
        assert_eq!(name_of(u32::MAX), None);
    }

    #[test]
    fn a_name_with_brackets_does_not_shift_the_fields() {
        let stat = "7 (a) b) 1 2) S 1 7 7 0 -1 0 0 0 0 0 150 50 0 0 20 0 1 0 9 4096 3 0";
        let process = Process::from_stat(stat);
        assert_eq!((process.virtual_memory, process.cpu_seconds > 0.0), (4096, true));
        assert_eq!(Process::from_stat("").resident_memory, 0);
    }
}
