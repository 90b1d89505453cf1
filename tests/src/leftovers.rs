//! Removing worlds by their names: one's own at the end, and those of killed processes.

use std::fs;
use std::path::Path;

use anyhow::Result;
use rustix::io::Errno;
use rustix::mount::{UnmountFlags, unmount};
use rustix::process::{Pid, test_kill_process};

use crate::{Cgroup, network};

/// What every name begins with; the process id follows.
const PREFIX: &str = "alize-w";

/// The name of a world of this process.
pub(crate) fn world_name(label: &str) -> String {
    format!("{PREFIX}{}-{label}", std::process::id())
}

/// Removes the worlds of processes that are no more.
pub fn sweep() -> Result<()> {
    remove(|name| owner(name).is_some_and(has_ended))
}

/// Removes the worlds of this process, whatever holds them.
pub fn remove_own() -> Result<()> {
    remove(|name| owner(name) == Some(std::process::id()))
}

/// Removes the world with this name.
pub(crate) fn remove_world(world: &str) -> Result<()> {
    remove(|name| name.strip_prefix(world).is_some_and(|rest| rest.is_empty() || rest.starts_with('.')))
}

/// The process that a name belongs to.
fn owner(name: &str) -> Option<u32> {
    let rest = name.strip_prefix(PREFIX)?;
    rest.split_once('-')?.0.parse().ok()
}

fn has_ended(pid: u32) -> bool {
    let pid = i32::try_from(pid).ok().and_then(Pid::from_raw);
    pid.is_some_and(|pid| test_kill_process(pid) == Err(Errno::SRCH))
}

/// Processes first: they hold the rest.
fn remove(wanted: impl Fn(&str) -> bool) -> Result<()> {
    let groups = each(&Cgroup::mount()?, &wanted, Cgroup::remove);
    // Container engines make the same groups in the hierarchies of version 1, where there are any.
    for hierarchy in Cgroup::old_mounts()? {
        let _ = each(&hierarchy, &wanted, Cgroup::remove_old);
    }
    network::delete(&wanted);
    let folders = each(&std::env::temp_dir(), &wanted, |folder| {
        let _ = unmount(folder.join("bpf"), UnmountFlags::DETACH);
        Ok(fs::remove_dir_all(folder)?)
    });
    groups.and(folders)
}

/// Does `what` to each wanted entry of a folder; goes on after a failure and reports the first one.
fn each(folder: &Path, wanted: impl Fn(&str) -> bool, what: impl Fn(&Path) -> Result<()>) -> Result<()> {
    let mut result = Ok(());
    for entry in fs::read_dir(folder)?.flatten() {
        if wanted(&entry.file_name().to_string_lossy()) {
            result = result.and(what(&entry.path()));
        }
    }
    result
}
