//! Where an instance's objects are pinned, and the lock that keeps a second agent away.
//!
//! `<bpffs>/alize/<instance>/v<ABI>/maps/NAME` and `.../links/PROGRAM-CGROUP`, where CGROUP is the number of the cgroup.
//! Programs need no pins: the links hold them. Names in bpffs must not contain dots.

use std::fs::{self, File, OpenOptions};
use std::io::{self, Read, Seek, Write};
use std::path::{Path, PathBuf};
use std::time::SystemTime;

use libbpf_rs::query::LinkTypeInfo;
use libbpf_rs::{Link, MapCore, MapHandle};
use rustix::fs::{AtFlags, CWD, FlockOperation, Stat, Timespec, Timestamps};

use crate::abi::ABI_VERSION;
use crate::environment::{self, Cgroup};
use crate::error::io_error;
use crate::{Error, Options};

/// At the end of a draft's name; the kernel allows no dots.
const DRAFT: &str = "-draft";

/// The map that is pinned at `path`.
pub(crate) fn open_map(path: &Path) -> Result<MapHandle, Error> {
    MapHandle::from_pinned_path(path).map_err(|e| Error::path("cannot open map", path, io_error(e)))
}

/// The kernel's number of the map that is, or was, pinned at `path`.
pub(crate) fn number(map: &MapHandle, path: &Path) -> Result<u32, Error> {
    let info = map.info().map_err(|e| Error::path("cannot ask about map", path, io_error(e)))?;
    Ok(info.info.id)
}

/// When the map that is pinned at `path` was made, or the one whose entries it carries on ([`replace`]).
pub(crate) fn made(path: &Path) -> Result<SystemTime, Error> {
    let made = fs::metadata(path).and_then(|metadata| metadata.modified());
    made.map_err(|e| Error::path("cannot look at", path, e))
}

/// Has the map at `draft` take the name of the one at `path`; its age as well, if it carries on what that has counted.
pub(crate) fn replace(path: &Path, draft: &Path, carries_on: bool) -> Result<(), Error> {
    let replaced = || -> io::Result<()> {
        if carries_on {
            let Stat { st_mtime, st_mtime_nsec, .. } = rustix::fs::stat(path)?;
            let made = Timespec { tv_sec: st_mtime, tv_nsec: st_mtime_nsec as _ };
            let times = Timestamps { last_access: made, last_modification: made };
            rustix::fs::utimensat(CWD, draft, &times, AtFlags::empty())?;
        }
        fs::rename(draft, path)
    };
    replaced().map_err(|e| Error::path("cannot move", draft, e))
}

/// The folders of one instance.
#[derive(Clone, Debug)]
pub(crate) struct Pins {
    root: PathBuf,
    instance: String,
    /// Where its files are; those apart from all instances have none.
    run_dir: Option<PathBuf>,
}

