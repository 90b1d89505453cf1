//! OTLP over HTTP, as JSON: pushes what was counted of HTTP to a collector, by OpenTelemetry's names; and spans.
//!
//! Histograms are exponential ones of scale 2, which is how the kernel counts: nothing is rounded on the way. A collector
//! that is away or slow costs nobody anything: what was counted meanwhile is in the next push.

mod spans;

use std::fmt;
use std::str::FromStr;
use std::time::Duration;

use alize_datapath::observe::Latencies;
use http_body_util::Full;
use hyper::body::Bytes;
use hyper::client::conn::http1;
use hyper::header::{CONTENT_TYPE, HOST, USER_AGENT};
use hyper::{Request, StatusCode};
use hyper_util::rt::TokioIo;
use serde_json::{Value, json};
use tokio::net::TcpStream;
use tokio::time::{MissedTickBehavior, interval, timeout};
use tracing::{info, warn};

use crate::events::unix_time;
pub(crate) use spans::push as push_spans;

use crate::observer::{Durations, Ends, Handle, HttpTraffic, RequestLabels};

/// Between two pushes.
const INTERVAL: Duration = Duration::from_secs(10);
/// Longest that one may take.
const PATIENCE: Duration = Duration::from_secs(5);
/// `AGGREGATION_TEMPORALITY_CUMULATIVE`.
const CUMULATIVE: u32 = 2;

/// Where a collector listens: `http://HOST:PORT`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Collector {
    authority: String,
}

/// Why a text is no address of a collector.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{0:?} is not of the form http://HOST:PORT; for TLS let a collector on this host pass it on")]
pub struct CollectorError(String);

impl FromStr for Collector {
    type Err = CollectorError;

    fn from_str(text: &str) -> Result<Self, CollectorError> {
        let wrong = || CollectorError(text.to_owned());
        let authority = text.strip_prefix("http://").ok_or_else(wrong)?;
        let authority = authority.strip_suffix('/').unwrap_or(authority);
        let (host, port) = authority.rsplit_once(':').ok_or_else(wrong)?;
        let plain = |character: char| character.is_ascii_alphanumeric() || ".-[]:_".contains(character);
        if host.is_empty() || !host.chars().all(plain) || port.parse::<u16>().is_err() {
            return Err(wrong());
        }
        Ok(Self { authority: authority.to_owned() })
    }
}

impl fmt::Display for Collector {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "http://{}", self.authority)
    }
}

/// Pushes until it is dropped. Says once when it fails and once when it works again.
pub(crate) async fn push(collector: Collector, instance: String, observer: Handle) {
    let mut ticks = interval(INTERVAL);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let mut well = true;
    loop {
        ticks.tick().await;
        let Ok(traffic) = observer.metrics().await else { continue };
        let body = metrics(&traffic, &instance, unix_time()).to_string();
        let sent = timeout(PATIENCE, post(&collector, "/v1/metrics", body))
            .await
            .unwrap_or_else(|_| Err("too slow".into()));
        match &sent {
            Err(error) if well => warn!("cannot push to the collector at {collector}: {error}"),
            Ok(()) if !well => info!("the collector at {collector} takes metrics again"),
            _ => {}
        }
        well = sent.is_ok();
    }
}

async fn post(collector: &Collector, path: &str, body: String) -> Result<(), String> {
    let failed = |what: &str, error: &dyn fmt::Display| format!("{what} failed: {error}");
    let stream = TcpStream::connect(&collector.authority).await.map_err(|error| failed("connect", &error))?;
    let (mut sender, connection) =
        http1::handshake(TokioIo::new(stream)).await.map_err(|error| failed("HTTP", &error))?;
    let request = Request::post(path)
        .header(HOST, &collector.authority)
        .header(USER_AGENT, concat!("alize/", env!("CARGO_PKG_VERSION")))
        .header(CONTENT_TYPE, "application/json")
        .body(Full::new(Bytes::from(body)))
        .map_err(|error| failed("the request", &error))?;
    let driver = tokio::spawn(connection);
    let response = sender.send_request(request).await;
    driver.abort();
    match response.map_err(|error| failed("HTTP", &error))?.status() {
        StatusCode::OK | StatusCode::ACCEPTED => Ok(()),
        other => Err(format!("it answered {other}")),
    }
}

/// An `ExportMetricsServiceRequest`.
fn metrics(traffic: &HttpTraffic, instance: &str, now: f64) -> Value {
    let stamped = |mut point: Value, labels: &RequestLabels| {
        // The clock may have been set back meanwhile.
        let since = traffic.since.get(&labels.protocol).map_or(now, |since| since.min(now));
        point["attributes"] = attributes(&described(labels));
        point["startTimeUnixNano"] = nanoseconds(since).into();
        point["timeUnixNano"] = nanoseconds(now).into();
        point
    };
    let durations = traffic.durations.iter().map(|(labels, durations)| stamped(histogram(durations), labels));
    let requests =
        traffic.requests.iter().map(|(labels, count)| stamped(json!({"asInt": count.to_string()}), labels));
    let metrics = json!([
        {
            "name": "http.client.request.duration", "unit": "s",
            "description": "From the first byte of a request to the last of its response, seen in the kernel.",
            "exponentialHistogram": {
                "aggregationTemporality": CUMULATIVE, "dataPoints": durations.collect::<Vec<_>>(),
            },
        },
        {
            "name": "alize.http.requests", "unit": "{request}",
            "description": "HTTP requests by class of their status.",
            "sum": {
                "aggregationTemporality": CUMULATIVE, "isMonotonic": true,
                "dataPoints": requests.collect::<Vec<_>>(),
            },
        },
    ]);
    let resource = [("service.name", "alize".to_owned()), ("service.instance.id", instance.to_owned())];
    json!({"resourceMetrics": [{
        "resource": {"attributes": attributes(&resource)},
        "scopeMetrics": [{
            "scope": {"name": "alize", "version": env!("CARGO_PKG_VERSION")}, "metrics": metrics,
        }],
    }]})
}

