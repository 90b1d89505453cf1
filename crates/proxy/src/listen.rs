//! Listeners, one in each network namespace of clients, and the connections that come from them.

use std::io;
use std::net::{SocketAddr, TcpListener as StdListener};
use std::os::fd::OwnedFd;
use std::sync::atomic::Ordering;
use std::sync::{Arc, Mutex, Weak};
use std::time::Duration;

use alize_datapath::http::socket_totals;
use bytes::BytesMut;
use rustix::net::{RecvFlags, SocketFlags, acceptfrom_with};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::mpsc;
use tokio::task::JoinHandle;

use crate::back::lock;
use crate::front::{self, Front, Leaving, Origin, Outcome};
use crate::keep::{Kept, Ticket};
use crate::kernel::{Accepted, Netns};
use crate::proxy::{Phase, Proxy};
use crate::reason::Reason;
use crate::socket::{Socket, of_another};

/// The wait after an accept that failed for want of descriptors or memory.
const PAUSE: Duration = Duration::from_millis(50);
/// Connections of a listener that are welcomed before others have their turn.
const AT_ONCE: usize = 64;
/// A client that vanished without a word is noticed after this, and three questions more.
const KEEP_ALIVE: Duration = Duration::from_secs(60);

/// How long a connection may wait to be accepted: longer than a busy machine takes to come to it.
const ARRIVAL: Duration = Duration::from_secs(5);
const STEP: Duration = Duration::from_millis(1);

/// The next connection that waits, and whence it comes.
fn accept_now(listener: &TcpListener) -> io::Result<(OwnedFd, SocketAddr)> {
    let (socket, peer) = acceptfrom_with(listener, SocketFlags::CLOEXEC | SocketFlags::NONBLOCK)?;
    let peer = peer.and_then(|peer| SocketAddr::try_from(peer).ok());
    Ok((socket, peer.ok_or_else(|| io::Error::other("whence it comes is unknown"))?))
}

/// Its client has left nothing behind in it.
fn is_spent(socket: &OwnedFd) -> bool {
    let mut byte = [0];
    match rustix::net::recv(socket, &mut byte, RecvFlags::PEEK | RecvFlags::DONTWAIT) {
        Ok((_, length)) => length == 0,
        Err(error) => error != rustix::io::Errno::AGAIN,
    }
}

/// Listeners, and the fronts that they made.
pub(crate) struct Doors {
    proxy: Arc<Proxy>,
    listeners: Mutex<Vec<Door>>,
    fronts: Mutex<std::collections::HashMap<u64, Weak<Front>>>,
    /// Those that are not kept yet: most connections are short.
    fresh: Mutex<Vec<Weak<Front>>>,
    /// Takes fronts that are at rest while the proxy hands over.
    leaving: mpsc::UnboundedSender<Leaving>,
}

struct Door {
    netns: Netns,
    listener: Arc<TcpListener>,
    task: JoinHandle<()>,
    _ticket: Option<Ticket>,
}

impl Doors {
    pub(crate) fn new(proxy: &Arc<Proxy>, leaving: mpsc::UnboundedSender<Leaving>) -> Arc<Self> {
        Arc::new(Self {
            proxy: Arc::clone(proxy),
            listeners: Mutex::default(),
            fronts: Mutex::default(),
            fresh: Mutex::default(),
            leaving,
        })
    }

    /// Takes connections from `listener`, whose clients are in `netns`.
    pub(crate) fn open(self: &Arc<Self>, netns: Netns, listener: StdListener) -> io::Result<SocketAddr> {
        listener.set_nonblocking(true)?;
        let address = listener.local_addr()?;
        let listener = Arc::new(TcpListener::from_std(listener)?);
        let (doors, accepting) = (Arc::clone(self), Arc::clone(&listener));
        let task = tokio::spawn(async move { doors.accept(netns, address, &accepting).await });
        let kept: Weak<TcpListener> = Arc::downgrade(&listener);
        let ticket = self.proxy.keeping().map(|keeping| keeping.keep(Kept::Listener { netns }, kept));
        lock(&self.listeners).push(Door { netns, listener, task, _ticket: ticket });
        Ok(address)
    }

    /// Takes no more connections in `netns`, where there are no clients any more.
    pub(crate) fn close(&self, netns: Netns) {
        lock(&self.listeners).retain(|door| {
            if door.netns == netns {
                door.task.abort();
            }
            door.netns != netns
        });
    }

    /// Stops accepting; connections that wait to be accepted stay with the listeners, wherever those go.
    pub(crate) fn close_all(&self) -> Vec<(Netns, Arc<TcpListener>)> {
        let doors = std::mem::take(&mut *lock(&self.listeners));
        doors
            .into_iter()
            .map(|door| {
                door.task.abort();
                (door.netns, door.listener)
            })
            .collect()
    }

    /// The listeners, which go on.
    pub(crate) fn listeners(&self) -> Vec<(Netns, Arc<TcpListener>)> {
        lock(&self.listeners).iter().map(|door| (door.netns, Arc::clone(&door.listener))).collect()
    }

    /// Takes the connections that wait in the listeners at this moment.
    pub(crate) fn accept_waiting(self: &Arc<Self>) {
        for (netns, listener) in self.listeners() {
            let Ok(local) = listener.local_addr() else { continue };
            while let Ok((socket, peer)) = accept_now(&listener) {
                self.welcome(netns, local, peer, socket);
            }
        }
    }

