//! Endpoints that fail are left out, and come back.

use std::net::SocketAddr;
use std::time::{Duration, Instant};

use alize_model::api::Event;
use alize_tests::mesh::{endpoints, file, service, web};
use alize_tests::servers::at;
use alize_tests::wait::until_true;
use alize_tests::{Agent, Kind, Place, World};
use anyhow::Result;

const SOON: Duration = Duration::from_secs(15);
const CHECK: &str = "interval: 200ms, timeout: 100ms, healthy: 2, unhealthy: 2";

fn address() -> SocketAddr {
    at([10, 96, 0, 10], 80)
}

fn about<'a>(events: &'a [Event], kind: &str, endpoint: SocketAddr) -> Vec<&'a Event> {
    events.iter().filter(|event| event.kind == kind && event.endpoint == Some(endpoint)).collect()
}

fn assert_none_fails(client: &Place, name: &str) -> Result<()> {
    let seen = client.connect_with(address(), &["--count=100", "--speech=http"])?;
    assert_eq!((seen.of(name), seen.failed()), (100, 0), "{seen:?}");
    Ok(())
}

#[test]
fn an_endpoint_that_stops_listening_is_left_out_until_it_listens_again() -> Result<()> {
    let world = World::new("health-tcp")?;
    let mut servers = world.fleet(Kind::Nginx, &["a", "b"], 8080)?;
    let settings = [&format!("health: {{{CHECK}}}")[..]];
    let agent = Agent::start(&world, &web(address(), &settings, &endpoints(servers.iter().map(|s| s.v4))))?;
    let client = world.meshed("client")?;
    servers[1].kill()?;
    agent.wait_state("web", servers[1].v4, "unhealthy", SOON)?;
    assert_none_fails(&client, "a")?;
    let endpoint = agent.endpoint("web", servers[1].v4)?;
    assert!(endpoint.reason.is_some_and(|reason| reason.contains("refused")));
    assert_eq!(agent.service("web")?.usable, 1);

    servers[1].resume()?;
    agent.wait_state("web", servers[1].v4, "active", SOON)?;
    let seen = client.connect_with(address(), &["--count=100", "--speech=http"])?;
    assert!(seen.of("b") > 0 && seen.failed() == 0, "{seen:?}");
    let events = agent.events()?;
    let told = about(&events, "health", servers[1].v4);
    assert_eq!(told.len(), 2, "{events:?}");
    assert!(told.iter().all(|event| event.service.as_deref() == Some("web")));

    // Nobody left: refused at once, not tried in vain.
    servers.iter_mut().try_for_each(|server| server.kill())?;
    until_true("no endpoint to be usable", SOON, || Ok(agent.service("web")?.usable == 0))?;
    let seen = client.connect(address(), 10)?;
    assert_eq!(seen.errors.get("ConnectionRefused"), Some(&10), "{seen:?}");
    assert_eq!(agent.service("web")?.refused.get("no-endpoint"), Some(&10));
    Ok(())
}

#[test]
fn an_http_check_looks_at_the_status() -> Result<()> {
    let world = World::new("health-http")?;
    let mut servers = world.fleet(Kind::Nginx, &["a", "b"], 8080)?;
    let listed = endpoints(servers.iter().map(|s| s.v4));
    let well = format!("health: {{http: /healthz, {CHECK}}}");
    let absent = format!("health: {{http: /absent, {CHECK}}}");
    let expected = format!("health: {{http: /absent, status: 404, {CHECK}}}");
    let services = [
        service("web", address(), &[&well], &listed),
        service("absent", at([10, 96, 0, 11], 80), &[&absent], &listed),
        service("expected", at([10, 96, 0, 12], 80), &[&expected], &listed),
    ];
    let agent = Agent::start(&world, &file(&services))?;
    let client = world.meshed("client")?;
    for server in &servers {
        agent.wait_state("absent", server.v4, "unhealthy", SOON)?;
        let reason = agent.endpoint("absent", server.v4)?.reason.unwrap_or_default();
        assert!(reason.contains("404"), "{reason}");
        assert_eq!(agent.endpoint("web", server.v4)?.state, "active");
        assert_eq!(agent.endpoint("expected", server.v4)?.state, "active");
    }
    servers[0].kill()?;
    agent.wait_state("web", servers[0].v4, "unhealthy", SOON)?;
    assert_none_fails(&client, "b")?;
    servers[0].resume()?;
    agent.wait_state("web", servers[0].v4, "active", SOON)
}

