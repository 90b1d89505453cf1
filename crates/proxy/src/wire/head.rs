//! The heads of requests and responses.

use bytes::{Buf, Bytes, BytesMut};
use http::header::{
    AUTHORIZATION, CONNECTION, CONTENT_LENGTH, CONTENT_TYPE, COOKIE, HOST, TE, TRAILER, TRANSFER_ENCODING,
    UPGRADE,
};
use http::{HeaderMap, HeaderName, HeaderValue, Method, StatusCode, Uri, Version, request, response};

use super::framing::Framing;
use super::spelling::Spelling;
pub(super) use super::write::write_field;
pub(crate) use super::write::{After, write_request, write_response};

/// Why a message was refused. Each is one spelling of "two servers could read this in two ways", or of "too much".
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) enum Fault {
    /// The request line or the status line is none, or a line does not end with CR LF.
    Line,
    /// The target of the request is of no form that fits its method.
    Target,
    /// The version is neither 1.0 nor 1.1.
    Version,
    /// A field is malformed.
    Field,
    /// None, several or a malformed `Host`.
    Host,
    /// The length of the body is ambiguous.
    Length,
    /// A transfer coding that is not `chunked`.
    Coding,
    /// An expectation that is not `100-continue`.
    Expectation,
    /// A chunk is malformed.
    Chunk,
    /// The trailers are malformed or too long.
    Trailer,
    /// The request line is too long.
    LongTarget,
    /// The head is too long, or has too many fields.
    LongHead,
}

/// Most fields of a head.
const FIELDS: usize = 128;

/// Fields that may not stand behind a body.
pub(super) const NEVER_TRAILERS: [HeaderName; 10] = [
    TRANSFER_ENCODING,
    CONTENT_LENGTH,
    HOST,
    CONNECTION,
    TE,
    TRAILER,
    UPGRADE,
    AUTHORIZATION,
    COOKIE,
    CONTENT_TYPE,
];

/// Fields that a peer cannot declare hop-by-hop: dropping them would change what the message means.
const END_TO_END: [HeaderName; 5] = [HOST, CONTENT_LENGTH, CONTENT_TYPE, AUTHORIZATION, COOKIE];

/// A request's head.
#[derive(Debug)]
pub(crate) struct RequestHead {
    /// Method, target in origin form (`*` and `host:port` for OPTIONS and CONNECT), fields without those of the hop.
    pub(crate) parts: request::Parts,
    /// Where the body ends.
    pub(crate) framing: Framing,
    /// Whether the client wants to go on afterwards.
    pub(crate) keep_alive: bool,
}

/// A response's head.
#[derive(Debug)]
pub(crate) struct ResponseHead {
    /// Status and fields without those of the hop.
    pub(crate) parts: response::Parts,
    /// Where the body ends.
    pub(crate) framing: Framing,
    /// Whether the server will take another request.
    pub(crate) keep_alive: bool,
    /// Seconds for which the server keeps the connection, if it said so.
    pub(crate) kept_for: Option<u64>,
}

/// Position behind the empty line that ends a head, looking on from `from`, up to which it was looked at before.
///
/// Everything that is no text, and every line that does not end with CR LF, is an error as soon as it is seen.
pub(super) fn end_of(bytes: &[u8], from: usize) -> Result<Option<usize>, Fault> {
    for at in from..bytes.len() {
        match bytes[at] {
            b'\n' => {
                if at == 0 || bytes[at - 1] != b'\r' {
                    return Err(Fault::Line);
                }
                if at >= 3 && bytes[at - 2] == b'\n' {
                    return Ok(Some(at + 1));
                }
            }
            byte => {
                let after_return = at > 0 && bytes[at - 1] == b'\r';
                if after_return || (byte < b' ' && byte != b'\t' && byte != b'\r') || byte == 0x7f {
                    return Err(Fault::Line);
                }
            }
        }
    }
    Ok(None)
}

