//! Heads as they are written: anew from their parts, so that no doubtful byte of a stranger goes further.

use std::fmt::Write as _;
use std::net::SocketAddr;

use bytes::{BufMut, BytesMut};
use http::header::{CONTENT_LENGTH, HOST, TE};
use http::{HeaderMap, HeaderName, HeaderValue, request, response};

use super::framing::Framing;
use super::head::{Phrase, Upgrade};
use super::spelling::{self, Spelling};

/// Writes one field.
pub(super) fn write_field(
    name: &HeaderName,
    value: &HeaderValue,
    spelling: Option<&Spelling>,
    out: &mut BytesMut,
) {
    spelling::write(name, spelling, out);
    out.put_slice(b": ");
    out.put_slice(value.as_bytes());
    out.put_slice(b"\r\n");
}

fn write_framing(framing: Framing, out: &mut BytesMut) {
    match framing {
        Framing::Empty | Framing::UntilClose => {}
        Framing::Length(length) => {
            let _ = write!(out, "Content-Length: {length}\r\n");
        }
        Framing::Chunked => out.put_slice(b"Transfer-Encoding: chunked\r\n"),
    }
}

fn write_fields(headers: &HeaderMap, framing: Framing, spelling: Option<&Spelling>, out: &mut BytesMut) {
    for (name, value) in headers {
        // The length is written from the framing alone, so that the two cannot differ. Only a response without a body
        // may tell the length that another would have.
        if name == CONTENT_LENGTH && framing != Framing::Empty {
            continue;
        }
        if name == TE {
            out.put_slice(b"Connection: TE\r\n");
        }
        write_field(name, value, spelling, out);
    }
    write_framing(framing, out);
}

/// Writes the head of a request to an endpoint; `host` is for a client of version 1.0 that named none.
pub(crate) fn write_request(
    parts: &request::Parts,
    framing: Framing,
    host: impl FnOnce() -> SocketAddr,
    out: &mut BytesMut,
) {
    out.reserve(256);
    out.put_slice(parts.method.as_str().as_bytes());
    out.put_u8(b' ');
    match parts.uri.path_and_query() {
        Some(path) => out.put_slice(path.as_str().as_bytes()),
        None => out.put_slice(parts.uri.authority().map_or("*", |authority| authority.as_str()).as_bytes()),
    }
    out.put_slice(b" HTTP/1.1\r\n");
    if !parts.headers.contains_key(HOST) {
        let _ = write!(out, "Host: {}\r\n", host());
    }
    write_fields(&parts.headers, framing, parts.extensions.get(), out);
    write_upgrade(parts.extensions.get(), out);
    out.put_slice(b"\r\n");
}

fn write_upgrade(upgrade: Option<&Upgrade>, out: &mut BytesMut) {
    if let Some(Upgrade(protocol)) = upgrade {
        out.put_slice(b"Connection: Upgrade\r\nUpgrade: ");
        out.put_slice(protocol.as_bytes());
        out.put_slice(b"\r\n");
    }
}

/// What the connection to the client does after a response.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum After {
    /// Goes on, as a 1.1 client expects.
    Stay,
    /// Goes on, which a 1.0 client has to be told.
    StaySaid,
    /// Ends.
    Close,
}

/// Writes the head of a response to a client.
pub(crate) fn write_response(parts: &response::Parts, framing: Framing, after: After, out: &mut BytesMut) {
    out.reserve(256);
    let _ = write!(out, "HTTP/1.1 {} ", parts.status.as_str());
    match parts.extensions.get() {
        Some(Phrase(phrase)) => out.put_slice(phrase),
        None => out.put_slice(parts.status.canonical_reason().unwrap_or_default().as_bytes()),
    }
    out.put_slice(b"\r\n");
    write_fields(&parts.headers, framing, parts.extensions.get(), out);
    match after {
        After::Stay => {}
        After::StaySaid => out.put_slice(b"Connection: keep-alive\r\n"),
        After::Close => out.put_slice(b"Connection: close\r\n"),
    }
    write_upgrade(parts.extensions.get(), out);
    out.put_slice(b"\r\n");
}
