//! Random routes and requests, out of few words so that they often meet.

#![allow(dead_code, reason = "each test uses its part")]

mod write;

use std::collections::HashSet;
use std::num::{NonZeroU8, NonZeroU16, NonZeroU32};
use std::sync::Arc;
use std::time::Duration;

use alize_model::Labels;
use alize_model::http::{
    Action, Backend, Budget, Circuit, Cors, Fault, FieldName, FieldValue, Forward, Fraction, HashOn,
    HeaderEdit, HeaderMatch, Http, HttpBalance, LimitPer, Match, Method, Mirror, Outlier, PathChange,
    PathMatch, Pattern, Pool, QueryMatch, RateLimit, Redirect, Respond, Retry, RetryCause, Rewrite, Route,
    Scheme, Target, TextMatch, Timeouts, Upstream, ValueMatch,
};
use proptest::collection::{btree_map, vec};
use proptest::option;
use proptest::prelude::*;
use proptest::sample::{select, subsequence};

#[allow(unused_imports, reason = "each test uses its part")]
pub(crate) use write::write;

fn segment() -> impl Strategy<Value = &'static str> {
    prop_oneof![
        12 => select(vec!["a", "b", "ab", "c"]),
        1 => select(vec!["", "%61", "a;b", "..", ".", "a-very-long-segment-that-goes-on-and-on-and-on-and-on"]),
    ]
}

pub(crate) fn path() -> impl Strategy<Value = String> {
    vec(segment(), 0..5).prop_map(|segments| format!("/{}", segments.join("/")))
}

fn pattern() -> impl Strategy<Value = Pattern> {
    let all =
        ["/a/[ab]+", "/a.*", "/(a|b)/c", ".*c", "/a/b?", "^/b/.*$", "/ab/c/[^/]+", "/a|/b", "(?i)/A/.*"];
    select(all.to_vec()).prop_map(|text| Pattern::new(text).unwrap())
}

fn path_match() -> impl Strategy<Value = PathMatch> {
    prop_oneof![
        3 => path().prop_map(|path| PathMatch::Exact(path.into())),
        6 => path().prop_map(|path| PathMatch::prefix(&path)),
        1 => pattern().prop_map(PathMatch::Regex),
    ]
}

fn value_match() -> impl Strategy<Value = ValueMatch> {
    prop_oneof![
        select(vec!["1", "2", "", "1, 2"]).prop_map(|v| ValueMatch::Exact(FieldValue::new(v).unwrap())),
        select(vec!["[12]", "1.*", ""]).prop_map(|v| ValueMatch::Regex(Pattern::new(v).unwrap())),
    ]
}

fn text_match() -> impl Strategy<Value = TextMatch> {
    prop_oneof![
        select(vec!["1", "2", "", "a b", "ü"]).prop_map(|v| TextMatch::Exact(v.into())),
        select(vec!["[12]", "a.b", ""]).prop_map(|v| TextMatch::Regex(Pattern::new(v).unwrap())),
    ]
}

fn condition() -> BoxedStrategy<Match> {
    let headers = btree_map(select(vec!["x-a", "x-b", "host"]), value_match(), 0..3);
    let query = btree_map(select(vec!["q", "r", "a b"]), text_match(), 0..3);
    let rare = (0..4_u8, headers, query);
    (path_match(), option::weighted(0.3, select(Method::ALL.to_vec())), rare)
        .prop_map(|(path, method, (rare, headers, query))| Match {
            path,
            method,
            headers: headers
                .into_iter()
                .filter(|_| rare == 0)
                .map(|(name, value)| HeaderMatch { name: FieldName::new(name).unwrap(), value })
                .collect(),
            query: query
                .into_iter()
                .filter(|_| rare < 2)
                .map(|(name, value)| QueryMatch { name: name.into(), value })
                .collect(),
        })
        .boxed()
}

fn labels() -> impl Strategy<Value = Labels> {
    btree_map(
        select(vec!["version", "zone"]).prop_map(Arc::from),
        select(vec!["v1", "v2", "a"]).prop_map(Arc::from),
        0..2,
    )
}

fn target() -> impl Strategy<Value = Target> {
    labels().prop_map(|labels| Target { service: None, labels })
}

