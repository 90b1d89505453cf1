//! The proxy's side: it owns the sockets, lends connections to endpoints to the kernel's programs, and takes them back.
//!
//! A *slot* is one connection to an endpoint. Idle slots lie in pools, one for each network namespace and endpoint, from
//! which the programs take them; the word of a slot says who has it, and both sides change it by compare-and-swap only.
//! Rules that keep responses from going astray:
//! - A slot whose connection ends, for whatever reason, is dead from then on ([`Router::retire`]), and its number is used
//!   again only when it is in no pool.
//! - Its generation changes with each connection, so a program that still works for the old one can do nothing.

use std::collections::{HashMap, HashSet, VecDeque};
use std::net::SocketAddr;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd};
use std::path::PathBuf;
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use alize_model::http::Method;
use libbpf_rs::libbpf_sys::BPF_SK_SKB_STREAM_VERDICT;
use libbpf_rs::{MapHandle, RingBuffer, RingBufferBuilder};
use rustix::net::sockopt::socket_cookie;

use super::abi::{
    BUSY, COOKIE_SHIFT, COPY, DEAD, FLAGS, GENERATION_BITS, GENERATION_SHIFT, HEAD_SLOT_BITS, LOST, OPEN,
    OUT, http_dial_key, http_event, http_far, http_front, http_front_key, http_listener, http_pool_key,
    http_reason, http_rest,
};
use super::programs::has_program;
use super::shared::{PoolCell, Shared, SlotCell};
use crate::abi::{NONE, Plain, address_words};
use crate::error::io_error;
use crate::grace;
use crate::maps::Map;
use crate::pin::Pins;
use crate::{Error, Options};

/// Which data path.
#[derive(Clone, Debug)]
pub struct RouterOptions {
    /// Name of the instance.
    pub instance: String,
    /// Mount point of bpffs.
    pub bpffs: PathBuf,
}

/// The number of a slot.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Slot(u32);

/// The client behind a connection that the proxy has accepted.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Front {
    /// Cookie of the client's socket, by which the kernel knows it.
    pub cookie: u64,
    /// Number of the service that was dialled.
    pub service: u32,
    /// Whether the kernel may route its requests.
    pub eligible: bool,
}

/// How many bytes the proxy has read from and written to a client's connection when all exchanges on it were complete.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Rest {
    /// Modulo 2^32.
    pub read: u32,
    /// Modulo 2^32.
    pub written: u32,
}

/// Where an armed slot's endpoint is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Armed {
    /// On this host, in a meshed cgroup: the slot is in its pool, and the kernel may lend it.
    Here,
    /// Elsewhere: the slot is in its pool too, and what is sent and received on its connection is the kernel's. Each piece
    /// of a response wakes who waits for bytes: wait for its end alone, and for [`Event::Remote`].
    Remote {
        /// Of the connection's socket, for [`Router::disarm`].
        cookie: u64,
    },
    /// Elsewhere, and the kernel cannot use it; the slot is the caller's to retire.
    Elsewhere,
}

/// To whom a slot is lent.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Lent {
    /// Cookie of the client.
    pub cookie: u64,
    /// A response is outstanding.
    pub busy: bool,
    /// The request's body has not been sent whole.
    pub open: bool,
    /// The proxy carries the response.
    pub copy: bool,
}

/// What is known of a slot at one moment.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SlotState {
    /// `None`: idle, or dead.
    pub lent: Option<Lent>,
    /// Its connection must not be used any more.
    pub dead: bool,
    /// Of [`Armed::Remote`]: the endpoint has closed, or said what nobody asked for.
    pub ended: bool,
    /// The service of the request.
    pub service: u32,
    /// The rule of the request, its place in the service's routes.
    pub route: u32,
    /// Method of the request.
    pub method: Method,
    /// Bytes of the response that the kernel has given to the client.
    pub delivered: u64,
    /// Name of the reason why the proxy carries the response.
    pub reason: &'static str,
    /// When the request began, of the monotonic clock.
    pub started: Duration,
    /// Requests that it has served.
    pub used: u64,
    /// Bytes of the request.
    pub request_bytes: u64,
}

