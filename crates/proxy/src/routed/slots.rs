//! The connections to endpoints that the kernel routes requests over.

use std::collections::HashMap;
use std::io;
use std::net::SocketAddr;
use std::os::fd::OwnedFd;
use std::sync::{Arc, Mutex, Weak};
use std::time::{Duration, Instant};

use alize_datapath::http::{Armed, Lent, Router, Slot};
use rustix::net::{RecvFlags, recv};
use tokio::io::Interest;
use tokio::net::{TcpSocket, TcpStream};
use tokio::sync::Notify;
use tokio::task::{JoinHandle, JoinSet};

use super::{Known, Routed, remote};
use crate::back::lock;
use crate::counters;
use crate::keep::{KeptBack, Ticket};
use crate::kernel::{Kernel, Netns};
use crate::reason::Reason;
use crate::socket::of_another;

/// Connections made at once where none was idle.
const FIRST: usize = 4;
/// Connections made at the same time to one endpoint.
const AT_ONCE: usize = 16;
/// After a connection that the kernel may not use, none is made for so long. It may be that the agent has not tried yet
/// what the kernel does with sockets to other hosts.
const ELSEWHERE: Duration = Duration::from_secs(2);
/// After a connection that could not be made.
const FAILED: Duration = Duration::from_secs(1);

/// All slots of the proxy.
#[derive(Default)]
pub(super) struct Slots {
    /// By the slot's number.
    open: Mutex<HashMap<u32, Held>>,
    places: Mutex<HashMap<(Netns, u32), Place>>,
}

/// A connection that is open.
struct Held {
    slot: Slot,
    place: (Netns, u32),
    task: JoinHandle<()>,
    /// Of one that the kernel reads from: wakes its task, which waits for no bytes.
    wake: Option<Arc<Notify>>,
    /// Requests it had served when it was last looked at, and when that was another number.
    used: u64,
    since: Instant,
    /// By which another process may go on with the connection.
    _kept: Option<(Arc<OwnedFd>, Ticket)>,
}

/// An endpoint, seen from a namespace.
#[derive(Default)]
struct Place {
    open: usize,
    /// While it grows: how many there are to be.
    wanted: usize,
    growing: bool,
    not_before: Option<Instant>,
}

impl Slots {
    /// The slot that is lent to a client.
    pub(super) fn find(&self, router: &Router, cookie: u64) -> Option<Slot> {
        lock(&self.open).values().map(|held| held.slot).find(|slot| router.is_busy_for(*slot, cookie))
    }

    /// The slots that are lent to one of `clients`, and to whom.
    pub(super) fn lent_to_any<T>(&self, router: &Router, clients: &HashMap<u64, T>) -> Vec<(Slot, u64)> {
        let lent = |held: &Held| {
            let lent = router.state(held.slot).lent.filter(Lent::is_outstanding)?;
            clients.contains_key(&lent.cookie).then_some((held.slot, lent.cookie))
        };
        lock(&self.open).values().filter_map(lent).collect()
    }

    /// The slot with this number, if it is of this proxy.
    pub(super) fn own(&self, number: u32) -> Option<Slot> {
        lock(&self.open).get(&number).map(|held| held.slot)
    }

    /// Whether any connection goes to another host.
    pub(super) fn has_remote(&self) -> bool {
        lock(&self.open).values().any(|held| held.wake.is_some())
    }

    /// How many are lent to clients.
    pub(super) fn lent(&self, router: &Router) -> usize {
        let state = |held: &Held| router.state(held.slot).lent;
        lock(&self.open).values().filter_map(state).filter(Lent::is_outstanding).count()
    }

    /// The kernel has left bytes on the slot's connection to the proxy.
    pub(super) fn wake(&self, number: u32, lease: u64) {
        let open = lock(&self.open);
        let held = open.get(&number).filter(|held| held.slot.is_under(lease));
        if let Some(wake) = held.and_then(|held| held.wake.as_ref()) {
            wake.notify_one();
        }
    }

    /// Makes more connections from `netns` to an endpoint, twice as many as there are: requests find none idle.
    pub(super) fn grow(&self, routed: &Arc<Routed>, netns: Netns, endpoint: u32) {
        let open = lock(&self.places).get(&(netns, endpoint)).map_or(0, |place| place.open);
        self.reach(routed, netns, endpoint, open + open.clamp(FIRST, 64));
    }

