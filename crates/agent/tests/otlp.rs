//! Metrics as they come to a collector: a receiver that takes nothing but what OTLP's JSON has.
//!
//! Field names and types are those of `opentelemetry/proto/metrics/v1/metrics.proto`.

mod world;

use std::fs;
use std::net::TcpListener;
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
def request(value):
    fields(value, resourceMetrics=many(lambda resource: fields(resource,
        resource=lambda one: fields(one, attributes=many(attribute)),
        scopeMetrics=many(lambda scope: fields(scope, scope=lambda one: fields(one, name=text, version=text),
            metrics=many(metric))))))
class Handler(http.server.BaseHTTPRequestHandler):
    def do_POST(self):
        body = self.rfile.read(int(self.headers["Content-Length"]))
        try:
            assert self.path == "/v1/metrics" and self.headers["Content-Type"] == "application/json"
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

#[test]
fn a_strict_receiver_takes_what_is_pushed() {
    let world = World::new();
    let (script, last) = (world.folder.join("receiver.py"), world.folder.join("last.json"));
    fs::write(&script, RECEIVER).unwrap();
    let port = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port().to_string();
    let receiver = Command::new("python3").arg(&script).arg(&port).arg(&last).stderr(Stdio::null()).spawn();
    let _receiver = Receiver(receiver.expect("python3 is installed"));
    let blue = Server::start("blue");
    let text =
        format!("services:\n  - {{name: web, address: '10.96.7.1:80', endpoints: ['{}']}}\n", blue.address);
    let environment =
        [(world::OBSERVE, "always".to_owned()), (world::OTLP, format!("http://127.0.0.1:{port}"))];
    let _agent = Agent::start(&world, Some(world.write(&text)), &environment)
        .unwrap_or_else(|error| panic!("the agent ended: {error}"));
    (0..7).for_each(|_| assert_eq!(world.curl("10.96.7.1").as_deref(), Ok("blue")));
    let pushed = eventually("seven requests are pushed", || {
        let refused = fs::read_to_string(world.folder.join("last.json.refused"));
        assert!(refused.is_err(), "{refused:?}");
        let pushed: Value = serde_json::from_slice(&fs::read(&last).ok()?).ok()?;
        let metrics = &pushed["resourceMetrics"][0]["scopeMetrics"][0]["metrics"];
        let point = metrics[1]["sum"]["dataPoints"].as_array()?.first()?.clone();
        (point["asInt"] == "7").then(|| (point, metrics[0].clone()))
    });
    let attribute = |point: &Value, key: &str| {
        let all = point["attributes"].as_array().unwrap();
        let found = all.iter().find(|attribute| attribute["key"] == key);
        found.map(|attribute| attribute["value"]["stringValue"].as_str().unwrap().to_owned())
    };
    assert_eq!(attribute(&pushed.0, "alize.service").as_deref(), Some("web"));
    assert_eq!(attribute(&pushed.0, "http.request.method").as_deref(), Some("GET"));
    assert_eq!(pushed.1["name"], "http.client.request.duration");
    assert_eq!(pushed.1["exponentialHistogram"]["dataPoints"][0]["count"], "7");
}
