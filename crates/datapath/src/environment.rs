//! What the machine offers: is this root, which kernel, where are bpffs and cgroup v2.

use std::ffi::OsStr;
use std::fs;
use std::io;
use std::os::fd::OwnedFd;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use rustix::fs::{Mode, OFlags};
use rustix::mount::MountFlags;

use crate::Error;

/// Magic numbers of statfs(2), linux/magic.h.
const BPF_FS_MAGIC: u64 = 0xcafe_4a11;
const CGROUP2_SUPER_MAGIC: u64 = 0x6367_7270;

/// The oldest kernel that has all that connecting needs.
pub(crate) const OLDEST_KERNEL: (u32, u32) = (5, 10);

/// A subtree to be meshed.
#[derive(Debug)]
pub(crate) struct Cgroup {
    pub(crate) path: PathBuf,
    /// The kernel's number of the cgroup, which is the inode of its folder.
    pub(crate) id: u64,
    pub(crate) fd: OwnedFd,
}

pub(crate) fn check_root() -> Result<(), Error> {
    if rustix::process::geteuid().is_root() { Ok(()) } else { Err(Error::NotRoot) }
}

pub(crate) fn check_kernel() -> Result<(), Error> {
    let path = "/proc/sys/kernel/osrelease";
    let release = fs::read_to_string(path).map_err(|e| Error::path("cannot read", path, e))?;
    if kernel_version(&release).is_some_and(|version| version < OLDEST_KERNEL) {
        return Err(Error::KernelTooOld {
            found: release.trim().to_owned(),
            needed: "5.10",
            reason: "iterators over sockets and their storage, and the oldest that is tested",
        });
    }
    Ok(())
}

/// The first two numbers of a release such as `6.1.0-18-amd64`.
pub(crate) fn kernel_version(release: &str) -> Option<(u32, u32)> {
    let mut numbers = release.trim().split(|c: char| !c.is_ascii_digit()).map(str::parse);
    Some((numbers.next()?.ok()?, numbers.next()?.ok()?))
}

/// Makes sure that `path` is a bpffs, by mounting one there if it is an empty folder. A mount hides what lies below it,
/// so that nothing is mounted over anything.
pub(crate) fn ensure_bpffs(path: &Path) -> Result<(), Error> {
    let no_bpffs = |reason: String| Error::NoBpffs { path: path.into(), reason };
    let mut entries = fs::read_dir(path).map_err(|e| no_bpffs(e.to_string()))?;
    if is_bpffs(path) {
        return Ok(());
    }
    if entries.next().is_some() {
        return Err(no_bpffs("it holds other files, over which nothing is mounted".into()));
    }
    rustix::mount::mount("bpf", path, "bpf", MountFlags::empty(), None)
        .map_err(|errno| no_bpffs(format!("it is an empty folder, but mounting one there failed ({errno})")))
}

/// Whether there is a bpffs at `path`.
pub(crate) fn is_bpffs(path: &Path) -> bool {
    rustix::fs::statfs(path).is_ok_and(|stat| stat.f_type as u64 == BPF_FS_MAGIC)
}

pub(crate) fn open_cgroup(path: &Path) -> Result<Cgroup, Error> {
    let refuse = |reason: String| Error::NotACgroup2Folder { path: path.into(), reason };
    if cgroup2_root().is_none() {
        return Err(Error::NoCgroup2);
    }
    let path = fs::canonicalize(path).map_err(|e| refuse(e.to_string()))?;
    let kind = rustix::fs::statfs(&path).map_err(|errno| refuse(errno.to_string()))?.f_type;
    if kind as u64 != CGROUP2_SUPER_MAGIC {
        return Err(refuse("it lies on another file system".into()));
    }
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
    let fd = rustix::fs::open(&path, flags, Mode::empty()).map_err(|errno| refuse(errno.to_string()))?;
    let id = rustix::fs::fstat(&fd).map_err(|errno| refuse(errno.to_string()))?.st_ino;
    Ok(Cgroup { path, id, fd })
}