/// Bucket `i` of OTLP begins where that of Prometheus with the same index ends.
fn histogram(durations: &Durations) -> Value {
    let counts = &durations.latencies.counts;
    let first = counts.iter().position(|count| *count > 0).unwrap_or(0);
    let last = counts.iter().rposition(|count| *count > 0).map_or(first, |last| last + 1);
    let total: u64 = counts.iter().sum();
    let buckets: Vec<String> = counts[first..last].iter().map(u64::to_string).collect();
    json!({
        "count": total.to_string(), "sum": durations.sum, "scale": Latencies::SCHEMA, "zeroCount": "0",
        "positive": {"offset": Latencies::FIRST_INDEX + first as i32 - 1, "bucketCounts": buckets},
    })
}

type Attribute = (&'static str, String);

fn described(labels: &RequestLabels) -> Vec<Attribute> {
    let Ends { source, service, destination, route, tls } = &labels.ends;
    let all = [
        ("alize.source", source.as_str()),
        ("alize.destination", destination),
        ("alize.service", service),
        ("http.route", route),
        ("url.scheme", if *tls { "https" } else { "http" }),
        ("network.protocol.version", labels.version()),
        ("http.request.method", labels.method),
        ("alize.status_class", labels.status_class),
    ];
    all.into_iter().filter(|(_, text)| !text.is_empty()).map(|(name, text)| (name, text.to_owned())).collect()
}

fn attributes(all: &[Attribute]) -> Value {
    all.iter().map(|(name, text)| json!({"key": name, "value": {"stringValue": text}})).collect()
}

/// 64-bit numbers are strings in the JSON of protocol buffers.
fn nanoseconds(seconds: f64) -> String {
    ((seconds * 1e6) as u64 * 1000).to_string()
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use alize_datapath::observe::Protocol;

    use super::*;

    #[test]
    fn a_collector_is_a_host_and_a_port() {
        let parse = |text: &str| text.parse::<Collector>().map(|collector| collector.to_string());
        assert_eq!(parse("http://127.0.0.1:4318/").unwrap(), "http://127.0.0.1:4318");
        assert!(parse("http://[::1]:4318").is_ok() && parse("http://collector:4318").is_ok());
        for wrong in ["https://a:1", "a:1", "http://a", "http://:1", "http://a:1/v1", "http://a b:1"] {
            assert!(parse(wrong).is_err(), "{wrong}");
        }
    }

    fn labels(protocol: Protocol) -> RequestLabels {
        let ends = Ends {
            source: "shop.service".into(),
            service: "web".into(),
            destination: String::new(),
            route: "/users/{name}".into(),
            tls: false,
        };
        RequestLabels { ends, protocol, method: "GET", status_class: "2xx" }
    }

    fn points(pushed: &Value, metric: usize, kind: &str) -> Vec<Value> {
        let metric = &pushed["resourceMetrics"][0]["scopeMetrics"][0]["metrics"][metric][kind];
        metric["dataPoints"].as_array().unwrap().clone()
    }

    #[test]
    fn counts_are_the_kernels() {
        let mut durations = Durations { sum: 1.5, ..Durations::default() };
        // 71 ends at 1 second.
        (durations.latencies.counts[71], durations.latencies.counts[73]) = (2, 1);
        let traffic = HttpTraffic {
            requests: BTreeMap::from([(labels(Protocol::Http1), 3)]),
            durations: BTreeMap::from([(labels(Protocol::Http1), durations)]),
            ..HttpTraffic::default()
        };
        let pushed = metrics(&traffic, "blue", 2.0);
        let point = &points(&pushed, 0, "exponentialHistogram")[0];
        assert_eq!((&point["count"], &point["scale"]), (&"3".into(), &2.into()));
        // (2^(-1/4), 1] is index -1 of scale 2.
        assert_eq!(point["positive"], json!({"offset": -1, "bucketCounts": ["2", "0", "1"]}));
        let sum = &points(&pushed, 1, "sum")[0];
        assert_eq!(sum["asInt"], "3");
        for point in [point, sum] {
            let keys = point["attributes"].as_array().unwrap().iter().map(|attribute| &attribute["key"]);
            let expected = [
                "alize.source",
                "alize.service",
                "http.route",
                "url.scheme",
                "http.request.method",
                "alize.status_class",
            ];
            assert_eq!(keys.collect::<Vec<_>>(), expected);
        }
    }

    /// A receiver that makes differences of sums would take all that was counted before the start for new.
    #[test]
    fn points_start_where_their_counting_did() {
        let both = [Protocol::Http1, Protocol::Http2];
        let traffic = HttpTraffic {
            requests: both.map(|protocol| (labels(protocol), 1)).into(),
            since: BTreeMap::from([(Protocol::Http1, 1000.5), (Protocol::Http2, 3000.0)]),
            ..HttpTraffic::default()
        };
        let starts = |now| {
            let points = points(&metrics(&traffic, "blue", now), 1, "sum");
            points.iter().map(|point| point["startTimeUnixNano"].clone()).collect::<Vec<_>>()
        };
        assert_eq!(starts(4000.0), ["1000500000000", "3000000000000"]);
        assert_eq!(starts(2000.0), ["1000500000000", "2000000000000"], "a clock that was set back");
    }
}
