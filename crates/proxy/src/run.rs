//! The process: it starts, perhaps in the place of another, serves, and ends.

use std::fs::{self, Permissions};
use std::io;
use std::net::{SocketAddr, TcpListener as StdListener};
use std::os::fd::OwnedFd;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Weak};
use std::time::Duration;

use alize_datapath::Freed;
use alize_datapath::http::netns_cookie;
use alize_model::control::{ProxyCounters, ProxyState};
use tokio::net::{TcpStream, UnixListener};
use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::mpsc;
use tokio::time::Instant;

use crate::control;
use crate::error::Error;
use crate::front::{Origin, Outcome};
use crate::handover::{self, Heir, Successors};
use crate::keep::{self, Keeping, Kept, KeptBack, Orphan, Ticket};
use crate::kernel::{Kernel, Netns};
use crate::listen::Doors;
use crate::proxy::{Limits, Phase, Proxy};
use crate::reason::Reason;

/// How often idle connections to endpoints are looked at.
const SWEEP: Duration = Duration::from_secs(1);

/// The wait between two looks whether the kernel still awaits responses.
const LENT: Duration = Duration::from_millis(10);

/// What the environment of the process should hold: the C library then gives freed memory back to the system, which it
/// stops doing by itself after the first large state.
pub const ENVIRONMENT: (&str, &str) = (
    "GLIBC_TUNABLES",
    "glibc.malloc.arena_max=1:glibc.malloc.mmap_threshold=131072:glibc.malloc.trim_threshold=131072",
);

/// What the proxy is started with.
pub struct Options {
    /// Name of the instance; two proxies of one instance follow each other.
    pub instance: String,
    /// Where its sockets are, usually `/run/alize`.
    pub run_dir: PathBuf,
    /// How long connections may take to end, when the process has to.
    pub drain: Duration,
    /// Bounds on what clients may do.
    pub limits: Limits,
    /// The kernel side.
    pub kernel: Arc<dyn Kernel>,
    /// Listeners to begin with. A successor gets those of the proxy before it as well.
    pub listeners: Vec<(Netns, StdListener)>,
    /// Whether sockets are kept beyond a sudden end, by a [`crate::Store`] of the instance where there is one.
    pub keeps: bool,
}

impl Options {
    /// How long connections may take to end unless told otherwise.
    pub const DRAIN: Duration = Duration::from_secs(30);

    /// The usual, with no listener.
    pub fn new(instance: impl Into<String>, run_dir: impl Into<PathBuf>, kernel: Arc<dyn Kernel>) -> Self {
        Self {
            instance: instance.into(),
            run_dir: run_dir.into(),
            drain: Self::DRAIN,
            limits: Limits::default(),
            kernel,
            listeners: Vec::new(),
            keeps: false,
        }
    }

    /// Path of the control socket.
    pub fn control(&self) -> PathBuf {
        self.run_dir.join(format!("{}.proxy.sock", self.instance))
    }
}

/// The running proxy, for the kernel side. Clones are the same proxy.
#[derive(Clone)]
pub struct Handle {
    proxy: Arc<Proxy>,
    doors: Arc<Doors>,
}

impl Handle {
    /// Takes connections from `listener`, whose clients are in `netns`.
    pub fn listen(&self, netns: Netns, listener: StdListener) -> io::Result<SocketAddr> {
        self.doors.open(netns, listener)
    }

    /// The namespaces and addresses that connections are taken from.
    pub fn listeners(&self) -> Vec<(Netns, SocketAddr)> {
        let listeners = self.doors.listeners().into_iter();
        listeners.filter_map(|(netns, listener)| Some((netns, listener.local_addr().ok()?))).collect()
    }

    /// Takes no more connections in `netns`.
    pub fn close(&self, netns: Netns) {
        self.doors.close(netns);
    }

    /// Puts a state in force, whole; an error has changed nothing.
    pub fn apply(&self, state: ProxyState) -> Result<(), String> {
        self.proxy.apply(state.into())
    }

