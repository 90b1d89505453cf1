//! The kernel side in earnest: clients whose requests the kernel routes, and the connections to endpoints that it routes
//! them over.
//!
//! The proxy owns all sockets. It listens in every network namespace that has a process in a meshed cgroup, and keeps idle
//! connections to endpoints in pools from which the kernel's programs take one for each request (a *slot*). What the
//! kernel cannot finish is told by a slot's word and by an event, and done here: carrying a response that is too large or
//! has no length, and telling a client that its response will not come.

mod bounds;
mod crowd;
mod ends;
mod namespaces;
mod remote;
mod slots;

use std::collections::{HashMap, HashSet};
use std::io;
use std::net::{IpAddr, SocketAddr};
use std::os::fd::{AsFd, OwnedFd};
use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};
use std::sync::{Arc, Mutex, OnceLock, Weak};
use std::time::{Duration, Instant};

use alize_datapath::http::{Draw, Event, Lent, Load, Predecessor, Rate, Rest, Router, RouterOptions, Slot};
use alize_model::http::{Caller, Pool};
use tokio::io::unix::AsyncFd;
use tokio::net::TcpSocket;
use tokio::sync::Notify;
use tokio::time::{MissedTickBehavior, interval};

use crate::back::lock;
use crate::keep::KeptBack;
use crate::kernel::{Accepted, Client, InForce, Kernel, Netns, Resting, Standing};
use crate::run::{Handle, Ready};

use bounds::Bounds;
use crowd::Crowd;
use ends::Ends;
use namespaces::Namespaces;
use slots::Slots;

/// How often namespaces are looked for, slots are looked after, and events are heard that nobody was woken for.
const LOOK: Duration = Duration::from_secs(1);
/// So many looks in a row must find that the data path is another than was opened: an upgrade may be at work.
const REMOVED_LOOKS: u32 = 3;

/// How often a proxy that has let go looks after what is still lent: nothing wakes it.
const FINISHING: Duration = Duration::from_millis(10);

/// A slot is free again a moment before its response has come to the client: what the program decides is done by the
/// endpoint's thread after the program has ended (net/ipv4/tcp_bpf.c, tcp_bpf_send_verdict), and that thread may have to
/// wait for a processor. What else is said to the client must not overtake it, so a client that does not wait for its
/// response is kept waiting for so long.
const DELIVERY: Duration = Duration::from_millis(50);

/// As [`DELIVERY`] for responses from other hosts, which a kernel thread puts into the client's socket (net/core/skmsg.c,
/// sk_psock_backlog): it waits for a processor like any other. 50 ms were not enough for it at a load of 9 on two.
const REMOTE_DELIVERY: Duration = Duration::from_millis(300);

/// What is meshed.
#[derive(Clone, Debug)]
pub struct Meshed {
    /// Name of the instance.
    pub instance: String,
    /// Mount point of bpffs.
    pub bpffs: PathBuf,
    /// The meshed cgroups: where their processes have a network namespace, the proxy listens.
    pub cgroups: Vec<PathBuf>,
}

/// Why the kernel side could not be opened.
#[derive(Debug, thiserror::Error)]
pub enum RoutedError {
    /// There is no data path, or not all of it.
    #[error("{0}; is the agent of this instance loaded? `alize status` tells")]
    DataPath(#[from] alize_datapath::Error),
    /// Something of the system's.
    #[error("cannot {what}: {source}")]
    System {
        /// What was tried.
        what: &'static str,
        /// What happened.
        source: io::Error,
    },
}

/// An endpoint as the state names it.
#[derive(Clone, Copy, Debug)]
struct Known {
    address: SocketAddr,
    pool: Pool,
}

/// Those of the state in force that take requests. Sorted and not hashed: there are thousands, which stay for long.
#[derive(Default)]
struct Endpoints {
    /// By number of the kernel's.
    places: Box<[Place]>,
    /// By service.
    pools: Box<[(u32, Pool)]>,
    /// Service and number.
    by_service: Box<[(u32, u32)]>,
}

struct Place {
    number: u32,
    service: u32,
    address: SocketAddr,
}

impl Endpoints {
    fn new(endpoints: &[InForce]) -> Self {
        let place = |one: &InForce| Place { number: one.number, service: one.service, address: one.address };
        let mut places: Vec<_> = endpoints.iter().map(place).collect();
        places.sort_unstable_by_key(|place| place.number);
        let mut pools: Vec<_> = endpoints.iter().map(|one| (one.service, one.pool)).collect();
        pools.sort_unstable_by_key(|(service, _)| *service);
        pools.dedup_by_key(|(service, _)| *service);
        let mut by_service: Vec<_> = endpoints.iter().map(|one| (one.service, one.number)).collect();
        by_service.sort_unstable();
        Self { places: places.into(), pools: pools.into(), by_service: by_service.into() }
    }

