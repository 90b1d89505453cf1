//! Series: what the exchanges of one kind came to.

use std::collections::HashMap;
use std::net::SocketAddr;
use std::time::Duration;

use super::Maps;
use super::abi::{path, series, series_key};
use super::event::{Grpc, Method, PathLabel, Protocol, Side, printable};
use super::latency::Latencies;
use crate::Error;
use crate::abi::{NONE, socket_addr};

/// Whom the requests of a series went to.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Destination {
    /// Number of the service that the client dialled; `None`: none.
    pub service: Option<u32>,
    /// The server's end of the connection, after balancing.
    pub address: SocketAddr,
    /// Cgroup of the server's socket; `None`: not on this host or not observed.
    pub cgroup: Option<u64>,
}

/// What the requests of a series have in common.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct SeriesKey {
    /// Cgroup of the client's socket; `None`: not on this host or not observed.
    pub source: Option<u64>,
    /// Whom they went to.
    pub destination: Destination,
    /// The method.
    pub method: Method,
    /// Path without query, where `{n}`, `{uuid}` and `{hex}` stand for such segments; `None`: there was no room for
    /// its text.
    pub path: Option<String>,
    /// `None`: the connection ended before the response did.
    pub status: Option<u16>,
    /// Where they were seen.
    pub side: Side,
    /// The way that they took.
    pub path_label: PathLabel,
    /// What was spoken: the kernel counts HTTP/1, this process HTTP/2.
    pub protocol: Protocol,
    /// Calls of gRPC alone: how they ended, `Some(None)` without a status.
    pub grpc_status: Option<Option<u8>>,
}

impl SeriesKey {
    /// Whether these requests failed by their server's fault: 5xx, no response, or a status of gRPC that says so.
    pub fn failed(&self) -> bool {
        let call = |status| Grpc { service: String::new(), method: String::new(), status }.failed();
        self.status.is_none_or(|status| (500..600).contains(&status)) || self.grpc_status.is_some_and(call)
    }
}

/// What was counted of them.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Series {
    /// What they have in common.
    pub key: SeriesKey,
    /// How many there were.
    pub count: u64,
    /// Heads and bodies.
    pub request_bytes: u64,
    /// Heads and bodies.
    pub response_bytes: u64,
    /// Sum, from the first byte of the request to the last of the response.
    pub latency: Duration,
    /// Sum, to the first byte of the response.
    pub first_byte: Duration,
    /// Of latency.
    pub latencies: Latencies,
}

pub(super) fn read(
    maps: &Maps,
    paths: &HashMap<u64, String>,
    each: &mut dyn FnMut(Series),
) -> Result<(), Error> {
    maps.series.for_each(|key, values| {
        if let Some(key) = key_of(&key, paths) {
            each(add_up(key, values));
        }
    })
}

pub(super) fn overflow(maps: &Maps) -> Result<Series, Error> {
    let mut sum = add_up(everything(Protocol::Http1), &[]);
    maps.series_overflow.for_each(|_, values| sum = add_up(everything(Protocol::Http1), values))?;
    Ok(sum)
}

/// The key of what has none.
pub(super) fn everything(protocol: Protocol) -> SeriesKey {
    SeriesKey {
        source: None,
        destination: Destination { service: None, address: SocketAddr::from(([0; 4], 0)), cgroup: None },
        method: Method::Other,
        path: None,
        status: None,
        side: Side::Client,
        path_label: PathLabel::Observed,
        protocol,
        grpc_status: None,
    }
}

/// `None` for what this version does not know.
fn key_of(key: &series_key, paths: &HashMap<u64, String>) -> Option<SeriesKey> {
    Some(SeriesKey {
        source: (key.source != 0).then_some(key.source),
        destination: Destination {
            service: (key.service != NONE).then_some(key.service),
            address: socket_addr(key.address, key.port),
            cgroup: (key.destination != 0).then_some(key.destination),
        },
        method: Method::from_number(key.method)?,
        path: paths.get(&key.path).cloned(),
        status: (key.status != 0).then_some(key.status),
        side: Side::from_number(key.side)?,
        path_label: PathLabel::from_number(u8::try_from(key.path_label).ok()?)?,
        protocol: Protocol::Http1,
        grpc_status: None,
    })
}

impl Series {
    pub(super) fn empty(key: SeriesKey) -> Self {
        Self {
            key,
            count: 0,
            request_bytes: 0,
            response_bytes: 0,
            latency: Duration::ZERO,
            first_byte: Duration::ZERO,
            latencies: Latencies::default(),
        }
    }
}

fn add_up(key: SeriesKey, values: &[series]) -> Series {
    let mut sum = Series::empty(key);
    for value in values {
        sum.count += value.count;
        sum.request_bytes += value.request_bytes;
        sum.response_bytes += value.response_bytes;
        sum.latency += Duration::from_nanos(value.latency_ns);
        sum.first_byte += Duration::from_nanos(value.first_byte_ns);
        sum.latencies.add(&Latencies { counts: value.buckets });
    }
    sum
}

pub(super) fn path_text(path: &path) -> String {
    let length = (path.length as usize).min(path.text.len());
    printable(&path.text[..length])
}
