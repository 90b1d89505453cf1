//! What the Gateway API says of routes in a mesh, through the whole product: the cases of the proxy's own test, with clients
//! whose requests the kernel routes. Each case says who has to route it.

#[path = "../../crates/proxy/tests/gateway/case.rs"]
mod case;

use std::collections::BTreeMap;
use std::io::{BufRead, BufReader, Write};
use std::net::SocketAddr;
use std::path::PathBuf;
use std::process::{Child, ChildStdin, ChildStdout, Stdio};
use std::time::Duration;

use alize_tests::wait::until_true;
use alize_tests::{Agent, Place, Process, World};
use anyhow::{Context, Result, ensure};
use case::Case;
use serde::Deserialize;
use serde_json::{Value, json};

#[derive(Debug, Deserialize)]
struct Answer {
    status: u16,
    headers: BTreeMap<String, String>,
    body: String,
    ms: f64,
}

struct Mesh {
    child: Child,
    questions: ChildStdin,
    answers: BufReader<ChildStdout>,
    addresses: BTreeMap<String, String>,
    agent: Agent,
    _servers: Vec<Process>,
    _world: World,
}

fn folder(name: &str) -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR")).join(name)
}

impl Mesh {
    fn new() -> Result<Self> {
        let world = World::new("gateway")?;
        let server = world.meshed("node")?;
        let client = world.meshed_in("node", "client")?;
        let mut text = std::fs::read_to_string(folder("../crates/proxy/tests/gateway/mesh.yaml"))?;
        let mut servers = Vec::new();
        for (mark, name) in [("V1", "v1"), ("V2", "v2"), ("V3", "v3"), ("OTHER", "other")] {
            let (process, port) = echo(&server, name)?;
            let address = SocketAddr::from(([127, 0, 0, 1], port));
            text = text.replace(&format!("\"{mark}\""), &format!("\"{address}\""));
            servers.push(process);
        }
        let agent = Agent::start(&world, &text)?;
        let mut addresses = BTreeMap::new();
        let (mut name, lines) = (String::new(), text.lines().map(str::trim));
        for line in lines {
            if let Some(found) = line.strip_prefix("- name: ") {
                name = found.to_owned();
            }
            if let Some(found) = line.strip_prefix("address: ") {
                addresses.insert(name.clone(), found.trim_end_matches(":80").to_owned());
            }
        }
        agent.proxy(0)?;
        let mut child = client
            .command("/usr/bin/python3")?
            .arg(folder("programs/ask.py"))
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()?;
        let questions = child.stdin.take().context("its input")?;
        let answers = BufReader::new(child.stdout.take().context("its output")?);
        // The proxy listens where it has seen a process; the first look may be a second away.
        std::thread::sleep(Duration::from_millis(2500));
        Ok(Self { child, questions, answers, addresses, agent, _servers: servers, _world: world })
    }

    fn ask(&mut self, service: &str, bytes: &str) -> Result<Answer> {
        let address = self.addresses.get(service).with_context(|| format!("no service {service}"))?;
        writeln!(self.questions, "{}", json!({"address": address, "bytes": bytes}))?;
        let mut line = String::new();
        self.answers.read_line(&mut line)?;
        serde_json::from_str(&line).with_context(|| format!("{bytes:?} was answered {line:?}"))
    }

    fn hits(&mut self, service: &str) -> Result<u64> {
        Ok(self.ask(service, "GET /hits HTTP/1.1\r\nHost: a\r\n\r\n")?.body.trim().parse()?)
    }

    /// Requests of all services that the kernel has routed.
    fn routed(&self) -> Result<u64> {
        let text = self.agent.metrics()?;
        let lines = text.lines().filter(|line| {
            line.starts_with("alize_http_requests_total{") && line.contains("path=\"kernel-l7\"")
        });
        let counts = lines.filter_map(|line| line.rsplit(' ').next()?.parse::<f64>().ok());
        Ok(counts.sum::<f64>() as u64)
    }
}

impl Drop for Mesh {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

fn echo(place: &Place, name: &str) -> Result<(Process, u16)> {
    let program = folder("../crates/proxy/tests/servers/echo.js").display().to_string();
    let process =
        place.start(&format!("echo-{name}"), "node", &[program, name.to_owned(), "http1".to_owned()])?;
    let mut port = None;
    until_true("a port", Duration::from_secs(20), || {
        port = process.log().lines().next().and_then(|line| line.trim().parse().ok());
        Ok(port.is_some())
    })?;
    Ok((process, port.context("a port")?))
}

impl Case {
    fn bytes(&self) -> String {
        let mut text = format!("{} HTTP/1.1\r\n", self.request);
        if !self.headers.contains_key("Host") {
            text.push_str("Host: mesh.example\r\n");
        }
        self.headers.iter().for_each(|(name, value)| text.push_str(&format!("{name}: {value}\r\n")));
        if !self.send.is_empty() {
            text.push_str(&format!("Content-Length: {}\r\n", self.send.len()));
        }
        format!("{text}\r\n{}", self.send)
    }

