//! One exchange after the other with a client that speaks HTTP/1.

use std::future::Future;
use std::pin::{Pin, pin};
use std::sync::Arc;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use bytes::BytesMut;
use http::{Method, Request, Response, StatusCode, Version};
use http_body::Body as _;
use tokio::time::{Instant, timeout, timeout_at};

use super::life::End;
use super::{Front, Inbound, Interim, Last, tunnel};
use crate::back::{Tunnel, lock};
use crate::body::Body;
use crate::proxy::{Phase, Proxy};
use crate::reason::Reason;
use crate::route;
use crate::socket::Out;
use crate::wire::{Decoded, Encoder, Framing, RequestHead, head};

/// Bytes read at once while a head is incomplete.
const READ: usize = 4 * 1024;
/// A response is not read further while so many bytes of it wait.
const HIGH_WATER: usize = 64 * 1024;
/// What is left of a request whose response is complete is read and thrown away up to this, and for so long.
const DRAIN: u64 = 256 * 1024;
const DRAIN_TIME: Duration = Duration::from_secs(2);

/// Serves one request of `front`; its head has to be complete at `deadline`.
pub(super) async fn serve(proxy: &Arc<Proxy>, front: &Arc<Front>, deadline: Instant) -> End {
    let _turn = front.turn.lock().await;
    if front.is_refused() {
        return End::Close;
    }
    let head = match timeout_at(deadline, read_head(proxy, front)).await {
        Ok(Ok(Some(head))) => head,
        Ok(Ok(None)) => return End::Close,
        Ok(Err(reason)) => return refuse_head(proxy, front, reason).await,
        Err(_) => return refuse_head(proxy, front, Reason::HeadTimeout).await,
    };
    let asked = Asked {
        method: head.parts.method.clone(),
        version: head.parts.version,
        keep_alive: head.keep_alive,
        expects: head.parts.headers.contains_key(http::header::EXPECT),
    };
    let Some(mut response) = respond(proxy, front, head).await else { return End::Close };
    if let Some(Tunnel(back)) = response.extensions_mut().remove() {
        let back = lock(&back).take();
        return match back {
            Some(back) => {
                front.set_tunnel(tunnel::Tunnel::new(front, response, back));
                End::Tunnel
            }
            None => End::Close,
        };
    }
    send(proxy, front, &asked, response).await
}

/// What the response depends on.
pub(super) struct Asked {
    pub(super) method: Method,
    pub(super) version: Version,
    pub(super) keep_alive: bool,
    pub(super) expects: bool,
}

/// Reads a head; `None` if the client ended the connection before one began.
async fn read_head(proxy: &Proxy, front: &Front) -> Result<Option<Box<RequestHead>>, Reason> {
    let mut seen = 0;
    loop {
        let head = head::request(&mut lock(&front.incoming).buffer, &mut seen, proxy.limits.head_bytes)?;
        if head.is_some() {
            front.shrink();
            return Ok(head.map(Box::new));
        }
        let more =
            std::future::poll_fn(|cx| front.socket.poll_read(cx, &mut lock(&front.incoming).buffer, READ));
        match more.await {
            Ok(1..) => {}
            Ok(0) | Err(_) => return Ok(None),
        }
    }
}

/// Lets the routes answer, and passes on what comes before the answer; `None` if the client is gone before.
async fn respond(proxy: &Arc<Proxy>, front: &Arc<Front>, head: Box<RequestHead>) -> Option<Response<Body>> {
    let head = *head;
    let inbound = Inbound::begin(front, head.framing);
    let body = if head.framing == Framing::Empty { Body::Empty } else { Body::Inbound(inbound) };
    let mut request = Box::new(Request::from_parts(head.parts, body));
    let interim = Interim::default();
    // A client that speaks 1.0 cannot read them.
    if request.version() == Version::HTTP_11 {
        request.extensions_mut().insert(interim.clone());
    }
    preceded(front, &interim, pin!(route::answer(proxy, &front.origin, request))).await
}

/// Waits for the answer, and passes on what comes before it; `None` if the client is gone before.
pub(super) async fn preceded<T>(
    front: &Front,
    interim: &Interim,
    mut answer: Pin<&mut impl Future<Output = T>>,
) -> Option<T> {
    let (mut out, mut answered) = (Out::default(), None);
    std::future::poll_fn(|cx| {
        if answered.is_none() {
            answered = match answer.as_mut().poll(cx) {
                Poll::Ready(answer) => Some(answer),
                Poll::Pending => None,
            };
        }
        out.push(interim.take().freeze());
        if ready!(front.socket.poll_write(cx, &mut out)).is_err() {
            out = Out::default();
        }
        match answered.take() {
            Some(answer) => Poll::Ready(Some(answer)),
            None if front.poll_gone(cx) => Poll::Ready(None),
            None => Poll::Pending,
        }
    })
    .await
}

