//! How endpoints are chosen, spared and given up, and how clients are kept within bounds.

mod world;

use std::collections::BTreeMap;
use std::io::{Read, Write};
use std::net::{SocketAddr, TcpListener};
use std::num::{NonZeroU8, NonZeroU16, NonZeroU32};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use alize_model::http::{
    Action, Backend, Budget, Circuit, FieldName, Forward, HashOn, Http, HttpBalance, LimitPer, Outlier, Pool,
    RateLimit, Retry, RetryCause, Route,
};
use world::{Client, Server, World, endpoint, free_port, service};

fn number(n: u32) -> NonZeroU32 {
    NonZeroU32::new(n).unwrap()
}

/// An endpoint that treats its `n`th connection, and the `m`th request on it, as `script` says.
fn scripted(
    script: impl Fn(usize, usize) -> Option<String> + Send + Sync + 'static,
) -> (SocketAddr, Arc<AtomicUsize>) {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap();
    let (script, requests) = (Arc::new(script), Arc::<AtomicUsize>::default());
    let seen = Arc::clone(&requests);
    std::thread::spawn(move || {
        for (connection, stream) in listener.incoming().enumerate() {
            let (mut stream, script, seen) = (stream.unwrap(), Arc::clone(&script), Arc::clone(&seen));
            std::thread::spawn(move || {
                for request in 0.. {
                    let Ok(1..) = stream.read(&mut [0; 65536]) else { return };
                    seen.fetch_add(1, Ordering::SeqCst);
                    let Some(answer) = script(connection, request) else { return };
                    stream.write_all(answer.as_bytes()).unwrap();
                }
            });
        }
    });
    (address, requests)
}

fn ok(text: &str) -> String {
    format!("HTTP/1.1 200 OK\r\nContent-Length: {}\r\n\r\n{text}", text.len())
}

fn shares(world: &World, requests: u32, path: impl Fn(u32) -> String) -> BTreeMap<String, u32> {
    let mut counts = BTreeMap::new();
    let mut client = world.connect();
    for request in 0..requests {
        let name = client.get(&path(request)).json()["name"].as_str().unwrap().to_owned();
        *counts.entry(name).or_default() += 1;
    }
    counts
}

#[test]
fn requests_are_balanced_by_weight_and_in_turn() {
    let servers: Vec<Server> = ["a", "b", "c"].iter().map(|name| Server::node(name, "http1")).collect();
    let endpoints = || {
        let weights = [1, 2, 3];
        servers
            .iter()
            .zip(weights)
            .map(|(server, weight)| endpoint(server.address, weight, &[]))
            .collect::<Vec<_>>()
    };
    let world =
        |balance| World::new(vec![service(1, "web", Http { balance, ..Http::default() }, endpoints())]);
    let counts = shares(&world(HttpBalance::RoundRobin), 60, |_| "/".into());
    assert_eq!(counts.values().copied().collect::<Vec<_>>(), [10, 20, 30]);
    for balance in [HttpBalance::WeightedRandom, HttpBalance::LeastRequests] {
        let counts = shares(&world(balance.clone()), 600, |_| "/".into());
        for (name, low, high) in [("a", 60, 160), ("b", 140, 265), ("c", 225, 385)] {
            assert!((low..high).contains(&counts[name]), "{balance:?}: {counts:?}");
        }
    }
}

#[test]
fn least_requests_spares_a_slow_endpoint() {
    let (slow, slow_requests) = scripted(|_, _| {
        std::thread::sleep(Duration::from_millis(300));
        Some(ok("slow"))
    });
    let (fast, fast_requests) = scripted(|_, _| Some(ok("fast")));
    let endpoints = vec![endpoint(slow, 1, &[]), endpoint(fast, 1, &[])];
    let world = World::new(vec![service(1, "web", Http::default(), endpoints)]);
    let door = world.door();
    let end = Instant::now() + Duration::from_secs(2);
    let clients: Vec<_> = (0..8)
        .map(|_| {
            std::thread::spawn(move || {
                let mut client = Client::connect(door);
                while Instant::now() < end {
                    assert_eq!(client.get("/").status, 200);
                }
            })
        })
        .collect();
    clients.into_iter().for_each(|client| client.join().unwrap());
    let (slow, fast) = (slow_requests.load(Ordering::SeqCst), fast_requests.load(Ordering::SeqCst));
    assert!(fast > slow * 4, "{fast} to the fast one, {slow} to the slow one");
}

