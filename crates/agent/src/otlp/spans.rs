//! Spans of observed requests: the client's and the server's, which one connection joins, below the span of the
//! application where it sends a `traceparent`. Names are those of OpenTelemetry's semantic conventions for HTTP and RPC.

use std::collections::BTreeMap;
use std::time::Duration;

use alize_datapath::observe::{Filter, Rate};
use alize_model::api::{Lost, ObservedRequest, TraceLine};
use serde_json::{Value, json};
use tokio::sync::mpsc;
use tokio::time::{MissedTickBehavior, interval, sleep, timeout};
use tracing::{info, warn};

use super::{Collector, PATIENCE, nanoseconds, post};
use crate::observer::{Handle, Wanted};

/// Between two pushes.
const INTERVAL: Duration = Duration::from_secs(2);
/// Requests of one push; what comes beyond them until then is dropped and told.
const BATCH: usize = 4096;
/// Most requests a second that become spans, whatever the sampling.
const RATE: Rate = Rate { per_second: 1000, burst: 1000 };
/// Until the observer is asked again, when it had no place.
const AGAIN: Duration = Duration::from_secs(10);

/// `SPAN_KIND_SERVER` and `SPAN_KIND_CLIENT`.
const SERVER: u32 = 2;
const CLIENT: u32 = 3;
/// `STATUS_CODE_ERROR`.
const ERROR: u32 = 2;

/// Pushes the spans of one request in `one_in` until it is dropped.
pub(crate) async fn push(collector: Collector, observer: Handle, one_in: u32) {
    let filter = Filter { one_in, rate: Some(RATE), ..Filter::default() };
    let wanted = Wanted { filter, ..Wanted::default() };
    loop {
        match observer.trace(wanted.clone()).await {
            Ok(lines) => push_lines(&collector, lines).await,
            Err(refused) => warn!("no spans are pushed for now: {refused:?}"),
        }
        sleep(AGAIN).await;
    }
}

/// Until the observer ends the trace.
async fn push_lines(collector: &Collector, mut lines: mpsc::Receiver<axum::body::Bytes>) {
    let mut ticks = interval(INTERVAL);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let (mut batch, mut dropped, mut well) = (Batch::default(), 0, true);
    loop {
        tokio::select! {
            piece = lines.recv() => match piece {
                Some(piece) => dropped += batch.add(&piece),
                None => return,
            },
            _ = ticks.tick() => {
                if dropped > 0 {
                    info!("{dropped} requests have no span: more than could be pushed");
                    dropped = 0;
                }
                let Some(body) = batch.take() else { continue };
                let sent = timeout(PATIENCE, post(collector, "/v1/traces", body)).await;
                let sent = sent.unwrap_or_else(|_| Err("too slow".into()));
                match &sent {
                    Err(error) if well => warn!("cannot push spans to the collector at {collector}: {error}"),
                    Ok(()) if !well => info!("the collector at {collector} takes spans again"),
                    _ => {}
                }
                well = sent.is_ok();
            }
        }
    }
}

/// Spans by the name of the service that they are of.
#[derive(Default)]
struct Batch {
    spans: BTreeMap<String, Vec<Value>>,
    requests: usize,
}

impl Batch {
    /// Takes lines of a trace; gives how many requests have no span.
    fn add(&mut self, lines: &[u8]) -> u64 {
        let mut without = 0;
        for line in lines.split(|byte| *byte == b'\n').filter(|line| !line.is_empty()) {
            match serde_json::from_slice(line) {
                Ok(TraceLine::Request(_)) if self.requests >= BATCH => without += 1,
                Ok(TraceLine::Request(request)) => {
                    self.requests += 1;
                    for (service, span) in spans(&request, &mut || fastrand::u64(1..)) {
                        self.spans.entry(service).or_default().push(span);
                    }
                }
                Ok(TraceLine::Lost(Lost { ring, reader, limited })) => without += ring + reader + limited,
                _ => {}
            }
        }
        without
    }

    /// An `ExportTraceServiceRequest`; `None`: there is nothing to tell.
    fn take(&mut self) -> Option<String> {
        self.requests = 0;
        let spans = std::mem::take(&mut self.spans);
        let resources: Vec<Value> =
            spans.into_iter().map(|(service, spans)| resource(&service, spans)).collect();
        (!resources.is_empty()).then(|| json!({"resourceSpans": resources}).to_string())
    }
}

fn resource(service: &str, spans: Vec<Value>) -> Value {
    json!({
        "resource": {"attributes": [text("service.name", service)]},
        "scopeSpans": [{"scope": {"name": "alize", "version": env!("CARGO_PKG_VERSION")}, "spans": spans}],
    })
}