/// Reads the head of a request from the front of `buffer`, when it is complete. `seen` is how far it was looked at. What is
/// refused stays.
pub(crate) fn request(
    buffer: &mut BytesMut,
    seen: &mut usize,
    limit: usize,
) -> Result<Option<RequestHead>, Fault> {
    if *seen == 0 {
        // Empty lines before a request line are forgiven, RFC 9112 section 2.2; the time for a head bounds them.
        while buffer.starts_with(b"\r\n") {
            buffer.advance(2);
        }
        if buffer.is_empty() || buffer.as_ref() == b"\r" {
            return Ok(None);
        }
    }
    let Some(end) = end_of(&buffer[..buffer.len().min(limit)], *seen)? else {
        if buffer.len() >= limit {
            let line = buffer[..limit].contains(&b'\n');
            return Err(if line { Fault::LongHead } else { Fault::LongTarget });
        }
        *seen = buffer.len();
        return Ok(None);
    };
    *seen = 0;
    let head = parse_request(&buffer[..end])?;
    buffer.advance(end);
    Ok(Some(head))
}

fn parse_request(head: &[u8]) -> Result<RequestHead, Fault> {
    let line_end = head.iter().position(|&byte| byte == b'\r').ok_or(Fault::Line)?;
    let (method, target, version) = request_line(&head[..line_end])?;
    let mut parts = http::Request::new(()).into_parts().0;
    parts.method = Method::from_bytes(method).map_err(|_| Fault::Line)?;
    parts.version = version;
    let mut spelling = Spelling::default();
    fields(&head[line_end + 2..], &mut parts.headers, Some(&mut spelling))?;
    parts.uri = uri(&parts.method, target, &mut parts.headers, version)?;
    if !spelling.is_empty() {
        parts.extensions.insert(spelling);
    }
    let framing = request_framing(&parts.headers, version)?;
    expectation(&mut parts.headers, version)?;
    let hop = take_hop_fields(&mut parts.headers);
    if let Some(protocol) = hop.upgrade.filter(|_| version == Version::HTTP_11) {
        parts.extensions.insert(Upgrade(protocol));
    }
    if hop.trailers {
        parts.headers.insert(TE, HeaderValue::from_static("trailers"));
    }
    let keep_alive = !hop.close && (version == Version::HTTP_11 || hop.keep_alive);
    Ok(RequestHead { parts, framing, keep_alive })
}

/// The protocol that a client asks to change to; an extension of a request.
#[derive(Clone, Debug)]
pub(crate) struct Upgrade(pub(crate) HeaderValue);

fn request_line(line: &[u8]) -> Result<(&[u8], &[u8], Version), Fault> {
    let mut words = line.split(|&byte| byte == b' ');
    let (Some(method), Some(target), Some(version), None) =
        (words.next(), words.next(), words.next(), words.next())
    else {
        return Err(Fault::Line);
    };
    let version = match version {
        b"HTTP/1.1" => Version::HTTP_11,
        b"HTTP/1.0" => Version::HTTP_10,
        other if other.len() == 8 && other.starts_with(b"HTTP/") => return Err(Fault::Version),
        _ => return Err(Fault::Line),
    };
    Ok((method, target, version))
}

/// The target in the form in which it is routed, RFC 9112 section 3.2; `Host` is what it says afterwards.
fn uri(method: &Method, target: &[u8], headers: &mut HeaderMap, version: Version) -> Result<Uri, Fault> {
    if target.is_empty() || target.iter().any(|&byte| !byte.is_ascii_graphic() || byte == b'#') {
        return Err(Fault::Target);
    }
    let mut hosts = headers.get_all(HOST).iter();
    match (hosts.next(), hosts.next()) {
        (Some(host), None) => check_host(host.as_bytes())?,
        (None, _) if version == Version::HTTP_10 => {}
        _ => return Err(Fault::Host),
    }
    if *method == Method::CONNECT {
        let uri = Uri::try_from(target).map_err(|_| Fault::Target)?;
        let complete = uri.authority().is_some_and(|authority| authority.port_u16().is_some());
        return if complete && uri.path().is_empty() { Ok(uri) } else { Err(Fault::Target) };
    }
    match target {
        b"*" if *method == Method::OPTIONS => Ok(Uri::from_static("*")),
        [b'/', ..] => Uri::try_from(target).map_err(|_| Fault::Target),
        _ => absolute(target, headers),
    }
}

