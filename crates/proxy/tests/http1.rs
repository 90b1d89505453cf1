//! HTTP/1.1 in full, to the byte, with Node behind the proxy.

mod world;

use alize_model::http::{Action, Http, PathChange, Redirect, Route};
use world::{Client, Server, World, endpoint, memory, pattern, service};

fn plain() -> (World, Server) {
    let server = Server::node("a", "http1");
    let world = World::new(vec![service(1, "web", Http::default(), vec![endpoint(server.address, 1, &[])])]);
    (world, server)
}

#[test]
fn requests_follow_each_other_on_one_connection() {
    let (world, _server) = plain();
    let mut client = world.connect();
    for size in [0, 1, 100, 5_000, 70_000, 1_000_000] {
        let answer = client.get(&format!("/bytes/{size}"));
        assert_eq!((answer.status, answer.body), (200, pattern(size)));
        let answer = client.get(&format!("/chunked/{size}"));
        assert_eq!((answer.status, answer.body == pattern(size)), (200, true));
        assert!(answer.trailers.to_lowercase().starts_with("x-sum: "), "{answer:?}");
    }
    let asked = client.ask("GET /x?y=1 HTTP/1.1\nHost: web.test\nx-lower: 1\nX-Trace-ID: 2\nTE: trailers\nConnection: x-lower\n\n");
    let json = asked.json();
    assert_eq!(json["url"], "/x?y=1");
    assert_eq!(json["headers"]["host"], "web.test");
    assert!(json["headers"]["x-lower"].is_null(), "named by Connection: it ends here");
    assert!(json["raw"].as_array().unwrap().contains(&"X-Trace-ID".into()), "spelled as it was: {json}");
    assert_eq!(asked.header("x-name").as_deref(), Some("a"));
    assert!(asked.head.contains("X-Name: a") && asked.head.contains("x-secret: yes"), "{}", asked.head);
}

#[test]
fn bodies_of_requests_arrive_however_they_are_cut() {
    let (world, _server) = plain();
    let mut client = world.connect();
    let body = pattern(200_000);
    let expected = format!("{} {}\n", body.len(), sha256(&body));
    client
        .send(format!("POST /hash HTTP/1.1\r\nHost: a\r\nContent-Length: {}\r\n\r\n", body.len()))
        .send(&body);
    assert_eq!(client.answer("POST").text(), expected);
    client.send("POST /hash HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n");
    for piece in body.chunks(7_777) {
        client.send(format!("{:X};note=1\r\n", piece.len())).send(piece).send("\r\n");
    }
    client.send("0\r\nX-Check: yes\r\n\r\n");
    assert_eq!(client.answer("POST").text(), expected);
    client.send("POST /echo HTTP/1.1\r\nHost: a\r\nTrailer: x-check\r\nTransfer-Encoding: chunked\r\n\r\n1\r\na\r\n0\r\nX-Check: yes\r\n\r\n");
    assert_eq!(client.answer("POST").json()["trailers"]["x-check"], "yes");
    let request = b"POST /hash HTTP/1.1\r\nHost: a\r\nContent-Length: 5\r\n\r\nhello";
    for byte in request {
        client.send([*byte]);
    }
    assert_eq!(client.answer("POST").text(), format!("5 {}\n", sha256(b"hello")));
}

#[test]
fn pipelined_requests_are_answered_in_order() {
    let (world, _server) = plain();
    let mut client = world.connect();
    let mut all = String::new();
    for number in 0..50 {
        let wait = if number % 10 == 0 { 20 } else { 0 };
        all.push_str(&format!("GET /delay/{wait}?n={number} HTTP/1.1\r\nHost: a\r\n\r\n"));
    }
    client.send(all);
    for number in 0..50 {
        let url = client.answer("GET").json()["url"].as_str().unwrap().to_owned();
        assert!(url.ends_with(&format!("?n={number}")), "{url}");
    }
}

#[test]
fn responses_without_a_body_have_none() {
    let (world, _server) = plain();
    let mut client = world.connect();
    let answer = client.ask("HEAD /bytes/1000 HTTP/1.1\nHost: a\n\n");
    assert_eq!(answer.header("content-length").as_deref(), Some("1000"));
    assert_eq!(client.get("/status/204").status, 204);
    assert_eq!(client.get("/status/304").status, 304);
    assert_eq!(client.get("/status/404").text(), "a 404\n", "nothing is left over");
}