fn backends() -> impl Strategy<Value = Vec<Backend>> {
    vec((target(), 0..100_u16), 1..4).prop_map(|all| {
        let mut seen = HashSet::new();
        let mut all: Vec<Backend> = all
            .into_iter()
            .filter(|(target, _)| seen.insert(target.clone()))
            .map(|(target, weight)| Backend { target, weight })
            .collect();
        all[0].weight += 1;
        all
    })
}

fn lapse() -> impl Strategy<Value = Duration> {
    (1_000..=60_000_u64).prop_map(Duration::from_millis)
}

fn edit() -> BoxedStrategy<HeaderEdit> {
    let names = subsequence(vec!["x-a", "x-b", "x-c", "x-d"], 1..=4);
    (names, any::<[u8; 4]>(), "[!-~]([ -~]{0,8}[!-~])?")
        .prop_map(|(names, kinds, value)| {
            let mut edit = HeaderEdit::default();
            for (name, kind) in names.into_iter().zip(kinds) {
                let name = FieldName::new(name).unwrap();
                let value = FieldValue::new(&value).unwrap();
                match kind % 3 {
                    0 => edit.set.push((name, value)),
                    1 => edit.add.push((name, value)),
                    _ => edit.remove.push(name),
                }
            }
            edit
        })
        .boxed()
}

fn change() -> impl Strategy<Value = PathChange> {
    prop_oneof![
        path().prop_map(|path| PathChange::Full(path.into())),
        path().prop_map(|path| match path.trim_end_matches('/') {
            "" => PathChange::Prefix("/".into()),
            path => PathChange::Prefix(path.into()),
        }),
    ]
}

fn retry() -> BoxedStrategy<Retry> {
    let causes = subsequence(vec![RetryCause::Connect, RetryCause::Reset], 1..=2);
    let statuses = subsequence(vec![429, 500, 502, 503], 0..=4);
    (1..=10_u8, causes, statuses, 1..=1_000_u64, 1_000..=60_000_u64, option::of((0..=100_u8, 0..9_u32)))
        .prop_map(|(attempts, causes, statuses, backoff, max, budget)| Retry {
            attempts: NonZeroU8::new(attempts).unwrap(),
            statuses,
            causes,
            backoff: Duration::from_millis(backoff),
            max_backoff: Duration::from_millis(max),
            budget: budget.map(|(percent, min_per_second)| Budget { percent, min_per_second }),
        })
        .boxed()
}

fn forward() -> BoxedStrategy<Forward> {
    let rewrite = (option::of(change()), option::of("[a-z]{1,8}(\\.example)?"))
        .prop_map(|(path, host)| Rewrite { path, host: host.map(Arc::from) });
    let timeouts = (lapse(), option::of(1..=1_000_u64)).prop_map(|(request, tries)| Timeouts {
        request: Some(request),
        per_try: tries.map(Duration::from_millis),
    });
    let mirrors = vec((target(), fraction()), 0..3).prop_map(|all| {
        all.into_iter().map(|(target, fraction)| Mirror { target, fraction }).collect::<Vec<_>>()
    });
    let rare = |chance| any::<u8>().prop_map(move |drawn| drawn < chance);
    let chances = (rare(40), rare(40), rare(30), rare(40), rare(40));
    (backends(), edit(), rewrite, mirrors, timeouts, retry(), chances)
        .prop_map(|(backends, edit, rewrite, mirrors, timeouts, retry, (a, b, c, d, e))| Forward {
            backends,
            request_headers: if a { edit } else { HeaderEdit::default() },
            rewrite: if b { rewrite } else { Rewrite::default() },
            mirrors: if c { mirrors } else { Vec::new() },
            timeouts: if d { timeouts } else { Timeouts::default() },
            retry: e.then_some(retry),
        })
        .boxed()
}

fn fraction() -> impl Strategy<Value = Fraction> {
    (0..=1_000_000_u32).prop_map(Fraction::millionths)
}

fn redirect() -> BoxedStrategy<Redirect> {
    let status = select(vec![301_u16, 302, 303, 307, 308]);
    let parts = (
        option::of(select(vec![Scheme::Http, Scheme::Https])),
        option::of("[a-z]{1,8}\\.example"),
        option::of(change()),
        option::of(1..=u16::MAX),
    );
    (parts, status)
        .prop_map(|((scheme, host, path, port), status)| Redirect {
            scheme,
            host: host.map(Arc::from),
            path,
            port: Some(port.and_then(NonZeroU16::new).unwrap_or(NonZeroU16::MIN)),
            status,
        })
        .boxed()
}

