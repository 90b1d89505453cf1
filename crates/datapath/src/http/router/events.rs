//! What the kernel has to say to the proxy.

use std::sync::{Arc, Mutex, PoisonError};

use libbpf_rs::{MapHandle, RingBuffer, RingBufferBuilder};

use super::super::abi::{http_event, http_reason};
use crate::Error;
use crate::abi::{NONE, Plain};
use crate::error::io_error;

/// What the kernel has to say to the proxy.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Event {
    /// What the client sends now comes by TCP.
    Passed {
        /// Cookie of the client.
        cookie: u64,
        /// Name of the reason.
        reason: &'static str,
        /// Number of a slot on which a response to the client is outstanding, or whose request cannot be finished.
        slot: Option<u32>,
    },
    /// As `Passed`, because no connection to the endpoint was idle.
    PoolEmpty {
        /// Cookie of the client.
        cookie: u64,
        /// Number of the endpoint.
        endpoint: u32,
    },
    /// Bytes on the connection of a slot that is [`super::Armed::Remote`] are the proxy's: a response to carry, or what it must not
    /// be used after.
    Remote {
        /// Its number.
        slot: u32,
        /// Of its word, for [`super::Slot::is_under`].
        lease: u64,
    },
    /// A connection was made in a network namespace where the proxy does not listen.
    NoListener {
        /// Cookie of the namespace.
        netns: u64,
        /// A process in it.
        pid: u32,
    },
}

/// Events taken over at once.
pub(super) const AT_ONCE: usize = 4096;

/// The names of `enum http_reason`, in its order.
pub(crate) const REASONS: [&str; super::super::abi::REASONS] = [
    "none",
    "not-eligible",
    "busy",
    "split-head",
    "method",
    "target",
    "odd-path",
    "version",
    "field",
    "too-many-fields",
    "host",
    "content-length",
    "transfer-encoding",
    "upgrade",
    "expect",
    "trailers",
    "connection-option",
    "large",
    "pipelined",
    "unread",
    "route",
    "pool-empty",
    "no-endpoint",
    "endpoint-gone",
    "remote",
    "response-status",
    "response-unframed",
    "excess",
    "no-proxy",
    "rate-limited",
    "rate-limit-full",
    "circuit-open",
];

/// The name of reason number `number`, why a message is the proxy's.
pub fn reason_name(number: u32) -> &'static str {
    REASONS.get(number as usize).copied().unwrap_or("unknown")
}

pub(super) fn ring(map: &MapHandle, received: &Arc<Mutex<Vec<Event>>>) -> Result<RingBuffer<'static>, Error> {
    let sink = Arc::clone(received);
    let error = |e| Error::kernel("cannot read ring", "http_events", io_error(e));
    let mut builder = RingBufferBuilder::new();
    let receive = move |bytes: &[u8]| {
        let event = http_event::read(bytes).map(|event| decode(&event));
        sink.lock().unwrap_or_else(PoisonError::into_inner).extend(event);
        0
    };
    builder.add(map, receive).map_err(error)?;
    builder.build().map_err(error)
}

fn decode(event: &http_event) -> Event {
    let http_event { cookie, reason, slot } = *event;
    match http_reason(reason) {
        http_reason::HTTP_REASON_NO_PROXY => Event::NoListener { netns: cookie, pid: slot },
        http_reason::HTTP_REASON_REMOTE => Event::Remote { slot, lease: cookie },
        http_reason::HTTP_REASON_POOL_EMPTY => Event::PoolEmpty { cookie, endpoint: slot },
        _ => Event::Passed { cookie, reason: reason_name(reason), slot: (slot != NONE).then_some(slot) },
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_guide_says_what_each_reason_means() {
        let guide = include_str!("../../../../../docs/guide/routing.md");
        for reason in &REASONS[1..] {
            let shown = format!("`{reason}`");
            assert!(guide.lines().any(|line| line.starts_with('|') && line.contains(&shown)), "{reason}");
        }
    }
}
