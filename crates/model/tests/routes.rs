//! Which route a request has, against an oracle written from the Gateway API's own words; and that the kernel, where it
//! decides, decides the same.

mod http;

use std::cmp::Ordering;
use std::sync::Arc;

use alize_model::http::{
    Found, Head, Headers, Http, KernelVerdict, Match, Method, PathMatch, Pattern, Reason, Route, RouteTable,
    TextMatch, ValueMatch,
};
use http::{Request, plain_routes, request, routes};
use proptest::prelude::*;

fn table(routes: Vec<Route>) -> RouteTable {
    RouteTable::compile(&Arc::new(Http { routes, ..Http::default() }))
}

fn find(table: &RouteTable, request: &Request) -> Option<Found> {
    table.find(&Head {
        method: request.method,
        path: &request.path,
        query: request.query.as_deref(),
        headers: request.headers.as_slice(),
    })
}

// The oracle: HTTPRouteRule, HTTPRouteMatch, HTTPPathMatch, HTTPHeaderMatch and HTTPQueryParamMatch, word by word.

fn full_match(pattern: &Pattern, text: &[u8]) -> bool {
    let whole = regex::bytes::RegexBuilder::new(pattern.as_str()).unicode(false).build().unwrap();
    // Leftmost-first search may end early, so every beginning is asked for: is the whole text in the language?
    let anchored = format!("^(?:{})$", whole.as_str());
    regex::bytes::RegexBuilder::new(&anchored).unicode(false).build().unwrap().is_match(text)
}

/// "Matches based on a URL path prefix split by `/`. Matching is case-sensitive and done on a path element by element
/// basis. A path element refers to the list of labels in the path split by the `/` separator. When specified, a
/// trailing `/` is ignored."
fn path_fits(condition: &PathMatch, path: &str) -> bool {
    match condition {
        PathMatch::Exact(exact) => **exact == *path,
        PathMatch::Prefix(prefix) if &**prefix == "/" => true,
        PathMatch::Prefix(prefix) => {
            let wanted: Vec<_> = prefix.split('/').collect();
            let found: Vec<_> = path.split('/').collect();
            found.len() >= wanted.len() && found[..wanted.len()] == wanted[..]
        }
        PathMatch::Regex(pattern) => full_match(pattern, path.as_bytes()),
    }
}

fn fits(condition: &Match, request: &Request) -> bool {
    let path = if request.path.is_empty() { "/" } else { &request.path };
    let header = |name: &str| {
        let all: Vec<_> =
            request.headers.iter().filter(|(n, _)| n.eq_ignore_ascii_case(name)).map(|(_, v)| *v).collect();
        (!all.is_empty()).then(|| all.join(", "))
    };
    let parameter = |name: &str| {
        let query = request.query.as_deref().unwrap_or("");
        let all = query.split('&').map(|part| part.split_once('=').unwrap_or((part, "")));
        all.map(|(n, v)| (decode(n), decode(v))).find(|(n, _)| n == name.as_bytes()).map(|(_, v)| v)
    };
    path_fits(&condition.path, path)
        && condition.method.is_none_or(|method| method.as_str() == request.method)
        && condition.headers.iter().all(|wanted| match (&wanted.value, header(wanted.name.as_str())) {
            (_, None) => false,
            (ValueMatch::Exact(value), Some(found)) => value.as_str() == found,
            (ValueMatch::Regex(pattern), Some(found)) => full_match(pattern, found.as_bytes()),
        })
        && condition.query.iter().all(|wanted| match (&wanted.value, parameter(&wanted.name)) {
            (_, None) => false,
            (TextMatch::Exact(value), Some(found)) => value.as_bytes() == found,
            (TextMatch::Regex(pattern), Some(found)) => full_match(pattern, &found),
        })
}

