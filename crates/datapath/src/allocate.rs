//! Numbers of services and endpoints, and runs of slots: who has which. Pure.

use std::collections::BTreeMap;

/// Numbers from 0 below a limit. A freed number is given out again as late as possible, because a socket that outlived
/// its service may still count under it.
#[derive(Clone, Debug)]
pub(crate) struct Numbers {
    taken: Vec<u64>,
    limit: u32,
    used: u32,
    next: u32,
}

impl Numbers {
    pub(crate) fn new(limit: u32) -> Self {
        Self { taken: vec![0; limit.div_ceil(64) as usize], limit, used: 0, next: 0 }
    }

    pub(crate) fn limit(&self) -> u32 {
        self.limit
    }

    pub(crate) fn used(&self) -> u32 {
        self.used
    }

    pub(crate) fn free(&self) -> u32 {
        self.limit - self.used
    }

    pub(crate) fn is_taken(&self, number: u32) -> bool {
        self.taken.get(number as usize / 64).is_some_and(|word| word >> (number % 64) & 1 == 1)
    }

    /// The next free number.
    pub(crate) fn take(&mut self) -> Option<u32> {
        if self.used == self.limit {
            return None;
        }
        let number = self.free_from(self.next).or_else(|| self.free_from(0))?;
        self.mark(number);
        self.next = (number + 1) % self.limit;
        Some(number)
    }

    /// Takes exactly `number`, which the kernel's maps hold already; false when it cannot be.
    pub(crate) fn adopt(&mut self, number: u32) -> bool {
        if number >= self.limit || self.is_taken(number) {
            return false;
        }
        self.mark(number);
        self.next = self.next.max((number + 1) % self.limit);
        true
    }

    pub(crate) fn give_back(&mut self, number: u32) {
        debug_assert!(self.is_taken(number), "{number} is not taken");
        self.taken[number as usize / 64] &= !(1 << (number % 64));
        self.used -= 1;
    }

    fn mark(&mut self, number: u32) {
        self.taken[number as usize / 64] |= 1 << (number % 64);
        self.used += 1;
    }

    fn free_from(&self, start: u32) -> Option<u32> {
        let first = start as usize / 64;
        for (index, &word) in self.taken.iter().enumerate().skip(first) {
            let below = if index == first { (1u64 << (start % 64)) - 1 } else { 0 };
            let free = !(word | below);
            if free != 0 {
                let number = index as u32 * 64 + free.trailing_zeros();
                return (number < self.limit).then_some(number);
            }
        }
        None
    }
}

/// A run of places in `slots`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(crate) struct Run {
    pub(crate) base: u32,
    pub(crate) length: u32,
}

impl Run {
    pub(crate) fn end(self) -> u32 {
        self.base + self.length
    }
}

/// Which runs of `slots` are free.
#[derive(Clone, Debug)]
pub(crate) struct Runs {
    /// Base to length; neighbours are merged.
    free: BTreeMap<u32, u32>,
    limit: u32,
    used: u32,
}

impl Runs {
    pub(crate) fn new(limit: u32) -> Self {
        Self { free: BTreeMap::from([(0, limit)]), limit, used: 0 }
    }

    pub(crate) fn limit(&self) -> u32 {
        self.limit
    }

    pub(crate) fn used(&self) -> u32 {
        self.used
    }

    pub(crate) fn free(&self) -> u32 {
        self.limit - self.used
    }

    /// The first free run that is long enough; the empty run for length 0.
    pub(crate) fn take(&mut self, length: u32) -> Option<Run> {
        if length == 0 {
            return Some(Run::default());
        }
        let (&base, &free) = self.free.iter().find(|&(_, &free)| free >= length)?;
        self.free.remove(&base);
        if free > length {
            self.free.insert(base + length, free - length);
        }
        self.used += length;
        Some(Run { base, length })
    }

