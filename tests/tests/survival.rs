//! The data path does not depend on the agent being alive, nor on the proxy.

#![expect(clippy::print_stdout, reason = "figures are for people")]

use std::fs;
use std::net::SocketAddr;
use std::path::Path;
use std::time::Duration;

use alize_model::api::ServiceStatus;
use alize_tests::mesh::{endpoint, endpoints, file, service, web};
use alize_tests::servers::at;
use alize_tests::wait::until_true;
use alize_tests::{Agent, AgentOptions, Kind, Place, Process, World};
use anyhow::Result;
use rustix::process::Signal;

fn address() -> SocketAddr {
    at([10, 96, 0, 10], 80)
}

/// What `bpftool` sees attached at the meshed cgroup.
fn attached(world: &World) -> Result<String> {
    let folder = world.mesh().path().to_string_lossy().into_owned();
    let text = world.plain("node")?.run("bpftool", &["--json", "cgroup", "show", &folder])?;
    Ok(text.trim().to_owned())
}

/// Everything below a folder of bpffs.
fn pins(folder: &Path) -> Result<Vec<String>> {
    let mut found = Vec::new();
    for entry in fs::read_dir(folder)? {
        let entry = entry?;
        found.push(entry.path().display().to_string());
        if entry.file_type()?.is_dir() {
            found.extend(pins(&entry.path())?);
        }
    }
    Ok(found)
}

fn numbers(service: &ServiceStatus) -> Vec<u32> {
    let endpoints = service.endpoints.iter().map(|endpoint| endpoint.id);
    std::iter::once(service.id).chain(endpoints).collect()
}

#[test]
fn an_agent_killed_and_restarted_costs_no_connection() -> Result<()> {
    let world = World::new("kill")?;
    let servers = world.fleet(Kind::Name, &["a", "b"], 7000)?;
    let even = web(address(), &[], &endpoints(servers.iter().map(|s| s.v4)));
    let uneven = [endpoint(servers[0].v4, &["weight: 3"]), endpoint(servers[1].v4, &[])];
    let uneven = web(address(), &[], &uneven);

    let mut agent = Agent::start(&world, &even)?;
    assert!(!agent.status()?.adopted);
    let first = numbers(&agent.service("web")?);
    let (mut held, opened) = world.meshed("held")?.hold(address(), 1000)?;
    assert_eq!((opened.answered(), opened.failed()), (1000, 0), "{:?}", opened.errors);
    let mut stream = world.meshed("stream")?.stream(address(), &["--callers=2"])?;

    // The second restart finds another file, so that it has something to write.
    for text in [&even, &uneven, &even] {
        agent.kill()?;
        std::thread::sleep(Duration::from_millis(300));
        let alone = stream.ask()?;
        assert_eq!(alone.failed(), 0, "{:?}", alone.errors);
        assert!(alone.answered() > 0);

        agent = Agent::start(&world, text)?;
        assert!(agent.status()?.adopted);
        let web = agent.service("web")?;
        assert_eq!(numbers(&web), first, "numbers have changed");
        assert!(web.traffic.open >= 1000, "{} connections are counted as open", web.traffic.open);
        let seen = stream.ask()?;
        assert_eq!(seen.failed(), 0, "{:?}", seen.errors);
        assert_eq!(held.ask()?.answers, opened.answers);
    }
    let seen = stream.finish()?;
    assert_eq!(seen.failed(), 0, "{:?}", seen.errors);
    drop(held);
    Ok(())
}

#[test]
fn connects_are_balanced_while_no_agent_runs_and_counted_for_the_next() -> Result<()> {
    let world = World::new("alone")?;
    let servers = world.fleet(Kind::Name, &["a", "b"], 7000)?;
    let text = web(address(), &["balance: round-robin"], &endpoints(servers.iter().map(|s| s.v4)));
    let agent = Agent::start(&world, &text)?;
    let status = agent.stop()?;
    assert!(status.success(), "{status}");
    let seen = world.meshed("client")?.connect(address(), 100)?;
    assert_eq!((seen.of("a"), seen.of("b"), seen.failed()), (50, 50, 0));
    let agent = Agent::start(&world, &text)?;
    let web = agent.service("web")?;
    assert_eq!((web.traffic.connections, web.traffic.established, web.traffic.open), (100, 100, 0));
    Ok(())
}

