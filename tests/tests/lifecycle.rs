//! Nothing that is open is lost, whatever happens to the agent and to the kernel programs: idle connections, requests in a loop,
//! megabytes that are compared byte by byte, and a stream of new connections, over everything that can be done to the mesh.
//!
//! `ALIZE_LIVE=10000 ALIZE_ROUNDS=10` for the long form, which is measured by hand.

#![expect(clippy::print_stdout, reason = "figures are for people")]

use std::fs;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};
use std::time::{Duration, Instant};

use alize_tests::clients::Conversation;
use alize_tests::mesh::{endpoint, endpoints, file, service};
use alize_tests::servers::at;
use alize_tests::{Agent, AgentOptions, Kind, Tally, World};
use anyhow::{Context, Result, ensure};

fn address() -> SocketAddr {
    at([10, 96, 0, 10], 80)
}

fn number(variable: &str, usual: u32) -> u32 {
    std::env::var(variable).ok().and_then(|text| text.parse().ok()).unwrap_or(usual)
}

/// The command line beside the agent of a world.
struct Shell<'a> {
    world: &'a World,
}

impl Shell<'_> {
    fn alize(&self, arguments: &[&str]) -> Result<Output> {
        let mut command = Command::new(alize_tests::place::binary("alize")?);
        command.args(arguments).env("ALIZE_INSTANCE", self.world.instance());
        command.env("ALIZE_SOCKET", self.world.run_dir().join(format!("{}.sock", self.world.instance())));
        command.output().context("cannot start alize")
    }

    fn must(&self, arguments: &[&str]) -> Result<String> {
        let output = self.alize(arguments)?;
        let text = String::from_utf8_lossy(&output.stdout).into_owned();
        ensure!(output.status.success(), "{arguments:?}: {text}{}", String::from_utf8_lossy(&output.stderr));
        Ok(text)
    }

    /// The programs of this binary under another version.
    fn bundle(&self, version: &str) -> Result<PathBuf> {
        let folder = self.world.folder();
        let (whole, objects, other) =
            (folder.join("whole.bundle"), folder.join("objects"), folder.join(format!("{version}.bundle")));
        self.must(&["bundle", "build", text(&whole)])?;
        let facts: serde_json::Value =
            serde_json::from_str(&self.must(&["bundle", "inspect", text(&whole), "-o", "json"])?)?;
        let bytes = fs::read(&whole)?;
        let mut at = 24 + u32::from_le_bytes(bytes[16..20].try_into()?) as usize;
        fs::create_dir_all(&objects)?;
        for object in facts["objects"].as_array().context("objects")? {
            let size = object["size"].as_u64().context("size")? as usize;
            let name = object["name"].as_str().context("name")?;
            fs::write(objects.join(format!("{name}.bpf.o")), &bytes[at..at + size])?;
            at += size;
        }
        self.must(&[
            "bundle",
            "build",
            text(&other),
            "--objects",
            text(&objects),
            "--bundle-version",
            version,
        ])?;
        Ok(other)
    }
}

fn text(path: &Path) -> &str {
    path.to_str().unwrap_or_default()
}

/// All that is alive, and what it saw so far.
struct Traffic {
    held: Conversation,
    opened: Tally,
    stream: Conversation,
    downloads: Conversation,
    connects: u64,
    transfers: u64,
    requests: u64,
    slowest: f64,
    begun: Instant,
}

impl Traffic {
    /// Nothing may have failed since the last look.
    fn look(&mut self, after: &str) -> Result<()> {
        let (stream, downloads) = (self.stream.ask()?, self.downloads.ask()?);
        ensure!(stream.failed() == 0, "{after}: new connections: {:?}", stream.errors);
        ensure!(downloads.failed() == 0, "{after}: megabytes: {:?}", downloads.errors);
        let held = self.held.ask()?;
        ensure!(held.answers == self.opened.answers, "{after}: held connections: {:?}", held.errors);
        self.connects += stream.answered();
        self.transfers += downloads.answered();
        self.requests += held.answered();
        self.slowest = self.slowest.max(stream.slowest);
        Ok(())
    }
}