/// Writes the response, and says how the connection goes on.
pub(super) async fn send(proxy: &Proxy, front: &Arc<Front>, asked: &Asked, response: Response<Body>) -> End {
    let (parts, mut body) = response.into_parts();
    let mut stay = asked.keep_alive && *proxy.phase.borrow() != Phase::Draining;
    stay &= parts.extensions.get::<Last>().is_none();
    // A client that waits to be told to go on may send the body or not: the next bytes could be read in two ways.
    stay &= !(asked.expects && lock(&front.incoming).untouched());
    if body.is_whole() {
        // What an early answer leaves unread has mostly come already, and then the kernel may have the next request.
        lock(&front.incoming).discard();
    }
    let bodiless = asked.method == Method::HEAD
        || parts.status == StatusCode::NO_CONTENT
        || parts.status == StatusCode::NOT_MODIFIED;
    let framing = match body.framing() {
        _ if bodiless => Framing::Empty,
        // Without a length a client would wait for the end of the connection.
        Framing::Empty => Framing::Length(0),
        Framing::Chunked if asked.version == Version::HTTP_10 => {
            stay = false;
            Framing::UntilClose
        }
        framing => framing,
    };
    let after = match (stay, asked.version) {
        (false, _) => head::After::Close,
        (true, Version::HTTP_10) => head::After::StaySaid,
        (true, _) => head::After::Stay,
    };
    let mut out = Out::default();
    head::write_response(&parts, framing, after, out.tail());
    drop(parts);
    let rests = stay && lock(&front.incoming).is_spent();
    let mut writing = Writing { out, encoder: Encoder::new(framing), ended: false, rests };
    if bodiless {
        writing.ended = true;
    }
    let written = std::future::poll_fn(|cx| writing.poll(cx, proxy, front, &mut body)).await;
    drop(body);
    match written {
        Ok(()) if stay && drain(front).await => {
            if front.has_unread() {
                End::More
            } else {
                End::Rest
            }
        }
        Ok(()) => {
            linger(front).await;
            End::Close
        }
        Err(()) => {
            front.socket.reset();
            End::Close
        }
    }
}

struct Writing {
    out: Out,
    encoder: Encoder,
    ended: bool,
    /// The request was read whole and nothing after it.
    rests: bool,
}

impl Writing {
    /// Writes head and body; an error means that the response cannot be completed.
    fn poll(
        &mut self,
        cx: &mut Context<'_>,
        proxy: &Proxy,
        front: &Front,
        body: &mut Body,
    ) -> Poll<Result<(), ()>> {
        loop {
            let mut pending = false;
            while !self.ended && !pending && self.out.len() < HIGH_WATER {
                match Pin::new(&mut *body).poll_frame(cx) {
                    Poll::Pending => pending = true,
                    Poll::Ready(Some(Ok(frame))) => self.add(frame)?,
                    Poll::Ready(Some(Err(broken))) => {
                        tracing::debug!(%broken, "a response ended early");
                        return Poll::Ready(Err(()));
                    }
                    Poll::Ready(None) => self.finish(None)?,
                }
            }
            if self.out.is_empty() {
                return match self.ended {
                    true => Poll::Ready(Ok(())),
                    false if front.poll_gone(cx) => Poll::Ready(Err(())),
                    false => Poll::Pending,
                };
            }
            if self.ended && self.rests {
                // Told before the last byte goes: the client may be quick. It holds only when all of it has come.
                self.rests = false;
                proxy.kernel.resting(&front.resting_after(self.out.len()));
            }
            match front.socket.poll_write(cx, &mut self.out) {
                Poll::Ready(Ok(())) if pending && !front.poll_gone(cx) => return Poll::Pending,
                Poll::Ready(Ok(())) if pending => return Poll::Ready(Err(())),
                Poll::Ready(Ok(())) => {}
                Poll::Ready(Err(_)) => return Poll::Ready(Err(())),
                Poll::Pending => {
                    body.poll_background(cx);
                    return Poll::Pending;
                }
            }
        }
    }

    fn add(&mut self, frame: http_body::Frame<bytes::Bytes>) -> Result<(), ()> {
        match frame.into_data() {
            Ok(data) => self.encoder.data(data, &mut self.out).then_some(()).ok_or(()),
            Err(frame) => self.finish(frame.trailers_ref()),
        }
    }

    fn finish(&mut self, trailers: Option<&http::HeaderMap>) -> Result<(), ()> {
        self.ended = true;
        self.encoder.end(trailers, &mut self.out).then_some(()).ok_or(())
    }
}

