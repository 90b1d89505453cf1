//! The life of a front connection: sleep, wake, find out what is spoken, serve, sleep.

use std::sync::Arc;

use bytes::BytesMut;
use tokio::sync::{OwnedSemaphorePermit, watch};

use super::{Front, http1, http2, relay};
use crate::back::lock;
use crate::kernel::Standing;
use crate::proxy::{Phase, Proxy};
use crate::reason::Reason;

/// How HTTP/2 with prior knowledge begins, RFC 9113 section 3.4.
const PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";
/// Bytes read to find out what is spoken, and with it most heads of requests.
const READ: usize = 4 * 1024;

/// The wait between two looks whether a response that the kernel carries has ended. Only clients that do not wait for a
/// response before they send more come to this.
const UNSETTLED: std::time::Duration = std::time::Duration::from_millis(1);

/// The wait between two looks whether a response that the kernel carries has ended, before a connection is handed over.
const OWED: std::time::Duration = std::time::Duration::from_millis(5);

/// How serving a connection ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum End {
    /// Nothing is buffered, nothing is owed.
    Rest,
    /// An exchange is complete, but there is more to read already.
    More,
    /// It became something else than HTTP, which the front holds.
    Tunnel,
    /// The connection is over.
    Close,
}

#[derive(Debug, PartialEq, Eq)]
enum Spoken {
    Unclear,
    Http1,
    Http2,
}

/// A connection at rest on its way to another proxy, in its turn.
pub(crate) struct Leaving {
    pub(crate) front: Arc<Front>,
    /// Few leave at once: those that wait for their turn are served here meanwhile.
    _turn: OwnedSemaphorePermit,
}

impl Leaving {
    fn new(front: Arc<Front>, turn: OwnedSemaphorePermit) -> Self {
        Self { front, _turn: turn }
    }
}

/// Serves a connection until it ends, or until it is its turn to be handed over: then it is given back, at rest.
pub(crate) async fn live(
    proxy: Arc<Proxy>,
    front: Arc<Front>,
    mut phase: watch::Receiver<Phase>,
) -> Option<Leaving> {
    loop {
        if front.has_tunnel() {
            return Box::pin(tunnelled(proxy, front, phase)).await;
        }
        let present = *phase.borrow_and_update();
        let turn = || Arc::clone(&proxy.leaving);
        match present {
            Phase::Serving => {}
            Phase::Draining => return None,
            Phase::HandingOver => {
                if let Ok(turn) = turn().try_acquire_owned()
                    && !proxy.kernel.owes(&front.origin.client)
                {
                    return Some(Leaving::new(front, turn));
                }
            }
        }
        // A response that the kernel has begun may have to be carried, or its end be told, by who has the connection to the
        // endpoint. This process has let go of all idle ones before it says so, so no other can begin there.
        let leaves = present == Phase::HandingOver && !proxy.kernel.owes(&front.origin.client);
        let mut ended = false;
        if !front.has_unread() {
            if present == Phase::HandingOver && !leaves {
                Box::pin(tokio::time::sleep(OWED)).await;
                if front.is_refused() {
                    return None;
                }
                continue;
            }
            tokio::select! {
                biased;
                turn = turn().acquire_owned(), if leaves => return Some(Leaving::new(front, turn.ok()?)),
                readable = front.socket.stream().readable() => readable.ok()?,
                _ = phase.changed() => continue,
            }
            // A wake-up need not mean bytes: after an exchange it is often the memory of earlier ones.
            match front.socket.try_read(&mut lock(&front.incoming).buffer, READ) {
                Ok(Some(1..)) => {}
                Ok(None) => continue,
                Ok(Some(_)) => ended = true,
                Err(_) => return None,
            }
        }
        // After the look into the socket: what came has come by now, and the kernel tells before it lets bytes pass.
        loop {
            match proxy.kernel.standing(&front.origin.client) {
                _ if front.is_refused() => return None,
                Standing::Settled => break,
                Standing::Owed => tokio::time::sleep(UNSETTLED).await,
                Standing::Broken { begun } => {
                    Box::pin(relay::fail(&proxy, &front, Reason::EndpointClosed, begun)).await;
                    return None;
                }
            }
        }
        if ended {
            tokio::time::sleep(proxy.kernel.may_be_owed(&front.origin.client)).await;
            return None;
        }
        // What serving needs is made when there is something to serve, and is gone when the connection sleeps.
        match Box::pin(serve(&proxy, &front, phase.clone())).await {
            End::Rest => {
                front.shrink();
                proxy.kernel.resting(&front.resting());
            }
            End::More | End::Tunnel => {}
            End::Close => return None,
        }
    }
}

