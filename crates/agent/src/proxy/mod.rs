//! The proxy beside the agent: a process of its own that serves what the kernel does not take.
//!
//! It is started when a service needs it, told every change, asked for its counters, and started again when it ends. It
//! outlives the agent: data sockets are its own, so the next agent finds it by its control socket and goes on with it.
//! One task does all of this; the mesh only publishes what is wanted, and never waits.

mod child;
mod link;

use std::ffi::OsString;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use alize_model::api::ProxyStatus;
use alize_model::control::{FromProxy, Hello, ProxyCounters, ProxyState, ToProxy};
use tokio::sync::{mpsc, oneshot, watch};
use tokio::time::{sleep, timeout};
use tracing::info;

use crate::events::Kind;
use crate::owner;
use child::Child;
use link::{Link, Problem};

/// What the mesh publishes for the proxy.
#[derive(Clone, Debug, Default)]
pub(crate) enum Wanted {
    /// It is not known yet which services there are.
    #[default]
    Unknown,
    /// No service needs it.
    Nothing,
    /// What it has to serve.
    State(Arc<ProxyState>),
}

/// How the proxy is started.
#[derive(Clone, Debug)]
pub struct ProxyOptions {
    /// The program.
    pub program: PathBuf,
    /// Its arguments.
    pub arguments: Vec<OsString>,
    /// A variable that it finds in its environment.
    pub environment: (&'static str, &'static str),
    /// Where it is asked, usually `/run/alize/<instance>.proxy.sock`.
    pub socket: PathBuf,
}

/// How long connections may take to end when no service needs the proxy any more.
const DRAIN: Duration = Duration::from_secs(30);
/// How long an answer may take: a state of 10,000 services takes tens of milliseconds.
const PATIENCE: Duration = Duration::from_secs(10);
/// How long whoever asks for counters waits.
const COUNTERS: Duration = Duration::from_secs(1);
/// The first pause before another start, and the longest.
const PAUSES: (Duration, Duration) = (Duration::from_millis(100), Duration::from_secs(10));
/// A proxy that lived as long as this is started again at once.
const WELL: Duration = Duration::from_secs(10);

/// Asks the proxy. Clones ask the same.
#[derive(Clone)]
pub(crate) struct Handle {
    asks: Option<mpsc::Sender<oneshot::Sender<ProxyCounters>>>,
    status: watch::Receiver<Option<ProxyStatus>>,
}

impl Handle {
    /// What it has counted since it began; none if none runs or it does not answer.
    pub(crate) async fn counters(&self) -> Option<ProxyCounters> {
        let asks = self.asks.as_ref()?;
        if self.status.borrow().as_ref().is_none_or(|status| status.pid.is_none()) {
            return None;
        }
        let (sender, receiver) = oneshot::channel();
        let asked = async {
            asks.send(sender).await.ok()?;
            receiver.await.ok()
        };
        timeout(COUNTERS, asked).await.ok().flatten()
    }

    /// How it is; none if no service needs it.
    pub(crate) fn status(&self) -> Option<ProxyStatus> {
        self.status.borrow().clone()
    }
}

/// Whom others ask, and the task that keeps the proxy as `wants` says; without options there is no task.
pub(crate) fn keep(
    options: Option<ProxyOptions>,
    wants: watch::Receiver<Wanted>,
    mesh: owner::Handle,
) -> (Handle, Option<Keeper>) {
    let (telling, status) = watch::channel(None);
    let Some(options) = options else {
        return (Handle { asks: None, status }, None);
    };
    let (sender, asks) = mpsc::channel(4);
    let keeper = Keeper { options, mesh, wants, asks, status: telling, child: None };
    (Handle { asks: Some(sender), status }, Some(keeper))
}

/// Keeps a proxy running while one is wanted.
pub(crate) struct Keeper {
    options: ProxyOptions,
    mesh: owner::Handle,
    wants: watch::Receiver<Wanted>,
    asks: mpsc::Receiver<oneshot::Sender<ProxyCounters>>,
    status: watch::Sender<Option<ProxyStatus>>,
    /// The one that this agent started.
    child: Option<Child>,
}

/// Why a conversation ended.
enum End {
    /// No service needs the proxy any more.
    Unwanted,
    /// The agent ends.
    Over,
}

