//! The body of a message on its way through, whichever side and protocol it comes from.

use std::pin::Pin;
use std::task::{Context, Poll};

use bytes::Bytes;
use http_body::{Frame, SizeHint};
use hyper::body::Incoming;

use crate::back::Exchange;
use crate::front::Inbound;
use crate::route::{Replay, Tracked};
use crate::wire::{Fault, Framing};

/// Why a body ended early.
#[derive(Debug, thiserror::Error)]
pub(crate) enum Broken {
    /// The client sent what is no body.
    #[error("the client's body is malformed: {0:?}")]
    Malformed(Fault),
    /// The client is gone.
    #[error("the client ended the connection within the body")]
    Client,
    /// The endpoint sent what is no body, or is gone.
    #[error("the endpoint ended the response early")]
    Endpoint,
    /// It took too long.
    #[error("the request took longer than its timeout")]
    Timeout,
    /// HTTP/2's own reasons.
    #[error(transparent)]
    Http2(#[from] hyper::Error),
}

/// The body.
#[derive(Default)]
pub(crate) enum Body {
    /// There is none.
    #[default]
    Empty,
    /// All of it is here.
    Full(Bytes),
    /// From a client that speaks HTTP/1.
    Inbound(Inbound),
    /// From an endpoint that speaks HTTP/1.
    Exchange(Box<Exchange>),
    /// From a peer that speaks HTTP/2.
    Http2(Incoming),
    /// From a client, remembered for another try.
    Replay(Box<Replay>),
    /// From an endpoint, with what has to be done at its end.
    Tracked(Box<Tracked>),
}

impl Body {
    pub(crate) fn full(text: impl Into<Bytes>) -> Self {
        Self::Full(text.into())
    }

    /// How its end can be made known, when written in HTTP/1.
    pub(crate) fn framing(&self) -> Framing {
        match (self, http_body::Body::size_hint(self).exact()) {
            (Self::Empty, _) => Framing::Empty,
            (_, Some(length)) => Framing::Length(length),
            (_, None) => Framing::Chunked,
        }
    }

    /// Whether all of it is here: then nobody reads the request any more to which it belongs.
    pub(crate) fn is_whole(&self) -> bool {
        match self {
            Self::Empty | Self::Full(_) => true,
            Self::Tracked(tracked) => tracked.inner().is_whole(),
            _ => false,
        }
    }

    /// Lets the request of an exchange go on while nobody has room for its response.
    pub(crate) fn poll_background(&mut self, cx: &mut Context<'_>) {
        match self {
            Self::Exchange(exchange) => exchange.poll_background(cx),
            Self::Tracked(tracked) => tracked.inner_mut().poll_background(cx),
            _ => {}
        }
    }
}

impl http_body::Body for Body {
    type Data = Bytes;
    type Error = Broken;

    fn poll_frame(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, Broken>>> {
        match self.get_mut() {
            Self::Empty => Poll::Ready(None),
            Self::Full(data) if data.is_empty() => Poll::Ready(None),
            Self::Full(data) => Poll::Ready(Some(Ok(Frame::data(std::mem::take(data))))),
            Self::Inbound(inbound) => inbound.poll_frame(cx),
            Self::Exchange(exchange) => exchange.poll_frame(cx),
            Self::Http2(incoming) => {
                Pin::new(incoming).poll_frame(cx).map(|frame| frame.map(|frame| frame.map_err(Broken::Http2)))
            }
            Self::Replay(replay) => replay.poll_frame(cx),
            Self::Tracked(tracked) => tracked.poll_frame(cx),
        }
    }

    fn is_end_stream(&self) -> bool {
        match self {
            Self::Empty => true,
            Self::Full(data) => data.is_empty(),
            Self::Inbound(inbound) => inbound.left() == Some(0),
            Self::Exchange(exchange) => exchange.left() == Some(0),
            Self::Http2(incoming) => incoming.is_end_stream(),
            Self::Replay(replay) => replay.is_end_stream(),
            Self::Tracked(tracked) => tracked.is_end_stream(),
        }
    }

    fn size_hint(&self) -> SizeHint {
        let exactly = |left: Option<u64>| left.map_or_else(SizeHint::default, SizeHint::with_exact);
        match self {
            Self::Empty => SizeHint::with_exact(0),
            Self::Full(data) => SizeHint::with_exact(data.len() as u64),
            Self::Inbound(inbound) => exactly(inbound.left()),
            Self::Exchange(exchange) => exactly(exchange.left()),
            Self::Http2(incoming) => incoming.size_hint(),
            Self::Replay(replay) => replay.size_hint(),
            Self::Tracked(tracked) => tracked.size_hint(),
        }
    }
}

impl std::fmt::Debug for Body {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Body")
    }
}
