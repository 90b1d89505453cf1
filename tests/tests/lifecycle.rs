//! Nothing that is open is lost, whatever happens to the agent and to the kernel programs: idle connections, requests in loops,
//! megabytes that are compared byte by byte, WebSockets, and a stream of new connections, over everything that can be done.
//!
//! `ALIZE_LIVE=10000 ALIZE_ROUNDS=10` for the long form, which is measured by hand.

#![expect(clippy::print_stdout, reason = "figures are for people")]

use std::fs;
use std::time::Duration;

use alize_tests::mesh::{endpoint, endpoints, file};
use alize_tests::shell::{Shell, break_object, text};
use alize_tests::traffic::{Servers, Size, Traffic};
use alize_tests::{Agent, AgentOptions, World};
use anyhow::{Result, ensure};

fn number(variable: &str, usual: u32) -> u32 {
    std::env::var(variable).ok().and_then(|text| text.parse().ok()).unwrap_or(usual)
}

#[test]
fn whatever_is_done_to_the_mesh_no_connection_is_lost() -> Result<()> {
    let world = World::new("lifecycle")?;
    let shell = Shell::beside(&world);
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
    let refused = shell.bundle("9.9.8", Some(("connect", &break_object)))?;
    let blind = shell.bundle("9.9.7", Some(("observe", &break_object)))?;
    let altered = world.folder().join("altered.bundle");
    let mut bytes = fs::read(&next)?;
    let last = bytes.len() - 1;
    bytes[last] ^= 1;
    fs::write(&altered, bytes)?;
    // What observes goes through all of it too.
    let options = AgentOptions::flags(&["--allow-unsigned", "--observe=always"]);

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
        for (bundle, why) in [(&altered, "altered"), (&refused, "at step load"), (&blind, "at step load")] {
            let failed = shell.alize(&["upgrade", text(bundle)])?;
            let told = String::from_utf8_lossy(&failed.stderr).into_owned();
            ensure!(!failed.status.success() && told.contains(why), "{told}");
            traffic.look("upgrade that failed")?;
        }
        agent.kill()?;
        // Killed in the middle of going back, by the one who would have done it.
        let hooks = ["sockops", "http_client", "connect6", "observe_ingress", "http_told"];
        let hooks = hooks.map(|hook| format!("switch:alize_{hook}"));
        for step in ["load".to_owned(), "pins".to_owned()].iter().chain(&hooks) {
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
    ensure!(routed.lines().any(|line| line.contains("path=\"observed\"")), "{routed}");
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