    /// Takes exactly `run`, which a service word names already; false when any of it is taken or beyond the limit.
    pub(crate) fn adopt(&mut self, run: Run) -> bool {
        if run.length == 0 {
            return true;
        }
        let Some(end) = run.base.checked_add(run.length) else { return false };
        let Some((&base, &free)) = self.free.range(..=run.base).next_back() else { return false };
        if end > base + free {
            return false;
        }
        self.free.remove(&base);
        if run.base > base {
            self.free.insert(base, run.base - base);
        }
        if end < base + free {
            self.free.insert(end, base + free - end);
        }
        self.used += run.length;
        true
    }

    pub(crate) fn give_back(&mut self, run: Run) {
        if run.length == 0 {
            return;
        }
        let mut merged = run;
        if let Some((&base, &length)) = self.free.range(..run.base).next_back()
            && base + length == run.base
        {
            self.free.remove(&base);
            merged = Run { base, length: length + merged.length };
        }
        if let Some(length) = self.free.remove(&run.end()) {
            merged.length += length;
        }
        self.free.insert(merged.base, merged.length);
        self.used -= run.length;
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn a_freed_number_waits_for_all_others() {
        let mut numbers = Numbers::new(3);
        let first = numbers.take().unwrap();
        numbers.give_back(first);
        assert_eq!([numbers.take(), numbers.take(), numbers.take()], [Some(1), Some(2), Some(0)]);
        assert_eq!(numbers.take(), None);
    }

    #[test]
    fn numbers_above_the_limit_are_not_adopted() {
        let mut numbers = Numbers::new(65);
        assert!(numbers.adopt(64));
        assert!(!numbers.adopt(64));
        assert!(!numbers.adopt(65));
        assert_eq!(numbers.free(), 64);
    }

    #[test]
    fn runs_that_overlap_are_not_adopted() {
        let mut runs = Runs::new(10);
        assert!(runs.adopt(Run { base: 2, length: 3 }));
        assert!(!runs.adopt(Run { base: 4, length: 1 }));
        assert!(!runs.adopt(Run { base: 1, length: 2 }));
        assert!(!runs.adopt(Run { base: 9, length: 2 }));
        assert!(!runs.adopt(Run { base: u32::MAX, length: 2 }));
        assert!(runs.adopt(Run { base: 5, length: 5 }));
        assert_eq!((runs.used(), runs.take(3)), (8, None));
        assert_eq!(runs.take(2), Some(Run { base: 0, length: 2 }));
    }

    proptest! {
        #[test]
        fn runs_never_overlap_and_nothing_leaks(steps in prop::collection::vec((any::<bool>(), 1u32..40), 1..200)) {
            let mut runs = Runs::new(256);
            let mut held: Vec<Run> = Vec::new();
            for (take, length) in steps {
                if take {
                    held.extend(runs.take(length));
                } else if !held.is_empty() {
                    runs.give_back(held.swap_remove(length as usize % held.len()));
                }
                held.sort();
                prop_assert!(held.windows(2).all(|pair| pair[0].end() <= pair[1].base));
                prop_assert_eq!(held.iter().map(|run| run.length).sum::<u32>(), runs.used());
            }
            held.into_iter().for_each(|run| runs.give_back(run));
            prop_assert_eq!(runs.take(256), Some(Run { base: 0, length: 256 }));
        }

        #[test]
        fn numbers_are_unique(steps in prop::collection::vec((any::<bool>(), any::<usize>()), 1..300)) {
            let mut numbers = Numbers::new(70);
            let mut held: Vec<u32> = Vec::new();
            for (take, which) in steps {
                if take {
                    let number = numbers.take();
                    prop_assert_eq!(number.is_none(), held.len() == 70);
                    prop_assert!(number.is_none_or(|number| !held.contains(&number) && number < 70));
                    held.extend(number);
                } else if !held.is_empty() {
                    numbers.give_back(held.swap_remove(which % held.len()));
                }
                prop_assert_eq!(numbers.used() as usize, held.len());
            }
        }
    }
}
