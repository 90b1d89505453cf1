//! `docs/reference/openapi.json` is what the agent serves as its description; it is made from the API's own types.
//!
//! `ALIZE_BLESS=1 cargo test -p alize-agent` writes it anew.

use std::fs;
use std::path::Path;

use alize_model::api::{
    Applied, Event, ModeChange, ObservedRequest, Refusal, ServiceStatus, Status, TraceLine, TrafficReport,
    Trial, Upgraded,
};
use schemars::generate::{SchemaGenerator, SchemaSettings};
use serde_json::{Value, json};

const FILE: &str = "../../docs/reference/openapi.json";

#[test]
fn the_description_is_current() {
    let expected = serde_json::to_string_pretty(&description()).unwrap() + "\n";
    let file = Path::new(env!("CARGO_MANIFEST_DIR")).join(FILE);
    if std::env::var_os("ALIZE_BLESS").is_some() {
        fs::write(&file, &expected).unwrap();
    }
    let found = fs::read_to_string(&file).unwrap_or_default();
    assert!(found == expected, "{FILE} is out of date: run ALIZE_BLESS=1 cargo test -p alize-agent");
}

#[test]
fn every_reference_leads_somewhere() {
    let description = description();
    let mut references = Vec::new();
    collect_references(&description, &mut references);
    assert!(references.len() > 10);
    for reference in references {
        let pointer = reference.strip_prefix('#').expect("a local reference");
        assert!(description.pointer(pointer).is_some(), "{reference} leads nowhere");
    }
}

fn collect_references(value: &Value, found: &mut Vec<String>) {
    match value {
        Value::Object(object) => {
            found.extend(object.get("$ref").and_then(Value::as_str).map(str::to_owned));
            object.values().for_each(|value| collect_references(value, found));
        }
        Value::Array(array) => array.iter().for_each(|value| collect_references(value, found)),
        _ => {}
    }
}

