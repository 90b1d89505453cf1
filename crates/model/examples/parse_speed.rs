//! How long a large file takes: `cargo run --release -p alize-model --example parse_speed [SERVICES] [ENDPOINTS]`.
#![allow(clippy::print_stdout, reason = "it is what the example is for")]

use std::fmt::Write;
use std::time::{Duration, Instant};

use alize_model::{Budgets, HostFacts, Snapshot, Source, parse};

const ROUNDS: usize = 15;

fn main() {
    let mut arguments = std::env::args().skip(1).filter_map(|argument| argument.parse().ok());
    let services = arguments.next().unwrap_or(10_000);
    let endpoints = arguments.next().unwrap_or(3);
    println!("{services} services x {endpoints} endpoints, median (least) of {ROUNDS}");
    measure(
        "short spelling",
        &file(services, endpoints, |out, address| {
            let _ = writeln!(out, "      - {address}");
        }),
    );
    measure(
        "with labels",
        &file(services, endpoints, |out, address| {
            let _ = writeln!(
                out,
                "      - {{address: {address:?}, weight: 10, labels: {{version: v1, zone: b}}}}"
            );
        }),
    );
}

fn file(services: usize, endpoints: usize, mut endpoint: impl FnMut(&mut String, String)) -> String {
    let mut out = String::from("services:\n");
    for service in 0..services {
        let [_, a, b, c] = (service as u32).to_be_bytes();
        let _ =
            writeln!(out, "  - name: shop/service-{service}\n    address: 10.{}.{b}.{c}:80", 100 + a % 100);
        let _ =
            writeln!(out, "    protocol: http\n    health: {{http: /healthz, interval: 5s}}\n    endpoints:");
        for number in 0..endpoints {
            endpoint(&mut out, format!("10.{}.{b}.{c}:8080", 200 + number % 50));
        }
    }
    out
}

fn measure(title: &str, text: &str) {
    let mut times: Vec<Duration> = (0..ROUNDS).map(|_| once(text).0).collect();
    times.sort();
    let (_, snapshot) = once(text);
    let endpoints: usize = snapshot.services().iter().map(|service| service.endpoints.len()).sum();
    let [least, median] = [times[0], times[ROUNDS / 2]].map(|time| time.as_secs_f64() * 1e3);
    let mib = text.len() as f64 / f64::from(1 << 20);
    println!(
        "{title}: {mib:.1} MiB, {} services, {endpoints} endpoints: {median:.0} ms ({least:.0} ms), {:.0} MiB/s",
        snapshot.services().len(),
        mib / median * 1e3,
    );
}

fn once(text: &str) -> (Duration, Snapshot) {
    let start = Instant::now();
    let parsed = parse(Source { name: "speed", text }, &Budgets::default(), &HostFacts::default());
    let elapsed = start.elapsed();
    match parsed {
        Ok((snapshot, _)) => (elapsed, snapshot),
        Err(diagnostics) => panic!("{diagnostics}"),
    }
}