/// What the kernel has to say to the proxy.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Event {
    /// What the client sends now comes by TCP.
    Passed {
        /// Cookie of the client.
        cookie: u64,
        /// Name of the reason.
        reason: &'static str,
        /// A slot on which a response to the client is outstanding, or whose request cannot be finished.
        slot: Option<Slot>,
    },
    /// As `Passed`, because no connection to the endpoint was idle.
    PoolEmpty {
        /// Cookie of the client.
        cookie: u64,
        /// Number of the endpoint.
        endpoint: u32,
    },
    /// Bytes on the connection of a slot that is [`Armed::Remote`] are the proxy's: a response to carry, or what it must not
    /// be used after.
    Remote {
        /// Which.
        slot: Slot,
        /// Of the slot's word, for [`Router::is_under`].
        lease: u64,
    },
    /// A connection was made in a network namespace where the proxy does not listen.
    NoListener {
        /// Cookie of the namespace.
        netns: u64,
        /// A process in it.
        pid: u32,
    },
}

/// Events taken over at once.
const AT_ONCE: usize = 4096;

/// The names of `enum http_reason`, in its order.
pub(crate) const REASONS: [&str; super::abi::REASONS] = [
    "none",
    "not-eligible",
    "busy",
    "split-head",
    "method",
    "target",
    "odd-path",
    "version",
    "field",
    "too-many-fields",
    "host",
    "content-length",
    "transfer-encoding",
    "upgrade",
    "expect",
    "trailers",
    "connection-option",
    "large",
    "pipelined",
    "unread",
    "route",
    "pool-empty",
    "no-endpoint",
    "endpoint-gone",
    "remote",
    "response-status",
    "response-unframed",
    "excess",
    "no-proxy",
    "rate-limited",
    "rate-limit-full",
    "circuit-open",
];

/// The name of reason number `number`, why a message is the proxy's.
pub fn reason_name(number: u32) -> &'static str {
    REASONS.get(number as usize).copied().unwrap_or("unknown")
}

/// The data path as the proxy sees it.
pub struct Router {
    slots: Shared<SlotCell>,
    heads: Shared<PoolCell>,
    pools: Map<http_pool_key, u32>,
    listeners: Map<u64, http_listener>,
    fronts: Map<http_front_key, http_front>,
    rests: Map<u64, http_rest>,
    dials: Map<http_dial_key, u32>,
    remote: Option<Remote>,
    clients: Map<u64, u64>,
    load: Map<u32, u32>,
    ring: RingBuffer<'static>,
    /// Filled by the ring's callback, which must not borrow anything.
    received: Arc<Mutex<Vec<Event>>>,
    events: MapHandle,
    /// Numbers of pools that were made by this process.
    known: HashMap<(u64, u32), u32>,
    next_pool: u32,
    /// The longest unused first.
    free: VecDeque<u32>,
    /// In no pool any more, but a program that took one of them before it was retired may still be at work.
    resting: Vec<u32>,
    /// Retired while in a pool: their numbers are free once the programs have found them there.
    buried: Vec<u32>,
    /// Lent by the proxy before this one.
    foreign: Vec<u32>,
    /// Clients of the proxy before this one, of which something is kept; those that were handed over are forgotten like others.
    strangers: Vec<u64>,
    /// Armed and not retired: a program may have found one dead before this side retires it.
    armed: HashSet<u32>,
}

/// Where connections to endpoints without a socket here are given to the kernel.
struct Remote {
    /// 0: whether that was tried, and may be done.
    allowed: Map<u32, u32>,
    sockets: Map<u32, u64>,
    backs: Map<u64, http_far>,
}

