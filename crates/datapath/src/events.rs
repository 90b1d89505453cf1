//! The event ring.

use std::os::fd::{AsFd, BorrowedFd};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use libbpf_rs::{MapHandle, RingBuffer, RingBufferBuilder};

use crate::abi::{NONE, Plain, event, event_kind, failure, refusal};
use crate::error::io_error;
use crate::{Error, Failure, KernelEvent, KernelEventKind, Refusal};

/// Events taken over at once. The programs go on writing meanwhile, so there must be an end.
const AT_ONCE: usize = 4096;

/// The reading end of `events`.
pub(crate) struct Events {
    ring: RingBuffer<'static>,
    /// Filled by the ring's callback, which must not borrow anything.
    received: Arc<Mutex<Vec<KernelEvent>>>,
    map: MapHandle,
}

impl Events {
    pub(crate) fn new(map: MapHandle) -> Result<Self, Error> {
        let received: Arc<Mutex<Vec<KernelEvent>>> = Arc::default();
        let sink = received.clone();
        let mut builder = RingBufferBuilder::new();
        let error = |e| Error::kernel("cannot read map", "events", io_error(e));
        let receive = move |bytes: &[u8]| {
            sink.lock().unwrap_or_else(PoisonError::into_inner).extend(event::read(bytes).and_then(decode));
            0
        };
        builder.add(&map, receive).map_err(error)?;
        let ring = builder.build().map_err(error)?;
        Ok(Self { ring, received, map })
    }

    pub(crate) fn drain(&mut self, each: &mut dyn FnMut(KernelEvent)) -> Result<(), Error> {
        let read = self.ring.consume_raw_n(AT_ONCE);
        let received = std::mem::take(&mut *self.received.lock().unwrap_or_else(PoisonError::into_inner));
        received.into_iter().for_each(each);
        if read < 0 {
            return Err(Error::kernel("cannot read map", "events", std::io::Error::from_raw_os_error(-read)));
        }
        Ok(())
    }
}

impl AsFd for Events {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.map.as_fd()
    }
}

/// `None` for what this version does not know.
fn decode(event: event) -> Option<KernelEvent> {
    let what = match event_kind(event.kind) {
        event_kind::EVENT_CONNECT_FAILED => KernelEventKind::ConnectFailed(failure_of(event.detail)),
        event_kind::EVENT_WOULD_REFUSE => KernelEventKind::WouldRefuse(refusal_of(event.detail)?),
        event_kind::EVENT_REFUSED => KernelEventKind::Refused(refusal_of(event.detail)?),
        _ => return None,
    };
    Some(KernelEvent {
        time: Duration::from_nanos(event.time_ns),
        service: event.service,
        endpoint: (event.endpoint != NONE).then_some(event.endpoint),
        what,
        pid: event.pid,
        cgroup: event.cgroup,
    })
}

fn failure_of(detail: u32) -> Failure {
    match failure(detail) {
        failure::FAILURE_REFUSED => Failure::Refused,
        failure::FAILURE_TIMEOUT => Failure::Timeout,
        failure::FAILURE_UNREACHABLE => Failure::Unreachable,
        failure::FAILURE_RESET => Failure::Reset,
        failure::FAILURE_ABORTED => Failure::Aborted,
        _ => Failure::Other,
    }
}

fn refusal_of(detail: u32) -> Option<Refusal> {
    match refusal(detail) {
        refusal::REFUSAL_NO_ENDPOINT => Some(Refusal::NoEndpoint),
        refusal::REFUSAL_STALE => Some(Refusal::Stale),
        refusal::REFUSAL_NO_PROXY => Some(Refusal::NoProxy),
        _ => None,
    }
}
