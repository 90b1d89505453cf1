//! Who calls: which links run for its sockets, and which client it is for affinity and consistent hashing.
#![allow(unsafe_code)]

use std::collections::HashMap;
use std::fs::{self, File};
use std::io;
use std::os::fd::{AsFd, AsRawFd};
use std::path::{Path, PathBuf};

use libbpf_rs::Link;
use libbpf_rs::query::LinkTypeInfo;
use rustix::net::{AddressFamily, SocketType};
use rustix::thread::{LinkNameSpaceType, move_into_link_name_space};

use super::LinkFacts;
use crate::Error;
use crate::environment::{self, Cgroup};
use crate::pin::{Pins, entries};
use crate::tables::mix;

/// What is attached where the caller is.
pub(super) struct Coverage {
    /// Of this instance, by program.
    pub(super) links: Vec<LinkFacts>,
    /// Every cgroup that this instance is attached to.
    pub(super) attached: Vec<PathBuf>,
    /// Another instance that meshes the caller.
    pub(super) elsewhere: Option<String>,
}

impl Coverage {
    pub(super) fn of(pins: &Pins, cgroup: &Cgroup) -> Result<Self, Error> {
        let above: HashMap<u64, PathBuf> = environment::ancestors(cgroup).into_iter().collect();
        let mut links = Vec::new();
        let mut attached = Vec::new();
        for path in entries(&pins.links())? {
            let Some((program_id, cgroup_id)) = cgroup_link(&path) else { continue };
            attached.push(cgroup_id);
            let name = path.file_name().unwrap_or_default().to_string_lossy().into_owned();
            let program = name.rsplit_once('-').map_or(name.as_str(), |(program, _)| program).to_owned();
            if let Some(folder) = above.get(&cgroup_id) {
                links.push(LinkFacts { program, id: program_id, cgroup: folder.clone() });
            }
        }
        links.sort_by(|a, b| a.program.cmp(&b.program));
        attached.sort();
        attached.dedup();
        let elsewhere = if links.is_empty() { other_instance(pins, &above)? } else { None };
        Ok(Self { links, attached: folders(&attached)?, elsewhere })
    }
}

/// Program and cgroup of a pinned link; `None` when the cgroup is gone.
fn cgroup_link(path: &Path) -> Option<(u32, u64)> {
    let info = Link::open(path).and_then(|link| link.info()).ok()?;
    match info.info {
        LinkTypeInfo::Cgroup(cgroup) if cgroup.cgroup_id != 0 => Some((info.prog_id, cgroup.cgroup_id)),
        _ => None,
    }
}

fn other_instance(pins: &Pins, above: &HashMap<u64, PathBuf>) -> Result<Option<String>, Error> {
    for folder in entries(pins.root())? {
        if folder == pins.instance() {
            continue;
        }
        for version in entries(&folder)? {
            for path in entries(&version.join("links"))? {
                if cgroup_link(&path).is_some_and(|(_, cgroup)| above.contains_key(&cgroup)) {
                    return Ok(folder.file_name().map(|name| name.to_string_lossy().into_owned()));
                }
            }
        }
    }
    Ok(None)
}

fn folders(ids: &[u64]) -> Result<Vec<PathBuf>, Error> {
    let Some(root) = environment::cgroup2_root() else { return Ok(Vec::new()) };
    let mut folders = Vec::new();
    for &id in ids {
        let found = environment::find_below(&root, &|inode| inode == id);
        folders.extend(found.map_err(|e| Error::path("cannot search", &root, e))?);
    }
    Ok(folders)
}

/// The caller as `alize/client.h` knows it.
pub(super) struct Client {
    cgroup: u64,
    pub(super) pid: Option<u32>,
    pub(super) netns: Option<u64>,
}

impl Client {
    /// Without a process, one of the cgroup stands for all: its processes share a network namespace as a rule.
    pub(super) fn of(cgroup: &Cgroup, pid: Option<u32>) -> Self {
        let pid = pid.or_else(|| first_process(&cgroup.path));
        // A process may be gone meanwhile, or guard its namespace even from root.
        let netns = pid.and_then(|pid| netns_cookie(pid).ok());
        Self { cgroup: cgroup.id, pid, netns }
    }

    /// What the programs hash of it while its socket is bound to no address; `None` when its namespace is not known.
    pub(super) fn hash(&self) -> Option<u64> {
        // Two rounds more for the source address, which is zero.
        self.netns.map(|netns| mix(mix(mix(mix(self.cgroup) ^ netns))))
    }
}

/// A process in `cgroup` or below.
fn first_process(cgroup: &Path) -> Option<u32> {
    let mut waiting = vec![cgroup.to_owned()];
    while let Some(folder) = waiting.pop() {
        let listed = fs::read_to_string(folder.join("cgroup.procs")).unwrap_or_default();
        // 0 is a process of another pid namespace.
        if let Some(pid) = listed.lines().filter_map(|line| line.parse().ok()).find(|&pid| pid != 0) {
            return Some(pid);
        }
        let below = fs::read_dir(&folder).into_iter().flatten().flatten().map(|entry| entry.path());
        waiting.extend(below.filter(|path| path.is_dir()));
    }
    None
}

/// The kernel's number of the network namespace of `pid`. It tells of a socket only, so a thread that ends with this
/// enters the namespace and makes one.
fn netns_cookie(pid: u32) -> io::Result<u64> {
    let namespace = File::open(format!("/proc/{pid}/ns/net"))?;
    std::thread::scope(|scope| {
        let ask = || {
            move_into_link_name_space(namespace.as_fd(), Some(LinkNameSpaceType::Network))?;
            cookie_of(&rustix::net::socket(AddressFamily::INET, SocketType::DGRAM, None)?)
        };
        let thread = std::thread::Builder::new().name("explain".into()).spawn_scoped(scope, ask)?;
        thread.join().unwrap_or_else(|_| Err(io::Error::other("the thread that asks panicked")))
    })
}

/// SO_NETNS_COOKIE (Linux 5.14), which rustix has no word for.
fn cookie_of(socket: &impl AsRawFd) -> io::Result<u64> {
    const SO_NETNS_COOKIE: libc::c_int = 71;
    let mut cookie = 0u64;
    let mut size = size_of::<u64>() as libc::socklen_t;
    // SAFETY: the kernel writes at most `size` bytes, which `cookie` has.
    let done = unsafe {
        libc::getsockopt(
            socket.as_raw_fd(),
            libc::SOL_SOCKET,
            SO_NETNS_COOKIE,
            std::ptr::from_mut(&mut cookie).cast(),
            &mut size,
        )
    };
    if done == 0 { Ok(cookie) } else { Err(io::Error::last_os_error()) }
}
