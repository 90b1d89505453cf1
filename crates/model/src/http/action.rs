//! What a route does with a request.

use std::num::{NonZeroU8, NonZeroU16};
use std::sync::Arc;
use std::time::Duration;

use serde::{Deserialize, Serialize};

use super::{FieldName, FieldValue};
use crate::{Labels, ServiceName};

/// What becomes of a request.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Action {
    /// It goes to an endpoint.
    Forward(Forward),
    /// The client is sent elsewhere.
    Redirect(Redirect),
    /// The proxy answers.
    Respond(Respond),
}

/// A request on its way to an endpoint.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct Forward {
    /// Where to, in proportion to the weights; at least one is above 0. A backend without a usable endpoint leaves its
    /// share to the others, as in a [`crate::Split`].
    pub backends: Vec<Backend>,
    /// Edits of the request.
    pub request_headers: HeaderEdit,
    /// Another path or host.
    pub rewrite: Rewrite,
    /// Copies whose answers nobody waits for.
    pub mirrors: Vec<Mirror>,
    /// How long it may take.
    pub timeouts: Timeouts,
    /// Further tries.
    pub retry: Option<Retry>,
}

impl Forward {
    /// Just that.
    pub fn to(backends: Vec<Backend>) -> Self {
        Self {
            backends,
            request_headers: HeaderEdit::default(),
            rewrite: Rewrite::default(),
            mirrors: Vec::new(),
            timeouts: Timeouts::default(),
            retry: None,
        }
    }
}

/// Endpoints and their share of a route's requests.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct Backend {
    /// Which endpoints.
    pub target: Target,
    /// The share against the other backends. Within a backend the endpoints' own weights count.
    pub weight: u16,
}

impl Backend {
    /// Every endpoint of the service.
    pub fn all() -> Self {
        Self { target: Target { service: None, labels: Labels::new() }, weight: 1 }
    }
}

/// Endpoints of one service. Routes of another service are not asked: a request is routed once.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct Target {
    /// Another service of the snapshot, with `protocol: http`; the route's own when absent (and never named here).
    pub service: Option<ServiceName>,
    /// Those that carry all of these labels; every one when empty.
    pub labels: Labels,
}

impl Target {
    /// Whether an endpoint with `labels` of the target's service belongs to it.
    pub fn selects(&self, labels: &Labels) -> bool {
        self.labels.iter().all(|(name, value)| labels.get(name) == Some(value))
    }
}

/// Edits of headers, done in this order: set, add, remove. No name stands in two of them.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct HeaderEdit {
    /// Replace what is there.
    pub set: Vec<(FieldName, FieldValue)>,
    /// Put beside what is there.
    pub add: Vec<(FieldName, FieldValue)>,
    /// Take out.
    pub remove: Vec<FieldName>,
}

impl HeaderEdit {
    /// Whether it changes nothing.
    pub fn is_empty(&self) -> bool {
        self.set.is_empty() && self.add.is_empty() && self.remove.is_empty()
    }
}

/// Another path or host, as the endpoint sees it.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct Rewrite {
    /// The new path; the query stays.
    pub path: Option<PathChange>,
    /// The new Host (or `:authority`).
    pub host: Option<Arc<str>>,
}

/// How a path is changed.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum PathChange {
    /// This instead of the whole path.
    Full(Arc<str>),
    /// This instead of the prefix that matched; every match of the route is a prefix then. Without `/` at the end,
    /// unless it is `/`.
    Prefix(Arc<str>),
}

impl PathChange {
    /// Writes the changed `path` to `out`; `matched` is the prefix that matched, as in
    /// [`PathMatch::Prefix`](super::PathMatch::Prefix).
    pub fn apply(&self, path: &str, matched: &str, out: &mut String) {
        match self {
            Self::Full(new) => out.push_str(new),
            Self::Prefix(new) => {
                let rest = path.strip_prefix(matched.trim_end_matches('/')).unwrap_or(path);
                let new = new.trim_end_matches('/');
                out.push_str(new);
                if !rest.starts_with('/') && new.is_empty() {
                    out.push('/');
                }
                out.push_str(rest);
            }
        }
    }
}