fn decode(text: &str) -> Vec<u8> {
    let bytes = text.as_bytes();
    let mut out = Vec::new();
    let mut at = 0;
    while at < bytes.len() {
        let pair = text.get(at + 1..at + 3).filter(|pair| pair.bytes().all(|b| b.is_ascii_hexdigit()));
        match (bytes[at], pair) {
            (b'%', Some(pair)) => {
                out.push(u8::from_str_radix(pair, 16).unwrap());
                at += 2;
            }
            (b'+', _) => out.push(b' '),
            (other, _) => out.push(other),
        }
        at += 1;
    }
    out
}

/// "Precedence must be given to the rule that matches [...]: "Exact" path match. "Prefix" path match with largest
/// number of characters. Method match. Largest number of header matches. Largest number of query param matches." What
/// is left is decided by the first in list order. Where a regular expression stands is up to the implementation.
fn better(a: &Match, b: &Match) -> Ordering {
    let kind = |condition: &Match| match condition.path {
        PathMatch::Exact(_) => 3,
        PathMatch::Regex(_) => 2,
        PathMatch::Prefix(_) => 1,
    };
    let length = |condition: &Match| match &condition.path {
        PathMatch::Prefix(prefix) => prefix.chars().count(),
        _ => 0,
    };
    kind(a)
        .cmp(&kind(b))
        .then(length(a).cmp(&length(b)))
        .then(a.method.is_some().cmp(&b.method.is_some()))
        .then(a.headers.len().cmp(&b.headers.len()))
        .then(a.query.len().cmp(&b.query.len()))
}

fn oracle(routes: &[Route], request: &Request) -> Option<Found> {
    let mut best: Option<(Found, &Match)> = None;
    for (rule, route) in routes.iter().enumerate() {
        for (matched, condition) in route.matches.iter().enumerate() {
            if !fits(condition, request) {
                continue;
            }
            if best.is_none_or(|(_, best)| better(condition, best) == Ordering::Greater) {
                best = Some((Found { rule: rule as u16, matched: matched as u16 }, condition));
            }
        }
    }
    best.map(|(found, _)| found)
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(if cfg!(debug_assertions) { 400 } else { 20_000 }))]

    #[test]
    fn every_request_has_the_route_of_the_specification(
        routes in routes(),
        requests in proptest::collection::vec(request(), 1..40),
    ) {
        let table = table(routes.clone());
        for request in requests {
            prop_assert_eq!(find(&table, &request), oracle(&routes, &request), "{:?}", request);
        }
    }

    #[test]
    fn what_the_kernel_decides_is_what_the_table_finds(
        routes in routes(),
        requests in proptest::collection::vec(request(), 1..40),
    ) {
        let table = table(routes.clone());
        let kernel = table.kernel(|_| None);
        for request in requests {
            let Some(method) = Method::read(request.method) else { continue };
            let path = if request.path.is_empty() { "/" } else { &request.path };
            if kernel.any.is_none() {
                prop_assert!(kernel.classes.iter().any(|class| matches!(
                    &class.pattern, alize_model::http::KernelPattern::Prefix(path) if &**path == "/"
                )));
            }
            match kernel.decide(method, path, request.headers.as_slice()) {
                KernelVerdict::Rule(rule) => {
                    let found = find(&table, &request);
                    prop_assert_eq!(found.map(|found| found.rule), Some(rule), "{:?} {:?}", request, kernel);
                    prop_assert_eq!(routes[usize::from(rule)].proxy_reason(), None);
                }
                KernelVerdict::Proxy(Reason::NoRoute) => {
                    prop_assert_eq!(find(&table, &request), None, "{:?} {:?}", request, kernel);
                }
                KernelVerdict::Proxy(_) => {}
                KernelVerdict::Headers(_) => prop_assert!(false, "{:?}", kernel),
            }
        }
    }

    #[test]
    fn the_kernel_decides_whatever_it_can(
        routes in plain_routes(),
        requests in proptest::collection::vec(request(), 1..40),
    ) {
        let table = table(routes);
        let kernel = table.kernel(|_| None);
        for request in requests {
            let Some(method) = Method::read(request.method) else { continue };
            let path = if request.path.is_empty() { "/" } else { &request.path };
            let expected = match (method, find(&table, &request)) {
                (Method::Connect | Method::Trace, _) => KernelVerdict::Proxy(Reason::Method),
                (_, Some(found)) => KernelVerdict::Rule(found.rule),
                (_, None) => KernelVerdict::Proxy(Reason::NoRoute),
            };
            prop_assert_eq!(kernel.verdict(method, path), expected, "{:?} {:?}", request, kernel);
        }
    }
}

