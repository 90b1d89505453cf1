//! Where the body of a message ends, RFC 9112 section 6 and 7.

use bytes::{Buf, BufMut, Bytes, BytesMut};
use http::HeaderMap;

use super::head::{self, Fault};

/// How the end of a body is known.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Framing {
    /// There is none.
    Empty,
    /// So many bytes.
    Length(u64),
    /// Chunks, the last of which is empty.
    Chunked,
    /// The connection ends; responses only.
    UntilClose,
}

/// The longest line of a chunk's size with its extensions.
const SIZE_LINE: usize = 256;
/// The longest trailer section.
const TRAILERS: usize = 16 * 1024;

/// Cuts a body out of the bytes of a connection.
#[derive(Debug)]
pub(crate) enum Decoder {
    /// Complete.
    Done,
    /// So many bytes are left.
    Length(u64),
    /// At the line of a chunk's size.
    Size,
    /// So many bytes of a chunk are left.
    Chunk(u64),
    /// At the line end behind a chunk.
    ChunkEnd,
    /// At the trailers.
    Trailers,
    /// All there is.
    UntilClose,
}

/// What was cut.
#[derive(Debug)]
pub(crate) enum Decoded {
    /// Bytes of the body.
    Data(Bytes),
    /// The trailers, which come last.
    Trailers(HeaderMap),
    /// The body is complete.
    End,
    /// Nothing without further bytes.
    More,
}

impl Decoder {
    pub(crate) fn new(framing: Framing) -> Self {
        match framing {
            Framing::Empty | Framing::Length(0) => Self::Done,
            Framing::Length(length) => Self::Length(length),
            Framing::Chunked => Self::Size,
            Framing::UntilClose => Self::UntilClose,
        }
    }

    pub(crate) fn is_done(&self) -> bool {
        matches!(self, Self::Done)
    }

    /// Bytes that are still to come, where that is known.
    pub(crate) fn left(&self) -> Option<u64> {
        match self {
            Self::Done => Some(0),
            Self::Length(left) => Some(*left),
            _ => None,
        }
    }

    /// Cuts the next piece from the front of `buffer`.
    pub(crate) fn decode(&mut self, buffer: &mut BytesMut) -> Result<Decoded, Fault> {
        loop {
            match self {
                Self::Done => return Ok(Decoded::End),
                Self::UntilClose if buffer.is_empty() => return Ok(Decoded::More),
                Self::UntilClose => return Ok(Decoded::Data(buffer.split().freeze())),
                Self::Length(left) => {
                    let Some((data, rest)) = take(buffer, *left) else { return Ok(Decoded::More) };
                    *self = if rest == 0 { Self::Done } else { Self::Length(rest) };
                    return Ok(Decoded::Data(data));
                }
                Self::Chunk(left) => {
                    let Some((data, rest)) = take(buffer, *left) else { return Ok(Decoded::More) };
                    *self = if rest == 0 { Self::ChunkEnd } else { Self::Chunk(rest) };
                    return Ok(Decoded::Data(data));
                }
                Self::Size => match chunk_size(buffer)? {
                    None => return Ok(Decoded::More),
                    Some(0) => *self = Self::Trailers,
                    Some(size) => *self = Self::Chunk(size),
                },
                Self::ChunkEnd => {
                    if !line_end(buffer)? {
                        return Ok(Decoded::More);
                    }
                    *self = Self::Size;
                }
                Self::Trailers => {
                    let Some(trailers) = trailers(buffer)? else { return Ok(Decoded::More) };
                    *self = Self::Done;
                    return Ok(if trailers.is_empty() { Decoded::End } else { Decoded::Trailers(trailers) });
                }
            }
        }
    }

    /// Whether the end of the connection ends the body in order.
    pub(crate) fn ends_with_connection(&self) -> bool {
        matches!(self, Self::Done | Self::UntilClose)
    }
}

/// Up to `left` bytes, and what is left then; nothing from an empty buffer.
fn take(buffer: &mut BytesMut, left: u64) -> Option<(Bytes, u64)> {
    let size = usize::try_from(left).unwrap_or(usize::MAX).min(buffer.len());
    (size > 0).then(|| (buffer.split_to(size).freeze(), left - size as u64))
}

fn line_end(buffer: &mut BytesMut) -> Result<bool, Fault> {
    match buffer.as_ref() {
        [b'\r', b'\n', ..] => {
            buffer.advance(2);
            Ok(true)
        }
        [] | [b'\r'] => Ok(false),
        _ => Err(Fault::Chunk),
    }
}