/// Sends the client elsewhere; at least one part differs from what was asked. The query stays.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct Redirect {
    /// `http` or `https`; as asked when absent.
    pub scheme: Option<Scheme>,
    /// As asked when absent.
    pub host: Option<Arc<str>>,
    /// As asked when absent.
    pub path: Option<PathChange>,
    /// The scheme's own, if a scheme is given, else as asked, when absent.
    pub port: Option<NonZeroU16>,
    /// 301, 302, 303, 307 or 308.
    pub status: u16,
}

/// The scheme of a redirect.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Scheme {
    /// Port 80.
    Http,
    /// Port 443.
    Https,
}

/// An answer made by the proxy.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct Respond {
    /// 200 to 599.
    pub status: u16,
    /// At most 4,096 bytes.
    pub body: Option<Arc<str>>,
    /// What the body is; `text/plain; charset=utf-8` when absent.
    pub content_type: Option<FieldValue>,
}

/// A share of all requests, in millionths: 0 to 1,000,000.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct Fraction(pub(crate) u32);

impl Fraction {
    /// All of them.
    pub const ALL: Self = Self(1_000_000);

    /// In millionths; more than all is all.
    pub fn millionths(millionths: u32) -> Self {
        Self(millionths.min(Self::ALL.0))
    }

    /// In millionths.
    pub fn as_millionths(self) -> u32 {
        self.0
    }

    /// Whether it takes a request for which `random` was drawn evenly from all 32-bit numbers.
    pub fn takes(self, random: u32) -> bool {
        (u64::from(random) * 1_000_000) >> 32 < u64::from(self.0)
    }
}

/// A copy of the request to another place; its answer is thrown away.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct Mirror {
    /// Where to.
    pub target: Target,
    /// How many requests.
    pub fraction: Fraction,
}

/// Cross-origin requests of browsers (the Fetch standard's CORS protocol).
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct Cors {
    /// `*`, `https://shop.example` or `https://*.example`.
    pub allow_origins: Vec<Arc<str>>,
    /// Methods beyond the simple ones; `*` is all.
    pub allow_methods: Vec<Arc<str>>,
    /// Request headers; `*` is all.
    pub allow_headers: Vec<Arc<str>>,
    /// Response headers that scripts may read; `*` is all.
    pub expose_headers: Vec<Arc<str>>,
    /// Whether cookies are sent; never with the origin `*` alone.
    pub allow_credentials: bool,
    /// How long a browser may remember; 5 s when absent, which is what browsers do.
    pub max_age: Option<Duration>,
}

/// Faults put in on purpose.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct Fault {
    /// Wait first.
    pub delay: Option<(Duration, Fraction)>,
    /// Answer with this status instead; after the delay, drawn on its own.
    pub abort: Option<(u16, Fraction)>,
}

/// How long a request may take; for ever when absent.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct Timeouts {
    /// From its head to the end of its response, all tries together; 504 after it.
    pub request: Option<Duration>,
    /// From the start of a try to the head of its response; not above `request`.
    pub per_try: Option<Duration>,
}

/// Further tries after a failure. A request with a method that is not idempotent is tried again only if it was
/// certainly not processed.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct Retry {
    /// Tries after the first.
    pub attempts: NonZeroU8,
    /// Statuses that are failures, sorted, 400 to 599.
    pub statuses: Vec<u16>,
    /// Other failures, sorted.
    pub causes: Vec<RetryCause>,
    /// Before the first further try; then twice as long each time, each cut by chance to between a half and the whole.
    pub backoff: Duration,
    /// No wait is longer.
    pub max_backoff: Duration,
    /// Further tries of all requests together, against an avalanche; without it only `attempts` bounds.
    pub budget: Option<Budget>,
}

/// Failures other than a status.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum RetryCause {
    /// No connection could be made: nothing was sent.
    Connect,
    /// The connection ended before a response began.
    Reset,
    /// A try took longer than `per_try`.
    Timeout,
}

/// How many further tries may be made.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct Budget {
    /// Percent of the requests of the last 10 seconds, 0 to 100.
    pub percent: u8,
    /// At least so many a second are allowed.
    pub min_per_second: u32,
}
