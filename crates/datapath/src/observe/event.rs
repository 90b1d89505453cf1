//! Single requests, as the kernel sends and records them.

use std::fmt;
use std::net::SocketAddr;
use std::time::Duration;

use super::abi::{self, identity, request_event, request_flags};
use crate::abi::{NONE, Plain, socket_addr};

/// A request method.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Method {
    /// A token that is none of the following.
    Other,
    /// RFC 9110, 9.3.1.
    Get,
    /// RFC 9110, 9.3.2.
    Head,
    /// RFC 9110, 9.3.3.
    Post,
    /// RFC 9110, 9.3.4.
    Put,
    /// RFC 9110, 9.3.5.
    Delete,
    /// RFC 9110, 9.3.6.
    Connect,
    /// RFC 9110, 9.3.7.
    Options,
    /// RFC 9110, 9.3.8.
    Trace,
    /// RFC 5789.
    Patch,
}

impl Method {
    /// In the order of `enum method`.
    pub const ALL: [Method; abi::METHODS] = [
        Method::Other,
        Method::Get,
        Method::Head,
        Method::Post,
        Method::Put,
        Method::Delete,
        Method::Connect,
        Method::Options,
        Method::Trace,
        Method::Patch,
    ];

    /// As it is written in a request; `_OTHER` as OpenTelemetry calls the rest.
    pub fn as_str(self) -> &'static str {
        match self {
            Method::Other => "_OTHER",
            Method::Get => "GET",
            Method::Head => "HEAD",
            Method::Post => "POST",
            Method::Put => "PUT",
            Method::Delete => "DELETE",
            Method::Connect => "CONNECT",
            Method::Options => "OPTIONS",
            Method::Trace => "TRACE",
            Method::Patch => "PATCH",
        }
    }

    pub(super) fn from_number(number: u8) -> Option<Self> {
        Self::ALL.get(usize::from(number)).copied()
    }

    /// By the token in the request.
    pub(super) fn named(token: &[u8]) -> Self {
        let known = Self::ALL.into_iter().skip(1).find(|method| method.as_str().as_bytes() == token);
        known.unwrap_or(Method::Other)
    }
}

impl fmt::Display for Method {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.as_str())
    }
}

/// At whose socket a request was seen.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Side {
    /// The client's.
    Client,
    /// The server's, because the client's is not on this host or not observed.
    Server,
}

impl Side {
    pub(super) fn from_number(number: u8) -> Option<Self> {
        match number {
            abi::SIDE_CLIENT => Some(Side::Client),
            abi::SIDE_SERVER => Some(Side::Server),
            _ => None,
        }
    }
}

/// The way that a request took.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum PathLabel {
    /// It went by; nothing was done to it.
    Observed,
    /// Routed by the kernel.
    KernelL7,
    /// Its connection was balanced by the kernel.
    KernelL4,
    /// Routed by the proxy.
    Proxy,
    /// It went by within TLS, and its plaintext was seen in the process.
    Tls,
}

impl PathLabel {
    /// In the order of `enum path_label`.
    const ALL: [PathLabel; abi::PATH_LABELS] =
        [PathLabel::Observed, PathLabel::KernelL7, PathLabel::KernelL4, PathLabel::Proxy, PathLabel::Tls];

    /// As it is shown.
    pub fn as_str(self) -> &'static str {
        match self {
            PathLabel::Observed => "observed",
            PathLabel::KernelL7 => "kernel-l7",
            PathLabel::KernelL4 => "kernel-l4",
            PathLabel::Proxy => "proxy",
            PathLabel::Tls => "tls",
        }
    }

    pub(super) fn from_number(number: u8) -> Option<Self> {
        Self::ALL.get(usize::from(number)).copied()
    }
}

/// What was spoken.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Protocol {
    /// HTTP/1.0 or HTTP/1.1.
    Http1,
    /// HTTP/2 in plain text.
    Http2,
}

impl Protocol {
    /// As it is shown.
    pub fn as_str(self) -> &'static str {
        match self {
            Protocol::Http1 => "http/1",
            Protocol::Http2 => "http/2",
        }
    }
}

impl fmt::Display for Protocol {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.as_str())
    }
}

/// What a call of gRPC has besides.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Grpc {
    /// The service, with its package: `shop.Orders`; empty: the path has none.
    pub service: String,
    /// The method.
    pub method: String,
    /// `grpc-status`: 0 is OK; `None`: the call ended without.
    pub status: Option<u8>,
}

impl Grpc {
    /// By the path, which is `/package.Service/Method`.
    pub(super) fn of(target: &str, status: Option<u8>) -> Self {
        let (service, method) = target.trim_start_matches('/').rsplit_once('/').unwrap_or(("", target));
        Self { service: service.into(), method: method.into(), status }
    }

    /// Whether it is the server's fault, as OpenTelemetry has it.
    pub fn failed(&self) -> bool {
        // UNKNOWN, DEADLINE_EXCEEDED, UNIMPLEMENTED, INTERNAL, UNAVAILABLE, DATA_LOSS
        matches!(self.status, None | Some(2 | 4 | 12..=15))
    }

