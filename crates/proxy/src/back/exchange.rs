//! One request and its response on an HTTP/1 connection to an endpoint.
//!
//! Whoever waits for the response drives the request, too: nothing is spawned, and dropping the exchange ends both.

use std::task::{Context, Poll, ready};

use http::{Method, Response, StatusCode, request};
use http_body::{Body as _, Frame};

use super::{Back, Failure};
use crate::body::{Body, Broken};
use crate::front::Interim;
use crate::socket::Out;
use crate::wire::head::Upgrade;
use crate::wire::{Decoded, Decoder, Encoder, Fault, head};

/// The longest head of a response.
const LONGEST_HEAD: usize = 64 * 1024;
/// Bytes read at once: for a head, and for a body.
const HEAD_READ: usize = 4 * 1024;
const BODY_READ: usize = 32 * 1024;
/// The request's body is not read further while so many bytes of it wait.
const HIGH_WATER: usize = 64 * 1024;
/// More informational responses than this are an attack.
const MOST_INTERIM: u8 = 16;

/// Request and response.
pub(crate) struct Exchange {
    /// `None` once it is back in the pool, or was given away as a tunnel.
    back: Option<Back>,
    method: Method,
    /// Whether the client has asked for another protocol.
    upgrade: bool,
    request: Body,
    encoder: Encoder,
    out: Out,
    sending: Sending,
    /// What the client did wrong, until it is told.
    broken: Option<Broken>,
    decoder: Decoder,
    keep: bool,
    interim: Option<Interim>,
    interim_left: u8,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Sending {
    Going,
    Done,
    /// The endpoint takes no more; it may have answered before it stopped.
    Refused,
}

/// A connection that became something else than HTTP; an extension of the response that says so.
#[derive(Clone)]
pub(crate) struct Tunnel(pub(crate) std::sync::Arc<std::sync::Mutex<Option<Back>>>);

impl Exchange {
    /// Begins to send `request` on `back`.
    pub(crate) fn new(back: Back, parts: &request::Parts, body: Body) -> Self {
        let framing = body.framing();
        let mut out = Out::default();
        head::write_request(parts, framing, || back.endpoint(), out.tail());
        Self {
            back: Some(back),
            method: parts.method.clone(),
            upgrade: parts.extensions.get::<Upgrade>().is_some(),
            encoder: Encoder::new(framing),
            request: body,
            out,
            sending: Sending::Going,
            broken: None,
            decoder: Decoder::Done,
            keep: true,
            interim: parts.extensions.get().cloned(),
            interim_left: MOST_INTERIM,
        }
    }

    /// Waits for the response to a request that somebody else has sent on `back`. What comes before it goes to `interim`.
    pub(crate) fn owed(back: Back, method: Method, interim: Interim) -> Self {
        Self {
            back: Some(back),
            method,
            upgrade: false,
            request: Body::Empty,
            encoder: Encoder::Empty,
            out: Out::default(),
            sending: Sending::Done,
            broken: None,
            decoder: Decoder::Done,
            keep: true,
            interim: Some(interim),
            interim_left: MOST_INTERIM,
        }
    }

    /// Sends, and reads the head of the response.
    pub(crate) fn poll_head(&mut self, cx: &mut Context<'_>) -> Poll<Result<Response<()>, Failure>> {
        loop {
            if let Poll::Ready(Err(broken)) = self.poll_send(cx) {
                return Poll::Ready(Err(Failure::Client(broken)));
            }
            let Some(back) = &mut self.back else {
                return Poll::Ready(Err(Failure::Reset { stale: false, sent: true }));
            };
            if let Some(head) =
                head::response(&mut back.buffer, &self.method, LONGEST_HEAD).map_err(Failure::Response)?
            {
                match self.take_head(head)? {
                    Some(response) => return Poll::Ready(Ok(response)),
                    None => continue,
                }
            }
            let silent = back.buffer.is_empty() && self.interim_left == MOST_INTERIM;
            let reset = Failure::Reset { stale: silent && back.reused(), sent: back.has_sent() };
            match ready!(back.socket.poll_read(cx, &mut back.buffer, HEAD_READ)) {
                Ok(1..) => {}
                Ok(0) | Err(_) => return Poll::Ready(Err(reset)),
            }
        }
    }

    /// `None` if it was an informational one.
    fn take_head(&mut self, head: head::ResponseHead) -> Result<Option<Response<()>>, Failure> {
        let status = head.parts.status;
        let switched = status == StatusCode::SWITCHING_PROTOCOLS;
        if switched && !self.upgrade {
            // To what, nobody has asked for: what follows could be anything.
            return Err(Failure::Response(Fault::Line));
        }
        if switched || (self.method == Method::CONNECT && status.is_success()) {
            return Ok(Some(self.become_tunnel(head)));
        }
        if status.is_informational() {
            self.interim_left = self.interim_left.checked_sub(1).ok_or(Failure::Response(Fault::Line))?;
            if let Some(interim) = &self.interim {
                interim.push(&head.parts);
            }
            return Ok(None);
        }
        self.interim = None;
        self.keep = head.keep_alive;
        if let (Some(back), Some(seconds)) = (&mut self.back, head.kept_for) {
            back.kept_for(seconds);
        }
        self.decoder = Decoder::new(head.framing);
        let response = Response::from_parts(head.parts, ());
        if self.decoder.is_done() {
            self.finish();
        }
        Ok(Some(response))
    }

