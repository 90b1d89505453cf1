//! Where everything is: service addresses, endpoints and links, worked out from numbers so that the load generator,
//! the rule sets and the service file agree without sending each other lists.

use std::net::{Ipv4Addr, SocketAddrV4};

/// Endpoints of each service.
pub(crate) const ENDPOINTS: u32 = 3;
/// The port that clients dial.
pub(crate) const SERVICE_PORT: u16 = 80;
/// The port that endpoints listen on.
pub(crate) const ENDPOINT_PORT: u16 = 8080;
/// All endpoints, for the server's route; more than 65,536 do not fit.
pub(crate) const ENDPOINT_NETWORK: &str = "10.200.0.0/16";
/// Where endpoints go that a test moves.
pub(crate) const MOVED_NETWORK: &str = "10.201.0.0/16";
/// What the kernel chooses as source address towards [`MOVED_NETWORK`]: so a client learns from its own socket that
/// it was sent to a moved endpoint.
pub(crate) const MOVED_SOURCE: Ipv4Addr = Ipv4Addr::new(10, 251, 0, 2);
/// As many services as the networks above have room for.
pub(crate) const MOST_SERVICES: u32 = 20_000;

const SERVICES: u32 = u32::from_be_bytes([10, 96, 0, 1]);
const HOME: u32 = u32::from_be_bytes([10, 200, 0, 1]);
const MOVED: u32 = u32::from_be_bytes([10, 201, 0, 1]);

/// The address of service number `service`.
pub(crate) fn service(service: u32) -> SocketAddrV4 {
    SocketAddrV4::new(Ipv4Addr::from(SERVICES + service), SERVICE_PORT)
}

/// Endpoint `index` of service number `service`.
pub(crate) fn endpoint(service: u32, index: u32) -> SocketAddrV4 {
    SocketAddrV4::new(Ipv4Addr::from(HOME + service * ENDPOINTS + index), ENDPOINT_PORT)
}

/// Where the first endpoint of service number `service` goes when it moves.
pub(crate) fn moved_endpoint(service: u32) -> SocketAddrV4 {
    SocketAddrV4::new(Ipv4Addr::from(MOVED + service), ENDPOINT_PORT)
}

/// The client's and the server's address of link number `link`.
pub(crate) fn link(link: u8) -> (Ipv4Addr, Ipv4Addr) {
    (Ipv4Addr::new(10, 250, link, 2), Ipv4Addr::new(10, 250, link, 1))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_endpoint_is_inside_its_network_and_apart_from_the_others() {
        let last = endpoint(MOST_SERVICES - 1, ENDPOINTS - 1);
        assert_eq!(last.ip().octets()[..2], [10, 200]);
        assert_eq!(moved_endpoint(MOST_SERVICES - 1).ip().octets()[..2], [10, 201]);
        assert_eq!(u32::from(*endpoint(1, 0).ip()), u32::from(*endpoint(0, ENDPOINTS - 1).ip()) + 1);
    }
}