impl Router {
    /// Opens what the agent has pinned. Idle slots of the proxy before are dead, its pools empty; its listeners may still take
    /// connections, see [`Self::listen_only`].
    pub fn open(options: &RouterOptions) -> Result<Self, Error> {
        let pins = Pins::new(&Options {
            instance: options.instance.clone(),
            bpffs: options.bpffs.clone(),
            run_dir: PathBuf::new(),
            cgroups: Vec::new(),
            budgets: alize_model::Budgets::default(),
        })?;
        let handle = |name: &str| {
            let path = pins.map(name);
            MapHandle::from_pinned_path(&path).map_err(|e| Error::path("cannot open map", &path, io_error(e)))
        };
        let slots = Shared::whole(&Map::new(handle("http_slots")?)?)?;
        let heads = Shared::whole(&Map::new(handle("http_pool_heads")?)?)?;
        let received: Arc<Mutex<Vec<Event>>> = Arc::default();
        let events = handle("http_events")?;
        let mut router = Self {
            pools: Map::new(handle("http_pools")?)?,
            listeners: Map::new(handle("http_listeners")?)?,
            fronts: Map::new(handle("http_fronts")?)?,
            rests: Map::new(handle("http_rests")?)?,
            dials: Map::new(handle("http_dials")?)?,
            remote: remote(&pins, &handle)?,
            clients: Map::new(handle("http_client_sockets")?)?,
            load: Map::new(handle("http_load")?)?,
            ring: ring(&events, &received)?,
            received,
            events,
            known: HashMap::new(),
            next_pool: 0,
            free: VecDeque::new(),
            resting: Vec::new(),
            buried: Vec::new(),
            foreign: Vec::new(),
            strangers: Vec::new(),
            armed: HashSet::new(),
            slots,
            heads,
        };
        router.forget_all()?;
        Ok(router)
    }

    fn forget_all(&mut self) -> Result<(), Error> {
        // Whatever the proxy before was about to connect is not for this one.
        let mut dials = Vec::new();
        self.dials.for_each(|key, _| dials.push(key))?;
        self.dials.delete_all(dials.into_iter())?;
        let mut strangers = Vec::new();
        self.rests.for_each(|key, _| strangers.push(key))?;
        self.strangers = strangers;
        let mut pools = Vec::new();
        self.pools.for_each(|key, _| pools.push(key))?;
        self.pools.delete_all(pools.into_iter())?;
        for number in 0..self.heads.count() {
            if let Some(pool) = self.heads.get(number) {
                while self.pop(pool).is_some() {}
            }
        }
        for number in 0..self.slots.count() {
            let Some(cell) = self.slots.get(number) else { continue };
            let word = cell.state.load(Ordering::Acquire);
            let lent = word >> COOKIE_SHIFT != 0 && word & DEAD == 0;
            let dead = word | DEAD | OUT;
            // What is lent is finished by the proxy before, if that still lives.
            if !lent && cell.state.compare_exchange(word, dead, Ordering::AcqRel, Ordering::Acquire).is_ok() {
                self.free.push_back(number);
            } else {
                self.foreign.push(number);
            }
        }
        self.forget_backs()
    }

    /// Forgets back sockets of a proxy that was killed. Those of slots that are lent may live in the proxy before this one.
    fn forget_backs(&self) -> Result<(), Error> {
        let Some(remote) = &self.remote else { return Ok(()) };
        let mut gone = Vec::new();
        remote.backs.for_each(|cookie, backs| {
            let slot = backs.first().map_or(NONE, |back| back.slot);
            if !self.foreign.contains(&slot) {
                gone.push(cookie);
            }
        })?;
        remote.backs.delete_all(gone.into_iter())
    }

    /// Takes over slots of the proxy before whose clients are gone, or that were finished.
    fn inherit(&mut self) {
        let mut left = std::mem::take(&mut self.foreign);
        left.retain(|&number| {
            let Some(cell) = self.slots.get(number) else { return false };
            let word = cell.state.load(Ordering::Acquire);
            let cookie = word >> COOKIE_SHIFT;
            if word & DEAD == 0 && cookie != 0 && self.is_open(cookie) {
                return true;
            }
            match word & DEAD {
                0 => drop(self.retire(Slot(number))),
                _ => self.buried.push(number),
            }
            false
        });
        self.foreign = left;
    }