#[test]
fn what_is_alike_goes_to_one_endpoint_and_little_moves() {
    let servers: Vec<Server> = ["a", "b", "c"].iter().map(|name| Server::node(name, "http1")).collect();
    let on = HashOn::Header(FieldName::new("x-user").unwrap());
    let http = || Http { balance: HttpBalance::ConsistentHash(on.clone()), ..Http::default() };
    let all = || servers.iter().map(|server| endpoint(server.address, 1, &[])).collect::<Vec<_>>();
    let mut world = World::new(vec![service(1, "web", http(), all())]);
    let ask = |world: &World| -> Vec<String> {
        let mut client = world.connect();
        (0..90)
            .map(|user| {
                let answer = client.ask(&format!("GET / HTTP/1.1\nHost: a\nX-User: u{user}\n\n"));
                answer.json()["name"].as_str().unwrap().to_owned()
            })
            .collect()
    };
    let first = ask(&world);
    assert_eq!(first, ask(&world));
    for name in ["a", "b", "c"] {
        assert!(first.iter().filter(|who| *who == name).count() >= 12, "{first:?}");
    }
    world.agent.state(vec![service(1, "web", http(), all()[..2].to_vec())]).unwrap();
    let fewer = ask(&world);
    assert!(
        first.iter().zip(&fewer).all(|(before, after)| before == "c" || before == after),
        "only those of c move"
    );
}

#[test]
fn a_limit_is_for_all_or_for_each_client() {
    let server = Server::node("a", "http1");
    let limit = |per| RateLimit { requests: number(1), burst: number(5), per };
    let limited =
        Route { rate_limit: Some(limit(LimitPer::All)), ..Route::to("limited", vec![Backend::all()]) };
    let http = Http { routes: vec![limited], ..Http::default() };
    let world = World::new(vec![
        service(1, "route", http, vec![endpoint(server.address, 1, &[])]),
        service(
            2,
            "client",
            Http { rate_limit: Some(limit(LimitPer::Client)), ..Http::default() },
            vec![endpoint(server.address, 1, &[])],
        ),
    ]);
    for door in &world.doors {
        let mut client = Client::connect(*door);
        let answers: Vec<_> = (0..30).map(|_| client.get("/bytes/1")).collect();
        let taken = answers.iter().filter(|answer| answer.status == 200).count();
        assert!((5..=7).contains(&taken), "{taken}");
        let refused = answers.iter().find(|answer| answer.status != 200).unwrap();
        assert_eq!((refused.status, refused.reason()), (429, "rate-limited".into()));
        assert_eq!(refused.header("retry-after").as_deref(), Some("1"));
    }
    let other = std::process::Command::new("curl")
        .args(["-s", "-o", "/dev/null", "-w", "%{http_code}", "--interface", "127.0.0.9"])
        .arg(format!("http://{}/", world.doors[1]))
        .output()
        .unwrap();
    assert_eq!(String::from_utf8(other.stdout).unwrap(), "200", "another client has its own");
}

#[test]
fn a_circuit_answers_at_once_what_would_be_too_much() {
    let (server, other) = (Server::node("a", "http1"), Server::node("b", "http1"));
    let circuit = Circuit { max_connections: None, max_pending: None, max_requests: Some(number(2)) };
    let http = Http { circuit: Some(circuit), ..Http::default() };
    let connections = Circuit { max_connections: Some(number(1)), max_pending: Some(0), max_requests: None };
    let world = World::new(vec![
        service(1, "requests", http, vec![endpoint(server.address, 1, &[])]),
        service(
            2,
            "connections",
            Http { circuit: Some(connections), ..Http::default() },
            vec![endpoint(other.address, 1, &[])],
        ),
    ]);
    for (door, running, reason) in
        [(world.doors[0], 2, "circuit-open"), (world.doors[1], 1, "pool-exhausted")]
    {
        let mut busy: Vec<Client> = (0..running).map(|_| Client::connect(door)).collect();
        for client in &mut busy {
            client.send("GET /delay/700 HTTP/1.1\r\nHost: a\r\n\r\n");
        }
        std::thread::sleep(Duration::from_millis(250));
        let began = Instant::now();
        let answer = Client::connect(door).get("/");
        assert_eq!((answer.status, answer.reason()), (503, reason.into()));
        assert!(began.elapsed() < Duration::from_millis(400), "not after the others");
        assert!(busy.iter_mut().all(|client| client.answer("GET").status == 200));
        assert_eq!(Client::connect(door).get("/").status, 200);
    }
}

