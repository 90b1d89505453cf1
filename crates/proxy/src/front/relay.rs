//! Responses that the kernel could not carry: to requests that it has routed itself.

use std::sync::{Arc, Mutex};

use http::{Method, Version};
use tokio::net::TcpStream;

use super::http1::{self, Asked};
use super::{Front, life::End};
use crate::back::{Back, Exchange, Lent, lock};
use crate::body::Body;
use crate::proxy::Proxy;

/// How a relayed response ended.
#[derive(Debug)]
pub struct Outcome {
    /// Whether all of the response reached the client's socket, and the client may go on.
    pub complete: bool,
    /// The connection to the endpoint, if it can take another request.
    pub back: Option<TcpStream>,
}

/// Copies the response that `back` owes to a request with `method` to `front`, between the front's own exchanges.
pub(crate) async fn relay(proxy: &Proxy, front: &Arc<Front>, back: TcpStream, method: Method) -> Outcome {
    let _turn = front.turn.lock().await;
    let lent: Lent = Arc::new(Mutex::new(None));
    let mut exchange = Box::new(Exchange::owed(Back::lent(back, &lent), method.clone()));
    let Ok(response) = std::future::poll_fn(|cx| exchange.poll_head(cx)).await else {
        front.socket.reset();
        return Outcome { complete: false, back: None };
    };
    let response =
        response.map(|()| if exchange.left() == Some(0) { Body::Empty } else { Body::Exchange(exchange) });
    let asked = Asked { method, version: Version::HTTP_11, keep_alive: true, expects: false };
    let end = http1::send(proxy, front, &asked, response).await;
    if end == End::Close {
        // Wakes the front where it sleeps, and it ends.
        front.socket.shutdown_read();
    }
    let back = lock(&lent).take().map(crate::socket::Socket::into_stream);
    Outcome { complete: end != End::Close, back }
}
