//! Consistent hashing: one function, carried out by the proxy for each request and written into tables for the kernel.

use std::net::IpAddr;

/// Into so many places callers and values of headers are divided: a prime that does not depend on how many endpoints there
/// are, so that only those move whose endpoint goes.
pub const PLACES: u32 = 2039;

/// Who calls: a client's address in its network namespace.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Caller {
    /// The kernel's cookie of the namespace.
    pub netns: u64,
    /// Of the client.
    pub address: IpAddr,
}

impl Caller {
    /// The address as 128 bits of IPv6, an IPv4 one v4-mapped: words in network order, as the kernel has them.
    pub fn words(&self) -> [u32; 4] {
        let octets = match self.address {
            IpAddr::V4(v4) => v4.to_ipv6_mapped().octets(),
            IpAddr::V6(v6) => v6.octets(),
        };
        let word =
            |at: usize| u32::from_ne_bytes([octets[at], octets[at + 1], octets[at + 2], octets[at + 3]]);
        [word(0), word(4), word(8), word(12)]
    }

    /// Which of the [`PLACES`] is the caller's: `caller_place` of the kernel's `http/route.h`.
    pub fn place(&self) -> u32 {
        let netns = [self.netns as u32, (self.netns >> 32) as u32];
        let words = netns.into_iter().chain(self.words());
        let hash = words.fold(BASIS, |hash, word| (hash ^ u64::from(word)).wrapping_mul(PRIME));
        (finish(hash) % u64::from(PLACES)) as u32
    }
}

/// Which of the [`PLACES`] a value of a header has: `value_place` of the kernel's `http/headers.h`, which takes 32 bytes.
pub fn value_place(value: &[u8]) -> u32 {
    let word = |bytes: &[u8]| {
        let mut word = [0; 8];
        word.iter_mut().zip(bytes).for_each(|(to, from)| *to = *from);
        u64::from_le_bytes(word)
    };
    let words = value.chunks(8).map(word);
    let missing = std::iter::repeat_n(0, 4usize.saturating_sub(value.len().div_ceil(8)));
    let hash = words
        .chain(missing)
        .chain([value.len() as u64])
        .fold(BASIS, |hash, word| (hash ^ word).wrapping_mul(PRIME));
    (finish(hash) % u64::from(PLACES)) as u32
}

const BASIS: u64 = 0xcbf2_9ce4_8422_2325;
const PRIME: u64 = 0x0100_0000_01b3;

/// FNV-1a with the finish of SplitMix64. The same on every host, so it is no hash that a library may change.
pub fn hash(bytes: &[u8], seed: u64) -> u64 {
    finish(bytes.iter().fold(BASIS ^ seed, |hash, byte| (hash ^ u64::from(*byte)).wrapping_mul(PRIME)))
}

fn finish(mut hash: u64) -> u64 {
    hash = (hash ^ (hash >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    hash = (hash ^ (hash >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    hash ^ (hash >> 31)
}

/// Which of `endpoints`, given by their addresses as text and their weights, has the requests with this hash: the highest random weight. One that
/// comes or goes moves only the requests that it gets or had.
pub fn rendezvous<Address: AsRef<str>>(
    hash_of_request: u64,
    endpoints: impl Iterator<Item = (Address, u16)>,
) -> Option<usize> {
    let scores = endpoints.map(|(address, weight)| {
        let drawn = hash(address.as_ref().as_bytes(), hash_of_request);
        let even = (drawn >> 11) as f64 / (1_u64 << 53) as f64;
        -f64::from(weight) / even.max(f64::MIN_POSITIVE).ln()
    });
    scores.enumerate().max_by(|a, b| a.1.total_cmp(&b.1)).map(|(place, _)| place)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn endpoints(count: u16) -> Vec<(String, u16)> {
        (1..=count).map(|port| (format!("10.0.0.1:{port}"), 1)).collect()
    }

    #[test]
    fn only_what_an_endpoint_had_moves_when_it_goes() {
        let all = endpoints(10);
        let less: Vec<_> = all.iter().filter(|(address, _)| address != "10.0.0.1:4").cloned().collect();
        let mut moved = 0;
        for place in 0..PLACES {
            let at = |of: &[(String, u16)]| {
                let place = rendezvous(place.into(), of.iter().map(|(address, weight)| (address, *weight)));
                of[place.unwrap()].0.clone()
            };
            let (before, after) = (at(&all), at(&less));
            assert!(before == after || before == "10.0.0.1:4", "place {place}: {before:?}, then {after:?}");
            moved += u32::from(before != after);
        }
        assert!((150..260).contains(&moved), "a tenth of the places moves, not {moved}");
    }

    #[test]
    fn values_are_spread() {
        let mut counts = [0u32; PLACES as usize];
        (0..20_390).for_each(|n| counts[value_place(format!("user-{n}").as_bytes()) as usize] += 1);
        assert!(counts.iter().all(|count| *count < 40), "{:?}", counts.iter().max());
        let long = "x".repeat(100);
        assert_ne!(value_place(long.as_bytes()), value_place(&long.as_bytes()[..99]));
        assert_ne!(value_place(b""), value_place(b"\0"));
    }

    #[test]
    fn callers_are_told_apart_by_address_and_namespace() {
        let caller = |netns, text: &str| Caller { netns, address: text.parse().unwrap() }.place();
        assert_eq!(caller(1, "10.0.0.1"), caller(1, "::ffff:10.0.0.1"), "one address, two spellings");
        let mut places: Vec<u32> = (0..100).map(|n| caller(n, "127.0.0.1")).collect();
        places.extend((0..100).map(|n| caller(7, &format!("10.0.0.{n}"))));
        places.sort_unstable();
        places.dedup();
        assert!(places.len() > 180, "{} places for 200 callers", places.len());
    }
}