#[test]
fn requests_wait_for_a_connection_where_they_may() {
    let server = Server::node("a", "http1");
    let pool = Pool { max: number(2), ..Pool::default() };
    let world = World::new(vec![service(
        1,
        "web",
        Http { pool, ..Http::default() },
        vec![endpoint(server.address, 1, &[])],
    )]);
    let mut clients: Vec<Client> = (0..10).map(|_| world.connect()).collect();
    for client in &mut clients {
        client.send("GET /delay/20 HTTP/1.1\r\nHost: a\r\n\r\n");
    }
    assert!(clients.iter_mut().all(|client| client.answer("GET").status == 200));
}

#[test]
fn endpoints_are_ejected_for_their_answers_and_come_back() {
    let well = Arc::new(AtomicUsize::new(0));
    let state = Arc::clone(&well);
    let (ill, asked) = scripted(move |_, _| {
        Some(match state.load(Ordering::SeqCst) {
            0 => "HTTP/1.1 503 Service Unavailable\r\nContent-Length: 0\r\n\r\n".to_owned(),
            _ => ok("ill"),
        })
    });
    let (good, _) = scripted(|_, _| Some(ok("good")));
    let outlier = Outlier {
        consecutive_5xx: NonZeroU16::new(3),
        consecutive_gateway_errors: None,
        consecutive_slow: None,
        base: Duration::from_secs(1),
        max: Duration::from_secs(5),
        max_ejected: 50,
    };
    let http = Http { outlier: Some(outlier), balance: HttpBalance::RoundRobin, ..Http::default() };
    let endpoints = vec![endpoint(ill, 1, &[]), endpoint(good, 1, &[])];
    let mut world = World::new(vec![service(1, "web", http, endpoints)]);
    let mut client = world.connect();
    let statuses: Vec<u16> = (0..40).map(|_| client.get("/").status).collect();
    assert_eq!(statuses.iter().filter(|status| **status == 503).count(), 3, "{statuses:?}");
    assert_eq!(asked.load(Ordering::SeqCst), 3);
    assert_eq!(world.agent.counters().anomalies["endpoint-ejected"], 1);
    well.store(1, Ordering::SeqCst);
    world::until("it comes back", || client.get("/").text() == "ill");
}

#[test]
fn a_connection_that_the_endpoint_closed_costs_no_request() {
    // Each connection takes one request and is closed without a word when the second comes.
    let (address, requests) = scripted(|_, request| (request == 0).then(|| ok("fine")));
    let mut world = World::new(vec![service(1, "web", Http::default(), vec![endpoint(address, 1, &[])])]);
    let mut client = world.connect();
    for _ in 0..10 {
        assert_eq!(client.get("/").text(), "fine");
    }
    assert!(requests.load(Ordering::SeqCst) > 10, "some were sent into the void, and again");
    assert!(world.agent.counters().services[0].retries >= 1);
    // What may have been processed is not sent again.
    let (address, requests) = scripted(|_, request| (request == 0).then(|| ok("fine")));
    let world = World::new(vec![service(1, "web", Http::default(), vec![endpoint(address, 1, &[])])]);
    let mut client = world.connect();
    let post = "POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 2\r\n\r\nhi";
    client.send(post);
    assert_eq!(client.answer("POST").status, 200);
    client.send(post);
    let answer = client.answer("POST");
    assert_eq!((answer.status, answer.reason()), (502, "endpoint-closed".into()));
    assert_eq!(requests.load(Ordering::SeqCst), 2, "not a third time");
}

#[test]
fn an_endpoint_that_is_gone_costs_no_request_where_another_is() {
    let gone = SocketAddr::from(([127, 0, 0, 1], free_port()));
    let (good, _) = scripted(|_, _| Some(ok("good")));
    let endpoints = vec![endpoint(gone, 1, &[]), endpoint(good, 1, &[])];
    let world = World::new(vec![service(1, "web", Http::default(), endpoints)]);
    let mut client = world.connect();
    for _ in 0..20 {
        client.send("POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 2\r\n\r\nhi");
        assert_eq!(
            client.answer("POST").text(),
            "good",
            "nothing was sent to the other, so it may be sent again"
        );
    }
}

