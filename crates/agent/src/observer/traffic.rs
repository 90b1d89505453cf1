//! Series of the kernel, added up for people and for Prometheus.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::net::SocketAddr;
use std::sync::Arc;

use alize_datapath::observe::{Grpc, Latencies, Method, PathLabel, Protocol, Series, Tallies};
use alize_model::api::{TrafficReport, TrafficSeries, Workload};

use super::{Refused, Watcher};
use crate::events::{seconds, unix_time};

/// Label sets of the counters in the metrics; what is beyond is counted under `other`.
const COUNTERS: usize = 2000;
/// Label sets of the histogram, each of which is some 26 samples.
const HISTOGRAMS: usize = 1000;
/// The label of what has no place of its own.
const OTHER: &str = "other";

/// What was added up.
#[derive(Clone, Debug, Default)]
struct Sum {
    count: u64,
    errors: u64,
    request_bytes: u64,
    response_bytes: u64,
    latency: f64,
    latencies: Latencies,
}

impl Sum {
    fn add(&mut self, series: &Series) {
        self.count += series.count;
        if series.key.failed() {
            self.errors += series.count;
        }
        self.request_bytes += series.request_bytes;
        self.response_bytes += series.response_bytes;
        self.latency += series.latency.as_secs_f64();
        self.latencies.add(&series.latencies);
    }
}

#[derive(PartialEq, Eq, Hash)]
struct Key {
    source: Option<Arc<Workload>>,
    service: Option<Arc<str>>,
    endpoint: SocketAddr,
    destination: Option<Arc<Workload>>,
    method: Method,
    path: Option<String>,
    status_class: &'static str,
}

/// HTTP in the metrics: sorted, and never more than there is place for.
#[derive(Debug, Default)]
pub(crate) struct HttpTraffic {
    pub(crate) requests: BTreeMap<RequestLabels, u64>,
    pub(crate) calls: BTreeMap<CallLabels, u64>,
    pub(crate) durations: BTreeMap<RequestLabels, Durations>,
    /// Since when requests and durations are counted, in seconds since the Unix epoch: what is decoded by this process is
    /// counted anew with each, what the kernel follows is not.
    pub(crate) since: BTreeMap<Protocol, f64>,
    pub(crate) unfollowed: Vec<(&'static str, u64)>,
    pub(crate) events: Vec<(&'static str, u64)>,
}

/// Labels of `alize_http_requests_total` and `alize_http_request_duration_seconds`.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct RequestLabels {
    pub(crate) ends: Ends,
    pub(crate) protocol: Protocol,
    pub(crate) method: &'static str,
    pub(crate) status_class: &'static str,
}

/// Labels of `alize_grpc_calls_total`.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct CallLabels {
    pub(crate) ends: Ends,
    pub(crate) status: &'static str,
}

/// From where to where.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Ends {
    pub(crate) source: String,
    pub(crate) service: String,
    pub(crate) destination: String,
    /// The path template that the request matches; empty: none.
    pub(crate) route: String,
    /// Went by within TLS.
    pub(crate) tls: bool,
}

/// A histogram.
#[derive(Clone, Debug, Default)]
pub(crate) struct Durations {
    pub(crate) sum: f64,
    pub(crate) latencies: Latencies,
}

impl Durations {
    /// Upper bounds, one an octave, and how many were at most so slow; the last is infinite.
    pub(crate) fn cumulative(&self) -> Vec<(f64, u64)> {
        let mut below = 0;
        let mut buckets = Vec::new();
        for (bucket, count) in self.latencies.counts.iter().enumerate() {
            below += count;
            let last = bucket + 1 == Latencies::BUCKETS;
            if (Latencies::FIRST_INDEX + bucket as i32) % (1 << Latencies::SCHEMA) == 0 {
                // The last bucket holds all that is slower, too.
                buckets.push((if last { f64::INFINITY } else { Latencies::bound(bucket) }, below));
            }
        }
        buckets
    }
}

/// Label sets that have a place of their own in the metrics. Who was first keeps it, so that no counter goes back.
#[derive(Default)]
pub(super) struct Places {
    requests: BTreeSet<RequestLabels>,
    calls: BTreeSet<CallLabels>,
    durations: BTreeSet<RequestLabels>,
}

