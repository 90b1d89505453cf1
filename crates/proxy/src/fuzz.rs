//! What must hold of any bytes, for the fuzz target and for tests. No part of the proxy.

use bytes::{Bytes, BytesMut};
use http::{HeaderMap, Method};

use crate::control;
use crate::socket::Out;
use crate::wire::{Decoded, Decoder, Encoder, Fault, Framing, head};

const LIMIT: usize = 4096;

/// A message as it was read: head, body, trailers, bytes left over; or why not.
#[derive(Debug, PartialEq, Eq)]
struct Message {
    head: String,
    framing: Framing,
    body: Vec<u8>,
    end: Result<Option<(HeaderMap, usize)>, Fault>,
}

/// The bytes in pieces of these sizes, the last of which is repeated.
fn pieces<'a>(mut bytes: &'a [u8], cuts: &'a [u8]) -> impl Iterator<Item = &'a [u8]> {
    let mut sizes = cuts.iter().chain(cuts.last().into_iter().cycle());
    std::iter::from_fn(move || {
        let size = sizes.next().map_or(usize::MAX, |size| usize::from(*size) + 1);
        let (piece, rest) = bytes.split_at(bytes.len().min(size));
        bytes = rest;
        (!piece.is_empty()).then_some(piece)
    })
}

fn read<H>(
    bytes: &[u8],
    cuts: &[u8],
    mut head: impl FnMut(&mut BytesMut) -> Result<Option<H>, Fault>,
    describe: impl Fn(&H) -> (String, Framing),
) -> Option<Result<(H, Message), Fault>> {
    let mut buffer = BytesMut::new();
    let mut pieces = pieces(bytes, cuts);
    let read = loop {
        match head(&mut buffer) {
            Ok(Some(read)) => break read,
            Ok(None) => buffer.extend_from_slice(pieces.next()?),
            Err(fault) => return Some(Err(fault)),
        }
    };
    let (text, framing) = describe(&read);
    let (mut decoder, mut body, mut trailers) = (Decoder::new(framing), Vec::new(), HeaderMap::new());
    let end = loop {
        match decoder.decode(&mut buffer) {
            Ok(Decoded::Data(data)) => body.extend_from_slice(&data),
            Ok(Decoded::Trailers(read)) => trailers = read,
            Ok(Decoded::End) => {
                break Ok(Some((trailers, buffer.len() + pieces.map(<[u8]>::len).sum::<usize>())));
            }
            Ok(Decoded::More) => match pieces.next() {
                Some(piece) => buffer.extend_from_slice(piece),
                None => break Ok(None),
            },
            Err(fault) => break Err(fault),
        }
    };
    Some(Ok((read, Message { head: text, framing, body, end })))
}

fn request(bytes: &[u8], cuts: &[u8]) -> Option<Result<(head::RequestHead, Message), Fault>> {
    let mut seen = 0;
    let parse = |buffer: &mut BytesMut| head::request(buffer, &mut seen, LIMIT);
    read(bytes, cuts, parse, |head| {
        let parts = &head.parts;
        let text = format!("{} {} {:?} {}", parts.method, parts.uri, parts.headers, head.keep_alive);
        (text, head.framing)
    })
}

/// A request reads the same however it is cut; and what passes reads the same again when it was written anew, with nothing
/// around it.
pub fn check_request(bytes: &[u8], cuts: &[u8]) {
    let whole = request(bytes, &[]);
    let cut = request(bytes, cuts);
    match (&whole, &cut) {
        (Some(Ok((_, whole))), Some(Ok((_, cut)))) => assert_eq!(whole, cut, "cut elsewhere"),
        (whole, cut) => {
            let fault =
                |read: &Option<Result<_, Fault>>| read.as_ref().map(|read| read.as_ref().err().copied());
            assert_eq!(fault(whole), fault(cut), "cut elsewhere");
        }
    }
    let Some(Ok((head, message))) = whole else { return };
    check_by_httparse(bytes, &head);
    let Ok(Some((trailers, _))) = &message.end else { return };
    let mut out = Out::default();
    head::write_request(&head.parts, message.framing, || ([192, 0, 2, 1], 80).into(), out.tail());
    let mut encoder = Encoder::new(message.framing);
    assert!(encoder.data(Bytes::from(message.body.clone()), &mut out));
    assert!(encoder.end(Some(trailers), &mut out));
    let written = out.collect();
    let Some(Ok((again, read))) = request(&written, &[]) else {
        panic!("refused what was written: {}", written.escape_ascii());
    };
    assert_eq!(
        (&read.body, &read.end),
        (&message.body, &Ok(Some((trailers.clone(), 0)))),
        "one message, all of it"
    );
    assert_eq!((&again.parts.method, &again.parts.uri), (&head.parts.method, &head.parts.uri));
    assert!(head.parts.headers.iter().all(|(name, value)| {
        name == http::header::CONTENT_LENGTH || again.parts.headers.get_all(name).iter().any(|v| v == value)
    }));
}

