//! HTTP between two moments: what the agent counted, less what it had counted before.

use std::collections::HashMap;
use std::net::SocketAddr;

use alize_datapath::observe::Latencies;
use alize_model::api::{ObservedCall, ObservedRequest, TrafficReport, TrafficSeries, Workload};
use serde::Serialize;

/// Who asked whom.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize)]
pub(crate) struct Ends {
    pub(crate) source: Option<Workload>,
    pub(crate) service: Option<String>,
    pub(crate) endpoint: SocketAddr,
    pub(crate) destination: Option<Workload>,
}

impl Ends {
    /// The client for people.
    pub(crate) fn source_name(&self) -> &str {
        self.source.as_ref().map_or("elsewhere", |workload| &workload.name)
    }

    /// The server for people; empty when it is not known.
    pub(crate) fn destination_name(&self) -> &str {
        self.destination.as_ref().map_or("", |workload| &workload.name)
    }

    /// The same whatever the workloads are called: a container may get its name between two reports.
    fn places(&self) -> Places<'_> {
        (cgroup(&self.source), self.service.as_deref(), self.endpoint, cgroup(&self.destination))
    }

    /// The service for people; empty when there is none.
    pub(crate) fn service_name(&self) -> &str {
        self.service.as_deref().unwrap_or_default()
    }
}

fn cgroup(workload: &Option<Workload>) -> Option<&str> {
    workload.as_ref().map(|workload| &*workload.cgroup)
}

type Places<'a> = (Option<&'a str>, Option<&'a str>, SocketAddr, Option<&'a str>);

/// What went on.
#[derive(Clone, Debug, Default)]
pub(crate) struct Flow {
    pub(crate) count: u64,
    pub(crate) errors: u64,
    pub(crate) request_bytes: u64,
    pub(crate) response_bytes: u64,
    pub(crate) latencies: Latencies,
}

impl Flow {
    pub(crate) fn add(&mut self, other: &Flow) {
        self.count += other.count;
        self.errors += other.errors;
        self.request_bytes += other.request_bytes;
        self.response_bytes += other.response_bytes;
        self.latencies.add(&other.latencies);
    }

    /// Counts a single request.
    pub(crate) fn add_request(&mut self, request: &ObservedRequest) {
        self.count += 1;
        // As the agent counts them: UNKNOWN, DEADLINE_EXCEEDED, UNIMPLEMENTED to DATA_LOSS, and none at all.
        let call_failed = |call: &ObservedCall| matches!(call.status, None | Some(2 | 4 | 12..=15));
        let failed = request.status.is_none_or(|status| status >= 500);
        self.errors += u64::from(failed || request.grpc.as_ref().is_some_and(call_failed));
        self.request_bytes += request.request_bytes;
        self.response_bytes += request.response_bytes;
        let last = Latencies::BUCKETS - 1;
        let bucket = (0..last).find(|&bucket| request.latency <= Latencies::bound(bucket));
        self.latencies.counts[bucket.unwrap_or(last)] += 1;
    }

    /// Seconds that a share of all stayed below.
    pub(crate) fn quantile(&self, share: f64) -> Option<f64> {
        self.latencies.quantile(share).map(|latency| latency.as_secs_f64())
    }

    fn of(series: &TrafficSeries) -> Self {
        let mut latencies = Latencies::default();
        for (bucket, count) in &series.buckets {
            if let Some(to) = latencies.counts.get_mut(*bucket as usize) {
                *to = *count;
            }
        }
        Self {
            count: series.count,
            errors: series.errors,
            request_bytes: series.request_bytes,
            response_bytes: series.response_bytes,
            latencies,
        }
    }

    /// Counters begin again when the maps are made again: then nothing is negative.
    fn less(mut self, earlier: &Flow) -> Self {
        self.count = self.count.saturating_sub(earlier.count);
        self.errors = self.errors.saturating_sub(earlier.errors);
        self.request_bytes = self.request_bytes.saturating_sub(earlier.request_bytes);
        self.response_bytes = self.response_bytes.saturating_sub(earlier.response_bytes);
        for (now, before) in self.latencies.counts.iter_mut().zip(earlier.latencies.counts) {
            *now = now.saturating_sub(before);
        }
        self
    }
}

/// What went on between two reports, by who asked whom; sorted, and only what did.
pub(crate) fn between(earlier: &TrafficReport, now: &TrafficReport) -> Vec<(Ends, Flow)> {
    let earlier = summed(earlier);
    let before: HashMap<Places<'_>, &Flow> =
        earlier.iter().map(|(ends, flow)| (ends.places(), flow)).collect();
    let flows = summed(now).into_iter().map(|(ends, flow)| {
        let flow =
            before.get(&ends.places()).map_or_else(|| flow.clone(), |before| flow.clone().less(before));
        (ends, flow)
    });
    let mut flows: Vec<_> = flows.filter(|(_, flow)| flow.count > 0).collect();
    flows.sort_by(|a, b| a.0.cmp(&b.0));
    flows
}

fn summed(report: &TrafficReport) -> HashMap<Ends, Flow> {
    let mut flows: HashMap<Ends, Flow> = HashMap::new();
    for series in &report.series {
        let ends = Ends {
            source: series.source.clone(),
            service: series.service.clone(),
            endpoint: series.endpoint,
            destination: series.destination.clone(),
        };
        flows.entry(ends).or_default().add(&Flow::of(series));
    }
    flows
}

#[cfg(test)]
pub(crate) mod tests {
    use std::collections::BTreeMap;

    use super::super::trace::tests::workload;
    use super::*;

    pub(crate) fn report(count: u64, errors: u64) -> TrafficReport {
        let series = |class: &str, count, errors| TrafficSeries {
            source: Some(workload("shop.service")),
            service: Some("web".into()),
            endpoint: ([127, 0, 0, 1], 8080).into(),
            destination: Some(workload("nginx.service")),
            method: "GET".into(),
            path: None,
            status_class: class.into(),
            count,
            errors,
            request_bytes: 10 * count,
            response_bytes: 100 * count,
            latency_sum: 0.001 * count as f64,
            p50: None,
            p90: None,
            p99: None,
            buckets: BTreeMap::from([(40, count), (4_000_000, 1)]),
        };
        TrafficReport {
            time: 0.0,
            fresh: false,
            series: vec![series("2xx", count, 0), series("5xx", errors, errors)],
            overflow: 0,
            unfollowed: BTreeMap::new(),
            events: BTreeMap::new(),
        }
    }

    #[test]
    fn only_what_went_on_meanwhile_counts() {
        let flows = between(&report(100, 1), &report(130, 3));
        let [(ends, flow)] = &flows[..] else { panic!("{flows:?}") };
        assert_eq!((ends.source_name(), ends.service_name()), ("shop.service", "web"));
        assert_eq!((flow.count, flow.errors, flow.response_bytes), (32, 2, 3200));
        assert!((0.0039..0.0047).contains(&flow.quantile(0.5).unwrap()), "{:?}", flow.quantile(0.5));
        assert!(between(&report(100, 1), &report(100, 1)).is_empty());
        assert!(between(&report(100, 1), &report(5, 0)).is_empty(), "begun again");
        let mut named = report(130, 3);
        for source in named.series.iter_mut().flat_map(|series| &mut series.source) {
            (source.name, source.container_name) = ("docker:web".into(), Some("web".into()));
        }
        let flows = between(&report(100, 1), &named);
        assert_eq!(
            flows.iter().map(|(ends, flow)| (ends.source_name(), flow.count)).collect::<Vec<_>>(),
            [("docker:web", 32)]
        );
    }
}
