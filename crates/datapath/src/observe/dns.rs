//! DNS queries, as the kernel sends them.

use std::collections::HashMap;
use std::net::SocketAddr;
use std::time::{Duration, Instant};

use rustix::time::{ClockId, clock_gettime};

use super::abi::{self, dns_event, dns_flags, dns_key, dns_transport};
use super::event::{Identity, Malformed, identity_of, text};
use super::{Event, Limits, with_site};
use crate::abi::{Plain, socket_addr};
use crate::bundle::Bundle;
use crate::maps::Map;
use crate::pin::Pins;
use crate::{Error, Options, upgrade};

/// A query that has no response after this has none: resolvers ask anew after 2 to 5 seconds.
const PATIENCE: Duration = Duration::from_secs(5);
/// How often is looked for such queries.
const LOOK: Duration = Duration::from_secs(1);

/// A DNS query and its response.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DnsQuery {
    pub(super) matched: u32,
    /// When it was sent, of the monotonic clock.
    pub time: Duration,
    /// From then to the response; for a query without one, how long was waited.
    pub latency: Duration,
    /// Who asked.
    pub client: Option<Identity>,
    /// From where.
    pub client_address: SocketAddr,
    /// Whom.
    pub server_address: SocketAddr,
    /// The name asked for, its first 128 bytes, without the last dot.
    pub name: String,
    /// Whether there was more of the name.
    pub name_cut: bool,
    /// Type as a number: 1 is A, 28 is AAAA.
    pub query_type: u16,
    /// Response code as a number: 0 is no error, 3 no such name; `None`: no response came.
    pub code: Option<u8>,
    /// Records in the answer.
    pub answers: u16,
    /// Whether the server had more to say than fits a datagram.
    pub truncated: bool,
    /// Whether it was asked more than once.
    pub repeated: bool,
    /// Over TCP.
    pub tcp: bool,
}

impl DnsQuery {
    /// Reads a record of the ring.
    pub fn decode(bytes: &[u8]) -> Result<Self, Malformed> {
        let expected = size_of::<dns_event>();
        let event = dns_event::read(bytes).filter(|_| bytes.len() == expected);
        event.ok_or(Malformed::Size { found: bytes.len(), expected }).and_then(Self::from_event)
    }

    pub(super) fn from_event(event: dns_event) -> Result<Self, Malformed> {
        if event.r#type != abi::EVENT_TYPE_DNS {
            return Err(Malformed::Type(event.r#type));
        }
        let flag = |flag: dns_flags| u32::from(event.flags) & flag.0 != 0;
        if event.code > 15 {
            return Err(Malformed::Field { field: "response code", value: event.code.into() });
        }
        let long = Malformed::Field { field: "length of the name", value: event.name_length.into() };
        Ok(Self {
            matched: event.matched,
            time: Duration::from_nanos(event.time_ns),
            latency: Duration::from_nanos(event.latency_ns),
            client: identity_of(&event.client),
            client_address: socket_addr(event.client_address, event.client_port),
            server_address: socket_addr(event.server_address, event.server_port),
            name: text(&event.name, event.name_length).ok_or(long)?,
            name_cut: flag(dns_flags::DNS_FLAG_NAME_CUT),
            query_type: event.query_type,
            code: (!flag(dns_flags::DNS_FLAG_UNANSWERED)).then_some(event.code),
            answers: event.answers,
            truncated: flag(dns_flags::DNS_FLAG_TRUNCATED),
            repeated: flag(dns_flags::DNS_FLAG_REPEATED),
            tcp: flag(dns_flags::DNS_FLAG_TCP),
        })
    }
}

/// The attached programs' map of what was asked and not yet answered.
pub(super) struct Dns {
    queries: Map<dns_key, dns_event>,
    looked: Instant,
}

impl Dns {
    pub(super) fn attach(options: &Options, limits: &Limits, bundle: &Bundle) -> Result<Self, Error> {
        with_site(options, limits, |site| upgrade::observe_asked(site, bundle, "observe_dns"))?;
        let queries = Map::new(Pins::new(options)?.open("dns_queries")?)?;
        // What an earlier trace asked for.
        let mut old = Vec::new();
        queries.for_each(|key, _| old.push(key))?;
        queries.delete_all(old.into_iter())?;
        Ok(Self { queries, looked: Instant::now() })
    }

    /// The map may be another one.
    pub(super) fn keep_up(&mut self, pins: &Pins) -> Result<(), Error> {
        self.queries = Map::new(pins.open("dns_queries")?)?;
        Ok(())
    }

    /// Hands over queries that nobody has answered for a while, and forgets them; also those that may have been answered by
    /// what could not be followed, of which nothing is said.
    pub(super) fn unanswered(&mut self, each: &mut dyn FnMut(Result<Event, Malformed>)) -> Result<(), Error> {
        if self.looked.elapsed() < LOOK {
            return Ok(());
        }
        self.looked = Instant::now();
        let now = clock_gettime(ClockId::Monotonic);
        let now = Duration::new(now.tv_sec as u64, now.tv_nsec as u32);
        let (mut over, mut unfollowed) = (Vec::new(), HashMap::new());
        self.queries.for_each(|key, values| {
            for event in values {
                if is_unfollowed(&key) {
                    unfollowed.insert(connection(&key), event.time_ns);
                }
                if expired(event, now) {
                    over.push((key, *event));
                }
            }
        })?;
        for (key, mut event) in over {
            self.queries.delete_all(std::iter::once(key))?;
            let lost = unfollowed.get(&connection(&key)).is_some_and(|lost| *lost >= event.time_ns);
            if lost && key.tcp != dns_transport::DNS_TRANSPORT_UDP.0 as u16 {
                continue;
            }
            event.flags |= dns_flags::DNS_FLAG_UNANSWERED.0 as u8;
            let waited = now.saturating_sub(Duration::from_nanos(event.time_ns));
            event.latency_ns = waited.as_nanos().try_into().unwrap_or(u64::MAX);
            each(DnsQuery::from_event(event).map(Event::Dns));
        }
        Ok(())
    }
}

/// Whether it is no query but when responses of its connection could not be followed.
fn is_unfollowed(key: &dns_key) -> bool {
    u32::from(key.tcp) == dns_transport::DNS_TRANSPORT_UNFOLLOWED.0
}

fn connection(key: &dns_key) -> (SocketAddr, SocketAddr) {
    (socket_addr(key.client_address, key.client_port), socket_addr(key.server_address, key.server_port))
}

fn expired(event: &dns_event, now: Duration) -> bool {
    now.saturating_sub(Duration::from_nanos(event.time_ns)) >= PATIENCE
}