fn absolute(target: &[u8], headers: &mut HeaderMap) -> Result<Uri, Fault> {
    let uri = Uri::try_from(target).map_err(|_| Fault::Target)?;
    let (Some("http"), Some(authority)) = (uri.scheme_str(), uri.authority()) else {
        return Err(Fault::Target);
    };
    check_host(authority.as_str().as_bytes()).map_err(|_| Fault::Target)?;
    // RFC 9112 says to believe the target; servers are known that believe the field. Both must say the same.
    if headers
        .get(HOST)
        .is_some_and(|host| !host.as_bytes().eq_ignore_ascii_case(authority.as_str().as_bytes()))
    {
        return Err(Fault::Host);
    }
    headers.insert(HOST, HeaderValue::from_str(authority.as_str()).map_err(|_| Fault::Target)?);
    let path = uri.path_and_query().map_or("/", |path| path.as_str());
    Uri::try_from(path).map_err(|_| Fault::Target)
}

/// A host with an optional port, and nothing that another reader might take for a path or a user.
pub(crate) fn check_host(host: &[u8]) -> Result<(), Fault> {
    let plain = |byte: u8| byte.is_ascii_alphanumeric() || b"-._~%!$&'()*+;=:[]".contains(&byte);
    if !host.iter().copied().all(plain) {
        return Err(Fault::Host);
    }
    http::uri::Authority::try_from(host).map(drop).map_err(|_| Fault::Host)
}

fn request_framing(headers: &HeaderMap, version: Version) -> Result<Framing, Fault> {
    let length = content_length(headers, false)?;
    match (coding(headers)?, length) {
        (None, None) => Ok(Framing::Empty),
        (None, Some(length)) => Ok(Framing::Length(length)),
        (Some(_), _) if version != Version::HTTP_11 => Err(Fault::Length),
        (Some(_), Some(_)) => Err(Fault::Length),
        (Some(Coding::Chunked), None) => Ok(Framing::Chunked),
        (Some(Coding::Other), None) => Err(Fault::Coding),
    }
}

enum Coding {
    Chunked,
    Other,
}

/// `chunked` alone, once, in this spelling up to case: all else has been read in two ways by somebody.
fn coding(headers: &HeaderMap) -> Result<Option<Coding>, Fault> {
    let mut codings = headers.get_all(TRANSFER_ENCODING).iter();
    match (codings.next(), codings.next()) {
        (None, _) => Ok(None),
        (Some(one), None) if one.as_bytes().eq_ignore_ascii_case(b"chunked") => Ok(Some(Coding::Chunked)),
        (Some(one), None)
            if one.as_bytes().iter().all(|byte| byte.is_ascii_alphanumeric()) && !one.is_empty() =>
        {
            Ok(Some(Coding::Other))
        }
        _ => Err(Fault::Length),
    }
}

/// The announced length. `repeated` allows the same value several times, as responses of careless servers have it.
fn content_length(headers: &HeaderMap, repeated: bool) -> Result<Option<u64>, Fault> {
    let mut lengths = headers.get_all(CONTENT_LENGTH).iter();
    let Some(first) = lengths.next() else { return Ok(None) };
    if lengths.any(|other| !repeated || other != first) {
        return Err(Fault::Length);
    }
    let digits = first.as_bytes();
    if digits.is_empty() || digits.len() > 18 || !digits.iter().all(u8::is_ascii_digit) {
        return Err(Fault::Length);
    }
    Ok(Some(digits.iter().fold(0, |length, digit| length * 10 + u64::from(digit - b'0'))))
}

