//! The body of a response, watched to its end.

use std::net::SocketAddr;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::{Duration, Instant};

use bytes::Bytes;
use http::StatusCode;
use http_body::{Body as _, Frame, SizeHint};
use tokio::time::Sleep;

use super::mesh::{Outstanding, Service};
use super::replay::Tape;
use crate::body::{Body, Broken};
use crate::counters;

/// Counts the request when it is over: when this is dropped.
#[derive(Debug)]
pub(super) struct Ending {
    pub(super) service: Arc<Service>,
    pub(super) route: Arc<str>,
    pub(super) endpoint: SocketAddr,
    pub(super) status: StatusCode,
    pub(super) request: Arc<Tape>,
    pub(super) response_bytes: u64,
    pub(super) started: Instant,
    /// Ends with the request.
    pub(super) _outstanding: Outstanding,
    /// Whatever else has to live as long.
    pub(super) _stream: Option<Arc<crate::back::Stream>>,
}

impl Drop for Ending {
    fn drop(&mut self) {
        self.service.live.counters.request(counters::Request {
            route: Some(Arc::clone(&self.route)),
            endpoint: Some(self.endpoint),
            status: Some(self.status),
            request_bytes: self.request.bytes(),
            response_bytes: self.response_bytes,
            took: self.started.elapsed(),
        });
    }
}

/// The body.
pub(crate) struct Tracked {
    inner: Body,
    ending: Option<Ending>,
    deadline: Option<Pin<Box<Sleep>>>,
    /// How long the endpoint may be silent.
    silence: Option<(Duration, Pin<Box<Sleep>>)>,
}

impl Tracked {
    /// Watches `inner`; with a deadline for all of it, and one for each piece.
    pub(super) fn watch(
        inner: Body,
        ending: Ending,
        deadline: Option<tokio::time::Instant>,
        silence: Option<Duration>,
    ) -> Body {
        if inner.is_end_stream() && matches!(inner, Body::Empty) {
            drop(ending);
            return inner;
        }
        Body::Tracked(Box::new(Self {
            inner,
            ending: Some(ending),
            deadline: deadline.map(|deadline| Box::pin(tokio::time::sleep_until(deadline))),
            silence: silence.map(|silence| (silence, Box::pin(tokio::time::sleep(silence)))),
        }))
    }

    pub(crate) fn inner(&self) -> &Body {
        &self.inner
    }

    pub(crate) fn inner_mut(&mut self) -> &mut Body {
        &mut self.inner
    }

    pub(crate) fn poll_frame(&mut self, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, Broken>>> {
        let Poll::Ready(frame) = Pin::new(&mut self.inner).poll_frame(cx) else {
            return self.poll_late(cx);
        };
        if let Some((silence, sleep)) = &mut self.silence {
            sleep.as_mut().reset(tokio::time::Instant::now() + *silence);
        }
        let over = match &frame {
            Some(Ok(frame)) => {
                if let (Some(data), Some(ending)) = (frame.data_ref(), &mut self.ending) {
                    ending.response_bytes += data.len() as u64;
                }
                frame.is_trailers() || self.inner.is_end_stream()
            }
            Some(Err(_)) | None => true,
        };
        if over {
            self.ending = None;
        }
        Poll::Ready(frame)
    }

    fn poll_late(&mut self, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, Broken>>> {
        let late = |sleep: &mut Pin<Box<Sleep>>, cx: &mut Context<'_>| sleep.as_mut().poll(cx).is_ready();
        if self.deadline.as_mut().is_some_and(|sleep| late(sleep, cx))
            || self.silence.as_mut().is_some_and(|(_, sleep)| late(sleep, cx))
        {
            self.ending = None;
            self.inner = Body::Empty;
            return Poll::Ready(Some(Err(Broken::Timeout)));
        }
        Poll::Pending
    }

    pub(crate) fn is_end_stream(&self) -> bool {
        self.inner.is_end_stream()
    }

    pub(crate) fn size_hint(&self) -> SizeHint {
        self.inner.size_hint()
    }
}
