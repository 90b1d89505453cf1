//! HTTP/2, in plain text and within TLS: from the records of the kernel, which cannot decode heads, to requests.
//!
//! All of it is bounded: connections, streams of each, entries of its tables, the size of a head. What does not fit, was
//! lost on the way or cannot be decoded is counted, and what depends on it is partial; nothing is guessed.

mod connection;
mod hpack;
mod huffman;
mod record;

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use libbpf_rs::{MapHandle, RingBuffer, RingBufferBuilder};

use super::event::{Malformed, Request};
use crate::Error;
use crate::error::io_error;
use connection::{Connection, Missed};
use record::Record;

/// Records taken over at once.
const AT_ONCE: usize = 8192;
/// Connections remembered; those that were silent for longest go first.
const CONNECTIONS: usize = 8192;

/// Records as they came, one behind the other.
#[derive(Default)]
struct Received {
    bytes: Vec<u8>,
    ends: Vec<usize>,
}

/// Decodes what is in records.
#[derive(Default)]
pub struct Decoder {
    connections: HashMap<u64, Connection>,
    missed: Missed,
}

impl Decoder {
    /// Takes a record as it came; exchanges that end with it go to `each`.
    pub fn take(&mut self, bytes: &[u8], each: &mut dyn FnMut(Request)) -> Result<(), Malformed> {
        let record = Record::decode(bytes)?;
        let key = record.head.connection;
        let connection = self.connections.entry(key).or_insert_with(|| Connection::new(&record));
        let goes_on = connection.take(&record, each);
        let missed = std::mem::take(&mut connection.missed);
        self.missed.undecoded += missed.undecoded;
        self.missed.unpaired += missed.unpaired;
        if !goes_on {
            self.connections.remove(&key);
        } else if self.connections.len() > CONNECTIONS {
            self.forget_silent();
        }
        Ok(())
    }

    /// Drops a quarter of the connections, so that this is rare.
    fn forget_silent(&mut self) {
        let mut heard: Vec<Duration> = self.connections.values().map(|connection| connection.heard).collect();
        let place = heard.len() / 4;
        let (_, limit, _) = heard.select_nth_unstable(place);
        let limit = *limit;
        self.connections.retain(|_, connection| connection.heard > limit);
    }

    fn is_empty(&self) -> bool {
        self.connections.is_empty() && self.missed == Missed::default()
    }

    /// Heads that could not be decoded, and requests and responses that found no other half.
    pub fn missed(&self) -> (u64, u64) {
        (self.missed.undecoded, self.missed.unpaired)
    }
}

/// The reading end of `http2_heads`. It is in this process's memory (twice its size) only once there is something to read.
pub(super) struct Heads {
    map: MapHandle,
    ring: Option<RingBuffer<'static>>,
    /// Filled by the ring's callback, which must not borrow anything.
    received: Arc<Mutex<Received>>,
    decoder: Decoder,
}

impl Heads {
    /// What is in the ring is of an earlier process, and thrown away: of connections whose beginning this one has not seen.
    pub(super) fn new(map: MapHandle) -> Result<Self, Error> {
        let mut heads = Self { map, ring: None, received: Arc::default(), decoder: Decoder::default() };
        heads.open()?;
        heads.discard()?;
        heads.ring = None;
        Ok(heads)
    }

    pub(super) fn is_open(&self) -> bool {
        self.ring.is_some()
    }

    pub(super) fn open(&mut self) -> Result<(), Error> {
        let sink = self.received.clone();
        let mut builder = RingBufferBuilder::new();
        let error = |e| Error::kernel("cannot read map", "http2_heads", io_error(e));
        let receive = move |bytes: &[u8]| {
            let mut received = sink.lock().unwrap_or_else(PoisonError::into_inner);
            received.bytes.extend_from_slice(bytes);
            let end = received.bytes.len();
            received.ends.push(end);
            0
        };
        builder.add(&self.map, receive).map_err(error)?;
        self.ring = Some(builder.build().map_err(error)?);
        Ok(())
    }

    /// Requests that have ended since the last call. Does not block.
    pub(super) fn drain(&mut self, each: &mut dyn FnMut(Result<Request, Malformed>)) -> Result<(), Error> {
        let Some(ring) = &self.ring else { return Ok(()) };
        let read = ring.consume_raw_n(AT_ONCE);
        let mut received = self.received.lock().unwrap_or_else(PoisonError::into_inner);
        let mut from = 0;
        for &end in &received.ends {
            let taken = self.decoder.take(&received.bytes[from..end], &mut |request| each(Ok(request)));
            if let Err(malformed) = taken {
                each(Err(malformed));
            }
            from = end;
        }
        received.ends.clear();
        received.bytes.clear();
        // What a burst has needed is not kept for ever.
        received.bytes.shrink_to(1 << 20);
        if read < 0 {
            let error = std::io::Error::from_raw_os_error(-read);
            return Err(Error::kernel("cannot read map", "http2_heads", error));
        }
        Ok(())
    }

    /// Throws away what is in the ring.
    fn discard(&mut self) -> Result<(), Error> {
        loop {
            self.drain(&mut |_| {})?;
            if self.decoder.is_empty() {
                return Ok(());
            }
            self.decoder = Decoder::default();
        }
    }

    pub(super) fn missed(&self) -> (u64, u64) {
        self.decoder.missed()
    }
}

#[cfg(test)]
mod tests;
