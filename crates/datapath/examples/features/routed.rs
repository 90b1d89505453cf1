//! Requests routed by the kernel: from a client's socket straight into that of an endpoint, and the responses back.

use std::io::{self, ErrorKind, Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::os::fd::AsFd;
use std::thread;
use std::time::Duration;

use alize_datapath::DataPath;
use alize_datapath::http::{Armed, Predecessor, Router, RouterOptions, netns_cookie};

use crate::world::{World, apply, eventually, service};

const REQUESTS: u64 = 10;

/// With a proxy that is as small as can be: it accepts, lends one connection to the endpoint, and must hear nothing.
pub(crate) fn try_out(world: &World, data_path: &mut DataPath) {
    data_path.allow_http(true).unwrap_or_else(|error| panic!("{error}"));
    let endpoint = endpoint();
    apply(data_path, &service("routed", "127.77.0.6:80", "protocol: http,", &[endpoint]));
    let options =
        RouterOptions { instance: world.options.instance.clone(), bpffs: world.options.bpffs.clone() };
    let mut router = Router::open(&options).unwrap_or_else(|error| panic!("{error}"));
    router.take_over(Predecessor::Gone, &Default::default()).unwrap_or_else(|error| panic!("{error}"));
    let proxy = TcpListener::bind("127.0.0.1:0").unwrap();
    let netns = netns_cookie(proxy.as_fd()).unwrap();
    router.listen(netns, Some(proxy.local_addr().unwrap().port()), None).unwrap();
    let _lent = lend(&mut router, netns, data_path, endpoint);

    let mut client = TcpStream::connect("127.77.0.6:80").unwrap();
    let (front, _) = proxy.accept().unwrap();
    for number in 0..REQUESTS {
        let request = format!("GET /{number} HTTP/1.1\r\nHost: routed\r\n\r\n");
        client.write_all(request.as_bytes()).unwrap();
        assert_eq!(response(&mut client), format!("you asked for /{number}"));
    }
    front.set_nonblocking(true).unwrap();
    let heard = (&front).read(&mut [0]).map_err(|error| error.kind());
    assert_eq!(heard, Err(ErrorKind::WouldBlock), "the proxy heard a request");
    let counted = || {
        let counters = data_path.http_counters().unwrap();
        counters.requests.iter().map(|routed| routed.statuses[2]).sum::<u64>()
    };
    eventually("every request is counted", || counted() == REQUESTS);
    router.silence(netns).unwrap();
    data_path.allow_http(false).unwrap_or_else(|error| panic!("{error}"));
}

/// A connection to the endpoint that the kernel may lend to clients.
fn lend(router: &mut Router, netns: u64, data_path: &DataPath, address: SocketAddr) -> TcpStream {
    let endpoint = data_path.endpoints(data_path.service_id("routed").unwrap())[0].id;
    let slot = router.reserve(netns, endpoint).unwrap().expect("slots are left");
    let kind = rustix::net::SocketType::STREAM;
    let socket = rustix::net::socket(rustix::net::AddressFamily::INET, kind, None).unwrap();
    rustix::net::bind(&socket, &"127.0.0.1:0".parse::<SocketAddr>().unwrap()).unwrap();
    let back = TcpStream::from(socket);
    let local = back.local_addr().unwrap();
    router.dial(slot, local, address).unwrap();
    rustix::net::connect(&back, &address).unwrap();
    assert_eq!(router.arm(slot, local, address, &back).unwrap(), Armed::Here);
    back
}

/// A server of HTTP that says what it was asked for.
fn endpoint() -> SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap();
    thread::spawn(move || {
        for mut stream in listener.incoming().flatten() {
            thread::spawn(move || {
                while let Ok(head) = head(&mut stream) {
                    let text = format!("you asked for {}", head.split(' ').nth(1).unwrap_or_default());
                    let response = format!("HTTP/1.1 200 OK\r\nContent-Length: {}\r\n\r\n{text}", text.len());
                    if stream.write_all(response.as_bytes()).is_err() {
                        return;
                    }
                }
            });
        }
    });
    address
}

/// A socket that is redirected to may wake up with nothing to read (docs/adr/0007).
fn byte(stream: &mut TcpStream) -> io::Result<u8> {
    let mut byte = [0];
    loop {
        match stream.read(&mut byte) {
            Ok(0) => return Err(ErrorKind::UnexpectedEof.into()),
            Ok(_) => return Ok(byte[0]),
            Err(error) if error.kind() == ErrorKind::WouldBlock => thread::sleep(Duration::from_millis(1)),
            Err(error) => return Err(error),
        }
    }
}

fn head(stream: &mut TcpStream) -> io::Result<String> {
    let mut text = Vec::new();
    while !text.ends_with(b"\r\n\r\n") {
        text.push(byte(stream)?);
    }
    Ok(String::from_utf8_lossy(&text).into_owned())
}

fn response(stream: &mut TcpStream) -> String {
    stream.set_read_timeout(Some(Duration::from_secs(20))).unwrap();
    let head = head(stream).unwrap_or_else(|error| panic!("no response: {error}"));
    let length = head.lines().find_map(|line| line.strip_prefix("Content-Length: ")?.parse().ok());
    let body: io::Result<Vec<u8>> = (0..length.unwrap_or(0)).map(|_: usize| byte(stream)).collect();
    String::from_utf8(body.unwrap()).unwrap()
}
