//! Asks engines over their sockets.
//!
//! Nobody waits for an engine: each owner's are asked on a thread of their own, which ends when there is nothing left to
//! ask. An answer may take [`PATIENCE`] and is bounded in size; an engine that fails is left alone for a while. Even a
//! file system of a user that never answers (FUSE over `/run/user/UID`) keeps only the thread for that user.

use std::collections::HashMap;
use std::fmt;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::mpsc::{Receiver, Sender, SyncSender, TrySendError, channel, sync_channel};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use tokio::runtime;
use tokio::time::timeout;
use tracing::{debug, info, warn};

use super::{Container, Owner, containerd, http, socket};

/// Longest that an engine may take. Podman, started by its socket, needs about 100 ms.
pub(super) const PATIENCE: Duration = Duration::from_millis(500);
/// An engine that failed is left alone for so long.
const REST: Duration = Duration::from_secs(30);
/// A thread with nothing to do ends after this long.
const IDLE: Duration = Duration::from_secs(2);
/// Owners whose engines are asked at the same time.
const OWNERS: usize = 8;
/// Questions that wait for a thread. What has no place is asked later.
const QUESTIONS: usize = 1024;

/// What an engine understands.
#[derive(Clone, Copy, Debug)]
enum Api {
    Docker,
    CriO,
    Containerd,
}

/// Runtimes, and sockets of root's below `/`. K3s brings a containerd of its own.
const SOCKETS_OF_ROOT: [(&str, Api, &str); 6] = [
    ("docker", Api::Docker, "run/docker.sock"),
    ("docker", Api::Docker, "var/run/docker.sock"),
    ("containerd", Api::Containerd, "run/containerd/containerd.sock"),
    ("containerd", Api::Containerd, "run/k3s/containerd/containerd.sock"),
    ("podman", Api::Docker, "run/podman/podman.sock"),
    ("cri-o", Api::CriO, "run/crio/crio.sock"),
];
/// Those of a user, below `/run/user/UID`.
const SOCKETS_OF_USER: [(&str, Api, &str); 2] =
    [("docker", Api::Docker, "docker.sock"), ("podman", Api::Docker, "podman/podman.sock")];

/// Why an engine has not told whether it knows a container.
#[derive(Debug)]
pub(super) enum Failure {
    /// There is no such socket.
    Absent,
    /// It failed, and how.
    Engine(String),
}

impl Failure {
    /// `what` failed.
    pub(super) fn of(what: &str) -> impl Fn(&dyn fmt::Display) -> Self {
        move |error| Failure::Engine(format!("{what}: {error}"))
    }

    /// The same of a system call.
    pub(super) fn of_system(what: &str) -> impl Fn(io::Error) -> Self {
        move |error| match error.kind() {
            io::ErrorKind::NotFound | io::ErrorKind::NotADirectory => Failure::Absent,
            _ => Failure::of(what)(&error),
        }
    }
}

type Answer = (Container, Option<String>);

/// The engines of all owners.
pub(super) struct Engines {
    sockets: Sockets,
    threads: HashMap<Owner, (SyncSender<Container>, JoinHandle<()>)>,
    told: Sender<Answer>,
    answers: Receiver<Answer>,
}

impl Engines {
    /// Their sockets are below `root`.
    pub(super) fn new(root: PathBuf) -> Self {
        let (told, answers) = channel();
        Self { sockets: Sockets { root, failing: Arc::default() }, threads: HashMap::new(), told, answers }
    }

    /// Asks for the name of `container`; whether there will be an answer.
    pub(super) fn ask(&mut self, container: Container) -> bool {
        self.threads.retain(|_, (_, thread)| !thread.is_finished());
        let owner = container.owner;
        let container = match self.threads.get(&owner).map(|(thread, _)| thread.try_send(container.clone())) {
            Some(Ok(())) => return true,
            Some(Err(TrySendError::Full(_))) => return false,
            Some(Err(TrySendError::Disconnected(container))) => container,
            None => container,
        };
        self.threads.remove(&owner);
        if self.threads.len() >= OWNERS {
            return false;
        }
        let (questions, receiver) = sync_channel(QUESTIONS);
        let (sockets, told) = (self.sockets.clone(), self.told.clone());
        let body = move || sockets.serve(&receiver, &told);
        match thread::Builder::new().name("alize-engines".into()).spawn(body) {
            Ok(thread) => {
                let sent = questions.try_send(container).is_ok();
                self.threads.insert(owner, (questions, thread));
                sent
            }
            Err(error) => {
                warn!("containers go by their ids: cannot start the thread that asks their engines: {error}");
                false
            }
        }
    }

