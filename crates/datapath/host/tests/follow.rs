//! What the programs make of connections, packet by packet.

use alize_datapath::observe::{Latencies, Method, Side};
use alize_datapath_host::{Connection, From, Host, Segment, Way, flags, latency_bucket};

/// Places in `enum tally`.
mod tally {
    pub(crate) const JOINED: u32 = 0;
    pub(crate) const NOT_HTTP: u32 = 1;
    pub(crate) const TLS: u32 = 2;
    pub(crate) const BAD_FIELD: u32 = 6;
    pub(crate) const BAD_LENGTH: u32 = 7;
    pub(crate) const BAD_CHUNK: u32 = 9;
    pub(crate) const UPGRADED: u32 = 11;
    pub(crate) const TUNNEL: u32 = 12;
    pub(crate) const UNSOLICITED: u32 = 13;
    pub(crate) const GAP: u32 = 14;
    pub(crate) const FOLLOWED: u32 = 21;
    pub(crate) const RESYNCHRONISED: u32 = 22;
    pub(crate) const UNSEEN: u32 = 23;
    pub(crate) const UNANSWERED: u32 = 26;
    pub(crate) const PIPELINE_OVERFLOW: u32 = 27;
}

const GET: &[u8] = b"GET /a HTTP/1.1\r\nHost: example.org\r\n\r\n";
const OK: &[u8] = b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nhello";

/// What is left of a host: there is one at a time.
struct After {
    tallies: Vec<u64>,
    path: Option<String>,
}

impl After {
    fn tally(&self, which: u32) -> u64 {
        self.tallies[which as usize]
    }
}