fn expectation(headers: &mut HeaderMap, version: Version) -> Result<(), Fault> {
    let mut expectations = headers.get_all(http::header::EXPECT).iter();
    match (expectations.next(), expectations.next()) {
        (None, _) => Ok(()),
        // A 1.0 client cannot read the answer.
        _ if version == Version::HTTP_10 => {
            headers.remove(http::header::EXPECT);
            Ok(())
        }
        (Some(one), None) if one.as_bytes().eq_ignore_ascii_case(b"100-continue") => Ok(()),
        _ => Err(Fault::Expectation),
    }
}

#[derive(Default)]
struct Hop {
    close: bool,
    keep_alive: bool,
    upgrade: Option<HeaderValue>,
    trailers: bool,
    kept_for: Option<u64>,
}

/// Takes out the fields that are of this connection only, RFC 9110 section 7.6.1.
fn take_hop_fields(headers: &mut HeaderMap) -> Hop {
    let mut hop = Hop::default();
    let mut named = Vec::new();
    let mut upgrade = false;
    for token in
        headers.get_all(CONNECTION).iter().flat_map(|value| value.as_bytes().split(|&byte| byte == b','))
    {
        let token = token.trim_ascii();
        if token.eq_ignore_ascii_case(b"close") {
            hop.close = true;
        } else if token.eq_ignore_ascii_case(b"keep-alive") {
            hop.keep_alive = true;
        } else if token.eq_ignore_ascii_case(b"upgrade") {
            upgrade = true;
        } else if let Ok(name) = HeaderName::from_bytes(token)
            && !END_TO_END.contains(&name)
        {
            named.push(name);
        }
    }
    hop.trailers = headers.get_all(TE).iter().any(|value| {
        value
            .as_bytes()
            .split(|&byte| byte == b',')
            .any(|te| te.trim_ascii().eq_ignore_ascii_case(b"trailers"))
    });
    hop.kept_for = headers.get("keep-alive").and_then(kept_for);
    let protocol = headers.get(UPGRADE).cloned();
    hop.upgrade = protocol.filter(|_| upgrade);
    for name in [CONNECTION, TE, TRANSFER_ENCODING, UPGRADE] {
        headers.remove(name);
    }
    for name in ["keep-alive", "proxy-connection", "http2-settings"] {
        headers.remove(name);
    }
    for name in named {
        headers.remove(name);
    }
    hop
}

fn kept_for(value: &HeaderValue) -> Option<u64> {
    let parameters = value.to_str().ok()?.split(',');
    parameters.map(str::trim).find_map(|parameter| parameter.strip_prefix("timeout=")?.parse().ok())
}

/// Reads the head of a response from the front of `buffer`, when it is complete.
///
/// `to` is the method of the request that it answers.
pub(crate) fn response(
    buffer: &mut BytesMut,
    to: &Method,
    limit: usize,
) -> Result<Option<ResponseHead>, Fault> {
    let mut fields = [httparse::EMPTY_HEADER; FIELDS];
    let mut response = httparse::Response::new(&mut fields);
    let seen = &buffer[..buffer.len().min(limit)];
    let end = match response.parse(seen) {
        Ok(httparse::Status::Complete(end)) => end,
        Ok(httparse::Status::Partial) if buffer.len() >= limit => return Err(Fault::LongHead),
        Ok(httparse::Status::Partial) => return Ok(None),
        Err(httparse::Error::TooManyHeaders) => return Err(Fault::LongHead),
        Err(httparse::Error::HeaderName | httparse::Error::HeaderValue) => return Err(Fault::Field),
        Err(httparse::Error::Version) => return Err(Fault::Version),
        Err(_) => return Err(Fault::Line),
    };
    let mut parts = http::Response::new(()).into_parts().0;
    let status = response.code.ok_or(Fault::Line)?;
    parts.status = StatusCode::from_u16(status).map_err(|_| Fault::Line)?;
    parts.version = if response.version == Some(0) { Version::HTTP_10 } else { Version::HTTP_11 };
    if let Some(reason) = response.reason.filter(|reason| Some(*reason) != parts.status.canonical_reason()) {
        parts.extensions.insert(Phrase(Bytes::copy_from_slice(reason.as_bytes())));
    }
    let mut spelling = Spelling::default();
    for field in response.headers.iter() {
        add(field, &mut parts.headers, Some(&mut spelling))?;
    }
    if !spelling.is_empty() {
        parts.extensions.insert(spelling);
    }
    buffer.advance(end);
    finish_response(parts, to).map(Some)
}