#[test]
fn a_second_agent_refuses_and_disturbs_nothing() -> Result<()> {
    let world = World::new("second")?;
    let servers = world.fleet(Kind::Name, &["a"], 7000)?;
    let text = web(address(), &[], &endpoints([servers[0].v4]));
    let mut agent = Agent::start(&world, &text)?;
    let mut stream = world.meshed("client")?.stream(address(), &[])?;

    let options = AgentOptions { without_metrics: true, ..AgentOptions::default() };
    let mut second = Agent::spawn(&world, &text, &options)?;
    let status = second.process().wait(Duration::from_secs(20))?;
    let log = second.process().log();
    assert!(!status.success() && status.code().is_some(), "{status}: {log}");
    assert!(log.contains(&format!("process {}", agent.process().pid())), "{log}");
    assert!(log.contains(&world.instance()), "{log}");

    // Another instance cannot mesh the same processes.
    let mut other = Agent::spawn(&world, &text, &AgentOptions { instance: Some("other".into()), ..options })?;
    let status = other.process().wait(Duration::from_secs(20))?;
    let log = other.process().log();
    assert!(!status.success() && status.code().is_some(), "{status}: {log}");
    assert!(log.contains(&format!("is meshed by instance {:?}", world.instance())), "{log}");

    // Nor can the data path be taken away from under a running agent.
    let unload = Agent::unload(&world)?;
    assert!(!unload.status.success(), "{unload:?}");

    assert!(agent.process().ended()?.is_none());
    let seen = stream.ask()?;
    assert!(seen.failed() == 0 && seen.answered() > 0, "{seen:?}");
    assert_eq!(agent.status()?.pid, agent.process().pid());
    Ok(())
}

#[test]
fn unload_leaves_nothing_behind_and_running_connections_stay() -> Result<()> {
    let world = World::new("unload")?;
    let servers = world.fleet(Kind::Name, &["a", "b"], 7000)?;
    let text = web(address(), &[], &endpoints(servers.iter().map(|s| s.v4)));
    // The kernel puts files of its own into a bpffs.
    let before = pins(&world.bpffs())?;
    let agent = Agent::start(&world, &text)?;
    let client = world.meshed("client")?;
    let (mut held, opened) = client.hold(address(), 100)?;
    assert_eq!(opened.answered(), 100);
    assert!(attached(&world)?.contains("connect4"), "{}", attached(&world)?);
    assert!(pins(&world.bpffs())?.len() > before.len());
    agent.stop()?;
    assert!(attached(&world)?.contains("connect4"), "the data path must not end with the agent");

    let unload = Agent::unload(&world)?;
    assert!(unload.status.success(), "{unload:?}");
    assert_eq!(pins(&world.bpffs())?, before);
    let left = attached(&world)?;
    assert!(left.is_empty() || left == "[]", "{left}");
    assert_eq!(held.ask()?.answers, opened.answers);
    assert_eq!(client.connect(address(), 5)?.failed(), 5);

    // Once more finds nothing, which is no error; and all can begin again.
    assert!(Agent::unload(&world)?.status.success());
    let agent = Agent::start(&world, &text)?;
    assert!(!agent.status()?.adopted);
    assert_eq!(client.connect(address(), 50)?.failed(), 0);
    assert_eq!(held.ask()?.answers, opened.answers);
    Ok(())
}