/// What a file says, and what the kernel makes of it.
fn lowered(routes: &str) -> RouteTable {
    let text = format!(
        "services:\n  - {{name: web, protocol: http, address: '10.96.0.1:80', endpoints: ['10.0.0.1:80'], routes: {routes}}}\n"
    );
    let source = alize_model::Source { name: "-", text: &text };
    let (snapshot, _) = alize_model::parse(source, &Default::default(), &Default::default())
        .unwrap_or_else(|diagnostics| panic!("{diagnostics}"));
    RouteTable::compile(snapshot.services()[0].http.as_ref().unwrap())
}

fn verdict(routes: &str, method: Method, path: &str) -> KernelVerdict {
    lowered(routes).kernel(|_| None).verdict(method, path)
}

use KernelVerdict::{Proxy, Rule};

#[test]
fn a_service_without_routes_is_one_rule() {
    let table = RouteTable::compile(&Http::plain());
    let kernel = table.kernel(|_| None);
    assert_eq!((kernel.any, kernel.classes.len()), (Some(0), 0));
    assert_eq!(kernel.verdict(Method::Connect, "/"), Proxy(Reason::Method));
}

#[test]
fn a_header_of_one_route_concerns_the_paths_below_it_only() {
    let routes = "[{match: {path: /api, headers: {x-beta: '1'}}, to: {v: '2'}}, {match: /api}, {match: /}]";
    let kernel = lowered(routes).kernel(|_| None);
    let decide = |headers: &[(&str, &str)]| kernel.decide(Method::Get, "/api/x", headers);
    assert_eq!(
        (decide(&[]), decide(&[("X-Beta", "1")]), decide(&[("x-beta", "2")])),
        (Rule(1), Rule(0), Rule(1))
    );
    let twice = decide(&[("x-beta", "1"), ("x-beta", "1")]);
    assert_eq!(twice, Proxy(Reason::HeaderMatch), "the proxy joins the values");
    assert_eq!(verdict(routes, Method::Get, "/"), Rule(2));
    assert_eq!(verdict(routes, Method::Get, "/apis"), Rule(2));
}

#[test]
fn headers_that_the_kernel_cannot_look_for_are_the_proxy_s() {
    for header in
        ["x-beta: {regex: '1.*'}", "x_beta: '1'", "connection: '1'", "x-a-name-that-is-much-too-long: '1'"]
    {
        let routes =
            format!("[{{match: {{path: /api, headers: {{{header}}}}}, to: {{v: '2'}}}}, {{match: /}}]");
        assert_eq!(verdict(&routes, Method::Get, "/api/x"), Proxy(Reason::HeaderMatch), "{header}");
        assert_eq!(verdict(&routes, Method::Get, "/"), Rule(1));
    }
    let retrying = "[{match: {path: /, headers: {x-beta: '1'}}, retry: {attempts: 2}}, {match: /}]";
    let kernel = lowered(retrying).kernel(|_| None);
    assert_eq!(kernel.decide(Method::Get, "/", &[("x-beta", "1")][..]), Proxy(Reason::Retry));
    assert_eq!(kernel.decide(Method::Get, "/", &[("x-beta", "2")][..]), Rule(1));
}

