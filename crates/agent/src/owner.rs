//! The one task that owns the mesh: waits for whatever comes first, deals with it, and says that it lives.

use std::future::pending;
use std::io;
use std::os::fd::OwnedFd;
use std::sync::Arc;
use std::time::{Duration, Instant};

use tokio::io::unix::AsyncFd;
use tokio::signal::unix::{Signal, SignalKind, signal};
use tokio::sync::{mpsc, oneshot};
use tokio::task::JoinSet;
use tokio::time::{Interval, MissedTickBehavior, interval, sleep_until};
use tracing::{info, warn};

use crate::api::{self, Api};
use crate::events::Kind;
use crate::mesh::Mesh;
use crate::observer::Running;
use crate::probe::probe;
use crate::serve::serve;
use crate::source::{Identity, Watch, readiness};
use crate::{Error, Options, Ready, listen, notify, proxy};

/// Connections to the API at once.
const API_CONNECTIONS: usize = 64;
/// Connections to the metrics at once.
const METRICS_CONNECTIONS: usize = 16;

/// The kernel's events are heard at most this often, so that a flood of them costs a bounded part of a processor.
const HEARING_PAUSE: Duration = Duration::from_millis(10);

/// How often the data path tidies up, and the watched file and the event ring are looked at although nothing told to:
/// for folders that were replaced, file systems without inotify, and wake-ups that were lost.
const LOOK: Duration = Duration::from_secs(1);

type Work = Box<dyn FnOnce(&mut Mesh) + Send>;

/// Sends work to the owner of the mesh.
#[derive(Clone)]
pub(crate) struct Handle(mpsc::Sender<Work>);

/// The agent is ending.
#[derive(Debug)]
pub(crate) struct Stopping;

impl Handle {
    /// Has `work` done by the owner and returns what came of it.
    pub(crate) async fn ask<T: Send + 'static>(
        &self,
        work: impl FnOnce(&mut Mesh) -> T + Send + 'static,
    ) -> Result<T, Stopping> {
        let (sender, receiver) = oneshot::channel();
        let work = Box::new(move |mesh: &mut Mesh| {
            // Who asked may have left.
            let _ = sender.send(work(mesh));
        });
        self.0.send(work).await.map_err(|_| Stopping)?;
        receiver.await.map_err(|_| Stopping)
    }

    /// The same for threads outside of the runtime.
    pub(crate) fn ask_blocking<T: Send + 'static>(
        &self,
        work: impl FnOnce(&mut Mesh) -> T + Send + 'static,
    ) -> Result<T, Stopping> {
        let (sender, receiver) = oneshot::channel();
        let work = Box::new(move |mesh: &mut Mesh| drop(sender.send(work(mesh))));
        self.0.blocking_send(work).map_err(|_| Stopping)?;
        receiver.blocking_recv().map_err(|_| Stopping)
    }
}

