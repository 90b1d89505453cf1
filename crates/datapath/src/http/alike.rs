//! Random routes and requests, out of the model's own generators: what the kernel's lookup gives in lowered tables, the C
//! compiled for the host, is what the model says, and the route that the proxy would find.

#[path = "../../../model/tests/http/mod.rs"]
#[allow(unreachable_pub, reason = "shared with the model's tests")]
mod generators;

use std::sync::Arc;

use alize_datapath_host::http::Classes;
use alize_model::http::{Head, Http, KernelTable, KernelVerdict, Method, Route, RouteTable};
use alize_model::{Balance, Endpoint, Service, ServiceName};
use proptest::prelude::*;
use proptest::strategy::ValueTree;

use crate::abi::Plain;

use super::lower::{Lowered, Place, Services, Usable};
use crate::tables::tests::weighted;

/// All endpoints take requests.
struct All;

impl Services for All {
    fn service(&self, _: &ServiceName) -> Option<&Service> {
        None
    }

    fn usable(&self, _: &Service, _: &Endpoint) -> Option<Usable> {
        Some(Usable { number: 1, weight: 1 })
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