    /// What was counted.
    pub fn counters(&self) -> ProxyCounters {
        self.proxy.counters()
    }

    /// Copies the response that `back` owes to a request with `method` to the front connection of the client with this
    /// cookie, between the front's own exchanges; `None` if there is no such connection any more. `is_whole`: the client has sent
    /// all of the request.
    pub async fn relay(
        &self,
        front: u64,
        back: TcpStream,
        method: http::Method,
        is_whole: bool,
    ) -> Option<Outcome> {
        self.doors.relay(front, back, method, is_whole).await
    }

    /// Tells the client with this cookie that the response to a request that the kernel has routed will not come.
    pub async fn fail(&self, client: u64, reason: Reason, begun: bool) {
        self.doors.fail(client, reason, begun).await;
    }

    /// Counts a request that the kernel has routed by rule number `route` of a service, and whose response was carried here.
    pub(crate) fn count_carried(&self, service: u32, route: u32, request: crate::counters::Request) {
        self.proxy.mesh().count_carried(service, route, request);
    }

    /// Has a connection to an endpoint kept beyond a sudden end of this process, where anybody does that.
    pub(crate) fn keep(&self, back: KeptBack, socket: &Arc<OwnedFd>) -> Option<Ticket> {
        let socket: Weak<OwnedFd> = Arc::downgrade(socket);
        Some(self.proxy.keeping()?.keep(Kept::Back(back), socket))
    }

    /// Counts something that should not happen.
    pub fn anomaly(&self, what: &'static str) {
        self.proxy.anomaly(what);
    }
}

/// What is true when the proxy is ready.
pub struct Ready {
    /// The proxy.
    pub handle: Handle,
    /// Path of the control socket.
    pub control: PathBuf,
    /// Whether it took the place of another, which finishes what is lent of its connections.
    pub succeeded: bool,
    /// Of a proxy that is gone: its connections to endpoints.
    pub(crate) backs: Vec<(KeptBack, OwnedFd)>,
    /// The namespaces in which its listeners are, by cookie.
    pub(crate) namespaces: Vec<u64>,
}

