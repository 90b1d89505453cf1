//! What clients see: real sockets that dial service addresses.

mod world;

use std::collections::HashMap;
use std::io::{ErrorKind, Read, Write};
use std::net::{SocketAddr, TcpStream, UdpSocket};

use alize_datapath::{Failure, Refusal};
use world::{TcpServer, UdpServer, World, apply, ask, dial, eventually, service};

#[test]
fn tcp_over_ipv4_reaches_an_endpoint_and_shows_the_service() {
    let world = World::new("tcp4");
    let mut data_path = world.open();
    let server = TcpServer::start("127.0.0.1:0");
    assert!(dial("127.77.0.1:80").is_err(), "nobody listens at the service address itself");

    apply(&mut data_path, &service("web", "127.77.0.1:80", "", &[server.address]));
    let (stream, reached) = dial("127.77.0.1:80").unwrap();
    assert_eq!(reached, server.address);
    assert_eq!(stream.peer_addr().unwrap(), "127.77.0.1:80".parse().unwrap());

    let web = data_path.service_id("web").unwrap();
    let counters = data_path.counters().unwrap();
    let (traffic, _) = counters.services[&web];
    assert_eq!((traffic.connections, traffic.established, traffic.open), (1, 1, 1));
    drop(stream);
    eventually("the connection is counted as closed", || {
        data_path.counters().unwrap().services[&web].0.open == 0
    });
    let endpoint = data_path.endpoints(web)[0];
    let traffic = data_path.counters().unwrap().endpoints[&endpoint.id];
    assert_eq!((traffic.connections, traffic.established, traffic.open), (1, 1, 0));
    assert_eq!(traffic.bytes_received, server.address.to_string().len() as u64 + 1);
}
