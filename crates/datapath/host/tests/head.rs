//! What the kernel reads of heads: against httparse, at every byte, cut everywhere, and the smuggling corpus.

use alize_datapath_host::corpus::{SEEDS, smuggling};
use alize_datapath_host::heads::{agree, agree_on_response};
use alize_datapath_host::http::{HEAD_SIZE, Reason, request, response};
use proptest::prelude::*;

fn shown(bytes: &[u8]) -> String {
    bytes.escape_ascii().to_string()
}

#[test]
fn seeds_are_taken() {
    for seed in SEEDS {
        let read = agree(seed);
        assert!(read.is_ok(), "{read:?}: {}", shown(seed));
    }
}

#[test]
fn nothing_that_smuggles_is_taken() {
    let corpus = smuggling();
    assert!(corpus.len() > 150, "only {} requests", corpus.len());
    let taken: Vec<&str> =
        corpus.iter().filter(|(_, bytes)| request(bytes).is_ok()).map(|(name, _)| *name).collect();
    assert!(taken.is_empty(), "{taken:#?}");
}

#[test]
fn every_value_of_every_byte() {
    let mut taken = 0;
    for seed in SEEDS {
        let head = request(seed).unwrap().length;
        for at in 0..head {
            let mut message = seed.to_vec();
            for byte in 0..=255 {
                message[at] = byte;
                taken += u32::from(agree(&message).is_ok());
                let mut longer = seed.to_vec();
                longer.insert(at, byte);
                taken += u32::from(agree(&longer).is_ok());
            }
            message.remove(at);
            taken += u32::from(agree(&message).is_ok());
        }
    }
    assert!(taken > 50_000, "only {taken}: the test compares nothing");
}

#[test]
fn a_head_that_is_cut_is_not_taken() {
    for seed in SEEDS {
        let whole = request(seed).unwrap();
        for end in 0..seed.len() {
            let read = request(&seed[..end]);
            if end < whole.length {
                assert!(read.is_err(), "{}", shown(&seed[..end]));
            } else {
                assert_eq!(read.as_ref(), Ok(&whole), "only the body is cut");
            }
        }
        let followed = [seed, b"GET /next HTTP/1.1\r\n\r\n"].concat();
        assert_eq!(request(&followed), Ok(whole), "what follows changes nothing");
    }
}

#[test]
fn heads_of_all_lengths() {
    for filler in (0..HEAD_SIZE + 64).rev().step_by(7).chain(HEAD_SIZE - 128..HEAD_SIZE + 64) {
        let mut message = b"POST /abc?d HTTP/1.1\r\nHost: a\r\nContent-Length: 3\r\n".to_vec();
        message.extend_from_slice(b"X-Fill: ");
        message.resize(message.len() + filler, b'x');
        message.extend_from_slice(b"\r\n\r\n123");
        let length = message.len() - 3;
        match agree(&message) {
            Ok(read) => assert_eq!((read.length, read.body), (length, 3)),
            Err(reason) => {
                assert!(length > HEAD_SIZE && reason == Reason::SPLIT_HEAD, "{length}: {reason:?}")
            }
        }
    }
}

fn method() -> impl Strategy<Value = String> {
    prop_oneof![8 => "GET|HEAD|POST|PUT|DELETE|OPTIONS|PATCH", 1 => "[A-Za-z]{1,8}"]
}

fn target() -> impl Strategy<Value = String> {
    prop_oneof![6 => "(/[a-z0-9.%;~_-]{0,9}){1,5}(\\?[!-~]{0,20})?", 2 => "/[!-~]{0,60}", 1 => "[ -~]{0,9}", 1 => "/[a-z/]{900,1100}"]
}

/// Fields by which requests are told apart, in spellings right and wrong.
fn field() -> impl Strategy<Value = String> {
    let name = prop_oneof![
        "[Hh]ost",
        "[Cc]ontent-[Ll]ength",
        "Transfer-Encoding|transfer-encodin|TE|Trailer|Upgrade|Expect",
        "[Cc]onnection|Keep-Alive|Proxy-Connection|HTTP2-Settings",
        "[!-~]{1,20}",
        "[A-Za-z-]{1,70}",
    ];
    let value = prop_oneof![
        4 => "[a-z0-9.:\\[\\]_-]{0,12}", 3 => "0{0,3}[0-9]{1,6}", 2 => "[Kk]eep-[Aa]live|close|chunked|identity",
        2 => "[ -~\t]{0,30}", 1 => "[ -~]{0,400}", 1 => "\\PC{0,9}",
    ];
    let colon = prop_oneof![9 => Just(": "), 2 => Just(":"), 1 => Just(":\t"), 1 => Just(" :"), 1 => Just(":   "), 1 => Just(":      ")];
    let behind = prop_oneof![12 => Just(""), 1 => Just(" "), 1 => Just("\t "), 1 => Just("      ")];
    let end = prop_oneof![30 => Just("\r\n"), 1 => Just("\n"), 1 => Just("\r"), 1 => Just("\r\n "), 1 => Just("\r\r\n")];
    (name, colon, value, behind, end).prop_map(|(n, c, v, b, e)| [n.as_str(), c, &v, b, e].concat())
}