    /// Takes over what the proxy before this one has left of clients that are gone by now; to be called now and then.
    pub fn tidy(&mut self) {
        self.inherit();
        let (left, gone) =
            std::mem::take(&mut self.strangers).into_iter().partition(|cookie| self.is_open(*cookie));
        self.strangers = left;
        let gone: Vec<u64> = gone;
        for cookie in gone {
            if let Err(error) = self.forget(cookie) {
                tracing::debug!("what is known of a client that is gone stays in the kernel: {error}");
            }
        }
    }

    /// Tells connects in the network namespace with cookie `netns` where the proxy listens on loopback.
    pub fn listen(&self, netns: u64, port4: Option<u16>, port6: Option<u16>) -> Result<(), Error> {
        let port = |port: Option<u16>| port.unwrap_or(0).to_be();
        let listener = http_listener { port4: port(port4), port6: port(port6), zero: 0 };
        self.listeners.put_all([(netns, listener)].into_iter())
    }

    /// Forgets the listeners in other namespaces than these: of a proxy before, that was killed.
    pub fn listen_only(&self, netns: &[u64]) -> Result<(), Error> {
        let mut others = Vec::new();
        self.listeners.for_each(|key, _| {
            if !netns.contains(&key) {
                others.push(key);
            }
        })?;
        self.listeners.delete_all(others.into_iter())
    }

    /// Connections from the network namespace are balanced as a whole from now on.
    pub fn silence(&self, netns: u64) -> Result<(), Error> {
        self.listeners.delete_all([netns].into_iter())
    }

    /// The client behind a connection that was accepted in the network namespace `netns` from `client`; it is told once.
    pub fn front(&self, netns: u64, client: SocketAddr) -> Result<Option<Front>, Error> {
        let key = http_front_key {
            netns,
            address: address_words(client.ip()),
            port: client.port().to_be(),
            zero: [0; 6],
        };
        let found = self.fronts.get(&key)?;
        if found.is_some() {
            self.fronts.delete_all([key].into_iter())?;
        }
        Ok(found.map(|front| Front {
            cookie: front.cookie,
            service: front.service,
            eligible: front.eligible != 0,
        }))
    }

    /// Lets the kernel route the client's next request, if nothing but what `rest` counts has gone by TCP.
    pub fn rest(&self, cookie: u64, rest: Rest) -> Result<(), Error> {
        let rest = http_rest { read: rest.read, written: rest.written };
        self.rests.put_all([(cookie, rest)].into_iter())
    }

    /// The client's connection is gone.
    pub fn forget(&self, cookie: u64) -> Result<(), Error> {
        self.rests.delete_all([cookie].into_iter())
    }

    /// Whether the client's socket has not been closed. One that only sends no more (shutdown) still reads.
    pub fn is_open(&self, cookie: u64) -> bool {
        self.clients.get(&cookie).ok().flatten().is_some()
    }

    /// Hands over what has happened since the last call. Does not block.
    pub fn events(&self) -> Vec<Event> {
        // Programs go on writing meanwhile, so there must be an end.
        let _ = self.ring.consume_raw_n(AT_ONCE);
        std::mem::take(&mut *self.received.lock().unwrap_or_else(PoisonError::into_inner))
    }

    /// A slot for a new connection from `netns` to `endpoint`; `None` when all are in use.
    pub fn reserve(&mut self, netns: u64, endpoint: u32) -> Result<Option<Slot>, Error> {
        let pool = self.pool(netns, endpoint)?;
        self.collect();
        let Some(number) = self.free.pop_front() else { return Ok(None) };
        let Some(cell) = self.slots.get(number) else { return Ok(None) };
        let generation = cell.state.load(Ordering::Acquire) >> GENERATION_SHIFT;
        let next = (generation + 1) & ((1 << GENERATION_BITS) - 1);
        cell.pool.store(pool, Ordering::Relaxed);
        cell.endpoint.store(endpoint, Ordering::Relaxed);
        cell.far.store(0, Ordering::Relaxed);
        cell.ended.store(0, Ordering::Relaxed);
        cell.used.store(0, Ordering::Relaxed);
        cell.state.store(next << GENERATION_SHIFT | DEAD | OUT, Ordering::Release);
        Ok(Some(Slot(number)))
    }