#[test]
fn what_comes_before_a_response_is_passed_on() {
    let (world, _server) = plain();
    let mut client = world.connect();
    client.send("POST /hash HTTP/1.1\r\nHost: a\r\nExpect: 100-continue\r\nContent-Length: 5\r\n\r\n");
    assert_eq!(client.head().status, 100, "by the endpoint, before a byte of the body");
    client.send("hello");
    assert_eq!(client.answer("POST").text(), format!("5 {}\n", sha256(b"hello")));
    client.send("GET /hints HTTP/1.1\r\nHost: a\r\n\r\n");
    let hints = client.head();
    assert_eq!((hints.status, hints.header("link").is_some()), (103, true));
    assert_eq!(client.answer("GET").status, 200);
}

#[test]
fn old_clients_and_endpoints_that_close_are_served() {
    let (world, _server) = plain();
    let mut client = world.connect();
    client.send("GET /chunked/30000 HTTP/1.0\r\n\r\n");
    let answer = client.answer("GET");
    assert_eq!(
        (answer.header("transfer-encoding"), answer.body == pattern(30_000)),
        (None, true),
        "ends with the connection"
    );
    let mut client = world.connect();
    let answer = client.ask("GET /bytes/5 HTTP/1.0\nConnection: keep-alive\n\n");
    assert_eq!(answer.header("connection").as_deref(), Some("keep-alive"));
    assert_eq!(client.get("/close").text(), "bye\n");
    assert_eq!(client.get("/close").text(), "bye\n", "the client's connection stays");
    let answer = client.ask("GET / HTTP/1.1\nHost: a\nConnection: close\n\n");
    assert_eq!(answer.header("connection").as_deref(), Some("close"));
    assert!(client.ended());
}

#[test]
fn upgrades_and_connect_become_tunnels_with_half_close() {
    let (world, _server) = plain();
    for opening in [
        "GET /chat HTTP/1.1\r\nHost: a\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\r\nearly",
        "CONNECT db.test:5432 HTTP/1.1\r\nHost: db.test:5432\r\n\r\nearly",
    ] {
        let mut client = world.connect();
        client.send(opening);
        let answer = client.head();
        if opening.starts_with("GET") {
            assert_eq!((answer.status, answer.header("upgrade").as_deref()), (101, Some("websocket")));
        } else {
            assert_eq!(answer.status, 200);
            assert_eq!(client.take(13), b"db.test:5432\n");
        }
        assert_eq!(client.take(5), b"early");
        let long = pattern(500_000);
        let mut writer = client.stream.try_clone().unwrap();
        let sent = long.clone();
        let sending = std::thread::spawn(move || {
            use std::io::Write;
            writer.write_all(&sent).unwrap();
            writer.shutdown(std::net::Shutdown::Write).unwrap();
        });
        assert!(client.rest() == long, "all of it came back after the client had ended its side");
        sending.join().unwrap();
    }
}

#[test]
fn large_bodies_stream_both_ways_at_once() {
    let (world, _server) = plain();
    let mut client = world.connect();
    let body = pattern(8_000_000);
    let mut writer = client.stream.try_clone().unwrap();
    let sent = body.clone();
    let sending = std::thread::spawn(move || {
        use std::io::Write;
        write!(writer, "POST /mirror HTTP/1.1\r\nHost: a\r\nContent-Length: {}\r\n\r\n", sent.len()).unwrap();
        writer.write_all(&sent).unwrap();
    });
    let answer = client.answer("POST");
    sending.join().unwrap();
    assert!(answer.body == body, "{} bytes", answer.body.len());
}