    /// Makes connections from `netns` to an endpoint until `wanted` are open.
    pub(super) fn reach(&self, routed: &Arc<Routed>, netns: Netns, endpoint: u32, wanted: usize) {
        let Some(known) = routed.known(endpoint) else { return };
        {
            let mut places = lock(&self.places);
            let place = places.entry((netns, endpoint)).or_default();
            place.wanted = place.wanted.max(wanted.min(known.pool.max.get() as usize));
            let late = place.not_before.is_some_and(|at| Instant::now() < at);
            if place.growing || late || place.open >= place.wanted {
                return;
            }
            place.growing = true;
        }
        let routed = Arc::clone(routed);
        tokio::spawn(async move {
            let mut not_before = None;
            while not_before.is_none() {
                let more = routed.slots.missing((netns, endpoint)).min(AT_ONCE);
                if more == 0 {
                    break;
                }
                let mut makers = JoinSet::new();
                for _ in 0..more {
                    let routed = Arc::clone(&routed);
                    makers.spawn(async move { make(&routed, netns, endpoint, known).await });
                }
                while let Some(made) = makers.join_next().await {
                    let pause = made.unwrap_or(Err(FAILED)).err();
                    not_before = not_before.max(pause.map(|pause| Instant::now() + pause));
                }
            }
            if let Some(place) = lock(&routed.slots.places).get_mut(&(netns, endpoint)) {
                (place.growing, place.wanted) = (false, 0);
                place.not_before = not_before;
            }
        });
    }

    fn missing(&self, place: (Netns, u32)) -> usize {
        lock(&self.places).get(&place).map_or(0, |place| place.wanted.saturating_sub(place.open))
    }

    /// Closes what was idle for long, and what goes to endpoints that take no requests any more.
    pub(super) fn look_after(&self, routed: &Arc<Routed>) {
        let mut router = lock(&routed.router);
        let now = Instant::now();
        let mut old = Vec::new();
        {
            let places = lock(&self.places);
            let mut spare: HashMap<(Netns, u32), usize> = HashMap::new();
            for held in lock(&self.open).values_mut() {
                router.mend(held.slot);
                let state = router.state(held.slot);
                if state.used != held.used {
                    (held.used, held.since) = (state.used, now);
                }
                if let Some(lent) = state.lent {
                    // In case that the event was lost.
                    if let Some(wake) = held.wake.as_ref().filter(|_| lent.copy) {
                        wake.notify_one();
                    }
                    continue;
                }
                // A namespace that was left would live on by its sockets.
                let is_left = routed.namespaces.cookie(held.place.0).is_none();
                let known = routed.known(held.place.1).filter(|_| !is_left);
                let keep = known.map_or(0, |known| known.pool.min_idle as usize);
                let timeout = known.map_or(Duration::ZERO, |known| known.pool.idle_timeout);
                let open = places.get(&held.place).map_or(0, |place| place.open);
                let gone = spare.entry(held.place).or_default();
                if known.is_none() || (now - held.since > timeout && open - *gone > keep) {
                    *gone += 1;
                    old.push(held.slot);
                }
            }
        }
        for slot in old {
            // Between the look and now it may have been lent: then it is finished first.
            if router.state(slot).lent.is_none() {
                self.drop_slot(&mut router, slot);
            }
        }
    }

    /// Closes what is not lent any more, and looks after what is, once this process has let go.
    pub(super) fn finish(&self, routed: &Routed) {
        let mut router = lock(&routed.router);
        let mut over = Vec::new();
        for held in lock(&self.open).values() {
            match router.state(held.slot).lent {
                // The event goes to the successor.
                Some(lent) if lent.copy => held.wake.iter().for_each(|wake| wake.notify_one()),
                Some(lent) if lent.is_outstanding() => {}
                _ => over.push(held.slot),
            }
        }
        for slot in over {
            self.drop_slot(&mut router, slot);
        }
    }

    /// Takes a slot out of use and closes its connection; to whom it was lent.
    pub(super) fn drop_slot(&self, router: &mut Router, slot: Slot) -> Option<Lent> {
        let lent = router.retire(slot);
        if let Some(held) = self.take(slot) {
            held.task.abort();
        }
        lent
    }

    fn take(&self, slot: Slot) -> Option<Held> {
        let mut open = lock(&self.open);
        open.get(&slot.number()).filter(|held| held.slot == slot)?;
        let held = open.remove(&slot.number())?;
        drop(open);
        self.leave(held.place);
        Some(held)
    }

    fn leave(&self, place: (Netns, u32)) {
        if let Some(place) = lock(&self.places).get_mut(&place) {
            place.open = place.open.saturating_sub(1);
        }
    }
}

/// Has the client hear that its response will not come.
pub(super) fn tell(routed: &Arc<Routed>, lent: Lent, begun: bool) {
    if let Some(handle) = routed.handle.get().cloned() {
        lock(&routed.telling).insert(lent.cookie);
        let routed = Arc::clone(routed);
        tokio::spawn(async move {
            handle.fail(lent.cookie, Reason::EndpointClosed, begun).await;
            lock(&routed.telling).remove(&lent.cookie);
        });
    }
}