    fn pool(&self, service: u32) -> Option<Pool> {
        let at = self.pools.binary_search_by_key(&service, |(service, _)| *service).ok()?;
        Some(self.pools[at].1)
    }

    fn get(&self, number: u32) -> Option<Known> {
        let at = self.places.binary_search_by_key(&number, |place| place.number).ok()?;
        let place = &self.places[at];
        Some(Known { address: place.address, pool: self.pool(place.service)? })
    }

    fn of(&self, service: u32) -> Vec<(u32, Pool)> {
        let Some(pool) = self.pool(service) else { return Vec::new() };
        let first = self.by_service.partition_point(|(other, _)| *other < service);
        let own = self.by_service[first..].iter().take_while(|(other, _)| *other == service);
        own.map(|(_, number)| (*number, pool)).collect()
    }
}

/// A client with a connection here.
struct Visitor {
    netns: Netns,
    /// The kernel has said of bytes that it let pass that no response is outstanding. It holds until the connection is next
    /// said to rest, for only then the kernel may take a request.
    owed_nothing: bool,
}

/// The kernel side of a mesh that is loaded.
pub struct Routed {
    router: Mutex<Router>,
    bounds: Bounds,
    namespaces: Namespaces,
    slots: Slots,
    endpoints: Mutex<Endpoints>,
    /// Clients that the kernel may serve.
    crowd: Crowd,
    /// This, for the tasks that it starts.
    own: Weak<Routed>,
    /// Of connections that the kernel reads from.
    ends: Arc<Ends>,
    /// Clients with a connection here.
    clients: Mutex<HashMap<u64, Visitor>>,
    /// Clients that are gone, and what is lent to them is not taken back yet.
    departed: Mutex<HashMap<u64, Option<(Netns, u32)>>>,
    /// Clients that are about to be told that their response will not come.
    telling: Mutex<HashSet<u64>>,
    /// Clients whose request cannot be finished, and whether the response to it has begun.
    broken: Mutex<HashMap<u64, bool>>,
    /// Clients that did not wait for a response before they sent more, or sent no more: when it has come to them, once it was
    /// seen to have ended. They stay with the proxy.
    impatient: Mutex<HashMap<u64, Option<Instant>>>,
    handle: OnceLock<Handle>,
    /// A state is in force: before there is one nobody could be served.
    informed: AtomicBool,
    /// The process is about to end.
    has_let_go: AtomicBool,
    /// Looks in a row at which the data path that was opened was not the one that is pinned.
    unpinned_looks: AtomicU32,
    /// Something has happened that makes it worth looking before it is time.
    sooner: Notify,
}

impl Routed {
    /// Opens the data path of an instance, and changes nothing.
    pub fn open(meshed: Meshed) -> Result<Arc<Self>, RoutedError> {
        let options = RouterOptions { instance: meshed.instance, bpffs: meshed.bpffs };
        let router = Router::open(&options)?;
        let ends = Ends::new();
        let ends =
            ends.map_err(|source| RoutedError::System { what: "watch for the end of connections", source })?;
        Ok(Arc::new_cyclic(|own| Self {
            own: own.clone(),
            crowd: Crowd::default(),
            router: Mutex::new(router),
            bounds: Bounds::open(&options),
            namespaces: Namespaces::new(meshed.cgroups),
            slots: Slots::default(),
            ends: Arc::new(ends),
            endpoints: Mutex::default(),
            clients: Mutex::default(),
            departed: Mutex::default(),
            telling: Mutex::default(),
            broken: Mutex::default(),
            impatient: Mutex::default(),
            handle: OnceLock::new(),
            informed: AtomicBool::new(false),
            has_let_go: AtomicBool::new(false),
            unpinned_looks: AtomicU32::new(0),
            sooner: Notify::new(),
        }))
    }