/// Whether it has a place, or there still is one for it.
fn has_place<T: Ord + Clone>(places: &mut BTreeSet<T>, most: usize, labels: &T) -> bool {
    places.contains(labels) || (places.len() < most && places.insert(labels.clone()))
}

impl Places {
    fn of_requests(&mut self, labels: &RequestLabels) -> RequestLabels {
        if has_place(&mut self.requests, COUNTERS, labels) { labels.clone() } else { labels.other() }
    }

    fn of_durations(&mut self, labels: &RequestLabels) -> RequestLabels {
        if has_place(&mut self.durations, HISTOGRAMS, labels) { labels.clone() } else { labels.other() }
    }

    fn of_calls(&mut self, labels: CallLabels) -> CallLabels {
        match has_place(&mut self.calls, COUNTERS, &labels) {
            true => labels,
            false => CallLabels { ends: Ends::other(), ..labels },
        }
    }
}

impl RequestLabels {
    /// `network.protocol.version` of OpenTelemetry; empty for 1.0 and 1.1, which are not told apart.
    pub(crate) fn version(&self) -> &'static str {
        match self.protocol {
            Protocol::Http1 => "",
            Protocol::Http2 => "2",
        }
    }

    /// Those under which it is counted where there is no place for it.
    fn other(&self) -> Self {
        Self { ends: Ends::other(), method: OTHER, ..*self }
    }
}

impl HttpTraffic {
    fn add(&mut self, places: &mut Places, ends: Ends, series: &Series) {
        if let Some(status) = series.key.grpc_status {
            let status = status.map_or("none", |status| Grpc::name_of(status).unwrap_or(OTHER));
            let labels = CallLabels { ends: ends.clone(), status };
            *self.calls.entry(places.of_calls(labels)).or_default() += series.count;
        }
        let labels = RequestLabels {
            ends,
            protocol: series.key.protocol,
            method: series.key.method.as_str(),
            status_class: class(series.key.status),
        };
        self.count(places.of_requests(&labels), places.of_durations(&labels), series);
    }

    fn add_overflow(&mut self, overflow: &Series) {
        if overflow.count == 0 {
            return;
        }
        let protocol = overflow.key.protocol;
        let labels = RequestLabels { ends: Ends::other(), protocol, method: OTHER, status_class: OTHER };
        self.count(labels.clone(), labels, overflow);
    }

    fn count(&mut self, counter: RequestLabels, histogram: RequestLabels, series: &Series) {
        *self.requests.entry(counter).or_default() += series.count;
        let durations = self.durations.entry(histogram).or_default();
        durations.sum += series.latency.as_secs_f64();
        durations.latencies.add(&series.latencies);
    }
}

impl Ends {
    fn other() -> Self {
        let other = || OTHER.to_owned();
        Self { source: other(), service: other(), destination: other(), route: other(), tls: false }
    }
}

impl Watcher {
    /// `GET /v1/traffic`, already written down: it may be some megabytes.
    pub(super) fn traffic(&mut self, paths: bool) -> Result<Vec<u8>, Refused> {
        self.renew_names();
        self.deliver();
        let (observer, fresh) = self.attach()?;
        let mut read = Vec::new();
        observer.series(&mut |series| read.push(series))?;
        let overflow = observer.series_overflow()?.iter().map(|series| series.count).sum();
        let Tallies { unfollowed, events } = observer.tallies()?;
        let mut sums: HashMap<Key, Sum> = HashMap::new();
        for series in read {
            let destination = series.key.destination;
            let key = Key {
                source: series.key.source.map(|cgroup| self.cgroups.workload(cgroup)),
                service: self.names.service(destination.service, destination.address),
                endpoint: destination.address,
                destination: destination.cgroup.map(|cgroup| self.cgroups.workload(cgroup)),
                method: series.key.method,
                path: series.key.path.clone().filter(|_| paths),
                status_class: class(series.key.status),
            };
            sums.entry(key).or_default().add(&series);
        }
        let mut series: Vec<_> = sums.into_iter().map(|(key, sum)| told(key, &sum)).collect();
        series.sort_by(|a, b| order(a).cmp(&order(b)));
        let report = TrafficReport {
            time: unix_time(),
            fresh,
            series,
            overflow,
            unfollowed: above_zero(&unfollowed),
            events: above_zero(&events),
        };
        Ok(serde_json::to_vec(&report).unwrap_or_default())
    }