/// Sends requests and responses and gives what was seen, as "METHOD target status".
fn seen(run: impl FnOnce(&mut Connection<'_>)) -> (Vec<String>, After) {
    let mut host = Host::default();
    run(&mut Connection::new(&mut host));
    let after = After { tallies: (0..32).map(|which| host.tally(which)).collect(), path: host.path(0) };
    (lines(&host), after)
}

fn lines(host: &Host) -> Vec<String> {
    let requests =
        host.requests().into_iter().map(|request| request.expect("the programs write what can be read"));
    requests.map(|r| format!("{} {} {}", r.method, r.target, r.status.unwrap_or(0))).collect()
}

/// A connection with `request` and `response`, both cut after `cut` bytes and then every `step`.
fn cut(request: &[u8], response: &[u8], first: usize, step: usize) -> Vec<String> {
    let (lines, _) = seen(|connection| {
        for (from, bytes) in [(From::Client, request), (From::Server, response)] {
            let (head, rest) = bytes.split_at(first.min(bytes.len()));
            if !head.is_empty() {
                connection.send(from, head);
            }
            rest.chunks(step).for_each(|piece| connection.send(from, piece));
        }
        connection.send_flagged(From::Server, b"", flags::FIN);
    });
    lines
}

#[test]
fn sees_a_request() {
    let mut host = Host::default();
    let mut connection = Connection::new(&mut host);
    connection.send(From::Client, GET);
    connection.send(From::Server, OK);
    let requests = host.requests();
    let request = requests[0].as_ref().unwrap();
    assert_eq!((request.method, request.target.as_str(), request.status), (Method::Get, "/a", Some(200)));
    assert_eq!((request.host.as_str(), request.side), ("example.org", Side::Client));
    assert_eq!((request.request_bytes, request.response_bytes), (GET.len() as u64, OK.len() as u64));
    let (client, server) = (request.client.as_ref().unwrap(), request.server.as_ref().unwrap());
    assert_eq!((client.pid, client.cgroup), (Some(100), 1));
    assert_eq!((server.pid, server.cgroup), (Some(101), 2));
    assert_eq!(requests.len(), 1, "the server's socket must not count what the client's does");
}

#[test]
fn the_servers_socket_counts_what_the_clients_does_not() {
    let mut host = Host::default();
    let mut connection = Connection::new(&mut host);
    connection.client = false;
    connection.send(From::Client, GET);
    connection.send(From::Server, OK);
    let requests = host.requests();
    let request = requests[0].as_ref().unwrap();
    assert_eq!((request.side, request.client.is_none()), (Side::Server, true));
    assert_eq!(request.server.as_ref().unwrap().pid, Some(101));
}

#[test]
fn a_request_may_come_in_the_syn() {
    let (client, server) = (1_000_000, u32::MAX - 3);
    let taken = client + 1 + GET.len() as u32;
    let segment = |sequence, acknowledged, flags, payload| Segment {
        sequence,
        acknowledged,
        flags,
        first: flags == flags::SYN,
        payload,
    };
    // The server may not have taken what was in it: then it comes again.
    for again in [false, true] {
        let mut host = Host::default();
        host.segment(0, Way::Egress, segment(client, 0, flags::SYN, GET));
        // This one may come twice too.
        for _ in 0..2 {
            host.segment(0, Way::Ingress, segment(server, taken, flags::SYN, b""));
        }
        if again {
            host.segment(0, Way::Egress, segment(client + 1, server.wrapping_add(1), 0, GET));
        }
        host.segment(0, Way::Ingress, segment(server.wrapping_add(1), taken, 0, OK));
        host.segment(0, Way::Ingress, segment(server, taken, flags::SYN, b""));
        let behind = server.wrapping_add(1 + OK.len() as u32);
        host.segment(0, Way::Egress, segment(taken, behind, 0, GET));
        host.segment(0, Way::Ingress, segment(behind, taken + GET.len() as u32, 0, OK));
        assert_eq!(lines(&host), ["GET /a 200", "GET /a 200"]);
        assert_eq!((host.tally(tally::JOINED), host.tally(tally::GAP)), (0, 0));
    }
}

#[test]
fn targets_may_have_bytes_that_are_not_ascii() {
    let (lines, _) = seen(|connection| {
        for target in ["/a", "/caf\u{e9}?q=\u{4fe1}", "/b"] {
            connection.send(From::Client, format!("GET {target} HTTP/1.1\r\n\r\n").as_bytes());
            connection.send(From::Server, OK);
        }
        connection.send(From::Client, b"GET /\xff1 HTTP/1.1\r\n\r\n");
        connection.send(From::Server, OK);
    });
    assert_eq!(lines, ["GET /a 200", "GET /caf\u{e9}?q=\u{4fe1} 200", "GET /b 200", "GET /\u{fffd}1 200"]);
}

#[test]
fn heads_may_be_cut_anywhere() {
    let request = b"POST /users/17?x=1 HTTP/1.1\r\nHost: a\r\ncontent-LENGTH:  12 \r\n\r\nGET / HTTP/1";
    let response = b"HTTP/1.1 201 Created\r\nTransfer-Encoding: chunked\r\n\r\n5;x=y\r\nhello\r\n0A\r\nHTTP/1.1 2\r\n0\r\nT: r\r\n\r\n";
    for step in [1, 2, 3, 7, 1000] {
        for first in 0..request.len().max(response.len()) {
            let seen = cut(request, response, first, step);
            assert_eq!(seen, ["POST /users/17?x=1 201"], "cut at {first}, then every {step}");
        }
    }
}

#[test]
fn long_lines_may_be_cut_anywhere() {
    let long = "x".repeat(3000);
    let request =
        format!("GET /{long} HTTP/1.1\r\nCookie: {long}\r\nHost: a\r\nContent-Type: {long}\r\n\r\n");
    let response = format!("HTTP/1.1 200 {long}\r\nX: {long}\r\nContent-Length: 3\r\nY: {long}\r\n\r\nabc");
    for (first, step) in
        [(0, 1), (0, 100), (5, 255), (7, 256), (9, 257), (0, 1024), (3020, 9000), (0, 90_000)]
    {
        let seen = cut(request.as_bytes(), response.as_bytes(), first, step);
        assert_eq!(seen, [format!("GET /{} 200", "x".repeat(111))], "cut at {first}, then every {step}");
    }
}

#[test]
fn bodies_that_look_like_requests_fool_nobody() {
    let body = "GET /fool HTTP/1.1\r\n\r\n".repeat(10);
    let (lines, host) = seen(|connection| {
        connection.send(
            From::Client,
            format!("PUT /b HTTP/1.1\r\nContent-Length: {}\r\n\r\n", body.len()).as_bytes(),
        );
        for piece in body.as_bytes().chunks(22) {
            connection.send(From::Client, piece);
        }
        connection.send(From::Server, OK);
        connection.send(From::Client, GET);
        connection.send(From::Server, OK);
    });
    assert_eq!(lines, ["PUT /b 200", "GET /a 200"]);
    assert_eq!(host.tally(tally::FOLLOWED), 1);
}

#[test]
fn responses_without_a_body_and_with_one_until_close() {
    let (lines, _) = seen(|connection| {
        let head = b"HTTP/1.1 200 OK\r\nContent-Length: 100\r\n\r\n";
        connection.send(From::Client, b"HEAD /h HTTP/1.1\r\n\r\n");
        connection.send(From::Server, head);
        connection.send(From::Client, b"GET /n HTTP/1.1\r\nIf-None-Match: x\r\n\r\n");
        connection.send(From::Server, b"HTTP/1.1 304 Not Modified\r\nContent-Length: 100\r\n\r\n");
        connection.send(From::Client, b"DELETE /d HTTP/1.1\r\n\r\n");
        connection.send(From::Server, b"HTTP/1.1 204 No Content\r\n\r\n");
        connection
            .send(From::Client, b"POST /e HTTP/1.1\r\nExpect: 100-continue\r\nContent-Length: 3\r\n\r\n");
        connection.send(From::Server, b"HTTP/1.1 100 Continue\r\n\r\n");
        connection.send(From::Client, b"abc");
        connection
            .send(From::Server, b"HTTP/1.1 103 Early Hints\r\nLink: x\r\n\r\nHTTP/1.1 200 OK\r\n\r\nuntil");
        connection.send(From::Server, b"the end");
        connection.send_flagged(From::Server, b"!", flags::FIN);
    });
    assert_eq!(lines, ["HEAD /h 200", "GET /n 304", "DELETE /d 204", "POST /e 200"]);
}

#[test]
fn pipelined_requests_find_their_responses() {
    let (lines, host) = seen(|connection| {
        let mut requests = Vec::new();
        for number in 0..32 {
            requests.extend(format!("GET /{number} HTTP/1.1\r\nHost: a\r\n\r\n").bytes());
        }
        connection.send(From::Client, &requests);
        let mut responses = Vec::new();
        for number in 0..32 {
            responses.extend(format!("HTTP/1.1 {} X\r\nContent-Length: 0\r\n\r\n", 200 + number).bytes());
        }
        for piece in responses.chunks(33) {
            connection.send(From::Server, piece);
        }
    });
    let expected: Vec<String> = (0..32).map(|number| format!("GET /{number} {}", 200 + number)).collect();
    assert_eq!(lines, expected);
    assert_eq!(host.tally(tally::PIPELINE_OVERFLOW), 0);
}

#[test]
fn requests_beyond_the_pipeline_are_counted_and_the_rest_stays_in_step() {
    let (lines, host) = seen(|connection| {
        connection.send(From::Client, &GET.repeat(40));
        connection.send(From::Server, &OK.repeat(40));
        connection.send(From::Client, b"GET /last HTTP/1.1\r\n\r\n");
        connection.send(From::Server, OK);
    });
    assert_eq!(lines.len(), 33);
    assert_eq!(lines[32], "GET /last 200");
    assert_eq!(host.tally(tally::PIPELINE_OVERFLOW), 8);
}

#[test]
fn what_is_sent_again_counts_once() {
    let (lines, _) = seen(|connection| {
        let whole = connection.next(From::Client, GET, 0);
        connection.pass(From::Client, whole);
        connection.pass(From::Client, whole);
        let first = connection.next(From::Server, &OK[..20], 0);
        connection.pass(From::Server, first);
        connection.next(From::Server, &OK[20..], 0);
        // The rest comes together with what came before.
        connection.pass(From::Server, alize_datapath_host::Segment { payload: OK, ..first });
        connection.pass(From::Server, alize_datapath_host::Segment { payload: OK, ..first });
        connection.send(From::Client, GET);
        connection.send(From::Server, OK);
    });
    assert_eq!(lines, ["GET /a 200", "GET /a 200"]);
}

#[test]
fn disorder_within_a_body_does_no_harm() {
    let (lines, host) = seen(|connection| {
        connection.send(From::Client, GET);
        connection.send(From::Server, b"HTTP/1.1 200 OK\r\nContent-Length: 30\r\n\r\n");
        let late = connection.next(From::Server, b"0123456789", 0);
        connection.send(From::Server, b"0123456789");
        connection.pass(From::Server, late);
        connection.send(From::Server, b"0123456789");
        connection.send(From::Client, GET);
        connection.send(From::Server, OK);
    });
    assert_eq!(lines, ["GET /a 200", "GET /a 200"]);
    assert_eq!(host.tally(tally::GAP), 0);
}

#[test]
fn a_gap_in_a_head_is_told_and_a_safe_place_found() {
    let (lines, host) = seen(|connection| {
        connection.send(From::Client, GET);
        connection.next(From::Server, b"HTTP/1.1 200 OK\r\n", 0);
        connection.send(From::Server, b"Content-Length: 0\r\n\r\n");
        for _ in 0..3 {
            connection.send(From::Client, GET);
            connection.send(From::Server, OK);
        }
    });
    assert_eq!(lines.len(), 2, "the first after the gap is the proof, and in no series");
    assert_eq!((host.tally(tally::GAP), host.tally(tally::RESYNCHRONISED)), (1, 1));
    assert_eq!(host.tally(tally::UNSEEN), 2, "the one that was lost, and the proof");
}

#[test]
fn a_connection_joined_in_the_middle_is_not_guessed_at() {
    let mut host = Host::default();
    let mut connection = Connection::new(&mut host);
    connection.both = false;
    // The rest of a body: one part looks like a request.
    let mut early = connection.next(From::Client, b"rest of a body", 0);
    early.first = false;
    connection.pass(From::Client, early);
    connection.send(From::Client, b"GET /fool HTTP/1.1\r\n\r\nmore");
    connection.send(From::Server, OK);
    for _ in 0..3 {
        connection.send(From::Client, GET);
        connection.send(From::Server, OK);
    }
    assert_eq!(lines(&host), ["GET /a 200", "GET /a 200"]);
    assert_eq!((host.tally(tally::JOINED), host.tally(tally::RESYNCHRONISED)), (1, 1));
}

#[test]
fn what_is_not_http_is_told_apart() {
    let kinds: [(&[u8], u32); 4] = [
        (b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03", tally::TLS),
        (b"*1\r\n$4\r\nPING\r\n", tally::NOT_HTTP),
        (b"GET /old\r\n", tally::NOT_HTTP),
        (b"EHLO example.org\r\n", tally::NOT_HTTP),
    ];
    for (bytes, reason) in kinds {
        let (lines, host) = seen(|connection| {
            connection.send(From::Client, bytes);
            connection.send(From::Server, OK);
            connection.send(From::Client, GET);
            connection.send(From::Server, OK);
        });
        assert_eq!(lines, [""; 0], "{}", String::from_utf8_lossy(bytes));
        assert_eq!(host.tally(reason), 1, "{}", String::from_utf8_lossy(bytes));
    }
}

#[test]
fn what_cannot_be_framed_ends_with_its_reason() {
    let bad: [(&[u8], u32); 7] = [
        (b"POST / HTTP/1.1\r\nContent-Length: 1\r\nContent-Length: 2\r\n\r\n", tally::BAD_LENGTH),
        (b"POST / HTTP/1.1\r\nContent-Length: +1\r\n\r\n", tally::BAD_LENGTH),
        (b"POST / HTTP/1.1\r\nContent-Length: 1x\r\n\r\n", tally::BAD_LENGTH),
        (b"POST / HTTP/1.1\r\nContent-Length: 99999999999999999999\r\n\r\n", tally::BAD_LENGTH),
        (b"POST / HTTP/1.1\r\nContent-Length : 1\r\n\r\n", tally::BAD_FIELD),
        (b"POST / HTTP/1.1\r\nX: 1\r\n Content-Length: 1\r\n\r\n", tally::BAD_FIELD),
        (b"POST / HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\r\n5 x\r\n", tally::BAD_CHUNK),
    ];
    for (bytes, reason) in bad {
        let (lines, host) = seen(|connection| {
            connection.send(From::Client, bytes);
            connection.send(From::Client, GET);
            connection.send(From::Server, OK);
        });
        assert_eq!(lines, [""; 0], "{}", String::from_utf8_lossy(bytes));
        assert_eq!(host.tally(reason), 1, "{}", String::from_utf8_lossy(bytes));
    }
}

#[test]
fn other_protocols_begin_where_they_begin() {
    let (lines, host) = seen(|connection| {
        connection.send(From::Client, b"GET /chat HTTP/1.1\r\nUpgrade: websocket\r\n\r\n");
        connection.send(From::Server, b"HTTP/1.1 101 Switching Protocols\r\n\r\nHTTP/1.1 200 OK\r\n\r\n");
        connection.send(From::Client, GET);
    });
    assert_eq!(lines, ["GET /chat 101"]);
    assert_eq!(host.tally(tally::UPGRADED), 1);
    let (lines, host) = seen(|connection| {
        connection.send(From::Client, b"CONNECT example.org:443 HTTP/1.1\r\n\r\n");
        connection.send(From::Server, b"HTTP/1.1 200 OK\r\n\r\n");
        connection.send(From::Client, GET);
    });
    assert_eq!(lines, ["CONNECT example.org:443 200"]);
    assert_eq!(host.tally(tally::TUNNEL), 1);
    let (lines, host) = seen(|connection| {
        connection.send(From::Client, GET);
        connection.send(From::Server, OK);
        connection.send(From::Server, b"HTTP/1.1 408 Request Timeout\r\n\r\n");
    });
    assert_eq!(lines, ["GET /a 200"]);
    assert_eq!(host.tally(tally::UNSOLICITED), 1);
}

#[test]
fn a_broken_connection_leaves_requests_unanswered() {
    let (lines, host) = seen(|connection| {
        connection.send(From::Client, GET);
        connection.send(From::Client, GET);
        connection.send(From::Server, &OK[..30]);
        connection.send_flagged(From::Server, b"", flags::RST);
    });
    assert_eq!(lines, ["GET /a 0", "GET /a 0"]);
    assert_eq!(host.tally(tally::UNANSWERED), 2);
    let (lines, host) = seen(|connection| {
        connection.send(From::Client, GET);
        connection.send(From::Client, GET);
        connection.send(From::Server, b"HTTP/1.1 404 No\r\nContent-Length: 9\r\n\r\nabc");
        connection.send_flagged(From::Server, b"", flags::RST);
    });
    assert_eq!(lines, ["GET /a 404", "GET /a 0"]);
    assert_eq!(host.tally(tally::UNANSWERED), 1);
}

#[test]
fn paths_are_folded() {
    let paths = [
        ("/", "/"),
        ("/users/123", "/users/{n}"),
        ("/users/123/orders/4?sort=5", "/users/{n}/orders/{n}"),
        ("/v1/a2", "/v1/a2"),
        ("/0a33b4a2-1111-2222-3333-444455556666/x", "/{uuid}/x"),
        ("/0a33b4a2-1111-2222-3333-44445555666/x", "/0a33b4a2-1111-2222-3333-44445555666/x"),
        ("/blob/da39a3ee5e6b4b0d3255bfef95601890afd80709", "/blob/{hex}"),
        ("/1/2/3/", "/{n}/{n}/{n}/"),
        ("*", "*"),
    ];
    for (target, path) in paths {
        let (_, host) = seen(|connection| {
            connection.send(From::Client, format!("OPTIONS {target} HTTP/1.1\r\n\r\n").as_bytes());
            connection.send(From::Server, OK);
        });
        assert_eq!(host.path.as_deref(), Some(path), "{target}");
    }
}

#[test]
fn latency_falls_into_the_bucket_whose_bound_it_does_not_pass() {
    let mut ns = 1.0f64;
    while ns < 100e9 {
        let bucket = latency_bucket(ns as u64);
        let seconds = (ns as u64) as f64 / 1e9;
        // What is a millionth from a bound may fall on either side of it.
        if bucket < Latencies::BUCKETS - 1 {
            assert!(seconds <= Latencies::bound(bucket) * 1.000_001, "{seconds} s in {bucket}");
        }
        if bucket > 0 {
            assert!(seconds >= Latencies::bound(bucket - 1) * 0.999_999, "{seconds} s in {bucket}");
        }
        ns *= 1.003;
    }
}
