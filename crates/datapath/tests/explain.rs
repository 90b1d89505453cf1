//! What is explained is what happens: each answer is compared with real connects.

mod world;

use std::collections::HashMap;
use std::net::SocketAddr;

use alize_datapath::explain::{Explanation, Question, Target, Verdict, explain};
use alize_datapath::{Availability, Error, Unavailable};
use alize_model::{Mode, ServiceName, Transport};
use world::{TcpServer, World, apply, dial, service, try_apply_with};

fn ask(world: &World, target: &str) -> Explanation {
    let question = Question {
        cgroup: world.cgroup().to_owned(),
        pid: Some(std::process::id()),
        target: target.parse().map_or_else(|_| Target::Service(target.into()), Target::Address),
        transport: Transport::Tcp,
    };
    explain(&world.options, &question, None).unwrap_or_else(|error| panic!("{error}"))
}

fn found<'a>(explanation: &'a Explanation, step: &str) -> &'a str {
    let step = explanation.steps.iter().find(|each| each.name == step);
    step.map_or_else(|| panic!("no such step: {:?}", explanation.steps), |step| step.found.as_str())
}

fn left_out(explanation: &Explanation, address: SocketAddr) -> &str {
    let candidate = explanation.endpoints.iter().find(|candidate| candidate.address == address);
    candidate.and_then(|candidate| candidate.left_out.as_deref()).unwrap_or("")
}

#[test]
fn the_next_endpoint_is_foretold_where_it_can_be() {
    let world = World::new("foretold");
    let mut data_path = world.open();
    let servers: Vec<TcpServer> = (0..5).map(|_| TcpServer::start("127.0.0.1:0")).collect();
    let all: Vec<SocketAddr> = servers.iter().map(|server| server.address).collect();
    let text = service("turns", "127.77.0.1:80", "balance: round-robin,", &all)
        + &service("hash", "127.77.0.2:80", "balance: {maglev: {table-size: 251}},", &all)
        + &service("stay", "127.77.0.3:80", "affinity: 60s,", &all)
        + &service("one", "127.77.0.4:80", "", &all[..1])
        + &service("chance", "127.77.0.5:80", "", &all);
    apply(&mut data_path, &text);
    drop(data_path);

    for _ in 0..12 {
        for address in ["127.77.0.1:80", "127.77.0.2:80", "127.77.0.4:80"] {
            let told = ask(&world, address).outcome;
            assert_eq!((told.verdict, told.path, told.reason), (Verdict::Balanced, "kernel-l4", None));
            assert_eq!(told.endpoint, Some(dial(address).unwrap().1), "{address}");
        }
    }
    let before = ask(&world, "127.77.0.3:80");
    assert_eq!(before.outcome.endpoint, None);
    assert!(found(&before, "affinity").contains("has not been here"), "{:?}", before.steps);
    let first = dial("127.77.0.3:80").unwrap().1;
    let after = ask(&world, "stay");
    assert_eq!(after.outcome.endpoint, Some(first));
    assert!(found(&after, "affinity").contains(&format!("it keeps {first}")), "{:?}", after.steps);
    assert_eq!(dial("127.77.0.3:80").unwrap().1, first);

    let chance = ask(&world, "chance");
    assert_eq!(chance.outcome.endpoint, None);
    assert!(chance.endpoints.iter().all(|each| (each.odds - 0.2).abs() < 1e-6), "{:?}", chance.endpoints);
}

#[test]
fn the_odds_of_least_connections_are_those_of_the_present_loads() {
    let world = World::new("loads");
    let mut data_path = world.open();
    let servers: Vec<TcpServer> = (0..3).map(|_| TcpServer::start("127.0.0.1:0")).collect();
    let all: Vec<SocketAddr> = servers.iter().map(|server| server.address).collect();
    apply(&mut data_path, &service("busy", "127.77.0.1:80", "balance: least-connections,", &all));
    let held: Vec<_> = (0..4).map(|_| dial("127.77.0.1:80").unwrap()).collect();
    let told = ask(&world, "busy");
    let open: u32 = told.endpoints.iter().map(|each| each.open).sum();
    assert_eq!(open, 4);
    let mut seen: HashMap<SocketAddr, u32> = HashMap::new();
    for _ in 0..300 {
        // Closed before the next: the loads stay as they were.
        let (stream, server) = dial("127.77.0.1:80").unwrap();
        drop(stream);
        *seen.entry(server).or_default() += 1;
        world::eventually("it is closed", || {
            ask(&world, "busy").endpoints.iter().map(|each| each.open).sum::<u32>() == 4
        });
    }
    for each in &told.endpoints {
        let got = f64::from(seen.get(&each.address).copied().unwrap_or(0)) / 300.0;
        assert!((got - each.odds).abs() < 0.12, "{got} of {} for {}", each.odds, each.address);
    }
    drop(held);
}

