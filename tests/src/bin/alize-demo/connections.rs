//! Connections: balanced when they are made, by shares that change while traffic runs.

use std::collections::BTreeMap;
use std::io::{BufRead, BufReader};
use std::net::SocketAddr;
use std::process::Stdio;
use std::thread::sleep;
use std::time::Duration;

use alize_tests::clients::Conversation;
use alize_tests::mesh::{endpoint, web};
use alize_tests::servers::at;
use alize_tests::statistics::binomial_bounds;
use alize_tests::{Agent, Kind, Server, Tally, World};
use anyhow::{Context, Result, ensure};

use crate::{indented, number, title};

const CLIENTS: [&str; 2] = ["client-1", "client-2"];
const SERVERS: [&str; 3] = ["v1-a", "v1-b", "v2-a"];
const VERSIONS: [&str; 2] = ["v1", "v2"];

/// Traffic of a phase, beyond what the live table shows of it.
const LISTENING: Duration = Duration::from_secs(2);

/// Connections to three servers behind one address.
pub(crate) fn show() -> Result<()> {
    let world = World::new("demo")?;
    let service = at([10, 96, 0, 10], 80);
    let servers = world.fleet(Kind::Nginx, &SERVERS, 8080)?;
    println!("Three nginx servers and two clients, each in a network namespace of its own.");
    println!("The clients dial {service}, an address that no machine has.\n");
    for server in &servers {
        println!("    {}  {}", server.name, server.v4);
    }

    let text = file(service, &servers, [90, 10], None);
    title("The agent starts with this file");
    indented(&text);
    let agent = Agent::start(&world, &text)?;
    let streams = CLIENTS.map(|client| -> Result<Conversation> {
        let flags = ["--speech=http", "--callers=2", "--pause=2"];
        world.meshed(client)?.stream(service, &flags)
    });
    let mut traffic = Traffic { streams: streams.into_iter().collect::<Result<_>>()?, answered: 0 };

    title("Nine to one");
    live_table(&agent)?;
    traffic.listen("v1 90 %, v2 10 %", &[("v1-a", 0.45), ("v1-b", 0.45), ("v2-a", 0.1)])?;

    title("The file is changed to half and half, while traffic runs");
    traffic.during(|| agent.change(&file(service, &servers, [50, 50], None)))?;
    live_table(&agent)?;
    traffic.listen("v1 50 %, v2 50 %", &[("v1-a", 0.25), ("v1-b", 0.25), ("v2-a", 0.5)])?;

    title("v1-b is drained, while traffic runs");
    traffic.during(|| agent.change(&file(service, &servers, [50, 50], Some("v1-b"))))?;
    live_table(&agent)?;
    traffic.listen("v1 50 %, v2 50 %, v1-b nothing", &[("v1-a", 0.5), ("v1-b", 0.0), ("v2-a", 0.5)])?;

    title("The agent is killed (-9), while traffic runs");
    traffic.during(|| agent.kill())?;
    traffic.listen("the same: the kernel goes on alone", &[("v1-a", 0.5), ("v1-b", 0.0), ("v2-a", 0.5)])?;

    title("The agent is back");
    let agent = Agent::start(&world, &file(service, &servers, [50, 50], Some("v1-b")))?;
    ensure!(agent.status()?.adopted, "the agent has not adopted the data path of the one before");
    let answered = traffic.finish()?;
    let counted = agent.service("web")?.traffic;
    println!("    connections that the clients made      {:>9}", number(answered));
    println!("    connections that the kernel counted    {:>9}", number(counted.connections));
    ensure!(counted.connections == answered, "the kernel has counted wrongly");
    ensure!(counted.failures.is_empty(), "the kernel has seen connects fail: {:?}", counted.failures);
    Ok(())
}

/// The file of the demo: a split by version, and perhaps one endpoint that is drained.
fn file(service: SocketAddr, servers: &[Server], shares: [u16; 2], drained: Option<&str>) -> String {
    let split = format!("split: {{version: {{v1: {}, v2: {}}}}}", shares[0], shares[1]);
    let endpoints = servers.iter().map(|server| {
        let labels = format!("labels: {{version: {}}}", &server.name[..2]);
        let settings = [labels.as_str(), "draining: true"];
        let count = if drained == Some(server.name.as_str()) { 2 } else { 1 };
        endpoint(server.v4, &settings[..count])
    });
    web(service, &[&split], &endpoints.collect::<Vec<_>>())
}

