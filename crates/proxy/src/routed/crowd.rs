//! Pools ahead of demand: who connects will ask, so connections to endpoints are made when clients come and not when their
//! requests find none.

use std::collections::HashMap;
use std::sync::atomic::Ordering;
use std::sync::{Arc, Mutex};

use crate::back::lock;
use crate::kernel::Netns;

use super::Routed;

/// Clients of one service in one network namespace beyond which more are no reason for more connections: of many thousands
/// most are asleep. What is needed beyond that is made on demand, and late: an endpoint that is busy accepts one connection
/// between two rounds of requests (nginx does), so a pool that is too small under load stays so for seconds.
const COUNTED: usize = 1024;

/// Clients with a connection that the kernel may route.
#[derive(Default)]
pub(super) struct Crowd {
    clients: Mutex<HashMap<u64, (Netns, u32)>>,
    sizes: Mutex<HashMap<(Netns, u32), usize>>,
}

impl Crowd {
    /// A client of a service has come; how many there are now.
    pub(super) fn enter(&self, cookie: u64, netns: Netns, service: u32) -> usize {
        if lock(&self.clients).insert(cookie, (netns, service)).is_some() {
            return 0;
        }
        let mut sizes = lock(&self.sizes);
        let size = sizes.entry((netns, service)).or_default();
        *size += 1;
        *size
    }

    pub(super) fn size(&self, netns: Netns, service: u32) -> usize {
        lock(&self.sizes).get(&(netns, service)).copied().unwrap_or(0)
    }

    pub(super) fn knows(&self, cookie: u64) -> bool {
        lock(&self.clients).contains_key(&cookie)
    }

    pub(super) fn leave(&self, cookie: u64) {
        let Some(place) = lock(&self.clients).remove(&cookie) else { return };
        let mut sizes = lock(&self.sizes);
        if let Some(size) = sizes.get_mut(&place) {
            *size -= 1;
            if *size == 0 {
                sizes.remove(&place);
            }
        }
    }
}

/// Connections to each of `endpoints` for so many clients. Each client has one request outstanding at most, but endpoints are
/// chosen by two draws and not in turn, so some get more than their share.
fn wanted(clients: usize, endpoints: usize) -> usize {
    let share = clients.min(COUNTED).div_ceil(endpoints.max(1));
    if endpoints > 1 { share + share.div_ceil(4) } else { share }
}

impl Routed {
    /// A client has connected to a service: makes sure that its requests find connections.
    pub(super) fn expect(self: &Arc<Self>, cookie: u64, netns: Netns, service: u32) {
        let clients = self.crowd.enter(cookie, netns, service);
        self.provide(clients, netns, service);
    }

    /// A client of a service has gone, and a connection to an endpoint with it: the others may be left with too few.
    pub(super) fn replace(self: &Arc<Self>, netns: Netns, service: u32) {
        if !self.has_let_go.load(Ordering::Acquire) {
            self.provide(self.crowd.size(netns, service), netns, service);
        }
    }

    fn provide(self: &Arc<Self>, clients: usize, netns: Netns, service: u32) {
        let endpoints = lock(&self.endpoints).of(service);
        for (number, pool) in &endpoints {
            let wanted = wanted(clients, endpoints.len()).max(pool.min_idle as usize);
            self.slots.reach(self, netns, *number, wanted);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_client_is_counted_once_and_has_a_connection_to_come_to() {
        let crowd = Crowd::default();
        let place = (Netns(1), 7);
        assert_eq!((crowd.enter(1, place.0, place.1), crowd.enter(2, place.0, place.1)), (1, 2));
        assert_eq!(crowd.enter(2, place.0, place.1), 0, "it is known already");
        crowd.leave(1);
        crowd.leave(1);
        assert_eq!(crowd.enter(3, place.0, place.1), 2);
        assert_eq!((wanted(1, 1), wanted(64, 1), wanted(64, 2), wanted(1, 100)), (1, 64, 40, 2));
        assert_eq!(
            (wanted(100_000, 1), crowd.size(place.0, place.1), crowd.size(Netns(2), 7)),
            (COUNTED, 2, 0)
        );
    }
}
