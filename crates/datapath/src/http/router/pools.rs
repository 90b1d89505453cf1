//! Pools: where idle slots lie, one for each network namespace and endpoint.

use std::collections::HashSet;
use std::sync::atomic::Ordering;

use super::super::abi::{HEAD_SLOT_BITS, OUT, http_pool_key};
use super::super::shared::{PoolCell, SlotCell};
use super::Router;
use crate::{Error, grace};

impl Router {
    /// How often the pool of `netns` and `endpoint` was found empty.
    pub fn times_empty(&self, netns: u64, endpoint: u32) -> u64 {
        let pool = self.known.get(&(netns, endpoint)).and_then(|&pool| self.heads.get(pool));
        pool.map_or(0, |pool| pool.empty.load(Ordering::Relaxed))
    }

    pub(super) fn pool(&mut self, netns: u64, endpoint: u32) -> Result<u32, Error> {
        if let Some(&pool) = self.known.get(&(netns, endpoint)) {
            return Ok(pool);
        }
        let pool = self.spare.pop().unwrap_or(self.next_pool);
        if pool >= self.heads.count() {
            let source = std::io::Error::other(format!("all {} pools are in use", self.heads.count()));
            return Err(Error::kernel("cannot make a pool in", "http_pools", source));
        }
        self.next_pool = self.next_pool.max(pool + 1);
        self.pools.put_all([(http_pool_key { netns, endpoint, zero: 0 }, pool)].into_iter())?;
        self.known.insert((netns, endpoint), pool);
        Ok(pool)
    }

    pub(super) fn inherit_pools(&mut self) -> Result<(), Error> {
        let known = &mut self.known;
        self.pools
            .for_each(|key, number| known.extend(number.iter().map(|n| ((key.netns, key.endpoint), *n))))?;
        self.next_pool = known.values().max().map_or(0, |most| most + 1);
        let used: HashSet<u32> = known.values().copied().collect();
        self.closing = (0..self.next_pool).filter(|number| !used.contains(number)).collect();
        Ok(())
    }

    /// Where few numbers of pools are left, takes those back of pools that are not `used`, by namespace and endpoint.
    pub fn reclaim(&mut self, used: impl Fn(u64, u32) -> bool) -> Result<(), Error> {
        let left = self.heads.count() - self.next_pool + self.spare.len() as u32;
        if !self.owns || left > self.heads.count() / 8 {
            return Ok(());
        }
        let gone: Vec<(u64, u32)> =
            self.known.keys().copied().filter(|(netns, endpoint)| !used(*netns, *endpoint)).collect();
        let keys = gone.iter().map(|&(netns, endpoint)| http_pool_key { netns, endpoint, zero: 0 });
        self.pools.delete_all(keys)?;
        self.closing.extend(gone.iter().filter_map(|key| self.known.remove(key)));
        // A program that has found one may be at work on it.
        grace::period();
        self.exhume();
        let of_slots: HashSet<u32> = (0..self.slots.count())
            .filter_map(|number| self.slots.get(number))
            .filter(|cell| cell.state.load(Ordering::Acquire) & OUT == 0)
            .map(|cell| cell.pool.load(Ordering::Relaxed))
            .collect();
        let (closing, spare): (Vec<u32>, Vec<u32>) =
            std::mem::take(&mut self.closing).into_iter().partition(|pool| of_slots.contains(pool));
        self.closing = closing;
        self.spare.extend(spare);
        Ok(())
    }

    pub(super) fn push(&self, number: u32, cell: &SlotCell) {
        let Some(pool) = self.heads.get(cell.pool.load(Ordering::Relaxed)) else { return };
        let mut head = pool.head.load(Ordering::Acquire);
        loop {
            cell.next.store(head & ((1 << HEAD_SLOT_BITS) - 1), Ordering::Relaxed);
            let changed = tagged(head, u64::from(number) + 1);
            match pool.head.compare_exchange_weak(head, changed, Ordering::AcqRel, Ordering::Acquire) {
                Ok(_) => return,
                Err(now) => head = now,
            }
        }
    }

    pub(super) fn pop(&self, pool: &PoolCell) -> Option<u32> {
        let mut head = pool.head.load(Ordering::Acquire);
        loop {
            let top = (head & ((1 << HEAD_SLOT_BITS) - 1)).checked_sub(1)? as u32;
            let next = self.slots.get(top)?.next.load(Ordering::Acquire);
            match pool.head.compare_exchange_weak(
                head,
                tagged(head, next),
                Ordering::AcqRel,
                Ordering::Acquire,
            ) {
                Ok(_) => return Some(top),
                Err(now) => head = now,
            }
        }
    }
}

/// The head of a pool with another top: the tag above changes with it.
fn tagged(head: u64, top: u64) -> u64 {
    ((head >> HEAD_SLOT_BITS).wrapping_add(1) << HEAD_SLOT_BITS) | top
}