    /// The name of its status.
    pub fn status_name(&self) -> Option<&'static str> {
        Self::name_of(self.status?)
    }

    /// The name of a status (gRPC's `doc/statuscodes.md`); `None`: there is no such status.
    pub fn name_of(status: u8) -> Option<&'static str> {
        const NAMES: [&str; 17] = [
            "OK",
            "CANCELLED",
            "UNKNOWN",
            "INVALID_ARGUMENT",
            "DEADLINE_EXCEEDED",
            "NOT_FOUND",
            "ALREADY_EXISTS",
            "PERMISSION_DENIED",
            "RESOURCE_EXHAUSTED",
            "FAILED_PRECONDITION",
            "ABORTED",
            "OUT_OF_RANGE",
            "UNIMPLEMENTED",
            "INTERNAL",
            "UNAVAILABLE",
            "DATA_LOSS",
            "UNAUTHENTICATED",
        ];
        NAMES.get(usize::from(status)).copied()
    }
}

/// An end of a connection on this host.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Identity {
    /// Number of the socket's cgroup, which is the inode of its folder. This is certain.
    pub cgroup: u64,
    /// The process that sent, in the first PID namespace; `None`: it was never seen sending.
    pub pid: Option<u32>,
    /// The user that made its socket, if `pid` is known.
    pub uid: u32,
    /// The name of its thread; empty if `pid` is not known. Before Linux 6.16 that of its process, and empty if that has
    /// ended.
    pub comm: String,
}

/// A request and its response.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Request {
    /// Which traces asked for it; see [`super::TraceId::wants`].
    pub(super) matched: u32,
    /// When its first byte went by, of the monotonic clock.
    pub started: Duration,
    /// From then to the first byte of the response; `None` when there was none.
    pub first_byte: Option<Duration>,
    /// From then to the last byte of the response, or to the end of the connection.
    pub latency: Duration,
    /// Head and body, in bytes.
    pub request_bytes: u64,
    /// Head and body, in bytes; 0 when there was no response.
    pub response_bytes: u64,
    /// `None`: not on this host, or not observed.
    pub client: Option<Identity>,
    /// `None`: not on this host, or not observed.
    pub server: Option<Identity>,
    /// The client's end of the connection.
    pub client_address: SocketAddr,
    /// The server's end of the connection, after balancing.
    pub server_address: SocketAddr,
    /// Number of the service that the client dialled; `None`: none.
    pub service: Option<u32>,
    /// `None`: the connection ended before the response did.
    pub status: Option<u16>,
    /// The method.
    pub method: Method,
    /// Where it was seen.
    pub side: Side,
    /// The way that it took.
    pub path_label: PathLabel,
    /// Target as sent, query included; the first 112 bytes.
    pub target: String,
    /// Whether there was more of the target.
    pub target_cut: bool,
    /// The Host field, or its first 40 bytes; empty: there was none.
    pub host: String,
    /// It is not the first request on its connection.
    pub reused: bool,
    /// It was sent before the response to the one before had ended.
    pub pipelined: bool,
    /// The connection ended within the response.
    pub broken: bool,
    /// What was spoken.
    pub protocol: Protocol,
    /// It is a call of gRPC.
    pub grpc: Option<Grpc>,
    /// The field of that name, as the application sent it.
    pub trace_parent: Option<String>,
    /// Some of it was missed: the connection was there before it was observed, or records were lost.
    pub partial: bool,
}

/// A record that this version cannot read.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Malformed {
    /// Too short or too long.
    #[error("a record has {found} bytes instead of {expected}")]
    Size {
        /// Of the record.
        found: usize,
        /// Of what this version knows.
        expected: usize,
    },
    /// Another type of record.
    #[error("unknown type {0} of record")]
    Type(u32),
    /// A field has a value that it cannot have.
    #[error("a record has {value} as its {field}")]
    Field {
        /// The field.
        field: &'static str,
        /// Its value.
        value: u64,
    },
}

impl Request {
    /// Reads a record of the ring.
    pub fn decode(bytes: &[u8]) -> Result<Self, Malformed> {
        let expected = size_of::<request_event>();
        let event = request_event::read(bytes).filter(|_| bytes.len() == expected);
        event.ok_or(Malformed::Size { found: bytes.len(), expected }).and_then(Self::from_event)
    }