fn description() -> Value {
    let mut settings = SchemaSettings::draft2020_12();
    settings.definitions_path = "/components/schemas".into();
    settings.meta_schema = None;
    let mut types = SchemaGenerator::new(settings);
    let status = types.subschema_for::<Status>();
    let service = types.subschema_for::<ServiceStatus>();
    let event = types.subschema_for::<Event>();
    let applied = types.subschema_for::<Applied>();
    let trace_line = types.subschema_for::<TraceLine>();
    let request = types.subschema_for::<ObservedRequest>();
    let upgraded = types.subschema_for::<Upgraded>();
    let trial = types.subschema_for::<Trial>();
    let mode_change = types.subschema_for::<ModeChange>();
    let traffic = types.subschema_for::<TrafficReport>();
    types.subschema_for::<Refusal>();
    let paths = json!({
        "/v1/status": { "get": operation("What is in force, and how the agent is.", [], [ok(json_body(&status))]) },
        "/v1/services": { "get": operation(
            "All services with their endpoints and counters, sorted by name.",
            [query("name", "Only services whose name begins with this.", json!({"type": "string"}))],
            [ok(json_body(&json!({"type": "array", "items": service}))), busy()],
        ) },
        "/v1/services/{name}": { "get": operation(
            "One service. A name with `/` may be written as it is or with `%2F`.",
            [json!({
                "name": "name", "in": "path", "required": true, "description": "Name of the service.",
                "schema": {"type": "string"},
            })],
            [ok(json_body(&service)), refusal("404", "There is no such service."), busy()],
        ) },
        "/v1/events": { "get": operation(
            "Events as they happen, one JSON object a line, until the client leaves. A reader that falls 256 events \
             behind gets an event of kind `agent` that says how many it missed.",
            [query(
                "recent",
                "Begin with so many of the last 256 events.",
                json!({"type": "integer", "minimum": 0, "default": 0}),
            )],
            [ok(body("application/x-ndjson", &event)), busy()],
        ) },
        "/v1/trace": { "get": with_parameters(
            operation(
                "HTTP requests as they end, one JSON object a line, until the client leaves. The kernel sends only \
                 what all conditions hold for. What did not get through is told in lines of kind `lost`.",
                [],
                [
                    ok(body("application/x-ndjson", &trace_line)),
                    refusal("400", "The kernel cannot look for this."),
                    refusal("404", "There is no such service, unit or cgroup."),
                    not_observed(),
                    not_attached(),
                    busy(),
                ],
            ),
            trace_conditions(),
        ) },
        "/v1/requests": { "get": operation(
            "Requests that the kernel kept although nobody was watching: the slowest of about the last ten minutes, \
             slowest first, or the last that failed (5xx, or no response), latest first; 128 at most. With `id` one request \
             alone: of these, or of the last 4,096 that a trace has shown.",
            [
                flag("slowest", "The slowest."),
                flag("failed", "Those that failed; just one of the three."),
                query("id", "The one with this id.", json!({"type": "string"})),
            ],
            [
                ok(json_body(&json!({"oneOf": [{"type": "array", "items": request.clone()}, request]}))),
                refusal("400", "Neither was asked for, or both."),
                not_observed(),
                not_attached(),
                busy(),
            ],
        ) },
        "/v1/traffic": { "get": operation(
            "What was counted of HTTP since the observing maps were made.",
            [query(
                "paths",
                "Requests of different paths are different series.",
                json!({"type": "boolean", "default": false}),
            )],
            [ok(json_body(&traffic)), not_observed(), not_attached(), busy()],
        ) },
        "/v1/config": { "get": operation(
            "The text that is in force.",
            [],
            [
                ok(body("application/yaml", &json!({"type": "string"}))),
                refusal("404", "The data path was adopted and its text is not known."),
            ],
        ) },
        "/v1/apply": { "post": with_file(operation(
            "Puts the file in the body in force, in place of the watched file until that changes. Without a body and \
             without `name`: reads the watched file now.",
            [query("name", "Name of the file, for errors.", json!({"type": "string", "default": "-"}))],
            [
                ok(json_body(&applied)),
                refusal("408", "The body did not arrive within 30 s."),
                refusal("409", "No file is watched that could be read."),
                refusal("413", "The body is larger than 64 MiB."),
                refusal("422", "The file was refused, or does not fit; what was in force stays."),
                busy(),
            ],
        )) },
        "/v1/upgrade": { "post": with_bundle(operation(
            "Puts the kernel programs of the bundle in the body in force, without a body those of the agent's own binary. \
             What runs goes on when a step fails.",
            [],
            [
                ok(json_body(&upgraded)),
                refusal("413", "The body is larger than 64 MiB."),
                refusal("422", "The bundle is not taken, or a step failed; what ran goes on."),
                busy(),
            ],
        )) },
        "/v1/rollback": { "post": operation(
            "Puts kernel programs in force that were so before.",
            [query("version", "Which version or digest; what was in force before when absent.", json!({"type": "string"}))],
            [
                ok(json_body(&upgraded)),
                refusal("422", "There is none, or a step failed; what ran goes on."),
                busy(),
            ],
        ) },
        "/v1/trial": {
            "get": operation(
                "The version of the kernel programs on trial, and what it and the other did at each hook.",
                [],
                [ok(json_body(&trial)), refusal("404", "None is.")],
            ),
            "post": with_bundle(operation(
                "Puts the kernel programs of the bundle in the body (without one those of the agent's own binary) to work for some: \
                 all others have what runs. Ends with one of the two below, an upgrade, or the agent's next start.",
                [
                    query("cgroup", "Folder of the cgroup whose processes get them.", json!({"type": "string"})),
                    query("share", "Per cent of the dialled addresses that get them.", json!({"type": "integer"})),
                    query("promote_after", "Seconds until all get them.", json!({"type": "number"})),
                    query("max_errors", "More errors than these give them up.", json!({"type": "integer"})),
                    query("max_slower", "Slower by more per cent than these gives them up.", json!({"type": "integer"})),
                    query("max_fallbacks", "More per cent of HTTP left to the proxy than by the others gives them up.", json!({"type": "integer"})),
                ],
                [
                    ok(json_body(&trial)),
                    refusal("400", "The query names nobody."),
                    refusal("413", "The body is larger than 64 MiB."),
                    refusal("422", "The bundle is not taken, or a step failed; what ran goes on."),
                    busy(),
                ],
            )),
        },
        "/v1/trial/promote": { "post": operation(
            "All get the version on trial.",
            [],
            [ok(json_body(&upgraded)), refusal("422", "None is on trial, or a step failed; both go on."), busy()],
        ) },
        "/v1/trial/abort": { "post": operation(
            "None gets the version on trial.",
            [],
            [ok(json_body(&json!({"type": "object"}))), refusal("422", "None is on trial."), busy()],
        ) },
        "/v1/mode": { "post": operation(
            "Lets a mode hold for a service in place of the file's, at once, also after a restart of the agent.",
            [
                query("service", "Name of the service.", json!({"type": "string"})),
                query(
                    "mode",
                    "`observe`, `shadow` or `enforce`; absent: what the file says.",
                    json!({"type": "string", "enum": ["observe", "shadow", "enforce"]}),
                ),
                query("seconds", "For how long; until it is set again when absent.", json!({"type": "number"})),
            ],
            [
                ok(json_body(&mode_change)),
                refusal("400", "The query cannot be read."),
                refusal("404", "There is no such service."),
                refusal("422", "The kernel did not take it; what was in force stays."),
            ],
        ) },
        "/v1/openapi.json": { "get": operation("This description.", [], [ok(json_body(&json!({"type": "object"})))]) },
        "/metrics": { "get": operation(
            "Metrics for Prometheus, as OpenMetrics if the Accept header asks for it. Also on the TCP address of \
             `--metrics`.",
            [],
            [ok(body("text/plain; version=0.0.4", &json!({"type": "string"}))), busy()],
        ) },
        "/healthz": { "get": operation(
            "Whether the agent is well: it answers within a second. Also on the TCP address of `--metrics`.",
            [],
            [
                ok(body("text/plain", &json!({"type": "string"}))),
                ("503".into(), json!({"description": "The agent is busy or ending."})),
            ],
        ) },
    });
    json!({
        "openapi": "3.1.0",
        "info": {
            "title": "Alizé agent",
            "version": "1",
            "description": "HTTP/1.1 and JSON over the unix socket /run/alize/<instance>.sock; its file permissions \
                            are the access control. Times are seconds since the Unix epoch, durations seconds, sizes \
                            bytes; what is absent is unknown or does not apply.",
            "license": {"name": "Apache-2.0", "identifier": "Apache-2.0"},
        },
        "servers": [{"url": "http://localhost", "description": "over the unix socket; the host is not looked at"}],
        "paths": paths,
        "components": {"schemas": types.take_definitions(true)},
    })
}