fn respond() -> impl Strategy<Value = Respond> {
    (200..=599_u16, option::of("[ -~\n]{0,20}")).prop_map(|(status, body)| Respond {
        status,
        body: body.filter(|_| !matches!(status, 204 | 205 | 304)).map(Arc::from),
        content_type: None,
    })
}

fn action() -> impl Strategy<Value = Action> {
    prop_oneof![
        8 => forward().prop_map(Action::Forward),
        1 => redirect().prop_map(Action::Redirect),
        1 => respond().prop_map(Action::Respond),
    ]
}

fn cors() -> BoxedStrategy<Cors> {
    let words = |words: Vec<&'static str>| {
        subsequence(words, 0..=2).prop_map(|all| all.into_iter().map(Arc::from).collect::<Vec<Arc<str>>>())
    };
    let origins = subsequence(vec!["https://a.example", "http://*.b.example"], 1..=2)
        .prop_map(|all| all.into_iter().map(Arc::from).collect());
    (origins, words(vec!["PUT", "DELETE"]), words(vec!["x-a", "*"]), any::<bool>(), option::of(0..86_400_u64))
        .prop_map(|(allow_origins, allow_methods, allow_headers, allow_credentials, age)| Cors {
            allow_origins,
            allow_methods,
            expose_headers: allow_headers.clone(),
            allow_headers,
            allow_credentials,
            max_age: age.map(Duration::from_secs),
        })
        .boxed()
}

fn fault() -> impl Strategy<Value = Fault> {
    (lapse(), fraction(), option::of((200..=599_u16, fraction())))
        .prop_map(|(time, share, abort)| Fault { delay: Some((time, share)), abort })
}

fn rate_limit() -> impl Strategy<Value = RateLimit> {
    let number = || (1..=1_000_000_u32).prop_map(|n| NonZeroU32::new(n).unwrap());
    (number(), number(), select(vec![LimitPer::All, LimitPer::Client]))
        .prop_map(|(requests, burst, per)| RateLimit { requests, burst, per })
}

fn route() -> BoxedStrategy<Route> {
    let extras = (
        option::weighted(0.1, edit()),
        option::weighted(0.1, cors()),
        option::weighted(0.1, fault()),
        option::weighted(0.1, rate_limit()),
    );
    (vec(condition(), 1..4), action(), extras)
        .prop_map(|(matches, action, (headers, cors, fault, rate_limit))| {
            let mut route = Route {
                name: "".into(),
                matches,
                action,
                response_headers: headers.unwrap_or_default(),
                cors,
                fault,
                rate_limit,
            };
            // A prefix is changed only where all matches are prefixes.
            let full = |change: &mut Option<PathChange>| {
                if let Some(PathChange::Prefix(path)) = change {
                    *change = Some(PathChange::Full(Arc::clone(path)));
                }
            };
            if !route.matches.iter().all(|m| matches!(m.path, PathMatch::Prefix(_))) {
                match &mut route.action {
                    Action::Forward(forward) => full(&mut forward.rewrite.path),
                    Action::Redirect(redirect) => full(&mut redirect.path),
                    Action::Respond(_) => {}
                }
            }
            route
        })
        .boxed()
}

/// Routes whose matches differ.
pub(crate) fn routes() -> BoxedStrategy<Vec<Route>> {
    vec(route(), 1..7)
        .prop_map(|mut routes| {
            let mut seen = HashSet::new();
            for route in &mut routes {
                route.matches.retain(|condition| seen.insert(condition.clone()));
            }
            routes.retain(|route| !route.matches.is_empty());
            for (number, route) in (1..).zip(&mut routes) {
                route.name = format!("route-{number}").into();
            }
            routes
        })
        .boxed()
}

/// Routes that the kernel can do all of: plain paths and methods, and nothing but forwarding.
pub(crate) fn plain_routes() -> impl Strategy<Value = Vec<Route>> {
    let path = || vec(select(vec!["a", "b", "ab"]), 0..4).prop_map(|all| format!("/{}", all.join("/")));
    let condition = prop_oneof![
        path().prop_map(|path| PathMatch::Exact(path.into())),
        path().prop_map(|path| PathMatch::prefix(&path)),
    ];
    let condition = (condition, option::weighted(0.3, select(Method::ALL.to_vec())))
        .prop_map(|(path, method)| Match { path, method, ..Match::default() });
    vec((vec(condition, 1..3), backends()), 1..6).prop_map(|all| {
        let route = |(matches, backends)| Route { matches, ..Route::to("", backends) };
        all.into_iter().map(route).collect()
    })
}