    /// Has the kernel watch out for the connection from `local` to `endpoint` that is about to be made for the slot.
    pub fn dial(&self, slot: Slot, local: SocketAddr, endpoint: SocketAddr) -> Result<(), Error> {
        self.dials.put_all([(dial_key(local, endpoint), slot.0)].into_iter())
    }

    /// The connection from `local` to `endpoint` that is about to be made is the proxy's own: its requests were seen at
    /// their clients already, so who observes need not look.
    pub fn dial_own(&self, local: SocketAddr, endpoint: SocketAddr) -> Result<(), Error> {
        self.dials.put_all([(dial_key(local, endpoint), NONE)].into_iter())
    }

    /// It is made, or will not be.
    pub fn dialled_own(&self, local: SocketAddr, endpoint: SocketAddr) -> Result<(), Error> {
        self.dials.delete_all([dial_key(local, endpoint)].into_iter())
    }

    /// The connection `back` is made, and nothing was sent or received on it: the kernel may lend it from now on.
    pub fn arm(
        &mut self,
        slot: Slot,
        local: SocketAddr,
        endpoint: SocketAddr,
        back: impl AsFd,
    ) -> Result<Armed, Error> {
        self.dials.delete_all([dial_key(local, endpoint)].into_iter())?;
        let Some(cell) = self.slots.get(slot.0) else { return Ok(Armed::Elsewhere) };
        let generation = cell.state.load(Ordering::Acquire) >> GENERATION_SHIFT;
        let is_here = u64::from(cell.far.load(Ordering::Acquire)) == generation + 1;
        let armed =
            if is_here { Armed::Here } else { self.arm_remote(slot, generation as u32, back.as_fd())? };
        if armed != Armed::Elsewhere {
            cell.state.store(generation << GENERATION_SHIFT, Ordering::Release);
            self.push(slot.0, cell);
            self.armed.insert(slot.0);
        }
        Ok(armed)
    }

    /// Gives the socket to the programs of back sockets, where the kernel has what they rely on.
    fn arm_remote(&self, slot: Slot, generation: u32, back: BorrowedFd<'_>) -> Result<Armed, Error> {
        let Some(remote) = &self.remote else { return Ok(Armed::Elsewhere) };
        if remote.allowed.get(&0)? != Some(1) {
            return Ok(Armed::Elsewhere);
        }
        let cookie = socket_cookie(back).map_err(|errno| {
            Error::kernel("cannot ask for the cookie of", "a back socket", std::io::Error::from(errno))
        })?;
        remote.backs.put(&cookie, &http_far { slot: slot.0, generation })?;
        match remote.sockets.put(&slot.0, &u64::from(back.as_raw_fd().unsigned_abs())) {
            Ok(()) => Ok(Armed::Remote { cookie }),
            // The endpoint has closed already, or the kernel takes no such socket (MPTCP).
            Err(error) => {
                remote.backs.delete_all([cookie].into_iter())?;
                tracing::debug!(%error, "a connection to an endpoint elsewhere stays with the proxy");
                Ok(Armed::Elsewhere)
            }
        }
    }

    /// The connection of a slot that was [`Armed::Remote`] is closed.
    pub fn disarm(&self, cookie: u64) -> Result<(), Error> {
        self.remote.as_ref().map_or(Ok(()), |remote| remote.backs.delete_all([cookie].into_iter()))
    }

    /// Whether the slot still stands for the connection for which the lease was given.
    pub fn is_under(&self, slot: Slot, lease: u64) -> bool {
        let mask = ((1 << GENERATION_BITS) - 1) << GENERATION_SHIFT;
        self.slots.get(slot.0).is_some_and(|cell| (cell.state.load(Ordering::Acquire) ^ lease) & mask == 0)
    }