fn message() -> impl Strategy<Value = Vec<u8>> {
    let fields =
        prop_oneof![6 => prop::collection::vec(field(), 0..4), 1 => prop::collection::vec(field(), 0..100)];
    let version = prop_oneof![20 => Just(" HTTP/1.1\r\n"), 1 => Just(" HTTP/1.0\r\n"), 1 => Just("\r\n"), 1 => Just(" HTTP/1.1\n")];
    let host = prop_oneof![8 => Just("Host: a\r\n"), 1 => Just("")];
    (method(), target(), version, host, fields, "[ -~\r\n]{0,40}").prop_map(
        |(method, target, version, host, fields, body)| {
            [&method, " ", &target, version, host, &fields.concat(), "\r\n", &body].concat().into_bytes()
        },
    )
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(500))]

    #[test]
    fn what_is_taken_is_read_alike(message in message()) {
        let _ = agree(&message);
    }

    #[test]
    fn changed_seeds_are_read_alike(
        seed in 0..SEEDS.len(),
        changes in prop::collection::vec((any::<prop::sample::Index>(), any::<u8>(), 0..3u8), 1..5),
    ) {
        let mut message = SEEDS[seed].to_vec();
        for (at, byte, kind) in changes {
            let at = at.index(message.len());
            match kind {
                0 => message[at] = byte,
                1 => message.insert(at, byte),
                _ => drop(message.remove(at)),
            }
        }
        let _ = agree(&message);
    }

    #[test]
    fn any_bytes(message in prop::collection::vec(any::<u8>(), 0..300)) {
        let _ = agree(&message);
        let _ = agree_on_response(&message, 0);
    }

    #[test]
    fn responses_are_read_alike(message in answer(), method in 0usize..7) {
        let _ = agree_on_response(&message, method);
    }
}

fn answer() -> impl Strategy<Value = Vec<u8>> {
    let status = prop_oneof![8 => "HTTP/1.1 (200|201|204|206|304|404|500|503)", 1 => "HTTP/1.[01] [0-9]{2,4}", 1 => "[ -~]{0,20}"];
    let phrase = prop_oneof![6 => " [A-Za-z ]{0,12}", 1 => "", 1 => "[ -~\t]{0,20}", 1 => "\\PC{0,5}"];
    let length = prop_oneof![6 => "Content-Length: [0-9]{1,5}\r\n", 1 => ""];
    let fields = prop::collection::vec(field(), 0..4);
    (status, phrase, length, fields).prop_map(|(status, phrase, length, fields)| {
        [&status, &phrase, "\r\n", &length, &fields.concat(), "\r\n"].concat().into_bytes()
    })
}

#[test]
fn every_value_of_every_byte_of_responses() {
    let seeds: [&[u8]; 4] = [
        b"HTTP/1.1 200 OK\r\nContent-Length: 13\r\nServer: nginx\r\n\r\n",
        b"HTTP/1.1 404\r\ncontent-length:0\r\nConnection: keep-alive\r\n\r\n",
        b"HTTP/1.1 304 Not Modified\r\nETag: \"x\"\r\nContent-Length: 7\r\n\r\n",
        b"HTTP/1.1 204 No Content\r\nDate: Sat, 28 Nov 2026 13:00:00 GMT\r\n\r\n",
    ];
    let mut taken = 0;
    for seed in seeds {
        assert_eq!(agree_on_response(seed, 0), Ok(()), "{}", shown(seed));
        for at in 0..seed.len() {
            assert!(response(&seed[..at], 0).is_err());
            for byte in 0..=255 {
                let mut message = seed.to_vec();
                message[at] = byte;
                taken += u32::from(agree_on_response(&message, 0).is_ok());
                message.insert(at, seed[at]);
                taken += u32::from(agree_on_response(&message, 0).is_ok());
            }
        }
    }
    assert!(taken > 5_000, "only {taken}");
}

#[test]
fn responses_without_a_certain_end_are_not_taken() {
    for (name, message) in [
        ("chunked", "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n"),
        ("both", "HTTP/1.1 200 OK\r\nContent-Length: 5\r\nTransfer-Encoding: chunked\r\n\r\n"),
        ("until it closes", "HTTP/1.1 200 OK\r\nServer: x\r\n\r\n"),
        ("that closes", "HTTP/1.1 200 OK\r\nContent-Length: 5\r\nConnection: close\r\n\r\n"),
        ("two lengths", "HTTP/1.1 200 OK\r\nContent-Length: 5\r\nContent-Length: 5\r\n\r\n"),
        ("a list", "HTTP/1.1 200 OK\r\nContent-Length: 5, 5\r\n\r\n"),
        ("1xx", "HTTP/1.1 100 Continue\r\nContent-Length: 0\r\n\r\n"),
        ("early hints", "HTTP/1.1 103 Early Hints\r\nLink: x\r\n\r\n"),
        ("switching", "HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\n\r\n"),
        ("1.0", "HTTP/1.0 200 OK\r\nContent-Length: 5\r\n\r\n"),
        ("folded", "HTTP/1.1 200 OK\r\nContent-Length:\r\n 5\r\n\r\n"),
        ("bare LF", "HTTP/1.1 200 OK\nContent-Length: 5\n\n"),
        ("blank before the colon", "HTTP/1.1 200 OK\r\nContent-Length : 5\r\n\r\n"),
        ("a body of 204", "HTTP/1.1 204 No Content\r\nContent-Length: 5\r\n\r\n"),
        ("status of two digits", "HTTP/1.1 20 OK\r\nContent-Length: 5\r\n\r\n"),
        ("status of four digits", "HTTP/1.1 2000 OK\r\nContent-Length: 5\r\n\r\n"),
        ("large", "HTTP/1.1 200 OK\r\nContent-Length: 65536\r\n\r\n"),
    ] {
        assert!(response(message.as_bytes(), 0).is_err(), "{name}");
    }
}
