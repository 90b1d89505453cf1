//! What user space counts itself: the requests that only it can read (HTTP/2), in series as the kernel's, within the same
//! bounds, and a flight recorder of them. It lives as long as the process that observes.

use std::collections::{HashMap, HashSet, VecDeque};
use std::time::Duration;

use super::event::{Protocol, Request};
use super::series::{Destination, Series, SeriesKey, everything};
use super::template::PathTemplate;
use super::{Limits, abi};

/// Requests kept of each kind; as many as the kernel keeps.
const RECORDS: usize = abi::RECORDS;
/// What is older than this is no longer among the slowest of late; looked at once in so many requests.
const OF_LATE: Duration = Duration::from_secs(600);
const LOOK: u64 = 256;
/// From this length on a segment of hexadecimal digits is an id, as in `bpf/observe/target.h`.
const HEXADECIMAL: usize = 16;

/// Series and records.
pub(super) struct Counted {
    limits: Limits,
    series: HashMap<SeriesKey, Series>,
    overflow: Series,
    paths: HashSet<String>,
    slowest: Vec<Request>,
    failed: VecDeque<Request>,
    pub(super) exchanges: u64,
    pub(super) unanswered: u64,
    pub(super) series_overflow: u64,
    pub(super) path_overflow: u64,
    pub(super) limited: u64,
    pub(super) events: u64,
}

impl Counted {
    pub(super) fn new(limits: &Limits) -> Self {
        Self {
            limits: *limits,
            series: HashMap::new(),
            overflow: Series::empty(everything(Protocol::Http2)),
            paths: HashSet::new(),
            slowest: Vec::new(),
            failed: VecDeque::new(),
            exchanges: 0,
            unanswered: 0,
            series_overflow: 0,
            path_overflow: 0,
            limited: 0,
            events: 0,
        }
    }

    pub(super) fn add(&mut self, request: &Request, templates: &[PathTemplate]) {
        match request.status {
            Some(_) => self.exchanges += 1,
            None => self.unanswered += 1,
        }
        self.count(request, templates);
        self.record(request);
    }

    fn count(&mut self, request: &Request, templates: &[PathTemplate]) {
        let key = SeriesKey {
            source: request.client.as_ref().map(|client| client.cgroup),
            destination: Destination {
                service: request.service,
                address: request.server_address,
                cgroup: request.server.as_ref().map(|server| server.cgroup),
            },
            method: request.method,
            path: self.path(&request.target, templates),
            status: request.status,
            side: request.side,
            path_label: request.path_label,
            protocol: request.protocol,
            grpc_status: request.grpc.as_ref().map(|grpc| grpc.status),
        };
        let full = self.series.len() >= self.limits.series as usize;
        let series = if full && !self.series.contains_key(&key) {
            self.series_overflow += 1;
            &mut self.overflow
        } else {
            self.series.entry(key.clone()).or_insert_with(|| Series::empty(key))
        };
        series.count += 1;
        series.request_bytes += request.request_bytes;
        series.response_bytes += request.response_bytes;
        series.latency += request.latency;
        series.first_byte += request.first_byte.unwrap_or_default();
        series.latencies.record(request.latency);
    }

    /// The path under which a target is counted; `None`: there is no room for its text.
    fn path(&mut self, target: &str, templates: &[PathTemplate]) -> Option<String> {
        let path = fold(target);
        if let Some(template) = templates.iter().find(|template| template.matches(&path)) {
            return Some(template.as_str().into());
        }
        if !self.paths.contains(&path) {
            if self.paths.len() >= self.limits.paths as usize {
                self.path_overflow += 1;
                return None;
            }
            self.paths.insert(path.clone());
        }
        Some(path)
    }

    fn record(&mut self, request: &Request) {
        let failed = request.status.is_none_or(|status| status >= 500)
            || request.grpc.as_ref().is_some_and(|grpc| grpc.failed());
        if failed {
            self.failed.truncate(RECORDS - 1);
            self.failed.push_front(request.clone());
        }
        if (self.exchanges + self.unanswered).is_multiple_of(LOOK) {
            self.slowest.retain(|slow| request.started.saturating_sub(slow.started) < OF_LATE);
        }
        let place = self.slowest.partition_point(|slower| slower.latency > request.latency);
        if place < RECORDS {
            self.slowest.truncate(RECORDS - 1);
            self.slowest.insert(place, request.clone());
        }
    }

    pub(super) fn series(&self) -> impl Iterator<Item = &Series> {
        self.series.values()
    }

    pub(super) fn overflow(&self) -> &Series {
        &self.overflow
    }

    pub(super) fn slowest(&self) -> &[Request] {
        &self.slowest
    }

    pub(super) fn failed(&self) -> impl Iterator<Item = &Request> {
        self.failed.iter()
    }
}

/// The path of a target with its ids folded, as the kernel does it (`bpf/observe/target.h`).
pub fn fold(target: &str) -> String {
    let path = target.split('?').next().unwrap_or_default();
    let mut folded = String::with_capacity(path.len());
    for (number, segment) in path.split('/').enumerate() {
        if number > 0 {
            folded.push('/');
        }
        folded.push_str(fold_segment(segment));
    }
    folded
}

fn fold_segment(segment: &str) -> &str {
    let digits = segment.bytes().filter(u8::is_ascii_digit).count();
    let hexadecimal = segment.bytes().filter(u8::is_ascii_hexdigit).count();
    let dashes: Vec<usize> =
        segment.bytes().enumerate().filter(|(_, byte)| *byte == b'-').map(|(place, _)| place).collect();
    if digits == 0 {
        segment
    } else if digits == segment.len() {
        "{n}"
    } else if segment.len() == 36 && hexadecimal == 32 && dashes == [8, 13, 18, 23] {
        "{uuid}"
    } else if segment.len() >= HEXADECIMAL && hexadecimal == segment.len() {
        "{hex}"
    } else {
        segment
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ids_are_folded() {
        assert_eq!(fold("/users/123/orders?x=1"), "/users/{n}/orders");
        assert_eq!(fold("/a/8d3f0f2e-6a1b-4c55-9d43-2f8a7d1e9b10"), "/a/{uuid}");
        assert_eq!(fold("/a/0123456789abcdef/b"), "/a/{hex}/b");
        assert_eq!(fold("/shop.Orders/Get"), "/shop.Orders/Get");
        assert_eq!(fold("/a/b12/"), "/a/b12/");
    }
}
