//! What a trace asks for, in the form that the kernel looks for it.

use std::net::SocketAddr;
use std::time::Duration;

use super::abi::{self, filter, filter_sets};
use super::event::{Identity, Method, Request};
use crate::abi::NONE;

/// A limit on events: so many a second, with so many at once after a pause.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Rate {
    /// Events a second, on average; at least 1.
    pub per_second: u32,
    /// Events that may come at once after a pause; at least 1.
    pub burst: u32,
}

/// Kinds of events that a trace may ask for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Kinds {
    /// HTTP requests.
    pub requests: bool,
    /// What happens to TCP sockets.
    pub tcp: bool,
    /// DNS queries.
    pub dns: bool,
}

impl Default for Kinds {
    /// Requests alone.
    fn default() -> Self {
        Self { requests: true, tcp: false, dns: false }
    }
}

impl Kinds {
    fn bits(self) -> u32 {
        u32::from(self.requests) << abi::EVENT_TYPE_REQUEST
            | u32::from(self.tcp) << abi::EVENT_TYPE_TCP
            | u32::from(self.dns) << abi::EVENT_TYPE_DNS
    }
}

/// What a trace asks for: requests for which all of these hold. The default asks for everything.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Filter {
    /// What kinds of events. Status, methods and prefix are asked of requests alone.
    pub kinds: Kinds,
    /// Number of the service that was dialled.
    pub service: Option<u32>,
    /// First and last status, included: `(500, 599)`. Requests without a response have none and do not match.
    pub status: Option<(u16, u16)>,
    /// One of these; empty: any.
    pub methods: Vec<Method>,
    /// What the target begins with; at most 64 bytes.
    pub path_prefix: String,
    /// At least this long from the first byte of the request to the last of the response.
    pub min_latency: Duration,
    /// Process of the client or of the server.
    pub pid: Option<u32>,
    /// What the name of the client's or the server's thread begins with; at most 15 bytes.
    pub comm: String,
    /// Number of the cgroup of the client or of the server: one of these; `None`: any.
    pub cgroups: Option<Vec<u64>>,
    /// The server's address, after balancing: one of these; `None`: any.
    pub endpoints: Option<Vec<SocketAddr>>,
    /// One of so many, by chance; 0 and 1: all.
    pub one_in: u32,
    /// At most so many; what is kept back is counted as `event-limited`.
    pub rate: Option<Rate>,
}

/// Why a filter cannot be looked for.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum FilterError {
    /// A text is longer than the kernel compares.
    #[error("{what} {text:?} is longer than {max} bytes")]
    TooLong {
        /// The path prefix or the name.
        what: &'static str,
        /// What was asked for.
        text: String,
        /// The longest.
        max: usize,
    },
    /// No status can match.
    #[error("status {0} to {1} is empty; give the lower one first, both from 100 to 999")]
    Status(u16, u16),
    /// No event could ever be sent.
    #[error(
        "a rate of {per_second} a second with bursts of {burst} lets nothing through; both must be 1 or more"
    )]
    Rate {
        /// As asked for.
        per_second: u32,
        /// As asked for.
        burst: u32,
    },
}

impl Filter {
    pub(super) fn pack(&self) -> Result<filter, FilterError> {
        let mut entry = filter { active: 1, service: self.service.unwrap_or(NONE), ..Default::default() };
        if let Some((from, to)) = self.status {
            if from > to || from < 100 || to > 999 {
                return Err(FilterError::Status(from, to));
            }
            (entry.status_from, entry.status_to) = (from, to);
        }
        if let Some(Rate { per_second, burst }) = self.rate {
            if per_second == 0 || burst == 0 {
                return Err(FilterError::Rate { per_second, burst });
            }
            entry.interval_ns = 1_000_000_000 / u64::from(per_second);
            // One of the burst is the event that is due now.
            entry.burst_ns = entry.interval_ns * u64::from(burst - 1);
        }
        for &method in &self.methods {
            entry.methods |= 1 << method as u32;
        }
        entry.latency_ns = self.min_latency.as_nanos().try_into().unwrap_or(u64::MAX);
        entry.pid = self.pid.unwrap_or(0);
        entry.events = self.kinds.bits();
        match self.cgroups.as_deref() {
            None => {}
            Some(&[only]) => entry.cgroup = only,
            Some(_) => entry.sets |= filter_sets::FILTER_SET_CGROUPS.0,
        }
        if self.endpoints.is_some() {
            entry.sets |= filter_sets::FILTER_SET_ENDPOINTS.0;
        }
        entry.one_in = self.one_in;
        entry.prefix_length = put("path prefix", &self.path_prefix, &mut entry.prefix, abi::PREFIX_SIZE)?;
        // The last byte of the kernel's is always NUL.
        entry.comm_length = put("process name", &self.comm, &mut entry.comm, abi::COMM_SIZE - 1)?;
        Ok(entry)
    }
}

