//! Connections of clients.
//!
//! A front connection sleeps: it is a descriptor and a small record until bytes arrive, and again after each exchange.
//! Thousands of clients that are served by the kernel have a connection here that never wakes.

mod http1;
mod http2;
mod inbound;
mod life;
mod relay;
pub(crate) mod tunnel;

use std::net::SocketAddr;
use std::os::fd::{AsFd, BorrowedFd};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, OnceLock, Weak};

use bytes::BytesMut;
use http::{HeaderMap, response};
use serde::{Deserialize, Serialize};

use crate::back::lock;
use crate::keep::{Keeping, Kept, Ticket};
use crate::kernel::{Client, Netns, Resting};
use crate::socket::Socket;
use crate::wire::{Decoder, Framing, head};

pub(crate) use inbound::Inbound;
pub(crate) use life::{Leaving, live};
pub use relay::Outcome;
pub(crate) use relay::{fail, relay};
pub(crate) use tunnel::Tunnel;

/// A connection of a client.
#[derive(Debug)]
pub(crate) struct Front {
    pub(crate) socket: Socket,
    pub(crate) origin: Origin,
    /// What was read and not used, and where the body of the present request ends.
    incoming: Mutex<Incoming>,
    /// What the connection became, if it is no HTTP any more and nobody carries it at this moment.
    tunnel: Mutex<Option<Box<Tunnel>>>,
    /// Whoever writes to the socket holds this from the first to the last byte of a response.
    turn: tokio::sync::Mutex<()>,
    /// The client was told that the connection ends, or sees that it does: it is told once, and not served any more.
    refused: AtomicBool,
    /// Another process has a descriptor, so that closing this one ends nothing.
    ticket: OnceLock<Ticket>,
    /// The connection goes on in another proxy.
    is_given: AtomicBool,
}

impl AsFd for Front {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.socket.stream().as_fd()
    }
}

impl Drop for Front {
    fn drop(&mut self) {
        if self.ticket.get().is_some() && !self.is_given.load(Ordering::Relaxed) {
            self.socket.end();
        }
    }
}

/// Where a connection comes from.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub(crate) struct Origin {
    pub(crate) client: Client,
    pub(crate) netns: Netns,
    pub(crate) peer: SocketAddr,
    /// Cookie of the front socket.
    pub(crate) cookie: u64,
}

impl Origin {
    /// What the connection is found by: the client's cookie, which the kernel knows, or else the front socket's own.
    pub(crate) fn key(&self) -> u64 {
        if self.client.cookie == 0 { self.cookie } else { self.client.cookie }
    }
}

#[derive(Debug)]
struct Incoming {
    buffer: BytesMut,
    decoder: Decoder,
    /// Whether any byte of the present request's body was read.
    begun: bool,
}

impl Front {
    pub(crate) fn new(socket: Socket, origin: Origin, unread: BytesMut) -> Arc<Self> {
        let incoming = Mutex::new(Incoming { buffer: unread, decoder: Decoder::Done, begun: false });
        let turn = tokio::sync::Mutex::default();
        Arc::new(Self {
            socket,
            origin,
            incoming,
            tunnel: Mutex::default(),
            turn,
            refused: AtomicBool::new(false),
            ticket: OnceLock::new(),
            is_given: AtomicBool::new(false),
        })
    }

    /// Has a descriptor kept beyond the end of this process.
    pub(crate) fn keep(self: &Arc<Self>, keeping: &Keeping) {
        let own: Weak<Self> = Arc::downgrade(self);
        self.ticket.get_or_init(|| keeping.keep(Kept::Front { origin: self.origin }, own));
    }

    /// Another proxy has it.
    pub(crate) fn give_away(&self) {
        self.is_given.store(true, Ordering::Relaxed);
    }

    /// Whether nobody has told the client yet that the connection ends; now the caller does.
    fn begin_refusal(&self) -> bool {
        !self.refused.swap(true, Ordering::AcqRel)
    }

    fn is_refused(&self) -> bool {
        self.refused.load(Ordering::Acquire)
    }

    /// Wakes the front where it sleeps, and it ends.
    fn end(&self) {
        self.refused.store(true, Ordering::Release);
        self.socket.shutdown_read();
    }

    pub(crate) fn set_tunnel(&self, tunnel: Tunnel) {
        *lock(&self.tunnel) = Some(Box::new(tunnel));
    }

    pub(crate) fn has_tunnel(&self) -> bool {
        lock(&self.tunnel).is_some()
    }

    pub(crate) fn take_tunnel(&self) -> Option<Tunnel> {
        lock(&self.tunnel).take().map(|tunnel| *tunnel)
    }

    /// Bytes that were read and not used.
    pub(crate) fn unread(&self) -> BytesMut {
        lock(&self.incoming).buffer.clone()
    }

    /// Gives the memory of an empty buffer back: whoever waits holds none.
    fn shrink(&self) {
        let mut incoming = lock(&self.incoming);
        if incoming.buffer.is_empty() {
            incoming.buffer = BytesMut::new();
        }
    }

    fn has_unread(&self) -> bool {
        !lock(&self.incoming).buffer.is_empty()
    }

    fn resting(&self) -> Resting {
        self.resting_after(0)
    }

    /// As it will be when `more` bytes are written.
    fn resting_after(&self, more: usize) -> Resting {
        let (read, written) = self.socket.totals();
        Resting {
            front: self.origin.cookie,
            client: self.origin.client,
            read,
            written: written + more as u64,
        }
    }
}

/// The connection to the client ends with this response; an extension of it.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Last;

/// Informational responses on their way to a client; an extension of a request.
#[derive(Clone, Debug, Default)]
pub(crate) struct Interim(Arc<Mutex<BytesMut>>);

impl Interim {
    pub(crate) fn push(&self, parts: &response::Parts) {
        let mut plain = http::Response::new(()).into_parts().0;
        plain.status = parts.status;
        plain.headers = HeaderMap::clone(&parts.headers);
        head::write_response(&plain, Framing::Empty, head::After::Stay, &mut lock(&self.0));
    }

    fn take(&self) -> BytesMut {
        lock(&self.0).split()
    }
}
