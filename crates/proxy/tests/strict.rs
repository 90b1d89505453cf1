//! Requests that could be read in two ways: none reaches an endpoint, each is answered with its reason.

mod world;

use std::io::{Read, Write};
use std::net::TcpListener;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use alize_model::http::Http;
use world::{Client, World, endpoint, service};

/// An endpoint that counts every byte it is sent, and answers each connection's first bytes with 200.
fn witness() -> (std::net::SocketAddr, Arc<AtomicUsize>) {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap();
    let bytes = Arc::new(AtomicUsize::new(0));
    let seen = Arc::clone(&bytes);
    std::thread::spawn(move || {
        for stream in listener.incoming() {
            let (mut stream, seen) = (stream.unwrap(), Arc::clone(&seen));
            std::thread::spawn(move || {
                let mut space = [0; 4096];
                while let Ok(read @ 1..) = stream.read(&mut space) {
                    seen.fetch_add(read, Ordering::SeqCst);
                    let _ = stream.write_all(b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok");
                }
            });
        }
    });
    (address, bytes)
}

/// What is wrong, status, reason, bytes. `~` is CR LF.
const CORPUS: &[(&str, u16, &str, &str)] = &[
    (
        "CL.TE",
        400,
        "ambiguous-length",
        "POST / HTTP/1.1~Host: a~Content-Length: 6~Transfer-Encoding: chunked~~0~~G",
    ),
    (
        "TE.CL",
        400,
        "ambiguous-length",
        "POST / HTTP/1.1~Host: a~Transfer-Encoding: chunked~Content-Length: 4~~5c~GPOST",
    ),
    (
        "TE.TE twice",
        400,
        "ambiguous-length",
        "POST / HTTP/1.1~Host: a~Transfer-Encoding: chunked~Transfer-Encoding: x~~0~~",
    ),
    ("TE list", 400, "ambiguous-length", "POST / HTTP/1.1~Host: a~Transfer-Encoding: gzip, chunked~~0~~"),
    (
        "TE identity list",
        400,
        "ambiguous-length",
        "POST / HTTP/1.1~Host: a~Transfer-Encoding: chunked, identity~~0~~",
    ),
    ("TE quoted", 400, "ambiguous-length", "POST / HTTP/1.1~Host: a~Transfer-Encoding: \"chunked\"~~0~~"),
    (
        "TE vertical tab",
        400,
        "bad-request-line",
        "POST / HTTP/1.1~Host: a~Transfer-Encoding: \x0bchunked~~0~~",
    ),
    ("TE unknown", 501, "bad-coding", "POST / HTTP/1.1~Host: a~Transfer-Encoding: xchunked~~0~~"),
    ("TE empty", 400, "ambiguous-length", "POST / HTTP/1.1~Host: a~Transfer-Encoding:~~0~~"),
    ("TE space before colon", 400, "bad-field", "POST / HTTP/1.1~Host: a~Transfer-Encoding : chunked~~0~~"),
    ("TE folded", 400, "bad-field", "POST / HTTP/1.1~Host: a~Transfer-Encoding:~ chunked~~0~~"),
    ("TE in 1.0", 400, "ambiguous-length", "POST / HTTP/1.0~Host: a~Transfer-Encoding: chunked~~0~~"),
    (
        "two lengths",
        400,
        "ambiguous-length",
        "POST / HTTP/1.1~Host: a~Content-Length: 1~Content-Length: 2~~ab",
    ),
    (
        "the same length twice",
        400,
        "ambiguous-length",
        "POST / HTTP/1.1~Host: a~Content-Length: 1~Content-Length: 1~~a",
    ),
    ("length list", 400, "ambiguous-length", "POST / HTTP/1.1~Host: a~Content-Length: 1, 1~~a"),
    ("length plus", 400, "ambiguous-length", "POST / HTTP/1.1~Host: a~Content-Length: +1~~a"),
    ("length minus", 400, "ambiguous-length", "POST / HTTP/1.1~Host: a~Content-Length: -1~~a"),
    ("length hexadecimal", 400, "ambiguous-length", "POST / HTTP/1.1~Host: a~Content-Length: 0x1~~a"),
    (
        "length too large",
        400,
        "ambiguous-length",
        "POST / HTTP/1.1~Host: a~Content-Length: 99999999999999999999~~a",
    ),
    ("length empty", 400, "ambiguous-length", "POST / HTTP/1.1~Host: a~Content-Length:~~a"),
    ("length with a space", 400, "ambiguous-length", "POST / HTTP/1.1~Host: a~Content-Length: 1 1~~a"),
    ("length space before colon", 400, "bad-field", "POST / HTTP/1.1~Host: a~Content-Length : 1~~a"),
    ("no host", 400, "bad-host", "GET / HTTP/1.1~~"),
    ("two hosts", 400, "bad-host", "GET / HTTP/1.1~Host: a~Host: b~~"),
    ("the same host twice", 400, "bad-host", "GET / HTTP/1.1~Host: a~Host: a~~"),
    ("host with a path", 400, "bad-host", "GET / HTTP/1.1~Host: a/b~~"),
    ("host with a user", 400, "bad-host", "GET / HTTP/1.1~Host: a@b~~"),
    ("host list", 400, "bad-host", "GET / HTTP/1.1~Host: a, b~~"),
    ("host with a space", 400, "bad-host", "GET / HTTP/1.1~Host: a b~~"),
    ("absolute form, other host", 400, "bad-host", "GET http://b/ HTTP/1.1~Host: a~~"),
    ("absolute form, other scheme", 400, "bad-target", "GET ftp://a/ HTTP/1.1~Host: a~~"),
    ("absolute form with a user", 400, "bad-target", "GET http://u@a/ HTTP/1.1~Host: a~~"),
    ("bare LF in the head", 400, "bad-request-line", "GET / HTTP/1.1~Host: a\nX: b~~"),
    ("bare LF at the end", 400, "bad-request-line", "GET / HTTP/1.1\nHost: a\n\n"),
    ("bare CR", 400, "bad-request-line", "GET / HTTP/1.1~Host: a~X: b\rc~~"),
    ("NUL in a value", 400, "bad-request-line", "GET / HTTP/1.1~Host: a~X: b\0c~~"),
    ("NUL in a name", 400, "bad-request-line", "GET / HTTP/1.1~Host: a~X\0: b~~"),
    ("folded field", 400, "bad-field", "GET / HTTP/1.1~Host: a~X: b~ c~~"),
    ("field without a name", 400, "bad-field", "GET / HTTP/1.1~Host: a~: b~~"),
    ("field without a colon", 400, "bad-field", "GET / HTTP/1.1~Host: a~nothing~~"),
    ("space before the first field", 400, "bad-field", "GET / HTTP/1.1~ Host: a~Host: a~~"),
    ("two spaces", 400, "bad-request-line", "GET  / HTTP/1.1~Host: a~~"),
    ("space in the target", 400, "bad-request-line", "GET /a b HTTP/1.1~Host: a~~"),
    ("tab in the request line", 400, "bad-request-line", "GET\t/ HTTP/1.1~Host: a~~"),
    ("space at the end", 400, "bad-request-line", "GET / HTTP/1.1 ~Host: a~~"),
    ("no version", 400, "bad-request-line", "GET /~~"),
    ("version 2.0", 505, "bad-version", "GET / HTTP/2.0~Host: a~~"),
    ("version 1.2", 505, "bad-version", "GET / HTTP/1.2~Host: a~~"),
    ("lower-case version", 400, "bad-request-line", "GET / http/1.1~Host: a~~"),
    ("fragment", 400, "bad-target", "GET /a#b HTTP/1.1~Host: a~~"),
    ("asterisk with GET", 400, "bad-target", "GET * HTTP/1.1~Host: a~~"),
    ("CONNECT without a port", 400, "bad-target", "CONNECT a HTTP/1.1~Host: a~~"),
    ("CONNECT with a path", 400, "bad-target", "CONNECT /a HTTP/1.1~Host: a~~"),
    ("eight bits in the target", 400, "bad-target", "GET /\u{fc} HTTP/1.1~Host: a~~"),
    ("expectation", 417, "bad-expectation", "POST / HTTP/1.1~Host: a~Expect: tea~Content-Length: 1~~a"),
    ("preface in pieces", 505, "bad-version", "PRI * HTTP/2.0~Host: a~~"),
    ("TLS", 400, "bad-request-line", "\x16\x03\x01\x02\0\x01"),
    ("garbage", 400, "bad-request-line", "\x01\x02\x03~~~~"),
];

#[test]
fn doubtful_requests_are_refused_before_a_byte_is_forwarded() {
    let (address, seen) = witness();
    let world = World::new(vec![service(1, "web", Http::default(), vec![endpoint(address, 1, &[])])]);
    for (what, status, reason, text) in CORPUS {
        let bytes = text.replace('~', "\r\n");
        for step in [bytes.len(), 1, 7] {
            let mut client = world.connect();
            for piece in bytes.as_bytes().chunks(step) {
                // The refusal may come, and the connection end, before the last piece.
                if client.stream.write_all(piece).is_err() {
                    break;
                }
            }
            let answer = client.head();
            assert_eq!(
                (answer.status, answer.reason()),
                (*status, (*reason).to_owned()),
                "{what}, in steps of {step}"
            );
            assert_eq!(
                answer.header("connection").as_deref(),
                Some("close"),
                "{what}: nothing behind it is a request"
            );
            assert_eq!(answer.header("server").as_deref(), Some("alize"));
        }
    }
    assert_eq!(seen.load(Ordering::SeqCst), 0, "nothing was forwarded");
}

#[test]
fn a_refusal_of_head_has_no_body() {
    let world = World::new(vec![service(1, "web", Http::default(), Vec::new())]);
    for (text, reason) in [
        ("HEAD / HTTP/1.1~~", "bad-host"),
        ("HEAD http://b/ HTTP/1.1~Host: a~~", "bad-host"),
        ("HEAD * HTTP/1.1~Host: a~~", "bad-target"),
        ("~HEAD / HTTP/1.1~Host : a~~", "bad-field"),
    ] {
        let mut client = world.connect();
        client.send(text.replace('~', "\r\n"));
        let answer = client.answer("HEAD");
        assert_eq!((answer.status, answer.reason()), (400, reason.into()), "{text}");
        assert!(client.rest().is_empty(), "{text}");
    }
}

#[test]
fn a_body_that_turns_out_bad_ends_both_connections() {
    let (address, seen) = witness();
    let world = World::new(vec![service(1, "web", Http::default(), vec![endpoint(address, 1, &[])])]);
    for body in [
        "5\r\nhelloX",
        "5\nhello\r\n0\r\n\r\n",
        "zz\r\n",
        "0\r\nbad name: x\r\n\r\n",
        "fffffffffffffffff\r\n",
    ] {
        let mut client = world.connect();
        client.send(format!("POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n{body}GET /evil HTTP/1.1\r\nHost: a\r\n\r\n"));
        let answer = client.head();
        // The endpoint may have answered the head before the chunk was seen; then the connection just ends.
        assert!(
            answer.status == 200 || ["bad-chunk", "bad-trailer"].contains(&answer.reason().as_str()),
            "{answer:?}"
        );
        let rest = client.rest();
        assert!(!String::from_utf8_lossy(&rest).contains("HTTP/1.1 "), "a second answer to {body:?}");
    }
    assert!(seen.load(Ordering::SeqCst) < 600);
}

#[test]
fn heads_have_a_longest_length_and_a_longest_time() {
    let (address, seen) = witness();
    let world = World::new(vec![service(1, "web", Http::default(), vec![endpoint(address, 1, &[])])]);
    let ask = |text: String| {
        let mut client = world.connect();
        let _ = client.stream.write_all(text.as_bytes());
        let answer = client.head();
        (answer.status, answer.reason())
    };
    assert_eq!(
        ask(format!("GET /{} HTTP/1.1\r\nHost: a\r\n\r\n", "x".repeat(40_000))),
        (414, "long-target".into())
    );
    let fields = |count: usize, size: usize| {
        (0..count).map(|n| format!("X-{n}: {}\r\n", "y".repeat(size))).collect::<String>()
    };
    assert_eq!(
        ask(format!("GET / HTTP/1.1\r\nHost: a\r\n{}\r\n", fields(1, 40_000))),
        (431, "long-head".into())
    );
    assert_eq!(
        ask(format!("GET / HTTP/1.1\r\nHost: a\r\n{}\r\n", fields(200, 3))),
        (431, "long-head".into())
    );
    assert_eq!(ask(format!("GET / HTTP/1.1\r\nHost: a\r\n{}\r\n", fields(90, 100))).0, 200);
    assert!(seen.load(Ordering::SeqCst) < 15_000, "only the last was forwarded");
    // 10 s for a head, whatever drips in.
    let mut slow = world.connect();
    let mut mute = world.connect();
    slow.send("GET / HTTP/1.1\r\nHost: a\r\n");
    mute.send("P");
    let answer = slow.head();
    assert_eq!((answer.status, answer.reason()), (408, "head-timeout".into()));
    assert_eq!(mute.head().status, 408);
    let mut silent = world.connect();
    assert_eq!(silent.get("/").status, 200, "one that says nothing for long may still begin");
}

#[test]
fn doubtful_responses_reach_no_client() {
    let responses: &[(&str, &str)] = &[
        (
            "both lengths",
            "HTTP/1.1 200 OK\r\nContent-Length: 1\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
        ),
        ("two lengths", "HTTP/1.1 200 OK\r\nContent-Length: 1\r\nContent-Length: 2\r\n\r\nab"),
        ("unknown coding", "HTTP/1.1 200 OK\r\nTransfer-Encoding: gzip, chunked\r\n\r\n0\r\n\r\n"),
        ("folded", "HTTP/1.1 200 OK\r\nX: a\r\n b\r\nContent-Length: 0\r\n\r\n"),
        (
            "a protocol that nobody asked for",
            "HTTP/1.1 101 Switching Protocols\r\nUpgrade: x\r\nConnection: Upgrade\r\n\r\n",
        ),
        ("no status", "HTTP/1.1 OK\r\n\r\n"),
        ("no HTTP", "hello\r\n\r\n"),
        ("bad name", "HTTP/1.1 200 OK\r\nX Y: a\r\n\r\n"),
        ("too many fields", &format!("HTTP/1.1 204 No Content\r\n{}\r\n", "X: a\r\n".repeat(129))),
        ("too long", &format!("HTTP/1.1 204 No Content\r\nX: {}\r\n\r\n", "a".repeat(65_536))),
    ];
    for (what, response) in responses {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap();
        let response = (*response).to_owned();
        let server = std::thread::spawn(move || {
            let (mut stream, _) = listener.accept().unwrap();
            let _ = stream.read(&mut [0; 4096]);
            let _ = stream.write_all(response.as_bytes());
            let _ = stream.read(&mut [0; 1]);
        });
        let world = World::new(vec![service(1, "web", Http::default(), vec![endpoint(address, 1, &[])])]);
        let answer = world.connect().get("/");
        assert_eq!((answer.status, answer.reason()), (502, "bad-response".into()), "{what}");
        server.join().unwrap();
    }
}

#[test]
fn bytes_that_nobody_asked_for_are_never_a_response() {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap();
    std::thread::spawn(move || {
        for stream in listener.incoming() {
            let mut stream = stream.unwrap();
            std::thread::spawn(move || {
                while let Ok(1..) = stream.read(&mut [0; 4096]) {
                    let good = "HTTP/1.1 200 OK\r\nContent-Length: 4\r\n\r\ngood";
                    let evil = "HTTP/1.1 200 OK\r\nContent-Length: 4\r\n\r\nevil";
                    let _ = stream.write_all(format!("{good}{evil}").as_bytes());
                }
            });
        }
    });
    let world = World::new(vec![service(1, "web", Http::default(), vec![endpoint(address, 1, &[])])]);
    for _ in 0..20 {
        let mut client = Client::connect(world.door());
        assert_eq!((client.get("/").text(), client.get("/").text()), ("good".into(), "good".into()));
    }
}
