//! Keeps a flood of like events from drowning everything else: the first of each second pass, the rest are summed up.

use std::collections::HashMap;
use std::hash::Hash;
use std::time::{Duration, Instant};

/// Like events that pass within [`WINDOW`].
const PASS: u32 = 50;
/// All events together that pass within [`WINDOW`].
const PASS_ALL: u32 = 500;
/// Kinds told apart within [`WINDOW`]; events of further kinds are held back and summed up together.
const KINDS: usize = 4096;
const WINDOW: Duration = Duration::from_secs(1);

/// Counts events by what they have in common.
pub(crate) struct Flood<K> {
    began: Instant,
    passed: u32,
    kinds: HashMap<K, Tally>,
    /// Held back without telling their kind.
    nameless: u32,
}

#[derive(Default)]
struct Tally {
    passed: u32,
    held_back: u32,
}

impl<K: Eq + Hash> Flood<K> {
    pub(crate) fn new(now: Instant) -> Self {
        Self { began: now, passed: 0, kinds: HashMap::new(), nameless: 0 }
    }

    /// Whether this event passes; one that does not is counted.
    pub(crate) fn passes(&mut self, kind: K) -> bool {
        if self.kinds.len() >= KINDS && !self.kinds.contains_key(&kind) {
            self.nameless += 1;
            return false;
        }
        let tally = self.kinds.entry(kind).or_default();
        if tally.passed >= PASS || self.passed >= PASS_ALL {
            tally.held_back += 1;
            return false;
        }
        tally.passed += 1;
        self.passed += 1;
        true
    }

    /// When the window ends, if anything came in it.
    pub(crate) fn deadline(&self) -> Option<Instant> {
        (!self.kinds.is_empty()).then(|| self.began + WINDOW)
    }

    /// Ends a window that is over; gives what was held back in it, by kind where that is known.
    pub(crate) fn end_window(&mut self, now: Instant) -> Vec<(Option<K>, u32)> {
        if now < self.began + WINDOW {
            return Vec::new();
        }
        let kinds = std::mem::take(&mut self.kinds);
        let nameless = std::mem::take(&mut self.nameless);
        self.began = now;
        self.passed = 0;
        let told = kinds.into_iter().map(|(kind, tally)| (Some(kind), tally.held_back));
        told.chain([(None, nameless)]).filter(|(_, count)| *count > 0).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_flood_is_summed_up_and_others_still_pass() {
        let start = Instant::now();
        let mut flood = Flood::new(start);
        let passed = (0..1000).filter(|_| flood.passes("loud")).count();
        assert_eq!(passed, PASS as usize);
        assert!(flood.passes("quiet"));
        assert!(flood.end_window(start).is_empty(), "the window is not over");
        assert_eq!(flood.end_window(start + WINDOW), [(Some("loud"), 950)]);
        assert!(flood.passes("loud"), "a new window begins");
    }

    #[test]
    fn nothing_is_lost_and_memory_is_bounded() {
        let start = Instant::now();
        let mut flood = Flood::new(start);
        let passed = (0..10_000).filter(|kind| flood.passes(*kind)).count();
        assert_eq!(passed, PASS_ALL as usize);
        assert_eq!(flood.kinds.len(), KINDS);
        let held_back: u32 = flood.end_window(start + WINDOW).iter().map(|(_, count)| count).sum();
        assert_eq!(passed + held_back as usize, 10_000);
        assert!(flood.kinds.is_empty());
        assert_eq!(flood.deadline(), None);
    }
}