impl Filter {
    /// Whether it asks for this request; the same answer as the kernel's (`bpf/observe/trace.h`), for requests that only
    /// user space can read.
    fn asks_for(&self, request: &Request) -> bool {
        self.kinds.requests
            && request.latency >= self.min_latency
            && self.asks_for_service(request)
            && [&request.client, &request.server].iter().any(|end| self.asks_for_end(end.as_ref()))
            && (self.methods.is_empty() || self.methods.contains(&request.method))
            && self.status.is_none_or(|(from, to)| (from..=to).contains(&request.status.unwrap_or(0)))
            && request.target.starts_with(&self.path_prefix)
    }

    fn asks_for_service(&self, request: &Request) -> bool {
        match (self.service, &self.endpoints, request.service) {
            (None, None, _) => true,
            (Some(wanted), _, Some(dialled)) => wanted == dialled,
            (_, Some(endpoints), _) => endpoints.contains(&request.server_address),
            (_, None, _) => false,
        }
    }

    fn asks_for_end(&self, end: Option<&Identity>) -> bool {
        if self.pid.is_none() && self.cgroups.is_none() && self.comm.is_empty() {
            return true;
        }
        end.is_some_and(|end| {
            self.pid.is_none_or(|pid| end.pid == Some(pid))
                && self.cgroups.as_ref().is_none_or(|cgroups| cgroups.contains(&end.cgroup))
                && end.comm.starts_with(&self.comm)
        })
    }
}

/// A filter at work in user space.
pub(super) struct Sieve {
    filter: Filter,
    /// When the next event is due, as in the kernel's `filter_allows()`.
    due: Duration,
    passed: u32,
}

impl Sieve {
    pub(super) fn new(filter: &Filter) -> Self {
        Self { filter: filter.clone(), due: Duration::ZERO, passed: 0 }
    }

    pub(super) fn kinds(&self) -> Kinds {
        self.filter.kinds
    }

    pub(super) fn change(&mut self, filter: &Filter) {
        self.filter = filter.clone();
    }

    /// Whether the request is for this trace; `limited` counts what its rate keeps back.
    pub(super) fn lets(&mut self, request: &Request, limited: &mut u64) -> bool {
        if !self.filter.asks_for(request) {
            return false;
        }
        if self.filter.one_in > 1 {
            // Every so many instead of by chance: nobody sees a difference, and it needs no dice.
            self.passed = (self.passed + 1) % self.filter.one_in;
            if self.passed != 0 {
                return false;
            }
        }
        let Some(Rate { per_second, burst }) = self.filter.rate else { return true };
        let interval = Duration::from_secs(1) / per_second.max(1);
        let now = request.started + request.latency;
        let start = self.due.max(now.saturating_sub(interval * burst.saturating_sub(1)));
        if start > now {
            *limited += 1;
            return false;
        }
        self.due = start + interval;
        true
    }
}

fn put(what: &'static str, text: &str, to: &mut [std::ffi::c_char], max: usize) -> Result<u32, FilterError> {
    if text.len() > max {
        return Err(FilterError::TooLong { what, text: text.into(), max });
    }
    for (to, from) in to.iter_mut().zip(text.bytes()) {
        *to = from as _;
    }
    Ok(text.len() as u32)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn says_what_cannot_be_looked_for() {
        let long = Filter { path_prefix: "/".repeat(65), ..Default::default() };
        assert!(matches!(long.pack(), Err(FilterError::TooLong { max: 64, .. })));
        let status = Filter { status: Some((599, 500)), ..Default::default() };
        assert_eq!(status.pack().unwrap_err(), FilterError::Status(599, 500));
        let rate = Filter { rate: Some(Rate { per_second: 0, burst: 1 }), ..Default::default() };
        assert!(matches!(rate.pack(), Err(FilterError::Rate { .. })));
    }

    #[test]
    fn the_default_asks_for_everything() {
        let entry = Filter::default().pack().unwrap();
        assert_eq!((entry.active, entry.service, entry.methods, entry.status_to), (1, NONE, 0, 0));
    }
}
