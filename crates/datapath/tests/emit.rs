//! Requests that another program than the observing ones has seen: an sk_msg program emits, the observer hands over.

mod world;

use std::io::{Read, Write};
use std::net::{TcpListener, TcpStream};
use std::os::fd::AsRawFd;

use alize_datapath::InForce;
use alize_datapath::observe::{self, Event, Filter, Limits, Observer, PathLabel};
use libbpf_rs::{MapCore, MapFlags, Object, ObjectBuilder};
use world::World;

/// libelf reads words in place, so the bytes must be aligned.
#[repr(C, align(16))]
struct Aligned<Bytes: ?Sized>(Bytes);

const OBJECT: &Aligned<[u8]> = &Aligned(*include_bytes!(concat!(env!("OUT_DIR"), "/observe_emit.bpf.o")));

fn load(world: &World) -> Object {
    let mut object = ObjectBuilder::default().open_memory(&OBJECT.0).unwrap();
    observe::share_maps(&mut object, &world.options, &Limits::default()).unwrap();
    object.load().unwrap_or_else(|error| panic!("the verifier takes it: {error:?}"))
}

/// Puts the client's end of a connection into the program's sockmap and sends through it.
fn send(object: &Object, times: usize) {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let mut client = TcpStream::connect(listener.local_addr().unwrap()).unwrap();
    let (mut server, _) = listener.accept().unwrap();
    let sockets = object.maps().find(|map| map.name() == "sockets").unwrap();
    let descriptor = u64::try_from(client.as_raw_fd()).unwrap();
    sockets.update(&0u32.to_ne_bytes(), &descriptor.to_ne_bytes(), MapFlags::ANY).unwrap();
    for _ in 0..times {
        client.write_all(b"12345").unwrap();
        server.read_exact(&mut [0; 5]).unwrap();
    }
}

#[test]
fn what_another_program_emits_is_traced_filtered_and_recorded() {
    let world = World::new("observe-emit");
    let object = load(&world);
    let sockets = object.maps().find(|map| map.name() == "sockets").unwrap();
    let program = object.progs_mut().find(|program| program.name() == "emit_message").unwrap();
    program.attach_sockmap(std::os::fd::AsFd::as_fd(&sockets).as_raw_fd()).unwrap();
    let mut observer = Observer::open(&world.options, &Limits::default(), &InForce::default()).unwrap();
    let mut emitted = |filter: &Filter, times| {
        let trace = observer.start_trace(filter).unwrap();
        send(&object, times);
        let mut requests = Vec::new();
        let mut each = |event: Result<Event, _>| match event.unwrap() {
            Event::Request(request) => requests.push(request),
            other => panic!("{other:?}"),
        };
        observer.poll(&mut each).unwrap();
        observer.stop_trace(trace).unwrap();
        requests
    };
    let requests = emitted(&Filter { path_prefix: "/em".into(), ..Filter::default() }, 3);
    assert_eq!(requests.len(), 3);
    let request = &requests[0];
    assert_eq!((request.path_label, request.status), (PathLabel::KernelL7, Some(503)));
    assert_eq!((request.target.as_str(), request.request_bytes), ("/emit", 5));
    let own = std::process::id();
    assert_eq!(request.client.as_ref().and_then(|client| client.pid), Some(own));
    assert_eq!(emitted(&Filter { status: Some((200, 299)), ..Filter::default() }, 3), []);
    let server = requests[0].server_address;
    let here = Filter { endpoints: Some(vec!["127.0.0.1:1".parse().unwrap(), server]), ..Filter::default() };
    assert_eq!(emitted(&here, 1).len(), 0, "each connection of the test has a server of its own");
    let failed = observer.failed().unwrap();
    assert_eq!(failed.len(), 7, "the recorder keeps failures, whoever asks");
    assert!(failed.iter().all(|request| request.path_label == PathLabel::KernelL7));
    assert!(observer.slowest().unwrap().iter().any(|request| request.target == "/emit"));
}
