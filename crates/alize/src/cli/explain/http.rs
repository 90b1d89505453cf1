//! What the routes of a service would do with a request, rule by rule, by the table that the kernel's is lowered from.

use std::path::Path;

use alize_model::http::{
    Action, Considered, Forward, Head, KernelVerdict, Method, Miss, PathMatch, Route, RouteTable,
};
use alize_model::{Budgets, HostFacts, Service, Snapshot, Source};
use serde::Serialize;

use crate::failure::Failure;

/// A request: `GET /path?query` and its fields.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Request {
    method: String,
    target: String,
    headers: Vec<(String, String)>,
}

/// What becomes of it.
#[derive(Debug, Serialize)]
pub(super) struct Routed {
    /// In the order in which rules are asked; up to the one that is for the request.
    pub(super) rules: Vec<Rule>,
    /// The route; none is a 404.
    pub(super) route: Option<String>,
    /// What it does.
    pub(super) action: String,
    /// `kernel` or `proxy`.
    pub(super) way: &'static str,
    /// Why the kernel cannot do it alone.
    pub(super) reason: Option<&'static str>,
    /// The same in a sentence.
    pub(super) because: String,
}

/// A match of a route.
#[derive(Debug, Serialize)]
pub(super) struct Rule {
    pub(super) route: String,
    /// What it asks for.
    pub(super) asks: String,
    /// Why it is not for the request; empty: it is.
    pub(super) misses: Vec<String>,
}

impl Request {
    /// As the kernel's tables are asked.
    pub(super) fn in_kernel(&self) -> alize_datapath::explain::Request<'_> {
        let path = self.target.split_once('?').map_or(self.target.as_str(), |(path, _)| path);
        alize_datapath::explain::Request { method: &self.method, path, headers: &self.headers }
    }

    /// Reads `GET /path` and `name: value`s.
    pub(crate) fn read(line: &str, fields: &[String]) -> Result<Self, Failure> {
        let wrong = |what: String| Failure::Other(anyhow::anyhow!(what));
        let mut words = line.split_ascii_whitespace();
        let (Some(method), Some(target), None) = (words.next(), words.next(), words.next()) else {
            return Err(wrong(format!("--http {line:?} is not of the form 'GET /path'")));
        };
        let field = |text: &String| {
            let (name, value) = text.split_once(':')?;
            (!name.trim().is_empty()).then(|| (name.trim().to_owned(), value.trim().to_owned()))
        };
        let headers = fields.iter().map(|text| {
            field(text).ok_or_else(|| wrong(format!("-H {text:?} is not of the form 'name: value'")))
        });
        Ok(Self { method: method.into(), target: target.into(), headers: headers.collect::<Result<_, _>>()? })
    }
}

/// The text in force, which the agent keeps beside its socket; whether it runs or not.
pub(super) fn state(run_dir: &Path, instance: &str) -> Result<Snapshot, Failure> {
    let path = run_dir.join(format!("{instance}.applied.yaml"));
    let name = path.display().to_string();
    let text = std::fs::read_to_string(&path).map_err(|error| Failure::Missing {
        what: format!("the text in force cannot be read from {name}: {error}"),
        mend: "routes are known from it; put a file in force, or say where the agent runs with --run-dir"
            .into(),
    })?;
    let budgets = Budgets { services: u32::MAX, endpoints: u32::MAX, slots: u32::MAX, affinity: u32::MAX };
    let parsed = alize_model::parse(Source { name: &name, text: &text }, &budgets, &HostFacts::default());
    let refused = |errors| Failure::Other(anyhow::anyhow!("{name} cannot be understood: {errors}"));
    Ok(parsed.map_err(refused)?.0)
}

/// Asks the routes of `service`; none when it is no HTTP service.
pub(super) fn route(snapshot: &Snapshot, service: &Service, request: &Request) -> Option<Routed> {
    let table = RouteTable::compile(service.http.as_ref()?);
    let headers: Vec<(&str, &str)> = request.headers.iter().map(|(n, v)| (n.as_str(), v.as_str())).collect();
    let (path, query) = match request.target.split_once('?') {
        Some((path, query)) => (path, Some(query)),
        None => (request.target.as_str(), None),
    };
    let head = Head { method: &request.method, path, query, headers: headers.as_slice() };
    let mut considered = table.consider(&head);
    let last = considered.iter().position(|each| each.misses.is_empty());
    considered.truncate(last.map_or(considered.len(), |last| last + 1));
    let found = last.map(|last| considered[last].found);
    let rules = considered.iter().map(|each| rule(&table, each, request)).collect();
    let verdict = match Method::read(&request.method) {
        Some(method) => {
            snapshot.kernel_table(service).map(|table| table.decide(method, path, headers.as_slice()))
        }
        None => None,
    };
    let (way, reason, because) = match verdict {
        Some(KernelVerdict::Rule(_)) => {
            ("kernel", None, "the kernel routes it alone, if its head is plain HTTP/1.1".to_owned())
        }
        // It never is: headers were looked at.
        Some(KernelVerdict::Headers(_)) => ("kernel", None, "the kernel routes it by its headers".to_owned()),
        Some(KernelVerdict::Proxy(reason)) => {
            ("proxy", Some(reason.name()), format!("the proxy routes it: {}", reason.sentence()))
        }
        None => (
            "proxy",
            Some("method"),
            format!("the proxy routes it: {} is no method that the kernel knows", request.method),
        ),
    };
    let action = found
        .map_or_else(|| "no route is for it: 404".to_owned(), |found| action(service, table.route(found)));
    Some(Routed {
        rules,
        route: found.map(|found| table.route(found).name.to_string()),
        action,
        way,
        reason,
        because,
    })
}