#[test]
fn what_a_route_does_counts_where_it_is_found() {
    let routes = "[{match: {path: /slow, method: POST}, timeout: 2s}, {match: /slow}, {match: {path: {exact: /old}}, redirect: {path: /}}]";
    assert_eq!(verdict(routes, Method::Post, "/slow/x"), Proxy(Reason::Timeout));
    assert_eq!(verdict(routes, Method::Get, "/slow/x"), Rule(1));
    assert_eq!(verdict(routes, Method::Get, "/old"), Proxy(Reason::Redirect));
    assert_eq!(verdict(routes, Method::Get, "/old/x"), Proxy(Reason::NoRoute));
}

#[test]
fn a_regular_expression_concerns_the_folder_that_it_begins_with_only() {
    let routes = "[{match: {path: {regex: '/users/[0-9]+'}}, timeout: 1s}, {match: /}, {match: {path: {exact: /users/me}}}]";
    assert_eq!(verdict(routes, Method::Get, "/users/7"), Proxy(Reason::RegexMatch));
    assert_eq!(verdict(routes, Method::Get, "/users/me"), Rule(2), "an exact path comes first");
    assert_eq!(verdict(routes, Method::Get, "/shop"), Rule(1));
    let anywhere =
        "[{match: {path: {regex: '.*[.]png'}}, timeout: 1s}, {match: /}, {match: {path: {exact: /a}}}]";
    assert_eq!(verdict(anywhere, Method::Get, "/shop"), Proxy(Reason::RegexMatch));
    assert_eq!(verdict(anywhere, Method::Get, "/a"), Rule(2));
}

#[test]
fn conditions_of_one_and_the_same_route_do_no_harm() {
    let routes = "[{match: [{path: /, headers: {x-a: '1'}}, /]}]";
    assert_eq!(verdict(routes, Method::Get, "/x"), Rule(0));
}

#[test]
fn a_path_that_the_kernel_cannot_tell_apart_concerns_the_class_around_it() {
    let long = format!("/a/{}", "x".repeat(60));
    let routes = format!(
        "[{{match: {long}, to: {{v: '1'}}}}, {{match: /a}}, {{match: '/b/%C3%BC', to: {{v: '1'}}}}, {{match: /}}]"
    );
    assert_eq!(verdict(&routes, Method::Get, "/a/b"), Proxy(Reason::LongPath));
    assert_eq!(verdict(&routes, Method::Get, "/c"), Proxy(Reason::OddPath));
    let below = "[{match: '/b/%C3%BC', to: {v: '1'}}, {match: /b}, {match: /}]";
    assert_eq!(verdict(below, Method::Get, "/b/x"), Proxy(Reason::OddPath));
    assert_eq!(verdict(below, Method::Get, "/c"), Rule(2));
}

#[test]
fn classes_that_decide_alike_are_one() {
    let kernel = lowered("[{match: [/a, /a/b, {path: {exact: /a/c}}]}, {match: /}]").kernel(|_| None);
    let patterns: Vec<_> = kernel.classes.iter().map(|class| class.pattern.path()).collect();
    assert_eq!(patterns, ["/", "/a"]);
}

#[test]
fn a_service_that_routes_lead_to_may_keep_them_from_the_kernel() {
    let text = "services:
  - {name: a, protocol: http, address: '10.96.0.1:80', routes: [{match: /b, to: b}, {match: /}], endpoints: ['10.0.0.1:80']}
  - {name: b, protocol: http, address: '10.96.0.2:80', http: {upstream: h2c}, endpoints: ['10.0.0.2:80']}
";
    let source = alize_model::Source { name: "-", text };
    let (snapshot, _) = alize_model::parse(source, &Default::default(), &Default::default()).unwrap();
    let kernel = snapshot.kernel_table(snapshot.get("a").unwrap()).unwrap();
    assert_eq!(kernel.verdict(Method::Get, "/b"), Proxy(Reason::Http2));
    assert_eq!(kernel.verdict(Method::Get, "/"), Rule(1));
    let kernel = snapshot.kernel_table(snapshot.get("b").unwrap()).unwrap();
    assert_eq!(kernel.verdict(Method::Get, "/"), Proxy(Reason::Http2));
}