fn operation<const P: usize, const R: usize>(
    summary: &str,
    parameters: [Value; P],
    responses: [(String, Value); R],
) -> Value {
    let responses: serde_json::Map<String, Value> = responses.into_iter().collect();
    let mut operation = json!({"description": summary, "responses": responses});
    if P > 0 {
        operation["parameters"] = parameters.to_vec().into();
    }
    operation
}

fn trace_conditions() -> Vec<Value> {
    let text = || json!({"type": "string"});
    let number = || json!({"type": "integer", "minimum": 1});
    vec![
        query(
            "kinds",
            "What to tell of, separated by commas: `http` (requests, the default), `tcp` (what happens to connections), \
             `dns` (queries). Status, method and path are asked of requests alone.",
            text(),
        ),
        query("service", "Name of the service.", text()),
        query("status", "`404`, `5xx` or `400-499`.", text()),
        query("method", "One or more, separated by commas; `_OTHER` for all that are not standard.", text()),
        query("path_prefix", "What the target begins with; at most 64 bytes.", text()),
        query("min_latency", "At least so many seconds.", json!({"type": "number", "minimum": 0})),
        query("pid", "Process of either end.", number()),
        query("comm", "What the name of the thread of either end begins with; at most 15 bytes.", text()),
        query(
            "unit",
            "systemd unit, container (four or more digits of its id) or workload of either end.",
            text(),
        ),
        query("cgroup", "Cgroup of either end, or one above it.", text()),
        query("sample", "One of so many, by chance.", number()),
        query("rate_limit", "At most so many a second.", number()),
    ]
}

fn with_parameters(mut operation: Value, parameters: Vec<Value>) -> Value {
    operation["parameters"] = parameters.into();
    operation
}

fn flag(name: &str, description: &str) -> Value {
    let mut parameter = query(name, description, json!({"type": "string", "enum": [""]}));
    parameter["allowEmptyValue"] = true.into();
    parameter
}

fn not_observed() -> (String, Value) {
    refusal("409", "The agent was started with `--observe off`.")
}

fn not_attached() -> (String, Value) {
    refusal("500", "The kernel refused the observing programs.")
}

fn with_file(mut operation: Value) -> Value {
    operation["requestBody"] = json!({
        "required": false,
        "content": {"application/yaml": {"schema": {"type": "string"}}},
    });
    operation
}

fn with_bundle(mut operation: Value) -> Value {
    operation["requestBody"] = json!({
        "required": false,
        "content": {"application/octet-stream": {"schema": {"type": "string", "format": "binary"}}},
    });
    operation
}

fn query(name: &str, description: &str, schema: Value) -> Value {
    json!({"name": name, "in": "query", "description": description, "schema": schema})
}

fn body(kind: &str, schema: &impl serde::Serialize) -> Value {
    json!({ kind: {"schema": schema} })
}

fn json_body(schema: &impl serde::Serialize) -> Value {
    body("application/json", schema)
}

fn ok(content: Value) -> (String, Value) {
    ("200".into(), json!({"description": "Done.", "content": content}))
}

fn refusal(status: &str, description: &str) -> (String, Value) {
    let content = json_body(&json!({"$ref": "#/components/schemas/Refusal"}));
    (status.into(), json!({"description": description, "content": content}))
}

fn busy() -> (String, Value) {
    refusal("503", "Too many clients ask for this at once, or the agent is ending.")
}