/// Serves until it is told to end by SIGTERM, SIGINT or the agent, or until a successor has taken over.
pub async fn run(options: Options, on_ready: impl FnOnce(Ready)) -> Result<(), Error> {
    raise_file_limit();
    let (mut terminate, mut interrupt) =
        (signal_of(SignalKind::terminate())?, signal_of(SignalKind::interrupt())?);
    let control_path = options.control();
    let handover_path = handover::path(&options.run_dir, &options.instance);
    let proxy = Proxy::new(Arc::clone(&options.kernel), options.limits);
    let (leaving, mut left) = mpsc::unbounded_channel();
    let doors = Doors::new(&proxy, leaving);
    let taken = handover::take(&handover_path).await.map_err(Error::Handover)?;
    let succeeded = taken.is_some();
    let (control, listeners, ancestor) = match taken {
        Some(taken) => {
            let (state, control, listeners, ancestor) = taken.split();
            proxy.apply(state).map_err(Error::Handover)?;
            ancestor.take_place().await.map_err(Error::Handover)?;
            let control = control.set_nonblocking(true).and_then(|()| UnixListener::from_std(control));
            (control, listeners, Some(ancestor))
        }
        None => (listen(&control_path), Vec::new(), None),
    };
    let control = control.map_err(|source| Error::Socket { path: control_path.clone(), source })?;
    let mut legacy = match options.keeps {
        true => inherit(&options, succeeded, &proxy, &doors).await,
        false => Legacy::default(),
    };
    // Whoever is accepted has to be known to the kernel side: there is no wait from here until `on_ready` has returned.
    open(&doors, listeners)?;
    open(&doors, options.listeners)?;
    let control = Arc::new(control);
    let successors = Successors::listen(handover_path.clone())
        .map_err(|source| Error::Socket { path: handover_path, source })?;
    let (drain, mut drains) = mpsc::channel(1);
    let agents = tokio::spawn(control::serve(Arc::clone(&proxy), Arc::clone(&control), drain));
    let sweeper = tokio::spawn(sweep(Arc::clone(&proxy)));
    let keeper = tokio::spawn(keep_fresh(Arc::clone(&doors)));
    if let Some(ancestor) = ancestor {
        tokio::spawn(ancestor.take_fronts(Arc::clone(&doors)));
    }
    let handle = Handle { proxy: Arc::clone(&proxy), doors: Arc::clone(&doors) };
    let namespaces =
        legacy.listeners.iter().filter_map(|(_, listener)| netns_cookie(listener).ok()).collect();
    let backs = std::mem::take(&mut legacy.backs);
    on_ready(Ready { handle, control: control_path.clone(), succeeded, backs, namespaces });
    legacy.wait(&proxy, &doors);

    let end = tokio::select! {
        heir = successors.next(&proxy, &doors, &control) => End::Succeeded(heir),
        Some(deadline) = drains.recv() => End::Told(deadline),
        () = removed(&proxy) => {
            tracing::warn!("the data path that this proxy serves was unloaded: it ends when its connections have");
            // An agent that has found this one, and loaded another data path, needs one of its own at once.
            agents.abort();
            End::Told(options.drain)
        }
        _ = terminate.recv() => End::Told(options.drain),
        _ = interrupt.recv() => End::Told(options.drain),
    };
    match end {
        End::Succeeded(heir) => {
            // While this one drains, the agent's word must reach the one that accepts: it hears the end, and finds that one.
            agents.abort();
            proxy.kernel.let_go(true);
            // Clients that the kernel has lent connections of this process: they are to be found here.
            doors.accept_waiting();
            drop(doors.close_all());
            let until = Instant::now() + options.drain;
            heir.give(&doors, &mut left, until).await;
            finished(&proxy, until).await;
        }
        End::Told(within) => {
            let _ = (fs::remove_file(&control_path), fs::remove_file(successors.path()));
            drop(doors.close_all());
            proxy.kernel.let_go(false);
            doors.phase(Phase::Draining);
            let until = Instant::now() + within;
            let drained = doors.drained(until).await;
            finished(&proxy, until).await;
            if !drained {
                let open = proxy.counters().open;
                tracing::warn!(open, "connections are cut: they did not end within {within:?}");
            }
        }
    }
    // Until here whoever waits for the end may ask how far it is.
    agents.abort();
    sweeper.abort();
    keeper.abort();
    if let Some(keeping) = proxy.keeping() {
        keeping.farewell().await;
    }
    Ok(())
}

/// Has sockets kept from here on; what was kept of a proxy that is gone. A successor of one that is there does not wait for
/// it: nobody accepts meanwhile.
async fn inherit(options: &Options, succeeded: bool, proxy: &Proxy, doors: &Arc<Doors>) -> Legacy {
    let (run_dir, instance) = (&options.run_dir, &options.instance);
    let (packets, orphans) = match succeeded {
        true => (None, Vec::new()),
        false => keep::inherit(run_dir, instance).await,
    };
    let late = (Arc::clone(doors), Arc::clone(&options.kernel));
    let late = move |(kept, socket)| match kept {
        Kept::Front { origin } => drop(late.0.revive(origin, socket)),
        Kept::Back(back) => late.1.lost(back.slot),
        Kept::Listener { .. } => {}
    };
    proxy.set_keeping(Keeping::start(run_dir, instance, packets, late));
    Legacy::new(orphans)
}

/// What a proxy that is gone has left.
#[derive(Default)]
struct Legacy {
    listeners: Vec<(Netns, StdListener)>,
    fronts: Vec<(Origin, OwnedFd)>,
    backs: Vec<(KeptBack, OwnedFd)>,
}