/// Carries what is no HTTP any more until it ends, or until it is handed over.
async fn tunnelled(proxy: Arc<Proxy>, front: Arc<Front>, phase: watch::Receiver<Phase>) -> Option<Leaving> {
    let carried = front.take_tunnel()?.run(&proxy, &front, phase).await;
    front.set_tunnel(carried?);
    let turn = Arc::clone(&proxy.leaving).acquire_owned().await;
    Some(Leaving::new(front, turn.ok()?))
}

async fn serve(proxy: &Arc<Proxy>, front: &Arc<Front>, phase: watch::Receiver<Phase>) -> End {
    let deadline = tokio::time::Instant::now() + proxy.limits.head_timeout;
    loop {
        let spoken = spoken(&lock(&front.incoming).buffer);
        match spoken {
            Spoken::Http1 => return http1::serve(proxy, front, deadline).await,
            Spoken::Http2 => {
                http2::serve(proxy, front, phase).await;
                return End::Close;
            }
            Spoken::Unclear => {}
        }
        let more =
            std::future::poll_fn(|cx| front.socket.poll_read(cx, &mut lock(&front.incoming).buffer, READ));
        match tokio::time::timeout_at(deadline, more).await {
            Ok(Ok(1..)) => {}
            Ok(Ok(0) | Err(_)) => return End::Close,
            Err(_) => return http1::refuse_slow_head(proxy, front).await,
        }
    }
}

fn spoken(bytes: &BytesMut) -> Spoken {
    match bytes.len().min(PREFACE.len()) {
        0 => Spoken::Unclear,
        seen if bytes[..seen] != PREFACE[..seen] => Spoken::Http1,
        seen if seen < PREFACE.len() => Spoken::Unclear,
        _ => Spoken::Http2,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_first_bytes_say_what_is_spoken() {
        let spoken = |text: &str| spoken(&BytesMut::from(text));
        assert_eq!(spoken("G"), Spoken::Http1);
        assert_eq!(spoken("PRI * HTTP/2.0\r\n\r\nSM\r\n\r"), Spoken::Unclear);
        assert_eq!(spoken("PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\0"), Spoken::Http2);
        assert_eq!(spoken("PRI * HTTP/2.0\r\nHost: a\r\n"), Spoken::Http1, "which refuses it");
        assert_eq!(spoken("P"), Spoken::Unclear);
        assert_eq!(spoken("PU"), Spoken::Http1);
    }

    /// A thousand connections at once is what is counted with; each byte here is a kilobyte then.
    #[tokio::test]
    async fn what_a_connection_needs_is_bounded() {
        let proxy = Proxy::new(Arc::new(crate::Fixed::default()), crate::Limits::default());
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let peer = listener.local_addr().unwrap();
        let stream = tokio::net::TcpStream::connect(peer).await.unwrap();
        let client = crate::Client { service: 1, cookie: 0 };
        let origin = crate::front::Origin { client, netns: crate::Netns(0), peer, cookie: 0 };
        let front = Front::new(crate::socket::Socket::new(stream), origin, BytesMut::new());
        let asleep = size_of_val(&live(Arc::clone(&proxy), Arc::clone(&front), proxy.phase.subscribe()));
        let awake = size_of_val(&serve(&proxy, &front, proxy.phase.subscribe()));
        assert!(asleep + size_of::<Front>() <= 768, "asleep: {asleep} and {}", size_of::<Front>());
        assert!(awake <= 2_560, "awake: {awake}");
    }
}
