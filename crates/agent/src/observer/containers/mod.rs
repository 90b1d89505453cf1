//! Names of containers: from what their engines have written down, or else from the engines themselves.
//!
//! The files are cheap and are looked at first; an engine is asked where they say nothing, because its state is
//! elsewhere or in a database. An engine may hang, answer garbage or belong to somebody who means harm. Therefore it is
//! asked on a thread that nobody waits for ([`Engines`]): until the answer is there, and without one, the container goes
//! by its id.

mod containerd;
mod engines;
mod files;
mod http;
mod protobuf;
mod socket;
#[cfg(test)]
mod tests;

use std::collections::{HashMap, HashSet};
use std::path::PathBuf;
use std::time::{Duration, Instant};

use alize_model::api::Workload;
use hyper::body::Bytes;

use engines::{Engines, PATIENCE};
use files::Files;

/// Longest name that is shown, in bytes; engines allow less.
const LONGEST: usize = 256;
/// An engine that does not know a container is asked again after this long, then after twice as long, and so on.
const SOON: Duration = Duration::from_secs(1);
const LATE: Duration = Duration::from_secs(300);

/// Whose engines run a container. A user's are asked for the containers in that user's slice and for no others, so that
/// nobody can name what somebody else runs.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
enum Owner {
    Root,
    User(u32),
}

impl Owner {
    /// Below `/user.slice/user-UID.slice` systemd lets the user make cgroups, above it does not.
    fn of(cgroup: &str) -> Self {
        let mut parts = cgroup.split('/').filter(|part| !part.is_empty());
        let user = (parts.next() == Some("user.slice")).then(|| parts.next()).flatten();
        let uid = user.and_then(|slice| slice.strip_prefix("user-")?.strip_suffix(".slice")?.parse().ok());
        uid.filter(|uid| *uid != 0).map_or(Owner::Root, Owner::User)
    }
}

/// A container that wants a name.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
struct Container {
    owner: Owner,
    /// Who runs it may not be known.
    runtime: Option<String>,
    id: String,
}

impl Container {
    fn of(workload: &Workload) -> Option<Self> {
        let id = workload.container.clone()?;
        Some(Self { owner: Owner::of(&workload.cgroup), runtime: workload.runtime.clone(), id })
    }
}

/// What became of asking.
struct Asked {
    name: Option<String>,
    last: Instant,
    /// Until it is asked again.
    pause: Duration,
    /// The answer is still to come.
    waits: bool,
}

impl Asked {
    fn is_due(&self) -> bool {
        self.name.is_none() && self.last.elapsed() >= self.pause
    }
}

/// Where names come from, and those that engines have told.
pub(super) struct Containers {
    files: Files,
    engines: Engines,
    asked: HashMap<Container, Asked>,
}

impl Containers {
    /// `root` is `/`, or a folder with the same files and sockets in it.
    pub(super) fn new(root: PathBuf) -> Self {
        Self { files: Files::new(root.clone()), engines: Engines::new(root), asked: HashMap::new() }
    }

    /// The name of the workload's container, as far as it is known by now; never waits for an engine.
    pub(super) fn name(&mut self, workload: &Workload) -> Option<String> {
        let container = Container::of(workload)?;
        let written = self.files.name(container.runtime.as_deref(), &container.id);
        written.filter(|name| is_fit(name)).or_else(|| self.told(container))
    }

    /// The same of a container that went without a name so far; looks for one only now and then.
    pub(super) fn name_by_now(&mut self, workload: &Workload) -> Option<String> {
        match self.asked.get(&Container::of(workload)?) {
            Some(asked) if !asked.is_due() => asked.name.clone(),
            _ => self.name(workload),
        }
    }

    /// Takes in what engines have answered meanwhile; whether a name was among it.
    pub(super) fn listen(&mut self) -> bool {
        let mut named = false;
        for (container, name) in self.engines.answers() {
            // It may have been forgotten meanwhile.
            let Some(asked) = self.asked.get_mut(&container) else { continue };
            asked.waits = false;
            asked.name = name.filter(|name| is_fit(name));
            named |= asked.name.is_some();
        }
        named
    }

    /// Whether an answer may still come.
    pub(super) fn waits(&self) -> bool {
        self.asked.values().any(|asked| asked.waits && asked.last.elapsed() < 2 * PATIENCE)
    }

    /// Forgets all containers but those of `workloads`.
    pub(super) fn forget_but<'a>(&mut self, workloads: impl Iterator<Item = &'a Workload>) {
        let here: HashSet<Container> = workloads.filter_map(Container::of).collect();
        self.asked.retain(|container, _| here.contains(container));
    }

    /// What the engine has told; it is asked if it is time to.
    fn told(&mut self, container: Container) -> Option<String> {
        let pause = match self.asked.get(&container) {
            Some(asked) if !asked.is_due() => return asked.name.clone(),
            Some(asked) => (2 * asked.pause).min(LATE),
            None => SOON,
        };
        let waits = self.engines.ask(container.clone());
        self.asked.insert(container, Asked { name: None, last: Instant::now(), pause, waits });
        None
    }
}

/// Names of the container `id`, read from `answer` as if each of the engines had given it.
pub(crate) fn names_in_answer(answer: &[u8], id: &str) -> Vec<String> {
    let message = containerd::unframed(Bytes::copy_from_slice(answer)).unwrap_or_default();
    // What cannot be in a header is not among them.
    let _ = containerd::namespaces(&message);
    let read = [
        http::docker_name(answer, id).ok().flatten(),
        http::cri_o_name(answer).ok(),
        containerd::container_name(&message, id).ok().flatten(),
    ];
    read.into_iter().flatten().filter(|name| is_fit(name)).collect()
}

/// Names are shown on terminals.
fn is_fit(name: &str) -> bool {
    !name.is_empty() && name.len() <= LONGEST && !name.contains(char::is_control)
}