/// The numbers of the cgroups above `cgroup`, itself included, each with its folder.
pub(crate) fn ancestors(cgroup: &Cgroup) -> Vec<(u64, PathBuf)> {
    let is_cgroup =
        |path: &Path| rustix::fs::statfs(path).is_ok_and(|stat| stat.f_type as u64 == CGROUP2_SUPER_MAGIC);
    let folders = cgroup.path.ancestors().take_while(|path| is_cgroup(path));
    folders.filter_map(|path| Some((fs::metadata(path).ok()?.ino(), path.to_owned()))).collect()
}

/// The folder below `path` (or itself) whose inode `wanted` accepts.
pub(crate) fn find_below(path: &Path, wanted: &dyn Fn(u64) -> bool) -> io::Result<Option<PathBuf>> {
    let mut waiting = vec![path.to_owned()];
    while let Some(folder) = waiting.pop() {
        // Cgroups come and go while one looks.
        let Ok(metadata) = fs::metadata(&folder) else { continue };
        if wanted(metadata.ino()) {
            return Ok(Some(folder));
        }
        let Ok(entries) = fs::read_dir(&folder) else { continue };
        for entry in entries {
            let entry = entry?;
            if entry.file_type().is_ok_and(|kind| kind.is_dir()) {
                waiting.push(entry.path());
            }
        }
    }
    Ok(None)
}

/// Mount point of cgroup v2, found in `/proc/self/mounts`: the first whose root is not a part of the tree.
pub fn cgroup2_root() -> Option<PathBuf> {
    mount_point(&fs::read("/proc/self/mounts").ok()?, b"cgroup2")
}

fn mount_point(mounts: &[u8], kind: &[u8]) -> Option<PathBuf> {
    mounts.split(|&byte| byte == b'\n').find_map(|line| {
        let mut fields = line.split(|&byte| byte == b' ');
        let path = fields.nth(1)?;
        (fields.next()? == kind).then(|| PathBuf::from(OsStr::from_bytes(&unescape(path))))
    })
}

/// The kernel writes space, tab, newline and backslash of a path as three octal digits (fs/proc_namespace.c).
fn unescape(path: &[u8]) -> Vec<u8> {
    let mut plain = Vec::with_capacity(path.len());
    let mut rest = path;
    while let Some((&byte, after)) = rest.split_first() {
        let octal =
            |digits: &[u8]| digits.iter().try_fold(0u32, |n, d| Some(n * 8 + char::from(*d).to_digit(8)?));
        match (byte, after.get(..3).and_then(octal)) {
            (b'\\', Some(code)) => {
                plain.push(code as u8);
                rest = &after[3..];
            }
            _ => {
                plain.push(byte);
                rest = after;
            }
        }
    }
    plain
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn finds_the_mount_of_cgroup2() {
        let mounts =
            b"cgroup /sys/fs/cgroup/cpu cgroup rw 0 0\nnone /a\\040b\\134c cgroup2 rw,relatime 0 0\n";
        assert_eq!(mount_point(mounts, b"cgroup2"), Some(PathBuf::from("/a b\\c")));
        assert_eq!(mount_point(b"cgroup /sys/fs/cgroup/cpu cgroup rw 0 0\n", b"cgroup2"), None);
        assert_eq!(mount_point(b"truncated", b"cgroup2"), None);
    }

    #[test]
    fn mounts_over_nothing() {
        let taken = std::env::temp_dir().join(format!("alize-taken-{}", std::process::id()));
        fs::create_dir_all(taken.join("files")).unwrap();
        let error = ensure_bpffs(&taken).unwrap_err().to_string();
        assert!(error.contains("holds other files") && !is_bpffs(&taken), "{error}");
        fs::remove_dir_all(&taken).unwrap();
        let error = ensure_bpffs(Path::new("/proc/version")).unwrap_err().to_string();
        assert!(error.contains("Not a directory"), "{error}");
    }

    #[test]
    fn reads_kernel_releases() {
        assert_eq!(kernel_version("6.1.0-18-amd64\n"), Some((6, 1)));
        assert_eq!(kernel_version("5.18-rc1"), Some((5, 18)));
        assert_eq!(kernel_version("linux"), None);
    }
}