fn rule(table: &RouteTable, considered: &Considered, request: &Request) -> Rule {
    let condition = table.matched(considered.found);
    let mut asks = match &condition.path {
        PathMatch::Exact(path) => format!("path is {path}"),
        PathMatch::Prefix(path) if **path == *"/" => "any path".into(),
        PathMatch::Prefix(path) => format!("path below {path}"),
        PathMatch::Regex(pattern) => format!("path matches {}", pattern.as_str()),
    };
    if let Some(method) = condition.method {
        asks += &format!(", method {}", method.as_str());
    }
    for header in &condition.headers {
        asks += &format!(", header {}", header.name.as_str());
    }
    for parameter in &condition.query {
        asks += &format!(", parameter {}", parameter.name);
    }
    let misses = considered.misses.iter().map(|miss| match miss {
        Miss::Path => "the path is another".to_owned(),
        Miss::Method => format!("the method is {}", request.method),
        Miss::Header(name) => {
            let sent: Vec<&str> = request
                .headers
                .iter()
                .filter(|(n, _)| n.eq_ignore_ascii_case(name))
                .map(|(_, v)| v.as_str())
                .collect();
            match sent.is_empty() {
                true => format!("header {name} is missing"),
                false => format!("header {name} is {:?}", sent.join(", ")),
            }
        }
        Miss::Query(name) => format!("parameter {name} is missing or another"),
    });
    Rule { route: table.route(considered.found).name.to_string(), asks, misses: misses.collect() }
}

fn action(service: &Service, route: &Route) -> String {
    match &route.action {
        Action::Redirect(redirect) => format!("answers with a redirect ({})", redirect.status),
        Action::Respond(respond) => format!("answers {} itself", respond.status),
        Action::Forward(forward) => format!("forwards to {}", backends(service, forward)),
    }
}

fn backends(service: &Service, forward: &Forward) -> String {
    let total: f64 = forward.backends.iter().map(|backend| f64::from(backend.weight)).sum();
    let each = forward.backends.iter().map(|backend| {
        let name = backend.target.service.as_ref().map_or(service.name.as_str(), |name| name.as_str());
        let labels: Vec<_> =
            backend.target.labels.iter().map(|(name, value)| format!("{name}={value}")).collect();
        let labels = if labels.is_empty() { String::new() } else { format!(" with {}", labels.join(", ")) };
        format!("endpoints of {name}{labels} ({})", crate::units::percent(f64::from(backend.weight) / total))
    });
    each.collect::<Vec<_>>().join(", ")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_rule_says_why_it_is_not_the_one() {
        let text = "services:\n  - name: web\n    protocol: http\n    address: 10.96.0.1:80\n    endpoints: ['192.0.2.1:80']\n    \
                    routes:\n      - {name: beta, match: {path: /api, headers: {x-beta: '1'}}}\n      \
                    - {name: write, match: {path: /api, method: POST}}\n      - {name: rest, match: /}\n";
        let source = Source { name: "t", text };
        let (snapshot, _) = alize_model::parse(source, &Budgets::default(), &HostFacts::default()).unwrap();
        let service = snapshot.get("web").unwrap();
        let ask = |line: &str, fields: &[&str]| {
            let fields: Vec<String> = fields.iter().map(|field| (*field).to_owned()).collect();
            route(&snapshot, service, &Request::read(line, &fields).unwrap()).unwrap()
        };
        let routed = ask("GET /api/x", &["X-Beta: 2"]);
        assert_eq!(routed.route.as_deref(), Some("rest"));
        let told: Vec<_> =
            routed.rules.iter().map(|rule| (rule.route.as_str(), rule.misses.join("; "))).collect();
        assert_eq!(
            told,
            [
                ("write", "the method is GET".into()),
                ("beta", "header x-beta is \"2\"".into()),
                ("rest", String::new())
            ]
        );
        assert_eq!((routed.way, routed.reason), ("kernel", None));
        assert_eq!(ask("GET /api/x", &["x-beta:1"]).route.as_deref(), Some("beta"));
        let plain = ask("GET /other", &[]);
        assert_eq!((plain.way, plain.reason), ("kernel", None));
        assert!(plain.action.contains("endpoints of web (100 %)"), "{}", plain.action);
        assert_eq!(ask("BREW /pot", &[]).reason, Some("method"));
        assert!(Request::read("GET", &[]).is_err() && Request::read("GET /", &["x".into()]).is_err());
    }
}
