//! Watches HTTP in one cgroup: `observe CGROUP SECONDS [metrics|idle|trace]`.
//!
//! With `trace` it prints every request, with `idle` it runs a trace that nothing matches. At the end it prints the
//! series and tallies, and removes what it had loaded.
#![allow(clippy::print_stdout, reason = "a program for the terminal")]

use std::path::PathBuf;
use std::time::{Duration, Instant};

use alize_datapath::observe::{Event, Filter, Limits, Observer, Request};
use alize_datapath::{InForce, Options, unload};
use alize_model::Budgets;

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let mut arguments = std::env::args().skip(1);
    let usage = "usage: observe CGROUP SECONDS [metrics|idle|trace|quiet]";
    let cgroup: PathBuf = arguments.next().ok_or(usage)?.into();
    let seconds: u64 = arguments.next().ok_or(usage)?.parse()?;
    let mode = arguments.next().unwrap_or_else(|| "metrics".into());
    let instance = format!("observe-{}", std::process::id());
    let options = Options {
        run_dir: std::env::temp_dir().join(&instance),
        instance,
        bpffs: "/sys/fs/bpf".into(),
        cgroups: vec![cgroup],
        budgets: Budgets::default(),
    };
    let watched = watch(&options, Duration::from_secs(seconds), &mode);
    unload(&options)?;
    std::fs::remove_dir_all(&options.run_dir)?;
    watched
}

fn watch(options: &Options, time: Duration, mode: &str) -> Result<(), Box<dyn std::error::Error>> {
    let mut observer = Observer::open(options, &Limits::default(), &InForce::default())?;
    match mode {
        "idle" => {
            let _ = observer.start_trace(&Filter { path_prefix: "/nowhere".into(), ..Filter::default() })?;
        }
        "trace" | "quiet" => {
            let _ = observer.start_trace(&Filter::default())?;
        }
        _ => {}
    }
    println!("watching");
    let end = Instant::now() + time;
    let mut seen = 0u64;
    while Instant::now() < end {
        observer.poll(&mut |request| match request {
            Ok(Event::Request(request)) if mode == "trace" => print(&request),
            Ok(_) => seen += 1,
            Err(error) => println!("{error}"),
        })?;
        std::thread::sleep(Duration::from_millis(20));
    }
    report(&observer, seen)
}

fn report(observer: &Observer, seen: u64) -> Result<(), Box<dyn std::error::Error>> {
    let mut lines = Vec::new();
    observer.series(&mut |series| {
        let median = series.latencies.quantile(0.5).unwrap_or_default();
        let status = series.key.status.map_or("-".into(), |status| status.to_string());
        let path = series.key.path.as_deref().unwrap_or("other");
        lines.push(format!(
            "{:>9} {:?} {} {path} {status} -> {} p50 {median:?} {} B in {} B out",
            series.count,
            series.key.side,
            series.key.method,
            series.key.destination.address,
            series.request_bytes,
            series.response_bytes
        ));
    })?;
    lines.sort();
    lines.iter().for_each(|line| println!("{line}"));
    let tallies = observer.tallies()?;
    for (name, count) in tallies.unfollowed.iter().chain(&tallies.events).filter(|(_, count)| *count != 0) {
        println!("{count:>9} {name}");
    }
    println!("{seen:>9} events read");
    for request in observer.slowest()?.iter().take(3).chain(observer.failed()?.iter().take(3)) {
        print(request);
    }
    Ok(())
}

fn print(request: &Request) {
    let end = |identity: &Option<alize_datapath::observe::Identity>| match identity {
        Some(identity) => format!("{}/{}", identity.pid.unwrap_or(0), identity.comm),
        None => "-".into(),
    };
    println!(
        "{} -> {} {} {} {}{} {:.3} ms {} B {:?}",
        end(&request.client),
        end(&request.server),
        request.server_address,
        request.method,
        request.host,
        request.target,
        request.latency.as_secs_f64() * 1e3,
        request.response_bytes,
        request.status
    );
}
