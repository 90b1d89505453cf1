//! Connections whose bytes are the kernel's: each piece of a response that it redirects would wake who waits for bytes, so
//! the proxy waits for their end alone. tokio always asks for bytes as well; hence an epoll instance of our own, which
//! tokio waits for.

use std::collections::HashMap;
use std::io;
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::sync::{Arc, Mutex};

use rustix::event::{PollFd, PollFlags, Timespec, epoll, poll};
use tokio::sync::Notify;

use crate::back::lock;

/// Ends that are taken note of at once.
const AT_ONCE: usize = 64;

/// Those who wait for the end of a connection.
pub(super) struct Ends {
    epoll: OwnedFd,
    waiting: Mutex<Waiting>,
}

#[derive(Default)]
struct Waiting {
    next: u64,
    by_number: HashMap<u64, Arc<Notify>>,
}

/// A connection that is watched, as long as this lives.
pub(super) struct Watched<'a, S: AsFd> {
    ends: &'a Ends,
    number: u64,
    socket: &'a S,
}

impl Ends {
    pub(super) fn new() -> io::Result<Self> {
        Ok(Self { epoll: epoll::create(epoll::CreateFlags::CLOEXEC)?, waiting: Mutex::default() })
    }

    /// Notifies `wake` when the other end of `socket` has closed or reset the connection, also if it has already.
    pub(super) fn watch<'a, S: AsFd>(
        &'a self,
        socket: &'a S,
        wake: &Arc<Notify>,
    ) -> io::Result<Watched<'a, S>> {
        let number = {
            let mut waiting = lock(&self.waiting);
            waiting.next += 1;
            let number = waiting.next;
            waiting.by_number.insert(number, Arc::clone(wake));
            number
        };
        let watched = Watched { ends: self, number, socket };
        // Errors are told unasked.
        let end = epoll::EventFlags::RDHUP | epoll::EventFlags::ONESHOT;
        epoll::add(&self.epoll, socket, epoll::EventData::new_u64(number), end)?;
        Ok(watched)
    }

    /// Wakes whose connections have ended. Does not block.
    pub(super) fn tell(&self) {
        let mut events = [const { MaybeUninit::uninit() }; AT_ONCE];
        while let Ok((events, rest)) = epoll::wait(&self.epoll, &mut events, Some(&Timespec::default())) {
            let waiting = lock(&self.waiting);
            for event in events.iter() {
                if let Some(wake) = waiting.by_number.get(&event.data.u64()) {
                    wake.notify_one();
                }
            }
            if !rest.is_empty() {
                return;
            }
        }
    }
}

impl AsFd for Ends {
    /// Readable when a connection has ended.
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.epoll.as_fd()
    }
}

impl<S: AsFd> Drop for Watched<'_, S> {
    fn drop(&mut self) {
        let _ = epoll::delete(&self.ends.epoll, self.socket);
        lock(&self.ends.waiting).by_number.remove(&self.number);
    }
}

/// Whether the other end has closed or reset the connection.
pub(super) fn has_ended(socket: impl AsFd) -> bool {
    let found = poll(&mut [PollFd::new(&socket, PollFlags::RDHUP)], Some(&Timespec::default()));
    !matches!(found, Ok(0))
}