    /// Gives back a slot that was reserved, and perhaps dialled for, and never armed.
    pub fn release(&mut self, slot: Slot, local: SocketAddr, endpoint: SocketAddr) {
        // One that was dialled for and did not come about would stay.
        if let Err(error) = self.dials.delete_all([dial_key(local, endpoint)].into_iter()) {
            tracing::debug!("a connection that was not made stays announced: {error}");
        }
        self.free.push_back(slot.0);
    }

    /// What is known of the slot now.
    pub fn state(&self, slot: Slot) -> SlotState {
        let Some(cell) = self.slots.get(slot.0) else { return SlotState::DEAD };
        let word = cell.state.load(Ordering::Acquire);
        let cookie = word >> COOKIE_SHIFT;
        let lent = (cookie != 0 && word & DEAD == 0).then_some(Lent {
            cookie,
            busy: word & BUSY != 0,
            open: word & OPEN != 0,
            copy: word & COPY != 0,
        });
        let method = usize::from(cell.method.load(Ordering::Relaxed));
        SlotState {
            lent,
            dead: word & DEAD != 0,
            ended: cell.ended.load(Ordering::Relaxed) != 0,
            service: cell.service.load(Ordering::Relaxed),
            route: cell.route.load(Ordering::Relaxed),
            method: Method::ALL.get(method).copied().unwrap_or(Method::Get),
            delivered: cell.response_bytes.load(Ordering::Relaxed),
            reason: reason_name(cell.reason.load(Ordering::Relaxed)),
            started: Duration::from_nanos(cell.started_ns.load(Ordering::Relaxed)),
            used: cell.used.load(Ordering::Relaxed),
            request_bytes: cell.request_bytes.load(Ordering::Relaxed),
        }
    }

    /// Takes the slot out of use for good; to whom it was lent. Afterwards the connection may be closed. Its number comes
    /// back by itself.
    pub fn retire(&mut self, slot: Slot) -> Option<Lent> {
        let cell = self.slots.get(slot.0)?;
        let mut word = cell.state.load(Ordering::Acquire);
        let armed = self.armed.remove(&slot.0);
        loop {
            if word & DEAD != 0 {
                // The endpoint's end was seen first: it was idle, and lies in its pool.
                self.buried.extend(armed.then_some(slot.0));
                return None;
            }
            let idle = word & (FLAGS & !LOST) == 0 && word >> COOKIE_SHIFT == 0;
            // What is lent, or was not put back, is in no pool.
            let dead = if idle && word & LOST == 0 { word | DEAD } else { word | DEAD | OUT };
            match cell.state.compare_exchange_weak(word, dead, Ordering::AcqRel, Ordering::Acquire) {
                Ok(_) if idle => {
                    self.buried.push(slot.0);
                    return None;
                }
                Ok(_) => break,
                Err(now) => word = now,
            }
        }
        if word & BUSY != 0 {
            self.add_load(cell.endpoint.load(Ordering::Relaxed), -1);
        }
        self.buried.push(slot.0);
        Some(Lent {
            cookie: word >> COOKIE_SHIFT,
            busy: word & BUSY != 0,
            open: word & OPEN != 0,
            copy: word & COPY != 0,
        })
    }

    /// The response that the proxy carried on the slot has ended, and its connection may be used again: the slot goes
    /// back to its pool. False: it was retired meanwhile.
    pub fn finish(&self, slot: Slot) -> bool {
        let Some(cell) = self.slots.get(slot.0) else { return false };
        let mut word = cell.state.load(Ordering::Acquire);
        loop {
            if word & (BUSY | COPY) != BUSY | COPY || word & (DEAD | OPEN) != 0 {
                return false;
            }
            // As the programs do it: whoever is lent it next has been told nothing yet.
            cell.response_bytes.store(0, Ordering::Relaxed);
            let idle = word & ((1 << COOKIE_SHIFT) - 1) & !FLAGS;
            match cell.state.compare_exchange_weak(word, idle, Ordering::AcqRel, Ordering::Acquire) {
                Ok(_) => break,
                Err(now) => word = now,
            }
        }
        self.add_load(cell.endpoint.load(Ordering::Relaxed), -1);
        self.push(slot.0, cell);
        true
    }