fn retrying(attempts: u8, causes: Vec<RetryCause>, budget: Option<Budget>) -> Http {
    let retry = Retry {
        attempts: NonZeroU8::new(attempts).unwrap(),
        statuses: vec![503],
        causes,
        backoff: Duration::from_millis(1),
        max_backoff: Duration::from_millis(10),
        budget,
    };
    let forward = Forward { retry: Some(retry), ..Forward::to(vec![Backend::all()]) };
    let route = Route { action: Action::Forward(forward), ..Route::to("retry", vec![Backend::all()]) };
    Http { routes: vec![route], ..Http::default() }
}

#[test]
fn a_budget_keeps_tries_from_becoming_an_avalanche() {
    let ill =
        || scripted(|_, _| Some("HTTP/1.1 503 Service Unavailable\r\nContent-Length: 0\r\n\r\n".to_owned()));
    let ask = |http: Http| {
        let (address, requests) = ill();
        let world = World::new(vec![service(1, "web", http, vec![endpoint(address, 1, &[])])]);
        let mut client = world.connect();
        assert!((0..100).all(|_| client.get("/").status == 503));
        requests.load(Ordering::SeqCst)
    };
    assert_eq!(ask(retrying(3, vec![], None)), 400);
    let budget = Budget { percent: 20, min_per_second: 0 };
    assert_eq!(ask(retrying(3, vec![], Some(budget))), 120);
}

#[test]
fn a_long_body_is_not_remembered_for_another_try() {
    let (address, requests) = scripted(|_, request| (request > 0).then(|| ok("never")));
    let world = World::new(vec![service(
        1,
        "web",
        retrying(3, vec![RetryCause::Reset], None),
        vec![endpoint(address, 1, &[])],
    )]);
    let put = |size: usize| {
        let mut client = world.connect();
        let _ = client
            .stream
            .write_all(format!("PUT / HTTP/1.1\r\nHost: a\r\nContent-Length: {size}\r\n\r\n").as_bytes());
        let _ = client.stream.write_all(&vec![b'x'; size]);
        client.head().status
    };
    assert_eq!(put(1000), 502);
    assert_eq!(requests.load(Ordering::SeqCst), 4, "the first and three more");
    assert_eq!(put(200_000), 502);
    assert_eq!(requests.load(Ordering::SeqCst), 5, "once");
}

#[test]
fn silence_of_an_endpoint_has_an_end() {
    let (address, _) = scripted(|_, request| {
        std::thread::sleep(Duration::from_secs(3));
        (request > 0).then(|| ok("late"))
    });
    let pool = Pool { response_timeout: Some(Duration::from_millis(300)), ..Pool::default() };
    let server = Server::node("a", "http1");
    let http = || Http { pool, ..Http::default() };
    let world = World::new(vec![
        service(1, "mute", http(), vec![endpoint(address, 1, &[])]),
        service(2, "half", http(), vec![endpoint(server.address, 1, &[])]),
    ]);
    let answer = world.connect().get("/");
    assert_eq!((answer.status, answer.reason()), (504, "endpoint-silent".into()));
    // Within a body the only honest word left is to break off.
    let mut client = Client::connect(world.doors[1]);
    client.send("GET /slow-body/3000 HTTP/1.1\r\nHost: a\r\n\r\n");
    assert_eq!(client.head().status, 200);
    assert_eq!(client.take(5), b"first");
    let began = Instant::now();
    assert!(client.stream.read(&mut [0; 16]).is_err(), "reset, so that nobody takes it for complete");
    assert!(began.elapsed() < Duration::from_secs(2));
}

#[test]
fn an_endpoint_that_answers_early_loses_nothing() {
    let (address, _) = scripted(|_, request| {
        (request == 0).then(|| "HTTP/1.1 413 Content Too Large\r\nContent-Length: 4\r\n\r\nmuch".to_owned())
    });
    let world = World::new(vec![service(1, "web", Http::default(), vec![endpoint(address, 1, &[])])]);
    let mut client = world.connect();
    client.send("POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 100000000\r\n\r\n").send([b'x'; 1000]);
    let answer = client.answer("POST");
    assert_eq!((answer.status, answer.text()), (413, "much".into()));
    assert_eq!(world.connect().get("/").status, 413, "and its connection is not used again");
}