/// Runs the agent until SIGTERM or SIGINT; `on_ready` is called when the state is in force and all sockets listen.
/// The data path stays as it is when this returns, unless this agent made it and could not start.
///
/// Runs on a current-thread tokio runtime with I/O and time.
pub async fn run(options: Options, on_ready: impl FnOnce(&Ready)) -> Result<(), Error> {
    let mut stop = Stop::new()?;
    let options = Arc::new(options);
    let metrics = match options.metrics {
        Some(address) => Some(listen::metrics(address).await?),
        None => None,
    };
    let mut mesh = Mesh::open(Arc::clone(&options))?;
    let (api, _socket_file) = match start(&mut mesh, &options) {
        Ok(started) => started,
        Err(error) => return Err(give_up(mesh, &options, error)),
    };
    let mut owner = Owner::new(mesh, &options)?;
    let (sender, work) = mpsc::channel(16);
    let mesh = Handle(sender);
    let in_force = owner.mesh.in_force();
    let templates = &options.path_templates;
    let started = Running::start(&options.datapath, options.observe, templates, mesh.clone(), in_force);
    let observer = match started {
        Ok(observer) => observer,
        Err(error) => return Err(give_up(owner.mesh, &options, error)),
    };
    let (proxy, keeper) = proxy::keep(options.proxy.clone(), owner.mesh.proxied(), mesh.clone());
    try_kernel(mesh.clone(), &options);
    let service = Api::new(mesh, observer.handle(), proxy);
    let mut servers = JoinSet::new();
    if let Some(keeper) = keeper {
        servers.spawn(keeper.run());
    }
    servers.spawn(serve(api, api::router(service.clone()), API_CONNECTIONS));
    let mut metrics_address = None;
    if let Some((listener, address)) = metrics {
        servers.spawn(serve(listener, api::metrics_router(service), METRICS_CONNECTIONS));
        metrics_address = Some(address);
    }
    match &options.otlp {
        Some(collector) if options.observe == crate::Observe::Always => {
            let instance = options.datapath.instance.clone();
            if let Some(one_in) = options.otlp_spans {
                servers.spawn(crate::otlp::push_spans(collector.clone(), observer.handle(), one_in));
            }
            servers.spawn(crate::otlp::push(collector.clone(), instance, observer.handle()));
        }
        Some(collector) => warn!("nothing is pushed to {collector}: HTTP is not observed all the time"),
        None => {}
    }
    on_ready(&owner.mesh.ready(&options.socket, metrics_address));
    notify::ready(&owner.mesh.summary());
    tokio::select! {
        () = owner.run(work) => {}
        signal = stop.wait() => info!("{signal}: the agent ends, the data path stays in force"),
    }
    notify::stopping();
    observer.stop();
    Ok(())
}

/// Finds out, beside everything else, whether the kernel does what serving HTTP in it relies on. The mesh is up without
/// the answer; who needs it waits for it.
fn try_kernel(mesh: Handle, options: &Options) {
    let datapath = options.datapath.clone();
    let ask = move || {
        let report = alize_datapath::conformance::ensure(&datapath);
        // The agent may have ended meanwhile.
        let _ = mesh.ask_blocking(|mesh| mesh.set_conformance(report));
    };
    if let Err(error) = std::thread::Builder::new().name("conformance".into()).spawn(ask) {
        warn!("cannot try what the kernel does: {error}");
    }
}

fn start(
    mesh: &mut Mesh,
    options: &Options,
) -> Result<(tokio::net::UnixListener, listen::SocketFile), Error> {
    let listener = listen::api(&options.socket, options.socket_mode)?;
    mesh.load_first()?;
    Ok(listener)
}

/// Leaves nothing behind that was not there before.
fn give_up(mesh: Mesh, options: &Options, error: Error) -> Error {
    if mesh.is_fresh() {
        drop(mesh);
        if let Err(error) = alize_datapath::unload(&options.datapath) {
            warn!("cannot remove the data path of a start that failed: {error}");
        }
    }
    error
}

/// The mesh, and everything that may bring news.
struct Owner {
    mesh: Mesh,
    kernel: AsyncFd<OwnedFd>,
    /// When the kernel's events may be heard again.
    hear_at: Instant,
    /// There may be more in the ring: the kernel wakes only a reader that had read everything.
    hear_more: bool,
    watch: Option<Watch>,
    /// A change of the watched file that nothing told of, seen once; read when it is the same the next time.
    missed: Option<Option<Identity>>,
    probes: JoinSet<(u64, Result<(), String>)>,
    look: Interval,
    watchdog: Option<Interval>,
}

impl Owner {
    fn new(mut mesh: Mesh, options: &Options) -> Result<Self, Error> {
        let kernel = mesh.kernel_events().and_then(readiness);
        let kernel =
            kernel.map_err(|source| Error::System { what: "listen to the kernel's events", source })?;
        let watch = options.config.as_deref().and_then(|path| {
            Watch::new(path)
                .inspect_err(|error| {
                    let message = format!("cannot watch {}: {error}; changes are seen late", path.display());
                    mesh.events.tell(Kind::Agent, message);
                })
                .ok()
        });
        Ok(Self {
            mesh,
            kernel,
            hear_at: Instant::now(),
            hear_more: false,
            watch,
            missed: None,
            probes: JoinSet::new(),
            look: every(LOOK),
            watchdog: notify::watchdog().map(every),
        })
    }

