//! What all connections share.

use std::collections::{BTreeMap, HashMap};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, OnceLock, RwLock};
use std::time::Duration;

use alize_model::control::ProxyCounters;
use tokio::sync::watch;

use crate::back::{Backs, lock};
use crate::keep::Keeping;
use crate::kernel::Kernel;
use crate::route::{Mesh, Plan};

/// Connections on their way to a successor at once.
const LEAVING: usize = 32;

/// What the process is doing.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Phase {
    /// It serves.
    Serving,
    /// What runs is finished, nothing new is taken.
    Draining,
    /// As `Draining`, and connections that come to rest are given to the successor.
    HandingOver,
}

/// Bounds on what clients may do.
#[derive(Clone, Copy, Debug)]
pub struct Limits {
    /// The longest head of a request, in bytes.
    pub head_bytes: usize,
    /// From the first byte of a head to its last.
    pub head_timeout: Duration,
    /// Bytes of a request's body that are remembered for another try and for copies.
    pub replay_bytes: usize,
    /// Copies of requests under way at once.
    pub mirrors: usize,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            head_bytes: 32 * 1024,
            head_timeout: Duration::from_secs(10),
            replay_bytes: 64 * 1024,
            mirrors: 256,
        }
    }
}

/// The proxy.
pub(crate) struct Proxy {
    pub(crate) kernel: Arc<dyn Kernel>,
    pub(crate) limits: Limits,
    pub(crate) backs: Backs,
    pub(crate) phase: watch::Sender<Phase>,
    pub(crate) mirrors: Arc<tokio::sync::Semaphore>,
    /// Turns of connections that are handed over.
    pub(crate) leaving: Arc<tokio::sync::Semaphore>,
    /// Whether the successor takes tunnels; known before the phase changes.
    pub(crate) tunnels_leave: AtomicBool,
    mesh: RwLock<Arc<Mesh>>,
    pub(crate) accepted: AtomicU64,
    pub(crate) open: AtomicU64,
    anomalies: Mutex<HashMap<&'static str, u64>>,
    keeping: OnceLock<Keeping>,
    is_informed: AtomicBool,
    /// Done once the first state is in force.
    first: Mutex<Option<Box<dyn FnOnce() + Send>>>,
}

impl Proxy {
    pub(crate) fn new(kernel: Arc<dyn Kernel>, limits: Limits) -> Arc<Self> {
        Arc::new(Self {
            backs: Backs::new(Arc::clone(&kernel)),
            kernel,
            limits,
            phase: watch::Sender::new(Phase::Serving),
            mirrors: Arc::new(tokio::sync::Semaphore::new(limits.mirrors)),
            leaving: Arc::new(tokio::sync::Semaphore::new(LEAVING)),
            tunnels_leave: AtomicBool::new(false),
            mesh: RwLock::default(),
            accepted: AtomicU64::new(0),
            open: AtomicU64::new(0),
            anomalies: Mutex::default(),
            keeping: OnceLock::new(),
            is_informed: AtomicBool::new(false),
            first: Mutex::default(),
        })
    }

    /// The state in force.
    pub(crate) fn mesh(&self) -> Arc<Mesh> {
        Arc::clone(&self.mesh.read().unwrap_or_else(std::sync::PoisonError::into_inner))
    }

    /// Puts a state in force, whole; an error has changed nothing.
    pub(crate) fn apply(&self, plan: Plan) -> Result<(), String> {
        let earlier = self.mesh();
        let mesh = Arc::new(Mesh::new(plan, &earlier, &*self.kernel)?);
        *self.mesh.write().unwrap_or_else(std::sync::PoisonError::into_inner) = Arc::clone(&mesh);
        self.is_informed.store(true, Ordering::Relaxed);
        let first = lock(&self.first).take();
        if let Some(first) = first {
            first();
        }
        self.kernel.applied(&mesh.in_force());
        Ok(())
    }

    /// Does something once a state is in force, before the kernel side hears of it.
    pub(crate) fn at_first(&self, what: impl FnOnce() + Send + 'static) {
        if self.is_informed.load(Ordering::Relaxed) {
            return what();
        }
        *lock(&self.first) = Some(Box::new(what));
    }

    /// Who keeps sockets beyond the end of this process, if anybody does.
    pub(crate) fn keeping(&self) -> Option<&Keeping> {
        self.keeping.get()
    }

    pub(crate) fn set_keeping(&self, keeping: Keeping) {
        let _ = self.keeping.set(keeping);
    }

    /// Counts something that should not happen.
    pub(crate) fn anomaly(&self, what: &'static str) {
        *lock(&self.anomalies).entry(what).or_default() += 1;
    }

    pub(crate) fn counters(&self) -> ProxyCounters {
        let anomalies = lock(&self.anomalies);
        let anomalies: BTreeMap<String, u64> =
            anomalies.iter().map(|(what, count)| ((*what).to_owned(), *count)).collect();
        ProxyCounters {
            open: self.open.load(Ordering::Relaxed),
            accepted: self.accepted.load(Ordering::Relaxed),
            idle: self.backs.idle(),
            anomalies,
            services: self.mesh().counters(),
        }
    }
}
