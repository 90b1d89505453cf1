//! The body of a request that a client sends in HTTP/1.

use std::sync::Arc;
use std::task::{Context, Poll, ready};

use bytes::Bytes;
use http_body::Frame;

use super::Front;
use crate::back::lock;
use crate::body::Broken;
use crate::wire::{Decoded, Decoder, Framing};

/// Bytes read at once.
const READ: usize = 32 * 1024;

/// Reads from the front connection as it is asked for. Dropped early, it leaves the rest to the connection's owner.
#[derive(Debug)]
pub(crate) struct Inbound(Arc<Front>);

impl Inbound {
    /// The body that begins at what `front` has read.
    pub(super) fn begin(front: &Arc<Front>, framing: Framing) -> Self {
        let mut incoming = lock(&front.incoming);
        incoming.decoder = Decoder::new(framing);
        incoming.begun = false;
        drop(incoming);
        Self(Arc::clone(front))
    }

    /// Bytes that are still to come, where that is known.
    pub(crate) fn left(&self) -> Option<u64> {
        lock(&self.0.incoming).decoder.left()
    }

    pub(crate) fn poll_frame(&mut self, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, Broken>>> {
        let mut incoming = lock(&self.0.incoming);
        let incoming = &mut *incoming;
        loop {
            match incoming.decoder.decode(&mut incoming.buffer) {
                Err(fault) => return Poll::Ready(Some(Err(Broken::Malformed(fault)))),
                Ok(Decoded::Data(data)) => {
                    incoming.begun = true;
                    return Poll::Ready(Some(Ok(Frame::data(data))));
                }
                Ok(Decoded::Trailers(trailers)) => return Poll::Ready(Some(Ok(Frame::trailers(trailers)))),
                Ok(Decoded::End) => return Poll::Ready(None),
                Ok(Decoded::More) => match ready!(self.0.socket.poll_read(cx, &mut incoming.buffer, READ)) {
                    Ok(1..) => {}
                    Ok(0) | Err(_) => return Poll::Ready(Some(Err(Broken::Client))),
                },
            }
        }
    }
}
