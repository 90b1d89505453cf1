//! What a careful reader of whole streams makes of a connection: httparse for the heads, RFC 9112 for the bodies.
//!
//! [`check`] plays a connection to the programs in pieces and compares. The programs may give up, with a reason,
//! where the oracle reads on; what they do count must be what the oracle has counted.

use crate::{Connection, From, Host};

/// An exchange: method, target, status.
pub type Exchange = (String, String, u16);

/// How the bytes after a head belong to the message.
enum Body {
    Length(u64),
    Chunked,
    UntilClose,
}

/// Tallies that say why a connection is not followed.
const REASONS: u32 = 21;

/// Why the oracle stops.
struct Stop;

fn body(headers: &[httparse::Header<'_>], response: bool) -> Result<Option<Body>, Stop> {
    let mut length = None;
    let mut coding = None;
    for header in headers {
        let value = std::str::from_utf8(header.value).map_err(|_| Stop)?.trim_matches([' ', '\t']);
        if header.name.eq_ignore_ascii_case("content-length") {
            let digits = !value.is_empty() && value.len() <= 18 && value.bytes().all(|b| b.is_ascii_digit());
            let value: u64 = digits.then(|| value.parse().ok()).flatten().ok_or(Stop)?;
            if length.is_some_and(|known| known != value) {
                return Err(Stop);
            }
            length = Some(value);
        } else if header.name.eq_ignore_ascii_case("transfer-encoding") {
            let last = value.rsplit([',', ' ', '\t']).next().unwrap_or("");
            coding = Some(last.eq_ignore_ascii_case("chunked"));
        }
    }
    match (coding, length) {
        (Some(true), _) => Ok(Some(Body::Chunked)),
        (Some(false), _) if response => Ok(Some(Body::UntilClose)),
        (Some(false), _) => Err(Stop),
        (None, Some(length)) => Ok(Some(Body::Length(length))),
        (None, None) => Ok(response.then_some(Body::UntilClose)),
    }
}

/// Bytes of the body at the beginning of `bytes`; `None`: it is not complete.
fn body_size(body: &Body, bytes: &[u8]) -> Result<Option<usize>, Stop> {
    match body {
        Body::Length(length) => Ok((bytes.len() as u64 >= *length).then_some(*length as usize)),
        Body::UntilClose => Ok(None),
        Body::Chunked => chunked_size(bytes),
    }
}

fn line(bytes: &[u8]) -> Option<(&[u8], usize)> {
    let feed = bytes.iter().position(|&b| b == b'\n')?;
    Some((bytes[..feed].strip_suffix(b"\r").unwrap_or(&bytes[..feed]), feed + 1))
}

fn chunked_size(bytes: &[u8]) -> Result<Option<usize>, Stop> {
    let mut at = 0;
    loop {
        let Some((text, size)) = line(&bytes[at..]) else { return Ok(None) };
        at += size;
        let digits = text.iter().take_while(|b| b.is_ascii_hexdigit()).count();
        let rest = text[digits..].trim_ascii_start();
        if digits == 0 || digits > 15 || !(rest.is_empty() || rest[0] == b';') {
            return Err(Stop);
        }
        let digits = std::str::from_utf8(&text[..digits]).map_err(|_| Stop)?;
        let chunk = u64::from_str_radix(digits, 16).map_err(|_| Stop)?;
        if chunk == 0 {
            break;
        }
        if ((bytes.len() - at) as u64) < chunk {
            return Ok(None);
        }
        at += chunk as usize;
        let Some((text, size)) = line(&bytes[at..]) else { return Ok(None) };
        if !text.is_empty() {
            return Err(Stop);
        }
        at += size;
    }
    loop {
        let Some((text, size)) = line(&bytes[at..]) else { return Ok(None) };
        at += size;
        if text.is_empty() {
            return Ok(Some(at));
        }
    }
}

/// The exchanges that a connection holds whose two directions are `requests` and `responses`, each complete.
pub fn exchanges(requests: &[u8], responses: &[u8]) -> Vec<Exchange> {
    let asked = read_requests(requests);
    let mut found = Vec::new();
    let _ = read_responses(responses, &asked, &mut found);
    found
}

fn read_requests(mut bytes: &[u8]) -> Vec<(String, String)> {
    let mut asked = Vec::new();
    loop {
        while let Some(rest) = bytes.strip_prefix(b"\r\n").or(bytes.strip_prefix(b"\n")) {
            bytes = rest;
        }
        let mut headers = [httparse::EMPTY_HEADER; 256];
        let mut request = httparse::Request::new(&mut headers);
        let Ok(httparse::Status::Complete(head)) = request.parse(bytes) else { return asked };
        let (Some(method), Some(target)) = (request.method, request.path) else { return asked };
        asked.push((method.to_owned(), target.to_owned()));
        let Ok(body) = body(request.headers, false) else {
            asked.pop();
            return asked;
        };
        bytes = &bytes[head..];
        match body.map_or(Ok(Some(0)), |body| body_size(&body, bytes)) {
            Ok(Some(size)) => bytes = &bytes[size..],
            _ => return asked,
        }
    }
}

fn read_responses(
    mut bytes: &[u8],
    asked: &[(String, String)],
    found: &mut Vec<Exchange>,
) -> Result<(), Stop> {
    for (method, target) in asked {
        let status = loop {
            let mut headers = [httparse::EMPTY_HEADER; 256];
            let mut response = httparse::Response::new(&mut headers);
            let Ok(httparse::Status::Complete(head)) = response.parse(bytes) else { return Err(Stop) };
            let status = response.code.ok_or(Stop)?;
            let body = body(response.headers, true);
            bytes = &bytes[head..];
            if (100..200).contains(&status) && status != 101 {
                body?;
                continue;
            }
            let over = status == 101 || (method == "CONNECT" && status < 300);
            if over {
                body?;
                found.push((method.clone(), target.clone(), status));
                return Err(Stop);
            }
            let bodiless = method == "HEAD" || status == 204 || status == 304;
            let body = body?.filter(|_| !bodiless);
            match body.map_or(Ok(Some(0)), |body| body_size(&body, bytes))? {
                Some(size) => bytes = &bytes[size..],
                None => return Err(Stop),
            }
            break status;
        };
        found.push((method.clone(), target.clone(), status));
    }
    Ok(())
}

/// Plays the connection in pieces whose sizes `cuts` gives, over and over, all requests first. Gives what the programs
/// counted, and whether they lost the thread.
pub fn play(requests: &[u8], responses: &[u8], cuts: &[u16]) -> (Vec<Exchange>, bool) {
    let mut host = Host::default();
    let mut connection = Connection::new(&mut host);
    let mut cuts = cuts.iter().map(|&cut| usize::from(cut).max(1)).cycle();
    for (from, mut bytes) in [(From::Client, requests), (From::Server, responses)] {
        while !bytes.is_empty() {
            let size = cuts.next().unwrap_or(usize::MAX).min(bytes.len()).min(60_000);
            connection.send(from, &bytes[..size]);
            bytes = &bytes[size..];
        }
    }
    let requests = host.requests().into_iter().filter_map(Result::ok);
    let answered = requests.filter_map(|request| Some((request.method, request.target, request.status?)));
    let counted =
        answered.map(|(method, target, status)| (method.as_str().to_owned(), target, status)).collect();
    (counted, (0..REASONS).any(|reason| host.tally(reason) != 0))
}

/// Panics when the programs count what the oracle does not.
pub fn check(requests: &[u8], responses: &[u8], cuts: &[u16]) {
    let (counted, lost) = play(requests, responses, cuts);
    let mut expected = exchanges(requests, responses);
    for (method, target, _) in &mut expected {
        if !["GET", "HEAD", "POST", "PUT", "DELETE", "CONNECT", "OPTIONS", "TRACE", "PATCH"]
            .contains(&method.as_str())
        {
            *method = "_OTHER".into();
        }
        let kept = (0..=112.min(target.len())).rev().find(|&end| target.is_char_boundary(end)).unwrap_or(0);
        target.truncate(kept);
    }
    // The programs hold less against a head than httparse does, so after the oracle has stopped they may go on.
    let both = counted.len().min(expected.len());
    assert_eq!(counted[..both], expected[..both], "cuts {cuts:?}");
    assert!(lost || counted.len() >= expected.len(), "{counted:?} instead of {expected:?}, cuts {cuts:?}");
}
