//! Metrics as they come to a collector: a receiver that takes nothing but what OTLP's JSON has.
//!
//! Field names and types are those of `opentelemetry/proto/metrics/v1/metrics.proto`.

mod world;

use std::fs;
use std::net::TcpListener;
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};

use serde_json::Value;
use world::{Agent, Server, World, eventually};

#[test]
fn the_agent_itself() {
    world::be_the_agent();
}

/// Refuses with 400 what a strict reader of the protocol would, and keeps the last that was right.
const RECEIVER: &str = r#"
import http.server, json, sys
def fields(value, /, **known):
    assert isinstance(value, dict), value
    for name, item in value.items():
        assert name in known, "unknown field " + name
        known[name](item)
def text(value): assert isinstance(value, str), value
def flag(value): assert isinstance(value, bool), value
def whole(value): assert isinstance(value, int) and not isinstance(value, bool), value
def number(value): assert isinstance(value, (int, float)), value
def long(value): assert isinstance(value, str) and int(value) >= 0, value
def many(of):
    def check(value):
        assert isinstance(value, list), value
        for item in value: of(item)
    return check
def attribute(value): fields(value, key=text, value=lambda any: fields(any, stringValue=text))
stamps = dict(attributes=many(attribute), startTimeUnixNano=long, timeUnixNano=long)
def buckets(value): fields(value, offset=whole, bucketCounts=many(long))
def exponential(value):
    fields(value, count=long, sum=number, scale=whole, zeroCount=long, positive=buckets, **stamps)
    assert int(value["count"]) == sum(int(n) for n in value["positive"]["bucketCounts"])
    assert int(value["startTimeUnixNano"]) <= int(value["timeUnixNano"])
def temporality(value): assert value in (1, 2), value
def metric(value):
    fields(value, name=text, unit=text, description=text,
        exponentialHistogram=lambda data: fields(data, aggregationTemporality=temporality, dataPoints=many(exponential)),
        sum=lambda data: fields(data, aggregationTemporality=temporality, isMonotonic=flag,
            dataPoints=many(lambda point: fields(point, asInt=lambda n: int(n), **stamps))))
def hexadecimal(digits):
    def check(value): assert isinstance(value, str) and len(value) == digits and int(value, 16) > 0, value
    return check
def any_attribute(value): fields(value, key=text, value=lambda any: fields(any, stringValue=text, intValue=long))
def span(value):
    fields(value, traceId=hexadecimal(32), spanId=hexadecimal(16), parentSpanId=hexadecimal(16), name=text, kind=whole,
        startTimeUnixNano=long, endTimeUnixNano=long, attributes=many(any_attribute),
        status=lambda status: fields(status, code=whole, message=text))
    assert value["traceId"] and value["spanId"] and value["name"] and value["kind"] in (2, 3), value
    assert 0 < int(value["startTimeUnixNano"]) <= int(value["endTimeUnixNano"])
    keys = [attribute["key"] for attribute in value["attributes"]]
    assert len(keys) == len(set(keys)), keys
def traces(value):
    fields(value, resourceSpans=many(lambda resource: fields(resource,
        resource=lambda one: fields(one, attributes=many(attribute)),
        scopeSpans=many(lambda scope: fields(scope, scope=lambda one: fields(one, name=text, version=text),
            spans=many(span))))))
def request(value):
    fields(value, resourceMetrics=many(lambda resource: fields(resource,
        resource=lambda one: fields(one, attributes=many(attribute)),
        scopeMetrics=many(lambda scope: fields(scope, scope=lambda one: fields(one, name=text, version=text),
            metrics=many(metric))))))
class Handler(http.server.BaseHTTPRequestHandler):
    def do_POST(self):
        body = self.rfile.read(int(self.headers["Content-Length"]))
        try:
            assert self.headers["Content-Type"] == "application/json"
            if self.path == "/v1/traces":
                traces(json.loads(body))
                open(sys.argv[2] + ".spans", "ab").write(body + b"\n")
            else:
                assert self.path == "/v1/metrics"
                request(json.loads(body))
                open(sys.argv[2], "wb").write(body)
            code = 200
        except Exception as error:
            open(sys.argv[2] + ".refused", "w").write(repr(error))
            code = 400
        self.send_response(code)
        self.send_header("Content-Length", "2")
        self.end_headers()
        self.wfile.write(b"{}")
    def log_message(self, *arguments): pass
http.server.HTTPServer(("127.0.0.1", int(sys.argv[1])), Handler).serve_forever()
"#;

struct Receiver(Child);

