//! One connection of the load generator, and the response that it waits for.

use std::net::SocketAddrV4;

use anyhow::{Context, Result, bail, ensure};
use rustix::fd::OwnedFd;
use rustix::io::Errno;
use rustix::net::{AddressFamily, RecvFlags, SendFlags, SocketFlags, SocketType, sockopt};

use crate::http::origin::byte_at;

/// No head of a response is longer.
const LONGEST_HEAD: usize = 16 * 1024;
/// So many bytes at the end of whatever is read are compared with what the body must hold there.
const COMPARED: usize = 16;

/// Not blocking, without Nagle's delay.
pub(crate) fn open(target: SocketAddrV4) -> Result<OwnedFd> {
    let flags = SocketFlags::CLOEXEC | SocketFlags::NONBLOCK;
    let socket = rustix::net::socket_with(AddressFamily::INET, SocketType::STREAM, flags, None)?;
    sockopt::set_tcp_nodelay(&socket, true)?;
    match rustix::net::connect(&socket, &target) {
        Ok(()) | Err(Errno::INPROGRESS) => Ok(socket),
        Err(error) => Err(error).with_context(|| format!("connect to {target}")),
    }
}

/// Once a connect has ended: how.
pub(crate) fn connected(socket: &OwnedFd) -> Result<()> {
    match sockopt::socket_error(socket)? {
        Ok(()) => Ok(()),
        Err(error) => Err(error).context("connect"),
    }
}

/// A request is sent at once or not at all: it is smaller than any send buffer, and nothing else is in that.
pub(crate) fn send(socket: &OwnedFd, request: &[u8]) -> Result<()> {
    let sent = rustix::net::send(socket, request, SendFlags::NOSIGNAL).context("send the request")?;
    ensure!(sent == request.len(), "the socket took {sent} of {} bytes of the request", request.len());
    Ok(())
}

/// Whether a connection without a request is still open.
pub(crate) fn idle(socket: &OwnedFd) -> Result<bool> {
    match rustix::net::recv(socket, &mut [0u8; 1], RecvFlags::PEEK) {
        Ok((_, 0)) | Err(Errno::CONNRESET) => Ok(false),
        Err(Errno::AGAIN | Errno::INTR) => Ok(true),
        Ok(_) => bail!("the server spoke while no request was under way"),
        Err(error) => Err(error).context("an idle connection"),
    }
}

/// What a read brought.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Progress {
    More,
    Complete,
}

/// A response as far as it has come.
#[derive(Debug, Default)]
pub(crate) struct Response {
    /// A head that is not complete yet.
    head: Vec<u8>,
    /// Of the body, when the head is complete.
    length: Option<u64>,
    received: u64,
}

impl Response {
    /// Reads once. A wake-up without data is no error.
    pub(crate) fn read(&mut self, socket: &OwnedFd, buffer: &mut [u8], body: u64) -> Result<Progress> {
        let read = match rustix::net::recv(socket, &mut *buffer, RecvFlags::empty()) {
            Ok((_, read)) => read,
            Err(Errno::AGAIN | Errno::INTR) => return Ok(Progress::More),
            Err(error) => return Err(error).context("receive the response"),
        };
        if read == 0 {
            bail!("the connection was closed before the end of the response");
        }
        self.feed(&buffer[..read], body)
    }