    /// Runs until nobody can ask any more.
    async fn run(&mut self, mut work: mpsc::Receiver<Work>) {
        loop {
            self.catch_up();
            tokio::select! {
                received = work.recv() => match received {
                    Some(work) => work(&mut self.mesh),
                    None => return,
                },
                () = events_after(&self.kernel, self.hear_at, self.hear_more) => self.hear_kernel(),
                () = changed(self.watch.as_ref()) => self.mesh.reload_if_changed(),
                Some(answer) = self.probes.join_next() => self.answered(answer),
                () = until(self.mesh.deadline()) => {}
                _ = self.look.tick() => self.look(),
                () = tick(self.watchdog.as_mut()) => notify::alive(),
            }
        }
    }

    /// Does everything that is due; ends with telling the kernel, once for all changes.
    fn catch_up(&mut self) {
        while let Some(answer) = self.probes.try_join_next() {
            self.answered(answer);
        }
        let now = Instant::now();
        self.mesh.expire_ejections(now);
        self.mesh.sum_up_flood(now);
        while let Some(job) = self.mesh.checks.take_due(now) {
            self.probes.spawn(async move {
                let answer = match &job.service.health {
                    Some(check) => probe(check, job.address).await,
                    None => Ok(()),
                };
                (job.ticket, answer)
            });
        }
        self.mesh.write_availability(now);
    }

    fn answered(&mut self, answer: Result<(u64, Result<(), String>), tokio::task::JoinError>) {
        match answer {
            Ok((ticket, answer)) => self.mesh.answered(ticket, answer),
            Err(error) => warn!("a health check broke off: {error}"),
        }
    }

    fn hear_kernel(&mut self) {
        self.hear_more = self.mesh.hear_kernel();
        self.hear_at = Instant::now() + HEARING_PAUSE;
    }

    fn look(&mut self) {
        self.hear_kernel();
        self.mesh.settle();
        self.mesh.expire_modes();
        self.mesh.judge_trial();
        self.mesh.trim();
        if let Some(watch) = &self.watch {
            watch.renew();
        }
        let unread = self.mesh.unread_file();
        // A file that is still being written changes from look to look.
        if unread.is_some() && unread == self.missed {
            self.mesh.reload_if_changed();
        }
        self.missed = unread;
    }
}

/// Returns when the kernel has events or may have `more`, not before `at`.
async fn events_after(kernel: &AsyncFd<OwnedFd>, at: Instant, more: bool) {
    sleep_until(at.into()).await;
    if more {
        return;
    }
    match kernel.readable().await {
        // Cleared before the ring is read: what comes meanwhile wakes again.
        Ok(mut ready) => ready.clear_ready(),
        Err(_) => pending().await,
    }
}

async fn changed(watch: Option<&Watch>) {
    match watch {
        Some(watch) => watch.changed().await,
        None => pending().await,
    }
}

async fn until(deadline: Option<Instant>) {
    match deadline {
        Some(deadline) => sleep_until(deadline.into()).await,
        None => pending().await,
    }
}

async fn tick(interval: Option<&mut Interval>) {
    match interval {
        Some(interval) => drop(interval.tick().await),
        None => pending().await,
    }
}

fn every(period: Duration) -> Interval {
    let mut interval = interval(period);
    interval.set_missed_tick_behavior(MissedTickBehavior::Delay);
    interval
}

/// The signals that end the agent.
struct Stop {
    terminate: Signal,
    interrupt: Signal,
}

impl Stop {
    fn new() -> Result<Self, Error> {
        let listen = |kind| {
            signal(kind).map_err(|source: io::Error| Error::System { what: "listen to signals", source })
        };
        Ok(Self { terminate: listen(SignalKind::terminate())?, interrupt: listen(SignalKind::interrupt())? })
    }

    async fn wait(&mut self) -> &'static str {
        tokio::select! {
            _ = self.terminate.recv() => "SIGTERM",
            _ = self.interrupt.recv() => "SIGINT",
        }
    }
}
