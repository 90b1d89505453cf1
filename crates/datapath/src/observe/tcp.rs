//! What happens to TCP sockets, as the kernel sends it.

use std::net::SocketAddr;
use std::time::Duration;

use super::abi::{self, tcp_event};
use super::event::{Identity, Malformed, Side, identity_of};
use crate::abi::{Plain, socket_addr};

/// What happened to a TCP socket.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum TcpKind {
    /// A connect succeeded.
    Connected,
    /// A server has a new connection.
    Accepted,
    /// A connect failed.
    Failed,
    /// The connection is over.
    Closed,
    /// A segment was sent again.
    Retransmit,
}

impl TcpKind {
    /// From 1 on in the order of `enum tcp_kind`.
    const ALL: [TcpKind; abi::TCP_KINDS - 1] =
        [TcpKind::Connected, TcpKind::Accepted, TcpKind::Failed, TcpKind::Closed, TcpKind::Retransmit];

    /// As it is shown.
    pub fn as_str(self) -> &'static str {
        match self {
            TcpKind::Connected => "connected",
            TcpKind::Accepted => "accepted",
            TcpKind::Failed => "failed",
            TcpKind::Closed => "closed",
            TcpKind::Retransmit => "retransmit",
        }
    }
}

/// Why a connection failed or ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum TcpReason {
    /// Nothing answered on that port.
    Refused,
    /// Nothing answered at all.
    Timeout,
    /// There is no way to that host.
    Unreachable,
    /// The other side broke the connection off.
    ResetReceived,
    /// This side broke the connection off.
    ResetSent,
    /// The application gave up while connecting.
    Aborted,
    /// Anything else.
    Other,
}

impl TcpReason {
    /// From 1 on in the order of `enum tcp_reason`; 0 is an end in good order.
    const ALL: [TcpReason; abi::TCP_REASONS - 1] = [
        TcpReason::Refused,
        TcpReason::Timeout,
        TcpReason::Unreachable,
        TcpReason::ResetReceived,
        TcpReason::ResetSent,
        TcpReason::Aborted,
        TcpReason::Other,
    ];

    /// As it is shown.
    pub fn as_str(self) -> &'static str {
        match self {
            TcpReason::Refused => "refused",
            TcpReason::Timeout => "timeout",
            TcpReason::Unreachable => "unreachable",
            TcpReason::ResetReceived => "reset-received",
            TcpReason::ResetSent => "reset-sent",
            TcpReason::Aborted => "aborted",
            TcpReason::Other => "other",
        }
    }
}

/// Something that happened to a TCP socket of a meshed cgroup.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TcpEvent {
    pub(super) matched: u32,
    /// When, of the monotonic clock.
    pub time: Duration,
    /// What.
    pub kind: TcpKind,
    /// Why it failed or ended; `None`: in good order.
    pub reason: Option<TcpReason>,
    /// Which end this socket is.
    pub side: Side,
    /// How long connecting took, or for a connection that is over how long it lived; `None`: not known.
    pub duration: Option<Duration>,
    /// Whose socket it is.
    pub owner: Option<Identity>,
    /// This end.
    pub local: SocketAddr,
    /// The other end, after balancing.
    pub remote: SocketAddr,
    /// Bytes that the other end has acknowledged so far.
    pub bytes_sent: u64,
    /// Bytes received so far.
    pub bytes_received: u64,
    /// Segments sent again so far.
    pub retransmits: u32,
    /// Smoothed round-trip time; `None`: not measured.
    pub rtt: Option<Duration>,
}

impl TcpEvent {
    /// Reads a record of the ring.
    pub fn decode(bytes: &[u8]) -> Result<Self, Malformed> {
        let expected = size_of::<tcp_event>();
        let event = tcp_event::read(bytes)
            .filter(|_| bytes.len() == expected)
            .ok_or(Malformed::Size { found: bytes.len(), expected })?;
        if event.r#type != abi::EVENT_TYPE_TCP {
            return Err(Malformed::Type(event.r#type));
        }
        let field = |field, value: u8| Malformed::Field { field, value: value.into() };
        let kind = TcpKind::ALL.get(usize::from(event.kind).wrapping_sub(1)).copied();
        let reason = match event.reason {
            0 => None,
            number => {
                let known = TcpReason::ALL.get(usize::from(number) - 1).copied();
                Some(known.ok_or(field("reason", number))?)
            }
        };
        Ok(Self {
            matched: event.matched,
            time: Duration::from_nanos(event.time_ns),
            kind: kind.ok_or(field("kind", event.kind))?,
            reason,
            side: Side::from_number(event.side).ok_or(field("side", event.side))?,
            duration: (event.duration_ns != 0).then(|| Duration::from_nanos(event.duration_ns)),
            owner: identity_of(&event.owner),
            local: socket_addr(event.local_address, event.local_port),
            remote: socket_addr(event.remote_address, event.remote_port),
            bytes_sent: event.bytes_sent,
            bytes_received: event.bytes_received,
            retransmits: event.retransmits,
            rtt: (event.rtt_us != 0).then(|| Duration::from_micros(event.rtt_us.into())),
        })
    }

    /// The server's end of the connection.
    pub fn server(&self) -> SocketAddr {
        match self.side {
            Side::Client => self.remote,
            Side::Server => self.local,
        }
    }
}
