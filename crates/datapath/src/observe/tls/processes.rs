//! Which files with a TLS library in them the processes of the meshed cgroups have mapped.

use std::collections::{BTreeMap, HashMap, HashSet};
use std::fs;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

/// A file, whatever it is called and in whatever mount namespace.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(super) struct FileId {
    device: u64,
    inode: u64,
    changed: (i64, i64),
}

impl FileId {
    pub(super) fn of(path: &Path) -> std::io::Result<Self> {
        let found = fs::metadata(path)?;
        Ok(Self { device: found.dev(), inode: found.ino(), changed: (found.mtime(), found.mtime_nsec()) })
    }
}

/// Cgroups and processes that are looked at in one walk.
const MOST: usize = 65_536;

/// Where a distribution has libraries: a client that lives for a moment would be gone before it is found by what it maps.
const FOLDERS: [&str; 6] =
    ["/usr/lib/x86_64-linux-gnu", "/usr/lib64", "/usr/lib", "/usr/local/lib64", "/usr/local/lib", "/lib64"];

fn is_library(name: &str) -> bool {
    name.starts_with("libssl.so") || name.starts_with("libgnutls.so") || name.starts_with("libssl-")
}

/// All processes in these cgroups and below.
pub(super) fn processes(cgroups: &[PathBuf]) -> HashSet<u32> {
    let mut found = HashSet::new();
    let mut unseen = cgroups.to_vec();
    for _ in 0..MOST {
        let Some(folder) = unseen.pop() else { break };
        // It may have been removed meanwhile; one of threads cannot be read.
        let text = fs::read_to_string(folder.join("cgroup.procs")).unwrap_or_default();
        found.extend(text.lines().filter_map(|line| line.parse::<u32>().ok()));
        if found.len() >= MOST {
            break;
        }
        let below = fs::read_dir(&folder).into_iter().flatten().flatten();
        unseen.extend(
            below.filter(|entry| entry.file_type().is_ok_and(|kind| kind.is_dir())).map(|entry| entry.path()),
        );
    }
    found
}

/// Files that a process runs code from and that may have a library in them: its own program, and libraries by their
/// name. A path to open it by, and the one it goes by.
pub(super) fn mapped(process: u32) -> Vec<(PathBuf, String)> {
    let base = PathBuf::from(format!("/proc/{process}"));
    // The kernel has no process of its own in mind, or it has ended.
    let Ok(maps) = fs::read_to_string(base.join("maps")) else { return Vec::new() };
    let program = fs::read_link(base.join("exe")).map(|path| path.to_string_lossy().into_owned());
    let program = program.unwrap_or_default();
    let mut found = BTreeMap::new();
    for (range, name) in maps.lines().filter_map(code) {
        let file = Path::new(name).file_name().map(|file| file.to_string_lossy());
        if name == program || file.is_some_and(|file| is_library(&file)) {
            found.entry(name.to_owned()).or_insert_with(|| base.join("map_files").join(in_map_files(range)));
        }
    }
    found.into_iter().map(|(name, path)| (path, name)).collect()
}

/// The same range as `map_files` writes it: without the zeros before, which a program at a fixed address has.
fn in_map_files(range: &str) -> String {
    let (from, to) = range.split_once('-').unwrap_or_default();
    format!("{}-{}", from.trim_start_matches('0'), to.trim_start_matches('0'))
}

/// Range and file of a line of /proc/PID/maps, if code is run from it.
fn code(line: &str) -> Option<(&str, &str)> {
    let mut words = line.splitn(6, ' ');
    let (range, rights) = (words.next()?, words.next()?);
    let name = words.nth(3)?.trim_start();
    (rights.contains('x') && name.starts_with('/')).then_some((range, name))
}

/// Libraries of this machine.
pub(super) fn installed() -> Vec<(PathBuf, String)> {
    let entries = FOLDERS.iter().flat_map(fs::read_dir).flatten().flatten();
    let named = entries.filter(|entry| is_library(&entry.file_name().to_string_lossy()));
    let name = |entry: &fs::DirEntry| fs::canonicalize(entry.path()).unwrap_or_else(|_| entry.path());
    named.map(|entry| (entry.path(), name(&entry).to_string_lossy().into_owned())).collect()
}

/// What was found in files, so that each is looked into once.
pub(super) type Cache<T> = HashMap<FileId, T>;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn code_is_what_is_executed_from_a_file() {
        let line =
            "7f00-7f10 r-xp 00001000 08:01 1234                       /usr/lib/lib with blank.so.3 (deleted)";
        assert_eq!(code(line), Some(("7f00-7f10", "/usr/lib/lib with blank.so.3 (deleted)")));
        for other in
            ["", "7f00-7f10", "7f00-7f10 r--p 0 08:01 1 /usr/lib/a", "7f00-7f10 r-xp 0 00:00 0 [vdso]"]
        {
            assert_eq!(code(other), None, "{other}");
        }
        assert_eq!(in_map_files("00400000-01a6b000"), "400000-1a6b000");
        let own: Vec<String> = mapped(std::process::id()).into_iter().map(|(_, name)| name).collect();
        assert!(own.contains(&std::env::current_exe().unwrap().to_string_lossy().into_owned()), "{own:?}");
        assert!(mapped(u32::MAX).is_empty());
    }
}
