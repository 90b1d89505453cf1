//! How one proxy follows another as the owner of all slots.

use std::collections::HashMap;
use std::sync::atomic::{AtomicU64, Ordering};

use super::super::abi::{BUSY, COOKIE_SHIFT, DEAD, LAST, LOST, OUT};
use super::super::shared::SlotCell;
use super::slots::dial_key;
use super::{Predecessor, Router, Slot, generation};
use crate::abi::NONE;
use crate::{Error, grace};

impl Router {
    /// Owns the slots from now on. Those of a proxy that is gone are dead, its pools empty; its listeners may still take
    /// connections, see [`Self::listen_only`].
    pub fn take_over(&mut self, predecessor: Predecessor) -> Result<(), Error> {
        let mut strangers = Vec::new();
        self.rests.for_each(|key, _| strangers.push(key))?;
        self.strangers = strangers;
        self.inherit_pools()?;
        if predecessor == Predecessor::Gone {
            // Whatever it was about to connect is not for this one.
            let mut dials = Vec::new();
            self.dials.for_each(|key, _| dials.push(key))?;
            self.dials.delete_all(dials.into_iter())?;
            for number in 0..self.heads.count() {
                if let Some(pool) = self.heads.get(number) {
                    while self.pop(pool).is_some() {}
                }
            }
        }
        for number in 0..self.slots.count() {
            let Some(cell) = self.slots.get(number) else { continue };
            let word = cell.state.load(Ordering::Acquire);
            let is_out = match predecessor {
                // It has retired what was idle; what is lent it finishes.
                Predecessor::Finishing => word & OUT != 0,
                Predecessor::Gone => {
                    let lent = word >> COOKIE_SHIFT != 0 && word & DEAD == 0;
                    let dead = word | DEAD | OUT;
                    !lent
                        && cell
                            .state
                            .compare_exchange(word, dead, Ordering::AcqRel, Ordering::Acquire)
                            .is_ok()
                }
            };
            if is_out { &mut self.resting } else { &mut self.foreign }.push(number);
        }
        self.owns = true;
        match predecessor {
            Predecessor::Gone => {
                self.settle_load()?;
                self.forget_backs()
            }
            Predecessor::Finishing => Ok(()),
        }
    }

    /// Requests that count as outstanding and are not: a proxy that is killed may have cleared the flag of one, and not taken
    /// it off. Pools are empty, so nothing is lent anew; what is too much each time has nobody who will take it off.
    fn settle_load(&self) -> Result<(), Error> {
        let mut excess = self.excess_load()?;
        for _ in 0..2 {
            // Who had cleared a flag at the look before has taken it off by now.
            grace::period();
            let again = self.excess_load()?;
            excess.retain(|endpoint, _| again.contains_key(endpoint));
            excess.iter_mut().for_each(|(endpoint, count)| *count = (*count).min(again[endpoint]));
        }
        for (endpoint, count) in excess {
            tracing::info!(endpoint, count, "requests that the proxy before had no time to take off");
            self.add_load(endpoint, -i32::try_from(count).unwrap_or(i32::MAX));
        }
        Ok(())
    }

    /// By endpoint, by how much its load is more than the slots that are lent for it.
    fn excess_load(&self) -> Result<HashMap<u32, u32>, Error> {
        let mut excess = HashMap::new();
        self.load.for_each(|endpoint, load| {
            excess.extend(load.iter().filter(|load| **load > 0).map(|load| (endpoint, *load)));
        })?;
        let busy = |cell: &&SlotCell| cell.state.load(Ordering::Acquire) & (BUSY | DEAD) == BUSY;
        for cell in (0..self.slots.count()).filter_map(|number| self.slots.get(number)).filter(busy) {
            if let Some(load) = excess.get_mut(&cell.endpoint.load(Ordering::Relaxed)) {
                *load = load.saturating_sub(1);
            }
        }
        excess.retain(|_, load| *load > 0);
        Ok(excess)
    }

    /// Owns the slots no more: those that are idle are dead from now on, and those that are lent are not lent again. No
    /// connection that is being made comes to be one of them.
    pub fn let_go(&mut self) -> Result<(), Error> {
        self.owns = false;
        let armed: Vec<u32> = self.armed.iter().copied().collect();
        for number in armed {
            if let Some(cell) = self.slots.get(number) {
                last(&cell.state);
            }
        }
        // The endpoint's end of such a connection would be taken for that of whoever has the number next.
        let dialling = std::mem::take(&mut self.dialling);
        self.dials.delete_all(dialling.into_iter().map(|(local, endpoint)| dial_key(local, endpoint)))
    }

    /// Forgets back sockets of a proxy that was killed. Those of slots that are lent may live in the proxy before this one.
    fn forget_backs(&self) -> Result<(), Error> {
        let Some(remote) = &self.remote else { return Ok(()) };
        let mut gone = Vec::new();
        remote.backs.for_each(|cookie, backs| {
            let slot = backs.first().map_or(NONE, |back| back.slot);
            if !self.foreign.contains(&slot) {
                gone.push(cookie);
            }
        })?;
        remote.backs.delete_all(gone.into_iter())
    }

    /// Takes over slots of the proxy before whose clients are gone, or that were finished.
    pub(super) fn inherit(&mut self) {
        let mut left = std::mem::take(&mut self.foreign);
        left.retain(|&number| {
            let Some(cell) = self.slots.get(number) else { return false };
            let word = cell.state.load(Ordering::Acquire);
            let cookie = word >> COOKIE_SHIFT;
            if word & DEAD == 0 && cookie != 0 && self.is_open(cookie) {
                return true;
            }
            match word & DEAD {
                0 => drop(self.retire(Slot { number, generation: generation(word) })),
                _ => self.buried.push(number),
            }
            false
        });
        self.foreign = left;
    }

    /// Takes over what the proxy before this one has left of clients that are gone by now; to be called now and then.
    pub fn tidy(&mut self) {
        self.inherit();
        let (left, gone) =
            std::mem::take(&mut self.strangers).into_iter().partition(|cookie| self.is_open(*cookie));
        self.strangers = left;
        let gone: Vec<u64> = gone;
        for cookie in gone {
            if let Err(error) = self.forget(cookie) {
                tracing::debug!("what is known of a client that is gone stays in the kernel: {error}");
            }
        }
    }
}

/// If idle, dead; if lent, not to be put back.
fn last(state: &AtomicU64) {
    let mut word = state.load(Ordering::Acquire);
    while word & DEAD == 0 {
        let changed = match word >> COOKIE_SHIFT {
            // What was not put back is in no pool.
            0 => word | DEAD | if word & LOST != 0 { OUT } else { 0 },
            _ => word | LAST,
        };
        match state.compare_exchange_weak(word, changed, Ordering::AcqRel, Ordering::Acquire) {
            Ok(_) => return,
            Err(now) => word = now,
        }
    }
}
