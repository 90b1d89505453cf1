//! Connections to endpoints: pools of idle HTTP/1 connections, and shared HTTP/2 ones.
//!
//! A pool belongs to an endpoint as it is seen from one network namespace: connections are made from within the client's.
//! An idle connection has no task and no buffer; a sweep finds those that the endpoint has closed.

mod exchange;
mod http2;

use std::collections::HashMap;
use std::io;
use std::net::SocketAddr;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use alize_model::http::Pool;
use bytes::BytesMut;
use http::{Response, request};
use tokio::sync::Notify;
use tokio::time::{Instant, timeout_at};

use crate::body::{Body, Broken};
use crate::kernel::{Kernel, Netns};
use crate::socket::Socket;
use crate::wire::Fault;

pub(crate) use exchange::{Exchange, Tunnel};
pub(crate) use http2::Stream;

/// A request that must not be sent twice takes no connection that was idle for longer: endpoints close idle connections,
/// and the closing and the request may cross.
const FRESH: Duration = Duration::from_secs(1);
/// An endpoint that says how long it keeps a connection is believed, less this.
const KEPT_MARGIN: Duration = Duration::from_secs(1);

/// Why a try failed.
#[derive(Debug, thiserror::Error)]
pub(crate) enum Failure {
    /// No connection could be made.
    #[error("cannot connect: {0}")]
    Connect(io::Error),
    /// No connection was made in time.
    #[error("the connection was not made in time")]
    ConnectTimeout,
    /// Every connection that may be made is busy, and none became free in time.
    #[error("every connection is busy")]
    Exhausted,
    /// The connection ended before a response was complete enough to be read.
    #[error("the connection ended before a response (used before: {stale}, request sent: {sent})")]
    Reset {
        /// The connection was used before, and not a byte of a response came.
        stale: bool,
        /// At least a byte of the request was sent.
        sent: bool,
    },
    /// The endpoint says that it has not looked at the request (HTTP/2's REFUSED_STREAM).
    #[error("the endpoint refused to look at the request")]
    Refused,
    /// What the endpoint sent is no response.
    #[error("the response is malformed: {0:?}")]
    Response(Fault),
    /// The client's side ended the request.
    #[error("the request ended early: {0}")]
    Client(Broken),
    /// A try took longer than it may.
    #[error("the try took too long")]
    TryTimeout,
    /// The endpoint was silent for longer than it may.
    #[error("the endpoint was silent for too long")]
    Silent,
}

impl Failure {
    /// Whether it is certain that the endpoint did nothing with the request.
    pub(crate) fn untouched(&self) -> bool {
        match self {
            Self::Connect(_) | Self::ConnectTimeout | Self::Exhausted | Self::Refused => true,
            Self::Reset { sent, .. } => !sent,
            _ => false,
        }
    }
}

/// An endpoint, seen from a network namespace.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) struct Place {
    pub(crate) netns: Netns,
    pub(crate) endpoint: SocketAddr,
}

/// All connections to endpoints.
pub(crate) struct Backs {
    kernel: Arc<dyn Kernel>,
    pools: Mutex<HashMap<Place, Arc<PlacePool>>>,
}

/// Connections to one place.
pub(crate) struct PlacePool {
    place: Place,
    kernel: Arc<dyn Kernel>,
    /// The newest last.
    idle: Mutex<Vec<Idle>>,
    open: AtomicUsize,
    waiting: AtomicUsize,
    freed: Notify,
    shared: http2::Shared,
    /// Milliseconds; as the last request wanted it.
    idle_timeout: AtomicU64,
    min_idle: AtomicUsize,
}

struct Idle {
    connection: Connection,
    since: Instant,
}

/// A connection and what is known about it.
struct Connection {
    socket: Socket,
    reused: bool,
    kept_for: Option<Duration>,
    _counted: Counted,
}

/// Counts an open connection of a pool for as long as it lives.
struct Counted(Arc<PlacePool>);

impl std::fmt::Debug for Counted {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Counted")
    }
}

impl Drop for Counted {
    fn drop(&mut self) {
        self.0.open.fetch_sub(1, Ordering::Relaxed);
        self.0.freed.notify_one();
    }
}

/// A connection that carries one request.
pub(crate) struct Back {
    socket: Socket,
    /// What was read and not used.
    buffer: BytesMut,
    reused: bool,
    kept_for: Option<Duration>,
    written_before: u64,
    home: Home,
}

/// Where a connection goes when its response is complete and it can take another request.
#[derive(Debug)]
pub(crate) enum Home {
    #[expect(private_interfaces, reason = "only held elsewhere")]
    Pool(Counted),
    /// To who lent it.
    Lent(Lent),
}

/// A connection on loan, back here once it is free again.
pub(crate) type Lent = Arc<Mutex<Option<Socket>>>;

