//! TCP connections and DNS queries as a trace tells them.

use std::net::{TcpListener, TcpStream, UdpSocket};
use std::thread;

use alize_datapath::InForce;
use alize_datapath::observe::{
    DnsQuery, Event, Filter, Kinds, Limits, Observer, TcpEvent, TcpKind, TcpReason,
};

use crate::world::{World, eventually};

fn tracing(world: &World, kinds: Kinds) -> Observer {
    let mut observer = Observer::open(&world.options, &Limits::default(), &InForce::default())
        .unwrap_or_else(|error| panic!("{error}"));
    let filter = Filter { kinds, ..Filter::default() };
    observer.start_trace(&filter).unwrap_or_else(|error| panic!("{error}"));
    observer
}

/// Events until `enough`.
fn hear(observer: &mut Observer, what: &str, enough: impl Fn(&[Event]) -> bool) {
    let mut events = Vec::new();
    eventually(what, || {
        observer.poll(&mut |event| events.push(event.expect("the kernel writes what can be read"))).unwrap();
        enough(&events)
    });
}

/// A connect that succeeds, and one that does not.
pub(crate) fn tcp(world: &World) {
    let mut observer = tracing(world, Kinds { requests: false, tcp: true, dns: false });
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let server = listener.local_addr().unwrap();
    let free = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
    drop((TcpStream::connect(server).unwrap(), TcpStream::connect(free).unwrap_err()));
    let any = |events: &[Event], wanted: &dyn Fn(&TcpEvent) -> bool| {
        events.iter().any(|event| matches!(event, Event::Tcp(event) if wanted(event)))
    };
    hear(&mut observer, "both connects are told", |events| {
        any(events, &|event| event.kind == TcpKind::Connected && event.remote == server)
            && any(events, &|event| {
                (event.kind, event.remote, event.reason) == (TcpKind::Failed, free, Some(TcpReason::Refused))
            })
    });
}

/// Asks for `seen.example`, type A, and answers that there is no such name.
pub(crate) fn dns(world: &World) {
    let mut observer = tracing(world, Kinds { requests: false, tcp: false, dns: true });
    let server = UdpSocket::bind("127.77.0.8:53").expect("port 53 is free there");
    let address = server.local_addr().unwrap();
    let answering = thread::spawn(move || {
        let mut bytes = [0; 512];
        let (read, from) = server.recv_from(&mut bytes).unwrap();
        // A response: recursion was desired and is available, code 3.
        bytes[2..4].copy_from_slice(&[0x81, 0x83]);
        server.send_to(&bytes[..read], from).unwrap();
    });
    let query = b"\x12\x34\x01\x00\x00\x01\x00\x00\x00\x00\x00\x00\x04seen\x07example\x00\x00\x01\x00\x01";
    let client = UdpSocket::bind("127.0.0.1:0").unwrap();
    client.send_to(query, address).unwrap();
    client.recv_from(&mut [0; 512]).unwrap();
    answering.join().unwrap();
    let is_ours = |query: &DnsQuery| {
        (query.name.as_str(), query.query_type, query.code, query.server_address)
            == ("seen.example", 1, Some(3), address)
    };
    hear(&mut observer, "the query is told with its answer", |events| {
        events.iter().any(|event| matches!(event, Event::Dns(query) if is_ours(query)))
    });
}
