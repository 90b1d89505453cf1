//! Latencies in nanoseconds: three significant digits up to a minute (HdrHistogram), kept whole in reports.

use anyhow::Result;
use hdrhistogram::Histogram;
use serde::{Deserialize, Serialize};

const LONGEST: u64 = 60_000_000_000;
const DIGITS: u8 = 3;

/// While measuring.
pub(crate) struct Latency(Histogram<u64>);

impl Latency {
    pub(crate) fn new() -> Result<Self> {
        Ok(Self(Histogram::new_with_bounds(1, LONGEST, DIGITS)?))
    }

    pub(crate) fn record(&mut self, nanoseconds: u64) {
        self.0.saturating_record(nanoseconds.clamp(1, LONGEST));
    }

    pub(crate) fn recorded(&self) -> Recorded {
        let buckets = self.0.iter_recorded().map(|one| (one.value_iterated_to(), one.count_at_value()));
        Recorded(buckets.collect())
    }
}

/// What was recorded: the highest value of each bucket and how often, ascending.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Recorded(Vec<(u64, u64)>);

/// Nanoseconds.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub(crate) struct Percentiles {
    pub(crate) p50: f64,
    pub(crate) p90: f64,
    pub(crate) p99: f64,
    pub(crate) p999: f64,
}

impl Recorded {
    pub(crate) fn count(&self) -> u64 {
        self.0.iter().map(|(_, count)| count).sum()
    }

    /// At least `share` of what was recorded is at most this.
    pub(crate) fn quantile(&self, share: f64) -> Option<u64> {
        let wanted = ((self.count() as f64 * share).ceil() as u64).max(1);
        let mut seen = 0;
        self.0.iter().find_map(|(value, count)| {
            seen += count;
            (seen >= wanted).then_some(*value)
        })
    }

    /// `None` when nothing was recorded.
    pub(crate) fn percentiles(&self) -> Option<Percentiles> {
        let at = |share| self.quantile(share).map(|value| value as f64);
        Some(Percentiles { p50: at(0.5)?, p90: at(0.9)?, p99: at(0.99)?, p999: at(0.999)? })
    }

    /// As if all had been recorded into one.
    pub(crate) fn merged<'a>(all: impl IntoIterator<Item = &'a Recorded>) -> Self {
        let mut buckets = std::collections::BTreeMap::new();
        for (value, count) in all.into_iter().flat_map(|one| &one.0) {
            *buckets.entry(*value).or_insert(0) += count;
        }
        Self(buckets.into_iter().collect())
    }

    /// For a curve: each value with the share of what was recorded that is at most it.
    pub(crate) fn shares(&self) -> Vec<(u64, f64)> {
        let total = self.count() as f64;
        let mut seen = 0;
        let step = |(value, count): &(u64, u64)| {
            seen += count;
            (*value, seen as f64 / total)
        };
        self.0.iter().map(step).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn record(values: impl IntoIterator<Item = u64>) -> Recorded {
        let mut latency = Latency::new().unwrap();
        values.into_iter().for_each(|value| latency.record(value));
        latency.recorded()
    }

    #[test]
    fn percentiles_are_those_of_the_sorted_values_to_three_digits() {
        // A long tail in no order: the truth by sorting.
        let mut values: Vec<u64> =
            (1..=50_000u64).map(|n| 5_000 + (n * 7_919) % 50_000 * n % 9_000_011).collect();
        let recorded = record(values.iter().copied());
        assert_eq!(recorded.count(), 50_000);
        values.sort_unstable();
        let percentiles = recorded.percentiles().unwrap();
        let truth = |share: f64| values[(values.len() as f64 * share).ceil() as usize - 1] as f64;
        let pairs = [
            (percentiles.p50, 0.5),
            (percentiles.p90, 0.9),
            (percentiles.p99, 0.99),
            (percentiles.p999, 0.999),
        ];
        for (found, share) in pairs {
            assert!((found / truth(share) - 1.0).abs() <= 0.001, "{share}: {found} against {}", truth(share));
        }
    }

    #[test]
    fn one_slow_request_in_a_hundred_is_the_p999_and_not_the_p90() {
        let recorded = record((0..1_000).map(|n| if n % 100 == 0 { 1_000_000 } else { 1_000 }));
        let percentiles = recorded.percentiles().unwrap();
        assert!(percentiles.p90 < 1_100.0 && percentiles.p999 > 990_000.0, "{percentiles:?}");
    }

    #[test]
    fn merging_is_recording_into_one() {
        let values = |start: u64| (0..1_000u64).map(move |n| start + n * n);
        let parts = [record(values(1)), record(values(700)), Recorded::default()];
        assert_eq!(Recorded::merged(&parts), record(values(1).chain(values(700))));
    }

    #[test]
    fn what_is_longer_than_a_minute_is_a_minute_and_nothing_is_nothing() {
        let last = record([u64::MAX, 0]).quantile(1.0).unwrap();
        assert!((60_000_000_000..60_100_000_000).contains(&last), "{last}");
        assert!(Recorded::default().percentiles().is_none());
    }

    #[test]
    fn shares_rise_to_one() {
        let shares = record([10, 20, 20, 30]).shares();
        assert_eq!(shares, vec![(10, 0.25), (20, 0.75), (30, 1.0)]);
    }
}