    pub(super) fn from_event(event: request_event) -> Result<Self, Malformed> {
        if event.r#type != abi::EVENT_TYPE_REQUEST {
            return Err(Malformed::Type(event.r#type));
        }
        let field = |field, value: u8| Malformed::Field { field, value: value.into() };
        let flag = |flag: request_flags| u32::from(event.flags) & flag.0 != 0;
        if event.status > 999 {
            return Err(Malformed::Field { field: "status", value: event.status.into() });
        }
        Ok(Self {
            matched: event.matched,
            started: Duration::from_nanos(event.started_ns),
            first_byte: (event.first_byte_ns != 0).then(|| Duration::from_nanos(event.first_byte_ns)),
            latency: Duration::from_nanos(event.latency_ns),
            request_bytes: event.request_bytes,
            response_bytes: event.response_bytes,
            client: identity_of(&event.client),
            server: identity_of(&event.server),
            client_address: socket_addr(event.client_address, event.client_port),
            server_address: socket_addr(event.server_address, event.server_port),
            service: (event.service != NONE).then_some(event.service),
            status: (event.status != 0).then_some(event.status),
            method: Method::from_number(event.method).ok_or(field("method", event.method))?,
            side: Side::from_number(event.side).ok_or(field("side", event.side))?,
            path_label: PathLabel::from_number(event.path_label)
                .ok_or(field("path label", event.path_label))?,
            target: text(&event.target, event.target_length)
                .ok_or(field("length of the target", event.target_length))?,
            target_cut: flag(request_flags::REQUEST_FLAG_PATH_CUT),
            host: text(&event.host, event.host_length)
                .ok_or(field("length of the host", event.host_length))?,
            reused: flag(request_flags::REQUEST_FLAG_REUSED),
            pipelined: flag(request_flags::REQUEST_FLAG_PIPELINED),
            broken: flag(request_flags::REQUEST_FLAG_BROKEN),
            protocol: Protocol::Http1,
            grpc: None,
            trace_parent: trace_parent(&event.trace_parent),
            partial: false,
        })
    }
}

pub(super) fn identity_of(identity: &identity) -> Option<Identity> {
    let end = identity.comm.iter().position(|&byte| byte == 0).unwrap_or(identity.comm.len());
    let pid = (identity.pid != 0).then_some(identity.pid);
    (identity.cgroup != 0).then(|| Identity {
        cgroup: identity.cgroup,
        pid,
        uid: identity.uid,
        comm: match (end, pid) {
            (0, Some(pid)) => name_of(pid),
            _ => printable(&identity.comm[..end]),
        },
    })
}

/// The name of a process now: where its programs may not ask for it (see `choices` of choices.h), the kernel tells
/// none. Empty when the process has ended.
fn name_of(pid: u32) -> String {
    std::fs::read_to_string(format!("/proc/{pid}/comm")).unwrap_or_default().trim_end().to_owned()
}

/// Up to the first NUL; `None` when there is nothing before it.
fn trace_parent(bytes: &[std::ffi::c_char]) -> Option<String> {
    let end = bytes.iter().position(|&byte| byte == 0).unwrap_or(bytes.len());
    (end != 0).then(|| printable(&bytes[..end]))
}

/// The first `length` bytes; `None` when there are not as many.
pub(super) fn text(bytes: &[std::ffi::c_char], length: u8) -> Option<String> {
    bytes.get(..usize::from(length)).map(printable)
}

/// The same of a string of C.
pub(super) fn printable(bytes: &[std::ffi::c_char]) -> String {
    let bytes: Vec<u8> = bytes.iter().map(|&byte| byte as u8).collect();
    shown(&bytes)
}

/// The first bytes of a foreign text, and whether there were more than `most`.
pub(super) fn cut_text(bytes: &[u8], most: usize) -> (String, bool) {
    (shown(&bytes[..bytes.len().min(most)]), bytes.len() > most)
}

/// Foreign text for terminals and labels: what cannot be shown is replaced.
pub fn shown(bytes: &[u8]) -> String {
    let text = String::from_utf8_lossy(bytes);
    text.chars().map(|c| if c.is_control() { char::REPLACEMENT_CHARACTER } else { c }).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn event() -> request_event {
        let mut event = request_event { r#type: abi::EVENT_TYPE_REQUEST, ..Default::default() };
        event.status = 200;
        event.method = 1;
        event.target_length = 2;
        event.target[0] = b'/' as _;
        event.target[1] = 0x1b;
        event.client.cgroup = 7;
        event.client.comm[0] = b'w' as _;
        event
    }

    #[test]
    fn reads_what_the_kernel_writes() {
        let request = Request::decode(event().bytes()).unwrap();
        assert_eq!((request.method, request.status), (Method::Get, Some(200)));
        assert_eq!(request.target, "/\u{fffd}", "a terminal must not be steered by a path");
        let client = request.client.unwrap();
        assert_eq!((client.cgroup, client.pid, client.comm.as_str()), (7, None, "w"));
        assert_eq!(request.server, None);
    }

    #[test]
    fn refuses_what_the_kernel_cannot_have_written() {
        let mut long = event();
        long.target_length = 113;
        assert!(matches!(Request::decode(long.bytes()), Err(Malformed::Field { .. })));
        let mut method = event();
        method.method = abi::METHODS as u8;
        assert!(matches!(Request::decode(method.bytes()), Err(Malformed::Field { field: "method", .. })));
        let short = &event().bytes()[1..].to_vec();
        assert!(matches!(Request::decode(short), Err(Malformed::Size { .. })));
        assert!(matches!(Request::decode(&[0; size_of::<request_event>()]), Err(Malformed::Type(0))));
    }

    proptest! {
        #[test]
        fn never_panics(mut bytes in proptest::collection::vec(any::<u8>(), size_of::<request_event>())) {
            bytes[..4].copy_from_slice(&1u32.to_ne_bytes());
            let _ = Request::decode(&bytes);
        }
    }
}