impl Keeper {
    /// Runs until the agent ends; the proxy goes on.
    pub(crate) async fn run(mut self) {
        let mut pause = PAUSES.0;
        self.end_what_is_unwanted().await;
        while self.wants.wait_for(|wanted| matches!(wanted, Wanted::State(_))).await.is_ok() {
            let began = tokio::time::Instant::now();
            let problem = match self.serve().await {
                Ok(End::Over) => return,
                Ok(End::Unwanted) => {
                    self.status.send_replace(None);
                    continue;
                }
                Err(problem) => problem,
            };
            if began.elapsed() >= WELL {
                pause = PAUSES.0;
            }
            self.tell(format!("the proxy: {problem}; trying again")).await;
            self.status
                .send_replace(Some(ProxyStatus { problem: Some(problem.to_string()), ..Default::default() }));
            sleep(pause).await;
            pause = (pause * 2).min(PAUSES.1);
        }
    }

    /// A proxy that an earlier agent left is of no use if the file no longer names a service for it.
    async fn end_what_is_unwanted(&mut self) {
        let known = |wanted: &Wanted| !matches!(wanted, Wanted::Unknown);
        let nothing = matches!(self.wants.wait_for(known).await.as_deref(), Ok(Wanted::Nothing));
        if nothing && let Ok((mut link, Hello { pid, .. })) = Link::open(&self.options.socket).await {
            let _ = link.say(&ToProxy::Drain { deadline: DRAIN }).await;
            self.tell(format!(
                "no service needs the proxy (pid {pid}) any more: it ends when its connections have"
            ))
            .await;
        }
    }

    /// One proxy, from finding or starting it to its end.
    async fn serve(&mut self) -> Result<End, Problem> {
        let (mut link, hello) = self.reach().await?;
        let Hello { pid, version, .. } = hello;
        let status = |generation, problem| ProxyStatus {
            pid: Some(pid),
            version: version.clone(),
            generation,
            problem,
        };
        loop {
            let wanted = self.wants.borrow_and_update().clone();
            let Wanted::State(state) = wanted else {
                link.say(&ToProxy::Drain { deadline: DRAIN }).await?;
                self.tell(format!(
                    "no service needs the proxy (pid {pid}): it ends when its connections have"
                ))
                .await;
                return Ok(End::Unwanted);
            };
            let answer = link.ask(&ToProxy::State(ProxyState::clone(&state)), PATIENCE).await?;
            drop(state);
            match answer {
                FromProxy::State { generation } => self.status.send_replace(Some(status(generation, None))),
                FromProxy::Error { error } => {
                    self.tell(format!("the proxy (pid {pid}) keeps the state before: {error}")).await;
                    self.status.send_replace(Some(status(hello.generation, Some(error))))
                }
                FromProxy::Hello(_) | FromProxy::Counters(_) => return Err(Problem::Confused),
            };
            loop {
                tokio::select! {
                    changed = self.wants.changed() => match changed {
                        Ok(()) => break,
                        Err(_) => return Ok(End::Over),
                    },
                    asked = self.asks.recv() => {
                        let Some(asked) = asked else { return Ok(End::Over) };
                        match link.ask(&ToProxy::Counters, PATIENCE).await? {
                            // Whoever asked may have lost patience.
                            FromProxy::Counters(counters) => drop(asked.send(counters)),
                            _ => return Err(Problem::Confused),
                        }
                    }
                    ended = link.ended() => return Err(ended),
                }
            }
        }
    }

    /// Finds the proxy that runs, or starts one. One of another version is followed by one of this.
    async fn reach(&mut self) -> Result<(Link, Hello), Problem> {
        if let Ok((link, hello)) = Link::open(&self.options.socket).await {
            if hello.version == env!("CARGO_PKG_VERSION") {
                let adopted = self.child.as_ref().is_none_or(|child| child.pid != hello.pid);
                let what = if adopted { "found" } else { "reached again" };
                info!("the proxy (pid {}) was {what}", hello.pid);
                if adopted {
                    self.tell(format!("the proxy (pid {}) was found and goes on", hello.pid)).await;
                }
                return Ok((link, hello));
            }
            info!("the proxy (pid {}) is of version {}: another takes its place", hello.pid, hello.version);
        }
        let child = match self.child.take().filter(Child::runs) {
            Some(child) => child,
            None => Child::start(&self.options)?,
        };
        let child = self.child.insert(child);
        let (link, hello) = child.reached(&self.options.socket).await?;
        self.tell(format!("the proxy (pid {}) was started", hello.pid)).await;
        Ok((link, hello))
    }

    async fn tell(&self, message: String) {
        let _ = self.mesh.ask(move |mesh| mesh.events.tell(Kind::Agent, message)).await;
    }
}
