//! Slots from the time that they are reserved until their numbers come back.

use std::net::SocketAddr;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd};
use std::sync::atomic::Ordering;
use std::time::Duration;

use alize_model::http::Method;
use rustix::net::sockopt::socket_cookie;

use super::super::abi::{
    BUSY, COOKIE_SHIFT, COPY, DEAD, FLAGS, GENERATION_SHIFT, LAST, LOST, OPEN, OUT, http_dial_key, http_far,
};
use super::super::shared::{Shared, SlotCell};
use super::{Armed, GENERATIONS, Lent, Router, Slot, SlotState, generation, reason_name};
use crate::abi::{NONE, address_words};
use crate::{Error, grace};

impl Router {
    /// A slot for a new connection from `netns` to `endpoint`; `None` when all are in use, or another proxy owns them.
    pub fn reserve(&mut self, netns: u64, endpoint: u32) -> Result<Option<Slot>, Error> {
        if !self.owns {
            return Ok(None);
        }
        let pool = self.pool(netns, endpoint)?;
        self.map_load(endpoint)?;
        self.collect();
        let Some(number) = self.free.pop_front() else { return Ok(None) };
        let Some(cell) = self.slots.get(number) else { return Ok(None) };
        let next = (generation(cell.state.load(Ordering::Acquire)) + 1) & GENERATIONS;
        cell.pool.store(pool, Ordering::Relaxed);
        cell.endpoint.store(endpoint, Ordering::Relaxed);
        cell.far.store(0, Ordering::Relaxed);
        cell.ended.store(0, Ordering::Relaxed);
        cell.used.store(0, Ordering::Relaxed);
        cell.state.store(next << GENERATION_SHIFT | DEAD | OUT, Ordering::Release);
        Ok(Some(Slot { number, generation: next }))
    }

    /// Has the kernel watch out for the connection from `local` to `endpoint` that is about to be made for the slot.
    pub fn dial(&mut self, slot: Slot, local: SocketAddr, endpoint: SocketAddr) -> Result<(), Error> {
        self.dialling.insert((local, endpoint));
        self.dials.put_all([(dial_key(local, endpoint), slot.number)].into_iter())
    }

    fn dialled(&mut self, local: SocketAddr, endpoint: SocketAddr) -> Result<(), Error> {
        self.dialling.remove(&(local, endpoint));
        self.dials.delete_all([dial_key(local, endpoint)].into_iter())
    }

    /// The connection from `local` to `endpoint` that is about to be made is the proxy's own: its requests were seen at
    /// their clients already, so who observes need not look.
    pub fn dial_own(&self, local: SocketAddr, endpoint: SocketAddr) -> Result<(), Error> {
        self.dials.put_all([(dial_key(local, endpoint), NONE)].into_iter())
    }

    /// It is made, or will not be.
    pub fn dialled_own(&self, local: SocketAddr, endpoint: SocketAddr) -> Result<(), Error> {
        self.dials.delete_all([dial_key(local, endpoint)].into_iter())
    }

    /// The connection `back` is made, and nothing was sent or received on it: the kernel may lend it from now on.
    pub fn arm(
        &mut self,
        slot: Slot,
        local: SocketAddr,
        endpoint: SocketAddr,
        back: impl AsFd,
    ) -> Result<Armed, Error> {
        self.dialled(local, endpoint)?;
        // Its number may be the successor's by now.
        let Some(cell) = self.slots.get(slot.number).filter(|_| self.owns) else {
            return Ok(Armed::Elsewhere);
        };
        let is_here = u64::from(cell.far.load(Ordering::Acquire)) == slot.generation + 1;
        let armed = if is_here { Armed::Here } else { self.arm_remote(slot, back.as_fd())? };
        if armed != Armed::Elsewhere {
            cell.state.store(slot.generation << GENERATION_SHIFT, Ordering::Release);
            self.push(slot.number, cell);
            self.armed.insert(slot.number);
        }
        Ok(armed)
    }

    /// Gives the socket to the programs of back sockets, where the kernel has what they rely on.
    fn arm_remote(&self, slot: Slot, back: BorrowedFd<'_>) -> Result<Armed, Error> {
        let Some(remote) = &self.remote else { return Ok(Armed::Elsewhere) };
        if remote.allowed.get(&0)? != Some(1) {
            return Ok(Armed::Elsewhere);
        }
        let cookie = socket_cookie(back).map_err(|errno| {
            Error::kernel("cannot ask for the cookie of", "a back socket", std::io::Error::from(errno))
        })?;
        let of = http_far { slot: slot.number, generation: slot.generation as u32 };
        remote.backs.put(&cookie, &of)?;
        match remote.sockets.put(&slot.number, &u64::from(back.as_raw_fd().unsigned_abs())) {
            Ok(()) => Ok(Armed::Remote { cookie }),
            // The endpoint has closed already, or the kernel takes no such socket (MPTCP).
            Err(error) => {
                remote.backs.delete_all([cookie].into_iter())?;
                tracing::debug!(%error, "a connection to an endpoint elsewhere stays with the proxy");
                Ok(Armed::Elsewhere)
            }
        }
    }

