//! Containers are called what their engines call them, where no file says it: real engines, asked over their sockets.

use std::fs;
use std::time::Duration;

use alize_model::api::{TrafficReport, Workload};
use alize_tests::wait::until_true;
use alize_tests::{Agent, AgentOptions, Cgroup, Engines, Mounts, World};
use anyhow::{Context, Result, ensure};

const PATIENCE: Duration = Duration::from_secs(20);
const NO_SERVICES: &str = "services: []\n";
/// nobody: a user of every machine, who has no containers of their own.
const UID: u32 = 65_534;

/// The path of a cgroup as engines and the agent have it.
fn inner(cgroup: &Cgroup) -> Result<String> {
    let inner = cgroup.path().strip_prefix(Cgroup::mount()?)?;
    Ok(format!("/{}", inner.display()))
}

/// The clients of all HTTP so far.
fn clients(agent: &Agent) -> Result<Vec<Workload>> {
    let report: TrafficReport = serde_json::from_str(&agent.api("GET", "/v1/traffic", "")?.body)?;
    Ok(report.series.into_iter().filter_map(|series| series.source).collect())
}

fn wait_for_client(agent: &Agent, name: &str, id: &str) -> Result<()> {
    until_true(&format!("a client called {name}"), PATIENCE, || {
        let clients = clients(agent)?;
        let found = clients.iter().find(|client| client.container.as_deref() == Some(id));
        let found = found.with_context(|| format!("{id} is not among {clients:?}"))?;
        ensure!(found.name == name, "it is called {}", found.name);
        Ok(true)
    })
}

#[test]
fn docker_podman_and_containerd_are_asked_for_names() -> Result<()> {
    let world = World::new("containers")?;
    let mounts = Mounts::new(&world)?;
    let engines = Engines::new(&world, &mounts)?;
    let mesh = inner(world.mesh())?;
    let _docker = engines.docker()?;
    let web = engines.run_in_docker("shop-web", &format!("{mesh}/docker"))?;
    let cache = "c0ffee00".repeat(8);
    engines.run_in_containerd("shop-cache", &cache, &format!("{mesh}/nerdctl-{cache}.scope"))?;
    let podman = engines.podman()?;
    let db = podman.create("shop-db", &[&format!("--cgroup-parent={mesh}")])?;
    podman.start(&db, None)?;

    let options = AgentOptions { mounts: Some(mounts.holder()), ..AgentOptions::default() };
    let agent = Agent::start_with(&world, NO_SERVICES, &options)?;
    // The first who asks by name is served, though no engine has been asked yet.
    let line = agent.run(&["trace", "--unit", "shop-web", "--count", "1", "-o", "json"])?;
    ensure!(line.contains("\"docker:shop-web\""), "{line}");
    wait_for_client(&agent, "docker:shop-web", &web)?;
    wait_for_client(&agent, "containerd:shop-cache", &cache)?;
    // Podman's socket is not there yet; then it is.
    let short = format!("podman:{}", &db[..12]);
    wait_for_client(&agent, &short, &db)?;
    let _podman = podman.serve()?;
    wait_for_client(&agent, "podman:shop-db", &db)
}

#[test]
fn a_users_podman_is_asked_for_the_users_containers() -> Result<()> {
    let world = World::new("rootless")?;
    let mounts = Mounts::new(&world)?;
    let engines = Engines::new(&world, &mounts)?;
    let podman = engines.podman_of(UID)?;
    let id = podman.create("own-web", &[])?;
    let _podman = podman.serve()?;

    // Where systemd would put it. An engine without rights leaves the container in the cgroup that it was started from.
    let root = world.mesh().path().parent().context("the world's cgroup")?.to_owned();
    let slice = root.join(format!("user.slice/user-{UID}.slice/user@{UID}.service/user.slice"));
    let cgroup = Cgroup::make(slice.join(format!("libpod-{id}.scope")))?;
    podman.start(&id, Some(cgroup))?;

    // To the agent the world is the whole machine.
    let mount = Cgroup::mount()?;
    engines.place().run("mount", &["--bind", &root.to_string_lossy(), &mount.to_string_lossy()])?;
    let cgroups = vec![Cgroup::seen(mount.join("user.slice"))];
    let options = AgentOptions { mounts: Some(mounts.holder()), cgroups, ..AgentOptions::default() };
    let agent = Agent::start_with(&world, NO_SERVICES, &options)?;
    wait_for_client(&agent, "podman:own-web", &id)?;
    ensure!(fs::metadata(format!("/run/user/{UID}")).is_err(), "the machine's /run is touched");
    Ok(())
}