    /// Takes over from the proxy before, begins to listen in every namespace, once there is a state in force, and to look
    /// after slots; to be called when the proxy is ready.
    pub fn start(self: &Arc<Self>, ready: Ready) -> Result<(), RoutedError> {
        let system = |source| RoutedError::System { what: "listen to the kernel's events", source };
        let ring = readable(&*lock(&self.router)).map_err(system)?;
        let ends = readable(&*self.ends).map_err(system)?;
        let Ready { handle, succeeded, backs, mut namespaces, .. } = ready;
        let handle = self.handle.get_or_init(|| handle);
        let before = if succeeded { Predecessor::Finishing } else { Predecessor::Gone };
        lock(&self.router).take_over(before, &backs.iter().map(|(back, _)| back.slot).collect())?;
        self.adopt(backs);
        if !succeeded {
            self.abandon();
        }
        // A successor listens in the same places, at the sockets that it was given: no connection is balanced as a whole
        // meanwhile. Where the proxy before was killed, and its listeners were not kept, nobody listens any more.
        self.look();
        namespaces.extend(self.namespaces.cookies());
        lock(&self.router).listen_only(&namespaces)?;
        if succeeded {
            self.namespaces.leave_others(handle);
        }
        let routed = Arc::clone(self);
        tokio::spawn(async move { routed.watch(ring, ends).await });
        Ok(())
    }

    /// Goes on with connections to endpoints of a proxy that is gone.
    fn adopt(self: &Arc<Self>, backs: Vec<(KeptBack, OwnedFd)>) {
        for (back, socket) in backs {
            let lent = lock(&self.router).state(back.slot).lent;
            // How much of a response was read that is to be carried, nobody knows.
            let is_torn = lent.is_some_and(|lent| lent.copy);
            if is_torn || !slots::adopt(self, &back, socket) {
                slots::end(self, back.slot, lent.map(|lent| lent.cookie));
            }
        }
    }

    /// Clients whose request was on a connection that is gone with its proxy are told: they may wait in a listener still.
    fn abandon(self: &Arc<Self>) {
        let abandoned = lock(&self.router).abandon();
        for (lent, has_begun) in abandoned {
            self.tell_lost(lent, has_begun);
        }
    }

    fn tell_lost(self: &Arc<Self>, lent: Lent, has_begun: bool) {
        self.note_broken(Some(lent), has_begun);
        slots::tell(self, lent, has_begun || lent.open);
    }

    async fn watch(self: Arc<Self>, ring: AsyncFd<OwnedFd>, ends: AsyncFd<OwnedFd>) {
        let mut look = interval(LOOK);
        look.set_missed_tick_behavior(MissedTickBehavior::Delay);
        while !self.has_let_go.load(Ordering::Acquire) {
            tokio::select! {
                ready = ring.readable() => match ready {
                    // Cleared before the ring is read: what comes meanwhile wakes again.
                    Ok(mut ready) => ready.clear_ready(),
                    Err(_) => return,
                },
                ready = ends.readable() => match ready {
                    Ok(mut ready) => {
                        ready.clear_ready();
                        self.ends.tell();
                    }
                    Err(_) => return,
                },
                _ = look.tick() => {
                    self.look_at_pins();
                    self.look();
                }
                () = self.sooner.notified() => self.look(),
            }
            self.hear();
        }
        self.finish(ends).await;
    }

    /// What is lent when this process has let go comes to its end.
    async fn finish(self: Arc<Self>, ends: AsyncFd<OwnedFd>) {
        let mut step = interval(FINISHING);
        step.set_missed_tick_behavior(MissedTickBehavior::Delay);
        loop {
            tokio::select! {
                ready = ends.readable() => match ready {
                    Ok(mut ready) => ready.clear_ready(),
                    Err(_) => return,
                },
                _ = step.tick() => {}
            }
            self.ends.tell();
            self.slots.finish(&self);
        }
    }

    fn look_at_pins(&self) {
        match lock(&self.router).is_pinned() {
            Ok(true) => self.unpinned_looks.store(0, Ordering::Release),
            Ok(false) => drop(self.unpinned_looks.fetch_add(1, Ordering::AcqRel)),
            // It is not known, and may be tomorrow.
            Err(error) => tracing::debug!(%error, "cannot look at the pins"),
        }
    }