#[test]
fn what_is_left_out_has_its_reason() {
    let world = World::new("left-out");
    let mut data_path = world.open();
    let server = TcpServer::start("127.0.0.1:0");
    let host = |host: u8| SocketAddr::from(([10, 77, 0, host], 80));
    let six: SocketAddr = "[fd00:77::6]:80".parse().unwrap();
    let text = format!(
        "- name: web\n  address: 127.77.0.1:80\n  endpoints:\n  - \"{}\"\n  - {{address: \"{}\", draining: true}}\n  \
         - {{address: \"{}\", weight: 0}}\n  - \"{}\"\n  - \"{six}\"\n",
        server.address,
        host(1),
        host(2),
        host(3)
    );
    let sick = Availability::from([((ServiceName::new("web").unwrap(), host(3)), Unavailable::Unhealthy)]);
    try_apply_with(&mut data_path, &text, &sick).unwrap();
    let told = ask(&world, "web");
    assert_eq!(told.outcome.endpoint, Some(server.address));
    assert_eq!(dial("127.77.0.1:80").unwrap().1, server.address);
    for (address, why) in [
        (host(1), "draining"),
        (host(2), "weight"),
        (host(3), "unhealthy"),
        (six, "cannot reach"),
        (server.address, ""),
    ] {
        assert!(left_out(&told, address).contains(why), "{address}: {:?}", told.endpoints);
        assert_eq!(left_out(&told, address).is_empty(), why.is_empty(), "{address}");
    }
    assert_eq!(found(&told, "endpoints"), "5 known, 4 left out");

    let sick = Availability::from([
        ((ServiceName::new("web").unwrap(), host(3)), Unavailable::Unhealthy),
        ((ServiceName::new("web").unwrap(), server.address), Unavailable::Ejected),
    ]);
    try_apply_with(&mut data_path, &text, &sick).unwrap();
    let told = ask(&world, "127.77.0.1:80").outcome;
    assert_eq!((told.verdict, told.reason), (Verdict::Refused, Some("no-endpoint")));
    let refused = dial("127.77.0.1:80").unwrap_err();
    assert_eq!(refused.kind(), std::io::ErrorKind::ConnectionRefused);
}

#[test]
fn modes_and_strangers_go_where_they_dial() {
    let world = World::new("strangers");
    let missing = explain(
        &world.options,
        &Question {
            cgroup: world.cgroup().to_owned(),
            pid: None,
            target: Target::Service("web".into()),
            transport: Transport::Tcp,
        },
        None,
    );
    assert!(matches!(missing, Err(Error::NotLoaded { .. })), "{missing:?}");
    let mut data_path = world.open();
    let server = TcpServer::start("127.0.0.1:0");
    let other = TcpServer::start("127.77.0.3:0");
    let at = other.address.to_string();
    let text = service("look", "127.77.0.1:80", "mode: observe,", &[server.address])
        + &service("try", &at, "mode: shadow,", &[server.address])
        + &service("empty", "127.77.0.4:80", "mode: shadow,", &[]);
    apply(&mut data_path, &text);

    let told = ask(&world, "look");
    assert_eq!((told.outcome.path, told.outcome.reason), ("observed", Some("mode-observe")));
    assert_eq!(told.service.as_ref().unwrap().mode, Mode::Observe);
    let told = ask(&world, "try").outcome;
    assert_eq!(
        (told.verdict, told.would, told.endpoint),
        (Verdict::AsDialled, Some(Verdict::Balanced), Some(server.address))
    );
    assert_eq!(dial(&at).unwrap().1, other.address, "shadow changes nothing");
    assert_eq!(ask(&world, "empty").outcome.would, Some(Verdict::Refused));

    let nobody = ask(&world, "127.77.0.1:81");
    assert_eq!((nobody.outcome.path, nobody.outcome.reason), ("none", Some("no-service")));
    assert!(found(&nobody, "service").contains("service look at port 80 over TCP"), "{:?}", nobody.steps);

    let outside = Question {
        cgroup: world.cgroup().parent().unwrap().to_owned(),
        pid: None,
        target: Target::Service("look".into()),
        transport: Transport::Tcp,
    };
    let told = explain(&world.options, &outside, None).unwrap();
    assert_eq!((told.outcome.path, told.outcome.reason), ("none", Some("caller-not-meshed")));
    assert!(found(&told, "caller").contains(&world.cgroup().display().to_string()), "{:?}", told.steps);
    let unknown = Question { target: Target::Service("lok".into()), ..outside };
    let error = explain(&world.options, &unknown, None).unwrap_err().to_string();
    assert!(error.contains("no service \"lok\""), "{error}");
}
