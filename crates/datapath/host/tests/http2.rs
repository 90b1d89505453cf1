//! Frames of HTTP/2, followed by the C that runs in the kernel and decoded by what reads its records.

use alize_datapath::observe::{Method, Request, fold};
use alize_datapath_host::{Connection, From, Host};
use proptest::prelude::*;

/// Places in `enum tally`.
const FOLLOWED: u32 = 37;
const JOINED: u32 = 38;
const BAD_FRAME: u32 = 39;
const GAP: u32 = 40;

const PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";
const END_STREAM: u8 = 1;
const END_HEADERS: u8 = 4;

fn frame(kind: u8, flags: u8, stream: u32, payload: &[u8]) -> Vec<u8> {
    let length = (payload.len() as u32).to_be_bytes();
    [&length[1..], &[kind, flags], &stream.to_be_bytes(), payload].concat()
}

/// HEADERS of a GET for `/LENGTH...`, then CONTINUATION with the rest of its path.
fn get(stream: u32, path: &str) -> Vec<u8> {
    // :method GET, :path as a literal that goes into the table.
    let mut block = vec![0x82, 0x44, path.len() as u8];
    block.extend_from_slice(path.as_bytes());
    let (first, rest) = block.split_at(block.len() / 2);
    [frame(1, END_STREAM, stream, first), frame(9, END_HEADERS, stream, rest)].concat()
}

/// 200 with a body in two frames.
fn answer(stream: u32, body: &[u8]) -> Vec<u8> {
    let (first, rest) = body.split_at(body.len() / 2);
    let frames = [
        frame(1, END_HEADERS, stream, &[0x88]),
        frame(0, 0, stream, first),
        frame(0, END_STREAM, stream, rest),
    ];
    frames.concat()
}

fn client_bytes() -> Vec<u8> {
    let frames = [
        PREFACE.to_vec(),
        frame(4, 0, 0, &[0; 12]),
        get(1, "/a"),
        get(3, "/users/7"),
        frame(8, 0, 0, &[1; 4]),
    ];
    frames.concat()
}

fn server_bytes() -> Vec<u8> {
    let body = b"PRI * HTTP/2.0 and \x00\x00\x05\x01\x04\x00\x00\x00\x01 look like frames".repeat(9);
    let frames = [frame(4, 0, 0, &[0; 18]), answer(3, &body), frame(6, 0, 0, &[7; 8]), answer(1, &body)];
    frames.concat()
}

fn lines(requests: &[Request]) -> Vec<String> {
    let line = |request: &Request| {
        let partial = if request.partial { " partial" } else { "" };
        let status = request.status.map_or(0, |status| status);
        format!("{} {} {status} {}{partial}", request.method, request.target, request.response_bytes)
    };
    requests.iter().map(line).collect()
}

fn play(client: &[u8], server: &[u8], size: usize, server_first: bool) -> (Vec<String>, Vec<u64>) {
    let mut host = Host::default();
    let mut connection = Connection::new(&mut host);
    let hello = if server_first { frame(4, 0, 0, &[0; 6]) } else { Vec::new() };
    if server_first {
        connection.send(From::Server, &hello);
    }
    client.chunks(size).for_each(|piece| connection.send(From::Client, piece));
    server.chunks(size).for_each(|piece| connection.send(From::Server, piece));
    let tallies = (0..43).map(|which| host.tally(which)).collect();
    (lines(&host.http2_requests()), tallies)
}

/// Both sockets are observed, and each request is told once.
#[test]
fn cutting_the_stream_elsewhere_changes_nothing() {
    let (client, server) = (client_bytes(), server_bytes());
    let (whole, tallies) = play(&client, &server, 60_000, false);
    assert_eq!(whole.len(), 2);
    assert!(whole[0].starts_with("GET /users/7 200 ") && whole[1].starts_with("GET /a 200 "), "{whole:?}");
    assert_eq!((tallies[FOLLOWED as usize], tallies[BAD_FRAME as usize], tallies[GAP as usize]), (1, 0, 0));
    for size in [1, 2, 3, 7, 9, 10, 23, 24, 25, 64, 511, 512, 513] {
        for server_first in [false, true] {
            assert_eq!(
                play(&client, &server, size, server_first).0,
                whole,
                "pieces of {size}, {server_first}"
            );
        }
    }
}