    /// The connection of a slot that was [`Armed::Remote`] is closed.
    pub fn disarm(&self, cookie: u64) -> Result<(), Error> {
        self.remote.as_ref().map_or(Ok(()), |remote| remote.backs.delete_all([cookie].into_iter()))
    }

    /// Gives back a slot that was reserved, and perhaps dialled for, and never armed.
    pub fn release(&mut self, slot: Slot, local: SocketAddr, endpoint: SocketAddr) {
        // One that was dialled for and did not come about would stay.
        if let Err(error) = self.dialled(local, endpoint) {
            tracing::debug!("a connection that was not made stays announced: {error}");
        }
        self.free.push_back(slot.number);
    }

    /// The cell of a slot whose number has not come to stand for another connection. That can happen at any time to a proxy
    /// that has let go: whoever changes the word does so by compare-and-swap.
    pub(super) fn cell(&self, slot: Slot) -> Option<(&SlotCell, u64)> {
        let cell = self.slots.get(slot.number)?;
        let word = cell.state.load(Ordering::Acquire);
        slot.is_under(word).then_some((cell, word))
    }

    /// What is known of the slot now.
    pub fn state(&self, slot: Slot) -> SlotState {
        let Some((cell, word)) = self.cell(slot) else { return SlotState::DEAD };
        let cookie = word >> COOKIE_SHIFT;
        let lent = (cookie != 0 && word & DEAD == 0).then_some(Lent {
            cookie,
            busy: word & BUSY != 0,
            open: word & OPEN != 0,
            copy: word & COPY != 0,
        });
        let method = usize::from(cell.method.load(Ordering::Relaxed));
        SlotState {
            lent,
            dead: word & DEAD != 0,
            ended: cell.ended.load(Ordering::Relaxed) != 0,
            service: cell.service.load(Ordering::Relaxed),
            route: cell.route.load(Ordering::Relaxed),
            method: Method::ALL.get(method).copied().unwrap_or(Method::Get),
            delivered: cell.response_bytes.load(Ordering::Relaxed),
            reason: reason_name(cell.reason.load(Ordering::Relaxed)),
            started: Duration::from_nanos(cell.started_ns.load(Ordering::Relaxed)),
            used: cell.used.load(Ordering::Relaxed),
            request_bytes: cell.request_bytes.load(Ordering::Relaxed),
        }
    }

    /// Whether a request of the client with this cookie is under way on the slot. Every slot is asked whenever the
    /// kernel has told nothing of a client, so it is one word that is read.
    pub fn is_busy_for(&self, slot: Slot, cookie: u64) -> bool {
        let word = self.cell(slot).map_or(0, |(_, word)| word);
        word & (BUSY | DEAD) == BUSY && word >> COOKIE_SHIFT == cookie
    }

    /// Takes the slot out of use for good; to whom it was lent. Afterwards the connection may be closed. Its number comes
    /// back by itself.
    pub fn retire(&mut self, slot: Slot) -> Option<Lent> {
        let cell = self.slots.get(slot.number)?;
        let mut word = cell.state.load(Ordering::Acquire);
        if !slot.is_under(word) {
            return None;
        }
        let armed = self.armed.remove(&slot.number);
        loop {
            if word & DEAD != 0 || !slot.is_under(word) {
                // The endpoint's end was seen first: it was idle, and lies in its pool.
                self.buried.extend(armed.then_some(slot.number));
                return None;
            }
            let idle = word & (FLAGS & !LOST) == 0 && word >> COOKIE_SHIFT == 0;
            // What is lent, or was not put back, is in no pool.
            let dead = if idle && word & LOST == 0 { word | DEAD } else { word | DEAD | OUT };
            match cell.state.compare_exchange_weak(word, dead, Ordering::AcqRel, Ordering::Acquire) {
                Ok(_) if idle => {
                    self.buried.push(slot.number);
                    return None;
                }
                Ok(_) => break,
                Err(now) => word = now,
            }
        }
        if word & BUSY != 0 {
            self.add_load(cell.endpoint.load(Ordering::Relaxed), -1);
        }
        self.buried.push(slot.number);
        Some(Lent {
            cookie: word >> COOKIE_SHIFT,
            busy: word & BUSY != 0,
            open: word & OPEN != 0,
            copy: word & COPY != 0,
        })
    }

