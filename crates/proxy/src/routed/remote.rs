//! Connections to endpoints that have no socket on this host: the kernel sends requests out of them and reads responses.

use std::net;
use std::sync::{Arc, Weak};
use std::time::Duration;

use alize_datapath::http::{Lent, Slot};
use tokio::net::TcpStream;
use tokio::sync::Notify;

use super::Routed;
use super::ends::has_ended;
use super::slots::{carry, end};
use crate::back::lock;

/// Room for what is sent, of which the kernel takes twice as much: more than a request that it routes has, so that none is
/// sent in part. The client would send the rest once more, and the programs have counted it already.
pub(super) const SENDING: u32 = 128 * 1024;

/// Within which a program that has taken a slot finds that its connection has ended, and gives up.
const TURNED_AWAY: Duration = Duration::from_millis(2);

/// Within which a program sees bytes whose end was told already.
const SOFT_INTERRUPT: Duration = Duration::from_millis(2);

/// What the kernel knows of the connection, as long as that is open.
struct Known {
    routed: Weak<Routed>,
    cookie: u64,
}

impl Drop for Known {
    fn drop(&mut self) {
        if let Some(routed) = self.routed.upgrade()
            && let Err(error) = lock(&routed.router).disarm(self.cookie)
        {
            tracing::debug!(%error, "what is known of a connection that is gone stays in the kernel");
        }
    }
}

/// Sleeps beside the connection until there is a response to carry, or its end.
pub(super) async fn attend(
    routed: Weak<Routed>,
    slot: Slot,
    cookie: u64,
    stream: TcpStream,
    wake: Arc<Notify>,
) {
    let _known = Known { routed: Weak::clone(&routed), cookie };
    // tokio would be woken by every piece of every response.
    let mut idle = stream.into_std();
    while let Ok(stream) = idle {
        if !woken(&routed, slot, &stream, &wake).await {
            break;
        }
        let Some(routed) = routed.upgrade() else { return };
        let state = lock(&routed.router).state(slot);
        let Some(lent) = state.lent else { break };
        let Ok(stream) = TcpStream::from_std(stream) else { break };
        match carry(&routed, slot, lent, stream).await {
            Some(back) => idle = back.into_std(),
            None => break,
        }
    }
    let owed = owed(&routed, slot).await;
    if let Some(routed) = routed.upgrade() {
        end(&routed, slot, owed);
    }
}

/// The client that waits for a response on a connection that has ended. One to which the slot was lent after that is none:
/// its request is not sent, and comes to the proxy. Both look alike until the program has found out, so this looks twice.
async fn owed(routed: &Weak<Routed>, slot: Slot) -> Option<u64> {
    let look = || {
        let state = lock(&routed.upgrade()?.router).state(slot);
        state.lent.filter(Lent::is_outstanding).map(|lent| lent.cookie)
    };
    let first = look()?;
    tokio::time::sleep(TURNED_AWAY).await;
    look().filter(|cookie| *cookie == first)
}

/// Waits for something to do; whether that is a response to carry.
async fn woken(routed: &Weak<Routed>, slot: Slot, stream: &net::TcpStream, wake: &Arc<Notify>) -> bool {
    let Some(ends) = routed.upgrade().map(|routed| Arc::clone(&routed.ends)) else { return false };
    let Ok(_watched) = ends.watch(stream, wake) else { return false };
    loop {
        wake.notified().await;
        let Some(routed) = routed.upgrade() else { return false };
        let state = lock(&routed.router).state(slot);
        match state.lent {
            Some(lent) if lent.copy => return state.delivered == 0,
            _ if state.ended || state.dead || has_ended(stream) => {
                // The end is told before the program has seen the bytes that came with it (net/ipv4/tcp_input.c,
                // tcp_data_queue): they may be a response to carry.
                tokio::time::sleep(SOFT_INTERRUPT).await;
                let state = lock(&routed.router).state(slot);
                return state.delivered == 0 && state.lent.is_some_and(|lent| lent.copy);
            }
            // Woken for what has been dealt with.
            _ => {}
        }
    }
}