#[test]
fn a_restart_with_a_bad_file_leaves_the_pinned_state_in_force() -> Result<()> {
    let world = World::new("restart-bad")?;
    let servers = world.fleet(Kind::Name, &["a"], 7000)?;
    let text = web(address(), &[], &endpoints([servers[0].v4]));
    let client = world.meshed("client")?;
    Agent::start(&world, &text)?.kill()?;
    // Whether the agent refuses to start or goes on with what is pinned, connects must not notice.
    let _agent = Agent::spawn(&world, "services: nonsense\n", &AgentOptions::default())?;
    std::thread::sleep(Duration::from_secs(2));
    assert_eq!(client.connect(address(), 50)?.of("a"), 50);
    Ok(())
}

#[test]
fn services_of_before_the_restart_that_are_no_longer_wanted_go() -> Result<()> {
    let world = World::new("restart-less")?;
    let servers = world.fleet(Kind::Name, &["a"], 7000)?;
    let listed = endpoints([servers[0].v4]);
    let other = at([10, 96, 0, 11], 80);
    let both = file(&[service("web", address(), &[], &listed), service("other", other, &[], &listed)]);
    Agent::start(&world, &both)?.kill()?;
    let agent = Agent::start(&world, &file(&[service("other", other, &[], &listed)]))?;
    let client = world.meshed("client")?;
    assert_eq!(client.connect(address(), 5)?.failed(), 5);
    assert_eq!(client.connect(other, 5)?.of("a"), 5);
    assert_eq!(agent.status()?.usage.services, 1);
    Ok(())
}

/// A shop in the place, behind a service with these routes.
fn shop(place: &Place, routes: &str) -> Result<(Process, String)> {
    let at = |port| SocketAddr::new(place.namespace.v4().into(), port);
    let shop = place.shop("one", at(8080), at(8081))?;
    let text = file(&[service("shop", address(), &["protocol: http", routes], &endpoints([at(8080)]))]);
    Ok((shop, text))
}

#[test]
fn a_proxy_killed_in_the_midst_of_requests_loses_only_what_it_held() -> Result<()> {
    const IDLE: u64 = 300;
    const KILLS: u64 = 4;
    let world = World::new("proxykill")?;
    let place = world.meshed("all")?;
    // What has a query of that name is for the proxy, and what has none might have.
    let (_shop, text) = shop(&place, "routes: [{name: odd, match: {query: {odd: '1'}}}, {name: rest}]")?;
    let mut agent = Agent::start(&world, &text)?;
    let mut pid = agent.proxy(0)?;
    let mut idle = place.request(address(), &[&format!("--idle={IDLE}")])?;
    assert_eq!(idle.read()?.failed(), 0);
    let mut busy = place.request(address(), &["--kept=4", "--fresh=2", "--downloads=1"])?;
    let mut lost = 0;
    for kill in 1..=KILLS {
        std::thread::sleep(Duration::from_millis(700));
        let before = busy.ask()?;
        assert_eq!(before.failed(), 0, "{:?}", before.errors);
        Process::signal_other(pid, Signal::KILL)?;
        // Asked while no proxy is there.
        let asked = idle.ask()?;
        assert_eq!((asked.failed(), asked.answered()), (0, IDLE), "kill {kill}: {:?}", asked.errors);
        pid = agent.proxy(pid)?;
        let asked = idle.ask()?;
        assert_eq!((asked.failed(), asked.answered()), (0, IDLE), "after kill {kill}: {:?}", asked.errors);
        let seen = busy.ask()?;
        println!(
            "kill {kill}: {} answered, lost {:?}, slowest {:.2} s",
            seen.answered(),
            seen.errors,
            seen.slowest
        );
        assert!(!seen.errors.contains_key("ConnectionRefused"), "{:?}", seen.errors);
        lost += seen.failed();
        if kill == 2 {
            // The next one learns anew what there is.
            agent.kill()?;
            agent = Agent::start(&world, &text)?;
            assert_eq!(agent.proxy(0)?, pid, "the agent's end is not the proxy's");
            std::thread::sleep(Duration::from_secs(1));
        }
    }
    // Of those that ask without a pause one each may be in the proxy's hands when it is killed.
    assert!(lost <= KILLS * 7, "{lost} requests were lost");
    Ok(())
}

