//! Connections that became something else than HTTP: WebSocket and other upgrades, and CONNECT.

use std::sync::atomic::Ordering;
use std::task::{Context, Poll, ready};

use bytes::BytesMut;
use http::Response;
use serde::{Deserialize, Serialize};
use tokio::sync::watch;

use super::Front;
use crate::back::{Back, Home, lock};
use crate::body::Body;
use crate::handover::hex;
use crate::proxy::{Phase, Proxy};
use crate::socket::{Out, Socket};
use crate::wire::{Framing, head};

/// Bytes read at once.
const READ: usize = 16 * 1024;

/// Two sockets, and what is on its way between them.
#[derive(Debug)]
pub(crate) struct Tunnel {
    back: Socket,
    to_client: Way,
    to_endpoint: Way,
    /// Counts the connection in its pool; of a tunnel that another proxy opened there is none.
    _home: Option<Home>,
}

/// A tunnel as another process takes it, beside its two sockets.
#[derive(Debug, Serialize, Deserialize)]
pub(crate) struct Record {
    to_client: WayRecord,
    to_endpoint: WayRecord,
}

#[derive(Debug, Serialize, Deserialize)]
struct WayRecord {
    /// What was read and not written, in hexadecimal digits.
    unsent: String,
    ended: bool,
    done: bool,
}

impl Tunnel {
    /// The client is told first of all.
    pub(super) fn new(front: &Front, response: Response<Body>, back: Back) -> Self {
        let mut to_client = Way::default();
        head::write_response(
            &response.into_parts().0,
            Framing::Empty,
            head::After::Stay,
            to_client.out.tail(),
        );
        let mut to_endpoint = Way::default();
        to_endpoint.out.push(std::mem::take(&mut lock(&front.incoming).buffer).freeze());
        let (back, unread, home) = back.into_tunnel();
        to_client.out.push(unread.freeze());
        Self { back, to_client, to_endpoint, _home: Some(home) }
    }

    /// Carries bytes both ways until both have ended, or until it may go to another proxy: then it is given back.
    pub(super) async fn run(
        mut self,
        proxy: &Proxy,
        front: &Front,
        mut phase: watch::Receiver<Phase>,
    ) -> Option<Self> {
        let _turn = front.turn.lock().await;
        let leaves = async {
            // What it gives locks the phase: it must not be held.
            let alone = phase.wait_for(|phase| *phase == Phase::HandingOver).await.is_err();
            if alone || !proxy.tunnels_leave.load(Ordering::Relaxed) {
                std::future::pending::<()>().await;
            }
        };
        tokio::select! {
            biased;
            () = leaves => {}
            () = self.carry(front) => return None,
        }
        Some(self)
    }

    async fn carry(&mut self, front: &Front) {
        let Self { back, to_client, to_endpoint, .. } = self;
        let _ = std::future::poll_fn(|cx| {
            let up = to_endpoint.poll(cx, &front.socket, back);
            let down = to_client.poll(cx, back, &front.socket);
            match (up, down) {
                (Poll::Ready(Err(_)), _) | (_, Poll::Ready(Err(_))) => Poll::Ready(Err(())),
                (Poll::Ready(Ok(())), Poll::Ready(Ok(()))) => Poll::Ready(Ok(())),
                _ => Poll::Pending,
            }
        })
        .await;
    }

    /// What another process needs beside the front's socket.
    pub(crate) fn into_parts(self) -> (Record, Socket) {
        let record = Record { to_client: self.to_client.record(), to_endpoint: self.to_endpoint.record() };
        (record, self.back)
    }

    /// Goes on with what another process began; `None` for a record that cannot be read.
    pub(crate) fn from_parts(record: &Record, back: Socket) -> Option<Self> {
        let (to_client, to_endpoint) = (record.to_client.way()?, record.to_endpoint.way()?);
        Some(Self { back, to_client, to_endpoint, _home: None })
    }
}

impl WayRecord {
    fn way(&self) -> Option<Way> {
        let mut out = Out::default();
        out.push(hex::read(&self.unsent)?.into());
        Some(Way { out, ended: self.ended, done: self.done })
    }
}

/// One direction. The end of one is passed on; the other goes on.
#[derive(Debug, Default)]
struct Way {
    out: Out,
    ended: bool,
    done: bool,
}

impl Way {
    fn record(self) -> WayRecord {
        WayRecord { unsent: hex::write(&self.out.collect()), ended: self.ended, done: self.done }
    }

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
