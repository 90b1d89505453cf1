//! HTTP as the kernel sees it: owns the observing programs and answers who wants to know.
//!
//! They live on a thread of their own, because loading them takes the verifier's time and writing down 100,000
//! requests a second takes a processor: neither may keep the mesh waiting. Nothing that a reader does reaches the
//! kernel: what a reader does not take in time is dropped and counted.

mod cgroups;
mod commands;
mod containers;
mod names;
mod tls;
mod trace;
mod traffic;
mod workload;

use std::collections::VecDeque;
use std::sync::mpsc::{Receiver, RecvTimeoutError, SyncSender, TrySendError, sync_channel};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};
use std::{io, thread};

use alize_datapath::InForce;
use alize_datapath::observe::{Limits, Observer, PathTemplate, TraceError};
use alize_model::api::ObservedRequest;
use axum::body::Bytes;
use tokio::sync::{mpsc, oneshot};
use tracing::{info, warn};

use crate::owner;
use cgroups::Cgroups;
use commands::Commands;
pub(crate) use containers::names_in_answer;
pub(crate) use names::Names;
use trace::Trace;
pub(crate) use trace::Wanted;
#[cfg(test)]
pub(crate) use traffic::CallLabels;
use traffic::Places;
pub(crate) use traffic::{Durations, Ends, HttpTraffic, RequestLabels};
#[cfg(test)]
pub(crate) use workload::workload;

/// When HTTP is observed.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Observe {
    /// From when somebody asks until nobody has asked for a minute.
    #[default]
    OnDemand,
    /// From the start on, also for the metrics; goes on without the agent.
    Always,
    /// Never.
    Off,
}

/// Programs that nobody asked for this long are detached.
const IDLE: Duration = Duration::from_secs(60);
/// The ring is emptied this often while somebody traces.
const POLL: Duration = Duration::from_millis(20);
/// And this often while nobody does: the ring of HTTP/2 holds the heads of so long at 50,000 requests a second.
const COUNT: Duration = Duration::from_millis(40);
/// How often names are asked for anew.
const LOOK: Duration = Duration::from_secs(1);
/// Longest that a trace waits for the name of a container, and how often it looks.
const NAMING: Duration = Duration::from_secs(1);
const NAMED: Duration = Duration::from_millis(100);
/// Questions that may wait for the thread.
const QUESTIONS: usize = 16;

/// Why there is no answer.
#[derive(Debug)]
pub(crate) enum Refused {
    /// The agent was told not to observe.
    Off,
    /// Too many ask at once, or too many trace.
    Busy(String),
    /// The question makes no sense.
    Wrong(String),
    /// There is no such service or workload.
    Unknown(String),
    /// The kernel did not do what it should.
    Kernel(alize_datapath::Error),
    /// The agent ends.
    Stopping,
}

impl From<alize_datapath::Error> for Refused {
    fn from(error: alize_datapath::Error) -> Self {
        Refused::Kernel(error)
    }
}

type Work = Box<dyn FnOnce(&mut Watcher) + Send>;

/// Sends questions to the thread.
#[derive(Clone)]
pub(crate) struct Handle {
    observe: Observe,
    work: Option<SyncSender<Work>>,
}

impl Handle {
    /// Whether the metrics have HTTP in them.
    pub(crate) fn feeds_metrics(&self) -> bool {
        self.observe == Observe::Always
    }

