//! Latencies in nanoseconds, in buckets 1/32 of their value wide: constant memory, and no sorting while measuring.

use serde::{Deserialize, Serialize};

const SUB_BITS: u32 = 5;
const SUB: u64 = 1 << SUB_BITS;
const BUCKETS: usize = ((64 - SUB_BITS as usize) + 1) * SUB as usize;

/// Counts by bucket.
#[derive(Clone)]
pub(crate) struct Histogram {
    counts: Vec<u32>,
    total: u64,
}

/// What is kept of a [`Histogram`], in nanoseconds.
#[derive(Clone, Copy, Debug, Serialize, Deserialize)]
pub(crate) struct Quantiles {
    pub(crate) p50: f64,
    pub(crate) p99: f64,
}

impl Histogram {
    pub(crate) fn new() -> Self {
        Self { counts: vec![0; BUCKETS], total: 0 }
    }

    pub(crate) fn record(&mut self, nanoseconds: u64) {
        self.counts[bucket(nanoseconds)] += 1;
        self.total += 1;
    }

    pub(crate) fn merge(&mut self, other: &Histogram) {
        for (count, more) in self.counts.iter_mut().zip(&other.counts) {
            *count += more;
        }
        self.total += other.total;
    }

    /// `None` when nothing was recorded.
    pub(crate) fn quantiles(&self) -> Option<Quantiles> {
        Some(Quantiles { p50: self.quantile(0.50)?, p99: self.quantile(0.99)? })
    }

    /// Where `share` of what was recorded lies below, interpolated inside its bucket.
    fn quantile(&self, share: f64) -> Option<f64> {
        let wanted = self.total as f64 * share;
        let mut below = 0.0;
        for (bucket, count) in self.counts.iter().enumerate().filter(|(_, count)| **count > 0) {
            let count = f64::from(*count);
            if below + count >= wanted {
                let (low, width) = (lowest(bucket) as f64, width(bucket) as f64);
                return Some(low + width * ((wanted - below) / count).clamp(0.0, 1.0));
            }
            below += count;
        }
        None
    }
}

fn bucket(value: u64) -> usize {
    if value < SUB {
        return value as usize;
    }
    let shift = value.ilog2() - SUB_BITS;
    ((u64::from(shift) + 1) * SUB + ((value >> shift) - SUB)) as usize
}

fn lowest(bucket: usize) -> u64 {
    let (row, column) = (bucket as u64 / SUB, bucket as u64 % SUB);
    if row == 0 { column } else { (SUB + column) << (row - 1) }
}

fn width(bucket: usize) -> u64 {
    1 << (bucket as u64 / SUB).saturating_sub(1)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_value_is_inside_its_bucket() {
        let edges =
            (0..64).flat_map(|bit| [1u64 << bit, (1u64 << bit) - 1, (1u64 << bit) + (1u64 << bit) / 3]);
        for value in edges.chain([0, 31, 32, 33, u64::MAX]) {
            let bucket = bucket(value);
            assert!(bucket < BUCKETS, "{value} falls out of the table");
            let low = lowest(bucket);
            assert!(low <= value && value - low < width(bucket), "{value} is not in bucket {bucket}");
        }
    }

    #[test]
    fn quantiles_are_within_a_bucket_of_the_truth() {
        let mut histogram = Histogram::new();
        (1..=100_000u64).for_each(|value| histogram.record(value));
        let quantiles = histogram.quantiles().unwrap();
        assert!((quantiles.p50 / 50_000.0 - 1.0).abs() < 0.04, "{quantiles:?}");
        assert!((quantiles.p99 / 99_000.0 - 1.0).abs() < 0.04, "{quantiles:?}");
    }

    #[test]
    fn merging_is_recording_into_one() {
        let (mut one, mut two, mut both) = (Histogram::new(), Histogram::new(), Histogram::new());
        for value in 0..1_000u64 {
            if value % 3 == 0 {
                one.record(value * 7)
            } else {
                two.record(value * 7)
            }
            both.record(value * 7);
        }
        one.merge(&two);
        assert_eq!(one.counts, both.counts);
        assert_eq!(one.total, 1_000);
    }

    #[test]
    fn nothing_recorded_has_no_quantiles() {
        assert!(Histogram::new().quantiles().is_none());
    }
}
