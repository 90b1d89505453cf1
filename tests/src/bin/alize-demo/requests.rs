//! Requests: routed one by one, by header and by weight, over connections that stay open.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::net::SocketAddr;
use std::time::Duration;

use alize_tests::mesh::endpoint;
use alize_tests::servers::at;
use alize_tests::statistics::binomial_bounds;
use alize_tests::wait::until_true;
use alize_tests::{Agent, Place, Process, World};
use anyhow::{Result, ensure};

use crate::{beside, indented, number, title};

const SERVERS: [&str; 3] = ["v1-a", "v1-b", "v2-a"];
/// Over one connection of curl's.
const REQUESTS: u64 = 2_000;

/// Requests to three servers behind one address.
pub(crate) fn show() -> Result<()> {
    title("── HTTP: every request is routed by itself ──");
    let world = World::new("demo-http")?;
    let service = at([10, 96, 0, 20], 80);
    let servers = SERVERS.map(|name| server(&world, name)).into_iter().collect::<Result<Vec<_>>>()?;
    let client = world.meshed("client")?;
    println!("The same three nginx servers and a client, now all in meshed cgroups of this host.");
    title("The agent starts with this file");
    let text = file(service, &servers);
    indented(&text);
    let agent = Agent::start(&world, &text)?;
    ready(&agent, &client, service)?;
    print!("\n    $ alize services shop\n");
    indented(&agent.run(&["services", "shop"])?);

    title(&format!("A canary by weight: {} requests over one connection", number(REQUESTS)));
    let api = format!("http://{service}/api/[1-{REQUESTS}]");
    let seen = curl(&client, &[&api])?;
    compare(&seen, "v2-a", 0.1)?;

    title("A canary by header: whoever sends x-beta: 1 gets version 2");
    let seen = curl(&client, &["-H", "x-beta: 1", &api])?;
    compare(&seen, "v2-a", 1.0)?;

    title("Every request, live: who, what, how long, and which way it went");
    trace(&agent, &client, service)?;

    title("The agent is killed (-9); requests go on in the kernel");
    agent.kill()?;
    compare(&curl(&client, &[&api])?, "v2-a", 0.1)?;

    title("The agent is back. The same traffic, three ways");
    let agent = Agent::start(&world, &text)?;
    ready(&agent, &client, service)?;
    beside::show(&world, &agent, &client, servers[0].address, service)
}

/// nginx in a meshed place of its own.
struct Server {
    name: &'static str,
    address: SocketAddr,
    _process: Process,
}

fn server(world: &World, name: &'static str) -> Result<Server> {
    let place = world.meshed(name)?;
    let address = at(place.namespace.v4(), 8080);
    Ok(Server { name, address, _process: place.nginx(name, &[address])? })
}

fn file(service: SocketAddr, servers: &[Server]) -> String {
    let mut text = format!(
        "services:\n\
         \x20 - name: shop\n\
         \x20   protocol: http\n\
         \x20   address: \"{service}\"\n\
         \x20   routes:\n\
         \x20     - {{name: beta, match: {{path: /api, headers: {{x-beta: \"1\"}}}}, to: {{version: v2}}}}\n\
         \x20     - {{name: api, match: {{path: /api}}, to: [{{labels: {{version: v1}}, weight: 90}}, \
         {{labels: {{version: v2}}, weight: 10}}]}}\n\
         \x20     - {{name: rest, match: {{path: /}}, to: {{version: v1}}}}\n\
         \x20   endpoints:\n"
    );
    for server in servers {
        let label = format!("labels: {{version: {}}}", &server.name[..2]);
        let _ = writeln!(text, "      - {}", endpoint(server.address, &[&label]));
    }
    text
}

/// Waits until the kernel has taken a request: it has tried itself, and the proxy has opened connections to the servers.
fn ready(agent: &Agent, client: &Place, service: SocketAddr) -> Result<()> {
    let url = format!("http://{service}/[1-20]");
    until_true("the kernel to route a request", Duration::from_secs(20), || {
        client.run("curl", &["-sSf", &url])?;
        Ok(agent.metrics()?.lines().any(|line| {
            line.starts_with("alize_http_requests_total")
                && line.contains("kernel-l7")
                && !line.ends_with(" 0")
        }))
    })
}

/// Which server answered how often.
fn curl(client: &Place, arguments: &[&str]) -> Result<BTreeMap<String, u64>> {
    let shown: Vec<String> = arguments
        .iter()
        .map(|word| if word.contains(' ') { format!("'{word}'") } else { (*word).to_owned() })
        .collect();
    println!("    $ curl -s {} | sort | uniq -c", shown.join(" "));
    let output = client.run("curl", &[&["-sSf"], arguments].concat())?;
    let mut seen = BTreeMap::new();
    output.lines().for_each(|name| *seen.entry(name.to_owned()).or_default() += 1);
    seen.iter().for_each(|(name, count)| println!("    {count:>7} {name}"));
    Ok(seen)
}

/// That `share` of all answers came from `server`, within the bounds of chance.
fn compare(seen: &BTreeMap<String, u64>, server: &str, share: f64) -> Result<()> {
    let total: u64 = seen.values().sum();
    ensure!(total == REQUESTS, "{total} of {REQUESTS} requests were answered");
    let (of_server, bounds) = (seen.get(server).copied().unwrap_or(0), binomial_bounds(total, share));
    ensure!(bounds.contains(&of_server), "{server} answered {of_server} times, outside of {bounds:?}");
    Ok(())
}

/// What `alize trace` shows of requests of every kind.
fn trace(agent: &Agent, client: &Place, service: SocketAddr) -> Result<()> {
    println!("    $ alize trace --service shop");
    let child = agent
        .cli(&["trace", "--service", "shop", "--count", "6"])?
        .stdin(std::process::Stdio::null())
        .stdout(std::process::Stdio::piped())
        .spawn()?;
    let mut child = Waited(child);
    let (api, rest) = (format!("http://{service}/api/[1-2]"), format!("http://{service}/rest"));
    until_true("alize trace to show six requests", Duration::from_secs(20), || {
        client.run("curl", &["-sSf", &api, &rest])?;
        client.run("curl", &["-sSf", "-H", "x-beta: 1", &api])?;
        client.run("curl", &["-sSf", "--data", "@/etc/os-release", "-H", "expect: 100-continue", &rest])?;
        Ok(child.0.try_wait()?.is_some())
    })?;
    let mut output = String::new();
    if let Some(mut stdout) = child.0.stdout.take() {
        std::io::Read::read_to_string(&mut stdout, &mut output)?;
    }
    indented(&output);
    Ok(())
}

/// A child that does not outlive an error.
struct Waited(std::process::Child);

impl Drop for Waited {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}