/// What an application says about the trace that its request belongs to.
#[derive(Debug, PartialEq, Eq)]
struct Parent<'a> {
    trace: &'a str,
    span: &'a str,
    sampled: bool,
}

impl<'a> Parent<'a> {
    /// W3C Trace Context, 3.2; `None`: what is sent is none.
    fn read(field: &'a str) -> Option<Self> {
        let parts: Vec<&str> = field.split('-').collect();
        let [version, trace, span, flags] = parts[..] else { return None };
        let digits = |text: &str, length| {
            text.len() == length && text.bytes().all(|byte| matches!(byte, b'0'..=b'9' | b'a'..=b'f'))
        };
        let known = digits(version, 2) && version != "ff" && digits(trace, 32) && digits(span, 16);
        let zero = |text: &str| text.bytes().all(|byte| byte == b'0');
        let flags = u8::from_str_radix(flags, 16).ok().filter(|_| digits(flags, 2))?;
        (known && !zero(trace) && !zero(span)).then_some(Self { trace, span, sampled: flags & 1 != 0 })
    }
}

/// The spans of a request, each with its service. None, where the application has decided so.
fn spans(request: &ObservedRequest, random: &mut dyn FnMut() -> u64) -> Vec<(String, Value)> {
    let parent = request.trace_parent.as_deref().and_then(Parent::read);
    if parent.as_ref().is_some_and(|parent| !parent.sampled) {
        return Vec::new();
    }
    let (high, low) = (random(), random());
    let trace =
        parent.as_ref().map_or_else(|| format!("{high:016x}{low:016x}"), |parent| parent.trace.into());
    let mut above = parent.map(|parent| parent.span.to_owned());
    let mut spans = Vec::new();
    let ends = [(CLIENT, request.client.as_ref()), (SERVER, request.server.as_ref())];
    for (kind, peer) in ends {
        let Some(peer) = peer else { continue };
        let id = format!("{:016x}", random());
        let mut span = span(request, kind);
        span["traceId"] = trace.clone().into();
        span["spanId"] = id.clone().into();
        if let Some(above) = above.replace(id) {
            span["parentSpanId"] = above.into();
        }
        if let (Some(pid), Some(attributes)) = (peer.pid, span["attributes"].as_array_mut()) {
            attributes.push(number("process.pid", pid.into()));
            attributes.extend(peer.command.as_deref().map(|command| text("process.command", command)));
        }
        let service = match kind {
            SERVER => request.service.clone().unwrap_or_else(|| peer.workload.name.clone()),
            _ => peer.workload.name.clone(),
        };
        spans.push((service, span));
    }
    spans
}

/// A span but for its place in a trace. Both ends have the times of the one at which the request was seen.
fn span(request: &ObservedRequest, kind: u32) -> Value {
    let (path, query) = request.target.split_once('?').unwrap_or((&request.target, ""));
    let mut attributes = vec![
        text("http.request.method", &request.method),
        text("url.path", path),
        text("server.address", request.host.as_deref().unwrap_or(&request.endpoint.ip().to_string())),
        number("server.port", request.endpoint.port().into()),
        text("network.peer.address", &request.endpoint.ip().to_string()),
        text("client.address", &request.client_address.ip().to_string()),
        text("network.protocol.name", "http"),
        text("alize.path_label", &request.path_label),
    ];
    let version = request.protocol.strip_prefix("http/").filter(|version| *version != "1");
    attributes.extend(version.map(|version| text("network.protocol.version", version)));
    attributes.extend((!query.is_empty()).then(|| text("url.query", query)));
    attributes.extend(request.status.map(|status| number("http.response.status_code", status.into())));
    let mut name = match request.method.as_str() {
        "_OTHER" => "HTTP".to_owned(),
        method => method.to_owned(),
    };
    let error_from = if kind == CLIENT { 400 } else { 500 };
    let mut failed = request.status.is_none_or(|status| status >= error_from);
    if let Some(call) = &request.grpc {
        name = format!("{}/{}", call.service, call.method);
        attributes.push(text("rpc.system", "grpc"));
        attributes.push(text("rpc.service", &call.service));
        attributes.push(text("rpc.method", &call.method));
        attributes.extend(call.status.map(|status| number("rpc.grpc.status_code", status.into())));
        failed |= match kind {
            CLIENT => call.status != Some(0),
            _ => matches!(call.status, None | Some(2 | 4 | 12..=15)),
        };
    }
    let mut span = json!({
        "name": name, "kind": kind, "attributes": attributes,
        "startTimeUnixNano": nanoseconds(request.time),
        "endTimeUnixNano": nanoseconds(request.time + request.latency),
    });
    if failed {
        span["status"] = json!({"code": ERROR});
    }
    span
}

