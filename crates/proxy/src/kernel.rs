//! What the proxy asks of the kernel side of the mesh, and what it tells it.
//!
//! There are two implementations: the data path's, which looks into kernel maps and network namespaces, and [`Fixed`],
//! for which a listener is a service.

use std::collections::HashMap;
use std::fmt;
use std::io;
use std::net::{IpAddr, SocketAddr};
use std::time::Duration;

use alize_datapath::http::{Draw, Load, Rate, Slot};
use alize_model::http::{Caller, Pool};
use serde::{Deserialize, Serialize};
use tokio::net::TcpSocket;

/// A network namespace, by the number of its inode; 0 is the proxy's own.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
pub struct Netns(pub u64);

/// A connection that was just accepted.
#[derive(Clone, Copy, Debug)]
pub struct Accepted {
    /// Where the listener is.
    pub netns: Netns,
    /// The listener's address.
    pub local: SocketAddr,
    /// The client's address.
    pub peer: SocketAddr,
}

/// What the kernel knows about an accepted connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Client {
    /// The service that was dialled, by its number.
    pub service: u32,
    /// Cookie of the client's socket; 0 if unknown.
    pub cookie: u64,
}

/// A front connection between two exchanges: nothing is buffered, nothing is owed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Resting {
    /// Cookie of the front socket in the proxy.
    pub front: u64,
    /// What is known of the client.
    pub client: Client,
    /// Bytes that were read from the socket since it was accepted.
    pub read: u64,
    /// Bytes that were written to it since then.
    pub written: u64,
}

/// How a front connection stands towards what the kernel does for its client.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Standing {
    /// The kernel owes the client nothing.
    Settled,
    /// A response is on its way.
    Owed,
    /// A request was sent in part to an endpoint that is gone: what comes now is no beginning of a request. Its response
    /// has `begun` or not.
    Broken {
        /// Then there is no way to tell the client but to end the connection.
        begun: bool,
    },
}

/// An endpoint that takes requests.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct InForce {
    /// Number of its service.
    pub service: u32,
    /// Under which the kernel knows it.
    pub number: u32,
    /// Where it listens.
    pub address: SocketAddr,
    /// Connections that are to be kept open to it.
    pub pool: Pool,
}

/// The kernel side.
pub trait Kernel: Send + Sync + 'static {
    /// Whose connection it is, or nothing if that cannot be said; it is closed then.
    fn identify(&self, accepted: &Accepted) -> Option<Client>;

    /// Who calls from `address` in `netns`, as the kernel tells callers apart.
    fn caller(&self, netns: Netns, address: IpAddr) -> Caller {
        Caller { netns: netns.0, address }
    }

    /// Draws a request from the buckets of a service's rate limit and a route's, of which the kernel draws too; nothing: it
    /// does not.
    fn draw(&self, rates: [Option<Rate>; 2], caller: &Caller) -> Option<Draw> {
        let _ = (rates, caller);
        None
    }

    /// What is outstanding at an endpoint, by the kernel's number of it; nothing: the kernel sends none there.
    fn load(&self, endpoint: u32) -> Option<Load> {
        let _ = endpoint;
        None
    }

    /// A front connection begins here, accepted or taken over from the proxy before.
    fn joined(&self, client: &Client, netns: Netns) {
        let _ = (client, netns);
    }

    /// A socket that was made in `netns`, for a connection to `endpoint`.
    fn socket(&self, netns: Netns, endpoint: SocketAddr) -> io::Result<TcpSocket> {
        let _ = netns;
        if endpoint.is_ipv4() { TcpSocket::new_v4() } else { TcpSocket::new_v6() }
    }

    /// The socket is about to connect to `endpoint`, for requests that the proxy serves. What is returned is the address
    /// that it was bound to for that, and [`Kernel::dialled`] is told of it when the connection is made, or will not be.
    fn dialling(
        &self,
        netns: Netns,
        socket: &TcpSocket,
        endpoint: SocketAddr,
    ) -> io::Result<Option<SocketAddr>> {
        let _ = (netns, socket, endpoint);
        Ok(None)
    }

    /// See [`Kernel::dialling`].
    fn dialled(&self, local: SocketAddr, endpoint: SocketAddr) {
        let _ = (local, endpoint);
    }

    /// A front connection has come to rest. It may read the next request from the socket at any time.
    fn resting(&self, front: &Resting) {
        let _ = front;
    }

    /// Whether all exchanges on a connection of a proxy that is gone were complete, when so many bytes were read from it and
    /// written to it.
    fn rests(&self, client: &Client, read: u64, written: u64) -> bool {
        let _ = (client, read, written);
        false
    }

    /// Whether what the client has sent may be answered. While a response is on its way to it that does not go through the
    /// proxy, it may not: responses would change places.
    fn standing(&self, client: &Client) -> Standing {
        let _ = client;
        Standing::Settled
    }

    /// Whether a response is on its way to the client that this proxy may have to see to: only it has the connection to the
    /// endpoint.
    fn owes(&self, client: &Client) -> bool {
        let _ = client;
        false
    }

    /// Whether the client with this cookie has not closed its connection, as far as is known.
    fn is_there(&self, cookie: u64) -> bool {
        let _ = cookie;
        false
    }

    /// How long a client that sends no more may still be owed a response that does not go through the proxy.
    fn may_be_owed(&self, client: &Client) -> Duration {
        let _ = client;
        Duration::ZERO
    }

    /// A front connection has ended.
    fn gone(&self, client: &Client) {
        let _ = client;
    }

    /// A state is in force, with these endpoints.
    fn applied(&self, endpoints: &[InForce]) {
        let _ = endpoints;
    }

    /// This process is about to end. The kernel routes nothing more over its connections, and what runs on them is finished.
    /// `succeeded`: clients go on connecting to the same listeners, which a successor has; it takes over when this returns.
    fn let_go(&self, succeeded: bool) {
        let _ = succeeded;
    }

    /// The connection of a slot has ended with the proxy before this one, while that finished what it had lent.
    fn lost(&self, slot: Slot) {
        let _ = slot;
    }

    /// The kernel side was removed, or another one has taken its place: no client comes here any more.
    fn is_removed(&self) -> bool {
        false
    }

    /// Requests that the kernel has routed over connections of this process and whose exchange is not complete: it must
    /// not end before.
    fn lent(&self) -> usize {
        0
    }
}

/// No kernel side: each listener is for one service.
#[derive(Clone, Debug, Default)]
pub struct Fixed(pub HashMap<SocketAddr, u32>);

impl Kernel for Fixed {
    fn identify(&self, accepted: &Accepted) -> Option<Client> {
        self.0.get(&accepted.local).map(|service| Client { service: *service, cookie: 0 })
    }
}

impl fmt::Debug for dyn Kernel {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Kernel")
    }
}