    fn look(self: &Arc<Self>) {
        let Some(handle) = self.handle.get().filter(|_| self.informed.load(Ordering::Acquire)) else {
            return;
        };
        self.namespaces.refresh(&lock(&self.router), handle);
        lock(&self.router).tidy();
        self.bounds.look_after();
        self.slots.look_after(self);
        self.reclaim();
    }

    /// Pools of namespaces and endpoints that are gone make room for others.
    fn reclaim(&self) {
        let namespaces: HashSet<u64> = self.namespaces.cookies().into_iter().collect();
        let mut router = lock(&self.router);
        let endpoints = lock(&self.endpoints);
        let used = |netns, endpoint| namespaces.contains(&netns) && endpoints.get(endpoint).is_some();
        if let Err(error) = router.reclaim(used) {
            tracing::warn!("pools of endpoints that are gone stay: {error}");
        }
    }

    /// Deals with what the kernel has told.
    fn hear(&self) {
        let events = lock(&self.router).events();
        for event in events {
            match event {
                Event::Passed { reason: "endpoint-gone" | "excess", cookie, slot: Some(number) } => {
                    self.give_up(number, cookie);
                }
                Event::Passed { reason: "pipelined", cookie, slot: Some(_) } => {
                    lock(&self.impatient).entry(cookie).or_default();
                }
                Event::Passed { cookie, slot: None, .. } => {
                    self.owes_nothing(cookie);
                }
                Event::Passed { .. } => {}
                Event::Remote { slot, lease } => self.slots.wake(slot, lease),
                Event::PoolEmpty { cookie, endpoint } => {
                    let netns = self.owes_nothing(cookie);
                    if let Some((netns, routed)) = netns.zip(self.own.upgrade()) {
                        self.slots.grow(&routed, netns, endpoint);
                    }
                }
                Event::NoListener { pid, .. } => {
                    if let Some(handle) = self.handle.get().filter(|_| self.informed.load(Ordering::Acquire))
                    {
                        self.namespaces.visit(pid, &lock(&self.router), handle);
                    }
                }
            }
        }
    }

    /// The kernel has let bytes of a client pass while no response was outstanding; where the client is.
    fn owes_nothing(&self, cookie: u64) -> Option<Netns> {
        let mut clients = lock(&self.clients);
        let visitor = clients.get_mut(&cookie)?;
        visitor.owed_nothing = true;
        Some(visitor.netns)
    }

    /// What a client has begun on a slot cannot be finished. What it has been lent since is another matter.
    fn give_up(&self, number: u32, cookie: u64) {
        let mut router = lock(&self.router);
        let lent_to = |slot: &Slot| router.state(*slot).lent.is_some_and(|lent| lent.cookie == cookie);
        if let Some(slot) = self.slots.own(number).filter(lent_to) {
            let begun = router.state(slot).delivered > 0;
            let lent = self.slots.drop_slot(&mut router, slot);
            self.note_broken(lent, begun);
        }
    }

    /// Of a slot that was taken out of use: if its client has sent a part of a request, what it sends now is the rest.
    fn note_broken(&self, lent: Option<Lent>, begun: bool) {
        lock(&self.broken).extend(lent.filter(|lent| lent.open).map(|lent| (lent.cookie, begun)));
    }

    /// Takes back what is lent to clients that are gone.
    fn take_back(self: &Arc<Self>) {
        let departed = std::mem::take(&mut *lock(&self.departed));
        let mut short = HashSet::new();
        {
            let mut router = lock(&self.router);
            for (slot, cookie) in self.slots.lent_to_any(&router, &departed) {
                self.slots.drop_slot(&mut router, slot);
                short.extend(departed.get(&cookie).copied().flatten());
            }
        }
        for (netns, service) in short {
            self.replace(netns, service);
        }
    }

    /// How long a response may be on its way to its client after it has ended.
    fn delivery(&self) -> Duration {
        if self.slots.has_remote() { REMOTE_DELIVERY } else { DELIVERY }
    }

    fn known(&self, endpoint: u32) -> Option<Known> {
        lock(&self.endpoints).get(endpoint)
    }

