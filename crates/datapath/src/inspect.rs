//! What is loaded and what it costs, asked of the kernel by the pins: for people, not for the data path.

use std::fs;
use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::path::Path;

use libbpf_rs::query::{ProgInfoIter, ProgInfoQueryOptions};
use libbpf_rs::{MapHandle, Program};

/// A kernel program of an instance.
#[derive(Clone, Debug, serde::Serialize)]
pub struct ProgramFacts {
    /// Its name, in the kernel and as a pin.
    pub name: String,
    /// Kernel id, as `bpftool prog` shows it.
    pub id: u32,
    /// Hash of its instructions.
    pub tag: String,
    /// Instructions after the verifier has rewritten them.
    pub instructions: u32,
    /// Instructions that the verifier walked, of 1,000,000 that it would; 0 when the kernel does not tell (before 5.16).
    pub verified: u32,
    /// Size of the machine code, in bytes.
    pub jited: u32,
    /// Kernel memory, in bytes.
    pub memory: u64,
    /// How often it ran while statistics were on.
    pub runs: u64,
    /// For how long in all, in nanoseconds.
    pub run_time: u64,
}

/// A map of an instance.
#[derive(Clone, Debug, serde::Serialize)]
pub struct MapFacts {
    /// Its name, in the C source, in the kernel and as a pin.
    pub name: String,
    /// Kernel id, as `bpftool map` shows it.
    pub id: u32,
    /// Kind, such as `Hash`.
    pub kind: String,
    /// Most entries it can hold; 0 where that has no meaning.
    pub limit: u32,
    /// Size of a key and of a value, in bytes.
    pub key_size: u32,
    /// Size of a value, in bytes.
    pub value_size: u32,
    /// Kernel memory, in bytes.
    pub memory: u64,
}

/// The programs pinned in `folder`, by name.
pub fn programs(folder: &Path) -> io::Result<Vec<ProgramFacts>> {
    let options = ProgInfoQueryOptions::default().include_xlated_prog_insns(true).include_jited_prog_insns(true);
    let all: Vec<_> = ProgInfoIter::with_query_opts(options).collect();
    let mut found = Vec::new();
    for (name, path) in entries(folder)? {
        let fd = Program::fd_from_pinned_path(&path).map_err(io::Error::other)?;
        let Some(id) = fdinfo(fd.as_fd(), "prog_id").and_then(|id| u32::try_from(id).ok()) else { continue };
        let Some(info) = all.iter().find(|info| info.id == id) else { continue };
        found.push(ProgramFacts {
            name,
            id,
            tag: info.tag.0.iter().map(|byte| format!("{byte:02x}")).collect(),
            // Each instruction has eight bytes (BPF instruction set, RFC 9669, section 3).
            instructions: u32::try_from(info.xlated_prog_insns.len() / 8).unwrap_or(u32::MAX),
            verified: info.verified_insns,
            jited: u32::try_from(info.jited_prog_insns.len()).unwrap_or(u32::MAX),
            memory: fdinfo(fd.as_fd(), "memlock").unwrap_or(0),
            runs: info.run_cnt,
            run_time: info.run_time_ns,
        });
    }
    Ok(found)
}

/// The maps pinned in `folder`, by name.
pub fn maps(folder: &Path) -> io::Result<Vec<MapFacts>> {
    let mut found = Vec::new();
    for (name, path) in entries(folder)? {
        let map = MapHandle::from_pinned_path(&path).map_err(io::Error::other)?;
        let info = map.info().map_err(io::Error::other)?.info;
        found.push(MapFacts {
            name,
            id: info.id,
            kind: format!("{:?}", libbpf_rs::MapType::from(info.type_)),
            limit: info.max_entries,
            key_size: info.key_size,
            value_size: info.value_size,
            memory: fdinfo(map.as_fd(), "memlock").unwrap_or(0),
        });
    }
    Ok(found)
}

/// Run-time statistics of all programs of the machine are on while this lives (about 20 ns a run, Linux 5.8).
#[derive(Debug)]
pub struct Statistics(#[expect(dead_code, reason = "closing it ends the statistics")] OwnedFd);

impl Statistics {
    /// Turns them on; the kernel counts the holders.
    #[allow(unsafe_code)]
    pub fn start() -> io::Result<Self> {
        // SAFETY: no pointer is passed; the result is a new descriptor or an error.
        let fd = unsafe { libbpf_rs::libbpf_sys::bpf_enable_stats(libbpf_rs::libbpf_sys::BPF_STATS_RUN_TIME) };
        if fd < 0 {
            return Err(io::Error::last_os_error());
        }
        // SAFETY: the descriptor was just made and belongs to nobody else.
        Ok(Self(unsafe { std::os::fd::FromRawFd::from_raw_fd(fd) }))
    }
}

fn entries(folder: &Path) -> io::Result<Vec<(String, std::path::PathBuf)>> {
    let mut entries = Vec::new();
    for entry in fs::read_dir(folder)? {
        let entry = entry?;
        entries.push((entry.file_name().to_string_lossy().into_owned(), entry.path()));
    }
    entries.sort();
    Ok(entries)
}

/// A number that the kernel shows of a descriptor of ours.
pub(crate) fn fdinfo(fd: BorrowedFd<'_>, key: &str) -> Option<u64> {
    let text = fs::read_to_string(format!("/proc/self/fdinfo/{}", fd.as_raw_fd())).ok()?;
    let value = text.lines().find_map(|line| line.strip_prefix(key)?.strip_prefix(':'))?;
    value.trim().parse().ok()
}