/// What passes is a request to httparse, too, and the same one.
fn check_by_httparse(bytes: &[u8], head: &head::RequestHead) {
    let start = bytes.chunks_exact(2).take_while(|pair| *pair == b"\r\n").count() * 2;
    let mut fields = [httparse::EMPTY_HEADER; 256];
    let mut request = httparse::Request::new(&mut fields);
    let status = request.parse(&bytes[start..]);
    assert!(matches!(status, Ok(httparse::Status::Complete(_))), "{status:?}: {}", bytes.escape_ascii());
    assert_eq!(request.method, Some(head.parts.method.as_str()));
    let target = request.path.unwrap_or_default();
    let path = head.parts.uri.path_and_query().map(|path| path.as_str());
    assert!(path.is_none_or(|path| target.ends_with(path) || path == "/"), "{target} was read as {path:?}");
    for (name, value) in &head.parts.headers {
        let host = name == http::header::HOST && !target.starts_with('/');
        let found = request
            .headers
            .iter()
            .any(|field| name == field.name && value.as_bytes() == field.value.trim_ascii());
        assert!(found || host || name == http::header::TE, "{name}: {value:?} was not sent");
    }
}

/// A response reads the same however it is cut.
pub fn check_response(bytes: &[u8], cuts: &[u8]) {
    for method in [Method::GET, Method::HEAD] {
        let read = |cuts: &[u8]| {
            let parse = |buffer: &mut BytesMut| head::response(buffer, &method, LIMIT);
            let read = read(bytes, cuts, parse, |head| {
                let text = format!("{} {:?} {}", head.parts.status, head.parts.headers, head.keep_alive);
                (text, head.framing)
            });
            read.map(|read| read.map(|(_, message)| message))
        };
        match (read(&[]), read(cuts)) {
            (Some(Ok(whole)), Some(Ok(cut))) => assert_eq!(whole, cut, "cut elsewhere"),
            // The parser of heads may see one mistake or another first.
            (whole, cut) => assert_eq!(whole.map(|read| read.is_err()), cut.map(|read| read.is_err())),
        }
    }
}

/// No line makes the reader of control messages panic.
pub fn check_control(line: &[u8]) {
    let _ = control::read(line);
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const SEEDS: [&[u8]; 6] = [
        b"GET /a?b=c HTTP/1.1\r\nHost: a\r\nX-A: 1\r\nx-a: 2\r\n\r\n",
        b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 5\r\n\r\nhelloGET / HTTP/1.1\r\n",
        b"POST /x HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\nTE: trailers\r\nConnection: TE\r\n\r\n5;a=b\r\nhello\r\n0\r\nX-T: 1\r\n\r\nrest",
        b"\r\nOPTIONS * HTTP/1.0\r\nConnection: keep-alive\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nContent-Length: 3\r\n\r\nabc",
        b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n0\r\n\r\n",
    ];

    fn changed() -> impl Strategy<Value = Vec<u8>> {
        let marks = prop::sample::select(b"\r\n\0 :;,0aGHx\t\xff".to_vec());
        let change = (any::<prop::sample::Index>(), marks, 0..3u8);
        (prop::sample::select(SEEDS.to_vec()), prop::collection::vec(change, 0..4)).prop_map(
            |(seed, changes)| {
                changes.into_iter().fold(seed.to_vec(), |mut bytes, (place, mark, how)| {
                    let at = place.index(bytes.len());
                    match how {
                        0 => bytes[at] = mark,
                        1 => bytes.insert(at, mark),
                        _ => drop(bytes.remove(at)),
                    }
                    if bytes.is_empty() { vec![mark] } else { bytes }
                })
            },
        )
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(4_000))]
        #[test]
        fn messages_read_the_same_however_they_are_cut(bytes in changed(), cuts in prop::collection::vec(0u8..40, 0..9)) {
            check_request(&bytes, &cuts);
            check_response(&bytes, &cuts);
        }
    }
}
