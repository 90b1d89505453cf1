//! How one proxy follows another as the owner of all slots.

use std::collections::HashSet;
use std::sync::atomic::{AtomicU64, Ordering};

use super::super::abi::{COOKIE_SHIFT, DEAD, LAST, LOST, OUT};
use super::super::shared::SlotCell;
use super::slots::dial_key;
use super::{Lent, Predecessor, Router, Slot, generation};
use crate::Error;
use crate::abi::NONE;

impl Router {
    /// Owns the slots from now on. The listeners of a proxy that is gone may still take connections, see
    /// [`Self::listen_only`]; of its slots those live on that are in `kept`, others are not lent again.
    pub fn take_over(&mut self, predecessor: Predecessor, kept: &HashSet<Slot>) -> Result<(), Error> {
        let mut strangers = Vec::new();
        self.rests.for_each(|key, _| strangers.push(key))?;
        self.strangers = strangers;
        self.inherit_pools()?;
        if predecessor == Predecessor::Gone {
            // Whatever it was about to connect is not for this one.
            let mut dials = Vec::new();
            self.dials.for_each(|key, _| dials.push(key))?;
            self.dials.delete_all(dials.into_iter())?;
        }
        for number in 0..self.slots.count() {
            let Some(cell) = self.slots.get(number) else { continue };
            let (slot, word) = named(number, cell);
            if predecessor == Predecessor::Gone {
                if word & DEAD == 0 && kept.contains(&slot) {
                    self.armed.insert(number);
                    continue;
                }
                match word {
                    // As the map was made: in no pool.
                    0 => drop(cell.state.fetch_or(DEAD | OUT, Ordering::AcqRel)),
                    _ => last(&cell.state),
                }
            }
            // What is lent its proxy finishes, if that still lives.
            let is_out = cell.state.load(Ordering::Acquire) & OUT != 0;
            if is_out { &mut self.resting } else { &mut self.foreign }.push(number);
        }
        let cells = self.armed.iter().chain(&self.foreign).filter_map(|number| self.slots.get(*number));
        let loaded: HashSet<u32> = cells.map(|cell| cell.endpoint.load(Ordering::Relaxed)).collect();
        for endpoint in loaded {
            self.map_load(endpoint)?;
        }
        self.owns = true;
        if predecessor == Predecessor::Gone {
            self.exhume();
            self.forget_backs()?;
        }
        // It has looked at all of them, and will use a few.
        self.slots.unmap();
        Ok(())
    }

    /// Takes out of use what a proxy that is gone has lent and nobody has kept: to whom, and whether the response has begun.
    /// Those clients are to be told.
    pub fn abandon(&mut self) -> Vec<(Lent, bool)> {
        let cells = self.foreign.iter().filter_map(|number| Some((*number, self.slots.get(*number)?)));
        let slots: Vec<Slot> = cells.map(|(number, cell)| named(number, cell).0).collect();
        slots.into_iter().filter_map(|slot| self.abandon_slot(slot)).collect()
    }

    /// As [`Self::abandon`], of one slot, whose proxy has ended while it finished.
    pub fn abandon_slot(&mut self, slot: Slot) -> Option<(Lent, bool)> {
        let (cell, word) = self.cell(slot)?;
        let has_begun = cell.response_bytes.load(Ordering::Relaxed) > 0;
        if word & DEAD != 0 || word >> COOKIE_SHIFT == 0 {
            return None;
        }
        let place = self.foreign.iter().position(|number| *number == slot.number)?;
        self.foreign.swap_remove(place);
        let lent = self.retire(slot).filter(Lent::is_outstanding)?;
        Some((lent, has_begun))
    }

    /// Owns the slots no more: those that are idle are dead from now on, and those that are lent are not lent again. No
    /// connection that is being made comes to be one of them.
    pub fn let_go(&mut self) -> Result<(), Error> {
        self.owns = false;
        self.armed.iter().filter_map(|number| self.slots.get(*number)).for_each(|cell| last(&cell.state));
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
            if !self.foreign.contains(&slot) && !self.armed.contains(&slot) {
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
            let (slot, word) = named(number, cell);
            let cookie = word >> COOKIE_SHIFT;
            if word & DEAD == 0 && cookie != 0 && self.is_open(cookie) {
                return true;
            }
            match word & DEAD {
                0 => drop(self.retire(slot)),
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

/// The slot that the number stands for at this moment, and its word.
fn named(number: u32, cell: &SlotCell) -> (Slot, u64) {
    let word = cell.state.load(Ordering::Acquire);
    (Slot { number, generation: generation(word) }, word)
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
