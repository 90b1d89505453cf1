//! Responses that the kernel could not carry: to requests that it has routed itself.

use std::pin::pin;
use std::sync::Arc;

use http::{Method, Response, StatusCode, Version};
use tokio::net::TcpStream;

use super::http1::{self, Asked};
use super::{Front, Interim, life::End};
use crate::back::{Back, Exchange, Lent, lock};
use crate::body::Body;
use crate::kernel::Resting;
use crate::proxy::Proxy;
use crate::reason::Reason;
use crate::route;

/// How a relayed response ended.
#[derive(Debug)]
pub struct Outcome {
    /// Whether all of the response reached the client's socket, and the client may go on.
    pub complete: bool,
    /// The connection to the endpoint, if it can take another request.
    pub back: Option<TcpStream>,
    /// What went over the front connection so far.
    pub resting: Resting,
    /// The response's status; `None` if there was none.
    pub status: Option<StatusCode>,
    /// The response is the proxy's, and counted, in place of the endpoint's.
    pub is_own: bool,
    /// Bytes that were written to the client.
    pub bytes: u64,
}

/// Copies the response that `back` owes to a request with `method` to `front`, between the front's own exchanges, and what comes
/// before it. One that does not come, or is none, is answered as if the request had come here: nothing of it has reached the
/// client yet. `is_whole`: the client has sent all of the request.
pub(crate) async fn relay(
    proxy: &Arc<Proxy>,
    front: &Arc<Front>,
    back: TcpStream,
    method: Method,
    is_whole: bool,
) -> Outcome {
    let _turn = front.turn.lock().await;
    let before = front.socket.totals().1;
    let (lent, interim) = (Lent::default(), Interim::default());
    let mut exchange = Box::new(Exchange::owed(Back::lent(back, &lent), method.clone(), interim.clone()));
    let head = pin!(std::future::poll_fn(|cx| exchange.poll_head(cx)));
    let head = http1::preceded(front, &interim, head).await;
    let is_own = matches!(head, Some(Err(_)));
    let response = match head {
        Some(Ok(head)) => Some(head.map(|()| match exchange.left() {
            Some(0) => Body::Empty,
            _ => Body::Exchange(exchange),
        })),
        Some(Err(failure)) => Some(route::refusal(proxy, &front.origin, route::reason(&failure))),
        None => None,
    };
    let status = response.as_ref().map(Response::status);
    // What is still to come of a request that is refused would be no beginning of another.
    let asked = Asked { method, version: Version::HTTP_11, keep_alive: is_whole || !is_own, expects: false };
    let end = match response {
        Some(response) => http1::send(proxy, front, &asked, response).await,
        None => End::Close,
    };
    if end == End::Close {
        front.end();
    }
    let back = lock(&lent).take().map(crate::socket::Socket::into_stream);
    Outcome {
        complete: end != End::Close,
        back,
        resting: front.resting(),
        status,
        is_own,
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
        front.end();
    }
}