    /// The slot on which a response to the client is outstanding.
    fn lent_to(&self, cookie: u64) -> Option<Slot> {
        self.slots.find(&lock(&self.router), cookie)
    }
}

/// Waits until `of` is readable, on a descriptor of its own.
fn readable(of: impl AsFd) -> io::Result<AsyncFd<OwnedFd>> {
    let own = rustix::io::dup(of)?;
    #[expect(
        deprecated,
        reason = "what replaces it is unsafe; the descriptor is owned, and closed with this"
    )]
    AsyncFd::with_interest(own, tokio::io::Interest::READABLE)
}

impl Kernel for Routed {
    fn identify(&self, accepted: &Accepted) -> Option<Client> {
        let netns = self.namespaces.cookie(accepted.netns)?;
        let front = lock(&self.router).front(netns, accepted.peer).ok().flatten()?;
        if let Some(routed) = self.own.upgrade().filter(|_| front.eligible) {
            routed.expect(front.cookie, accepted.netns, front.service);
        }
        Some(Client { service: front.service, cookie: front.cookie })
    }

    fn is_removed(&self) -> bool {
        self.unpinned_looks.load(Ordering::Acquire) >= REMOVED_LOOKS
    }

    fn rests(&self, client: &Client, read: u64, written: u64) -> bool {
        let known = Rest { read: read as u32, written: written as u32 };
        lock(&self.router).rest_of(client.cookie).unwrap_or_default() == known
    }

    fn caller(&self, netns: Netns, address: IpAddr) -> Caller {
        Caller { netns: self.namespaces.cookie(netns).unwrap_or(netns.0), address }
    }

    fn draw(&self, rates: [Option<Rate>; 2], caller: &Caller) -> Option<Draw> {
        self.bounds.draw(rates, caller)
    }

    fn load(&self, endpoint: u32) -> Option<Load> {
        self.bounds.load(endpoint)
    }

    fn joined(&self, client: &Client, netns: Netns) {
        lock(&self.clients).insert(client.cookie, Visitor { netns, owed_nothing: false });
        // Of one that was handed over. Who was accepted here is expected already.
        if !self.crowd.knows(client.cookie)
            && lock(&self.router).is_open(client.cookie)
            && let Some(routed) = self.own.upgrade()
        {
            routed.expect(client.cookie, netns, client.service);
        }
    }

    fn socket(&self, netns: Netns, endpoint: SocketAddr) -> io::Result<TcpSocket> {
        self.namespaces.socket(netns, endpoint)
    }

    fn dialling(
        &self,
        netns: Netns,
        socket: &TcpSocket,
        endpoint: SocketAddr,
    ) -> io::Result<Option<SocketAddr>> {
        let local = slots::bind(self, netns, socket, endpoint)?;
        lock(&self.router).dial_own(local, endpoint).map_err(io::Error::other)?;
        Ok(Some(local))
    }

    fn dialled(&self, local: SocketAddr, endpoint: SocketAddr) {
        if let Err(error) = lock(&self.router).dialled_own(local, endpoint) {
            tracing::warn!("a connection to {endpoint} stays announced: {error}");
        }
    }

    fn resting(&self, front: &Resting) {
        if lock(&self.impatient).contains_key(&front.client.cookie) {
            return;
        }
        // What was said so far is of bytes before this.
        self.hear();
        if let Some(visitor) = lock(&self.clients).get_mut(&front.client.cookie) {
            visitor.owed_nothing = false;
        }
        let rest = Rest { read: front.read as u32, written: front.written as u32 };
        if let Err(error) = lock(&self.router).rest(front.client.cookie, rest) {
            tracing::debug!(%error, "a client's requests stay with the proxy");
        }
    }

    fn standing(&self, client: &Client) -> Standing {
        self.hear();
        if let Some(begun) = lock(&self.broken).get(&client.cookie) {
            return Standing::Broken { begun: *begun };
        }
        // Most are told of by the kernel, and only else all slots are looked at.
        let is_clear = lock(&self.clients).get(&client.cookie).is_some_and(|visitor| visitor.owed_nothing);
        let lent = if is_clear { None } else { self.lent_to(client.cookie) };
        let Some(slot) = lent else {
            let mut impatient = lock(&self.impatient);
            let Some(delivered) = impatient.get_mut(&client.cookie) else { return Standing::Settled };
            let delivered = *delivered.get_or_insert_with(|| Instant::now() + self.delivery());
            return if Instant::now() >= delivered { Standing::Settled } else { Standing::Owed };
        };
        let mut router = lock(&self.router);
        if router.is_open(client.cookie) {
            // Of a response that is carried here the client has seen the end, perhaps before the slot is back.
            if router.state(slot).lent.is_some_and(|lent| !lent.copy) {
                lock(&self.impatient).insert(client.cookie, None);
            }
            return Standing::Owed;
        }
        self.slots.drop_slot(&mut router, slot);
        Standing::Settled
    }