    async fn ask<T: Send + 'static>(
        &self,
        work: impl FnOnce(&mut Watcher) -> Result<T, Refused> + Send + 'static,
    ) -> Result<T, Refused> {
        let thread = self.work.as_ref().ok_or(Refused::Off)?;
        let (sender, receiver) = oneshot::channel();
        let work: Work = Box::new(move |watcher| {
            // Who asked may have left.
            let _ = sender.send(work(watcher));
        });
        thread.try_send(work).map_err(|error| match error {
            TrySendError::Full(_) => Refused::Busy("too many clients ask for this at once; try again".into()),
            TrySendError::Disconnected(_) => Refused::Stopping,
        })?;
        receiver.await.map_err(|_| Refused::Stopping)?
    }

    /// Lines of the requests that are wanted, from now on.
    ///
    /// What is asked for by the name of a container may be known a moment later, when its engine has told it.
    pub(crate) async fn trace(&self, wanted: Wanted) -> Result<mpsc::Receiver<Bytes>, Refused> {
        let until = Instant::now() + NAMING;
        loop {
            let wanted = wanted.clone();
            let start = move |watcher: &mut Watcher| {
                let started = watcher.start_trace(&wanted);
                let waits = matches!(started, Err(Refused::Unknown(_))) && watcher.cgroups.waits();
                Ok((started, waits))
            };
            let (started, waits) = self.ask(start).await?;
            if !waits || Instant::now() >= until {
                return started;
            }
            tokio::time::sleep(NAMED).await;
        }
    }

    /// What was counted, as JSON.
    pub(crate) async fn traffic(&self, paths: bool) -> Result<Vec<u8>, Refused> {
        self.ask(move |watcher| watcher.traffic(paths)).await
    }

    /// What was counted, for the metrics.
    pub(crate) async fn metrics(&self) -> Result<HttpTraffic, Refused> {
        self.ask(Watcher::http_traffic).await
    }

    /// The slowest, or those that failed, of late.
    pub(crate) async fn requests(&self, failed: bool) -> Result<Vec<ObservedRequest>, Refused> {
        self.ask(move |watcher| watcher.recorded(failed)).await
    }

    /// The one with this id.
    pub(crate) async fn request_by_id(&self, id: String) -> Result<ObservedRequest, Refused> {
        self.ask(move |watcher| watcher.request_by_id(&id)).await
    }
}

/// The running thread.
pub(crate) struct Running {
    handle: Handle,
    thread: Option<JoinHandle<()>>,
}

impl Running {
    /// Starts the thread; with [`Observe::Always`] the programs are attached when this returns.
    pub(crate) fn start(
        options: &alize_datapath::Options,
        observe: Observe,
        templates: &[PathTemplate],
        mesh: owner::Handle,
        in_force: InForce,
    ) -> Result<Self, crate::Error> {
        // Those of an agent that was killed, or told otherwise.
        if observe != Observe::Always
            && let Err(error) = Observer::detach(options, &in_force)
        {
            warn!("cannot stop observing HTTP: {error}");
        }
        if observe == Observe::Off {
            return Ok(Self { handle: Handle { observe, work: None }, thread: None });
        }
        let (sender, work) = sync_channel(QUESTIONS);
        let (attached, answer) = sync_channel::<()>(1);
        let (options, templates) = (options.clone(), templates.to_vec());
        let body = move || {
            let mut watcher = Watcher::new(options, observe, templates, mesh, in_force);
            if observe == Observe::Always {
                // The mesh waits for this, so it cannot be asked yet what is wanted of TLS.
                match watcher.open() {
                    Ok(observer) => watcher.observer = Some(observer),
                    Err(error) => {
                        warn!("cannot observe HTTP, and tries again when somebody asks: {error}");
                    }
                }
            }
            drop(attached);
            watcher.run(&work);
        };
        let system =
            |source: io::Error| crate::Error::System { what: "start the thread that observes", source };
        let thread = thread::Builder::new().name("alize-observe".into()).spawn(body).map_err(system)?;
        // Nothing is sent: this waits until the programs are attached, or cannot be.
        let _ = answer.recv();
        Ok(Self { handle: Handle { observe, work: Some(sender) }, thread: Some(thread) })
    }

    pub(crate) fn handle(&self) -> Handle {
        self.handle.clone()
    }

    /// Ends all traces, and observing unless it is meant to go on.
    pub(crate) fn stop(mut self) {
        if let Some(work) = self.handle.work.take() {
            // The thread may have ended by itself; it never waits for long.
            let _ = work.send(Box::new(|watcher| watcher.ended = true));
        }
        if let Some(thread) = self.thread.take()
            && thread.join().is_err()
        {
            warn!("the thread that observes broke off");
        }
    }
}

/// What the thread owns.
struct Watcher {
    options: alize_datapath::Options,
    observe: Observe,
    templates: Vec<PathTemplate>,
    mesh: owner::Handle,
    /// The observing programs are those of this bundle.
    in_force: InForce,
    observer: Option<Observer>,
    cgroups: Cgroups,
    commands: Commands,
    names: Names,
    names_asked: Option<Instant>,
    traces: Vec<Trace>,
    /// Requests that a trace has shown, the oldest first.
    kept: VecDeque<Box<ObservedRequest>>,
    places: Places,
    /// Events of the kernel that were lost and held back, when they were last told.
    told_lost: (u64, u64),
    tls: tls::Looking,
    looked: Instant,
    last_asked: Instant,
    ended: bool,
}

