//! Random routes and requests, out of the model's own generators: what the kernel's lookup gives in lowered tables, the C
//! compiled for the host, is what the model says, and the route that the proxy would find.

#[path = "../../../model/tests/http/mod.rs"]
#[allow(unreachable_pub, reason = "shared with the model's tests")]
mod generators;

use std::sync::Arc;

use alize_datapath_host::http::{Buckets, Classes, caller_place};
use alize_model::http::{
    Backend, Caller, HashOn, Head, Http, HttpBalance, KernelTable, KernelVerdict, LimitPer, Method, PLACES,
    RateLimit, Route, RouteTable, rendezvous, value_place,
};
use alize_model::{Balance, Endpoint, Service, ServiceName};
use proptest::prelude::*;
use proptest::strategy::ValueTree;

use crate::abi::Plain;

use super::limits::Rate;
use super::lower::{Lowered, Place, Services, Usable};
use crate::tables::tests::weighted;

/// All endpoints take requests.
struct All;

impl Services for All {
    fn service(&self, _: &ServiceName) -> Option<&Service> {
        None
    }

    fn usable(&self, _: &Service, endpoint: &Endpoint) -> Option<Usable> {
        Some(Usable { number: 1, address: endpoint.address, weight: 1 })
    }
}

const PLACE: Place = Place { table: 7, rules: 100, groups: 200, targets: 300 };

fn lowered(routes: &[Route]) -> (RouteTable, KernelTable, Lowered) {
    let http = Arc::new(Http { routes: routes.to_vec(), ..Http::default() });
    let table = RouteTable::compile(&http);
    let kernel = table.kernel(|_| None);
    let service = Service { http: Some(http), ..weighted(Balance::WeightedRandom, &[1, 1]) };
    let lowered = Lowered::new(&service, &kernel, &All);
    (table, kernel, lowered)
}

/// The trie with the tables of a service, and those of its neighbours, who have nothing to say.
fn trie(lowered: &Lowered) -> Classes {
    let mut trie = Classes::default();
    if let Some(headers) = lowered.headers(PLACE) {
        trie.headers(headers.bytes());
    }
    for (key, class) in lowered.classes(PLACE) {
        trie.add(key.table, key.prefix, &key.path, &class.verdicts);
        for other in [PLACE.table - 1, PLACE.table + 1] {
            trie.add(other, key.prefix, &key.path, &[9999; 7]);
        }
    }
    trie
}

/// How many requests the kernel has decided.
fn check(routes: &[Route], requests: &[generators::Request]) -> Result<u32, TestCaseError> {
    let (table, kernel, lowered) = lowered(routes);
    let (mut trie, word) = (trie(&lowered), lowered.word(PLACE, true).pack());
    let mut decided = 0;
    for request in requests {
        let query = request.query.as_ref().map_or(String::new(), |query| format!("?{query}"));
        // One Host, which the kernel wants.
        let mut headers = request.headers.clone();
        headers.retain(|(name, _)| !name.eq_ignore_ascii_case("host"));
        let fields: String = headers.iter().map(|(name, value)| format!("{name}: {value}\r\n")).collect();
        let message =
            format!("{} {}{query} HTTP/1.1\r\nHost: a\r\n{fields}\r\n", request.method, request.path);
        headers.push(("Host", "a"));
        let routed = trie.route(message.as_bytes(), word);
        let Some(method) = Method::read(request.method) else {
            prop_assert_eq!(routed.map_err(|reason| reason.name()), Err("method"));
            continue;
        };
        let verdict = kernel.decide(method, &request.path, headers.as_slice());
        match routed.map_err(|reason| reason.name()) {
            Ok(number) => {
                let rule =
                    lowered.rules(PLACE).find(|(place, _)| *place == number).map(|(_, rule)| rule.route);
                let route = rule.and_then(|route| u16::try_from(route).ok());
                prop_assert_eq!(route.map(KernelVerdict::Rule), Some(verdict), "{}", message);
                let head = Head {
                    method: request.method,
                    path: &request.path,
                    query: request.query.as_deref(),
                    headers: headers.as_slice(),
                };
                prop_assert_eq!(table.find(&head).map(|found| found.rule), route, "{}", message);
                decided += 1;
            }
            Err("route") => {
                prop_assert!(matches!(verdict, KernelVerdict::Proxy(_)), "{} {:?}", message, verdict)
            }
            Err("odd-path") => prop_assert!(kernel.any.is_none(), "{}", message),
            Err(reason) => prop_assert!(matches!(reason, "method" | "target"), "{} for {}", reason, message),
        }
    }
    Ok(decided)
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(400))]

    #[test]
    fn the_kernel_s_lookup_is_the_model_s(
        routes in generators::routes(),
        requests in prop::collection::vec(generators::request(), 1..40),
    ) {
        check(&routes, &requests)?;
    }

    #[test]
    fn plain_routes_too(
        routes in generators::plain_routes(),
        requests in prop::collection::vec(generators::request(), 40),
    ) {
        check(&routes, &requests)?;
    }
}