    fn become_tunnel(&mut self, head: head::ResponseHead) -> Response<()> {
        let mut response = Response::from_parts(head.parts, ());
        let back = self.back.take();
        response.extensions_mut().insert(Tunnel(std::sync::Arc::new(std::sync::Mutex::new(back))));
        response
    }

    /// Sends what can be sent of the request. Only what the client does wrong is an error.
    fn poll_send(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), Broken>> {
        while self.sending == Sending::Going {
            let Some(back) = &self.back else { break };
            let mut ended = false;
            while !ended && self.out.len() < HIGH_WATER {
                match std::pin::Pin::new(&mut self.request).poll_frame(cx) {
                    Poll::Pending => break,
                    Poll::Ready(Some(Ok(frame))) => {
                        if !encode(&mut self.encoder, frame, &mut self.out, &mut ended) {
                            return Poll::Ready(Err(Broken::Client));
                        }
                    }
                    Poll::Ready(Some(Err(broken))) => return Poll::Ready(Err(broken)),
                    Poll::Ready(None) => {
                        if !self.encoder.end(None, &mut self.out) {
                            return Poll::Ready(Err(Broken::Client));
                        }
                        ended = true;
                    }
                }
            }
            if ended {
                self.request = Body::Empty;
                self.encoder = Encoder::Empty;
            }
            if self.out.is_empty() && !ended {
                return Poll::Pending;
            }
            match ready!(back.socket.poll_write(cx, &mut self.out)) {
                Ok(()) if ended => self.sending = Sending::Done,
                Ok(()) => {}
                Err(_) => {
                    self.out = Out::default();
                    self.sending = Sending::Refused;
                }
            }
        }
        Poll::Ready(Ok(()))
    }

    /// As [`Self::poll_send`], for when the response cannot go on.
    pub(crate) fn poll_background(&mut self, cx: &mut Context<'_>) {
        if let Poll::Ready(Err(broken)) = self.poll_send(cx) {
            self.sending = Sending::Refused;
            self.broken = Some(broken);
        }
    }

    /// The next piece of the response.
    pub(crate) fn poll_frame(
        &mut self,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<bytes::Bytes>, Broken>>> {
        self.poll_background(cx);
        if let Some(broken) = self.broken.take() {
            // The endpoint would wait for the rest of the request for ever, and the client is gone or not to be trusted.
            self.back = None;
            return Poll::Ready(Some(Err(broken)));
        }
        loop {
            let Some(back) = &mut self.back else { return Poll::Ready(None) };
            match self.decoder.decode(&mut back.buffer) {
                Err(_) => return Poll::Ready(Some(Err(self.cut()))),
                Ok(Decoded::Data(data)) => {
                    if self.decoder.is_done() {
                        self.finish();
                    }
                    return Poll::Ready(Some(Ok(Frame::data(data))));
                }
                Ok(Decoded::Trailers(trailers)) => {
                    self.finish();
                    return Poll::Ready(Some(Ok(Frame::trailers(trailers))));
                }
                Ok(Decoded::End) => {
                    self.finish();
                    return Poll::Ready(None);
                }
                Ok(Decoded::More) => match ready!(back.socket.poll_read(cx, &mut back.buffer, BODY_READ)) {
                    Ok(1..) => {}
                    Ok(0) if self.decoder.ends_with_connection() => {
                        self.back = None;
                        return Poll::Ready(None);
                    }
                    Ok(0) | Err(_) => return Poll::Ready(Some(Err(self.cut()))),
                },
            }
        }
    }

    fn cut(&mut self) -> Broken {
        self.back = None;
        Broken::Endpoint
    }

    /// The response is complete: the connection takes another request if all of this one was sent and nothing is left.
    fn finish(&mut self) {
        let Some(back) = self.back.take() else { return };
        self.decoder = Decoder::Done;
        let sent = match self.sending {
            Sending::Done => true,
            // All bytes are gone, the end was not seen yet.
            Sending::Going => {
                self.out.is_empty() && self.request.is_end_stream() && self.encoder == Encoder::Empty
            }
            Sending::Refused => false,
        };
        if self.keep && sent && back.buffer.is_empty() {
            back.release();
        }
        self.request = Body::Empty;
        self.sending = Sending::Done;
        self.out = Out::default();
    }

    /// Bytes of the response's body that are still to come, where that is known.
    pub(crate) fn left(&self) -> Option<u64> {
        if self.back.is_none() { Some(0) } else { self.decoder.left() }
    }
}

/// Adds `frame`; `false` if it does not fit what was announced.
fn encode(encoder: &mut Encoder, frame: Frame<bytes::Bytes>, out: &mut Out, ended: &mut bool) -> bool {
    match frame.into_data() {
        Ok(data) => encoder.data(data, out),
        Err(frame) => {
            *ended = true;
            encoder.end(frame.trailers_ref(), out)
        }
    }
}
