//! A world: everything that one test needs and nobody else touches.

use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, ensure};
use rustix::mount::{MountFlags, mount};

use crate::network::Network;
use crate::{Cgroup, Namespace, Place, leftovers};

/// Cgroups, network namespaces, a bpffs and a folder, named after the test and the process.
///
/// Below the world's cgroup, `mesh` is what agents are told to mesh, and `plain` is not meshed.
#[derive(Debug)]
pub struct World {
    name: String,
    label: String,
    mesh: Cgroup,
    plain: Cgroup,
    network: Network,
    folder: PathBuf,
}

impl World {
    /// Makes a world; `label` is the test's name, of `a-z`, `0-9` and `-`.
    pub fn new(label: &str) -> Result<Self> {
        ensure!(rustix::process::geteuid().is_root(), "worlds need root");
        // Others sweep at the same time; what cannot be removed now will be by the next.
        let _ = leftovers::sweep();
        let name = leftovers::world_name(label);
        let made = Self::make(&name, label);
        if made.is_err() {
            let _ = leftovers::remove_world(&name);
        }
        made
    }

    fn make(name: &str, label: &str) -> Result<Self> {
        let root = Cgroup::make(Cgroup::mount()?.join(name))?;
        let folder = std::env::temp_dir().join(name);
        fs::create_dir_all(folder.join("run"))
            .with_context(|| format!("cannot make {}", folder.display()))?;
        let bpffs = folder.join("bpf");
        fs::create_dir_all(&bpffs)?;
        mount("bpf", &bpffs, "bpf", MountFlags::empty(), None).context("cannot mount a bpffs")?;
        Ok(Self {
            mesh: root.child("mesh")?,
            plain: root.child("plain")?,
            network: Network::new(name)?,
            folder,
            name: name.to_owned(),
            label: label.to_owned(),
        })
    }

    /// The cgroup to mesh.
    pub fn mesh(&self) -> &Cgroup {
        &self.mesh
    }

    /// A folder for files of the world.
    pub fn folder(&self) -> &Path {
        &self.folder
    }

    /// The bpffs of the world.
    pub fn bpffs(&self) -> PathBuf {
        self.folder.join("bpf")
    }

    /// The folder of sockets and locks.
    pub fn run_dir(&self) -> PathBuf {
        self.folder.join("run")
    }

    /// A name for the agent's instance, different in each world.
    pub fn instance(&self) -> String {
        let name = format!("w{}-{}", std::process::id(), self.label);
        name.chars().take(32).collect()
    }

    /// The namespace called `label`, made when it is not there yet.
    pub fn namespace(&self, label: &str) -> Result<Namespace> {
        self.network.namespace(label)
    }

    /// A place whose processes are meshed: the namespace `label`, and a cgroup of its own.
    pub fn meshed(&self, label: &str) -> Result<Place> {
        self.place(&self.mesh, label, label)
    }

    /// A meshed place in a cgroup of its own, in the namespace of others.
    pub fn meshed_in(&self, namespace: &str, cgroup: &str) -> Result<Place> {
        self.place(&self.mesh, namespace, cgroup)
    }

    /// A place whose processes are not meshed.
    pub fn plain(&self, label: &str) -> Result<Place> {
        self.place(&self.plain, label, label)
    }

    fn place(&self, parent: &Cgroup, namespace: &str, cgroup: &str) -> Result<Place> {
        let namespace = self.namespace(namespace)?;
        Ok(Place { cgroup: parent.child(cgroup)?, namespace, logs: self.folder.clone(), mounts: None })
    }
}

impl Drop for World {
    fn drop(&mut self) {
        if let Err(error) = leftovers::remove_world(&self.name) {
            eprintln!("world {} is not removed: {error:#}", self.name);
        }
    }
}
