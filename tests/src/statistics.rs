//! How far chance may go.

use std::ops::RangeInclusive;

/// Standard deviations that chance is allowed: beyond them lies one run in 500 million.
const DEVIATIONS: f64 = 6.0;

/// What `total` draws with probability `share` may give.
pub fn binomial_bounds(total: u64, share: f64) -> RangeInclusive<u64> {
    let mean = total as f64 * share;
    let reach = DEVIATIONS * (mean * (1.0 - share)).sqrt();
    let low = (mean - reach).floor().max(0.0);
    let high = (mean + reach).ceil().min(total as f64);
    low as u64..=high as u64
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bounds_are_six_deviations_wide() {
        assert_eq!(binomial_bounds(10_000, 0.5), 4_700..=5_300);
        assert_eq!(binomial_bounds(4_000, 0.9), 3_486..=3_714);
    }

    #[test]
    fn certain_outcomes_have_no_room() {
        assert_eq!(binomial_bounds(10, 0.0), 0..=0);
        assert_eq!(binomial_bounds(10, 1.0), 10..=10);
    }
}
