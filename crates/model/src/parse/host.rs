//! Which addresses can be virtual, and which can be dialled.

use std::collections::HashMap;
use std::net::{IpAddr, SocketAddr};

use crate::{HostFacts, Mode};

use super::scalar::Refusal;

/// The addresses of this host, for many questions.
pub(super) struct Host<'a> {
    interfaces: HashMap<IpAddr, &'a str>,
}

impl<'a> Host<'a> {
    pub(super) fn new(facts: &'a HostFacts) -> Self {
        Self { interfaces: facts.local_addresses.iter().map(|(ip, name)| (*ip, name.as_str())).collect() }
    }

    /// Whether clients may dial `address` as a service's. Observing looks at real addresses too.
    pub(super) fn check_service(&self, address: SocketAddr, mode: Mode) -> Result<(), Refusal> {
        let ip = address.ip();
        undialable(ip)?;
        if mode == Mode::Observe {
            return Ok(());
        }
        let real = |what: String| {
            let help = "write an address that no machine has, or `mode: observe` to look only";
            Err(Refusal::new(format!("is not virtual: it is {what}"), help))
        };
        match ip {
            IpAddr::V4(v4) if v4 == std::net::Ipv4Addr::LOCALHOST => {
                return real("this host's loopback".into());
            }
            IpAddr::V4(v4) if v4.is_link_local() => return real("link-local".into()),
            IpAddr::V6(v6) if v6.is_loopback() => return real("this host's loopback".into()),
            _ => {}
        }
        match self.interfaces.get(&ip) {
            Some(interface) => real(format!("assigned to interface {interface} of this host")),
            None => Ok(()),
        }
    }
}

/// Whether a connection to an endpoint at `address` can be made at all.
pub(super) fn check_endpoint(address: SocketAddr) -> Result<(), Refusal> {
    undialable(address.ip())
}

/// Refuses what neither a service nor an endpoint can have.
fn undialable(ip: IpAddr) -> Result<(), Refusal> {
    let help = "write the address of one machine or service";
    match ip {
        ip if ip.is_unspecified() => Err(Refusal::new("is the unspecified address", help)),
        ip if ip.is_multicast() => Err(Refusal::new("is a multicast address", help)),
        IpAddr::V4(v4) if v4.is_broadcast() => Err(Refusal::new("is the broadcast address", help)),
        IpAddr::V6(v6) if v6.is_unicast_link_local() => Err(Refusal::new(
            "is link-local",
            "it means nothing without an interface: write an address with a larger scope",
        )),
        _ => Ok(()),
    }
}