#[test]
fn the_comparison_is_of_something() {
    let mut runner = proptest::test_runner::TestRunner::deterministic();
    let mut decided = 0;
    let strategy = (generators::plain_routes(), prop::collection::vec(generators::request(), 40));
    for _ in 0..50 {
        let (routes, requests) = strategy.new_tree(&mut runner).unwrap().current();
        decided += check(&routes, &requests).unwrap();
    }
    assert!(decided > 200, "only {decided} of 2000 requests");
}

fn limit(requests: u32, burst: u32, per: LimitPer) -> RateLimit {
    let number = |n| std::num::NonZeroU32::new(n).unwrap();
    RateLimit { requests: number(requests), burst: number(burst), per }
}

/// A bucket as the words of the file say it: so many tokens at most, one more each interval, one for each request.
struct Tokens {
    limit: RateLimit,
    /// In intervals.
    tokens: f64,
    at: u64,
}

impl Tokens {
    fn fill(&mut self, now: u64) {
        let more = (now - self.at) as f64 / self.limit.interval_ns() as f64;
        self.tokens = (self.tokens + more).min(f64::from(self.limit.burst.get()));
        self.at = now;
    }
}

fn limits() -> impl Strategy<Value = Option<RateLimit>> {
    let per = prop_oneof![Just(LimitPer::All), Just(LimitPer::Client)];
    prop::option::weighted(0.8, (1u32..2000, 1u32..30, per).prop_map(|(r, b, per)| limit(r, b, per)))
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(200))]

    /// The C, compiled for the host, draws as a bucket of tokens does that is kept in the plainest way.
    #[test]
    fn buckets_are_buckets_of_tokens(
        both in [limits(), limits()],
        draws in prop::collection::vec((0u64..400_000_000, 0u64..3), 1..200),
    ) {
        let service = ServiceName::new("web").unwrap();
        let rates = [
            both[0].map(|limit| Rate::new(&limit, &service, None)),
            both[1].map(|limit| Rate::new(&limit, &service, Some("all"))),
        ];
        let packed = Rate::pack_both(rates);
        let mut buckets = Buckets::new(16);
        let mut model: std::collections::HashMap<(usize, u64), Tokens> = Default::default();
        let mut now = 5_000_000_000;
        for (turn, (later, netns)) in draws.into_iter().enumerate() {
            now += later / 4 * (turn as u64 % 3);
            if turn % 16 == 0 {
                buckets.sweep(now);
            }
            let mut asked = Vec::new();
            for (at, limit) in both.iter().enumerate() {
                let Some(limit) = *limit else { continue };
                let whose = if limit.per == LimitPer::Client { netns } else { u64::MAX };
                let full = Tokens { limit, tokens: f64::from(limit.burst.get()), at: now };
                model.entry((at, whose)).or_insert(full).fill(now);
                asked.push((at, whose));
            }
            let (outcome, wait) = buckets.draw(packed.bytes(), netns, now);
            // Where a float is on the edge either is right.
            let left: Vec<f64> = asked.iter().map(|key| model[key].tokens).collect();
            if left.iter().any(|tokens| (tokens - 1.0).abs() < 1e-6) {
                prop_assume!(false);
            }
            let within = left.iter().all(|tokens| *tokens > 1.0);
            prop_assert_eq!(outcome == 0, within, "{:?} at {}: {:?}", both, now, left);
            if within {
                asked.iter().for_each(|key| model.get_mut(key).unwrap().tokens -= 1.0);
            } else {
                prop_assert_eq!(outcome, 1);
                let first = asked.iter().find(|key| model[key].tokens < 1.0).unwrap();
                let tokens = &model[first];
                let expected = (1.0 - tokens.tokens) * tokens.limit.interval_ns() as f64;
                prop_assert!((wait as f64 - expected).abs() < 1000.0, "{} and {}", wait, expected);
            }
        }
    }

    #[test]
    fn callers_have_their_place_on_both_sides(netns: u64, address: [u8; 16], v4: bool) {
        let v6 = std::net::Ipv6Addr::from(address);
        let address = if v4 { std::net::Ipv4Addr::from([address[0], address[1], address[2], address[3]]).into() } else { v6.into() };
        let caller = Caller { netns, address };
        prop_assert_eq!(caller_place(netns, caller.words()), caller.place());
    }
}

