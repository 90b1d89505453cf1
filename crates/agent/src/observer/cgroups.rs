//! From the number of a cgroup, which is all that the kernel tells, to its workload.

use std::collections::{HashMap, HashSet};
use std::fs;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant};

use alize_model::api::Workload;

use super::containers::Containers;
use super::workload::{gone, named, workload};

/// The tree is walked at most this often; what appears between two walks is a number until the next.
const PAUSE: Duration = Duration::from_secs(1);

/// Cgroups remembered, and looked at in one walk. Those that are gone are kept until there are so many, because their
/// traffic is still being asked for.
const MOST: usize = 65_536;

/// The meshed cgroups and all below.
pub(super) struct Cgroups {
    root: PathBuf,
    meshed: Vec<PathBuf>,
    containers: Containers,
    known: HashMap<u64, Arc<Workload>>,
    /// Containers that go by their ids for now.
    unnamed: HashSet<u64>,
    walked: Option<Instant>,
    named: Instant,
}

impl Cgroups {
    /// Nothing is read yet. `root` is where cgroup v2 is mounted.
    pub(super) fn new(root: PathBuf, meshed: Vec<PathBuf>) -> Self {
        Self {
            root,
            meshed,
            containers: Containers::new("/".into()),
            known: HashMap::new(),
            unnamed: HashSet::new(),
            walked: None,
            named: Instant::now(),
        }
    }

    /// The workload of cgroup `number`.
    pub(super) fn workload(&mut self, number: u64) -> Arc<Workload> {
        if let Some(known) = self.known.get(&number) {
            return Arc::clone(known);
        }
        if self.walked.is_none_or(|walked| walked.elapsed() >= PAUSE) {
            self.walk();
            if let Some(known) = self.known.get(&number) {
                return Arc::clone(known);
            }
        }
        Arc::new(gone(number))
    }

    /// Numbers of all cgroups whose workload is `wanted`, as they are now.
    pub(super) fn find(&mut self, wanted: impl Fn(&Workload) -> bool) -> Vec<u64> {
        self.walk();
        let found = self.known.iter().filter(|(_, workload)| wanted(workload));
        found.map(|(number, _)| *number).collect()
    }

    /// Gives names to containers that an engine has named meanwhile. Costs nothing while there are none without.
    pub(super) fn renew(&mut self) {
        let told = self.containers.listen();
        if self.unnamed.is_empty() || !(told || self.named.elapsed() >= PAUSE) {
            return;
        }
        self.named = Instant::now();
        for number in std::mem::take(&mut self.unnamed) {
            let Some(known) = self.known.get(&number).cloned() else { continue };
            let here = fs::metadata(self.root.join(known.cgroup.trim_start_matches('/')));
            // Of one that is gone nobody is asked any more.
            if here.is_ok_and(|here| here.ino() == number) {
                let name = self.containers.name_by_now(&known);
                self.learn(number, Arc::unwrap_or_clone(known), name);
            }
        }
    }

    /// Whether an engine may still tell a name.
    pub(super) fn waits(&self) -> bool {
        self.containers.waits()
    }

    /// `path` as [`Workload::cgroup`] has it.
    pub(super) fn inner_path(&self, path: &str) -> String {
        let path = Path::new(path);
        format!("/{}", path.strip_prefix(&self.root).unwrap_or(path).to_string_lossy().trim_matches('/'))
    }

    /// Cgroup `number` is `workload`, whose container has this name.
    fn learn(&mut self, number: u64, workload: Workload, name: Option<String>) {
        let workload = match name {
            Some(name) => named(workload, name),
            None => workload,
        };
        if workload.container.is_some() && workload.container_name.is_none() {
            self.unnamed.insert(number);
        }
        self.known.insert(number, Arc::new(workload));
    }

    fn walk(&mut self) {
        self.containers.listen();
        if self.known.len() >= MOST {
            self.known.clear();
        }
        self.unnamed.clear();
        let mut here = Vec::new();
        let mut unseen = self.meshed.clone();
        for _ in 0..MOST {
            let Some(folder) = unseen.pop() else { break };
            // It may have been removed meanwhile.
            let Ok(found) = fs::metadata(&folder) else { continue };
            let path = self.inner_path(&folder.to_string_lossy());
            // An engine may write the name down after it has made the cgroup.
            let settled = |known: &Workload| {
                known.cgroup == path && (known.container.is_none() || known.container_name.is_some())
            };
            if !self.known.get(&found.ino()).is_some_and(|known| settled(known)) {
                let workload = workload(&path);
                let name = self.containers.name(&workload);
                self.learn(found.ino(), workload, name);
            }
            here.push(found.ino());
            let below = fs::read_dir(&folder).into_iter().flatten().flatten();
            unseen.extend(
                below
                    .filter(|entry| entry.file_type().is_ok_and(|kind| kind.is_dir()))
                    .map(|entry| entry.path()),
            );
        }
        self.containers.forget_but(here.iter().filter_map(|number| self.known.get(number).map(Arc::as_ref)));
        self.walked = Some(Instant::now());
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_are_inodes_and_outlive_their_folder() {
        let root = std::env::temp_dir().join(format!("alize-cgroups-{}", std::process::id()));
        let inner = root.join("system.slice/web.service/worker");
        fs::create_dir_all(&inner).unwrap();
        let number = fs::metadata(&inner).unwrap().ino();
        let mut cgroups = Cgroups::new(root.clone(), vec![root.join("system.slice")]);
        let found = cgroups.workload(number);
        assert_eq!(
            (found.name.as_str(), found.cgroup.as_str()),
            ("web.service", "/system.slice/web.service/worker")
        );
        assert_eq!(cgroups.find(|workload| workload.unit.as_deref() == Some("web.service")).len(), 2);
        let full = root.join("system.slice").display().to_string();
        assert_eq!(cgroups.inner_path(&full), "/system.slice");
        assert_eq!(cgroups.inner_path("system.slice/"), "/system.slice");
        fs::remove_dir_all(&root).unwrap();
        cgroups.walk();
        assert_eq!(cgroups.workload(number).name, "web.service");

        // A container goes by its id until its engine has written its name down.
        let id = "0123456789abcdef".repeat(4);
        let scope = root.join(format!("system.slice/docker-{id}.scope"));
        fs::create_dir_all(&scope).unwrap();
        let number = fs::metadata(&scope).unwrap().ino();
        cgroups.containers = Containers::new(root.clone());
        cgroups.walk();
        assert_eq!(cgroups.workload(number).name, "docker:0123456789ab");
        let state = root.join(format!("var/lib/docker/containers/{id}"));
        fs::create_dir_all(&state).unwrap();
        fs::write(state.join("config.v2.json"), r#"{"Name": "/web"}"#).unwrap();
        cgroups.walk();
        let found = cgroups.workload(number);
        assert_eq!((found.name.as_str(), found.container_name.as_deref()), ("docker:web", Some("web")));
        fs::remove_dir_all(&root).unwrap();
        assert_eq!(cgroups.workload(u64::MAX).name, format!("cgroup:{}", u64::MAX));
    }
}