    /// Puts slots back that the programs could not put back for contention.
    pub fn mend(&self, slot: Slot) {
        let Some(cell) = self.slots.get(slot.0) else { return };
        let word = cell.state.load(Ordering::Acquire);
        if word & LOST != 0
            && word & DEAD == 0
            && cell.state.compare_exchange(word, word & !LOST, Ordering::AcqRel, Ordering::Acquire).is_ok()
        {
            self.push(slot.0, cell);
        }
    }

    /// How often the pool of `netns` and `endpoint` was found empty.
    pub fn times_empty(&self, netns: u64, endpoint: u32) -> u64 {
        let pool = self.known.get(&(netns, endpoint)).and_then(|&pool| self.heads.get(pool));
        pool.map_or(0, |pool| pool.empty.load(Ordering::Relaxed))
    }

    /// Dead slots stay in their pools until a program comes upon them. Takes them out, for want of numbers.
    fn exhume(&self) {
        let number_of_pools = self.next_pool;
        for pool in (0..number_of_pools).filter_map(|number| self.heads.get(number)) {
            let mut live = Vec::new();
            while let Some(number) = self.pop(pool) {
                let Some(cell) = self.slots.get(number) else { continue };
                let word = cell.state.load(Ordering::Acquire);
                if word & DEAD != 0 {
                    cell.state.fetch_or(OUT, Ordering::AcqRel);
                } else {
                    live.push((number, cell));
                }
            }
            live.into_iter().rev().for_each(|(number, cell)| self.push(number, cell));
        }
    }

    /// Numbers of dead slots that are in no pool any more are free, once no program can be at work on them: one that has
    /// just taken a slot writes into it and redirects by its number, which must not mean another connection meanwhile.
    /// Waiting takes some milliseconds, but only once for all numbers there are.
    fn collect(&mut self) {
        if self.free.is_empty() {
            self.inherit();
            self.exhume();
        }
        let slots = &self.slots;
        let resting = &mut self.resting;
        self.buried.retain(|&number| {
            let out = slots.get(number).is_none_or(|cell| cell.state.load(Ordering::Acquire) & OUT != 0);
            if out {
                resting.push(number);
            }
            !out
        });
        if self.free.is_empty() && !self.resting.is_empty() {
            // Where the kernel cannot tell, their order alone gives the programs time.
            grace::period();
            self.free.extend(self.resting.drain(..));
        }
    }

    fn pool(&mut self, netns: u64, endpoint: u32) -> Result<u32, Error> {
        if let Some(&pool) = self.known.get(&(netns, endpoint)) {
            return Ok(pool);
        }
        let pool = self.next_pool;
        if pool >= self.heads.count() {
            let source = std::io::Error::other(format!("all {} pools are in use", self.heads.count()));
            return Err(Error::kernel("cannot make a pool in", "http_pools", source));
        }
        self.next_pool += 1;
        self.pools.put_all([(http_pool_key { netns, endpoint, zero: 0 }, pool)].into_iter())?;
        self.known.insert((netns, endpoint), pool);
        Ok(pool)
    }

    fn push(&self, number: u32, cell: &SlotCell) {
        let Some(pool) = self.heads.get(cell.pool.load(Ordering::Relaxed)) else { return };
        let mut head = pool.head.load(Ordering::Acquire);
        loop {
            cell.next.store(head & ((1 << HEAD_SLOT_BITS) - 1), Ordering::Relaxed);
            let changed = tagged(head, u64::from(number) + 1);
            match pool.head.compare_exchange_weak(head, changed, Ordering::AcqRel, Ordering::Acquire) {
                Ok(_) => return,
                Err(now) => head = now,
            }
        }
    }

