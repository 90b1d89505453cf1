//! Consistent hashing by a lookup table (Eisenbud et al. 2016, "Maglev", section 3.4), with weights.

use std::net::SocketAddr;

use super::weights::Share;
use crate::abi::{Slot, address_words};

/// A table of `size` slots, `size` being prime. Endpoints take turns to claim the next free place of their own
/// permutation, in proportion to their weights; `hash` gives a permutation that only the endpoint's address decides,
/// so that most places keep their endpoint when another comes or goes, and after a restart.
pub(super) fn slots(shares: &[Share], size: u32, hash: impl Fn(u32) -> [u64; 2]) -> Vec<Slot> {
    let size = u64::from(size);
    let largest = shares.iter().map(|share| share.weight).max().unwrap_or(1);
    let mut claimants: Vec<Claimant> = shares
        .iter()
        .map(|share| {
            let [offset, skip] = hash(share.position);
            Claimant {
                next: offset % size,
                skip: if size > 1 { skip % (size - 1) + 1 } else { 0 },
                credit: 0,
            }
        })
        .collect();
    let mut places: Vec<Option<u32>> = vec![None; size as usize];
    let mut free = size;
    while free > 0 {
        for (claimant, share) in claimants.iter_mut().zip(shares) {
            claimant.credit += share.weight;
            if claimant.credit < largest || free == 0 {
                continue;
            }
            claimant.credit -= largest;
            let place = claimant.claim(&places, size);
            places[place as usize] = Some(share.position);
            free -= 1;
        }
    }
    places.into_iter().flatten().map(Slot::only).collect()
}

struct Claimant {
    next: u64,
    skip: u64,
    credit: u64,
}

impl Claimant {
    /// The next free place of the permutation. There is one: the size is prime, so the steps reach every place.
    fn claim(&mut self, places: &[Option<u32>], size: u64) -> u64 {
        loop {
            let place = self.next;
            self.next = (self.next + self.skip) % size;
            if places[place as usize].is_none() {
                return place;
            }
        }
    }
}

/// Offset and skip of an endpoint, from its address alone.
pub(super) fn hash(address: SocketAddr) -> [u64; 2] {
    let [a, b, c, d] = address_words(address.ip()).map(u32::from_be);
    let wide = |high: u32, low: u32| u64::from(high) << 32 | u64::from(low);
    let base = mix(mix(mix(wide(a, b)) ^ wide(c, d)) ^ u64::from(address.port()));
    [mix(base ^ 1), mix(base ^ 2)]
}

/// Finalizer of MurmurHash3, as in `bpf/alize/client.h`.
pub(crate) fn mix(mut h: u64) -> u64 {
    h ^= h >> 33;
    h = h.wrapping_mul(0xff51_afd7_ed55_8ccd);
    h ^= h >> 33;
    h = h.wrapping_mul(0xc4ce_b9fe_1a85_ec53);
    h ^ h >> 33
}