/// The size line of a chunk: 1 to 16 hexadecimal digits, and extensions that nobody needs.
fn chunk_size(buffer: &mut BytesMut) -> Result<Option<u64>, Fault> {
    let seen = &buffer[..buffer.len().min(SIZE_LINE)];
    let Some(end) = seen.iter().position(|&byte| byte == b'\n') else {
        // A size that cannot become right is refused before the line is complete.
        let digits = seen.iter().take_while(|byte| byte.is_ascii_hexdigit()).count();
        let next = seen.get(digits);
        let hopeful = digits <= 16 && next.is_none_or(|next| digits > 0 && b";\r\t ".contains(next));
        return if hopeful && seen.len() < SIZE_LINE { Ok(None) } else { Err(Fault::Chunk) };
    };
    let line = seen[..end].strip_suffix(b"\r").ok_or(Fault::Chunk)?;
    let digits = line.iter().take_while(|byte| byte.is_ascii_hexdigit()).count();
    let (digits, extensions) = line.split_at(digits);
    if digits.is_empty() || digits.len() > 16 {
        return Err(Fault::Chunk);
    }
    let blank = extensions.iter().take_while(|byte| b"\t ".contains(byte)).count();
    let extensions = &extensions[blank..];
    if !(extensions.is_empty() || extensions[0] == b';') || extensions.iter().any(|&byte| !field_byte(byte)) {
        return Err(Fault::Chunk);
    }
    let size = digits.iter().fold(0, |size, &digit| size << 4 | u64::from(hex(digit)));
    // No sender means it, and sums of it would overflow.
    if size > u64::MAX >> 1 {
        return Err(Fault::Chunk);
    }
    buffer.advance(end + 1);
    Ok(Some(size))
}

fn hex(digit: u8) -> u8 {
    match digit {
        b'0'..=b'9' => digit - b'0',
        _ => (digit | 0x20) - b'a' + 10,
    }
}

/// Bytes that may stand in a field's value.
fn field_byte(byte: u8) -> bool {
    byte == b'\t' || (byte >= b' ' && byte != 0x7f)
}

fn trailers(buffer: &mut BytesMut) -> Result<Option<HeaderMap>, Fault> {
    if buffer.starts_with(b"\r\n") {
        buffer.advance(2);
        return Ok(Some(HeaderMap::new()));
    }
    let seen = buffer.len().min(TRAILERS);
    let Some(end) = head::end_of(&buffer[..seen], 0).map_err(|_| Fault::Trailer)? else {
        return if buffer.len() >= TRAILERS { Err(Fault::Trailer) } else { Ok(None) };
    };
    let mut trailers = HeaderMap::new();
    head::fields(&buffer[..end], &mut trailers, None).map_err(|_| Fault::Trailer)?;
    // Fields that frame or route a message mean nothing behind it, and must not reach who would believe them.
    for name in head::NEVER_TRAILERS {
        trailers.remove(name);
    }
    buffer.advance(end);
    Ok(Some(trailers))
}

/// Writes a body so that its end is known.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Encoder {
    /// Nothing may be written.
    Empty,
    /// So many bytes are left to be written.
    Length(u64),
    /// In chunks.
    Chunked,
    /// As it is; the connection's end is the body's.
    UntilClose,
}

impl Encoder {
    pub(crate) fn new(framing: Framing) -> Self {
        match framing {
            Framing::Empty => Self::Empty,
            Framing::Length(length) => Self::Length(length),
            Framing::Chunked => Self::Chunked,
            Framing::UntilClose => Self::UntilClose,
        }
    }

    /// Adds `data` to `out`; `false` if it is more than was announced, which must end the connection.
    pub(crate) fn data(&mut self, data: Bytes, out: &mut crate::socket::Out) -> bool {
        let size = data.len() as u64;
        match self {
            // An empty chunk would end the body.
            _ if size == 0 => true,
            Self::Empty => false,
            Self::Length(left) => match left.checked_sub(size) {
                Some(rest) => {
                    *left = rest;
                    out.push(data);
                    true
                }
                None => false,
            },
            Self::Chunked => {
                out.line(format_args!("{size:x}\r\n"));
                out.push(data);
                out.line(format_args!("\r\n"));
                true
            }
            Self::UntilClose => {
                out.push(data);
                true
            }
        }
    }