/// Makes a connection; if none could be made, for how long none is to be tried.
async fn make(routed: &Arc<Routed>, netns: Netns, endpoint: u32, known: Known) -> Result<(), Duration> {
    let opened = open(routed, netns, endpoint, known.address);
    match tokio::time::timeout(known.pool.connect_timeout, opened).await {
        Ok(Ok(Armed::Here | Armed::Remote { .. })) => Ok(()),
        Ok(Ok(Armed::Elsewhere)) => Err(ELSEWHERE),
        Ok(Err(error)) => {
            tracing::debug!(%error, endpoint = %known.address, "no connection for the kernel to route over");
            Err(FAILED)
        }
        Err(_) => Err(FAILED),
    }
}

/// Makes a connection and gives it to the kernel.
async fn open(routed: &Arc<Routed>, netns: Netns, endpoint: u32, address: SocketAddr) -> io::Result<Armed> {
    let cookie = routed.namespaces.cookie(netns).ok_or_else(|| io::Error::other("the namespace was left"))?;
    let socket = routed.socket(netns, address)?;
    // Where the kernel sends requests out of it, one must never be sent in part.
    socket.set_send_buffer_size(remote::SENDING)?;
    let local = bind(routed, netns, &socket, address)?;
    let slot = {
        let mut router = lock(&routed.router);
        let slot = router.reserve(cookie, endpoint).map_err(io::Error::other)?;
        let slot = slot.ok_or_else(|| io::Error::other("all slots are in use"))?;
        router.dial(slot, local, address).map_err(io::Error::other)?;
        slot
    };
    let reserved = Reserved { routed, slot: Some(slot), local, address };
    let stream = socket.connect(address).await?;
    stream.set_nodelay(true)?;
    let armed = lock(&routed.router).arm(slot, local, address, &stream).map_err(io::Error::other)?;
    if armed != Armed::Elsewhere {
        reserved.keep();
        hold(routed, (netns, endpoint), slot, armed, stream);
    }
    Ok(armed)
}

/// The endpoint's kernel has to know a connection by its addresses before it comes.
pub(super) fn bind(
    routed: &Routed,
    netns: Netns,
    socket: &TcpSocket,
    endpoint: SocketAddr,
) -> io::Result<SocketAddr> {
    let any: SocketAddr = match endpoint {
        SocketAddr::V4(_) => (std::net::Ipv4Addr::UNSPECIFIED, 0).into(),
        SocketAddr::V6(_) => (std::net::Ipv6Addr::UNSPECIFIED, 0).into(),
    };
    let source = routed.namespaces.source(netns, endpoint)?.map_or(any, |ip| (ip, 0).into());
    socket.bind(source)?;
    socket.local_addr()
}

/// A slot whose connection is not made yet.
struct Reserved<'a> {
    routed: &'a Arc<Routed>,
    slot: Option<Slot>,
    local: SocketAddr,
    address: SocketAddr,
}

impl Reserved<'_> {
    fn keep(mut self) {
        self.slot = None;
    }
}

impl Drop for Reserved<'_> {
    fn drop(&mut self) {
        if let Some(slot) = self.slot {
            lock(&self.routed.router).release(slot, self.local, self.address);
        }
    }
}

/// Goes on with a connection of a proxy that is gone; false if it is none any more.
pub(super) fn adopt(routed: &Arc<Routed>, back: &KeptBack, socket: OwnedFd) -> bool {
    if lock(&routed.router).state(back.slot).dead {
        return false;
    }
    let Ok(stream) = of_another(socket) else { return false };
    let armed = back.remote.map_or(Armed::Here, |cookie| Armed::Remote { cookie });
    hold(routed, (back.netns, back.endpoint), back.slot, armed, stream);
    true
}

fn hold(routed: &Arc<Routed>, place: (Netns, u32), slot: Slot, armed: Armed, stream: TcpStream) {
    let weak = Arc::downgrade(routed);
    let kept = kept(routed, place, slot, armed, &stream);
    let mut open = lock(&routed.slots.open);
    let (task, wake) = match armed {
        Armed::Remote { cookie } => {
            let wake = Arc::new(Notify::new());
            let woken = Arc::clone(&wake);
            (tokio::spawn(async move { remote::attend(weak, slot, cookie, stream, woken).await }), Some(wake))
        }
        _ => (tokio::spawn(async move { attend(weak, slot, stream).await }), None),
    };
    let now = Instant::now();
    open.insert(slot.number(), Held { slot, place, task, wake, used: 0, since: now, _kept: kept });
    lock(&routed.slots.places).entry(place).or_default().open += 1;
}

