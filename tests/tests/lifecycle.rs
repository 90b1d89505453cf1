//! Nothing that is open is lost, whatever happens to the agent and to the kernel programs: idle connections, requests in loops,
//! megabytes that are compared byte by byte, WebSockets, and a stream of new connections, over everything that can be done.
//!
//! `ALIZE_LIVE=10000 ALIZE_ROUNDS=10` for the long form, which is measured by hand.

#![expect(clippy::print_stdout, reason = "figures are for people")]

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};
use std::time::Duration;

use alize_tests::mesh::{endpoint, endpoints, file};
use alize_tests::traffic::{Servers, Size, Traffic};
use alize_tests::{Agent, AgentOptions, World};
use anyhow::{Context, Result, ensure};

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

    /// The programs of this binary under another version; with `broken`, the verifier refuses that object.
    fn bundle(&self, version: &str, broken: Option<&str>) -> Result<PathBuf> {
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
            let mut object = bytes[at..at + size].to_vec();
            if broken == Some(name) {
                break_object(&mut object)?;
            }
            fs::write(objects.join(format!("{name}.bpf.o")), object)?;
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

/// Makes the first look into a map a call of a helper that no kernel has.
fn break_object(object: &mut [u8]) -> Result<()> {
    // BPF_JMP | BPF_CALL, bpf_map_lookup_elem.
    let call = [0x85, 0, 0, 0, 1, 0, 0, 0];
    let at = object
        .chunks_exact(8)
        .position(|instruction| instruction == call)
        .context("no program looks into a map")?;
    object[at * 8 + 4..at * 8 + 8].copy_from_slice(&9999u32.to_le_bytes());
    Ok(())
}

fn text(path: &Path) -> &str {
    path.to_str().unwrap_or_default()
}

#[test]
fn whatever_is_done_to_the_mesh_no_connection_is_lost() -> Result<()> {
    let world = World::new("lifecycle")?;
    let shell = Shell { world: &world };
    let servers = Servers::start(&world)?;
    let all = endpoints(servers.web.iter().map(|server| server.v4));
    let uneven = [endpoint(servers.web[0].v4, &["weight: 3"]), all[1].clone(), all[2].clone()];
    let text_of = |web: &[String]| {
        let services: Vec<String> =
            [servers.web_service(web)].into_iter().chain(servers.services()).collect();
        file(&services)
    };
    let (even, uneven) = (text_of(&all), text_of(&uneven));
    let next = shell.bundle("9.9.9", None)?;
    let refused = shell.bundle("9.9.8", Some("connect"))?;
    let altered = world.folder().join("altered.bundle");
    let mut bytes = fs::read(&next)?;
    let last = bytes.len() - 1;
    bytes[last] ^= 1;
    fs::write(&altered, bytes)?;
    let options = AgentOptions::flags(&["--allow-unsigned"]);

    let mut agent = Agent::start_with(&world, &even, &options)?;
    let mut traffic = Traffic::start(&world, &servers, Size::of(number("ALIZE_LIVE", 500)))?;
    traffic.look("nothing")?;
    let mut proxies = Vec::new();
    for _ in 0..number("ALIZE_ROUNDS", 1) {
        for _ in 0..3 {
            agent.kill()?;
            std::thread::sleep(Duration::from_millis(100));
            agent = Agent::start_with(&world, &even, &options)?;
            traffic.look("agent killed and restarted")?;
        }
        ensure!(shell.must(&["upgrade", text(&next)])?.contains("kernel programs of 9.9.9"));
        traffic.look("upgrade")?;
        for (bundle, why) in [(&altered, "altered"), (&refused, "at step load")] {
            let failed = shell.alize(&["upgrade", text(bundle)])?;
            let told = String::from_utf8_lossy(&failed.stderr).into_owned();
            ensure!(!failed.status.success() && told.contains(why), "{told}");
            traffic.look("upgrade that failed")?;
        }
        agent.kill()?;
        // Killed in the middle of going back, by the one who would have done it.
        for step in
            ["load", "switch:alize_sockops", "switch:alize_http_client", "switch:alize_connect6", "pins"]
        {
            let environment = vec![("ALIZE_FAULT".to_owned(), format!("{step}=kill"))];
            let faulty = AgentOptions { environment, ..options.clone() };
            let mut broken = Agent::spawn(&world, &even, &faulty)?;
            broken.process().wait(Duration::from_secs(60))?;
            traffic.look("upgrade that was killed")?;
        }
        agent = Agent::start_with(&world, &even, &options)?;
        shell.must(&["rollback"])?;
        traffic.look("rollback")?;
        for end in ["--abort", "--promote"] {
            let canary = world.mesh().path().join("http");
            shell.must(&["upgrade", text(&next), "--canary", text(&canary), "--share=40"])?;
            traffic.look("two versions at once")?;
            let trial = shell.must(&["upgrade", "--trial"])?;
            ensure!(trial.contains("alize_connect4") && trial.contains("alize_http_client"), "{trial}");
            shell.must(&["upgrade", end])?;
            traffic.look("two versions at once")?;
        }
        shell.must(&["rollback"])?;
        for mode in ["observe", "shadow", "enforce", "shadow", "observe", "file"] {
            for service in ["both", "either"] {
                shell.must(&["mode", service, mode])?;
            }
            traffic.look("change of modes")?;
        }
        proxies.push(Agent::successor(&world)?);
        std::thread::sleep(Duration::from_secs(2));
        traffic.look("another proxy")?;
        for round in 0..40 {
            agent.write(if round % 2 == 0 { &uneven } else { &even })?;
            std::thread::sleep(Duration::from_millis(20));
        }
        agent.change(&uneven)?;
        agent.change(&even)?;
        traffic.look("a storm of reloads")?;
    }
    let routed = agent.metrics()?;
    ensure!(
        routed.lines().any(|line| line.contains("path=\"kernel-l7\"") && line.contains("shop")),
        "{routed}"
    );
    // Removal ends the mesh, not its connections.
    let figures = traffic.finish(&world, &servers, || {
        agent.stop()?;
        let unloaded = Agent::unload(&world)?;
        ensure!(unloaded.status.success(), "{unloaded:?}");
        Ok(())
    })?;
    println!("{figures}");
    ensure!(figures.answered.values().all(|count| *count > 0), "{figures}");
    Ok(())
}