#[test]
fn it_is_told_which_way_a_route_takes_and_why() {
    let table = lowered(
        "[{match: {path: /api, headers: {x-beta: '1'}}, to: {v: '2'}}, {match: /}, {match: /slow, timeout: 1s}]",
    );
    let ways = table.ways(|_| None);
    let patterns = |way: &alize_model::http::Way, reason| -> Vec<String> {
        way.proxy.get(&reason).into_iter().flatten().map(|pattern| pattern.path().to_owned()).collect()
    };
    assert!(ways[0].kernel && ways[0].proxy.is_empty(), "by a header that is just so");
    assert!(ways[1].kernel, "all other paths");
    assert!(!ways[1].proxy.contains_key(&Reason::HeaderMatch));
    assert_eq!((ways[2].kernel, patterns(&ways[2], Reason::Timeout)), (false, vec!["/slow".to_owned()]));
    assert_eq!(ways[2].proxy.len(), 1);
}

#[test]
fn reasons_have_names_of_their_own() {
    let mut names: Vec<_> = Reason::ALL.iter().map(|reason| reason.name()).collect();
    for reason in Reason::ALL {
        assert_eq!(serde_json::to_value(reason).unwrap(), reason.name());
        assert!(reason.sentence().contains(' '));
    }
    names.sort_unstable();
    names.dedup();
    assert_eq!(names.len(), Reason::ALL.len());
}

#[test]
fn a_path_of_slashes_alone_costs_no_more_than_its_length() {
    let routes = (1..=1000).map(|n| format!("{{match: /p{n}/a/b/c}}")).collect::<Vec<_>>().join(", ");
    let table = lowered(&format!("[{routes}]"));
    let path = "/".repeat(60_000);
    let headers: &[(&str, &str)] = &[];
    assert_eq!(headers.values("x").count(), 0);
    let start = std::time::Instant::now();
    for _ in 0..1_000 {
        let head = Head { method: "GET", path: &path, query: None, headers };
        assert_eq!(table.find(&head), None);
    }
    assert!(start.elapsed().as_secs() < 10, "{:?} for 1,000 requests", start.elapsed());
}

#[test]
fn bounds_and_hashes_that_both_sides_hold_keep_nothing_from_the_kernel() {
    let reasons = |http: &str| {
        let text = format!(
            "services: [{{name: web, protocol: http, address: '10.96.0.1:80', endpoints: ['10.0.0.1:80'], http: {{{http}}}}}]"
        );
        let source = alize_model::Source { name: "-", text: &text };
        let (snapshot, _) =
            alize_model::parse(source, &alize_model::Budgets::default(), &alize_model::HostFacts::default())
                .unwrap();
        let http = snapshot.get("web").unwrap().http.clone().unwrap();
        (http.proxy_reason(), http.reason_as_target())
    };
    let (circuit, hash) = (Some(Reason::Circuit), Some(Reason::ConsistentHash));
    assert_eq!(reasons("rate-limit: {requests: 10, per: client}"), (None, None));
    assert_eq!(reasons("circuit: {max-requests: 9, max-pending: 3}"), (None, None));
    assert_eq!(reasons("circuit: {max-requests: 9, max-connections: 3}"), (circuit, circuit));
    assert_eq!(reasons("balance: {consistent-hash: source}"), (None, None));
    assert_eq!(
        reasons("balance: {consistent-hash: {header: X-User}}"),
        (None, hash),
        "another's table looks for its own"
    );
    assert_eq!(reasons("balance: {consistent-hash: {header: x_user}}"), (hash, hash));
    assert_eq!(reasons("balance: {consistent-hash: {cookie: sid}}"), (hash, hash));
    assert_eq!(verdict("[{match: /, rate-limit: {requests: 5}}]", Method::Get, "/"), Rule(0));
}