#[test]
fn an_endpoint_that_refuses_clients_is_ejected_for_a_while() -> Result<()> {
    let world = World::new("ejection")?;
    let mut servers = world.fleet(Kind::Nginx, &["a", "b"], 8080)?;
    let settings = ["ejection: {failures: 3, base: 2s, max: 60s}"];
    let agent = Agent::start(&world, &web(address(), &settings, &endpoints(servers.iter().map(|s| s.v4))))?;
    let client = world.meshed("client")?;
    servers[1].kill()?;
    let mut failed = 0;
    until_true("the endpoint to be ejected", SOON, || {
        failed += client.connect_with(address(), &["--count=2", "--speech=http"])?.failed();
        Ok(agent.endpoint("web", servers[1].v4)?.state == "ejected")
    })?;
    let ejected = Instant::now();
    assert!((3..20).contains(&failed), "{failed} connects failed before the endpoint was ejected after 3");
    assert_none_fails(&client, "a")?;
    let events = agent.events()?;
    assert_eq!(about(&events, "ejection", servers[1].v4).len(), 1, "{events:?}");
    let failures = agent.endpoint("web", servers[1].v4)?.traffic.failures;
    assert_eq!(failures.get("refused"), Some(&failed), "{failures:?}");

    // It returns after 2 s, fails once more, and rests for twice as long.
    until_true("its return", SOON, || Ok(agent.endpoint("web", servers[1].v4)?.state == "active"))?;
    assert!(ejected.elapsed() > Duration::from_millis(1200), "it returned after {:?}", ejected.elapsed());
    until_true("the second ejection", SOON, || {
        client.connect_with(address(), &["--count=1", "--speech=http"])?;
        Ok(agent.endpoint("web", servers[1].v4)?.state == "ejected")
    })?;
    let again = Instant::now();
    servers[1].resume()?;
    until_true("its second return", SOON, || Ok(agent.endpoint("web", servers[1].v4)?.state == "active"))?;
    assert!(again.elapsed() > Duration::from_millis(3200), "it returned after {:?}", again.elapsed());
    let seen = client.connect_with(address(), &["--count=100", "--speech=http"])?;
    assert!(seen.of("b") > 0 && seen.failed() == 0, "{seen:?}");
    Ok(())
}

#[test]
fn no_more_are_ejected_than_the_cap_allows() -> Result<()> {
    let world = World::new("ejection-cap")?;
    let mut servers = world.fleet(Kind::Name, &["a", "b", "c", "d"], 7000)?;
    let settings = ["ejection: {failures: 2, base: 60s, max-ejected: 50}"];
    let agent = Agent::start(&world, &web(address(), &settings, &endpoints(servers.iter().map(|s| s.v4))))?;
    let client = world.meshed("client")?;
    servers[1..].iter_mut().try_for_each(|server| server.kill())?;
    let ejected = || -> Result<usize> {
        Ok(agent.service("web")?.endpoints.iter().filter(|endpoint| endpoint.state == "ejected").count())
    };
    until_true("two of four to be ejected", SOON, || {
        client.connect(address(), 10)?;
        Ok(ejected()? == 2)
    })?;
    client.connect(address(), 100)?;
    std::thread::sleep(Duration::from_millis(300));
    assert_eq!(ejected()?, 2);
    Ok(())
}