#[test]
fn requests_that_the_kernel_routes_go_on_without_a_proxy() -> Result<()> {
    const IDLE: u64 = 16;
    let world = World::new("kernelkill")?;
    let place = world.meshed("all")?;
    let (_shop, text) = shop(&place, "http: {pool: {min-idle: 64, max: 256}}")?;
    let mut agent = Agent::start(&world, &text)?;
    let mut pid = agent.proxy(0)?;
    // Who connects before the kernel has been tried out stays with the proxy.
    until_true("the kernel to route", Duration::from_secs(30), || {
        let mut first = place.request(address(), &["--kept=1"])?;
        std::thread::sleep(Duration::from_millis(300));
        first.ask()?;
        Ok(agent.metrics()?.lines().any(|line| line.contains("kernel-l7") && line.contains("2xx")))
    })?;
    let mut idle = place.request(address(), &[&format!("--idle={IDLE}"), "--timeout=10"])?;
    assert_eq!(idle.read()?.failed(), 0);
    let mut busy = place.request(address(), &["--kept=4", "--timeout=10"])?;
    for kill in 1..=3 {
        // Those that the proxy has served first are the kernel's by now, and connections to the endpoint are there.
        std::thread::sleep(Duration::from_secs(1));
        idle.ask()?;
        busy.ask()?;
        // No proxy is started as long as the agent does nothing.
        agent.process().signal(Signal::STOP)?;
        Process::signal_other(pid, Signal::KILL)?;
        std::thread::sleep(Duration::from_millis(300));
        busy.ask()?;
        std::thread::sleep(Duration::from_millis(500));
        let (asked, seen) = (idle.ask()?, busy.ask()?);
        println!("kill {kill}: without a proxy {} answered, slowest {:.3} s", seen.answered(), seen.slowest);
        assert_eq!((asked.failed(), asked.answered()), (0, IDLE), "kill {kill}: {:?}", asked.errors);
        assert_eq!(seen.failed(), 0, "kill {kill}: {:?}", seen.errors);
        assert!(seen.answered() > 20, "only {}", seen.answered());
        agent.process().signal(Signal::CONT)?;
        pid = agent.proxy(pid)?;
        let (asked, seen) = (idle.ask()?, busy.ask()?);
        assert_eq!(
            (asked.failed(), seen.failed()),
            (0, 0),
            "after kill {kill}: {:?} {:?}",
            asked.errors,
            seen.errors
        );
    }
    assert_eq!(busy.finish()?.failed(), 0);
    Ok(())
}

#[test]
fn a_proxy_whose_data_path_was_unloaded_makes_room_for_another() -> Result<()> {
    let world = World::new("orphan")?;
    let place = world.meshed("all")?;
    let (_shop, text) = shop(&place, "http: {}")?;
    let agent = Agent::start(&world, &text)?;
    let orphan = agent.proxy(0)?;
    agent.stop()?;
    let elsewhere = world.folder().join("elsewhere");
    fs::create_dir(&elsewhere)?;
    let unload = Agent::unload_at(&world, &elsewhere)?;
    assert!(unload.status.success(), "{unload:?}");

    // It is found by its socket, and what it has open is not what this agent has loaded.
    let agent = Agent::start(&world, &text)?;
    assert_ne!(agent.proxy(orphan)?, orphan);
    until_true("requests to be served by the new one or the kernel", Duration::from_secs(30), || {
        let mut asked = place.request(address(), &["--fresh=1"])?;
        std::thread::sleep(Duration::from_millis(300));
        asked.ask()?;
        let metrics = agent.metrics()?;
        Ok(metrics.lines().any(|line| line.starts_with("alize_http_requests_total") && !line.ends_with(" 0")))
    })?;
    until_true("the old one to end", Duration::from_secs(60), || {
        Ok(!Path::new(&format!("/proc/{orphan}")).exists())
    })
}
