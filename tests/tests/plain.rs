//! Worlds without a mesh: the servers and clients of the other tests do what those tests believe.

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;
use std::time::Duration;

use alize_tests::servers::at;
use alize_tests::wait::until_true;
use alize_tests::{Tally, World};
use anyhow::{Context, Result};

fn only(tally: &Tally, name: &str, count: u64) {
    assert_eq!(tally.answers, BTreeMap::from([(name.to_owned(), count)]), "{tally:?}");
    assert_eq!(tally.failed(), 0, "{tally:?}");
}

#[test]
fn clients_reach_servers_in_other_namespaces() -> Result<()> {
    let world = World::new("plain-reach")?;
    let server = world.plain("server")?;
    let (v4, v6) = (at(server.namespace.v4(), 7000), at(server.namespace.v6(), 7000));
    let _server = server.serve("a", &[v4, v6])?;
    let client = world.meshed("client")?;

    for target in [v4, v6] {
        let tally = client.connect(target, 20)?;
        only(&tally, "a", 20);
        assert_eq!(tally.peers, BTreeMap::from([(target, 20)]));
        for flags in [&["--count=5"][..], &["--count=5", "--connected"], &["--count=5", "--one-socket"]] {
            let tally = client.datagram(target, flags)?;
            only(&tally, "a", 5);
            assert_eq!(tally.peers, BTreeMap::from([(target, 5)]));
        }
    }
    let mapped = at(server.namespace.v4().to_ipv6_mapped(), 7000);
    only(&client.connect(mapped, 3)?, "a", 3);

    let refused = client.connect(at(server.namespace.v4(), 7001), 3)?;
    assert_eq!(refused.errors, BTreeMap::from([("ConnectionRefused".to_owned(), 3)]));
    Ok(())
}

#[test]
fn clients_run_in_their_cgroup() -> Result<()> {
    let world = World::new("plain-cgroup")?;
    let client = world.meshed("client")?;
    let own = client.run("cat", &["/proc/self/cgroup"])?;
    let unified = own.lines().find_map(|line| line.strip_prefix("0::")).context("cgroup v2")?;
    assert!(client.cgroup.path().ends_with(unified.trim_start_matches('/')), "{unified}");
    Ok(())
}

#[test]
fn held_connections_tell_when_the_server_is_gone() -> Result<()> {
    let world = World::new("plain-hold")?;
    let server = world.plain("server")?;
    let address = at(server.namespace.v4(), 7000);
    let process = server.serve("a", &[address])?;
    let (mut held, opened) = world.meshed("client")?.hold(address, 50)?;
    only(&opened, "a", 50);
    only(&held.ask()?, "a", 50);
    process.kill()?;
    assert_eq!(held.ask()?.failed(), 50);
    Ok(())
}

#[test]
fn streams_tell_what_happened_since_the_last_time() -> Result<()> {
    let world = World::new("plain-stream")?;
    let server = world.plain("server")?;
    let address = at(server.namespace.v4(), 80);
    let process = server.nginx("a", &[address])?;
    let mut stream = world.meshed("client")?.stream(address, &["--speech=http", "--callers=2"])?;
    let mut seen = 0;
    until_true("a few answers", Duration::from_secs(10), || {
        let tally = stream.ask()?;
        assert_eq!(tally.failed(), 0, "{tally:?}");
        seen += tally.of("a");
        Ok(seen > 100)
    })?;
    process.kill()?;
    // nginx's workers end one after the other.
    until_true("nothing but failures", Duration::from_secs(10), || {
        let tally = stream.ask()?;
        Ok(tally.failed() > 0 && tally.answered() == 0)
    })?;
    let last = stream.finish()?;
    assert_eq!(last.answered(), 0, "{last:?}");
    Ok(())
}

#[test]
fn real_servers_answer_with_their_names() -> Result<()> {
    let world = World::new("plain-servers")?;
    let server = world.plain("server")?;
    let (web, store, names) =
        (at(server.namespace.v4(), 80), at(server.namespace.v6(), 6379), at(server.namespace.v4(), 53));
    let _servers =
        (server.nginx("web", &[web])?, server.redis("store", store)?, server.dnsmasq("names", names)?);
    let client = world.meshed("client")?;
    assert_eq!(client.run("curl", &["-sS", &format!("http://{web}/")])?, "web\n");
    assert_eq!(client.run("curl", &["-sS", &format!("http://{web}/healthz")])?, "well\n");
    assert_eq!(client.run("redis-cli", &["-h", &store.ip().to_string(), "get", "name"])?, "store\n");
    let dig = client.run("dig", &[&format!("@{}", names.ip()), "name.test", "TXT", "+short"])?;
    assert_eq!(dig, "\"names\"\n");
    Ok(())
}

#[test]
fn worlds_leave_nothing() -> Result<()> {
    let world = World::new("plain-gone")?;
    let server = world.meshed("server")?;
    let address = at(server.namespace.v4(), 80);
    let process = server.nginx("a", &[address])?;
    let traces = [
        world.folder().to_owned(),
        world.mesh().path().to_owned(),
        server.namespace.path(),
        Path::new("/proc").join(process.pid().to_string()),
    ];
    assert!(traces.iter().all(|trace| trace.exists()));
    let mounts = || fs::read_to_string("/proc/self/mounts");
    let bpffs = world.bpffs().display().to_string();
    assert!(mounts()?.contains(&bpffs));

    // A world goes even while its processes run.
    drop(world);
    drop(process);
    for trace in &traces {
        assert!(!trace.exists(), "{} is left", trace.display());
    }
    assert!(!mounts()?.contains(&bpffs));
    Ok(())
}