impl Drop for Receiver {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// A strict receiver of what is pushed, its port, and the file in which it keeps the last of that.
fn receiver(world: &World) -> (Receiver, String, PathBuf) {
    let (script, last) = (world.folder.join("receiver.py"), world.folder.join("last.json"));
    fs::write(&script, RECEIVER).unwrap();
    let port = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port().to_string();
    let receiver = Command::new("python3").arg(&script).arg(&port).arg(&last).stderr(Stdio::null()).spawn();
    (Receiver(receiver.expect("python3 is installed")), port, last)
}

#[test]
fn a_strict_receiver_takes_what_is_pushed() {
    let world = World::new();
    let (_receiver, port, last) = receiver(&world);
    let blue = Server::start("blue");
    let text =
        format!("services:\n  - {{name: web, address: '10.96.7.1:80', endpoints: ['{}']}}\n", blue.address);
    let environment =
        [(world::OBSERVE, "always".to_owned()), (world::OTLP, format!("http://127.0.0.1:{port}"))];
    let start = || {
        Agent::start(&world, Some(world.write(&text)), &environment)
            .unwrap_or_else(|error| panic!("the agent ended: {error}"))
    };
    let ask =
        |count: u32| (0..count).for_each(|_| assert_eq!(world.curl("10.96.7.1").as_deref(), Ok("blue")));
    let pushed = |count: &str| {
        eventually("all requests are pushed", || {
            let refused = fs::read_to_string(world.folder.join("last.json.refused"));
            assert!(refused.is_err(), "{refused:?}");
            let pushed: Value = serde_json::from_slice(&fs::read(&last).ok()?).ok()?;
            let metrics = &pushed["resourceMetrics"][0]["scopeMetrics"][0]["metrics"];
            let point = metrics[1]["sum"]["dataPoints"].as_array()?.first()?.clone();
            (point["asInt"] == count).then(|| (point, metrics[0].clone(), pushed.clone()))
        })
    };
    let agent = start();
    ask(7);
    let before = pushed("7");
    let attribute = |point: &Value, key: &str| {
        let all = point["attributes"].as_array().unwrap();
        let found = all.iter().find(|attribute| attribute["key"] == key);
        found.map(|attribute| attribute["value"]["stringValue"].as_str().unwrap().to_owned())
    };
    let duration = &before.1["exponentialHistogram"]["dataPoints"][0];
    for point in [&before.0, duration] {
        assert_eq!(attribute(point, "alize.service").as_deref(), Some("web"));
        assert_eq!(attribute(point, "http.request.method").as_deref(), Some("GET"));
        assert_eq!(attribute(point, "alize.status_class").as_deref(), Some("2xx"));
    }
    assert_eq!(before.1["name"], "http.client.request.duration");
    assert_eq!(duration["count"], "7", "{:#}", before.2);

    // The kernel counts on without an agent, and the next one says since when.
    drop(agent);
    ask(2);
    let _agent = start();
    let after = pushed("9");
    assert_eq!(after.0["startTimeUnixNano"], before.0["startTimeUnixNano"]);
}

/// A server whose sockets are meshed, too.
fn meshed_server(world: &World) -> (Receiver, u16) {
    let port = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
    let join = format!(
        "echo $$ > {}/cgroup.procs && exec python3 -m http.server {port} -b 127.0.0.1",
        world.cgroup.display()
    );
    let server =
        Command::new("sh").args(["-c", &join]).stderr(Stdio::null()).stdout(Stdio::null()).spawn().unwrap();
    eventually("the server listens", || std::net::TcpStream::connect(("127.0.0.1", port)).ok().map(drop));
    (Receiver(server), port)
}

#[test]
fn spans_of_both_ends_are_below_that_of_the_application() {
    let world = World::new();
    let (_receiver, port, _) = receiver(&world);
    let (_server, server) = meshed_server(&world);
    let text = format!(
        "services:\n  - {{name: web, address: '10.96.7.1:80', endpoints: ['127.0.0.1:{server}'], mode: observe}}\n"
    );
    let environment = [
        (world::OBSERVE, "always".to_owned()),
        (world::OTLP, format!("http://127.0.0.1:{port}")),
        (world::OTLP_SPANS, "1".to_owned()),
    ];
    let _agent = Agent::start(&world, Some(world.write(&text)), &environment)
        .unwrap_or_else(|error| panic!("the agent ended: {error}"));
    let parent = "traceparent: 00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01";
    let spans = eventually("spans of one request are pushed", || {
        // The trace begins a moment after the agent is ready.
        let asked =
            world.client(&format!("curl -s -o /dev/null -H '{parent}' http://127.0.0.1:{server}/none?x=1"));
        assert!(asked.status.success());
        let refused = fs::read_to_string(world.folder.join("last.json.refused"));
        assert!(refused.is_err(), "{refused:?}");
        let pushed = fs::read_to_string(world.folder.join("last.json.spans")).ok()?;
        let pushed: Value = serde_json::from_str(pushed.lines().next()?).ok()?;
        let resources = pushed["resourceSpans"].as_array()?.clone();
        (resources.len() == 2).then_some(resources)
    });
    let of = |service: &str| {
        let named =
            |resource: &&Value| resource["resource"]["attributes"][0]["value"]["stringValue"] == service;
        spans.iter().find(named).map(|resource| resource["scopeSpans"][0]["spans"][0].clone())
    };
    let served = of("web").expect("the server's span is of the service");
    let asked =
        spans.iter().map(|resource| &resource["scopeSpans"][0]["spans"][0]).find(|span| span["kind"] == 3);
    let asked = asked.expect("the client's span is there");
    assert_eq!((served["kind"].as_u64(), &served["parentSpanId"]), (Some(2), &asked["spanId"]));
    assert_eq!((&asked["parentSpanId"], &asked["traceId"]), (&"b7ad6b7169203331".into(), &served["traceId"]));
    assert_eq!(asked["traceId"], "0af7651916cd43dd8448eb211c80319c");
    let attributes = served["attributes"].as_array().unwrap();
    let value = |key: &str| &attributes.iter().find(|attribute| attribute["key"] == key).unwrap()["value"];
    assert_eq!(
        (value("url.path")["stringValue"].as_str(), value("http.response.status_code")["intValue"].as_str()),
        (Some("/none"), Some("404"))
    );
}