impl Back {
    fn new(connection: Connection) -> Self {
        let Connection { socket, reused, kept_for, _counted: counted } = connection;
        let written_before = socket.totals().1;
        let home = Home::Pool(counted);
        Self { socket, buffer: BytesMut::new(), reused, kept_for, written_before, home }
    }

    /// A connection of somebody else's, on which a response is owed. It is put into `lent` if it is complete.
    pub(crate) fn lent(stream: tokio::net::TcpStream, lent: &Lent) -> Self {
        let home = Home::Lent(Arc::clone(lent));
        Self {
            socket: Socket::new(stream),
            buffer: BytesMut::new(),
            reused: true,
            kept_for: None,
            written_before: 0,
            home,
        }
    }

    fn endpoint(&self) -> SocketAddr {
        let unknown = SocketAddr::from(([0, 0, 0, 0], 0));
        self.socket.stream().peer_addr().unwrap_or(unknown)
    }

    fn reused(&self) -> bool {
        self.reused
    }

    fn has_sent(&self) -> bool {
        self.socket.totals().1 > self.written_before
    }

    fn kept_for(&mut self, seconds: u64) {
        self.kept_for = Some(Duration::from_secs(seconds).saturating_sub(KEPT_MARGIN));
    }

    /// Puts the connection back for another request.
    fn release(self) {
        let Self { socket, kept_for, home, .. } = self;
        if kept_for == Some(Duration::ZERO) {
            return;
        }
        let counted = match home {
            Home::Pool(counted) => counted,
            Home::Lent(lent) => {
                *lock(&lent) = Some(socket);
                return;
            }
        };
        let pool = Arc::clone(&counted.0);
        let connection = Connection { socket, reused: true, kept_for, _counted: counted };
        lock(&pool.idle).push(Idle { connection, since: Instant::now() });
        pool.freed.notify_one();
    }

    /// The socket, and what was read from it beyond the response's head, of a connection that became a tunnel.
    pub(crate) fn into_tunnel(self) -> (Socket, BytesMut, Home) {
        (self.socket, self.buffer, self.home)
    }
}

impl Backs {
    pub(crate) fn new(kernel: Arc<dyn Kernel>) -> Self {
        Self { kernel, pools: Mutex::default() }
    }

    /// The pool of a place.
    pub(crate) fn pool(&self, place: Place) -> Arc<PlacePool> {
        let mut pools = lock(&self.pools);
        let pool = pools.entry(place).or_insert_with(|| {
            Arc::new(PlacePool {
                place,
                kernel: Arc::clone(&self.kernel),
                idle: Mutex::default(),
                open: AtomicUsize::new(0),
                waiting: AtomicUsize::new(0),
                freed: Notify::new(),
                shared: http2::Shared::default(),
                idle_timeout: AtomicU64::new(30_000),
                min_idle: AtomicUsize::new(0),
            })
        });
        Arc::clone(pool)
    }

    /// Idle connections of all pools.
    pub(crate) fn idle(&self) -> u64 {
        lock(&self.pools).values().map(|pool| lock(&pool.idle).len() as u64).sum()
    }

    /// Closes idle connections that are of no use any more, and forgets pools without any.
    pub(crate) fn sweep(&self) {
        let mut pools = lock(&self.pools);
        for pool in pools.values() {
            pool.sweep();
        }
        pools.retain(|_, pool| Arc::strong_count(pool) > 1 || pool.open.load(Ordering::Relaxed) > 0);
    }
}

/// How long and how many, for one request.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Terms {
    pub(crate) pool: Pool,
    /// Connections, where a circuit bounds them further.
    pub(crate) max_connections: usize,
    /// Requests that may wait for a connection.
    pub(crate) max_pending: usize,
    /// Whether the request may be sent again if the connection turns out to be closed.
    pub(crate) repeatable: bool,
}

impl PlacePool {
    /// Sends `request` in HTTP/1 and reads the head of the response.
    pub(crate) async fn http1(
        self: &Arc<Self>,
        parts: &request::Parts,
        body: Body,
        terms: &Terms,
    ) -> Result<Response<Body>, Failure> {
        // Most requests find an idle connection; the way to a new one is long.
        let back = match self.take_idle(terms.repeatable) {
            Some(connection) => Back::new(connection),
            None => Box::pin(self.take(terms)).await?,
        };
        let mut exchange = Box::new(Exchange::new(back, parts, body));
        let response = std::future::poll_fn(|cx| exchange.poll_head(cx)).await?;
        Ok(response.map(|()| if exchange.left() == Some(0) { Body::Empty } else { Body::Exchange(exchange) }))
    }

