//! The border with the kernel programs: the types of `bpf/alize/abi.h`, generated, and their words packed and unpacked.
#![allow(unsafe_code)]

use std::net::{IpAddr, Ipv6Addr, SocketAddr, SocketAddrV6};

use alize_model::{Mode, Transport};

#[allow(
    clippy::all,
    clippy::undocumented_unsafe_blocks,
    dead_code,
    missing_docs,
    unreachable_pub,
    unused_imports,
    reason = "written by libbpf-cargo; of the skeleton only the types are used"
)]
mod generated {
    include!(concat!(env!("OUT_DIR"), "/abi.rs"));
}

use generated::types::{abi, balance, service_word, slot_word};
pub(crate) use generated::types::{
    affinity, affinity_key, anomaly, decisions, endpoint, endpoint_load, endpoint_state, event, event_kind,
    failure, frontend_key, mode, outcomes, refusal, service, service_name, traffic, version_count,
};
#[cfg(test)]
pub(crate) use generated::types::{connection, flow, flows};

pub(crate) const ABI_VERSION: u32 = abi::ABI_VERSION.0;

/// "No such thing" where a number is expected: `NONE` of abi.h, whose enum has no name to be generated under.
pub(crate) const NONE: u32 = u32::MAX;

/// A type that is nothing but its bytes.
///
/// # Safety
/// No padding, no pointer, and every pattern of bits is a value. `-Wpadded` holds the C side to the first.
pub(crate) unsafe trait Plain: Copy {
    fn bytes(&self) -> &[u8] {
        // SAFETY: the implementer has no padding, so each of its bytes is initialized.
        unsafe { std::slice::from_raw_parts(std::ptr::from_ref(self).cast(), size_of::<Self>()) }
    }

    /// The value whose bytes `bytes` begins with; `None` when they are too few.
    fn read(bytes: &[u8]) -> Option<Self> {
        // SAFETY: the length is checked, the read is unaligned, and any bits are a value.
        (bytes.len() >= size_of::<Self>()).then(|| unsafe { std::ptr::read_unaligned(bytes.as_ptr().cast()) })
    }
}

macro_rules! plain {
    ($($type:ty),*) => {
        $(
            // SAFETY: integers, and arrays and structs of integers that -Wpadded has found free of padding.
            unsafe impl $crate::abi::Plain for $type {}
        )*
    };
}
pub(crate) use plain;

plain!(
    u32,
    u64,
    affinity_key,
    affinity,
    frontend_key,
    service,
    service_name,
    endpoint,
    endpoint_load,
    traffic,
    decisions,
    outcomes,
    event
);

/// `BALANCE_*`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Choice {
    WeightedRandom,
    RoundRobin,
    LeastConnections,
    Maglev,
}

/// A word of `services`, unpacked.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct ServiceWord {
    pub(crate) base: u32,
    pub(crate) length: u32,
    pub(crate) choice: Choice,
    pub(crate) mode: Mode,
    /// Whole seconds, 0 is off.
    pub(crate) affinity: u16,
}

/// Places that a service word can name.
pub(crate) const MAX_PLACES: u32 = 1 << service_word::SERVICE_BASE_BITS.0;
/// The longest run that a service word can name.
pub(crate) const MAX_LENGTH: u32 = (1 << service_word::SERVICE_LENGTH_BITS.0) - 1;

