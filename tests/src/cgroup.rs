//! Control groups of version 2.

use std::fs;
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context, Result};

use crate::wait::until_true;

/// A control group; removing it is its [`crate::World`]'s business.
#[derive(Clone, Debug)]
pub struct Cgroup {
    path: PathBuf,
}

impl Cgroup {
    /// Where cgroup v2 is mounted.
    pub fn mount() -> Result<PathBuf> {
        mounts("cgroup2")?.into_iter().next().context("cgroup v2 is not mounted")
    }

    /// Where the hierarchies of version 1 are.
    pub(crate) fn old_mounts() -> Result<Vec<PathBuf>> {
        mounts("cgroup")
    }

    /// Makes the group at `path`, with the groups above it.
    pub fn make(path: PathBuf) -> Result<Self> {
        fs::create_dir_all(&path).with_context(|| format!("cannot make cgroup {}", path.display()))?;
        Ok(Self { path })
    }

    /// The group that a process with other mounts sees at `path`.
    pub fn seen(path: PathBuf) -> Self {
        Self { path }
    }

    /// The group's folder.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Makes a group below this one.
    pub fn child(&self, name: &str) -> Result<Self> {
        Self::make(self.path.join(name))
    }

    /// Kills every process in the group at `path` and below, and removes the groups.
    pub fn remove(path: &Path) -> Result<()> {
        if !path.exists() {
            return Ok(());
        }
        let _ = fs::write(path.join("cgroup.kill"), "1");
        until_true("the processes of a cgroup to end", Duration::from_secs(10), || Ok(!populated(path)?))?;
        remove_tree(path)
    }

    /// Removes a group of version 1, in which no process is any more.
    pub(crate) fn remove_old(path: &Path) -> Result<()> {
        remove_tree(path)
    }
}

/// Mount points of file systems of `kind`.
fn mounts(kind: &str) -> Result<Vec<PathBuf>> {
    let mounts = fs::read_to_string("/proc/self/mounts").context("/proc/self/mounts")?;
    let fields = mounts.lines().map(|line| line.split(' ').collect::<Vec<_>>());
    let of_kind = fields.filter(|fields| fields.get(2) == Some(&kind));
    Ok(of_kind.map(|fields| PathBuf::from(fields[1])).collect())
}

fn populated(path: &Path) -> Result<bool> {
    Ok(fs::read_to_string(path.join("cgroup.events"))?.contains("populated 1"))
}

fn remove_tree(path: &Path) -> Result<()> {
    for entry in fs::read_dir(path)? {
        let entry = entry?;
        if entry.file_type()?.is_dir() {
            remove_tree(&entry.path())?;
        }
    }
    until_true(&format!("cgroup {} to be removable", path.display()), Duration::from_secs(5), || {
        fs::remove_dir(path)?;
        Ok(true)
    })
}