    fn pop(&self, pool: &PoolCell) -> Option<u32> {
        let mut head = pool.head.load(Ordering::Acquire);
        loop {
            let top = (head & ((1 << HEAD_SLOT_BITS) - 1)).checked_sub(1)? as u32;
            let next = self.slots.get(top)?.next.load(Ordering::Acquire);
            match pool.head.compare_exchange_weak(
                head,
                tagged(head, next),
                Ordering::AcqRel,
                Ordering::Acquire,
            ) {
                Ok(_) => return Some(top),
                Err(now) => head = now,
            }
        }
    }

    fn add_load(&self, endpoint: u32, change: i32) {
        let load: Result<Shared<AtomicU32>, Error> = Shared::around(&self.load, endpoint);
        match load {
            Ok(load) => {
                if let Some(count) = load.get(endpoint) {
                    count.fetch_add(change as u32, Ordering::Relaxed);
                }
            }
            Err(error) => tracing::warn!("the load of endpoint {endpoint} is not kept: {error}"),
        }
    }
}

impl AsFd for Router {
    /// Readable when the kernel has something urgent to say: for epoll.
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.events.as_fd()
    }
}

impl SlotState {
    const DEAD: Self = Self {
        lent: None,
        dead: true,
        ended: false,
        service: NONE,
        route: 0,
        method: Method::Get,
        delivered: 0,
        reason: "none",
        started: Duration::ZERO,
        used: 0,
        request_bytes: 0,
    };
}

/// The head of a pool with another top: the tag above changes with it.
fn tagged(head: u64, top: u64) -> u64 {
    ((head >> HEAD_SLOT_BITS).wrapping_add(1) << HEAD_SLOT_BITS) | top
}

fn dial_key(local: SocketAddr, endpoint: SocketAddr) -> http_dial_key {
    http_dial_key {
        local: address_words(endpoint.ip()),
        remote: address_words(local.ip()),
        local_port: endpoint.port().to_be(),
        remote_port: local.port().to_be(),
        zero: 0,
    }
}

/// `None`: the programs of back sockets are off. Without one on the map, sockets in it would be like any other.
fn remote(pins: &Pins, handle: &impl Fn(&str) -> Result<MapHandle, Error>) -> Result<Option<Remote>, Error> {
    if ["http_remote", "http_backs", "http_back_sockets"].iter().any(|name| !pins.map(name).exists()) {
        return Ok(None);
    }
    let sockets = handle("http_back_sockets")?;
    if !has_program(&sockets, BPF_SK_SKB_STREAM_VERDICT) {
        return Ok(None);
    }
    let (allowed, backs) = (Map::new(handle("http_remote")?)?, Map::new(handle("http_backs")?)?);
    Ok(Some(Remote { allowed, sockets: Map::new(sockets)?, backs }))
}

fn ring(map: &MapHandle, received: &Arc<Mutex<Vec<Event>>>) -> Result<RingBuffer<'static>, Error> {
    let sink = Arc::clone(received);
    let error = |e| Error::kernel("cannot read ring", "http_events", io_error(e));
    let mut builder = RingBufferBuilder::new();
    let receive = move |bytes: &[u8]| {
        let event = http_event::read(bytes).map(|event| decode(&event));
        sink.lock().unwrap_or_else(PoisonError::into_inner).extend(event);
        0
    };
    builder.add(map, receive).map_err(error)?;
    builder.build().map_err(error)
}

fn decode(event: &http_event) -> Event {
    let http_event { cookie, reason, slot } = *event;
    match http_reason(reason) {
        http_reason::HTTP_REASON_NO_PROXY => Event::NoListener { netns: cookie, pid: slot },
        http_reason::HTTP_REASON_REMOTE => Event::Remote { slot: Slot(slot), lease: cookie },
        http_reason::HTTP_REASON_POOL_EMPTY => Event::PoolEmpty { cookie, endpoint: slot },
        _ => {
            Event::Passed { cookie, reason: reason_name(reason), slot: (slot != NONE).then_some(Slot(slot)) }
        }
    }
}