#[test]
fn where_there_is_no_room_for_a_bucket_it_is_said() {
    let service = ServiceName::new("web").unwrap();
    let rate = |per| Rate::pack_both([Some(Rate::new(&limit(1, 1, per), &service, None)), None]);
    let mut buckets = Buckets::new(3);
    let (each, all) = (rate(LimitPer::Client), rate(LimitPer::All));
    let outcomes: Vec<u32> =
        (1..=5).map(|netns| buckets.draw(each.bytes(), netns, 1_000_000_000).0).collect();
    assert_eq!(outcomes, [0, 0, 0, 2, 2]);
    assert_eq!(buckets.draw(each.bytes(), 1, 1_000_000_000).0, 1, "who has one keeps it");
    assert_eq!(buckets.draw(all.bytes(), 9, 1_000_000_000).0, 2, "the host has one array for both maps");
    buckets.sweep(2_500_000_000);
    assert_eq!(buckets.draw(each.bytes(), 5, 2_500_000_000).0, 2, "they were full for less than a second");
    buckets.sweep(3_000_000_000);
    assert_eq!(buckets.draw(each.bytes(), 5, 3_000_000_000).0, 0);
}

/// Each place of callers leads to the endpoint that the proxy would choose for them, for any weights.
#[test]
fn a_table_by_source_is_the_proxy_s_choice() {
    let http = |balance| Http { balance, ..Http::default() };
    let http = Arc::new(http(HttpBalance::ConsistentHash(HashOn::Source)));
    let weights = [1, 1, 5, 2];
    let service = Service { http: Some(Arc::clone(&http)), ..weighted(Balance::WeightedRandom, &weights) };
    struct Numbered;
    impl Services for Numbered {
        fn service(&self, _: &ServiceName) -> Option<&Service> {
            None
        }
        fn usable(&self, service: &Service, endpoint: &Endpoint) -> Option<Usable> {
            let number = service.endpoints.iter().position(|known| known.address == endpoint.address)? as u32;
            // The last is not well.
            (number < 3).then_some(Usable { number, address: endpoint.address, weight: endpoint.weight })
        }
    }
    let kernel = RouteTable::compile(&http).kernel(|_| None);
    assert_eq!(kernel.any, Some(0), "all is the kernel's");
    let lowered = Lowered::new(&service, &kernel, &Numbered);
    assert!(lowered.word(PLACE, true).caller);
    let group = lowered.groups(PLACE).next().unwrap().1;
    assert_eq!((group.length, group.balance), (PLACES, 3));
    let targets: Vec<u64> = lowered.targets(PLACE).map(|(_, word)| word).collect();
    let places = &targets[(group.base - PLACE.targets) as usize..][..PLACES as usize];
    let usable =
        || service.endpoints[..3].iter().map(|endpoint| (endpoint.address.to_string(), endpoint.weight));
    let mut shares = [0; 3];
    for (place, word) in places.iter().enumerate() {
        let endpoint = crate::abi::Slot::unpack(*word).endpoint;
        assert_eq!(rendezvous(place as u64, usable()), Some(endpoint as usize), "place {place}");
        shares[endpoint as usize] += 1;
    }
    assert!(shares[2] > 3 * shares[0] && shares[0] > 150, "by weight: {shares:?}");
}

