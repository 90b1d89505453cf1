//! What is meshed, by whom, and what an agent says when it cannot.

use std::fs;
use std::net::SocketAddr;
use std::process::Command;
use std::time::Duration;

use alize_tests::mesh::{endpoints, web};
use alize_tests::servers::at;
use alize_tests::{Agent, AgentOptions, Kind, World};
use anyhow::Result;
use rustix::mount::{UnmountFlags, unmount};

fn address() -> SocketAddr {
    at([10, 96, 0, 10], 80)
}

#[test]
fn two_instances_mesh_two_subtrees() -> Result<()> {
    let world = World::new("instances")?;
    let servers = world.fleet(Kind::Name, &["blue", "green"], 7000)?;
    let clients = [world.meshed("blue-client")?, world.meshed("green-client")?];
    let mut agents = Vec::new();
    for (server, client) in servers.iter().zip(&clients) {
        let options = AgentOptions {
            instance: Some(server.name.clone()),
            cgroups: vec![client.cgroup.clone()],
            without_metrics: true,
            ..AgentOptions::default()
        };
        agents.push(Agent::start_with(&world, &web(address(), &[], &endpoints([server.v4])), &options)?);
    }
    for (server, client) in servers.iter().zip(&clients) {
        assert_eq!(client.connect(address(), 20)?.of(&server.name), 20);
    }
    // What one does is nothing to the other.
    agents.remove(0).kill()?;
    assert_eq!(agents[0].service("web")?.traffic.connections, 20);
    for (server, client) in servers.iter().zip(&clients) {
        assert_eq!(client.connect(address(), 20)?.of(&server.name), 20);
    }
    Ok(())
}

#[test]
fn several_cgroups_are_meshed_by_one_agent() -> Result<()> {
    let world = World::new("cgroups")?;
    let servers = world.fleet(Kind::Name, &["a"], 7000)?;
    let clients = [world.meshed("one")?, world.meshed("two")?, world.meshed("three")?];
    let cgroups = clients[..2].iter().map(|client| client.cgroup.clone()).collect();
    let options = AgentOptions { cgroups, ..AgentOptions::default() };
    let agent = Agent::start_with(&world, &web(address(), &[], &endpoints([servers[0].v4])), &options)?;
    assert_eq!(agent.status()?.cgroups.len(), 2);
    for (client, answers) in clients.iter().zip([5, 5, 0]) {
        assert_eq!(client.connect(address(), 5)?.answered(), answers);
    }
    Ok(())
}

#[test]
fn a_missing_bpffs_is_mounted() -> Result<()> {
    let world = World::new("bpffs")?;
    unmount(world.bpffs(), UnmountFlags::empty())?;
    let servers = world.fleet(Kind::Name, &["a"], 7000)?;
    let _agent = Agent::start(&world, &web(address(), &[], &endpoints([servers[0].v4])))?;
    let mounted = format!("{} bpf ", world.bpffs().display());
    assert!(fs::read_to_string("/proc/self/mounts")?.contains(&mounted));
    assert_eq!(world.meshed("client")?.connect(address(), 5)?.of("a"), 5);
    Ok(())
}

#[test]
fn what_is_missing_is_named() -> Result<()> {
    let world = World::new("missing")?;
    // Where the binary was built, only its owner may be able to look.
    let binary = world.folder().join("alize");
    fs::copy(alize_tests::place::binary("alize")?, &binary)?;
    let file = world.folder().join("mesh.yaml");
    fs::write(&file, web(address(), &[], &[]))?;
    let run = |user: &[&str], flags: &[String]| -> Result<(Option<i32>, String)> {
        let mut command = Command::new("timeout");
        command.args(["20", "setpriv"]).args(user).arg(&binary).arg("run").arg(&file).arg("--metrics=off");
        command.arg(format!("--instance={}", world.instance())).args(flags);
        let output = command.output()?;
        Ok((output.status.code(), String::from_utf8_lossy(&output.stderr).into_owned()))
    };
    let place = |flag: &str, path: &std::path::Path| format!("--{flag}={}", path.display());
    let open = world.folder().join("open");
    fs::create_dir(&open)?;
    fs::set_permissions(&open, std::os::unix::fs::PermissionsExt::from_mode(0o777))?;
    let bpffs = place("bpffs", &world.bpffs());
    let mesh = place("cgroup", world.mesh().path());

    let nobody = ["--reuid=65534", "--regid=65534", "--clear-groups"];
    let (code, text) = run(&nobody, &[place("run-dir", &open), bpffs.clone(), mesh])?;
    assert_eq!(code, Some(5), "{text}");
    assert!(text.contains("root"), "{text}");

    let (code, text) = run(&[], &[place("run-dir", &open), bpffs, place("cgroup", &open)])?;
    assert_eq!(code, Some(5), "{text}");
    assert!(text.contains("is not a folder of cgroup v2"), "{text}");
    Ok(())
}

#[test]
fn a_first_start_with_a_bad_file_leaves_nothing() -> Result<()> {
    let world = World::new("bad-start")?;
    let mut agent = Agent::spawn(&world, "services:\n  - nmae: web\n", &AgentOptions::default())?;
    let status = agent.process().wait(Duration::from_secs(20))?;
    let log = agent.process().log();
    assert_eq!(status.code(), Some(3), "{log}");
    assert!(log.contains(":2:5: error: ") && log.contains("name"), "{log}");
    let left: Vec<_> = fs::read_dir(world.bpffs())?.flatten().map(|entry| entry.file_name()).collect();
    assert!(left.iter().all(|name| name != "alize"), "{left:?}");
    Ok(())
}
