//! HTTP as YAML, the long spelling of everything.

use std::time::Duration;

use alize_model::Labels;
use alize_model::http::{
    Action, Forward, Fraction, HashOn, HeaderEdit, Http, HttpBalance, LimitPer, Match, PathChange, PathMatch,
    RateLimit, Route, Scheme, Target, TextMatch, Upstream, ValueMatch,
};
use serde_json::{Map, Value, json};

/// The values of the keys `http` and `routes`, as JSON, which is YAML; durations are texts.
pub(crate) fn write(http: &Http) -> (Value, Value) {
    let mut out = Map::new();
    let upstream = if http.upstream == Upstream::H2c { "h2c" } else { "http1" };
    out.insert("upstream".into(), json!(upstream));
    let balance = match &http.balance {
        HttpBalance::LeastRequests => json!("least-requests"),
        HttpBalance::RoundRobin => json!("round-robin"),
        HttpBalance::WeightedRandom => json!("weighted-random"),
        HttpBalance::ConsistentHash(HashOn::Source) => json!({"consistent-hash": "source"}),
        HttpBalance::ConsistentHash(HashOn::Header(name)) => {
            json!({"consistent-hash": {"header": name.as_str().to_uppercase()}})
        }
        HttpBalance::ConsistentHash(HashOn::Cookie(name)) => json!({"consistent-hash": {"cookie": name}}),
    };
    out.insert("balance".into(), balance);
    let pool = &http.pool;
    out.insert(
        "pool".into(),
        some(json!({
            "min-idle": pool.min_idle, "max": pool.max, "idle-timeout": lapse(pool.idle_timeout),
            "connect-timeout": lapse(pool.connect_timeout), "response-timeout": pool.response_timeout.map(lapse),
        })),
    );
    if let Some(circuit) = http.circuit {
        let circuit = json!({
            "max-connections": circuit.max_connections, "max-pending": circuit.max_pending,
            "max-requests": circuit.max_requests,
        });
        out.insert("circuit".into(), some(circuit));
    }
    if let Some(outlier) = http.outlier {
        let outlier = json!({
            "server-errors": outlier.consecutive_5xx, "gateway-errors": outlier.consecutive_gateway_errors,
            "slow": outlier.consecutive_slow.map(|(slow, _)| slow),
            "slower-than": outlier.consecutive_slow.map(|(_, than)| lapse(than)),
            "base": lapse(outlier.base), "max": lapse(outlier.max), "max-ejected": outlier.max_ejected,
        });
        out.insert("outlier".into(), some(outlier));
    }
    if let Some(limit) = &http.rate_limit {
        out.insert("rate-limit".into(), rate_limit(limit));
    }
    out.insert("reason-header".into(), json!(http.reason_header));
    (Value::Object(out), http.routes.iter().map(route).collect())
}

/// Without the keys that have no value.
fn some(value: Value) -> Value {
    match value {
        Value::Object(entries) => Value::Object(
            entries
                .into_iter()
                .map(|(key, value)| (key, some(value)))
                .filter(|(_, value)| !value.is_null())
                .collect(),
        ),
        value => value,
    }
}

fn lapse(duration: Duration) -> String {
    match duration.as_millis() {
        milliseconds if milliseconds.is_multiple_of(1_000) => format!("{}s", milliseconds / 1_000),
        milliseconds => format!("{milliseconds}ms"),
    }
}

fn rate_limit(limit: &RateLimit) -> Value {
    let per = if limit.per == LimitPer::Client { "client" } else { "all" };
    json!({"requests": limit.requests, "burst": limit.burst, "per": per})
}

fn percent(fraction: Fraction) -> Value {
    json!(f64::from(fraction.as_millionths()) / 10_000.0)
}

fn route(route: &Route) -> Value {
    let mut out = Map::new();
    out.insert("name".into(), json!(route.name));
    out.insert("match".into(), route.matches.iter().map(condition).collect());
    match &route.action {
        Action::Forward(forward) => write_forward(forward, &mut out),
        Action::Redirect(redirect) => {
            let scheme = redirect.scheme.map(|scheme| if scheme == Scheme::Https { "https" } else { "http" });
            let (path, prefix) = change(redirect.path.as_ref());
            let redirect = json!({
                "scheme": scheme, "host": redirect.host, "path": path, "prefix": prefix, "port": redirect.port,
                "status": redirect.status,
            });
            out.insert("redirect".into(), some(redirect));
        }
        Action::Respond(respond) => {
            out.insert("respond".into(), some(json!({"status": respond.status, "body": respond.body})));
        }
    }
    if !route.response_headers.is_empty() {
        out.insert("response-headers".into(), edit(&route.response_headers));
    }
    if let Some(cors) = &route.cors {
        let words = |all: &[std::sync::Arc<str>]| (!all.is_empty()).then(|| json!(all));
        let cors = json!({
            "allow-origins": cors.allow_origins, "allow-methods": words(&cors.allow_methods),
            "allow-headers": words(&cors.allow_headers), "expose-headers": words(&cors.expose_headers),
            "allow-credentials": cors.allow_credentials, "max-age": cors.max_age.map(lapse),
        });
        out.insert("cors".into(), some(cors));
    }
    if let Some(fault) = &route.fault {
        let delay = fault.delay.map(|(time, share)| json!({"time": lapse(time), "percent": percent(share)}));
        let abort = fault.abort.map(|(status, share)| json!({"status": status, "percent": percent(share)}));
        out.insert("fault".into(), some(json!({"delay": delay, "abort": abort})));
    }
    if let Some(limit) = &route.rate_limit {
        out.insert("rate-limit".into(), rate_limit(limit));
    }
    Value::Object(out)
}

