//! What httparse and RFC 9112 make of a head that the kernel takes.
//!
//! The functions panic when they differ: they are for tests and fuzzing.

use crate::http::{MESSAGE_SIZE, Reason, Request, request, response};

fn shown(bytes: &[u8]) -> String {
    bytes.escape_ascii().to_string()
}

/// What the kernel takes, httparse must read the same way, and RFC 9112 must frame it the same way.
pub fn agree(message: &[u8]) -> Result<Request, Reason> {
    let read = request(message)?;
    let mut fields = [httparse::EMPTY_HEADER; 128];
    let mut parsed = httparse::Request::new(&mut fields);
    let text = shown(message);
    assert_eq!(parsed.parse(message), Ok(httparse::Status::Complete(read.length)), "{text}");
    assert_eq!(parsed.method, Some(read.method), "{text}");
    assert_eq!(parsed.version, Some(1), "{text}");
    assert_eq!(parsed.path.map(str::as_bytes), Some(read.target(message)), "{text}");
    let path = parsed.path.and_then(|target| target.split('?').next()).map(str::as_bytes);
    assert_eq!(path, Some(&message[read.path.clone()]), "{text}");
    let all = |name: &str| -> Vec<&[u8]> {
        parsed.headers.iter().filter(|f| f.name.eq_ignore_ascii_case(name)).map(|f| f.value).collect()
    };
    assert_eq!(all("host").len(), 1, "{text}");
    for name in ["transfer-encoding", "te", "trailer", "upgrade", "expect", "proxy-connection"] {
        assert!(all(name).is_empty(), "{name} in {text}");
    }
    for option in all("connection") {
        assert!(option.trim_ascii().eq_ignore_ascii_case(b"keep-alive"), "{text}");
    }
    let length = match all("content-length").as_slice() {
        [] => 0,
        [one] => std::str::from_utf8(one).unwrap().trim().parse().unwrap(),
        _ => panic!("two lengths in {text}"),
    };
    assert_eq!(length, read.body, "{text}");
    assert!(read.length + read.body <= MESSAGE_SIZE);
    Ok(read)
}

/// Place of HEAD among the methods.
const HEAD: usize = 1;

/// The same for the response to a request of the method with place `method`.
pub fn agree_on_response(message: &[u8], method: usize) -> Result<(), Reason> {
    let read = response(message, method)?;
    let mut fields = [httparse::EMPTY_HEADER; 128];
    let mut parsed = httparse::Response::new(&mut fields);
    let text = shown(message);
    assert_eq!(parsed.parse(message), Ok(httparse::Status::Complete(read.length)), "{text}");
    assert_eq!((parsed.version, parsed.code), (Some(1), Some(read.status)), "{text}");
    let all = |name: &str| -> Vec<&[u8]> {
        parsed.headers.iter().filter(|f| f.name.eq_ignore_ascii_case(name)).map(|f| f.value).collect()
    };
    assert!(all("transfer-encoding").is_empty() && all("upgrade").is_empty(), "{text}");
    for option in all("connection") {
        assert!(option.trim_ascii().eq_ignore_ascii_case(b"keep-alive"), "{text}");
    }
    let body = match all("content-length").as_slice() {
        _ if method == HEAD || matches!(read.status, 204 | 304) => 0,
        [one] => std::str::from_utf8(one).unwrap().trim().parse().unwrap(),
        other => panic!("{other:?} in {text}"),
    };
    assert_eq!(read.body, body, "{text}");
    Ok(())
}
