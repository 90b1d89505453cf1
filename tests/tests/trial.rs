//! A version of the kernel programs for some first, by the agent's rule: what it leaves to the proxy is counted beside what the other
//! does, and it is rolled back for it, or promoted.

use std::time::Duration;

use alize_model::api::{Trial, TrialInstead};
use alize_tests::mesh::{endpoints, file, service};
use alize_tests::servers::at;
use alize_tests::shell::{Shell, text};
use alize_tests::wait::until_true;
use alize_tests::{Agent, AgentOptions, Place, World};
use anyhow::{Context, Result, ensure};

const PATIENCE: Duration = Duration::from_secs(30);

/// Makes the client's program compare methods with "GEX " in place of "GET ".
fn knows_no_get(object: &mut [u8]) -> Result<()> {
    // BPF_JMP32 | BPF_JEQ | BPF_K; the upper bytes are the register and how far to jump.
    let at = object
        .chunks_exact(8)
        .position(|instruction| instruction[0] == 0x16 && instruction[4..] == *b"GET ")
        .context("no program compares with GET")?;
    object[at * 8 + 6] = b'X';
    Ok(())
}

fn requests(client: &Place, url: &str, count: u32) -> Result<()> {
    client.run("curl", &["-sSf", &format!("{url}/[1-{count}]")]).map(drop)
}

/// Requests that the kernel has routed.
fn routed(agent: &Agent) -> Result<f64> {
    let text = agent.metrics()?;
    let counts = text
        .lines()
        .filter(|line| line.starts_with("alize_http_requests_total{") && line.contains("path=\"kernel-l7\""))
        .filter_map(|line| line.rsplit(' ').next()?.parse::<f64>().ok());
    Ok(counts.sum())
}

#[test]
fn the_rule_gives_up_who_leaves_more_to_the_proxy() -> Result<()> {
    let world = World::new("trial")?;
    let shell = Shell::beside(&world);
    let (canary, other) = (world.meshed("canary")?, world.meshed("other")?);
    let server = world.meshed("server")?;
    let address = at(server.namespace.v4(), 8080);
    let _server = server.nginx("server", &[address])?;
    let web = at([10, 96, 0, 30], 80);
    let listed = service("web", web, &["protocol: http"], &endpoints([address]));
    let agent = Agent::start_with(&world, &file(&[listed]), &AgentOptions::flags(&["--allow-unsigned"]))?;
    let url = format!("http://{web}");
    // A proxy leaves network namespaces in which nobody is.
    let stay = |client: &Place| client.start("stays", "sleep", &["600".to_owned()]);
    let _stay = (stay(&canary)?, stay(&other)?);
    for client in [&canary, &other] {
        until_true("the kernel to route", PATIENCE, || {
            let before = routed(&agent)?;
            requests(client, &url, 20)?;
            Ok(routed(&agent)? >= before + 20.0)
        })?;
    }
    let blind = shell.bundle("9.9.9", Some(("http_client", &knows_no_get)))?;
    let same = shell.bundle("9.9.8", None)?;
    let folder = world.mesh().path().join("canary");
    let begin = |bundle, more: &[&str]| {
        let arguments = ["upgrade", bundle, "--canary", text(&folder), "--max-fallbacks=20"];
        shell.must(&[&arguments[..], more].concat())
    };
    begin(text(&blind), &["--promote-after=1h"])?;
    // Too few to tell: the trial goes on, and shows what each version does.
    requests(&canary, &url, 50)?;
    requests(&other, &url, 50)?;
    let shown = shell.must(&["upgrade", "--trial"])?;
    ensure!(shown.contains("left to the proxy") && shown.contains("method"), "{shown}");
    ensure!(shown.contains("20 % more of HTTP to the proxy"), "{shown}");
    let trial: Trial = serde_json::from_str(&shell.must(&["upgrade", "--trial", "-o", "json"])?)?;
    let method = trial.reasons.iter().find(|reason| reason.reason == "method").context("a reason")?;
    ensure!(method.instead == TrialInstead::FellBack && method.old == Some(0), "{trial:?}");
    ensure!(method.new == Some(50), "one a request: {trial:?}");
    let (Some(old), Some(new)) = trial.fell_back() else { anyhow::bail!("{trial:?}") };
    ensure!(old < 20.0 && new > 90.0, "{trial:?}");
    // More of it: the rule gives it up, and no request fails.
    requests(&canary, &url, 200)?;
    until_true("the version on trial to be given up", PATIENCE, || Ok(agent.status()?.trial.is_none()))?;
    let events = agent.events()?;
    ensure!(events.iter().any(|event| event.message.contains("given up: it left")), "{events:?}");
    let (bpffs, bundles) = (world.bpffs(), world.folder().join("bundles"));
    let place = ["--bpffs", text(&bpffs), "--bundles", text(&bundles)];
    let versions = || shell.must(&[&["programs", "--versions"], &place[..]].concat());
    let told = versions()?;
    ensure!(!told.contains("on trial") && !told.contains("9.9.9"), "{told}");
    // One that does as well is promoted by the same rule.
    begin(text(&same), &["--promote-after=1s"])?;
    requests(&canary, &url, 200)?;
    until_true("the version on trial to be promoted", PATIENCE, || {
        requests(&canary, &url, 5)?;
        Ok(agent.status()?.trial.is_none())
    })?;
    let told = versions()?;
    ensure!(told.contains("9.9.8"), "{told}");
    Ok(())
}