#[test]
fn whatever_is_done_to_the_mesh_no_connection_is_lost() -> Result<()> {
    let world = World::new("lifecycle")?;
    let shell = Shell { world: &world };
    let servers = world.fleet(Kind::Name, &["a", "b", "c"], 7000)?;
    let all = endpoints(servers.iter().map(|server| server.v4));
    let uneven = [endpoint(servers[0].v4, &["weight: 3"]), all[1].clone(), all[2].clone()];
    let other = service("other", at([10, 96, 0, 11], 80), &[], &all);
    let even = file(&[service("web", address(), &[], &all), other.clone()]);
    let uneven = file(&[service("web", address(), &[], &uneven), other]);
    let next = shell.bundle("9.9.9")?;
    let altered = world.folder().join("altered.bundle");
    let mut bytes = fs::read(&next)?;
    let last = bytes.len() - 1;
    bytes[last] ^= 1;
    fs::write(&altered, bytes)?;
    let options = AgentOptions::flags(&["--allow-unsigned"]);

    let mut agent = Agent::start_with(&world, &even, &options)?;
    let live = number("ALIZE_LIVE", 500);
    let (held, opened) = world.meshed("held")?.hold(address(), live)?;
    ensure!((opened.answered(), opened.failed()) == (live.into(), 0), "{:?}", opened.errors);
    let mut traffic = Traffic {
        held,
        opened,
        stream: world.meshed("stream")?.stream(address(), &["--callers=2"])?,
        downloads: world.meshed("downloads")?.download(address(), &["--callers=2"])?,
        connects: 0,
        transfers: 0,
        requests: 0,
        slowest: 0.0,
        begun: Instant::now(),
    };
    for _ in 0..number("ALIZE_ROUNDS", 1) {
        for _ in 0..3 {
            agent.kill()?;
            std::thread::sleep(Duration::from_millis(100));
            agent = Agent::start_with(&world, &even, &options)?;
            traffic.look("agent killed and restarted")?;
        }
        ensure!(shell.must(&["upgrade", text(&next)])?.contains("kernel programs of 9.9.9"));
        traffic.look("upgrade")?;
        ensure!(!shell.alize(&["upgrade", text(&altered)])?.status.success());
        traffic.look("upgrade that failed")?;
        agent.kill()?;
        // Killed in the middle of going back, by the one who would have done it.
        for step in ["load", "switch:alize_sockops", "switch:alize_connect6", "pins"] {
            let environment = vec![("ALIZE_FAULT".to_owned(), format!("{step}=kill"))];
            let faulty = AgentOptions { environment, ..options.clone() };
            let mut broken = Agent::spawn(&world, &even, &faulty)?;
            broken.process().wait(Duration::from_secs(60))?;
            traffic.look(step)?;
        }
        agent = Agent::start_with(&world, &even, &options)?;
        shell.must(&["rollback"])?;
        traffic.look("rollback")?;
        for mode in ["observe", "shadow", "enforce", "file"] {
            shell.must(&["mode", "other", mode])?;
            traffic.look(mode)?;
        }
        for round in 0..40 {
            agent.write(if round % 2 == 0 { &uneven } else { &even })?;
            std::thread::sleep(Duration::from_millis(20));
        }
        agent.change(&uneven)?;
        agent.change(&even)?;
        traffic.look("a storm of reloads")?;
    }
    let lasted = traffic.begun.elapsed();
    let Traffic { mut held, opened, stream, downloads, connects, transfers, requests, slowest, .. } = traffic;
    let (last, bytes) = (stream.finish()?, downloads.finish()?);
    ensure!(last.failed() + bytes.failed() == 0, "{:?} {:?}", last.errors, bytes.errors);

    // Removal ends the mesh, not its connections.
    agent.stop()?;
    ensure!(Agent::unload(&world)?.status.success());
    ensure!(held.ask()?.answers == opened.answers, "removal cost a connection");
    println!(
        "{live} live connections, {:.1} s: {} new connections, {} transfers of 1 MiB, {requests} requests on live \
         connections; 0 failed, 0 reset, 0 wrong bytes; longest new connection {:.1} ms",
        lasted.as_secs_f64(),
        connects + last.answered(),
        transfers + bytes.answered(),
        slowest.max(last.slowest) * 1e3
    );
    ensure!(connects > 0 && transfers > 0 && requests >= u64::from(live));
    Ok(())
}