impl ServiceWord {
    pub(crate) fn pack(self) -> u64 {
        let choice = match self.choice {
            Choice::WeightedRandom => balance::BALANCE_WEIGHTED_RANDOM,
            Choice::RoundRobin => balance::BALANCE_ROUND_ROBIN,
            Choice::LeastConnections => balance::BALANCE_LEAST_CONNECTIONS,
            Choice::Maglev => balance::BALANCE_MAGLEV,
        };
        let how_far = match self.mode {
            Mode::Observe => mode::MODE_OBSERVE,
            Mode::Shadow => mode::MODE_SHADOW,
            Mode::Enforce => mode::MODE_ENFORCE,
        };
        put(self.base, service_word::SERVICE_BASE_SHIFT.0, service_word::SERVICE_BASE_BITS.0)
            | put(self.length, service_word::SERVICE_LENGTH_SHIFT.0, service_word::SERVICE_LENGTH_BITS.0)
            | put(choice.0, service_word::SERVICE_BALANCE_SHIFT.0, service_word::SERVICE_BALANCE_BITS.0)
            | put(how_far.0, service_word::SERVICE_MODE_SHIFT.0, service_word::SERVICE_MODE_BITS.0)
            | put(
                self.affinity.into(),
                service_word::SERVICE_AFFINITY_SHIFT.0,
                service_word::SERVICE_AFFINITY_BITS.0,
            )
    }

    pub(crate) fn unpack(word: u64) -> Self {
        let how = get(word, service_word::SERVICE_BALANCE_SHIFT.0, service_word::SERVICE_BALANCE_BITS.0);
        let how_far = get(word, service_word::SERVICE_MODE_SHIFT.0, service_word::SERVICE_MODE_BITS.0);
        Self {
            base: get(word, service_word::SERVICE_BASE_SHIFT.0, service_word::SERVICE_BASE_BITS.0),
            length: get(word, service_word::SERVICE_LENGTH_SHIFT.0, service_word::SERVICE_LENGTH_BITS.0),
            choice: match balance(how) {
                balance::BALANCE_ROUND_ROBIN => Choice::RoundRobin,
                balance::BALANCE_LEAST_CONNECTIONS => Choice::LeastConnections,
                balance::BALANCE_MAGLEV => Choice::Maglev,
                _ => Choice::WeightedRandom,
            },
            mode: match mode(how_far) {
                mode::MODE_ENFORCE => Mode::Enforce,
                mode::MODE_SHADOW => Mode::Shadow,
                _ => Mode::Observe,
            },
            affinity: get(word, service_word::SERVICE_AFFINITY_SHIFT.0, service_word::SERVICE_AFFINITY_BITS.0)
                as u16,
        }
    }
}

/// A word of `slots`, unpacked.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Slot {
    pub(crate) endpoint: u32,
    pub(crate) alias: u32,
    pub(crate) threshold: u32,
}

/// What a threshold is measured in: 2^24.
pub(crate) const THRESHOLD_ONE: u32 = 1 << slot_word::SLOT_THRESHOLD_BITS.0;

impl Slot {
    /// A slot that is always `endpoint`.
    pub(crate) fn only(endpoint: u32) -> Self {
        Self { endpoint, alias: endpoint, threshold: 0 }
    }

    pub(crate) fn pack(self) -> u64 {
        put(self.endpoint, slot_word::SLOT_ENDPOINT_SHIFT.0, slot_word::SLOT_ENDPOINT_BITS.0)
            | put(self.alias, slot_word::SLOT_ALIAS_SHIFT.0, slot_word::SLOT_ALIAS_BITS.0)
            | put(self.threshold, slot_word::SLOT_THRESHOLD_SHIFT.0, slot_word::SLOT_THRESHOLD_BITS.0)
    }

    pub(crate) fn unpack(word: u64) -> Self {
        Self {
            endpoint: get(word, slot_word::SLOT_ENDPOINT_SHIFT.0, slot_word::SLOT_ENDPOINT_BITS.0),
            alias: get(word, slot_word::SLOT_ALIAS_SHIFT.0, slot_word::SLOT_ALIAS_BITS.0),
            threshold: get(word, slot_word::SLOT_THRESHOLD_SHIFT.0, slot_word::SLOT_THRESHOLD_BITS.0),
        }
    }
}

fn put(value: u32, shift: u32, bits: u32) -> u64 {
    debug_assert!(u64::from(value) < 1 << bits, "{value} does not fit {bits} bits");
    u64::from(value) << shift
}

