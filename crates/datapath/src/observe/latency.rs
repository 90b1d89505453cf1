//! Latency in exponential buckets: those of a Prometheus native histogram of schema 2.

use std::time::Duration;

use super::abi;

/// How many requests took how long. Bucket `i` holds what is above the bound of bucket `i - 1` and up to its own.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Latencies {
    /// Requests by bucket.
    pub counts: [u64; Latencies::BUCKETS],
}

impl Default for Latencies {
    fn default() -> Self {
        Self { counts: [0; Self::BUCKETS] }
    }
}

impl Latencies {
    /// Number of buckets.
    pub const BUCKETS: usize = abi::latency::LATENCY_BUCKETS.0 as usize;
    /// Schema of the native histogram: 2^2 buckets an octave.
    pub const SCHEMA: i32 = 2;
    /// Index of bucket 0 in a native histogram, whose bucket `i` ends at 2^(i / 4) seconds.
    pub const FIRST_INDEX: i32 = abi::latency::LATENCY_FIRST_OCTAVE.0 as i32 * 4 + 1;

    /// Upper bound of bucket `i` in seconds. The last also holds all that is above.
    pub fn bound(bucket: usize) -> f64 {
        (f64::from(Self::FIRST_INDEX + bucket as i32) / 4.0).exp2()
    }

    /// The latency that a share of all requests stayed below, from 0 to 1; `None` when there were none. It is worked
    /// out within its bucket in proportion, and so off by 9.5 % at most.
    pub fn quantile(&self, share: f64) -> Option<Duration> {
        let total: u64 = self.counts.iter().sum();
        let wanted = share.clamp(0.0, 1.0) * total as f64;
        let mut below = 0.0;
        for (bucket, &count) in self.counts.iter().enumerate().filter(|(_, count)| **count != 0) {
            let count = count as f64;
            if below + count >= wanted {
                let (from, to) = (Self::bound(bucket) * 2f64.powf(-0.25), Self::bound(bucket));
                return Some(Duration::from_secs_f64(from * (to / from).powf((wanted - below) / count)));
            }
            below += count;
        }
        None
    }

    /// Counts one.
    pub fn record(&mut self, latency: Duration) {
        self.counts[Self::bucket(latency.as_nanos().try_into().unwrap_or(u64::MAX))] += 1;
    }

    /// The bucket of a latency in nanoseconds, worked out as the kernel does (`bpf/alize/latency.h`).
    pub fn bucket(ns: u64) -> usize {
        const UNIT: i32 = 30;
        if ns >= 1 << 43 {
            return Self::BUCKETS - 1;
        }
        let time = (ns * 1_125_900) >> 20;
        let first = (UNIT + abi::latency::LATENCY_FIRST_OCTAVE.0 as i32) as u32;
        if time >> first == 0 {
            return 0;
        }
        let octave = time.ilog2();
        let mantissa = if octave >= 24 { time >> (octave - 24) } else { time << (24 - octave) };
        let quarter = [19_951_585, 23_726_566, 28_215_802].iter().filter(|bound| mantissa >= **bound).count();
        ((octave - first) as usize * 4 + quarter).min(Self::BUCKETS - 1)
    }

    /// Adds what another has counted.
    pub fn add(&mut self, other: &Latencies) {
        for (to, from) in self.counts.iter_mut().zip(other.counts) {
            *to = to.wrapping_add(from);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bounds_are_those_of_a_native_histogram() {
        assert_eq!(Latencies::bound(3), 2f64.powi(-17));
        assert_eq!(Latencies::bound(Latencies::BUCKETS - 1), 64.0);
    }

    #[test]
    fn quantiles_lie_in_their_bucket() {
        let mut latencies = Latencies::default();
        assert_eq!(latencies.quantile(0.5), None);
        latencies.counts[40] = 99;
        latencies.counts[60] = 1;
        let median = latencies.quantile(0.5).unwrap().as_secs_f64();
        assert!(Latencies::bound(39) < median && median < Latencies::bound(40));
        let last = latencies.quantile(1.0).unwrap().as_secs_f64();
        assert!((last - Latencies::bound(60)).abs() < 1e-6);
    }
}
