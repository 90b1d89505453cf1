//! The body of a request, counted, and remembered for another try and for copies as far as that is affordable.

use std::pin::Pin;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::task::{Context, Poll, ready};

use bytes::Bytes;
use http::HeaderMap;
use http_body::{Body as _, Frame, SizeHint};

use super::mirror::{Copies, Lost};
use crate::back::lock;
use crate::body::{Body, Broken};

/// The body and what was read of it. It outlives a try.
#[derive(Debug)]
pub(super) struct Tape {
    state: Mutex<State>,
    length: Option<u64>,
    read: AtomicU64,
}

#[derive(Debug)]
struct State {
    body: Body,
    /// What was read, unless it became too much.
    kept: Option<Vec<Bytes>>,
    size: usize,
    most: usize,
    trailers: Option<HeaderMap>,
    begun: bool,
    /// Sent when the body has ended.
    copies: Option<Box<Copies>>,
}

impl Tape {
    /// Keeps up to `most` bytes, and sends `copies` when it has all.
    pub(super) fn new(body: Body, most: usize, copies: Option<Box<Copies>>) -> Arc<Self> {
        let length = body.size_hint().exact();
        let kept = length.is_none_or(|length| length <= most as u64).then(Vec::new);
        let mut state = State { body, kept, size: 0, most, trailers: None, begun: false, copies };
        if state.body.is_end_stream() {
            state.end();
        } else if state.kept.is_none() {
            state.forget();
        }
        Arc::new(Self { state: Mutex::new(state), length, read: AtomicU64::new(0) })
    }

    /// Whether it can be sent from its beginning.
    pub(super) fn is_whole(&self) -> bool {
        let state = lock(&self.state);
        !state.begun || state.kept.is_some()
    }

    /// Bytes that were read.
    pub(super) fn bytes(&self) -> u64 {
        self.read.load(Ordering::Relaxed)
    }

    /// The body from its beginning.
    pub(super) fn play(self: &Arc<Self>) -> Body {
        if lock(&self.state).body.is_end_stream() && self.length == Some(0) {
            // A length of 0 that was announced is announced again.
            return if self.read_empty() { Body::Empty } else { Body::Full(Bytes::new()) };
        }
        Body::Replay(Box::new(Replay { tape: Arc::clone(self), place: 0, sent: 0 }))
    }

    fn read_empty(&self) -> bool {
        matches!(lock(&self.state).body, Body::Empty)
    }
}

/// One reading of a [`Tape`].
#[derive(Debug)]
pub(crate) struct Replay {
    tape: Arc<Tape>,
    place: usize,
    sent: u64,
}

impl Replay {
    pub(crate) fn poll_frame(&mut self, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, Broken>>> {
        let mut state = lock(&self.tape.state);
        let state = &mut *state;
        if let Some(data) = state.kept.as_ref().and_then(|kept| kept.get(self.place)) {
            self.place += 1;
            self.sent += data.len() as u64;
            return Poll::Ready(Some(Ok(Frame::data(data.clone()))));
        }
        if let Some(trailers) = &state.trailers {
            let first = std::mem::replace(&mut self.place, usize::MAX) != usize::MAX;
            return Poll::Ready(first.then(|| Ok(Frame::trailers(trailers.clone()))));
        }
        state.begun = true;
        let frame = match ready!(Pin::new(&mut state.body).poll_frame(cx)) {
            None => {
                state.end();
                return Poll::Ready(None);
            }
            Some(Err(broken)) => return Poll::Ready(Some(Err(broken))),
            Some(Ok(frame)) => frame,
        };
        match frame.into_data() {
            Ok(data) => {
                self.sent += data.len() as u64;
                self.tape.read.fetch_add(data.len() as u64, Ordering::Relaxed);
                state.keep(&data);
                if state.body.is_end_stream() {
                    state.end();
                }
                self.place += 1;
                Poll::Ready(Some(Ok(Frame::data(data))))
            }
            Err(frame) => {
                state.trailers = frame.into_trailers().ok();
                state.end();
                self.place = usize::MAX;
                Poll::Ready(state.trailers.clone().map(|trailers| Ok(Frame::trailers(trailers))))
            }
        }
    }

    pub(crate) fn is_end_stream(&self) -> bool {
        self.tape.length == Some(self.sent)
    }

    pub(crate) fn size_hint(&self) -> SizeHint {
        match self.tape.length {
            Some(length) => SizeHint::with_exact(length.saturating_sub(self.sent)),
            None => SizeHint::default(),
        }
    }
}

impl State {
    fn keep(&mut self, data: &Bytes) {
        self.size += data.len();
        if self.size > self.most {
            self.forget();
        }
        if let Some(kept) = &mut self.kept {
            kept.push(data.clone());
        }
    }

    /// It is too much.
    fn forget(&mut self) {
        self.kept = None;
        if let Some(copies) = self.copies.take() {
            copies.give_up(Lost::Large);
        }
    }

    /// All of the body has been read.
    fn end(&mut self) {
        let Some(copies) = self.copies.take() else { return };
        let Some(kept) = self.kept.clone() else { return };
        // The body itself is the client's connection, which may be at its next request.
        let body = if matches!(self.body, Body::Empty) { Body::Empty } else { Body::Full(Bytes::new()) };
        let trailers = self.trailers.clone();
        let length = trailers.is_none().then_some(self.size as u64);
        let state = Self { body, kept: Some(kept), trailers, begun: true, copies: None, ..*self };
        copies.send(&Arc::new(Tape { state: Mutex::new(state), length, read: AtomicU64::new(0) }));
    }
}
