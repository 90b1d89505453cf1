//! How long it takes to find a request's route, to compile a table, and to lower it for the kernel.
//!
//! `cargo run --release -p alize-model --example route_speed`
#![expect(clippy::print_stdout, reason = "figures are what it is for")]

use std::hint::black_box;
use std::sync::Arc;
use std::time::Instant;

use alize_model::http::{Head, Http, Method, RouteTable};
use alize_model::{Budgets, HostFacts, Source, parse};

const ASKED: u32 = 1_000_000;

fn http(routes: usize, last: &str) -> Arc<Http> {
    let routes: String = (0..routes)
        .map(|n| format!("      - {{match: [/team-{n}/service/api, {{path: {{exact: /team-{n}/health}}, method: GET}}]}}\n"))
        .collect();
    let text = format!(
        "services:\n  - name: web\n    protocol: http\n    address: 10.96.0.1:80\n    endpoints: [10.0.0.1:80]\n    \
         routes:\n{routes}{last}"
    );
    let source = Source { name: "-", text: &text };
    let (snapshot, _) = parse(source, &Budgets::default(), &HostFacts::default()).expect("a right file");
    Arc::clone(snapshot.services()[0].http.as_ref().expect("it speaks HTTP"))
}

fn main() {
    let header = "      - {match: {path: /team-7/service, headers: {x-beta: '1'}}}\n";
    let regex = "      - {match: {path: {regex: '/team-7/users/[0-9]+'}}}\n";
    for (name, routes, last) in
        [("1 route", 1, ""), ("1,000 routes", 1000, ""), ("a header", 100, header), ("a regex", 100, regex)]
    {
        let http = http(routes, last);
        let began = Instant::now();
        let table = RouteTable::compile(&http);
        let compiled = began.elapsed();
        let began = Instant::now();
        let kernel = table.kernel(|_| None);
        let lowered = began.elapsed();
        let headers: &[(&str, &str)] = &[("host", "web"), ("accept", "*/*"), ("x-beta", "1")];
        let path = "/team-7/service/api/v1/things/42";
        let began = Instant::now();
        for _ in 0..ASKED {
            let head = Head { method: "GET", path: black_box(path), query: Some("a=b"), headers };
            black_box(table.find(&head));
        }
        let found = began.elapsed() / ASKED;
        println!(
            "{name:14} find {found:?}, compile {compiled:?}, lower {lowered:?} to {} classes, {:?}",
            kernel.classes.len(),
            kernel.verdict(Method::Get, path)
        );
    }
}