#[test]
fn what_is_missing_in_a_body_harms_nothing_and_elsewhere_is_said() {
    let body = vec![b'x'; 3000];
    let mut host = Host::default();
    let mut connection = Connection::new(&mut host);
    connection.send(From::Client, &[PREFACE, &get(1, "/a"), &get(3, "/b")].concat());
    let response = answer(1, &body);
    connection.send(From::Server, &response[..600]);
    // Lost on the way to whoever looks.
    connection.next(From::Server, &response[600..900], 0);
    connection.send(From::Server, &response[900..]);
    // A whole frame is lost, with the head in it; the next segment begins with one that fits.
    connection.next(From::Server, &answer(3, b"never"), 0);
    connection.send(From::Client, &get(5, "/c"));
    connection.send(From::Server, &answer(5, b"seen"));
    let requests = host.http2_requests();
    let targets: Vec<_> = requests.iter().map(|request| (request.target.as_str(), request.partial)).collect();
    assert_eq!(targets, [("/a", false), ("/c", false)]);
    assert_eq!(requests[0].response_bytes, 3001);
    assert_eq!((host.tally(GAP), host.tally(BAD_FRAME)), (1, 0));
}

#[test]
fn a_connection_that_was_there_is_joined_at_a_request() {
    let mut host = Host::default();
    let mut connection = Connection::new(&mut host);
    connection.both = false;
    connection.client = false;
    connection.send(From::Client, &[PREFACE, &get(1, "/before")].concat());
    connection.send(From::Server, &answer(1, b"x"));
    (connection.both, connection.client) = (true, true);
    // In the middle of a response nothing begins.
    connection.send(From::Server, &answer(1, b"again")[15..]);
    // The path is the first entry of a table that nobody has seen.
    connection.send(From::Client, &frame(1, END_STREAM | END_HEADERS, 3, &[0x82, 0xbe]));
    connection.send(From::Server, &answer(3, b"y"));
    connection.send(From::Client, &frame(1, END_STREAM | END_HEADERS, 5, b"\x82\x44\x04/new"));
    connection.send(From::Server, &answer(5, b"z"));
    let requests = host.http2_requests();
    let seen: Vec<_> =
        requests.iter().map(|request| (request.method, request.target.as_str(), request.partial)).collect();
    assert_eq!(seen, [(Method::Get, "", true), (Method::Get, "/new", false)]);
    assert_eq!((host.tally(JOINED), host.tally(BAD_FRAME)), (1, 0));
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(2000))]

    /// Any bytes behind a preface, in any pieces: nothing breaks, every packet passes, every record can be read.
    #[test]
    fn no_bytes_break_it(frames: Vec<(u8, u8, u8, Vec<u8>)>, noise: Vec<u8>, size in 1usize..200, cut: bool) {
        let mut host = Host::default();
        let mut connection = Connection::new(&mut host);
        connection.send(From::Client, PREFACE);
        for (kind, flags, stream, payload) in frames {
            let mut bytes = frame(kind % 12, flags, u32::from(stream % 8), &payload);
            if cut {
                bytes.extend_from_slice(&noise);
            }
            let from = if stream & 16 == 0 { From::Client } else { From::Server };
            bytes.chunks(size).for_each(|piece| connection.send(from, piece));
        }
        host.http2_requests();
    }

    /// User space folds paths as the kernel does.
    #[test]
    fn paths_are_folded_alike(path in "(/[a-f0-9]{0,20}|/[0-9]{1,8}|/[a-z.-]{1,9}){1,5}") {
        prop_assume!(path.len() <= 100);
        let mut host = Host::default();
        let mut connection = Connection::new(&mut host);
        connection.send(From::Client, format!("GET {path} HTTP/1.1\r\nHost: a\r\n\r\n").as_bytes());
        connection.send(From::Server, b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n");
        prop_assert_eq!(host.path(0), Some(fold(&path)));
    }
}