    /// The response that the proxy carried on the slot has ended, and its connection may be used again: the slot goes
    /// back to its pool. False: it was retired meanwhile.
    pub fn finish(&self, slot: Slot) -> bool {
        let Some((cell, mut word)) = self.cell(slot) else { return false };
        loop {
            if word & (BUSY | COPY) != BUSY | COPY || word & (DEAD | OPEN | LAST) != 0 || !slot.is_under(word)
            {
                return false;
            }
            // As the programs do it: whoever is lent it next has been told nothing yet.
            cell.response_bytes.store(0, Ordering::Relaxed);
            let idle = word & ((1 << COOKIE_SHIFT) - 1) & !FLAGS;
            match cell.state.compare_exchange_weak(word, idle, Ordering::AcqRel, Ordering::Acquire) {
                Ok(_) => break,
                Err(now) => word = now,
            }
        }
        self.add_load(cell.endpoint.load(Ordering::Relaxed), -1);
        self.push(slot.number, cell);
        true
    }

    /// Puts slots back that the programs could not put back for contention.
    pub fn mend(&self, slot: Slot) {
        let Some((cell, word)) = self.cell(slot) else { return };
        if word & LOST != 0
            && word & DEAD == 0
            && cell.state.compare_exchange(word, word & !LOST, Ordering::AcqRel, Ordering::Acquire).is_ok()
        {
            self.push(slot.number, cell);
        }
    }

    /// Dead slots stay in their pools until a program comes upon them. Takes them out, for want of numbers.
    pub(super) fn exhume(&self) {
        let number_of_pools = self.next_pool;
        for pool in (0..number_of_pools).filter_map(|number| self.heads.get(number)) {
            let mut live = Vec::new();
            while let Some(number) = self.pop(pool) {
                let Some(cell) = self.slots.get(number) else { continue };
                let word = cell.state.load(Ordering::Acquire);
                if word & DEAD != 0 {
                    cell.state.fetch_or(OUT, Ordering::AcqRel);
                } else {
                    live.push((number, cell));
                }
            }
            live.into_iter().rev().for_each(|(number, cell)| self.push(number, cell));
        }
    }

    /// Numbers of dead slots that are in no pool any more are free, once no program can be at work on them: one that has
    /// just taken a slot writes into it and redirects by its number, which must not mean another connection meanwhile.
    /// Waiting takes some milliseconds, but only once for all numbers there are.
    pub(super) fn collect(&mut self) {
        if self.free.is_empty() {
            self.inherit();
            self.exhume();
        }
        let slots = &self.slots;
        let resting = &mut self.resting;
        self.buried.retain(|&number| {
            let out = slots.get(number).is_none_or(|cell| cell.state.load(Ordering::Acquire) & OUT != 0);
            if out {
                resting.push(number);
            }
            !out
        });
        if self.free.is_empty() && !self.resting.is_empty() {
            // Where the kernel cannot tell, their order alone gives the programs time.
            grace::period();
            self.free.extend(self.resting.drain(..));
        }
    }

    fn add_load(&self, endpoint: u32, change: i32) {
        if let Some(load) = self.loads.iter().find_map(|loads| loads.get(endpoint)) {
            load.fetch_add(change as u32, Ordering::Relaxed);
        }
    }

    /// Makes the load of an endpoint at hand.
    pub(super) fn map_load(&mut self, endpoint: u32) -> Result<(), Error> {
        if self.loads.iter().all(|loads| loads.get(endpoint).is_none()) {
            self.loads.push(Shared::around(&self.load, endpoint)?);
        }
        Ok(())
    }
}

impl SlotState {
    const DEAD: Self = Self {
        lent: None,
        dead: true,
        ended: false,
        service: NONE,
        route: 0,
        method: Method::Get,
        delivered: 0,
        reason: "none",
        started: Duration::ZERO,
        used: 0,
        request_bytes: 0,
    };
}

pub(super) fn dial_key(local: SocketAddr, endpoint: SocketAddr) -> http_dial_key {
    http_dial_key {
        local: address_words(endpoint.ip()),
        remote: address_words(local.ip()),
        local_port: endpoint.port().to_be(),
        remote_port: local.port().to_be(),
        zero: 0,
    }
}