    pub(super) fn http_traffic(&mut self) -> Result<HttpTraffic, Refused> {
        self.renew_names();
        self.deliver();
        let (observer, _) = self.attach()?;
        let mut read = Vec::new();
        // What the mesh routes is in the metrics already, counted where it is routed.
        observer.series(&mut |series| {
            if matches!(series.key.path_label, PathLabel::Observed | PathLabel::Tls) {
                read.push(series);
            }
        })?;
        // If there is not a place for all, who talks most gets one.
        read.sort_by_key(|series| std::cmp::Reverse(series.count));
        let overflow = observer.series_overflow()?;
        let Tallies { unfollowed, events } = observer.tallies()?;
        let since = [Protocol::Http1, Protocol::Http2]
            .map(|protocol| (protocol, seconds(observer.counting_since(protocol))));
        let is_template = |path: &str| self.templates.iter().any(|template| template.as_str() == path);
        let mut traffic = HttpTraffic { since: since.into(), unfollowed, events, ..HttpTraffic::default() };
        for series in &read {
            let destination = series.key.destination;
            let mut name = |cgroup: Option<u64>| {
                cgroup.map(|cgroup| self.cgroups.workload(cgroup).name.clone()).unwrap_or_default()
            };
            let ends = Ends {
                source: name(series.key.source),
                service: self
                    .names
                    .service(destination.service, destination.address)
                    .map(|name| name.to_string())
                    .unwrap_or_default(),
                destination: name(destination.cgroup),
                route: series.key.path.clone().filter(|path| is_template(path)).unwrap_or_default(),
                tls: series.key.path_label == PathLabel::Tls,
            };
            traffic.add(&mut self.places, ends, series);
        }
        overflow.iter().for_each(|overflow| traffic.add_overflow(overflow));
        Ok(traffic)
    }
}

fn told(key: Key, sum: &Sum) -> TrafficSeries {
    let quantile = |share| sum.latencies.quantile(share).map(|latency| latency.as_secs_f64());
    let buckets = sum.latencies.counts.iter().enumerate().filter(|(_, count)| **count > 0);
    TrafficSeries {
        source: key.source.map(Arc::unwrap_or_clone),
        service: key.service.map(|name| name.to_string()),
        endpoint: key.endpoint,
        destination: key.destination.map(Arc::unwrap_or_clone),
        method: key.method.as_str().into(),
        path: key.path,
        status_class: key.status_class.into(),
        count: sum.count,
        errors: sum.errors,
        request_bytes: sum.request_bytes,
        response_bytes: sum.response_bytes,
        latency_sum: sum.latency,
        p50: quantile(0.5),
        p90: quantile(0.9),
        p99: quantile(0.99),
        buckets: buckets.map(|(bucket, count)| (bucket as u32, *count)).collect(),
    }
}

type Order<'a> = (&'a Option<String>, SocketAddr, &'a Option<Workload>, &'a str, &'a Option<String>, &'a str);

fn order(series: &TrafficSeries) -> Order<'_> {
    let TrafficSeries { source, service, endpoint, method, path, status_class, .. } = series;
    (service, *endpoint, source, method, path, status_class)
}