/// What bounds a service is in its tables, and a service with bounds is never balanced by connections.
#[test]
fn bounds_are_lowered() {
    let lowered = |change: &dyn Fn(&mut Http)| {
        let mut http = Http { routes: vec![Route::to("all", vec![Backend::all()])], ..Http::default() };
        change(&mut http);
        let http = Arc::new(http);
        let kernel = RouteTable::compile(&http).kernel(|_| None);
        let service = Service { http: Some(http), ..weighted(Balance::WeightedRandom, &[1, 1]) };
        Lowered::new(&service, &kernel, &All)
    };
    let bounds = |lowered: &Lowered| {
        let word = lowered.word(PLACE, true);
        let rule = lowered.rules(PLACE).next().unwrap().1;
        let rates: Vec<u64> =
            lowered.rates(PLACE).flat_map(|(_, rates)| rates.limit.map(|limit| limit.room_ns)).collect();
        (word.strict, word.caller, rule.limited, rates, lowered.groups(PLACE).next().unwrap().1.max_requests)
    };
    assert_eq!(bounds(&lowered(&|_| {})), (false, false, 0, vec![], 0));
    let one = limit(10, 3, LimitPer::All);
    let room = 2 * 100_000_000;
    assert_eq!(bounds(&lowered(&|http| http.rate_limit = Some(one))), (true, true, 1, vec![room, 0], 0));
    let of_route = |http: &mut Http| http.routes[0].rate_limit = Some(one);
    assert_eq!(bounds(&lowered(&of_route)), (true, true, 1, vec![0, room], 0));
    let circuit = alize_model::http::Circuit {
        max_connections: None,
        max_pending: None,
        max_requests: std::num::NonZeroU32::new(7),
    };
    assert_eq!(bounds(&lowered(&|http| http.circuit = Some(circuit))), (true, false, 0, vec![], 7));
}

/// Beside random routes, a header that requests are balanced by: its value has the place that the proxy gives it, or it is said
/// that it cannot be told.
fn check_hash(
    routes: &[Route],
    requests: &[generators::Request],
    values: &[String],
) -> Result<u32, TestCaseError> {
    let name = alize_model::http::FieldName::new("x-user").unwrap();
    let balance = HttpBalance::ConsistentHash(HashOn::Header(name));
    let http = Arc::new(Http { routes: routes.to_vec(), balance, ..Http::default() });
    prop_assert_eq!(http.hashed_header(), Some("x-user"));
    let table = RouteTable::compile(&http);
    let kernel = table.kernel(|_| None);
    prop_assert!(kernel.conditions.len() < KernelTable::CONDITIONS, "one is left for the header");
    let service = Service { http: Some(http), ..weighted(Balance::WeightedRandom, &[1, 1]) };
    let lowered = Lowered::new(&service, &kernel, &All);
    let (mut trie, word) = (trie(&lowered), lowered.word(PLACE, true).pack());
    let mut told = 0;
    for (request, value) in requests.iter().zip(values) {
        let mut headers = request.headers.clone();
        headers
            .retain(|(name, _)| !name.eq_ignore_ascii_case("host") && !name.eq_ignore_ascii_case("x-user"));
        let other: String = headers.iter().map(|(name, value)| format!("{name}: {value}\r\n")).collect();
        let message = |fields: &str| {
            format!("{} {} HTTP/1.1\r\nHost: a\r\n{fields}{other}\r\n", request.method, request.path)
        };
        let mut ask = |fields: &str| trie.route_by(message(fields).as_bytes(), word).map(|(_, place)| place);
        let Ok(without) = ask("") else { continue };
        if without == Some(None) {
            let expected = (value.len() <= 32).then(|| Some(value_place(value.as_bytes())));
            prop_assert_eq!(ask(&format!("X-User:  {value} \r\n")), Ok(expected), "{}", value);
            prop_assert_eq!(ask("x-user: a\r\nx-user: a\r\n"), Ok(None), "twice");
            told += 1;
        }
    }
    Ok(told)
}

proptest! {
    #[test]
    fn values_have_their_place_on_both_sides(
        routes in generators::plain_routes(),
        requests in prop::collection::vec(generators::request(), 20),
        values in prop::collection::vec("[!-~]([ -~]{0,38}[!-~])?", 20),
    ) {
        check_hash(&routes, &requests, &values)?;
    }
}

#[test]
fn the_comparison_of_places_is_of_something() {
    let mut runner = proptest::test_runner::TestRunner::deterministic();
    let mut told = 0;
    let strategy = (generators::plain_routes(), prop::collection::vec(generators::request(), 40));
    for _ in 0..20 {
        let (routes, requests) = strategy.new_tree(&mut runner).unwrap().current();
        told += check_hash(&routes, &requests, &vec!["someone".to_owned(); 40]).unwrap();
    }
    assert!(told > 80, "only {told} of 800 requests");
}
