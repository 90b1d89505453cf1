//! Weighted choice by chance in constant time: the alias method (Walker 1977, Vose 1991), over whole numbers.

use super::weights::Share;
use crate::abi::{Slot, THRESHOLD_ONE};

/// An alias table of one slot an endpoint. The odds of each endpoint are its share rounded to 1 / (n * 2^24).
pub(super) fn slots(shares: &[Share]) -> Vec<Slot> {
    let mut left = portions(shares);
    let mut slots: Vec<Slot> = shares.iter().map(|share| Slot::only(share.position)).collect();
    let one = u64::from(THRESHOLD_ONE);
    let (mut small, mut large): (Vec<usize>, Vec<usize>) = (0..left.len()).partition(|&at| left[at] < one);
    // The portions add up to one a slot, exactly: while one is small, another is large.
    while let (Some(poor), Some(&rich)) = (small.pop(), large.last()) {
        slots[poor].threshold = left[poor] as u32;
        slots[poor].alias = shares[rich].position;
        left[rich] -= one - left[poor];
        if left[rich] < one {
            large.pop();
            small.push(rich);
        }
    }
    slots
}

/// The shares as whole portions that add up to n * 2^24: rounded down, what is left to the largest remainders.
fn portions(shares: &[Share]) -> Vec<u64> {
    let total: u128 = shares.iter().map(|share| u128::from(share.weight)).sum();
    let whole = shares.len() as u128 * u128::from(THRESHOLD_ONE);
    let exact = |share: &Share| u128::from(share.weight) * whole;
    let mut portions: Vec<u64> = shares.iter().map(|share| (exact(share) / total) as u64).collect();
    let missing = whole - portions.iter().map(|&portion| u128::from(portion)).sum::<u128>();
    if missing > 0 {
        let mut order: Vec<usize> = (0..shares.len()).collect();
        order.sort_by_key(|&at| std::cmp::Reverse(exact(&shares[at]) % total));
        order.iter().take(missing as usize).for_each(|&at| portions[at] += 1);
    }
    portions
}
