//! Turns in proportion to the weights, spread as evenly as can be.

use std::cmp::Reverse;
use std::collections::BinaryHeap;

use super::weights::{Share, gcd};
use crate::abi::{MAX_LENGTH, Slot};

/// Longer sequences are shortened to about this, or to four turns an endpoint.
const LENGTH: u64 = 4096;

/// The turn order. After any number of turns each endpoint is less than one turn away from its share (Baruah et al.
/// 1996, "Proportionate progress": unit tasks, each in its window, the earliest deadline first).
///
/// Where the weights ask for a longer sequence than `max(4096, 4n)`, they are rounded to whole turns, at least one
/// each; the share p of an endpoint then is off by at most (1 + n * p) / length.
pub(super) fn slots(shares: &[Share]) -> Vec<Slot> {
    let turns = turns(shares);
    let length: u64 = turns.iter().sum();
    // Turn k of t falls into the window from floor(k * length / t) to ceil((k + 1) * length / t).
    let opens = |at: usize, turn: u64| turn * length / turns[at];
    let closes = |at: usize, turn: u64| ((turn + 1) * length).div_ceil(turns[at]);
    let mut waiting: BinaryHeap<_> = (0..turns.len()).map(|at| Reverse((0, at, 0))).collect();
    let mut open = BinaryHeap::new();
    let mut slots = Vec::with_capacity(length as usize);
    for now in 0..length {
        while let Some(&Reverse((opening, at, turn))) = waiting.peek()
            && opening <= now
        {
            waiting.pop();
            open.push(Reverse((closes(at, turn), at, turn)));
        }
        let Some(Reverse((_, at, turn))) = open.pop() else { break };
        slots.push(Slot::only(shares[at].position));
        if turn + 1 < turns[at] {
            waiting.push(Reverse((opens(at, turn + 1), at, turn + 1)));
        }
    }
    slots
}

/// How many turns each endpoint has in the sequence.
fn turns(shares: &[Share]) -> Vec<u64> {
    let total: u128 = shares.iter().map(|share| u128::from(share.weight)).sum();
    let longest = LENGTH.max(4 * shares.len() as u64).min(MAX_LENGTH.into());
    if total <= u128::from(longest) {
        return shares.iter().map(|share| share.weight).collect();
    }
    let scaled = |weight: u64| ((u128::from(weight) * u128::from(longest) + total / 2) / total).max(1) as u64;
    let turns: Vec<u64> = shares.iter().map(|share| scaled(share.weight)).collect();
    let divisor = turns.iter().fold(0, |divisor, &turns| gcd(divisor, turns));
    turns.iter().map(|turns| turns / divisor).collect()
}
