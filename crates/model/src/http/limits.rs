//! How an HTTP service treats its endpoints.

use std::num::{NonZeroU16, NonZeroU32, NonZeroU64};
use std::sync::Arc;
use std::time::Duration;

use serde::{Deserialize, Serialize};

use super::{FieldName, hash};
use crate::ServiceName;

/// What endpoints are spoken to with.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Upstream {
    /// HTTP/1.1. Requests that come in HTTP/2 are turned into it, unless they are gRPC, which goes on in HTTP/2.
    #[default]
    Http1,
    /// HTTP/2 without TLS, by prior knowledge.
    H2c,
}

/// How an endpoint is chosen for a request.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum HttpBalance {
    /// The better of two drawn by chance: fewer outstanding requests for its weight.
    #[default]
    LeastRequests,
    /// In turn, in proportion to the weights.
    RoundRobin,
    /// By chance, in proportion to the weights.
    WeightedRandom,
    /// Requests that are alike to the same endpoint, few of them moved when endpoints change.
    ConsistentHash(HashOn),
}

/// What makes requests alike. A request without it is balanced by [`HttpBalance::LeastRequests`].
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum HashOn {
    /// The value of a header.
    Header(FieldName),
    /// The value of a cookie.
    Cookie(Arc<str>),
    /// Who calls: the client's IP address in its network namespace.
    Source,
}

/// Connections kept open to each endpoint, for each network namespace of clients.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct Pool {
    /// So many idle ones are kept ready, once there was a request; not above `max`.
    pub min_idle: u32,
    /// Never more connections.
    pub max: NonZeroU32,
    /// Idle ones above `min_idle` are closed after this time.
    pub idle_timeout: Duration,
    /// How long making one may take.
    pub connect_timeout: Duration,
    /// How long an endpoint may be silent while a response is owed; for ever when absent.
    pub response_timeout: Option<Duration>,
}

impl Default for Pool {
    fn default() -> Self {
        Self {
            min_idle: 1,
            max: const { NonZeroU32::new(1024).unwrap() },
            idle_timeout: Duration::from_secs(30),
            connect_timeout: Duration::from_secs(5),
            response_timeout: None,
        }
    }
}

/// Bounds for each endpoint; what is beyond them is answered 503 at once.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct Circuit {
    /// Connections of the proxy.
    pub max_connections: Option<NonZeroU32>,
    /// Requests that wait for a connection.
    pub max_pending: Option<u32>,
    /// Requests that are outstanding.
    pub max_requests: Option<NonZeroU32>,
}

/// Ejection of endpoints by their answers.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct Outlier {
    /// So many 5xx in a row eject.
    pub consecutive_5xx: Option<NonZeroU16>,
    /// So many 502, 503, 504 and failed connections in a row eject.
    pub consecutive_gateway_errors: Option<NonZeroU16>,
    /// So many responses in a row that began later than this eject.
    pub consecutive_slow: Option<(NonZeroU16, Duration)>,
    /// The first ejection lasts this long; each further one twice as long.
    pub base: Duration,
    /// No ejection lasts longer.
    pub max: Duration,
    /// At most this percentage of the endpoints is ejected at once, 0 to 100; one may always be, if another is left.
    pub max_ejected: u8,
}

/// A bound on requests, kept on this host; what is beyond it is answered 429 at once.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct RateLimit {
    /// Requests a second, in the long run.
    pub requests: NonZeroU32,
    /// So many at once.
    pub burst: NonZeroU32,
    /// Who shares the bound.
    pub per: LimitPer,
}

impl RateLimit {
    /// Between two requests, in the long run, in nanoseconds.
    pub fn interval_ns(&self) -> u64 {
        1_000_000_000 / u64::from(self.requests.get())
    }

    /// How far ahead of now a bucket may be that is not yet empty, in nanoseconds: the burst, less one request.
    pub fn room_ns(&self) -> u64 {
        self.interval_ns() * u64::from(self.burst.get() - 1)
    }

    /// The name of its buckets, of `service` or of its route `route`: where the limit is changed they are others, and
    /// nothing else tells limits apart, for both executions have to come to the same.
    pub fn bucket(&self, service: &ServiceName, route: Option<&str>) -> NonZeroU64 {
        let seed = hash(service.as_str().as_bytes(), route.is_some().into());
        let seed = hash(route.unwrap_or_default().as_bytes(), seed);
        let per = u8::from(self.per == LimitPer::Client);
        let numbers = [self.requests.get().to_le_bytes(), self.burst.get().to_le_bytes(), [per, 0, 0, 0]];
        NonZeroU64::new(hash(numbers.as_flattened(), seed)).unwrap_or(NonZeroU64::MIN)
    }
}

/// Who shares a rate limit.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum LimitPer {
    /// All requests that come to where the limit is written: the service, or the route.
    #[default]
    All,
    /// The requests of one client: its IP address in its network namespace.
    Client,
}