    /// Sends `request` in HTTP/2 and reads the head of the response.
    pub(crate) async fn http2(
        self: &Arc<Self>,
        parts: &request::Parts,
        body: Body,
        terms: &Terms,
    ) -> Result<Response<Body>, Failure> {
        self.shared.send(self, parts, body, terms).await
    }

    /// An idle connection, or else a new one, or else the next that becomes free.
    async fn take(self: &Arc<Self>, terms: &Terms) -> Result<Back, Failure> {
        self.idle_timeout.store(terms.pool.idle_timeout.as_millis() as u64, Ordering::Relaxed);
        self.min_idle.store(terms.pool.min_idle as usize, Ordering::Relaxed);
        let deadline = Instant::now() + terms.pool.connect_timeout;
        loop {
            if let Some(connection) = self.take_idle(terms.repeatable) {
                return Ok(Back::new(connection));
            }
            if let Some(counted) = self.count(terms) {
                return self.connect(counted, deadline).await.map(Back::new);
            }
            let _pending = Pending::enter(&self.waiting, terms.max_pending).ok_or(Failure::Exhausted)?;
            timeout_at(deadline, self.freed.notified()).await.map_err(|_| Failure::Exhausted)?;
        }
    }

    fn take_idle(&self, repeatable: bool) -> Option<Connection> {
        let mut idle = lock(&self.idle);
        while let Some(Idle { since, .. }) = idle.last() {
            if !repeatable && since.elapsed() > FRESH {
                return None;
            }
            let Idle { connection, since } = idle.pop()?;
            if connection.usable(since) {
                return Some(connection);
            }
        }
        None
    }

    /// Room for one more connection; an idle one that is not fresh gives way.
    fn count(self: &Arc<Self>, terms: &Terms) -> Option<Counted> {
        let max = (terms.pool.max.get() as usize).min(terms.max_connections);
        if self.open.load(Ordering::Relaxed) >= max {
            let mut idle = lock(&self.idle);
            if idle.is_empty() {
                return None;
            }
            drop(idle.remove(0));
        }
        self.open.fetch_add(1, Ordering::Relaxed);
        Some(Counted(Arc::clone(self)))
    }

    async fn connect(&self, counted: Counted, deadline: Instant) -> Result<Connection, Failure> {
        let endpoint = self.place.endpoint;
        let socket = self.kernel.socket(self.place.netns, endpoint).map_err(Failure::Connect)?;
        let local = self.kernel.dialling(self.place.netns, &socket, endpoint).map_err(Failure::Connect)?;
        let _dialling = local.map(|local| Dialling { kernel: &*self.kernel, local, endpoint });
        let connected = timeout_at(deadline, socket.connect(endpoint)).await;
        let stream = connected.map_err(|_| Failure::ConnectTimeout)?.map_err(Failure::Connect)?;
        Ok(Connection { socket: Socket::new(stream), reused: false, kept_for: None, _counted: counted })
    }

    fn sweep(&self) {
        let timeout = Duration::from_millis(self.idle_timeout.load(Ordering::Relaxed));
        let min = self.min_idle.load(Ordering::Relaxed);
        let mut idle = lock(&self.idle);
        idle.retain(|idle| idle.connection.usable(idle.since));
        let mut spare = idle.len().saturating_sub(min);
        idle.retain(|idle| {
            let old = spare > 0 && idle.since.elapsed() > timeout;
            spare -= usize::from(old);
            !old
        });
        if idle.is_empty() {
            *idle = Vec::new();
        }
        drop(idle);
        self.shared.sweep(timeout);
    }
}

/// Ends what [`Kernel::dialling`] began.
struct Dialling<'a> {
    kernel: &'a dyn Kernel,
    local: SocketAddr,
    endpoint: SocketAddr,
}

impl Drop for Dialling<'_> {
    fn drop(&mut self) {
        self.kernel.dialled(self.local, self.endpoint);
    }
}

impl Connection {
    /// Whether the endpoint still keeps it, as far as is known. Bytes that nobody asked for make it unusable.
    fn usable(&self, since: Instant) -> bool {
        let kept = self.kept_for.is_none_or(|kept| since.elapsed() < kept);
        kept && matches!(self.socket.try_read(&mut BytesMut::new(), 1), Ok(None))
    }
}

/// A request that waits for a connection.
struct Pending<'a>(&'a AtomicUsize);

impl<'a> Pending<'a> {
    fn enter(waiting: &'a AtomicUsize, max: usize) -> Option<Self> {
        let before = waiting.fetch_add(1, Ordering::Relaxed);
        let pending = Self(waiting);
        (before < max).then_some(pending)
    }
}

impl Drop for Pending<'_> {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::Relaxed);
    }
}

/// A lock that a panic elsewhere does not make unusable.
pub(crate) fn lock<T>(mutex: &Mutex<T>) -> std::sync::MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