/// Reads what is left of the request; `false` if that is too much.
async fn drain(front: &Front) -> bool {
    let mut left = DRAIN;
    let rest = std::future::poll_fn(|cx| {
        let mut incoming = lock(&front.incoming);
        let incoming = &mut *incoming;
        loop {
            match incoming.decoder.decode(&mut incoming.buffer) {
                Ok(Decoded::End | Decoded::Trailers(_)) => return Poll::Ready(true),
                Ok(Decoded::Data(data)) if data.len() as u64 <= left => left -= data.len() as u64,
                Ok(Decoded::Data(_)) | Err(_) => return Poll::Ready(false),
                Ok(Decoded::More) => match ready!(front.socket.poll_read(cx, &mut incoming.buffer, READ)) {
                    Ok(1..) => {}
                    Ok(0) | Err(_) => return Poll::Ready(false),
                },
            }
        }
    });
    timeout(DRAIN_TIME, rest).await.unwrap_or(false)
}

/// Ends the connection so that the response is not lost: closing with unread bytes would reset it.
async fn linger(front: &Front) {
    front.socket.shutdown_write();
    let rest = std::future::poll_fn(|cx| {
        let mut left = DRAIN;
        loop {
            let mut thrown = BytesMut::new();
            match ready!(front.socket.poll_read(cx, &mut thrown, READ)) {
                Ok(read @ 1..) if left > read as u64 => left -= read as u64,
                _ => return Poll::Ready(()),
            }
        }
    });
    let _ = timeout(DRAIN_TIME, rest).await;
}

/// Answers a request that is not forwarded, and ends the connection: nobody knows where the next request begins.
pub(super) async fn refuse(proxy: &Arc<Proxy>, front: &Arc<Front>, reason: Reason) -> End {
    refuse_to(proxy, front, Method::GET, reason).await
}

/// As [`refuse`], of a request whose head is no good: its method may be told all the same.
async fn refuse_head(proxy: &Arc<Proxy>, front: &Arc<Front>, reason: Reason) -> End {
    let is_head = lock(&front.incoming).buffer.starts_with(b"HEAD ");
    refuse_to(proxy, front, if is_head { Method::HEAD } else { Method::GET }, reason).await
}

async fn refuse_to(proxy: &Arc<Proxy>, front: &Arc<Front>, method: Method, reason: Reason) -> End {
    let response = route::refusal(proxy, &front.origin, reason);
    let asked = Asked { method, version: Version::HTTP_11, keep_alive: false, expects: false };
    lock(&front.incoming).buffer.clear();
    send(proxy, front, &asked, response).await
}

/// As [`refuse_head`], of a client that did not even say what it speaks.
pub(super) async fn refuse_slow_head(proxy: &Arc<Proxy>, front: &Arc<Front>) -> End {
    let _turn = front.turn.lock().await;
    refuse_head(proxy, front, Reason::HeadTimeout).await
}

impl Front {
    /// Whether the client has reset the connection while it is owed a response. While its request is still being read, the
    /// reader finds out.
    fn poll_gone(&self, cx: &mut Context<'_>) -> bool {
        lock(&self.incoming).decoder.is_done() && self.socket.poll_reset(cx).is_ready()
    }
}

impl super::Incoming {
    /// Whether the present request was read whole, and nothing after it.
    fn is_spent(&self) -> bool {
        self.decoder.is_done() && self.buffer.is_empty()
    }

    /// Throws away what has come of the present request.
    fn discard(&mut self) {
        while let Ok(Decoded::Data(_)) = self.decoder.decode(&mut self.buffer) {}
    }

    /// Whether a body is announced and none of it was read.
    fn untouched(&self) -> bool {
        !self.decoder.is_done() && !self.begun && self.buffer.is_empty()
    }
}

#[cfg(test)]
mod tests {
    use tokio::io::AsyncReadExt as _;
    use tokio::net::{TcpListener, TcpStream};

    use super::*;

    #[tokio::test]
    async fn an_answer_waits_for_what_comes_before_it() {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let peer = listener.local_addr().unwrap();
        let stream = TcpStream::connect(peer).await.unwrap();
        let (mut client, _) = listener.accept().await.unwrap();
        stream.writable().await.unwrap();
        let mut full = 0;
        while let Ok(written) = stream.try_write(&[b'.'; 65_536]) {
            full += written;
        }
        let known = crate::Client { service: 1, cookie: 0 };
        let origin = crate::front::Origin { client: known, netns: crate::Netns(0), peer, cookie: 0 };
        let front = Front::new(crate::socket::Socket::new(stream), origin, BytesMut::new());
        let interim = Interim::default();
        interim.push(&Response::builder().status(103).body(()).unwrap().into_parts().0);
        let reading = async {
            let mut text = vec![0; full];
            client.read_exact(&mut text).await.unwrap();
            client.read_buf(&mut text).await.unwrap();
            text.split_off(full)
        };
        let answer = pin!(async { 7 });
        let (answer, text) = tokio::join!(preceded(&front, &interim, answer), reading);
        assert_eq!(answer, Some(7));
        assert_eq!(String::from_utf8_lossy(&text), "HTTP/1.1 103 Early Hints\r\n\r\n");
    }
}