#[test]
fn a_client_that_goes_away_is_not_waited_for() {
    let (mut world, _server) = plain();
    let mut gone = world.connect();
    gone.send("GET /delay/600000 HTTP/1.1\r\nHost: a\r\n\r\n");
    let mut streaming = world.connect();
    streaming.send("GET /slow-body/600000 HTTP/1.1\r\nHost: a\r\n\r\n");
    assert_eq!(streaming.head().status, 200);
    let mut half = world.connect();
    half.send("GET /delay/1000?half HTTP/1.1\r\nHost: a\r\n\r\n");
    half.stream.shutdown(std::net::Shutdown::Write).unwrap();
    world::until("all are under way", || world.agent.counters().open == 3);
    for client in [&gone, &streaming] {
        rustix::net::sockopt::set_socket_linger(&client.stream, Some(std::time::Duration::ZERO)).unwrap();
    }
    drop((gone, streaming));
    assert_eq!(half.answer("GET").json()["url"], "/delay/1000?half", "one that only said its last word is");
    world::until("both are forgotten", || world.agent.counters().open == 0);
    let counters = &world.agent.counters().services[0];
    assert_eq!(counters.refused["client-gone"], 1);
    assert_eq!(counters.requests.iter().map(|series| series.statuses[0]).sum::<u64>(), 1);
}

#[test]
fn a_reader_that_stops_holds_nobody_up_and_little_memory() {
    let (world, _server) = plain();
    let before = memory(&world);
    let mut lazy: Vec<Client> = (0..20).map(|_| world.connect()).collect();
    for client in &mut lazy {
        client.send("GET /bytes/30000000 HTTP/1.1\r\nHost: a\r\n\r\n");
    }
    std::thread::sleep(std::time::Duration::from_secs(1));
    assert_eq!(world.connect().get("/bytes/10").status, 200);
    let grown = memory(&world).saturating_sub(before);
    assert!(grown < 20 * 400, "{grown} kB for 20 readers that do not read 30 MB");
}

fn sha256(bytes: &[u8]) -> String {
    use std::io::Write;
    let mut child = std::process::Command::new("sha256sum")
        .stdin(std::process::Stdio::piped())
        .stdout(std::process::Stdio::piped())
        .spawn()
        .unwrap();
    child.stdin.take().unwrap().write_all(bytes).unwrap();
    let output = child.wait_with_output().unwrap();
    String::from_utf8(output.stdout).unwrap().split(' ').next().unwrap().to_owned()
}

#[test]
fn a_service_that_was_removed_ends_its_connections_in_order() {
    let (mut world, server) = plain();
    let web = || service(1, "web", Http::default(), vec![endpoint(server.address, 1, &[])]);
    let (mut running, mut idle) = (world.connect(), world.connect());
    assert_eq!(idle.get("/").status, 200);
    running.send("GET /delay/500 HTTP/1.1\r\nHost: a\r\n\r\n");
    world::until("it runs", || world.agent.counters().accepted == 2);
    std::thread::sleep(std::time::Duration::from_millis(100));
    world.agent.state(Vec::new()).unwrap();
    let refused = idle.get("/");
    assert_eq!((refused.status, refused.reason()), (503, "no-service".into()));
    assert_eq!(refused.header("connection").as_deref(), Some("close"));
    assert!(idle.ended(), "so that the client dials anew");
    assert_eq!(running.answer("GET").status, 200, "what runs is finished");
    assert_eq!(running.get("/").header("connection").as_deref(), Some("close"));
    world.agent.state(vec![web()]).unwrap();
    assert_eq!(world.connect().get("/").status, 200);
}

#[test]
fn a_client_that_names_no_host_is_redirected_to_a_path() {
    let to = |path, name: &str| {
        let redirect = Redirect { scheme: None, host: None, port: None, path, status: 302 };
        let routes = vec![Route { action: Action::Redirect(redirect), ..Route::to(name, Vec::new()) }];
        Http { routes, ..Http::default() }
    };
    let world = World::new(vec![
        service(1, "new", to(Some(PathChange::Full("/new".into())), "new"), Vec::new()),
        service(2, "same", to(None, "same"), Vec::new()),
    ]);
    for (door, asked, told) in
        [(0, "/old?a=b", "/new?a=b"), (1, "/same", "/same"), (1, "//evil.example/x", "/.//evil.example/x")]
    {
        let answer = Client::connect(world.doors[door]).ask(&format!("GET {asked} HTTP/1.0\n\n"));
        assert_eq!((answer.status, answer.header("location").as_deref()), (302, Some(told)));
    }
}