impl Pins {
    pub(crate) fn new(options: &Options) -> Result<Self, Error> {
        let name = &options.instance;
        let fits = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'_' | b'-');
        if name.is_empty() || name.len() > 64 || !name.bytes().all(fits) {
            return Err(Error::BadInstance { name: name.clone() });
        }
        let run_dir = Some(options.run_dir.clone());
        Ok(Self { root: options.bpffs.join("alize"), instance: name.clone(), run_dir })
    }

    /// At `folder`, apart from all instances.
    pub(crate) fn apart(folder: PathBuf) -> Self {
        Self { root: folder, instance: "apart".into(), run_dir: None }
    }

    /// The instance's name.
    pub(crate) fn name(&self) -> &str {
        &self.instance
    }

    /// Of all instances.
    pub(crate) fn root(&self) -> &Path {
        &self.root
    }

    /// Of all versions.
    pub(crate) fn instance(&self) -> PathBuf {
        self.root.join(&self.instance)
    }

    /// Of this version.
    pub(crate) fn folder(&self) -> PathBuf {
        self.instance().join(format!("v{ABI_VERSION}"))
    }

    pub(crate) fn map(&self, name: &str) -> PathBuf {
        self.folder().join("maps").join(name)
    }

    /// The pinned map.
    pub(crate) fn open(&self, name: &str) -> Result<MapHandle, Error> {
        open_map(&self.map(name))
    }

    pub(crate) fn maps(&self) -> PathBuf {
        self.folder().join("maps")
    }

    /// Of a map that is to replace one of the same name, until the programs that use it are in force.
    pub(crate) fn draft(&self, name: &str) -> PathBuf {
        self.maps().join(format!("{name}{DRAFT}"))
    }

    pub(crate) fn is_draft(path: &Path) -> bool {
        path.file_name().is_some_and(|name| name.to_string_lossy().ends_with(DRAFT))
    }

    pub(crate) fn links(&self) -> PathBuf {
        self.folder().join("links")
    }

    pub(crate) fn link(&self, program: &str, cgroup: &Cgroup) -> PathBuf {
        self.links().join(format!("{program}-{}", cgroup.id))
    }

    /// The file of what the kernel said when it last refused `object`.
    pub(crate) fn rejection(&self, object: &str) -> Option<PathBuf> {
        let folder = self.run_dir.as_ref()?.join("refused");
        Some(folder.join(format!("{}.{object}.log", self.instance)))
    }

    pub(crate) fn make_folders(&self) -> Result<(), Error> {
        for folder in [self.folder().join("maps"), self.links()] {
            fs::create_dir_all(&folder).map_err(|e| Error::path("cannot make", folder, e))?;
        }
        Ok(())
    }

    /// Refuses when the instance has pins of another version.
    pub(crate) fn check_version(&self) -> Result<(), Error> {
        match entries(&self.instance())?.into_iter().find(|path| *path != self.folder()) {
            Some(found) => Err(Error::OtherVersion { found }),
            None => Ok(()),
        }
    }

    /// Refuses when another instance is attached to one of `cgroups`, or above or below it.
    pub(crate) fn check_cgroups(&self, cgroups: &[Cgroup]) -> Result<(), Error> {
        for folder in entries(&self.root)? {
            if folder == self.instance() {
                continue;
            }
            let attached = attached_cgroups(&folder)?;
            if attached.is_empty() {
                continue;
            }
            for cgroup in cgroups {
                let above = environment::ancestors(cgroup).into_iter().find(|(id, _)| attached.contains(id));
                let below = || environment::find_below(&cgroup.path, &|id| attached.contains(&id));
                let found = match above {
                    Some((_, path)) => Some(path),
                    None => below().map_err(|e| Error::path("cannot search", &cgroup.path, e))?,
                };
                if let Some(other) = found {
                    let instance = folder.file_name().unwrap_or_default().to_string_lossy().into_owned();
                    return Err(Error::CgroupTaken { cgroup: cgroup.path.clone(), other, instance });
                }
            }
        }
        Ok(())
    }

    /// Removes folders that are empty, from the innermost to `alize` itself.
    pub(crate) fn remove_empty_folders(&self) -> Result<(), Error> {
        for version in entries(&self.instance())? {
            for folder in entries(&version)? {
                remove_if_empty(&folder)?;
            }
            remove_if_empty(&version)?;
        }
        remove_if_empty(&self.instance())?;
        remove_if_empty(&self.root)
    }
}

/// Numbers of the cgroups that the links of an instance, of any version, are attached to.
fn attached_cgroups(instance: &Path) -> Result<Vec<u64>, Error> {
    let mut attached = Vec::new();
    for version in entries(instance)? {
        for path in entries(&version.join("links"))? {
            attached.extend(cgroup_of(&path));
        }
    }
    attached.sort();
    attached.dedup();
    Ok(attached)
}

/// The cgroup that a pinned link is attached to; `None` when that cgroup is gone, which detaches the link.
pub(crate) fn cgroup_of(link: &Path) -> Option<u64> {
    match Link::open(link).and_then(|link| link.info()).ok()?.info {
        LinkTypeInfo::Cgroup(cgroup) => Some(cgroup.cgroup_id).filter(|&id| id != 0),
        _ => None,
    }
}