impl Watcher {
    fn new(
        options: alize_datapath::Options,
        observe: Observe,
        templates: Vec<PathTemplate>,
        mesh: owner::Handle,
        in_force: InForce,
    ) -> Self {
        let root = alize_datapath::cgroup2_root().unwrap_or_else(|| "/sys/fs/cgroup".into());
        Self {
            cgroups: Cgroups::new(root, options.cgroups.clone()),
            commands: Commands::default(),
            options,
            observe,
            templates,
            mesh,
            in_force,
            observer: None,
            names: Names::default(),
            names_asked: None,
            traces: Vec::new(),
            kept: VecDeque::new(),
            places: Places::default(),
            told_lost: (0, 0),
            tls: tls::Looking::default(),
            looked: Instant::now(),
            last_asked: Instant::now(),
            ended: false,
        }
    }

    fn run(&mut self, work: &Receiver<Work>) {
        while !self.ended {
            let pause = if self.traces.is_empty() { COUNT } else { POLL };
            let waits_for_nothing = self.observer.is_none();
            let received = match waits_for_nothing {
                true => work.recv().map_err(|_| RecvTimeoutError::Disconnected),
                false => work.recv_timeout(pause),
            };
            match received {
                Ok(work) => work(self),
                Err(RecvTimeoutError::Timeout) => {}
                Err(RecvTimeoutError::Disconnected) => break,
            }
            self.cgroups.renew();
            self.deliver();
            if let Some(mut observer) = self.observer.take() {
                self.look_for_tls(&mut observer);
                self.observer = Some(observer);
            }
            if self.may_detach() && self.traces.is_empty() && self.last_asked.elapsed() >= IDLE {
                self.detach("nobody has asked for a minute");
            }
        }
        self.end_traces();
        if self.may_detach() {
            self.detach("the agent ends");
        }
    }

    fn may_detach(&self) -> bool {
        self.observe == Observe::OnDemand && self.observer.is_some()
    }

    /// The observer; attached now if need be, which is the second value.
    fn attach(&mut self) -> Result<(&mut Observer, bool), alize_datapath::Error> {
        self.last_asked = Instant::now();
        let fresh = self.observer.is_none();
        let observer = match self.observer.take() {
            Some(observer) => observer,
            None => {
                let mut observer = self.open()?;
                // Who asks for requests gets those within TLS from the first one on.
                self.tls = tls::Looking::default();
                self.look_for_tls(&mut observer);
                observer
            }
        };
        Ok((self.observer.insert(observer), fresh))
    }

    fn open(&mut self) -> Result<Observer, alize_datapath::Error> {
        let began = Instant::now();
        let mut observer = Observer::open(&self.options, &Limits::default(), &self.in_force)?;
        match observer.set_templates(&self.templates) {
            Ok(()) => {}
            Err(TraceError::Kernel(error)) => return Err(error),
            Err(error) => warn!("paths are counted as they are: {error}"),
        }
        info!("observing HTTP; attached in {:.0} ms", began.elapsed().as_secs_f64() * 1e3);
        Ok(observer)
    }

    fn detach(&mut self, why: &str) {
        self.observer = None;
        self.kept = VecDeque::new();
        self.commands = Commands::default();
        self.names = Names::default();
        self.names_asked = None;
        match Observer::detach(&self.options, &self.in_force) {
            Ok(()) => info!("observing HTTP no longer: {why}"),
            Err(error) => warn!("cannot stop observing HTTP: {error}"),
        }
        alize_datapath::trim_memory();
    }

    /// Asks the mesh for names, if they may have changed.
    fn renew_names(&mut self) {
        if self.names_asked.is_some_and(|asked| asked.elapsed() < LOOK) {
            return;
        }
        self.names_asked = Some(Instant::now());
        let known = std::mem::take(&mut self.names);
        // Without an answer the agent is ending.
        self.names = self.mesh.ask_blocking(move |mesh| mesh.names(known)).unwrap_or_default();
    }
}

impl From<TraceError> for Refused {
    fn from(error: TraceError) -> Self {
        match error {
            TraceError::Kernel(error) => Refused::Kernel(error),
            TraceError::Filter(error) => Refused::Wrong(error.to_string()),
            error => Refused::Busy(error.to_string()),
        }
    }
}
