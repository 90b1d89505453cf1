//! What is counted of requests.

use std::collections::{BTreeMap, HashMap};
use std::net::SocketAddr;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use alize_model::control::RequestCounters;
use http::StatusCode;

use crate::back::lock;
use crate::reason::Reason;
use crate::route::Lost;

/// Series of one service; further ones are counted without their endpoint, and then together.
const MOST_SERIES: usize = 4096;
/// Bucket `i` ends at 2^((i - 71) / 4) seconds, as everywhere in the mesh.
const LAST_BUCKET: u32 = 111;

/// One service's counters. They outlive every state.
#[derive(Debug, Default)]
pub(crate) struct Counters {
    counted: Mutex<Counted>,
}

#[derive(Debug, Default)]
struct Counted {
    series: HashMap<(Option<Arc<str>>, Option<SocketAddr>), RequestCounters>,
    reasons: BTreeMap<&'static str, u64>,
    refused: BTreeMap<Reason, u64>,
    retries: u64,
    lost_copies: BTreeMap<Lost, u64>,
}

/// One request that is over.
#[derive(Debug)]
pub(crate) struct Request {
    pub(crate) route: Option<Arc<str>>,
    pub(crate) endpoint: Option<SocketAddr>,
    /// `None` when it ended without a response.
    pub(crate) status: Option<StatusCode>,
    pub(crate) request_bytes: u64,
    pub(crate) response_bytes: u64,
    pub(crate) took: Duration,
}

impl Counters {
    pub(crate) fn request(&self, request: Request) {
        let mut counted = lock(&self.counted);
        let mut key = (request.route, request.endpoint);
        if counted.series.len() >= MOST_SERIES && !counted.series.contains_key(&key) {
            key = (None, None);
        }
        let series = counted.series.entry(key).or_default();
        let class = request.status.map_or(0, |status| usize::from(status.as_u16() / 100).min(5));
        series.statuses[class] += 1;
        series.request_bytes += request.request_bytes;
        series.response_bytes += request.response_bytes;
        series.latency_sum += request.took.as_secs_f64();
        *series.buckets.entry(bucket(request.took)).or_default() += 1;
    }

    pub(crate) fn came_because(&self, reason: &'static str) {
        *lock(&self.counted).reasons.entry(reason).or_default() += 1;
    }

    pub(crate) fn refused(&self, reason: Reason) {
        *lock(&self.counted).refused.entry(reason).or_default() += 1;
    }

    pub(crate) fn retry(&self) {
        lock(&self.counted).retries += 1;
    }

    pub(crate) fn lost_copy(&self, why: Lost) {
        *lock(&self.counted).lost_copies.entry(why).or_default() += 1;
    }

    /// As the agent is told; `None` if nothing was counted.
    pub(crate) fn report(
        &self,
        service: &alize_model::ServiceName,
    ) -> Option<alize_model::control::ServiceCounters> {
        let counted = lock(&self.counted);
        if counted.series.is_empty() && counted.refused.is_empty() {
            return None;
        }
        let series = counted.series.iter().map(|((route, endpoint), series)| RequestCounters {
            route: route.clone(),
            endpoint: *endpoint,
            ..series.clone()
        });
        Some(alize_model::control::ServiceCounters {
            service: service.clone(),
            requests: series.collect(),
            reasons: counted.reasons.iter().map(|(name, count)| ((*name).to_owned(), *count)).collect(),
            refused: counted
                .refused
                .iter()
                .map(|(reason, count)| (reason.name().to_owned(), *count))
                .collect(),
            retries: counted.retries,
            lost_copies: counted
                .lost_copies
                .iter()
                .map(|(why, count)| (why.name().to_owned(), *count))
                .collect(),
            remote: 0,
        })
    }
}

/// The bucket of a latency.
pub(crate) fn bucket(took: Duration) -> u32 {
    let octaves = took.as_secs_f64().max(1e-9).log2();
    (octaves * 4.0 + 71.0).ceil().clamp(0.0, f64::from(LAST_BUCKET)) as u32
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_latency_is_at_most_the_end_of_its_bucket() {
        assert_eq!(bucket(Duration::from_secs(1)), 71);
        assert_eq!(bucket(Duration::from_millis(1001)), 72);
        assert_eq!(bucket(Duration::ZERO), 0);
        assert_eq!(bucket(Duration::MAX), LAST_BUCKET);
        for micros in [5_u64, 80, 999, 1_000, 12_345, 3_000_000] {
            let end = 2_f64.powf((f64::from(bucket(Duration::from_micros(micros))) - 71.0) / 4.0);
            let seconds = micros as f64 / 1e6;
            assert!(seconds <= end && seconds > end / 1.2, "{micros} µs in a bucket up to {end} s");
        }
    }

    #[test]
    fn series_are_bounded() {
        let counters = Counters::default();
        for port in 0..MOST_SERIES as u16 + 100 {
            let endpoint = Some(SocketAddr::from(([127, 0, 0, 1], port)));
            counters.request(Request {
                route: None,
                endpoint,
                status: Some(StatusCode::OK),
                request_bytes: 1,
                response_bytes: 2,
                took: Duration::from_millis(1),
            });
        }
        let report = counters.report(&alize_model::ServiceName::new("a").unwrap()).unwrap();
        assert_eq!(report.requests.len(), MOST_SERIES + 1);
        let all: u64 = report.requests.iter().map(|series| series.statuses[2]).sum();
        assert_eq!(all, MOST_SERIES as u64 + 100, "none is lost");
    }
}
