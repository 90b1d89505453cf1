//! Whatever the kernel takes, this reader and hyper's server read the same way: the same C, compiled for the host.

use std::sync::{Arc, Mutex};

use alize_datapath_host::corpus::{SEEDS, changed, smuggling};
use alize_datapath_host::http::{Request, request as kernel};
use bytes::{Bytes, BytesMut};
use http_body_util::{BodyExt, Full};
use hyper::service::service_fn;
use hyper_util::rt::TokioIo;
use proptest::prelude::*;
use tokio::io::{AsyncReadExt, AsyncWriteExt};

use super::framing::Framing;
use super::head::{check_host, request};

/// Method, target, body's length, number of `Host` fields.
type Heard = (String, String, usize, usize);

/// The head, a body of the length that the kernel has read, and one request more that shows where the body ended.
fn with_sentinel(message: &[u8], read: &Request) -> Vec<u8> {
    let body = vec![b'x'; read.body];
    [&message[..read.length], &body, b"GET /sentinel HTTP/1.1\r\nHost: s\r\nConnection: close\r\n\r\n"]
        .concat()
}

/// What a server of hyper hears on a connection with these bytes.
async fn hyper_hears(wire: &[u8]) -> Vec<Heard> {
    let heard: Arc<Mutex<Vec<Heard>>> = Arc::default();
    let (mut client, server) = tokio::io::duplex(1 << 18);
    let service = service_fn(|request: http::Request<hyper::body::Incoming>| {
        let heard = Arc::clone(&heard);
        async move {
            let (parts, body) = request.into_parts();
            let size = body.collect().await?.to_bytes().len();
            let hosts = parts.headers.get_all(http::header::HOST).iter().count();
            heard.lock().unwrap().push((parts.method.to_string(), parts.uri.to_string(), size, hosts));
            Ok::<_, hyper::Error>(http::Response::new(Full::<Bytes>::default()))
        }
    });
    client.write_all(wire).await.unwrap();
    client.shutdown().await.unwrap();
    let serve = hyper::server::conn::http1::Builder::new()
        .half_close(true)
        .serve_connection(TokioIo::new(server), service);
    let mut answers = Vec::new();
    let (_, _) = tokio::join!(serve, client.read_to_end(&mut answers));
    let heard = heard.lock().unwrap();
    heard.clone()
}

/// Whether the kernel takes the message; if so, the other two must agree.
fn agree(runtime: &tokio::runtime::Runtime, message: &[u8], with_hyper: bool) -> bool {
    let Ok(read) = kernel(message) else { return false };
    let text = message.escape_ascii();
    let target = String::from_utf8(read.target(message).to_vec()).unwrap();

    let mut buffer = BytesMut::from(message);
    let ours = request(&mut buffer, &mut 0, 1 << 16);
    let Ok(Some(ours)) = ours else { panic!("{ours:?}: {text}") };
    assert_eq!(message.len() - buffer.len(), read.length, "{text}");
    assert_eq!(ours.parts.method.as_str(), read.method, "{text}");
    assert_eq!(ours.parts.uri.to_string(), target, "{text}");
    assert_eq!(ours.parts.uri.path().as_bytes(), &message[read.path.clone()], "{text}");
    let body = match ours.framing {
        Framing::Empty => 0,
        Framing::Length(length) => length as usize,
        other => panic!("{other:?}: {text}"),
    };
    assert_eq!(body, read.body, "{text}");
    assert!(ours.keep_alive, "{text}");
    assert_eq!(check_host(ours.parts.headers[http::header::HOST].as_bytes()), Ok(()), "{text}");

    if with_hyper {
        let heard = runtime.block_on(hyper_hears(&with_sentinel(message, &read)));
        let expected = [(read.method.into(), target, read.body, 1), ("GET".into(), "/sentinel".into(), 0, 1)];
        assert_eq!(heard, expected, "{text}");
    }
    true
}

fn runtime() -> tokio::runtime::Runtime {
    tokio::runtime::Builder::new_current_thread().build().unwrap()
}

#[test]
fn seeds_and_changed_seeds_are_read_alike() {
    let runtime = runtime();
    assert!(SEEDS.iter().all(|seed| agree(&runtime, seed, true)));
    let taken = (0..4_000).filter(|&number| agree(&runtime, &changed(number), number % 4 == 0)).count();
    assert!(taken > 500, "only {taken}");
}

#[test]
fn every_byte_of_every_seed() {
    let runtime = runtime();
    let mut taken = 0;
    for (which, seed) in SEEDS.iter().enumerate() {
        for at in 0..kernel(seed).unwrap().length {
            let mut message = seed.to_vec();
            for byte in 0..=255u8 {
                message[at] = byte;
                // Hyper takes its time, so it reads a part: of other bytes each time, all that are no letters included.
                let turn = (at + which + usize::from(byte)) % 8 == 0;
                taken += u32::from(agree(&runtime, &message, turn && !byte.is_ascii_alphanumeric()));
            }
        }
    }
    assert!(taken > 20_000, "only {taken}");
}

#[test]
fn what_smuggles_reaches_no_endpoint_as_two_requests() {
    for (name, message) in smuggling() {
        assert!(kernel(&message).is_err(), "{name}");
        // The proxy may take what it then writes anew: a head is complete, and frames its body in one way.
        if let Ok(Some(head)) = request(&mut BytesMut::from(&*message), &mut 0, 1 << 16) {
            let hosts = head.parts.headers.get_all(http::header::HOST).iter().count();
            let coded = head.parts.headers.contains_key(http::header::TRANSFER_ENCODING);
            let lengths = head.parts.headers.get_all(http::header::CONTENT_LENGTH).iter().count();
            assert!(hosts <= 1 && !coded && lengths <= 1, "{name}: {head:?}");
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(2_000))]

    #[test]
    fn hosts_that_the_kernel_takes_are_hosts(host in "[a-zA-Z0-9.:_%@/ \\[\\]-]{1,24}") {
        agree(&runtime(), format!("GET / HTTP/1.1\r\nHost: {host}\r\n\r\n").as_bytes(), false);
    }

    #[test]
    fn targets_that_the_kernel_takes_are_targets(target in "/[!-~]{0,24}") {
        agree(&runtime(), format!("GET {target} HTTP/1.1\r\nHost: a\r\n\r\n").as_bytes(), false);
    }
}
