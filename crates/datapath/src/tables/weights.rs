//! Weights: what the endpoints' own weights and the split over a label amount to, as whole numbers.

use std::collections::BTreeMap;
use std::sync::Arc;

use alize_model::{Service, Split};

/// An endpoint's part of the new connections: `weight` of the sum of all weights.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Share {
    /// In the service's list of endpoints.
    pub(crate) position: u32,
    /// Above 0; only its ratio to the others counts.
    pub(crate) weight: u64,
}

/// Where the exact numerators would not fit, the weights within a label value are rounded to 1 / 2^30 of the value.
const ROUNDED: u64 = 1 << 30;

/// Numerators stay below this, so that sums over 2^20 endpoints and products with 2^44 fit 128 bits by far.
const LARGEST: u64 = 1 << 40;

/// The shares of the endpoints at `positions`, all of which are usable, reduced by their common divisor.
pub(super) fn shares(service: &Service, positions: &[usize]) -> Vec<Share> {
    let mut shares = match &service.split {
        None => plain(service, positions),
        Some(split) => split_by(service, positions, split),
    };
    let divisor = shares.iter().fold(0, |divisor, share| gcd(divisor, share.weight));
    shares.iter_mut().for_each(|share| share.weight /= divisor.max(1));
    shares
}

fn plain(service: &Service, positions: &[usize]) -> Vec<Share> {
    let share = |&at: &usize| Share { position: at as u32, weight: service.endpoints[at].weight.into() };
    positions.iter().map(share).collect()
}

/// An endpoint's share is `share of its value * its weight / sum of the weights with that value`. Over the least
/// common multiple of the sums that is a whole number.
fn split_by(service: &Service, positions: &[usize], split: &Split) -> Vec<Share> {
    let value_of = |at: usize| {
        let value = service.endpoints[at].labels.get(&split.label)?;
        let share = *split.shares.get(value)?;
        (share > 0).then_some((value, u64::from(share)))
    };
    let mut sums: BTreeMap<&Arc<str>, u64> = BTreeMap::new();
    for &at in positions {
        if let Some((value, _)) = value_of(at) {
            *sums.entry(value).or_default() += u64::from(service.endpoints[at].weight);
        }
    }
    let common = sums.values().try_fold(1, |common, &sum| common_multiple(common, sum));
    let share = |&at: &usize| {
        let (value, share) = value_of(at)?;
        let (weight, sum) = (u64::from(service.endpoints[at].weight), sums[value]);
        let weight = match common {
            Some(common) => share * weight * (common / sum),
            None => (share * (weight * ROUNDED / sum)).max(1),
        };
        Some(Share { position: at as u32, weight })
    };
    positions.iter().filter_map(share).collect()
}

/// The least common multiple, while a share and a weight times it stay below [`LARGEST`].
fn common_multiple(a: u64, b: u64) -> Option<u64> {
    let multiple = (a / gcd(a, b)).checked_mul(b)?;
    (multiple <= LARGEST).then_some(multiple)
}

pub(super) fn gcd(a: u64, b: u64) -> u64 {
    if b == 0 { a } else { gcd(b, a % b) }
}
