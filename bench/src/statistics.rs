//! Medians, ratios of paired rounds and how far noise alone would move them.

use serde::Serialize;

/// A small fast generator (Marsaglia's xorshift64*): the same seed gives the same numbers on every machine.
#[derive(Clone, Debug)]
pub(crate) struct Random(u64);

impl Random {
    pub(crate) fn new(seed: u64) -> Self {
        Self(seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1)
    }

    pub(crate) fn next(&mut self) -> u64 {
        self.0 ^= self.0 >> 12;
        self.0 ^= self.0 << 25;
        self.0 ^= self.0 >> 27;
        self.0.wrapping_mul(0x2545_f491_4f6c_dd1d)
    }

    /// A number below `bound`, which is not 0.
    pub(crate) fn below(&mut self, bound: u32) -> u32 {
        ((u128::from(self.next()) * u128::from(bound)) >> 64) as u32
    }

    pub(crate) fn shuffle<T>(&mut self, items: &mut [T]) {
        for end in (1..items.len()).rev() {
            items.swap(end, self.below(end as u32 + 1) as usize);
        }
    }
}

/// The middle value; `None` of nothing.
pub(crate) fn median(values: &[f64]) -> Option<f64> {
    let mut sorted = values.to_vec();
    sorted.sort_by(f64::total_cmp);
    middle(&sorted)
}

fn middle(sorted: &[f64]) -> Option<f64> {
    let half = sorted.len() / 2;
    match sorted.len() {
        0 => None,
        odd if odd % 2 == 1 => sorted.get(half).copied(),
        _ => Some((sorted.get(half - 1)? + sorted.get(half)?) / 2.0),
    }
}

/// A median and the interval in which it lies with 95 % confidence.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
pub(crate) struct Estimate {
    pub(crate) value: f64,
    pub(crate) low: f64,
    pub(crate) high: f64,
}

const RESAMPLES: usize = 2_000;
/// Below so many rounds a bootstrap pretends to know more than it does; the range of what was seen is given instead.
const FEWEST_TO_RESAMPLE: usize = 6;

/// The median of `values`, with an interval by bootstrap: medians of as many values, drawn again by chance.
pub(crate) fn estimate(values: &[f64]) -> Option<Estimate> {
    let value = median(values)?;
    if values.len() < FEWEST_TO_RESAMPLE {
        let low = values.iter().copied().fold(f64::INFINITY, f64::min);
        let high = values.iter().copied().fold(f64::NEG_INFINITY, f64::max);
        return Some(Estimate { value, low, high });
    }
    let mut random = Random::new(0xa112e);
    let mut medians: Vec<f64> = (0..RESAMPLES).filter_map(|_| median(&redraw(values, &mut random))).collect();
    medians.sort_by(f64::total_cmp);
    let at = |share: f64| medians[((medians.len() - 1) as f64 * share).round() as usize];
    Some(Estimate { value, low: at(0.025), high: at(0.975) })
}

fn redraw(values: &[f64], random: &mut Random) -> Vec<f64> {
    (0..values.len()).map(|_| values[random.below(values.len() as u32) as usize]).collect()
}

/// `subject / base`, round by round: what slows the machine for a while slows both and cancels out.
pub(crate) fn paired_ratios(subject: &[f64], base: &[f64]) -> Vec<f64> {
    let ratios = subject.iter().zip(base).map(|(subject, base)| subject / base);
    ratios.filter(|ratio| ratio.is_finite()).collect()
}

/// `subject - base`, round by round.
pub(crate) fn paired_differences(subject: &[f64], base: &[f64]) -> Vec<f64> {
    let differences = subject.iter().zip(base).map(|(subject, base)| subject - base);
    differences.filter(|difference| difference.is_finite()).collect()
}

/// What a ratio of costs against Alizé says about Alizé.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub(crate) enum Verdict {
    /// The other costs more, beyond noise.
    Ahead,
    /// The other costs less, beyond noise.
    Behind,
    /// The interval holds 1: no difference was shown.
    WithinNoise,
}

impl Verdict {
    /// Of `other's cost / Alizé's cost`.
    pub(crate) fn of(ratio: Estimate) -> Self {
        if ratio.low > 1.0 {
            Verdict::Ahead
        } else if ratio.high < 1.0 {
            Verdict::Behind
        } else {
            Verdict::WithinNoise
        }
    }
}

impl std::fmt::Display for Verdict {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.pad(match self {
            Verdict::Ahead => "Alizé ahead",
            Verdict::Behind => "ALIZÉ BEHIND",
            Verdict::WithinNoise => "within noise",
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn median_of_odd_even_and_nothing() {
        assert_eq!(median(&[3.0, 1.0, 2.0]), Some(2.0));
        assert_eq!(median(&[4.0, 1.0, 2.0, 3.0]), Some(2.5));
        assert_eq!(median(&[]), None);
    }

    #[test]
    fn an_interval_holds_its_median_and_shrinks_with_rounds() {
        let mut random = Random::new(7);
        let mut noisy = |n: usize| -> Vec<f64> { (0..n).map(|_| f64::from(random.below(1000))).collect() };
        let few = estimate(&noisy(9)).unwrap();
        let many = estimate(&noisy(400)).unwrap();
        assert!(few.low <= few.value && few.value <= few.high);
        assert!(many.low <= many.value && many.value <= many.high);
        assert!(many.high - many.low < few.high - few.low);
    }

    #[test]
    fn few_rounds_give_the_whole_range() {
        assert_eq!(estimate(&[2.0, 1.0, 4.0]), Some(Estimate { value: 2.0, low: 1.0, high: 4.0 }));
    }

    #[test]
    fn the_interval_of_equal_subjects_holds_one_about_nineteen_times_in_twenty() {
        let mut random = Random::new(11);
        let mut sample = |mean: f64| -> Vec<f64> {
            (0..9).map(|_| mean + f64::from(random.below(1000)) / 1000.0).collect()
        };
        let outside = (0..400)
            .filter(|_| {
                let ratios = paired_ratios(&sample(10.0), &sample(10.0));
                Verdict::of(estimate(&ratios).unwrap()) != Verdict::WithinNoise
            })
            .count();
        assert!(outside < 40, "{outside} of 400 comparisons of equals were called different");
    }

    #[test]
    fn a_real_difference_is_seen_in_the_right_direction() {
        let alize = [10.0, 10.2, 9.9, 10.1, 10.0, 10.3, 9.8, 10.0, 10.1];
        let other: Vec<f64> = alize.iter().map(|cost| cost * 1.1).collect();
        let verdict = |a: &[f64], b: &[f64]| Verdict::of(estimate(&paired_ratios(a, b)).unwrap());
        assert_eq!(verdict(&other, &alize), Verdict::Ahead);
        assert_eq!(verdict(&alize, &other), Verdict::Behind);
        assert_eq!(verdict(&alize, &alize), Verdict::WithinNoise);
    }

    #[test]
    fn pairing_cancels_a_machine_that_slows_down() {
        let base: Vec<f64> = (1..=9).map(f64::from).collect();
        let subject: Vec<f64> = base.iter().map(|cost| cost * 1.05).collect();
        let ratio = estimate(&paired_ratios(&subject, &base)).unwrap();
        assert!((ratio.low - 1.05).abs() < 1e-9 && (ratio.high - 1.05).abs() < 1e-9);
    }

    #[test]
    fn numbers_stay_below_the_bound_and_reach_all_of_it() {
        let mut random = Random::new(3);
        let mut seen = [false; 7];
        (0..1_000).for_each(|_| seen[random.below(7) as usize] = true);
        assert_eq!(seen, [true; 7]);
    }
}
