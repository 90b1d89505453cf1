//! The same traffic without a mesh, through Alizé, and through two HAProxy, one beside the client and one beside the server.

use std::fs;
use std::net::SocketAddr;

use alize_tests::servers::at;
use alize_tests::{Agent, Place, Process, World};
use anyhow::{Context, Result, ensure};

use crate::number;

/// Slices of each way, in turns.
const ROUNDS: usize = 3;
const CONNECTIONS: &str = "-c32";

/// What wrk says of one slice, and what the machine spent on it.
#[derive(Clone, Copy)]
struct Slice {
    rate: f64,
    p50: f64,
    p99: f64,
    /// CPU time of the whole machine for one request, in µs.
    cpu: f64,
}

pub(crate) fn show(
    world: &World,
    agent: &Agent,
    client: &Place,
    server: SocketAddr,
    service: SocketAddr,
) -> Result<()> {
    let (sidecars, entry) = sidecars(world, client, server)?;
    let ways = [("direct, no mesh", server), ("Alizé", service), ("two HAProxy sidecars", entry)];
    println!("    $ wrk -t1 {CONNECTIONS} -d1s --latency, {ROUNDS} rounds in turns; medians");
    let mut slices = ways.map(|_| Vec::new());
    for _ in 0..ROUNDS {
        for ((_, target), slices) in ways.iter().zip(&mut slices) {
            slices.push(load(client, *target)?);
        }
    }
    println!(
        "    {:<22}{:>12}{:>10}{:>10}{:>16}{:>10}",
        "", "requests/s", "p50 µs", "p99 µs", "CPU µs/request", "memory"
    );
    let status = agent.status()?;
    let proxy = status.proxy.and_then(|proxy| proxy.pid).context("the proxy runs")?;
    let held = [None, Some(vec![status.pid, proxy]), Some(sidecars.iter().map(Process::pid).collect())];
    for (((name, _), slices), held) in ways.iter().zip(&slices).zip(held) {
        let middle = |of: fn(&Slice) -> f64| median(slices.iter().map(of).collect());
        let memory = match held {
            Some(pids) => format!("{:.1} MB", memory(&pids)?),
            None => "-".to_owned(),
        };
        println!(
            "    {name:<22}{:>12}{:>10.0}{:>10.0}{:>16.1}{memory:>10}",
            number(middle(|slice| slice.rate) as u64),
            middle(|slice| slice.p50),
            middle(|slice| slice.p99),
            middle(|slice| slice.cpu),
        );
    }
    Ok(())
}

/// As sidecars stand: one takes what the client sends, the other what the server gets. Both processes, and where to dial.
fn sidecars(world: &World, client: &Place, server: SocketAddr) -> Result<([Process; 2], SocketAddr)> {
    let (outer, inner) = (at(client.namespace.v4(), 15001), at(server.ip(), 15006));
    let beside_server = world.plain("v1-a")?;
    let beside_client = world.plain("client")?;
    let second = haproxy(world, &beside_server, "haproxy-server", inner, server)?;
    let first = haproxy(world, &beside_client, "haproxy-client", outer, inner)?;
    Ok(([first, second], outer))
}

fn haproxy(
    world: &World,
    place: &Place,
    name: &str,
    listen: SocketAddr,
    next: SocketAddr,
) -> Result<Process> {
    let file = world.folder().join(format!("{name}.cfg"));
    fs::write(
        &file,
        format!(
            "global\n  nbthread 1\ndefaults\n  mode http\n  timeout connect 5s\n  timeout client 30s\n  timeout server 30s\n  \
             http-reuse always\nlisten {name}\n  bind {listen}\n  server next {next}\n"
        ),
    )?;
    place.started(
        name,
        "haproxy",
        &["-db".to_owned(), "-f".to_owned(), file.display().to_string()],
        &[listen],
    )
}

fn load(client: &Place, target: SocketAddr) -> Result<Slice> {
    let before = busy()?;
    let text = client.run("wrk", &["-t1", CONNECTIONS, "-d1s", "--latency", &format!("http://{target}/")])?;
    let spent = busy()? - before;
    ensure!(!text.contains("Non-2xx") && !text.contains("Socket errors"), "wrk at {target}: {text}");
    let value = |name: &str| -> Result<&str> {
        let line = text.lines().map(str::trim).find_map(|line| line.strip_prefix(name));
        line.map(str::trim).with_context(|| format!("wrk does not say {name}: {text}"))
    };
    let completed: f64 = text
        .lines()
        .find_map(|line| line.trim().split_once(" requests in "))
        .and_then(|(count, _)| count.parse().ok())
        .with_context(|| format!("wrk does not say how many requests: {text}"))?;
    Ok(Slice {
        rate: value("Requests/sec:")?.parse()?,
        p50: microseconds(value("50%")?)?,
        p99: microseconds(value("99%")?)?,
        cpu: spent * 1e6 / completed,
    })
}

fn microseconds(text: &str) -> Result<f64> {
    let units = [("us", 1.0), ("ms", 1e3), ("s", 1e6)];
    let parsed =
        units.iter().find_map(|(unit, factor)| Some(text.strip_suffix(unit)?.parse::<f64>().ok()? * factor));
    parsed.with_context(|| format!("not a time of wrk's: {text}"))
}

/// Seconds in which any CPU of the machine was not idle, since boot.
fn busy() -> Result<f64> {
    let text = fs::read_to_string("/proc/stat")?;
    let fields =
        text.lines().next().and_then(|line| line.strip_prefix("cpu ")).context("/proc/stat has no CPU")?;
    let ticks: Vec<f64> = fields.split_whitespace().map(str::parse).collect::<Result<_, _>>()?;
    // user, nice, system, (idle, iowait,) irq, softirq; in hundredths, as the kernel tells every user space.
    Ok([0, 1, 2, 5, 6].iter().filter_map(|place| ticks.get(*place)).sum::<f64>() / 100.0)
}

/// Proportional set size, in MB.
fn memory(pids: &[u32]) -> Result<f64> {
    let mut kib = 0.0;
    for pid in pids {
        let text = fs::read_to_string(format!("/proc/{pid}/smaps_rollup"))?;
        let line = text.lines().find_map(|line| line.strip_prefix("Pss:")).context("no Pss")?;
        kib += line.trim().trim_end_matches(" kB").parse::<f64>()?;
    }
    Ok(kib * 1024.0 / 1e6)
}

fn median(mut values: Vec<f64>) -> f64 {
    values.sort_by(f64::total_cmp);
    values.get(values.len() / 2).copied().unwrap_or(f64::NAN)
}