fn balance() -> impl Strategy<Value = HttpBalance> {
    prop_oneof![
        Just(HttpBalance::LeastRequests),
        Just(HttpBalance::RoundRobin),
        Just(HttpBalance::WeightedRandom),
        Just(HttpBalance::ConsistentHash(HashOn::Source)),
        Just(HttpBalance::ConsistentHash(HashOn::Header(FieldName::new("x-user").unwrap()))),
        Just(HttpBalance::ConsistentHash(HashOn::Cookie("Session".into()))),
    ]
}

fn outlier() -> BoxedStrategy<Outlier> {
    let count = || option::of((1..=1_000_u16).prop_map(|n| NonZeroU16::new(n).unwrap()));
    (count(), count(), (1..=1_000_u16, lapse()), (lapse(), lapse()), 0..=100_u8)
        .prop_map(|(consecutive_5xx, consecutive_gateway_errors, (slow, than), (a, b), max_ejected)| {
            Outlier {
                consecutive_5xx,
                consecutive_gateway_errors,
                consecutive_slow: NonZeroU16::new(slow).map(|slow| (slow, than)),
                base: a.min(b),
                max: a.max(b),
                max_ejected,
            }
        })
        .boxed()
}

/// Everything that a service can say of HTTP.
pub(crate) fn http() -> BoxedStrategy<Http> {
    let number = || (1..=1_000_000_u32).prop_map(|n| NonZeroU32::new(n).unwrap());
    let pool = (0..=1_000_u32, 1_000..=1_000_000_u32, lapse(), lapse(), option::of(lapse())).prop_map(
        |(min_idle, max, idle_timeout, connect_timeout, response_timeout)| Pool {
            min_idle,
            max: NonZeroU32::new(max).unwrap(),
            idle_timeout,
            connect_timeout,
            response_timeout,
        },
    );
    let circuit = (option::of(number()), 0..=1_000_u32, option::of(number())).prop_map(
        |(max_connections, pending, max_requests)| Circuit {
            max_connections,
            max_pending: Some(pending),
            max_requests,
        },
    );
    let rare = (
        option::weighted(0.2, circuit),
        option::weighted(0.2, outlier()),
        option::weighted(0.2, rate_limit()),
    );
    let upstream = select(vec![Upstream::Http1, Upstream::H2c]);
    (upstream, balance(), pool, rare, any::<bool>(), routes())
        .prop_map(|(upstream, balance, pool, (circuit, outlier, rate_limit), reason_header, routes)| Http {
            upstream,
            balance,
            pool,
            circuit,
            outlier,
            rate_limit,
            reason_header,
            routes,
        })
        .boxed()
}

/// A request, as far as routes look at it.
#[derive(Clone, Debug)]
pub(crate) struct Request {
    pub(crate) method: &'static str,
    pub(crate) path: String,
    pub(crate) query: Option<String>,
    pub(crate) headers: Vec<(&'static str, &'static str)>,
}

pub(crate) fn request() -> impl Strategy<Value = Request> {
    let methods = Method::ALL.map(Method::as_str).into_iter().chain(["QUERY", "get", "_OTHER"]);
    let header = (select(vec!["x-a", "X-B", "x-c", "Host"]), select(vec!["1", "2", "12", "", "3"]));
    let query = vec(
        (
            select(vec!["q", "r", "a+b", "%71", "x"]),
            select(vec!["=1", "=2", "=a%20b", "=a+b", "", "=%C3%BC", "=%"]),
        ),
        0..4,
    )
    .prop_map(|all| all.iter().map(|(name, value)| format!("{name}{value}")).collect::<Vec<_>>().join("&"));
    let path = prop_oneof![20 => path(), 1 => Just("*".to_string()), 1 => Just(String::new())];
    (select(methods.collect::<Vec<_>>()), path, option::of(query), vec(header, 0..4))
        .prop_map(|(method, path, query, headers)| Request { method, path, query, headers })
}
