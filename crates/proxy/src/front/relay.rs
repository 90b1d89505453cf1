//! Responses that the kernel could not carry: to requests that it has routed itself.

use std::pin::pin;
use std::sync::Arc;

use http::{Method, StatusCode, Version};
use tokio::net::TcpStream;

use super::http1::{self, Asked};
use super::{Front, Interim, life::End};
use crate::back::{Back, Exchange, Lent, lock};
use crate::body::Body;
use crate::kernel::Resting;
use crate::proxy::Proxy;
use crate::reason::Reason;

/// How a relayed response ended.
#[derive(Debug)]
pub struct Outcome {
    /// Whether all of the response reached the client's socket, and the client may go on.
    pub complete: bool,
    /// The connection to the endpoint, if it can take another request.
    pub back: Option<TcpStream>,
    /// What went over the front connection so far.
    pub resting: Resting,
    /// The response's status; `None` if none came.
    pub status: Option<StatusCode>,
    /// Bytes that were written to the client.
    pub bytes: u64,
}

/// Copies the response that `back` owes to a request with `method` to `front`, between the front's own exchanges, and what
/// comes before it.
pub(crate) async fn relay(proxy: &Proxy, front: &Arc<Front>, back: TcpStream, method: Method) -> Outcome {
    let _turn = front.turn.lock().await;
    let before = front.socket.totals().1;
    let (lent, interim) = (Lent::default(), Interim::default());
    let mut exchange = Box::new(Exchange::owed(Back::lent(back, &lent), method.clone(), interim.clone()));
    let head = pin!(std::future::poll_fn(|cx| exchange.poll_head(cx)));
    let Some(Ok(response)) = http1::preceded(front, &interim, head).await else {
        front.socket.reset();
        return Outcome { complete: false, back: None, resting: front.resting(), status: None, bytes: 0 };
    };
    let status = Some(response.status());
    let response =
        response.map(|()| if exchange.left() == Some(0) { Body::Empty } else { Body::Exchange(exchange) });
    let asked = Asked { method, version: Version::HTTP_11, keep_alive: true, expects: false };
    let end = http1::send(proxy, front, &asked, response).await;
    if end == End::Close {
        // Wakes the front where it sleeps, and it ends.
        front.socket.shutdown_read();
    }
    let back = lock(&lent).take().map(crate::socket::Socket::into_stream);
    Outcome {
        complete: end != End::Close,
        back,
        resting: front.resting(),
        status,
        bytes: front.socket.totals().1 - before,
    }
}

/// Tells the client that the response to a request of its, which the kernel has routed, will not come. If the response has
/// `begun` there is no way to say so but to end the connection.
pub(crate) async fn fail(proxy: &Arc<Proxy>, front: &Arc<Front>, reason: Reason, begun: bool) {
    let _turn = front.turn.lock().await;
    if !front.begin_refusal() {
        return;
    }
    if begun {
        front.socket.reset();
    } else {
        http1::refuse(proxy, front, reason).await;
        // Wakes the front where it sleeps, and it ends.
        front.socket.shutdown_read();
    }
}