fn text(key: &str, value: &str) -> Value {
    json!({"key": key, "value": {"stringValue": value}})
}

/// 64-bit numbers are strings in the JSON of protocol buffers.
fn number(key: &str, value: u64) -> Value {
    json!({"key": key, "value": {"intValue": value.to_string()}})
}

#[cfg(test)]
mod tests {
    use super::*;
    use alize_model::api::{ObservedCall, Peer};

    const PARENT: &str = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01";

    fn request() -> ObservedRequest {
        let peer = |name: &str| Peer {
            workload: crate::observer::workload(&format!("/{name}.service")),
            pid: Some(7),
            uid: Some(0),
            comm: Some(name.into()),
            command: Some(format!("/usr/bin/{name}")),
        };
        ObservedRequest {
            id: String::new(),
            time: 1_700_000_000.5,
            client: Some(peer("shop")),
            client_address: ([127, 0, 0, 1], 40_000).into(),
            server: Some(peer("nginx")),
            endpoint: ([127, 0, 0, 1], 8080).into(),
            service: Some("web".into()),
            dialled: true,
            method: "GET".into(),
            host: Some("web.example".into()),
            target: "/users/7?x=1".into(),
            target_cut: false,
            status: Some(404),
            latency: 0.25,
            first_byte: None,
            request_bytes: 70,
            response_bytes: 153,
            path_label: "observed".into(),
            side: "client".into(),
            reused: false,
            pipelined: false,
            broken: false,
            protocol: "http/1".into(),
            grpc: None,
            partial: false,
            trace_parent: Some(PARENT.into()),
        }
    }

    fn numbered(request: &ObservedRequest) -> Vec<(String, Value)> {
        let mut last = 0;
        spans(request, &mut || {
            last += 1;
            last
        })
    }

    #[test]
    fn both_ends_are_below_the_applications_span() {
        let spans = numbered(&request());
        let [(shop, client), (web, server)] = spans.as_slice() else { panic!("{spans:?}") };
        assert_eq!((shop.as_str(), web.as_str()), ("shop.service", "web"));
        assert_eq!((&client["kind"], &server["kind"]), (&3.into(), &2.into()));
        assert_eq!(client["traceId"], "0af7651916cd43dd8448eb211c80319c");
        assert_eq!(
            (&client["parentSpanId"], &server["parentSpanId"]),
            (&"b7ad6b7169203331".into(), &client["spanId"])
        );
        let command = text("process.command", "/usr/bin/shop");
        assert!(client["attributes"].as_array().unwrap().contains(&command), "{client}");
        assert_eq!(client["startTimeUnixNano"], "1700000000500000000");
        assert_eq!(client["endTimeUnixNano"], "1700000000750000000");
        assert_eq!(
            (&client["status"]["code"], &server["status"]),
            (&2.into(), &Value::Null),
            "404 is the client's"
        );
    }

    #[test]
    fn without_a_parent_a_trace_begins() {
        let own = ObservedRequest { trace_parent: None, server: None, ..request() };
        let spans = numbered(&own);
        assert_eq!(spans.len(), 1);
        assert_eq!(spans[0].1["traceId"], "00000000000000010000000000000002");
        assert_eq!(spans[0].1["parentSpanId"], Value::Null);
    }

    #[test]
    fn the_application_decides_what_is_sampled() {
        let not = ObservedRequest { trace_parent: Some(format!("{}0", &PARENT[..54])), ..request() };
        assert_eq!(numbered(&not), []);
        let wrong = [
            "",
            "00",
            "ff-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01",
            "00-00000000000000000000000000000000-b7ad6b7169203331-01",
            "00-0AF7651916CD43DD8448EB211C80319C-b7ad6b7169203331-01",
            "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-0g",
        ];
        assert!(wrong.iter().all(|field| Parent::read(field).is_none()));
    }

    #[test]
    fn a_call_of_grpc_is_named_and_fails_by_its_status() {
        let call = ObservedCall {
            service: "shop.Orders".into(),
            method: "Get".into(),
            status: Some(5),
            status_name: Some("NOT_FOUND".into()),
        };
        let spans = numbered(&ObservedRequest { grpc: Some(call), status: Some(200), ..request() });
        assert_eq!(
            (&spans[0].1["name"], &spans[0].1["status"]["code"]),
            (&"shop.Orders/Get".into(), &2.into())
        );
        assert_eq!(spans[1].1["status"], Value::Null, "that there is none is no fault of the server");
    }
}
