//! Asks one endpoint whether it is well. Never longer than the check's timeout, never more than a bounded answer.

use std::io;
use std::net::SocketAddr;
use std::time::Duration;

use alize_model::{HealthCheck, Probe};
use http_body_util::{BodyExt, Empty};
use hyper::body::{Bytes, Incoming};
use hyper::client::conn::http1;
use hyper::header::{CONNECTION, HOST, USER_AGENT};
use hyper::{Request, Response};
use hyper_util::rt::TokioIo;
use tokio::net::TcpStream;
use tokio::time::timeout;

/// The longest head of an answer.
const HEAD: usize = 16 * 1024;
/// How much of a body is read, so that a well-behaved server sees its answer taken.
const BODY: usize = 64 * 1024;

const AGENT: &str = concat!("alize/", env!("CARGO_PKG_VERSION"));

/// Asks `endpoint`; says why it is not well.
pub(crate) async fn probe(check: &HealthCheck, endpoint: SocketAddr) -> Result<(), String> {
    let mut target = endpoint;
    if let Some(port) = check.port {
        target.set_port(port.get());
    }
    match timeout(check.timeout, ask(&check.probe, target)).await {
        Ok(answer) => answer,
        Err(_) => Err(format!("no answer within {}", seconds(check.timeout))),
    }
}

async fn ask(probe: &Probe, target: SocketAddr) -> Result<(), String> {
    let stream =
        TcpStream::connect(target).await.map_err(|error| format!("connect {}", what_failed(&error)))?;
    let Probe::Http { path, host, status } = probe else {
        return Ok(());
    };
    let host = host.as_deref().map_or_else(|| target.to_string(), str::to_owned);
    let request = Request::get(&**path)
        .header(HOST, host)
        .header(USER_AGENT, AGENT)
        .header(CONNECTION, "close")
        .body(Empty::<Bytes>::new())
        .map_err(|error| format!("the request cannot be made: {error}"))?;
    let answer = exchange(stream, request).await.map_err(|error| format!("HTTP failed: {error}"))?;
    if (status.0..=status.1).contains(&answer) {
        return Ok(());
    }
    Err(format!("HTTP status {answer}"))
}

/// Sends `request`; gives the status once the answer was read.
async fn exchange(stream: TcpStream, request: Request<Empty<Bytes>>) -> hyper::Result<u16> {
    let (mut sender, connection) =
        http1::Builder::new().max_buf_size(HEAD).handshake(TokioIo::new(stream)).await?;
    let answer = async move {
        let response = sender.send_request(request).await?;
        let status = response.status().as_u16();
        discard_body(response).await;
        Ok(status)
    };
    tokio::pin!(answer, connection);
    let mut open = true;
    loop {
        tokio::select! {
            biased;
            answer = &mut answer => return answer,
            // What the connection has read already is still on its way to `answer`.
            _ = &mut connection, if open => open = false,
        }
    }
}

/// The status has decided already: a body that breaks off is not held against the endpoint.
async fn discard_body(mut response: Response<Incoming>) {
    let mut left = BODY;
    while let Some(Ok(frame)) = response.frame().await {
        let length = frame.data_ref().map_or(0, Bytes::len);
        match left.checked_sub(length) {
            Some(rest) => left = rest,
            None => return,
        }
    }
}

fn what_failed(error: &io::Error) -> String {
    match error.kind() {
        io::ErrorKind::ConnectionRefused => "refused".into(),
        io::ErrorKind::TimedOut => "timed out".into(),
        io::ErrorKind::ConnectionReset => "reset".into(),
        io::ErrorKind::HostUnreachable => "failed: host unreachable".into(),
        io::ErrorKind::NetworkUnreachable => "failed: network unreachable".into(),
        _ => format!("failed: {error}"),
    }
}

/// `1.5 s`.
pub(crate) fn seconds(duration: Duration) -> String {
    format!("{} s", duration.as_secs_f64())
}

#[cfg(test)]
mod tests {
    use std::num::NonZeroU8;
    use std::sync::Arc;

    use tokio::io::{AsyncReadExt, AsyncWriteExt};
    use tokio::net::TcpListener;

    use super::*;

    fn check(probe: Probe) -> HealthCheck {
        HealthCheck {
            probe,
            port: None,
            interval: Duration::from_secs(10),
            timeout: Duration::from_millis(300),
            jitter: 0,
            healthy: NonZeroU8::MIN,
            unhealthy: NonZeroU8::MIN,
        }
    }

    fn http(path: &str) -> HealthCheck {
        check(Probe::Http { path: path.into(), host: Some(Arc::from("web.example")), status: (200, 299) })
    }

    /// A server that reads one head and answers with `answer`, once; gives its address and what it read.
    async fn server(answer: Vec<u8>) -> (SocketAddr, tokio::task::JoinHandle<String>) {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let task = tokio::spawn(async move {
            let (mut stream, _) = listener.accept().await.unwrap();
            let mut head = vec![0; 4096];
            let length = stream.read(&mut head).await.unwrap();
            // The client may close first.
            let _ = stream.write_all(&answer).await;
            String::from_utf8_lossy(&head[..length]).into_owned()
        });
        (address, task)
    }

    #[tokio::test]
    async fn tcp_asks_for_a_connection() {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        assert_eq!(probe(&check(Probe::Tcp), address).await, Ok(()));
        drop(listener);
        assert_eq!(probe(&check(Probe::Tcp), address).await, Err("connect refused".into()));
    }

    #[tokio::test]
    async fn http_asks_for_a_status() {
        let (address, task) = server(b"HTTP/1.1 204 No Content\r\n\r\n".to_vec()).await;
        assert_eq!(probe(&http("/healthz?full=1"), address).await, Ok(()));
        let head = task.await.unwrap();
        assert!(head.starts_with("GET /healthz?full=1 HTTP/1.1\r\n"), "{head}");
        assert!(head.contains("host: web.example\r\n"), "{head}");
        let (address, _task) = server(b"HTTP/1.1 503 Busy\r\ncontent-length: 4\r\n\r\nbusy".to_vec()).await;
        assert_eq!(probe(&http("/"), address).await, Err("HTTP status 503".into()));
    }

    #[tokio::test]
    async fn the_port_may_be_another() {
        let (address, _task) = server(b"HTTP/1.0 200 OK\r\n\r\nhello".to_vec()).await;
        let mut check = http("/");
        check.port = std::num::NonZeroU16::new(address.port());
        assert_eq!(probe(&check, "127.0.0.1:1".parse().unwrap()).await, Ok(()));
    }

    #[tokio::test]
    async fn odd_answers_are_failures_and_bounded() {
        let garbage = server(b"SSH-2.0-OpenSSH\r\n".to_vec()).await;
        let endless = server(format!("HTTP/1.1 200 OK\r\nx: {}", "y".repeat(100_000)).into_bytes()).await;
        let empty = server(Vec::new()).await;
        for (address, _task) in [garbage, endless, empty] {
            let answer = probe(&http("/"), address).await.unwrap_err();
            assert!(answer.starts_with("HTTP failed: "), "{answer}");
        }
        let huge = [b"HTTP/1.1 200 OK\r\n\r\n".to_vec(), vec![b'z'; 4 << 20]].concat();
        let (address, _task) = server(huge).await;
        assert_eq!(probe(&http("/"), address).await, Ok(()), "a huge body is not read to its end");
    }

    #[tokio::test]
    async fn silence_is_a_failure() {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        assert_eq!(probe(&http("/"), address).await, Err("no answer within 0.3 s".into()));
    }
}