fn above_zero(tallies: &[(&'static str, u64)]) -> BTreeMap<String, u64> {
    tallies.iter().filter(|(_, count)| *count > 0).map(|(name, count)| ((*name).to_owned(), *count)).collect()
}

fn class(status: Option<u16>) -> &'static str {
    match status {
        None => "none",
        Some(100..200) => "1xx",
        Some(200..300) => "2xx",
        Some(300..400) => "3xx",
        Some(400..500) => "4xx",
        Some(500..600) => "5xx",
        Some(_) => OTHER,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use alize_datapath::observe::{Destination, SeriesKey, Side};
    use std::time::Duration;

    fn series(count: u64) -> Series {
        let mut latencies = Latencies::default();
        latencies.counts[40] = count;
        Series {
            key: SeriesKey {
                source: None,
                destination: Destination {
                    service: None,
                    address: ([127, 0, 0, 1], 80).into(),
                    cgroup: None,
                },
                method: Method::Get,
                path: None,
                status: Some(503),
                side: Side::Client,
                path_label: PathLabel::Observed,
                protocol: Protocol::Http1,
                grpc_status: None,
            },
            count,
            request_bytes: 10,
            response_bytes: 20,
            latency: Duration::from_millis(count),
            first_byte: Duration::ZERO,
            latencies,
        }
    }

    fn ends(source: usize) -> Ends {
        Ends {
            source: source.to_string(),
            service: "web".into(),
            destination: String::new(),
            route: String::new(),
            tls: false,
        }
    }

    #[test]
    fn the_metrics_are_bounded_and_lose_nothing() {
        let (mut traffic, mut places) = (HttpTraffic::default(), Places::default());
        for source in 0..5000 {
            traffic.add(&mut places, ends(source), &series(2));
        }
        traffic.add_overflow(&series(7));
        assert!(traffic.requests.len() <= COUNTERS + 2 && traffic.durations.len() <= HISTOGRAMS + 2);
        assert_eq!(traffic.requests.values().sum::<u64>(), 10_007);
        let counted = traffic.durations.values().map(|durations| durations.cumulative().last().unwrap().1);
        assert_eq!(counted.sum::<u64>(), 10_007);
        let mut later = HttpTraffic::default();
        for source in (0..5000).rev() {
            later.add(&mut places, ends(source), &series(3));
        }
        for (labels, before) in &traffic.requests {
            assert!(labels.status_class == OTHER || later.requests[labels] > *before, "{labels:?} went back");
        }
    }

    /// A receiver must be able to tell that one has begun anew and the other has not.
    #[test]
    fn what_the_kernel_counts_is_apart_from_what_this_process_does() {
        let (mut traffic, mut places) = (HttpTraffic::default(), Places::default());
        let (kernels, mut ours) = (series(5), series(7));
        ours.key.protocol = Protocol::Http2;
        for series in [&kernels, &ours] {
            traffic.add(&mut places, ends(0), series);
            traffic.add_overflow(series);
        }
        let counts = |of: Protocol| {
            let durations = traffic.durations.iter().filter(move |(labels, _)| labels.protocol == of);
            durations.map(|(_, durations)| durations.latencies.counts.iter().sum::<u64>()).collect::<Vec<_>>()
        };
        assert_eq!((counts(Protocol::Http1), counts(Protocol::Http2)), (vec![5, 5], vec![7, 7]));
        assert!(traffic.requests.keys().eq(traffic.durations.keys()));
    }

    #[test]
    fn calls_are_counted_by_their_status_and_bounded() {
        let (mut traffic, mut places) = (HttpTraffic::default(), Places::default());
        for source in 0..3000 {
            for status in [Some(5), Some(99), None] {
                let mut call = series(1);
                call.key.grpc_status = Some(status);
                traffic.add(&mut places, ends(source), &call);
            }
        }
        traffic.add(&mut places, ends(0), &series(1));
        assert!(traffic.calls.len() <= COUNTERS + 3, "{}", traffic.calls.len());
        for status in ["NOT_FOUND", OTHER, "none"] {
            let of = traffic.calls.iter().filter(|(labels, _)| labels.status == status);
            assert_eq!(of.map(|(_, count)| count).sum::<u64>(), 3000, "{status}");
        }
    }

    #[test]
    fn histograms_end_at_octaves_and_at_infinity() {
        let mut durations = Durations::default();
        durations.latencies.counts[0] = 1;
        durations.latencies.counts[Latencies::BUCKETS - 1] = 1;
        let buckets = durations.cumulative();
        assert_eq!(buckets.len(), Latencies::BUCKETS / 4);
        assert_eq!(buckets[0], (2f64.powi(-17), 1));
        assert_eq!(buckets[22], (32.0, 1));
        assert_eq!(buckets[23], (f64::INFINITY, 2));
    }

    #[test]
    fn a_status_is_in_one_class() {
        let shown = [None, Some(100), Some(204), Some(304), Some(499), Some(500), Some(999)].map(class);
        assert_eq!(shown, ["none", "1xx", "2xx", "3xx", "4xx", "5xx", "other"]);
    }
}