    fn check(&self, answer: &Answer) -> Result<()> {
        ensure!(answer.status == self.status, "status {answer:?}");
        ensure!(answer.ms >= self.at_least_ms as f64, "{answer:?} came too early");
        for (name, expected) in &self.answers {
            ensure!(answer.headers.get(name) == expected.as_ref(), "{name} in {answer:?}");
        }
        if let Some(body) = &self.body {
            ensure!(answer.body == *body, "{answer:?}");
        }
        if self.from.is_none() && self.url.is_none() && self.sees.is_empty() {
            return Ok(());
        }
        let seen: Value = serde_json::from_str(&answer.body)?;
        if let Some(from) = &self.from {
            ensure!(seen["name"] == **from, "from {seen}");
        }
        if let Some(url) = &self.url {
            ensure!(seen["url"] == **url, "url of {seen}");
        }
        for (name, expected) in &self.sees {
            ensure!(seen["headers"][name].as_str() == expected.as_deref(), "{name} in {seen}");
        }
        Ok(())
    }

    fn run(&self, mesh: &mut Mesh) -> Result<()> {
        let hits_before: Vec<u64> =
            self.hits.keys().map(|service| mesh.hits(service)).collect::<Result<_>>()?;
        let before = mesh.routed()?;
        let mut counts: BTreeMap<String, u32> = BTreeMap::new();
        for _ in 0..self.times {
            let answer = mesh.ask(&self.service, &self.bytes())?;
            self.check(&answer)?;
            if !self.shares.is_empty() {
                let seen: Value = serde_json::from_str(&answer.body)?;
                *counts.entry(seen["name"].as_str().context("a name")?.to_owned()).or_default() += 1;
            }
        }
        let routed = mesh.routed()? - before;
        match self.path.as_str() {
            // A pool may run dry for a moment, once in a hundred requests.
            "kernel" => ensure!(
                routed <= u64::from(self.times) && routed * 100 >= u64::from(self.times) * 99,
                "the kernel has routed {routed} of {}",
                self.times
            ),
            _ => ensure!(routed == 0, "the kernel has routed {routed} of what is the proxy's"),
        }
        for (name, share) in &self.shares {
            let found = f64::from(counts.remove(name).unwrap_or(0)) / f64::from(self.times);
            // Five standard deviations of a fair draw.
            let slack = 5.0 * (share * (1.0 - share) / f64::from(self.times)).sqrt();
            ensure!((found - share).abs() <= slack, "{name} got {found}, wanted {share}");
        }
        ensure!(counts.is_empty(), "also {counts:?}");
        for ((service, expected), before) in self.hits.iter().zip(hits_before) {
            until_true(&format!("{expected} copies to {service}"), Duration::from_secs(10), || {
                Ok(mesh.hits(service)? - before == *expected)
            })?;
        }
        Ok(())
    }
}

#[test]
fn routes_mean_the_same_in_the_kernel_and_in_the_proxy() -> Result<()> {
    let text = std::fs::read_to_string(folder("../crates/proxy/tests/gateway/requests.json"))?;
    let cases: Vec<Case> = serde_json::from_str(&text)?;
    let mut mesh = Mesh::new()?;
    // Clients of a service are expected at its own endpoints; those of others warm up with the first request.
    for path in ["/other/x", "/across", "/across", "/across", "/across", "/across", "/across"] {
        for _ in 0..4 {
            mesh.ask("weights", &format!("GET {path} HTTP/1.1\r\nHost: a\r\n\r\n"))?;
        }
    }
    let mut wrong = Vec::new();
    for case in &cases {
        if let Err(error) = case.run(&mut mesh) {
            wrong.push(format!("{}: {}: {error:#}", case.what, case.request));
        }
    }
    let kernel = cases.iter().filter(|case| case.path == "kernel").count();
    eprintln!("{} cases, {kernel} of them in the kernel", cases.len());
    ensure!(wrong.is_empty(), "{} of {} are wrong:\n{}", wrong.len(), cases.len(), wrong.join("\n"));
    ensure!(cases.len() >= 80 && kernel >= 15, "{} cases, {kernel} of them in the kernel", cases.len());
    Ok(())
}