/// What `alize endpoints --watch` shows for two seconds.
fn live_table(agent: &Agent) -> Result<()> {
    println!("    $ alize endpoints web --watch");
    let mut child = agent
        .cli(&["endpoints", "web", "--watch", "1", "--count", "2"])?
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .spawn()?;
    let output = BufReader::new(child.stdout.take().context("the output of alize")?);
    for line in output.lines() {
        println!("    {}", line?);
    }
    ensure!(child.wait()?.success(), "alize endpoints --watch failed");
    println!();
    Ok(())
}

/// The clients, and how many answers they had in all.
struct Traffic {
    streams: Vec<Conversation>,
    answered: u64,
}

impl Traffic {
    /// Does something while traffic runs. What the clients see meanwhile belongs to neither the phase before nor the one
    /// after; only, nothing may fail.
    fn during(&mut self, what: impl FnOnce() -> Result<()>) -> Result<()> {
        what()?;
        self.ask()?;
        Ok(())
    }

    /// What each client has seen since the last time.
    fn ask(&mut self) -> Result<Vec<Tally>> {
        let tallies = self.streams.iter_mut().map(Conversation::ask).collect::<Result<Vec<_>>>()?;
        self.count(&tallies)?;
        Ok(tallies)
    }

    fn count(&mut self, tallies: &[Tally]) -> Result<()> {
        for (client, tally) in CLIENTS.iter().zip(tallies) {
            ensure!(tally.failed() == 0, "requests of {client} failed: {:?}", tally.errors);
            self.answered += tally.answered();
        }
        Ok(())
    }

    /// Lets traffic run, and compares what each client and all together saw with what was asked for.
    fn listen(&mut self, asked: &str, shares: &[(&str, f64)]) -> Result<()> {
        sleep(LISTENING);
        let tallies = self.ask()?;
        let mut all = Tally::default();
        tallies.iter().for_each(|tally| all.add(tally.clone()));
        println!("    asked for: {asked}");
        print_head();
        for (client, tally) in CLIENTS.iter().zip(&tallies) {
            print_row(client, tally);
        }
        print_row("together", &all);
        print_bounds(&all, shares);
        for (client, tally) in CLIENTS.iter().zip(&tallies).chain([(&"the clients together", &all)]) {
            compare(client, tally, shares)?;
        }
        Ok(())
    }

    /// Lets the clients end; how many answers they had in all.
    fn finish(mut self) -> Result<u64> {
        let streams = std::mem::take(&mut self.streams);
        let tallies = streams.into_iter().map(Conversation::finish).collect::<Result<Vec<_>>>()?;
        self.count(&tallies)?;
        Ok(self.answered)
    }
}

fn compare(client: &str, tally: &Tally, shares: &[(&str, f64)]) -> Result<()> {
    let total = tally.answered();
    ensure!(total > 200, "{client} had only {total} answers, too few to say anything");
    let mut versions = BTreeMap::<&str, f64>::new();
    for (server, share) in shares {
        *versions.entry(&server[..2]).or_default() += share;
    }
    for (name, share) in shares.iter().copied().chain(versions) {
        let (seen, bounds) = (tally.of(name), binomial_bounds(total, share));
        ensure!(
            bounds.contains(&seen),
            "{client} saw {name} {seen} times of {total}, outside of {} to {}",
            bounds.start(),
            bounds.end()
        );
    }
    Ok(())
}

fn print_head() {
    print!("    {:<10}{:>9}{:>8}", "", "requests", "failed");
    SERVERS.iter().for_each(|server| print!("{server:>16}"));
    VERSIONS.iter().for_each(|version| print!("{version:>9}"));
    println!();
}

fn print_row(client: &str, tally: &Tally) {
    let total = tally.answered();
    print!("    {client:<10}{:>9}{:>8}", number(total), tally.failed());
    for server in SERVERS {
        print!("{:>16}", number(tally.of(server)));
    }
    for version in VERSIONS {
        print!("{:>7.1} %", 100.0 * tally.of(version) as f64 / total.max(1) as f64);
    }
    println!();
}

/// What chance may make of the shares that were asked for.
fn print_bounds(all: &Tally, shares: &[(&str, f64)]) {
    print!("    {:<10}{:>9}{:>8}", "allowed", "", 0);
    for (_, share) in shares {
        let bounds = binomial_bounds(all.answered(), *share);
        let text = match bounds.end() {
            0 => number(0),
            end => format!("{} - {}", number(*bounds.start()), number(*end)),
        };
        print!("{text:>16}");
    }
    println!();
}
