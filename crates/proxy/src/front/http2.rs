//! A client that speaks HTTP/2 by prior knowledge: gRPC, mostly.

use std::convert::Infallible;
use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use bytes::Buf;
use http::header::{CONNECTION, CONTENT_LENGTH, HOST, TRANSFER_ENCODING, UPGRADE};
use http::{HeaderValue, Method, Request, Response, Uri, Version};
use hyper::body::Incoming;
use hyper::server::conn::http2::Builder;
use hyper::service::service_fn;
use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::sync::{Notify, watch};

use super::{Front, Last};
use crate::back::lock;
use crate::body::Body;
use crate::proxy::{Phase, Proxy};
use crate::reason::Reason;
use crate::route;
use crate::wire::{Fault, head};

/// Requests at once on one connection.
const STREAMS: u32 = 128;
/// What a client may send before it is read, for a request and for the connection.
const STREAM_WINDOW: u32 = 64 * 1024;
const CONNECTION_WINDOW: u32 = 512 * 1024;
/// A client that sends nothing is asked whether it is still there.
const PING: Duration = Duration::from_secs(60);

/// Serves the connection until it ends; told to end, it lets what runs finish and takes no more.
pub(super) async fn serve(proxy: &Arc<Proxy>, front: &Arc<Front>, mut phase: watch::Receiver<Phase>) {
    let _turn = front.turn.lock().await;
    let last = Arc::new(Notify::new());
    let service = service_fn(|request| {
        let (proxy, front, last) = (Arc::clone(proxy), Arc::clone(front), Arc::clone(&last));
        async move { Ok::<_, Infallible>(respond(&proxy, &front, &last, request).await) }
    });
    let connection = Builder::new(TokioExecutor::new())
        .timer(TokioTimer::new())
        .max_concurrent_streams(STREAMS)
        .initial_stream_window_size(STREAM_WINDOW)
        .initial_connection_window_size(CONNECTION_WINDOW)
        .max_header_list_size(u32::try_from(proxy.limits.head_bytes).unwrap_or(u32::MAX))
        .max_send_buf_size(64 * 1024)
        .keep_alive_interval(PING)
        .serve_connection(TokioIo::new(Bytes(Arc::clone(front))), service);
    let mut connection = std::pin::pin!(connection);
    let ends = async {
        tokio::select! {
            changed = phase.wait_for(|phase| *phase != Phase::Serving) => drop(changed),
            () = last.notified() => {}
        }
    };
    let mut ends = std::pin::pin!(ends);
    let mut told = false;
    loop {
        tokio::select! {
            ended = connection.as_mut() => {
                if let Err(error) = ended {
                    tracing::debug!(%error, "an HTTP/2 connection of a client ended");
                }
                return;
            }
            () = ends.as_mut(), if !told => {
                told = true;
                connection.as_mut().graceful_shutdown();
            }
        }
    }
}

async fn respond(
    proxy: &Arc<Proxy>,
    front: &Front,
    last: &Notify,
    request: Request<Incoming>,
) -> Response<Body> {
    let is_head = request.method() == Method::HEAD;
    let mut response = match as_http1(request) {
        Ok(request) => route::answer(proxy, &front.origin, Box::new(request)).await,
        Err(fault) => route::refusal(proxy, &front.origin, Reason::from(fault)),
    };
    if response.extensions().get::<Last>().is_some() {
        last.notify_one();
    }
    if is_head {
        *response.body_mut() = Body::Empty;
    }
    *response.version_mut() = Version::HTTP_2;
    response.extensions_mut().clear();
    response
}

/// The request in the form in which it is routed: the target is a path, the authority is in `Host`.
fn as_http1(request: Request<Incoming>) -> Result<Request<Body>, Fault> {
    let (mut parts, body) = request.into_parts();
    let authority = parts.uri.authority().map(|authority| authority.as_str().as_bytes());
    let mut hosts = parts.headers.get_all(HOST).iter().map(HeaderValue::as_bytes);
    let host = match (authority, hosts.next(), hosts.next()) {
        // RFC 9113 section 8.3.1: who says both must say the same.
        (Some(authority), Some(host), None) if authority.eq_ignore_ascii_case(host) => authority,
        (Some(one), None, _) | (None, Some(one), None) => one,
        _ => return Err(Fault::Host),
    };
    head::check_host(host)?;
    let host = HeaderValue::from_bytes(host).map_err(|_| Fault::Host)?;
    parts.headers.insert(HOST, host);
    // A connection of HTTP/2 cannot become a tunnel here, and its fields would be believed by an HTTP/1 endpoint.
    if parts.method == Method::CONNECT {
        return Err(Fault::Target);
    }
    for name in [CONNECTION, TRANSFER_ENCODING, UPGRADE] {
        if parts.headers.contains_key(name) {
            return Err(Fault::Field);
        }
    }
    let path = parts.uri.path_and_query().map_or("/", |path| path.as_str());
    parts.uri = Uri::try_from(path).map_err(|_| Fault::Target)?;
    let body = if http_body::Body::is_end_stream(&body) {
        parts.headers.remove(CONTENT_LENGTH);
        Body::Empty
    } else {
        Body::Http2(body)
    };
    Ok(Request::from_parts(parts, body))
}

/// The connection's bytes, those first that were read to find out what is spoken.
struct Bytes(Arc<Front>);

impl AsyncRead for Bytes {
    fn poll_read(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        space: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let front = &self.0;
        let mut incoming = lock(&front.incoming);
        if !incoming.buffer.is_empty() {
            let size = incoming.buffer.len().min(space.remaining());
            space.put_slice(&incoming.buffer[..size]);
            incoming.buffer.advance(size);
            if incoming.buffer.is_empty() {
                incoming.buffer = bytes::BytesMut::new();
            }
            return Poll::Ready(Ok(()));
        }
        loop {
            ready!(front.socket.stream().poll_read_ready(cx))?;
            match front.socket.stream().try_read(space.initialize_unfilled()) {
                Ok(read) => {
                    front.socket.count_read(read);
                    space.advance(read);
                    return Poll::Ready(Ok(()));
                }
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
                Err(error) => return Poll::Ready(Err(error)),
            }
        }
    }
}

impl AsyncWrite for Bytes {
    fn poll_write(self: Pin<&mut Self>, cx: &mut Context<'_>, data: &[u8]) -> Poll<io::Result<usize>> {
        self.poll_write_vectored(cx, &[io::IoSlice::new(data)])
    }

    fn poll_write_vectored(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        pieces: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let socket = &self.0.socket;
        loop {
            ready!(socket.stream().poll_write_ready(cx))?;
            match socket.stream().try_write_vectored(pieces) {
                Ok(written) => {
                    socket.count_written(written);
                    return Poll::Ready(Ok(written));
                }
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
                Err(error) => return Poll::Ready(Err(error)),
            }
        }
    }

    fn is_write_vectored(&self) -> bool {
        true
    }

    fn poll_flush(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }

    fn poll_shutdown(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.0.socket.shutdown_write();
        Poll::Ready(Ok(()))
    }
}
