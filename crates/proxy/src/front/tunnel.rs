//! Connections that became something else than HTTP: WebSocket and other upgrades, and CONNECT.

use std::sync::Arc;
use std::task::{Context, Poll, ready};

use bytes::{Bytes, BytesMut};
use http::Response;

use super::Front;
use super::life::End;
use crate::back::{Back, lock};
use crate::body::Body;
use crate::socket::{Out, Socket};
use crate::wire::{Framing, head};

/// Bytes read at once.
const READ: usize = 16 * 1024;

/// Tells the client, and carries bytes both ways until both have ended.
pub(super) async fn open(front: &Arc<Front>, response: Response<Body>, mut back: Back) -> End {
    let mut to_client = Way::default();
    head::write_response(&response.into_parts().0, Framing::Empty, head::After::Stay, to_client.out.tail());
    let mut to_endpoint = Way::default();
    to_endpoint.out.push(take(&mut lock(&front.incoming).buffer));
    let (socket, unread) = back.tunnel();
    to_client.out.push(take(unread));
    let _ = std::future::poll_fn(|cx| {
        let up = to_endpoint.poll(cx, &front.socket, socket);
        let down = to_client.poll(cx, socket, &front.socket);
        match (up, down) {
            (Poll::Ready(Err(_)), _) | (_, Poll::Ready(Err(_))) => Poll::Ready(Err(())),
            (Poll::Ready(Ok(())), Poll::Ready(Ok(()))) => Poll::Ready(Ok(())),
            _ => Poll::Pending,
        }
    })
    .await;
    End::Close
}

fn take(buffer: &mut BytesMut) -> Bytes {
    std::mem::take(buffer).freeze()
}

/// One direction. The end of one is passed on; the other goes on.
#[derive(Default)]
struct Way {
    out: Out,
    ended: bool,
    done: bool,
}

impl Way {
    fn poll(&mut self, cx: &mut Context<'_>, from: &Socket, to: &Socket) -> Poll<std::io::Result<()>> {
        while !self.done {
            ready!(to.poll_write(cx, &mut self.out))?;
            if self.ended {
                to.shutdown_write();
                self.done = true;
                break;
            }
            let mut buffer = BytesMut::new();
            match ready!(from.poll_read(cx, &mut buffer, READ))? {
                0 => self.ended = true,
                _ => self.out.push(buffer.freeze()),
            }
        }
        Poll::Ready(Ok(()))
    }
}
