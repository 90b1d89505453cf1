//! The ring through which the kernel hands over what traces asked for.

use std::sync::{Arc, Mutex, PoisonError};

use libbpf_rs::{MapHandle, RingBuffer, RingBufferBuilder};

use super::abi;
use super::dns::DnsQuery;
use super::event::{Malformed, Request};
use super::tcp::TcpEvent;
use crate::Error;
use crate::error::io_error;

/// Events taken over at once. The programs go on writing meanwhile, so there must be an end.
const AT_ONCE: usize = 16_384;

/// Something that a trace asked for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Event {
    /// An HTTP request with its response.
    Request(Request),
    /// Something that happened to a TCP socket.
    Tcp(TcpEvent),
    /// A DNS query with its response.
    Dns(DnsQuery),
}

impl Event {
    /// Reads a record of the ring.
    pub fn decode(bytes: &[u8]) -> Result<Self, Malformed> {
        let kind = bytes.first_chunk().map(|kind| u32::from_ne_bytes(*kind));
        match kind {
            Some(abi::EVENT_TYPE_REQUEST) => Request::decode(bytes).map(Event::Request),
            Some(abi::EVENT_TYPE_TCP) => TcpEvent::decode(bytes).map(Event::Tcp),
            Some(abi::EVENT_TYPE_DNS) => DnsQuery::decode(bytes).map(Event::Dns),
            Some(other) => Err(Malformed::Type(other)),
            None => Err(Malformed::Size { found: bytes.len(), expected: size_of::<u32>() }),
        }
    }

    pub(super) fn matched(&self) -> u32 {
        match self {
            Event::Request(request) => request.matched,
            Event::Tcp(event) => event.matched,
            Event::Dns(query) => query.matched,
        }
    }
}

/// The reading end of `traces`.
pub(super) struct Ring {
    ring: RingBuffer<'static>,
    /// Filled by the ring's callback, which must not borrow anything.
    received: Arc<Mutex<Vec<Result<Event, Malformed>>>>,
}

impl Ring {
    /// What is in it by now was for traces that are over, and is thrown away.
    pub(super) fn open(map: MapHandle) -> Result<Self, Error> {
        let received: Arc<Mutex<Vec<_>>> = Arc::default();
        let sink = received.clone();
        let mut builder = RingBufferBuilder::new();
        let error = |e| Error::kernel("cannot read map", "traces", io_error(e));
        let receive = move |bytes: &[u8]| {
            sink.lock().unwrap_or_else(PoisonError::into_inner).push(Event::decode(bytes));
            0
        };
        builder.add(&map, receive).map_err(error)?;
        let mut ring = Self { ring: builder.build().map_err(error)?, received };
        while ring.drain(&mut |_| {})? {}
        Ok(ring)
    }

    /// True: there may be more.
    pub(super) fn drain(&mut self, each: &mut dyn FnMut(Result<Event, Malformed>)) -> Result<bool, Error> {
        let read = self.ring.consume_raw_n(AT_ONCE);
        self.received.lock().unwrap_or_else(PoisonError::into_inner).drain(..).for_each(each);
        if read < 0 {
            return Err(Error::kernel("cannot read map", "traces", std::io::Error::from_raw_os_error(-read)));
        }
        Ok(read as usize == AT_ONCE)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn refuses_what_the_kernel_cannot_have_written() {
        assert_eq!(Event::decode(&[0; 3]), Err(Malformed::Size { found: 3, expected: 4 }));
        assert_eq!(Event::decode(&9u32.to_ne_bytes()), Err(Malformed::Type(9)));
        for kind in 1..4u32 {
            assert!(matches!(Event::decode(&kind.to_ne_bytes()), Err(Malformed::Size { found: 4, .. })));
        }
    }

    const SIZES: [usize; 3] =
        [size_of::<abi::request_event>(), size_of::<abi::tcp_event>(), size_of::<abi::dns_event>()];

    proptest! {
        #[test]
        fn never_panics(kind in 0u32..5, size in prop::sample::select(SIZES.to_vec()), seed: u8) {
            let mut bytes: Vec<u8> = (0..size).map(|at| seed.wrapping_mul(at as u8)).collect();
            bytes[..4].copy_from_slice(&kind.to_ne_bytes());
            let _ = Event::decode(&bytes);
        }
    }
}
