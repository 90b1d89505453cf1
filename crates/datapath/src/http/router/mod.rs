//! The proxy's side: it owns the sockets, lends connections to endpoints to the kernel's programs, and takes them back.
//!
//! A *slot* is one connection to an endpoint. Idle slots lie in pools, one for each network namespace and endpoint, from
//! which the programs take them; the word of a slot says who has it, and both sides change it by compare-and-swap only.
//! Rules that keep responses from going astray:
//! - A slot whose connection ends, for whatever reason, is dead from then on ([`Router::retire`]), and its number is used
//!   again only when it is in no pool.
//! - Its generation changes with each connection, so a program that still works for the old one can do nothing, nor can a
//!   proxy that has been succeeded.
//! - One proxy at a time reserves slots and hears events: see [`Router::take_over`] and [`Router::let_go`].

mod events;
mod pools;
mod slots;
mod succession;

use std::collections::{HashMap, HashSet, VecDeque};
use std::net::SocketAddr;
use std::os::fd::{AsFd, BorrowedFd};
use std::path::PathBuf;
use std::sync::atomic::AtomicU32;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use alize_model::http::Method;
use libbpf_rs::libbpf_sys::BPF_SK_SKB_STREAM_VERDICT;
use libbpf_rs::{MapHandle, RingBuffer};
use serde::{Deserialize, Serialize};

use super::abi::{
    GENERATION_BITS, GENERATION_SHIFT, http_dial_key, http_far, http_front, http_front_key, http_listener,
    http_pool_key, http_rest,
};
use super::programs::has_program;
use super::shared::{Parts, PoolCell, Shared, SlotCell};
use crate::Error;
use crate::abi::address_words;
use crate::layout;
use crate::maps::Map;
use crate::pin::{self, Pins};

pub(crate) use events::REASONS;
use events::{AT_ONCE, ring};
pub use events::{Event, reason_name};

/// Which data path.
#[derive(Clone, Debug)]
pub struct RouterOptions {
    /// Name of the instance.
    pub instance: String,
    /// Mount point of bpffs.
    pub bpffs: PathBuf,
}

/// A slot while it stands for one connection. Once its number stands for another, nothing can be done with it any more.
/// Another process may get it with its connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct Slot {
    number: u32,
    generation: u64,
}

impl Slot {
    /// By which the kernel's events name it.
    pub fn number(self) -> u32 {
        self.number
    }

    /// Whether a lease, or the word of a slot with this number, is of this connection.
    pub fn is_under(self, lease: u64) -> bool {
        generation(lease) == self.generation
    }
}

/// Who owned the slots before.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Predecessor {
    /// Nobody, or one that was killed. Of its slots only those live on whose connections were kept.
    Gone,
    /// One that has let go and finishes what is lent.
    Finishing,
}

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

impl Lent {
    /// Whether a response or the rest of a request is outstanding.
    pub fn is_outstanding(&self) -> bool {
        self.busy || self.open
    }
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

const GENERATIONS: u64 = (1 << GENERATION_BITS) - 1;

/// The data path as the proxy sees it.
pub struct Router {
    slots: Parts<SlotCell>,
    heads: Parts<PoolCell>,
    pools: Map<http_pool_key, u32>,
    listeners: Map<u64, http_listener>,
    fronts: Map<http_front_key, http_front>,
    rests: Map<u64, http_rest>,
    dials: Map<http_dial_key, u32>,
    remote: Option<Remote>,
    clients: Map<u64, u64>,
    load: Map<u32, u32>,
    /// Pages of `load`, mapped when a slot is made: between the flag of a request that ends and its load must be no time
    /// in which this process is likely to be killed.
    loads: Vec<Shared<AtomicU32>>,
    ring: RingBuffer<'static>,
    /// Filled by the ring's callback, which must not borrow anything.
    received: Arc<Mutex<Vec<Event>>>,
    events: MapHandle,
    /// Where they were pinned when they were opened.
    pin: PathBuf,
    /// It may reserve slots, and hears events.
    owns: bool,
    /// Numbers of pools. They outlive a proxy: a slot that it has lent goes back to the pool that it came from.
    known: HashMap<(u64, u32), u32>,
    next_pool: u32,
    /// Numbers of pools that nobody asks for any more, and those of them to which no slot belongs.
    closing: Vec<u32>,
    spare: Vec<u32>,
    /// Connections for slots that are about to be made, from where to where.
    dialling: HashSet<(SocketAddr, SocketAddr)>,
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
    /// Opens what the agent has pinned, and changes nothing: see [`Self::take_over`].
    pub fn open(options: &RouterOptions) -> Result<Self, Error> {
        let pins = super::pins(options)?;
        let handle = |name: &str| pins.open(name);
        let slots = Parts::new(Map::new(handle("http_slots")?)?);
        let heads = Parts::new(Map::new(handle("http_pool_heads")?)?);
        let received: Arc<Mutex<Vec<Event>>> = Arc::default();
        let events = handle("http_events")?;
        Ok(Self {
            pools: Map::new(handle("http_pools")?)?,
            listeners: Map::new(handle("http_listeners")?)?,
            fronts: Map::new(handle("http_fronts")?)?,
            rests: Map::new(handle("http_rests")?)?,
            dials: Map::new(handle("http_dials")?)?,
            remote: remote(&pins, &handle)?,
            clients: Map::new(handle("http_client_sockets")?)?,
            load: Map::new(handle("http_load")?)?,
            loads: Vec::new(),
            ring: ring(&events, &received)?,
            received,
            pin: pins.map("http_events"),
            events,
            owns: false,
            known: HashMap::new(),
            next_pool: 0,
            closing: Vec::new(),
            spare: Vec::new(),
            dialling: HashSet::new(),
            free: VecDeque::new(),
            resting: Vec::new(),
            buried: Vec::new(),
            foreign: Vec::new(),
            strangers: Vec::new(),
            armed: HashSet::new(),
            slots,
            heads,
        })
    }

    /// Whether what was opened is what is pinned now: not after `alize unload`, nor when another data path was loaded since.
    pub fn is_pinned(&self) -> Result<bool, Error> {
        let Some(pinned) = layout::pinned(&self.pin)? else { return Ok(false) };
        Ok(pin::number(&pinned, &self.pin)? == pin::number(&self.events, &self.pin)?)
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

    /// What was last said of a client by [`Self::rest`].
    pub fn rest_of(&self, cookie: u64) -> Option<Rest> {
        let rest = self.rests.get(&cookie).ok().flatten()?;
        Some(Rest { read: rest.read, written: rest.written })
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
        // Two that read the ring would give each other's place in it back to the kernel.
        if !self.owns {
            return Vec::new();
        }
        // Programs go on writing meanwhile, so there must be an end.
        let _ = self.ring.consume_raw_n(AT_ONCE);
        std::mem::take(&mut *self.received.lock().unwrap_or_else(PoisonError::into_inner))
    }
}

impl AsFd for Router {
    /// Readable when the kernel has something urgent to say: for epoll.
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.events.as_fd()
    }
}

/// Of the word of a slot, or of a lease.
fn generation(word: u64) -> u64 {
    word >> GENERATION_SHIFT & GENERATIONS
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