/// A reason phrase that is not the usual one; an extension of a response.
#[derive(Clone, Debug)]
pub(crate) struct Phrase(pub(crate) Bytes);

fn finish_response(mut parts: response::Parts, to: &Method) -> Result<ResponseHead, Fault> {
    let framing = response_framing(&parts, to)?;
    let hop = take_hop_fields(&mut parts.headers);
    let persistent = !hop.close && (parts.version == Version::HTTP_11 || hop.keep_alive);
    if let (StatusCode::SWITCHING_PROTOCOLS, Some(protocol)) = (parts.status, hop.upgrade) {
        parts.extensions.insert(Upgrade(protocol));
    }
    if framing == Framing::Empty && !bodiless_announces_length(&parts, to) {
        // A length that nothing follows, where there never is a body: some servers send it, nobody should read it.
        parts.headers.remove(CONTENT_LENGTH);
    }
    let keep_alive = persistent && framing != Framing::UntilClose && !parts.status.is_informational();
    Ok(ResponseHead { parts, framing, keep_alive, kept_for: hop.kept_for })
}

/// Whether a `Content-Length` of a response without body tells the length that another response would have.
fn bodiless_announces_length(parts: &response::Parts, to: &Method) -> bool {
    *to == Method::HEAD || parts.status == StatusCode::NOT_MODIFIED
}

fn response_framing(parts: &response::Parts, to: &Method) -> Result<Framing, Fault> {
    let length = content_length(&parts.headers, true)?;
    let coding = coding(&parts.headers)?;
    let bodiless = *to == Method::HEAD
        || parts.status.is_informational()
        || parts.status == StatusCode::NO_CONTENT
        || parts.status == StatusCode::NOT_MODIFIED
        || (*to == Method::CONNECT && parts.status.is_success());
    match (coding, length) {
        (Some(_), Some(_)) => Err(Fault::Length),
        _ if bodiless => Ok(Framing::Empty),
        (Some(Coding::Chunked), None) if parts.version == Version::HTTP_11 => Ok(Framing::Chunked),
        (Some(_), None) => Err(Fault::Coding),
        (None, Some(length)) => Ok(Framing::Length(length)),
        (None, None) => Ok(Framing::UntilClose),
    }
}

/// Reads field lines, up to the empty line.
pub(super) fn fields(
    lines: &[u8],
    headers: &mut HeaderMap,
    mut spelling: Option<&mut Spelling>,
) -> Result<(), Fault> {
    let mut space = [httparse::EMPTY_HEADER; FIELDS];
    match httparse::parse_headers(lines, &mut space) {
        Ok(httparse::Status::Complete((end, fields))) if end == lines.len() => {
            fields.iter().try_for_each(|field| add(field, headers, spelling.as_deref_mut()))
        }
        Err(httparse::Error::TooManyHeaders) => Err(Fault::LongHead),
        _ => Err(Fault::Field),
    }
}

fn add(
    field: &httparse::Header<'_>,
    headers: &mut HeaderMap,
    spelling: Option<&mut Spelling>,
) -> Result<(), Fault> {
    let name = HeaderName::from_bytes(field.name.as_bytes()).map_err(|_| Fault::Field)?;
    let value = HeaderValue::from_bytes(field.value.trim_ascii()).map_err(|_| Fault::Field)?;
    if let Some(spelling) = spelling {
        spelling.note(&name, field.name.as_bytes());
    }
    headers.try_append(name, value).map(drop).map_err(|_| Fault::LongHead)
}
