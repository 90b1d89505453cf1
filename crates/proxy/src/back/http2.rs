//! HTTP/2 connections to an endpoint, each shared by many requests.

use std::io;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use http::header::{EXPECT, HOST};
use http::{HeaderValue, Request, Response, Uri, Version, request};
use hyper::client::conn::http2::{Builder, SendRequest};
use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
use tokio::time::Instant;

use super::{Failure, PlacePool, Terms, lock};
use crate::body::{Body, Broken};
use crate::wire::Fault;

/// Requests on one connection before another is opened; servers allow 100 and more.
const STREAMS: usize = 100;
/// What an endpoint may send before it is read, for a request and for a connection.
const STREAM_WINDOW: u32 = 128 * 1024;
const CONNECTION_WINDOW: u32 = 1024 * 1024;

/// The connections of one place.
#[derive(Default)]
pub(super) struct Shared {
    connections: Mutex<Vec<Connection>>,
    /// Held while a connection is made, so that a burst of requests makes one.
    making: tokio::sync::Mutex<()>,
}

struct Connection {
    sender: SendRequest<Body>,
    streams: Arc<AtomicUsize>,
    used: Instant,
}

/// Counts a request on a connection, until its response is complete.
#[derive(Debug)]
pub(crate) struct Stream(Arc<AtomicUsize>);

impl Drop for Stream {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::Relaxed);
    }
}

impl Shared {
    pub(super) async fn send(
        &self,
        pool: &Arc<PlacePool>,
        parts: &request::Parts,
        body: Body,
        terms: &Terms,
    ) -> Result<Response<Body>, Failure> {
        let request =
            for_http2(parts, body).map_err(|_| Failure::Client(Broken::Malformed(Fault::Target)))?;
        let (mut sender, stream) = self.take(pool, terms).await?;
        let response = sender.send_request(request).await.map_err(failure)?;
        let (mut parts, incoming) = response.into_parts();
        parts.extensions.insert(Arc::new(stream));
        Ok(Response::from_parts(parts, Body::Http2(incoming)))
    }

    async fn take(
        &self,
        pool: &Arc<PlacePool>,
        terms: &Terms,
    ) -> Result<(SendRequest<Body>, Stream), Failure> {
        if let Some(found) = self.ready() {
            return Ok(found);
        }
        let _making = self.making.lock().await;
        if let Some(found) = self.ready() {
            return Ok(found);
        }
        let deadline = Instant::now() + terms.pool.connect_timeout;
        let counted = pool.count(terms).ok_or(Failure::Exhausted)?;
        let connection = pool.connect(counted, deadline).await?;
        let super::Connection { socket, _counted: counted, .. } = connection;
        let handshake = Builder::new(TokioExecutor::new())
            .timer(TokioTimer::new())
            .initial_stream_window_size(STREAM_WINDOW)
            .initial_connection_window_size(CONNECTION_WINDOW)
            .max_header_list_size(64 * 1024)
            .max_send_buf_size(64 * 1024)
            .handshake(TokioIo::new(socket.into_stream()));
        let (sender, driver) = tokio::time::timeout_at(deadline, handshake)
            .await
            .map_err(|_| Failure::ConnectTimeout)?
            .map_err(|error| Failure::Connect(io::Error::other(error)))?;
        tokio::spawn(async move {
            let _counted = counted;
            if let Err(error) = driver.await {
                tracing::debug!(%error, "an HTTP/2 connection to an endpoint ended");
            }
        });
        let connection = Connection { sender, streams: Arc::default(), used: Instant::now() };
        let found = connection.enter();
        lock(&self.connections).push(connection);
        Ok(found)
    }

    fn ready(&self) -> Option<(SendRequest<Body>, Stream)> {
        let mut connections = lock(&self.connections);
        connections.retain(|connection| !connection.sender.is_closed());
        let found = connections.iter_mut().find(|connection| {
            connection.sender.is_ready() && connection.streams.load(Ordering::Relaxed) < STREAMS
        })?;
        found.used = Instant::now();
        Some(found.enter())
    }

    /// Closes connections that nobody has used for `timeout`.
    pub(super) fn sweep(&self, timeout: Duration) {
        lock(&self.connections).retain(|connection| {
            let busy = connection.streams.load(Ordering::Relaxed) > 0;
            !connection.sender.is_closed() && (busy || connection.used.elapsed() < timeout)
        });
    }
}

impl Connection {
    fn enter(&self) -> (SendRequest<Body>, Stream) {
        self.streams.fetch_add(1, Ordering::Relaxed);
        (self.sender.clone(), Stream(Arc::clone(&self.streams)))
    }
}

/// The request as HTTP/2 has it: the host is in the target, and nothing is about the connection.
fn for_http2(parts: &request::Parts, body: Body) -> Result<Request<Body>, http::Error> {
    let authority = parts.headers.get(HOST).map_or(&b"localhost"[..], HeaderValue::as_bytes);
    let path = parts.uri.path_and_query().map_or("/", |path| path.as_str());
    let uri = Uri::builder().scheme("http").authority(authority).path_and_query(path).build()?;
    let mut request =
        Request::builder().method(parts.method.clone()).uri(uri).version(Version::HTTP_2).body(body)?;
    let headers = request.headers_mut();
    headers.clone_from(&parts.headers);
    headers.remove(HOST);
    headers.remove(EXPECT);
    Ok(request)
}

fn failure(error: hyper::Error) -> Failure {
    let reason = std::error::Error::source(&error).and_then(|source| source.downcast_ref::<h2::Error>());
    let reason = reason.and_then(h2::Error::reason);
    match reason {
        Some(h2::Reason::REFUSED_STREAM) => Failure::Refused,
        _ if error.is_canceled() => Failure::Refused,
        _ if error.is_user() => Failure::Client(Broken::Http2(error)),
        _ => Failure::Reset { stale: false, sent: true },
    }
}
