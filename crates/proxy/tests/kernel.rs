//! Requests routed by the kernel beside the proxy: the whole of the HTTP path, with real servers and clients, in a cgroup of
//! its own. Needs root; traffic stays on loopback.
#![allow(clippy::print_stdout, reason = "a test tells what it measured")]

mod mesh;

use std::io::{Read, Write};
use std::net::TcpStream;
use std::thread;
use std::time::{Duration, Instant};

use mesh::{Client, Mesh, Place, get};

/// With the server where the kernel hands requests straight to it, and where they go out by TCP as to another host.
macro_rules! here_and_elsewhere {
    ($($name:ident),+ $(,)?) => {
        mod here {
            $(#[test] fn $name() { super::$name(super::Place::Here); })+
        }
        mod elsewhere {
            $(#[test] fn $name() { super::$name(super::Place::Elsewhere); })+
        }
    };
}

here_and_elsewhere!(
    most_requests_never_reach_the_proxy,
    what_the_kernel_does_not_take_is_served_all_the_same,
    large_and_endless_responses_are_carried,
    who_asks_and_does_not_read_holds_one_response,
    nobody_hears_what_was_meant_for_another,
    an_endpoint_that_dies_is_told_of,
    what_is_no_response_is_told_of_at_once,
    half_a_response_ends_at_once,
    what_comes_before_a_response_passes,
    a_thousand_connections_at_once,
    a_client_that_sends_no_more_still_hears,
    a_body_whose_end_does_not_come_hurts_nobody,
    bytes_beyond_a_body_end_the_connection,
    a_server_that_closes_often_confuses_nobody,
    nothing_ambiguous_reaches_an_endpoint,
    a_service_that_was_removed_ends_its_connections_in_order,
);

fn most_requests_never_reach_the_proxy(place: Place) {
    let mesh = Mesh::placed(place, "most", "");
    let mut client = Client::connect(&mesh);
    for turn in 0..500 {
        assert_eq!(client.ask(&get(&format!("/turn/{turn}"))).body, format!("one /turn/{turn} 0").as_bytes());
    }
    let counts = mesh.counts();
    println!("{counts:?}");
    assert_eq!(counts.total(), 500);
    assert!(counts.kernel >= 450, "the first warm the pool, the rest are the kernel's: {counts:?}");
}

fn what_the_kernel_does_not_take_is_served_all_the_same(place: Place) {
    let mesh = Mesh::placed(place, "mixed", "");
    let mut client = Client::connect(&mesh);
    for turn in 0..40 {
        let plain = client.ask(&get("/a"));
        assert_eq!(plain.body, b"one /a 0");
        // In pieces, in chunks, with a query that holds an escape, in HTTP/1.0 style, pipelined.
        match turn % 4 {
            0 => {
                let request = get("/split");
                let (first, second) = request.split_at(1 + turn % 30);
                client.send(first);
                thread::sleep(Duration::from_millis(2));
                client.send(second);
                assert_eq!(client.hear().body, b"one /split 0");
            }
            1 => {
                client.send("POST /chunks HTTP/1.1\r\nHost: web\r\nTransfer-Encoding: chunked\r\n\r\n");
                client.send("5\r\nhello\r\n0\r\n\r\n");
                assert_eq!(client.hear().body, b"one /chunks 5");
            }
            2 => {
                client.send(&(get("/p1") + &get("/p2") + &get("/p3")));
                for path in ["/p1", "/p2", "/p3"] {
                    assert_eq!(client.hear().body, format!("one {path} 0").as_bytes());
                }
            }
            _ => {
                // Who does not wait for a response stays with the proxy (docs/adr/0009).
                let mut impatient = Client::connect(&mesh);
                for _ in 0..5 {
                    impatient.send(&get("/q1"));
                    impatient.send(&get("/q2"));
                    assert_eq!(impatient.hear().body, b"one /q1 0");
                    assert_eq!(impatient.hear().body, b"one /q2 0");
                }
            }
        }
    }
    let counts = mesh.counts();
    println!("{counts:?}");
    assert!(counts.kernel > 20, "the connection comes back to the kernel: {counts:?}");
}

fn large_and_endless_responses_are_carried(place: Place) {
    let mesh = Mesh::placed(place, "carried", "");
    let mut client = Client::connect(&mesh);
    let sizes = [65_000, 70_000, 1_000_000, 5_000_000];
    for turn in 0..32 {
        assert_eq!(client.ask(&get("/a")).body, b"one /a 0");
        let size = sizes[turn % 4];
        let large = client.ask(&get(&format!("/size/{size}")));
        assert_eq!(large.body.len(), size);
        assert!(large.body.iter().all(|&byte| byte == b'x'));
        assert_eq!(client.ask(&get("/chunked/5")).body, b"chunk0chunk1chunk2chunk3chunk4");
        client.send("HEAD /size/1000000 HTTP/1.1\r\nHost: web\r\n\r\n");
        assert_eq!(client.hear_head().status, 200);
    }
    let counts = mesh.counts();
    println!("{counts:?}");
    // Here two large ones of three fit into the queue of a client that reads; from elsewhere none does.
    let (kernel, carried) = if place == Place::Here { (60, 1..=8) } else { (40, 17..=24) };
    assert!(counts.kernel >= kernel, "{counts:?}");
    assert!(carried.contains(&counts.reason("large")), "{counts:?}");
    assert!(counts.reason("response-unframed") >= 20, "{counts:?}");
}

/// What goes from socket to socket is bounded by no receive buffer: a second response may only follow when the first is read.
fn who_asks_and_does_not_read_holds_one_response(place: Place) {
    let mesh = Mesh::placed(place, "unread", "");
    let mut client = Client::connect(&mesh);
    (0..20).for_each(|_| drop(client.ask(&get("/a"))));
    let before = mesh.counts();
    for _ in 0..200 {
        client.send(&get("/size/60000"));
        thread::sleep(Duration::from_millis(2));
    }
    let after = mesh.counts();
    println!("{after:?}");
    assert!(after.kernel - before.kernel <= 1, "{before:?} {after:?}");
    for turn in 0..200 {
        let large = client.hear();
        assert!(large.body.len() == 60_000 && large.body.iter().all(|&byte| byte == b'x'), "turn {turn}");
    }
    assert_eq!(client.ask(&get("/b")).body, b"one /b 0");
    drop(client);
    mesh.settles();
}

fn nobody_hears_what_was_meant_for_another(place: Place) {
    let mesh = Mesh::placed(place, "nonce", "");
    thread::scope(|scope| {
        for client in 0..8 {
            let address = mesh.address();
            scope.spawn(move || {
                let mut random = fastrand::Rng::with_seed(client);
                for connection in 0..25 {
                    let mut stream = Client::to(address);
                    for turn in 0..random.usize(1..30) {
                        let nonce = format!("/n/{client}/{connection}/{turn}");
                        // Some vanish before their response has come.
                        if random.u8(..) < 12 {
                            stream.send(&get(&nonce));
                            break;
                        }
                        assert_eq!(stream.ask(&get(&nonce)).body, format!("one {nonce} 0").as_bytes());
                    }
                }
            });
        }
    });
    let counts = mesh.counts();
    println!("{counts:?}");
    assert!(counts.kernel > 1000, "{counts:?}");
    mesh.settles();
}

fn an_endpoint_that_dies_is_told_of(place: Place) {
    let mesh = Mesh::placed(place, "dies", "");
    let mut client = Client::connect(&mesh);
    for _ in 0..20 {
        assert_eq!(client.ask(&get("/a")).body, b"one /a 0");
    }
    // The server closes in the middle: before a byte, and after half of the response.
    client.send(&get("/die/0"));
    let told = client.hear();
    assert_eq!((told.status, told.header("x-alize-reason")), (502, Some("endpoint-closed")));
    let mut client = Client::connect(&mesh);
    for _ in 0..20 {
        assert_eq!(client.ask(&get("/a")).body, b"one /a 0");
    }
    client.send(&get("/die/500"));
    let mut text = Vec::new();
    let ended = client.stream().read_to_end(&mut text);
    assert!(ended.is_err() || text.len() < 600, "half a response is never made to look whole");
    mesh.settles();
}

/// The quickest of a few turns: a busy machine is slow now and then, and a wait is there always.
fn quickest(mut turn: impl FnMut() -> Duration) -> Duration {
    (0..5).map(|_| turn()).min().expect("there are some")
}

/// No wait is as short.
const AT_ONCE: Duration = Duration::from_millis(30);

/// The slot of a response that was carried is given back a moment after its last byte: who asks earlier asks the proxy.
const SETTLED: Duration = Duration::from_millis(20);

fn what_is_no_response_is_told_of_at_once(place: Place) {
    let mesh = Mesh::placed(place, "bad", "");
    let mut client = Client::connect(&mesh);
    let mut asked = 0;
    let mut ask = |client: &mut Client, path: &str| {
        asked += 1;
        client.ask(&get(path))
    };
    (0..20).for_each(|_| drop(ask(&mut client, "/a")));
    for (number, text) in mesh::bad().iter().enumerate() {
        let took = quickest(|| {
            let started = Instant::now();
            let told = ask(&mut client, &format!("/bad/{number}"));
            let took = started.elapsed();
            let reason = (told.status, told.header("x-alize-reason"));
            assert_eq!(reason, (502, Some("bad-response")), "{text:?}");
            thread::sleep(SETTLED);
            assert_eq!(ask(&mut client, "/a").body, b"one /a 0", "the connection goes on");
            took
        });
        println!("{number}: {took:?}");
        assert!(took < AT_ONCE, "{text:?} took {took:?}");
    }
    let counts = mesh.counts();
    println!("{counts:?}");
    assert_eq!(counts.total(), asked, "each is counted once");
    // Some find no connection to the endpoint, for each of these costs one.
    let reasons = ["split-head", "response-status", "content-length", "response-unframed", "too-many-fields"];
    for reason in reasons {
        assert!(counts.reason(reason) > 0, "the kernel has routed such: {counts:?}");
    }
    let refused =
        mesh.handle.counters().services.iter().map(|service| service.refused["bad-response"]).sum::<u64>();
    assert_eq!(refused, 5 * mesh::bad().len() as u64);
    // Of a request that is not sent whole: what still comes of it is no other one.
    client.send("POST /early/bad HTTP/1.1\r\nHost: web\r\nContent-Length: 10\r\n\r\nbegin");
    let told = client.hear();
    assert_eq!((told.status, told.header("connection")), (502, Some("close")));
    assert_eq!(mesh::again(|| client.stream().read(&mut [0; 1])).unwrap(), 0);
    drop(client);
    mesh.settles();
}

fn half_a_response_ends_at_once(place: Place) {
    let mesh = Mesh::placed(place, "torn", "");
    // The first half is the proxy's, the kernel's.
    for path in ["/torn", "/die/500"] {
        let took = quickest(|| {
            let mut client = Client::connect(&mesh);
            (0..5).for_each(|_| drop(client.ask(&get("/a"))));
            let started = Instant::now();
            client.send(&get(path));
            let mut text = Vec::new();
            mesh::again(|| client.stream().read_to_end(&mut text))
                .expect_err("it is never made to look whole");
            started.elapsed()
        });
        println!("{path}: {took:?}");
        assert!(took < AT_ONCE, "{path} took {took:?}");
    }
    mesh.settles();
}

fn what_comes_before_a_response_passes(place: Place) {
    let mesh = Mesh::placed(place, "interim", "");
    let mut client = Client::connect(&mesh);
    (0..20).for_each(|_| drop(client.ask(&get("/a"))));
    let before = mesh.counts();
    for status in [103, 100, 199] {
        client.send(&get(&format!("/interim/{status}/200")));
        let started = Instant::now();
        let hint = client.hear_head();
        assert_eq!((hint.status, hint.header("link")), (status, Some("</a.css>")));
        assert!(started.elapsed() < Duration::from_millis(200), "it comes before the response");
        assert_eq!(client.hear().body, b"last");
        thread::sleep(SETTLED);
        assert_eq!(client.ask(&get("/a")).body, b"one /a 0");
    }
    let after = mesh.counts();
    println!("{after:?}");
    assert_eq!(after.kernel - before.kernel, 3, "what follows is the kernel's again");
    assert_eq!(after.reason("response-status") - before.reason("response-status"), 3);
    drop(client);
    mesh.settles();
}

fn a_thousand_connections_at_once(place: Place) {
    let mesh = Mesh::placed(place, "thousand", "");
    let mut clients: Vec<Client> = (0..1000).map(|_| Client::connect(&mesh)).collect();
    for round in 0..5 {
        for client in &mut clients {
            client.send(&get(&format!("/r/{round}")));
        }
        for client in &mut clients {
            assert_eq!(client.hear().body, format!("one /r/{round} 0").as_bytes());
        }
    }
    let counts = mesh.counts();
    println!("{counts:?}");
    assert_eq!(counts.total(), 5000);
    drop(clients);
    mesh.settles();
}

fn a_client_that_sends_no_more_still_hears(place: Place) {
    let mesh = Mesh::placed(place, "half", "");
    for turn in 0..20 {
        let mut client = Client::connect(&mesh);
        client.ask(&get("/a"));
        client.send(&get("/slow/20"));
        client.stream().shutdown(std::net::Shutdown::Write).unwrap();
        assert_eq!(client.hear().body, b"one /slow/20 0", "turn {turn}");
        let mut rest = [0; 1];
        assert_eq!(mesh::again(|| client.stream().read(&mut rest)).unwrap(), 0);
    }
}

fn a_body_whose_end_does_not_come_hurts_nobody(place: Place) {
    let mesh = Mesh::placed(place, "body", "");
    let mut other = Client::connect(&mesh);
    let mut stuck = Vec::new();
    for _ in 0..20 {
        let mut client = Client::connect(&mesh);
        client.ask(&get("/a"));
        client.send("POST /in HTTP/1.1\r\nHost: web\r\nContent-Length: 100\r\n\r\nbegin");
        stuck.push(client);
    }
    for _ in 0..100 {
        assert_eq!(other.ask(&get("/b")).body, b"one /b 0");
    }
    for client in &mut stuck[..10] {
        client.send(&"x".repeat(95));
        assert_eq!(client.hear().body, b"one /in 100");
    }
    drop(stuck);
    mesh.settles();
    // The response is there before all of the request, and then the client is gone.
    for _ in 0..10 {
        let mut client = Client::connect(&mesh);
        client.ask(&get("/a"));
        client.send("POST /early HTTP/1.1\r\nHost: web\r\nContent-Length: 100\r\n\r\nbegin");
        assert_eq!(client.hear().body, b"early");
    }
    mesh.settles();
}

fn bytes_beyond_a_body_end_the_connection(place: Place) {
    let mesh = Mesh::placed(place, "beyond", "");
    let mut client = Client::connect(&mesh);
    for _ in 0..20 {
        client.ask(&get("/a"));
    }
    client.send("POST /in HTTP/1.1\r\nHost: web\r\nContent-Length: 10\r\n\r\nbegin");
    // The rest of the body and another request at once: the kernel cannot cut a message in two.
    client.send(&format!("12345{}", get("/smuggled")));
    let mut text = Vec::new();
    let _ = client.stream().read_to_end(&mut text);
    assert!(!String::from_utf8_lossy(&text).contains("smuggled"), "{}", String::from_utf8_lossy(&text));
    mesh.settles();
}

/// Requests take connections that are closed at the same moment: each is served once, and nobody is told otherwise.
fn a_server_that_closes_often_confuses_nobody(place: Place) {
    let mesh = Mesh::placed(place, "closes", "");
    thread::scope(|scope| {
        for client in 0..8 {
            let address = mesh.address();
            scope.spawn(move || {
                let mut random = fastrand::Rng::with_seed(client);
                let connect = || {
                    let mut stream = Client::to(address);
                    stream.stream().set_read_timeout(Some(Duration::from_secs(20))).unwrap();
                    stream
                };
                let mut stream = connect();
                for turn in 0..150 {
                    let nonce = format!("/close/{client}/{turn}");
                    match random.u8(..3) {
                        0 => {
                            stream.send(&get(&nonce));
                            assert_eq!(stream.hear_to_the_end(), format!("one {nonce}").as_bytes());
                            stream = connect();
                        }
                        1 => assert_eq!(stream.ask(&get("/chunked/2")).body, b"chunk0chunk1"),
                        _ => {
                            let nonce = format!("/n/{client}/{turn}");
                            assert_eq!(stream.ask(&get(&nonce)).body, format!("one {nonce} 0").as_bytes());
                        }
                    }
                }
            });
        }
    });
    let counts = mesh.counts();
    println!("{counts:?}");
    mesh.settles();
}

/// Bytes as they are, so that no library mends them.
fn raw(mesh: &Mesh, bytes: &[u8]) -> Vec<u8> {
    let mut stream = TcpStream::connect(mesh.address()).unwrap();
    stream.set_read_timeout(Some(Duration::from_millis(500))).unwrap();
    stream.write_all(bytes).unwrap();
    let mut text = Vec::new();
    let mut part = [0; 4096];
    while let Ok(read @ 1..) = stream.read(&mut part) {
        text.extend_from_slice(&part[..read]);
    }
    text
}

fn nothing_ambiguous_reaches_an_endpoint(place: Place) {
    let mesh = Mesh::placed(place, "smuggle", "");
    let mut warm = Client::connect(&mesh);
    for _ in 0..50 {
        warm.ask(&get("/a"));
    }
    let corpus = [
        "GET / HTTP/1.1\r\nHost: a\r\nContent-Length: 5\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\nGET /x HTTP/1.1\r\nHost: a\r\n\r\n",
        "POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 5\r\nContent-Length: 6\r\n\r\nhello!",
        "POST / HTTP/1.1\r\nHost: a\r\nContent-Length: +5\r\n\r\nhello",
        "POST / HTTP/1.1\r\nHost: a\r\nContent-Length : 5\r\n\r\nhello",
        "GET / HTTP/1.1\r\nHost: a\r\nHost: b\r\n\r\n",
        "GET / HTTP/1.1\r\nHost: a\r\n folded: x\r\n\r\n",
        "GET / HTTP/1.1\nHost: a\n\n",
        "GET / HTTP/1.1\r\nHost: a\r\nX: a\rb\r\n\r\n",
        "GET / HTTP/1.1\r\nHost: a\r\nX: a\0b\r\n\r\n",
        "GET /a b HTTP/1.1\r\nHost: a\r\n\r\n",
        "GET / HTTP/1.1\r\n\r\n",
        "GET / HTTP/1.2\r\nHost: a\r\n\r\n",
        "POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked, identity\r\n\r\n0\r\n\r\n",
        "POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding:\tchunked\r\nTransfer-Encoding: x\r\n\r\n0\r\n\r\n",
    ];
    let before = mesh.served();
    for text in corpus {
        let answer = raw(&mesh, text.as_bytes());
        let answer = String::from_utf8_lossy(&answer);
        assert!(
            answer.is_empty() || answer.starts_with("HTTP/1.1 4") || answer.starts_with("HTTP/1.1 5"),
            "{text:?}: {answer}"
        );
    }
    assert_eq!(mesh.served(), before, "none of it was served");
}

fn a_service_that_was_removed_ends_its_connections_in_order(place: Place) {
    let mut mesh = Mesh::placed(place, "removed", "");
    let mut clients: Vec<Client> = (0..2).map(|_| Client::connect(&mesh)).collect();
    for client in &mut clients {
        (0..20).for_each(|_| assert_eq!(client.ask(&get("/a")).body, b"one /a 0"));
    }
    assert!(mesh.counts().kernel > 20, "{:?}", mesh.counts());
    mesh.remove();
    let told = clients[0].ask(&get("/a"));
    let headers = (told.header("x-alize-reason"), told.header("connection"));
    assert_eq!((told.status, headers), (503, (Some("no-service"), Some("close"))));
    assert_eq!(
        mesh::again(|| clients[0].stream().read(&mut [0])).unwrap(),
        0,
        "so that the client dials anew"
    );
    mesh.put_back();
    clients[0] = Client::connect(&mesh);
    for client in &mut clients {
        // Who has not asked meanwhile has noticed nothing: the service came back before it was forgotten.
        (0..20).for_each(|_| assert_eq!(client.ask(&get("/a")).body, b"one /a 0"));
    }
    drop(clients);
    mesh.settles();
}