    fn owes(&self, client: &Client) -> bool {
        // Whoever is to be told stays: the successor would not know of it.
        self.lent_to(client.cookie).is_some()
            || lock(&self.telling).contains(&client.cookie)
            || lock(&self.broken).contains_key(&client.cookie)
    }

    fn is_there(&self, cookie: u64) -> bool {
        lock(&self.router).is_open(cookie)
    }

    fn may_be_owed(&self, client: &Client) -> Duration {
        if lock(&self.router).is_open(client.cookie) { self.delivery() } else { Duration::ZERO }
    }

    fn gone(&self, client: &Client) {
        self.crowd.leave(client.cookie);
        let visitor = lock(&self.clients).remove(&client.cookie);
        lock(&self.broken).remove(&client.cookie);
        lock(&self.impatient).remove(&client.cookie);
        if let Err(error) = lock(&self.router).forget(client.cookie) {
            tracing::debug!(%error, "what is known of a client that is gone stays in the kernel");
        }
        // Clients go in crowds, and each look at all slots is for all that have gone until then.
        let is_first = {
            let mut departed = lock(&self.departed);
            departed.insert(client.cookie, visitor.map(|visitor| (visitor.netns, client.service)));
            departed.len() == 1
        };
        match (self.own.upgrade(), tokio::runtime::Handle::try_current()) {
            (Some(routed), Ok(runtime)) if is_first => {
                runtime.spawn(async move { routed.take_back() });
            }
            (_, Ok(_)) => {}
            // The runtime ends, and all connections with it.
            (_, Err(_)) => lock(&self.departed).clear(),
        }
    }

    fn let_go(&self, succeeded: bool) {
        self.hear();
        let mut router = lock(&self.router);
        if !succeeded {
            self.namespaces.silence(&router);
        }
        if let Err(error) = router.let_go() {
            tracing::warn!("connections that are being made stay announced: {error}");
        }
        self.has_let_go.store(true, Ordering::Release);
        self.sooner.notify_one();
    }

    fn lost(&self, slot: Slot) {
        let abandoned = lock(&self.router).abandon_slot(slot);
        if let (Some((lent, has_begun)), Some(routed)) = (abandoned, self.own.upgrade()) {
            routed.tell_lost(lent, has_begun);
        }
    }

    fn lent(&self) -> usize {
        self.slots.lent(&lock(&self.router))
    }

    fn applied(&self, endpoints: &[InForce]) {
        *lock(&self.endpoints) = Endpoints::new(endpoints);
        if self.informed.swap(true, Ordering::AcqRel) {
            return;
        }
        // At once where that is possible: connections may be waiting in listeners that were kept.
        match (self.own.upgrade(), tokio::runtime::Handle::try_current()) {
            (Some(routed), Ok(_)) => routed.look(),
            _ => self.sooner.notify_one(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn endpoints_are_found_by_number_and_by_service() {
        let pools = [1, 2].map(|min_idle| Pool { min_idle, ..Pool::default() });
        let place = |service: u32, number: u32| InForce {
            service,
            number,
            address: ([127, 0, 0, 1], number as u16).into(),
            pool: pools[service as usize - 3],
        };
        let endpoints = Endpoints::new(&[place(4, 7), place(3, 9), place(4, 2), place(3, 1)]);
        let numbers = |service| endpoints.of(service).iter().map(|(number, _)| *number).collect::<Vec<_>>();
        assert_eq!((numbers(3), numbers(4), numbers(5)), (vec![1, 9], vec![2, 7], vec![]));
        let known = endpoints.get(7).expect("it is there");
        assert_eq!((known.address.port(), known.pool), (7, pools[1]));
        assert!(endpoints.get(3).is_none() && Endpoints::default().of(3).is_empty());
    }
}