/// The program that a pinned link is named after; the rest of the name is the cgroup's number.
pub(crate) fn program_of(link: &Path) -> String {
    let name = link.file_name().unwrap_or_default().to_string_lossy().into_owned();
    name.rsplit_once('-').map_or(name.clone(), |(program, _)| program.to_owned())
}

/// What is in `folder`; nothing when it does not exist.
pub(crate) fn entries(folder: &Path) -> Result<Vec<PathBuf>, Error> {
    let error = |e| Error::path("cannot read", folder, e);
    let listing = match fs::read_dir(folder) {
        Ok(listing) => listing,
        Err(e) if matches!(e.kind(), io::ErrorKind::NotFound | io::ErrorKind::NotADirectory) => {
            return Ok(Vec::new());
        }
        Err(e) => return Err(error(e)),
    };
    listing.map(|entry| Ok(entry.map_err(error)?.path())).collect()
}

fn remove_if_empty(folder: &Path) -> Result<(), Error> {
    match fs::remove_dir(folder) {
        Ok(()) => Ok(()),
        Err(e) if matches!(e.kind(), io::ErrorKind::NotFound | io::ErrorKind::DirectoryNotEmpty) => Ok(()),
        Err(e) => Err(Error::path("cannot remove", folder, e)),
    }
}

/// The lock of an instance: held by its agent as long as it lives, whatever ends it.
#[derive(Debug)]
pub(crate) struct Lock {
    _file: File,
    /// Agents with different run folders (in different containers, say) meet at the pins.
    pins: Option<File>,
}

impl Lock {
    pub(crate) fn take(options: &Options) -> Result<Self, Error> {
        fs::create_dir_all(&options.run_dir).map_err(|e| Error::path("cannot make", &options.run_dir, e))?;
        let path = options.run_dir.join(format!("{}.lock", options.instance));
        let error = |e: io::Error| Error::path("cannot lock", &path, e);
        // Not truncated: until the lock is ours, the text is the other agent's.
        let mut open = OpenOptions::new();
        let mut file = open.read(true).write(true).create(true).truncate(false).open(&path).map_err(error)?;
        match rustix::fs::flock(&file, FlockOperation::NonBlockingLockExclusive) {
            Ok(()) => {}
            Err(rustix::io::Errno::WOULDBLOCK) => {
                let mut text = String::new();
                file.read_to_string(&mut text).map_err(error)?;
                let pid = text.trim().parse().unwrap_or(0);
                return Err(Error::AgentRunning { pid, instance: options.instance.clone() });
            }
            Err(errno) => return Err(error(errno.into())),
        }
        // Only for the message above: a disk that is full must not keep anybody from unloading.
        let told = file.set_len(0).and_then(|()| file.rewind());
        if let Err(error) = told.and_then(|()| writeln!(file, "{}", std::process::id())) {
            tracing::warn!("cannot write the number of this process to {}: {error}", path.display());
        }
        Ok(Self { _file: file, pins: None })
    }

    /// Locks the folder of the pins as well; makes it first if `make` says so.
    pub(crate) fn hold(&mut self, pins: &Pins, make: bool) -> Result<(), Error> {
        let folder = pins.instance();
        let error = |e: io::Error| Error::path("cannot lock", &folder, e);
        if make {
            fs::create_dir_all(&folder).map_err(|e| Error::path("cannot make", &folder, e))?;
        }
        let held = match File::open(&folder) {
            Ok(held) => held,
            Err(e) if e.kind() == io::ErrorKind::NotFound && !make => return Ok(()),
            Err(e) => return Err(error(e)),
        };
        match rustix::fs::flock(&held, FlockOperation::NonBlockingLockExclusive) {
            Ok(()) => {}
            Err(rustix::io::Errno::WOULDBLOCK) => return Err(Error::PinsInUse { pins: folder }),
            Err(errno) => return Err(error(errno.into())),
        }
        self.pins = Some(held);
        Ok(())
    }
}