    /// What was answered since the last time.
    pub(super) fn answers(&mut self) -> impl Iterator<Item = Answer> {
        self.answers.try_iter()
    }
}

/// The sockets, and which of them have failed of late.
#[derive(Clone)]
struct Sockets {
    root: PathBuf,
    failing: Arc<Mutex<HashMap<PathBuf, Instant>>>,
}

impl Sockets {
    /// The life of a thread.
    fn serve(&self, questions: &Receiver<Container>, told: &Sender<Answer>) {
        while let Ok(container) = questions.recv_timeout(IDLE) {
            let name = self.name(&container);
            if told.send((container, name)).is_err() {
                return;
            }
        }
    }

    /// Asks one engine after the other until one knows the container.
    fn name(&self, container: &Container) -> Option<String> {
        self.of(container).find_map(|(api, path)| {
            if self.rests(&path) {
                return None;
            }
            let answer = self.ask(api, container, &path);
            self.note(&path, answer.as_ref().err());
            answer.ok().flatten()
        })
    }

    /// The sockets at which `container` may be known.
    fn of(&self, container: &Container) -> impl Iterator<Item = (Api, PathBuf)> {
        let (folder, sockets) = match container.owner {
            Owner::Root => (self.root.clone(), &SOCKETS_OF_ROOT[..]),
            Owner::User(uid) => (self.root.join(format!("run/user/{uid}")), &SOCKETS_OF_USER[..]),
        };
        let runtime = container.runtime.clone();
        let fits = move |of: &str| runtime.as_ref().is_none_or(|runtime| runtime == of);
        let sockets = sockets.iter().filter(move |(runtime, ..)| fits(runtime));
        sockets.map(move |(_, api, path)| (*api, folder.join(path)))
    }

    fn ask(&self, api: Api, container: &Container, path: &Path) -> Result<Option<String>, Failure> {
        // One for each question: what is left of a conversation ends with it.
        let runtime = runtime::Builder::new_current_thread().enable_all().build();
        let runtime = runtime.map_err(|error| Failure::of("cannot begin to ask")(&error))?;
        let exchange = async {
            let stream = socket::connect(&self.root, container.owner, path).await?;
            match api {
                Api::Docker => http::docker(stream, &container.id).await,
                Api::CriO => http::cri_o(stream, &container.id).await,
                Api::Containerd => containerd::name(stream, &container.id).await,
            }
        };
        let slow = |_| Failure::Engine(format!("no answer within {} ms", PATIENCE.as_millis()));
        runtime.block_on(async { timeout(PATIENCE, exchange).await }).unwrap_or_else(|late| Err(slow(late)))
    }

    fn rests(&self, path: &Path) -> bool {
        self.failing().get(path).is_some_and(|since| since.elapsed() < REST)
    }

    /// Says once when an engine fails and once when it works again.
    fn note(&self, path: &Path, failure: Option<&Failure>) {
        let (mut failing, path_shown) = (self.failing(), path.display());
        match failure {
            None => {
                if failing.remove(path).is_some() {
                    info!("the container engine at {path_shown} answers again");
                }
            }
            Some(Failure::Absent) => {
                failing.remove(path);
            }
            Some(Failure::Engine(why)) => match failing.insert(path.to_owned(), Instant::now()) {
                Some(_) => debug!("the container engine at {path_shown} still fails: {why}"),
                None => warn!(
                    "the container engine at {path_shown} does not tell names, so its containers may go by their ids: {why}"
                ),
            },
        }
    }

    fn failing(&self) -> MutexGuard<'_, HashMap<PathBuf, Instant>> {
        self.failing.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