/// Has the connection kept by a second descriptor, since the first goes from hand to hand.
fn kept(
    routed: &Routed,
    (netns, endpoint): (Netns, u32),
    slot: Slot,
    armed: Armed,
    stream: &TcpStream,
) -> Option<(Arc<OwnedFd>, Ticket)> {
    let remote = match armed {
        Armed::Remote { cookie } => Some(cookie),
        Armed::Here | Armed::Elsewhere => None,
    };
    let socket = Arc::new(rustix::io::fcntl_dupfd_cloexec(stream, 0).ok()?);
    let ticket = routed.handle.get()?.keep(KeptBack { slot, netns, endpoint, remote }, &socket)?;
    Some((socket, ticket))
}

/// Sleeps beside a connection that the kernel uses, until something comes by TCP: a response to carry, or the end.
async fn attend(routed: Weak<Routed>, slot: Slot, mut stream: TcpStream) {
    loop {
        if stream.readable().await.is_err() {
            break;
        }
        let Some(routed) = routed.upgrade() else { return };
        let state = lock(&routed.router).state(slot);
        match state.lent {
            Some(lent) if lent.copy && state.delivered == 0 => match carry(&routed, slot, lent, stream).await
            {
                Some(back) => stream = back,
                None => break,
            },
            _ => match has_bytes(&stream) {
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
                // They may have come since the look at the slot: the flag is set before the first of them is sent.
                Ok(true) if is_to_carry(&routed, slot) => {}
                // The endpoint has closed it, or says what nobody asked for, or what the kernel has begun to send cannot
                // be sent on.
                _ => break,
            },
        }
    }
    if let Some(routed) = routed.upgrade() {
        let owed = lock(&routed.router).state(slot).lent.map(|lent| lent.cookie);
        end(&routed, slot, owed);
    }
}

/// Whether the response on the slot is this side's from its first byte.
fn is_to_carry(routed: &Routed, slot: Slot) -> bool {
    let state = lock(&routed.router).state(slot);
    state.delivered == 0 && state.lent.is_some_and(|lent| lent.copy)
}

/// Whether there is something to read and not only the end; what there is stays where it is.
fn has_bytes(stream: &TcpStream) -> io::Result<bool> {
    stream.try_io(Interest::READABLE, || {
        let (_, length) = recv(stream, &mut [0; 1], RecvFlags::PEEK | RecvFlags::DONTWAIT)?;
        Ok(length > 0)
    })
}

/// Carries a response to its client; the connection, if another request may follow.
pub(super) async fn carry(
    routed: &Arc<Routed>,
    slot: Slot,
    lent: Lent,
    stream: TcpStream,
) -> Option<TcpStream> {
    let handle = routed.handle.get()?.clone();
    let (state, endpoint) = {
        let state = lock(&routed.router).state(slot);
        let place = lock(&routed.slots.open).get(&slot.number()).map(|held| held.place.1);
        (state, place.and_then(|endpoint| routed.known(endpoint)).map(|known| known.address))
    };
    let method = http::Method::from_bytes(state.method.as_str().as_bytes()).ok()?;
    let outcome = handle.relay(lent.cookie, stream, method, !lent.open).await?;
    let now = rustix::time::clock_gettime(rustix::time::ClockId::Monotonic);
    let now = Duration::new(now.tv_sec.unsigned_abs(), now.tv_nsec.unsigned_abs() as u32);
    let request = counters::Request {
        route: None,
        endpoint,
        status: outcome.status,
        request_bytes: state.request_bytes,
        response_bytes: outcome.bytes,
        took: now.saturating_sub(state.started),
    };
    if !outcome.is_own {
        handle.count_carried(state.service, state.route, request);
    }
    let back = outcome.back.filter(|_| outcome.complete);
    let again = back.filter(|_| lock(&routed.router).finish(slot));
    if outcome.complete {
        routed.resting(&outcome.resting);
    }
    if again.is_none() {
        // Whatever happened was told to the client by the relay.
        let lent = lock(&routed.router).retire(slot);
        routed.note_broken(lent, true);
    }
    again
}

/// The connection has ended. `owed`: who is told, if that client waits for a response.
pub(super) fn end(routed: &Arc<Routed>, slot: Slot, owed: Option<u64>) {
    let (state, lent) = {
        let mut router = lock(&routed.router);
        let state = router.state(slot);
        (state, router.retire(slot))
    };
    drop(routed.slots.take(slot));
    // Before the client can be heard: what it sends from here on is no beginning of a request.
    routed.note_broken(lent, state.delivered > 0);
    if let Some(lent) = lent.filter(|lent| lent.is_outstanding() && owed == Some(lent.cookie)) {
        tell(routed, lent, state.delivered > 0 || lent.open);
    }
}
