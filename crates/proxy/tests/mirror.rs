//! Copies of requests: what they look like on the wire, and that the requests themselves do not notice.

mod world;

use std::collections::BTreeMap;
use std::io::{Read, Write};
use std::net::{SocketAddr, TcpListener};
use std::sync::mpsc::{Receiver, channel};
use std::time::Duration;

use alize_model::http::Http;
use world::{Client, Server, World, copied, endpoint, free_port, service};

/// An endpoint that tells of each request as it is on the wire.
fn recorder() -> (SocketAddr, Receiver<String>) {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap();
    let (sender, receiver) = channel();
    std::thread::spawn(move || {
        for stream in listener.incoming() {
            let (mut stream, sender) = (stream.unwrap(), sender.clone());
            std::thread::spawn(move || {
                let mut text = String::new();
                let mut space = [0; 65536];
                while let Ok(read @ 1..) = stream.read(&mut space) {
                    text.push_str(std::str::from_utf8(&space[..read]).unwrap());
                    if is_whole(&text) {
                        let _ = sender.send(std::mem::take(&mut text));
                        stream.write_all(b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n").unwrap();
                    }
                }
            });
        }
    });
    (address, receiver)
}

fn is_whole(request: &str) -> bool {
    let Some((head, body)) = request.split_once("\r\n\r\n") else { return false };
    match head.split_once("Content-Length: ") {
        Some((_, length)) => body.len() >= length.lines().next().unwrap().parse().unwrap(),
        None => !head.contains("chunked") || body.ends_with("\r\n\r\n"),
    }
}

/// A service whose requests are copied to the endpoint at `to`.
fn mirrored(server: &Server, to: Option<SocketAddr>) -> World {
    let copies = to.map(|to| endpoint(to, 1, &[])).into_iter().collect();
    World::new(vec![
        service(1, "web", copied("copies"), vec![endpoint(server.address, 1, &[])]),
        service(2, "copies", Http::default(), copies),
    ])
}

/// Waits until as many copies are lost for each reason.
fn lost(world: &mut World, expected: &[(&str, u64)]) {
    let expected: BTreeMap<String, u64> =
        expected.iter().map(|(reason, count)| ((*reason).to_owned(), *count)).collect();
    world::until(&format!("{expected:?} are lost"), || {
        let counters = world.agent.counters();
        counters.services.iter().any(|service| service.lost_copies == expected)
    });
}

#[test]
fn a_body_is_copied_while_it_streams() {
    let server = Server::node("a", "http1");
    let (to, copies) = recorder();
    let mut world = mirrored(&server, Some(to));
    let copy = || copies.recv_timeout(world::PATIENCE).expect("a copy");
    let mut client = world.connect();
    client.send("POST /mirror HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n");
    assert_eq!(client.head().status, 200);
    assert_eq!(client.take(10), b"5\r\nhello\r\n", "the request itself does not wait for its end");
    assert!(copies.recv_timeout(Duration::from_millis(50)).is_err(), "its copy does");
    client.send("0\r\n\r\n");
    assert_eq!(client.take(5), b"0\r\n\r\n");
    let whole = copy();
    assert!(whole.starts_with("POST /mirror HTTP/1.1\r\n") && whole.ends_with("\r\n\r\nhello"), "{whole}");
    assert!(whole.contains("Content-Length: 5\r\n") && !whole.contains("Transfer-Encoding"), "{whole}");
    // On the same connection: the copy has read nothing of it.
    client.send("POST /hash HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nhi\r\n0\r\nX-Sum: 1\r\n\r\n");
    assert_eq!(client.answer("POST").status, 200);
    let whole = copy();
    assert!(whole.ends_with("2\r\nhi\r\n0\r\nX-Sum: 1\r\n\r\n"), "trailers come along: {whole}");
    for (length, expected) in [("Content-Length: 0", "Content-Length: 0\r\n\r\n"), ("X: 1", "X: 1\r\n\r\n")] {
        client.send(format!("PUT /hash HTTP/1.1\r\nHost: a\r\n{length}\r\n\r\n"));
        assert_eq!(client.answer("PUT").status, 200);
        let whole = copy();
        assert!(whole.ends_with(expected), "{whole}");
    }
    lost(&mut world, &[]);
}

#[test]
fn a_body_that_is_too_long_is_not_copied_and_that_is_counted() {
    let server = Server::node("a", "http1");
    let (to, copies) = recorder();
    let mut world = mirrored(&server, Some(to));
    let mut client = world.connect();
    for (size, is_copied) in [(65_536, true), (65_537, false)] {
        let body = "x".repeat(size);
        for framed in [
            format!("Content-Length: {size}\r\n\r\n{body}"),
            format!("Transfer-Encoding: chunked\r\n\r\n{size:x}\r\n{body}\r\n0\r\n\r\n"),
        ] {
            client.send(format!("POST /hash HTTP/1.1\r\nHost: a\r\n{framed}"));
            assert!(client.answer("POST").text().starts_with(&format!("{size} ")));
            match copies.recv_timeout(if is_copied { world::PATIENCE } else { Duration::from_millis(50) }) {
                Ok(copy) => assert!(is_copied && copy.contains("Content-Length: 65536\r\n")),
                Err(_) => assert!(!is_copied),
            }
        }
    }
    lost(&mut world, &[("large", 2)]);
    // One that ends before its body did.
    let mut client = world.connect();
    client.send("POST /hash HTTP/1.1\r\nHost: a\r\nContent-Length: 9\r\n\r\nhello");
    std::thread::sleep(Duration::from_millis(100));
    drop(client);
    lost(&mut world, &[("large", 2), ("unfinished", 1)]);
}

#[test]
fn a_copy_that_fails_fails_alone() {
    let server = Server::node("a", "http1");
    let nobody = SocketAddr::from(([127, 0, 0, 1], free_port()));
    for (to, reason) in [(Some(nobody), "failed"), (None, "no-endpoint")] {
        let mut world = mirrored(&server, to);
        let mut client: Client = world.connect();
        for _ in 0..2 {
            client.send(
                "POST /hash HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nhi\r\n0\r\n\r\n",
            );
            assert_eq!(client.answer("POST").status, 200);
        }
        lost(&mut world, &[(reason, 2)]);
    }
}