    /// Takes bytes of the response, of which the body must have that length.
    fn feed(&mut self, bytes: &[u8], body: u64) -> Result<Progress> {
        let rest = match self.length {
            Some(_) => bytes,
            None if self.head.is_empty() => match head(bytes)? {
                Some((end, length)) => {
                    self.length = Some(length);
                    &bytes[end..]
                }
                None => {
                    self.head.extend_from_slice(bytes);
                    return Ok(Progress::More);
                }
            },
            None => {
                let before = self.head.len();
                self.head.extend_from_slice(bytes);
                let Some((end, length)) = head(&self.head)? else {
                    ensure!(self.head.len() <= LONGEST_HEAD, "the head of the response is too long");
                    return Ok(Progress::More);
                };
                self.length = Some(length);
                // The end of the head lies in what has just come.
                bytes.get(end - before..).unwrap_or_default()
            }
        };
        let length = self.length.unwrap_or_default();
        ensure!(length == body, "a body of {length} bytes came, {body} were expected");
        self.received += rest.len() as u64;
        ensure!(self.received <= length, "{} bytes follow the response", self.received - length);
        compare(rest, self.received)?;
        if self.received < length {
            return Ok(Progress::More);
        }
        self.head.clear();
        (self.length, self.received) = (None, 0);
        Ok(Progress::Complete)
    }

    /// Forgets everything, for another connection.
    pub(crate) fn reset(&mut self) {
        *self = Self::default();
    }
}

/// Length of the head and of the body, once the head is complete.
fn head(bytes: &[u8]) -> Result<Option<(usize, u64)>> {
    let mut fields = [httparse::EMPTY_HEADER; 64];
    let mut response = httparse::Response::new(&mut fields);
    let httparse::Status::Complete(end) = response.parse(bytes).context("the response is no HTTP/1.1")?
    else {
        return Ok(None);
    };
    ensure!(response.code == Some(200), "the status is {}", response.code.unwrap_or(0));
    let length = response.headers.iter().find(|field| field.name.eq_ignore_ascii_case("content-length"));
    let length = length.context("the response has no Content-Length")?;
    let text = std::str::from_utf8(length.value).unwrap_or_default();
    Ok(Some((end, text.parse().with_context(|| format!("Content-Length is {text:?}"))?)))
}

/// The last bytes of `part`, which ends at `end` of the body.
fn compare(part: &[u8], end: u64) -> Result<()> {
    let last = &part[part.len().saturating_sub(COMPARED)..];
    let first = end - last.len() as u64;
    let right = last.iter().zip(first..).all(|(byte, place)| *byte == byte_at(place));
    ensure!(right, "the body is another than was sent, near byte {end}");
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::http::origin::body;

    fn whole(length: usize) -> Vec<u8> {
        let mut bytes = format!("HTTP/1.1 200 OK\r\nContent-Length: {length}\r\nX-A: b\r\n\r\n").into_bytes();
        bytes.extend(body(length));
        bytes
    }

    #[test]
    fn a_response_in_any_pieces_is_the_same_response() {
        let bytes = whole(300);
        for piece in [1, 2, 7, 50, 61, 299, 10_000] {
            let mut response = Response::default();
            let mut seen = Vec::new();
            for part in bytes.chunks(piece) {
                seen.push(response.feed(part, 300).unwrap());
            }
            assert_eq!(seen.pop(), Some(Progress::Complete), "pieces of {piece}");
            assert!(seen.iter().all(|progress| *progress == Progress::More), "pieces of {piece}");
        }
    }

    #[test]
    fn an_empty_body_ends_with_the_head() {
        assert_eq!(Response::default().feed(&whole(0), 0).unwrap(), Progress::Complete);
    }

    #[test]
    fn what_is_wrong_is_an_error_and_says_what() {
        let fails =
            |bytes: &[u8], body: u64| format!("{:#}", Response::default().feed(bytes, body).unwrap_err());
        assert!(fails(b"HTTP/1.1 503 No\r\nContent-Length: 0\r\n\r\n", 0).contains("503"));
        assert!(
            fails(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n", 0).contains("Content-Length")
        );
        assert!(fails(b"hello there\r\n\r\n", 0).contains("no HTTP"));
        assert!(fails(&whole(10), 11).contains("expected"));
        let mut longer = whole(10);
        longer.push(b'x');
        assert!(fails(&longer, 10).contains("follow"));
        let mut other = whole(100);
        let last = other.len() - 1;
        other[last] ^= 1;
        assert!(fails(&other, 100).contains("another"));
    }
}
