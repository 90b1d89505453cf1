//! The control socket: states are taken whole or not at all, and what is counted is told.

mod world;

use alize_model::control::{FromProxy, ToProxy};
use alize_model::http::{Action, Backend, Forward, Http, Route, Target};
use alize_model::{Labels, ServiceName};
use world::{Agent, Server, World, endpoint, service};

#[test]
fn a_wrong_state_changes_nothing_and_says_why() {
    let server = Server::node("a", "http1");
    let good = || service(1, "web", Http::default(), vec![endpoint(server.address, 1, &[])]);
    let mut world = World::new(vec![good()]);
    let elsewhere = Target { service: Some(ServiceName::new("nowhere").unwrap()), labels: Labels::new() };
    let leading = Http {
        routes: vec![Route {
            action: Action::Forward(Forward::to(vec![Backend { target: elsewhere, weight: 1 }])),
            ..Route::to("lost", vec![Backend::all()])
        }],
        ..Http::default()
    };
    let mut twice = service(1, "other", Http::default(), Vec::new());
    let mut bare = good();
    let mut uneven = good();
    uneven.endpoints.clear();
    std::sync::Arc::make_mut(&mut bare.service).http = None;
    twice.number = 1;
    for (services, expected) in [
        (vec![good(), twice], "is there twice"),
        (
            vec![service(1, "web", leading, Vec::new())],
            "route \"lost\" of service web leads to service nowhere",
        ),
        (vec![bare], "service web has no routes"),
        (vec![uneven], "its endpoints and their states differ"),
    ] {
        let error = world.agent.state(services).unwrap_err();
        assert!(error.contains(expected) && error.contains("nothing has changed"), "{error}");
        assert_eq!(world.connect().get("/x").status, 200, "after {error}");
    }
    for line in ["", "{", "{\"kind\":\"nonsense\"}", "[1,2]", "{\"kind\":\"state\",\"generation\":1}"] {
        world.agent.say(line);
        match world.agent.hear() {
            FromProxy::Error { error } => assert!(error.contains("check that agent and proxy"), "{error}"),
            other => panic!("{other:?} to {line:?}"),
        }
    }
    assert!(
        matches!(world.agent.ask(&ToProxy::Handover), FromProxy::State { generation: 1 }),
        "still the first"
    );
}

#[test]
fn a_state_is_in_force_at_once_and_survives_the_agent() {
    let (one, two) = (Server::node("one", "http1"), Server::node("two", "http1"));
    let state =
        |server: &Server| vec![service(1, "web", Http::default(), vec![endpoint(server.address, 1, &[])])];
    let mut world = World::new(state(&one));
    let mut client = world.connect();
    assert_eq!(client.get("/").json()["name"], "one");
    world.agent.state(state(&two)).unwrap();
    assert_eq!(client.get("/").json()["name"], "two", "on the same connection");
    let mut next = Agent::connect(&world.folder);
    assert_eq!(client.get("/").json()["name"], "two");
    next.state(state(&one)).unwrap();
    assert_eq!(client.get("/").json()["name"], "one", "the newest agent counts");
}

#[test]
fn requests_are_counted_by_route_endpoint_status_and_time() {
    let server = Server::node("a", "http1");
    let routes = vec![Route::to("all", vec![Backend::all()])];
    let mut world = World::new(vec![service(
        1,
        "web",
        Http { routes, ..Http::default() },
        vec![endpoint(server.address, 1, &[])],
    )]);
    let mut client = world.connect();
    for _ in 0..10 {
        client.get("/bytes/1000");
    }
    client.get("/status/404");
    client.send("POST /hash HTTP/1.1\r\nHost: a\r\nContent-Length: 500\r\n\r\n").send([b'x'; 500]);
    client.answer("POST");
    let counters = world.agent.counters();
    assert_eq!((counters.accepted, counters.open, counters.idle), (1, 1, 1));
    let [service] = counters.services.as_slice() else { panic!("{counters:?}") };
    let [series] = service.requests.as_slice() else { panic!("{service:?}") };
    assert_eq!((series.route.as_deref(), series.endpoint), (Some("all"), Some(server.address)));
    assert_eq!(series.statuses, [0, 0, 11, 0, 1, 0]);
    assert_eq!(series.request_bytes, 500);
    assert!((10_000..11_000).contains(&series.response_bytes), "{series:?}");
    assert_eq!(series.buckets.values().sum::<u64>(), 12);
    assert!(series.latency_sum > 0.0);
    assert_eq!(service.reasons["not-taken"], 12);
}