    async fn accept(self: &Arc<Self>, netns: Netns, local: SocketAddr, listener: &TcpListener) {
        loop {
            match listener.accept().await {
                Ok((stream, peer)) => {
                    if let Ok(stream) = stream.into_std() {
                        self.welcome(netns, local, peer, stream.into());
                    }
                    for _ in 0..AT_ONCE {
                        let Ok((socket, peer)) = accept_now(listener) else { break };
                        self.welcome(netns, local, peer, socket);
                    }
                    tokio::task::yield_now().await;
                }
                Err(error) => {
                    self.proxy.anomaly("accept-failed");
                    tracing::warn!(%error, %local, "cannot accept a connection; check the limit of open files");
                    tokio::time::sleep(PAUSE).await;
                }
            }
        }
    }

    fn welcome(self: &Arc<Self>, netns: Netns, local: SocketAddr, peer: SocketAddr, socket: OwnedFd) {
        let Some(client) = self.proxy.kernel.identify(&Accepted { netns, local, peer }) else {
            self.proxy.anomaly("unknown-client");
            return;
        };
        self.proxy.accepted.fetch_add(1, Ordering::Relaxed);
        // The kernel answers clients that wait here. Where they come faster than they can be welcomed most have left again,
        // and the less those cost the sooner that ends: a listener that is full has others try again after a second.
        if !self.proxy.kernel.is_there(client.cookie) && is_spent(&socket) {
            return self.proxy.kernel.gone(&client);
        }
        let Ok(stream) = TcpStream::from_std(socket.into()) else {
            self.proxy.anomaly("accept-failed");
            return self.proxy.kernel.gone(&client);
        };
        let _ = rustix::net::sockopt::set_socket_keepalive(&stream, true);
        let _ = rustix::net::sockopt::set_tcp_keepidle(&stream, KEEP_ALIVE);
        let cookie = rustix::net::sockopt::socket_cookie(&stream).unwrap_or_default();
        let origin = Origin { client, netns, peer, cookie };
        self.live(Front::new(Socket::new(stream), origin, BytesMut::new()));
    }

    /// Serves a connection from here on.
    pub(crate) fn live(self: &Arc<Self>, front: Arc<Front>) {
        self.proxy.kernel.joined(&front.origin.client, front.origin.netns);
        lock(&self.fronts).insert(front.origin.key(), Arc::downgrade(&front));
        if self.proxy.keeping().is_some() {
            lock(&self.fresh).push(Arc::downgrade(&front));
        }
        self.proxy.open.fetch_add(1, Ordering::Relaxed);
        let doors = Arc::clone(self);
        let phase = self.proxy.phase.subscribe();
        let (key, client) = (front.origin.key(), front.origin.client);
        tokio::spawn(async move {
            let leaving = front::live(Arc::clone(&doors.proxy), front, phase).await;
            lock(&doors.fronts).remove(&key);
            match leaving {
                Some(front) => drop(doors.leaving.send(front)),
                None => doors.proxy.kernel.gone(&client),
            }
            doors.proxy.open.fetch_sub(1, Ordering::Relaxed);
        });
    }

    /// Has connections kept that are not short.
    pub(crate) fn keep_fresh(&self) {
        let fresh = std::mem::take(&mut *lock(&self.fresh));
        if let Some(keeping) = self.proxy.keeping() {
            fresh.iter().filter_map(Weak::upgrade).for_each(|front| front.keep(keeping));
        }
    }

    /// Goes on with a connection of a proxy that is gone, if nothing was in its hands; else the client hears of it. Whether it
    /// goes on.
    pub(crate) fn revive(self: &Arc<Self>, origin: Origin, socket: OwnedFd) -> bool {
        if self.front(origin.key()).is_some() {
            return true;
        }
        let rests = |(read, written): &(u64, u64)| self.proxy.kernel.rests(&origin.client, *read, *written);
        let Some((read, written)) = socket_totals(&socket).ok().filter(rests) else {
            let _ = rustix::net::connect_unspec(&socket);
            return false;
        };
        let socket = of_another(socket).map(|stream| Socket::with_totals(stream, read, written));
        socket.map(|socket| self.live(Front::new(socket, origin, BytesMut::new()))).is_ok()
    }

    /// See [`crate::Handle::relay`].
    pub(crate) async fn relay(
        &self,
        cookie: u64,
        back: TcpStream,
        method: http::Method,
        is_whole: bool,
    ) -> Option<Outcome> {
        let front = self.arrival(cookie).await?;
        Some(front::relay(&self.proxy, &front, back, method, is_whole).await)
    }

    /// See [`crate::Handle::fail`].
    pub(crate) async fn fail(&self, cookie: u64, reason: Reason, begun: bool) {
        if let Some(front) = self.arrival(cookie).await {
            front::fail(&self.proxy, &front, reason, begun).await;
        }
    }

    /// The front of a client. A client may be answered before its connection is accepted here: the kernel needs no proxy for
    /// its requests, only for what has to be carried.
    async fn arrival(&self, cookie: u64) -> Option<Arc<Front>> {
        let until = tokio::time::Instant::now() + ARRIVAL;
        loop {
            if let Some(front) = self.front(cookie) {
                return Some(front);
            }
            if tokio::time::Instant::now() >= until || !self.proxy.kernel.is_there(cookie) {
                return None;
            }
            tokio::time::sleep(STEP).await;
        }
    }

    fn front(&self, cookie: u64) -> Option<Arc<Front>> {
        lock(&self.fronts).get(&cookie).and_then(Weak::upgrade)
    }

    /// Waits until every connection has ended or was given away, at most until `deadline`.
    pub(crate) async fn drained(&self, deadline: tokio::time::Instant) -> bool {
        let step = Duration::from_millis(10);
        while self.proxy.open.load(Ordering::Relaxed) > 0 {
            if tokio::time::Instant::now() >= deadline {
                return false;
            }
            tokio::time::sleep(step).await;
        }
        true
    }

    pub(crate) fn phase(&self, phase: Phase) {
        self.proxy.phase.send_replace(phase);
    }
}