impl Legacy {
    fn new(orphans: Vec<Orphan>) -> Self {
        let mut legacy = Self::default();
        for (kept, socket) in orphans {
            match kept {
                Kept::Listener { netns } => legacy.listeners.push((netns, socket.into())),
                Kept::Front { origin } => legacy.fronts.push((origin, socket)),
                Kept::Back(back) => legacy.backs.push((back, socket)),
            }
        }
        legacy
    }

    /// Goes on with it once there is a state by which clients can be served.
    fn wait(self, proxy: &Arc<Proxy>, doors: &Arc<Doors>) {
        let Self { listeners, fronts, .. } = self;
        if listeners.is_empty() && fronts.is_empty() {
            return;
        }
        let doors = Arc::clone(doors);
        proxy.at_first(move || {
            if let Err(error) = open(&doors, listeners) {
                tracing::warn!("listeners of the proxy before are lost: {error}");
            }
            let all = fronts.len();
            let kept = fronts.into_iter().map(|(origin, socket)| doors.revive(origin, socket));
            let kept = kept.filter(|goes_on| *goes_on).count();
            tracing::info!(kept, cut = all - kept, "went on with the connections of a proxy that is gone");
        });
    }
}

/// How long a connection is before it is kept beyond a sudden end.
const SHORT: Duration = Duration::from_millis(200);

async fn keep_fresh(doors: Arc<Doors>) {
    loop {
        tokio::time::sleep(SHORT).await;
        doors.keep_fresh();
    }
}

/// Waits until the kernel side is none any more.
async fn removed(proxy: &Proxy) {
    while !proxy.kernel.is_removed() {
        tokio::time::sleep(SWEEP).await;
    }
}

/// Waits for the responses of requests that the kernel has routed over connections of this process.
async fn finished(proxy: &Proxy, until: Instant) {
    while proxy.kernel.lent() > 0 && Instant::now() < until {
        tokio::time::sleep(LENT).await;
    }
}

/// A sleeping connection is a descriptor: as many as the system allows.
pub(crate) fn raise_file_limit() {
    let limit = rustix::process::getrlimit(rustix::process::Resource::Nofile);
    let raised = rustix::process::Rlimit { current: limit.maximum, maximum: limit.maximum };
    if let Err(error) = rustix::process::setrlimit(rustix::process::Resource::Nofile, raised) {
        tracing::warn!(%error, "cannot raise the limit of open files");
    }
}

enum End {
    Succeeded(Heir),
    Told(Duration),
}

fn signal_of(kind: SignalKind) -> Result<tokio::signal::unix::Signal, Error> {
    signal(kind).map_err(|source| Error::System { what: "listen for signals", source })
}

fn open(doors: &Arc<Doors>, listeners: Vec<(Netns, StdListener)>) -> Result<(), Error> {
    for (netns, listener) in listeners {
        doors.open(netns, listener).map_err(Error::Listener)?;
    }
    Ok(())
}

/// The control socket, made beside its place and moved there, so that nobody finds it with the wrong permissions.
fn listen(path: &Path) -> io::Result<UnixListener> {
    if let Some(folder) = path.parent() {
        fs::create_dir_all(folder)?;
    }
    let beside = path.with_extension("sock.new");
    let _ = fs::remove_file(&beside);
    let listener = UnixListener::bind(&beside)?;
    fs::set_permissions(&beside, Permissions::from_mode(0o600))?;
    fs::rename(&beside, path)?;
    Ok(listener)
}

async fn sweep(proxy: Arc<Proxy>) {
    let (mut before, mut trimmed, mut freed) = (0, 0, Freed::default());
    loop {
        tokio::time::sleep(SWEEP).await;
        proxy.backs.sweep();
        freed.give_back();
        let generation = proxy.mesh().generation;
        // Once a state has been in force for a moment, nothing runs any more of what putting it in force needed.
        if generation == before && generation != trimmed {
            alize_datapath::trim_memory();
            trimmed = generation;
        }
        before = generation;
    }
}