fn write_forward(forward: &Forward, out: &mut Map<String, Value>) {
    let backend = |backend: &alize_model::http::Backend| json!({"labels": labels(&backend.target.labels), "weight": backend.weight});
    out.insert("to".into(), forward.backends.iter().map(backend).collect());
    if !forward.request_headers.is_empty() {
        out.insert("request-headers".into(), edit(&forward.request_headers));
    }
    if forward.rewrite != Default::default() {
        let (path, prefix) = change(forward.rewrite.path.as_ref());
        let rewrite = json!({"path": path, "prefix": prefix, "host": forward.rewrite.host});
        out.insert("rewrite".into(), some(rewrite));
    }
    if !forward.mirrors.is_empty() {
        let mirror = |mirror: &alize_model::http::Mirror| json!({"to": target(&mirror.target), "percent": percent(mirror.fraction)});
        out.insert("mirror".into(), forward.mirrors.iter().map(mirror).collect());
    }
    if forward.timeouts != Default::default() {
        let timeouts = forward.timeouts;
        let timeouts = json!({"request": timeouts.request.map(lapse), "try": timeouts.per_try.map(lapse)});
        out.insert("timeout".into(), some(timeouts));
    }
    if let Some(retry) = &forward.retry {
        let causes = retry.causes.iter().map(|cause| serde_json::to_value(cause).unwrap());
        let on: Vec<Value> = retry.statuses.iter().map(|status| json!(status)).chain(causes).collect();
        let budget = retry
            .budget
            .map(|budget| json!({"percent": budget.percent, "min-per-second": budget.min_per_second}));
        let retry = json!({
            "attempts": retry.attempts, "on": on, "backoff": lapse(retry.backoff),
            "max-backoff": lapse(retry.max_backoff), "budget": budget,
        });
        out.insert("retry".into(), some(retry));
    }
}

fn target(target: &Target) -> Value {
    match &target.service {
        Some(service) => json!(service.as_str()),
        None => labels(&target.labels),
    }
}

fn labels(labels: &Labels) -> Value {
    labels.iter().map(|(name, value)| (name.to_string(), json!(value))).collect::<Map<_, _>>().into()
}

fn change(change: Option<&PathChange>) -> (Option<&str>, Option<&str>) {
    match change {
        None => (None, None),
        Some(PathChange::Full(path)) => (Some(path), None),
        Some(PathChange::Prefix(path)) => (None, Some(path)),
    }
}

fn edit(edit: &HeaderEdit) -> Value {
    let fields = |all: &[(alize_model::http::FieldName, alize_model::http::FieldValue)]| {
        let all: Map<_, _> =
            all.iter().map(|(name, value)| (name.as_str().to_string(), json!(value.as_str()))).collect();
        (!all.is_empty()).then_some(all)
    };
    let remove: Vec<_> = edit.remove.iter().map(|name| name.as_str()).collect();
    some(
        json!({"set": fields(&edit.set), "add": fields(&edit.add), "remove": (!remove.is_empty()).then_some(remove)}),
    )
}

fn condition(condition: &Match) -> Value {
    let path = match &condition.path {
        PathMatch::Exact(path) => json!({"exact": path}),
        PathMatch::Prefix(path) => json!({"prefix": path}),
        PathMatch::Regex(pattern) => json!({"regex": pattern.as_str()}),
    };
    let headers: Map<_, _> = condition
        .headers
        .iter()
        .map(|header| {
            let value = match &header.value {
                ValueMatch::Exact(value) => json!(value.as_str()),
                ValueMatch::Regex(pattern) => json!({"regex": pattern.as_str()}),
            };
            (header.name.as_str().to_string(), value)
        })
        .collect();
    let query: Map<_, _> = condition
        .query
        .iter()
        .map(|parameter| {
            let value = match &parameter.value {
                TextMatch::Exact(value) => json!(value),
                TextMatch::Regex(pattern) => json!({"regex": pattern.as_str()}),
            };
            (parameter.name.to_string(), value)
        })
        .collect();
    some(json!({
        "path": path, "method": condition.method.map(|method| method.as_str()),
        "headers": (!headers.is_empty()).then_some(headers), "query": (!query.is_empty()).then_some(query),
    }))
}