fn get(word: u64, shift: u32, bits: u32) -> u32 {
    (word >> shift & ((1 << bits) - 1)) as u32
}

const IPPROTO_TCP: u8 = 6;
const IPPROTO_UDP: u8 = 17;

pub(crate) fn protocol_number(transport: Transport) -> u8 {
    match transport {
        Transport::Tcp => IPPROTO_TCP,
        Transport::Udp => IPPROTO_UDP,
    }
}

pub(crate) fn transport_of(protocol: u8) -> Option<Transport> {
    match protocol {
        IPPROTO_TCP => Some(Transport::Tcp),
        IPPROTO_UDP => Some(Transport::Udp),
        _ => None,
    }
}

/// The four words of an address in network order; IPv4 is written v4-mapped.
pub(crate) fn address_words(address: IpAddr) -> [u32; 4] {
    let octets = match address {
        IpAddr::V4(v4) => v4.to_ipv6_mapped().octets(),
        IpAddr::V6(v6) => v6.octets(),
    };
    let word = |at: usize| u32::from_ne_bytes([octets[at], octets[at + 1], octets[at + 2], octets[at + 3]]);
    [word(0), word(4), word(8), word(12)]
}

/// The address and port of the border: both in network order.
pub(crate) fn socket_addr(words: [u32; 4], port: u16) -> SocketAddr {
    let mut octets = [0; 16];
    for (chunk, word) in octets.chunks_exact_mut(4).zip(words) {
        chunk.copy_from_slice(&word.to_ne_bytes());
    }
    let v6 = Ipv6Addr::from(octets);
    let port = u16::from_be(port);
    match v6.to_ipv4_mapped() {
        Some(v4) => SocketAddr::from((v4, port)),
        None => SocketAddr::V6(SocketAddrV6::new(v6, port, 0, 0)),
    }
}

pub(crate) fn frontend_key(address: SocketAddr, transport: Transport) -> frontend_key {
    frontend_key {
        address: address_words(address.ip()),
        port: address.port().to_be(),
        protocol: protocol_number(transport),
        zero: 0,
    }
}

pub(crate) fn service_name(name: &str) -> service_name {
    let mut entry = service_name::default();
    for (to, from) in entry.name.iter_mut().zip(name.bytes()) {
        *to = from as _;
    }
    entry
}

pub(crate) fn name_text(entry: &service_name) -> String {
    let bytes: Vec<u8> = entry.name.iter().map(|&byte| byte as u8).take_while(|&byte| byte != 0).collect();
    String::from_utf8_lossy(&bytes).into_owned()
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn addresses_come_back() {
        for text in ["127.77.0.1:80", "[fd00::7]:65535", "255.255.255.255:1"] {
            let address: SocketAddr = text.parse().unwrap();
            let key = frontend_key(address, Transport::Udp);
            assert_eq!(socket_addr(key.address, key.port), address);
        }
    }

    #[test]
    fn the_longest_name_keeps_its_end_mark() {
        let name = "a".repeat(alize_model::ServiceName::MAX);
        assert_eq!(name_text(&service_name(&name)), name);
    }

    proptest! {
        #[test]
        fn service_words_come_back(base in 0..MAX_PLACES, length in 0..=MAX_LENGTH, affinity: u16) {
            for how_far in [Mode::Observe, Mode::Shadow, Mode::Enforce] {
                for choice in [Choice::WeightedRandom, Choice::RoundRobin, Choice::LeastConnections, Choice::Maglev] {
                    let word = ServiceWord { base, length, choice, mode: how_far, affinity };
                    prop_assert_eq!(ServiceWord::unpack(word.pack()), word);
                }
            }
        }

        #[test]
        fn slots_come_back(endpoint in 0u32..1 << 20, alias in 0u32..1 << 20, threshold in 0..THRESHOLD_ONE) {
            let slot = Slot { endpoint, alias, threshold };
            prop_assert_eq!(Slot::unpack(slot.pack()), slot);
        }
    }
}