    /// Ends the body, with trailers where the framing has a place for them; `false` if announced bytes are missing.
    pub(crate) fn end(&mut self, trailers: Option<&HeaderMap>, out: &mut crate::socket::Out) -> bool {
        match std::mem::replace(self, Self::Empty) {
            Self::Length(left) => left == 0,
            Self::Empty | Self::UntilClose => true,
            Self::Chunked => {
                let mut end = BytesMut::from(&b"0\r\n"[..]);
                for (name, value) in trailers.into_iter().flatten() {
                    if !head::NEVER_TRAILERS.contains(name) {
                        head::write_field(name, value, None, &mut end);
                    }
                }
                end.put_slice(b"\r\n");
                out.push(end.freeze());
                true
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn all(
        decoder: &mut Decoder,
        wire: &[u8],
        step: usize,
    ) -> Result<(Vec<u8>, Option<HeaderMap>, usize), Fault> {
        let (mut buffer, mut body, mut last) = (BytesMut::new(), Vec::new(), None);
        let mut fed = 0;
        loop {
            match decoder.decode(&mut buffer)? {
                Decoded::Data(data) => body.extend_from_slice(&data),
                Decoded::Trailers(trailers) => last = Some(trailers),
                Decoded::End => return Ok((body, last, wire.len() - fed + buffer.len())),
                Decoded::More if fed == wire.len() => return Ok((body, last, usize::MAX)),
                Decoded::More => {
                    let next = wire.len().min(fed + step);
                    buffer.extend_from_slice(&wire[fed..next]);
                    fed = next;
                }
            }
        }
    }

    #[test]
    fn chunks_are_read_whatever_the_cuts() {
        let wire =
            b"4\r\nWiki\r\n0A;x=\"y\"\r\n0123456789\r\n0\r\nX-Sum: abc\r\nContent-Length: 9\r\n\r\nGET / ";
        for step in 1..wire.len() {
            let (body, trailers, rest) = all(&mut Decoder::new(Framing::Chunked), wire, step).unwrap();
            assert_eq!(body, b"Wiki0123456789");
            let trailers = trailers.unwrap();
            assert_eq!(trailers["x-sum"], "abc");
            assert!(!trailers.contains_key("content-length"), "no framing in trailers");
            assert_eq!(rest, 6, "what follows is not touched");
        }
    }

    #[test]
    fn doubtful_chunks_are_refused() {
        let wires: [&[u8]; 17] = [
            b"\r\n",
            b"g\r\n",
            b"4\nWiki\r\n",
            b"4\r\nWiki!\r\n",
            b"4\r\nWiki\n0\r\n\r\n",
            b"0x4\r\nWiki",
            b"+4\r\n",
            b"-1\r\n",
            b" 4\r\nWiki",
            b"4 x\r\nWiki",
            b"4\x0c;x\r\nWiki",
            b"11111111111111111\r\n",
            b"ffffffffffffffff\r\n",
            b"4;a\rb\r\nWiki",
            b"4;\0\r\n",
            b"0\r\nbad name: x\r\n\r\n",
            b"0\r\nX: a\n\r\n\r\n",
        ];
        for wire in wires {
            for step in [1, 3, 64] {
                let outcome = all(&mut Decoder::new(Framing::Chunked), wire, step);
                assert!(
                    outcome.is_err(),
                    "{:?} in steps of {step}: {outcome:?}",
                    wire.escape_ascii().to_string()
                );
            }
        }
        let long = [b"1;".as_slice(), &[b'a'; 300]].concat();
        assert!(all(&mut Decoder::new(Framing::Chunked), &long, 1).is_err(), "a size line has an end");
    }

    proptest! {
        #[test]
        fn what_is_written_is_read(pieces in proptest::collection::vec(proptest::collection::vec(any::<u8>(), 0..400), 0..9),
                                   step in 1usize..90) {
            let mut out = crate::socket::Out::default();
            let mut encoder = Encoder::new(Framing::Chunked);
            for piece in &pieces {
                prop_assert!(encoder.data(Bytes::copy_from_slice(piece), &mut out));
            }
            let mut trailers = HeaderMap::new();
            trailers.insert("grpc-status", "0".parse().unwrap());
            prop_assert!(encoder.end(Some(&trailers), &mut out));
            let (body, read, rest) = all(&mut Decoder::new(Framing::Chunked), &out.collect(), step).unwrap();
            prop_assert_eq!(body, pieces.concat());
            prop_assert_eq!(read.unwrap(), trailers);
            prop_assert_eq!(rest, 0);
        }

        #[test]
        fn no_bytes_make_it_panic(wire in proptest::collection::vec(any::<u8>(), 0..300), step in 1usize..20) {
            let _ = all(&mut Decoder::new(Framing::Chunked), &wire, step);
        }
    }

    #[test]
    fn a_length_is_kept_to() {
        let mut out = crate::socket::Out::default();
        let mut encoder = Encoder::new(Framing::Length(3));
        assert!(encoder.data(Bytes::from_static(b"ab"), &mut out));
        assert!(!encoder.clone().end(None, &mut out), "a byte is missing");
        assert!(!encoder.clone().data(Bytes::from_static(b"cd"), &mut out), "a byte too many");
        assert!(encoder.data(Bytes::from_static(b"c"), &mut out) && encoder.end(None, &mut out));
        assert_eq!(out.collect(), b"abc");
    }
}
